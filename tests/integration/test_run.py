"""A run from files to file, over a real socket."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    MODEL,
    ROOT,
    Project,
    ScriptedServer,
    ask_each,
    ask_one,
    sse,
    streams,
    whole,
)

CLASSIC_META = ["start_date", "start_time", "end_date", "end_time", "server", "model", "concurrent", "questions", "timeout", "total_duration_ms", "schema_version", "status", "validity", "run_id", "config", "questions_sha256", "client", "hardware"]  # fmt: skip
CLASSIC_RESULT = ["question", "answer", "time", "token", "quality", "id", "status", "error", "stage", "sent_ms", "scheduled_ms", "ttft_ms", "answer_ttft_ms", "tpot_ms", "chunk_ms", "reasoning", "prompt_tokens", "reasoning_tokens", "cached_tokens", "token_source", "finish_reason"]  # fmt: skip
CLASSIC_AGGREGATE = ["runtime_sum", "runtime_avg", "runtime_min", "runtime_max", "token_sum", "token_avg", "token_min", "token_max", "requests", "ok", "failed", "error_rate", "duration_ms", "requests_per_s", "tokens_per_s", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "goodput_per_s", "quality", "energy", "stages"]  # fmt: skip


def test_run_writes_every_answer_and_a_summary(project: Project) -> None:
    finished = project.run("run")
    assert finished.code == 0, finished.err
    data = project.results()
    assert [entry["answer"] for entry in data["results"]] == ["Hello world"] * 4
    assert [entry["question"] for entry in data["results"]] == ["One?", "Two?", "Three?", "One?"]
    assert data["aggregate"]["token_sum"] == 8
    assert "4 ok" in finished.out and "results/run.json" in finished.out
    assert project.files == ["logs/" + project.files[0].removeprefix("logs/"), "results/run.json"]


def test_keys_stand_in_the_order_of_the_contract(project: Project) -> None:
    project.run("run")
    data = project.results()
    assert list(data) == ["meta", "results", "aggregate"]
    assert list(data["meta"])[: len(CLASSIC_META)] == CLASSIC_META
    assert list(data["results"][0])[: len(CLASSIC_RESULT)] == CLASSIC_RESULT
    assert list(data["aggregate"])[: len(CLASSIC_AGGREGATE)] == CLASSIC_AGGREGATE
    assert list(data["aggregate"]["ttft_ms"])[:8] == [
        "avg",
        "std",
        "min",
        "max",
        "p50",
        "p90",
        "p95",
        "p99",
    ]


def test_results_come_in_the_order_of_the_catalogue_though_answers_end_in_another(
    project: Project, server: ScriptedServer
) -> None:
    slow, fast = streams("slow", pause_s=0.1), streams("fast")

    async def behave(request: Any, writer: Any) -> None:
        await (slow if request.question == "One?" else fast)(request, writer)

    server.behaviour = behave
    project.run("run", "--set", "questions=3", "--set", "concurrent=3")
    assert [entry["question"] for entry in project.results()["results"]] == [
        "One?",
        "Two?",
        "Three?",
    ]


async def test_never_more_requests_in_flight_than_concurrent(server: ScriptedServer) -> None:
    server.behaviour = streams("a", "b", pause_s=0.01)
    results, _ = await ask_each(server.url, ["x"] * 30, concurrent=5)
    assert len(results) == 30
    assert server.most_at_once == 5


def test_runs_from_cron_without_terminal_and_environment(project: Project) -> None:
    finished = subprocess.run(
        [sys.executable, str(ROOT / "llm_stresstest.py"), "nightly", "-c", str(project.folder / "config.json"),
         "-q", str(project.folder / "questions.json")],
        cwd="/", env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert (project.folder / "results" / "nightly.json").is_file()
    assert "\x1b" not in finished.stdout + finished.stderr


def test_three_files_alone_in_a_folder_run(project: Project) -> None:
    shutil.copy(ROOT / "llm_stresstest.py", project.folder)
    finished = subprocess.run(
        [sys.executable, "llm_stresstest.py", "alone"],
        cwd=project.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert (project.folder / "results" / "alone.json").is_file()


def test_embedded_without_the_extensions_folder_is_one_line(project: Project) -> None:
    shutil.copy(ROOT / "llm_stresstest.py", project.folder)
    project.configure(server="embedded")
    finished = subprocess.run(
        [sys.executable, "llm_stresstest.py", "alone"],
        cwd=project.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1 and "extensions/embedded.py" in finished.stderr


def test_a_second_run_of_a_name_gets_a_time_stamp_and_says_so(project: Project) -> None:
    project.run("run")
    first = (project.folder / "results" / "run.json").read_bytes()
    finished = project.run("run.json")
    assert finished.code == 0
    assert "run is taken; this run is run_2" in finished.err
    assert (project.folder / "results" / "run.json").read_bytes() == first
    assert len(list((project.folder / "results").glob("run_*.json"))) == 1


def test_the_command_for_afterwards_finds_a_run_in_another_folder(
    project: Project, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "else where"
    finished = project.run("run", "--results-dir", str(elsewhere))
    (last,) = (line for line in finished.out.splitlines() if "llm_stresstest.py " in line)
    tool, *arguments = shlex.split(last.partition("llm_stresstest.py ")[2])
    assert arguments == ["run", "--results-dir", str(elsewhere)]
    again = project.run(tool, *arguments)
    assert again.code == 0 and str(elsewhere / "run") in again.out.replace("\n", ""), again


def test_overwrite_replaces_the_file(project: Project) -> None:
    project.run("run")
    project.run("run", "--overwrite", "--set", "questions=2")
    assert len(project.results()["results"]) == 2
    assert len(list((project.folder / "results").iterdir())) == 1


def test_dry_run_asks_nothing_and_writes_nothing(project: Project, server: ScriptedServer) -> None:
    finished = project.run("run", "--dry-run")
    assert finished.code == 0
    assert "nothing was asked" in finished.out
    assert server.requests == [] and project.files == []


def test_quiet_prints_nothing(project: Project) -> None:
    finished = project.run("run", "--quiet")
    assert (finished.code, finished.out, finished.err) == (0, "", "")


def test_a_reader_that_leaves_does_not_change_the_exit_code(project: Project) -> None:
    command = f"{sys.executable} {ROOT / 'llm_stresstest.py'} run; echo code $? >&2"
    finished = subprocess.run(
        ["bash", "-c", f"({command}) | head -c 1"],
        cwd=project.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.stderr == "code 0\n"


def test_progress_without_a_terminal_is_plain_lines(
    project: Project, server: ScriptedServer
) -> None:
    finished = project.spawn("run")
    assert finished.code == 0
    assert "\x1b" not in finished.out + finished.err


@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
async def test_each_api_is_asked_and_read_in_its_own_way(server: ScriptedServer, api: str) -> None:
    streams_of: dict[str, list[dict[str, Any]]] = {
        "completions": [
            {
                "object": "text_completion",
                "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}],
            }
        ],
        "chat": [{"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}],
        "responses": [
            {"type": "response.created", "response": {}},
            {"type": "response.output_text.delta", "delta": "Hi"},
            {
                "type": "response.completed",
                "response": {"usage": {"input_tokens": 3, "output_tokens": 1}},
            },
        ],
    }
    body = sse(*streams_of[api])

    async def behave(_request: Any, writer: Any) -> None:
        writer.write(whole(body))

    server.behaviour = behave
    result = await ask_one(server.url, api=api, system_prompt="Be brief.", max_tokens=9)
    assert (result.status, result.answer) == ("ok", "Hi"), result.error
    sent = server.requests[0].json
    assert server.requests[0].path == f"/v1/{st.APIS[api].path}"
    assert sent["model"] == MODEL and sent["stream"] is True
    assert {"chat": "messages", "completions": "prompt", "responses": "input"}[api] in sent
    assert sent["max_output_tokens" if api == "responses" else "max_tokens"] == 9
    assert "Be brief." in json.dumps(sent)


async def test_without_streaming_there_is_a_time_but_no_ttft(server: ScriptedServer) -> None:
    answer = {
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
    }

    async def behave(_request: Any, writer: Any) -> None:
        writer.write(whole(json.dumps(answer).encode(), content_type="application/json"))

    server.behaviour = behave
    result = await ask_one(server.url, stream=False)
    assert (result.status, result.answer, result.token, result.token_source) == (
        "ok",
        "Hi",
        3,
        "usage",
    )
    assert result.time_ms is not None and result.time_ms > 0
    assert result.ttft_ms is None and result.tpot_ms is None
    assert server.requests[0].json["stream"] is False


async def test_ttft_counts_from_sent_to_the_first_text(server: ScriptedServer) -> None:
    server.behaviour = streams("a", "b", "c", pause_s=0.05)
    result = await ask_one(server.url)
    assert result.ttft_ms is not None and result.time_ms is not None and result.tpot_ms is not None
    assert 45 < result.ttft_ms < 95, "role-only chunk at 0, first text at 50 ms"
    assert 140 < result.time_ms < 240
    assert result.tpot_ms == pytest.approx((result.time_ms - result.ttft_ms) / 2)
    assert result.chunk_gaps_us is not None and len(result.chunk_gaps_us) == 2


async def test_connections_are_kept_and_connecting_is_recorded_apart(
    server: ScriptedServer,
) -> None:
    results, _ = await ask_each(server.url, ["x"] * 5, concurrent=1)
    assert results[0].connect_ms is not None
    assert [result.connect_ms for result in results[1:]] == [None] * 4


async def test_turns_keep_their_order_and_carry_the_conversation(server: ScriptedServer) -> None:
    results, _ = await ask_each(
        server.url, [{"turns": ["First?", "Second?"]}, {"question": "Other?"}]
    )
    assert [(result.turn, result.question) for result in results] == [
        (0, "First?"),
        (1, "Second?"),
        (0, "Other?"),
    ]
    second = next(request for request in server.requests if request.question == "Second?")
    assert [message["content"] for message in second.json["messages"]] == [
        "First?",
        "Hello world",
        "Second?",
    ]


def test_the_key_comes_from_the_environment_and_reaches_the_server(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, api_key_env="MY_KEY", headers={"X-Team": "${TEAM}"})
    finished = project.run("run", env={"MY_KEY": "sk-canary-123456", "TEAM": "red-team-9"})
    assert finished.code == 0, finished.err
    assert {request.headers["authorization"] for request in server.requests} == {
        "Bearer sk-canary-123456"
    }
    assert {request.headers["x-team"] for request in server.requests} == {"red-team-9"}


def test_without_a_key_no_authorization_is_sent(project: Project, server: ScriptedServer) -> None:
    project.run("run")
    assert all("authorization" not in request.headers for request in server.requests)


def test_the_log_holds_one_record_a_line_with_milliseconds(project: Project) -> None:
    project.run("run", "--log-level", "DEBUG")
    lines = project.log().splitlines()
    assert len(lines) >= 4
    for line in lines:
        assert re.match(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) ", line
        ), line
    assert any("status=ok" in line and "ttft_ms=" in line for line in lines)


def test_missing_classic_keys_fall_back_with_a_warning(
    project: Project, server: ScriptedServer
) -> None:
    project.write("config.json", json.dumps({"server": server.url, "model": MODEL}))
    assert project.run("run").code == 0
    assert "WARNING config.json: timeout is not set; using 120" in project.log()
    assert len(project.results()["results"]) == 3


def test_a_module_imported_by_an_extension_is_the_running_one() -> None:
    code = "import runpy, sys; sys.argv = ['x', '--version']\ntry: runpy.run_path('llm_stresstest.py', run_name='__main__')\nexcept SystemExit: pass"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert "llm_stresstest.py 0." in finished.stdout, finished.stderr
