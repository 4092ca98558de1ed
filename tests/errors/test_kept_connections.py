"""Servers that close kept connections, and servers that die: the one is no failure, the other is never hidden."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    Behaviour,
    Request,
    ScriptedServer,
    ask_each,
    chunk,
    finish,
    head,
    http_chunk,
    sends,
    sse,
    streams,
    usage,
    whole,
)

# `LLM_STRESSTEST_MANY=2000` asks so many at 64; as part of the suite fewer are enough.
MANY = int(os.environ.get("LLM_STRESSTEST_MANY", "320"))
ANSWER = whole(sse(chunk(content="Hello"), chunk(content=" world"), finish(), usage(), "[DONE]"))
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def say_408(writer: asyncio.StreamWriter) -> None:
    writer.write(TIMED_OUT)
    writer.close()


def closes_idle(
    way: Callable[[asyncio.StreamWriter], None], after_s: float, seen: Counter[str]
) -> Behaviour:
    """Return a behaviour that answers, and so long after its answer closes a connection in this way.

    It is the server that decides, by what it has read: a request that is on its way then is lost unread.
    """
    served: dict[Any, int] = {}

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        if writer.is_closing():  # closed while this was in its buffer
            return
        peer = writer.get_extra_info("peername")
        served[peer] = mine = served.get(peer, 0) + 1
        seen["asked"] += 1
        writer.write(ANSWER)
        await writer.drain()

        def close_if_idle() -> None:
            if served[peer] == mine and not writer.is_closing():
                seen["closed"] += 1
                way(writer)

        asyncio.get_running_loop().call_later(after_s, close_if_idle)

    return behave


@pytest.mark.parametrize("after_s", [0, 0.001, 0.01, 0.05])
@pytest.mark.parametrize("way", [close, reset, say_408], ids=lambda way: way.__name__)
def test_a_server_that_closes_idle_connections_causes_no_failure_and_is_asked_each_thing_once(
    server: ScriptedServer,
    way: Callable[[asyncio.StreamWriter], None],
    after_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine this server, a thread of this process, closes late what it takes for idle.
    monkeypatch.setattr(st.Exchange, "DEAD_WITHIN_NS", 5 * st.NS_PER_S)
    seen: Counter[str] = Counter()
    server.behaviour = closes_idle(way, after_s, seen)
    with asyncio.Runner(loop_factory=st.WatchedLoop) as runner:  # as the program has it
        asked = ask_each(server.url, ["x"] * MANY, concurrent=64, timeout=60)
        results, _ = runner.run(asked)
    wrong = Counter(result.error.shown for result in results if result.error is not None)
    assert not wrong
    assert {result.answer for result in results} == {"Hello world"}
    assert seen["asked"] == MANY, "nothing that the server had read was asked again"
    assert all(result.reconnects <= 1 for result in results)
    assert seen["closed"] >= sum(result.reconnects for result in results)


def dies_after(wait_s: float) -> Behaviour:
    """Return a behaviour that answers the first request of a connection, and dies within the next."""
    known: set[Any] = set()

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        if peer in known:
            await asyncio.sleep(wait_s)
            writer.transport.abort()
            return
        known.add(peer)
        await streams("Hello", " world")(_request, writer)

    return behave


async def test_a_server_that_dies_at_work_is_seen_to_die(server: ScriptedServer) -> None:
    server.behaviour = dies_after(0.25)
    results, _ = await ask_each(server.url, ["x"] * 8, concurrent=2)
    died = [result for result in results if not result.ok]
    assert len(server.requests) == 8, "nothing is asked again"
    assert [result.error and result.error.kind for result in died] == ["reset"] * 4
    assert sum(result.reconnects for result in results) == 0
    assert all((result.time_ms or 0) >= 240 for result in died), "it is known how long it took"


async def test_a_connection_is_replaced_once_and_then_its_death_is_a_failure(
    server: ScriptedServer,
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number:
            writer.transport.abort()
        else:
            await streams("Hello", " world")(request, writer)

    server.behaviour = behave
    results, _ = await ask_each(server.url, ["x"] * 3, concurrent=1)
    assert [result.status for result in results] == ["ok", "error", "error"]
    assert [result.reconnects for result in results] == [0, 1, 0]
    assert len(server.requests) == 1 + 2 + 1


async def test_a_408_on_a_fresh_connection_or_late_is_the_servers_own(
    server: ScriptedServer,
) -> None:
    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        if not request.number:
            await streams("Hello", " world")(request, writer)
            return
        await asyncio.sleep(0.2)
        writer.write(TIMED_OUT)

    server.behaviour = late
    results, _ = await ask_each(server.url, ["x"] * 2, concurrent=1)
    assert results[1].error is not None and results[1].error.http_status == 408
    assert len(server.requests) == 2


@pytest.mark.parametrize("surplus", [b"garbage", b"\r\n", ANSWER, TIMED_OUT])
async def test_bytes_behind_an_answer_cost_that_connection_and_not_the_next_answer(
    server: ScriptedServer, surplus: bytes
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        first, last = sse(chunk(content=f"answer to {request.question}")), sse(finish(), "[DONE]")
        start = head("200 OK", "text/event-stream", "Transfer-Encoding: chunked")
        end = http_chunk(last) + b"0\r\n\r\n" + surplus
        await sends(start + http_chunk(first), end, pause_s=0.01)(request, writer)

    server.behaviour = behave
    questions = [f"question {number}" for number in range(40)]
    results, _ = await ask_each(server.url, questions, concurrent=4)
    assert [result.answer for result in results] == [f"answer to {text}" for text in questions]
    assert all(result.ok for result in results)


def verdict_of(reconnects: int) -> set[str]:
    config = st.Config(server="embedded", model="m")
    results = [
        st.Result(number, f"q{number}", "?", sent_ns=number * 1000, end_ns=10**10, reconnects=int(number < reconnects))
        for number in range(100)
    ]  # fmt: skip
    load = st.LoadReport(st.LoadStart())
    load.end({"loop_lag_ms": {"p95": 0.0}, "cpu_share": 0.0, "stages": []}, stopped=False)
    aggregate = st.calculate_aggregates(results, config)
    assert aggregate["reconnects"] == reconnects
    reasons = st.judge_validity(config, aggregate, load)["reasons"]
    return {reason["code"] for reason in reasons}


def test_many_reconnects_are_a_reason() -> None:
    assert "reconnects" in verdict_of(5)
    assert "reconnects" not in verdict_of(4)
