"""A server that cannot be used: one line, exit code 3, no results file."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import MODEL, Finished, Project, ScriptedServer, whole


def is_refused(finished: Finished, project: Project) -> bool:
    """Whether the program ended as the contract says for an unusable server."""
    assert "Traceback" not in finished.err
    # It says that it is connecting when that takes long, as on a machine that is busy.
    lines = [line for line in finished.err.splitlines() if not line.startswith("connecting to ")]
    assert len(lines) == 1, finished.err
    return finished.code == 3 and not any(name.startswith("results/") for name in project.files)


def test_a_refused_connection(project: Project) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        project.configure(server=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        finished = project.run("run")
    assert is_refused(finished, project)
    assert "nothing listens at this address" in finished.err
    assert "traceback=" in project.log()


def test_an_unknown_host(project: Project) -> None:
    project.configure(server="http://no-such-host.invalid/v1")
    finished = project.run("run")
    assert is_refused(finished, project)
    assert "host name is not known" in finished.err


def test_tls_where_there_is_none(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(10)

        def refuse() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        project.configure(server=f"https://127.0.0.1:{plain.getsockname()[1]}/v1", timeout=3)
        finished = project.run("run")
        thread.join()
    assert is_refused(finished, project)
    assert "TLS" in finished.err


def answers(
    server: ScriptedServer, status: str, body: Any, content_type: str = "application/json"
) -> None:
    """Let the server answer the connection test with this."""

    async def behave(_request: Any, writer: asyncio.StreamWriter) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(whole(data, status, content_type))

    server.passes_test = False
    server.behaviour = behave


NO_MODEL = {"error": {"message": "the model `other` does not exist", "code": "model_not_found"}}


@pytest.mark.parametrize("status", ["404 Not Found", "400 Bad Request"])
def test_an_unknown_model_names_those_that_there_are(
    project: Project, server: ScriptedServer, status: str
) -> None:
    answer = server._answer

    async def without_model(request: Any, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET":
            await answer(request, writer)
        else:
            writer.write(whole(json.dumps(NO_MODEL).encode(), status, "application/json"))

    server._answer = without_model  # type: ignore[method-assign]
    project.configure(server=server.url, model="other")
    finished = project.run("run")
    assert is_refused(finished, project)
    assert f'no such model "other" (HTTP {status[:3]}); the server has: {MODEL}' in finished.err


def test_a_model_that_is_not_listed_but_answers_is_used_with_a_hint(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, model="other")
    finished = project.run("run")
    assert finished.code == 0
    assert f'"other" answers, but is not in the list of {server.url}' in finished.err
    assert f"the server has: {MODEL}" in finished.err
    reasons = project.results()["meta"]["validity"]["reasons"]
    assert "other_model" in [reason["code"] for reason in reasons], "its answers name another one"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (
            "401 Unauthorized",
            {"error": {"message": "bad key"}},
            "not authorised (HTTP 401); set api_key_env",
        ),
        ("403 Forbidden", {"error": {"message": "no"}}, "not authorised (HTTP 403)"),
        ("404 Not Found", {"detail": "Not Found"}, "does the URL end in /v1?"),
        ("500 Internal Server Error", {"error": {"message": "out of memory"}}, "HTTP 500"),
        ("200 OK", {"hello": "world"}, "answered, but not as the chat API does"),
        ("200 OK", {"error": {"message": "model is loading"}}, "model is loading"),
        ("200 OK", b"<html>welcome</html>", "answered, but not as the chat API does"),
        ("302 Found", b"", "HTTP 302"),
    ],
)
def test_an_answer_that_no_client_can_use(
    project: Project, server: ScriptedServer, status: str, body: Any, says: str
) -> None:
    answers(server, status, body)
    finished = project.run("run")
    assert is_refused(finished, project)
    assert says in finished.err


def test_a_server_that_accepts_and_says_nothing(project: Project, server: ScriptedServer) -> None:
    async def behave(_request: Any, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server.passes_test = False
    server.behaviour = behave
    project.configure(server=server.url, timeout=0.5)
    finished = project.run("run")
    assert is_refused(finished, project)
    assert "took longer than" in finished.err


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse where Linux lets wait")
def test_a_host_that_does_not_answer_is_given_up_long_before_the_timeout(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert st.CONNECT_TIMEOUT_S == 10
    monkeypatch.setattr(st, "CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy:
        address = busy.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for place in waiting:  # its queue is full; who comes then gets no answer
            place.setblocking(False)
            place.connect_ex(address)
        project.configure(server=f"http://127.0.0.1:{address[1]}/v1", timeout=60)
        begun = time.monotonic()
        finished = project.run("run")
        for place in waiting:
            place.close()
    assert time.monotonic() - begun < 5
    assert is_refused(finished, project)
    assert "no connection could be made within 0.3 s" in finished.err
    assert "connecting to http://127.0.0.1" in project.log()


def test_a_server_without_a_model_list_is_used_all_the_same(
    project: Project, server: ScriptedServer
) -> None:
    answer = server._answer

    async def without_list(request: Any, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET":
            writer.write(whole(b'{"detail": "Not Found"}', "404 Not Found", "application/json"))
        else:
            await answer(request, writer)

    server._answer = without_list  # type: ignore[method-assign]
    assert project.run("run").code == 0
