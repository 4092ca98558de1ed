"""The journal, damaged in every way: what stands before the damage is kept, and what was lost is said."""

from __future__ import annotations

import functools
import json
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
        st.journal_line(place + 1, "result", result(place, text).to_record())
        for place in range(count)
    )
    return [
        st.journal_line(0, "header", HEADER),
        *results,
        st.journal_line(count + 1, "footer", {"status": "complete"}),
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
    for line in data.split(b"\n")[:-1]:
        try:
            crc, rest = line.removeprefix(b'{"crc":"').split(b'",', 1)
            entry = json.loads(b"{" + rest)
        except (ValueError, UnicodeDecodeError):
            break
        whole = (
            line.startswith(b'{"crc":"')
            and f"{crc32(rest):08x}".encode() == crc
            and entry["seq"] == len(entries)
        )
        if not whole or (len(entries) == 0) != (entry["kind"] == "header"):
            break
        entries.append(entry)
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


def is_prefix(reader: st.JournalReader, damage: int, size: int) -> bool:
    """Whether the reader kept all lines that end before the damage and none that holds it, and counts what is lost."""
    kept = sum(end <= damage for end in ENDS)
    return (reader.lines, reader.good_bytes, reader.lost_bytes) == (
        kept,
        ENDS[kept - 1] if kept else 0,
        size - (ENDS[kept - 1] if kept else 0),
    )


def test_the_checksum_is_the_one_that_everybody_knows() -> None:
    assert crc32(b"123456789") == 0xCBF43926
    assert [
        {"crc": line[8:16].decode(), **entry}
        for line, entry in zip(WHOLE, good_lines(DATA), strict=True)
    ] == [json.loads(line) for line in WHOLE]


def test_a_whole_journal_is_read_whole() -> None:
    reader = read(DATA)
    assert (reader.lines, reader.lost_bytes, len(reader)) == (5, 0, 3)
    assert reader.header == HEADER and reader.footer == {"status": "complete"}
    assert [entry.answer for entry in reader] == ["Grüße\n\u2028"] * 3


@settings(max_examples=2000, deadline=None)
@given(cut=hs.integers(0, len(DATA)))
@example(cut=len(DATA) - 1)
def test_any_truncation_keeps_the_lines_before_it(cut: int) -> None:
    assert is_prefix(read(DATA[:cut]), cut, cut)


@settings(max_examples=2000, deadline=None)
@given(place=hs.integers(0, len(DATA) - 1), flip=hs.integers(1, 255))
def test_any_flipped_byte_costs_its_line_and_what_follows_and_nothing_before(
    place: int, flip: int
) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= flip
    assert is_prefix(read(bytes(damaged)), place, len(DATA))


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
    assert reader.good_bytes + reader.lost_bytes == len(data)
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
    line = st.journal_line(0, "header", HEADER) + st.journal_line(1, "result", written.to_record())
    assert line.count(b"\n") == 2
    assert list(read(line)) == [written]


def test_a_gap_in_the_sequence_ends_what_is_read() -> None:
    reader = read(WHOLE[0] + WHOLE[1] + WHOLE[3])
    assert (reader.lines, reader.lost_bytes) == (2, len(WHOLE[3]))


def test_a_line_that_stands_there_twice_ends_what_is_read() -> None:
    assert read(WHOLE[0] + WHOLE[1] + WHOLE[1]).lines == 2


def test_a_second_header_ends_what_is_read() -> None:
    assert read(WHOLE[0] + st.journal_line(1, "header", HEADER)).lines == 1


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
        st.journal_line(place, "result", entry.to_record())
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
