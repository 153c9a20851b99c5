"""A web application of several worker processes on one data directory. Any worker serves any company.

Each worker opens its own registry in its lifespan, after the fork. A company is open in one of the processes, and the other processes
forward their calls of that company to it. Start the application with uvicorn or with gunicorn:

    export TENANTRY_DATA_DIR=data
    tenantry tenant create acme
    uvicorn web:app --app-dir examples/processes --workers 4
    gunicorn web:app --chdir examples/processes --worker-class asgi --workers 4 --preload

The application reads every setting from a ``TENANTRY_…`` variable, as the command line does: its workers and the commands beside them
then have the same engine, the same databases and the same limits.

Then try:

    curl -H 'X-Company: acme' -H 'Idempotency-Key: 1' --json '{"from": "ada", "to": "bob", "channel": "general", "type": "question",
        "content": "Hello", "timestamp": "2026-12-01T12:00:00Z"}' http://127.0.0.1:8000/messages
    curl -H 'X-Company: acme' 'http://127.0.0.1:8000/messages?channel=general'
    curl http://127.0.0.1:8000/metrics

Whichever worker gets the request, ``/metrics`` has tenantry's metrics of all processes. The application's own metrics are those of all
workers if PROMETHEUS_MULTIPROC_DIR names an empty directory, which is prometheus_client's way to add up the workers' metrics.
"""

import os
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector

from tenantry import RegistryConfig, TenantHandle
from tenantry.company import Message
from tenantry.integrations import (
    MetricsEndpoint,
    TenantDependency,
    from_header,
    install_error_handlers,
    opened_registry,
    registry_lifespan,
)

Company = Annotated[TenantHandle, Depends(TenantDependency(opened_registry, source=from_header("X-Company")))]

RECEIVED = Counter("messages_received", "Messages that clients sent.")
collectors = REGISTRY
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    MultiProcessCollector(collectors := CollectorRegistry())  # type: ignore[no-untyped-call]

app = FastAPI(lifespan=registry_lifespan(RegistryConfig.from_environment()))
app.add_route("/metrics", MetricsEndpoint(collectors=collectors))
install_error_handlers(app)


@app.post("/messages", status_code=201)
async def send(message: Message, company: Company, idempotency_key: Annotated[str, Header()]) -> int:
    """Save a message once; return the number of the process that received the request.

    A client whose connection was lost sends the same request again, with the same key.
    """
    RECEIVED.inc()
    await company.idempotent(idempotency_key).messages.save(message)
    return os.getpid()


@app.get("/messages")
async def read(channel: str, company: Company) -> Sequence[Message]:
    """Return the latest messages of a channel."""
    return await company.messages.get_history(channel, limit=20)
