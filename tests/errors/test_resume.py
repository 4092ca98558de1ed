"""A run that is gone on with ends as if nothing had come between; a run that had ended stays ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Project, Request, ScriptedServer, streams, whole


def unsaved(project: Project, *arguments: str) -> Path:
    """Leave the journal of a run that ended and could not be saved."""

    def full(*_args: Any, **_options: Any) -> Any:
        raise st.ResultsError("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "save_results", full)
        finished = project.run("run", *arguments)
    assert finished.code == 4 and "--resume" in finished.err
    return project.folder / "results" / "run.journal"


def facts(project: Project, name: str) -> dict[str, Any]:
    """Return what must be the same however often a run was saved."""
    data = project.results(name)
    meta = {key: data["meta"][key] for key in ("status", "validity", "resumed", "warmup", "client")}
    return {"meta": meta, "results": data["results"], "aggregate": data["aggregate"]}


@pytest.mark.parametrize(
    "config",
    [{}, {"duration": 0.5}, {"duration": 0.5, "rate": 20}, {"concurrent": [1, 2]}, {"warmup": 2}, {"record_chunk_times": False}],
    ids=["count", "duration", "open loop", "sweep", "warmup", "histogram"],
)  # fmt: skip
def test_a_run_that_had_ended_is_saved_as_it_ended_and_asks_nobody(
    project: Project, server: ScriptedServer, config: dict[str, Any]
) -> None:
    server.behaviour = streams("a", "b", "c", pause_s=0.01)
    project.configure(server=server.url, **config)
    path = unsaved(project)
    kept = path.read_bytes()
    footer = st.JournalReader(path).footer
    server.close()
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    first = facts(project, "run")
    assert first["meta"]["status"] == "complete" and first["meta"]["resumed"] is None
    assert footer is not None
    codes = {reason["code"] for reason in first["meta"]["validity"]["reasons"]}
    assert not codes & {"resumed", "interrupted"}
    figures = {name: value for name, value in footer["client"].items() if name != "loop_lag_ms"}
    assert st.rounded(figures) == {name: first["meta"]["client"][name] for name in figures}
    assert not path.exists()
    # The same when it was killed between saving and removing.
    path.write_bytes(kept)
    assert project.run("run", "--resume").code == 0
    assert facts(project, "run") == first
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_the_end_of_a_run_is_when_it_ended_and_not_when_it_was_saved(
    project: Project, server: ScriptedServer
) -> None:
    path = unsaved(project)
    footer = st.JournalReader(path).footer
    assert footer is not None
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    meta = project.results()["meta"]
    assert f"{meta['end_date']}T{meta['end_time']}" == footer["ended"][:23]
    assert meta["total_duration_ms"] == pytest.approx(footer["duration_ms"], abs=0.001)


def test_a_run_that_was_killed_while_it_graded_grades_the_rest_and_asks_nobody(
    project: Project, server: ScriptedServer
) -> None:
    questions = [{"question": f"{n}?", "grader": "exact", "expected": "ab"} for n in range(4)]
    project.write("questions.json", json.dumps(questions))
    server.behaviour = streams("a", "b")
    project.configure(server=server.url, questions=4)
    path = unsaved(project)
    lines = path.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["header", *["result"] * 4, "footer", *["grade"] * 4]
    path.write_bytes(b"".join(lines[:-2]))
    server.close()
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    data = project.results()
    assert data["meta"]["status"] == "complete"
    assert [entry["quality"] for entry in data["results"]] == [1.0] * 4


def test_what_a_run_that_had_ended_has_lost_is_asked_again(
    project: Project, server: ScriptedServer
) -> None:
    path = unsaved(project)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"x" + lines[2][1:], *lines[3:]]))
    asked = len(server.requests)
    finished = project.run("run", "--resume")
    assert finished.code == 0
    assert "bytes are damaged and left out, 1 earlier lines are missing" in finished.err
    assert len(server.requests) - asked == 1
    assert project.results()["aggregate"]["ok"] == 4


def stopped_in_the_middle(project: Project, server: ScriptedServer, asked: int = 8) -> None:
    """Run the program; a signal comes when half of the questions are answered."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == asked // 2:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        await streams("a", "b", pause_s=0.05)(request, writer)

    server.behaviour = behave
    project.configure(server=server.url, concurrent=1, questions=asked)
    assert project.run("run").code == 143
    server.behaviour = streams("a", "b", pause_s=0.05)


def test_what_the_self_check_found_in_each_part_is_kept(
    project: Project, server: ScriptedServer
) -> None:
    stopped_in_the_middle(project, server)
    first = project.results()["meta"]["client"]
    assert first["earlier_parts"] == []
    assert project.run("run", "--resume").code in (0, 1)
    client = project.results()["meta"]["client"]
    (part,) = client["earlier_parts"]
    assert {"loop_lag_ms", "cpu_share", "cpu_wait_share", "stages", "timestamps"} <= part.keys()
    assert part == {name: first[name] for name in part}


def test_a_part_in_which_this_client_was_the_bottleneck_stays_in_the_verdict(
    project: Project, server: ScriptedServer
) -> None:
    busy = {"loop_lag_ms": {"p95": 900.0}, "cpu_share": 1.0, "cpu_wait_share": 0.0}
    calm = {"loop_lag_ms": {"p95": 0.1}, "cpu_share": 0.1, "cpu_wait_share": 0.0}
    config = st.Config(server="http://x/v1", model="m")
    results = [
        st.Result(n, f"q{n}", "?", sent_ns=n * 10**9, first_ns=n * 10**9 + 10**8, end_ns=n * 10**9 + 2 * 10**8, chunks=2, token=2)
        for n in range(100)
    ]  # fmt: skip
    aggregate = st.calculate_aggregates(results, config)
    for clients, verdict in (
        ((calm,), "VALID"),
        ((calm, busy), "INVALID"),
        ((busy, calm), "INVALID"),
    ):
        load = st.LoadReport(st.LoadStart(clients=clients))
        load.client = calm
        codes = {reason["code"] for reason in st.judge_validity(config, aggregate, load)["reasons"]}
        assert ("client_saturated" in codes) == (verdict == "INVALID")


def test_overwriting_keeps_the_answers_of_an_unfinished_run_under_another_name(
    project: Project, server: ScriptedServer
) -> None:
    stopped_in_the_middle(project, server)
    before = (project.folder / "results" / "run.journal").read_bytes()
    project.configure(server=server.url, questions=2)
    finished = project.run("run", "--overwrite")
    assert finished.code == 0, finished.err
    kept = next((project.folder / "results").glob("run_*.journal"))
    assert kept.read_bytes() == before
    assert f"{kept.stem} --resume" in finished.err
    assert len(project.results()["results"]) == 2
    project.configure(server=server.url, concurrent=1, questions=8)
    assert project.run(kept.stem, "--resume").code == 0
    assert project.results(kept.stem)["aggregate"]["ok"] == 8


def test_overwriting_twice_in_a_second_keeps_both_unfinished_runs(
    project: Project, server: ScriptedServer
) -> None:
    for _ in range(2):
        unsaved(project, "--overwrite")
    project.run("run", "--overwrite")
    assert len(list((project.folder / "results").glob("run_*.journal"))) == 2


def test_a_journal_without_an_answer_is_not_kept(project: Project, server: ScriptedServer) -> None:
    path = unsaved(project)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert project.run("run", "--overwrite").code == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_a_failed_run_is_over_too(project: Project, server: ScriptedServer) -> None:
    server.behaviour = lambda _request, writer: _refuse(writer)
    project.configure(server=server.url, questions=3)
    unsaved(project)
    asked = len(server.requests)
    finished = project.run("run", "--resume")
    assert finished.code == 1 and len(server.requests) == asked
    assert project.results()["aggregate"]["failed"] == 3


async def _refuse(writer: asyncio.StreamWriter) -> None:
    writer.write(whole(b"no", "500 Oops", "text/plain"))


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["new", "overwriting"])
def test_runs_that_start_at_once_under_one_name_each_have_files_of_their_own(
    project: Project, options: tuple[str, ...]
) -> None:
    processes = [project.start("run", "--quiet", *options) for _ in range(4)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert {process.returncode for process in processes} <= {0, 1}, ends
    saved = sorted((project.folder / "results").iterdir())
    assert {path.suffix for path in saved} == {".json"}, "no journal and no temporary file is left"
    runs = [project.results(path.stem) for path in saved]
    assert all(data["meta"]["status"] == "complete" for data in runs)
    assert all(len(data["results"]) == 4 for data in runs)
    assert len({data["meta"]["run_id"] for data in runs}) == len(runs)
    assert len(runs) == 4 or options, "only a run that had ended may be overwritten"
    assert len(list((project.folder / "logs").iterdir())) == 4


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["new", "overwriting"])
def test_a_name_whose_run_ends_just_now_is_free(
    project: Project, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    journal = project.folder / "results" / "run.journal"
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(b"")
    take, endings = st.FileLock._take, [journal]

    def end(lock: st.FileLock) -> bool:
        while endings:
            endings.pop().unlink()
        return take(lock)

    monkeypatch.setattr(st.FileLock, "_take", end)
    finished = project.run("run", "--quiet", *options)
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert project.results("run")["meta"]["status"] == "complete"


def test_of_several_that_go_on_with_one_run_only_one_does(
    project: Project, server: ScriptedServer
) -> None:
    stopped_in_the_middle(project, server)
    asked = len(server.requests)
    processes = [project.start("run", "--quiet", "--resume") for _ in range(3)]
    ends = [process.communicate(timeout=120) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes[0] in (0, 1) and set(codes[1:]) <= {0, 2}, ends  # 0: it came when all was done
    assert len(server.requests) - asked == 4
    assert project.results()["aggregate"]["ok"] == 8
    assert [path.name for path in (project.folder / "results").iterdir()] == ["run.json"]
