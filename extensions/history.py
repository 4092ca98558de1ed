"""The runs of one name over time, and the runs of a folder: the tools history and list.

A change is what the runs' distributions show, question by question, against the chance that the
same runs in another order would show as much.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import llm_stresstest as st
from extensions.pairing import (
    METRICS,
    SCHEMA_VERSION,
    Array,
    Grid,
    Metric,
    Run,
    as_list,
    read_head,
    read_run,
    refusals,
    rounded,
)
from extensions.verdicts import ToolParser, percent, points, unwrapped, value_text
from extensions.words import ENGLISH, LANGUAGES, Sentences

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

    def sentence(self, say: Sentences = ENGLISH) -> str:
        """Say it in words, such as "E2E slower by 12 % since 2026-11-19"."""
        size = abs(math.expm1(self.change) if self.metric.is_ratio else self.change)
        text = percent(size) if self.metric.is_ratio else f"{points(size)[1:]} {say('points')}"
        return say(
            "{metric} {word} by {size} since {date}",
            metric=say(self.metric.label),
            word=say(self.metric.words()[self.change > 0]),
            size=say.own(text),
            date=f"{self.run.started:%Y-%m-%d %H:%M}",
        )


@dataclasses.dataclass(frozen=True)
class History:
    """The runs of one name: those of the newest one's kind are watched for changes."""

    prefix: str
    runs: list[Run]
    watched: list[Run]
    left_out: dict[str, str]  # name -> why
    shifts: list[Shift]
    needed: int  # how many runs the search for changes needs

    def to_json(self, say: Sentences = ENGLISH) -> dict[str, Any]:
        """Return it for programs; only the sentences of the changes are in a language."""
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
                    **{name: rounded(middle_of(run.aggregate, name)) for name in WATCHED},
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
                    "ratio" if shift.metric.is_ratio else "difference": rounded(
                        math.exp(shift.change) if shift.metric.is_ratio else shift.change
                    ),
                    "p": shift.p,
                    "says": shift.sentence(say),
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
    if metric.kind == "rate":
        rates = [grid.rate(run, metric.name, 0) for run in range(len(grid.runs))]
        if any(rate is None for rate in rates):
            return None
        return [np.array([math.log(rate.per_s)]) for rate in rates if rate is not None]
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
    finished = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    journals = {path.name.removesuffix(".journal"): path for path in folder.glob("*.journal")}
    entries += [_unfinished(path, name) for name, path in journals.items() if name not in finished]
    if not entries:
        raise st.ConfigError(f"{folder}: holds no run; make one: llm_stresstest.py first_run")
    return sorted(entries, key=lambda entry: entry.date, reverse=True)


def _entry(name: str, meta: Mapping[str, Any], aggregate: Mapping[str, Any]) -> Entry:
    levels = ", ".join(map(str, as_list(meta["concurrent"])))
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
    levels = ", ".join(map(str, as_list(config.get("concurrent", "?"))))
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


HISTORY_EXAMPLE = """example:
  llm_stresstest.py history nightly
"""
LIST_EXAMPLE = """example:
  llm_stresstest.py list
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Show the runs of one name, and where something changed."""
    parser = ToolParser("history", "The dated runs of one name, and what changed.", HISTORY_EXAMPLE)
    parser.add_argument("prefix", help="what the runs' names begin with")
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="where the runs are")
    parser.add_argument("--all", action="store_true", help="mix runs of other kinds in")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--language", choices=LANGUAGES, default="en", help="in which changes are said in the JSON"
    )
    options = parser.parse_args(argv)
    folder = _folder(options.results_dir)
    history = read_history(options.prefix, folder, everything=options.all)
    if options.format == "json":
        st.show([unwrapped(json.dumps(history.to_json(Sentences(options.language)), indent=1))])
    else:
        st.show(history_parts(history))
    return 0


def main_list(argv: Sequence[str] | None = None) -> int:
    """List the runs of a folder."""
    parser = ToolParser("list", "The runs of a folder in one table.", LIST_EXAMPLE)
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="the folder")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    entries = list_entries(_folder(options.results_dir))
    if options.format == "json":
        content = {"schema_version": SCHEMA_VERSION, "runs": [entry.to_json() for entry in entries]}
        st.show([unwrapped(json.dumps(content, indent=1))])
    else:
        st.show(list_parts(entries))
    return 0


def _folder(given: Path | None) -> Path:
    """Return the folder of the runs. Raises ConfigError."""
    folder = given or st.find_file(None, "config.json").resolve().parent / "results"
    if not folder.is_dir():
        raise st.ConfigError(f"{folder}: no such folder; --results-dir says where the runs are")
    return folder
