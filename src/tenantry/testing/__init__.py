"""What users need to test against tenantry."""

from tenantry.testing.conformance import (
    REPOSITORY_CHECKS,
    STORE_CHECKS,
    CompanyRepositories,
    MakeStore,
    OpenRepositories,
    RepositoryCheck,
    StoreCheck,
    check_name,
    check_repositories,
    check_store,
)

__all__ = [
    "REPOSITORY_CHECKS",
    "STORE_CHECKS",
    "CompanyRepositories",
    "MakeStore",
    "OpenRepositories",
    "RepositoryCheck",
    "StoreCheck",
    "check_name",
    "check_repositories",
    "check_store",
]
