"""Config and catalogue, mutated: each ends in one line that says what is wrong, or in a good run.

`LLM_STRESSTEST_FUZZ=2000 pytest tests/errors/test_fuzz.py -s` mutates more often, and prints what
came of it; `LLM_STRESSTEST_SEED=5000` makes others. `LLM_STRESSTEST_CORPUS=FOLDER` puts each JSON file of a folder in both files' place.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Finished, Project, ScriptedServer, streams

TIMES = int(os.environ.get("LLM_STRESSTEST_FUZZ", "120"))
SEED = int(os.environ.get("LLM_STRESSTEST_SEED", "0"))
CORPUS = os.environ.get("LLM_STRESSTEST_CORPUS")
STOP_S = 3.0  # a mutated run may want to last for ever; then a signal ends it

CONFIG: dict[str, Any] = {
    "concurrent": 2, "questions": 3, "timeout": 5, "api": "chat", "stream": True, "api_key_env": None,
    "headers": {"X-A": "b"}, "extra_body": {"top_p": 1, "a": {"b": [1]}}, "system_prompt": "Be brief.",
    "temperature": 0, "max_tokens": 16, "seed": 7, "stop": ["x"], "rate": None, "arrival": "poisson",
    "burstiness": 1, "duration": None, "warmup": 1, "ramp_up": 0, "idle_timeout": 2, "max_answer_bytes": 4096,
    "slo": {"ttft_ms": 500, "tpot_ms": 50, "e2e_ms": 900, "quality": 0.5}, "thresholds": {"ttft_ms.p95": "<= 500"},
    "hardware": {"price_per_hour": 1}, "judge": None, "cache_bust": False, "record_chunk_times": True,
    "verify_tls": True, "ca_file": None, "proxy": None,
}  # fmt: skip
CATALOGUE: list[Any] = [
    "One?",
    {"question": "Two?", "id": "two", "category": "a", "grader": "exact", "expected": ["ab", "b"]},
    {"turns": ["Three?", "And?"], "system_prompt": "S", "max_tokens": 5},
    {"question": "4?", "grader": "numeric", "expected": 4, "tolerance": 0.1},
    {"question": "5?", "grader": "regex", "expected": "a+b"},
    {"question": "6?", "grader": "json", "expected": {"schema": {"type": "object"}, "fields": {"a.b": 1}}},
    {"question": "7?", "grader": "choice", "expected": "B"},
    {"question": "8?", "grader": "fuzzy", "expected": "ab", "threshold": 0.5},
    {"question": "9?", "grader": "contains", "expected": {"any": ["a", "b"]}},
    {"question": "10?", "grader": "code", "expected": "assert f(1) == 2"},
]  # fmt: skip


def deep(levels: int, make: Any = lambda value: {"a": value}) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = make(value)
    return value


ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.0, 0.5, -0.0, 5e-324, 1e-300, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400,
    "", " ", "x", "\0", "a\0b", "\n", "\x1b[31m", "\u202e", "é", "😀", "0", "1", "true", "null", "∞", "NaN", "${HOME}", "${}", "${NO_SUCH}",
    "x" * 300, "x" * 20_000, "all", "embedded", "chat", "<= 5", "<=5", ">= 1e400", "<= -0", "< 0x10", "<= ٣", "(", "(a+)+$", "[", "\\", "a{1000000000}",
    [], {}, [[]], [{}], {"": ""}, {"": "<= 1"}, {"a": None}, {"\0": 1}, [1, 2], [0], [1] * 1000, [100_000], ["x"] * 100, [None], ["", ""], {"p95": 1},
    {"ttft_ms": "<= 5"}, {"ttft_ms.p95.x": "<= 5"}, {"stages": "<= 1"}, {"stages.1.ttft_ms.p50": "<= 1"}, {"pooled.": "<= 1"}, {"quality.categories": "<= 1"},
    deep(50), deep(150), deep(195), deep(201), deep(260), deep(600), deep(150, lambda value: [value]), deep(600, lambda value: [value]),
    {"schema": {"$ref": "#"}}, {"schema": {"type": 5}}, {"schema": True}, {"fields": {"": 1}}, {"any": []}, {"$ref": "http://127.0.0.1:1/"},
    {"server": "embedded"}, {"server": "x", "model": "y"}, {"server": "http://127.0.0.1:9/v1", "model": "m"},
]  # fmt: skip
URLS = [
    "http://256.256.256.256/v1", "http://1.2.3/v1", "http://0x7f.1/v1", "http://[::1/v1", "http://[::1]:x/v1", "http://[v1.a]/v1",
    "http://a..b/v1", "http://.a/v1", "http://-a-/v1", "http://a_b/v1", "http://xn--a/v1", "http://xn--0/v1", "http://ﬀ.example/v1",
    "http://a\u200db/v1", "http://ä.example/v1", "http://☃/v1", "http://" + "a" * 64 + "/v1", "http://" + "a." * 130 + "b/v1", "http://127.0.0.1:0/v1",
    "http://127.0.0.1:65536/v1", "http://127.0.0.1:-1/v1", "http://127.0.0.1:1/v1", "http://127.0.0.1:+1/v1", "http://127.0.0.1:٣/v1", "http:///v1", "http://",
    "http:/x", "//x", "x", "file:///etc/passwd", "ftp://x", "HTTP://127.0.0.1:1", "http://u:p@127.0.0.1:1/v1", "http://u:@127.0.0.1:1", "http://:p@127.0.0.1:1",
    "http://u:p\u0100@127.0.0.1:1", "http://127.0.0.1:1/a b", "http://127.0.0.1:1/%", "http://127.0.0.1:1/%zz", "http://127.0.0.1:1/?a", "http://127.0.0.1:1/#a",
    "http://127.0.0.1:1/\ud800", "http://127.0.0.1:1/" + "a" * 900, "http://localhost.:1/v1", "http://127.1:1", "http://2130706433:1", "http://0/v1", "http://%31/v1",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each part of a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(len(value)):
            yield from places(value[place], (*path, place))


def mutated(data: Any, chance: random.Random) -> Any:
    """Return the data with one part changed, taken out, added or moved."""
    data = copy.deepcopy(data)
    path = chance.choice([path for path in places(data) if path])
    owner = data
    for step in path[:-1]:
        owner = owner[step]
    how, odd = chance.random(), chance.choice(ODD)
    if how < 0.65:
        owner[path[-1]] = odd
    elif how < 0.75:
        del owner[path[-1]]
    elif how < 0.85 and isinstance(owner, dict):
        owner[
            chance.choice(["", "x", "\0", "Concurrent", "ttft_ms", "expected", "a" * 500, "\u202e"])
        ] = odd
    elif how < 0.92:
        owner[path[-1]] = [owner[path[-1]]]
    else:
        owner[path[-1]] = {"a": owner[path[-1]]}
    return data


def mutated_text(data: Any, chance: random.Random) -> bytes:
    """Return the JSON of the data, now and then with some of its bytes changed."""
    text = bytearray(
        json.dumps(data, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    )
    if chance.random() < 0.8:
        return bytes(text)
    for _ in range(chance.choice([1, 1, 1, 3])):
        place = chance.randrange(len(text))
        how = chance.random()
        if how < 0.3:
            text[place] = chance.randrange(256)
        elif how < 0.5:
            del text[place : place + chance.randrange(1, 20)]
        elif how < 0.8:
            text[place:place] = chance.choice(
                [
                    b"{",
                    b"]",
                    b'"',
                    b",",
                    b"\\",
                    b"\0",
                    b"\xff",
                    b"\xef\xbb\xbf",
                    b"//",
                    b"NaN",
                    b"1e999",
                    b"\\ud800",
                    b"-",
                ]
            )
        else:
            del text[place:]
    return bytes(text)  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop each run after a moment, and wait for nothing that takes long."""
    caught = st.StopSignal.caught

    @contextlib.contextmanager
    def soon() -> Iterator[st.StopSignal]:
        with caught() as stop_signal:
            timer = asyncio.get_running_loop().call_later(
                STOP_S, stop_signal.on_signal, signal.SIGTERM
            )
            yield stop_signal
            timer.cancel()

    monkeypatch.setattr(st.StopSignal, "caught", soon)


def is_one_line_or_a_good_run(project: Project, finished: Finished) -> str | None:
    """Say what is wrong with how the program ended, if anything."""
    lines = [line for line in finished.err.splitlines() if not line.startswith("connecting to ")]
    shown = [line for line in finished.err.splitlines() if any(c < " " for c in line)]
    if finished.code in (2, 3):
        ok = len(lines) == 1 and lines[0].startswith("llm_stresstest: ") and len(lines[0]) < 1600
        return None if ok and not shown else "not one line"
    if finished.code not in (0, 1, 4, 143) or "Traceback" in finished.err or shown:
        return "a fault"
    if finished.code == 143 and not (project.folder / "results" / "run.json").exists():
        return None  # stopped while it connected
    try:
        project.results()
    except Exception as error:  # noqa: BLE001
        return f"the results are not good: {error}"
    return None


def attack(project: Project, name: str, content: bytes) -> tuple[int, str | None]:
    for path in (project.folder / "results").glob("run*"):
        path.unlink()
    (project.folder / "questions.json").write_text(json.dumps(CATALOGUE))
    project.configure(**CONFIG, server=SERVER[0])
    (project.folder / name).write_bytes(content)
    try:
        finished = project.run("run")
    except BaseException as error:  # noqa: BLE001
        return 70, f"{type(error).__name__}: {error}"
    problem = is_one_line_or_a_good_run(project, finished)
    return (
        finished.code,
        None if problem is None else f"{problem}: {finished.code} {finished.err[:400]!r}",
    )


SERVER = [""]


@pytest.fixture(autouse=True)
def answering(server: ScriptedServer, hurried: None) -> None:
    server.behaviour = streams("a", "b")
    SERVER[0] = server.url


def report(outcomes: list[tuple[str, bytes, int, str | None]]) -> None:
    wrong = [
        (name, content[:300], problem)
        for name, content, _, problem in outcomes
        if problem is not None
    ]
    if TIMES > 500:
        counts = dict(Counter(code for _, _, code, _ in outcomes))
        print(f"\n{len(outcomes)} files: {counts}, {len(wrong)} wrong")  # noqa: T201
    assert wrong == [], "\n".join(map(str, wrong[:20]))


def test_a_mutated_config_or_catalogue_is_one_line_or_a_good_run(project: Project) -> None:
    outcomes = []
    for number in range(TIMES):
        chance = random.Random(SEED + number)
        name = ("config.json", "questions.json")[number % 2]
        data: Any = (
            CATALOGUE if number % 2 else {**CONFIG, "server": SERVER[0], "model": "test-model"}
        )
        content = mutated_text(mutated(data, chance), chance)
        outcomes.append((name, content, *attack(project, name, content)))
    report(outcomes)


@pytest.mark.parametrize("key", ["server", "proxy", "judge"])
def test_an_odd_url_is_one_line_or_a_good_run(project: Project, key: str) -> None:
    outcomes = []
    for url in URLS:
        value: Any = {"server": url, "model": "m"} if key == "judge" else url
        data = {**CONFIG, "server": SERVER[0], "model": "test-model", key: value}
        content = json.dumps(data).encode()
        outcomes.append(("config.json", content, *attack(project, "config.json", content)))
    report(outcomes)


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_an_odd_value_of_a_key_is_one_line_or_a_good_run(project: Project, key: str) -> None:
    chance = random.Random(key)
    outcomes = []
    for value in chance.sample(ODD, len(ODD) if TIMES > 500 else 4):
        data = {**CONFIG, "server": SERVER[0], "model": "test-model", key: value}
        content = json.dumps(data).encode()
        outcomes.append(("config.json", content, *attack(project, "config.json", content)))
    report(outcomes)


@pytest.mark.skipif(CORPUS is None, reason="needs a folder of JSON files: LLM_STRESSTEST_CORPUS")
@pytest.mark.parametrize("name", ["config.json", "questions.json"])
def test_any_json_file_in_place_of_ours_is_one_line_or_a_good_run(
    project: Project, name: str
) -> None:
    outcomes = []
    for path in sorted(Path(str(CORPUS)).rglob("*.json")):
        content = path.read_bytes()
        outcomes.append((name, content, *attack(project, name, content)))
    report(outcomes)
