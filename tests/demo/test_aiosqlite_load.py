"""The comparison with aiosqlite: the load leaves what it acknowledged, and a unit is written whole or not at all."""

from pathlib import Path

import aiosqlite
import pytest

from tenantry.config import Durability
from tenantry.demo import DemoSettings, run_on_aiosqlite
from tenantry.demo.aiosqlite_load import AiosqliteSession
from tenantry.errors import QueryError
from tenantry.sql.statements import Fetch, Statement

INSERT = "INSERT INTO numbers (number) VALUES (?)"


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_the_load_is_whole(tmp_path: Path, durability: Durability):
    """Every acknowledged record is in its own company's file after all connections were closed."""
    settings = DemoSettings(Path("unused"), seconds=0.2, callers=2, quiet_companies=3)
    result = await run_on_aiosqlite(settings, durability, tmp_path, lambda _: None)
    assert result.check.checked > 0
    assert result.is_whole


async def test_a_failed_unit_leaves_nothing(tmp_path: Path):
    """If the second statement of a unit fails, the first one is rolled back, and the next unit is not affected."""
    async with aiosqlite.connect(tmp_path / "numbers.db") as connection:
        await connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        session = AiosqliteSession(connection)
        with pytest.raises(aiosqlite.IntegrityError):
            await session.write(*(Statement("numbers.save", INSERT, (1,)) for _ in range(2)))
        await session.write(Statement("numbers.save", INSERT, (2,)))
        assert await session.read(
            Statement("numbers.all", "SELECT number FROM numbers", fetch=Fetch.ALL)
        ) == [(2,)]


async def test_another_kind_of_result_is_refused(tmp_path: Path):
    """A statement whose result the comparison does not know is refused instead of answered wrongly."""
    async with aiosqlite.connect(tmp_path / "numbers.db") as connection:
        with pytest.raises(QueryError, match="knows only"):
            await AiosqliteSession(connection).write(
                Statement("numbers.count", "DELETE FROM numbers", (), Fetch.ROWCOUNT)
            )
