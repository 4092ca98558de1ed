"""ab runs two configurations in turn, by the command line, and compares them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from extensions.compare import Series
from tests.conftest import Project, streams, wait_until

QUESTIONS = [f"Question {place}?" for place in range(10)]


@pytest.fixture
def two(project: Project) -> Project:
    """Return a project with two configurations."""
    project.write("questions.json", json.dumps(QUESTIONS))
    base = json.loads((project.folder / "config.json").read_text()) | {"questions": "all"}
    project.write("a.json", json.dumps(base | {"system_prompt": "A"}))
    project.write("b.json", json.dumps(base | {"system_prompt": "B"}))
    return project


AB = ("ab", "try", "--a", "a.json", "--b", "b.json", "-n", "2")


def test_the_configurations_take_turns_and_are_compared(two: Project, server: object) -> None:
    done = two.spawn(*AB, "--format", "json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["between_runs"] == {"covered": True, "runs": [2, 2]}
    assert content["changed"] == {"system_prompt": ["A", "B"]}
    assert content["pairs"] == 10
    names = [line.split()[-1] for line in done.err.splitlines() if line.startswith("run ")]
    assert names == ["try_a1", "try_b1", "try_b2", "try_a2"]
    starts = {name: two.results(name)["meta"]["start_time"] for name in names}
    assert sorted(names, key=starts.__getitem__) == names


def test_runs_that_are_there_are_not_made_again(two: Project, server: object) -> None:
    assert two.spawn(*AB).code == 0
    before = two.results("try_a1")["meta"]["run_id"]
    (two.folder / "results" / "try_b2.json").unlink()
    done = two.spawn(*AB)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("run ")] == [
        "run 3 of 4: try_b2"
    ]
    assert two.results("try_a1")["meta"]["run_id"] == before


def test_ctrl_c_ends_the_run_in_progress_in_order_and_the_next_call_goes_on(
    two: Project, server: object
) -> None:
    server.behaviour = streams("Hello", *[" again"] * 30, pause_s=0.02)  # type: ignore[attr-defined]
    process = two.start(*AB)
    results = two.folder / "results"
    wait_until(lambda: list(results.glob("*.journal")), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on with them" in err
    assert "Traceback" not in err
    assert (results / "try_a1.journal").is_file()
    server.behaviour = streams("Hello", " world")  # type: ignore[attr-defined]
    done = two.spawn(*AB, "--format", "json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["runs"]) == 4


def test_what_cannot_be_compared_is_refused_before_anything_is_run(two: Project) -> None:
    two.write(
        "b.json", json.dumps(json.loads((two.folder / "b.json").read_text()) | {"max_tokens": 9})
    )
    done = two.spawn(*AB)
    assert done.code == 2 and "max_tokens: 512 and 9" in done.err
    assert two.files == ["a.json", "b.json"]


def test_a_server_that_cannot_be_used_ends_it_with_the_runs_exit_code(two: Project) -> None:
    for name in ("a.json", "b.json"):
        config = json.loads((two.folder / name).read_text()) | {"server": "http://127.0.0.1:9/v1"}
        two.write(name, json.dumps(config))
    done = two.spawn(*AB)
    assert done.code == 3
    assert "try_a1 ended with exit code 3" in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ab", "try", "--a", "a.json"), "required: --b"),
        (("ab", "try", "--a", "a.json", "--b", "none.json"), "no such file"),
        (("ab", "../try", "--a", "a.json", "--b", "b.json"), "must be a name, not a path"),
        (("ab", "try", "--a", "a.json", "--b", "b.json", "-n", "1"), "at least 2 runs a side"),
        (("ab", "try", "--a", "a.json", "--b", "b.json", "--require", "x"), "cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(two: Project, arguments: tuple[str, ...], text: str) -> None:
    done = two.run(*arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert text in done.err


def test_the_order_balances_a_drift_that_grows_with_time() -> None:
    class Options:
        name, n, results_dir, log_dir, a = "x", 4, Path(), Path(), Path("a.json")

    order = Series(Options()).order  # type: ignore[arg-type]
    places = {
        side: sum(place for place, (of, _) in enumerate(order) if of == side) for side in "ab"
    }
    assert places["a"] == places["b"]
    assert len(set(order)) == 8
