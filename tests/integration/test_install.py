"""How the program finds its packages: in .venv beside it, by uv, or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import llm_stresstest as st
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a Python that has no packages, as a distribution's own."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a copy of the script, and nothing else."""
    shutil.copy(ROOT / "llm_stresstest.py", tmp_path)
    return tmp_path


def run(
    folder: Path, *command: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd or folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def make_venv(folder: Path, *, packages: bool) -> None:
    """Make .venv, with this environment's packages or without any."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    if packages:
        (site,) = folder.glob(".venv/lib/python*/site-packages")
        (site / "packages.pth").write_text(sysconfig.get_path("purelib"))


def test_without_its_packages_it_says_the_one_command_that_makes_its_environment(
    folder: Path, bare: str
) -> None:
    ended = run(folder, bare, "llm_stresstest.py", "x")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr == (
        "llm_stresstest: needs aiohttp: python3 -m venv .venv && .venv/bin/pip install aiohttp msgspec openai pydantic rich\n"
    )
    (folder / "pyproject.toml").touch()
    ended = run(folder, bare, str(folder / "llm_stresstest.py"), "x", cwd=Path("/"))
    assert f"needs aiohttp: cd {folder} && python3 -m venv .uv && " in ended.stderr


def test_a_cron_line_with_another_python_runs_in_the_environment_beside_the_script(
    folder: Path, bare: str
) -> None:
    make_venv(folder, packages=True)
    ended = run(folder, bare, str(folder / "llm_stresstest.py"), "--version", cwd=Path("/"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"llm_stresstest.py {st.__version__}\n"


def test_the_exit_code_and_the_arguments_pass_through_the_environment_beside_the_script(
    folder: Path, bare: str
) -> None:
    make_venv(folder, packages=True)
    ended = run(folder, bare, "llm_stresstest.py", "a name", "--config", "no such file.json")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "no such file.json" in ended.stderr


def test_an_environment_that_lacks_the_packages_too_is_tried_once(folder: Path, bare: str) -> None:
    make_venv(folder, packages=False)
    ended = run(folder, bare, "llm_stresstest.py", "x")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "needs aiohttp" in ended.stderr


@pytest.mark.parametrize("name", st.PACKAGES)
def test_each_package_is_missed_before_the_run_and_not_in_its_middle(
    folder: Path, name: str
) -> None:
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        f"    def find_spec(self, name, *_):\n        if name == {name!r}: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    ended = run(folder, sys.executable, "llm_stresstest.py", "x", PYTHONPATH=str(folder))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"needs {name}: " in ended.stderr


def test_the_packages_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.split(r"[<>=]", entry)[0] for entry in project["project"]["dependencies"]]
    assert names == list(st.PACKAGES)
    groups = set(project["dependency-groups"])
    assert {tool.group for tool in st.TOOLS.values() if tool.group} | {"dev", "embedded"} <= groups
    assert set(project["tool"]["uv"]["default-groups"]) <= groups


# === A tool's group ===

FAKE_UV = """\
#!/bin/sh
echo "$@" >> "$HOME/uv.log"
case "$1" in
    sync) exit "$FAKE_SYNC" ;;
    run) while [ "$1" != python ]; do shift; done; shift
         PYTHONPATH="$HOME/fetched" exec "$FAKE_PYTHON" "$@" ;;
esac
"""


@pytest.fixture
def tool(folder: Path) -> Path:
    """Return a folder whose tool `grade` needs a package that only a uv can bring."""
    (folder / "extensions").mkdir()
    (folder / "extensions" / "quality.py").write_text(
        "import sys\nimport brought\ndef main(argv):\n    print(argv, sys.stdin.read())\n    return 7\n"
    )
    uv = folder / "uv"
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    (folder / "fetched").mkdir()
    return folder


def grade(folder: Path, sync: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "llm_stresstest.py", "grade", "a run"],
        cwd=folder, input="from stdin", capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "FAKE_PYTHON": sys.executable, "FAKE_SYNC": str(sync), **env},
    )  # fmt: skip


def test_a_tool_started_by_uv_run_gets_its_group_and_keeps_stdin_and_exit_code(tool: Path) -> None:
    (tool / "fetched" / "brought.py").touch()
    ended = grade(tool, UV=str(tool / "uv"))
    assert (ended.returncode, ended.stdout) == (7, "['a run'] from stdin\n"), ended.stderr
    assert ended.stderr == "grade needs brought: fetching the group quality\n".replace(
        "grade", "quality"
    )
    sync, start = (tool / "uv.log").read_text().splitlines()
    assert sync == f"sync --quiet --inexact --project {tool} --only-group quality"
    assert start == f"run --project {tool} --group quality python llm_stresstest.py grade a run"


def test_a_group_that_does_not_help_is_fetched_once(tool: Path) -> None:
    ended = grade(tool, UV=str(tool / "uv"))
    assert ended.returncode == 2
    assert len((tool / "uv.log").read_text().splitlines()) == 2
    assert ended.stderr.count("\n") == 2, "what it fetched, and what is still missing"


@pytest.mark.parametrize("by_uv", [True, False])
def test_offline_or_without_uv_a_missing_group_is_one_line_with_the_command(
    tool: Path, by_uv: bool
) -> None:
    uv = {"UV": str(tool / "uv")} if by_uv else {}
    ended = grade(tool, sync=1, **uv)
    assert ended.returncode == 2
    command = f"{tool / 'uv' if by_uv else 'uv'} sync --inexact --group quality"
    assert ended.stderr.splitlines()[-1] == f"llm_stresstest: quality needs brought: {command}"
    assert len(ended.stderr.splitlines()) == (2 if by_uv else 1)


# === The README's commands ===

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_command_keeps_uv_out_of_the_environment_that_uv_makes() -> None:
    first, *_ = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
    assert (
        first
        == "python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uv run llm_stresstest.py first_run"
    )
    assert ".uv/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_shipped_config_asks_the_whole_catalogue() -> None:
    config = st.load_config(ROOT / "config.json")
    questions = st.load_questions(ROOT / "questions.json", config.question_count)
    assert (
        len(questions)
        == len(json.loads((ROOT / "questions.json").read_text()))
        >= st.min_samples(0.95)
    )
