"""Are the verdicts of compare and history right? Simulated runs whose truth is known.

    python tests/benchmarks/bench_compare.py             # all of it, about 12 minutes on one core
    python tests/benchmarks/bench_compare.py --quick     # a tenth of the tables
    python tests/benchmarks/bench_compare.py --only power,history

Seeded: the same figures each time. The results files are made by the core's own writer.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy import stats  # noqa: E402

from extensions import compare as tool  # noqa: E402
from extensions import history as past  # noqa: E402
from extensions import pairing  # noqa: E402
from tests.benchmarks.harness import Target, machine, print_table, wait_for  # noqa: E402
from tests.benchmarks.simulated import Server, World  # noqa: E402

DIRECTED = ("faster", "slower", "higher", "lower")


def share(name: str, hits: int, tries: int, limit: float, *, least: bool = False) -> Target:
    """Return a target on a share of tries."""
    rate = hits / tries
    met = rate >= limit if least else rate <= limit
    sign = ">=" if least else "<="
    return Target(name, f"{sign} {limit:.0%}", met, f"{rate:.1%}", f"{hits} of {tries}")


class Bench:
    """The simulations, each with its targets."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder, self.scale = folder, scale

    def tries(self, full: int) -> int:
        """Return how many tables to make."""
        return max(10, round(full * self.scale))

    def comparison(
        self,
        world: World,
        a: Server,
        b: Server,
        runs: int = 1,
        options: pairing.Options = pairing.Options(),  # noqa: B008 - frozen
    ) -> pairing.Comparison:
        """Write the runs' files, read them back, compare."""
        sides = []
        for label, server in (("A", a), ("B", b)):
            paths = [world.run(self.folder, f"{label}{place}", server) for place in range(runs)]
            sides.append(pairing.Side(label, tuple(pairing.read_run(path) for path in paths)))
            for path in paths:
                path.unlink()
        return pairing.compare(sides[0], sides[1], options)

    def false_alarms(self) -> Iterator[Target]:
        """A against A, one run each: no table may say that they differ."""
        heavy = Server(noise=0.3, tail=0.1)
        yield from self._equal("1,000 pairs, heavy tails", 1000, 1, heavy, 150)
        yield from self._equal("60 pairs, heavy tails", 60, 1, heavy, 400)
        yield from self._equal("1,000 pairs, 2 % timeouts", 1000, 1, Server(timeouts=0.02), 40)

    def groups(self) -> Iterator[Target]:
        """A against A, several runs a side that differ among themselves."""
        drifting = Server(noise=0.2, tail=0.05, drift=0.05)
        yield from self._equal("2 runs a side, drift 5 %", 60, 2, drifting, 150)
        yield from self._equal("3 runs a side, drift 5 %", 100, 3, drifting, 150)
        yield from self._equal("5 runs a side, drift 5 %", 60, 5, drifting, 60)

    def _equal(
        self, name: str, questions: int, runs: int, server: Server, full: int
    ) -> Iterator[Target]:
        """Compare a server with itself that often."""
        tries, alarms, beyond, where = self.tries(full), 0, 0, dict[str, int]()
        for seed in range(tries):
            rows = self.comparison(World(questions, seed), server, server, runs).rows.values()
            wrong = [row.spec.name for row in rows if row.verdict in DIRECTED]
            alarms += bool(wrong)
            ends = [row.interval.ci_table for row in rows if row.interval]
            beyond += any(not low <= 0 <= high for low, high in ends)
            for each in wrong:
                where[each] = where.get(each, 0) + 1
        yield share(f"A/A, {name}: tables with a false verdict", alarms, tries, 0.05)
        print(
            f"  {name}: intervals without 0: {beyond} of {tries}; false rows: {where}",
            flush=True,
        )

    def power(self) -> Iterator[Target]:
        """What 60 questions can see, beside a test that does not pair; and whether 95 % are 95 %."""
        names, rows = ("ttft_ms", "tpot_ms", "e2e_ms"), []
        covered = {"times": list[bool](), "tokens/s": list[bool]()}
        for place, slower in enumerate((0.0, 0.02, 0.05, 0.10)):
            tries, found, unpaired, any_row = self.tries(200), 0, 0, 0
            for seed in range(tries):
                world = World(60, 10_000 * place + seed)
                # The noise of a pair is 10 %: 7.07 % in each of its two answers.
                a, b = (Server(noise=0.1 / math.sqrt(2), flips=0, slower=s) for s in (0, slower))
                made = self.comparison(world, a, b)
                found += made.rows["e2e_ms"].verdict == "slower"
                any_row += any(made.rows[name].verdict == "slower" for name in names)
                values = made.table.grid.values("e2e_ms") if made.table else np.empty((2, 0))
                unpaired += stats.mannwhitneyu(*values).pvalue < 0.05
                for name in (*names, "tokens_per_s"):
                    interval, truth = made.rows[name].interval, math.log1p(slower)
                    if interval is None:
                        continue
                    (low, high), of_time = interval.ci95, name in names
                    inside = low <= (truth if of_time else -truth) <= high
                    covered["times" if of_time else "tokens/s"].append(inside)
            rows.append(
                (f"{slower:.0%}", *(f"{n / tries:.0%}" for n in (found, any_row, unpaired)))
            )
            if slower == 0.05:
                yield share(
                    "power for 5 %, 60 questions, 10 % noise", found, tries, 0.8, least=True
                )
        header = ("slower by", "E2E row", "any time row", "Mann-Whitney, unpaired")
        print_table("power at 60 questions", header, rows)
        for what, found_inside in covered.items():
            rate = statistics.fmean(found_inside)
            counts = f"{sum(found_inside)} of {len(found_inside)}"
            met = 0.93 <= rate <= 0.97
            yield Target(f"coverage of ci95, {what}", "93 to 97 %", met, f"{rate:.1%}", counts)

    def require(self) -> Iterator[Target]:
        """`--require` where the truth is the limit, where nothing changed, and its advice."""
        gate = tool.Gate.parse("e2e_ms not slower than 10%", "require")
        for name, slower, limits in (
            ("truth at the limit", 0.10, {"passed": 0.05, "failed": 0.05}),
            ("no change", 0.0, {"failed": 0.01}),
        ):
            tries, states = self.tries(200), list[str]()
            for seed in range(tries):
                a, b = Server(noise=0.15), Server(noise=0.15, slower=slower)
                states.append(gate.check(self.comparison(World(60, seed), a, b)).state)
            for state, limit in limits.items():
                yield share(f"require, {name}: {state}", states.count(state), tries, limit)
        yield from self.advice(gate, "no change", 0.25, 0.0)
        yield from self.advice(gate, "4 % slower", 0.15, 0.04)

    def advice(self, gate: tool.Gate, name: str, noise: float, slower: float) -> Iterator[Target]:
        """Ask as many questions as it says, and see whether four in five tables are then decided."""
        before, server = Server(noise=noise), Server(noise=noise, slower=slower)
        advised = list[float]()
        for seed in range(self.tries(100)):
            made = self.comparison(World(60, seed), before, server)
            row = made.rows["e2e_ms"]
            if gate.check(made).state == "undecided" and row.interval and made.table:
                gap = math.log(1.1) - row.interval.value
                more, _ = made.table.more(row, abs(gap))
                advised.append(60 + (more or 0))
        middle = statistics.median(advised)
        factors = (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0)
        needed = next(
            (
                middle * factor
                for factor in factors
                if self._decided(gate, before, server, round(middle * factor)) >= 0.8
            ),
            math.inf,
        )
        rate, factor = self._decided(gate, before, server, round(middle)), middle / needed
        detail = f"advised {middle:.0f}, needed {needed:.0f}; with the advised {rate:.0%} decided"
        met = 1 / 1.5 <= factor <= 1.5
        yield Target(
            f"advised questions over needed ones, {name}",
            "1/1.5 to 1.5",
            met,
            f"{factor:.2f}",
            detail,
        )

    def _decided(self, gate: tool.Gate, before: Server, server: Server, questions: int) -> float:
        """Return the share of tables that are decided with so many questions."""
        tries = self.tries(50)
        made = (
            self.comparison(World(questions, 1000 + seed), before, server) for seed in range(tries)
        )
        return sum(gate.check(each).state != "undecided" for each in made) / tries

    def history(self) -> Iterator[Target]:
        """Stationary histories, histories with a step, and short ones."""
        nightly = Server(noise=0.1, drift=0.02)
        alarms = found = dated = 0
        tries = self.tries(100)
        for seed in range(tries):
            alarms += bool(self._shifts(World(30, seed), [nightly] * 20))
            slow = Server(noise=0.1, drift=0.02, slower=0.1)
            at = [
                place
                for place, _ in self._shifts(World(30, 500 + seed), [nightly] * 12 + [slow] * 12)
            ]
            found += bool(at)
            dated += any(abs(place - 12) <= 1 for place in at)
        yield share("20 runs without a change: alarms", alarms, tries, 0.05)
        yield share("a step of 10 % at run 12 of 24: found", found, tries, 0.95, least=True)
        yield share("… and dated within one run", dated, tries, 0.90, least=True)
        short = self._history(World(30, 1), [nightly] * 4)
        text = str(past.history_parts(short)[0])
        met = text == "Changes: cannot tell yet: 4 of 8 runs."
        yield Target("four runs", "cannot tell yet", met, text)

    def _history(self, world: World, servers: Sequence[Server]) -> past.History:
        for place, server in enumerate(servers):
            world.run(self.folder, f"nightly_{place:02}", server)
        found = past.read_history("nightly", self.folder)
        for run in found.runs:
            run.path.unlink()
        return found

    def _shifts(self, world: World, servers: Sequence[Server]) -> list[tuple[int, str]]:
        found = self._history(world, servers)
        return [(found.runs.index(shift.run), shift.metric.name) for shift in found.shifts]

    def size(self) -> Iterator[Target]:
        """Two files of 20,000 requests, by the command line."""
        world = World(20_000, 1)
        for name in ("A", "B"):
            world.run(self.folder, name, Server(noise=0.2), slo={"ttft_ms": 300})
        command = [sys.executable, str(ROOT / "llm_stresstest.py"), "compare", "A", "B"]
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, "--results-dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        peak_mb = wait_for(process).ru_maxrss / 1024
        wall_s = time.monotonic() - start
        code = process.returncode
        yield Target(
            "20,000 requests a file: time", "< 10 s", wall_s < 10, f"{wall_s:.1f} s", f"rc {code}"
        )
        yield Target(
            "20,000 requests a file: memory", "< 500 MB", peak_mb < 500, f"{peak_mb:.0f} MB"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulations and print their targets; 1 when one is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the tables")
    parser.add_argument(
        "--only", metavar="NAMES", help="false_alarms, groups, power, require, history, size"
    )
    options = parser.parse_args(argv)
    print(f"{(__doc__ or '').splitlines()[0]}\n{machine()}\n", flush=True)
    targets = list[Target]()
    with tempfile.TemporaryDirectory(prefix="bench_compare_") as folder:
        bench = Bench(Path(folder), 0.1 if options.quick else 1.0)
        parts: dict[str, Callable[[], Iterator[Target]]] = {
            "false_alarms": bench.false_alarms,
            "groups": bench.groups,
            "power": bench.power,
            "require": bench.require,
            "history": bench.history,
            "size": bench.size,
        }
        header = ("target", "limit", "measured", "spread", "met")
        for name in (options.only or ",".join(parts)).split(","):
            start = time.monotonic()
            found = list(parts[name]())
            title = f"{name}, {time.monotonic() - start:.0f} s"
            print_table(title, header, [target.row() for target in found])
            targets += found
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
