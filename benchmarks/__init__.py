"""tenantry beside its peers, on one machine, in one run: ``python -m benchmarks``; see docs/benchmarks.md.

``TENANTRY_ENGINE=python python -m benchmarks`` measures the Python store, but for the works that compare the engines. The processes that a
work starts have the same engine.
"""

import os

from tenantry.config import RegistryConfig
from tenantry.environment import variable

RegistryConfig.model_fields["engine"].default = os.environ.get(variable("engine")) or "auto"
RegistryConfig.model_rebuild(force=True)
