"""The settings of a PostgreSQL database: a URL with a secret, and tenantry's own options in the URL's query.

The URL is libpq's (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS) with all its options. tenantry's own
options are in the query too, with the prefix ``tenantry_``, so that one environment variable describes one database:

    postgresql://app:secret@db1.example,db2.example/tenants?sslrootcert=system&tenantry_pooled=true&tenantry_connections_max=40
"""

import re
from typing import Annotated, Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

SCHEMES: Final = ("postgresql", "postgres")
CONNECT_TIMEOUT_SECONDS: Final = 10.0
TENANTS_PER_CONNECTION_MAX: Final = 400
CONNECTION_AGE_SECONDS_MAX: Final = 3_600.0
SPARE_CONNECTIONS: Final = 8
"""The connections for transactions and lifecycle operations, beside those for batches; see `PostgresConfig.connections_max`."""

_BAD_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_PREFIX: Final = "tenantry_"
_SECRET_OPTIONS: Final = (
    *("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"),
)
# The names of the options in a URL, and of the fields.
_OPTIONS: Final = {
    f"{_PREFIX}pooled": "is_pooled",
    f"{_PREFIX}roles": "roles",
    f"{_PREFIX}connections_max": "connections_max",
    f"{_PREFIX}connect_timeout_seconds": "connect_timeout_seconds",
    f"{_PREFIX}tenants_per_connection_max": "tenants_per_connection_max",
    f"{_PREFIX}connection_age_seconds_max": "connection_age_seconds_max",
}


class Address(NamedTuple):
    """The parts of a URL that may be shown.

    Attributes:
        hosts: The hosts with their ports. A host that begins with ``/`` is the directory of a socket; an empty one is libpq's default.
        database: The database's name.
        user: The role that connects.
    """

    hosts: tuple[str, ...]
    database: str
    user: str

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        hosts = ",".join(host or "(default host)" for host in self.hosts)
        return f"{user}{hosts}/{self.database}"


class PostgresConfig(BaseModel):
    """The settings of a PostgreSQL database. A text is the same as a configuration with this URL.

    Attributes:
        url: ``postgresql://user:password@host/database``, with libpq's options in the query. It is a secret: no message shows it.
        is_pooled: Whether a pooler in transaction mode, such as PgBouncer, is between tenantry and the server. Then no statement is
            prepared, and each transaction sets its own timeouts. In a URL: ``tenantry_pooled=true``.
        roles: Whether each tenant's statements run as a role that has no rights on other tenants' schemas. The connecting role needs
            the right CREATEROLE. In a URL: ``tenantry_roles=true``.
        connections_max: The largest number of connections of one process; by default 8 more than the larger of ``write_jobs_max`` and
            ``read_jobs_max``.
        connect_timeout_seconds: The longest time that opening a connection takes.
        tenants_per_connection_max: The number of different tenants after which a connection is replaced. The server's process keeps
            about 55 kB for each schema whose tenant it has opened and written, until it ends.
        connection_age_seconds_max: The age after which a connection is replaced.
    """

    # An error message must not repeat the URL.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    is_pooled: bool = False
    roles: bool = False
    connections_max: Annotated[int, Field(ge=2, le=10_000)] | None = None
    connect_timeout_seconds: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)] = (
        CONNECT_TIMEOUT_SECONDS
    )
    tenants_per_connection_max: Annotated[int, Field(ge=1, le=1_000_000)] = TENANTS_PER_CONNECTION_MAX
    connection_age_seconds_max: Annotated[float, Field(gt=0, le=7 * 86_400, allow_inf_nan=False)] = (
        CONNECTION_AGE_SECONDS_MAX
    )

    @model_validator(mode="before")
    @classmethod
    def _read_url(cls, data: object) -> object:
        """Move tenantry's options from the URL's query to the fields."""
        given: dict[str, Any] = dict(data) if isinstance(data, dict) else {"url": data}
        url = given.get("url")
        text = url.get_secret_value() if isinstance(url, SecretStr) else url
        if not isinstance(text, str):
            return given
        text, options = _split_options(text)
        if twice := sorted(options.keys() & given.keys()):
            raise ValueError(f"{', '.join(twice)} is in the URL and beside it: remove one of the two")
        return given | options | {"url": SecretStr(text)}

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        _read_address(self.url.get_secret_value())
        return self

    @property
    def address(self) -> Address:
        """The server, the database and the role, without a secret."""
        return _read_address(self.url.get_secret_value())

    def connections_max_of(self, write_jobs_max: int, read_jobs_max: int) -> int:
        """Return the largest number of connections.

        By default each batch that may run at the same time has a connection, and so have a few transactions and operations. A pool of
        this size makes nobody wait.
        """
        return self.connections_max or max(write_jobs_max, read_jobs_max) + SPARE_CONNECTIONS


def url_option(field: str) -> str | None:
    """Return the option of a URL that sets a field of `PostgresConfig`; None for another name."""
    return next((option for option, name in _OPTIONS.items() if name == field), None)


def _split_options(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without tenantry's options, and the options by their fields.

    Raises:
        ValueError: An option is not known, or is there twice.
    """
    before, mark, query = url.partition("?")
    kept: list[str] = []
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if not name.startswith(_PREFIX):
            kept.append(part)
        elif name not in _OPTIONS:
            raise ValueError(f"the URL has an unknown option; tenantry's options are {', '.join(_OPTIONS)}")
        elif _OPTIONS[name] in options:
            raise ValueError(f"the URL has the option {name} twice: remove one of the two")
        else:
            options[_OPTIONS[name]] = unquote(value)
    return before + (mark if any(kept) else "") + "&".join(kept), options


def _read_address(url: str) -> Address:
    """Return the parts of a URL that may be shown.

    A password with a character that has a meaning in URLs could end up in another part, and so in a message. So such a URL is refused.

    Raises:
        ValueError: The text is not a URL of a PostgreSQL database. The message repeats nothing of the text.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("the URL must begin with postgresql://")
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True)
    except ValueError:
        raise _unreadable() from None
    credentials, _, hosts = parts.netloc.rpartition("@")
    database = parts.path.removeprefix("/")
    is_ambiguous = "@" in credentials or parts.fragment or set("@/") & set(database)
    if is_ambiguous or "\0" in url or _BAD_PERCENT.search(url):
        raise _unreadable()
    shown = _hosts(hosts, query)
    user = query.get("user", [unquote(credentials.partition(":")[0])])[0]
    return Address(shown, query.get("dbname", [unquote(database)])[0] or user, user)


def _hosts(netloc: str, query: dict[str, list[str]]) -> tuple[str, ...]:
    """Return each host with its port. Options in the query come before the part before the path, as in libpq."""
    split = [_host_and_port(one) for one in netloc.split(",")]
    hosts = query["host"][0].split(",") if "host" in query else [host for host, _ in split]
    ports = query["port"][0].split(",") if "port" in query else [port for _, port in split]
    if not all(port == "" or port.isdecimal() for port in ports) or len(ports) not in {1, len(hosts)}:
        raise _unreadable()
    if len(ports) < len(hosts):
        ports *= len(hosts)
    return tuple(host + (f":{port}" if port else "") for host, port in zip(hosts, ports, strict=True))


def _host_and_port(text: str) -> tuple[str, str]:
    """Return a host and its port; an IPv6 address is in brackets, and a socket's directory is percent-encoded."""
    host, _, port = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "")
    return unquote(host), port


def _unreadable() -> ValueError:
    return ValueError(
        "the URL cannot be read: in the user, the password and the name of the database, write the characters @ : / ? # [ ] % as "
        "%40 %3A %2F %3F %23 %5B %5D %25"
    )


def sentence_without_url(config: "PostgresConfig", message: str) -> str:
    """Return a driver's message in one line, without the password in case that the driver repeats it."""
    url = config.url.get_secret_value()
    line = " ".join(message.split())
    for secret in _secrets(url):
        line = line.replace(secret, "…")
    return line


def _secrets(url: str) -> list[str]:
    """Return the URL's secrets as they are and as the URL writes them, the longest first."""
    options = [part.partition("=") for part in url.partition("?")[2].split("&")]
    written = [value for name, _, value in options if name in _SECRET_OPTIONS]
    written.append(urlsplit(url).netloc.rpartition("@")[0].partition(":")[2])
    return sorted(filter(None, {url, *written, *map(unquote, written)}), key=len, reverse=True)
