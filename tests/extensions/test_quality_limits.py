"""Grading cannot hang: every answer is graded within its limit, or stays ungraded with the reason."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import quality, sandbox
from tests.conftest import MODEL, Project, Request, ScriptedServer, streams

RULES: dict[str, Any] = {
    "exact": "42",
    "contains": ["42", {"any": ["x", "y"]}],
    "regex": "z+y",
    "numeric": 1e300,
    "choice": "E",
    "json": {"fields": {"a": 1}, "schema": {"type": "object"}},
    "fuzzy": "zzzzz",
    "code": "assert f()",
}
# Takes minutes: each pair of these objects is compared, key by key.
EXPLODING = {"schema": {"type": "array", "uniqueItems": True}}
EXPLODING_ANSWER = json.dumps([{"a": [number, {"b": number}]} for number in range(4000)])
CONFIG = st.Config(server="embedded", model="none")


def grade_all(
    work: Iterable[tuple[str, Any, str]], config: st.Config = CONFIG, **options: Any
) -> list[tuple[float | None, str, float]]:
    """Grade (grader, expected, answer) as a run does; return score, reason, and the seconds it took."""
    questions, results = {}, []
    for place, (grader, expected, answer) in enumerate(work):
        fields = {"id": f"q{place}", "question": "?", "grader": grader, "expected": expected}
        questions[f"q{place}"] = st.Question.model_validate(fields)
        results.append(st.Result(place, f"q{place}", "?", answer=answer, grader=grader))

    async def grade() -> list[tuple[float | None, str, float]]:
        graded, before = [], time.monotonic()
        async with quality.Graders(config, **options) as graders:
            async for _, score, reason in graders.grade_results(questions, results):
                now = time.monotonic()
                graded.append((score, reason, now - before))
                before = now
        return graded

    return asyncio.run(grade())


def slowness() -> float:
    """Return how much longer than its processor time something takes on this machine, as it is."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1.0, 2 * busy / (os.cpu_count() or 1))


# === The patterns of the graders themselves


SLOW_BEFORE: dict[str, tuple[str, str]] = {
    "underscores inside a word": ("exact", "a" + "_" * 20_000 + "b"),
    "underscores behind a number": ("numeric", "1" + "_" * 20_000 + "b"),
    "a list that does not end, in each of many brackets": ("json", "[" * 900 + "1," * 400_000),
    "many fences with such lists": ("json", ("```\n" + "[" * 200 + "1," * 4000 + "\n```\n") * 60),
    "many braces": ("json", '{"' * 300_000),
    "code without a fence, and no end of prose": (
        "code",
        "def f():\n  x = 1\n" * 5000 + "- so (\n" * 60,
    ),
    "combining marks without an end": ("exact", "e" + "\u0300\u0316" * 250_000),
    "a choice of nothing but fillers": ("choice", "option: " * 12_000),
    "all the options, again and again": ("choice", "A) B) C) " * 11_000),
}


@pytest.mark.parametrize("name", SLOW_BEFORE)
def test_the_own_patterns_take_linear_time(name: str) -> None:
    grader, answer = SLOW_BEFORE[name]
    start = time.process_time()
    if grader == "code":
        code = quality.GRADERS["code"]
        assert isinstance(code, quality.Code)
        code.find(answer)
    else:
        question = st.Question.model_validate(
            {"id": "q", "question": "?", "grader": grader, "expected": RULES[grader]}
        )
        assert quality.grade_answer(question, answer).score == 0.0
    assert time.process_time() - start < quality.LIMIT_S


# === Any answer

TOKENS = (  # noqa: SIM905
    "a|_|*|`|~|-|(|[|{|<|\\|$|1|,|.|/|^| |\n|\t|=|A|B)|**|```|\\text{|\\boxed{|\\frac|answer is |option |the |"
    'kann |nicht |A or |1,111|1/|[1,|{"a":1,|{"|"|def f():\n|x=(\n|½|³|minus |<b>|[a](|- |é|中|\u200b|10^|ﷺ|\ud800'
).split("|")


def texts(seed: int, count: int, chars: int) -> Iterable[str]:
    """Make hostile texts: tokens that graders look at, repeated and mixed."""
    chosen = random.Random(seed)
    for _ in range(count):
        unit = "".join(chosen.choices(TOKENS, k=chosen.choice([1, 1, 2, 3, 20])))
        head, tail = chosen.choices(TOKENS, k=2)
        yield head + unit * (chars // len(unit)) + tail


def test_any_text_of_1_mb_is_graded_within_its_limit_by_each_grader() -> None:
    answers = list(texts(seed=11, count=2, chars=1_000_000))
    work = [(grader, expected, text) for text in answers for grader, expected in RULES.items()]
    work = [entry for entry in work if entry[0] != "code"]  # it is looked for only where it may run
    graded = grade_all(work)
    slow = slowness()
    assert len(graded) == len(work)
    for (grader, _, text), (score, reason, seconds) in zip(work, graded, strict=True):
        assert seconds < slow * (quality.LIMIT_S + 2), (grader, text[:40], reason)
        assert score is not None or "took longer than 1 s" in reason, (grader, text[:40], reason)


def test_any_text_is_graded_in_this_process_without_a_fault() -> None:
    for text in texts(seed=5, count=150, chars=2000):
        for grader, expected in RULES.items():
            rule = quality.Rule(grader, expected)
            if grader != "code":
                assert quality._grade(rule, text).score is not None, (grader, text)


# === What cannot be graded


def test_an_answer_that_takes_too_long_is_ungraded_and_the_next_ones_are_graded() -> None:
    work = [
        ("exact", "yes", "yes"),
        ("json", EXPLODING, EXPLODING_ANSWER),
        ("exact", "yes", "no"),
        ("json", EXPLODING, "[1, 2]"),
    ]
    graded = grade_all(work)
    assert [score for score, _, _ in graded] == [1.0, None, 0.0, 1.0]
    assert graded[1][1] == "grading took longer than 1 s"
    assert sum(seconds for _, _, seconds in graded) < 3 * slowness()


def test_no_answer_gets_the_grade_of_another_while_processes_are_killed() -> None:
    work: list[tuple[str, Any, str]] = []
    for place in range(200):
        exploding = place in (0, 70, 71)
        right = str(place) if place % 3 else "something else"
        work.append(
            ("json", EXPLODING, EXPLODING_ANSWER) if exploding else ("exact", str(place), right)
        )
    graded = grade_all(work)
    for place, (score, reason, _) in enumerate(graded):
        if work[place][0] == "json":
            assert score is None
        else:
            assert score == (1.0 if place % 3 else 0.0), (place, reason)
            assert score or reason.startswith(f"expected {place}, found something")


def test_what_is_asked_while_the_process_starts_is_asked_once() -> None:
    async def grade() -> list[Any]:
        worker = quality.Worker()
        first = asyncio.create_task(worker.ask(quality.Rule("exact", "a"), "a"))
        while worker._process is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        later = [
            asyncio.create_task(worker.ask(quality.Rule("exact", str(place)), "3"))
            for place in range(6)
        ]
        said = await asyncio.gather(first, *later)
        await worker.close()
        return [score for score, _ in said]

    assert asyncio.run(grade()) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("expected", "answer", "reason"),
    [
        (
            {"schema": {"$ref": "#/$defs/none"}},
            "{}",
            "the schema's $ref /$defs/none leads nowhere",
        ),
        (
            {"schema": {"pattern": "^(a|aa)+$"}},
            json.dumps("a" * 5000 + "!"),
            "the pattern took longer than 0.8 s on this answer; make it simpler",
        ),
        (
            {"schema": {"patternProperties": {"^(a+)+$": {}}}},
            json.dumps({"a" * 40 + "!": 1}),
            "grading took longer than 1 s",
        ),
        ({"schema": {"$ref": "#"}}, "{}", "the schema and this answer are nested too deeply"),
    ],
)
def test_a_json_grader_that_cannot_work_is_ungraded_and_never_0(
    expected: Any, answer: str, reason: str
) -> None:
    assert grade_all([("json", expected, answer)])[0][:2] == (None, reason)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to kill with")
def test_a_process_that_dies_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def grade() -> list[Any]:
        worker = quality.Worker()
        rule = quality.Rule("json", EXPLODING)
        asked = [
            asyncio.create_task(worker.ask(rule, text))
            for text in ("[1]", EXPLODING_ANSWER, "[2, 2]")
        ]
        await asked[0]
        assert worker._process is not None
        worker._process.send_signal(signal.SIGSEGV)
        said = await asyncio.gather(*asked, return_exceptions=True)
        await worker.close()
        return said

    first, second, third = asyncio.run(grade())
    assert first == [1.0, "as expected"]
    assert str(second) == "the grader crashed on this answer (SIGSEGV)"
    assert third[0] == 0.0


def test_an_answer_that_needs_too_much_memory_is_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(_rule: quality.Rule, _answer: str) -> quality.Grade:
        raise MemoryError

    monkeypatch.setattr(quality.GRADERS["exact"], "grade", hungry)
    graded = quality._grade(quality.Rule("exact", "a"), "a")
    assert graded == (None, "grading this answer needs too much memory")


def test_without_its_process_answers_stay_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    score, reason, _ = grade_all([("exact", "a", "a")])[0]
    assert score is None
    assert reason.startswith("the process that grades did not start")


def test_the_process_gets_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-run")

    async def look() -> bytes:
        worker = quality.Worker()
        await worker.ask(quality.Rule("exact", "a"), "a")
        assert worker._process is not None
        environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()  # noqa: ASYNC240
        await worker.close()
        return environment

    if sys.platform == "linux":
        environment = asyncio.run(look())
        assert environment.startswith(b"PYTHONPATH=") and b"sk-secret" not in environment


# === Stopped while grading


def hanging_project(project: Project, server: ScriptedServer, count: int) -> None:
    server.behaviour = streams(EXPLODING_ANSWER)
    asked = [
        {"id": f"q{place}", "question": f"{place}?", "grader": "json", "expected": EXPLODING}
        for place in range(count)
    ]
    project.write("questions.json", json.dumps(asked))
    project.configure(server=server.url, questions=count, concurrent=8)


def graders_of(parent: int) -> list[int]:
    """Return the processes that grade for another one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(words[1]) == parent and quality.__file__.encode() in command:
            found.append(int(folder.name))
    return found


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 10 * slowness()
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_grading(project: Project) -> None:
    journal = project.folder / "results" / "run.journal"
    deadline = time.monotonic() + 60 * slowness()
    while time.monotonic() < deadline:
        if journal.exists() and b'"grade"' in journal.read_bytes():
            return
        time.sleep(0.02)
    raise AssertionError("no answer was graded")


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")
def test_a_signal_while_grading_ends_the_run_within_a_second_and_resume_grades_the_rest(
    project: Project, server: ScriptedServer
) -> None:
    hanging_project(project, server, 12)
    process = project.start("run")
    wait_for_grading(project)
    grading = graders_of(process.pid)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, err = process.communicate(timeout=30)
    took = time.monotonic() - start
    assert process.returncode == 143, err
    assert took < 1.5 * slowness()
    results = project.results()["results"]
    reasons = [entry["grade_reason"] for entry in results]
    assert "grading took longer than 1 s" in reasons and None in reasons
    assert not any(entry["graded"] for entry in results)
    wait_until_gone(grading)
    # The rest is graded, and what could not be graded is not tried again.
    easy = [
        {"id": f"q{place}", "question": f"{place}?", "grader": "json", "expected": EXPLODING}
        for place in range(12)
    ]
    project.write("questions.json", json.dumps(easy))
    before = sum(reason is not None for reason in reasons)
    process = project.start("run", "--resume")
    deadline = time.monotonic() + 60 * slowness()
    journal = project.folder / "results" / "run.journal"
    while journal.read_bytes().count(b'"kind":"grade"') <= before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grading = graders_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    graded = [
        json.loads(b"{" + line.partition(b",")[2])["content"]["index"]
        for line in journal.read_bytes().splitlines()
        if b'"kind":"grade"' in line
    ]
    assert len(graded) == len(set(graded)) > before
    wait_until_gone(grading)


def test_rules_go_on_for_a_moment_after_a_stop_and_nothing_is_asked_or_run_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality, "HURRY_S", 30.0)  # however busy the machine is
    work = [("exact", "a", "a")] * 20 + [("code", "assert True", "x = 1")] * 5
    graded = grade_all(work, hurry=lambda: True, allow_code=True)
    assert [score for score, _, _ in graded] == [1.0] * 20
    monkeypatch.setattr(quality, "HURRY_S", 0.0)
    assert len(grade_all(work[:20], hurry=lambda: True)) < 20


def test_code_that_runs_is_ended_by_a_stop() -> None:
    start = time.monotonic()
    hurry = {"at": start + 0.5}
    graded = grade_all(
        [("code", "assert True", "while True: pass")] * 4,
        hurry=lambda: time.monotonic() > hurry["at"],
        allow_code=True,
    )
    assert graded == []
    assert time.monotonic() - start < 2 * slowness()


def test_a_judge_that_is_being_asked_is_left_by_a_stop(server: ScriptedServer) -> None:
    asked = threading.Event()

    async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(60)

    server.behaviour = hang
    judge = {"server": server.url, "model": MODEL}
    config = st.Config.model_validate({"server": server.url, "model": MODEL, "judge": judge})
    graded = grade_all(
        [("judge", "kind", "a"), ("semantic", "kind", "b")], hurry=asked.is_set, config=config
    )
    assert graded == [], "they stay ungraded without a reason, so that --resume grades them"


def test_a_sandbox_that_cannot_start_leaves_the_answer_ungraded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    started = sandbox.Confined.__enter__

    def enter(child: sandbox.Confined) -> sandbox.Confined:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(broken))
            return started(child)

    monkeypatch.setattr(sandbox.Confined, "__enter__", enter)
    graded = grade_all([("code", "assert True", "x = 1")], allow_code=True)
    assert graded[0][:2] == (None, "the sandbox could not start (it ended)")


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")
def test_grade_ends_within_a_second_of_a_signal(project: Project, server: ScriptedServer) -> None:
    hanging_project(project, server, 6)
    easy = [{"id": f"q{place}", "question": f"{place}?"} for place in range(6)]
    project.write("easy.json", json.dumps(easy))
    finished = project.run("run", "-q", "easy.json")
    assert finished.code in (0, 1), finished.err
    process = project.start("grade", "run")
    deadline = time.monotonic() + 60 * slowness()
    while not (grading := graders_of(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - start < 1.5 * slowness()
    assert process.returncode == 130
    assert not list((project.folder / "results").glob("run_graded*"))
    wait_until_gone(grading)


# === Reasons


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_secret_is_taken_out_of_a_reason_before_it_is_cut(place: int) -> None:
    key = "sk-proj-8dF3kLmN0pQrStUvWxYz"
    redact = st.Redactor([key])
    _, reason, _ = grade_all([("exact", "no", "x" * place + key)], redact=redact)[0]
    assert "8dF3" not in reason and "sk-proj-8" not in reason
    assert reason.startswith("expected no, found ") and len(reason) <= quality.REASON_CHARS
