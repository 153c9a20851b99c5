"""The built-in schema pack `COMPANY`, with its models and repositories."""

from tenantry.company.audit_entries import SQLAuditRepository
from tenantry.company.cost_records import SQLCostRecordRepository
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
from tenantry.company.messages import SQLMessageRepository
from tenantry.company.models import (
    AcceptanceCriterion,
    Attachment,
    AuditEntry,
    CostRecord,
    ExpectedArtifact,
    Message,
    MessageMetadata,
    Task,
)
from tenantry.company.protocols import (
    AuditRepository,
    CompanyRepositories,
    CostRecordRepository,
    MessageRepository,
    TaskRepository,
)
from tenantry.company.records import SAVE_MANY_ROWS_MAX
from tenantry.company.tasks import SQLTaskRepository
from tenantry.company.transitions import TASK_TRANSITIONS
from tenantry.company.types import NotBlankStr
from tenantry.schemas.schema import Schema

__all__ = [
    "COMPANY",
    "SAVE_MANY_ROWS_MAX",
    "TASK_TRANSITIONS",
    "AcceptanceCriterion",
    "ArtifactType",
    "Attachment",
    "AttachmentType",
    "AuditEntry",
    "AuditRepository",
    "AuditVerdict",
    "CompanyRepositories",
    "Complexity",
    "CoordinationTopology",
    "CostRecord",
    "CostRecordRepository",
    "ExpectedArtifact",
    "LLMCallCategory",
    "Message",
    "MessageMetadata",
    "MessagePriority",
    "MessageRepository",
    "MessageType",
    "NotBlankStr",
    "Priority",
    "RiskLevel",
    "SQLAuditRepository",
    "SQLCostRecordRepository",
    "SQLMessageRepository",
    "SQLTaskRepository",
    "Task",
    "TaskRepository",
    "TaskStatus",
    "TaskStructure",
    "TaskType",
    "ToolCategory",
]

COMPANY = Schema(
    name="company",
    package="tenantry.company",
    repositories={
        "tasks": SQLTaskRepository,
        "cost_records": SQLCostRecordRepository,
        "messages": SQLMessageRepository,
        "audit_entries": SQLAuditRepository,
    },
)
