"""How long grading takes: 10,000 answers of the labelled file, by all rule graders but code.

python tests/benchmarks/bench_grading.py
"""

from __future__ import annotations

import argparse
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

LIMIT_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Grade and print the figures; 1 when it took longer than the 10 s that are promised for 10,000 answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=10_000)
    options = parser.parse_args(argv)
    work = list(itertools.islice(itertools.cycle(labelled()), options.answers))
    seconds = dict.fromkeys((question.grader for question, _ in work), 0.0)
    for question, answer in work:
        start = time.perf_counter()
        quality.grade_answer(question, answer)
        seconds[question.grader] += time.perf_counter() - start
    total = sum(seconds.values())
    for grader, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        share = sum(question.grader == grader for question, _ in work)
        sys.stdout.write(f"{grader:10} {share:6} answers {spent / share * 1e6:8.0f} us each\n")
    sys.stdout.write(f"{'all':10} {len(work):6} answers {total:8.2f} s\n")
    return 0 if total <= LIMIT_S * len(work) / 10_000 else 1


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
