"""One self-contained HTML page of a run or of several: the answer first, then what it rests on.

    llm_stresstest.py report NAME                 results/NAME.html
    llm_stresstest.py report A B -o page.html     overlaid, with the verdicts of `compare` first
    llm_stresstest.py report NAME --lite      no script, for mail; also --png, --svg, --pdf, --card
    llm_stresstest.py report NAME --language de   the page and the pictures in German

The page opens from disk and asks no network; its policy forbids it. The charts come from charts.py
and their colours from the style sheet below, so that light, dark and print are the same pictures.
All texts of a model, a server or a file go through Jinja with autoescape on, or as JSON data.
Texts of ours stand here in English; words.py has their German.

The order of this file: the command line, words, the page of one run, of several, pictures, the
template.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import functools
import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jinja2
import markupsafe
import vl_convert

import llm_stresstest as st
from extensions import charts
from extensions.words import ENGLISH, LANGUAGES, Sentences, sentence

NARROW = st.NARROW_SPACE
MOST_ANSWERS = 200  # to read, of each kind
ANSWER_LENGTH = 3000  # characters; the results file has all
MOST_TABLED = 50  # levels of a sweep
LITE_POINTS = 300
LITE_WIDTHS = (350, 600)  # of a chart beside another one, and of a wide one

# === Command line ===


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or the pictures that were asked for; return the exit code."""
    options = _parser().parse_args(argv)
    paths = [st.find_results(name, options.results_dir) for name in options.names]
    if len(set(paths)) < len(paths):
        raise st.ConfigError("report: the same run is named twice")
    runs = [read(path) for path in paths]
    try:
        return _make(options, runs)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        names = ", ".join(str(path) for path in paths)
        text = st.printable(f"{type(error).__name__}: {error}", 200)
        raise st.ConfigError(
            f"{names}: cannot be shown ({text}): damaged, or a fault of this program; "
            "llm_stresstest.py verify says which"
        ) from error


def _make(options: argparse.Namespace, runs: Sequence[st.SavedRun]) -> int:
    """Make the page and the pictures, and say where they are."""
    name = "_".join(dict.fromkeys(run.path.stem for run in runs))[:120]
    wanted = [options.png, options.svg, options.pdf, options.card]
    page = None
    if options.output is not None or not any(wanted):
        page = options.output or runs[0].path.with_name(f"{name}.html")
    if options.lite and page is None:
        raise st.ConfigError("--lite: is for the page; name it with -o FILE")
    say = Sentences(options.language)
    view = (
        Comparing(runs, options.lite, say) if len(runs) > 1 else OneRun(runs[0], options.lite, say)
    )
    files = Files(options.overwrite)
    if page is not None:
        files.add(page, functools.partial(html_page, view))
    drawn = [chart for chart in view.all_charts() if chart.panels]
    for folder, make, ending in ((options.png, png, "png"), (options.svg, svg, "svg")):
        for chart in drawn if folder else ():
            files.add(folder / f"{name}_{chart.name}.{ending}", functools.partial(make, chart, say))
    if options.pdf is not None:
        files.add(options.pdf, functools.partial(pdf, view, drawn))
    if options.card is not None:
        files.add(options.card, functools.partial(card, view))
    for path in files.write():
        line = st.styled(("wrote  ", "dim"), st.printable(path, 4000))
        line.no_wrap = True
        st.show([line])
    return 0


def _parser() -> st.Parser:
    parser = st.Parser(
        prog="llm_stresstest.py report",
        description="Write one HTML page of a run, or of several side by side.",
        epilog="examples:\n  llm_stresstest.py report first_run\n"
        "  llm_stresstest.py report fp16 q4 -o compare.html\n"
        "  llm_stresstest.py report first_run --png pictures --card post.png\n"
        "  llm_stresstest.py report first_run --language de",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("names", nargs="+", metavar="NAME", help="results files, or names of runs")
    option("-o", "--output", type=Path, metavar="FILE", help="the page; else NAME.html beside it")
    option("--language", choices=LANGUAGES, default="en", help="of what is written")
    option("--lite", action="store_true", help="static pictures and no script, for mail")
    option("--png", type=Path, metavar="DIR", help="each chart as a PNG; no page without -o")
    option("--svg", type=Path, metavar="DIR", help="each chart as an SVG")
    option("--pdf", type=Path, metavar="FILE", help="answer, figures and charts as one PDF")
    option("--card", type=Path, metavar="FILE", help="one picture to post, PNG of 1200 × 630")
    option("--overwrite", action="store_true", help="replace files that exist")
    option("--results-dir", type=Path, metavar="DIR", help="where the runs' files are")
    return parser


def read(path: Path) -> st.SavedRun:
    """Read a results file and try what a page needs of it. Raises ConfigError, one line."""
    run = st.load_results(path)
    try:
        st.headline(run.meta, run.aggregate)
        _ = run.meta["config"]["stream"], run.meta["run_id"], run.aggregate["steady"]["share"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        text = st.printable(f"{type(error).__name__}: {error}", 200)
        raise st.ConfigError(
            f"{path}: is damaged ({text}); run it through: llm_stresstest.py verify"
        ) from None
    return run


class Files:
    """Files to write; what exists is only replaced when that was asked for."""

    def __init__(self, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._makers: dict[Path, Callable[[], bytes]] = {}

    def add(self, path: Path, make: Callable[[], bytes]) -> None:
        """Take a file to be made. Raises ConfigError when it is there already."""
        if path.exists() and (not self._overwrite or path.is_dir()):
            raise st.ConfigError(f"{path}: exists; --overwrite replaces it")
        self._makers[path] = make

    def write(self) -> Iterable[Path]:
        """Make and write each file, and return its path. Raises ResultsError."""
        for path, make in self._makers.items():
            content = make()
            beside = path.with_name(f".{path.name}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(content)
                beside.replace(path)
            except OSError as error:
                raise st.ResultsError(f"{path}: cannot be written: {error.strerror}") from None
            yield path


# === Words ===

MEANINGS = {"VALID": "trustworthy", "INVALID": "do not use these numbers"}
METRICS = {
    "ttft_ms": ("First token", "TTFT, time to first token", "start"),
    "tpot_ms": ("Each further token", "TPOT, time for each further token", ""),
    "e2e_ms": ("Whole answer", "E2E, end-to-end latency", "end"),
}
LIMITS = {"ttft_ms": "first token", "tpot_ms": "each further token", "e2e_ms": "whole answer"}


class Caveat(NamedTuple):
    """A reason of the verdict, or with a grey line a remark that is none."""

    head: str
    text: str
    code: str
    tone: str


def meaning(meta: Mapping[str, Any], say: Sentences = ENGLISH) -> str:
    """Return what the verdict means."""
    verdict, count = meta["validity"]["verdict"], len(meta["validity"]["reasons"])
    if verdict in MEANINGS:
        return say(MEANINGS[verdict])
    return say("usable, with 1 caveat") if count == 1 else say("usable, with {n} caveats", n=count)


def caveats(meta: Mapping[str, Any], say: Sentences = ENGLISH) -> list[Caveat]:
    """Return the verdict's reasons."""
    validity = meta["validity"]
    tone = "bad" if validity["verdict"] == "INVALID" else "warn"
    return [
        Caveat(say.caveat(item["code"]), say.message(item["message"]), item["code"], tone)
        for item in validity["reasons"]
    ]


def started(meta: Mapping[str, Any], say: Sentences = ENGLISH) -> str:
    """Return when a run began: 25 Nov 2026, 15:42 UTC; in German 25.11.2026, 15:42 UTC."""
    try:
        moment = dt.datetime.fromisoformat(f"{meta['start_date']}T{meta['start_time']}")
    except ValueError:
        return st.printable(f"{meta['start_date']} {meta['start_time']}", 60)
    offset = str(meta.get("utc_offset") or "+0000")
    zone = "UTC" if offset in ("+0000", "-0000") else f"UTC{offset[:3]}:{offset[3:5]}"
    if say.language == "de":
        return f"{moment:%d.%m.%Y, %H:%M} {zone}"
    return f"{moment.day} {moment:%b %Y, %H:%M} {zone}"


def machine_text(meta: Mapping[str, Any], say: Sentences = ENGLISH) -> str:
    """Return the machine in a few words."""
    machine = meta.get("hardware") or {}
    if not machine.get("cpu") and not machine.get("gpus"):
        return ""
    pieces = [f"{gpu.get('name')}" for gpu in machine.get("gpus") or ()]
    counted = [
        f"{times} × {name}" if times > 1 else name for name, times in Counter(pieces).items()
    ]
    cores = machine.get("cores_usable")
    text = cpu = str(machine.get("cpu") or say("unknown CPU"))
    if cores:
        text = say("{cores} cores of {cpu}", cores=say.own(f"{cores:g}"), cpu=cpu)
    return st.printable(f"{text}, {', '.join(counted) or say('no GPU')}", 160)


def model_text(meta: Mapping[str, Any]) -> str:
    """Return the model with its quantization, as far as the server told it."""
    info = meta.get("server_info") or {}
    pieces = [str(meta["model"]), str(info["quantization"]) if info.get("quantization") else ""]
    return st.printable(", ".join(filter(None, pieces)), 160)


def server_text(meta: Mapping[str, Any]) -> str:
    """Return what served it: the engine, else its address."""
    info = meta.get("server_info") or {}
    return st.printable(info.get("engine") or meta["server"], 120)


def within(part: Mapping[str, Any], say: Sentences) -> str:
    """Return how many requests met every limit: up to 100 a count, above a share."""
    asked = part["ok"] + part["failed"]
    if part["good"] is None or not asked:
        return "–"
    if asked <= 100:
        return say("{n} of {total}", n=part["good"], total=asked)
    return say.share(part["good"] / asked)


def right(part: Mapping[str, Any], say: Sentences) -> tuple[str, str]:
    """Return the share of right answers, failures counting as wrong, and its interval."""
    quality, scores = part["quality"], part["quality"]["under_load"]
    if not scores["n"] or not quality["graded"]:
        return "–", ""
    return say.share(scores["correct_share"]), say.share(*scores["correct_ci95"])


def latency(part: Mapping[str, Any], metric: str, say: Sentences) -> tuple[str, str]:
    """Return a median and its interval."""
    summary = part[metric]
    if not summary["n"]:
        return "–", ""
    bounds = summary["ci95"]["p50"]
    text = say.ms(summary["p50"])
    return (f"({text})", "") if None in bounds else (text, say.interval(bounds))


def limits_text(slo: Mapping[str, Any], say: Sentences, *, words: bool = True) -> str:
    """Return the limits that were set."""
    found = [
        (f"{say(what)} " if words else "") + f"≤{NARROW}{say.limit(slo[key])}"
        for key, what in LIMITS.items()
        if slo.get(key) is not None
    ]
    if slo.get("quality") is not None:
        found.append(f"{say('quality')} ≥{NARROW}{say.own(format(slo['quality'], 'g'))}")
    return ", ".join(found)


# === The page of one run ===


class Figure(NamedTuple):
    """One of the four figures."""

    label: str
    value: str
    unit: str
    note: str


def figure(label: str, text: str, note: str) -> Figure:
    """Return a figure of a text with its unit behind the narrow space."""
    value, _, unit = text.partition(NARROW)
    if " " in value:  # 39 of 40
        value, _, unit = value.partition(" ")
    return Figure(label, value, unit, note)


class Entry(NamedTuple):
    """An answer to read."""

    kinds: tuple[str, ...]  # "slow", "wrong", "failed"
    head: str
    category: str
    took: str
    id: str
    question: str
    answer: str
    reasoning: str
    why: str


class OneRun:
    """What a page shows of one run; everything is computed from its results file."""

    def __init__(self, run: st.SavedRun, lite: bool = False, say: Sentences = ENGLISH) -> None:
        self.run, self.lite, self.say = run, lite, say
        self.meta, self.aggregate = run.meta, run.aggregate
        self.name = run.path.stem
        self.most = LITE_POINTS if lite else charts.MOST_POINTS
        self.codes = {reason["code"] for reason in run.meta["validity"]["reasons"]}
        self.config: Mapping[str, Any] = run.meta["config"]
        self.slo: Mapping[str, Any] = self.config.get("slo") or {}
        self.levels = charts.levels_of(run.aggregate, run.results)
        self.parts = [level.part for level in self.levels] or [run.aggregate]
        self.timeline = charts.Timeline(run, self.most, say)
        self.english_headline = st.headline(run.meta, run.aggregate)
        self.headline = say.message(self.english_headline)
        self.knee = st.Headline(run.meta, run.aggregate).knee if self.levels else None
        self.about = say("about ") if "tokens_estimated" in self.codes else ""

    # The answer

    @functools.cached_property
    def best(self) -> Mapping[str, Any]:
        """The part that figures and card show: the level at the knee, else the whole run."""
        return next(
            (level.part for level in self.levels if level.at_once == self.knee), self.parts[-1]
        )

    @property
    def duration(self) -> str:
        """How long it took, and how many requests that were."""
        say, failed = self.say, self.aggregate["failed"]
        asked, took = say.count(self.aggregate["requests"]), say.ms(self.meta["total_duration_ms"])
        if not failed:
            return say("{n} requests in {time}, none failed", n=asked, time=took)
        text = "{n} requests in {time}, {failed} failed"
        return say(text, n=asked, time=took, failed=say.count(failed))

    @property
    def lede(self) -> str:
        """Model, machine, speed and quality in two or three sentences."""
        meta, say = self.meta, self.say
        place = machine_text(meta, say)
        asked_from = (meta.get("hardware") or {}).get("host") == "client"
        place = say("asked from {machine}", machine=place) if place and asked_from else place
        first = say("{model} on {server}", model=model_text(meta), server=server_text(meta))
        first += f"{', ' if place else ''}{place}."
        text, interval = right(self.aggregate, say)
        n = say.count(self.aggregate["quality"]["under_load"]["n"])
        last = " {share} of {n} graded answers are right (95 %: {interval})."
        last = say(last, share=text, n=n, interval=interval) if interval else ""
        return first + self._speed() + last

    def _speed(self) -> str:
        """Say how fast it was, level by level for a sweep."""
        say = self.say
        known = [
            {"speed": say.number(speed), "level": level.at_once}
            for level in charts.shown_levels(self.levels)
            if (speed := st.one_user_speed(level.part)) is not None
        ]
        if known:
            texts = [say("{speed} with {level}", **each) for each in known]
            texts[0] = say("{speed} tokens/s with {level} at once", **known[0])
            text = " A user gets {about}{speeds}."
            return say(text, about=self.about, speeds=say.listed(texts))
        total, one = st.total_speed(self.best), st.one_user_speed(self.best)
        if self.levels or not total:
            return ""
        about = self.about.capitalize()
        words = say(" {about}{speed} tokens/s in all", about=about, speed=say.number(total))
        return words + (say(", {speed} for one user.", speed=say.number(one)) if one else ".")

    @property
    def copied(self) -> str:
        """The paragraph to copy: figures, caveats and verdict."""
        meta, part, say = self.meta, self.best, self.say
        total, one = st.total_speed(part), st.one_user_speed(part)
        place = machine_text(meta, say) or server_text(meta)
        pieces = [say("{model} on {server}", model=model_text(meta), server=place)]
        if total:
            speed = say("{about}{speed} tokens/s", about=self.about, speed=say.number(total))
            if self.levels:
                speed += say(" at {level} at once", level=part["concurrent"])
            each = say(", {speed} for each user", speed=say.number(one)) if one else ""
            pieces.append(speed + each)
        if part["ttft_ms"]["n"]:
            median, interval = latency(part, "ttft_ms", say)
            said = say(" (95 %: {interval})", interval=interval) if interval else ""
            pieces.append(say("first token {time} in the median", time=median) + said)
        if self.aggregate["quality"]["graded"]:
            share, interval = right(part, say)
            n = say.count(part["quality"]["under_load"]["n"])
            text = "{share} of {n} answers right (95 %: {interval})"
            pieces.append(say(text, share=share, n=n, interval=interval))
        if part["failed"]:
            counts = {"n": say.count(part["failed"]), "total": say.count(part["requests"])}
            pieces.append(say("{n} of {total} requests failed", **counts))
        verdict = meta["validity"]["verdict"]
        why = ", ".join(st.printable(reason["code"]) for reason in meta["validity"]["reasons"])
        verdict = say("Verdict {verdict}", verdict=verdict)
        return f"{'; '.join(pieces)}. {verdict}{': ' if why else ''}{why}."

    @property
    def figures(self) -> list[Figure]:
        """The four figures of a run at one level, or of the level meant."""
        part, say = self.best, self.say
        ttft, ttft_interval = latency(part, "ttft_ms", say)
        e2e, e2e_interval = latency(part, "e2e_ms", say)
        total, one = st.total_speed(part), st.one_user_speed(part)
        speed = f"{say.number(total)}{NARROW}{say('tokens/s')}" if total else "–"
        text = "{about}{speed} for one user"
        each = say(text, about=self.about, speed=say.number(one)) if one else ""
        name = say("Total speed ↑")
        if self.levels:
            name = say("Total speed, {level} at once ↑", level=part["concurrent"])

        def said(interval: str) -> str:
            return say("95 %: {interval}", interval=interval) if interval else ""

        first = figure(say("First token (TTFT), median ↓"), ttft, said(ttft_interval))
        if ttft == "–":
            why = "not measured: that needs stream" if part["ok"] else "no answer came"
            first = figure(say("First token (TTFT)"), ttft, say(why))
        whole = figure(say("Whole answer (E2E), median ↓"), e2e, said(e2e_interval))
        limits = limits_text(self.slo, say, words=len(self.slo) < 2)
        third = figure(say("Within the limits ↑"), within(part, say), limits)
        share, interval = right(part, say)
        n = say.count(part["quality"]["under_load"]["n"])
        note = say("95 %: {interval}, of {n} graded", interval=interval, n=n)
        last = figure(say("Right answers ↑"), share, note)
        if not interval:
            note = say("{n} failed, none graded", n=say.count(part["failed"]))
            last = figure(say("Answers"), say.count(part["ok"]), note)
        return [
            figure(name, speed, each),
            first,
            third if within(part, say) != "–" else whole,
            last,
        ]

    @functools.cached_property
    def tabled(self) -> list[charts.Level]:
        """The levels in tables: all, of very many some from the lowest to the highest."""
        if len(self.levels) <= MOST_TABLED:
            return self.levels
        last = len(self.levels) - 1
        places = {round(i * last / (MOST_TABLED - 1)) for i in range(MOST_TABLED)}
        return [
            level
            for place, level in enumerate(self.levels)
            if place in places or level.at_once == self.knee
        ]

    @property
    def level_rows(self) -> list[dict[str, Any]]:
        """The levels table's rows."""
        say = self.say
        totals = [st.total_speed(level.part) or 0.0 for level in self.tabled]
        users = [st.one_user_speed(level.part) or 0.0 for level in self.tabled]
        return [
            {
                "at_once": say.count(level.at_once),
                "total": say.number(st.total_speed(level.part)),
                "bar": round(100 * total / (max(totals) or 1)),
                "bar_one": round(100 * user / (max(users) or 1)),
                "one": say.number(st.one_user_speed(level.part)),
                "ttft": latency(level.part, "ttft_ms", say),
                "e2e": latency(level.part, "e2e_ms", say),
                "within": within(level.part, say),
                "right": right(level.part, say),
                "failed": level.part["failed"],
                "knee": level.at_once == self.knee,
            }
            for level, total, user in zip(self.tabled, totals, users, strict=True)
        ]

    @property
    def level_note(self) -> str:
        """What the table's signs mean, and what was not measured."""
        say = self.say
        parts = [say("↑ more is better, ↓ less is better. Small: 95 % interval.")]
        if self.knee is not None:
            text = (
                "Marked: {level} at once, the highest level whose total is a tenth or more "
                "above that of each lower one."
            )
            parts.append(say(text, level=self.knee))
        if len(self.tabled) < len(self.levels):
            total = say.count(len(self.levels))
            text = "{n} of {total} levels; export has all."
            parts.append(say(text, n=len(self.tabled), total=total))
        limits, none = limits_text(self.slo, say), say("No limits were set: slo sets them.")
        parts.append(say("Limits: {limits}.", limits=limits) if limits else none)
        if any(part["failed"] for part in self.parts):
            parts.append(say("A failed request counts as late and as wrong."))
        parts += self.not_measured
        return " ".join(parts)

    @property
    def not_measured(self) -> list[str]:
        """What was not measured, and which key turns it on."""
        found = []
        if not any(part["ttft_ms"]["n"] for part in self.parts) and self.aggregate["ok"]:
            found.append("First tokens were not measured: that needs stream.")
        if not self.aggregate["quality"]["graded"]:
            found.append("No answer was graded: questions need a grader.")
        energy = self.aggregate.get("energy") or {}
        if not any((energy.get(name) or {}).get("wh") for name in ("wall", "gpu", "cpu_package")):
            found.append("Energy was not measured: hardware.power_url names a meter.")
        cells = (latency(part, metric, self.say) for part in self.parts for metric in METRICS)
        if any("(" in text for text, _ in cells):
            found.append("In brackets: too few answers for an interval.")
        return list(map(self.say, found))

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was run, in four columns."""
        meta, config, say = self.meta, self.config, self.say
        info, machine = meta.get("server_info") or {}, meta.get("hardware") or {}
        size, memory = info.get("parameters"), machine.get("memory_usable_bytes")
        model: list[str | None] = [meta["model"], info.get("quantization")]
        text = "{n} million parameters"
        model.append(say(text, n=say.number(size / 1e6)) if size else None)
        server: list[str | None] = [
            " ".join(str(info[k]) for k in ("engine", "version") if info.get(k))
        ]
        server += [meta["server"] if meta["server"] != "embedded" else say("embedded")]
        slots, context = info.get("slots"), info.get("context_tokens")
        server.append(say("{n} slots", n=say.count(slots)) if slots else None)
        text = "{n} tokens of context"
        server.append(say(text, n=say.count(context)) if context else None)
        place: list[str | None] = [machine_text(meta, say)]
        place.append(f"{say.number(memory / (1 << 30))}{NARROW}GiB" if memory else None)
        place.append(machine.get("os"))
        is_same = machine.get("host") == "client and server"
        place.append(say("the load came from the same machine") if is_same else None)
        columns = {"Model": model, "Server": server, "Machine": place}
        columns["Questions"] = self._questions(config)
        return [
            (say(name), ", ".join(st.printable(item, 160) for item in items if item))
            for name, items in columns.items()
            if any(items)
        ]

    def _questions(self, config: Mapping[str, Any]) -> list[str | None]:
        """Return how many questions were asked, and how."""
        meta, say = self.meta, self.say
        count = meta.get("questions_asked") or meta["questions"]
        asked, by_level = {"n": str(count)}, "{n} questions a level"
        text = by_level if self.levels else "{n} questions"
        if config["duration"] is not None:
            asked = {"time": say.own(f"{config['duration']:g}{NARROW}s")}
            by_level = "{time} of questions a level"
            text = by_level if self.levels else "{time} of questions"
        found: list[str | None] = [say(text, **asked)]
        if not self.levels:
            found.append(say("{level} at once", level=meta["concurrent"]))
        if config["rate"] is not None:
            rate = say.own(f"{config['rate']:g}")
            found.append(say("{rate} requests/s ({kind})", rate=rate, kind=config["arrival"]))
        found += [config["api"], say("streaming" if config["stream"] else "not streaming")]
        tokens = config["max_tokens"]
        found.append(say("at most {n} tokens", n=say.count(tokens)) if tokens else None)
        return found

    # Charts

    @functools.cached_property
    def load_charts(self) -> list[charts.Chart]:
        """How load changes it: for a sweep."""
        if len(self.levels) < 2:
            return []
        low, high = self.levels[0], self.levels[-1]
        name = "ttft_by_level"
        say, levels = self.say, self.levels
        note = say("Median time to first token, and its interval · ↓ less is better")
        scores = say("Right answers, failures counted as wrong, 95 % interval · ↑ more is better")
        found = [
            charts.pareto(levels, self.about, say),
            charts.by_level(levels, "ttft_ms", self._first_token_title(), note, name, say),
        ]
        if any(level.part["quality"]["graded"] for level in self.levels):
            title, name = self._quality_title(low, high), "quality_by_level"
            found.append(charts.by_level(levels, "quality", title, scores, name, say))
        return found

    def _first_token_title(self) -> str:
        """Say what the first token does with the load, or why that cannot be said."""
        if "prompt_cache" in self.codes:
            text = "First tokens do not compare between levels: prompts came from a cache"
            return self.say(text)
        return self._between("ttft_ms", "The first token")

    def _between(self, metric: str, what: str) -> str:
        """Say how a median differs between the lowest and the highest level."""
        say, what = self.say, self.say(what)
        known = [level for level in self.levels if level.part[metric]["n"]]
        if len(known) < 2:
            return say("{what} was not measured at two levels", what=what)
        low, high = known[0], known[-1]
        before, after = low.part[metric], high.part[metric]
        levels = {"what": what, "low": low.at_once, "high": high.at_once}
        few = [
            str(level.at_once)
            for level, summary in ((low, before), (high, after))
            if not charts.supported(summary, "p50")
        ]
        if few:
            listed = say(" and at ").join(few)
            text = "{what}: too few answers at {levels} at once to tell levels apart"
            return say(text, what=what, levels=listed)
        if not charts.apart(before, after):
            return say("{what} cannot be told apart at {low} and at {high} at once", **levels)
        text = "{what} takes {before} at {low} at once and {after} at {high}, in the median"
        times = {"before": say.ms(before["p50"]), "after": say.ms(after["p50"])}
        return say(text, **times, **levels)

    def _quality_title(self, low: charts.Level, high: charts.Level) -> str:
        say, paired = self.say, high.part["quality"].get("paired") or {}
        found = self.english_headline
        if found.startswith("From ") and "answers get worse" in found:
            return self.headline.removesuffix(".")
        changed = paired.get("better", 0) + paired.get("worse", 0)
        also = say("; {n} answers changed their grade", n=changed) if changed else ""
        if changed == 1:
            also = say("; 1 answer changed its grade")
        text = (
            "No difference in right answers between {low} and {high} at once is "
            "beyond chance, with {n} answers a level"
        )
        n = say.count(high.part["quality"]["under_load"]["n"])
        return say(text, low=low.at_once, high=high.at_once, n=n) + also

    def curves(self, metric: str) -> list[charts.Curve]:
        """Return the curves of a latency: one a level."""
        attribute = "time_ms" if metric == "e2e_ms" else metric
        if not self.levels:
            values = _measured(self.run.results, attribute)
            name, colour = self.say("all answers"), charts.token("a")
            return [charts.Curve(name, values, self.aggregate[metric], colour)]
        shown = charts.shown_levels(self.levels)
        return [
            charts.Curve(
                self.say("{level} at once", level=level.at_once),
                _measured(level.results, attribute),
                level.part[metric],
                colour,
                key=str(level.at_once),
            )
            for level, colour in zip(shown, charts.level_tokens(len(shown)), strict=True)
        ]

    @functools.cached_property
    def latency_charts(self) -> list[charts.Chart]:
        """TTFT, TPOT and E2E as curves."""
        found = []
        for metric, (_, note, _) in METRICS.items():
            curves = self.curves(metric)
            if any(curve.values for curve in curves):
                title = self._latency_title(metric)
                name = metric.removesuffix("_ms")
                limit = self.slo.get(metric)
                note = self.say(note)
                found.append(charts.ecdf(name, title, note, curves, limit, self.say))
        return found

    def _latency_title(self, metric: str) -> str:
        """Say the share within the limit, or p50 and p95, or what the load does."""
        say, what = self.say, METRICS[metric][0]
        limit = self.slo.get(metric)
        cut = ""
        if metric == "e2e_ms" and "answers_cut" in self.codes and self.config["max_tokens"]:
            cut = say(" (cut at {n} tokens)", n=say.count(self.config["max_tokens"]))
        if limit is not None:
            return self._limit_title(metric, limit) + cut
        if self.levels:
            if metric == "ttft_ms" and "prompt_cache" in self.codes:
                return self._first_token_title()
            return self._between(metric, what) + cut
        summary = self.aggregate[metric]
        half = say.ms(summary["p50"])
        late = say(", 95 of 100 within {time}", time=say.ms(summary["p95"]))
        late = late if charts.supported(summary, "p95") else ""
        text = {
            "ttft_ms": "Half of the answers start within {time}",
            "tpot_ms": "Half of the answers need at most {time} for each further token",
            "e2e_ms": "Half of the answers are whole within {time}",
        }[metric]
        return say(text, time=half) + late + cut

    def _limit_title(self, metric: str, limit: float) -> str:
        """Say how many answers are within the limit: at each level, or in all."""
        shares = []
        for curve in self.curves(metric):
            inside = sum(value <= limit for value in curve.values)
            if curve.values:
                shares.append((inside / len(curve.values), inside, len(curve.values)))
        say, (share, inside, n) = self.say, min(shares)

        def told(share: float, inside: int, n: int) -> str:
            if n > 100:
                return say.share(share)
            return say("{n} of {total}", n=say.count(inside), total=say.count(n))

        text = {
            "ttft_ms": "start within the limit of {limit}",
            "tpot_ms": "keep to the limit of {limit} a token",
            "e2e_ms": "end within the limit of {limit}",
        }[metric]
        words = {"within_limit": say(text, limit=say.limit(limit)), "share": told(share, inside, n)}
        if not self.levels and n <= 100:
            return say("{share} answers {within_limit}", **words)
        if not self.levels:
            return say("{share} of the answers {within_limit}", **words)
        if share == 1:
            return say(
                "At every level all answers {within_limit}", within_limit=words["within_limit"]
            )
        if share >= 0.9 or (metric == "ttft_ms" and "prompt_cache" in self.codes):
            few = "At every level {share} answers or more {within_limit}"
            many = "At every level {share} of the answers or more {within_limit}"
            return say(few if n <= 100 else many, **words)
        return say(
            "{first} answers at {low} at once and {last} at {high} {within_limit}",
            first=told(*shares[0]),
            last=told(*shares[-1]),
            low=self.levels[0].at_once,
            high=self.levels[-1].at_once,
            within_limit=words["within_limit"],
        )

    @functools.cached_property
    def time_chart(self) -> charts.Chart:
        """What happened when."""
        return charts.over_time(self.timeline, self._time_title(), self.slo.get("ttft_ms"))

    def _time_title(self) -> str:
        """Say how busy the machine was, or whether the second half differs from the first."""
        say, samples, failed = self.say, self.run.samples, self.aggregate["failed"]
        busy = sorted(v for v in (samples or {}).get("columns", {}).get("cpu_percent", []) if v)
        counts = {"n": say.count(failed), "total": say.count(self.aggregate["requests"])}
        also = say("; {n} of {total} requests fail", **counts) if failed else ""
        if self.levels and busy:
            median = f"{busy[len(busy) // 2]:.0f}{NARROW}%"
            return say("The machine's CPU is {share} busy in the median", share=median) + also
        if self.levels:
            return say("{n} levels, one after the other", n=len(self.levels)) + also
        metric = "ttft_ms" if self.aggregate["ttft_ms"]["n"] else "time_ms"
        known = sorted(
            (r for r in self.timeline.sent if r.ok and getattr(r, metric) is not None),
            key=lambda r: cast(int, r.sent_ns),
        )
        middle = len(known) // 2
        if middle < 5:
            return say("{n} answers over time", n=say.count(len(known))) + also
        halves = [
            st.describe([cast(float, getattr(r, metric)) for r in half])
            for half in (known[:middle], known[middle:])
        ]
        words = {
            "what": say("The first token" if metric == "ttft_ms" else "An answer"),
            "first": say.ms(halves[0]["p50"]),
            "second": say.ms(halves[1]["p50"]),
        }
        text = "{what} takes {second} in the second half of the run, {first} in the first"
        if not charts.apart(*halves):
            text = (
                "{what} takes no longer in the second half of the run ({second}) than in the "
                "first ({first}), beyond chance"
            )
        return say(text, **words) + also

    @functools.cached_property
    def lane_chart(self) -> charts.Chart:
        """Each request on its lane."""
        return charts.lanes(self.timeline)

    @functools.cached_property
    def length_charts(self) -> list[charts.Chart]:
        """TTFT against the prompt, E2E against the answer."""
        shown = charts.shown_levels(self.levels)
        groups = [
            (self.say("{level} at once", level=level.at_once), colour, level.results)
            for level, colour in zip(shown, charts.level_tokens(len(shown)), strict=True)
        ]
        if not self.levels:
            groups = [("", charts.token("a"), self.run.results)]
        found = []
        if self.aggregate["ttft_ms"]["n"]:
            found.append(self._by_length("prompt", groups))
        found.append(self._by_length("answer", groups))
        return found

    def _by_length(self, name: str, groups: Any) -> charts.Chart:
        is_prompt = name == "prompt"
        return charts.by_length(name, groups, prompt=is_prompt, most=self.most, say=self.say)

    @functools.cached_property
    def quality_chart(self) -> charts.Chart:
        """Right answers by category."""
        return charts.quality(self.aggregate["quality"]["categories"], self.say)

    def all_charts(self) -> list[charts.Chart]:
        """Return all charts in the page's order."""
        return [
            *self.load_charts,
            *self.latency_charts,
            self.time_chart,
            self.lane_chart,
            *self.length_charts,
            self.quality_chart,
        ]

    @property
    def level_keys(self) -> list[charts.Key]:
        """The legend of the levels."""
        shown = charts.shown_levels(self.levels)
        if len(shown) < 2:
            return []
        colours = charts.level_tokens(len(shown))
        return [
            charts.Key(self.say("{level} at once", level=level.at_once), colour)
            for level, colour in zip(shown, colours, strict=True)
        ]

    @property
    def latency_heads(self) -> tuple[str, ...]:
        """The heads above them."""
        return charts.percentile_heads(self.say)

    @property
    def latency_rows(self) -> list[tuple[str, ...]]:
        """The percentiles of a run at one level."""
        return [
            charts.percentile_row(
                f"{self.say(what)} ({metric.removesuffix('_ms').upper()})", summary, self.say
            )
            for metric, (what, _, _) in METRICS.items()
            if (summary := self.aggregate[metric])["n"]
        ]

    @property
    def quality_note(self) -> str:
        """How many were graded, and how certain that is."""
        say, quality = self.say, self.aggregate["quality"]
        share, interval = right(self.aggregate, say)
        if not interval:
            return say("No answer was graded: questions need a grader.")
        ungraded, n = quality["ungraded"], quality["under_load"]["n"]
        words = {"share": share, "n": say.count(n), "interval": interval}
        text = "{share} of {n} graded answers are right (95 %: {interval})"
        also = ", {n} could not be graded"
        also = say(also, n=say.count(ungraded)) if ungraded else ""
        how = ". The interval counts each of the {n} questions once, however often it was asked."
        return say(text, **words) + also + say(how, n=say.count(quality["under_load"]["questions"]))

    @property
    def cost_rows(self) -> list[tuple[str, ...]]:
        """What a right answer costs, by level."""
        rows = []
        for part in [level.part for level in self.tabled] or self.parts:
            quality = part["quality"]
            if not quality["graded"]:
                continue
            energy = part.get("energy") or {}
            sources = (energy.get(name) or {} for name in ("wall", "gpu", "cpu_package"))
            wh = next((s["wh_per_1000_correct"] for s in sources if s.get("wh") is not None), None)
            at_once = str(part.get("concurrent", self.meta["concurrent"]))
            numbers = (quality["correct_per_s"], quality["tokens_per_correct"], wh)
            price = quality["price_per_correct"]
            texts = [self.say.number(number) for number in (*numbers, price)]
            rows.append((at_once, *texts))
        return rows

    # Answers

    @functools.cached_property
    def failures(self) -> list[dict[str, str]]:
        """The failed requests."""
        failed = [r for r in self.run.results if not r.ok]
        failed.sort(key=lambda r: r.sent_ns or 0)
        return [
            {
                "sent": "–" if r.sent_ns is None else self.say.ms(r.sent_ns / 1e6),
                "kind": st.printable(r.error.kind if r.error else r.status, 60),
                "http": str(r.error.http_status or "–") if r.error else "–",
                "message": st.printable(r.error.message if r.error else "", 400),
                "question": st.printable(" ".join(r.question.split()), 300),
                "id": st.printable(r.id, 100),
                "arrived": _cut(r.answer, self.say),
                "after": self.say.ms(r.time_ms),
            }
            for r in failed[: MOST_ANSWERS // (4 if self.lite else 1)]
        ]

    @property
    def failure_words(self) -> str:
        """How many failed, and of which kinds."""
        say, kinds = self.say, self.aggregate["failures"].items()
        listed = ", ".join(f"{say.count(n)} × {st.printable(kind, 60)}" for kind, n in kinds)
        shown, total = len(self.failures), sum(not r.ok for r in self.run.results)
        some = ""
        if shown < total:
            counts = {"n": say.count(shown), "total": say.count(total)}
            some = say(" {n} of {total} are listed.", **counts)
        counts = {"n": say.count(total), "total": say.count(self.aggregate["requests"])}
        listed = listed or say("cancelled")
        return say("{n} of {total}: {kinds}.", **counts, kinds=listed) + some

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """The slowest and the wrong answers, one entry a question."""
        ok = [r for r in self.run.results if r.ok]
        slowest = sorted(ok, key=lambda r: -(r.time_ms or 0))
        by_question: dict[str, st.Result] = {}
        for result in slowest:
            by_question.setdefault(result.id, result)
        most = MOST_ANSWERS // (8 if self.lite else 1)
        slow = list(by_question.values())[:10]
        wrong: dict[str, list[st.Result]] = {}
        for result in ok:
            if result.graded and result.quality < st.CORRECT:
                wrong.setdefault(result.id, []).append(result)
        entries = [self._entry(r, "slow", wrong.get(r.id, [])) for r in slow]
        seen = {r.id for r in slow}
        entries += [
            self._entry(results[0], "wrong", results)
            for id_, results in list(wrong.items())[:most]
            if id_ not in seen
        ]
        return entries

    def _entry(self, r: st.Result, kind: str, wrong: Sequence[st.Result]) -> Entry:
        """Return an answer to read: what was asked, what came, why it stands here."""
        say, why = self.say, list[str]()
        if kind == "slow":
            words = {"time": say.ms(r.time_ms), "n": say.count(r.token)}
            why.append(say("Took {time} for {n} tokens.", **words))
        if r.finish_reason == "length":
            why.append(say("Cut at max_tokens."))
        if wrong:
            asked = (
                sum(o.id == r.id for o in self.run.results) if len(self.run.results) < 5000 else 0
            )
            reason, text = wrong[0].grade_reason, say("Wrong")
            if asked > 1:
                text = say("Wrong {n} of {total} times", n=len(wrong), total=asked)
            why.append(text + (": " if reason else "."))
            if reason:
                why[-1] += say.foreign(sentence(reason))
        elif r.graded:
            why.append(say("Right."))
        kinds = ("slow", "wrong") if kind == "slow" and wrong else (kind,)
        return Entry(
            kinds,
            say({"slow": "Slowest", "wrong": "Wrong"}[kind]),
            st.printable(r.category or "", 60),
            say.ms(r.time_ms),
            st.printable(r.id, 100),
            _cut(r.question, say),
            _cut(r.answer, say),
            _cut(r.reasoning, say),
            say.joined(why),
        )

    @property
    def filters(self) -> list[tuple[str, str, int]]:
        """The buttons above the answers."""
        say = self.say
        kinds = {"wrong": say("Wrong"), "slow": say("Slowest"), "failed": say("Failed")}
        counts = Counter(kind for entry in self.entries for kind in entry.kinds)
        counts["failed"] = len(self.failures)
        whole = len(self.entries) + len(self.failures)
        listed = ((kind, word, counts[kind]) for kind, word in kinds.items() if counts[kind])
        return [("", say("All"), whole), *listed]

    # The end

    @property
    def changed_keys(self) -> list[tuple[str, str]]:
        """The keys that differ from the defaults."""
        fields = st.Config.model_fields
        required = ("server", "model", "concurrent", "questions")
        found = []
        for key, value in self.config.items():
            default: Any = None
            if key in fields:
                default = fields[key].get_default(call_default_factory=True)
            if hasattr(default, "model_dump"):
                default = default.model_dump(exclude_none=True)
                value = {k: v for k, v in (value or {}).items() if v is not None}
            if key in required or value != default:
                found.append((key, _value(value)))
        return found

    @property
    def all_keys(self) -> list[tuple[str, str]]:
        """All keys."""
        return [(st.printable(key, 60), _value(value)) for key, value in self.config.items()]

    @property
    def foot(self) -> str:
        """The run's id, the questions' hash, and what the client did to the times."""
        say, client = self.say, self.meta.get("client") or {}
        lag, cpu = (client.get("loop_lag_ms") or {}).get("p99"), client.get("cpu_share")
        busy = say("client busy {share} of a core", share=say.share(cpu))
        busy = busy if cpu is not None else ""
        late = say("event loop late by {time} (p99)", time=say.ms(lag))
        late = late if lag is not None else ""
        pieces = [
            say("Run {id}", id=self.meta["run_id"]),
            f"llm-stresstest {client.get('version', '')}",
            say("questions {hash}", hash=str(self.meta.get("questions_sha256", ""))[:12]),
            ", ".join(filter(None, (busy, late))),
        ]
        return st.printable(" · ".join(filter(None, pieces)), 400)

    @property
    def look_up(self) -> str:
        """The command that recomputes everything."""
        return f"python3 llm_stresstest.py verify {shlex.quote(self.name)}"


def _measured(results: Iterable[st.Result], attribute: str) -> list[float]:
    values = (getattr(result, attribute) for result in results if result.ok)
    return [value for value in values if value is not None]


def _cut(text: str, say: Sentences) -> str:
    """Return a text to read: its line breaks stay, other control characters are shown."""
    lines = [st.printable(line, ANSWER_LENGTH) for line in text[:ANSWER_LENGTH].split("\n")]
    if len(text) > ANSWER_LENGTH:
        lines.append(say("… {n} more characters", n=say.count(len(text) - ANSWER_LENGTH)))
    return "\n".join(lines)


def _value(value: Any) -> str:
    """Return a value of the configuration as people read it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return st.printable(text, 1000)


# === The page of several runs ===


class Comparing:
    """What a page shows of several runs: each held against the first."""

    COLOURS = (("a", ()), ("b", (6, 3)), ("quality", (2, 3)))

    def __init__(
        self, runs: Sequence[st.SavedRun], lite: bool = False, say: Sentences = ENGLISH
    ) -> None:
        self.runs, self.lite, self.say = [OneRun(run, lite, say) for run in runs], lite, say
        self.words = st.import_extension("verdicts", "analysis")
        self.compare = st.import_extension("pairing", "analysis")
        self.labels = [_label(place) for place in range(len(runs))]
        columns = [self.compare.read_run(run.path) for run in runs]
        sides = [
            self.compare.Side(label, (run,))
            for label, run in zip(self.labels, columns, strict=True)
        ]
        options = self.compare.Options()
        self.comparisons = [self.compare.compare(sides[0], side, options) for side in sides[1:]]
        self.name = say(" and ").join(run.name for run in self.runs)
        self.codes = set[str]().union(*(run.codes for run in self.runs))

    @property
    def headline(self) -> str:
        """The answer: the verdict of the first comparison that has one."""
        refused = [c for c in self.comparisons if c.refused]
        if refused:
            keys = ", ".join(dict.fromkeys(r.key for c in refused for r in c.refused))
            text = "These runs are not comparable: {keys}."
            return self.say(text, keys=st.printable(keys, 200))
        return " ".join(self.words.sentence(each, self.say) for each in self.comparisons[:3])

    @property
    def lede(self) -> str:
        """What the verdicts cover."""
        return str(self.words.one_run_note(self.comparisons[0], self.say))

    @property
    def run_rows(self) -> list[dict[str, Any]]:
        """The runs and their verdicts."""
        return [
            {
                "label": label,
                "key": charts.Key("", charts.token(colour), "line" if not dash else "dash"),
                "name": run.name,
                "meta": run.meta,
                "ok": self.say.count(run.aggregate["ok"]),
                "failed": self.say.count(run.aggregate["failed"]),
                "date": started(run.meta, self.say),
            }
            for label, run, (colour, dash) in zip(
                self.labels, self.runs, self._styles(), strict=True
            )
        ]

    def _styles(self) -> list[tuple[str, tuple[int, ...]]]:
        return [self.COLOURS[min(place, 2)] for place in range(len(self.runs))]

    @property
    def changed(self) -> list[tuple[str, list[str]]]:
        """The keys that differ, with each run's value."""
        found: dict[str, list[str]] = {}
        for place, comparison in enumerate(self.comparisons):
            for key, (a, b) in comparison.changed.items():
                row = found.setdefault(key, [_value(a)] * len(self.runs))
                row[place + 1] = _value(b)
        return [(st.printable(key, 100), row) for key, row in found.items()]

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The verdicts, a table a comparison."""
        found, say = [], self.say
        for comparison in self.comparisons:
            margin = comparison.options.margin
            rows = [
                {
                    "cells": self.words.cells_of(row, margin, row.metric.title, say),
                    "better": {True: "ok", False: "bad", None: ""}[row.is_better],
                    "drawing": _interval_drawing(row, margin),
                }
                for row in self.words.shown_rows(comparison)
            ]
            flips = comparison.flipped
            heads, levels = self._levels(comparison)
            found.append({
                "level_heads": heads,
                "levels": levels,
                "label": comparison.b.label,
                "name": comparison.b.first.name,
                "rows": rows,
                "refused": [say.message(r.line(), is_sentence=False) for r in comparison.refused],
                "legend": self.words.legend(comparison, say) if rows else "",
                "caveats": self.words.caveats(comparison, say),
                "flips": [self._flip(flip, comparison) for flip in flips[:MOST_ANSWERS]],
                "gained": sum(flip.b for flip in flips),
                "lost": sum(not flip.b for flip in flips),
            })  # fmt: skip
        return found

    def _levels(self, comparison: Any) -> tuple[list[str], list[tuple[str, list[Any]]]]:
        """Return the verdicts level by level: the metrics' names, and the cells of each level."""
        margin, rows_of = comparison.options.margin, comparison.levels
        names = [
            name
            for name in self.compare.BY_LEVEL
            if any(rows[name].verdict != "not_measured" for rows in rows_of.values())
        ]
        metrics = [self.compare.METRICS[name] for name in names]
        heads = [f"{self.say(metric.label)} {metric.arrow}".strip() for metric in metrics]
        cells = [
            (level, [self.words.cells_of(rows[name], margin, None, self.say) for name in names])
            for level, rows in rows_of.items()
        ]
        return heads, cells

    def _flip(self, flip: Any, comparison: Any) -> dict[str, Any]:
        """Return a question whose grade changed, with both answers."""
        place = self.labels.index(comparison.b.label)
        answers = []
        for run in (self.runs[0], self.runs[place]):
            results = [r for r in run.run.results if r.id == flip.id and r.graded]
            answers.append(_cut(results[0].answer, self.say)[:600] if results else "")
        return {"question": st.printable(flip.text, 400), "answers": answers, "right": flip[2:4]}

    @functools.cached_property
    def latency_charts(self) -> list[charts.Chart]:
        """The runs' curves, one over the other; from a fourth on a row a run."""
        found = []
        for group in self._groups:
            for metric, (what, note, _) in METRICS.items():
                curves = [self._curve(place, metric, at) for at, place in enumerate(group)]
                if not all(curve.values for curve in curves):
                    continue
                name = metric.removesuffix("_ms") + "".join(self.labels[p] for p in group)
                title = self._title(metric, self.say(what), group)
                limit, note = self.runs[0].slo.get(metric), self.say(note)
                found.append(charts.ecdf(name, title, note, curves, limit, self.say))
        return found

    @property
    def _groups(self) -> list[Sequence[int]]:
        """The runs that stand in one picture: up to three, else each with the first."""
        if len(self.runs) <= len(self.COLOURS):
            return [range(len(self.runs))]
        return [(0, place) for place in range(1, len(self.runs))]

    @functools.cached_property
    def time_charts(self) -> list[charts.Chart]:
        """What happened when, the runs over each other from their starts."""
        return [
            charts.overlaid_time(
                "over_time" + "".join(self.labels[place] for place in group),
                [
                    charts.Lived(self.labels[place], self.runs[place].timeline, *self.COLOURS[at])
                    for at, place in enumerate(group)
                ],
                self.say,
            )
            for group in self._groups
        ]

    def _curve(self, place: int, metric: str, at: int) -> charts.Curve:
        run = self.runs[place]
        attribute = "time_ms" if metric == "e2e_ms" else metric
        colour, dash = self.COLOURS[at]
        values = _measured(run.run.results, attribute)
        label = f"{self.labels[place]}, {st.printable(run.name, 60)}"
        return charts.Curve(label, values, run.aggregate[metric], charts.token(colour), dash)

    def _title(self, metric: str, what: str, group: Sequence[int]) -> str:
        """Say the verdict of the row, as the table does."""
        texts = []
        for place in group[1:]:
            comparison = self.comparisons[place - 1]
            row = comparison.rows.get(metric)
            if row is None:
                continue
            word = self.words.verdict_text(row, comparison.options.margin, self.say)[2:]
            is_named = len(group) > 2 or row.verdict != "cannot_tell"
            who = f"{self.labels[place]} " if is_named else ""
            texts.append(f"{who}{word}, {self.words.interval_text(row, self.say)}")
        return f"{what}: {'; '.join(texts) or self.say('not compared')}"

    def all_charts(self) -> list[charts.Chart]:
        """Return all charts."""
        return [*self.latency_charts, *self.time_charts]

    @property
    def legend(self) -> list[charts.Key]:
        """The runs' lines."""
        return [
            charts.Key(
                f"{label}, {st.printable(run.name, 60)}", charts.token(c), "dash" if d else "line"
            )
            for label, run, (c, d) in zip(self.labels, self.runs, self._styles(), strict=True)
        ]

    @property
    def foot(self) -> str:
        """The runs' ids."""
        return " · ".join(run.foot for run in self.runs)


def _label(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"R{place + 1}"


def _interval_drawing(row: Any, margin: float) -> dict[str, Any] | None:
    """Return where the interval that decides lies, in the pixels of a drawing 200 wide."""
    if row.interval is None:
        return None
    one = 1.0 if row.metric.is_ratio else 0.0
    ends = [row.shown(value) - one for value in (*row.interval.ci_table, row.interval.value)]
    low, high, middle = (round(100 + 196 * max(-0.5, min(0.5, end)), 1) for end in ends)
    return {
        "low": low,
        "width": max(high - low, 1),
        "middle": middle,
        "left": round(100 - 196 * margin, 1),
        "shade": round(392 * margin, 1),
        "far_left": ends[0] < -0.5,
        "far_right": ends[1] > 0.5,
    }


# === Pictures ===


def png(chart: charts.Chart, say: Sentences = ENGLISH) -> bytes:
    """Return a chart as a PNG, light, twice as fine as it is large."""
    spec = charts.for_file(chart, charts.LIGHT)
    return bytes(
        vl_convert.vegalite_to_png(
            spec, vl_version=charts.VEGA_LITE, scale=2, format_locale=say.locale
        )
    )


def svg(chart: charts.Chart, say: Sentences = ENGLISH) -> bytes:
    """Return a chart as an SVG, light."""
    return _drawn(charts.for_file(chart, charts.LIGHT), say).encode()


def _drawn(spec: charts.Spec, say: Sentences) -> str:
    return str(
        vl_convert.vegalite_to_svg(spec, vl_version=charts.VEGA_LITE, format_locale=say.locale)
    )


def pdf(view: OneRun | Comparing, drawn: Sequence[charts.Chart]) -> bytes:
    """Return the answer, the caveats and all charts as one PDF of one long page."""
    parts = [charts.for_file(chart, charts.LIGHT, 660) for chart in drawn]
    for part in parts:
        part.pop("config")
    told = [view.lede]
    if isinstance(view, OneRun):
        reasons = caveats(view.meta, view.say)
        told += [view.copied, *(f"{c.head} {_plain(c.text)} {c.code}" for c in reasons)]
    lines = [line for text in told for line in [*charts.wrapped(_plain(text), 100), ""]]
    title: charts.Spec = {
        "text": charts.wrapped(_plain(view.headline), 62),
        "subtitle": [view.name, "", *lines],
    }
    title |= {"fontSize": 22, "subtitleFontSize": 12, "subtitleLineHeight": 17, "offset": 24}
    config = {**charts.CONFIG, "background": charts.LIGHT["bg"], "padding": 36}
    empty = {"data": {"values": []}, "mark": "point", "width": 660, "height": 1}
    whole = {"$schema": charts.SCHEMA, "config": config, "title": title, "spacing": 40}
    spec = charts.coloured({**whole, "vconcat": parts or [empty]}, charts.LIGHT)
    return bytes(
        vl_convert.vegalite_to_pdf(spec, vl_version=charts.VEGA_LITE, format_locale=view.say.locale)
    )


def _plain(text: str) -> str:
    """Return a text without the marks of another language, for a picture."""
    return text.striptags() if isinstance(text, markupsafe.Markup) else text


def card(view: OneRun | Comparing) -> bytes:
    """Return one picture of 1200 × 630 to post: the sentence and the figures that matter."""
    headline, say = _plain(view.headline), view.say
    size = next(
        size
        for most, size in ((70, 50), (100, 44), (140, 38), (math.inf, 30))
        if len(headline) < most
    )
    rows = view.level_rows[:5] if isinstance(view, OneRun) else []
    room = 640 if rows else 1080
    verdict = view.meta["validity"]["verdict"] if isinstance(view, OneRun) else ""
    one = view if isinstance(view, OneRun) else view.runs[0]
    about = " · ".join(
        filter(None, (model_text(one.meta), server_text(one.meta), machine_text(one.meta, say)))
    )
    drawing = _environment().from_string(CARD).render(
        t=charts.LIGHT,
        verdict=verdict,
        about=about if isinstance(view, OneRun) else view.name,
        lines=charts.wrapped(headline, int(room / size / 0.5)),
        size=size,
        rows=rows,
        figures=view.figures if isinstance(view, OneRun) else [],
        caveats=_short_caveats(one) if isinstance(view, OneRun) else view.lede,
        date=started(one.meta, say).rpartition(",")[0],
        icon=ICONS.get(verdict, ""),
        say=say,
    )  # fmt: skip
    return bytes(vl_convert.svg_to_png(drawing, scale=1))


def _short_caveats(run: OneRun) -> str:
    """Return the caveats in as many words as a picture has room for."""
    heads = [run.say.caveat(code) or code for code in sorted(run.codes)]
    text, left = "", list(heads)
    while left and len(text) + len(left[0]) < 90:
        text += left.pop(0) + " "
    return text + (run.say("And {n} more.", n=len(left)) if left else "")


# === The page ===


def html_page(view: OneRun | Comparing) -> bytes:
    """Return the page."""
    drawer = Drawer(view.lite, view.say)
    script = ""
    if not view.lite:
        bundle = vl_convert.javascript_bundle(
            "window.vegaEmbed=vegaEmbed", vl_version=charts.VEGA_LITE
        )
        script = f"(()=>{{{bundle}}})();{SCRIPT}{SORTING}".replace("</script", "<\\/script")
    style = style_sheet()
    template = RUN_PAGE if isinstance(view, OneRun) else COMPARE_PAGE
    page = _environment().from_string(BASE_PAGE.replace("{{ CONTENT }}", template)).render(
        view=view,
        style=_ours(style),
        script=_ours(script),
        scripts=_ours(sha256(script) if script else "'none'"),
        styles=_ours(sha256(style)),
        drawer=drawer,
        icons={name: _ours(icon) for name, icon in ICONS.items()},
        say=view.say,
        caveats=caveats,
        meaning=meaning,
        started=started,
    )  # fmt: skip
    return str(page).encode()


def _ours(text: str) -> markupsafe.Markup:
    """Mark a text of this file as HTML."""
    return markupsafe.Markup(text)  # noqa: S704


def sha256(text: str) -> str:
    """Return what a Content-Security-Policy calls a script or a style sheet by."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


class Drawer:
    """Draws the charts of a page: as data for its script, or as pictures when it has none."""

    def __init__(self, lite: bool, say: Sentences = ENGLISH) -> None:
        self._lite, self._say = lite, say
        self._specs = list[charts.Spec]()

    def draw(self, panel: charts.Panel, wide: bool) -> markupsafe.Markup:
        """Return what stands in the panel's place."""
        if not self._lite:
            self._specs.append(panel.spec)
            return markupsafe.Markup(f'<div class="vega" data-spec="{len(self._specs) - 1}"></div>')  # noqa: S704
        spec = {**charts.sized(panel.spec, LITE_WIDTHS[wide]), "config": charts.CONFIG}
        return markupsafe.Markup(_drawn(spec, self._say))  # noqa: S704 (vl-convert escapes the texts in it)

    def data(self) -> markupsafe.Markup:
        """Return the specifications as JSON that ends no element."""
        words = {text: self._say(text) for text in SCRIPT_TEXTS}
        known = {"config": charts.CONFIG, "specs": self._specs, "words": words}
        data = json.dumps({**known, "numbers": self._say.locale}, separators=(",", ":"))
        for sign in "<>&":
            data = data.replace(sign, f"\\u{ord(sign):04x}")
        return markupsafe.Markup(data)  # noqa: S704 (nothing in it can end the element)


def style_sheet() -> str:
    """Return the style sheet with both themes."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in theme.items()) + f"color-scheme:{scheme}"
        for theme, scheme in ((charts.LIGHT, "light"), (charts.DARK, "dark"))
    )
    return (
        f":root{{{light}}}:root[data-theme=dark]{{{dark}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f"{STYLE}@media print{{:root,:root[data-theme=dark],:root:not([data-theme=light])"
        f"{{{light}}}{PRINT}}}"
    )


ICONS = {
    "VALID": '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
    '<circle cx="8" cy="8" r="7.5" fill="currentColor"/>'
    '<path d="M4.5 8.3 7 10.8 11.5 5.6" fill="none" stroke="var(--okbg)" stroke-width="1.8"/>'
    "</svg>",
    "SUSPECT": '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
    '<path d="M8 .8 15.6 14.6H.4Z" fill="currentColor"/>'
    '<path d="M8 5.4V9.8M8 11.3V13" stroke="var(--warnbg)" stroke-width="1.7"/></svg>',
    "INVALID": '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
    '<path d="M4.9.6H11.1L15.4 4.9V11.1L11.1 15.4H4.9L.6 11.1V4.9Z" fill="currentColor"/>'
    '<path d="M5.2 5.2 10.8 10.8M10.8 5.2 5.2 10.8" stroke="var(--badbg)" stroke-width="1.7"/>'
    "</svg>",
}  # fmt: skip

STYLE = """
*{box-sizing:border-box}
html{scroll-padding-top:16px}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 -apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Liberation Sans",sans-serif;font-variant-numeric:tabular-nums lining-nums}
.page{max-width:1216px;margin:0 auto;padding:0 32px}
code,.mono{font-family:ui-monospace,"SF Mono",Consolas,"Liberation Mono",monospace;font-size:.92em}
a{color:inherit}
a:focus-visible,button:focus-visible,input:focus-visible,summary:focus-visible{
outline:2px solid var(--focus);outline-offset:2px}
.skip{position:absolute;left:-999px}.skip:focus{left:16px;top:8px;background:var(--surface)}
header{display:flex;align-items:center;gap:16px;padding:16px 0;border-bottom:1px solid var(--line);
font-size:14px}
header b{font-weight:650}header .kind{color:var(--ink3)}
header nav{margin-left:auto;display:flex;gap:18px;overflow-x:auto}
header nav a{color:var(--ink2);text-decoration:none;white-space:nowrap;padding:2px 0;
min-height:24px}
header nav a:hover{text-decoration:underline}
button{font:inherit;font-size:14px;color:var(--ink);background:var(--surface);min-height:32px;
border:1px solid var(--edge);border-radius:4px;padding:4px 12px;cursor:pointer}
.top{display:flex;flex-wrap:wrap;align-items:center;gap:6px 16px;margin:32px 0 12px;font-size:14px;
color:var(--ink2)}
.verdict{display:inline-flex;align-items:center;gap:7px;border-radius:4px;padding:3px 10px;
font-weight:650;font-size:13px;letter-spacing:.04em;white-space:nowrap}
b.ok{color:var(--ok)}b.bad{color:var(--bad)}.phone{display:none}
.verdict.VALID{color:var(--ok);background:var(--okbg)}
.verdict.SUSPECT{color:var(--warn);background:var(--warnbg)}
.verdict.INVALID{color:var(--bad);background:var(--badbg)}
.means.VALID{color:var(--ok)}.means.SUSPECT{color:var(--warn)}.means.INVALID{color:var(--bad)}
.means{font-weight:650}
h1{font-size:32px;line-height:1.22;font-weight:650;margin:0 0 12px;max-width:26em;
letter-spacing:-.012em;overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:22px;line-height:1.3;font-weight:650;margin:0 0 4px}
h3{font-size:16px;line-height:1.35;font-weight:650;margin:0;overflow-wrap:anywhere}
.lede{font-size:18px;color:var(--ink2);margin:0 0 24px;max-width:44em;overflow-wrap:anywhere}
.note{font-size:13px;color:var(--ink3);margin:0;max-width:70em;overflow-wrap:anywhere}
section{margin-top:56px}section>.note{margin-bottom:16px;max-width:60em}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;color:var(--ink2);text-align:left;vertical-align:bottom;padding:6px 12px 6px 0;
border-bottom:1px solid var(--rule);font-size:13px}
td,tbody th{padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
tbody th{color:var(--ink);font-weight:400;font-size:14px}
.n{text-align:right}th.n,td.n{padding-right:0;padding-left:16px}
.fails td:not(.long){white-space:nowrap}.fails td.long{min-width:9em}
.message{padding-left:16px}.next{margin-top:24px}.against{margin-top:28px}
.against+.note{margin-top:8px}main>.note+h2{margin-top:36px}
.drawn{padding-left:24px}thead .drawn{width:224px}
.flips thead th:first-child{width:34%}.flips thead th:nth-child(2){width:33%}
.sort thead th{position:sticky;top:0;background:var(--bg)}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;min-height:24px;
text-align:inherit}
th button:hover{text-decoration:underline}
th[aria-sort] button{color:var(--ink)}
th[aria-sort=ascending] button::after{content:" ▲"}
th[aria-sort=descending] button::after{content:" ▼"}
small{display:block;font-size:12px;color:var(--ink3);font-weight:400}
.levels{margin:8px 0}.levels td,.levels tbody th{font-size:16px}
.levels tbody th{font-weight:650}
.levels .knee>*{background:var(--sunken)}
.levels .knee>:first-child{box-shadow:inset 3px 0 var(--a);}
.levels tbody th{padding-left:12px}.levels thead th:first-child{padding-left:12px}
.levels td:last-child,.levels th:last-child{padding-right:12px}
.bar{display:inline-block;width:56px;height:9px;margin-left:8px;vertical-align:middle}
.bar rect{fill:var(--a)}
.figures{display:grid;grid-template-columns:repeat(4,1fr);border-top:1px solid var(--rule);
border-bottom:1px solid var(--line);margin:8px 0 16px}
.figures>div{padding:14px 20px;border-left:1px solid var(--line);min-width:0}
.figures>div:first-child{border:0;padding-left:0}
.figures dt{font-size:13px;color:var(--ink2)}
.figures dd{margin:0;font-size:34px;line-height:1.25;font-weight:650;white-space:nowrap}
.figures dd span{font-size:17px;font-weight:400;color:var(--ink2);margin-left:6px}
.figures p{margin:0;font-size:13px;color:var(--ink2)}
.INVALID .figures dd,.INVALID .levels{color:var(--ink3)}
.caveats{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));
gap:14px 28px;margin:20px 0;padding:0;list-style:none;align-items:start}
.caveats li{border-left:3px solid var(--warn);padding:1px 0 1px 12px;font-size:14px;
overflow-wrap:anywhere}
.caveats li.bad{border-color:var(--bad)}.caveats li.note{border-color:var(--edge)}
.caveats li.note{color:var(--ink2)}.caveats code{color:var(--ink3);font-size:12px}
.copy{display:flex;gap:20px;align-items:center;background:var(--sunken);border-radius:4px;
padding:12px 16px;font-size:14px;margin:16px 0}
.copy p{margin:0;flex:1;overflow-wrap:anywhere}
.facts{display:grid;grid-template-columns:repeat(4,1fr);gap:16px 28px;margin:20px 0 0;
font-size:14px}
.facts dt{color:var(--ink3);font-size:13px}.facts dd{margin:0;overflow-wrap:anywhere}
.grid{display:grid;gap:32px 36px}.of-1{grid-template-columns:minmax(0,1fr)}
.of-2{grid-template-columns:repeat(2,minmax(0,1fr))}.of-3{grid-template-columns:repeat(3,minmax(0,1fr))}
#right{grid-template-columns:minmax(0,2fr) minmax(0,1fr)}
.chart{margin:0;min-width:0;display:grid;grid-template-rows:subgrid;grid-row:span 4;row-gap:0}
.wide{display:block;margin:0 0 32px}.cost{grid-row:span 4}.cost table{margin-top:8px}
.plot{margin-top:8px;min-width:0}.vega{width:100%;min-height:40px}
.plot svg{max-width:100%;height:auto;display:block}
.panel{display:flex;justify-content:space-between;gap:12px;font-size:13px;margin-top:10px}
.panel span{color:var(--ink3)}
details{margin-top:8px;font-size:13px;color:var(--ink2)}
summary{cursor:pointer;min-height:24px;color:var(--ink2)}
details table{font-size:13px;margin-top:4px}details .scroll{max-height:360px;overflow:auto}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13px;color:var(--ink2);margin:4px 0 12px}
.legend span{display:inline-flex;align-items:center;gap:7px}
.tools{display:flex;flex-wrap:wrap;gap:8px;margin:16px 0}
.tools input{font:inherit;font-size:14px;min-height:32px;padding:4px 10px;color:var(--ink);
background:var(--surface);border:1px solid var(--edge);border-radius:4px;width:240px;max-width:100%}
.tools button[aria-pressed=true]{background:var(--ink);color:var(--bg);border-color:var(--ink)}
.tools button{border-radius:16px}
.board{font-size:14px;gap:4px 18px;margin:12px 0 0}
.board .side{margin-left:auto;display:flex;gap:14px}
.answers{list-style:none;margin:0;padding:0}
.answers li{display:grid;grid-template-columns:180px minmax(0,1fr);gap:4px 28px;padding:14px 0;
border-top:1px solid var(--line);font-size:14px}
.answers li[hidden]{display:none}
.answers .who{color:var(--ink3);font-size:13px;overflow-wrap:anywhere}
.answers .who b{display:block;color:var(--ink)}
.answers h3{font-size:14px;white-space:pre-wrap;max-height:12em;overflow:auto}
.answers .said{background:var(--sunken);border-radius:4px;padding:8px 12px;margin:8px 0 4px;
white-space:pre-wrap;overflow-wrap:anywhere;max-height:16em;overflow:auto;color:var(--ink2)}
.answers p{margin:0;font-size:13px;color:var(--ink2)}
.keys{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));column-gap:36px;margin:8px 0}
.keys>div{display:flex;justify-content:space-between;gap:16px;border-bottom:1px solid var(--line);
padding:7px 0;font-size:14px}
.keys dt{color:var(--ink2)}.keys dd{margin:0;text-align:right;overflow-wrap:anywhere}
footer{margin:56px 0 32px;padding-top:16px;border-top:1px solid var(--line);font-size:13px;
color:var(--ink3);overflow-wrap:anywhere}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--bg);
font-size:13px;padding:4px 9px;border-radius:4px;max-width:320px}
#tip[hidden]{display:none}
.flip{white-space:pre-wrap;font-size:12px;color:var(--ink3);display:block;max-height:8em;
overflow:auto}
.lite .page{max-width:784px}.lite .plot svg{width:100%}
.lite .grid,.lite #right{grid-template-columns:1fr 1fr}
@media (max-width:720px){
.page{padding:0 16px}section{margin-top:44px}h1{font-size:25px}.lede{font-size:17px}
header{flex-wrap:wrap}header nav{order:3;width:100%;margin:0}header nav a{min-height:44px;
display:inline-flex;align-items:center}
button,.tools input{min-height:44px}
.grid,#right,.lite .grid,.lite #right,.facts,.keys{grid-template-columns:minmax(0,1fr)}
.chart{display:block;margin-bottom:20px}
.figures{grid-template-columns:1fr 1fr}.figures>div{padding:12px}.figures>div:nth-child(odd){
border-left:0;padding-left:0}.figures>div:nth-child(n+3){border-top:1px solid var(--line)}
.figures dd{font-size:28px}.figures dd span{font-size:14px}
.answers li{grid-template-columns:minmax(0,1fr)}
.cards thead{position:absolute;left:-9999px}
.cards,.cards tbody,.cards tr,.cards td,.cards th{display:block}
.cards tr{border:1px solid var(--line);border-radius:4px;padding:6px 14px;margin:0 0 12px;
background:var(--surface)}
.levels .knee>*{background:none}.levels .knee>:first-child{box-shadow:none}
.cards tr.knee{border-left:3px solid var(--a)}
.cards tbody th,.levels tbody th{font-weight:650;font-size:16px;padding:8px 0;border:0}
.cards td,.cards td.n{display:flex;justify-content:space-between;gap:14px;padding:6px 0;
text-align:right;border:0;border-top:1px solid var(--line)}
.cards td::before{content:attr(data-of);color:var(--ink2);text-align:left;font-size:14px}
.fails td:not(.long){white-space:normal}.fails td.long{min-width:0}
.cards td.long{display:block;text-align:left}.cards td.long::before{display:block}
.phone{display:inline}.cards .bar{display:none}
.cards small{display:inline-block;margin-left:6px;white-space:nowrap}
.copy{display:block}.copy button{margin-top:10px}
}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
"""
PRINT = """
@page{size:A4;margin:12mm}
body{font-size:12px}header nav,button,.tools,.skip,#tip,details:not([open]){display:none}
.page{max-width:none;padding:0}section{margin-top:28px}h1{font-size:26px}
th button{display:inline}.sort thead th{position:static}
.knee>*,.copy{-webkit-print-color-adjust:exact;print-color-adjust:exact}
figure,tr,.answers li,.caveats li,.figures,.facts,.copy{break-inside:avoid}
thead{display:table-header-group}h2,figcaption,section>.legend,section>.note{break-after:avoid}
.answers .said,.answers h3,.flip,details .scroll{max-height:none;
overflow:visible}
a[href^=http]::after{content:" (" attr(href) ")"}
"""

# Makes each table of the class "sort" sortable by its headers. Numbers are read as they stand
# there, with their units; a cell that says "not measured" comes last either way.
SORTING = r"""
(() => {
"use strict";
const plain = cell => {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll("small, .bar").forEach(part => part.remove());
  return copy.textContent.trim();
};
const sizes = {ms: 1, s: 1000, min: 60000};
const german = document.documentElement.lang === "de";
const amount = shown => {
  const text = german ? shown.replace(/[.,]/g, sign => sign === "," ? "." : ",") : shown;
  const found = /^\(?([-\u2212+]?)([\d,]*\.?\d+)(?![\d-])/.exec(text);
  if (!found) return NaN;
  const unit = /\d\s(ms|s|min)\)?$/.exec(text);
  const size = Number(found[2].replaceAll(",", "")) * (unit ? sizes[unit[1]] : 1);
  return found[1] === "-" || found[1] === "\u2212" ? -size : size;
};
const sort = (table, column, down) => {
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => [plain(row.cells[column]), row]);
  const empty = ([text]) => text === "\u2013" || text === "";
  const known = rows.filter(row => !empty(row));
  const numeric = known.every(([text]) => !Number.isNaN(amount(text)));
  const order = (a, b) => numeric ? amount(a) - amount(b) : a.localeCompare(b);
  known.sort(([a], [b]) => down ? order(b, a) : order(a, b));
  body.append(...[...known, ...rows.filter(empty)].map(([, row]) => row));
};
document.querySelectorAll("table.sort").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    });
  });
});
})();
"""
SCRIPT_TEXTS = ("Copied", "Selected", "No answer matches “{text}”.")
# Shows what a mark stands for, in the element `tip`.
TOOLTIP = r"""
const showTip = (_handler, event, _item, value) => {
  const text = value == null ? "" : String(value.t ?? value);
  tip.hidden = !text;
  tip.textContent = text;
  if (!text || !event) return;
  const place = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - place.width - 8)) + "px";
  tip.style.top = Math.max(4, event.clientY - place.height - 10) + "px";
};
"""
SCRIPT = (
    r"""
(() => {
"use strict";
const data = JSON.parse(document.getElementById("specs").textContent);
const tip = document.getElementById("tip");
"""
    + TOOLTIP
    + r"""
const options = {actions: false, renderer: "svg", ast: true, config: data.config,
  defaultStyle: false, tooltip: showTip, mode: "vega-lite",
  formatLocale: data.numbers ?? undefined};
const plots = [...document.querySelectorAll(".vega")];
Promise.all(plots.map(async plot => {
  await vegaEmbed(plot, data.specs[+plot.dataset.spec], options);
  plot.dataset.drawn = "yes";
})).then(() => { document.documentElement.dataset.drawn = "yes"; });
const root = document.documentElement;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme:dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
const copy = document.getElementById("copy");
copy?.addEventListener("click", async () => {
  const text = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(text.textContent);
    copy.textContent = data.words["Copied"];
  } catch {
    getSelection().selectAllChildren(text);
    copy.textContent = data.words["Selected"];
  }
});
const search = document.getElementById("search");
const entries = [...document.querySelectorAll(".answers li")];
const texts = entries.map(entry => entry.textContent.toLowerCase());
const buttons = [...document.querySelectorAll(".tools button[data-kind]")];
let kind = "";
const filter = () => {
  const wanted = search.value.toLowerCase();
  let found = 0;
  entries.forEach((entry, place) => {
    const fits = (!kind || entry.dataset.kinds.split(" ").includes(kind))
      && texts[place].includes(wanted);
    entry.hidden = !fits;
    found += fits;
  });
  buttons.forEach(button => button.setAttribute("aria-pressed", button.dataset.kind === kind));
  const none = document.getElementById("none");
  none.hidden = found > 0;
  none.querySelector("span").textContent =
    data.words["No answer matches “{text}”."].replace("{text}", () => search.value);
};
search?.addEventListener("input", filter);
buttons.forEach(button => button.addEventListener("click", () => {
  kind = button.dataset.kind;
  filter();
}));
document.getElementById("clear")?.addEventListener("click", () => {
  kind = search.value = "";
  filter();
  search.focus();
});
})();
"""
)

BASE_PAGE = """\
<!doctype html>
<html lang="{{ say.language }}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {{ scripts }}; \
style-src {{ styles }}; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{{ view.name }} · llm-stresstest</title>
<style>{{ style }}</style>
</head>
{% macro line(key) %}<svg width="22" height="12" aria-hidden="true">
{% if key.shape == "line" %}<path d="M0 6H22" stroke="{{ key.colour }}" stroke-width="2.5"/>
{% elif key.shape == "dash" %}
<path d="M0 6H22" stroke="{{ key.colour }}" stroke-width="2.5" stroke-dasharray="6 3"/>
{% elif key.shape == "thin" %}<rect y="4" width="22" height="4" fill="{{ key.colour }}"/>
{% elif key.shape == "hollow" %}
<rect x="1" y="2" width="20" height="8" fill="none" stroke="{{ key.colour }}"/>
{% elif key.shape == "cross" %}
<path d="M6 1 16 11M16 1 6 11" stroke="{{ key.colour }}" stroke-width="2.4"/>
{% elif key.shape == "triangle" %}
<path d="M11 1 17 11H5Z" fill="none" stroke="{{ key.colour }}" stroke-width="1.6"/>
{% elif key.shape == "shade" %}<rect width="22" height="12" fill="{{ key.colour }}" opacity=".18"/>
{% else %}<rect width="22" height="12" fill="{{ key.colour }}"/>{% endif %}
</svg>{% endmacro %}
{% macro legend(keys) %}
{% if keys %}
<p class="legend">
{% for key in keys %}
<span>{{ line(key) }}{{ key.label }}</span>
{% endfor %}
</p>
{% endif %}
{% endmacro %}
{% macro chart(c, wide=False) %}
{% if c.panels %}
<figure class="chart{{ ' wide' if wide }}" id="chart-{{ c.name }}">
<figcaption><h3>{{ c.title }}</h3></figcaption>
<div><p class="note">{{ c.note }}</p>{{ legend(c.legend) }}</div>
<div class="plot">
{% for panel in c.panels %}
{% if panel.label %}<p
class="panel"><b>{{ panel.label }}</b><span>{{ panel.note }}</span></p>{% endif %}
<div role="img" aria-label="{{ panel.label or c.title }}. {{ panel.note or c.note }}">
{{ drawer.draw(panel, wide) }}</div>
{% endfor %}
</div>
{% if c.rows %}
<details><summary>{{ say("Show the data as a table") }}</summary><div class="scroll">
{% if c.table_note %}<p class="note">{{ c.table_note }}</p>{% endif %}
<table class="sort"><thead><tr>
{% for name in c.headers %}<th{{ ' class=n' if loop.index0 }}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in c.rows %}
<tr>{% for cell in row %}<td{{ ' class=n' if loop.index0 }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>
{% else %}<span></span>{% endif %}
</figure>
{% elif c.title %}
<p class="note">{{ c.title }}{{ '' if c.title.endswith('.') else '.' }}</p>
{% endif %}
{% endmacro %}
{% macro row(found) %}
<div class="grid of-{{ [found|length, 1]|max }}">
{% for c in found %}{{ chart(c) }}{% endfor %}
</div>
{% endmacro %}
{% macro said(pair) %}<span>{{ pair[0] }}{% if pair[1] %}<small>{{ pair[1] }}</small>{% endif %}\
</span>{% endmacro %}
{% macro notes(found) %}
{% if found %}
<ul class="caveats">
{% for caveat in found %}
<li class="{{ caveat.tone }}"><b>{{ caveat.head }}</b> {{ caveat.text }} \
<code>{{ caveat.code }}</code></li>
{% endfor %}
</ul>
{% endif %}
{% endmacro %}
{% macro head(text) %}{% for part in say(text).split("|") %}{{ part }}\
{% if not loop.last %}<br>{% endif %}{% endfor %}{% endmacro %}
{% macro label(text) %}{{ say(text).replace("|", " ") }}{% endmacro %}
{% macro badge(verdict) %}<span class="verdict {{ verdict }}">{{ icons.get(verdict, "") }}\
{{ verdict }}</span>{% endmacro %}
<body{{ ' class=lite' if view.lite }}>
<a class="skip" href="#answer">{{ say("Skip to the answer") }}</a>
<div class="page">
{{ CONTENT }}
<footer>{{ view.foot }}</footer>
</div>
{% if not view.lite %}
<div id="tip" role="presentation" hidden></div>
<noscript><p class="page">{{ say("The charts are drawn by a script in this page; \
without one, make the page with --lite.") }}</p></noscript>
<script type="application/json" id="specs">{{ drawer.data() }}</script>
<script>{{ script }}</script>
{% endif %}
</body>
</html>
"""

RUN_PAGE = """\
<header><b>llm-stresstest</b><span class="kind">{{ say("report") }}</span>
<nav aria-label="{{ say("Sections") }}">
<a href="#answer">{{ say("Answer") }}</a>
{% if view.load_charts %}<a href="#load">{{ say("Levels") }}</a>{% endif %}
<a href="#latency">{{ say("Latency") }}</a><a href="#time">{{ say("Over time") }}</a>
{% if view.failures %}<a href="#failures">{{ say("Failures") }}</a>{% endif %}
<a href="#quality">{{ say("Quality") }}</a><a href="#answers">{{ say("Answers") }}</a>\
<a href="#config">{{ say("Configuration") }}</a>
</nav>
{% if not view.lite %}<button id="theme" type="button">{{ say("Light / dark") }}</button>{% endif %}
</header>
<main id="answer" class="{{ view.meta.validity.verdict }}">
{% set verdict = view.meta.validity.verdict %}
<p class="top">{{ badge(verdict) }}<span
class="means {{ verdict }}">{{ meaning(view.meta, say) }}</span>
<b class="mono">{{ view.name }}</b><span>{{ started(view.meta, say) }}</span>
<span>{{ view.duration }}</span></p>
{% if verdict == "INVALID" %}{{ notes(caveats(view.meta, say)) }}{% endif %}
<h1>{{ view.headline }}</h1>
<p class="lede">{{ view.lede }}</p>
{% if view.levels %}
<table class="levels cards sort">
<thead><tr><th>{{ head("Requests|at once") }}</th>
<th class="n">{{ head("Total,|tokens/s ↑") }}</th>
<th class="n">{{ head("One user,|tokens/s ↑") }}</th>
<th class="n">{{ head("First token (TTFT),|median ↓") }}</th>
<th class="n">{{ head("Whole answer (E2E),|median ↓") }}</th>
<th class="n">{{ head("Within the|limits ↑") }}</th>
<th class="n">{{ head("Right|answers ↑") }}</th></tr></thead>
<tbody>
{% for level in view.level_rows %}
<tr{{ ' class=knee' if level.knee }}><th scope="row">{{ level.at_once }}<span
class="phone">{{ say(" at once") }}</span>
{% if level.failed %}<small>{{ say("{n} failed", n=level.failed) }}</small>{% endif %}</th>
<td class="n" data-of="{{ label("Total,|tokens/s ↑") }}"><span>{{ level.total }}<svg class="bar"
aria-hidden="true"><rect width="{{ level.bar }}%" height="9"/></svg></span></td>
<td class="n" data-of="{{ label("One user,|tokens/s ↑") }}">{{ level.one }}</td>
<td class="n" data-of="{{ label("First token (TTFT),|median ↓") }}">{{ said(level.ttft) }}</td>
<td class="n" data-of="{{ label("Whole answer (E2E),|median ↓") }}">{{ said(level.e2e) }}</td>
<td class="n" data-of="{{ label("Within the|limits ↑") }}">{{ level.within }}</td>
<td class="n" data-of="{{ label("Right|answers ↑") }}">{{ said(level.right) }}</td></tr>
{% endfor %}
</tbody></table>
<p class="note">{{ view.level_note }}</p>
{% else %}
<dl class="figures">
{% for figure in view.figures %}
<div><dt>{{ figure.label }}</dt><dd>{{ figure.value }}{% if figure.unit %}\
<span>{{ figure.unit }}</span>{% endif %}</dd>
<p>{{ figure.note }}</p></div>
{% endfor %}
</dl>
<p class="note">{{ view.not_measured|join(" ") }}</p>
{% endif %}
{% if verdict != "INVALID" %}{{ notes(caveats(view.meta, say)) }}{% endif %}
<div class="copy"><p id="copied">{{ view.copied }}</p>
{% if not view.lite %}<button id="copy" type="button">{{ say("Copy") }}</button>{% endif %}</div>
<dl class="facts">
{% for name, text in view.facts %}<div><dt>{{ name }}</dt><dd>{{ text }}</dd></div>{% endfor %}
</dl>
{% if view.load_charts %}
<section id="load"><h2>{{ say("How load changes it") }}</h2>
<p class="note">{{ say("One point a level. Bars: 95 % interval.") }}</p>
{{ row(view.load_charts) }}
</section>
{% endif %}
<section id="latency"><h2>{{ say("Latency") }}</h2>
{% if view.latency_charts %}
<p class="note">{{ say("How many of the requests (up) were done within a time (right). A curve \
further left is faster.") }} \
{% if view.levels|length > 1 %}{{ say("Thick bars: 95 % interval of each median.") }}\
{% else %}{{ say("Shaded: 95 % band for the whole curve.") }}{% endif %}</p>
{{ legend(view.level_keys) }}
{{ row(view.latency_charts) }}
{% if not view.levels %}
<table class="cards next"><thead><tr><th></th>
{% for name in view.latency_heads %}<th class="n">{{ name }}</th>{% endfor %}
</tr></thead><tbody>
{% for cells in view.latency_rows %}
<tr><th scope="row">{{ cells[0] }}</th>
{% for cell in cells[1:] %}
<td class="n" data-of="{{ view.latency_heads[loop.index0] }}">{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endif %}
{% else %}
<p class="note">{{ say("No chart: no request succeeded, so there is no latency to show.") }}</p>
{% endif %}
</section>
<section id="time"><h2>{{ say("Over time") }}</h2>
{{ legend(view.level_keys) }}
{{ chart(view.time_chart, True) }}
{{ chart(view.lane_chart, True) }}
</section>
{% if view.failures %}
<section id="failures"><h2>{{ say("Failures") }}</h2><p class="note">{{ view.failure_words }}</p>
<table class="cards sort fails"><thead><tr><th>{{ say("Sent after") }}</th>
<th>{{ say("Kind") }}</th><th class="n">HTTP</th>
<th class="message">{{ say("Message") }}</th><th>{{ say("Question") }}</th><th
class="n">{{ say("Failed after") }}</th></tr></thead><tbody>
{% for f in view.failures[:50] %}
<tr><td data-of="{{ say("Sent after") }}">{{ f.sent }}</td><td
data-of="{{ say("Kind") }}"><code>{{ f.kind }}</code></td>
<td class="n" data-of="HTTP">{{ f.http }}</td><td
class="long message">{{ f.message }}</td>
<td class="long">{{ f.question }}</td><td class="n"
data-of="{{ say("Failed after") }}">{{ f.after }}</td></tr>
{% endfor %}
</tbody></table></section>
{% endif %}
{% if view.aggregate.ok %}
<section id="length"><h2>{{ say("Prompt and answer length") }}</h2>
<p class="note">{{ say("Each request is a point.") }}</p>
{{ legend(view.level_keys) }}
{{ row(view.length_charts) }}
</section>
{% endif %}
<section id="quality"><h2>{{ say("Quality") }}</h2><p class="note">{{ view.quality_note }}</p>
{% if view.quality_chart.panels %}
<div class="grid" id="right">
{{ chart(view.quality_chart) }}
<div class="cost"><h3>{{ say("What a right answer costs") }}</h3>
<p class="note">{{ say("By requests at once. “–” is not measured.") }}</p>
<table><thead><tr><th>{{ say("At once") }}</th><th class="n">{{ say("Right answers/s ↑") }}</th>
<th class="n">{{ say("Tokens each ↓") }}</th><th class="n">{{ say("Wh per 1,000 ↓") }}</th><th
class="n">{{ say("Price each ↓") }}</th></tr></thead><tbody>
{% for cells in view.cost_rows %}
<tr>{% for cell in cells %}<td{{ ' class=n' if loop.index0 }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</div>
{% else %}{{ chart(view.quality_chart) }}{% endif %}
</section>
<section id="answers"><h2>{{ say("Answers to read") }}</h2>
{% if view.entries or view.failures %}
<p class="note">{{ say("The slowest, the wrong and the failed, one entry a question; texts are cut \
at 3,000 characters, the results file has all.") }}</p>
{% if not view.lite %}
<div class="tools"><input id="search" type="search" \
aria-label="{{ say("Search questions and answers") }}" \
placeholder="{{ say("Search questions and answers") }}">
{% for kind, word, count in view.filters %}
<button type="button" data-kind="{{ kind }}"
aria-pressed="{{ 'false' if kind else 'true' }}">{{ word }} {{ count }}</button>
{% endfor %}
</div>
<p id="none" hidden><span></span> <button id="clear" \
type="button">{{ say("Show all") }}</button></p>
{% endif %}
<ul class="answers">
{% for e in view.entries %}
<li data-kinds="{{ e.kinds|join(' ') }}"><div class="who"><b>{{ e.head }}</b>{{ e.category }}\
{{ " · " if e.category }}{{ e.took }}<br><code>{{ e.id }}</code></div>
<div><h3>{{ e.question }}</h3>
{% if e.reasoning %}<details><summary>{{ say("Reasoning") }}</summary><div
class="said">{{ e.reasoning }}</div></details>{% endif %}
<div class="said">{{ e.answer or say("(empty)") }}</div><p>{{ e.why }}</p></div></li>
{% endfor %}
{% for f in view.failures %}
<li data-kinds="failed"><div
class="who"><b>{{ say("Failed") }}</b>{{ f.kind }} · {{ f.after }}<br><code>{{ f.id }}</code></div>
<div><h3>{{ f.question }}</h3>
{% if f.arrived %}<div
class="said">{{ f.arrived }}</div>{% endif %}<p>{{ f.message }}</p></div></li>
{% endfor %}
</ul>
{% else %}<p class="note">{{ say("No answer came, and no request failed.") }}</p>{% endif %}
</section>
<section id="config"><h2>{{ say("Configuration") }}</h2>
<p class="note">{{ say("What differs from the defaults.") }}</p>
<dl class="keys">
{% for key, value in view.changed_keys %}
<div><dt>{{ key }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
<details><summary>{{ say("Show all {n} keys", n=view.all_keys|length) }}</summary>
<dl class="keys">
{% for key, value in view.all_keys %}<div><dt>{{ key }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl></details>
<p class="note">{{ say("Recompute every number:") }} <code>{{ view.look_up }}</code></p>
</section>
</main>
"""

COMPARE_PAGE = """\
<header><b>llm-stresstest</b><span class="kind">{{ say("report") }}</span>
<nav aria-label="{{ say("Sections") }}"><a href="#answer">{{ say("Verdict") }}</a>\
<a href="#latency">{{ say("Latency") }}</a>
<a href="#time">{{ say("Over time") }}</a>\
<a href="#flips">{{ say("Answers that changed") }}</a></nav>
{% if not view.lite %}<button id="theme" type="button">{{ say("Light / dark") }}</button>{% endif %}
</header>
<main id="answer">
<p class="top"><span>{{ say("{n} runs, {date} and later", n=view.runs|length, \
date=started(view.runs[0].meta, say)) }}</span></p>
<h1>{{ view.headline }}</h1>
<p class="lede">{{ view.lede }}</p>
<table class="cards"><thead><tr><th>{{ say("Run") }}</th>
<th>{{ say("Verdict") }}</th><th class="n">{{ say("Answers") }}</th>
<th class="n">{{ say("Failed") }}</th><th class="n">{{ say("Date") }}</th></tr></thead><tbody>
{% for run in view.run_rows %}
<tr><th scope="row"><b>{{ run.label }}</b> {{ line(run.key) }} <span
class="mono">{{ run.name }}</span></th>
<td data-of="{{ say("Verdict") }}">{{ badge(run.meta.validity.verdict) }}</td><td class="n"
data-of="{{ say("Answers") }}">{{ run.ok }}</td>
<td class="n" data-of="{{ say("Failed") }}">{{ run.failed }}</td><td class="n"
data-of="{{ say("Date") }}">{{ run.date }}</td></tr>
{% endfor %}
</tbody></table>
{% if view.changed %}
<table class="cards next"><thead><tr><th>{{ say("What changed") }}</th>
{% for label in view.labels %}<th>{{ label }}</th>{% endfor %}</tr></thead><tbody>
{% for key, values in view.changed %}
<tr><th scope="row"><code>{{ key }}</code></th>
{% for value in values %}<td
data-of="{{ view.labels[loop.index0] }}">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endif %}
{% for table in view.tables %}
{% if table.refused %}
<section><h2>{{ say("{run} is not compared with A", run=table.label) }}</h2>
<ul class="caveats">{% for line in table.refused %}<li class="bad">{{ line }}</li>{% endfor %}</ul>
<p class="note">\
{{ say("The curves below are drawn all the same; no verdict stands on them.") }}</p></section>
{% else %}
<table class="cards against"><thead><tr>
<th>{{ say("{run} against A", run=table.label) }}</th><th class="n">A</th>
<th class="n">{{ table.label }}</th><th
class="n">{{ say("Difference") }}<small>{{ say("95 % over all rows") }}</small></th>
<th class="drawn">{{ say("−50 % to +50 %") }}
<small>{{ say("shaded: the same within the margin") }}</small></th>
<th>{{ say("Verdict") }}</th></tr></thead><tbody>
{% for line in table.rows %}
{% set cells = line.cells %}{% set d = line.drawing %}
<tr><th scope="row">{{ cells.name }}<small>{{ cells.middle }}</small></th>
<td class="n" data-of="A">{{ cells.a }}</td><td class="n"
data-of="{{ table.label }}">{{ cells.b }}</td>
<td class="n" data-of="{{ say("Difference") }}"><span><b>{{ cells.change }}</b>\
<small>{{ cells.interval }}</small></span></td>
<td class="drawn">{% if d %}<svg width="200" height="24" viewBox="0 0 200 24"
role="img" aria-label="{{ cells.interval }}">
<rect x="{{ d.left }}" width="{{ d.shade }}" height="24" fill="var(--sunken)"/>
<path d="M100 0V24" stroke="var(--ink3)"/>
<rect x="{{ d.low }}" y="9" width="{{ d.width }}" height="6" fill="var(--b)" fill-opacity=".4"/>
<circle cx="{{ d.middle }}" cy="12" r="5" fill="var(--b)"/>
{% if d.far_left %}<path d="M9 6 2 12 9 18" fill="none" stroke="var(--b)"
stroke-width="2"/>{% endif %}
{% if d.far_right %}<path d="M191 6 198 12 191 18" fill="none" stroke="var(--b)"
stroke-width="2"/>{% endif %}
</svg>{% endif %}</td>
<td data-of="{{ say("Verdict") }}"><span><b
class="{{ line.better }}">{{ cells.verdict }}</b><small>{{ cells.needs }}</small></span></td></tr>
{% endfor %}
</tbody></table>
<p class="note">{{ table.legend }}</p>
{% if table.levels %}
<h2>{{ say("{run} against A, level by level", run=table.label) }}</h2>
<p class="note">{{ say("Differences with their 95 % intervals, which hold over all rows and \
levels at once.") }}</p>
<table class="cards sort"><thead><tr><th>{{ say("At once") }}</th>
{% for name in table.level_heads %}<th class="n">{{ name }}</th>{% endfor %}
</tr></thead><tbody>
{% for level, row in table.levels %}
<tr><th scope="row">{{ level }}<span class="phone">{{ say(" at once") }}</span></th>
{% for cells in row %}
<td class="n" data-of="{{ table.level_heads[loop.index0] }}"><span>{{ cells.change }}\
<small>{{ cells.interval }}</small><small>{{ cells.verdict }}</small></span></td>
{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endif %}
{% endif %}
{% if table.caveats %}
<ul class="caveats">{% for line in table.caveats %}<li
class="warn-line">{{ line }}</li>{% endfor %}</ul>
{% endif %}
{% endfor %}
<section id="latency"><h2>{{ say("Latency") }}</h2>
<p class="note">{{ say("How many of the requests (up) were done within a time (right). A curve \
further left is faster.") }} {{ say("Thick bars: 95 % interval of each median.") }}</p>
{{ legend(view.legend) }}
{% for group in view.latency_charts|batch(3) %}{{ row(group) }}{% else %}
<p class="note">{{ say("No chart: at least one of the runs has no answer.") }}</p>{% endfor %}
</section>
<section id="time"><h2>{{ say("Over time") }}</h2>
{{ legend(view.legend) }}
{% for c in view.time_charts %}{{ chart(c, True) }}{% endfor %}
</section>
<section id="flips"><h2>{{ say("Answers that changed their grade") }}</h2>
{% for table in view.tables if not table.refused %}
<p class="note">{{ say("{run} against A: {gained} became right, {lost} became wrong.", \
run=table.label, gained=table.gained, lost=table.lost) }}</p>
{% if table.flips %}
<table class="cards flips"><thead><tr><th>{{ say("Question") }}</th><th>A</th>
<th>{{ table.label }}</th></tr></thead><tbody>
{% for flip in table.flips %}
<tr><th scope="row">{{ flip.question }}</th>
{% for answer in flip.answers %}
<td class="long"><b class="{{ 'ok' if flip.right[loop.index0] else 'bad' }}">\
{{ say("✓ right" if flip.right[loop.index0] else "✕ wrong") }}</b>
<span class="flip">{{ answer }}</span></td>
{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endif %}
{% else %}<p class="note">{{ say("Nothing was compared.") }}</p>{% endfor %}
</section>
</main>
"""

CARD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="630" viewBox="0 0 1200 630" \
font-family="Arial, Liberation Sans, sans-serif">
<rect width="1200" height="630" fill="{{ t.surface }}"/>
{% if verdict %}
{% set tone = {"VALID": "ok", "SUSPECT": "warn"}.get(verdict, "bad") %}
<rect x="60" y="52" width="150" height="40" rx="3" fill="{{ t[tone + 'bg'] }}"/>
<g transform="translate(71 62)" color="{{ t[tone] }}">
{% if verdict == "VALID" %}<circle cx="10" cy="10" r="10" fill="{{ t.ok }}"/><path
d="M5 10 9 14 15 6" stroke="{{ t.okbg }}" stroke-width="2.4" fill="none"/>
{% elif verdict == "SUSPECT" %}<path d="M10 0 20.500 19H-.5Z" fill="{{ t.warn }}"/><path
d="M10 6.500V12.500M10 14.500V17" stroke="{{ t.warnbg }}" stroke-width="2.200"/>
{% else %}<path d="M6 0H14L20 6V14L14 20H6L0 14V6Z" fill="{{ t.bad }}"/><path
d="M6 6 14 14M14 6 6 14" stroke="{{ t.badbg }}" stroke-width="2.400"/>{% endif %}
</g>
<text x="98" y="78" font-size="18" font-weight="bold" letter-spacing="1"
fill="{{ t[tone] }}">{{ verdict }}</text>
{% endif %}
<text x="{{ 230 if verdict else 60 }}" y="80" font-size="21"
fill="{{ t.ink2 }}">{{ about[:88] }}</text>
{% for line in lines %}
<text x="60" y="{{ 122 + size + loop.index0 * size * 1.15 }}" font-size="{{ size }}"
font-weight="bold" fill="{{ t.ink }}">{{ line }}</text>
{% endfor %}
{% if rows %}
<g font-size="17" font-weight="bold" fill="{{ t.ink3 }}">
{% set (at, once), (one, user) = say("At|once").split("|"), say("One|user").split("|") %}
<text x="740" y="133">{{ at }}</text><text x="740" y="155">{{ once }}</text><text x="850" y="155"
text-anchor="end">{{ say("Total") }}</text>
<text x="1030" y="133" text-anchor="end">{{ one }}</text><text x="1030" y="155"
text-anchor="end">{{ user }}</text></g>
<path d="M740 165H1140" stroke="{{ t.rule }}"/>
{% for row in rows %}
{% set y = 194 + loop.index0 * 42 %}
<g font-size="21" fill="{{ t.ink }}"><text x="740" y="{{ y }}"
font-weight="bold">{{ row.at_once }}</text>
<text x="850" y="{{ y }}" text-anchor="end">{{ row.total }}</text>
<rect x="860" y="{{ y - 15 }}" width="{{ row.bar }}" height="14" fill="{{ t.a }}"/>
<text x="1030" y="{{ y }}" text-anchor="end">{{ row.one }}</text>
<rect x="1040" y="{{ y - 15 }}" width="{{ row.bar_one }}" height="14" fill="{{ t.b }}"/></g>
<path d="M740 {{ y + 14 }}H1140" stroke="{{ t.line }}"/>
{% endfor %}
<text x="1140" y="{{ 194 + rows|length * 42 }}" font-size="15" text-anchor="end"
fill="{{ t.ink3 }}">{{ say("tokens/s") }}</text>
{% endif %}
<path d="M60 420H1140" stroke="{{ t.rule }}" stroke-width="2"/>
{% for figure in figures %}
{% set x = 60 + loop.index0 * 275 %}
<text x="{{ x }}" y="452" font-size="18" fill="{{ t.ink2 }}">{{ figure.label }}</text>
<text x="{{ x }}" y="508" font-size="50" font-weight="bold"
fill="{{ t.ink }}">{{ figure.value }}<tspan font-size="24" font-weight="normal"
fill="{{ t.ink2 }}" dx="10">{{ figure.unit }}</tspan></text>
<text x="{{ x }}" y="536" font-size="16" fill="{{ t.ink2 }}">{{ figure.note }}</text>
{% endfor %}
<path d="M60 560H1140" stroke="{{ t.line }}"/>
<text x="60" y="593" font-size="17" fill="{{ t.ink2 }}">{{ caveats[:110] }}</text>
<text x="1140" y="593" font-size="17" text-anchor="end"
fill="{{ t.ink2 }}">llm-stresstest, {{ date }}</text>
</svg>
"""
