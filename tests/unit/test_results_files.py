"""Results files: whole or not there, read strictly, and without their records in no time."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st

CONFIG = st.Config(server="http://host/v1", model="m")
META = {"schema_version": 1, "status": "complete", "config": CONFIG.model_dump()}
SAMPLES = {"t_ms": [0.0, 500.0], "gpu_w": [31.5, None]}
# Texts that look like the places where a reader finds the parts of a file.
TRAPS = ['x\n],\n"aggregate": {', ',\n"results": [\n', '"aggregate": {}', '\\n],\\n"aggregate": ']


def results(count: int, answer: str = "Hello") -> list[st.Result]:
    return [
        st.Result(place, f"q{place}", f"{answer}?", answer=answer, sent_ns=1000, end_ns=5000)
        for place in range(count)
    ]


def save(path: Path, count: int = 3, answer: str = "Hello", **options: Any) -> dict[str, Any]:
    """Save a run and return its aggregate."""
    made = results(count, answer)
    aggregate = st.calculate_aggregates(made, CONFIG)
    st.save_results(path, META, made, aggregate, **options)
    return aggregate


@pytest.mark.parametrize("samples", [None, SAMPLES], ids=["without samples", "with samples"])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_what_is_read_without_the_results_is_what_is_read_with_them(
    tmp_path: Path, samples: Any, count: int
) -> None:
    path = tmp_path / "run.json"
    save(path, count, samples=samples)
    whole, head = st.load_results(path), st.load_results(path, results=False)
    assert (head.results, head.records, len(whole.results)) == ([], [], count)
    assert head.meta == whole.meta == json.loads(path.read_bytes())["meta"]
    assert head.aggregate == whole.aggregate
    assert head.samples == whole.samples == samples


@pytest.mark.parametrize("trap", TRAPS)
def test_no_answer_is_taken_for_a_part_of_the_file(tmp_path: Path, trap: str) -> None:
    path = tmp_path / "run.json"
    aggregate = save(path, 50, trap, samples={"name": [trap]})
    run = st.load_results(path, results=False)
    assert run.aggregate == json.loads(json.dumps(aggregate))
    assert run.samples == {"name": [trap]}
    assert [result.answer for result in st.load_results(path).results] == [trap] * 50


@pytest.mark.parametrize(
    "layout",
    [
        json.dumps,
        lambda data: json.dumps(data, indent=1),
        lambda data: json.dumps(data, indent=4, sort_keys=True),
        lambda data: json.dumps(dict(reversed(data.items())), separators=(",", ":")),
        lambda data: "\ufeff" + json.dumps(data, indent="\t"),
    ],
)
def test_a_file_that_another_program_laid_out_is_read_all_the_same(
    tmp_path: Path, layout: Any
) -> None:
    path = tmp_path / "run.json"
    save(path, samples=SAMPLES)
    ours = st.load_results(path)
    path.write_text(layout(json.loads(path.read_bytes())))
    for wanted in (True, False):
        run = st.load_results(path, results=wanted)
        assert (run.meta, run.aggregate, run.samples) == (ours.meta, ours.aggregate, SAMPLES)
        assert run.results == (ours.results if wanted else [])


def test_reading_without_the_results_takes_no_longer_when_there_are_many(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(path, 20_000, "word " * 100)
    begun = time.perf_counter()
    run = st.load_results(path, results=False)
    took_s = time.perf_counter() - begun
    assert run.aggregate["requests"] == 20_000
    assert took_s < 0.05, "it does not parse the records"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": Infinity}', "Infinity is not JSON"),
        ('{"a": 1e999}', "too large a number"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"a": "\ud800"}', "is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"meta": {}, "results": []', "is not JSON"),
        ("", "is empty"),
        ("[]", "is not a results file"),
        ('{"meta": 1, "results": [], "aggregate": {}}', "schema_version"),
        ('{"meta": {"schema_version": 2}, "results": [], "aggregate": {}}', "schema_version 2"),
        ('{"meta": {"schema_version": 1}, "results": {}, "aggregate": {}}', "is damaged"),
        ('{"meta": {"schema_version": 1}, "results": [], "aggregate": []}', "is damaged"),
        ('{"meta": {"schema_version": 1}, "results": [{}], "aggregate": {}}', "an entry is damaged"),
        ('{"meta": {"schema_version": 1}, "results": [1], "aggregate": {}}', "an entry is damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_no_results_file_is_refused_in_one_line(
    tmp_path: Path, text: str, said: str, wanted: bool
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if not wanted and "entry" in said:
        assert st.load_results(path, results=False).results == []
        return
    with pytest.raises(st.ConfigError) as refused:
        st.load_results(path, results=wanted)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_no_file_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "fifo.json"):
        for wanted in (True, False):
            with pytest.raises(st.ConfigError):
                st.load_results(path, results=wanted)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_can_be_read_by_whom_the_umask_lets_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save(tmp_path / "run.json")
        with st.Journal.create(tmp_path / "run.journal"):
            pass
    finally:
        os.umask(before)
    for name in ("run.json", "run.journal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_a_file_that_is_there_is_kept_also_where_no_link_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: Any, **_options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "run.json"
    names = set()
    for count in range(4):
        made = results(count)
        names.add(st.save_results(path, META, made, st.calculate_aggregates(made, CONFIG)))
        assert len(st.load_results(path).results) == 0
    assert names == set(tmp_path.iterdir()) and len(names) == 4


def test_two_that_save_one_name_at_once_do_not_take_each_others_files_away(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    made = results(2)
    aggregate = st.calculate_aggregates(made, CONFIG)

    def while_the_other_saves() -> Any:
        yield made[0]
        save(path, 1)
        yield made[1]

    written = st.save_results(path, META, while_the_other_saves(), aggregate)
    assert len(st.load_results(path).results) == 1
    assert written != path and len(st.load_results(written).results) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_run_left_while_it_saved_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".run.json.0123456789ab.tmp").write_text("half")
    save(tmp_path / "run.json")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
