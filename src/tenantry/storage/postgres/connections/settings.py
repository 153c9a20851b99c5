"""The parameters of each connection: what the URL says, and tenantry's defaults for what it leaves open."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg
from psycopg import conninfo, pq

from tenantry.errors import SettingsError
from tenantry.postgres_config import PostgresConfig

# A vanished host is noticed after 10 + 3 * 5 s: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
_DEFAULTS: Final[Mapping[str, str]] = {
    "application_name": "tenantry",
    "client_encoding": "UTF8",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",  # milliseconds
    # Of several hosts the primary is used, also after another one has become it.
    "target_session_attrs": "read-write",
}
# libpq has its own variables for these: https://www.postgresql.org/docs/current/libpq-envars.html
_VARIABLES: Final[Mapping[str, str]] = {
    "application_name": "PGAPPNAME",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
_LIBPQ_WITH_SYSTEM_ROOTS: Final = 160000
# The file of libpq's own default: https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-CERTIFICATES
_ROOT_CERTIFICATES: Final = Path("~/.postgresql/root.crt")
# Debian, Ubuntu, Alpine, Arch; Fedora, Red Hat; SUSE; others.
_SYSTEM_ROOTS: Final = (
    *("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"),
    *("/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"),
)
_OPENSSL_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def connection_parameters(config: PostgresConfig, session: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return libpq's parameters of a connection.

    Without ``sslmode`` a connection over a network is encrypted and the server's certificate is checked (``verify-full``). libpq ignores
    the mode on a Unix socket.

    Args:
        config: The settings.
        session: The server's settings for each new session. A pooler in transaction mode does not keep them for a client, so they are
            ignored if `config.is_pooled`.

    Raises:
        SettingsError: The URL has an option that libpq does not know, or a value of a wrong form.
    """
    given = _parse(config)
    parameters = {name: value for name, value in _DEFAULTS.items() if not _is_set(name, given)} | given
    if not _is_set("sslmode", given):
        parameters["sslmode"] = "verify-full"
    if parameters.get("sslmode") == "verify-full" and not _is_set("sslrootcert", given):
        parameters |= _trusted()
    if session and not config.is_pooled:
        written = " ".join(f"-c {name}={_escaped(value)}" for name, value in session.items())
        # What the URL says comes last, and therefore counts.
        parameters["options"] = f"{written} {given.get('options', '')}".strip()
    return parameters


def host_count(parameters: Mapping[str, str]) -> int:
    """Return the number of hosts that are tried one after the other."""
    return max(parameters.get(name, "").count(",") + 1 for name in ("host", "hostaddr"))


def _parse(config: PostgresConfig) -> dict[str, str]:
    url = config.url.get_secret_value()
    try:
        return {
            name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None
        }
    except psycopg.Error:
        # libpq's message repeats the part that it does not understand, which may be a part of the password.
        raise SettingsError(
            f"libpq cannot read the URL of the database {config.address}{_unknown_options(url)}"
        ) from None


def _unknown_options(url: str) -> str:
    known = sorted(option.keyword.decode() for option in pq.Conninfo.get_defaults())
    names = [part.partition("=")[0] for part in url.partition("?")[2].split("&")]
    unknown = [name for name in names if name.isidentifier() and name not in known]
    if not unknown:
        return ": correct the options after the question mark"
    similar = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0)[0]
    return f": it does not know the option {unknown[0]}; a similar option is {similar}"


def _trusted() -> dict[str, str]:
    """Return the parameter that names the authorities of certificates: those of the user, or else those of the system.

    The wheels of psycopg bring an OpenSSL that looks for the system's authorities in a directory that no system has, unless OpenSSL's
    own variables name them. So the file is named where it is known.
    """
    if _ROOT_CERTIFICATES.expanduser().exists():
        return {}  # libpq's default
    if not any(map(os.environ.get, _OPENSSL_VARIABLES)):
        for path in _SYSTEM_ROOTS:
            if Path(path).is_file():
                return {"sslrootcert": path}
    return {"sslrootcert": "system"} if pq.version() >= _LIBPQ_WITH_SYSTEM_ROOTS else {}


def _is_set(name: str, given: Mapping[str, str]) -> bool:
    return name in given or bool(os.environ.get(_VARIABLES.get(name, ""), ""))


def _escaped(value: str) -> str:
    """Escape a value in the parameter ``options``, where spaces separate arguments."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
