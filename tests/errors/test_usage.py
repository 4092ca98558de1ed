"""What the command line says to those who mistype it: one line, with the way out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import ROOT, Project, ScriptedServer, whole

LINES: dict[str, tuple[tuple[str, ...], str]] = {
    "a key as an option": (("run", "--concurrent", "8"), "--concurrent: is a key of config.json, no option: --set concurrent=8"),
    "a key before the name": (("--concurrent", "8", "run"), "--set concurrent=8"),
    "a key with =": (("run", "--max-tokens=64"), "--max-tokens: is a key of config.json, no option: --set max_tokens=64"),
    "a key inside another": (("run", "--slo.ttft_ms", "500"), "--set slo.ttft_ms=500"),
    "a value to be quoted": (("run", "--concurrent", "[1, 2]"), "--set 'concurrent=[1, 2]'"),
    "a key without a value": (("run", "--model"), "--set model=VALUE"),
    "a typing error": (("run", "--overwrit3"), "--overwrit3: no such option; did you mean --overwrite?"),
    "no such option": (("run", "--xyz"), "unrecognized arguments: --xyz; llm_stresstest.py --help shows what there is"),
    "no name": ((), "the following arguments are required: output_filename"),
    "two names": (("run", "again"), "unrecognized arguments: again"),
    "no such level": (("run", "--log-level", "loud"), "argument --log-level: invalid choice"),
    "no value": (("run", "--config"), "argument -c/--config: expected one argument"),
    "a tool's": (("verify", "run", "--xyz"), "unrecognized arguments: --xyz; llm_stresstest.py verify --help shows"),
    "another tool's": (("grade",), "the following arguments are required: name; llm_stresstest.py grade --help shows"),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_a_usage_error_is_one_line_with_the_way_out(
    project: Project, server: ScriptedServer, case: str
) -> None:
    arguments, said = LINES[case]
    finished = project.run(*arguments)
    assert (finished.code, finished.out, finished.err.count("\n")) == (2, "", 1)
    assert finished.err.startswith("llm_stresstest: ") and said in finished.err
    assert server.requests == [] and project.files == []


def test_no_option_has_the_name_of_a_key_but_those_that_name_its_file() -> None:
    options = {
        option.removeprefix("--").replace("-", "_")
        for action in st.build_parser()._actions
        for option in action.option_strings
    }
    assert options & set(st.Config.model_fields) == {"questions"}


@pytest.mark.parametrize("level", ["debug", "DEBUG", "Warning"])
def test_a_log_level_may_be_written_in_small_letters(project: Project, level: str) -> None:
    assert project.run("run", "--log-level", level).code == 0
    assert ("DEBUG" in project.log()) == (level.upper() == "DEBUG")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("verify", "--help")])
def test_help_without_a_reader_is_no_fault(arguments: tuple[str, ...]) -> None:
    command = f"{sys.executable} {ROOT / 'llm_stresstest.py'} {' '.join(arguments)} | true"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_help_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, st.build_parser().format_help().splitlines())) <= 80


def test_quiet_says_in_one_line_why_the_exit_code_is_one(
    project: Project, server: ScriptedServer
) -> None:
    missed = project.run("missed", "--quiet", "--set", "thresholds.ttft_ms.p50=> 60000")
    assert (missed.code, missed.out, missed.err.count("\n")) == (1, "", 1)
    assert "missed missed ttft_ms.p50 > 60000, it is " in missed.err

    async def refuse(_request: Any, writer: Any) -> None:
        writer.write(whole(b"{}", "500 No", "application/json"))

    server.behaviour = refuse
    invalid = project.run("run", "--quiet")
    assert (invalid.code, invalid.out, invalid.err.count("\n")) == (1, "", 1)
    assert "run is INVALID, do not use these numbers: no_answers: " in invalid.err
