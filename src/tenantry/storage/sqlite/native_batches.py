"""A store's batches in the engine: what a batch consists of, and the outcomes of a batch that has ended."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from tenantry.errors import TenantryError
from tenantry.sql.statements import Statement
from tenantry.storage.protocol import KeyedRequest, MarkedRequest, ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.engine.native import WRITE, NativeBatch, driver_error, results_with_names
from tenantry.storage.sqlite.errors import map_error
from tenantry.storage.sqlite.statements import idempotency, marks
from tenantry.storage.sqlite.store_errors import StoreErrors


def batch_of_writes(writer: JobConnection, requests: Sequence[Request]) -> NativeBatch | None:
    """Return a batch with the requests, their keys and their marks; None if the requests must run in Python."""
    if all(request.__class__ is tuple for request in requests):
        return writer.batch(WRITE, requests)
    if not writer.has_engine:  # in Python, keys and marks are stored after the units have run
        return None
    units: list[Request] = []
    for request in requests:
        unit = _plain_unit(request)
        if unit is None:
            return None
        units.append(unit)
    rows = marks.rows_of_plain_units(requests)
    if rows:
        units.append(tuple(rows))
    return writer.batch(WRITE, units, is_whole=bool(rows))


def _plain_unit(request: Request) -> Request | None:
    if isinstance(request, KeyedRequest):
        return idempotency.once_unit(request)
    return marks.plain_unit(request) if isinstance(request, MarkedRequest) else request


def outcomes_of_writes(
    requests: Sequence[Request], ended: NativeBatch, errors: StoreErrors
) -> list[WriteOutcome]:
    """Return one outcome for each request."""
    outcomes: list[Any]
    refusal = ended.refusal()
    if refusal is not None:
        outcomes = [_refused(request, refusal, errors) for request in requests]
    else:
        outcomes = ended.results()[: len(requests)]  # without the marks
        if ended.has_names or any(request.__class__ is KeyedRequest for request in requests):
            outcomes = [_outcome(*pair) for pair in zip(requests, outcomes, strict=True)]
    if ended.has_errors:
        for index, *refused in ended.errors():
            outcomes[index] = _refused(requests[index], refused, errors)
    return outcomes


def _outcome(request: Request, results: list[Any]) -> WriteOutcome:
    if isinstance(request, KeyedRequest):
        return idempotency.outcome_of_once_unit(request, results)
    return results_with_names(request, results)


def outcomes_of_reads(statements: Sequence[Statement], ended: NativeBatch) -> list[ReadOutcome]:
    """Return one outcome for each statement."""
    results: list[ReadOutcome] = ended.results()
    return results_with_names(statements, results) if ended.has_names else results


def outcome_of_unit(request: Request, errors: StoreErrors, ended: NativeBatch) -> WriteOutcome:
    """Return the outcome of a unit inside a transaction."""
    (outcome,) = outcomes_of_writes([request], ended, errors)
    return outcome


def outcome_of_read(statement: Statement, errors: StoreErrors, ended: NativeBatch) -> ReadOutcome:
    """Return the outcome of a statement inside a transaction."""
    refusal = ended.refusal()
    if refusal is not None:
        return _refused((statement,), refusal, errors)
    (outcome,) = outcomes_of_reads([statement], ended)
    return outcome


def _refused(request: Request, refusal: Sequence[Any], errors: StoreErrors) -> TenantryError:
    name = request[0].name
    if refusal[0] == sqlite3.SQLITE_IOERR_DIR_FSYNC:
        return errors.log_not_durable(refusal[1].decode())
    return errors.with_limit_named(map_error(driver_error(*refusal), name), name)
