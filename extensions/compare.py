"""Which run is better, and is the difference real? The tools compare, ab, history and list.

    read -> Run -> Side -> Pairs -> Comparison (Row by Row, by extensions/inference.py) -> gates, output

The same question in both runs is a pair, and pairs carry far more than two averages: what makes a
question slow is in both of its times and falls out of their ratio. A verdict is what the interval
that holds for the whole table allows, and nothing else; "cannot tell" is a verdict too.

Chapters: runs, refusals, pairs, comparison, gates, words, text, files, history, command line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import difflib
import html
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import llm_stresstest as st

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from extensions.inference import Estimate, Family, Interval, Resampling, RunEffects, Sums

    Array = npt.NDArray[np.float64]

# The format of --format json. 1: first version.
SCHEMA_VERSION = 1
MARGIN = 0.05
GROUP = "analysis"


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
        given = self.config["concurrent"]
        return given if isinstance(given, list) else [given]

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
        _ = run.verdict, run.levels, run.started, run.aggregate["quality"], run.aggregate["e2e_ms"]
        return run
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        text = st.printable(f"{type(error).__name__}: {error}", 200)
        raise st.ConfigError(
            f"{path}: is damaged ({text}); run it through: llm_stresstest.py verify"
        ) from None


def _columns_of(saved: st.SavedRun) -> Run:
    import numpy as np  # noqa: PLC0415

    config = saved.config
    seen = Counter[tuple[str, int, int]]()
    keys, asked, rows, spans = [], {}, [], []
    for result in sorted(saved.results, key=lambda result: (result.index, result.turn)):
        level = config.levels[min(result.stage, len(config.levels) - 1)]
        place = (result.id, result.turn, level)
        keys.append((result.id, result.turn, seen[place], level))
        seen[place] += 1
        if result.turn == 0:
            asked[result.id] = (result.question, result.grader)
        rows.append(_row_of(result, config.slo))
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


def _row_of(result: st.Result, slo: st.Slo) -> tuple[list[float | None], list[float]]:
    """Return a request's columns, and which of them are only lower bounds."""
    failed = None if result.status == "cancelled" else float(not result.ok)
    good = None if slo == st.Slo() or failed is None else float(result.ok and slo.met_by(result))
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
    server = {key: meta.get(key) for key in ("server", "model", "embedded", "server_info")}
    return {"questions": meta["questions_sha256"], **flat(config), **flat(server)}


_NO_IDENTITY = ("thresholds", "hardware", "timeout", "startup_timeout", "cooldown")


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
    saved = st.load_results(path)
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
        a, b = (st.printable(_said(value), 100) for value in (self.a, self.b))
        return f"{self.key}: {a} and {b}: {self.why}"


def _said(value: Any) -> str:
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
    "repetition_penalty", "repeat_penalty", "ignore_eos", "min_tokens", "logit_bias", "best_of", "n",
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
        found.append(Refusal("token_source", *map(", ".join, sources), why))
    versions = [run.meta.get("metrics_version") for run in (a, b)]
    if versions[0] != versions[1]:
        why = "a metric that is defined in another way is another metric"
        found.append(Refusal("metrics_version", *versions, why))
    cached = [_cached_share(run.aggregate) for run in (a, b)]
    if None not in cached and abs(cast(float, cached[0]) - cast(float, cached[1])) >= 0.3:
        why = "prompts that come from the server's cache start sooner; set cache_bust for both"
        shown = [f"{share:.0%} of the prompt tokens from a cache" for share in cached]
        found.append(Refusal("prompt_cache", *shown, why))
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
        return [Refusal("questions", *shown, why)]
    shown = [str(run.meta["questions_sha256"])[:12] for run in (a, b)]
    return [Refusal("graders", *shown, "the same answer would get another grade")]


def config_refusals(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Refusal]:
    """Return the reasons that two configurations show before anything was run."""
    found = [
        Refusal(key, a.get(key), b.get(key), why)
        for key, why in _MUST_AGREE.items()
        if a.get(key) != b.get(key)
    ]
    extra = [config.get("extra_body") or {} for config in (a, b)]
    found += [
        Refusal(f"extra_body.{key}", *(part.get(key) for part in extra), _MUST_AGREE["stop"])
        for key in _SAMPLING
        if extra[0].get(key) != extra[1].get(key)
    ]
    if not common_levels(a, b):
        why = "there is no level in common, and at another one every time is another"
        found.append(Refusal("concurrent", a["concurrent"], b["concurrent"], why))
    return found


def common_levels(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[int]:
    """Return the concurrency levels that two configurations share."""
    levels = [_as_list(config["concurrent"]) for config in (a, b)]
    return [level for level in dict.fromkeys(levels[0]) if level in levels[1]]


def _as_list(value: Any) -> list[Any]:
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
    parts = {"config": run.config, "client": machine, "hardware": meta.get("hardware")}
    parts |= {"embedded": meta.get("embedded"), "server_info": meta.get("server_info")}
    tree = flat({key: value for key, value in parts.items() if value})
    return {
        re.sub(r"^config\.", "", key): value
        for key, value in tree.items()
        if not re.search(r"\.(raw|unavailable|thresholds)\b", key)
    }


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
        import numpy as np  # noqa: PLC0415

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
        import numpy as np  # noqa: PLC0415

        found = np.full(self.rows.shape, np.nan)
        for place, run in enumerate(self.runs):
            rows, column = self.rows[place], (run.late if late else run.columns)[name]
            there = rows >= 0
            found[place, there] = column[rows[there]]
        return found

    def rate(self, place: int, name: str, slot: int) -> tuple[float, Array] | None:
        """Return a run's rate at one level, and the same in blocks of time; None if not measured.

        What a request brings counts evenly from its send to its end. A block lasts at least twice
        the median of these spans, so that neighbouring blocks know little of each other.
        """
        import numpy as np  # noqa: PLC0415

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
        sent, end = run.sent_ms[here], run.end_ms[here]
        window = end.max() - sent.min()
        spans = np.maximum(end - sent, 1e-3)
        count = int(np.clip(window // (2 * np.median(spans)), 1, 30))
        edges = np.linspace(sent.min(), end.max(), count + 1)
        done = [np.nansum(brings * np.clip((edge - sent) / spans, 0, 1)) for edge in edges]
        return float(np.nansum(brings) / window * 1e3), np.diff(done) / (window / count) * 1e3


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
    def covers_runs(self) -> bool:
        """Whether the runs show how far runs of one configuration differ."""
        return min(self.runs_a, self.runs_b) >= 2 or len(self.pool) >= 3

    def rows(self, specs: Sequence[Spec]) -> list[Row]:
        """Return a row for each of the specs."""
        drafts = [self._draft(spec) for spec in specs]
        asked = [draft for draft in drafts if draft.sums is not None]
        estimates = self.resampling.estimate([cast("Sums", draft.sums) for draft in asked])
        for draft, estimate in zip(asked, estimates, strict=True):
            slack = tuple(math.log(LATE_FACTOR) * late / draft.pairs for late in draft.late)
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
        """Return how many more questions or runs a row's interval needs to reach less than `gap`."""
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
        import numpy as np  # noqa: PLC0415

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
            top = np.bincount(question, b[valid], size)
            draft.sums = self.inference.Sums(top, np.bincount(question, a[valid], size), log=True)
            if not (a[valid].sum() > 0 and b[valid].sum() > 0):
                draft.sums, draft.levels = None, None
        else:
            top = np.bincount(question, (b - a)[valid], size)
            bottom = np.bincount(question, minlength=size).astype(np.float64)
            draft.sums = self.inference.Sums(top, bottom)
        return draft

    def _is_exact(self, spec: Spec, values: Array, draft: Draft) -> bool:
        """Whether McNemar's test fits: right or wrong, one pair a question, one run each."""
        import numpy as np  # noqa: PLC0415

        single = len(values) == 2 and draft.pairs == draft.questions
        binary = bool(np.isin(values, (0.0, 1.0)).all())
        return spec.metric.kind == "share" and single and binary and not self.covers_runs

    def _middles(self, spec: Spec, values: Array) -> tuple[float | None, float | None]:
        """Return what stands in the table for A and B."""
        import numpy as np  # noqa: PLC0415

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
        import numpy as np  # noqa: PLC0415

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
        import numpy as np  # noqa: PLC0415

        count = 1 + max(self.grid.slot)
        slots = range(count) if spec.slot is None else [spec.slot]
        runs = range(len(self.grid.runs))
        found = [[self.grid.rate(run, spec.metric.name, slot) for slot in slots] for run in runs]
        draft = Draft(spec, pairs=len(self.grid.keys), questions=len(self.grid.ids))
        if any(rate is None for rates in found for rate in rates) or not self._same_limits(spec):
            return draft
        rates = cast("list[list[tuple[float, Array]]]", found)
        logs = np.array([[math.log(rate) for rate, _ in each] for each in rates])
        draft.levels = logs.mean(axis=1)
        means = np.exp(draft.levels)
        draft.a, draft.b = float(means[: self.runs_a].mean()), float(means[self.runs_a :].mean())
        value = draft.levels[self.runs_a :].mean() - draft.levels[: self.runs_a].mean()
        if min(self.runs_a, self.runs_b) >= 2:  # the runs themselves show how far they stray
            draft.estimate = self.resampling.independent(float(value), 0.0, self.inference.LARGE_DF)
        else:
            blocks = [[blocks for _, blocks in each] for each in rates]
            draft.estimate = self.resampling.rates(blocks[: self.runs_a], blocks[self.runs_a :])
        return draft

    def _same_limits(self, spec: Spec) -> bool:
        """Whether goodput means the same in all runs."""
        limits = [run.config.get("slo") for run in self.grid.runs]
        return spec.metric.name != "goodput_per_s" or all(slo == limits[0] for slo in limits)

    def _energy_draft(self, spec: Spec) -> Draft:
        """Compare the energy of an answer: a run has one, so only several runs can tell."""
        import numpy as np  # noqa: PLC0415

        used = [energy_an_answer(run.aggregate) for run in self.grid.runs]
        draft = Draft(spec, pairs=len(self.grid.keys))
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
        import numpy as np  # noqa: PLC0415

        if min(self.runs_a, self.runs_b) >= 2:
            levels = np.column_stack([cast("Array", draft.levels) for draft in drafts])
            return self.inference.RunEffects(levels[: self.runs_a], levels[self.runs_a :])
        slots = [self.grid.slots[0]] * len(self.pool)
        pool = Table(Grid(self.pool, slots), len(self.pool) - 1, self.margin)
        levels = [pool._draft(draft.spec).levels for draft in drafts]
        empty = np.zeros(len(self.pool))
        return self.inference.RunEffects.of_pool(
            np.column_stack([empty if level is None else level for level in levels])
        )

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
        if estimate.between > estimate.variance / 2 and min(self.runs_a, self.runs_b) >= 2:
            runs = min(self.runs_a, self.runs_b)
            return family.more_runs(estimate, runs, gap), "runs"
        kind = "time" if draft.spec.metric.kind == "rate" else "questions"
        return family.more_questions(estimate, max(draft.questions, 1), gap), kind


def _is_log(spec: Spec) -> bool:
    return spec.metric.kind == "latency"


def _mean(values: Array) -> Array:
    """Return each column's mean of what was measured; NaN where nothing was."""
    import numpy as np  # noqa: PLC0415

    counts = np.isfinite(values).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _levels(values: Array, spec: Spec) -> Array:
    """Return how far each run lies from the mean of all, question by question: (runs,)."""
    import numpy as np  # noqa: PLC0415

    middle = np.where(np.isfinite(values), _mean(values), np.nan)
    if spec.metric.kind == "tokens":
        return np.log(np.maximum(np.nansum(values, 1), 0.5) / np.maximum(np.nansum(middle, 1), 0.5))
    return np.nan_to_num(_mean((values - middle).T))


def energy_an_answer(aggregate: Mapping[str, Any]) -> float | None:
    """Return the watt-hours of an answer from the best source that measured any."""
    sources = aggregate.get("energy") or {}
    for source in ("wall", "gpu", "cpu"):
        used = (sources.get(source) or {}).get("wh_per_1000_answers")
        if used:
            return float(used) / 1000
    return None


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
    content: dict[str, Any] = {"a": _round(row.a), "b": _round(row.b), kind: None}
    content |= {"ci95": None, "ci_table": None, "p": None}
    if row.interval is not None:
        content[kind] = _round(row.shown(row.interval.value))
        for name in ("ci95", "ci_table"):
            content[name] = [_round(row.shown(end)) for end in getattr(row.interval, name)]
        content["p"] = row.interval.p
    return {
        **content,
        "verdict": row.verdict,
        "needs_more": row.needs_more,
        "needs_more_of": row.needs if row.needs_more is not None else None,
        "pairs": row.pairs,
        "timeouts": list(row.late),
    }


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def compare(a: Side, b: Side, options: Options, pool: Sequence[Run] = ()) -> Comparison:
    """Compare two sides, or say why not. Raises ConfigError when nothing can be paired."""
    refused = [refusal for run in (*a.runs[1:], *b.runs) for refusal in refusals(a.first, run)]
    found = list({(r.key, _said(r.a), _said(r.b)): r for r in refused}.values())
    for side in (a, b):
        found += [_other_configuration(side, run) for run in side.runs[1:] if _differ(side, run)]
    about = changed(a.first, b.first, everything=options.everything)
    if found and not options.anyway:
        return Comparison(a, b, options, found, about)
    grid = pair_up(a, b, anyway=options.anyway, level=options.level)
    table = Table(grid, len(a.runs), options.margin, pool)
    specs = [Spec(metric) for metric in METRICS.values()]
    specs += [Spec(METRICS[m], None, p) for m, _, p in map(_split_name, options.percentiles)]
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


def _split_name(name: str) -> tuple[str, str, str]:
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


# === Gates ===


class Outcome(NamedTuple):
    """What became of a gate."""

    gate: str  # as it was written
    kind: str  # "fail-if", "require", "not-worse"
    state: str  # "passed", "failed", "undecided"
    message: str


@dataclasses.dataclass(frozen=True)
class Gate:
    """A condition on a comparison: `e2e_ms not slower than 10%`, or `ttft_ms.p95 > 500`."""

    text: str
    kind: str
    metric: str
    word: str = ""  # slower, faster, higher, lower, worse, better, same
    negated: bool = False
    limit: float | None = None  # a ratio's change or a difference; None: as the word says
    sign: str = ""  # of an absolute condition
    bound: float = 0.0

    ABSOLUTE = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")
    RELATIVE = re.compile(
        r"\s*([\w.]+)\s+(not\s+)?(slower|faster|higher|lower|worse|better|same)"
        r"(?:\s+than\s+(\d+(?:\.\d+)?)\s*(%|points?))?\s*"
    )
    NOT_WORSE = re.compile(r"\s*([\w.]+)\s+(\d+(?:\.\d+)?)\s*(%|points?)\s*")

    @classmethod
    def parse(cls, text: str, kind: str) -> Self:
        """Read a gate. Raises ConfigError, one line."""
        option = f"--{kind} {json.dumps(st.printable(text, 100), ensure_ascii=False)}"
        if kind != "not-worse" and (found := cls.ABSOLUTE.fullmatch(text)):
            metric, sign, bound = found.groups()
            return cls(text, kind, metric, sign=sign, bound=float(bound))
        pattern = cls.NOT_WORSE if kind == "not-worse" else cls.RELATIVE
        found = pattern.fullmatch(text)
        if found is None:
            example = {
                "not-worse": '"quality 2 points"',
                "fail-if": '"e2e_ms slower" or "ttft_ms.p95 > 500"',
                "require": '"e2e_ms not slower than 10%"',
            }[kind]
            raise st.ConfigError(f"{option}: cannot be read; write for example {example}")
        if kind == "not-worse":
            metric, number, unit = found.groups()
            negated, word = "not", "worse"
        else:
            metric, negated, word, number, unit = found.groups()
        gate = cls(text, kind, metric, word, bool(negated))
        problem = gate._problem(unit)
        if problem is not None:
            raise st.ConfigError(f"{option}: {problem}")
        limit = None if number is None else float(number) / 100
        return dataclasses.replace(gate, limit=limit)

    def _problem(self, unit: str | None) -> str | None:
        """Say what is wrong with the metric, the word or the unit."""
        name, _, percentile = _split_name(self.metric)
        known = METRICS.get(name)
        if known is None:
            near = difflib.get_close_matches(name, METRICS, 1, 0)[0]
            return f"{name} is not compared; did you mean {near}?"
        if percentile and (known.kind != "latency" or percentile not in st.PERCENTILES):
            return f"{self.metric} is not compared; percentiles are {', '.join(st.PERCENTILES)}"
        if self.word in ("worse", "better") and not known.better:
            return f"{name} has no better or worse; write higher or lower"
        if self.word in ("slower", "faster") and known.kind not in ("latency", "rate"):
            return f"{name} is not fast or slow; write higher or lower"
        if unit is not None and known.is_ratio != (unit == "%"):
            right = "%" if known.is_ratio else "points"
            return f"{name} is compared in {right}; write the limit in {right}"
        return None

    @property
    def direction(self) -> int:
        """Whether the word means more (1) or less (-1)."""
        metric = METRICS[_split_name(self.metric)[0]]
        bad = -1 if metric.better > 0 else 1
        meanings = {"higher": 1, "lower": -1, "worse": bad, "better": -bad}
        return meanings.get(self.word, bad if self.word == "slower" else -bad)

    def check(self, comparison: Comparison) -> Outcome:
        """Hold the gate against a comparison."""
        if self.sign:
            state, message = self._check_value(comparison.b)
        else:
            state, message = self._check_row(comparison)
        return Outcome(self.text, self.kind, state, message)

    def _check_row(self, comparison: Comparison) -> tuple[str, str]:
        row, table = comparison.rows[self.metric], comparison.table
        if row.interval is None or table is None:
            state = "passed" if self.kind == "fail-if" else "undecided"
            reason = "was not measured" if row.verdict == "not_measured" else needs_text(row)
            return state, f"{self.metric}: {reason or 'cannot tell'}"
        low, high = row.interval.ci_table
        what = f"{self.metric}: {change_text(row)} ({interval_text(row)})"
        if self.word == "same":
            least, most = table.limits(row.metric)
            good, bad = least <= low and high <= most, high < least or low > most
            edge = most
        else:
            edge = self._edge(row, comparison)
            beyond, short = (low > edge, high < edge) if self.direction > 0 else (
                high < edge, low > edge
            )  # fmt: skip
            good, bad = (short, beyond) if self.negated else (beyond, short)
        if self.kind == "fail-if":
            fails = bad if self.negated else good
            return ("failed" if fails else "passed"), what
        if good or bad:
            return ("passed" if good else "failed"), what
        more, needs = table.more(row, abs(edge - row.interval.value))
        ask = dataclasses.replace(row, needs_more=more, needs=needs, verdict="cannot_tell")
        return "undecided", f"{what}; {needs_text(ask)}"

    def _edge(self, row: Row, comparison: Comparison) -> float:
        """Return the limit on the interval's scale."""
        limit = self.limit
        if limit is None:
            limit = comparison.options.margin if self.negated and self.kind == "require" else 0.0
        signed = limit * self.direction
        return math.log1p(max(signed, -0.999)) if row.metric.is_ratio else signed

    def _check_value(self, side: Side) -> tuple[str, str]:
        """Hold a number of the aggregate against a bound."""
        found = [look_up(run.aggregate, self.metric) for run in side.runs]
        known = [value for value, _ in found if value is not None]
        if len(known) < len(found):
            state = "passed" if self.kind == "fail-if" else "undecided"
            return state, f"{self.metric}: was not measured"
        value = sum(known) / len(known)
        what = f"{self.metric} is {value:.6g}, asked {self.sign} {self.bound:g}"
        holds = COMPARE[self.sign](value, self.bound)
        if self.kind == "fail-if":
            return ("failed" if holds else "passed"), what
        ends = [end for _, interval in found for end in interval or (None, None)]
        if None in ends:
            return "undecided", f"{what}; it has no interval: too few requests, or none is known"
        met = [COMPARE[self.sign](cast(float, end), self.bound) for end in ends]
        what += f" (95 %: {min(cast(list[float], ends)):.6g} to {max(cast(list[float], ends)):.6g})"
        if all(met) or not any(met):
            return ("passed" if all(met) else "failed"), what
        return "undecided", f"{what}; more questions would tell"


COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
    ">": lambda value, bound: value > bound,
}


def look_up(
    aggregate: Mapping[str, Any], name: str
) -> tuple[float | None, Sequence[float | None] | None]:
    """Return a number of the aggregate by its name, and its 95 % interval if it has one.

    `stages.8.ttft_ms.p95` is that of the level 8. Raises ConfigError for an unknown name.
    """
    tree: Any = aggregate
    path = name.split(".")
    if path[0] == "stages" and len(path) > 2:
        stages = aggregate.get("stages") or []
        tree = next((part for part in stages if str(part.get("concurrent")) == path[1]), None)
        path = path[2:]
    outer: Any = None
    for key in path:
        outer, tree = tree, tree.get(key, math.inf) if isinstance(tree, Mapping) else math.inf
    if isinstance(tree, Mapping) and "avg" in tree:
        outer, tree, path = tree, tree["avg"], [*path, "avg"]
    if tree is not None and (not isinstance(tree, int | float) or tree == math.inf):
        names = [key for key, value in flat(aggregate).items() if isinstance(value, int | float)]
        near = difflib.get_close_matches(name, names, 1, 0)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise st.ConfigError(f"{st.printable(name, 80)}: is no number of the results{hint}")
    if path == ["error_rate"]:
        counts = (aggregate.get("failed", 0), aggregate.get("failed", 0) + aggregate.get("ok", 0))
        return tree, st.wilson_interval(*counts)
    interval = outer.get("ci95") if isinstance(outer, Mapping) else None
    if isinstance(interval, Mapping):
        interval = interval.get(path[-1])
    if path == ["quality", "avg"]:
        interval = (aggregate["quality"].get("of_answers") or {}).get("ci95")
    return tree, interval


def outcomes_json(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return the gates as `--format json` and `--notify` show them."""
    return [outcome._asdict() for outcome in outcomes]


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 1 when a gate failed, 5 when one is undecided, else 0."""
    states = {outcome.state for outcome in outcomes if outcome.kind != "not-worse"}
    return 1 if "failed" in states else 5 if "undecided" in states else 0


def notify(command: str, content: Mapping[str, Any]) -> None:
    """Run a command with JSON on its standard input; a failure is told, and changes nothing."""
    try:
        words = shlex.split(command)
        text = json.dumps(content, ensure_ascii=False)
        done = subprocess.run(words, input=text, text=True, timeout=60, check=False)  # noqa: S603
        problem = f"ended with exit code {done.returncode}" if done.returncode else None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem is not None:
        st.notice(f"--notify {command}: {problem}")


# === Words ===

MINUS = "\u2212"
VERDICT_SIGN = {"same": "=", "cannot_tell": "?", "not_measured": "–"}


def percent(share: float, *, sign: bool = False) -> str:
    """Return a share, or with `sign` a change, in percent."""
    text = st.format_share(share)
    return "+" + text if sign and share > 0 and text[0] != "0" else text


def _points(share: float) -> str:
    """Return a difference of shares in points, without the unit."""
    return percent(share, sign=True).removesuffix("%").rstrip(st.NARROW_SPACE)


def value_text(metric: Metric, value: float | None) -> str:
    """Return a value of the table."""
    if value is None:
        return "–"
    if metric.kind == "latency":
        return st.format_ms(value)
    if metric.kind == "share":
        return percent(value)
    unit = f"{st.NARROW_SPACE}Wh" if metric.kind == "energy" else ""
    return st.format_number(value) + unit


def change_text(row: Row) -> str:
    """Return the difference: +7 %, or −3 points."""
    if row.interval is None:
        return "–"
    return _change(row, row.interval.value, unit=True)


def _change(row: Row, value: float, *, unit: bool) -> str:
    if not row.metric.is_ratio:
        points = _points(row.shown(value))
        return f"{points}{st.NARROW_SPACE}points" if unit else points
    change = row.shown(value) - 1
    return percent(change, sign=True) if unit else _points(change)


def interval_text(row: Row) -> str:
    """Return the interval that decides: −14 to +17 %."""
    if row.interval is None:
        return "–"
    low, high = row.interval.ci_table
    return f"{_change(row, low, unit=False)} to {_change(row, high, unit=True)}"


def verdict_text(row: Row, margin: float) -> str:
    """Return sign and word."""
    if row.verdict == "same":
        wide = margin * (ERROR_MARGIN if row.metric.name == "error_rate" else 1)
        limit = percent(wide) if row.metric.is_ratio else f"{wide * 100:g}{st.NARROW_SPACE}points"
        return f"= the same within {limit}"
    sign = VERDICT_SIGN.get(row.verdict, "")
    if not sign:
        arrow = "↑" if row.verdict == "higher" else "↓"
        sign = {True: "✓", False: "✕", None: arrow}[row.is_better]
    return f"{sign} {row.verdict.replace('_', ' ')}"


def needs_text(row: Row) -> str:
    """Say what would make "cannot tell" a verdict."""
    if row.verdict != "cannot_tell":
        return ""
    if row.needs == "time":
        if row.needs_more is None:
            return "a longer run"
        times = 1 + row.needs_more / max(row.pairs, 1)
        return f"a run {times:.2g} times as long"
    if row.needs_more is None:
        return "the runs differ too much"
    unit = "runs a side" if row.needs == "runs" else "questions"
    return f"about {about(row.needs_more)} more {unit}"


def about(count: int) -> str:
    """Return a number that does not claim to be exact."""
    if count < 20:
        return str(count)
    step = 10 ** max(1, math.floor(math.log10(count)) - 1)
    return f"{math.ceil(count / step) * step:,}"


PHRASES = {
    "e2e_ms": ("answers take", "less time", "longer"),
    "ttft_ms": ("first token comes", "sooner", "later"),
    "tpot_ms": ("further tokens come", "faster", "slower"),
    "tokens_per_s": ("total tokens/s are", "lower", "higher"),
    "quality": ("share of right answers is", "lower", "higher"),
    "error_rate": ("share of failed requests is", "lower", "higher"),
    "token_avg": ("answers are", "shorter", "longer"),
    "energy": ("answers take", "less energy", "more energy"),
    "requests_per_s": ("requests/s are", "lower", "higher"),
    "goodput_per_s": ("good requests/s are", "lower", "higher"),
    "slo_attainment": ("share within the limits is", "lower", "higher"),
    "answer_ttft_ms": ("first token of the answer comes", "sooner", "later"),
}


def sentence(comparison: Comparison) -> str:
    """Return the answer in one sentence that a person can repeat aloud."""
    label = comparison.b.label
    rows = [comparison.rows[name] for name in PHRASES if name in comparison.rows]
    differ = [row for row in rows if row.verdict in row.metric.words()]
    between = "A and " + label if comparison.covered else "these two runs"
    if not differ:
        judged = [row for row in rows if row.verdict != "not_measured"]
        if judged and all(row.verdict == "same" for row in judged):
            return f"{between[0].upper()}{between[1:]} are the same in all {len(judged)} rows."
        return f"No difference between {between} is beyond chance."
    said = []
    for row in differ[:2]:
        start, less, more = PHRASES[row.metric.name]
        size = change_text(row).lstrip("+" + MINUS)
        said.append(f"{start} {size} {less if cast(Any, row.interval).value < 0 else more}")
    more = len(differ) - len(said)
    others = f"; {more} more rows differ" if more > 1 else "; one more row differs" if more else ""
    alone = "; no other difference is beyond chance" if len(differ) == 1 else ""
    return f"{label}'s {' and '.join(said)}{others}{alone}."


def caveats(comparison: Comparison) -> list[str]:
    """Return what a reader must know besides the table."""
    lines = [f"not comparable, compared anyway: {refusal.line()}" for refusal in comparison.refused]
    for side in (comparison.a, comparison.b):
        for run in side.runs:
            lines += [
                f"{side.label} ({st.printable(run.name, 100)}) is {run.verdict}: "
                f"{st.printable(reason.get('message'), 300)} [{st.printable(reason.get('code'))}]"
                for reason in run.meta["validity"].get("reasons", [])
                if run.verdict != "VALID"
            ]
    if comparison.implausible:
        names = ", ".join(row.metric.label for row in comparison.implausible)
        lines.append(
            f"implausibly better ({names}): look whether answers came from a cache, were cut, "
            "empty or shorter"
        )
    late = max((row.late for row in comparison.rows.values()), default=(0, 0))
    if any(late):
        lines.append(
            f"timed out: {late[0]} of A, {late[1]} of {comparison.b.label}; each counts as between "
            f"its timeout and {LATE_FACTOR} times as long"
        )
    return lines


def one_run_note(comparison: Comparison) -> str:
    """Say what the verdicts cover."""
    a, b = (len(side.runs) for side in (comparison.a, comparison.b))
    if not comparison.covered:
        return (
            "One run each: this holds for these two runs, not yet for the next. "
            "To include the machine's own drift: llm_stresstest.py ab"
        )
    if min(a, b) >= 2:
        return f"{a} and {b} runs: the intervals include how far runs differ among themselves."
    pool = len(cast(Table, comparison.table).pool)
    return f"One run each; {pool} equal runs of the folder say how far such runs differ."


# === Text ===


class Cells(NamedTuple):
    """A row as all tables show it."""

    name: str
    middle: str
    a: str
    b: str
    change: str
    interval: str
    verdict: str
    needs: str


def cells_of(row: Row, margin: float, name: str | None = None) -> Cells:
    """Return a row's cells."""
    metric = row.metric
    middle = row.spec.percentile or metric.middle
    if metric.kind == "rate" or metric.kind == "share":
        middle = ""
    return Cells(
        f"{name or metric.label}{' ' + metric.arrow if metric.arrow else ''}",
        middle,
        value_text(metric, row.a),
        value_text(metric, row.b),
        change_text(row),
        interval_text(row),
        verdict_text(row, margin),
        needs_text(row),
    )


def shown_rows(comparison: Comparison) -> list[Row]:
    """Return the rows that say something: measured, and not twice the same."""
    rows = list(comparison.rows.values())
    if comparison.options.everything:
        return rows
    same = _equal_rows(comparison.rows.get("ttft_ms"), comparison.rows.get("answer_ttft_ms"))
    hidden = {"answer_ttft_ms"} if same else set()
    failed = comparison.rows.get("error_rate")
    if failed is not None and not failed.a and not failed.b:
        hidden.add("error_rate")
    return [row for row in rows if row.verdict != "not_measured" and row.spec.name not in hidden]


def _equal_rows(one: Row | None, other: Row | None) -> bool:
    return one is not None and other is not None and (one.a, one.b) == (other.a, other.b)


VERDICT_STYLE = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}
RUN_SIGN = {"VALID": "✓", "SUSPECT": "▲", "INVALID": "✕"}


def text_parts(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what the terminal shows, the answer first."""
    parts: list[Any] = [st.styled((sentence(comparison), "bold"))]
    parts.append(st.styled((one_run_note(comparison), "dim")))
    parts += ["", *_run_lines(comparison), *_changed_lines(comparison), ""]
    parts += _table_parts(comparison)
    if comparison.levels:
        parts += ["", *_level_parts(comparison)]
    parts += ["", st.styled((legend(comparison), "dim"))]
    parts += _flip_lines(comparison)
    notes = caveats(comparison)
    parts += [""] if notes else []
    for note in notes:
        parts += _hanging(("▲ ", "yellow"), note)
    if outcomes:
        parts += ["", *outcome_lines(outcomes)]
    return parts


def _run_lines(comparison: Comparison) -> list[Any]:
    lines = []
    for side in (comparison.a, comparison.b):
        for run in side.runs:
            total, failed = run.aggregate["ok"], run.aggregate["failed"]
            style = VERDICT_STYLE.get(run.verdict, "")
            lines.append(
                st.styled(
                    (f"{side.label}  ", "bold"),
                    f"{st.printable(run.name, 100)}  ",
                    (f"{RUN_SIGN.get(run.verdict, '')} {run.verdict}", style),
                    (f"  {total} ok, {failed} failed · {run.started:%Y-%m-%d %H:%M}", "dim"),
                )
            )
    return lines


def _changed_lines(comparison: Comparison) -> list[Any]:
    if not comparison.changed:
        return [st.styled(("changed  ", "dim"), "nothing that is known")]
    label = comparison.b.label
    return [
        st.styled(("changed  ", "dim"), f"{st.printable(key, 80)}: {_pair_text(values)}")
        for key, values in comparison.changed.items()
    ] + ([st.styled((f"         (A → {label})", "dim"))] if len(comparison.changed) > 1 else [])


def _pair_text(values: Sequence[Any]) -> str:
    a, b = (st.printable(_said(value), 60) for value in values)
    return f"{a} → {b}"


def _table_parts(comparison: Comparison) -> list[Any]:
    """Return the table, two lines a row; where that is too wide a block a row. Nothing is cut."""
    from rich.cells import cell_len  # noqa: PLC0415

    width, margin, label = st.terminal_width(), comparison.options.margin, comparison.b.label
    rows = shown_rows(comparison)
    cells = [cells_of(row, margin) for row in rows]
    lines = [("", "A", label, f"{label} against A", "verdict")]
    for each in cells:
        lines.append((each.name, each.a, each.b, each.change, each.verdict))
        lines.append((each.middle, "", "", each.interval, f"  {each.needs}".rstrip()))
    sizes = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    whole = sum(sizes) + 2 * (len(sizes) - 1)
    if width < NARROWEST_TABLE or whole > width:
        return [part for each in cells for part in _block(each)]
    pictures = [""] * len(lines)
    if whole + PICTURE + 2 <= width:
        pictures = ["−50 %" + " " * 6 + "0" + " " * 6 + "+50 %"]
        pictures += [text for row in rows for text in (interval_picture(row, margin), "")]
    parts = []
    for place, (line, picture) in enumerate(zip(lines, pictures, strict=True)):
        blanks = [" " * (size - cell_len(cell)) for cell, size in zip(line, sizes, strict=True)]
        figures = [blank + cell for blank, cell in zip(blanks[1:4], line[1:4], strict=True)]
        last = (line[4] + blanks[4] + "  " + picture).rstrip()
        plain = "  ".join((line[0] + blanks[0], *figures))
        style = VERDICT_LINE[place % 2] if place else "dim"
        parts.append(st.styled((f"{plain}  ", "dim" if place % 2 == 0 else ""), (last, style)))
    return parts


def _block(cells: Cells) -> list[Any]:
    lines = [st.styled((cells.name, "bold"), f"  {cells.verdict}")]
    lines.append(st.styled(f"  {cells.a} → {cells.b}  {cells.change} ({cells.interval})"))
    return [*lines, st.styled((f"  {cells.needs}", "dim"))] if cells.needs else lines


NARROWEST_TABLE = 72
PICTURE = 23
VERDICT_LINE = ("dim", "bold")


def interval_picture(row: Row, margin: float, half: int = 11) -> str:
    """Draw the interval that decides from −50 % to +50 %: where it leaves, an arrow."""
    if row.interval is None:
        return ""
    scale = 1.0 if row.metric.is_ratio else 0.0

    def place(value: float) -> int:
        change = row.shown(value) - scale
        return round(max(-0.5, min(0.5, change)) * 2 * half) + half

    low, high = row.interval.ci_table
    cells = ["·" if abs(i - half) <= margin * 2 * half else " " for i in range(2 * half + 1)]
    cells[half] = "│"
    for i in range(place(low), place(high) + 1):
        cells[i] = "━" if i != half else "┿"
    cells[place(row.interval.value)] = "●"
    if row.shown(low) - scale < -0.5:
        cells[0] = "◀"
    if row.shown(high) - scale > 0.5:
        cells[-1] = "▶"
    return "".join(cells)


def _level_parts(comparison: Comparison) -> list[Any]:
    """Return the verdicts level by level."""
    names = [
        name
        for name in BY_LEVEL
        if any(rows[name].verdict != "not_measured" for rows in comparison.levels.values())
    ]
    table = st.table("at once", *(METRICS[name].label for name in names))
    for level, rows in comparison.levels.items():
        table.add_row(level, *(f"{change_text(rows[name])} {_sign(rows[name])}" for name in names))
    return [table]


def _sign(row: Row) -> str:
    return verdict_text(row, 0)[:1]


def legend(comparison: Comparison) -> str:
    """Explain the table in a few lines."""
    words = "↓ less is better, ↑ more is better."
    levels = sorted(set(comparison.levels))
    if levels:
        words += f" All levels together ({', '.join(comparison.levels)} at once), paired in each."
    return (
        f"{words} Times and lengths: the mean ratio over {comparison.pairs:,} pairs of the same "
        "question; it need not be the ratio of the two medians. The intervals hold for all rows "
        "together: one in twenty tables has a false alarm, not one in twenty rows."
    )


def _flip_lines(comparison: Comparison) -> list[Any]:
    flipped = comparison.flipped
    if not flipped:
        return []
    gained = sum(flip.b for flip in flipped)
    lines: list[Any] = ["", f"{gained} became right, {len(flipped) - gained} became wrong:"]
    most = len(flipped) if comparison.options.everything else 10
    for flip in flipped[:most]:
        word = "✓ now right" if flip.b else "✕ now wrong"
        text = st.printable(flip.text, 60)
        lines += _hanging((f"  {word}  ", ""), f"{st.printable(flip.id, 80)}  {text}")
    if len(flipped) > most:
        lines.append(st.styled((f"  and {len(flipped) - most} more; --all shows them", "dim")))
    return lines


OUTCOME_SIGN = {"passed": ("✓", "green"), "failed": ("✕", "red"), "undecided": ("?", "yellow")}


def _hanging(head: tuple[str, str], text: str) -> list[Any]:
    """Return a remark whose later lines stand below its text."""
    return list(st.wrapped(st.styled(head, text), st.terminal_width(), hang=2))


def outcome_lines(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return a line a gate."""
    lines = list[Any]()
    for outcome in outcomes:
        sign, style = OUTCOME_SIGN[outcome.state]
        what = st.printable(outcome.gate, 100)
        head = (f"{sign} {outcome.state}  ", style)
        lines += _hanging(head, f"--{outcome.kind} {what}: {outcome.message}")
    return lines


# === Files ===


def markdown(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return it for a wiki, an issue, or a step summary."""
    label, margin = comparison.b.label, comparison.options.margin
    lines = [f"**{_md(sentence(comparison))}**", "", _md(one_run_note(comparison)), ""]
    for side in (comparison.a, comparison.b):
        lines += [f"- {side.label}: {_md(run.name)}, {run.verdict}" for run in side.runs]
    for key, values in comparison.changed.items():
        lines.append(f"- changed: {_md(key)}: {_md(_pair_text(values))}")
    lines += ["", f"| | A | {label} | {label} against A | 95 %, whole table | verdict |"]
    lines.append("|---|--:|--:|--:|--:|---|")
    for row in shown_rows(comparison):
        cells = cells_of(row, margin, row.metric.title)
        verdict = f"{cells.verdict} ({cells.needs})" if cells.needs else cells.verdict
        lines.append(
            f"| {cells.name} | {cells.a} | {cells.b} | {cells.change} | {cells.interval} | {verdict} |"
        )
    lines += ["", _md(legend(comparison))]
    if comparison.flipped:
        names = ", ".join(
            f"{_md(f.id)} ({'right' if f.b else 'wrong'})" for f in comparison.flipped
        )
        lines += ["", f"Grades that changed: {names}"]
    notes = [f"- ▲ {_md(note)}" for note in caveats(comparison)]
    lines += ["", *notes] if notes else []
    gates = [
        f"- {OUTCOME_SIGN[o.state][0]} {o.state}: `{_md(o.gate)}`: {_md(o.message)}"
        for o in outcomes
    ]
    lines += ["", *gates] if gates else []
    return "\n".join(lines) + "\n"


def _md(text: object) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", st.printable(text, 1000))


def junit(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return it as JUnit XML: a test case a gate, or a row where there is no gate."""
    from xml.etree import ElementTree as Xml  # noqa: PLC0415, S405 - writes only

    names = f"{comparison.a.first.name} and {comparison.b.first.name}"
    suite = Xml.Element("testsuite", name=st.printable(f"compare {names}", 300))
    counts = Counter[str]()
    for outcome in outcomes:
        case = Xml.SubElement(
            suite, "testcase", classname="compare", name=st.printable(outcome.gate, 300)
        )
        counts[outcome.state] += 1
        if outcome.state != "passed":
            tag = "failure" if outcome.state == "failed" else "error"
            Xml.SubElement(case, tag, message=st.printable(outcome.message, 500))
    for row in [] if outcomes else shown_rows(comparison):
        case = Xml.SubElement(suite, "testcase", classname="compare", name=row.spec.name)
        cells = cells_of(row, comparison.options.margin)
        text = f"{cells.a} and {cells.b}: {cells.change} ({cells.interval}), {cells.verdict}"
        Xml.SubElement(case, "system-out").text = st.printable(text, 500)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(counts["failed"]))
    suite.set("errors", str(counts["undecided"]))
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suite, "unicode") + "\n"


def github(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return annotations, and write the step summary where the runner wants it."""
    summary = markdown(comparison, outcomes)
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"## compare\n\n{summary}\n")
        except OSError as error:
            raise st.ResultsError(f"{path}: cannot be written: {error.strerror}") from None
    lines = []
    level = {"passed": "notice", "failed": "error", "undecided": "warning"}
    for outcome in outcomes:
        title = _annotation(f"{outcome.state}: {outcome.gate}").replace(":", "%3A")
        title = title.replace(",", "%2C")
        lines.append(f"::{level[outcome.state]} title={title}::{_annotation(outcome.message)}")
    if not outcomes:
        lines.append(f"::notice title=compare::{_annotation(sentence(comparison))}")
    return "\n".join(lines) + "\n" + ("" if path else summary)


def _annotation(text: str) -> str:
    return st.printable(text, 1000).replace("%", "%25")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root{{--bg:#fbfbf9;--sunken:#f3f3ef;--ink:#1b1e23;--ink2:#4a5058;--ink3:#666c75;--line:#e2e2dc;
--rule:#b9bab4;--b:#b8500f;--ok:#0a6b4d;--warn:#7d5200;--bad:#b0133f;color-scheme:light}}
@media (prefers-color-scheme:dark){{:root{{--bg:#14161a;--sunken:#22262c;--ink:#eceae4;
--ink2:#b8bcc2;--ink3:#969ca5;--line:#2f343b;--rule:#555c66;--b:#f0995a;--ok:#5fcf9f;
--warn:#e9b54d;--bad:#ff8097;color-scheme:dark}}}}
body{{margin:0 auto;max-width:1152px;padding:32px;background:var(--bg);color:var(--ink);
font:16px/1.5 -apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums lining-nums}}
h1{{font-size:32px;line-height:1.22;font-weight:650;max-width:24em;margin:0 0 8px}}
h2{{font-size:22px;line-height:1.3;margin:56px 0 8px}}
.lede{{font-size:18px;color:var(--ink2);margin:0 0 32px;max-width:44em}}
.note,small{{color:var(--ink3);font-size:13px}} small{{display:block}}
code,.name{{font-family:ui-monospace,"SF Mono",Consolas,"Liberation Mono",monospace;
font-size:13px;overflow-wrap:anywhere}}
table{{border-collapse:collapse;width:100%;font-size:14px;margin:0 0 12px}}
th,td{{padding:8px 12px 8px 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}}
thead th{{border-bottom-color:var(--rule);font-weight:600;font-size:13px}}
tbody th{{font-weight:400}}
.n{{text-align:right;white-space:nowrap}} .v{{font-weight:650}}
.ok{{color:var(--ok)}} .warn{{color:var(--warn)}} .bad{{color:var(--bad)}}
svg{{display:block}} .caveat{{border-left:3px solid var(--warn);padding:0 12px;margin:12px 0}}
@media (max-width:720px){{body{{padding:16px}} h1{{font-size:25px}} thead{{display:none}}
tr{{display:block;border-bottom:1px solid var(--line);padding:8px 0}}
td,tbody th{{display:flex;justify-content:space-between;gap:16px;border:0;padding:2px 0;
text-align:right;white-space:normal}} tbody th{{font-weight:650}}
td[data-of]::before{{content:attr(data-of);color:var(--ink3)}}}}
@media print{{:root{{color-scheme:light}} tr{{break-inside:avoid}}}}
</style></head>
<body><main>
<h1>{h1}</h1>
<p class="lede">{lede}</p>
{runs}
<section aria-label="verdicts"><h2>{against}</h2>
{table}
<p class="note">{legend}</p></section>
{gates}{caveats}{levels}{flips}
</main></body></html>
"""


def page(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return one self-contained HTML page, without a script and without the network."""
    names = [run.name for side in (comparison.a, comparison.b) for run in side.runs]
    notes = "".join(f'<p class="caveat">{_h(note)}</p>\n' for note in caveats(comparison))
    gates = "".join(
        f'<p class="{_OUTCOME_CLASS[o.state]}"><span aria-hidden="true">'
        f"{OUTCOME_SIGN[o.state][0]}</span> {o.state}: <code>{_h(o.gate)}</code> {_h(o.message)}</p>\n"
        for o in outcomes
    )
    return PAGE.format(
        title=_h(" and ".join(names)),
        h1=_h(sentence(comparison)),
        lede=_h(one_run_note(comparison)),
        runs=_html_runs(comparison),
        against=f"{comparison.b.label} against A",
        table=_html_table(comparison),
        legend=_h(legend(comparison)),
        gates=gates,
        caveats=notes,
        levels=_html_levels(comparison),
        flips=_html_flips(comparison),
    )


_OUTCOME_CLASS = {"passed": "ok", "failed": "bad", "undecided": "warn"}


def _h(text: object) -> str:
    """Return a text that is only text in HTML."""
    return html.escape(st.printable(text, 2000))


def _html_runs(comparison: Comparison) -> str:
    body = []
    style = {"VALID": "ok", "SUSPECT": "warn", "INVALID": "bad"}
    for side in (comparison.a, comparison.b):
        for run in side.runs:
            sign = f'<span aria-hidden="true">{RUN_SIGN.get(run.verdict, "")}</span>'
            ok, failed = run.aggregate["ok"], run.aggregate["failed"]
            body.append(
                f'<tr><th>{side.label} <span class="name">{_h(run.name)}</span></th>'
                f'<td data-of="verdict" class="{style.get(run.verdict, "")}">{sign} {_h(run.verdict)}'
                f'</td><td data-of="answers" class="n">{ok:,}</td>'
                f'<td data-of="failed" class="n">{failed:,}</td>'
                f'<td data-of="date">{run.started:%Y-%m-%d %H:%M}</td></tr>'
            )
    heads = '<th>Run</th><th>Verdict</th><th class="n">Answers</th><th class="n">Failed</th>'
    runs = (
        f"<table><thead><tr>{heads}<th>Date</th></tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
    rows = [
        f'<tr><th><code>{_h(key)}</code></th><td data-of="A">{_h(_said(a))}</td>'
        f'<td data-of="{comparison.b.label}">{_h(_said(b))}</td></tr>'
        for key, (a, b) in comparison.changed.items()
    ]
    heads = f"<th>What changed</th><th>A</th><th>{comparison.b.label}</th>"
    if not rows:
        return f'{runs}<p class="note">Nothing that is known has changed.</p>'
    return f"{runs}<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_table(comparison: Comparison) -> str:
    label, margin = comparison.b.label, comparison.options.margin
    body = []
    for row in shown_rows(comparison):
        cells = cells_of(row, margin, row.metric.title)
        better = {True: "ok", False: "bad", None: ""}[row.is_better]
        sign, word = cells.verdict.split(" ", 1)
        body.append(
            f"<tr><th>{_h(cells.name)}<small>{_h(cells.middle)}</small></th>"
            f'<td data-of="A" class="n">{_h(cells.a)}</td>'
            f'<td data-of="{label}" class="n">{_h(cells.b)}</td>'
            f'<td data-of="{label} against A" class="n"><b>{_h(cells.change)}</b>'
            f"<small>{_h(cells.interval)}</small></td>"
            f"<td>{_svg(row, margin)}</td>"
            f'<td data-of="verdict"><span class="v {better}"><span aria-hidden="true">{sign}</span> '
            f"{_h(word)}</span><small>{_h(cells.needs)}</small></td></tr>"
        )
    heads = (
        f'<th></th><th class="n">A</th><th class="n">{label}</th><th class="n">Difference'
        "<small>95 % over all rows</small></th>"
        f"<th>−50 % to +50 %<small>shaded: the same within {_h(percent(margin))}</small></th>"
        "<th>Verdict</th>"
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _svg(row: Row, margin: float) -> str:
    """Draw the interval that decides."""
    if row.interval is None:
        return ""
    one = 1.0 if row.metric.is_ratio else 0.0
    ends = [row.shown(value) - one for value in (*row.interval.ci_table, row.interval.value)]
    low, high, middle = (100 + 196 * max(-0.5, min(0.5, change)) for change in ends)
    left, right = 100 - 196 * margin, 100 + 196 * margin
    arrows = ""
    if ends[0] < -0.5:
        arrows += '<path d="M9 6 2 12 9 18" fill="none" stroke="var(--b)" stroke-width="2"/>'
    if ends[1] > 0.5:
        arrows += '<path d="M191 6 198 12 191 18" fill="none" stroke="var(--b)" stroke-width="2"/>'
    return (
        '<svg width="200" height="24" viewBox="0 0 200 24" role="img" '
        f'aria-label="{_h(interval_text(row))}">'
        f'<rect x="{left:.1f}" width="{right - left:.1f}" height="24" fill="var(--sunken)"/>'
        '<path d="M100 0V24" stroke="var(--ink3)"/>'
        f'<rect x="{low:.1f}" y="9" width="{max(high - low, 1):.1f}" height="6" fill="var(--b)" '
        f'fill-opacity=".4"/><circle cx="{middle:.1f}" cy="12" r="5" fill="var(--b)"/>{arrows}</svg>'
    )


def _html_levels(comparison: Comparison) -> str:
    if not comparison.levels:
        return ""
    heads = "".join(f'<th class="n">{_h(METRICS[name].label)}</th>' for name in BY_LEVEL)
    body = "".join(
        f"<tr><th>{_h(level)} at once</th>"
        + "".join(
            f'<td data-of="{_h(METRICS[name].label)}" class="n">{_h(change_text(rows[name]))} '
            f"{_sign(rows[name])}</td>"
            for name in BY_LEVEL
        )
        + "</tr>"
        for level, rows in comparison.levels.items()
    )
    table = f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<section><h2>Level by level</h2>{table}</section>\n"


def _html_flips(comparison: Comparison) -> str:
    if not comparison.flipped:
        return ""
    gained = sum(flip.b for flip in comparison.flipped)
    words = [('<span class="bad">✕ wrong</span>', '<span class="ok">✓ right</span>')] * 2
    body = "".join(
        f'<tr><th>{_h(flip.text)}<small class="name">{_h(flip.id)}</small></th>'
        f'<td data-of="A">{words[0][flip.a]}</td>'
        f'<td data-of="{comparison.b.label}">{words[1][flip.b]}</td></tr>'
        for flip in comparison.flipped
    )
    lost = len(comparison.flipped) - gained
    return (
        "<section><h2>Answers that changed their grade</h2>"
        f'<p class="note">{gained} became right, {lost} became wrong.</p>'
        f"<table><thead><tr><th>Question</th><th>A</th><th>{comparison.b.label}</th></tr></thead>"
        f"<tbody>{body}</tbody></table></section>\n"
    )


# === History ===

SPARKS = "▁▂▃▄▅▆▇█"
ASCII_SPARKS = "_.-=+*#@"
WATCHED = ("ttft_ms", "tpot_ms", "e2e_ms", "token_avg", "tokens_per_s", "quality")


@dataclasses.dataclass(frozen=True)
class Shift:
    """A change in a history: from which run on, in what, and by how much."""

    metric: Metric
    run: Run  # the first one after it
    before: Run
    change: float  # a logarithm, or a difference
    p: float

    def sentence(self) -> str:
        """Return "E2E slower by 12 % since 2026-11-19"."""
        less, more = self.metric.words()
        size = abs(math.expm1(self.change) if self.metric.is_ratio else self.change)
        text = percent(size) if self.metric.is_ratio else f"{_points(size)[1:]} points"
        word = more if self.change > 0 else less
        return f"{self.metric.label} {word} by {text} since {self.run.started:%Y-%m-%d %H:%M}"


@dataclasses.dataclass(frozen=True)
class History:
    """The runs of one name: those of the newest one's kind are watched for changes."""

    prefix: str
    runs: list[Run]
    watched: list[Run]
    left_out: dict[str, str]  # name -> why
    shifts: list[Shift]
    needed: int  # how many runs the search for changes needs

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "schema_version": SCHEMA_VERSION,
            "prefix": self.prefix,
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.path),
                    "start": run.started.isoformat(),
                    "verdict": run.verdict,
                    "left_out": self.left_out.get(run.name),
                    **{name: _round(middle_of(run.aggregate, name)) for name in WATCHED},
                }
                for run in self.runs
            ],
            "enough": len(self.watched) >= self.needed,
            "runs_needed": self.needed,
            "changes": [
                {
                    "metric": shift.metric.name,
                    "since": shift.run.name,
                    "start": shift.run.started.isoformat(),
                    "ratio" if shift.metric.is_ratio else "difference": _round(
                        math.exp(shift.change) if shift.metric.is_ratio else shift.change
                    ),
                    "p": shift.p,
                    "says": shift.sentence(),
                }
                for shift in self.shifts
            ],
        }


def middle_of(aggregate: Mapping[str, Any], name: str) -> float | None:
    """Return the one number of a metric that stands for a run."""
    value = aggregate.get(name)
    if isinstance(value, Mapping):
        value = value.get("avg" if name == "quality" else "p50")
        if name == "quality" and not aggregate["quality"].get("graded"):
            return None
    return float(value) if isinstance(value, int | float) else None


def read_history(prefix: str, folder: Path, *, everything: bool = False) -> History:
    """Read the runs whose names begin with a prefix, and look for changes. Raises ConfigError."""
    from extensions import inference  # noqa: PLC0415

    paths = [path for path in folder.glob("*.json") if path.name.startswith(prefix)]
    runs = list[Run]()
    for path in sorted(paths):
        try:
            runs.append(read_run(path))
        except st.ConfigError as error:
            st.notice(f"left out: {error}")
    if not runs:
        raise st.ConfigError(f"{st.printable(prefix, 200)}: no run in {folder} begins so")
    runs.sort(key=lambda run: run.started)
    newest, watched, left_out = runs[-1], [], {}
    for run in runs:
        reason = _other_kind(newest, run)
        if reason and not everything:
            left_out[run.name] = reason
        else:
            watched.append(run)
    shifts = find_shifts(watched)
    return History(prefix, runs, watched, left_out, shifts, inference.FEWEST_RUNS)


def _other_kind(newest: Run, run: Run) -> str | None:
    """Say why a run does not belong to the newest one's history."""
    if run.meta["status"] != "complete":
        return str(run.meta["status"])
    found = refusals(newest, run)
    if found:
        return found[0].key
    return None if run.levels == newest.levels else "concurrent"


def find_shifts(runs: Sequence[Run]) -> list[Shift]:
    """Find the changes in a series of runs: question by question, against their median."""
    import numpy as np  # noqa: PLC0415

    from extensions import inference  # noqa: PLC0415

    if len(runs) < inference.FEWEST_RUNS:
        return []
    slots = {level: place for place, level in enumerate(dict.fromkeys(runs[0].levels))}
    grid = Grid(runs, [slots] * len(runs))
    squared, series, names = [], [], []
    for name in WATCHED:
        each = _relative(grid, METRICS[name])
        if each is not None:
            squared.append(inference.distances(each))
            series.append(np.array([values.mean() for values in each]))
            names.append(name)
    found = inference.change_points(squared)
    edges = [0, *(change.at for change in found), len(runs)]
    shifts = []
    for place, change in enumerate(found):
        levels = series[change.metric]
        before, after = levels[edges[place] : change.at], levels[change.at : edges[place + 2]]
        size = float(after.mean() - before.mean())
        first, last = runs[change.at], runs[change.at - 1]
        shifts.append(Shift(METRICS[names[change.metric]], first, last, size, change.p))
    return shifts


def _relative(grid: Grid, metric: Metric) -> list[Array] | None:
    """Return each run's values against the question's median over the runs; None if unmeasured."""
    import numpy as np  # noqa: PLC0415

    if metric.kind == "rate":
        rates = [grid.rate(run, metric.name, 0) for run in range(len(grid.runs))]
        if any(rate is None for rate in rates):
            return None
        return [np.array([math.log(cast(Any, rate)[0])]) for rate in rates]
    values = grid.values(metric.name)
    if metric.kind != "share":
        values = np.log(np.where(values > 0, values, np.nan))
    known = np.isfinite(values)
    shared = known.sum(axis=0) >= 0.8 * len(values)  # asked in nearly all of them
    if not shared.any() or not known[:, shared].any(axis=1).all():
        return None
    rest = values[:, shared] - np.nanmedian(values[:, shared], axis=0)
    return [row[np.isfinite(row)] for row in rest]


def sparkline(values: Sequence[float | None]) -> str:
    """Return a line of little bars, from the lowest value to the highest."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        SPARKS.encode(encoding)
        bars = SPARKS
    except (UnicodeEncodeError, LookupError):
        bars = ASCII_SPARKS
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else bars[round((value - low) * scale)] for value in values)


def history_parts(history: History) -> list[Any]:
    """Return what the terminal shows: changes first, then a line a metric, then a row a run."""
    watched, parts = history.watched, list[Any]()
    if len(watched) < history.needed:
        text = f"Changes: cannot tell yet: {len(watched)} of {history.needed} runs."
        parts.append(st.styled((text, "bold")))
    elif not history.shifts:
        parts.append(st.styled((f"No change in {len(watched)} runs is beyond chance.", "bold")))
    for shift in history.shifts:
        parts.append(st.styled((f"{shift.sentence()}.", "bold"), (f"  p = {shift.p:.3g}", "dim")))
    parts.append("")
    for name in WATCHED:
        values = [middle_of(run.aggregate, name) for run in watched[-60:]]
        known = [value for value in values if value is not None]
        if known:
            metric = METRICS[name]
            ends = f"{value_text(metric, min(known))} to {value_text(metric, max(known))}"
            parts.append(st.styled(f"{metric.label:<14} {sparkline(values)}  ", (ends, "dim")))
    names = [name for name in WATCHED if name != "token_avg"]
    table = st.table("date", "verdict", *(METRICS[name].label for name in names))
    for run in history.runs:
        cells = [value_text(METRICS[name], middle_of(run.aggregate, name)) for name in names]
        mark = " *" if run.name in history.left_out else ""
        table.add_row(f"{run.started:%Y-%m-%d %H:%M}{mark}", run.verdict, *cells)
    parts += ["", table]
    if history.left_out:
        reasons = ", ".join(sorted(set(history.left_out.values())))
        parts += ["", st.styled((f"* left out of the search for changes: other {reasons}", "dim"))]
    return parts


# === Lists ===


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run in a list; an unfinished one has its journal only."""

    name: str
    date: str
    model: str
    levels: str
    verdict: str
    tokens_per_s: float | None = None
    quality: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return dataclasses.asdict(self)


def list_entries(folder: Path) -> list[Entry]:
    """Return the runs of a folder, the newest first. Raises ConfigError when there is none."""
    entries = []
    for path in sorted(folder.glob("*.json")):
        try:
            meta, aggregate = read_head(path)
            entries.append(_entry(path.name.removesuffix(".json"), meta, aggregate))
        except (st.ConfigError, KeyError, TypeError, AttributeError, ValueError):
            name = st.printable(path.name.removesuffix(".json"), 200)
            entries.append(Entry(name, "", "", "", "damaged"))
    finished = {entry.name for entry in entries}
    for path in sorted(folder.glob("*.journal")):
        if (name := path.name.removesuffix(".journal")) not in finished:
            entries.append(_unfinished(path, name))
    if not entries:
        raise st.ConfigError(f"{folder}: holds no run; make one: llm_stresstest.py first_run")
    return sorted(entries, key=lambda entry: entry.date, reverse=True)


def _entry(name: str, meta: Mapping[str, Any], aggregate: Mapping[str, Any]) -> Entry:
    levels = ", ".join(map(str, _as_list(meta["concurrent"])))
    verdict = meta["validity"]["verdict"]
    if meta["status"] != "complete":
        verdict = str(meta["status"])
    best = max(
        (part.get("tokens_per_s") or 0 for part in aggregate.get("stages") or ()), default=None
    )
    speed = aggregate.get("tokens_per_s") if best is None else best
    return Entry(
        st.printable(name, 200),
        f"{meta['start_date']} {str(meta['start_time'])[:5]}",
        st.printable(meta["model"], 100),
        levels,
        st.printable(verdict, 20),
        speed,
        middle_of(aggregate, "quality"),
    )


def _unfinished(path: Path, name: str) -> Entry:
    name = st.printable(name, 200)
    try:
        reader = st.JournalReader(path)
    except (st.StressTestError, OSError, ValueError, KeyError):
        return Entry(name, "", "", "", "damaged")
    header = reader.header or {}
    config = header.get("config", {})
    date = str(header.get("started", ""))[:16].replace("T", " ")
    levels = ", ".join(map(str, _as_list(config.get("concurrent", "?"))))
    model = st.printable(config.get("model", "?"), 100)
    return Entry(name, date, model, levels, f"unfinished, {len(reader)} answers")


def list_parts(entries: Sequence[Entry]) -> list[Any]:
    """Return the table; where it is too wide, a block a run."""
    from rich.cells import cell_len  # noqa: PLC0415

    lines = [("name", "date", "model", "at once", "verdict", "tokens/s", "right")]
    for entry in entries:
        speed, right = st.format_number(entry.tokens_per_s), st.format_share(entry.quality)
        lines.append(
            (entry.name, entry.date, entry.model, entry.levels, entry.verdict, speed, right)
        )
    sizes = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if sum(sizes) + 2 * (len(sizes) - 1) > st.terminal_width():
        parts = list[Any]()
        for name, date, model, levels, verdict, speed, right in lines[1:]:
            parts.append(st.styled((name, "bold"), f"  {verdict}"))
            what = f"  {date} · {model} · {levels} at once · {speed} tokens/s · {right} right"
            parts += st.wrapped(st.styled((what, "dim")), st.terminal_width(), hang=2)
        return parts
    parts = []
    for place, line in enumerate(lines):
        cells = [
            cell.rjust(size + len(cell) - cell_len(cell)) if column > 4
            else cell + " " * (size - cell_len(cell))
            for column, (cell, size) in enumerate(zip(line, sizes, strict=True))
        ]  # fmt: skip
        parts.append(st.styled(("  ".join(cells).rstrip(), "" if place else "dim")))
    return parts


# === Command line ===

FORMATS = ("text", "json", "md", "html", "junit", "github")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare results files; the exit code is 0, or what the gates say."""
    parser = _parser("compare", "say which run is better, and whether the difference is real")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="results files or names of runs; the first is A"
    )
    parser.add_argument(
        "--group",
        action="store_true",
        help="each RUN is a side of several runs: A1,A2,A3 B1,B2,B3; a side of one is filled with "
        "the equal runs of its folder",
    )
    _add_options(parser)
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error("give at least two runs")
    gates = _gates(options)
    sides, pool = _sides(options)
    return Report(options, gates, sides, pool).run()


def _parser(tool: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"llm_stresstest.py {tool}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES[tool],
        allow_abbrev=False,
    )


EXAMPLES = {
    "compare": """examples:
  llm_stresstest.py compare monday tuesday
  llm_stresstest.py compare fp16 q4 --not-worse "quality 2 points"
  llm_stresstest.py compare --group a1,a2,a3 b1,b2,b3 --require "e2e_ms not slower than 10%"
  llm_stresstest.py compare base new --in-these-runs --fail-if "quality lower" --format junit

gates: METRIC slower|faster|higher|lower|worse|better [than 10%|2 points], with "not" before it,
METRIC same, or METRIC.p95 > 500; METRIC as in the results' aggregate, such as e2e_ms, quality
exit codes: 0 all gates passed, 1 one failed, 2 not comparable, 5 undecided
""",
    "ab": """example:
  llm_stresstest.py ab quant --a fp16.json --b q4.json -n 5

runs A B B A A B … so that the machine's drift hits both, then compares; Ctrl-C ends in order
""",
    "history": """example:
  llm_stresstest.py history nightly
""",
    "list": """example:
  llm_stresstest.py list
""",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add what compare and ab have in common."""
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="where the runs are")
    parser.add_argument(
        "--margin", default="5%", metavar="PERCENT", help='what counts as the same (default "5%%")'
    )
    parser.add_argument("--level", type=int, metavar="N", help="only the stages with N at once")
    parser.add_argument(
        "--not-worse", action="append", default=[], metavar="TEXT", help='"quality 2 points"'
    )
    parser.add_argument(
        "--fail-if", action="append", default=[], metavar="TEXT", help='"e2e_ms slower": exit 1'
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="TEXT",
        help='"e2e_ms not slower than 10%%": else exit 1, undecided 5',
    )
    parser.add_argument(
        "--in-these-runs", action="store_true", help="let gates judge by one run a side"
    )
    parser.add_argument("--anyway", action="store_true", help="compare what is not comparable")
    parser.add_argument("--all", action="store_true", help="show the rows that say nothing, too")
    parser.add_argument(
        "--notify", metavar="COMMAND", help="run it with JSON on its input when a gate fails"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a new file")


def _margin(text: str) -> float:
    """Read the margin. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", text)
    value = float(found.group(1)) / 100 if found else 0.0
    if not 0 < value < 1:
        shown = json.dumps(st.printable(text, 40), ensure_ascii=False)
        raise st.ConfigError(
            f"--margin {shown}: must be a percentage between 0 and 100, such as 5%"
        )
    return value


def _gates(options: argparse.Namespace) -> list[Gate]:
    """Read the gates before any file. Raises ConfigError."""
    return [
        Gate.parse(text, kind)
        for kind in ("fail-if", "require", "not-worse")
        for text in getattr(options, kind.replace("-", "_"))
    ]


def _sides(options: argparse.Namespace) -> tuple[list[Side], list[Run]]:
    """Read the runs; return the sides, and a pool of runs equal to all of them if there is one."""
    folder = options.results_dir
    names = [text.split(",") if options.group else [text] for text in options.runs]
    paths = [[st.find_results(name, folder) for name in side if name] for side in names]
    if not all(paths):
        raise st.ConfigError("--group: a side is empty; write A1,A2,A3 B1,B2,B3")
    runs = [[read_run(path) for path in side] for side in paths]
    pool = list[Run]()
    if options.group:
        found = [equal_runs(side[0]) if len(side) == 1 else side for side in runs]
        given = {run.path.resolve() for side in runs for run in side}
        kinds = [{run.path.resolve() for run in side} for side in found]
        if len(runs) == 2 and kinds[0] == kinds[1]:  # A and B are of one configuration themselves
            pool = [run for run in found[0] if run.path.resolve() not in given]
        else:
            runs = found
    labels = [
        chr(ord("A") + place) if place < 26 else f"R{place + 1}" for place in range(len(runs))
    ]
    return [Side(label, tuple(side)) for label, side in zip(labels, runs, strict=True)], pool


class Report:
    """A comparison from its sides to its output and exit code."""

    def __init__(
        self,
        options: argparse.Namespace,
        gates: Sequence[Gate],
        sides: Sequence[Side],
        pool: Sequence[Run] = (),
    ) -> None:
        self.options, self.gates, self.sides, self.pool = options, gates, sides, pool
        rows = [gate.metric for gate in gates if not gate.sign and "." in gate.metric]
        self.how = Options(
            _margin(options.margin), options.anyway, options.level, tuple(rows), options.all
        )

    def run(self) -> int:
        """Compare, print, and return the exit code."""
        if self.options.output is not None and self.options.output.exists():
            raise st.ConfigError(f"{self.options.output}: is there already; choose another name")
        if self.pool and len(self.pool) < 3:
            st.notice(
                f"--group: {len(self.pool)} other equal runs are too few to say how runs differ"
            )
        others = self.sides[1:]
        found = [compare(self.sides[0], other, self.how, self.pool) for other in others]
        if any(each.table is None for each in found):
            return self._refuse(found)
        self._check_gates_allowed(found)
        outcomes = [[gate.check(each) for gate in self.gates] for each in found]
        self._write(self._text(found, outcomes))
        every = [outcome for part in outcomes for outcome in part]
        code = exit_code(every)
        if code == 1 and self.options.notify:
            notify(self.options.notify, self._json(found, outcomes))
        return code

    def _check_gates_allowed(self, found: Sequence[Comparison]) -> None:
        """Refuse gates that one run a side cannot answer. Raises ConfigError."""
        gates = [gate for gate in self.gates if gate.kind != "not-worse"]
        if gates and not self.options.in_these_runs and not all(each.covered for each in found):
            raise st.ConfigError(
                f"--{gates[0].kind}: one run a side says nothing of the next one; compare several "
                "(--group, or ab), or add --in-these-runs"
            )

    def _refuse(self, found: Sequence[Comparison]) -> int:
        """Say why nothing is compared."""
        if self.options.format == "json":
            self._write(
                json.dumps(self._json(found, [[] for _ in found]), ensure_ascii=False, indent=1)
            )
        for each in found:
            for refusal in each.refused:
                names = f"{st.printable(each.a.first.name, 80)} and {st.printable(each.b.first.name, 80)}"
                st.notice(f"llm_stresstest: {names}: not compared: {refusal.line()}")
        st.notice("llm_stresstest: --anyway compares all the same")
        return 2

    def _json(self, found: Sequence[Comparison], outcomes: Sequence[Any]) -> dict[str, Any]:
        content = found[0].to_json()
        if self.gates:
            content["gates"] = outcomes_json(outcomes[0])
        if len(found) > 1:
            content["others"] = [
                {**each.to_json(), **({"gates": outcomes_json(part)} if part else {})}
                for each, part in zip(found[1:], outcomes[1:], strict=True)
            ]
            if all(each.table for each in found):
                content["ranking"] = ranking(self.sides, self.how)
        return content

    def _text(self, found: Sequence[Comparison], outcomes: Sequence[Any]) -> str | list[Any]:
        """Return the output; a list of parts for the terminal."""
        kind = self.options.format
        if kind == "json":
            return json.dumps(self._json(found, outcomes), ensure_ascii=False, indent=1) + "\n"
        if kind != "text":
            make = {"md": markdown, "html": page, "junit": junit, "github": github}[kind]
            return "\n".join(make(*each) for each in zip(found, outcomes, strict=True))
        parts = list[Any]()
        for each, part in zip(found, outcomes, strict=True):
            parts += ["", ""] if parts else []
            parts += text_parts(each, part)
        if len(found) > 1:
            parts += ["", *_ranking_lines(ranking(self.sides, self.how))]
        return parts

    def _write(self, content: str | list[Any]) -> None:
        """Print the output, or write it to the file that was named. Raises ResultsError."""
        path = self.options.output
        if path is None:
            st.show(content) if isinstance(content, list) else st.show([_raw(content)])
            return
        try:
            with path.open("x", encoding="utf-8") as file:
                if isinstance(content, list):
                    st.show(content, file)
                else:
                    file.write(content)
        except OSError as error:
            raise st.ResultsError(f"{path}: cannot be written: {error.strerror}") from None


def _raw(text: str) -> Any:
    """Return a text that is printed as it is, whatever the width."""
    made = st.styled(text.rstrip("\n"))
    made.no_wrap = True
    return made


def _ranking_lines(ranks: Mapping[str, Sequence[Sequence[str]]]) -> list[Any]:
    lines: list[Any] = [st.styled(("ranking, best first; what cannot be told ties", "dim"))]
    for name, places in ranks.items():
        order = "  >  ".join(" = ".join(tied) for tied in places)
        lines.append(f"  {METRICS[name].label:<14} {order}")
    return lines


def main_history(argv: Sequence[str] | None = None) -> int:
    """Show the runs of one name, and where something changed."""
    parser = _parser("history", "the dated runs of one name, and since when they differ")
    parser.add_argument("prefix", help="what the runs' names begin with")
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="where the runs are")
    parser.add_argument("--all", action="store_true", help="mix runs of other kinds in")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    folder = _folder(options.results_dir)
    history = read_history(options.prefix, folder, everything=options.all)
    if options.format == "json":
        st.show([_raw(json.dumps(history.to_json(), ensure_ascii=False, indent=1))])
    else:
        st.show(history_parts(history))
    return 0


def main_list(argv: Sequence[str] | None = None) -> int:
    """List the runs of a folder."""
    parser = _parser("list", "the runs of a folder in one table")
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="the folder")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    entries = list_entries(_folder(options.results_dir))
    if options.format == "json":
        content = {"schema_version": SCHEMA_VERSION, "runs": [entry.to_json() for entry in entries]}
        st.show([_raw(json.dumps(content, ensure_ascii=False, indent=1))])
    else:
        st.show(list_parts(entries))
    return 0


def _folder(given: Path | None) -> Path:
    """Return the folder of the runs. Raises ConfigError."""
    folder = given or st.find_file(None, "config.json").resolve().parent / "results"
    if not folder.is_dir():
        raise st.ConfigError(f"{folder}: no such folder; --results-dir says where the runs are")
    return folder


def main_ab(argv: Sequence[str] | None = None) -> int:
    """Run two configurations in turn, and compare."""
    parser = _parser("ab", "run two configurations in turn, so that drift hits both, and compare")
    parser.add_argument("name", help="the runs are called NAME_a1, NAME_b1, …")
    parser.add_argument("--a", type=Path, required=True, metavar="FILE", help="A's config.json")
    parser.add_argument("--b", type=Path, required=True, metavar="FILE", help="B's config.json")
    parser.add_argument("-n", type=int, default=5, metavar="N", help="runs a side (default 5)")
    parser.add_argument("-q", "--questions", type=Path, metavar="FILE", help="questions.json")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="where logs go")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both")
    _add_options(parser)
    options = parser.parse_args(argv)
    if options.n < 2:
        parser.error("-n: at least 2 runs a side, or nothing is known of the next run")
    gates = _gates(options)
    series = Series(options)
    series.check()
    stopped = series.run()
    sides = [
        Side(label, tuple(read_run(path) for path in series.done(label.lower())))
        for label in ("A", "B")
    ]
    if stopped:
        counts = " and ".join(f"{len(side.runs)} of {side.label}" for side in sides)
        st.notice(f"stopped; {counts} are saved; the same command goes on with them")
        return stopped
    return Report(options, gates, sides).run()


class Series:
    """The runs of `ab`: A B B A A B …, each a process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name = st.check_name(options.name)
        self.folder = options.results_dir or options.a.resolve().parent / "results"
        self.logs = options.log_dir or options.a.resolve().parent / "logs"
        self.signum = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def order(self) -> list[tuple[str, int]]:
        """Which run comes when: a1, b1, b2, a2, a3, b3 …"""
        sides = [("a", "b") if round_ % 2 == 0 else ("b", "a") for round_ in range(self.options.n)]
        return [(side, place + 1) for place, pair in enumerate(sides) for side in pair]

    def path(self, side: str, number: int) -> Path:
        """Return where a run's results are."""
        return Path(self.folder) / f"{self.name}_{side}{number}.json"

    def done(self, side: str) -> list[Path]:
        """Return the results files of one side that are there."""
        numbers = range(1, self.options.n + 1)
        return [self.path(side, number) for number in numbers if self.path(side, number).is_file()]

    def check(self) -> None:
        """Refuse what could not be compared before hours are spent. Raises ConfigError."""
        configs = [
            st.load_config(path, self.options.set).model_dump()
            for path in (self.options.a, self.options.b)
        ]
        found = config_refusals(*configs)
        if found and not self.options.anyway:
            raise st.ConfigError(f"not comparable: {found[0].line()}; --anyway runs all the same")

    def run(self) -> int:
        """Run all that is not there yet; return 0, or the exit code of what stopped it."""
        signals = [signal.SIGINT, signal.SIGTERM]
        signals += [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        before = {signum: signal.signal(signum, self._stop) for signum in signals}
        try:
            for place, (side, number) in enumerate(self.order):
                if self.signum:
                    return 128 + self.signum
                if self.path(side, number).is_file():
                    continue
                st.notice(f"run {place + 1} of {len(self.order)}: {self.name}_{side}{number}")
                code = self._run_one(side, number)
                if self.signum:
                    return 128 + self.signum
                if code not in (0, 1):
                    st.notice(f"{self.name}_{side}{number} ended with exit code {code}")
                    return code
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        return 0

    def _run_one(self, side: str, number: int) -> int:
        options = self.options
        core = Path(cast(str, st.__file__)).resolve()
        command = [sys.executable, str(core), f"./{self.name}_{side}{number}", "--quiet"]
        command += ["-c", str(options.a if side == "a" else options.b)]
        command += ["--results-dir", str(self.folder), "--log-dir", str(self.logs)]
        command += ["-q", str(options.questions)] if options.questions else []
        for override in options.set:
            command += ["--set", override]
        journal = self.path(side, number).with_suffix(".journal")
        command += ["--resume"] if journal.is_file() else []
        # A group of its own: a Ctrl-C reaches it once, through this process, and it can save.
        own_group = {"process_group": 0} if os.name == "posix" else {}
        with subprocess.Popen(command, **cast(Any, own_group)) as self.process:  # noqa: S603
            if self.signum:
                self._forward(self.signum)
            return self.process.wait()

    def _stop(self, signum: int, _frame: object) -> None:
        self.signum = signum
        self._forward(signum)

    def _forward(self, signum: int) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.process.send_signal(signum)


if __name__ == "__main__":
    raise SystemExit(main())
