"""Tasks of Celery on the same data directory as the web application, in the processes of a prefork pool.

    export TENANTRY_DATA_DIR=data
    celery --workdir examples/processes --app tasks worker --concurrency 2

Each process of the pool opens its own registry after the fork. The registry's event loop runs in a thread as long as the process, also
between two tasks: other processes forward calls to the companies that this process has open, so ``asyncio.run`` in each task would not do.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from celery import Celery, Task
from celery.signals import worker_process_init, worker_process_shutdown

from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import Message

app = Celery("tasks")

# A broker that is a directory needs no server. In production use RabbitMQ or Redis: only these settings change.
queue = Path(os.environ.get("TASK_QUEUE_DIR", "queue"))
for folder in ("tasks", "control", "results"):
    (queue / folder).mkdir(parents=True, exist_ok=True)
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": str(queue / "tasks"),
        "data_folder_out": str(queue / "tasks"),
        "control_folder": str(queue / "control"),
    },
    result_backend=(queue / "results").absolute().as_uri(),
)


class Tenants:
    """The registry of one process, for code that is not asynchronous."""

    def __init__(self) -> None:
        self._resources = ExitStack()
        self._portal: BlockingPortal
        self._registry: TenantRegistry

    def open(self, config: RegistryConfig) -> None:
        """Start the event loop in a thread, and open the registry on the loop."""
        registry = TenantRegistry(config)
        self._portal = self._resources.enter_context(start_blocking_portal())
        self._registry = self._resources.enter_context(self._portal.wrap_async_context_manager(registry))

    def close(self) -> None:
        """Close the registry, and end the thread."""
        self._resources.close()

    def send(self, company: str, message: Message, key: str) -> None:
        """Save a message of a company once."""
        save = self._registry.tenant(company).idempotent(key).messages.save
        self._portal.call(save, message)


tenants = Tenants()


@worker_process_init.connect
def open_tenants(**_: object) -> None:
    """Open the registry in a new process of the pool."""
    tenants.open(RegistryConfig.from_environment())


@worker_process_shutdown.connect
def close_tenants(**_: object) -> None:
    """Close the registry before the process ends."""
    tenants.close()


# A task whose process was killed runs again in another process. The task's id as the key keeps its write from running twice.
@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def send(self: Task, company: str, message: dict[str, Any]) -> int:
    """Save a message; return the number of the process that ran the task."""
    tenants.send(company, Message.model_validate(message), key=f"celery-{self.request.id}")
    return os.getpid()
