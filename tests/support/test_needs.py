"""What a machine may lack: green in CI means that everything has run."""

from pathlib import Path

import pytest

from needs import needed_program


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_program(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A test fails where everything has to run, and is skipped elsewhere with a message that says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="needs cc or gcc: apt-get install gcc"):
        needed_program("cc", "gcc", package="gcc")


def test_a_program_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of several programs the first that is installed is taken."""
    program = tmp_path / "gcc"
    program.touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needed_program("cc", "gcc", package="gcc") == str(program)
