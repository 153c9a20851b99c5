"""The tables of a schema pack as a copy sees them, the same for every back end: columns with the kinds of their values, without I/O."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Tables: TypeAlias = Mapping[str, Mapping[str, str]]
"""The kind of each column, by the names of the tables and of their columns."""

WHOLE, REAL, TEXT, BYTES, ANY = "whole number", "real number", "text", "bytes", "any value"

_POSTGRES: Final = {
    **dict.fromkeys(["bool", "int2", "int4", "int8", "oid"], WHOLE),
    **dict.fromkeys(["float4", "float8"], REAL),
    **dict.fromkeys(["bytea", "uuid"], BYTES),
    "numeric": ANY,
}


def kind_of_sqlite(declared: str) -> str:
    """Return the kind of a column by its declared type (https://www.sqlite.org/datatype3.html, section 3.1)."""
    name = declared.upper()
    if "INT" in name:
        return WHOLE
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return TEXT
    if "BLOB" in name:
        return BYTES
    return REAL if any(part in name for part in ("REAL", "FLOA", "DOUB")) else ANY


def kind_of_postgres(type_name: str) -> str:
    """Return the kind of a column by the server's name of the type. A row has a text for every other type."""
    return _POSTGRES.get(type_name, TEXT)


def differences(sqlite: Tables, postgres: Tables) -> Sequence[str]:
    """Return a sentence for each table and column that only one back end has, or whose kinds differ."""
    found = []
    for table in sorted(sqlite.keys() | postgres.keys()):
        if table not in sqlite or table not in postgres:
            found.append(f"only {'SQLite' if table in sqlite else 'PostgreSQL'} has the table {table}")
            continue
        one, other = sqlite[table], postgres[table]
        for column in sorted(one.keys() | other.keys()):
            if column not in one or column not in other:
                only = "SQLite" if column in one else "PostgreSQL"
                found.append(f"only {only} has the column {table}.{column}")
            elif ANY not in (one[column], other[column]) and one[column] != other[column]:
                found.append(
                    f"the column {table}.{column} contains a {one[column]} in SQLite and a {other[column]} in PostgreSQL"
                )
    return found
