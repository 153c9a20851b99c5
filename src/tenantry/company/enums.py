"""The enums of the company's models. The databases store their values."""

from enum import StrEnum


class TaskType(StrEnum):
    """The kind of work that a task needs."""

    DEVELOPMENT = "development"
    DESIGN = "design"
    RESEARCH = "research"
    REVIEW = "review"
    MEETING = "meeting"
    ADMIN = "admin"


class Priority(StrEnum):
    """The urgency of a task."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Complexity(StrEnum):
    """The estimated size of a task."""

    SIMPLE = "simple"
    MEDIUM = "medium"
    COMPLEX = "complex"
    EPIC = "epic"


class TaskStatus(StrEnum):
    """The status of a task; `tenantry.company.transitions` lists the allowed transitions."""

    CREATED = "created"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    IN_REVIEW = "in_review"
    COMPLETED = "completed"
    BLOCKED = "blocked"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class TaskStructure(StrEnum):
    """The dependencies between the parts of a task."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    MIXED = "mixed"


class CoordinationTopology(StrEnum):
    """The coordination of the agents that work on a task; `sas` means a single agent."""

    SAS = "sas"
    CENTRALIZED = "centralized"
    DECENTRALIZED = "decentralized"
    CONTEXT_DEPENDENT = "context_dependent"
    AUTO = "auto"


class ArtifactType(StrEnum):
    """The kind of result that a task is expected to produce."""

    CODE = "code"
    TESTS = "tests"
    DOCUMENTATION = "documentation"


class LLMCallCategory(StrEnum):
    """The purpose of a model call."""

    PRODUCTIVE = "productive"
    COORDINATION = "coordination"
    SYSTEM = "system"


class MessageType(StrEnum):
    """The purpose of a message."""

    TASK_UPDATE = "task_update"
    QUESTION = "question"
    ANNOUNCEMENT = "announcement"
    REVIEW_REQUEST = "review_request"
    APPROVAL = "approval"
    DELEGATION = "delegation"
    STATUS_REPORT = "status_report"
    ESCALATION = "escalation"
    MEETING_CONTRIBUTION = "meeting_contribution"


class MessagePriority(StrEnum):
    """The urgency of a message."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class AttachmentType(StrEnum):
    """The kind of object that an attachment refers to."""

    ARTIFACT = "artifact"
    FILE = "file"
    LINK = "link"


class ToolCategory(StrEnum):
    """The category of a tool that an agent called."""

    FILE_SYSTEM = "file_system"
    CODE_EXECUTION = "code_execution"
    VERSION_CONTROL = "version_control"
    WEB = "web"
    DATABASE = "database"
    TERMINAL = "terminal"
    DESIGN = "design"
    COMMUNICATION = "communication"
    ANALYTICS = "analytics"
    DEPLOYMENT = "deployment"
    MCP = "mcp"
    OTHER = "other"


class AuditVerdict(StrEnum):
    """The decision about a tool call."""

    ALLOW = "allow"
    DENY = "deny"
    ESCALATE = "escalate"
    OUTPUT_SCAN = "output_scan"


class RiskLevel(StrEnum):
    """The risk of a tool call."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
