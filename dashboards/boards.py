"""What the five dashboards show."""

from typing import Final

from dashboards.panels import (
    Board,
    Panel,
    Query,
    chart,
    heatmap,
    log_chart,
    logs,
    many,
    mean,
    number,
    quantile,
    quantiles,
    query_variable,
    rate,
    row,
    source_variable,
    text,
    text_variable,
)

FAULTS: Final = "connection|corrupt|error|malformed|migration|owned_elsewhere|pool_exhausted|quarantined|result_lost|snapshot|timeout"
"""Outcomes that are the service's fault, not the caller's and not a limit that somebody set.

`quarantined` too, even if an operator quarantined the tenant: its customers are not served.
"""
FAILED_RATIO_MAX: Final = 0.001
SLOW_RATIO_MAX: Final = 0.01
SLOW_SECONDS: Final = 0.1
"""The objectives: of a thousand calls one may fail, and of a hundred writes one may take longer."""
_WINDOWS: Final = ("5m", "1h", "6h", "3d")

_CALL: Final = "tenantry_call_duration_seconds"
_OK: Final = 'outcome="ok"'
_FAILED: Final = f'outcome=~"{FAULTS}"'
_COUNTED: Final = f'outcome=~"ok|{FAULTS}"'
_SERVED: Final = 'outcome=~"ok|timeout"'
"""Calls whose time is shown: refusals are over at once, and many of them would make all calls look quick."""
_BACKEND: Final = 'backend=~"$backend"'
"""The back ends that were chosen above a dashboard."""
_OUT: Final = 'direction="out"'
_IN: Final = 'direction="in"'
_HANDED_OVER: Final = 'reason="handed_over"'
_PROCESS: Final = "{{instance}} {{process}}"
_WRITES: Final = f'channel="write",{_SERVED}'
_QUICK_WRITES: Final = f'{_WRITES},le="{SLOW_SECONDS:g}"'


def _per_minute(metric: str, by: str, where: str = "") -> str:
    return f"60 * {rate(metric, by, where)}"


def _recent(rule: str, where: str = "") -> str:
    selector = f"{{$service,{where}}}" if where else "{$service}"
    return f"{rule}:increase15m{selector}"


OVERVIEW: Final = Board(
    "tenantry-overview",
    "tenantry / Overview",
    "Whether the service does its work, how much of it, and what is wrong.",
    [
        row("Now"),
        number(
            "Processes",
            "Processes that answer: those of the data directory, or Prometheus' targets if each shows only itself.",
            "none",
            Query("sum(tenantry_process_up{$here}) or sum(up{$target})"),
            warn=1,
            is_low_bad=True,
        ),
        number(
            "Ready",
            "Whether every process says at /readyz that it is ready: catalog, pool and disk.",
            "bool_yes_no",
            Query("min(tenantry_ready{$target})"),
            warn=1,
            is_low_bad=True,
        ),
        number("Calls", "Tenants' calls in a second.", "reqps", Query(rate(f"{_CALL}_count"))),
        number(
            "Failed",
            "The share of calls of the last five minutes that failed through the service's fault; refusals are left out.",
            "percentunit",
            Query("job:tenantry_calls_failed:ratio_rate5m{$service}"),
            warn=FAILED_RATIO_MAX,
        ),
        number(
            "Write, p99",
            "Of a hundred writes the slowest: from its mailbox to the answer, which is after the commit. Without refusals.",
            "s",
            Query(quantile(0.99, _CALL, where=_WRITES)),
            warn=SLOW_SECONDS,
        ),
        number(
            "Places in use",
            "How much of the pool is taken. A full pool is normal: idle tenants make room.",
            "percentunit",
            Query("sum(tenantry_pool_open_tenants{$here}) / sum(tenantry_pool_capacity_tenants{$here})"),
        ),
        number(
            "Quarantined",
            "Tenants that were quarantined, because of damage or a migration that failed.",
            "none",
            Query('max(tenantry_tenants{$service,state="quarantined"})'),
            warn=1,
        ),
        number(
            "Disk free",
            "What is left of the data directory's disk, where least is left.",
            "percentunit",
            Query("min(tenantry_disk_free_bytes{$here} / tenantry_disk_size_bytes{$here})"),
            warn=0.1,
            is_low_bad=True,
        ),
        row("Calls"),
        chart(
            "Calls by operation",
            "How often each operation of the repositories runs.",
            "reqps",
            Query(rate("tenantry_query_duration_seconds_count", "operation"), "{{operation}}"),
        ),
        chart(
            "How long calls take",
            "From the mailbox to the answer, by channel, without refusals. The dots name tenants.",
            "s",
            *quantiles(_CALL, "channel", f'channel!="none",{_SERVED}'),
            has_exemplars=True,
        ),
        chart(
            "Calls that did not go well",
            "By outcome. Some are the caller's doing (duplicate, suspended), some a limit (overloaded, rate_limited), some "
            "the service's fault (timeout, connection, quarantined, error).",
            "reqps",
            Query(rate(f"{_CALL}_count", "outcome", 'outcome!="ok"'), "{{outcome}}"),
        ),
        chart(
            "Calls refused",
            "Turned away at a limit or a deadline before or while they ran.",
            "reqps",
            Query(rate("tenantry_calls_refused_total", "outcome"), "{{outcome}}"),
        ),
        chart(
            "Alerts",
            "Alerts that wait for their time, or fire. Each is explained in docs/operations.md.",
            "none",
            Query(
                'count by (alertname, alertstate) (ALERTS{$service,alertname=~"Tenantry.*"})',
                "{{alertname}} {{alertstate}}",
            ),
            width=16,
        ),
        row("Tenants"),
        chart(
            "Tenants by state",
            "The catalog: the same in every process on a data directory.",
            "none",
            Query("max by (state) (tenantry_tenants{$service})", "{{state}}"),
        ),
        chart(
            "Lifecycle operations",
            "Create, suspend, snapshot and so on, in a minute.",
            "opm",
            Query(_per_minute("tenantry_lifecycle_duration_seconds_count", "action"), "{{action}}"),
        ),
        chart(
            "Lifecycle operations that failed",
            "In the last fifteen minutes, by outcome: not_found, state or busy are the caller's; others want a look.",
            "none",
            Query(
                _recent("job_action_outcome:tenantry_lifecycle", 'outcome!="ok"'), "{{action}} {{outcome}}"
            ),
        ),
        row("Process"),
        chart(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            Query("tenantry_process_resident_memory_bytes{$here}", _PROCESS),
        ),
        chart(
            "Processor",
            "Processor time of each process; 100% is one core.",
            "percentunit",
            Query("rate(tenantry_process_cpu_seconds_total{$here}[$__rate_interval])", _PROCESS),
        ),
        chart(
            "Open files",
            "Of those that each process may have. An open tenant needs up to 4 + 2 * readers_per_tenant.",
            "percentunit",
            Query("tenantry_process_open_files{$here} / tenantry_process_capacity_files{$here}", _PROCESS),
        ),
        row("Processes on the data directory"),
        chart(
            "Processes that do not answer",
            "1 for a process that did not answer the scraped process in time; its other series are missing.",
            "none",
            Query("1 - tenantry_process_up{$here}", _PROCESS),
            width=6,
        ),
        chart(
            "Time since the start",
            "How long each process has had the data directory open.",
            "s",
            Query("time() - tenantry_opened_timestamp_seconds{$here}", _PROCESS),
            width=6,
        ),
        chart(
            "Calls to tenants of other processes",
            "Calls that each process forwards to the owner of the tenant. The owner counts the call's operation.",
            "reqps",
            Query(rate("tenantry_forwarded_calls_total", "instance, process", _OUT), _PROCESS),
            width=6,
        ),
        chart(
            "Who is who",
            "The process id, the release and the engine of each process, by the number that is its label.",
            "none",
            Query("tenantry_process_info{$here}", "{{process}}: pid {{pid}}, tenantry {{version}}"),
            Query("tenantry_engine_info{$here}", "{{process}}: engine {{engine}}, SQLite {{sqlite}}"),
            width=6,
        ),
    ],
)

TENANT: Final = Board(
    "tenantry-tenant",
    "tenantry / One tenant",
    "What one tenant meets: found through exemplars and in the log, because a tenant's id is no label.",
    [
        text(
            "How to find a tenant",
            "Where the tenant's id is, and where it is not.",
            "The metrics have no tenant's id: with a thousand tenants they would have a thousand times as many series. "
            "Charts on this page show everybody, and each **dot** is a call that names its tenant (`tenant_id`): what "
            "stands above the crowd tells whose it is. Follow its link, or write the id into *Tenant* above, and the log "
            "below tells what happened to that tenant. Its counters and its size: "
            "`GET /v1/tenants/{id}/statistics`; who calls most: `GET /v1/statistics/top`.",
        ),
        heatmap(
            "How long calls take",
            "All tenants' calls, without refusals; the dots name their tenants.",
            "s",
            _CALL,
            _SERVED,
        ),
        chart(
            "Slowest of a hundred, by operation",
            "p99 from the mailbox to the answer, without refusals. The dots name tenants.",
            "s",
            Query(
                quantile(
                    0.99,
                    "tenantry_query_duration_seconds",
                    "operation",
                    f'operation=~"$operation",{_SERVED}',
                ),
                "{{operation}}",
            ),
            width=12,
            has_exemplars=True,
        ),
        chart(
            "Time in the mailbox",
            "A tenant that sends more than its writer takes waits here. p99; the dots name tenants.",
            "s",
            Query(quantile(0.99, "tenantry_queue_wait_duration_seconds", "channel"), "{{channel}}"),
            has_exemplars=True,
        ),
        chart(
            "Wait for a place in the pool",
            "Callers of a tenant that was not open. p99; the dots name tenants.",
            "s",
            Query(quantile(0.99, "tenantry_pool_wait_duration_seconds", "outcome"), "{{outcome}}"),
            has_exemplars=True,
        ),
        chart(
            "Calls that did not go well",
            "How long they took, p99 by outcome. The dots name the tenants whose calls failed.",
            "s",
            Query(quantile(0.99, _CALL, "outcome", 'outcome!="ok"'), "{{outcome}}"),
            has_exemplars=True,
        ),
        log_chart(
            "The tenant's events",
            "How often each event is in the log with this tenant's id.",
            'sum by (event) (count_over_time({job="$job"} | json | tenant_id="$tenant" [$__interval]))',
            "{{event}}",
        ),
        log_chart(
            "The tenant's warnings and errors",
            "By kind of error, from the log.",
            'sum by (error_type) (count_over_time({job="$job"} | json | tenant_id="$tenant" '
            '| level=~"warning|error" [$__interval]))',
            "{{error_type}}",
        ),
        logs(
            "The tenant's log",
            "Everything that tenantry logged with this tenant's id.",
            '{job="$job"} | json | tenant_id="$tenant"',
        ),
    ],
    [
        source_variable("logs", "Logs", "loki"),
        many(query_variable("operation", "Operation", 'tenantry_query_duration_seconds_count{job="$job"}')),
        text_variable("tenant", "Tenant"),
    ],
)

POOL: Final = Board(
    "tenantry-pool",
    "tenantry / Pool and writer",
    "Who is open, who waits, and how the writers keep up.",
    [
        row("Pool"),
        chart(
            "Places",
            "Tenants that hold a place, those of them nobody uses now, and how many places there are.",
            "none",
            Query("sum(tenantry_pool_open_tenants{$here})", "open"),
            Query("sum(tenantry_pool_idle_tenants{$here})", "idle"),
            Query("sum(tenantry_pool_capacity_tenants{$here})", "places"),
        ),
        chart(
            "Callers that wait",
            "For a tenant that is not open yet. Lasting waiters: the pool is too small, or somebody holds its tenants.",
            "none",
            Query("sum by (instance, process) (tenantry_pool_waiters{$here})", _PROCESS),
        ),
        chart(
            "Wait for a place",
            "From the call to its open tenant, for those that had to wait, by outcome.",
            "s",
            *quantiles("tenantry_pool_wait_duration_seconds", "outcome"),
            has_exemplars=True,
        ),
        chart(
            "Tenants opened",
            "By outcome.",
            "ops",
            Query(rate("tenantry_open_duration_seconds_count", "outcome", _BACKEND), "{{outcome}}"),
        ),
        chart(
            "Tenants closed",
            "To make room (capacity), because nobody used them (idle), by a lifecycle operation (state), because they could not "
            "go on (failed), because only another process used them (handed_over), or at the end (shutdown).",
            "ops",
            Query(rate("tenantry_pool_evictions_total", "reason"), "{{reason}}"),
        ),
        chart(
            "Calls that found their tenant closed",
            "The share that had to wait for an opening. Up to a third is usual where many tenants take turns.",
            "percentunit",
            Query(
                rate("tenantry_pool_wait_duration_seconds_count", where=_OK) + " / " + rate(f"{_CALL}_count"),
                "share",
            ),
        ),
        chart(
            "How long a tenant stays open",
            "On average: open tenants by closings in a second.",
            "s",
            Query(
                f"sum(tenantry_pool_open_tenants{{$here}}) / {rate('tenantry_pool_evictions_total')}", "stay"
            ),
        ),
        chart(
            "Opening a tenant",
            "From the pool's decision to the first call, migrations included.",
            "s",
            *quantiles("tenantry_open_duration_seconds", where=f"{_OK},{_BACKEND}"),
            has_exemplars=True,
        ),
        chart(
            "Connecting a store",
            "The part of opening that is files and locks, or a question to the server.",
            "s",
            *quantiles("tenantry_connect_duration_seconds", "outcome", _BACKEND),
        ),
        row("Writer and readers"),
        chart(
            "Calls that wait",
            "In the mailboxes of all tenants.",
            "none",
            Query("sum by (channel) (tenantry_mailbox_requests{$here})", "{{channel}}"),
        ),
        chart(
            "The fullest mailbox",
            "Calls that wait at the tenant where most do; at mailbox_requests_max calls are refused.",
            "none",
            Query("max by (channel) (tenantry_mailbox_peak_requests{$here})", "{{channel}}"),
        ),
        chart(
            "Time in the mailbox",
            "From the call to the start of its batch.",
            "s",
            *quantiles("tenantry_queue_wait_duration_seconds", "channel", _BACKEND),
            has_exemplars=True,
        ),
        chart(
            "Batches",
            "Transactions of writers, and read transactions of readers.",
            "ops",
            Query(rate("tenantry_batch_duration_seconds_count", "channel", _BACKEND), "{{channel}}"),
        ),
        chart(
            "Calls in a batch",
            "The mean: they share one commit. It grows by itself when the disk is slow.",
            "none",
            Query(mean("tenantry_batch_requests", "channel", _BACKEND), "{{channel}}"),
        ),
        chart(
            "How long a batch takes",
            "A write's with its commit: this is the disk, or the server and the network.",
            "s",
            *quantiles("tenantry_batch_duration_seconds", "channel", _BACKEND),
            has_exemplars=True,
        ),
        chart(
            "Calls refused",
            "overloaded: a mailbox was full, or calls_in_flight_max reached; timeout: call_timeout_seconds passed; rate_limited: "
            "a tenant's own limit.",
            "reqps",
            Query(rate("tenantry_calls_refused_total", "outcome"), "{{outcome}}"),
        ),
        chart(
            "Writes refused for lack of space",
            "In the last fifteen minutes: a tenant's database_bytes_max, or the disk.",
            "none",
            Query(_recent("job_outcome:tenantry_calls", 'outcome="full"'), "full"),
        ),
        chart(
            "Disk",
            "The data directory's.",
            "bytes",
            Query("min by (instance) (tenantry_disk_free_bytes{$here})", "{{instance}} free"),
            Query("max by (instance) (tenantry_disk_size_bytes{$here})", "{{instance}} size"),
        ),
        row("Between processes"),
        chart(
            "Forwarded calls by outcome",
            "At the process that forwards. After not_owner and owner_lost the call is repeated; after no_answer it has failed.",
            "reqps",
            Query(rate("tenantry_forwarded_calls_total", "outcome", _OUT), "{{outcome}}"),
        ),
        chart(
            "How long forwarded calls take",
            "From the process that forwards to the owner and back, with the time at the owner. The dots name tenants.",
            "s",
            *quantiles("tenantry_forwarded_call_duration_seconds", where=_OK),
            has_exemplars=True,
        ),
        chart(
            "Calls served for other processes",
            "Answers of each owner. Much of it at one process: its event loop is the limit, so send its tenants' requests to it.",
            "reqps",
            Query(rate("tenantry_forwarded_calls_total", "instance, process", _IN), _PROCESS),
        ),
        chart(
            "Tenants handed over",
            "Closed in fifteen minutes, because only another process used them. Again and again: requests of a tenant take turns.",
            "none",
            Query(
                "sum by (instance, process) "
                f"(increase(tenantry_pool_evictions_total{{$here,{_HANDED_OVER}}}[15m]))",
                _PROCESS,
            ),
        ),
        chart(
            "Tenants of other processes",
            "Tenants whose calls each process forwards.",
            "none",
            Query("sum by (instance, process) (tenantry_forwarded_tenants{$here})", _PROCESS),
        ),
        chart(
            "Connections between processes",
            "To other processes (out), and from them (in).",
            "none",
            Query(
                "sum by (instance, process, direction) (tenantry_peers{$here})",
                f"{_PROCESS} {{{{direction}}}}",
            ),
        ),
        row("Database servers"),
        chart(
            "Connections",
            "Of each process to each database server: in use, idle, and how many there may be.",
            "none",
            Query(
                f"sum by (backend, state) (tenantry_database_connections{{$here,{_BACKEND}}})",
                "{{backend}} {{state}}",
            ),
            Query(
                f"sum by (backend) (tenantry_database_capacity_connections{{$here,{_BACKEND}}})",
                "{{backend}} at most",
            ),
        ),
        chart(
            "Calls that wait for a connection",
            "Lasting waiters: raise tenantry_connections_max in the URL of the database, or look for long transactions.",
            "none",
            Query(
                f"sum by (backend, instance, process) (tenantry_database_waiters{{$here,{_BACKEND}}})",
                f"{{{{backend}}}} {_PROCESS}",
            ),
        ),
        chart(
            "Connections opened and ended",
            "Opened or failed; ended because they broke, or recycled because of their age or their tenants.",
            "ops",
            Query(
                rate("tenantry_database_connects_total", "backend, outcome", _BACKEND),
                "{{backend}} opened {{outcome}}",
            ),
            Query(
                rate("tenantry_database_disconnects_total", "backend, reason", _BACKEND),
                "{{backend}} ended {{reason}}",
            ),
        ),
    ],
    [many(query_variable("backend", "Back end", 'tenantry_batch_duration_seconds_count{job="$job"}'))],
)

FLEET: Final = Board(
    "tenantry-fleet",
    "tenantry / Migrations and fleet",
    "Work over many tenants: migrations, fleet jobs, snapshots and lifecycle operations.",
    [
        row("Migrations"),
        chart(
            "Stores checked and migrated",
            "In a minute, by outcome. Every opening checks; most find nothing to do.",
            "opm",
            Query(_per_minute("tenantry_migrate_duration_seconds_count", "outcome"), "{{outcome}}"),
        ),
        chart(
            "How long it takes",
            "Checking, and applying what is pending.",
            "s",
            *quantiles("tenantry_migrate_duration_seconds"),
            has_exemplars=True,
        ),
        chart(
            "Migrations that failed",
            "In the last fifteen minutes. A migration whose own SQL fails sets its tenant apart.",
            "none",
            Query(_recent("job_outcome:tenantry_migrations", 'outcome!="ok"'), "{{outcome}}"),
        ),
        row("Fleet jobs"),
        chart(
            "Tenants finished",
            "In a minute, by kind of job and outcome.",
            "opm",
            Query(
                _per_minute("tenantry_fleet_duration_seconds_count", "kind, outcome"), "{{kind}} {{outcome}}"
            ),
        ),
        chart(
            "How long a tenant takes",
            "The work on one tenant, with all attempts.",
            "s",
            *quantiles("tenantry_fleet_duration_seconds", "kind"),
            has_exemplars=True,
        ),
        chart(
            "Tenants that failed",
            "In the last fifteen minutes, by kind of job and outcome. A job stops by itself at failures_max.",
            "none",
            Query(
                _recent("job_kind_outcome:tenantry_fleet", 'outcome!~"ok|skipped"'), "{{kind}} {{outcome}}"
            ),
        ),
        row("Moves"),
        chart(
            "Rows moved",
            "Of tenants that moved to another back end, in a second, by where they were and are.",
            "rowsps",
            Query(rate("tenantry_moved_rows_total", "source, target"), "{{source}} to {{target}}"),
        ),
        chart(
            "How long callers waited",
            "The pause at the switch of a move. Callers are served during the rest of the move.",
            "s",
            *quantiles("tenantry_move_pause_duration_seconds"),
            has_exemplars=True,
        ),
        row("Snapshots"),
        number(
            "Last snapshot",
            "How long ago the last one went well, of any tenant; also in a process that has ended since, for a day.",
            "s",
            # 26 h as in TenantrySnapshotsMissing: a process that starts does not know of the snapshots before it.
            Query(
                "time() - max(max_over_time("
                'tenantry_lifecycle_last_success_timestamp_seconds{$service,action="snapshot"}[26h]))'
            ),
            width=4,
        ),
        number(
            "Schedule",
            "How often each active tenant's is taken; no data if there is no schedule.",
            "s",
            Query("max(tenantry_snapshot_interval_seconds{$service})"),
            width=4,
        ),
        chart(
            "Snapshots and restores",
            "In a minute, by action and outcome.",
            "opm",
            Query(
                _per_minute(
                    "tenantry_lifecycle_duration_seconds_count",
                    "action, outcome",
                    'action=~"snapshot|delete_snapshot|restore|undo_restore"',
                ),
                "{{action}} {{outcome}}",
            ),
        ),
        chart(
            "How long a snapshot takes",
            "Copying, checking, compressing and putting it away.",
            "s",
            *quantiles("tenantry_lifecycle_duration_seconds", where='action="snapshot"'),
            has_exemplars=True,
        ),
        row("Lifecycle"),
        chart(
            "Lifecycle operations",
            "In a minute, by action and outcome.",
            "opm",
            Query(
                _per_minute("tenantry_lifecycle_duration_seconds_count", "action, outcome"),
                "{{action}} {{outcome}}",
            ),
        ),
        chart(
            "How long they take",
            "p99, by action.",
            "s",
            Query(quantile(0.99, "tenantry_lifecycle_duration_seconds", "action"), "{{action}}"),
            has_exemplars=True,
        ),
        chart(
            "Tenants quarantined or on their way out",
            "Quarantined tenants want a repair or a restore; deleted ones can be brought back in their grace period.",
            "none",
            Query(
                'max by (state) (tenantry_tenants{$service,state=~"quarantined|provisioning|deleted"})',
                "{{state}}",
            ),
        ),
    ],
)


def _objective(name: str, what: str, ratio_max: float, good: str, budget: Query) -> list[Panel]:
    rule = f"job:tenantry_{name}:ratio_rate"
    windows = [Query(f"{rule}{window}{{$service}}", window) for window in _WINDOWS]
    burns = [Query(f"{rule}{window}{{$service}} / {ratio_max}", window) for window in _WINDOWS]
    return [
        row(good),
        number(
            f"Budget left ({what})",
            f"Of what may go wrong in the time that is chosen above: {ratio_max:.1%} of the calls. Choose 30 days.",
            "percentunit",
            budget,
            warn=0.0,
            is_low_bad=True,
            width=4,
        ),
        chart(
            f"Share of calls {what}",
            f"Over four windows; the objective is {ratio_max:.1%} at most.",
            "percentunit",
            *windows,
            width=10,
        ),
        chart(
            f"How fast the budget burns ({what})",
            "At 1 it is used up in 30 days. Alerts: 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, 1 over 3 days and 6 h.",
            "none",
            *burns,
            width=10,
        ),
    ]


def _increase(metric: str, where: str) -> str:
    return f"sum(increase({metric}{{$here,{where}}}[$__range]))"


SLO: Final = Board(
    "tenantry-slo",
    "tenantry / Objectives",
    "What is promised, how much of it may still go wrong, and how fast that is used up.",
    [
        text(
            "What is promised",
            "The two objectives.",
            f"- **{1 - FAILED_RATIO_MAX:.1%} of calls do not fail** through the service's fault. What a caller did "
            "(a duplicate, a suspended tenant) and limits that somebody set (rate, size, calls in flight) do not count, neither as failed nor as "
            "calls; a quarantined tenant's calls do, even if an operator quarantined it.\n"
            f"- **{1 - SLOW_RATIO_MAX:.0%} of writes are durable within {SLOW_SECONDS:g} s**, from the mailbox to the "
            "answer. A write that timed out counts as slow.",
        ),
        *_objective(
            "calls_failed",
            "that failed",
            FAILED_RATIO_MAX,
            "Calls do not fail",
            Query(
                f"1 - ({_increase(f'{_CALL}_count', _FAILED)} or vector(0)) / "
                f"({_increase(f'{_CALL}_count', _COUNTED)} > 0) / {FAILED_RATIO_MAX}"
            ),
        ),
        *_objective(
            "writes_slow",
            "that were slow",
            SLOW_RATIO_MAX,
            "Writes are quick",
            Query(
                f"1 - (1 - {_increase(f'{_CALL}_bucket', _QUICK_WRITES)} / "
                f"{_increase(f'{_CALL}_count', _WRITES)}) / {SLOW_RATIO_MAX}"
            ),
        ),
    ],
)

ALL: Final = (OVERVIEW, TENANT, POOL, FLEET, SLO)
