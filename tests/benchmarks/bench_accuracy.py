"""Reported TTFT, ITL and E2E against what the server really sent.

python tests/benchmarks/bench_accuracy.py [--server PATH] [--runs N] [--quick]

Each load runs with the kernel's arrival times and without them, alternating. Each request carries its number in its
question, and truth_server.py notes it, so that the error of each single request is known too. Another server's log has
no numbers: then only the distributions are compared.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import harness as bench


@dataclasses.dataclass(frozen=True)
class Load:
    """A load, and how far the reported times may be off."""

    name: str
    concurrent: int
    requests: int
    server: dict[str, bench.Setting]
    limits: Mapping[str, float]  # ms, by figure, with the kernel's times
    loop_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)  # without them


TIGHT = {"TTFT p50": 0.05, "TTFT p99": 0.15, "ITL mean": 0.1}
TWENTY: dict[str, bench.Setting] = {"ttft": 200, "itl": 50, "n": 64, "jitter": 0.2}
LOADS = (
    Load("light", 200, 600, TWENTY, TIGHT, {"TTFT p50": 0.3, "TTFT p99": 1.0, "ITL mean": 0.1}),
    Load("800 × 20", 800, 2400, TWENTY, TIGHT),
    Load("1,000 × 20", 1000, 3000, TWENTY, TIGHT),
    Load("1,000 × 40", 1000, 4000, {**TWENTY, "itl": 25}, {}),
    Load("near the limit", 500, 5000, {"ttft": 20, "itl": 4, "n": 100}, {"TTFT p50": 3}),
)
FIGURES = ("TTFT p50", "TTFT p99", "ITL mean", "E2E p50", "E2E p99")


@dataclasses.dataclass
class SavedRun:
    """One run: what was reported, and what was true."""

    outcome: bench.Outcome
    results: list[dict[str, Any]]  # of ok requests
    truths: list[bench.Truth]

    def reported(self) -> dict[str, float]:
        """Return the program's figures, computed anew from its records."""
        gaps = [gap for result in self.results for gap in result["chunk_ms"]]
        return summary(
            [r["ttft_ms"] for r in self.results], gaps, [r["time"] for r in self.results]
        )

    def true(self) -> dict[str, float]:
        """Return the same figures from the server's log."""
        truths = [truth for truth in self.truths if truth.how == "ok"]
        return summary(
            [t.ttft_ms for t in truths], [t.itl_ms for t in truths], [t.e2e_ms for t in truths]
        )

    def errors(self, what: str) -> list[float]:
        """Return each request's error in ms; none where the server's log does not say which request was which."""
        by_tag = {truth.tag: truth for truth in self.truths if truth.tag is not None}
        pairs = [
            (result, by_tag[result["index"]])
            for result in self.results
            if result["index"] in by_tag and result["question"].endswith(f" {result['index']}")
        ]
        if what == "TTFT":
            return [result["ttft_ms"] - truth.ttft_ms for result, truth in pairs]
        return [result["time"] - truth.e2e_ms for result, truth in pairs]


def summary(ttft: Sequence[float], itl: Sequence[float], e2e: Sequence[float]) -> dict[str, float]:
    """Return the figures that are compared."""
    values = [bench.percentile(ttft, 0.5), bench.percentile(ttft, 0.99), statistics.fmean(itl)]
    return dict(
        zip(
            FIGURES, [*values, bench.percentile(e2e, 0.5), bench.percentile(e2e, 0.99)], strict=True
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a target is missed."""
    options = bench.options_of(__doc__, argv)
    return bench.run_all(__doc__ or "", lambda folder: measure(options, folder))


def measure(options: Any, folder: Path) -> Iterator[bench.Target]:
    """Run each load, print a table a load, and yield the targets."""
    for load in LOADS:
        asked = load
        if options.quick:
            asked = dataclasses.replace(load, requests=load.requests // 3)
        figures = {"kernel": bench.Figures(), "loop": bench.Figures()}
        verdicts: dict[str, list[str]] = {"kernel": [], "loop": []}
        for _ in range(options.runs):
            for clock, of_clock in figures.items():
                run = run_load(asked, options, folder, stamps=clock == "kernel")
                verdicts[clock].append(run.outcome.verdict)
                add_figures(run, of_clock)
        for clock, of_clock in figures.items():
            print_figures(load, clock, of_clock, verdicts[clock])
            yield from targets(load, clock, of_clock, verdicts[clock])


def print_figures(load: Load, clock: str, figures: bench.Figures, verdicts: Sequence[str]) -> None:
    """Print what one load gave by one clock."""
    settings = bench.settings_text(load.server)
    title = f"{load.name}, times of the {clock}: {load.concurrent} streams, {settings}"
    header = (
        "ms",
        "reported",
        "truth",
        "difference",
        "over the runs",
        "each request: p50",
        "p99 of its size",
    )
    bench.print_table(title, header, rows(figures))
    print(f"  verdicts: {', '.join(verdicts)}")
    print(
        f"  tokens/s {figures['tokens/s'].median:,.0f}, client CPU {figures['cpu'].median:.0%} of a core, "
        f"{figures['cpu a token'].median:.1f} µs a token; chunks merged {figures['merged'].median:.1%}\n"
    )


def run_load(load: Load, options: Any, folder: Path, *, stamps: bool) -> SavedRun:
    """Run the program once against the server."""
    questions = [f"This is question {place}" for place in range(load.requests)]
    with bench.TruthServer(options, folder, load.server) as server:
        outcome = bench.run_program(
            server.base,
            folder,
            questions,
            stamps=stamps,
            concurrent=load.concurrent,
            questions="all",
        )
    results = [result for result in outcome.results() if result["status"] == "ok"]
    return SavedRun(outcome, results, server.requests())


def add_figures(run: SavedRun, figures: bench.Figures) -> None:
    """Add a run's figures."""
    reported, true = run.reported(), run.true()
    for name in FIGURES:
        figures.add(name, "reported", value=reported[name])
        figures.add(name, "truth", value=true[name])
        figures.add(name, "difference", value=reported[name] - true[name])
    for what in ("TTFT", "E2E"):
        if errors := run.errors(what):
            figures.add(what, "error p50", value=bench.percentile(errors, 0.5))
            figures.add(what, "error p99", value=bench.percentile(map(abs, errors), 0.99))
    figures.add("tokens/s", value=run.outcome.aggregate["tokens_per_s"])
    figures.add("cpu", value=run.outcome.meta["client"]["cpu_share"])
    tokens = run.outcome.aggregate["token_sum"]
    figures.add("cpu a token", value=run.outcome.cost.cpu_s * 1e6 / tokens)
    figures.add("merged", value=(run.outcome.aggregate["merged_chunks"] or 0) / tokens)
    figures.add(
        "uncounted", value=sum(t.sent for t in run.truths) - sum(r["token"] for r in run.results)
    )
    figures.add(
        "chunks", value=sum(t.sent for t in run.truths) - sum(r["chunks"] for r in run.results)
    )


def rows(figures: bench.Figures) -> Iterator[tuple[str, ...]]:
    """Yield a row a figure; the errors of single requests stand at the medians."""
    for name in FIGURES:
        reported, true, difference = (
            figures[name, kind] for kind in ("reported", "truth", "difference")
        )
        single = ["", ""]
        what = name.removesuffix(" p50")
        if (what, "error p50") in figures:
            single = [f"{figures[what, f'error {share}'].median:+.3f}" for share in ("p50", "p99")]
        means = f"{reported.median:.3f}", f"{true.median:.3f}", f"{difference.median:+.3f}"
        yield (name, *means, difference.spread(3), *single)


def targets(
    load: Load, clock: str, figures: bench.Figures, verdicts: Sequence[str]
) -> Iterator[bench.Target]:
    """Yield what the load is to reach: limits, or a run that says itself that it was too much."""
    named = f"{load.name}, {clock}"
    limits = load.limits if clock == "kernel" else load.loop_limits
    for name, limit in limits.items():
        yield bench.at_most(f"{named}: {name} off by, ms", figures[name, "difference"], limit, 3)
    for what in ("uncounted", "chunks"):
        yield bench.at_most(f"{named}: tokens lost ({what})", figures[what], 0, 0)
    if load.name == "near the limit":
        yield bench.at_least(f"{named}: tokens/s", figures["tokens/s"], 75_000)
    off = [
        max(map(abs, pair))
        for pair in zip(*(figures[name, "difference"].values for name in FIGURES[:2]), strict=True)
    ]
    honest = all(
        error <= 5 or not verdict.startswith("VALID")
        for error, verdict in zip(off, verdicts, strict=True)
    )
    said = " / ".join(
        f"{error:.1f} ms: {verdict.split()[0]}"
        for error, verdict in zip(off, verdicts, strict=True)
    )
    yield bench.Target(f"{named}: TTFT off by > 5 ms is not VALID", "each run", honest, said)


if __name__ == "__main__":
    raise SystemExit(main())
