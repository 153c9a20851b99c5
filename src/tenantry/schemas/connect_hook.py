"""The type of the functions that a schema pack, or a program, adds to SQLite's connections."""

import sqlite3
from collections.abc import Callable
from typing import TypeAlias

ConnectHook: TypeAlias = Callable[[sqlite3.Connection], object]
"""Adds functions, aggregates, collations or extensions to a connection that was just opened, before it is used.

It is called on any thread, for several connections at once. It may not read or change the database, run a pragma, or change a
setting of the connection: then the connection is closed, and opening fails with `tenantry.errors.ConnectHookError`.
"""
