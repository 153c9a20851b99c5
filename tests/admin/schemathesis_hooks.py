"""What schemathesis cannot know of the API: see ``test_schemathesis.py``."""

import itertools
from typing import Any

import schemathesis
from schemathesis import GenerationMode

_count = itertools.count()


@schemathesis.hook
def before_call(_: Any, case: schemathesis.Case, __: Any) -> None:
    """Take a new idempotency key for each request: one that was used for another request is 422, and should be."""
    is_right = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if is_right and "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"{next(_count)} {case.headers['Idempotency-Key']}"[:255]


@schemathesis.serializer("application/gzip")
def as_bytes(_: Any, value: Any) -> dict[str, bytes]:
    """Send what was generated for a bundle as it is."""
    return {"data": value if isinstance(value, bytes) else str(value).encode()}
