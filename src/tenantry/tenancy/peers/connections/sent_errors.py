"""Sends an error of one process to the caller in another process."""

import enum
import math
from functools import cache
from inspect import signature
from typing import Any, Final

from tenantry import errors
from tenantry.errors import TenantryError
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.tenancy.peers.connections.messages import Failed

_PLAIN: Final = (str, int, float, bool, type(None))
_FLAGS: Final = frozenset(["is_retryable", "is_transient", "was_started", "is_step_failure"])
_MISSING: Final = {"was_started": True, "is_transient": False, "is_step_failure": False}
"""The values of attributes that are missing: without a word about it, a call may have had an effect."""

_ENUMS: Final[dict[str, type[enum.Enum]]] = {"state": TenantState, "event": TenantEvent}


def pack_error(error: TenantryError) -> Failed:
    """Return the message for an error. The error's cause is left out."""
    classes = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, TenantryError)]
    attributes = {name: _sent(value) for name, value in error.__dict__.items() if _is_plain(value)}
    return Failed(classes, str(error), attributes)


def unpack_error(failed: Failed) -> TenantryError:
    """Return the error of a message. An error class of a newer release becomes its nearest base class that this release has."""
    known = (getattr(errors, name, None) for name in failed.classes)
    kinds = (one for one in known if isinstance(one, type) and issubclass(one, TenantryError))
    kind = next(kinds, TenantryError)
    # The constructors take different arguments, and an exception stores only its message.
    error = kind.__new__(kind)
    error.args = (failed.message,)
    error.__dict__.update(_missing_attributes(kind.__name__))
    error.__dict__.update(
        {name: _value(name, value) for name, value in failed.attributes.items() if _is_fit(name, value)}
    )
    return error


@cache
def _missing_attributes(class_name: str) -> dict[str, object]:
    """Return the attributes that the constructors of an error's class set, with values for an error that came without them."""
    kind: type[TenantryError] = getattr(errors, class_name)
    constructors = [base.__init__ for base in kind.__mro__ if issubclass(base, TenantryError)]
    parameters = [one for init in constructors for one in signature(init).parameters.values()]
    names = dict.fromkeys(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)
    return {name: _MISSING.get(name) for name in names if name != "is_retryable"}


def _is_fit(name: str, value: object) -> bool:
    """Return whether an attribute may have this value, as far as callers compute with the attribute or metrics show it."""
    if name == "outcome":  # each class has its own, so that metrics have few
        return False
    if name == "retry_after_seconds":
        return value is None or (isinstance(value, (int, float)) and 0 <= value < math.inf)
    return name not in _FLAGS or isinstance(value, bool)


def _is_plain(value: object) -> bool:
    return isinstance(value, (*_PLAIN, enum.Enum)) or (
        isinstance(value, (tuple, list)) and all(map(_is_plain, value))
    )


def _sent(value: object) -> object:
    if isinstance(value, (tuple, list)):
        return [_sent(one) for one in value]
    return value.value if isinstance(value, enum.Enum) else value


def _value(name: str, value: Any) -> Any:
    if isinstance(value, list):  # MessagePack has only one kind of sequence, and the errors have tuples
        return tuple(value)
    kind = _ENUMS.get(name)
    if kind is None or value is None:
        return value
    try:
        return kind(value)
    except ValueError:
        return value  # a state or an event of a newer release
