"""Which revision of a tenant the operations of a context expect: the context of `expecting`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_expected_revision: ContextVar[int | None] = ContextVar("tenantry_expected_revision", default=None)


@contextmanager
def expecting(revision: int | None) -> Iterator[None]:
    """Let operations in the block happen only to a tenant that still has this revision; None changes nothing.

    The revision is compared in the transaction of the change: of two operations that were decided on the same revision, one
    happens. For `clone` it is the source's revision; other operations that make a tenant expect none.

    For example: ``with expecting(tenant.revision): await registry.suspend(tenant.id)`` raises `RevisionError` if the
    tenant was changed since it was read.
    """
    token = _expected_revision.set(_expected_revision.get() if revision is None else revision)
    try:
        yield
    finally:
        _expected_revision.reset(token)


def expected_revision() -> int | None:
    """Return the revision that operations of this context expect, see `expecting`; None if any will do."""
    return _expected_revision.get()
