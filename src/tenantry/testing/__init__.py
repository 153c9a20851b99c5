"""Helpers for the tests of applications and of back ends: a registry for tests, and the conformance suites."""

from tenantry.company import CompanyRepositories
from tenantry.testing.conformance.backends import (
    BACKEND_CHECKS,
    BackendCheck,
    MakeBackend,
    check_backend,
)
from tenantry.testing.conformance.expectations import check_name
from tenantry.testing.conformance.objects import (
    OBJECT_STORAGE_CHECKS,
    ObjectStorageCheck,
    OpenObjectStorage,
    check_object_storage,
)
from tenantry.testing.conformance.repositories import (
    REPOSITORY_CHECKS,
    OpenRepositories,
    RepositoryCheck,
    check_repositories,
)
from tenantry.testing.conformance.store_check import MakeStore, StoreCheck
from tenantry.testing.conformance.stores import STORE_CHECKS, check_store
from tenantry.testing.open_registry import open_test_registry
from tenantry.testing.packs import check_pack

__all__ = [
    "BACKEND_CHECKS",
    "OBJECT_STORAGE_CHECKS",
    "REPOSITORY_CHECKS",
    "STORE_CHECKS",
    "BackendCheck",
    "CompanyRepositories",
    "MakeBackend",
    "MakeStore",
    "ObjectStorageCheck",
    "OpenObjectStorage",
    "OpenRepositories",
    "RepositoryCheck",
    "StoreCheck",
    "check_backend",
    "check_name",
    "check_object_storage",
    "check_pack",
    "check_repositories",
    "check_store",
    "open_test_registry",
]
