"""The HTTP calls of send_question, with aioresponses in the server's place."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aioresponses import aioresponses

import llm_stresstest as st
from tests.conftest import MODEL, Project, ScriptedServer, ask_one

URL = "http://mocked:8000/v1/chat/completions"
GOOD = {
    "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 1},
}


class ResponseWithoutWriter(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 makes, with the argument that aiohttp 3.14 wants in addition."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"stream_writer": types.SimpleNamespace(output_size=0), **kwargs})


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    attach = st.Exchange.attach

    def attach_without_transport(exchange: st.Exchange, response: aiohttp.ClientResponse) -> None:
        exchange.protocol = st.TimingProtocol(ResponseHandler(asyncio.get_running_loop()))
        exchange.sent_ns, exchange.reads_ns = exchange.begun_ns, [st.clock()]
        attach(exchange, response)

    monkeypatch.setattr(st.Exchange, "attach", attach_without_transport)
    with aioresponses() as mock:
        add = mock.add
        mock.add = functools.partial(add, response_class=ResponseWithoutWriter)  # type: ignore[method-assign]
        yield mock


async def ask(**config: Any) -> st.Result:
    made = st.Config.model_validate(
        {"server": "http://mocked:8000/v1", "model": MODEL, "stream": False, **config}
    )
    target = st.resolve_target(made, {"KEY": "sk-secret-key"})
    async with st.open_session(made, target) as session:
        return await st.send_question(
            st.Client(session, made, target),
            st.PlannedRequest(3, st.Question(question="Who?", id="q")),
        )


async def test_the_body_and_the_headers_are_those_of_the_config(mocked: aioresponses) -> None:
    mocked.post(URL, payload=GOOD)
    result = await ask(
        temperature=0.5, seed=7, stop=["x"], extra_body={"top_k": 3}, api_key_env="KEY"
    )
    assert (result.status, result.answer, result.index, result.id) == ("ok", "Hi", 3, "q")
    ((_, calls),) = mocked.requests.items()
    sent = st.pydantic_core.from_json(calls[0].kwargs["data"])  # type: ignore[attr-defined]
    assert sent == {
        "model": MODEL, "messages": [{"role": "user", "content": "Who?"}], "temperature": 0.5, "max_tokens": 512,
        "seed": 7, "stop": ["x"], "stream": False, "top_k": 3,
    }  # fmt: skip
    assert calls[0].kwargs["allow_redirects"] is False


async def test_null_options_are_not_sent(mocked: aioresponses) -> None:
    mocked.post(URL, payload=GOOD)
    await ask(temperature=None, max_tokens=None)
    ((_, calls),) = mocked.requests.items()
    sent = st.pydantic_core.from_json(calls[0].kwargs["data"])  # type: ignore[attr-defined]
    assert set(sent) == {"model", "messages", "stream"}


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (aiohttp.ServerDisconnectedError(), "reset", "error"),
        (ConnectionResetError(104, "reset"), "reset", "error"),
        (TimeoutError(), "timeout", "timeout"),
        (aiohttp.ClientPayloadError("cut"), "truncated", "truncated"),
        (aiohttp.ClientConnectionError("odd"), "reset", "error"),
        (RuntimeError("a bug"), "internal", "error"),
    ],
)
async def test_every_error_on_the_way_is_a_result_with_a_kind(
    mocked: aioresponses, error: Exception, kind: str, status: str
) -> None:
    mocked.post(URL, exception=error)
    result = await ask()
    assert result.error is not None
    assert (result.status, result.error.kind) == (status, kind)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
async def test_an_http_error_keeps_its_status_and_message(
    mocked: aioresponses, status: int
) -> None:
    mocked.post(
        URL, status=status, payload={"error": {"message": "because"}}, headers={"Retry-After": "7"}
    )
    result = await ask()
    assert result.error is not None
    message = result.error.message
    if status == 404:  # names what was asked for, since another API may be the one that is there
        message = message.removesuffix('; POST /v1/chat/completions, api "chat"')
    assert (result.error.kind, result.error.http_status, message) == (
        "http_status",
        status,
        "because",
    )
    assert result.error.retry_after == "7"
    assert sum(map(len, mocked.requests.values())) == 1, "nothing is tried again"


def no_bytes(*_: Any) -> None:
    """What a StreamReader does that keeps its bytes elsewhere."""


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (aiohttp.StreamReader, "_buffer", None),
        (aiohttp.StreamReader, "feed_data", no_bytes),
        (aiohttp.ClientRequest, "write_bytes", None),
        (aiohttp.connector.Connection, "transport", None),
    ],
)
def test_an_aiohttp_without_what_the_measurement_leans_on_stops_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: Any
) -> None:
    if instead is None:
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, instead)
    finished = project.run("run")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert f"aiohttp {aiohttp.__version__} lacks" in finished.err and "uv sync" in finished.err


async def test_a_request_that_was_not_measured_is_a_fault_and_no_answer(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st.MeasuredRequest, "send", aiohttp.ClientRequest.send)
    result = await ask_one(server.url)
    assert result.error is not None
    assert (result.error.kind, result.answer, result.ttft_ms) == ("internal", "", None)
