"""Recompute a results file: every number in it must follow from its own records.

    llm_stresstest.py verify NAME     exit code 0: verified; 1: it differs, one line a difference

    differences = verify.verify_run(st.load_results(path))     # [] when the file is as it should be

These things are checked: each record has the types and obeys the rules of a record; each value that
a record derives from others (such as `tpot_ms`) follows from them; the aggregate, the verdict with
its reasons, and what became of the thresholds are those that are computed anew; no record is
missing or there twice; and the digest in `meta` is that of the meta and the records.

A file may have been damaged or forged, so nothing in it is trusted: what cannot be read is a
difference like any other, with the place where it stands. Only what is no results file at all is an
error (exit code 2).
"""

from __future__ import annotations

import functools
import json
import math
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

import llm_stresstest as st
from extensions import hardware

SHOWN = 20  # differences on screen
STATUSES = ("ok", "error", "timeout", "truncated", "cancelled")
ROUNDING = 2e-6  # files hold numbers rounded to six digits after the point
_ABSENT = object()


def main(argv: Sequence[str] | None = None) -> int:
    """Recompute a results file and show what differs; return the exit code."""
    parser = st.Parser(
        prog="llm_stresstest.py verify",
        description="Recompute every number of a results file from its records.",
    )
    parser.add_argument("name", help="a results file, or the name of a run")
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="where the run's file is")
    options = parser.parse_args(argv)
    contents = read_contents(st.find_results(options.name, options.results_dir))
    differences = contents.differences()
    lines = [
        st.styled(("differs  ", "bold red"), st.printable(line)) for line in differences[:SHOWN]
    ]
    if len(differences) > SHOWN:
        lines.append(st.styled(f"         and {len(differences) - SHOWN} more"))
    verdict = ("NOT VERIFIED", "bold red") if differences else ("verified", "bold green")
    counts = f"{len(contents.records)} results, {len(differences)} differences"
    st.show([*lines, st.styled(verdict, f"  {st.printable(contents.path)}: {counts}")])
    return 1 if differences else 0


def verify_run(run: st.SavedRun) -> list[str]:
    """Return what differs between a run and what its records give, a line each."""
    return Contents(run.path, run.meta, run.records, run.aggregate, run.samples).differences()


def read_contents(path: Path) -> Contents:
    """Read a results file without trusting what it holds. Raises ConfigError when it is none."""
    data = st.read_json(path, st.ConfigError)
    if not isinstance(data, dict) or not {"meta", "results", "aggregate"} <= data.keys():
        raise st.ConfigError(
            f"{path}: is not a results file: it has no meta, results and aggregate"
        )
    meta, records = data["meta"], data["results"]
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if version != st.SCHEMA_VERSION:
        raise st.ConfigError(
            f"{path}: has schema_version {st.printable(version, 20)}; "
            f"this version reads {st.SCHEMA_VERSION}"
        )
    if not isinstance(records, list):
        raise st.ConfigError(f"{path}: results: must be a list")
    return Contents(path, meta, records, data["aggregate"], data.get("samples"))


class Contents(NamedTuple):
    """What stands in a results file, of whatever types."""

    path: Path
    meta: Any
    records: Sequence[Any]
    aggregate: Any
    samples: Any

    def differences(self) -> list[str]:
        """Return what differs from what the records give, a line each."""
        results, differences = list[st.Result](), list[str]()
        for place, record in enumerate(self.records):
            try:
                result = _read_record(record)
                results.append(result)
                differences += _record_faults(f"results[{place}]", result)
                differences += _differences(result.to_record(), record, f"results[{place}]")
            except Exception as error:  # noqa: BLE001 - a file may hold anything
                differences.append(f"results[{place}]: cannot be read: {_short(error)}")
        if len(results) < len(self.records):
            differences.append("aggregate: not recomputed, since not every record can be read")
        else:
            differences += _found("aggregate", self._computed_differences(results))
        return [*differences, *_found("meta", self._digest_differences())]

    def _computed_differences(self, results: Sequence[st.Result]) -> Iterator[str]:
        """Yield what does not follow from the records and the configuration."""
        config = _config(self.meta)
        if isinstance(config, str):
            yield config
            return
        if not isinstance(self.aggregate, dict):
            yield "aggregate: must be an object"
            return
        run = st.SavedRun(self.path, self.meta, list(results), self.aggregate, list(self.records))
        host = (self.meta.get("hardware") or {}).get("host")
        energy = functools.partial(hardware.energy, self.samples, prices=config.hardware, host=host)
        anew = st.calculate_aggregates(results, config, run.itl_us, energy)
        yield from _differences(anew, self.aggregate, "aggregate")
        yield from self._meta_differences(config, anew)
        yield from self._missing(config, results)

    def _meta_differences(self, config: st.Config, aggregate: Mapping[str, Any]) -> Iterator[str]:
        """Yield what differs from a verdict judged anew, and from the configuration."""
        meta = self.meta
        report = st.LoadReport.from_meta(meta)
        anew = {
            "validity": st.judge_validity(config, aggregate, report),
            "thresholds": [check._asdict() for check in st.check_thresholds(config, aggregate)],
            "model": config.model,
            "concurrent": config.concurrent,
            "questions": config.questions,
            "timeout": config.timeout,
        }
        yield from _differences(anew, {name: meta.get(name, _ABSENT) for name in anew}, "meta")
        if meta["status"] not in ("complete", "interrupted"):
            yield f"meta.status: {_shown(meta['status'])} is none of complete, interrupted"

    def _missing(self, config: st.Config, results: Sequence[st.Result]) -> Iterator[str]:
        """Yield which requests are there twice, or not at all though the run is complete."""
        times = Counter((result.index, result.turn) for result in results)
        for (index, turn), count in sorted(times.items()):
            if count > 1:
                yield f"results: request {index}, turn {turn}, stands there {count} times"
        if config.duration is not None or self.meta["status"] != "complete":
            return
        wanted = set(range(self.meta["questions_asked"] * config.passes))
        there = {index for index, _ in times}
        for index in sorted(wanted ^ there)[:SHOWN]:
            said = "is missing" if index in wanted else "was never asked"
            yield f"results: request {index} {said}"

    def _digest_differences(self) -> Iterator[str]:
        digest = st.Digest(self.meta)
        for record in self.records:
            digest.add(record)
        if self.samples is not None:
            digest.add(self.samples)
        stored = self.meta.get("digest")
        if stored != digest.hexdigest():
            yield (
                f"meta.digest: that of what stands here is {digest.hexdigest()[:16]}…, "
                f"the file says {_shown(stored)}: something in them was changed"
            )


def _found(what: str, differences: Iterable[str]) -> list[str]:
    """Return the differences; that they cannot be computed to the end is one as well."""
    found = list[str]()
    try:
        for difference in differences:
            found.append(difference)
    except Exception as error:  # noqa: BLE001 - a file may hold anything
        found.append(f"{what}: cannot be recomputed: {_short(error)}")
    return found


def _config(meta: Any) -> st.Config | str:
    """Return the run's configuration, or what is wrong with it."""
    try:
        return st.Config.model_validate(meta["config"])
    except KeyError:
        return "meta.config: is missing"
    except pydantic.ValidationError as error:
        return f"meta.config{_first_problem(error)}"


# === Records ===


def _record_model() -> type[pydantic.BaseModel]:
    """Return the types of a record: a Result's own, and a number or null for each time in ms."""
    hints = typing.get_type_hints(st.Result)
    number = typing.Annotated[float, pydantic.Field(ge=-1e15, le=1e15)] | None
    fields: dict[str, Any] = {
        name: (hints.get(name, number), ...) for name in st.Result(0, "", "").to_record()
    }
    fields["error"] = (dict[str, Any] | None, ...)
    fields["chunk_ms"] = (list[number] | None, ...)
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return pydantic.create_model("Record", __config__=config, **fields)


_RECORD = _record_model()


def _read_record(record: Any) -> st.Result:
    """Return the result of a record. Raises ValueError, or whatever a malformed one raises."""
    try:
        _RECORD.model_validate(record)
    except pydantic.ValidationError as error:
        raise ValueError(_first_problem(error).removeprefix(".")) from None
    return st.Result.from_record(record)


def _record_faults(where: str, result: st.Result) -> Iterator[str]:
    """Yield what cannot be true of a record, though each of its values can be."""
    if result.ok and (result.sent_ns is None or result.end_ns is None or result.error is not None):
        yield f"{where}: status ok, but without times or with an error"
    if result.status not in STATUSES:
        yield f"{where}: status {st.printable(result.status, 40)} is none of {', '.join(STATUSES)}"
    if result.error is None and not result.ok:
        yield f"{where}: status {result.status} without an error"
    if result.error is not None and result.error.kind not in st.FAILURES:
        yield f"{where}: error: {st.printable(result.error.kind, 40)} is no kind of failure"
    if result.chunk_ns and (
        len(result.chunk_ns) != result.chunks
        or (result.ok and result.chunk_ns[-1] != result.end_ns)
    ):
        yield f"{where}: chunk_ms does not add up to time"
    if not 0 <= result.quality <= 1 or (result.quality and not result.graded):
        yield f"{where}: quality {result.quality:g}, graded {json.dumps(result.graded)}"


# === Comparing ===


def _differences(anew: Any, stored: Any, where: str) -> Iterator[str]:
    """Yield where two JSON values differ; numbers may differ by rounding."""
    if isinstance(anew, Mapping) and isinstance(stored, Mapping):
        for key in [*anew, *(key for key in stored if key not in anew)]:
            yield from _differences(
                anew.get(key, _ABSENT), stored.get(key, _ABSENT), f"{where}.{key}"
            )
    elif isinstance(anew, list) and isinstance(stored, list) and len(anew) == len(stored):
        for place, (mine, theirs) in enumerate(zip(anew, stored, strict=True)):
            yield from _differences(mine, theirs, f"{where}[{place}]")
    elif not _agree(anew, stored):
        yield f"{where}: the records give {_shown(anew)}, the file says {_shown(stored)}"


def _agree(anew: Any, stored: Any) -> bool:
    """Compare two values that are no containers of one kind; true is not 1, but 1 is 1.0."""
    numbers = [value for value in (anew, stored) if isinstance(value, int | float)]
    if len(numbers) < 2 or isinstance(anew, bool) or isinstance(stored, bool):
        return type(anew) is type(stored) and bool(anew == stored)
    try:
        return math.isclose(anew, stored, rel_tol=1e-9, abs_tol=ROUNDING)
    except OverflowError:  # an integer beyond every float
        return bool(anew == stored)


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else st.printable(json.dumps(value), 200)


def _first_problem(error: pydantic.ValidationError) -> str:
    """Return the place and the nature of what pydantic found first, such as `.stage: …`."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _short(error: Exception) -> str:
    said = str(error).partition("\n")[0]
    return said if type(error) is ValueError else f"{type(error).__name__}: {said}"
