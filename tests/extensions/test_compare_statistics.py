"""The statistics of compare and history, against values that come from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from extensions import inference
from extensions.inference import Estimate, Family, Resampling, RunEffects, Sums


def mean_of(values: inference.Array) -> Sums:
    return Sums(values, np.ones(len(values)))


def differences(seed: int, questions: int, rows: int = 3, effect: float = 0.0) -> list[Sums]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(effect, 0.1, questions)
    return [mean_of(shared + rng.normal(0, 0.05, questions)) for _ in range(rows)]


def test_the_mean_and_its_variance_are_those_of_the_textbook() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    (estimate,) = Resampling(40).estimate([mean_of(values)])
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.variance == pytest.approx(stats.sem(values) ** 2)


def test_an_interval_of_normal_values_is_that_of_student() -> None:
    values = np.random.default_rng(2).normal(0, 1, 200)
    (estimate,) = Resampling(200).estimate([mean_of(values)])
    low, high = Family([estimate]).interval(estimate).ci95
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.02)


def test_answers_to_one_question_count_as_one_when_they_hang_together() -> None:
    rng = np.random.default_rng(3)
    each = rng.normal(0, 1, 50)
    repeated = Sums(each * 4, np.full(50, 4.0))  # four equal answers a question bring nothing new
    once, four = Resampling(50).estimate([mean_of(each), repeated])
    assert four.variance == pytest.approx(once.variance)


def test_a_ratio_of_sums_is_a_ratio_of_means_on_a_log_scale() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(3, 0.5, 80), rng.lognormal(3, 0.5, 80)
    (estimate,) = Resampling(80).estimate([Sums(b, a, log=True)])
    assert estimate.value == pytest.approx(math.log(b.sum() / a.sum()))
    jackknife = np.array(
        [math.log(np.delete(b, i).sum() / np.delete(a, i).sum()) for i in range(80)]
    )
    assert estimate.variance == pytest.approx(
        79 / 80 * ((jackknife - jackknife.mean()) ** 2).sum(), rel=0.1
    )


def test_the_tables_interval_holds_the_rows_own() -> None:
    estimates = Resampling(60).estimate(differences(5, 60))
    family = Family(estimates)
    for estimate in estimates:
        made = family.interval(estimate)
        assert made.ci_table[0] < made.ci95[0] < made.value < made.ci95[1] < made.ci_table[1]


def test_rows_that_are_equal_cost_no_width_and_independent_rows_do() -> None:
    row = differences(6, 60, rows=1)[0]
    alone = Family(Resampling(60).estimate([row])).errors
    copies = Family(Resampling(60).estimate([row] * 8)).errors
    others = Family(Resampling(60).estimate(differences(6, 60, 8))).errors
    assert copies == pytest.approx(alone)
    assert others > alone


@pytest.mark.parametrize("effect", [0.0, 0.02, 0.035, 0.1])
def test_the_p_value_and_the_interval_never_disagree(effect: float) -> None:
    for seed in range(20):
        estimates = Resampling(60).estimate(differences(seed, 60, effect=effect))
        family = Family(estimates)
        for estimate in estimates:
            made = family.interval(estimate)
            assert (made.p <= 0.05) == (not made.ci_table[0] <= 0 <= made.ci_table[1])


def test_above_two_thousand_questions_no_weights_are_kept_and_the_interval_is_the_same() -> None:
    rows = differences(7, 2001)
    many = Resampling(2001)
    assert many.weights is None
    fewer = Resampling(2000).estimate([mean_of(row.top[:2000]) for row in rows])
    for one, other in zip(many.estimate(rows), fewer, strict=True):
        assert one.variance == pytest.approx(other.variance, rel=0.02)
    assert Family(many.estimate(rows)).errors == pytest.approx(Family(fewer).errors, abs=0.1)


def test_mcnemars_test_is_scipys_exact_one() -> None:
    estimate = Resampling(60).paired_shares(9, 2, 60)
    assert estimate.exact_p == stats.binomtest(2, 11).pvalue
    assert estimate.value == pytest.approx(-7 / 60)


@pytest.mark.parametrize(
    ("plus", "minus", "pairs"), [(12, 2, 50), (0, 0, 50), (5, 0, 40), (9, 9, 30)]
)
def test_tangos_interval_is_what_the_constrained_likelihood_gives(
    plus: int, minus: int, pairs: int
) -> None:
    def score(difference: float) -> float:
        def lost(q: float) -> float:
            same = pairs - plus - minus
            parts = [(plus, q + difference), (minus, q), (same, 1 - 2 * q - difference)]
            return -sum(n * math.log(share) for n, share in parts if n)

        bounds = (max(0.0, -difference) + 1e-10, (1 - difference) / 2 - 1e-10)
        q = optimize.minimize_scalar(
            lost, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        return (plus - minus - pairs * difference) / math.sqrt(
            pairs * (2 * q + difference - difference**2)
        )

    low, high = inference._tango(plus, minus, pairs, 1.959964)
    assert score(low) == pytest.approx(1.959964, abs=1e-3)
    assert score(high) == pytest.approx(-1.959964, abs=1e-3)


@pytest.mark.parametrize("split", [(6, 0), (5, 0), (9, 2), (3, 3), (0, 0)])
def test_an_interval_of_shares_leaves_0_out_only_when_the_exact_test_does(
    split: tuple[int, int],
) -> None:
    estimate = Resampling(60).paired_shares(*split, 60)
    assert estimate.interval is not None and estimate.exact_p is not None
    low, high = estimate.interval(1.959964, 1)
    assert (low <= 0 <= high) == (estimate.exact_p >= 0.05)


def test_sixty_questions_without_a_flip_do_not_prove_that_there_is_none() -> None:
    row = Sums(np.zeros(60), np.full(60, 3.0))
    resampling = Resampling(60)
    (bare,) = resampling.estimate([row])
    estimate = resampling.few_flips(row, bare)
    low, high = Family([estimate]).interval(estimate).ci95
    tango = inference._tango(0, 0, 60, 1.959964)
    assert (low, high) == pytest.approx(tango, abs=0.01)
    many = Sums(np.where(np.arange(60) < 20, 3.0, 0.0), np.full(60, 3.0))
    (estimate,) = resampling.estimate([many])
    assert resampling.few_flips(many, estimate) is estimate


def test_what_bounds_hide_widens_the_interval_and_the_p_value() -> None:
    (estimate,) = Resampling(60).estimate(differences(8, 60, 1, effect=0.1))
    hidden = Estimate(**{**vars(estimate), "slack": (0.2, 0.0)})
    plain, wide = Family([estimate]).interval(estimate), Family([hidden]).interval(hidden)
    assert wide.ci95[0] == pytest.approx(plain.ci95[0] - 0.2)
    assert wide.ci95[1] == plain.ci95[1]
    assert plain.p < 0.05 < wide.p


def test_runs_that_differ_widen_the_interval_though_their_questions_agree() -> None:
    (estimate,) = Resampling(60).estimate(differences(9, 60, 1, effect=0.1))
    levels = np.array([[-0.2], [0.0], [0.2]])
    effects = RunEffects(levels, levels + 0.1)
    both = effects.added_to(estimate, 0)
    assert both.variance == pytest.approx(estimate.variance + 0.04 * 2 / 3)
    assert both.df == pytest.approx(4, abs=0.2)
    assert Family([estimate]).interval(estimate).p < 0.05 < Family([both]).interval(both).p


def test_three_runs_a_side_reach_as_far_as_students_t_with_four_degrees() -> None:
    levels = np.array([[-0.1], [0.0], [0.1]])
    nothing = Resampling(60).independent(0.0, 0.0, 1e6)
    estimate = RunEffects(levels, levels).added_to(nothing, 0)
    high = Family([estimate]).interval(estimate).ci95[1]
    assert high == pytest.approx(stats.t.isf(0.025, 4) * math.sqrt(0.01 * 2 / 3), rel=0.1)


def test_a_pool_of_equal_runs_says_how_far_two_single_runs_stray() -> None:
    pool = np.array([[-0.1], [0.0], [0.1], [0.0]])
    effects = RunEffects.of_pool(pool)
    assert effects.variance[0] == pytest.approx(2 * pool.var(ddof=1))
    assert effects.df == 3


def test_rates_need_six_blocks_of_time() -> None:
    resampling = Resampling(20)
    assert resampling.rates([(np.ones(5), np.ones(5))]) is None
    rng = np.random.default_rng(10)
    a, b = rng.normal(50, 5, 20), rng.normal(60, 5, 20)
    estimate = resampling.rates([(a, b)])
    assert estimate is not None
    assert estimate.value == pytest.approx(math.log(b.mean() / a.mean()))
    shares = b / b.sum() - a / a.sum()
    alone, neighbours = (shares**2).sum(), (shares[1:] * shares[:-1]).sum()
    shared = max(neighbours + alone / 20, 0)
    assert estimate.variance == pytest.approx((alone + 2 * shared) * 20 / 19)
    assert Family([estimate]).interval(estimate).p < 0.05


def test_rates_of_few_blocks_have_intervals_that_hold_as_often_as_they_say() -> None:
    rng, held, tries = np.random.default_rng(5), 0, 400
    for _ in range(tries):
        a, b = rng.normal(100, 5, (2, 8))
        found = inference.Resampling(20).rates([(a, b)])
        assert found is not None
        low, high = inference.Family([found]).interval(found).ci95
        held += low <= 0 <= high
    assert 0.93 <= held / tries <= 0.985


def test_blocks_that_did_the_same_work_are_held_against_each_other() -> None:
    work = np.random.default_rng(10).lognormal(4, 0.5, 20)  # long and short answers, in both runs
    estimate = Resampling(20).rates([(work, work * 1.05)])
    assert estimate is not None
    assert Family([estimate]).interval(estimate).ci95 == pytest.approx((math.log(1.05),) * 2)


def test_a_percentile_is_compared_by_resampling_questions() -> None:
    rng = np.random.default_rng(11)
    values, questions = rng.lognormal(0, 0.3, 400), np.arange(400) % 200
    a, b = (Sums(values * factor, questions.astype(np.float64)) for factor in (1.0, 1.2))
    estimate = Resampling(200).quantile(a, b, 0.95)
    assert estimate.value == pytest.approx(math.log(1.2))
    assert estimate.variance == pytest.approx(0, abs=1e-9)


def test_more_questions_are_as_many_as_the_width_wants() -> None:
    (estimate,) = Resampling(100).estimate(differences(12, 100, 1))
    family = Family([estimate])
    gap = math.sqrt(estimate.variance) / 2
    more = family.more_questions(estimate, 100, gap)
    assert more is not None
    total = (family.errors + inference.POWER_Z) ** 2 * 4 * 100
    assert 100 + more == pytest.approx(total, abs=1)


def test_no_number_of_questions_helps_where_the_runs_differ() -> None:
    (estimate,) = Resampling(60).estimate(differences(13, 60, 1))
    levels = np.array([[-0.2], [0.0], [0.2]])
    both = RunEffects(levels, levels).added_to(estimate, 0)
    family = Family([both])
    assert family.more_questions(both, 60, 0.05) is None
    assert (family.more_runs(both, 3, 0.05) or 0) > 50


def series(levels: list[float], seed: int) -> list[inference.Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(level + rng.normal(0, 0.02), 0.1, 40) for level in levels]


def test_a_step_is_found_where_it_is_and_a_single_odd_run_is_none() -> None:
    step = inference.distances(series([0.0] * 12 + [0.1] * 12, 1))
    assert [change.at for change in inference.change_points([step])] == [12]
    odd = inference.distances(series([0.0] * 10 + [0.1] + [0.0] * 9, 2))
    assert inference.change_points([odd]) == []


def test_two_steps_are_both_found() -> None:
    squared = inference.distances(series([0.0] * 12 + [0.1] * 12 + [0.3] * 12, 3))
    assert [change.at for change in inference.change_points([squared])] == [12, 24]


def test_the_metric_that_shows_a_change_best_is_named() -> None:
    calm = inference.distances(series([0.0] * 20, 4))
    step = inference.distances(series([0.0] * 10 + [0.2] * 10, 5))
    (change,) = inference.change_points([calm, step])
    assert (change.metric, change.at) == (1, 10)


def test_the_distance_of_two_runs_is_scipys() -> None:
    runs = series([0.0, 0.3], 6)
    expected = stats.energy_distance(*runs) ** 2
    assert inference.distances(runs)[0, 1] == pytest.approx(expected)


def test_seven_runs_and_runs_that_are_all_equal_show_no_change() -> None:
    assert inference.change_points([inference.distances(series([0.0, 0.5] * 3 + [0.0], 7))]) == []
    assert inference.change_points([np.zeros((12, 12))]) == []
    assert inference.change_points([]) == []
