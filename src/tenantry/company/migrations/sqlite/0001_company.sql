-- What the company persists. A column has the name of its model's field; only `seq` is the table's own.
--
-- Values are checked by the models, on the way in and on the way out, so the tables check types (STRICT) and NULLs
-- only: a CHECK for every vocabulary would cost each insert and turn every new enum member into a migration.
-- Timestamps are UTC in one fixed width (2026-01-31T09:30:00.000000Z), so that text order is time order.
--
-- Each index costs every insert, so there is one for each way in, and it carries at its end what narrows or answers
-- the query without a look at the table. No table is WITHOUT ROWID: the rows are wide.

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    type TEXT NOT NULL,
    priority TEXT NOT NULL,
    project TEXT NOT NULL,
    created_by TEXT NOT NULL,
    assigned_to TEXT,
    reviewers TEXT NOT NULL,            -- JSON, as are the next three and delegation_chain
    dependencies TEXT NOT NULL,
    artifacts_expected TEXT NOT NULL,
    acceptance_criteria TEXT NOT NULL,
    estimated_complexity TEXT NOT NULL,
    budget_limit REAL NOT NULL,
    deadline TEXT,
    max_retries INTEGER NOT NULL,
    status TEXT NOT NULL,
    parent_task_id TEXT,
    delegation_chain TEXT NOT NULL,
    task_structure TEXT,
    coordination_topology TEXT NOT NULL
) STRICT;

-- list_tasks: one for each filter, in the order of the pages. `status` at the end of the first two answers the usual
-- "what is open for this agent, in this project" from the index.
CREATE INDEX tasks_assigned_to ON tasks (assigned_to, id, status) WHERE assigned_to IS NOT NULL;
CREATE INDEX tasks_project ON tasks (project, id, status);
CREATE INDEX tasks_status ON tasks (status, id);

CREATE TABLE cost_records (
    seq INTEGER NOT NULL PRIMARY KEY,   -- the order of insertion; nothing is ever deleted, so no AUTOINCREMENT
    timestamp TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,             -- the float as it was given; aggregate() says why its sums are exact
    call_category TEXT
) STRICT;

-- query and aggregate: a window of time, of all, one agent or one task. `cost_usd` makes them cover aggregate, which
-- budgets ask before calls: a sum reads a range of the index and no row.
CREATE INDEX cost_records_time ON cost_records (timestamp, seq, cost_usd);
CREATE INDEX cost_records_agent ON cost_records (agent_id, timestamp, seq, cost_usd);
CREATE INDEX cost_records_task ON cost_records (task_id, timestamp, seq, cost_usd);

CREATE TABLE messages (
    seq INTEGER NOT NULL PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,            -- the UUID's 16 bytes: as text, its index would be more than twice as large
    timestamp TEXT NOT NULL,
    sender TEXT NOT NULL,
    "to" TEXT NOT NULL,
    channel TEXT NOT NULL,
    content TEXT NOT NULL,
    type TEXT NOT NULL,
    priority TEXT NOT NULL,
    attachments TEXT NOT NULL,          -- JSON
    metadata TEXT NOT NULL              -- JSON
) STRICT;

-- get_history: a channel's messages by time. `sender` is last, to be checked without a look at the table: in a channel
-- of 150,000 messages a rare sender's are found in 12 ms (without: 58), for 7% of an insert. An index of its own would
-- find them at once and make every insert half as fast.
CREATE INDEX messages_channel ON messages (channel, timestamp, seq, sender);

CREATE TABLE audit_entries (
    seq INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    timestamp TEXT NOT NULL,
    agent_id TEXT,
    task_id TEXT,
    tool_name TEXT NOT NULL,
    tool_category TEXT NOT NULL,
    action_type TEXT NOT NULL,
    arguments_hash TEXT NOT NULL,
    verdict TEXT NOT NULL,
    risk_level TEXT NOT NULL,
    reason TEXT NOT NULL,
    matched_rules TEXT NOT NULL,        -- JSON
    evaluation_duration_ms REAL NOT NULL,
    approval_id TEXT
) STRICT;

-- query: by time, of all or of one agent; the other filters are checked on the index's own columns.
CREATE INDEX audit_entries_time ON audit_entries (timestamp, seq, verdict, risk_level, action_type);
CREATE INDEX audit_entries_agent ON audit_entries (agent_id, timestamp, seq, verdict, risk_level, action_type)
    WHERE agent_id IS NOT NULL;
