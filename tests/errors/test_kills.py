"""A run is killed in each of its phases; what had ended is kept, and --resume ends in a complete file.

`LLM_STRESSTEST_KILLS=200 pytest tests/errors/test_kills.py -s` kills more often, and prints a table;
`LLM_STRESSTEST_SEED=1000` kills at other moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import llm_stresstest as st
from tests.conftest import ROOT, Project, Request, ScriptedServer, streams

KILLS = int(os.environ.get("LLM_STRESSTEST_KILLS", "11"))
SEED = int(os.environ.get("LLM_STRESSTEST_SEED", "0"))
AT_ONCE = 3
ASKED = 24
LATE_S = 1.0  # an answer that ended so long before is on the disk

# A phase -> what is changed in the program, so that it is slow there and says when it is there.
PHASES = {
    "import": "",
    "connect": "before('test_connection', is_async=True)",
    "load": "",
    "footer": "slow_append('footer')",
    "grade": "slow_append('grade')",
    "aggregate": "before('calculate_aggregates')",
    "write": "before('_add', st.ResultsFile)",
    "link": "before('put_in_place', st.ResultsFile)",
    "folder": "before('_sync_folder')",
    "remove": "before('remove', st.Journal)",
    "show": "before('show')",
}
DRIVER = """
import os, sys, time, llm_stresstest as st
def arrive():
    open('arrived', 'w').close()
    time.sleep(float(os.environ['SLOW_S']))
def before(name, owner=st, is_async=False):
    original = getattr(owner, name)
    async def waits(*arguments, **options):
        arrive()
        return await original(*arguments, **options)
    def slow(*arguments, **options):
        arrive()
        return original(*arguments, **options)
    setattr(owner, name, waits if is_async else slow)
def slow_append(wanted):
    original = st.Journal.append
    def append(journal, kind, content):
        if kind == wanted: arrive()
        original(journal, kind, content)
        if kind == wanted: arrive()
    st.Journal.append = append
"""


@dataclass
class Kill:
    """A run that is killed in a phase, and what was asked, answered and kept."""

    project: Project
    phase: str
    chance: random.Random
    asked: list[str] = field(default_factory=list)
    ended_s: dict[str, float] = field(default_factory=dict)
    how: str = ""
    killed_s: float = 0.0

    def __post_init__(self) -> None:
        name = self.project.folder.name
        self.questions = [f"{name}-{place}?" for place in range(ASKED)]
        catalogue = [
            {"question": text, "grader": "exact", "expected": f"You said {text}"}
            for text in self.questions
        ]
        self.project.write("questions.json", json.dumps(catalogue))

    def answers(self) -> dict[str, str]:
        """Return the answers that are kept."""
        folder = self.project.folder / "results"
        if (folder / "run.json").exists():
            results = st.load_results(folder / "run.json").results
        elif (folder / "run.journal").exists():
            results = list(st.JournalReader(folder / "run.journal"))
        else:
            results = []
        return {result.question: result.answer for result in results if result.ok}

    def start(self) -> subprocess.Popen[str]:
        slow_s = str(self.chance.uniform(0.05, 0.3))
        run = "sys.exit(st.cli(['run', '--quiet']))"
        command = [sys.executable, "-c", f"{DRIVER}\n{PHASES[self.phase]}\n{run}"]
        if self.phase == "import":
            command = [sys.executable, str(ROOT / "llm_stresstest.py"), "run", "--quiet"]
        return subprocess.Popen(
            command, cwd=self.project.folder, env={**os.environ, "PYTHONPATH": str(ROOT), "SLOW_S": slow_s},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def happen(self) -> None:
        """Start the run, wait for the phase, and kill it at some moment in it."""
        process = self.start()
        arrived = self.project.folder / "arrived"
        while self.phase != "import" and process.poll() is None:
            if arrived.exists() or (self.phase == "load" and self.ended_s):
                break
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0.0, {"import": 1.0, "load": 3.0}.get(self.phase, 0.5)))
        signals = self.chance.choice(
            [[signal.SIGKILL], [signal.SIGKILL], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]]
        )
        self.how = "+".join(signum.name for signum in signals)
        self.killed_s = time.monotonic()
        for signum in signals:
            process.send_signal(signum)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
        # Before its first line a script is Python's own, which says it in its own way.
        before_ours = err.count("File ") == 1 and "line 0, in <module>" in err
        assert "Traceback" not in err or before_ours, (self.phase, self.how, err)
        # 1: it ended before, on a machine too busy for a verdict.
        assert process.returncode in (0, 1, -9, 130, 143, -2, -15), (process.returncode, err)

    def check(self) -> None:
        """Whether what had ended is kept, and the run ends in a complete file with --resume."""
        kept, before = self.answers(), len(self.asked)
        for text, moment_s in self.ended_s.items():
            if moment_s < self.killed_s - LATE_S:
                assert kept.get(text) == f"You said {text}", (self.phase, self.how, text)
        folder = self.project.folder / "results"
        resumable = (folder / "run.journal").exists() or (folder / "run.json").exists()
        finished = self.project.run("run", "--quiet", *(["--resume"] if resumable else []))
        assert finished.code in (0, 1), (self.phase, self.how, finished)
        again = self.asked[before:]
        assert sorted(again) == sorted(set(self.questions) - set(kept)), (self.phase, self.how)
        data = self.project.results()  # verifies it too
        assert data["meta"]["status"] == "complete"
        assert [entry["question"] for entry in data["results"]] == self.questions
        assert all(entry["answer"] == f"You said {entry['question']}" for entry in data["results"])
        assert all(entry["graded"] and entry["quality"] == 1.0 for entry in data["results"])
        assert [path.name for path in folder.iterdir()] == ["run.json"], (self.phase, self.how)


def test_a_run_that_is_killed_in_any_phase_keeps_what_had_ended_and_can_be_gone_on_with(
    tmp_path: Path, server: ScriptedServer
) -> None:
    kills: dict[str, Kill] = {}
    pause_s = 0.1

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        kill = kills[request.question.partition("-")[0]]
        kill.asked.append(request.question)
        await streams("You said ", request.question, pause_s=pause_s)(request, writer)
        kill.ended_s[request.question] = time.monotonic()

    server.behaviour = behave
    for number in range(KILLS):
        folder = tmp_path / f"k{number}"
        folder.mkdir()
        project = Project(folder)
        project.configure(server=server.url, concurrent=4, questions=ASKED)
        phase = list(PHASES)[number % len(PHASES)]
        kills[folder.name] = Kill(project, phase, random.Random(SEED + number))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(Kill.happen, kills.values()))
    pause_s = 0.0
    for kill in kills.values():
        kill.check()
    if len(PHASES) < KILLS:
        print(Counter((kill.phase, kill.how) for kill in kills.values()))  # noqa: T201
