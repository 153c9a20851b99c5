"""The repositories of schema packs as attributes of handles and transactions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from tenantry.schemas.schema import Schema
from tenantry.sql.queries import Queries
from tenantry.sql.repository import Repository
from tenantry.sql.statements import Session

R = TypeVar("R", bound=Repository)


class PackRepositories(Queries):
    """Provides the repositories of the packs as attributes. Each repository is created at its first use."""

    def __init__(self, session: Session, schemas: Sequence[Schema]) -> None:
        self._session = session
        self._schemas = schemas

    def repository(self, repository_type: type[R]) -> R:
        """Return a repository of this type. For a repository attribute, type checkers do not know the type."""
        return repository_type(self._session)

    if not TYPE_CHECKING:  # hidden, because type checkers must report a misspelt attribute

        def __getattr__(self, name: str) -> Repository:
            # Python calls this method only for a missing attribute, such as a repository before its first use.
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            for schema in self._schemas:
                repository_type = schema.repositories.get(name)
                if repository_type is not None:
                    repository = self.__dict__[name] = repository_type(self._session)
                    return repository
            raise AttributeError(self._unknown(name), name=name, obj=self)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for schema in self._schemas for name in schema.repositories)]

    def _unknown(self, name: str) -> str:
        packs = [
            f"{schema.name} ({', '.join(schema.repositories) or 'no repositories'})"
            for schema in self._schemas
        ]
        return (
            f"there is no {name!r}: no schema pack in use has a repository with this name (packs: "
            f"{', '.join(packs) or 'none'}); pass the repository's pack in schemas=, or use repository(…) with its type"
        )
