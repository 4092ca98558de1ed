"""The tools history and list."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

import llm_stresstest as st
from extensions import history
from tests.benchmarks.simulated import Server, World
from tests.conftest import Project

NIGHTLY = Server(noise=0.05, drift=0.02)
SLOW = dataclasses.replace(NIGHTLY, slower=0.12)


def nights(folder: Path, servers: list[Server], seed: int = 1) -> World:
    folder.mkdir(exist_ok=True)
    world = World(30, seed)
    for place, server in enumerate(servers):
        world.run(folder, f"nightly_{place:02}", server)
    return world


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose nightly runs became slower at the seventh."""
    project = Project(tmp_path_factory.mktemp("history"))
    project.configure(server="http://127.0.0.1:1/v1")
    nights(project.folder / "results", [NIGHTLY] * 7 + [SLOW] * 6)
    return project


def test_a_change_is_said_with_its_size_and_its_date(stepped: Project) -> None:
    done = stepped.run("history", "nightly")
    assert done.code == 0
    first = done.out.splitlines()[0]
    assert "slower by 1" in first and "since 2026-11-08 03:00" in first
    assert done.out.count("2026-11-") == 14  # a row a run, and the change


def test_the_json_has_runs_and_changes(stepped: Project) -> None:
    content = json.loads(stepped.run("history", "nightly", "--format", "json").out)
    assert len(content["runs"]) == 13 and content["enough"] is True
    (change,) = content["changes"]
    assert change["since"] == "nightly_07" and change["p"] <= 0.01
    assert change["ratio"] == pytest.approx(1.12, abs=0.05)
    assert content["runs"][0]["e2e_ms"] > 0


def test_a_change_is_said_in_german_to_who_asks_for_it(stepped: Project) -> None:
    done = stepped.run("history", "nightly", "--format", "json", "--language", "de")
    said = json.loads(done.out)["changes"][0]["says"]
    assert re.fullmatch(r"\S+ um 1\d(,\d)?.% langsamer seit 2026-11-08 03:00", said)


def test_a_slow_fall_back_is_no_reason_to_look_at_the_screen_of_another_width(
    stepped: Project,
) -> None:
    done = stepped.spawn("history", "nightly", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0 and done.out.isascii()
    assert max(map(len, done.out.splitlines())) <= 80


def test_four_runs_cannot_tell_yet(project: Project) -> None:
    nights(project.folder / "results", [NIGHTLY] * 4)
    out = project.run("history", "nightly").out
    assert out.startswith("Changes: cannot tell yet: 4 of 8 runs.")


def test_runs_of_another_kind_are_left_out_and_marked(project: Project) -> None:
    folder = project.folder / "results"
    world = nights(folder, [NIGHTLY] * 8, seed=2)
    for place in range(4):
        world.run(folder, f"nightly_old{place}", SLOW, max_tokens=64)
    world.run(folder, "nightly_last", NIGHTLY)
    out = project.run("history", "nightly").out
    assert "No change in 9 runs is beyond chance." in out
    assert out.count(" *") >= 4 and "other max_tokens" in out


def test_a_damaged_file_is_told_and_the_others_count(project: Project) -> None:
    folder = project.folder / "results"
    nights(folder, [NIGHTLY] * 3)
    (folder / "nightly_99.json").write_text("{")
    done = project.run("history", "nightly")
    assert done.code == 0 and "left out:" in done.err
    assert "3 of 8 runs" in done.out


def test_no_run_of_that_name_is_one_line(project: Project) -> None:
    (project.folder / "results").mkdir()
    done = project.run("history", "never")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no run in" in done.err


def test_a_sparkline_goes_from_the_lowest_to_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    assert history.sparkline([1, None, 2, 3])[1] == " "
    monkeypatch.setattr("sys.stdout", Ascii())
    assert history.sparkline([0, 3.5, 7]) == "_=@" or history.sparkline([0, 3.5, 7])[0] == "_"
    assert history.sparkline([5, 5]) == "__"


def test_a_list_has_finished_unfinished_and_damaged_runs(project: Project) -> None:
    assert project.run("first", "--quiet").code in (0, 1)
    folder = project.folder / "results"
    journal = st.Journal.create(folder / "killed.journal")
    header = {
        "started": "2026-11-23T13:15:00.000+00:00",
        "config": {"model": "m", "concurrent": [1, 2]},
    }
    with journal:
        journal.append("header", header)
    (folder / "broken.json").write_text('{"meta": 1}')
    done = project.run("list")
    assert done.code == 0
    assert "first" in done.out and "unfinished, 0 answers" in done.out and "damaged" in done.out
    content = json.loads(project.run("list", "--format", "json").out)
    by_name = {entry["name"]: entry for entry in content["runs"]}
    assert by_name["killed"]["levels"] == "1, 2" and by_name["killed"]["date"] == "2026-11-23 13:15"
    assert by_name["first"]["tokens_per_s"] > 0 and by_name["first"]["quality"] is None


def test_a_list_of_long_names_is_never_cut(project: Project) -> None:
    folder = project.folder / "results"
    folder.mkdir()
    name = "PC_FIN_qwen2.5-coder-32b-instruct-q4_k_m_with_a_name_that_is_long"
    World(10, 1).run(folder, name, NIGHTLY)
    out = project.run("list").out
    assert name in out and "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_an_empty_folder_says_how_to_make_a_run(project: Project) -> None:
    (project.folder / "results").mkdir()
    assert "holds no run; make one" in project.run("list").err
    assert "no such folder" in project.run("list", "--results-dir", "nowhere").err
