"""What a terminal shows: the sentence by its rules, and a layout that never cuts."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import llm_stresstest as st
from tests.conftest import ROOT, Project, ScriptedServer, streams, whole

MS = st.NS_PER_MS
SPACE = "\u202f"


def stage_results(
    stage: int = 0,
    n: int = 20,
    tpot_ms: float = 10,
    ttft_ms: float = 50,
    first: int = 0,
    **more: Any,
) -> list[st.Result]:
    """Return answers of five tokens that follow each other, `stage` ones at a time as fast as their TPOT."""
    results = []
    for index in range(n):
        sent = round(index * (ttft_ms + 4 * tpot_ms) * MS / (stage + 1))
        times = [round(sent + (ttft_ms + gap * tpot_ms) * MS) for gap in range(5)]
        values: dict[str, Any] = {
            "answer": "text", "sent_ns": sent, "end_ns": times[-1], "chunk_ns": times, "first_ns": times[0],
            "answer_ns": times[0], "chunks": 5, "token": 5, "token_source": "usage", "finish_reason": "stop", "stage": stage,
        }  # fmt: skip
        results.append(st.Result(first + index, f"q{index}", "?", **{**values, **more}))
    return results


def failed_results(n: int, kind: str = "timeout", first: int = 1000) -> list[st.Result]:
    return [
        st.Result(
            first + index, f"f{index}", "?", status="error", error=st.Failure(kind, kind), sent_ns=0, end_ns=5 * MS, chunk_ns=[],
        )
        for index in range(n)
    ]  # fmt: skip


def run_of(
    results: list[st.Result], reasons: tuple[str, ...] = (), verdict: str = "SUSPECT", **config: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the meta and the aggregate of a run with these results."""
    made = st.Config.model_validate({"server": "embedded", "model": "m", **config})
    found = [
        {"code": code, "message": f"{code} is why, and this is what to do"} for code in reasons
    ]
    meta = {
        "server": "http://127.0.0.1:1/v1", "model": "m", "concurrent": made.concurrent, "questions": 20, "status": "complete",
        "total_duration_ms": 88_000.0, "validity": {"verdict": verdict if found else "VALID", "reasons": found},
        "config": made.model_dump(), "thresholds": [], "tls_verified": None, "embedded": None,
    }  # fmt: skip
    return meta, st.calculate_aggregates(results, made)


def graded(results: list[st.Result], right: int) -> list[st.Result]:
    """Return the results graded: the first `right` ones are right."""
    for place, result in enumerate(results):
        result.grader, result.graded, result.quality = "exact", True, float(place < right)
    return results


def sweep(
    totals: dict[int, float] | None = None, right: tuple[int, ...] = (), **config: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a sweep whose levels have these totals in tokens/s; each user's TPOT is level / total."""
    totals = totals or {1: 40, 2: 70, 4: 100, 8: 105}
    results: list[st.Result] = []
    for stage, (level, total) in enumerate(totals.items()):
        made = stage_results(stage, first=len(results), tpot_ms=1000 * level / total)
        results += graded(made, right[stage]) if right else made
    meta, aggregate = run_of(results, concurrent=list(totals), **config)
    for part, total in zip(aggregate["stages"], totals.values(), strict=True):
        part["tokens_per_s"] = part["steady"]["tokens_per_s"] = float(total)
    return meta, aggregate


HEADLINES: dict[str, tuple[tuple[dict[str, Any], dict[str, Any]], str]] = {
    "no answer": (run_of(failed_results(7, "dns"), ("no_answers",), "INVALID"), "No answer came: 7 × dns."),
    "nothing asked": (run_of([]), "No answer came: nothing was asked."),
    "client saturated": (run_of(stage_results(), ("client_saturated",)), "These times are this program's own, not the server's."),
    "knee, halves": (sweep({1: 40, 4: 100, 8: 105}), f"Beyond 4 at once, users only slow each other down: the total grows 5{SPACE}%, each user's speed halves."),
    "knee, falls": (sweep({1: 40, 4: 100, 5: 105}), f"Beyond 4 at once, users only slow each other down: the total grows 5{SPACE}%, each user's speed falls by 16{SPACE}%."),
    "total falls": (sweep({1: 40, 4: 100, 8: 90}), f"Beyond 4 at once, users slow each other down: the total falls by 10{SPACE}%, each user's speed falls by 55{SPACE}%."),
    "no level pays": (sweep({2: 40, 4: 41}), f"Beyond 2 at once, users only slow each other down: the total grows 2.5{SPACE}%, each user's speed halves."),
    "still grows": (sweep({1: 40, 2: 70, 4: 100}), "Up to 4 at once the total keeps growing, to 100 tokens/s."),
    "a dip makes no knee": (sweep({1: 42, 2: 68, 4: 56, 8: 65}), f"Beyond 2 at once, users slow each other down: the total falls by 4.4{SPACE}%, each user's speed falls by 76{SPACE}%."),
    "levels in any order": (sweep({4: 100, 1: 40, 2: 70}), "Up to 4 at once the total keeps growing, to 100 tokens/s."),
    "quality falls": (sweep(right=(18, 18, 8, 6)), f"From 4 at once on, answers get worse: 90{SPACE}% → 40{SPACE}% right."),
    "quality falls within chance": (sweep({1: 40, 2: 70}, right=(18, 14)), "Up to 2 at once the total keeps growing, to 70.0 tokens/s."),
    "limit missed": (run_of(stage_results(n=18, ttft_ms=90) + failed_results(2), slo={"ttft_ms": 60}), f"18 of 20 requests start later than the limit of 60{SPACE}ms, and 2 fail outright."),
    "two limits missed": (run_of(stage_results(ttft_ms=90), slo={"ttft_ms": 60, "e2e_ms": 1500}), "20 of 20 requests miss a limit."),
    "failures": (run_of(stage_results() + failed_results(3, "http_status")), "3 of 23 requests fail, most often http status."),
    "healthy": (run_of(graded(stage_results(), 5)), f"Half of the answers start within 50.0{SPACE}ms; a user gets 100 tokens/s; 25{SPACE}% of the graded answers are right."),
    "estimated": (run_of(stage_results(), ("tokens_estimated",)), f"Half of the answers start within 50.0{SPACE}ms; a user gets about 100 tokens/s."),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADLINES)
def test_the_headline_is_the_first_rule_that_applies(case: str) -> None:
    run, sentence = HEADLINES[case]
    assert st.headline(*run) == sentence
    assert len(sentence.split(" ")) <= 20


def test_a_run_without_streaming_says_when_answers_end_instead_of_when_they_start() -> None:
    run = run_of(stage_results(chunk_ns=[], first_ns=None, answer_ns=None), stream=False)
    assert st.headline(*run) == f"Half of the answers end within 90.0{SPACE}ms."


def test_a_sweep_without_tokens_claims_no_speed_over_its_levels() -> None:
    meta, aggregate = sweep()
    for part in aggregate["stages"]:
        part["tokens_per_s"] = part["steady"]["tokens_per_s"] = None
    assert st.headline(meta, aggregate) == "80 of 80 requests were answered."


def test_grades_are_paired_with_those_of_the_same_question_at_the_lowest_level() -> None:
    _, aggregate = sweep({1: 40, 2: 70}, right=(18, 14))
    assert [part["quality"]["paired"] for part in aggregate["stages"]] == [
        None,
        {"n": 20, "better": 0, "worse": 4},
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0 ms"), (0.0004, "0.000400 ms"), (0.1234, "0.123 ms"), (9.999, "10.0 ms"), (52.64, "52.6 ms"), (342.4, "342 ms"),
        (999.4, "999 ms"), (999.5, "1.00 s"), (1518, "1.52 s"), (27_240, "27.2 s"), (119_400, "119 s"), (119_500, "1.99 min"),
        (120_000, "2.00 min"), (7_200_000, "120 min"), (-12.3, "−12.3 ms"),
    ],
)  # fmt: skip
def test_times_have_three_significant_digits(value: float | None, text: str) -> None:
    assert st.format_ms(value) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [((288, 480), "288 to 480 ms"), ((950, 1800), "0.950 to 1.80 s"), ((None, 5), "–"), ((57.8, 79.2), "57.8 to 79.2 ms")],
)  # fmt: skip
def test_an_interval_has_one_unit(bounds: tuple[float | None, float], text: str) -> None:
    assert st.format_interval(bounds) == text.replace(" ms", SPACE + "ms").replace(
        " s", SPACE + "s"
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0034, "0.3 %"), (0.05, "5 %"), (0.0995, "10 %"), (0.284, "28 %"), (0.9975, "99.8 %"), (1, "100 %"), (1.347, "135 %"), (None, "–")],
)  # fmt: skip
def test_percents_are_whole_from_ten_and_never_round_to_all(share: float | None, text: str) -> None:
    assert st.format_share(share) == text.replace(" %", SPACE + "%")


def plain(run: tuple[dict[str, Any], dict[str, Any]], width: int, **files: str) -> list[str]:
    return [line.plain for line in st.summary_lines("a_run", *run, width, files)]


FULL_SWEEP = sweep(
    {1: 40, 2: 70, 4: 100, 8: 105}, right=(18, 17, 16, 15), slo={"ttft_ms": 1000, "tpot_ms": 100}
)


@settings(deadline=None, max_examples=40)
@given(width=hs.integers(40, 200), case=hs.sampled_from([*HEADLINES, "full"]))
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(width: int, case: str) -> None:
    run = FULL_SWEEP if case == "full" else HEADLINES[case][0]
    lines = plain(run, width)
    assert max(map(len, lines)) <= width, max(lines, key=len)
    assert "…" not in "".join(lines)


def test_at_eighty_columns_every_important_figure_of_each_level_stands_in_its_row() -> None:
    lines = plain(FULL_SWEEP, 80)
    head = next(place for place, line in enumerate(lines) if line.startswith("──"))
    assert lines[head - 1].split() == ["once", "ok", "failed", "total", "one", "user", "p50", "p50", "limits", "95", "%", "interval"]  # fmt: skip
    low, high = (
        100 * bound for bound in FULL_SWEEP[1]["stages"][3]["quality"]["under_load"]["ci95"]
    )
    cells = re.split(" {2,}", lines[head + 4].replace(SPACE, " ").strip())
    assert cells == [
        "8", "20", "0", "105", "13.1", "50.0 ms", "355 ms", "20/20", f"75 % ({low:.0f} to {high:.0f})",
    ]  # fmt: skip


def test_a_narrow_terminal_shows_the_same_figures_turned_with_every_label() -> None:
    lines = plain(FULL_SWEEP, 60)
    labels = ["requests at once", "ok", "failed", "tokens/s, total", "tokens/s, one user", "TTFT p50", "E2E p50", "within limits", "right answers", f"  95{SPACE}% interval"]  # fmt: skip
    for label in labels:
        (line,) = [line for line in lines if line.startswith(label + "  ")]
        assert len(line[len(label) :].replace(" to ", "-").replace(SPACE, "").split()) == 4


def test_more_levels_than_fit_go_into_further_blocks_with_their_labels() -> None:
    lines = plain(sweep({level: 10 * level for level in (1, 2, 3, 4, 5)}), 70)
    heads = [line.split("once")[1].split() for line in lines if line.startswith("requests at once")]
    assert heads == [["1", "2", "3", "4"], ["5"]]


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_the_verdict_and_the_answer_come_first(width: int) -> None:
    text = re.sub(" +", " ", " ".join(plain(FULL_SWEEP, width)))
    places = [
        text.index(part) for part in ("VALID: trustworthy", st.headline(*FULL_SWEEP), "tokens/s")
    ]
    assert places == sorted(places)


def test_why_a_run_is_invalid_stands_above_its_sentence_and_what_is_suspect_below_its_table() -> (
    None
):
    invalid = run_of(failed_results(3), ("no_answers",), "INVALID")
    lines = plain(invalid, 80)
    assert "✕ INVALID: do not use these numbers" in lines[0]
    assert lines[1].startswith("✕ no_answers  ")
    suspect = plain(run_of(stage_results(), ("prompt_cache", "drift")), 50)
    assert "▲ SUSPECT: usable, 2 caveats" in suspect[0]
    reason = next(place for place, line in enumerate(suspect) if line.startswith("▲ prompt_cache"))
    assert suspect[reason + 1].startswith("  "), "the text hangs under its code"
    assert reason > next(place for place, line in enumerate(suspect) if line.startswith("E2E"))


def test_columns_leave_from_the_least_important_one_and_labels_never() -> None:
    shown = st.table("name", st.Column("light", 1), st.Column("heavy", 3), st.Column("middle", 2))
    shown.add_row("label", "1", "2", "3")
    heads = [shown.lines(width)[0].plain.split() for width in (40, 20, 12, 5)]
    assert heads == [["name", "light", "heavy", "middle"], ["name", "heavy", "middle"], ["name", "heavy"], ["name", "heavy"]]  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252", "utf-8"])
def test_signs_become_ascii_where_the_encoding_lacks_them_and_columns_stay_straight(
    encoding: str,
) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    run = run_of(stage_results(), ("drift",), slo={"e2e_ms": 2000})
    lines = st.summary_lines("näme", *run, 80)
    st.show(lines, file)
    text = file.buffer.getvalue().decode(encoding)
    assert [len(line) for line in text.splitlines()] == [len(line.plain) for line in lines]
    if encoding != "utf-8":
        assert "! SUSPECT" in text and "E2E" in text and "<=2 s" in text


def test_commands_and_paths_stay_in_one_line_to_be_copied() -> None:
    command = (
        "python3 /a/long/path/to/llm_stresstest.py verify a_run --results-dir /another/long/path"
    )
    assert f"check    {command}" in plain(FULL_SWEEP, 40, check=command)


@pytest.mark.parametrize(
    ("validity", "thresholds", "line"),
    [
        ("VALID", [], None),
        ("SUSPECT", [], None),
        ("INVALID", [], "run is INVALID, do not use these numbers: drift: m"),
        ("VALID", [("ttft_ms.p95", "<= 5", 812.5, False), ("ok", "> 1", 3.0, True)], "run missed ttft_ms.p95 <= 5, it is 812.5"),
        ("VALID", [("a", "<= 5", None, False), ("b", "> 1", 0.0, False)], "run missed a <= 5, not measured; b > 1, it is 0"),
    ],
)  # fmt: skip
def test_the_reason_of_exit_code_one_is_one_line(
    validity: str, thresholds: list[Any], line: str | None
) -> None:
    checks = [st.ThresholdCheck(*check)._asdict() for check in thresholds]
    reasons = [{"code": "drift", "message": "m"}]
    judged = {"validity": {"verdict": validity, "reasons": reasons}, "thresholds": checks}
    meta, aggregate = FULL_SWEEP
    assert st.Summary("run", {**meta, **judged}, aggregate, 80).failure() == line


@pytest.mark.parametrize("ending", ["ok", "all fail"])
@pytest.mark.parametrize("how", ["closed stdout", "closed stderr", "no reader", "latin-1"])
def test_a_stdout_that_cannot_be_written_changes_no_exit_code(
    project: Project, server: ScriptedServer, how: str, ending: str
) -> None:
    if ending == "all fail":

        async def refuse(_request: Any, writer: Any) -> None:
            writer.write(whole(b"{}", "500 No", "application/json"))

        server.behaviour = refuse
    shells = {
        "closed stdout": "{} >&-",
        "closed stderr": "{} 2>&-",
        "no reader": "{} | true",
        "latin-1": "{}",
    }
    command = shells[how].format(f"{sys.executable} {ROOT / 'llm_stresstest.py'} run")
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=project.folder, capture_output=True, timeout=60, check=False,
        env={**os.environ, **({"PYTHONIOENCODING": "iso-8859-1"} if how == "latin-1" else {})},
    )  # fmt: skip
    assert finished.returncode == (1 if ending == "all fail" else 0), finished.stderr
    assert b"Traceback" not in finished.stderr and b"Exception ignored" not in finished.stderr
    if how == "latin-1":
        assert b"! SUSPECT" in finished.stdout or b"x INVALID" in finished.stdout


def test_progress_counts_by_level() -> None:
    progress = st.Progress(160, (1, 8))
    for result in itertools.chain(stage_results(0, 3), stage_results(1, 2), failed_results(1)):
        progress.add(result)
    assert (progress.ok, progress.failed, progress.tokens) == (5, 1, 25)
    assert progress.level == "8 at once  "
    assert st.Progress(10, (4,)).level == ""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_progress_bar_fits_the_terminal_and_leaves_nothing_behind(
    project: Project, server: ScriptedServer, columns: int
) -> None:
    server.behaviour = streams("a", "b", pause_s=0.2)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = project.start(
        "run",
        "--set",
        "concurrent=[2,4]",
        "--set",
        "questions=8",
        env={"TERM": "xterm"},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that nobody writes any more
        while piece := os.read(ours, 65536):
            shown += piece
    process.communicate(timeout=60)
    os.close(ours)
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()))
    bars = [frame for frame in frames if "tokens/s" in frame]
    assert any("2 at once" in bar for bar in bars) and any("4 at once" in bar for bar in bars)
    assert max(len(frame) for frame in frames) <= columns
    assert "…" not in "".join(bars)
