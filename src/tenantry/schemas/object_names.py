"""Checks that schema packs create no two objects with the same name in a tenant's database."""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from tenantry.errors import MigrationError
from tenantry.schemas.schema import Schema


class NamedObject(NamedTuple):
    """An object that a pack creates.

    Attributes:
        schema: The pack.
        key: The name within its namespace: two objects with the same key cannot exist in one database.
        shown: The kind and the name, for messages.
    """

    schema: Schema
    key: Hashable
    shown: str


def check_unique(objects: Iterable[NamedObject], where: str) -> None:
    """Check that no two packs create an object with the same key.

    Args:
        objects: The objects of all packs.
        where: The back end, for the message.

    Raises:
        MigrationError: Two packs create objects with the same name. The message names both packs and the object.
    """
    owners: dict[Hashable, Schema] = {}
    for one in objects:
        owner = owners.setdefault(one.key, one.schema)
        if owner is not one.schema:
            raise MigrationError(
                f"the schemas {owner.name!r} and {one.schema.name!r} both create the {one.shown} on {where}, but names must be unique in "
                "a tenant's database: rename it in one schema, or remove one of the schemas",
                schema=one.schema.name,
            )
