"""Sweeps, open loop, duration, warm-up and ramp-up, over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    Project,
    Request,
    ScriptedServer,
    ask_each,
    chunk,
    head,
    http_chunk,
    sends,
    sse,
    streams,
    whole,
)


async def test_a_sweep_asks_every_level_and_keeps_each_within_its_concurrency(
    server: ScriptedServer,
) -> None:
    server.behaviour = streams("a", pause_s=0.01)
    sweep: dict[str, Any] = {"concurrent": [1, 2, 4], "stability_floor": False}
    results, _ = await ask_each(server.url, ["x"] * 8, **sweep)
    assert [result.stage for result in results] == [0] * 8 + [1] * 8 + [2] * 8
    assert server.most_at_once == 4
    for stage, level in enumerate([1, 2, 4]):
        edges = sorted(
            edge
            for result in results
            if result.stage == stage
            for edge in ((result.sent_ns or 0, 1), (result.end_ns or 0, -1))
        )
        assert max(itertools.accumulate(step for _, step in edges)) <= level


def test_a_sweep_shows_its_stages_side_by_side(project: Project) -> None:
    finished = project.run("run", "--set", "concurrent=[1,2,4]")
    assert finished.code == 0
    assert "at once" in finished.out
    stages = project.results()["aggregate"]["stages"]
    assert [(stage["concurrent"], stage["ok"]) for stage in stages] == [(1, 8), (2, 4), (4, 4)]
    stability = stages[2]["quality"]["stability"]
    assert (stability["n"], stability["floor"], stability["beyond"]) == (4, 0, 0)


def test_a_sweep_without_a_floor_asks_each_level_once(project: Project) -> None:
    flags = ("--set", "concurrent=[1,2]", "--set", "stability_floor=false")
    assert project.run("run", *flags).code == 0
    stages = project.results()["aggregate"]["stages"]
    assert [stage["requests"] for stage in stages] == [4, 4]
    assert stages[1]["quality"]["stability"]["floor"] is None


async def test_open_loop_sends_at_the_scheduled_times_whatever_the_server_does(
    server: ScriptedServer,
) -> None:
    server.behaviour = streams("a", "b", pause_s=0.2)
    results, _ = await ask_each(server.url, ["x"] * 20, rate=100, arrival="constant", concurrent=50)
    scheduled = [result.scheduled_ns or 0 for result in results]
    assert [
        round((later - earlier) / st.NS_PER_MS) for earlier, later in itertools.pairwise(scheduled)
    ] == [10] * 19
    assert max(result.queue_ms or 0 for result in results) < 150


async def test_the_cap_queues_and_the_queueing_counts_from_the_scheduled_send(
    server: ScriptedServer,
) -> None:
    server.behaviour = streams("a", pause_s=0.05)
    results, _ = await ask_each(server.url, ["x"] * 6, rate=1000, arrival="constant", concurrent=1)
    assert server.most_at_once == 1
    last = results[-1]
    assert last.queue_ms is not None
    assert last.scheduled_e2e_ms is not None
    assert last.time_ms is not None
    assert last.queue_ms > 200
    assert last.scheduled_e2e_ms == pytest.approx(last.queue_ms + last.time_ms)


async def test_a_stall_shows_in_full_in_the_latency_from_the_scheduled_send(
    server: ScriptedServer,
) -> None:
    stalled = asyncio.Event()

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 20:
            await asyncio.sleep(1.4)
            stalled.set()
        elif request.number > 20 and not stalled.is_set():
            await stalled.wait()
        await streams("a")(request, writer)

    server.behaviour = behave
    results, _ = await ask_each(server.url, ["x"] * 60, rate=50, arrival="constant", concurrent=2)
    numbers = st.calculate_aggregates(results, st.Config(server="embedded", model="m"))
    assert numbers["scheduled_e2e_ms"]["p99"] > 1300
    assert sum((result.scheduled_e2e_ms or 0) > 500 for result in results) > 30, (
        "each request behind the stall saw it"
    )
    assert sum((result.time_ms or 0) > 500 for result in results) <= 3, (
        "which the latency from the send hides"
    )


async def test_duration_asks_until_the_time_is_over(server: ScriptedServer) -> None:
    server.behaviour = streams("a", pause_s=0.01)
    results, load = await ask_each(server.url, ["x", "y"], duration=0.5, concurrent=2)
    assert len(results) >= 4, "it went on behind the end of the catalogue"
    sent = [result.sent_ns or 0 for result in results]
    assert max(sent) - min(sent) < 0.6 * st.NS_PER_S
    assert [result.question for result in results[:4]] == ["x", "y", "x", "y"]
    assert load.ended_ns - load.begun_ns < 2 * st.NS_PER_S


async def test_an_open_loop_by_duration_asks_what_was_scheduled(server: ScriptedServer) -> None:
    results, _ = await ask_each(
        server.url, ["x"], duration=0.5, rate=100, arrival="constant", concurrent=10
    )
    assert len(results) == 50


async def test_warm_up_is_asked_first_and_left_out_of_every_number(server: ScriptedServer) -> None:
    results, load = await ask_each(server.url, ["x"] * 4, warmup=3)
    assert len(server.requests) == 7
    assert len(results) == 4
    assert load.warmup == {"ok": 3}


@pytest.mark.parametrize("config", [{"concurrent": [3, 5]}, {"concurrent": 3, "rate": 200}])
async def test_shares_of_a_load_are_together_the_whole_load(
    server: ScriptedServer, config: dict[str, Any]
) -> None:
    questions = [f"x{place}" for place in range(7)]
    whole, _ = await ask_each(server.url, questions, **config)
    parts: list[st.Result] = []
    for part in range(3):
        server.most_at_once = 0
        results, _ = await ask_each(server.url, questions, share=(part, 3), **config)
        assert server.most_at_once <= 2
        parts += results
    parts.sort(key=lambda result: result.index)
    assert [(r.index, r.question, r.stage) for r in parts] == [
        (r.index, r.question, r.stage) for r in whole
    ]


async def test_a_share_without_a_slot_is_refused(server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="share"):
        await ask_each(server.url, concurrent=2, share=(0, 3))


async def test_ramp_up_opens_the_slots_one_after_the_other(server: ScriptedServer) -> None:
    server.behaviour = streams("a", pause_s=0.5)
    results, _ = await ask_each(server.url, ["x"] * 5, concurrent=5, ramp_up=0.5)
    sent = sorted((result.sent_ns or 0) / st.NS_PER_MS for result in results)
    assert all(at - sent[0] > 100 * slot - 40 for slot, at in enumerate(sent))


async def test_ramp_up_raises_the_number_in_flight_evenly_however_short_the_answers_are(
    server: ScriptedServer,
) -> None:
    server.behaviour = streams(*"abcdefghij", pause_s=0.005)
    results, _ = await ask_each(server.url, ["x"], concurrent=8, ramp_up=1.6, duration=2)
    begun_ns = min(result.sent_ns or 0 for result in results)
    edges = [
        (((at_ns or 0) - begun_ns) / st.NS_PER_S, step)
        for result in results
        for at_ns, step in ((result.sent_ns, 1), (result.end_ns, -1))
    ]
    for number in range(1, 8):  # slot n opens at 0.2 × n seconds
        begin_s, end_s = 0.2 * number - 0.2, 0.2 * number
        busy_s = sum(-step * min(max(at_s, begin_s), end_s) for at_s, step in edges)
        assert busy_s / 0.2 == pytest.approx(number, rel=0.3)


async def test_cache_bust_makes_every_prompt_unique_but_records_the_question(
    server: ScriptedServer,
) -> None:
    results, _ = await ask_each(server.url, ["x"] * 3, cache_bust=True)
    assert {result.question for result in results} == {"x"}
    assert len({request.question for request in server.requests}) == 3


async def test_without_chunk_times_the_gaps_are_kept_as_a_histogram(server: ScriptedServer) -> None:
    server.behaviour = streams("a", "b", "c", pause_s=0.005)
    results, load = await ask_each(server.url, ["x"] * 5, record_chunk_times=False)
    assert {result.chunk_ns for result in results} == {None}
    assert load.itl_us[0].total() == 10
    assert all(result.tpot_ms is not None for result in results)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--set", "concurrent=[1,2]"],
        ["--set", "record_chunk_times=false"],
        ["--set", "record_chunk_times=false", "--set", "concurrent=[1,2]"],
        ["--set", "rate=200"],
        ["--set", "stream=false"],
        ["--set", "slo.ttft_ms=5", "--set", 'thresholds={"ok": ">= 1"}'],
    ],
)
def test_verify_recomputes_every_number(
    project: Project, server: ScriptedServer, options: list[str]
) -> None:
    if "stream=false" in options:
        server.behaviour = sends(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'[
                :-2
            ]
        )
    project.run("run", *options)
    finished = project.run("verify", "run")
    assert finished.code == 0, finished.out
    assert "verified" in finished.out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", 1.0),
        ("token", 999),
        ("status", "error"),
        ("ttft_ms", 0.5),
        ("end_ms", 99999.0),
        ("stage", 1),
    ],
)
def test_verify_fails_on_a_changed_record(project: Project, key: str, value: Any) -> None:
    project.run("run")
    data = project.results()
    data["results"][1][key] = value
    (project.folder / "results" / "run.json").write_text(json.dumps(data))
    finished = project.run("verify", "run")
    assert finished.code == 1, finished.out
    assert "differs" in finished.out


def test_verify_refuses_an_unknown_version(project: Project) -> None:
    project.run("run")
    data = project.results()
    data["meta"]["schema_version"] = 99
    (project.folder / "results" / "run.json").write_text(json.dumps(data))
    finished = project.run("verify", "run")
    assert finished.code == 2
    assert "schema_version 99" in finished.err


def test_a_missed_threshold_is_exit_code_1(project: Project) -> None:
    finished = project.run("run", "--set", 'thresholds={"ttft_ms.p95": "<= 0.0001"}')
    assert finished.code == 1
    assert "missed" in finished.out


async def test_a_skipped_turn_failed_and_one_after_a_stop_was_cancelled(
    server: ScriptedServer,
) -> None:
    server.behaviour = sends(whole(b"{}", "500 Internal Server Error", "application/json"))
    talk = {"turns": ["One?", "Two?"], "grader": "exact", "expected": "x"}
    results, _ = await ask_each(server.url, [talk])
    kinds = [result.error and result.error.kind for result in results]
    assert kinds == ["http_status", "turn_skipped"]
    assert [result.status for result in results] == ["error", "error"]
    numbers = st.calculate_aggregates(results, st.Config(server=server.url, model="m"))
    assert (numbers["failed"], numbers["cancelled"], numbers["error_rate"]) == (2, 0, 1.0)
    assert numbers["quality"]["under_load"]["n"] == 1, "the turn that is graded was not answered"


async def test_a_histogram_of_gaps_holds_those_of_answers_that_count(
    server: ScriptedServer,
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number % 2:  # cut off after five tokens
            event = b"".join(http_chunk(sse(chunk(content=text))) for text in "abcde")
            lines = ("200 OK", "text/event-stream", "Transfer-Encoding: chunked")
            await sends(head(*lines), event, close=True)(request, writer)
        else:
            await streams("a", "b", "c", pause_s=0.01)(request, writer)

    server.behaviour = behave
    results, load = await ask_each(server.url, ["x"] * 6, record_chunk_times=False)
    assert [result.status for result in results] == ["ok", "truncated"] * 3
    assert sum(load.itl_us[0].values()) == 3 * 2, "no gap of those that were cut off"


async def test_a_request_that_never_left_says_how_long_connecting_was_tried() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        (result,), _ = await ask_each(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert result.sent_ns is None
    assert result.connect_ms is not None and 0 < result.connect_ms < 5000
    numbers = st.calculate_aggregates([result], st.Config(server="http://x:1", model="m"))
    assert numbers["e2e_with_failures_ms"]["p50"] == result.connect_ms
    assert numbers["e2e_with_failures_ms"]["lower_bounds"] == list(st.PERCENTILES)
