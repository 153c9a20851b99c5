"""The benchmarks by name, each a small file; a new one is a file here and a line in `WORKS`."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from benchmarks.harness import Comparison, Load
from benchmarks.works import save_one_tenant

Work: TypeAlias = Callable[[Load], Sequence[Comparison]]

WORKS: dict[str, Work] = {
    "save_one_tenant": save_one_tenant.run,
}
