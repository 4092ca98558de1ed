#!/usr/bin/env python3
"""Stress-test a server that speaks the OpenAI API with your own questions.

    python llm_stresstest.py first_run

asks the questions of questions.json as config.json says, many at once, and writes results/first_run.json: each answer
with its time, tokens and quality, and the statistics. The way of a run, and the order of this file:

    load_config -> load_questions -> test_connection -> process_questions (send_question for each) ->
    calculate_aggregates -> save_results

Raw times are integer nanoseconds of the monotonic clock, relative to the start of the run (`_ns`); milliseconds (`_ms`)
appear only in files and on screen. "Not measured" is None, never 0. A failed request is data (a Result with a Failure);
exceptions are for what stops the run, and only `cli` shows them.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import base64
import bisect
import codecs
import contextlib
import contextvars
import dataclasses
import datetime as dt
import difflib
import functools
import gc
import hashlib
import html
import importlib
import itertools
import json
import logging
import logging.handlers
import math
import mmap
import os
import platform
import random
import re
import signal
import ssl
import statistics
import sys
import threading
import time
import urllib.parse
import uuid
import zlib
from collections import Counter, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Self,
    TextIO,
    TypeVar,
    cast,
    get_args,
)

try:
    import aiohttp
    import pydantic
    import pydantic_core
    import yarl
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    remedy = "uv run llm_stresstest.py …, or pip install aiohttp openai pydantic rich"
    sys.stderr.write(f"llm_stresstest: needs the package {error.name}: {remedy}\n")
    sys.exit(2)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from types import ModuleType

    import openai
    import rich.console
    import rich.text

# An extension imports this module by its name; without this line it would load a second copy, and nobody would catch
# that copy's errors.
sys.modules.setdefault("llm_stresstest", sys.modules[__name__])

__version__ = "0.1.0"

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("llm_stresstest")
clock = time.perf_counter_ns
T = TypeVar("T")

# The results file's format. 1: first version.
SCHEMA_VERSION = 1
NS_PER_MS = 1_000_000  # ns in a ms
NS_PER_S = 1_000_000_000  # ns in a s
REDACTED = "[REDACTED]"
SLICE = 1 << 18  # bytes of a body that are read at a time: a hostile one holds millions of events
QUOTED = (
    1 << 16
)  # bytes of a faulty answer that an error quotes; it is cut to its length when secrets are out of it
MOST_LOOKS = 8  # an answer may quote [DONE]; a hostile one in every chunk
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
CONFIDENCE = 0.95
CORRECT = 0.5  # the score from which an answer counts as correct
EXAMPLES = """\
examples:
  llm_stresstest.py first_run                          what config.json and questions.json say
  llm_stresstest.py PC_FIN_qwen13b --set concurrent=8  override a key of config.json
  llm_stresstest.py sweep --set 'concurrent=[1,2,4,8]' one stage a level
  llm_stresstest.py nightly --overwrite --quiet        for cron
  llm_stresstest.py first_run --resume                 go on with a run that was killed
  llm_stresstest.py verify first_run                   recompute every number of a results file

exit codes:
  0    complete; VALID or SUSPECT, and every threshold met
  1    complete, but INVALID, or a threshold missed
  2    bad input: arguments, config, questions, file names
  3    the server cannot be used
  4    the results could not be written
  70   a fault of this program, please report it
  129, 130, 143  stopped by SIGHUP, SIGINT, SIGTERM; what was measured is saved
"""


# === Errors ===
#
# StressTestError              what stops a run; the message is one line: the file, the key, what is wrong, what to do
#  +-- ConfigError             2  arguments and config.json
#  +-- QuestionsError          2  questions.json
#  +-- ExtensionError          2  a tool or one of its packages is missing
#  +-- ServerUnreachableError  3  the server cannot be used
#  +-- ResultsError            4  the results could not be written


class StressTestError(Exception):
    """Something that stops the run; `cli` shows it as one line and ends with `exit_code`."""

    exit_code = 2


class ConfigError(StressTestError):
    """Arguments, config.json or an output name that cannot be used."""


class QuestionsError(StressTestError):
    """A catalogue that cannot be used."""


class ExtensionError(StressTestError):
    """An extension, or a package that it needs, is missing."""


class ServerUnreachableError(StressTestError):
    """The server cannot be used: refused, DNS, TLS, authorisation, no such model."""

    exit_code = 3


class ResultsError(StressTestError):
    """Results that could not be written or read."""

    exit_code = 4


# === Secrets ===


class Redactor:
    """Takes secrets out of texts, by value, whatever form an echo gave them: escaped, encoded, cut at its end."""

    SHORTEST = 6  # a shorter value is no secret, and would eat ordinary words

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long_first = sorted(
            {secret for secret in secrets if len(secret) >= self.SHORTEST}, key=len, reverse=True
        )
        self._secrets = [
            (secret, secret[: _plain_start(secret)], re.compile("".join(map(_any_form, secret))))
            for secret in long_first
        ]

    def __call__(self, text: str) -> str:
        """Return the text with each secret replaced."""
        for secret, start, pattern in self._secrets:
            if start in text:
                text = pattern.sub(REDACTED, text)
                tail = text[1 - len(secret) :]
                place = tail.find(secret[: max(self.SHORTEST, len(secret) // 2)])
                if place >= 0 and secret.startswith(tail[place:]):
                    text = text[: len(text) - len(tail) + place] + REDACTED
        return text

    def tree(self, value: Any) -> Any:
        """Return a JSON value with each secret replaced in all its texts."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(str(key)): self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value


def _plain_start(secret: str) -> int:
    """Return how many characters stand before the first that an echo might write in another way."""
    return len(cast(re.Match[str], re.match(r"[\w.-]*", secret, re.ASCII)).group())


def _any_form(character: str) -> str:
    """Return a pattern of what JSON, Python, URLs and HTML make of a character."""
    if _plain_start(character):
        return re.escape(character)
    encoded = urllib.parse.quote(character, safe="")
    itself = r"\\{1,9}" if character == "\\" else r"\\{0,9}" + re.escape(character)
    return rf"(?:{itself}|(?i:{encoded}|\\{{1,9}}u{ord(character):04x}|{re.escape(html.escape(character))}))"


def _without_password(url: str) -> str:
    return re.sub(r"//[^/?#]*@", f"//{REDACTED}@", url)


def _without_any_password(text: str) -> str:
    """Take user parts out of a text that is no good URL, so that nobody knows where one ends."""
    return re.sub(r"//[^\s\"]*@", f"//{REDACTED}@", text)


_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: object, limit: int = 500) -> str:
    """Return a text that does nothing to a terminal or a log: no control or direction characters, one line."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], shown)


# === Config ===


class Strict(pydantic.BaseModel):
    """A part of a file written by a person: exact types, no unknown keys."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


Count = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
Level = Annotated[int, pydantic.Field(ge=1, le=100_000)]
Seconds = Annotated[float, pydantic.Field(gt=0, le=31_536_000, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, pydantic.Field(min_length=1, max_length=1000)]
Header = Annotated[str, pydantic.Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
Comparison = Annotated[
    str, pydantic.Field(pattern=r"^\s*(<=|>=|<|>)\s*-?\d+(\.\d+)?([eE][+-]?\d+)?\s*$")
]


class Slo(Strict):
    """What a request must meet to count for goodput."""

    ttft_ms: Positive | None = pydantic.Field(None, description="a number of ms above 0")
    tpot_ms: Positive | None = pydantic.Field(None, description="a number of ms above 0")
    e2e_ms: Positive | None = pydantic.Field(None, description="a number of ms above 0")
    quality: Share | None = pydantic.Field(None, description="a number from 0 to 1")

    def met_by(self, result: Result) -> bool:
        """Whether an ok request meets every limit; a value that was not measured meets none."""
        limits = ((self.ttft_ms, result.ttft_ms), (self.e2e_ms, result.time_ms))
        if any(limit is not None and (value is None or value > limit) for limit, value in limits):
            return False
        one_token = result.token is not None and result.token < 2
        if self.tpot_ms is not None and not one_token:
            tpot_ms = result.tpot_ms
            if tpot_ms is None or tpot_ms > self.tpot_ms:
                return False
        return self.quality is None or (result.graded and result.quality >= self.quality)


class Hardware(Strict):
    """What the machine costs, and how it is watched."""

    sample_s: Seconds | None = pydantic.Field(None, description="a number of seconds above 0")
    metrics_url: Name | None = pydantic.Field(None, description="a URL")
    price_per_kwh: NotNegative | None = pydantic.Field(None, description="a number from 0")
    price_per_hour: NotNegative | None = pydantic.Field(None, description="a number from 0")


class Judge(Strict):
    """An LLM that grades answers after the run."""

    server: Name = pydantic.Field(description='a URL such as "http://host:8000/v1", or "embedded"')
    model: Name = pydantic.Field(description="a model's name, as the server names it")
    api_key_env: Name | None = pydantic.Field(
        None, description="the name of an environment variable, or null"
    )


class Config(Strict):
    """config.json. Each description says what is allowed, and is what an error shows."""

    server: Name = pydantic.Field(description='a URL such as "http://host:8000/v1", or "embedded"')
    model: Name = pydantic.Field(description="a model's name, as the server names it")
    concurrent: Level | Annotated[list[Level], pydantic.Field(min_length=1, max_length=1000)] = (
        pydantic.Field(1, description="an integer from 1, or a list of them (a sweep)")
    )
    questions: Count | Literal["all"] = pydantic.Field(
        "all", description='an integer from 1, or "all"'
    )
    timeout: Seconds = pydantic.Field(120, description="a number of seconds above 0")
    api: Literal["chat", "completions", "responses"] = pydantic.Field(
        "chat", description='"chat", "completions" or "responses"'
    )
    stream: bool = pydantic.Field(True, description="true or false")
    api_key_env: Name | None = pydantic.Field(
        None, description="the name of an environment variable, or null"
    )
    headers: dict[Header, str] = pydantic.Field(
        {}, description="an object of header names and texts"
    )
    extra_body: dict[str, Any] = pydantic.Field(
        {}, description="an object, added to the body of each request"
    )
    system_prompt: str | None = pydantic.Field(None, description="a text, or null")
    temperature: Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)] | None = (
        pydantic.Field(0, description="a number from 0, or null")
    )
    max_tokens: Count | None = pydantic.Field(512, description="an integer from 1, or null")
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] | None = pydantic.Field(
        None, description="an integer from 0, or null"
    )
    stop: str | list[str] | None = pydantic.Field(
        None, description="a text, a list of texts, or null"
    )
    rate: Positive | None = pydantic.Field(
        None, description="a number of requests/s above 0, or null (closed loop)"
    )
    arrival: Literal["poisson", "constant", "gamma"] = pydantic.Field(
        "poisson", description='"poisson", "constant" or "gamma"'
    )
    burstiness: Annotated[float, pydantic.Field(gt=0, le=1000, allow_inf_nan=False)] = (
        pydantic.Field(
            1, description="a number above 0 (gamma's shape: below 1 is burstier than poisson)"
        )
    )
    duration: Seconds | None = pydantic.Field(
        None, description="a number of seconds above 0, or null"
    )
    warmup: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = pydantic.Field(
        0, description="an integer from 0"
    )
    ramp_up: NotNegative = pydantic.Field(0, description="a number of seconds from 0")
    idle_timeout: Seconds = pydantic.Field(30, description="a number of seconds above 0")
    max_answer_bytes: Annotated[int, pydantic.Field(ge=1024, le=2**31)] = pydantic.Field(
        16_777_216, description="an integer from 1024"
    )
    slo: Slo = pydantic.Field(Slo(), description="an object of ttft_ms, tpot_ms, e2e_ms, quality")
    thresholds: dict[str, Comparison] = pydantic.Field(
        {}, description='an object such as {"ttft_ms.p95": "<= 500"}'
    )
    hardware: Hardware = pydantic.Field(
        Hardware(), description="an object of sample_s, metrics_url, price_per_kwh, price_per_hour"
    )
    judge: Judge | None = pydantic.Field(
        None, description="an object of server, model, api_key_env, or null"
    )
    cache_bust: bool = pydantic.Field(False, description="true or false")
    record_chunk_times: bool = pydantic.Field(True, description="true or false")
    verify_tls: bool = pydantic.Field(True, description="true or false")
    ca_file: Name | None = pydantic.Field(None, description="a file's path, or null")
    proxy: Name | None = pydantic.Field(
        None, description='a URL such as "http://proxy:3128", or null'
    )
    workers: Level = pydantic.Field(1, description="an integer from 1")
    ray_address: Name | None = pydantic.Field(None, description="a Ray cluster's address, or null")

    @property
    def levels(self) -> list[int]:
        """The stages' concurrency, one stage without a sweep."""
        return self.concurrent if isinstance(self.concurrent, list) else [self.concurrent]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check config.json; `overrides` are KEY=VALUE, the value as JSON or else a text.

    Raises ConfigError, one line: the file, the key, its value, what is allowed.
    """
    data = read_json(path, ConfigError)
    if not isinstance(data, dict):
        raise ConfigError(
            f'{path}: must hold a JSON object such as {{"server": …, "model": …}}, not {_kind(data)}'
        )
    for override in overrides:
        _set_key(data, override)
    try:
        config = Config.model_validate(data)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_first_error(error, Config, data)}") from None
    _check_config(path, config)
    for key in ("concurrent", "questions", "timeout"):
        if key not in data:
            notice(
                f"WARNING {path.name}: {key} is not set; using {json.dumps(getattr(config, key))}"
            )
    return config


def _check_config(path: Path, config: Config) -> None:
    """Refuse what single keys cannot show. Raises ConfigError."""
    wrong = _wrong_url(config)
    if wrong is not None:
        raise ConfigError(f"{path}: {wrong}")
    if reserved := {"model", "messages", "prompt", "input", "stream"} & config.extra_body.keys():
        wrong = f"extra_body: {min(reserved)} is set by the test itself; take it out"
    elif config.slo.quality is not None and not (HERE / "extensions" / "quality.py").is_file():
        wrong = "slo.quality: needs extensions/quality.py, which is not there"
    elif unknown := next(
        (key for key in config.thresholds if _metric(empty_aggregate(), key) is _ABSENT), None
    ):
        near = difflib.get_close_matches(unknown, _metric_names(empty_aggregate()), 1, 0)
        wrong = f"thresholds: {printable(unknown, 80)} is no metric; did you mean {near[0]}?"
    for key, extension in _NEEDS_EXTENSION.items():
        used: Any = config.model_dump(exclude_defaults=True)
        for part in key.split("."):
            used = used.get(part) if isinstance(used, dict) else None
        if (
            wrong is None
            and used is not None
            and not (HERE / "extensions" / f"{extension}.py").is_file()
        ):
            wrong = f"{key}: needs extensions/{extension}.py, which is not there"
    if wrong is not None:
        raise ConfigError(f"{path}: {wrong}")


_NEEDS_EXTENSION = {
    "judge": "quality",
    "hardware.sample_s": "hardware",
    "hardware.metrics_url": "hardware",
    "workers": "cluster",
    "ray_address": "cluster",
}


def _wrong_url(config: Config) -> str | None:
    """Say which of the config's URLs is none."""
    servers = {"server": config.server, "judge.server": config.judge and config.judge.server}
    links = {key: url for key, url in servers.items() if url != "embedded"}
    for key, url in {
        **links,
        "proxy": config.proxy,
        "hardware.metrics_url": config.hardware.metrics_url,
    }.items():
        if isinstance(url, str) and (
            problem := _url_problem(url, query=key.endswith("metrics_url"))
        ):
            field = Config.model_fields.get(key)
            description = (
                'a URL such as "http://host:8000/v1"' if field is None else field.description
            )
            return f"{key}: {problem}; it must be {description}"
    return None


def _url_problem(text: str, *, query: bool = False) -> str | None:
    try:
        url = yarl.URL(text)
        is_http = url.scheme in ("http", "https") and url.host and url.port
        if is_http and not _UNPRINTABLE.search(text) and " " not in text:
            return (
                "a URL takes no query or fragment"
                if (url.query_string and not query) or url.fragment
                else None
            )
    except ValueError:
        pass
    return f"{json.dumps(printable(_without_any_password(text), 80), ensure_ascii=False)} is not allowed"


# --- JSON files and what is wrong in them ---


def read_json(path: Path, error: type[StressTestError]) -> Any:
    """Read a strict JSON file: UTF-8, no NaN, no infinite number, no key twice. Raises `error`, one line."""
    try:
        if not path.is_file():
            raise error(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror or cause}") from None
    except UnicodeDecodeError as cause:
        raise error(f"{path}: is not UTF-8 text (byte {cause.start}); save it as UTF-8") from None
    except ValueError as cause:  # a NUL in the name
        raise error(f"{path}: cannot be read: {cause}") from None
    if not text.strip():
        raise error(f"{path}: is empty")
    try:
        data = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite
        )
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as cause:
        raise error(
            f"{path}: line {cause.lineno}, column {cause.colno}: is not JSON: {cause.msg}"
        ) from None
    except RecursionError:
        raise error(f"{path}: is nested too deeply") from None
    except UnicodeEncodeError:
        raise error(
            f"{path}: holds half of a surrogate pair (\\ud800 to \\udfff), which no server can read"
        ) from None
    except ValueError as cause:
        raise error(f"{path}: {cause}") from None
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {json.dumps(twice)} stands there twice; keep one")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write a number, or null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def _set_key(data: dict[str, Any], override: str) -> None:
    """Set KEY=VALUE in the data of config.json; `slo.ttft_ms=500` reaches into an object."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"--set {printable(override)}: write KEY=VALUE, such as --set concurrent=8"
        )
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError:
        value = text
    except (ValueError, RecursionError) as cause:
        raise ConfigError(f"--set {printable(override)}: {cause}") from None
    outer, _, inner = key.partition(".")
    # A threshold's and a header's name may hold dots itself.
    *path, last = [outer, inner] if inner and outer in ("thresholds", "headers") else key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {printable(override)}: {part} is not an object")
    data[last] = value


def _first_error(
    error: pydantic.ValidationError, model: type[Strict], data: Mapping[str, Any]
) -> str:
    """Say the first thing that is wrong: the key, its value, what is allowed."""
    first, *others = error.errors(include_url=False)
    fields, value, keys = model.model_fields, cast(Any, data), list[str]()
    description = "an object"
    for part in first["loc"]:
        if (
            isinstance(value, dict)
            and part in fields
            and (part in value or first["type"] == "missing")
        ):
            keys.append(str(part))
            description = fields[str(part)].description or ""
            value = value.get(part)
            fields = _nested_fields(fields[str(part)].annotation)
    key = ".".join(keys)
    if first["type"] == "missing":
        return f"{key}: is missing; it must be {description}"
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        near = difflib.get_close_matches(unknown, fields or model.model_fields, 1, 0.5)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"known are {', '.join(fields or model.model_fields)}"
        )
        return f"{printable('.'.join([*keys, unknown]), 80)}: unknown key; {hint}"
    distinct = {other["loc"][:1] for other in others} - {first["loc"][:1]}
    more = f" ({len(distinct)} more such)" if distinct else ""
    shown = printable(_without_any_password(json.dumps(value, ensure_ascii=False)), 80)
    return f"{key}: {shown} is not allowed; it must be {description}{more}"


def _nested_fields(annotation: Any) -> dict[str, Any]:
    """Return the fields of the model that stands in an annotation, if any."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Strict):
            return dict(candidate.model_fields)
    return {}


def find_file(given: Path | None, name: str) -> Path:
    """Return the file that was given, or the one in the current directory, or the one beside the script."""
    if given is not None:
        return given
    here = Path.cwd() / name
    return here if here.exists() else HERE / name


# === Questions ===


Grader = Literal[
    "exact", "contains", "regex", "numeric", "choice", "json", "fuzzy", "code", "semantic", "judge"
]
GRADERS: tuple[str, ...] = get_args(Grader)


class Question(Strict):
    """One entry of the catalogue: a question, or the turns of a conversation."""

    question: str | None = pydantic.Field(None, description="a text")
    turns: Annotated[list[str], pydantic.Field(min_length=1)] | None = pydantic.Field(
        None, description="a list of texts, asked one after the other"
    )
    id: Annotated[str, pydantic.Field(min_length=1, max_length=500)] = pydantic.Field(
        "", description="a text"
    )
    category: str | None = pydantic.Field(None, description="a text")
    system_prompt: str | None = pydantic.Field(None, description="a text")
    max_tokens: Count | None = pydantic.Field(None, description="an integer from 1")
    grader: Grader | None = pydantic.Field(None, description=f"one of {', '.join(GRADERS)}")
    expected: Any = pydantic.Field(None, description="what the grader takes")
    tolerance: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None = pydantic.Field(
        None, description="a number from 0"
    )
    threshold: Share | None = pydantic.Field(None, description="a number from 0 to 1")

    def system(self, config: Config) -> str | None:
        """Return the system prompt that goes with it."""
        return config.system_prompt if self.system_prompt is None else self.system_prompt

    @property
    def texts(self) -> list[str]:
        """What is asked, in order; one text unless it is a conversation."""
        return self.turns if self.turns is not None else [self.question or ""]


def load_questions(path: Path, count: int | None = None) -> list[Question]:
    """Read questions.json and return `count` questions in its order, from the start again when it asks for more.

    Raises QuestionsError, one line: the file, the question's place and id, the key, what is allowed.
    """
    data = read_json(path, QuestionsError)
    if isinstance(data, dict) and set(data) == {"questions"}:
        data = data["questions"]
    if not isinstance(data, list):
        raise QuestionsError(
            f'{path}: must hold a list of questions, or {{"questions": […]}}, not {_kind(data)}'
        )
    if not data:
        raise QuestionsError(f"{path}: holds no question; add at least one")
    catalogue = [_read_question(path, place, entry) for place, entry in enumerate(data, 1)]
    catalogue = _with_ids(path, catalogue)
    return list(
        itertools.islice(itertools.cycle(catalogue), len(catalogue) if count is None else count)
    )


def _read_question(path: Path, place: int, entry: Any) -> Question:
    """Check one entry of the catalogue. Raises QuestionsError."""
    data = {"question": entry} if isinstance(entry, str) else entry
    if not isinstance(data, dict):
        raise QuestionsError(
            f"{path}: question {place}: must be a text or an object, not {_kind(entry)}"
        )
    name = f"question {place}" + (
        f" ({printable(data['id'], 60)})" if isinstance(data.get("id"), str) else ""
    )
    try:
        question = Question.model_validate(data)
    except pydantic.ValidationError as error:
        raise QuestionsError(f"{path}: {name}: {_first_error(error, Question, data)}") from None
    if (question.question is None) == (question.turns is None):
        raise QuestionsError(f'{path}: {name}: give either "question" or "turns"')
    if question.grader is None and question.expected is not None:
        raise QuestionsError(
            f"{path}: {name}: expected: needs a grader, one of {', '.join(GRADERS)}"
        )
    if not all(text.strip() for text in question.texts):
        logger.warning("%s: %s is blank", path.name, name)
    return question


def _with_ids(path: Path, catalogue: list[Question]) -> list[Question]:
    """Give each question without an id one from its text; refuse an id that stands there twice."""
    given = Counter(question.id for question in catalogue if question.id)
    if twice := next((name for name, times in given.items() if times > 1), None):
        raise QuestionsError(
            f"{path}: id {json.dumps(printable(twice, 80))} stands there twice; ids must be unique"
        )
    seen = Counter[str]()
    named = []
    for question in catalogue:
        if not question.id:
            digest = hashlib.sha256("\n".join(question.texts).encode()).hexdigest()[:12]
            seen[digest] += 1
            name = f"q-{digest}" + (f"-{seen[digest]}" if seen[digest] > 1 else "")
            question = question.model_copy(update={"id": name})
        named.append(question)
    return named


def questions_hash(questions: Iterable[Question]) -> str:
    """Return a hash that two runs share when they asked the same questions in the same order."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(question.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def question_count(config: Config) -> int | None:
    """Return how many questions a stage asks; None for the whole catalogue."""
    return (
        config.questions if isinstance(config.questions, int) and config.duration is None else None
    )


# === Results ===


FAILURES = {
    "connection_refused": "nothing listens at this address",
    "connect": "no connection could be made",
    "dns": "the host name is not known",
    "tls": "the TLS connection could not be trusted",
    "reset": "the server closed the connection before it answered",
    "timeout": "took longer than `timeout`",
    "idle": "no token for `idle_timeout`",
    "http_status": "an HTTP status that is no success",
    "redirect": "a redirect, which is never followed",
    "bad_http": "not HTTP",
    "bad_json": "an event or a body that is not JSON",
    "wrong_type": "JSON of another shape, or another content type, than the API has",
    "wrong_api": "an answer of another API",
    "server_error": "an error object inside a 200",
    "truncated": "ended without [DONE] or a finish reason",
    "empty": "no text at all",
    "too_large": "longer than `max_answer_bytes`",
    "cancelled": "stopped with the run",
    "turn_skipped": "an earlier turn of the conversation failed",
    "internal": "a fault of this program; the log has its traceback",
}
_STATUS_OF_KIND = {
    "timeout": "timeout",
    "idle": "timeout",
    "truncated": "truncated",
    "cancelled": "cancelled",
    "turn_skipped": "cancelled",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer that counts."""

    kind: str  # one of FAILURES' names
    message: str
    http_status: int | None = None
    retry_after: str | None = None  # the header of a 429 or 503, as sent; recorded, never obeyed

    def to_record(self) -> dict[str, Any]:
        """Return the `error` of a results file."""
        record = {"kind": self.kind, "http_status": self.http_status, "message": self.message}
        return record if self.retry_after is None else {**record, "retry_after": self.retry_after}


@dataclasses.dataclass(slots=True)
class Result:
    """What one request did. Times are ns since the start of the run, in whole microseconds: files hold them exactly."""

    index: int  # place in the run's order, from 0
    id: str
    question: str
    category: str | None = None
    stage: int = 0
    turn: int = 0
    answer: str = ""
    reasoning: str = ""
    status: str = "ok"  # "ok", "error", "timeout", "truncated", "cancelled"
    error: Failure | None = None
    scheduled_ns: int | None = None  # open loop: when it should have been sent
    sent_ns: int | None = None  # None: it never reached the socket
    end_ns: int | None = None  # the last token; for a failure, the moment it was given up
    chunk_ns: list[int] | None = None  # arrival of each chunk with text; None when not recorded
    first_ns: int | None = None
    answer_ns: int | None = None  # first chunk with answer text, not reasoning
    chunks: int = 0
    connect_ns: int | None = None  # how long connecting took; None on a kept connection
    token: int | None = None
    prompt_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    token_source: str | None = None  # "usage" or "chunks"
    finish_reason: str | None = None
    reconnects: int = 0  # kept connections that turned out dead
    grader: str | None = None  # how the answer is to be graded
    quality: float = 0.0
    graded: bool = False
    grade_reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer counts."""
        return self.status == "ok"

    @property
    def time_ms(self) -> float | None:
        """E2E latency: from sent to the last token; for a failure, how long it took to fail."""
        return _between(self.sent_ns, self.end_ns)

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token, reasoning included."""
        return _between(self.sent_ns, self.first_ns)

    @property
    def answer_ttft_ms(self) -> float | None:
        """Time to the first token of the answer."""
        return _between(self.sent_ns, self.answer_ns)

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None below two tokens, and when all came at once."""
        generating_ms = _between(self.first_ns, self.end_ns)
        if not generating_ms or self.token is None or self.token < 2:
            return None
        return generating_ms / (self.token - 1)

    @property
    def came_at_once(self) -> bool:
        """Whether several tokens came in one piece: then something held the stream back, and TPOT is not to be had."""
        return self.first_ns is not None and self.first_ns == self.end_ns and (self.token or 0) > 1

    @property
    def chunk_gaps_us(self) -> list[int] | None:
        """The gaps between successive chunks, in whole microseconds (ITL)."""
        if self.chunk_ns is None:
            return None
        return [(later - earlier) // 1000 for earlier, later in itertools.pairwise(self.chunk_ns)]

    @property
    def connect_ms(self) -> float | None:
        """How long the connection took to open; None when a kept one was used."""
        return _between(0, self.connect_ns)

    @property
    def queue_ms(self) -> float | None:
        """Open loop: actual minus scheduled send."""
        return _between(self.scheduled_ns, self.sent_ns)

    @property
    def scheduled_ttft_ms(self) -> float | None:
        """Time to first token from the scheduled send, queueing included."""
        return _between(self.scheduled_ns, self.first_ns)

    @property
    def scheduled_e2e_ms(self) -> float | None:
        """E2E latency from the scheduled send, queueing included."""
        return _between(self.scheduled_ns, self.end_ns)

    @property
    def answer_text(self) -> str:
        """The answer without a leading <think> block: what is graded."""
        return self.answer[_answer_start(self.answer) :]

    def to_record(self) -> dict[str, Any]:
        """Return the entry of `results` in a results file."""
        gaps = self.chunk_gaps_us
        return {
            "question": self.question,
            "answer": self.answer,
            "time": self.time_ms,
            "token": self.token,
            "quality": self.quality,
            "id": self.id,
            "status": self.status,
            "error": None if self.error is None else self.error.to_record(),
            "stage": self.stage,
            "sent_ms": _between(0, self.sent_ns),
            "scheduled_ms": _between(0, self.scheduled_ns),
            "ttft_ms": self.ttft_ms,
            "answer_ttft_ms": self.answer_ttft_ms,
            "tpot_ms": self.tpot_ms,
            "chunk_ms": None if gaps is None else [gap / 1000 for gap in gaps],
            "reasoning": self.reasoning,
            "prompt_tokens": self.prompt_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "cached_tokens": self.cached_tokens,
            "token_source": self.token_source,
            "finish_reason": self.finish_reason,
            "graded": self.graded,
            "grade_reason": self.grade_reason,
            "grader": self.grader,
            "index": self.index,
            "turn": self.turn,
            "category": self.category,
            "chunks": self.chunks,
            "connect_ms": self.connect_ms,
            "queue_ms": self.queue_ms,
            "reconnects": self.reconnects,
            "end_ms": _between(0, self.end_ns),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read an entry of `results` back; times come out exactly as they were."""
        sent = _ms_to_ns(record["sent_ms"])
        first = _after(sent, record["ttft_ms"])
        gaps = record["chunk_ms"]
        chunks = None
        if gaps is not None:
            chunks = (
                []
                if first is None
                else list(
                    itertools.accumulate((_ms_to_ns(gap) or 0 for gap in gaps), initial=first)
                )
            )
        error = record["error"]
        return cls(
            **{name: record[name] for name in _PLAIN_FIELDS},
            error=None if error is None else Failure(**error),
            scheduled_ns=_ms_to_ns(record["scheduled_ms"]),
            sent_ns=sent,
            end_ns=_ms_to_ns(record["end_ms"]),
            chunk_ns=chunks,
            first_ns=first,
            answer_ns=_after(sent, record["answer_ttft_ms"]),
            connect_ns=_ms_to_ns(record["connect_ms"]),
        )


_PLAIN_FIELDS = [
    field.name
    for field in dataclasses.fields(Result)
    if not field.name.endswith("_ns") and field.name != "error"
]


def _between(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / NS_PER_MS


def _ms_to_ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * 1000) * 1000


def _after(start_ns: int | None, ms: float | None) -> int | None:
    return None if start_ns is None or ms is None else start_ns + round(ms * 1000) * 1000


def _answer_start(answer: str) -> int:
    """Return where the answer begins behind a leading <think> block; the length when the block is still open."""
    if not answer.lstrip().startswith("<think>"):
        return 0
    end = answer.find("</think>")
    return len(answer) if end < 0 else end + len("</think>")


# === Server ===


@dataclasses.dataclass(frozen=True)
class Target:
    """The server as requests need it, and as files may show it."""

    base: str  # without user part and without a slash at its end
    shown: str
    headers: Mapping[str, str]
    redact: Redactor
    tls: ssl.SSLContext | bool
    proxy: str | None
    embedded: Mapping[str, Any] | None = None  # what extensions/embedded.py says of its server


def resolve_target(config: Config, environment: Mapping[str, str]) -> Target:
    """Return the server with its secrets, which come from the environment only. Raises ConfigError."""
    secrets, headers = (
        list[str](),
        {"Content-Type": "application/json", "Accept-Encoding": "identity"},
    )
    headers |= {
        "Accept": "text/event-stream" if config.stream else "application/json",
        "User-Agent": f"llm-stresstest/{__version__}",
    }
    for name, text in config.headers.items():
        filled = re.sub(
            r"\$\{([^}]*)\}", lambda found: _secret(environment, found.group(1), secrets), text
        )
        headers[name] = _header_value(f"headers.{name}", filled)
        if filled == text and re.search(
            r"(?i)auth|cookie|key|secret|token", name
        ):  # it should not stand there
            words = [
                word
                for word in re.split(r"[\s;,]+", text)
                if word.lower() not in ("bearer", "basic", "token")
            ]
            secrets.extend((text, *words, *(word.partition("=")[2] for word in words)))
    if config.api_key_env is not None:
        key = _secret(environment, config.api_key_env, secrets)
        headers["Authorization"] = "Bearer " + _header_value(
            f"the key in {config.api_key_env}", key
        )
    if config.judge is not None and config.judge.api_key_env is not None:
        _secret(environment, config.judge.api_key_env, secrets)
    base, shown = config.server.rstrip("/"), config.server
    url = yarl.URL(base)
    if config.server != "embedded" and (url.user or url.password):
        if config.api_key_env is not None:
            raise ConfigError(
                "server: has a user part, and api_key_env is set as well; keep one of them"
            )
        basic = base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
        secrets.append(basic)
        headers["Authorization"] = f"Basic {basic}"
        base, shown = str(url.with_user(None)), _without_password(config.server)
    secrets.extend(_user_parts(config))
    return Target(base, shown, headers, Redactor(secrets), _tls_context(config), config.proxy)


def _user_parts(config: Config) -> Iterator[str]:
    """Yield what is secret in the config's URLs."""
    judge = config.judge.server if config.judge is not None else None
    for link in filter(None, (config.server, config.proxy, judge, config.hardware.metrics_url)):
        url = yarl.URL(link)
        parts = (
            (url.raw_password, url.password) if url.password else (url.raw_user, url.user)
        )  # a key may be the user
        yield from filter(None, parts)


def _secret(environment: Mapping[str, str], name: str, secrets: list[str]) -> str:
    value = environment.get(name, "")
    if not value:
        raise ConfigError(
            f"the environment variable {printable(name, 80)} is not set; export it with the key"
        )
    secrets.append(value)
    return value


def _header_value(name: str, value: str) -> str:
    if not value.isascii() or _UNPRINTABLE.search(value) or value != value.strip():
        raise ConfigError(
            f"{printable(name, 80)}: has a character that an HTTP header cannot carry, or white space at an end"
        )
    return value


def _tls_context(config: Config) -> ssl.SSLContext | bool:
    if not config.verify_tls:
        return False
    if config.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(
            f"ca_file: {printable(config.ca_file, 80)}: cannot be used: {error.strerror or error}"
        ) from None


# --- Connection test ---


async def test_connection(config: Config, target: Target) -> None:
    """Prove with the official client that the server works: reachable, authorised, model known, one tiny answer.

    Raises ServerUnreachableError, one line.
    """
    import openai  # half a second, so only where it is used  # noqa: PLC0415

    async def without_made_up_key(request: Any) -> None:
        if "Authorization" not in target.headers:
            request.headers.pop("Authorization", None)

    http_client = openai.DefaultAsyncHttpxClient(
        verify=target.tls,
        proxy=target.proxy,
        trust_env=False,
        follow_redirects=False,
        event_hooks={
            "request": [without_made_up_key],
            "response": [_bound_to(config.max_answer_bytes)],
        },
    )
    client = openai.AsyncOpenAI(
        base_url=target.base,
        api_key="none",
        max_retries=0,
        timeout=config.timeout,
        default_headers={**target.headers, "Accept": "application/json"},
        http_client=http_client,
    )
    try:
        async with client:
            async with asyncio.timeout(
                config.timeout
            ):  # the client's own starts anew with each byte
                await _check_model(client, config, target)
            async with asyncio.timeout(config.timeout):
                await _check_answer(client, config, target)
    except (openai.OpenAIError, ValueError, RecursionError, TimeoutError, _TooLargeError) as error:
        message = printable(target.redact(_explain(error, config)), 700)
        raise ServerUnreachableError(f"{printable(target.shown)}: {message}") from error


def _bound_to(limit: int) -> Callable[[Any], Awaitable[None]]:
    """Return what keeps a response of the official client to so many bytes, and from being unpacked."""
    http: Any = sys.modules.get("httpx2") or sys.modules["httpx"]  # what openai itself stands on

    class Bounded(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self.aclose = stream.aclose

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for data in self.stream:
                size += len(data)
                if size > limit:
                    raise _TooLargeError(f"{limit} bytes")
                yield data

    async def bound(response: Any) -> None:
        response.headers.pop(
            "Content-Encoding", None
        )  # identity was asked for; a gzip bomb stays small
        response.stream = Bounded(response.stream)

    return bound


async def _check_model(client: openai.AsyncOpenAI, config: Config, target: Target) -> None:
    import openai  # noqa: PLC0415

    try:
        page = await client.models.list()
        names = sorted(str(model.id) for model in page.data)
    except (openai.NotFoundError, AttributeError, TypeError, ValueError, RecursionError) as error:
        logger.info("the server lists no models: %s", type(error).__name__)
        return
    if names and not {config.model, f"{config.model}:latest"} & set(names):
        listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        message = f"no such model {json.dumps(config.model)}; the server has: {listed}"
        raise ServerUnreachableError(
            f"{printable(target.shown)}: {printable(target.redact(message), 700)}"
        )


async def _check_answer(client: openai.AsyncOpenAI, config: Config, target: Target) -> None:
    api = APIS[config.api]
    few = (
        None if config.max_tokens is None else 16 if config.api == "responses" else 1
    )  # null: some refuse the key
    question = Question(question="Say: ok", max_tokens=few)
    body = api.body(
        config.model_copy(update={"stream": False}),
        question,
        [{"role": "user", "content": "Say: ok"}],
    )
    answer = await client.post("/" + api.path, body=body, cast_to=cast(Any, object))
    parsed = ParsedAnswer()
    try:
        api.read_body(cast(Any, answer), parsed)
        problem = parsed.error and f"an error: {_message_of(parsed.error)}"
    except _WrongApiError as error:
        problem = f"as the API {error} does"
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        problem = json.dumps(answer, default=str)
    if problem:
        message = printable(
            target.redact(f"answered, but not as the {config.api} API does: {problem}"), 300
        )
        raise ServerUnreachableError(f"{printable(target.shown)}: {message}")


def _explain(error: Exception, config: Config) -> str:
    """Say in one line why the official client failed."""
    status = getattr(error, "status_code", None)
    said = str(getattr(error, "message", error)) or type(error).__name__
    if status in (401, 403):
        hint = f"check the key in {config.api_key_env}" if config.api_key_env else "set api_key_env"
        return f"not authorised (HTTP {status}); {hint}: {said}"
    if status == 404 and "model" not in said.lower():
        return f"has no such path (HTTP 404); does the URL end in /v1? {said}"
    if status is not None:
        return f"HTTP {status}: {said}"
    if isinstance(error, ValueError | RecursionError):
        return f"answered, but not as the {config.api} API does: {error}"
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = cast(BaseException, root.__cause__ or root.__context__)
    kind = "too_large" if isinstance(root, _TooLargeError) else _connection_kind(root)
    if isinstance(error, TimeoutError) or type(error).__name__ == "APITimeoutError":
        kind, root = "timeout", TimeoutError(f"{config.timeout:g} s")
    return f"{FAILURES[kind]}: {root or type(root).__name__}"


# --- Event streams ---


class SSEDecoder:
    """Reads a stream of server-sent events as the WHATWG standard says, cut anywhere, in linear time."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._first_line = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[str]:
        """Return the `data` of every event that these bytes completed."""
        return [event.decode("utf-8", "replace") for _, event in self.feed_raw(data)]

    def feed_raw(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return each completed event's data as sent, with the place where it ended in these bytes (CRLF is LF)."""
        if self._after_cr or b"\r" in data:
            data = self._without_cr(data)
        events: list[tuple[int, bytes]] = []
        end = 0
        if self._tail or self._data or self._first_line:
            end = self._finish_event(data, events)
        *blocks, rest = data[end:].split(b"\n\n")
        for block in blocks:
            end += len(block) + 2
            if block.startswith(b"data: ") and b"\n" not in block:  # as nearly every event is
                events.append((end, block[6:]))
            elif block:
                self._read_lines(block.split(b"\n"))
                self._dispatch(end, events)
        if rest:
            *lines, tail = rest.split(b"\n")
            self._read_lines(lines)
            self._tail = [tail] if tail else []
        return events

    def _finish_event(self, data: bytes, events: list[tuple[int, bytes]]) -> int:
        """Read on to the end of the event that earlier bytes began, and return where that is."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = b"".join([*self._tail, data[start:end]])
            self._tail = []
            start = end + 1
            if self._first_line:
                line = line.removeprefix(codecs.BOM_UTF8)
                self._first_line = False
            if not line:
                self._dispatch(start, events)
                return start
            self._read_lines([line])
        self._tail.append(data[start:])
        return len(data)

    def _without_cr(self, data: bytes) -> bytes:
        """Return the bytes with LF for CRLF and CR; the LF of a CRLF may come with the next bytes."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6 if line[5:6] == b" " else 5 :])
            elif line == b"data":
                self._data.append(b"")

    def _dispatch(self, end: int, events: list[tuple[int, bytes]]) -> None:
        if self._data:
            events.append((end, b"\n".join(self._data)))
            self._data = []


class ParsedAnswer:
    """What has been read of an answer."""

    __slots__ = (
        "answer_ns",
        "chunk_ns",
        "complete",
        "error",
        "failure",
        "finish",
        "reasoning",
        "text",
        "usage",
    )

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.chunk_ns: list[int] = []  # arrival of each chunk that brought something
        self.answer_ns: list[int] = []  # of each chunk that brought answer text
        self.finish: str | None = None
        self.usage: dict[str, Any] | None = None
        self.error: Any = None  # an error object that the server sent
        self.complete = False
        self.failure: Failure | None = None


class _WrongApiError(Exception):
    """The answer is one of another API."""


def read_stream(api: Api, exchange: Exchange) -> ParsedAnswer:
    """Read a streamed answer from its bytes; each chunk gets the time of the read that completed it."""
    parsed, data, last = ParsedAnswer(), b"", _LikeBefore()
    read_event, from_json = api.read_event, pydantic_core.from_json
    try:
        for now_ns, data in _timed_events(exchange):
            if text := last.text_of(data):
                parsed.text.append(text)
                brought = ANSWER
            elif data == b"[DONE]":
                parsed.complete = True
                break
            elif data:
                try:
                    event = from_json(data)
                except ValueError:
                    event = _odd_json(data)
                texts, thoughts = len(parsed.text), len(parsed.reasoning)
                brought = read_event(event, parsed)
                if len(parsed.text) == texts + 1 and len(parsed.reasoning) == thoughts:
                    last.learn(data, parsed.text[-1])
            else:
                continue
            if brought:
                parsed.chunk_ns.append(now_ns)
                if brought == ANSWER:
                    parsed.answer_ns.append(now_ns)
    except _WrongApiError as error:
        parsed.failure = Failure("wrong_api", f"an event of another API: {error}")
    except json.JSONDecodeError as error:
        parsed.failure = Failure(
            "bad_json", f"an event is not JSON: {error.msg}: {error.doc[:QUOTED]}"
        )
    except (AttributeError, KeyError, TypeError, IndexError):
        parsed.failure = Failure(
            "wrong_type", f"an event of another shape: {data[:QUOTED].decode('utf-8', 'replace')}"
        )
    return parsed


_PLAIN_TEXT = re.compile(rb"[ !#-\[\]-~]+").fullmatch  # printable ASCII that JSON writes as it is


class _LikeBefore:
    """Knows an event that differs from an earlier one in its text alone, as most of a stream's events do.

    Such an event needs no parser: what stands around the text is the same to the byte, and the text has no escapes.
    """

    MOST_MISSES = 4  # a server that varies each event is not worth looking at

    def __init__(self) -> None:
        self._head = self._tail = b"\0"  # which no event has
        self._misses = 0

    def text_of(self, data: bytes) -> str | None:
        """Return the event's text; None when the event must be parsed."""
        if data.startswith(self._head) and data.endswith(self._tail):
            text = data[len(self._head) : -len(self._tail)]
            if _PLAIN_TEXT(text):
                return text.decode()
        return None

    def learn(self, data: bytes, text: str) -> None:
        """Take an event with its text, which must stand in it once and as it is."""
        quoted = b'"%b"' % text.encode("utf-8", "replace")
        if self._misses < self.MOST_MISSES and data.count(quoted) == 1:
            start = data.index(quoted) + 1
            self._head, self._tail = data[:start], data[start + len(quoted) - 2 :]
            self._misses += 1


def _timed_events(exchange: Exchange) -> Iterator[tuple[int, bytes]]:
    """Yield the data of each event with the time of the read that completed it."""
    decoder, body = SSEDecoder(), exchange.body
    reads_ns, offsets = exchange.reads_ns, exchange.offsets
    if b"\r" in body:  # its places would shift
        start = 0
        for now_ns, end in zip(reads_ns, offsets, strict=False):
            for _, data in decoder.feed_raw(body[start:end]):
                yield now_ns, data
            start = end
        return
    read = 0
    for start in range(0, len(body), SLICE):
        for end, data in decoder.feed_raw(body[start : start + SLICE]):
            while offsets[read] < start + end:
                read += 1
            yield reads_ns[read], data


def _odd_json(data: bytes) -> Any:
    """Parse what the fast parser refuses and Python accepts: half a surrogate pair, bytes that are not UTF-8.

    Raises JSONDecodeError.
    """
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise json.JSONDecodeError(str(error), text, 0) from None


def _read_body(api: Api, exchange: Exchange) -> ParsedAnswer:
    """Read an answer that came in one piece."""
    parsed, data = ParsedAnswer(), exchange.body
    text = data.decode("utf-8", "replace")
    try:
        body = _odd_json(data)
        api.read_body(body, parsed)
        parsed.complete = True
        if exchange.reads_ns:
            parsed.answer_ns = [exchange.reads_ns[-1]]
    except _WrongApiError as error:
        parsed.failure = Failure("wrong_api", f"a body of another API: {error}")
    except json.JSONDecodeError as error:
        parsed.failure = Failure("bad_json", f"the body is not JSON: {error.msg}: {text[:QUOTED]}")
    except (AttributeError, KeyError, TypeError, IndexError):
        parsed.failure = Failure("wrong_type", f"a body of another shape: {text[:QUOTED]}")
    return parsed


# --- APIs ---


# What an event brought: nothing, answer text, or something else that was generated (reasoning, a tool call).
NOTHING, ANSWER, OTHER = 0, 1, 2


def _chat_body(
    config: Config, question: Question, messages: list[dict[str, str]]
) -> dict[str, Any]:
    system = question.system(config)
    said = messages if system is None else [{"role": "system", "content": system}, *messages]
    return {"messages": said, **_sampling(config, question, "max_tokens"), **_usage_option(config)}


def _completions_body(
    config: Config, question: Question, messages: list[dict[str, str]]
) -> dict[str, Any]:
    system = question.system(config)
    texts = [] if system is None else [system]
    prompt = "\n\n".join([*texts, *(message["content"] for message in messages)])
    return {"prompt": prompt, **_sampling(config, question, "max_tokens"), **_usage_option(config)}


def _responses_body(
    config: Config, question: Question, messages: list[dict[str, str]]
) -> dict[str, Any]:
    system = question.system(config)
    sampling = _sampling(config, question, "max_output_tokens")
    instructions = {} if system is None else {"instructions": system}
    stream = {"stream": True} if config.stream else {}
    return {"input": messages, **instructions, **sampling, **stream}


def _sampling(config: Config, question: Question, limit_name: str) -> dict[str, Any]:
    limit = question.max_tokens or config.max_tokens
    options = {
        "temperature": config.temperature,
        limit_name: limit,
        "seed": config.seed,
        "stop": config.stop,
    }
    return {name: value for name, value in options.items() if value is not None}


def _usage_option(config: Config) -> dict[str, Any]:
    return (
        {"stream": True, "stream_options": {"include_usage": True}}
        if config.stream
        else {"stream": False}
    )


def _read_chat_event(event: dict[str, Any], parsed: ParsedAnswer) -> int:
    choice = _first_choice(event, parsed)
    if choice is None:
        return NOTHING
    message = choice.get("delta") or choice.get("message")
    if message is None and choice.get(
        "text"
    ):  # some servers answer a chat in the older API's shape
        message = {"content": choice["text"]}
    return _read_message(message or {}, parsed)


def _first_choice(event: dict[str, Any], parsed: ParsedAnswer) -> dict[str, Any] | None:
    """Read what stands around the text of a chat or completions event, and return the choice that holds it."""
    if usage := event.get("usage"):
        parsed.usage = usage
    if error := event.get("error"):
        parsed.error = error
        return None
    choices = event["choices"] if "choices" in event else _no_choices(event)
    if not choices or choices[0].get("index"):
        return None  # a second alternative, which nobody asked for
    choice: dict[str, Any] = choices[0]
    if finish := choice.get("finish_reason"):
        parsed.finish = finish
    return choice


def _no_choices(event: dict[str, Any]) -> list[Any]:
    if "usage" in event and "type" not in event:
        return []
    raise _WrongApiError(str(event.get("type", event.get("object", "unknown"))))


def _read_message(message: dict[str, Any], parsed: ParsedAnswer) -> int:
    """Read the text and the reasoning of a chat message or of its delta."""
    brought = NOTHING
    text = message.get("content")
    if text:
        if not isinstance(text, str):
            return _read_parts(text, parsed)
        parsed.text.append(text)
        brought = ANSWER
        if len(message) == 1:
            return brought
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not reasoning and (details := message.get("reasoning_details")):
        reasoning = "".join(detail.get("text") or detail.get("summary") or "" for detail in details)
    if reasoning:
        parsed.reasoning.append(reasoning + "")
        return brought or OTHER
    return brought or (OTHER if message.get("tool_calls") else NOTHING)


def _read_parts(parts: list[Any], parsed: ParsedAnswer) -> int:
    """Read content that is a list of parts: text, or thinking that holds parts of its own."""
    brought = NOTHING
    for part in parts:
        if part.get("type") == "thinking":
            inner = part.get("thinking") or ""
            thought = (
                inner
                if isinstance(inner, str)
                else "".join(item.get("text") or "" for item in inner)
            )
            if thought:
                parsed.reasoning.append(thought)
                brought = brought or OTHER
        elif text := part.get("text"):
            parsed.text.append(text + "")
            brought = ANSWER
    return brought


def _read_completions_event(event: dict[str, Any], parsed: ParsedAnswer) -> int:
    choice = _first_choice(event, parsed)
    if choice is None:
        return NOTHING
    if "text" not in choice:
        raise _WrongApiError("chat")
    if not choice["text"]:
        return NOTHING
    parsed.text.append(choice["text"] + "")
    return ANSWER


def _read_responses_event(event: dict[str, Any], parsed: ParsedAnswer) -> int:
    kind = event.get("type")
    if kind == "response.output_text.delta" and event["delta"]:
        parsed.text.append(event["delta"] + "")
        return ANSWER
    if (
        kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
        and event["delta"]
    ):
        parsed.reasoning.append(event["delta"] + "")
        return OTHER
    if kind in ("response.completed", "response.incomplete", "response.failed"):
        _read_response_end(event["response"], parsed)
        parsed.complete = True
    elif kind == "error" or (event.get("error") and kind is None):
        parsed.error = event.get("error") or event
    elif kind is None or not str(kind).startswith("response."):
        raise _WrongApiError(str(event.get("object", kind)))
    return NOTHING


def _read_response_end(response: dict[str, Any], parsed: ParsedAnswer) -> None:
    usage = response.get("usage") or {}
    inputs, outputs = (
        usage.get("input_tokens_details") or {},
        usage.get("output_tokens_details") or {},
    )
    parsed.usage = usage and {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": {"cached_tokens": inputs.get("cached_tokens")},
        "completion_tokens_details": {"reasoning_tokens": outputs.get("reasoning_tokens")},
    }
    parsed.error = response.get("error")
    incomplete = response.get("incomplete_details") or {}
    parsed.finish = {"max_output_tokens": "length"}.get(
        incomplete.get("reason", ""), incomplete.get("reason")
    ) or "stop"


def _read_responses_body(body: dict[str, Any], parsed: ParsedAnswer) -> int:
    if error := body.get("error"):
        parsed.error = error
        return NOTHING
    if "output" not in body:
        raise _WrongApiError(str(body.get("object", "unknown")))
    _read_response_end(body, parsed)
    for item in body["output"]:
        for part in item.get("content") or []:
            if part.get("type") == "output_text":
                parsed.text.append(part["text"] + "")
            elif part.get("type") in ("reasoning_text", "summary_text"):
                parsed.reasoning.append(part["text"] + "")
    return ANSWER


def _read_choices_body(
    read_event: Callable[[dict[str, Any], ParsedAnswer], int],
    body: dict[str, Any],
    parsed: ParsedAnswer,
) -> int:
    if not body.get("error") and not body.get("choices"):
        raise _WrongApiError(str(body.get("object", "unknown")))
    return read_event(body, parsed)


class Api(NamedTuple):
    """What tells one API from another."""

    path: str
    make: Callable[[Config, Question, list[dict[str, str]]], dict[str, Any]]
    read_event: Callable[[dict[str, Any], ParsedAnswer], int]
    read_body: Callable[[dict[str, Any], ParsedAnswer], int]

    def body(
        self, config: Config, question: Question, messages: list[dict[str, str]]
    ) -> dict[str, Any]:
        """Return the body of a request."""
        return {"model": config.model, **self.make(config, question, messages), **config.extra_body}


APIS = {
    "chat": Api(
        "chat/completions",
        _chat_body,
        _read_chat_event,
        functools.partial(_read_choices_body, _read_chat_event),
    ),
    "completions": Api(
        "completions",
        _completions_body,
        _read_completions_event,
        functools.partial(_read_choices_body, _read_completions_event),
    ),
    "responses": Api("responses", _responses_body, _read_responses_event, _read_responses_body),
}


# --- Transport ---


class Exchange:
    """One request and the raw bytes of its answer, each read with its time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.begun_ns = clock()
        self.connected_ns: int | None = None
        self.sent_ns: int | None = None
        self.ended_ns: int | None = None
        self.reused = False
        self.reads_ns: list[int] = []
        self.offsets: list[int] = []  # bytes of the body that had arrived by each read
        self.status: int | None = None
        self.content_type = ""
        self.retry_after: str | None = None
        self.content: aiohttp.StreamReader | None = None
        self.protocol: TimingProtocol | None = None
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done_seen = False  # [DONE] may have come; the bytes must say
        self.too_large = False
        self.lost: BaseException | None = None  # what ended the connection
        self.error: BaseException | None = None

    def received(self, now_ns: int, data: bytes) -> None:
        """Take the time of a read; called by the transport, with the parser already fed."""
        self.reads_ns.append(now_ns)
        if b"[DONE]" in data:
            self.done_seen = True
        content = self.content
        if content is None:
            return
        self.offsets.append(content.total_bytes)
        self.too_large = content.total_bytes > self.limit
        if self.done_seen or self.too_large or content.is_eof():
            self.wake()

    def attach(self, response: aiohttp.ClientResponse) -> None:
        """Take the head of the response. What came before it was known came with the read just before."""
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "")
        self.retry_after = response.headers.get("Retry-After")
        self.content = response.content
        if (
            self.protocol is None
        ):  # a session without MeasuredRequest, such as a mocked one: all in one read, now
            self.sent_ns, self.reads_ns = self.begun_ns, [clock()]
        self.offsets = [0] * len(self.reads_ns)
        if self.offsets:
            self.offsets[-1] = response.content.total_bytes

    def wake(self) -> None:
        """Tell the waiting request that something other than more bytes has happened."""
        if not self.news.done():
            self.news.set_result(None)

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until something other than more bytes happens, at most so long."""
        loop = asyncio.get_running_loop()
        self.news = loop.create_future()
        if not (self.content and self.content.is_eof()):
            timer = loop.call_later(timeout_s, self.wake)
            try:
                await self.news
            finally:
                timer.cancel()

    @property
    def body(self) -> bytes:
        """What has arrived of the body, whatever became of the connection.

        The reader's own methods take its pieces one by one, a microsecond each, and give nothing after an error.
        """
        return b"".join(getattr(self.content, "_buffer", ()))

    @property
    def connect_ns(self) -> int | None:
        """How long connecting took; None on a kept connection."""
        return (
            None if self.reused or self.connected_ns is None else self.connected_ns - self.begun_ns
        )


_exchange_now: contextvars.ContextVar[Exchange] = contextvars.ContextVar("exchange")


class TimingProtocol(asyncio.Protocol):
    """Stands between a connection and aiohttp's parser and takes the time of each read.

    Reading here and not in a task leaves out the wait for the task's turn on the loop, which would be measured as the
    server's, and costs a fraction of waking a task a token.
    """

    def __init__(self, handler: asyncio.Protocol) -> None:
        self.handler = handler
        self.exchange: Exchange | None = None
        self.eof_received = handler.eof_received  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, and their time; what nobody asked for must not answer the next question."""
        now_ns = clock()
        if self.exchange is not None:
            self.handler.data_received(data)
            self.exchange.received(now_ns, data)
        elif (transport := cast(Any, self.handler).transport) is not None:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on, and wake the exchange that waits for more; not every end reaches the body's reader."""
        self.handler.connection_lost(exc)
        if self.exchange is not None:
            self.exchange.lost = (
                cast(Any, self.handler).exception() or exc or aiohttp.ServerDisconnectedError()
            )
            self.exchange.wake()


class MeasuredRequest(aiohttp.ClientRequest):
    """A request that puts the tap in place and takes the time when its bytes go to the socket."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Tap the connection, then send."""
        exchange = _exchange_now.get()
        protocol = conn.transport.get_protocol()
        exchange.reused = isinstance(protocol, TimingProtocol)
        if not exchange.reused:
            protocol = TimingProtocol(conn.protocol)
            conn.transport.set_protocol(protocol)
        protocol.exchange = exchange
        exchange.protocol = protocol
        exchange.connected_ns = clock()
        return await super().send(conn)

    async def write_bytes(self, *args: Any, **kwargs: Any) -> None:
        """Take the time, then write."""
        _exchange_now.get().sent_ns = clock()
        await super().write_bytes(*args, **kwargs)


def open_session(config: Config, target: Target) -> aiohttp.ClientSession:
    """Return the pooled session of the measured path: no cookies, no redirects, no environment, no own timeouts."""
    connector = aiohttp.TCPConnector(
        limit=max(config.levels), ttl_dns_cache=300, keepalive_timeout=60, ssl=target.tls
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=target.headers,
        request_class=MeasuredRequest,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=max(config.max_answer_bytes, 1 << 20),
    )


# --- Requests ---


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One question of the plan: what to ask, in which stage, and when."""

    index: int
    question: Question
    stage: int = 0
    scheduled_ns: int | None = None


class _IdleError(Exception):
    """No token for `idle_timeout`."""


class _TooLargeError(Exception):
    """The answer is longer than `max_answer_bytes`."""


class Desk:
    """Reads finished answers while the loop has a moment: one a turn, more when many wait.

    Answers that end together would otherwise be read in one go, and each token that comes meanwhile be timed late.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Callable[[], Result], asyncio.Future[Result]]] = deque()

    async def read(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, when its turn has come; also when the run is stopped meanwhile."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._queue.append((work, done))
        if len(self._queue) == 1:
            loop.call_soon(self._serve)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            return await done

    def _serve(self) -> None:
        for _ in range(1 + len(self._queue) // 16):
            work, done = self._queue[0]
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001  it belongs to the one who waits
                done.set_exception(error)
            self._queue.popleft()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._serve)


@dataclasses.dataclass(frozen=True)
class Client:
    """All that a request needs but its question; made once a run."""

    session: aiohttp.ClientSession
    config: Config
    target: Target
    start_ns: int = dataclasses.field(default_factory=clock)
    desk: Desk = dataclasses.field(default_factory=Desk)

    @functools.cached_property
    def api(self) -> Api:
        """What tells this run's API from another."""
        return APIS[self.config.api]

    @functools.cached_property
    def url(self) -> yarl.URL:
        """The address that is asked."""
        return yarl.URL(f"{self.target.base}/{self.api.path}")


async def send_question(
    client: Client,
    planned: PlannedRequest,
    messages: list[dict[str, str]] | None = None,
    release: Callable[[], None] = lambda: None,
) -> Result:
    """Ask one question and return what became of it; never raises but for a fault of this program.

    `messages` is the conversation so far, the new question last. `release` is called as soon as the server is done with
    the request, so that the next one can start before this answer is read. A kept connection that dies before the first
    byte of a response is replaced, the clock taken anew; nothing else is tried again.
    """
    said = messages or [{"role": "user", "content": planned.question.texts[0]}]
    result = _new_result(planned, said)
    result.scheduled_ns = _whole_us(planned.scheduled_ns, client.start_ns)
    body = pydantic_core.to_json(
        client.api.body(client.config, *_marked(client.config, planned.question, said))
    )
    while True:
        exchange = await _exchange(client, body)
        if not _is_stale(exchange):
            break
        result.reconnects += 1
    release()
    return await client.desk.read(functools.partial(_finish, client, exchange, result))


def _new_result(planned: PlannedRequest, messages: Sequence[Mapping[str, str]]) -> Result:
    """Return a result that says what is asked, and nothing of the answer yet."""
    question, turn = planned.question, len(messages) // 2
    return Result(
        index=planned.index,
        id=question.id,
        question=messages[-1]["content"],
        category=question.category,
        stage=planned.stage,
        turn=turn,
        grader=question.grader
        if turn + 1 == len(question.texts)
        else None,  # a conversation is graded at its end
    )


def _marked(
    config: Config, question: Question, messages: list[dict[str, str]]
) -> tuple[Question, list[dict[str, str]]]:
    """Put a unique mark where the prompt begins, so that no prefix cache can have seen it."""
    if not config.cache_bust:
        return question, messages
    mark, system = f"[{uuid.uuid4().hex}] ", question.system(config)
    if system is not None:
        return question.model_copy(update={"system_prompt": mark + system}), messages
    first, *others = messages
    return question, [{**first, "content": mark + first["content"]}, *others]


def _is_stale(exchange: Exchange) -> bool:
    """Whether a kept connection turned out dead before the first byte of a response."""
    dead = isinstance(
        exchange.error,
        aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionResetError,
    )
    return exchange.reused and dead and not exchange.reads_ns


async def _exchange(client: Client, body: bytes) -> Exchange:
    """Send one request and keep what comes back; what goes wrong is kept as `error`."""
    exchange = Exchange(client.config.max_answer_bytes)
    _exchange_now.set(exchange)
    try:
        async with asyncio.timeout(client.config.timeout):
            response = await client.session.post(
                client.url, data=body, allow_redirects=False, proxy=client.target.proxy
            )
            exchange.attach(response)
            try:
                await _wait_for_end(client, exchange)
            finally:
                response.close()  # gives a connection back whose answer has ended, and closes any other
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  every failure becomes a result
        exchange.error = error
    exchange.ended_ns = clock()
    if (
        exchange.protocol is not None and exchange.protocol.exchange is exchange
    ):  # else the next request has the connection already
        exchange.protocol.exchange = None
    return exchange


async def _wait_for_end(client: Client, exchange: Exchange) -> None:
    """Wait until the body has ended, or cannot. The bytes are kept meanwhile, and read only when in doubt."""
    content = cast(aiohttp.StreamReader, exchange.content)
    idle_ns = round(client.config.idle_timeout * NS_PER_S)
    deadline_ns = clock() + idle_ns if client.config.stream else sys.maxsize
    looks = 0
    while not content.is_eof():
        if (error := content.exception() or exchange.lost) is not None:
            raise error
        if exchange.too_large:
            raise _TooLargeError
        if exchange.done_seen and looks < MOST_LOOKS:
            # The end of the body comes with [DONE] or right behind it; a server that keeps it open is not waited for.
            exchange.done_seen, looks = False, looks + 1
            await exchange.wait_for_news(0.25)
            if not content.is_eof() and _is_complete(client, exchange):
                return
            continue
        if clock() >= deadline_ns:
            parsed = read_stream(client.api, exchange)
            deadline_ns = max([deadline_ns - idle_ns, *parsed.chunk_ns[-1:]]) + idle_ns
            if parsed.complete:
                return
            if clock() >= deadline_ns:
                raise _IdleError
        await exchange.wait_for_news((deadline_ns - clock()) / NS_PER_S)


def _is_complete(client: Client, exchange: Exchange) -> bool:
    return (
        client.config.stream
        and exchange.status == 200
        and read_stream(client.api, exchange).complete
    )


def _finish(client: Client, exchange: Exchange, result: Result) -> Result:
    """Turn the raw bytes into the result."""
    mime = exchange.content_type.partition(";")[0].strip().lower()
    answered = exchange.status == 200 and (mime in _TYPES[client.config.stream] or not mime)
    read = read_stream if client.config.stream else _read_body
    parsed = read(client.api, exchange) if answered else ParsedAnswer()
    failure = _failure(client, exchange, parsed, answered)
    _fill_times(client, exchange, parsed, result)
    _fill_texts(client, parsed, result)
    _fill_tokens(parsed, result)
    if failure is not None:
        result.status = _STATUS_OF_KIND.get(failure.kind, "error")
        redact = client.target.redact
        message = redact(_whole_text(failure.message))[:500]
        wait = (
            None
            if exchange.retry_after is None
            else redact(_whole_text(exchange.retry_after))[:100]
        )
        result.error = dataclasses.replace(failure, message=message, retry_after=wait)
        result.end_ns = _whole_us(exchange.ended_ns, client.start_ns)
    return result


_TYPES = {True: ("text/event-stream",), False: ("application/json", "application/problem+json")}


def _failure(
    client: Client, exchange: Exchange, parsed: ParsedAnswer, answered: bool
) -> Failure | None:
    """Say why the answer does not count, if it does not."""
    status = exchange.status
    if status is not None and status != 200:
        kind = "redirect" if status in (301, 302, 303, 307, 308) else "http_status"
        return Failure(kind, _error_text(exchange) or FAILURES[kind], status)
    if parsed.error is not None:
        return Failure("server_error", _message_of(parsed.error), status)
    if parsed.failure is not None and (client.config.stream or exchange.error is None):
        return dataclasses.replace(parsed.failure, http_status=status)
    if exchange.error is not None and not parsed.complete:
        return _failure_of(exchange.error, client.config, status)
    if not answered:
        return _wrong_content(client, exchange)
    if not parsed.complete and parsed.finish is None:
        return Failure("truncated", FAILURES["truncated"], status)
    if not parsed.text and not parsed.chunk_ns and not parsed.reasoning:
        return Failure("empty", f"{FAILURES['empty']} (finish reason: {parsed.finish})", status)
    return None


def _wrong_content(client: Client, exchange: Exchange) -> Failure:
    """Say what a 200 with another content type was: an error object, or something else."""
    text = _error_text(exchange)
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(exchange.body)
        if isinstance(body, dict) and body.get("error"):
            return Failure("server_error", text, exchange.status)
    expected = _TYPES[client.config.stream][0]
    hint = (
        '; set "stream": false' if client.config.stream and "json" in exchange.content_type else ""
    )
    return Failure(
        "wrong_type",
        f"{exchange.content_type} where {expected} was asked for{hint}: {text}",
        exchange.status,
    )


def _failure_of(error: BaseException, config: Config, status: int | None) -> Failure:
    """Name what went wrong on the way."""
    if isinstance(error, asyncio.CancelledError):
        return Failure("cancelled", FAILURES["cancelled"], status)
    if isinstance(error, _IdleError):
        return Failure("idle", f"no token for {config.idle_timeout:g} s", status)
    if isinstance(error, TimeoutError):
        return Failure("timeout", f"took longer than {config.timeout:g} s", status)
    if isinstance(error, _TooLargeError):
        return Failure("too_large", f"longer than {config.max_answer_bytes} bytes", status)
    if isinstance(error, aiohttp.ClientPayloadError):
        cut_off = isinstance(error.__cause__, ConnectionError) or "ConnectionReset" in str(error)
        return Failure("reset" if cut_off else "truncated", f"the body broke off: {error}", status)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError):
        return Failure(
            "bad_http", f"{FAILURES['bad_http']}: {getattr(error, 'message', error)}", status
        )
    if isinstance(error, aiohttp.ClientError | OSError):
        kind = _connection_kind(error)
        if kind == "connect" and not isinstance(error, aiohttp.ClientConnectorError):
            kind = "reset"
        return Failure(kind, f"{FAILURES[kind]}: {error}", status)
    logger.error("a request met a fault of this program", exc_info=error)
    return Failure("internal", f"{type(error).__name__}: {error}", status)


def _connection_kind(error: BaseException) -> str:
    """Name the failure of a connection attempt."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorDNSError) or type(error).__name__ == "gaierror":
        return "dns"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (
            _connection_kind(error.os_error) if isinstance(error.os_error, OSError) else "connect"
        )
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    if isinstance(error, ConnectionResetError | aiohttp.ServerDisconnectedError):
        return "reset"
    if isinstance(error, OSError) and type(error) is OSError and "refused" in str(error).lower():
        return "connection_refused"  # several addresses tried, each refused
    return "connect"


def _error_text(exchange: Exchange) -> str:
    """Return what the server said in an error's body."""
    text = exchange.body[:QUOTED].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        if isinstance(body, dict) and body.get("error"):
            return _message_of(body["error"])
    return text


def _message_of(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return (
        message if isinstance(message, str) else json.dumps(error, ensure_ascii=False, default=str)
    )


def _fill_times(client: Client, exchange: Exchange, parsed: ParsedAnswer, result: Result) -> None:
    start = client.start_ns
    chunks = [(now_ns - start) // 1000 * 1000 for now_ns in parsed.chunk_ns]
    result.sent_ns = _whole_us(exchange.sent_ns, start)
    result.connect_ns = _whole_us(exchange.connect_ns, 0)
    result.chunk_ns, result.chunks = chunks, len(chunks)
    if chunks:
        result.first_ns, result.end_ns = chunks[0], chunks[-1]
        result.answer_ns = _whole_us(_first_answer_ns(parsed), start)
    elif parsed.answer_ns:
        result.end_ns = _whole_us(parsed.answer_ns[-1], start)


def _whole_us(ns: int | None, start_ns: int) -> int | None:
    return None if ns is None else (ns - start_ns) // 1000 * 1000


def _first_answer_ns(parsed: ParsedAnswer) -> int | None:
    """Return when the first answer text came that is not white space and does not stand in a leading <think> block."""
    whole, position = "".join(parsed.text), 0
    begin = _answer_start(whole)
    begin += len(whole) - begin - len(whole[begin:].lstrip())
    for text, now_ns in zip(parsed.text, parsed.answer_ns, strict=False):
        position += len(text)
        if position > begin:
            return now_ns
    return None


def _fill_texts(client: Client, parsed: ParsedAnswer, result: Result) -> None:
    redact = client.target.redact
    result.answer = redact(_whole_text("".join(parsed.text)))
    result.reasoning = redact(_whole_text("".join(parsed.reasoning)))
    result.question = redact(result.question)
    if parsed.finish is not None:
        result.finish_reason = redact(_whole_text(str(parsed.finish)))[:200]


def _whole_text(text: str) -> str:
    """Return the text with surrogate pairs joined that two chunks had cut, and lone halves replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _fill_tokens(parsed: ParsedAnswer, result: Result) -> None:
    """Take the token counts from the server's usage; count chunks where it gives none."""
    usage = parsed.usage if isinstance(parsed.usage, dict) else {}
    result.token, result.token_source = _count(usage, "completion_tokens"), "usage"
    if result.token is None:
        result.token, result.token_source = (
            (result.chunks, "chunks") if result.chunks else (None, None)
        )
    result.prompt_tokens = _count(usage, "prompt_tokens")
    result.reasoning_tokens = _count(usage, "completion_tokens_details", "reasoning_tokens")
    result.cached_tokens = _count(usage, "prompt_tokens_details", "cached_tokens")
    if result.cached_tokens is None:
        result.cached_tokens = _count(usage, "prompt_cache_hit_tokens")
    if result.reasoning_tokens is None:
        result.reasoning_tokens = _count(usage, "reasoning_tokens")


def _count(usage: Mapping[str, Any], *keys: str) -> int | None:
    value: Any = usage
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
        else None
    )


# === Load ===


Send = Callable[[PlannedRequest, list[dict[str, str]], Callable[[], None]], Awaitable[Result]]


class StopSignal:
    """SIGINT, SIGTERM and SIGHUP: the first one stops the run in order, the second one at once."""

    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signum: int | None = None

    @classmethod
    @contextlib.contextmanager
    def caught(cls) -> Iterator[StopSignal]:
        """Catch the signals while the block runs."""
        stop_signal, loop, caught = cls(), asyncio.get_running_loop(), []
        for name in cls.SIGNALS:
            signum = getattr(signal, name, None)
            ignored_by_nohup = (
                name == "SIGHUP" and signum and signal.getsignal(signum) == signal.SIG_IGN
            )
            if signum is not None and not ignored_by_nohup:
                with contextlib.suppress(NotImplementedError, RuntimeError):
                    loop.add_signal_handler(signum, stop_signal.on_signal, signum)
                    caught.append(signum)
        try:
            yield stop_signal
        finally:
            for signum in caught:
                loop.remove_signal_handler(signum)

    def on_signal(self, signum: int) -> None:
        """Stop in order; at the second signal end at once, with the journal as it is."""
        if self.signum is not None:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar had hidden the cursor
            os._exit(128 + signum)
        logger.warning("stopped by %s", signal.Signals(signum).name)
        self.signum = signum
        self.event.set()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """Return what `work` returns; when a signal comes first, cancel it and raise StoppedError."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self.event.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if task.cancelled() and self.signum is not None:
            raise StoppedError(self.signum)
        return await task


class StoppedError(Exception):
    """A signal came before the first question was asked; its number is the argument."""


@dataclasses.dataclass
class Load:
    """What became of the load, beside its results."""

    start_ns: int = dataclasses.field(default_factory=clock)  # what results count their times from
    done: frozenset[int] = frozenset()  # the places that an earlier part of the run has finished
    seed: int = 0  # of the schedules
    resumed: str | None = None  # whether it goes on with an earlier part: what ended that one
    begun_ns: int = dataclasses.field(default_factory=clock)
    begun: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now().astimezone())
    ended_ns: int = 0
    clock_jump_s: float = (
        0.0  # wall clock minus monotonic clock: the machine slept, or somebody set the clock
    )
    client: dict[str, Any] = dataclasses.field(default_factory=dict)
    warmup: Counter[str] = dataclasses.field(default_factory=Counter)  # requests by status
    itl_us: dict[int, Counter[int]] = dataclasses.field(default_factory=dict)  # a histogram a stage
    itl_lost: bool = False  # a killed run had one, and took it along
    fault: BaseException | None = None
    interrupted: bool = False


async def process_questions(
    config: Config,
    questions: Sequence[Question],
    send: Send,
    record: Callable[[Result], None],
    stop_signal: StopSignal,
    load: Load | None = None,
) -> Load:
    """Ask the questions stage by stage, as many at once as the stage says, and hand each result to `record`.

    `load` says what results count their times from, and what an earlier run has finished already. Failed requests are
    results; what `record` raises ends the run and is raised here, after the other requests were cancelled.
    """
    load = load or Load()
    with gc_paused(), LagMonitor() as lag:
        work = asyncio.create_task(_run_stages(config, questions, send, record, load))
        stop = asyncio.create_task(stop_signal.event.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        work.cancel()
        await asyncio.wait((work,))
        load.ended_ns = clock()
        load.interrupted = load.interrupted or stop_signal.signum is not None
    load.client = lag.to_record()
    elapsed_s = (load.ended_ns - load.begun_ns) / NS_PER_S
    load.clock_jump_s = (dt.datetime.now().astimezone() - load.begun).total_seconds() - elapsed_s
    fault = load.fault or (None if work.cancelled() else work.exception())
    if fault is not None:
        raise fault
    return load


# --- Schedule ---


class Stage:
    """One level of concurrency: which questions it asks, and when each is due."""

    def __init__(
        self,
        config: Config,
        questions: Sequence[Question],
        number: int,
        load: Load,
        *,
        warmup: bool,
    ) -> None:
        self.questions, self.number, self.level = questions, number, config.levels[number]
        self.done = frozenset[int]() if warmup else load.done
        self.count = None if config.duration is not None else len(questions)
        if warmup:
            self.count = config.warmup
        self.first_index = number * len(questions) if config.duration is None else number << 32
        closed = config.rate is None or warmup
        self.offsets_ns = (
            None if closed else arrival_offsets(config, self.count, f"{load.seed}/{number}")
        )
        self.ramp_ns = 0 if warmup else round(config.ramp_up * NS_PER_S)
        self.duration_ns = (
            None if config.duration is None or warmup else round(config.duration * NS_PER_S)
        )

    def planned_requests(self, start_ns: int) -> Iterator[tuple[int, PlannedRequest]]:
        """Yield each question with the moment when it is due (0: as soon as a slot is free).

        What an earlier part of the run has finished is left out, and so is the time that its schedule took.
        """
        places = (place for place in itertools.count() if self.first_index + place not in self.done)
        begin_ns = None
        for place in itertools.takewhile(
            lambda place: self.count is None or place < self.count, places
        ):
            due_ns, scheduled_ns = 0, None
            if self.offsets_ns is not None:
                if place >= len(self.offsets_ns):
                    return
                begin_ns = (
                    self.offsets_ns[place] if self.done and begin_ns is None else begin_ns or 0
                )
                due_ns = scheduled_ns = start_ns + self.offsets_ns[place] - begin_ns
            elif self.ramp_ns and place < self.level:
                due_ns = start_ns + self.ramp_ns * place // self.level
            question = self.questions[place % len(self.questions)]
            yield (
                due_ns,
                PlannedRequest(self.first_index + place, question, self.number, scheduled_ns),
            )

    def is_over(self, start_ns: int) -> bool:
        """Whether a closed loop's `duration` has passed; an open loop's schedule ends by itself."""
        return (
            self.duration_ns is not None
            and self.offsets_ns is None
            and clock() - start_ns >= self.duration_ns
        )


def arrival_offsets(config: Config, count: int | None, seed: str) -> array.array[int]:
    """Return the send times of an open loop, ns from its start, made before it starts so that lateness never adds up.

    `rate` is the mean; the gaps are exponential (poisson), equal (constant) or gamma distributed (shape `burstiness`).
    During `ramp_up` the rate grows evenly from 0. `seed` makes the times repeatable.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    mean_s, ramp_s = 1 / cast(float, config.rate), config.ramp_up
    end_s = math.inf if config.duration is None or count is not None else config.duration
    draw: Callable[[], float] = {
        "poisson": lambda: rng.expovariate(1 / mean_s),
        "constant": lambda: mean_s,
        "gamma": lambda: rng.gammavariate(config.burstiness, mean_s / config.burstiness),
    }[config.arrival]
    offsets, even_s = array.array("q"), 0.0
    while count is None or len(offsets) < count:
        # At full rate `even_s` is the time; while the rate still grows, its integral has to reach the same value.
        time_s = math.sqrt(2 * ramp_s * even_s) if even_s < ramp_s / 2 else even_s + ramp_s / 2
        if time_s >= end_s:
            break
        offsets.append(round(time_s * NS_PER_S))
        even_s += draw()
    return offsets


# --- Generator ---


async def _run_stages(
    config: Config,
    questions: Sequence[Question],
    send: Send,
    record: Callable[[Result], None],
    load: Load,
) -> None:
    """Run the warm-up and then the stages, one after the other."""

    def keep(result: Result) -> None:
        if not config.record_chunk_times:
            histogram = load.itl_us.setdefault(result.stage, Counter())
            histogram.update(map(_bucket, result.chunk_gaps_us or ()))
            result.chunk_ns = None
        record(result)

    def discard(result: Result) -> None:
        load.warmup[result.status] += 1

    if config.duration is not None and load.done:
        load.interrupted = (
            True  # how much of the time was left when it was killed, nobody knows: it is only saved
        )
        return
    if config.warmup:
        await _run_stage(Stage(config, questions, 0, load, warmup=True), send, discard, load)
    for number in range(len(config.levels)):
        await _run_stage(Stage(config, questions, number, load, warmup=False), send, keep, load)


async def _run_stage(
    stage: Stage, send: Send, record: Callable[[Result], None], load: Load
) -> None:
    """Ask the stage's questions with at most `level` in flight; when cancelled, its requests end as "cancelled"."""
    semaphore, tasks = asyncio.Semaphore(stage.level), set[asyncio.Task[None]]()
    slots = ConcurrencyLimit(semaphore, stage.level)
    start_ns, started = clock(), 0
    try:
        for due_ns, planned in stage.planned_requests(start_ns):
            if (wait_ns := due_ns - clock()) > 0:
                await asyncio.sleep(wait_ns / NS_PER_S)
            slot = await slots.take()
            if stage.is_over(start_ns) or load.fault is not None:
                break
            task = asyncio.create_task(_converse(planned, send, record, slot, load))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # A herd of requests that start together must not hold up the reading of tokens: a few starts a turn.
            started += 1
            if started % (1 + slots.free // 16) == 0:
                await asyncio.sleep(0)
        if load.fault is None:
            await _all_done(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await _all_done(tasks)


async def _all_done(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(set(tasks))


@dataclasses.dataclass
class ConcurrencyLimit:
    """The places of a stage: a semaphore that can say how many are free."""

    semaphore: asyncio.Semaphore
    free: int

    async def take(self) -> Callable[[], None]:
        """Wait for a place; return what gives it back, once however often it is called."""
        await self.semaphore.acquire()
        self.free -= 1
        taken = True

        def give_back() -> None:
            nonlocal taken
            if taken:
                taken = False
                self.free += 1
                self.semaphore.release()

        return give_back


async def _converse(
    planned: PlannedRequest,
    send: Send,
    record: Callable[[Result], None],
    release: Callable[[], None],
    load: Load,
) -> None:
    """Ask a question, or the turns of a conversation in their order; record a result for each."""
    messages: list[dict[str, str]] = []
    failed = False
    try:
        for turn, text in enumerate(planned.question.texts):
            messages.append({"role": "user", "content": text})
            if failed:
                result = _without_send(
                    planned, messages, Failure("turn_skipped", FAILURES["turn_skipped"])
                )
            else:
                last = turn + 1 == len(planned.question.texts)
                this_turn = (
                    planned if turn == 0 else dataclasses.replace(planned, scheduled_ns=None)
                )
                result = await _send_safely(
                    this_turn, send, list(messages), release if last else lambda: None
                )
            record(result)
            failed = not result.ok
            messages.append({"role": "assistant", "content": result.answer_text})
    except Exception as error:  # noqa: BLE001  what `record` raises ends the run, not just this task
        load.fault = load.fault or error
    finally:
        release()


async def _send_safely(
    planned: PlannedRequest, send: Send, messages: list[dict[str, str]], release: Callable[[], None]
) -> Result:
    """Send, and turn even a fault of this program into a result: one bad question never ends a run."""
    try:
        return await send(planned, messages, release)
    except asyncio.CancelledError:
        return _without_send(planned, messages, Failure("cancelled", FAILURES["cancelled"]))
    except Exception as error:
        logger.exception("question %s met a fault of this program", planned.question.id)
        return _without_send(
            planned,
            messages,
            Failure("internal", f"{type(error).__name__}: {FAILURES['internal']}"),
        )


def _without_send(
    planned: PlannedRequest, messages: list[dict[str, str]], failure: Failure
) -> Result:
    result = _new_result(planned, messages)
    result.status, result.error = _STATUS_OF_KIND.get(failure.kind, "error"), failure
    return result


# --- Self-check ---


def run_delay_ns() -> int | None:
    """Return how long this thread has been ready and waited for a processor (Linux: schedstat); None elsewhere."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None


class LagMonitor:
    """Measures how long a callback that is ready waits for the event loop: what the client adds to every time it takes.

    A thread takes the ticks of an even beat and hands each to the loop as a callback. The lag counts from the tick: it
    holds the wait for a processor, for the interpreter lock and for the loop's other work, and no timer's resolution.
    """

    BEAT_S = 0.02

    def __init__(self) -> None:
        self.lags_us: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lag", daemon=True)
        self._cpu_start, self._start_ns = time.process_time(), clock()
        self._waited_start_ns = run_delay_ns()
        self.cpu_share: float | None = None
        self.cpu_wait_share: float | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        elapsed_ns = max(clock() - self._start_ns, 1)
        self.cpu_share = (time.process_time() - self._cpu_start) * NS_PER_S / elapsed_ns
        if (waited := run_delay_ns()) is not None and self._waited_start_ns is not None:
            self.cpu_wait_share = (waited - self._waited_start_ns) / elapsed_ns
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        beat_ns = round(self.BEAT_S * NS_PER_S)
        due_ns = self._start_ns
        while True:
            due_ns += beat_ns
            if self._end.wait(max(due_ns - clock(), 0) / NS_PER_S):
                return
            try:
                self._loop.call_soon_threadsafe(self._arrived, due_ns)
            except RuntimeError:  # the loop has closed
                return

    def _arrived(self, due_ns: int) -> None:
        self.lags_us[_bucket((clock() - due_ns) // 1000)] += 1

    def to_record(self) -> dict[str, Any]:
        """Return what `meta.client` says of the loop."""
        lags = Histogram({us / 1000: times for us, times in self.lags_us.items()})
        named = {name: percentile(lags, share) for name, share in PERCENTILES.items()}
        return {
            "loop_lag_ms": {**named, "max": lags[-1] if lags else None},
            "cpu_share": self.cpu_share,
            "cpu_wait_share": self.cpu_wait_share,
        }


def _bucket(us: int) -> int:
    """Round to four digits, so that a histogram stays small."""
    return us if us < 10_000 else round(us, 4 - len(str(us)))


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Keep the garbage collector out of the measured window; a full collection would show up as the server's TTFT."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


# === Metrics ===


# --- Statistics ---


class Histogram(Sequence[float]):
    """A sorted sequence of values that is stored as value -> how often."""

    def __init__(self, counts: Mapping[float, int]) -> None:
        self.values = sorted(counts)
        self.counts = [counts[value] for value in self.values]
        self._ends = list(itertools.accumulate(self.counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        return self.values[
            bisect.bisect_right(self._ends, place if place >= 0 else len(self) + place)
        ]

    def mean(self) -> float:
        """Return the mean."""
        return math.fsum(
            value * times for value, times in zip(self.values, self.counts, strict=True)
        ) / len(self)

    def std(self) -> float:
        """Return the standard deviation of the sample."""
        mean = self.mean()
        squares = (
            (value - mean) ** 2 * times
            for value, times in zip(self.values, self.counts, strict=True)
        )
        return math.sqrt(math.fsum(squares) / (len(self) - 1))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the percentile of sorted values, with linear interpolation; None without values."""
    if not len(ordered):
        return None
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    lower, upper = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    return lower + (upper - lower) * (place - low)


@functools.lru_cache(maxsize=4096)
def interval_ranks(n: int, share: float) -> tuple[int | None, int | None]:
    """Return the places, from 0, of the two order statistics that enclose a percentile in 95 % of samples of `n`.

    None for a bound that `n` values do not support: the p99 of 20 values has no upper one. Exact binomial; each tail
    holds at most 2.5 % (Conover, Practical Nonparametric Statistics, 3.2).
    """
    tail = (1 - CONFIDENCE) / 2
    spread = 10 * math.sqrt(n * share * (1 - share)) + 10
    first = max(0, math.floor(n * share - spread))
    lower, upper, cumulated = None, None, 0.0
    for successes in range(first, min(n, math.ceil(n * share + spread)) + 1):
        cumulated += _binomial(n, successes, share)
        if cumulated <= tail:
            lower = successes  # P(at most `successes` values lie below) is small: the next one is a safe lower bound
        if cumulated >= 1 - tail:
            upper = successes if successes < n else None
            break
    return lower, upper


def _binomial(n: int, k: int, share: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def min_samples(share: float) -> int:
    """Return how many values a percentile needs for an interval with both bounds."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(share, 1 - share)))


def describe(values: Iterable[float] | Histogram, units: int | None = None) -> dict[str, Any]:
    """Return avg, std, min, max, percentiles, `n` and the percentiles' 95 % intervals; None where nothing was measured.

    `units` is the number of independent units when values of one unit hang together, as the gaps of one answer do: then
    the intervals' ranks come from the units.
    """
    ordered = values if isinstance(values, Histogram) else sorted(values)
    n = len(ordered)
    few = [None, None]
    summary: dict[str, Any] = {
        "avg": None,
        "std": None,
        "min": None,
        "max": None,
        **dict.fromkeys(PERCENTILES),
    }
    if n:
        summary |= {
            "avg": _mean(ordered),
            "std": _std(ordered) if n > 1 else None,
            "min": ordered[0],
            "max": ordered[-1],
        }
        summary |= {name: percentile(ordered, share) for name, share in PERCENTILES.items()}
    intervals = {
        name: _interval(ordered, share, n if units is None else units)
        for name, share in PERCENTILES.items()
    }
    return {**summary, "n": n, "ci95": intervals if n else dict.fromkeys(PERCENTILES, few)}


def _mean(ordered: Sequence[float]) -> float:
    return ordered.mean() if isinstance(ordered, Histogram) else statistics.fmean(ordered)


def _std(ordered: Sequence[float]) -> float:
    if isinstance(ordered, Histogram):
        return ordered.std()
    mean = statistics.fmean(ordered)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (len(ordered) - 1))


def _interval(ordered: Sequence[float], share: float, units: int) -> list[float | None]:
    n = len(ordered)
    if not n or not units:
        return [None, None]
    lower, upper = interval_ranks(units, share)
    scale = n / units
    low = None if lower is None else ordered[math.floor(lower * scale)]
    high = None if upper is None else ordered[min(n - 1, math.ceil((upper + 1) * scale) - 1)]
    return [low, high]


def _share(score: float, n: int, units: int | None = None) -> dict[str, Any]:
    """Return a mean score with its 95 % interval (Wilson 1927; for scores between 0 and 1 it is on the safe side).

    A question that is asked again brings no new question: the interval counts `units`, the different ones.
    """
    if not n:
        return {"avg": None, "n": 0, "ci95": [None, None]}
    share, z, m = score / n, 1.959964, min(n, n if units is None else units)
    middle = (share + z * z / (2 * m)) / (1 + z * z / m)
    half = z / (1 + z * z / m) * math.sqrt(share * (1 - share) / m + z * z / (4 * m * m))
    return {"avg": share, "n": n, "ci95": [max(0.0, middle - half), min(1.0, middle + half)]}


# --- Aggregates ---


class Aggregator:
    """The columns of a set of results, in flat arrays: what statistics need, and no more."""

    LATENCIES = (
        "ttft_ms",
        "tpot_ms",
        "answer_ttft_ms",
        "connect_ms",
        "queue_ms",
        "scheduled_ttft_ms",
        "scheduled_e2e_ms",
    )

    def __init__(self, slo: Slo | None = None) -> None:
        self.slo = slo or Slo()
        self.e2e_ms = array.array("d")  # these of ok requests, in one order
        self.ok_sent_ns = array.array("q")
        self.ok_tpot_ms = array.array("d")  # NaN where not measured
        self.tokens = array.array("q")
        self.columns = {
            name: array.array("d") for name in self.LATENCIES
        }  # of ok requests, where measured
        self.itl_us: Counter[int] = Counter()
        self.itl_lost = False  # some result has no record of its chunks
        self.late_e2e_ms = array.array(
            "d"
        )  # lower bounds: how long timed out requests had been waited for
        self.late_ttft_ms = array.array("d")
        self.late_with_ttft_ms = array.array("d")  # timed out, but the first token had come
        self.sent_ns = array.array("q")
        self.end_ns = array.array("q")
        self.statuses: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.finishes: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.scores: Counter[tuple[str, str]] = Counter()  # (category, what) -> sum; see _add_score
        self.scored: dict[
            str, set[str]
        ] = {}  # category -> ids of the questions that count for its accuracy

    def add(self, result: Result) -> None:
        """Add one result."""
        self.statuses[result.status] += 1
        self.sums["reconnects"] += result.reconnects
        if result.grader is not None:
            self._add_score(result)
        if result.sent_ns is not None and result.end_ns is not None:
            self.sent_ns.append(result.sent_ns)
            self.end_ns.append(result.end_ns)
        if result.ok and result.sent_ns is not None and result.end_ns is not None:
            self._add_ok(result)
        elif result.error is not None:
            self.failures[result.error.kind] += 1
            if result.status == "timeout" and result.time_ms is not None:
                self._add_late(result, result.time_ms)

    def _add_ok(self, result: Result) -> None:
        self.e2e_ms.append(cast(float, result.time_ms))
        self.ok_sent_ns.append(cast(int, result.sent_ns))
        self.ok_tpot_ms.append(math.nan if result.tpot_ms is None else result.tpot_ms)
        for name, column in self.columns.items():
            if (value := getattr(result, name)) is not None:
                column.append(value)
        gaps = result.chunk_gaps_us
        self.itl_us.update(gaps or ())
        self.itl_lost = self.itl_lost or gaps is None
        self.sources[str(result.token_source)] += 1
        self.finishes[str(result.finish_reason)] += 1
        if result.token is not None:
            self.tokens.append(result.token)
        for name in ("prompt_tokens", "cached_tokens", "reasoning_tokens"):
            if (count := getattr(result, name)) is not None:
                self.sums[name] += count
                self.sums[f"{name}_known"] += 1
        self.sums["came_at_once"] += result.came_at_once
        self.sums["good"] += self.slo.met_by(result)
        self.sums["reasoning_only"] += not result.answer_text.strip() and bool(
            result.reasoning or result.answer
        )

    def _add_score(self, result: Result) -> None:
        """Count a result that has a grader: graded, failed (wrong under load), or ungraded (neither)."""
        sums: dict[str, float] = {"ungraded": 1}
        if result.graded:
            correct = int(result.quality >= CORRECT)
            sums = {
                "graded": 1,
                "score": result.quality,
                "correct": correct,
                "tokens": result.token or 0,
            }
        elif (
            result.status == "cancelled"
            and result.error is not None
            and result.error.kind == "cancelled"
        ):
            sums = {}
        elif not result.ok:
            sums = {"failed": 1}
        category = result.category or ""
        self.scores.update({(category, name): cast(int, value) for name, value in sums.items()})
        if "graded" in sums or "failed" in sums:
            self.scored.setdefault(category, set()).add(result.id)

    def _add_late(self, result: Result, waited_ms: float) -> None:
        self.late_e2e_ms.append(waited_ms)
        if result.ttft_ms is None:
            self.late_ttft_ms.append(waited_ms)
        else:
            self.late_with_ttft_ms.append(result.ttft_ms)

    def extend(self, other: Aggregator) -> None:
        """Add the results of another tally."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, array.array):
                mine.extend(theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
        for name, column in self.columns.items():
            column.extend(other.columns[name])
        for category, ids in other.scored.items():
            self.scored.setdefault(category, set()).update(ids)
        self.itl_lost = self.itl_lost or other.itl_lost

    @property
    def window_ns(self) -> int | None:
        """From the first send to the last end."""
        return max(self.end_ns) - min(self.sent_ns) if self.sent_ns else None


def calculate_aggregates(
    results: Iterable[Result], config: Config, itl_us: Mapping[int, Mapping[int, int]] | None = None
) -> dict[str, Any]:
    """Return the `aggregate` of a results file, from the results alone, in one pass.

    `itl_us` is a histogram of the gaps between chunks for each stage, where the results do not hold them.
    """
    stages = {number: Aggregator(config.slo) for number in range(len(config.levels))}
    stability = Stability(config)
    for result in results:
        stages.setdefault(result.stage, Aggregator(config.slo)).add(result)
        stability.add(result)
    for number, counts in (itl_us or {}).items():
        stages[number].itl_us, stages[number].itl_lost = Counter(counts), False
    aggregators = [stages[number] for number in sorted(stages)]
    whole = aggregators[0]
    if len(aggregators) > 1:
        whole = Aggregator(config.slo)
        for aggregator in aggregators:
            whole.extend(aggregator)
    windows = [
        aggregator.window_ns for aggregator in aggregators if aggregator.window_ns is not None
    ]
    aggregate = _aggregate(whole, sum(windows) if windows else None, config)
    heads = [{"stage": number, "concurrent": level} for number, level in enumerate(config.levels)]
    parts = [
        head | _aggregate(aggregator, aggregator.window_ns, config)
        for head, aggregator in zip(heads, aggregators, strict=False)
    ]
    for part in parts:
        part["quality"]["stability"] = stability.describe(part["stage"])
    aggregate["stages"] = parts if len(parts) > 1 else []
    if itl_us:
        aggregate["itl_histogram_us"] = {
            str(stage): sorted(counts.items()) for stage, counts in itl_us.items()
        }
    return cast(dict[str, Any], _rounded(aggregate))


def _aggregate(aggregator: Aggregator, window_ns: int | None, config: Config) -> dict[str, Any]:
    """Return the numbers of one stage, or of all."""
    ok, requests = len(aggregator.e2e_ms), aggregator.statuses.total()
    cancelled = aggregator.statuses["cancelled"]
    failed = requests - ok - cancelled
    window_s = None if not window_ns else window_ns / NS_PER_S
    runtime, tokens = describe(aggregator.e2e_ms), aggregator.tokens
    itl = Histogram({us / 1000: times for us, times in aggregator.itl_us.items()})
    return {
        "runtime_sum": math.fsum(aggregator.e2e_ms) if ok else None,
        "runtime_avg": runtime["avg"],
        "runtime_min": runtime["min"],
        "runtime_max": runtime["max"],
        "token_sum": sum(tokens) if tokens else None,
        "token_avg": sum(tokens) / len(tokens) if tokens else None,
        "token_min": min(tokens, default=None),
        "token_max": max(tokens, default=None),
        "requests": requests,
        "ok": ok,
        "failed": failed,
        "error_rate": failed / (ok + failed) if ok + failed else None,
        "duration_ms": None if window_ns is None else window_ns / NS_PER_MS,
        "requests_per_s": ok / window_s if window_s else None,
        "tokens_per_s": sum(tokens) / window_s if window_s and tokens else None,
        "ttft_ms": describe(aggregator.columns["ttft_ms"]),
        "tpot_ms": describe(aggregator.columns["tpot_ms"]),
        "itl_ms": describe(Histogram({}) if aggregator.itl_lost else itl, units=ok),
        "e2e_ms": runtime,
        "goodput_per_s": aggregator.sums["good"] / window_s
        if window_s and config.slo != Slo()
        else None,
        "quality": _quality(aggregator, window_s, config),
        "energy": None,
        "stages": [],
        "cancelled": cancelled,
        "failures": dict(aggregator.failures.most_common()),
        **{name: describe(aggregator.columns[name]) for name in Aggregator.LATENCIES[2:]},
        "ttft_with_timeouts_ms": _censored(
            [*aggregator.columns["ttft_ms"], *aggregator.late_with_ttft_ms], aggregator.late_ttft_ms
        ),
        "e2e_with_timeouts_ms": _censored(aggregator.e2e_ms, aggregator.late_e2e_ms),
        "drain_ms": _drain_ms(aggregator),
        "drift": _drift(aggregator),
        "good": aggregator.sums["good"] if config.slo != Slo() else None,
        "token_sources": dict(aggregator.sources),
        "finish_reasons": dict(aggregator.finishes.most_common()),
        "prompt_tokens_sum": _known(aggregator, "prompt_tokens"),
        "cached_tokens_sum": _known(aggregator, "cached_tokens"),
        "reasoning_tokens_sum": _known(aggregator, "reasoning_tokens"),
        "reasoning_only": aggregator.sums["reasoning_only"],
        "came_at_once": aggregator.sums["came_at_once"],
        "reconnects": aggregator.sums["reconnects"],
    }


def _quality(aggregator: Aggregator, window_s: float | None, config: Config) -> dict[str, Any]:
    """Return how good the answers were: of those that came, and under load, where a failed request counts as wrong."""
    categories = sorted({category for category, _ in aggregator.scores})
    sums = Counter[str]()
    for (_, name), value in aggregator.scores.items():
        sums[name] += value
    correct, price = sums["correct"], config.hardware.price_per_hour
    whole = _accuracy(sums, sum(map(len, aggregator.scored.values())))
    return {
        "avg": whole["of_answers"]["avg"],
        **whole,
        "correct_per_s": correct / window_s if window_s and whole["graded"] else None,
        "tokens_per_correct": sums["tokens"] / correct if correct else None,
        "price_per_correct": price * window_s / 3600 / correct
        if price and window_s and correct
        else None,
        "wh_per_correct": None,
        "categories": {
            category or "none": _accuracy(
                {name: aggregator.scores[category, name] for name in sums},
                len(aggregator.scored.get(category, ())),
            )
            for category in categories
        },
        "stability": None,
    }


def _accuracy(sums: Mapping[str, int], questions: int) -> dict[str, Any]:
    """Return the mean scores; `questions` is how many different ones they come from, which is what intervals count."""
    graded, failed, score = (sums.get(name, 0) for name in ("graded", "failed", "score"))
    return {
        "graded": graded,
        "ungraded": sums.get("ungraded", 0),
        "correct": sums.get("correct", 0),
        "of_answers": _share(score, graded, questions),
        "under_load": _share(score, graded + failed, questions),
    }


class Stability:
    """Holds a sweep's answers against those at its lowest concurrency: the same question at temperature 0."""

    SHOWN = 3
    SHOWN_CHARS = 200

    def __init__(self, config: Config) -> None:
        self.levels = config.levels
        self.used = len(config.levels) > 1 and config.temperature == 0 and config.duration is None
        self._answers: dict[int, dict[tuple[int, int], tuple[str, bytes, str]]] = {}
        self._first: dict[int, int] = {}  # the index at which a stage begins

    def add(self, result: Result) -> None:
        """Keep a fingerprint of an answer, and its beginning."""
        if not self.used:
            return
        self._first[result.stage] = min(result.index, self._first.get(result.stage, result.index))
        if result.ok:
            digest = hashlib.blake2b(result.answer.encode(), digest_size=8).digest()
            kept = (result.id, digest, result.answer[: self.SHOWN_CHARS])
            self._answers.setdefault(result.stage, {})[result.index, result.turn] = kept

    def describe(self, stage: int) -> dict[str, Any] | None:
        """Return which share of the answers differs from the lowest level's, with examples; None at that level."""
        lowest = self.levels.index(min(self.levels))
        if not self.used or stage == lowest:
            return None
        base, examples, compared, differs = (
            self._answers.get(lowest, {}),
            list[dict[str, str]](),
            0,
            0,
        )
        shift = self._first.get(lowest, 0) - self._first.get(
            stage, 0
        )  # each stage asks the same questions in order
        for (index, turn), (name, digest, answer) in self._answers.get(stage, {}).items():
            before = base.get((index + shift, turn))
            if before is not None:
                compared += 1
                differs += before[1] != digest
                if before[1] != digest and len(examples) < self.SHOWN:
                    examples.append({"id": name, "lowest": before[2], "here": answer})
        return {
            "concurrent": self.levels[lowest],
            "differs": differs,
            **_share(differs, compared),
            "examples": examples,
        }


def _known(aggregator: Aggregator, name: str) -> int | None:
    return aggregator.sums[name] if aggregator.sums[f"{name}_known"] else None


def _censored(values: Iterable[float], bounds: Sequence[float]) -> dict[str, Any]:
    """Return percentiles over values and over requests that timed out, of which only a lower bound is known.

    A percentile that lies at or above the lowest bound is itself a lower bound, and named in `lower_bounds`.
    """
    ordered = sorted([*values, *bounds])
    named = {name: percentile(ordered, share) for name, share in PERCENTILES.items()}
    lowest, last = min(bounds, default=math.inf), len(ordered) - 1
    at_least = [
        name
        for name, share in PERCENTILES.items()
        if ordered and ordered[min(math.ceil(share * last), last)] >= lowest
    ]
    return {**named, "n": len(ordered), "timeouts": len(bounds), "lower_bounds": at_least}


def _drain_ms(aggregator: Aggregator) -> float | None:
    """Return how long the last requests ran on after the first slot had nothing left to do."""
    if not aggregator.sent_ns:
        return None
    last_sent = max(aggregator.sent_ns)
    return (
        max(aggregator.end_ns) - min(end for end in aggregator.end_ns if end >= last_sent)
    ) / NS_PER_MS


def _drift(aggregator: Aggregator) -> dict[str, Any] | None:
    """Compare the median of the first half of the requests with the second half's.

    Of TPOT, because it does not depend on which questions stand in which half; without streaming of E2E.
    """
    metric = "e2e_ms" if all(map(math.isnan, aggregator.ok_tpot_ms)) else "tpot_ms"
    values = aggregator.e2e_ms if metric == "e2e_ms" else aggregator.ok_tpot_ms
    order = [place for place in range(len(values)) if not math.isnan(values[place])]
    if len(order) < 2 * min_samples(0.5):
        return None
    order.sort(key=aggregator.ok_sent_ns.__getitem__)
    middle = len(order) // 2
    halves = [
        describe(values[place] for place in part) for part in (order[:middle], order[middle:])
    ]
    (first, second), (first_ci, second_ci) = (
        [half["p50"] for half in halves],
        [half["ci95"]["p50"] for half in halves],
    )
    apart = first_ci[1] < second_ci[0] or second_ci[1] < first_ci[0]
    ratio = second / first if first else None
    return {
        "metric": metric,
        "first_half_ms": first,
        "second_half_ms": second,
        "ratio": ratio,
        "apart": apart,
    }


def _rounded(value: Any) -> Any:
    """Round to nanoseconds, so that a sum's last bits do not end up in files."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=1)
def empty_aggregate() -> dict[str, Any]:
    """Return the aggregate of no results: every metric's name, and nothing measured."""
    return calculate_aggregates([], Config(server="embedded", model="none"))


_ABSENT = object()


def _metric(aggregate: Mapping[str, Any], name: str) -> Any:
    """Look a metric up by its name, such as ttft_ms.p95."""
    value: Any = aggregate
    for key in name.split("."):
        value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value if value is None or isinstance(value, int | float) else _ABSENT


def _metric_names(aggregate: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = list[str]()
    for key, value in aggregate.items():
        if isinstance(value, Mapping):
            names += _metric_names(value, f"{prefix}{key}.")
        elif _metric({key: value}, key) is not _ABSENT:
            names.append(prefix + key)
    return names


class ThresholdCheck(NamedTuple):
    """A threshold of config.json, and what became of it."""

    metric: str
    condition: str
    value: float | None
    met: bool


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
}


def check_thresholds(config: Config, aggregate: Mapping[str, Any]) -> list[ThresholdCheck]:
    """Hold the aggregate against the thresholds; what was not measured is missed."""
    checks = []
    for metric, condition in config.thresholds.items():
        sign, limit = cast(re.Match[str], re.match(r"\s*([<>]=?)\s*(.*\S)", condition)).groups()
        value = _metric(aggregate, metric)
        checks.append(
            ThresholdCheck(
                metric,
                f"{sign} {limit}",
                value,
                value is not None and _COMPARE[sign](value, float(limit)),
            )
        )
    return checks


# --- Validity ---


VERDICTS = ("VALID", "SUSPECT", "INVALID")
JUDGED_FROM_MS = 2000


class Reason(NamedTuple):
    """Why a run's numbers deserve less trust: how much less, a code for programs, what to do for people."""

    verdict: str
    code: str
    message: str


def judge_validity(config: Config, aggregate: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """Return the verdict over a run and its reasons."""
    reasons = [
        reason for rule in VALIDITY_RULES if (reason := rule(config, aggregate, load)) is not None
    ]
    worst = max((VERDICTS.index(reason.verdict) for reason in reasons), default=0)
    return {
        "verdict": VERDICTS[worst],
        "reasons": [{"code": r.code, "message": r.message} for r in reasons],
    }


def _interrupted(_config: Config, _aggregate: Mapping[str, Any], load: Load) -> Reason | None:
    return (
        Reason("SUSPECT", "interrupted", "stopped before its end; --resume goes on with it")
        if load.interrupted
        else None
    )


def _resumed(_config: Config, _aggregate: Mapping[str, Any], load: Load) -> Reason | None:
    if load.resumed is None:
        return None
    message = f"an earlier part of it was {load.resumed}; how busy this client was then is not in the verdict"
    return Reason("SUSPECT", "resumed", message)


def _no_answers(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    if aggregate["ok"]:
        return None
    failures = (
        ", ".join(f"{kind} {times}×" for kind, times in aggregate["failures"].items())
        or "nothing was asked"
    )
    return Reason(
        "INVALID", "no_answers", f"no request succeeded: {failures}; see `error` in the results"
    )


def _failures(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    rate = aggregate["error_rate"]
    if not aggregate["ok"] or not rate or rate < 0.01:
        return None
    kinds = ", ".join(f"{kind} {times}×" for kind, times in aggregate["failures"].items())
    advice = "latencies are of the survivors; look into the failures, or lower the load"
    return Reason(
        "INVALID" if rate >= 0.5 else "SUSPECT",
        "failures",
        f"{rate:.1%} of the requests failed ({kinds}); {advice}",
    )


def _too_few(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    fewest = min((part["ok"] for part in aggregate["stages"] or [aggregate]), default=0)
    wanted = min_samples(PERCENTILES["p95"])
    if fewest >= wanted or not aggregate["ok"]:
        return None
    where = " in a stage" if aggregate["stages"] else ""
    message = f"{fewest} answers{where} do not support a p95: ask {wanted - fewest} more"
    return Reason("SUSPECT", "too_few_requests", message)


def _client_saturated(_config: Config, aggregate: Mapping[str, Any], load: Load) -> Reason | None:
    lag, cpu = load.client["loop_lag_ms"], load.client["cpu_share"]
    shortest = [
        value for value in (aggregate["ttft_ms"]["p50"], aggregate["e2e_ms"]["p50"]) if value
    ]
    lag_ms, floor_ms = lag["p95"] or 0.0, 0.05 * min(shortest, default=math.inf)
    if (aggregate["duration_ms"] or 0) < JUDGED_FROM_MS:
        return None
    waits = load.client.get("cpu_wait_share") or 0.0
    starved = waits >= 0.1 and waits >= 0.4 * (
        waits + cpu
    )  # of the time in which it had work, it got no processor
    if cpu < 0.9 and lag_ms <= max(5.0, floor_ms) and not starved:
        return None
    bad = lag_ms > max(20.0, 4 * floor_ms) or cpu >= 0.98 or starved
    message = (
        f"this client was the bottleneck: its event loop lagged {lag_ms:.1f} ms (p95), its process used {cpu:.0%} of a "
        f"core and waited for one {waits:.0%} of the time; lower the load, or give it a core of its own"
    )
    return Reason("INVALID" if bad else "SUSPECT", "client_saturated", message)


def _too_short(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    # A burst keeps any client busy, and a few ticks of the lag monitor prove nothing.
    if not aggregate["ok"] or (aggregate["duration_ms"] or 0) >= JUDGED_FROM_MS:
        return None
    message = f"it ran for {format_ms(aggregate['duration_ms'])}, too short to tell how busy this client was: ask more questions"
    return Reason("SUSPECT", "too_short", message)


def _buffered(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    at_once = aggregate["came_at_once"]
    if not at_once or at_once / aggregate["ok"] < 0.5:
        return None
    message = f"{at_once} streamed answers came in one piece: TTFT is their E2E; look for a proxy that buffers"
    return Reason("SUSPECT", "stream_buffered", message)


def _rate_missed(config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    late_ms, duration_ms = aggregate["queue_ms"]["p95"], aggregate["duration_ms"]
    if config.rate is None or not late_ms or late_ms <= max(0.05 * (duration_ms or 0), 50):
        return None
    message = (
        f"requests were sent up to {format_ms(late_ms)} (p95) behind the schedule, because `concurrent` were in flight: the "
        "server does not keep up with the rate, or the cap is too low; judge by the latencies from the schedule"
    )
    return Reason("SUSPECT", "rate_missed", message)


def _cached(config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    parts = aggregate["stages"] or [aggregate]
    shares = [
        (part["cached_tokens_sum"] or 0) / part["prompt_tokens_sum"]
        for part in parts
        if part["prompt_tokens_sum"]
    ]
    worst, advice = (
        max(shares, default=0.0),
        "look into it" if config.cache_bust else "set cache_bust",
    )
    if worst >= 0.5:
        where = " of a stage" if len(parts) > 1 else ""
        message = f"{worst:.0%} of the prompt tokens{where} came from a cache, so TTFT is flattered; {advice}"
        return Reason("SUSPECT", "prompt_cache", message)
    known = all(part["cached_tokens_sum"] is not None for part in parts if part["ok"])
    if len(parts) > 1 and not known and not config.cache_bust and aggregate["ok"]:
        message = "each stage asks the same prompts, and the server does not say what came from its cache; set cache_bust"
        return Reason("SUSPECT", "prompt_cache", message)
    return None


def _estimated_tokens(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    chunks = aggregate["token_sources"].get("chunks", 0)
    if not chunks:
        return None
    message = f"the server gave no usage for {chunks} answers; their tokens are counted as chunks, which may hold several"
    return Reason("SUSPECT", "tokens_estimated", message)


def _cut_answers(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    cut = aggregate["finish_reasons"].get("length", 0)
    if not aggregate["ok"] or cut / aggregate["ok"] < 0.5:
        return None
    message = f"{cut} of {aggregate['ok']} answers were cut at max_tokens: lengths and quality are not the model's; raise it"
    return Reason("SUSPECT", "answers_cut", message)


def _reasoning_only(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    only = aggregate["reasoning_only"]
    if not only or only / aggregate["ok"] < 0.05:
        return None
    return Reason(
        "SUSPECT",
        "reasoning_only",
        f"{only} answers hold reasoning and nothing else; raise max_tokens",
    )


def _drifting(_config: Config, aggregate: Mapping[str, Any], _load: Load) -> Reason | None:
    parts = [part["drift"] for part in aggregate["stages"] or [aggregate] if part["drift"]]
    worst = max(
        (part for part in parts if part["apart"]),
        key=lambda part: abs(math.log(part["ratio"])),
        default=None,
    )
    if worst is None or 1 / 1.2 < worst["ratio"] < 1.2:
        return None
    message = (
        f"the median {_SHOWN[worst['metric']]} went from {format_ms(worst['first_half_ms'])} in the first half to "
        f"{format_ms(worst['second_half_ms'])} in the second; use warmup, or run longer"
    )
    return Reason("SUSPECT", "drift", message)


def _clock_jump(_config: Config, _aggregate: Mapping[str, Any], load: Load) -> Reason | None:
    if abs(load.clock_jump_s) < 1:
        return None
    what = "the machine slept, or the clock was set; run again"
    message = f"the wall clock moved {load.clock_jump_s:+.1f} s against the monotonic one: {what}"
    return Reason("SUSPECT", "clock_jump", message)


VALIDITY_RULES: tuple[Callable[[Config, Mapping[str, Any], Load], Reason | None], ...] = (
    _interrupted,
    _resumed,
    _no_answers,
    _failures,
    _client_saturated,
    _too_short,
    _too_few,
    _rate_missed,
    _buffered,
    _cut_answers,
    _reasoning_only,
    _cached,
    _estimated_tokens,
    _drifting,
    _clock_jump,
)


# === Output ===


# --- Journal ---


def check_name(name: str) -> str:
    """Return an output name without `.json` and a leading `./`. Raises ConfigError for what no file can be called."""
    bare = name.removeprefix("./").removesuffix(".json")
    problem = None
    if not bare or bare.strip(". ") == "":
        problem = "is empty"
    elif "/" in bare or "\\" in bare or bare.startswith(".."):
        problem = "must be a name, not a path; --results-dir says where it goes"
    elif _UNPRINTABLE.search(bare):
        problem = "holds control characters"
    elif len(os.fsencode(bare)) > 200:
        problem = "is longer than 200 bytes"
    elif bare != bare.strip() or bare.endswith(".") or bare.startswith((".", "-")):
        problem = "must not begin with a dot, a dash or a space, nor end with a dot or a space"
    elif re.search(r'[<>:"|?*]', bare) or re.fullmatch(
        r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", bare
    ):
        problem = "is reserved on some systems"
    if problem is not None:
        raise ConfigError(
            f"output name {json.dumps(printable(name, 60), ensure_ascii=False)}: {problem}"
        )
    return bare


class Journal:
    """results/NAME.journal: a JSON object a line, each with a sequence number and a CRC-32 of all that follows it.

    A line is the system's when `append` returns (a killed process loses nothing), and on the disk a second later (a
    killed machine loses no more than that second). Its lock keeps a second run away.
    """

    SYNC_S = 0.5

    def __init__(self, path: Path, fd: int, seq: int = 0) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self._fd, self._seq, self._dirty = fd, seq, False
        self._end = threading.Event()
        self._fault: OSError | None = None
        self._syncer = threading.Thread(target=self._sync, name="fsync", daemon=True)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Start a journal that is not there yet. Raises FileExistsError, ResultsError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            fd = os.open(path, flags, 0o644)
        except FileExistsError:
            raise
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror}") from None
        _lock(fd)
        return cls(path, fd)

    @classmethod
    def reopen(cls, path: Path) -> tuple[Self, JournalReader]:
        """Go on with a journal; what a crash left unfinished at its end is cut off. Raises ConfigError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise ConfigError(f"{path}: no run to go on with: {error.strerror}") from None
        if not _lock(fd):
            os.close(fd)
            raise ConfigError(f"{path}: its run is still in progress; wait, or choose another name")
        reader = JournalReader(path)
        if reader.header is None:
            os.close(fd)
            raise ConfigError(
                f"{path}: is not a journal, or was lost from its first line on; choose another name"
            )
        os.ftruncate(fd, reader.good_bytes)
        journal = cls(path, fd, reader.lines)
        journal.header = reader.header
        return journal, reader

    def __enter__(self) -> Self:
        self._syncer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._syncer.join()
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)

    @contextlib.contextmanager
    def kept_when_saving_fails(self, answers: int) -> Iterator[None]:
        """Say where the answers still are, when the block raises ResultsError."""
        try:
            yield
        except ResultsError as error:
            kept = f"{answers} finished answers are kept in {self.path}; make room and go on with --resume"
            raise ResultsError(f"{error}; {kept}") from None

    def discard(self) -> None:
        """Close and remove a journal that was not begun."""
        os.close(self._fd)
        self.path.unlink(missing_ok=True)

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write one line whole, or raise ResultsError and leave the journal as it was."""
        if self._fault is not None:
            raise self._failed(self._fault)
        line = journal_line(self._seq, kind, content)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:] if written else line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise self._failed(error) from None
        self._seq += 1
        self._dirty = True

    def _failed(self, error: OSError) -> ResultsError:
        kept = f"{self._seq - 1} finished answers are kept in it; make room and go on with --resume"
        if self._seq == 0:
            kept = "nothing was asked; make room"
        return ResultsError(f"{self.path}: cannot be written: {error.strerror}; {kept}")

    def _sync(self) -> None:
        """Bring the lines to the disk, off the event loop."""
        while not self._end.wait(self.SYNC_S):
            if self._dirty:
                self._dirty = False
                try:
                    os.fsync(self._fd)
                except OSError as error:
                    self._fault = error


def journal_line(seq: int, kind: str, content: Mapping[str, Any]) -> bytes:
    """Return a line of the journal: `{"crc":"…",` and the rest, over which the CRC-32 goes."""
    rest = pydantic_core.to_json(
        {"seq": seq, "kind": kind, "content": content}, inf_nan_mode="null"
    )[1:]
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(rest), rest)


def _lock(fd: int) -> bool:
    """Take the file's lock, which ends with the process; False when somebody has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        logger.warning("no lock: %s", error)
    return True


class JournalReader:
    """A journal up to its last good line; the results in the order of the run, and of each place the last one."""

    PAGES_EACH = 20_000  # lines

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] | None = None
        self.footer: dict[str, Any] | None = None
        self.lines = self.good_bytes = 0
        self._keys, self._offsets = array.array("q"), array.array("q")
        self._grades: dict[int, int] = {}  # place -> offset of its last grade
        self._map = self._open()
        self.lost_bytes = len(self._map) - self.good_bytes
        self._order: Sequence[int] = self._latest()

    def _open(self) -> mmap.mmap | bytes:
        """Map the file and find its good lines. Raises ResultsError."""
        try:
            with self.path.open("rb") as file:
                data: mmap.mmap | bytes = (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    if os.fstat(file.fileno()).st_size
                    else b""
                )
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be read: {error.strerror}") from None
        while (end := data.find(b"\n", self.good_bytes)) >= 0:
            entry = read_journal_line(data[self.good_bytes : end], self.lines)
            if entry is None or (self.lines == 0) != (entry["kind"] == "header"):
                break
            self._take(entry)
            self.lines, self.good_bytes = self.lines + 1, end + 1
            if self.lines % self.PAGES_EACH == 0:
                self._forget_pages(data)
        return data

    @staticmethod
    def _forget_pages(data: mmap.mmap | bytes) -> None:
        """Give read pages back: the kernel counts those of a map as this process's memory."""
        if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            data.madvise(mmap.MADV_DONTNEED)

    def _take(self, entry: dict[str, Any]) -> None:
        content = entry["content"]
        if entry["kind"] == "result":
            self.footer = None  # that of an earlier part of the run
            self._keys.append(content["index"] << 16 | content["turn"])
            self._offsets.append(self.good_bytes)
        elif entry["kind"] == "grade":
            self._grades[content["index"] << 16 | content["turn"]] = self.good_bytes
        elif entry["kind"] == "header":
            self.header = content
        elif entry["kind"] == "footer":
            self.footer = content

    def _latest(self) -> Sequence[int]:
        """Return the results' line numbers in the order of the run; a place asked anew by --resume counts once."""
        keys = self._keys
        order: Sequence[int] = range(len(keys))
        if any(later <= earlier for earlier, later in itertools.pairwise(keys)):
            by_key = sorted(order, key=keys.__getitem__)
            order = array.array(
                "q",
                (
                    place
                    for place, after in itertools.zip_longest(
                        by_key, itertools.islice(by_key, 1, None)
                    )
                    if after is None or keys[place] != keys[after]
                ),
            )
        return order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Result]:
        return map(Result.from_record, self.records())

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the results as they stand in the file, each with its grade."""
        for read, place in enumerate(self._order):
            if read % self.PAGES_EACH == 0:
                self._forget_pages(self._map)
            record = self._content(self._offsets[place])
            if (offset := self._grades.get(self._keys[place])) is not None:
                grade = self._content(offset)
                graded = grade["score"] is not None
                record |= {
                    "quality": grade["score"] if graded else 0.0,
                    "graded": graded,
                    "grade_reason": grade["reason"],
                }
            yield record

    def _content(self, offset: int) -> dict[str, Any]:
        line = self._map[offset : self._map.find(b"\n", offset)]
        return cast(dict[str, Any], pydantic_core.from_json(line)["content"])

    def finished(self, questions: Sequence[Question]) -> frozenset[int]:
        """Return the places of the questions that need not be asked again: each of their turns has ended by itself."""
        ended = Counter[int]()
        for record in self.records():
            if record["error"] is None or record["error"]["kind"] != "cancelled":
                ended[record["index"]] += 1
        turns = [len(question.texts) for question in questions]
        return frozenset(
            place
            for place, times in ended.items()
            if times == turns[place % (1 << 32) % len(turns)]
        )


def read_journal_line(line: bytes, seq: int) -> dict[str, Any] | None:
    """Return a journal line's object; None when it is damaged or not the one expected here."""
    if len(line) < 18 or not line.startswith(b'{"crc":"') or line[16:18] != b'",':
        return None
    if b"%08x" % zlib.crc32(line[18:]) != line[8:16]:
        return None
    try:
        entry = pydantic_core.from_json(b"{" + line[18:])
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.get("seq") == seq else None


# --- Results files ---


def save_results(
    path: Path,
    meta: Mapping[str, Any],
    results: Iterable[Result],
    aggregate: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a results file so that it is whole or not there, and return where it is.

    It is written beside its place, flushed, its size checked, and put in place in one step. A file that is there
    already is kept, and the new one gets a time stamp, unless `overwrite` is true. Raises ResultsError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in path.parent.iterdir():
            if (
                left.name.startswith(f".{path.name}.") and left.suffix == ".tmp"
            ):  # by a run that was killed here
                left.unlink()
        with temporary.open("xb") as file:
            size = _write_results(file, meta, results, aggregate)
            file.flush()
            os.fsync(file.fileno())
        if temporary.stat().st_size != size:
            raise OSError(0, f"only {temporary.stat().st_size} of {size} bytes were written")
        path = _put_in_place(temporary, path, overwrite=overwrite)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _write_results(
    file: Any, meta: Mapping[str, Any], results: Iterable[Result], aggregate: Mapping[str, Any]
) -> int:
    """Write the parts, a result a line, and return how many bytes that were."""
    size = file.write(b'{\n"meta": ' + _indented(meta) + b',\n"results": [')
    separator = b"\n"
    for result in results:
        size += file.write(
            separator + pydantic_core.to_json(result.to_record(), inf_nan_mode="null")
        )
        separator = b",\n"
    return cast(int, size + file.write(b'\n],\n"aggregate": ' + _indented(aggregate) + b"\n}\n"))


def _indented(value: Mapping[str, Any]) -> bytes:
    return pydantic_core.to_json(value, indent=1, inf_nan_mode="null")


def _put_in_place(temporary: Path, path: Path, *, overwrite: bool) -> Path:
    """Give the finished file its name; never that of another file, unless it may be replaced."""
    if overwrite:
        temporary.replace(path)
        return path
    for candidate in _candidates(path):
        try:
            os.link(temporary, candidate)
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            if os.path.lexists(candidate):
                continue
            temporary.rename(candidate)
            return candidate
        temporary.unlink()
        return candidate
    raise AssertionError("unreachable")


def _candidates(path: Path) -> Iterator[Path]:
    """Yield the name, then the name with a time stamp, then with a number as well."""
    yield path
    stamped = f"{path.stem}_{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}"
    yield path.with_name(stamped + path.suffix)
    for number in itertools.count(2):
        yield path.with_name(f"{stamped}-{number}{path.suffix}")


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A results file: `meta` and `aggregate` as they stand there, and the results."""

    path: Path
    meta: dict[str, Any]
    results: list[Result]
    aggregate: dict[str, Any]
    records: list[dict[str, Any]]  # the results as they stand in the file

    @property
    def config(self) -> Config:
        """The configuration that the run had."""
        return Config.model_validate(self.meta["config"])

    @property
    def itl_us(self) -> dict[int, dict[int, int]] | None:
        """The histogram of the gaps between chunks for each stage, where the results do not hold them."""
        stages = self.aggregate.get("itl_histogram_us") or {}
        return {
            int(stage): {int(us): times for us, times in pairs} for stage, pairs in stages.items()
        } or None


def load_results(path: Path) -> SavedRun:
    """Read a results file. Raises ConfigError, one line, also for a format that this version does not know."""
    data = read_json(path, ConfigError)
    if not isinstance(data, dict) or not {"meta", "results", "aggregate"} <= data.keys():
        raise ConfigError(f"{path}: is not a results file: it has no meta, results and aggregate")
    version = data["meta"].get("schema_version") if isinstance(data["meta"], dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: has schema_version {printable(version, 20)}; this version reads {SCHEMA_VERSION}"
        )
    try:
        results = [Result.from_record(record) for record in data["results"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: results: an entry is damaged: {type(error).__name__}: {error}"
        ) from None
    return SavedRun(path, data["meta"], results, data["aggregate"], data["results"])


def find_results(name: str, folder: Path | None = None) -> Path:
    """Return the results file that a person means: a path, or the name of a run. Raises ConfigError."""
    given = Path(name)
    folder = folder or find_file(None, "config.json").parent / "results"
    for path in (given, folder / f"{name.removesuffix('.json')}.json"):
        if path.is_file():
            return path
    journal = folder / f"{name.removesuffix('.json')}.journal"
    hint = (
        f"; {journal} holds an unfinished run: go on with {name} --resume"
        if journal.is_file()
        else ""
    )
    raise ConfigError(f"{printable(name, 200)}: no such run in {folder}{hint}")


def run_meta(
    config: Config,
    target: Target,
    load: Load,
    aggregate: Mapping[str, Any],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the `meta` of a results file. The wall clock was read once, at the start; the rest is monotonic."""
    started = dt.datetime.fromisoformat(header["started"])
    total_ms = (load.ended_ns - load.start_ns) / NS_PER_MS
    ended = load.begun + dt.timedelta(microseconds=(load.ended_ns - load.begun_ns) // 1000)
    return {
        **_dates("start", started),
        **_dates("end", ended),
        "server": header["server"],
        "model": config.model,
        "concurrent": config.concurrent,
        "questions": header["questions"],
        "timeout": config.timeout,
        "total_duration_ms": round(total_ms, 3),
        "schema_version": SCHEMA_VERSION,
        "status": "interrupted" if load.interrupted else "complete",
        "validity": judge_validity(config, aggregate, load),
        "run_id": header["run_id"],
        "config": header["config"],
        "questions_sha256": header["questions_sha256"],
        "client": {**header["client"], **_rounded(load.client)},
        "hardware": None,
        "utc_offset": started.strftime("%z"),
        "warmup": dict(load.warmup),
        "resumed": load.resumed,
        "tls_verified": target.tls is not False if config.server.startswith("https") else None,
        "embedded": target.embedded,
        "thresholds": [check._asdict() for check in check_thresholds(config, aggregate)],
    }


def _dates(prefix: str, moment: dt.datetime) -> dict[str, str]:
    return {
        f"{prefix}_date": f"{moment:%Y-%m-%d}",
        f"{prefix}_time": f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}",
    }


def _without_passwords(config: Config) -> dict[str, Any]:
    """Return the config with no URL's user part."""
    shown = config.model_dump()
    links = (
        (shown, "server"),
        (shown, "proxy"),
        (shown["judge"], "server"),
        (shown["hardware"], "metrics_url"),
    )
    for part, key in links:
        if part is not None and part[key] is not None:
            part[key] = _without_password(part[key])
    return shown


def journal_header(config: Config, target: Target, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the journal's first line: what was to be run, without secrets."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": str(uuid.uuid4()),
        "started": dt.datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "server": target.redact(target.shown),
        "questions": len(questions),
        "config": target.redact.tree(_without_passwords(config)),
        "questions_sha256": questions_hash(questions),
        "seed": random.getrandbits(32) if config.seed is None else config.seed,
        "client": {
            "version": __version__,
            "python": platform.python_version(),
            "aiohttp": aiohttp.__version__,
            "platform": platform.platform(),
            "host": platform.node(),
            "cpus": os.cpu_count(),
        },
    }


# --- Log ---


class _LineFormatter(logging.Formatter):
    """One record a line: date, time with ms, level, message. Nothing that a server sent can begin or hide a line."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self.redact = redact

    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created).astimezone()
        line = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} {record.levelname} {record.getMessage()}"
        if record.exc_info:
            line += " traceback=" + json.dumps(self.formatException(record.exc_info))
        return printable(self.redact(line), 20_000)


def logfmt(**values: Any) -> str:
    """Return key=value pairs for the log; a value with spaces is quoted as JSON does it."""
    return " ".join(f"{key}={_field(value)}" for key, value in values.items() if value is not None)


def _field(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)


@contextlib.contextmanager
def early_log() -> Iterator[logging.handlers.MemoryHandler]:
    """Keep what is logged before there is a log file."""
    memory = logging.handlers.MemoryHandler(10_000, flushLevel=100, flushOnClose=False)
    logging.raiseExceptions = False  # a full disk costs the log, not the run
    logger.setLevel(logging.DEBUG)
    logger.addHandler(memory)
    logger.propagate = False
    try:
        yield memory
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # what a full disk kept it from writing
                handler.close()


def open_log(
    memory: logging.handlers.MemoryHandler, folder: Path, name: str, level: str, redact: Redactor
) -> Path:
    """Start the run's log file with what was logged before. Raises ResultsError."""
    path = folder / f"{name}_{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror}") from None
    handler.setFormatter(_LineFormatter(redact))
    handler.setLevel(level)
    for record in memory.buffer:
        if record.levelno >= handler.level:
            handler.handle(record)
    logger.setLevel(level)
    logger.removeHandler(memory)
    logger.addHandler(handler)
    return path


def log_result(result: Result) -> None:
    """Log a request: failures as warnings, the others for DEBUG."""
    level = logging.DEBUG if result.ok or result.status == "cancelled" else logging.WARNING
    if logger.isEnabledFor(level):
        error = result.error
        text = logfmt(
            id=result.id,
            index=result.index,
            stage=result.stage,
            status=result.status,
            time_ms=result.time_ms,
            ttft_ms=result.ttft_ms,
            token=result.token,
            finish=result.finish_reason,
            kind=error and error.kind,
            http_status=error and error.http_status,
            message=error and error.message,
        )
        logger.log(level, "request %s", text)


def notice(message: str) -> None:
    """Say something on stderr, in one line that is safe to show."""
    logger.warning("%s", message)
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(message, 1000) + "\n")


# --- Terminal ---


class Progress:
    """Shows how far the load is on stderr: a bar on a terminal, a plain line now and then without one."""

    PLAIN_S = 10.0
    TERMINAL_S = 0.25

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.ok = self.failed = self.tokens = 0
        self.start_ns = clock()

    def add(self, result: Result) -> None:
        """Count a result."""
        if result.ok:
            self.ok += 1
            self.tokens += result.token or 0
        elif result.status != "cancelled":
            self.failed += 1

    @contextlib.asynccontextmanager
    async def shown(self, *, quiet: bool) -> AsyncIterator[None]:
        """Show it while the block runs."""
        if quiet:
            yield
            return
        import rich.progress  # noqa: F401, PLC0415  here, because it takes a while: not in the measured window

        self.start_ns = clock()
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        ticker = asyncio.create_task(self._show_bar() if terminal else self._show_lines())
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.wait((ticker,))

    @property
    def speed(self) -> float:
        """Output tokens of finished answers per second so far."""
        return self.tokens / max((clock() - self.start_ns) / NS_PER_S, 1e-9)

    async def _show_lines(self) -> None:
        while True:
            await asyncio.sleep(self.PLAIN_S)
            of = "" if self.total is None else f" of {self.total}"
            text = f"{self.ok + self.failed}{of} answered, {self.failed} failed, {self.speed:.0f} tokens/s"
            with contextlib.suppress(OSError):
                sys.stderr.write(text + "\n")

    async def _show_bar(self) -> None:
        import rich.progress  # noqa: PLC0415

        columns = (
            rich.progress.SpinnerColumn(style="cyan"),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=30, complete_style="cyan", finished_style="green"),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn(" {task.fields[counts]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("ETA"),
            rich.progress.TimeRemainingColumn(),
        )
        # Drawn from here: the library's own thread would compete with the loop for the interpreter.
        with rich.progress.Progress(
            *columns, console=_console(sys.stderr), auto_refresh=False, transient=True
        ) as bar:
            task = bar.add_task("asking", total=self.total, counts="")
            while True:
                failed = f"[red]{self.failed} failed[/]" if self.failed else "[dim]0 failed[/]"
                counts = f"[green]{self.ok} ok[/]  {failed}  {self.speed:.0f} tokens/s "
                bar.update(task, completed=self.ok + self.failed, counts=counts)
                bar.refresh()
                await asyncio.sleep(self.TERMINAL_S)


def _console(file: TextIO) -> rich.console.Console:
    import rich.console  # noqa: PLC0415

    width = None if file.isatty() else 100
    return rich.console.Console(file=file, width=width, highlight=False, soft_wrap=False)


def format_ms(value: float | None) -> str:
    """Return a time for people: three digits that matter, in ms or s."""
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return (
        f"{value:.0f} ms"
        if value >= 100
        else f"{value:.1f} ms"
        if value >= 10
        else f"{value:.2f} ms"
    )


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def summary(name: str, meta: Mapping[str, Any], aggregate: Mapping[str, Any]) -> list[Any]:
    """Return the lines and tables that tell a person about a run: what, how fast, what failed, and how sure that is."""
    parts = [_headline(name, meta), *_what_was_run(meta), "", *_counts(aggregate)]
    if aggregate["stages"]:
        parts += ["", _stage_table(aggregate["stages"])]
        if aggregate["quality"]["graded"]:
            parts += ["", _stage_quality_table(aggregate["stages"])]
    if aggregate["ok"] and not aggregate["stages"]:  # over several stages they would mix
        parts += ["", _latency_table(aggregate), *_needs_more(aggregate)]
    categories = aggregate["quality"]["categories"]
    if aggregate["quality"]["graded"] and 1 < len(categories) <= 20:
        parts += ["", _category_table(categories)]
    if aggregate["failures"]:
        parts += ["", *_failure_lines(aggregate["failures"])]
    parts += _threshold_lines(meta["thresholds"])
    parts += _reason_lines(meta["validity"])
    return parts


_VERDICT_STYLE = {"VALID": "bold green", "SUSPECT": "bold yellow", "INVALID": "bold red"}


def styled(*pieces: str | tuple[str, str]) -> rich.text.Text:
    """Return a line of plain and styled pieces; nothing in them is read as markup."""
    import rich.text  # noqa: PLC0415

    return rich.text.Text.assemble(*pieces)


def _headline(name: str, meta: Mapping[str, Any]) -> Any:
    verdict = meta["validity"]["verdict"]
    stopped = "  interrupted" if meta["status"] != "complete" else ""
    return styled(
        (printable(name), "bold"), "  ", (verdict, _VERDICT_STYLE[verdict]), (stopped, "yellow")
    )


def _what_was_run(meta: Mapping[str, Any]) -> list[Any]:
    config = meta["config"]
    server = printable(meta["server"], 100)
    if meta["embedded"]:
        server += f" ({printable(meta['embedded'].get('engine', ''), 60)})"
    levels = meta["concurrent"] if isinstance(meta["concurrent"], list) else [meta["concurrent"]]
    load = f"{', '.join(map(str, levels))} at once"
    if config["rate"] is not None:
        load = f"{config['rate']:g} requests/s ({config['arrival']}), {load} at most"
    how = f"{config['api']}{', streaming' if config['stream'] else ''}"
    asked = (
        f"{meta['questions']} questions"
        if config["duration"] is None
        else f"{config['duration']:g} s"
    )
    insecure = ("  TLS not verified", "bold red") if meta["tls_verified"] is False else ""
    what = styled((f"{printable(meta['model'], 100)} on {server}", "dim"), insecure)
    return [
        what,
        styled((f"{how} · {asked}, {load} · took {format_ms(meta['total_duration_ms'])}", "dim")),
    ]


def _counts(aggregate: Mapping[str, Any]) -> list[Any]:
    failed = aggregate["failed"]
    cancelled = f"  {aggregate['cancelled']} cancelled" if aggregate["cancelled"] else ""
    ok = (f"{aggregate['ok']} ok", "green" if aggregate["ok"] else "red")
    lines = [
        styled("answers  ", ok, "  ", (f"{failed} failed", "red" if failed else "dim"), cancelled)
    ]
    if aggregate["ok"]:
        tokens = f"{_number(aggregate['token_sum'], 0)} tokens, {_number(aggregate['token_avg'], 0)} an answer"
        speed = f"{_number(aggregate['tokens_per_s'])} tokens/s   {_number(aggregate['requests_per_s'], 2)} requests/s"
        lines.append(styled("speed    ", (speed, "bold cyan"), f"   ({tokens})"))
    drain_ms, duration_ms = aggregate["drain_ms"], aggregate["duration_ms"]
    if drain_ms and duration_ms and drain_ms > 0.2 * duration_ms and not aggregate["stages"]:
        lines.append(
            styled(
                (
                    f"         of this {format_ms(drain_ms)} with slots empty, while the last answers ended",
                    "dim",
                )
            )
        )
    if aggregate["quality"]["graded"]:
        lines.append(_quality_line(aggregate["quality"]))
    elif aggregate["quality"]["ungraded"]:
        lines.append(
            styled(
                f"quality  {aggregate['quality']['ungraded']} answers could not be graded; see grade_reason"
            )
        )
    if aggregate["goodput_per_s"] is not None:
        met = f"{aggregate['good']} of {aggregate['requests']} requests met every SLO"
        lines.append(
            styled(f"goodput  {_number(aggregate['goodput_per_s'], 2)} requests/s   ({met})")
        )
    return lines


def _quality_line(quality: Mapping[str, Any]) -> Any:
    under = quality["under_load"]
    failed = (
        "" if quality["of_answers"]["n"] == under["n"] else f", {_percent(under['avg'])} under load"
    )
    ungraded = f", {quality['ungraded']} ungraded" if quality["ungraded"] else ""
    each = (
        ""
        if quality["tokens_per_correct"] is None
        else f", {_number(quality['tokens_per_correct'], 0)} tokens a correct one"
    )
    share = f"{_percent(quality['of_answers']['avg'])} correct"
    return styled(
        "quality  ",
        (share, "bold cyan"),
        f"   (of {quality['of_answers']['n']}; 95 %: {_range(quality['of_answers']['ci95'])}{failed}{ungraded}{each})",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _category_table(categories: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the accuracy by category."""
    table = _table("category", "correct", "95 % interval", "graded", "ungraded", "under load")
    for category, part in categories.items():
        answers = (_percent(part["of_answers"]["avg"]), _range(part["of_answers"]["ci95"]))
        counts = (str(part["graded"]), str(part["ungraded"] or ""))
        table.add_row(
            printable(category, 40), *answers, *counts, _percent(part["under_load"]["avg"])
        )
    return table


_SHOWN = {
    "ttft_ms": "TTFT",
    "answer_ttft_ms": "answer TTFT",
    "tpot_ms": "TPOT",
    "itl_ms": "ITL",
    "e2e_ms": "E2E",
    "queue_ms": "queue",
    "scheduled_ttft_ms": "TTFT, scheduled",
    "scheduled_e2e_ms": "E2E, scheduled",
}


def _latency_table(aggregate: Mapping[str, Any]) -> Any:
    """Return the latencies: a row a metric, the median with its interval."""
    table = _table("latency", "avg", "p50", "95 % interval", "p90", "p95", "p99", "max")
    for name, label in _SHOWN.items():
        row = aggregate[name]
        same = name == "answer_ttft_ms" and row["p50"] == aggregate["ttft_ms"]["p50"]
        if row["n"] and not same:
            cells = [
                format_ms(row["avg"]),
                format_ms(row["p50"]),
                _interval_text(row["ci95"]["p50"]),
            ]
            high = [
                format_ms(row[p]) if None not in row["ci95"][p] else f"({format_ms(row[p])})"
                for p in ("p90", "p95", "p99")
            ]
            table.add_row(label, *cells, *high, format_ms(row["max"]))
    late = aggregate["e2e_with_timeouts_ms"]
    if late["timeouts"]:
        p50, *high = [
            ("≥ " if p in late["lower_bounds"] else "") + format_ms(late[p]) for p in PERCENTILES
        ]
        table.add_row("E2E, with timeouts", "", p50, "", *high, "")
    return table


def _interval_text(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "–" if low is None or high is None else f"{format_ms(low)} – {format_ms(high)}"


def _needs_more(aggregate: Mapping[str, Any]) -> list[Any]:
    """Say which percentiles stand in brackets, and how many more requests they need."""
    n = aggregate["ok"]
    short = [
        f"{name} needs {min_samples(share) - n} more"
        for name, share in PERCENTILES.items()
        if min_samples(share) > n
    ]
    return (
        [styled((f"(in brackets: too few for an interval; {', '.join(short)})", "dim"))]
        if short
        else []
    )


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> Any:
    """Return the stages of a sweep side by side."""
    times = (
        ("ttft_ms", "p50"),
        ("ttft_ms", "p95"),
        ("tpot_ms", "p50"),
        ("e2e_ms", "p50"),
        ("e2e_ms", "p95"),
    )
    table = _table(
        "at once", "ok", "failed", "tokens/s", "requests/s", *(f"{_SHOWN[m]} {p}" for m, p in times)
    )
    for stage in stages:
        counts = (str(stage[name]) for name in ("concurrent", "ok", "failed"))
        speed = (_number(stage["tokens_per_s"]), _number(stage["requests_per_s"], 2))
        table.add_row(*counts, *speed, *(format_ms(stage[metric][name]) for metric, name in times))
    return table


def _stage_quality_table(stages: Sequence[Mapping[str, Any]]) -> Any:
    """Return accuracy as a function of concurrency, and how many answers differ from those at the lowest one."""
    lowest = min(stage["concurrent"] for stage in stages)
    table = _table(
        "at once",
        "correct under load",
        "95 % interval",
        "of the answers",
        f"answered unlike at {lowest}",
    )
    for stage in stages:
        quality, stability = stage["quality"], stage["quality"]["stability"]
        unlike = "" if stability is None else _percent(stability["avg"])
        under = (_percent(quality["under_load"]["avg"]), _range(quality["under_load"]["ci95"]))
        table.add_row(
            str(stage["concurrent"]), *under, _percent(quality["of_answers"]["avg"]), unlike
        )
    return table


def _table(first: str, *columns: str) -> Any:
    """Return a table without lines, its figures at the right."""
    import rich.table  # noqa: PLC0415

    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _range(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "–" if low is None or high is None else f"{low:.0%} – {high:.0%}"


def _failure_lines(failures: Mapping[str, int]) -> list[Any]:
    return [
        styled(("failed   ", "red"), f"{times:>4} × {kind}: {FAILURES.get(kind, '')}")
        for kind, times in failures.items()
    ]


def _threshold_lines(checks: Sequence[Mapping[str, Any]]) -> list[Any]:
    lines = []
    for check in checks:
        verdict = ("met      ", "green") if check["met"] else ("missed   ", "bold red")
        value = "not measured" if check["value"] is None else f"{check['value']:.6g}"
        lines.append(styled(verdict, f"{check['metric']} {check['condition']}: {value}"))
    return ["", *lines] if lines else []


def _reason_lines(validity: Mapping[str, Any]) -> list[Any]:
    style = _VERDICT_STYLE[validity["verdict"]]
    lines = [
        styled((f"! {reason['code']}  ", style), printable(reason["message"]))
        for reason in validity["reasons"]
    ]
    return ["", *lines] if lines else []


def show(parts: Iterable[Any], file: TextIO | None = None) -> None:
    """Print lines and tables; the one place that does. A reader that went away (`| head`) is no fault."""
    file = file or sys.stdout
    console = _console(file)
    try:
        with console.capture() as captured:  # which flushes the file
            for part in parts:
                console.print(part, markup=False)
        file.write(captured.get())
        file.flush()
    except OSError:  # also a full disk that the summary is sent to
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


# === Command line ===


class Tool(NamedTuple):
    """A subcommand: one file in extensions/, or `verify`, which stands here."""

    help: str
    group: str | None = None  # the dependency group that it needs
    module: str = ""  # its file in extensions/


TOOLS = {
    "verify": Tool("recompute every number of a results file from its records"),
    "grade": Tool(
        "grade a results file anew, without asking the model again", "quality", "quality"
    ),
}
_EMBEDDED = Tool("a real small LLM on llama.cpp, for a machine that has no server", "embedded")


def import_extension(name: str, group: str | None) -> ModuleType:
    """Import extensions/NAME.py. Raises ExtensionError, which says how to get what is missing."""
    path = HERE / "extensions" / f"{name}.py"
    if not path.is_file():
        raise ExtensionError(
            f"{name} needs extensions/{name}.py beside llm_stresstest.py; copy the folder too"
        )
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    try:
        return importlib.import_module(f"extensions.{name}")
    except ModuleNotFoundError as error:
        raise _missing_package(name, error, group) from None


def _missing_package(name: str, error: ModuleNotFoundError, group: str | None) -> ExtensionError:
    return ExtensionError(f"{name} needs {error.name}: uv sync --group {group}")


def verify(argv: Sequence[str]) -> int:
    """Recompute the aggregate of a results file from its records; 0 when they agree, 1 with the differences."""
    parser = argparse.ArgumentParser(
        prog="llm_stresstest.py verify", description=TOOLS["verify"].help
    )
    parser.add_argument("name", help="a results file, or the name of a run")
    parser.add_argument(
        "--results-dir", type=Path, help="where the run's file is, when it is given by name"
    )
    options = parser.parse_args(argv)
    run = load_results(find_results(options.name, options.results_dir))
    differences = verify_run(run)
    lines = [styled(("differs  ", "bold red"), printable(line)) for line in differences[:20]]
    if len(differences) > 20:
        lines.append(styled(f"         and {len(differences) - 20} more"))
    verdict = ("verified", "bold green") if not differences else ("NOT VERIFIED", "bold red")
    show(
        [
            *lines,
            styled(
                verdict,
                f"  {printable(run.path)}: {len(run.results)} results, {len(differences)} differences",
            ),
        ]
    )
    return 1 if differences else 0


def verify_run(run: SavedRun) -> list[str]:
    """Return what differs between a run's aggregate and one computed anew from its records."""
    try:
        config = run.config
    except (pydantic.ValidationError, KeyError) as error:
        return [f"meta.config: {str(error).splitlines()[0]}"]
    anew = calculate_aggregates(run.results, config, run.itl_us)
    differences = list(_differences(anew, dict(run.aggregate), "aggregate"))
    for place, (result, record) in enumerate(zip(run.results, run.records, strict=True)):
        differences += _record_faults(place, result)
        differences += _differences(result.to_record(), record, f"results[{place}]")
    return differences


def _record_faults(place: int, result: Result) -> Iterator[str]:
    """Yield what cannot be true of a record."""
    where = f"results[{place}]"
    if result.ok and (result.sent_ns is None or result.end_ns is None or result.error is not None):
        yield f"{where}: status ok, but without times or with an error"
    if result.error is None and not result.ok:
        yield f"{where}: status {result.status} without an error"
    if result.chunk_ns and (
        len(result.chunk_ns) != result.chunks
        or (result.ok and result.chunk_ns[-1] != result.end_ns)
    ):
        yield f"{where}: chunk_ms does not add up to time"


def _differences(anew: Any, stored: Any, where: str) -> Iterator[str]:
    """Yield where two JSON values differ; numbers may differ by rounding."""
    if isinstance(anew, Mapping) and isinstance(stored, Mapping):
        for key in anew.keys() | stored.keys():
            yield from _differences(
                anew.get(key, _ABSENT), stored.get(key, _ABSENT), f"{where}.{key}"
            )
    elif isinstance(anew, list) and isinstance(stored, list) and len(anew) == len(stored):
        for place, (mine, theirs) in enumerate(zip(anew, stored, strict=True)):
            yield from _differences(mine, theirs, f"{where}[{place}]")
    elif not _same(anew, stored):
        said, says = (
            "nothing" if value is _ABSENT else json.dumps(value) for value in (anew, stored)
        )
        yield f"{where}: the records give {said}, the file says {says}"


def _same(anew: Any, stored: Any) -> bool:
    if (
        isinstance(anew, int | float)
        and isinstance(stored, int | float)
        and not isinstance(stored, bool)
    ):
        return math.isclose(anew, stored, rel_tol=1e-9, abs_tol=2e-6)
    return type(anew) is type(stored) and bool(anew == stored)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of a run's command line."""
    tools = "\n".join(f"  {name:<10} {tool.help}" for name, tool in TOOLS.items())
    parser = argparse.ArgumentParser(
        prog="llm_stresstest.py",
        description="Ask an OpenAI-compatible server many questions at once; see how fast and how well it answers.",
        epilog=f"tools (llm_stresstest.py TOOL --help):\n{tools}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "output_filename", help="name of the run; its results go to results/NAME.json"
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="else config.json in the current directory, else beside the script",
    )
    parser.add_argument(
        "-q", "--questions", type=Path, metavar="FILE", help="questions.json; looked for likewise"
    )
    parser.add_argument(
        "--results-dir",
        type=Path,
        metavar="DIR",
        help="where results go; else results/ beside the config",
    )
    parser.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="where logs go; else logs/ beside the config"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of config.json",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped or killed"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a results file of the same name"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the files, show what would be run, ask nothing",
    )
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="let the grader `code` run what the model wrote, confined",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no progress and no summary, only errors"
    )
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="default INFO",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


class Paths:
    """Where a run's files go."""

    def __init__(self, options: argparse.Namespace, config_path: Path) -> None:
        beside = config_path.resolve().parent
        self.name = check_name(options.output_filename)
        self.results = options.results_dir or beside / "results"
        self.logs = options.log_dir or beside / "logs"
        self.overwrite, self.resume = options.overwrite, options.resume
        if (self.results / f"{self.name}.json").is_symlink() or (
            self.results / f"{self.name}.journal"
        ).is_symlink():
            raise ConfigError(
                f"{self.results / self.name}.json: a symbolic link is in the way; remove it"
            )
        if self.resume and not (self.results / f"{self.name}.journal").exists():
            raise ConfigError(
                f"{self.results / self.name}.journal: no run to go on with: there is no such file"
            )

    @property
    def file(self) -> Path:
        """Where the results go."""
        return self.results / f"{self.name}.json"

    def may_replace(self, run_id: str) -> bool:
        """Whether a results file of this name may be replaced: it was allowed, or it is an earlier part of this run."""
        if self.overwrite or not self.resume:
            return bool(self.overwrite)
        try:
            with self.file.open("rb") as file:
                return f'"run_id": "{run_id}"'.encode() in file.read(65536)
        except OSError:
            return False

    def open_journal(self, header: Mapping[str, Any]) -> tuple[Journal, JournalReader | None]:
        """Start the run's journal, or go on with it. Raises ConfigError, ResultsError."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{self.results}: cannot be made: {error.strerror}") from None
        if self.resume:
            journal, reader = Journal.reopen(self.results / f"{self.name}.journal")
            self._check_same_run(reader, header)
            return journal, reader
        return self._new_journal(header), None

    def _new_journal(self, header: Mapping[str, Any]) -> Journal:
        wanted = self.name
        for candidate in _candidates(self.results / f"{self.name}.json"):
            path = self.results / f"{candidate.name.removesuffix('.json')}.journal"
            self.overwrite = (
                self.overwrite and candidate == self.file
            )  # the name that was given, and no other
            if path.exists() and not (self.overwrite and _remove_unlocked(path)):
                unfinished = "holds an unfinished run: go on with it by --resume, or delete it"
                notice(f"{path} {'is of a run in progress' if _is_locked(path) else unfinished}")
                continue
            if os.path.lexists(candidate) and not self.overwrite:
                continue
            with contextlib.suppress(FileExistsError):
                journal = Journal.create(path)
                self.name = candidate.name.removesuffix(".json")
                if self.name != wanted:
                    notice(f"{wanted} is taken; this run is {self.name}")
                try:
                    journal.append("header", header)
                except ResultsError:
                    journal.discard()
                    raise
                journal.header = dict(header)
                return journal
        raise AssertionError("unreachable")

    def _check_same_run(self, reader: JournalReader, header: Mapping[str, Any]) -> None:
        """Refuse to mix two runs. Raises ConfigError."""
        before = cast(dict[str, Any], reader.header)
        if reader.lost_bytes:
            lost = f"its last {reader.lost_bytes} bytes were damaged and are left out"
            notice(f"{reader.path}: {lost}; {len(reader)} answers are kept")
        if before["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(
                f"{reader.path}: is of schema_version {before['schema_version']}; it cannot be gone on with"
            )
        if before["questions_sha256"] != header["questions_sha256"]:
            raise ConfigError(
                f"{reader.path}: was run with other questions; give the same ones, or choose another name"
            )
        changed = [
            key for key, value in header["config"].items() if before["config"].get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{reader.path}: was run with another config ({', '.join(changed)}); choose another name"
            )


def _remove_unlocked(path: Path) -> bool:
    """Remove the journal of a run that is over; False while somebody writes it."""
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:  # its run has just ended
        return True
    try:
        if _lock(fd):
            path.unlink(missing_ok=True)
            return True
        return False
    finally:
        os.close(fd)


def _is_locked(path: Path) -> bool:
    """Whether somebody writes this journal."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:  # its run has just ended
        return False
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


def raise_file_limit(connections: int) -> None:
    """Make room for the connections among the process's open files. Raises ConfigError."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 100
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"concurrent: {connections} needs {wanted} open files, {hard} are allowed; raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.asynccontextmanager
async def serving(config: Config, target: Target) -> AsyncIterator[Target]:
    """Yield the target; when it is "embedded", with the address of a server that ends with the block."""
    if config.server != "embedded":
        yield target
        return
    embedded = import_extension("embedded", _EMBEDDED.group)
    async with contextlib.AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(embedded.serve(slots=max(config.levels)))
        except ModuleNotFoundError as error:
            raise _missing_package("embedded", error, _EMBEDDED.group) from None
        except (OSError, RuntimeError) as error:
            raise ServerUnreachableError(f"embedded: {error}") from error
        yield dataclasses.replace(target, base=server.url, embedded=server.description)


def plan_lines(config: Config, questions: Sequence[Question], paths: Paths) -> list[Any]:
    """Return what a dry run shows."""
    requests = (
        "until the time is over"
        if config.duration is not None
        else f"{len(questions) * len(config.levels)} in all"
    )
    catalogue = {question.id for question in questions}
    graded = sum(question.grader is not None for question in questions)
    rows = {
        "server": printable(_without_password(config.server)),
        "model": printable(config.model),
        "questions": f"{len(questions)} ({len(catalogue)} different, {graded} with a grader), {requests}",
        "load": f"{config.concurrent} at once"
        if config.rate is None
        else f"{config.rate:g} requests/s, {config.arrival}",
        "results": str(paths.results / f"{paths.name}.json"),
    }
    return [
        styled(("dry run: ", "bold"), "the files are good; nothing was asked"),
        *(styled(f"{key:<10} {value}") for key, value in rows.items()),
    ]


@dataclasses.dataclass(frozen=True)
class Grading:
    """How the answers are graded after the load: by extensions/quality.py, or not at all."""

    quality: ModuleType | None
    questions: Mapping[str, Question]
    config: Config
    allow_code: bool

    @classmethod
    def of(
        cls, path: Path, questions: Sequence[Question], config: Config, *, allow_code: bool
    ) -> Self:
        """Check the catalogue's graders. Raises QuestionsError, one line, with the question's id."""
        catalogue = {question.id: question for question in questions}
        graded = [question for question in catalogue.values() if question.grader is not None]
        quality = None
        if graded:
            try:
                quality = import_extension("quality", "quality")
                problems = ((question, quality.check_question(question)) for question in graded)
                wrong = next(
                    ((question, problem) for question, problem in problems if problem is not None),
                    None,
                )
            except ExtensionError as error:
                notice(f"answers stay ungraded: {error}")
                return cls(None, catalogue, config, allow_code)
            if wrong is not None:
                raise QuestionsError(
                    f"{path}: question {printable(json.dumps(wrong[0].id, ensure_ascii=False), 80)}: {wrong[1]}"
                )
        return cls(quality, catalogue, config, allow_code)

    async def grade(self, journal: Journal, stop_signal: StopSignal, redact: Redactor) -> None:
        """Grade the answers that the journal holds, and write each grade to it. Raises ResultsError."""
        if self.quality is None:
            return
        graders = self.quality.Graders(
            self.config, allow_code=self.allow_code, hurry=stop_signal.event.is_set
        )
        ungraded = (result for result in JournalReader(journal.path) if result.grade_reason is None)
        async with graders:
            async for result, score, reason in graders.grade_results(self.questions, ungraded):
                reason = redact(reason) if isinstance(reason, str) else reason
                grade = {
                    "index": result.index,
                    "turn": result.turn,
                    "score": score,
                    "reason": reason,
                }
                journal.append("grade", grade)


class Recorder:
    """What happens to a result when its request ends: journal, log, progress."""

    def __init__(
        self,
        journal: Journal,
        config: Config,
        questions: Sequence[Question],
        before: JournalReader | None,
    ) -> None:
        self.journal = journal
        done = frozenset[int]() if before is None else before.finished(questions)
        already_ns = max((result.end_ns or 0 for result in before or ()), default=0)
        self.load = Load(clock() - already_ns, done, journal.header["seed"])
        if before is not None:
            self._go_on_with(before, config)
        turns = sum(len(question.texts) for question in questions) * len(config.levels)
        self.progress = Progress(None if config.duration is not None else max(turns - len(done), 0))

    def _go_on_with(self, before: JournalReader, config: Config) -> None:
        """Take over what the earlier part of the run has left beside its results."""
        footer = before.footer
        self.load.resumed = "killed" if footer is None else "stopped"
        self.load.itl_lost = footer is None and not config.record_chunk_times
        for stage, pairs in (footer or {}).get("itl_us", {}).items():
            self.load.itl_us[int(stage)] = Counter(dict(pairs))

    def add(self, result: Result) -> None:
        """Write a result down. Raises ResultsError."""
        self.journal.append("result", result.to_record())
        self.progress.add(result)
        log_result(result)

    def footer(self, load: Load) -> dict[str, Any]:
        """Return the journal's last line: all that a results file needs beside the results."""
        return {
            "status": "interrupted" if load.interrupted else "complete",
            "duration_ms": (load.ended_ns - load.start_ns) / NS_PER_MS,
            "client": load.client,
            "clock_jump_s": load.clock_jump_s,
            "warmup": dict(load.warmup),
            "itl_us": {str(stage): sorted(counts.items()) for stage, counts in load.itl_us.items()},
        }


async def main(options: argparse.Namespace, memory: logging.handlers.MemoryHandler) -> int:
    """Run the stress test from files to file and return the exit code; what stops it is raised."""
    config_path = find_file(options.config, "config.json")
    questions_path = find_file(options.questions, "questions.json")
    config = load_config(config_path, options.set)
    questions = load_questions(questions_path, question_count(config))
    grading = Grading.of(questions_path, questions, config, allow_code=options.allow_code)
    paths = Paths(options, config_path)
    target = resolve_target(config, os.environ)
    raise_file_limit(max(config.levels))
    if options.dry_run:
        show(plan_lines(config, questions, paths))
        return 0
    log_path = open_log(memory, paths.logs, paths.name, options.log_level, target.redact)
    with StopSignal.caught() as stop_signal, contextlib.ExitStack() as until_saved:
        async with contextlib.AsyncExitStack() as stack:
            target = await stop_signal.unless_stopped(
                stack.enter_async_context(serving(config, target))
            )
            await stop_signal.unless_stopped(test_connection(config, target))
            session = await stack.enter_async_context(open_session(config, target))
            journal, before = paths.open_journal(journal_header(config, target, questions))
            until_saved.enter_context(
                journal
            )  # its lock keeps others from the answers that are only there
            recorder = Recorder(journal, config, questions, before)
            send = functools.partial(
                send_question, Client(session, config, target, recorder.load.start_ns)
            )
            async with recorder.progress.shown(quiet=options.quiet):
                load = await process_questions(
                    config, questions, send, recorder.add, stop_signal, recorder.load
                )
            await grading.grade(journal, stop_signal, target.redact)
            load.interrupted = load.interrupted or stop_signal.signum is not None
            journal.append("footer", recorder.footer(load))
        results = JournalReader(journal.path)
        aggregate = calculate_aggregates(results, config, None if load.itl_lost else load.itl_us)
        meta = run_meta(config, target, load, aggregate, journal.header)
        with journal.kept_when_saving_fails(len(results)):
            path = save_results(
                paths.file, meta, results, aggregate, overwrite=paths.may_replace(meta["run_id"])
            )
        until_saved.close()
        if not load.interrupted:  # else --resume can go on
            journal.path.unlink()
    if not options.quiet:
        where = [
            styled(("results  ", "dim"), str(path)),
            styled(("log      ", "dim"), str(log_path)),
        ]
        show([*summary(path.stem, meta, aggregate), "", *where])
    return exit_code(meta, stop_signal)


def exit_code(meta: Mapping[str, Any], stop_signal: StopSignal) -> int:
    """Return the exit code of a run whose results are saved."""
    if stop_signal.signum is not None:
        return 128 + stop_signal.signum
    missed = any(not check["met"] for check in meta["thresholds"])
    return 1 if missed or meta["validity"]["verdict"] == "INVALID" else 0


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the one place that shows errors."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with early_log() as memory:
        try:
            if arguments and arguments[0] in TOOLS:
                return run_tool(arguments[0], arguments[1:])
            return asyncio.run(main(build_parser().parse_args(arguments), memory))
        except SystemExit as stop:  # argparse has said why
            return stop.code if isinstance(stop.code, int) else 2
        except StressTestError as error:
            logger.error("%s", error, exc_info=error.__cause__)
            return fail(str(error), error.exit_code)
        except StoppedError as error:
            return fail(
                f"stopped by {signal.Signals(error.args[0]).name} before the first question",
                128 + error.args[0],
            )
        except KeyboardInterrupt:
            return fail("stopped by SIGINT", 130)
        except Exception as error:
            logger.critical("a fault of this program", exc_info=error)
            return fail(
                f"a fault of this program, please report it: {type(error).__name__}: {error} (traceback in the log)",
                70,
            )


def fail(message: str, code: int) -> int:
    """Show an error as one line on stderr and return the exit code."""
    for handler in logger.handlers:
        if isinstance(handler.formatter, _LineFormatter):  # since the secrets are known
            message = handler.formatter.redact(message)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"llm_stresstest: {printable(message, 1500)}\n")
    return code


def run_tool(name: str, argv: Sequence[str]) -> int:
    """Run a tool and return its exit code."""
    if name == "verify":
        return verify(argv)
    return cast(int, import_extension(TOOLS[name].module, TOOLS[name].group).main(argv))


if __name__ == "__main__":
    sys.exit(cli())
