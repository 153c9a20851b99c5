"""What each connection is told: the URL, and safe defaults for what the URL leaves open."""

from pathlib import Path

import psycopg
import pytest

from tenantry import PostgresConfig, SettingsError
from tenantry.storage.postgres.connections.settings import connection_parameters, host_count

LIBPQ = [
    *("PGHOST", "PGSSLMODE", "PGSSLROOTCERT", "PGAPPNAME", "PGTARGETSESSIONATTRS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
]


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own settings, and an empty home."""
    for name in LIBPQ:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def parameters(url: str, **session: str) -> dict[str, str]:
    """Return the parameters of a URL."""
    return connection_parameters(PostgresConfig(url=url), session)


def test_the_certificate_is_checked_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A network is not trusted: who wants less says so in the URL, or in libpq's variable."""
    assert parameters("postgresql://h/d")["sslmode"] == "verify-full"
    assert parameters("postgresql://h/d?sslmode=require")["sslmode"] == "require"
    monkeypatch.setenv("PGSSLMODE", "prefer")
    assert "sslmode" not in parameters("postgresql://h/d")


def test_which_certificates_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system's, unless the user has a file of trusted ones where libpq looks for it, or the URL names one."""
    found = parameters("postgresql://h/d")["sslrootcert"]
    assert found == "system" or Path(found).is_file()
    assert parameters("postgresql://h/d?sslrootcert=/ca.pem")["sslrootcert"] == "/ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    assert parameters("postgresql://h/d")["sslrootcert"] == "system"
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert "sslrootcert" not in parameters("postgresql://h/d")


def test_a_url_comes_before_the_defaults(monkeypatch: pytest.MonkeyPatch):
    """What the URL or libpq's environment says is not overwritten."""
    found = parameters("postgresql://h/d?keepalives_idle=60&target_session_attrs=any&application_name=x")
    assert (found["keepalives_idle"], found["target_session_attrs"]) == ("60", "any")
    assert found["application_name"] == "x"
    monkeypatch.setenv("PGAPPNAME", "y")
    assert "application_name" not in parameters("postgresql://h/d")
    assert parameters("postgresql://h/d")["target_session_attrs"] == "read-write"


def test_the_settings_of_a_session():
    """Each new session has them, and the URL's own options come last. A pooler would give the session to others."""
    url = "postgresql://h/d?options=-c%20work_mem%3D1MB"
    assert parameters(url, timezone="UTC", search_path="a b")["options"] == (
        "-c timezone=UTC -c search_path=a\\ b -c work_mem=1MB"
    )
    assert "options" not in parameters("postgresql://h/d?tenantry_pooled=true", timezone="UTC")


def test_hosts_are_counted():
    """Each host gets its part of the time for connecting."""
    assert host_count(parameters("postgresql://a,b,c/d")) == 3
    assert host_count(parameters("postgresql:///d")) == 1


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://app:horse@h/d?sslmod=require", "option sslmod; a similar option is sslmode"),
        ("postgresql://app:horse@h/d?sslmode=require&=1", "correct the options after the question mark"),
    ],
)
def test_an_option_that_libpq_does_not_know(url: str, sentence: str):
    """The refusal names the option and a similar one, and no password."""
    with pytest.raises(SettingsError, match=sentence) as refused:
        parameters(url)
    assert "horse" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert not isinstance(refused.value.__context__, psycopg.Error) or refused.value.__suppress_context__
