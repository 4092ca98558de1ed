"""The journal, attacked while it is written: what is left is kept, and what is lost is said."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Finished, Project, Request, ScriptedServer, streams

ASKED = 12
ATTACKED_AT = 7  # so many answers stand in the journal when it is attacked


def attacked(
    project: Project, server: ScriptedServer, attack: Callable[[Path], object]
) -> Finished:
    """Run the program; somebody meddles with its journal in the middle."""
    path = project.folder / "results" / "run.journal"

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == ATTACKED_AT:
            attack(path)
        await streams("You said ", request.question)(request, writer)

    server.behaviour = behave
    project.configure(server=server.url, concurrent=1, questions=ASKED)
    return project.run("run")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def zero_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0" * 1000)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    path.write_bytes(b"log rotated\n")


def cut_a_line_out(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))


DAMAGES = [flip_a_byte, zero_a_page, cut_in_half, cut_a_line_out]


@pytest.mark.parametrize("attack", DAMAGES)
def test_what_was_damaged_is_said_and_asked_again_and_nothing_else_is_lost(
    project: Project, server: ScriptedServer, attack: Callable[[Path], None]
) -> None:
    finished = attacked(project, server, attack)
    assert (finished.code, finished.err.count("\n")) == (4, 1), finished.err
    assert "was changed while the run wrote it" in finished.err and "--resume" in finished.err
    path = project.folder / "results" / "run.journal"
    left = len(st.JournalReader(path))
    assert f"{left} of {ASKED} answers can still be read" in finished.err
    assert ASKED - ATTACKED_AT <= left < ASKED
    assert not path.with_suffix(".json").exists(), "no file says that the run was complete"
    asked = len(server.requests)
    again = project.run("run", "--resume")
    assert again.code == 0, again.err
    assert len(server.requests) - asked == ASKED - left
    assert [entry["status"] for entry in project.results()["results"]] == ["ok"] * ASKED
    assert project.files[-1:] == ["results/run.json"]


@pytest.mark.parametrize("attack", [lambda path: os.truncate(path, 0), rewrite])
def test_a_journal_that_lost_its_first_line_is_gone_on_with_under_another_name(
    project: Project, server: ScriptedServer, attack: Callable[[Path], None]
) -> None:
    finished = attacked(project, server, attack)
    assert (finished.code, finished.err.count("\n")) == (4, 1), finished.err
    rescued = next((project.folder / "results").glob("run_*.journal"))
    left = len(st.JournalReader(rescued))
    assert ASKED - ATTACKED_AT <= left < ASKED
    assert f"{left} of {ASKED} answers can still be read" in finished.err
    assert f"{rescued.stem} --resume" in finished.err
    asked = len(server.requests)
    assert project.run(rescued.stem, "--resume").code == 0
    assert len(server.requests) - asked == ASKED - left
    assert project.results(rescued.stem)["aggregate"]["ok"] == ASKED


@pytest.mark.parametrize(
    "attack",
    [Path.unlink, lambda path: path.rename(path.with_suffix(".moved"))],
    ids=["removed", "moved"],
)
def test_a_journal_that_is_taken_away_costs_nothing(
    project: Project, server: ScriptedServer, attack: Callable[[Path], Any]
) -> None:
    finished = attacked(project, server, attack)
    assert finished.code == 0, finished.err
    assert project.results()["aggregate"]["ok"] == ASKED


def test_another_file_in_the_journals_place_is_neither_read_nor_removed(
    project: Project, server: ScriptedServer
) -> None:
    def replace(path: Path) -> None:
        path.unlink()
        path.write_text("precious")

    finished = attacked(project, server, replace)
    assert finished.code == 0, finished.err
    assert project.results()["aggregate"]["ok"] == ASKED
    assert (project.folder / "results" / "run.journal").read_text() == "precious"


@pytest.mark.parametrize(
    "attack",
    [lambda path: shutil.rmtree(path.parent), lambda path: path.parent.rename(path.parents[1] / "x")],
    ids=["removed", "moved"],
)  # fmt: skip
def test_a_results_folder_that_is_taken_away_costs_nothing(
    project: Project, server: ScriptedServer, attack: Callable[[Path], Any]
) -> None:
    finished = attacked(project, server, attack)
    assert finished.code == 0, finished.err
    assert project.results()["aggregate"]["ok"] == ASKED


def no_room(*arguments: Any, **_options: Any) -> Any:
    raise st.ResultsError(f"{arguments[0]}: cannot be written: No space left on device")


@pytest.mark.parametrize(
    "attack",
    [Path.unlink, lambda path: (path.unlink(), path.write_text("precious")), lambda path: shutil.rmtree(path.parent)],
    ids=["removed", "replaced", "with its folder"],
)  # fmt: skip
def test_what_a_journal_held_that_was_taken_away_is_kept_when_saving_fails(
    project: Project, server: ScriptedServer, attack: Callable[[Path], Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "save_results", no_room)
        finished = attacked(project, server, attack)
    assert (finished.code, finished.err.count("\n")) == (4, 1), finished.err
    rescued = next((project.folder / "results").glob("run_*.journal"))
    assert f"{ASKED} finished answers are kept in {rescued}" in finished.err
    assert f"{rescued.stem} --resume" in finished.err
    asked = len(server.requests)
    assert project.run(rescued.stem, "--resume").code == 0
    assert len(server.requests) == asked
    assert project.results(rescued.stem)["aggregate"]["ok"] == ASKED


def test_what_can_be_kept_nowhere_is_not_said_to_be_kept(
    project: Project, server: ScriptedServer
) -> None:
    def put_a_file_there(path: Path) -> None:
        shutil.rmtree(path.parent)
        path.parent.write_text("precious")

    finished = attacked(project, server, put_a_file_there)
    assert (finished.code, finished.err.count("\n")) == (4, 1), finished.err
    assert "run.journal, which somebody took away" in finished.err
    assert (project.folder / "results").read_text() == "precious"


def test_a_journal_that_is_cut_while_it_is_read_is_said_and_kills_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with st.Journal.create(path) as journal:
        journal.begin({"run_id": "r"})
        for place in range(2000):
            journal.append("result", st.Result(place, "q", "?" * 100).to_record())
        reader = st.JournalReader(path)
        records = reader.records()
        next(records)
        os.truncate(path, 20_000)
        with pytest.raises(st.ResultsError, match="was damaged while it was read"):
            list(records)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [90, 150, 220, 250, 300, 400, 900])
def test_a_header_that_could_not_be_read_back_is_refused_before_anything_is_asked(
    project: Project, server: ScriptedServer, levels: int
) -> None:
    project.configure(server=server.url, extra_body={"deep": deep(levels)})
    finished = project.run("run")
    if finished.code:
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert server.requests == [] and "results/run.journal" not in project.files
    else:
        project.results()
    assert (finished.code == 0) == (levels <= 150)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_gone_on_without(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(st.Journal, "SYNC_S", 0.001)
    finished = project.run("run", "--set", "questions=50")
    assert finished.code == 0, finished.err
    assert len(project.results()["results"]) == 50


def test_a_journal_that_cannot_be_removed_is_named_and_costs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".journal":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    finished = project.run("run")
    assert finished.code == 0 and len(project.results()["results"]) == 4
    assert "run.journal: cannot be removed: Operation not permitted" in finished.err


def test_a_half_line_that_cannot_be_cut_off_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_fd: int, _size: int) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "a.journal"
    line = st.JournalLine.to_bytes
    path.write_bytes(line(0, "header", {"run_id": "r"}) + line(1, "result", {"index": 0})[:30])
    monkeypatch.setattr(os, "ftruncate", refused)
    journal, _ = st.Journal.reopen(path)
    with journal:
        journal.append("result", st.Result(0, "q", "?").to_record())
        assert len(journal.read()) == 1
    assert json.loads(path.read_bytes().splitlines()[2])["seq"] == 1


@pytest.mark.parametrize("name", ["COM¹", "com²", "LPT³.x", "CONIN$", "conout$", "aux", "nul .txt", "CLOCK$", "COM0"])  # fmt: skip
def test_a_name_that_is_a_device_somewhere_is_refused(project: Project, name: str) -> None:
    finished = project.run(name)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "is reserved on some systems" in finished.err


@pytest.mark.parametrize(
    "name", ["COM", "comma", "console", "nullable", "auxiliary", "lpt", "com12"]
)
def test_a_name_that_only_begins_like_a_device_is_taken(name: str) -> None:
    assert st.check_name(name) == name
