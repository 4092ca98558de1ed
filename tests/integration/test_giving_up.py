"""A server that refuses or dies under load: asked more slowly, given up in time, and said so."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Behaviour, Project, Request, ScriptedServer, ask_each, streams, whole


def refuses(status: str, *lines: str, message: str = "limit of 2 requests") -> Behaviour:
    body = json.dumps({"error": {"message": message}}).encode()

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(body, status, "application/json", *lines))

    return behave


def first(count: int, then: Behaviour) -> Behaviour:
    """Return a behaviour that is healthy for so many requests."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await (streams("Hello") if request.number < count else then)(request, writer)

    return behave


async def dies(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(("level", "most"), [(1, 20), (4, 20), (30, 60)])
async def test_a_dead_server_is_given_up_after_failures_in_a_row_whatever_came_before(
    server: ScriptedServer, level: int, most: int
) -> None:
    server.behaviour = first(50, dies)
    begun = time.monotonic()
    results, load = await ask_each(server.url, ["x"] * 3000, concurrent=level)
    assert time.monotonic() - begun < 20
    assert load.gave_up is not None and load.interrupted
    assert load.gave_up.startswith(f"{most} failures in a row, mostly reset: the server closed")
    failed = [result for result in results if result.status == "error"]
    assert most <= len(failed) < most + level
    assert sum(result.ok for result in results) == 50


def test_a_run_that_is_given_up_is_saved_and_says_why_and_can_be_gone_on_with(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = first(5, refuses("500 Internal Server Error", message="CUDA error"))
    project.configure(server=server.url, questions=200, concurrent=2)
    finished = project.run("run")
    assert finished.code == 1
    saved = project.results()
    validity = saved["meta"]["validity"]
    assert validity["verdict"] == "INVALID"
    assert validity["reasons"][0]["code"] == "gave_up"
    assert "20 failures in a row, mostly HTTP 500: CUDA error" in validity["reasons"][0]["message"]
    assert saved["aggregate"]["ok"] == 5 and len(saved["results"]) < 40
    assert "20 × HTTP 500: CUDA error" in finished.out or "21 × HTTP 500" in finished.out
    server.behaviour = streams("Hello")
    assert project.run("run", "--resume").code in (0, 1)
    assert len(project.results()["results"]) == 200


async def test_a_single_success_starts_the_row_anew(server: ScriptedServer) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        good = request.number % 15 == 14
        await (streams("Hello") if good else refuses("500 Oops"))(request, writer)

    server.behaviour = behave
    results, load = await ask_each(server.url, ["x"] * 60, concurrent=1)
    assert load.gave_up is None
    assert len(results) == 60


@pytest.mark.parametrize(
    ("abort_if", "asked"),
    [({"error_rate": "> 0.5"}, 20), ({"failed": ">= 25"}, 50), ({}, 90), (None, 90)],
)
async def test_abort_if_says_when_to_end(
    server: ScriptedServer, abort_if: dict[str, str] | None, asked: int
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        good = (
            request.number % 3 == 0 if abort_if == {"error_rate": "> 0.5"} else request.number % 2
        )
        await (streams("Hello") if good else refuses("500 Oops"))(request, writer)

    server.behaviour = behave
    results, load = await ask_each(server.url, ["x"] * 90, concurrent=1, abort_if=abort_if)
    done = [result for result in results if result.status != "cancelled"]
    assert abs(len(done) - asked) <= 1
    assert (load.gave_up is not None) == (asked < 90)


async def test_null_never_gives_up(server: ScriptedServer) -> None:
    server.behaviour = refuses("500 Oops")
    results, load = await ask_each(server.url, ["x"] * 45, concurrent=15, abort_if=None)
    assert len(results) == 45 and load.gave_up is None


async def test_a_run_by_duration_does_not_spin_against_a_server_that_refuses_everything(
    server: ScriptedServer,
) -> None:
    server.behaviour = refuses("429 Too Many Requests", "Retry-After: 1")
    begun = time.monotonic()
    results, load = await ask_each(server.url, ["x"], concurrent=2, duration=2.5)
    assert time.monotonic() - begun < 5
    assert 5 <= len(results) <= 25, "a few a second"
    assert load.gave_up is None, "it was asked to come back later"
    assert load.backed_off_s > 1


async def test_a_server_that_asks_for_patience_is_given_up_when_it_has_had_it(
    server: ScriptedServer,
) -> None:
    server.behaviour = refuses("503 Service Unavailable", "Retry-After: 0")
    _, load = await ask_each(server.url, ["x"] * 900, concurrent=2, startup_timeout=0.5)
    assert load.gave_up is not None and "HTTP 503" in load.gave_up


async def test_the_pause_ends_with_the_first_success() -> None:
    config = st.Config(server="embedded", model="m")
    patience = st.Patience(config)
    failed = st.Result(0, "q", "?", status="error", error=st.Failure("reset", "gone"))
    for _ in range(5):
        assert patience.judge(failed) is None
    waiting = asyncio.create_task(patience.pause(None))
    await asyncio.sleep(0)
    patience.judge(st.Result(0, "q", "?"))
    assert await waiting < patience.FIRST_PAUSE_S / 2
    assert await patience.pause(None) == 0


def test_the_server_s_own_words_are_on_the_screen_once(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = refuses("429 Too Many Requests")
    project.configure(server=server.url, questions=10)
    finished = project.run("run")
    assert finished.code == 1
    assert "10 × HTTP 429: limit of 2 requests" in finished.out
    reasons: list[Any] = project.results()["aggregate"]["failure_reasons"]
    assert reasons == [{"kind": "http_status", "http_status": 429, "message": "limit of 2 requests", "times": 10}]  # fmt: skip
    assert "HTTP 429: limit of 2 requests" in project.run("again", "--quiet").err
