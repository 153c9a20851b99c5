"""The enums of the company's models; their values are stored."""

from enum import StrEnum


class TaskType(StrEnum):
    """The kind of work of a task."""

    DEVELOPMENT = "development"
    DESIGN = "design"
    RESEARCH = "research"
    REVIEW = "review"
    MEETING = "meeting"
    ADMIN = "admin"


class Priority(StrEnum):
    """How urgent a task is."""

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
    """The state of a task; `tenantry.company.transitions` has the table."""

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
    """How a task's parts depend on each other."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    MIXED = "mixed"


class CoordinationTopology(StrEnum):
    """How the agents on a task are coordinated; `sas` is a single agent."""

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
    """How urgent a message is."""

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
    """The family of the tool that was called."""

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
