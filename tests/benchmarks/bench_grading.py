"""How long grading takes: 10,000 answers of the labelled file, by all rule graders but code.

python tests/benchmarks/bench_grading.py

First each grader by itself, in this process; then all of them as a run does it, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import llm_stresstest as st  # noqa: E402
from extensions import quality  # noqa: E402

LIMIT_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Grade and print the figures; 1 when it took longer than the 5 s promised for 10,000 answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=10_000)
    options = parser.parse_args(argv)
    work = list(itertools.islice(itertools.cycle(labelled()), options.answers))
    seconds = dict.fromkeys((question.grader for question, _ in work), 0.0)
    for question, answer in work:
        start = time.perf_counter()
        quality.grade_answer(question, answer)
        seconds[question.grader] += time.perf_counter() - start
    for grader, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        share = sum(question.grader == grader for question, _ in work)
        sys.stdout.write(f"{grader:10} {share:6} answers {spent / share * 1e6:8.0f} us each\n")
    sys.stdout.write(f"{'here':10} {len(work):6} answers {sum(seconds.values()):8.2f} s\n")
    total, ungraded = asyncio.run(as_a_run(work))
    sys.stdout.write(f"{'as a run':10} {len(work):6} answers {total:8.2f} s, {ungraded} ungraded\n")
    return 0 if total <= LIMIT_S * len(work) / 10_000 and not ungraded else 1


async def as_a_run(work: Sequence[tuple[st.Question, str]]) -> tuple[float, int]:
    """Grade as a run does; return the seconds, and how many answers stayed ungraded."""
    questions = {
        f"q{place}": question.model_copy(update={"id": f"q{place}"})
        for place, (question, _) in enumerate(work)
    }
    results = [
        st.Result(place, f"q{place}", "?", answer=answer, grader=question.grader)
        for place, (question, answer) in enumerate(work)
    ]
    start, scores = time.perf_counter(), []
    async with quality.Graders(st.Config(server="embedded", model="none")) as graders:
        async for _, score, _ in graders.grade_results(questions, results):
            scores.append(score)
    assert len(scores) == len(work)
    return time.perf_counter() - start, scores.count(None)


def labelled() -> list[tuple[st.Question, str]]:
    """Return the labelled answers, but those of code, and those that are there to use up a time limit."""
    entries = json.loads(
        (ROOT / "tests" / "data" / "graded_answers.json").read_text(encoding="utf-8")
    )
    keys = ("grader", "expected", "tolerance", "threshold")
    return [
        (
            st.Question(id="q", question="?", **{key: entry[key] for key in keys if key in entry}),
            entry["answer"],
        )
        for entry in entries
        if entry["grader"] != "code" and entry["kind"] != "catastrophic"
    ]


if __name__ == "__main__":
    raise SystemExit(main())
