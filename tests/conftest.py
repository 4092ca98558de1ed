"""A scripted server on a real socket, and a way to run the program as a user does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import verify

ROOT = Path(__file__).resolve().parent.parent
MODEL = "test-model"


@dataclass
class Request:
    """A request that the scripted server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int = 0  # among the measured requests, from 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def question(self) -> str:
        return str(self.json["messages"][-1]["content"])


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def chunk(**delta: Any) -> dict[str, Any]:
    """Return a chat chunk with this delta."""
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [
        {"index": 0, "delta": delta, "finish_reason": None}
    ]}  # fmt: skip


def finish(reason: str = "stop") -> dict[str, Any]:
    """Return the chunk that carries a finish reason."""
    event = chunk()
    event["choices"][0]["finish_reason"] = reason
    return event


def usage(prompt: int = 5, completion: int = 2, **details: Any) -> dict[str, Any]:
    """Return the chunk that carries only the usage."""
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {**counts, **details},
    }


def sse(*events: Any) -> bytes:
    """Return events as a stream sends them; dicts as JSON, texts as they are."""
    datas = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return b"".join(b"data: " + data.encode() + b"\n\n" for data in datas)


def head(status: str = "200 OK", content_type: str = "text/event-stream", *lines: str) -> bytes:
    """Return a response's head."""
    return "\r\n".join(
        [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *lines, "", ""]
    ).encode()


def whole(
    body: bytes, status: str = "200 OK", content_type: str = "text/event-stream", *lines: str
) -> bytes:
    """Return a response with its length."""
    return head(status, content_type, f"Content-Length: {len(body)}", *lines) + body


def http_chunk(data: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sends(*pieces: bytes, pause_s: float = 0.0, close: bool = False) -> Behaviour:
    """Return a behaviour that writes these bytes, with a pause between them."""

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        for place, piece in enumerate(pieces):
            if place and pause_s:
                await asyncio.sleep(pause_s)
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return behave


def streams(*texts: str, pause_s: float = 0.0, reason: str = "stop") -> Behaviour:
    """Return a behaviour that streams a chat answer in these chunks, with usage, as a chunked body."""
    events = [chunk(role="assistant", content=""), *(chunk(content=text) for text in texts)]
    ends = sse(finish(reason), usage(completion=len(texts)), "[DONE]")
    pieces = [
        head("200 OK", "text/event-stream", "Transfer-Encoding: chunked")
        + http_chunk(sse(events[0]))
    ]
    pieces += [http_chunk(sse(event)) for event in events[1:]]
    return sends(*pieces, http_chunk(ends) + b"0\r\n\r\n", pause_s=pause_s)


def passing_answer(request: Request) -> bytes:
    """Return what passes the connection test, in the shape that was asked for."""
    choice = {"index": 0, "text": "ok", "finish_reason": "stop"}
    answer = {"id": "t", "created": 1, "model": MODEL, "choices": [choice]}
    output = [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}]
    if not request.json.get("stream"):
        choice["message"] = {"role": "assistant", "content": "ok"}
        body = {**answer, "object": "chat.completion", "output": output}
        return whole(json.dumps(body).encode(), content_type="application/json")
    if request.path.endswith("/responses"):
        response = {"id": "t", "status": "completed", "output": output, "model": MODEL}
        delta = {"type": "response.output_text.delta", "delta": "ok"}
        return whole(sse(delta, {"type": "response.completed", "response": response}))
    if request.path.endswith("/chat/completions"):
        del choice["text"]
        choice["delta"] = {"role": "assistant", "content": "ok"}
        answer["object"] = "chat.completion.chunk"
    else:
        answer["object"] = "text_completion"
    return whole(sse(answer, "[DONE]"))


@dataclass
class ScriptedServer:
    """An HTTP server whose answers are scripts; it lists one model and passes the connection test by itself."""

    behaviour: Behaviour = field(default_factory=lambda: streams("Hello", " world"))
    passes_test: bool = True
    sees_probes: bool = False  # whether its script answers what looks for a prompt cache
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._at_once = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing() and (request := await self._read(reader)) is not None:
                await self._answer(request, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, path, _ = lines[0].split(" ", 2)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:-2])
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, path, headers, body)

    def _is_probe(self, request: Request) -> bool:
        """Whether a request only looks for a prompt cache: a few tokens of a marked prompt."""
        marked = re.search(rb'"\[[0-9a-f]{32}\] ', request.body)
        few = re.search(rb'"max_(completion_)?tokens": ?16\b', request.body)
        return not self.sees_probes and bool(marked and few)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if self.passes_test and request.method == "GET":
            models = {
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "t"}],
            }
            writer.write(whole(json.dumps(models).encode(), content_type="application/json"))
        elif self.passes_test and (b"Say: ok" in request.body or self._is_probe(request)):
            writer.write(passing_answer(request))
        else:
            request.number = len(self.requests)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                await self.behaviour(request, writer)
            finally:
                self._at_once -= 1


def wait_until(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for what a program that was started does; fail when it ends before, or takes too long."""
    end = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_full_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the collection before each run, which takes long in a process as large as pytest's."""
    monkeypatch.setattr(st, "gc_paused", contextlib.nullcontext)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    running = ScriptedServer()
    yield running
    running.close()


@dataclass
class Project:
    """A folder with config.json and questions.json, and the program run on it."""

    folder: Path

    def configure(self, **config: Any) -> None:
        values = {"model": MODEL, "concurrent": 2, "questions": 4, "timeout": 10}
        values |= {"hardware": {"sample_s": 0}, **config}  # a sampler a run would take long
        self.write("config.json", json.dumps(values))

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the program in this folder."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "llm_stresstest.py"), *arguments],
            cwd=options.pop("cwd", self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            env={**os.environ, **options.pop("env", {})},
            **options,
        )

    def spawn(self, *arguments: str, **options: Any) -> Finished:
        """Run the program in this folder to its end, in a process of its own."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return Finished(process.returncode, out, err)

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Finished:
        """Run the program in this folder to its end, in this process: much faster."""
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(self.folder)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = st.cli(arguments)
        return Finished(code, out.getvalue(), err.getvalue())

    def results(self, name: str = "run") -> dict[str, Any]:
        path = self.folder / "results" / f"{name}.json"
        assert verify.verify_run(st.load_results(path)) == [], (
            "every results file that a test makes can be recomputed"
        )
        data = json.loads(path.read_bytes())
        assert isinstance(data, dict)
        assert list(impossible(data)) == [], "no results file says what cannot be"
        return data

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    @property
    def files(self) -> list[str]:
        """Everything that lies in the folder, but the two input files."""
        paths = (
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if not path.is_dir()
        )
        return sorted(path for path in paths if path not in ("config.json", "questions.json"))


def impossible(run: dict[str, Any]) -> Iterator[str]:
    """Yield what no run can be, whatever the server does; computed from the file alone."""
    aggregate, records = run["aggregate"], run["results"]
    tpots_ms = [record["tpot_ms"] for record in records if record["tpot_ms"]]
    for part in aggregate["stages"] or [{"concurrent": run["meta"]["concurrent"], **aggregate}]:
        where = f"at {part['concurrent']} at once: "
        if tpots_ms and part["tpot_ms"]["n"] == part["ok"]:
            yield from (where + fault for fault in too_fast(part, min(tpots_ms)))
        if part["requests"] != part["ok"] + part["failed"] + part["cancelled"]:
            yield f"{where}the counts do not add up"
        for metric in ("ttft_ms", "e2e_ms", "tpot_ms", "itl_ms"):
            yield from (f"{where}{metric}: {fault}" for fault in out_of_order(part[metric]))
    counted = Counter(record["status"] for record in records)
    if (counted["ok"], len(records)) != (aggregate["ok"], aggregate["requests"]):
        yield "the aggregate counts other records"
    if aggregate["stages"] and sum(part["requests"] for part in aggregate["stages"]) != len(
        records
    ):
        yield "the stages hold other records"
    for record in records:
        if record["status"] == "ok" and (record["ttft_ms"] or 0) > record["time"]:
            yield f"request {record['index']}: TTFT {record['ttft_ms']}, E2E {record['time']}"
    yield from (f"{name}: {share}" for name, share in shares(aggregate) if not -1 <= share <= 1)


def too_fast(part: dict[str, Any], tpot_ms: float) -> Iterator[str]:
    """Yield a speed above what so many users can be given at this time per token."""
    first_ms, edge_ms = part["ttft_ms"]["min"] or 1e-3, part["steady"]["duration_ms"] or 1e9
    most = part["concurrent"] * (1000 / tpot_ms + 1000 / first_ms + 1000 / edge_ms)
    for speed in (part["tokens_per_s"], part["steady"]["tokens_per_s"]):
        if speed is not None and speed > most:
            yield f"{speed} tokens/s, but at most {most} can be"


def out_of_order(values: dict[str, Any]) -> Iterator[str]:
    """Yield percentiles that fall, or an interval without its percentile."""
    order = [values[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
    if values["n"] and order != sorted(order):
        yield f"{order}"
    if any((n_eff or 0) > values["n"] for n_eff in values["n_eff"].values()):
        yield f"n_eff {values['n_eff']} above n {values['n']}"
    for name, (low, high) in values["ci95"].items():
        if low is not None and low > values[name] + 1e-6:
            yield f"{name} {values[name]} is below {low}"
        if high is not None and high < values[name] - 1e-6:
            yield f"{name} {values[name]} is above {high}"


def shares(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every share in an aggregate."""
    known = ("avg", "correct_share", "error_rate", "share", "floor", "beyond")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from shares(item, f"{name}.{key}")
        elif isinstance(item, float) and key in known and "_ms" not in name:
            yield f"{name}.{key}", item


@dataclass
class Finished:
    """How the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def project(tmp_path: Path, server: ScriptedServer) -> Project:
    made = Project(tmp_path)
    made.configure(server=server.url)
    made.write("questions.json", json.dumps(["One?", "Two?", "Three?"]))
    return made


async def ask_each(
    url: str,
    questions: Sequence[str | dict[str, Any]] = ("Who?",),
    share: tuple[int, int] = (0, 1),
    **config: Any,
) -> tuple[list[st.Result], st.LoadReport]:
    """Ask the questions as a run does, and return the results in their order."""
    made = st.Config.model_validate({"server": url, "model": MODEL, "timeout": 5, **config})
    target = st.resolve_target(made, os.environ)
    asked = [
        st.Question.model_validate(
            {"id": f"q{place}", **({"question": entry} if isinstance(entry, str) else entry)}
        )
        for place, entry in enumerate(questions)
    ]
    results: list[st.Result] = []
    async with st.open_session(made, target) as session:
        client = st.Client(session, made, target)

        async def send(
            ask: st.PlannedRequest, messages: list[dict[str, str]], release: Callable[[], None]
        ) -> st.Result:
            return await st.send_question(client, ask, messages, release)

        start = st.LoadStart(client.start_ns, share=share)
        load = await st.process_questions(made, asked, send, results.append, st.StopSignal(), start)
    return sorted(results, key=lambda result: (result.index, result.turn)), load


async def ask_one(url: str, **config: Any) -> st.Result:
    """Ask one question and return its result."""
    results, _ = await ask_each(url, **config)
    return results[0]
