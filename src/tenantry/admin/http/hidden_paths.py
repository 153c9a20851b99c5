"""Hides paths on the service's disk from callers whose keys are for some tenants only."""

import json
import re
from pathlib import Path
from typing import Any, Final

from fastapi import Request

HIDDEN: Final = "…"
"""Replaces the directories of a path: only the last part of the path is shown."""

# At least two directories: one alone, as in "read/write", need not be a path. Paths of the API are not paths of files.
_PATH: Final = re.compile(r"(?<![\w.:/…-])/(?!v1/)(?:[^\s/'\"()<>,;:\\]+/)+(?=[^\s/'\"()<>,;:\\])")


def hides_paths(request: Request) -> bool:
    """Return whether the caller of a request is authenticated, and may not see paths."""
    principal = getattr(request.state, "principal", None)
    return principal is not None and principal.tenants is not None


def without_paths(text: str, data_dir: Path) -> str:
    """Return a text in which the directories of each absolute path are hidden, and the data directory even if its name has blanks."""
    return _PATH.sub(f"{HIDDEN}/", _without_data_directory(text, data_dir))


def values_without_paths(content: bytes, data_dir: Path) -> bytes:
    """Return JSON without paths in its texts."""
    return json.dumps(
        _mapped(json.loads(content), data_dir), ensure_ascii=False, separators=(",", ":")
    ).encode()


def _mapped(value: Any, data_dir: Path) -> Any:
    match value:
        case str():
            # Other fields stay as they are: a display name may contain slashes.
            return _without_data_directory(value, data_dir)
        case list():
            return [_mapped(one, data_dir) for one in value]
        case dict():
            return {
                name: without_paths(one, data_dir)
                if name in _TELLING and isinstance(one, str)
                else _mapped(one, data_dir)
                for name, one in value.items()
            }
        case _:
            return value


_TELLING: Final = frozenset(["detail", "error", "last_error", "reason"])
"""Fields that may hold an error's message."""


def _without_data_directory(text: str, data_dir: Path) -> str:
    return text.replace(f"{data_dir.absolute()}/", f"{HIDDEN}/").replace(
        str(data_dir.absolute()), "the data directory"
    )
