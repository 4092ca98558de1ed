"""The finished runs of a folder, for the dashboard: an index of their files, and their table.

    index = RunIndex(folder)
    index.entries()                    all runs, the newest first; damaged files among them
    RunRows(words, entries, views)     the table of the page, in the reader's language
    table_row(entry)                   the same for a spreadsheet
    trends(words, entries)             the figures of one name's runs over their dates

Only the head and the tail of a results file are read, and again when its size or time has changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import llm_stresstest as st
from extensions import charts, pages, report

# === The index ===


@dataclasses.dataclass(frozen=True)
class Entry:
    """A results file in the list; of a damaged one only its name and what is wrong."""

    name: str
    path: str
    size: int
    started: str | None = None  # ISO 8601 with its zone
    model: str = ""
    quantization: str | None = None
    machine: str = ""
    levels: tuple[int, ...] = ()
    status: str = "damaged"  # "complete", "interrupted", "damaged"
    verdict: str = ""
    requests: int | None = None
    failed: int | None = None
    ttft_ms: tuple[float | None, float | None, float | None] = (None, None, None)  # p50, interval
    tokens_per_s: float | None = None  # of a sweep the best level's
    best_level: int | None = None
    right: tuple[float | None, float | None, float | None] = (None, None, None)  # share, interval
    graded: int = 0
    j_per_token: float | None = None
    wrong: str = ""  # what is wrong with a damaged file

    @property
    def is_sweep(self) -> bool:
        """Whether it has several levels, so that no figure over all of them means anything."""
        return len(self.levels) > 1

    @property
    def base(self) -> str:
        """The name without the time stamp that a taken name gets."""
        return re.sub(r"(_\d{8}-\d{6})+(_\d+)?$", "", self.name)

    @classmethod
    def read(cls, path: Path, size: int) -> Entry:
        """Read the head and the tail of a results file; a bad one says what is wrong with it."""
        name = path.name.removesuffix(".json")
        try:
            run = st.load_results(path, results=False)
            return cls._of(name, size, run)
        except (
            st.ConfigError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
        ) as error:
            said = str(error) if isinstance(error, st.ConfigError) else type(error).__name__
            wrong = st.printable(said.removeprefix(f"{path}: "), 200)
            return cls(name, str(path), size, wrong=wrong)

    @classmethod
    def _of(cls, name: str, size: int, run: st.SavedRun) -> Entry:
        meta, aggregate = run.meta, run.aggregate
        concurrent = meta["concurrent"]
        levels = tuple(concurrent) if isinstance(concurrent, list) else (int(concurrent),)
        zone = str(meta.get("utc_offset") or "+0000")
        moment = f"{meta['start_date']}T{meta['start_time']}{zone[:3]}:{zone[3:5]}"
        dt.datetime.fromisoformat(moment)
        parts = [part for part in aggregate["stages"] or () if part.get("tokens_per_s")]
        best = max(parts, key=lambda part: st.total_speed(part) or 0.0, default=None)
        ttft, scores = aggregate["ttft_ms"], aggregate["quality"]["under_load"]
        ttft_ms = (ttft["p50"], *ttft["ci95"]["p50"]) if ttft["n"] else (None, None, None)
        right = (None, None, None)
        if scores["n"] and aggregate["quality"]["graded"]:
            right = (scores["correct_share"], *(scores["correct_ci95"] or (None, None)))
        energy = aggregate.get("energy") or {}
        sources = (energy.get(source) or {} for source in ("wall", "gpu", "cpu_package"))
        joules = (source["j_per_token"] for source in sources if source.get("j_per_token"))
        made = cls(
            name,
            str(run.path),
            size,
            moment,
            st.printable(meta["model"], 100),
            (meta.get("server_info") or {}).get("quantization"),
            report.machine_text(meta),
            levels,
            str(meta["status"]),
            st.printable(meta["validity"]["verdict"], 20),
            aggregate["requests"],
            aggregate["failed"],
            ttft_ms,
            st.total_speed(best or aggregate),
            best["concurrent"] if best is not None and len(levels) > 1 else None,
            right,
            aggregate["quality"]["graded"],
            next(joules, None),
        )
        # A file that somebody has written by hand may hold anything.
        return msgspec.convert(dataclasses.asdict(made), cls)


class RunIndex:
    """The results files of a folder: read once, and again when size or time have changed.

    Only regular files that lie in the folder count; a symbolic link is none, wherever it leads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, int, int], Entry]] = {}

    def _files(self, ending: str) -> Iterable[os.DirEntry[str]]:
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            for item in found:
                if item.name.endswith(ending) and not item.name.startswith("."):
                    with contextlib.suppress(OSError, UnicodeEncodeError):
                        item.name.encode()  # else no address could name it
                        if item.is_file(follow_symlinks=False):
                            yield item

    def entries(self) -> list[Entry]:
        """Return all runs, the newest first; damaged ones at the end."""
        found = {}
        for item in self._files(".json"):
            try:
                status = item.stat(follow_symlinks=False)
            except OSError:
                continue
            key = (status.st_size, status.st_mtime_ns, status.st_ino)
            before = self._known.get(item.name)
            if before is None or before[0] != key:
                before = key, Entry.read(Path(item.path), status.st_size)
            found[item.name] = before
        self._known = found
        entries = [entry for _, entry in found.values()]
        return sorted(entries, key=lambda entry: entry.started or "", reverse=True)

    def path(self, name: str) -> Path | None:
        """Return the results file of a run's name; None when there is none."""
        for item in self._files(".json"):
            if item.name == f"{name}.json":
                return Path(item.path)
        return None

    def journal(self, name: str) -> Path | None:
        """Return the journal of a run's name; None when there is none."""
        for item in self._files(".journal"):
            if item.name == f"{name}.journal":
                return Path(item.path)
        return None

    def journals(self) -> list[Path]:
        """Return all journals."""
        return [Path(item.path) for item in self._files(".journal")]


# === The table ===

TABLE_COLUMNS = (
    "name", "started", "model", "quantization", "machine", "at_once", "status", "verdict",
    "requests", "failed", "ttft_ms_p50", "ttft_ms_p50_low", "ttft_ms_p50_high", "tokens_per_s",
    "right",
    "right_low", "right_high", "graded", "j_per_token", "wrong",
)  # fmt: skip


def table_row(entry: Entry) -> tuple[str | float | None, ...]:
    """Return a run as a row for spreadsheets; of a sweep no latency over all levels."""
    ttft = (None, None, None) if entry.is_sweep else entry.ttft_ms
    return (
        entry.name, entry.started, entry.model, entry.quantization, entry.machine,
        " ".join(map(str, entry.levels)), entry.status, entry.verdict, entry.requests, entry.failed,
        *ttft, entry.tokens_per_s, *entry.right, entry.graded, entry.j_per_token, entry.wrong,
    )  # fmt: skip


class RunRows:
    """The table of runs in the reader's language: finished, damaged, and those with a journal."""

    def __init__(
        self, words: pages.Words, entries: Sequence[Entry], views: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.words = words
        self._often = Counter(entry.base for entry in entries)
        finished = {entry.name for entry in entries}
        unfinished = [
            view for view in views.values()
            if view["state"] != "finished" and view["name"] not in finished
        ]  # fmt: skip
        self.rows = [self._unfinished(view) for view in unfinished]
        self.rows += [self._row(entry) for entry in entries]
        self.rows.sort(key=lambda row: row["epoch"] or 0.0, reverse=True)
        self._states = Counter(row["verdict"] for row in self.rows)
        self.columns = [
            ("c_run", False, ""), ("c_date", False, ""), ("c_model", False, words("c_machine")),
            ("c_at_once", True, ""), ("c_verdict", False, ""), ("c_ttft", True, words("interval")),
            ("c_tokens", True, ""), ("c_right", True, words("interval")), ("c_failed", True, ""),
            ("c_energy", True, words("c_energy_unit")),
        ]  # fmt: skip

    @property
    def headline(self) -> str:
        """How many there are, and of which kinds."""
        words, rest = self.words, ""
        kinds = {"runs_running": "RUNNING", "runs_crashed": "CRASHED", "runs_damaged": "DAMAGED"}
        for key, state in kinds.items():
            if self._states[state]:
                rest += words(key, count=words.count(self._states[state]))
        count = sum(row["is_finished"] for row in self.rows)
        if not self.rows:
            return words("none_yet")
        runs = words("one_run") if count == 1 else words("n_runs", count=words.count(count))
        return words("h_runs", finished=runs, rest=rest)

    def _row(self, entry: Entry) -> dict[str, Any]:
        words, note = self.words, ""
        verdict, word = entry.verdict or "DAMAGED", ""
        if entry.status == "damaged":
            verdict, word, note = "DAMAGED", words("v_damaged"), entry.wrong
        elif entry.status != "complete":
            note = words("v_interrupted")
        p50, low, high = (None, None, None) if entry.is_sweep else entry.ttft_ms
        ttft = words.ms(p50)
        if p50 is not None and None in (low, high):
            ttft = f"({ttft})"
        share, share_low, share_high = entry.right
        speed = words.number(entry.tokens_per_s), ""
        if entry.best_level is not None:
            speed = words("best", value=speed[0]), words("best_at", level=entry.best_level)
        failed = words.count(entry.failed)
        if entry.failed and entry.requests:
            failed = words("failed_of", failed=failed, of=words.count(entry.requests))
        return {
            **self._start(entry.name, entry.started),
            "is_finished": entry.status != "damaged",
            "note": note,
            "base": entry.base,
            "dates": self._often[entry.base] if self._often[entry.base] > 1 else 0,
            "model": ", ".join(
                filter(None, (entry.model, st.printable(entry.quantization or "", 30)))
            ),
            "machine": entry.machine,
            "level": _blank(entry.levels[-1] if entry.levels else None),
            "levels": ", ".join(map(str, entry.levels[:8])) or "–",
            "verdict": verdict,
            "word": word,
            "ttft": (
                ttft,
                words("by_level") if entry.is_sweep else _pair(words.interval, low, high),
            ),
            "ttft_v": _blank(p50),
            "speed": speed,
            "speed_v": _blank(entry.tokens_per_s),
            "right": (
                words.share(share),
                _pair(lambda both: words.share(*both), share_low, share_high),
            ),
            "right_v": _blank(share),
            "failed": failed,
            "failed_v": _blank(entry.failed),
            "energy": words.number(entry.j_per_token),
            "energy_v": _blank(entry.j_per_token),
        }

    def _unfinished(self, view: Mapping[str, Any]) -> dict[str, Any]:
        words, config = self.words, view["config"] or {}
        state = view["state"].upper() if view["state"] not in pages.BUSY else "RUNNING"
        levels = config.get("concurrent", [])
        levels = levels if isinstance(levels, list) else [levels]
        damage = [st.printable(line, 200) for line in view["damage"]]
        saved = words("answers_saved", count=words.count(view["saved"]))
        if view["behind"]:
            saved = words("h_reading")
        blank = {
            f"{key}{ending}": value
            for key in ("ttft", "speed", "right", "failed", "energy")
            for ending, value in (
                ("", ("–", "") if key not in ("failed", "energy") else "–"),
                ("_v", ""),
            )
        }
        return {
            **self._start(view["name"], view["started"]),
            "is_finished": False,
            "note": ". ".join([*damage, saved]),
            "base": view["name"],
            "dates": 0,
            "model": st.printable(view["model"] or "", 100),
            "machine": "",
            "level": _blank(levels[-1] if levels else None),
            "levels": ", ".join(map(str, levels[:8])) or "–",
            "verdict": state,
            "word": words("v_interrupted") if state == "STOPPED" else words(f"v_{state.lower()}"),
            **blank,
        }

    @staticmethod
    def _start(name: str, started: str | None) -> dict[str, Any]:
        epoch: float | str = ""
        if started:
            with contextlib.suppress(ValueError, OverflowError):
                epoch = round(dt.datetime.fromisoformat(started).timestamp(), 3)
        date = (started or "")[:16].replace("T", " ")
        shown = st.printable(name, 200)
        return {"name": name, "shown": shown, "started": started, "epoch": epoch, "date": date}


def _blank(value: float | None) -> float | str:
    return "" if value is None else value


def _pair(say: Callable[[Any], str], low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else say((low, high))


def trends(
    words: pages.Words, entries: Sequence[Entry]
) -> Iterable[tuple[str, list[charts.TrendPoint], str, str]]:
    """Yield the figures of dated runs: title, points, kind, colour; INVALID runs are left out."""
    good = [entry for entry in entries if entry.verdict != "INVALID"]

    def points(
        values: Callable[[Entry], Sequence[float | None]], say: Callable[[float], str]
    ) -> Any:
        found = []
        for entry in good:
            value, low, high = values(entry)
            if value is not None:
                text = f"{st.printable(entry.name, 80)}: {say(value)}"
                found.append(charts.TrendPoint(entry.started or "", value, low, high, text))
        return found

    level = [entry for entry in good if not entry.is_sweep]
    ttft = points(lambda e: e.ttft_ms if e in level else (None, None, None), words.ms)
    speed = points(lambda e: (e.tokens_per_s, None, None), words.number)
    yield words("t_ttft"), ttft, "ms", "a"
    yield words("t_tokens"), speed, "rate", "a"
    yield words("t_right"), points(lambda e: e.right, words.share), "share", "quality"
