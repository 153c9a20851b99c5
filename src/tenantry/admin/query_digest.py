"""The prefix of a list's cursors: a hash of the query, which must be the same for every page."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

_DIGEST_CHARACTERS: Final = 16


def cursor_prefix(route: str, path: Mapping[str, object], filters: Iterable[tuple[str, str]]) -> str:
    """Return the prefix of all cursors of a list.

    Args:
        route: The name of the route's function.
        path: The path parameters.
        filters: The query parameters without the cursor and the limit.
    """
    query = repr((route, sorted(path.items()), sorted(filters)))
    return f"{hashlib.sha256(query.encode()).hexdigest()[:_DIGEST_CHARACTERS]}."
