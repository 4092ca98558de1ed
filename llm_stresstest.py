#!/usr/bin/env python3
"""Stress-test a server that speaks the OpenAI API with your own questions.

    python llm_stresstest.py first_run

asks the questions of questions.json as config.json says, many at once, and writes
results/first_run.json: each answer with its time, tokens and quality, and the statistics. A run
takes these steps, and the file follows them:

    load_config -> load_questions -> test_connection -> process_questions (send_question for each)
    -> calculate_aggregates -> save_results

Each result goes into a journal the moment its request ends. A run that was stopped or killed goes
on with --resume: it asks what the journal holds no result of, and what was cancelled by the stop; a
request that failed by itself is not asked again.

`grep -E '^# (===|---)' llm_stresstest.py` prints the table of contents; `main` shows a run.
`__all__` lists what tools may use.

Raw times are integer nanoseconds of the monotonic clock, relative to the start of the run (`_ns`);
milliseconds (`_ms`) appear only in files and on screen. "Not measured" is None, never 0. A failed
request is data (a Result with a Failure); exceptions are for what stops the run, and only `cli`
shows them.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # a signal during the other imports ends in a line, not in a traceback

    def stop_at_once(signum: int, _frame: object) -> None:
        """End before there is anything to save."""
        name = signal.Signals(signum).name
        os.write(2, f"llm_stresstest: stopped by {name}\n".encode())
        os._exit(128 + signum)

    for signal_name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal_number = getattr(signal, signal_name, None)  # Windows has no SIGHUP
        if signal_number is not None and signal.getsignal(signal_number) != signal.SIG_IGN:
            signal.signal(signal_number, stop_at_once)

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
import errno
import functools
import gc
import glob
import hashlib
import html
import importlib
import importlib.util
import io
import ipaddress
import itertools
import json
import logging
import logging.handlers
import math
import operator
import platform
import random
import re
import select
import selectors
import shlex
import socket
import ssl
import statistics
import struct
import subprocess
import threading
import time
import urllib.parse
import uuid
import weakref
import zlib
from collections import Counter, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
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
    BinaryIO,
    ClassVar,
    Literal,
    NamedTuple,
    NoReturn,
    TextIO,
    TypeVar,
    cast,
    get_args,
)

PACKAGES = ("aiohttp", "msgspec", "openai", "pydantic", "rich")
VENV_TRIED = "LLM_STRESSTEST_VENV_TRIED"

try:
    if sys.version_info < (3, 11):  # noqa: UP036  an old Python says so, or finds a newer one
        raise ModuleNotFoundError(name="Python 3.11 or newer")
    for package in PACKAGES:  # some are imported only where they are used
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    import aiohttp
    import msgspec
    import pydantic
    import pydantic_core
    import yarl
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    # Try the .venv beside this file, so that a cron line with /usr/bin/python3 needs no path into
    # it; but only once, since packages may be missing there too.
    beside, bin_name = Path(__file__).resolve().parent, "Scripts" if os.name == "nt" else "bin"
    venv_python = beside / ".venv" / bin_name / "python"
    if venv_python.exists() and VENV_TRIED not in os.environ:
        # With the same arguments, and the same options of Python, which 3.9 does not tell.
        command = [str(venv_python), *getattr(sys, "orig_argv", ["", *sys.argv])[1:]]
        os.environ[VENV_TRIED] = "yes"
        if os.name == "nt":  # there the shell would not wait for a program started by exec
            sys.exit(subprocess.call(command))  # noqa: S603
        os.execv(venv_python, command)  # noqa: S606
    uv = f"python3 -m venv .uv && .uv/{bin_name}/pip install -q uv && .uv/{bin_name}/uv sync"
    pip = f"python3 -m venv .venv && .venv/{bin_name}/pip install {' '.join(PACKAGES)}"
    remedy = uv if (beside / "pyproject.toml").is_file() else pip
    if Path.cwd() != beside:
        remedy = f"cd {shlex.quote(str(beside))} && {remedy}"
    sys.stderr.write(f"llm_stresstest: needs {error.name}: {remedy}\n")
    sys.exit(2)
os.environ.pop(VENV_TRIED, None)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Self

    import openai
    import rich.console
    import rich.text

# An extension imports this module by its name. Without this line it would load a second copy, whose
# exceptions are other classes, so that `cli` would not catch them.
sys.modules.setdefault("llm_stresstest", sys.modules[__name__])

__version__ = "0.1.0"
__all__ = [  # what tools may use; the rest may change at any time
    "CORRECT",
    "FAILURES",
    "NARROW_SPACE",
    "PERCENTILES",
    "REDACTED",
    "SCHEMA_VERSION",
    "Client",
    "Column",
    "Config",
    "ConfigError",
    "Digest",
    "Evidence",
    "ExtensionError",
    "Failure",
    "Headline",
    "Histogram",
    "Journal",
    "JournalLine",
    "JournalReader",
    "Judge",
    "LoadReport",
    "LoadStart",
    "MissingPackageError",
    "Options",
    "Parser",
    "PlannedRequest",
    "Question",
    "QuestionsError",
    "Reason",
    "Redactor",
    "Result",
    "ResultsError",
    "Run",
    "RunFiles",
    "SSEDecoder",
    "SavedRun",
    "ServerUnreachableError",
    "Slo",
    "StopSignal",
    "StressTestError",
    "Target",
    "calculate_aggregates",
    "check_name",
    "check_thresholds",
    "describe",
    "find_file",
    "find_results",
    "format_interval",
    "format_limit",
    "format_ms",
    "format_number",
    "format_share",
    "headline",
    "import_extension",
    "iterate_results",
    "judge_validity",
    "load_config",
    "load_questions",
    "load_results",
    "logger",
    "mean_score",
    "min_samples",
    "notice",
    "one_user_speed",
    "open_session",
    "percentile",
    "printable",
    "process_questions",
    "program",
    "questions_hash",
    "read_json",
    "requests_missing",
    "resolve_target",
    "run_argument",
    "save_results",
    "send_question",
    "show",
    "styled",
    "summary_lines",
    "table",
    "terminal_width",
    "test_connection",
    "total_speed",
    "validity_rule",
    "wilson_interval",
    "wrapped",
]

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("llm_stresstest")
clock = time.perf_counter_ns
T = TypeVar("T")

# The results file's format. 1: first version.
SCHEMA_VERSION = 1
NS_PER_MS = 1_000_000  # ns in a ms
NS_PER_S = 1_000_000_000  # ns in a s
REDACTED = "[REDACTED]"
# How many bytes of a faulty answer an error is made from; redacted and shortened afterwards.
QUOTED = 1 << 16
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
CONFIDENCE = 0.95
FEWEST_FOR_TREND = 50  # values; fewer say nothing about a trend
DRIFT_ALPHA = 0.005  # the share of steady runs that are wrongly said to drift
CORRECT = 0.5  # the score from which an answer counts as correct
EXAMPLES = """\
examples:
  llm_stresstest.py first_run                          as config.json says
  llm_stresstest.py PC_FIN_qwen13b --set concurrent=8  override one of its keys
  llm_stresstest.py sweep --set 'concurrent=[1,2,4,8]' one stage a level
  llm_stresstest.py nightly --overwrite --quiet        for cron
  llm_stresstest.py first_run --resume                 go on after it was killed
  llm_stresstest.py verify first_run                   recompute every number

exit codes:
  0    complete; VALID or SUSPECT, and every threshold met
  1    complete, but INVALID, or a threshold missed
  2    bad input: arguments, config, questions, file names
  3    the server cannot be used
  4    the results could not be written
  5    a comparison that was required could not be decided
  70   a fault of this program, please report it
  129, 130, 143  stopped by SIGHUP, SIGINT, SIGTERM; what was measured is saved
"""


# === Errors ===
#
# StressTestError              what stops a run; one line: file, key, what is wrong, the remedy
#  +-- ConfigError             2  arguments and config.json
#  +-- QuestionsError          2  questions.json
#  +-- ExtensionError          2  a tool is missing
#       +-- MissingPackageError     or one of its packages
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


class MissingPackageError(ExtensionError):
    """A package of a tool's dependency group is missing."""

    def __init__(self, tool: str, package: str | None, group: str | None) -> None:
        self.tool, self.package, self.group = tool, package, group
        local = HERE / ".uv" / ("Scripts" if os.name == "nt" else "bin") / "uv"
        uv = os.environ.get("UV") or (str(local) if local.exists() else "uv")
        where = "" if Path.cwd() == HERE else f" --project {shlex.quote(str(HERE))}"
        remedy = f": {shlex.quote(uv)} sync --inexact --group {group}{where}" if group else ""
        super().__init__(f"{tool} needs {package}{remedy}")


class ServerUnreachableError(StressTestError):
    """The server cannot be used: refused, DNS, TLS, authorisation, no such model."""

    exit_code = 3


class ResultsError(StressTestError):
    """Results that could not be written or read."""

    exit_code = 4


# === Secrets ===
#
# The config names the environment variable that holds a key, never the key. `resolve_target` reads
# the values and gives them to a Redactor (`Target.redact`), through which an answer's texts and a
# server's error messages go before they become part of a Result or an error. A key that somebody
# wrote into the config all the same is found by its name or its look, and is not saved either.


class Redactor:
    """Takes secrets out of texts, by value, in whatever form a server may echo them.

    8 characters of a secret in a row are enough, in upper or lower case: as they stand, escaped as
    in JSON, Python, URLs or HTML (up to three times over), as hexadecimal digits, also with spaces
    or colons between them, and in base64 at any offset. What everybody knows, such as a leading
    `sk-proj-`, does not count.
    """

    RUN = 8  # characters
    SHORT = 16  # a value that consists of words and is shorter than this is no secret
    PUBLIC = re.compile(
        r"(bearer |basic |sk-(proj-|svcacct-|admin-|ant-\w{1,8}-|or-v\d-)?|gsk_|hf_|nvapi-|xai-"
        r"|pplx-|r8_|csk-|fw_|AIza|gh[pous]_|github_pat_|glpat-)",
        re.IGNORECASE,
    )
    # Values such as `ollama`, `EMPTY`, `sk-no-key-required`. One with digits (`token-abc123`) is a
    # secret, but only the whole of it is replaced: answers may use its words.
    WORDS = re.compile(r"(?:(?:[a-z]{1,19}|[A-Z]{1,19}|[A-Z][a-z]{1,18})\d{0,4}(?:[-_ .:]|$))+")

    class Form:
        """A secret in one of the ways in which it may be written, in lower case."""

        def __init__(self, text: str, public: int, run: int) -> None:
            self.text = text
            self.public = public  # how many characters at its start everybody knows
            self.run = run  # how many of the others in a row give it away
            # Pieces of it with their places, chosen so that every such run holds a whole piece.
            size = max(run // 2, 1)
            places = range(0, max(len(text) - size, 0) + 1, run - size + 1)
            self.anchors = [(place, text[place : place + size]) for place in places]

        def spans(self, text: str) -> list[tuple[int, int]]:
            """Return where runs of it that are long enough stand in a text in lower case."""
            spans = list[tuple[int, int]]()
            for offset, anchor in self.anchors:
                end, pieces, kept = 0, list[str](), 0
                while (place := text.find(anchor, end)) >= 0:
                    end = place + 1
                    # The anchor stands there; how far does the secret go on to its left and right?
                    ahead = text[max(place - offset, 0) : place]
                    before = self._in_common(self.text[:offset][::-1], ahead[::-1])
                    after = text[place : place + len(self.text) - offset]
                    behind = self._in_common(self.text[offset:], after)
                    if offset + behind - max(offset - before, self.public) >= self.run:
                        start, end = place - before, place + behind
                        spans.append((start, end))
                        # What is found is blotted out, so that the next anchor skips it.
                        start = max(start, kept)
                        pieces += [text[kept:start], "\0" * (end - start)]
                        kept = end
                if pieces:
                    text = "".join([*pieces, text[kept:]])
            return spans

        @staticmethod
        def _in_common(one: str, other: str) -> int:
            """Return how many characters two texts have in common at their start."""
            for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
                if mine != theirs:
                    return place
            return min(len(one), len(other))

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        kept = {secret for secret in secrets if self.is_secret(secret)}
        self._plain, self._unescaped, self._base64 = (list[Redactor.Form]() for _ in range(3))
        self._hexadecimal = list[Redactor.Form]()
        for secret in kept:
            form = self._plain_form(secret)
            self._hexadecimal.append(self._hexadecimal_form(secret, form))
            self._plain += [form, self._hexadecimal[-1]]
            self._unescaped += [form, self._plain_form(Unescaped(secret).text)]
            self._base64 += [self._base64_form(secret, form, shift) for shift in range(3)]
        self._one_word = not any(re.search(r"\s", secret) for secret in kept)

    @classmethod
    def is_secret(cls, value: str) -> bool:
        """Whether a value is kept out of texts: it is neither short nor a word of many answers."""
        if len(value) < cls.RUN:
            return False
        has_digit = any(character.isdigit() for character in value)
        return has_digit or len(value) >= cls.SHORT or cls.WORDS.fullmatch(value) is None

    def __call__(self, text: str) -> str:
        """Return the text with each secret replaced."""
        if not self._plain or not self._may_hold_one(text):
            return text
        pieces, end = list[str](), 0
        for start, stop in sorted(self._spans(text)):
            if start > end or not pieces:
                pieces += [text[end:start], REDACTED]
            end = max(end, stop)
        return "".join([*pieces, text[end:]])

    def tree(self, value: Any) -> Any:
        """Return a JSON value with each secret replaced in all its texts."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(str(key)): self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def _may_hold_one(self, text: str) -> bool:
        """Look quickly whether there is anything to do; few words of an answer are long enough."""
        if Joined.NEEDED.search(text):
            return True
        if self._one_word:
            text = " ".join([word for word in text.split() if len(word) >= self.RUN])
        lowered = self._lower(text)
        if any(anchor in lowered for form in self._plain for _, anchor in form.anchors):
            return True
        lowered = lowered.replace("-", "+").replace("_", "/")  # URL-safe base64 as the usual one
        if any(anchor in lowered for form in self._base64 for _, anchor in form.anchors):
            return True
        return Unescaped.NEEDED.search(text) is not None

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return where secrets stand in a text.

        What is found in a text whose escapes were undone is traced back to its place in this one.
        """
        lowered = self._lower(text)
        spans = [span for form in self._plain for span in form.spans(lowered)]
        lowered = lowered.replace("-", "+").replace("_", "/")
        spans += [span for form in self._base64 for span in form.spans(lowered)]
        if Joined.NEEDED.search(text):
            joined = Joined(text)
            found = (form.spans(self._lower(joined.text)) for form in self._hexadecimal)
            places = itertools.chain(*found)
            spans += [(joined.origin(start), joined.origin(stop)) for start, stop in places]
        layers = list[Unescaped]()
        while len(layers) < 3 and Unescaped.NEEDED.search(text):
            layers.append(Unescaped(text))
            text = layers[-1].text
            lowered = self._lower(text)
            for start, stop in (span for form in self._unescaped for span in form.spans(lowered)):
                for layer in reversed(layers):
                    start, stop = layer.origin(start), layer.origin(stop)
                spans.append((start, stop))
        return spans

    @staticmethod
    def _lower(text: str) -> str:
        """Return a text of the same length in lower case, at least its ASCII letters."""
        lowered = text.lower()
        if len(lowered) != len(text):
            return re.sub(r"[A-Z]+", lambda found: found.group().lower(), text)
        return lowered

    @classmethod
    def _plain_form(cls, secret: str) -> Form:
        """Return it as it stands; of words, or with little beside its known start, as a whole."""
        public = cls.PUBLIC.match(secret)
        known = 0 if public is None else public.end()
        if len(secret) - known < cls.RUN or cls.WORDS.fullmatch(secret):
            return cls.Form(cls._lower(secret), 0, len(secret))
        return cls.Form(cls._lower(secret), known, cls.RUN)

    @classmethod
    def _hexadecimal_form(cls, secret: str, plain: Form) -> Form:
        """Return it as hexadecimal digits, two for each byte."""
        return cls.Form(secret.encode().hex(), 2 * plain.public, 2 * plain.run)

    @classmethod
    def _base64_form(cls, secret: str, plain: Form, shift: int) -> Form:
        """Return the part of its base64 that stays the same behind `shift` other bytes."""
        data = secret.encode()
        code = base64.b64encode(b"\0" * shift + data).decode().lower()
        start, stop = -(-8 * shift // 6), 8 * (shift + len(data)) // 6
        public = max(-(-8 * (shift + plain.public) // 6) - start, 0)
        # Each character holds 6 bits, and those at both ends depend on the neighbours as well.
        run = (8 * plain.run - 4) // 6
        return cls.Form(code[start:stop], public, run)


class Unescaped:
    """A text with escapes of JSON, Python, URLs and HTML undone, and where each part came from."""

    NEEDED = re.compile(r"[\\%&]")
    ESCAPE = re.compile(
        r"\\+u([0-9a-fA-F]{4})|\\+x([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|&#[xX]0*([0-9a-fA-F]{1,6});?"
        r"|\\+u\{0*([0-9a-fA-F]{1,6})\}|\\+U([0-9a-fA-F]{8})|%u([0-9a-fA-F]{4})|\\+([0-3][0-7]{2})"
        r"|&#0*(\d{1,7});?|&([a-zA-Z]{2,6});|\\+(.?)",
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        pieces, end = list[str](), 0
        self._starts, self._origins, size = [0], [0], 0
        for found in self.ESCAPE.finditer(text):
            character = self._character(found)
            pieces += [text[end : found.start()], character]
            size += found.start() - end
            self._starts += [size, size + len(character)]
            self._origins += [found.start(), found.end()]
            size, end = size + len(character), found.end()
        self.text = "".join([*pieces, text[end:]])

    @staticmethod
    def _character(found: re.Match[str]) -> str:
        """Return what an escape stands for."""
        *hexadecimal, octal, decimal, name, other = found.groups()
        for digits in hexadecimal:
            if digits is not None:
                return chr(int(digits, 16)) if int(digits, 16) <= sys.maxunicode else ""
        if octal is not None:
            return chr(int(octal, 8))
        if decimal is not None:
            return chr(int(decimal)) if int(decimal) <= sys.maxunicode else ""
        if name is not None:
            return html.unescape(found.group())
        return other

    def origin(self, place: int) -> int:
        """Return where a place of this text was in the text with its escapes."""
        number = bisect.bisect_right(self._starts, place) - 1
        return self._origins[number] + place - self._starts[number]


class Joined(Unescaped):
    """A text without what stands between pairs of hexadecimal digits: `73:6b`, `0x73, 0x6b`."""

    # The first digit of a character that a key may have is 2 to 7.
    NEEDED = re.compile(r"(?:[2-7][0-9a-fA-F][\s:,-]{0,2}(?:0x)?){7}[2-7]")
    ESCAPE = re.compile(r"(?<=[0-9a-fA-F]{2})[\s:,-]{1,2}(?:0x)?(?=[0-9a-fA-F]{2})")

    @staticmethod
    def _character(_found: re.Match[str]) -> str:
        return ""


# Names of headers, and of keys of the body, below which all is a credential when it stands in the
# config as it is.
_SECRET_HEADER = re.compile(
    r"auth|cookie|credential|key|passw|(?<![a-z])pass(?![a-z])|pwd|secret|signature|token",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(
    r"auth(?!ors?$)|credential|passw|pwd|secret|signature"
    r"|^(x[-_])?(api|access|bearer|hf|private|refresh|session)?[-_]?(key|token)$",
    re.IGNORECASE,
)
# What is a credential by its look, whatever its name and wherever it stands in a text; not so the
# names of hosts, files and models, such as sk-gpu01.example, hf_mistral-7b-v0.3, xai-grok-4.
_LIKE_A_KEY = re.compile(
    r"(?<![A-Za-z0-9@])(?<!//)(sk-(?=[\w-]*\d)[\w-]{16,}|(gsk|hf|gh[pous])_[A-Za-z0-9]{16,}"
    r"|(github_pat_|glpat-|nvapi-|AIza)(?=[\w-]*\d)[\w-]{16,}|xai-[A-Za-z0-9]{20,}"
    r"|AKIA[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w.-]{8,})"
    r"|(?<=[Bb]earer )(?=\S*\d)[^\s\"']{12,}|^([Bb]earer|[Bb]asic|[Dd]igest) \S+$"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Literals:
    """Takes the credentials out of a JSON value that a person wrote, and keeps them in `taken`.

    They are what stands below a name of `names`, and what looks like a key. `${NAME}` is none: it
    only says which environment variable holds the credential.
    """

    # Variables with the names before them, and how they are used.
    FILLED = re.compile(r"([^\s;,=]+=)?\$\{[^}]*\}|\b(basic|bearer|digest|token)\b", re.IGNORECASE)
    SCHEME = re.compile(r"\s*(basic|bearer|digest|token)\s+", re.IGNORECASE)

    def __init__(self, names: re.Pattern[str] | None = None) -> None:
        self.names = names
        self.taken: list[str] = []
        self.variables: list[str] = []  # where a credential stands

    def without(self, value: Any, *, secret: bool = False) -> Any:
        """Return the value with each credential replaced; all of it is one if it is `secret`."""
        if isinstance(value, Mapping):
            return {
                name: self.without(item, secret=secret or self._is_secret(name))
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.without(item, secret=secret) for item in value]
        if secret and value is not None and not isinstance(value, bool):
            text = str(value)
            self.variables += _VARIABLE.findall(text)
            if re.search(r"[^\s;,]", self.FILLED.sub("", text)):
                self.taken.append(self.SCHEME.sub("", text, 1))
                return REDACTED
        return _LIKE_A_KEY.sub(self._take, value) if isinstance(value, str) else value

    def _is_secret(self, name: object) -> bool:
        return self.names is not None and self.names.search(str(name)) is not None

    def _take(self, found: re.Match[str]) -> str:
        self.taken.append(self.SCHEME.sub("", found.group(), 1))
        return REDACTED


# A part of a URL's query that is a credential: `?api-key=…`, `&sig=…`, Google's `?key=…`.
_SECRET_QUERY = re.compile(
    r"([?&][^=&#\s\"]*(?:auth|code|credential|key|passw|pwd|secret|sig|token)[^=&#\s\"]*=)"
    r"([^&#\s\"]+)",
    re.IGNORECASE,
)


def _without_password(url: str) -> str:
    """Return a URL with its user part, and what is secret in its query, replaced.

    In a text that is no valid URL nobody can tell where the user part ends, so everything up to the
    last @ is replaced.
    """
    is_url = re.fullmatch(r"[\w+.-]+://([^/?#\s\"]*@)?[^@\s\"]*", url)
    user_part = r"//[^/?#]*@" if is_url else r"//[^\s\"]*@"
    url = re.sub(user_part, f"//{REDACTED}@", url)
    return _LIKE_A_KEY.sub(REDACTED, _SECRET_QUERY.sub(rf"\g<1>{REDACTED}", url))


_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: object, limit: int = 500) -> str:
    """Return a text that is safe to show on a terminal or in a log, cut at `limit` characters.

    Control characters and those that change the direction of text are written as escapes, so the
    result is one line.
    """
    shown = str(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], shown)


# === Config ===


class Strict(pydantic.BaseModel):
    """A part of a file written by a person: exact types, no unknown keys.

    Each key's description says what is allowed there; it is what an error shows.
    """

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    SYNONYMS: ClassVar[Mapping[str, str]] = {}  # what other programs call a key

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Check data and return them as this type.

        Raises ValueError, one line: the key, its value, what is allowed.
        """
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise ValueError(cls._first_fault(error, data)) from None

    @classmethod
    def _first_fault(cls, error: pydantic.ValidationError, data: Mapping[str, Any]) -> str:
        """Say the first thing that is wrong; a misspelt key comes before the one it stands for."""
        faults = error.errors(include_url=False)
        faults.sort(key=lambda fault: fault["type"] == "missing")
        first, *others = faults
        fields, value, keys = cls.model_fields, cast(Any, data), list[str]()
        description = "an object"
        for part in first["loc"]:
            known = isinstance(value, dict) and part in fields
            if known and (part in value or first["type"] == "missing"):
                keys.append(str(part))
                description = fields[str(part)].description or ""
                value = value.get(part)
                fields = cls._fields_of(fields[str(part)].annotation)
        key = ".".join(keys)
        if first["type"] == "missing":
            return f"{key}: is missing; it must be {description}"
        if first["type"] == "extra_forbidden":
            return cls._unknown_key([*keys, str(first["loc"][-1])], fields or cls.model_fields)
        distinct = {other["loc"][:1] for other in others} - {first["loc"][:1]}
        more = f" ({len(distinct)} more such)" if distinct else ""
        shown = printable(_without_password(json.dumps(value, ensure_ascii=False)), 80)
        if key.endswith(("api_key_env", "headers", "extra_body", "power_command")):
            shown = "what stands there"  # people put the key itself there
            key = ".".join([key, *(printable(part, 60) for part in first["loc"][len(keys) :][:1])])
        return f"{key}: {shown} is not allowed; it must be {description}{more}"

    @staticmethod
    def _fields_of(annotation: Any) -> dict[str, Any]:
        """Return the fields of the model that stands in an annotation, if any."""
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, Strict):
                return dict(candidate.model_fields)
        return {}

    @classmethod
    def _unknown_key(cls, keys: Sequence[str], fields: Mapping[str, Any]) -> str:
        near = difflib.get_close_matches(keys[-1], fields, 1, 0.7)
        meant = cls.SYNONYMS.get(keys[-1].lower().replace("-", "_")) if len(keys) == 1 else None
        if meant is not None or near:
            hint = f"did you mean {meant or near[0]}?"
        else:
            hint = f"known are {', '.join(fields)}"
        return f"{printable('.'.join(keys), 80)}: unknown key; {hint}"


def key(default: Any, allowed: str) -> Any:
    """Return a key of a Strict type, with its default and what is allowed there."""
    return pydantic.Field(default, description=allowed)


Count = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
Level = Annotated[int, pydantic.Field(ge=1, le=100_000)]
Levels = Level | Annotated[list[Level], pydantic.Field(min_length=1, max_length=1000)]
Seconds = Annotated[float, pydantic.Field(gt=0, le=31_536_000, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Rate = Annotated[float, pydantic.Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, pydantic.Field(min_length=1, max_length=1000)]
Header = Annotated[str, pydantic.Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
Comparison = Annotated[
    str, pydantic.Field(pattern=r"^\s*(<=|>=|<|>)\s*-?\d+(\.\d+)?([eE][+-]?\d+)?\s*$")
]
A_SERVER = 'a URL such as "http://host:8000/v1", or "embedded"'
A_MODEL = "a model's name, as the server names it"


class Slo(Strict):
    """What a request must meet to count for goodput."""

    ttft_ms: Positive | None = key(None, "a number of ms above 0")
    tpot_ms: Positive | None = key(None, "a number of ms above 0")
    e2e_ms: Positive | None = key(None, "a number of ms above 0")
    quality: Share | None = key(None, "a number from 0 to 1")

    def is_in_time(self, result: Result) -> bool:
        """Whether an ok request meets the limits of time; one that was not measured meets none."""
        ttft_ms, e2e_ms = result.ttft_ms, result.time_ms
        if result.scheduled_ns is not None:  # a user waits from when the request was due
            ttft_ms, e2e_ms = result.scheduled_ttft_ms, result.scheduled_e2e_ms
        limits = [(self.ttft_ms, ttft_ms), (self.e2e_ms, e2e_ms)]
        if result.token is None or result.token > 1:  # one token has no TPOT, and needs none
            limits.append((self.tpot_ms, result.tpot_ms))
        judged = [(limit, value) for limit, value in limits if limit is not None]
        return all(value is not None and value <= limit for limit, value in judged)


class Hardware(Strict):
    """How the machine is watched, and what it costs."""

    sample_s: NotNegative | None = key(1, "a number of seconds from 0, or null; 0 and null: off")
    idle_s: NotNegative = key(3, "a number of seconds from 0")
    metrics_url: Name | None = key(None, "a URL, or null")
    power_url: Name | None = key(None, "a URL, or null")
    power_path: Name | None = key(None, 'a path such as "meters.0.power", or null')
    power_command: Name | None = key(None, "a command that prints watts, or null")
    price_per_kwh: NotNegative | None = key(None, "a number from 0")
    price_per_hour: NotNegative | None = key(None, "a number from 0")

    def fault(self) -> str | None:
        """Say what is wrong that the types of single keys cannot show; None if nothing is."""
        if self.sample_s and self.sample_s < 0.1:
            return f"sample_s: {self.sample_s:g} is too often; it must be 0.1 or more, 0 or null"
        if self.power_url and self.power_command:
            return "power_command: power_url is set as well; keep one of them"
        if self.power_path and not self.power_url:
            return "power_path: says where in the answer of power_url the watts are; set that too"
        try:
            if self.power_command is not None and not shlex.split(self.power_command):
                return "power_command: is empty; it must be a command that prints watts, or null"
        except ValueError as error:
            return f"power_command: {error}; it is split into words as a shell does"
        return None


class AbortIf(Strict):
    """When a run is ended early: judged from 20 answers on; a dead server ends it in any case."""

    error_rate: Comparison | None = key(None, 'a comparison such as "> 0.5"')
    failed: Comparison | None = key(None, 'a comparison such as ">= 100"')


class Judge(Strict):
    """An LLM that grades answers after the run."""

    server: Name = pydantic.Field(description=A_SERVER)
    model: Name = pydantic.Field(description=A_MODEL)
    api_key_env: Name | None = key(None, "the name of an environment variable, or null")


class Config(Strict):
    """config.json."""

    SYNONYMS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("url", "base_url", "api_base", "endpoint", "host"), "server"),
        **dict.fromkeys(
            ("concurrency", "parallel", "users", "num_workers", "threads"), "concurrent"
        ),
        **dict.fromkeys(("num_prompts", "num_requests", "requests", "count"), "questions"),
        **dict.fromkeys(("request_rate", "rps", "qps"), "rate"),
        **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "num_predict"), "max_tokens"),
        **dict.fromkeys(("api_key", "key", "token"), "api_key_env"),
        **dict.fromkeys(("verify_ssl", "ssl_verify", "insecure"), "verify_tls"),
        **dict.fromkeys(("ca_bundle", "cacert"), "ca_file"),
        **dict.fromkeys(("system", "system_message"), "system_prompt"),
        **dict.fromkeys(("streaming",), "stream"),
        **dict.fromkeys(
            ("top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "logit_bias"),
            'extra_body, such as {"top_p": 0.9}',
        ),
    }

    server: Name = pydantic.Field(description=A_SERVER)
    model: Name = pydantic.Field(description=A_MODEL)
    concurrent: Levels = key(1, "an integer from 1, or a list of them (a sweep)")
    questions: Count | Literal["all"] = key("all", 'an integer from 1, or "all"')
    timeout: Seconds = key(120, "a number of seconds above 0")
    startup_timeout: NotNegative = key(120, "a number of seconds from 0")
    api: Literal["chat", "completions", "responses"] = key(
        "chat", '"chat", "completions" or "responses"'
    )
    stream: bool = key(True, "true or false")
    api_key_env: Name | None = key(None, "the name of an environment variable, or null")
    headers: dict[Header, str] = key({}, "an object of header names and texts")
    extra_body: dict[str, Any] = key(
        {}, "an object, added to the body of each request; null takes a key away"
    )
    system_prompt: str | None = key(None, "a text, or null")
    temperature: Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)] | None = key(
        0, "a number from 0, or null"
    )
    max_tokens: Count | None = key(512, "an integer from 1, or null")
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] | None = key(
        None, "an integer from 0, or null"
    )
    stop: str | list[str] | None = key(None, "a text, a list of texts, or null")
    rate: Rate | None = key(None, "requests/s, a number from 0.000001, or null (closed loop)")
    arrival: Literal["poisson", "constant", "gamma"] = key(
        "poisson", '"poisson", "constant" or "gamma"'
    )
    burstiness: Annotated[float, pydantic.Field(ge=0.001, le=1000, allow_inf_nan=False)] = key(
        1, "a number from 0.001 (gamma's shape: below 1 is burstier than poisson)"
    )
    duration: Seconds | None = key(None, "a number of seconds above 0, or null")
    warmup: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = key(0, "an integer from 0")
    ramp_up: NotNegative = key(0, "a number of seconds from 0")
    idle_timeout: Seconds = key(30, "a number of seconds above 0")
    max_answer_bytes: Annotated[int, pydantic.Field(ge=1024, le=2**31)] = key(
        16_777_216, "an integer from 1024"
    )
    abort_if: AbortIf | None = key(
        AbortIf(), 'an object such as {"error_rate": "> 0.5"}, or null (never)'
    )
    slo: Slo = key(Slo(), "an object of ttft_ms, tpot_ms, e2e_ms, quality")
    thresholds: dict[str, Comparison] = key({}, 'an object such as {"ttft_ms.p95": "<= 500"}')
    cooldown: NotNegative = key(0, "a number of seconds from 0")
    hardware: Hardware = key(
        Hardware(),
        "an object of sample_s, idle_s, metrics_url, power_url, power_path, power_command, "
        "price_per_kwh, price_per_hour",
    )
    judge: Judge | None = key(None, "an object of server, model, api_key_env, or null")
    stability_floor: bool | None = key(None, "true, false, or null (at temperature 0)")
    cache_bust: bool = key(False, "true or false")
    record_chunk_times: bool = key(True, "true or false")
    verify_tls: bool = key(True, "true or false")
    ca_file: Name | None = key(None, "a file's path, or null")
    client_cert: Name | None = key(None, "a file's path, or null")
    client_key: Name | None = key(None, "a file's path, or null")
    proxy: Name | None = key(None, 'a URL such as "http://proxy:3128", or null')

    @property
    def levels(self) -> list[int]:
        """The stages' concurrency, one stage without a sweep."""
        return self.concurrent if isinstance(self.concurrent, list) else [self.concurrent]

    @property
    def asks_floor(self) -> bool:
        """Whether a sweep asks its lowest level twice: to see how answers differ without load."""
        wanted = self.stability_floor
        if wanted is None:
            wanted = self.temperature == 0
        fits = len(set(self.levels)) > 1 and self.levels.count(min(self.levels)) == 1
        return wanted and fits and self.duration is None and not self.cache_bust

    @property
    def passes(self) -> int:
        """How often all stages together go through the questions, when there is no `duration`."""
        return len(self.levels) + self.asks_floor

    @property
    def question_count(self) -> int | None:
        """How many questions a stage asks; None for the catalogue as it is."""
        if self.duration is not None or self.questions == "all":
            return None
        return self.questions

    @property
    def urls(self) -> dict[str, str]:
        """Every URL in it, by its key; the one place that knows them all."""
        named = {"server": self.server, "proxy": self.proxy}
        if self.judge is not None:
            named["judge.server"] = self.judge.server
        named["hardware.metrics_url"] = self.hardware.metrics_url
        named["hardware.power_url"] = self.hardware.power_url
        return {name: url for name, url in named.items() if url not in (None, "embedded")}

    def fault(self) -> str | None:
        """Say what is wrong that the types of single keys cannot show; None if nothing is."""
        for name, url in self.urls.items():
            is_server, takes_query = "server" in name, name != "proxy"
            if "${" in url and not name.startswith("hardware"):
                where = "headers, metrics_url and power_url; give a key by api_key_env or a header"
                return f"{name}: ${{NAME}} is filled in only in {where}"
            if problem := self._url_fault(url, of_server=is_server, takes_query=takes_query):
                field = type(self).model_fields.get(name)
                allowed = A_SERVER.partition(",")[0] if field is None else field.description
                return f"{name}: {problem}; it must be {allowed}"
        # null is allowed for `model` and `stream`: it takes away a key that the server refuses.
        given = {name for name, value in self.extra_body.items() if value is not None}
        asked = {"messages", "prompt", "input"} & self.extra_body.keys()
        if reserved := asked | {"model", "stream"} & given:
            return f"extra_body: {min(reserved)} is set by the test itself; take it out"
        literals = Literals(_SECRET_KEY)
        literals.without(self.extra_body)
        if literals.variables:
            return "extra_body: ${NAME} is not filled in there; give the key in a header"
        if wrong := self.hardware.fault():
            return f"hardware.{wrong}"
        if self.client_key is not None and self.client_cert is None:
            return "client_key: needs client_cert, the certificate that it belongs to"
        has_quality = (HERE / "extensions" / "quality.py").is_file()
        for name, value in (("slo.quality", self.slo.quality), ("judge", self.judge)):
            if value is not None and not has_quality:
                return f"{name}: needs extensions/quality.py, which is not there"
        return ThresholdCheck.fault(self)

    @staticmethod
    def _url_fault(text: str, *, of_server: bool, takes_query: bool) -> str | None:
        """Say why a text is no URL that can be used here; None if it is one."""
        with contextlib.suppress(ValueError):
            url = yarl.URL(text)
            known = url.scheme in ("http", "https") and url.host and url.port
            known = known or (of_server and unix_socket_path(text) is not None)
            host = (url.host or "").partition("%")[0]
            if re.match(r"\w+://[^/?#]*\[", text) or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host):
                ipaddress.ip_address(host)
            if known and not _UNPRINTABLE.search(text) and " " not in text:
                if url.fragment:
                    return "a URL takes no fragment (#…)"
                if url.query_string and not takes_query:
                    return "a proxy's URL takes no query (?…)"
                return None
        shown = json.dumps(printable(_without_password(text), 80), ensure_ascii=False)
        return f"{shown} is not allowed"

    def without_passwords(self, taken: list[str] | None = None) -> dict[str, Any]:
        """Return it as JSON, for files: without the passwords and credentials written into it.

        These are added to `taken`, but for those in URLs. Of a command only its name is left, since
        nobody can tell which of its arguments are passwords.
        """
        shown = self.model_dump()
        names = {"headers": _SECRET_HEADER, "extra_body": _SECRET_KEY}
        for name in shown.keys() - {"model"}:
            literals = Literals(names.get(name))
            shown[name] = literals.without(shown[name])
            if taken is not None:
                taken += literals.taken
        for name in self.urls:
            outer, _, inner = name.rpartition(".")
            part = shown[outer] if outer else shown
            part[inner] = _without_password(part[inner])
        if (command := self.hardware.power_command) is not None:
            program, *arguments = shlex.split(command)
            shown["hardware"]["power_command"] = f"{program} {REDACTED}" if arguments else program
        return shown


def load_config(
    path: Path, overrides: Sequence[str] = (), before: Mapping[str, Any] | None = None
) -> Config:
    """Read and check config.json; `overrides` are KEY=VALUE, the value as JSON or else a text.

    With --resume, `before` is the config that the run began with, from its journal. It replaces
    what the file says, except for values that were redacted in it; overrides must agree with it.
    Raises ConfigError, one line: the file, the key, its value, what is allowed.
    """
    data = read_json(path, ConfigError)
    if not isinstance(data, dict):
        example = '{"server": …, "model": …}'
        raise ConfigError(f"{path}: must hold a JSON object such as {example}, not {kind_of(data)}")
    kept = {name: item for name, item in (before or {}).items() if REDACTED not in json.dumps(item)}
    if differs := [name for name in kept if name in data and not agrees(data[name], kept[name])]:
        notice(
            f"{path.name} differs ({', '.join(differs)}); the run keeps the config it began with"
        )
    data |= kept
    names = [set_key(data, override) for override in overrides]
    try:
        config = Config.read(data)
        if (fault := config.fault()) is not None:
            raise ValueError(fault)
    except ValueError as error:
        fault = str(error)
        key_path = fault.partition(":")[0]
        set_here = (key_path == name or key_path.startswith(f"{name}.") for name in names)
        # A wrong value of --set is often one whose quotes the shell has removed.
        blamed = "--set" if any(set_here) else path
        raise ConfigError(f"{blamed}: {fault}") from None
    if changed := [name for name, item in kept.items() if config.model_dump()[name] != item]:
        what = ", ".join(changed)
        raise ConfigError(f"--resume: the run had another config ({what}); choose another name")
    for name in ("concurrent", "questions", "timeout"):
        if name not in data:
            default = json.dumps(getattr(config, name))
            logger.warning("%s: %s is not set; using %s", path.name, name, default)
    return config


def agrees(part: Any, whole: Any) -> bool:
    """Whether a JSON value is part of another one: in objects the other may have more keys."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and agrees(part[name], whole[name]) for name in part)
    return bool(part == whole)


def find_file(given: Path | None, name: str) -> Path:
    """Return the given file, else the one in the current directory or beside the script."""
    if given is not None:
        return given
    here = Path.cwd() / name
    return here if here.exists() else HERE / name


def set_key(data: dict[str, Any], override: str) -> str:
    """Set KEY=VALUE in the data of config.json; `slo.ttft_ms=500` reaches into an object.

    Returns the key. Raises ConfigError, one line.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        given = printable(_without_password(override))
        raise ConfigError(f"--set {given}: write KEY=VALUE, such as --set concurrent=8")
    try:
        value = StrictJson.loads(text)
    except json.JSONDecodeError:
        value = text
    except ValueError as cause:
        raise ConfigError(f"--set {printable(name)}: {cause}") from None
    outer, _, inner = name.partition(".")
    *path, last = name.split(".")
    if inner and outer in ("thresholds", "headers"):  # a metric's or a header's name may hold dots
        path, last = [outer], inner
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {printable(name)}: {part} is not an object")
    data[last] = value
    return name


# --- JSON files ---


class StrictJson:
    """Reads JSON, and refuses what Python reads beyond the standard (NaN), and a key given twice.

    Nesting is limited too, so that whatever this program makes of it can be written and read again.
    """

    DEEPEST = 200  # levels; pydantic writes 255

    @classmethod
    def loads(cls, text: str) -> Any:
        """Return the value. Raises ValueError (JSONDecodeError where it is no JSON)."""
        try:
            value = json.loads(
                text,
                object_pairs_hook=cls._object,
                parse_constant=cls._refuse_constant,
                parse_float=cls._finite,
            )
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        layer = [value]
        for _ in range(cls.DEEPEST):
            layer = [item for part in layer for item in cls._items(part)]
        if layer:
            raise ValueError("is nested too deeply")
        return value

    @staticmethod
    def _items(value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            return value.values()
        return value if isinstance(value, list) else ()

    @staticmethod
    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            times = Counter(name for name, _ in pairs)
            twice = next(name for name in times if times[name] > 1)
            raise ValueError(f"the key {json.dumps(twice)} stands there twice; keep one")
        return data

    @staticmethod
    def _refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON; write a number, or null")

    @staticmethod
    def _finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text[:40]} is too large a number")
        return value


class NotJson:
    """A text that is no JSON: says what it looks like instead, and what to do."""

    def __init__(self, path: Path, text: str, fault: json.JSONDecodeError) -> None:
        self.path, self.text = path, text
        self.before, self.rest = text[: fault.pos], text[fault.pos :]
        self.lines = [line.strip() for line in text.splitlines() if line.strip()][:50]

    def what(self) -> str | None:
        """Return a clause for people; None when it looks like nothing that is known here."""
        return next((said for look in self.LOOKS if (said := look(self)) is not None), None)

    def _lines_of_json(self) -> str | None:
        try:
            values = [json.loads(line) for line in self.lines]
        except (ValueError, RecursionError):
            return None
        if len(values) < 2 or not all(isinstance(value, dict | list) for value in values):
            return None
        remedy = "put the lines into one list, [line, line, …], as `jq -s .` does"
        return f"is JSON Lines, one JSON value a line; {remedy}"

    def _slip(self) -> str | None:
        """Look for what people write into JSON and other formats allow."""
        start = self.rest.lstrip()
        # Python 3.13 points at the comma, older ones behind it.
        comma = self.before.rstrip().endswith(",") or start.startswith(",")
        if comma and start.removeprefix(",").lstrip()[:1] in ("}", "]"):
            return "a trailing comma; take it out, the last entry has none behind it"
        if start.startswith(("//", "/*", "#")) and self.text.lstrip()[:1] in ("{", "[", "/"):
            return "a comment, which JSON does not have; take it out"
        if start.startswith("'"):
            return "single quotes; texts and keys stand in double quotes"
        if re.match(r"(True|False|None)\b", start):
            return "a value of Python; write true, false or null"
        if re.match(r"[A-Za-z_]\w*\s*:", start) and self.text.lstrip().startswith("{"):
            return 'a key without quotes; write "key": value'
        return None

    def _other_format(self) -> str | None:
        suffix, first = self.path.suffix.lower(), self.lines[0]
        if suffix in (".yaml", ".yml") or re.match(r"---|(- )?['\"]?[\w. -]+['\"]?:(\s|$)", first):
            return "looks like YAML; write it as JSON"
        if first.startswith("<"):
            return "looks like HTML or XML; write it as JSON"
        # A table has the same separator in every line.
        separated = any(all(mark in line for line in self.lines) for mark in ",;\t")
        as_table = len(self.lines) > 1 and separated
        if suffix in (".csv", ".tsv") or (as_table and first[:1] not in ("{", "[")):
            return 'looks like CSV; write a JSON list of objects such as {"question": "…"}'
        if first[:1] not in ("{", "["):
            return 'looks like plain text; write a JSON list of texts: ["…", "…"]'
        return None

    LOOKS = (_lines_of_json, _slip, _other_format)


def read_json(path: Path, error: type[StressTestError]) -> Any:
    """Read a strict JSON file in UTF-8. Raises `error`, one line."""
    try:
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "no such file"
            raise error(f"{path}: {problem}")
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
        data = StrictJson.loads(text)
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as cause:
        place = f"line {cause.lineno}, column {cause.colno}"
        what = NotJson(path, text, cause).what() or f"is not JSON: {cause.msg}"
        raise error(f"{path}: {place}: {what}") from None
    except UnicodeEncodeError:
        half = "half of a surrogate pair (\\ud800 to \\udfff)"
        raise error(f"{path}: holds {half}, which no server can read") from None
    except ValueError as cause:
        raise error(f"{path}: {cause}") from None
    return data


def kind_of(value: Any) -> str:
    """Name a JSON value's kind for people."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


# === Questions ===


class Question(Strict):
    """One entry of the catalogue: a question, or the turns of a conversation."""

    SYNONYMS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("prompt", "instruction", "input", "query", "text", "frage"), "question"),
        **dict.fromkeys(("answer", "output", "response", "reference", "antwort"), "expected"),
        **dict.fromkeys(("ideal", "target", "solution", "ground_truth", "lösung"), "expected"),
        **dict.fromkeys(("conversations", "conversation", "messages", "dialog"), "turns"),
        **dict.fromkeys(("question_id", "task_id", "custom_id", "uid", "key", "nr"), "id"),
        **dict.fromkeys(("system", "system_message"), "system_prompt"),
        **dict.fromkeys(("topic", "subject", "kategorie"), "category"),
        **dict.fromkeys(("metric", "scorer", "evaluator", "type"), "grader"),
        **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "max_length"), "max_tokens"),
    }

    question: str | None = key(None, "a text")
    turns: Annotated[list[str], pydantic.Field(min_length=1)] | None = key(
        None, "a list of texts, asked one after the other"
    )
    id: Annotated[str, pydantic.Field(min_length=1, max_length=500)] = key("", "a text")
    category: str | None = key(None, "a text")
    system_prompt: str | None = key(None, "a text")
    max_tokens: Count | None = key(None, "an integer from 1")
    grader: str | None = key(None, "the name of a grader")
    expected: Any = key(None, "what the grader takes")
    tolerance: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None = key(
        None, "a number from 0"
    )
    threshold: Share | None = key(None, "a number from 0 to 1")

    @classmethod
    def of_entry(cls, entry: Any) -> Self:
        """Read one entry of the catalogue, a text or an object. Raises ValueError, one line."""
        data = {"question": entry} if isinstance(entry, str) else entry
        if not isinstance(data, dict):
            raise ValueError(f"must be a text or an object, not {kind_of(entry)}")
        question = cls.read(data)
        if (question.question is None) == (question.turns is None):
            raise ValueError('give either "question" or "turns"')
        if question.grader is None and question.expected is not None:
            raise ValueError('expected: needs a grader, such as "grader": "contains"')
        if question.grader is not None:
            with contextlib.suppress(ExtensionError):  # without it answers stay ungraded
                names = import_extension("quality", "quality").GRADERS
                if question.grader not in names:
                    shown = json.dumps(printable(question.grader, 80), ensure_ascii=False)
                    must_be = f"it must be one of {', '.join(names)}"
                    raise ValueError(f"grader: {shown} is not allowed; {must_be}")
        return question

    @property
    def texts(self) -> list[str]:
        """What is asked, in order; one text unless it is a conversation."""
        return self.turns if self.turns is not None else [self.question or ""]

    def system(self, config: Config) -> str | None:
        """Return the system prompt that goes with it."""
        return config.system_prompt if self.system_prompt is None else self.system_prompt


def load_questions(path: Path, count: int | None = None) -> list[Question]:
    """Read questions.json; return `count` questions in its order, starting over at its end.

    Without a count, each question once.
    Raises QuestionsError, one line: the file, the question's place and id, the key, what is
    allowed.
    """
    data = read_json(path, QuestionsError)
    if isinstance(data, dict) and set(data) == {"questions"}:
        data = data["questions"]
    if not isinstance(data, list):
        shape = 'a list of questions, or {"questions": […]}'
        raise QuestionsError(f"{path}: must hold {shape}, not {kind_of(data)}")
    if not data:
        raise QuestionsError(f"{path}: holds no question; add at least one")
    catalogue = []
    for place, entry in enumerate(data, 1):
        name = f"question {place}"
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            name += f" ({printable(entry['id'], 60)})"
        try:
            question = Question.of_entry(entry)
        except ValueError as fault:
            raise QuestionsError(f"{path}: {name}: {fault}") from None
        if not all(text.strip() for text in question.texts):
            logger.warning("%s: %s is blank", path.name, name)
        catalogue.append(question)
    catalogue = with_ids(path, catalogue)
    return list(itertools.islice(itertools.cycle(catalogue), count or len(catalogue)))


def with_ids(path: Path, catalogue: Iterable[Question]) -> list[Question]:
    """Give each question without an id one from a hash of its text.

    Raises QuestionsError for an id that stands there twice.
    """
    catalogue = list(catalogue)
    given = Counter(question.id for question in catalogue if question.id)
    if twice := next((name for name in given if given[name] > 1), None):
        shown = json.dumps(printable(twice, 80))
        raise QuestionsError(f"{path}: id {shown} stands there twice; ids must be unique")
    seen = Counter[str]()
    for place, question in enumerate(catalogue):
        if not question.id:
            digest = hashlib.sha256("\n".join(question.texts).encode()).hexdigest()[:12]
            seen[digest] += 1
            again = f"-{seen[digest]}" if seen[digest] > 1 else ""
            catalogue[place] = question.model_copy(update={"id": f"q-{digest}{again}"})
    return catalogue


def questions_hash(questions: Iterable[Question]) -> str:
    """Return a hash that two runs share when they asked the same questions in the same order."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(question.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


# === Results ===


# Each kind of failure, with what people are told about it.
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
    "aborted": "ended with a finish reason that names a failure",
    "truncated": "ended without [DONE] or a finish reason",
    "empty": "no text at all",
    "too_large": "longer than `max_answer_bytes`",
    "cancelled": "stopped with the run",
    "turn_skipped": "an earlier turn of the conversation failed",
    "internal": "a fault of this program; the log has its traceback",
}
# The kinds that have a status of their own; all others are an "error".
_STATUS_OF_KIND = {
    "timeout": "timeout",
    "idle": "timeout",
    "truncated": "truncated",
    "cancelled": "cancelled",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer that counts."""

    kind: str  # one of FAILURES' names
    message: str
    http_status: int | None = None
    retry_after: str | None = None  # the header of a 429 or 503, as sent

    @property
    def shown(self) -> str:
        """What went wrong in a line for people, with the status where there is one."""
        return failure_text(self.kind, self.http_status, self.message)

    def to_record(self) -> dict[str, Any]:
        """Return the `error` of a results file."""
        record = {"kind": self.kind, "http_status": self.http_status, "message": self.message}
        return record if self.retry_after is None else {**record, "retry_after": self.retry_after}


def failure_text(kind: str, status: int | None, message: str) -> str:
    """Return a failure in a line for people: `HTTP 429: limit of 2 requests`, `reset: …`."""
    name = kind if status in (None, 200) else f"HTTP {status}"
    return f"{name}: {message}" if message not in ("", kind) else name


@dataclasses.dataclass(slots=True)
class Result:
    """What became of one request; each of its metrics is a property, and computed nowhere else.

    Times are ns since the start of the run, in whole microseconds, so that files hold them exactly.
    """

    FEWEST_GAPS: ClassVar = 8  # with fewer, the shape of a stream is not judged
    AT_ONCE_US: ClassVar = 1000  # a shorter gap: the chunk came together with the one before
    LONG_WAIT_US: ClassVar = 40_000  # bursts: the median of the other gaps is at least this

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
    first_ns: int | None = None  # first chunk that brought something, reasoning included
    answer_ns: int | None = None  # first chunk with answer text, not reasoning
    chunks: int = 0
    connect_ns: int | None = None  # how long connecting took, or failed to; None on a kept one
    token: int | None = None
    prompt_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    token_source: str | None = None  # "usage", "total" (minus the prompt) or "chunks"
    finish_reason: str | None = None
    reconnects: int = 0  # kept connections that turned out dead
    client_error_ns: int | None = None  # by how much first_ns may be too late, at most
    merged_chunks: int | None = None  # chunks read with later ones, and so possibly timed late
    server_queue_ms: float | None = None  # the server's own timings, where it sends them
    server_prefill_ms: float | None = None
    server_decode_ms: float | None = None
    model: str | None = None  # as the server named it
    token_doubt: str | None = None  # what the server's token count contradicts
    max_tokens: int | None = None  # the limit that was sent
    max_tokens_from: str | None = None  # where it stands: "config", "question", "extra_body"
    grader: str | None = None  # how the answer is to be graded
    quality: float = 0.0
    graded: bool = False
    grade_reason: str | None = None
    # The answer as it came, where `answer` has a secret taken out. In no file; see RawAnswers.
    raw_answer: str | None = dataclasses.field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the answer counts."""
        return self.status == "ok"

    @property
    def time_ms(self) -> float | None:
        """E2E latency: from sent to the last token; for a failure, how long it took to fail."""
        return ms_between(self.sent_ns, self.end_ns)

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token, reasoning included."""
        return ms_between(self.sent_ns, self.first_ns)

    @property
    def answer_ttft_ms(self) -> float | None:
        """Time to the first token of the answer."""
        return ms_between(self.sent_ns, self.answer_ns)

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None below two, or when all came at once."""
        generating_ms = ms_between(self.first_ns, self.end_ns)
        if not generating_ms or self.token is None or self.token < 2:
            return None
        return generating_ms / (self.token - 1)

    @property
    def came_at_once(self) -> bool:
        """Whether several tokens came in one piece, held back on the way; TPOT is unknown."""
        return self.first_ns is not None and self.first_ns == self.end_ns and (self.token or 0) > 1

    @property
    def came_in_bursts(self) -> bool:
        """Whether most chunks came right after another one, with long waits between the bursts.

        Then something on the way, such as a proxy, collects the stream and passes it on in pieces;
        the gaps are its doing, and often TTFT is as well. Bursts must have four chunks on average,
        because a server with speculative decoding sends a few at a time.
        """
        gaps = self.chunk_gaps_us
        if gaps is None or len(gaps) < self.FEWEST_GAPS:
            return False
        waits = sorted(gap for gap in gaps if gap >= self.AT_ONCE_US)
        if not waits:  # all at once, if faster than any server generates: 10,000 tokens/s
            return sum(gaps) < 100 * len(gaps)
        return len(waits) <= len(gaps) / 4 and waits[len(waits) // 2] >= self.LONG_WAIT_US

    @property
    def cut(self) -> bool:
        """Whether the answer was cut: the server says so, or its tokens reach the limit."""
        return self.cut_at_limit or (self.finish_reason or "").lower() in CUT_REASONS

    @property
    def cut_at_limit(self) -> bool:
        """Whether the answer's tokens reach the limit that was sent, whatever the server says."""
        reached = self.max_tokens is not None and (self.token or 0) >= self.max_tokens
        return reached and self._token_is_certain

    @property
    def cut_early(self) -> bool:
        """Whether it was cut, but not by a limit that was sent: the server has one of its own."""
        if not self.cut or self.max_tokens is None:
            return self.cut
        return self._token_is_certain and (self.token or 0) < self.max_tokens - 2

    @property
    def _token_is_certain(self) -> bool:
        """Whether `token` is the server's own count, and nothing contradicts it."""
        return self.token_source in ("usage", "total") and self.token_doubt is None

    @property
    def ended_unusually(self) -> bool:
        """Whether it has a finish reason that is neither a good end nor a cut."""
        reason = (self.finish_reason or "").lower()
        return bool(reason) and reason not in GOOD_REASONS and reason not in CUT_REASONS

    @property
    def chunk_gaps_us(self) -> list[int] | None:
        """The gaps between successive chunks, in whole microseconds (ITL)."""
        if self.chunk_ns is None:
            return None
        return [(later - earlier) // 1000 for earlier, later in itertools.pairwise(self.chunk_ns)]

    @property
    def connect_ms(self) -> float | None:
        """How long the connection took to open; None when a kept one was used."""
        return ms_between(0, self.connect_ns)

    @property
    def queue_ms(self) -> float | None:
        """Open loop: actual minus scheduled send."""
        return ms_between(self.scheduled_ns, self.sent_ns)

    @property
    def held_ms(self) -> float | None:
        """Open loop: how long it waited for a free place; `queue_ms` without connecting."""
        if self.queue_ms is None:
            return None
        return self.queue_ms - (self.connect_ms or 0.0)

    @property
    def scheduled_ttft_ms(self) -> float | None:
        """Time to first token from the scheduled send, queueing included."""
        return ms_between(self.scheduled_ns, self.first_ns)

    @property
    def scheduled_e2e_ms(self) -> float | None:
        """E2E latency from the scheduled send, queueing included."""
        return ms_between(self.scheduled_ns, self.end_ns)

    @property
    def client_error_ms(self) -> float | None:
        """By how much TTFT (without streaming, E2E latency) may be too long, at most."""
        return ms_between(0, self.client_error_ns)

    @property
    def server_wait_ms(self) -> float | None:
        """TTFT without the server's prefill: the wait in its queue, and the network."""
        if self.ttft_ms is None or self.server_prefill_ms is None:
            return None
        return self.ttft_ms - self.server_prefill_ms

    @property
    def answer_text(self) -> str:
        """The answer as it came, without the reasoning that leads it: what is graded."""
        whole = self.answer if self.raw_answer is None else self.raw_answer
        text = whole[_answer_start(whole) :]
        return _CHANNEL_ENDS.sub("", text) if text.rstrip().endswith("|>") else text

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
            "sent_ms": ms_between(0, self.sent_ns),
            "scheduled_ms": ms_between(0, self.scheduled_ns),
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
            "end_ms": ms_between(0, self.end_ns),
            "client_error_ms": self.client_error_ms,
            "merged_chunks": self.merged_chunks,
            "server_queue_ms": self.server_queue_ms,
            "server_prefill_ms": self.server_prefill_ms,
            "server_decode_ms": self.server_decode_ms,
            "model": self.model,
            "token_doubt": self.token_doubt,
            "max_tokens": self.max_tokens,
            "max_tokens_from": self.max_tokens_from,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read an entry of `results` back; times come out exactly as they were."""
        sent = ms_to_ns(record["sent_ms"])
        first = ms_to_ns(record["ttft_ms"], sent)
        gaps = record["chunk_ms"]
        chunks = None
        if gaps is not None:
            chunks = (
                []
                if first is None
                else list(itertools.accumulate((ms_to_ns(gap) or 0 for gap in gaps), initial=first))
            )
        error = record["error"]
        return cls(
            **{name: record[name] for name in _PLAIN_FIELDS if name in record},
            error=None if error is None else Failure(**error),
            scheduled_ns=ms_to_ns(record["scheduled_ms"]),
            sent_ns=sent,
            end_ns=ms_to_ns(record["end_ms"]),
            chunk_ns=chunks,
            first_ns=first,
            answer_ns=ms_to_ns(record["answer_ttft_ms"], sent),
            connect_ns=ms_to_ns(record["connect_ms"]),
            client_error_ns=ms_to_ns(record.get("client_error_ms")),
        )


_PLAIN_FIELDS = [
    field.name
    for field in dataclasses.fields(Result)
    if not field.name.endswith("_ns") and field.name not in ("error", "raw_answer")
]


def ms_between(start_ns: int | None, end_ns: int | None) -> float | None:
    """Return the time between two moments; None when one of them is not known."""
    if start_ns is None or end_ns is None:
        return None
    return (end_ns - start_ns) / NS_PER_MS


def ms_to_ns(ms: float | None, start_ns: int | None = 0) -> int | None:
    """Return the moment that many ms after `start_ns`, in whole microseconds; None if unknown."""
    if ms is None or start_ns is None:
        return None
    return start_ns + round(ms * 1000) * 1000


# What begins and what ends the reasoning inside an answer, where the server has not taken it out:
# R1's template, Gemini, Magistral, Kimi, Seed, Command A, Sky-T1.
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
# gpt-oss's channels; the second without its special tokens, as some servers pass it on.
_CHANNELS = (
    (
        re.compile(r"<\|channel\|>"),
        re.compile(r"<\|channel\|>final.{0,40}?<\|message\|>", re.DOTALL),
    ),
    (re.compile(r"analysis(?=[A-Z\s])"), re.compile(r"assistant\s?final")),
)
_CHANNEL_ENDS = re.compile(r"(<\|(return|end|im_end|eot_id)\|>\s*)+$")


def _answer_start(answer: str) -> int:
    """Return the place where the reasoning at the start of an answer ends, and the answer begins.

    It is the answer's length if the reasoning has not ended, and 0 if there is none. The opening
    mark may be missing, since many templates put it into the prompt.
    """
    start = len(answer) - len(answer.lstrip())
    for opening, closing in _THOUGHTS:
        if answer.startswith(opening, start):
            end = answer.find(closing)
            return len(answer) if end < 0 else end + len(closing)
    for channel, final in _CHANNELS:
        if channel.match(answer, start):
            ends = [found.end() for found in final.finditer(answer)]
            if ends or "|" in channel.pattern:
                return ends[-1] if ends else len(answer)
    for opening, closing in _THOUGHTS:
        end = answer.find(closing)
        is_quoted = answer[end - 1 : end] in ("`", "'", '"')  # the answer is about the mark
        if end >= 0 and opening not in answer[:end] and not is_quoted:
            return end + len(closing)
    return 0


# Finish reasons, in lower case. One that is in neither set is a failure if it is named like one
# (_FAILED_REASON), else an unusual end, which the verdict mentions.
CUT_REASONS = frozenset({
    "length", "limit", "max_length", "max_tokens", "max_new_tokens", "max_output_tokens",
    "max_completion_tokens", "token_limit", "context_length", "model_length",
    "model_context_window_exceeded",
})  # fmt: skip
GOOD_REASONS = frozenset({
    "stop", "tool_calls", "tool_use", "function_call", "eos", "eos_token", "end_turn", "end",
    "stop_sequence", "stop_token", "complete", "completed", "done", "finish", "finished", "success",
    "finish_reason_stop",
})  # fmt: skip
_FAILED_REASON = re.compile(
    r"abort|bad_?gateway|broken|cancel|crash|disconnect|engine|error|exceeded|exception|fail|fatal"
    r"|insufficient|interrupt|invalid|kill|lost|malformed|network|oom|out_of|overload|panic|preempt"
    r"|refused|reject|reset|shutdown|server|system_resource|terminat|time_?out|unavailable"
)


# === Server ===


CONNECT_TIMEOUT_S = 10.0  # a host that does not answer by then is not there, whatever `timeout` is


@dataclasses.dataclass(frozen=True)
class Target:
    """The server: what requests need to reach it, and what files may show of it."""

    base: str  # the URL without user part, query and slash at its end
    shown: str  # the URL for people and files, without its secrets
    headers: Mapping[str, str]
    redact: Redactor
    tls: ssl.SSLContext | bool
    proxy: str | None
    server_pid: int | None = None  # the embedded server's process
    embedded: Mapping[str, Any] | None = None  # what extensions/embedded.py says of its server
    query: str = ""  # of the server's URL; it goes with every call, as Azure's ?api-version= must
    unix_socket: str | None = None  # the path of the socket that the server listens on

    def url(self, path: str) -> yarl.URL:
        """Return the address of a path of the API."""
        return yarl.URL(f"{self.base}/{path}" + (f"?{self.query}" if self.query else ""))


def unix_socket_path(url: str) -> str | None:
    """Return the socket's path of `http+unix://%2Frun%2Fllm.sock/v1`; None for another URL."""
    found = re.match(r"http\+unix://([^/?#@]+)", url)
    path = "" if found is None else urllib.parse.unquote(found[1])
    return path if path.startswith("/") else None


class _Credentials:
    """Collects the headers of all requests, and the secrets to keep out of everything written."""

    # The name of an environment variable as people choose it; keys are longer and more mixed.
    NAME = re.compile(r"_*([A-Za-z]{1,16}|[A-Za-z0-9]{1,6})(_+([A-Za-z]{1,16}|[A-Za-z0-9]{1,6}))*")

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.secrets: list[str] = []
        self.headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # unpacking would cost time and could fill the memory
            "Accept": "text/event-stream" if config.stream else "application/json",
            "User-Agent": f"llm-stresstest/{__version__}",
        }

    def read_secret(self, name: str) -> str:
        """Return the value of an environment variable, and keep it secret. Raises ConfigError."""
        value = self._environment.get(name, "")
        if not value:
            is_name = self.NAME.fullmatch(name) and not _LIKE_A_KEY.match(name)
            if not is_name:  # never shown: people write the key itself there
                what = "api_key_env (or ${…} in a header) must name an environment variable"
                wrong = "and the text there names none; if it is the key itself"
                raise ConfigError(f"{what}, {wrong}, export it under a name such as LLM_API_KEY")
            shown = printable(name, 80)
            raise ConfigError(
                f"the environment variable {shown} is not set; export it with the key"
            )
        if not Redactor.is_secret(value):
            shown = printable(name, 80)
            logger.warning(
                "the key in %s is short or a common word: it is no secret, files may show it", shown
            )
        self.secrets.append(value)
        return value

    def add_header(self, name: str, text: str) -> None:
        """Take a header of the config, with `${NAME}` filled in from the environment."""
        filled = _VARIABLE.sub(lambda found: self.read_secret(found.group(1)), text)
        self.headers[name] = self.checked(f"headers.{name}", filled)

    def add_key(self, variable: str) -> None:
        """Take the API key from its environment variable."""
        key = self.checked(f"the key in {variable}", self.read_secret(variable))
        self.headers["Authorization"] = f"Bearer {key}"

    def add_user(self, user: str, password: str) -> None:
        """Take the user part of the server's URL."""
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.secrets.append(basic)
        self.headers["Authorization"] = f"Basic {basic}"

    def hide_in_url(self, link: str | None) -> None:
        """Keep secret what a URL holds: variables, its query's credentials, its password.

        A user part without a password is taken for a key.
        """
        if link is not None:
            for variable in _VARIABLE.findall(link):
                self.read_secret(variable)
            self.secrets += [value for _, value in _SECRET_QUERY.findall(link)]
            url = yarl.URL(link)
            parts = (url.raw_password, url.password)
            if not url.password:
                parts = (url.raw_user, url.user)
            self.secrets += filter(None, parts)

    @staticmethod
    def checked(name: str, value: str) -> str:
        """Return a header's value. Raises ConfigError when HTTP cannot carry it."""
        if not value.isascii() or _UNPRINTABLE.search(value) or value != value.strip():
            wrong = "has a character that an HTTP header cannot carry, or white space at an end"
            raise ConfigError(f"{printable(name, 80)}: {wrong}")
        return value


def resolve_target(config: Config, environment: Mapping[str, str]) -> Target:
    """Return the server with its secrets, which the environment gives. Raises ConfigError."""
    credentials = _Credentials(config, environment)
    for name, text in config.headers.items():
        credentials.add_header(name, text)
    if config.api_key_env is not None:
        credentials.add_key(config.api_key_env)
    if config.judge is not None and config.judge.api_key_env is not None:
        credentials.read_secret(config.judge.api_key_env)
    whole, _, query = config.server.partition("?")
    base = whole.rstrip("/")
    unix_socket = unix_socket_path(base)
    if unix_socket is not None:
        base = re.sub(r"http\+unix://[^/]+", "http://localhost", base)
    url = yarl.URL(base)
    if config.server != "embedded":
        base = str(url)  # the host as in DNS, without umlauts: the official client wants it so
    if config.server != "embedded" and (url.user or url.password):
        if config.api_key_env is not None:
            wrong = "has a user part, and api_key_env is set as well; keep one of them"
            raise ConfigError(f"server: {wrong}")
        credentials.add_user(url.user or "", url.password or "")
        base = str(url.with_user(None))
    for link in config.urls.values():
        credentials.hide_in_url(link)
    # The config should hold no credential; if it does, that is kept secret as well.
    config.without_passwords(taken := list[str]())
    for literal in taken:
        words = re.split(r"[\s;,]+", literal)
        credentials.secrets += [literal, *words, *(word.partition("=")[2] for word in words)]
    return Target(
        base=base,
        shown=_without_password(config.server),
        headers=credentials.headers,
        redact=Redactor(credentials.secrets),
        tls=_tls_context(config),
        proxy=None if config.proxy is None else str(yarl.URL(config.proxy)),
        query=query,
        unix_socket=unix_socket,
    )


def _tls_context(config: Config) -> ssl.SSLContext | bool:
    """Return which certificates are trusted, and the one shown to the server.

    True: those that Python trusts; False: any. Raises ConfigError.
    """
    if config.client_cert is None and (config.ca_file is None or not config.verify_tls):
        return config.verify_tls
    key, path = "ca_file", config.ca_file if config.verify_tls else None
    try:
        context = ssl.create_default_context(cafile=path)
        if not config.verify_tls:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if config.client_cert is not None:
            key, path = "client_cert", config.client_cert
            # Without a password of its own OpenSSL would ask for one on the terminal.
            context.load_cert_chain(path, config.client_key, password=lambda: "")
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ssl.SSLError) and key == "client_cert":
            reason = "no certificate with a key that fits, or the key has a password"
        shown = printable(path, 80)
        raise ConfigError(f"{key}: {shown}: cannot be used: {reason}") from None
    return context


# --- Connection test ---


async def test_connection(
    client: Client,
    say: Callable[[str], None] | None = None,  # noqa: PT028  no test of pytest's
) -> None:
    """Prove that the server works: ask it for one tiny answer, in the same way as the run will.

    Only that decides, because lists of models may be forbidden, paged, or hold aliases, wildcards
    or deployments. The official client is used for hints alone: it lists the models, and says
    whether its types fit what came.
    A server that is loading or busy (503, 425, 429) is waited for up to `startup_timeout`;
    connecting gives up after CONNECT_TIMEOUT_S. `say` tells a person what is going on.
    Raises ServerUnreachableError, one line.
    """
    logger.info("connecting to %s", client.target.shown)
    await _ConnectionTest(client, say or notice).run()


async def find_prompt_cache(client: Client, questions: Sequence[Question]) -> dict[str, Any] | None:
    """Ask the longest question twice, to see whether a cache makes the second answer come sooner.

    Done only where the same prompts are asked repeatedly: in a sweep, with `duration`, and where a
    catalogue is asked twice or more. Else, and with `cache_bust`, it returns None. A unique mark
    makes sure that the first answer is cold. One pair may differ by chance, so three pairs must
    agree; the first one that does not ends the search. `found` is None when an answer failed, or
    asking it met a fault of this program.
    """
    config = client.config
    different = {question.id for question in questions}
    repeats = config.passes > 1 or config.duration is not None
    repeats = repeats or len(questions) >= 2 * len(different)
    if config.cache_bust or not repeats:
        return None
    longest = max(questions, key=lambda question: len(question.texts[0]))
    limited, _ = client.api.limit(config, longest)
    few = _ConnectionTest.FEW_TOKENS if limited else None  # some servers refuse the key
    asked = longest.model_copy(update={"max_tokens": few})
    seen: dict[str, Any] = {"cold_ms": [], "warm_ms": [], "cached_tokens": None, "found": None}
    for _ in range(3):
        question, messages = client.marked(asked, [{"role": "user", "content": asked.texts[0]}])
        for name in ("cold_ms", "warm_ms"):
            try:
                result = await send_question(client, PlannedRequest(0, question), messages)
            except Exception:
                logger.exception("looking for a prompt cache met a fault of this program")
                return {**seen, "found": None}
            if result.status == "cancelled":  # by a signal
                raise asyncio.CancelledError
            wait_ms = result.time_ms if result.ttft_ms is None else result.ttft_ms
            if not result.ok or wait_ms is None:
                return {**seen, "found": None}
            seen[name].append(wait_ms)
        cold_ms, warm_ms = seen["cold_ms"][-1], seen["warm_ms"][-1]
        seen["cached_tokens"] = result.cached_tokens
        if result.cached_tokens is not None and result.prompt_tokens:  # it says so itself
            return {**seen, "found": result.cached_tokens / result.prompt_tokens >= 0.5}
        seen["found"] = cold_ms - warm_ms > max(5, 0.25 * cold_ms)
        if not seen["found"]:
            break
    return seen


class _ConnectionTest:
    """Asks the server one tiny thing, and says in one line why it cannot be used."""

    QUESTION = "Say: ok"
    FEW_TOKENS = 16  # the lowest limit that all servers accept
    NOT_READY = (425, 429, 503)
    LONGEST_PAUSE_S = 5.0
    LIST_WITHIN_S = 10.0
    MOST_NAMES = 5000

    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self.config, self.target, self.say = client.config, client.target, say
        self.seen = list[Exchange]()
        self.client = dataclasses.replace(
            client,
            start_ns=clock(),
            connect_s=min(CONNECT_TIMEOUT_S, self.config.timeout),
            watch=self.seen.append,
        )

    async def run(self) -> None:
        """Ask, and look into the answer. Raises ServerUnreachableError."""
        result = await self.ask_until_ready()
        if result.error is not None and self.may_do_without(result.error):
            result = await self.ask(self.FEW_TOKENS)
        if result.error is not None and result.error.http_status in (400, 422):
            result = await self.ask(None)  # the limit may be too low for it
        exchange = self.seen[-1]
        if result.status == "cancelled":  # by a signal
            raise asyncio.CancelledError
        if result.error is not None and result.error.kind != "empty":
            await self.explain_failure(result.error)
        else:
            await self.check_key()
        await self.hint_at_model(result)
        self.hint_at_types(exchange)

    @property
    def sends_limit(self) -> bool:
        """Whether the run limits an answer's tokens; if not, the server may refuse the key."""
        limit, _ = self.client.api.limit(self.config, Question(question=self.QUESTION))
        return bool(limit)

    async def ask(self, most: int | None) -> Result:
        """Ask the tiny question as the run will ask; for `most` tokens, where it sends a limit."""
        few = most if self.sends_limit else None
        question = Question(id="connection test", question=self.QUESTION, max_tokens=few)
        return await send_question(self.client, PlannedRequest(-1, question))

    async def ask_until_ready(self) -> Result:
        """Ask, and ask again while the server says that it is not ready yet."""
        deadline_ns = clock() + round(self.config.startup_timeout * NS_PER_S)
        pause_s, said = 0.5, False
        while True:
            result = await self.ask(self.FEW_TOKENS)
            error = result.error
            if error is None or error.http_status not in self.NOT_READY:
                return result
            with contextlib.suppress(TypeError, ValueError):  # a date, or nothing
                pause_s = max(pause_s, float(cast(str, error.retry_after)))
            if clock() + pause_s * NS_PER_S > deadline_ns:
                return result
            if not said:
                most = f"waiting up to {self.config.startup_timeout:g} s until it is ready"
                self.say(f"{self.target.shown}: {printable(error.shown, 300)}; {most} …")
                said = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, self.LONGEST_PAUSE_S)

    def may_do_without(self, error: Failure) -> bool:
        """Whether the server refuses `stream_options`, which only this program wants.

        If so, it is left out from now on.
        """
        names = re.search(r"stream_options|include_usage", error.message)
        mine = self.config.stream and "stream_options" not in self.config.extra_body
        if names is None or not mine or not 400 <= (error.http_status or 0) < 600:
            return False
        self.client.left_out.add("stream_options")
        lost = "asking without it, so tokens are counted as chunks unless the server says them"
        self.say(f"{self.target.shown} refuses stream_options; {lost}")
        return True

    async def check_key(self) -> None:
        """Refuse a server that refuses the key, inside a 200, when it is asked without streaming.

        Such gateways stream something even without a valid key. Raises ServerUnreachableError.
        """
        if not self.config.stream or not self.sends_limit:
            return
        error = (await self.ask_whole()).error
        if error is None or error.kind != "server_error":
            return
        if re.search(r"(?i)log.?in|auth|api.?key|credential|balance", error.message):
            raise self.refusal(f"not authorised (an error inside a 200): {error.message}", 700)

    async def ask_whole(self) -> Result:
        """Ask the tiny question without streaming."""
        config = self.config.model_copy(update={"stream": False})
        question = Question(
            id="connection test", question=self.QUESTION, max_tokens=self.FEW_TOKENS
        )
        client = dataclasses.replace(self.client, config=config, watch=lambda _: None)
        return await send_question(client, PlannedRequest(-1, question))

    async def explain_failure(self, error: Failure) -> None:
        """Refuse the server, in one line; accept one that only streams badly.

        Raises ServerUnreachableError.
        """
        if error.http_status == 200 and self.config.stream and (await self.ask_whole()).ok:
            works = "without streaming it answers; the run will say what becomes of the others"
            self.say(f"{self.target.shown}: {printable(error.shown, 300)}; {works}")
            return
        status, said = error.http_status, error.message
        if status in (401, 403):
            key = self.config.api_key_env
            hint = f"check the key in {key}" if key else "set api_key_env"
            said = f"not authorised (HTTP {status}); {hint}: {said}"
        elif status in (404, 405, 501) or (status in (400, 422) and "model" in said.lower()):
            said = await self.explain_missing(status, said)
        elif status == 200:
            said = f"answered, but not as the {self.config.api} API does: {said}"
        elif status is not None:
            said = error.shown
        elif error.kind == "reset" and self.target.base.startswith("http://"):
            said += "; if it speaks TLS, write https:// in server"
        elif error.kind == "reset" and self.config.client_cert is None:
            said += "; if it asks for a certificate, set client_cert and client_key"
        raise self.refusal(said, 700) from self.seen[-1].error

    async def explain_missing(self, status: int, said: str) -> str:
        """Say what is not there: the model, or the path."""
        said = said.partition("; POST /")[0]
        names = await self.model_names()
        if names and not any(same_model(self.config.model, name) for name in names):
            wrong = f"no such model {json.dumps(self.config.model)}"
            return f"{wrong} (HTTP {status}); the server has: {self.listed(names)}: {said}"
        if status in (400, 422) or "model" in said.lower():
            return f"HTTP {status}: {said}"
        path = self.client.url.path
        hint = "does the URL end in /v1?"
        if (double := f"/{self.client.api.path}") in self.target.base:
            hint = f"take {double} out of server: the program adds it"
        return f"has no path {path} (HTTP {status}); {hint} {said}"

    def refusal(self, message: str, limit: int) -> ServerUnreachableError:
        """Return the error that names the server and what is wrong."""
        shown = printable(self.target.shown)
        return ServerUnreachableError(f"{shown}: {printable(self.target.redact(message), limit)}")

    # What is only a hint

    async def hint_at_model(self, result: Result) -> None:
        """Say when the model that answers may be another one than was asked for."""
        asked = self.config.model
        if result.model is not None and not same_model(asked, result.model):
            named = printable(json.dumps(result.model, ensure_ascii=False), 100)
            self.say(f"{self.target.shown} was asked for {json.dumps(asked)} and names {named}")
        names = await self.model_names()
        if not names or any(same_model(asked, name) for name in names):
            return
        wrong = f"{json.dumps(asked)} answers, but is not in the list of {self.target.shown}"
        self.say(f"{wrong}; the server has: {self.listed(names)}")

    def listed(self, names: Sequence[str]) -> str:
        """Return the first names, as text for people."""
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        return printable(self.target.redact(", ".join(names[:20]) + more), 400)

    async def model_names(self) -> list[str]:
        """Return the models that the server lists, on all pages; none where it lists none."""
        names = list[str]()
        try:
            os.environ.pop("OPENAI_LOG", None)  # it would show each request on stderr
            package = await asyncio.to_thread(importlib.import_module, "openai")
            async with asyncio.timeout(min(self.LIST_WITHIN_S, self.config.timeout)):
                async with self.official_client(package) as official:
                    async for name in self.each_name(official):
                        names.append(name)
        except Exception as error:  # noqa: BLE001  whatever it is, only the hint is lost
            logger.info("the server lists no models: %s", type(error).__name__)
        return sorted(set(names))

    async def each_name(self, official: openai.AsyncOpenAI) -> AsyncIterator[str]:
        """Yield the name of each listed model, page after page; lists have many shapes."""
        query: dict[str, str] = {}
        http: Any = self.httpx()
        for _ in range(self.MOST_NAMES // 20):
            response = await official.get(
                "/models", cast_to=http.Response, options={"params": query}
            )
            page = _decode_untyped(response.content)
            entries = page
            if isinstance(page, _Fields):
                entries = page.data or page.models
            for entry in entries or ():
                name = entry
                if isinstance(entry, _Fields):
                    name = entry.id or entry.name or entry.model
                yield str(name)
            last = page.last_id if isinstance(page, _Fields) and page.has_more else None
            if not last or query.get("after") == last:
                return
            query = {"after": str(last), "after_id": str(last)}  # OpenAI's, Anthropic's

    @staticmethod
    def httpx() -> Any:
        """Return the HTTP package that the official client is built on; it is loaded with it."""
        return sys.modules.get("httpx2") or sys.modules["httpx"]

    def official_client(self, package: ModuleType) -> openai.AsyncOpenAI:
        """Return a client that follows no redirect, invents no key and reads no endless answer."""
        target = self.target
        http: Any = self.httpx()
        # The measured path trusts what Python trusts; the official client has a list of its own.
        verify = ssl.create_default_context() if target.tls is True else target.tls
        options: dict[str, Any] = {"verify": verify, "proxy": target.proxy}
        if target.unix_socket is not None:
            options = {"transport": http.AsyncHTTPTransport(uds=target.unix_socket)}
        client = package.DefaultAsyncHttpxClient(
            **options,
            trust_env=False,
            follow_redirects=False,
            event_hooks={"request": [self.leave_out_key], "response": [self.bound_size]},
        )
        official: openai.AsyncOpenAI = package.AsyncOpenAI(
            base_url=target.base,
            api_key="none",
            max_retries=0,
            default_headers={**target.headers, "Accept": "application/json"},
            default_query=dict(urllib.parse.parse_qsl(target.query)),
            http_client=client,
        )
        return official

    async def leave_out_key(self, request: Any) -> None:
        """Take the headers away that the client makes up, or finds in the environment."""
        ours = {name.lower() for name in self.target.headers}
        for name in ("Authorization", "OpenAI-Organization", "OpenAI-Project"):
            if name.lower() not in ours:
                request.headers.pop(name, None)

    async def bound_size(self, response: Any) -> None:
        """Keep a response to `max_answer_bytes`, and leave a gzip bomb packed."""
        http: Any = self.httpx()
        limit, stream = self.config.max_answer_bytes, response.stream

        class Bounded(http.AsyncByteStream):  # type: ignore[misc]
            aclose = stream.aclose

            async def __aiter__(self) -> AsyncIterator[bytes]:
                size = 0
                async for data in stream:
                    size += len(data)
                    if size > limit:
                        raise _TooLargeError(f"{limit} bytes")
                    yield data

        response.headers.pop("Content-Encoding", None)
        response.stream = Bounded()

    def hint_at_types(self, exchange: Exchange) -> None:
        """Log a warning when the official client's types do not fit what came."""
        types = sys.modules.get("openai.types")
        if types is None or self.config.api == "responses":  # whose types take a second to build
            return
        kinds = {
            ("chat", True): "ChatCompletionChunk",
            ("chat", False): "ChatCompletion",
        }
        name = kinds.get((self.config.api, self.config.stream), "Completion")
        holder = sys.modules["openai.types.chat"] if self.config.api == "chat" else types
        kind = getattr(holder, name)
        datas = [exchange.body]
        if self.config.stream:
            datas = [data for _, data in itertools.islice(exchange.timed_events(), 50)]
        for data in datas:
            if not data.lstrip().startswith(b"{"):
                continue
            try:
                kind.model_validate_json(data)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(map(str, first["loc"]))
                logger.warning("no %s of the openai client: %s: %s", name, place, first["msg"])
                return


def same_model(asked: str, named: str) -> bool:
    """Whether two names may mean one model, apart from a prefix, a tag, a date or a wildcard.

    Examples are `models/gemini`, `meta/llama-3:nitro`, `gpt-4o-2024-08-06`, `llama3:latest`,
    `/srv/qwen.gguf`, `openai/*`.
    """
    asked, named = asked.casefold(), named.casefold()
    if named.endswith("*") and asked.startswith(named[:-1]):
        return True
    bases, tags = set[str](), set[str]()
    for name in (asked, named):
        bare = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
        bare, _, tag = bare.partition(":")
        bare = re.sub(r"\.(gguf|bin|safetensors)$", "", bare)
        bases.add(re.sub(r"(-latest|-preview|@.*|-20\d\d-?\d\d(-?\d\d)?|-\d{4})+$", "", bare))
        tags |= {tag} - {"", "latest"}  # a name without a tag may mean any
    return len(bases) == 1 and len(tags) <= 1


# --- Event streams ---


class SSEDecoder:
    """Reads server-sent events as the WHATWG standard says, in linear time.

    The bytes may be cut anywhere between two calls.
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._first_line = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[str]:
        """Return the `data` of every event that these bytes completed."""
        return [event.decode("utf-8", "replace") for _, event in self.feed_raw(data)]

    def feed_raw(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return each completed event as (the place in these bytes where it ended, its data).

        A CRLF counts as one byte in that place.
        """
        if self._after_cr or b"\r" in data:
            data = self._without_cr(data)
        events: list[tuple[int, bytes]] = []
        end = 0
        if self._tail or self._data or self._first_line:
            end = self._finish_event(data, events)
        *blocks, rest = data[end:].split(b"\n\n")
        for block in blocks:
            end += len(block) + 2
            if block[:6] == b"data: " and b"\n" not in block:  # as nearly every event is
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
        """Return the bytes with LF for CRLF and CR; a CRLF may be cut in two."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read_lines(self, lines: list[bytes]) -> None:
        """Take the data of these lines; other fields and comments say nothing."""
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6 if line[5:6] == b" " else 5 :])
            elif line == b"data":
                self._data.append(b"")

    def _dispatch(self, end: int, events: list[tuple[int, bytes]]) -> None:
        """End the event, at an empty line."""
        if self._data:
            events.append((end, b"\n".join(self._data)))
            self._data = []


class _Fields(dict[str, Any]):
    """A JSON object whose fields are read like those of a typed event; None for a missing one."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


# What the fast decoder raises at what does not fit the type, or is not JSON as it knows it.
_MISFIT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _decode_untyped(data: bytes) -> Any:
    """Return the value of JSON that the fast decoder refused; its objects are `_Fields`.

    So the same code can read it. Half a surrogate pair, NaN and bytes that are not UTF-8 are
    accepted. Raises JSONDecodeError.
    """
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text, object_hook=_Fields)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except ValueError as error:  # an integer of thousands of digits
        raise json.JSONDecodeError(str(error), text, 0) from None


# What an event or a body brought: nothing, answer text, something else that was generated
# (reasoning, a tool call), or something that this API does not have.
NOTHING, ANSWER, OTHER, FOREIGN = range(4)


class ServerTimings:
    """What a server says of its own times, in whichever of the known ways it does.

    llama.cpp: `timings`. vLLM (--enable-per-request-metrics): `metrics`. Groq: in `usage`, or in
    `x_groq.usage`. Cerebras: `time_info`. Ollama: durations. TGI: headers.
    """

    __slots__ = ("said",)

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def take(self, event: Any) -> None:
        """Keep the times that the body or one of the last events holds; a later one wins."""
        nested = (event.timings, event.metrics, event.time_info, event.usage)
        groq = event.x_groq.get("usage") if isinstance(event.x_groq, dict) else None
        for part in (*nested, groq):
            if isinstance(part, dict):
                self.said.update(part)
        for name in ("prompt_eval_duration", "eval_duration"):
            if (value := getattr(event, name)) is not None:
                self.said[name] = value

    def first(self, **factors: float) -> float | None:
        """Return the first of these times that the server gave; each has its factor to ms."""
        for name, factor in factors.items():
            value: Any = self.said.get(name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and 0 <= value < 1e15:
                return round(float(value) * factor, 3)
        return None

    def fill(self, result: Result) -> None:
        """Write the server's times into the result, and cached tokens that `usage` left out."""
        result.server_queue_ms = self.first(queue_time_ms=1, queue_time=1e3, header_ms=1)
        result.server_prefill_ms = self.first(
            prompt_ms=1, time_to_first_token_ms=1, prompt_time=1e3, prompt_eval_duration=1e-6
        )
        result.server_decode_ms = self.first(
            predicted_ms=1, generation_time_ms=1, completion_time=1e3, eval_duration=1e-6
        )
        cached = self.said.get("cache_n")
        if result.cached_tokens is None and isinstance(cached, int) and 0 <= cached < 2**53:
            result.cached_tokens = cached


class ParsedAnswer:
    """What has been read of an answer, and how a result is filled with it."""

    # What reading raises when something is not JSON, or not of the shape that the API gives it.
    UNREADABLE = (json.JSONDecodeError, AttributeError, KeyError, TypeError, IndexError)
    # An event without text that holds one of these words is looked into more closely: it may hold
    # an error in some corner, usage inside a choice, or text under a name that few servers use.
    NOTABLE = re.compile(
        rb'error|reasoning|refusal|think|thought|transcript|function_call|x_groq|base_resp|"usage"'
        rb'|"detail"|"msg"|"message"|"code"|"success"'
    )
    NAMED_WITHIN = 5  # the model's name is looked for in so many events

    __slots__ = (
        "answer_ns",
        "chunk_ns",
        "complete",
        "error",
        "failure",
        "finish",
        "foreign",
        "merged",
        "model",
        "noise",
        "reasoning",
        "several",
        "strange",
        "text",
        "timings",
        "usage",
    )

    def __init__(self, *, several: bool = False) -> None:
        self.several = several  # alternatives were asked for (`n`); only the first one counts
        self.text: list[str] = []  # an item for each time in answer_ns
        self.reasoning: list[str] = []
        self.chunk_ns: list[int] = []  # arrival of each chunk that brought something
        self.answer_ns: list[int] = []  # of each chunk that brought answer text
        self.merged: list[int] = []  # places of the chunks that were not the last of their read
        self.finish: Any = None
        self.usage: Any = None
        self.timings = ServerTimings()
        self.error: Any = None  # an error object that the server sent
        self.foreign: str | None = None  # the kind of an event that this API does not know
        self.noise = b""  # the first event that is no JSON object: a keep-alive, or plain text
        self.model: str | None = None  # as the server names it
        self.complete = False
        self.failure: Failure | None = None  # why it could not be read to its end
        self.strange: Failure | None = None  # what it is instead of an answer of this API

    def read_stream(self, api: Api, events: Iterable[tuple[int, bytes]]) -> None:
        """Read a streamed answer; `events` are (time of the read that completed it, its data)."""
        data, decode, read_event = b"", api.events.decode, api.read_event
        brought, before_ns, all_events = NOTHING, 0, iter(events)
        first = list(itertools.islice(all_events, self.NAMED_WITHIN))
        try:
            for now_ns, data in itertools.chain(first, all_events):
                if now_ns == before_ns and brought in (ANSWER, OTHER):
                    self.merged.append(len(self.chunk_ns) - 1)
                before_ns = now_ns
                try:
                    event = decode(data)
                except _MISFIT:
                    event = self.decode_misfit(data)
                    if self.complete:
                        break
                    if event is None:
                        continue
                brought = read_event(event, self)
                if brought == ANSWER:
                    self.chunk_ns.append(now_ns)
                    self.answer_ns.append(now_ns)
                elif brought == OTHER:
                    self.chunk_ns.append(now_ns)
                elif (brought := self.look_closer(api, data, brought)) != NOTHING:
                    self.chunk_ns.append(now_ns)
                    if brought == ANSWER:
                        self.answer_ns.append(now_ns)
        except self.UNREADABLE as error:
            self.failure = self.unreadable(error, "an event", data)
        self.name_model(data for _, data in first)
        self.drop_repeats()
        self.look_for_foreign("an event")

    def read_body(self, api: Api, data: bytes, now_ns: int | None = None) -> None:
        """Read an answer that came in one piece, at that time."""
        try:
            try:
                body = api.bodies.decode(data)
            except _MISFIT:
                body = _decode_untyped(data)
            brought = api.read_body(body, self)
            self.look_closer(api, data, brought)
            self.complete = True
        except self.UNREADABLE as error:
            self.failure = self.unreadable(error, "a body", data)
        self.name_model([data])
        self.look_for_foreign("a body")
        if now_ns is not None and self.failure is None:
            self.answer_ns = [now_ns]

    def decode_misfit(self, data: bytes) -> Any:
        """Return an event that does not fit its type; None for one that is no JSON object.

        That may be [DONE], which ends the stream, a keep-alive (`data: ping`) or plain text.
        """
        text = data.strip()
        if text.strip(b'"').upper() == b"[DONE]":
            self.complete = True
        elif text.startswith(b"{"):
            return _decode_untyped(data)
        elif text:
            self.noise = self.noise or data[:QUOTED]
        return None

    def look_closer(self, api: Api, data: bytes, brought: int) -> int:
        """Look into an event that brought no text, and return what it brought after all."""
        if brought != FOREIGN and not self.NOTABLE.search(data):
            return NOTHING
        event = _decode_untyped(data)
        if not isinstance(event, _Fields):
            return NOTHING
        if (error := ErrorReport.in_event(event)) is not None:
            self.error = self.error or error
            return NOTHING
        if brought != FOREIGN:
            return api.read_more(event, self)
        self.foreign = str(event.type or event.object or "unknown")
        return NOTHING

    def name_model(self, datas: Iterable[bytes]) -> None:
        """Take the model's name from the first event that has one."""
        for data in datas:
            with contextlib.suppress(*_MISFIT):
                named = _Named.decoder.decode(data)
                model = named.model or (named.response and named.response.model)
                if isinstance(model, str) and model:
                    self.model = model
                    return

    def take_usage(self, usage: Any) -> None:
        """Take token counts; one that is known is never replaced by 0 or by a missing one."""
        if not isinstance(usage, Mapping):
            return
        if isinstance(self.usage, Mapping) and not (
            usage.get("completion_tokens") and usage.get("prompt_tokens")
        ):
            usage = {**self.usage, **{name: count for name, count in usage.items() if count}}
        self.usage = usage

    def drop_repeats(self) -> None:
        """Drop text that was sent twice.

        Some servers send all the text so far in each chunk, others repeat all of it in a last one.
        """
        self.reasoning = self.increments(self.reasoning)
        text = self.text
        if len(text) > 3 and len(text[-1]) >= 20 and text[-1] == "".join(text[:-1]):
            text.pop()
            if self.chunk_ns.pop() != self.answer_ns.pop():
                raise AssertionError("the last chunk was no answer text")
            self.merged = [place for place in self.merged if place < len(self.chunk_ns) - 1]
        else:
            self.text = self.increments(text)

    @staticmethod
    def increments(texts: list[str]) -> list[str]:
        """Return what each text adds to the one before it, if each repeats that one; else them."""
        if len(texts) < 3 or not texts[1].startswith(texts[0]):
            return texts
        pairs = list(itertools.pairwise(texts))
        grown = sum(len(later) > len(earlier) for earlier, later in pairs)
        if grown < max(2, len(pairs) / 2) or len(texts[-1]) < 10:
            return texts
        if not all(later.startswith(earlier) for earlier, later in pairs):
            return texts
        return [texts[0], *(later[len(earlier) :] for earlier, later in pairs)]

    def unreadable(self, error: Exception, what: str, data: bytes) -> Failure:
        """Say why these bytes are not what the API sends."""
        text = data[:QUOTED].decode("utf-8", "replace")
        if isinstance(error, json.JSONDecodeError):
            return Failure("bad_json", f"{what} that is not JSON: {error.msg}: {text}")
        return Failure("wrong_type", f"{what} of another shape: {text}")

    def look_for_foreign(self, what: str) -> None:
        """When nothing of this API came, say what came instead: another API's answer, or noise."""
        if self.failure or self.error or self.chunk_ns or self.text or self.finish:
            return
        if self.foreign:
            self.strange = Failure("wrong_api", f"{what} of another API: {self.foreign}")
        elif self.noise:
            try:
                _decode_untyped(self.noise)
                error: Exception = TypeError()
            except json.JSONDecodeError as found:
                error = found
            self.strange = self.unreadable(error, what, self.noise)

    def fill(self, result: Result, start_ns: int, redact: Redactor) -> None:
        """Write what was read into the result: texts without secrets, times, token counts."""
        answer, reasoning = (_whole_text("".join(part)) for part in (self.text, self.reasoning))
        result.answer, result.reasoning = redact(answer), redact(reasoning)
        if result.answer != answer:
            result.raw_answer = answer
        if self.finish is not None:
            result.finish_reason = redact(_whole_text(str(self.finish)))[:200]
        if self.model is not None:
            result.model = redact(_whole_text(self.model))[:200]
        chunks = [(now_ns - start_ns) // 1000 * 1000 for now_ns in self.chunk_ns]
        result.chunk_ns, result.chunks = chunks, len(chunks)
        if chunks:
            result.first_ns, result.end_ns = chunks[0], chunks[-1]
            result.answer_ns = _whole_us(self.first_answer_ns, start_ns)
        elif self.answer_ns:
            result.end_ns = _whole_us(self.answer_ns[-1], start_ns)
        self.fill_tokens(result, len(answer.encode()) + len(reasoning.encode()))

    @property
    def first_answer_ns(self) -> int | None:
        """When the answer itself began, after white space and the reasoning that leads it."""
        whole = "".join(self.text)
        begin = _answer_start(whole)
        begin = len(whole) - len(whole[begin:].lstrip())
        ends = itertools.accumulate(map(len, self.text))
        for end, now_ns in zip(ends, self.answer_ns, strict=False):
            if end > begin:
                return now_ns
        return None

    def fill_tokens(self, result: Result, size: int) -> None:
        """Take the token counts from the server's usage; count chunks where it gives none.

        `size` is the length in bytes of the text that came.
        """
        result.prompt_tokens = self.usage_count("prompt_tokens", "input_tokens")
        result.reasoning_tokens = self.usage_count(
            "completion_tokens_details.reasoning_tokens",
            "output_tokens_details.reasoning_tokens",
            "reasoning_tokens",
        )
        result.cached_tokens = self.usage_count(
            "prompt_tokens_details.cached_tokens",
            "input_tokens_details.cached_tokens",
            "prompt_cache_hit_tokens",
            "cached_tokens",
        )
        counts = TokenCounts(
            said=self.usage_count("completion_tokens", "output_tokens", "generated_tokens"),
            rest=None,
            chunks=result.chunks,
            reasoning=result.reasoning_tokens,
        )
        total = self.usage_count("total_tokens")
        if total is not None and result.prompt_tokens is not None:
            counts.rest = total - result.prompt_tokens
        silent = self.several or result.finish_reason in ("tool_calls", "tool_use", "function_call")
        counts.judge(size, thought=bool(self.reasoning), silent=silent)
        result.token, result.token_source, result.token_doubt = (
            counts.token,
            counts.source,
            counts.doubt,
        )
        self.timings.fill(result)

    def usage_count(self, *paths: str) -> int | None:
        """Return the first count of the usage that is given and can be one."""
        for path in paths:
            value = self.usage
            for name in path.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
                return value
        return None


@dataclasses.dataclass
class TokenCounts:
    """An answer's token counts as the server gives them, checked against the text that came."""

    said: int | None  # output tokens
    rest: int | None  # total tokens minus those of the prompt
    chunks: int
    reasoning: int | None
    token: int | None = None
    source: str | None = None
    doubt: str | None = None

    SLACK: ClassVar = 16  # tokens that have no text, such as those that end a turn

    def judge(self, size: int, *, thought: bool, silent: bool) -> None:
        """Choose the count that is best supported, and say what it contradicts.

        `size` is the text's length in bytes, and no token is shorter than one. `thought`: reasoning
        was streamed. `silent`: tokens were spent on what is not in the text, such as tool calls.
        """
        if self.said:
            self.token, self.source = self.said, "usage"
        elif self.rest and self.rest > 0:
            self.token, self.source = self.rest, "total"
        elif self.said == 0 and not size:
            self.token, self.source = 0, "usage"
        if self.token is None:
            if self.chunks:
                self.token, self.source = self.chunks, "chunks"
        elif not silent:
            self._compare_with_total()
            self._compare_with_text(size, thought=thought)

    def _compare_with_total(self) -> None:
        """Doubt a count that differs from the total's, and correct one that left reasoning out."""
        said, rest = self.said or 0, self.rest or 0
        if not said or rest <= 0 or said == rest:
            return
        self.doubt = f"usage says {said} output tokens, its total leaves {rest}"
        # Gemini, for one, counts its reasoning in the total only.
        if rest > said and (rest - said == self.reasoning or self.chunks > said):
            self.token, self.source = rest, "total"

    def _compare_with_text(self, size: int, *, thought: bool) -> None:
        """Doubt a count that is too high for the text, or too low for the chunks."""
        token, chunks = cast(int, self.token), self.chunks
        hidden = 0 if thought else self.reasoning or 0
        if token > size + hidden + self.SLACK:
            self.doubt = f"{self.source} says {token} tokens for {size} bytes of text"
            if chunks:
                self.token, self.source = chunks, "chunks"
        elif chunks > 1.1 * token + 2:
            self.doubt = f"{self.source} says {token} tokens for {chunks} chunks"
            if thought:  # the count leaves the reasoning out
                self.token, self.source = chunks, "chunks"


def _whole_text(text: str) -> str:
    """Return the text with the halves of surrogate pairs joined, and lone halves replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _whole_us(ns: int | None, start_ns: int) -> int | None:
    """Return the time since the start, cut to whole microseconds, which is what files hold."""
    return None if ns is None else (ns - start_ns) // 1000 * 1000


class ErrorReport:
    """What a server says went wrong, in whichever of the known ways it says so."""

    NAMES = ("message", "msg", "detail", "error", "errors", "status_msg", "error_msg",
        "error_message", "error_description", "title", "reason", "description")  # fmt: skip

    @classmethod
    def in_event(cls, event: _Fields) -> Any:
        """Return the error that an event holds, wherever in it that stands; None without one."""
        choices = event.choices
        choice = choices[0] if isinstance(choices, list) and choices else None
        for holder in (event, choice, event.x_groq, event.response):
            if isinstance(holder, _Fields) and holder.error:
                return holder.error
        base = event.base_resp
        if isinstance(base, _Fields) and base.status_code not in (None, 0, "0"):
            return base
        if event.object == "error" or event.type == "error":
            return event
        if choices or event.type or event.usage:
            return None
        said = next((name for name in cls.NAMES if event.get(name)), None)
        failed = event.success is False or event.status in ("error", "failed") or event.errors
        codes = (event.code, event.status_code, event.statusCode, event.error_code)
        failed = failed or any(code not in (None, 0, "0", 200, "200", "") for code in codes)
        return event if said and (failed or event.detail) else None

    @classmethod
    def text_of(cls, error: Any) -> str:
        """Return the message of an error object, or the whole of it where it has none.

        Servers put it in many places: `message`, a list in `detail` (FastAPI), `errors`
        (Cloudflare); OpenRouter's "Provider returned error" has the real one in `metadata`.
        """
        if isinstance(error, str):
            return error
        if isinstance(error, list) and error:
            return "; ".join(cls.text_of(part) for part in error[:3])
        if isinstance(error, dict):
            raw = error.get("metadata")
            raw = raw.get("raw") if isinstance(raw, dict) else None
            original = f": {raw}" if isinstance(raw, str) and raw else ""
            if isinstance(loc := error.get("loc"), list) and isinstance(error.get("msg"), str):
                return f"{'.'.join(map(str, loc))}: {error['msg']}"
            for name in cls.NAMES:
                if error.get(name) and not isinstance(error[name], bool | int | float):
                    return cls.text_of(error[name]) + original
        return json.dumps(error, ensure_ascii=False, default=str)

    @classmethod
    def in_body(cls, body: bytes) -> str:
        """Return what the server said in an error's body: JSON, a web page or plain text."""
        text = body[:QUOTED].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(text)
            if isinstance(content, dict | list) and content:
                return cls.text_of(content)
        if re.match(r"\s*(<!doctype html|<html|<head|<body)", text, re.IGNORECASE):
            title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
            text = re.sub(r"(?is)<(script|style|title).*?</\1>|<[^>]*>", " ", text)
            named = f" {json.dumps(title[1].strip(), ensure_ascii=False)}" if title else ""
            text = f"a web page{named}: {' '.join(html.unescape(text).split())}"
        return text


# --- APIs ---
#
# The types declare only what is read. `Any` stands where servers differ, so that a value of an
# unexpected type does no harm as long as nobody needs it. What does not fit at all is read by the
# same code, as `_Fields`. No event is part of a reference cycle, so gc=False spares the collector.


class _Message(msgspec.Struct, gc=False):
    """A chat message, or a piece of one."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    """One of the alternative answers; only one is asked for."""

    index: Any = None
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Choices(msgspec.Struct, gc=False):
    """An event or a body of chat and completions."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    type: Any = None  # only another API has one
    # What servers say of their own times: llama.cpp, vLLM, Groq, Cerebras, Ollama.
    timings: Any = None
    metrics: Any = None
    x_groq: Any = None
    time_info: Any = None
    prompt_eval_duration: Any = None
    eval_duration: Any = None


class _Named(msgspec.Struct):
    """An event or a body as far as it names its model."""

    model: Any = None
    response: _Named | None = None

    decoder: ClassVar[msgspec.json.Decoder[_Named]]


_Named.decoder = msgspec.json.Decoder(_Named)


class _Response(msgspec.Struct):
    """A body of the Responses API; its last event holds one as well."""

    output: Any = None
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None


class _ResponseEvent(msgspec.Struct):
    """An event of the Responses API."""

    type: Any = None
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    message: Any = None


class Api:
    """How one of the server's APIs is asked and read: `Chat`, `Completions` or `Responses`."""

    path: ClassVar[str]
    limit_name: ClassVar[str] = "max_tokens"
    # Other names of the limit, which extra_body may use instead.
    LIMIT_NAMES: ClassVar = ("max_tokens", "max_completion_tokens", "max_output_tokens",
        "max_new_tokens", "n_predict", "num_predict")  # fmt: skip
    events: ClassVar[msgspec.json.Decoder[Any]]
    bodies: ClassVar[msgspec.json.Decoder[Any]]

    def body(
        self, config: Config, question: Question, messages: list[dict[str, str]]
    ) -> dict[str, Any]:
        """Return the body of a request; `messages` is the conversation, the new question last."""
        sampling = {"temperature": config.temperature, "seed": config.seed, "stop": config.stop}
        body = {
            "model": config.model,
            **self.prompt(question.system(config), messages),
            **sampling,
            **self.stream_options(config),
            self.limit_name: config.max_tokens,
            **config.extra_body,  # where null takes a key away
        }
        name = self.limit_key(config)
        if name != self.limit_name:
            body[self.limit_name] = None
        if question.max_tokens is not None and name is not None:
            body[name] = question.max_tokens
        return {name: value for name, value in body.items() if value is not None}

    def limit_key(self, config: Config) -> str | None:
        """Return the body's key for an answer's limit; None where `extra_body` takes it away.

        A name that `extra_body` uses is preferred to this API's own.
        """
        given = config.extra_body
        newer = [name for name in self.LIMIT_NAMES if isinstance(given.get(name), int)]
        if newer:
            return newer[0]
        return None if self.limit_name in given else self.limit_name

    def limit(self, config: Config, question: Question) -> tuple[int | None, str | None]:
        """Return the most tokens that an answer may have, and where that limit stands."""
        name = self.limit_key(config)
        if name is None:
            return None, None
        if question.max_tokens is not None:
            return question.max_tokens, "question"
        if name in config.extra_body:
            return config.extra_body[name], "extra_body"
        return config.max_tokens, None if config.max_tokens is None else "config"

    def prompt(self, system: str | None, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the keys that hold the conversation."""
        raise NotImplementedError

    def stream_options(self, config: Config) -> dict[str, Any]:
        """Return the keys that say whether to stream, with token counts at the stream's end."""
        if config.stream:
            return {"stream": True, "stream_options": {"include_usage": True}}
        return {"stream": False}

    def read_event(self, event: Any, parsed: ParsedAnswer) -> int:
        """Read an event, and return what it brought: NOTHING, ANSWER, OTHER or FOREIGN."""
        raise NotImplementedError

    def read_body(self, body: Any, parsed: ParsedAnswer) -> int:
        """Read an answer that came in one piece, and return what it brought."""
        raise NotImplementedError

    def read_more(self, event: _Fields, parsed: ParsedAnswer) -> int:
        """Read what only few servers put into an event, and return what it brought."""
        del event, parsed
        return NOTHING


class Completions(Api):
    """`/completions`, the oldest: a prompt in, a text out."""

    path = "completions"
    events = bodies = msgspec.json.Decoder(_Choices)

    def prompt(self, system: str | None, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the whole conversation as one text."""
        texts = [] if system is None else [system]
        return {"prompt": "\n\n".join([*texts, *(message["content"] for message in messages)])}

    def read_event(self, event: _Choices, parsed: ParsedAnswer) -> int:
        """Read what stands around the text, then the text of the first choice."""
        if event.usage:
            parsed.take_usage(event.usage)
            parsed.timings.take(event)
        if event.error:
            parsed.error = event.error
            return NOTHING
        if not event.choices:
            is_usage = event.choices is not None or (event.usage and not event.type)
            return NOTHING if is_usage else FOREIGN
        choice = event.choices[0]  # the answer, whatever its index, unless several were asked for
        if parsed.several and choice.index:
            return NOTHING
        if choice.finish_reason:
            parsed.finish = choice.finish_reason
            parsed.timings.take(event)
        return self.read_choice(choice, parsed)

    def read_choice(self, choice: _Choice, parsed: ParsedAnswer) -> int:
        """Read the text of a choice."""
        if not choice.text:
            return FOREIGN if choice.delta or choice.message else NOTHING
        parsed.text.append(choice.text + "")
        return ANSWER

    def read_body(self, body: _Choices, parsed: ParsedAnswer) -> int:
        """Read a body, which has the shape of an event."""
        brought = self.read_event(body, parsed)
        return brought if body.choices else FOREIGN

    def read_more(self, event: _Fields, parsed: ParsedAnswer) -> int:
        """Read usage that stands inside the choice, or under `x_groq`; then the choice."""
        groq, choices = event.x_groq, event.choices
        if isinstance(groq, _Fields):
            parsed.take_usage(groq.usage)
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], _Fields):
            return NOTHING
        parsed.take_usage(choices[0].usage)
        message = choices[0].delta or choices[0].message
        return self.read_unusual(message, parsed) if isinstance(message, _Fields) else NOTHING

    def read_unusual(self, message: _Fields, parsed: ParsedAnswer) -> int:
        """Read what a message of this API never has, and return what it brought."""
        del message, parsed
        return NOTHING


class Chat(Completions):
    """`/chat/completions`: messages in, a message out. Only its choices differ from the above."""

    path = "chat/completions"
    # Beside `reasoning_content`, `reasoning` and `reasoning_details`.
    REASONING_NAMES = (
        "reasoning_text",
        "thinking",
        "thinking_content",
        "thought",
        "thoughts",
        "reasoning_summary",
        "thinking_blocks",
    )

    def prompt(self, system: str | None, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the conversation as messages."""
        first = [] if system is None else [{"role": "system", "content": system}]
        return {"messages": [*first, *messages]}

    def read_choice(self, choice: _Choice, parsed: ParsedAnswer) -> int:
        """Read the text and the reasoning of a message or of its delta."""
        message = choice.delta or choice.message
        if not message:  # some servers answer a chat in the older API's shape
            return super().read_choice(choice, parsed)
        brought = NOTHING
        text = message.content
        if text:
            if not isinstance(text, str):
                return self.read_parts(text, parsed)
            parsed.text.append(text)
            brought = ANSWER
        reasoning = message.reasoning_content or message.reasoning
        if not reasoning and message.reasoning_details:
            reasoning = self.joined(message.reasoning_details, "text", "summary")
        if reasoning and isinstance(reasoning, str):
            parsed.reasoning.append(reasoning)
            return brought or OTHER
        return brought or (OTHER if message.tool_calls else NOTHING)

    def read_parts(self, parts: list[Any], parsed: ParsedAnswer) -> int:
        """Read content that is a list of parts: text, or thinking that holds parts of its own."""
        text = thought = ""
        for part in parts:
            if part.get("type") in ("thinking", "reasoning", "thought"):
                inner = part.get("thinking") or part.get("text") or part.get("summary") or ""
                thought += inner if isinstance(inner, str) else self.joined(inner, "text")
            else:
                text += part.get("text") or part.get("refusal") or ""
        if thought:
            parsed.reasoning.append(thought)
        if text:
            parsed.text.append(text)
            return ANSWER
        return OTHER if thought else NOTHING

    def read_unusual(self, message: _Fields, parsed: ParsedAnswer) -> int:
        """Read a refusal, which is text, and reasoning under the names that few servers use."""
        if message.content or message.reasoning_content or message.reasoning:
            return NOTHING  # this is a body, whose text has been read already
        audio = message.audio
        text = message.refusal or (audio.transcript if isinstance(audio, _Fields) else None)
        if isinstance(text, str) and text:
            parsed.text.append(text)
            return ANSWER
        for name in self.REASONING_NAMES:
            thought = message.get(name)
            if isinstance(thought, _Fields):
                thought = thought.text or thought.content or thought.thinking
            elif isinstance(thought, list):
                thought = self.joined(thought, "text", "thinking", "summary", "content")
            if isinstance(thought, str) and thought:
                parsed.reasoning.append(thought)
                return OTHER
        return OTHER if message.function_call else NOTHING

    @staticmethod
    def joined(parts: Any, *names: str) -> str:
        """Return the texts that stand in these fields of parts; "" for what has none."""
        if not isinstance(parts, list):
            return ""
        texts = (part.get(name) for part in parts if isinstance(part, dict) for name in names)
        return "".join(text for text in texts if isinstance(text, str))


class Responses(Api):
    """`/responses`, the newest: its events say by their type what they bring."""

    path = "responses"
    limit_name = "max_output_tokens"
    events = msgspec.json.Decoder(_ResponseEvent)
    bodies = msgspec.json.Decoder(_Response)
    ANSWER_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
    REASONING_EVENTS = frozenset(
        {"response.reasoning_text.delta", "response.reasoning_summary_text.delta"}
    )
    LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})

    def prompt(self, system: str | None, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the conversation as input, with the system prompt as instructions."""
        instructions = {} if system is None else {"instructions": system}
        return {"input": messages, **instructions}

    def stream_options(self, config: Config) -> dict[str, Any]:
        """Return the key that asks for a stream; its last event always has the token counts."""
        return {"stream": config.stream}

    def read_event(self, event: _ResponseEvent, parsed: ParsedAnswer) -> int:
        """Read an event by its type."""
        kind = str(event.type)
        if kind in self.ANSWER_EVENTS and event.delta:
            parsed.text.append(event.delta + "")
            return ANSWER
        if kind in self.REASONING_EVENTS and event.delta:
            parsed.reasoning.append(event.delta + "")
            return OTHER
        if kind in self.LAST_EVENTS:
            self.read_end(cast(_Response, event.response), parsed)
            parsed.complete = True
        elif kind == "error" or (event.error and event.type is None):
            parsed.error = event.error or {"type": "error", "message": event.message}
        elif not kind.startswith("response."):
            return FOREIGN
        return NOTHING

    def read_end(self, response: _Response, parsed: ParsedAnswer) -> None:
        """Read what stands beside the text: usage, error, finish reason."""
        parsed.take_usage(response.usage)
        parsed.error = response.error
        reason = (response.incomplete_details or {}).get("reason")
        parsed.finish = "length" if reason == "max_output_tokens" else reason or "stop"

    def read_body(self, body: _Response, parsed: ParsedAnswer) -> int:
        """Read a body: its output is a list of items, each a list of parts."""
        if body.error:
            parsed.error = body.error
            return NOTHING
        if body.output is None:
            return FOREIGN
        self.read_end(body, parsed)
        for item in body.output:
            for part in item.get("content") or ():
                if part.get("type") == "output_text":
                    parsed.text.append(part["text"] + "")
                elif part.get("type") == "refusal":
                    parsed.text.append(part["refusal"] + "")
                elif part.get("type") in ("reasoning_text", "summary_text"):
                    parsed.reasoning.append(part["text"] + "")
        return ANSWER


APIS: Mapping[str, Api] = {"chat": Chat(), "completions": Completions(), "responses": Responses()}


# --- Clocks ---
#
# Where the time of a token is taken: Linux stamps each TCP segment when it arrives. StampedSocket
# reads the stamp with the bytes and turns it into a time of `clock`, TimingProtocol hands both to
# the Exchange, and `Exchange.timed_events` gives each event the time of the read that completed it.
#
# So the time does not depend on when this process gets round to reading, as long as that is before
# the next token comes. Segments that wait unread are merged, and carry the time of the last one.
# The first of them may have come earlier, but not before the previous read, nor before the event
# loop last looked; how much that leaves open is recorded beside the time.
#
# One turn of a busy loop may outlast the gap between tokens. So that the first token is timed right
# even then, Arrivals looks at the sockets that wait for one in the middle of a turn, and a socket
# notes the stamp and the number of the bytes that have come (without taking them) before more
# are merged with them.


class Watch:
    """How long the bytes that an event loop is about to read may have waited; 0: not known."""

    since_ns = 0  # they came after this: then the loop had last looked, or begun to wait
    woke_ns = 0
    was_idle = False
    looked_ns = 0  # when the loop woke, or Arrivals looked after that


class WatchedSelector(Watch, selectors.DefaultSelector):
    """A selector that knows when the event loop waits."""

    IDLE_NS = 100_000  # a longer wait means that nothing had been there when it began

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until a socket is ready, and note when the wait began and ended."""
        if timeout == 0:  # the loop has other work, so it only looks
            self.was_idle, self.since_ns = False, self.woke_ns
            ready = super().select(timeout)
            self.woke_ns = self.looked_ns = clock()
            return ready
        begun_ns = clock()
        ready = super().select(timeout)
        now_ns = clock()
        self.was_idle = now_ns - begun_ns > self.IDLE_NS
        self.since_ns = begun_ns if self.was_idle else self.woke_ns
        self.woke_ns = self.looked_ns = now_ns
        return ready


class WatchedLoop(asyncio.SelectorEventLoop):
    """The event loop with a WatchedSelector.

    Other loops can be measured on as well, but with wider bounds on how late a time may be.
    """

    def __init__(self) -> None:
        self.watch = WatchedSelector()
        super().__init__(self.watch)


class Arrivals:
    """How the reads of a session's sockets were timed, and which of them wait for first bytes."""

    LOOK_NS = NS_PER_MS // 2  # how often first bytes are looked for while the loop is busy

    def __init__(self) -> None:
        # How many had a stamp that was used, none, and one outside the possible times.
        self.kernel = self.absent = self.outside = 0
        loop = asyncio.get_running_loop()
        self.watch = loop.watch if isinstance(loop, WatchedLoop) else Watch()
        self.sockets = weakref.WeakValueDictionary[int, StampedSocket]()  # by file number
        self.read_ns = self.looked_ns = 0  # the last read of any of them, and the last look
        self._epoll = select.epoll() if sys.platform == "linux" else None

    def await_bytes(self, number: int) -> None:
        """Let the next bytes of a socket be noted by `look`. Raises OSError if that cannot be."""
        if self._epoll is not None:
            once = select.EPOLLIN | select.EPOLLONESHOT
            try:
                self._epoll.modify(number, once)
            except FileNotFoundError:
                self._epoll.register(number, once)

    def look(self) -> None:
        """Let the sockets note what has come that they waited for, if nobody looked just now."""
        now_ns = clock()
        if self._epoll is None or now_ns - self.watch.looked_ns < self.LOOK_NS:
            return
        for number, _ in self._epoll.poll(0):
            if (waiting := self.sockets.get(number)) is not None:
                waiting.note_bytes()
        self.looked_ns = self.watch.looked_ns = now_ns

    def close(self) -> None:
        """Stop looking."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def to_record(self) -> dict[str, Any]:
        """Return what `meta.client.timestamps` says."""
        source = "kernel" if self.kernel else "loop"
        reads = {"kernel": self.kernel, "absent": self.absent, "outside": self.outside}
        return {"source": source, "reads": reads}


class StampedSocket(socket.socket):
    """A TCP socket that notes when what it reads had arrived, and when it first wrote.

    The kernel's stamp is wall-clock time, which may be set or slewed: both clocks are read at each
    read, and a stamp that lies outside [previous read, now] is not used.
    """

    SO_TIMESTAMPNS = 35  # Linux; the socket module has no name for it
    ANCILLARY_BYTES = 64
    READ_BYTES = 1 << 16  # asyncio asks for 256 KiB, which maps memory anew for each read
    # Within this time of an arrival an idle loop reads it, if it gets a processor.
    QUICK_NS = 300_000
    NOTES = 4  # an answer: a head, a role and the first token may come one by one
    NEVER_NS = 1 << 63

    def __init__(self, family: int, kind: int, protocol: int, arrivals: Arrivals) -> None:
        super().__init__(family, kind, protocol)
        self.arrivals = arrivals
        arrivals.sockets[self.fileno()] = self
        # How many bytes have the time of `last_read`, but wait to be read; or the error that does.
        self._noted: int | OSError | None = None
        self._notes_left = 0  # of this answer
        self._awaited_ns = self.NEVER_NS  # since when `arrivals` looks for more bytes
        # When the bytes of the last read had arrived, and how much earlier the first of them may
        # have, in ns. Without a usable stamp: when they were read, and None.
        self.last_read: tuple[int, int | None] = (0, None)
        self.sent_ns: int | None = None  # the first write since this was set to None
        self._unpack = struct.Struct("@ll").unpack  # a timespec: seconds, nanoseconds
        with contextlib.suppress(OSError):
            self.setsockopt(socket.SOL_SOCKET, self.SO_TIMESTAMPNS, 1)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read, with the stamp. This runs for each token, so it is one function."""
        arrivals = self.arrivals
        watch = arrivals.watch
        if arrivals.read_ns - watch.looked_ns > arrivals.LOOK_NS and not flags:
            arrivals.look()
        if self._noted is not None:
            return self._take_noted(size)
        size = min(size, self.READ_BYTES)
        data, ancillary, _, _ = self.recvmsg(size, self.ANCILLARY_BYTES, flags)
        if not data:  # the end, which has no stamp
            return data
        now_ns, wall_ns = clock(), time.time_ns()
        arrivals.read_ns = now_ns
        if not ancillary:
            arrivals.absent += 1
            self.last_read = now_ns, None
            return data
        seconds, ns = self._unpack(ancillary[0][2])
        arrived_ns = now_ns - wall_ns + seconds * NS_PER_S + ns
        previous_ns = self.last_read[0]
        if not previous_ns <= arrived_ns <= now_ns:
            arrivals.outside += 1
            self.last_read = now_ns, None
            return data
        arrivals.kernel += 1
        if watch.was_idle and watch.woke_ns - arrived_ns < self.QUICK_NS and not flags:
            self.last_read = arrived_ns, 0  # it was read at once, so all of it came together
        else:
            since_ns = max(previous_ns, watch.since_ns)
            if self._awaited_ns < arrivals.looked_ns:  # nothing had come by then
                since_ns = max(since_ns, arrivals.looked_ns)
            self.last_read = arrived_ns, max(arrived_ns - since_ns, 0)
        return data

    def note_bytes(self) -> None:
        """Note how many bytes wait to be read, and their time, before more are merged with them."""
        self._awaited_ns = self.NEVER_NS
        if self._noted is not None:
            return
        try:
            self._noted = len(self.recv(self.READ_BYTES, socket.MSG_PEEK)) or None
        except BlockingIOError:
            pass
        except OSError as error:  # the kernel tells it only once
            self._noted = error

    def _take_noted(self, size: int) -> bytes:
        """Read the bytes that were noted, whose time `last_read` has, and no others."""
        noted, self._noted = self._noted, None
        if isinstance(noted, OSError):
            raise noted
        data = super().recv(min(size, noted or size))
        if noted is not None and len(data) < noted:
            self._noted = noted - len(data)
        elif self._notes_left:
            self._await_bytes()
        return data

    def _await_bytes(self) -> None:
        self._notes_left -= 1
        with contextlib.suppress(OSError):  # then they are timed as all others are
            self.arrivals.await_bytes(self.fileno())
            self._awaited_ns = clock()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read into a buffer, with the stamp; so asyncio reads what TLS then decrypts."""
        view = memoryview(buffer)
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """Write, and note when."""
        self._note_sending()
        return super().send(data, flags)

    def sendmsg(self, *args: Any) -> int:
        """Write several pieces, and note when."""
        self._note_sending()
        return super().sendmsg(*args)

    def _note_sending(self) -> None:
        if self.sent_ns is None:
            self.sent_ns = clock()
            self.last_read = (self.sent_ns, None)  # no answer can have arrived before
            self.arrivals.look()  # starting requests keeps the loop from reading
            self._notes_left = self.NOTES
            self._await_bytes()


class LoopTime:
    """Stands in for a StampedSocket where there is none: the time is when the loop reads."""

    sent_ns: int | None = None

    @property
    def last_read(self) -> tuple[int, int | None]:
        """The time now; how long the bytes had waited is not known."""
        return clock(), None


class TimedConnector(aiohttp.TCPConnector):
    """A pool of connections whose sockets take the kernel's times, on Linux and asyncio's loop."""

    used = sys.platform == "linux"

    def __init__(self, unix_socket: str | None = None, **options: Any) -> None:
        self.arrivals = Arrivals()
        self._unix_socket = unix_socket
        self._first: StampedSocket | None = None
        if self.used and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
            options["socket_factory"] = self._make_socket
            # The kernel starts stamping a moment after a first socket has asked for it, so ask now.
            self._first = StampedSocket(socket.AF_INET, socket.SOCK_STREAM, 0, self.arrivals)
        super().__init__(**options)

    def close(self, *, abort_ssl: bool = False) -> Coroutine[Any, Any, None]:
        """Close all connections."""
        if self._first is not None:
            self._first.close()
        self.arrivals.close()
        return super().close(abort_ssl=abort_ssl)

    def _make_socket(self, address: tuple[Any, ...]) -> StampedSocket:
        self.arrivals.look()  # many that connect at once keep the loop from reading
        family, kind, protocol = address[:3]
        return StampedSocket(family, kind, protocol, self.arrivals)

    async def _get(self, key: Any, traces: Any) -> aiohttp.connector.Connection | None:
        """Return a kept connection, unless a fresh one is wanted.

        One on which more came than its answer is closed: the next request would be given that.
        """
        if _exchange_now.get().fresh:
            return None
        while (kept := await super()._get(key, traces)) is not None:
            if kept.protocol is not None and not kept.protocol.should_close:
                return kept
            kept.close()
        return None

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> aiohttp.client_proto.ResponseHandler:
        """Open a connection, to a Unix socket where the server has one."""
        if self._unix_socket is None:
            return await super()._create_connection(req, traces, timeout)
        try:
            create = self._loop.create_unix_connection
            _, handler = await create(self._factory, self._unix_socket)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return handler

    def timing_of(self, transport: asyncio.Transport) -> StampedSocket | LoopTime:
        """Return what takes the times of a connection."""
        plain = transport.get_extra_info("socket")
        stamped = None if plain is None else self.arrivals.sockets.get(plain.fileno())
        return stamped or LoopTime()


# --- Transport ---
#
# Only this section relies on parts of aiohttp that are not its public interface. `check_aiohttp`
# tells when one of them is gone, and pyproject.toml bounds the version.


class Exchange:
    """One request and the raw bytes of its answer, each read with its time."""

    # Bytes of a body that are decoded at a time: a hostile body holds millions of events.
    SLICE = 1 << 18
    MERGED_NS = NS_PER_MS  # a chunk counts as merged if it may have come this much earlier
    DEAD_WITHIN_NS = 100 * NS_PER_MS  # a kept connection that dies later was not dead before
    STREAM_STARTS = (b"data:", b"event:", b"id:", b"retry:", b": ", b":\n", b":\r")
    # The content types of a streamed answer, and of one in a piece.
    TYPES: ClassVar = {
        True: ("text/event-stream",),
        False: ("application/json", "application/problem+json"),
    }

    def __init__(self, limit: int, connector: aiohttp.BaseConnector | None = None) -> None:
        self.limit = limit
        self.connector = connector
        self.fresh = False  # whether it must have a new connection
        self.begun_ns = clock()
        self.connected_ns: int | None = None
        self.sent_ns: int | None = None
        self.ended_ns: int | None = None
        self.reused = False
        self.reads_ns: list[int] = []  # when the bytes of each read had arrived
        # How much earlier the first bytes of a read may have come, by the read's time. Reads where
        # that is 0 are left out; None where it is not known.
        self.early_ns: dict[int, int | None] = {}
        self.offsets: list[int] = []  # bytes of the body that had arrived by each read
        self.status: int | None = None
        self.content_type = ""
        self.retry_after: str | None = None
        self.queue_ms: int | None = None
        self.location: str | None = None
        self.content: aiohttp.StreamReader | None = None
        self.protocol: TimingProtocol | None = None
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done_seen = False  # [DONE] may have come; the bytes must say
        self.too_large = False
        self.lost: BaseException | None = None  # what ended the connection
        self.lost_ns: int | None = None  # when it may have ended at the earliest
        self.error: BaseException | None = None

    def received(self, arrived_ns: int, early_ns: int | None, data: bytes) -> None:
        """Take the time of a read; called by the transport, with the parser already fed."""
        self.reads_ns.append(arrived_ns)
        if early_ns != 0:
            self.early_ns[arrived_ns] = early_ns
        if b"[DONE]" in data:
            self.done_seen = True
            self.wake()
        if self.content is not None:
            total_bytes = self.content.total_bytes
            self.offsets.append(total_bytes)
            if total_bytes > self.limit:
                self.too_large = True
                self.wake()

    def attach(self, response: aiohttp.ClientResponse) -> None:
        """Take the head of the response; the bytes behind it came with the read just before."""
        if self.protocol is None or self.sent_ns is None:
            raise RuntimeError("aiohttp sent a request past MeasuredRequest")
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "")
        self.retry_after = response.headers.get("Retry-After")
        queue_ms = response.headers.get("x-queue-time", "")  # Text Generation Inference
        if queue_ms.isascii() and queue_ms.isdigit():
            self.queue_ms = int(queue_ms[:15])
        self.location = response.headers.get("Location")
        self.content = response.content
        if not self.reads_ns:  # aiohttp had the head before the request was sent
            self.reads_ns = [clock()]
            self.early_ns[self.reads_ns[0]] = None
        self.offsets = [0] * len(self.reads_ns)
        self.offsets[-1] = response.content.total_bytes
        response.content.on_eof(self.wake)

    def detach(self) -> None:
        """Note the time of the end, and let go of the connection unless another request has it."""
        self.ended_ns = clock()
        if self.protocol is not None and self.protocol.exchange is self:
            self.protocol.exchange = None

    def wake(self) -> None:
        """Tell the waiting request that something other than more bytes has happened."""
        if not self.news.done():
            self.news.set_result(None)

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until something other than more bytes happens, at most `timeout_s`."""
        loop = asyncio.get_running_loop()
        self.news = loop.create_future()
        if not self.has_ended:
            timer = loop.call_later(timeout_s, self.wake)
            try:
                await self.news
            finally:
                timer.cancel()

    def raise_if_broken(self) -> None:
        """Raise what ended the connection, or _TooLargeError."""
        broken = (self.content and self.content.exception()) or self.lost
        if broken is not None:
            raise broken
        if self.too_large:
            raise _TooLargeError

    @property
    def has_ended(self) -> bool:
        """Whether the whole body has come."""
        return self.content is not None and self.content.is_eof()

    @property
    def died_unused(self) -> bool:
        """Whether a kept connection turned out dead at once, before a byte of a response.

        A 408 that comes at once counts too: the server closed an idle connection in the moment in
        which it was used again.
        """
        if not self.reused or self.ended_ns is None:
            return False
        died_ns = self.lost_ns or self.ended_ns
        if self.reads_ns:  # a 408 is one segment, so the kernel's stamp is when it arrived
            died_ns = self.reads_ns[0]
        if self.sent_ns is not None and died_ns - self.sent_ns > self.DEAD_WITHIN_NS:
            return False
        if self.status == 408:
            return True
        dead = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError)
        return isinstance(self.error, dead) and not self.reads_ns

    @property
    def body(self) -> bytes:
        """What has arrived of the body, even if the connection broke.

        The reader's own methods take a microsecond for each piece, and raise after an error.
        """
        if self.content is None or self.content is aiohttp.EMPTY_PAYLOAD:
            return b""
        return b"".join(self.content._buffer)

    @property
    def body_bytes(self) -> int:
        """How many bytes of the body have come."""
        return self.offsets[-1] if self.offsets else 0

    @property
    def connect_ns(self) -> int | None:
        """How long connecting took; None on a kept connection."""
        if self.reused or self.connected_ns is None:
            return None
        return self.connected_ns - self.begun_ns

    def fill_errors(self, result: Result, parsed: ParsedAnswer) -> None:
        """Write into the result how late the times of chunks may be that were read with later ones.

        `merged_chunks` and `client_error_ns` stay None where the kernel gave no time of arrival.
        """
        times_ns = parsed.chunk_ns or parsed.answer_ns
        if not times_ns or self.early_ns.get(times_ns[0], 0) is None:
            return
        early_ns = [self.early_ns.get(times_ns[place], 0) or 0 for place in parsed.merged]
        result.merged_chunks = sum(early >= self.MERGED_NS for early in early_ns)
        result.client_error_ns = 0
        if parsed.merged and parsed.merged[0] == 0:
            result.client_error_ns = early_ns[0] // 1000 * 1000

    def is_answer(self, stream: bool) -> bool:
        """Whether this is a 200 with a stream, or a JSON body, as it was asked for.

        Some servers send both as text/plain; then the first bytes of the body decide.
        """
        if self.status != 200:
            return False
        mime = self.content_type.partition(";")[0].strip().lower()
        if not mime or mime in self.TYPES[stream]:
            return True
        start = self.body[:64].removeprefix(codecs.BOM_UTF8).lstrip()
        return start.startswith(self.STREAM_STARTS if stream else (b"{",))

    def stray_words(self) -> tuple[str, bool]:
        """Return what a stream says outside of its data, and whether that is an error.

        This may be llama.cpp's old `error:` field, what follows `event: error`, or JSON or a web
        page that something on the way wrote into the stream as it was.
        """
        body = self.body
        if len(body) > QUOTED:
            body = body[: QUOTED // 2] + b"\n" + body[-QUOTED // 2 :]
        stray, event, is_error = list[str](), "", False
        for line in re.split(r"\r\n|\n|\r", body.decode("utf-8-sig", "replace")):
            name, colon, value = line.partition(":")
            if not line:
                event = ""
            elif name == "event":
                event = value.strip()
            elif (name == "error" and colon) or (
                name == "data" and "error" in event and value.strip() != "[DONE]"
            ):
                stray.append(value.strip())
                is_error = True
            elif name not in ("data", "id", "retry", "") or not colon:
                stray.append(line)
        text = "\n".join(stray)
        with contextlib.suppress(json.JSONDecodeError):
            content = _decode_untyped(text.encode("utf-8", "replace"))
            is_error = is_error or (
                isinstance(content, _Fields) and ErrorReport.in_event(content) is not None
            )
        return ErrorReport.in_body(text.encode("utf-8", "replace")), is_error

    def timed_events(self) -> Iterator[tuple[int, bytes]]:
        """Yield the data of each event with the time of the read that completed it."""
        decoder, body = SSEDecoder(), self.body
        reads_ns, offsets = self.reads_ns, self.offsets
        if b"\r" in body:  # its places would shift
            start = 0
            for now_ns, end in zip(reads_ns, offsets, strict=False):
                for _, data in decoder.feed_raw(body[start:end]):
                    yield now_ns, data
                start = end
            return
        read, read_end = 0, offsets[0]
        for start in range(0, len(body), self.SLICE):
            for end, data in decoder.feed_raw(body[start : start + self.SLICE]):
                while read_end < start + end:
                    read += 1
                    read_end = offsets[read]
                yield reads_ns[read], data


_exchange_now: contextvars.ContextVar[Exchange] = contextvars.ContextVar("exchange")


class TimingProtocol(asyncio.Protocol):
    """Stands between a connection and aiohttp's parser, and takes the time of each read.

    A task that reads would first wait for its turn on the loop, and that wait would be measured as
    the server's time; and waking a task for each token would cost many times as much.
    """

    def __init__(
        self,
        handler: aiohttp.client_proto.ResponseHandler,
        timing: StampedSocket | LoopTime | None = None,
    ) -> None:
        self.handler = handler
        self.timing = timing or LoopTime()
        self.exchange: Exchange | None = None
        self.eof_received = handler.eof_received  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, and their time. Bytes that nobody asked for end the connection."""
        arrived_ns, early_ns = self.timing.last_read
        exchange = self.exchange
        if exchange is not None and exchange.sent_ns is not None:
            self.handler.data_received(data)
            exchange.received(arrived_ns, early_ns, data)
        elif self.handler.transport is not None:
            self.handler.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass the end on, and wake the exchange: not every end reaches the body's reader."""
        self.handler.connection_lost(exc)
        if self.exchange is not None:
            error = self.handler.exception() or exc
            if isinstance(exc, ssl.SSLError):  # an alert, such as that a certificate is wanted
                error = exc
            self.exchange.lost = error or aiohttp.ServerDisconnectedError()
            loop = asyncio.get_running_loop()
            # A busy loop learns of the end late; this is the earliest that it can have happened.
            now_ns = loop.watch.since_ns if isinstance(loop, WatchedLoop) else clock()
            self.exchange.lost_ns = now_ns
            self.exchange.wake()


class MeasuredRequest(aiohttp.ClientRequest):
    """A request that puts TimingProtocol in place and notes when its bytes go to the socket."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Put TimingProtocol in place, then send."""
        exchange = _exchange_now.get()
        transport = cast(asyncio.Transport, conn.transport)
        protocol = transport.get_protocol()
        exchange.reused = isinstance(protocol, TimingProtocol)
        if not isinstance(protocol, TimingProtocol):
            handler = cast(aiohttp.client_proto.ResponseHandler, conn.protocol)
            timing: StampedSocket | LoopTime = LoopTime()
            if isinstance(exchange.connector, TimedConnector):
                timing = exchange.connector.timing_of(transport)
            protocol = TimingProtocol(handler, timing)
            transport.set_protocol(protocol)
        protocol.exchange = exchange
        exchange.protocol = protocol
        exchange.connected_ns = clock()
        return await super().send(conn)

    async def write_bytes(self, *args: Any, **kwargs: Any) -> None:
        """Note the time, then write; a StampedSocket's own time of its first write is better."""
        exchange = _exchange_now.get()
        if exchange.protocol is None:  # which `attach` will refuse
            await super().write_bytes(*args, **kwargs)
            return
        timing = exchange.protocol.timing
        exchange.sent_ns, timing.sent_ns = clock(), None
        try:
            await super().write_bytes(*args, **kwargs)
        finally:
            exchange.sent_ns = timing.sent_ns or exchange.sent_ns


def check_aiohttp() -> None:
    """Raise ExtensionError when this aiohttp lacks what the measurement relies on.

    Otherwise an aiohttp that, say, renamed `_buffer` would give empty answers and no error.
    """
    used = {
        aiohttp.ClientRequest: ("send", "write_bytes"),
        aiohttp.connector.Connection: ("protocol", "transport"),
        aiohttp.client_proto.ResponseHandler: (
            "transport",
            "exception",
            "data_received",
            "should_close",
        ),
        aiohttp.StreamReader: ("_buffer", "total_bytes", "is_eof", "exception"),
        aiohttp.TCPConnector: ("_get", "_create_connection"),
    }
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in used.items()
        for name in names
        if not hasattr(owner, name)
    ]
    if not missing:
        loop = asyncio.get_running_loop()
        reader = aiohttp.StreamReader(aiohttp.client_proto.ResponseHandler(loop), 1, loop=loop)
        reader.feed_data(b"a")
        reader.feed_data(b"b")
        if (b"".join(reader._buffer), reader.total_bytes) != (b"ab", 2):
            missing = ["the bytes in StreamReader._buffer"]
    if missing:
        wrong = f"aiohttp {aiohttp.__version__} lacks {', '.join(missing)}"
        raise ExtensionError(f"{wrong}; install the version that pyproject.toml asks for: uv sync")


def open_session(config: Config, target: Target) -> aiohttp.ClientSession:
    """Return the pooled session that is measured: no cookies, no environment, no own timeouts.

    Raises ExtensionError when aiohttp is not one that can be measured through.
    """
    check_aiohttp()
    kept: dict[str, Any] = {"keepalive_timeout": 60}
    if target.embedded is not None:
        # llama.cpp closes a connection after a streamed answer although it announced to keep it;
        # of our own server we know it, and need not find each one dead.
        kept = {"force_close": True}
    connector = TimedConnector(
        unix_socket=target.unix_socket,
        limit=max(config.levels),
        ttl_dns_cache=300,
        ssl=target.tls,
        **kept,
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

    def new_result(self, messages: Sequence[Mapping[str, str]]) -> Result:
        """Return a result that says what is asked, and nothing of the answer yet."""
        turn = len(messages) // 2
        is_last = turn + 1 == len(self.question.texts)  # a conversation is graded at its end
        return Result(
            index=self.index,
            id=self.question.id,
            question=messages[-1]["content"],
            category=self.question.category,
            stage=self.stage,
            turn=turn,
            grader=self.question.grader if is_last else None,
        )


class _IdleError(Exception):
    """No token for `idle_timeout`."""


class _TooLargeError(Exception):
    """The answer is longer than `max_answer_bytes`."""


class Desk:
    """Lets one finished answer be parsed in each turn of the event loop; more when many wait.

    Otherwise answers that end together would be parsed in one go, and the tokens of others that
    arrive meanwhile would be timed late.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait_for_turn(self) -> None:
        """Wait until it is this answer's turn, or the run is stopped."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._call_next)
        with contextlib.suppress(asyncio.CancelledError):
            await turn

    def _call_next(self) -> None:
        for _ in range(1 + len(self._waiting) // 16):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._call_next)


class Traffic:
    """The requests under way and the bytes that came, for the journal's pulse."""

    def __init__(self) -> None:
        self._under_way: set[Exchange] = set()
        self._ended_bytes = 0

    def begin(self, exchange: Exchange) -> None:
        """Count a request that is about to be sent."""
        self._under_way.add(exchange)

    def end(self, exchange: Exchange) -> None:
        """Keep what an ended one has received."""
        self._under_way.discard(exchange)
        self._ended_bytes += exchange.body_bytes

    def to_record(self) -> dict[str, int]:
        """Return how many wait for the first byte of an answer, and how many bytes came so far."""
        arrived = [exchange.body_bytes for exchange in self._under_way]
        received_bytes = self._ended_bytes + sum(arrived)
        return {"waiting": arrived.count(0), "received_bytes": received_bytes}


@dataclasses.dataclass(frozen=True)
class Client:
    """All that a request needs but its question; made once a run."""

    MOST_LOOKS: ClassVar = 8  # an answer may quote [DONE]; a hostile one in every chunk
    GRACE_S: ClassVar = 0.25  # how long the end of the body is waited for behind [DONE]

    session: aiohttp.ClientSession
    config: Config
    target: Target
    start_ns: int = dataclasses.field(default_factory=clock)  # results count their times from here
    desk: Desk = dataclasses.field(default_factory=Desk)
    traffic: Traffic = dataclasses.field(default_factory=Traffic)
    # Keys of the body that the server refuses and the user did not ask for (`stream_options`).
    left_out: set[str] = dataclasses.field(default_factory=set)
    connect_s: float | None = None  # limits connecting; without it only `timeout` does
    watch: Callable[[Exchange], None] = lambda _: None  # is given each Exchange that has ended

    @functools.cached_property
    def api(self) -> Api:
        """How this run's API is asked and read."""
        return APIS[self.config.api]

    @property
    def arrivals(self) -> Arrivals:
        """How the times of arrival were taken so far."""
        return cast(TimedConnector, self.session.connector).arrivals

    @functools.cached_property
    def url(self) -> yarl.URL:
        """The address that is asked."""
        return self.target.url(self.api.path)

    def request_body(self, question: Question, messages: list[dict[str, str]]) -> bytes:
        """Return a request's body; `cache_bust` puts a mark first that no prefix cache has seen."""
        if self.config.cache_bust:
            question, messages = self.marked(question, messages)
        whole = self.api.body(self.config, question, messages)
        kept = {name: value for name, value in whole.items() if name not in self.left_out}
        return pydantic_core.to_json(kept)

    def marked(
        self, question: Question, messages: list[dict[str, str]]
    ) -> tuple[Question, list[dict[str, str]]]:
        """Put a unique mark where the prompt begins."""
        mark, system = f"[{uuid.uuid4().hex}] ", question.system(self.config)
        if system is not None:
            return question.model_copy(update={"system_prompt": mark + system}), messages
        first, *others = messages
        return question, [{**first, "content": mark + first["content"]}, *others]

    async def exchange(self, body: bytes, *, fresh: bool = False) -> Exchange:
        """Send one request and keep what comes back; what goes wrong is kept as its `error`."""
        exchange = Exchange(self.config.max_answer_bytes, self.session.connector)
        exchange.fresh = fresh
        _exchange_now.set(exchange)
        self.traffic.begin(exchange)
        try:
            async with asyncio.timeout(self.config.timeout):
                response = await self.session.post(
                    self.url,
                    data=body,
                    allow_redirects=False,
                    proxy=self.target.proxy,
                    timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_s),
                )
                try:
                    exchange.attach(response)
                    await self.wait_for_end(exchange)
                finally:
                    # Gives a connection back whose answer has ended, and closes any other.
                    response.close()
        # Every failure becomes a result.
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            exchange.error = error
            if isinstance(exchange.lost, ssl.SSLError):
                exchange.error = exchange.lost
        exchange.detach()
        self.traffic.end(exchange)
        return exchange

    async def wait_for_end(self, exchange: Exchange) -> None:
        """Wait until the body has ended; its bytes are parsed before that only when in doubt.

        In doubt means: [DONE] may have come, or `idle_timeout` has passed. Before the first token
        nothing counts as idle: the request may queue, or the model think unseen. Raises what broke
        the connection, _TooLargeError or _IdleError.
        """
        idle_ns = round(self.config.idle_timeout * NS_PER_S)
        deadline_ns = clock() + idle_ns if self.config.stream else sys.maxsize
        looks = 0
        while not exchange.has_ended:
            exchange.raise_if_broken()
            if exchange.done_seen and looks < self.MOST_LOOKS:
                # A body ends right after [DONE]; a server that keeps it open is not waited for.
                exchange.done_seen, looks = False, looks + 1
                await exchange.wait_for_news(self.GRACE_S)
                if not exchange.has_ended and self.parse(exchange).complete:
                    exchange.raise_if_broken()
                    return
                continue
            if clock() >= deadline_ns:
                parsed = self.parse(exchange)
                deadline_ns = (parsed.chunk_ns[-1] if parsed.chunk_ns else clock()) + idle_ns
                if parsed.complete:
                    return
                if clock() >= deadline_ns:
                    raise _IdleError
            await exchange.wait_for_news((deadline_ns - clock()) / NS_PER_S)

    def parse(self, exchange: Exchange) -> ParsedAnswer:
        """Return what can be read of the answer so far; nothing if it is no answer at all."""
        parsed = ParsedAnswer(several=self.config.extra_body.get("n", 1) != 1)
        parsed.timings.said["header_ms"] = exchange.queue_ms
        if not exchange.is_answer(self.config.stream):
            return parsed
        if self.config.stream:
            parsed.read_stream(self.api, exchange.timed_events())
        elif exchange.error is None:
            parsed.read_body(self.api, exchange.body, exchange.reads_ns[-1])
        return parsed

    def fill(self, result: Result, exchange: Exchange) -> Result:
        """Write into the result what the raw bytes say, or why they do not count."""
        redact = self.target.redact
        self.watch(exchange)
        parsed = self.parse(exchange)
        result.question = redact(result.question)
        result.sent_ns = _whole_us(exchange.sent_ns, self.start_ns)
        result.connect_ns = _whole_us(exchange.connect_ns, 0)
        parsed.fill(result, self.start_ns, redact)
        exchange.fill_errors(result, parsed)
        failure = self.failure(exchange, parsed)
        if failure is not None:
            result.status = _STATUS_OF_KIND.get(failure.kind, "error")
            result.end_ns = _whole_us(exchange.ended_ns, self.start_ns)
            if exchange.sent_ns is None:  # all that it did was connecting
                result.connect_ns = _whole_us(exchange.ended_ns, exchange.begun_ns)
            retry_after = exchange.retry_after
            if retry_after is not None:
                retry_after = redact(_whole_text(retry_after))[:100]
            message = redact(_whole_text(failure.message))[:500]
            result.error = Failure(failure.kind, message, exchange.status, retry_after)
        return result

    def failure(self, exchange: Exchange, parsed: ParsedAnswer) -> Failure | None:
        """Return why the answer does not count, if so; what the server said comes first."""
        if exchange.status is not None and exchange.status != 200:
            return self.refused(exchange)
        if parsed.error is not None:
            return Failure("server_error", ErrorReport.text_of(parsed.error))
        if parsed.failure is not None:
            return self.said_in_stream(exchange, parsed.failure, certain=False)
        broke = isinstance(exchange.error, aiohttp.ClientError | ConnectionError)
        if exchange.error is not None and (not parsed.complete or (broke and not parsed.finish)):
            if parsed.complete:  # an interrupted stream of llama-cpp-python looks so
                wrong = "broke off, though [DONE] had come: there is no finish reason"
                return Failure("truncated", wrong)
            return self.transport_failure(exchange.error)
        if not exchange.is_answer(self.config.stream):
            return self.wrong_content(exchange)
        return self.bad_end(exchange, parsed)

    def bad_end(self, exchange: Exchange, parsed: ParsedAnswer) -> Failure | None:
        """Return what is wrong with an answer whose transfer went well; None if nothing is."""
        if parsed.strange is not None:
            return self.said_in_stream(exchange, parsed.strange, certain=False)
        finish = str(parsed.finish or "").lower()
        if finish and finish not in GOOD_REASONS and _FAILED_REASON.search(finish):
            return Failure("aborted", f"finish reason {json.dumps(parsed.finish)}")
        if not parsed.complete and not finish:
            ended = Failure("truncated", FAILURES["truncated"])
            return self.said_in_stream(exchange, ended, certain=False)
        if not parsed.text and not parsed.chunk_ns and not parsed.reasoning:
            reason = f"{FAILURES['empty']} (finish reason: {parsed.finish})"
            return self.said_in_stream(exchange, Failure("empty", reason), certain=False)
        if not finish:
            return self.said_in_stream(exchange, None, certain=True)
        return None

    def said_in_stream(
        self, exchange: Exchange, failure: Failure | None, *, certain: bool
    ) -> Failure | None:
        """Return the failure with what the server said beside its events, if it said something.

        `certain`: only what is surely an error; anything else leaves the answer as it is.
        """
        words, is_error = exchange.stray_words() if self.config.stream else ("", False)
        if is_error:
            return Failure("server_error", words)
        if certain or failure is None:
            return None
        if not words or failure.kind == "bad_json":
            return failure
        return dataclasses.replace(failure, message=f"{failure.message}: {words}")

    def refused(self, exchange: Exchange) -> Failure:
        """Return what a status other than 200 means, in the server's words, with the remedy.

        A 429 or 503 is no special case here: the request has failed, and is not tried again.
        """
        status, words = cast(int, exchange.status), ErrorReport.in_body(exchange.body)
        if status in (301, 302, 303, 307, 308):
            place = _without_password(exchange.location or "")
            base = place.partition("?")[0].removesuffix(f"/{self.api.path}")
            moved = f"moved to {place}; to ask there, set server to {base}"
            return Failure("redirect", moved if place else f"{FAILURES['redirect']}: {words}")
        remedy = ""
        if status == 407:
            remedy = "the proxy asks for a user: write proxy as http://user:password@host:port"
        elif status in (404, 405, 501):
            remedy = f'POST {self.url.path}, api "{self.config.api}"'
        elif "HTTPS port" in words or "HTTPS server" in words:
            remedy = "write https:// in server"
        elif 400 <= status < 600:
            remedy = self.key_remedy(words)
        words = words or FAILURES["http_status"]
        return Failure("http_status", f"{words[:380]}; {remedy}" if remedy else words)

    def key_remedy(self, words: str) -> str:
        """Say which key of the body the server refuses, ready to copy."""
        question = Question(question="?")
        sent = self.api.body(self.config, question, [{"role": "user", "content": "?"}])
        limit = self.api.limit_name
        if "max_completion_tokens" in words and "max_completion_tokens" not in sent:
            tokens = self.config.max_tokens or 512
            return f'set "extra_body": {{"{limit}": null, "max_completion_tokens": {tokens}}}'
        # Keys that are English words as well; a server that means the key quotes it.
        plain = {"stop", "seed", "stream", "user", "model"}
        own = {"model", "messages", "prompt", "input", "stream"}  # set by the test itself
        for name in [name for name in sent if name not in own]:  # in the body's order
            mark = rf"[`'\"\[.]{re.escape(name)}\b" if name in plain else rf"\b{re.escape(name)}\b"
            if re.search(mark, words):
                return f'to leave {name} out, set "extra_body": {{"{name}": null}}'
        return ""

    def wrong_content(self, exchange: Exchange) -> Failure:
        """Say what a 200 with another content type was: an error object, or something else."""
        text, stream = ErrorReport.in_body(exchange.body), self.config.stream
        with contextlib.suppress(json.JSONDecodeError):
            body = _decode_untyped(exchange.body)
            if isinstance(body, _Fields) and ErrorReport.in_event(body) is not None:
                return Failure("server_error", text)
        hint = '; set "stream": false' if stream and "json" in exchange.content_type else ""
        expected = exchange.TYPES[stream][0]
        wrong = f"{exchange.content_type} where {expected} was asked for{hint}"
        return Failure("wrong_type", f"{wrong}: {text}")

    def transport_failure(self, error: BaseException) -> Failure:
        """Return what went wrong between this program and the server."""
        config = self.config
        if isinstance(error, asyncio.CancelledError):
            return Failure("cancelled", FAILURES["cancelled"])
        if isinstance(error, aiohttp.ConnectionTimeoutError) and self.connect_s:
            late = f"{FAILURES['connect']} within {self.connect_s:g} s; is the address right?"
            return Failure("connect", late)
        if isinstance(error, _IdleError):
            return Failure("idle", f"no token for {config.idle_timeout:g} s")
        if isinstance(error, TimeoutError):
            return Failure("timeout", f"took longer than {config.timeout:g} s")
        if isinstance(error, _TooLargeError):
            return Failure("too_large", f"longer than {config.max_answer_bytes} bytes")
        if isinstance(error, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
            return self.proxy_failure(error)
        if isinstance(error, aiohttp.ClientPayloadError):
            cut = isinstance(error.__cause__, ConnectionError) or "ConnectionReset" in str(error)
            return Failure("reset" if cut else "truncated", f"the body broke off: {error}")
        if isinstance(
            error, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError
        ):
            said = str(getattr(error, "message", error))
            return Failure(
                "bad_http", f"{FAILURES['bad_http']}: {said}{self.protocol_remedy(said)}"
            )
        if isinstance(error, aiohttp.ClientError | OSError):
            kind = self.connection_kind(error)
            if kind == "connect" and not isinstance(error, aiohttp.ClientConnectorError):
                kind = "reset"
            remedy = self.tls_remedy(str(error)) if kind == "tls" else ""
            return Failure(kind, f"{FAILURES[kind]}{remedy}: {error}")
        logger.error("a request met a fault of this program", exc_info=error)
        return Failure("internal", f"{type(error).__name__}: {error}")

    def proxy_failure(
        self, error: aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError
    ) -> Failure:
        """Say that it was the proxy, not the server, that failed."""
        proxy = _without_password(self.target.proxy or "")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            asks = "; write proxy as http://user:password@host:port" if error.status == 407 else ""
            said = f"the proxy {proxy} answered HTTP {error.status} {error.message}{asks}"
            return Failure("connect", said)
        kind = self.connection_kind(error)
        return Failure(kind, f"the proxy {proxy} cannot be reached: {FAILURES[kind]}: {error}")

    @staticmethod
    def connection_kind(error: BaseException) -> str:
        """Name the failure of a connection attempt."""
        if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
            return "tls"
        if isinstance(error, aiohttp.ClientConnectorDNSError) or type(error).__name__ == "gaierror":
            return "dns"
        if isinstance(error, aiohttp.ClientConnectorError):
            return Client.connection_kind(error.os_error) if error.os_error else "connect"
        if isinstance(error, ConnectionRefusedError):
            return "connection_refused"
        if isinstance(error, ConnectionResetError | aiohttp.ServerDisconnectedError):
            return "reset"
        if (
            isinstance(error, OSError)
            and type(error) is OSError
            and "refused" in str(error).lower()
        ):
            return "connection_refused"  # several addresses tried, each refused
        return "connect"

    @staticmethod
    def tls_remedy(said: str) -> str:
        """Say what to do about a TLS connection that failed."""
        said = said.lower().replace("_", " ")
        if re.search("hostname mismatch|doesn't match|not valid for", said):
            return " (the certificate is of another host name)"
        if "has expired" in said:
            return " (the certificate has expired)"
        if "certificate verify failed" in said:
            return " (to trust its certificate, name it in ca_file; verify_tls false trusts any)"
        if re.search("certificate required|handshake failure|bad certificate|unknown ca", said):
            return " (the server asks for a certificate: set client_cert and client_key)"
        plain_http = (
            "wrong version number|record layer failure|http request|packet length too long"
            "|unexpected eof|eof occurred"
        )
        if re.search(plain_http, said):
            return " (is it plain HTTP? Then write http:// in server)"
        return ""

    @staticmethod
    def protocol_remedy(said: str) -> str:
        """Say which other protocol the first bytes of an answer are of, as aiohttp quotes them."""
        if r"\x15\x03" in said or "\x15\x03" in said:
            return " (it speaks TLS: write https:// in server)"
        if re.search(r"(\\x00|\x00){2}.{1,8}\\?x?04", said) and "HTTP/1" not in said:
            return " (it speaks HTTP/2 only; put a proxy before it that speaks HTTP/1.1)"
        return ""


async def send_question(
    client: Client,
    planned: PlannedRequest,
    messages: list[dict[str, str]] | None = None,
    release: Callable[[], None] = lambda: None,
) -> Result:
    """Ask one question and return what became of it; never raises but for a fault of this program.

    `messages` is the conversation so far, the new question last. `release` is called as soon as the
    server is done with the request, so that the next one can start before this answer is read.
    A kept connection that dies at once, before a byte of a response, is replaced by a fresh one,
    and the clock starts anew. Nothing else is tried again: a 429 is a failed request like any other
    (`Failure.retry_after` keeps what the server asked for).
    """
    said = messages or [{"role": "user", "content": planned.question.texts[0]}]
    result = planned.new_result(said)
    result.scheduled_ns = _whole_us(planned.scheduled_ns, client.start_ns)
    body = client.request_body(planned.question, said)
    result.max_tokens, result.max_tokens_from = client.api.limit(client.config, planned.question)
    exchange = await client.exchange(body)
    if exchange.died_unused:
        result.reconnects = 1
        exchange = await client.exchange(body, fresh=True)
    release()
    await client.desk.wait_for_turn()
    client.arrivals.look()  # what comes while this answer is parsed would be merged
    return client.fill(result, exchange)


# === Load ===


Send = Callable[[PlannedRequest, list[dict[str, str]], Callable[[], None]], Awaitable[Result]]


class StoppedError(Exception):
    """A signal came before the first question was asked; its number is the argument."""


class StopSignal:
    """SIGINT, SIGTERM and SIGHUP: the first one stops the run in order, the second one at once."""

    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signum: int | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    @contextlib.contextmanager
    def caught(cls) -> Iterator[StopSignal]:
        """Catch the signals while the block runs; under nohup SIGHUP stays ignored.

        Python's own handlers see a signal even while the event loop is busy, for example saving.
        """
        stop_signal, before = cls(), {}
        for name in cls.SIGNALS:
            signum = getattr(signal, name, None)  # Windows has no SIGHUP
            if signum is None:
                continue
            if name == "SIGHUP" and signal.getsignal(signum) == signal.SIG_IGN:
                continue
            with contextlib.suppress(ValueError):  # only the main thread can catch signals
                before[signum] = signal.signal(signum, stop_signal.on_signal)
        try:
            yield stop_signal
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    def on_signal(self, signum: int, _frame: FrameType | None = None) -> None:
        """Stop in order; at the second signal end at once, with the journal as it is."""
        if self.signum is not None:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar had hidden the cursor
            os._exit(128 + signum)
        self.signum = signum
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        logger.warning("stopped by %s", signal.Signals(cast(int, self.signum)).name)
        self.event.set()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """Return what `work` returns; cancel it and raise StoppedError if a signal comes first."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self.event.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if stopped := not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if stopped and self.signum is not None:
            if not task.cancelled():
                task.exception()  # what it made of being stopped is no news
            raise StoppedError(self.signum)
        return await task


@dataclasses.dataclass(frozen=True)
class LoadStart:
    """What a load starts with; a resumed one goes on where an earlier part of the run ended."""

    start_ns: int = dataclasses.field(default_factory=clock)  # what results count their times from
    seed: int = 0  # of the schedules
    done: frozenset[int] = frozenset()  # the places that need not be asked again
    resumed: str | None = None  # what ended the earlier part: "stopped", "killed"
    itl_us: Mapping[int, Mapping[int, int]] = dataclasses.field(default_factory=dict)
    itl_lost: bool = False  # the earlier part was killed before it wrote its histogram down
    clients: Sequence[Mapping[str, Any]] = ()  # what the self-check found in earlier parts
    over: Mapping[str, Any] | None = None  # the footer of a load that has ended: nothing is asked
    share: tuple[int, int] = (0, 1)  # (k, n): run the k-th of n parts that together are the load
    pulse: Callable[[dict[str, int | None]], None] = lambda _: None  # see LoadGenerator.beat


@dataclasses.dataclass
class LoadReport:
    """What became of a load, beside its results."""

    start: LoadStart
    begun_ns: int = dataclasses.field(default_factory=clock)
    begun: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now().astimezone())
    ended_ns: int = 0
    clock_jump_s: float = 0.0  # the wall clock moved so much more than the monotonic one
    client: dict[str, Any] = dataclasses.field(default_factory=dict)
    warmup: Counter[str] = dataclasses.field(default_factory=Counter)  # requests by status
    itl_us: dict[int, Counter[int]] = dataclasses.field(default_factory=dict)  # histogram, by stage
    itl_lost: bool = False  # see LoadStart: then the histogram has only this part's gaps
    # What is known of the machine and of the server, as `meta` has it.
    hardware: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    server_info: Mapping[str, Any] | None = None
    fault: BaseException | None = None  # what `record` raised
    interrupted: bool = False
    gave_up: str | None = None  # why it was ended early
    backed_off_s: float = 0.0  # how long it waited after failures in a row

    def __post_init__(self) -> None:
        self.itl_lost = self.itl_lost or self.start.itl_lost
        for stage, counts in self.start.itl_us.items():
            self.itl_us[stage] = Counter(counts)
        if (footer := self.start.over) is not None:
            self.ended_ns = self.start.start_ns + round(footer["duration_ms"] * NS_PER_MS)
            self.client, self.warmup = dict(footer["client"]), Counter(footer["warmup"])
            self.clock_jump_s = footer["clock_jump_s"]
            self.gave_up = footer.get("gave_up")
            self.backed_off_s = footer.get("backed_off_s", 0.0)

    @property
    def clients(self) -> list[Mapping[str, Any]]:
        """What the self-check found, in each part of the run."""
        return [*self.start.clients, self.client]

    @property
    def ended(self) -> dt.datetime:
        """The wall clock at the end, as the monotonic clock says."""
        if self.start.over is not None:
            return dt.datetime.fromisoformat(self.start.over["ended"])
        return self.begun + dt.timedelta(microseconds=(self.ended_ns - self.begun_ns) // 1000)

    def to_footer(self) -> dict[str, Any]:
        """Return what the journal says behind the results: all else that a results file needs."""
        return {
            "status": "interrupted" if self.interrupted else "complete",
            "ended": self.ended.isoformat(timespec="milliseconds"),
            "duration_ms": (self.ended_ns - self.start.start_ns) / NS_PER_MS,
            "client": self.client,
            "clock_jump_s": self.clock_jump_s,
            "warmup": dict(self.warmup),
            "gave_up": self.gave_up,
            "backed_off_s": self.backed_off_s,
            "itl_us": {str(stage): sorted(counts.items()) for stage, counts in self.itl_us.items()},
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Return what a saved run's verdict was judged by, beside its config and aggregate."""
        client = meta["client"]
        return cls(
            LoadStart(resumed=meta["resumed"], clients=tuple(client["earlier_parts"])),
            client=client,
            clock_jump_s=meta["clock_jump_s"],
            gave_up=meta["gave_up"],
            backed_off_s=meta["backed_off_s"],
            hardware=meta["hardware"] or {},
            interrupted=meta["status"] != "complete",
        )

    def end(self, client: dict[str, Any], *, stopped: bool) -> None:
        """Take the time at which the load ended, and what the self-check found."""
        self.ended_ns = clock()
        self.client = rounded(client)  # as it stands in files: a verdict can be judged anew
        self.interrupted = self.interrupted or stopped
        elapsed_s = (self.ended_ns - self.begun_ns) / NS_PER_S
        wall_s = (dt.datetime.now().astimezone() - self.begun).total_seconds()
        # The machine slept, or somebody set the clock.
        self.clock_jump_s = round(wall_s - elapsed_s, 6)


async def process_questions(
    config: Config,
    questions: Sequence[Question],
    send: Send,
    record: Callable[[Result], None],
    stop_signal: StopSignal,
    start: LoadStart | None = None,
) -> LoadReport:
    """Ask the questions stage by stage, as many at once as the stage says; record each result.

    Failed requests are results; what `record` raises ends the run and is raised here, after the
    other requests were cancelled. `start.pulse` is told once a second how the load stands.
    """
    report = LoadReport(start or LoadStart())
    if report.start.over is not None:
        return report
    with gc_paused(), LagMonitor() as lag:
        generator = LoadGenerator(config, questions, send, record, report, lag)
        work = asyncio.create_task(generator.run())
        beat = asyncio.create_task(generator.beat())
        stop = asyncio.create_task(stop_signal.event.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        beat.cancel()
        work.cancel()
        await asyncio.wait((work,))
    report.end(lag.to_record(), stopped=stop_signal.signum is not None)
    if report.fault is not None:
        raise report.fault
    if not work.cancelled():
        work.result()
    return report


# --- Schedule ---


class Stage:
    """One level of concurrency: which questions it asks, and when each is due."""

    def __init__(
        self,
        config: Config,
        questions: Sequence[Question],
        number: int,
        start: LoadStart,
    ) -> None:
        self.questions, self.number, self.share = questions, number, start.share
        part, parts = start.share
        level = config.levels[number]
        self.level = level // parts + (part < level % parts)
        self.done = start.done
        self.is_warmup = False
        self.ramp_s = config.ramp_up
        self.count: int | None = len(questions)
        self.first_index = number * len(questions)
        # A second pass has its places behind those of all stages.
        self.second_index = len(config.levels) * len(questions)
        if config.asks_floor and level == min(config.levels):
            self.count = 2 * len(questions)
        self.duration_ns: int | None = None
        self.offsets_ns: Iterable[int] | None = None
        if config.duration is not None:
            self.count = None
            self.first_index = number << 32  # no stage asks as many; see JournalReader.finished
            self.duration_ns = round(config.duration * NS_PER_S)
        if config.rate is not None:
            self.ramp_s = 0  # it is in the schedule
            self.offsets_ns = arrival_offsets(config, self.count, f"{start.seed}/{number}")

    @classmethod
    def warmup(cls, config: Config, questions: Sequence[Question], start: LoadStart) -> Self:
        """Return the stage before the first one: a closed loop with the first one's level."""
        closed = config.model_copy(update={"rate": None, "duration": None, "ramp_up": 0})
        stage = cls(closed, questions, 0, LoadStart(share=start.share))
        stage.count, stage.is_warmup = config.warmup, True
        return stage

    def planned_requests(self, begun_ns: int) -> Iterator[tuple[int, PlannedRequest]]:
        """Yield each request with the moment when it is due (0: as soon as a slot is free).

        What an earlier part of the run has finished is left out, and so are the gaps before it: the
        rest has the asked rate too.
        """
        part, parts = self.share
        places = itertools.count() if self.count is None else range(self.count)
        offsets = itertools.repeat(0) if self.offsets_ns is None else self.offsets_ns
        left_out_ns = before_ns = 0
        for place, offset_ns in zip(places, offsets, strict=False):
            gap_ns, before_ns = offset_ns - before_ns, offset_ns
            index = self.first_index + place
            if self.duration_ns is None and place >= len(self.questions):
                index = self.second_index + place - len(self.questions)
            if index in self.done:
                left_out_ns += gap_ns
                continue
            if place % parts != part:
                continue
            due_ns, scheduled_ns = 0, None
            if self.offsets_ns is not None:
                due_ns = scheduled_ns = begun_ns + offset_ns - left_out_ns
            question = self.questions[place % len(self.questions)]
            yield due_ns, PlannedRequest(index, question, self.number, scheduled_ns)

    def left_s(self, begun_ns: int) -> float | None:
        """Return how much of a closed loop's `duration` is left; None without one."""
        if self.duration_ns is None or self.offsets_ns is not None:
            return None
        return (begun_ns + self.duration_ns - clock()) / NS_PER_S

    def is_over(self, begun_ns: int) -> bool:
        """Whether a closed loop's `duration` has passed; an open loop's schedule ends by itself."""
        left_s = self.left_s(begun_ns)
        return left_s is not None and left_s <= 0


class Plan(Iterator[tuple[int, PlannedRequest]]):
    """A stage's requests in their order, each with the moment when it is due.

    `held` looks ahead in them.
    """

    MOST_AHEAD = 100_000

    def __init__(self, requests: Iterator[tuple[int, PlannedRequest]]) -> None:
        self._requests = requests
        self._ahead: deque[tuple[int, PlannedRequest]] = deque()
        self._taken_due_ns: float = math.inf  # of the last one; endless when there is none

    def __next__(self) -> tuple[int, PlannedRequest]:
        self._taken_due_ns = math.inf
        request = self._ahead.popleft() if self._ahead else next(self._requests)
        self._taken_due_ns = request[0]
        return request

    def held(self) -> int:
        """Return how many requests are due while all slots are busy, MOST_AHEAD at most.

        The one that was taken last is among them: it waits for a slot.
        """
        now_ns, ahead = clock(), self._ahead
        while len(ahead) < self.MOST_AHEAD and not (ahead and ahead[-1][0] > now_ns):
            request = next(self._requests, None)
            if request is None:
                break
            ahead.append(request)
        not_due = bool(ahead) and ahead[-1][0] > now_ns
        return len(ahead) - not_due + (self._taken_due_ns <= now_ns)


def arrival_offsets(config: Config, count: int | None, seed: str) -> Iterator[int]:
    """Yield the send times of an open loop, ns from its start, so that lateness never adds up.

    `rate` is the mean; the gaps are exponential (poisson), equal (constant) or gamma distributed
    (shape `burstiness`). During `ramp_up` the rate grows evenly from 0. `seed` makes the times
    repeatable. They are made one by one: a day at 10,000 requests/s has 864 million.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    rate, ramp_s, shape = cast(float, config.rate), config.ramp_up, config.burstiness
    end_ns = math.inf
    if config.duration is not None and count is None:
        end_ns = round(config.duration * NS_PER_S)
    if config.arrival == "poisson":
        shape = 1.0
    # The first gap is what is left of one that had begun before: then `duration` holds its share of
    # requests, and not one more.
    even_s = 0.0  # the time at which the request would be due without a ramp
    if config.arrival != "constant":
        even_s = rng.random() * rng.gammavariate(shape + 1, 1 / (shape * rate))
    for place in itertools.count(1) if count is None else range(1, count + 1):
        # While the rate grows, its integral has to reach the value that it has at full rate.
        time_s = even_s + ramp_s / 2
        if even_s < ramp_s / 2:
            time_s = math.sqrt(2 * ramp_s * even_s)
        time_ns = round(time_s * NS_PER_S)
        if time_ns >= end_ns:
            return
        yield time_ns
        if config.arrival == "constant":
            even_s = place / rate  # a sum of gaps would be off by its rounding
        else:
            even_s += rng.gammavariate(shape, 1 / (shape * rate))


# --- Generator ---


class LoadGenerator:
    """Runs the warm-up and then the stages, one after the other, and records what comes back.

    A share (k, n) of the load is every n-th planned request from the k-th on, and as much of each
    level. Each share needs a slot: n is at most the lowest level.
    """

    BEAT_S = 1.0

    def __init__(
        self,
        config: Config,
        questions: Sequence[Question],
        send: Send,
        record: Callable[[Result], None],
        report: LoadReport,
        lag: LagMonitor,
    ) -> None:
        part, parts = report.start.share
        if not 0 <= part < parts <= min(config.levels):
            raise ValueError(f"share {part} of {parts}: there are {min(config.levels)} slots")
        self.config, self.questions = config, questions
        self.send, self.record = send, record
        self.report, self.lag = report, lag
        self.patience = Patience(config)
        self.done = self.failed = 0
        self._now: tuple[Stage, Plan, ConcurrencyLimit] | None = None  # while a stage runs
        self._work: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Ask all; when cancelled, the requests in flight end as "cancelled"."""
        config, start = self.config, self.report.start
        self._work = asyncio.current_task()
        if config.duration is not None and start.done:
            # Nobody knows how much of the time was left when it was killed: it is only saved.
            self.report.interrupted = True
            return
        if config.warmup:
            stage = Stage.warmup(config, self.questions, start)
            await self._run_stage(stage, self._discard)
        for number in range(len(config.levels)):
            if number and config.cooldown:
                await asyncio.sleep(config.cooldown)
            stage = Stage(config, self.questions, number, start)
            with self.lag.stage(number):
                await self._run_stage(stage, self._keep)

    async def beat(self) -> None:
        """Tell `pulse` once a second how the load stands: which stage asks, and how many requests.

        In the warm-up the stage is None; `queued` are requests that are due, but held by the cap.
        """
        while True:
            await asyncio.sleep(self.BEAT_S)
            state: dict[str, int | None] = {"stage": None, "in_flight": 0, "queued": 0}
            if self._now is not None:
                stage, plan, limit = self._now
                state["in_flight"] = limit.busy
                if stage.offsets_ns is not None and not limit.empty:
                    state["queued"] = plan.held()
                if not stage.is_warmup:
                    state["stage"] = stage.number
            self.report.start.pulse({**state, "done": self.done, "failed": self.failed})

    def _keep(self, result: Result) -> None:
        self.done += 1
        self.failed += result.error is not None and result.status != "cancelled"
        read_ns = result.end_ns if result.first_ns is None else result.first_ns
        if result.client_error_ns is None and result.ok and read_ns is not None:
            delay_ns = self.lag.delay_ns(self.report.start.start_ns + read_ns)
            result.client_error_ns = delay_ns // 1000 * 1000
        if not self.config.record_chunk_times:
            histogram = self.report.itl_us.setdefault(result.stage, Counter())
            if result.ok:  # a failure's gaps are no latency that a user had
                histogram.update(map(Histogram.bucket, result.chunk_gaps_us or ()))
            result.chunk_ns = None
        self.record(result)

    def _discard(self, result: Result) -> None:
        self.report.warmup[result.status] += 1

    def _give_up_if_hopeless(self, result: Result) -> None:
        """End the run when its failures say that there is no point in going on."""
        if self.report.gave_up is None and (reason := self.patience.judge(result)) is not None:
            logger.warning("gave up: %s", reason)
            self.report.gave_up, self.report.interrupted = reason, True
            self._cancel()

    def _cancel(self) -> None:
        """End the run; only once, for a second call would interrupt the end of its requests."""
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _run_stage(self, stage: Stage, record: Callable[[Result], None]) -> None:
        """Ask the stage's questions with at most `level` in flight."""
        limit, tasks = ConcurrencyLimit(stage.level, stage.ramp_s), set[asyncio.Task[None]]()
        begun_ns, started = clock(), 0
        self.patience.level = stage.level
        plan = Plan(stage.planned_requests(begun_ns))
        self._now = stage, plan, limit
        try:
            for due_ns, planned in plan:
                if stage.offsets_ns is None:
                    waited_s = await self.patience.pause(stage.left_s(begun_ns))
                    self.report.backed_off_s = round(self.report.backed_off_s + waited_s, 6)
                if (wait_ns := due_ns - clock()) > 0:
                    await asyncio.sleep(wait_ns / NS_PER_S)
                slot = await limit.take()
                if stage.is_over(begun_ns):
                    break
                task = asyncio.create_task(self._converse(planned, record, slot))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                # A herd of requests that start together must not hold up the reading of tokens: few
                # a turn of the loop, and more when many slots stand empty.
                started += 1
                if started % (1 + limit.empty // 16) == 0:
                    await asyncio.sleep(0)
            self.lag.begin_drain()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self._now = None
            limit.close()
            if stage.offsets_ns is None:
                self.lag.note_empty_slots(limit.empty_share)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _converse(
        self,
        planned: PlannedRequest,
        record: Callable[[Result], None],
        slot: Slot,
    ) -> None:
        """Ask a question, or the turns of a conversation in their order; record each result."""
        messages: list[dict[str, str]] = []
        last, skipped = len(planned.question.texts) - 1, ""
        slot.begin()
        try:
            for turn, text in enumerate(planned.question.texts):
                messages.append({"role": "user", "content": text})
                if skipped:
                    result = self._unsent(planned, messages, skipped)
                else:
                    done = slot.release if turn == last else lambda: None
                    result = await self._ask(planned, list(messages), done)
                record(result)
                self._give_up_if_hopeless(result)
                if not result.ok and not skipped:
                    stopped = result.status == "cancelled"
                    skipped = "cancelled" if stopped else "turn_skipped"
                messages.append({"role": "assistant", "content": result.answer_text})
                planned = dataclasses.replace(planned, scheduled_ns=None)
        except Exception as error:  # noqa: BLE001  what `record` raises ends the run, not just this task
            self.report.fault = self.report.fault or error
            self._cancel()
        finally:
            slot.release()

    async def _ask(
        self, planned: PlannedRequest, messages: list[dict[str, str]], release: Callable[[], None]
    ) -> Result:
        """Send, and turn even a fault of this program into a result: it never ends a run."""
        try:
            return await self.send(planned, messages, release)
        except asyncio.CancelledError:
            return self._unsent(planned, messages, "cancelled")
        except Exception as error:
            logger.exception("question %s met a fault of this program", planned.question.id)
            return self._unsent(planned, messages, "internal", f"{type(error).__name__}: ")

    def _unsent(
        self, planned: PlannedRequest, messages: list[dict[str, str]], kind: str, prefix: str = ""
    ) -> Result:
        """Return the result of a request that has no answer because of this program."""
        result = planned.new_result(messages)
        result.status = _STATUS_OF_KIND.get(kind, "error")
        result.error = Failure(kind, prefix + FAILURES[kind])
        return result


class Patience:
    """Judges failures in a row, by time of end: asks slower after some, gives up after more."""

    LEAST = 20  # failures in a row before it gives up; at least twice the level
    SLOWER_FROM = 5  # at least the level; then there is a pause after each so many
    FIRST_PAUSE_S = 0.25
    LONGEST_PAUSE_S = 5.0
    LONGEST_WISH_S = 60.0  # of a Retry-After

    def __init__(self, config: Config) -> None:
        self.abort_if, self.patience_s = config.abort_if, config.startup_timeout
        self.level = 1
        self.judged = self.failed = 0
        self._succeeded = asyncio.Event()
        self._start_row()

    def _start_row(self) -> None:
        self.in_a_row = self.counted = self._started = 0
        self._since_ns = clock()
        self._pause_s, self._wish_s = self.FIRST_PAUSE_S, 0.0
        self._said: Counter[str] = Counter()

    def judge(self, result: Result) -> str | None:
        """Take a result that has ended; return why the run should end, if it should.

        A 429 or 503 with Retry-After asks for patience: it counts only once that has lasted longer
        than a server is waited for at the start.
        """
        if result.ok:
            self.judged += 1
            self._start_row()
            self._succeeded.set()
            return None
        error = result.error
        if error is None or result.status == "cancelled":
            return None
        self.judged += 1
        self.failed += 1
        self.in_a_row += 1
        self._said[error.shown[:200]] += 1
        if error.http_status in (429, 503) and error.retry_after is not None:
            with contextlib.suppress(ValueError):  # a date
                self._wish_s = min(float(error.retry_after), self.LONGEST_WISH_S)
        else:
            self.counted += 1
        return self._verdict()

    def _verdict(self) -> str | None:
        if self.abort_if is None:
            return None
        most, waited_s = max(self.LEAST, 2 * self.level), (clock() - self._since_ns) / NS_PER_S
        dead = self.counted >= most
        if dead or (self.in_a_row >= most and waited_s > self.patience_s):
            return f"{self.in_a_row} failures in a row, mostly {self._said.most_common(1)[0][0]}"
        seen = {"error_rate": self.failed / self.judged, "failed": self.failed}
        for name, condition in self.abort_if.model_dump(exclude_none=True).items():
            if self.judged >= self.LEAST and ThresholdCheck.of(name, condition, seen).met:
                most_said = self._said.most_common(1)[0][0]
                return f"{name} {condition} ({seen[name]:.4g}), lately {most_said}"
        return None

    async def pause(self, most_s: float | None) -> float:
        """Wait before the next request where failures in a row ask for it; return how long.

        As many as the level follow each other without a pause, so that a server that has come back
        is noticed at once. A success ends the pause.
        """
        slower_from = max(self.SLOWER_FROM, self.level)
        if self.in_a_row < slower_from:
            return 0.0
        self._started += 1
        if self._started % slower_from != 1:
            return 0.0
        if self._started == 1:
            said = self._said.most_common(1)[0][0]
            logger.warning("%d requests in a row failed (%s); asking slower", self.in_a_row, said)
        pause_s = max(self._pause_s, self._wish_s)
        if most_s is not None:
            pause_s = min(pause_s, max(most_s, 0.0))
        self._pause_s = min(2 * self._pause_s, self.LONGEST_PAUSE_S)
        begun_ns = clock()
        self._succeeded.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._succeeded.wait()
        return (clock() - begun_ns) / NS_PER_S


class ConcurrencyLimit:
    """The slots of a stage: a semaphore that knows how long they stood empty.

    With a ramp they open one after the other, evenly over its time; the first one at once.
    """

    def __init__(self, level: int, ramp_s: float = 0) -> None:
        self._level, self._ramp_s, self._opened = level, ramp_s, 0
        self._semaphore = asyncio.Semaphore(0)
        self._begun_ns = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._empty = 0  # open slots without a request
        self._full_ns: int | None = None  # when all were first busy; empty time counts from then
        self._changed_ns = 0  # when `_empty` last changed
        self._empty_ns = 0  # how long slots stood empty, added up over all slots
        # Both at the last start of a request: behind it there was nothing more to ask.
        self._last_start_ns = self._empty_by_then_ns = 0
        self._open()

    def _open(self) -> None:
        """Open the slots whose time has come, and come back for the next one."""
        due = self._level
        if self._ramp_s:
            elapsed_s = (clock() - self._begun_ns) / NS_PER_S
            due = min(due, 1 + int(elapsed_s * self._level / self._ramp_s))
        for _ in range(due - self._opened):
            self._empty += 1
            self._semaphore.release()
        self._opened = due
        if due < self._level:
            wait_s = self._ramp_s / self._level
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._open)

    async def take(self) -> Slot:
        """Wait for a slot."""
        await self._semaphore.acquire()
        return Slot(self)

    def begin(self) -> None:
        """Note that a slot has a request."""
        self._change(-1)
        self._last_start_ns, self._empty_by_then_ns = self._changed_ns, self._empty_ns
        if self._full_ns is None and not self._empty and self._opened == self._level:
            self._full_ns = self._changed_ns

    def give_back(self) -> None:
        """Note that a slot is empty again."""
        self._change(1)
        self._semaphore.release()

    def _change(self, change: int) -> None:
        now_ns = clock()
        if self._full_ns is not None:
            self._empty_ns += self._empty * (now_ns - self._changed_ns)
        self._empty += change
        self._changed_ns = now_ns

    @property
    def empty(self) -> int:
        """How many open slots have no request."""
        return self._empty

    @property
    def busy(self) -> int:
        """How many slots have a request."""
        return self._opened - self._empty

    @property
    def empty_share(self) -> float | None:
        """For how much of the time slots stood empty though there was more to ask."""
        if self._full_ns is None or self._last_start_ns <= self._full_ns:
            return None
        return self._empty_by_then_ns / (self._level * (self._last_start_ns - self._full_ns))

    def close(self) -> None:
        """Open no more slots."""
        if self._timer is not None:
            self._timer.cancel()


class Slot:
    """A place of a ConcurrencyLimit that was taken."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit, self._busy = limit, False

    def begin(self) -> None:
        """Say that its request begins."""
        self._busy = True
        self._limit.begin()

    def release(self) -> None:
        """Give it back; only the first call counts."""
        if self._busy:
            self._busy = False
            self._limit.give_back()


# --- Self-check ---


class StageWatch:
    """What the client itself did in one stage: how its loop lagged, and who had the processor."""

    RIVAL_SHARE = 0.1  # of a core; what uses less is not named
    MOST_RIVALS = 3

    def __init__(self, number: int) -> None:
        self.number = number
        self.lags_us: Counter[int] = Counter()
        self.draining = False
        self.cpu_s: float | None = None
        self.cpu_wait_s: float | None = None
        self.elapsed_s = 0.0
        self.slots_empty_share: float | None = None  # in a closed loop
        self.rivals: list[dict[str, Any]] = []
        self._others = self._cpu_of_others()
        self._waited_s = self._run_delay_s()
        self._cpu_s, self._begun_ns = time.process_time(), clock()

    def end(self) -> None:
        """Take the differences from the stage's beginning."""
        self.elapsed_s = (clock() - self._begun_ns) / NS_PER_S
        self.cpu_s = time.process_time() - self._cpu_s
        waited_s = self._run_delay_s()
        if waited_s is not None and self._waited_s is not None:
            self.cpu_wait_s = waited_s - self._waited_s
        shares = []
        for pid, (name, cpu_s) in self._cpu_of_others().items():
            _, before_s = self._others.get(pid, ("", 0.0))
            shares.append(((cpu_s - before_s) / max(self.elapsed_s, 0.001), pid, name))
        for share, pid, name in sorted(shares, reverse=True)[: self.MOST_RIVALS]:
            if share >= self.RIVAL_SHARE:
                self.rivals.append({"name": name, "pid": pid, "cpu_share": share})

    @staticmethod
    def _run_delay_s() -> float | None:
        """Return how long this thread was ready and had no processor; None but on Linux."""
        try:
            return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / NS_PER_S
        except (OSError, ValueError, IndexError):
            return None

    @staticmethod
    def _cpu_of_others() -> dict[int, tuple[str, float]]:
        """Return name and CPU seconds of each other process in sight, by id; none but on Linux."""
        used = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(path.parent.name)
                head, _, fields = path.read_bytes().rpartition(b")")
                user, system = fields.split()[11:13]
                name = head.partition(b"(")[2].decode("utf-8", "replace")
                if pid != os.getpid():
                    used[pid] = name, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return used

    @classmethod
    def summary(cls, watches: Sequence[StageWatch]) -> dict[str, Any]:
        """Return the figures of these stages together."""
        lags_us: Counter[int] = Counter()
        for watch in watches:
            lags_us.update(watch.lags_us)
        lags = Histogram({us / 1000: times for us, times in lags_us.items()})
        shares: dict[str, float | None] = {}
        for name in ("cpu", "cpu_wait"):
            parts = [getattr(watch, f"{name}_s") for watch in watches]
            elapsed_s = max(sum(watch.elapsed_s for watch in watches), 0.001)
            measured = parts and None not in parts
            shares[f"{name}_share"] = sum(parts) / elapsed_s if measured else None
        named = {name: percentile(lags, share) for name, share in PERCENTILES.items()}
        return {"loop_lag_ms": {**named, "max": lags[-1] if lags else None}, **shares}


class LagMonitor:
    """Measures how long a callback that is ready waits for the event loop: the client's own delay.

    A thread takes the ticks of an even beat and hands each to the loop as a callback. The lag
    counts from the tick: it holds the wait for a processor, for the interpreter lock and for the
    loop's other work, and no timer's resolution. Only stages count, not the time around them.
    """

    BEAT_NS = 20 * NS_PER_MS
    FEWEST_BEATS = 50
    MOST_HOLDS = 100_000

    def __init__(self) -> None:
        self.watches: list[StageWatch] = []
        self._now: StageWatch | None = None
        # When the loop was held up: until when, and since when at the latest.
        self._holds: deque[tuple[int, int]] = deque(maxlen=self.MOST_HOLDS)
        self._loop = asyncio.get_running_loop()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lag", daemon=True)
        self._start_ns = clock()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    @contextlib.contextmanager
    def stage(self, number: int) -> Iterator[None]:
        """Watch a stage while the block runs."""
        self._now = StageWatch(number)
        try:
            yield
        finally:
            self._now.end()
            self.watches.append(self._now)
            self._now = None

    def begin_drain(self) -> None:
        """Count lag no more: nothing starts any more, and the few streams left would dilute it.

        Unless that is nearly the whole stage, because its requests all started at once.
        """
        if self._now is not None:
            self._now.draining = self._now.lags_us.total() >= self.FEWEST_BEATS

    def note_empty_slots(self, share: float | None) -> None:
        """Take how long the stage's slots stood empty."""
        if self._now is not None:
            self._now.slots_empty_share = share

    def _beat(self) -> None:
        due_ns = self._start_ns
        while True:
            due_ns += self.BEAT_NS
            if self._end.wait(max(due_ns - clock(), 0) / NS_PER_S):
                return
            try:
                self._loop.call_soon_threadsafe(self._arrived, due_ns)
            except RuntimeError:  # the loop has closed
                return

    def _arrived(self, due_ns: int) -> None:
        now_ns = clock()
        if self._now is not None and not self._now.draining:
            self._now.lags_us[Histogram.bucket((now_ns - due_ns) // 1000)] += 1
        last_ns, since_ns = self._holds[-1] if self._holds else (0, 0)
        if due_ns < last_ns:  # the loop works off the beats of one delay
            self._holds[-1] = (now_ns, since_ns)
        else:
            self._holds.append((now_ns, due_ns))

    def delay_ns(self, read_ns: int) -> int:
        """Return how long what was read then may have waited for the loop."""
        after = bisect.bisect_right(self._holds, (read_ns, sys.maxsize))
        waited_ns = 0
        if after and read_ns - self._holds[after - 1][0] <= self.BEAT_NS:
            until_ns, since_ns = self._holds[after - 1]
            waited_ns = until_ns - since_ns
        if after < len(self._holds):  # the loop may not have worked off all beats of a delay
            waited_ns = max(waited_ns, read_ns - self._holds[after][1])
        return waited_ns

    def to_record(self) -> dict[str, Any]:
        """Return what `meta.client` says: of all stages together, and of each."""
        stages = [
            {
                "stage": watch.number,
                **StageWatch.summary([watch]),
                "slots_empty_share": watch.slots_empty_share,
                "rivals": watch.rivals,
            }
            for watch in self.watches
        ]
        return {**StageWatch.summary(self.watches), "stages": stages}


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Keep the collector out of the measured window: a full collection looks like a slow server."""
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

    @staticmethod
    def bucket(us: int) -> int:
        """Round to four digits, so that a histogram stays small."""
        return us if us < 10_000 else round(us, 4 - len(str(us)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        wanted = place if place >= 0 else len(self) + place
        return self.values[bisect.bisect_right(self._ends, wanted)]

    def mean(self) -> float:
        """Return the mean."""
        pairs = zip(self.values, self.counts, strict=True)
        return math.fsum(value * times for value, times in pairs) / len(self)

    def std(self) -> float:
        """Return the standard deviation of the sample."""
        mean = self.mean()
        pairs = zip(self.values, self.counts, strict=True)
        squares = math.fsum((value - mean) ** 2 * times for value, times in pairs)
        return math.sqrt(squares / (len(self) - 1))


def percentile(ordered: Sequence[float], quantile: float) -> float | None:
    """Return a percentile of sorted values, with linear interpolation; None without values.

    `quantile` is from 0 to 1: 0.95 for the p95.
    """
    if not len(ordered):
        return None
    place = quantile * (len(ordered) - 1)
    below = math.floor(place)
    lower, upper = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return lower + (upper - lower) * (place - below)


@functools.lru_cache(maxsize=4096)
def interval_ranks(n: int, quantile: float) -> tuple[int | None, int | None]:
    """Return the places, from 0, of the two values that enclose a percentile in 95 % of samples.

    `n` is the size of the sorted sample. None stands for a bound that so few values do not support:
    the p99 of 20 values has no upper one. Exact binomial; each tail holds at most 2.5 %
    (Conover, Practical Nonparametric Statistics, 3.2).
    """
    tail = (1 - CONFIDENCE) / 2
    spread = 10 * math.sqrt(n * quantile * (1 - quantile)) + 10
    first = max(0, math.floor(n * quantile - spread))
    last = min(n, math.ceil(n * quantile + spread))
    lower, upper, cumulated = None, None, 0.0
    for below in range(first, last + 1):
        # The probability that exactly `below` of the n values lie below the percentile.
        ways = math.lgamma(n + 1) - math.lgamma(below + 1) - math.lgamma(n - below + 1)
        chance = below * math.log(quantile) + (n - below) * math.log1p(-quantile)
        cumulated += math.exp(ways + chance)
        if cumulated <= tail:
            lower = below
        if cumulated >= 1 - tail:
            upper = below if below < n else None
            break
    return lower, upper


def min_samples(quantile: float) -> int:
    """Return how many values a percentile needs for an interval with both bounds."""
    tail = (1 - CONFIDENCE) / 2
    return math.ceil(math.log(tail) / math.log(max(quantile, 1 - quantile)))


def requests_missing(metric: Mapping[str, Any], name: str) -> int:
    """Return about how many more values a percentile of an aggregate needs for both its bounds.

    It assumes that each new value counts as much as those before. A high percentile with too few
    values to tell how much that is, goes by the lower percentiles.
    """
    n: int = metric["n"]
    share = 1.0
    for lower, quantile in PERCENTILES.items():
        if n >= min_samples(quantile):
            share = min(share, max(metric["n_eff"][lower] or 0.0, 5.0) / n)
        if lower == name:
            break
    return max(math.ceil(min_samples(PERCENTILES[name]) / share) - n, 0)


def student_t(tail: float, df: float) -> float:
    """Return what Student's t exceeds with probability `tail`; 2 % off at 3 degrees of freedom.

    A series in 1/df around the normal quantile (Abramowitz and Stegun, 26.7.5).
    """
    z = statistics.NormalDist().inv_cdf(1 - tail)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


def in_batches(values: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut values into at most `most` pieces of the same size, give or take one."""
    count = min(len(values), most)
    places = [len(values) * place // count for place in range(count + 1)] if count else []
    for start, end in itertools.pairwise(places):
        yield values[start:end]


def sum_variance(deviations: Sequence[float]) -> tuple[float, float]:
    """Return the variance of the sum of a series whose values depend on each other, and its df.

    The autocovariances are added up in pairs, to the first pair that is not positive, and no pair
    counts for more than the one before it (Geyer, Practical Markov Chain Monte Carlo, 1992). So a
    series that forgets soon is judged by its first few lags, and has many degrees of freedom.
    """
    covariance = sum(map(operator.mul, deviations, deviations))
    variance, least, lag = -covariance, math.inf, 0
    while lag + 1 < len(deviations):
        pair = covariance + sum(map(operator.mul, deviations, deviations[lag + 1 :]))
        if pair <= 0 and lag:
            break
        least = min(least, pair)
        variance += 2 * least
        lag += 2
        covariance = sum(map(operator.mul, deviations, deviations[lag:]))
    return variance, len(deviations) / max(2 * lag - 1, 1)


class Series(Sequence[float]):
    """A sorted sequence of values that knows the order in which their requests were sent."""

    MOST_BATCHES = 512

    def __init__(self, values: Sequence[float]) -> None:
        self._batches = [sorted(batch) for batch in in_batches(values, self.MOST_BATCHES)]
        self._ordered = sorted(itertools.chain.from_iterable(self._batches))

    def __len__(self) -> int:
        return len(self._ordered)

    def __getitem__(self, place: Any) -> Any:
        return self._ordered[place]

    def mean(self) -> float:
        """Return the mean."""
        return statistics.fmean(self._ordered)

    def std(self) -> float:
        """Return the standard deviation of the sample."""
        mean = self.mean()
        squares = math.fsum((value - mean) ** 2 for value in self._ordered)
        return math.sqrt(squares / (len(self) - 1))

    def effective_n(self, quantile: float) -> float:
        """Return how many independent values would know a percentile as well as these do.

        Requests under load depend on each other: who waits, waits behind one who waits. The share
        of values at or below the percentile is counted in batches in the order of the sends; how
        much more it varies than independent values would, divides n. As the variance is itself an
        estimate, n is taken down by Student's t (Korn and Graubard, Survey Methodology 24, 1998);
        where it comes from few events, as above a high percentile, it counts for less still.
        """
        n = len(self)
        value = cast(float, percentile(self, quantile))
        below = [bisect.bisect_right(batch, value) for batch in self._batches]
        share = sum(below) / n
        pairs = zip(below, self._batches, strict=True)
        deviations = [count - share * len(batch) for count, batch in pairs]
        if not any(deviations):
            return float(n)
        variance, df = sum_variance(deviations)
        if df <= 2:
            return 1.0
        alone = quantile * (1 - quantile)
        # The mean of the same values was taken off, which hides part of the variance.
        inflation = max(variance / (1 - 1 / df) / (n * alone), 1 / n)
        effective = n / inflation
        if inflation > 1:  # then what varies is clumps, and there are only so many of them
            df = 1 / (1 / df + (1 - 1 / inflation) / (effective * alone * 2 / 3))
        if df <= 2:
            return 1.0
        tail = (1 - CONFIDENCE) / 2
        penalty = student_t(tail, math.inf) / student_t(tail, df)
        return max(1.0, min(n, effective * penalty**2))


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `n` independent trials (Wilson 1927).

    For mean scores between 0 and 1 it is on the safe side.
    """
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    spread = math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    half = z / (1 + z * z / n) * spread
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_score(scores: Sequence[float], answers: int) -> dict[str, Any]:
    """Return the mean of scores from 0 to 1, one a question, with its 95 % interval.

    A question that is asked again brings no new question: each counts once, by the mean of its
    answers, and the interval comes from how much the questions differ (cluster-robust). Two more
    questions that differ as much as can be are added to that, so that ten that happen to agree are
    not taken for certain. `answers` is how many answers the scores come from.
    """
    questions = len(scores)
    if not questions:
        return {"avg": None, "n": 0, "questions": 0, "ci95": [None, None]}
    mean = min(math.fsum(scores) / questions, 1.0)
    most = mean * (1 - mean)
    effective = float(questions)
    if most > 0:
        squares = math.fsum((score - mean) ** 2 for score in scores)
        effective = questions * most / ((squares + 2 * most) / (questions + 1))
    tail = (1 - CONFIDENCE) / 2
    penalty = student_t(tail, math.inf) / student_t(tail, questions + 1)
    interval = wilson_interval(mean, min(effective * penalty**2, answers))
    return {"avg": mean, "n": answers, "questions": questions, "ci95": list(interval)}


def describe(
    values: Iterable[float] | Histogram, n_eff: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return avg, std, min, max, the percentiles, `n`, `n_eff` and the percentiles' 95 % intervals.

    `values` are in the order of the sends; that is where `n_eff` comes from, a number for each
    percentile: as how many independent ones its values count. A histogram has no order, so it has
    none unless it is given. What was not measured is None, and so is a bound that `n_eff` does not
    support. Where dependence leaves less than half of what an interval needs, both bounds are None.
    """
    names = ("avg", "std", "min", "max", *PERCENTILES)
    summary: dict[str, Any] = dict.fromkeys(names) | {"n": 0, "n_eff": dict.fromkeys(PERCENTILES)}
    intervals: dict[str, list[float | None]] = {name: [None, None] for name in PERCENTILES}
    sample = values if isinstance(values, Histogram) else Series(list(values))
    n = len(sample)
    if not n:
        return {**summary, "ci95": intervals}
    summary |= {"avg": sample.mean(), "min": sample[0], "max": sample[-1], "n": n}
    if n > 1:
        summary["std"] = sample.std()
    if n_eff is None and isinstance(sample, Series):
        n_eff = {
            name: round(sample.effective_n(quantile), 1) for name, quantile in PERCENTILES.items()
        }
    summary["n_eff"] = dict(n_eff or summary["n_eff"])
    least = float(n)
    for name, quantile in PERCENTILES.items():
        summary[name] = percentile(sample, quantile)
        if n_eff:
            # Few values lie above a high percentile: what the lower ones know of the dependence
            # counts there as well.
            least = min(least, n_eff[name])
            if least >= min(n, min_samples(quantile)) / 2:
                intervals[name] = _interval(sample, quantile, math.floor(n_eff[name]))
    return {**summary, "ci95": intervals}


def _interval(ordered: Sequence[float], quantile: float, independent: int) -> list[float | None]:
    """Return a percentile's interval from sorted values that count as so many independent ones."""
    lower, upper = interval_ranks(independent, quantile)
    scale, value = len(ordered) / independent, cast(float, percentile(ordered, quantile))
    low = high = None
    # The percentile is interpolated, the bounds are values: of few values it may lie beside them.
    if lower is not None:
        low = min(value, ordered[math.floor(lower * scale)])
    if upper is not None:
        place = min(len(ordered), math.ceil((upper + 1) * scale)) - 1
        high = max(value, ordered[place])
    return [low, high]


def censored_percentiles(values: Iterable[float], bounds: Sequence[float]) -> dict[str, Any]:
    """Return percentiles over values and over lower bounds, of requests that failed.

    A percentile that lies at or above the lowest bound is itself a lower bound, and named in
    `lower_bounds`.
    """
    ordered = sorted([*values, *bounds])
    named = {name: percentile(ordered, quantile) for name, quantile in PERCENTILES.items()}
    lowest, last = min(bounds, default=math.inf), len(ordered) - 1
    at_least = [
        name
        for name, quantile in PERCENTILES.items()
        if ordered and ordered[min(math.ceil(quantile * last), last)] >= lowest
    ]
    return {**named, "n": len(ordered), "failures": len(bounds), "lower_bounds": at_least}


class Trend(NamedTuple):
    """A straight line through measured values over time."""

    first: float  # where the line begins
    last: float  # where it ends
    significant: bool  # whether it would hardly be so steep by chance

    @property
    def ratio(self) -> float:
        """How much higher it ends than it begins."""
        return self.last / self.first

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Fit the logarithms of positive values in the order of their sends; None with too few.

        Least squares over batch means, and a t-test of the slope whose standard error allows for
        the dependence of what is left. That is taken from a line through either half, so that a
        step from one level to another does not pass for dependence.
        """
        if len(values) < FEWEST_FOR_TREND or min(values) <= 0:
            return None
        batches = in_batches(values, Series.MOST_BATCHES)
        means = [statistics.fmean(map(math.log, batch)) for batch in batches]
        middle = len(means) // 2
        residuals = [*cls._residuals(means[:middle]), *cls._residuals(means[middle:])]
        variance, df = sum_variance(residuals)
        df_of_lines, squares = 5, len(means) * (len(means) ** 2 - 1) / 12
        left = max(1 - df_of_lines / df, 0.4)  # the lines took part of the variance with them
        spread = math.sqrt(max(variance, 0) / len(means) / squares / left)
        slope = statistics.linear_regression(range(len(means)), means).slope
        steep = abs(slope) > student_t(DRIFT_ALPHA / 2, df) * spread
        mean, half = statistics.fmean(means), slope * len(means) / 2
        significant = steep and df > df_of_lines + 1
        return cls(math.exp(mean - half), math.exp(mean + half), significant)

    @staticmethod
    def _residuals(means: Sequence[float]) -> list[float]:
        slope, intercept = statistics.linear_regression(range(len(means)), means)
        return [mean - intercept - slope * place for place, mean in enumerate(means)]


def keeps_growing(means: Sequence[float]) -> bool:
    """Whether batch means grow from one to the next, by a t-test of their increments at 1 %.

    A queue at high load wanders far without being overloaded, but its increments cancel out, as a
    random walk's do, for which this test holds as well. In an overload they all add up.
    """
    increments = [later - earlier for earlier, later in itertools.pairwise(means)]
    spread = statistics.stdev(increments) / math.sqrt(len(increments))
    return statistics.fmean(increments) > student_t(0.01, len(increments) - 1) * spread


# --- Aggregates ---


class Aggregator:
    """The columns of a set of results, in flat arrays: what statistics need, and no more."""

    LATENCIES = (
        "ttft_ms",
        "tpot_ms",
        "e2e_ms",
        "answer_ttft_ms",
        "connect_ms",
        "queue_ms",
        "held_ms",
        "scheduled_ttft_ms",
        "scheduled_e2e_ms",
        "client_error_ms",
        "server_queue_ms",
        "server_prefill_ms",
        "server_decode_ms",
        "server_wait_ms",
    )
    MOST_SAID = 1000  # different failures whose words are kept apart

    def __init__(self, config: Config, level: int | None = None) -> None:
        self.config = config
        self.level = level  # how many at once; None: results of several levels
        # Of ok requests, each in one order.
        self.ok_sent_ns = array.array("q")
        self.ok_first_ns = array.array("q")  # without streaming, when it was sent
        self.ok_end_ns = array.array("q")
        self.ok_tokens = array.array("q")  # 0 where not known
        self.columns: dict[str, array.array[float]] = {}  # NaN where not measured
        # Of ok requests, where measured.
        self.tokens = array.array("q")
        self.prefill_ms = array.array("d")
        self.itl_us: Counter[int] = Counter()
        self.itl_lost = False  # whether some result has no record of its chunks
        # `gaps`: how many all answers have; `squares`: the sum of each answer's number, squared.
        self.itl_clusters: Counter[str] = Counter()
        # How long requests that failed had been waited for; their first token may have come.
        self.failed_e2e_ms = array.array("d")
        self.failed_ttft_ms = array.array("d")
        self.failed_with_ttft_ms = array.array("d")
        # Of all requests that reached the socket.
        self.sent_ns = array.array("q")
        self.end_ns = array.array("q")
        self.due_ns = array.array("q")  # open loop: when they should have been sent
        self.statuses: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.said: Counter[tuple[str, int | None, str]] = Counter()  # kind, status, message
        self.models: Counter[str] = Counter()  # as the server named them
        self.token_doubts: Counter[str] = Counter()
        self.cut_limits: Counter[str] = Counter()  # whose limit cut answers
        self.token_sources: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.scores = Scores()
        # Good turns of conversations, by place, until the last one is graded.
        self.unjudged: Counter[int] = Counter()

    def add(self, result: Result) -> None:
        """Add one result."""
        self.statuses[result.status] += 1
        self.sums["reconnects"] += result.reconnects
        self.scores.add(result)
        timed = result.sent_ns is not None and result.end_ns is not None
        if timed:
            self.sent_ns.append(cast(int, result.sent_ns))
            self.end_ns.append(cast(int, result.end_ns))
            if result.scheduled_ns is not None:
                self.due_ns.append(result.scheduled_ns)
        if result.ok and timed:
            self._add_ok(result)
        elif result.error is not None:
            self._count_failure(result.error)
            if result.status != "cancelled" and result.error.kind != "turn_skipped":
                self._add_failed(result)

    def _count_failure(self, error: Failure) -> None:
        self.failures[error.kind] += 1
        said = (error.kind, error.http_status, error.message[:300])
        if len(self.said) >= self.MOST_SAID and said not in self.said:
            said = (error.kind, error.http_status, "")  # each its own words: only counted
        self.said[said] += 1

    def _add_ok(self, result: Result) -> None:
        sent_ns = cast(int, result.sent_ns)
        for name in self.LATENCIES:
            self._append(name, result.time_ms if name == "e2e_ms" else getattr(result, name))
        self.ok_sent_ns.append(sent_ns)
        self.ok_first_ns.append(sent_ns if result.first_ns is None else result.first_ns)
        self.ok_end_ns.append(cast(int, result.end_ns))
        self.ok_tokens.append(result.token or 0)
        gaps = result.chunk_gaps_us
        self.itl_us.update(gaps or ())
        self.itl_lost = self.itl_lost or gaps is None
        self.token_sources[str(result.token_source)] += 1
        self.finish_reasons[str(result.finish_reason)] += 1
        if result.token is not None:
            self.tokens.append(result.token)
        # Without a record of the chunks, their number says how many gaps an answer has.
        times = max(result.chunks - 1, 0)
        self.itl_clusters.update(gaps=times, squares=times * times)
        for name in ("prompt_tokens", "cached_tokens", "reasoning_tokens"):
            if (count := getattr(result, name)) is not None:
                self.sums[name] += count
                self.sums[f"{name}_known"] += 1
        self.sums["came_at_once"] += result.came_at_once
        if result.merged_chunks is not None:
            self.sums["merged_chunks"] += result.merged_chunks
            self.sums["timed_chunks"] += result.chunks
        if result.server_prefill_ms and result.prompt_tokens is not None:
            self.sums["prefilled"] += result.prompt_tokens - (result.cached_tokens or 0)
            self.prefill_ms.append(result.server_prefill_ms)
        self.sums["came_in_bursts"] += result.came_in_bursts and not result.came_at_once
        self._count_good(result)
        self._count_ends(result)

    def _count_ends(self, result: Result) -> None:
        """Count how the answer ended, and what the server said of it."""
        if result.model is not None:
            self.models[result.model] += 1
        if result.token_doubt is not None:
            self.sums["doubtful"] += 1
            self.token_doubts[result.token_doubt] += 1
        if result.chunks and result.token_source in ("usage", "total"):
            self.sums["chunk_tokens"] += result.token or 0
            self.sums["chunks"] += result.chunks
        if result.cut:
            self.sums["cut"] += 1
            if result.cut_early:
                self.sums["cut_early"] += 1
            elif result.max_tokens_from is not None:
                self.cut_limits[f"{result.max_tokens} of {result.max_tokens_from}"] += 1
        self.sums["ended_unusually"] += result.ended_unusually
        if not result.answer_text.strip():
            thought = bool(result.reasoning.strip() or result.answer.strip())
            self.sums["reasoning_only" if thought else "blank"] += 1
            self.sums["reasoning_only_cut"] += thought and result.cut and not result.cut_early

    def _append(self, name: str, value: float | None) -> None:
        """Add to a column, which begins with the first value that was measured."""
        column = self.columns.get(name)
        if column is None:
            if value is None:
                return
            earlier = array.array("d", [math.nan]) * len(self.ok_sent_ns)
            column = self.columns[name] = earlier
        column.append(math.nan if value is None else value)

    def _add_failed(self, result: Result) -> None:
        """Take a failed request as one that would have taken at least as long as it was waited for.

        One that never reached the socket counts from when it was due, if it had a schedule.
        """
        waited_ms = result.time_ms
        if waited_ms is None:
            waited_ms = result.scheduled_e2e_ms or result.connect_ms or 0.0
        self.failed_e2e_ms.append(waited_ms)
        if result.ttft_ms is None:
            self.failed_ttft_ms.append(waited_ms)
        else:
            self.failed_with_ttft_ms.append(result.ttft_ms)

    def _count_good(self, result: Result) -> None:
        """Count an ok request that meets every SLO; a value that was not measured meets none.

        A conversation's answers are graded at its end: its turns are good when the last one is.
        """
        slo = self.config.slo
        good = slo.is_in_time(result)
        if slo.quality is None:
            self.sums["good"] += good
        elif not result.graded:
            self.unjudged[result.index] += good
        elif result.quality >= slo.quality:
            self.sums["good"] += good + self.unjudged.pop(result.index, 0)

    def extend(self, other: Aggregator) -> None:
        """Add the results of another one."""
        before, added = len(self.ok_sent_ns), len(other.ok_sent_ns)
        for name in self.columns | other.columns:
            mine = self.columns.setdefault(name, array.array("d", [math.nan]) * before)
            mine.extend(other.columns.get(name, array.array("d", [math.nan]) * added))
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, array.array | Scores):
                mine.extend(theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
        self.itl_lost = self.itl_lost or other.itl_lost

    @property
    def window(self) -> tuple[int, int] | None:
        """The first send and the last end, in ns."""
        return (min(self.sent_ns), max(self.end_ns)) if self.sent_ns else None

    @property
    def window_ns(self) -> int | None:
        """From the first send to the last end."""
        return self.window[1] - self.window[0] if self.window else None

    def steady(self) -> Steady | None:
        """Return what was done while all slots were busy; None when they never were."""
        start_ns, end_ns = self._busy_from(), max(self.sent_ns, default=0)
        if start_ns is None or start_ns >= end_ns:
            return None
        tokens, answers = 0.0, 0
        columns = (self.ok_first_ns, self.ok_end_ns, self.ok_tokens)
        for first_ns, last_ns, count in zip(*columns, strict=True):
            answers += start_ns < last_ns <= end_ns
            inside_ns = min(last_ns, end_ns) - max(first_ns, start_ns)
            if first_ns == last_ns:  # all at once
                tokens += count if start_ns < last_ns <= end_ns else 0
            elif inside_ns > 0:
                tokens += (count - 1) * inside_ns / (last_ns - first_ns)
                tokens += start_ns < first_ns
        return Steady(end_ns - start_ns, answers, tokens)

    def _busy_from(self) -> int | None:
        """Return when all slots were first busy; in open loop, when answers came as requests went.

        Nine of ten are enough: between an answer's end and the next send a slot is empty.
        """
        sends, ends = sorted(self.sent_ns), sorted(self.end_ns)
        if self.level is None or not sends:
            return None
        if self.config.rate is not None:
            return max(ends[0], sends[0] + round(self.config.ramp_up * NS_PER_S))
        wanted, ended = math.ceil(0.9 * self.level), 0
        for place, sent_ns in enumerate(sends):
            while ended < place and ends[ended] <= sent_ns:
                ended += 1
            if place + 1 - ended >= wanted:
                return sent_ns
        return None

    def measured(self, name: str) -> list[float]:
        """Return the measured values of a column in the order of the sends."""
        column = self.columns.get(name)
        if column is None:
            return []
        values = map(column.__getitem__, self._send_order)
        return [value for value in values if not math.isnan(value)]

    @functools.cached_property
    def _send_order(self) -> list[int]:
        """The places of ok requests in the order of their sends; for when all are there."""
        return sorted(range(len(self.ok_sent_ns)), key=self.ok_sent_ns.__getitem__)

    def to_record(self, window_ns: int | None, steady: Steady | None) -> dict[str, Any]:
        """Return the numbers of one stage, or of all; rates are over `window_ns`."""
        ok, requests = len(self.ok_sent_ns), self.statuses.total()
        cancelled = self.statuses["cancelled"]
        failed = requests - ok - cancelled
        window_s = window_ns / NS_PER_S if window_ns else None
        latencies = {name: describe(self.measured(name)) for name in self.LATENCIES}
        runtime, tokens, good = latencies.pop("e2e_ms"), self.tokens, self._good()
        return {
            "runtime_sum": math.fsum(self.columns["e2e_ms"]) if ok else None,
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
            "ttft_ms": latencies.pop("ttft_ms"),
            "tpot_ms": (tpot := latencies.pop("tpot_ms")),
            "itl_ms": self._itl(tpot),
            "e2e_ms": runtime,
            "goodput_per_s": good / window_s if window_s and good is not None else None,
            "quality": self.scores.to_record(window_s, self.config.hardware.price_per_hour),
            "energy": None,
            "stages": [],
            "steady": Steady.to_record(steady, window_ns),
            "window_ms": self.window and [ns / NS_PER_MS for ns in self.window],
            "cancelled": cancelled,
            "failures": dict(self.failures.most_common()),
            **latencies,
            "ttft_with_failures_ms": censored_percentiles(
                [*self.measured("ttft_ms"), *self.failed_with_ttft_ms], self.failed_ttft_ms
            ),
            "e2e_with_failures_ms": censored_percentiles(
                self.measured("e2e_ms"), self.failed_e2e_ms
            ),
            **self._over_time(),
            "good": good,
            **self._counts(),
        }

    def _good(self) -> int | None:
        """Return how many requests met every SLO; None without an SLO that can be judged."""
        slo = self.config.slo
        unseen = not self.config.stream and (slo.ttft_ms, slo.tpot_ms) != (None, None)
        return None if slo == Slo() or unseen else self.sums["good"]

    def _itl(self, tpot: Mapping[str, Any]) -> dict[str, Any]:
        """Return the numbers of the gaps between chunks.

        The gaps of one answer depend on each other, and so do neighbouring answers. By Kish's rule
        answers of L gaps count as (sum of L)² / (sum of L²) independent ones; how much less than
        that they count is taken from the `n_eff` of their TPOT.
        """
        if self.itl_lost or not self.itl_us:
            return describe(Histogram({}))
        gaps, squares = self.itl_clusters["gaps"], self.itl_clusters["squares"]
        answers = max(gaps * gaps / squares, 1.0) if squares else 1.0
        n_eff = dict.fromkeys(PERCENTILES, answers)
        if tpot["n"]:
            shares = {name: n / tpot["n"] for name, n in tpot["n_eff"].items()}
            n_eff = {name: max(answers * share, 1.0) for name, share in shares.items()}
        n_eff = {name: round(independent, 1) for name, independent in n_eff.items()}
        values = {us / 1000: times for us, times in self.itl_us.items()}
        return describe(Histogram(values), n_eff)

    def _over_time(self) -> dict[str, Any]:
        """Return what changed while a stage ran; nothing for several, whose loads differ."""
        record = dict.fromkeys(("drain_ms", "drift", "overload"))
        if self.level is None or not self.sent_ns:
            return record
        last_sent = max(self.sent_ns)
        first_idle = min(end for end in self.end_ns if end >= last_sent)
        record["drain_ms"] = (max(self.end_ns) - first_idle) / NS_PER_MS
        return record | {"drift": self._drift(), "overload": self._overload()}

    def _drift(self) -> dict[str, Any] | None:
        """Return the trend of TPOT, or of a closed loop's TTFT, whichever is the clearer.

        Neither depends on which questions stand where, as E2E does; that is for a run without
        streaming. In an open loop TTFT follows the queue, which wanders.
        """
        names = ["tpot_ms"] if self.config.rate is not None else ["tpot_ms", "ttft_ms"]
        if not self.config.stream:
            names = ["e2e_ms"]
        trends = {name: Trend.of(self.measured(name)) for name in names}
        known = {name: trend for name, trend in trends.items() if trend is not None}
        if not known:
            return None
        name, trend = max(
            known.items(), key=lambda pair: (pair[1].significant, abs(math.log(pair[1].ratio)))
        )
        return {
            "metric": name,
            "ratio": trend.ratio,
            "first_ms": trend.first,
            "last_ms": trend.last,
            "significant": trend.significant,
        }

    def _overload(self) -> dict[str, Any] | None:
        """Return how the number of requests in the system grew in an open loop, and TTFT with it.

        In the system is what is due and not yet ended, whether the server or `concurrent` keeps
        it waiting. It is overloaded when both grow without end, and the backlog by a twentieth of
        what arrived.
        """
        dues, ends = sorted(self.due_ns), sorted(self.end_ns)
        name = "scheduled_ttft_ms" if self.measured("scheduled_ttft_ms") else "scheduled_e2e_ms"
        waits = [statistics.fmean(batch) for batch in in_batches(self.measured(name), 10)]
        if len(dues) < FEWEST_FOR_TREND or len(waits) < 10:
            return None
        span_ns = dues[-1] - dues[0]
        moments = [dues[0] + span_ns * place // 500 for place in range(500)]
        in_system = [bisect.bisect(dues, at) - bisect.bisect(ends, at) for at in moments]
        counts = [statistics.fmean(batch) for batch in in_batches(in_system, 10)]
        backlog = counts[-1] - counts[0]
        growing = keeps_growing(counts) and keeps_growing(waits) and backlog > len(dues) / 20
        return {
            "in_system_first": counts[0],
            "in_system_last": counts[-1],
            "ttft_first_ms": waits[0],
            "ttft_last_ms": waits[-1],
            "growing": growing,
        }

    def _counts(self) -> dict[str, Any]:
        return {
            "token_sources": dict(self.token_sources),
            "finish_reasons": dict(self.finish_reasons.most_common()),
            **{
                f"{name}_sum": self.sums[name] if self.sums[f"{name}_known"] else None
                for name in ("prompt_tokens", "cached_tokens", "reasoning_tokens")
            },
            "reasoning_only": self.sums["reasoning_only"],
            "came_at_once": self.sums["came_at_once"],
            "reconnects": self.sums["reconnects"],
            "came_in_bursts": self.sums["came_in_bursts"],
            "failure_reasons": self._failure_reasons(),
            "models": dict(self.models.most_common(20)),
            "cut": self.sums["cut"],
            "cut_early": self.sums["cut_early"],
            "cut_limits": dict(self.cut_limits.most_common(3)),
            "reasoning_only_cut": self.sums["reasoning_only_cut"],
            "blank": self.sums["blank"],
            "ended_unusually": self.sums["ended_unusually"],
            "tokens_doubtful": self.sums["doubtful"],
            "token_doubts": dict(self.token_doubts.most_common(3)),
            "tokens_per_chunk": (
                self.sums["chunk_tokens"] / self.sums["chunks"] if self.sums["chunks"] else None
            ),
            "merged_chunks": self.sums["merged_chunks"] if self.sums["timed_chunks"] else None,
            "timed_chunks": self.sums["timed_chunks"],
            "prefill_tokens_per_s": (
                self.sums["prefilled"] / math.fsum(self.prefill_ms) * 1000
                if self.prefill_ms
                else None
            ),
        }

    def _failure_reasons(self) -> list[dict[str, Any]]:
        """Return each kind of failure with its status, its number and its commonest words."""
        times: Counter[tuple[str, int | None]] = Counter()
        words: dict[tuple[str, int | None], str] = {}
        for (kind, status, message), count in self.said.most_common():
            times[kind, status] += count
            words.setdefault((kind, status), message)
        return [
            {"kind": kind, "http_status": status, "message": words[kind, status], "times": count}
            for (kind, status), count in times.most_common()
        ]


class Steady(NamedTuple):
    """What was done while all slots were busy, without ramp and drain."""

    duration_ns: int
    answers: int  # that ended in it
    tokens: float  # after an answer's first they are spread evenly up to its last

    @classmethod
    def of_all(cls, stages: Iterable[Self | None]) -> Self | None:
        """Add up the stages of a sweep."""
        known = [stage for stage in stages if stage is not None]
        return cls(*map(sum, zip(*known, strict=True))) if known else None

    @staticmethod
    def to_record(steady: Steady | None, window_ns: int | None) -> dict[str, Any]:
        """Return the `steady` of an aggregate; `share` is that of the whole window."""
        if steady is None or not window_ns:
            return dict.fromkeys(("duration_ms", "share", "requests_per_s", "tokens_per_s"))
        seconds = steady.duration_ns / NS_PER_S
        return {
            "duration_ms": steady.duration_ns / NS_PER_MS,
            "share": steady.duration_ns / window_ns,
            "requests_per_s": steady.answers / seconds,
            "tokens_per_s": steady.tokens / seconds if steady.tokens else None,
        }


class Scores:
    """What the graders made of a set of results, by category and question."""

    def __init__(self) -> None:
        self._questions: dict[str, dict[str, Counter[str]]] = {}  # category -> id -> sums

    def add(self, result: Result) -> None:
        """Count a result that has a grader: graded, failed (wrong under load), or ungraded."""
        if result.grader is None or result.status == "cancelled":
            return
        category = self._questions.setdefault(result.category or "", {})
        sums = category.setdefault(result.id, Counter())
        if result.graded:
            sums["graded"] += 1
            sums["score"] += cast(int, result.quality)
            sums["correct"] += result.quality >= CORRECT
            sums["tokens"] += result.token or 0
        else:
            sums["ungraded" if result.ok else "failed"] += 1

    def extend(self, other: Scores) -> None:
        """Add the scores of another one."""
        for category, questions in other._questions.items():
            mine = self._questions.setdefault(category, {})
            for name, sums in questions.items():
                mine.setdefault(name, Counter()).update(sums)

    def to_record(self, window_s: float | None, price_per_hour: float | None) -> dict[str, Any]:
        """Return how good the answers were: of those that came, and under load.

        Under load a request that failed counts as a wrong answer: what a user would have got.
        """
        everything = [sums for part in self._questions.values() for sums in part.values()]
        whole = self._accuracy(everything)
        correct, tokens = whole["correct"], sum(sums["tokens"] for sums in everything)
        price = None
        if price_per_hour and window_s and correct:
            price = price_per_hour * window_s / 3600 / correct
        return {
            "avg": whole["of_answers"]["avg"],
            **whole,
            "correct_per_s": correct / window_s if window_s and whole["graded"] else None,
            "tokens_per_correct": tokens / correct if correct else None,
            "price_per_correct": price,
            "wh_per_correct": None,
            "categories": {
                category or "none": self._accuracy(list(part.values()))
                for category, part in sorted(self._questions.items())
            },
            "stability": None,
            "paired": None,
        }

    @classmethod
    def _accuracy(cls, questions: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        graded, ungraded, correct = (
            sum(sums.get(name, 0) for sums in questions)
            for name in ("graded", "ungraded", "correct")
        )
        return {
            "graded": graded,
            "ungraded": ungraded,
            "correct": correct,
            "of_answers": cls._means(questions, ("graded",)),
            "under_load": cls._means(questions, ("graded", "failed")),
        }

    @staticmethod
    def _means(questions: Sequence[Mapping[str, int]], counted: Sequence[str]) -> dict[str, Any]:
        """Return the mean score and the share of correct answers: two numbers, by question."""
        answers = [sum(sums.get(name, 0) for name in counted) for sums in questions]
        pairs = [pair for pair in zip(questions, answers, strict=True) if pair[1]]
        total = sum(answers)
        score = mean_score([sums.get("score", 0) / n for sums, n in pairs], total)
        correct = mean_score([sums.get("correct", 0) / n for sums, n in pairs], total)
        return {**score, "correct_share": correct["avg"], "correct_ci95": correct["ci95"]}


class Stability:
    """Holds a sweep's answers against the lowest level's to the same questions.

    At temperature 0 they should be the same. But some differ the second time without any load,
    from a cold and a warm cache. So the lowest level is asked twice (`stability_floor`), and what
    counts is the difference beyond that.
    """

    SHOWN = 3
    SHOWN_CHARS = 200

    def __init__(self, config: Config) -> None:
        self.levels = config.levels
        self.paired = len(config.levels) > 1 and config.duration is None
        self.used = self.paired and config.temperature == 0 and not config.cache_bust
        # stage -> question and turn -> index, fingerprint and beginning of each answer
        self._answers: dict[int, dict[tuple[str, int], list[tuple[int, bytes, str]]]] = {}
        self._right: dict[int, dict[tuple[int, int], bool]] = {}
        self._first: dict[int, int] = {}  # the index at which a stage begins

    def add(self, result: Result) -> None:
        """Keep a fingerprint of an answer, its beginning, and whether it was right."""
        if not self.paired:
            return
        self._first[result.stage] = min(result.index, self._first.get(result.stage, result.index))
        failed = not result.ok and result.status != "cancelled"
        if result.grader is not None and (result.graded or failed):
            right = result.graded and result.quality >= CORRECT
            self._right.setdefault(result.stage, {})[result.index, result.turn] = right
        if not self.used:
            return
        digest = b""  # of an answer that failed
        if result.ok:
            digest = hashlib.blake2b(result.answer.encode(), digest_size=8).digest()
        kept = (result.index, digest, result.answer[: self.SHOWN_CHARS])
        stage = self._answers.setdefault(result.stage, {})
        stage.setdefault((result.id, result.turn), []).append(kept)

    def pairs(self, stage: int) -> dict[str, int] | None:
        """Return how many questions got a better and a worse answer than at the lowest level.

        A failed request counts as a wrong answer. None at the lowest level, and without grades.
        """
        lowest = self.levels.index(min(self.levels))
        base, here = self._right.get(lowest), self._right.get(stage)
        if not base or not here or stage == lowest:
            return None
        shift = self._first[lowest] - self._first[stage]
        both = [
            (base[index + shift, turn], right)
            for (index, turn), right in here.items()
            if (index + shift, turn) in base
        ]
        return {
            "n": len(both),
            "better": sum(right and not before for before, right in both),
            "worse": sum(before and not right for before, right in both),
        }

    def to_record(self, stage: int) -> dict[str, Any] | None:
        """Return which share of a stage's answers differs from the lowest level's.

        None at the lowest level itself. McNemar's pairs, by question: `floor` is the share that
        differs when the lowest level is asked again, `beyond` what only the load changed minus what
        only the repetition did. Either part has its interval; the difference's comes from the two
        (Newcombe, Statistics in Medicine 17, 1998).
        """
        lowest = self.levels.index(min(self.levels))
        if not self.used or stage == lowest:
            return None
        triples = list(self._triples(stage, lowest))
        pairs = [(name, first, here) for name, first, here, _ in triples]
        changed = [first[1] != here[1] for _, first, here in pairs]
        names = [name for name, _, _ in pairs]
        known = [place for place, triple in enumerate(triples) if triple[3]]
        noise = {place: triples[place][3] != pairs[place][1][1] for place in known}
        with_floor = [names[place] for place in known]
        more = self._share(with_floor, [changed[place] and not noise[place] for place in known])
        less = self._share(with_floor, [noise[place] and not changed[place] for place in known])
        floor, beyond, interval = None, None, [None, None]
        if known:
            floor, beyond = statistics.fmean(noise.values()), more["avg"] - less["avg"]
            (more_low, more_high), (less_low, less_high) = more["ci95"], less["ci95"]
            below = math.hypot(more["avg"] - more_low, less_high - less["avg"])
            above = math.hypot(more_high - more["avg"], less["avg"] - less_low)
            interval = [max(beyond - below, -1.0), min(beyond + above, 1.0)]
        examples = [
            {"id": name, "lowest": first[2], "here": here[2]}
            for (name, first, here), differs in zip(pairs, changed, strict=True)
            if differs
        ]
        return {
            "concurrent": self.levels[lowest],
            "differs": sum(changed),
            **self._share(names, changed),
            "floor": floor,
            "beyond": beyond,
            "beyond_ci95": interval,
            "examples": examples[: self.SHOWN],
        }

    def _triples(self, stage: int, lowest: int) -> Iterator[tuple[str, Any, Any, bytes]]:
        """Yield each question's answers: at the lowest level, in the stage, at the lowest again.

        The k-th time that a stage asks a question goes with the k-th time of another. Of the last
        there is only the fingerprint: b"" where the lowest level was not asked again.
        """
        base, here = self._answers.get(lowest, {}), self._answers.get(stage, {})
        others = [
            number
            for number, level in enumerate(self.levels)
            if level == min(self.levels) and number not in (lowest, stage)
        ]
        for (name, turn), answers in here.items():
            firsts = sorted(base.get((name, turn), []))
            seconds = firsts[len(answers) :]
            if others:
                seconds = sorted(self._answers.get(others[0], {}).get((name, turn), []))
            for place, answer in enumerate(sorted(answers)):
                if place < len(firsts) and firsts[place][1] and answer[1]:
                    second = seconds[place][1] if place < len(seconds) else b""
                    yield name, firsts[place], answer, second

    @staticmethod
    def _share(names: Sequence[str], happened: Sequence[bool]) -> dict[str, Any]:
        """Return how often something happened, by question."""
        times: dict[str, list[bool]] = {}
        for name, it_did in zip(names, happened, strict=True):
            times.setdefault(name, []).append(it_did)
        return mean_score([statistics.fmean(several) for several in times.values()], len(names))


def calculate_aggregates(
    results: Iterable[Result],
    config: Config,
    itl_us: Mapping[int, Mapping[int, int]] | None = None,
    energy: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Return the `aggregate` of a results file, from the results alone, in one pass.

    `itl_us` is a histogram of the gaps between chunks for each stage, where the results do not hold
    them. `energy` is given the stages' aggregates, or the only one, and returns what they cost:
    {"whole": …, "stages": […]}, or None.
    """
    stages = {number: Aggregator(config, level) for number, level in enumerate(config.levels)}
    stability = Stability(config)
    for result in results:
        if result.stage not in stages:  # of a journal whose config was edited
            stages[result.stage] = Aggregator(config, max(config.levels))
        stages[result.stage].add(result)
        stability.add(result)
    for number, counts in (itl_us or {}).items():
        if number in stages:  # else a damaged journal has lost all results of that stage
            stages[number].itl_us, stages[number].itl_lost = Counter(counts), False
    parts = [stages[number] for number in sorted(stages)]
    whole = parts[0]
    if len(parts) > 1:
        whole = Aggregator(config)
        for part in parts:
            whole.extend(part)
    windows = [part.window_ns for part in parts if part.window_ns is not None]
    steady = [part.steady() for part in parts]
    aggregate = whole.to_record(sum(windows) if windows else None, Steady.of_all(steady))
    if len(config.levels) > 1:
        for number, level in enumerate(config.levels):
            record = stages[number].to_record(stages[number].window_ns, steady[number])
            record["quality"]["stability"] = stability.to_record(number)
            record["quality"]["paired"] = stability.pairs(number)
            aggregate["stages"].append({"stage": number, "concurrent": level, **record})
    cost = energy(aggregate["stages"] or [aggregate]) if energy is not None else None
    if cost is not None:
        records = [aggregate, *aggregate["stages"]]
        for record, part in zip(records, [cost["whole"], *cost["stages"]], strict=False):
            record["energy"] = part
            wh = part["wall"]["wh_per_1000_correct"]
            record["quality"]["wh_per_correct"] = None if wh is None else wh / 1000
    if itl_us:
        aggregate["itl_histogram_us"] = {
            str(stage): sorted(counts.items()) for stage, counts in itl_us.items()
        }
    return cast(dict[str, Any], rounded(aggregate))


def rounded(value: Any) -> Any:
    """Round to nanoseconds, so that a sum's last bits do not end up in files."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=1)
def empty_aggregate() -> dict[str, Any]:
    """Return the aggregate of no results: every metric's name, and nothing measured."""
    return calculate_aggregates([], Config(server="embedded", model="none"))


_ABSENT = object()


def part_of(aggregate: Mapping[str, Any], name: str) -> Any:
    """Look up what stands at a name such as ttft_ms or stages.8.ttft_ms; _ABSENT when nothing does.

    A stage goes by its level (the first of several with the same one), `pooled.` is a sweep as a
    whole, whose figures mix the levels.
    """
    value: Any = aggregate
    scope, _, rest = name.partition(".")
    if scope == "pooled":
        name = rest
    elif scope == "stages":
        level, _, name = rest.partition(".")
        stages = (part for part in aggregate["stages"] if str(part["concurrent"]) == level)
        value = next(stages, _ABSENT)
    for key in name.split("."):
        value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def metric_value(aggregate: Mapping[str, Any], name: str) -> Any:
    """Look a metric up by its name, such as ttft_ms.p95; _ABSENT when there is no such metric."""
    value = part_of(aggregate, name)
    return value if value is None or isinstance(value, int | float) else _ABSENT


class ThresholdCheck(NamedTuple):
    """A threshold of config.json, and what became of it."""

    metric: str
    condition: str
    value: float | None
    met: bool

    @classmethod
    def of(cls, metric: str, condition: str, aggregate: Mapping[str, Any]) -> Self:
        """Hold an aggregate against a threshold; what was not measured is missed."""
        parts = re.match(r"\s*([<>]=?)\s*(.*\S)", condition)
        sign, limit = cast(re.Match[str], parts).groups()
        compare = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}[sign]
        value = metric_value(aggregate, metric)
        if not isinstance(value, int | float):
            return cls(metric, f"{sign} {limit}", None, met=False)
        return cls(metric, f"{sign} {limit}", value, compare(value, float(limit)))

    @classmethod
    def fault(cls, config: Config) -> str | None:
        """Say which threshold names no metric, or no level; None when all are right."""
        for metric in config.thresholds:
            scope, level, name = _SCOPED_METRIC.fullmatch(metric).groups()  # type: ignore[union-attr]
            if level is not None and int(level) not in config.levels:
                return f"thresholds: {printable(metric, 80)}: no level of `concurrent` is {level}"
            if scope is None and metric.startswith(("stages.", "pooled.")):
                name = metric
            if metric_value(empty_aggregate(), name) is _ABSENT:
                near = difflib.get_close_matches(name, cls._names(empty_aggregate()), 1, 0)[0]
                said = f"thresholds: {printable(metric, 80)} is no metric"
                return f"{said}; did you mean {scope or ''}{near}?"
        return None

    @classmethod
    def _names(cls, aggregate: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        """Yield every metric's name."""
        for name, value in aggregate.items():
            if isinstance(value, Mapping):
                yield from cls._names(value, f"{prefix}{name}.")
            elif value is None or isinstance(value, int | float):
                yield prefix + name


_SCOPED_METRIC = re.compile(r"(pooled\.|stages\.([1-9][0-9]{0,8})\.)?(.*)", re.DOTALL)


def check_thresholds(config: Config, aggregate: Mapping[str, Any]) -> list[ThresholdCheck]:
    """Hold the aggregate against config.json's thresholds.

    In a sweep one that names no level (stages.8.ttft_ms.p95) is held against each of them. A run
    at one level has no stages: its only level is the whole.
    """
    checks = []
    for metric, condition in config.thresholds.items():
        names = [metric]
        if not aggregate["stages"]:
            names = [_SCOPED_METRIC.sub(r"\3", metric, count=1)]
        elif not metric.startswith(("stages.", "pooled.")):
            names = [f"stages.{level}.{metric}" for level in dict.fromkeys(config.levels)]
        checks += [ThresholdCheck.of(name, condition, aggregate) for name in names]
    return checks


# --- Validity ---
#
# Each rule looks at a finished run and returns a Reason, or None where nothing is wrong. The worst
# reason is the verdict. A new rule is a function here, or in an extension that is loaded before the
# run is judged, under @validity_rule; the README's table lists them all.

VERDICTS = ("VALID", "SUSPECT", "INVALID")
JUDGED_FROM_MS = 2000  # a shorter run proves nothing about the client


class Reason(NamedTuple):
    """Why a run's numbers deserve less trust."""

    verdict: str  # how much less: "SUSPECT" or "INVALID"
    code: str  # for programs
    message: str  # for people: what is wrong, and what to do


class Evidence(NamedTuple):
    """What validity rules judge by."""

    config: Config
    aggregate: Mapping[str, Any]
    load: LoadReport

    @property
    def parts(self) -> Sequence[Mapping[str, Any]]:
        """The aggregates of the stages; the whole one without a sweep."""
        return self.aggregate["stages"] or [self.aggregate]

    @property
    def harmless_delay_ms(self) -> float:
        """How late requests may be sent: by a tenth of the median latency, and at least 5 ms."""
        names = ("scheduled_ttft_ms", "scheduled_e2e_ms")
        medians = [self.aggregate[name]["p50"] for name in names]
        return max(0.1 * next((value for value in medians if value), 0.0), 5.0)


ValidityRule = Callable[[Evidence], Reason | None]
VALIDITY_RULES: list[ValidityRule] = []


def validity_rule(rule: ValidityRule) -> ValidityRule:
    """Let a function judge every run."""
    VALIDITY_RULES.append(rule)
    return rule


def judge_validity(
    config: Config,
    aggregate: Mapping[str, Any],
    load: LoadReport,
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """Return the verdict over a run and its reasons, those that weigh most first.

    Reasons whose codes are `left_out` do not count.
    """
    evidence = Evidence(config, aggregate, load)
    found = [reason for rule in VALIDITY_RULES if (reason := rule(evidence)) is not None]
    reasons = [reason for reason in found if reason.code not in left_out]
    reasons.sort(key=lambda reason: -VERDICTS.index(reason.verdict))  # the worst comes first
    shown = [{"code": reason.code, "message": reason.message} for reason in reasons]
    return {"verdict": reasons[0].verdict if reasons else "VALID", "reasons": shown}


def failure_reasons(aggregate: Mapping[str, Any], most: int = 3) -> str:
    """Return the commonest failures in the server's own words: `10 × HTTP 429: limit of 2`."""
    reasons = aggregate["failure_reasons"]
    texts = [
        f"{reason['times']:,} × "
        + printable(failure_text(reason["kind"], reason["http_status"], reason["message"]), 160)
        for reason in reasons[:most]
    ]
    left = len(reasons) - most
    more = [f"{left} more {'kind' if left == 1 else 'kinds'}"] if left > 0 else []
    return "; ".join([*texts, *more])


@validity_rule
def _gave_up(run: Evidence) -> Reason | None:
    if run.load.gave_up is None:
        return None
    message = f"ended early: {printable(run.load.gave_up, 300)}; --resume asks what is left"
    return Reason("INVALID", "gave_up", message)


@validity_rule
def _interrupted(run: Evidence) -> Reason | None:
    if not run.load.interrupted or run.load.gave_up is not None:
        return None
    return Reason("SUSPECT", "interrupted", "stopped before its end; --resume goes on with it")


@validity_rule
def _resumed(run: Evidence) -> Reason | None:
    if run.load.start.resumed is None:
        return None
    earlier = f"an earlier part of it was {run.load.start.resumed}"
    message = f"{earlier}; between the parts nothing was asked"
    if run.load.start.resumed == "killed":
        message = f"{earlier}; how busy this client was then is not in the verdict"
    return Reason("SUSPECT", "resumed", message)


@validity_rule
def _no_answers(run: Evidence) -> Reason | None:
    if run.aggregate["ok"]:
        return None
    failures = failure_reasons(run.aggregate) or "nothing was asked"
    message = f"no request succeeded: {failures}; see `error` in the results"
    return Reason("INVALID", "no_answers", message)


@validity_rule
def _failures(run: Evidence) -> Reason | None:
    rate = run.aggregate["error_rate"]
    if not run.aggregate["ok"] or not rate or rate < 0.01:
        return None
    kinds = failure_reasons(run.aggregate, 1)
    advice = "latencies are of the survivors; look into the failures, or lower the load"
    message = f"{rate:.1%} of the requests failed ({kinds}); {advice}"
    return Reason("INVALID" if rate >= 0.5 else "SUSPECT", "failures", message)


class ClientCheck:
    """How far a stage's numbers may be this client's own: its delay in them, and who caused it."""

    P99_FROM = 100  # first tokens; below, a p99 is a single one

    def __init__(self, part: Mapping[str, Any], client: Mapping[str, Any]) -> None:
        self.client, self.where = client, ""
        if "concurrent" in part:
            self.where = f" at {part['concurrent']} at once"
        medians = [value for value in (part["ttft_ms"]["p50"], part["e2e_ms"]["p50"]) if value]
        error, lag = part["client_error_ms"], client["loop_lag_ms"]["p95"] or 0.0
        self.severity, self.found = 0, list[str]()
        floor_ms = min(medians, default=math.inf)
        self._judge(error["p95"], 5, 0.05 * floor_ms, "first tokens may be timed {} late (p95)")
        if error["n"] >= self.P99_FROM:
            late = "first tokens may be timed {} late (p99)"
            self._judge(error["p99"], 5, 0.1 * floor_ms, late)
        if not part["queue_ms"]["n"]:  # a closed loop: a slot idles so long before the next request
            e2e_ms = part["e2e_ms"]["p50"] or math.inf
            self._judge(lag, 5, 0.05 * e2e_ms, "requests start {} late (p95)")
            empty = client.get("slots_empty_share")
            self._judge_share(empty, 0.1, 0.25, "slots stood empty {} of the time")
        if part["merged_chunks"] is not None:
            merged = part["merged_chunks"] / part["timed_chunks"]
            read = "{} of the chunks were read together with later ones"
            self._judge_share(merged, 0.05, 0.25, read)
        self.cpu, self.waits = client["cpu_share"] or 0.0, client.get("cpu_wait_share") or 0.0
        if self.cpu >= 0.98 or self.starved:
            self.severity = max(self.severity, 1)

    def _judge(self, value: float | None, least_ms: float, limit_ms: float, what: str) -> None:
        """Hold a delay against what is harmless; four times that makes the numbers useless."""
        harmless_ms = max(least_ms, limit_ms)
        if value is not None and value > harmless_ms:
            self.severity = max(self.severity, 1 + (value > 4 * harmless_ms))
            self.found.append(what.format(format_ms(value)))

    def _judge_share(self, value: float | None, suspect: float, invalid: float, what: str) -> None:
        """Hold a share against what is harmless, and against what is not."""
        if value is not None and value > suspect:
            self.severity = max(self.severity, 1 + (value > invalid))
            self.found.append(what.format(f"{value:.0%}"))

    @property
    def starved(self) -> bool:
        """Whether it got no processor for much of the time in which it had work."""
        return self.waits >= 0.1 and self.waits >= 0.4 * (self.waits + self.cpu)

    @property
    def consequence(self) -> str:
        """Say what it does to the numbers."""
        return "; ".join(self.found) or "its times still hold"

    @property
    def rivals(self) -> str:
        """Name who ran beside this client."""
        named = [
            f"{printable(rival['name'], 40)} (pid {rival['pid']}, {rival['cpu_share']:.0%})"
            for rival in self.client.get("rivals") or ()
        ]
        return ", ".join(named) or "another process"

    @classmethod
    def worst_of(cls, run: Evidence) -> ClientCheck | None:
        """Return the check of the stage that suffered most; None when none did."""
        if (run.aggregate["duration_ms"] or 0) < JUDGED_FROM_MS:
            return None
        checks = list[ClientCheck]()
        for client in run.load.clients:  # one of each part of the run
            stages = {stage["stage"]: stage for stage in client.get("stages", ())}
            for part in run.parts:
                number = part.get("stage", 0)
                if not stages or number in stages:
                    checks.append(cls(part, stages.get(number, client)))
        worst = max(checks, key=lambda check: (check.severity, check.waits), default=None)
        return worst if worst is not None and worst.severity else None


@validity_rule
def _client_saturated(run: Evidence) -> Reason | None:
    check = ClientCheck.worst_of(run)
    if check is None or check.starved:
        return None
    message = (
        f"this client was the bottleneck{check.where}: {check.consequence}; its process used "
        f"{check.cpu:.0%} of a core; lower the load, or give it a faster core"
    )
    return Reason(VERDICTS[check.severity], "client_saturated", message)


@validity_rule
def _client_starved(run: Evidence) -> Reason | None:
    check = ClientCheck.worst_of(run)
    if check is None or not check.starved:
        return None
    message = (
        f"this client waited for a processor {check.waits:.0%} of the time{check.where}: "
        f"{check.consequence}; beside it ran {check.rivals}; give it a core of its own"
    )
    return Reason(VERDICTS[check.severity], "client_starved", message)


@validity_rule
def _too_short(run: Evidence) -> Reason | None:
    # A burst keeps any client busy, and a few ticks of the lag monitor prove nothing.
    duration_ms = run.aggregate["duration_ms"] or 0
    if not run.aggregate["ok"] or duration_ms >= JUDGED_FROM_MS:
        return None
    ran = f"it ran for {format_ms(duration_ms)}"
    message = f"{ran}, too short to tell how busy this client was: ask more questions"
    return Reason("SUSPECT", "too_short", message)


@validity_rule
def _too_few(run: Evidence) -> Reason | None:
    """Judge only what something stands on: a threshold on a percentile, or an SLO (its p95)."""
    checks = check_thresholds(run.config, run.aggregate)
    wanted = [(f"the threshold on {check.metric}", check.metric) for check in checks]
    if run.config.slo != Slo():
        levels = [f"stages.{part['concurrent']}." for part in run.aggregate["stages"]] or [""]
        wanted += [("the SLO", f"{level}e2e_ms.p95") for level in levels]
    short = []
    for what, metric in wanted:
        name, _, last = metric.rpartition(".")
        part = part_of(run.aggregate, name)
        if last in PERCENTILES and part["n"] and None in part["ci95"][last]:
            short.append((requests_missing(part, last), what, part["n"], part["n_eff"][last]))
    if not short:
        return None
    more, what, n, n_eff = max(short)
    if n_eff < n / 2:
        message = (
            f"{what} stands on {n:,} answers that depend on each other and count as {n_eff:,.0f}, "
            "too few for its interval: run longer, or at a lower load"
        )
    else:
        message = f"{what} stands on {n:,} answers, too few for its interval: ask {more:,} more"
    return Reason("SUSPECT", "too_few_requests", message)


@validity_rule
def _unsteady(run: Evidence) -> Reason | None:
    if not run.aggregate["ok"]:
        return None
    part = min(run.parts, key=lambda part: part["steady"]["share"] or 0.0)
    share, where = part["steady"]["share"], ""
    if part["duration_ms"] is None or (share or 0.0) >= 0.8:
        return None
    if len(run.parts) > 1:
        where = f" at {part['concurrent']} at once"
    message = f"for {1 - (share or 0.0):.0%} of the time{where} not all slots were busy"
    if part["steady"]["tokens_per_s"] and part["tokens_per_s"]:
        message += (
            f": {part['tokens_per_s']:,.0f} tokens/s over all of it, "
            f"{part['steady']['tokens_per_s']:,.0f} while they were"
        )
    return Reason("SUSPECT", "unsteady", f"{message}; ask more, or look for requests that hung")


@validity_rule
def _overloaded(run: Evidence) -> Reason | None:
    for part in run.parts:
        overload = part["overload"]
        if overload is None or not overload["growing"]:
            continue
        message = (
            f"requests came faster than they were served: from {overload['in_system_first']:.0f} "
            f"to {overload['in_system_last']:.0f} were waiting or under way, and TTFT from the "
            f"schedule grew from {format_ms(overload['ttft_first_ms'])} to "
            f"{format_ms(overload['ttft_last_ms'])}; its percentiles only say how long the run "
            "was: lower the rate"
        )
        return Reason("SUSPECT", "overloaded", message)
    return None


@validity_rule
def _rate_missed(run: Evidence) -> Reason | None:
    held_ms = run.aggregate["held_ms"]["p95"]
    if held_ms is None or held_ms <= run.harmless_delay_ms:
        return None
    message = (
        f"requests were sent up to {format_ms(held_ms)} (p95) behind the schedule, because "
        "`concurrent` were in flight: the server does not keep up with the rate, or the cap is too "
        "low; judge by the latencies from the schedule"
    )
    return Reason("SUSPECT", "rate_missed", message)


@validity_rule
def _slow_connect(run: Evidence) -> Reason | None:
    """Tell requests that were late because of their connections from those that the cap held."""
    queue_ms, held_ms = run.aggregate["queue_ms"]["p95"], run.aggregate["held_ms"]["p95"]
    harmless_ms = run.harmless_delay_ms
    if queue_ms is None or queue_ms <= harmless_ms or held_ms > harmless_ms:
        return None
    message = (
        f"requests were sent up to {format_ms(queue_ms)} (p95) behind the schedule, because "
        "connections took that long to open; look at the network, TLS and the server's backlog"
    )
    return Reason("SUSPECT", "slow_connect", message)


@validity_rule
def _backed_off(run: Evidence) -> Reason | None:
    waited_s = run.load.backed_off_s
    if not waited_s:
        return None
    message = (
        f"after failures in a row it asked more slowly, and waited {waited_s:.1f} s in all: the "
        "load was not what was asked for"
    )
    return Reason("SUSPECT", "backed_off", message)


@validity_rule
def _reconnects(run: Evidence) -> Reason | None:
    times, requests = run.aggregate["reconnects"], run.aggregate["requests"]
    if not times or times / requests < 0.05:
        return None
    message = (
        f"{times} of {requests} requests found their kept connection closed, and were sent again "
        "on a new one: look at the keep-alive timeouts of the server and of what stands before it"
    )
    return Reason("SUSPECT", "reconnects", message)


@validity_rule
def _other_model(run: Evidence) -> Reason | None:
    asked = run.config.model
    others = {
        name: times
        for name, times in run.aggregate["models"].items()
        if run.config.server != "embedded" and not same_model(asked, name)
    }
    if not others:
        return None
    name, times = max(others.items(), key=operator.itemgetter(1))
    named = printable(json.dumps(name, ensure_ascii=False), 100)
    message = (
        f"{times} answers came from {named}, says the server, not from {json.dumps(asked)}; unless "
        "that is an alias of it, set model to the one that you mean"
    )
    return Reason("SUSPECT", "other_model", message)


@validity_rule
def _no_finish_reason(run: Evidence) -> Reason | None:
    without, ok = run.aggregate["finish_reasons"].get("None", 0), run.aggregate["ok"]
    if not ok or without / ok < 0.05:
        return None
    message = f"{without} of {ok} answers have no finish reason: some may have been cut unnoticed"
    return Reason("SUSPECT", "no_finish_reason", message)


@validity_rule
def _unusual_ends(run: Evidence) -> Reason | None:
    ends, ok = run.aggregate["ended_unusually"], run.aggregate["ok"]
    if not ends or ends / ok < 0.05:
        return None
    usual = GOOD_REASONS | CUT_REASONS | {"none"}
    reasons = [
        f"{printable(reason, 40)} {times}×"
        for reason, times in run.aggregate["finish_reasons"].items()
        if reason.lower() not in usual
    ]
    message = (
        f"{ends} of {ok} answers ended unusually ({', '.join(reasons[:3])}), "
        "so speed and quality may be of stumps"
    )
    return Reason("SUSPECT", "unusual_ends", message)


@validity_rule
def _buffered(run: Evidence) -> Reason | None:
    at_once, bursts = run.aggregate["came_at_once"], run.aggregate["came_in_bursts"]
    if not run.aggregate["ok"] or (at_once + bursts) / run.aggregate["ok"] < 0.5:
        return None
    what = f"{bursts} streamed answers came in a few bursts"
    so = "TTFT and ITL are those of whatever collects them"
    if at_once >= bursts:
        what, so = f"{at_once} streamed answers came in one piece", "TTFT is their E2E"
    message = f"{what}: {so}; look for a proxy that buffers"
    return Reason("SUSPECT", "stream_buffered", message)


@validity_rule
def _cut_answers(run: Evidence) -> Reason | None:
    cut, early, ok = (run.aggregate[name] for name in ("cut", "cut_early", "ok"))
    if not ok or cut / ok < 0.1:
        return None
    if early > cut / 2:
        where = "by a limit of the server, such as its context, and not by max_tokens"
        remedy = "look at how the server was started"
    else:
        limits = ", ".join(run.aggregate["cut_limits"])
        where, remedy = f"at max_tokens ({limits})", "raise it"
    message = f"{cut} of {ok} answers were cut {where}; lengths and quality are not the model's; "
    return Reason("SUSPECT", "answers_cut", message + remedy)


@validity_rule
def _reasoning_only(run: Evidence) -> Reason | None:
    only, cut = run.aggregate["reasoning_only"], run.aggregate["reasoning_only_cut"]
    if not only or only / run.aggregate["ok"] < 0.05:
        return None
    limits = ", ".join(run.aggregate["cut_limits"])
    remedy = "look at what the model or its template does"
    if cut > only / 2:
        remedy = f"raise max_tokens ({limits})"
    message = f"{only} answers hold reasoning and nothing else; {remedy}"
    return Reason("SUSPECT", "reasoning_only", message)


@validity_rule
def _blank_answers(run: Evidence) -> Reason | None:
    blank, ok = run.aggregate["blank"], run.aggregate["ok"]
    if not blank or blank / ok < 0.05:
        return None
    message = (
        f"{blank} of {ok} answers are white space and nothing else; look at the prompt's template"
    )
    return Reason("SUSPECT", "blank_answers", message)


@validity_rule
def _doubtful_tokens(run: Evidence) -> Reason | None:
    doubtful, ok = run.aggregate["tokens_doubtful"], run.aggregate["ok"]
    if not doubtful or doubtful / ok < 0.05:
        return None
    example = next(iter(run.aggregate["token_doubts"]))
    message = (
        f"the server's token counts of {doubtful} answers contradict what came ({example}); "
        "token_source says what was used"
    )
    return Reason("SUSPECT", "tokens_doubtful", message)


@validity_rule
def _cached(run: Evidence) -> Reason | None:
    shares = [
        (part["cached_tokens_sum"] or 0) / part["prompt_tokens_sum"]
        for part in run.parts
        if part["prompt_tokens_sum"]
    ]
    worst, is_sweep = max(shares, default=0.0), len(run.parts) > 1
    if worst >= 0.5:
        where = " of a stage" if is_sweep else ""
        advice = "look into it" if run.config.cache_bust else "set cache_bust"
        came = f"{worst:.0%} of the prompt tokens{where} came from a cache"
        return Reason("SUSPECT", "prompt_cache", f"{came}, so TTFT is flattered; {advice}")
    pairs = filter(None, (client.get("prompt_cache") for client in run.load.clients))
    pair = next((pair for pair in pairs if pair["found"] and pair["cached_tokens"] is None), None)
    if pair is not None and run.aggregate["ok"]:
        cold, warm = format_ms(pair["cold_ms"][-1]), format_ms(pair["warm_ms"][-1])
        message = (
            f"prompts repeat, and the server answers those that it knows from a cache: {warm} to "
            f"the first token instead of {cold}; set cache_bust"
        )
        return Reason("SUSPECT", "prompt_cache", message)
    return None


@validity_rule
def _estimated_tokens(run: Evidence) -> Reason | None:
    chunks = run.aggregate["token_sources"].get("chunks", 0)
    if not chunks or chunks <= run.aggregate["tokens_doubtful"]:  # _doubtful_tokens says it
        return None
    message = (
        f"the server gave no usage for {chunks} answers; their tokens are counted as chunks, which "
        "may hold several"
    )
    return Reason("SUSPECT", "tokens_estimated", message)


@validity_rule
def _drifting(run: Evidence) -> Reason | None:
    trends = [part["drift"] for part in run.parts if part["drift"]]
    clear = [trend for trend in trends if trend["significant"]]
    worst = max(clear, key=lambda trend: abs(math.log(trend["ratio"])), default=None)
    if worst is None or 1 / 1.15 < worst["ratio"] < 1.15:
        return None
    message = (
        f"{Summary.METRICS[worst['metric']][0]} went from {format_ms(worst['first_ms'])} at the "
        f"beginning to {format_ms(worst['last_ms'])} at the end; use warmup, or find what slows "
        "the server down"
    )
    return Reason("SUSPECT", "drift", message)


@validity_rule
def _clock_jump(run: Evidence) -> Reason | None:
    jump_s = run.load.clock_jump_s
    if abs(jump_s) < 1:
        return None
    what = "the machine slept, or the clock was set; run again"
    message = f"the wall clock moved {jump_s:+.1f} s against the monotonic one: {what}"
    return Reason("SUSPECT", "clock_jump", message)


# === Output ===


# --- Journal ---


def check_name(name: str) -> str:
    """Return an output name without `.json` and a leading `./`.

    Raises ConfigError for a name that no file can have on some system.
    """
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
    elif re.search(r'[<>:"|?*]', bare) or _DEVICE.fullmatch(bare):
        problem = "is reserved on some systems"
    if problem is not None:
        raise ConfigError(
            f"output name {json.dumps(printable(name, 60), ensure_ascii=False)}: {problem}"
        )
    return bare


# Names that mean a device on Windows, whatever follows a dot in them.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)


def sync_file(fd: int) -> None:
    """Bring a file to the disk, where its file system can do that. Raises OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


class FileLock:
    """An open file with an exclusive lock, which keeps two runs apart; it ends with the process.

    `held` is false when somebody else has the lock. Raises OSError when it cannot be opened.
    """

    def __init__(self, path: Path, flags: int = 0) -> None:
        self.path = path
        flags |= os.O_RDWR | os.O_APPEND
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self.fd = os.open(path, flags, 0o666)  # less what the umask takes away
        self.held = self._take()

    def _take(self) -> bool:
        """Lock the file unless somebody has it; who only looks (`is_taken`) is gone in a moment."""
        if fcntl is None:
            return True
        for pause_s in (0.005, 0.02, 0):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(pause_s)
            except OSError as error:  # a file system without locks
                logger.warning("no lock: %s", error)
                return True
            else:
                return True
        return False

    @staticmethod
    def is_taken(path: Path) -> bool | None:
        """Whether somebody has a file's lock; None where that cannot be known."""
        if fcntl is None:
            return None
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        return False

    @property
    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: it may have gone before it was locked."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the file while it is locked, so that nobody takes it for an unfinished run."""
        if self.held and self.is_in_place:
            if os.name == "nt":  # where an open file cannot be removed
                self.close()
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # a late fault of the disk; what counts was synced
                os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class JournalLine(msgspec.Struct):
    """One line of a journal: `{"crc":"…",` and the rest, over which the CRC-32 goes."""

    seq: int
    kind: str
    content: msgspec.Raw

    @staticmethod
    def to_bytes(seq: int, kind: str, content: Mapping[str, Any]) -> bytes:
        """Return the line with its newline."""
        entry = {"seq": seq, "kind": kind, "content": content}
        rest = pydantic_core.to_json(entry, inf_nan_mode="null")[1:]
        return b'{"crc":"%08x",%b\n' % (zlib.crc32(rest), rest)

    @classmethod
    def from_bytes(cls, line: bytes) -> Self | None:
        """Read a line, with or without its newline; None when it is damaged."""
        rest = line[18:].removesuffix(b"\n")
        if line[:18] != b'{"crc":"%08x",' % zlib.crc32(rest):
            return None
        try:
            return msgspec.json.decode(b"{" + rest, type=cls)
        except (ValueError, RecursionError):
            return None

    @classmethod
    def is_readable(cls, kind: str, content: Mapping[str, Any]) -> bool:
        """Whether a line with this content can be read back."""
        try:
            line = cls.from_bytes(cls.to_bytes(0, kind, content))
            return line is not None and len(line.read()) == len(content)
        except (ValueError, RecursionError):
            return False

    @staticmethod
    def digest(before: int, line: bytes) -> int:
        """Return a digest of the lines up to this one: a CRC-32 of their CRC-32s."""
        return zlib.crc32(line[8:16], before)

    def read(self) -> dict[str, Any]:
        """Return the content. Raises ValueError."""
        return msgspec.json.decode(self.content, type=dict[str, Any])


class Journal:
    """results/NAME.journal: a JSON object a line, each with a number and a CRC-32 of what follows.

    The operating system has a line when `append` returns, so that a killed process loses nothing.
    The disk has it a second later, so that a killed machine loses no more than that second.
    """

    SYNC_S = 0.5

    def __init__(self, lock: FileLock) -> None:
        self.path = lock.path
        self.header: dict[str, Any] = {}
        self._lock = lock
        self._source = io.FileIO(lock.fd, closefd=False)  # reads also what is removed meanwhile
        self._seq = self._lines = self._digest = 0  # of what was written
        self._results = self._answers = 0  # all, and those that were not cancelled
        self._is_damaged = False
        self._prefix = b""  # ends a line that was half written and could not be cut off
        self._dirty = False
        self._end = threading.Event()
        self._fault: OSError | None = None
        self._syncer = threading.Thread(target=self._sync, name="fsync", daemon=True)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a journal that is not there yet. Raises FileExistsError, ResultsError."""
        try:
            lock = FileLock(path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror}") from None
        if not (lock.held and lock.is_in_place):
            lock.close()
            raise FileExistsError(path)
        return cls(lock)

    @classmethod
    def reopen(cls, path: Path) -> tuple[Self, JournalReader]:
        """Go on with a journal, without the half line that a crash left at its end.

        Raises ConfigError.
        """
        try:
            lock = FileLock(path)
        except OSError as error:
            raise ConfigError(f"{path}: no run to go on with: {error.strerror}") from None
        with contextlib.ExitStack() as unless_good:
            unless_good.enter_context(lock)
            if not (lock.held and lock.is_in_place):
                in_use = "its run is still in progress; wait, or choose another name"
                raise ConfigError(f"{path}: {in_use}")
            reader = JournalReader(path)
            if reader.header is None:
                lost = "is not a journal, or was lost from its first line on"
                raise ConfigError(f"{path}: {lost}; choose another name")
            journal = cls(lock)
            journal._go_on(reader)
            unless_good.pop_all()
        return journal, reader

    def _go_on(self, reader: JournalReader) -> None:
        """Continue what the reader has read."""
        self.header = dict(reader.header or {})
        self._seq, self._lines = reader.next_seq, reader.lines
        self._results, self._digest = reader.ended, reader.digest
        self._answers = sum(record["status"] != "cancelled" for record in reader.records())
        if reader.unfinished_bytes:
            self._cut(reader.unfinished_bytes)

    def _cut(self, size: int) -> None:
        """Take a half line off the end; where that is refused, the next line begins behind it."""
        try:
            os.ftruncate(self._lock.fd, os.fstat(self._lock.fd).st_size - size)
        except OSError:
            self._prefix = b"\n"

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the first line; without it the journal is removed again.

        Raises ResultsError, and ConfigError for a header that could not be read back.
        """
        try:
            if not JournalLine.is_readable("header", header):
                raise ConfigError("the configuration is nested too deeply, or holds a huge number")
            self.append("header", header)
        except StressTestError:
            self.remove()
            self._close()
            raise
        self.header = dict(header)

    def __enter__(self) -> Self:
        self._syncer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._syncer.join()
        with contextlib.suppress(OSError):
            os.fsync(self._lock.fd)
        self._close()

    def _close(self) -> None:
        self._source.close()
        self._lock.close()

    def remove(self) -> None:
        """Remove the file, whose answers are in a results file now."""
        try:
            self._lock.remove()
        except OSError as error:
            why = f"cannot be removed: {error.strerror}"
            notice(f"{self.path}: {why}; remove it, its answers are in the results file")

    def read(self) -> JournalReader:
        """Read what was written, and hold it against what should be there.

        Raises ResultsError when it was damaged; the answers that are left stay.
        """
        reader = JournalReader(self.path, self._source, self.header)
        if (reader.lines, reader.digest) == (self._lines, self._digest):
            return reader
        where = self.path
        if reader.headless:
            where = self._rescue(reader)
        self._is_damaged = True
        left = f"{reader.ended} of {self._results} answers can still be read"
        then = f"they are kept in {where}: go on with {where.stem} --resume"
        raise ResultsError(f"{self.path}: was changed while the run wrote it; {left}; {then}")

    def _rescue(self, reader: JournalReader) -> Path:
        """Write what can still be read to a journal of its own, where this one is of no use.

        Raises ResultsError.
        """
        with contextlib.suppress(OSError):  # then creating the journal says why
            self.path.parent.mkdir(parents=True, exist_ok=True)
        names = possible_names(self.path, dt.datetime.now().astimezone())
        next(names)
        while True:
            with contextlib.suppress(FileExistsError), Journal.create(next(names)) as rescued:
                rescued.begin(self.header)
                for record in reader.records():
                    rescued.append("result", record)
                return rescued.path

    @contextlib.contextmanager
    def kept_when_writing_fails(self) -> Iterator[None]:
        """Say where the answers still are, when the block raises ResultsError."""
        try:
            yield
        except ResultsError as error:
            if self._is_damaged:  # then the error says what is left
                raise
            where = "it" if str(error).startswith(str(self.path)) else self.path
            answers = f"{error}; {self._answers} finished answers"
            if self._lock.is_in_place:
                then = "make room and go on with --resume"
                raise ResultsError(f"{answers} are kept in {where}; {then}") from None
            # Somebody took the journal away; as long as it is open here, it can be read.
            try:
                rescued = self._rescue(JournalReader(self.path, self._source, self.header))
            except ResultsError:
                lost = f"were in {self.path}, which somebody took away"
                raise ResultsError(f"{answers} {lost}") from None
            then = f"go on with {rescued.stem} --resume"
            raise ResultsError(f"{answers} are kept in {rescued}; {then}") from None

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write one line whole, or raise ResultsError and leave the journal as it was."""
        if self._fault is not None:
            raise self._failed(self._fault)
        try:
            self._write(kind, content)
        except OSError as error:
            self._fault = error  # append no more: the error says how many answers are kept
            raise self._failed(error) from None
        self._results += kind == "result"
        self._answers += kind == "result" and content["status"] != "cancelled"

    def pulse(self, content: Mapping[str, Any]) -> None:
        """Write down how the load stands; that this fails is no reason to end the run."""
        if self._fault is None:
            with contextlib.suppress(OSError):
                self._write("pulse", content)

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write one line whole, or raise OSError and leave the file as it was."""
        line = self._prefix + JournalLine.to_bytes(self._seq, kind, content)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._lock.fd, line[written:] if written else line)
        except OSError:
            if written:
                self._cut(written)
            raise
        self._digest = JournalLine.digest(self._digest, line[len(self._prefix) :])
        self._seq, self._lines, self._prefix = self._seq + 1, self._lines + 1, b""
        self._dirty = True

    def _failed(self, error: OSError) -> ResultsError:
        problem = f"{self.path}: cannot be written: {error.strerror}"
        if self._seq == 0:
            problem += "; nothing was asked; make room"
        return ResultsError(problem)

    def _sync(self) -> None:
        """Bring the lines to the disk, off the event loop."""
        while not self._end.wait(self.SYNC_S):
            if self._dirty:
                self._dirty = False
                try:
                    sync_file(self._lock.fd)
                except OSError as error:
                    self._fault = error


class JournalReader:
    """A journal's good lines. Results come in the order of the run; of one asked anew, the last.

    A result's place is its index and turn. A damaged line is passed over: `missing` and
    `lost_bytes` say so. `refresh` follows a journal that grows, and `new_lines` does so line by
    line. The file stays open, and can be read on when it is removed. Raises ResultsError.
    """

    BLOCK = 1 << 20  # bytes that are read at a time

    class _Place(msgspec.Struct):
        """What the content of a result and of a grade must have."""

        index: Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)]
        turn: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]

    def __init__(
        self,
        path: Path,
        file: io.FileIO | None = None,
        header: Mapping[str, Any] | None = None,
        *,
        at_once: bool = True,
    ) -> None:
        """Open the journal, or read the file; a journal's own header makes up for a lost one.

        Without `at_once` nothing is read before it is asked for.
        """
        self.path = path
        self.header = None if header is None else dict(header)
        self.headless = True  # as long as no first line was found
        self.footer: dict[str, Any] | None = None  # of the run's last part, when it has ended
        self.footers: list[dict[str, Any]] = []  # of all parts
        self.samples: list[dict[str, Any]] = []
        self.missing: list[range] = []  # sequence numbers that must have been there
        self.lines = self.next_seq = 0
        self.whole_bytes = 0  # up to the end of the last whole line, good or not
        self.unfinished_bytes = 0  # behind the last whole line
        self.digest = 0  # of the good lines
        self._damaged_bytes = 0  # of whole lines
        self._offsets, self._lengths = array.array("q"), array.array("q")  # of each good line
        self._results, self._keys = array.array("q"), array.array("q")  # a result's line, its place
        self._grades: dict[int, int] = {}  # place -> line of its last grade
        self._order: Sequence[int] | None = None
        self._file = file or self._open()
        if at_once:
            self.refresh()

    def _open(self) -> io.FileIO:
        """Open the file, without a buffer, which would keep what --resume cuts off."""
        try:
            if self.path.exists() and not self.path.is_file():
                raise OSError(0, "is not a regular file")
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be read: {error.strerror}") from None
        weakref.finalize(self, file.close)
        return file

    def refresh(self) -> int:
        """Read what was appended since the last time, and return how many good lines that were."""
        return sum(1 for _ in self.new_lines())

    def new_lines(self) -> Iterator[JournalLine]:
        """Read what was appended since the last time, and yield each good line.

        Who stops in the middle goes on there the next time.
        """
        self._order = None
        try:
            for line in self._whole_lines():
                entry = self._take(line)
                self.whole_bytes += len(line)
                if entry is None:
                    self._damaged_bytes += len(line)
                else:
                    yield entry
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be read: {error.strerror}") from None

    @property
    def is_in_place(self) -> bool:
        """Whether the path still leads to the file that is read: a run removes it at its end."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.lstat())
        except OSError:
            return False

    @property
    def is_in_use(self) -> bool | None:
        """Whether a run holds the journal; None on a system that cannot say."""
        return FileLock.is_taken(self.path)

    @property
    def changed_s(self) -> float:
        """When the file was last written, in seconds of the wall clock."""
        return os.fstat(self._file.fileno()).st_mtime

    def _whole_lines(self) -> Iterator[bytes]:
        """Yield the lines behind those that were read already, up to the last newline."""
        position, rest = self.whole_bytes, bytearray()
        self._file.seek(position)
        while block := self._file.read(self.BLOCK):
            position += len(block)
            *lines, unfinished = block.split(b"\n")
            for line in lines:
                yield bytes(rest) + line + b"\n"
                rest.clear()
            rest += unfinished
            self._file.seek(position)
        self.unfinished_bytes = len(rest)

    def _take(self, line: bytes) -> JournalLine | None:
        """Note what stands in a line; None when it is damaged or has no business there."""
        entry = JournalLine.from_bytes(line)
        if entry is None or entry.seq < self.next_seq:
            return None
        if entry.kind == "header" and entry.seq == 0:
            self.headless = False
        elif entry.kind == "header" or self.header is None:
            return None
        try:
            self._note(entry)
        except ValueError:
            return None
        if entry.seq > self.next_seq:
            self.missing.append(range(self.next_seq, entry.seq))
        self._offsets.append(self.whole_bytes)
        self._lengths.append(len(line))
        self.digest = JournalLine.digest(self.digest, line)
        self.lines, self.next_seq = self.lines + 1, entry.seq + 1
        return entry

    def _note(self, entry: JournalLine) -> None:
        """Note where a result or a grade stands; keep the rest. Raises ValueError."""
        if entry.kind in ("result", "grade"):
            place = msgspec.json.decode(entry.content, type=self._Place)
            key = place.index << 16 | place.turn
            if entry.kind == "grade":
                self._grades[key] = self.lines
                return
            self.footer = None  # that of an earlier part of the run
            self._grades.pop(key, None)  # that of an earlier answer
            self._keys.append(key)
            self._results.append(self.lines)
        elif entry.kind == "header":
            self.header = entry.read()
        elif entry.kind == "footer":
            self.footer = entry.read()
            self.footers.append(self.footer)
        elif entry.kind == "samples":
            self.samples.append(entry.read())

    @property
    def lost_bytes(self) -> int:
        """How many bytes are in no good line; while a run is on, the last ones may become one."""
        return self._damaged_bytes + self.unfinished_bytes

    @property
    def damage(self) -> str | None:
        """Say what is lost; None when all is there."""
        if not self.lost_bytes and not self.missing:
            return None
        lost = sum(map(len, self.missing))
        missing = f", {lost} earlier lines are missing" if lost else ""
        return f"{self.lost_bytes} bytes are damaged and left out{missing}"

    @property
    def is_over(self) -> bool:
        """Whether its load has ended: what is left to do is to grade and to save."""
        footer = self.footer or {}
        return footer.get("status") == "complete" and "ended" in footer and not self.missing

    @property
    def ended(self) -> int:
        """How many results were written, those that were asked anew included."""
        return len(self._results)

    def arrivals(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the results in the order in which they ended, from number `start` on."""
        return map(self._record, range(start, len(self._results)))

    def _in_order(self) -> Sequence[int]:
        """Return the results' numbers in the order of the run; what was asked anew counts once."""
        if self._order is None:
            keys = self._keys
            self._order = range(len(keys))
            if any(later <= earlier for earlier, later in itertools.pairwise(keys)):
                by_key = sorted(self._order, key=keys.__getitem__)
                following = itertools.zip_longest(by_key, by_key[1:])
                last = (
                    number
                    for number, after in following
                    if after is None or keys[number] != keys[after]
                )
                self._order = array.array("q", last)
        return self._order

    def __len__(self) -> int:
        return len(self._in_order())

    def __iter__(self) -> Iterator[Result]:
        return map(Result.from_record, self.records())

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the results as they stand in the file, each with its grade."""
        return map(self._record, self._in_order())

    def _record(self, number: int) -> dict[str, Any]:
        record = self._content(self._results[number])
        line = self._grades.get(self._keys[number])
        if line is not None:
            grade = self._content(line)
            graded = grade["score"] is not None
            record["quality"] = grade["score"] if graded else 0.0
            record |= {"graded": graded, "grade_reason": grade["reason"]}
        return record

    def _content(self, line: int) -> dict[str, Any]:
        """Read a good line again. Raises ResultsError when it is none any more."""
        try:
            self._file.seek(self._offsets[line])
            entry = JournalLine.from_bytes(self._file.read(self._lengths[line]))
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be read: {error.strerror}") from None
        if entry is None:
            raise ResultsError(f"{self.path}: was damaged while it was read")
        return entry.read()

    def finished(self, questions: Sequence[Question]) -> frozenset[int]:
        """Return the places of the questions whose turns have all ended by themselves.

        A place's question: without `duration` places count on through stages and passes, a whole
        catalogue each; with it, each stage begins at a multiple of 2**32 (see Stage).
        """
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


# --- Results files ---


def possible_names(path: Path, moment: dt.datetime) -> Iterator[Path]:
    """Yield the path, then the one with a time stamp in its name, then with a number as well."""
    yield path
    stamped = f"{path.stem}_{moment:%Y%m%d-%H%M%S}"
    yield path.with_name(stamped + path.suffix)
    for number in itertools.count(2):
        yield path.with_name(f"{stamped}-{number}{path.suffix}")


def give_name(path: Path, name: Path) -> bool:
    """Rename a file, unless another file has the name. Raises OSError."""
    try:
        os.link(path, name)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            name.touch(exist_ok=False)  # the name is ours before the file gets it
        except FileExistsError:
            return False
        try:
            path.replace(name)
        except OSError:
            name.unlink()
            raise
    else:
        with contextlib.suppress(OSError):  # it has its name; the old one is cleared up later
            path.unlink()
    return True


class Digest:
    """The SHA-256 of a file's meta, records and samples, by their values and not by their layout.

    It stands in the meta itself, which counts without it. A record that was changed, added or taken
    out then shows, though everything computed from the records may agree.
    """

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self._sha256 = hashlib.sha256()
        self.add({name: value for name, value in meta.items() if name != "digest"})

    def add(self, record: Mapping[str, Any]) -> bytes:
        """Take a record, and return its JSON."""
        data = pydantic_core.to_json(record, inf_nan_mode="null")
        self._sha256.update(data + b"\n")
        return data

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return self._sha256.hexdigest()


class ResultsFile:
    """A results file in the making: written beside its place, and given its name when it is whole.

    A part's name begins a line, and each result has a line: so `load_results` can pass over them.
    """

    RESULTS = b',\n"results": ['
    AGGREGATE = b'\n],\n"aggregate": '

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        self._size = 0

    def __enter__(self) -> Self:
        self._clear_up()
        self._lock = FileLock(self._temporary, os.O_CREAT | os.O_EXCL)
        if not (self._lock.held and self._lock.is_in_place):
            self._lock.close()
            raise OSError(0, "another run is clearing up here; try again")
        self._file = os.fdopen(self._lock.fd, "wb", closefd=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):  # what did not fit, when the block has failed
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        self._lock.close()

    def _clear_up(self) -> None:
        """Remove what killed runs have left, but nothing that is being written."""
        with contextlib.suppress(OSError):
            for left in self._path.parent.glob(f".{glob.escape(self._path.name)}.*.tmp"):
                with FileLock(left) as lock:
                    lock.remove()

    def write(
        self,
        meta: Mapping[str, Any],
        results: Iterable[Result],
        aggregate: Mapping[str, Any],
        samples: Mapping[str, Any] | None,
    ) -> None:
        """Write the parts and bring them to the disk. Raises OSError, also for a file too short."""
        digest = Digest(meta)
        blank = "0" * len(digest.hexdigest())
        head = b'{\n"meta": ' + self._indented({**meta, "digest": blank}) + self.RESULTS
        self._add(head)
        separator = b"\n"
        for result in results:
            self._add(separator + digest.add(result.to_record()))
            separator = b",\n"
        self._add(self.AGGREGATE + self._indented(aggregate))
        if samples is not None:
            self._add(b',\n"samples": ' + digest.add(samples))
        self._add(b"\n}\n")
        self._file.flush()
        with self._temporary.open("r+b") as file:  # self._file can only append
            file.seek(head.rindex(blank.encode()))
            file.write(digest.hexdigest().encode())
        sync_file(self._lock.fd)
        written = os.fstat(self._lock.fd).st_size
        if written != self._size:
            raise OSError(0, f"only {written} of {self._size} bytes were written")

    def _add(self, data: bytes) -> None:
        self._size += self._file.write(data)

    @staticmethod
    def _indented(value: Mapping[str, Any]) -> bytes:
        return pydantic_core.to_json(value, indent=1, inf_nan_mode="null")

    def put_in_place(self, *, overwrite: bool) -> Path:
        """Give the file its name, or that with a time stamp where it is taken. Raises OSError."""
        if overwrite:
            self._temporary.replace(self._path)
            return self._path
        names = possible_names(self._path, dt.datetime.now().astimezone())
        return next(name for name in names if give_name(self._temporary, name))


def save_results(
    path: Path,
    meta: Mapping[str, Any],
    results: Iterable[Result],
    aggregate: Mapping[str, Any],
    *,
    samples: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a results file so that it is whole or not there, and return where it is.

    `samples` are columns on one time axis. The file is written beside its place, flushed, its size
    checked, and put in place in one step. A file that is there already is kept, and the new one
    gets a time stamp, unless `overwrite` is true. Raises ResultsError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have taken it away
        with ResultsFile(path) as file:
            file.write(meta, results, aggregate, samples)
            path = file.put_in_place(overwrite=overwrite)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from None
    _sync_folder(path)
    return path


def _sync_folder(path: Path) -> None:
    """Bring a new file's name to the disk. Raises ResultsError."""
    if os.name != "posix":
        return
    try:
        fd = os.open(path.parent, os.O_RDONLY)
    except OSError:  # a folder that may be written to and not be read
        return
    try:
        sync_file(fd)
    except OSError as error:
        why = f"its folder could not be brought to the disk: {error.strerror}"
        raise ResultsError(f"{path}: is written, but {why}") from None
    finally:
        os.close(fd)


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A results file: `meta`, `aggregate` and `samples` as they stand there, and the results."""

    path: Path
    meta: dict[str, Any]
    results: list[Result]
    aggregate: dict[str, Any]
    records: list[dict[str, Any]]  # the results as they stand in the file
    samples: dict[str, Any] | None = None

    @property
    def config(self) -> Config:
        """The configuration that the run had."""
        return Config.model_validate(self.meta["config"])

    @property
    def itl_us(self) -> dict[int, dict[int, int]] | None:
        """A histogram of the gaps between chunks for each stage, where the results have none."""
        stages = self.aggregate.get("itl_histogram_us") or {}
        return {
            int(stage): {int(us): times for us, times in pairs} for stage, pairs in stages.items()
        } or None

    @classmethod
    def read_parts(cls, path: Path, *, results: bool) -> Any:
        """Read the file's JSON, with no results unless they are wanted. Raises ConfigError."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if path.is_file() and not results:
                with path.open("rb") as file:
                    return msgspec.json.decode(cls._head(file) + cls._tail(file))
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if path.is_file():
                return msgspec.json.decode(path.read_bytes())
        return read_json(path, ConfigError)  # slower, but it says what is wrong, and where

    @staticmethod
    def _head(file: BinaryIO) -> bytes:
        """Return the file up to its first record. Raises ValueError for another layout."""
        head = b""
        while (end := head.find(ResultsFile.RESULTS)) < 0:
            block = file.read(max(65536, len(head)))
            if not block:
                raise ValueError("it has no records")
            head += block
        return head[: end + len(ResultsFile.RESULTS)]

    @staticmethod
    def _tail(file: BinaryIO) -> bytes:
        """Return the file from its last record's end on. Raises ValueError for another layout."""
        size, length = file.seek(0, os.SEEK_END), 65536
        while True:
            file.seek(max(size - length, 0))
            tail = file.read()
            start = tail.rfind(ResultsFile.AGGREGATE)
            if start >= 0:
                return tail[start:]
            if length >= size:
                raise ValueError("it has no aggregate behind its records")
            length *= 4


def load_results(path: Path, results: bool = True) -> SavedRun:
    """Read a results file; without its results when `results` is false, which is much faster.

    Raises ConfigError, one line, also for a format that this version does not know.
    """
    data = SavedRun.read_parts(path, results=results)
    if not isinstance(data, dict) or not {"meta", "results", "aggregate"} <= data.keys():
        raise ConfigError(f"{path}: is not a results file: it has no meta, results and aggregate")
    meta, records, aggregate = data["meta"], data["results"], data["aggregate"]
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if version != SCHEMA_VERSION:
        known = f"this version reads {SCHEMA_VERSION}"
        raise ConfigError(f"{path}: has schema_version {printable(version, 20)}; {known}")
    if not isinstance(records, list) or not isinstance(aggregate, dict):
        raise ConfigError(f"{path}: is damaged: results is no list, or aggregate no object")
    if not results:
        records = []
    try:
        read = [Result.from_record(record) for record in records]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        wrong = printable(f"{type(error).__name__}: {error}", 200)
        raise ConfigError(f"{path}: results: an entry is damaged: {wrong}") from None
    return SavedRun(path, meta, read, aggregate, records, data.get("samples"))


def iterate_results(path: Path) -> Iterator[Result]:
    """Yield the results of a results file, with one of them in memory at a time.

    Raises ConfigError as `load_results` does. A file that something else has laid out anew is read
    as a whole.
    """
    start, end = ResultsFile.RESULTS[2:] + b"\n", ResultsFile.AGGREGATE[1:4]
    with path.open("rb") as file:
        if not any(line == start for line in file):
            yield from load_results(path).results
            return
        for number, line in enumerate(file):
            if line == end:
                return
            try:
                yield Result.from_record(msgspec.json.decode(line.rstrip(b",\n")))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                wrong = printable(f"{type(error).__name__}: {error}", 200)
                raise ConfigError(f"{path}: results: entry {number} is damaged: {wrong}") from None
    raise ConfigError(f"{path}: is damaged: it ends among its results")


def find_results(name: str, folder: Path | None = None) -> Path:
    """Return the results file that a path or a run's name means. Raises ConfigError."""
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
    load: LoadReport,
    aggregate: Mapping[str, Any],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the `meta` of a results file.

    The wall clock was read once, at the start; all later moments come from the monotonic clock.
    """
    started = dt.datetime.fromisoformat(header["started"])
    dates = {}
    for name, moment in (("start", started), ("end", load.ended)):
        dates[f"{name}_date"] = moment.date().isoformat()
        dates[f"{name}_time"] = moment.time().isoformat(timespec="milliseconds")
    total_ms = (load.ended_ns - load.start.start_ns) / NS_PER_MS
    verified = config.verify_tls and target.tls is not False
    return {
        **dates,
        "server": header["server"],
        "model": header["config"]["model"],
        "concurrent": config.concurrent,
        "questions": config.questions,
        "timeout": config.timeout,
        "total_duration_ms": round(total_ms, 3),
        "schema_version": SCHEMA_VERSION,
        "status": "interrupted" if load.interrupted else "complete",
        "validity": judge_validity(config, aggregate, load),
        "run_id": header["run_id"],
        "config": header["config"],
        "questions_sha256": header["questions_sha256"],
        "client": {**header["client"], **load.client, "earlier_parts": [*load.start.clients]},
        "hardware": load.hardware,
        "questions_asked": header["questions"],
        "utc_offset": started.strftime("%z"),
        "warmup": dict(load.warmup),
        "resumed": load.start.resumed,
        "clock_jump_s": load.clock_jump_s,
        "gave_up": load.gave_up,
        "backed_off_s": load.backed_off_s,
        "tls_verified": verified if config.server.startswith("https") else None,
        "embedded": header.get("embedded"),
        "server_info": load.server_info,
        "thresholds": [check._asdict() for check in check_thresholds(config, aggregate)],
    }


def journal_header(config: Config, target: Target, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the journal's first line: what was to be run, without secrets."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": str(uuid.uuid4()),
        "started": dt.datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "server": target.redact(target.shown),
        "embedded": target.embedded,
        "questions": len(questions),
        "turns": sum(len(question.texts) for question in questions),
        "config": target.redact.tree(config.without_passwords()),
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


class RunLog:
    """The log of a run, a file of its own: an event a line, as key=value pairs.

    Opening it writes what was logged before; its name has the moment in it. Raises ResultsError.
    """

    class Line(logging.Formatter):
        """One record a line: date, time with ms, level, message.

        No text of a server can begin a line or hide one.
        """

        def __init__(self, redact: Redactor) -> None:
            super().__init__()
            self.redact = redact

        def format(self, record: logging.LogRecord) -> str:
            moment = dt.datetime.fromtimestamp(record.created).astimezone().replace(tzinfo=None)
            date = moment.isoformat(" ", "milliseconds")
            line = f"{date} {record.levelname} {record.getMessage()}"
            if record.exc_info:
                line += " traceback=" + json.dumps(self.formatException(record.exc_info))
            return printable(self.redact(line), 20_000)

    @staticmethod
    @contextlib.contextmanager
    def kept() -> Iterator[logging.handlers.MemoryHandler]:
        """Keep what is logged before there is a log file; close what logs at the end."""
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

    def __init__(self, path: Path, moment: dt.datetime, level: str, redact: Redactor) -> None:
        names = possible_names(path, moment)
        next(names)  # a log always has its time stamp
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = None
            while file is None:
                path = next(names)
                with contextlib.suppress(FileExistsError):  # of a run begun in the same second
                    file = logging.FileHandler(path, "x", "utf-8", errors="backslashreplace")
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror}") from None
        self.path = path
        file.setFormatter(self.Line(redact))
        file.setLevel(level)
        for handler in logger.handlers[:]:  # what was kept until now, or an earlier run's
            logger.removeHandler(handler)
            if isinstance(handler, logging.handlers.MemoryHandler):
                for record in handler.buffer:
                    if record.levelno >= file.level:
                        file.handle(record)
            handler.close()
        logger.setLevel(level)
        logger.addHandler(file)

    def start(self, header: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Log what is about to be run, and from and to which files."""
        config = header["config"]
        server = {"url": header["server"], "model": config["model"], "api": config["api"]}
        run = {"run_id": header["run_id"], "seed": header["seed"], **header["client"]}
        logger.info("run %s", logfmt(**run))
        logger.info("files %s", logfmt(**files))
        logger.info("server %s", logfmt(**server))
        logger.info("config %s", json.dumps(config, ensure_ascii=False))

    def result(self, result: Result) -> None:
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

    def grade(self, result: Result, score: float | None, reason: str | None) -> None:
        """Log an answer's grade: what could not be graded as a warning, the others for DEBUG."""
        level = logging.WARNING if score is None and result.ok else logging.DEBUG
        grade = logfmt(id=result.id, index=result.index, score=score, reason=reason)
        logger.log(level, "grade %s", grade)

    def end(self, meta: Mapping[str, Any], aggregate: Mapping[str, Any], results: Path) -> None:
        """Log how the run went: stages, grades, thresholds, verdict, and where it is saved."""
        levels = meta["config"]["concurrent"]
        for part in aggregate["stages"] or [{"stage": 0, "concurrent": levels, **aggregate}]:
            quality = part["quality"]
            shown = ("stage", "concurrent", "requests", "ok", "failed", "cancelled", "duration_ms")
            stage = {name: part[name] for name in (*shown, "tokens_per_s")}
            logger.info("stage %s", logfmt(**stage))
            grades = {name: quality[name] for name in ("graded", "ungraded", "correct", "avg")}
            logger.info("quality %s", logfmt(stage=part["stage"], **grades))
        for reason in aggregate["failure_reasons"]:
            logger.warning("failures %s", logfmt(**reason))
        for check in meta["thresholds"]:
            level = logging.INFO if check["met"] else logging.WARNING
            logger.log(level, "threshold %s", logfmt(**check))
        validity = meta["validity"]
        logger.info("validity %s", logfmt(verdict=validity["verdict"], status=meta["status"]))
        for reason in validity["reasons"]:
            logger.info("reason %s", logfmt(**reason))
        saved = {"total_duration_ms": meta["total_duration_ms"], "results": results}
        logger.info("saved %s", logfmt(**saved, log=self.path))


def logfmt(**values: Any) -> str:
    """Return key=value pairs for the log, without None; a value with spaces is a JSON string."""
    pairs = []
    for key, value in values.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if not re.fullmatch(r"[^\s\"=]+", text):
            text = json.dumps(text, ensure_ascii=False)
        if value is not None:
            pairs.append(f"{key}={text}")
    return " ".join(pairs)


def notice(message: str) -> None:
    """Say something on stderr, in one line that is safe to show, and in the log."""
    logger.warning("%s", message.removeprefix("WARNING "))
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(message, 1000) + "\n")


# --- Terminal ---
#
# Numbers have three significant digits and a narrow space before their unit; no line breaks there.

NARROW_SPACE = "\u202f"
SEPARATOR = "\u00a0· "  # no line begins with it
NOT_MEASURED = "–"
# What stands in for a sign that an encoding lacks: as wide as it, so that columns stay straight.
ASCII_SIGNS = str.maketrans(NARROW_SPACE + "\u00a0–−·×▲✓✕─“”’", '  --|x!+x-""\'')
VERDICT_SIGNS = {
    "VALID": ("✓", "bold green", "trustworthy"),
    "SUSPECT": ("▲", "bold yellow", "usable"),
    "INVALID": ("✕", "bold red", "do not use these numbers"),
}


def format_number(value: float | None) -> str:
    """Return a measured number with three significant digits; a dash when it was not measured."""
    if value is None:
        return NOT_MEASURED
    rounded = float(f"{value:.3g}")
    if not rounded or abs(rounded) < 1e-6:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


def format_ms(value: float | None) -> str:
    """Return a time for people: in ms, from a second in s, from two minutes in min."""
    return format_interval((value,))


def format_interval(bounds: Sequence[float | None]) -> str:
    """Return the bounds of an interval in ms for people, in one unit: "1.18 to 1.80 s"."""
    if None in bounds:
        return NOT_MEASURED
    known = cast(Sequence[float], bounds)
    unit, size = "ms", 1.0
    if max(known) >= 999.5:
        unit, size = "s", 1000.0
    if max(known) >= 119_500:
        unit, size = "min", 60_000.0
    return " to ".join(format_number(bound / size) for bound in known) + NARROW_SPACE + unit


def format_share(*shares: float | None) -> str:
    """Return a share or an interval of shares in percent: whole from 10, else with one decimal."""
    if None in shares:
        return NOT_MEASURED
    texts = []
    for share in cast(Sequence[float], shares):
        percent = 100 * share
        # 399 of 400 are not 100 %.
        nearly_all = 99.5 <= abs(percent) < 99.95
        whole = (abs(percent) >= 9.95 and not nearly_all) or round(percent, 1) == 0
        text = f"{percent:.0f}" if whole else f"{percent:.1f}".removesuffix(".0")
        texts.append(text.replace("-", "−"))
    return " to ".join(texts) + NARROW_SPACE + "%"


def headline(meta: Mapping[str, Any], aggregate: Mapping[str, Any]) -> str:
    """Return the one sentence that says what a run shows, for a person to repeat aloud."""
    return Headline(meta, aggregate).sentence()


class Headline:
    """Finds the sentence that says what a run shows: the first of its rules that applies.

    Each rule is a method that returns its sentence, or None. What the run's validity puts in doubt
    is not claimed: estimated tokens are "about", and times that are this program's own are no news.
    """

    GROWTH = 1.1  # a level pays when the total is this many times the best of those before
    MISSED = 0.1  # the share of requests beyond a limit from which it is the news
    FAILED = 0.01
    MISSES: ClassVar = {
        "ttft_ms": "start later than",
        "tpot_ms": "need more for a token than",
        "e2e_ms": "end later than",
    }

    def __init__(self, meta: Mapping[str, Any], aggregate: Mapping[str, Any]) -> None:
        self.meta, self.aggregate = meta, aggregate
        self.codes = {reason["code"] for reason in meta["validity"]["reasons"]}
        self.about = "about " if "tokens_estimated" in self.codes else ""
        by_level = {stage["concurrent"]: stage for stage in reversed(aggregate["stages"])}
        self.stages = [by_level[level] for level in sorted(by_level)]
        self.asked = aggregate["ok"] + aggregate["failed"]

    def sentence(self) -> str:
        """Return the sentence."""
        rules = (
            self.no_answer,
            self.client_saturated,
            self.quality_falls,
            self.total_stops_growing,
            self.total_grows,
            self.limit_missed,
            self.requests_fail,
        )
        found = (rule() for rule in rules)
        return next((text for text in found if text is not None), None) or self.nothing_special()

    def no_answer(self) -> str | None:
        """Say why when every request failed."""
        if self.aggregate["ok"]:
            return None
        if not self.aggregate["failures"]:
            return "No answer came: nothing was asked."
        return f"No answer came: {failure_reasons(self.aggregate, 1)}."

    def client_saturated(self) -> str | None:
        """Say when this program was the bottleneck."""
        starved = "client_starved" in self.codes
        if starved and self.meta["validity"]["verdict"] != "INVALID":
            starved = False  # its times still hold
        if "client_saturated" not in self.codes and not starved:
            return None
        return "These times are this program's own, not the server's."

    def quality_falls(self) -> str | None:
        """Say from which level on the same questions are answered worse, beyond chance."""
        falls = None
        for stage in reversed(self.stages[1:]):
            if not self._answers_worse(stage["quality"].get("paired")):
                break
            falls = stage
        if falls is None:
            return None
        before, after = (
            format_share(stage["quality"]["under_load"]["avg"]) for stage in (self.stages[0], falls)
        )
        level = falls["concurrent"]
        return f"From {level} at once on, answers get worse: {before} → {after} right."

    def _answers_worse(self, paired: Mapping[str, int] | None) -> bool:
        """Whether more pairs got worse than chance allows: exact sign test, two-sided (McNemar)."""
        if paired is None or paired["worse"] <= paired["better"]:
            return False
        better, n = paired["better"], paired["better"] + paired["worse"]
        tail = sum(math.comb(n, k) for k in range(better + 1))
        return bool(2 * tail <= (1 - CONFIDENCE) * 2**n)

    @property
    def knee(self) -> int | None:
        """The level from which on more users bring nothing; None unless it is a sweep."""
        totals = [(stage["concurrent"], total_speed(stage)) for stage in self.stages]
        return self.knee_of([(int(level), total) for level, total in totals if total])

    @classmethod
    def knee_of(cls, totals: Sequence[tuple[int, float]]) -> int | None:
        """Return the highest level whose total is a tenth above the best of all lower levels.

        Takes levels with their tokens/s, the lowest first; None when they are fewer than two.
        """
        if len(totals) < 2:
            return None
        knee, best = totals[0]
        for level, total in totals[1:]:
            if total >= cls.GROWTH * best:
                knee = level
            best = max(best, total)
        return knee

    def total_stops_growing(self) -> str | None:
        """Say what a sweep's levels beyond the knee cost."""
        if self.knee is None or self.knee == self.stages[-1]["concurrent"]:
            return None
        knee = next(stage for stage in self.stages if stage["concurrent"] == self.knee)
        top = [stage for stage in self.stages if total_speed(stage)][-1]
        total_before, total_after = (cast(float, total_speed(part)) for part in (knee, top))
        total = f"the total {self._change(total_before, total_after)}"
        before, after = one_user_speed(knee), one_user_speed(top)
        if before is None or after is None or after >= 0.995 * before:
            return f"Beyond {self.knee} at once, {total}."
        speed = f"each user's speed {self._change(before, after)}"
        if 0.45 <= after / before <= 0.55:
            speed = "each user's speed halves"
        only = "only " if total_after > total_before else ""
        return f"Beyond {self.knee} at once, users {only}slow each other down: {total}, {speed}."

    def _change(self, before: float, after: float) -> str:
        change = after / before - 1
        if abs(change) < 0.0005:
            return "stays the same"
        way = "grows" if change > 0 else "falls by"
        return f"{way} {self.about}{format_share(abs(change))}"

    def total_grows(self) -> str | None:
        """Say how far a sweep got whose highest level still pays."""
        if self.knee is None:
            return None
        total = format_number(total_speed(self.stages[-1]))
        return (
            f"Up to {self.knee} at once the total keeps growing, to {self.about}{total} tokens/s."
        )

    def limit_missed(self) -> str | None:
        """Say when a tenth of the requests were answered, but beyond a limit of `slo`."""
        slo = {key: limit for key, limit in self.meta["config"]["slo"].items() if limit is not None}
        good, failed = self.aggregate["good"], self.aggregate["failed"]
        if good is None or self.aggregate["ok"] - good < self.MISSED * self.asked:
            return None
        what = "miss a limit"
        if len(slo) == 1 and slo.keys() <= self.MISSES.keys():
            ((key, limit),) = slo.items()
            what = f"{self.MISSES[key]} the limit of {format_limit(limit)}"
        also = f", and {failed:,} fail outright" if failed else ""
        return f"{self.aggregate['ok'] - good:,} of {self.asked:,} requests {what}{also}."

    def requests_fail(self) -> str | None:
        """Say when a hundredth of the requests failed."""
        failed = self.aggregate["failed"]
        if failed < self.FAILED * self.asked or not failed:
            return None
        kind = next(iter(self.aggregate["failures"])).replace("_", " ")
        return f"{failed:,} of {self.asked:,} requests fail, most often {kind}."

    def nothing_special(self) -> str:
        """Say how fast and how good the answers are."""
        aggregate, parts = self.aggregate, []
        if self.stages:  # over several levels they would mix
            return f"{aggregate['ok']:,} of {self.asked:,} requests were answered."
        speed, quality = one_user_speed(aggregate), aggregate["quality"]
        if aggregate["ttft_ms"]["n"]:
            start = format_ms(aggregate["ttft_ms"]["p50"])
            parts.append(f"Half of the answers start within {start}")
        else:
            parts.append(f"Half of the answers end within {format_ms(aggregate['e2e_ms']['p50'])}")
        if speed is not None:
            parts.append(f"a user gets {self.about}{format_number(speed)} tokens/s")
        if quality["graded"]:
            right = format_share(quality["of_answers"]["correct_share"])
            parts.append(f"{right} of the graded answers are right")
        return "; ".join(parts) + "."


def total_speed(part: Mapping[str, Any]) -> float | None:
    """Return the tokens/s of all users: while all slots were busy, where they ever were."""
    steady: float | None = part["steady"]["tokens_per_s"]
    return part["tokens_per_s"] if steady is None else steady


def one_user_speed(part: Mapping[str, Any]) -> float | None:
    """Return the tokens/s that one user sees: from the median TPOT of an aggregate or a stage."""
    tpot_ms = part["tpot_ms"]["p50"]
    return 1000 / tpot_ms if tpot_ms else None


def format_limit(limit_ms: float) -> str:
    """Return a limit as the user wrote it, in s from a second: no digit more."""
    size, unit = (1000, "s") if limit_ms >= 1000 else (1, "ms")
    return f"{limit_ms / size:,.12g}{NARROW_SPACE}{unit}"


def styled(*pieces: str | tuple[str, str] | rich.text.Text) -> rich.text.Text:
    """Return a line of plain and styled pieces; nothing in them is read as markup."""
    import rich.text  # noqa: PLC0415

    return rich.text.Text.assemble(*pieces)


def wrapped(line: str | rich.text.Text, width: int, hang: int = 0) -> list[rich.text.Text]:
    """Return the line as lines of at most `width` columns, the later ones indented by `hang`.

    Broken at spaces only: a longer word, such as a path, stays whole, and the terminal wraps it.
    A text with `no_wrap` (a command to copy) stays whole too.
    """
    from rich.cells import cell_len  # noqa: PLC0415

    text = styled(line) if isinstance(line, str) else line
    if text.no_wrap:
        return [text]
    breaks, used = list[int](), 0
    for word in re.finditer(r" *[^ ]+", text.plain):
        size = cell_len(word.group())
        if used and used + size > width:
            blanks = len(word.group()) - len(word.group().lstrip(" "))
            breaks.append(word.start() + blanks)
            used, size = hang, size - blanks
        used += size
    first, *rest = text.divide(breaks)
    for part in (first, *rest):
        part.rstrip()
    return [first, *(styled(" " * hang, part) for part in rest)]


class Column(NamedTuple):
    """A column of a table."""

    header: str  # of one line or two
    weight: int = 0  # the lightest columns leave a narrow terminal first, of equal ones the last
    label: str = ""  # of its row when the table is turned; has a second line for cells of two parts


Cell = str | tuple[str, str]  # a text, or a value and its interval


class Table:
    """Figures in columns. What does not fit leaves, column by column; nothing is ever cut.

    On a terminal narrower than `turned_below` columns the table is turned: each of its rows becomes
    a column, four at a time, with the figures that a usual terminal would show.
    """

    GAP = 2
    AT_ONCE = 4
    USUAL_WIDTH = 80

    def __init__(self, *columns: Column, turned_below: int = 0) -> None:
        self.columns, self.turned_below = columns, turned_below
        self.rows = list[tuple[Cell, ...]]()

    def add_row(self, *cells: Cell) -> None:
        """Add a row; the first cell is its label."""
        self.rows.append(cells)

    def lines(self, width: int) -> list[rich.text.Text]:
        """Return the table's lines for a terminal of this width."""
        if width < self.turned_below:
            return self._turned(width)
        kept = self._fitting(width)
        headers = [self.columns[place].header.split("\n") for place in kept]
        height = max(map(len, headers))
        above = [[""] * (height - len(header)) + header for header in headers]
        body = [[self._joined(row[place]) for place in kept] for row in self.rows]
        return self._laid_out([list(line) for line in zip(*above, strict=True)], body)

    @staticmethod
    def _joined(cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        value, interval = cell
        return f"{value} ({interval})" if interval else value

    def _fitting(self, width: int) -> list[int]:
        """Return the places of the columns that fit; the first two always stay."""
        from rich.cells import cell_len  # noqa: PLC0415

        sizes = [
            max(
                *(cell_len(line) for line in column.header.split("\n")),
                *(cell_len(self._joined(row[place])) for row in self.rows),
                0,
            )
            for place, column in enumerate(self.columns)
        ]
        kept = list(range(len(self.columns)))
        while len(kept) > 2 and sum(sizes[place] + self.GAP for place in kept) - self.GAP > width:
            kept.remove(min(kept[1:], key=lambda place: (self.columns[place].weight, -place)))
        return kept

    def _turned(self, width: int) -> list[rich.text.Text]:
        """Return the table with a column for each of its rows, in blocks of as many as fit."""
        rows = list[list[str]]()
        for place in self._fitting(self.USUAL_WIDTH)[1:]:
            cells = [row[place] for row in self.rows]
            column = self.columns[place]
            labels = (column.label or column.header.replace("\n", " ")).split("\n")
            parts = [(cell, "") if isinstance(cell, str) else cell for cell in cells]
            rows.append([labels[0], *(value for value, _ in parts)])
            if any(interval for _, interval in parts):
                rows.append([labels[-1], *(interval for _, interval in parts)])
        first = self.columns[0]
        head = [first.label or first.header.replace("\n", " ")]
        head += [self._joined(row[0]) for row in self.rows]
        begin = 1
        lines: list[rich.text.Text] = []
        while begin < len(head):
            for end in range(min(begin + self.AT_ONCE, len(head)), begin, -1):
                block = [[line[0], *line[begin:end]] for line in (head, *rows)]
                laid_out = self._laid_out(block[:1], block[1:], words_first=True)
                if laid_out[0].cell_len <= width or end == begin + 1:
                    break
            lines += [styled(""), *laid_out] if lines else laid_out
            begin = end
        return lines

    def _laid_out(
        self, above: list[list[str]], body: list[list[str]], *, words_first: bool = False
    ) -> list[rich.text.Text]:
        """Return the lines under their header: words at the left, figures at the right."""
        from rich.cells import cell_len  # noqa: PLC0415

        sizes = [max(map(cell_len, column)) for column in zip(*above, *body, strict=True)]
        figures = not words_first and all(re.fullmatch(r"[\d,]+", row[0]) for row in body)
        lines: list[rich.text.Text] = []
        for row in (*above, *body):
            blanks = [" " * (size - cell_len(cell)) for cell, size in zip(row, sizes, strict=True)]
            first = blanks[0] + row[0] if figures else row[0] + blanks[0]
            rest = [blank + cell for blank, cell in zip(blanks[1:], row[1:], strict=True)]
            gap = " " * self.GAP
            if len(lines) < len(above):
                lines.append(styled((gap.join((first, *rest)), "dim")))
            else:
                lines.append(styled((first, "dim" if words_first else "bold"), gap, gap.join(rest)))
        lines.insert(len(above), styled(("─" * lines[0].cell_len, "dim")))
        return lines


def table(first: str | Column, *columns: str | Column, turned_below: int = 0) -> Table:
    """Return a table to fill by `add_row` and to `show`; `first` heads the labels of its rows.

    On a narrow terminal columns leave from the right, unless a Column says how much it weighs.
    """
    made = [Column(column) if isinstance(column, str) else column for column in (first, *columns)]
    return Table(*made, turned_below=turned_below)


def _console(file: TextIO) -> rich.console.Console:
    import rich.console  # noqa: PLC0415

    width = None if file.isatty() else Table.USUAL_WIDTH
    return rich.console.Console(file=file, width=width, highlight=False)


def terminal_width(file: TextIO | None = None) -> int:
    """Return how many columns stdout, or another file, has; 80 when it is no terminal."""
    file = file or sys.stdout
    return max(_console(file).width, 20) if file and not file.closed else Table.USUAL_WIDTH


def show(parts: Iterable[str | rich.text.Text | Table], file: TextIO | None = None) -> None:
    """Print lines and tables, as wide as the terminal; the one place that does."""
    file = file or sys.stdout
    if file is None or file.closed:
        return
    import rich.console  # noqa: PLC0415

    buffer, width = io.StringIO(), terminal_width(file)
    terminal = True if file.isatty() else None
    console = rich.console.Console(file=buffer, force_terminal=terminal, highlight=False)
    for part in parts:
        for line in part.lines(width) if isinstance(part, Table) else wrapped(part, width):
            console.print(line, markup=False, soft_wrap=True)
    write(buffer.getvalue(), file)


def write(text: str, file: TextIO) -> None:
    """Write a text to a standard stream; where its encoding lacks a sign, in ASCII.

    A reader that went away (`| head`), or a full disk that the output goes to, is no fault.
    """
    encoding = file.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("≤" + NARROW_SPACE, "<=").replace("≥" + NARROW_SPACE, ">=")
        text = text.replace("→", "->").replace("…", "...").translate(ASCII_SIGNS)
        text = text.encode(encoding, "replace").decode(encoding)
    try:
        file.write(text)
        file.flush()
    except OSError:
        with contextlib.suppress(OSError):  # or Python says at its exit that it cannot flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def open_standard_streams() -> None:
    """Open the standard streams that the caller closed (`>&-`), to nowhere.

    Else the run's first file would get the free number, and what is meant for stdout would go
    there.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def summary_lines(
    name: str,
    meta: Mapping[str, Any],
    aggregate: Mapping[str, Any],
    width: int,
    files: Mapping[str, object] | None = None,
) -> list[rich.text.Text]:
    """Return the lines that tell a person about a run, for a terminal of this width.

    `files` are the last lines, label and text: where the results are, what was used, what is next.
    """
    return Summary(name, meta, aggregate, width).lines(files or {})


class Summary:
    """Lays out what a terminal shows of a run: the answer first, then what it rests on."""

    KEY_WIDTH = 9
    TURNED_BELOW = 72
    IN_LEVELS = ("ttft_ms", "e2e_ms")
    METRICS: ClassVar = {
        "ttft_ms": ("TTFT", "TTFT: time to the first token."),
        "answer_ttft_ms": ("answer TTFT", "answer TTFT: to the first token after the reasoning."),
        "tpot_ms": ("TPOT", "TPOT: time for each further token."),
        "itl_ms": ("ITL", "ITL: gap between two chunks."),
        "e2e_ms": ("E2E", "E2E: time to the last token."),
        "queue_ms": ("queue", "queue: sent later than scheduled by."),
        "scheduled_ttft_ms": ("TTFT, scheduled", ""),
        "scheduled_e2e_ms": ("E2E, scheduled", "scheduled: from the time when it should be sent."),
    }
    LIMITS: ClassVar = {
        "ttft_ms": "first token",
        "tpot_ms": "each further one",
        "e2e_ms": "whole answer",
    }

    def __init__(
        self, name: str, meta: Mapping[str, Any], aggregate: Mapping[str, Any], width: int
    ) -> None:
        self.name, self.meta, self.aggregate, self.width = name, meta, aggregate, width
        self.stages: Sequence[Mapping[str, Any]] = aggregate["stages"]
        self.parts = self.stages or [aggregate]
        validity = meta["validity"]
        self.verdict: str = validity["verdict"]
        self.reasons: Sequence[Mapping[str, str]] = validity["reasons"]
        self.slo = {key: limit for key, limit in meta["config"]["slo"].items() if limit is not None}

    def failure(self) -> str | None:
        """Return the line that says why the run ends with exit code 1; None when it does not."""
        if self.verdict == "INVALID":
            meaning, reason = VERDICT_SIGNS[self.verdict][2], self.reasons[0]
            return f"{self.name} is INVALID, {meaning}: {reason['code']}: {reason['message']}"
        texts = [
            f"{check['metric']} {check['condition']}, "
            + ("not measured" if check["value"] is None else f"it is {check['value']:.6g}")
            for check in self.meta["thresholds"]
            if not check["met"]
        ]
        return f"{self.name} missed {'; '.join(texts)}" if texts else None

    def lines(self, files: Mapping[str, object]) -> list[rich.text.Text]:
        """Return the blocks, one below the other, with an empty line between them."""
        below = [] if self.verdict == "INVALID" else self._reasons()
        figures = [] if self.stages else self._figures()
        table_lines = self._table().lines(self.width) if self.aggregate["ok"] else []
        if self.verdict == "INVALID":
            for line in (*figures, *table_lines):
                line.stylize("dim")
        blocks = [
            self._top(),
            figures,
            self._machine(),
            table_lines,
            wrapped(styled((self._legend(table_lines), "dim")), self.width),
            [*self._failures(), *below],
            self._thresholds(),
            [
                line
                for label, text in files.items()
                for line in self._keyed(label, printable(text, 4000), whole=True)
            ],
        ]
        lines: list[rich.text.Text] = []
        for block in blocks:
            if any(line.plain for line in block):
                lines += [styled(""), *block] if lines else block
        return lines

    def _keyed(
        self, key: str, text: str, style: str = "dim", *, whole: bool = False
    ) -> list[rich.text.Text]:
        """Return a label and its text, broken into lines unless it is to stay `whole`."""
        line = styled((key.ljust(self.KEY_WIDTH), style), text)
        line.no_wrap = whole
        return wrapped(line, self.width, hang=self.KEY_WIDTH)

    # What comes first

    def _top(self) -> list[rich.text.Text]:
        """Return name and verdict, the sentence, what was run; above it why not to use the run."""
        sign, style, meaning = VERDICT_SIGNS[self.verdict]
        if self.verdict == "SUSPECT":
            caveats = len(self.reasons)
            meaning += f", {caveats} caveat{'s' if caveats > 1 else ''}"
        name = styled((printable(self.name), "bold"))
        verdict = styled((f"{sign} {self.verdict}: {meaning}", style))
        room = self.width - name.cell_len - verdict.cell_len
        first = [name, verdict] if room < 2 else [styled(name, " " * room, verdict)]
        return [
            *first,
            *(self._reasons() if self.verdict == "INVALID" else ()),
            *wrapped(styled((headline(self.meta, self.aggregate), "bold")), self.width),
            *wrapped(self._what_was_run(), self.width),
        ]

    def _what_was_run(self) -> rich.text.Text:
        meta, config = self.meta, self.meta["config"]
        server = printable(meta["server"], 100)
        if meta["embedded"]:
            server += f" {printable(meta['embedded'].get('engine', ''), 60)}"
        asked = meta.get("questions_asked", meta["questions"])
        what = f"{asked:,} questions" if isinstance(asked, int) else f"{asked} questions"
        if config["duration"] is not None:
            what = f"{config['duration']:g}{NARROW_SPACE}s"
        pieces = [
            f"{printable(meta['model'], 100)} on {server}",
            config["api"] + (", streaming" if config["stream"] else ""),
            what + (" a level" if self.stages else ""),
        ]
        if config["rate"] is not None:
            pieces.append(f"{config['rate']:g} requests/s ({config['arrival']})")
        if not self.stages:
            most = " at most" if config["rate"] is not None else ""
            pieces.append(f"{meta['concurrent']} at once{most}")
        pieces.append(format_ms(meta["total_duration_ms"]))
        if meta["status"] != "complete":
            pieces.append("interrupted")
        text = styled((SEPARATOR.join(pieces), "dim"))
        if meta["tls_verified"] is False:
            text = styled(text, (SEPARATOR, "dim"), ("TLS not verified", "bold red"))
        return text

    # One level

    def _figures(self) -> list[rich.text.Text]:
        """Return what a run at one level has beside its latencies: counts, speed, quality."""
        aggregate = self.aggregate
        lines: list[rich.text.Text] = []
        counts = [f"{aggregate['ok']:,} ok", f"{aggregate['failed']:,} failed"]
        if aggregate["cancelled"]:
            counts.append(f"{aggregate['cancelled']:,} cancelled")
        if aggregate["good"] is not None:
            counts.append(f"{self._within_limits(aggregate)} within limits")
        if aggregate["reconnects"]:
            counts.append(f"{aggregate['reconnects']:,} reconnects")
        lines += self._keyed("answers", SEPARATOR.join(counts))
        if aggregate["ok"]:
            lines += self._keyed("speed", self._speed())
        if aggregate["quality"]["graded"] or aggregate["quality"]["ungraded"]:
            lines += self._keyed("quality", self._quality())
        return lines

    def _machine(self) -> list[rich.text.Text]:
        """Return what ran where, and what it cost: a line each, where that is known."""
        machine, info = self.meta.get("hardware") or {}, self.meta.get("server_info") or {}
        cores, memory = machine.get("cores_usable"), machine.get("memory_usable_bytes")
        place = [machine.get("cpu"), cores and f"{cores:g} cores"]
        place.append(memory and f"{format_number(memory / (1 << 30))} GiB")
        place += [gpu["name"] for gpu in machine.get("gpus", ())]
        server = [info.get("engine"), info.get("version"), info.get("quantization")]
        server.append(info.get("slots") and f"{info['slots']:,} slots")
        here = "" if machine.get("host") == "client and server" else "asked from "
        pieces = [" ".join(filter(None, server[:2])), *server[2:]]
        parts = [", ".join(filter(None, pieces)), here + ", ".join(filter(None, place))]
        ran = " · ".join(part for part in parts if part not in ("", here))
        lines = self._keyed("machine", printable(ran, 300)) if ran else []
        cost = self._cost()
        return lines + (self._keyed("energy", cost) if cost else [])

    def _cost(self) -> str:
        """Return what the first of the power sources that is known says."""
        energy = self.aggregate.get("energy") or {}
        names = {"wall": "wall", "gpu": "GPU", "cpu_package": "CPU package"}
        name = next((name for name in names if energy.get(name, {}).get("wh") is not None), None)
        if name is None:
            return ""
        source = energy[name]
        pieces = [f"{names[name]} {format_number(source['mean_w'])}{NARROW_SPACE}W"]
        if source["idle_w"] is not None:
            pieces[0] += f" (idle {format_number(source['idle_w'])})"
        if source["j_per_token"] is not None:
            pieces.append(f"{format_number(source['j_per_token'])}{NARROW_SPACE}J a token")
        for key, what in (("correct", "correct answers"), ("answers", "answers")):
            if (wh := source[f"wh_per_1000_{key}"]) is not None:
                price = source[f"price_per_1000_{key}"]
                costs = "" if price is None else f" ({format_number(price)})"
                unit = f"{NARROW_SPACE}Wh{costs} per 1,000 {what}"
                return " · ".join([*pieces, format_number(wh) + unit])
        return " · ".join(pieces)

    def _speed(self) -> str:
        aggregate = self.aggregate
        about = "about " if "tokens_estimated" in {r["code"] for r in self.reasons} else ""
        pieces = [f"{about}{format_number(total_speed(aggregate))} tokens/s in all"]
        one_user = one_user_speed(aggregate)
        if one_user is not None:
            pieces[0] += f", {format_number(one_user)} for one user"
        answers = aggregate["steady"]["requests_per_s"] or aggregate["requests_per_s"]
        pieces.append(f"{format_number(answers)} requests/s")
        if aggregate["token_sum"] is not None:
            each = format_number(aggregate["token_avg"])
            pieces.append(f"{aggregate['token_sum']:,} tokens, {each} an answer")
        gross, steady = aggregate["tokens_per_s"], aggregate["steady"]["tokens_per_s"]
        if gross and steady and abs(gross - steady) > 0.05 * steady:
            said = f"{format_number(gross)} tokens/s with beginning and end"
            pieces.append(f"{said}, when slots were empty")
        return SEPARATOR.join(pieces)

    def _quality(self) -> str:
        quality, pieces = self.aggregate["quality"], list[str]()
        answers, under_load = quality["of_answers"], quality["under_load"]
        if answers["n"]:
            right = format_share(answers["correct_share"])
            interval = format_share(*answers["correct_ci95"])
            pieces.append(f"{right} of {answers['n']:,} graded answers right ({interval})")
        if under_load["n"] != answers["n"]:
            right = format_share(under_load["correct_share"])
            pieces.append(f"{right} when failures count as wrong")
        if quality["ungraded"]:
            pieces.append(f"{quality['ungraded']:,} not graded, see grade_reason")
        if quality["tokens_per_correct"] is not None:
            pieces.append(f"{format_number(quality['tokens_per_correct'])} tokens a right one")
        return SEPARATOR.join(pieces)

    def _within_limits(self, part: Mapping[str, Any]) -> str:
        """Return how many requests met every limit: up to 100 a count, above a share."""
        if part["good"] is None:
            return NOT_MEASURED
        asked = part["ok"] + part["failed"]
        if not asked:
            return NOT_MEASURED
        if asked <= 100:
            return f"{part['good']}/{asked}"
        return format_share(part["good"] / asked)

    # The table

    def _table(self) -> Table:
        return self._levels() if self.stages else self._latencies()

    def _levels(self) -> Table:
        """Return the levels of a sweep side by side; light columns are for wide terminals."""

        def column(
            header: str, weight: int, cell: Callable[[Mapping[str, Any]], Cell], label: str = ""
        ) -> tuple[Column, list[Cell]]:
            return Column(header, weight, label), [cell(stage) for stage in self.stages]

        lowest = min(stage["concurrent"] for stage in self.stages)
        percent = f"95{NARROW_SPACE}%"
        columns = [
            column("at\nonce", 100, lambda stage: str(stage["concurrent"]), "requests at once"),
            column("ok", 40, lambda stage: f"{stage['ok']:,}"),
            column("failed", 80, lambda stage: f"{stage['failed']:,}"),
            column("tokens/s\ntotal", 90, self._total, "tokens/s, total"),
            column("tokens/s\none user", 85, self._one_user, "tokens/s, one user"),
            column("TTFT\np50", 60, self._time("ttft_ms", "p50"), "TTFT p50"),
            column("TTFT\np95", 15, self._time("ttft_ms", "p95")),
            column("E2E\np50", 30, self._time("e2e_ms", "p50"), "E2E p50"),
            column("E2E\np95", 10, self._time("e2e_ms", "p95")),
            column("within\nlimits", 50, self._within_limits),
            column(
                f"right answers\n{percent} interval",
                70,
                self._right,
                f"right answers\n  {percent} interval",
            ),
            column(f"answered\nunlike at {lowest}", 5, self._unlike),
        ]
        shown = [part for part in columns if any(cell != NOT_MEASURED for cell in part[1])]
        levels = table(*(column for column, _ in shown), turned_below=self.TURNED_BELOW)
        for row in zip(*(cells for _, cells in shown), strict=True):
            levels.add_row(*row)
        return levels

    @staticmethod
    def _total(stage: Mapping[str, Any]) -> str:
        return format_number(total_speed(stage))

    @staticmethod
    def _one_user(stage: Mapping[str, Any]) -> str:
        return format_number(one_user_speed(stage))

    @staticmethod
    def _right(stage: Mapping[str, Any]) -> Cell:
        """Return the share of right answers, a failed request counting as a wrong one."""
        quality, under_load = stage["quality"], stage["quality"]["under_load"]
        if not under_load["n"] or (quality["ungraded"] and not quality["graded"]):
            return NOT_MEASURED
        interval = format_share(*under_load["correct_ci95"])
        return format_share(under_load["correct_share"]), interval.removesuffix(f"{NARROW_SPACE}%")

    @staticmethod
    def _unlike(stage: Mapping[str, Any]) -> Cell:
        """Return how many answers differ from those at the lowest level, beyond what do anyway."""
        stability = stage["quality"]["stability"]
        if stability is None or not stability["n"]:
            return NOT_MEASURED
        if stability["beyond"] is None:
            return format_share(stability["avg"])
        interval = format_share(*stability["beyond_ci95"])
        return format_share(stability["beyond"]), interval.removesuffix(f"{NARROW_SPACE}%")

    @staticmethod
    def _time(metric: str, name: str) -> Callable[[Mapping[str, Any]], str]:
        """Return what formats a percentile: in brackets when too few answers support it."""

        def cell(part: Mapping[str, Any]) -> str:
            values = part[metric]
            text = format_ms(values[name])
            return f"({text})" if values["n"] and None in values["ci95"][name] else text

        return cell

    def _latencies(self) -> Table:
        """Return the latencies of one level: a row a metric, the median with its interval."""
        latencies = table(
            "",
            Column(f"p50 (95{NARROW_SPACE}% interval)", 90),
            Column("p90", 50),
            Column("p95", 70),
            Column("p99", 60),
            Column("max", 40),
            Column("avg", 30),
        )
        for metric in self._measured():
            row = self.aggregate[metric]
            interval = row["ci95"]["p50"]
            p50 = self._time(metric, "p50")(self.aggregate)
            shown = "" if None in interval else format_interval(interval)
            shown = shown.removesuffix(NARROW_SPACE + p50.rpartition(NARROW_SPACE)[2])
            high = (self._time(metric, name)(self.aggregate) for name in ("p90", "p95", "p99"))
            ends = (format_ms(row["max"]), format_ms(row["avg"]))
            latencies.add_row(self.METRICS[metric][0], (p50, shown), *high, *ends)
        late = self.aggregate["e2e_with_failures_ms"]
        if late["failures"]:
            cells = [
                ("≥" + NARROW_SPACE if name in late["lower_bounds"] else "") + format_ms(late[name])
                for name in PERCENTILES
            ]
            latencies.add_row("E2E + failures", *cells, "", "")
        return latencies

    def _measured(self) -> list[str]:
        """Return the metrics that were measured; the answer's own TTFT only where it differs."""
        shown = [metric for metric in self.METRICS if any(part[metric]["n"] for part in self.parts)]
        same = all(
            part["answer_ttft_ms"]["p50"] == part["ttft_ms"]["p50"] or not part["ttft_ms"]["n"]
            for part in self.parts
        )
        return [metric for metric in shown if metric != "answer_ttft_ms" or not same]

    def _legend(self, table_lines: Sequence[rich.text.Text]) -> str:
        """Say what the table's words mean, what its brackets mean, and what was not measured."""
        if not table_lines:
            return ""
        measured = self._measured()
        shown = [metric for metric in measured if not self.stages or metric in self.IN_LEVELS]
        sentences = [self.METRICS[metric][1] for metric in shown]
        errors = [part["client_error_ms"]["p95"] for part in self.parts]
        if "ttft_ms" in shown and None not in errors:
            off = format_ms(max(0.1, *errors))
            ttft = f"TTFT: time to the first token, ±{NARROW_SPACE}{off} (client)."
            sentences[shown.index("ttft_ms")] = ttft
        each = self.aggregate["tokens_per_chunk"]
        if "itl_ms" in shown and each is not None and not 2 / 3 <= each <= 3 / 2:
            sentences.append(f"A chunk holds {format_number(each)} tokens.")
        sentences.append("p50: half are faster.")
        if self.slo:
            limits = [
                f"{what} ≤{NARROW_SPACE}{format_limit(self.slo[key])}"
                for key, what in self.LIMITS.items()
                if key in self.slo
            ]
            if "quality" in self.slo:
                limits.append(f"quality ≥{NARROW_SPACE}{self.slo['quality']:g}")
            sentences.append(f"Limits: {', '.join(limits)}.")
        if not any(part["ttft_ms"]["n"] for part in self.parts):
            sentences.append("TTFT was not measured: that needs stream.")
        text = " ".join(line.plain for line in table_lines)
        sentences.append(self._needs_more([name for name in PERCENTILES if name in text]))
        return " ".join(filter(None, sentences))

    def _needs_more(self, shown: Sequence[str]) -> str:
        """Say what the brackets mean, and how many more answers each percentile needs about."""
        fewest = min((part for part in self.parts if part["ok"]), key=lambda part: part["ok"])
        missing = {name: requests_missing(fewest["e2e_ms"], name) for name in shown}
        needs = [f"{name} needs about {more:,}" for name, more in missing.items() if more]
        if not needs:
            return ""
        where = " more a level." if self.stages else " more."
        why = "too few answers for an interval; "
        if (fewest["e2e_ms"]["n_eff"]["p50"] or 0) < fewest["ok"] / 2:
            why = "answers depend on each other; for an interval run longer or at a lower load: "
        return f"In brackets: {why}" + ", ".join(needs) + where

    # What the numbers rest on

    def _failures(self) -> list[rich.text.Text]:
        """Return what the server said of each kind of failure, once."""
        lines: list[rich.text.Text] = []
        for reason in self.aggregate["failure_reasons"]:
            said = failure_text(reason["kind"], reason["http_status"], reason["message"])
            lines += self._keyed("failed", f"{reason['times']:,} × {printable(said, 300)}")
        return lines

    def _reasons(self) -> list[rich.text.Text]:
        sign, style, _ = VERDICT_SIGNS[self.verdict]
        lines: list[rich.text.Text] = []
        for reason in self.reasons:
            code, message = printable(reason["code"]), printable(reason["message"])
            message = re.sub(r"(?<=\d) ?(?=%|m?s\b)", NARROW_SPACE, message)
            remark = styled((f"{sign} {code}", style), f"  {message}")
            lines += wrapped(remark, self.width, hang=2)
        return lines

    def _thresholds(self) -> list[rich.text.Text]:
        lines: list[rich.text.Text] = []
        for check in self.meta["thresholds"]:
            value = NOT_MEASURED if check["value"] is None else f"{check['value']:.6g}"
            text = f"{printable(check['metric'])} {printable(check['condition'])}: {value}"
            verdict, style = ("met", "green") if check["met"] else ("missed", "bold red")
            lines += self._keyed(verdict, text, style)
        return lines


def program() -> str:
    """Return how this program is started from here, for a command that a person can copy."""
    script = Path(__file__).resolve()
    here = Path.cwd()
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    return f"python3 {shlex.quote(str(shown))}"


def run_argument(name: str) -> str:
    """Return a run's name as the command line wants it: one that is a tool's, or ends in .json."""
    name = f"{name}.json" if name.endswith(".json") else name
    return f"./{name}" if name in TOOLS else name


class Progress:
    """Shows on stderr how far the load is: a bar, or without a terminal a line now and then."""

    PLAIN_S = 10.0
    TERMINAL_S = 0.25

    def __init__(self, total: int | None, levels: Sequence[int] = ()) -> None:
        self.total, self.levels = total, levels
        self.ok = self.failed = self.tokens = self.stage = 0
        self.start_ns = clock()

    def add(self, result: Result) -> None:
        """Count a result."""
        self.stage = max(self.stage, result.stage)
        if result.ok:
            self.ok += 1
            self.tokens += result.token or 0
        elif result.status != "cancelled":
            self.failed += 1

    @contextlib.asynccontextmanager
    async def shown(self, *, quiet: bool, view: Companion | None = None) -> AsyncIterator[None]:
        """Show it while the block runs; with a `view` of its own only if that ends too early."""
        if quiet or sys.stderr is None:
            yield
            return
        import rich.progress  # noqa: F401, PLC0415  here, because it takes a while: not in the measured window

        self.start_ns = clock()
        ticker = asyncio.create_task(self._show(view))
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.wait((ticker,))

    @staticmethod
    def has_terminal() -> bool:
        """Whether there is a terminal that can do more than lines."""
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    async def _show(self, view: Companion | None) -> None:
        if view is not None:
            await view.ended()
            view.end()
            notice("the live view has ended; the run goes on")
        await (self._show_bar() if self.has_terminal() else self._show_lines())

    @property
    def speed(self) -> float:
        """Output tokens of finished answers per second so far."""
        return self.tokens / max((clock() - self.start_ns) / NS_PER_S, 1e-9)

    @property
    def level(self) -> str:
        """Which level of a sweep is asked; empty unless it is one."""
        if len(self.levels) < 2:
            return ""
        return f"{self.levels[min(self.stage, len(self.levels) - 1)]} at once  "

    async def _show_lines(self) -> None:
        while True:
            await asyncio.sleep(self.PLAIN_S)
            of = "" if self.total is None else f" of {self.total:,}"
            counts = f"{self.ok + self.failed:,}{of} answered, {self.failed:,} failed"
            speed = f"{format_number(self.speed)} tokens/s"
            with contextlib.suppress(OSError):
                sys.stderr.write(f"{self.level}{counts}, {speed}\n")

    async def _show_bar(self) -> None:
        import rich.progress  # noqa: PLC0415
        import rich.theme  # noqa: PLC0415

        wide = terminal_width(sys.stderr) >= 100
        columns: list[rich.progress.ProgressColumn] = [
            rich.progress.BarColumn(30 if wide else 10, complete_style="", finished_style=""),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.TimeRemainingColumn(),
        ]
        if wide:
            elapsed = [rich.progress.TimeElapsedColumn(), rich.progress.TextColumn("[dim]left[/]")]
            columns[3:3] = elapsed
        console = _console(sys.stderr)
        names = ("download", "remaining", "elapsed")
        console.push_theme(rich.theme.Theme({f"progress.{name}": "none" for name in names}))
        # Drawn from here: the library's own thread would compete with the loop for the interpreter.
        with rich.progress.Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=self.total)
            while True:
                style = "bold red" if self.failed else "dim"
                failed = f"[{style}]{self.failed:,} failed[/]"
                speed = f"{format_number(self.speed)} tokens/s"
                done_count = self.ok + self.failed
                bar.update(task, completed=done_count, description=f"{self.level}{failed}  {speed}")
                bar.refresh()
                await asyncio.sleep(self.TERMINAL_S)


# === Command line ===


class Tool(NamedTuple):
    """A subcommand: one file in extensions/."""

    help: str
    group: str | None = None  # the dependency group that it needs
    module: str = ""  # its file in extensions/
    function: str = "main"  # what runs it: takes the arguments, returns the exit code


TOOLS = {
    "verify": Tool("recompute every number of a results file from its records", None, "verify"),
    "grade": Tool(
        "grade a results file anew, without asking the model again", "quality", "quality"
    ),
    "compare": Tool(
        "say which run is better, and whether the difference is real", "analysis", "compare"
    ),
    "ab": Tool("run two configurations in turn, and compare", "analysis", "compare", "main_ab"),
    "history": Tool(
        "the dated runs of one name, and since when they differ", "analysis", "history"
    ),
    "list": Tool("the runs of a folder in one table", "analysis", "history", "main_list"),
    "live": Tool("a run in progress, full screen in the terminal", None, "live"),
    "report": Tool("one HTML page of a run or several; PNG, SVG, PDF, a card", "report", "report"),
    "export": Tool(
        "one row a request: CSV, Excel, Parquet, JSON Lines, Markdown", "export", "export"
    ),
    "dashboard": Tool(
        "a web page of the run in progress, and of all finished ones", "dashboard", "dashboard"
    ),
}


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
        raise MissingPackageError(name, error.name, group) from None


def fetch_group(error: MissingPackageError) -> int | None:
    """Fetch a missing group and start again, when `uv run` started this program; else return None.

    Once for each group, which the environment remembers. The new process has this one's standard
    streams and signals; on Windows, which has no exec, its exit code is returned.
    """
    uv, group = os.environ.get("UV"), error.group
    tried = os.environ.get("LLM_STRESSTEST_GROUPS", "").split()
    if uv is None or group is None or group in tried or __name__ != "__main__":
        return None
    notice(f"{error.tool} needs {error.package}: fetching the group {group}")
    project = ["--project", str(HERE)]
    sync = [uv, "sync", "--quiet", "--inexact", *project, "--only-group", group]
    fetched = subprocess.run(sync, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    if fetched.returncode:  # offline
        logger.warning("%s", logfmt(uv=fetched.stderr.decode(errors="replace")))
        return None
    os.environ["LLM_STRESSTEST_GROUPS"] = " ".join((*tried, group))
    command = [uv, "run", *project, "--group", group, "python", *sys.orig_argv[1:]]
    if os.name != "nt":
        os.execv(uv, command)  # noqa: S606
    return subprocess.call(command)  # noqa: S603


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and which prints as `show` does."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what is wrong, and a way out."""
        raise ConfigError(f"{message}; {self.prog} --help shows what there is")

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message, file or sys.stderr)


class RunParser(Parser):
    """The parser of a run's command line, which knows the keys of config.json."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an option that is a key of config.json, with the `--set` that was meant."""
        arguments = list(sys.argv[1:] if args is None else args)
        for place, argument in enumerate(arguments):
            name, _, value = argument.partition("=")
            key = name.removeprefix("--").replace("-", "_")
            if not name.startswith("--") or name in self._option_string_actions:
                continue
            key = Config.SYNONYMS.get(key, key)
            if key.partition(".")[0] in Config.model_fields:
                value = _without_password(value or next(iter(arguments[place + 1 :]), "VALUE"))
                if key.endswith("api_key_env"):  # where people put the key itself
                    value = "NAME"
                if key.startswith(("headers", "extra_body", "hardware.power_command")):
                    value = "VALUE"  # people put it there as well
                meant = shlex.quote(f"{key}={value}")
                raise ConfigError(f"{name}: is a key of config.json, no option: --set {meant}")
            near = difflib.get_close_matches(name, self._option_string_actions, 1)
            if near and not any(known.startswith(name) for known in self._option_string_actions):
                raise ConfigError(f"{name}: no such option; did you mean {near[0]}?")
        return super().parse_known_args(arguments, namespace)


def build_parser() -> RunParser:
    """Return the parser of a run's command line."""
    tools = "\n".join(f"  {name:<10} {tool.help}" for name, tool in TOOLS.items())
    parser = RunParser(
        prog="llm_stresstest.py",
        description="Ask an OpenAI-compatible server many questions at once;\n"
        "see how fast and how well it answers.",
        epilog=f"tools (llm_stresstest.py TOOL --help):\n{tools}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("output_filename", help="name of the run; its results go to results/NAME.json")
    where = "else config.json in the current directory, else beside the script"
    option("-c", "--config", type=Path, metavar="FILE", help=where)
    where = "questions.json; looked for likewise"
    option("-q", "--questions", type=Path, metavar="FILE", help=where)
    where = "where results go; else results/ beside the config"
    option("--results-dir", type=Path, metavar="DIR", help=where)
    where = "where logs go; else logs/ beside the config"
    option("--log-dir", type=Path, metavar="DIR", help=where)
    meaning = "override a key of config.json"
    option("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)
    flags = {
        "--resume": "go on with a run that was stopped or killed",
        "--wait": "wait while another run of yours measures the same server",
        "--overwrite": "replace a results file of the same name",
        "--live": "show it full screen in the terminal while it runs",
        "--dashboard": "show it in a web page while it runs, and say the address",
        "--dry-run": "check the files, show what would be run, ask nothing",
        "--allow-code": "let the grader `code` run what the model wrote, confined",
        "--quiet": "no progress and no summary; only errors, and why the exit code is 1",
    }
    for name, meaning in flags.items():
        option(name, action="store_true", help=meaning)
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    meaning = f"{', '.join(levels)}; default INFO"
    option(
        "--log-level", type=str.upper, choices=levels, default="INFO", metavar="LEVEL", help=meaning
    )
    weak = "the same where the system cannot confine it well"
    option("--allow-code=weak", dest="allow_code", action="store_const", const="weak", help=weak)
    option("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is asked for; the command line's options have the same names."""

    output_filename: str
    config: Path | None = None
    questions: Path | None = None
    results_dir: Path | None = None
    log_dir: Path | None = None
    set: Sequence[str] = ()  # KEY=VALUE each
    resume: bool = False
    wait: bool = False
    overwrite: bool = False
    live: bool = False
    dashboard: bool = False
    dry_run: bool = False
    allow_code: bool | str = False  # "weak": also where the system confines little
    quiet: bool = False
    log_level: str = "INFO"


class RunFiles:
    """Where a run's files are: config and questions, journal, results and log."""

    def __init__(self, options: Options) -> None:
        self.config = find_file(options.config, "config.json")
        self.questions = find_file(options.questions, "questions.json")
        self.name = check_name(options.output_filename)
        beside = self.config.resolve().parent
        self.folder = options.results_dir or beside / "results"
        self.logs = options.log_dir or beside / "logs"
        self.moment = dt.datetime.now().astimezone()  # the time stamp of results and log
        self.resume = options.resume
        self._overwrite = options.overwrite
        if self.results.is_symlink() or self.journal.is_symlink():
            raise ConfigError(f"{self.results}: a symbolic link is in the way; remove it")
        if self.resume and not self.journal.exists() and not self.nothing_left:
            missing = "no run to go on with: there is no such file"
            raise ConfigError(f"{self.journal}: {missing}")

    @property
    def results(self) -> Path:
        """Where the results go."""
        return self.folder / f"{self.name}.json"

    @property
    def journal(self) -> Path:
        """Where the journal is."""
        return self.folder / f"{self.name}.journal"

    @property
    def nothing_left(self) -> bool:
        """Whether the run to resume has ended, and its results are saved."""
        return self.resume and self.results.is_file() and not self.journal.exists()

    def is_over(self) -> bool:
        """Whether the load of the run to resume has ended: then no question is asked any more."""
        return self.resume and JournalReader(self.journal).is_over

    def config_before(self) -> Mapping[str, Any] | None:
        """Return the config of the run to resume, as its journal has it; None without --resume."""
        if not self.resume:
            return None
        try:
            with self.journal.open("rb") as file:
                first = JournalLine.from_bytes(file.readline())
        except OSError as error:
            raise ConfigError(f"{self.journal}: cannot be read: {error.strerror}") from None
        if first is None or first.kind != "header":
            return None  # opening it says what is wrong
        return cast(Mapping[str, Any], first.read()["config"])

    def may_replace(self, run_id: str) -> bool:
        """Whether results of this name may be replaced: it was allowed, or they are of this run."""
        if self._overwrite or not self.resume:
            return self._overwrite
        try:
            with self.results.open("rb") as file:
                return f'"run_id": "{run_id}"'.encode() in file.read(65536)
        except OSError:
            return False

    def open_journal(self, header: Mapping[str, Any]) -> tuple[Journal, JournalReader | None]:
        """Start the run's journal, or go on with it. Raises ConfigError, ResultsError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be made: {error.strerror}") from None
        if not self.resume:
            return self._new_journal(header), None
        journal, reader = Journal.reopen(self.journal)
        self._check_same_run(reader, header)
        return journal, reader

    def _new_journal(self, header: Mapping[str, Any]) -> Journal:
        """Start a journal under the first name that neither it nor a results file has."""
        wanted = self.name
        for candidate in possible_names(self.results, self.moment):
            path = candidate.with_name(candidate.name.removesuffix(".json") + ".journal")
            # Only the name that was given may be replaced.
            self._overwrite = self._overwrite and candidate == self.results
            if path.exists() and not self._make_room(path):
                continue
            if os.path.lexists(candidate) and not self._overwrite:
                continue
            with contextlib.suppress(FileExistsError):
                journal = Journal.create(path)
                self.name = candidate.name.removesuffix(".json")
                if self.name != wanted:
                    notice(f"{wanted} is taken; this run is {self.name}")
                journal.begin(header)
                return journal
        raise AssertionError("unreachable")

    def _make_room(self, path: Path) -> bool:
        """Get the journal of an earlier run out of the way; else say why it stays."""
        try:
            lock = FileLock(path)
        except FileNotFoundError:  # its run has just ended
            return True
        except OSError as error:
            notice(f"{path} cannot be opened: {error.strerror}")
            return False
        with lock:
            if not lock.held:
                notice(f"{path} is of a run in progress")
                return False
            if not lock.is_in_place:  # its run ended while it was locked
                return True
            if not self._overwrite:
                notice(f"{path} holds an unfinished run: go on with it by --resume, or delete it")
                return False
            if len(JournalReader(path)) == 0:  # nobody misses it
                lock.remove()
                return True
            names = possible_names(path, self.moment)
            kept = next(name for name in names if give_name(path, name))
            notice(f"{path} held an unfinished run; go on with it by {kept.stem} --resume")
        return True

    def _check_same_run(self, reader: JournalReader, header: Mapping[str, Any]) -> None:
        """Refuse to mix two runs. Raises ConfigError."""
        before = cast(dict[str, Any], reader.header)
        if reader.damage is not None:
            notice(f"{reader.path}: {reader.damage}; {len(reader)} answers are kept")
        if before["schema_version"] != SCHEMA_VERSION:
            version = f"is of schema_version {before['schema_version']}"
            raise ConfigError(f"{reader.path}: {version}; it cannot be gone on with")
        if before["questions_sha256"] != header["questions_sha256"]:
            remedy = "give the same ones, or choose another name"
            raise ConfigError(f"{reader.path}: was run with other questions; {remedy}")


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
            f"concurrent: {connections} needs {wanted} open files, {hard} are allowed; "
            "raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.asynccontextmanager
async def serving(config: Config, target: Target) -> AsyncIterator[Target]:
    """Yield the target; an embedded one with the address of a server that ends with the block."""
    if config.server != "embedded":
        yield target
        return
    embedded = import_extension("embedded", "embedded")
    async with contextlib.AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(embedded.serve(slots=max(config.levels)))
        except ModuleNotFoundError as error:
            raise MissingPackageError("embedded", error.name, "embedded") from None
        except (OSError, RuntimeError) as error:
            raise ServerUnreachableError(f"embedded: {error}") from error
        described = {"embedded": server.description, "server_pid": server.pid}
        yield dataclasses.replace(target, base=server.url, **described)


class RawAnswers:
    """Answers as they came, where a secret was taken out of them: in memory until they are graded.

    A run that is killed before that grades what its journal has, which is without the secret.
    """

    MOST_CHARS = 1 << 26  # a hostile server may put the key into each answer

    def __init__(self) -> None:
        self._answers: dict[tuple[int, int], str] = {}  # by index and turn
        self._chars = 0

    def keep(self, result: Result) -> None:
        """Keep an answer that is to be graded, if something was taken out of it."""
        if result.raw_answer is None or result.grader is None or not result.ok:
            return
        self._chars += len(result.raw_answer)
        if self._chars <= self.MOST_CHARS:
            self._answers[result.index, result.turn] = result.raw_answer
        else:
            lost = "the server puts a key into many answers; this one is graded without it"
            logger.warning("%s: index %d", lost, result.index)

    def give_back(self, result: Result) -> Result:
        """Return the result of a journal with its answer as it came; forget that."""
        result.raw_answer = self._answers.pop((result.index, result.turn), None)
        return result


@dataclasses.dataclass(frozen=True)
class Grading:
    """How the answers are graded after the load: by extensions/quality.py, or not at all."""

    quality: ModuleType | None
    questions: Mapping[str, Question]
    config: Config
    allow_code: bool | str
    hints: Sequence[str] = ()  # what will stay ungraded, and why
    raw: RawAnswers = dataclasses.field(default_factory=RawAnswers)

    @classmethod
    def of(
        cls, path: Path, questions: Sequence[Question], config: Config, *, allow_code: bool | str
    ) -> Self:
        """Check the catalogue's graders. Raises QuestionsError, ConfigError, one line."""
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
                    f"{path}: question {printable(json.dumps(wrong[0].id), 80)}: {wrong[1]}"
                )
        hints = () if quality is None else quality.check_run(config, graded, allow_code)
        return cls(quality, catalogue, config, allow_code, hints)

    async def test_judge(self) -> None:
        """Ask the judge one thing, where there is one. Raises ServerUnreachableError."""
        if self.quality is not None:
            await self.quality.test_judge(self.config, self.questions.values())

    async def grade(
        self, journal: Journal, log: RunLog, stop_signal: StopSignal, redact: Redactor
    ) -> None:
        """Grade the answers of the journal, and write each grade to it. Raises ResultsError."""
        if self.quality is None:
            return
        graders = self.quality.Graders(
            self.config,
            allow_code=self.allow_code,
            hurry=lambda: stop_signal.signum is not None,
            redact=redact,
        )
        read = (result for result in journal.read() if result.grade_reason is None)
        ungraded = map(self.raw.give_back, read)
        async with graders:
            async for result, score, reason in graders.grade_results(self.questions, ungraded):
                log.grade(result, score, reason)
                grade = {
                    "index": result.index,
                    "turn": result.turn,
                    "score": score,
                    "reason": reason,
                }
                journal.append("grade", grade)


class Unwatched:
    """Stands in for extensions/hardware.py where that, or one of its packages, is missing."""

    server_info: Mapping[str, Any] | None = None
    samples: Mapping[str, Any] | None = None
    energy = None

    def __init__(self, why: str) -> None:
        self.why = why

    async def prepare(self, target: Target, *, wait: bool, say: Callable[[str], None]) -> None:
        """Know of no other run."""

    async def start(self) -> None:
        """Ask nothing."""

    def begin(self, start_ns: int, record: Callable[[dict[str, Any]], None]) -> None:
        """Record nothing."""

    async def stop(self) -> None:
        """Have nothing to end."""

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Make nothing of an earlier part's samples."""

    def facts(self, _aggregate: Mapping[str, Any]) -> dict[str, Any]:
        """Say why nothing is known."""
        return {"unavailable": self.why}


class Companion:
    """A tool beside a run, in a process of its own, which follows the run's journal.

    What becomes of it never changes the run. A pipe to its stdin ends with this process, however
    that ends.
    """

    READY_S = 30.0  # fetching its packages included
    END_S = 2.0
    # Leaves the alternate screen, shows the cursor: for one that could not do so itself.
    RESTORE = b"\x1b[?1049l\x1b[?25h"

    def __init__(self, tool: str, *arguments: str, on_terminal: bool = False) -> None:
        self._tool, self._on_terminal = tool, on_terminal
        command = [sys.executable, str(Path(__file__).resolve()), tool, *arguments]
        self._said: deque[str] = deque()
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if on_terminal else subprocess.STDOUT,
            start_new_session=not on_terminal,  # Ctrl-C is for the run
        )
        self._reader = threading.Thread(target=self._read, name=tool, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in cast(BinaryIO, self._process.stdout):
            self._said.append(line.decode(errors="replace").strip())

    @classmethod
    async def beside(cls, tool: str, *arguments: str, on_terminal: bool = False) -> Self | None:
        """Start a tool and wait until it is ready, so that its start disturbs no measurement.

        What it says by then is shown. None when it cannot run.
        """
        if tool not in TOOLS or not (HERE / "extensions" / f"{TOOLS[tool].module}.py").is_file():
            notice(f"--{tool} needs extensions/{tool}.py; the run goes on without it")
            return None
        try:
            made = cls(tool, *arguments, on_terminal=on_terminal)
        except OSError as error:
            notice(f"--{tool}: cannot be started: {error.strerror}; the run goes on without it")
            return None
        try:
            ready = await made._is_ready()
        except BaseException:
            made.end()
            raise
        if not ready:
            made.end()
            notice(f"--{tool}: the run goes on without it")
            return None
        return made

    async def _is_ready(self) -> bool:
        """Wait for the line that says so: an address, or its own name."""
        until_ns = clock() + round(self.READY_S * NS_PER_S)
        while clock() < until_ns:
            alive = self._reader.is_alive()
            while self._said:
                line = self._said.popleft()
                if line == self._tool:
                    return True
                notice(f"{self._tool}: {line.removeprefix('llm_stresstest: ')}")
                if line.startswith("http://"):
                    return True
            if not alive:
                return False
            await asyncio.sleep(0.02)
        return False

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        while self._process.poll() is None:  # noqa: ASYNC110  a process that is not asyncio's
            await asyncio.sleep(0.25)

    def end(self) -> None:
        """End it, and put the terminal in order if it could not do that itself."""
        with contextlib.suppress(OSError):
            cast(BinaryIO, self._process.stdin).close()
        for stop in (self._process.terminate, self._process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.END_S)
                break
            stop()
        self._process.wait()
        if self._on_terminal and self._process.returncode:
            with contextlib.suppress(OSError):
                os.write(2, self.RESTORE)


class Run:
    """A stress test that a tool or the command line makes: an async context manager.

    Entering it opens the log, catches the signals, starts the embedded server where that is asked
    for, and opens the session. Leaving it closes all of them. `main` shows its use.
    """

    # Connecting that takes longer is said; at a terminal it is said at once.
    PATIENCE_S = 5.0

    def __init__(
        self,
        config: Config,
        questions: Sequence[Question],
        options: Options,
        files: RunFiles | None = None,
    ) -> None:
        self.config, self.questions, self.options = config, questions, options
        self.files = files or RunFiles(options)
        self.is_over = self.files.is_over()
        self.target = resolve_target(config, os.environ)
        self.grading = Grading.of(
            self.files.questions, questions, config, allow_code=options.allow_code
        )
        try:
            self.machine: Any = import_extension("hardware", "hardware").Watch(config)
        except ExtensionError as error:
            self.machine = Unwatched(str(error))
        self.prompt_cache: dict[str, Any] | None = None  # see find_prompt_cache
        self._closing = contextlib.AsyncExitStack()  # server and session, before the results
        self._until_saved = contextlib.ExitStack()  # the journal's lock guards unsaved answers

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            raise_file_limit(max(self.config.levels))
            files, level = self.files, self.options.log_level
            log = files.logs / f"{files.name}.log"
            self.log = RunLog(log, files.moment, level, self.target.redact)
            self.stop_signal = stack.enter_context(StopSignal.caught())
            stack.enter_context(self._until_saved)
            await stack.enter_async_context(self._closing)
            if not self.is_over:
                server = self._closing.enter_async_context(serving(self.config, self.target))
                self.target = await self.stop_signal.unless_stopped(server)
            opened = open_session(self.config, self.target)
            session = await self._closing.enter_async_context(opened)
            self.client = Client(session, self.config, self.target)
            self._closing.push_async_callback(self.machine.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def warn(self, message: str) -> None:
        """Tell what a person should know, on stderr and as a warning in the log."""
        self.say(message, logging.WARNING)

    def say(self, message: str, level: int = logging.INFO) -> None:
        """Tell what is going on, on stderr and in the log."""
        logger.log(level, "%s", message)
        if not self.options.quiet:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(printable(message, 1000) + "\n")

    async def connect(self, test: Coroutine[Any, Any, None]) -> None:
        """Get ready for the load; a signal ends it with StoppedError.

        In this order: wait for other runs, test the connection (`test`), test the judge, look for
        a prompt cache, and start to watch the machine. Say so when connecting takes long.
        """
        with contextlib.closing(test):  # a signal may come before it begins
            wait, say = self.options.wait, self.say
            ready = self.machine.prepare(self.target, wait=wait, say=say)
            await self.stop_signal.unless_stopped(ready)
            message = f"connecting to {self.target.shown} …"
            patience_s = 0.0 if sys.stderr.isatty() else self.PATIENCE_S
            timer = asyncio.get_running_loop().call_later(patience_s, say, message)
            try:
                await self.stop_signal.unless_stopped(test)
                await self.stop_signal.unless_stopped(self.grading.test_judge())
                if not self.options.resume:  # else an earlier part has looked
                    cache = find_prompt_cache(self.client, self.questions)
                    self.prompt_cache = await self.stop_signal.unless_stopped(cache)
            finally:
                timer.cancel()
            await self.stop_signal.unless_stopped(self.machine.start())

    async def open_journal(self) -> None:
        """Start the journal, or take up the one of the run that is gone on with.

        What shows the run starts here, before the run's clock does.
        """
        header = journal_header(self.config, self.target, self.questions)
        self.journal, before = self.files.open_journal(header)
        self._until_saved.enter_context(self.journal)
        inputs = {"config": self.files.config, "questions": self.files.questions}
        self.log.start(self.journal.header, {**inputs, "journal": self.journal.path})
        for hint in self.grading.hints:
            logger.warning("%s", hint)
        self.view: Companion | None = None
        with contextlib.suppress(StoppedError):  # the load sees it, and there is a journal to end
            await self.stop_signal.unless_stopped(self._start_companions())
        self.start = dataclasses.replace(self._load_start(before), pulse=self.pulse)
        self.client = dataclasses.replace(self.client, start_ns=self.start.start_ns)
        turns = sum(len(question.texts) for question in self.questions) * self.config.passes
        left = max(turns - len(self.start.done), 0)
        total = None if self.config.duration is not None else left
        self.progress = Progress(total, self.config.levels)

    def _load_start(self, before: JournalReader | None) -> LoadStart:
        """Return what the load starts with: anew, or where an earlier part of the run ended.

        That part's journal has a footer, unless it was killed.
        """
        seed = self.journal.header["seed"]
        if before is None:
            return LoadStart(seed=seed)
        already_ns = max((result.end_ns or 0 for result in before), default=0)
        footer, clients = before.footer or {}, [footer["client"] for footer in before.footers]
        resumed = "stopped" if footer else "killed"
        return LoadStart(
            start_ns=clock() - already_ns,  # so that new times come behind the earlier ones
            seed=seed,
            done=before.finished(self.questions),
            resumed=None if before.is_over else resumed,
            itl_us={int(stage): dict(pairs) for stage, pairs in footer.get("itl_us", {}).items()},
            itl_lost=not footer and not self.config.record_chunk_times,
            clients=clients[:-1] if before.is_over else clients,
            over=before.footer if before.is_over else None,
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Show and watch the load while the block runs; say what is kept when it cannot go on."""
        with self.journal.kept_when_writing_fails():
            record = functools.partial(self.journal.append, "samples")
            self.machine.begin(self.start.start_ns, record)
            async with self.progress.shown(quiet=self.options.quiet, view=self.view):
                yield
            await self.machine.stop()

    async def _start_companions(self) -> None:
        """Start what shows the run: the dashboard, and the view in the terminal.

        The view ends before the summary. The dashboard is left to itself: it ends soon after the
        run, when nobody looks any more.
        """
        folder = ("--results-dir", str(self.files.folder.resolve()))
        if self.options.dashboard:
            what = ("--follow", self.files.name, "--say-address", "--port", "0")
            await Companion.beside("dashboard", *what, *folder)
        if not self.options.live or self.options.quiet:
            return
        if not Progress.has_terminal():
            notice("--live needs a terminal; progress is shown in lines")
            return
        beside = Companion.beside(
            "live", self.files.name, "--beside-run", *folder, on_terminal=True
        )
        self.view = await beside
        if self.view is not None:
            self._until_saved.callback(self.view.end)

    def record(self, result: Result) -> None:
        """Write a result down the moment its request ends. Raises ResultsError."""
        self.journal.append("result", result.to_record())
        self.grading.raw.keep(result)
        self.progress.add(result)
        self.log.result(result)

    def pulse(self, state: Mapping[str, int | None]) -> None:
        """Write down how the load stands, once a second."""
        at_ms = round((clock() - self.start.start_ns) / NS_PER_MS, 3)
        self.journal.pulse({"at_ms": at_ms, **state, **self.client.traffic.to_record()})

    async def finish(self, load: LoadReport) -> JournalReader:
        """Write the footer, grade, and close server and session; return all results, graded.

        The journal gets a line for each grade at once, and stays until the results are saved.
        """
        with self.journal.kept_when_writing_fails():
            if not self.is_over:
                load.client["timestamps"] = self.client.arrivals.to_record()
                load.client["prompt_cache"] = self.prompt_cache
                self.journal.append("footer", load.to_footer())
            journal, stop_signal, redact = self.journal, self.stop_signal, self.target.redact
            await self.grading.grade(journal, self.log, stop_signal, redact)
        load.interrupted = load.interrupted or self.stop_signal.signum is not None
        await self._closing.aclose()
        with self.journal.kept_when_writing_fails():
            results = self.journal.read()
        self.machine.finish(results.samples)
        return results

    def assess(self, load: LoadReport, aggregate: Mapping[str, Any]) -> None:
        """Add to the load what is known of the machine and the server; validity rules use it."""
        load.hardware = rounded(self.machine.facts(aggregate))
        load.server_info = self.machine.server_info

    def end(
        self, load: LoadReport, path: Path, meta: Mapping[str, Any], aggregate: Mapping[str, Any]
    ) -> None:
        """Say how it went, now that the results are saved; let the journal go.

        An interrupted run keeps its journal, so that --resume can go on with it.
        """
        self.log.end(meta, aggregate, path)
        if not load.interrupted:
            self.journal.remove()
        self._until_saved.close()
        summary = Summary(path.stem, meta, aggregate, terminal_width())
        if not self.options.quiet:
            label, command = self.next_command(path.stem, complete=meta["status"] == "complete")
            show(summary.lines({"results": path, "log": self.log.path, label: command}))
        elif (line := summary.failure()) is not None:
            notice(line)

    def next_command(self, name: str, *, complete: bool) -> tuple[str, str]:
        """Return what a person may do next with a run: a label, and a command to copy."""
        options = dict[str, Path | None]()
        if not complete:
            label, words = "go on", [run_argument(name), "--resume"]
            options = {"-c": self.options.config, "-q": self.options.questions}
            options["--log-dir"] = self.options.log_dir
        elif "report" in TOOLS:
            label, words = "look", ["report", name]
        else:
            label, words = "check", ["verify", name]
        usual = find_file(None, "config.json").parent / "results"
        if self.files.folder.resolve() != usual.resolve():  # where nobody would look for it
            options["--results-dir"] = self.files.folder
        for option, path in options.items():
            words += [option, str(path)] if path is not None else []
        return label, f"{program()} {shlex.join(words)}"

    def plan_lines(self) -> list[Any]:
        """Return what a dry run shows."""
        config, questions = self.config, self.questions
        requests = f"{len(questions) * config.passes} in all"
        if config.duration is not None:
            requests = "until the time is over"
        different = len({question.id for question in questions})
        graded = sum(question.grader is not None for question in questions)
        load = f"{config.concurrent} at once"
        if config.rate is not None:
            load = f"{config.rate:g} requests/s, {config.arrival}"
        rows = {
            "config": self.files.config,
            "questions": self.files.questions,
            "server": printable(_without_password(config.server)),
            "model": printable(config.model),
            "asks": f"{len(questions)} ({different} different, {graded} with a grader), {requests}",
            "load": load,
            "results": self.files.results,
        }
        if config.hardware.power_command is not None:
            rows["runs"] = f"{printable(config.hardware.power_command, 300)} (for its watts)"
        head = styled(("dry run: ", "bold"), "the files are good; nothing was asked")
        lines = [f"{name:<10} {value}" for name, value in rows.items()]
        return [head, *map(styled, [*lines, *self.grading.hints])]

    def exit_code(self, meta: Mapping[str, Any]) -> int:
        """Return the exit code of a run whose results are saved."""
        if self.stop_signal.signum is not None and meta["status"] == "interrupted":
            return 128 + self.stop_signal.signum
        missed = any(not check["met"] for check in meta["thresholds"])
        return 1 if missed or meta["validity"]["verdict"] == "INVALID" else 0


async def main(options: Options) -> int:
    """Run the stress test from files to file and return the exit code; what stops it is raised."""
    files = RunFiles(options)
    if files.nothing_left:
        notice(f"{files.results}: the run is complete; there is nothing left to do")
        return 0
    config = load_config(files.config, options.set, files.config_before())
    questions = load_questions(files.questions, config.question_count)
    run = Run(config, questions, options, files)
    if options.dry_run:
        show(run.plan_lines())
        return 0
    async with run:
        if not run.is_over:
            await run.connect(test_connection(run.client, run.warn))
        await run.open_journal()
        send = functools.partial(send_question, run.client)
        async with run.watched():
            load = await process_questions(
                config, questions, send, run.record, run.stop_signal, run.start
            )
        results = await run.finish(load)
        gaps = None if load.itl_lost else load.itl_us
        with run.journal.kept_when_writing_fails():
            aggregate = calculate_aggregates(results, config, gaps, run.machine.energy)
            run.assess(load, aggregate)
            meta = run_meta(config, run.target, load, aggregate, run.journal.header)
            rest = {"samples": run.machine.samples, "overwrite": files.may_replace(meta["run_id"])}
            path = save_results(files.results, meta, results, aggregate, **rest)
        run.end(load, path, meta, aggregate)
        return run.exit_code(meta)


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the one place that shows errors."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_standard_streams()
    with RunLog.kept():
        try:
            if arguments and arguments[0] in TOOLS:
                return run_tool(arguments[0], arguments[1:])
            options = Options(**vars(build_parser().parse_args(arguments)))
            loop_factory = WatchedLoop if TimedConnector.used else None
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                return runner.run(main(options))
        except SystemExit as stop:  # argparse has said why
            return stop.code if isinstance(stop.code, int) else 2
        except StressTestError as error:
            logger.error("%s", error, exc_info=error.__cause__)
            if isinstance(error, MissingPackageError) and (code := fetch_group(error)) is not None:
                return code
            return fail(str(error), error.exit_code)
        except StoppedError as error:
            name = signal.Signals(error.args[0]).name
            return fail(f"stopped by {name} before the first question", 128 + error.args[0])
        except KeyboardInterrupt:
            return fail("stopped by SIGINT", 130)
        except OSError as error:  # a file or a folder that this user may not look at
            logger.critical("a file could not be used", exc_info=error)
            if error.filename is None:
                return fail(describe_fault(error), 70)
            return fail(f"{error.filename}: cannot be used: {error.strerror}", 2)
        except Exception as error:
            logger.critical("a fault of this program", exc_info=error)
            return fail(describe_fault(error), 70)


def fail(message: str, code: int) -> int:
    """Show an error as one line on stderr and return the exit code."""
    for handler in logger.handlers:
        if isinstance(handler.formatter, RunLog.Line):  # since the secrets are known
            message = handler.formatter.redact(message)
    message = _LIKE_A_KEY.sub(REDACTED, message)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"llm_stresstest: {printable(message, 1500)}\n")
    return code


def describe_fault(error: Exception) -> str:
    """Say in one line what fault of this program an exception shows, and where its traceback is."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
    has_log = any(isinstance(handler, logging.FileHandler) for handler in logger.handlers)
    log = " (traceback in the log)" if has_log else ""
    what = f"{type(error).__name__}: {error}{where}"
    return f"a fault of this program, please report it: {what}{log}"


def run_tool(name: str, argv: Sequence[str]) -> int:
    """Run a tool and return its exit code."""
    if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have to clean up
    tool = TOOLS[name]
    extension = import_extension(tool.module, tool.group)
    try:
        return cast(int, getattr(extension, tool.function)(argv))
    except ModuleNotFoundError as error:  # of a package that it imports where it is used
        if tool.group is None or (error.name or "").startswith(("extensions", "llm_stresstest")):
            raise
        raise MissingPackageError(name, error.name, tool.group) from error


if __name__ == "__main__":
    sys.exit(cli())
