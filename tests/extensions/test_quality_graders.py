"""What the graders promise: they agree with labels set by hand, refuse bad questions, and survive hostile answers."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import quality

LABELLED = json.loads(
    (Path(__file__).parents[1] / "data" / "graded_answers.json").read_text(encoding="utf-8")
)
RULE_GRADERS = ("exact", "contains", "regex", "numeric", "choice", "json", "fuzzy", "code")


def question(grader: str | None, expected: Any = None, **more: Any) -> st.Question:
    return st.Question.model_validate(
        {"id": "q", "question": "?", "grader": grader, "expected": expected, **more}
    )


def grade(grader: str, expected: Any, answer: str, **more: Any) -> quality.Grade:
    return quality.grade_answer(question(grader, expected, **more), answer, allow_code=True)


def score(grader: str, expected: Any, answer: str, **more: Any) -> float:
    graded = grade(grader, expected, answer, **more)
    assert graded.score is not None, graded.reason
    return graded.score


# === Agreement ===


@pytest.mark.parametrize("grader", RULE_GRADERS)
def test_a_grader_agrees_with_every_label_set_by_hand(grader: str) -> None:
    entries = [entry for entry in LABELLED if entry["grader"] == grader]
    disagreements = []
    for entry in entries:
        fields = {key: entry[key] for key in ("tolerance", "threshold") if key in entry}
        graded = grade(grader, entry["expected"], entry["answer"], **fields)
        if graded.score is None or (graded.score > 0) != (entry["score"] > 0):
            disagreements.append((entry["kind"], entry["expected"], entry["answer"], graded))
    assert disagreements == []
    assert len(entries) >= 30
    assert {0, 1} == {entry["score"] for entry in entries}


@pytest.mark.parametrize("grader", RULE_GRADERS)
def test_every_labelled_question_is_a_good_one(grader: str) -> None:
    for entry in LABELLED:
        if entry["grader"] == grader:
            fields = {key: entry[key] for key in ("tolerance", "threshold") if key in entry}
            assert quality.check_question(question(grader, entry["expected"], **fields)) is None


@pytest.mark.parametrize("grader", [name for name in RULE_GRADERS if name != "code"])
def test_the_labels_notice_a_grader_that_says_yes_or_no_to_all(grader: str) -> None:
    scores = [entry["score"] for entry in LABELLED if entry["grader"] == grader]
    assert 0.2 < sum(scores) / len(scores) < 0.85


def test_every_shipped_question_can_be_graded() -> None:
    for entry in st.load_questions(st.HERE / "questions.json"):
        assert quality.check_question(entry) is None, entry.id


def test_a_shipped_question_is_not_answered_by_its_own_text_or_by_a_refusal() -> None:
    for entry in st.load_questions(st.HERE / "questions.json"):
        if entry.grader == "code":
            continue
        for answer in (
            "",
            entry.texts[-1],
            "I'm sorry, but I can't answer that.",
            "Das kann ich nicht beantworten.",
        ):
            graded = quality.grade_answer(entry, answer)
            assert graded.score == 0, (entry.id, answer, graded)


# === Grades ===


def test_a_question_without_a_grader_stays_ungraded() -> None:
    assert quality.grade_answer(question(None), "42").score is None


@pytest.mark.parametrize("grader", ["semantic", "judge"])
def test_a_grader_that_needs_a_server_leaves_the_answer_ungraded(grader: str) -> None:
    graded = quality.grade_answer(question(grader, "x"), "x")
    assert (graded.score, graded.reason) == (
        None,
        f"{grader} asks a server, which only a run does",
    )


def test_code_is_not_run_unless_it_is_allowed() -> None:
    graded = quality.grade_answer(question("code", "assert f()"), "def f(): return 1")
    assert (graded.score, graded.reason) == (None, quality.NOT_ALLOWED)


def test_a_new_grader_touches_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quality.GRADERS, "louder", quality.GRADERS["exact"])
    path = tmp_path / "questions.json"
    path.write_text('[{"question": "q", "grader": "louder", "expected": "A"}]')
    (loaded,) = st.load_questions(path)
    assert quality.check_question(loaded) is None
    assert quality.grade_answer(loaded, "a").score == 1.0


def test_a_reason_is_one_short_line_without_control_characters() -> None:
    reason = grade("exact", "x", "\x1b[31mred\n" * 1000).reason
    assert len(reason) <= quality.REASON_CHARS
    assert reason.isprintable()


def test_a_reason_says_what_was_expected_and_what_was_found() -> None:
    assert grade("numeric", 42, "It is 41.").reason == "expected 42, found 41"
    assert grade("numeric", 42, "It is late.").reason == "no number in the answer"
    assert grade("choice", "B", "C").reason == "expected B, chose C"
    assert (
        grade("json", {"fields": {"a.b": 1}}, '{"a": {"b": 2}}').reason
        == "a.b: expected 1, found 2"
    )
    assert (
        grade("code", "assert f(1) == 2", "def f(n): return n").reason
        == "does not hold: assert f(1) == 2"
    )


def test_fuzzy_scores_the_similarity_above_its_threshold_and_0_below() -> None:
    assert score("fuzzy", "the early bird", "**The early bird!**") == 1.0
    assert 0.9 < score("fuzzy", "the early bird", "the early birds") < 1.0
    assert score("fuzzy", "the early bird", "the early birds", threshold=0.99) == 0.0


def test_an_exception_in_a_grader_leaves_the_answer_ungraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_rule: quality.Rule, _answer: str) -> quality.Grade:
        raise RecursionError("too deep")

    monkeypatch.setattr(quality.GRADERS["exact"], "grade", broken)
    assert grade("exact", "x", "x") == quality.Grade(
        None, "could not be graded: RecursionError: too deep"
    )


def test_a_new_grader_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "GRADERS", dict(quality.GRADERS))

    class Shouted(quality.Grader, name="shouted"):
        takes = ("tolerance",)

        def check(self, expected: Any) -> str | None:
            return None if expected is None else "nothing"

        def grade(self, rule: quality.Rule, answer: str) -> quality.Grade:
            return quality.Grade(float(answer.isupper()), "loud")

    asked = question("exact", None).model_copy(update={"grader": "shouted", "tolerance": 1.0})
    assert quality.check_question(asked) is None
    assert quality.grade_answer(asked, "YES") == quality.Grade(1.0, "loud")
    asked = asked.model_copy(update={"expected": 1})
    assert quality.check_question(asked) == "shouted needs expected: nothing"
    asked = asked.model_copy(update={"grader": "whispered"})
    assert "whispered is no grader; known are exact, " in str(quality.check_question(asked))


def test_a_missing_package_is_an_error_and_no_bad_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.fuzz", None)
    with pytest.raises(st.ExtensionError, match=r"quality needs rapidfuzz: .* --group quality"):
        grade("fuzzy", "a", "a")
    with pytest.raises(st.ExtensionError):
        quality.check_question(question("fuzzy", "a"))


# === Questions ===


@pytest.mark.parametrize(
    ("grader", "expected", "problem"),
    [
        ("exact", None, "a text with words"),
        ("exact", 7, "a text with words"),
        ("exact", [], "a text with words"),
        ("exact", ["a", "?!"], "a text with words"),
        ("contains", {"all": ["a"]}, '{"any": [...]}'),
        ("contains", {"any": []}, '{"any": [...]}'),
        ("contains", ["a", {"any": "b"}], '{"any": [...]}'),
        ("contains", "?", "for punctuation use regex"),
        ("contains", [1], "texts with a letter"),
        ("regex", "(a", "a pattern that compiles"),
        ("regex", None, "a pattern"),
        ("numeric", None, "a number"),
        ("numeric", "42", "a number"),
        ("numeric", True, "a number"),
        ("numeric", 10**400, "a number that fits a float"),
        ("choice", "AB", "a letter"),
        ("choice", [], "a letter"),
        ("choice", 1, "a letter"),
        ("json", {}, '{"schema": {...}}'),
        ("json", {"field": {"a": 1}}, '{"schema": {...}}'),
        ("json", {"fields": {}}, "fields to be"),
        ("json", {"schema": {"type": "objekt"}}, "a valid JSON Schema"),
        ("fuzzy", None, "a text with words"),
        ("code", "add(1, 2) == 3", "at least one assert"),
        ("code", "assert (", "at least one assert"),
        ("code", None, "at least one assert"),
    ],
)
def test_a_question_that_cannot_be_graded_says_what_it_needs(
    grader: str, expected: Any, problem: str
) -> None:
    said = quality.check_question(question(grader, expected))
    assert said is not None
    assert said.startswith(f"{grader} needs expected: ")
    assert problem in said
    assert "\n" not in said


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"any": [inner]}
    return inner


ODD: list[Any] = [
    None,
    True,
    0,
    -1.5,
    10**30,
    "",
    " ",
    "a",
    "(" * 500,
    "assert x",
    [],
    [[]],
    ["a", 1],
    {},
]
ODD += [
    {"any": ["a"]},
    {"any": {}},
    {"schema": 5},
    {"schema": {"$schema": 5}},
    {"fields": {"": {}}},
]
ODD += [{"schema": {"$id": 5}}, {"schema": {"$defs": [1], "$ref": "#/$defs/0"}}, nested(400, "a")]
ODD += [{"schema": nested(300, {"$ref": "#"})}, {"schema": True}, {"schema": {"pattern": "("}}]
ODD += ["a" * 100_000, "(?P<a>x)(?P<a>y)", "\\p{Nope}", "[[:x:]]", "(?<=a*)b", {"fields": [1]}]


@pytest.mark.parametrize("grader", list(quality.GRADERS))
def test_no_catalogue_breaks_a_grader(grader: str) -> None:
    for expected in ODD:
        asked = question(grader, expected)
        problem = quality.check_question(asked)
        if problem is None and grader != "code":
            for answer in ("a", "{}", '[{"a": 1}]'):
                reason = grade(grader, expected, answer).reason
                assert "could not be graded" not in reason or "RecursionError" in reason
            quality.check_run(st.Config(server="embedded", model="m"), [asked])


def test_tolerance_and_threshold_belong_to_one_grader_each() -> None:
    assert "no tolerance" in str(quality.check_question(question("exact", "a", tolerance=1.0)))
    assert "no threshold" in str(quality.check_question(question("numeric", 1, threshold=0.5)))
    assert quality.check_question(question("numeric", 1, tolerance=0.5)) is None
    assert quality.check_question(question("fuzzy", "a", threshold=0.5)) is None
    assert quality.check_question(question(None)) is None


# === Hostile answers ===


def test_a_catastrophic_pattern_ends_in_time() -> None:
    start = time.monotonic()
    graded = grade("regex", "(a|aa)+$", "a" * 5000 + "!")
    assert graded.score is None, "no wrong answer, but one that nobody could look at"
    assert "took longer" in graded.reason
    assert time.monotonic() - start < 10 * quality.REGEX_S


def test_a_catastrophic_pattern_of_a_schema_ends_in_time() -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": "^(a|aa)+$"}}}
    start = time.monotonic()
    assert grade("json", {"schema": schema}, json.dumps({"a": "a" * 5000 + "!"})).score is None
    assert time.monotonic() - start < 10 * quality.REGEX_S


def test_a_schema_is_never_fetched_from_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        reference = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        graded = grade("json", {"schema": {"$ref": reference}}, '{"a": 1}')
        assert (graded.score, graded.reason[-13:]) == (None, "leads nowhere")
        with pytest.raises(TimeoutError):
            server.accept()


HOSTILE = {
    "many digits": "9" * 200_000,
    "many groups": "1," * 100_000,
    "many spaces": "1 " * 100_000 + " " * 100_000,
    "many brackets": "[" * 100_000,
    "many objects": '{"a":' * 100_000,
    "many stars": "**a " * 50_000,
    "many fences": "```\n" * 50_000,
    "many letters": "A) B) C) " * 20_000,
    "many answers": "the answer is " * 20_000,
    "many boxes": "\\boxed{" * 50_000,
    "many fractions": "\\frac{1}{2}" * 20_000,
    "huge power": "10^999999999",
    "huge exponent": "1e999999999999",
    "division by zero": "1/0",
    "zero to a negative power": "0^-1",
    "lone surrogate": "\ud800 42",
    "null characters": "\x00" * 1000,
    "huge JSON number": "1" * 10_000,
    "deep JSON": "[" * 5000 + "]" * 5000,
    "right to left": "\u202e42\u202c",
}
EXPECTED = {
    "exact": "42",
    "contains": "42",
    "regex": "zzz",
    "numeric": 1e300,
    "choice": "E",
    "json": {"fields": {"a": 1}},
    "fuzzy": "zzzzz",
}


@pytest.mark.parametrize("grader", EXPECTED)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_breaks_a_grader_or_keeps_it_busy(grader: str, name: str) -> None:
    start = time.process_time()
    assert 0 <= score(grader, EXPECTED[grader], HOSTILE[name]) <= 1
    assert time.process_time() - start < quality.LIMIT_S
