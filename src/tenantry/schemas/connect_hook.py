"""The type of functions that prepare new SQLite connections for a schema pack or a program."""

import sqlite3
from collections.abc import Callable
from typing import TypeAlias

ConnectHook: TypeAlias = Callable[[sqlite3.Connection], object]
"""Adds functions, aggregates, collations or extensions to a new connection.

Several threads may call the hook at the same time, for different connections. The hook may not read or change the database, run a
pragma, or change a setting of the connection. Otherwise opening the connection fails with `tenantry.errors.ConnectHookError`.
"""
