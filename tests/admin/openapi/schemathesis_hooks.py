"""What schemathesis cannot know of the API: see ``test_schemathesis.py``."""

import itertools
from typing import Any

import schemathesis
from schemathesis import GenerationMode

_count = itertools.count()


@schemathesis.hook
def before_call(_: Any, case: schemathesis.Case, __: Any) -> None:
    """Change the headers of right requests that a document cannot tell how to choose.

    An idempotency key that was used for another request is 422, and should be: each request takes a new one. An ETag that was
    made up is 412, and should be: in turns it is any, so that what comes after is tried too.
    """
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or not case.headers:
        return
    number = next(_count)
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"{number} {case.headers['Idempotency-Key']}"[:255]
    if "If-Match" in case.headers and number % 4:
        case.headers["If-Match"] = "*"


@schemathesis.serializer("application/gzip", "application/vnd.sqlite3")
def as_bytes(_: Any, value: Any) -> dict[str, bytes]:
    """Send what was generated for a bundle or a database as it is."""
    return {"data": value if isinstance(value, bytes) else str(value).encode()}
