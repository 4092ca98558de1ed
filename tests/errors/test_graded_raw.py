"""An answer that holds a key is graded as it came; files, log, terminal and judge get it without the key."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import MODEL, Project, Request, ScriptedServer, streams, whole
from tests.errors.test_secrets import everything, leaks

KEY = "sk-proj-4fQ9zL2mX8rT6wB1yK7vN3cJ5hG0dS"
STEM = "4fQ9zL2m"
CODE = f"```python\ndef f():\n    return '{KEY}'\n```"
GRADED: list[dict[str, Any]] = [
    {"question": f"Say {KEY}", "grader": "exact", "expected": f"Say {KEY}"},
    {"question": f"It is {KEY}.", "grader": "contains", "expected": KEY},
    {"question": f"I say {KEY}!", "grader": "regex", "expected": "sk-proj-[A-Za-z0-9]{30}!"},
    {"question": f"{KEY} is 42", "grader": "numeric", "expected": 42},
    {"question": json.dumps({"a": KEY}), "grader": "json", "expected": {"fields": {"a": KEY}}},
    {"question": f"Near {KEY}", "grader": "fuzzy", "expected": f"Near {KEY}"},
    {"question": f"({KEY}) the answer is B", "grader": "choice", "expected": "B"},
    {"question": CODE, "grader": "code", "expected": f"assert len(f()) == {len(KEY)}"},
    {"question": f"<think>{KEY}</think>{KEY}", "grader": "exact", "expected": KEY},
    {"question": base64.b64encode(KEY.encode()).decode(), "grader": "regex", "expected": "^c2stcHJvai"},
    {"question": f"No, {KEY}", "grader": "exact", "expected": "something else"},
]  # fmt: skip


async def repeat(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with the question itself, or with the judge's verdict."""
    if request.json.get("stream"):
        await streams(*request.question)(request, writer)
        return
    message = {"role": "assistant", "content": "VERDICT: PASS"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "x", "object": "chat.completion", "model": MODEL, "choices": choices}
    writer.write(whole(json.dumps(body).encode(), content_type="application/json"))


@pytest.fixture
def echoing(project: Project, server: ScriptedServer) -> Project:
    server.behaviour = repeat
    project.configure(server=server.url, questions=len(GRADED), api_key_env="KEY")
    catalogue = [{"id": f"q{place}", **entry} for place, entry in enumerate(GRADED)]
    project.write("questions.json", json.dumps(catalogue))
    return project


def grades(project: Project, name: str = "run") -> list[float | None]:
    records = project.results(name)["results"]
    return [record["quality"] if record["graded"] else None for record in records]


def test_an_answer_is_graded_as_it_came_and_kept_without_the_key(echoing: Project) -> None:
    arguments = ("run", "--log-level", "DEBUG", "--allow-code")
    finished = echoing.run(*arguments, env={"KEY": KEY})
    assert finished.code in (0, 1), finished.err
    assert grades(echoing) == [1.0] * (len(GRADED) - 1) + [0.0]
    records = echoing.results()["results"]
    assert all(st.REDACTED in record["answer"] for record in records)
    assert records[-1]["grade_reason"] == f"expected something else, found No, {st.REDACTED}"
    assert leaks(everything(echoing, finished), STEM) == []


def test_the_judge_gets_the_answer_without_the_key(
    echoing: Project, server: ScriptedServer
) -> None:
    asked = {"id": "q0", "question": f"Say {KEY}", "grader": "judge", "expected": "It is kind."}
    echoing.write("questions.json", json.dumps([asked]))
    judge = {"server": server.url, "model": MODEL}
    echoing.configure(server=server.url, questions=1, api_key_env="KEY", judge=judge)
    finished = echoing.run("run", env={"KEY": KEY})
    assert finished.code == 0, finished.err
    assert grades(echoing) == [1.0]
    prompts = [request.question for request in server.requests if "VERDICT" in request.question]
    assert len(prompts) == 2
    assert all(f"Say {st.REDACTED}" in prompt and STEM not in prompt for prompt in prompts)


def test_a_conversation_goes_on_with_what_the_model_said(
    echoing: Project, server: ScriptedServer
) -> None:
    turns = {"turns": [f"I am {KEY}", "Who?"], "grader": "exact", "expected": "Who"}
    echoing.write("questions.json", json.dumps([turns]))
    finished = echoing.run("run", "--set", "questions=1", env={"KEY": KEY})
    assert finished.code == 0, finished.err
    said = [message["content"] for message in server.requests[-1].json["messages"]]
    assert said == [f"I am {KEY}", f"I am {KEY}", "Who?"]
    assert leaks(everything(echoing, finished), STEM) == []


def test_the_key_that_is_taken_out_of_an_answer_makes_no_token_count_doubtful(
    echoing: Project,
) -> None:
    echoing.run("run", env={"KEY": KEY})  # a token a character, as the server counts
    records = echoing.results()["results"]
    assert [record["token"] for record in records] == [len(entry["question"]) for entry in GRADED]
    assert {record["token_doubt"] for record in records} == {None}


def without_the_rest(project: Project) -> None:
    """Leave the journal as a run that was killed before it graded leaves it."""

    def full(*_arguments: Any, **_options: Any) -> Any:
        raise st.ResultsError("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "save_results", full)
        assert project.run("run", env={"KEY": KEY}).code == 4
    path = project.folder / "results" / "run.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"kind":"grade"' not in line))
    assert leaks(everything(project), STEM) == []


def test_a_run_that_was_killed_before_it_graded_grades_what_its_journal_has(
    echoing: Project,
) -> None:
    echoing.run("whole", env={"KEY": KEY})
    without_the_rest(echoing)
    finished = echoing.run("run", "--resume", env={"KEY": KEY})
    assert finished.code in (0, 1), finished.err
    # The key is not in the journal, so that only what does not need it is right.
    assert grades(echoing) == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, None, 0.0, 0.0, 0.0]
    assert leaks(everything(echoing, finished), STEM) == []
    finished = echoing.run("grade", "whole", env={"KEY": KEY})
    assert finished.code == 0, finished.err
    assert grades(echoing, "whole_graded") == grades(echoing)
    assert leaks(everything(echoing, finished), STEM) == []


def test_a_server_that_puts_the_key_into_each_answer_fills_no_memory(
    echoing: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = len(GRADED[0]["question"]) + len(GRADED[1]["question"])
    monkeypatch.setattr(st.RawAnswers, "MOST_CHARS", most)
    finished = echoing.run("run", "--set", "concurrent=1", env={"KEY": KEY})
    assert finished.code in (0, 1), finished.err
    assert grades(echoing)[:4] == [1.0, 1.0, 0.0, 1.0]
    warned = [line for line in echoing.log().splitlines() if "graded without it" in line]
    assert len(warned) == len(GRADED) - 2


def test_a_results_file_cannot_bring_an_answer_that_is_not_shown() -> None:
    record = st.Result(0, "q", "?", answer="shown").to_record()
    assert "raw_answer" not in record
    read = st.Result.from_record({**record, "raw_answer": "hidden"})
    assert (read.raw_answer, read.answer_text) == (None, "shown")
