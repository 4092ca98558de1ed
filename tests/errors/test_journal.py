"""The journal, damaged in every way: what stands before the damage is kept, and what was lost is said."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as hs

import llm_stresstest as st
from tests.conftest import Project

HEADER = {"schema_version": 1, "run_id": "r", "config": {}}


def result(index: int, answer: str = "Hello", turn: int = 0, **values: object) -> st.Result:
    made = st.Result(
        index,
        f"q{index}",
        f"Question {index}?",
        answer=answer,
        turn=turn,
        sent_ns=1000,
        end_ns=5000,
    )
    for name, value in values.items():
        setattr(made, name, value)
    return made


def lines(count: int, text: str = "Hello") -> list[bytes]:
    """Return the lines of a whole journal of so many results."""
    results = (
        st.JournalLine.to_bytes(place + 1, "result", result(place, text).to_record())
        for place in range(count)
    )
    return [
        st.JournalLine.to_bytes(0, "header", HEADER),
        *results,
        st.JournalLine.to_bytes(count + 1, "footer", {"status": "complete"}),
    ]


def read(data: bytes) -> st.JournalReader:
    path = Path(tempfile.gettempdir()) / "llm-stresstest-test.journal"
    path.write_bytes(data)
    return st.JournalReader(path)


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("journals")))
        yield


def good_lines(data: bytes) -> list[dict[str, object]]:
    """Read a journal by the letter of its contract, slowly and with Python's own tools: the oracle."""
    entries: list[dict[str, object]] = []
    expected = 0
    for line in data.split(b"\n")[:-1]:
        try:
            crc, rest = line.removeprefix(b'{"crc":"').split(b'",', 1)
            entry = json.loads(b"{" + rest)
        except (ValueError, UnicodeDecodeError):
            continue
        if not line.startswith(b'{"crc":"') or f"{crc32(rest):08x}".encode() != crc:
            continue
        first = entry["kind"] == "header" and entry["seq"] == 0
        if first if entries else not first:
            continue
        if entry["seq"] >= expected:
            entries.append(entry | {"length": len(line) + 1})
            expected = entry["seq"] + 1
    return entries


@functools.cache
def crc32(data: bytes) -> int:
    """Return the CRC-32 of IEEE 802.3, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


WHOLE = lines(3, "Grüße\n\u2028")
DATA = b"".join(WHOLE)
ENDS = [sum(map(len, WHOLE[: place + 1])) for place in range(len(WHOLE))]


def test_the_checksum_is_the_one_that_everybody_knows() -> None:
    assert crc32(b"123456789") == 0xCBF43926
    assert [
        {"crc": line[8:16].decode(), "length": len(line), **json.loads(line)} for line in WHOLE
    ] == [
        {"crc": line[8:16].decode(), **entry}
        for line, entry in zip(WHOLE, good_lines(DATA), strict=True)
    ]


def test_a_whole_journal_is_read_whole() -> None:
    reader = read(DATA)
    assert (reader.lines, reader.lost_bytes, len(reader)) == (5, 0, 3)
    assert reader.header == HEADER and reader.footer == {"status": "complete"}
    assert [entry.answer for entry in reader] == ["Grüße\n\u2028"] * 3


@settings(max_examples=2000, deadline=None)
@given(cut=hs.integers(0, len(DATA)))
@example(cut=len(DATA) - 1)
def test_any_truncation_keeps_the_lines_before_it(cut: int) -> None:
    reader = read(DATA[:cut])
    kept = sum(end <= cut for end in ENDS)
    whole = ENDS[kept - 1] if kept else 0
    assert (reader.lines, reader.whole_bytes, reader.lost_bytes) == (kept, whole, cut - whole)


@settings(max_examples=2000, deadline=None)
@given(place=hs.integers(0, len(DATA) - 1), flip=hs.integers(1, 255))
def test_any_flipped_byte_costs_its_line_and_no_other_and_the_reader_says_which(
    place: int, flip: int
) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= flip
    reader = read(bytes(damaged))
    number = sum(end <= place for end in ENDS)
    hit = {number, number + 1} if place == ENDS[number] - 1 else {number}  # a newline joins two
    if 0 in hit:
        assert (reader.header, reader.lines, reader.missing) == (None, 0, [])
        return
    assert reader.lines == len(WHOLE) - len(hit & set(range(len(WHOLE))))
    assert reader.lost_bytes == sum(
        len(line) for line in map(WHOLE.__getitem__, hit & {0, 1, 2, 3, 4})
    )
    followed = max(hit) < len(WHOLE) - 1
    assert {seq for gap in reader.missing for seq in gap} == (hit if followed else set())
    assert [entry.index + 1 for entry in reader] == sorted({1, 2, 3} - hit)


@settings(max_examples=2000, deadline=None)
@given(
    pieces=hs.lists(
        hs.sampled_from(WHOLE)
        | hs.sampled_from(lines(6))
        | hs.binary(max_size=20)
        | hs.just(b"\n"),
        max_size=8,
    ),
    cut=hs.integers(0, 40),
)
def test_whatever_the_lines_are_what_is_read_is_what_the_contract_says(
    pieces: list[bytes], cut: int
) -> None:
    data = b"".join(pieces)
    data = data[: len(data) - cut]
    reader = read(data)
    expected = good_lines(data)
    assert reader.lines == len(expected)
    assert reader.lost_bytes == len(data) - sum(entry["length"] for entry in expected)  # type: ignore[misc]
    assert [record["index"] for record in reader.records()] == sorted(
        {entry["content"]["index"] for entry in expected if entry["kind"] == "result"}  # type: ignore[index]
    )


@settings(max_examples=2000, deadline=None)
@given(text=hs.text(max_size=30), thought=hs.text(max_size=10))
def test_what_is_written_is_what_is_read(text: str, thought: str) -> None:
    written = result(
        7,
        text,
        reasoning=thought,
        chunk_ns=[2000, 5000],
        first_ns=2000,
        chunks=2,
        finish_reason=text[:5],
    )
    line = st.JournalLine.to_bytes(0, "header", HEADER) + st.JournalLine.to_bytes(
        1, "result", written.to_record()
    )
    assert line.count(b"\n") == 2
    assert list(read(line)) == [written]


def test_a_line_that_is_gone_is_missed_by_its_number() -> None:
    reader = read(WHOLE[0] + WHOLE[1] + WHOLE[3])
    assert (reader.lines, reader.lost_bytes, reader.missing) == (3, 0, [range(2, 3)])
    assert [entry.index for entry in reader] == [0, 2]


def test_a_line_that_stands_there_twice_counts_once() -> None:
    reader = read(WHOLE[0] + WHOLE[1] + WHOLE[1] + WHOLE[2])
    assert (reader.lines, reader.lost_bytes, len(reader)) == (3, len(WHOLE[1]), 2)


def test_a_second_header_is_left_out() -> None:
    reader = read(WHOLE[0] + st.JournalLine.to_bytes(1, "header", {"run_id": "other"}) + WHOLE[1])
    assert (reader.lines, reader.header, len(reader)) == (2, HEADER, 1)


def test_a_line_of_a_kind_that_is_not_known_is_passed_over() -> None:
    reader = read(WHOLE[0] + st.JournalLine.to_bytes(1, "pulse", {"t": 1}) + WHOLE[2])
    assert (reader.lines, reader.lost_bytes, reader.missing, len(reader)) == (3, 0, [], 1)


def test_samples_are_read_in_their_order() -> None:
    samples = [{"t_ms": [1.0, 2.0]}, {"t_ms": [3.0]}]
    lines_of = (
        st.JournalLine.to_bytes(place, "samples", entry) for place, entry in enumerate(samples, 1)
    )
    assert read(WHOLE[0] + b"".join(lines_of)).samples == samples


@pytest.mark.parametrize(
    "content",
    [{}, {"index": "0", "turn": 0}, {"index": 0}, {"index": None, "turn": 0}, {"turn": 0}],
)
@pytest.mark.parametrize("kind", ["result", "grade"])
def test_a_result_without_a_place_is_damaged_however_good_its_checksum(
    kind: str, content: dict[str, object]
) -> None:
    reader = read(WHOLE[0] + st.JournalLine.to_bytes(1, kind, content) + WHOLE[2])
    assert (reader.lines, reader.missing, len(reader)) == (2, [range(1, 2)], 1)


def test_the_grade_of_an_earlier_answer_is_not_that_of_a_later_one() -> None:
    grade = {"index": 0, "turn": 0, "score": 1.0, "reason": "right"}
    kinds = [("result", result(0, "old").to_record()), ("grade", grade)]
    kinds += [("result", result(0, "new").to_record())]
    reader = read(
        WHOLE[0]
        + b"".join(st.JournalLine.to_bytes(place, *entry) for place, entry in enumerate(kinds, 1))
    )
    assert [(entry.answer, entry.graded) for entry in reader] == [("new", False)]


@settings(max_examples=300, deadline=None)
@given(cuts=hs.lists(hs.integers(0, len(DATA)), max_size=8))
def test_a_journal_that_grows_is_followed_and_no_byte_is_read_twice(cuts: list[int]) -> None:
    path = Path(tempfile.gettempdir()) / "growing.journal"
    path.write_bytes(b"")
    reader = st.JournalReader(path)
    seen, new = list[int](), 0
    with path.open("ab", buffering=0) as file:
        for start, end in itertools.pairwise([0, *sorted(cuts), len(DATA)]):
            file.write(DATA[start:end])
            new += reader.refresh()
            assert reader.lines == new == sum(place <= end for place in ENDS)
            seen += [record["index"] for record in reader.arrivals(len(seen))]
            assert reader.lost_bytes == end - reader.whole_bytes
    assert seen == [0, 1, 2] and reader.footer == {"status": "complete"}


def test_following_a_journal_reads_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(b"".join(lines(5000)[:-1]))
    reader = st.JournalReader(path)
    positions = list[int]()
    file = reader._file

    class Watched(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            positions.append(self.tell())
            return file.read(size) or b"" if file.seek(self.tell()) >= 0 else b""

    size = path.stat().st_size
    reader._file = Watched(path, "rb")
    with path.open("ab") as appended:
        appended.write(st.JournalLine.to_bytes(5001, "footer", {"status": "complete"}))
    assert reader.refresh() == 1
    assert min(positions) >= size
    reader._file.close()


def test_a_journal_whose_half_line_was_cut_off_and_written_anew_is_followed_well(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(WHOLE[0] + WHOLE[1][:40])
    reader = st.JournalReader(path)
    assert (reader.lines, reader.lost_bytes) == (1, 40)
    path.write_bytes(WHOLE[0] + WHOLE[1] + WHOLE[2])
    assert (reader.refresh(), reader.lost_bytes, len(reader)) == (2, 0, 2)


def test_a_journal_that_is_removed_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(DATA)
    reader = st.JournalReader(path)
    path.unlink()
    assert [entry.index for entry in reader] == [0, 1, 2]


def test_a_journal_that_is_damaged_behind_the_readers_back_is_never_read_wrongly(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(DATA)
    reader = st.JournalReader(path)
    path.write_bytes(DATA[: ENDS[1]] + DATA[ENDS[1] :].replace(b"Question", b"question"))
    with pytest.raises(st.ResultsError, match="was damaged while it was read"):
        list(reader)


def test_a_journal_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.journal")
    with pytest.raises(st.ResultsError, match="is not a regular file"):
        st.JournalReader(tmp_path / "a.journal")


def test_an_empty_journal_is_read_as_nothing() -> None:
    reader = read(b"")
    assert (reader.header, reader.lines, reader.lost_bytes, list(reader)) == (None, 0, 0, [])


def test_without_its_header_nothing_is_trusted() -> None:
    data = b"".join(WHOLE[1:])
    reader = read(data)
    assert (reader.header, reader.lines, reader.lost_bytes, list(reader)) == (
        None,
        0,
        len(data),
        [],
    )


def test_a_hole_of_zero_bytes_as_a_crash_leaves_it_is_left_out() -> None:
    reader = read(DATA[: ENDS[2]] + b"\0" * 4096)
    assert (reader.lines, reader.lost_bytes) == (3, 4096)


def test_a_huge_line_without_an_end_is_left_out() -> None:
    assert read(WHOLE[0] + b"x" * (8 << 20)).lost_bytes == 8 << 20


def test_a_place_asked_anew_counts_once_with_its_last_answer() -> None:
    entries = [result(1, "old"), result(0, "other"), result(1, "new"), result(0, "turn", turn=1)]
    written = [
        st.JournalLine.to_bytes(place, "result", entry.to_record())
        for place, entry in enumerate(entries, 1)
    ]
    reader = read(WHOLE[0] + b"".join(written))
    assert [(entry.index, entry.turn, entry.answer) for entry in reader] == [
        (0, 0, "other"),
        (0, 1, "turn"),
        (1, 0, "new"),
    ]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, DATA[10:], b"PK\x03\x04", b"{}\n"])
def test_what_is_no_journal_is_refused_and_kept(project: Project, content: bytes) -> None:
    (project.folder / "results").mkdir()
    path = project.folder / "results" / "run.journal"
    path.write_bytes(content)
    finished = project.run("run", "--resume")
    assert finished.code in (2, 4) and finished.err.count("\n") == 1
    assert "is not a journal" in finished.err
    assert path.read_bytes() == content
