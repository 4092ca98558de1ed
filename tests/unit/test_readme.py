"""The documentation is held to the code."""

from __future__ import annotations

import ast
import json
import re

import pytest

import llm_stresstest as st
from extensions import quality
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = (ROOT / "llm_stresstest.py").read_text(encoding="utf-8")


def rows(text: str = README) -> dict[str, list[list[str]]]:
    """Return the tables' rows by each `name` in their first cell."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`([^`]+)`", cells[0]) or [cells[0]]:
                found.setdefault(name, []).append(cells)
    return found


def test_every_option_is_in_the_readme() -> None:
    options = {
        option for action in st.build_parser()._actions for option in action.option_strings
    } - {"-h"}
    assert options - set(rows()) == set()


def test_every_config_key_is_in_the_readme_with_its_default() -> None:
    for key, field in st.Config.model_fields.items():
        said = {row[1] for row in rows()[key]}
        if not field.is_required():
            default = (
                field.default.model_dump(exclude_none=True)
                if isinstance(field.default, st.Strict)
                else field.default
            )
            assert json.dumps(default) in said, key


def test_every_config_key_of_the_readme_is_there() -> None:
    section = README[README.index("## config.json") : README.index("## questions.json")]
    named = set(rows(section)) - {"key", "---"}
    assert named == set(st.Config.model_fields)


def test_every_grader_validity_code_and_tool_is_in_the_readme() -> None:
    st.import_extension("hardware", None)  # which has rules of its own
    source = SOURCE + (ROOT / "extensions" / "hardware.py").read_text(encoding="utf-8")
    reasons = [
        node.args[1].value
        for node in ast.walk(ast.parse(source.replace("from __future__ import annotations", "")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("Reason", "st.Reason")
        and isinstance(node.args[1], ast.Constant)
    ]
    codes = {str(code) for code in reasons}
    assert len(codes) == len(st.VALIDITY_RULES)
    assert (codes | set(quality.GRADERS) | set(st.TOOLS)) - set(rows()) == set()


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "129, 130, 143"])
def test_every_exit_code_is_in_the_readme_and_in_help(code: str) -> None:
    assert code in rows()
    assert re.search(rf"^  {code}  ", st.build_parser().format_help(), re.MULTILINE)


def test_help_ends_in_examples_and_names_every_tool() -> None:
    text = st.build_parser().format_help()
    assert text.index("examples:") < text.index("exit codes:")
    assert all(re.search(rf"^  {tool} ", text, re.MULTILINE) for tool in st.TOOLS)


def test_every_extension_is_in_the_index() -> None:
    index = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "extensions").glob("*.py"):
        assert f"[{path.name}]({path.name})" in index


def test_the_chapters_stand_in_the_order_of_the_design() -> None:
    chapters = re.findall(r"^# === (.+) ===$", SOURCE, re.MULTILINE)
    assert chapters == [
        "Errors", "Secrets", "Config", "Questions", "Results", "Server", "Load", "Metrics", "Output", "Command line",
    ]  # fmt: skip


def test_extensions_use_nothing_of_the_core_but_what_it_exports() -> None:
    assert all(hasattr(st, name) for name in st.__all__)
    for path in (ROOT / "extensions").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "st"
        }
        assert used <= set(st.__all__), path.name
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert "llm_stresstest" not in [node.module for node in imported], path.name


def test_the_seven_functions_stand_in_pipeline_order_and_main_shows_them_all() -> None:
    names = [
        "load_config", "load_questions", "test_connection", "send_question", "process_questions",
        "calculate_aggregates", "save_results",
    ]  # fmt: skip
    functions = {
        node.name: node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    places = [functions[name].lineno for name in names]
    assert places == sorted(places)
    main = functions["main"]
    used = {node.id for node in ast.walk(main) if isinstance(node, ast.Name)}
    assert set(names) <= used
    assert isinstance(main, ast.AsyncFunctionDef)
    assert (main.end_lineno or 0) - main.lineno < 50


def test_the_version_is_the_same_everywhere() -> None:
    assert f'version = "{st.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {st.__version__}" in (ROOT / "CHANGELOG.md").read_text()
