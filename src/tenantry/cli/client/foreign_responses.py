"""Explains responses that come from a proxy in front of tenantry, or from another server, instead of from tenantry."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tenantry.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    import httpx  # slow to import

_SERVER_CHARACTERS_MAX: Final = 40

# The meaning of each status in a response that does not come from the service.
_MEANINGS: Final[dict[int, str]] = {
    HTTPStatus.REQUEST_TIMEOUT: "a proxy in front of the service timed out while it received the request: try again",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "a proxy in front of the service refuses a body of this size: raise the proxy's limit (nginx: client_max_body_size), or "
        "send the request directly to the service"
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
    """Return the error for a response that does not have tenantry's format."""
    status, server = response.status_code, response.headers.get("server")
    said = f"status {status} from {server[:_SERVER_CHARACTERS_MAX]}" if server else f"status {status}"
    where = f"the response of {response.url.copy_with(query=None)} is not from tenantry ({said})"
    meaning = _MEANINGS.get(status)
    if meaning is None:
        return CommandError(Exit.UNREACHABLE, f"{where}: check the URL of the service")
    # A retry may succeed after every other status in `_MEANINGS`.
    is_final = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return CommandError(Exit.REFUSED if is_final else Exit.LATER, f"{where}: {meaning}")
