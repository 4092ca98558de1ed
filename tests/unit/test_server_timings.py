"""What servers say of their own times, in their own ways: from their last events to a result."""

from __future__ import annotations

import json
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import chunk, finish, sse, usage

TEXT = chunk(content="Hi")


def read(*events: Any, header_ms: int | None = None) -> st.Result:
    """Return a result that is filled from these events."""
    parsed = st.ParsedAnswer()
    parsed.timings.said["header_ms"] = header_ms
    raw = st.SSEDecoder().feed_raw(sse(*events, "[DONE]"))
    parsed.read_stream(st.APIS["chat"], ((place, data) for place, (_, data) in enumerate(raw)))
    assert parsed.failure is None
    result = st.Result(0, "q", "Who?")
    parsed.fill(result, 0, st.Redactor([]))
    return result


def times(result: st.Result) -> tuple[float | None, float | None, float | None]:
    return result.server_queue_ms, result.server_prefill_ms, result.server_decode_ms


LLAMA = {
    "cache_n": 60,
    "prompt_n": 8,
    "prompt_ms": 43.237,
    "predicted_n": 25,
    "predicted_ms": 238.74,
}
VLLM = {"time_to_first_token_ms": 85.2, "generation_time_ms": 1240.5, "queue_time_ms": 12.3}
GROQ: dict[str, Any] = {
    "queue_time": 0.0375,
    "prompt_time": 0.00068,
    "completion_time": 0.463333333,
}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([TEXT, {**finish(), "timings": LLAMA}], (None, 43.237, 238.74)),
        ([TEXT, finish(), {**usage(), "timings": LLAMA}], (None, 43.237, 238.74)),
        ([TEXT, finish(), {**usage(), "metrics": VLLM}], (12.3, 85.2, 1240.5)),
        ([TEXT, {**finish(), "x_groq": {"id": "r", "usage": GROQ}}], (37.5, 0.68, 463.333)),
        ([TEXT, finish(), usage(**GROQ)], (37.5, 0.68, 463.333)),
        ([TEXT, {**finish(), "time_info": GROQ}], (37.5, 0.68, 463.333)),
        (
            [TEXT, {**finish(), "prompt_eval_duration": 61634000, "eval_duration": 2065715000}],
            (None, 61.634, 2065.715),
        ),
        ([TEXT, finish(), usage()], (None, None, None)),
    ],
    ids=["llama.cpp", "llama.cpp usage", "vLLM", "x_groq", "Groq", "Cerebras", "Ollama", "none"],
)
def test_a_servers_own_times_are_read(
    events: list[Any], expected: tuple[float | None, ...]
) -> None:
    assert times(read(*events)) == expected


def test_the_queue_of_text_generation_inference_comes_in_a_header() -> None:
    assert times(read(TEXT, finish(), header_ms=7)) == (7, None, None)


def test_llama_cpps_cached_tokens_count_where_usage_says_nothing() -> None:
    assert read(TEXT, {**finish(), "timings": LLAMA}).cached_tokens == 60
    details: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": 4}}
    assert read(TEXT, finish(), {**usage(**details), "timings": LLAMA}).cached_tokens == 4


@pytest.mark.parametrize("odd", ["12", None, True, -1, 1e300, 10**400, [], {"a": 1}])
def test_what_is_no_time_is_not_taken_for_one(odd: Any) -> None:
    timings = {"prompt_ms": odd, "predicted_ms": odd, "cache_n": odd if odd != {"a": 1} else 1.5}
    result = read(TEXT, {**finish(), "timings": timings, "metrics": odd, "x_groq": odd})
    assert times(result) == (None, None, None)
    assert result.answer == "Hi"


def test_ttft_splits_into_prefill_and_the_wait_before_it() -> None:
    ms = st.NS_PER_MS
    results = [
        st.Result(
            place, "q", "Who?", sent_ns=0, first_ns=100 * ms, end_ns=200 * ms, token=5, chunks=5,
            prompt_tokens=70, cached_tokens=10, server_prefill_ms=40.0, server_decode_ms=90.0,
        )
        for place in range(3)
    ]  # fmt: skip
    aggregate = st.calculate_aggregates(results, st.Config(server="embedded", model="m"))
    assert aggregate["server_prefill_ms"]["p50"] == 40
    assert aggregate["server_wait_ms"]["p50"] == 60
    assert aggregate["prefill_tokens_per_s"] == 1500
    record = json.loads(json.dumps(results[0].to_record()))
    assert times(st.Result.from_record(record)) == (None, 40, 90)
