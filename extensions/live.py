"""Follow a run while it goes on: what its journal says, as plain data, and a view in the terminal.

    run = LiveRun(Path("results/NAME.journal"))
    while True:
        run.refresh()           # reads what is new, from where it was left
        run.view()              # what is known now: JSON-able, numbers and codes, no sentences
    unfinished(folder)          # the journals of a folder

`NAME --live` draws it in a process of its own (`main`), which only reads the journal: the process
that measures is slowed by nothing. `live NAME` does so for a run that was started elsewhere. Where
memory would grow with the run, figures are reduced as they come (see `Values`, `Points`, `Beats`);
100,000 requests take as much as 10,000.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
import typing
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

import llm_stresstest as st

if TYPE_CHECKING:
    from rich.text import Text

# === Following a journal ===

NS_PER_S = 1_000_000_000
RECENT_S = 10.0  # "now" are the answers that ended so recently
SHOWN_CHARS = 500  # of a text


def unfinished(folder: Path) -> list[Path]:
    """Return the journals of a folder: of runs that go on, and of those that were not finished."""
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.glob("*.journal") if path.is_file())
    return []


# What the lines of a journal must hold to be counted. A line of another program, or of another
# version of this one, may have a good checksum and yet anything in it.
Whole = Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)]
Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_BOUNDED: Mapping[Any, Any] = {
    int: Whole, int | None: Whole | None, float: Number, float | None: Number | None,
}  # fmt: skip


def _record_type() -> type[msgspec.Struct]:
    """Return what a result's record must be like: the fields of `Result`, and their times in ms."""
    hints = typing.get_type_hints(st.Result)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        (f"{name}_ms", Number | None)
        for name in ("sent", "ttft", "end", "answer_ttft", "scheduled", "connect")
    ]
    fields += [("error", st.Failure | None), ("client_error_ms", Number | None, None)]
    for field in dataclasses.fields(st.Result):
        if field.name in ("error", "raw_answer") or field.name.endswith("_ns"):
            continue
        kind = _BOUNDED.get(hints[field.name], hints[field.name])
        has_none = field.default is dataclasses.MISSING
        fields.append((field.name, kind) if has_none else (field.name, kind, field.default))
    return msgspec.defstruct("Record", fields, kw_only=True)


class _Pulse(msgspec.Struct):
    at_ms: Number
    done: Whole
    received_bytes: Whole
    stage: Whole | None = None
    in_flight: Whole | None = None
    waiting: Whole | None = None
    queued: Whole | None = None


class _Grade(msgspec.Struct):
    score: Number | None


class _Samples(msgspec.Struct):
    t_ms: Number
    values: dict[str, Any]
    idle: bool = False


class _Footer(msgspec.Struct):
    status: str = ""
    duration_ms: Number | None = None


class _Embedded(msgspec.Struct):
    engine: str = ""


class _Header(msgspec.Struct):
    config: dict[str, Any]
    questions: Whole
    turns: Whole | None = None
    run_id: str | None = None
    started: str | None = None
    server: str | None = None
    embedded: _Embedded | None = None


_LINES: Mapping[str, type[msgspec.Struct]] = {
    "result": _record_type(), "pulse": _Pulse, "grade": _Grade, "samples": _Samples,
    "footer": _Footer, "header": _Header,
}  # fmt: skip


class Values:
    """A metric of one stage, in bounded memory.

    Up to MOST values are kept as they are. From then on a histogram of three significant digits
    has all of them, and every 2nd, 4th, … is kept in the order of the sends, for how they depend on
    each other. These count as fewer independent ones than all would: the intervals are on the safe
    side.
    """

    MOST = 4096

    def __init__(self) -> None:
        self.n = 0
        self._kept: list[tuple[int, float]] = []  # when it was sent, and the value
        self._every = 1
        self._counts: Counter[float] | None = None

    def add(self, sent_ns: int, value: float | None) -> None:
        """Take a value, if it was measured."""
        if value is None:
            return
        if self._counts is not None:
            self._counts[float(f"{value:.3g}")] += 1
        if self.n % self._every == 0:
            self._kept.append((sent_ns, value))
        self.n += 1
        if len(self._kept) > self.MOST:
            if self._counts is None:
                self._counts = Counter(float(f"{value:.3g}") for _, value in self._kept)
            self._kept, self._every = self._kept[::2], 2 * self._every

    def describe(self) -> dict[str, Any]:
        """Return what the core's `describe` says of them."""
        known = st.describe([value for _, value in sorted(self._kept)])
        if self._counts is None:
            return known
        return st.describe(st.Histogram(self._counts), known["n_eff"])


class Points:
    """Points over time, at most MOST: where there are more, the extremes of each stretch stay."""

    MOST = 2000

    def __init__(self, most: int = MOST) -> None:
        self.most, self.total = most, 0
        self._points: list[tuple[float, Any, Any]] = []

    def add(self, at_s: float, value: Any, more: Any = None) -> None:
        """Take a point."""
        self.total += 1
        self._points.append((at_s, value, more))
        if len(self._points) >= 2 * self.most:
            self._points = self._thinned(self.most)

    def _thinned(self, most: int) -> list[tuple[float, Any, Any]]:
        """Keep of each four neighbours in time the lowest and the highest."""
        points = sorted(self._points, key=lambda point: point[0])
        while len(points) > most:
            kept = []
            for start in range(0, len(points), 4):
                part = points[start : start + 4]
                if isinstance(part[0][1], str):  # kinds of failures have no extremes
                    kept += part[::2]
                    continue
                ends = (min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1]))
                kept += sorted(ends if ends[0] is not ends[1] else ends[:1])
            points = kept
        return points

    def to_list(self) -> list[tuple[float, Any, Any]]:
        """Return at most MOST points in the order of time."""
        return self._thinned(self.most)


class Beats:
    """What was so in each second; from MOST on in each two, four, … seconds."""

    MOST = 2000

    def __init__(self) -> None:
        self.width_s = 1.0
        self._sums: dict[str, list[float]] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, name: str, at_s: float, amount: float) -> None:
        """Add an amount to the second in which it belongs."""
        place = int(max(at_s, 0.0) / self.width_s)
        while place >= self.MOST:
            self._halve()
            place //= 2
        sums = self._sums.setdefault(name, [])
        counts = self._counts.setdefault(name, [])
        missing = place + 1 - len(sums)
        sums += [0.0] * missing
        counts += [0] * missing
        sums[place] += amount
        counts[place] += 1

    def spread(self, name: str, from_s: float, to_s: float, amount: float) -> None:
        """Spread an amount evenly over a time."""
        if to_s - from_s <= 1e-6:
            self.add(name, to_s, amount)
            return
        per_s, start_s = amount / (to_s - from_s), from_s
        while start_s < to_s:
            end_s = min((math.floor(start_s / self.width_s) + 1) * self.width_s, to_s)
            if end_s <= start_s:
                end_s = to_s
            self.add(name, start_s, per_s * (end_s - start_s))
            start_s = end_s

    def _halve(self) -> None:
        """Make one second of each two."""
        self.width_s *= 2
        for sums in self._sums.values():
            sums += [0.0] * (len(sums) % 2)
            sums[:] = map(sum, zip(sums[::2], sums[1::2], strict=True))
        for counts in self._counts.values():
            counts += [0] * (len(counts) % 2)
            counts[:] = map(sum, zip(counts[::2], counts[1::2], strict=True))

    def means(self, name: str, length: int) -> list[float | None]:
        """Return the mean of what was added in each second; None where nothing was."""
        pairs = zip(self._sums.get(name, ()), self._counts.get(name, ()), strict=True)
        means = [total / times if times else None for total, times in pairs][:length]
        return means + [None] * (length - len(means))

    def rates(self, name: str, length: int) -> list[float | None]:
        """Return the amounts a second."""
        rates: list[float | None] = [total / self.width_s for total in self._sums.get(name, ())]
        return (rates + [0.0] * (length - len(rates)))[:length]


@dataclasses.dataclass
class LiveStage:
    """What is known of one level."""

    number: int
    level: int
    planned: int | None  # None with `duration`
    done: int = 0  # the failed ones among them
    failed: int = 0
    begun_s: float | None = None


@dataclasses.dataclass
class Times:
    """How often something was seen, first and last on the run's clock."""

    count: int = 0
    first_s: float = math.inf
    last_s: float = -math.inf

    def note(self, at_s: float) -> None:
        """Count it once more."""
        self.count += 1
        self.first_s, self.last_s = min(self.first_s, at_s), max(self.last_s, at_s)


class Sampled:
    """The verdict so far and what became of the limits: by the core's rules, now and then.

    They look at up to MOST answers, each k-th of all where there are more; the share of failures is
    that of all. What only a run's end can tell is left out, and where answers are left out also
    what needs all of them.
    """

    MOST = 2000
    MOST_CHARS = 1 << 25
    LEAST_S = 3.0
    NOT_YET: ClassVar = {"too_short", "interrupted", "unsteady"}
    NEEDS_ALL: ClassVar = {"too_few_requests", "overloaded"}
    ODD: ClassVar = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)

    def __init__(self) -> None:
        self.validity: dict[str, Any] = {"verdict": None, "reasons": [], "judged": 0}
        self.limits: list[dict[str, Any]] = []
        self._version: object = None
        self._due = 0.0

    def update(self, version: object, run: LiveRun) -> None:
        """Judge again when there is something new, and enough time has passed."""
        begun = time.monotonic()
        if version == self._version or begun < self._due or run.reader is None:
            return
        self._version = version
        try:
            self._judge(run, run.reader)
        except (st.ResultsError, *self.ODD):
            return  # a record of another program, or damaged meanwhile: as it was
        finally:
            took_s = time.monotonic() - begun
            self._due = begun + max(self.LEAST_S, 20 * took_s)

    def _judge(self, run: LiveRun, reader: st.JournalReader) -> None:
        config, every = run.config, max(1, math.ceil(reader.ended / self.MOST))
        results, chars = list[st.Result](), 0
        for number in range(0, reader.ended, every):
            record = next(reader.arrivals(number))
            chars += len(record["answer"]) + len(record["reasoning"])
            if chars > self.MOST_CHARS:
                break
            record["chunk_ms"] = (record["chunk_ms"] or [])[:64] or None
            results.append(st.Result.from_record(record))
        aggregate = st.calculate_aggregates(results, config)
        if every > 1:
            aggregate["error_rate"] = run.failed / run.done if run.done else None
            aggregate["failure_reasons"] = run.failure_reasons()
        hidden = set() if run.is_over else set(self.NOT_YET)
        hidden |= self.NEEDS_ALL if every > 1 else set()
        validity = st.judge_validity(config, aggregate, run.load_report(), hidden)
        self.validity = {**validity, "judged": len(results)}
        self.limits = [
            {
                "name": check.metric,
                "limit": check.condition,
                "value": check.value,
                "met": None if check.value is None else check.met,
            }
            for check in st.check_thresholds(config, aggregate)
        ]


class LiveRun:
    """A run's journal, read on from where it was left; its lines are counted as they come.

    Of a conversation that a stop cut in two, the turns before the stop count again when they are
    asked again.
    """

    METRICS: ClassVar = {"ttft_ms": "ttft_ms", "tpot_ms": "tpot_ms", "e2e_ms": "time_ms"}
    PERCENTILES: ClassVar = {
        "ttft_ms": ("p50", "p90", "p95", "p99"),
        "tpot_ms": ("p50", "p95"),
        "e2e_ms": ("p50", "p95"),
    }
    BUDGET_S = 0.5  # for one `refresh`
    FRESH_S = 2.5  # a file written since then is a running run's, which pulses each second
    MOST_RECENT = 5000
    MOST_SAID = 1000  # errors whose words are kept apart

    def __init__(self, path: Path) -> None:
        """Follow the journal at the path, which need not be there yet."""
        self.path = path
        self._begin()

    def _begin(self) -> None:
        """Know nothing yet."""
        self.reader: st.JournalReader | None = None
        self.config = st.Config(server="embedded", model="none")
        self.header: dict[str, Any] = {}
        self.problem: str | None = None  # why the journal cannot be read
        self.behind = False  # whether there is more than one `refresh` has read
        self.done = self.failed = self.resumed_parts = 0
        self.graded: int | None = None
        self.correct: int | None = None
        self.stages = [LiveStage(0, 1, None)]
        self.stage = 0
        self.footer: dict[str, Any] | None = None  # since the load has ended
        self._gradable = 0
        self._values = {name: Values() for name in self.METRICS}
        self._answers, self._failures, self._beats = Points(), Points(), Beats()
        self._tpots = Points(Points.MOST // 2)
        self._recent: deque[tuple[float, st.Result]] = deque(maxlen=self.MOST_RECENT)
        self._last: deque[dict[str, Any]] = deque(maxlen=20)
        self._errors: dict[tuple[str, int | None, str], Times] = {}
        self._slos: dict[str, st.Slo] = {}  # each limit of time by itself
        self._in_time: Counter[str] = Counter()
        self._pulses: deque[dict[str, Any]] = deque(maxlen=2)
        self._samples: dict[str, Any] = {}
        self._at_s = 0.0  # on the run's clock, of the last line
        self._last_end_s: float | None = None
        self._dead_since: float | None = None  # when it was last written, if nobody holds it
        self._sampled = Sampled()
        self._state: str | None = None

    # Reading

    def refresh(self) -> bool:
        """Read what is new, for half a second at most; True when something has changed.

        Content of any kind is passed over or counted as damage; nothing is raised.
        """
        lines = 0
        if self.reader is not None and self._is_another_file(self.reader):
            self._begin()
        try:
            lines = self._read()
            self.problem = None
        except st.ResultsError as error:
            self.problem = str(error)
        before, self._state = self._state, self.state()
        return lines > 0 or before != self._state

    def _is_another_file(self, reader: st.JournalReader) -> bool:
        """Whether another run has this name now, or what was read has been cut off."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        return not reader.is_in_place or size < reader.whole_bytes

    def _read(self) -> int:
        """Take the new lines. Raises ResultsError."""
        if self.reader is None:
            if not self.path.exists():
                return 0
            self.reader = st.JournalReader(self.path, at_once=False)
        until, lines = time.monotonic() + self.BUDGET_S, 0
        self.behind = False
        for line in self.reader.new_lines():
            lines += 1
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take(line)
            if time.monotonic() > until:
                self.behind = True
                break
        return lines

    def close(self) -> None:
        """Let go of the file."""
        self.reader = None

    def _take(self, line: st.JournalLine) -> None:
        """Count one line."""
        if line.kind not in _LINES:  # of a newer version
            return
        checked = msgspec.json.decode(line.content, type=_LINES[line.kind])
        content = msgspec.structs.asdict(checked)
        if line.kind == "result":
            self._take_result(content)
        elif line.kind == "pulse":
            self._take_pulse(content)
        elif line.kind == "grade":
            self.graded = (self.graded or 0) + (content["score"] is not None)
            self.correct = (self.correct or 0) + ((content["score"] or 0.0) >= st.CORRECT)
        elif line.kind == "samples":
            self._take_sample(content)
        elif line.kind == "footer":
            self.footer = {**line.read(), **content}
        elif line.kind == "header":
            self._take_header(content)

    def _take_header(self, header: dict[str, Any]) -> None:
        embedded: _Embedded | None = header["embedded"]
        self.header = {**header, "embedded": embedded and {"engine": embedded.engine}}
        try:
            self.config = st.Config.read(header["config"])
        except (ValueError, TypeError, st.ConfigError):  # of another version: its plan is not known
            self.header["config"] = None
            return
        self._slos = {
            name: st.Slo(**{name: limit})
            for name, limit in self.config.slo.model_dump().items()
            if limit is not None and name in self.METRICS
        }
        turns = header["questions"] if header["turns"] is None else header["turns"]
        self.stages = []
        for number, level in enumerate(self.config.levels):
            planned: int | None = turns
            if self.config.duration is not None:
                planned = None
            elif self.config.asks_floor and level == min(self.config.levels):
                planned = 2 * turns
            self.stages.append(LiveStage(number, level, planned))

    def _take_sample(self, row: dict[str, Any]) -> None:
        """Note what the machine did, and over time what a chart shows of it."""
        known = {
            name: value
            for name, value in row["values"].items()
            if isinstance(value, int | float) and abs(value) < 1e18
        }
        self._samples = known
        at_s = row["t_ms"] / 1000
        if row["idle"] or at_s < 0:
            return
        watts = (known.get(name) for name in ("wall_w", "gpu_w", "dcgm_gpu_w", "cpu_package_w"))
        drawn = {
            "cpu_percent": known.get("cpu_percent"),
            "watts": next((value for value in watts if value is not None), None),
        }
        for name, value in drawn.items():
            if value is not None:
                self._beats.add(name, at_s, value)

    def _go_on(self) -> None:
        """Note that the run was resumed, when a line of the load follows its end."""
        if self.footer is not None:
            self.footer = None
            self.resumed_parts += 1
            self._pulses.clear()

    def _take_pulse(self, pulse: dict[str, Any]) -> None:
        before = self._pulses[-1] if self._pulses else None
        if before is not None and pulse["done"] < before["done"]:  # it was killed, and resumed
            self.resumed_parts += self.footer is None
            self._pulses.clear()
        self._go_on()
        self._at_s = pulse["at_ms"] / 1000
        self._pulses.append(pulse)
        for name in ("in_flight", "queued"):
            if pulse[name] is not None:
                self._beats.add(name, self._at_s, pulse[name])
        if pulse["stage"] is not None:
            self._enter(pulse["stage"], self._at_s)

    def _enter(self, stage: int, at_s: float) -> None:
        """Note which stage runs, and since when."""
        if self.stage < stage < len(self.stages):
            self.stage = stage
            self._values = {name: Values() for name in self.METRICS}
        begun_s = self.stages[self.stage].begun_s
        if begun_s is None:
            self.stages[self.stage].begun_s = at_s

    def _take_result(self, record: dict[str, Any]) -> None:
        failure: st.Failure | None = record["error"]
        error = None if failure is None else dataclasses.asdict(failure)
        # Nothing here looks at the chunks, and they are most of the work.
        result = st.Result.from_record({**record, "error": error, "chunk_ms": None})
        self._go_on()
        self._note_last(result)
        if result.status == "cancelled":  # it is asked again
            return
        sent_ns, end_ns = result.sent_ns, result.end_ns
        end_s = self._at_s if end_ns is None else end_ns / NS_PER_S
        sent_s = end_s if sent_ns is None else sent_ns / NS_PER_S
        self._at_s = max(self._at_s, end_s)
        self._last_end_s = max(self._last_end_s or 0.0, end_s)
        self._enter(result.stage, sent_s)
        self.done += 1
        stage = self.stages[min(result.stage, len(self.stages) - 1)]
        stage.done += 1
        self._recent.append((end_s, result))
        self._gradable += result.ok and result.grader is not None
        if not result.ok:
            self._take_failure(result, stage, sent_s)
            return
        for name, source in self.METRICS.items():
            self._values[name].add(sent_ns or 0, getattr(result, source))
        for name, slo in self._slos.items():
            self._in_time[name] += slo.is_in_time(result)
        if result.ttft_ms is not None:
            self._answers.add(sent_s, result.ttft_ms, stage.level)
        if result.tpot_ms is not None:
            self._tpots.add(sent_s, result.tpot_ms, stage.level)
        self._spread_tokens(result, end_s)

    def _spread_tokens(self, result: st.Result, end_s: float) -> None:
        """Put an answer's tokens where they came: the first one, and the rest evenly behind it."""
        if not result.token:
            return
        first_s = end_s if result.first_ns is None else result.first_ns / NS_PER_S
        if first_s >= end_s:
            self._beats.add("tokens", end_s, result.token)
            return
        self._beats.add("tokens", first_s, 1)
        self._beats.spread("tokens", first_s, end_s, result.token - 1)

    def _take_failure(self, result: st.Result, stage: LiveStage, sent_s: float) -> None:
        self.failed += 1
        stage.failed += 1
        error = result.error
        if error is None:
            return
        said = (error.kind, error.http_status, error.message[:300])
        if len(self._errors) >= self.MOST_SAID and said not in self._errors:
            said = (error.kind, error.http_status, "")
        end_s = sent_s if result.end_ns is None else result.end_ns / NS_PER_S
        self._errors.setdefault(said, Times()).note(end_s)
        self._failures.add(sent_s, error.kind)

    def _note_last(self, result: st.Result) -> None:
        """Keep one of the last answers, its texts cut."""
        text = result.answer[:SHOWN_CHARS]
        self._last.append(
            {
                "number": self.done + 1,
                "id": result.id[:SHOWN_CHARS],
                "question": result.question[:SHOWN_CHARS],
                "answer": text,
                "reasoning_only": not text.strip() and bool(result.reasoning.strip()),
                "status": result.status,
                "error": None if result.error is None else result.error.shown[:SHOWN_CHARS],
                "ttft_ms": result.ttft_ms,
                "time_ms": result.time_ms,
                "tokens": result.token,
                "ended_s": None if result.end_ns is None else result.end_ns / NS_PER_S,
                "stage": result.stage,
            }
        )

    # What is known

    @property
    def is_over(self) -> bool:
        """Whether the load has ended."""
        return self.footer is not None

    def _commonest_errors(self) -> list[tuple[tuple[str, int | None, str], Times]]:
        return sorted(self._errors.items(), key=lambda each: -each[1].count)

    def failure_reasons(self) -> list[dict[str, Any]]:
        """Return the failures as an aggregate's `failure_reasons` has them: commonest first."""
        times: Counter[tuple[str, int | None]] = Counter()
        words: dict[tuple[str, int | None], str] = {}
        for (kind, status, message), seen in self._commonest_errors():
            times[kind, status] += seen.count
            words.setdefault((kind, status), message)
        return [
            {"kind": kind, "http_status": status, "message": words[kind, status], "times": count}
            for (kind, status), count in times.most_common()
        ]

    def load_report(self) -> st.LoadReport:
        """Return what is known of the load beside its results; the self-check comes at its end."""
        footer = self.footer or {}
        unknown = {"loop_lag_ms": {"p95": None}, "cpu_share": None}
        footers = [] if self.reader is None else self.reader.footers
        earlier = footers[:-1] if self.footer is not None else footers
        resumed = None
        if self.resumed_parts:
            resumed = "stopped" if earlier else "killed"
        return st.LoadReport(
            st.LoadStart(resumed=resumed, clients=[part["client"] for part in earlier]),
            client=footer.get("client", unknown),
            clock_jump_s=footer.get("clock_jump_s", 0.0),
            gave_up=footer.get("gave_up"),
            backed_off_s=footer.get("backed_off_s", 0.0),
            interrupted=footer.get("status") == "interrupted",
        )

    def _is_alive(self) -> bool:
        """Whether a run still writes the journal.

        Its lock is looked at only when no pulse came for a while, so as to be in nobody's way.
        """
        if self.reader is None:
            return False
        changed_s = self.reader.changed_s
        age_s = time.time() - changed_s
        if abs(age_s) < self.FRESH_S:
            return True
        if self._dead_since == changed_s:
            return False
        in_use = self.reader.is_in_use
        if in_use is None:  # a system without such locks
            return age_s < 15
        if not in_use:
            self._dead_since = changed_s
        return in_use

    def _results_are_there(self) -> bool:
        """Whether the results file of this very run is there."""
        run_id = self.header.get("run_id")
        try:
            with self.path.with_suffix(".json").open("rb") as file:
                head = file.read(65536)
        except OSError:
            return False
        return run_id is not None and f'"run_id": "{run_id}"'.encode() in head

    def state(self) -> str:
        """Return what the run does: see the contract in `view`."""
        if self.reader is None:
            return "damaged" if self.problem else "starting"
        if not self.reader.is_in_place:
            return "finished" if self._results_are_there() else "damaged"
        alive = self._is_alive()
        if not self.header:
            return "starting" if alive and not self.reader.whole_bytes else "damaged"
        if self.footer is not None and alive:
            still = (self.graded or 0) < self._gradable
            return "grading" if still else "saving"
        if not alive:
            stopped = (self.footer or {}).get("status") == "interrupted"
            return "stopped" if stopped else "crashed"
        if self._last_end_s is None:
            return "starting"
        return "silent" if self._is_silent() else "running"

    def _is_silent(self) -> bool:
        """Whether no answer has come for much longer than answers take."""
        in_flight = self._pulses[-1]["in_flight"] if self._pulses else None
        quiet_s = self._now_s() - (self._last_end_s or 0.0)
        if in_flight == 0 or quiet_s < 5:
            return False
        return quiet_s >= 3 * (self._recent_e2e_s() or 0.0)

    def _recent_e2e_s(self) -> float | None:
        """Return the p95 of the last answers' E2E latency."""
        last = itertools.islice(reversed(self._recent), 200)
        times = [result.time_ms for _, result in last if result.ok]
        p95_ms = st.percentile(sorted(time_ms for time_ms in times if time_ms is not None), 0.95)
        return None if p95_ms is None else p95_ms / 1000

    def _now_s(self) -> float:
        """Return the run's clock: as the last line had it, and what has passed since."""
        if self.footer is not None and self.footer["duration_ms"] is not None:
            return float(self.footer["duration_ms"]) / 1000
        if self.reader is None or not self.reader.is_in_place or not self._is_alive():
            return self._at_s
        return self._at_s + max(time.time() - self.reader.changed_s, 0.0)

    def view(self) -> dict[str, Any]:
        """Return all that is known, JSON-able: numbers and codes. Texts may be hostile.

        `state` is one of starting, running, silent, grading, saving, stopped, crashed, damaged,
        finished. Times are seconds or ms as their names say, `_s` since the start of the run.
        What is not known is None.
        """
        state, now_s = self.state(), self._now_s()
        going = state in ("starting", "running", "silent")
        self._sampled.update((self.done, self.is_over, self.graded), self)
        quiet_s = None if self._last_end_s is None else max(now_s - self._last_end_s, 0.0)
        return {
            **self._what_runs(),
            "state": state,
            "elapsed_s": round(now_s, 3),
            "eta_s": self._eta_s(now_s) if going else None,
            "quiet_s": quiet_s if going else None,
            **self._counts(),
            **self._traffic(going),
            "now": self._now(now_s) if going else None,
            "series": self._series(now_s, going),
            "answers_of": {"answers": self._answers.total, "failures": self._failures.total},
            "known": self._known(),
            "validity": self._sampled.validity,
            "limits": [*self._slo_limits(), *self._sampled.limits],
            "graded": self.graded,
            "correct": self.correct,
            "gradable": self._gradable,
            "samples": {name: value for name, value in self._samples.items() if name != "t_ms"},
            "energy": {
                name.removesuffix("_w"): value
                for name, value in self._samples.items()
                if name.endswith("_w")
            }
            or None,
            "last": list(reversed(self._last)),
            "behind": self.behind,
        }

    def _eta_s(self, now_s: float) -> float | None:
        """Return how much longer the load takes, if it goes on as fast as in the running stage."""
        config, stages = self.config, self.stages
        pauses_s = config.cooldown * (len(stages) - 1 - self.stage)
        if config.duration is not None:
            share = self._share_of_time()
            left = None if share is None else 1 - share
            return None if left is None else config.duration * len(stages) * left + pauses_s
        stage, first = stages[self.stage], stages[0]
        planned = [each.planned for each in stages]
        if not self.done or first.begun_s is None or None in planned:
            return None
        left = max(sum(filter(None, planned)) - self.done, 0)
        answers, since_s = self.done, first.begun_s
        if stage.done > 1 and stage.begun_s is not None:
            answers, since_s = stage.done, stage.begun_s
        return left * max(now_s - since_s, 0.001) / answers + pauses_s

    def _what_runs(self) -> dict[str, Any]:
        header, config = self.header, self.config
        name = self.path.stem
        run = f"{st.program()} {shlex.quote(st.run_argument(name))}"
        usual = st.find_file(None, "config.json").parent / "results"
        where = ""
        if self.path.parent.resolve() != usual.resolve():
            where = f" --results-dir {shlex.quote(str(self.path.parent))}"
        known = header.get("config") is not None
        return {
            "name": name,
            "path": str(self.path),
            "run_id": header.get("run_id"),
            "model": config.model if known else None,
            "server": header.get("server"),
            "embedded": header.get("embedded"),
            "questions": header.get("questions"),
            "config": header.get("config"),
            "command": run + "".join(self._settings()) + where if known else None,
            "resume_command": f"{run} --resume{where}",
            "started": header.get("started"),
            "timeout_s": config.timeout if known else None,
        }

    def _settings(self) -> Iterable[str]:
        """Yield a `--set` for each key that is not as by default and holds no secret."""
        default = st.Config(server="-", model="-").model_dump()
        for key, value in self.header["config"].items():
            if value == default.get(key) or st.REDACTED in json.dumps(value):
                continue
            if isinstance(value, dict):
                known = default.get(key) or {}
                value = {name: item for name, item in value.items() if item != known.get(name)}
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    json.loads(value)
                    value = text  # a text that would be read as JSON
                text = value
            yield f" --set {shlex.quote(f'{key}={text}')}"

    def _counts(self) -> dict[str, Any]:
        planned = [stage.planned for stage in self.stages]
        total = None if None in planned or not self.header else sum(filter(None, planned))
        reasons = self.failure_reasons()
        commonest = None
        if reasons:
            first = reasons[0]
            failure = st.Failure(first["kind"], first["message"], first["http_status"])
            commonest = {"text": failure.shown[:SHOWN_CHARS], "count": first["times"]}
        return {
            "planned": total,
            "done": self.done,
            "ok": self.done - self.failed,
            "failed": self.failed,
            "share": min(self.done / total, 1.0) if total else self._share_of_time(),
            "saved": self.done,
            "resumed_parts": self.resumed_parts,
            "commonest_error": commonest,
            "failures": [
                {
                    "text": st.Failure(kind, message, status).shown[:SHOWN_CHARS],
                    "count": seen.count,
                    "first_s": seen.first_s,
                    "last_s": seen.last_s,
                }
                for (kind, status, message), seen in self._commonest_errors()[:10]
            ],
            "damage": self._damage(),
            "stages": [
                {
                    "level": stage.level,
                    "planned": stage.planned,
                    "done": stage.done,
                    "failed": stage.failed,
                    "state": self._stage_state(stage),
                }
                for stage in self.stages
            ],
            "stage": self.stage,
        }

    def _share_of_time(self) -> float | None:
        """Return how much of a run's time has passed, when it runs for a time."""
        config = self.config
        if config.duration is None or not self.header:
            return None
        whole_s = config.duration * len(self.stages)
        before_s = config.duration * self.stage
        begun_s = self.stages[self.stage].begun_s
        here_s = 0.0 if begun_s is None else min(self._now_s() - begun_s, config.duration)
        return min((before_s + here_s) / whole_s, 1.0)

    def _stage_state(self, stage: LiveStage) -> str:
        if stage.number < self.stage or self.is_over or stage.done == stage.planned:
            return "done" if stage.done else "waiting"
        return "running" if stage.number == self.stage and self.header else "waiting"

    def _damage(self) -> list[str]:
        if self.problem is not None:
            return [self.problem]
        if self.reader is None:
            return []
        damage = []
        if not self.header and not self.reader.lines and not self._is_alive():
            damage.append("it has no first line of a journal")
        if lost := self.reader.lost_bytes - self.reader.unfinished_bytes:
            damage.append(f"{lost:,} bytes are damaged and left out")
        if missing := sum(map(len, self.reader.missing)):
            damage.append(f"{missing:,} earlier lines are missing")
        if not self.reader.is_in_place and not self._results_are_there():
            damage.append("the journal is gone, and its results are not there")
        return damage

    def _traffic(self, going: bool) -> dict[str, Any]:
        """Return what the last pulse says, and at which rate bytes came since the one before."""
        found: dict[str, Any] = dict.fromkeys(
            ("in_flight", "waiting", "queued", "received_bytes_per_s")
        )
        if not going or not self._pulses:
            return found
        last = self._pulses[-1]
        found |= {name: last[name] for name in ("in_flight", "waiting", "queued")}
        if len(self._pulses) == 2:
            first = self._pulses[0]
            took_s = (last["at_ms"] - first["at_ms"]) / 1000
            came = last["received_bytes"] - first["received_bytes"]
            found["received_bytes_per_s"] = came / took_s if took_s > 0 else None
        return found

    def _now(self, now_s: float) -> dict[str, float | None] | None:
        """Return the figures of the answers that ended in the last 10 s; None without any."""
        since_s = now_s - RECENT_S
        recent = [
            result
            for end_s, result in itertools.takewhile(
                lambda pair: pair[0] > since_s - 1, reversed(self._recent)
            )
            if end_s > since_s
        ]
        answers = [result for result in recent if result.ok]
        if not answers:
            return None
        first_s = self.stages[0].begun_s or 0.0
        span_s = min(RECENT_S, max(now_s - first_s, 0.1))
        if len(self._recent) == self.MOST_RECENT and len(recent) == self.MOST_RECENT:
            span_s = max(now_s - self._recent[0][0], 0.001)
        medians = {
            name: st.percentile(
                sorted(value for result in answers if (value := getattr(result, name)) is not None),
                0.5,
            )
            for name in ("ttft_ms", "tpot_ms")
        }
        tokens = [result.token for result in answers if result.token is not None]
        tpot_ms = medians["tpot_ms"]
        return {
            "tokens_per_s": sum(tokens) / span_s if tokens else None,
            "requests_per_s": len(answers) / span_s,
            **medians,
            "user_tokens_per_s": 1000 / tpot_ms if tpot_ms else None,
        }

    def _series(self, now_s: float, going: bool) -> dict[str, Any]:
        """Return what changed over time, 2,000 points each; no speed where it still fills in."""
        width_s = self._beats.width_s
        length = int(now_s / width_s) + 1 if self.header else 0
        length = min(length, Beats.MOST)
        tokens = self._beats.rates("tokens", length)
        if going:
            e2e_s = self._recent_e2e_s()
            known = 0 if e2e_s is None else int(max(now_s - e2e_s, 0.0) / width_s)
            tokens[known:] = [None] * len(tokens[known:])
        return {
            "t_s": [place * width_s for place in range(length)],
            "in_flight": self._beats.means("in_flight", length),
            "queued": self._beats.means("queued", length),
            "tokens_per_s": tokens,
            "cpu_percent": self._beats.means("cpu_percent", length),
            "watts": self._beats.means("watts", length),
            "answers": [list(point) for point in self._answers.to_list()],
            "tpot": [list(point) for point in self._tpots.to_list()],
            "failures": [[at_s, kind] for at_s, kind, _ in self._failures.to_list()],
        }

    def _known(self) -> list[dict[str, Any]]:
        """Return the percentiles of the running stage, each with its interval or what it needs."""
        rows = []
        level = self.stages[self.stage].level if len(self.stages) > 1 else None
        for metric, values in self._values.items():
            known = values.describe()
            for name in self.PERCENTILES[metric]:
                low, high = known["ci95"][name]
                missing = known["n"] and None in (low, high)
                rows.append(
                    {
                        "metric": f"{metric}.{name}",
                        "stage": level,
                        "value": known[name],
                        "low": low,
                        "high": high,
                        "needs_more": st.requests_missing(known, name) if missing else None,
                    }
                )
        return rows

    def _slo_limits(self) -> Sequence[Mapping[str, Any]]:
        """Return for each limit of `slo` which share of all requests met it; failures meet none."""
        return [
            {
                "name": f"slo.{name}",
                "limit": getattr(slo, name),
                "value": self._in_time[name] / self.done if self.done else None,
                "good": self._in_time[name],
                "of": self.done,
                "met": None,
            }
            for name, slo in self._slos.items()
        ]


# === In the terminal ===


class Screen:
    """Lays out a view for a terminal: the answer first, then what it rests on.

    Where it is too low for all, the least important blocks leave; no figure is ever cut, only the
    texts of questions and answers are.
    """

    WIDE = 110  # from so many columns on the last answers stand beside what is known
    STATES: ClassVar = {
        "starting": ("▶", "bold"),
        "running": ("▶", "bold"),
        "silent": ("▲", "bold yellow"),
        "grading": ("▶", "bold"),
        "saving": ("▶", "bold"),
        "finished": ("✓", "bold"),
        "stopped": ("■", "bold"),
        "crashed": ("✕", "bold red"),
        "damaged": ("✕", "bold red"),
    }
    VERDICTS: ClassVar = {
        "VALID": ("✓", "bold green"),
        "SUSPECT": ("▲", "bold yellow"),
        "INVALID": ("✕", "bold red"),
    }
    NAMES: ClassVar = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
    LIMITS: ClassVar = {
        "slo.ttft_ms": "first token",
        "slo.tpot_ms": "each further token",
        "slo.e2e_ms": "whole answer",
    }

    def __init__(
        self, view: Mapping[str, Any], width: int, height: int, *, beside_run: bool = True
    ) -> None:
        self.view, self.width, self.height = view, max(width, 20), max(height, 6)
        self.beside_run = beside_run
        # A block fills the width, or the left column of a wide terminal.
        self.column = self.width if self.width < self.WIDE else self.width * 2 // 5

    def lines(self) -> list[Text]:
        """Return at most as many lines as the terminal has."""
        figures, traffic = self._figures(), self._traffic()
        middle = [*figures, *([st.styled("")] if figures and traffic else []), *traffic]
        top = [self._head(), [*self._sentence(), *self._progress()], middle]
        below = [self._known(), self._trust(), self._limits(), self._speed(), self._quality()]
        blocks = [block for block in (*top, *below) if block]
        room = self.height - 2  # the line at the bottom and the one above it
        wide = self.width >= self.WIDE
        left = len([block for block in top if block])
        while len(blocks) > 2 and self._size(blocks) > room:
            blocks.pop()
        lines = self._joined(blocks[:left])
        rest = self._joined(blocks[left:])
        if wide:
            answers = self._answers(self.width - self.column - 4, room - len(lines) - 1)
            rest = self._side_by_side(rest, answers)
        elif (left_over := room - self._size(blocks) - 1) >= 3:
            answers = self._answers(self.width, left_over)
            rest = self._joined([block for block in (rest, answers) if block])
        if rest:
            lines += [st.styled(""), *rest]
        lines = lines[:room]
        for line in lines:  # a word of a server may be longer than a line
            line.truncate(self.width, overflow="crop")
        lines += [st.styled("")] * (self.height - 1 - len(lines))
        return [*lines, st.styled((self._foot(), "dim"))]

    @staticmethod
    def _size(blocks: Sequence[Sequence[Text]]) -> int:
        return sum(map(len, blocks)) + len(blocks) - 1

    @staticmethod
    def _joined(blocks: Sequence[Sequence[Text]]) -> list[Text]:
        """Return the blocks one below the other, an empty line between them."""
        lines: list[Text] = []
        for block in blocks:
            lines += [st.styled(""), *block] if lines else block
        return lines

    def _side_by_side(self, left: Sequence[Text], right: Sequence[Text]) -> list[Text]:
        empty = st.styled("")
        return [
            st.styled(one, " " * max(self.column + 4 - one.cell_len, 1), other)
            for one, other in itertools.zip_longest(left, right, fillvalue=empty)
        ]

    def _head(self) -> list[Text]:
        """Return state, name and verdict so far in one line, below it what runs."""
        view, validity = self.view, self.view["validity"]
        sign, style = self.STATES[view["state"]]
        parts = [st.styled((f"{sign} {view['state'].upper()}", style))]
        parts.append(st.styled((st.printable(view["name"]), "bold")))
        if view["elapsed_s"]:
            parts.append(st.styled((f"for {about(view['elapsed_s'])}", "dim")))
        if validity["verdict"] is not None and view["done"]:
            sign, style = self.VERDICTS[validity["verdict"]]
            caveats = len(validity["reasons"])
            so_far = f", {caveats} caveat{'s' if caveats > 1 else ''}" if caveats else ""
            parts.append(st.styled((f"{sign} {validity['verdict']} so far{so_far}", style)))
        room = self.width - sum(part.cell_len for part in parts) - 2 * (len(parts) - 2)
        lines = parts
        if room >= 2:
            gaps = [*(["  "] * (len(parts) - 2)), " " * room, ""]
            line = st.styled("")
            for part, gap in zip(parts, gaps[-len(parts) :], strict=True):
                line = st.styled(line, part, gap)
            lines = [line]
        engine = (view["embedded"] or {}).get("engine", "").partition(" ")[0]
        server = f"{st.printable(str(view['server'] or ''), 100)} {st.printable(engine, 40)}"
        if view["model"] is not None:
            what = f"{st.printable(view['model'], 100)} on {server.strip()}"
            lines += st.wrapped(st.styled((what, "dim")), self.width)
        return lines

    def _sentence(self) -> list[Text]:
        """Return the one sentence, and the command that goes on with a run that does not."""
        view, style = self.view, "bold"
        done, planned = view["done"], view["planned"]
        of = f" of {planned:,}" if planned is not None else ""
        go_on: list[Text] = []
        if view["state"] in ("crashed", "stopped"):
            command = st.printable(view["resume_command"], 4000)
            places = range(0, len(command), self.width)  # whole, to be copied
            go_on = [st.styled(command[place : place + self.width]) for place in places]
        match "reading" if view["behind"] else view["state"]:
            case "reading":
                text, go_on = "Reading the journal …", []
            case "starting":
                text = f"Waiting for the first answer, {about(view['elapsed_s'])}."
            case "silent":
                quiet, limit = about(view["quiet_s"]), about(view["timeout_s"])
                text, style = f"No answer for {quiet}; the timeout is {limit}.", "bold yellow"
            case "grading":
                graded = f"{view['graded'] or 0:,} of {view['gradable']:,}"
                text = f"The load has ended; {graded} answers are graded."
            case "saving":
                text = f"All {done:,} answers are in and being saved."
            case "finished":
                text = f"Finished, with {done:,} answers."
            case "crashed":
                saved = f"All {done:,} are saved."
                text = f"Stopped without finishing, after {done:,}{of} answers. {saved}"
            case "stopped":
                text = f"Stopped after {about(view['elapsed_s'])}, with {done:,}{of} answers."
            case "damaged":
                text = "The journal cannot be followed: " + "; ".join(view["damage"])
            case _:
                text = self._running()
        return [*st.wrapped(st.styled((st.printable(text, 1000), style)), self.width), *go_on]

    def _running(self) -> str:
        view = self.view
        share = "" if view["share"] is None else f"{st.format_share(view['share'])} done"
        eta = "" if view["eta_s"] is None else f"about {about(view['eta_s'])} to go"
        level = f"{view['stages'][view['stage']]['level']:,} at once"
        speed = (view["now"] or {}).get("tokens_per_s")
        tokens = "" if speed is None else f"{st.format_number(speed)} tokens/s"
        failed = f"{view['failed']:,} failure{'s' if view['failed'] != 1 else ''}"
        failed = failed if view["failed"] else "no failures"
        where = ", ".join(part for part in (share, eta) if part)
        return f"{where}: {', '.join(part for part in (level, tokens, failed) if part)}."

    def _progress(self) -> list[Text]:
        """Return a bar with a segment for each level; at many levels one for the whole."""
        view, stages = self.view, self.view["stages"]
        labels = [
            f"{stage['level']:,} at once · {stage['done']:,}"
            + (f" of {stage['planned']:,}" if stage["planned"] is not None else "")
            for stage in stages
        ]
        cells = self.width // len(stages)
        if len(stages) > 1 and cells < max(map(len, labels)) + 2:
            labels = [f"{stage['level']:,}" for stage in stages]
        if cells < max(map(len, labels)) + 2:
            labels, cells = [f"{view['done']:,} answers"], self.width
            shares = [view["share"] or 0.0]
        else:
            shares = [
                min(stage["done"] / stage["planned"], 1.0)
                if stage["planned"]
                else {"done": 1.0, "running": self._share_here()}.get(stage["state"], 0.0)
                for stage in stages
            ]
        bar, below = st.styled(""), st.styled("")
        for share, label in zip(shares, labels, strict=True):
            size = cells - (1 if len(shares) > 1 else 0)
            full = round(share * size)
            bar = st.styled(bar, "█" * full, ("░" * (size - full), "dim"))
            bar = st.styled(bar, " " * (cells - size))
            below = st.styled(below, (label.ljust(cells), "dim"))
        return [bar, below]

    def _share_here(self) -> float:
        """Return how much of the running stage's time has passed, where it runs for a time."""
        share: float = self.view["share"] or 0.0
        stages: int = len(self.view["stages"])
        return min(max(share * stages - int(self.view["stage"]), 0.0), 1.0)

    def _figures(self) -> list[Text]:
        """Return what is so now, each a name, a value and what it is of."""
        view, now = self.view, self.view["now"]
        if now is None:
            return self._failed()
        user = st.format_number(now["user_tokens_per_s"])
        quiet = "–" if view["quiet_s"] is None else st.format_ms(1000 * view["quiet_s"]) + " ago"
        figures = [
            ("First token (TTFT) ↓", st.format_ms(now["ttft_ms"]), "median of 10 s"),
            ("Each further (TPOT) ↓", st.format_ms(now["tpot_ms"]), f"{user} tokens/s a user"),
            ("Total speed ↑", f"{st.format_number(now['tokens_per_s'])} tokens/s", "last 10 s"),
            ("Last answer", quiet, f"{st.format_number(now['requests_per_s'])} answers/s"),
        ]
        cells = self.width // 4
        if cells < 24:  # turned: a figure is a row
            rows = [
                st.styled((name.ljust(22), "dim"), (value.rjust(14), "bold"), "  ", (more, "dim"))
                for name, value, more in figures
            ]
            if self.width < 60:
                rows = [row[: 22 + 14] for row in rows]
        else:
            columns = list(zip(*figures, strict=True))
            rows = [
                st.styled(("".join(text.ljust(cells) for text in row), style))
                for row, style in zip(columns, ("dim", "bold", "dim"), strict=True)
            ]
        return [*rows, *self._failed()]

    def _failed(self) -> list[Text]:
        """Return how many requests failed, and what most of them met."""
        view = self.view
        if not view["failed"]:
            return []
        error = view["commonest_error"]["text"] if view["commonest_error"] else ""
        head = (f"✕ {view['failed']:,} failed", "bold red")
        text = st.styled(head, f"  most often {cut(error, self.width)}")
        return st.wrapped(text, self.width, hang=2)

    def _traffic(self) -> list[Text]:
        view = self.view
        if view["in_flight"] is None:
            return []
        parts = [f"{view['in_flight']:,} in flight", f"{view['waiting']:,} wait for a first byte"]
        if view["queued"] or (view["config"] or {}).get("rate") is not None:
            parts.append(f"{view['queued']:,} queued")
        if (rate := view["received_bytes_per_s"]) is not None:
            parts.append(f"{st.format_number(rate / 1000)}{st.NARROW_SPACE}kB/s")
        if view["energy"]:
            parts += [f"{name} {st.format_number(w)} W" for name, w in view["energy"].items()]
        return st.wrapped(st.styled((" · ".join(parts), "dim")), self.width)

    def _known(self) -> list[Text]:
        """Return the percentiles so far, each with its interval or with what it needs."""
        rows = [row for row in self.view["known"] if row["value"] is not None]
        if not rows:
            return []
        level = f", at {rows[0]['stage']:,} at once" if rows[0]["stage"] is not None else ""
        table = st.table(f"Known so far{level}", "so far", st.Column("95 % interval", 90))
        for row in rows:
            metric, _, name = row["metric"].partition(".")
            value, interval = st.format_ms(row["value"]), ""
            if row["low"] is not None and row["high"] is not None:
                interval = st.format_interval((row["low"], row["high"]))
            elif row["needs_more"]:
                value, interval = f"({value})", f"needs about {row['needs_more']:,} more"
            table.add_row(f"{self.NAMES[metric]} {name}", value, interval)
        return table.lines(self.column)

    def _trust(self) -> list[Text]:
        validity = self.view["validity"]
        if validity["verdict"] is None or not self.view["done"]:
            return []
        sign, style = self.VERDICTS[validity["verdict"]]
        lines: list[Text] = []
        for reason in validity["reasons"]:
            code, message = st.printable(reason["code"]), st.printable(reason["message"])
            line = st.styled((f"{sign} {code}", style), f"  {message}")
            lines += st.wrapped(line, self.column, hang=2)
        return lines

    def _limits(self) -> list[Text]:
        lines: list[Text] = []
        for limit in self.view["limits"]:
            name = self.LIMITS.get(limit["name"])
            if name is not None:
                text = (
                    f"{limit['good']:,} of {limit['of']:,} requests "
                    f"({st.format_share(limit['value'])}) met {name} ≤{st.NARROW_SPACE}"
                    f"{st.format_limit(limit['limit'])}"
                )
                lines += st.wrapped(text, self.column, hang=2)
                continue
            value = "–" if limit["value"] is None else f"{limit['value']:.6g}"
            word = {True: "met so far", False: "missed so far", None: "not known"}[limit["met"]]
            text = f"{st.printable(limit['name'])} {st.printable(limit['limit'])}: {value}, {word}"
            lines += st.wrapped(text, self.column, hang=2)
        return lines

    def _speed(self) -> list[Text]:
        """Return the tokens/s of each second as a row of bars."""
        rates = [rate for rate in self.view["series"]["tokens_per_s"] if rate is not None]
        if len(rates) < 5:
            return []
        top = max(rates)
        cells = min(len(rates), self.column)
        means = []
        for place in range(cells):
            part = rates[place * len(rates) // cells : (place + 1) * len(rates) // cells]
            means.append(sum(part) / len(part))
        bars = "".join(" ▁▂▃▄▅▆▇█"[round(8 * mean / top) if top else 0] for mean in means)
        label = f"Tokens/s so far, at most {st.format_number(top)}"
        return [st.styled((label, "dim")), st.styled(bars)]

    def _quality(self) -> list[Text]:
        view = self.view
        if view["graded"] is None:
            if not view["gradable"]:
                return []
            return [st.styled(("Answers are graded after the load.", "dim"))]
        right = f"{view['correct']:,} of {view['graded']:,} graded answers are right so far"
        return st.wrapped(right, self.column)

    def _answers(self, width: int, height: int) -> list[Text]:
        """Return the last answers in a table, one a line; their texts are cut to what fits."""
        last, view = self.view["last"], self.view
        if not last or height < 3 or width < 50:
            return []
        times = 2 + 9 + 2 + 9  # the two columns of figures at the right
        ended = 13  # "19.7 ms ago" and a gap
        room = width - ended - times
        question, answer = (room // 2 - 1, room - room // 2 - 1) if room >= 50 else (0, room - 1)
        header = "Ended".ljust(ended)
        header += "Question".ljust(question + 1) if question else ""
        header += "Answer".ljust(answer + 1) + "TTFT".rjust(11) + "E2E".rjust(11)
        lines = [st.styled((header, "dim"))]
        for entry in last[: height - 1]:
            ago = "–"
            if entry["ended_s"] is not None:
                ago = st.format_ms(1000 * max(view["elapsed_s"] - entry["ended_s"], 0)) + " ago"
            said = st.styled(cut(entry["answer"], answer))
            if entry["error"] is not None:
                said = st.styled((cut(f"✕ {entry['error']}", answer), "bold red"))
            elif entry["reasoning_only"]:
                said = st.styled((cut("reasoning only", answer), "dim"))
            texts = st.styled(said, " " * (answer + 1 - said.cell_len))
            if question:
                asked = st.styled((cut(entry["question"], question), "dim"))
                texts = st.styled(asked, " " * (question + 1 - asked.cell_len), texts)
            figures = [st.format_ms(entry[name]).rjust(11) for name in ("ttft_ms", "time_ms")]
            lines.append(st.styled((ago.ljust(ended), "dim"), texts, *figures))
        return lines

    def _foot(self) -> str:
        if self.view["damage"] and self.view["state"] != "damaged":
            return cut("; ".join(self.view["damage"]), self.width)
        text = "Ctrl-C ends this view; the run goes on"
        if self.beside_run:
            text = "Ctrl-C stops the run and saves what was measured"
        ended = self.view["state"] in ("crashed", "stopped", "finished")
        return "" if ended else text[: self.width]


def about(seconds: float) -> str:
    """Return a length of time in whole seconds, from two minutes in minutes, then in hours."""
    for size, unit, most in ((1, "s", 120), (60, "min", 120)):
        if round(seconds / size) < most:
            return f"{round(seconds / size)}{st.NARROW_SPACE}{unit}"
    return f"{st.format_number(seconds / 3600)}{st.NARROW_SPACE}h"


def cut(text: str, cells: int) -> str:
    """Return a text in one line of at most so many columns, safe to show."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415

    shown = st.printable(" ".join(text.split()), 4 * max(cells, 1))
    if cell_len(shown) <= cells:
        return shown
    return set_cell_size(shown, max(cells - 1, 0)).rstrip() + "…"


def main(argv: Sequence[str] | None = None) -> int:
    """Show a run in the terminal until it has ended; return the exit code."""
    parser = st.Parser(
        prog="llm_stresstest.py live",
        description="Show a run in progress, full screen in the terminal.",
    )
    parser.add_argument("name", help="the run's name")
    where = "where its journal is; else results/ beside config.json"
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help=where)
    parser.add_argument("--beside-run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    folder = options.results_dir or st.find_file(None, "config.json").parent / "results"
    run = LiveRun(folder / f"{st.check_name(options.name)}.journal")
    if not sys.stderr.isatty():
        raise st.ConfigError("live: needs a terminal")
    if not run.path.exists():
        raise st.ConfigError(f"{run.path}: no run in progress: there is no such file")
    return _draw(run, beside_run=options.beside_run)


def _draw(run: LiveRun, *, beside_run: bool) -> int:
    """Draw once a second until the run has ended, or the pipe of the run that started this has."""
    from rich.console import Console, Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    over, said, lines = threading.Event(), 0, list["Text"]()

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    if beside_run:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the run, which then ends this

        def wait_for_its_end() -> None:
            sys.stdin.read()
            over.set()

        threading.Thread(target=wait_for_its_end, daemon=True).start()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    console = Console(file=sys.stderr, highlight=False)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,  # which tells the run that this is ready
            redirect_stderr=False,
        ) as screen,
    ):
        while True:
            run.refresh()
            view = run.view()
            drawn = Screen(view, console.width, console.height, beside_run=beside_run)
            lines = drawn.lines()
            screen.update(Group(*lines), refresh=True)
            if beside_run and sys.stdout is not None and not said:
                said = sys.stdout.write("live\n")
                sys.stdout.flush()
            ended = view["state"] in ("finished", "stopped", "crashed", "damaged")
            is_shown = ended and not run.behind and not beside_run
            if over.wait(0.0 if run.behind else 1.0) or is_shown:
                break
    if not beside_run:  # else the run's own summary is left behind
        while len(lines) > 1 and not lines[-2].plain:
            del lines[-2]
        for line in lines[:-1]:
            console.print(line)
    return 0
