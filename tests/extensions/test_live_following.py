"""A run is followed by its journal: over a real socket where it runs, from written lines where not."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import live
from tests.conftest import Behaviour, Project, Request, ScriptedServer, sends, streams, whole

PATIENCE_S = 20.0


def until(run: live.LiveRun, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Follow a run until its view is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        run.refresh()
        if wanted(view := run.view()):
            return view
        time.sleep(0.05)
    raise AssertionError(f"never so: {json.dumps(run.view())[:3000]}")


@pytest.fixture
def started(
    project: Project,
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], live.LiveRun]]]:
    """Start runs that are killed at the end, if they are still there."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], live.LiveRun]:
        process = project.start("run", *arguments)
        processes.append(process)
        return process, live.LiveRun(project.folder / "results" / "run.journal")

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=10)


def stalls_from(number: int) -> Behaviour:
    """Return a behaviour that answers the first requests, and never says a byte to the others."""
    answer = streams("Hello", " world")

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number >= number:
            await asyncio.sleep(60)
        await answer(request, writer)

    return behave


# From a journal that was written here


CONFIG = {"server": "http://127.0.0.1:9/v1", "model": "m", "concurrent": 4}


class Writer:
    """Writes a journal as a run does, line by line."""

    def __init__(self, folder: Path, questions: int = 10, **config: Any) -> None:
        self.path = folder / "run.journal"
        self.journal = st.Journal.create(self.path)
        made = st.Config.model_validate({**CONFIG, **config})
        self.header = {
            "schema_version": 1,
            "run_id": "a-run",
            "started": "2026-11-25T12:00:00.000+00:00",
            "server": made.server,
            "embedded": None,
            "questions": questions,
            "turns": questions,
            "config": made.without_passwords(),
        }
        self.journal.begin(self.header)

    def answer(self, place: int, end_ms: float, **fields: Any) -> None:
        """Write a result that ended then: 100 ms to the first token, 11 tokens in a second."""
        end_ns = round(end_ms * 1_000_000)
        values: dict[str, Any] = {
            "index": place, "id": f"q{place}", "question": "Who?", "answer": "I.", "token": 11,
            "token_source": "usage", "finish_reason": "stop", "chunks": 11,
            "sent_ns": end_ns - 1_100_000_000, "first_ns": end_ns - 1_000_000_000,
            "answer_ns": end_ns - 1_000_000_000, "end_ns": end_ns,
        }  # fmt: skip
        self.journal.append("result", st.Result(**{**values, **fields}).to_record())

    def fail(self, place: int, end_ms: float, message: str = "busy") -> None:
        """Write a request that failed then."""
        failure = st.Failure("http_status", message, 503)
        self.answer(place, end_ms, status="error", error=failure, first_ns=None, token=None)

    def pulse(self, at_ms: float, **fields: int | None) -> None:
        """Write a pulse."""
        values: dict[str, Any] = {
            "at_ms": at_ms, "stage": 0, "in_flight": 4, "queued": 0, "done": 0, "failed": 0,
            "waiting": 0, "received_bytes": 0,
        }  # fmt: skip
        self.journal.pulse({**values, **fields})

    def die(self) -> None:
        """Let go of the journal without an end, some time ago."""
        self.journal._close()
        os.utime(self.path, (time.time() - 60, time.time() - 60))


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def follow(writer: Writer) -> dict[str, Any]:
    run = live.LiveRun(writer.path)
    run.refresh()
    return run.view()


def test_nothing_is_zero_before_the_first_answer(writer: Writer) -> None:
    view = follow(writer)
    assert (view["state"], view["planned"], view["done"]) == ("starting", 10, 0)
    assert (view["now"], view["quiet_s"], view["eta_s"], view["in_flight"]) == (None,) * 4
    assert all(row["value"] is None for row in view["known"])


def test_a_view_is_json_and_counts_what_the_journal_holds(writer: Writer) -> None:
    writer.pulse(1000, received_bytes=500)
    writer.answer(0, 1500)
    writer.fail(1, 1600)
    writer.fail(2, 1700)
    writer.pulse(2000, in_flight=3, waiting=2, received_bytes=2500)
    view = json.loads(json.dumps(follow(writer)))
    assert (view["done"], view["ok"], view["failed"], view["share"]) == (3, 1, 2, 0.3)
    assert view["commonest_error"] == {"text": "HTTP 503: busy", "count": 2}
    assert (view["in_flight"], view["waiting"], view["received_bytes_per_s"]) == (3, 2, 2000.0)
    assert view["stages"] == [
        {"level": 4, "planned": 10, "done": 3, "failed": 2, "state": "running"}
    ]
    assert view["series"]["answers"] == [[0.4, 100.0, 4]]
    assert [kind for _, kind in view["series"]["failures"]] == ["http_status"] * 2
    assert view["now"]["ttft_ms"] == 100.0
    assert view["now"]["tpot_ms"] == 100.0
    assert view["now"]["user_tokens_per_s"] == 10.0
    assert [entry["error"] for entry in view["last"]] == ["HTTP 503: busy", "HTTP 503: busy", None]


def test_tokens_stand_in_the_seconds_in_which_they_came(writer: Writer) -> None:
    writer.answer(0, 3000)  # the first token at 2 s, ten more in the second behind it
    writer.answer(1, 6000)
    writer.journal.append("footer", {"status": "complete", "duration_ms": 6000, "client": {}})
    rates = follow(writer)["series"]["tokens_per_s"]
    assert rates[:2] == [0.0, 0.0]
    assert rates[2] == pytest.approx(11)
    assert sum(rates) == pytest.approx(22)


def test_the_speed_of_the_last_seconds_is_left_open_while_answers_still_come(
    writer: Writer,
) -> None:
    for place in range(8):
        writer.answer(place, 2000 + 1000 * place)
    writer.pulse(10_000)
    rates = follow(writer)["series"]["tokens_per_s"]
    assert None not in rates[:8]
    assert rates[-1] is None


def test_each_percentile_has_its_interval_or_says_how_many_more_it_needs(writer: Writer) -> None:
    for place in range(10):
        writer.answer(place, 2000 + 100 * place)
    known = {row["metric"]: row for row in follow(writer)["known"]}
    assert known["ttft_ms.p50"]["value"] == 100.0
    assert known["ttft_ms.p50"]["needs_more"] is None
    assert known["e2e_ms.p95"]["high"] is None
    assert known["e2e_ms.p95"]["needs_more"] > 50


def test_a_sweep_shows_its_stages_and_knows_the_running_one(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 2, concurrent=[1, 2, 4], stability_floor=False)
    for place in range(3):
        writer.answer(place, 2000 + 500 * place, stage=place // 2)
    view = follow(writer)
    assert [stage["state"] for stage in view["stages"]] == ["done", "running", "waiting"]
    assert (view["planned"], view["stage"], view["share"]) == (6, 1, 0.5)
    assert {row["stage"] for row in view["known"]} == {2}
    assert [stage["planned"] for stage in view["stages"]] == [2, 2, 2]


def test_the_lowest_level_is_planned_twice_where_a_sweep_asks_for_its_floor(
    tmp_path: Path,
) -> None:
    view = follow(Writer(tmp_path, 2, concurrent=[1, 2]))
    assert [stage["planned"] for stage in view["stages"]] == [4, 2]


def test_a_run_for_a_time_has_no_plan_but_a_share_and_an_end(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 2, duration=20)
    writer.answer(0, 1100)
    writer.pulse(10_000)
    view = follow(writer)
    assert view["planned"] is None
    assert view["share"] == pytest.approx(0.5, abs=0.02)
    assert view["eta_s"] == pytest.approx(10, abs=0.5)


def test_limits_say_what_met_them_and_failures_meet_none(tmp_path: Path) -> None:
    thresholds = {"ttft_ms.p50": "<= 50", "error_rate": "<= 0.9"}
    writer = Writer(tmp_path, slo={"ttft_ms": 200}, thresholds=thresholds)
    writer.answer(0, 2000)
    writer.answer(1, 2000, first_ns=1_500_000_000)
    writer.fail(2, 2000)
    limits = {limit["name"]: limit for limit in follow(writer)["limits"]}
    assert (limits["slo.ttft_ms"]["good"], limits["slo.ttft_ms"]["of"]) == (1, 3)
    assert limits["ttft_ms.p50"]["met"] is False
    assert limits["error_rate"]["met"] is True


def test_the_verdict_so_far_is_by_the_rules_of_the_core(writer: Writer) -> None:
    for place in range(8):
        writer.fail(place, 1000 + place)
    validity = follow(writer)["validity"]
    assert validity["verdict"] == "INVALID"
    assert [reason["code"] for reason in validity["reasons"]] == ["no_answers"]


def test_a_short_run_is_not_blamed_for_being_short_while_it_goes_on(writer: Writer) -> None:
    for place in range(8):
        writer.answer(place, 1200)
    codes = {reason["code"] for reason in follow(writer)["validity"]["reasons"]}
    assert not codes & {"too_short", "interrupted", "unsteady"}


def test_a_run_that_nobody_holds_has_crashed_and_keeps_its_answers(writer: Writer) -> None:
    writer.answer(0, 1500)
    writer.die()
    view = follow(writer)
    assert (view["state"], view["saved"], view["now"]) == ("crashed", 1, None)
    assert view["elapsed_s"] == 1.5
    assert "--resume" in view["resume_command"]


def test_a_run_that_was_stopped_has_not_crashed(writer: Writer) -> None:
    writer.answer(0, 1500)
    footer = {"status": "interrupted", "duration_ms": 2000, "client": {}}
    writer.journal.append("footer", footer)
    writer.die()
    assert follow(writer)["state"] == "stopped"


def test_an_answer_behind_an_end_means_that_the_run_was_resumed(writer: Writer) -> None:
    writer.answer(0, 1500)
    footer = {"status": "interrupted", "duration_ms": 2000, "client": {}}
    writer.journal.append("footer", footer)
    writer.answer(1, 2500)
    view = follow(writer)
    assert (view["resumed_parts"], view["done"]) == (1, 2)
    assert view["state"] == "running"


def test_what_a_stop_cancelled_is_not_done(writer: Writer) -> None:
    writer.answer(0, 1500, status="cancelled", error=st.Failure("cancelled", "stopped"))
    assert follow(writer)["done"] == 0


def test_grades_are_counted_behind_the_load(writer: Writer) -> None:
    for place in range(3):
        writer.answer(place, 1500, grader="exact")
    writer.journal.append("footer", {"status": "complete", "duration_ms": 2000, "client": {}})
    assert follow(writer)["graded"] is None
    for place, score in enumerate((1.0, None)):
        grade = {"index": place, "turn": 0, "score": score, "reason": "as expected"}
        writer.journal.append("grade", grade)
    view = follow(writer)
    assert (view["state"], view["graded"], view["correct"]) == ("grading", 1, 1)


def test_a_damaged_line_is_passed_over_and_said(writer: Writer) -> None:
    for place in range(3):
        writer.answer(place, 1500)
    lines = writer.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:40] + b"#" + lines[2][41:]
    writer.path.write_bytes(b"".join(lines))
    view = follow(writer)
    assert view["done"] == 2
    assert len(view["damage"]) == 2
    assert view["damage"][1] == "1 earlier lines are missing"


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\x00\xff" * 500 + b"\n", b"{}\n" * 50])
def test_a_file_that_is_no_journal_is_damaged_and_raises_nothing(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run.journal"
    path.write_bytes(content)
    os.utime(path, (time.time() - 60, time.time() - 60))
    run = live.LiveRun(path)
    run.refresh()
    assert json.dumps(run.view())
    assert run.view()["state"] == "damaged"


def test_lines_of_another_shape_are_passed_over(writer: Writer) -> None:
    writer.journal.append("result", {"index": 0, "turn": 0, "status": "ok"})
    writer.journal.append("pulse", {"at_ms": "soon"})
    writer.journal.append("grade", {"index": 0, "turn": 0, "score": "much"})
    writer.journal.append("tomorrow", {"new": True})
    writer.answer(1, 1500)
    assert follow(writer)["done"] == 1


def test_long_and_hostile_texts_are_cut(writer: Writer) -> None:
    hostile = "\x1b]0;owned\x07<script>" + "x" * 100_000
    writer.answer(0, 1500, answer=hostile, question=hostile)
    writer.fail(1, 1500, hostile)
    for entry in follow(writer)["last"]:
        assert max(len(entry[name] or "") for name in ("question", "answer", "error")) <= 500


def test_a_file_that_is_read_on_counts_what_it_would_from_its_start(writer: Writer) -> None:
    run = live.LiveRun(writer.path)
    for place in range(10):
        writer.answer(place, 1500 + 100 * place)
        writer.pulse(1500 + 100 * place, done=place)
        assert run.refresh()
    one, other = run.view(), follow(writer)
    for name in ("elapsed_s", "quiet_s", "eta_s", "now", "validity"):
        one.pop(name)
        other.pop(name)
    assert one == other
    assert run.reader is not None
    assert run.refresh() is False


def test_a_new_run_under_the_name_is_followed_in_place_of_the_old_one(writer: Writer) -> None:
    writer.answer(0, 1500)
    run = live.LiveRun(writer.path)
    run.refresh()
    writer.journal.remove()
    again = Writer(writer.path.parent, 5)
    run.refresh()
    assert (run.view()["done"], run.view()["planned"]) == (0, 5)
    again.journal.remove()


def test_a_removed_journal_with_its_results_is_finished(writer: Writer) -> None:
    writer.answer(0, 1500)
    run = live.LiveRun(writer.path)
    run.refresh()
    writer.journal.remove()
    run.refresh()
    assert run.view()["state"] == "damaged"
    writer.path.with_suffix(".json").write_text('{"meta": {"run_id": "a-run"}}')
    assert run.view()["state"] == "finished"


def test_the_command_line_runs_the_same_and_holds_no_secret(tmp_path: Path) -> None:
    given = {"headers": {"X-Api-Key": "secret"}, "slo": {"ttft_ms": 1000}, "stop": "1"}
    writer = Writer(tmp_path, 10, **given)
    command = follow(writer)["command"]
    assert "secret" not in command
    assert "--set 'slo={\"ttft_ms\":1000.0}'" in command
    assert "--set concurrent=4" in command
    assert "--set 'stop=\"1\"'" in command
    assert "temperature" not in command


# In bounded memory


def write_many(path: Path, answers: int) -> None:
    """Write a journal with so many answers at once."""
    header = Writer(path.parent / "header", answers).header
    made = st.Result(0, "q", "Who?", answer="I.", token=11, chunks=11, token_source="usage")
    record = made.to_record()
    with path.open("wb") as file:
        file.write(st.JournalLine.to_bytes(0, "header", header))
        for seq in range(1, answers + 1):
            sent_ms = seq * 10.0
            times = {"sent_ms": sent_ms, "end_ms": sent_ms + 1000 + seq % 97, "time": 1000.0}
            line = record | times | {"index": seq, "ttft_ms": 100.0 + seq % 89}
            file.write(st.JournalLine.to_bytes(seq, "result", line))


@pytest.fixture(scope="module")
def long_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    (folder / "header").mkdir()
    path = folder / "run.journal"
    write_many(path, 100_000)
    return path


def test_a_hundred_thousand_answers_take_hardly_more_memory_than_ten_thousand(
    long_journal: Path, tmp_path: Path
) -> None:
    (tmp_path / "header").mkdir()
    short = tmp_path / "run.journal"
    write_many(short, 10_000)
    sizes = {}
    for path, answers in ((short, 10_000), (long_journal, 100_000)):
        tracemalloc.start()
        try:
            run = live.LiveRun(path)
            while run.done < answers:
                run.refresh()
            sizes[answers] = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    # The core keeps where each line is: 32 bytes a result, in flat arrays that grow by an eighth.
    assert sizes[100_000] - sizes[10_000] < 90_000 * 32 * 1.25 + 1_000_000


def test_a_view_of_a_hundred_thousand_answers_holds_two_thousand_points_and_all_extremes(
    long_journal: Path,
) -> None:
    run = live.LiveRun(long_journal)
    calls = 0
    while run.done < 100_000:
        run.refresh()
        calls += 1
        assert calls < 1000
    view = run.view()
    points = view["series"]["answers"]
    assert len(points) <= 2000 < view["answers_of"]["answers"] == 100_000
    assert {min(point[1] for point in points), max(point[1] for point in points)} == {100, 188}
    assert all(len(view["series"][name]) <= 2000 for name in ("t_s", "tokens_per_s"))
    known = {row["metric"]: row for row in view["known"]}
    assert known["ttft_ms.p50"]["value"] == pytest.approx(144, rel=0.005)
    assert known["ttft_ms.p50"]["low"] <= 144 <= known["ttft_ms.p50"]["high"]
    assert len(json.dumps(view)) < 400_000


def test_only_new_bytes_are_read(long_journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = live.LiveRun(long_journal)
    while run.done < 100_000:
        run.refresh()
    taken: list[st.JournalLine] = []
    monkeypatch.setattr(run, "_take", taken.append)
    with long_journal.open("ab") as file:
        file.write(st.JournalLine.to_bytes(100_001, "tomorrow", {}))
    assert run.refresh()
    assert len(taken) == 1


def test_extremes_and_failures_survive_the_thinning() -> None:
    points = live.Points()
    for place in range(50_000):
        points.add(place, 9999.0 if place == 31_111 else 100.0 + place % 7)
    kept = points.to_list()
    assert len(kept) <= live.Points.MOST
    assert 9999.0 in [value for _, value, _ in kept]
    assert kept == sorted(kept, key=lambda point: point[0])


def test_seconds_are_joined_when_there_are_too_many() -> None:
    beats = live.Beats()
    for second in range(10_000):
        beats.add("tokens", second + 0.5, 10)
        beats.add("in_flight", second + 0.5, 4)
    length = int(10_000 / beats.width_s)
    assert length <= live.Beats.MOST
    assert beats.rates("tokens", length) == [10.0] * length
    assert beats.means("in_flight", length) == [4.0] * length


# Over a real socket


def test_a_stalled_server_shows_requests_that_wait_for_a_first_byte(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = stalls_from(0)
    _, run = started("--set", "concurrent=3", "--set", "questions=6")
    view = until(run, lambda view: view["in_flight"] == 3)
    assert (view["waiting"], view["queued"], view["state"]) == (3, 0, "starting")
    assert view["now"] is None


def test_a_server_that_falls_silent_is_said_to_be_silent(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = stalls_from(2)
    _, run = started("--set", "concurrent=2", "--set", "questions=8", "--set", "timeout=60")
    view = until(run, lambda view: view["state"] == "silent")
    assert view["quiet_s"] >= 5
    assert (view["done"], view["in_flight"], view["timeout_s"]) == (2, 2, 60)


def test_an_open_loop_shows_what_is_due_and_held(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = stalls_from(0)
    settings = ("rate=20", "arrival=constant", "concurrent=1", "questions=1000")
    _, run = started(*(part for each in settings for part in ("--set", each)))
    view = until(run, lambda view: (view["queued"] or 0) >= 60)
    pulses = [
        line.read()
        for line in st.JournalReader(run.path, at_once=False).new_lines()
        if line.kind == "pulse"
    ]
    assert view["in_flight"] == 1
    assert len(pulses) >= 2
    for before, after in itertools.pairwise(pulses):  # one more is due each 50 ms
        due = (after["at_ms"] - before["at_ms"]) / 50
        assert after["queued"] - before["queued"] == pytest.approx(due, abs=2), pulses


def test_bytes_are_counted_as_they_come(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = streams(*["word "] * 100, pause_s=0.05)
    _, run = started("--set", "concurrent=1", "--set", "questions=4")
    view = until(run, lambda view: bool(view["received_bytes_per_s"]))
    assert (view["in_flight"], view["waiting"]) == (1, 0)


def test_a_killed_run_is_seen_as_crashed_and_then_as_resumed(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = stalls_from(2)
    process, run = started("--set", "concurrent=2", "--set", "questions=4")
    until(run, lambda view: view["done"] == 2 and view["in_flight"] == 2)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    view = until(run, lambda view: view["state"] == "crashed")
    assert view["saved"] == 2
    server.behaviour = streams("Hello", pause_s=0.1)
    _, _ = started("--resume")
    view = until(run, lambda view: view["state"] == "finished")
    assert (view["done"], view["failed"]) == (4, 0)


def test_pulses_stand_in_the_journal_only(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = streams(*["word "] * 30, pause_s=0.05)
    process, run = started("--set", "concurrent=1", "--set", "questions=2")
    until(run, lambda view: view["in_flight"] == 1)
    assert process.wait(20) == 0
    assert "pulse" not in (project.folder / "results" / "run.json").read_text()
    project.results()  # which verifies it


def test_a_pulse_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if b'"pulse"' not in data:
            return write(fd, data)
        if data.startswith(b'{"crc"'):  # half a line fits
            return write(fd, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    writer.pulse(1000)
    writer.answer(0, 1500)
    assert writer.journal.read().ended == 1


def test_who_looks_whether_a_run_goes_on_is_in_no_runs_way(writer: Writer) -> None:
    assert st.JournalReader(writer.path).is_in_use is True
    writer.die()
    reader = st.JournalReader(writer.path)
    assert reader.is_in_use is False
    journal, _ = st.Journal.reopen(writer.path)
    journal._close()


def test_a_refused_request_is_quoted_as_the_commonest_error(
    project: Project, server: ScriptedServer, started: Callable[..., Any]
) -> None:
    server.behaviour = sends(whole(b'{"error": "limit of 2"}', "429 Too Many", "application/json"))
    _, run = started("--set", "concurrent=1", "--set", "questions=50")
    view = until(run, lambda view: view["failed"] > 3)
    assert view["commonest_error"]["text"].startswith("HTTP 429: limit of 2")
    assert view["last"][0]["status"] == "error"


def test_each_kind_of_failure_says_how_often_and_when(writer: Writer) -> None:
    writer.answer(0, 1500)
    for place, end_ms, message in ((1, 2000, "busy"), (2, 5000, "busy"), (3, 3000, "down")):
        writer.fail(place, end_ms, message)
    view = follow(writer)
    assert view["failures"] == [
        {"text": "HTTP 503: busy", "count": 2, "first_s": 2.0, "last_s": 5.0},
        {"text": "HTTP 503: down", "count": 1, "first_s": 3.0, "last_s": 3.0},
    ]


def test_the_time_of_each_further_token_is_kept_over_time(writer: Writer) -> None:
    writer.answer(0, 2000)
    writer.answer(1, 3000, token=21)
    assert follow(writer)["series"]["tpot"] == [[0.9, 100.0, 4], [1.9, 50.0, 4]]
