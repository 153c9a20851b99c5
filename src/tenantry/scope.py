"""The scopes of an API key."""

from enum import StrEnum


class Scope(StrEnum):
    """The scope of an API key. Each scope includes the scopes before it in this list."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Return whether this scope permits all calls that `other` permits."""
        order = list(Scope)
        return order.index(self) >= order.index(other)
