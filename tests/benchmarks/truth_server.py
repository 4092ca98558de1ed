"""An OpenAI-compatible server whose timing is the ground truth; pure Python, so that the benchmarks run anywhere.

    python tests/benchmarks/truth_server.py PORT LOGFILE [key=value ...]

PORT 0 takes a free port and prints it. LOGFILE `-` keeps no log. One thread, epoll, a heap of deadlines. The log gets a
JSON object a request when it ends, with CLOCK_REALTIME ns: `recv` when the request was read, `start` when it got a slot,
`first` and `last` when those tokens left, `sent` of `total` tokens, `itl_max`, `how` it ended; and `tag`, the number
that its question ends in, so that a benchmark can find its own record of the same request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import heapq
import json
import random
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

WORDS = (
    " the",
    " cat",
    " sat",
    " on",
    " a",
    " warm",
    " mat",
    " and",
    " dreamt",
    " of",
    " 42",
    " mice",
    ",",
    " then",
    "!",
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
NS_PER_MS = 1_000_000  # ns in a ms
NS_PER_S = 1_000_000_000  # ns in a s


@dataclasses.dataclass
class Settings:
    """The key=value arguments."""

    ttft: float = 50.0  # ms of service before the first token
    itl: float = 10.0  # ms between the tokens of a stream
    n: int = 50  # tokens an answer, unless the request allows fewer
    slots: int = 1 << 30  # streams served at once; the others queue
    batch: float = 0.0  # ms added to itl for each other active stream
    jitter: float = 0.0  # each ttft and itl is scaled by U(1 - jitter, 1 + jitter)
    seed: int = 0
    fail: int = 0  # permille answered with a 500
    reset: int = 0  # permille reset half-way
    hang: int = 0  # permille that say nothing more half-way
    burst: int = 1  # tokens in one write
    pad: int = 0  # bytes added to each token
    stall: str = ""  # AT_S:FOR_S: all streams stop for FOR_S seconds, AT_S seconds after the first streamed request

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Settings:
        """Read the arguments; ValueError names a bad one."""
        kinds: dict[str, type[str | int | float]] = {
            name: type(value) for name, value in vars(cls()).items()
        }
        values: dict[str, Any] = {}
        for argument in arguments:
            key, equals, text = argument.partition("=")
            if key not in kinds or not equals:
                raise ValueError(f"unknown setting {argument!r}; there are {', '.join(kinds)}")
            values[key] = text if kinds[key] is str else kinds[key](float(text))
        return cls(**values)

    @property
    def stall_ns(self) -> tuple[int, int]:
        """When the stall begins and how long it lasts; (0, 0) without one."""
        at_s, _, for_s = self.stall.partition(":")
        return (
            (round(float(at_s) * NS_PER_S), round(float(for_s) * NS_PER_S))
            if self.stall
            else (0, 0)
        )


class Wanted(NamedTuple):
    """What a request's body asks for."""

    stream: bool
    usage: bool
    limit: int  # tokens
    tag: int | None


class Head(NamedTuple):
    """What a request's head says."""

    path: bytes
    post: bool
    length: int


@functools.lru_cache(maxsize=4096)
def read_head(head: bytes) -> Head:
    """Read a request's head; benchmarks send the same one again and again."""
    method, path, *_ = head.split(b" ", 2)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return Head(path, method == b"POST", int(length[1]) if length else 0)


@functools.lru_cache(maxsize=4096)
def read_body(body: bytes) -> Wanted:
    """Read a request's body."""
    asked = json.loads(body)
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 1 << 30
    messages = asked.get("messages") or [{"content": asked.get("prompt", "")}]
    tag = re.search(r"(\d+)$", str(messages[-1].get("content", "")))
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    return Wanted(bool(asked.get("stream")), usage, limit, int(tag[1]) if tag else None)


def event(content: dict[str, Any]) -> bytes:
    """Return an SSE event in an HTTP chunk of its own."""
    about = {
        "id": "chatcmpl-truth",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "truth",
    }
    return chunk(
        b"data: " + json.dumps({**about, **content}, separators=(",", ":")).encode() + b"\n\n"
    )


def chunk(data: bytes) -> bytes:
    """Return the data as an HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def choice(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """Return what stands in a chunk with one choice."""
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def usage_of(total: int) -> dict[str, int]:
    """Return the usage of an answer."""
    return {"prompt_tokens": 12, "completion_tokens": total, "total_tokens": total + 12}


@functools.lru_cache(maxsize=64)
def script(total: int, usage: bool, burst: int, pad: int) -> tuple[bytes, ...]:
    """Return an answer as its writes: the first with the response's head, the last with all that ends a stream."""
    words = [WORDS[place % len(WORDS)] + "x" * pad for place in range(total)]
    tokens = [event(choice({"content": word})) for word in words]
    tokens[0] = event(choice({"role": "assistant", "content": words[0]}))
    writes = [b"".join(tokens[place : place + burst]) for place in range(0, total, burst)]
    ending = event(choice({}, "stop"))
    if usage:
        ending += event({"choices": [], "usage": usage_of(total)})
    writes[0] = HEAD + writes[0]
    writes[-1] += ending + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return tuple(writes)


def whole(status: int, body: dict[str, Any]) -> bytes:
    """Return a response that comes in one piece."""
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(data),
        data,
    )


def whole_answer(total: int) -> bytes:
    """Return an answer that is not streamed."""
    text = "".join(WORDS[place % len(WORDS)] for place in range(total))
    said = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    about = {"id": "chatcmpl-truth", "object": "chat.completion", "created": 1, "model": "truth"}
    return whole(200, {**about, "choices": [said], "usage": usage_of(total)})


MODELS = whole(
    200,
    {
        "object": "list",
        "data": [{"id": "truth", "object": "model", "created": 1, "owned_by": "truth"}],
    },
)
FAILED = whole(500, {"error": {"message": "injected failure", "type": "server_error", "code": 500}})


class Connection:
    """A connection and the request that it serves."""

    __slots__ = (
        "busy",
        "fault",
        "first",
        "inbox",
        "itl_max",
        "last",
        "outbox",
        "read_at",
        "recv",
        "sent",
        "serial",
        "serving",
        "sock",
        "start",
        "step",
        "total",
        "wanted",
        "writes",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = b""
        self.outbox = b""  # what the socket did not take yet
        self.read_at = 0
        self.busy = self.serving = False
        self.serial = 0  # of the request; a deadline of an earlier one is void
        self.wanted = Wanted(False, False, 0, None)
        self.writes: tuple[bytes, ...] = ()
        self.step = self.sent = self.total = 0
        self.fault = ""  # "reset" or "hang", half-way
        self.recv = self.start = self.first = self.last = self.itl_max = 0


class Server:
    """The loop: read everything that came, taking its time; then understand it; then write what is due."""

    def __init__(self, settings: Settings, port: int, log: Any) -> None:
        self.settings, self.log = settings, log
        self.random = random.Random(settings.seed)
        self.listener = socket.create_server(("127.0.0.1", port), backlog=65535)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.deadlines: list[
            tuple[int, int, Connection, int]
        ] = []  # when, tie-breaker, whose, which request
        self.pushed = 0
        self.queue: deque[Connection] = deque()
        self.active = 0
        self.stall_from = self.stall_to = 0

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self.listener.getsockname()[1])

    def run(self) -> None:
        """Serve until a signal raises SystemExit."""
        poll_fd = [self.poll.fileno()]
        while True:
            select.select(poll_fd, [], [], self.wait_s())  # epoll's own timeout is in ms only
            ready = self.poll.poll(0)
            arrived = [
                found for fd, events in ready if (found := self.on_event(fd, events)) is not None
            ]
            for connection in arrived:
                self.understand(connection)
            self.serve_due()

    def wait_s(self) -> float | None:
        """Return how long nothing is due; None when nothing is planned."""
        if not self.deadlines:
            return None
        now = time.monotonic_ns()
        due = self.deadlines[0][0]
        if self.stall_from <= now < self.stall_to:
            due = max(due, self.stall_to)
        return max(due - now, 0) / NS_PER_S

    def on_event(self, fd: int, events: int) -> Connection | None:
        """Accept, write or read; return the connection when it brought bytes."""
        connection = self.connections.get(fd)
        if connection is None:
            if fd == self.listener.fileno():
                self.accept()
            return None
        if events & select.EPOLLOUT and self.write(connection, b"") and not connection.outbox:
            self.poll.modify(fd, select.EPOLLIN)
        if not events & ~select.EPOLLOUT:
            return None
        try:
            data = connection.sock.recv(1 << 18)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        connection.read_at = time.time_ns()
        if not data:
            self.drop(connection, "cancelled")
            return None
        connection.inbox += data
        return connection

    def accept(self) -> None:
        """Take all connections that wait."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections[sock.fileno()] = Connection(sock)
                self.poll.register(sock.fileno(), select.EPOLLIN)

    def understand(self, connection: Connection) -> None:
        """Act on each whole request that has come; one at a time, as HTTP/1.1 has it."""
        while not connection.busy and (end := connection.inbox.find(b"\r\n\r\n")) >= 0:
            head = read_head(connection.inbox[: end + 2])
            until = end + 4 + head.length
            if len(connection.inbox) < until:
                return
            body, connection.inbox = connection.inbox[end + 4 : until], connection.inbox[until:]
            if head.post and head.path.endswith(b"/completions"):
                self.take(connection, read_body(body))
            elif not self.write(
                connection, MODELS if head.path.endswith(b"/models") else whole(404, {})
            ):
                return

    def take(self, connection: Connection, wanted: Wanted) -> None:
        """Begin a request for an answer."""
        settings = self.settings
        connection.busy, connection.wanted, connection.recv = True, wanted, connection.read_at
        connection.serial += 1
        connection.total, connection.step, connection.sent = (
            max(1, min(settings.n, wanted.limit)),
            0,
            0,
        )
        connection.start = connection.first = connection.last = connection.itl_max = 0
        if wanted.stream:
            connection.writes = script(connection.total, wanted.usage, settings.burst, settings.pad)
            if settings.stall and not self.stall_to:
                at_ns, for_ns = settings.stall_ns
                self.stall_from = time.monotonic_ns() + at_ns
                self.stall_to = self.stall_from + for_ns
        luck = (
            self.random.random() * 1000
            if settings.fail or settings.reset or settings.hang
            else 1000.0
        )
        if luck < settings.fail:
            if self.write(connection, FAILED):
                self.finish(connection, "500")
            return
        luck -= settings.fail
        connection.fault = (
            "reset"
            if luck < settings.reset
            else "hang"
            if luck < settings.reset + settings.hang
            else ""
        )
        self.queue.append(connection)
        self.admit()

    def admit(self) -> None:
        """Give free slots to those who wait."""
        while self.queue and self.active < self.settings.slots:
            connection = self.queue.popleft()
            if not connection.busy or connection.serving:
                continue  # it went away meanwhile
            self.active += 1
            connection.serving, connection.start = True, time.time_ns()
            wait_ms = self.varied(self.settings.ttft)
            if not connection.wanted.stream:
                wait_ms += self.settings.itl * (connection.total - 1)
            self.plan(time.monotonic_ns() + round(wait_ms * NS_PER_MS), connection)

    def varied(self, ms: float) -> float:
        """Return the time with its jitter."""
        jitter = self.settings.jitter
        return ms * (1 - jitter + 2 * jitter * self.random.random()) if jitter else ms

    def plan(self, due: int, connection: Connection) -> None:
        """Note when the connection's next write is due."""
        self.pushed += 1
        heapq.heappush(self.deadlines, (due, self.pushed, connection, connection.serial))

    def serve_due(self) -> None:
        """Write what is due by now; nothing during the stall."""
        now, deadlines = time.monotonic_ns(), self.deadlines
        if self.stall_from <= now < self.stall_to:
            return
        while deadlines and deadlines[0][0] <= now:
            due, _, connection, serial = heapq.heappop(deadlines)
            if connection.serving and connection.serial == serial:
                self.step(connection, due)

    def step(self, connection: Connection, due: int) -> None:
        """Write the next tokens, and plan the ones after them."""
        if connection.fault and connection.sent >= connection.total // 2:
            if connection.fault == "reset":
                connection.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.drop(connection, "reset")
            return
        stamp = time.time_ns()
        if not connection.first:
            connection.first = stamp
        elif stamp - connection.last > connection.itl_max:
            connection.itl_max = stamp - connection.last
        connection.last = stamp
        if not connection.wanted.stream:
            data, connection.sent = whole_answer(connection.total), connection.total
        else:
            data = connection.writes[connection.step]
            connection.step += 1
            connection.sent = min(connection.sent + self.settings.burst, connection.total)
        if not self.write(connection, data):
            return
        if connection.sent >= connection.total:
            self.finish(connection, "ok")
            return
        gap_ms = (
            self.varied(self.settings.itl + self.settings.batch * (self.active - 1))
            * self.settings.burst
        )
        gap, now = round(gap_ms * NS_PER_MS), time.monotonic_ns()
        self.plan((due if now - due < gap else now) + gap, connection)  # small delays do not add up

    def write(self, connection: Connection, data: bytes) -> bool:
        """Write, and keep what the socket does not take; False when the connection is gone."""
        if connection.outbox:
            data, connection.outbox = connection.outbox + data, b""
        try:
            done = connection.sock.send(data)
        except BlockingIOError:
            done = 0
        except OSError:
            self.drop(connection, "gone")
            return False
        if done < len(data):
            connection.outbox = data[done:]
            self.poll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return True

    def finish(self, connection: Connection, how: str) -> None:
        """Log the request, and free its slot."""
        self.note(connection, how)
        was_serving, connection.busy, connection.serving = connection.serving, False, False
        if was_serving:
            self.active -= 1
            self.admit()
        if connection.inbox:
            self.understand(connection)

    def note(self, connection: Connection, how: str) -> None:
        """Write the request's line of the log."""
        if self.log is not None:
            c, tag = connection, connection.wanted.tag
            tagged = "" if tag is None else f',"tag":{tag}'
            self.log.write(
                f'{{"recv":{c.recv},"start":{c.start},"first":{c.first},"last":{c.last},"sent":{c.sent},'
                f'"total":{c.total},"itl_max":{c.itl_max},"how":"{how}"{tagged}}}\n'
            )

    def drop(self, connection: Connection, how: str) -> None:
        """Forget a connection."""
        fd = connection.sock.fileno()
        if self.connections.pop(fd, None) is None:
            return
        self.poll.unregister(fd)
        connection.sock.close()
        connection.inbox = connection.outbox = b""
        if connection.busy:
            self.finish(connection, how)


def on_signal(_signum: int, _frame: FrameType | None) -> None:
    """End in order."""
    raise SystemExit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        port, log_name = int(arguments[0]), arguments[1]
        settings = Settings.parse(arguments[2:])
    except (IndexError, ValueError) as error:
        sys.stderr.write(f"truth_server.py PORT LOGFILE [key=value ...]: {error}\n")
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log_file = None if log_name == "-" else Path(log_name).open("w", encoding="utf-8")  # noqa: SIM115
    with log_file or contextlib.nullcontext() as log:
        server = Server(settings, port, log)
        if port == 0:
            print(server.port, flush=True)
        gc.freeze()
        gc.disable()  # a collection would be a stall; there are no cycles to collect
        server.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
