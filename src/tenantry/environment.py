"""The environment variables of tenantry: the names in this module, and one variable for each field of `RegistryConfig`."""

import difflib
import os
import re
from collections.abc import Collection
from typing import Final

from tenantry.errors import SettingsError

PREFIX: Final = "TENANTRY_"
URL: Final = "TENANTRY_URL"
API_KEY: Final = "TENANTRY_API_KEY"
SNAPSHOT_STORAGE: Final = "TENANTRY_SNAPSHOT_STORAGE"
SCHEMAS: Final = "TENANTRY_SCHEMAS"
SCHEMAS_DEFAULT: Final = "tenantry.company:COMPANY"
"""The schema pack that a process has by default."""

ALLOWED_HOSTS: Final = "TENANTRY_ALLOWED_HOSTS"
DRAIN_SECONDS: Final = "TENANTRY_DRAIN_SECONDS"
GRACEFUL_SECONDS: Final = "TENANTRY_GRACEFUL_SECONDS"

_OF_COMMANDS: Final = frozenset(
    {URL, API_KEY, SNAPSHOT_STORAGE, SCHEMAS, ALLOWED_HOSTS, DRAIN_SECONDS, GRACEFUL_SECONDS}
)
# Kubernetes sets these variables if the cluster has a service with the name "tenantry":
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES: Final = re.compile(
    r"TENANTRY_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def variable(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return f"{PREFIX}{setting.upper()}"


def read_settings(settings: Collection[str]) -> dict[str, str]:
    """Return the values of the settings that are set in the environment. An empty variable counts as not set.

    Raises:
        SettingsError: The environment has an unknown variable that begins with ``TENANTRY_``.
    """
    known = _OF_COMMANDS | set(map(variable, settings))
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and _OF_KUBERNETES.fullmatch(name) is None:
            nearest = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0)[0]
            raise SettingsError(
                f"the environment has the variable {name}, which tenantry does not know: a similar variable is {nearest}; "
                "correct the name, or unset the variable"
            )
    return {name: text for name in settings if (text := os.environ.get(variable(name)))}
