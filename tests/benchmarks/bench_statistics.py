"""Whether intervals cover, verdicts find what is wrong, and neither cries wolf: by simulation.

python tests/benchmarks/bench_statistics.py [--quick]

"Before" is the method that the program had until then: order statistics as if requests did not
depend on each other, drift as the medians of two halves, throughput from the first send to the
last end, Wilson intervals by request. Seeded; a few minutes on one core; no server, no network.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import llm_stresstest as st
from tests.benchmarks import harness as bench

Array = Any  # of floats
Rng = np.random.Generator
AIM = 0.92  # of the bounds that are given, so many are to hold
SLOTS = 8
CONFIG = {"server": "embedded", "model": "m"}
CLIENT = {
    "loop_lag_ms": {"p50": 0.1, "p90": 0.2, "p95": 0.3, "p99": 1, "max": 2},
    "cpu_share": 0.2,
    "cpu_wait_share": 0.0,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the runs")
    runs = 100 if parser.parse_args(argv).quick else 400
    return bench.run_all(__doc__ or "", lambda _folder: measure(runs))


def measure(runs: int) -> Iterator[bench.Target]:
    """Run all parts."""
    yield from intervals(runs)
    yield from gap_intervals(runs)
    yield from throughput(runs // 10)
    yield from trends(runs // 2)
    yield from reasons(runs // 4)
    yield from accuracy(runs * 5)
    yield from stability(runs * 10)


# --- Intervals of percentiles under load


def independent(rng: Rng, runs: int, n: int) -> Array:
    """Return values that do not depend on each other: a row a run."""
    return rng.lognormal(0, 0.7, (runs, n))


def autoregressive(rng: Rng, runs: int, n: int, memory: float = 0.9) -> Array:
    """Return values that each remember the one before."""
    values = np.empty((runs, n))
    values[:, 0] = rng.standard_normal(runs)
    for place in range(1, n):
        news = math.sqrt(1 - memory**2) * rng.standard_normal(runs)
        values[:, place] = memory * values[:, place - 1] + news
    return np.exp(0.5 * values)


def queue(rng: Rng, runs: int, n: int, load: float) -> Array:
    """Return the TTFT of an M/G/8 queue in its steady state: the wait, and a prefill."""
    work, waits, every = np.zeros((runs, SLOTS)), np.empty((runs, n)), np.arange(runs)
    before = 3000
    for place in range(before + n):
        gaps = rng.exponential(1 / (load * SLOTS), runs)
        work = np.maximum(work - gaps[:, None], 0)
        first = work.argmin(1)
        wait = work[every, first]
        work[every, first] = wait + rng.gamma(1.5, 1 / 1.5, runs)
        if place >= before:
            waits[:, place - before] = wait
    return waits + rng.lognormal(math.log(0.05), 0.3, waits.shape)


def closed_loop(rng: Rng, runs: int, n: int, users: int = 16) -> Array:
    """Return the TTFT of users who each ask again when their answer is there."""
    free, ready = np.zeros((runs, SLOTS)), np.sort(rng.uniform(0, 0.01, (runs, users)), 1)
    waits, every, before = np.empty((runs, n)), np.arange(runs), 500
    for place in range(before + n):
        user, slot = ready.argmin(1), free.argmin(1)
        sent = ready[every, user]
        begun = np.maximum(free[every, slot], sent)
        free[every, slot] = ready[every, user] = begun + rng.gamma(1.5, 1 / 1.5, runs)
        if place >= before:
            waits[:, place - before] = begun - sent
    return waits + rng.lognormal(math.log(0.05), 0.3, waits.shape)


LOADS: dict[str, Callable[[Rng, int, int], Array]] = {
    "independent": independent,
    "AR(1), 0.9": autoregressive,
    "closed loop, 16 on 8": closed_loop,
    "M/G/8 at 50 %": lambda rng, runs, n: queue(rng, runs, n, 0.5),
    "M/G/8 at 80 %": lambda rng, runs, n: queue(rng, runs, n, 0.8),
    "M/G/8 at 90 %": lambda rng, runs, n: queue(rng, runs, n, 0.9),
}


class Coverage:
    """How often the bounds of an interval hold."""

    def __init__(self, truth: float) -> None:
        self.truth = truth
        self.given = self.held = self.both = self.runs = self.wrong = 0
        self.widths: list[float] = []

    def add(self, bounds: Sequence[float | None]) -> None:
        """Count one run's interval."""
        low, high = bounds
        holds = [low <= self.truth] if low is not None else []
        holds += [high >= self.truth] if high is not None else []
        self.runs += 1
        self.given += len(holds)
        self.held += sum(holds)
        self.wrong += not all(holds)
        if low is not None and high is not None:
            self.both += 1
            self.widths.append(high - low)

    @property
    def covering(self) -> float:
        """The share of the intervals of all runs in which no given bound is wrong."""
        return 1 - self.wrong / self.runs

    @property
    def share(self) -> float:
        """The share of the given bounds that hold; 1 when none is given."""
        return self.held / self.given if self.given else 1.0

    @property
    def width(self) -> float:
        """The median width of the intervals with both bounds."""
        return statistics.median(self.widths) if self.widths else math.nan

    def is_mostly_null(self) -> bool:
        """Whether hardly a run gives a bound; the few that do are then no sample to judge."""
        return self.given < 0.2 * self.runs


def as_if_independent(values: Sequence[float], quantile: float) -> list[float | None]:
    """Return the interval of the method before."""
    ordered, n = sorted(values), len(values)
    lower, upper = st.interval_ranks(n, quantile)
    return [
        None if lower is None else ordered[lower],
        None if upper is None else ordered[upper],
    ]


def intervals(runs: int) -> Iterator[bench.Target]:
    """Hold the intervals of p50, p90 and p95 against the percentiles of all runs together."""
    names = ("p50", "p90", "p95")
    for n in (1000, 200):
        rows, worst = [], 1.0
        for load, simulate in LOADS.items():
            values = simulate(np.random.default_rng(10), runs, n)
            counted = {
                (way, name): Coverage(float(np.quantile(values, st.PERCENTILES[name])))
                for way in ("before", "after")
                for name in names
            }
            for row in values.tolist():
                found = st.describe(row)["ci95"]
                for name in names:
                    alone = as_if_independent(row, st.PERCENTILES[name])
                    counted["before", name].add(alone)
                    counted["after", name].add(found[name])
            for name in names:
                before, after = counted["before", name], counted["after", name]
                rows.append(coverage_row(f"{load}, {name}", before, after))
                if n == 1000 and not after.is_mostly_null():
                    worst = min(worst, after.share)
                if n == 1000 and load == "independent":
                    ratio = bench.Runs([after.width / before.width])
                    yield bench.at_most(f"independent {name}: width / before", ratio, 1.15)
                if n == 1000 and (load, name) == ("M/G/8 at 80 %", "p50"):
                    both = bench.Runs([after.both / after.runs])
                    yield bench.at_least("M/G/8 at 80 % p50: runs with both bounds", both, 0.85, 2)
                if load in ("M/G/8 at 80 %", "M/G/8 at 90 %") and name == "p95":
                    both = bench.Runs([after.both / after.runs])
                    yield bench.at_most(f"{load} p95, n {n}: runs with both bounds", both, 0.1)
        header = ("load", "before", "after", "no bound wrong", "lower", "both", "width ×")
        bench.print_table(f"intervals, n = {n}, {runs} runs: given bounds that hold", header, rows)
        if n == 1000:
            yield bench.at_least("worst cell: given bounds that hold", bench.Runs([worst]), AIM, 3)


def coverage_row(name: str, before: Coverage, after: Coverage) -> tuple[str, ...]:
    """Return the row of a table; bounds of hardly any run stand in brackets."""
    share = f"{after.share:.1%}"
    return (
        name,
        f"{before.share:.1%} / {before.covering:.0%}",
        f"({share})" if after.is_mostly_null() else share,
        f"{after.covering:.1%}",
        f"{(after.given - after.both) / after.runs:.0%}",
        f"{after.both / after.runs:.0%}",
        f"{after.width / before.width:.2f}" if after.widths else "–",
    )


def gap_intervals(runs: int) -> Iterator[bench.Target]:
    """Hold ITL's intervals against the truth, where long answers hang together and speed wanders."""
    rng, answers = np.random.default_rng(11), 400
    rows, worst = [], 1.0
    for name, wander in (("answers independent", 0.0), ("the server's speed wanders", 0.6)):
        samples = []
        for _ in range(runs):
            speed = 10 * autoregressive(rng, 1, answers, 0.8)[0] ** wander
            speed *= rng.lognormal(0, 0.2, answers)
            lengths = 2 + rng.geometric(1 / 40, answers)
            samples.append(
                [mean * rng.gamma(4, 0.25, n) for mean, n in zip(speed, lengths, strict=True)]
            )
        pooled = np.concatenate([gaps for sample in samples for gaps in sample])
        truth = {name: float(np.quantile(pooled, st.PERCENTILES[name])) for name in ("p50", "p95")}
        before = {name: Coverage(truth[name]) for name in truth}
        after = {name: Coverage(truth[name]) for name in truth}
        for sample in samples:
            found = aggregate([stream(place, gaps) for place, gaps in enumerate(sample)])["itl_ms"]
            counts = Counter(round(float(gap), 3) for gaps in sample for gap in gaps)
            old = st.describe(st.Histogram(counts), dict.fromkeys(st.PERCENTILES, answers))
            for percentile in truth:
                before[percentile].add(old["ci95"][percentile])
                after[percentile].add(found["ci95"][percentile])
        for percentile in truth:
            row = coverage_row(f"{name}, {percentile}", before[percentile], after[percentile])
            rows.append(row)
            worst = min(worst, after[percentile].share)
    header = ("ITL", "before", "after", "no bound wrong", "lower", "both", "width ×")
    bench.print_table(f"gaps of {answers} answers, {runs} runs", header, rows)
    yield bench.at_least("ITL: given bounds that hold", bench.Runs([worst]), AIM, 3)


def stream(place: int, gaps_ms: Array) -> st.Result:
    """Return an answer with these gaps between its chunks."""
    first_ns = place * 100_000_000 + 50_000_000
    times = [first_ns + round(at * 1000) * 1000 for at in itertools.accumulate(gaps_ms, initial=0)]
    return result(place, first_ns - 50_000_000, first_ns, times[-1], len(times), chunk_ns=times)


# --- Whole runs


@dataclasses.dataclass(frozen=True)
class World:
    """A server with slots that answers first come, first served, and those who ask it."""

    requests: int = 600
    users: int = SLOTS  # at most so many in flight
    load: float | None = None  # open loop: how much of the slots' time is asked for
    slots: int = SLOTS
    growth: float = 1.0  # of the time per token, from the first request to the last
    memory: float = 0.0  # how much of a request's speed stays for the next
    spread: float = 0.2  # of the speed: 0.2 is 10 % up or down
    hung: int = 0  # requests that only end by the timeout
    connect_s: float = 0.0  # how long each connection takes to open
    stalled: float = 0.0  # share of the time in which the client reads nothing, STALL_S at a time
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of each result

    SERVICE_S = 0.05 + 40 * 0.02
    TIMEOUT_S = 120.0
    STALL_S = 0.25

    def run(self, rng: Rng) -> list[st.Result]:
        """Return the results of a run."""
        n = self.requests
        due = None
        if self.load is not None:
            due = np.cumsum(rng.exponential(self.SERVICE_S / self.load / self.slots, n))
        places, free = [0.0] * self.users, [0.0] * self.slots
        tokens = 2 + rng.poisson(39, n)
        speed = 0.02 * autoregressive(rng, 1, n, self.memory)[0] ** self.spread
        speed *= np.linspace(1, self.growth, n)
        prefill = rng.lognormal(math.log(0.05), 0.3, n)
        hung = set(rng.choice(n // 2, self.hung, replace=False) + n // 4) if self.hung else ()
        results = []
        for place in range(n):
            sent = heapq.heappop(places)
            if due is not None:
                sent = max(sent, due[place])
            sent += self.connect_s
            if place in hung:
                heapq.heappush(places, sent + self.TIMEOUT_S)
                results.append(failure(place, sent, sent + self.TIMEOUT_S, due))
                continue
            first = max(sent, heapq.heappop(free)) + prefill[place]
            end = first + (tokens[place] - 1) * speed[place]
            heapq.heappush(free, end)
            heapq.heappush(places, end)
            sent_ns, first_ns, end_ns = (round(at * 1e6) * 1000 for at in (sent, first, end))
            made = result(place, sent_ns, first_ns, end_ns, int(tokens[place]), **self.more)
            made.scheduled_ns = None if due is None else round(due[place] * 1e6) * 1000
            made.connect_ns = round(self.connect_s * 1e9) or None
            results.append(made)
        self.time_by_client(results, rng)
        return results

    def time_by_client(self, results: Sequence[st.Result], rng: Rng) -> None:
        """Let the client read late what comes during its stalls, and note how late it may be."""
        answered = [made for made in results if made.first_ns is not None]
        whole_s = max((made.end_ns or 0 for made in answered), default=0) / 1e9
        stalls = sorted(rng.uniform(0, whole_s, round(self.stalled * whole_s / self.STALL_S)))
        for made in answered:
            first_s = cast(int, made.first_ns) / 1e9
            late_s = rng.exponential(0.05e-3)
            for begun_s in stalls:
                if begun_s <= first_s < begun_s + self.STALL_S:
                    late_s = begun_s + self.STALL_S - first_s
            made.client_error_ns = round(late_s * 1e6) * 1000
            if late_s > 1e-3:
                made.first_ns = min(round((first_s + late_s) * 1e6) * 1000, cast(int, made.end_ns))
                made.answer_ns = made.first_ns

    def config(self, **more: Any) -> st.Config:
        """Return the config that asks so."""
        rate = None if self.load is None else self.load * self.slots / self.SERVICE_S
        return st.Config.model_validate({**CONFIG, "concurrent": self.users, "rate": rate, **more})


def result(
    place: int, sent_ns: int, first_ns: int, end_ns: int, tokens: int, **more: Any
) -> st.Result:
    """Return a successful result."""
    values: dict[str, Any] = {
        "answer": "text",
        "sent_ns": sent_ns,
        "first_ns": first_ns,
        "answer_ns": first_ns,
        "end_ns": end_ns,
        "chunk_ns": [first_ns, end_ns],
        "token": tokens,
        "token_source": "usage",
        "finish_reason": "stop",
        **more,
    }
    values["chunks"] = len(values["chunk_ns"])
    return st.Result(place, f"q{place}", "?", **values)


def failure(place: int, sent_s: float, end_s: float, due: Array | None) -> st.Result:
    """Return a request that timed out."""
    return st.Result(
        place,
        f"q{place}",
        "?",
        status="timeout",
        error=st.Failure("timeout", "no answer"),
        sent_ns=round(sent_s * 1e6) * 1000,
        end_ns=round(end_s * 1e6) * 1000,
        scheduled_ns=None if due is None else round(due[place] * 1e6) * 1000,
        chunk_ns=[],
    )


def aggregate(results: Sequence[st.Result], config: st.Config | None = None) -> dict[str, Any]:
    """Return a run's aggregate."""
    return st.calculate_aggregates(results, config or st.Config.model_validate(CONFIG))


def codes(
    results: Sequence[st.Result], config: st.Config, resumed: str | None = None, **load: Any
) -> set[str]:
    """Return the codes of the reasons that a run gets."""
    report = st.LoadReport(st.LoadStart(resumed=resumed), **{"client": CLIENT, **load})
    verdict = st.judge_validity(config, aggregate(results, config), report)
    return {reason["code"] for reason in verdict["reasons"]}


FIFTY = World(users=50, slots=50)


def throughput(runs: int) -> Iterator[bench.Target]:
    """Let three of 600 requests hang: what do all slots do, and what does each figure say?"""
    rows, off, rng = [], 0.0, np.random.default_rng(12)
    for name, world in (("none hung", FIFTY), ("3 hung", dataclasses.replace(FIFTY, hung=3))):
        gross, steady, told = [], [], 0
        for _ in range(runs):
            found = aggregate(world.run(rng), world.config())
            gross.append(found["tokens_per_s"])
            steady.append(found["steady"]["tokens_per_s"])
            told += "unsteady" in codes(world.run(rng), world.config())
        truth = FIFTY.slots * 41 / (0.05 * math.exp(0.045) + 40 * 0.02)
        off = max(off, abs(statistics.median(steady) / truth - 1))
        figures = (truth, statistics.median(gross), statistics.median(steady))
        rows.append((name, *(f"{figure:.0f}" for figure in figures), f"{told / runs:.0%}"))
    header = ("600 requests, 50 at once", "all slots", "gross (before)", "steady", "unsteady")
    bench.print_table(f"tokens/s, {runs} runs", header, rows)
    yield bench.at_most("steady tokens/s: off by", bench.Runs([off]), 0.1)


def half_against_half(values: Sequence[float]) -> bool:
    """Return the verdict of the drift test before: are the halves' medians apart, by a fifth?"""
    middle = len(values) // 2
    halves = values[:middle], values[middle:]
    (first_low, first_high), (second_low, second_high) = (
        cast("tuple[float, float]", tuple(as_if_independent(half, 0.5))) for half in halves
    )
    ratio = statistics.median(halves[1]) / statistics.median(halves[0])
    apart = first_high < second_low or second_high < first_low
    return apart and not 1 / 1.2 < ratio < 1.2


TREND_WORLDS: dict[str, tuple[World, str | None]] = {
    "closed loop, 8 on 8": (World(), None),
    "closed loop, 16 on 8": (World(users=16), None),
    "closed loop, AR(1) 0.9": (World(memory=0.9, spread=0.8), None),
    "open loop at 50 %": (World(users=5000, load=0.5, requests=1000), None),
    "open loop at 80 %": (World(users=5000, load=0.8, requests=1000), None),
    "open loop at 90 %": (World(users=5000, load=0.9, requests=1000), None),
    "TPOT × 1.3, closed loop": (World(growth=1.3), "drift"),
    "TPOT × 1.3, closed loop, ± 40 %": (World(growth=1.3, spread=0.8, requests=1000), "drift"),
    "TPOT × 1.3, open loop at 50 %": (World(users=5000, load=0.5, growth=1.3), "drift"),
    "open loop at 150 %": (World(users=5000, load=1.5), "overloaded"),
    "open loop at 200 %": (World(users=5000, load=2.0), "overloaded"),
    "open loop at 200 %, 300 requests": (World(users=5000, load=2.0, requests=300), "overloaded"),
    "open loop at 200 %, cap 32": (World(users=32, load=2.0), "overloaded"),
}


def trends(runs: int) -> Iterator[bench.Target]:
    """Count how often steady runs are called drifting or overloaded, and the others are not."""
    rows, alarms, found = [], [], []
    for name, (world, sick) in TREND_WORLDS.items():
        rng, told, before = np.random.default_rng(13), Counter[str](), Counter[str]()
        for _ in range(runs):
            results = world.run(rng)
            told.update(codes(results, world.config()) & {"drift", "overloaded"})
            for metric in ("tpot_ms", "ttft_ms"):
                values = [value for each in results if (value := getattr(each, metric))]
                before[metric] += half_against_half(values)
        shown = (before["tpot_ms"], before["ttft_ms"], told["drift"], told["overloaded"])
        rows.append((name, sick or "–", *(f"{times / runs:.1%}" for times in shown)))
        if sick is None:
            alarms += [told["drift"] / runs, told["overloaded"] / runs]
        else:
            found.append(told[sick] / runs)
    header = ("run", "is", "halves, TPOT", "halves, TTFT", "drift", "overloaded")
    bench.print_table(f"trends, {runs} runs: how often each is said (before: halves)", header, rows)
    yield bench.at_most("drift, overloaded: false alarms", bench.Runs([max(alarms)]), 0.02, 3)
    yield bench.at_least("drift, overloaded: found", bench.Runs([min(found)]), 0.95, 3)


# --- Validity


HEALTHY: dict[str, tuple[World, dict[str, Any]]] = {
    "closed loop, 8 on 8": (World(), {}),
    "closed loop, 16 on 8": (World(users=16, requests=1000), {}),
    "closed loop, AR(1) 0.9": (World(memory=0.9, spread=0.8), {}),
    "open loop at 50 %, thresholds": (
        World(users=5000, load=0.5, requests=1000),
        {"thresholds": {"tpot_ms.p95": "<= 100", "ttft_ms.p50": "<= 1000"}},
    ),
    "open loop at 80 %": (World(users=5000, load=0.8, requests=1000), {}),
    "open loop at 90 %": (World(users=5000, load=0.9, requests=1000), {}),
}
SMALL = World(requests=240)


def sick_runs() -> dict[str, tuple[World, dict[str, Any], dict[str, Any]]]:
    """Return what makes a run sick, by the reason's code: the world, the config, the load."""
    failing = {"status": "error", "error": st.Failure("reset", "reset")}
    queued = World(users=5000, load=0.9, requests=400)
    return {
        "interrupted": (SMALL, {}, {"interrupted": True}),
        "resumed": (SMALL, {}, {"resumed": "killed"}),
        "gave_up": (SMALL, {}, {"gave_up": "20 failures in a row"}),
        "backed_off": (SMALL, {}, {"backed_off_s": 3.0}),
        "client_saturated": (World(stalled=0.03), {}, {}),
        "client_starved": (SMALL, {}, {"client": {**CLIENT, "cpu_wait_share": 0.3}}),
        "reconnects": (dataclasses.replace(SMALL, more={"reconnects": 1}), {}, {}),
        "other_model": (dataclasses.replace(SMALL, more={"model": "other"}), {"server": "http://h/v1"}, {}),
        "no_finish_reason": (dataclasses.replace(SMALL, more={"finish_reason": None}), {}, {}),
        "unusual_ends": (dataclasses.replace(SMALL, more={"finish_reason": "error"}), {}, {}),
        "blank_answers": (dataclasses.replace(SMALL, more={"answer": " "}), {}, {}),
        "tokens_doubtful": (dataclasses.replace(SMALL, more={"token_doubt": "20 for 2"}), {}, {}),
        "no_answers": (dataclasses.replace(SMALL, more=failing), {}, {}),
        "failures": (World(hung=10), {}, {}),
        "too_short": (World(requests=10), {}, {}),
        "too_few_requests": (queued, {"thresholds": {"ttft_ms.p95": "<= 500"}}, {}),
        "unsteady": (World(hung=3), {}, {}),
        "overloaded": (World(users=5000, load=2.0), {}, {}),
        "rate_missed": (World(users=SLOTS, load=0.95, requests=1000), {}, {}),
        "slow_connect": (World(users=5000, load=0.5, connect_s=0.2), {}, {}),
        "stream_buffered": (SMALL, {}, {}),
        "answers_cut": (dataclasses.replace(SMALL, more={"finish_reason": "length"}), {}, {}),
        "reasoning_only": (dataclasses.replace(SMALL, more={"answer": "", "reasoning": "hm"}), {}, {}),
        "prompt_cache": (
            dataclasses.replace(SMALL, more={"prompt_tokens": 100, "cached_tokens": 60}), {}, {},
        ),
        "tokens_estimated": (dataclasses.replace(SMALL, more={"token_source": "chunks"}), {}, {}),
        "drift": (World(growth=1.3), {}, {}),
        "clock_jump": (SMALL, {}, {"clock_jump_s": -30.0}),
    }  # fmt: skip


def reasons(runs: int) -> Iterator[bench.Target]:
    """Count each reason in healthy and in sick runs."""
    rng, false = np.random.default_rng(14), Counter[str]()
    each = max(runs // len(HEALTHY) + 1, 10)
    for world, config in HEALTHY.values():
        for _ in range(each):
            false.update(codes(world.run(rng), world.config(**config)))
    healthy, rows, found = each * len(HEALTHY), [], []
    for code, (world, config, load) in sick_runs().items():
        told = 0
        for _ in range(runs):
            results = world.run(rng)
            if code == "stream_buffered":
                for made in results:
                    made.first_ns = made.answer_ns = made.end_ns
            told += code in codes(results, world.config(**config), **load)
        found.append(told / runs)
        rows.append((code, f"{false[code] / healthy:.1%}", f"{told / runs:.0%}"))
    title = f"reasons: said of {healthy} healthy runs, and of {runs} that are sick in this way"
    bench.print_table(title, ("reason", "healthy", "sick"), rows)
    worst = max(false.values(), default=0) / healthy
    yield bench.at_most("each reason: said of the healthy", bench.Runs([worst]), 0.02, 3)
    yield bench.at_least("each reason: said of the sick", bench.Runs([min(found)]), 0.95, 3)


# --- Accuracy and stability


def accuracy(runs: int) -> Iterator[bench.Target]:
    """Hold the intervals of accuracy against the population that the questions come from."""
    rows, worst = [], 1.0
    for questions, asked in ((10, 200), (10, 25), (40, 40), (72, 246)):
        ids = np.arange(asked) % questions
        for name, (draw, truth) in ANSWERS.items():
            rng = np.random.default_rng(15)
            before, after = Coverage(truth), Coverage(truth)
            for _ in range(runs):
                scores = draw(rng, questions)(ids)
                before.add(st.wilson_interval(float(scores.mean()), questions))
                by_question = [float(scores[ids == each].mean()) for each in range(questions)]
                after.add(st.mean_score(by_question, asked)["ci95"])
            worst = min(worst, after.covering)
            rows.append(
                (
                    f"{questions} questions, {asked} answers, {name}",
                    f"{before.covering:.1%}",
                    f"{after.covering:.1%}",
                    f"{before.width:.2f}",
                    f"{after.width:.2f}",
                )
            )
    header = ("accuracy", "before", "after", "width before", "after")
    bench.print_table(f"accuracy, {runs} runs: intervals that hold", header, rows)
    yield bench.at_least("accuracy, worst cell: intervals that hold", bench.Runs([worst]), AIM, 3)


Answers = Callable[[Array], Array]


def always_the_same(rng: Rng, questions: int) -> Answers:
    """Return answers as at temperature 0: a question is answered right, or not, each time."""
    right = rng.random(questions) < 0.7
    return lambda ids: right[ids].astype(float)


def hard_first(rng: Rng, questions: int) -> Answers:
    """Return the same from a catalogue whose first questions are the hard ones."""
    right = rng.random(questions) < np.linspace(0.4, 1.0, questions)
    return lambda ids: right[ids].astype(float)


def by_chance(rng: Rng, questions: int) -> Answers:
    """Return answers that are right with a chance of each question's own."""
    chance = rng.beta(1.4, 0.6, questions)
    return lambda ids: (rng.random(len(ids)) < chance[ids]).astype(float)


def partly_right(rng: Rng, questions: int) -> Answers:
    """Return scores such as a similarity gives."""
    score = np.where(rng.random(questions) < 0.3, 0.0, rng.uniform(0.8, 1.0, questions))
    return lambda ids: score[ids]


ANSWERS: dict[str, tuple[Callable[[Rng, int], Answers], float]] = {
    "always the same": (always_the_same, 0.7),
    "always the same, hard ones first": (hard_first, 0.7),
    "by chance": (by_chance, 0.7),
    "similarities": (partly_right, 0.63),
}


def stability(runs: int) -> Iterator[bench.Target]:
    """Hold what a sweep says of its answers' change against how many the load really changed."""
    rows, worst = [], 1.0
    config = st.Config.model_validate({**CONFIG, "concurrent": [1, 1, 8], "temperature": 0})
    for questions in (20, 72):
        for noise, changed in ((0.05, 0.0), (0.05, 0.1), (0.2, 0.0)):
            rng = np.random.default_rng(16)
            before, after = Coverage(changed), Coverage(changed * (1 - noise))
            for _ in range(runs // 10):
                texts = np.zeros((3, questions), int)
                cold = rng.random(questions) < noise  # only the first, cold pass differs
                texts[0, cold] = 1
                texts[2, (rng.random(questions) < changed)] = 2
                part = sweep(texts, config)[2]["quality"]["stability"]
                before.add(st.wilson_interval(part["avg"], questions))
                after.add(part["beyond_ci95"])
            worst = min(worst, after.covering)
            name = f"{questions} questions, {noise:.0%} differ anyway, load changes {changed:.0%}"
            rows.append((name, f"{before.covering:.1%}", f"{after.covering:.1%}"))
    bench.print_table(
        f"stability, {runs // 10} runs: intervals that hold", ("sweep", "before", "after"), rows
    )
    yield bench.at_least("stability, worst cell: intervals that hold", bench.Runs([worst]), AIM, 3)


def sweep(texts: Array, config: st.Config) -> list[dict[str, Any]]:
    """Return the stages of a sweep that answered so."""
    stages, questions = texts.shape
    results = []
    for place in range(stages * questions):
        stage, question = divmod(place, questions)
        begun_ns = place * 100_000_000
        made = result(place, begun_ns, begun_ns + 10_000_000, begun_ns + 50_000_000, 3)
        made.id, made.stage, made.answer = f"q{question}", stage, str(texts[stage, question])
        results.append(made)
    return list(st.calculate_aggregates(results, config)["stages"])


if __name__ == "__main__":
    raise SystemExit(main())
