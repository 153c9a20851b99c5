"""The company's models, which are frozen and validated. The repositories take and return these models."""

from typing import Any, Self
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tenantry.company.enums import (
    ArtifactType,
    AttachmentType,
    AuditVerdict,
    Complexity,
    CoordinationTopology,
    LLMCallCategory,
    MessagePriority,
    MessageType,
    Priority,
    RiskLevel,
    TaskStatus,
    TaskStructure,
    TaskType,
    ToolCategory,
)
from tenantry.company.transitions import (
    STATUSES_WITH_ASSIGNEE,
    STATUSES_WITHOUT_ASSIGNEE,
    check_transition,
)
from tenantry.company.types import Amount, Iso8601Str, NotBlankStr, Text, UniqueTuple
from tenantry.values import Count, Sha256Str, Timestamp


class _Record(BaseModel):
    """The base of all models; models are frozen and reject unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExpectedArtifact(_Record):
    """A result that a task should produce."""

    type: ArtifactType
    path: NotBlankStr


class AcceptanceCriterion(_Record):
    """A condition for the acceptance of a task."""

    description: NotBlankStr
    met: bool = False


class Task(_Record):
    """A piece of work and its agents; the status decides whether `assigned_to` is required, forbidden or optional."""

    id: NotBlankStr
    title: NotBlankStr
    description: NotBlankStr
    type: TaskType
    priority: Priority = Priority.MEDIUM
    project: NotBlankStr
    created_by: NotBlankStr
    assigned_to: NotBlankStr | None = None
    reviewers: UniqueTuple[NotBlankStr] = ()
    dependencies: UniqueTuple[NotBlankStr] = ()
    artifacts_expected: tuple[ExpectedArtifact, ...] = ()
    acceptance_criteria: tuple[AcceptanceCriterion, ...] = ()
    estimated_complexity: Complexity = Complexity.MEDIUM
    budget_limit: Amount = 0.0
    deadline: Iso8601Str | None = None
    max_retries: Count = 1
    status: TaskStatus = TaskStatus.CREATED
    parent_task_id: NotBlankStr | None = None
    delegation_chain: UniqueTuple[NotBlankStr] = ()
    task_structure: TaskStructure | None = None
    coordination_topology: CoordinationTopology = CoordinationTopology.AUTO

    @model_validator(mode="after")
    def _check_assignee(self) -> Self:
        if self.status in STATUSES_WITHOUT_ASSIGNEE and self.assigned_to is not None:
            raise ValueError(f"a task with the status {self.status} must not have assigned_to")
        if self.status in STATUSES_WITH_ASSIGNEE and self.assigned_to is None:
            raise ValueError(f"a task with the status {self.status} needs assigned_to")
        if self.assigned_to in self.delegation_chain:
            raise ValueError("delegation_chain must not contain assigned_to")
        return self

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.id in self.dependencies:
            raise ValueError("a task must not depend on itself")
        if self.id == self.parent_task_id:
            raise ValueError("a task must not be its own parent")
        return self

    def with_transition(self, target: TaskStatus, **overrides: Any) -> Self:
        """Return a copy of the task with a new status.

        Args:
            target: The new status.
            overrides: The new values of other fields, such as ``assigned_to="ada"``.

        Raises:
            ValueError: The current status does not allow the transition, or the new task is not valid.
        """
        if "status" in overrides:
            raise ValueError("overrides must not contain status: the transition sets the status")
        target = TaskStatus(target)
        check_transition(self.status, target)
        return self.model_validate({**dict(self), **overrides, "status": target})


class CostRecord(_Record):
    """The usage and cost of one model call; cost records have no id, and equal records may exist."""

    agent_id: NotBlankStr
    task_id: NotBlankStr
    provider: NotBlankStr
    model: NotBlankStr
    input_tokens: Count
    output_tokens: Count
    cost_usd: Amount
    timestamp: Timestamp
    call_category: LLMCallCategory | None = None

    @model_validator(mode="after")
    def _check_cost_has_tokens(self) -> Self:
        if self.cost_usd > 0 and self.input_tokens == self.output_tokens == 0:
            raise ValueError("a model call with a cost must have used tokens")
        return self


class Attachment(_Record):
    """A reference from a message to a file, a link or another object."""

    type: AttachmentType
    ref: NotBlankStr


class MessageMetadata(_Record):
    """The metadata of a message; `extra` holds pairs of a key and a value, with each key only once."""

    task_id: NotBlankStr | None = None
    project_id: NotBlankStr | None = None
    tokens_used: Count | None = None
    cost_usd: Amount | None = None
    extra: tuple[tuple[NotBlankStr, Text], ...] = ()

    @field_validator("extra")
    @classmethod
    def _check_keys_unique(cls, extra: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        if len(dict(extra)) != len(extra):
            raise ValueError("must not contain the same key twice")
        return extra


NO_METADATA = MessageMetadata()
"""The default metadata of every message; the repository recognizes this object by identity."""


class Message(_Record):
    """A message from one agent to another agent in a channel."""

    model_config = ConfigDict(populate_by_name=True)

    id: UUID = Field(default_factory=uuid4)
    timestamp: Timestamp
    sender: NotBlankStr = Field(alias="from")
    to: NotBlankStr
    channel: NotBlankStr
    content: NotBlankStr
    type: MessageType
    priority: MessagePriority = MessagePriority.NORMAL
    attachments: tuple[Attachment, ...] = ()
    metadata: MessageMetadata = NO_METADATA


class AuditEntry(_Record):
    """The decision about one tool call, with the reason."""

    id: NotBlankStr
    timestamp: Timestamp
    agent_id: NotBlankStr | None = None
    task_id: NotBlankStr | None = None
    tool_name: NotBlankStr
    tool_category: ToolCategory
    action_type: NotBlankStr
    arguments_hash: Sha256Str
    verdict: AuditVerdict
    risk_level: RiskLevel
    reason: NotBlankStr
    matched_rules: tuple[NotBlankStr, ...] = ()
    evaluation_duration_ms: Amount
    approval_id: NotBlankStr | None = None
