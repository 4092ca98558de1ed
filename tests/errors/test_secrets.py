"""The key goes to the server and nowhere else; what the server says is inert wherever it is shown."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import llm_stresstest as st
from tests.conftest import (
    MODEL,
    Behaviour,
    Finished,
    Project,
    Request,
    ScriptedServer,
    chunk,
    finish,
    head,
    sends,
    sse,
    streams,
    whole,
)

CANARY = 'sk-canary/7f3a+"91c2\\d48e=0b5a6d7c8e9f'  # with what JSON and URLs write in other ways
STEM = "canary"  # nothing that holds even this much of it may be found


def everything(project: Project, *finished: Finished) -> dict[str, str]:
    """Return all that a run wrote and printed, but the two files that a person wrote."""
    texts = {name: (project.folder / name).read_text(errors="replace") for name in project.files}
    for number, ended in enumerate(finished):
        texts |= {f"stdout {number}": ended.out, f"stderr {number}": ended.err}
    return texts


def leaks(texts: dict[str, str], stem: str = STEM) -> list[str]:
    return [f"{name}: …{found.group()}…" for name, text in texts.items() for found in re.finditer(f".{{0,60}}{stem}.{{0,40}}", text)]  # fmt: skip


def long(start: int) -> str:
    """Return a text in which the canary begins so many characters behind its own beginning."""
    return "x" * start + CANARY


def plain(text: str, status: str = "500 Oops") -> Behaviour:
    return sends(whole(text.encode(), status, "text/plain"))


def events(*parts: Any) -> Behaviour:
    return sends(whole(sse(*parts)))


ECHOES: dict[str, Behaviour] = {
    "answer": streams("Your key is ", CANARY, "."),
    "answer, a character a chunk": streams(*CANARY),
    "answer, percent-encoded": streams(quote(CANARY, safe="")),
    "answer that ends within it": streams(CANARY[:-5]),
    "reasoning": events(chunk(reasoning_content=CANARY), chunk(content="ok"), finish(), "[DONE]"),
    "finish reason": events(chunk(content="ok"), finish(CANARY), "[DONE]"),
    "finish reason, cut": events(chunk(content="ok"), finish(long(170)), "[DONE]"),
    "error object": events({"error": {"message": f"bad key {CANARY}"}}),
    "error object, cut": events({"error": {"message": long(975)}}),
    "error object of another shape": events({"error": {"detail": {CANARY: [CANARY]}}}),
    "body of a 401": sends(
        whole(json.dumps({"error": {"message": CANARY}}).encode(), "401 No", "application/json")
    ),
    "body of a 500": plain(f"Authorization: Bearer {CANARY}"),
    "body of a 500, cut": plain(long(480)),
    "body of a 500, cut far away": plain(long(65_516)),
    "body of a 500, shrunk by redaction": plain(CANARY * 4000),
    "header": sends(
        whole(b"", "429 Slow", "text/plain", f"Retry-After: {CANARY}", f"X-Key: {CANARY}")
    ),
    "content type": sends(whole(b"", content_type=f'text/html; key="{CANARY}"')),
    "status line": plain("", f"500 {CANARY}"),
    "location": sends(
        whole(b"", "302 Found", "text/plain", f"Location: http://127.0.0.1:1/?key={CANARY}")
    ),
    "status line that is none": sends(f"HTTP/1.1 {CANARY}\r\n\r\n".encode(), close=True),
    "header that is none": sends(f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n".encode(), close=True),
    "chunk size that is none": sends(
        head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"),
        f"{CANARY}\r\n".encode(),
        pause_s=0.02,
    ),
    "event that is not JSON": events("{" + CANARY),
    "event that is not JSON, cut": events("{" + long(180)),
    "event of another shape": events(json.dumps([CANARY])),
    "event of another shape, cut": events(json.dumps([long(180)])),
    "event of another API": events({"type": CANARY}),
    "usage": events({**chunk(content="ok"), "usage": {CANARY: CANARY}}, finish(), "[DONE]"),
    "cut": sends(
        head("200 OK", "text/event-stream", "Content-Length: 9999") + sse(chunk(content=CANARY)),
        close=True,
    ),
}


def echoes(request: Request, writer: asyncio.StreamWriter) -> Any:
    return ECHOES[request.question](request, writer)


@dataclass(frozen=True)
class Way:
    """A way to give the program its key, and what the server must get."""

    config: dict[str, Any]
    sent: dict[str, str]
    url: str = ""  # the user part
    environment: bool = True


BASIC = base64.b64encode(f"user:{CANARY}".encode()).decode()
WAYS = {
    "environment": Way({"api_key_env": "KEY"}, {"authorization": f"Bearer {CANARY}"}),
    "header": Way({"headers": {"X-Api-Key": "${KEY}"}}, {"x-api-key": CANARY}),
    "part of a header": Way({"headers": {"Cookie": "a=1; token=${KEY}"}}, {"cookie": f"a=1; token={CANARY}"}),
    "literal header": Way({"headers": {"Authorization": f"Bearer {CANARY}"}}, {"authorization": f"Bearer {CANARY}"}, environment=False),
    "password in the URL": Way({}, {"authorization": f"Basic {BASIC}"}, f"user:{quote(CANARY, safe='')}@", environment=False),
    "user in the URL": Way({}, {"authorization": "Basic " + base64.b64encode(f"{CANARY}:".encode()).decode()}, f"{quote(CANARY, safe='')}@", environment=False),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_key_that_the_server_echoes_is_found_nowhere(
    project: Project, server: ScriptedServer, way: Way
) -> None:
    server.behaviour = echoes
    url = server.url.replace("http://", f"http://{way.url}")
    project.configure(server=url, questions=len(ECHOES), timeout=5, **way.config)
    project.write("questions.json", json.dumps(list(ECHOES)))
    finished = project.run(
        "run", "--log-level", "DEBUG", env={"KEY": CANARY} if way.environment else None
    )
    assert finished.code in (0, 1), finished.err
    assert len(server.requests) == len(ECHOES)
    for request in server.requests:
        assert {name: request.headers.get(name) for name in way.sent} == way.sent, (
            "the server got it"
        )
    records = project.results()["results"]
    assert [record["answer"] for record in records[:2]] == ["Your key is [REDACTED].", "[REDACTED]"]
    assert leaks(everything(project, finished)) == []
    if way.url:
        assert leaks(everything(project, finished), re.escape(BASIC[8:24])) == []
    shown = project.run("verify", "run")
    assert leaks({"out": shown.out, "err": shown.err}) == []


@pytest.mark.parametrize(
    "where", ["send_question", "calculate_aggregates", "test_connection", "load_questions"]
)
def test_a_fault_of_this_program_does_not_show_the_key_either(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole: Any = getattr(st, where)

    def faulty(*args: Any, **options: Any) -> Any:
        if len(args) > 1 and getattr(args[1], "index", 0) == -1:  # that of the connection test
            return whole(*args, **options)
        raise RuntimeError(f"with {CANARY} in {json.dumps({'key': CANARY})}")

    monkeypatch.setattr(st, where, faulty)
    project.configure(server=server.url, api_key_env="KEY")
    finished = project.run("run", "--log-level", "DEBUG", env={"KEY": CANARY})
    assert finished.code not in (0, 3, 4)
    assert "Traceback" not in finished.err and finished.err.count("\n") == (
        0 if where == "send_question" else 1
    )
    if where != "load_questions":  # before the key is known; and it cannot be in a message there
        assert "traceback=" in project.log() and "RuntimeError" in project.log()
        assert leaks(everything(project, finished)) == []


def test_a_killed_run_leaves_no_key_behind_and_none_in_the_process_list(
    project: Project, server: ScriptedServer
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number < len(ECHOES):
            await echoes(request, writer)
        else:
            await asyncio.sleep(30)

    server.behaviour = behave
    asked = len(ECHOES) + 2
    project.configure(
        server=server.url, api_key_env="KEY", questions=asked, timeout=30, abort_if=None
    )
    project.write("questions.json", json.dumps(list(ECHOES)))
    process = project.start("run", "--log-level", "DEBUG", env={"KEY": CANARY})
    while len(server.requests) < len(ECHOES) + 2:
        time.sleep(0.01)
    command = Path(f"/proc/{process.pid}/cmdline").read_text()
    time.sleep(0.2)
    process.kill()
    out, err = process.communicate()
    assert "llm_stresstest.py" in command and STEM not in command
    assert any(name.endswith(".journal") for name in project.files)
    assert len(st.JournalReader(project.folder / "results" / "run.journal")) == len(ECHOES)
    assert leaks(everything(project, Finished(-9, out, err))) == []


def test_a_server_that_echoes_the_key_in_the_connection_test_shows_it_to_nobody(
    project: Project, server: ScriptedServer
) -> None:
    def models(*names: str) -> bytes:
        data = [{"id": name, "object": "model", "created": 1, "owned_by": "t"} for name in names]
        return whole(
            json.dumps({"object": "list", "data": data}).encode(), content_type="application/json"
        )

    lists = models(MODEL)
    refusal = json.dumps({"error": {"message": f"bad key {CANARY}", "code": CANARY}}).encode()
    answers = {
        "model names": (models("a", CANARY, f"org/{CANARY}"), b""),
        "401 for the list": (whole(refusal, "401 No", "application/json"), b""),
        "401 for the answer": (lists, whole(refusal, "401 No", "application/json")),
        "404 for the answer": (lists, whole(refusal, "404 No", "application/json")),
        "500 with a page": (lists, whole(long(650).encode(), "500 No", "text/html")),
        "an error object": (lists, whole(refusal, content_type="application/json")),
        "another shape": (
            lists,
            whole(json.dumps([long(250)]).encode(), content_type="application/json"),
        ),
        "not JSON": (lists, whole(b"{" + CANARY.encode(), content_type="application/json")),
        "not HTTP": (lists, CANARY.encode() + b"\r\n\r\n"),
        "a redirect": (
            lists,
            whole(b"", "302 Found", "text/html", f"Location: http://127.0.0.1:1/{CANARY}"),
        ),
    }
    server.passes_test = False
    project.configure(server=server.url, api_key_env="KEY", timeout=3)
    for name, (to_get, to_post) in answers.items():

        async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(to_get if request.method == "GET" else to_post)  # noqa: B023  run at once
            await writer.drain()
            if request.method == "POST":
                writer.close()

        server.behaviour = behave
        finished = project.run("run", "--log-level", "DEBUG", env={"KEY": CANARY})
        assert (finished.code, finished.err.count("\n")) == (3, 1), (name, finished)
        assert leaks(everything(project, finished)) == [], name
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {CANARY}"}


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{STEM}-secret@",
        f"http://user:p@{STEM}-secret@",
        f"http://user:p/{STEM}-secret@",
        f"http://user:p?{STEM}-secret@",
        f"http://user:p#{STEM}-secret@",
        f"http://{STEM}-secret@",
        f"ftp://user:{STEM}-secret@",
    ],
)
@pytest.mark.parametrize("key", ["server", "proxy", "judge.server"])
def test_a_password_in_a_url_is_shown_nowhere_whether_the_url_is_good_or_bad(
    project: Project, server: ScriptedServer, url: str, key: str
) -> None:
    value: Any = url + server.url.removeprefix("http://")
    outer, _, inner = key.partition(".")
    extra = {"model": "m"} if outer == "judge" else {}
    project.configure(
        **{"server": server.url, outer: {inner: value, **extra} if inner else value, "timeout": 1}
    )
    for option in ([], ["--dry-run"]):
        finished = project.run("run", "--log-level", "DEBUG", *option)
        assert finished.code != 70, finished.err
        assert leaks(everything(project, finished)) == []
    project.configure(**{"server": server.url, outer: [value]})
    finished = project.run("run")
    assert finished.code == 2 and leaks(everything(project, finished)) == []


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, api_key_env="KEY")
    for key in [
        f"{CANARY}\r\nX-Evil: 1",
        f"{CANARY}\n",
        f" {CANARY}",
        f"{CANARY}ü",
        f"{CANARY}\x1b[31m",
    ]:
        finished = project.run("run", env={"KEY": key})
        assert finished.code == 2 and finished.err.count("\n") == 1
        assert leaks(everything(project, finished)) == []
    assert server.requests == []


NAUGHTY = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\\x9b31m\x00\x08\x7f\r\u202egnp\u200b\u2028\ufeff\u061c[bold red]x[/]\n"


def is_inert(text: str) -> bool:
    """Whether a terminal that shows this text does nothing but show it."""
    return not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text
    )


def test_what_the_server_says_is_inert_on_terminal_and_log_and_exact_in_the_file(
    project: Project, server: ScriptedServer
) -> None:
    said: dict[str, Behaviour] = {
        "answer": events(chunk(content=NAUGHTY), finish(NAUGHTY), "[DONE]"),
        "reasoning": events(chunk(reasoning=NAUGHTY), chunk(content="ok"), finish(), "[DONE]"),
        "error": events({"error": {"message": NAUGHTY}}),
        "500": sends(whole(NAUGHTY.encode(), "500 \x1b[31mOops", "text/plain")),
        "content type": sends(whole(b"", content_type="text/\x1b[31mhtml")),
        "not JSON": events("{" + NAUGHTY.replace("\n", "").replace("\r", "")),
        "not HTTP": sends(NAUGHTY.encode() + b"\r\n\r\n", close=True),
        f"question {NAUGHTY}": streams("ok"),
    }

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await said[request.question](request, writer)

    server.behaviour = behave
    project.configure(server=server.url, questions=len(said), concurrent=1)
    project.write("questions.json", json.dumps([{"question": text, "id": f"{place}{NAUGHTY}"} for place, text in enumerate(said)]))  # fmt: skip
    finished = project.run("run", "--log-level", "DEBUG")
    assert finished.code in (0, 1), finished.err
    records = project.results()["results"]
    assert records[0]["answer"] == NAUGHTY and records[0]["finish_reason"] == NAUGHTY
    assert records[1]["reasoning"] == NAUGHTY
    assert [records[place]["error"]["message"] for place in (2, 3)] == [NAUGHTY] * 2
    assert records[7]["question"] == f"question {NAUGHTY}" and records[7]["id"] == f"7{NAUGHTY}"
    assert is_inert(finished.out) and is_inert(finished.err)
    assert is_inert(project.log())
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in project.log().splitlines()), (
        "one record a line"
    )


def test_what_the_server_says_in_the_connection_test_is_inert(
    project: Project, server: ScriptedServer
) -> None:
    server.passes_test, server.behaviour = (
        False,
        sends(whole(NAUGHTY.encode(), "500 Oops", "text/plain")),
    )
    finished = project.run("run", "--log-level", "DEBUG")
    assert finished.code == 3 and finished.err.count("\n") == 1
    assert is_inert(finished.err) and is_inert(project.log())


@dataclass(frozen=True)
class Certificate:
    """A certificate that nobody vouches for."""

    file: Path
    context: ssl.SSLContext


def make_certificate(folder: Path, names: str) -> Certificate:
    file, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(file), "-subj", "/CN=test", "-addext", f"subjectAltName={names}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return Certificate(file, context)


@contextlib.contextmanager
def serving_tls(certificate: Certificate) -> Iterator[ScriptedServer]:
    """Run a scripted server that speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            asyncio,
            "start_server",
            functools.partial(asyncio.start_server, ssl=certificate.context),
        )
        running = ScriptedServer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture
def tls_server(certificate: Certificate) -> Iterator[ScriptedServer]:
    with serving_tls(certificate) as running:
        yield running


def test_a_certificate_that_nobody_vouches_for_is_refused(
    project: Project, tls_server: ScriptedServer
) -> None:
    project.configure(server=tls_server.url.replace("http:", "https:"), api_key_env="KEY")
    finished = project.run("run", env={"KEY": CANARY})
    assert (finished.code, finished.err.count("\n")) == (3, 1)
    assert st.FAILURES["tls"] in finished.err
    assert tls_server.requests == [], "the key stayed here"


def test_a_certificate_of_another_host_is_refused(project: Project, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "DNS:elsewhere.example")
    with serving_tls(other) as running:
        project.configure(server=running.url.replace("http:", "https:"), ca_file=str(other.file))
        finished = project.run("run")
        assert (finished.code, finished.err.count("\n")) == (3, 1)
        assert st.FAILURES["tls"] in finished.err
        assert running.requests == []


def test_a_certificate_that_ca_file_vouches_for_is_trusted(
    project: Project, tls_server: ScriptedServer, certificate: Certificate
) -> None:
    project.configure(
        server=tls_server.url.replace("http:", "https:"), ca_file=str(certificate.file)
    )
    finished = project.run("run")
    assert finished.code == 0, finished.err
    assert project.results()["meta"]["tls_verified"] is True
    assert "not verified" not in finished.out


def test_tls_that_is_not_verified_is_said_in_summary_and_file(
    project: Project, tls_server: ScriptedServer
) -> None:
    project.configure(server=tls_server.url.replace("http:", "https:"), verify_tls=False)
    finished = project.run("run")
    assert finished.code == 0, finished.err
    assert "TLS not verified" in finished.out
    meta = project.results()["meta"]
    assert meta["tls_verified"] is False and meta["config"]["verify_tls"] is False


def test_without_tls_nothing_is_said_of_it(project: Project) -> None:
    finished = project.run("run")
    assert project.results()["meta"]["tls_verified"] is None
    assert "TLS" not in finished.out


ORDINARY = "sk-proj-4fQ9zL2mX8rT6wB1yK7vN3cJ5hG0dS"


@pytest.mark.parametrize("way", ["as it is", "upper case", "base64", "hexadecimal", "URL in URL"])
def test_an_answer_that_is_cut_within_an_ordinary_key_shows_no_eight_characters_of_it(
    project: Project, server: ScriptedServer, way: str
) -> None:
    def written(text: str) -> str:
        ways = {
            "as it is": text,
            "upper case": text.upper(),
            "hexadecimal": text.encode().hex(),
            "URL in URL": "".join(f"%25{ord(character):02x}" for character in text),
            "base64": base64.b64encode(b"ab" + text.encode()).decode(),
        }
        return ways[way]

    lengths = range(len("sk-proj-") + 8, len(ORDINARY) + 1, 3)
    texts = [written(ORDINARY[:length]) for length in lengths]

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        text = texts[int(request.question)]
        # In two chunks whose border is within the key, and the same in the reasoning and an error.
        pieces = [
            chunk(reasoning_content=f"Hm, {text}"),
            chunk(content=text[:11]),
            chunk(content=text[11:]),
        ]
        await events(*pieces, finish(text), "[DONE]")(request, writer)

    server.behaviour = behave
    project.configure(server=server.url, questions=len(texts), api_key_env="KEY")
    project.write("questions.json", json.dumps([str(place) for place in range(len(texts))]))
    finished = project.run("run", "--log-level", "DEBUG", env={"KEY": ORDINARY})
    assert finished.code == 0, finished.err
    assert {request.headers["authorization"] for request in server.requests} == {
        f"Bearer {ORDINARY}"
    }
    runs = [ORDINARY[place : place + 8] for place in range(len("sk-proj-"), len(ORDINARY) - 7)]
    kept = "".join(everything(project, finished).values())
    assert not [run for run in runs if run.lower() in kept.lower()]
    assert not [run for run in runs if run.encode().hex() in kept]
    code = base64.b64encode(b"ab" + ORDINARY.encode()).decode()
    assert not [place for place in range(14, len(code) - 12) if code[place : place + 12] in kept]
    answers = [entry["answer"] for entry in project.results()["results"]]
    assert all(st.REDACTED in answer for answer in answers)


@pytest.mark.parametrize("key", ["ollama", "EMPTY", "none", "test", "sk-no-key"])
def test_a_key_that_is_a_word_changes_no_answer_and_the_log_says_that_it_is_no_secret(
    project: Project, server: ScriptedServer, key: str
) -> None:
    answer = f"You can run {key} yourself; a {key} is {key.upper()}."
    server.behaviour = streams(answer)
    project.configure(server=server.url, api_key_env="KEY")
    finished = project.run("run", env={"KEY": key})
    assert finished.code == 0
    assert {entry["answer"] for entry in project.results()["results"]} == {answer}
    warned = [line for line in project.log().splitlines() if "is short or a common word" in line]
    assert len(warned) == 1 and "WARNING" in warned[0] and "KEY" in warned[0]


LITERALS: dict[str, dict[str, Any]] = {
    "header": {"headers": {"X-Password": "hunter2"}},
    "cookie": {"headers": {"Cookie": "session=hunter2"}},
    "subscription": {"headers": {"Ocp-Apim-Subscription-Key": "hunter2"}},
    "body": {"extra_body": {"api_key": "hunter2"}},
    "deep in the body": {"extra_body": {"auth": {"parameters": ["x", {"password": "hunter2"}]}}},
    "key by its form": {"extra_body": {"custom": "sk-hunter2-8fQ9zL2mX8rT6"}},
    "header by its form": {"headers": {"X-Custom": "hf_hunter2abcdefghijkl"}},
    "header by its scheme": {"headers": {"X-Custom": "Basic hunter2"}},
    "beside a variable": {"headers": {"Cookie": "session=hunter2; token=${KEY}"}},
    "below a name": {"extra_body": {"auth": {"user": "me", "pin": ["hunter2"]}}},
    "a number": {"extra_body": {"password": 12345678}},
    "within a text": {"extra_body": {"note": "with sk-hunter2-8fQ9zL2mX8rT6, please"}},
    "system prompt": {"system_prompt": "Send Authorization: Bearer hunter2-8fQ9zL2m."},
    "stop": {"stop": ["x", "sk-proj-hunter2-8fQ9zL2m"]},
    "query of the server": {"server": "?password=hunter2"},
    "query by its form": {"server": "?x=sk-hunter2-8fQ9zL2mX8rT6"},
}


@pytest.mark.parametrize("config", LITERALS.values(), ids=LITERALS)
def test_a_literal_credential_is_sent_and_written_nowhere(
    project: Project, server: ScriptedServer, config: dict[str, Any]
) -> None:
    project.configure(**{**config, "server": server.url + config.get("server", "")})
    finished = project.run("run", "--log-level", "DEBUG", env={"KEY": ORDINARY})
    assert finished.code == 0, finished.err
    sent = server.requests[0]
    assert re.search("hunter2|12345678", str(sent.headers) + sent.path + sent.body.decode())
    for stem in ("hunter2", "12345678", ORDINARY[10:20]):
        assert leaks(everything(project, finished), stem) == []
    assert st.REDACTED in json.dumps(project.results()["meta"]["config"])
    again = project.run("again", "--dry-run", env={"KEY": ORDINARY})
    assert again.code == 0 and leaks({"out": again.out, "err": again.err}, "hunter2") == []


def test_of_a_command_that_reads_watts_no_argument_is_written_anywhere(
    project: Project, server: ScriptedServer
) -> None:
    # What is a password among arguments, only the command knows: -P, -p, -c, a URL, a heredoc.
    script = "exit 3 # -P hunter2 http://me:hunter2@bmc/ $(cat hunter2)"
    hardware = {"sample_s": 0.1, "idle_s": 0, "power_command": f"sh -c '{script}'"}
    project.configure(server=server.url, hardware=hardware)
    finished = project.run("run", "--log-level", "DEBUG")
    assert finished.code in (0, 1), finished.err
    assert "hardware.power_command: exit code 3" in finished.err
    assert leaks(everything(project, finished), "hunter2") == []
    saved = project.results()["meta"]["config"]["hardware"]
    assert saved["power_command"] == f"sh {st.REDACTED}"
    project.configure(server=server.url, hardware={"power_command": ["-P", "hunter2"]})
    finished = project.run("run")
    assert finished.code == 2 and "hunter2" not in finished.err


@pytest.mark.parametrize("key", ["server", "proxy", "judge.server"])
def test_a_variable_where_none_is_filled_in_is_refused_with_the_remedy(
    project: Project, server: ScriptedServer, key: str
) -> None:
    outer, _, inner = key.partition(".")
    url = server.url.replace("http://", "http://me:${KEY}@")
    value = {"server": url, "model": MODEL} if inner else url
    project.configure(**{"server": server.url, outer: value})
    finished = project.run("run", env={"KEY": ORDINARY})
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert f"config.json: {key}: ${{NAME}} is filled in only in headers" in finished.err
    assert server.requests == []


def test_a_variable_in_the_body_is_refused_where_a_credential_stands_and_sent_elsewhere(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, extra_body={"auth": {"api_key": "${KEY}"}})
    finished = project.run("run", env={"KEY": ORDINARY})
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "extra_body: ${NAME} is not filled in there; give the key in a header" in finished.err
    project.configure(server=server.url, extra_body={"grammar": "${NAME}"})
    assert project.run("run").code == 0
    assert server.requests[0].json["grammar"] == "${NAME}"


SLIPS = {
    "headers as a list": {"headers": ["X-Password: hunter2"]},
    "headers as a text": {"headers": "X-Password: hunter2"},
    "a header that is no text": {"headers": {"X-Password": "hunter2", "X-Number": 5}},
    "a header's bad name": {"headers": {"X-Password": "hunter2", "X Y": "a"}},
    "body as a list": {"extra_body": ["hunter2"]},
    "key in place of its variable": {"api_key_env": "hunter2/8fQ9zL2m"},
    "judge's key": {"judge": {"server": "http://x", "model": "m", "api_key_env": "hunter2/8fQ9"}},
    "a list for the key": {"api_key_env": ["hunter2"]},
    "another program's name": {"api_key": "hunter2"},
    "a model that is a list": {"model": ["sk-hunter2-8fQ9zL2mX8rT6"]},
    "a private key for its file": {"ca_file": f"-----BEGIN PRIVATE KEY-----\nhunter2{'x' * 1000}"},
    "a certificate with its key": {"client_cert": "-----BEGIN EC PRIVATE KEY-----\nhunter2"},
}


@pytest.mark.parametrize("config", SLIPS.values(), ids=SLIPS)
def test_an_error_shows_no_credential_of_the_config(project: Project, config: Any) -> None:
    project.configure(**{"server": "http://127.0.0.1:9/v1", **config})
    finished = project.run("run")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "hunter2" not in finished.err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--api-key", "hunter2"], "--set api_key_env=NAME"),
        (["--api-key=hunter2"], "--set api_key_env=NAME"),
        (["--token", "hunter2"], "--set api_key_env=NAME"),
        (["--headers", '{"X-Password": "hunter2"}'], "--set headers=VALUE"),
        (["--server", "http://me:hunter2@host/v1"], "--set"),
        (["--set", "timeout.x=hunter2"], "is not an object"),
        (["--set", "sk-hunter2-8fQ9zL2mX8rT6"], "write KEY=VALUE"),
        (["sk-hunter2-8fQ9zL2mX8rT6"], "unrecognized arguments"),
        (["--set", 'extra_body={"a": 1, "a": "hunter2"}'], "stands there twice"),
    ],
)
def test_an_error_shows_no_credential_of_the_command_line(
    project: Project, arguments: list[str], remedy: str
) -> None:
    finished = project.run("run", *arguments)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert remedy in finished.err
    assert "hunter2" not in finished.err


@pytest.mark.parametrize(
    "body", [{"max_tokens_per_doc": 5}, {"stop_token": "</s>"}, {"eos_token": "<|im_end|>"}, {"cache_key": "a"}, {"keys": "b"},
     {"author": "me"}, {"note": "as in sk-learn-contributions, risk-adjusted-return-2024"}, {"use_auth": True},
        {"lora": "/models/hf_mistral-7b-v0.3"}, {"models": ["xai-grok-4-fast-2025", "sk-gpu01.corp.example"]}]
)  # fmt: skip
def test_what_only_sounds_like_a_credential_is_kept(
    project: Project, server: ScriptedServer, body: Any
) -> None:
    project.configure(server=server.url, extra_body=body)
    project.run("run")
    assert project.results()["meta"]["config"]["extra_body"] == body


def test_a_host_whose_name_begins_like_a_key_is_shown() -> None:
    config = st.Config(server="http://sk-bratislava-gpu-node01:8000/v1", model="m")
    assert config.without_passwords()["server"] == config.server
    assert st.resolve_target(config, {}).shown == config.server


def test_a_run_whose_config_has_a_credential_can_be_gone_on_with(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, headers={"X-Password": "hunter2"}, questions=2)

    def full(*_args: Any, **_options: Any) -> Any:
        raise st.ResultsError("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "save_results", full)
        project.run("run")
    path = project.folder / "results" / "run.journal"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    finished = project.run("run", "--resume")
    assert finished.code == 0, finished.err
    assert server.requests[-1].headers["x-password"] == "hunter2"


def test_the_official_client_takes_nothing_from_the_environment(
    project: Project, server: ScriptedServer
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1}]}
        if request.method == "GET":
            body = json.dumps(listed).encode()
            writer.write(whole(body, content_type="application/json"))
        else:
            await streams("ok")(request, writer)

    server.passes_test, server.behaviour = False, behave
    environment = {
        "OPENAI_API_KEY": CANARY, "OPENAI_ADMIN_KEY": CANARY, "OPENAI_ORG_ID": CANARY, "OPENAI_PROJECT_ID": CANARY,
        "OPENAI_BASE_URL": "http://127.0.0.1:1/", "OPENAI_CUSTOM_HEADERS": f"X-A: {CANARY}", "OPENAI_LOG": "debug",
        "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1", "all_proxy": "http://127.0.0.1:1", "NETRC": "/dev/null",
    }  # fmt: skip
    finished = project.spawn("run", "--quiet", env=environment)
    assert finished.code in (0, 1), finished.err
    assert "DEBUG" not in finished.err
    assert [request.method for request in server.requests].count("GET") >= 1
    assert {request.method for request in server.requests} == {"GET", "POST"}
    for request in server.requests:
        assert CANARY not in str(request.headers) + request.body.decode()
        assert (
            not {"authorization", "openai-organization", "openai-project"} & request.headers.keys()
        )
    assert leaks(everything(project, finished)) == []


def test_both_ways_to_the_server_trust_what_the_environment_says(
    project: Project, tls_server: ScriptedServer, certificate: Certificate
) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1}]}
        if request.method == "GET":  # the official client
            body = json.dumps(listed).encode()
            writer.write(whole(body, content_type="application/json"))
        else:  # the measured path
            await streams("ok")(request, writer)

    tls_server.passes_test, tls_server.behaviour = False, behave
    project.configure(server=tls_server.url.replace("http:", "https:"))
    trusting = {"SSL_CERT_FILE": str(certificate.file)}
    finished = project.spawn("run", "--quiet", env=trusting)
    assert finished.code in (0, 1), finished.err
    assert {request.method for request in tls_server.requests} == {"GET", "POST"}
    before = len(tls_server.requests)
    finished = project.spawn("again", "--quiet")
    assert finished.code == 3 and st.FAILURES["tls"] in finished.err
    assert len(tls_server.requests) == before
