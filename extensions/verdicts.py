"""How a comparison is said and shown: words, terminal, Markdown, JUnit, GitHub, HTML.

The same cells stand in all of them. The interval that is drawn is the one that decides, so that
picture and word cannot disagree. What a model, a server or a file said is only text here.
"""

from __future__ import annotations

import argparse
import html
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast
from xml.etree import ElementTree as ET

import llm_stresstest as st
from extensions.pairing import (
    BY_LEVEL,
    ERROR_MARGIN,
    LATE_FACTOR,
    METRICS,
    Comparison,
    Metric,
    Row,
    Side,
    Table,
    said,
)
from extensions.words import ENGLISH, Sentences


class Outcome(NamedTuple):
    """What became of a gate."""

    gate: str  # as it was written
    kind: str  # "fail-if", "require", "not-worse"
    state: str  # "passed", "failed", "undecided"
    message: str


# === Words ===

MINUS = "\u2212"
VERDICT_SIGN = {"same": "=", "cannot_tell": "?", "not_measured": "–"}


def percent(share: float, *, sign: bool = False) -> str:
    """Return a share, or with `sign` a change, in percent: whole from 10, else one decimal."""
    if not sign:
        return st.format_share(share)
    size = abs(share) * 100
    text = f"{size:,.0f}" if size >= 9.95 else f"{size:.1f}".removesuffix(".0")
    way = "" if text == "0" else MINUS if share < 0 else "+"
    return f"{way}{text}{st.NARROW_SPACE}%"


def points(share: float) -> str:
    """Return a difference of shares in points, without the unit."""
    return percent(share, sign=True).removesuffix("%").rstrip(st.NARROW_SPACE)


def value_text(metric: Metric, value: float | None, say: Sentences = ENGLISH) -> str:
    """Return a value of the table."""
    if value is None:
        return "–"
    if metric.kind == "latency":
        return say.ms(value)
    if metric.kind == "share":
        return say.own(percent(value))
    unit = f"{st.NARROW_SPACE}Wh" if metric.kind == "energy" else ""
    return say.number(value) + unit


def change_text(row: Row, say: Sentences = ENGLISH) -> str:
    """Return the difference: +7 %, or −3 points."""
    if row.interval is None:
        return "–"
    return _change(row, row.interval.value, say, unit=True)


def _change(row: Row, value: float, say: Sentences, *, unit: bool) -> str:
    if not row.metric.is_ratio:
        text = say.own(points(row.shown(value)))
        return f"{text}{st.NARROW_SPACE}{say('points')}" if unit else text
    change = row.shown(value) - 1
    return say.own(percent(change, sign=True) if unit else points(change))


def interval_text(row: Row, say: Sentences = ENGLISH) -> str:
    """Return the interval that decides: −14 to +17 %."""
    if row.interval is None:
        return "–"
    low, high = row.interval.ci_table
    ends = {"low": _change(row, low, say, unit=False), "high": _change(row, high, say, unit=True)}
    return say("{low} to {high}", **ends)


def verdict_text(row: Row, margin: float, say: Sentences = ENGLISH) -> str:
    """Return sign and word."""
    if row.verdict == "same":
        wide = margin * (ERROR_MARGIN if row.metric.name == "error_rate" else 1)
        limit = say.own(percent(wide))
        if not row.metric.is_ratio:
            limit = f"{say.own(f'{wide * 100:g}')}{st.NARROW_SPACE}{say('points')}"
        return say("= the same within {limit}", limit=limit)
    sign = VERDICT_SIGN.get(row.verdict, "")
    if not sign:
        arrow = "↑" if row.verdict == "higher" else "↓"
        sign = {True: "✓", False: "✕", None: arrow}[row.is_better]
    return f"{sign} {say(row.verdict.replace('_', ' '))}"


def needs_text(row: Row, say: Sentences = ENGLISH) -> str:
    """Say what would make "cannot tell" a verdict."""
    if row.verdict != "cannot_tell":
        return ""
    if row.needs == "time":
        if row.needs_more is None:
            return say("a longer run")
        times = 1 + row.needs_more / max(row.pairs, 1)
        return say("a run {times} times as long", times=say.own(f"{times:.2g}"))
    if row.needs_more is None:
        return say("the runs differ too much")
    one, many = "about {n} more question", "about {n} more questions"
    if row.needs == "runs":
        one, many = "about {n} more run a side", "about {n} more runs a side"
    return say(one if row.needs_more == 1 else many, n=say.own(about(row.needs_more)))


def about(count: int) -> str:
    """Return a number that does not claim to be exact."""
    if count < 20:
        return str(count)
    step = 10 ** max(1, math.floor(math.log10(count)) - 1)
    return f"{math.ceil(count / step) * step:,}"


# Of each metric what is said of a smaller and of a larger value, after "B's".
PHRASES = {
    "e2e_ms": ("answers take {size} less time", "answers take {size} longer"),
    "ttft_ms": ("first token comes {size} sooner", "first token comes {size} later"),
    "tpot_ms": ("further tokens come {size} faster", "further tokens come {size} slower"),
    "tokens_per_s": ("total tokens/s are {size} lower", "total tokens/s are {size} higher"),
    "quality": (
        "share of right answers is {size} lower",
        "share of right answers is {size} higher",
    ),
    "error_rate": (
        "share of failed requests is {size} lower",
        "share of failed requests is {size} higher",
    ),
    "token_avg": ("answers are {size} shorter", "answers are {size} longer"),
    "energy": ("answers take {size} less energy", "answers take {size} more energy"),
    "requests_per_s": ("requests/s are {size} lower", "requests/s are {size} higher"),
    "goodput_per_s": ("good requests/s are {size} lower", "good requests/s are {size} higher"),
    "slo_attainment": (
        "share within the limits is {size} lower",
        "share within the limits is {size} higher",
    ),
    "answer_ttft_ms": (
        "first token of the answer comes {size} sooner",
        "first token of the answer comes {size} later",
    ),
}


def sentence(comparison: Comparison, say: Sentences = ENGLISH) -> str:
    """Return the answer in one sentence that a person can repeat aloud."""
    label = comparison.b.label
    shown = {row.spec.name: row for row in shown_rows(comparison)}
    rows = [shown[name] for name in PHRASES if name in shown]
    differ = [row for row in rows if row.verdict in row.metric.words()]
    if not differ:
        judged = [row for row in rows if row.verdict != "not_measured"]
        is_same = judged and all(row.verdict == "same" for row in judged)
        text = "No difference between A and {run} is beyond chance."
        if is_same:
            text = "A and {run} are the same in all {n} rows."
        if not comparison.covered:
            text = "No difference between these two runs is beyond chance."
            if is_same:
                text = "These two runs are the same in all {n} rows."
        return say(text, run=label, n=len(judged))
    phrases = []
    for row in differ[:2]:
        less, more = PHRASES[row.metric.name]
        size = change_text(row, say).lstrip("+" + MINUS)
        phrases.append(say(less if cast(Any, row.interval).value < 0 else more, size=size))
    left = len(differ) - len(phrases)
    others = say("; {n} more rows differ", n=left) if left > 1 else ""
    if left == 1:
        others = say("; one more row differs")
    if len(differ) == 1:
        others = say("; no other difference is beyond chance")
    whole = {"run": label, "first": phrases[0], "second": phrases[-1], "others": others}
    text = "{run}'s {first} and its {second}{others}."
    return say(text if len(phrases) > 1 else "{run}'s {first}{others}.", **whole)


def caveats(comparison: Comparison, say: Sentences = ENGLISH) -> list[str]:
    """Return what a reader must know besides the table."""
    lines = list[str]()
    if comparison.rows:  # else it was refused, which is said elsewhere
        for refusal in comparison.refused:
            line = say.message(refusal.line(), is_sentence=False)
            lines.append(say("not comparable, compared anyway: {why}", why=line))
    for side in (comparison.a, comparison.b):
        lines += _reasons(side, say)
    if comparison.implausible:
        text = (
            "implausibly better ({names}): look whether answers came from a cache, were cut, "
            "empty or shorter"
        )
        names = ", ".join(say(row.metric.label) for row in comparison.implausible)
        lines.append(say(text, names=names))
    late = max((row.late for row in comparison.rows.values()), default=(0, 0))
    if any(late):
        text = (
            "timed out: {a} of A, {b} of {run}; each counts as between its timeout and {times} "
            "times as long"
        )
        counts = {"a": late[0], "b": late[1], "times": LATE_FACTOR}
        lines.append(say(text, run=comparison.b.label, **counts))
    return lines


def _reasons(side: Side, say: Sentences) -> list[str]:
    """Return why a side's runs deserve less trust, each reason once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in side.runs:
        for reason in run.meta["validity"].get("reasons") or []:
            if run.verdict != "VALID":
                text, name = st.printable(reason.get("message"), 300), st.printable(run.name, 100)
                code = st.printable(reason.get("code"))
                found.setdefault((run.verdict, text, code), []).append(name)
    lines = []
    for (verdict, message, code), names in found.items():
        words = {"run": side.label, "name": names[0], "verdict": verdict, "code": code}
        text = "{run} ({name}) is {verdict}: {why} [{code}]"
        if len(names) > 1:
            text = "{run} ({name} and {n} more) is {verdict}: {why} [{code}]"
        why = say.message(message, is_sentence=False)
        lines.append(say(text, n=len(names) - 1, why=why, **words))
    return lines


def one_run_note(comparison: Comparison, say: Sentences = ENGLISH) -> str:
    """Say what the verdicts cover."""
    a, b = (len(side.runs) for side in (comparison.a, comparison.b))
    if not comparison.covered:
        return say(
            "One run each: this holds for these two runs, not yet for the next. "
            "The tool ab includes the machine's own drift."
        )
    pool = len(cast(Table, comparison.table).pool)
    text = "One run each; {n} equal runs of the folder say how far such runs differ."
    if not pool:
        text = "{a} and {b} runs: the intervals include how far runs differ among themselves."
    return say(text, a=a, b=b, n=pool)


# === Text ===


class Cells(NamedTuple):
    """A row as all tables show it."""

    name: str
    middle: str
    a: str
    b: str
    change: str
    interval: str
    verdict: str
    needs: str


def cells_of(row: Row, margin: float, name: str | None = None, say: Sentences = ENGLISH) -> Cells:
    """Return a row's cells."""
    metric = row.metric
    middle = row.spec.percentile or say(metric.middle)
    if metric.kind in ("rate", "share"):
        middle = ""
    return Cells(
        f"{say(name or metric.label)}{' ' + metric.arrow if metric.arrow else ''}",
        middle,
        value_text(metric, row.a, say),
        value_text(metric, row.b, say),
        change_text(row, say),
        interval_text(row, say),
        verdict_text(row, margin, say),
        needs_text(row, say),
    )


def shown_rows(comparison: Comparison) -> list[Row]:
    """Return the rows that say something: measured, and not twice the same."""
    rows = list(comparison.rows.values())
    if comparison.options.everything:
        return rows
    same = _equal_rows(comparison.rows.get("ttft_ms"), comparison.rows.get("answer_ttft_ms"))
    hidden = {"answer_ttft_ms"} if same else set()
    failed = comparison.rows.get("error_rate")
    if failed is not None and not failed.a and not failed.b:
        hidden.add("error_rate")
    return [row for row in rows if row.verdict != "not_measured" and row.spec.name not in hidden]


def _equal_rows(one: Row | None, other: Row | None) -> bool:
    return one is not None and other is not None and (one.a, one.b) == (other.a, other.b)


VERDICT_STYLE = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}
RUN_SIGN = {"VALID": "✓", "SUSPECT": "▲", "INVALID": "✕"}


def text_parts(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what the terminal shows, the answer first."""
    parts: list[Any] = [st.styled((sentence(comparison), "bold"))]
    parts.append(st.styled((one_run_note(comparison), "dim")))
    parts += ["", *_run_lines(comparison), *_changed_lines(comparison), ""]
    parts += _table_parts(comparison)
    if comparison.levels:
        parts += ["", *_level_parts(comparison)]
    parts += ["", st.styled((drawable(legend(comparison)), "dim"))]
    parts += _flip_lines(comparison)
    notes = caveats(comparison)
    parts += [""] if notes else []
    for note in notes:
        parts += _hanging(("▲ ", "yellow"), note)
    if outcomes:
        parts += ["", *outcome_lines(outcomes)]
    return parts


def _run_lines(comparison: Comparison) -> list[Any]:
    lines = []
    for side in (comparison.a, comparison.b):
        for run in side.runs:
            total, failed = run.aggregate["ok"], run.aggregate["failed"]
            style = VERDICT_STYLE.get(run.verdict, "")
            lines.append(
                st.styled(
                    (f"{side.label}  ", "bold"),
                    f"{st.printable(run.name, 100)}  ",
                    (f"{RUN_SIGN.get(run.verdict, '')} {run.verdict}", style),
                    (f"  {total} ok, {failed} failed · {run.started:%Y-%m-%d %H:%M}", "dim"),
                )
            )
    return lines


def _changed_lines(comparison: Comparison) -> list[Any]:
    if not comparison.changed:
        return [st.styled(("changed  ", "dim"), "nothing that is known")]
    label = comparison.b.label
    return [
        st.styled(("changed  ", "dim"), f"{st.printable(key, 80)}: {_pair_text(values)}")
        for key, values in comparison.changed.items()
    ] + ([st.styled((f"         (A → {label})", "dim"))] if len(comparison.changed) > 1 else [])


def _pair_text(values: Sequence[Any]) -> str:
    a, b = (st.printable(said(value), 60) for value in values)
    return f"{a} → {b}"


def _table_parts(comparison: Comparison) -> list[Any]:
    """Return the table, two lines a row; where that is too wide a block a row. Nothing is cut."""
    from rich.cells import cell_len  # noqa: PLC0415

    width, margin, label = st.terminal_width(), comparison.options.margin, comparison.b.label
    rows = shown_rows(comparison)
    cells = [cells_of(row, margin) for row in rows]
    lines = [("", "A", label, f"{label} against A", "verdict"), ("", "", "", "95 %, all rows", "")]
    for each in cells:
        lines.append((each.name, each.a, each.b, each.change, each.verdict))
        interval = each.interval.removesuffix("points").rstrip(st.NARROW_SPACE)
        lines.append((each.middle, "", "", interval, f"  {each.needs}".rstrip()))
    sizes = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    whole = sum(sizes) + 2 * (len(sizes) - 1)
    if width < NARROWEST_TABLE or whole > width:
        return [part for each in cells for part in _block(each)]
    pictures = [""] * len(lines)
    if whole + PICTURE + 2 <= width:
        pictures = ["−50 %" + " " * 6 + "0" + " " * 6 + "+50 %", ""]
        pictures += [text for row in rows for text in (interval_picture(row, margin), "")]
    parts = []
    for place, (line, picture) in enumerate(zip(lines, pictures, strict=True)):
        blanks = [" " * (size - cell_len(cell)) for cell, size in zip(line, sizes, strict=True)]
        figures = [blank + cell for blank, cell in zip(blanks[1:4], line[1:4], strict=True)]
        last = (line[4] + blanks[4] + "  " + picture).rstrip()
        plain = "  ".join((line[0] + blanks[0], *figures))
        style = "bold" if place > 1 and place % 2 == 0 else "dim"
        plain_style = "" if style == "bold" else "dim"
        parts.append(st.styled((drawable(f"{plain}  "), plain_style), (drawable(last), style)))
    return parts


def _block(cells: Cells) -> list[Any]:
    lines = [st.styled((drawable(cells.name), "bold"), drawable(f"  {cells.verdict}"))]
    lines.append(st.styled(f"  {cells.a} → {cells.b}  {cells.change} ({cells.interval})"))
    return [*lines, st.styled((f"  {cells.needs}", "dim"))] if cells.needs else lines


NARROWEST_TABLE = 72
PICTURE = 23
# What stands in for a sign that the terminal cannot show, each as wide.
ASCII_SIGNS = str.maketrans("↓↑━●┿│·◀▶", "v^=o+|.<>")


def drawable(text: str) -> str:
    """Return a text with other signs where stdout's encoding lacks them."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return text.translate(ASCII_SIGNS)
    return text


def interval_picture(row: Row, margin: float, half: int = 11) -> str:
    """Draw the interval that decides from −50 % to +50 %: where it leaves, an arrow."""
    if row.interval is None:
        return ""
    scale = 1.0 if row.metric.is_ratio else 0.0

    def place(value: float) -> int:
        change = row.shown(value) - scale
        return round(max(-0.5, min(0.5, change)) * 2 * half) + half

    low, high = row.interval.ci_table
    cells = ["·" if abs(i - half) <= margin * 2 * half else " " for i in range(2 * half + 1)]
    cells[half] = "│"
    for i in range(place(low), place(high) + 1):
        cells[i] = "━" if i != half else "┿"
    cells[place(row.interval.value)] = "●"
    if row.shown(low) - scale < -0.5:
        cells[0] = "◀"
    if row.shown(high) - scale > 0.5:
        cells[-1] = "▶"
    return "".join(cells)


def _level_parts(comparison: Comparison) -> list[Any]:
    """Return the verdicts level by level."""
    names = [
        name
        for name in BY_LEVEL
        if any(rows[name].verdict != "not_measured" for rows in comparison.levels.values())
    ]
    table = st.table("at once", *(METRICS[name].label for name in names))
    for level, rows in comparison.levels.items():
        table.add_row(level, *(f"{change_text(rows[name])} {_sign(rows[name])}" for name in names))
    return [table]


def _sign(row: Row) -> str:
    return verdict_text(row, 0)[:1]


def legend(comparison: Comparison, say: Sentences = ENGLISH) -> str:
    """Explain the table in a few lines."""
    words = say("↓ less is better, ↑ more is better.")
    if comparison.levels:
        text = " All levels together ({levels} at once), paired in each."
        words += say(text, levels=", ".join(comparison.levels))
    return words + say(
        " Times and lengths: the mean ratio over {n} pairs of the same "
        "question; it need not be the ratio of the two medians. The intervals hold for all rows "
        "together: one in twenty tables has a false alarm, not one in twenty rows.",
        n=say.count(comparison.pairs),
    )


def _flip_lines(comparison: Comparison) -> list[Any]:
    flipped = comparison.flipped
    if not flipped:
        return []
    gained = sum(flip.b for flip in flipped)
    lines: list[Any] = ["", f"{gained} became right, {len(flipped) - gained} became wrong:"]
    most = len(flipped) if comparison.options.everything else 10
    for flip in flipped[:most]:
        word = "✓ now right" if flip.b else "✕ now wrong"
        text = st.printable(flip.text, 60)
        lines += _hanging((f"  {word}  ", ""), f"{st.printable(flip.id, 80)}  {text}", 4)
    if len(flipped) > most:
        lines.append(st.styled((f"  and {len(flipped) - most} more; --all shows them", "dim")))
    return lines


OUTCOME_SIGN = {"passed": ("✓", "green"), "failed": ("✕", "red"), "undecided": ("?", "yellow")}


def _hanging(head: tuple[str, str], text: str, hang: int = 2) -> list[Any]:
    """Return a remark whose later lines stand below its text."""
    return list(st.wrapped(st.styled(head, text), st.terminal_width(), hang=hang))


def outcome_lines(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return a line a gate."""
    lines = list[Any]()
    for outcome in outcomes:
        sign, style = OUTCOME_SIGN[outcome.state]
        what = st.printable(outcome.gate, 100)
        head = (f"{sign} {outcome.state}  ", style)
        lines += _hanging(head, f"--{outcome.kind} {what}: {outcome.message}")
    return lines


# === Files ===


def markdown(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return it for a wiki, an issue, or a step summary."""
    label, margin = comparison.b.label, comparison.options.margin
    lines = [f"**{_md(sentence(comparison))}**", "", _md(one_run_note(comparison)), ""]
    for side in (comparison.a, comparison.b):
        lines += [f"- {side.label}: {_md(run.name)}, {run.verdict}" for run in side.runs]
    for key, values in comparison.changed.items():
        lines.append(f"- changed: {_md(key)}: {_md(_pair_text(values))}")
    lines += ["", f"| | A | {label} | {label} against A | 95 %, whole table | verdict |"]
    lines.append("|---|--:|--:|--:|--:|---|")
    for row in shown_rows(comparison):
        cells = cells_of(row, margin, row.metric.title)
        verdict = f"{cells.verdict} ({cells.needs})" if cells.needs else cells.verdict
        figures = (cells.name, cells.a, cells.b, cells.change, cells.interval, verdict)
        lines.append(f"| {' | '.join(figures)} |")
    lines += ["", _md(legend(comparison))]
    if comparison.flipped:
        names = ", ".join(
            f"{_md(f.id)} ({'right' if f.b else 'wrong'})" for f in comparison.flipped
        )
        lines += ["", f"Grades that changed: {names}"]
    notes = [f"- ▲ {_md(note)}" for note in caveats(comparison)]
    lines += ["", *notes] if notes else []
    gates = [
        f"- {OUTCOME_SIGN[o.state][0]} {o.state}: {_md(o.gate)}: {_md(o.message)}" for o in outcomes
    ]
    lines += ["", *gates] if gates else []
    return "\n".join(lines) + "\n"


def _md(text: object) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", st.printable(text, 1000))


def junit(found: Sequence[tuple[Comparison, Sequence[Outcome]]]) -> str:
    """Return it as JUnit XML: a test case a gate, or a row where there is no gate."""
    root = ET.Element("testsuites")
    for comparison, outcomes in found:
        names = f"{comparison.a.first.name} and {comparison.b.first.name}"
        suite = ET.SubElement(root, "testsuite", name=st.printable(f"compare {names}", 300))
        counts = Counter(outcome.state for outcome in outcomes)
        for outcome in outcomes:
            case = _case(suite, st.printable(outcome.gate, 300))
            if outcome.state != "passed":
                tag = "failure" if outcome.state == "failed" else "error"
                ET.SubElement(case, tag, message=st.printable(outcome.message, 500))
        for row in [] if outcomes else shown_rows(comparison):
            cells = cells_of(row, comparison.options.margin)
            text = f"{cells.a} and {cells.b}: {cells.change} ({cells.interval}), {cells.verdict}"
            ET.SubElement(_case(suite, row.spec.name), "system-out").text = text
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(counts["failed"]))
        suite.set("errors", str(counts["undecided"]))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _case(suite: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="compare", name=name)


def github(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Return annotations, and write the step summary where the runner wants it."""
    summary = markdown(comparison, outcomes)
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"## compare\n\n{summary}\n")
        except OSError as error:
            raise st.ResultsError(f"{path}: cannot be written: {error.strerror}") from None
    lines = []
    level = {"passed": "notice", "failed": "error", "undecided": "warning"}
    for outcome in outcomes:
        title = _annotation(f"{outcome.state}: {outcome.gate}").replace(":", "%3A")
        title = title.replace(",", "%2C")
        lines.append(f"::{level[outcome.state]} title={title}::{_annotation(outcome.message)}")
    if not outcomes:
        lines.append(f"::notice title=compare::{_annotation(sentence(comparison))}")
    return "\n".join(lines) + "\n" + ("" if path else summary)


def _annotation(text: str) -> str:
    return st.printable(text, 1000).replace("%", "%25")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root{{--bg:#fbfbf9;--sunken:#f3f3ef;--ink:#1b1e23;--ink2:#4a5058;--ink3:#666c75;--line:#e2e2dc;
--rule:#b9bab4;--b:#b8500f;--ok:#0a6b4d;--warn:#7d5200;--bad:#b0133f;color-scheme:light}}
@media (prefers-color-scheme:dark){{:root{{--bg:#14161a;--sunken:#22262c;--ink:#eceae4;
--ink2:#b8bcc2;--ink3:#969ca5;--line:#2f343b;--rule:#555c66;--b:#f0995a;--ok:#5fcf9f;
--warn:#e9b54d;--bad:#ff8097;color-scheme:dark}}}}
body{{margin:0 auto;max-width:1152px;padding:32px;background:var(--bg);color:var(--ink);
font:16px/1.5 -apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums lining-nums}}
h1{{font-size:32px;line-height:1.22;font-weight:650;max-width:24em;margin:0 0 8px}}
h2{{font-size:22px;line-height:1.3;margin:56px 0 8px}}
.lede{{font-size:18px;color:var(--ink2);margin:0 0 32px;max-width:44em}}
.note,small{{color:var(--ink3);font-size:13px}} small{{display:block}}
code,.name{{font-family:ui-monospace,"SF Mono",Consolas,"Liberation Mono",monospace;
font-size:13px;overflow-wrap:anywhere}}
table{{border-collapse:collapse;width:100%;font-size:14px;margin:0 0 12px}}
th,td{{padding:8px 12px 8px 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}}
thead th{{border-bottom-color:var(--rule);font-weight:600;font-size:13px}}
tbody th{{font-weight:400}}
.n{{text-align:right;white-space:nowrap}} .v{{font-weight:650}}
.ok{{color:var(--ok)}} .warn{{color:var(--warn)}} .bad{{color:var(--bad)}}
svg{{display:block}} .caveat{{border-left:3px solid var(--warn);padding:0 12px;margin:12px 0}}
@media (max-width:720px){{body{{padding:16px}} h1{{font-size:25px}} thead{{display:none}}
tr{{display:block;border-bottom:1px solid var(--line);padding:8px 0}}
td,tbody th{{display:flex;justify-content:space-between;gap:16px;border:0;padding:2px 0;
text-align:right;white-space:normal}} tbody th{{display:block;text-align:left;font-weight:650}}
td[data-of]::before{{content:attr(data-of);color:var(--ink3)}}}}
@media print{{:root{{color-scheme:light}} tr{{break-inside:avoid}}}}
</style></head>
<body><main>
{articles}</main></body></html>
"""


ARTICLE = """<article>
<{level}>{sentence}</{level}>
<p class="lede">{lede}</p>
{runs}
<section aria-label="verdicts"><h2>{against}</h2>
{table}
<p class="note">{legend}</p></section>
{gates}{caveats}{levels}{flips}
</article>
"""


def page(found: Sequence[tuple[Comparison, Sequence[Outcome]]]) -> str:
    """Return one self-contained HTML page, without a script and without the network."""
    sides = [found[0][0].a, *(comparison.b for comparison, _ in found)]
    names = [run.name for side in sides for run in side.runs]
    articles = [_article(*each, first=not place) for place, each in enumerate(found)]
    return PAGE.format(title=_h(" and ".join(names)), articles="".join(articles))


def _article(comparison: Comparison, outcomes: Sequence[Outcome], *, first: bool) -> str:
    notes = "".join(f'<p class="caveat">{_h(note)}</p>\n' for note in caveats(comparison))
    gates = "".join(
        f'<p class="{_OUTCOME_CLASS[o.state]}"><span aria-hidden="true">'
        f"{OUTCOME_SIGN[o.state][0]}</span> {o.state}: <code>--{o.kind} {_h(o.gate)}</code> "
        f"{_h(o.message)}</p>\n"
        for o in outcomes
    )
    return ARTICLE.format(
        level="h1" if first else "h2",
        sentence=_h(sentence(comparison)),
        lede=_h(one_run_note(comparison)),
        runs=_html_runs(comparison),
        against=f"{comparison.b.label} against A",
        table=_html_table(comparison),
        legend=_h(legend(comparison)),
        gates=gates,
        caveats=notes,
        levels=_html_levels(comparison),
        flips=_html_flips(comparison),
    )


_OUTCOME_CLASS = {"passed": "ok", "failed": "bad", "undecided": "warn"}


def _h(text: object) -> str:
    """Return a text that is only text in HTML."""
    return html.escape(st.printable(text, 2000))


def _html_runs(comparison: Comparison) -> str:
    body = []
    style = {"VALID": "ok", "SUSPECT": "warn", "INVALID": "bad"}
    for side in (comparison.a, comparison.b):
        for run in side.runs:
            sign = f'<span aria-hidden="true">{RUN_SIGN.get(run.verdict, "")}</span>'
            ok, failed = run.aggregate["ok"], run.aggregate["failed"]
            body.append(
                f'<tr><th>{side.label} <span class="name">{_h(run.name)}</span></th>'
                f'<td data-of="verdict" class="{style.get(run.verdict, "")}"><span>{sign} '
                f"{_h(run.verdict)}</span></td>"
                f'<td data-of="answers" class="n">{ok:,}</td>'
                f'<td data-of="failed" class="n">{failed:,}</td>'
                f'<td data-of="date">{run.started:%Y-%m-%d %H:%M}</td></tr>'
            )
    heads = '<th>Run</th><th>Verdict</th><th class="n">Answers</th><th class="n">Failed</th>'
    runs = (
        f"<table><thead><tr>{heads}<th>Date</th></tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
    rows = [
        f'<tr><th><code>{_h(key)}</code></th><td data-of="A">{_h(said(a))}</td>'
        f'<td data-of="{comparison.b.label}">{_h(said(b))}</td></tr>'
        for key, (a, b) in comparison.changed.items()
    ]
    heads = f"<th>What changed</th><th>A</th><th>{comparison.b.label}</th>"
    if not rows:
        return f'{runs}<p class="note">Nothing that is known has changed.</p>'
    return f"{runs}<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_table(comparison: Comparison) -> str:
    label, margin = comparison.b.label, comparison.options.margin
    body = []
    for row in shown_rows(comparison):
        cells = cells_of(row, margin, row.metric.title)
        better = {True: "ok", False: "bad", None: ""}[row.is_better]
        sign, word = cells.verdict.split(" ", 1)
        body.append(
            f"<tr><th>{_h(cells.name)}<small>{_h(cells.middle)}</small></th>"
            f'<td data-of="A" class="n">{_h(cells.a)}</td>'
            f'<td data-of="{label}" class="n">{_h(cells.b)}</td>'
            f'<td data-of="{label} against A" class="n"><span><b>{_h(cells.change)}</b>'
            f"<small>{_h(cells.interval)}</small></span></td>"
            f"<td>{_svg(row, margin)}</td>"
            f'<td data-of="verdict"><span><span class="v {better}"><span aria-hidden="true">{sign}'
            f"</span> {_h(word)}</span><small>{_h(cells.needs)}</small></span></td></tr>"
        )
    heads = (
        f'<th></th><th class="n">A</th><th class="n">{label}</th><th class="n">Difference'
        "<small>95 % over all rows</small></th>"
        f"<th>−50 % to +50 %<small>shaded: the same within {_h(percent(margin))}</small></th>"
        "<th>Verdict</th>"
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _svg(row: Row, margin: float) -> str:
    """Draw the interval that decides."""
    if row.interval is None:
        return ""
    one = 1.0 if row.metric.is_ratio else 0.0
    ends = [row.shown(value) - one for value in (*row.interval.ci_table, row.interval.value)]
    low, high, middle = (100 + 196 * max(-0.5, min(0.5, change)) for change in ends)
    left, right = 100 - 196 * margin, 100 + 196 * margin
    arrows = ""
    if ends[0] < -0.5:
        arrows += '<path d="M9 6 2 12 9 18" fill="none" stroke="var(--b)" stroke-width="2"/>'
    if ends[1] > 0.5:
        arrows += '<path d="M191 6 198 12 191 18" fill="none" stroke="var(--b)" stroke-width="2"/>'
    return (
        '<svg width="200" height="24" viewBox="0 0 200 24" role="img" '
        f'aria-label="{_h(interval_text(row))}">'
        f'<rect x="{left:.1f}" width="{right - left:.1f}" height="24" fill="var(--sunken)"/>'
        '<path d="M100 0V24" stroke="var(--ink3)"/>'
        f'<rect x="{low:.1f}" y="9" width="{max(high - low, 1):.1f}" height="6" fill="var(--b)" '
        f'fill-opacity=".4"/><circle cx="{middle:.1f}" cy="12" r="5" fill="var(--b)"/>'
        f"{arrows}</svg>"
    )


def _html_levels(comparison: Comparison) -> str:
    if not comparison.levels:
        return ""
    heads = "".join(f'<th class="n">{_h(METRICS[name].label)}</th>' for name in BY_LEVEL)
    body = "".join(
        f"<tr><th>{_h(level)} at once</th>"
        + "".join(
            f'<td data-of="{_h(METRICS[name].label)}" class="n">{_h(change_text(rows[name]))} '
            f"{_sign(rows[name])}</td>"
            for name in BY_LEVEL
        )
        + "</tr>"
        for level, rows in comparison.levels.items()
    )
    table = f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<section><h2>Level by level</h2>{table}</section>\n"


def _html_flips(comparison: Comparison) -> str:
    if not comparison.flipped:
        return ""
    gained = sum(flip.b for flip in comparison.flipped)
    words = [('<span class="bad">✕ wrong</span>', '<span class="ok">✓ right</span>')] * 2
    body = "".join(
        f'<tr><th>{_h(flip.text)}<small class="name">{_h(flip.id)}</small></th>'
        f'<td data-of="A">{words[0][flip.a]}</td>'
        f'<td data-of="{comparison.b.label}">{words[1][flip.b]}</td></tr>'
        for flip in comparison.flipped
    )
    lost = len(comparison.flipped) - gained
    return (
        "<section><h2>Answers that changed their grade</h2>"
        f'<p class="note">{gained} became right, {lost} became wrong.</p>'
        f"<table><thead><tr><th>Question</th><th>A</th><th>{comparison.b.label}</th></tr></thead>"
        f"<tbody>{body}</tbody></table></section>\n"
    )


# === Command lines ===


class ToolParser(argparse.ArgumentParser):
    """A tool's parser: its examples stand below the options, and what is wrong is one line."""

    def __init__(self, tool: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"llm_stresstest.py {tool}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=examples,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise st.ConfigError(f"{st.printable(message, 300)}; {self.prog} --help says more")


def unwrapped(text: str) -> Any:
    """Return a text that is printed as it is, whatever the width."""
    made = st.styled(text.rstrip("\n"))
    made.no_wrap = True
    return made
