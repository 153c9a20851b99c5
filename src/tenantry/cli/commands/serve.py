"""``tenantry serve``: serves the admin API of a data directory."""

import ipaddress
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.client.target import choose_data_dir, choose_storage, name_schemas, note_other_owner
from tenantry.cli.command import DataDirOption, SchemaOption, StorageOption, ending, run_async
from tenantry.cli.exits import CommandError, Exit, needs_extra
from tenantry.cli.output import print_note, print_text
from tenantry.environment import ALLOWED_HOSTS, DRAIN_SECONDS, GRACEFUL_SECONDS

if TYPE_CHECKING:
    from tenantry.server.settings import ServeSettings, Tls

PORT_DEFAULT: Final = 8321
_LOOPBACK: Final = "127.0.0.1"
_LISTENING: Final = "Listening"

_PortOption = Annotated[
    int, typer.Option(min=0, max=65_535, help="The port; 0 for any free port.", rich_help_panel=_LISTENING)
]
_SECONDS_MAX: Final = 3600.0
_STOPPING: Final = "Stopping"
_FileOption = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, rich_help_panel=_LISTENING, help="A PEM file.")
]


def serve(
    *,
    data_dir: DataDirOption = None,
    storage: StorageOption = None,
    schema: SchemaOption = None,
    host: Annotated[
        str,
        typer.Option(
            help="The IP address to listen on. Any address but loopback needs an API key, and TLS or --behind-proxy.",
            rich_help_panel=_LISTENING,
        ),
    ] = _LOOPBACK,
    port: _PortOption = PORT_DEFAULT,
    metrics_host: Annotated[
        str, typer.Option(help="The address of --metrics-port.", rich_help_panel=_LISTENING)
    ] = _LOOPBACK,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Serve /metrics, /healthz and /readyz at this port instead of the API's port.",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    tls_cert: _FileOption = None,
    tls_key: _FileOption = None,
    is_behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="All requests come through a proxy that has TLS and appends X-Forwarded-For.",
            rich_help_panel=_LISTENING,
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar=ALLOWED_HOSTS,
            metavar="NAME",
            help="A host name of the service, in addition to IP addresses and localhost; may be repeated. *.example.com allows all "
            "names below example.com, and * allows all names. Default with TLS: all names.",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar=DRAIN_SECONDS,
            min=0,
            max=_SECONDS_MAX,
            help="The time after the stop signal in which the service still accepts requests. During this time /readyz responds "
            "with 503, so that load balancers choose another server.",
            rich_help_panel=_STOPPING,
        ),
    ] = 0.0,
    graceful_seconds: Annotated[
        float | None,
        typer.Option(
            envvar=GRACEFUL_SECONDS,
            min=0,
            max=_SECONDS_MAX,
            help="The time that running requests may take after the drain.",
            show_default="TENANTRY_SHUTDOWN_TIMEOUT_SECONDS, 30",
            rich_help_panel=_STOPPING,
        ),
    ] = None,
) -> None:
    """Serve the admin API of a data directory until SIGTERM or Ctrl-C, and print its URL. SIGHUP reloads the certificate."""
    from tenantry.config import RegistryConfig
    from tenantry.schemas.loading import load_schemas
    from tenantry.server.errors import DataDirectoryUnavailableError, ServeSettingsError
    from tenantry.server.settings import Endpoint, ServeSettings
    from tenantry.server.signals import user_signals_ignored

    with user_signals_ignored(), ending(is_json=False):
        config = RegistryConfig.from_environment(data_dir=choose_data_dir(data_dir))
        settings = ServeSettings(
            config=config,
            snapshot_storage=choose_storage(storage, config.data_dir),
            schemas=load_schemas(name_schemas(schema)),
            api=Endpoint(_checked_host("--host", host), port),
            probes=None
            if metrics_port is None
            else Endpoint(_checked_host("--metrics-host", metrics_host), metrics_port),
            tls=_checked_tls(tls_cert, tls_key),
            is_behind_proxy=is_behind_proxy,
            allowed_hosts=tuple(map(_checked_name, allowed_host or ())),
            drain_seconds=_checked_seconds("--drain-seconds", drain_seconds),
            graceful_seconds=_checked_seconds(
                "--graceful-seconds",
                config.shutdown_timeout_seconds if graceful_seconds is None else graceful_seconds,
            ),
        )
        _check_may_listen(settings)
        with needs_extra():
            from tenantry.server.service import run_service
        note_other_owner(config.data_dir)
        try:
            run_async(run_service(settings, announce=_announce, warn=print_note))
        except ServeSettingsError as error:
            raise CommandError(Exit.USAGE, str(error)) from error
        except DataDirectoryUnavailableError as error:
            raise CommandError(Exit.UNREACHABLE, str(error)) from error


def _announce(line: str) -> None:
    """Print a line; if the line cannot be printed, continue to serve."""
    try:
        print_text(line)
    except CommandError as error:
        print_note(str(error))


def _checked_host(option: str, text: str) -> str:
    host = _LOOPBACK if text == "localhost" else text
    try:
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"{option}: {text!r} is not an IP address") from error


def _checked_seconds(option: str, seconds: float) -> float:
    if math.isnan(seconds):  # typer's limits do not refuse nan
        raise CommandError(Exit.USAGE, f"{option}: nan is not a number of seconds")
    return seconds


def _checked_name(text: str) -> str:
    # The pattern has the characters of a host name in a Host header (RFC 3986, section 3.2.2), without a port.
    if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9._~-]+", text):
        raise CommandError(
            Exit.USAGE,
            f"--allowed-host: {text!r} is not a host name: give the name without a scheme and a port",
        )
    return text


def _checked_tls(cert: Path | None, key: Path | None) -> "Tls | None":
    from tenantry.server.settings import Tls

    if (cert is None) is not (key is None):
        raise CommandError(Exit.USAGE, "--tls-cert and --tls-key belong together: give both")
    return None if cert is None or key is None else Tls(cert, key)


def _check_may_listen(settings: "ServeSettings") -> None:
    if settings.api == settings.probes and settings.api.port != 0:
        raise CommandError(
            Exit.USAGE,
            f"--port and --metrics-port are both {settings.api.port}: choose another port for the metrics, or omit --metrics-port",
        )
    if settings.is_exposed and settings.tls is None and not settings.is_behind_proxy:
        raise CommandError(
            Exit.USAGE,
            "the service does not listen beyond this machine without TLS, because others could read keys: give --tls-cert and "
            "--tls-key, or --behind-proxy if a proxy in front of the service has TLS",
        )
