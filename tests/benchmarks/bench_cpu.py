"""What a streamed token and a request cost this client in CPU, beside a bare aiohttp loop and beside wrk.

python tests/benchmarks/bench_cpu.py [--server PATH] [--runs N] [--quick]

Each load runs with a short and with a long answer. Two runs give two equations, CPU = requests × a + tokens × b, and so
the cost of a request (a) apart from that of a token (b). wrk is written in C and does not look at the answers: it is
what the machine asks for the bytes alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import harness as bench

CLIENTS = ("bare", "ours", "wrk")


@dataclasses.dataclass(frozen=True)
class Load:
    """A load, at two lengths of answer."""

    name: str
    concurrent: int
    requests: tuple[int, int]  # of the short answers, of the long ones
    lengths: tuple[int, int]
    server: dict[str, bench.Setting]
    wrk_s: int  # wrk counts time, not requests


LOADS = (
    Load(
        "light, a token a read",
        50,
        (800, 200),
        (20, 200),
        {"ttft": 20, "itl": 10, "jitter": 0.5},
        8,
    ),
    Load("burst, as fast as it goes", 50, (4000, 2000), (20, 200), {"ttft": 0, "itl": 0}, 4),
    Load("500 streams, 100,000 tokens/s", 500, (10000, 5000), (20, 100), {"ttft": 20, "itl": 4}, 5),
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one client did in one run."""

    requests: int
    tokens: int
    cost: bench.Cost


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a target is missed."""
    options = bench.options_of(__doc__, argv)
    return bench.run_all(__doc__ or "", lambda folder: measure(options, folder))


def measure(options: Any, folder: Path) -> Iterator[bench.Target]:
    """Run each load with each client, print a table a load, and yield the targets."""
    for load in LOADS:
        figures = bench.Figures()
        for _ in range(options.runs):
            for client in CLIENTS:
                run_client(client, small(load) if options.quick else load, options, folder, figures)
        title = f"{load.name}: {load.concurrent} streams, {bench.settings_text(load.server)} n={load.lengths}"
        header = (
            "client",
            "us/token",
            "× bare",
            "us/request",
            "× bare",
            "tokens/s",
            "us/token over the runs",
        )
        bench.print_table(title, header, rows(figures))
        yield from targets(load, figures)


def small(load: Load) -> Load:
    """Return the load for a quick look."""
    return dataclasses.replace(
        load, requests=(load.requests[0] // 4, load.requests[1] // 4), wrk_s=3
    )


def run_client(client: str, load: Load, options: Any, folder: Path, figures: bench.Figures) -> None:
    """Run both lengths and add what a token and a request cost."""
    samples = [run_length(client, load, place, options, folder) for place in (0, 1)]
    if None in samples:
        return
    short, long = (sample for sample in samples if sample is not None)
    request_s, token_s = solve(short, long)
    figures.add(client, "us/token", value=token_s * 1e6)
    figures.add(client, "us/request", value=request_s * 1e6)
    figures.add(client, "tokens/s", value=long.tokens / long.cost.wall_s)
    if client != "bare":
        figures.add(
            client, "token ratio", value=token_s * 1e6 / figures["bare", "us/token"].values[-1]
        )
        figures.add(
            client,
            "request ratio",
            value=request_s * 1e6 / figures["bare", "us/request"].values[-1],
        )


def run_length(client: str, load: Load, place: int, options: Any, folder: Path) -> Sample | None:
    """Run one client at one length of answer; what it received is what the server says that it sent."""
    length, requests = load.lengths[place], load.requests[place]
    with bench.TruthServer(options, folder, {**load.server, "n": length}) as server:
        cost: bench.Cost | None
        if client == "bare":
            cost = bench.run_bare(server.base, load.concurrent, requests)
        elif client == "wrk":
            cost = bench.run_wrk(server.base, folder, load.concurrent, load.wrk_s)
        else:
            cost = bench.run_program(
                server.base, folder, concurrent=load.concurrent, questions=requests
            ).cost
    truths = server.requests()
    return None if cost is None else Sample(len(truths), sum(truth.sent for truth in truths), cost)


def solve(short: Sample, long: Sample) -> tuple[float, float]:
    """Return the CPU seconds of a request and of a token."""
    determinant = short.requests * long.tokens - long.requests * short.tokens
    request_s = (short.cost.cpu_s * long.tokens - long.cost.cpu_s * short.tokens) / determinant
    return request_s, (long.cost.cpu_s - long.requests * request_s) / long.tokens


def rows(figures: bench.Figures) -> Iterator[tuple[str, ...]]:
    """Yield a row a client."""
    for client in CLIENTS:
        if (client, "us/token") not in figures:
            yield (client, *["not installed"] * 6)
            continue
        ratios = ["1", "1"]
        if client != "bare":
            ratios = [
                f"{figures[client, f'{what} ratio'].median:.2f}" for what in ("token", "request")
            ]
        token, request = figures[client, "us/token"], figures[client, "us/request"]
        speed = f"{figures[client, 'tokens/s'].median:,.0f}"
        yield (
            client,
            f"{token.median:.2f}",
            ratios[0],
            f"{request.median:.0f}",
            ratios[1],
            speed,
            token.spread(),
        )


def targets(load: Load, figures: bench.Figures) -> Iterator[bench.Target]:
    """Yield what the load is to reach."""
    yield bench.at_most(f"{load.name}: CPU per token, × bare", figures["ours", "token ratio"], 1.3)
    if load.server["itl"] == 0:
        yield bench.at_least(f"{load.name}: tokens/s", figures["ours", "tokens/s"], 100_000)


if __name__ == "__main__":
    raise SystemExit(main())
