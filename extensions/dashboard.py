"""A web page of the test in progress, and of all finished ones; private unless you open it.

    llm_stresstest.py dashboard                        http://127.0.0.1:8787
    llm_stresstest.py dashboard --allow-start          also starts, stops and resumes runs
    llm_stresstest.py NAME --dashboard                 a run, with its page beside it

It only reads the journals and results files: it is never inside the process that measures. Nothing
is followed while nobody looks, and nothing is logged.

For programs, with the same rules of access as the pages:

    GET /api/runs        {"schema_version": 1, "runs": [one object a finished or damaged run: name,
                         path, size, started, model, quantization, machine, levels, verdict, …],
                         "live": [{"name", "state", "done", "planned"}]}
    GET /api/runs/NAME   {"name", "state": "complete" | …, "meta", "aggregate"} as the results file
                         has them; of a run in progress {"name", "state", "view"}
    GET /events          server-sent events: `run`, a `live.LiveRun.view` as JSON, at least once a
                         second while its run goes on; `runs`, when there are other runs or states
    GET /metrics         OpenMetrics, with --metrics; names after OpenTelemetry's gen_ai conventions
    POST /api/start, /api/stop, /api/resume   JSON; for this program's own pages only

On another address than the loopback one, `--host` wants a token (`--token-env NAME`, as Bearer or
by the page's form) on every route, and the names by which it may be asked (`--allow-host`).

The order of this file: the command line, the run in progress, starting and stopping, reports and
exports, who may ask, the routes, metrics. What pages say and look like is in pages.py, the list of
finished runs in runs.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import dataclasses
import functools
import hashlib
import hmac
import html
import io
import ipaddress
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import aiohttp_sse
import vl_convert
from aiohttp import web

import llm_stresstest as st
from extensions import charts, live, pages, report, runs
from extensions.words import LANGUAGES

SCHEMA_VERSION = 1
PORT = re.compile(r":\d+$")  # behind a host's name; [fd00::1] has none
NARROW = st.NARROW_SPACE

# === Command line ===


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    folder: Path  # of the results
    host: str = "127.0.0.1"
    port: int = 8787
    token: str | None = None
    token_env: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_start: bool = False
    configs: tuple[Path, ...] = ()
    metrics: bool = False
    follow: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit code."""
    options = _parser().parse_args(argv)
    settings = _settings(options)
    with tempfile.TemporaryDirectory(prefix="llm-stresstest-") as folder:
        asyncio.run(_serve(settings, Path(folder), say_address=options.say_address))
    return 0


def _parser() -> st.Parser:
    parser = st.Parser(
        prog="llm_stresstest.py dashboard",
        description="Serve a web page of the test in progress, and of all finished ones.",
        epilog="examples:\n  llm_stresstest.py dashboard\n"
        "  llm_stresstest.py dashboard --allow-start --config config.json big.json\n"
        "  LLM_TOKEN=… llm_stresstest.py dashboard --host 0.0.0.0 --token-env LLM_TOKEN "
        "--allow-host gpu1.lan\n\n"
        "for programs: GET /api/runs, /api/runs/NAME, /events (server-sent events), and /metrics\n"
        "(OpenMetrics, with --metrics); extensions/dashboard.py says what they return",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--port", type=int, default=8787, metavar="PORT", help="8787; 0 is a free one")
    option("--results-dir", type=Path, metavar="DIR", help="where the runs' files are")
    where = "the address to listen on; 127.0.0.1, so that only this machine can ask"
    option("--host", default="127.0.0.1", metavar="ADDRESS", help=where)
    meaning = "environment variable with the token that each request must show"
    option("--token-env", metavar="NAME", help=meaning)
    meaning = "a name by which browsers may ask for it, as gpu1.lan or gpu1.lan:443"
    option("--allow-host", nargs="+", action="extend", default=[], metavar="HOST", help=meaning)
    meaning = "let the pages start, stop and resume runs"
    option("--allow-start", action="store_true", help=meaning)
    meaning = "the configurations to choose from; else config.json"
    option("--config", nargs="+", type=Path, default=[], metavar="FILE", help=meaning)
    option("--metrics", action="store_true", help="serve /metrics for Prometheus and Grafana")
    meaning = "show this run first, and end a minute after it when nobody looks"
    option("--follow", metavar="NAME", help=meaning)
    option("--say-address", action="store_true", help="print nothing but the address, once")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """Check the options. Raises ConfigError, one line."""
    if not 0 <= options.port <= 65535:
        raise st.ConfigError(f"--port: {options.port}; must be from 0 to 65535")
    token = None
    if options.token_env is not None:
        token = os.environ.get(options.token_env)
        name = st.printable(options.token_env, 100)
        if not token or len(token) < 16:
            raise st.ConfigError(f"--token-env: {name} must be set, to 16 characters or more")
    hosts = tuple(host.lower() for host in options.allow_host)
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?", host):
            raise st.ConfigError(f"--allow-host: {st.printable(host, 100)}: is no host name")
    if not is_loopback(options.host) and not (token and hosts):
        raise st.ConfigError(
            f"--host {st.printable(options.host, 100)}: others can reach it, so it wants a token "
            "(--token-env NAME) and the names to be asked by (--allow-host HOST)"
        )
    if not token and any(not is_loopback(PORT.sub("", host)) for host in hosts):
        raise st.ConfigError("--allow-host: a name that others can use wants --token-env NAME too")
    beside = st.find_file(None, "config.json")
    folder = options.results_dir or beside.resolve().parent / "results"
    if not folder.is_dir() and options.results_dir is not None:
        raise st.ConfigError(f"{folder}: no such folder; --results-dir says where the runs are")
    configs = tuple(st.find_file(path, "config.json").resolve() for path in options.config)
    if options.allow_start:
        configs = configs or (beside.resolve(),)
        for path in configs:
            st.load_config(path)
    elif options.config:
        raise st.ConfigError("--config: is for --allow-start")
    follow = None if options.follow is None else st.check_name(options.follow)
    return Settings(
        folder.resolve(), options.host, options.port, token, options.token_env or "", hosts,
        options.allow_start, configs, options.metrics, follow,
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address or a name means this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _serve(settings: Settings, scratch: Path, *, say_address: bool) -> None:
    """Serve until a signal comes. Raises ConfigError when it cannot listen there."""
    sock = _listen(settings.host, settings.port)
    port = sock.getsockname()[1]
    settings = dataclasses.replace(settings, port=port)
    dashboard = Dashboard(settings, scratch)
    doors = Doors(dashboard.app)
    await doors.open(sock)
    try:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises there
                loop.add_signal_handler(signum, stop.set)
        address = f"http://{asked_by(settings)}/"
        if settings.follow is not None:
            address += f"?run={urllib.parse.quote(settings.follow)}"
        line = address if say_address else f"dashboard of {settings.folder}: {address}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        ended = asyncio.create_task(dashboard.hub.until_over(settings.follow))
        await asyncio.wait(
            (ended, asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        dashboard.hub.close()
        await doors.close()


class Doors:
    """Lets connections in, so many at most, and ends those that ask for nothing.

    Else somebody who has no token could take all files that the process may open.
    """

    MOST = 2000
    IDLE_S = 30.0  # without a whole request

    def __init__(self, app: web.Application) -> None:
        silent = logging.getLogger("llm_stresstest.dashboard.http")
        silent.addHandler(logging.NullHandler())
        silent.propagate = False
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=silent,
            shutdown_timeout=1.0,
            keepalive_timeout=self.IDLE_S,
        )
        self._server: asyncio.Server | None = None
        self.most = min(self.MOST, _most_files() // 2)

    async def open(self, sock: socket.socket) -> None:
        """Serve on the socket."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._let_in, sock=sock, backlog=64)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _let_in(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        has_room = server is not None and len(server.connections) < self.most
        return server() if server is not None and has_room else _Refused()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _most_files() -> int:
    """Allow this process as many open files as it may allow itself; return how many."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # Windows has no such limit
        return 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return 8192 if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def asked_by(settings: Settings) -> str:
    """Return the name and port by which a browser may ask for it."""
    if settings.allow_hosts and not is_loopback(settings.host):
        name = settings.allow_hosts[0]
        return name if PORT.search(name) else f"{name}:{settings.port}"
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{name}:{settings.port}"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ConfigError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        remedy = "choose another --port" if port else "see --host"
        where = f"--host {st.printable(host, 100)} --port {port}"
        raise st.ConfigError(f"{where}: cannot listen there: {why}; {remedy}") from None
    return sock


# === The run in progress ===


class Hub:
    """Follows the journals while somebody looks; nothing is read when nobody does."""

    TICK_S = 1.0
    KEPT_S = 900.0  # for how long a run that was seen to finish stays on the page
    BUDGET_S = 0.8  # for reading all journals
    LEFT_S = 60.0  # how long after its run a dashboard of one run ends, when nobody looks

    def __init__(self, index: runs.RunIndex, follow: str | None = None) -> None:
        self.index = index
        self.runs: dict[str, live.LiveRun] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.version = 0  # of the list of runs: which there are, and in which states
        self.ticks = 0  # how often something changed
        self.listeners = 0
        self.closing = False
        self._looked = 0.0
        self._folder_ns = 0  # when the folder was last changed
        self._states: dict[str, str] = {}
        self.is_stirring: Callable[[], bool] = lambda: False  # whether something else changes
        self._settled: dict[str, tuple[int, int] | None] = {}  # time, size of what has ended
        self._ended: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        if follow is not None:
            self.runs[follow] = live.LiveRun(index.folder / f"{follow}.journal")

    async def look(self) -> None:
        """Read what is new, unless that was done within the last second."""
        async with self._lock:
            if time.monotonic() - self._looked >= 0.9 * self.TICK_S:
                changed = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
                self.ticks += changed or self.is_stirring()

    def _look(self) -> bool:
        """Read the folder and the journals; return whether anything may look different now."""
        changed, begun = False, time.monotonic()
        with contextlib.suppress(OSError):
            folder_ns = self.index.folder.stat().st_mtime_ns
            if folder_ns != self._folder_ns:
                self._folder_ns, changed = folder_ns, True
                self.version += 1
                for path in self.index.journals():
                    self.runs.setdefault(path.name.removesuffix(".journal"), live.LiveRun(path))
        marks = {name: self._mark(run.path) for name, run in self.runs.items()}
        # The newest first: many large old ones are read bit by bit.
        for name in sorted(marks, key=lambda name: marks[name] or (0, 1 << 62), reverse=True):
            mark = marks[name]
            if name in self._settled and self._settled[name] == mark:
                continue
            if time.monotonic() - begun > self.BUDGET_S:
                break
            changed = True
            self._read(name, mark)
        for name, ended in list(self._ended.items()):
            if time.monotonic() - ended > self.KEPT_S:
                for known in (self.runs, self.views, self._ended, self._settled):
                    known.pop(name, None)
        states = {name: view["state"] for name, view in self.views.items()}
        if states != self._states:  # a crash changes no folder
            self._states, self.version = states, self.version + 1
        return changed

    def _read(self, name: str, mark: tuple[int, int] | None) -> None:
        """Read on in one journal."""
        run = self.runs[name]
        try:
            run.refresh()
            view = run.view()
        except Exception as error:  # noqa: BLE001  an odd journal ends no other run's page
            st.logger.error("dashboard: %s: %s", run.path, type(error).__name__, exc_info=error)
            self._settled[name] = mark
            return
        self.views[name] = view
        self._settled.pop(name, None)
        if view["state"] in pages.BUSY:
            self._ended.pop(name, None)
            return
        if not view.get("behind"):
            self._settled[name] = mark
        if view["state"] == "finished":
            self._take_verdict(view)
        if mark is None:  # its journal is gone
            self._ended.setdefault(name, time.monotonic())

    def _take_verdict(self, view: dict[str, Any]) -> None:
        """Take the verdict from the results: it knows more than what could be said meanwhile."""
        path = self.index.path(view["name"])
        if path is not None:
            with contextlib.suppress(st.ConfigError, KeyError, TypeError):
                validity = st.load_results(path, results=False).meta["validity"]
                if {"verdict", "reasons"} <= validity.keys():
                    view["validity"] = validity

    @staticmethod
    def _mark(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Follow the runs while the block lasts."""
        self.listeners += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self.listeners -= 1

    async def _follow(self) -> None:
        while self.listeners and not self.closing:
            started = time.monotonic()
            await self.look()
            waiting, self._next = self._next, None
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            await asyncio.sleep(max(self.TICK_S - (time.monotonic() - started), 0.1))

    async def wait(self) -> None:
        """Wait until the runs were looked at again."""
        if self.closing:
            raise asyncio.CancelledError
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await self._next

    def close(self) -> None:
        """End all streams."""
        self.closing = True
        if self._next is not None and not self._next.done():
            self._next.cancel()

    def busy(self) -> list[dict[str, Any]]:
        """Return the views of the runs that go on, the newest first."""
        found = [view for view in self.views.values() if view["state"] in pages.BUSY]
        return sorted(found, key=lambda view: view["started"] or "9", reverse=True)

    def pick(self, name: str | None) -> dict[str, Any] | None:
        """Return the view to show: the run asked for, else the newest one, or the last to end."""
        if name is not None and name in self.views:
            return self.views[name]
        ended = [self.views[name] for name in reversed(self._ended) if name in self.views]
        return next(iter([*self.busy(), *ended]), None)

    async def until_over(self, name: str | None) -> None:
        """Return a minute after the run has ended and nobody looks; never without a run."""
        over_since = None
        while True:
            await asyncio.sleep(5 if name else 3600)
            if name is None:
                continue
            if not self.listeners:
                await self.look()
            view = self.views.get(name)
            if self.listeners or view is None or view["state"] in pages.BUSY:
                over_since = None
            elif over_since is None:
                over_since = time.monotonic()
            elif time.monotonic() - over_since > self.LEFT_S:
                return


# === Starting and stopping ===


class Refusal(Exception):  # noqa: N818
    """Why something that was asked for is not done: one line, for the one who asked."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class Pending(NamedTuple):
    """A run that was started here and has no journal yet, or that ended without one."""

    name: str
    command: str
    error: str


class Starter:
    """Starts runs as processes of their own, which outlive this one; stops and resumes them."""

    # What a page may set: numbers that change how much is asked, never a URL, a command or a key.
    OVERRIDES: ClassVar = (
        "questions", "concurrent", "rate", "duration", "max_tokens", "temperature", "seed",
    )  # fmt: skip
    ERROR_S = 600.0  # for how long a run that did not begin is shown

    def __init__(self, settings: Settings, index: runs.RunIndex, scratch: Path) -> None:
        self.allowed = settings.allow_start
        self.configs = {_short(path): path for path in settings.configs}
        self._index, self._scratch = index, scratch
        self._started: dict[str, tuple[subprocess.Popen[bytes], list[str], Path, float]] = {}
        self._stopped = set[int]()

    def command(self, asked: Mapping[str, Any]) -> list[str]:
        """Return the command of a run that is asked for. Raises Refusal, ConfigError."""
        unknown = asked.keys() - {"config", "name", *self.OVERRIDES}
        if unknown:
            raise Refusal(f"{st.printable(min(unknown), 60)}: cannot be set here")
        config = self.configs.get(str(asked.get("config", next(iter(self.configs), ""))))
        if config is None:
            raise Refusal("config: choose one of those that the dashboard was started with")
        name = st.check_name(str(asked.get("name", "")))
        if self._index.path(name) or self._index.journal(name) or name in self._running():
            raise Refusal(f"{name}: is taken; choose another name", 409)
        settings = [f"{key}={asked[key]}" for key in self.OVERRIDES if key in asked]
        if any(len(text) > 200 for text in settings):
            raise Refusal("a value is too long")
        st.load_config(config, settings)
        command = [sys.executable, _program(), st.run_argument(name), "--config", str(config)]
        command += ["--results-dir", str(self._index.folder), "--quiet"]
        return command + [part for text in settings for part in ("--set", text)]

    def resume_command(self, name: str, view: Mapping[str, Any]) -> list[str]:
        """Return the command that goes on with a run. Raises Refusal."""
        if self._index.journal(name) is None:
            raise Refusal(f"{st.printable(name, 100)}: there is nothing to go on with", 404)
        if view["state"] not in ("crashed", "stopped") or name in self._running():
            raise Refusal(f"{st.printable(name, 100)}: its run is in progress", 409)
        path = self._config_of(view)
        command = [sys.executable, _program(), st.run_argument(name), "--resume"]
        command += ["--config", str(path)]
        return [*command, "--results-dir", str(self._index.folder), "--quiet"]

    def _config_of(self, view: Mapping[str, Any]) -> Path:
        """Return the configuration that names the same server and model, else the first one."""
        wanted = view["config"] or {}
        for path in self.configs.values():
            with contextlib.suppress(st.ConfigError):
                config = st.load_config(path)
                if (config.server, config.model) == (wanted.get("server"), wanted.get("model")):
                    return path
        return next(iter(self.configs.values()))

    def start(self, name: str, command: list[str]) -> None:
        """Start it. Raises Refusal."""
        log = self._scratch / f"start-{secrets.token_hex(6)}.txt"
        try:
            with log.open("wb") as out:
                process = subprocess.Popen(  # noqa: S603
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=out,
                    start_new_session=True,
                )
        except OSError as error:
            raise Refusal(f"cannot be started: {error.strerror}", 500) from None
        self._started[name] = process, command, log, time.monotonic()

    def is_stirring(self) -> bool:
        """Whether something was started here of which pages may have news."""
        return bool(self._started)

    def knows(self, name: str) -> bool:
        """Whether a run of this name was started here, and has not been seen to end."""
        return name in self._started

    def _running(self) -> set[str]:
        return {name for name, (process, *_) in self._started.items() if process.poll() is None}

    def pending(self, known: Iterable[str]) -> list[Pending]:
        """Return what was started here and is in no journal: on its way, or failed."""
        found, running, known = list[Pending](), self._running(), set(known)
        for name, (process, command, log, since) in list(self._started.items()):
            error, code = "", process.returncode
            if name not in running:
                # What ended in order, or by a signal, is told by its journal or its results.
                told = code is None or code in (0, 1) or not 0 < code < 128
                if told or time.monotonic() - since > self.ERROR_S:
                    del self._started[name]
                    continue
                lines = log.read_text(errors="replace").strip().splitlines()
                error = st.printable(lines[-1] if lines else f"exit code {code}", 400)
            elif name in known:
                continue
            found.append(Pending(name, shown_command(command), error))
        return found

    def process_of(self, name: str) -> int | None:
        """Return the process of a run: one that was started here, or the one with its lock."""
        if name in self._started and self._started[name][0].poll() is None:
            return self._started[name][0].pid
        path = self._index.journal(name)
        return None if path is None else lock_holder(path)

    def stop(self, name: str) -> None:
        """Let a run stop in order, with what was measured saved. Raises Refusal."""
        pid = self.process_of(name)
        if pid is None:
            raise Refusal(f"{st.printable(name, 100)}: its process cannot be told for certain", 409)
        if pid in self._stopped:
            return  # a second signal would end it at once
        self._stopped.add(pid)
        try:
            os.kill(pid, signal.SIGINT)
        except OSError as error:
            raise Refusal(f"cannot be stopped: {error.strerror}", 409) from None


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a journal's lock, when it is certainly a run of this user.

    Linux says so in /proc/locks. None when it is nobody, several, or not clear.
    """
    try:
        status = path.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        lines = Path("/proc/locks").read_text().splitlines()
        fields = [line.split() for line in lines if " FLOCK " in line and "->" not in line]
        holders = {int(field[4]) for field in fields if field[5] == device and field[3] == "WRITE"}
        if len(holders) != 1:
            return None
        pid = holders.pop()
        process = Path("/proc") / str(pid)
        if pid in (0, os.getpid()) or process.stat().st_uid != os.geteuid():
            return None
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    name = Path(_program()).name.encode()
    return pid if any(argument.endswith(name) for argument in arguments[:8]) else None


def _program() -> str:
    return str(Path(__file__).resolve().parent.parent / "llm_stresstest.py")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def shown_command(command: Sequence[str]) -> str:
    """Return a command as a person would type it."""
    words = [
        "python3",
        *(_short(Path(word)) if Path(word).is_absolute() else word for word in command[1:]),
    ]
    return shlex.join(word for word in words if word != "--quiet")


# === Reports and exports ===


class Workshop:
    """Makes reports and tables by the program's own tools, one at a time, and keeps the newest.

    In a process of its own: a large run or a damaged file neither stalls nor ends the dashboard.
    """

    MOST_KEPT = 40
    TIMEOUT_S = 300.0

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._made: OrderedDict[str, Path] = OrderedDict()
        self._lock = asyncio.Lock()

    async def make(self, tool: Sequence[str], paths: Sequence[Path], ending: str) -> Path:
        """Return what a tool makes of these runs. Raises Refusal with the tool's own line."""
        marks = [(str(path), *Hub._mark(path)) for path in paths if Hub._mark(path)]  # type: ignore[misc]
        key = hashlib.sha256(repr((tool, marks, ending)).encode()).hexdigest()
        async with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            out = self._scratch / f"{key[:32]}{ending}"
            await self._run([*tool, *map(str, paths), "-o", str(out), "--overwrite"])
            self._made[key] = out
            while len(self._made) > self.MOST_KEPT:
                self._made.popitem(last=False)[1].unlink(missing_ok=True)
            return out

    async def _run(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, _program(), *arguments]
        if nice := shutil.which("nice"):  # a test in progress goes before
            command = [nice, "-n", "10", *command]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self.TIMEOUT_S):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Refusal(f"took longer than {self.TIMEOUT_S:g} s", 500) from None
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or ["it failed"]
            # A file that is no results file is no fault of this program.
            status = 422 if process.returncode == 2 else 500
            raise Refusal(st.printable(lines[-1].removeprefix("llm_stresstest: "), 400), status)


# === Who may ask ===


def is_same(given: str, secret: str) -> bool:
    """Whether somebody shows the secret, told in a time that says nothing of it."""
    both = (text.encode(errors="surrogatepass") for text in (given, secret))
    return hmac.compare_digest(*both)


class Guard:
    """Refuses what a stranger's page, name or machine asks; every route goes through it."""

    COOKIE = "llm_stresstest_session"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.page_token = secrets.token_urlsafe(32)  # for what changes something
        self.hosts = set(settings.allow_hosts)
        self.hosts |= {
            f"{host}:{settings.port}" for host in settings.allow_hosts if not PORT.search(host)
        }
        if is_loopback(settings.host):
            names = ("127.0.0.1", "localhost", "[::1]")
            self.hosts |= {f"{name}:{settings.port}" for name in names}
            if ":" not in settings.host:  # another address of 127.0.0.0/8
                self.hosts.add(f"{settings.host}:{settings.port}")
        token = (settings.token or "").encode()
        self._session = hmac.new(token, b"llm-stresstest dashboard", hashlib.sha256).hexdigest()

    def check(self, request: web.Request, route: Route | None) -> None:
        """Raise an HTTP error unless the request may be answered."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            raise web.HTTPForbidden(text="this dashboard does not answer to that name")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site == "cross-site" and request.headers.get("Sec-Fetch-Mode") != "navigate":
            raise web.HTTPForbidden(text="asked for by another site's page")
        is_open = route is not None and route.open
        if self._settings.token is not None and not is_open and not self.knows(request):
            raise web.HTTPUnauthorized(
                text="wants its token", headers={"WWW-Authenticate": "Bearer"}
            )
        if request.method not in ("GET", "HEAD"):
            self._check_origin(request, hosts[0])
            if route is not None and not route.open:
                self._check_page_token(request)

    @staticmethod
    def _check_origin(request: web.Request, host: str) -> None:
        origins = request.headers.getall("Origin", [])
        if len(origins) != 1 or origins[0].lower() not in (
            f"http://{host.lower()}", f"https://{host.lower()}",
        ):  # fmt: skip
            raise web.HTTPForbidden(text="only this dashboard's own pages may ask for that")

    def _check_page_token(self, request: web.Request) -> None:
        if not is_same(request.headers.get("X-Token", ""), self.page_token):
            raise web.HTTPForbidden(text="this page is of an earlier dashboard; load it again")
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="wants JSON")

    def knows(self, request: web.Request) -> bool:
        """Whether the request shows the token: as Bearer, or by the cookie of the login form."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return is_same(request.cookies.get(self.COOKIE, ""), self._session)

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        token = self._settings.token or ""
        return bool(token) and is_same(given, token)

    def remember(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give the browser the cookie that stands for the token."""
        response.set_cookie(
            self.COOKIE,
            self._session,
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("Origin", "").startswith("https:"),
            path="/",
        )


# === The routes ===

Handler = Callable[["Dashboard", web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """A route; who may ask for it is decided in one place, from these."""

    method: str
    path: str
    handler: Handler
    open: bool = False  # also without the token of --token-env: the login form
    kind: str = "page"  # of its errors: "page" or "data"


ROUTES: list[Route] = []


def route(
    method: str,
    path: str,
    *,
    open: bool = False,  # noqa: A002
    kind: str = "page",
) -> Callable[[Handler], Handler]:
    """Add a method of Dashboard to the routes."""

    def add(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, handler, open, kind))
        return handler

    return add


class Vega(NamedTuple):
    """The drawing library: one file that never changes."""

    path: str
    integrity: str
    content: bytes

    @classmethod
    @functools.cache
    def load(cls) -> Vega:
        """Return the bundle of vl-convert."""
        script = vl_convert.javascript_bundle(
            "window.vegaEmbed=vegaEmbed", vl_version=charts.VEGA_LITE
        )
        # Its declarations stay its own.
        script = f"(()=>{{{script}}})();"
        integrity = report.sha256(script).strip("'")
        digest = hashlib.sha256(script.encode()).hexdigest()
        return cls(f"/assets/vega-{digest[:16]}.js", integrity, script.encode())


class Dashboard:
    """The web application: pages, streams, data."""

    BODY_S = 20.0  # how long the body of a request may take

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self.settings = settings
        self.index = runs.RunIndex(settings.folder)
        self.hub = Hub(self.index, settings.follow)
        self.starter = Starter(settings, self.index, scratch)
        self.hub.is_stirring = self.starter.is_stirring
        self.workshop = Workshop(scratch)
        self.guard = Guard(settings)
        self.pages = pages.Pages()
        self.vega = Vega.load()
        self._rendered: dict[tuple[str | None, str], tuple[int, dict[str, Any]]] = {}
        self.app = web.Application(client_max_size=1 << 16, middlewares=[self._middleware])
        self.app.on_response_prepare.append(self._add_headers)
        for one in ROUTES:
            if one.path != "/metrics" or settings.metrics:
                self.app.router.add_route(one.method, one.path, self._bound(one))

    def _bound(self, one: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await one.handler(self, request)

        handle.route = one  # type: ignore[attr-defined]
        return handle

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        one: Route | None = getattr(request.match_info.handler, "route", None)
        try:
            self.guard.check(request, one)
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = self._error(request, one, error.status, error.text or error.reason)
            for name in ("Allow", "WWW-Authenticate"):
                if name in error.headers:
                    response.headers[name] = error.headers[name]
        except Refusal as error:
            response = self._error(request, one, error.status, str(error))
        except st.StressTestError as error:
            response = self._error(request, one, 400, str(error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  a fault of this program, not the whole server's end
            st.logger.error("dashboard: %s", type(error).__name__, exc_info=error)
            response = self._error(
                request, one, 500, f"a fault of this program: {type(error).__name__}"
            )
        return response

    def _error(
        self, request: web.Request, one: Route | None, status: int, why: str
    ) -> web.StreamResponse:
        """Return an error as its reader wants it: a page, or JSON."""
        wants_page = "text/html" in request.headers.get("Accept", "")
        if status == 401 and wants_page and request.method == "GET":
            return web.Response(status=303, headers={"Location": "/login"})
        if (one is not None and one.kind == "data") or not wants_page or status in (401, 403):
            return web.json_response({"error": st.printable(why, 500)}, status=status)
        words = self._words(request)
        shown = words("e404") if status == 404 else words("error", code=status, why=why)
        response = self._page(request, "error", code=status, why=st.printable(shown, 600))
        response.set_status(status)
        return response

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Add what keeps other sites out, to each response."""
        headers = response.headers
        headers.setdefault(
            "Content-Security-Policy",
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        headers.setdefault("Cache-Control", "no-store")
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Server"] = "llm-stresstest"

    # Pages

    def _words(self, request: web.Request) -> pages.Words:
        """Return the reader's language: the one that was chosen, else the browser's first."""
        asked = request.query.get("lang") or request.cookies.get("lang")
        if asked in LANGUAGES:
            return pages.Words(asked)
        return pages.Words(preferred_language(request.headers.get("Accept-Language", "")))

    def _page(self, request: web.Request, name: str, **values: Any) -> web.Response:
        """Return a page with the policy that lets nothing but its own script run."""
        words = self._words(request)
        other = "de" if words.language == "en" else "en"
        values.setdefault("vega", None)
        page = self.pages.page(
            name,
            words,
            token=self.guard.page_token if name != "login" else "",
            address=request.host if name != "login" else "",
            allow_start=self.starter.allowed,
            switch=switched(request, other),
            script_words=as_data(
                {key: pages.TEXTS[key][words.place] for key in pages.SCRIPT_WORDS}
            ),
            **values,
        )
        script = [report.sha256(pages.SCRIPT)]
        if values["vega"]:
            host = "'self'" if "[" in request.host else request.host + self.vega.path
            script += [host, f"'{self.vega.integrity}'"]
        style = report.sha256(self.pages.style)
        policy = (
            f"default-src 'none'; script-src {' '.join(script)}; style-src {style}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        )
        return self._answer(request, page, policy)

    def _answer(self, request: web.Request, page: str, policy: str) -> web.Response:
        """Return a page in the reader's language, and remember the one that was chosen."""
        words = self._words(request)
        response = web.Response(text=page, content_type="text/html")
        response.headers["Content-Security-Policy"] = policy
        response.headers["Vary"] = "Accept-Language, Cookie"
        if request.query.get("lang") in LANGUAGES:
            response.set_cookie("lang", words.language, samesite="Strict", max_age=31_536_000)
        return response

    @route("GET", "/")
    async def live(self, request: web.Request) -> web.StreamResponse:
        """Show the run in progress."""
        await self.hub.look()
        name = request.query.get("run")
        if name is not None and name not in self.hub.views and not self.starter.knows(name):
            if self.index.path(name) is None:
                raise web.HTTPNotFound
            raise web.HTTPFound(f"/runs/{urllib.parse.quote(name)}")
        words = self._words(request)
        view = self.hub.pick(name)
        rendered = await self._render(name, words)
        return self._page(request, "live", view=view, parts=rendered["parts"], vega=self.vega)

    async def _render(self, name: str | None, words: pages.Words) -> dict[str, Any]:
        """Return the parts of the live page and its charts; made once a tick, however many look."""
        view = self.hub.pick(name)
        key = (None if view is None else view["name"], words.language)
        ticks, rendered = self._rendered.get(key, (-1, {}))
        if ticks == self.hub.ticks and rendered:
            return rendered
        shown = None if view is None else pages.LivePage(view, words)
        ended = [
            other for other in self.hub.views.values()
            if other is not view and other["state"] in ("crashed", "stopped", "damaged")
        ]  # fmt: skip
        ended.sort(key=lambda other: other["started"] or "", reverse=True)
        reports = {
            other["name"] for other in (*ended[:3], *([view] if view else []))
            if self.index.path(other["name"]) is not None
        }  # fmt: skip
        last = None
        if view is None:
            entries = await asyncio.to_thread(self.index.entries)
            last = next((entry.name for entry in entries if entry.started), None)
        is_busy = view is not None and view["state"] in pages.BUSY
        parts = self.pages.parts(
            words,
            view=view,
            live=shown,
            notices=[pages.LivePage(other, words) for other in ended[:3]],
            more_notices=max(len(ended) - 3, 0),
            pending=self.starter.pending(self.hub.views),
            others=[other["name"] for other in self.hub.busy() if other is not view],
            reports=reports,
            allow_start=self.starter.allowed,
            can_stop=self.starter.allowed
            and is_busy
            and self.starter.process_of(view["name"]) is not None,  # type: ignore[index]
            any_runs=bool(self.hub.views) or last is not None,
            last_finished=last,
            first_command=self._first_command(),
        )
        title = "llm-stresstest" if shown is None else f"{shown.headline} · {shown.name}"
        rendered = {
            "parts": parts,
            "state": "" if view is None else view["state"],
            "busy": is_busy,
            "title": title,
            "charts": json.dumps(shown.panels()) if shown is not None else "[]",
        }
        self._rendered = {
            at: held for at, held in self._rendered.items() if held[0] == self.hub.ticks
        }
        self._rendered[key] = self.hub.ticks, rendered
        return rendered

    def _first_command(self) -> str:
        words = ["python3", _short(Path(_program())), "first_run"]
        usual = st.find_file(None, "config.json").resolve().parent / "results"
        if usual != self.settings.folder:
            words += ["--results-dir", _short(self.settings.folder)]
        return shlex.join(words)

    @contextlib.asynccontextmanager
    async def _streaming(
        self, request: web.Request
    ) -> AsyncIterator[aiohttp_sse.EventSourceResponse]:
        """Follow the runs while somebody reads the stream; that he has gone is no fault."""
        async with self.hub.listening(), aiohttp_sse.sse_response(request) as stream:
            with contextlib.suppress(ConnectionError, TimeoutError):
                yield stream

    @route("GET", "/events/page", kind="data")
    async def page_events(self, request: web.Request) -> web.StreamResponse:
        """Send the parts of a page that have changed, each second, to this program's script."""
        words, name = self._words(request), request.query.get("run")
        is_list = request.query.get("page") == "runs"
        async with self._streaming(request) as stream:
            hello = {"token": self.guard.page_token, "config": charts.CONFIG}
            await stream.send(json.dumps(hello), event="hello", retry=2000)
            sent, version, ticks, quiet = dict[str, str](), 0, -1, 0
            await self.hub.look()
            while not self.hub.closing:
                quiet += 1
                if is_list:
                    if version != self.hub.version:
                        await stream.send(str(version), event="runs")  # 0 at first
                        version, quiet = self.hub.version, 0
                elif ticks != self.hub.ticks:
                    ticks = self.hub.ticks
                    rendered = await self._render(name, words)
                    changed = {
                        key: html
                        for key, html in rendered["parts"].items()
                        if sent.get(key) != html
                    }
                    if changed:
                        said = json.dumps({
                            "parts": changed,
                            **{key: rendered[key] for key in ("state", "busy", "title")},
                        })  # fmt: skip
                        data = f'{said[:-1]}, "charts": {rendered["charts"]}}}'
                        await stream.send(data, event="parts")
                        sent, quiet = dict(rendered["parts"]), 0
                if quiet >= 4:
                    await stream.send("", event="beat")
                    quiet = 0
                await self.hub.wait()
        return stream

    @route("GET", "/events", kind="data")
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send what the runs in progress say, for programs; see the top of this file."""
        async with self._streaming(request) as stream:
            version, ticks, quiet, ended = 0, -1, 0, set[str]()
            await self.hub.look()
            while not self.hub.closing:
                quiet += 1
                if version != self.hub.version:
                    version, quiet = self.hub.version, 0
                    await stream.send(str(version), event="runs")
                views = {} if ticks == self.hub.ticks else dict(self.hub.views)
                ticks = self.hub.ticks
                for name, view in views.items():
                    if view["state"] not in pages.BUSY and name in ended:
                        continue
                    (ended.discard if view["state"] in pages.BUSY else ended.add)(name)
                    await stream.send(json.dumps(view), event="run")
                    quiet = 0
                if quiet >= 4:
                    await stream.send("", event="beat")
                    quiet = 0
                await self.hub.wait()
        return stream

    @route("GET", "/runs")
    async def runs(self, request: web.Request) -> web.StreamResponse:
        """Show all runs in one table."""
        await self.hub.look()
        words = self._words(request)
        entries = await asyncio.to_thread(self.index.entries)
        rows = runs.RunRows(words, entries, self.hub.views)
        return self._page(
            request,
            "runs",
            headline=rows.headline,
            rows=rows.rows,
            columns=rows.columns,
            models=sorted({row["model"] for row in rows.rows if row["model"]}),
            verdicts=sorted({row["verdict"] for row in rows.rows}),
            first_command=self._first_command(),
        )

    @route("GET", "/runs.csv", kind="data")
    async def runs_csv(self, request: web.Request) -> web.StreamResponse:
        """Return the table of runs as CSV."""
        export = st.import_extension("export", "export")
        german = self._words(request).language == "de"
        out = io.StringIO()
        writer = csv.writer(out, delimiter=";" if german else ",")
        writer.writerow(runs.TABLE_COLUMNS)
        for entry in await asyncio.to_thread(self.index.entries):
            cells = [
                export.inert(cell) if isinstance(cell, str)
                else str(cell).replace(".", ",") if german and isinstance(cell, float)
                else "" if cell is None else cell
                for cell in runs.table_row(entry)
            ]  # fmt: skip
            writer.writerow(cells)
        text = ("\ufeff" if german else "") + out.getvalue()
        return _download(text.encode(), "runs.csv", "text/csv")

    @route("GET", "/runs.xlsx", kind="data")
    async def runs_xlsx(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        """Return the table of runs for Excel."""
        import xlsxwriter  # noqa: PLC0415

        out = io.BytesIO()
        options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        with xlsxwriter.Workbook(out, options) as book:
            sheet = book.add_worksheet("runs")
            sheet.write_row(0, 0, runs.TABLE_COLUMNS, book.add_format({"bold": True}))
            sheet.freeze_panes(1, 1)
            for number, entry in enumerate(await asyncio.to_thread(self.index.entries)):
                for column, cell in enumerate(runs.table_row(entry)):
                    if isinstance(cell, str):
                        sheet.write_string(number + 1, column, cell)
                    elif cell is not None:
                        sheet.write_number(number + 1, column, cell)
        return _download(out.getvalue(), "runs.xlsx", XLSX)

    def _finished(self, name: str) -> Path:
        path = self.index.path(name)
        if path is None:
            raise web.HTTPNotFound
        return path

    @route("GET", "/runs/{name}")
    async def run(self, request: web.Request) -> web.StreamResponse:
        """Show the report of a run."""
        name = request.match_info["name"]
        path = self.index.path(name)
        if path is None and self.index.journal(name) is not None:
            raise web.HTTPFound(f"/?run={urllib.parse.quote(name)}")
        words, quoted = self._words(request), urllib.parse.quote(name)
        links = [
            (f"/download/{quoted}/json", f"{words('download')} JSON"),
            (f"/download/{quoted}/csv", "CSV"),
            (f"/download/{quoted}/xlsx", "Excel"),
        ]
        base = runs.Entry(name, "", 0).base
        entries = await asyncio.to_thread(self.index.entries)
        if sum(entry.base == base for entry in entries) > 1:
            links.append((f"/trend/{urllib.parse.quote(base)}", words("trend")))
        return await self._report(request, [self._finished(name)], links)

    @route("GET", "/compare")
    async def compare(self, request: web.Request) -> web.StreamResponse:
        """Show two runs or more, side by side."""
        names = list(dict.fromkeys(request.query.getall("run", [])))
        if len(names) > 12:
            raise Refusal("choose at most 12 runs")
        if len(names) < 2:
            return self._page(request, "compare")
        return await self._report(request, [self._finished(name) for name in names], [])

    async def _report(
        self, request: web.Request, paths: Sequence[Path], links: Sequence[tuple[str, str]]
    ) -> web.Response:
        """Return a report as extensions/report.py makes it, under a bar that leads back."""
        words = self._words(request)
        other = "de" if words.language == "en" else "en"
        tool = ["report", "--language", words.language]
        made = await self.workshop.make(tool, paths, ".html")
        page = await asyncio.to_thread(made.read_text, encoding="utf-8")
        bar = pages.REPORT_BAR.format(
            live=words("live"),
            runs=words("runs"),
            links=" ".join(f'<a href="{path}">{text}</a>' for path, text in links),
            switch=html.escape(switched(request, other)),
            other=other,
            other_language=words("other_language"),
        )
        marker = '<div class="page">\n'
        page = page.replace(marker, marker + bar, 1)
        # Its own policy names its script and its style sheet, which has the bar's rules too.
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
        allowed = "default-src 'none'" if policy is None else policy.group(1)
        return self._answer(request, page, f"{allowed}; frame-ancestors 'none'")

    @route("GET", "/download/{name}/{kind}", kind="data")
    async def download(self, request: web.Request) -> web.StreamResponse:
        """Return a run as a file: JSON, CSV, Excel."""
        name, kind = request.match_info["name"], request.match_info["kind"]
        path = self._finished(name)
        if kind == "json":
            response = web.FileResponse(path)
            response.headers["Content-Disposition"] = _attachment(f"{name}.json")
            response.headers["Content-Type"] = "application/json"
            return response
        if kind not in ("csv", "xlsx"):
            raise web.HTTPNotFound
        tool = ["export", "--format", kind]
        if kind == "csv" and self._words(request).language == "de":
            tool += ["--csv-dialect", "excel-de"]
        made = await self.workshop.make(tool, [path], f".{kind}")
        content = await asyncio.to_thread(made.read_bytes)
        return _download(content, f"{name}.{kind}", "text/csv" if kind == "csv" else XLSX)

    @route("GET", "/trend/{base}")
    async def trend(self, request: web.Request) -> web.StreamResponse:
        """Show the runs of one name over their dates."""
        base, words = request.match_info["base"], self._words(request)
        entries = await asyncio.to_thread(self.index.entries)
        entries = [entry for entry in entries if entry.base == base and entry.started]
        if not entries:
            raise web.HTTPNotFound
        entries.reverse()
        trends, specs = [], list[charts.Spec]()
        for title, points, kind, colour in runs.trends(words, entries):
            if points:
                trends.append((title, len(specs)))
                specs.append(charts.trend(points, kind=kind, colour=colour))
        changes, note = await self._changes(base, words) if len(entries) > 1 else ([], "")
        return self._page(
            request,
            "trend",
            base=st.printable(base, 200),
            rows=runs.RunRows(words, list(reversed(entries)), {}).rows,
            trends=trends,
            specs=as_data({"config": charts.CONFIG, "specs": specs}),
            changes=changes,
            change_note=note,
            vega=self.vega,
        )

    async def _changes(self, base: str, words: pages.Words) -> tuple[list[str], str]:
        """Return what `history` finds: sentences, or that there is nothing to say."""
        command = [sys.executable, _program(), "history", base, "--format", "json"]
        command += ["--language", words.language, "--results-dir", str(self.settings.folder)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60):
                said, _ = await process.communicate()
            found = json.loads(said)
            if not found["enough"]:
                return [], words("trend_few", count=found["runs_needed"])
            sentences = [f"{st.printable(change['says'], 300)}." for change in found["changes"]]
            return sentences, "" if sentences else words("trend_none", count=len(found["runs"]))
        except (TimeoutError, ValueError, KeyError):
            return [], ""
        finally:
            if process.returncode is None:
                process.kill()

    @route("GET", "/assets/{name}", kind="data")
    async def asset(self, request: web.Request) -> web.StreamResponse:
        """Return the drawing library."""
        if request.path != self.vega.path:
            raise web.HTTPNotFound
        response = web.Response(body=self.vega.content, content_type="text/javascript")
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return response

    # Data

    @route("GET", "/api/runs", kind="data")
    async def api_runs(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        """Return all runs."""
        await self.hub.look()
        entries = await asyncio.to_thread(self.index.entries)
        going = [
            {key: view[key] for key in ("name", "state", "done", "planned")}
            for view in self.hub.views.values()
        ]
        found = {
            "schema_version": SCHEMA_VERSION,
            "runs": [dataclasses.asdict(entry) for entry in entries],
            "live": going,
        }
        return web.json_response(found)

    @route("GET", "/api/runs/{name}", kind="data")
    async def api_run(self, request: web.Request) -> web.StreamResponse:
        """Return one run."""
        name = request.match_info["name"]
        await self.hub.look()
        view = self.hub.views.get(name)
        path = self.index.path(name)
        if view is not None and (path is None or view["state"] != "finished"):
            return web.json_response({"name": name, "state": view["state"], "view": view})
        if path is None:
            raise web.HTTPNotFound
        run = await asyncio.to_thread(st.load_results, path, False)
        found = {"name": name, "state": run.meta.get("status")}
        return web.json_response({**found, "meta": run.meta, "aggregate": run.aggregate})

    # What changes something

    @route("GET", "/start")
    async def start_page(self, request: web.Request) -> web.StreamResponse:
        """Show the form that starts a run."""
        configs = list(self.starter.configs)
        overrides = self.starter.OVERRIDES
        return self._page(request, "start", configs=configs, overrides=overrides)

    async def _asked(self, request: web.Request) -> dict[str, Any]:
        """Return the JSON object that was sent. Raises Refusal."""
        if not self.starter.allowed:
            raise Refusal("start the dashboard with --allow-start for that", 403)
        try:
            async with asyncio.timeout(self.BODY_S):
                asked = json.loads(await request.read())
        except (ValueError, RecursionError, TimeoutError):
            asked = None
        if not isinstance(asked, dict) or not all(
            isinstance(value, str | int | float) for value in asked.values()
        ):
            raise Refusal("wants a JSON object of plain values")
        return asked

    @route("POST", "/api/command", kind="data")
    async def api_command(self, request: web.Request) -> web.StreamResponse:
        """Check what a run is asked for, and return its command line; starts nothing."""
        command = await asyncio.to_thread(self.starter.command, await self._asked(request))
        return web.json_response({"command": shown_command(command)})

    @route("POST", "/api/start", kind="data")
    async def api_start(self, request: web.Request) -> web.StreamResponse:
        """Start a run."""
        command = self.starter.command(await self._asked(request))
        name = st.check_name(command[2])
        self.starter.start(name, command)
        page = f"/?run={urllib.parse.quote(name)}"
        return web.json_response({"name": name, "command": shown_command(command), "page": page})

    @route("POST", "/api/resume", kind="data")
    async def api_resume(self, request: web.Request) -> web.StreamResponse:
        """Go on with a run that was stopped or has crashed."""
        name = str((await self._asked(request)).get("name", ""))
        await self.hub.look()
        view = self.hub.views.get(name)
        if view is None:
            raise web.HTTPNotFound
        command = self.starter.resume_command(name, view)
        self.starter.start(name, command)
        page = f"/?run={urllib.parse.quote(name)}"
        return web.json_response({"name": name, "command": shown_command(command), "page": page})

    @route("POST", "/api/stop", kind="data")
    async def api_stop(self, request: web.Request) -> web.StreamResponse:
        """Let a run stop in order."""
        name = str((await self._asked(request)).get("name", ""))
        await self.hub.look()
        view = self.hub.views.get(name)
        if view is None and not self.starter.knows(name):
            raise web.HTTPNotFound
        self.starter.stop(name)
        return web.json_response({"name": name, "stopping": True})

    # Access

    @route("GET", "/login", open=True)
    async def login_page(self, request: web.Request) -> web.StreamResponse:
        """Show the form for the token."""
        if self.settings.token is None or self.guard.knows(request):
            raise web.HTTPFound("/")
        return self._page(request, "login", env=self.settings.token_env, wrong=False)

    @route("POST", "/login", open=True)
    async def login(self, request: web.Request) -> web.StreamResponse:
        """Take the token, once: from then on the cookie stands for it."""
        try:
            async with asyncio.timeout(self.BODY_S):
                given = str((await request.post()).get("token", ""))
        except (ValueError, LookupError, TimeoutError):  # no form, or in no known encoding
            given = ""
        if not self.guard.is_token(given):
            await asyncio.sleep(1.0)  # so that guessing takes for ever
            response = self._page(request, "login", env=self.settings.token_env, wrong=True)
            response.set_status(403)
            return response
        answer = web.Response(status=303, headers={"Location": "/"})
        self.guard.remember(request, answer)
        return answer

    @route("GET", "/metrics", kind="data")
    async def metrics(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        """Return the runs in progress, for Prometheus."""
        await self.hub.look()
        body = open_metrics(list(self.hub.views.values()))
        response = web.Response(body=body)
        response.headers["Content-Type"] = (
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        return response


XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def _download(content: bytes, name: str, kind: str) -> web.Response:
    response = web.Response(body=content, content_type=kind)
    response.headers["Content-Disposition"] = _attachment(name)
    return response


def _attachment(name: str) -> str:
    return f"attachment; filename*=UTF-8''{urllib.parse.quote(name, safe='')}"


def as_data(value: Any) -> Any:
    """Return JSON that ends no element of the page it stands in."""
    data = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return pages.ours(data)


def switched(request: web.Request, language: str) -> str:
    """Return the address of this very page in another language; it leads to no other site."""
    query = [pair for pair in request.query.items() if pair[0] != "lang"]
    path = f"/{request.rel_url.raw_path.lstrip('/')}"
    return f"{path}?{urllib.parse.urlencode([*query, ('lang', language)])}"


def preferred_language(accepted: str) -> str:
    """Return the first of our languages that a browser asks for; English when it asks for none."""
    wanted = list[tuple[float, str]]()
    for part in accepted.split(",")[:20]:
        name, _, weight = part.strip().partition(";q=")
        with contextlib.suppress(ValueError):
            wanted.append((-float(weight or 1), name.partition("-")[0].lower()))
    ranked = [name for _, name in sorted(wanted, key=lambda pair: pair[0])]
    return next((name for name in ranked if name in LANGUAGES), "en")


# === Metrics ===


def open_metrics(views: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the runs with a journal as OpenMetrics; what is not known is left out, never 0."""
    from prometheus_client import Metric  # noqa: PLC0415
    from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415

    families: dict[str, Metric] = {}

    def add(
        name: str,
        kind: str,
        text: str,
        value: float | None,
        labels: Mapping[str, str],
        end: str = "",
    ) -> None:
        if value is None:
            return
        family = families.setdefault(name, Metric(name, text, kind))
        family.add_sample(name + end, dict(labels), float(value))

    for view in views:
        server = st.printable(view["server"] or "", 200)
        labels = {
            "run": view["name"],  # as it is: two runs with the same labels would spoil all
            "gen_ai_request_model": st.printable(view["model"] or "", 200),
            "server_address": server,
        }
        now = view["now"] or {}
        for state in (*pages.BUSY, "stopped", "crashed", "damaged", "finished"):
            text = "1 for the state that the run is in"
            is_it = float(view["state"] == state)
            add("llm_stresstest_run_state", "gauge", text, is_it, {**labels, "state": state})
        for status in ("ok", "failed"):
            text = "Requests that have ended"
            more = {**labels, "status": status}
            add("llm_stresstest_requests", "counter", text, view[status], more, "_total")
        gauges = {
            "llm_stresstest_requests_in_flight": ("Requests in flight", view["in_flight"]),
            "llm_stresstest_requests_waiting": ("Waiting for the first byte", view["waiting"]),
            "llm_stresstest_requests_queued": ("Due, but held by the cap", view["queued"]),
            "llm_stresstest_progress_ratio": ("Share that is done", view["share"]),
            "llm_stresstest_quiet_seconds": ("Since the last answer", view["quiet_s"]),
            "llm_stresstest_requests_per_second": ("Of the last 10 s", now.get("requests_per_s")),
            "llm_stresstest_output_tokens_per_second": (
                "Of the last 10 s",
                now.get("tokens_per_s"),
            ),
        }
        for name, (text, value) in gauges.items():
            add(name, "gauge", text, value, labels)
        names = {
            "ttft_ms": "gen_ai_server_time_to_first_token",
            "tpot_ms": "gen_ai_server_time_per_output_token",
            "e2e_ms": "gen_ai_client_operation_duration",
        }
        for row in view["known"]:
            metric, _, percentile = row["metric"].partition(".p")
            text = "Of the running stage so far, in seconds"
            value = None if row["value"] is None else row["value"] / 1000
            more = {**labels, "quantile": f"{int(percentile) / 100:g}"}
            add(f"{names[metric]}_seconds", "summary", text, value, more)
        for source, watts in (view["energy"] or {}).items():
            text = "Watts now"
            more = {**labels, "source": st.printable(source, 40)}
            add("llm_stresstest_power_watts", "gauge", text, watts, more)

    class Families:
        def collect(self) -> Iterable[Metric]:
            return families.values()

    return bytes(generate_latest(Families()))  # type: ignore[no-untyped-call]
