"""Differences with intervals that hold for a whole table at once, and change points: on arrays.

    Sums -> Resampling.estimate -> Estimate (RunEffects.added_to for groups) -> Family -> Interval

The unit that is resampled is the question: answers to one question hang together, answers to two
do not. Each row of a table is a ratio of two sums over questions, so that all bootstrap draws are
one product of a matrix of weights with a matrix of sums. All rows share the draws, and so the
largest of their deviations is known: an interval of that width holds for all rows at once (max-t;
Westfall and Young, Resampling-Based Multiple Testing, 1993).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Array = npt.NDArray[np.float64]

DRAWS = 1999  # (DRAWS + 1) × 5 % is a whole number: p values and intervals agree exactly
SEED = 13
ALPHA = 0.05
MOST_RESAMPLED = (
    2000  # questions; above, weights would fill the memory and the normal law holds anyway
)
LARGE_DF = 1e6
FEWEST_QUESTIONS = 8  # a bootstrap of fewer has too few different samples
FEWEST_BLOCKS = 6  # of time
# Where fewer questions make the whole difference (two answers of other lengths), many a draw misses
# them, and studentizing it gives values that would widen the intervals of all rows.
FEWEST_TELLING = 6
ONE_ROW = float(stats.norm.isf(ALPHA / 2))
POWER_Z = float(stats.norm.ppf(0.8))  # "N more would do" means: in four of five tries


# === Estimates ===


class Sums(NamedTuple):
    """A statistic as top / bottom, each summed over questions; with `log` its logarithm."""

    top: Array  # (questions,)
    bottom: Array  # (questions,)
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, its variance, and draws of how far it strays: what an interval is made from."""

    value: float
    variance: float
    df: float
    strays: Array  # (DRAWS,): estimate minus truth
    variances: Array  # (DRAWS,): each draw's own estimate of the variance
    between: float = 0.0  # the part of the variance that more questions would not lessen
    exact_p: float | None = None  # of an exact test, which then decides
    # Its own interval, by how many standard errors it reaches and by how much the pairs grow.
    interval: Callable[[float, float], tuple[float, float]] | None = None
    slack: tuple[float, float] = (0.0, 0.0)  # how much lower and higher the truth may be: bounds

    @property
    def t_draws(self) -> Array:
        """The sizes of the studentized strays; a draw that hardly varies must not decide."""
        least = max(self.variance / 25, 1e-300)
        return np.abs(self.strays) / np.sqrt(np.maximum(self.variances, least))


class Resampling:
    """The questions of a table, resampled once for all its rows."""

    def __init__(self, questions: int, seed: int = SEED) -> None:
        self.questions = questions
        self.rng = np.random.default_rng(seed)
        self.weights: Array | None = None
        if questions <= MOST_RESAMPLED:
            chances = np.full(questions, 1 / questions)
            self.weights = self.rng.multinomial(questions, chances, DRAWS).astype(np.float64)

    def estimate(self, rows: Sequence[Sums]) -> list[Estimate]:
        """Return an estimate for each row; the draws of all rows belong together."""
        if self.weights is None:
            return self._by_normal_law(rows)
        return [self._by_bootstrap(row, self.weights) for row in rows]

    def _by_bootstrap(self, row: Sums, weights: Array) -> Estimate:
        top, bottom, _ = row
        products = (top, bottom, top * top, top * bottom, bottom * bottom)
        sums = weights @ np.column_stack(products)
        whole = np.array([[product.sum()] for product in products])
        value, variance = (float(part[0]) for part in _ratio(whole, row.log))
        with np.errstate(divide="ignore", invalid="ignore"):
            values, variances = _ratio(sums.T, row.log)
        known = np.isfinite(values) & np.isfinite(variances)
        strays = np.where(known, values - value, 0.0)
        n = int(np.count_nonzero(bottom))
        small = n / max(n - 1, 1)
        telling = _participants(top - whole[0, 0] / whole[1, 0] * bottom)
        if telling < min(FEWEST_TELLING, n / 5):
            return self.independent(value, variance * small, max(telling, 2.0))
        variances = np.where(known, variances, variance) * small
        return Estimate(value, variance * small, max(n - 1, 1), strays, variances)

    def _by_normal_law(self, rows: Sequence[Sums]) -> list[Estimate]:
        """Draw from the normal law with the covariance that the questions show (cluster-robust)."""
        influence = []
        values = []
        for top, bottom, log in rows:
            value = top.sum() / bottom.sum()
            effect = (top - value * bottom) / (top.sum() if log else bottom.sum())
            influence.append(effect)
            values.append(math.log(value) if log else float(value))
        small = self.questions / (self.questions - 1)
        covariance = np.atleast_2d(np.vstack(influence) @ np.vstack(influence).T) * small
        zeros = np.zeros(len(rows))
        strays = self.rng.multivariate_normal(zeros, covariance, DRAWS, method="eigh")
        return [
            Estimate(values[i], v, self.questions - 1, strays[:, i], np.full(DRAWS, v))
            for i, v in enumerate(np.diag(covariance))
        ]

    def rates(self, levels: Sequence[tuple[Array, Array]]) -> Estimate | None:
        """Return the mean log ratio of two runs' rates, seen in blocks of time at each level.

        Block by block, for both runs ask the same questions in the same order, so that a block of
        one and the same block of the other did much the same work. None with fewer than
        FEWEST_BLOCKS. The draws are independent of the questions'.
        """
        value = variance = weights = 0.0
        share = 1 / len(levels)
        for a, b in levels:
            count = len(a)
            if count < FEWEST_BLOCKS:
                return None
            value += share * math.log(b.sum() / a.sum())
            influence = b / b.sum() - a / a.sum()
            square = float((influence**2).sum())
            # A slow request spoils the block after it too: what neighbours share counts twice more.
            # It comes out too low by a block's share, for all influences together are 0.
            shared = max(float((influence[1:] * influence[:-1]).sum()) + square / count, 0.0)
            part = (square + 2 * shared) * count / (count - 1) * share**2
            variance += part
            weights += part**2 / (count - 2)
        df = variance**2 / weights if weights else LARGE_DF  # Welch and Satterthwaite
        return self.independent(value, variance, df)

    def independent(self, value: float, variance: float, df: float) -> Estimate:
        """Return an estimate whose draws depend on no other row's, which is on the safe side."""
        strays = self.rng.standard_normal(DRAWS) * math.sqrt(variance)
        chance = self.rng.chisquare(df, DRAWS) / df
        return Estimate(value, variance, df, strays, variance * chance)

    def quantile(self, a: Sums, b: Sums, share: float) -> Estimate:
        """Return the log ratio of two pooled percentiles.

        A Sums holds a side's values (top) and the numbers of their questions (bottom).
        """
        weights = self.weights
        if weights is None:
            chances = np.full(self.questions, 1 / self.questions)
            draws = 400
            weights = self.rng.multinomial(self.questions, chances, draws).astype(np.float64)
        value = math.log(np.quantile(b.top, share) / np.quantile(a.top, share))
        drawn = np.log(_weighted(b, weights, share) / _weighted(a, weights, share))
        variance = float(drawn.var(ddof=1))
        strays = np.resize(drawn - value, DRAWS)
        return Estimate(value, variance, self.questions - 1, strays, np.full(DRAWS, variance))

    def few_flips(self, row: Sums, estimate: Estimate) -> Estimate:
        """Return a difference of shares that may rest on few questions, on the safe side.

        Of questions that hardly ever differ a bootstrap knows nothing: without one difference its
        interval has no width. Then z² differences more count than were seen, as for a single
        share (Agresti and Coull, The American Statistician 52, 1998, 119): it is about as wide as
        Tango's interval then.
        """
        asked = row.bottom > 0
        differences = row.top[asked] / row.bottom[asked]
        if np.count_nonzero(differences) >= FEWEST_QUESTIONS:
            return estimate
        questions = len(differences)
        more = ONE_ROW**2
        variance = (float((differences**2).sum()) + more) / (questions + more) / questions
        return self.independent(estimate.value, max(variance, estimate.variance), LARGE_DF)

    def paired_shares(self, only_a: int, only_b: int, pairs: int) -> Estimate:
        """Return the difference of two shares of the same pairs, with McNemar's exact test.

        The interval is Tango's score interval (Statistics in Medicine 17, 1998, 891), which is made
        for few differences; it never leaves 0 out when the exact test does not.
        """
        split, value = only_a + only_b, (only_b - only_a) / pairs
        p = float(stats.binomtest(only_b, split).pvalue) if split else 1.0
        variance = ((split + 1) / (pairs + 2) - value**2) / pairs

        def interval(errors: float, growth: float) -> tuple[float, float]:
            low, high = _tango(only_b * growth, only_a * growth, pairs * growth, errors)
            if p >= 2 * stats.norm.sf(errors) and growth == 1:
                low, high = min(low, 0.0), max(high, 0.0)
            return low, high

        # Without a single difference the test cannot reject, whatever the other rows do.
        spread = variance if split else 0.0
        estimate = self.independent(value, spread, LARGE_DF)
        return dataclasses.replace(estimate, variance=variance, exact_p=p, interval=interval)


def _ratio(sums: Array, log: bool) -> tuple[Array, Array]:
    """Return a ratio and its variance, from the sums of top, bottom and their products."""
    top, bottom, top_top, top_bottom, bottom_bottom = sums
    ratio = top / bottom
    spread = np.maximum(top_top - 2 * ratio * top_bottom + ratio**2 * bottom_bottom, 0)
    return (np.log(ratio), spread / top**2) if log else (ratio, spread / bottom**2)


def _participants(influence: Array) -> float:
    """Return how many questions make a difference, as if they made equal ones."""
    squares = influence**2
    return float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else math.inf


def _weighted(sample: Sums, weights: Array, share: float) -> Array:
    """Return a percentile for each row of weights of the questions."""
    order = np.argsort(sample.top, kind="stable")
    values, questions = sample.top[order], sample.bottom[order].astype(np.intp)
    found = np.empty(len(weights))
    for start in range(0, len(weights), 64):  # so that memory stays small
        reached = np.cumsum(weights[start : start + 64][:, questions], axis=1)
        wanted = share * reached[:, -1:]
        found[start : start + 64] = values[np.argmax(reached >= wanted, axis=1)]
    return found


def _tango(plus: float, minus: float, pairs: float, errors: float) -> tuple[float, float]:
    def score(difference: float) -> float:
        double = 2 * pairs
        linear = -plus - minus + (double - plus + minus) * difference
        constant = -minus * difference * (1 - difference)
        root = math.sqrt(max(linear**2 - 4 * double * constant, 0.0))
        rest = (root - linear) / (2 * double)
        spread = pairs * (2 * rest + difference * (1 - difference))
        return (plus - minus - pairs * difference) / math.sqrt(max(spread, 1e-12))

    middle, edge = (plus - minus) / pairs, 1 - 1e-9
    low, high = -1.0, 1.0
    if score(-edge) > errors and middle > -edge:
        low = float(optimize.brentq(lambda d: score(d) - errors, -edge, middle))
    if score(edge) < -errors and middle < edge:
        high = float(optimize.brentq(lambda d: score(d) + errors, middle, edge))
    return low, high


# === Runs ===


class RunEffects:
    """How far runs of one configuration lie from each other, for each row of a table."""

    def __init__(self, a: Array, b: Array, seed: int = SEED) -> None:
        """Take each run's level: `a` is (runs, rows) of one side, `b` of the other."""
        sides = [side - side.mean(axis=0) for side in (a, b)]
        self._setup(np.vstack(sides), len(a), len(b), len(a) + len(b) - 2, seed)

    @classmethod
    def of_pool(cls, pool: Array, seed: int = SEED) -> RunEffects:
        """Take the spread from other runs of the same configuration; each side is one run."""
        made = cls.__new__(cls)
        made._setup(pool - pool.mean(axis=0), 1, 1, len(pool) - 1, seed)
        return made

    def _setup(self, rest: Array, runs_a: int, runs_b: int, df: int, seed: int) -> None:
        self.df = df
        share = 1 / runs_a + 1 / runs_b
        self.variance = (rest**2).sum(axis=0) / df * share  # (rows,)
        rng = np.random.default_rng(seed + 1)
        # Normal runs with these runs' covariance: each row's t is exact, and rows stay together.
        pattern = rest / math.sqrt(df)
        noise = rng.standard_normal((DRAWS, len(rest)))
        self.strays = noise @ pattern * math.sqrt(share)
        again = np.empty((DRAWS, rest.shape[1], df))
        for place in range(df):
            again[:, :, place] = rng.standard_normal((DRAWS, len(rest))) @ pattern
        self.variances = (again**2).mean(axis=2) * share

    def added_to(self, estimate: Estimate, row: int) -> Estimate:
        """Return an estimate that speaks of the next runs too, not only of these."""
        inner, outer = estimate.variance, float(self.variance[row])
        whole = inner + outer
        parts = inner**2 / estimate.df + outer**2 / self.df
        return dataclasses.replace(
            estimate,
            variance=whole,
            df=whole**2 / parts if parts else estimate.df,
            strays=estimate.strays + self.strays[:, row],
            variances=estimate.variances + self.variances[:, row],
            between=outer,
            exact_p=None,
            interval=None,
        )


# === Intervals ===


class Interval(NamedTuple):
    """A row's own interval, the one that holds for the whole table, and the table's p value."""

    value: float
    ci95: tuple[float, float]
    ci_table: tuple[float, float]
    p: float


class Family:
    """All rows of a table. Rows of different degrees of freedom meet on the normal law's scale."""

    def __init__(self, estimates: Sequence[Estimate]) -> None:
        self.estimates = estimates
        scaled = [_to_normal(e.t_draws, e.df) for e in estimates]
        largest = np.max(scaled, axis=0) if scaled else np.zeros(DRAWS)
        self.largest = np.sort(largest)[::-1]
        self.place = round(ALPHA * (DRAWS + 1)) - 1
        self.errors = float(
            self.largest[self.place]
        )  # how many standard errors the table's intervals reach

    def interval(self, estimate: Estimate) -> Interval:
        """Return the intervals and the p value of one of the rows."""
        own = float(np.sort(estimate.t_draws)[::-1][self.place])
        wide = float(stats.t.isf(stats.norm.sf(self.errors), estimate.df))
        lower, higher = estimate.slack
        if estimate.interval is not None and estimate.exact_p is not None:
            seen = float(stats.norm.isf(estimate.exact_p / 2))
            inner, outer = estimate.interval(ONE_ROW, 1), estimate.interval(self.errors, 1)
        else:
            error, value = math.sqrt(estimate.variance), estimate.value
            inner = (value - own * error - lower, value + own * error + higher)
            outer = (value - wide * error - lower, value + wide * error + higher)
            clear = max(value - lower, -value - higher, 0.0)  # from 0, whatever the bounds hide
            t = clear / error if error else math.inf if clear else 0.0
            seen = float(_to_normal(np.array([t]), estimate.df)[0])
        p = (1 + int(np.count_nonzero(self.largest >= seen))) / (DRAWS + 1)
        return Interval(estimate.value, inner, outer, p)

    def more_questions(self, estimate: Estimate, questions: int, gap: float) -> int | None:
        """Return how many more questions would let an interval reach less far than `gap`.

        None when no number would: the runs differ among themselves, or the gap is 0.
        """
        if gap <= 0:
            return None
        if estimate.interval is not None:
            return self._more_pairs(estimate, questions, gap)
        room = gap**2 / (self.errors + POWER_Z) ** 2 - estimate.between
        inner = estimate.variance - estimate.between
        if room <= 0 or inner <= 0:
            return None
        return max(1, math.ceil(questions * inner / room) - questions)

    def _more_pairs(self, estimate: Estimate, pairs: int, gap: float) -> int | None:
        """Let the pairs grow, in their present shares, until the interval is short enough."""
        reach = cast(Callable[[float, float], tuple[float, float]], estimate.interval)
        for growth in (float(each) for each in np.geomspace(1.02, 1e4, 400)):
            low, high = reach(self.errors, growth)
            chance = POWER_Z * math.sqrt(estimate.variance / growth) if estimate.value else 0.0
            if (high - low) / 2 + chance <= gap:
                return max(1, math.ceil(pairs * (growth - 1)))
        return None

    def more_runs(self, estimate: Estimate, runs: int, gap: float) -> int | None:
        """Return how many more runs a side would."""
        chance = stats.norm.sf(self.errors)
        for total in range(runs + 1, runs + 1000):
            reach = float(stats.t.isf(chance, 2 * total - 2)) + POWER_Z
            if reach**2 * estimate.variance * runs / total <= gap**2:
                return total - runs
        return None


def _to_normal(t: Array, df: float) -> Array:
    """Return the values of the normal law that are as rare as these of Student's."""
    return np.asarray(np.minimum(stats.norm.isf(stats.t.sf(t, df)), 40.0), dtype=np.float64)


# === Change points ===


class Change(NamedTuple):
    """A place in a series of runs where something changed."""

    at: int  # the first run after it
    metric: int  # the one that shows it best
    p: float


FEWEST_RUNS = 8
SHORTEST = 3  # runs on each side of a change
CHANGE_ALPHA = 0.01  # a history is looked at every night: one false alarm in a hundred looks
SHUFFLES = 999


def distances(runs: Sequence[Array]) -> Array:
    """Return the squared energy distances between the runs' distributions: (runs, runs).

    Of a large run 200 quantiles stand for the whole.
    """
    shares = (np.arange(200) + 0.5) / 200
    short = [np.quantile(values, shares) if len(values) > 200 else values for values in runs]
    found = np.zeros((len(runs), len(runs)))
    for i, one in enumerate(short):
        for j in range(i):
            found[i, j] = found[j, i] = stats.energy_distance(one, short[j]) ** 2
    return found


def change_points(squared: Sequence[Array], seed: int = SEED) -> list[Change]:
    """Find the changes in a series of runs, from each metric's squared distances; oldest first.

    The statistic of a split is the share of the runs' spread that lies between its two sides
    (Székely and Rizzo's energy distance). Its largest value over all splits and metrics is held
    against the same of the runs in random orders; then each side is searched on its own, as long
    as it is long enough.
    """
    runs = len(squared[0]) if len(squared) else 0
    return _search(list(squared), 0, runs, np.random.default_rng(seed)) if runs else []


def _search(squared: list[Array], start: int, end: int, rng: np.random.Generator) -> list[Change]:
    count = end - start
    if count < FEWEST_RUNS:
        return []
    kernels = [_kernel(matrix[start:end, start:end]) for matrix in squared]
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(SHUFFLES))]
    seen, largest = np.zeros(0), np.empty(len(orders))
    for place, order in enumerate(orders):
        shares = np.array([_split_shares(kernel[np.ix_(order, order)]) for kernel in kernels])
        largest[place] = shares.max()
        if place == 0:
            seen = shares
    p = float(np.count_nonzero(largest >= largest[0]) / len(orders))
    if p > CHANGE_ALPHA or largest[0] <= 0:
        return []
    metric, split = np.unravel_index(int(seen.argmax()), seen.shape)
    at = start + int(split) + SHORTEST
    change = Change(at, int(metric), p)
    return [*_search(squared, start, at, rng), change, *_search(squared, at, end, rng)]


def _kernel(squared: Array) -> Array:
    """Return the runs' inner products about their middle, divided by their whole spread."""
    rows = squared.mean(axis=1, keepdims=True)
    kernel = -0.5 * (squared - rows - rows.T + squared.mean())
    whole = float(np.trace(kernel))
    return kernel / whole if whole > 1e-15 else np.zeros_like(kernel)


def _split_shares(kernel: Array) -> Array:
    """Return each split's share of the spread, for splits with enough runs on both sides."""
    count = len(kernel)
    left = np.arange(1, count)
    sums = np.diag(kernel.cumsum(axis=0).cumsum(axis=1))[:-1]
    shares = sums * count / (left * (count - left))
    return np.asarray(shares[SHORTEST - 1 : count - SHORTEST])
