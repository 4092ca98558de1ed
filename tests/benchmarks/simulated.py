"""Runs with known truth: a server that never existed answers a catalogue, and the core writes it.

Each question has its own size, in prompt and answer, and each request its own chance: log-normal,
now and then three times as slow. A closed loop of slots sends them, so that throughput follows. The
results file is made by the core's own Result, calculate_aggregates and save_results.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import heapq
from pathlib import Path
from typing import Any

import numpy as np

import llm_stresstest as st

STARTED = dt.datetime(2026, 11, 1, 3, 0, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True)
class Server:
    """How fast a server is, in truth."""

    slower: float = 0.0  # 0.05: every time is 5 % longer
    noise: float = 0.1  # the spread of a request's time about its question's, as a logarithm
    tail: float = 0.0  # the share of requests that take three times as long
    drift: float = 0.0  # the spread between runs
    right: float = 0.7  # the chance of a right answer
    flips: float = 0.04  # the share of answers that come out differently when asked again
    fails: float = 0.0
    timeouts: float = 0.0


class World:
    """A catalogue, and what its questions ask of any server."""

    def __init__(self, questions: int, seed: int, concurrent: int = 4) -> None:
        self.rng = np.random.default_rng(seed)
        self.questions, self.concurrent, self.made = questions, concurrent, 0
        self.ttft_ms = 200 * np.exp(self.rng.normal(0, 0.5, questions))
        sizes = np.where(self.rng.random(questions) < 0.3, 40, 150)  # short and long answers
        self.tokens = np.maximum(2, sizes * np.exp(self.rng.normal(0, 0.4, questions))).astype(int)
        self.luck = self.rng.random(questions)

    def run(self, folder: Path, name: str, server: Server, **config: Any) -> Path:
        """Simulate a run and write its results file."""
        made = st.Config.model_validate(
            {"server": "http://127.0.0.1:1/v1", "model": "simulated", "timeout": 120,
             "concurrent": self.concurrent, **config}
        )  # fmt: skip
        results = self.results(server)
        aggregate = st.calculate_aggregates(results, made)
        return st.save_results(folder / f"{name}.json", self.meta(made), results, aggregate)

    def meta(self, config: st.Config) -> dict[str, Any]:
        """Return what a results file says of the run."""
        started = STARTED + dt.timedelta(days=self.made)
        self.made += 1
        return {
            "start_date": f"{started:%Y-%m-%d}",
            "start_time": f"{started:%H:%M:%S}.000",
            "end_date": f"{started:%Y-%m-%d}",
            "end_time": f"{started:%H:%M:%S}.000",
            "server": config.server,
            "model": config.model,
            "concurrent": config.concurrent,
            "questions": config.questions,
            "timeout": config.timeout,
            "total_duration_ms": 1.0,
            "schema_version": st.SCHEMA_VERSION,
            "status": "complete",
            "validity": {"verdict": "VALID", "reasons": []},
            "run_id": f"simulated-{self.made}",
            "config": config.model_dump(),
            "questions_sha256": f"catalogue-{self.questions}",
            "client": {"version": st.__version__, "host": "simulated"},
            "hardware": None,
            "utc_offset": "+0000",
            "embedded": None,
            "thresholds": [],
        }

    def results(self, server: Server) -> list[st.Result]:
        """Return what a server answered."""
        rng, count = self.rng, self.questions
        factor = (1 + server.slower) * np.exp(rng.normal(0, server.drift) if server.drift else 0)
        speed = factor * np.exp(rng.normal(0, server.noise, count) * 0.8)  # of the whole request
        speed *= np.where(rng.random(count) < server.tail, 3.0, 1.0)
        own = np.exp(rng.normal(0, server.noise, (2, count)) * 0.6)  # of its two parts
        tokens = self.tokens
        if server.flips:
            other = rng.random(count) < server.flips
            drawn = np.maximum(2, tokens * np.exp(rng.normal(0, 0.3, count))).astype(int)
            tokens = np.where(other, drawn, tokens)
        ttft_us = np.rint(self.ttft_ms * speed * own[0] * 1000).astype(int)
        rest_us = np.rint(20 * speed * own[1] * (tokens - 1) * 1000).astype(int)
        luck = np.where(rng.random(count) < server.flips, rng.random(count), self.luck)
        fate = rng.random(count)
        slots = [0] * self.concurrent
        results = []
        for place in range(count):
            sent_ns = slots[0]
            result = self._result(place, sent_ns, int(ttft_us[place]), int(rest_us[place]))
            result.token, result.quality = int(tokens[place]), float(luck[place] < server.right)
            if fate[place] < server.fails + server.timeouts:
                _fail(result, "timeout" if fate[place] < server.timeouts else "error")
            heapq.heapreplace(slots, result.end_ns or sent_ns)
            results.append(result)
        return results

    def _result(self, place: int, sent_ns: int, ttft_us: int, rest_us: int) -> st.Result:
        return st.Result(
            index=place,
            id=f"q{place}",
            question=f"Question {place}?",
            answer="42",
            sent_ns=sent_ns,
            first_ns=sent_ns + ttft_us * 1000,
            answer_ns=sent_ns + ttft_us * 1000,
            end_ns=sent_ns + (ttft_us + rest_us) * 1000,
            chunks=2,
            token_source="usage",
            prompt_tokens=50,
            finish_reason="stop",
            grader="exact",
            graded=True,
        )


def _fail(result: st.Result, kind: str) -> None:
    """Make a result one that failed at once, or ran into its timeout."""
    result.status, result.graded, result.quality = kind, False, 0.0
    result.error = st.Failure("timeout" if kind == "timeout" else "http_error", kind)
    result.token = result.first_ns = result.answer_ns = None
    wait_ns = 120 * st.NS_PER_S if kind == "timeout" else st.NS_PER_MS
    result.end_ns = (result.sent_ns or 0) + wait_ns
