"""Which run is better, and is the difference real? The tools compare and ab.

`compare` pairs the answers of results files and says, for each metric, faster, slower, the same, or
that nobody can tell yet. `ab` makes the runs first, two configurations in turn, so that the
machine's drift hits both. Both take gates, for cron and CI.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import llm_stresstest as st
from extensions.pairing import (
    FEWEST_POOLED,
    METRICS,
    Comparison,
    Options,
    Row,
    Run,
    Side,
    compare,
    config_refusals,
    equal_runs,
    flat,
    ranking,
    read_head,
    read_run,
    split_name,
)
from extensions.verdicts import (
    Outcome,
    ToolParser,
    change_text,
    github,
    interval_text,
    junit,
    markdown,
    needs_text,
    page,
    text_parts,
    unwrapped,
)

# === Gates ===


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
        name, _, percentile = split_name(self.metric)
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
        metric = METRICS[split_name(self.metric)[0]]
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
        good, bad = [], []
        for _, interval in found:
            low, high = interval or (None, None)
            best, worst = (low, high) if "<" in self.sign else (high, low)
            good.append(worst is not None and COMPARE[self.sign](worst, self.bound))
            bad.append(best is not None and not COMPARE[self.sign](best, self.bound))
        if all(good) or all(bad):
            return ("passed" if all(good) else "failed"), what
        return "undecided", f"{what}; its 95 % interval does not decide it; more questions would"


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
    path = name.removeprefix("pooled.").split(".")
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
        counts = aggregate.get("failed", 0) + aggregate.get("ok", 0)
        return tree, st.wilson_interval(tree, counts) if tree is not None and counts else None
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
        text = json.dumps(content)
        done = subprocess.run(words, input=text, text=True, timeout=60, check=False)  # noqa: S603
        problem = f"ended with exit code {done.returncode}" if done.returncode else None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem is not None:
        st.notice(f"--notify {command}: {problem}")


# === Command line ===

FORMATS = ("text", "json", "md", "html", "junit", "github")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare results files; the exit code is 0, or what the gates say."""
    parser = ToolParser("compare", "Say which run is better, and whether it is real.", EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="results files or names of runs; the first is A"
    )
    parser.add_argument(
        "--group",
        action="store_true",
        help="each RUN is a side of several runs: A1,A2,A3 B1,B2,B3; single names stand for all "
        "equal runs of their folder",
    )
    _add_options(parser)
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error("give at least two runs")
    gates = _gates(options)
    sides, pool = _sides(options)
    return Report(options, gates, sides, pool).run()


EXAMPLES = """examples:
  llm_stresstest.py compare monday tuesday
  llm_stresstest.py compare fp16 q4 --not-worse "quality 2 points"
  llm_stresstest.py compare --group a1,a2,a3 b1,b2,b3 --require "e2e_ms not slower than 10%"
  llm_stresstest.py compare base new --in-these-runs --fail-if "quality lower" --format junit

gates: METRIC slower|faster|higher|lower|worse|better [than 10%|than 2 points], with "not" before
it, METRIC same, or METRIC.p95 > 500; METRIC as in the results' aggregate: e2e_ms, quality, …
exit codes: 0 all gates passed, 1 one failed, 2 not comparable, 5 undecided
"""
AB_EXAMPLES = """example:
  llm_stresstest.py ab quant --a fp16.json --b q4.json -n 5

runs A B B A A B …, so that the machine's drift hits both, then compares; Ctrl-C ends in order, and
the same command goes on
"""


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
        listed = any(len(side) > 1 for side in runs)
        found = runs if listed else [equal_runs(side[0]) for side in runs]
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
        if self.pool and len(self.pool) < FEWEST_POOLED:
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
            self._write(json.dumps(self._json(found, [[] for _ in found]), indent=1) + "\n")
        for each in found:
            for refusal in each.refused:
                names = " and ".join(st.printable(side.first.name, 80) for side in (each.a, each.b))
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
            return json.dumps(self._json(found, outcomes), indent=1) + "\n"
        pairs = list(zip(found, outcomes, strict=True))
        if kind in ("html", "junit"):
            return page(pairs) if kind == "html" else junit(pairs)
        if kind in ("md", "github"):
            make = markdown if kind == "md" else github
            return "\n".join(make(*each) for each in pairs)
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
            st.show(content if isinstance(content, list) else [unwrapped(content)])
            return
        try:
            with path.open("x", encoding="utf-8") as file:
                if isinstance(content, list):
                    st.show(content, file)
                else:
                    file.write(content)
        except OSError as error:
            raise st.ResultsError(f"{path}: cannot be written: {error.strerror}") from None


def _ranking_lines(ranks: Mapping[str, Sequence[Sequence[str]]]) -> list[Any]:
    lines: list[Any] = [st.styled(("ranking, best first; what cannot be told ties", "dim"))]
    for name, places in ranks.items():
        order = "  >  ".join(" = ".join(tied) for tied in places)
        lines.append(f"  {METRICS[name].label:<14} {order}")
    return lines


def main_ab(argv: Sequence[str] | None = None) -> int:
    """Run two configurations in turn, and compare."""
    parser = ToolParser("ab", "Run two configurations in turn, and compare them.", AB_EXAMPLES)
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
        """Which run comes when: a1, b1, b2, a2, a3, b3 and so on."""
        sides = [("a", "b") if round_ % 2 == 0 else ("b", "a") for round_ in range(self.options.n)]
        return [(side, place + 1) for place, pair in enumerate(sides) for side in pair]

    def path(self, side: str, number: int) -> Path:
        """Return where a run's results are."""
        return Path(self.folder) / f"{self.name}_{side}{number}.json"

    def is_done(self, side: str, number: int) -> bool:
        """Whether a run is there from its first question to its last."""
        path = self.path(side, number)
        return path.is_file() and read_head(path)[0].get("status") == "complete"

    def done(self, side: str) -> list[Path]:
        """Return the whole runs of one side."""
        numbers = range(1, self.options.n + 1)
        return [self.path(side, number) for number in numbers if self.is_done(side, number)]

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
                if self.is_done(side, number):
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
        core = Path(__file__).resolve().parent.parent / "llm_stresstest.py"
        command = [sys.executable, str(core), f"./{self.name}_{side}{number}", "--quiet"]
        command += ["-c", str(options.a if side == "a" else options.b)]
        command += ["--results-dir", str(self.folder), "--log-dir", str(self.logs)]
        command += ["-q", str(options.questions)] if options.questions else []
        for override in options.set:
            command += ["--set", override]
        journal = self.path(side, number).with_suffix(".journal")
        command += ["--resume"] if journal.is_file() else ["--overwrite"]  # of a part of it
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
