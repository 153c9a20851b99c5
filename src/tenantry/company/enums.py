"""The closed vocabularies of the company's models; the values are what is stored."""

from enum import StrEnum


class TaskType(StrEnum):
    """The kind of work a task is."""

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
    """How large a task is thought to be."""

    SIMPLE = "simple"
    MEDIUM = "medium"
    COMPLEX = "complex"
    EPIC = "epic"


class TaskStatus(StrEnum):
    """Where a task is in its life; `tenantry.company.transitions` has the table."""

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
    """What a task is expected to produce."""

    CODE = "code"
    TESTS = "tests"
    DOCUMENTATION = "documentation"


class LLMCallCategory(StrEnum):
    """What a model call was made for."""

    PRODUCTIVE = "productive"
    COORDINATION = "coordination"
    SYSTEM = "system"


class MessageType(StrEnum):
    """What a message is meant to do."""

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
    """How soon a message wants to be read."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class AttachmentType(StrEnum):
    """What an attachment's reference points to."""

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
    """What was decided about a tool call."""

    ALLOW = "allow"
    DENY = "deny"
    ESCALATE = "escalate"
    OUTPUT_SCAN = "output_scan"


class RiskLevel(StrEnum):
    """How much harm a tool call could do."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
