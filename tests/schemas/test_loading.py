"""Schema packs by name: what is found where, and that each mistake is named in a sentence."""

import sys
from pathlib import Path

import pytest

from tenantry import Schema
from tenantry.company import COMPANY
from tenantry.errors import SettingsError
from tenantry.schemas.loading import load_schemas


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with modules that no path names."""
    (tmp_path / "found_pack.py").write_text(
        "from tenantry import Schema\nCRM = Schema('crm', 'found_pack')\nWIKI = Schema('wiki', 'found_pack')\nNAME = 'crm'\n"
    )
    (tmp_path / "broken_pack.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "raising_pack.py").write_text("1 / 0\n")
    (tmp_path / "ending_pack.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "lazy_pack.py").write_text("def __getattr__(name):\n    raise RuntimeError(name)\n")
    (tmp_path / "loud_pack.py").write_text("from found_pack import CRM\nprint('loaded')\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('this file must not hide the module of Python')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in {"", str(tmp_path)}])
    return tmp_path


def test_the_built_in_pack():
    """Without names it is the built-in pack alone; with names it is loaded only if it is named."""
    assert load_schemas([]) == (COMPANY,)
    assert load_schemas(["tenantry.company:COMPANY"]) == (COMPANY,)


def test_packs_of_the_current_directory(directory: Path):
    """A module in the current directory is found, as by servers that load an application; the order is kept."""
    crm, company = load_schemas(["found_pack:CRM", "tenantry.company:COMPANY"])
    assert (crm, company) == (Schema("crm", "found_pack"), COMPANY)


def test_the_directory_hides_no_installed_module(directory: Path):
    """A file with the name of an installed module is not run."""
    sys.modules.pop("json")
    with pytest.raises(SettingsError, match=r"json/__init__\.py has no 'PACK'; its packs are: none"):
        load_schemas(["json:PACK"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "found_pack",
            "'found_pack' does not name a schema pack: write the module and the variable, such as invoices:INVOICES",
        ),
        ("found_pack:", "does not name a schema pack"),
        ("found_pack:A:B", "does not name a schema pack"),
        ("../found_pack:CRM", "does not name a schema pack"),
        (
            "missing_pack:CRM",
            r"there is no module 'missing_pack' in the current directory \(.+\) or among the packages of .*python",
        ),
        ("missing_pack.inner:CRM", "there is no module 'missing_pack'"),
        (
            "broken_pack:CRM",
            "importing 'broken_pack' failed with ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        ("raising_pack:CRM", "importing 'raising_pack' failed with ZeroDivisionError"),
        ("ending_pack:CRM", "importing 'ending_pack' failed with SystemExit: 7"),
        ("lazy_pack:CRM", "importing 'lazy_pack' failed with RuntimeError: CRM"),
        ("found_pack:ERP", r"found_pack\.py has no 'ERP'; its packs are: CRM, WIKI"),
        (
            "found_pack:NAME",
            r"found_pack\.py has a str, not a tenantry\.Schema, as 'NAME'; its packs are: CRM, WIKI",
        ),
    ],
)
def test_a_name_that_cannot_be_loaded(directory: Path, name: str, message: str):
    """Each mistake is told from the others, with the place that was looked at or the packs that there are."""
    with pytest.raises(SettingsError, match=message):
        load_schemas([name])


def test_a_module_that_prints(directory: Path, capsys: pytest.CaptureFixture[str]):
    """What a module prints while it is imported goes to standard error, so that a command's JSON stays valid."""
    assert load_schemas(["loud_pack:CRM"])
    assert capsys.readouterr() == ("", "loaded\n")
