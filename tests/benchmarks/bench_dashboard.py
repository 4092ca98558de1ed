"""What three open pages of the dashboard do to the times that a run measures: nothing, within the noise.

python tests/benchmarks/bench_dashboard.py [--server PATH] [--runs N] [--quick]

Runs with three readers of the live page's stream and runs with none take turns against the same
ground-truth server. A run's error is its TTFT less the server's own. The noise is how far the runs
without a dashboard differ among themselves.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from extensions import runs
from tests.benchmarks import harness as bench

RUNS = 1000  # finished ones, in one folder
READERS = 3
SERVER: dict[str, bench.Setting] = {"ttft": 50, "itl": 20, "n": 40, "jitter": 0.5}
CONCURRENT = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 when a target is missed."""
    options = bench.options_of(__doc__, argv)
    requests = 60 if options.quick else 240
    return bench.run_all(__doc__ or "", lambda folder: body(options, folder, requests))


def body(options: Any, folder: Path, requests: int) -> Iterator[bench.Target]:
    """Take turns, and say how far the medians are apart."""
    figures, cpu_s = bench.Figures(), bench.Runs()
    for _ in range(options.runs):
        for kind in ("without", "with"):
            with contextlib.ExitStack() as stack:
                if kind == "with":
                    stack.enter_context(dashboard(folder / "results"))
                server = stack.enter_context(bench.TruthServer(options, folder, SERVER, log=False))
                outcome = bench.run_program(
                    server.base, folder, concurrent=CONCURRENT, questions=requests
                )
            ttft = outcome.aggregate["ttft_ms"]
            for name in ("p50", "p99"):
                figures.add(kind, name, value=ttft[name])
            if kind == "with":
                cpu_s.values.append(outcome.cost.cpu_s)
    rows = []
    for name in ("p50", "p99"):
        without, with_pages = figures["without", name], figures["with", name]
        cells = (f"{without.median:.3f}", without.spread(3), f"{with_pages.median:.3f}")
        rows.append((f"TTFT {name}, ms", *cells, with_pages.spread(3)))
    header = ("", "without", "over the runs", f"{READERS} pages", "over the runs")
    bench.print_table(bench.settings_text(SERVER), header, rows)
    for name in ("p50", "p99"):
        without, with_pages = figures["without", name], figures["with", name]
        apart = bench.Runs([with_pages.median - without.median])
        noise = max(without.values) - min(without.values)
        yield bench.at_most(f"{name}: with less without, ms", apart, max(noise, 0.05), 3)

    content, many = outcome.path.read_bytes(), folder / "many"
    many.mkdir()
    for number in range(RUNS):
        (many / f"run{number}.json").write_bytes(content)
    seconds = bench.Runs()
    for _ in range(options.runs):
        index, begun = runs.RunIndex(many), time.monotonic()
        assert len(index.entries()) == RUNS
        seconds.values.append(time.monotonic() - begun)
    yield bench.at_most(f"{RUNS:,} finished runs listed from a cold start, s", seconds, 1.0)


@contextlib.contextmanager
def dashboard(results: Path) -> Iterator[None]:
    """Serve the pages, with readers, while the block runs."""
    results.mkdir(exist_ok=True)
    command = [sys.executable, str(bench.ROOT / "llm_stresstest.py"), "dashboard", "--port", "0"]
    command += ["--results-dir", str(results), "--say-address"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2].strip().strip("/"))
    counts = [0] * READERS
    threads = [
        threading.Thread(target=read, args=(port, counts, place), daemon=True)
        for place in range(READERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        for thread in threads:
            thread.join(5)
    if min(counts) < 3:
        raise RuntimeError(f"the pages were not shown: {counts} events")


def read(port: int, counts: list[int], place: int) -> None:
    """Read the live page's stream to its end, and count its events."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/events/page?page=live")
        response = connection.getresponse()
        while line := response.readline():
            counts[place] += line.startswith(b"event:")


if __name__ == "__main__":
    raise SystemExit(main())
