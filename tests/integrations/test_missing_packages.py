"""An integration whose other package is not installed."""

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
sys.modules[sys.argv[1]] = None  # as if the package were not installed
try:
    import tenantry.integrations
    getattr(tenantry.integrations, sys.argv[2])
except ModuleNotFoundError as error:
    print(error.name, error, sep="|")
"""


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("sqlalchemy", "SqlAlchemyCore", "sqlalchemy"), ("fastapi", "TenantDependency", "service")],
)
def test_the_error_names_the_extra(package: str, name: str, extra: str):
    """Who imports the integration is told what to install."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, package, name], capture_output=True, text=True, check=True
    )
    found, _, message = done.stdout.strip().partition("|")
    assert found == package
    assert message == (
        f"tenantry.integrations.{name} needs the package {package}: pip install 'tenantry[{extra}]'"
    )
