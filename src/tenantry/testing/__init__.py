"""What users need to test against tenantry."""

from tenantry.testing.conformance import (
    OBJECT_STORAGE_CHECKS,
    REPOSITORY_CHECKS,
    STORE_CHECKS,
    CompanyRepositories,
    MakeStore,
    ObjectStorageCheck,
    OpenObjectStorage,
    OpenRepositories,
    RepositoryCheck,
    StoreCheck,
    check_name,
    check_object_storage,
    check_repositories,
    check_store,
)

__all__ = [
    "OBJECT_STORAGE_CHECKS",
    "REPOSITORY_CHECKS",
    "STORE_CHECKS",
    "CompanyRepositories",
    "MakeStore",
    "ObjectStorageCheck",
    "OpenObjectStorage",
    "OpenRepositories",
    "RepositoryCheck",
    "StoreCheck",
    "check_name",
    "check_object_storage",
    "check_repositories",
    "check_store",
]
