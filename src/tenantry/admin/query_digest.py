"""The beginning of a list's cursors: a digest of the query, which must be the same for every page."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

_DIGEST_CHARACTERS: Final = 16


def cursor_prefix(route: str, path: Mapping[str, object], filters: Iterable[tuple[str, str]]) -> str:
    """Return what every cursor of a list begins with.

    Args:
        route: The name of the function that answers the request.
        path: The parameters in the request's path.
        filters: The parameters in the request's query, without the cursor and the limit.
    """
    query = repr((route, sorted(path.items()), sorted(filters)))
    return f"{hashlib.sha256(query.encode()).hexdigest()[:_DIGEST_CHARACTERS]}."
