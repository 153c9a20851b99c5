"""What is known to be so: the tenants, keys, snapshots and bundles that a workload has acknowledged."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass
class Company:
    """A tenant.

    Attributes:
        state: Its state.
        display_name: Its name.
        is_protected: Whether it is protected from deletion.
        messages: The contents of its messages, sorted.
        replaced: The messages of the database that the last restore replaced; None if there was no restore.
        snapshots: The messages in each of its snapshots, by the snapshot's id.
    """

    state: str = "active"
    display_name: str = ""
    is_protected: bool = False
    messages: list[str] = field(default_factory=list)
    replaced: list[str] | None = None
    snapshots: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class World:
    """Everything that was acknowledged up to a moment.

    Attributes:
        tenants: The tenants that are not purged, by id.
        free: The ids of purged tenants: each can be created again.
        keys: Whether each API key is good, by its token.
        bundles: The messages in each bundle, by its path seen from the root.
    """

    tenants: dict[str, Company] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)
    keys: dict[str, bool] = field(default_factory=dict)
    bundles: dict[str, list[str]] = field(default_factory=dict)

    def create(self, tenant_id: str, *messages: str, display_name: str = "") -> None:
        """Have one more tenant."""
        self.tenants[tenant_id] = Company(display_name=display_name or tenant_id, messages=sorted(messages))
        self.free = [free for free in self.free if free != tenant_id]

    def set(self, tenant_id: str, **changes: Any) -> None:
        """Change attributes of a tenant."""
        for name, value in changes.items():
            setattr(self.tenants[tenant_id], name, value)

    def save(self, tenant_id: str, text: str) -> None:
        """Have one more message; a repeated one is the same one."""
        company = self.tenants[tenant_id]
        company.messages = sorted({*company.messages, text})

    def rename(self, tenant_id: str, new_id: str) -> None:
        """Move a tenant to another id."""
        if tenant_id in self.tenants:
            self.tenants[new_id] = self.tenants.pop(tenant_id)

    def purge(self, tenant_id: str) -> None:
        """Forget a tenant."""
        self.tenants.pop(tenant_id, None)
        self.free = sorted({*self.free, tenant_id})

    def restore(self, tenant_id: str, messages: list[str]) -> None:
        """Replace the messages of a tenant."""
        company = self.tenants[tenant_id]
        company.replaced, company.messages = company.messages, messages

    def copy(self) -> Self:
        """Return a world that changes on its own."""
        return deepcopy(self)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `as_json` made JSON of."""
        named = {name.name: values[name.name] for name in fields(cls)}
        return cls(**{**named, "tenants": {i: Company(**v) for i, v in values["tenants"].items()}})
