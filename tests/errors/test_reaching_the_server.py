"""What stands between this program and a server: TLS, certificates, sockets, proxies, queries, and slips of the pen."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Project, Request, ScriptedServer, whole


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    files = ["-keyout", str(key), "-out", str(cert), "-days", "30"]
    try:
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    return cert, key


class OtherServer(ScriptedServer):
    """A scripted server behind TLS, or on a Unix socket."""

    context: ssl.SSLContext | None = None
    path: str | None = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        if self.path is not None:
            starting: Any = asyncio.start_unix_server(self._serve, self.path)
        else:
            starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self._loop.set_exception_handler(lambda *_: None)  # handshakes that fail, as meant
        server = self._loop.run_until_complete(starting)
        if self.path is None:
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


@pytest.fixture(params=["server", "mutual"])
def tls_server(
    request: pytest.FixtureRequest, certificate: tuple[Path, Path]
) -> Iterator[ScriptedServer]:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    if request.param == "mutual":
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cert)
    kind = type("TlsServer", (OtherServer,), {"context": context})
    running = kind()
    yield running
    running.close()


def url_of(server: ScriptedServer) -> str:
    return f"https://127.0.0.1:{server.port}/v1"


@pytest.mark.parametrize("tls_server", ["server"], indirect=True)
def test_a_self_signed_certificate_is_refused_with_both_remedies_and_each_of_them_works(
    project: Project, tls_server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    project.configure(server=url_of(tls_server))
    refused = project.run("run")
    assert refused.code == 3
    assert "ca_file" in refused.err and "verify_tls" in refused.err
    project.configure(server=url_of(tls_server), ca_file=str(certificate[0]))
    assert project.run("trusted").code == 0
    project.configure(server=url_of(tls_server), verify_tls=False)
    assert project.run("unverified").code == 0
    assert project.results("trusted")["meta"]["tls_verified"] is True
    assert project.results("unverified")["meta"]["tls_verified"] is False


@pytest.mark.parametrize("tls_server", ["mutual"], indirect=True)
def test_a_server_that_asks_for_a_certificate_gets_it_and_without_one_says_so(
    project: Project, tls_server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    project.configure(server=url_of(tls_server), ca_file=cert)
    refused = project.run("run")
    assert refused.code == 3
    assert "set client_cert and client_key" in refused.err
    project.configure(server=url_of(tls_server), ca_file=cert, client_cert=cert, client_key=key)
    assert project.run("shown").code == 0
    project.configure(server=url_of(tls_server), verify_tls=False, client_cert=cert, client_key=key)
    assert project.run("unverified").code == 0
    assert project.results("unverified")["meta"]["tls_verified"] is False


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"client_cert": "none.pem"}, "client_cert: none.pem: cannot be used: No such file"),
        ({"client_cert": "questions.json"}, "client_cert: questions.json: cannot be used: no cert"),
        ({"ca_file": "none.pem"}, "ca_file: none.pem: cannot be used: No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_line(
    project: Project, server: ScriptedServer, config: dict[str, Any], says: str
) -> None:
    project.configure(server=server.url, **config)
    finished = project.run("run")
    assert finished.code == 2 and says in finished.err and finished.err.count("\n") == 1


def test_a_key_with_a_password_is_one_line_and_asks_nobody(
    project: Project, server: ScriptedServer, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", str(certificate[1])]
    subprocess.run([*command, "-out", str(locked)], check=True, capture_output=True)
    project.configure(server=server.url, client_cert=str(certificate[0]), client_key=str(locked))
    finished = project.run("run")
    assert finished.code == 2 and "the key has a password" in finished.err


@pytest.mark.parametrize("tls_server", ["server"], indirect=True)
def test_http_where_the_server_speaks_tls(project: Project, tls_server: ScriptedServer) -> None:
    project.configure(server=f"http://127.0.0.1:{tls_server.port}/v1")
    finished = project.run("run")
    assert finished.code == 3 and "write https:// in server" in finished.err


def test_https_where_the_server_speaks_plain_http(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(20)

        def refuse() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        project.configure(server=f"https://127.0.0.1:{plain.getsockname()[1]}/v1")
        finished = project.run("run")
        thread.join()
    assert finished.code == 3 and "write http:// in server" in finished.err


def test_a_unix_socket_is_asked_for_answers_and_for_its_models(
    project: Project, tmp_path: Path
) -> None:
    path = str(tmp_path / "Llm.sock")  # its case matters
    running = type("UnixServer", (OtherServer,), {"path": path})()
    quoted = path.replace("/", "%2F")
    try:
        project.configure(server=f"http+unix://{quoted}/v1", model="other")
        finished = project.run("run")
    finally:
        running.close()
    assert finished.code == 0
    assert "the server has: test-model" in finished.err, "the list came by the socket too"
    assert project.results()["meta"]["server"] == f"http+unix://{quoted}/v1"
    gone = project.run("again")
    assert gone.code == 3 and "Traceback" not in gone.err


def test_a_query_goes_with_every_call_and_its_key_goes_nowhere_else(
    project: Project, server: ScriptedServer
) -> None:
    canary = "Zx9canary7Query5key"
    server.passes_test = False
    paths: list[str] = []

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        paths.append(request.path)
        message = json.dumps({"error": {"message": f"no route {request.path}"}})
        writer.write(whole(message.encode(), "418 Teapot", "application/json"))

    server.behaviour = behave
    project.configure(server=f"{server.url}?api-version=7&api-key={canary}")
    finished = project.run("run", "--log-level", "DEBUG")
    dry = project.run("run", "--dry-run")
    assert paths and all(f"api-version=7&api-key={canary}" in path for path in paths)
    texts = [finished.out, finished.err, dry.out, dry.err, project.log()]
    assert not any(canary in text for text in texts)
    assert "api-version=7" in finished.err


# --- Proxies ------------------------------------------------------------------------------------------------------


def test_a_dead_proxy_is_named_as_the_proxy(project: Project, server: ScriptedServer) -> None:
    project.configure(server=server.url, proxy="http://me:secret-word-77@127.0.0.1:9")
    finished = project.run("run")
    assert finished.code == 3
    assert "the proxy http://[REDACTED]@127.0.0.1:9 cannot be reached" in finished.err
    assert "secret-word-77" not in finished.err + project.log()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_asks_for_a_user_is_named_as_the_proxy(
    project: Project, server: ScriptedServer, scheme: str
) -> None:
    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        lines = ("Proxy-Authenticate: Basic realm=x",)
        writer.write(whole(b"", "407 Proxy Authentication Required", "text/html", *lines))

    server.passes_test, server.behaviour = False, behave
    project.configure(server=f"{scheme}://llm.example/v1", proxy=server.url.removesuffix("/v1"))
    finished = project.run("run")
    assert finished.code == 3
    assert "proxy" in finished.err and "407" in finished.err
    assert "write proxy as http://user:password@host:port" in finished.err


# --- Slips of the pen ---------------------------------------------------------------------------------------------

KEYS = [
    "sk-proj-Ab12Cd34Ef56Gh78Ij90",
    "gsk_AbCdEfGhIjKlMnOpQrStUvWx12",
    "hf_AbCdEfGhIjKlMnOpQrSt",
    "AKIAIOSFODNN7EXAMPLE",
    "3f9a8c7b6d5e4f3a2b1c0d9e8f7a6b5c",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("way", ["config", "--set", "option", "header", "judge"])
def test_a_key_that_stands_where_its_variables_name_should_is_never_echoed(
    project: Project, server: ScriptedServer, key: str, way: str
) -> None:
    arguments = ["run"]
    config: dict[str, Any] = {}
    if way == "config":
        config = {"api_key_env": key}
    elif way == "--set":
        arguments += ["--set", f"api_key_env={key}"]
    elif way == "option":
        arguments += ["--api-key-env", key]
    elif way == "header":
        config = {"headers": {"Authorization": f"Bearer ${{{key}}}"}}
    else:
        config = {"judge": {"server": server.url, "model": "j", "api_key_env": key}}
    project.configure(server=server.url, **config)
    finished = project.run(*arguments)
    assert finished.code == 2 and finished.err.count("\n") == 1
    everything = finished.out + finished.err + (project.log() if project.files else "")
    assert key not in everything and key[4:16] not in everything


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "LLM_KEY_2", "my_key"])
def test_a_variable_that_is_not_set_is_named(
    project: Project, server: ScriptedServer, name: str
) -> None:
    project.configure(server=server.url, api_key_env=name)
    finished = project.run("run")
    assert finished.code == 2 and f"{name} is not set" in finished.err


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (["--set", "concurrent=many"], "--set: concurrent"),
        (["--set", "slo.ttft_ms=fast"], "--set: slo.ttft_ms"),
        (["--set", "concurent=2"], "--set: concurent: unknown key"),
        (["--set", "server=localhost"], "--set: server"),
        (["--set", "temperature=0.5"], "config.json: timeout"),
    ],
)
def test_an_error_blames_what_brought_it(
    project: Project, server: ScriptedServer, arguments: list[str], blamed: str
) -> None:
    wrong = {} if blamed.startswith("--set") else {"timeout": "long"}
    project.configure(server=server.url, **wrong)
    finished = project.run("run", *arguments)
    assert finished.code == 2 and blamed in finished.err, finished.err


def test_the_redactor_hides_a_query_that_is_no_secret_from_nobody() -> None:
    shown = st.Config(server="http://h/v1?api-version=7&sig=abc", model="m").without_passwords()
    assert shown["server"] == "http://h/v1?api-version=7&sig=[REDACTED]"
