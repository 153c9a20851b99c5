"""What an expression of PromQL names, found without a parser of our own: promtool says whether it is one.

Import it by name (``tests`` is on pytest's path): ``from promql import Named``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\s*\()\b")
_KEYWORDS = frozenset({"and", "or", "unless", "by", "without", "on", "ignoring", "bool"})


@dataclass(frozen=True)
class Named:
    """What an expression names.

    Attributes:
        metrics: Each metric with the labels that its selectors name.
        grouped: The labels it groups by, whatever the metric.
    """

    metrics: Mapping[str, frozenset[str]]
    grouped: frozenset[str]


def named(expr: str) -> Named:
    """Return the metrics and labels that an expression names."""
    bare = _STRING.sub('""', expr)
    grouped = {label.strip() for group in _GROUPING.findall(bare) for label in group.split(",")} - {""}
    metrics: dict[str, frozenset[str]] = {}
    for metric, labels in _selections(_RANGE.sub("", _GROUPING.sub("", bare))):
        metrics[metric] = metrics.get(metric, frozenset()) | labels
    return Named(metrics, frozenset(grouped))


def _selections(bare: str) -> Iterator[tuple[str, frozenset[str]]]:
    selectors = [frozenset(_MATCHER.findall(selector)) for selector in _SELECTOR.findall(bare)]
    # Each selector becomes a mark, so that only metrics, keywords and functions are words.
    marked = _SELECTOR.sub("{}", bare)
    position = 0
    for found in _NAME.finditer(marked):
        name, has_selector = found[1], marked[found.end() :].lstrip().startswith("{")
        if name not in _KEYWORDS and not _is_call(marked, found.end()):
            yield name, selectors[position] if has_selector else frozenset()
        position += has_selector


def _is_call(text: str, end: int) -> bool:
    return text[end:].lstrip().startswith("(")
