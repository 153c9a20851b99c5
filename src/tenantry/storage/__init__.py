"""Storage: one tenant's database, and one company's persistence without a registry around it."""

from tenantry.config import PersistenceConfig, SQLiteConfig
from tenantry.storage.backend import PersistenceBackend, SQLitePersistenceBackend, create_backend
from tenantry.storage.protocol import MigrationReport, Store, StoreTransaction

__all__ = [
    "MigrationReport",
    "PersistenceBackend",
    "PersistenceConfig",
    "SQLiteConfig",
    "SQLitePersistenceBackend",
    "Store",
    "StoreTransaction",
    "create_backend",
]
