"""Grading in a run: accuracy, accuracy under load, stability, the judge, and the tool `grade`."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

import llm_stresstest as st
from extensions import quality
from tests.conftest import MODEL, Project, Request, ScriptedServer, sends, streams, whole

CATALOGUE: list[dict[str, Any]] = [
    {
        "id": "capital",
        "category": "facts",
        "question": "Capital of France?",
        "grader": "contains",
        "expected": "Paris",
    },
    {"id": "sum", "category": "arithmetic", "question": "2+2?", "grader": "numeric", "expected": 4},
    {"id": "free", "category": "chat", "question": "How are you?"},
]


@pytest.fixture
def graded(project: Project, server: ScriptedServer) -> Project:
    """A project whose server knows the capital, but not the sum."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        text = {"Capital of France?": "It is **Paris**.", "2+2?": "5"}.get(request.question, "Fine")
        await streams(text)(request, writer)

    server.behaviour = behave
    project.write("questions.json", json.dumps(CATALOGUE))
    project.configure(server=server.url, questions=3)
    return project


def test_answers_are_graded_and_averaged_by_category(graded: Project) -> None:
    finished = graded.run("run")
    assert finished.code == 0, finished.err
    data = graded.results()
    by_id = {entry["id"]: entry for entry in data["results"]}
    assert (by_id["capital"]["quality"], by_id["capital"]["graded"]) == (1.0, True)
    assert (by_id["sum"]["quality"], by_id["sum"]["grade_reason"]) == (0.0, "expected 4, found 5")
    assert (by_id["free"]["quality"], by_id["free"]["graded"]) == (0.0, False)
    numbers = data["aggregate"]["quality"]
    assert (numbers["avg"], numbers["graded"], numbers["correct"]) == (0.5, 2, 1)
    assert numbers["categories"]["facts"]["of_answers"]["avg"] == 1.0
    low, high = numbers["of_answers"]["ci95"]
    assert 0 < low < 0.0945 and high == pytest.approx(1 - low), "wider than Wilson's for two trials"
    assert "50\u202f% of 2 graded answers right" in finished.out
    assert graded.run("verify", "run").code == 0


def test_a_failed_request_is_wrong_under_load_and_left_out_of_the_answers(
    graded: Project, server: ScriptedServer
) -> None:
    good = server.behaviour

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.question == "2+2?":
            writer.write(whole(b"{}", "500 Internal Server Error", "application/json"))
        else:
            await good(request, writer)

    server.behaviour = behave
    graded.run("run")
    numbers = graded.results()["aggregate"]["quality"]
    assert (numbers["of_answers"]["avg"], numbers["of_answers"]["n"]) == (1.0, 1)
    assert (numbers["under_load"]["avg"], numbers["under_load"]["n"]) == (0.5, 2)


def test_only_the_last_turn_of_a_conversation_is_graded(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = streams("Paris")
    turns = {"turns": ["Hi", "Capital?"], "grader": "exact", "expected": "paris"}
    project.write("questions.json", json.dumps([turns]))
    project.run("run", "--set", "questions=1")
    assert [entry["graded"] for entry in project.results()["results"]] == [False, True]


def test_reasoning_is_never_graded(project: Project, server: ScriptedServer) -> None:
    server.behaviour = streams("<think>Paris?", "</think>", "London")
    project.write("questions.json", json.dumps([CATALOGUE[0]]))
    project.run("run", "--set", "questions=1")
    assert project.results()["results"][0]["quality"] == 0.0


def test_a_sweep_shows_accuracy_and_stability_by_concurrency(
    graded: Project, server: ScriptedServer
) -> None:
    sums: list[Request] = []

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.question == "2+2?":
            sums.append(request)
        late = len(sums) > 2  # behind the lowest level, which is asked twice
        text = {"Capital of France?": "Paris", "2+2?": "5" if late else "4"}.get(
            request.question, "Fine"
        )
        await streams(text)(request, writer)

    server.behaviour = behave
    graded.run("run", "--set", "concurrent=[1,3]")
    data = graded.results()
    first, second = (stage["quality"] for stage in data["aggregate"]["stages"])
    assert (first["under_load"]["avg"], second["under_load"]["avg"]) == (1.0, 0.5)
    assert first["stability"] is None
    assert (second["stability"]["n"], second["stability"]["differs"]) == (3, 1)
    assert second["stability"]["examples"] == [{"id": "sum", "lowest": "4", "here": "5"}]
    wide = [line.plain for line in st.summary_lines("run", data["meta"], data["aggregate"], 140)]
    assert any(line.endswith("unlike at 1") for line in wide)
    assert any("33\u202f% (" in line for line in wide), "beyond the floor, with its interval"
    assert (second["stability"]["floor"], second["stability"]["beyond"]) == (
        0,
        pytest.approx(1 / 3),
    )
    assert second["paired"] == {"n": 2, "better": 0, "worse": 1}
    assert graded.run("verify", "run").code == 0


def test_price_and_tokens_are_given_per_correct_answer(graded: Project) -> None:
    graded.run("run", "--set", "hardware.price_per_hour=3600")
    data = graded.results()["aggregate"]
    assert data["quality"]["tokens_per_correct"] == 2
    assert data["quality"]["price_per_correct"] == pytest.approx(
        data["duration_ms"] / 1000, rel=1e-4
    )
    assert data["quality"]["wh_per_correct"] is None


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"grader": "numeric"}, "numeric needs expected"),
        ({"grader": "regex", "expected": "("}, "regex needs expected"),
        ({"grader": "json", "expected": {"schema": {"type": "nonsense"}}}, "json needs expected"),
        ({"grader": "choice", "expected": 5}, "choice needs expected"),
        ({"grader": "judge"}, "judge needs expected: a text"),
        ({"grader": "exact", "expected": "a", "tolerance": 1}, "takes no tolerance"),
    ],
)
def test_a_dry_run_finds_a_bad_grader_and_names_the_question(
    project: Project, question: dict[str, Any], says: str
) -> None:
    project.write(
        "questions.json", json.dumps([{"id": "broken-one", "question": "A?", **question}])
    )
    finished = project.run("run", "--dry-run")
    assert finished.code == 2
    assert "broken-one" in finished.err and says in finished.err
    assert finished.err.count("\n") == 1
    assert project.files == []


def test_code_stays_ungraded_unless_it_is_allowed(project: Project, server: ScriptedServer) -> None:
    server.behaviour = streams("```python\ndef add(a, b):\n    return a + b\n```")
    question = {"question": "Write add.", "grader": "code", "expected": "assert add(1, 2) == 3"}
    project.write("questions.json", json.dumps([question]))
    project.run("run", "--set", "questions=1")
    entry = project.results()["results"][0]
    assert (entry["graded"], entry["grade_reason"]) == (False, "code is only run with --allow-code")
    assert project.results()["aggregate"]["quality"]["ungraded"] == 1
    project.run("allowed", "--set", "questions=1", "--allow-code")
    assert project.results("allowed")["results"][0]["quality"] == 1.0


def test_without_the_packages_a_run_says_so_and_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("questions.json", json.dumps(CATALOGUE))

    def missing(*_: object) -> None:
        raise st.ExtensionError("quality needs regex: uv sync --group quality")

    monkeypatch.setattr(st, "import_extension", missing)
    finished = project.run("run")
    assert finished.code == 0
    assert "answers stay ungraded: quality needs regex: uv sync --group quality" in finished.err
    assert not any(entry["graded"] for entry in project.results()["results"])


# --- grade


def test_grade_writes_a_new_file_beside_and_keeps_the_old_one(graded: Project) -> None:
    graded.run("run")
    before = (graded.folder / "results" / "run.json").read_bytes()
    mended = [CATALOGUE[0], {**CATALOGUE[1], "expected": 5}, CATALOGUE[2]]
    graded.write("mended.json", json.dumps(mended))
    finished = graded.run("grade", "run", "-q", "mended.json")
    assert finished.code == 0, finished.err
    assert (graded.folder / "results" / "run.json").read_bytes() == before
    data = graded.results("run_graded")
    assert data["aggregate"]["quality"]["avg"] == 1.0
    assert data["meta"]["graded_from"] == "run.json"
    assert graded.run("verify", "run_graded").code == 0
    graded.run("grade", "run", "-q", "mended.json")
    assert len(list((graded.folder / "results").glob("run_graded*.json"))) == 2


def test_grade_refuses_a_catalogue_of_other_questions(graded: Project) -> None:
    graded.run("run")
    graded.write("other.json", json.dumps(["Something else?"]))
    finished = graded.run("grade", "run", "-q", "other.json")
    assert finished.code == 2
    assert "has none of the questions of run.json" in finished.err


# --- judge and semantic


def judged(project: Project, server: ScriptedServer, grader: str = "judge") -> None:
    question = {
        "id": "j",
        "question": "Be kind.",
        "grader": grader,
        "expected": "The answer is kind.",
    }
    project.write("questions.json", json.dumps([question]))
    judge = {"server": server.url, "model": MODEL}
    project.configure(server=server.url, questions=1, judge=judge)


def replies(server: ScriptedServer, *texts: str) -> list[str]:
    """Let the server answer the question by streaming, and the judge's prompts with these texts in turn."""
    prompts: list[str] = []

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.json.get("stream"):
            await streams("You are lovely")(request, writer)
            return
        prompts.append(request.question)
        message = {"role": "assistant", "content": texts[(len(prompts) - 1) % len(texts)]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": choices,
        }
        writer.write(whole(json.dumps(answer).encode(), content_type="application/json"))

    server.behaviour = behave
    return prompts


def test_a_judge_is_asked_twice_with_the_choices_in_either_order(
    project: Project, server: ScriptedServer
) -> None:
    judged(project, server)
    prompts = replies(server, "It is kind.\nVERDICT: PASS")
    assert project.run("run").code == 0
    entry = project.results()["results"][0]
    assert (entry["quality"], entry["grade_reason"]) == (1.0, "the judge says PASS")
    order = [re.findall(r"^VERDICT: (\w+)$", prompt, re.MULTILINE) for prompt in prompts]
    assert order == [["PASS", "FAIL"], ["FAIL", "PASS"]]
    assert all("You are lovely" in prompt and "The answer is kind." in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("VERDICT: PASS", "VERDICT: FAIL"), "contradicts itself"),
        (("I think it is fine",), "cannot be read"),
        (("VERDICT: MAYBE",), "cannot be read"),
        (("",), "cannot be read"),
        (("VERDICT: PASS\nVERDICT: FAIL",), "cannot be read"),
    ],
)
def test_a_broken_judge_leaves_the_answer_ungraded_and_never_0(
    project: Project, server: ScriptedServer, texts: tuple[str, ...], says: str
) -> None:
    judged(project, server)
    replies(server, *texts)
    assert project.run("run").code == 0
    data = project.results()
    assert data["results"][0]["graded"] is False
    assert says in data["results"][0]["grade_reason"]
    numbers = data["aggregate"]["quality"]
    assert (numbers["avg"], numbers["graded"], numbers["ungraded"]) == (None, 0, 1)


def test_a_judge_that_cannot_be_reached_is_found_before_the_load(
    project: Project, server: ScriptedServer
) -> None:
    judged(project, server)
    finished = project.run(
        "run", "--set", 'judge={"server": "http://127.0.0.1:9/v1", "model": "m"}'
    )
    assert finished.code == 3
    assert "judge: http://127.0.0.1:9/v1: " in finished.err and finished.err.count("\n") == 1
    assert server.requests == [], "the model was not asked"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (whole(b'{"error": "busy"}', "500 Broken", "application/json"), "http_status"),
        (whole(b"", "307 Elsewhere", "text/plain", "Location: http://127.0.0.1:9/"), "redirect"),
        (whole(b"<html>", content_type="text/html"), "wrong_type"),
        (whole(b"{}", content_type="application/json"), "wrong_api"),
    ],
)
def test_a_judge_that_fails_later_leaves_the_answer_ungraded(
    project: Project,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    reply: bytes,
    says: str,
) -> None:
    monkeypatch.setattr(quality, "_pause_s", lambda *_: 0.0)
    judged(project, server)

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.json.get("stream"):
            await streams("You are lovely")(request, writer)
        else:
            writer.write(reply)

    server.behaviour = behave
    assert project.run("run").code == 0
    entry = project.results()["results"][0]
    assert (entry["graded"], entry["quality"]) == (False, 0.0)
    assert entry["grade_reason"].startswith("the judge failed: ") and says in entry["grade_reason"]


@pytest.mark.parametrize(("angle", "score"), [(0.0, 1.0), (0.5, 0.877583), (1.5, 0.0)])
async def test_semantic_scores_the_similarity_of_embeddings(
    server: ScriptedServer, angle: float, score: float
) -> None:
    import math

    vectors = [[1.0, 0.0], [math.cos(angle), math.sin(angle)]]
    data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors)
    ]
    answer = {
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    body = json.dumps(answer).encode()
    server.behaviour = sends(whole(body, content_type="application/json"))
    judge = {"server": server.url, "model": MODEL}
    config = st.Config.model_validate({"server": server.url, "model": MODEL, "judge": judge})
    question = st.Question(id="s", question="?", grader="semantic", expected="a text")
    result = st.Result(0, "s", "?", answer="an answer", grader="semantic")
    async with quality.Graders(config) as graders:
        graded = [entry async for entry in graders.grade_results({"s": question}, [result])]
    assert graded[0][1] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("VERDICT: PASS", "PASS"),
        ("Because.\n\nVERDICT: FAIL\n", "FAIL"),
        ("**VERDICT: PASS**", "PASS"),
        ("<think>VERDICT: FAIL</think>\nVERDICT: PASS", "PASS"),
        ("VERDICT: PASS, I think", None),
        ("verdict: pass", None),
        ("PASS", None),
        ("VERDICT: PASS\nBut then again, no.", None),
        ("VERDICT: FAIL\nVERDICT: PASS", None),
    ],
)
def test_a_verdict_is_read_strictly(reply: str, verdict: str | None) -> None:
    assert quality.read_verdict(reply) == verdict


def test_a_question_asked_again_does_not_narrow_the_interval(graded: Project) -> None:
    graded.run("once")
    graded.run("often", "--set", "questions=30")
    once, often = (
        graded.results(name)["aggregate"]["quality"]["of_answers"] for name in ("once", "often")
    )
    assert (once["n"], often["n"]) == (2, 20)
    assert once["ci95"] == often["ci95"]
