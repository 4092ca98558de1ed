"""Tables of requests: each value comes back, and no text becomes a formula."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import export
from tests.conftest import Project, ScriptedServer
from tests.extensions import odd_runs

FORMULAS = [
    "=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "'", "''quoted", " =1", "＝1+1",
    '=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0", "a;b,c\"d\"\r\ne", "ß € 漢 😀", "", "0012", "-5",
    "\u2028x", "NULL", "nan", "\ufeff=1",
]  # fmt: skip


def written(path: Path, form: str, *arguments: str) -> Path:
    out = path.with_name(f"out.{form}")
    assert (
        export.main([str(path), "--format", form, "-o", str(out), "--overwrite", *arguments]) == 0
    )
    return out


def expected(path: Path) -> list[dict[str, Any]]:
    run = st.load_results(path)
    return list(export.rows_of(run, run.results))


@pytest.fixture
def run_of_formulas(project: Project, server: ScriptedServer) -> Path:
    path = odd_runs.make(project, server, "some_fail")
    data = json.loads(path.read_bytes())
    texts = data["results"] * 3
    data["results"] = [
        {**record, "answer": text, "question": text, "category": text, "index": place}
        for place, (record, text) in enumerate(zip(texts, FORMULAS, strict=False))
    ]
    path = path.with_name("formulas.json")
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("dialect", ["plain", "excel-de"])
def test_a_csv_comes_back_exactly_with_its_nulls_and_empty_texts(
    run_of_formulas: Path, dialect: str
) -> None:
    path = written(run_of_formulas, "csv", "--csv-dialect", dialect)
    assert export.read_csv(path) == expected(run_of_formulas)
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf") == (dialect == "excel-de")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_is_made_inert_and_comes_back(text: str) -> None:
    shown = export.inert(text)
    assert export.original(shown) == text
    assert shown.lstrip(" \ufeff")[:1] not in set("=+-@\t\r\n＝")


def test_polars_reads_the_csv_with_the_same_values(run_of_formulas: Path) -> None:
    pl = pytest.importorskip("polars", reason="needs the group parquet")
    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    schema = {name: types[kind] for name, kind in export.TYPES.items()}
    frame = pl.read_csv(written(run_of_formulas, "csv"), schema=schema)
    rows = [
        {k: export.original(v) if isinstance(v, str) else v for k, v in row.items()}
        for row in frame.to_dicts()
    ]  # fmt: skip
    wanted = expected(run_of_formulas)
    assert [row["answer"] for row in rows] == [row["answer"] for row in wanted]
    assert [row["e2e_ms"] for row in rows] == [row["e2e_ms"] for row in wanted]


def test_parquet_keeps_types_and_values(run_of_formulas: Path) -> None:
    pl = pytest.importorskip("polars", reason="needs the group parquet")
    frame = pl.read_parquet(written(run_of_formulas, "parquet"))
    assert frame.to_dicts() == expected(run_of_formulas)
    assert frame.schema["ttft_ms"] == pl.Float64 and frame.schema["output_tokens"] == pl.Int64
    assert not list(run_of_formulas.parent.glob("*.part*"))


def one_line_ends(text: str) -> str:
    """Return a text as XML knows it, which has one end of a line."""
    return text.replace("_x000D_", "\r").replace("\r\n", "\n").replace("\r", "\n")


def test_excel_holds_values_no_formulas_and_charts(run_of_formulas: Path) -> None:
    pytest.importorskip("xlsxwriter", reason="needs the group export")
    openpyxl = pytest.importorskip("openpyxl", reason="needs the group checks")
    book = openpyxl.load_workbook(written(run_of_formulas, "xlsx"))
    assert book.sheetnames == ["summary", "stages", "categories", "requests"]
    assert len(book["stages"]._charts) == 2
    sheet = book["requests"]
    assert sheet.freeze_panes == "E2" and sheet.auto_filter.ref
    names = [cell.value for cell in sheet[1]]
    assert names == list(export.TYPES)
    for cells, row in zip(sheet.iter_rows(min_row=2), expected(run_of_formulas), strict=True):
        for cell, name in zip(cells, names, strict=True):
            value = row[name]
            assert cell.data_type != "f"
            if isinstance(value, str):
                assert one_line_ends(cell.value or "") == one_line_ends(export.inert(value))
            elif isinstance(value, float):
                assert math.isclose(cell.value, value, rel_tol=1e-12)
            else:
                assert cell.value == value


@pytest.mark.parametrize("form", export.FORMATS)
@pytest.mark.parametrize("shape", odd_runs.SHAPES)
def test_each_odd_run_can_be_written_in_each_format(
    project: Project, server: ScriptedServer, shape: str, form: str
) -> None:
    pytest.importorskip("xlsxwriter", reason="needs the group export")
    pytest.importorskip("polars", reason="needs the group parquet")
    path = odd_runs.make(project, server, shape)
    assert written(path, form).stat().st_size > 0
    if form == "jsonl":
        lines = written(path, form).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == expected(path)


def test_several_runs_stand_in_one_table_with_name_and_level(
    project: Project, server: ScriptedServer
) -> None:
    paths = [odd_runs.make(project, server, "sweep", name) for name in ("one", "two")]
    out = project.folder / "both.jsonl"
    assert export.main([*map(str, paths), "--format", "jsonl", "-o", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {(row["run"], row["level"]) for row in rows} == {
        (name, level) for name in ("one", "two") for level in (1, 2, 3)
    }


def test_a_value_that_was_not_measured_is_empty_and_not_zero(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "not_streaming")
    rows = export.read_csv(written(path, "csv"))
    assert {(row["ttft_ms"], row["tpot_ms"]) for row in rows} == {(None, None)}
    assert None in {row["quality"] for row in rows}  # question three has no grader


def test_markdown_is_a_table_in_which_texts_are_texts(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.edited(odd_runs.make(project, server, "sweep"), "a_b|c")
    lines = written(path, "md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("| a\\_b\\|c | 1 | ") and len(lines[:5]) == 5


def test_the_llmd_report_has_the_units_and_values_of_each_stage(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "sweep")
    stages = st.load_results(path).aggregate["stages"]
    lines = written(path, "llmd").read_text(encoding="utf-8").splitlines()
    for line, stage in zip(lines, stages, strict=True):
        report = json.loads(line)
        assert report["version"] == "0.2" and set(report) == {
            "version",
            "run",
            "scenario",
            "results",
        }
        found = report["results"]["request_performance"]["aggregate"]
        ttft = found["latency"]["time_to_first_token"]
        assert (ttft["units"], ttft["p50"]) == ("ms", stage["ttft_ms"]["p50"])
        assert found["latency"]["time_per_output_token"]["units"] == "ms/token"
        assert found["requests"]["total"] == stage["requests"]
        assert report["scenario"]["load"]["standardized"]["concurrency"] == stage["concurrent"]


@pytest.mark.parametrize("shape", odd_runs.SHAPES)
def test_the_llmd_report_of_each_odd_run_is_valid_by_the_published_schema(
    project: Project, server: ScriptedServer, shape: str
) -> None:
    schema = pytest.importorskip("llmd_benchmark_report.schema_v0_2", reason="needs checks")
    path = odd_runs.make(project, server, shape)
    for line in written(path, "llmd").read_text(encoding="utf-8").splitlines():
        made = schema.BenchmarkReportV02.model_validate_json(line)
        assert made.run.time.start <= made.run.time.end
        assert not made.scenario.load or "verdict" in made.scenario.load.metadata.description
        with pytest.raises(ValueError, match="extra"):  # it does refuse what it does not know
            schema.BenchmarkReportV02.model_validate({**json.loads(line), "more": 1})


def test_the_llmd_report_of_a_stage_has_the_stages_own_time(tmp_path: Path) -> None:
    lines = written(odd_runs.synthetic(tmp_path, 400, [1, 2]), "llmd").read_text().splitlines()
    first, second = (json.loads(line)["run"]["time"] for line in lines)
    # 200 requests, one sent each ms; the one at 197 ms takes 68 ms.
    assert first == {
        "start": "2026-11-25T12:00:00.000+01:00",
        "end": "2026-11-25T12:00:00.265+01:00",
        "duration": "PT0.265S",
    }
    assert second["start"] == "2026-11-25T12:00:00.200+01:00"


def test_what_exists_is_kept_and_bad_input_is_one_line(
    project: Project, server: ScriptedServer
) -> None:
    odd_runs.make(project, server, "one_request")
    kept = project.write("out.csv", "mine")
    cases: list[tuple[list[str], str]] = [
        (["run", "-o", "out.csv"], "--overwrite"),
        (["nothing"], "no such run"),
        (["run", "--format", "xls"], "xlsx"),
        (["run", "--format", "md", "--csv-dialect", "excel-de"], "--format csv"),
        (["run", "-o", "results/run.json", "--overwrite"], "results files"),
    ]
    for arguments, said in cases:
        done = project.run("export", *arguments)
        assert (done.code, done.err.count("\n")) == (2, 1), arguments
        assert said in done.err
    assert kept.read_text() == "mine"


def test_records_are_read_one_by_one_and_a_damaged_one_is_named(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "sweep")
    assert list(st.iterate_results(path)) == st.load_results(path).results
    laid_out_anew = path.with_name("anew.json")
    laid_out_anew.write_text(json.dumps(json.loads(path.read_bytes()), indent=2))
    assert list(st.iterate_results(laid_out_anew)) == st.load_results(path).results
    path.write_bytes(path.read_bytes().replace(b'"status":"ok"', b'"status:"ok"', 1))
    with pytest.raises(st.ConfigError, match="entry 0 is damaged"):
        list(st.iterate_results(path))


def test_more_rows_than_a_sheet_holds_go_to_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xlsxwriter", reason="needs the group export")
    openpyxl = pytest.importorskip("openpyxl", reason="needs the group checks")
    monkeypatch.setattr(export, "MOST_ROWS", 40)
    book = openpyxl.load_workbook(written(odd_runs.synthetic(tmp_path, 100, [1]), "xlsx"))
    assert [book[name].max_row for name in ("requests", "requests 2", "requests 3")] == [41, 41, 21]
    assert "3 sheets" in capsys.readouterr().out


def test_a_batch_is_never_larger_than_it_may_be() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"a": number} for number in range(7))

    assert [len(batch) for batch in export._batches(rows(), 3)] == [3, 3, 1]
