"""What a forked child does with the connections of its parent: it can use none of them, and must not disturb them.

A forked child has copies of the parent's objects and descriptors, but not the parent's threads and event loop. Each module that keeps
connections registers a hook (`left_in_children`, or its own with `os.register_at_fork`), and uses these functions in the child.
"""

import os
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet


def left_in_children() -> WeakSet[Any]:
    """Return a set for objects of one class, whose methods `leave_in_child` are called in each forked child."""
    members: WeakSet[Any] = WeakSet()

    def leave() -> None:
        for member in tuple(members):
            member.leave_in_child()

    os.register_at_fork(after_in_child=leave)
    return members


def disconnect(descriptors: Iterable[int]) -> None:
    """Disconnect this process's copies of sockets, without a word to the other ends: they belong to the parent.

    Otherwise the other ends would not notice the parent's death as long as the child lives. The descriptors stay open, but on nothing,
    because the objects that own the descriptors may close them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in descriptors:
            os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def keep_for_ever(unusable: object) -> None:
    """Keep an object of the parent until the child's memory is freed, so that its driver closes it at no time.

    A reference in a variable would not do: the interpreter drops all of its variables at its end.
    """
    import ctypes  # noqa: PLC0415  # only forked children need it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(unusable))
