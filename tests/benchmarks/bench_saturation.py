"""Whether a run that is starved of CPU says so: pinned to one core beside a busy loop, and again with room.

python tests/benchmarks/bench_saturation.py [--server PATH] [--runs N] [--quick]
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import harness as bench

CONCURRENT = 200
SERVER = {
    "ttft": 100.0,
    "itl": 20.0,
    "n": 64,
    "jitter": 0.2,
}  # a third of a core, when there is a whole one


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a verdict is wrong."""
    options = bench.options_of(__doc__, argv)
    return bench.run_all(__doc__ or "", lambda folder: measure(options, folder))


def measure(options: Any, folder: Path) -> Iterator[bench.Target]:
    """Run the load starved and with room, print both, and yield the verdicts as targets."""
    table, verdicts = [], dict[str, list[str]]()
    for place in range(options.runs):
        for name, run in (("with room", free_run), ("starved", starved_run)):
            outcome, ttft_ms = run(options, folder)
            lag, cpu = outcome.meta["client"]["loop_lag_ms"], outcome.meta["client"]["cpu_share"]
            reported = outcome.aggregate["ttft_ms"]["p50"]
            times = (
                f"{lag['p50']:.2f}",
                f"{lag['p95']:.2f}",
                f"{cpu:.0%}",
                f"{reported:.1f}",
                f"{ttft_ms:.1f}",
            )
            table.append((f"{name}, run {place + 1}", *times, outcome.verdict, str(outcome.code)))
            verdicts.setdefault(name, []).append(outcome.verdict)
    header = (
        "client",
        "lag p50, ms",
        "lag p95",
        "CPU",
        "TTFT p50",
        "truth",
        "verdict",
        "exit code",
    )
    bench.print_table(f"{CONCURRENT} streams, {bench.settings_text(SERVER)}", header, table)
    valid = all(verdict == "VALID" for verdict in verdicts["with room"])
    caught = all("client_starved" in verdict for verdict in verdicts["starved"])
    yield bench.Target("with room", "VALID", valid, " / ".join(verdicts["with room"]))
    yield bench.Target("starved", "client_starved", caught, " / ".join(verdicts["starved"]))


def free_run(options: Any, folder: Path) -> tuple[bench.Outcome, float]:
    """Run with all cores."""
    return run_load(options, folder, lambda _pid: None)


def starved_run(options: Any, folder: Path) -> tuple[bench.Outcome, float]:
    """Run on one core, which a busy loop has too; the server keeps the others."""
    cores = sorted(os.sched_getaffinity(0))
    with busy_loop(cores[-1]):
        return run_load(
            options, folder, lambda pid: os.sched_setaffinity(pid, {cores[-1]}), set(cores[:-1])
        )


def run_load(
    options: Any, folder: Path, started: Callable[[int], None], server_cores: set[int] | None = None
) -> tuple[bench.Outcome, float]:
    """Run the program; return the outcome and the true median TTFT."""
    requests = 400 if options.quick else 1000
    with bench.TruthServer(options, folder, SERVER) as server:
        if server_cores:
            os.sched_setaffinity(server.process.pid, server_cores)
        outcome = bench.run_program(
            server.base, folder, started=started, concurrent=CONCURRENT, questions=requests
        )
    return outcome, bench.percentile((truth.ttft_ms for truth in server.requests()), 0.5)


@contextlib.contextmanager
def busy_loop(core: int) -> Iterator[None]:
    """Keep a core busy while the block runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {core})
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
