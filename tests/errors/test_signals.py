"""A signal stops the program at any moment, in order; the second one at once, with the journal intact."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    ROOT,
    Project,
    Request,
    ScriptedServer,
    sends,
    streams,
    wait_until,
    whole,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SOON_S = 3.0  # on a busy machine; it takes far less
each_signal = pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)


def drive(project: Project, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the program in a process of its own, with something changed before."""
    lines = ["import os, signal, sys, time, llm_stresstest as st", code, f"sys.exit(st.cli({list(arguments)!r}))"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=project.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path) -> None:
    until_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until_s, f"{path} never came"
        time.sleep(0.01)


@each_signal
@pytest.mark.parametrize("package", ["aiohttp", "pydantic"])
def test_a_signal_while_packages_are_imported_is_one_line(
    project: Project, tmp_path: Path, signum: signal.Signals, package: str
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    marker = tmp_path / "importing"
    (slow / f"{package}.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nimport time\ntime.sleep(30)"
    )
    process = project.start("run", env={"PYTHONPATH": str(slow)})
    wait_for(marker)
    process.send_signal(signum)
    begun = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < SOON_S
    assert process.returncode == 128 + signum
    assert err == f"llm_stresstest: stopped by {signum.name}\n"


def test_a_job_that_ignores_a_signal_ignores_it_during_the_imports_too(project: Project) -> None:
    process = project.start(
        "run", "--quiet", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    for _ in range(10):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    process.communicate(timeout=60)
    assert process.returncode == 0


@each_signal
@pytest.mark.parametrize("method", ["GET", "POST"], ids=["list of models", "first answer"])
def test_a_signal_while_connecting_is_one_line(
    project: Project, server: ScriptedServer, signum: signal.Signals, method: str
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method == method:
            await asyncio.sleep(60)
        writer.write(whole(b"", "404 No list", "text/plain"))

    server.passes_test, server.behaviour = False, behave
    process = project.start("run", "--quiet")
    wait_until(lambda: any(each.method == method for each in list(server.requests)), process)
    process.send_signal(signum)
    begun = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < SOON_S
    assert process.returncode == 128 + signum
    assert err == f"llm_stresstest: stopped by {signum.name} before the first question\n"
    assert not [name for name in project.files if name.startswith("results/")]


def test_a_signal_while_a_huge_schedule_runs_stops_it_and_little_memory_is_used(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, rate=10_000, duration=86_400, concurrent=4)
    process = project.start("run", "--quiet")
    journal = project.folder / "results" / "run.journal"
    wait_until(
        lambda: journal.exists() and journal.read_bytes().count(b'"kind":"result"') >= 4, process
    )
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < SOON_S + 5
    assert process.returncode == 143, err
    assert peak_mb < 500
    assert project.results()["meta"]["status"] == "interrupted"


@each_signal
def test_a_signal_while_it_grades_saves_what_is_graded_and_the_rest_can_be_graded(
    project: Project, server: ScriptedServer, signum: signal.Signals
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if "Rubric" in request.body.decode():
            await asyncio.sleep(60 if hangs else 0)
            await streams('{"score": 1, "reason": "good"}')(request, writer)
        else:
            await streams("An answer")(request, writer)

    hangs = True
    server.behaviour = behave
    judge = {"server": server.url, "model": "test-model"}
    project.configure(server=server.url, judge=judge, questions=4)
    questions = [{"question": f"{n}?", "grader": "judge", "expected": "Rubric"} for n in range(3)]
    project.write("questions.json", json.dumps([*questions, {"question": "x", "grader": "exact", "expected": "An answer"}]))  # fmt: skip
    process = project.start("run", "--quiet")
    wait_until(lambda: any(b"Rubric" in each.body for each in list(server.requests)), process)
    process.send_signal(signum)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < SOON_S
    assert process.returncode == 128 + signum, err
    data = project.results()
    assert data["meta"]["status"] == "interrupted" and data["aggregate"]["ok"] == 4
    hangs = False
    asked = sum(request.question.endswith("?") for request in server.requests)
    finished = project.run("run", "--resume")
    assert finished.code in (0, 1), finished.err
    assert sum(request.question.endswith("?") for request in server.requests) == asked
    assert project.results()["meta"]["status"] == "complete"
    assert project.results()["results"][3]["quality"] == 1.0


@each_signal
def test_a_signal_while_it_saves_lets_it_save(project: Project, signum: signal.Signals) -> None:
    code = (
        "write = st.ResultsFile.write\n"
        "def slowly(*arguments):\n"
        f"    os.kill(os.getpid(), {int(signum)})\n"
        "    write(*arguments)\n"
        "st.ResultsFile.write = slowly"
    )
    process = drive(project, code, "run", "--quiet")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert project.results()["meta"]["status"] == "complete"
    assert [name for name in project.files if name.startswith("results/")] == ["results/run.json"]


@pytest.mark.parametrize("where", ["calculate_aggregates", "save_results"])
def test_a_second_signal_while_it_computes_or_saves_ends_at_once_and_the_journal_has_all(
    project: Project, server: ScriptedServer, where: str
) -> None:
    marker = project.folder / "now"
    code = (
        "def busy(*_arguments, **_options):\n"
        f"    open({str(marker)!r}, 'w').close()\n"
        "    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end: pass\n"
        f"st.{where} = busy"
    )
    process = drive(project, code, "run", "--quiet")
    wait_for(marker)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first one lets it save"
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < SOON_S
    assert process.returncode == 130 and "Traceback" not in err
    asked = len(server.requests)
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    assert len(server.requests) == asked
    assert project.results()["aggregate"]["ok"] == 4


def test_a_tool_is_interrupted_in_one_line(project: Project) -> None:
    code = (
        "def busy(*_arguments, **_options):\n"
        "    open('now', 'w').close()\n"
        "    time.sleep(60)\n"
        "st.find_results = busy"
    )
    process = drive(project, code, "verify", "run")
    wait_for(project.folder / "now")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == "llm_stresstest: stopped by SIGINT\n"


async def test_a_run_in_another_thread_than_the_main_one_catches_no_signals() -> None:
    async def enter() -> int | None:
        with st.StopSignal.caught() as stop_signal:
            return stop_signal.signum

    assert await asyncio.to_thread(asyncio.run, enter()) is None


async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


LOADING = sends(whole(b"loading", "503 Loading", "text/plain"))
BUSY = sends(whole(b"busy", "429 Slow", "text/plain", "Retry-After: 600"))
SLOW = streams("a", "b", pause_s=0.2)
WATTS = {"sample_s": 0.1, "idle_s": 600, "power_command": "echo 80"}
# What a run waits for -> its config, how the server behaves, and whether something was measured.
WAITS: dict[str, tuple[dict[str, Any], Any, bool]] = {
    "a server that is loading": ({"startup_timeout": 600}, LOADING, False),
    "the watts of the idle machine": ({"hardware": WATTS}, None, False),
    "the first answer": ({"timeout": 600}, hang, True),
    "the next stage": ({"concurrent": [1, 2], "cooldown": 600}, None, True),
    "the next slot of a ramp": ({"concurrent": 4, "ramp_up": 6000, "questions": 100}, SLOW, True),
    "the next request of an open loop": ({"rate": 0.001, "arrival": "constant"}, None, True),
    "a server that asks for patience": ({"abort_if": None, "questions": 100}, BUSY, True),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_signal_ends_a_run_soon_whatever_it_waits_for(
    project: Project, server: ScriptedServer, name: str
) -> None:
    config, behaviour, measured = WAITS[name]
    server.behaviour = behaviour or server.behaviour
    server.passes_test = behaviour is not LOADING
    project.configure(server=server.url, **config)
    process = project.start("run", "--quiet")
    until_s = time.monotonic() + 60
    while not (server.requests if measured else list(project.folder.glob("logs/*"))):
        assert time.monotonic() < until_s and process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(1.0)  # however far it gets: it waits there
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < SOON_S
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert (project.folder / "results" / "run.json").exists() == measured
    if measured:
        assert project.results()["meta"]["status"] == "interrupted"


@pytest.mark.skipif(os.name == "nt", reason="processes of POSIX")
def test_a_run_whose_parent_is_killed_goes_on_to_its_end(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = streams("Hello", " world", pause_s=0.5)
    project.configure(server=server.url, concurrent=1, questions=4)
    program = [sys.executable, str(ROOT / "llm_stresstest.py"), "run"]
    # As `uv run` does: it waits for its child, and passes its own streams on.
    code = f"import subprocess; print(subprocess.Popen({program!r}).pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project.folder, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdin and parent.stdout and parent.stderr
    child = int(parent.stdout.readline())
    wait_until(lambda: server.requests, parent)
    parent.kill()
    parent.wait()
    for stream in (parent.stdin, parent.stdout, parent.stderr):  # nobody reads what it says
        stream.close()
    until_s = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    data = project.results()
    assert data["meta"]["status"] == "complete" and data["aggregate"]["ok"] == 4
    assert [name for name in project.files if name.startswith("results/")] == ["results/run.json"]
