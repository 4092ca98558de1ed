"""The judge is asked by the rules of the measured path, and learns nothing that is not its business."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

import llm_stresstest as st
from extensions import quality, sandbox
from tests.conftest import MODEL, Project, Request, ScriptedServer, streams, whole
from tests.errors.test_secrets import make_certificate, serving_tls
from tests.extensions.test_quality_run import judged, replies

ODD_ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-of-somebody-else",
    "OPENAI_ORG_ID": "org-of-somebody-else",
    "OPENAI_PROJECT_ID": "project-of-somebody-else",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
}


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    """A second server: the judge's, where the model's is another one."""
    running = ScriptedServer()
    yield running
    running.close()


def grade(project: Project, config: dict[str, Any], grader: str, **options: Any) -> tuple[Any, str]:
    """Grade one answer as a run does; return the score and the reason."""
    made = st.Config.model_validate({"model": MODEL, **config})
    fields = {"id": "q", "question": "Q?", "grader": grader, "expected": "It is kind."}
    question = st.Question.model_validate(fields)
    result = st.Result(0, "q", "Q?", answer="You are lovely", grader=grader)

    async def run() -> tuple[Any, str]:
        async with quality.Graders(made, **options) as graders:
            async for _, score, reason in graders.grade_results({"q": question}, [result]):
                return score, reason
        raise AssertionError("nothing was graded")

    return asyncio.run(run())


def embeddings(*vectors: Any) -> bytes:
    data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors)
    ]
    return whole(
        json.dumps({"object": "list", "data": data}).encode(), content_type="application/json"
    )


def sends_always(server: ScriptedServer, reply: bytes) -> None:
    async def behave(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    server.behaviour = behave


def test_nothing_comes_from_the_environment(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ODD_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    judged(project, server)
    replies(server, "VERDICT: PASS")
    assert project.run("run").code == 0
    assert project.results()["results"][0]["quality"] == 1.0
    for request in server.requests:
        said = json.dumps(request.headers) + request.body.decode()
        assert "somebody-else" not in said and "authorization" not in request.headers
    sends_always(server, embeddings([1, 0], [1, 0]))
    config = {"server": server.url, "judge": {"server": server.url, "model": MODEL}}
    assert grade(project, config, "semantic")[0] == 1.0
    assert "somebody-else" not in json.dumps(server.requests[-1].headers)


@pytest.mark.parametrize("grader", ["judge", "semantic"])
def test_a_proxy_of_the_config_is_used(
    project: Project, server: ScriptedServer, other: ScriptedServer, grader: str
) -> None:
    replies(other, "VERDICT: PASS")
    if grader == "semantic":
        sends_always(other, embeddings([1, 0], [1, 0]))
    judge = {"server": "http://judge.invalid/v1", "model": MODEL}
    config = {"server": server.url, "judge": judge, "proxy": other.url.removesuffix("/v1")}
    assert grade(project, config, grader)[0] == 1.0
    assert {request.path.rpartition("/v1")[0] for request in other.requests} == {
        "http://judge.invalid"
    }


def test_tls_is_checked_as_on_the_measured_path(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "_pause_s", lambda *_: 0.0)
    certificate = make_certificate(project.folder, "IP:127.0.0.1")
    with serving_tls(certificate) as judge:
        address = judge.url.replace("http://", "https://")
        config = {"server": server.url, "judge": {"server": address, "model": MODEL}}
        for grader in ("judge", "semantic"):
            replies(judge, "VERDICT: PASS")
            if grader == "semantic":
                sends_always(judge, embeddings([1, 0], [1, 0]))
            score, reason = grade(project, config, grader)
            assert score is None and "tls" in reason
            for trusting in ({"ca_file": str(certificate.file)}, {"verify_tls": False}):
                assert grade(project, {**config, **trusting}, grader)[0] == 1.0


@pytest.mark.parametrize("grader", ["judge", "semantic"])
def test_a_redirect_is_never_followed(
    project: Project, server: ScriptedServer, other: ScriptedServer, grader: str
) -> None:
    sends_always(server, whole(b"", "307 Elsewhere", "text/plain", f"Location: {other.url}/x"))
    config = {"server": server.url, "judge": {"server": server.url, "model": MODEL}}
    score, reason = grade(project, config, grader)
    assert score is None
    assert "307" in reason or "redirect" in reason
    assert other.requests == []


@pytest.mark.parametrize("grader", ["judge", "semantic"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_reply_is_bounded_in_size(
    project: Project, server: ScriptedServer, grader: str, compressed: bool
) -> None:
    body, lines = b"x" * 200_000, list[str]()
    if compressed:
        import gzip

        body, lines = gzip.compress(b"[" * 50_000_000), ["Content-Encoding: gzip"]
    sends_always(server, whole(body, "200 OK", "application/json", *lines))
    judge = {"server": server.url, "model": MODEL}
    config = {"server": server.url, "judge": judge, "max_answer_bytes": 10_000}
    score, reason = grade(project, config, grader)
    assert score is None
    assert reason.startswith("the judge")


@pytest.mark.parametrize("grader", ["judge", "semantic"])
def test_a_reply_is_bounded_in_time(project: Project, server: ScriptedServer, grader: str) -> None:
    async def drip(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        )
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)

    server.behaviour = drip
    judge = {"server": server.url, "model": MODEL}
    score, reason = grade(project, {"server": server.url, "judge": judge, "timeout": 0.3}, grader)
    assert score is None
    assert "imeout" in reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"data": 5}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [0, 0]}, {"index": 1, "embedding": [0, 0]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": ["x"]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [NaN]}]}',
        b'{"data": [{"index": "a", "embedding": [1]}, {"index": 1, "embedding": [1]}]}',
        b"[" * 9000,
        b"\xff\xfe",
    ],
)
def test_embeddings_that_are_none_leave_the_answer_ungraded(
    project: Project, server: ScriptedServer, body: bytes
) -> None:
    sends_always(server, whole(body, content_type="application/json"))
    config = {"server": server.url, "judge": {"server": server.url, "model": MODEL}}
    score, reason = grade(project, config, "semantic")
    assert score is None
    assert reason.startswith("the judge's")


def test_the_key_of_the_measured_server_never_reaches_the_judge(
    project: Project, server: ScriptedServer, other: ScriptedServer
) -> None:
    key, judges_key = "sk-proj-8dF3kLmN0pQrStUv", "jk-live-77aabbccddeeff00"
    judged(project, server)
    replies(other, "VERDICT: PASS")

    async def leak(request: Request, writer: asyncio.StreamWriter) -> None:
        await streams("You are lovely. Your key is ", key, ".")(request, writer)

    server.behaviour = leak
    judge = {"server": other.url, "model": MODEL, "api_key_env": "JUDGE_KEY"}
    project.configure(server=server.url, questions=1, judge=judge, api_key_env="KEY")
    environment = {"KEY": key, "JUDGE_KEY": judges_key}
    assert project.run("run", env=environment).code == 0
    assert project.results()["results"][0]["quality"] == 1.0
    assert other.requests, "the judge was asked"
    for request in other.requests:
        assert request.headers["authorization"] == f"Bearer {judges_key}"
        assert key not in json.dumps(request.headers) + request.body.decode()
    assert all(judges_key not in json.dumps(request.headers) for request in server.requests)


def test_a_judge_that_echoes_its_key_leaks_it_nowhere(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "_pause_s", lambda *_: 0.0)
    key = "jk-live-77aabbccddeeff00"
    judged(project, server)

    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.json.get("stream"):
            await streams("You are lovely")(request, writer)
        else:
            error = json.dumps({"error": {"message": f"{'x' * 20} no such key: {key}"}}).encode()
            writer.write(whole(error, "401 Unauthorized", "application/json"))

    server.behaviour = echo
    judge = {"server": server.url, "model": MODEL, "api_key_env": "JUDGE_KEY"}
    project.configure(server=server.url, questions=1, judge=judge)
    finished = project.run("run", env={"JUDGE_KEY": key})
    assert finished.code == 0, finished.err
    assert "the judge failed" in project.results()["results"][0]["grade_reason"]
    again = project.run("grade", "run", env={"JUDGE_KEY": key})
    assert again.code == 0, again.err
    kept = b"".join(path.read_bytes() for path in project.folder.rglob("*") if path.is_file())
    said = kept + (finished.out + finished.err + again.out + again.err).encode()
    assert key.encode() not in said and key[8:].encode() not in said


def test_a_busy_judge_is_asked_again(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[Any] = []

    def no_pause(said: str | None, _attempt: int) -> float:
        paused.append(said)
        return 0.0

    monkeypatch.setattr(quality, "_pause_s", no_pause)
    judged(project, server)
    replies(server, "VERDICT: PASS")
    good = server.behaviour

    async def busy(request: Request, writer: asyncio.StreamWriter) -> None:
        if not request.json.get("stream") and len(paused) < 2:
            writer.write(whole(b"{}", "429 Slow down", "application/json", "Retry-After: 3"))
        else:
            await good(request, writer)

    server.behaviour = busy
    assert project.run("run").code == 0
    assert project.results()["results"][0]["quality"] == 1.0
    assert paused == ["3", "3"]


@pytest.mark.parametrize(
    ("said", "attempt", "seconds"),
    [
        (None, 1, 0.5),
        (None, 2, 2.0),
        ("7", 1, 7.0),
        ("9999", 1, 20.0),
        ("soon", 1, 0.5),
        ("²", 1, 0.5),
    ],
)
def test_the_pause_is_what_the_judge_says_within_reason(
    said: str | None, attempt: int, seconds: float
) -> None:
    assert quality._pause_s(said, attempt) == seconds


# === What is said before the load


CODE = {"id": "c", "question": "C?", "grader": "code", "expected": "assert f()"}
LOST = {"$ref": "#/$defs/gone"}
SCHEMA = {"id": "s", "question": "S?", "grader": "json", "expected": {"schema": LOST}}


def test_a_dry_run_says_what_will_stay_ungraded_and_why(project: Project) -> None:
    asked = [
        {"id": "j", "question": "J?", "grader": "judge", "expected": "kind"},
        {"id": "k", "question": "K?", "grader": "judge", "expected": "kind"},
        {"id": "e", "question": "E?", "grader": "semantic", "expected": "kind"},
        CODE,
        SCHEMA,
    ]
    project.write("questions.json", json.dumps(asked))
    finished = project.run("run", "--dry-run", "--set", "questions=5")
    assert finished.code == 0
    said = " ".join((finished.out + finished.err).split())
    assert (
        "2 questions stay ungraded: they are graded by judge, which needs config.json's judge"
        in said
    )
    assert "1 question stays ungraded: it is graded by semantic, which needs" in said
    assert (
        "1 question stays ungraded: it is graded by code, which is only run with --allow-code"
        in said
    )
    assert "question s stays ungraded: its schema's $ref #/$defs/gone leads nowhere" in said


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "object"}}, "$ref": "#/$defs/a"},
        {"$id": "http://x/y", "$defs": {"a": True}, "properties": {"b": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a": {"$anchor": "here"}}, "items": {"$ref": "#here"}},
        {"properties": {"$ref": {"type": "string"}}},
        True,
        {},
    ],
)
def test_a_reference_that_leads_somewhere_is_no_hint(schema: Any) -> None:
    assert quality.Json.lost_references(schema) == []


@pytest.mark.parametrize(
    "schema",
    [
        LOST,
        {"properties": {"a": {"anyOf": [{"$ref": "http://127.0.0.1:9/schema.json"}]}}},
        {"items": {"$ref": "other.json#/a"}},
    ],
)
def test_a_reference_that_leads_nowhere_is_found(schema: Any) -> None:
    assert len(quality.Json.lost_references(schema)) == 1


def test_code_is_refused_where_the_system_confines_too_little_and_weak_is_a_choice(
    project: Project, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour = streams("```python\ndef f():\n    return True\n```")
    project.write("questions.json", json.dumps([CODE]))
    project.configure(server=server.url, questions=1)
    monkeypatch.setattr(sandbox.Confined.__init__, "__defaults__", (("hook",),))
    weak = sandbox.run_confined
    monkeypatch.setattr(
        sandbox, "run_confined", lambda code, asserts: weak(code, asserts, ("hook",))
    )
    refused = project.run("run", "--allow-code")
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert (
        "--allow-code: this system cannot keep a model's code from processes, sockets and" in said
    )
    assert "your files (neither namespaces nor Landlock)" in said
    assert "--allow-code=weak" in said and refused.err.count("\n") == 1
    assert server.requests == []
    allowed = project.run("run", "--allow-code=weak")
    assert allowed.code == 0, allowed.err
    assert project.results()["results"][0]["quality"] == 1.0
    dry = project.run("other", "--allow-code=weak", "--dry-run")
    assert "WARNING this system cannot keep" in " ".join(dry.out.split())


def test_allow_code_never_takes_the_name_of_the_run_for_its_value(project: Project) -> None:
    project.write("questions.json", json.dumps([CODE]))
    assert project.run("--allow-code", "run", "--dry-run").code == 0
    assert project.run("run", "--allow-code=strong", "--dry-run").code == 2


# === Two at once


def test_two_grade_of_one_name_do_not_eat_each_other(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = streams("4")
    question = {"id": "q", "question": "2+2?", "grader": "numeric", "expected": 4}
    project.write("questions.json", json.dumps([question]))
    project.configure(server=server.url, questions=20)
    assert project.run("run").code == 0
    running = [project.start("grade", "run") for _ in range(3)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    written = sorted((project.folder / "results").glob("run_graded*"))
    assert len(written) == 3 and all(path.suffix == ".json" for path in written)
    for path in written:
        assert project.results(path.stem)["aggregate"]["quality"]["avg"] == 1.0
