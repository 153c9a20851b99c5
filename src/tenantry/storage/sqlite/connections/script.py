"""Runs scripts of SQL on a connection that is being opened."""

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def run_script(script: str, engine: "ModuleType | None", connection: sqlite3.Connection) -> None:
    """Run a script whose statements may run twice; no transaction may be open.

    Python gives the interpreter's lock up and waits for it three times in each statement, and the engine once for the script. Python also
    runs a script that SQLite refuses in the engine, and raises the error.

    Args:
        script: The statements.
        engine: The engine's module; None to run the script in Python.
        connection: The connection, which no other thread uses.
    """
    if engine is None or not engine.execute(connection, script):
        connection.executescript(script)
