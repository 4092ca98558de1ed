"""A run with its machine watched: files, journal, resuming, the summary, and runs beside each other."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import llm_stresstest as st
from tests.conftest import ROOT, Project, ScriptedServer, streams, wait_until
from tests.extensions.stand_ins import DATA, serving

WATCHED = {"sample_s": 0.2, "idle_s": 0.4, "power_command": "echo 80", "price_per_kwh": 0.3}


@pytest.fixture
def watched(project: Project, server: ScriptedServer) -> Project:
    """A project whose runs take about a second and a half, with a plug that says 80 W."""
    server.behaviour = streams("a", "b", "c", "d", pause_s=0.1)
    project.configure(server=server.url, questions=8, hardware=WATCHED)
    return project


def test_the_results_hold_machine_server_samples_and_energy(watched: Project) -> None:
    assert watched.run("run").code in (0, 1)
    data = watched.results()
    assert list(data) == ["meta", "results", "aggregate", "samples"]
    machine = data["meta"]["hardware"]
    assert machine["cores_logical"] == psutil.cpu_count()
    assert machine["host"] == "client and server", "the server is on the loopback interface"
    assert machine["load"]["memory_peak_bytes"] > 1 << 28
    assert data["meta"]["server_info"]["model"] == "test-model"
    table, aggregate = data["samples"], data["aggregate"]
    begun_ms, ended_ms = aggregate["window_ms"]
    inside = [at_ms for at_ms in table["t_ms"] if begun_ms <= at_ms <= ended_ms]
    assert len(inside) >= 0.5 * (ended_ms - begun_ms) / 200
    assert table["idle_ms"][0][0] < 0, "times count from the start of the load"
    assert all(len(column) == len(table["t_ms"]) for column in table["columns"].values())
    wall = aggregate["energy"]["wall"]
    assert wall["wh"] == pytest.approx(80 * (ended_ms - begun_ms) / 3_600_000, rel=0.01)
    assert wall["wh_net"] == pytest.approx(0, abs=1e-6)
    tokens = aggregate["token_sum"]
    assert wall["j_per_token"] == pytest.approx(wall["wh"] * 3600 / tokens, rel=1e-3)
    assert aggregate["energy"]["gpu"]["reason"]
    assert aggregate["quality"]["wh_per_correct"] is None, "nothing was graded"


def test_the_summary_says_what_ran_where_and_what_it_cost(watched: Project) -> None:
    out = watched.run("run").out
    (machine,) = [line for line in out.splitlines() if line.startswith("machine ")]
    assert f"{psutil.cpu_count()} cores" in out
    (energy,) = [line for line in out.splitlines() if line.startswith("energy ")]
    assert "wall 80.0" in energy
    assert "idle 80.0" in energy
    assert machine


def test_a_sweep_has_energy_and_heat_for_each_stage_and_cools_down_between(
    watched: Project,
) -> None:
    watched.run("run", "--set", "concurrent=[2,4]", "--set", "cooldown=0.7")
    aggregate = watched.results()["aggregate"]
    first, second = aggregate["stages"]
    assert second["window_ms"][0] - first["window_ms"][1] >= 700
    each = [stage["energy"]["wall"]["wh"] for stage in (first, second)]
    assert aggregate["energy"]["wall"]["wh"] == pytest.approx(sum(each), rel=1e-3)
    assert len(watched.results()["meta"]["hardware"]["load"]["stages"]) == 2


def test_a_correct_answer_has_its_watt_hours(watched: Project) -> None:
    question = {"question": "abcd?", "grader": "contains", "expected": "abcd"}
    watched.write("questions.json", json.dumps([question]))
    watched.run("run", "--set", "questions=10")
    aggregate = watched.results()["aggregate"]
    wall, quality = aggregate["energy"]["wall"], aggregate["quality"]
    assert quality["correct"] == 10
    assert wall["wh_per_1000_correct"] == pytest.approx(100 * wall["wh"], rel=1e-3)
    assert quality["wh_per_correct"] == pytest.approx(wall["wh"] / 10, rel=1e-2)


def test_samples_stand_in_the_journal_as_they_come_and_survive_a_kill(watched: Project) -> None:
    running = watched.start("run", "--quiet", "--set", "questions=24")
    journal = watched.folder / "results" / "run.journal"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if journal.exists():
            reader = st.JournalReader(journal)
            if len(reader.samples) > 6 and len(reader) > 2:
                break
        time.sleep(0.05)
    running.kill()
    running.wait()
    running.communicate()
    before = st.JournalReader(journal).samples
    assert watched.run("run", "--resume", "--quiet").code in (0, 1)
    table = watched.results()["samples"]
    kept = {row["t_ms"] for row in before}
    assert kept <= set(table["t_ms"]), "what was watched before the kill is still there"
    assert len(table["idle_ms"]) == 2
    assert table["t_ms"] == sorted(table["t_ms"])


def test_two_runs_on_one_server_are_suspect_and_wait_makes_them_follow(watched: Project) -> None:
    first = watched.start("first", "--set", "questions=30")
    journal = watched.folder / "results" / "first.journal"
    wait_until(journal.exists, first)
    beside = watched.start("beside")
    waiting = watched.start("waiting", "--wait")
    outs = {name: process.communicate(timeout=90) for name, process in (
        ("first", first), ("beside", beside), ("waiting", waiting),
    )}  # fmt: skip
    codes = {
        name: {reason["code"] for reason in watched.results(name)["meta"]["validity"]["reasons"]}
        for name in outs
    }
    assert "shared_server" in codes["first"]
    assert "shared_server" in codes["beside"]
    assert "shared_server" not in codes["waiting"]
    assert "waits until another run on this server has ended" in outs["waiting"][1]
    ends = {name: watched.results(name)["meta"]["end_time"] for name in outs}
    assert watched.results("waiting")["meta"]["start_time"] > ends["first"]


def test_a_waiting_run_ends_at_once_when_it_is_stopped(watched: Project) -> None:
    first = watched.start("first", "--set", "questions=24")
    journal = watched.folder / "results" / "first.journal"
    wait_until(journal.exists, first)
    waiting = watched.start("waiting", "--wait")
    assert waiting.stderr is not None
    assert "waits until" in waiting.stderr.readline()
    waiting.terminate()
    assert waiting.wait(10) == 143
    waiting.communicate()
    first.terminate()
    assert first.wait(20) == 143
    first.communicate()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sample_s": -1}, "hardware.sample_s"),
        ({"sample_s": 0.01}, "hardware.sample_s: 0.01 is too often"),
        ({"power_path": "a"}, "hardware.power_path: says where in the answer of power_url"),
        ({"power_url": "plug"}, "hardware.power_url"),
        (
            {"power_url": "http://p/", "power_command": "x"},
            "hardware.power_command: power_url is set as well",
        ),
        ({"power_command": "echo '5"}, "hardware.power_command: No closing quotation"),
        ({"power_command": " "}, "hardware.power_command: is empty"),
        ({"power_url": "http://me:${NO_SUCH}@p/"}, "the environment variable NO_SUCH is not set"),
        ({"watts": 5}, "hardware.watts"),
        ({"metrics_url": 5}, "hardware.metrics_url"),
    ],
)
def test_bad_settings_are_one_line(project: Project, settings: Any, said: str) -> None:
    config = json.loads((project.folder / "config.json").read_text())
    project.write("config.json", json.dumps({**config, "hardware": settings}))
    finished = project.run("run")
    assert finished.code == 2
    assert len(finished.err.splitlines()) == 1
    assert said in finished.err


def test_a_plugs_address_may_have_a_query_and_its_password_stays_out_of_the_files(
    watched: Project,
) -> None:
    with serving({"/rpc/Switch.GetStatus?id=0": {"apower": 33.3}}) as plug:
        url = (
            plug.url.replace("http://", "http://me:plug-pass-word@") + "/rpc/Switch.GetStatus?id=0"
        )
        config = json.loads((watched.folder / "config.json").read_text())
        hardware = {"sample_s": 0.2, "idle_s": 0, "power_url": url, "power_path": "apower"}
        watched.write("config.json", json.dumps({**config, "hardware": hardware}))
        finished = watched.run("run")
    assert watched.results()["aggregate"]["energy"]["wall"]["mean_w"] == pytest.approx(33.3)
    texts = [finished.out, finished.err, watched.log(), json.dumps(watched.results())]
    assert not [text for text in texts if "plug-pass-word" in text]


def test_a_dry_run_shows_the_command_and_does_not_run_it(watched: Project) -> None:
    mark = watched.folder / "was_run"
    command = f"touch {mark}"
    finished = watched.run("run", "--dry-run", "--set", f"hardware.power_command={command}")
    assert finished.code == 0
    assert "touch" in finished.out
    assert not mark.exists()


def test_the_servers_page_is_in_samples_and_figures(watched: Project) -> None:
    page = (DATA / "metrics_vllm.txt").read_text()
    lock, count = threading.Lock(), [0]

    def grow(handler: Any) -> None:
        with lock:
            count[0] += 1
            grown = page.replace(" 20000.0", f" {20000 + 10 * count[0]}.0")
        handler.send(200, grown.encode())

    with serving({"/metrics": grow}) as metrics:
        url = f"hardware.metrics_url={metrics.url}/metrics"
        watched.run("run", "--set", url)
    data = watched.results()
    assert data["samples"]["columns"]["running"][-1] == 22
    server = data["meta"]["hardware"]["load"]["server"]
    assert server["generation_tokens"] >= 20
    assert server["kv_cache_usage_peak"] == 0.4371


def test_without_the_extension_the_run_goes_on_and_says_why(
    watched: Project, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(ROOT / "llm_stresstest.py", alone)
    program = [sys.executable, str(alone / "llm_stresstest.py"), "run", "--quiet"]
    options = ["--config", str(watched.folder / "config.json")]
    options += ["--questions", str(watched.folder / "questions.json")]
    process = psutil.Popen([*program, *options], cwd=watched.folder)
    assert process.wait(60) in (0, 1)
    data = watched.results()
    assert "extensions/hardware.py" in data["meta"]["hardware"]["unavailable"]
    assert data["meta"]["server_info"] is None
    assert "samples" not in data


def test_forged_samples_are_a_difference_and_no_fault(watched: Project) -> None:
    watched.run("run")
    path = watched.folder / "results" / "run.json"
    good = json.loads(path.read_bytes())
    for forge in (
        {"columns": {"wall_w": [1.0] * len(good["samples"]["t_ms"])}},
        {"t_ms": "x"},
        {"columns": None},
        {"sample_s": "1"},
    ):
        path.write_text(json.dumps({**good, "samples": {**good["samples"], **forge}}))
        finished = watched.run("verify", "run")
        assert finished.code == 1
        assert "aggregate" in finished.out


def test_no_process_is_left_behind(watched: Project) -> None:
    def samplers() -> set[int]:
        return {
            process.pid
            for process in psutil.Process().children(recursive=True)
            if process.status() != psutil.STATUS_ZOMBIE  # of another test's
            and "sampler.py" in " ".join(process.cmdline())
        }

    before = samplers()
    watched.run("run")
    assert samplers() == before


def test_a_run_that_is_graded_anew_keeps_samples_machine_server_and_energy(
    watched: Project,
) -> None:
    question = {"id": "q", "question": "abcd?", "grader": "contains", "expected": "none"}
    watched.write("questions.json", json.dumps([question]))
    watched.run("run", "--set", "questions=10", "--set", "concurrent=[1,2]")
    watched.write("questions.json", json.dumps([{**question, "expected": "abcd"}]))
    finished = watched.run("grade", "run")
    assert finished.code == 0, finished.err
    before, after = watched.results("run"), watched.results("run_graded")
    assert list(after) == list(before) and after["samples"] == before["samples"]
    for name in ("hardware", "server_info", "client", "config", "status"):
        assert after["meta"][name] == before["meta"][name]
    parts = [[run["aggregate"], *run["aggregate"]["stages"]] for run in (before, after)]
    for old, new in zip(*parts, strict=True):
        wall = [part["energy"]["wall"] for part in (old, new)]
        measured = {name for name in wall[0] if "correct" not in name}
        assert {"wh", "wh_net", "mean_w", "j_per_token"} <= measured
        assert all(wall[0][name] == wall[1][name] for name in measured)
        assert wall[1]["wh"] > 0
    assert before["aggregate"]["quality"]["correct"] == 0
    assert after["aggregate"]["quality"]["correct"] == 30, "the lowest level is asked twice"
    assert after["aggregate"]["quality"]["wh_per_correct"] > 0
