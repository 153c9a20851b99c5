"""Applications that wrongly open their registry when they are imported, which gunicorn does before the fork with ``--preload``.

Import it by name (``tests/support`` is on the path of `worker_servers`): ``gunicorn opened_early:app``.
"""

import asyncio
import os

from fastapi import FastAPI

from tenantry import TenantRegistry
from tenantry.integrations import install_error_handlers, registry_lifespan

registry = TenantRegistry(os.environ["TENANTRY_DATA_DIR"])
asyncio.new_event_loop().run_until_complete(registry.open())

app = FastAPI()
install_error_handlers(app)
app_with_lifespan = FastAPI(lifespan=registry_lifespan(registry))


@app.get("/")
async def count() -> int:
    """Return the number of tenants."""
    return len(await registry.list())
