"""How a registry is put together: from finished parts, with a finisher for every operation that a crash may interrupt."""

import ast
import gc
import importlib
import inspect
import pkgutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from tenantry import RegistryConfig, TenantRegistry, tenancy
from tenantry.tenancy import compose
from tenantry.tenancy.operations.runner import FinishableOperation
from tenants import history, make_message


def finishable_actions() -> Iterator[str]:
    """Yield the action of every class of the package that can finish an operation."""
    for module in pkgutil.walk_packages(tenancy.__path__, "tenantry.tenancy."):
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one is not FinishableOperation and {"action", "finish"} <= set(dir(one)):
                yield one.action


def test_every_operation_of_several_steps_can_be_finished(data_dir: Path):
    """A class that has a finish for its operation is known to the runner: a crash in it is not left for ever."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    assert set(registry.statistics().unfinished_operations) == set(finishable_actions())


def test_nothing_is_set_on_a_part_later():
    """Parts are passed to constructors: the function that makes them assigns to no attribute and needs no later name."""
    tree = ast.parse(Path(compose.__file__).read_text())
    stored = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]
    assert stored == []
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)] == []


async def test_a_handle_is_enough_to_keep_a_registry_open(data_dir: Path):
    """A program that keeps a tenant's handle and forgets its registry can go on: the registry is not collected."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    await registry.open()
    await registry.create("acme")
    acme, found = registry.tenant("acme"), weakref.ref(registry)
    del registry
    gc.collect()
    await acme.messages.save(make_message("still here"))
    again = found()
    assert again is not None
    assert await history(again, "acme") == ["still here"]
    await again.aclose()
