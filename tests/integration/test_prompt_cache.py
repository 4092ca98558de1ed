"""A prefix cache is found by asking one question twice before the load, cold and warm."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import (
    Project,
    Request,
    ScriptedServer,
    chunk,
    finish,
    head,
    sse,
    streams,
    usage,
)

COLD_S, WARM_S = 0.06, 0.01


@pytest.fixture(autouse=True)
def sees_probes(server: ScriptedServer) -> None:
    server.sees_probes = True


class CachingServer:
    """Takes its time over a prompt that it has not seen."""

    def __init__(self, *, says: bool = False, caches: bool = True) -> None:
        self.says, self.caches = says, caches
        self.seen: set[bytes] = set()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        warm = self.caches and request.body in self.seen
        self.seen.add(request.body)
        await asyncio.sleep(COLD_S if not warm or self.says else WARM_S)
        if not self.says:
            await streams("a")(request, writer)
            return
        counts = usage(100, 1, prompt_tokens_details={"cached_tokens": 90 if warm else 0})
        writer.write(head("200 OK", "text/event-stream", "Connection: close"))
        writer.write(sse(chunk(content="a"), finish(), counts, "[DONE]"))
        writer.close()


def probe(project: Project, *options: str) -> dict[str, Any] | None:
    """Return what a run found, and write its results."""
    project.run("run", "--overwrite", *options)
    found = project.results()["meta"]["client"]["prompt_cache"]
    assert found is None or isinstance(found, dict)
    return found


def reasons(project: Project) -> set[str]:
    validity = project.results()["meta"]["validity"]
    return {reason["code"] for reason in validity["reasons"]}


SWEEP = ("--set", "concurrent=[1,2]")


def test_a_silent_cache_is_found_and_named(project: Project, server: ScriptedServer) -> None:
    server.behaviour = CachingServer()
    found = probe(project, *SWEEP)
    assert found is not None and found["found"] is True
    assert min(found["cold_ms"]) > 1000 * COLD_S > max(found["warm_ms"])
    assert len(found["cold_ms"]) == 3
    assert "prompt_cache" in reasons(project)


@pytest.mark.parametrize(("questions", "looks"), [(3, False), (5, False), (6, True), (40, True)])
def test_a_catalogue_that_is_asked_twice_or_more_is_looked_at_too(
    project: Project, server: ScriptedServer, questions: int, looks: bool
) -> None:
    server.behaviour = CachingServer()
    found = probe(project, "--set", f"questions={questions}")
    assert (found is not None) == looks
    assert ("prompt_cache" in reasons(project)) == looks


def test_a_server_without_one_is_not_suspected(project: Project, server: ScriptedServer) -> None:
    server.behaviour = CachingServer(caches=False)
    found = probe(project, *SWEEP)
    assert found is not None and found["found"] is False
    assert "prompt_cache" not in reasons(project)


def test_a_server_that_counts_cached_tokens_is_believed(
    project: Project, server: ScriptedServer
) -> None:
    server.behaviour = CachingServer(says=True)
    found = probe(project, *SWEEP)
    assert found is not None and found["found"] is True
    assert found["cached_tokens"] == 90
    assert len(found["cold_ms"]) == 1


@pytest.mark.parametrize(
    "options", [(), (*SWEEP, "--set", "cache_bust=true")], ids=["nothing repeats", "busted"]
)
def test_without_a_prompt_that_repeats_nothing_is_asked(
    project: Project, server: ScriptedServer, options: tuple[str, ...]
) -> None:
    project.configure(server=server.url, questions=3)
    assert probe(project, *options) is None
    stages = 2 if options else 1
    assert len(server.requests) == 3 * stages


def test_the_longest_question_is_asked_cold_with_a_mark_and_then_the_same_again(
    project: Project, server: ScriptedServer
) -> None:
    project.write("questions.json", '["One?", "A longer one, is it not?", "Two?"]')
    probe(project, *SWEEP, "--set", "max_tokens=100")
    cold, warm = server.requests[:2]
    assert cold.body == warm.body
    assert cold.question.endswith("] A longer one, is it not?")
    assert cold.json["max_tokens"] == 16
    assert server.requests[2].json["max_tokens"] == 100


async def test_a_pair_that_fails_says_nothing(server: ScriptedServer) -> None:
    server.behaviour = streams(reason="stop")  # no text at all
    config = st.Config(server=server.url, model="m", concurrent=[1, 2])
    target = st.resolve_target(config, {})
    async with st.open_session(config, target) as session:
        client = st.Client(session, config, target)
        found = await st.find_prompt_cache(client, [st.Question(id="q", question="x")])
    assert found is not None and found["found"] is None


async def test_a_fault_of_this_program_in_a_later_pair_says_nothing_either(
    server: ScriptedServer,
) -> None:
    server.behaviour = CachingServer()
    config = st.Config(server=server.url, model="m", concurrent=[1, 2])
    target = st.resolve_target(config, {})
    seen: list[object] = []

    def fail_at_the_third(exchange: object) -> None:
        seen.append(exchange)
        if len(seen) == 3:
            raise RuntimeError("a fault")

    async with st.open_session(config, target) as session:
        client = st.Client(session, config, target, watch=fail_at_the_third)
        found = await st.find_prompt_cache(client, [st.Question(id="q", question="x")])
    assert found is not None and len(found["warm_ms"]) == 1
    assert found["found"] is None
