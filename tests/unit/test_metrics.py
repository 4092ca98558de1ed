"""The statistics, held against independent computations."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import stats

import llm_stresstest as st
from tests.conftest import impossible

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


def as_if_independent(values: Sequence[float], quantile: float) -> tuple[float, float]:
    """Return the interval of a percentile by the order statistics of independent values."""
    lower, upper = st.interval_ranks(len(values), quantile)
    assert lower is not None and upper is not None
    return sorted(values)[lower], sorted(values)[upper]


def test_intervals_of_independent_values_cover_the_truth_in_about_95_of_100_samples() -> None:
    rng, hits, widths = random.Random(5), 0, list[float]()
    truth = -math.log(1 - 0.9)
    for _ in range(400):
        values = [rng.expovariate(1) for _ in range(400)]
        low, high = st.describe(values)["ci95"]["p90"]
        hits += low <= truth <= high
        alone_low, alone_high = as_if_independent(values, 0.9)
        widths.append((high - low) / (alone_high - alone_low))
    assert 376 <= hits <= 400
    assert statistics.median(widths) < 1.2, "hardly wider than if independence were known"


def waiting_times(rng: random.Random, requests: int, load: float) -> list[float]:
    """Return the waits in a queue with one server (Lindley): each depends on the one before."""
    waits = [0.0]
    for _ in range(requests + 500):
        waits.append(max(waits[-1] + rng.expovariate(1) - rng.expovariate(load), 0.0))
    return [wait + rng.uniform(0.01, 0.02) for wait in waits[-requests:]]


def test_intervals_hold_in_a_queue_where_those_for_independent_values_do_not() -> None:
    rng = random.Random(7)
    runs = [waiting_times(rng, 1000, 0.5) for _ in range(150)]
    truth = st.percentile(sorted(itertools.chain.from_iterable(runs)), 0.9)
    assert truth is not None
    hits = naive = 0
    for run in runs:
        low, high = st.describe(run)["ci95"]["p90"]
        hits += (low is None or low <= truth) and (high is None or high >= truth)
        alone_low, alone_high = as_if_independent(run, 0.9)
        naive += alone_low <= truth <= alone_high
    assert hits >= 0.92 * 150
    assert naive < 0.8 * 150, "the oracle: this queue does fool them"


def test_where_dependence_leaves_too_little_both_bounds_are_null() -> None:
    crawling = [math.sin(place / 160) for place in range(1000)]  # one long wave
    numbers = st.describe(crawling)
    assert numbers["ci95"]["p95"] == numbers["ci95"]["p99"] == [None, None]
    assert numbers["n_eff"]["p95"] < 36 and numbers["n"] == 1000
    assert st.requests_missing(numbers, "p95") > 1000, "more of these, not 72 less what there is"


def test_what_a_percentile_needs_grows_with_the_percentile_and_the_dependence() -> None:
    def needs(n: int, **n_eff: float) -> list[int]:
        metric = {"n": n, "n_eff": dict(zip(st.PERCENTILES, n_eff.values(), strict=True))}
        return [st.requests_missing(metric, name) for name in st.PERCENTILES]

    assert needs(40, p50=40, p90=40, p95=40, p99=40) == [0, 0, 32, 328]
    assert needs(40, p50=20, p90=1, p95=34, p99=1) == [0, 248, 536, 2904]
    assert needs(1000, p50=100, p90=50, p95=40, p99=40) == [0, 0, 800, 8200]


def test_n_eff_stands_beside_n_and_is_never_more() -> None:
    alternating = st.describe([1.0, 2.0] * 200)
    assert list(alternating)[-3:] == ["n", "n_eff", "ci95"]
    assert set(alternating["n_eff"]) == set(st.PERCENTILES)
    assert all(0 < n_eff <= 400 for n_eff in alternating["n_eff"].values())
    assert st.describe([])["n_eff"]["p50"] is None


@pytest.mark.parametrize("df", [3, 5, 8, 20, 100])
@pytest.mark.parametrize("tail", [0.025, 0.01])
def test_students_t_is_the_one_of_the_tables(df: float, tail: float) -> None:
    assert st.student_t(tail, df) == pytest.approx(
        stats.t.ppf(1 - tail, df), rel=0.2 / df**2 + 1e-4
    )


def test_the_variance_of_a_sum_is_that_of_theory_for_an_autoregressive_series() -> None:
    rng, found = random.Random(2), list[float]()
    for _ in range(200):
        value, series = 0.0, list[float]()
        for _ in range(500):
            value = 0.5 * value + rng.gauss(0, 1)
            series.append(value)
        mean = statistics.fmean(series)
        found.append(st.sum_variance([value - mean for value in series])[0] / 500)
    assert statistics.fmean(found) == pytest.approx(1 / (1 - 0.5) ** 2, rel=0.1)


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
    from_values = st.describe([float(value) for value in values])
    from_counts = st.describe(st.Histogram(counts), from_values["n_eff"])
    for key in ("avg", "std", "min", "max", "p50", "p99", "n"):
        assert from_counts[key] == pytest.approx(from_values[key])
    assert from_counts["ci95"] == from_values["ci95"]
    assert st.describe(st.Histogram(counts))["ci95"]["p50"] == [None, None], "it has no order"


def test_long_answers_count_for_less_than_their_gaps_by_kishs_rule() -> None:
    rng = random.Random(3)
    results = [
        ok(place, place * 100.0, gaps_ms=[rng.uniform(1, 9) for _ in range(10 + 90 * (place % 2))])
        for place in range(100)
    ]
    n_eff = aggregate(*results)["itl_ms"]["n_eff"]["p50"]
    assert n_eff <= (50 * 10 + 50 * 100) ** 2 / (50 * 10**2 + 50 * 100**2) + 0.1


def test_failures_enter_the_percentiles_as_lower_bounds_beside_the_successes_own() -> None:
    results = [ok(place, place * 10.0, 10, [40]) for place in range(90)]
    results += [failed(100 + place, "timeout", 0, 30_000) for place in range(10)]
    numbers = aggregate(*results)
    assert numbers["e2e_ms"]["p99"] == 50
    assert numbers["e2e_with_failures_ms"]["p50"] == 50
    assert numbers["e2e_with_failures_ms"]["p99"] == 30_000
    assert numbers["e2e_with_failures_ms"]["lower_bounds"] == ["p90", "p95", "p99"], (
        "p90 leans on a bound"
    )
    assert numbers["e2e_with_failures_ms"]["failures"] == 10


def test_resets_and_requests_that_never_left_enter_as_at_least_their_wait() -> None:
    answered = [ok(place, place * 10.0, 10, [40]) for place in range(90)]
    reset = failed(100, "reset", 0, 700)
    unsent = failed(101, "connect", 0, 9_000)
    unsent.sent_ns, unsent.connect_ns = None, 9_000 * NS_PER_MS
    scheduled = failed(102, "connect", 0, 8_000)
    scheduled.sent_ns, scheduled.scheduled_ns = None, 2_000 * NS_PER_MS
    numbers = aggregate(*answered, reset, unsent, scheduled)
    for name in ("e2e_with_failures_ms", "ttft_with_failures_ms"):
        assert numbers[name]["failures"] == 3
        assert numbers[name]["n"] == 93
        assert numbers[name]["p99"] == pytest.approx(st.percentile([*range(91), 6000, 9000], 0.99))


def test_neither_a_cancelled_nor_a_skipped_request_is_a_latency() -> None:
    numbers = aggregate(ok(0), failed(1, "cancelled", 0, 5), failed(2, "turn_skipped", 0, 5))
    assert numbers["e2e_with_failures_ms"]["failures"] == 0
    assert (numbers["failed"], numbers["cancelled"]) == (1, 1), "a skipped turn has no answer"


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


def test_throughput_while_all_slots_are_busy_leaves_out_ramp_and_drain() -> None:
    # Two slots: 100 answers of 10 tokens, 100 ms each; then one request hangs until 60 s.
    results = [
        ok(place, place // 2 * 100.0, 10, [10] * 9) for place in range(100)
    ]  # first tokens at 10 ms, last ones at 100 ms
    hung = failed(100, "timeout", 4_900, 60_000)
    numbers = aggregate(*results, hung, concurrent=2)
    steady = numbers["steady"]
    assert numbers["tokens_per_s"] == pytest.approx(1000 / 60, rel=1e-3)
    assert steady["duration_ms"] == 4900
    assert steady["tokens_per_s"] == pytest.approx(980 / 4.9)
    assert steady["requests_per_s"] == pytest.approx(98 / 4.9)
    assert steady["share"] == pytest.approx(4900 / 60_000, abs=1e-6)


def test_slots_that_were_never_all_busy_have_no_steady_state() -> None:
    assert set(aggregate(ok(0), ok(1, 200), concurrent=2)["steady"].values()) == {None}


def test_an_open_loop_is_steady_from_its_first_answer_and_after_its_ramp() -> None:
    results = [
        ok(place, place * 100.0, scheduled_ns=place * 100 * NS_PER_MS) for place in range(50)
    ]
    assert aggregate(*results, rate=10)["steady"]["duration_ms"] == 4900 - 20
    assert aggregate(*results, rate=10, ramp_up=2)["steady"]["duration_ms"] == 2900


def test_drift_is_a_trend_or_a_step_of_the_time_per_token_and_not_longer_answers() -> None:
    def drift(gap_ms: Callable[[int], float], gaps: Callable[[int], int] = lambda _: 1) -> Any:
        rng = random.Random(4)
        return aggregate(
            *(
                ok(place, place * 10.0, 10, [gap_ms(place) * rng.uniform(0.8, 1.2)] * gaps(place))
                for place in range(300)
            )
        )["drift"]

    assert not drift(lambda _: 20)["significant"]
    rising = drift(lambda place: 20 * (1 + 0.3 * place / 300))
    assert rising["significant"] and rising["metric"] == "tpot_ms"
    assert rising["ratio"] == pytest.approx(1.3, abs=0.05)
    assert drift(lambda place: 20 if place < 150 else 40)["significant"]
    longer = drift(lambda _: 20, lambda place: 1 if place < 150 else 9)
    assert not longer["significant"], "longer answers are no drift"
    assert aggregate(*(ok(place, place * 10.0) for place in range(49)))["drift"] is None


def open_loop(load: float, requests: int = 400, seed: int = 6) -> list[st.Result]:
    """Return what a server with one slot makes of Poisson arrivals; 100 ms an answer."""
    rng, due_ms, free_ms, results = random.Random(seed), 0.0, 0.0, []
    for place in range(requests):
        due_ms += rng.expovariate(load / 100)
        free_ms = max(free_ms, due_ms) + rng.uniform(80, 120)
        wait_ms = free_ms - due_ms - 50
        due_ns = round(due_ms * 1000) * 1000
        results.append(ok(place, due_ns / NS_PER_MS, wait_ms, [10] * 5, scheduled_ns=due_ns))
    return results


def test_an_open_loop_above_capacity_is_overloaded_and_a_busy_one_is_not() -> None:
    config = {"rate": 10, "concurrent": 1000}
    beyond = aggregate(*open_loop(2.0), **config)["overload"]
    assert beyond["growing"]
    assert beyond["in_system_last"] > 150 and beyond["ttft_last_ms"] > 10 * beyond["ttft_first_ms"]
    calm = sum(
        aggregate(*open_loop(0.85, seed=seed), **config)["overload"]["growing"]
        for seed in range(30)
    )
    assert calm <= 1
    assert aggregate(*ENOUGH)["overload"] is None, "a closed loop cannot be"


def test_a_sweeps_whole_has_neither_drain_nor_drift_nor_overload() -> None:
    results = [ok(place, place * 40.0, stage=place // 200) for place in range(400)]
    numbers = aggregate(*results, concurrent=[1, 2])
    assert numbers["drain_ms"] is numbers["drift"] is numbers["overload"] is None
    assert all(stage["drift"] is not None for stage in numbers["stages"])


def graded(index: int, question: int, score: float, **more: Any) -> st.Result:
    more = {"grader": "fuzzy", "graded": True, "quality": score, **more}
    result = ok(index, index * 10.0, **more)
    result.id = f"q{question}"
    return result


def test_accuracy_counts_questions_and_not_how_often_they_were_asked() -> None:
    # Three questions, wrapped around: the right one three times, the wrong ones twice and once.
    scores = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    questions = [0, 1, 2, 0, 1, 0]
    results = [graded(i, q, s) for i, (q, s) in enumerate(zip(questions, scores, strict=True))]
    answers = aggregate(*results)["quality"]["of_answers"]
    assert answers["avg"] == pytest.approx(1 / 3), "not 3 of 6"
    assert (answers["n"], answers["questions"]) == (6, 3)
    ten = [graded(i, i % 10, float(i % 10 < 7)) for i in range(200)]
    once = [graded(i, i, float(i < 7)) for i in range(10)]
    often, single = (aggregate(*some)["quality"]["of_answers"]["ci95"] for some in (ten, once))
    assert often == pytest.approx(single, abs=1e-9), "10 questions x 20 are 10"


def test_a_mean_score_and_a_share_of_correct_answers_are_two_numbers() -> None:
    answers = aggregate(graded(0, 0, 0.8), graded(1, 1, 0.4))["quality"]["of_answers"]
    assert (answers["avg"], answers["correct_share"]) == (pytest.approx(0.6), 0.5)
    assert answers["ci95"] != answers["correct_ci95"]


def test_a_question_that_only_failed_counts_under_load_and_not_of_the_answers() -> None:
    lost = failed(1, "reset", 0, 5)
    lost.id, lost.grader = "q1", "fuzzy"
    quality = aggregate(graded(0, 0, 1.0), lost)["quality"]
    assert (quality["of_answers"]["questions"], quality["of_answers"]["avg"]) == (1, 1.0)
    assert (quality["under_load"]["questions"], quality["under_load"]["avg"]) == (2, 0.5)


def sweep(texts: Sequence[Sequence[str]], levels: Sequence[int], **config: Any) -> list[Any]:
    """Return the stability at each stage; the first one is asked all but the last list."""
    results, count = [], len(texts[0])
    passes = [0, *range(len(texts) - 1)] if len(texts) > len(levels) else range(len(texts))
    order = [texts[0], texts[-1], *texts[1:-1]] if len(texts) > len(levels) else texts
    for number, (stage, answers) in enumerate(zip(passes, order, strict=True)):
        for place, text in enumerate(answers):
            index = number * count + place
            results.append(ok(index, index * 100.0, stage=stage, answer=text))
            results[-1].id = f"q{place}"
    stages = aggregate(*results, concurrent=list(levels), **config)["stages"]
    return [stage["quality"]["stability"] for stage in stages]


def test_what_differs_between_two_passes_of_the_lowest_level_is_not_blamed_on_the_load() -> None:
    cold = ["a", "b", "c", "d"] * 10
    warm = ["a", "b", "c", "x"] * 10  # ten differ without any load
    lowest, highest = sweep([cold, warm, warm], [1, 8])
    assert lowest is None
    assert (highest["differs"], highest["avg"], highest["floor"]) == (10, 0.25, 0.25)
    assert highest["beyond"] == 0
    low, high = highest["beyond_ci95"]
    assert low < 0 < high
    changed = ["y"] * 20 + warm[20:]
    beyond = sweep([cold, changed, warm], [1, 8])[1]
    assert beyond["beyond"] == pytest.approx(15 / 40) and beyond["beyond_ci95"][0] > 0


def test_without_a_second_pass_there_is_no_floor_and_with_cache_bust_no_stability() -> None:
    first, second = sweep([["a", "b"], ["a", "c"]], [1, 8])
    assert first is None
    assert (second["differs"], second["floor"], second["beyond_ci95"]) == (1, None, [None, None])
    assert sweep([["a"], ["a"]], [1, 8], cache_bust=True) == [None, None]


def test_a_level_that_the_sweep_names_twice_is_its_own_floor() -> None:
    stages = sweep([["a", "b"], ["a", "c"], ["d", "c"]], [1, 1, 4])
    assert [stage and stage["differs"] for stage in stages] == [None, 1, 2]
    assert (stages[2]["floor"], stages[2]["beyond"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("keys", "asks"),
    [
        ({"concurrent": [1, 2]}, True),
        ({"concurrent": [1, 2], "stability_floor": False}, False),
        ({"concurrent": [1, 2], "temperature": 0.7}, False),
        ({"concurrent": [1, 2], "temperature": 0.7, "stability_floor": True}, True),
        ({"concurrent": [1, 2], "cache_bust": True}, False),
        ({"concurrent": [1, 2], "duration": 5}, False),
        ({"concurrent": [1, 1, 2]}, False),
        ({"concurrent": 4}, False),
    ],
)
def test_the_lowest_level_is_asked_twice_where_answers_can_be_compared(
    keys: dict[str, Any], asks: bool
) -> None:
    config = st.Config(server="http://x:1", model="m", **keys)
    assert config.asks_floor is asks
    assert config.passes == len(config.levels) + asks


def test_good_is_judged_from_the_schedule_and_a_conversation_at_its_end() -> None:
    late = ok(0, 500, 10, scheduled_ns=0)
    assert aggregate(late, slo={"ttft_ms": 100}, rate=1)["good"] == 0
    turns = [ok(0, 0, turn=0), ok(0, 100, turn=1, grader="exact", graded=True, quality=1.0)]
    assert aggregate(*turns, slo={"quality": 0.5})["good"] == 2
    turns[1].quality = 0.0
    assert aggregate(*turns, slo={"quality": 0.5})["good"] == 0


def test_a_first_token_limit_without_streaming_makes_goodput_null() -> None:
    whole = ok(0, first_ns=None, chunk_ns=[])
    for slo in ({"ttft_ms": 100}, {"tpot_ms": 100, "e2e_ms": 900}):
        numbers = aggregate(whole, slo=slo, stream=False)
        assert numbers["good"] is numbers["goodput_per_s"] is None
    assert aggregate(whole, slo={"e2e_ms": 900}, stream=False)["good"] == 1


def test_thresholds_of_a_sweep_are_held_against_each_level_or_the_one_named() -> None:
    results = [ok(0, 0, 10), ok(1, 100, 30, stage=1)]
    config = st.Config(
        server="http://x:1",
        model="m",
        concurrent=[1, 2],
        thresholds={
            "ttft_ms.p50": "<= 20",
            "stages.2.ttft_ms.p50": "<= 40",
            "pooled.ttft_ms.p50": "<= 20",
        },
    )
    checks = st.check_thresholds(config, st.calculate_aggregates(results, config))
    assert [(check.metric, check.value, check.met) for check in checks] == [
        ("stages.1.ttft_ms.p50", 10, True),
        ("stages.2.ttft_ms.p50", 30, False),
        ("stages.2.ttft_ms.p50", 30, True),
        ("pooled.ttft_ms.p50", 20, True),
    ]


def test_a_histogram_of_a_stage_whose_results_are_lost_is_left_out() -> None:
    config = st.Config(server="http://x:1", model="m", concurrent=1)
    numbers = st.calculate_aggregates([ok(0)], config, {0: {5000: 2}, 1: {7000: 3}})
    assert (numbers["itl_ms"]["n"], numbers["itl_ms"]["max"]) == (2, 5)


def test_a_threshold_on_the_only_level_of_a_run_is_held_against_all_of_it() -> None:
    config = st.Config(
        server="http://x:1",
        model="m",
        concurrent=2,
        thresholds={"stages.2.ttft_ms.p95": "<= 20", "pooled.ok": ">= 2"},
    )
    whole = st.calculate_aggregates([ok(0, 0, 10), ok(1, 100, 30)], config)
    checks = st.check_thresholds(config, whole)
    assert [(check.metric, check.value, check.met) for check in checks] == [
        ("ttft_ms.p95", pytest.approx(29), False),
        ("ok", 2, True),
    ]
    load = st.LoadReport(st.LoadStart())
    codes = [reason["code"] for reason in st.judge_validity(config, whole, load)["reasons"]]
    assert "too_few_requests" in codes, "p95 of two answers has no interval"


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("stages.3.ttft_ms.p95", "no level of `concurrent` is 3"),
        ("stages.2.ttft.p95", "did you mean stages.2.ttft_ms.p95?"),
        ("pooled.nonsense", "did you mean pooled."),
        ("stages.x.ok", "is no metric"),
    ],
)
def test_a_threshold_on_a_level_or_metric_that_is_not_there_is_refused(
    metric: str, said: str
) -> None:
    config = st.Config(
        server="http://x:1", model="m", concurrent=[1, 2], thresholds={"ok": "> 0", metric: "> 1"}
    )
    fault = config.fault()
    assert fault is not None and fault.startswith("thresholds: ") and said in fault


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


def late(errors_ms: Sequence[float], stage: int = 0, **changes: Any) -> list[st.Result]:
    """Return the results of a stage whose first tokens were read so late."""
    return [
        ok(
            1000 * stage + place,
            place * 40.0,
            100,
            [10] * 5,
            stage=stage,
            client_error_ns=round(error_ms * NS_PER_MS),
            **changes,
        )
        for place, error_ms in enumerate(errors_ms)
    ]


def test_a_client_that_reads_late_is_named_and_a_very_late_one_is_invalid() -> None:
    assert verdict(*late([0.3] * 400)) == ("VALID", set())
    assert verdict(*late([8] * 400)) == ("SUSPECT", {"client_saturated"})
    assert verdict(*late([30] * 400)) == ("INVALID", {"client_saturated"})


def test_stalls_in_three_percent_of_a_run_are_seen() -> None:
    stalls = [250 - place % 250 if place % 100 < 3 else 0.2 for place in range(400)]
    assert verdict(*late(stalls)) == ("INVALID", {"client_saturated"})


def test_a_saturated_last_stage_of_a_sweep_is_seen() -> None:
    calm, full = late([0.2] * 400), late([40] * 400, stage=1)
    config: dict[str, Any] = {"concurrent": [1, 3], "cache_bust": True}
    assert verdict(*calm, *late([0.2] * 400, stage=1), **config) == ("VALID", set())
    assert verdict(*calm, *full, **config) == ("INVALID", {"client_saturated"})
    assert "at 3 at once" in message(*calm, *full, **config)


def message(*results: st.Result, made: st.LoadReport | None = None, **config: Any) -> str:
    """Return the one reason's message."""
    full = st.Config.model_validate({"server": "embedded", "model": "m", **config})
    aggregate = st.calculate_aggregates(results, full)
    (reason,) = st.judge_validity(full, aggregate, made or load())["reasons"]
    return str(reason["message"])


def test_a_lagging_loop_holds_requests_back_in_a_closed_loop() -> None:
    lagging = load(loop_lag_ms={"p50": 3, "p90": 6, "p95": 8, "p99": 12, "max": 15})
    assert verdict(*ENOUGH, made=lagging) == ("SUSPECT", {"client_saturated"})
    stuck = load(loop_lag_ms={"p50": 30, "p90": 60, "p95": 80, "p99": 120, "max": 150})
    assert verdict(*ENOUGH, made=stuck) == ("INVALID", {"client_saturated"})
    assert verdict(*ENOUGH, made=load(cpu_share=0.93)) == ("VALID", set())
    assert verdict(*ENOUGH, made=load(cpu_share=0.99)) == ("SUSPECT", {"client_saturated"})


def test_chunks_read_together_are_suspect_and_many_are_invalid() -> None:
    assert verdict(*late([0] * 400, merged_chunks=0)) == ("VALID", set())
    assert verdict(*late([0] * 400, merged_chunks=1)) == ("SUSPECT", {"client_saturated"})
    assert verdict(*late([0] * 400, merged_chunks=2)) == ("INVALID", {"client_saturated"})


def test_a_starved_client_is_told_from_a_busy_one_and_the_rival_is_named() -> None:
    rivals = [{"name": "ffmpeg\x1b", "pid": 7, "cpu_share": 0.97}]
    starved = load(cpu_share=0.3, cpu_wait_share=0.4, rivals=rivals)
    assert verdict(*ENOUGH, made=starved) == ("SUSPECT", {"client_starved"})
    said = message(*ENOUGH, made=starved)
    assert "ffmpeg" in said and "pid 7, 97%" in said and "\x1b" not in said


def test_prompts_from_a_cache_are_suspect_unless_it_is_busted() -> None:
    cached = [
        ok(place, place * 40.0, 50, [10] * 5, prompt_tokens=100, cached_tokens=90)
        for place in range(400)
    ]
    assert verdict(*cached) == ("SUSPECT", {"prompt_cache"})
    assert verdict(*cached, cache_bust=True) == ("SUSPECT", {"prompt_cache"}), (
        "the mark did not help"
    )


def test_a_silent_cache_is_suspect_where_a_cold_and_a_warm_prompt_showed_it() -> None:
    results = [ok(place, place * 40.0, 50, [10] * 5, stage=place // 200) for place in range(400)]

    def pair(found: bool | None, cached: int | None = None) -> st.LoadReport:
        seen = {"cold_ms": [80.0], "warm_ms": [20.0], "cached_tokens": cached, "found": found}
        return load(prompt_cache=seen)

    sweep: dict[str, Any] = {"concurrent": [1, 2]}
    assert verdict(*results, **sweep) == ("VALID", set()), "no suspicion without grounds"
    assert verdict(*results, made=pair(found=True), **sweep) == ("SUSPECT", {"prompt_cache"})
    assert verdict(*results, made=pair(found=False), **sweep) == ("VALID", set())
    assert verdict(*results, made=pair(found=None), **sweep) == ("VALID", set())
    assert verdict(*results, made=pair(True, 50), **sweep) == ("VALID", set()), (
        "the run's own count"
    )


def test_a_run_too_short_to_judge_the_client_is_suspect() -> None:
    assert verdict(*ENOUGH[:20] * 5) == ("SUSPECT", {"too_short"})


def test_answers_that_come_in_one_piece_have_no_tpot_and_are_suspect() -> None:
    lump = ok(0, gaps_ms=[0, 0, 0])
    assert lump.tpot_ms is None
    lumps = [ok(place, place * 40.0, 50, [0, 0]) for place in range(400)]
    assert verdict(*lumps) == ("SUSPECT", {"stream_buffered"})


def scheduled(late_ms: float, **more: Any) -> list[st.Result]:
    """Return answers that were sent so much later than they were due."""
    return [
        ok(
            place,
            place * 40.0,
            50,
            [10] * 5,
            scheduled_ns=round((place * 40 - late_ms) * NS_PER_MS),
            **more,
        )
        for place in range(400)
    ]


def test_a_rate_that_the_cap_held_back_is_suspect_relative_to_the_latencies() -> None:
    assert verdict(*scheduled(30), rate=25) == ("SUSPECT", {"rate_missed"})
    assert verdict(*scheduled(4), rate=25) == ("VALID", set()), "a tenth of TTFT is harmless"
    assert verdict(*scheduled(0), rate=25) == ("VALID", set())


def test_slow_connecting_is_not_blamed_on_the_cap() -> None:
    slow = scheduled(30, connect_ns=29 * NS_PER_MS)
    assert verdict(*slow, rate=25) == ("SUSPECT", {"slow_connect"})


def test_requests_that_come_faster_than_they_are_served_are_suspect() -> None:
    said = verdict(*open_loop(2.0), rate=20, concurrent=1000)
    assert said == ("SUSPECT", {"overloaded", "unsteady"}), "half of its time is the drain"


def test_a_run_with_slots_empty_for_a_fifth_of_its_time_is_suspect_and_says_both_speeds() -> None:
    hung = failed(1000, "timeout", 100, 30_000)
    full = st.calculate_aggregates([*ENOUGH, hung], CONFIG)
    (reason,) = st.judge_validity(CONFIG, full, load())["reasons"]
    assert reason["code"] == "unsteady"
    assert "80 tokens/s over all of it, 149 while they were" in reason["message"]


def test_a_resumed_run_says_so() -> None:
    assert verdict(*ENOUGH, made=load(resumed="killed")) == ("SUSPECT", {"resumed"})


def test_estimated_tokens_cut_and_reasoning_only_answers_are_suspect() -> None:
    def alter(**changes: Any) -> list[st.Result]:
        return [ok(place, place * 40.0, 50, [10] * 5, **changes) for place in range(400)]

    assert verdict(*alter(token_source="chunks")) == ("SUSPECT", {"tokens_estimated"})
    assert verdict(*alter(finish_reason="length")) == ("SUSPECT", {"answers_cut"})
    tenth = [*alter()[:360], *alter(finish_reason="length")[360:]]
    assert verdict(*tenth) == ("SUSPECT", {"answers_cut"})
    assert verdict(*tenth[:-1], ok(399, 15_960, 50, [10] * 5)) == ("VALID", set())
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


# --- What no results file can say


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        ("aggregate", "tokens_per_s", 1e9, "tokens/s, but at most"),
        ("aggregate", "steady.tokens_per_s", 1e9, "tokens/s, but at most"),
        ("aggregate", "ok", 99, "the counts do not add up"),
        ("aggregate", "e2e_ms.p50", 1e9, "e2e_ms: ["),
        ("aggregate", "ttft_ms.ci95.p50", [1e9, None], "ttft_ms: p50"),
        ("aggregate", "ttft_ms.n_eff.p50", 1e9, "above n"),
        ("aggregate", "error_rate", 1.5, ".error_rate: 1.5"),
        ("record", "ttft_ms", 1e9, "request 0: TTFT"),
    ],
)
def test_what_cannot_be_is_seen_in_any_results_file(
    part: str, key: str, value: Any, says: str
) -> None:
    """The suite holds every file that it makes against these bounds; here each one can fail."""
    results = ENOUGH[:100]
    run: dict[str, Any] = {
        "meta": {"concurrent": 3},
        "results": [result.to_record() for result in results],
        "aggregate": aggregate(*results, concurrent=3),
    }
    assert list(impossible(run)) == []
    at = run["aggregate"] if part == "aggregate" else run["results"][0]
    *path, last = key.split(".")
    for name in path:
        at = at[name]
    at[last] = value
    assert any(says in fault for fault in impossible(run))


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
    moment = dt.datetime(2026, 11, 23, 23, 59, 59, 123_900, tzinfo=dt.UTC)
    config = st.Config(server="http://x:1", model="m")
    target = st.resolve_target(config, {})
    header = {**st.journal_header(config, target, []), "started": moment.isoformat()}
    load = st.LoadReport(st.LoadStart(0), begun_ns=0, begun=moment, ended_ns=1500 * NS_PER_MS)
    meta = st.run_meta(config, target, load, st.calculate_aggregates([], config), header)
    assert [meta["start_date"], meta["start_time"]] == ["2026-11-23", "23:59:59.123"]
    assert [meta["end_date"], meta["end_time"]] == ["2026-11-24", "00:00:00.623"]
    assert meta["total_duration_ms"] == 1500


def test_an_interval_holds_its_own_percentile_however_few_values_there_are() -> None:
    for values in ([0.0, 0.135], [1.0, 2.0, 3.0], [0.0] * 5 + [9.0]):
        described = st.describe(values)
        for name, (low, high) in described["ci95"].items():
            assert low is None or low <= described[name]
            assert high is None or high >= described[name]
    gaps = st.describe(st.Histogram({0.0: 1, 0.135: 1}))
    assert gaps["ci95"]["p99"][0] is None or gaps["ci95"]["p99"][0] <= gaps["p99"]
