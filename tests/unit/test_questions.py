"""questions.json: what is accepted, how a mistake is told, and the catalogue that is shipped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import ROOT


def load(tmp_path: Path, data: Any, count: int | None = None) -> list[st.Question]:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return st.load_questions(path, count)


def test_texts_and_objects_mix(tmp_path: Path) -> None:
    questions = load(
        tmp_path,
        ["A?", {"question": "B?", "id": "b", "category": "c", "grader": "exact", "expected": "x"}],
    )
    assert [question.texts for question in questions] == [["A?"], ["B?"]]
    assert questions[1].grader == "exact"


def test_the_wrapped_form_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, {"questions": ["A?"]})[0].question == "A?"


def test_selection_is_sequential_and_starts_again(tmp_path: Path) -> None:
    assert [q.question for q in load(tmp_path, ["A", "B", "C"], 2)] == ["A", "B"]
    assert [q.question for q in load(tmp_path, ["A", "B", "C"], 7)] == [
        "A",
        "B",
        "C",
        "A",
        "B",
        "C",
        "A",
    ]


def test_ids_are_stable_and_unique(tmp_path: Path) -> None:
    first, again = (load(tmp_path, ["A", "B", "A"]) for _ in range(2))
    assert [q.id for q in first] == [q.id for q in again]
    assert len({q.id for q in first}) == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "holds no question"),
        ({"questions": []}, "holds no question"),
        ({"question": "A?"}, "must hold a list"),
        ("A?", "must hold a list"),
        ([5], "question 1: must be a text or an object, not a number"),
        (["A?", None], "question 2: must be a text or an object, not null"),
        ([{}], 'question 1: give either "question" or "turns"'),
        ([{"question": "A?", "turns": ["B?"]}], 'give either "question" or "turns"'),
        ([{"turns": []}], "question 1: turns: [] is not allowed"),
        (
            [{"question": 5, "id": "five"}],
            "question 1 (five): question: 5 is not allowed; it must be a text",
        ),
        (
            [{"question": "A?", "grader": "exakt"}],
            'grader: "exakt" is not allowed; it must be one of exact',
        ),
        ([{"question": "A?", "expected": "x"}], "expected: needs a grader"),
        ([{"question": "A?", "max_tokens": 0}], "max_tokens: 0 is not allowed"),
        ([{"question": "A?", "expect": 5}], "expect: unknown key; did you mean expected?"),
        (
            [{"question": "A?", "id": "x"}, {"question": "B?", "id": "x"}],
            'id "x" stands there twice',
        ),
        ([{"question": "A?", "threshold": 1.5}], "threshold: 1.5 is not allowed"),
    ],
)
def test_a_mistake_is_one_line_with_the_question_and_the_key(
    tmp_path: Path, data: Any, says: str
) -> None:
    with pytest.raises(st.QuestionsError) as error:
        load(tmp_path, data)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_catalogue_is_worth_asking() -> None:
    questions = st.load_questions(ROOT / "questions.json")
    categories = Counter(question.category for question in questions)
    assert len(questions) >= 60
    assert set(categories) == {
        "facts",
        "arithmetic",
        "logic",
        "code",
        "extraction",
        "summary",
        "translation",
        "instruction",
    }
    assert min(categories.values()) >= 5
    assert all(question.grader and question.expected is not None for question in questions)
    german = [question for question in questions if "-de-" in question.id]
    assert 20 <= len(german) <= len(questions) - 20


def test_the_shipped_config_asks_the_embedded_model() -> None:
    config = st.load_config(ROOT / "config.json")
    assert config.server == "embedded"
