"""Streams in the shapes that real servers were recorded to send, cut in every way: each is read for what it is.

The texts are made up; the shapes are those of the providers named. Fields that a provider adds are kept where a reader
could trip over them.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Request, ScriptedServer, ask_each, ask_one, chunk, head, http_chunk, sse

DONE = "[DONE]"


def delta(provider: dict[str, Any], finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk as this provider dresses it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", **provider, "choices": [choice]}  # fmt: skip


def counts(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **more,
    }


@dataclass(frozen=True)
class Shape:
    """A provider's stream and what must be read from it."""

    name: str
    stream: bytes
    answer: str = ""
    reasoning: str = ""
    token: int | None = None
    finish: str | None = "stop"
    status: str = "ok"
    kind: str | None = None
    first: int = 0  # which event brings the first token
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


OPENAI = {"service_tier": "default", "system_fingerprint": "fp_1", "obfuscation": "x9"}
OPENROUTER = {"id": "gen-1", "provider": "P", "native_finish_reason": None}
TGI = {"id": "", "model": "tgi", "system_fingerprint": "3.0.0-sha"}
SHAPES = [
    Shape(
        "openai: usage null in each chunk, usage-only last chunk",
        sse(
            delta({**OPENAI, "usage": None}, role="assistant", content="", refusal=None),
            delta({**OPENAI, "usage": None}, content="Grüße"),
            delta({**OPENAI, "usage": None}, content=" 🌍"),
            delta({**OPENAI, "usage": None}, "stop"),
            {**delta(OPENAI), "choices": [], "usage": counts(9, 4, prompt_tokens_details={"cached_tokens": 8})},
            DONE,
        ),
        "Grüße 🌍", token=4, first=1, cached_tokens=8,
    ),
    Shape(
        "azure: content filter results in a first chunk without choices and created 0",
        sse(
            {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [{"prompt_index": 0}]},
            delta({}, role="assistant", content="", refusal=None),
            delta({}, content="Hi"),
            delta({}, "stop"),
            DONE,
        ),
        "Hi", token=1, first=2,
    ),
    Shape(
        "deepseek: content null beside reasoning_content, then the other way round",
        sse(
            delta({}, role="assistant", content=None, reasoning_content=""),
            delta({}, content=None, reasoning_content="Let me"),
            delta({}, content=None, reasoning_content=" see."),
            delta({}, content="Two", reasoning_content=None),
            delta({"usage": counts(6, 5, completion_tokens_details={"reasoning_tokens": 3}, prompt_cache_hit_tokens=2)},
                  "stop", content="", reasoning_content=None),
            DONE,
        ),
        "Two", "Let me see.", 5, first=1, reasoning_tokens=3, cached_tokens=2,
    ),
    Shape(
        "openrouter: comments before the first event, reasoning said twice",
        b": OPENROUTER PROCESSING\n\n" * 17
        + sse(delta(OPENROUTER, role="assistant", content="", reasoning="Hm",
                    reasoning_details=[{"type": "reasoning.text", "text": "Hm", "format": "unknown", "index": 0}]))
        + b": OPENROUTER PROCESSING\n\n"
        + sse(delta(OPENROUTER, role="assistant", content="Ja"), delta(OPENROUTER, "stop", content=""),
              delta({**OPENROUTER, "usage": counts(3, 3, cost=0.1, is_byok=False)}, role="assistant", content=""), DONE),
        "Ja", "Hm", 3,
    ),
    Shape(
        "openrouter: only reasoning_details, encrypted ones among them",
        sse(delta(OPENROUTER, content="", reasoning_details=[{"type": "reasoning.summary", "summary": "Hm"}]),
            delta(OPENROUTER, content="", reasoning_details=[{"type": "reasoning.encrypted", "data": "gAAA"}]),
            delta(OPENROUTER, "stop", content="Ja"), DONE),
        "Ja", "Hm", 2,
    ),
    Shape(
        "openrouter: an error object inside a 200, then [DONE]",
        b": OPENROUTER PROCESSING\n\n"
        + sse({**delta(OPENROUTER, "error", role="assistant", content=""), "error": {"code": 502, "message": "Provider returned error"}}, DONE),
        finish=None, status="error", kind="server_error",
    ),
    Shape(
        "groq: reasoning, x_groq beside choices, usage in it",
        sse(delta({"x_groq": {"id": "req_1"}}, role="assistant", content=None, channel="analysis", reasoning="Hm"),
            delta({}, content="Ja"), delta({"x_groq": {"id": "req_1", "usage": counts(9, 9)}}, "stop"), DONE),
        "Ja", "Hm", 9,
    ),
    Shape(
        "groq: event: error and no [DONE]",
        sse(delta({}, role="assistant", content="")) + b"event: error\n"
        + sse({"error": {"message": "Tool choice is required", "type": "invalid_request_error", "status_code": 400}}),
        finish=None, status="error", kind="server_error",
    ),
    Shape(
        "snowflake: no finish reason at all",
        sse(delta({}, content="Ja", content_list=[{"type": "text", "text": "Ja"}]), {"id": "1", "choices": [{"index": 0, "delta": {"content": "!"}}], "usage": counts(2, 2)}, DONE),
        "Ja!", token=2, finish=None,
    ),
    Shape(
        "mistral: content as a list of thinking and text, then as text",
        sse(delta({}, role="assistant", content=""),
            delta({"p": "abc"}, content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]),
            delta({}, content=[{"type": "thinking", "thinking": [{"type": "text", "text": "m"}], "closed": True}]),
            delta({}, content=[{"type": "text", "text": "J"}]), delta({}, content="a"),
            delta({"usage": counts(4, 7)}, "stop", content=""), DONE),
        "Ja", "Hmm", 7, first=1,
    ),
    Shape(
        "vllm: usage-only last chunk, stop_reason and token_ids beside the finish reason",
        sse(delta({"prompt_token_ids": None}, role="assistant", content=""), delta({}, content="Ja", reasoning_content=None),
            {"id": "c", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "length", "stop_reason": None, "token_ids": None}]},
            {"id": "c", "choices": [], "usage": counts(8, 1, prompt_tokens_details=None)}, DONE),
        "Ja", token=1, finish="length", first=1,
    ),
    Shape(
        "xai: usage in every chunk",
        sse(*(delta({"usage": counts(3, n, completion_tokens_details={"reasoning_tokens": 1})}, content=text) for n, text in enumerate("Hallo", 1)),
            delta({"usage": counts(3, 6, completion_tokens_details={"reasoning_tokens": 1})}, "stop", content=""), DONE),
        "Hallo", token=6, reasoning_tokens=1,
    ),
    Shape(
        "perplexity: cumulative usage, the whole message beside the delta, citations",
        sse(*({"id": "1", "object": "chat.completion.chunk", "usage": counts(3, n, search_context_size="low"), "citations": ["https://a"],
               "choices": [{"index": 0, "finish_reason": end, "delta": {"role": "assistant", "content": new},
                            "message": {"role": "assistant", "content": whole}}]}
              for n, new, whole, end in [(1, "J", "J", None), (2, "a", "Ja", None), (2, "", "Ja", "stop")]), DONE),
        "Ja", token=2,
    ),
    Shape(
        "together: <think> tags inside content",
        sse(delta({}, role="assistant", content="<think>"), delta({}, content="\nHm\n"), delta({}, content="</think>"),
            delta({}, content="\n\nJa"), {**delta({}, "stop", content=""), "usage": counts(2, 4)}, DONE),
        "<think>\nHm\n</think>\n\nJa", token=4,
    ),
    Shape(
        "tgi: an empty id, [DONE] without the space after data:",
        sse(delta(TGI, role="assistant", content="J"), delta(TGI, "eos_token", role="assistant", content="a")) + b"data:[DONE]\n\n",
        "Ja", token=2, finish="eos_token",
    ),
    Shape(
        "llama.cpp: timings beside an empty delta, CRLF line ends",
        sse(delta({}, role="assistant", content=None), delta({}, content="Ja"),
            delta({"timings": {"predicted_n": 1, "predicted_per_second": 1e3}}, "stop"),
            {"choices": [], "usage": counts(5, 1), "timings": {}}, DONE).replace(b"\n", b"\r\n"),
        "Ja", token=1, first=1,
    ),
    Shape(
        "ollama: finish reason and content in one chunk, no role first",
        sse(delta({"system_fingerprint": "fp_ollama"}, role="assistant", content="Ja"), delta({}, "stop", role="assistant", content=""), DONE),
        "Ja", token=1,
    ),
    Shape(
        "a tool call and no text",
        sse(delta({}, role="assistant", content=None, tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
            delta({}, tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]), delta({}, "tool_calls"), DONE),
        token=2, finish="tool_calls",
    ),
    Shape(
        "anthropic: messages instead of chat",
        b"event: message_start\n" + sse({"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {"input_tokens": 1}}})
        + b"event: ping\n" + sse({"type": "ping"})
        + b"event: content_block_delta\n" + sse({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ja"}})
        + b"event: message_stop\n" + sse({"type": "message_stop"}),
        finish=None, status="error", kind="wrong_api",
    ),
    Shape(
        "openai: responses instead of chat",
        b"event: response.created\n" + sse({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "error": None, "usage": None}})
        + b"event: response.output_text.delta\n" + sse({"type": "response.output_text.delta", "delta": "Ja"})
        + b"event: response.completed\n" + sse({"type": "response.completed", "response": {"usage": {"output_tokens": 1}}}),
        finish=None, status="error", kind="wrong_api",
    ),
    Shape("cut in the middle of an event", sse(delta({}, content="J"), delta({}, content="a"))[:-10], "J", token=1, finish=None, status="truncated", kind="truncated"),
    Shape("cut within a character", sse(json.dumps(delta({}, content="ü"), ensure_ascii=False))[:-60], token=None, finish=None, status="truncated", kind="truncated"),
]  # fmt: skip


def by_event(stream: bytes) -> list[bytes]:
    end = b"\r\n\r\n" if b"\r\n\r\n" in stream else b"\n\n"
    return [piece for piece in stream.replace(end, end + b"\x00").split(b"\x00") if piece]


FRAMINGS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda stream: [stream],
    "event by event": by_event,
    "byte by byte": lambda stream: [bytes([byte]) for byte in stream],
}


def serve(shape: Shape, framing: str) -> Any:
    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(
            head("200 OK", "text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
        )
        for piece in FRAMINGS[framing](shape.stream):
            writer.write(http_chunk(piece))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    return behave


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_a_recorded_shape_is_read_for_what_it_is_however_it_is_cut(
    server: ScriptedServer, shape: Shape, framing: str
) -> None:
    server.behaviour = serve(shape, framing)
    result = await ask_one(server.url)
    assert (result.status, result.error and result.error.kind) == (shape.status, shape.kind), (
        result.error
    )
    assert (result.answer, result.reasoning) == (shape.answer, shape.reasoning)
    if shape.status == "ok":
        assert (result.token, result.finish_reason) == (shape.token, shape.finish)
        assert (result.reasoning_tokens, result.cached_tokens) == (
            shape.reasoning_tokens,
            shape.cached_tokens,
        )
        assert (
            result.first_ns is not None
            and result.sent_ns is not None
            and result.first_ns >= result.sent_ns
        )
        assert result.chunk_ns == sorted(result.chunk_ns or ())


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.status == "ok"], ids=lambda shape: shape.name
)
def test_the_first_token_is_where_the_shape_says(shape: Shape) -> None:
    pieces = by_event(shape.stream)
    events = [number for number, piece in enumerate(pieces) if not piece.startswith(b":")]

    async def read() -> st.ParsedAnswer:
        exchange = st.Exchange(1 << 24)
        ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
        exchange.offsets, exchange.reads_ns = ends, list(range(len(pieces)))
        exchange.content = type("Body", (), {"_buffer": [shape.stream]})  # type: ignore[assignment]
        parsed = st.ParsedAnswer()
        parsed.read_stream(st.APIS["chat"], exchange.timed_events())
        return parsed

    parsed = asyncio.run(read())
    assert parsed.chunk_ns[0] == events[shape.first]


async def test_every_shape_at_once_over_kept_connections(server: ScriptedServer) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await serve(SHAPES[int(request.question)], "event by event")(request, writer)

    server.behaviour = behave
    results, _ = await ask_each(
        server.url, [str(place) for place in range(len(SHAPES))] * 3, concurrent=8
    )
    assert [(result.status, result.answer, result.reasoning) for result in results] == [
        (shape.status, shape.answer, shape.reasoning) for shape in SHAPES
    ] * 3


async def test_a_byte_order_mark_is_no_word_of_the_server(server: ScriptedServer) -> None:
    async def cut_short(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", "text/event-stream", "Connection: close"))
        writer.write(codecs.BOM_UTF8 + sse(chunk(content="Hello")))
        writer.close()

    server.behaviour = cut_short
    result = await ask_one(server.url)
    assert result.answer == "Hello"
    assert result.error is not None and result.error.message == st.FAILURES["truncated"]
