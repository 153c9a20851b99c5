"""Hides paths on the service's disk from callers whose keys are limited to some tenants."""

import json
import re
from pathlib import Path
from typing import Any, Final

from fastapi import Request

HIDDEN: Final = "…"
"""Replaces the directories of a path, so that callers see only the last part of the path."""

# The pattern needs a directory and a name ("/tmp/x"), because "/x" alone need not be a path. The API's own paths are kept.
_PATH: Final = re.compile(r"(?<![\w.:/…-])/(?!v1/)(?:[^\s/'\"()<>,;:\\]+/)+(?=[^\s/'\"()<>,;:\\])")


def hides_paths(request: Request) -> bool:
    """Return whether the caller is authenticated but may not see paths on the service's disk."""
    principal = getattr(request.state, "principal", None)
    return principal is not None and principal.tenants is not None


def without_paths(text: str, data_dir: Path) -> str:
    """Return a text without the directories of absolute paths; the data directory is found even if its name has blanks."""
    return _PATH.sub(f"{HIDDEN}/", _without_data_directory(text, data_dir))


def values_without_paths(content: bytes, data_dir: Path) -> bytes:
    """Return a JSON body without paths in its strings."""
    return json.dumps(
        _mapped(json.loads(content), data_dir), ensure_ascii=False, separators=(",", ":")
    ).encode()


def _mapped(value: Any, data_dir: Path) -> Any:
    match value:
        case str():
            # Hide only the data directory in other strings, because a display name may contain slashes.
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
"""The fields that may contain an error's message."""


def _without_data_directory(text: str, data_dir: Path) -> str:
    return text.replace(f"{data_dir.absolute()}/", f"{HIDDEN}/").replace(
        str(data_dir.absolute()), "the data directory"
    )
