"""The console's modules, each by itself, in a real browser."""

from collections.abc import Iterator

import pytest

from browsers import Browser, serving
from tenantry.lifecycle import Permission, TenantState, operator_choices
from tenantry.tenancy.fleet.job import JOB_TRANSITIONS, JobEvent


@pytest.fixture(scope="module")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One service for all of them: they need only its files."""
    with serving(tmp_path_factory.mktemp("service") / "data") as running:
        yield running.url


@pytest.fixture(scope="module")
def page(chromium: Browser, service_url: str) -> Browser:
    """A browser on the console's page, whose modules it may import: each test makes what it needs of them."""
    chromium.begin_anew()
    chromium.driver.get(f"{service_url}/console/")
    return chromium


def test_actions_are_offered_as_the_core_allows_them(page: Browser):
    """Each transition has an action, each action needs something that a state can allow, and `allows` decides what is offered."""
    actions, offered = page.script(
        """
        const { ACTIONS, SNAPSHOT_ACTIONS, isOffered } = await import("/console/actions.js");
        const offered = (allows) => ACTIONS.filter((action) => isOffered(action, { allows })).map(({ name }) => name);
        return [
            [...ACTIONS, ...SNAPSHOT_ACTIONS].map(({ name, needs }) => [name, needs ?? name]),
            [offered([]), offered(["read", "write", "suspend", "copy"])],
        ];
        """
    )
    choices = {choice for state in TenantState for choice in operator_choices(state)}
    needed = {need for _, need in actions}
    assert needed <= choices
    assert choices - needed <= set(Permission), "each transition has an action"
    assert offered == [[], ["snapshot", "suspend", "clone"]]


def test_a_move_suggests_the_other_back_ends(page: Browser):
    """The dialog of a move says where the tenant is, and suggests every other back end of the service."""
    [field] = page.script(
        "const { ACTIONS } = await import('/console/actions.js');"
        "const move = ACTIONS.find(({ name }) => name === 'move');"
        "return move.fields({ backend: 'sqlite' }, { backends: ['postgres', 'sqlite', 'east'] })"
    )
    assert (field["name"], field["isRequired"]) == ("to", True)
    assert field["options"] == ["postgres", "east"]
    assert field["hint"] == "The tenant is on sqlite now."


def test_jobs_can_be_steered_in_the_states_that_allow_it(page: Browser):
    """What is offered for a job are the rows of the core's table; one that runs need not be resumed."""
    offered = page.script(
        "const { JOB_ACTIONS } = await import('/console/steering.js');"
        "return JOB_ACTIONS.flatMap(({ name, from }) => from.map((state) => [state, name]))"
    )
    by_people = {JobEvent.PAUSE, JobEvent.RESUME, JobEvent.CANCEL}
    allowed = {(state.value, event.value) for state, event in JOB_TRANSITIONS if event in by_people}
    assert {tuple(one) for one in offered} == allowed - {("running", "resume")}


def test_a_job_is_asked_for_as_its_fields_say(page: Browser):
    """Shares, lists, versions and arguments are typed as people write them, and sent as the API takes them."""
    found = page.script("""
    const { jobOf } = await import("/console/steering.js");
    const plain = {
      kind: "check", states: ["active"], id_prefix: "", tenant_ids: "", below: "", canary: "", canary_failures_max: "0",
      failures_max: "10", concurrency: "8", snapshot_before: false, return_on_failure: false, arguments: "",
    };
    const told = {
      ...plain, tenant_ids: "acme, globex  initech", below: "company 2, invoices 1", canary: "5%", failures_max: "2%",
      canary_failures_max: "", id_prefix: "a", arguments: '{"thorough": true}',
    };
    return [jobOf(plain), jobOf(told), jobOf({ ...plain, canary: "3" }).canary];
    """)
    plain = {
        "kind": "check",
        "states": ["active"],
        "concurrency": 8,
        "failures_max": 10,
        "canary_failures_max": 0,
        "snapshot_before": False,
        "return_on_failure": False,
    }
    told = {
        "tenant_ids": ["acme", "globex", "initech"],
        "below": {"company": 2, "invoices": 1},
        "canary": "5%",
        "failures_max": 0.02,
        "canary_failures_max": None,
        "id_prefix": "a",
        "arguments": {"thorough": True},
    }
    assert found == [plain, {**plain, **told}, 3]


def test_rates_and_quantiles_are_those_of_prometheus(page: Browser):
    """The metrics are read as their format says; quantiles as `histogram_quantile` has them; a counter that began anew is a gap."""
    found = page.script("""
    const { between, lookAt, parse, quantile } = await import("/console/metrics.js");
    const text = (calls, slow) => `
# HELP tenantry_query_duration_seconds A call.
tenantry_query_duration_seconds_bucket{backend="sqlite",le="0.001",operation="messages.save",outcome="ok"} ${calls}
tenantry_query_duration_seconds_bucket{backend="sqlite",le="0.01",operation="messages.save",outcome="ok"} ${calls + slow}
tenantry_query_duration_seconds_bucket{backend="sqlite",le="+Inf",operation="messages.save",outcome="ok"} ${calls + slow}
tenantry_query_duration_seconds_count{backend="sqlite",operation="messages.save",outcome="ok"} ${calls + slow}
tenantry_query_duration_seconds_count{backend="sqlite",operation="messages.save",outcome="timeout"} 2
tenantry_query_duration_seconds_count{backend="sqlite",operation="catalog.find",outcome="ok"} ${5000 + calls}
tenantry_query_duration_seconds_count{backend="sqlite",operation="clock.keep",outcome="ok"} ${5000 + calls}
tenantry_query_duration_seconds_count{backend="sqlite",operation="schemas.list",outcome="ok"} ${5000 + calls}
tenantry_batch_requests_sum{backend="sqlite",channel="write"} ${4 * calls}
tenantry_batch_requests_count{backend="sqlite",channel="write"} ${calls}
tenantry_pool_open_tenants 3.0
tenantry_pool_idle_tenants 1.0
tenantry_tenants{state="active"} 7.0
`;
    const look = (calls, slow, at) => lookAt(parse(text(calls, slow)), at);
    const escaped = parse('tenantry_x{a="b\\\\"c\\\\\\\\d\\\\n",e="{}"} 1e3 1700000000').get("tenantry_x")[0];
    return {
        moved: between(look(0, 0, 1000), look(90, 10, 3000)),
        again: between(look(90, 10, 1000), look(5, 0, 3000)),
        beyond: quantile(0.99, [[1, 0], [Infinity, 5]]),
        escaped,
    };
    """)
    moved = found["moved"]
    assert (moved["ok"], moved["failed"]) == (50, 0)
    assert moved["p50"] == pytest.approx(0.001 * 50 / 90)
    assert moved["p99"] == pytest.approx(0.001 + 0.009 * 9 / 10)
    assert (moved["writeBatch"], moved["readBatch"]) == (4, None)
    assert (moved["open"], moved["used"]) == (3, 2)
    assert (found["again"]["ok"], found["again"]["p99"]) == (None, None)
    assert found["beyond"] == 1
    assert found["escaped"] == {"labels": {"a": 'b"c\\d\n', "e": "{}"}, "value": 1000}


def test_nobody_is_asked_while_nobody_looks(page: Browser):
    """A page that cannot be seen asks nothing; when it is seen again it asks at once, and it does not ask twice at a time."""
    found = page.script("""
    const { Poller } = await import("/console/poll.js");
    let [asked, answer] = [0, null];
    const poller = new Poller(() => { asked += 1; return new Promise((resolve) => { answer = resolve; }); }, () => {});
    const see = (isSeen) => {
      Object.defineProperty(document, "hidden", { value: !isSeen, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    };
    const counts = [];
    see(false);
    poller.start();
    counts.push(asked);
    see(true);
    counts.push(asked);
    see(true);
    counts.push(asked);
    answer();
    await new Promise((resume) => setTimeout(resume));
    counts.push(asked);
    poller.stop();
    return counts;
    """)
    # What was wished for while an answer was out is asked when it is there.
    assert found == [0, 1, 1, 2]


def test_a_service_in_trouble_is_asked_less_often(page: Browser):
    """The time between two tries doubles while they fail, up to half a minute, and is never less than the service says."""
    found = page.script("""
    const { Poller } = await import("/console/poll.js");
    const waits = [];
    let error = null;
    const poller = new Poller(() => (error ? Promise.reject(error) : Promise.resolve()), ({ waitMs }) => waits.push(waitMs));
    poller.start();
    const ask = async () => { await poller.now(); await new Promise((resume) => setTimeout(resume)); };
    error = new Error("no");
    for (let tries = 0; tries < 6; tries += 1) await ask();
    error = Object.assign(new Error("wait"), { retryAfterSeconds: 60 });
    await ask();
    error = null;
    await ask();
    poller.stop();
    return waits.slice(-8);
    """)
    assert found == [2000, 4000, 8000, 16000, 30000, 30000, 60000, 2000]


def test_work_is_followed_when_its_stream_breaks_off(page: Browser):
    """Whoever loses the stream of an operation's events asks for the operation until it has ended."""
    found = page.script("""
    const { Activity } = await import("/console/activity.js");
    const { Unreachable } = await import("/console/api.js");
    const running = { id: "1", state: "running", steps: [], started_at: "2026-01-01T00:00:00Z" };
    const ended = { ...running, state: "succeeded", steps: ["begun"], finished_at: "2026-01-01T00:00:02Z" };
    const asked = [];
    const api = {
      async *events(path) { asked.push(path); yield running; throw new Unreachable(); },
      async get(path) { asked.push(path); return ended; },
    };
    const place = document.createElement("div");
    const activity = new Activity(place, document.createElement("p"));
    const { state } = await activity.follow(api, running, "Archive: acme");
    return { state, asked, text: place.textContent };
    """)
    assert found["state"] == "succeeded"
    assert found["asked"] == ["v1/operations/1/events", "v1/operations/1"]
    assert "Done in 2.0 s." in found["text"]


def test_what_was_begun_before_a_reload_is_followed(page: Browser):
    """What ran when the page was left is asked for, and told with the time since it began; what is not known is forgotten."""
    found = page.script("""
    const { Activity } = await import("/console/activity.js");
    const { Problem } = await import("/console/api.js");
    const { remember, underway } = await import("/console/underway.js");
    remember({ id: "1", title: "Snapshot: acme", at: Date.now() - 75_000 });
    remember({ id: "2", title: "Snapshot: globex", at: Date.now() });
    const running = { id: "1", state: "running", steps: [], started_at: "2026-01-01T00:00:00Z" };
    let end = null;
    const ended = new Promise((resolve) => { end = resolve; });
    const api = {
      async get(path) { if (path.endsWith("2")) throw new Problem(404, {}); return running; },
      async *events() { await ended; yield { ...running, state: "succeeded", finished_at: "2026-01-01T00:01:20Z" }; },
    };
    const place = document.createElement("div");
    const activity = new Activity(place, document.createElement("p"));
    const texts = [];
    await new Promise((resolve) => {
      activity.resume(api, resolve);
      setTimeout(() => { texts.push(place.textContent, underway().length); end(); });
    });
    return [...texts, place.textContent, underway().length];
    """)
    assert "Snapshot: acme" in found[0]
    assert "Running for 1 min " in found[0]
    assert "globex" not in found[0]
    assert found[1] == 1
    assert "Done in 80.0 s." in found[2]
    assert found[3] == 0


def test_without_metrics_there_are_no_charts_and_no_complaints(page: Browser):
    """A service whose metrics have a port of their own is asked for them once."""
    found = page.script("""
    const { History } = await import("/console/history.js");
    const { Problem } = await import("/console/api.js");
    let asked = 0;
    const history = new History({ async text() { asked += 1; throw new Problem(404, {}); } });
    await history.look();
    await history.look();
    return { asked, isServed: history.isServed };
    """)
    assert found == {"asked": 1, "isServed": False}
