"""A finished answer is not lost, whatever ends the run; and what was lost is asked again, nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    Behaviour,
    Finished,
    Project,
    Request,
    ScriptedServer,
    streams,
    wait_until,
    whole,
)

LATE_S = 1.0  # an answer that ended so long before the end of the run is on the disk
TIMES = {"time", "sent_ms", "scheduled_ms", "ttft_ms", "answer_ttft_ms", "tpot_ms", "chunk_ms", "connect_ms", "end_ms", "queue_ms", "reconnects", "chunks", "client_error_ms", "merged_chunks", "held_ms"}  # fmt: skip


def timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of `results` without what differs from run to run."""
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]


def echo(request: Request, pause_s: float = 0.0) -> Behaviour:
    """Return a behaviour that answers a question with its own text."""
    return streams("You said ", request.question, pause_s=pause_s)


@dataclass
class Witness:
    """A server that remembers when it finished sending each answer."""

    server: ScriptedServer
    pause_s: float = 0.03
    finished_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server.behaviour = self.answer

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        await echo(request, self.pause_s)(request, writer)
        self.finished_s[request.question] = time.monotonic()

    def has_seen(self, name: str) -> bool:
        return any(question.startswith(name) for question in list(self.finished_s))


@dataclass
class Kill:
    """A run that was killed: when, and what the journal had then."""

    project: Project
    questions: list[str]
    killed_s: float
    code: int

    @property
    def journal(self) -> Path:
        return self.project.folder / "results" / "run.journal"

    @property
    def kept(self) -> dict[str, str]:
        """The answers that can be recovered."""
        if not self.journal.exists():
            return {}
        return {
            result.question: result.answer for result in st.JournalReader(self.journal) if result.ok
        }


def kill_a_run(folder: Path, witness: Witness, chance: random.Random, count: int) -> Kill:
    """Start a run, kill it at a random moment, and return what is left."""
    project = Project(folder)
    questions = [f"{folder.name}-{place}?" for place in range(count)]
    project.configure(server=witness.server.url, concurrent=4, questions=count)
    project.write("questions.json", json.dumps(questions))
    early = chance.random() < 0.25
    process = project.start("run", "--quiet")
    while not early and not witness.has_seen(f"{folder.name}-") and process.poll() is None:
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 2.2))
    moment = time.monotonic()
    process.kill()
    process.communicate()
    return Kill(project, questions, moment, process.returncode)


def is_recovered(kill: Kill, witness: Witness) -> bool:
    """Whether every answer that ended long enough before the kill can be read back as it was."""
    done = kill.project.folder / "results" / "run.json"
    kept = kill.kept
    if done.exists():
        kept |= {entry["question"]: entry["answer"] for entry in kill.project.results()["results"]}
    early = [
        text
        for text in kill.questions
        if witness.finished_s.get(text, kill.killed_s) < kill.killed_s - LATE_S
    ]
    return all(kept.get(text) == f"You said {text}" for text in early)


def is_completed(kill: Kill, witness: Witness) -> bool:
    """Whether --resume asks what is missing, nothing else, and the file is that of an unbroken run."""
    if not kill.journal.exists():
        return True
    kept, asked_before = kill.kept, len(witness.server.requests)
    finished = kill.project.run("run", "--resume", "--quiet")
    validity = kill.project.results()["meta"]["validity"]
    assert finished.code == (1 if validity["verdict"] == "INVALID" else 0), finished.err
    codes = {reason["code"] for reason in validity["reasons"]}
    saturated = codes & {"client_saturated", "client_starved"}  # it shares its process
    assert saturated or validity["verdict"] != "INVALID"
    asked = sorted(request.question for request in witness.server.requests[asked_before:])
    data = kill.project.results()
    assert asked == sorted(set(kill.questions) - set(kept))
    assert [entry["question"] for entry in data["results"]] == kill.questions
    assert [entry["answer"] for entry in data["results"]] == [
        f"You said {text}" for text in kill.questions
    ]
    assert data["meta"]["status"] == "complete" and data["aggregate"]["ok"] == len(kill.questions)
    assert [path.name for path in (kill.project.folder / "results").iterdir()] == ["run.json"]
    return True


def kill_many(
    base: Path, witness: Witness, times: int, *, seed: int, count: int = 160, at_once: int = 4
) -> list[Kill]:
    """Kill so many runs, some at once, and look at what each left."""

    def one(number: int) -> Kill:
        folder = base / f"k{number}"
        folder.mkdir()
        return kill_a_run(folder, witness, random.Random(f"{seed}/{number}"), count)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(times)))


def test_each_answer_that_ended_a_second_before_a_kill_is_recovered_and_only_the_others_are_asked_again(
    tmp_path: Path, server: ScriptedServer
) -> None:
    witness = Witness(server)
    kills = kill_many(tmp_path, witness, 12, seed=1)
    witness.pause_s = 0.0
    assert [kill.code for kill in kills] == [-signal.SIGKILL] * 12
    assert sum(len(kill.kept) for kill in kills) > 100, "the kills came too early to show anything"
    for kill in kills:
        assert is_recovered(kill, witness), kill
        assert is_completed(kill, witness), kill


def leave_journal(project: Project, answers: int, *arguments: str) -> Path:
    """Leave a journal behind as a run does that was killed behind so many results."""

    def stopped(*_args: Any, **_options: Any) -> Any:
        raise st.ResultsError("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "save_results", stopped)
        assert project.run("run", *arguments).code == 4
    path = project.folder / "results" / "run.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: answers + 1]))
    assert len(st.JournalReader(path)) == answers
    return path


@pytest.fixture
def echoing(server: ScriptedServer) -> ScriptedServer:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await echo(request)(request, writer)

    server.behaviour = behave
    return server


@pytest.mark.parametrize("config", [{}, {"concurrent": [1, 2]}, {"warmup": 1}, {"stream": True, "record_chunk_times": False}], ids=["plain", "sweep", "warmup", "histogram"])  # fmt: skip
@pytest.mark.parametrize("answers", [0, 1, 3])
def test_a_resumed_run_ends_in_the_file_of_an_unbroken_one(
    project: Project, echoing: ScriptedServer, config: dict[str, Any], answers: int
) -> None:
    project.configure(server=echoing.url, **{"concurrent": 1, **config})
    assert project.run("unbroken").code == 0
    # A sweep looks for a prompt cache first, with marked questions.
    asked = sum(not request.question.startswith("[") for request in echoing.requests)
    leave_journal(project, answers)
    before = len(echoing.requests)
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    assert len(echoing.requests) - before == asked - answers, "the warm-up is asked each time"
    whole_run, resumed = project.results("unbroken"), project.results("run")
    assert timeless(resumed["results"]) == timeless(whole_run["results"])
    assert resumed.keys() == whole_run.keys() and resumed["meta"].keys() == whole_run["meta"].keys()
    assert resumed["aggregate"].keys() | {"itl_histogram_us"} == whole_run["aggregate"].keys() | {
        "itl_histogram_us"
    }
    counts = ("requests", "ok", "failed", "token_sum", "error_rate", "finish_reasons")
    assert [resumed["aggregate"][key] for key in counts] == [
        whole_run["aggregate"][key] for key in counts
    ]


def test_a_conversation_that_was_cut_between_two_turns_is_held_again(
    project: Project, echoing: ScriptedServer
) -> None:
    project.write(
        "questions.json", json.dumps([{"turns": ["First?", "Second?", "Third?"]}, "Other?"])
    )
    project.configure(server=echoing.url, questions=2, concurrent=1)
    project.run("unbroken")
    leave_journal(project, 2)
    before = len(echoing.requests)
    assert project.run("run", "--resume").code == 0
    assert [request.question for request in echoing.requests[before:]] == [
        "First?",
        "Second?",
        "Third?",
        "Other?",
    ]
    assert timeless(project.results("run")["results"]) == timeless(
        project.results("unbroken")["results"]
    )


def test_a_failed_question_is_finished_too_and_not_asked_again(
    project: Project, server: ScriptedServer
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        failed = whole(b"no", "500 Oops", "text/plain")
        writer.write(failed) if request.question == "One?" else await echo(request)(request, writer)

    server.behaviour = behave
    project.configure(server=server.url, concurrent=1, questions=3)
    leave_journal(project, 2)
    before = len(server.requests)
    project.run("run", "--resume")
    assert [request.question for request in server.requests[before:]] == ["Three?"]
    assert [entry["status"] for entry in project.results()["results"]] == ["error", "ok", "ok"]


def test_a_damaged_journal_says_what_it_lost_when_the_run_goes_on(
    project: Project, echoing: ScriptedServer
) -> None:
    project.configure(server=echoing.url, concurrent=1)
    path = leave_journal(project, 3)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    lost = len(data) - 10 - data[:-1].rindex(b"\n") - 1
    finished = project.run("run", "--resume")
    assert finished.code == 0
    assert f"{lost} bytes are damaged and left out; 2 answers are kept" in finished.err
    assert len(project.results()["results"]) == 4 and not path.exists()


def test_a_run_that_ends_between_its_file_and_its_journal_leaves_one_result(
    project: Project, echoing: ScriptedServer
) -> None:
    leave_journal(project, 4)
    (project.folder / "results" / "kept").write_bytes(
        (project.folder / "results" / "run.journal").read_bytes()
    )
    project.run("run", "--resume")
    first = project.results()
    (project.folder / "results" / "kept").rename(project.folder / "results" / "run.journal")
    asked = len(echoing.requests)
    assert project.run("run", "--resume").code == 0
    assert len(echoing.requests) == asked
    assert [path.name for path in (project.folder / "results").iterdir()] == ["run.json"]
    assert timeless(project.results()["results"]) == timeless(first["results"])


def test_what_a_kill_left_of_the_results_file_is_removed_by_the_run_that_goes_on(
    project: Project, echoing: ScriptedServer
) -> None:
    leave_journal(project, 4)
    for name in (".run.json.123.tmp", ".run.json.4567890.tmp", ".other.json.123.tmp"):
        (project.folder / "results" / name).write_text("half")
    assert project.run("run", "--resume").code == 0
    assert project.files[-2:] == ["results/.other.json.123.tmp", "results/run.json"]


def test_the_journal_stays_locked_until_the_results_are_saved(
    project: Project, echoing: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()
    original = st.save_results

    def save(*args: Any, **options: Any) -> Path:
        with st.FileLock(project.folder / "results" / "run.journal") as lock:
            seen.append(not lock.held)
        return original(*args, **options)

    monkeypatch.setattr(st, "save_results", save)
    assert project.run("run").code == 0
    assert seen == [True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "other questions"),
        (("--set", "temperature=1"), "another config (temperature)"),
        (("--set", "max_tokens=9", "--set", "seed=1"), "another config (max_tokens, seed)"),
    ],
)
def test_resuming_with_other_questions_or_another_config_is_refused_and_changes_nothing(
    project: Project, echoing: ScriptedServer, arguments: tuple[str, ...], said: str
) -> None:
    path = leave_journal(project, 2)
    before = path.read_bytes()
    project.write("questions.json", '["One?", "Two?", "Other?"]')
    asked = len(echoing.requests)
    finished = project.run("run", "--resume", *arguments)
    assert (finished.code, finished.err.count("\n")) == (2, 1) and said in finished.err, (
        finished.err
    )
    assert path.read_bytes() == before and len(echoing.requests) == asked
    assert not (project.folder / "results" / "run.json").exists()


def test_resume_keeps_the_config_that_the_run_began_with_and_says_what_differs(
    project: Project, echoing: ScriptedServer
) -> None:
    project.configure(server=echoing.url)
    leave_journal(project, 2, "--set", "max_tokens=9")
    project.configure(server=echoing.url, temperature=1)
    finished = project.run("run", "--resume")
    assert finished.code == 0
    assert (
        finished.err
        == "config.json differs (temperature); the run keeps the config it began with\n"
    )
    config = project.results()["meta"]["config"]
    assert (config["max_tokens"], config["temperature"]) == (9, 0)


def test_resuming_a_finished_run_says_that_nothing_is_left_and_asks_nothing(
    project: Project, echoing: ScriptedServer
) -> None:
    assert project.run("run").code == 0
    asked, before = len(echoing.requests), (project.folder / "results" / "run.json").read_bytes()
    finished = project.run("run", "--resume")
    assert (finished.code, finished.err.count("\n")) == (0, 1)
    assert "nothing left to do" in finished.err
    assert len(echoing.requests) == asked
    assert (project.folder / "results" / "run.json").read_bytes() == before


def test_the_journal_of_a_crashed_run_is_named_by_the_next_run_and_kept(
    project: Project, echoing: ScriptedServer
) -> None:
    path = leave_journal(project, 2)
    before = path.read_bytes()
    finished = project.run("run")
    assert finished.code == 0
    assert "run.journal holds an unfinished run" in finished.err and "--resume" in finished.err
    assert path.read_bytes() == before
    assert len(list((project.folder / "results").glob("run_*.json"))) == 1


def test_the_journal_of_a_crashed_run_is_named_by_verify(
    project: Project, echoing: ScriptedServer
) -> None:
    leave_journal(project, 2)
    finished = project.run("verify", "run")
    assert finished.code == 2 and finished.err.count("\n") == 1
    assert "run.journal holds an unfinished run" in finished.err and "--resume" in finished.err


def test_two_runs_of_one_name_never_mix(project: Project, server: ScriptedServer) -> None:
    witness = Witness(server, pause_s=0.4)
    first = project.start("run", "--set", "questions=6")
    try:
        wait_until(lambda: server.requests, first)
        path = project.folder / "results" / "run.journal"
        resumed = project.run("run", "--resume")
        assert resumed.code == 2 and "in progress" in resumed.err
        witness.pause_s = 0.0
        for option in ([], ["--overwrite"]):
            second = project.run("run", *option)
            assert second.code == 0
            assert "in progress" in second.err and "delete" not in second.err, (
                "it must not be told to delete it"
            )
        assert path.exists() and first.poll() is None
        _, err = first.communicate(timeout=30)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 0, err
    assert len(project.results()["results"]) == 6
    assert sorted(len(json.loads(path.read_bytes())["results"]) for path in (project.folder / "results").glob("run_*.json")) == [4, 4]  # fmt: skip
    assert not list((project.folder / "results").glob("*.journal"))


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def run_with_signal(project: Project, server: ScriptedServer, signum: int, at: int = 5) -> Finished:
    """Run the program; the signal comes while the server answers request number `at` and the others hang."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number < at:
            await echo(request)(request, writer)
        else:
            writer.write(streams_head(request))
            await writer.drain()
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signum)
            await asyncio.sleep(30)

    server.behaviour = behave
    project.configure(server=server.url, concurrent=1, questions=12)
    return project.run("run")


def streams_head(request: Request) -> bytes:
    body = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n" + body
    )


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_saves_what_was_measured(
    project: Project, server: ScriptedServer, signum: signal.Signals
) -> None:
    begun = time.monotonic()
    finished = run_with_signal(project, server, signum)
    assert time.monotonic() - begun < 5
    assert finished.code == 128 + signum
    data = project.results()
    assert data["meta"]["status"] == "interrupted"
    assert "interrupted" in {reason["code"] for reason in data["meta"]["validity"]["reasons"]}
    by_status = [(entry["status"], entry["answer"]) for entry in data["results"]]
    assert by_status[:5] == [
        ("ok", f"You said {text}") for text in ["One?", "Two?", "Three?", "One?", "Two?"]
    ]
    assert by_status[5] == ("cancelled", "half")
    assert data["aggregate"]["ok"] == 5 and data["aggregate"]["failed"] == 0
    assert "interrupted" in finished.out


def test_a_run_that_a_signal_stopped_can_be_gone_on_with(
    project: Project, server: ScriptedServer
) -> None:
    run_with_signal(project, server, signal.SIGTERM)
    Witness(server, pause_s=0.0)
    before = len(server.requests)
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    assert len(server.requests) - before == 7
    assert [entry["status"] for entry in project.results()["results"]] == ["ok"] * 12
    assert project.results()["meta"]["status"] == "complete"
    assert [path.name for path in (project.folder / "results").iterdir()] == ["run.json"]


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_before_the_first_question_is_one_line(
    project: Project, server: ScriptedServer, signum: signal.Signals
) -> None:
    async def behave(_request: Request, _writer: asyncio.StreamWriter) -> None:
        os.kill(os.getpid(), signum)
        await asyncio.sleep(30)

    server.behaviour, server.passes_test = behave, False
    finished = project.run("run")
    assert finished.code == 128 + signum
    assert finished.err.count("\n") == 1 and signum.name in finished.err
    assert not any(name.startswith("results/") for name in project.files)


async def silent_after_five(request: Request, writer: asyncio.StreamWriter) -> None:
    if request.number < 5:
        await echo(request)(request, writer)
    else:
        await asyncio.sleep(30)


def test_a_second_signal_ends_at_once_with_the_journal_intact(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = silent_after_five
    project.configure(server=server.url, concurrent=2, questions=12)
    process = project.start("run")
    while len(server.requests) < 7:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert process.returncode in (130, 143)
    assert "Traceback" not in err
    reader = st.JournalReader(project.folder / "results" / "run.journal")
    assert reader.lost_bytes == 0
    assert [result.answer for result in reader][:5] == ["You said One?", "You said Two?", "You said Three?", "You said One?", "You said Two?"]  # fmt: skip
    Witness(server, pause_s=0.0)
    assert project.run("run", "--resume").code == 0
    assert project.results()["aggregate"]["ok"] == 12


def test_the_command_that_a_stopped_run_shows_goes_on_with_it(
    project: Project, server: ScriptedServer, tmp_path: Path
) -> None:
    server.behaviour = silent_after_five
    project.configure(server=server.url, concurrent=2, questions=12)
    elsewhere = tmp_path / "some where"
    elsewhere.mkdir()
    for name in ("config", "questions"):
        (project.folder / f"{name}.json").rename(elsewhere / f"my {name}.json")
    places = {"-c": "my config.json", "-q": "my questions.json", "--results-dir": "out", "--log-dir": "l"}  # fmt: skip
    words = [word for option, name in places.items() for word in (option, str(elsewhere / name))]
    process = project.start("./compare", *words)
    while len(server.requests) < 7:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    Witness(server, pause_s=0.0)
    command = next(line for line in out.splitlines() if line.startswith("go on"))
    words = shlex.split(command.removeprefix("go on"))
    assert words[0] == "python3"
    finished = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=project.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert len(list((elsewhere / "l").iterdir())) == 2
    assert json.loads((elsewhere / "out" / "compare.json").read_text())["aggregate"]["ok"] == 12


def test_a_job_whose_terminal_went_away_goes_on_under_nohup(
    project: Project, server: ScriptedServer
) -> None:
    Witness(server, pause_s=0.1)
    process = project.start("run", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: server.requests, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert project.results()["meta"]["status"] == "complete"


def test_a_run_whose_every_request_failed_is_written_down(
    project: Project, server: ScriptedServer
) -> None:
    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(
            whole(b'{"error": {"message": "out of memory"}}', "500 Oops", "application/json")
        )

    server.behaviour = behave
    finished = project.run("run")
    assert finished.code == 1
    data = project.results()
    assert data["meta"]["status"] == "complete" and data["meta"]["validity"]["verdict"] == "INVALID"
    names = [
        f"{what}_{how}" for what in ("runtime", "token") for how in ("sum", "avg", "min", "max")
    ]
    assert {data["aggregate"][name] for name in names} == {None}
    assert (
        data["aggregate"]["ok"],
        data["aggregate"]["failed"],
        data["aggregate"]["error_rate"],
    ) == (0, 4, 1.0)
    assert [entry["error"]["message"] for entry in data["results"]] == ["out of memory"] * 4
    assert "INVALID" in finished.out and "no request succeeded" in finished.out


def test_the_journal_is_brought_to_the_disk_within_a_second_and_not_by_the_event_loop(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    synced: list[tuple[float, bool]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "run.journal":
            synced.append((time.monotonic(), threading.current_thread() is threading.main_thread()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    Witness(server, pause_s=0.15)
    begun = time.monotonic()
    assert project.run("run", "--set", "questions=8").code == 0
    in_the_run = [moment for moment, in_loop in synced if not in_loop]
    assert len(in_the_run) >= 2
    moments = [begun, *in_the_run]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments[1:])) < 1
    assert all(in_loop is False for _, in_loop in synced[:-1]), (
        "the last one, after the load, may be anywhere"
    )
