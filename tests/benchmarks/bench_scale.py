"""Memory and save time against the number of requests.

python tests/benchmarks/bench_scale.py [--server PATH] [--runs N] [--quick] [--million]

One-token requests with record_chunk_times false, 50 at once. `--million` adds the run of 1,000,000. The kernel counts
pages of the journal that are mapped while it is read as the process's too; so the process's own memory stands beside
the peak, at the end of the load and after it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import harness as bench

MILLION = 1_000_000
PEAK_MB = 500.0


@dataclasses.dataclass
class Memory:
    """Follows a process's own memory and its journal's size."""

    journal: Path
    samples: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # bytes written, MB
    peak_own_mb: float = 0.0
    _next: float = 0.0

    def watch(self, pid: int) -> None:
        """Take a sample now and then."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.1
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            size = self.journal.stat().st_size if self.journal.exists() else 0
        except OSError:
            return
        own = [
            int(line.split()[1]) / 1024
            for line in status.splitlines()
            if line.startswith("RssAnon")
        ]
        if own:
            self.peak_own_mb = max(self.peak_own_mb, own[0])
            self.samples.append((size, own[0]))

    def steps(self, requests: int, each: int) -> Iterator[tuple[int, float]]:
        """Yield the own memory when each step of requests was done, taken from the journal's growth."""
        whole = max(size for size, _ in self.samples)
        for done in range(0, requests + 1, each):
            yield done, next(own for size, own in self.samples if size >= whole * done / requests)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a target is missed."""

    def extend(parser: Any) -> None:
        parser.add_argument(
            "--million",
            action="store_true",
            help="also 1,000,000 requests: some minutes, 2 GB of disk",
        )

    options = bench.options_of(__doc__, argv, extend)
    return bench.run_all(__doc__ or "", lambda folder: measure(options, folder))


def measure(options: Any, folder: Path) -> Iterator[bench.Target]:
    """Run each size, print the table, and yield the targets."""
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000]
    figures = bench.Figures()
    for requests in sizes:
        for _ in range(1 if requests >= 100_000 else options.runs):
            run_size(requests, options, folder, figures)
    if options.million:
        sizes.append(MILLION)
        run_size(MILLION, options, folder, figures)
    header = (
        "requests",
        "peak MB",
        "own MB, load",
        "own MB, all",
        "load, s",
        "requests/s",
        "after, s",
        "us a request",
        "file MB",
    )
    bench.print_table("memory and time", header, [row(requests, figures) for requests in sizes])
    yield from targets(sizes, figures)


def run_size(requests: int, options: Any, folder: Path, figures: bench.Figures) -> None:
    """Run once and add the figures."""
    memory = Memory(folder / "results" / "bench.journal")
    with bench.TruthServer(options, folder, {"ttft": 0, "itl": 0, "n": 1}, log=False) as server:
        outcome = bench.run_program(
            server.base,
            folder,
            watch=memory.watch,
            concurrent=50,
            questions=requests,
            record_chunk_times=False,
        )
    steps = list(memory.steps(requests, max(requests // 10, 1)))
    load_s, name = outcome.cost.wall_s, str(requests)
    values = {
        "peak": outcome.peak_mb,
        "own, load": steps[-1][1],
        "own, all": memory.peak_own_mb,
        "load": load_s,
        "rate": requests / load_s,
        "after": outcome.after_load_s,
        "after, us": outcome.after_load_s / requests * 1e6,
        "file": outcome.path.stat().st_size / 1e6,
    }
    for kind, value in values.items():
        figures.add(name, kind, value=value)
    if requests >= 100_000:
        table = [(f"{done:,}", f"{own:.1f}") for done, own in steps]
        bench.print_table(f"own memory on the way, {outcome.verdict}", ("requests", "MB"), table)
    outcome.path.unlink()


def row(requests: int, figures: bench.Figures) -> tuple[str, ...]:
    """Return a size's row."""
    kinds = ("peak", "own, load", "own, all", "load", "rate", "after", "after, us", "file")
    return (f"{requests:,}", *(f"{figures[str(requests), kind].median:,.1f}" for kind in kinds))


def targets(sizes: Sequence[int], figures: bench.Figures) -> Iterator[bench.Target]:
    """Yield what is to be reached: a small peak, and a save time that grows no faster than the requests."""
    largest, before = str(sizes[-1]), str(sizes[-2])
    yield bench.at_most(f"peak MB at {sizes[-1]:,} requests", figures[largest, "peak"], PEAK_MB, 0)
    growth = figures[largest, "after"].median / figures[before, "after"].median
    factor = sizes[-1] / sizes[-2]
    name = f"time after the load, {sizes[-2]:,} to {sizes[-1]:,}: growth / growth of requests"
    yield bench.at_most(name, bench.Runs([growth / factor]), 1.2)


if __name__ == "__main__":
    raise SystemExit(main())
