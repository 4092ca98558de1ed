"""What the benchmarks share: the ground-truth server, the program under test, the reference clients, tables, targets."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import math
import mmap
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 1800.0  # no single load takes longer
Setting = float | str
WITHOUT_STAMPS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import llm_stresstest as st
st.TimedConnector.used = False
sys.exit(st.cli())
"""


def options_of(
    doc: str | None, argv: Sequence[str] | None, extend: Callable[[Any], None] = lambda _: None
) -> Any:
    """Return the options that all benchmarks have, and those that `extend` adds to the parser."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server", type=Path, metavar="PATH", help="another ground-truth server, same command line"
    )
    parser.add_argument(
        "--runs", type=int, default=3, metavar="N", help="measure so often (default 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller loads and one run, to see that it works"
    )
    extend(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.runs = 1
    return options


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Yield a folder that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="bench_") as name:
        yield Path(name)


def run_all(doc: str, body: Callable[[Path], Iterable[Target]]) -> int:
    """Print where this is measured, run the benchmark, print its targets; 1 when one is missed."""
    print(f"{doc.splitlines()[0]}\n{machine()}\n", flush=True)
    with work_folder() as folder:
        targets = list(body(folder))
    print_table(
        "targets",
        ("target", "limit", "measured", "spread", "met"),
        [target.row() for target in targets],
    )
    return 0 if all(target.met for target in targets) else 1


def machine() -> str:
    """Return the date, the processor, the system's load and the versions, in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
            model,
        )
    usable = len(os.sched_getaffinity(0))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    busy = f"load average before: {os.getloadavg()[0]:.2f}"
    return f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M} · {model}, {usable} cores · {python} · {busy}"


# === Ground truth ===


class Truth(NamedTuple):
    """A request as the server saw it; wall clock ns."""

    recv: int
    first: int
    last: int
    sent: int  # tokens
    total: int
    how: str
    tag: int | None

    @property
    def ttft_ms(self) -> float:
        """From the request's arrival to the first token's departure."""
        return (self.first - self.recv) / 1e6

    @property
    def e2e_ms(self) -> float:
        """From the request's arrival to the last token's departure."""
        return (self.last - self.recv) / 1e6

    @property
    def itl_ms(self) -> float:
        """The mean gap between two tokens."""
        return (self.last - self.first) / 1e6 / (self.total - 1) if self.total > 1 else math.nan


class TruthServer:
    """A ground-truth server in a process of its own, ended with the block; then its log can be read."""

    def __init__(
        self, options: Any, folder: Path, settings: Mapping[str, Setting], *, log: bool = True
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / f"truth_{self.port}.jsonl" if log else None
        given = (
            [str(options.server)]
            if options.server
            else [sys.executable, str(HERE / "truth_server.py")]
        )
        arguments = [f"{key}={value}" for key, value in settings.items()]
        self._command = [*given, str(self.port), str(self.log or "-"), *arguments]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 10
        while time.monotonic() < end and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return self
            time.sleep(0.02)
        self.__exit__()
        raise RuntimeError(
            f"{self._command} does not serve: {self.process.stderr and self.process.stderr.read()!r}"
        )

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def requests(self) -> list[Truth]:
        """Return what was asked, in the order of arrival; without the program's own, shorter test question."""
        if self.log is None:
            return []
        records = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        fields = [name for name in Truth._fields if name != "tag"]
        truths = [
            Truth(**{name: record[name] for name in fields}, tag=record.get("tag"))
            for record in records
        ]
        most = max((truth.total for truth in truths), default=0)
        return sorted(truth for truth in truths if truth.total == most)


# === The program and the reference clients ===


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a load cost a client."""

    cpu_s: float
    wall_s: float
    reads: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A run of the program: its results file, and what the process used."""

    code: int
    wall_s: float
    exited: float  # wall clock
    peak_mb: float
    meta: dict[str, Any]
    aggregate: dict[str, Any]
    path: Path

    @property
    def cost(self) -> Cost:
        """CPU and time of the load alone, without start and end."""
        load_s = self.meta["total_duration_ms"] / 1e3
        return Cost(self.meta["client"]["cpu_share"] * load_s, load_s)

    @property
    def verdict(self) -> str:
        """The verdict with its reasons."""
        validity = self.meta["validity"]
        return " ".join([validity["verdict"], *(reason["code"] for reason in validity["reasons"])])

    def results(self) -> list[dict[str, Any]]:
        """Return the records."""
        return list(json.loads(self.path.read_text(encoding="utf-8"))["results"])

    @property
    def after_load_s(self) -> float:
        """From the end of the load to the end of the process: aggregate, save, clean up."""
        ended = f"{self.meta['end_date']}T{self.meta['end_time']}{self.meta['utc_offset']}"
        return self.exited - dt.datetime.fromisoformat(ended).timestamp()


def run_program(
    base: str,
    folder: Path,
    catalogue: Sequence[str] = ("What is it?",),
    started: Callable[[int], None] = lambda _pid: None,
    watch: Callable[[int], None] = lambda _pid: None,
    *,
    stamps: bool = True,
    **config: Any,
) -> Outcome:
    """Run llm_stresstest.py by its command line. `started` gets its process id, `watch` too, every 50 ms.

    Without `stamps` it does not get the kernel's arrival times, as on other systems.
    """
    (folder / "questions.json").write_text(json.dumps(list(catalogue)), encoding="utf-8")
    settings = {"server": base, "model": "truth", "timeout": 120, **config}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    files = ["-c", str(folder / "config.json"), "-q", str(folder / "questions.json")]
    folders = ["--results-dir", str(folder / "results"), "--log-dir", str(folder / "logs")]
    program = [str(ROOT / "llm_stresstest.py")] if stamps else ["-c", WITHOUT_STAMPS, str(ROOT)]
    command = [
        sys.executable,
        *program,
        "bench",
        *files,
        *folders,
        "--overwrite",
        "--quiet",
    ]
    start = time.monotonic()
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    started(process.pid)
    usage = wait_for(process, watch)
    wall_s, exited = time.monotonic() - start, time.time()
    path = folder / "results" / "bench.json"
    if process.returncode not in (0, 1):
        raise RuntimeError(
            f"exit code {process.returncode}: {(folder / 'stderr').read_text(encoding='utf-8')}"
        )
    meta, aggregate = read_parts(path)
    return Outcome(
        process.returncode, wall_s, exited, usage.ru_maxrss / 1024, meta, aggregate, path
    )


def wait_for(
    process: subprocess.Popen[bytes], watch: Callable[[int], None] = lambda _pid: None
) -> Any:
    """Wait until the process ends and return its resource usage; kill it when it takes too long."""
    end = time.monotonic() + LIMIT_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > end:
            process.kill()
            end = math.inf
        watch(process.pid)
        time.sleep(0.05)


def read_parts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `meta` and `aggregate` of a results file, and leave its records, which may be a million, alone."""
    begin, end = b'"results": [', b'\n],\n"aggregate": '
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head, tail = data[: data.find(begin)], data[data.rfind(end) + len(end) :]
    meta = json.loads(head.rstrip().removesuffix(b",") + b"}")["meta"]
    return meta, json.loads(b'{"aggregate": ' + tail)["aggregate"]  # samples may stand behind it


def run_bare(base: str, concurrent: int, requests: int) -> Cost:
    """Run the bare aiohttp loop."""
    command = [
        sys.executable,
        str(HERE / "bare_client.py"),
        f"{base}/chat/completions",
        str(concurrent),
        str(requests),
    ]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=True)
    return Cost(**json.loads(done.stdout))


def run_wrk(base: str, folder: Path, concurrent: int, seconds: int) -> Cost | None:
    """Run wrk for so long; None where it is not installed."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return None
    body = {
        "model": "truth",
        "messages": [{"role": "user", "content": "What is it?"}],
        "max_tokens": 512,
    }
    text = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    lua = f"wrk.method = 'POST'\nwrk.body = '{text}'\nwrk.headers['Content-Type'] = 'application/json'\n"
    (folder / "post.lua").write_text(lua, encoding="utf-8")
    command = [
        wrk,
        "-t1",
        f"-c{concurrent}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "-s",
        str(folder / "post.lua"),
    ]
    start = time.monotonic()
    process = subprocess.Popen([*command, f"{base}/chat/completions"], stdout=subprocess.DEVNULL)
    usage = wait_for(process)
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - start)


# === Figures ===


def percentile(values: Iterable[float], share: float) -> float:
    """Return a percentile with linear interpolation; own code, as an oracle should be."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


@dataclasses.dataclass
class Runs:
    """One figure over several runs."""

    values: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure to show."""
        return statistics.median(self.values)

    def spread(self, digits: int = 2) -> str:
        """Return the range over the runs."""
        return (
            f"{min(self.values):.{digits}f} … {max(self.values):.{digits}f}"
            if len(self.values) > 1
            else "one run"
        )


class Figures:
    """Named figures over several runs, in the order of their first mention."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, ...], Runs] = {}

    def add(self, *name: str, value: float) -> None:
        """Add one run's figure."""
        self._runs.setdefault(name, Runs()).values.append(value)

    def __getitem__(self, name: tuple[str, ...] | str) -> Runs:
        return self._runs[(name,) if isinstance(name, str) else name]

    def __contains__(self, name: tuple[str, ...]) -> bool:
        return name in self._runs


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be reached, and what was."""

    name: str
    limit: str
    met: bool
    measured: str
    spread: str = ""

    def row(self) -> tuple[str, ...]:
        """Return the row of the table."""
        return self.name, self.limit, self.measured, self.spread, "yes" if self.met else "NO"


def at_most(name: str, runs: Runs, limit: float, digits: int = 2) -> Target:
    """Return a target that the median must not exceed, in size."""
    met = abs(runs.median) <= limit
    return Target(name, f"<= {limit:g}", met, f"{runs.median:.{digits}f}", runs.spread(digits))


def at_least(name: str, runs: Runs, limit: float, digits: int = 0) -> Target:
    """Return a target that the median must reach."""
    return Target(
        name,
        f">= {limit:g}",
        runs.median >= limit,
        f"{runs.median:.{digits}f}",
        runs.spread(digits),
    )


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print an aligned table: the first column to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(title)
    for line in lines:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  " + "  ".join([first, *others]).rstrip())
    print(flush=True)


def settings_text(settings: Mapping[str, Setting]) -> str:
    """Return the server's settings as they stand on its command line."""
    return " ".join(f"{key}={value}" for key, value in settings.items())
