"""Runs a workload step by step, and keeps account of what tenantry has acknowledged."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from power.preload import Preloaded
from power.worlds import World
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import DuplicateRecordError, TenantExistsError, TenantryError
from tenants import make_message

_ATTEMPTS_MAX: Final = 4

Call = Callable[[TenantRegistry], Awaitable[Any]]
Apply = Callable[[World, Any], object]


class StoppedError(Exception):
    """A call failed again and again: the disk does not get better."""


class Script:
    """Makes calls on a registry and marks in the trace what begins and what is acknowledged.

    A call that failed is repeated, as its caller would. Until it succeeds it may have had its effect or not, so that there are
    several worlds that can be true.

    Args:
        preloaded: The library.
        data_dir: The registry's.
        settings: More of `RegistryConfig`.
    """

    def __init__(self, preloaded: Preloaded, data_dir: Path, **settings: Any) -> None:
        self.preloaded = preloaded
        self.worlds = [World()]
        self.must: list[list[str]] = []
        self.may: list[list[str]] = []
        self.errors: list[str] = []
        self.config = RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **settings})
        self._registries: list[TenantRegistry] = []
        self._mark(worlds=self._told())

    @property
    def registry(self) -> TenantRegistry:
        """The registry that was opened last: calls are made on it."""
        return self._registries[-1]

    @property
    def owner(self) -> TenantRegistry:
        """The registry that was opened first."""
        return self._registries[0]

    async def open(self) -> None:
        """Open a registry, beside those that are open, as another process would: it forwards calls to tenants that they have open."""
        await self._attempt("open", self._open)

    async def close(self) -> None:
        """Close the registries, the owner first: the other becomes the owner of what it uses."""
        while self._registries:
            await self.close_owner()

    async def close_owner(self) -> None:
        """Close the registry that was opened first."""
        await self._attempt("close", self.owner.aclose)
        del self._registries[0]

    async def reopen(self) -> None:
        """Close the registry and open another."""
        await self.close()
        await self.open()

    async def step(self, name: str, call: Call, apply: Apply) -> Any:
        """Make a call, and change the world as it says once the call has returned.

        Args:
            name: For people.
            call: Makes it.
            apply: Changes a world as the call does, given what it returned; None if it did not return.
        """
        self._mark(begin=name)

        async def make() -> Any:
            return await call(self.registry)

        def failed() -> None:
            self._become([*self.worlds, *self._applied(apply, None)], name)
            self._mark(begin=name)

        result = await self._attempt(name, make, failed)
        self._become(self._applied(apply, result), name)
        return result

    async def save(self, tenant_id: str, text: str) -> None:
        """Save one message, as a step."""
        message = make_message(text)
        await self.step(
            f"save {text}",
            lambda registry: registry.tenant(tenant_id).messages.save(message),
            lambda world, _: world.save(tenant_id, text),
        )

    async def save_beside(self, tenant_id: str, *texts: str) -> None:
        """Save messages in one transaction while other calls run; a failure is left at that."""
        messages = [make_message(text) for text in texts]
        await self.do_beside(tenant_id, texts, self.registry.tenant(tenant_id).messages.save_many(messages))

    async def do_beside(
        self,
        tenant_id: str,
        texts: tuple[str, ...],
        call: Awaitable[object],
        expected: type[TenantryError] = TenantryError,
    ) -> None:
        """Make a call that saves messages, all or none, while other calls run; an expected failure is left at that."""
        self._write(self.may, "may", tenant_id, texts)
        try:
            await call
        except expected as error:
            self.errors.append(f"save {texts}: {error!r}")
        else:
            self._write(self.must, "must", tenant_id, texts)

    def _write(self, known: list[list[str]], kind: str, tenant_id: str, texts: tuple[str, ...]) -> None:
        for text in texts:
            known.append([tenant_id, text])
            self._mark(**{kind: [tenant_id, text]})

    async def _open(self) -> None:
        registry = TenantRegistry(self.config)
        await registry.open()
        self._registries.append(registry)

    async def _attempt(
        self, name: str, make: Callable[[], Awaitable[Any]], failed: Callable[[], object] = bool
    ) -> Any:
        for attempt in range(_ATTEMPTS_MAX):
            try:
                return await make()
            except (TenantExistsError, DuplicateRecordError) as error:
                if attempt:
                    return None  # the attempt before this one did it
                self.errors.append(f"{name}: {error!r}")
                raise
            except TenantryError as error:
                self.errors.append(f"{name}: {error!r}")
                failed()
        raise StoppedError(name)

    def _applied(self, apply: Apply, result: Any) -> list[World]:
        worlds = [world.copy() for world in self.worlds]
        for world in worlds:
            apply(world, result)
        return worlds

    def _become(self, worlds: list[World], after: str) -> None:
        self.worlds = [world for number, world in enumerate(worlds) if world not in worlds[:number]]
        self._mark(worlds=self._told(), after=after)

    def _told(self) -> list[dict[str, Any]]:
        return [world.as_json() for world in self.worlds]

    def _mark(self, **said: Any) -> None:
        self.preloaded.mark(json.dumps(said))
