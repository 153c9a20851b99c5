"""A small program for many companies, whose agents work on tasks, send messages and cost money. Each company is a tenant.

    python examples/company_runtime.py DIRECTORY [--port 8000]

At its first start the program prints a key for the admin API, which is below ``/admin``. Then try:

    admin='Authorization: Bearer tnt_…'
    curl -H "$admin" --json '{"id": "acme"}' http://127.0.0.1:8000/admin/v1/tenants
    curl -H 'X-Company: acme' --json '{"title": "Look into it"}' http://127.0.0.1:8000/tasks
    curl -H 'X-Company: acme' http://127.0.0.1:8000/tasks
    curl -H 'X-Company: acme' 'http://127.0.0.1:8000/messages?channel=general'
    curl http://127.0.0.1:8000/admin/metrics

Any client may name any company; a real program takes the company from the verified sign-in. The program listens on the loopback.
"""

import argparse
import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import uvicorn
from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel

from tenantry import RegistryConfig, Scope, TenantHandle, TenantId, TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.company import CostRecord, Message, MessageType, NotBlankStr, Task, TaskStatus, TaskType
from tenantry.errors import TenantryError
from tenantry.integrations import (
    TenantDependency,
    from_header,
    install_error_handlers,
    opened_registry,
    registry_lifespan,
)

Company = Annotated[TenantHandle, Depends(TenantDependency(opened_registry, source=from_header("X-Company")))]
Limit = Annotated[int, Query(ge=1, le=100)]


class Agents:
    """Runs one agent for each company that has work. An agent stops when its company has no more work."""

    def __init__(self) -> None:
        self._agents: dict[TenantId, asyncio.Task[None]] = {}
        self._has_work: set[TenantId] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel all agents. Unfinished tasks are rolled back, and done after the next call of `wake`."""
        agents = list(self._agents.values())
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)

    def wake(self, company: TenantHandle) -> None:
        """Make the company's agent look for tasks."""
        self._has_work.add(company.id)
        if company.id not in self._agents:
            self._agents[company.id] = asyncio.create_task(self._work(company))

    async def _work(self, company: TenantHandle) -> None:
        try:
            while company.id in self._has_work:
                self._has_work.discard(company.id)
                for task in await company.tasks.list_tasks(status=TaskStatus.CREATED):
                    await finish(company, task)
        except TenantryError as error:
            # The tenant is suspended or at a limit. The tasks wait for the next call of `wake`.
            print(f"the agent of {company.id} stops: {error}", flush=True)
        finally:
            del self._agents[company.id]


async def finish(company: TenantHandle, task: Task) -> None:
    """Do a task, as an agent with a language model would, and store all results in one transaction."""
    agent, now = "ada", datetime.now(UTC)
    task = task.with_transition(TaskStatus.ASSIGNED, assigned_to=agent)
    for status in (TaskStatus.IN_PROGRESS, TaskStatus.IN_REVIEW, TaskStatus.COMPLETED):
        task = task.with_transition(status)
    async with company.transaction() as transaction:
        await transaction.tasks.save(task)
        await transaction.cost_records.save(
            CostRecord(
                agent_id=agent,
                task_id=task.id,
                provider="example",
                model="large",
                input_tokens=1200,
                output_tokens=300,
                cost_usd=0.0135,
                timestamp=now,
            )
        )
        await transaction.messages.save(
            Message(
                timestamp=now,
                sender=agent,
                to=task.created_by,
                channel="general",
                content=f"Done: {task.title}",
                type=MessageType.TASK_UPDATE,
            )
        )


class NewTask(BaseModel):
    """A new task of a company."""

    title: NotBlankStr
    description: NotBlankStr = "As the title says."


def create_app(data_dir: Path) -> FastAPI:
    """Return the application, with the admin API and the metrics below ``/admin``."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    admin = create_admin_app(registry)
    open_registry = registry_lifespan(registry, mounted=[admin])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        async with open_registry(app) as state, Agents() as agents:
            if not await registry.keys.has_any():
                made = await registry.keys.create(name="first", scopes=[Scope.ADMIN])
                print(f"admin key: {made.token}", flush=True)
            yield {**state, "agents": agents}

    app = FastAPI(title="company runtime", lifespan=lifespan)
    install_error_handlers(app)
    app.mount("/admin", admin)

    @app.post("/tasks", status_code=201)
    async def create_task(new: NewTask, company: Company, request: Request) -> Task:
        task = Task(
            id=uuid.uuid4().hex,
            title=new.title,
            description=new.description,
            type=TaskType.RESEARCH,
            project="example",
            created_by="the company",
        )
        await company.tasks.save(task)
        request.state.agents.wake(company)
        return task

    @app.get("/tasks")
    async def list_tasks(company: Company, limit: Limit = 20) -> Sequence[Task]:
        return await company.tasks.list_tasks(limit=limit)

    @app.get("/messages")
    async def list_messages(company: Company, channel: str, limit: Limit = 20) -> Sequence[Message]:
        return await company.messages.get_history(channel, limit=limit)

    @app.get("/costs")
    async def sum_costs(company: Company) -> float:
        return await company.cost_records.aggregate()

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a small program for many companies")
    parser.add_argument("data_dir", type=Path, metavar="DIRECTORY")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    uvicorn.run(create_app(options.data_dir), host="127.0.0.1", port=options.port)
