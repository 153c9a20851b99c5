"""A schema pack with two tables: lists, and notes that belong to a list."""

from pydantic import BaseModel

from tenantry import Repository, Schema


class Note(BaseModel):
    """A note with the name of its list."""

    id: int
    title: str
    list: str


class NoteRepository(Repository):
    """Keeps lists and notes: ``tenant.notes``."""

    async def add(self, name: str, titles: list[str]) -> int:
        """Store notes on a list, which is created if it does not exist; return the number of notes."""
        sql = "INSERT INTO lists (name) VALUES (?) ON CONFLICT DO NOTHING"
        await self.execute(sql, [name], name="lists.add")
        sql = "INSERT INTO notes (list_id, title) SELECT id, ? FROM lists WHERE name = ?"
        return await self.execute_many(sql, [(title, name) for title in titles], name="notes.add")

    async def page(self, *, after: int = 0, limit: int = 100) -> list[Note]:
        """Return the notes with an id above ``after``, in the order of their ids."""
        sql = """SELECT notes.id, notes.title, lists.name AS list FROM notes JOIN lists ON lists.id = notes.list_id
            WHERE notes.id > ? ORDER BY notes.id LIMIT ?"""
        return await self.fetch_all(sql, [after, limit], row=Note, name="notes.page")


NOTES = Schema(name="notes", package="notes", repositories={"notes": NoteRepository})
