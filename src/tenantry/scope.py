"""What an API key permits."""

from enum import StrEnum


class Scope(StrEnum):
    """What a key permits; each scope includes the scopes before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Return whether this scope permits what `other` permits."""
        order = list(Scope)
        return order.index(self) >= order.index(other)
