"""When a token arrived: the kernel's stamps, whatever this process is doing, and what is said without them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import statistics
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    Project,
    Request,
    ScriptedServer,
    ask_each,
    chunk,
    finish,
    head,
    http_chunk,
    sse,
    streams,
    usage,
)
from tests.errors.test_secrets import make_certificate, serving_tls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stamps are Linux's")
HELD_S = 0.3  # how long the client's loop is held up


class HoldingServer:
    """Holds up the client's loop, streams tokens meanwhile, and knows when each of them left."""

    def __init__(self, tokens: int, gap_s: float, *, holds: bool = True) -> None:
        self.tokens, self.gap_s, self.holds = tokens, gap_s, holds
        self.client_loop: asyncio.AbstractEventLoop | None = None
        self.left_ns: list[int] = []

    async def __call__(self, _request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        await asyncio.sleep(0.05)
        if self.holds and self.client_loop is not None:
            held = threading.Event()
            self.client_loop.call_soon_threadsafe(self.hold, held)
            held.wait(5)
        for _ in range(self.tokens):
            await asyncio.sleep(self.gap_s)
            self.left_ns.append(st.clock())
            writer.write(http_chunk(sse(chunk(content="a"))))
        await asyncio.sleep(2 * HELD_S)
        end = sse(finish(), usage(completion=self.tokens), "[DONE]")
        writer.write(http_chunk(end) + b"0\r\n\r\n")

    @staticmethod
    def hold(held: threading.Event) -> None:
        """Keep the loop that runs this from doing anything else."""
        held.set()
        time.sleep(HELD_S)


def ask(
    server: ScriptedServer, behaviour: HoldingServer, url: str = "", **config: Any
) -> tuple[st.Result, st.LoadReport]:
    """Ask one question on a loop of the kind that a run has."""
    server.behaviour = behaviour

    async def run() -> tuple[list[st.Result], st.LoadReport]:
        behaviour.client_loop = asyncio.get_running_loop()
        return await ask_each(url or server.url, **config)

    with asyncio.Runner(loop_factory=st.WatchedLoop) as runner:
        (result,), load = runner.run(run())
    assert result.ok, result.error
    return result, load


def errors_ms(result: st.Result, load: st.LoadReport, server: HoldingServer) -> list[float]:
    """Return by how much each token is timed late."""
    assert result.chunk_ns is not None
    return [
        (load.start.start_ns + chunk_ns - left_ns) / st.NS_PER_MS
        for chunk_ns, left_ns in zip(result.chunk_ns, server.left_ns, strict=True)
    ]


def test_a_token_has_the_time_of_its_arrival_though_the_client_was_held_up(
    server: ScriptedServer,
) -> None:
    holding = HoldingServer(1, 0.02)
    result, load = ask(server, holding)
    assert errors_ms(result, load, holding)[0] == pytest.approx(0, abs=20)
    assert result.client_error_ms == 0
    assert result.merged_chunks == 0


def test_tls_is_timed_by_the_kernel_too(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "IP:127.0.0.1")
    with serving_tls(certificate) as server:
        holding = HoldingServer(1, 0.02)
        url = server.url.replace("http:", "https:")
        result, load = ask(server, holding, url, ca_file=str(certificate.file))
    assert errors_ms(result, load, holding)[0] == pytest.approx(0, abs=20)
    assert result.client_error_ms == 0


def test_tokens_that_waited_unread_are_marked_and_their_error_is_bounded(
    server: ScriptedServer,
) -> None:
    holding = HoldingServer(5, 0.02)
    result, load = ask(server, holding)
    errors = errors_ms(result, load, holding)
    assert result.merged_chunks == 4
    assert errors[-1] == pytest.approx(0, abs=20), "the last one has its own time"
    assert result.client_error_ms is not None
    assert 60 < errors[0] <= result.client_error_ms + 1, "the first one's is at most the bound"
    assert result.client_error_ms < 1000 * HELD_S, "which is no wider than the delay"


def test_tokens_that_a_server_sends_together_are_not_the_clients_fault(
    server: ScriptedServer,
) -> None:
    result, _ = ask(server, HoldingServer(5, 0, holds=False))
    assert result.merged_chunks == 0
    assert result.client_error_ms == 0


@pytest.fixture
def without_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st.StampedSocket, "SO_TIMESTAMPNS", 0x7FFF)  # no such option


@pytest.mark.usefixtures("without_stamps")
def test_without_stamps_the_loops_clock_is_used_and_its_delay_is_the_error(
    server: ScriptedServer,
) -> None:
    holding = HoldingServer(1, 0.02)
    result, load = ask(server, holding)
    (error,) = errors_ms(result, load, holding)
    assert error > 500 * HELD_S
    assert result.client_error_ms is not None
    assert result.client_error_ms >= error - 25, "the beat of the lag monitor"
    assert result.merged_chunks is None


@pytest.mark.usefixtures("without_stamps")
def test_a_run_says_that_its_times_are_the_loops(project: Project) -> None:
    project.run("run")
    timestamps = project.results()["meta"]["client"]["timestamps"]
    assert timestamps["source"] == "loop"
    assert timestamps["reads"]["absent"] >= 4


def test_a_run_says_that_its_times_are_the_kernels(project: Project) -> None:
    project.run("run")
    timestamps = project.results()["meta"]["client"]["timestamps"]
    assert timestamps["source"] == "kernel"
    assert timestamps["reads"]["kernel"] >= 4
    assert timestamps["reads"]["absent"] == 0, "stamping is on before the first request"


def test_a_wall_clock_that_is_set_meanwhile_changes_no_time(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, real = time.monotonic(), time.time_ns

    def set_back() -> int:
        jumped = time.monotonic() - begun > 0.1
        return real() - 3600 * st.NS_PER_S if jumped else real()

    monkeypatch.setattr(time, "time_ns", set_back)
    holding = HoldingServer(10, 0.02, holds=False)
    result, load = ask(server, holding)
    assert max(map(abs, errors_ms(result, load, holding))) < 30


class Given(st.StampedSocket):
    """A socket that reads one byte with the stamp that it is given."""

    stamp = (0, 0)

    def recvmsg(self, *_sizes: int) -> Any:
        return b"x", [(1, 35, struct.pack("@ll", *self.stamp))], 0, None


class TestStampedSocket:
    """The mapping of one stamp, without a connection."""

    @staticmethod
    def arrival(age_ns: int) -> tuple[st.Arrivals, int | None, int]:
        """Read a byte that came so long ago, a second after the read before it."""

        async def run() -> tuple[st.Arrivals, int | None, int]:
            arrivals = st.Arrivals()
            with Given(socket.AF_INET, socket.SOCK_STREAM, 0, arrivals) as given:
                now_ns = st.clock()
                given.last_read = now_ns - 10**9, None
                given.stamp = divmod(time.time_ns() - age_ns, st.NS_PER_S)
                assert given.recv(10) == b"x"
                arrived_ns, early_ns = given.last_read
                assert given.recv_into(bytearray(10)) == 1
                assert arrivals.kernel + arrivals.outside == 2
            return arrivals, early_ns, now_ns - arrived_ns

        return asyncio.run(run())

    def test_a_stamp_is_mapped_to_the_monotonic_clock(self) -> None:
        arrivals, early_ns, age_ns = self.arrival(5_000_000)
        assert age_ns == pytest.approx(5_000_000, abs=1_000_000)
        assert early_ns == pytest.approx(10**9 - 5_000_000, abs=2_000_000)
        assert arrivals.kernel >= 1

    @pytest.mark.parametrize("age_ns", [-3600 * 10**9, 3600 * 10**9, -1_000_000_000, 2 * 10**9])
    def test_a_stamp_before_the_last_read_or_in_the_future_is_not_used(self, age_ns: int) -> None:
        arrivals, early_ns, age = self.arrival(age_ns)
        assert early_ns is None
        assert age <= 0
        assert (arrivals.kernel, arrivals.outside) == (0, 2)


class TestLooking:
    """What a socket notes of first bytes in the middle of a turn, before others are merged with them."""

    GAP_S = 0.05

    @staticmethod
    @contextlib.contextmanager
    def asked() -> Iterator[tuple[st.StampedSocket, socket.socket]]:
        """Give a client's socket that has sent its request, and the server's."""
        arrivals = asyncio.run(TestLooking.arrivals())
        made = st.StampedSocket(socket.AF_INET, socket.SOCK_STREAM, 0, arrivals)
        with socket.create_server(("127.0.0.1", 0)) as listening, made as client:
            time.sleep(0.05)  # the kernel begins to stamp a moment after it is asked
            client.connect(listening.getsockname())
            client.setblocking(False)
            server, _ = listening.accept()
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server:
                client.send(b"request")
                assert server.recv(100) == b"request"
                yield client, server
        arrivals.close()

    @staticmethod
    async def arrivals() -> st.Arrivals:
        return st.Arrivals()

    @classmethod
    def sends(cls, client: st.StampedSocket, server: socket.socket, data: bytes) -> None:
        """Send, and wait until it has come."""
        before = cls.waiting(client)
        server.sendall(data)
        while cls.waiting(client) < before + len(data):
            time.sleep(0.001)

    @staticmethod
    def look(client: st.StampedSocket) -> None:
        """Look, not too soon after the last look."""
        time.sleep(2 * client.arrivals.LOOK_NS / st.NS_PER_S)
        client.arrivals.look()

    @staticmethod
    def waiting(client: socket.socket) -> int:
        """Return how many bytes wait to be read."""
        return struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, b"\0" * 4))[0]  # type: ignore[no-any-return]

    def test_first_bytes_keep_their_time_when_later_ones_are_merged_with_them(self) -> None:
        with self.asked() as (client, server):
            self.sends(client, server, b"first")
            self.look(client)
            time.sleep(self.GAP_S)
            self.sends(client, server, b"second")
            assert client.recv(100) == b"first"
            first_ns, early_ns = client.last_read
            assert client.recv(100) == b"second"
            gap_ns = client.last_read[0] - first_ns
        assert gap_ns > self.GAP_S * st.NS_PER_S * 0.9
        assert early_ns is not None

    def test_without_a_look_they_have_the_time_of_the_last(self) -> None:
        with self.asked() as (client, server):
            self.sends(client, server, b"first")
            time.sleep(self.GAP_S)
            self.sends(client, server, b"second")
            assert client.recv(100) == b"firstsecond"
            _, early_ns = client.last_read
            assert early_ns is not None
            assert early_ns > self.GAP_S * st.NS_PER_S * 0.9

    def test_a_head_and_the_first_token_are_each_noted(self) -> None:
        with self.asked() as (client, server):
            for part in (b"head", b"role", b"token"):
                self.sends(client, server, part)
                self.look(client)
                time.sleep(self.GAP_S)
                self.sends(client, server, b"more")
                assert client.recv(100) == part
                assert client.recv(100) == b"more"

    def test_bytes_that_came_after_a_look_came_after_it(self) -> None:
        with self.asked() as (client, server):
            time.sleep(self.GAP_S)
            self.look(client)
            looked_ns = client.arrivals.looked_ns
            assert looked_ns
            self.sends(client, server, b"first")
            assert client.recv(100) == b"first"
            arrived_ns, early_ns = client.last_read
        assert early_ns is not None
        assert arrived_ns - early_ns >= looked_ns

    def test_a_small_read_takes_a_part_and_the_next_one_the_rest(self) -> None:
        with self.asked() as (client, server):
            self.sends(client, server, b"first")
            self.look(client)
            self.sends(client, server, b"second")
            assert [client.recv(3), client.recv(100), client.recv(100)] == [
                b"fir",
                b"st",
                b"second",
            ]

    def test_a_reset_that_is_noted_is_raised_when_it_is_read(self) -> None:
        with self.asked() as (client, server):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            time.sleep(self.GAP_S)
            self.look(client)
            with pytest.raises(ConnectionResetError):
                client.recv(100)

    def test_an_end_that_is_noted_is_read_as_one(self) -> None:
        with self.asked() as (client, server):
            server.close()
            time.sleep(self.GAP_S)
            self.look(client)
            assert client.recv(100) == b""

    def test_a_request_that_cannot_be_watched_is_timed_all_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_self: st.Arrivals, _number: int) -> None:
            raise OSError(errno.ENOSPC, "no space for another watch")

        monkeypatch.setattr(st.Arrivals, "await_bytes", refuse)
        with self.asked() as (client, server):
            self.sends(client, server, b"first")
            self.look(client)
            assert client.recv(100) == b"first"
            assert client.arrivals.kernel == 1


@pytest.mark.parametrize(
    ("read_ms", "delay_ms"),
    [
        (50, 0),
        (101, 1),
        (390, 290),
        (401, 300),
        (410.2, 300),
        (421, 0.3),
        (450, 0),
        (500.2, 0.2),
        (501, 0.5),
    ],
)
def test_what_is_read_while_a_delay_is_worked_off_may_have_waited_since_it_began(
    read_ms: float, delay_ms: float
) -> None:
    async def delay_ns() -> int:
        lag = st.LagMonitor()
        # Until when and since when the loop was held up: for 300 ms, and then shortly.
        holds = [(20.1, 20), (400, 100), (410.4, 410.1), (500.5, 500)]
        lag._holds.extend((round(a * st.NS_PER_MS), round(b * st.NS_PER_MS)) for a, b in holds)
        return lag.delay_ns(round(read_ms * st.NS_PER_MS))

    assert asyncio.run(delay_ns()) == delay_ms * st.NS_PER_MS


@pytest.mark.parametrize("beats", [st.LagMonitor.FEWEST_BEATS, 2])
def test_lag_is_not_judged_in_the_drain_unless_that_is_the_whole_stage(beats: int) -> None:
    async def stall_in_the_drain() -> float:
        with st.LagMonitor() as lag:
            with lag.stage(0):
                await asyncio.sleep((beats + 5) * lag.BEAT_NS / st.NS_PER_S)
                lag.begin_drain()
                time.sleep(0.5)  # noqa: ASYNC251 - this is the stall
                await asyncio.sleep(0.1)
            return float(lag.to_record()["stages"][0]["loop_lag_ms"]["max"])

    counted = asyncio.run(stall_in_the_drain()) > 300
    assert counted == (beats < st.LagMonitor.FEWEST_BEATS)


STALL_S, RUN_S = 0.15, 5.0


def run_with_a_stall(
    project: Project, server: ScriptedServer
) -> tuple[dict[str, Any], list[float]]:
    """Run with a client that is stalled once, for 3 % of the time.

    Return the results, and by how many ms each first token is timed late.
    """
    left_ns: list[int] = []

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        left_ns.append(st.clock())
        await streams("a")(request, writer)

    server.behaviour = behave
    run_stage = st.LoadGenerator._run_stage

    async def stalled(self: st.LoadGenerator, *args: Any) -> None:
        asyncio.get_running_loop().call_later(RUN_S / 2, time.sleep, STALL_S)
        await run_stage(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st.LoadGenerator, "_run_stage", stalled)
        load: dict[str, Any] = {
            "rate": 80,
            "arrival": "constant",
            "duration": RUN_S,
            "concurrent": 200,
        }
        load["cache_bust"] = True  # else two more requests are sent before the load
        project.configure(**load, server=server.url)
        project.run("run")
    data = project.results()
    # Both are in order, and count from different moments: the usual distance is the origin's.
    came = sorted(result["sent_ms"] + result["ttft_ms"] for result in data["results"])
    late = [at - left / st.NS_PER_MS for at, left in zip(came, sorted(left_ns), strict=True)]
    usual = statistics.median(late)
    return data, [ms - usual for ms in late]


@pytest.mark.usefixtures("without_stamps")
def test_a_client_that_stalls_for_3_percent_of_a_run_is_seen(
    project: Project, server: ScriptedServer
) -> None:
    data, late_ms = run_with_a_stall(project, server)
    assert max(late_ms) > 600 * STALL_S
    assert data["meta"]["validity"]["verdict"] != "VALID"
    codes = {reason["code"] for reason in data["meta"]["validity"]["reasons"]}
    assert codes & {"client_saturated", "client_starved"}
    assert data["aggregate"]["client_error_ms"]["p99"] > 500 * STALL_S


def test_the_kernels_times_of_a_stalled_client_are_true(
    project: Project, server: ScriptedServer
) -> None:
    data, late_ms = run_with_a_stall(project, server)
    assert data["meta"]["client"]["timestamps"]["source"] == "kernel"
    assert statistics.quantiles(late_ms, n=100)[-1] < 300 * STALL_S
