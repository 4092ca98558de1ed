"""Runs of odd shapes, and servers that make them; the tests of report and export look at each."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import llm_stresstest as st
from tests.conftest import (
    Project,
    Request,
    ScriptedServer,
    chunk,
    finish,
    sends,
    sse,
    streams,
    usage,
    whole,
)

MS = 1_000_000
QUESTIONS = [
    {"id": "one", "question": "One?", "category": "count", "grader": "contains", "expected": "Hello"},
    {"id": "two", "question": "Two?", "category": "count", "grader": "contains", "expected": "nothing of it"},
    {"id": "three", "question": "Three?", "category": "other"},
]  # fmt: skip


def failing() -> Any:
    body = json.dumps({"error": {"message": "injected <failure>"}}).encode()
    return sends(whole(body, "500 Internal Server Error", "application/json"))


async def every_third_fails(request: Request, writer: asyncio.StreamWriter) -> None:
    behave = (
        failing() if request.number % 3 == 1 else streams("Hello", " world", "!", pause_s=0.002)
    )
    await behave(request, writer)


def reasoning() -> Any:
    events = [
        chunk(role="assistant"),
        chunk(reasoning_content="let me"),
        chunk(reasoning_content=" think"),
    ]
    body = sse(*events, finish("length"), usage(completion=2), "[DONE]")
    return sends(whole(body))


def not_streaming() -> Any:
    message = {"role": "assistant", "content": "Hello"}
    answer = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip
    return sends(whole(json.dumps(answer).encode(), content_type="application/json"))


# name: behaviour, config
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "one_request": (streams("Hello", " world"), {"questions": 1, "concurrent": 1}),
    "no_success": (failing(), {"abort_if": None}),
    "one_token": (streams("Hello"), {"questions": 6}),
    "reasoning_only": (reasoning(), {"questions": 6}),
    "not_streaming": (not_streaming(), {"questions": 6, "stream": False}),
    "some_fail": (every_third_fails, {"questions": 12, "slo": {"ttft_ms": 1000}}),
    "sweep": (
        streams("Hello", " world", "!", pause_s=0.002),
        {"questions": 9, "concurrent": [1, 2, 3]},
    ),
    "open_loop": (streams("Hello", " world"), {"questions": 8, "rate": 200}),
}


def make(project: Project, server: ScriptedServer, shape: str, name: str = "run") -> Path:
    """Run a shape against the scripted server, and return its results file."""
    behaviour, config = SHAPES[shape]
    server.behaviour = behaviour
    known = {key: value for key, value in config.items() if key in st.Config.model_fields}
    project.configure(server=server.url, **known)
    project.write("questions.json", json.dumps(QUESTIONS))
    done = project.run(name, "--quiet")
    assert done.code in (0, 1), done.err
    return project.folder / "results" / f"{name}.json"


def edited(path: Path, name: str, **texts: str) -> Path:
    """Return a copy of a run whose answers, questions, model … say something else."""
    data = json.loads(path.read_bytes())
    for record in data["results"]:
        record.update({key: text for key, text in texts.items() if key in record})
        if "message" in texts and record["error"]:
            record["error"]["message"] = texts["message"]
    data["meta"].update({key: text for key, text in texts.items() if key in data["meta"]})
    if "engine" in texts:
        info = {
            "engine": texts["engine"],
            "version": texts["engine"],
            "quantization": texts["engine"],
        }
        data["meta"]["server_info"] = info
        data["meta"]["hardware"] = {"cpu": texts["engine"], "gpus": [{"name": texts["engine"]}]}
    made = path.with_name(f"{name}.json")
    made.write_text(json.dumps(data), encoding="utf-8")
    return made


def synthetic(folder: Path, requests: int, levels: list[int], name: str = "made") -> Path:
    """Save a run of so many requests, a stage a level, without asking anybody."""
    config = st.Config(
        server="http://127.0.0.1:1/v1",
        model="m",
        concurrent=levels if len(levels) > 1 else levels[0],
    )
    each = requests // len(levels)
    results = [
        st.Result(
            index, f"q{index % 50}", f"Question {index % 50}?", category=f"c{index % 5}",
            stage=min(index // each, len(levels) - 1), answer="An answer", token=10 + index % 7,
            prompt_tokens=5 + index % 40, sent_ns=index * MS, end_ns=(index + 60 + index % 9) * MS,
            first_ns=(index + 10 + index % 13) * MS, answer_ns=(index + 10 + index % 13) * MS,
            chunks=10, token_source="usage", finish_reason="stop", graded=True, grader="exact",
            quality=float(index % 3 == 0), grade_reason="other",
        )
        for index in range(each * len(levels))
    ]  # fmt: skip
    aggregate = st.calculate_aggregates(results, config)
    meta = {
        "start_date": "2026-11-25", "start_time": "12:00:00.000", "end_date": "2026-11-25",
        "end_time": "12:01:00.000", "server": config.server, "model": "m",
        "concurrent": config.concurrent, "questions": requests, "timeout": 120.0,
        "total_duration_ms": 60000.0, "schema_version": st.SCHEMA_VERSION, "status": "complete",
        "validity": {"verdict": "VALID", "reasons": []}, "run_id": "0", "questions_sha256": "0",
        "config": config.model_dump(), "client": {"version": st.__version__}, "hardware": None,
        "questions_asked": each, "utc_offset": "+0100", "thresholds": [], "embedded": None,
        "tls_verified": None,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return st.save_results(folder / f"{name}.json", meta, results, aggregate)
