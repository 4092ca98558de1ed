"""Two sides of runs, paired question by question: what compare and history stand on.

    read_run -> Run -> Side -> Grid of pairs -> Table (extensions/inference.py) -> Comparison

The same question in both runs is a pair, and pairs carry far more than two averages: what makes a
question slow is in both of its times and falls out of their ratio. A verdict is what the interval
that holds for the whole table allows, and nothing else; "cannot tell" is a verdict too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

import llm_stresstest as st

if TYPE_CHECKING:  # scipy takes a second to import
    from extensions.inference import Estimate, Family, Interval, Resampling, RunEffects, Sums

Array = npt.NDArray[np.float64]

# The format of --format json. 1: first version.
SCHEMA_VERSION = 1
MARGIN = 0.05


class Metric(NamedTuple):
    """A row of the table."""

    name: str  # as in the aggregate
    label: str  # for a narrow table
    title: str  # for people who read it the first time
    kind: str  # "latency", "tokens", "rate", "share", "energy"
    better: int  # 1: more is better, -1: less, 0: neither
    middle: str  # what the two values are

    @property
    def is_ratio(self) -> bool:
        """Whether B over A is shown; shares are subtracted."""
        return self.kind != "share"

    @property
    def arrow(self) -> str:
        """The good direction."""
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def words(self) -> tuple[str, str]:
        """Return the verdicts for less and for more."""
        return ("faster", "slower") if self.kind == "latency" else ("lower", "higher")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("ttft_ms", "TTFT", "First token (TTFT)", "latency", -1, "median"),
        Metric("answer_ttft_ms", "answer TTFT", "Answer's first token", "latency", -1, "median"),
        Metric("tpot_ms", "TPOT", "Each further token (TPOT)", "latency", -1, "median"),
        Metric("e2e_ms", "E2E", "Whole answer (E2E)", "latency", -1, "median"),
        Metric("token_avg", "answer length", "Tokens an answer", "tokens", 0, "mean"),
        Metric("tokens_per_s", "tokens/s", "Total tokens/s", "rate", 1, "blocks of time"),
        Metric("requests_per_s", "requests/s", "Requests/s", "rate", 1, "blocks of time"),
        Metric("goodput_per_s", "goodput/s", "Good requests/s", "rate", 1, "blocks of time"),
        Metric("slo_attainment", "within limits", "Within the limits", "share", 1, "share"),
        Metric("error_rate", "failed", "Failed requests", "share", -1, "share"),
        Metric("quality", "right answers", "Right answers", "share", 1, "share"),
        Metric("energy", "energy", "Energy an answer", "energy", -1, "mean"),
    )
}
LATENCIES = [name for name, metric in METRICS.items() if metric.kind == "latency"]
PAIRED = [*LATENCIES, "token_avg", "slo_attainment", "error_rate", "quality"]
RATES = [name for name, metric in METRICS.items() if metric.kind == "rate"]
# A difference of 5 points in right answers may pass as none; in failures a fifth of that.
ERROR_MARGIN = 0.2
# A timed-out request is taken to need between its timeout and ten times as long.
LATE_FACTOR = 10
IMPLAUSIBLE = 2.0  # a better that is hardly the machine's


# === Runs ===


@dataclasses.dataclass(frozen=True)
class Run:
    """A results file as columns: a place a request, NaN where nothing was measured."""

    path: Path
    meta: dict[str, Any]
    aggregate: dict[str, Any]
    keys: list[tuple[str, int, int, int]]  # question id, turn, repetition, level
    asked: dict[str, tuple[str, str | None]]  # question id -> text and grader
    columns: dict[str, Array]
    late: dict[str, Array]  # 1 where a column holds only a lower bound: the request timed out
    sent_ms: Array
    end_ms: Array

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name.removesuffix(".json")

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it stands in the file."""
        return cast(dict[str, Any], self.meta["config"])

    @property
    def verdict(self) -> str:
        """VALID, SUSPECT or INVALID."""
        return str(self.meta["validity"]["verdict"])

    @property
    def levels(self) -> list[int]:
        """The concurrency of each stage."""
        return as_list(self.config["concurrent"])

    @property
    def started(self) -> dt.datetime:
        """When it began."""
        moment = f"{self.meta['start_date']}T{self.meta['start_time']}"
        return dt.datetime.fromisoformat(moment + self.meta.get("utc_offset", "+00:00"))


def read_run(path: Path) -> Run:
    """Read a results file. Raises ConfigError, one line, also for a damaged or forged one."""
    saved = st.load_results(path)
    try:
        run = _columns_of(saved)
        _ = run.verdict, run.levels, run.started, run.aggregate["quality"]["graded"]
        _about(run), identity(run.meta)  # so that nothing is found missing later
        return run
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        text = st.printable(f"{type(error).__name__}: {error}", 200)
        raise st.ConfigError(
            f"{path}: is damaged ({text}); run it through: llm_stresstest.py verify"
        ) from None


def _columns_of(saved: st.SavedRun) -> Run:
    config = saved.meta["config"]  # as it is: another version may have had other keys
    levels, slo = as_list(config["concurrent"]), st.Slo.model_validate(config.get("slo") or {})
    limits = None if slo == st.Slo() else slo
    # A conversation is graded at its end, and its turns are as good as that.
    scores = {result.index: result.quality for result in saved.results if result.graded}
    seen = Counter[tuple[str, int, int]]()
    keys, asked, rows, spans = [], {}, [], []
    for result in sorted(saved.results, key=lambda result: (result.index, result.turn)):
        level = levels[min(result.stage, len(levels) - 1)]
        place = (result.id, result.turn, level)
        keys.append((result.id, result.turn, seen[place], level))
        seen[place] += 1
        if result.turn == 0:
            asked[result.id] = (result.question, result.grader)
        rows.append(_row_of(result, limits, scores.get(result.index)))
        spans.append((_ms(result.sent_ns), _ms(result.end_ns)))
    shape = (len(rows), len(PAIRED))
    values = np.array([row for row, _ in rows], dtype=np.float64).reshape(shape)
    bounds = np.array([late for _, late in rows], dtype=np.float64).reshape(shape)
    times = np.array(spans, dtype=np.float64).reshape(len(rows), 2)
    return Run(
        saved.path,
        saved.meta,
        {key: value for key, value in saved.aggregate.items() if key != "itl_histogram_us"},
        keys,
        asked,
        {name: values[:, place] for place, name in enumerate(PAIRED)},
        {name: bounds[:, place] for place, name in enumerate(PAIRED)},
        times[:, 0],
        times[:, 1],
    )


def _row_of(
    result: st.Result, slo: st.Slo | None, score: float | None
) -> tuple[list[float | None], list[float]]:
    """Return a request's columns, and which of them are only lower bounds."""
    failed = None if result.status == "cancelled" else float(not result.ok)
    good = None
    if slo is not None and failed is not None:
        right = slo.quality is None or (score is not None and score >= slo.quality)
        good = float(result.ok and right and slo.is_in_time(result))
    shares = [good, failed, result.quality if result.graded else None]
    if result.ok:
        times = [result.ttft_ms, result.answer_ttft_ms, result.tpot_ms, result.time_ms]
        return [*times, result.token, *shares], [0.0] * len(PAIRED)
    if result.status != "timeout" or result.time_ms is None:
        return [None, None, None, None, None, *shares], [0.0] * len(PAIRED)
    waited = result.time_ms  # the tokens that were still to come would have taken longer
    times = [result.ttft_ms or waited, result.answer_ttft_ms or waited, None, waited]
    late = [float(result.ttft_ms is None), float(result.answer_ttft_ms is None), 0.0, 1.0]
    return [*times, None, *shares], [*late, 0.0, 0.0, 0.0, 0.0]


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6


@dataclasses.dataclass(frozen=True)
class Side:
    """One or more runs of one configuration."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for the side."""
        return self.runs[0]


def identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two runs of one configuration share: configuration, server, questions."""
    config = {key: value for key, value in meta["config"].items() if key not in _NO_IDENTITY}
    server = {**fingerprint(meta), "server": meta["server"]}
    return {"questions": meta["questions_sha256"], **flat(server), **flat(config)}


_NO_IDENTITY = ("thresholds", "hardware", "timeout", "startup_timeout", "cooldown")
_FINGERPRINT = ("engine", "version", "model", "model_file", "quantization", "parameters")


def fingerprint(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what answered, as far as the server said it."""
    info = meta.get("server_info") or {}
    found = {key: info.get(key) for key in (*_FINGERPRINT, "context_tokens", "slots")}
    return {f"server_info.{key}": value for key, value in found.items() if value is not None}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return a tree of objects as one: {"a": {"b": 1}} becomes {"a.b": 1}."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = (flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def equal_runs(run: Run) -> list[Run]:
    """Return all whole, usable runs of the same configuration in a run's folder, this one too."""
    wanted, found = identity(run.meta), []
    for path in sorted(run.path.parent.glob("*.json")):
        if path.samefile(run.path):
            found.append(run)
            continue
        with contextlib.suppress(st.ConfigError, KeyError, TypeError, AttributeError):
            meta = read_head(path)[0]
            usable = meta["status"] == "complete" and meta["validity"]["verdict"] != "INVALID"
            if usable and identity(meta) == wanted:
                found.append(read_run(path))
    return sorted(found, key=lambda each: each.started)


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return meta and aggregate of a results file, without its records. Raises ConfigError."""
    saved = st.load_results(path, results=False)
    return saved.meta, saved.aggregate


# === Refusals ===


class Refusal(NamedTuple):
    """Why two runs are not to be compared."""

    key: str
    a: Any
    b: Any
    why: str

    def line(self) -> str:
        """Return it as one line."""
        a, b = (st.printable(said(value), 100) for value in (self.a, self.b))
        return f"{self.key}: {a} and {b}: {self.why}"


def said(value: Any) -> str:
    """Return a JSON value as people read it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_MUST_AGREE = {
    "temperature": "other sampling gives other answers of other lengths",
    "stop": "other sampling gives other answers of other lengths",
    "max_tokens": "answers are cut at different lengths",
    "rate": "another rate is another load",
    "arrival": "requests that come in another rhythm wait differently",
    "burstiness": "requests that come in another rhythm wait differently",
    "stream": "without streaming the times mean something else",
    "api": "the prompt is put together in another way",
    "cache_bust": "a prompt that the server has in its cache starts sooner",
}
_SAMPLING = (
    "top_p", "top_k", "min_p", "typical_p", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "repeat_penalty", "ignore_eos", "min_tokens", "logit_bias",
    "best_of", "n",
)  # fmt: skip


def refusals(a: Run, b: Run) -> list[Refusal]:
    """Return each reason why a comparison of two runs would mean nothing."""
    found = [
        Refusal("validity", run_a, run_b, "the numbers of an INVALID run mean nothing")
        for run_a, run_b in [(a.verdict, b.verdict)]
        if "INVALID" in (run_a, run_b)
    ]
    found += _question_refusals(a, b)
    found += config_refusals(a.config, b.config)
    sources = [sorted(run.aggregate.get("token_sources") or {}) for run in (a, b)]
    if all(sources) and sources[0] != sources[1]:
        why = "tokens that are counted in different ways cannot be compared"
        found.append(Refusal("token_source", sources[0], sources[1], why))
    versions = [run.meta.get("metrics_version") for run in (a, b)]
    if versions[0] != versions[1]:
        why = "a metric that is defined in another way is another metric"
        found.append(Refusal("metrics_version", versions[0], versions[1], why))
    cached = [_cached_share(run.aggregate) for run in (a, b)]
    if None not in cached and abs(cast(float, cached[0]) - cast(float, cached[1])) >= 0.3:
        why = "prompts that come from the server's cache start sooner; set cache_bust for both"
        shown = [f"{share:.0%} of the prompt tokens from a cache" for share in cached]
        found.append(Refusal("prompt_cache", shown[0], shown[1], why))
    return found


def _question_refusals(a: Run, b: Run) -> list[Refusal]:
    if a.meta["questions_sha256"] == b.meta["questions_sha256"]:
        return []
    texts = [{name: text for name, (text, _) in run.asked.items()} for run in (a, b)]
    if texts[0] != texts[1]:
        both = texts[0].keys() & texts[1].keys()
        other = sum(texts[0][name] != texts[1][name] for name in both)
        shown = [f"{len(asked)} questions" for asked in texts]
        why = f"{len(both) - other} of them are the same; others have other lengths and answers"
        return [Refusal("questions", shown[0], shown[1], why)]
    shown = [str(run.meta["questions_sha256"])[:12] for run in (a, b)]
    return [Refusal("graders", shown[0], shown[1], "the same answer would get another grade")]


def config_refusals(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Refusal]:
    """Return the reasons that two configurations show before anything was run."""
    found = [
        Refusal(key, a.get(key), b.get(key), why)
        for key, why in _MUST_AGREE.items()
        if a.get(key) != b.get(key)
    ]
    extra = [config.get("extra_body") or {} for config in (a, b)]
    found += [
        Refusal(f"extra_body.{key}", extra[0].get(key), extra[1].get(key), _MUST_AGREE["stop"])
        for key in _SAMPLING
        if extra[0].get(key) != extra[1].get(key)
    ]
    if not common_levels(a, b):
        why = "there is no level in common, and at another one every time is another"
        found.append(Refusal("concurrent", a["concurrent"], b["concurrent"], why))
    return found


def common_levels(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[int]:
    """Return the concurrency levels that two configurations share."""
    levels = [as_list(config["concurrent"]) for config in (a, b)]
    return [level for level in dict.fromkeys(levels[0]) if level in levels[1]]


def as_list(value: Any) -> list[Any]:
    """Return a key that may be a list as one."""
    return list(value) if isinstance(value, list) else [value]


def _cached_share(aggregate: Mapping[str, Any]) -> float | None:
    cached, prompts = aggregate.get("cached_tokens_sum"), aggregate.get("prompt_tokens_sum")
    return None if cached is None or not prompts else cached / prompts


def changed(a: Run, b: Run, *, everything: bool = False) -> dict[str, list[Any]]:
    """Return what the comparison is about: each key of configuration, server and machine."""
    trees = [_about(run) for run in (a, b)]
    keys = dict.fromkeys((*trees[0], *trees[1]))
    pairs = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: pair for key, pair in pairs.items() if everything or pair[0] != pair[1]}


def _about(run: Run) -> dict[str, Any]:
    meta = run.meta
    machine = {key: meta["client"].get(key) for key in ("version", "host", "platform", "cpus")}
    inventory = {
        key: value
        for key, value in (meta.get("hardware") or {}).items()
        if key not in _OF_THE_LOAD  # those differ from run to run on one machine
    }
    config = {key: value for key, value in run.config.items() if key != "thresholds"}
    tree = flat({"client": machine, "hardware": inventory})
    return {**flat(config), **fingerprint(meta), **tree}


_OF_THE_LOAD = ("load", "missing", "shared_server", "server_process", "sources", "unavailable")


# === Pairs ===


class Grid:
    """The requests of several runs side by side: a row a run, a column a question's turn."""

    def __init__(self, runs: Sequence[Run], slots: Sequence[Mapping[int, int]]) -> None:
        """Take the runs, and for each of them the place of each level that counts."""
        self.runs, self.slots = runs, slots
        self.places = [
            {
                (name, turn, repetition, slot[level]): row
                for row, (name, turn, repetition, level) in enumerate(run.keys)
                if level in slot
            }
            for run, slot in zip(runs, slots, strict=True)
        ]
        self._index(dict.fromkeys(itertools.chain(*self.places)))

    def keep(self, wanted: Callable[[tuple[str, int, int, int]], bool]) -> Self:
        """Leave out the columns that are not wanted."""
        self._index([key for key in self.keys if wanted(key)])
        return self

    def _index(self, keys: Iterable[tuple[str, int, int, int]]) -> None:
        self.keys = list(keys)
        self.ids = list(dict.fromkeys(key[0] for key in self.keys))
        number = {name: place for place, name in enumerate(self.ids)}
        self.question = np.array([number[key[0]] for key in self.keys], dtype=np.intp)
        self.slot = np.array([key[3] for key in self.keys], dtype=np.intp)
        self.rows = np.array(
            [[places.get(key, -1) for key in self.keys] for places in self.places], dtype=np.intp
        ).reshape(len(self.runs), len(self.keys))

    def values(self, name: str, *, late: bool = False) -> Array:
        """Return a column of the runs' tables: (runs, keys), NaN where nothing was measured."""
        found = np.full(self.rows.shape, np.nan)
        for place, run in enumerate(self.runs):
            rows, column = self.rows[place], (run.late if late else run.columns)[name]
            there = rows >= 0
            found[place, there] = column[rows[there]]
        return found

    def rate(self, place: int, name: str, slot: int) -> Rate | None:
        """Return a run's rate at one level; None if it was not measured."""
        run = self.runs[place]
        levels = {level for level, at in self.slots[place].items() if at == slot}
        here = np.array([key[3] in levels for key in run.keys]) & np.isfinite(run.end_ms)
        here &= np.isfinite(run.sent_ms)
        brings = {
            "tokens_per_s": run.columns["token_avg"],
            "requests_per_s": np.where(run.columns["error_rate"] == 0, 1.0, 0.0),
            "goodput_per_s": run.columns["slo_attainment"],
        }[name][here]
        if not np.isfinite(brings).any() or np.nansum(brings) <= 0:
            return None
        return Rate(np.nan_to_num(brings), run.sent_ms[here], run.end_ms[here])


class Rate(NamedTuple):
    """What requests brought, and when: an array each, ms."""

    brings: Array  # tokens, or 1 for a request
    sent_ms: Array
    end_ms: Array

    @property
    def window_ms(self) -> float:
        """From the first send to the last end."""
        return float(self.end_ms.max() - self.sent_ms.min())

    @property
    def per_s(self) -> float:
        """The rate over the whole window."""
        return float(self.brings.sum()) / max(self.window_ms, 1e-3) * 1000

    @property
    def most_blocks(self) -> int:
        """How many blocks that are long enough to know little of each other.

        A block is twice as long as the median request, and as long as the request that is under way
        at any moment: a few that run into their timeout hold their slots over many short ones.
        """
        spans = np.maximum(self.end_ms - self.sent_ms, 1e-3)
        length = max(2 * float(np.median(spans)), float((spans**2).sum() / spans.sum()))
        return int(np.clip(self.window_ms // length, 1, MOST_BLOCKS))

    def blocks(self, count: int) -> Array:
        """Return the rate in equal blocks of the window.

        What a request brings counts evenly from its send to its end.
        """
        spans = np.maximum(self.end_ms - self.sent_ms, 1e-3)
        edges = np.linspace(self.sent_ms.min(), self.end_ms.max(), count + 1)
        shares = [np.clip((edge - self.sent_ms) / spans, 0, 1) for edge in edges]
        done = np.array([float((self.brings * share).sum()) for share in shares])
        return np.diff(done) / (self.window_ms / count) * 1000


MOST_BLOCKS = 20


def pair_up(a: Side, b: Side, *, anyway: bool = False, level: int | None = None) -> Grid:
    """Return the requests that two sides share. Raises ConfigError when they share none."""
    levels = [(level, level) for level in common_levels(a.first.config, b.first.config)]
    if not levels and anyway:
        levels = list(zip(a.first.levels, b.first.levels, strict=False))
    if level is not None:
        if (level, level) not in levels:
            common = ", ".join(str(pair[0]) for pair in levels)
            raise st.ConfigError(f"--level {level}: is not in both runs; they share {common}")
        levels = [(level, level)]
    slots = [{pair[side]: place for place, pair in enumerate(levels)} for side in (0, 1)]
    grid = Grid([*a.runs, *b.runs], [slots[0]] * len(a.runs) + [slots[1]] * len(b.runs))
    sides = [set(itertools.chain(*part)) for part in (
        grid.places[: len(a.runs)], grid.places[len(a.runs) :]
    )]  # fmt: skip
    both = sides[0] & sides[1]
    if not both:
        names = f"{st.printable(a.first.name, 100)} and {st.printable(b.first.name, 100)}"
        raise st.ConfigError(f"{names}: have no question at a common level; nothing can be paired")
    return grid.keep(both.__contains__)


# === Comparison ===


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a row compares: a metric over all levels or at one, its middle or a percentile."""

    metric: Metric
    slot: int | None = None
    percentile: str | None = None

    @property
    def name(self) -> str:
        """As in the aggregate."""
        return self.metric.name + (f".{self.percentile}" if self.percentile else "")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table."""

    spec: Spec
    a: float | None
    b: float | None
    verdict: str  # faster, slower, higher, lower, same, cannot_tell, not_measured
    interval: Interval | None = None  # ratios as logarithms
    needs_more: int | None = None
    needs: str | None = None  # of what: questions, runs, or a longer run ("time")
    pairs: int = 0
    late: tuple[int, int] = (0, 0)  # requests that timed out, and count as lower bounds

    @property
    def metric(self) -> Metric:
        """What is compared."""
        return self.spec.metric

    def shown(self, value: float) -> float:
        """Return a value of the interval as a ratio B over A, or as a difference."""
        return math.exp(min(value, 50.0)) if self.metric.is_ratio else value

    @property
    def is_better(self) -> bool | None:
        """Whether B does better; None when there is no better or no difference."""
        if self.verdict not in self.metric.words() or not self.metric.better:
            return None
        return (self.verdict == self.metric.words()[1]) == (self.metric.better > 0)


@dataclasses.dataclass
class Draft:
    """A row before its interval is known."""

    spec: Spec
    a: float | None = None
    b: float | None = None
    pairs: int = 0
    questions: int = 0
    late: tuple[int, int] = (0, 0)
    sums: Sums | None = None
    estimate: Estimate | None = None
    levels: Array | None = None  # each run's own level, for the spread between runs


FEWEST_GROUPED = 4  # runs of both sides together: two degrees of freedom
FEWEST_POOLED = 3  # other runs of the same configuration: two as well


class Table:
    """The rows of a comparison in the making: all from one bootstrap."""

    def __init__(self, grid: Grid, runs_a: int, margin: float, pool: Sequence[Run] = ()) -> None:
        from extensions import inference  # noqa: PLC0415

        self.inference = inference
        self.grid, self.runs_a, self.margin = grid, runs_a, margin
        self.runs_b = len(grid.runs) - runs_a
        self.pool = pool
        self.resampling: Resampling = inference.Resampling(len(grid.ids))

    @property
    def has_groups(self) -> bool:
        """Whether the sides' own runs show how far runs of one configuration differ."""
        return self.runs_a + self.runs_b >= FEWEST_GROUPED

    @property
    def covers_runs(self) -> bool:
        """Whether these runs, or others of the same configuration, show how far runs differ."""
        return self.has_groups or len(self.pool) >= FEWEST_POOLED

    def rows(self, specs: Sequence[Spec]) -> list[Row]:
        """Return a row for each of the specs."""
        drafts = [self._draft(spec) for spec in specs]
        asked = [draft for draft in drafts if draft.sums is not None]
        estimates = self.resampling.estimate([cast("Sums", draft.sums) for draft in asked])
        for draft, estimate in zip(asked, estimates, strict=True):
            slack = tuple(math.log(LATE_FACTOR) * late / draft.pairs for late in draft.late)
            if draft.spec.metric.kind == "share":
                estimate = self.resampling.few_flips(cast("Sums", draft.sums), estimate)
            draft.estimate = dataclasses.replace(estimate, slack=cast(Any, slack))
        known = [draft for draft in drafts if draft.estimate is not None]
        if self.covers_runs and known:
            effects = self._run_effects(known)
            for place, draft in enumerate(known):
                draft.estimate = effects.added_to(cast("Estimate", draft.estimate), place)
        self.family = self.inference.Family([cast("Estimate", draft.estimate) for draft in known])
        self.drafts = {draft.spec: draft for draft in drafts}
        return [self._row(draft, self.family) for draft in drafts]

    def more(self, row: Row, gap: float) -> tuple[int | None, str | None]:
        """Return what a row's interval needs to reach less than `gap`: how many more, of what."""
        return self.needs(self.drafts[row.spec], self.family, gap)

    def _draft(self, spec: Spec) -> Draft:
        if spec.metric.kind == "rate":
            return self._rate_draft(spec)
        if spec.metric.kind == "energy":
            return self._energy_draft(spec)
        if spec.percentile is not None:
            return self._percentile_draft(spec)
        return self._paired_draft(spec)

    def _measured(self, spec: Spec) -> tuple[Array, Array]:
        """Return a metric's values and which are lower bounds, of the level that is meant."""
        values = self.grid.values(spec.metric.name)
        late = self.grid.values(spec.metric.name, late=True)
        if spec.slot is not None:
            values[:, self.grid.slot != spec.slot] = math.nan
        return values, late

    def _paired_draft(self, spec: Spec) -> Draft:
        """Pair question by question."""
        values, late = self._measured(spec)
        scaled = np.log(np.where(values > 0, values, np.nan)) if _is_log(spec) else values
        a, b = (_mean(part) for part in (scaled[: self.runs_a], scaled[self.runs_a :]))
        valid = np.isfinite(a) & np.isfinite(b)
        scaled = np.where(valid, scaled, np.nan)
        draft = Draft(spec, *self._middles(spec, values), pairs=int(valid.sum()))
        question = self.grid.question[valid]
        draft.questions = len(np.unique(question))
        if draft.questions < self.inference.FEWEST_QUESTIONS:
            return draft
        sides = (late[: self.runs_a], late[self.runs_a :])
        draft.late = cast(Any, tuple(math.ceil(_mean(side)[valid].sum()) for side in sides))
        draft.levels = _levels(scaled, spec)
        if self._is_exact(spec, scaled[:, valid], draft):
            only_a, only_b = int((a > b)[valid].sum()), int((b > a)[valid].sum())
            draft.estimate = self.resampling.paired_shares(only_a, only_b, draft.pairs)
            return draft
        size = len(self.grid.ids)
        if spec.metric.kind == "tokens":
            sums = [np.bincount(question, side[valid], size).astype(np.float64) for side in (b, a)]
            draft.sums = self.inference.Sums(sums[0], sums[1], log=True)
            if not min(side.sum() for side in sums) > 0:
                draft.sums, draft.levels = None, None
        else:
            top = np.bincount(question, (b - a)[valid], size).astype(np.float64)
            bottom = np.bincount(question, minlength=size).astype(np.float64)
            draft.sums = self.inference.Sums(top, bottom)
        return draft

    def _is_exact(self, spec: Spec, values: Array, draft: Draft) -> bool:
        """Whether McNemar's test fits: right or wrong, one pair a question, one run each."""
        single = len(values) == 2 and draft.pairs == draft.questions
        binary = bool(np.isin(values, (0.0, 1.0)).all())
        return spec.metric.kind == "share" and single and binary and not self.covers_runs

    def _middles(self, spec: Spec, values: Array) -> tuple[float | None, float | None]:
        """Return what stands in the table for A and B."""
        both = np.isfinite(values[: self.runs_a]).any(0) & np.isfinite(values[self.runs_a :]).any(0)
        found = list[float | None]()
        for part in (values[: self.runs_a], values[self.runs_a :]):
            pooled = part[:, both] if both.any() else part
            pooled = pooled[np.isfinite(pooled)]
            if not len(pooled):
                found.append(None)
            elif spec.percentile is not None:
                found.append(float(np.quantile(pooled, st.PERCENTILES[spec.percentile])))
            else:
                middle = np.median if spec.metric.middle == "median" else np.mean
                found.append(float(middle(pooled)))
        return found[0], found[1]

    def _percentile_draft(self, spec: Spec) -> Draft:
        """Compare a percentile of all answers together."""
        values, _ = self._measured(spec)
        share = st.PERCENTILES[cast(str, spec.percentile)]
        draft = Draft(spec, *self._middles(spec, values))
        sides = []
        for part in (values[: self.runs_a], values[self.runs_a :]):
            runs, keys = np.nonzero(part > 0)
            question = self.grid.question[keys].astype(np.float64)
            sides.append(self.inference.Sums(part[runs, keys], question))
        draft.pairs = min(len(side.top) for side in sides)
        draft.questions = min(len(np.unique(side.bottom)) for side in sides)
        if draft.questions >= max(st.min_samples(share), self.inference.FEWEST_QUESTIONS):
            draft.estimate = self.resampling.quantile(sides[0], sides[1], share)
            kept = [row[row > 0] for row in values]
            draft.levels = np.array([np.log(np.quantile(row, share)) for row in kept])
        return draft

    def _rate_draft(self, spec: Spec) -> Draft:
        """Compare what the server did in a second, by blocks of time."""
        count = 1 + max(self.grid.slot)
        slots = range(count) if spec.slot is None else [spec.slot]
        runs = range(len(self.grid.runs))
        found = [[self.grid.rate(run, spec.metric.name, slot) for slot in slots] for run in runs]
        draft = Draft(spec, pairs=len(self.grid.keys), questions=len(self.grid.ids))
        if any(rate is None for rates in found for rate in rates) or not self._same_limits(spec):
            return draft
        rates = cast("list[list[Rate]]", found)
        draft.levels = np.log([[rate.per_s for rate in each] for each in rates]).mean(axis=1)
        means = np.exp(draft.levels)
        draft.a, draft.b = float(means[: self.runs_a].mean()), float(means[self.runs_a :].mean())
        value = draft.levels[self.runs_a :].mean() - draft.levels[: self.runs_a].mean()
        if self.has_groups:  # the runs themselves show how far they stray
            draft.estimate = self.resampling.independent(float(value), 0.0, self.inference.LARGE_DF)
            return draft
        blocks = []
        for a, b in zip(rates[0], rates[-1], strict=True):  # the first of a side stands for it
            count = min(a.most_blocks, b.most_blocks)
            blocks.append((a.blocks(count), b.blocks(count)))
        draft.estimate = self.resampling.rates(blocks)
        return draft

    def _same_limits(self, spec: Spec) -> bool:
        """Whether goodput means the same in all runs."""
        limits = [run.config.get("slo") for run in self.grid.runs]
        return spec.metric.name != "goodput_per_s" or all(slo == limits[0] for slo in limits)

    def _energy_draft(self, spec: Spec) -> Draft:
        """Compare the energy of an answer: a run has one, so only several runs can tell."""
        draft = Draft(spec, pairs=len(self.grid.keys))
        used: list[float | None] = []
        for source in ENERGY_SOURCES:
            used = [energy_an_answer(run.aggregate, source) for run in self.grid.runs]
            if all(used):
                break
        if spec.slot is None and all(used):
            levels = np.log(np.array(used, dtype=np.float64))
            a, b = levels[: self.runs_a], levels[self.runs_a :]
            draft.a, draft.b = float(np.exp(a).mean()), float(np.exp(b).mean())
            if self.covers_runs:
                draft.levels, value = levels, float(b.mean() - a.mean())
                large = self.inference.LARGE_DF
                draft.estimate = self.resampling.independent(value, 0.0, large)
        return draft

    def _run_effects(self, drafts: Sequence[Draft]) -> RunEffects:
        """Return the spread between runs, of these or of others of the same configuration."""
        if self.has_groups:
            levels = np.column_stack([cast("Array", draft.levels) for draft in drafts])
            return self.inference.RunEffects(levels[: self.runs_a], levels[self.runs_a :])
        slots = [self.grid.slots[0]] * len(self.pool)
        pool = Table(Grid(self.pool, slots), len(self.pool) - 1, self.margin)
        found = [pool._draft(draft.spec).levels for draft in drafts]
        empty = np.zeros(len(self.pool))
        columns = [empty if level is None else level for level in found]
        return self.inference.RunEffects.of_pool(np.column_stack(columns))

    def _row(self, draft: Draft, family: Family) -> Row:
        spec, estimate = draft.spec, draft.estimate
        row = Row(spec, draft.a, draft.b, "cannot_tell", pairs=draft.pairs, late=draft.late)
        if draft.a is None or draft.b is None:
            return dataclasses.replace(row, verdict="not_measured")
        if estimate is None:
            short = self.inference.FEWEST_QUESTIONS - draft.questions
            if spec.percentile is not None:
                short = st.min_samples(st.PERCENTILES[spec.percentile]) - draft.questions
            if spec.metric.kind == "rate":
                return dataclasses.replace(row, needs="time")
            if spec.metric.kind == "energy":
                return dataclasses.replace(row, needs_more=1, needs="runs")
            return dataclasses.replace(row, needs_more=max(short, 1), needs="questions")
        interval = family.interval(estimate)
        row = dataclasses.replace(row, interval=interval, verdict=self._verdict(spec, interval))
        if row.verdict == "cannot_tell":
            low, high = self.limits(spec.metric)
            value = interval.value
            gap = max(abs(value), min(high - value, value - low))
            more, needs = self.needs(draft, family, gap)
            row = dataclasses.replace(row, needs_more=more, needs=needs)
        return row

    def limits(self, metric: Metric) -> tuple[float, float]:
        """Return what still counts as the same."""
        if metric.is_ratio:
            return math.log1p(-self.margin), math.log1p(self.margin)
        margin = self.margin * (ERROR_MARGIN if metric.name == "error_rate" else 1)
        return -margin, margin

    def _verdict(self, spec: Spec, interval: Interval) -> str:
        low, high = interval.ci_table
        least, most = self.limits(spec.metric)
        if least <= low and high <= most:
            return "same"
        less, more = spec.metric.words()
        return less if high < 0 else more if low > 0 else "cannot_tell"

    def needs(self, draft: Draft, family: Family, gap: float) -> tuple[int | None, str | None]:
        """Return how many more questions or runs would make the interval reach less than `gap`."""
        estimate = cast("Estimate", draft.estimate)
        if estimate.between > estimate.variance / 2 and self.has_groups:
            runs = round(2 * self.runs_a * self.runs_b / (self.runs_a + self.runs_b))
            return family.more_runs(estimate, runs, gap), "runs"
        kind = "time" if draft.spec.metric.kind == "rate" else "questions"
        return family.more_questions(estimate, max(draft.questions, 1), gap), kind


def _is_log(spec: Spec) -> bool:
    return spec.metric.kind == "latency"


def _mean(values: Array) -> Array:
    """Return each column's mean of what was measured; NaN where nothing was."""
    counts = np.isfinite(values).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _levels(values: Array, spec: Spec) -> Array:
    """Return how far each run lies from the mean of all, question by question: (runs,)."""
    middle = np.where(np.isfinite(values), _mean(values), np.nan)
    if spec.metric.kind == "tokens":
        sums = [np.maximum(np.nansum(part, axis=1), 0.5) for part in (values, middle)]
        return np.asarray(np.log(sums[0] / sums[1]))
    return np.nan_to_num(_mean((values - middle).T))


ENERGY_SOURCES = ("wall", "gpu", "cpu_package")  # the first that measured all runs counts


def energy_an_answer(aggregate: Mapping[str, Any], source: str) -> float | None:
    """Return the watt-hours of an answer; None where the source measured none."""
    used = ((aggregate.get("energy") or {}).get(source) or {}).get("wh_per_1000_answers")
    return float(used) / 1000 if used else None


class Flip(NamedTuple):
    """A question whose grade changed."""

    id: str
    text: str
    a: bool  # whether A's answer was right
    b: bool


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compare."""

    margin: float = MARGIN
    anyway: bool = False
    level: int | None = None
    percentiles: tuple[str, ...] = ()  # rows such as ttft_ms.p95, for gates
    everything: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two sides have to say about each other."""

    a: Side
    b: Side
    options: Options
    refused: list[Refusal]
    changed: dict[str, list[Any]]
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    levels: dict[str, dict[str, Row]] = dataclasses.field(default_factory=dict)
    flipped: list[Flip] = dataclasses.field(default_factory=list)
    table: Table | None = None

    @property
    def covered(self) -> bool:
        """Whether the verdicts speak of the next runs too."""
        return self.table is not None and self.table.covers_runs

    @property
    def pairs(self) -> int:
        """How many requests were paired."""
        return len(self.table.grid.keys) if self.table else 0

    @property
    def implausible(self) -> list[Row]:
        """The rows in which B is better by more than a machine alone explains."""
        far = math.log(IMPLAUSIBLE)
        return [
            row
            for row in self.rows.values()
            if row.is_better and row.metric.is_ratio and row.interval
            if abs(row.interval.value) > far and row.spec.percentile is None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as `--format json` promises."""
        a, b = (len(side.runs) for side in (self.a, self.b))
        runs = [
            {"name": run.name, "path": str(run.path), "verdict": run.verdict, "side": side.label}
            for side in (self.a, self.b)
            for run in side.runs
        ]
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "runs": runs,
            "changed": self.changed,
            "refused": [refusal._asdict() for refusal in self.refused],
            "margin": self.options.margin,
            "between_runs": {"covered": self.covered, "runs": [a, b]},
            "pairs": self.pairs,
        }
        if self.table is None:
            return content
        content["metrics"] = {name: row_json(row) for name, row in self.rows.items()}
        content["flipped"] = [flip.id for flip in self.flipped]
        content["implausible"] = [row.spec.name for row in self.implausible]
        content["levels"] = {
            level: {name: row_json(row) for name, row in rows.items()}
            for level, rows in self.levels.items()
        }
        return content


def row_json(row: Row) -> dict[str, Any]:
    """Return a row as `--format json` promises."""
    kind = "ratio" if row.metric.is_ratio else "difference"
    content: dict[str, Any] = {"a": rounded(row.a), "b": rounded(row.b), kind: None}
    content |= {"ci95": None, "ci_table": None, "p": None}
    if row.interval is not None:
        content[kind] = rounded(row.shown(row.interval.value))
        for name in ("ci95", "ci_table"):
            content[name] = [rounded(row.shown(end)) for end in getattr(row.interval, name)]
        content["p"] = row.interval.p
    return {
        **content,
        "verdict": row.verdict,
        "needs_more": row.needs_more,
        "needs_more_of": row.needs if row.needs_more is not None else None,
        "pairs": row.pairs,
        "timeouts": list(row.late),
    }


def rounded(value: float | None) -> float | None:
    """Return a number as files hold it."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def compare(a: Side, b: Side, options: Options, pool: Sequence[Run] = ()) -> Comparison:
    """Compare two sides, or say why not. Raises ConfigError when nothing can be paired."""
    refused = [refusal for run in (*a.runs[1:], *b.runs) for refusal in refusals(a.first, run)]
    found = list({(r.key, said(r.a), said(r.b)): r for r in refused}.values())
    for side in (a, b):
        found += [_other_configuration(side, run) for run in side.runs[1:] if _differ(side, run)]
    about = changed(a.first, b.first, everything=options.everything)
    if found and not options.anyway:
        return Comparison(a, b, options, found, about)
    grid = pair_up(a, b, anyway=options.anyway, level=options.level)
    table = Table(grid, len(a.runs), options.margin, pool)
    specs = [Spec(metric) for metric in METRICS.values()]
    specs += [Spec(METRICS[m], None, p) for m, _, p in map(split_name, options.percentiles)]
    slots = sorted(set(grid.slot.tolist()))
    by_level = [Spec(METRICS[m], slot) for slot in slots for m in BY_LEVEL if len(slots) > 1]
    rows = table.rows([*specs, *by_level])
    levels: dict[str, dict[str, Row]] = {}
    for row in rows[len(specs) :]:
        level = next(level for level, slot in grid.slots[0].items() if slot == row.spec.slot)
        levels.setdefault(str(level), {})[row.spec.name] = row
    named = {row.spec.name: row for row in rows[: len(specs)]}
    return Comparison(a, b, options, found, about, named, levels, flips(grid, a, b), table)


BY_LEVEL = ("ttft_ms", "tpot_ms", "e2e_ms", "tokens_per_s", "quality")


def split_name(name: str) -> tuple[str, str, str]:
    """Split ttft_ms.p95 at its point."""
    return name.partition(".")


def _differ(side: Side, run: Run) -> bool:
    return identity(side.first.meta) != identity(run.meta)


def _other_configuration(side: Side, run: Run) -> Refusal:
    """Name the first key in which two runs of one side differ."""
    first, other = identity(side.first.meta), identity(run.meta)
    key = next(key for key in (*first, *other) if first.get(key) != other.get(key))
    why = f"{run.name} is no run of {side.first.name}'s configuration"
    return Refusal(key, first.get(key), other.get(key), why)


def flips(grid: Grid, a: Side, b: Side) -> list[Flip]:
    """Return the questions whose answers were right on one side and wrong on the other."""
    scores = grid.values("quality")
    before, after = (_mean(part) for part in (scores[: len(a.runs)], scores[len(a.runs) :]))
    asked = {**b.first.asked, **a.first.asked}
    found = dict[str, Flip]()
    for place, (name, *_) in enumerate(grid.keys):
        right = [bool(side[place] >= st.CORRECT) for side in (before, after)]
        if right[0] != right[1] and not math.isnan(before[place] + after[place]):
            found.setdefault(name, Flip(name, asked.get(name, ("", None))[0], *right))
    return list(found.values())


def ranking(sides: Sequence[Side], options: Options) -> dict[str, list[list[str]]]:
    """Return, for the metrics that matter, the runs from the best on; what cannot be told ties.

    Each pair is compared on its own, so that a difference must hold among all of them (Bonferroni).
    """
    pairs = list(itertools.combinations(range(len(sides)), 2))
    found = {pair: compare(sides[pair[0]], sides[pair[1]], options) for pair in pairs}
    ranks: dict[str, list[list[str]]] = {}
    for name in ("e2e_ms", "ttft_ms", "tokens_per_s", "quality"):
        beaten = [0] * len(sides)
        rows = {pair: found[pair].rows.get(name) for pair in pairs}
        if any(row is None or row.verdict == "not_measured" for row in rows.values()):
            continue
        for (first, second), row in rows.items():
            better = row and row.is_better
            if row and row.interval and better is not None and row.interval.p * len(pairs) < 0.05:
                beaten[first if better else second] += 1
        order = sorted(set(beaten))
        ranks[name] = [
            [sides[place].label for place, times in enumerate(beaten) if times == rank]
            for rank in order
        ]
    return ranks
