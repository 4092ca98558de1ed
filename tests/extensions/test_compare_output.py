"""What compare prints: the JSON contract, the other formats, gates and exit codes."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import llm_stresstest as st
from extensions import compare as tool
from extensions import verdicts
from extensions.compare import Gate
from extensions.pairing import METRICS, Comparison, Options, Side, compare, read_run
from tests.benchmarks.simulated import Server, World
from tests.conftest import ROOT, Project

QUIET = Server(noise=0.02, flips=0)
SLOW = dataclasses.replace(QUIET, slower=0.2)
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m|`*_\u202e"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose results hold equal runs, a slow one, and one of other settings."""
    project = Project(tmp_path_factory.mktemp("compare"))
    project.configure(server="http://127.0.0.1:1/v1")
    world, folder = World(60, 1), project.folder / "results"
    folder.mkdir()
    for name in ("a", "same", "a2", "a3", "b2"):
        world.run(folder, name, QUIET)
    world.run(folder, "slow", SLOW)
    world.run(folder, "long", QUIET, max_tokens=64)
    return project


def comparison_of(project: Project, a: str, b: str) -> Comparison:
    runs = [read_run(project.folder / "results" / f"{name}.json") for name in (a, b)]
    return compare(Side("A", (runs[0],)), Side("B", (runs[1],)), Options())


def verdict_of(project: Project, *arguments: str) -> Any:
    done = project.run("compare", *arguments, "--format", "json")
    return json.loads(done.out)


def test_the_json_is_what_the_contract_says(runs: Project) -> None:
    content = verdict_of(runs, "a", "slow")
    assert list(content)[:8] == [
        "schema_version", "runs", "changed", "refused", "margin", "between_runs", "pairs", "metrics",
    ]  # fmt: skip
    assert (content["schema_version"], content["margin"], content["pairs"]) == (1, 0.05, 60)
    assert [run["name"] for run in content["runs"]] == ["a", "slow"]
    assert all(Path(run["path"]).is_file() and run["verdict"] == "VALID" for run in content["runs"])
    assert content["between_runs"] == {"covered": False, "runs": [1, 1]}
    assert list(content["metrics"]) == list(METRICS)
    for name, row in content["metrics"].items():
        kind = "ratio" if METRICS[name].is_ratio else "difference"
        assert {"a", "b", kind, "ci95", "ci_table", "p", "verdict", "needs_more"} <= row.keys()
        assert row["verdict"] in {
            "faster",
            "slower",
            "higher",
            "lower",
            "same",
            "cannot_tell",
            "not_measured",
        }
    row = content["metrics"]["e2e_ms"]
    assert row["verdict"] == "slower" and row["needs_more"] is None
    assert row["ci_table"][0] < row["ci95"][0] < row["ratio"] < row["ci95"][1] < row["ci_table"][1]
    assert (
        row["ratio"] == pytest.approx(row["b"] / row["a"], rel=0.05) == pytest.approx(1.2, rel=0.05)
    )
    assert content["flipped"] == []


def test_a_refusal_is_the_same_json_without_metrics_and_exit_code_2(runs: Project) -> None:
    done = runs.run("compare", "a", "long", "--format", "json")
    content = json.loads(done.out)
    assert done.code == 2
    assert "metrics" not in content and content["between_runs"]["covered"] is False
    assert [refusal["key"] for refusal in content["refused"]] == ["max_tokens"]
    assert content["refused"][0]["a"] == 512 and content["refused"][0]["b"] == 64
    assert "max_tokens: 512 and 64: answers are cut at different lengths" in done.err
    anyway = runs.run("compare", "a", "long", "--anyway")
    assert anyway.code == 0 and "compared anyway: max_tokens" in anyway.out


def test_several_runs_are_held_against_the_first_and_ranked(runs: Project) -> None:
    content = verdict_of(runs, "a", "same", "slow")
    assert [other["runs"][1]["side"] for other in content["others"]] == ["C"]
    assert content["ranking"]["e2e_ms"] == [["A", "B"], ["C"]]
    out = runs.run("compare", "a", "same", "slow").out
    assert "A = B  >  C" in out and "C against A" in out


@pytest.mark.parametrize("width", [50, 60, 72, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal_and_no_verdict_is_cut(
    runs: Project, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "terminal_width", lambda *_: width)
    made = comparison_of(runs, "a", "slow")
    lines = [str(part) for part in verdicts._table_parts(made)]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for row in verdicts.shown_rows(made):
        assert verdicts.verdict_text(row, 0.05) in text and row.metric.label in text


def test_the_text_says_the_answer_first_then_what_changed_then_the_table(runs: Project) -> None:
    out = runs.run("compare", "a", "slow").out
    first, *rest = out.splitlines()
    assert first.startswith("B's answers take 2")
    assert "One run each: this holds for these two runs" in rest[1] + rest[0]
    order = [out.index(text) for text in ("A  a", "changed", "B against A", "less is better")]
    assert order == sorted(order)


def test_where_the_encoding_lacks_a_sign_another_stands_for_it(runs: Project) -> None:
    done = runs.spawn("compare", "a", "slow", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0
    assert "x slower" in done.out and "TTFT v" in done.out
    assert done.out.isascii()


def hostile(project: Project, into: Path) -> list[str]:
    """Make two runs whose every text is hostile, and return their paths."""
    made = []
    for name in ("a", "slow"):
        path = into / f"{name}.json"
        made.append(str(path))
        data = json.loads((project.folder / "results" / path.name).read_bytes())
        data["meta"]["config"]["system_prompt"] = HOSTILE + name
        data["meta"]["validity"] = {
            "verdict": "SUSPECT",
            "reasons": [{"code": HOSTILE, "message": HOSTILE}],
        }
        for place, record in enumerate(data["results"][:20]):
            record |= {"question": HOSTILE + str(place), "id": HOSTILE + str(place)}
            record["quality"] = float(name == "slow")
        path.write_text(json.dumps(data))
    return made


class Tags(html.parser.HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag}.{name}" for name, _ in attrs)}


def test_hostile_texts_are_only_texts_in_every_format(runs: Project, tmp_path: Path) -> None:
    names = hostile(runs, tmp_path)
    page = Tags()
    page.feed(runs.run("compare", *names, "--format", "html").out)
    assert "code" in page.found and "small.class" in page.found
    assert not page.found & {"script", "img", "img.src", "img.onerror"}
    for kind in ("text", "md", "junit", "github", "html"):
        out = runs.run("compare", *names, "--format", kind).out
        assert "\x1b" not in out and "\u202e" not in out, kind
    assert "\n::" not in runs.run("compare", *names, "--format", "github").out[2:]


def test_the_page_needs_no_network_and_no_script(runs: Project) -> None:
    page = runs.run("compare", "a", "slow", "--format", "html").out
    assert page.startswith("<!doctype html>")
    assert "<script" not in page and "http" not in page and "url(" not in page
    assert page.count("<svg") == len(
        [1 for name in ("ttft", "tpot", "e2e", "tokens", "rates", "r", "q")]
    )


def test_junit_counts_failures_and_undecided_gates_and_parses(runs: Project) -> None:
    gates = [
        "--in-these-runs",
        "--fail-if",
        "e2e_ms slower",
        "--require",
        "ttft_ms not slower than 50%",
    ]
    done = runs.run(
        "compare",
        "a",
        "slow",
        *gates,
        "--require",
        "quality not lower than 1 point",
        "--format",
        "junit",
    )
    (suite,) = ET.fromstring(done.out)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [case.get("name") for case in suite] == [
        "e2e_ms slower",
        "ttft_ms not slower than 50%",
        "quality not lower than 1 point",
    ]
    assert done.code == 1


def test_three_runs_make_one_page_and_one_xml_document(runs: Project) -> None:
    root = ET.fromstring(runs.run("compare", "a", "same", "slow", "--format", "junit").out)
    assert [suite.get("name") for suite in root] == ["compare a and same", "compare a and slow"]
    page = runs.run("compare", "a", "same", "slow", "--format", "html").out
    assert page.count("<html") == page.count("<h1>") == 1
    assert "C against A" in page


def test_github_gets_annotations_and_its_step_summary(runs: Project, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    arguments = [
        "compare",
        "a",
        "slow",
        "--in-these-runs",
        "--fail-if",
        "e2e_ms slower than 5%",
        "--format",
        "github",
    ]
    done = runs.run(*arguments, env={"GITHUB_STEP_SUMMARY": str(path)})
    assert done.out.startswith("::error title=failed%3A e2e_ms slower than 5%25::e2e_ms: +2")
    assert len(done.out.splitlines()) == 1
    summary = path.read_text()
    assert "| Whole answer (E2E) ↓ |" in summary and "✕ slower" in summary
    assert "✕ failed" in summary


GATES = [
    (["--fail-if", "e2e_ms slower"], "slow", 1),
    (["--fail-if", "e2e_ms slower"], "same", 0),
    (["--fail-if", "e2e_ms slower than 30%"], "slow", 0),
    (["--fail-if", "e2e_ms slower than 10%"], "slow", 1),
    (["--fail-if", "quality lower"], "slow", 0),
    (["--fail-if", "ttft_ms.p95 > 1"], "same", 1),
    (["--fail-if", "ttft_ms.p95 > 100000"], "same", 0),
    (["--require", "e2e_ms not slower than 10%"], "same", 0),
    (["--require", "e2e_ms not slower than 10%"], "slow", 1),
    (["--require", "e2e_ms same"], "same", 0),
    (["--require", "e2e_ms same"], "slow", 1),
    (["--require", "e2e_ms faster"], "slow", 1),
    (["--require", "quality not lower than 1 point"], "same", 5),
    (["--require", "quality not lower than 1 point", "--fail-if", "e2e_ms slower"], "slow", 1),
    (["--require", "e2e_ms.p50 <= 100000"], "same", 0),
    (["--require", "e2e_ms.p50 <= 1"], "same", 1),
    (["--require", "ttft_ms.p50 not slower than 60%"], "slow", 0),
    (["--require", "error_rate <= 0.2"], "same", 0),
    (["--require", "error_rate <= 0.01"], "same", 5),
    (["--not-worse", "quality 1 point"], "same", 0),
]  # fmt: skip


@pytest.mark.parametrize(("gates", "other", "code"), GATES)
def test_gates_end_in_the_exit_code_that_they_promise(
    runs: Project, gates: list[str], other: str, code: int
) -> None:
    done = runs.run("compare", "a", other, "--in-these-runs", *gates)
    assert done.code == code, done.out + done.err
    assert gates[1] in done.out


def test_an_undecided_requirement_says_how_many_more_questions_would_do(runs: Project) -> None:
    out = runs.run(
        "compare", "a", "same", "--in-these-runs", "--require", "quality not lower than 1 point"
    ).out
    assert "? undecided" in out and "more questions" in out


def test_one_run_a_side_is_no_ground_for_an_exit_code(runs: Project) -> None:
    done = runs.run("compare", "a", "slow", "--fail-if", "e2e_ms slower")
    assert done.code == 2 and "add --in-these-runs" in done.err
    assert len(done.err.splitlines()) == 1
    group = runs.run("compare", "--group", "a,a2,a3", "same,b2", "--fail-if", "e2e_ms slower")
    assert group.code == 0
    assert "3 and 2 runs: the intervals include how far runs differ" in " ".join(group.out.split())


def test_equal_runs_of_the_folder_are_found_and_give_the_spread(runs: Project) -> None:
    content = verdict_of(runs, "--group", "a", "same")
    assert content["between_runs"] == {"covered": True, "runs": [1, 1]}


BAD = [
    (["a"], "give at least two runs"),
    (["a", "nothing"], "no such run"),
    (["a", "same", "--margin", "x"], "--margin"),
    (["a", "same", "--fail-if", "e2e slower"], "did you mean e2e_ms?"),
    (["a", "same", "--fail-if", "e2e_ms is slow"], "cannot be read; write for example"),
    (["a", "same", "--require", "quality not lower than 2%"], "write the limit in points"),
    (["a", "same", "--require", "token_avg not worse than 2%"], "has no better or worse"),
    (["a", "same", "--require", "quality slower"], "write higher or lower"),
    (["a", "same", "--require", "quality.p95 lower"], "percentiles are"),
    (["a", "same", "--not-worse", "quality"], "cannot be read"),
    (["a", "same", "--fail-if", "ttft_ms.p59 > 3", "--in-these-runs"], "did you mean ttft_ms.p9"),
    (["a", "same", "--level", "3"], "--level 3"),
    (["a", "same", "-o", "config.json"], "is there already"),
    (["--group", "a,", ",,"], "--group: a side is empty"),
    (["a", "same", "--format", "yaml"], "invalid choice"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    runs: Project, arguments: list[str], text: str
) -> None:
    done = runs.run("compare", *arguments)
    assert done.code == 2
    assert text in done.err
    assert len(done.err.splitlines()) == 1 and "Traceback" not in done.err


def test_a_failed_gate_is_told_to_the_command_that_was_named(runs: Project, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    program = f"import sys, pathlib; pathlib.Path({str(told)!r}).write_text(sys.stdin.read())"
    command = f"{sys.executable} -c {json.dumps(program)}"
    gate = ["--in-these-runs", "--fail-if", "e2e_ms slower", "--notify", command]
    assert runs.run("compare", "a", "same", *gate).code == 0
    assert not told.exists()
    assert runs.run("compare", "a", "slow", *gate).code == 1
    assert json.loads(told.read_text())["gates"][0]["state"] == "failed"
    done = runs.run("compare", "a", "slow", *gate[:-1], "/no/such/command")
    assert done.code == 1 and "--notify" in done.err


def test_output_goes_to_a_new_file_and_replaces_none(runs: Project, tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    arguments = ("compare", "a", "slow", "--format", "json", "-o", str(path))
    assert runs.run(*arguments).code == 0
    assert json.loads(path.read_text())["metrics"]["e2e_ms"]["verdict"] == "slower"
    assert runs.run(*arguments).code == 2


def test_scipy_is_imported_only_when_something_is_compared(project: Project) -> None:
    script = "import sys; import llm_stresstest as st; st.cli(sys.argv[1:]); print('scipy' in sys.modules)"
    import subprocess

    for arguments, used in (
        (["list"], False),
        (["compare", "--help"], False),
        (["verify", "a"], False),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == str(used), arguments


@pytest.mark.parametrize(
    ("text", "direction", "limit"),
    [
        ("e2e_ms slower than 10%", 1, 0.1),
        ("tokens_per_s slower than 10%", -1, 0.1),
        ("e2e_ms faster", -1, None),
        ("quality worse", -1, None),
        ("error_rate worse than 2 points", 1, 0.02),
        ("quality not lower than 1 point", -1, 0.01),
    ],
)  # fmt: skip
def test_a_gates_word_means_more_or_less_as_the_metric_wants(
    text: str, direction: int, limit: float | None
) -> None:
    gate = Gate.parse(text, "require")
    assert (gate.direction, gate.limit) == (direction, limit)


@pytest.mark.parametrize(("count", "text"), [(7, "7"), (23, "30"), (610, "610"), (1234, "1,300")])
def test_a_number_of_questions_does_not_claim_to_be_exact(count: int, text: str) -> None:
    assert verdicts.about(count) == text


def test_every_metric_has_a_phrase_for_the_sentence() -> None:
    assert set(verdicts.PHRASES) == set(METRICS)
    assert tool.FORMATS == ("text", "json", "md", "html", "junit", "github")
