"""compare reads two results files, pairs their answers, and says what the pairs carry."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_stresstest as st
from extensions import pairing
from extensions.pairing import Comparison, Options, Side, compare, read_run
from tests.benchmarks.simulated import Server, World


def sides(folder: Path, world: World, *servers: Server, **config: Any) -> list[Side]:
    paths = [
        world.run(folder, f"r{place}", server, **config) for place, server in enumerate(servers)
    ]
    return [Side("AB"[min(place, 1)], (read_run(path),)) for place, path in enumerate(paths)]


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    return path


def compared(folder: Path, a: Server, b: Server, questions: int = 60, **config: Any) -> Comparison:
    one, other = sides(folder, World(questions, 1), a, b, **config)
    return compare(one, other, Options())


def of_two(paths: list[Path]) -> Comparison:
    a, b = (read_run(path) for path in paths)
    return compare(Side("A", (a,)), Side("B", (b,)), Options())


QUIET = Server(noise=0.02, flips=0)


def test_a_server_that_is_a_tenth_slower_is_slower_by_a_tenth(tmp_path: Path) -> None:
    made = compared(tmp_path, QUIET, dataclasses.replace(QUIET, slower=0.1))
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        row = made.rows[name]
        assert row.verdict == "slower" and row.interval is not None
        assert math.exp(row.interval.value) == pytest.approx(1.1, abs=0.02)
    assert made.rows["tokens_per_s"].verdict in ("lower", "cannot_tell")
    assert made.rows["token_avg"].verdict == "same"


def test_a_run_against_itself_is_the_same_in_every_time(tmp_path: Path) -> None:
    made = compared(tmp_path, QUIET, QUIET)
    assert {made.rows[name].verdict for name in ("ttft_ms", "tpot_ms", "e2e_ms", "token_avg")} == {
        "same"
    }


def test_answers_are_paired_by_question_turn_and_repetition_in_any_order(tmp_path: Path) -> None:
    world = World(30, 2)
    one, other = (world.run(tmp_path, name, QUIET) for name in "ab")

    def shuffle(data: dict[str, Any]) -> None:
        for place, record in enumerate(reversed(data["results"])):
            record["index"] = place  # asked in the opposite order

    edited(other, shuffle)
    grid = pairing.pair_up(Side("A", (read_run(one),)), Side("B", (read_run(other),)))
    values = grid.values("e2e_ms")
    assert len(grid.keys) == 30
    assert np.corrcoef(np.log(values))[0, 1] > 0.99


def test_a_question_asked_twice_makes_two_pairs_of_one_question(tmp_path: Path) -> None:
    world = World(20, 3)
    paths = [world.run(tmp_path, name, QUIET) for name in "ab"]

    def fold(data: dict[str, Any]) -> None:
        for place, record in enumerate(data["results"]):
            record["id"] = f"q{place % 10}"

    one, other = (read_run(edited(path, fold)) for path in paths)
    grid = pairing.pair_up(Side("A", (one,)), Side("B", (other,)))
    assert (len(grid.keys), len(grid.ids)) == (20, 10)
    assert {key[2] for key in grid.keys} == {0, 1}


def sweep(path: Path, levels: list[int]) -> Path:
    def change(data: dict[str, Any]) -> None:
        data["meta"]["config"]["concurrent"] = data["meta"]["concurrent"] = levels
        for place, record in enumerate(data["results"]):
            record["stage"], record["id"] = place % len(levels), f"q{place // len(levels)}"

    return edited(path, change)


def test_stages_are_paired_by_their_level_not_by_their_place(tmp_path: Path) -> None:
    world = World(60, 4)
    one = read_run(sweep(world.run(tmp_path, "a", QUIET), [1, 2, 4]))
    other = read_run(sweep(world.run(tmp_path, "b", QUIET), [4, 1]))
    grid = pairing.pair_up(Side("A", (one,)), Side("B", (other,)))
    assert len(grid.keys) == 40
    made = compare(Side("A", (one,)), Side("B", (other,)), Options())
    assert list(made.levels) == ["1", "4"]
    assert compare(Side("A", (one,)), Side("B", (other,)), Options(level=4)).pairs == 20
    with pytest.raises(st.ConfigError, match="--level 2: is not in both runs; they share 1, 4"):
        compare(Side("A", (one,)), Side("B", (other,)), Options(level=2))


def test_a_timeout_counts_as_at_least_its_timeout_and_forbids_the_word_same(tmp_path: Path) -> None:
    world = World(60, 5)
    paths = [world.run(tmp_path, name, QUIET) for name in "ab"]

    def late(data: dict[str, Any]) -> None:
        for record in data["results"][:6]:
            error = {"kind": "timeout", "message": "no end", "http_status": None}
            record |= {"status": "timeout", "error": error, "token": None, "graded": False}
            record |= {"ttft_ms": None, "answer_ttft_ms": None, "chunk_ms": None}
            record |= {"end_ms": record["sent_ms"] + 120_000, "time": 120_000}

    before = of_two(paths)
    edited(paths[1], late)
    after = of_two(paths)
    assert before.rows["e2e_ms"].verdict == "same"
    assert after.rows["e2e_ms"].late == (0, 6)
    assert after.rows["e2e_ms"].verdict in ("slower", "cannot_tell")
    low, high = after.rows["e2e_ms"].interval.ci_table  # type: ignore[union-attr]
    assert high > low + 0.1 * math.log(10)
    assert after.rows["error_rate"].b == pytest.approx(0.1)


def test_right_and_wrong_answers_are_held_against_each_other_by_the_exact_test(
    tmp_path: Path,
) -> None:
    made = compared(tmp_path, QUIET, dataclasses.replace(QUIET, right=0.4))
    row = made.rows["quality"]
    assert row.verdict == "lower"
    assert row.interval is not None and row.interval.value < -0.2
    assert made.flipped and not any(flip.b for flip in made.flipped)
    assert len(made.flipped) == round(-row.interval.value * 60)


def test_scores_between_0_and_1_are_compared_without_the_exact_test(tmp_path: Path) -> None:
    world = World(60, 6)
    paths = [world.run(tmp_path, name, QUIET) for name in "ab"]

    def lower(data: dict[str, Any]) -> None:
        for place, record in enumerate(data["results"]):
            record["quality"] = 0.5 + place % 3 / 10

    edited(paths[1], lower)
    made = of_two(paths)
    assert made.table is not None
    draft = made.table.drafts[pairing.Spec(pairing.METRICS["quality"])]
    assert draft.estimate is not None and draft.estimate.exact_p is None


def test_what_was_not_measured_is_not_compared(tmp_path: Path) -> None:
    world = World(20, 7)
    paths = [world.run(tmp_path, name, QUIET, stream=False) for name in "ab"]

    def unstreamed(data: dict[str, Any]) -> None:
        for record in data["results"]:
            record |= {"ttft_ms": None, "answer_ttft_ms": None, "tpot_ms": None, "chunk_ms": None}

    one, other = (
        Side(x, (read_run(edited(p, unstreamed)),)) for x, p in zip("AB", paths, strict=True)
    )
    rows = compare(one, other, Options()).rows
    assert {rows[name].verdict for name in ("ttft_ms", "tpot_ms", "goodput_per_s", "energy")} == {
        "not_measured"
    }
    assert rows["ttft_ms"].a is None
    assert rows["e2e_ms"].verdict == "same"


def test_goodput_and_attainment_are_those_of_the_core(tmp_path: Path) -> None:
    one, other = sides(tmp_path, World(60, 8), QUIET, QUIET, slo={"ttft_ms": 200})
    made = compare(one, other, Options())
    for side, value in ((one, "a"), (other, "b")):
        aggregate = side.first.aggregate
        assert getattr(made.rows["slo_attainment"], value) == pytest.approx(aggregate["good"] / 60)
        assert getattr(made.rows["goodput_per_s"], value) == pytest.approx(
            aggregate["goodput_per_s"]
        )
        assert getattr(made.rows["tokens_per_s"], value) == pytest.approx(aggregate["tokens_per_s"])
        assert getattr(made.rows["requests_per_s"], value) == pytest.approx(
            aggregate["requests_per_s"]
        )


def test_goodput_under_other_limits_is_not_compared(tmp_path: Path) -> None:
    world = World(60, 9)
    paths = [world.run(tmp_path, f"s{ms}", QUIET, slo={"ttft_ms": ms}) for ms in (200, 400)]
    made = of_two(paths)
    assert made.rows["goodput_per_s"].verdict == "not_measured"
    assert "slo.ttft_ms" in made.changed


def test_few_questions_tell_nothing_and_say_how_many_more_would(tmp_path: Path) -> None:
    row = compared(tmp_path, QUIET, QUIET, questions=5).rows["e2e_ms"]
    assert (row.verdict, row.interval, row.needs_more) == ("cannot_tell", None, 3)


def change_meta(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        part, keys = data["meta"], key.split(".")
        for name in keys[:-1]:
            part = part[name]
        part[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("config.temperature", 0.7, "temperature"),
        ("config.stop", ["\n"], "stop"),
        ("config.extra_body", {"top_p": 0.5}, "extra_body.top_p"),
        ("config.max_tokens", 64, "max_tokens"),
        ("config.concurrent", 8, "concurrent"),
        ("config.rate", 3.0, "rate"),
        ("config.stream", False, "stream"),
        ("config.api", "completions", "api"),
        ("config.cache_bust", True, "cache_bust"),
        ("validity", {"verdict": "INVALID", "reasons": []}, "validity"),
        ("questions_sha256", "other", "graders"),
        ("metrics_version", 2, "metrics_version"),
    ],
)  # fmt: skip
def test_what_is_not_comparable_is_refused_with_both_values_and_why(
    tmp_path: Path, key: str, value: Any, refused: str
) -> None:
    world = World(20, 10)
    one, other = (world.run(tmp_path, name, QUIET) for name in "ab")
    edited(other, change_meta(key, value))
    pair = [Side("A", (read_run(one),)), Side("B", (read_run(other),))]
    made = compare(pair[0], pair[1], Options())
    assert [refusal.key for refusal in made.refused] == [refused]
    assert made.refused[0].a != made.refused[0].b and made.refused[0].why
    assert made.rows == {} and "metrics" not in made.to_json()
    anyway = compare(pair[0], pair[1], Options(anyway=True))
    assert anyway.rows["e2e_ms"].verdict == "same"


def test_other_questions_other_token_counts_and_cached_prompts_are_refused(tmp_path: Path) -> None:
    world = World(20, 11)
    one, other = (world.run(tmp_path, name, QUIET) for name in "ab")

    def change(data: dict[str, Any]) -> None:
        data["meta"]["questions_sha256"] = "other"
        data["results"][0]["question"] = "Another one?"
        data["aggregate"]["token_sources"] = {"chunks": 20}
        data["aggregate"] |= {"cached_tokens_sum": 900, "prompt_tokens_sum": 1000}

    edited(one, lambda data: data["aggregate"].update(cached_tokens_sum=0, prompt_tokens_sum=1000))
    edited(other, change)
    found = pairing.refusals(read_run(one), read_run(other))
    assert [refusal.key for refusal in found] == ["questions", "token_source", "prompt_cache"]
    assert "19 of them are the same" in found[0].why


@pytest.mark.parametrize("key", ["config.server", "config.system_prompt", "config.seed", "model"])
def test_what_the_comparison_is_about_is_shown_and_not_refused(tmp_path: Path, key: str) -> None:
    world = World(20, 12)
    one, other = (world.run(tmp_path, name, QUIET) for name in "ab")
    full = "config.model" if key == "model" else key
    edited(other, change_meta(full, 7 if "seed" in key else "another"))
    made = compare(Side("A", (read_run(one),)), Side("B", (read_run(other),)), Options())
    assert made.refused == []
    assert list(made.changed) == [full.removeprefix("config.")]


def test_three_runs_a_side_with_drift_are_not_told_apart_by_their_questions(tmp_path: Path) -> None:
    world, drifting = World(60, 13), Server(noise=0.02, flips=0, drift=0.1)
    runs = [read_run(world.run(tmp_path, f"r{place}", drifting)) for place in range(6)]
    one = compare(Side("A", (runs[0],)), Side("B", (runs[1],)), Options())
    group = compare(Side("A", tuple(runs[:3])), Side("B", tuple(runs[3:])), Options())
    assert one.rows["e2e_ms"].verdict in ("faster", "slower") and not one.covered
    row = group.rows["e2e_ms"]
    assert row.verdict == "cannot_tell" and group.covered
    assert (row.needs, group.to_json()["between_runs"]) == (
        "runs",
        {"covered": True, "runs": [3, 3]},
    )


def test_a_pool_of_equal_runs_gives_two_single_runs_their_spread(tmp_path: Path) -> None:
    world, drifting = World(60, 14), Server(noise=0.02, flips=0, drift=0.1)
    runs = [read_run(world.run(tmp_path, f"r{place}", drifting)) for place in range(8)]
    made = compare(Side("A", (runs[0],)), Side("B", (runs[1],)), Options(), runs[2:])
    assert made.covered and made.rows["e2e_ms"].verdict == "cannot_tell"
    assert {run.name for run in pairing.equal_runs(runs[0])} == {f"r{place}" for place in range(8)}


def test_a_side_of_two_configurations_is_refused(tmp_path: Path) -> None:
    world = World(20, 15)
    runs = [world.run(tmp_path, f"r{place}", QUIET) for place in range(4)]
    edited(runs[1], change_meta("config.model", "another"))
    made = [read_run(path) for path in runs]
    found = compare(Side("A", tuple(made[:2])), Side("B", tuple(made[2:])), Options()).refused
    assert [refusal.key for refusal in found] == ["model"]
    assert "r1 is no run of r0's configuration" in found[0].why


def test_a_ranking_ties_what_cannot_be_told(tmp_path: Path) -> None:
    slow = dataclasses.replace(QUIET, slower=0.3)
    found = sides(tmp_path, World(60, 16), QUIET, QUIET, slow)
    labelled = [Side(label, side.runs) for label, side in zip("ABC", found, strict=True)]
    assert pairing.ranking(labelled, Options())["e2e_ms"] == [["A", "B"], ["C"]]


def test_a_result_that_is_better_than_a_machine_explains_is_pointed_out(tmp_path: Path) -> None:
    made = compared(tmp_path, QUIET, dataclasses.replace(QUIET, slower=-0.7))
    assert {row.spec.name for row in made.implausible} >= {"ttft_ms", "e2e_ms"}
    assert compared(tmp_path, QUIET, dataclasses.replace(QUIET, slower=2.0)).implausible == []


@pytest.mark.parametrize("key", ["config", "validity", "start_date", "client"])
def test_a_forged_file_is_one_line(tmp_path: Path, key: str) -> None:
    path = World(20, 17).run(tmp_path, "a", QUIET)
    edited(path, lambda data: data["meta"].update({key: None}))
    with pytest.raises(st.ConfigError, match="is damaged") as error:
        read_run(path)
    assert "\n" not in str(error.value)


def test_a_file_with_config_keys_of_another_version_is_still_compared(tmp_path: Path) -> None:
    one, other = (World(20, 18).run(tmp_path, name, QUIET) for name in "ab")
    edited(other, change_meta("config.of_the_future", 1))
    made = compare(Side("A", (read_run(one),)), Side("B", (read_run(other),)), Options())
    assert made.changed == {"of_the_future": [None, 1]}
