"""The environment variables of tenantry: the names in this module, and one variable for each field of `RegistryConfig`.

A setting that is a mapping has one variable for each entry: ``TENANTRY_DATABASES__east`` is the entry ``east`` of ``databases``.
"""

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

BACKEND: Final = "TENANTRY_BACKEND"
"""The back end of ``tenantry demo``: ``sqlite`` or ``postgres``."""

ALLOWED_HOSTS: Final = "TENANTRY_ALLOWED_HOSTS"
DRAIN_SECONDS: Final = "TENANTRY_DRAIN_SECONDS"
GRACEFUL_SECONDS: Final = "TENANTRY_GRACEFUL_SECONDS"

ENGINE_STRICT: Final = "TENANTRY_ENGINE_STRICT"
"""Read by ``setup.py`` when it builds the engine; at run time it has no effect."""

_OF_COMMANDS: Final = frozenset(
    {
        *(URL, API_KEY, SNAPSHOT_STORAGE, SCHEMAS, BACKEND, ALLOWED_HOSTS, DRAIN_SECONDS, GRACEFUL_SECONDS),
        ENGINE_STRICT,
    }
)
# Kubernetes sets these variables if the cluster has a service with the name "tenantry":
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES: Final = re.compile(
    r"TENANTRY_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


_MAPPINGS: Final = ("databases",)
"""The settings that are mappings."""


def variable(setting: str, entry: str | None = None) -> str:
    """Return the name of a setting's environment variable, or of one entry of a setting that is a mapping."""
    name = f"{PREFIX}{setting.upper()}"
    return name if entry is None else f"{name}__{entry}"


def read_settings(settings: Collection[str]) -> dict[str, str | dict[str, str]]:
    """Return the values of the settings that are set in the environment. An empty variable counts as not set.

    Returns:
        The value of each setting: a text, or the texts of a mapping's entries. The names of entries are in lower case.

    Raises:
        SettingsError: The environment has an unknown variable that begins with ``TENANTRY_``, or two variables of the same entry.
    """
    mappings = [setting for setting in settings if setting in _MAPPINGS]
    texts = [setting for setting in settings if setting not in _MAPPINGS]
    _check_known(texts, mappings)
    read: dict[str, str | dict[str, str]] = {
        name: text for name in texts if (text := os.environ.get(variable(name)))
    }
    return read | {name: entries for name in mappings if (entries := _read_entries(name))}


def _read_entries(setting: str) -> dict[str, str]:
    """Return the entries of a setting that is a mapping."""
    entries: dict[str, str] = {}
    prefix = variable(setting, "")
    for name, text in sorted(os.environ.items()):
        if not name.startswith(prefix) or not text:
            continue
        entry = name.removeprefix(prefix).lower()
        if entry in entries:
            raise SettingsError(
                f"the environment has two variables for {variable(setting, entry)}, in different case: unset one"
            )
        entries[entry] = text
    return entries


def _check_known(texts: Collection[str], mappings: Collection[str]) -> None:
    """Raise `SettingsError` if the environment has an unknown variable that begins with ``TENANTRY_``."""
    known = _OF_COMMANDS | set(map(variable, texts))
    prefixes = tuple(variable(setting, "") for setting in mappings)
    for name in sorted(os.environ):
        is_ours = name in known or (name.startswith(prefixes) and name not in prefixes)
        if name.startswith(PREFIX) and not is_ours and _OF_KUBERNETES.fullmatch(name) is None:
            shown = known | {f"{prefix}…" for prefix in prefixes}
            nearest = difflib.get_close_matches(name.upper(), sorted(shown), n=1, cutoff=0)[0]
            raise SettingsError(
                f"the environment has the variable {name}, which tenantry does not know: a similar variable is {nearest}; "
                "correct the name, or unset the variable"
            )
