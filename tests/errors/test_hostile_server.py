"""What servers do that they should not, or need not: each behaviour has one definite outcome, in bounded time.

The table is the contract. Each row is asked in a session that asks a healthy server's question next, which must succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import (
    ROOT,
    Behaviour,
    Project,
    Request,
    ScriptedServer,
    ask_each,
    chunk,
    finish,
    head,
    http_chunk,
    sends,
    sse,
    streams,
    usage,
    whole,
)

HELLO = chunk(content="Hello")
DONE = "[DONE]"
HEALTHY = streams("Hello", " world")
CHUNKED = head("200 OK", "text/event-stream", "Transfer-Encoding: chunked")
UNTIL_CLOSE = head("200 OK", "text/event-stream", "Connection: close")
ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": 503}}
FOR_EVER_S = 60.0


@dataclass(frozen=True)
class Row:
    """One behaviour of a server, and what must become of the request that meets it."""

    name: str
    behave: Behaviour
    kind: str | None = None  # of the error; None: the answer counts
    answer: str | None = "Hello"  # what must have been kept of the answer; None: not the point
    reasoning: str = ""
    token: int | None = None  # None: not the point
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return STATUS.get(self.kind, "error")


STATUS = {
    None: "ok",
    "truncated": "truncated",
    "timeout": "timeout",
    "idle": "timeout",
}  # the others: "error"


def answers(*events: Any) -> Behaviour:
    """Return a behaviour that sends these events as a whole answer."""
    return sends(whole(sse(*events)))


def answers_json(body: Any, *lines: str, status: str = "200 OK") -> Behaviour:
    return sends(whole(json.dumps(body).encode(), status, "application/json", *lines))


def then_silent(*pieces: bytes) -> Behaviour:
    """Return a behaviour that sends this and then holds the connection open."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await sends(*pieces)(request, writer)
        await asyncio.sleep(FOR_EVER_S)

    return behave


def endless(start: bytes, again: bytes, pause_s: float = 0.0) -> Behaviour:
    """Return a behaviour that sends `again` until the client goes away."""

    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return behave


def drips(data: bytes, pause_s: float) -> Behaviour:
    """Return a behaviour that sends a byte, waits, sends the next."""
    return sends(*(bytes([byte]) for byte in data), pause_s=pause_s)


def resets(*pieces: bytes) -> Behaviour:
    """Return a behaviour that sends this, waits until it has been read, and sends a TCP reset."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await sends(*pieces)(request, writer)
        await asyncio.sleep(0.1)
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return behave


BOMB = gzip.compress(sse(HELLO) + b": " + b"0" * (64 << 20) + b"\n\n" + sse(finish(), DONE), 1)
SMALL = {"max_answer_bytes": 1 << 20}

STREAMS = [
    Row(
        "role-only first chunk",
        answers(chunk(role="assistant", content=""), HELLO, finish(), DONE),
        token=1,
    ),
    Row(
        "content null",
        answers(chunk(role="assistant", content=None), HELLO, finish(), DONE),
        token=1,
    ),
    Row("delta null", answers({"choices": [{"index": 0, "delta": None}]}, HELLO, finish(), DONE)),
    Row(
        "reasoning_content",
        answers(chunk(reasoning_content="hm"), HELLO, finish(), DONE),
        reasoning="hm",
        token=2,
    ),
    Row(
        "reasoning", answers(chunk(reasoning="hm"), HELLO, finish(), DONE), reasoning="hm", token=2
    ),
    Row(
        "reasoning_details",
        answers(
            chunk(reasoning_details=[{"type": "reasoning.text", "text": "hm"}]),
            HELLO,
            finish(),
            DONE,
        ),
        reasoning="hm",
    ),
    Row(
        "the same reasoning in two fields",
        answers(
            chunk(reasoning="hm", reasoning_details=[{"type": "reasoning.text", "text": "hm"}]),
            HELLO,
            DONE,
        ),
        reasoning="hm",
    ),
    Row(
        "reasoning and nothing else",
        answers(chunk(reasoning="hm"), finish("length"), DONE),
        answer="",
        reasoning="hm",
    ),
    Row(
        "content as a list of parts",
        answers(
            chunk(content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
            finish(),
            DONE,
        ),
    ),
    Row(
        "thinking as a part of content",
        answers(
            chunk(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            HELLO,
            finish(),
            DONE,
        ),
        reasoning="hm",
    ),
    Row(
        "<think> inside content",
        answers(chunk(content="<think>"), chunk(content="hm</think>"), HELLO, finish(), DONE),
        answer="<think>hm</think>Hello",
    ),
    Row(
        "empty choices first",
        answers({"id": "", "choices": [], "created": 0}, HELLO, finish(), DONE),
    ),
    Row("usage-only last chunk", answers(HELLO, finish(), usage(completion=7), DONE), token=7),
    Row(
        "usage in every chunk",
        answers(
            {**HELLO, "usage": {"completion_tokens": 1}},
            {**finish(), "usage": {"completion_tokens": 3}},
            DONE,
        ),
        token=3,
    ),
    Row(
        "cumulative usage",
        answers(
            *(
                {**chunk(content=text), "usage": usage(completion=n)["usage"]}
                for n, text in [(4, "Hel"), (9, "lo")]
            ),
            finish(),
            DONE,
        ),
        token=9,
    ),
    Row("usage null", answers({**HELLO, "usage": None}, finish(), DONE), token=1),
    Row(
        "no usage at all",
        answers(chunk(content="Hel"), chunk(content="lo"), finish(), DONE),
        token=2,
    ),
    Row(
        "keep-alive comments",
        sends(whole(b": PROCESSING\n\n" * 17 + sse(HELLO) + b":\n\n" + sse(finish(), DONE))),
    ),
    Row("byte order mark", sends(whole(b"\xef\xbb\xbf" + sse(HELLO, finish(), DONE)))),
    Row("CRLF line ends", sends(whole(sse(HELLO, finish(), DONE).replace(b"\n", b"\r\n")))),
    Row("CR line ends", sends(whole(sse(HELLO, finish(), DONE).replace(b"\n", b"\r")))),
    Row(
        "data of several lines",
        sends(whole(sse(HELLO).replace(b', "choices"', b',\ndata: "choices"') + sse(DONE))),
    ),
    Row(
        "bytes that are not UTF-8",
        sends(whole(sse(HELLO).replace(b"Hello", b"Hel\xff\xfelo") + sse(finish(), DONE))),
        answer="Hel\ufffd\ufffdlo",
    ),
    Row("event: error", sends(whole(b"event: error\n" + sse(ERROR))), "server_error", ""),
    Row(
        "event: error with plain text",
        sends(whole(b"event: error\n" + sse("overloaded"))),
        "server_error",
        "",
    ),
    Row("error object before text", answers(ERROR, DONE), "server_error", ""),
    Row("error object after text", answers(HELLO, ERROR, DONE), "server_error"),
    Row("error object beside choices", answers(HELLO, {**finish(), **ERROR}, DONE), "server_error"),
    Row("error that is a text", answers(HELLO, {"error": "overloaded"}, DONE), "server_error"),
    Row("no finish reason but [DONE]", answers(HELLO, DONE)),
    Row("no [DONE] but a finish reason", answers(HELLO, finish())),
    Row("neither [DONE] nor a finish reason", answers(HELLO), "truncated"),
    Row("[DONE] and nothing else", answers(DONE), "empty", ""),
    Row(
        "a finish reason and nothing else",
        answers(finish(), usage(completion=0), DONE),
        "empty",
        "",
    ),
    Row("no event at all", answers(), "truncated", ""),
    Row(
        "no body at all",
        sends(head("200 OK", "text/event-stream", "Content-Length: 0")),
        "truncated",
        "",
    ),
    Row(
        "[DONE] as a part of the answer",
        answers(chunk(content="[DONE]"), HELLO, finish(), DONE),
        answer="[DONE]Hello",
    ),
    Row("text after [DONE]", answers(HELLO, finish(), DONE, chunk(content="no"))),
    Row(
        "a second alternative",
        answers(HELLO, {"choices": [{"index": 1, "delta": {"content": "no"}}]}, finish(), DONE),
        config={"extra_body": {"n": 2}},
    ),
    Row(
        "a finish reason that names a failure",
        answers(HELLO, finish("abort"), DONE),
        "aborted",
    ),
    Row(
        "an Anthropic stream",
        sends(
            whole(
                b"event: message_start\n"
                + sse({"type": "message_start", "message": {"id": "m"}})
                + sse(
                    {
                        "type": "content_block_delta",
                        "delta": {"type": "text_delta", "text": "Hello"},
                    }
                )
                + sse({"type": "message_stop"})
            )
        ),
        "wrong_api",
        "",
    ),
    Row(
        "a Responses stream",
        answers(
            {"type": "response.created", "response": {}},
            {"type": "response.output_text.delta", "delta": "Hello"},
            {"type": "response.completed", "response": {"usage": {"output_tokens": 1}}},
        ),
        "wrong_api",
        "",
    ),
    Row(
        "a chat answered in the shape of completions",
        answers({"choices": [{"text": "Hello"}]}, DONE),
    ),
    Row(
        "JSON where a stream was asked for",
        answers_json({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}),
        "wrong_type",
        "",
    ),
    Row("an error object as JSON in a 200", answers_json(ERROR), "server_error", ""),
    Row("JSON called a stream", sends(whole(json.dumps(HELLO).encode())), "truncated", ""),
    Row("a web page in a 200", sends(whole(b"<html>", content_type="text/html")), "wrong_type", ""),
    Row("events that are not JSON", answers(HELLO, "{oops", DONE), "bad_json"),
    Row("events of another shape", answers(HELLO, {"choices": {"0": 1}}, DONE), "wrong_type"),
    Row("a stream where JSON was asked for", HEALTHY, "wrong_type", "", config={"stream": False}),
    Row(
        "JSON cut in the middle",
        sends(whole(b'{"choices": [', content_type="application/json")),
        "bad_json",
        "",
        config={"stream": False},
    ),
    Row(
        "JSON of another shape",
        answers_json({"choices": [5]}),
        "wrong_type",
        "",
        config={"stream": False},
    ),
    Row(
        "JSON without choices",
        answers_json({"choices": []}),
        "wrong_api",
        "",
        config={"stream": False},
    ),
    Row(
        "JSON with an empty answer",
        answers_json({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
        "empty",
        "",
        config={"stream": False},
    ),
]

HOSTILE = [
    Row(
        "a chunked body that ends early",
        sends(CHUNKED + http_chunk(sse(HELLO)), close=True),
        "truncated",
    ),
    Row(
        "a chunk shorter than it says",
        sends(CHUNKED + b"ffff\r\n" + sse(HELLO), close=True),
        "truncated",
    ),
    Row(
        "a chunk size that is no number",
        sends(CHUNKED + http_chunk(sse(HELLO)), b"ZZZ\r\n", pause_s=0.05),
        "bad_http",
    ),
    Row(
        "a negative chunk size",
        sends(CHUNKED + http_chunk(sse(HELLO)), b"-5\r\nHello", pause_s=0.05),
        "bad_http",
    ),
    Row(
        "a huge chunk size", then_silent(CHUNKED + b"F" * 40 + b"\r\n" + sse(HELLO)), "bad_http", ""
    ),
    Row(
        "a chunk longer than it says",
        sends(CHUNKED + b"5\r\n" + sse(HELLO) + b"0\r\n\r\n"),
        "bad_http",
        "",
    ),
    Row(
        "a Content-Length that is too long",
        sends(head("200 OK", "text/event-stream", "Content-Length: 9999") + sse(HELLO), close=True),
        "truncated",
    ),
    Row(
        "a Content-Length that is too short",
        sends(
            head("200 OK", "text/event-stream", f"Content-Length: {len(sse(HELLO))}")
            + sse(HELLO, finish(), DONE)
        ),
        "bad_http",
        None,
    ),
    Row("two answers to one question", sends(whole(sse(HELLO, finish(), DONE)) * 2)),
    Row(
        "a JSON body and silence",
        then_silent(head("200 OK", "application/json", "Content-Length: 99") + b'{"choices": ['),
        "timeout",
        "",
        config={"stream": False, "timeout": 0.4},
    ),
    Row(
        "a JSON body that ends early",
        sends(
            head("200 OK", "application/json", "Content-Length: 99") + b'{"choices": [', close=True
        ),
        "truncated",
        "",
        config={"stream": False},
    ),
    Row(
        "a Content-Length that is no number",
        sends(head("200 OK", "text/event-stream", "Content-Length: x") + sse(HELLO, DONE)),
        "bad_http",
        "",
    ),
    Row(
        "two Content-Lengths",
        sends(
            head("200 OK", "text/event-stream", "Content-Length: 5", "Content-Length: 9")
            + sse(HELLO, DONE)
        ),
        "bad_http",
        "",
    ),
    Row(
        "cut at the end of an event, until-close",
        sends(UNTIL_CLOSE + sse(HELLO), close=True),
        "truncated",
    ),
    Row("a whole answer, until-close", sends(UNTIL_CLOSE + sse(HELLO, finish(), DONE), close=True)),
    Row(
        "a gzip bomb though identity was asked for",
        sends(whole(BOMB, "200 OK", "text/event-stream", "Content-Encoding: gzip")),
        "truncated",
        "",
    ),
    Row(
        "a gzip bomb as JSON",
        sends(whole(BOMB, "200 OK", "application/json", "Content-Encoding: gzip")),
        "bad_json",
        "",
        config={"stream": False},
    ),
    Row(
        "an endless line",
        endless(CHUNKED + http_chunk(b"data: "), http_chunk(b"x" * 65536)),
        "too_large",
        "",
        config=SMALL,
    ),
    Row(
        "an endless comment",
        endless(UNTIL_CLOSE + sse(HELLO) + b": ", b"x" * 65536),
        "too_large",
        config=SMALL,
    ),
    Row(
        "an endless answer",
        endless(CHUNKED, http_chunk(sse(HELLO) * 400)),
        "too_large",
        None,
        config=SMALL,
    ),
    Row(
        "an endless body of new lines",
        endless(UNTIL_CLOSE, b"\n" * 65536),
        "too_large",
        "",
        config=SMALL,
    ),
    Row(
        "an endless JSON body",
        endless(head("200 OK", "application/json", "Connection: close"), b"[" * 65536),
        "too_large",
        "",
        config={**SMALL, "stream": False},
    ),
    Row(
        "an endless body of an error",
        endless(head("500 Internal Server Error", "text/plain", "Connection: close"), b"x" * 65536),
        "http_status",
        "",
        config=SMALL,
    ),
    Row(
        "a body longer than allowed, announced",
        sends(
            head("200 OK", "text/event-stream", f"Content-Length: {1 << 40}")
            + sse(HELLO)
            + b":" * (2 << 20)
        ),
        "too_large",
        config=SMALL,
    ),
    Row(
        "endless headers",
        endless(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 1000),
        "bad_http",
        "",
    ),
    Row("an endless header", endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536), "bad_http", ""),
    Row("an endless status line", endless(b"HTTP/1.1 200 ", b"x" * 65536), "bad_http", ""),
    Row(
        "an endless trailer",
        endless(CHUNKED + http_chunk(sse(HELLO)) + b"0\r\nX: ", b"x" * 65536),
        "bad_http",
        None,
    ),
    Row(
        "endless interim responses",
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        "timeout",
        "",
        config={"timeout": 0.5},
    ),
    Row(
        "one byte at a time, slowly",
        drips(CHUNKED + http_chunk(sse(HELLO)), 0.1),
        "timeout",
        "",
        config={"timeout": 0.6},
    ),
    Row(
        "a body of one byte at a time, slowly",
        sends(CHUNKED, *(http_chunk(bytes([byte])) for byte in sse(HELLO)), pause_s=0.05),
        "timeout",
        "",
        config={"idle_timeout": 0.2, "timeout": 0.6},
    ),
    Row("accept and silence", then_silent(), "timeout", "", config={"timeout": 0.4}),
    Row(
        "headers and silence",
        then_silent(CHUNKED),
        "timeout",
        "",
        config={"idle_timeout": 0.2, "timeout": 0.6},
    ),
    Row(
        "half an answer and silence",
        then_silent(CHUNKED + http_chunk(sse(HELLO))),
        "idle",
        config={"idle_timeout": 0.3},
    ),
    Row(
        "half an answer and silence, `timeout` first",
        then_silent(CHUNKED + http_chunk(sse(HELLO))),
        "timeout",
        config={"timeout": 0.4},
    ),
    Row(
        "comments for ever",
        endless(CHUNKED, http_chunk(b": ping\n\n"), 0.02),
        "timeout",
        "",
        config={"idle_timeout": 0.2, "timeout": 0.6},
    ),
    Row(
        "an answer and then comments for ever",
        endless(CHUNKED + http_chunk(sse(HELLO)), http_chunk(b": ping\n\n"), 0.02),
        "idle",
        config={"idle_timeout": 0.3},
    ),
    Row(
        "empty chunks for ever",
        endless(CHUNKED, http_chunk(sse(chunk(content=""))), 0.02),
        "timeout",
        "",
        config={"idle_timeout": 0.2, "timeout": 0.6},
    ),
    Row(
        "[DONE] and the body kept open",
        then_silent(CHUNKED + http_chunk(sse(HELLO, finish(), DONE))),
    ),
    Row(
        "[DONE] and then a cut", sends(CHUNKED + http_chunk(sse(HELLO, finish(), DONE)), close=True)
    ),
    Row(
        "[DONE] and then an endless body",
        endless(CHUNKED + http_chunk(sse(HELLO, finish(), DONE)), http_chunk(b"x" * 65536)),
        config=SMALL,
    ),
    Row(
        "redirect to another path",
        sends(whole(b"", "302 Found", "text/html", "Location: /v2")),
        "redirect",
        "",
    ),
    Row(
        "redirect to itself for ever",
        sends(whole(b"", "307 Temporary Redirect", "text/html", "Location: /v1/chat/completions")),
        "redirect",
        "",
    ),
    Row(
        "redirect to nowhere",
        sends(whole(b"", "301 Moved Permanently", "text/html")),
        "redirect",
        "",
    ),
    Row("binary instead of HTTP", sends(bytes(range(128, 256)) * 8, close=True), "bad_http", ""),
    Row(
        "a TLS alert instead of HTTP",
        sends(b"\x15\x03\x01\x00\x02\x02\x46", close=True),
        "bad_http",
        "",
    ),
    Row("another protocol", sends(b"SSH-2.0-OpenSSH_9.9\r\n", close=True), "bad_http", ""),
    Row(
        "HTTP/2 without asking",
        sends(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\xff\xff", close=True),
        "bad_http",
        "",
    ),
    Row(
        "a NUL in a header",
        sends(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", close=True),
        "bad_http",
        "",
    ),
    Row(
        "a head that ends in the middle",
        sends(b"HTTP/1.1 200 OK\r\nContent-Ty", close=True),
        "reset",
        "",
    ),
    Row("closed without a word", sends(close=True), "reset", ""),
    Row(
        "100 before 200",
        sends(b"HTTP/1.1 100 Continue\r\n\r\n" + whole(sse(HELLO, finish(), DONE))),
    ),
    Row(
        "103 before 200",
        sends(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            whole(sse(HELLO, finish(), DONE)),
            pause_s=0.02,
        ),
    ),
    Row(
        "101 and another protocol",
        then_silent(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        ),
        "http_status",
        "",
        config={"timeout": 1},
    ),
    Row("204", sends(b"HTTP/1.1 204 No Content\r\n\r\n"), "http_status", ""),
    Row("206", sends(whole(sse(HELLO, finish(), DONE), "206 Partial Content")), "http_status", ""),
    Row("304", sends(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "http_status", ""),
    Row(
        "an answer in a 500",
        sends(whole(sse(HELLO, finish(), DONE), "500 Oops")),
        "http_status",
        "",
    ),
    Row("a status that is no number", sends(b"HTTP/1.1 OK\r\n\r\n", close=True), "bad_http", ""),
    Row("a status of 999", sends(whole(b"", "999 What")), "http_status", ""),
    Row("401", answers_json(ERROR, status="401 Unauthorized"), "http_status", ""),
    Row(
        "429 with Retry-After",
        answers_json(ERROR, "Retry-After: 7", status="429 Too Many"),
        "http_status",
        "",
    ),
    Row(
        "503 with Retry-After",
        answers_json(ERROR, "Retry-After: 0", status="503 Down"),
        "http_status",
        "",
    ),
    Row(
        "429 with a Retry-After that is not UTF-8",
        sends(b"HTTP/1.1 429 Slow\r\nRetry-After: \xff\xfe\r\nContent-Length: 0\r\n\r\n"),
        "http_status",
        "",
    ),
    Row(
        "a Content-Type that is not UTF-8",
        sends(b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\nContent-Length: 0\r\n\r\n"),
        "wrong_type",
        "",
    ),
    Row("a reset in the middle", resets(CHUNKED + http_chunk(sse(HELLO))), "reset"),
    Row("a reset in the middle, until-close", resets(UNTIL_CLOSE + sse(HELLO)), "truncated"),
    Row("a reset before the head", resets(), "reset", ""),
    Row("a reset in the head", resets(b"HTTP/1.1 200 OK\r\nContent-"), "reset", ""),
]


def first_then_healthy(behave: Behaviour) -> Behaviour:
    """Return a behaviour that is `behave` at the first request and healthy at every other."""

    async def either(request: Request, writer: asyncio.StreamWriter) -> None:
        await (HEALTHY if request.number else behave)(request, writer)

    return either


def is_healthy(result: Any, row: Row) -> bool:
    """Whether the request after the hostile one came to what a healthy server's does."""
    if row.config.get("stream", True):
        return (result.status, result.answer) == ("ok", "Hello world")
    return bool(
        result.error is not None and result.error.kind == "wrong_type"
    )  # HEALTHY streams, whatever was asked


@pytest.mark.parametrize("row", [*STREAMS, *HOSTILE], ids=lambda row: row.name)
async def test_a_behaviour_has_its_one_outcome_and_the_next_request_is_unharmed(
    server: ScriptedServer, row: Row
) -> None:
    server.behaviour = first_then_healthy(row.behave)
    begun = time.monotonic()
    results, _ = await ask_each(
        server.url, ["First?", "Next?"], **{"concurrent": 1, "timeout": 5, **row.config}
    )
    assert time.monotonic() - begun < 3
    met, following = results
    assert (met.status, met.error and met.error.kind) == (row.status, row.kind), met
    assert row.answer is None or met.answer == row.answer
    assert met.reasoning == row.reasoning
    assert row.token is None or met.token == row.token
    assert is_healthy(following, row), following
    assert all(json.dumps(result.to_record(), ensure_ascii=False).encode() for result in results), (
        "fit for a file"
    )
    assert [request.question for request in server.requests] == ["First?", "Next?"], (
        "each asked once"
    )


def test_the_table_knows_every_kind_of_failure_that_a_server_can_cause() -> None:
    caused = {row.kind for row in [*STREAMS, *HOSTILE]}
    elsewhere = {
        "connection_refused",
        "connect",
        "dns",
        "tls",
        "cancelled",
        "turn_skipped",
        "internal",
    }
    import llm_stresstest as st

    assert caused - {None} == st.FAILURES.keys() - elsewhere


@pytest.mark.parametrize(("status", "wait"), [("429 Too Many Requests", "7"), ("503 Service Unavailable", "Wed, 21 Oct 2026 07:28:00 GMT")])  # fmt: skip
def test_retry_after_is_recorded_and_nothing_is_asked_again(
    project: Project, server: ScriptedServer, status: str, wait: str
) -> None:
    server.behaviour = answers_json(ERROR, f"Retry-After: {wait}", status=status)
    begun = time.monotonic()
    finished = project.run("run")
    assert time.monotonic() - begun < 6.5 and finished.code == 1
    errors = [entry["error"] for entry in project.results()["results"]]
    assert errors == [{"kind": "http_status", "http_status": int(status[:3]), "message": "overloaded", "retry_after": wait}] * 4  # fmt: skip
    assert len(server.requests) == 4


@pytest.fixture
def elsewhere() -> Iterator[ScriptedServer]:
    """Another origin, which nobody told the program about."""
    running = ScriptedServer(passes_test=False)
    yield running
    running.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_is_never_followed(
    project: Project, server: ScriptedServer, elsewhere: ScriptedServer, status: int
) -> None:
    server.behaviour = sends(
        whole(b"", f"{status} Moved", "text/html", f"Location: {elsewhere.url}/chat/completions")
    )
    project.configure(
        server=server.url, api_key_env="KEY", headers={"X-API-Key": "${KEY}"}, questions=2
    )
    finished = project.run("run", env={"KEY": "sk-canary-123456"})
    assert finished.code == 1
    assert [entry["error"]["kind"] for entry in project.results()["results"]] == ["redirect"] * 2
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "surplus", [whole(sse(chunk(content="evil"), finish(), DONE)), b"garbage", sse(HELLO)]
)
async def test_bytes_on_an_idle_connection_are_never_taken_for_the_next_answer(
    server: ScriptedServer, surplus: bytes
) -> None:
    server.behaviour = first_then_healthy(
        sends(whole(sse(HELLO, finish(), DONE)), surplus, pause_s=0.03)
    )
    results, _ = await ask_each(server.url, ["First?", "Next?"], rate=8, arrival="constant")
    assert [(result.status, result.answer) for result in results] == [
        ("ok", "Hello"),
        ("ok", "Hello world"),
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_connection_test_follows_no_redirect_either(
    project: Project, server: ScriptedServer, elsewhere: ScriptedServer, method: str
) -> None:
    moved = sends(
        whole(b"", "307 Moved", "text/html", f"Location: {elsewhere.url}/chat/completions")
    )

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        lists = answers_json({"object": "list", "data": []})
        await (moved if request.method == method else lists)(request, writer)

    server.passes_test, server.behaviour = False, behave
    project.configure(server=server.url, api_key_env="KEY", headers={"X-API-Key": "${KEY}"})
    finished = project.run("run", env={"KEY": "sk-canary-123456"})
    assert finished.code == 3 and finished.err.count("\n") == 1, finished.err
    assert elsewhere.requests == []


async def test_a_cookie_is_never_sent_back(server: ScriptedServer) -> None:
    body = sse(HELLO, finish(), DONE)
    server.behaviour = sends(
        whole(body, "200 OK", "text/event-stream", "Set-Cookie: track=me; Path=/")
    )
    results, _ = await ask_each(server.url, ["One?", "Two?", "Three?"], concurrent=1)
    assert [result.status for result in results] == ["ok"] * 3
    assert all("cookie" not in request.headers for request in server.requests)


async def test_a_kept_connection_that_closes_after_each_answer_is_replaced_and_counted(
    server: ScriptedServer,
) -> None:
    """As llama.cpp's server does: it says keep-alive, and hangs up when the next request is on its way."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if any(port == writer.get_extra_info("peername")[1] for port in used):
            server.requests.remove(request)  # it came too late to be read
            writer.transport.abort()
            return
        used.append(writer.get_extra_info("peername")[1])
        await HEALTHY(request, writer)

    used: list[int] = []
    server.behaviour = behave
    results, _ = await ask_each(server.url, ["x"] * 12, concurrent=3)
    assert [(result.status, result.answer) for result in results] == [("ok", "Hello world")] * 12
    assert sum(result.reconnects for result in results) >= 1
    assert len(used) == 12
    assert all(result.connect_ms is not None for result in results if result.reconnects)


async def test_a_connection_that_dies_within_an_answer_is_not_tried_again(
    server: ScriptedServer,
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await (resets(b"HTTP/1.1 200 OK\r\n") if request.number else HEALTHY)(request, writer)

    server.behaviour = behave
    results, _ = await ask_each(server.url, ["First?", "Second?"], concurrent=1)
    assert [result.status for result in results] == ["ok", "error"]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "behave",
    [
        endless(head("200 OK", "application/json", "Connection: close"), b"[" * 65536),
        endless(head("200 OK", "application/json", "Connection: close"), b" ", 0.05),
        endless(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 1000),
        sends(whole(BOMB, "200 OK", "application/json", "Content-Encoding: gzip")),
        sends(bytes(range(128, 256)) * 8, close=True),
        then_silent(),
        sends(
            head("200 OK", "application/json", "Content-Length: 99") + b'{"object": "list"',
            close=True,
        ),
        sends(
            head("200 OK", "application/json", "Transfer-Encoding: chunked") + http_chunk(b"{"),
            b"ZZ\r\n",
            pause_s=0.02,
        ),
        resets(head("200 OK", "application/json", "Content-Length: 99") + b"{"),
        answers_json(json.loads("[" * 900 + "]" * 900)),
        sends(whole(b"[" * 100_000, content_type="application/json")),
        sends(whole(b"\xff\xfe{}", content_type="application/json")),
        sends(whole(b"5", content_type="application/json")),
        sends(whole(b"", "101 Switching Protocols")),
    ],
    ids=[
        "endless body",
        "one byte at a time",
        "endless headers",
        "gzip bomb",
        "binary",
        "silence",
        "cut",
        "bad chunk",
        "reset",
        "deep",
        "too deep",
        "not UTF-8",
        "number",
        "101",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_is_hostile_from_the_start_is_refused_in_time_and_a_hostile_list_is_harmless(
    project: Project, server: ScriptedServer, method: str, behave: Behaviour
) -> None:
    async def either(request: Request, writer: asyncio.StreamWriter) -> None:
        works = answers_json({"object": "list", "data": []}) if method == "POST" else HEALTHY
        await (behave if request.method == method else works)(request, writer)

    server.passes_test, server.behaviour = False, either
    project.configure(server=server.url, timeout=0.6, max_answer_bytes=1 << 20)
    begun = time.monotonic()
    finished = project.run("run")
    assert time.monotonic() - begun < 6
    assert "Traceback" not in finished.err
    if method == "GET":  # the list is only asked for a hint
        assert finished.code == 0, finished.err
    else:
        assert finished.code == 3 and finished.err.count("\n") == 1, finished.err


def peak_mb(project: Project) -> float:
    """Run the program in a process of its own and return the most memory that it held."""
    code = "import llm_stresstest as st; st.cli(['run', '--quiet']); print(open('/proc/self/status').read())"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"VmHWM:\s+(\d+) kB", finished.stdout)
    assert found is not None, finished.stderr
    return int(found.group(1)) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_worst_servers_do_not_fill_the_memory(project: Project, server: ScriptedServer) -> None:
    worst = [
        endless(CHUNKED + http_chunk(b"data: "), http_chunk(b"x" * (1 << 20))),
        endless(UNTIL_CLOSE, b"\n" * (1 << 20)),
        endless(UNTIL_CLOSE, b"data:\n\n" * 100_000),
        endless(UNTIL_CLOSE, b"data: 12\n\n" * 100_000),
        endless(UNTIL_CLOSE, b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 20_000),
        endless(head("500 Oops", "application/json", "Connection: close"), b'{"error":' * 100_000),
        sends(whole(BOMB, "200 OK", "text/event-stream", "Content-Encoding: gzip")),
    ]

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await worst[request.number](request, writer)

    server.behaviour = behave
    project.configure(server=server.url, concurrent=1, questions=len(worst), timeout=20)
    assert peak_mb(project) < 300
    records = project.results()["results"]
    assert len(records) == len(server.requests) == len(worst)
    assert not any(record["status"] == "ok" for record in records)


class HastyServer(ScriptedServer):
    """Answers each connection before it is asked, from the second question on."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.requests:
            writer.write(whole(sse(chunk(content="early"), finish(), usage(completion=1), DONE)))
            await writer.drain()
        await super()._serve(reader, writer)


def test_no_answer_takes_less_than_no_time_also_when_it_comes_before_it_is_asked_for(
    project: Project,
) -> None:
    server = HastyServer(sends(*[whole(sse(HELLO, finish(), DONE)), b""], close=True))
    try:
        project.configure(server=server.url, concurrent=2, questions=40, abort_if=None)
        finished = project.run("run", "--quiet")
    finally:
        server.close()
    assert finished.code in (0, 1), finished.err
    records = project.results()["results"]
    assert "error" in {record["status"] for record in records}, "some came before the request"
    times = [record[name] for record in records for name in ("ttft_ms", "time", "answer_ttft_ms")]
    assert min(time_ms for time_ms in times if time_ms is not None) >= 0
