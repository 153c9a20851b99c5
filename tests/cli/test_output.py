"""What commands print: nothing that others wrote steers the terminal."""

import json
from typing import Any

import pytest

from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import Show, listing, print_document, print_failure, record

STEERING = {
    "an escape sequence": "\x1b[2J",
    "a C1 control character": "\x9b31m",
    "right to left": "\u202e",
    "an isolate": "\u2066\u2069",
    "marks": "\u200e\u200f\u061c",
    "a line separator": "\u2028",
    "delete": "\x7f",
}


@pytest.fixture(params=STEERING.values(), ids=STEERING)
def text(request: pytest.FixtureRequest) -> str:
    """A text with something in it that terminals obey."""
    return f"Acme{request.param}Ltd. é"


@pytest.mark.parametrize("show", [listing("name"), record], ids=["table", "record"])
def test_tables_show_it_replaced(text: str, show: Show, capsys: pytest.CaptureFixture[str]):
    """People see that there is something, and the terminal does not."""
    document: dict[str, Any] = {"items": [{"name": text}]} if show is not record else {"name": text}
    print_document(document, show, is_json=False)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert "Acme\N{REPLACEMENT CHARACTER}" in printed
    assert "Ltd. é" in printed


def test_documents_have_it_escaped(text: str, capsys: pytest.CaptureFixture[str]):
    """Programs read the same text, and the terminal does not."""
    document = {"name": text, text: [text]}
    print_document(document, record, is_json=True)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == document
    assert "é" in printed


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("rate_per_second", 7.345829405, "7.346"),
        ("seconds", 12_345.678, "12,345.678"),
        ("seconds", 0.000123456, "0.0001235"),
        ("calls_per_second_max", 0.123456, "0.123456"),
        ("total", 1_234_567, "1,234,567"),
        ("owner", {"pid": 29_587}, "pid=29587"),
    ],
)
def test_numbers(field: str, value: object, shown: str, capsys: pytest.CaptureFixture[str]):
    """A measured number has four digits; a limit or a count is shown completely, and a process id as other commands take it."""
    print_document({field: value}, record, is_json=False)
    assert capsys.readouterr().out.split()[-1] == shown


@pytest.mark.parametrize("is_json", [False, True])
def test_so_do_errors(text: str, is_json: bool, capsys: pytest.CaptureFixture[str]):  # noqa: FBT001  # a parameter of the test
    """The same on standard error."""
    print_failure(CommandError(Exit.REFUSED, text, problem={"detail": text}), is_json=is_json)
    assert capsys.readouterr().err.replace("\n", "").isprintable()
