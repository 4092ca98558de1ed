"""Servers as they really are: a row is what one of them does, under the kind of fault that it shows.

Each row is served over a real socket. Rows of kind A meet the connection test of a whole run; the others are asked as
a run asks, and the verdict is given over what came.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    MODEL,
    Behaviour,
    Project,
    Request,
    ScriptedServer,
    ask_each,
    ask_one,
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

DONE = "[DONE]"
WORDS = [
    "The",
    "quick",
    "answer",
    "to",
    "this",
    "is",
    "a",
    "short",
    "list",
    "of",
    "plain",
    "words",
    ".",
]
TEXT = " ".join(WORDS)
CHUNKED = head("200 OK", "text/event-stream", "Transfer-Encoding: chunked")


def spoken(text: str = TEXT) -> list[dict[str, Any]]:
    """Return the chunks of a text, one a word."""
    first, *others = text.split(" ")
    return [chunk(content=first), *(chunk(content=f" {word}") for word in others)]


def stream(*events: Any, mime: str = "text/event-stream") -> Behaviour:
    """Return a behaviour that sends these events as one answer; bytes as they are."""
    body = b"".join(event if isinstance(event, bytes) else sse(event) for event in events)
    return sends(whole(body, content_type=mime))


def answers(status: str, body: Any, *lines: str, mime: str = "application/json") -> Behaviour:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return sends(whole(data, status, mime, *lines))


def choice(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> Any:
    event = chunk(**(delta or {}))
    event["choices"][0].update(finish_reason=reason, **more)
    return event


# --- A. The run's own shape decides -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """A server at its connection test, and what must become of the run."""

    name: str
    answer: Behaviour | None = None  # of every question; None: a healthy stream
    models: Behaviour | None = None  # of the model list; None: it names the model
    code: int = 0
    says: tuple[str, ...] = ()  # on stderr
    says_not: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def listing(*names: str) -> Behaviour:
    return answers("200 OK", {"object": "list", "data": [{"id": name} for name in names]})


def only(works: Callable[[Request], bool], otherwise: Behaviour) -> Behaviour:
    """Return a behaviour that answers well what `works` accepts."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await (streams("Hello", " world") if works(request) else otherwise)(request, writer)

    return behave


def until_ready(times: int, status: str, *lines: str) -> Behaviour:
    """Return a behaviour that refuses so many requests, and works then."""
    left = [times]

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        left[0] -= 1
        busy = answers(status, {"error": {"message": "Loading model"}}, *lines)
        await (busy if left[0] >= 0 else streams("Hello"))(request, writer)

    return behave


async def two_pages(request: Request, writer: asyncio.StreamWriter) -> None:
    """List as Anthropic does: the model is on the second page."""
    second = "after" in request.path
    names = [MODEL] if second else ["a", "b"]
    page = {"data": [{"id": name} for name in names], "has_more": not second, "last_id": names[-1]}
    await answers("200 OK", page)(request, writer)


PLAIN_OK = {
    "id": "c", "object": "chat.completion", "created": 1, "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
}  # fmt: skip
NOT_FOUND = {"detail": "Not Found"}
NOT_LISTED = "is not in the list"
GATES = [
    Gate("a restricted key may not list", models=answers("403 Forbidden", {"error": "scope"})),
    Gate("Cloudflare's gateway has no list", models=answers("405 Method Not Allowed", {"errors": []})),
    Gate("Together lists a bare array", models=answers("200 OK", [{"id": MODEL}])),
    Gate("Ollama's own list", models=answers("200 OK", {"models": [{"name": f"{MODEL}:latest"}]}), says_not=(NOT_LISTED,)),
    Gate("LiteLLM lists a wildcard", models=listing("*"), says_not=(NOT_LISTED,)),
    Gate("LiteLLM lists a provider's wildcard", models=listing("openai/*"), says_not=(NOT_LISTED,), config={"model": "openai/gpt-x"}),
    Gate("OpenRouter's routing suffix", models=listing(f"lab/{MODEL}"), says_not=(NOT_LISTED,), config={"model": f"lab/{MODEL}:nitro"}),
    Gate("Gemini's prefix", models=listing(f"models/{MODEL}"), says_not=(NOT_LISTED,)),
    Gate("Anthropic's second page", models=two_pages, says_not=(NOT_LISTED,)),
    Gate("a list that never ends", models=sends(head("200 OK", "application/json") + b'{"data": ['), config={"timeout": 1}),
    Gate("a list of a web page", models=answers("200 OK", b"<html>", mime="text/html")),
    Gate("an unlisted model that answers", models=listing("other"), says=(NOT_LISTED, "the server has: other")),
    Gate("DashScope streams only", only(lambda request: request.json["stream"], answers("400 Bad", {"message": "stream=true only"}))),
    Gate("Mistral refuses stream_options", only(lambda request: "stream_options" not in request.json,
         answers("422 Unprocessable", {"message": {"detail": [{"loc": ["body", "stream_options"], "msg": "not permitted"}]}})),
         says=("refuses stream_options",)),
    Gate("a first limit that is too low", only(lambda request: request.json.get("max_tokens", 99) > 16,
         answers("400 Bad", {"error": {"message": "Could not finish: max_tokens was reached"}}))),
    Gate("llama.cpp loads", until_ready(1, "503 Service Unavailable"), says=("Loading model", "waiting up to 120 s")),
    Gate("a busy server", until_ready(1, "429 Too Many Requests", "Retry-After: 0"), says=("HTTP 429: Loading model", "waiting")),
    Gate("425, too early", until_ready(1, "425 Too Early"), says=("waiting",)),
    Gate("one that loads for too long", until_ready(99, "503 Service Unavailable"), code=3, says=("HTTP 503: Loading model",), config={"startup_timeout": 0.2}),
    Gate("a Retry-After beyond all patience", until_ready(99, "429 Too Many", "Retry-After: 3600"), code=3, says=("HTTP 429",)),
    Gate("reasoning alone", stream(chunk(reasoning_content="hm"), finish("length"), DONE)),
    Gate("a cut answer", stream(chunk(content="o"), finish("length"), DONE)),
    Gate("nothing within so few tokens", stream(finish("length"), usage(completion=16), DONE), code=1, says=()),
    Gate("an API that is not there", answers("404 Not Found", NOT_FOUND), models=answers("404 Not Found", NOT_FOUND), code=3,
         says=("has no path /v1/chat/completions (HTTP 404)", "/v1?")),
    Gate("405 for the API", answers("405 Method Not Allowed", NOT_FOUND), models=answers("404 Not Found", NOT_FOUND), code=3, says=("HTTP 405",)),
    Gate("Ollama has not pulled it", answers("404 Not Found", {"error": {"message": "model 'x' not found, try pulling it first"}}), code=3,
         models=listing("qwen"), says=("no such model", "the server has: qwen", "try pulling it first")),
    Gate("LiteLLM knows no such model", answers("400 Bad Request", {"error": {"message": "Invalid model name passed in model=x"}}), code=3,
         models=listing("gpt"), says=("the server has: gpt",)),
    Gate("a proxy that wants a user", answers("407 Proxy Authentication Required", b""), code=3, says=("the proxy asks for a user",)),
    Gate("moved", answers("301 Moved Permanently", b"", "Location: https://new.example/v1/chat/completions"), code=3,
         says=("HTTP 301", "set server to https://new.example/v1",)),
    Gate("nginx: http to a TLS port", answers("400 Bad Request", b"<html><title>400</title>The plain HTTP request was sent to HTTPS port</html>", mime="text/html"),
         code=3, says=("write https:// in server",)),
    Gate("TLS where http was meant", sends(b"\x15\x03\x03\x00\x02\x02\x46", close=True), code=3, says=("write https:// in server",)),
    Gate("HTTP/2 only", sends(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", close=True), code=3, says=("HTTP/2",)),
    Gate("MiniMax: a bad key in a 200", answers("200 OK", {"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}), code=3, says=("login fail",)),
    Gate("a key that is refused", answers("401 Unauthorized", {"error": {"message": "bad key"}}), code=3, says=("set api_key_env", "bad key")),
]  # fmt: skip


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_the_connection_test_lets_pass_what_the_run_can_use_and_nothing_else(
    project: Project, server: ScriptedServer, gate: Gate
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET":
            await (gate.models or listing(MODEL))(request, writer)
        else:
            await (gate.answer or streams("Hello", " world"))(request, writer)

    server.passes_test, server.behaviour = False, behave
    project.configure(server=server.url, **{"questions": 2, **gate.config})
    finished = project.run("run")
    assert finished.code == gate.code, finished.err
    for text in gate.says:
        assert text in finished.err
    for text in gate.says_not:
        assert text not in finished.err
    assert "Traceback" not in finished.err


def test_the_connection_test_asks_in_the_shape_of_the_run(
    project: Project, server: ScriptedServer
) -> None:
    server.passes_test = False
    project.configure(
        server=f"{server.url}?api-version=7", headers={"x-mine": "1"}, questions=1,
        temperature=0.5, seed=3, stop=["END"], extra_body={"top_k": 4}, system_prompt="Be short.",
    )  # fmt: skip
    assert project.run("run").code == 0
    asked = [request for request in server.requests if request.method == "POST"]
    test, measured = asked[0], asked[-1]
    assert test.question == "Say: ok"
    assert test.path == measured.path and "?api-version=7" in test.path
    same = {**test.json, "max_tokens": 0, "messages": 0}
    assert same == {**measured.json, "max_tokens": 0, "messages": 0}
    assert test.json["messages"][0] == measured.json["messages"][0]
    assert test.headers["x-mine"] == "1" and test.headers["accept"] == "text/event-stream"
    assert "Say: ok" not in (project.folder / "results" / "run.json").read_text(), "not counted"


# --- B. Every request can be made to fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "question", "sent"),
    [
        ({}, {}, {"temperature": 0, "max_tokens": 512, "stream_options": {"include_usage": True}}),
        ({"extra_body": {"max_tokens": None}}, {}, {"max_tokens": None}),
        ({"extra_body": {"max_tokens": None}}, {"max_tokens": 7}, {"max_tokens": None}),
        ({"extra_body": {"temperature": None}}, {}, {"temperature": None}),
        ({"extra_body": {"stream_options": None}}, {}, {"stream_options": None, "stream": True}),
        ({"extra_body": {"model": None}}, {}, {"model": None}),
        ({"extra_body": {"max_completion_tokens": 9}}, {}, {"max_completion_tokens": 9, "max_tokens": None}),
        ({"extra_body": {"max_completion_tokens": 9}}, {"max_tokens": 7}, {"max_completion_tokens": 7, "max_tokens": None}),
        ({"stream": False}, {}, {"stream": False, "stream_options": None}),
        ({"stream": False, "extra_body": {"stream": None}}, {}, {"stream": None}),
    ],
)  # fmt: skip
async def test_any_key_of_the_body_can_be_taken_away(
    server: ScriptedServer, config: dict[str, Any], question: dict[str, Any], sent: dict[str, Any]
) -> None:
    results, _ = await ask_each(server.url, [{"question": "Who?", **question}], **config)
    body = server.requests[0].json
    assert {name: body.get(name) for name in sent} == sent
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    assert results[0].max_tokens == limit
    assert (results[0].max_tokens_from is None) == (limit is None)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
         '"extra_body": {"max_tokens": null, "max_completion_tokens": 512}'),
        ("invalid temperature: only 1 is allowed for this model", '"extra_body": {"temperature": null}'),
        ("max_tokens is too large: 512", '"extra_body": {"max_tokens": null}'),
        ("unknown field `seed`", '"extra_body": {"seed": null}'),
        # Of several, the first in the body's order, whatever the order of a set.
        ("no max_tokens, stream_options, `seed` or temperature", '"extra_body": {"temperature": null}'),
        ("stop talking", ""),
    ],
)  # fmt: skip
async def test_a_refused_key_is_named_with_what_to_set(
    server: ScriptedServer, words: str, remedy: str
) -> None:
    server.behaviour = answers("400 Bad Request", {"error": {"message": words}})
    result = await ask_one(server.url, seed=1, stop="END")
    assert result.error is not None and result.error.message.startswith(words)
    assert remedy in result.error.message
    assert ("extra_body" in result.error.message) == bool(remedy)


async def test_the_remedy_works(server: ScriptedServer) -> None:
    refused = answers("400 Bad Request", {"error": {"message": "temperature is not supported"}})
    server.behaviour = only(lambda request: "temperature" not in request.json, refused)
    result = await ask_one(server.url)
    assert result.error is not None
    remedy = json.loads("{" + result.error.message.partition("set ")[2] + "}")
    assert (await ask_one(server.url, **remedy)).ok


# --- C to H. What an answer is ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An answer, and what must be read of it."""

    name: str
    behave: Behaviour
    kind: str | None = None  # of the error
    says: str = ""  # in the error
    answer: str | None = TEXT  # None: not the point
    reasoning: str | None = None
    token: int | None = None
    source: str | None = None
    doubt: bool | None = None
    graded: str | None = None  # what is graded of the answer
    config: dict[str, Any] = field(default_factory=dict)


END = (finish(), usage(completion=len(WORDS)), DONE)
FIRST, REST = spoken()[:4], spoken()[4:]
PART = "The quick answer to"
CTX = "request (9000 tokens) exceeds the available context size (4096)"
PAIRS = [chunk(content=" ".join(["", *WORDS][n : n + 3][1:])) for n in range(0, 12, 2)]
THOUGHTS = [chunk(reasoning_content=f" t{n}") for n in range(30)]
COUNT = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


def with_choice(number: int, event: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk whose choice has this index."""
    return {**event, "choices": [{**event["choices"][0], "index": number}]}


def thought(name: str, value: Any = "hm") -> Behaviour:
    return stream(choice({name: value}), *spoken(), *END)


def plain(**message: Any) -> Behaviour:
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": COUNT}
    return answers("200 OK", body)


C = [
    Row("C a ping among the chunks", stream(*FIRST, {"type": "ping"}, *REST, *END)),
    Row("C Open WebUI's sources", stream({"sources": [{"name": "a.txt"}]}, *spoken(), *END)),
    Row("C a keep-alive that is no JSON", stream(b"data: ping\n\n", *FIRST, b"data: : keep-alive\n\n", *REST, *END)),
    Row("C a keep-alive that is a JSON text", stream('"heartbeat"', *spoken(), *END)),
    Row("C a keep-alive that is null", stream("null", *spoken(), *END)),
    Row("C a keep-alive in brackets", stream("[HEARTBEAT]", *spoken(), *END)),
    Row("C [done] in lower case", stream(*spoken(), finish(), usage(completion=13), "[done]")),
    Row("C Azure's first chunk of filter results", stream({"choices": [], "prompt_filter_results": [{}]}, *spoken(), *END)),
    Row("C an index that is not 0", stream(*(with_choice(1, event) for event in spoken()), *END)),
    Row("C an index that counts the chunks", stream(*(with_choice(n, event) for n, event in enumerate(spoken())), *END)),
    Row("C the second of two that were asked for", stream(*spoken(), with_choice(1, chunk(content="no")), *END), config={"extra_body": {"n": 2}}),
    Row("C only pings", stream({"type": "ping"}, {"type": "ping"}), "wrong_api", "ping", answer=""),
    Row("C plain text as events", stream("Hello", "world"), "bad_json", "Hello", answer=""),
]  # fmt: skip

D = [
    *(Row(f"D finish reason {reason}", stream(*FIRST, finish(reason), usage(completion=4), DONE), "aborted", reason, answer=PART)
      for reason in ("abort", "error", "network_error", "insufficient_system_resource", "cancelled", "failed", "timeout",
                     "engine_overloaded", "server_error", "ABORTED", "malformed_function_call", "interrupted")),
    *(Row(f"D finish reason {reason}", stream(*spoken(), finish(reason), usage(completion=13), DONE))
      for reason in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "tool_calls", "length", "MAX_TOKENS",
                     "content_filter", "SAFETY", "repetition")),
    Row("D OpenRouter: an error in the choice", stream(*FIRST, choice({"content": ""}, "error", error={"code": 502, "message": "Upstream closed"}), DONE),
        "server_error", "Upstream closed", answer=PART),
    Row("D OpenRouter: the provider's words", stream(*FIRST, {"error": {"message": "Provider returned error", "metadata": {"raw": "GPU is gone"}}}),
        "server_error", "GPU is gone", answer=PART),
    Row("D Groq: x_groq.error", stream(*FIRST, {**choice(None, "stop"), "x_groq": {"error": "over capacity"}}, DONE), "server_error", "over capacity", answer=PART),
    Row("D vLLM: object error", stream(*FIRST, {"object": "error", "message": "EngineCore died", "code": 500}, DONE), "server_error", "EngineCore died", answer=PART),
    Row("D MiniMax: base_resp", stream(*FIRST, {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}), "server_error", "rate limit", answer=PART),
    Row("D MiniMax: base_resp of success", stream(*spoken(), {**finish(), "base_resp": {"status_code": 0, "status_msg": ""}}, DONE)),
    Row("D DashScope: code and message", stream({"code": "Throttling", "message": "too many", "request_id": "r"}), "server_error", "too many", answer=""),
    Row("D Cloudflare: success false", stream({"success": False, "errors": [{"code": 7, "message": "no such run"}]}), "server_error", "no such run", answer=""),
    Row("D FastAPI: detail", stream({"detail": "worker died"}), "server_error", "worker died", answer=""),
    Row("D the same in one piece", answers("200 OK", {"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
        "server_error", "login fail", answer="", config={"stream": False}),
    Row("D llama-cpp-python: [DONE] and a broken body", sends(CHUNKED + http_chunk(sse(*FIRST, DONE)), close=True), "truncated", "[DONE]", answer=PART),
    Row("D [DONE] and a broken body behind a finish reason", sends(CHUNKED + http_chunk(sse(*spoken(), finish(), DONE)), close=True)),
    Row("D no finish reason in a whole transfer", stream(*spoken(), usage(completion=13), DONE)),
    Row("D neither", stream(*FIRST), "truncated", answer=PART),
]  # fmt: skip

E = [
    Row("E llama.cpp until 2025: an error: field", stream(b'error: {"code":400,"message":"%b"}\n\n' % CTX.encode(), DONE), "server_error", CTX, answer=""),
    Row("E the same behind text", stream(*FIRST, b'error: {"code":500,"message":"slot lost"}\n\n', DONE), "server_error", "slot lost", answer=PART),
    Row("E a JSON error without data:", stream(json.dumps({"error": {"message": CTX}}).encode()), "server_error", CTX, answer=""),
    Row("E the same over several lines", stream(json.dumps({"error": {"message": CTX}}, indent=1).encode()), "server_error", CTX, answer=""),
    Row("E event: error and a text", stream(b"event: error\ndata: overloaded\n\n"), "server_error", "overloaded", answer=""),
    Row("E event: error behind text", stream(*FIRST, b"event: error\ndata: overloaded\n\n", DONE), "server_error", "overloaded", answer=PART),
    Row("E a login page", answers("200 OK", b"<html><title>Sign in</title><body>Log in please", mime="text/html"), "wrong_type", 'a web page "Sign in": Log in please', answer=""),
    Row("E a page called a stream", stream(b"<html><title>Sign in</title></html>"), "truncated", "Sign in", answer=""),
    Row("E FastAPI: 422", answers("422 Unprocessable Entity", {"detail": [{"loc": ["body", "top_p"], "msg": "must be below 1", "type": "x"}]}),
        "http_status", "body.top_p: must be below 1", answer=""),
    Row("E plain text", answers("500 Internal Server Error", b"CUDA out of memory\n", mime="text/plain"), "http_status", "CUDA out of memory", answer=""),
    Row("E nginx: 502", answers("502 Bad Gateway", b"<html><head><title>502 Bad Gateway</title></head><body><h1>502</h1>nginx</body></html>", mime="text/html"),
        "http_status", '"502 Bad Gateway"', answer=""),
    Row("E Ollama: error is a text", answers("500 Internal Server Error", {"error": "llama runner exited"}), "http_status", "llama runner exited", answer=""),
    Row("E Cloudflare: errors", answers("400 Bad Request", {"success": False, "errors": [{"code": 1, "message": "no account"}]}), "http_status", "no account", answer=""),
    Row("E nothing said", answers("500 Internal Server Error", b""), "http_status", "no success", answer=""),
    Row("E moved", answers("308 Permanent Redirect", b"", "Location: /v2/chat/completions"), "redirect", "moved to /v2/chat/completions", answer=""),
    Row("E a path that is not there", answers("404 Not Found", {"detail": "Not Found"}), "http_status", 'api "chat"', answer=""),
]  # fmt: skip

F = [
    Row("F LiteLLM: all zeros", stream(*spoken(), finish(), usage(0, 0), DONE), token=13, source="chunks", doubt=False),
    Row("F a count and then zeros", stream(*PAIRS, finish(), usage(9, 12), usage(0, 0), DONE), answer=None, token=12, source="usage", doubt=False),
    Row("F mlx-vlm: input_tokens and output_tokens", stream(*PAIRS, finish(), {"choices": [], "usage": {"input_tokens": 9, "output_tokens": 12}}, DONE),
        answer=None, token=12, source="usage"),
    Row("F Moonshot: usage in the choice", stream(*PAIRS, choice(None, "stop", usage=COUNT), DONE), answer=None, token=12, source="usage"),
    Row("F Groq: usage under x_groq", stream(*PAIRS, {**finish(), "x_groq": {"usage": COUNT}}, DONE), answer=None, token=12, source="usage"),
    Row("F only a total", stream(*PAIRS, finish(), {"choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 21}}, DONE), answer=None, token=12, source="total"),
    Row("F Gemini: reasoning left out, in the total", stream(*THOUGHTS, *spoken(), finish(), {"choices": [], "usage": {
        "prompt_tokens": 9, "completion_tokens": 13, "total_tokens": 52}}, DONE), token=43, source="total", doubt=True),
    Row("F reasoning left out, also of the total", stream(*THOUGHTS, *spoken(), *END), token=43, source="chunks", doubt=True),
    Row("F ten times too many", stream(*spoken(), finish(), usage(9, 130), DONE), token=13, source="chunks", doubt=True),
    Row("F hidden reasoning is no doubt", stream(*spoken(), finish(), usage(9, 3013, completion_tokens_details={"reasoning_tokens": 3000}), DONE),
        token=3013, source="usage", doubt=False),
    Row("F a count as a text", stream(*PAIRS, finish(), {"choices": [], "usage": {"completion_tokens": "12"}}, DONE), answer=None, token=12, source="usage"),
    Row("F no usage", stream(*spoken(), finish(), DONE), token=13, source="chunks", doubt=False),
    Row("F a server that sends a letter a chunk", stream(*(chunk(content=letter) for letter in TEXT), *END), token=13, source="usage", doubt=True),
]  # fmt: skip

THINK = "Xland? I know it.\n"
G = [
    *(Row(f"G reasoning as {name}", thought(name), reasoning="hm") for name in (
        "reasoning_content", "reasoning", "reasoning_text", "thinking", "thought", "thinking_content", "reasoning_summary")),
    Row("G thinking as an object", thought("thinking", {"content": "hm"}), reasoning="hm"),
    Row("G thinking as blocks", thought("thinking_blocks", [{"type": "thinking", "thinking": "hm"}]), reasoning="hm"),
    Row("G thinking in a body", plain(content="yes", thinking="hm"), answer="yes", config={"stream": False}),
    Row("G a refusal", stream(choice({"refusal": "I cannot"}), choice({"refusal": " do that"}), *END), answer="I cannot do that"),
    Row("G a refusal in a body", plain(content=None, refusal="I cannot"), answer="I cannot", config={"stream": False}),
    *(Row(f"G {opening}", stream(*spoken(f"{opening}{THINK}{closing}\n\nYpolis"), *END), answer=None, graded="Ypolis") for opening, closing in (
        ("<think>", "</think>"), ("", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]"),
        ("<reasoning>", "</reasoning>"), ("◁think▷", "◁/think▷"), ("<|START_THINKING|>", "<|END_THINKING|>"), ("<seed:think>", "</seed:think>"))),
    Row("G gpt-oss's channels", stream(*spoken(f"<|channel|>analysis<|message|>{THINK}<|end|><|start|>assistant<|channel|>final<|message|>Ypolis<|return|>"), *END),
        answer=None, graded="Ypolis"),
    Row("G gpt-oss's channels, analysis alone", stream(*spoken(f"<|channel|>analysis<|message|>{THINK}"), *END), answer=None, graded=""),
    Row("G gpt-oss without its special tokens", stream(*spoken("analysisWe know it.assistantfinalYpolis"), *END), answer=None, graded="Ypolis"),
    Row("G a mark that is quoted", stream(*spoken("Write `</think>` behind it"), *END), answer=None, graded="Write `</think>` behind it"),
]  # fmt: skip

H = [
    Row("H DashScope: each chunk holds all so far", stream(*(chunk(content=" ".join(WORDS[: n + 1])) for n in range(13)), *END), token=13),
    Row("H a last chunk that repeats everything", stream(*spoken(), choice({"content": TEXT}, "stop"), usage(completion=13), DONE), token=13),
    Row("H a word that is said three times", stream(*(chunk(content="ha") for _ in range(3)), *END), answer="hahaha"),
    Row("H good events called text/plain", stream(*spoken(), *END, mime="text/plain; charset=utf-8")),
    Row("H good events called octets", stream(*spoken(), *END, mime="application/octet-stream")),
    Row("H good events called JSON", stream(*spoken(), *END, mime="application/json")),
    Row("H good JSON called text/plain", answers("200 OK", PLAIN_OK, mime="text/plain"), answer="ok", config={"stream": False}),
    Row("H DeepSeek: blank lines before the JSON", answers("200 OK", b"\n\n\n" + json.dumps(PLAIN_OK).encode()), answer="ok", config={"stream": False}),
]  # fmt: skip


@pytest.mark.parametrize("row", [*C, *D, *E, *F, *G, *H], ids=lambda row: row.name)
async def test_an_answer_is_read_for_what_it_is(server: ScriptedServer, row: Row) -> None:
    server.behaviour = row.behave
    result = await ask_one(server.url, **row.config)
    assert (result.error and result.error.kind) == row.kind, result.error
    assert result.error is None or row.says in result.error.message
    assert row.answer is None or result.answer == row.answer
    assert row.reasoning is None or result.reasoning == row.reasoning
    assert row.token is None or result.token == row.token
    assert row.source is None or result.token_source == row.source
    assert row.doubt is None or (result.token_doubt is not None) == row.doubt, result.token_doubt
    assert row.graded is None or result.answer_text.strip() == row.graded
    assert st.Result.from_record(json.loads(json.dumps(result.to_record()))) == result


async def test_answer_ttft_begins_behind_reasoning_that_nobody_opened(
    server: ScriptedServer,
) -> None:
    pieces = [CHUNKED, *(http_chunk(sse(event)) for event in spoken("I know it.</think> Ypolis"))]
    server.behaviour = sends(*pieces, http_chunk(sse(*END)) + b"0\r\n\r\n", pause_s=0.02)
    result = await ask_one(server.url)
    assert result.ttft_ms is not None and result.answer_ttft_ms is not None
    assert result.answer_ttft_ms > result.ttft_ms + 20


# --- D, F, H: what the verdict says -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Answers of one kind, and the reason that the verdict must hold."""

    name: str
    behave: Behaviour
    code: str | None
    says: str = ""
    says_not: str = "\0"
    config: dict[str, Any] = field(default_factory=dict)


def in_bursts(texts: list[str], size: int, pause_s: float) -> Behaviour:
    """Return a behaviour that sends so many chunks together, then pauses."""
    events = [http_chunk(sse(chunk(content=text))) for text in texts]
    pieces = [b"".join(events[n : n + size]) for n in range(0, len(events), size)]
    ends = http_chunk(sse(finish(), usage(completion=len(texts)), DONE)) + b"0\r\n\r\n"
    return sends(CHUNKED, *pieces, ends, pause_s=pause_s)


SHORT = [chunk(content=" a") for _ in range(3)]
VERDICTS = [
    Verdict("D a filter cuts every answer", stream(*SHORT, finish("content_filter"), usage(completion=3), DONE), "unusual_ends", "content_filter 2×"),
    Verdict("D no finish reason", stream(*SHORT, usage(completion=3), DONE), "no_finish_reason", "2 of 2"),
    Verdict("D tokens that reach the limit", stream(*SHORT, finish("stop"), usage(completion=3), DONE), "answers_cut", "raise it", config={"max_tokens": 3}),
    Verdict("F length after 3 of 512 tokens", stream(*SHORT, finish("length"), usage(completion=3), DONE), "answers_cut", "limit of the server", "raise it"),
    Verdict("F whose limit it was", stream(*SHORT, finish("length"), usage(completion=3), DONE), "answers_cut", "3 of extra_body", config={"extra_body": {"max_tokens": 3}}),
    Verdict("F counts that contradict", stream(*SHORT, finish(), usage(completion=3000), DONE), "tokens_doubtful", "3000 tokens for 6 bytes"),
    Verdict("F zeros", stream(*SHORT, finish(), usage(0, 0), DONE), "tokens_estimated"),
    Verdict("E white space is no reasoning", stream(chunk(content=" \n"), finish(), usage(completion=1), DONE), "blank_answers", "white space", "reasoning"),
    Verdict("G reasoning alone", stream(chunk(reasoning="hm"), finish(), usage(completion=1), DONE), "reasoning_only", "nothing else", "raise"),
    Verdict("G reasoning that was cut", stream(chunk(reasoning="hm"), finish("length"), usage(completion=1), DONE), "reasoning_only", "raise max_tokens", config={"max_tokens": 1}),
    Verdict("A another model", stream({**SHORT[0], "model": "gpt-small"}, finish(), usage(completion=1), DONE), "other_model", '"gpt-small"'),
    Verdict("A the same model with a date", stream({**SHORT[0], "model": f"{MODEL}-2026-08-06"}, finish(), usage(completion=1), DONE), None, says_not="other_model"),
    Verdict("H haproxy's bursts", in_bursts([f" w{n}" for n in range(40)], 10, 0.08), "stream_buffered", "bursts"),
    Verdict("H tokens drafted ahead", in_bursts([f" w{n}" for n in range(40)], 3, 0.06), None, says_not="stream_buffered"),
    Verdict("H an even stream", in_bursts([f" w{n}" for n in range(20)], 1, 0.01), None, says_not="stream_buffered"),
    Verdict("H everything at once", stream(*(chunk(content=f" w{n}") for n in range(20)), finish(), usage(completion=20), DONE), "stream_buffered", "one piece"),
]  # fmt: skip


@pytest.mark.parametrize("row", VERDICTS, ids=lambda row: row.name)
async def test_the_verdict_says_what_is_wrong_with_the_answers(
    server: ScriptedServer, row: Verdict
) -> None:
    server.behaviour = row.behave
    results, load = await ask_each(server.url, ["One?", "Two?"], **row.config)
    config = st.Config.model_validate({"server": server.url, "model": MODEL, **row.config})
    aggregate = st.calculate_aggregates(results, config)
    reasons = st.judge_validity(config, aggregate, load)["reasons"]
    messages = {reason["code"]: reason["message"] for reason in reasons}
    assert row.code is None or row.says in messages.get(row.code, "\0"), messages
    assert row.says_not not in (messages[row.code] if row.code else messages), messages


@pytest.mark.parametrize(
    ("asked", "named", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("mistral-large-latest", "mistral-large-2407", True),
        ("llama3", "llama3:latest", True),
        ("llama3:8b", "llama3:70b", False),
        ("qwen", "/srv/models/qwen.gguf", True),
        ("lab/m-7b:nitro", "lab/m-7b", True),
        ("models/gemini-2", "gemini-2", True),
        ("openai/gpt-x", "openai/*", True),
        ("qwen2.5-7b", "qwen2.5-14b", False),
        ("Qwen2.5-7B", "qwen2.5-7b", True),
    ],
)
def test_two_names_of_one_model_are_told_from_two_models(
    asked: str, named: str, same: bool
) -> None:
    assert st.same_model(asked, named) is same
