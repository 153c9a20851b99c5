"""Explains responses that do not come from tenantry, but from a proxy in front of it or from another server at the URL."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tenantry.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    import httpx  # slow to import

_SERVER_CHARACTERS_MAX: Final = 40

# What each status means if it does not come from the service.
_MEANINGS: Final[dict[int, str]] = {
    HTTPStatus.REQUEST_TIMEOUT: "a proxy in front of the service timed out while it received the request: try again",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "a proxy in front of the service refuses a body of this size: raise its limit (nginx: client_max_body_size), or send the "
        "body to the service itself"
    ),
    HTTPStatus.TOO_MANY_REQUESTS: "a proxy in front of the service limits requests: try again later",
    HTTPStatus.BAD_GATEWAY: (
        "a proxy cannot reach the service behind it: check that the service runs, and the address in the proxy's settings"
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: (
        "the service, or a proxy in front of it, accepts no requests at the moment: try again later"
    ),
    HTTPStatus.GATEWAY_TIMEOUT: (
        "the service behind a proxy did not answer in time, and may have carried out the request (see 'tenantry audit list'): raise "
        "the proxy's timeout (nginx: proxy_read_timeout)"
    ),
}


def foreign_response_error(response: "httpx.Response") -> CommandError:
    """Return the error of a response that is not in tenantry's form."""
    status, server = response.status_code, response.headers.get("server")
    said = f"status {status} from {server[:_SERVER_CHARACTERS_MAX]}" if server else f"status {status}"
    where = f"{response.url.copy_with(query=None)} does not answer as tenantry does ({said})"
    meaning = _MEANINGS.get(status)
    if meaning is None:
        return CommandError(Exit.UNREACHABLE, f"{where}: is that the URL of a service?")
    # For every other status with a meaning a later try may succeed.
    is_final = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return CommandError(Exit.REFUSED if is_final else Exit.LATER, f"{where}: {meaning}")
