"""What verify promises: it notices a change, and whatever a file holds, it names the place and never breaks."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import verify
from tests.conftest import Project, Request, ScriptedServer, streams, whole


@pytest.fixture
def good(project: Project, server: ScriptedServer) -> dict[str, Any]:
    """Return a results file with graded, failed and plain answers."""

    async def behave(request: Request, writer: Any) -> None:
        if request.question == "Two?":
            writer.write(whole(b"{}", "500 Internal Server Error", "application/json"))
        else:
            await streams("It", " is", " 42")(request, writer)

    server.behaviour = behave
    first = {"id": "one", "question": "One?", "grader": "numeric", "expected": 42}
    project.write("questions.json", json.dumps([first, "Two?", {"turns": ["Three?", "Four?"]}]))
    finished = project.run("run", "--set", "questions=3")
    assert finished.code in (0, 1), finished.err
    return project.results()


def verified(project: Project, content: Any) -> tuple[int, str]:
    """Return the exit code of verify for a file with this content, and what it says."""
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    project.write("results/forged.json", text)
    finished = project.run("verify", "forged")
    return finished.code, finished.out + finished.err


def contents(content: Any) -> verify.Contents:
    """Return what stands in a file of this content, as verify reads it."""
    meta, records, aggregate = (content[name] for name in ("meta", "results", "aggregate"))
    return verify.Contents(Path("x"), meta, records, aggregate, content.get("samples"))


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value inside a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        entries = enumerate(value)  # type: ignore[assignment]
    for key, item in entries:
        yield from places(item, (*path, key))


def changed(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy with another value at this place."""
    made = copy.deepcopy(content)
    if not path:
        return value
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def at(content: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    -1e308,
    "",
    "x",
    [],
    {},
    [[]],
    {"": None},
    "\x1b[31m\n",
]


def test_a_good_file_is_verified(project: Project, good: dict[str, Any]) -> None:
    code, said = verified(project, good)
    assert code == 0, said
    assert "verified" in said and "4 results, 0 differences" in " ".join(said.split())


def test_whatever_stands_at_any_place_is_a_difference_and_never_a_fault(
    project: Project, good: dict[str, Any]
) -> None:
    """Every place of the file, with two odd values each; a fault would be exit code 70."""
    chosen = random.Random(7)
    for number, path in enumerate(places(good)):
        for value in chosen.sample(ODD, 2):
            forged = changed(good, path, value)
            if len(path) < 2 or number % 20 == 0:
                code, said = verified(project, forged)
                assert code in (0, 1, 2), (path, value, said)
                assert "Traceback" not in said and "\x1b[31m" not in said
            else:  # the same, without the screen
                contents(forged).differences()


# Texts from which nothing else in the file is computed.
FREE = {"question", "answer", "reasoning", "grade_reason", "finish_reason", "id", "category"}
FREE |= {"grader", "token_source", "token_doubt", "model", "max_tokens_from"}


def test_every_changed_number_of_the_aggregate_is_noticed(good: dict[str, Any]) -> None:
    for path in places(good["aggregate"], ("aggregate",)):
        if not isinstance(at(good, path), dict | list):
            for value in (12345, None if at(good, path) is not None else 1):
                differences = contents(changed(good, path, value)).differences()
                named = ".".join(map(str, path[:2]))
                assert any(line.startswith(named) for line in differences), (path, value)


def test_every_changed_value_of_a_record_is_noticed_where_others_depend_on_it(
    good: dict[str, Any],
) -> None:
    for place in range(len(good["results"])):
        for key in good["results"][place]:
            path = ("results", place, key)
            for value in ["oddly", {"a": 1}]:
                differences = contents(changed(good, path, value)).differences()
                if isinstance(value, dict) or key not in FREE:
                    named = any(line.startswith(f"results[{place}]") for line in differences)
                    assert named, (key, value)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("results", 0, "stage"), "one", "results[0]: cannot be read: stage: input should be"),
        (("results", 0, "time"), "fast", "results[0]: cannot be read: time: input should be"),
        (("results", 0, "chunk_ms"), [1, "2"], "cannot be read: chunk_ms[1]: input should be"),
        (("results", 0, "token"), True, "cannot be read: token: input should be"),
        (("results", 0, "sent_ms"), 1e300, "cannot be read: sent_ms: input should be"),
        (("results", 0), None, "results[0]: cannot be read"),
        (("results", 0), [], "results[0]: cannot be read"),
        (("results", 0, "quality"), 7, "quality 7, graded true"),
        (("results", 0, "tpot_ms"), 0.001, "results[0].tpot_ms: the records give"),
        (("results", 1, "error"), {}, "results[1]: cannot be read"),
        (("results", 1, "error", "kind"), "luck", "luck"),
        (("results", 1, "status"), "ok", "status ok, but"),
        (("aggregate",), [], "aggregate: must be an object"),
        (("aggregate", "itl_histogram_us"), 5, "aggregate: cannot be recomputed"),
        (("aggregate", "extra"), 5, "aggregate.extra: the records give nothing"),
        (("meta", "config"), {}, "meta.config.server: field required"),
        (("meta", "config"), None, "meta.config: input should be"),
        (("meta", "config", "rate"), -5, "meta.config.rate"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    project: Project, good: dict[str, Any], path: tuple[str | int, ...], value: Any, says: str
) -> None:
    code, said = verified(project, changed(good, path, value))
    assert code == 1
    assert says in " ".join(said.split())


def test_a_record_that_is_dropped_or_doubled_is_noticed(
    project: Project, good: dict[str, Any]
) -> None:
    assert verified(project, {**good, "results": good["results"][1:]})[0] == 1
    assert verified(project, {**good, "results": good["results"][:1] + good["results"]})[0] == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"meta": NaN}', "NaN is not JSON"),
        ('{"meta": 1, "meta": 2}', "stands there twice"),
        ("[]", "is not a results file"),
        ('{"meta": {}, "results": [], "aggregate": {}}', "has schema_version None"),
        ('{"meta": {"schema_version": 1}, "results": {}, "aggregate": {}}', "must be a list"),
        ('{"meta": {"schema_version": ' + "9" * 5000 + '}, "results": [], "aggregate": {}}', ""),
    ],
)
def test_what_is_no_results_file_is_one_line_and_exit_code_2(
    project: Project, content: str | bytes, says: str
) -> None:
    (project.folder / "results").mkdir()
    code, said = verified(project, content)
    assert code == 2
    assert says in said and said.count("\n") == 1


def test_a_difference_shows_no_control_characters_and_only_the_first_20_are_shown(
    project: Project, good: dict[str, Any]
) -> None:
    forged = copy.deepcopy(good)
    forged["aggregate"] = {f"\x1b[31m{number}": number for number in range(100)}
    code, said = verified(project, forged)
    assert code == 1 and "\x1b[31m" not in said
    assert said.count("differs") == verify.SHOWN
    assert "more" in said


def test_the_core_needs_no_part_of_verify(tmp_path: Path) -> None:
    assert not hasattr(st, "verify_run")
    assert st.TOOLS["verify"].module == "verify"


def test_every_changed_value_of_the_meta_is_noticed(project: Project, good: dict[str, Any]) -> None:
    for path in places(good["meta"], ("meta",)):
        if not isinstance(at(good, path), dict | list):
            other = "2026" if isinstance(at(good, path), str) else 12345
            code, said = verified(project, changed(good, path, other))
            assert code in (1, 2), (path, said)
            assert code == 1 or path == ("meta", "schema_version")


def test_a_record_that_was_dropped_is_noticed_though_the_aggregate_is_made_anew(
    project: Project, good: dict[str, Any]
) -> None:
    for place in range(len(good["results"])):
        forged = copy.deepcopy(good)
        del forged["results"][place]
        config = st.Config.model_validate(forged["meta"]["config"])
        results = [st.Result.from_record(record) for record in forged["results"]]
        forged["aggregate"] = st.calculate_aggregates(results, config)
        code, said = verified(project, forged)
        assert code == 1 and "meta.digest" in said, (place, said)


def test_a_verdict_and_a_count_are_recomputed_though_the_digest_is_made_anew(
    project: Project, good: dict[str, Any]
) -> None:
    def sealed(content: dict[str, Any]) -> dict[str, Any]:
        digest = st.Digest(content["meta"])
        for record in content["results"]:
            digest.add(record)
        if content.get("samples") is not None:
            digest.add(content["samples"])
        return changed(content, ("meta", "digest"), digest.hexdigest())  # type: ignore[no-any-return]

    assert verified(project, sealed(good))[0] == 0, "the seal is right"
    better = changed(good, ("meta", "validity"), {"verdict": "VALID", "reasons": []})
    assert "meta.validity.verdict: the records give" in verified(project, sealed(better))[1]
    slower = changed(good, ("meta", "timeout"), 1)
    assert "meta.timeout" in verified(project, sealed(slower))[1]
    fewer = changed(good, ("meta", "questions_asked"), 2)
    assert "was never asked" in verified(project, sealed(fewer))[1]
    twice = changed(good, ("results", 1), good["results"][0])
    contents = verify.Contents(
        Path("forged"), twice["meta"], twice["results"], twice["aggregate"], twice.get("samples")
    )
    assert "results: request 0, turn 0, stands there 2 times" in contents.differences()
    assert "results: request 1 is missing" in contents.differences()


def test_the_digest_goes_by_the_values_and_not_by_the_layout(
    project: Project, good: dict[str, Any]
) -> None:
    assert verified(project, json.dumps(good, indent=4))[0] == 0
    assert len(good["meta"]["digest"]) == 64 and set(good["meta"]["digest"]) != {"0"}
