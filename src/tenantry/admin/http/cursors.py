"""The cursors of the API's lists: a hash of the query, which must be the same for every page, and the registry's cursor."""

from typing import Annotated, Final

from fastapi import Depends, Query, Request

from tenantry.admin.http.problems import ProblemError
from tenantry.admin.query_digest import cursor_prefix
from tenantry.pages import Page

CURSOR_CHARACTERS_MAX: Final = 4096
_OF_A_PAGE: Final = ("cursor", "limit")


class PageCursor:
    """The cursor of the page that a request asks for.

    Args:
        request: The request for a page.
        cursor: The `next_cursor` of the previous page; None for the first page.

    Attributes:
        after: The registry's cursor; None for the first page.

    Raises:
        ProblemError: The cursor is not from a page of this query (400).
    """

    def __init__(
        self, request: Request, cursor: Annotated[str | None, Query(max_length=CURSOR_CHARACTERS_MAX)] = None
    ) -> None:
        filters = (one for one in request.query_params.multi_items() if one[0] not in _OF_A_PAGE)
        self._prefix = cursor_prefix(request.scope["endpoint"].__name__, request.path_params, filters)
        if cursor is not None and not cursor.startswith(self._prefix):
            raise ProblemError(
                400,
                "cursor",
                "Invalid cursor",
                "this cursor is not from a page of this query: pass next_cursor unchanged, with the same filters",
            )
        self.after = None if cursor is None else cursor.removeprefix(self._prefix)

    def next(self, page: Page[object]) -> str | None:
        """Return the cursor of the next page; None if this is the last page."""
        return None if page.next_cursor is None else self._prefix + page.next_cursor


CurrentCursor = Annotated[PageCursor, Depends()]
