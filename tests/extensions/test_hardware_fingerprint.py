"""What answered: each server's own pages, read into common names."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest

import llm_stresstest as st
from extensions import hardware
from tests.extensions.stand_ins import DATA, serving

FIXTURES: dict[str, dict[str, Any]] = json.loads((DATA / "fingerprints.json").read_text())
KEY = "sk-test-canary-31415926"


async def fingerprint(url: str, model: str, *, key: str | None = None) -> dict[str, Any]:
    environment = {} if key is None else {"TEST_KEY": key}
    config = st.Config(server=f"{url}/v1", model=model, api_key_env=key and "TEST_KEY")
    return await hardware.Fingerprint(st.resolve_target(config, environment), model).take()


@pytest.mark.parametrize("name", FIXTURES)
async def test_a_server_is_recognised_by_its_own_pages(name: str) -> None:
    fixture = FIXTURES[name]
    with serving(fixture["answers"], fixture["server_header"]) as server:
        found = await fingerprint(server.url, fixture["model"])
    assert {key: found[key] for key in fixture["expected"]} == fixture["expected"]
    assert found["server_header"] == fixture["server_header"]
    expected = set(fixture["answers"]) if fixture["expected"]["engine"] else {"/v1/models"}
    like_others = {"/props", "/api/version"} if name == "KoboldCpp" else set()
    assert set(found["raw"]) | like_others == expected | like_others


@pytest.mark.parametrize("name", FIXTURES)
async def test_nothing_is_asked_twice(name: str) -> None:
    fixture = FIXTURES[name]
    with serving(fixture["answers"], fixture["server_header"]) as server:
        await fingerprint(server.url, fixture["model"])
        paths = [path for path, _, _ in server.asked]
    assert len(paths) == len(set(paths))
    assert len(paths) <= 14


async def test_a_server_that_says_its_name_is_asked_little() -> None:
    fixture = FIXTURES["llama.cpp"]
    with serving(fixture["answers"], fixture["server_header"]) as server:
        await fingerprint(server.url, fixture["model"])
        assert [path for path, _, _ in server.asked] == ["/v1/models", "/props", "/health"]


async def test_a_wrong_hint_is_not_believed() -> None:
    answers = {**FIXTURES["vLLM"]["answers"], "/v1/models": {"data": [{"owned_by": "llamacpp"}]}}
    with serving(answers) as server:
        assert (await fingerprint(server.url, "m"))["engine"] == "vLLM"


async def test_a_quantization_that_only_the_file_name_tells_is_taken_from_it() -> None:
    answers = json.loads(json.dumps(FIXTURES["llama.cpp"]["answers"]))
    answers["/props"]["model_path"] = "/models/gemma-3-27b-it-UD-Q5_K_XL.gguf"
    with serving(answers) as server:
        assert (await fingerprint(server.url, "qwen3-30b"))["quantization"] == "UD-Q5_K_XL"


async def test_an_unreachable_server_gives_nulls() -> None:
    with serving({}) as server:
        url = server.url
    found = await fingerprint(url, "m")
    assert {found[name] for name in hardware.COMMON_FACTS} == {None}
    assert set(found["asked"].values()) == {"ClientConnectorError"}


async def test_the_key_goes_to_the_server_and_stays_out_of_the_raw_answers() -> None:
    answers = json.loads(json.dumps(FIXTURES["SGLang"]["answers"]))
    answers["/get_server_info"]["model_path"] = f"echo {KEY}"
    with serving(answers) as server:
        found = await fingerprint(server.url, "llama-fp8", key=KEY)
        assert {head["authorization"] for _, head, _ in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(found)
    assert "sk-sglang-own-key-123456" not in json.dumps(found), "the server's own keys are masked"


async def test_a_proxys_keys_are_masked() -> None:
    fixture = FIXTURES["LiteLLM"]
    with serving(fixture["answers"]) as server:
        found = await fingerprint(server.url, fixture["model"])
    assert "sk-behind-the-proxy" not in json.dumps(found)
    shown = found["raw"]["/model/info"]["data"][0]
    assert shown["litellm_params"]["api_key"] == st.REDACTED
    assert shown["model_info"]["max_tokens"] == 8192, "a number of tokens is no secret"


async def test_a_redirect_is_not_followed_and_its_target_gets_no_key() -> None:
    with serving({}) as elsewhere:

        def redirect(handler: Any) -> None:
            handler.send(302, b"", Location=f"{elsewhere.url}/version")

        with serving({"/version": redirect, "/v1/models": redirect}) as server:
            found = await fingerprint(server.url, "m", key=KEY)
        assert elsewhere.asked == []
    assert found["asked"]["/version"] == 302
    assert found["engine"] is None


async def test_a_server_that_hangs_costs_one_short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "PROBE_S", 0.3)

    def hang(handler: Any) -> None:
        time.sleep(3)

    paths = {path for engine in hardware.ENGINES for path in engine.paths}
    with serving(dict.fromkeys(paths, hang)) as server:
        begun = time.monotonic()
        found = await fingerprint(server.url, "m")
        assert time.monotonic() - begun < 2.5
    assert found["engine"] is None


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"[" * 100_000, "RecursionError"),
        (b'{"version": "' + b"x" * (1 << 19) + b'"}', "ValueError"),
        (b"<html>no JSON</html>", "JSONDecodeError"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
    ],
)
async def test_an_answer_that_is_no_answer_is_passed_over(answer: bytes, status: str) -> None:
    with serving({"/version": answer}) as server:
        found = await fingerprint(server.url, "m")
    assert found["asked"]["/version"] == status
    assert found["engine"] is None


@pytest.mark.parametrize("odd", [None, 1, "x", [], [[]], {}, {"version": {}}, {"data": 3}])
async def test_no_shape_of_an_answer_breaks_it(odd: Any) -> None:
    paths = {path for engine in hardware.ENGINES for path in engine.paths}
    with serving({path: json.dumps(odd).encode() for path in {*paths, "/v1/models"}}) as server:
        found = await fingerprint(server.url, "m")
    assert json.dumps(found)


def test_a_long_answer_is_cut_and_a_huge_one_left_out() -> None:
    shown = hardware.pruned({"a": ["x" * 2000] * 100, "deep": [[[[[[[1]]]]]]]})
    assert len(shown["a"]) == 20
    assert {len(text) for text in shown["a"]} == {500}
    assert json.dumps(shown["deep"]) == "[[[[[null]]]]]"


async def test_the_embedded_servers_own_description_is_taken_over() -> None:
    fixture = FIXTURES["llama.cpp"]
    with serving(fixture["answers"]) as server:
        config = st.Config.model_validate(
            {"server": f"{server.url}/v1", "model": "m", "hardware": {"sample_s": 0}}
        )
        embedded = {"engine": "llama.cpp by xllamacpp 1.2"}
        target = dataclasses.replace(st.resolve_target(config, {}), embedded=embedded)
        watch = hardware.Watch(config)
        await watch.prepare(target, wait=False, say=print)
        await watch.start()
        await watch.stop()
    assert watch.server_info is not None
    assert watch.server_info["version"] == "xllamacpp 1.2"
    assert watch.server_info["slots"] == 4
