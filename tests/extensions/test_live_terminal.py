"""The view in the terminal: what it shows, and that the terminal is in order behind it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.cells import cell_len

from extensions import live
from tests.conftest import Project, ScriptedServer, streams, wait_until
from tests.extensions.test_live_following import Writer, follow, stalls_from

ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
SIZES = [(60, 24), (80, 24), (120, 40), (200, 60), (40, 12), (30, 40)]


def shown(view: dict[str, Any], width: int = 80, height: int = 40) -> str:
    return "\n".join(line.plain for line in live.Screen(view, width, height).lines())


def busy(folder: Path, **config: Any) -> Writer:
    """Write a journal in which everything happens that a view shows."""
    thresholds = {"ttft_ms.p95": "<= 50"}
    writer = Writer(folder, 40, slo={"ttft_ms": 200}, thresholds=thresholds, **config)
    for place in range(20):
        writer.answer(place, 2000 + 100 * place, answer="The answer is 42. " * 20)
    writer.fail(20, 4000, "the queue is full")
    writer.pulse(3000, received_bytes=1000)
    writer.pulse(4000, waiting=1, received_bytes=4000)
    return writer


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_view_fits_the_terminal(tmp_path: Path, width: int, height: int) -> None:
    lines = live.Screen(follow(busy(tmp_path)), width, height).lines()
    assert len(lines) <= height
    words = [line.plain for line in lines if " " in line.plain.strip()]
    assert all(cell_len(line.rstrip()) <= width for line in words)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_figure_is_cut(tmp_path: Path, width: int) -> None:
    text = shown(follow(busy(tmp_path)), width, 60)
    for figure in ("100\u202fms", "1.10\u202fs", "4 in flight", "1 wait for a first byte"):
        assert figure in text
    if width < live.Screen.WIDE:  # else in a column, and in two lines
        assert "20 of 21 requests (95\u202f%) met first token" in text


def test_the_first_lines_say_how_far_it_is_and_what_fails(tmp_path: Path) -> None:
    text = shown(follow(busy(tmp_path)))
    assert "RUNNING  run  for 4\u202fs" in text
    assert "52\u202f% done, about 3\u202fs to go: 4 at once" in text
    assert "1 failed  most often HTTP 503: the queue is full" in text


def test_a_run_without_answers_shows_no_figure(tmp_path: Path) -> None:
    text = shown(follow(Writer(tmp_path)))
    assert "Waiting for the first answer" in text
    assert "tokens/s" not in text


def test_a_crashed_run_says_what_is_saved_and_how_to_go_on(tmp_path: Path) -> None:
    writer = busy(tmp_path)
    writer.die()
    text = shown(follow(writer))
    assert "CRASHED" in text
    assert "Stopped without finishing, after 21 of 40 answers. All 21 are saved." in text
    assert "run --resume" in text.replace("\n", " ")


def test_a_silent_server_is_said_with_the_timeout(tmp_path: Path) -> None:
    writer = Writer(tmp_path, timeout=90)
    writer.answer(0, 1200)
    writer.pulse(14_200)
    assert "No answer for 13\u202fs; the timeout is 90\u202fs." in shown(follow(writer))


def test_model_output_is_inert(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e[bold]x[/bold]\r\n" + "字" * 600
    writer.answer(0, 1500, question=hostile, answer=hostile)
    writer.fail(1, 1600, hostile)
    for width in (60, 120):
        text = shown(follow(writer), width, 60)
        assert not set(text) & set("\x1b\x07\r\u202e")
        assert all(cell_len(line.rstrip()) <= width for line in text.split("\n"))


def test_a_sweep_has_a_segment_for_each_level(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 2, concurrent=[1, 2, 4], stability_floor=False)
    for place in range(3):
        writer.answer(place, 2000 + 500 * place, stage=place // 2)
    text = shown(follow(writer))
    assert "1 at once · 2 of 2" in text
    assert "2 at once · 1 of 2" in text
    assert "Known so far, at 2 at once" in text


def test_many_levels_still_fit(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 2, concurrent=list(range(1, 60)), stability_floor=False)
    writer.answer(0, 1500)
    assert "1 answers" in shown(follow(writer), 60)


# With a terminal


class Terminal:
    """A terminal, and all that is written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.output = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.output += data

    def wait_for(self, wanted: bytes | Callable[[bytes], bool]) -> None:
        """Wait until something was written."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if wanted(self.output) if callable(wanted) else wanted in self.output:
                return
            time.sleep(0.05)
        raise AssertionError(self.output[-3000:])

    @property
    def in_order(self) -> bool:
        """Whether it is back from the alternate screen, with its cursor."""
        back = self.output.rfind(LEFT) > self.output.rfind(ENTERED)
        return back and self.output.rfind(SHOWN) > self.output.rfind(HIDDEN)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.slave)
    os.close(made.master)


@pytest.fixture
def run_live(
    project: Project, terminal: Terminal
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        env = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        made = project.start("run", "--live", *arguments, stderr=terminal.slave, env=env)
        processes.append(made)
        return made

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=10)


def viewer(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the process that draws."""
    children = psutil.Process(process.pid).children()
    return next(child for child in children if "live" in child.cmdline())


def test_the_view_is_drawn_and_leaves_the_summary_behind(
    server: ScriptedServer, terminal: Terminal, run_live: Callable[..., subprocess.Popen[str]]
) -> None:
    server.behaviour = streams(*["word "] * 20, pause_s=0.1)
    process = run_live("--set", "concurrent=1", "--set", "questions=3")
    out, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "3 ok" in out
    assert ENTERED in terminal.output
    assert b"RUNNING" in terminal.output
    assert b"in flight" in terminal.output
    assert terminal.in_order


def test_a_stop_signal_saves_and_puts_the_terminal_in_order(
    server: ScriptedServer, terminal: Terminal, run_live: Callable[..., subprocess.Popen[str]]
) -> None:
    server.behaviour = stalls_from(0)
    process = run_live()
    terminal.wait_for(b"in flight")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "--resume" in out
    assert terminal.in_order


def test_the_run_goes_on_when_its_view_is_killed(
    server: ScriptedServer, terminal: Terminal, run_live: Callable[..., subprocess.Popen[str]]
) -> None:
    server.behaviour = streams(*["word "] * 40, pause_s=0.1)
    process = run_live("--set", "concurrent=1", "--set", "questions=1")
    terminal.wait_for(ENTERED)
    viewer(process).kill()
    terminal.wait_for(b"the live view has ended; the run goes on")
    assert terminal.output.rfind(LEFT) > terminal.output.rfind(ENTERED)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, "1 ok" in out) == (0, True)
    assert terminal.in_order


def test_the_view_leaves_the_terminal_in_order_when_the_run_is_killed(
    server: ScriptedServer, terminal: Terminal, run_live: Callable[..., subprocess.Popen[str]]
) -> None:
    server.behaviour = stalls_from(0)
    process = run_live()
    terminal.wait_for(b"in flight")
    drawing = viewer(process)
    process.kill()
    psutil.wait_procs([drawing], timeout=10)
    terminal.wait_for(lambda _: terminal.in_order)


def test_ctrl_c_reaches_the_view_too_which_leaves_the_stop_to_the_run(
    server: ScriptedServer, terminal: Terminal, run_live: Callable[..., subprocess.Popen[str]]
) -> None:
    server.behaviour = stalls_from(0)
    process = run_live()
    terminal.wait_for(b"in flight")
    drawing = viewer(process)
    drawing.send_signal(signal.SIGINT)
    drawing.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"has ended; the run goes on" not in terminal.output
    assert terminal.in_order


def test_without_a_terminal_one_line_says_so(project: Project) -> None:
    ended = project.spawn("run", "--live")
    assert ended.code == 0
    assert "--live needs a terminal; progress is shown in lines" in ended.err
    assert "\x1b" not in ended.err


def test_the_core_without_its_extensions_runs_on_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("llm_stresstest.HERE", tmp_path)
    ended = project.run("run", "--dashboard")
    assert ended.code == 0
    assert "--dashboard needs extensions/dashboard.py; the run goes on without it" in ended.err


def test_live_follows_a_run_that_was_started_elsewhere(
    project: Project, server: ScriptedServer, terminal: Terminal
) -> None:
    server.behaviour = streams(*["word "] * 60, pause_s=0.1)
    process = project.start("run", "--set", "concurrent=1", "--set", "questions=1")
    journal = project.folder / "results" / "run.journal"
    wait_until(journal.exists, process)
    looking = project.start("live", "run", stderr=terminal.slave, env={"TERM": "xterm"})
    terminal.wait_for(b"in flight")
    assert looking.wait(30) == 0
    process.communicate(timeout=20)
    looking.communicate()
    assert terminal.in_order


def test_live_says_when_there_is_no_such_run(project: Project, terminal: Terminal) -> None:
    process = project.start("live", "nothing", stderr=terminal.slave)
    process.communicate(timeout=20)
    assert process.returncode == 2
    terminal.wait_for(b"no run in progress")


def test_the_dashboard_beside_a_run_says_its_address_and_shows_the_run(
    project: Project, server: ScriptedServer, tmp_path: Path
) -> None:
    server.behaviour = stalls_from(0)
    said = tmp_path / "said.txt"
    with said.open("wb") as stderr:
        process = project.start("run", "--dashboard", stderr=stderr)
    served: list[psutil.Process] = []
    try:
        wait_until(lambda: "http://127.0.0.1:" in said.read_text(), process)
        served = psutil.Process(process.pid).children()
        address = next(
            line.removeprefix("dashboard: ")
            for line in said.read_text().splitlines()
            if "http://127.0.0.1:" in line
        )
        assert address.endswith("/?run=run")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
        assert served[0].is_running()  # for those who still look; it ends by itself
    finally:
        process.kill()
        for each in served:
            each.kill()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_failures_are_said_when_nothing_but_failures_comes(tmp_path: Path, width: int) -> None:
    writer = Writer(tmp_path)
    writer.fail(0, 1000, "too busy")
    writer.pulse(30_000)
    text = shown(follow(writer), width)
    assert "✕ 1 failed  most often HTTP 503: too busy" in text
    assert "\n\n\n" not in text.rstrip().rpartition("\n")[0].rstrip()


def test_when_an_answer_ended_stands_apart_from_the_answer(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.answer(0, 2000)
    writer.pulse(2019.7)
    view = {**follow(writer), "elapsed_s": 2.0197}
    assert "19.7\u202fms ago  I." in shown(view, 120)


def test_the_last_view_of_a_run_that_has_ended_is_left_behind(
    project: Project, terminal: Terminal
) -> None:
    results = project.folder / "results"
    results.mkdir(exist_ok=True)
    writer = Writer(results)
    writer.answer(0, 2000)
    writer.die()
    looking = project.start("live", "run", stderr=terminal.slave, env={"TERM": "xterm"})
    looking.communicate(timeout=30)
    assert looking.returncode == 0
    terminal.wait_for(lambda said: b"--resume" in said.rpartition(LEFT)[2])
    left = terminal.output.rpartition(LEFT)[2].decode()
    assert "CRASHED" in left and "after 1 of 10 answers" in left


def test_who_looks_at_a_run_elsewhere_is_told_that_ctrl_c_leaves_it_alone(tmp_path: Path) -> None:
    view = follow(busy(tmp_path))
    elsewhere = live.Screen(view, 80, 40, beside_run=False).lines()[-1].plain
    assert elsewhere == "Ctrl-C ends this view; the run goes on"
    assert live.Screen(view, 80, 40).lines()[-1].plain.startswith("Ctrl-C stops the run")
