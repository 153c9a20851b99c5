"""Explains answers that do not come from tenantry: those of a proxy in front of the service, or of another server at the URL."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tenantry.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    import httpx  # of the extra "service"

_SERVER_CHARACTERS_MAX: Final = 40
_EXITS: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Exit.REFUSED}
"""For every other status in `_MEANINGS` a later try may succeed."""

# By status, what it means when it does not come from the service.
_MEANINGS: Final[dict[int, str]] = {
    HTTPStatus.REQUEST_TIMEOUT: "a proxy in front of the service waited too long for what was sent: try again",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "a proxy in front of the service refuses a body of this size: raise its limit (nginx: client_max_body_size), or send the "
        "body to the service itself"
    ),
    HTTPStatus.TOO_MANY_REQUESTS: "a proxy in front of the service limits requests: try again in a while",
    HTTPStatus.BAD_GATEWAY: (
        "a proxy cannot reach the service behind it: see that the service runs, and where the proxy looks for it"
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: (
        "the service, or a proxy in front of it, takes no requests at the moment: try again in a while"
    ),
    HTTPStatus.GATEWAY_TIMEOUT: (
        "the service behind a proxy did not answer in time, and may have done what it was asked to do ('tenantry audit list' says "
        "so): raise the proxy's limit of time (nginx: proxy_read_timeout)"
    ),
}


def foreign_response_error(response: "httpx.Response") -> CommandError:
    """Return the error of an answer that is not in tenantry's form."""
    status, server = response.status_code, response.headers.get("server")
    said = f"status {status} from {server[:_SERVER_CHARACTERS_MAX]}" if server else f"status {status}"
    where = f"{response.url.copy_with(query=None)} does not answer as tenantry does ({said})"
    meaning = _MEANINGS.get(status)
    if meaning is None:
        return CommandError(Exit.UNREACHABLE, f"{where}: is that the URL of a service?")
    return CommandError(_EXITS.get(HTTPStatus(status), Exit.LATER), f"{where}: {meaning}")
