"""What the program logs of the libraries that it uses."""

import json
import logging
from collections.abc import Iterator

import pytest

from tenantry.observability import configure_logging
from tenantry.observability.logging import log_libraries


@pytest.fixture(autouse=True)
def _own_root_logger() -> Iterator[None]:
    """Give the root logger its handlers back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.basicConfig(handlers=handlers, level=level, force=True)


def test_an_error_tells_its_place_and_nothing_of_what_it_was_about(capsys: pytest.CaptureFixture[str]):
    """Of an exception there is its type and the line that raised it: not its words, and no trace."""
    configure_logging("info", "json")
    log_libraries()
    try:
        int("secret")
    except ValueError:
        logging.getLogger("a.library").exception("Exception in ASGI application\n")
    written = capsys.readouterr().err
    event = json.loads(written)
    assert (event["event"], event["logger"], event["error_type"]) == (
        "tenantry.library.log",
        "a.library",
        "ValueError",
    )
    assert event["raised_at"].startswith(f"{__file__}:")
    assert "secret" not in written
    assert "Traceback" not in written


def test_from_a_level_on(capsys: pytest.CaptureFixture[str]):
    """Warnings are written with their words, what is below is not."""
    configure_logging("info", "json")
    log_libraries()
    logging.getLogger("some").info("quiet")
    logging.getLogger("some").warning("careful: %s", "wet")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["said"], event["level"]) for event in events] == [("careful: wet", "warning")]
