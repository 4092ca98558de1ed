"""config.json: what is accepted, and how a mistake is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import llm_stresstest as st

GOOD = {"server": "http://host:8000/v1", "model": "m"}


def load(tmp_path: Path, config: Any, *overrides: str) -> st.Config:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**GOOD, **config}))
    return st.load_config(path, overrides)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"concurrent": 0}, "concurrent: 0 is not allowed; it must be an integer from 1"),
        ({"concurrent": True}, "concurrent: true is not allowed"),
        ({"concurrent": "4"}, 'concurrent: "4" is not allowed'),
        ({"concurrent": 2.5}, "concurrent: 2.5 is not allowed"),
        ({"concurrent": []}, "concurrent: [] is not allowed"),
        ({"concurrent": [1, -2]}, "concurrent: [1, -2] is not allowed"),
        ({"questions": -1}, "questions: -1 is not allowed"),
        ({"questions": None}, "questions: null is not allowed"),
        ({"timeout": 0}, "timeout: 0 is not allowed; it must be a number of seconds above 0"),
        ({"timeout": "10"}, 'timeout: "10" is not allowed'),
        ({"stream": "yes"}, 'stream: "yes" is not allowed; it must be true or false'),
        ({"api": "chatt"}, 'api: "chatt" is not allowed; it must be "chat"'),
        ({"tiemout": 5}, "tiemout: unknown key; did you mean timeout?"),
        ({"slo": {"ttft": 5}}, "slo.ttft: unknown key; did you mean ttft_ms?"),
        (
            {"slo": {"ttft_ms": -5}},
            "slo.ttft_ms: -5 is not allowed; it must be a number of ms above 0",
        ),
        ({"slo": []}, "slo: [] is not allowed"),
        ({"judge": {"model": "m"}}, "judge.server: is missing"),
        ({"headers": {"X": 5}}, "headers.X: what stands there is not allowed"),
        ({"headers": {"X Y": "5"}}, "headers.X Y: what stands there is not allowed"),
        ({"thresholds": {"ttft_ms.p95": "under 5"}}, "thresholds: {"),
        (
            {"thresholds": {"ttft.p95": "<= 5"}},
            "thresholds: ttft.p95 is no metric; did you mean ttft_ms.p95?",
        ),
        ({"extra_body": {"stream": False}}, "extra_body: stream is set by the test itself"),
        ({"server": "localhost:8000"}, 'server: "localhost:8000" is not allowed'),
        ({"server": "ftp://host/v1"}, "server: "),
        ({"server": "http://"}, "server: "),
        ({"server": "http://h/v1#x"}, "server: a URL takes no fragment"),
        ({"proxy": "http://h:1/?x=1"}, "proxy: a proxy's URL takes no query"),
        ({"proxy": "http+unix://%2Frun%2Fx/v1"}, "proxy: "),
        ({"server": "http+unix://run/v1"}, "server: "),
        ({"client_key": "k.pem"}, "client_key: needs client_cert"),
        ({"abort_if": {"error_rate": 0.5}}, "abort_if.error_rate: 0.5 is not allowed"),
        ({"abort_if": {"ttft": "> 5"}}, "abort_if.ttft: unknown key; known are error_rate, failed"),
        ({"extra_body": {"messages": None}}, "extra_body: messages is set by the test itself"),
        ({"startup_timeout": -1}, "startup_timeout: "),
        ({"server": ""}, "server: "),
        ({"model": ""}, "model: "),
        ({"workers": 2}, "workers: unknown key"),
        ({"rate": 0}, "rate: 0 is not allowed"),
        ({"max_answer_bytes": 5}, "max_answer_bytes: 5 is not allowed"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(st.ConfigError) as error:
        load(tmp_path, config)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "config.json"))
    assert says in message
    assert "\n" not in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"server": "embedded"}')
    with pytest.raises(st.ConfigError, match="model: is missing; it must be a model's name"):
        st.load_config(tmp_path / "config.json")


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    config = load(tmp_path, {})
    assert (config.concurrent, config.questions, config.timeout, config.api, config.stream) == (
        1,
        "all",
        120,
        "chat",
        True,
    )
    assert (config.temperature, config.max_tokens, config.idle_timeout) == (0, 512, 30)
    assert (config.max_answer_bytes, config.verify_tls, config.record_chunk_times) == (
        16777216,
        True,
        True,
    )


def test_set_overrides_keys_also_inside_objects(tmp_path: Path) -> None:
    overrides = (
        "concurrent=[1,2]",
        "model=a=b",
        "slo.ttft_ms=5",
        "thresholds.ttft_ms.p95=<= 500",
        "stream=false",
    )
    config = load(tmp_path, {}, *overrides)
    assert config.levels == [1, 2]
    assert config.model == "a=b"
    assert config.slo.ttft_ms == 5
    assert config.thresholds == {"ttft_ms.p95": "<= 500"}
    assert config.stream is False


@pytest.mark.parametrize(
    "override", ["concurrent", "=5", "timeout=NaN", "timeout=1e999", "model.x=1"]
)
def test_a_bad_override_is_one_line(tmp_path: Path, override: str) -> None:
    with pytest.raises(st.ConfigError):
        load(tmp_path, {}, override)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "line 1, column 2: is not JSON"),
        (b'{"server": "embedded",\n "model": }', "line 2, column 11: is not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"model": "a", "model": "b"}', 'the key "model" stands there twice'),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b'{"a": "\x80"}', "is not UTF-8 text (byte 7)"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b"1" * 5000, "config.json"),
        (b"[]", "must hold a JSON object"),
        (b"null", "must hold a JSON object"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(st.ConfigError) as error:
        st.load_config(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert st.load_config(path).model == "m"


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(st.ConfigError, match="is not a regular file"):
        st.load_config(tmp_path)
    with pytest.raises(st.ConfigError, match="no such file"):
        st.load_config(tmp_path / "absent.json")


json_values = hs.recursive(
    hs.none() | hs.booleans() | hs.integers() | hs.floats() | hs.text(max_size=8),
    lambda inner: (
        hs.lists(inner, max_size=3)
        | hs.dictionaries(
            hs.sampled_from([*st.Config.model_fields, "x"]) | hs.text(max_size=4), inner, max_size=4
        )
    ),
    max_leaves=6,
)


@settings(max_examples=2000, deadline=None)
@given(value=json_values)
def test_any_json_is_a_config_or_one_line(
    value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    for load_it in (st.load_config, st.load_questions):
        try:
            load_it(path)
        except st.StressTestError as error:
            assert "\n" not in str(error) and str(path) in str(error)


def test_secrets_come_from_the_environment_and_are_marked_for_redaction() -> None:
    config = st.Config.model_validate(
        {**GOOD, "api_key_env": "KEY", "headers": {"X-A": "v-${OTHER}"}}
    )
    target = st.resolve_target(config, {"KEY": "sk-S3cretKey", "OTHER": "another-s3cret-9x"})
    assert target.headers["Authorization"] == "Bearer sk-S3cretKey"
    assert target.headers["X-A"] == "v-another-s3cret-9x"
    assert target.redact("sk-S3cretKey and another-s3cret-9x") == "[REDACTED] and [REDACTED]"


@pytest.mark.parametrize(
    "key", ["", "a\nb", "a\r\nX: y", "schlüssel", " padded ", "a\0b", "a\x1bb"]
)
def test_a_key_that_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    config = st.Config.model_validate({**GOOD, "api_key_env": "KEY"})
    with pytest.raises(st.ConfigError) as error:
        st.resolve_target(config, {"KEY": key})
    assert "KEY" in str(error.value)
    assert not key.strip() or key.strip() not in str(error.value)


def test_a_password_in_the_url_is_sent_as_basic_auth_and_shown_nowhere() -> None:
    config = st.Config.model_validate({**GOOD, "server": "http://me:hunter22@host:8000/v1"})
    target = st.resolve_target(config, {})
    assert target.base == "http://host:8000/v1"
    assert target.shown == "http://[REDACTED]@host:8000/v1"
    assert target.headers["Authorization"] == "Basic bWU6aHVudGVyMjI="
    assert "hunter22" not in target.redact("hunter22 bWU6aHVudGVyMjI=")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", '{"question": "a"}\n{"question": "b"}\n', "is JSON Lines"),
        ("q.json", '["a"]\n\n["b"]', "is JSON Lines"),
        ("q.json", '{"a": 1,}', "a trailing comma"),
        ("q.json", '["a",\n]', "a trailing comma"),
        ("q.json", '// mine\n{"a": 1}', "a comment"),
        ("q.json", '{"a": 1 /* b */}', "a comment"),
        ("q.json", '{\n# c\n"a": 1}', "a comment"),
        ("q.json", "{'a': 1}", "single quotes"),
        ("q.json", '{"a": True}', "a value of Python; write true"),
        ("q.json", '{"a": None}', "a value of Python"),
        ("q.json", '{a: 1}', "a key without quotes"),
        ("q.yaml", "- a\n- b", "looks like YAML"),
        ("q.txt", "server: x\nmodel: y", "looks like YAML"),
        ("q.json", "---\n- question: a", "looks like YAML"),
        ("q.json", "<html>", "looks like HTML"),
        ("q.csv", '"Which?",1,2\n"What?",3,4', "looks like CSV"),
        ("q.txt", "question;answer\nWho?;me", "looks like CSV"),
        ("q.txt", "Name a bird.\nName a fish.", "looks like plain text"),
        ("q.json", '{"a": 1', "is not JSON: Expecting"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_named_with_what_to_do(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(st.QuestionsError) as caught:
        st.load_questions(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ({"prompt": "a"}, "question"), ({"Instruction": "a", "output": "b"}, "question"),
        ({"frage": "a"}, "question"), ({"question": "a", "answer": "b"}, "expected"),
        ({"question": "a", "antwort": "b"}, "expected"), ({"conversations": ["a"]}, "turns"),
        ({"question_id": 1, "question": "a"}, "id"), ({"question": "a", "system": "b"}, "system_prompt"),
    ],
)  # fmt: skip
def test_what_other_catalogues_call_a_key_is_told_by_its_name_here(
    tmp_path: Path, entry: dict[str, Any], meant: str
) -> None:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(st.QuestionsError, match=f"did you mean {meant}[?]"):
        st.load_questions(path)
