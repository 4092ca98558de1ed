"""What watching the machine costs the measuring process: runs with the sampler and without, by turns.

python tests/benchmarks/bench_sampler.py [--server PATH] [--runs N] [--quick]

The sampler is a process of its own; what is left in the measuring one is to read a line a second
and to write it into the journal. Beside a load that is lost in the load's own noise, so it is also
measured alone, in an event loop that does nothing else. TTFT is held against the server's own log,
so that a change of the server's or the machine's pace between two runs does not count.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import llm_stresstest as st
from extensions import hardware
from tests.benchmarks import harness as bench

CONCURRENT = 16
SERVER: dict[str, bench.Setting] = {"ttft": 50, "itl": 10, "n": 100}
MOST_CPU = 0.5  # % of a core
IDLE_S = 10.0
FIGURES = ("CPU, % of a core", "TTFT p50 - truth, ms", "TTFT p99 - truth, ms")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a target is missed."""
    options = bench.options_of(__doc__, argv)
    return bench.run_all(__doc__ or "", lambda folder: measure(options, folder))


def measure(options: Any, folder: Path) -> Iterator[bench.Target]:
    """Run with and without by turns, print a table, and yield the targets."""
    alone = {name: bench.Runs([]) for name in ("with", "without")}
    for _ in range(options.runs):
        for name, sample_s in (("with", 1), ("without", 0)):
            alone[name].values.append(asyncio.run(idle(folder, sample_s)))
    pairs = zip(alone["with"].values, alone["without"].values, strict=True)
    more = bench.Runs([a - b for a, b in pairs])
    yield bench.at_most("more CPU in an idle loop, % of a core", more, MOST_CPU, 3)
    figures = bench.Figures()
    for place in range(options.runs):
        order = (("with", 1), ("without", 0))
        for name, sample_s in order if place % 2 == 0 else reversed(order):
            for what, value in zip(FIGURES, run(options, folder, sample_s), strict=True):
                figures.add(name, what, value=value)
    rows = [
        (what, *(text for name in ("with", "without") for text in shown(figures[name, what])))
        for what in FIGURES
    ]
    header = ("", "with", "over the runs", "without", "over the runs")
    bench.print_table(f"{CONCURRENT} streams, {bench.settings_text(SERVER)}", header, rows)
    for what, least in zip(FIGURES, (MOST_CPU, 0.1, 1.0), strict=True):
        with_it, without = figures["with", what], figures["without", what]
        more = bench.Runs([a - b for a, b in zip(with_it.values, without.values, strict=True)])
        noise = max(without.values) - min(without.values)
        limit = least if what == FIGURES[0] else max(noise, least)
        met = more.median <= limit
        yield bench.Target(
            f"more {what}", f"<= {limit:.2f}", met, f"{more.median:.3f}", more.spread(3)
        )


async def idle(folder: Path, sample_s: int) -> float:
    """Return the CPU, in % of a core, of a loop that only takes samples and writes them down."""
    settings = {"server": "http://127.0.0.1:9/v1", "model": "m", "hardware": {"sample_s": sample_s}}
    config = st.Config.model_validate(settings)
    target = st.resolve_target(config, {})
    path = folder / "idle.journal"
    with st.Journal.create(path) as journal:
        journal.begin({"config": settings})
        watch = hardware.Watch(config)
        if sample_s:
            await watch.prepare(target, wait=False, say=print)
        await asyncio.sleep(2)  # the sampler has started
        watch.begin(st.clock(), lambda row: journal.append("samples", row))
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.sleep(IDLE_S)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - begun_s
        await watch.stop()
    path.unlink()
    return 100 * cpu_s / wall_s


def shown(runs: bench.Runs) -> tuple[str, str]:
    """Return a figure's median and range."""
    return f"{runs.median:.3f}", runs.spread(3)


def run(options: Any, folder: Path, sample_s: int) -> tuple[float, float, float]:
    """Run the load; return the CPU of the measuring process and how far its TTFTs are off."""
    questions = 48 if options.quick else 160
    with bench.TruthServer(options, folder, SERVER) as server:
        outcome = bench.run_program(
            server.base,
            folder,
            concurrent=CONCURRENT,
            questions=questions,
            hardware={"sample_s": sample_s},
        )
    truths = [truth.ttft_ms for truth in server.requests()]
    reported = outcome.aggregate["ttft_ms"]
    cpu = 100 * outcome.cost.cpu_s / outcome.cost.wall_s
    p50, p99 = (bench.percentile(truths, share) for share in (0.5, 0.99))
    return cpu, reported["p50"] - p50, reported["p99"] - p99


if __name__ == "__main__":
    raise SystemExit(main())
