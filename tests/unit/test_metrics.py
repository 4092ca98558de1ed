"""The statistics, held against independent computations."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import stats

import llm_stresstest as st

NS_PER_MS = st.NS_PER_MS
CONFIG = st.Config.model_validate({"server": "embedded", "model": "m"})


def ok(
    index: int = 0,
    sent_ms: float = 0,
    ttft_ms: float = 10,
    gaps_ms: Sequence[float] = (5, 5),
    **more: Any,
) -> st.Result:
    """Return a successful result; times in ms."""
    times = [round((sent_ms + ttft_ms) * NS_PER_MS)]
    for gap in gaps_ms:
        times.append(times[-1] + round(gap * NS_PER_MS))
    values: dict[str, Any] = {
        "answer": "text", "sent_ns": round(sent_ms * NS_PER_MS), "end_ns": times[-1], "chunk_ns": times, "first_ns": times[0],
        "answer_ns": times[0], "chunks": len(times), "token": len(times), "token_source": "usage", "finish_reason": "stop",
    }  # fmt: skip
    return st.Result(index, f"q{index}", "?", **{**values, **more})


def failed(index: int, kind: str, sent_ms: float, end_ms: float) -> st.Result:
    """Return a failed result; times in ms."""
    return st.Result(
        index, f"q{index}", "?", status=st._STATUS_OF_KIND.get(kind, "error"), error=st.Failure(kind, kind),
        sent_ns=round(sent_ms * NS_PER_MS), end_ns=round(end_ms * NS_PER_MS), chunk_ns=[],
    )  # fmt: skip


def aggregate(*results: st.Result, **config: Any) -> dict[str, Any]:
    return st.calculate_aggregates(
        results, st.Config.model_validate({"server": "embedded", "model": "m", **config})
    )


def test_metrics_of_one_request_follow_their_definitions() -> None:
    result = ok(sent_ms=100, ttft_ms=40, gaps_ms=[10, 30], token=5, scheduled_ns=80 * NS_PER_MS)
    assert (result.ttft_ms, result.time_ms, result.tpot_ms) == (40, 80, 10)
    assert (result.queue_ms, result.scheduled_ttft_ms, result.scheduled_e2e_ms) == (20, 60, 100)
    assert result.chunk_gaps_us == [10_000, 30_000]


@pytest.mark.parametrize("token", [None, 0, 1])
def test_tpot_is_none_below_two_tokens(token: int | None) -> None:
    assert ok(token=token).tpot_ms is None


def test_a_record_comes_back_exactly() -> None:
    result = ok(
        3,
        1234.567,
        0.001,
        [0.999, 12345.678],
        reasoning="r",
        connect_ns=5000,
        scheduled_ns=1_000_000,
        turn=1,
    )
    assert st.Result.from_record(result.to_record()) == result
    failure = failed(1, "http_status", 1, 2)
    failure.error = st.Failure("http_status", "busy", 503, retry_after="5")
    assert st.Result.from_record(failure.to_record()) == failure


@settings(max_examples=300, deadline=None)
@given(
    values=hs.lists(hs.floats(0, 1e6), min_size=1, max_size=200),
    share=hs.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_percentiles_interpolate_linearly(values: list[float], share: float) -> None:
    expected = statistics.quantiles(
        [*values, values[0]] if len(values) == 1 else values, n=100, method="inclusive"
    )
    assert st.percentile(sorted(values), share) == pytest.approx(
        expected[round(share * 100) - 1], rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize("n", [1, 5, 6, 20, 35, 36, 71, 72, 100, 367, 368, 1000, 20_000])
@pytest.mark.parametrize("share", st.PERCENTILES.values())
def test_interval_ranks_hold_at_least_95_percent_and_no_rank_less_would(
    n: int, share: float
) -> None:
    lower, upper = st.interval_ranks(n, share)
    below = stats.binom(n, share).cdf
    if lower is not None:
        assert below(lower) <= 0.025 < below(lower + 1)
    else:
        assert below(0) > 0.025
    if upper is not None:
        assert below(upper) >= 0.975 > below(upper - 1)
    else:
        assert below(n - 1) < 0.975
    assert (lower is not None and upper is not None) == (n >= st.min_samples(share))


def test_intervals_cover_the_truth_in_about_95_of_100_samples() -> None:
    rng, hits = random.Random(5), 0
    truth = -math.log(1 - 0.9)
    for _ in range(1000):
        low, high = st.describe(rng.expovariate(1) for _ in range(150))["ci95"]["p90"]
        hits += low <= truth <= high
    assert 940 <= hits <= 995


def test_nothing_measured_is_none_and_never_zero() -> None:
    numbers = aggregate()
    for key in (
        "runtime_avg",
        "runtime_min",
        "token_sum",
        "tokens_per_s",
        "error_rate",
        "duration_ms",
        "goodput_per_s",
    ):
        assert numbers[key] is None, key
    assert set(numbers["ttft_ms"]["ci95"].values().__iter__().__next__()) == {None}
    assert numbers["ttft_ms"]["p50"] is None and numbers["energy"] is None


def test_throughput_covers_first_send_to_last_end_and_ok_requests_only() -> None:
    numbers = aggregate(ok(0, 0), ok(1, 980), failed(2, "reset", 500, 2000))
    assert numbers["duration_ms"] == 2000
    assert numbers["requests_per_s"] == 1.0
    assert numbers["tokens_per_s"] == 3.0
    assert (numbers["requests"], numbers["ok"], numbers["failed"], numbers["failures"]) == (
        3,
        2,
        1,
        {"reset": 1},
    )
    assert numbers["error_rate"] == pytest.approx(1 / 3, abs=1e-6)


def test_itl_pools_the_gaps_over_requests() -> None:
    numbers = aggregate(ok(0, gaps_ms=[1, 2, 3]), ok(1, gaps_ms=[10]))
    assert numbers["itl_ms"]["avg"] == 4
    assert (numbers["itl_ms"]["n"], numbers["itl_ms"]["p50"], numbers["itl_ms"]["max"]) == (
        4,
        2.5,
        10,
    )


def test_itl_intervals_take_requests_as_units_not_gaps() -> None:
    one_request = aggregate(ok(0, gaps_ms=[1.0] * 500))
    assert one_request["itl_ms"]["ci95"]["p50"] == [None, None]


@settings(max_examples=200, deadline=None)
@given(values=hs.lists(hs.integers(0, 50), min_size=2, max_size=60))
def test_a_histogram_gives_the_same_numbers_as_its_values(values: list[int]) -> None:
    counts = {float(value): values.count(value) for value in values}
    from_counts, from_values = (
        st.describe(st.Histogram(counts)),
        st.describe([float(value) for value in values]),
    )
    for key in ("avg", "std", "min", "max", "p50", "p99", "n"):
        assert from_counts[key] == pytest.approx(from_values[key])
    assert from_counts["ci95"] == from_values["ci95"]


def test_timeouts_enter_the_percentiles_as_lower_bounds_beside_the_successes_own() -> None:
    results = [ok(place, place * 10.0, 10, [40]) for place in range(90)]
    results += [failed(100 + place, "timeout", 0, 30_000) for place in range(10)]
    numbers = aggregate(*results)
    assert numbers["e2e_ms"]["p99"] == 50
    assert numbers["e2e_with_timeouts_ms"]["p50"] == 50
    assert numbers["e2e_with_timeouts_ms"]["p99"] == 30_000
    assert numbers["e2e_with_timeouts_ms"]["lower_bounds"] == ["p90", "p95", "p99"], (
        "p90 leans on a bound"
    )
    assert numbers["e2e_with_timeouts_ms"]["timeouts"] == 10


def test_goodput_counts_requests_that_meet_every_slo_and_no_failure() -> None:
    results = [
        ok(0, 0, 10, [5]),
        ok(1, 0, 200, [5]),
        ok(2, 0, 10, [500]),
        failed(3, "reset", 0, 1000),
    ]
    numbers = aggregate(*results, slo={"ttft_ms": 100, "tpot_ms": 100})
    assert numbers["good"] == 1
    assert numbers["goodput_per_s"] == 1.0


def test_an_unmeasured_value_meets_no_slo_but_one_token_has_no_tpot_to_miss() -> None:
    unmeasured = ok(0, first_ns=None, chunk_ns=[])
    one_token = ok(1, gaps_ms=[])
    assert aggregate(unmeasured, slo={"ttft_ms": 100})["good"] == 0
    assert aggregate(one_token, slo={"tpot_ms": 1})["good"] == 1


def test_stages_have_their_own_numbers_and_the_whole_sums_their_windows() -> None:
    results = [ok(0, 0, stage=0), ok(1, 100, stage=1), ok(2, 100, 10, [45, 45], stage=1)]
    numbers = aggregate(*results, concurrent=[1, 2])
    assert [stage["concurrent"] for stage in numbers["stages"]] == [1, 2]
    assert [stage["ok"] for stage in numbers["stages"]] == [1, 2]
    assert [stage["duration_ms"] for stage in numbers["stages"]] == [20, 100]
    assert numbers["duration_ms"] == 120


def test_the_drain_is_what_ran_on_after_the_first_slot_was_idle() -> None:
    assert aggregate(ok(0, 0, 10, [990]), ok(1, 0, 10, [90]))["drain_ms"] == 900


def test_drift_compares_the_halves() -> None:
    calm = aggregate(*(ok(place, place * 10.0, 10, [20]) for place in range(40)))["drift"]
    assert (calm["metric"], calm["ratio"], calm["apart"]) == ("tpot_ms", 1, False)
    slower = aggregate(
        *(ok(place, place * 10.0, 10, [20 if place < 20 else 60]) for place in range(40))
    )["drift"]
    assert slower["apart"] and slower["ratio"] == 3
    longer = aggregate(
        *(ok(place, place * 10.0, 10, [20] * (1 if place < 20 else 9)) for place in range(40))
    )["drift"]
    assert longer["ratio"] == 1, "longer answers are no drift"


def test_thresholds_are_held_against_the_aggregate() -> None:
    config = st.Config.model_validate(
        {
            "server": "embedded",
            "model": "m",
            "thresholds": {"ttft_ms.p95": "<= 500", "ok": ">= 3", "energy": "<= 1"},
        }
    )
    checks = st.check_thresholds(config, st.calculate_aggregates([ok(0), ok(1)], config))
    assert [check.met for check in checks] == [True, False, False]


# --- Validity: each reason has a test that provokes it.


def load(resumed: str | None = None, **client: Any) -> st.LoadReport:
    made = st.LoadReport(st.LoadStart(resumed=resumed))
    made.client = {
        "loop_lag_ms": {"p50": 0.1, "p90": 0.2, "p95": 0.3, "p99": 1, "max": 2},
        "cpu_share": 0.2,
        **client,
    }
    return made


def verdict(
    *results: st.Result, made: st.LoadReport | None = None, interrupted: bool = False, **config: Any
) -> tuple[str, set[str]]:
    full = st.Config.model_validate({"server": "embedded", "model": "m", **config})
    made = made or load()
    made.interrupted = interrupted
    said = st.judge_validity(full, st.calculate_aggregates(results, full), made)
    assert all(reason["message"] for reason in said["reasons"])
    return said["verdict"], {reason["code"] for reason in said["reasons"]}


ENOUGH = [ok(place, place * 40.0, 50, [10] * 5) for place in range(400)]


def test_a_calm_run_is_valid() -> None:
    assert verdict(*ENOUGH) == ("VALID", set())


def test_no_answers_is_invalid() -> None:
    assert verdict(failed(0, "reset", 0, 1)) == ("INVALID", {"no_answers"})
    assert verdict()[0] == "INVALID"


def test_failures_are_suspect_and_many_are_invalid() -> None:
    some = [failed(1000 + place, "http_status", place, place + 1) for place in range(40)]
    assert verdict(*ENOUGH, *some) == ("SUSPECT", {"failures"})
    assert verdict(*ENOUGH[:72], *some * 2) == ("INVALID", {"failures"})


def test_too_few_requests_is_suspect_where_a_threshold_or_an_slo_stands_on_them() -> None:
    def reasons(**keys: Any) -> list[dict[str, str]]:
        config = st.Config(server="http://x:1", model="m", **keys)
        full = st.calculate_aggregates(
            [ok(place, place * 200.0, 50, [10] * 5) for place in range(20)], config
        )
        return list(st.judge_validity(config, full, load())["reasons"])

    assert reasons() == [], "the brackets of the summary say it"
    assert reasons(thresholds={"ttft_ms.p50": "< 100", "ttft_ms.avg": "< 100"}) == []
    for keys in ({"thresholds": {"ttft_ms.p95": "< 100"}}, {"slo": {"ttft_ms": 100}}):
        what = "the SLO" if "slo" in keys else "the threshold on ttft_ms.p95"
        message = f"{what} stands on 20 answers, too few for its interval: ask 52 more"
        assert reasons(**keys) == [{"code": "too_few_requests", "message": message}]
    assert [reason["code"] for reason in reasons(thresholds={"e2e_ms.p99": "< 9"})] == [
        "too_few_requests"
    ]


def test_a_lagging_or_busy_client_is_named_and_a_saturated_one_is_invalid() -> None:
    lagging = load(loop_lag_ms={"p50": 3, "p90": 6, "p95": 8, "p99": 12, "max": 15})
    assert verdict(*ENOUGH, made=lagging) == ("SUSPECT", {"client_saturated"})
    stuck = load(loop_lag_ms={"p50": 30, "p90": 60, "p95": 80, "p99": 120, "max": 150})
    assert verdict(*ENOUGH, made=stuck) == ("INVALID", {"client_saturated"})
    assert verdict(*ENOUGH, made=load(cpu_share=0.93)) == ("SUSPECT", {"client_saturated"})
    assert verdict(*ENOUGH, made=load(cpu_share=0.99)) == ("INVALID", {"client_saturated"})


def test_prompts_from_a_cache_are_suspect_unless_it_is_busted() -> None:
    cached = [
        ok(place, place * 40.0, 50, [10] * 5, prompt_tokens=100, cached_tokens=90)
        for place in range(400)
    ]
    assert verdict(*cached) == ("SUSPECT", {"prompt_cache"})
    assert verdict(*cached, cache_bust=True) == ("SUSPECT", {"prompt_cache"}), (
        "the mark did not help"
    )


def test_a_sweep_whose_server_is_silent_about_its_cache_is_suspect_unless_it_is_busted() -> None:
    results = [ok(place, place * 40.0, 50, [10] * 5, stage=place // 200) for place in range(400)]
    assert verdict(*results, concurrent=[1, 2]) == ("SUSPECT", {"prompt_cache"})
    assert verdict(*results, concurrent=[1, 2], cache_bust=True) == ("VALID", set())


def test_a_run_too_short_to_judge_the_client_is_suspect() -> None:
    assert verdict(*ENOUGH[:20] * 5) == ("SUSPECT", {"too_short"})


def test_answers_that_come_in_one_piece_have_no_tpot_and_are_suspect() -> None:
    lump = ok(0, gaps_ms=[0, 0, 0])
    assert lump.tpot_ms is None
    lumps = [ok(place, place * 40.0, 50, [0, 0]) for place in range(400)]
    assert verdict(*lumps) == ("SUSPECT", {"stream_buffered"})


def test_a_rate_that_the_cap_held_back_is_suspect() -> None:
    late = [
        ok(place, place * 40.0, 50, [10] * 5, scheduled_ns=place * 20 * NS_PER_MS)
        for place in range(400)
    ]
    assert verdict(*late, rate=50) == ("SUSPECT", {"rate_missed"})
    on_time = [
        ok(place, place * 40.0, 50, [10] * 5, scheduled_ns=place * 40 * NS_PER_MS)
        for place in range(400)
    ]
    assert verdict(*on_time, rate=25) == ("VALID", set())


def test_a_resumed_run_says_so() -> None:
    assert verdict(*ENOUGH, made=load(resumed="killed")) == ("SUSPECT", {"resumed"})


def test_estimated_tokens_cut_and_reasoning_only_answers_are_suspect() -> None:
    def alter(**changes: Any) -> list[st.Result]:
        return [ok(place, place * 40.0, 50, [10] * 5, **changes) for place in range(400)]

    assert verdict(*alter(token_source="chunks")) == ("SUSPECT", {"tokens_estimated"})
    assert verdict(*alter(finish_reason="length")) == ("SUSPECT", {"answers_cut"})
    assert verdict(*alter(answer="", reasoning="hm")) == ("SUSPECT", {"reasoning_only"})


def test_drift_and_a_clock_jump_are_suspect() -> None:
    slower = [
        ok(place, place * 400.0, 50, [10] * 5 if place < 200 else [40] * 5) for place in range(400)
    ]
    assert verdict(*slower) == ("SUSPECT", {"drift"})
    jumped = load()
    jumped.clock_jump_s = -3600
    assert verdict(*ENOUGH, made=jumped) == ("SUSPECT", {"clock_jump"})


def test_an_interrupted_run_is_suspect() -> None:
    assert verdict(*ENOUGH, interrupted=True) == ("SUSPECT", {"interrupted"})


# --- Schedules


def offsets(count: int | None = 5000, **config: Any) -> list[float]:
    seed = config.pop("seed", 1)
    made = st.Config.model_validate({"server": "embedded", "model": "m", "rate": 100, **config})
    return [offset / st.NS_PER_S for offset in st.arrival_offsets(made, count, f"{seed}/0")]


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize(
    ("arrival", "burstiness", "variation"),
    [("constant", 1, 0), ("poisson", 1, 1), ("gamma", 0.25, 2), ("gamma", 4, 0.5)],
)
def test_gaps_have_the_asked_mean_and_variation(
    arrival: str, burstiness: float, variation: float
) -> None:
    between = gaps(offsets(arrival=arrival, burstiness=burstiness))
    assert statistics.fmean(between) == pytest.approx(0.01, rel=0.06)
    assert statistics.stdev(between) / statistics.fmean(between) == pytest.approx(
        variation, abs=0.12
    )


def test_a_seed_repeats_the_schedule_and_another_does_not() -> None:
    assert offsets() == offsets()
    assert offsets() != offsets(seed=2)


def test_a_schedule_by_duration_ends_with_it() -> None:
    times = offsets(None, duration=20, arrival="constant")
    assert len(times) == 2000 and times[-1] < 20


@pytest.mark.parametrize("rate", [3, 7, 10, 30, 100, 999])
def test_an_even_schedule_holds_rate_times_duration_requests(rate: int) -> None:
    assert len(offsets(None, rate=rate, duration=5, arrival="constant")) == 5 * rate


@pytest.mark.parametrize(("arrival", "burstiness"), [("poisson", 1), ("gamma", 0.3), ("gamma", 5)])
def test_a_random_schedule_holds_on_average_rate_times_duration_requests(
    arrival: str, burstiness: float
) -> None:
    counts = [
        len(offsets(None, duration=0.05, arrival=arrival, burstiness=burstiness, seed=seed))
        for seed in range(3000)
    ]
    error = statistics.stdev(counts) / math.sqrt(len(counts))
    assert statistics.fmean(counts) == pytest.approx(5, abs=4 * error)
    assert 4 * error < 0.5, "one request too many would be seen"


def test_a_resumed_schedule_leaves_out_the_gaps_of_what_is_finished() -> None:
    config = st.Config(server="embedded", model="m", rate=10, arrival="constant")
    questions = [st.Question(id=f"q{place}", question="x") for place in range(100)]
    done = frozenset(range(40)) | frozenset(range(50, 90))
    stage = st.Stage(config, questions, 0, st.LoadStart(done=done))
    planned = list(stage.planned_requests(0))
    assert [request.index for _, request in planned] == [*range(40, 50), *range(90, 100)]
    assert {round(gap, 6) for gap in gaps([due_ns / st.NS_PER_S for due_ns, _ in planned])} == {0.1}


def test_a_day_at_a_high_rate_is_scheduled_as_it_goes() -> None:
    config = st.Config(
        server="embedded", model="m", rate=10_000, duration=86_400, arrival="constant"
    )
    stage = st.Stage(config, [st.Question(id="q", question="x")], 0, st.LoadStart())
    due_ns = [due_ns for due_ns, _ in itertools.islice(stage.planned_requests(0), 3)]
    assert due_ns == [0, 100_000, 200_000]


def test_ramp_up_grows_the_rate_evenly() -> None:
    times = offsets(None, duration=20, arrival="constant", ramp_up=10)
    assert sum(time < 5 for time in times) == pytest.approx(125, abs=2)
    assert sum(time < 10 for time in times) == pytest.approx(500, abs=2)
    assert sum(10 <= time < 20 for time in times) == pytest.approx(1000, abs=2)


def test_dates_come_from_one_reading_of_the_clock() -> None:
    moment = dt.datetime(2026, 11, 23, 13, 15, 0, 123_900, tzinfo=dt.UTC)
    assert st._dates("start", moment) == {"start_date": "2026-11-23", "start_time": "13:15:00.123"}
