"""Hypothesis strategies: valid instances of every model, with the extremes that storage has to survive.

Import it by name (``tests`` is on pytest's path): ``from strategies import tasks``.
"""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from tenantry.company import (
    AcceptanceCriterion,
    ArtifactType,
    Attachment,
    AttachmentType,
    AuditEntry,
    AuditVerdict,
    Complexity,
    CoordinationTopology,
    CostRecord,
    ExpectedArtifact,
    LLMCallCategory,
    Message,
    MessageMetadata,
    MessagePriority,
    MessageType,
    Priority,
    RiskLevel,
    Task,
    TaskStatus,
    TaskStructure,
    TaskType,
    ToolCategory,
)
from tenantry.storage.archive.manifest import Manifest

INT64_MAX = 2**63 - 1
_DAY = timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999)
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Any text that may be stored, blank too."""
    return st.text(_CHARACTERS, max_size=max_size)


def not_blank(max_size: int = 40) -> st.SearchStrategy[str]:
    """Text that is not all white space, with white space around it now and then."""
    return st.text(_CHARACTERS, min_size=1, max_size=max_size).filter(lambda text: not text.isspace())


def unique_names(excluded: str | None = None) -> st.SearchStrategy[tuple[str, ...]]:
    """A few different names, never `excluded`."""
    names = not_blank(10).filter(lambda name: name != excluded)
    return st.lists(names, max_size=4, unique=True).map(tuple)


def counts() -> st.SearchStrategy[int]:
    """Whole numbers up to what a 64-bit column holds."""
    return st.integers(0, INT64_MAX) | st.sampled_from([0, 1, INT64_MAX])


def amounts() -> st.SearchStrategy[float]:
    """Finite floats from 0, the smallest and the largest included."""
    extremes = [0.0, 5e-324, 0.1, 1e22, 1.7976931348623157e308]
    return st.floats(0, allow_infinity=False, allow_nan=False) | st.sampled_from(extremes)


def offsets() -> st.SearchStrategy[timezone]:
    """Time zones at any offset that Python has, to the microsecond."""
    return st.just(UTC) | st.timedeltas(-_DAY, _DAY).map(timezone)


def timestamps() -> st.SearchStrategy[datetime]:
    """Instants in the years 1 to 9999, told with many offsets."""
    wild = st.datetimes(timezones=offsets()).filter(_is_in_utc_years)
    ends = st.sampled_from([datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
    return wild | ends | st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 2), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds are what hypothesis takes


def deadlines() -> st.SearchStrategy[str]:
    """Dates and times in ISO 8601."""
    return st.dates().map(lambda day: day.isoformat()) | timestamps().map(lambda instant: instant.isoformat())


def tasks() -> st.SearchStrategy[Task]:
    """Valid tasks in every status."""
    return st.sampled_from(TaskStatus).flatmap(_tasks_in)


def cost_records() -> st.SearchStrategy[CostRecord]:
    """Valid cost records; a cost comes with tokens."""
    return st.builds(
        CostRecord,
        agent_id=not_blank(),
        task_id=not_blank(),
        provider=not_blank(),
        model=not_blank(),
        input_tokens=st.integers(1, INT64_MAX),
        output_tokens=counts(),
        cost_usd=amounts(),
        timestamp=timestamps(),
        call_category=st.none() | st.sampled_from(LLMCallCategory),
    )


def attachments() -> st.SearchStrategy[Attachment]:
    """Valid attachments."""
    return st.builds(Attachment, type=st.sampled_from(AttachmentType), ref=not_blank())


def message_metadata() -> st.SearchStrategy[MessageMetadata]:
    """Valid metadata, empty too."""
    return st.builds(
        MessageMetadata,
        task_id=st.none() | not_blank(),
        project_id=st.none() | not_blank(),
        tokens_used=st.none() | counts(),
        cost_usd=st.none() | amounts(),
        extra=st.dictionaries(not_blank(), texts(), max_size=3).map(lambda pairs: tuple(pairs.items())),
    )


def messages(channels: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Message]:
    """Valid messages; with `channels`, in these only."""
    return st.builds(
        Message,
        id=st.uuids(),
        timestamp=timestamps(),
        sender=not_blank(),
        to=not_blank(),
        channel=not_blank() if channels is None else channels,
        content=not_blank(200),
        type=st.sampled_from(MessageType),
        priority=st.sampled_from(MessagePriority),
        attachments=st.lists(attachments(), max_size=3).map(tuple),
        metadata=message_metadata(),
    )


def audit_entries() -> st.SearchStrategy[AuditEntry]:
    """Valid audit entries."""
    return st.builds(
        AuditEntry,
        id=not_blank(),
        timestamp=timestamps(),
        agent_id=st.none() | not_blank(),
        task_id=st.none() | not_blank(),
        tool_name=not_blank(),
        tool_category=st.sampled_from(ToolCategory),
        action_type=not_blank(),
        arguments_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
        verdict=st.sampled_from(AuditVerdict),
        risk_level=st.sampled_from(RiskLevel),
        reason=not_blank(),
        matched_rules=st.lists(not_blank(), max_size=3).map(tuple),
        evaluation_duration_ms=amounts(),
        approval_id=st.none() | not_blank(),
    )


def manifests() -> st.SearchStrategy[Manifest]:
    """Valid manifests of snapshots and bundles."""
    return st.builds(_manifest, is_bundle=st.booleans(), fields=_manifest_fields())


def _manifest_fields() -> st.SearchStrategy[dict[str, object]]:
    versions = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True), counts(), max_size=5)
    name = not_blank().map(lambda text: f"{text[:199]}x")  # what Python and the pattern call blank differs
    digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
    return st.fixed_dictionaries(
        {
            "snapshot_id": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,60}", fullmatch=True),
            "tenant_id": st.from_regex(r"[a-z][a-z0-9-]{0,46}[a-z0-9]", fullmatch=True),
            "tenant_uid": st.uuids().map(lambda uid: uid.hex),
            "display_name": name,
            "created_at": timestamps(),
            "trigger": st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True),
            "schema_versions": versions,
            "row_counts": st.dictionaries(texts(20), counts(), max_size=5),
            "database_bytes": counts(),
            "database_sha256": digests,
            "stored_bytes": counts(),
            "stored_sha256": digests,
            "tenantry_version": name.map(lambda text: text[-20:]),
            "sqlite_version": name.map(lambda text: text[-20:]),
        }
    )


def _manifest(fields: dict[str, object], *, is_bundle: bool) -> Manifest:
    if not is_bundle:
        return Manifest(kind="snapshot", **fields)
    stored = {"stored_bytes": fields["database_bytes"], "stored_sha256": fields["database_sha256"]}
    return Manifest(kind="bundle", **{**fields, **stored})


def _is_in_utc_years(instant: datetime) -> bool:
    try:
        instant.astimezone(UTC)
    except OverflowError:
        return False
    return True


@st.composite
def _tasks_in(draw: st.DrawFn, status: TaskStatus) -> Task:
    task_id = draw(not_blank())
    assignees = {
        TaskStatus.CREATED: st.none(),
        TaskStatus.ASSIGNED: not_blank(),
        TaskStatus.IN_PROGRESS: not_blank(),
        TaskStatus.IN_REVIEW: not_blank(),
        TaskStatus.COMPLETED: not_blank(),
    }
    assigned_to = draw(assignees.get(status, st.none() | not_blank()))
    others = not_blank().filter(lambda name: name != task_id)
    return Task(
        id=task_id,
        title=draw(not_blank()),
        description=draw(not_blank(200)),
        type=draw(st.sampled_from(TaskType)),
        priority=draw(st.sampled_from(Priority)),
        project=draw(not_blank()),
        created_by=draw(not_blank()),
        assigned_to=assigned_to,
        reviewers=draw(unique_names()),
        dependencies=draw(unique_names(excluded=task_id)),
        artifacts_expected=draw(
            st.lists(
                st.builds(ExpectedArtifact, type=st.sampled_from(ArtifactType), path=not_blank()), max_size=3
            ).map(tuple)
        ),
        acceptance_criteria=draw(
            st.lists(
                st.builds(AcceptanceCriterion, description=not_blank(), met=st.booleans()), max_size=3
            ).map(tuple)
        ),
        estimated_complexity=draw(st.sampled_from(Complexity)),
        budget_limit=draw(amounts()),
        deadline=draw(st.none() | deadlines()),
        max_retries=draw(counts()),
        status=status,
        parent_task_id=draw(st.none() | others),
        delegation_chain=draw(unique_names(excluded=assigned_to)),
        task_structure=draw(st.none() | st.sampled_from(TaskStructure)),
        coordination_topology=draw(st.sampled_from(CoordinationTopology)),
    )
