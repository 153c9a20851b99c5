"""The metrics of all processes of a data directory, from any of them."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring import promtool
from others import Other, other_process
from peers import Pair, open_pair
from raw_peers import RawPeer, frame, raw_owner
from registries import config
from tenantry import TenantRegistry
from tenantry.errors import CallTimeoutError, DuplicateRecordError, TenantOwnedElsewhereError
from tenantry.eventlog import EventLog
from tenantry.observability import (
    ProcessesMetrics,
    collect_all_processes,
    export_metrics,
    expose_all_processes,
)
from tenantry.tenancy.measurements.families import Distribution, Family, Kind
from tenantry.tenancy.peers.connections.messages import (
    MEASUREMENTS_BYTES_MAX,
    PROTOCOL_VERSION,
    Done,
    SentMeasurements,
    Welcome,
)
from tenantry.tenancy.peers.process_measurements import ProcessMeasured
from tenantry.tenancy.peers.process_slots import ProcessSlots
from tenantry.tenancy.peers.sent_measurements import unpack
from tenants import HANG_SECONDS, make_message, until

FROZEN_TIMEOUT_SECONDS = 0.3
all_processes = partial(collect_all_processes, timeout_seconds=HANG_SECONDS)
"""Where every process answers, as late as a busy machine lets it."""
QUERIES = "tenantry_query_duration_seconds_count"
COUNTS = Family(Kind.COUNTER, "counts", "Counts.", ("outcome",))
TIMES = Family(Kind.HISTOGRAM, "times", "Times.", ("outcome",), (0.1, 1.0))


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two measured registries with the tenant ``acme``."""
    async with open_pair(data_dir) as opened:
        opened.owner.measure()
        opened.other.measure()
        yield opened


def total(metrics: ProcessesMetrics, name: str, **labels: str) -> float:
    """Return the sum of all samples with this name and these labels."""
    return sum(
        sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def processes(metrics: ProcessesMetrics) -> dict[str, float]:
    """Return whether each process answered, by its number."""
    [up] = [family for family in metrics.collect() if family.name == "tenantry_process_up"]
    return {sample.labels["process"]: sample.value for sample in up.samples}


def has_series(metrics: ProcessesMetrics, process: str) -> bool:
    """Return whether there are numbers of this process."""
    return total(metrics, "tenantry_pool_capacity_tenants", process=process) > 0


class TestCounts:
    """What is counted, where, and how often."""

    async def test_a_call_is_counted_once_by_its_owner(self, pair: Pair):
        """A scrape of either process shows 18 own and 30 forwarded calls as 48, all at the owner."""
        for _ in range(18):
            await pair.own.messages.save(make_message())
        for _ in range(30):
            await pair.forwarded.messages.save(make_message())
        for scraped in (pair.owner, pair.other):
            metrics = await all_processes(scraped)
            assert total(metrics, QUERIES, operation="messages.save") == 48
            assert total(metrics, QUERIES, operation="messages.save", process="0") == 48
            calls = "tenantry_forwarded_calls_total"
            assert total(metrics, calls, process="1", direction="out", outcome="ok") == 30
            assert total(metrics, calls, process="0", direction="in", outcome="ok") == 30
            assert total(metrics, calls) == 60
            assert total(metrics, "tenantry_forwarded_call_duration_seconds_count", process="1") == 30

    async def test_outcomes_of_forwarded_calls(self, pair: Pair):
        """An error of the owner, and a tenant that the owner has just closed, are outcomes on both sides."""
        message = make_message()
        await pair.forwarded.messages.save(message)
        with pytest.raises(DuplicateRecordError):
            await pair.forwarded.messages.save(message)
        await pair.owner.suspend("acme")
        await pair.owner.resume("acme")
        await pair.forwarded.messages.get_history("general", limit=1)
        metrics = await all_processes(pair.other)
        for direction in ("in", "out"):
            for outcome in ("duplicate", "not_owner"):
                found = total(metrics, "tenantry_forwarded_calls_total", direction=direction, outcome=outcome)
                assert found == 1, (direction, outcome)

    async def test_calls_of_transactions_are_forwarded_calls(self, pair: Pair):
        """A transaction is its opening, its calls and its end, at both ends."""
        async with pair.forwarded.transaction() as tx:
            await tx.messages.save(make_message())
            await tx.messages.get_history("general", limit=1)
        metrics = await all_processes(pair.owner)
        for direction in ("in", "out"):
            assert total(metrics, "tenantry_forwarded_calls_total", direction=direction, outcome="ok") == 4

    async def test_connections_and_forwarded_tenants(self, pair: Pair):
        """Each process tells its connections, and how many tenants it knows elsewhere."""
        await pair.forwarded.messages.save(make_message())
        metrics = await all_processes(pair.other)
        assert total(metrics, "tenantry_forwarded_tenants", process="1") == 1
        assert total(metrics, "tenantry_forwarded_tenants", process="0") == 0
        assert total(metrics, "tenantry_peers", process="1", direction="out") == 1
        assert total(metrics, "tenantry_peers", process="0", direction="in") == 1

    async def test_a_forwarded_call_is_no_failed_call(self, pair: Pair):
        """The first look at a tenant of another process finds its lock held; that is not a failure of the caller's call."""
        await pair.forwarded.messages.save(make_message())
        metrics = await all_processes(pair.owner)
        calls = "tenantry_call_duration_seconds_count"
        assert total(metrics, calls, outcome="owned_elsewhere") == 0
        assert total(metrics, calls, outcome="ok") > 0

    async def test_a_refused_call_is_a_failed_call(self, pair: Pair):
        """A process that does not forward refuses the call, and counts that."""
        async with TenantRegistry(config(pair.owner.config.data_dir, forwarding=False)) as refusing:
            refusing.measure()
            with pytest.raises(TenantOwnedElsewhereError):
                await refusing.tenant("acme").messages.save(make_message())
            metrics = await all_processes(refusing)
        assert total(metrics, "tenantry_call_duration_seconds_count", outcome="owned_elsewhere") == 1

    async def test_hand_overs_are_a_reason_for_closing(self, data_dir: Path):
        """A tenant that is handed over counts as closed for this reason, at the process that had it open."""
        async with open_pair(data_dir, handed_over_after_calls=3) as pair:
            for _ in range(4):
                await pair.forwarded.messages.save(make_message())
            await until(lambda: pair.owner.statistics().pool.closed_by_reason["handed_over"] == 1)
            metrics = await all_processes(pair.other)
        assert total(metrics, "tenantry_pool_evictions_total", process="0", reason="handed_over") == 1

    async def test_counting_begins_with_the_first_scrape(self, data_dir: Path):
        """A process that nobody has told to measure counts from the first scrape on."""
        async with open_pair(data_dir) as pair:
            await pair.own.messages.save(make_message())
            assert total(await all_processes(pair.other), QUERIES, operation="messages.save") == 0
            await pair.own.messages.save(make_message())
            assert total(await all_processes(pair.other), QUERIES, operation="messages.save") == 1


class TestProcesses:
    """Real processes: they come, freeze and are killed."""

    async def test_a_killed_process_disappears_and_its_number_is_used_again(
        self, registry: TenantRegistry, data_dir: Path
    ):
        """Its series go; no other series falls; the next process has its number."""
        registry.measure()
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message())
        with other_process(data_dir) as first, other_process(data_dir) as second:
            await all_processes(registry)
            # In threads, because this process is the owner.
            assert await asyncio.to_thread(first.do, "save", "acme") == "ok"
            assert await asyncio.to_thread(second.do, "save", "acme") == "ok"
            before = await all_processes(registry)
            assert processes(before) == {"0": 1.0, "1": 1.0, "2": 1.0}
            assert pids(before) == {"0": os.getpid(), "1": first.pid, "2": second.pid}
            first.kill()
            after = await all_processes(registry)
            assert processes(after) == {"0": 1.0, "2": 1.0}
            assert not has_series(after, "1")
            check_no_counter_falls(before, after, gone="1")
            with other_process(data_dir) as third:
                assert pids(await all_processes(registry))["1"] == third.pid

    async def test_a_frozen_process_delays_a_scrape_no_longer_than_the_timeout(
        self, registry: TenantRegistry, data_dir: Path
    ):
        """The frozen process has only the sample 0 of ``tenantry_process_up``; later it is there again, with a connection or without."""
        with other_process(data_dir) as met, other_process(data_dir) as unmet:
            assert processes(await all_processes(registry)) == {"0": 1.0, "1": 1.0, "2": 1.0}
            for frozen in (met, unmet):
                os.kill(frozen.pid, signal.SIGSTOP)
            with other_process(data_dir) as third:
                os.kill(third.pid, signal.SIGSTOP)  # frozen before anybody has connected to it
                metrics = await collect_all_processes(registry, FROZEN_TIMEOUT_SECONDS)
                assert processes(metrics) == {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.0}
                assert has_series(metrics, "0")
                assert not has_series(metrics, "3")
                continued: tuple[Other, ...] = (met, unmet, third)
                for frozen in continued:
                    os.kill(frozen.pid, signal.SIGCONT)
                metrics = await all_processes(registry)
                assert processes(metrics) == dict.fromkeys("0123", 1.0)

    async def test_a_call_to_a_frozen_owner_is_a_failed_call(self, data_dir: Path):
        """The owner cannot count the call, so the process that forwards it does."""
        async with TenantRegistry(config(data_dir, call_timeout_seconds=1.0)) as caller:
            caller.measure()
            with other_process(data_dir) as owner:
                for action in ("create", "save"):
                    assert await asyncio.to_thread(owner.do, action, "acme") == "ok"
                await caller.tenant("acme").messages.save(make_message())
                os.kill(owner.pid, signal.SIGSTOP)
                with pytest.raises(CallTimeoutError):
                    await caller.tenant("acme").messages.save(make_message())
                metrics = await collect_all_processes(caller, 0.0)
                os.kill(owner.pid, signal.SIGCONT)
        calls = "tenantry_call_duration_seconds_count"
        assert total(metrics, calls, channel="none", outcome="timeout") == 1
        assert total(metrics, "tenantry_forwarded_calls_total", outcome="no_answer") == 1

    async def test_a_frozen_process_that_accepts_no_more_connections(
        self, registry: TenantRegistry, data_dir: Path
    ):
        """As long as it has its lock it is listed; when it is killed it is not, and its lock file is removed."""
        with other_process(data_dir) as frozen, ExitStack() as waiting:
            os.kill(frozen.pid, signal.SIGSTOP)
            [holder] = ProcessSlots(data_dir, log=EventLog()).others()[1:]
            address, refusal = str(data_dir / "peers" / holder.socket_name), 0
            while refusal != errno.EAGAIN:
                connecting = waiting.enter_context(
                    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                )
                refusal = connecting.connect_ex(address)
            assert processes(await collect_all_processes(registry)) == {"0": 1.0, "1": 0.0}
            frozen.kill()
            assert processes(await all_processes(registry)) == {"0": 1.0}
        assert [path.name for path in (data_dir / "peers").glob("*.lock")] == ["0.lock"]

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(frame(1, b"\xc1"), id="bytes"),
            pytest.param(frame(1, Done(1)), id="another-answer"),
            pytest.param(frame(1, SentMeasurements(b"\xc1")), id="other-numbers"),
            pytest.param(frame(1, SentMeasurements(bytes(MEASUREMENTS_BYTES_MAX + 1))), id="too-large"),
            pytest.param(b"", id="the-end"),
        ],
    )
    async def test_a_process_that_sends_nonsense(
        self, registry: TenantRegistry, data_dir: Path, answer: bytes
    ):
        """It counts as one that does not answer, and the others are shown."""

        async def serve(peer: RawPeer) -> None:
            call, _ = await peer.request()
            peer.send(frame(call, Welcome(PROTOCOL_VERSION, 7, "test", {}, "here")))
            await peer.request()
            peer.send(answer)
            await peer.writer.drain()

        odd = ProcessSlots(data_dir, log=EventLog())
        odd.take("0" * 12)
        async with raw_owner(data_dir, "0" * 12, serve), TenantRegistry(config(data_dir)):
            metrics = await collect_all_processes(registry)
        odd.release()
        assert processes(metrics) == {"0": 1.0, "1": 0.0, "2": 1.0}

    async def test_a_registry_without_forwarding_shows_itself(self, registry: TenantRegistry, data_dir: Path):
        """It asks nobody and nobody asks it; its samples have an empty label, which is no label for Prometheus."""
        async with TenantRegistry(config(data_dir, forwarding=False)) as alone:
            assert processes(await all_processes(alone)) == {"": 1.0}
            assert processes(await all_processes(registry)) == {"0": 1.0}

    async def test_a_closed_registry_shows_itself(self, data_dir: Path):
        """A scrape during the shutdown gets an answer."""
        async with TenantRegistry(config(data_dir)) as registry:
            pass
        assert processes(await all_processes(registry)) == {"": 1.0}


def pids(metrics: ProcessesMetrics) -> dict[str, int]:
    """Return the process id of each process that answered."""
    [info] = [family for family in metrics.collect() if family.name == "tenantry_process_info"]
    return {sample.labels["process"]: int(sample.labels["pid"]) for sample in info.samples}


def check_no_counter_falls(before: ProcessesMetrics, after: ProcessesMetrics, *, gone: str) -> None:
    """Fail if a counter of a process that is still there has fallen or is missing."""
    later = counters(after)
    fallen = {key: value for key, value in counters(before).items() if later.get(key, -1.0) < value}
    assert {dict(labels)["process"] for _, labels in fallen} <= {gone}


def counters(metrics: ProcessesMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples that may only grow."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.collect()
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


class TestExposition:
    """The text that Prometheus gets."""

    async def test_each_family_is_there_once(self, pair: Pair):
        """One TYPE and one HELP for all processes; promtool and prometheus_client take the text."""
        await pair.forwarded.messages.save(make_message())
        collectors = CollectorRegistry()
        text = (await expose_all_processes(pair.other, collectors=collectors)).body.decode()
        types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len(set(types))
        families = {family.name: family for family in text_string_to_metric_families(text)}
        both = {sample.labels["process"] for sample in families["tenantry_pool_open_tenants"].samples}
        assert both == {"0", "1"}
        assert promtool("check", "metrics", stdin=text) == ""

    async def test_the_applications_own_metrics_are_beside_them(self, pair: Pair):
        """Other families are there once, without the label; a family of ``export_metrics`` is not repeated."""
        collectors = CollectorRegistry()
        Counter("orders", "Orders.", registry=collectors).inc()
        export_metrics(pair.owner, collectors)
        text = (await expose_all_processes(pair.owner, collectors=collectors)).body.decode()
        assert "orders_total 1.0" in text
        assert text.count("# TYPE tenantry_pool_waiters gauge") == 1

    async def test_what_generate_latest_writes(self, pair: Pair):
        """The collected metrics are a collector for prometheus_client."""
        metrics = await all_processes(pair.owner)
        assert 'tenantry_pool_waiters{process="1"} 0.0' in generate_latest(metrics).decode()  # type: ignore[arg-type]  # it only collects

    def test_a_label_is_escaped_here(self):
        """What another process sends as a label's value cannot end the line."""
        odd = 'quote " and\nline \\'
        series = unpack(msgspec.msgpack.encode({"counts": [[[odd], 1.0]]}), [COUNTS])
        text = generate_latest(ProcessesMetrics([COUNTS], [ProcessMeasured(3, 7, "1", series)])).decode()  # type: ignore[arg-type]
        [family] = [one for one in text_string_to_metric_families(text) if one.name == "counts"]
        assert [sample.labels for sample in family.samples] == [{"process": "3", "outcome": odd}]


class TestSentNumbers:
    """What another process sends is not trusted."""

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\xc1", id="not-messagepack"),
            pytest.param(msgspec.msgpack.encode([1]), id="another-shape"),
            pytest.param(msgspec.msgpack.encode({"counts": [[["ok"], "1"]]}), id="a-text-for-a-number"),
            pytest.param(msgspec.msgpack.encode({"counts": [[["x" * 2_000], 1.0]]}), id="a-long-label"),
            pytest.param(msgspec.msgpack.encode({"counts": [[["ok"], 1.0]] * 10_001}), id="too-many-series"),
            pytest.param(
                msgspec.msgpack.encode({"times": [[["ok"], [[-1, 0, 0], 0.0, [None] * 3]]]}),
                id="a-negative-count",
            ),
        ],
    )
    def test_nonsense_is_refused(self, sent: bytes):
        """An answer of another shape, or beyond a limit, is an error."""
        with pytest.raises(msgspec.DecodeError):
            unpack(sent, [COUNTS, TIMES])

    @pytest.mark.parametrize(
        ("name", "pair"),
        [
            pytest.param("counts", [["ok", "more"], 1.0], id="more-labels"),
            pytest.param("counts", [["ok"], [[1, 2, 3], 1.0, [None] * 3]], id="a-histogram-for-a-number"),
            pytest.param("times", [["ok"], 1.0], id="a-number-for-a-histogram"),
            pytest.param("times", [["ok"], [[1, 2], 1.0, [None] * 2]], id="other-buckets"),
            pytest.param("unknown", [["ok"], 1.0], id="an-unknown-family"),
        ],
    )
    def test_what_does_not_fit_is_left_out(self, name: str, pair: list[Any]):
        """A series of another release is left out, and the others are kept."""
        found = unpack(
            msgspec.msgpack.encode({"counts": [[["kept"], 2.0]], name: [pair]} | {}), [COUNTS, TIMES]
        )
        assert found["times"] == {}
        assert ("ok",) not in found["counts"]

    def test_what_fits_comes_back(self):
        """Numbers, histograms and their examples."""
        times = [[["ok"], [[1, 0, 2], 7.5, [["acme", 0.05, 9.0], None, ["globex", 5.0, 8.0]]]]]
        found = unpack(msgspec.msgpack.encode({"counts": [[["ok"], 2.0]], "times": times}), [COUNTS, TIMES])
        assert found["counts"] == {("ok",): 2.0}
        distribution = found["times"]["ok",]
        assert isinstance(distribution, Distribution)
        assert (distribution.counts, distribution.total) == ([1, 0, 2], 7.5)
        assert distribution.examples[0] == ("acme", 0.05, 9.0)


class TestSlots:
    """The numbers of processes."""

    def slots(self, data_dir: Path) -> ProcessSlots:
        """Return the numbers of another registry."""
        (data_dir / "peers").mkdir(parents=True, exist_ok=True)
        return ProcessSlots(data_dir, log=EventLog())

    def test_the_smallest_free_number(self, tmp_path: Path):
        """A number that was given back is the next that is taken, and nothing is left of it."""
        one, two, three = (self.slots(tmp_path) for _ in range(3))
        one.take("0" * 12)
        two.take("1" * 12)
        assert (one.number, two.number) == (0, 1)
        assert [holder.number for holder in one.others()] == [1]
        one.release()
        assert one.number is None
        three.take("2" * 12)
        assert three.number == 0
        two.release()
        three.release()
        assert list((tmp_path / "peers").iterdir()) == []

    @pytest.mark.parametrize(
        "content",
        [b"", b"nonsense", b'{"pid": 7, "host": "here"}', b'{"pid": 7, "host": "here", "socket": "../../x"}'],
    )
    def test_a_damaged_lock_file_names_nobody(self, tmp_path: Path, content: bytes):
        """A lock file without a socket, or with a path instead of its name, is no process."""
        slots = self.slots(tmp_path)
        slots.take("0" * 12)
        (tmp_path / "peers" / "1.lock").write_bytes(content)
        (tmp_path / "peers" / "x.lock").write_bytes(b"")
        assert slots.others() == []
        slots.release()

    async def test_sockets_are_no_numbers(self, pair: Pair):
        """Whoever opens a directory removes neither the lock files nor the sockets of others."""
        async with TenantRegistry(pair.owner.config) as third:
            names = sorted(path.name for path in (third.config.data_dir / "peers").glob("*.lock"))
            assert names == ["0.lock", "1.lock", "2.lock"]
            assert processes(await all_processes(third)) == dict.fromkeys("012", 1.0)
