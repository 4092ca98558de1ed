"""Write the requests of runs as a table: CSV, Excel, Parquet, JSON Lines, Markdown, llm-d report.

    llm_stresstest.py export NAME                                 results/NAME.csv
    llm_stresstest.py export A B --format xlsx -o both.xlsx       all runs in one table
    rows = export.read_csv(path)                                  a CSV of ours, exactly

One row a request, with its run and level; names are flat and end in their unit. What was not
measured is empty (null), never 0. A text that a spreadsheet would take for a formula gets an
apostrophe before it in CSV and Excel, and so does one that begins with an apostrophe: taking one
away gives the text back exactly. Parquet, JSON Lines and Markdown hold texts as they are.

The order of this file: the command line, columns, the formats, Excel, the llm-d report.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import llm_stresstest as st

Row = dict[str, Any]
Value = str | int | float | bool | None

# === Command line ===


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table; return the exit code."""
    options = _parser().parse_args(argv)
    if options.csv_dialect != "plain" and options.format != "csv":
        raise st.ConfigError("--csv-dialect: is for --format csv")
    paths = [st.find_results(name, options.results_dir) for name in options.names]
    kind = FORMATS[options.format]
    name = "_".join(dict.fromkeys(path.stem for path in paths))[:120]
    path = options.output or paths[0].with_name(f"{name}{kind.ending}")
    if path.exists() and (not options.overwrite or path.is_dir()):
        raise st.ConfigError(f"{path}: exists; --overwrite replaces it")
    if any(path.exists() and path.samefile(one) for one in paths):
        raise st.ConfigError(f"{path}: is one of the results files; name another one")
    write = kind.write
    if options.csv_dialect == "excel-de":
        write = functools.partial(write_csv, german=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = write(Runs(paths), beside)
        beside.replace(path)
    except OSError as error:
        raise st.ResultsError(f"{path}: cannot be written: {error.strerror or error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        names = ", ".join(str(one) for one in paths)
        text = st.printable(f"{type(error).__name__}: {error}", 200)
        raise st.ConfigError(
            f"{names}: cannot be exported ({text}): damaged, or a fault of this program; "
            "llm_stresstest.py verify says which"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    line = st.styled(("wrote  ", "dim"), f"{st.printable(path, 4000)}: {count}")
    line.no_wrap = True
    st.show([line])
    return 0


def _parser() -> st.Parser:
    parser = st.Parser(
        prog="llm_stresstest.py export",
        description="Write the requests of runs as a table, one row a request.",
        epilog="examples:\n  llm_stresstest.py export first_run\n"
        "  llm_stresstest.py export fp16 q4 --format xlsx -o both.xlsx\n"
        "  llm_stresstest.py export first_run --csv-dialect excel-de",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("names", nargs="+", metavar="NAME", help="results files, or names of runs")
    formats = ", ".join(FORMATS)
    option("--format", choices=FORMATS, default="csv", metavar="FORMAT", help=formats)
    option("-o", "--output", type=Path, metavar="FILE", help="else NAME.csv beside the results")
    dialects = "excel-de: semicolon, decimal comma and BOM, for a German Excel"
    option("--csv-dialect", choices=("plain", "excel-de"), default="plain", help=dialects)
    option("--overwrite", action="store_true", help="replace a file that exists")
    option("--results-dir", type=Path, metavar="DIR", help="where the runs' files are")
    return parser


# === Columns ===


class Column(NamedTuple):
    """A column of the table."""

    name: str
    kind: type  # str, int, float or bool
    value: Callable[[st.Result], Value]
    width: int = 10  # in Excel


def _plain(name: str, kind: type, width: int = 10) -> Column:
    return Column(name, kind, lambda result: getattr(result, name), width)


def _since_start(field: str, name: str) -> Column:
    def value(result: st.Result) -> float | None:
        ns = getattr(result, field)
        return None if ns is None else ns / 1e6

    return Column(name, float, value, 12)


def _error(name: str, field: str, kind: type, width: int = 14) -> Column:
    def value(result: st.Result) -> Value:
        return None if result.error is None else cast(Value, getattr(result.error, field))

    return Column(name, kind, value, width)


COLUMNS = (
    _plain("id", str, 24),
    _plain("category", str, 14),
    _plain("status", str),
    Column("quality", float, lambda r: r.quality if r.graded else None),
    Column("e2e_ms", float, lambda r: r.time_ms),
    _plain("ttft_ms", float),
    _plain("tpot_ms", float),
    _plain("answer_ttft_ms", float),
    Column("output_tokens", int, lambda r: r.token),
    _plain("prompt_tokens", int),
    _plain("cached_tokens", int),
    _plain("reasoning_tokens", int),
    _plain("question", str, 50),
    _plain("answer", str, 60),
    _plain("reasoning", str, 30),
    _plain("grader", str),
    _plain("grade_reason", str, 30),
    _plain("finish_reason", str),
    _error("error_kind", "kind", str),
    _error("http_status", "http_status", int),
    _error("error_message", "message", str, 40),
    _since_start("sent_ns", "sent_ms"),
    _since_start("end_ns", "end_ms"),
    _since_start("scheduled_ns", "scheduled_ms"),
    _plain("queue_ms", float),
    _plain("connect_ms", float),
    _plain("chunks", int),
    _plain("token_source", str),
    _plain("server_queue_ms", float),
    _plain("server_prefill_ms", float),
    _plain("server_decode_ms", float),
    _plain("client_error_ms", float),
    _plain("index", int),
    _plain("turn", int),
)
RUN_COLUMNS = {"run": str, "level": int, "stage": int}
TYPES: dict[str, type] = {**RUN_COLUMNS, **{column.name: column.kind for column in COLUMNS}}


class Runs:
    """The runs to write, of which one request at a time is in memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def heads(self) -> Iterator[st.SavedRun]:
        """Return the runs without their records."""
        return (st.load_results(path, results=False) for path in self.paths)

    def rows(self) -> Iterator[Row]:
        """Return a row a request, in the order of the files."""
        for head in self.heads():
            yield from rows_of(head, st.iterate_results(head.path))


def rows_of(run: st.SavedRun, results: Iterable[st.Result]) -> Iterator[Row]:
    """Return a run's rows, with its name and the level of each request."""
    levels = {stage["stage"]: stage["concurrent"] for stage in run.aggregate["stages"]}
    whole = run.meta["concurrent"]
    only = whole if isinstance(whole, int) else None
    for result in results:
        level = levels.get(result.stage, only)
        row: Row = {"run": run.path.stem, "level": level, "stage": result.stage}
        row.update((column.name, column.value(result)) for column in COLUMNS)
        yield row


# === CSV ===

FORMULA = "=+-@\t\r\n'"  # what may begin a formula, and what makes one inert


def inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; `original` gives it back."""
    # Some trim blanks, or read full-width signs as the plain ones.
    begin = text.lstrip(" \u00a0\u3000\ufeff")[:1].translate(_FULL_WIDTH)
    return "'" + text if (begin and begin in FORMULA) or text[:1] == "'" else text


_FULL_WIDTH = str.maketrans("＝＋－＠", "=+-@")


def original(text: str) -> str:
    """Return the text that `inert` was given."""
    return text[1:] if text[:1] == "'" and inert(text[1:]) == text else text


def write_csv(runs: Runs, path: Path, *, german: bool = False) -> str:
    """Write a CSV as RFC 4180 has it, or one that opens right in a German Excel."""
    encoding, delimiter = ("utf-8-sig", ";") if german else ("utf-8", ",")
    count = 0
    with path.open("w", encoding=encoding, errors="surrogatepass", newline="") as file:
        file.write(delimiter.join(TYPES) + "\r\n")
        for row in runs.rows():
            cells = (_csv_cell(value, german=german) for value in row.values())
            file.write(delimiter.join(cells) + "\r\n")
            count += 1
    return f"{count:,} requests"


def _csv_cell(value: Value, *, german: bool) -> str:
    """Return a cell. A null is empty, and each text is quoted: so an empty text comes back.

    The standard library's writer can tell the two apart from Python 3.12 on.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + inert(value).replace('"', '""') + '"'
    text = repr(value)
    return text.replace(".", ",") if german else text


def read_csv(path: Path) -> list[Row]:
    """Read a CSV of ours back, of either dialect: each value as it was, nulls as None."""
    with path.open(encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
        text = file.read()
    delimiter = ";" if text.startswith(('"run";', "run;")) else ","
    found = []
    records = list(_records(text, delimiter))
    for cells in records[1:]:
        row: Row = {}
        for (name, kind), (cell, quoted) in zip(TYPES.items(), cells, strict=True):
            row[name] = None if not cell and not quoted else _parsed(cell, kind)
        found.append(row)
    return found


def _parsed(cell: str, kind: type) -> Value:
    if kind is str:
        return original(cell)
    if kind is float:
        return float(cell.replace(",", "."))
    return cast(Value, kind(cell))


def _records(text: str, delimiter: str) -> Iterator[list[tuple[str, bool]]]:
    """Return the cells of each record, and whether they were quoted: csv does not tell."""
    cell = re.compile(rf'(?:"((?:[^"]|"")*)"|([^{delimiter}\r\n]*))({delimiter}|\r?\n|$)')
    place, record = 0, list[tuple[str, bool]]()
    while place < len(text):
        found = cell.match(text, place)
        if found is None:
            raise st.ConfigError(f"the CSV is damaged at character {place:,}")
        quoted = found.group(1) is not None
        value = found.group(1).replace('""', '"') if quoted else found.group(2)
        record.append((value, quoted))
        place = found.end()
        if found.group(3) != delimiter:
            yield record
            record = []


# === JSON Lines, Markdown, Parquet ===


def write_jsonl(runs: Runs, path: Path) -> str:
    """Write one JSON object a line."""
    count = 0
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for row in runs.rows():
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return f"{count:,} requests"


def write_markdown(runs: Runs, path: Path) -> str:
    """Write the runs' levels as a table for a wiki or an issue, with verdicts and caveats."""
    heads = (
        "run", "at once", "answers", "failed", "tokens/s ↑", "one user ↑", "TTFT p50 ↓",
        "E2E p50 ↓", "E2E p95 ↓", "right ↑", "verdict",
    )  # fmt: skip
    lines = [_markdown(heads), "|---|" + "---:|" * (len(heads) - 2) + "---|"]
    caveats = []
    for run in runs.heads():
        meta, name = run.meta, run.path.stem
        verdict = meta["validity"]["verdict"]
        for part in run.aggregate["stages"] or [run.aggregate]:
            scores = part["quality"]["under_load"]
            right = st.format_share(scores["correct_share"])
            if scores["n"]:
                right += f" ({st.format_share(*scores['correct_ci95'])}, of {scores['n']:,})"
            lines.append(_markdown((
                name, part.get("concurrent", meta["concurrent"]), f"{part['ok']:,}",
                f"{part['failed']:,}", st.format_number(st.total_speed(part)),
                st.format_number(st.one_user_speed(part)), _percentile(part["ttft_ms"], "p50"),
                _percentile(part["e2e_ms"], "p50"), _percentile(part["e2e_ms"], "p95"), right,
                verdict,
            )))  # fmt: skip
        caveats += [
            f"- {_escaped(name)}: {_escaped(reason['message'])} ({_escaped(reason['code'])})"
            for reason in meta["validity"]["reasons"]
        ]
    notes = "\n↑ more is better, ↓ less is better; in brackets: too few answers for an interval.\n"
    text = "\n".join([*lines, notes, *caveats]).rstrip() + "\n"
    path.write_text(text, encoding="utf-8", errors="replace")
    return f"{len(lines) - 2:,} rows"


def _percentile(summary: Mapping[str, Any], name: str) -> str:
    text = st.format_ms(summary[name])
    return f"({text})" if summary["n"] and None in summary["ci95"][name] else text


def _markdown(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: object) -> str:
    """Return a text that is only text in Markdown, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$@])", r"\\\1", st.printable(text, 500))


def write_parquet(runs: Runs, path: Path) -> str:
    """Write Parquet with the columns' types, in row groups, so that memory stays flat."""
    try:
        import polars as pl  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise st.MissingPackageError("export", error.name, "parquet") from None
    types = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    schema = {name: types[kind] for name, kind in TYPES.items()}
    count = 0
    with _parts(path) as part:
        for rows in _batches(runs.rows(), 5_000):
            clean = [{k: _encodable(v) for k, v in row.items()} for row in rows]
            pl.DataFrame(clean, schema=schema).write_parquet(part(), compression="zstd")
            count += len(rows)
        if not count:
            pl.DataFrame(schema=schema).write_parquet(part())
        pl.scan_parquet(part.paths).sink_parquet(path, compression="zstd", row_group_size=10_000)
    return f"{count:,} requests"


class _parts:  # noqa: N801 (used as a function)
    """Names files beside a path, and removes them at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self.paths = path, list[Path]()

    def __call__(self) -> Path:
        self.paths.append(self._path.with_name(f"{self._path.name}.{len(self.paths)}"))
        return self.paths[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)


def _batches(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, most)):
        yield batch


def _encodable(value: Value) -> Value:
    """Return a text without lone surrogates, which neither Parquet nor Excel can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value


# === Excel ===

MOST_ROWS = 1_048_575  # of a sheet, without its header
CELL = 32_767  # characters
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def write_xlsx(runs: Runs, path: Path) -> str:
    """Write a workbook: summary, requests, stages, categories, samples, with native charts."""
    import xlsxwriter  # noqa: PLC0415

    settings = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "nan_inf_to_errors": True,
    }
    with xlsxwriter.Workbook(str(path), settings) as workbook:
        book = Book(workbook)
        heads = list(runs.heads())
        book.summary(heads)
        book.stages(heads)
        book.categories(heads)
        count = book.requests(runs.rows())
        book.samples(heads)
    return book.said(count)


class Book:
    """Fills the workbook, sheet by sheet and row by row."""

    FORMATS: ClassVar = {float: "#,##0.0##", int: "#,##0", str: "@", bool: "@"}

    def __init__(self, workbook: Any) -> None:
        self._book, self.cut, self.sheets = workbook, 0, 0
        self._head = workbook.add_format({"bold": True, "bottom": 1, "text_wrap": True})
        self._formats = {
            kind: workbook.add_format({"num_format": code, "valign": "top"})
            for kind, code in self.FORMATS.items()
        }

    def said(self, count: int) -> str:
        """Return what is to be said of the workbook."""
        text = f"{count:,} requests"
        if self.sheets > 1:
            text += f" on {self.sheets} sheets, since one holds {MOST_ROWS:,}"
        if self.cut:
            text += f"; {self.cut:,} texts were cut at {CELL:,} characters, Excel's most"
        return text

    def _sheet(self, name: str, heads: Sequence[tuple[str, type, int]], rows: int) -> Any:
        sheet = self._book.add_worksheet(name)
        sheet.freeze_panes(1, 0)
        for place, (_, kind, width) in enumerate(heads):
            sheet.set_column(place, place, width, self._formats[kind])
        for place, (title, _, _) in enumerate(heads):
            sheet.write_string(0, place, title, self._head)
        if rows:
            sheet.autofilter(0, 0, rows, len(heads) - 1)
        return sheet

    def _write(self, sheet: Any, row: int, values: Iterable[Value]) -> None:
        """Write a row; a text is never a formula, and a null is an empty cell."""
        for place, value in enumerate(values):
            if isinstance(value, str):
                text = _NOT_XML.sub("\ufffd", cast(str, _encodable(inert(value))))
                self.cut += len(text) > CELL
                sheet.write_string(row, place, text[:CELL])
            elif isinstance(value, bool):
                sheet.write_boolean(row, place, value)
            elif value is not None:
                sheet.write_number(row, place, value)

    def requests(self, rows: Iterable[Row]) -> int:
        """Write the requests, on as many sheets as it takes; return how many they are."""
        widths = {column.name: column.width for column in COLUMNS} | {"run": 22}
        heads = [(name, kind, widths.get(name, 8)) for name, kind in TYPES.items()]
        count, sheet = 0, None
        for count, row in enumerate(rows, 1):
            place = (count - 1) % MOST_ROWS
            if not place:
                self.sheets += 1
                name = "requests" if self.sheets == 1 else f"requests {self.sheets}"
                # A filter's end must be known before its rows: as far as a sheet reaches.
                sheet = self._sheet(name, heads, MOST_ROWS)
                sheet.freeze_panes(1, 4)
            self._write(sheet, place + 1, row.values())
        if not count:
            self._sheet("requests", heads, 0)
        return count

    SUMMARY = (
        ("run", str, 26), ("verdict", str, 10), ("headline", str, 70), ("model", str, 24),
        ("server", str, 24), ("at once", str, 10), ("date", str, 20), ("requests", int, 10),
        ("ok", int, 8), ("failed", int, 8), ("duration_ms", float, 12), ("reasons", str, 70),
    )  # fmt: skip

    def summary(self, runs: Sequence[st.SavedRun]) -> None:
        """Write a row a run."""
        sheet = self._sheet("summary", self.SUMMARY, len(runs))
        for place, run in enumerate(runs, 1):
            meta, part = run.meta, run.aggregate
            reasons = meta["validity"]["reasons"]
            self._write(sheet, place, (
                run.path.stem, meta["validity"]["verdict"], st.headline(meta, part), meta["model"],
                meta["server"], json.dumps(meta["concurrent"]),
                f"{meta['start_date']} {meta['start_time']}", part["requests"], part["ok"],
                part["failed"], part["duration_ms"],
                "; ".join(f"{reason['code']}: {reason['message']}" for reason in reasons),
            ))  # fmt: skip

    STAGES = (
        ("run", str, 26), ("level", int, 8), ("requests", int, 10), ("ok", int, 8),
        ("failed", int, 8), ("total_tokens_per_s", float, 12), ("one_user_tokens_per_s", float, 12),
        *((f"{metric}_{name}_ms", float, 12) for metric in ("ttft", "tpot", "e2e")
          for name in ("p50", "p50_low", "p50_high", "p95")),
        ("good", int, 8), ("right_share", float, 10), ("right_low", float, 10),
        ("right_high", float, 10), ("graded", int, 8),
    )  # fmt: skip

    def stages(self, runs: Sequence[st.SavedRun]) -> None:
        """Write a row a level, with charts of speed and first token beside them."""
        parts = [(run, part) for run in runs for part in run.aggregate["stages"] or [run.aggregate]]
        sheet = self._sheet("stages", self.STAGES, len(parts))
        for place, (run, part) in enumerate(parts, 1):
            times = list[Value]()
            for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
                summary = part[metric]
                times += [summary["p50"], *summary["ci95"]["p50"], summary["p95"]]
            scores = part["quality"]["under_load"]
            low, high = scores["correct_ci95"] or (None, None)
            level = part.get("concurrent", run.meta["concurrent"])
            self._write(sheet, place, (
                run.path.stem, level if isinstance(level, int) else None, part["requests"],
                part["ok"], part["failed"], st.total_speed(part), st.one_user_speed(part), *times,
                part["good"], scores["correct_share"], low, high, scores["n"],
            ))  # fmt: skip
        for number, (title, column) in enumerate(
            (("Total tokens/s by requests at once (more is better)", 5),
             ("Median time to first token, ms (less is better)", 7))
        ):  # fmt: skip
            self._chart(sheet, title, column, len(parts), number)

    def _chart(self, sheet: Any, title: str, column: int, rows: int, number: int) -> None:
        chart = self._book.add_chart({"type": "column"})
        chart.add_series({
            "name": title,
            "categories": ["stages", 1, 0, rows, 1],
            "values": ["stages", 1, column, rows, column],
            "fill": {"color": "#0b63ad"},
        })  # fmt: skip
        chart.set_title({"name": title, "name_font": {"size": 11}})
        chart.set_legend({"none": True})
        chart.set_x_axis({"name": "run, requests at once"})
        sheet.insert_chart(rows + 2, 1 + 7 * number, chart)

    CATEGORIES = (
        ("run", str, 26), ("category", str, 20), ("graded", int, 8), ("ungraded", int, 9),
        ("right", int, 8), ("right_share", float, 10), ("right_low", float, 10),
        ("right_high", float, 10),
    )  # fmt: skip

    def categories(self, runs: Sequence[st.SavedRun]) -> None:
        """Write a row a category."""
        found = [
            (run, name, part)
            for run in runs
            for name, part in run.aggregate["quality"]["categories"].items()
        ]
        sheet = self._sheet("categories", self.CATEGORIES, len(found))
        for place, (run, name, part) in enumerate(found, 1):
            scores = part["of_answers"]
            low, high = scores["correct_ci95"] or (None, None)
            self._write(sheet, place, (
                run.path.stem, name, part["graded"], part["ungraded"], part["correct"],
                scores["correct_share"], low, high,
            ))  # fmt: skip

    def samples(self, runs: Sequence[st.SavedRun]) -> None:
        """Write what the machine did, a row a sample."""
        sampled = [run for run in runs if run.samples]
        if not sampled:
            return
        tables = [cast(dict[str, Any], run.samples) for run in sampled]
        names = list(dict.fromkeys(name for table in tables for name in table["columns"]))[:200]
        heads = [("run", str, 26), ("t_ms", float, 12), *((name, float, 14) for name in names)]
        sheet = self._sheet("samples", heads, sum(len(table["t_ms"]) for table in tables))
        place = 0
        for run, table in zip(sampled, tables, strict=True):
            for at, t_ms in enumerate(table["t_ms"]):
                place += 1
                values = (table["columns"].get(name) for name in names)
                row = [column[at] if column else None for column in values]
                self._write(sheet, place, (run.path.stem, t_ms, *row))


# === llm-d Benchmark Report ===
#
# Version 0.2, the format that the llm-d project's tools and its converters for other load
# generators write; see benchmark-report in github.com/llm-d/llm-d-benchmark. It has no place for
# quality and intervals: those stay in the results file. The verdict stands in the load's
# description. A stage is a report of its own.


def write_llmd(runs: Runs, path: Path) -> str:
    """Write a Benchmark Report v0.2 a line, one for each stage of each run."""
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for run in runs.heads():
            for part in run.aggregate["stages"] or [run.aggregate]:
                report = benchmark_report(run.meta, part)
                file.write(json.dumps(report, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
    return f"{count:,} reports, one a line"


def benchmark_report(meta: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a stage, or of a run at one level."""
    stage = part.get("stage", 0)
    requests: dict[str, Any] = {
        "total": part["requests"],
        "failures": part["failed"],
        "incomplete": part["cancelled"],
    }
    if part["token_sum"] is not None:
        ends = {"mean": part["token_avg"], "min": part["token_min"], "max": part["token_max"]}
        requests["output_length"] = {"units": "count", **ends}
    prompt = part["prompt_tokens_sum"]
    if prompt is not None and part["ok"]:
        requests["input_length"] = {"units": "count", "mean": prompt / part["ok"]}
    latencies = {
        "time_to_first_token": _statistics(part["ttft_ms"], "ms"),
        "time_per_output_token": _statistics(part["tpot_ms"], "ms/token"),
        "inter_token_latency": _statistics(part["itl_ms"], "ms/token"),
        "request_latency": _statistics(part["e2e_ms"], "ms"),
    }
    rates = {
        "output_token_rate": _rate(part["tokens_per_s"], "tokens/s"),
        "request_rate": _rate(part["requests_per_s"], "queries/s"),
    }
    return {
        "version": "0.2",
        "run": {
            "uid": f"{meta['run_id']}-{stage}",
            "eid": meta["run_id"],
            "time": _span(meta, part),
        },
        "scenario": {"load": _load(meta, part)},
        "results": {
            "request_performance": {
                "aggregate": {
                    "requests": requests,
                    "latency": _known(latencies),
                    "throughput": _known(rates),
                }
            }
        },
    }


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _span(meta: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, str]:
    """Return when a stage ran, or a whole run."""
    offset = str(meta.get("utc_offset") or "+0000")
    zone = f"{offset[:3]}:{offset[3:5]}"
    moments = [
        dt.datetime.fromisoformat(f"{meta[f'{name}_date']}T{meta[f'{name}_time']}{zone}")
        for name in ("start", "end")
    ]
    duration_ms = meta["total_duration_ms"]
    if part.get("window_ms"):  # a stage's, from the start of the run
        begin, end = part["window_ms"]
        moments = [moments[0] + dt.timedelta(milliseconds=ms) for ms in (begin, end)]
        duration_ms = end - begin
    start, end = (moment.isoformat(timespec="milliseconds") for moment in moments)
    return {"start": start, "end": end, "duration": f"PT{duration_ms / 1000:.3f}S"}


def _statistics(summary: Mapping[str, Any], units: str) -> dict[str, Any] | None:
    if not summary["n"]:
        return None
    names = {"mean": "avg", "stddev": "std"} | {n: n for n in ("min", *st.PERCENTILES, "max")}
    return {"units": units, **_known({name: summary[ours] for name, ours in names.items()})}


def _rate(value: float | None, units: str) -> dict[str, Any] | None:
    return None if value is None else {"units": units, "mean": value}


def _load(meta: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was asked; the format wants to know how long the prompts were."""
    config, prompt = meta["config"], part["prompt_tokens_sum"]
    if not prompt or not part["ok"]:
        return None
    standardized = {
        "tool": "llm-stresstest",
        "tool_version": str(meta["client"].get("version")),
        "source": "sampled",
        "stage": part.get("stage", 0),
        "input_seq_len": {"distribution": "other", "value": max(prompt / part["ok"], 1)},
        "concurrency": part.get("concurrent", meta["concurrent"]),
    }
    if config["rate"] is not None:
        standardized["rate_qps"] = config["rate"]
    verdict = meta["validity"]
    why = ", ".join(reason["code"] for reason in verdict["reasons"])
    said = f"questions of a catalogue; verdict {verdict['verdict']}{': ' if why else ''}{why}"
    what = {"cfg_id": meta["questions_sha256"], "description": said}
    return {"metadata": what, "standardized": standardized, "native": {"config": config}}


class Format(NamedTuple):
    """A format of the command line."""

    ending: str
    write: Callable[[Runs, Path], str]


FORMATS = {
    "csv": Format(".csv", write_csv),
    "xlsx": Format(".xlsx", write_xlsx),
    "parquet": Format(".parquet", write_parquet),
    "jsonl": Format(".jsonl", write_jsonl),
    "md": Format(".md", write_markdown),
    "llmd": Format(".llmd.jsonl", write_llmd),
}
