"""The messages between two processes that have the same data directory open, encoded as MessagePack.

A process that needs a tenant of another process connects to that process, and sends a `Hello`. Then it sends requests, each with the
number of a call. The owner sends one answer for each call, in any order. A process only adds fields with defaults to the end of a
message, so that processes of two releases with one `PROTOCOL_VERSION` understand each other.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from tenantry.errors import QueryError
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sent_parameters import plain_parameters

PROTOCOL_VERSION: Final = 1

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest message."""

HELLO_BYTES_MAX: Final = 64 * 1024
"""The largest message of a process that has not introduced itself."""

TOKEN_BYTES: Final = 16

Token: TypeAlias = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
UnitNumber: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A number that SQLite can store, because marks have it."""
MEASUREMENTS_BYTES_MAX: Final = 8 * 1024 * 1024
"""The largest answer to `Measure`. A process with all 200 operations and ten outcomes of each has about 500 kB."""


class SentStatement(NamedTuple):
    """A `Statement` with its text in the dialect of the owner's database."""

    name: str
    sql: str
    parameters: tuple[Any, ...]
    fetch: Fetch


Unit: TypeAlias = Annotated[list[SentStatement], Meta(min_length=1)]


class _Message(msgspec.Struct, array_like=True, gc=False):
    """A message; a subclass has a number as its tag. The garbage collector skips messages, because no message refers to itself."""


class Hello(_Message, tag=1):
    """The first message of a connection, from the process that connects.

    Attributes:
        protocol: The sender's `PROTOCOL_VERSION`.
        token: The random token of the sending registry, 16 bytes.
        pid: The sender's process id, for logs.
        version: The sender's version of tenantry.
        schemas: The version of each schema pack that the sender has.
    """

    protocol: int
    token: Token
    pid: int
    version: str
    schemas: dict[str, int]


class Welcome(_Message, tag=2):
    """The owner's answer to `Hello`; the attributes are those of `Hello`.

    Attributes:
        host: The name of the owner's host, or of its container.
    """

    protocol: int
    pid: int
    version: str
    schemas: dict[str, int]
    host: str = ""


class Write(_Message, tag=3):
    """Asks for a unit of a tenant; see `tenantry.storage.protocol.MarkedRequest` for the numbers and the flags.

    Attributes:
        remaining_seconds: The time until the call's deadline.
        is_full: Whether the sender has no place for another tenant, so that the tenant must not be handed over to the sender.
    """

    tenant_id: str
    uid: str
    remaining_seconds: float
    number: UnitNumber
    answered_to: UnitNumber
    is_repeated: bool
    is_look_up: bool
    statements: Unit
    is_full: bool = False


class WriteOnce(_Message, tag=4):
    """Asks for a unit with an idempotency key; see `Write` for the attributes."""

    tenant_id: str
    uid: str
    remaining_seconds: float
    key: str
    payload_hash: Annotated[bytes, Meta(min_length=1, max_length=64)]
    statements: Unit
    is_full: bool = False


class Read(_Message, tag=5):
    """Asks for the result of a read-only statement; see `Write` for the attributes."""

    tenant_id: str
    uid: str
    remaining_seconds: float
    statement: SentStatement
    is_full: bool = False


class Begin(_Message, tag=6):
    """Opens a transaction. Later messages name the transaction by the number of this call."""

    tenant_id: str
    uid: str


class TransactionWrite(_Message, tag=7):
    """Asks for a unit in an open transaction."""

    transaction: int
    statements: list[SentStatement]


class TransactionRead(_Message, tag=8):
    """Asks for the result of a read-only statement in an open transaction."""

    transaction: int
    statement: SentStatement


class Commit(_Message, tag=9):
    """Commits a transaction together with the mark of this number."""

    transaction: int
    number: UnitNumber
    answered_to: UnitNumber


class Rollback(_Message, tag=10):
    """Rolls a transaction back."""

    transaction: int


class Cancel(_Message, tag=11):
    """Gives the call up whose number the message has. There is no answer to this message, and none to the call."""


class Done(_Message, tag=12):
    """The answer to a call that succeeded."""

    result: Any


class Failed(_Message, tag=13):
    """The answer to a call that failed, or to a `Hello` that is refused; see `tenantry.tenancy.peers.connections.sent_errors`.

    Attributes:
        classes: The names of the error's class and of its base classes up to `TenantryError`.
        message: The error's message.
        attributes: The error's attributes that are plain values.
    """

    classes: list[str]
    message: str
    attributes: dict[str, Any]


class NotOwner(_Message, tag=14):
    """The answer to a call of a tenant that the process does not have open. The call ran nowhere."""


class Release(_Message, tag=15):
    """Closes a tenant, and keeps it closed at the receiver. The answer means that the tenant is closed.

    The tenant's callers at the receiver wait until the sender gives this call up with `Cancel`, or the connection ends.

    Attributes:
        action: The name of the operation that needs the database, for errors.
    """

    tenant_id: str
    uid: str
    action: str


class Refresh(_Message, tag=16):
    """Asks the owner to apply the tenant's record, which the sender has changed in the catalog."""

    tenant_id: str
    uid: str


class Copy(_Message, tag=17):
    """Asks for a consistent copy of a tenant's database in a new file.

    Attributes:
        path: The path of the file, relative to the folder ``scratch`` of the data directory: two containers may mount the data
            directory at different paths.
    """

    tenant_id: str
    uid: str
    path: str


class Check(_Message, tag=18):
    """Asks for a check of a tenant's database; see `TenantActor.check_integrity`."""

    tenant_id: str
    uid: str
    is_thorough: bool


class Statistics(_Message, tag=19):
    """Asks for the counters of an open tenant, an `ActorStatistics`."""

    tenant_id: str
    uid: str


class Ping(_Message, tag=20):
    """Asks for an answer, as a sign that the receiver's event loop runs."""


class UnitsDone(_Message, tag=21):
    """The answer to several units that succeeded and have no results; a `Done` for each would be most of the cost of their answers.

    Attributes:
        calls: The numbers of the calls. The message has the number of the first.
    """

    calls: Annotated[list[int], Meta(min_length=1)]


class Measure(_Message, tag=40):
    """Asks for the numbers of the process; see `tenantry.tenancy.measurements`."""


class SentMeasurements(_Message, tag=41):
    """The answer to `Measure`.

    Attributes:
        families: The families, encoded by `tenantry.tenancy.peers.sent_measurements`.
    """

    families: Annotated[bytes, msgspec.Meta(max_length=MEASUREMENTS_BYTES_MAX)]


TenantRequest: TypeAlias = Write | WriteOnce | Read
TransactionRequest: TypeAlias = Begin | TransactionWrite | TransactionRead | Commit | Rollback
OperatorRequest: TypeAlias = Refresh | Copy | Check | Statistics
Request: TypeAlias = (
    Hello | TenantRequest | TransactionRequest | OperatorRequest | Release | Ping | Cancel | Measure
)
Answer: TypeAlias = Welcome | Done | UnitsDone | Failed | NotOwner | SentMeasurements

_encoder = msgspec.msgpack.Encoder()
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def encode(message: _Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        QueryError: A parameter or a result cannot be sent, or the message is larger than `FRAME_BYTES_MAX`.
    """
    try:
        encoded = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise QueryError(
            f"a value cannot be sent to the process that has the tenant open: {error}"
        ) from error
    if len(encoded) > FRAME_BYTES_MAX:
        raise QueryError(
            f"the call has {len(encoded)} bytes, but a call to a tenant that another process has open may have at most "
            f"{FRAME_BYTES_MAX} bytes: use several smaller calls"
        )
    return encoded


def sent(statement: Statement, dialect: str) -> SentStatement:
    """Return a statement as it is sent.

    Raises:
        QueryError: The statement has no text for the dialect, or a parameter cannot be sent.
    """
    return SentStatement(
        statement.name,
        statement.text(dialect),
        plain_parameters(statement.parameters, name=statement.name),
        statement.fetch,
    )


def received(statements: Sequence[SentStatement]) -> tuple[Statement, ...]:
    """Return the statements that another process sent."""
    return tuple(map(received_statement, statements))


def received_statement(statement: SentStatement) -> Statement:
    """Return a statement that another process sent."""
    # `Statement(*statement)` would do the same in three times as long.
    return tuple.__new__(Statement, statement)  # type: ignore[type-var]  # a tuple, see `_Fields`
