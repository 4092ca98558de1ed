"""No room at any point: old files stay as they are, what could be kept is named, and the run can be gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import ROOT, Finished, Project, ScriptedServer, streams


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond this size, as on a full disk: a write is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeps_compiled = sys.dont_write_bytecode
    # Python would cut compiled modules short, and trip over them later.
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = keeps_compiled


def results(project: Project) -> list[str]:
    return [name for name in project.files if name.startswith("results/")]


def is_refused(finished: Finished) -> bool:
    """Whether the program ended as the contract says for results that cannot be written."""
    assert "Traceback" not in finished.err
    lines = [line for line in finished.err.splitlines() if not line.startswith("connecting to ")]
    assert len(lines) == 1, finished.err
    return finished.code == 4 and finished.out == ""


@pytest.fixture
def lengthy(project: Project, server: ScriptedServer) -> Project:
    """A project whose journal and results take some 40 kB."""
    server.behaviour = streams("x" * 2000, "y" * 2000)
    project.configure(server=server.url, questions=8, concurrent=1)
    return project


def test_no_room_for_the_journals_first_line_leaves_nothing_behind(
    lengthy: Project, server: ScriptedServer
) -> None:
    with room_for(100):
        finished = lengthy.run("run")
    assert is_refused(finished)
    assert "run.journal" in finished.err and "--resume" not in finished.err, (
        "there is nothing to go on with"
    )
    assert results(lengthy) == [] and server.requests == []
    assert lengthy.run("run").code == 0
    assert results(lengthy) == ["results/run.json"]


@pytest.mark.parametrize("kilobytes", [4, 7, 12, 20, 30])
def test_no_room_in_the_middle_keeps_what_is_finished_and_says_how_much(
    lengthy: Project, server: ScriptedServer, kilobytes: int
) -> None:
    with room_for(kilobytes << 10):
        finished = lengthy.run("run")
    assert is_refused(finished)
    assert results(lengthy) == ["results/run.journal"]
    reader = st.JournalReader(lengthy.folder / "results" / "run.journal")
    assert reader.lost_bytes == 0, "the line that did not fit is taken out again"
    ended = sum(result.status != "cancelled" for result in reader)
    assert f"{ended} finished answers are kept in it" in finished.err
    assert "--resume" in finished.err
    asked = len(server.requests)
    assert lengthy.run("run", "--resume").code == 0
    assert len(server.requests) - asked == 8 - ended
    assert [entry["status"] for entry in lengthy.results()["results"]] == ["ok"] * 8
    assert results(lengthy) == ["results/run.json"]


def test_no_room_for_the_results_keeps_the_old_file_and_names_the_journal(
    lengthy: Project, server: ScriptedServer
) -> None:
    lengthy.run("run", "--set", "questions=2")
    path = lengthy.folder / "results" / "run.json"
    old = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        original = st.save_results

        def in_no_room(*args: Any, **options: Any) -> Path:
            with room_for(9000):
                return original(*args, **options)

        patch.setattr(st, "save_results", in_no_room)
        finished = lengthy.run("run", "--overwrite")
    assert is_refused(finished)
    assert path.read_bytes() == old
    assert results(lengthy) == ["results/run.journal", "results/run.json"], (
        "no temporary file is left"
    )
    assert (
        "run.json" in finished.err and "run.journal" in finished.err and "--resume" in finished.err
    ), finished.err
    asked = len(server.requests)
    assert lengthy.run("run", "--resume", "--overwrite").code == 0
    assert len(server.requests) == asked and len(lengthy.results()["results"]) == 8


def test_wherever_the_room_ends_the_old_file_stays_and_the_run_can_be_gone_on_with(
    lengthy: Project, server: ScriptedServer
) -> None:
    lengthy.run("run", "--set", "questions=1")
    path = lengthy.folder / "results" / "run.json"
    old, codes = path.read_bytes(), set[int]()
    for size in range(0, 96_000, 6_001):
        with room_for(size):
            finished = lengthy.run("run", "--overwrite", "--quiet")
        codes.add(finished.code)
        if finished.code == 4:
            assert is_refused(finished) and path.read_bytes() == old, size
            if (lengthy.folder / "results" / "run.journal").exists():
                assert lengthy.run("run", "--resume", "--overwrite", "--quiet").code == 0, size
                assert len(lengthy.results()["results"]) == 8
        assert results(lengthy) == ["results/run.json"], size
        json.loads(path.read_bytes())
        path.write_bytes(old)
    assert codes == {0, 4}


def test_a_whole_process_with_no_room_ends_in_one_line(lengthy: Project) -> None:
    limit = (9000, resource.RLIM_INFINITY)
    finished = lengthy.spawn(
        "run",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        env={"PYTHONDONTWRITEBYTECODE": "1"},  # see room_for
    )
    assert is_refused(finished)
    assert results(lengthy) == ["results/run.journal"]
    assert "finished answers are kept" in finished.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(lengthy: Project, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        finished = lengthy.run("run", "--results-dir", str(disk))
        assert is_refused(finished) and "No space left on device" in finished.err
        journal = disk / "run.journal"
        reader = st.JournalReader(journal)
        ended = sum(result.status != "cancelled" for result in reader)
        assert reader.lost_bytes == 0 and f"{ended} finished answers are kept" in finished.err
        shutil.copytree(disk, lengthy.folder / "results")
        assert lengthy.run("run", "--resume").code == 0
        assert len(lengthy.results()["results"]) == 8
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_write_that_takes_only_a_part_is_completed(
    lengthy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    sizes = iter([1, 7, 100, 3] * 100_000)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: next(sizes)]))
    whole = list[bool]()
    append = st.Journal.append

    def watched(journal: st.Journal, kind: str, content: Any) -> None:
        append(journal, kind, content)
        reader = st.JournalReader(journal.path)
        whole.append(reader.lost_bytes == 0 and reader.lines == len(whole) + 1)

    monkeypatch.setattr(st.Journal, "append", watched)
    assert lengthy.run("run").code == 0
    assert whole == [True] * 10, "a header, 8 answers, a footer"
    assert len(lengthy.results()["results"]) == 8


def test_a_write_that_fails_halfway_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = st.Journal.create(tmp_path / "a.journal")
    with journal:
        journal.append("header", {})
        write, calls = os.write, iter(range(10))

        def half(fd: int, data: bytes) -> int:
            if next(calls):
                raise OSError(28, "No space left on device")
            return write(fd, data[:20])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(st.ResultsError, match="No space left on device"):
            journal.append("result", {"index": 0})
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(st.ResultsError, match="No space left on device"):
            journal.append("result", {"index": 1})
    reader = st.JournalReader(tmp_path / "a.journal")
    assert (reader.lines, reader.lost_bytes) == (1, 0)


def test_a_disk_that_fails_to_sync_stops_the_run(
    lengthy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    monkeypatch.setattr(st.Journal, "SYNC_S", 0.01)
    finished = lengthy.run("run", "--set", "questions=100")
    assert is_refused(finished) and "Input/output error" in finished.err


async def test_when_nothing_can_be_recorded_the_answers_under_way_are_not_waited_for() -> None:
    config = st.Config(server="http://x:1", model="m", concurrent=3)
    asked = [st.Question(id=f"q{place}", question="Who?") for place in range(3)]
    cancelled, all_asked = [], asyncio.Barrier(3)

    async def send(
        ask: st.PlannedRequest, messages: list[dict[str, str]], _release: Callable[[], None]
    ) -> st.Result:
        await all_asked.wait()
        if ask.index:
            try:
                await asyncio.Event().wait()  # an answer that never ends
            except asyncio.CancelledError:
                cancelled.append(ask.index)
                raise
        return ask.new_result(messages)

    def record(_result: st.Result) -> None:
        raise st.ResultsError("no room")

    with pytest.raises(st.ResultsError, match="no room"):
        async with asyncio.timeout(5):
            await st.process_questions(config, asked, send, record, st.StopSignal())
    assert sorted(cancelled) == [1, 2]


def test_a_results_file_that_came_out_short_is_not_put_in_place(
    lengthy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = st.ResultsFile._add

    def miscounted(file: st.ResultsFile, data: bytes) -> None:
        add(file, data)
        file._size += 1

    monkeypatch.setattr(st.ResultsFile, "_add", miscounted)
    finished = lengthy.run("run")
    assert is_refused(finished) and "run.journal" in finished.err
    assert results(lengthy) == ["results/run.journal"]


@pytest.mark.parametrize("name", ["results", "logs"])
def test_a_file_where_a_folder_should_be_is_one_line_and_asks_nothing(
    project: Project, server: ScriptedServer, name: str
) -> None:
    (project.folder / name).write_text("precious")
    finished = project.run("run")
    assert is_refused(finished) and name in finished.err
    assert (project.folder / name).read_text() == "precious"
    assert server.requests == []


def test_a_folder_where_the_results_file_should_be_is_kept(project: Project) -> None:
    (project.folder / "results" / "run.json").mkdir(parents=True)
    assert project.run("run").code == 0
    assert (project.folder / "results" / "run.json").is_dir()
    finished = project.run("run", "--overwrite")
    assert finished.code == 4 and "run.journal" in finished.err
    assert (project.folder / "results" / "run.json").is_dir()


def test_a_full_log_costs_the_log_and_not_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    class Full(logging.FileHandler):
        def _open(self) -> Any:
            return Path("/dev/full").open("w")

    monkeypatch.setattr(logging, "FileHandler", Full)
    finished = project.run("run", "--log-level", "DEBUG")
    assert finished.code == 0 and "Traceback" not in finished.err
    assert len(project.results()["results"]) == 4


def test_output_that_goes_to_a_full_disk_does_not_cost_the_results(project: Project) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, str(ROOT / "llm_stresstest.py"), "run"],
            cwd=project.folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert "Traceback" not in process.stderr
    assert process.returncode == 0, process.stderr
    assert len(project.results()["results"]) == 4
