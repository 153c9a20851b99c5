"""Import 1,000 notes and print the first of each page: ``python examples/notes_program.py DIRECTORY``."""

import asyncio
import sys

from notes import NOTES, NoteRepository

from tenantry import TenantRegistry


async def main(data_dir: str) -> None:
    """Create a company with notes."""
    async with TenantRegistry(data_dir, schemas=[NOTES]) as registry:
        await registry.create("acme", if_not_exists=True)
        notes = registry.tenant("acme").repository(NoteRepository)
        print(await notes.add("inbox", [f"note {number}" for number in range(1_000)]))
        page = await notes.page(limit=250)
        while page:
            print(page[0].title, "on", page[0].list)
            page = await notes.page(after=page[-1].id, limit=250)


asyncio.run(main(sys.argv[1]))
