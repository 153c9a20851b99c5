"""What the tests of fleet jobs share: jobs that are watched, and jobs of other processes.

Import it by name (``tests/support`` is on pytest's path): ``from fleet_processes import watched``.
"""

import os
import sys


def environment() -> dict[str, str]:
    """Return what lets another process import what this one can: the tests' packs."""
    packs = [path for path in sys.path if path.endswith("packs")]
    return {"PYTHONPATH": os.pathsep.join(packs)}
