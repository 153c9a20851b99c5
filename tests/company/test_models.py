"""What the company's models take and what they refuse: the rules of each field, and a task's life."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from strategies import audit_entries, cost_records, messages, tasks, timestamps
from tenantry import company
from tenantry.company import (
    TASK_TRANSITIONS,
    AcceptanceCriterion,
    Attachment,
    AuditEntry,
    CostRecord,
    ExpectedArtifact,
    Message,
    MessageMetadata,
    Task,
    TaskStatus,
)
from tenantry.company.types import format_timestamp

INT64_MAX = 2**63 - 1
Fields: TypeAlias = dict[type[BaseModel], list[str]]
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

# The least that each model takes.
VALID: dict[type[BaseModel], dict[str, Any]] = {
    ExpectedArtifact: {"type": "code", "path": "src/a.py"},
    AcceptanceCriterion: {"description": "it runs"},
    Task: {
        "id": "t-1",
        "title": "Title",
        "description": "What to do",
        "type": "research",
        "project": "apollo",
        "created_by": "ada",
    },
    CostRecord: {
        "agent_id": "ada",
        "task_id": "t-1",
        "provider": "acme",
        "model": "large",
        "input_tokens": 1,
        "output_tokens": 0,
        "cost_usd": 0.25,
        "timestamp": NOON,
    },
    Attachment: {"type": "link", "ref": "https://example.com"},
    MessageMetadata: {},
    Message: {
        "timestamp": NOON,
        "sender": "ada",
        "to": "bob",
        "channel": "general",
        "content": "Hello",
        "type": "question",
    },
    AuditEntry: {
        "id": "a-1",
        "timestamp": NOON,
        "tool_name": "grep",
        "tool_category": "terminal",
        "action_type": "read",
        "arguments_hash": "0123456789abcdef" * 4,
        "verdict": "allow",
        "risk_level": "low",
        "reason": "harmless",
        "evaluation_duration_ms": 0.5,
    },
}

NOT_BLANK: Fields = {
    ExpectedArtifact: ["path"],
    AcceptanceCriterion: ["description"],
    Task: [
        "id",
        "title",
        "description",
        "project",
        "created_by",
        "assigned_to",
        "parent_task_id",
        "deadline",
    ],
    CostRecord: ["agent_id", "task_id", "provider", "model"],
    Attachment: ["ref"],
    MessageMetadata: ["task_id", "project_id"],
    Message: ["sender", "to", "channel", "content"],
    AuditEntry: ["id", "agent_id", "task_id", "tool_name", "action_type", "reason", "approval_id"],
}
NOT_BLANK_TUPLES: Fields = {
    Task: ["reviewers", "dependencies", "delegation_chain"],
    AuditEntry: ["matched_rules"],
}
COUNTS: Fields = {
    Task: ["max_retries"],
    CostRecord: ["input_tokens", "output_tokens"],
    MessageMetadata: ["tokens_used"],
}
AMOUNTS: Fields = {
    Task: ["budget_limit"],
    CostRecord: ["cost_usd"],
    MessageMetadata: ["cost_usd"],
    AuditEntry: ["evaluation_duration_ms"],
}
TIMESTAMPS: Fields = {CostRecord: ["timestamp"], Message: ["timestamp"], AuditEntry: ["timestamp"]}
BLANK_TEXTS = ["", " ", "\t\r\n", "\x1c", "\u2003\u3000\u0085"]
UNSTORABLE_TEXTS = ["\0", "a\0b", "\ud800", "a\udfff"]


def build(model: type[BaseModel], /, **changes: Any) -> Any:
    """Build the least that the model takes, with changes."""
    return model.model_validate({**VALID[model], **changes})


def each(fields: Fields) -> list[Any]:
    """Return (model, field) parameters with readable ids."""
    return [
        pytest.param(model, name, id=f"{model.__name__}.{name}") for model in fields for name in fields[model]
    ]


def field_of(error: ValidationError) -> set[str | int]:
    """Return the names of the fields that the error is about."""
    return {detail["loc"][0] for detail in error.errors() if detail["loc"]}


@pytest.mark.parametrize("model", VALID, ids=lambda model: model.__name__)
class TestEveryModel:
    """What all models share."""

    def test_is_frozen(self, model: type[BaseModel]):
        """A record never changes after it was validated."""
        record = build(model)
        name = next(iter(model.model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, name, getattr(record, name))

    def test_refuses_unknown_fields(self, model: type[BaseModel]):
        """A misspelt field is an error, not lost data."""
        with pytest.raises(ValidationError, match="extra_forbidden"):
            build(model, surprise=1)

    def test_needs_its_required_fields(self, model: type[BaseModel]):
        """Each field without a default has to be given."""
        for name in VALID[model]:
            given_fields = {key: value for key, value in VALID[model].items() if key != name}
            if model.model_fields[name].is_required():
                with pytest.raises(ValidationError, match="missing"):
                    model.model_validate(given_fields)

    def test_can_be_hashed(self, model: type[BaseModel]):
        """A frozen record of hashable values goes into sets."""
        assert len({build(model, **_same_id(model)), build(model, **_same_id(model))}) == 1


def _same_id(model: type[BaseModel]) -> dict[str, Any]:
    return {"id": UUID(int=1)} if model is Message else {}


@pytest.mark.parametrize(("model", "name"), each(NOT_BLANK))
class TestNotBlank:
    """Text that has to say something."""

    @pytest.mark.parametrize("text", [*BLANK_TEXTS, *UNSTORABLE_TEXTS], ids=ascii)
    def test_refuses_what_is_blank_or_cannot_be_stored(self, model: type[BaseModel], name: str, text: str):
        """Blank is what `str.isspace` says; NUL and lone surrogates fit no column."""
        with pytest.raises(ValidationError) as caught:
            build(model, **{name: text})
        assert field_of(caught.value) == {name}

    def test_does_not_strip(self, model: type[BaseModel], name: str):
        """White space around the text is the caller's."""
        if name == "deadline":
            return  # it has to parse as it is
        changes = {"status": "assigned"} if name == "assigned_to" else {}
        assert getattr(build(model, **{name: " é\n"}, **changes), name) == " é\n"


@pytest.mark.parametrize(("model", "name"), each(NOT_BLANK_TUPLES))
@pytest.mark.parametrize("text", ["", " ", "a\0", "\udc00"], ids=ascii)
def test_texts_in_tuples_are_not_blank(model: type[BaseModel], name: str, text: str):
    """The rule for text holds inside a tuple as well."""
    with pytest.raises(ValidationError):
        build(model, **{name: ("fine", text)})


@pytest.mark.parametrize(("model", "name"), each(COUNTS))
def test_counts_fit_a_signed_64_bit_column(model: type[BaseModel], name: str):
    """From 0 to 2**63 - 1, and nothing around it."""
    assert getattr(build(model, **{name: INT64_MAX}), name) == INT64_MAX
    changes = {"cost_usd": 0.0} if model is CostRecord else {}
    assert getattr(build(model, **{name: 0}, **changes), name) == 0
    for value in (-1, INT64_MAX + 1, 10**400, 0.5):
        with pytest.raises(ValidationError):
            build(model, **{name: value})


@pytest.mark.parametrize(("model", "name"), each(AMOUNTS))
def test_amounts_are_finite_and_not_negative(model: type[BaseModel], name: str):
    """NaN and the infinities are no amounts."""
    for value in (0.0, 5e-324, 1.7976931348623157e308):
        assert getattr(build(model, **{name: value}), name) == value
    for value in (-5e-324, -1.0, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValidationError):
            build(model, **{name: value})


@pytest.mark.parametrize(("model", "name"), each(TIMESTAMPS))
class TestTimestamp:
    """Instants."""

    @pytest.mark.parametrize(
        "value",
        [
            datetime(2026, 1, 31, 12),  # noqa: DTZ001 - naive is what is refused
            "2026-01-31T12:00:00",
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))),
        ],
        ids=["naive", "naive-text", "before-year-1", "after-year-9999"],
    )
    def test_refuses_what_has_no_place_in_utc(self, model: type[BaseModel], name: str, value: object):
        """Without an offset it is no instant; outside of years 1 to 9999 it has no fixed-width form."""
        with pytest.raises(ValidationError) as caught:
            build(model, **{name: value})
        assert field_of(caught.value) == {name}

    def test_keeps_the_instant_and_not_the_offset(self, model: type[BaseModel], name: str):
        """In a zone's repeated hour a zoned time equals nothing but itself; the model's must survive a round trip."""
        repeated = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
        record = build(model, **{name: repeated})
        assert getattr(record, name) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
        assert model.model_validate_json(record.model_dump_json()) == record


@given(timestamps(), timestamps())
def test_text_order_is_time_order(one: datetime, other: datetime):
    """Timestamps compare as text just as they do as instants, and parse back to them."""
    texts = format_timestamp(one), format_timestamp(other)
    assert (texts[0] < texts[1]) is (one < other)
    assert {len(text) for text in texts} == {len("2026-01-31T12:00:00.000000Z")}
    assert datetime.fromisoformat(texts[0]) == one


def test_format_timestamp_pads_the_year():
    """Year 1 has four digits too, which not every platform's strftime gives."""
    assert format_timestamp(datetime(1, 2, 3, tzinfo=UTC)) == "0001-02-03T00:00:00.000000Z"


def test_format_timestamp_refuses_a_naive_time():
    """Python would take it for local time."""
    with pytest.raises(ValueError, match="time zone"):
        format_timestamp(datetime(2026, 1, 31))  # noqa: DTZ001 - naive is what is refused


@given(st.one_of(tasks(), cost_records(), messages(), audit_entries()), st.booleans())
def test_json_round_trip_is_an_equality(record: BaseModel, by_alias: bool):  # noqa: FBT001 - drawn
    """Whatever a model takes, it writes as JSON and reads back as the same."""
    assert type(record).model_validate_json(record.model_dump_json(by_alias=by_alias)) == record


ENUMS = {
    "TaskType": "development design research review meeting admin",
    "Priority": "critical high medium low",
    "Complexity": "simple medium complex epic",
    "TaskStatus": "created assigned in_progress in_review completed blocked failed interrupted cancelled",
    "TaskStructure": "sequential parallel mixed",
    "CoordinationTopology": "sas centralized decentralized context_dependent auto",
    "ArtifactType": "code tests documentation",
    "LLMCallCategory": "productive coordination system",
    "MessageType": (
        "task_update question announcement review_request approval delegation status_report escalation "
        "meeting_contribution"
    ),
    "MessagePriority": "low normal high urgent",
    "AttachmentType": "artifact file link",
    "ToolCategory": (
        "file_system code_execution version_control web database terminal design communication analytics "
        "deployment mcp other"
    ),
    "AuditVerdict": "allow deny escalate output_scan",
    "RiskLevel": "low medium high critical",
}


@pytest.mark.parametrize("name", ENUMS)
def test_enum_values_are_the_contract(name: str):
    """The values are stored: one that is renamed loses rows."""
    assert [member.value for member in getattr(company, name)] == ENUMS[name].split()


def test_defaults():
    """What is left out has the contract's value."""
    task = build(Task)
    assert (task.priority, task.estimated_complexity, task.status) == ("medium", "medium", "created")
    assert (task.budget_limit, task.max_retries, task.coordination_topology) == (0.0, 1, "auto")
    assert task.assigned_to is task.deadline is task.parent_task_id is task.task_structure is None
    assert task.reviewers == task.dependencies == task.delegation_chain == ()
    assert task.artifacts_expected == task.acceptance_criteria == ()
    assert build(AcceptanceCriterion).met is False
    assert build(CostRecord).call_category is None
    message = build(Message)
    assert (message.priority, message.attachments, message.metadata) == ("normal", (), MessageMetadata())
    assert message.id != build(Message).id
    assert message.id.version == 4
    assert build(AuditEntry).matched_rules == ()


class TestTask:
    """Rules between a task's fields."""

    @pytest.mark.parametrize("name", ["reviewers", "dependencies", "delegation_chain"])
    def test_lists_of_names_are_unique(self, name: str):
        """The same name twice is a mistake."""
        with pytest.raises(ValidationError, match="same value twice"):
            build(Task, **{name: ("a", "b", "a")})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dependencies": ("t-0", "t-1")}, "depend on itself"),
            ({"parent_task_id": "t-1"}, "own parent"),
            (
                {"status": "assigned", "assigned_to": "ada", "delegation_chain": ("ada",)},
                "must not contain assigned_to",
            ),
        ],
    )
    def test_refuses_to_point_at_itself(self, changes: dict[str, Any], message: str):
        """A task depends on others, has another parent, and was not delegated by who has it."""
        with pytest.raises(ValidationError, match=message):
            build(Task, **changes)

    @pytest.mark.parametrize(
        "deadline", ["2026-01-31", "2026-01-31T12:00:00+01:00", "20260131T120000Z", "2026-W05-6"]
    )
    def test_keeps_a_deadline_as_written(self, deadline: str):
        """Any date or time in ISO 8601 is a deadline; the text is kept."""
        assert build(Task, deadline=deadline).deadline == deadline

    @pytest.mark.parametrize("deadline", ["tomorrow", "2026-13-01", " 2026-01-31", "2026-01-31T25:00"])
    def test_refuses_a_deadline_that_is_no_date(self, deadline: str):
        """A deadline has to parse."""
        with pytest.raises(ValidationError, match="ISO 8601"):
            build(Task, deadline=deadline)

    @pytest.mark.parametrize("status", TaskStatus)
    def test_status_says_whether_someone_is_assigned(self, status: TaskStatus):
        """`created` has nobody, work in hand has someone, the others take either."""
        takes = {
            True: status != "created",
            False: status not in {"assigned", "in_progress", "in_review", "completed"},
        }
        for is_assigned, is_valid in takes.items():
            fields = {"status": status, "assigned_to": "ada" if is_assigned else None}
            if is_valid:
                assert build(Task, **fields).status is status
            else:
                with pytest.raises(ValidationError, match="assigned_to"):
                    build(Task, **fields)


STEPS = {
    "created": "assigned",
    "assigned": "in_progress blocked cancelled failed interrupted",
    "in_progress": "in_review blocked cancelled failed interrupted",
    "in_review": "completed in_progress blocked cancelled",
    "blocked": "assigned",
    "failed": "assigned",
    "interrupted": "assigned",
    "completed": "",
    "cancelled": "",
}


class TestTransitions:
    """A task's life."""

    def test_table_is_the_contract(self):
        """The table says what DOMAIN.md says, for every status."""
        assert {status: set(targets) for status, targets in TASK_TRANSITIONS.items()} == {
            TaskStatus(status): {TaskStatus(target) for target in targets.split()}
            for status, targets in STEPS.items()
        }

    @pytest.mark.parametrize("current", TaskStatus)
    @pytest.mark.parametrize("target", TaskStatus)
    def test_every_pair(self, current: TaskStatus, target: TaskStatus):
        """A step in the table gives a new task; any other names both states."""
        task = build(Task, status=current, assigned_to=None if current == "created" else "ada")
        if target in STEPS[current].split():
            moved = task.with_transition(target, assigned_to="bob")
            assert (moved.status, moved.assigned_to) == (target, "bob")
            assert task.status is current
        else:
            with pytest.raises(ValueError, match=f"from {current} to {target}"):
                task.with_transition(target, assigned_to="bob")

    def test_validates_the_whole_task_again(self):
        """An assignment without an assignee, and a field that does not exist, are refused."""
        with pytest.raises(ValidationError, match="needs assigned_to"):
            build(Task).with_transition(TaskStatus.ASSIGNED)
        with pytest.raises(ValidationError, match="extra_forbidden"):
            build(Task).with_transition(TaskStatus.ASSIGNED, assigned_to="ada", surprise=1)
        with pytest.raises(ValidationError, match="delegation_chain"):
            build(Task, delegation_chain=("ada",)).with_transition(TaskStatus.ASSIGNED, assigned_to="ada")

    def test_refuses_to_override_the_status(self):
        """There is one way to say where the task goes."""
        with pytest.raises(ValueError, match="must not contain status"):
            build(Task).with_transition(TaskStatus.ASSIGNED, status="completed")

    @given(tasks(), st.data())
    def test_keeps_every_other_field(self, task: Task, data: st.DataObject):
        """Only the status and what was overridden differ."""
        targets = sorted(TASK_TRANSITIONS[task.status])
        if targets:
            target = data.draw(st.sampled_from(targets))
            assignee = "-" * 50  # longer than any name that is drawn
            moved = task.with_transition(target, assigned_to=assignee)
            assert moved == task.model_copy(update={"status": target, "assigned_to": assignee})


@pytest.mark.parametrize(
    ("tokens", "cost", "is_valid"), [((0, 0), 0.01, False), ((0, 0), 0.0, True), ((0, 1), 0.01, True)]
)
def test_a_cost_needs_tokens(tokens: tuple[int, int], cost: float, is_valid: bool):  # noqa: FBT001 - a table's column
    """Money without a single token is a mistake in the caller's books."""
    fields = {"input_tokens": tokens[0], "output_tokens": tokens[1], "cost_usd": cost}
    if is_valid:
        assert build(CostRecord, **fields).cost_usd == cost
    else:
        with pytest.raises(ValidationError, match="tokens"):
            build(CostRecord, **fields)


class TestMessage:
    """What is special about messages."""

    def test_sender_goes_by_either_name(self):
        """`from` is the name in JSON, and a keyword in Python."""
        others = {key: value for key, value in VALID[Message].items() if key != "sender"}
        by_alias = Message.model_validate({**others, "from": "ada"})
        assert by_alias.sender == build(Message).sender == "ada"
        assert json.loads(by_alias.model_dump_json(by_alias=True))["from"] == "ada"

    def test_extra_keys_are_unique_and_not_blank(self):
        """A key says something, and once; a value may be blank."""
        extra = (("a", ""), ("b", " "))
        assert build(MessageMetadata, extra=extra).extra == extra
        for pairs in (
            (("a", "1"), ("a", "2")),
            ((" ", "1"),),
            (("a", "b\0"),),
            (("a", "\ud800"),),
            (("a\0", "b"),),
        ):
            with pytest.raises(ValidationError):
                build(MessageMetadata, extra=pairs)


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", "\u0660" * 64]
)
def test_arguments_hash_is_64_lower_case_hex_digits(digest: str):
    """A digest has one spelling, so that equal arguments have equal digests."""
    with pytest.raises(ValidationError, match="arguments_hash"):
        build(AuditEntry, arguments_hash=digest)
