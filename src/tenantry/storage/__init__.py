"""Storage: a tenant's database, one company's persistence without a registry, and the object storage of snapshots."""

from tenantry.config import PersistenceConfig, SQLiteConfig
from tenantry.postgres_config import PostgresConfig
from tenantry.storage.objects.cloud import ObstoreStorage, open_storage
from tenantry.storage.objects.protocol import LocalStorage, ObjectStorage, StoredObject
from tenantry.storage.protocol import MigrationReport, Store, StoreTransaction
from tenantry.storage.standalone import (
    PersistenceBackend,
    PostgresPersistenceBackend,
    SQLitePersistenceBackend,
    StandaloneBackend,
    create_backend,
)

__all__ = [
    "LocalStorage",
    "MigrationReport",
    "ObjectStorage",
    "ObstoreStorage",
    "PersistenceBackend",
    "PersistenceConfig",
    "PostgresConfig",
    "PostgresPersistenceBackend",
    "SQLiteConfig",
    "SQLitePersistenceBackend",
    "StandaloneBackend",
    "Store",
    "StoreTransaction",
    "StoredObject",
    "create_backend",
    "open_storage",
]
