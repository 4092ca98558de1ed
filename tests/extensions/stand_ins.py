"""Servers, tools and libraries that stand in for those that a test machine does not have."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "data" / "hardware"

# What a path is answered with: JSON data, bytes, or a function that writes the answer itself.
Answer = Any


class StandIn(http.server.ThreadingHTTPServer):
    """A server that answers paths, and remembers what was asked with which head."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # five connections at once are fewer than a fingerprint makes

    def __init__(self, answers: Mapping[str, Answer], server_header: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = dict(answers)
        self.server_header = server_header
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._answer(self.path)

    def do_POST(self) -> None:
        self._answer(f"POST {self.path}")

    def _answer(self, path: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = self.server.answers.get(path)
        if callable(answer):
            with contextlib.suppress(OSError):
                answer(self)
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send(404 if answer is None else 200, data)

    def send(self, status: int, data: bytes, **head: str) -> None:
        self.send_response_only(status)
        if self.server.server_header is not None:
            self.send_header("Server", self.server.server_header)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def serving(answers: Mapping[str, Answer], server_header: str | None = None) -> Iterator[StandIn]:
    """Serve the answers on a free port of the loopback interface while the block runs."""
    server = StandIn(answers, server_header)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tool(folder: Path, name: str, script: str) -> Path:
    """Write a command that can be found in the folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class NVMLError(Exception):
    """What the library raises."""


class LibraryNotFoundError(NVMLError):
    """Raised where there is no NVIDIA driver."""


class FakeNvml:
    """NVIDIA's library with two GPUs, of which one supports little."""

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = LibraryNotFoundError

    def __init__(self, *, reasons: int = 0, start_error: Exception | None = None) -> None:
        self.reasons = reasons
        self.start_error = start_error
        self.energy_mj = 1_000_000
        self.processes: list[SimpleNamespace] = []

    def nvmlInit(self) -> None:  # noqa: N802  the library's name
        if self.start_error is not None:
            raise self.start_error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda place: place,
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlDeviceGetName": lambda gpu: b"NVIDIA GeForce RTX 4090" if gpu else "Tesla K80",
            "nvmlDeviceGetEnforcedPowerLimit": self._only_newer(lambda: 450_000),
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=24 << 30, used=20 << 30),
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetPowerUsage": lambda gpu: 320_500 if gpu else 60_000,
            "nvmlDeviceGetTotalEnergyConsumption": self._only_newer(lambda: self.energy_mj),
            "nvmlDeviceGetTemperature": lambda *_: 71,
            "nvmlDeviceGetClockInfo": lambda _, kind: {1: 2520, 2: 10501}[kind],
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: self.reasons,
            "nvmlDeviceGetProcessUtilization": lambda *_: self.processes,
        }
        if name not in answers:  # the newer name of the throttle reasons too
            raise AttributeError(name)
        return answers[name]

    @staticmethod
    def _only_newer(value: Callable[[], int]) -> Callable[..., int]:
        def ask(gpu: int) -> int:
            if gpu == 0:
                raise NVMLError("Not Supported")
            return value()

        return ask
