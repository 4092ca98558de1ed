"""The sampler's process around a load: a plug with a known curve, and everything that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import llm_stresstest as st
from extensions import hardware, sampler
from tests.extensions.stand_ins import DATA, serving

Row = dict[str, Any]


class Watched:
    """A watch with its rows, and when its load was."""

    def __init__(self, watch: hardware.Watch, rows: list[Row], start_ns: int) -> None:
        self.watch, self.rows, self._start_ns = watch, rows, start_ns
        self.begun_ms = self.ended_ms = self.now_ms

    @property
    def now_ms(self) -> float:
        return (time.perf_counter_ns() - self._start_ns) / 1e6

    async def until_rows(self, count: int, name: str | None = None) -> None:
        """Wait until so many rows (with this column) have come."""
        async with asyncio.timeout(30):
            while sum(name is None or name in row["values"] for row in self.rows) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @property
    def facts(self) -> dict[str, Any]:
        return self.watch.facts({"stages": [], "window_ms": None})

    @property
    def samples(self) -> dict[str, Any]:
        assert self.watch.samples is not None
        return self.watch.samples

    def energy(self) -> dict[str, Any]:
        quality = {"graded": 10, "correct": 5}
        window = [self.begun_ms, self.ended_ms]
        part = {"window_ms": window, "token_sum": 100, "ok": 10, "quality": quality}
        found = self.watch.energy([part])
        assert found is not None
        whole = found["whole"]
        assert isinstance(whole, dict)
        return whole


@contextlib.asynccontextmanager
async def opened(config: st.Config) -> AsyncIterator[Watched]:
    """Watch as a run does: before the load, in it, and after it."""
    rows: list[Row] = []
    watch = hardware.Watch(config)
    try:
        await watch.prepare(st.resolve_target(config, os.environ), wait=False, say=print)
        await watch.start()
        start_ns = time.perf_counter_ns()
        watch.begin(start_ns, rows.append)
        watched = Watched(watch, rows, start_ns)
        yield watched
        watched.ended_ms = watched.now_ms
    finally:
        await watch.stop()
    watch.finish(rows)


def config_of(url: str, key: str | None = None, **settings: Any) -> st.Config:
    hardware_keys = {"sample_s": 0.1, "idle_s": 0, **settings}
    return st.Config.model_validate(
        {"server": f"{url}/v1", "model": "m", "api_key_env": key, "hardware": hardware_keys}
    )


@contextlib.asynccontextmanager
async def watching(url: str = "http://127.0.0.1:9", **settings: Any) -> AsyncIterator[Watched]:
    async with opened(config_of(url, **settings)) as watched:
        yield watched


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a variable that holds a key."""
    monkeypatch.setenv("HW_TEST_KEY", "sk-canary-2718281828")
    return "HW_TEST_KEY"


def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(st, "notice", said.append)
    return said


class CurvePlug:
    """A plug in HTTP whose power follows a curve of the time, and which can stop answering."""

    def __init__(self) -> None:
        self.begun_s: float | None = None  # of the load
        self.silent = False
        self.answers = 0

    def watts(self, at_s: float) -> float:
        since = -1.0 if self.begun_s is None else at_s - self.begun_s
        return 40.0 if since < 0 else 150 + 50 * math.sin(since * 2) + 10 * since

    def joules(self, seconds: float) -> float:
        """Return the integral over so long from the load's begin on."""
        return 150 * seconds + 25 * (1 - math.cos(2 * seconds)) + 5 * seconds**2

    def __call__(self, handler: Any) -> None:
        self.answers += 1
        if self.silent:
            time.sleep(1)
            return
        now = {"meters": [{"power": self.watts(time.perf_counter())}]}
        handler.send(200, json.dumps(now).encode())


async def test_a_plugs_curve_comes_out_as_its_integral() -> None:
    plug = CurvePlug()
    with serving({"/status": plug}) as server:
        async with watching(
            power_url=server.url + "/status",
            power_path="meters.0.power",
            idle_s=1,
            price_per_kwh=0.5,
        ) as watched:
            plug.begun_s = time.perf_counter()
            watched.begun_ms = watched.now_ms
            await asyncio.sleep(4)
    wall = watched.energy()["wall"]
    seconds = (watched.ended_ms - watched.begun_ms) / 1000
    exact_wh = plug.joules(seconds) / 3600
    assert wall["wh"] == pytest.approx(exact_wh, rel=0.03)
    assert wall["idle_w"] == pytest.approx(40, rel=0.01)
    assert wall["wh_net"] == pytest.approx(exact_wh - 40 * seconds / 3600, rel=0.04)
    assert wall["price_per_1000_answers"] == pytest.approx(wall["wh"] / 1000 * 0.5 * 100)
    assert wall["coverage"] > 0.95


async def test_a_plug_that_stops_in_the_middle_gives_null_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = notices(monkeypatch)
    plug = CurvePlug()
    with serving({"/": plug}) as server:
        async with watching(power_url=server.url, power_path="meters.0.power") as watched:
            plug.begun_s = time.perf_counter()
            watched.begun_ms = watched.now_ms
            await watched.until_rows(5, "wall_w")
            plug.silent = True
            await asyncio.sleep(2.5)
    wall = watched.energy()["wall"]
    assert wall["wh"] is None
    assert wall["price_per_1000_answers"] is None
    assert wall["reason"].startswith("samples cover ")
    assert wall["reason"].endswith("no HTTP: RemoteDisconnected")
    assert len(said) == 1
    assert said[0] == "hardware.power_url: no HTTP: RemoteDisconnected"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"power_url": "http://127.0.0.1:9/"}, "hardware.power_url: Connection refused"),
        ({"power_url": "http://no-such-host.invalid/"}, "hardware.power_url: "),
        ({"metrics_url": "http://127.0.0.1:9/"}, "hardware.metrics_url: Connection refused"),
        ({"power_command": "false"}, "hardware.power_command: exit code 1"),
        ({"power_command": "no-such-command"}, "hardware.power_command: No such file"),
        ({"power_command": "echo much"}, "hardware.power_command: no watts: 'much'"),
    ],
)
async def test_what_fails_is_one_warning_and_nulls(
    settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = notices(monkeypatch)
    async with watching(**settings) as watched:
        await watched.until_rows(6)
    (warning,) = warnings
    assert warning.startswith(said)
    wall = watched.energy()["wall"]
    assert wall["wh"] is None
    assert "wall_w" not in watched.samples["columns"]
    if "metrics_url" not in settings:
        assert wall["reason"] == warning.partition(": ")[2]


async def test_a_page_of_50_megabytes_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = notices(monkeypatch)
    page = b"some_series 1\n" * (50 * (1 << 20) // 14)
    with serving({"/metrics": page}) as server:
        async with watching(metrics_url=server.url + "/metrics") as watched:
            async with asyncio.timeout(30):
                while not warnings:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            (row,) = watched.rows[-1:]
            assert row["values"]["memory_used_bytes"] > 0
    assert warnings == ["hardware.metrics_url: longer than 8 MiB"]


async def test_a_killed_sampler_is_one_warning_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warnings = notices(monkeypatch)
    async with watching(power_command="echo 5") as watched:
        watched.begun_ms = watched.now_ms
        await watched.until_rows(3, "wall_w")
        process = watched.watch._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        await asyncio.sleep(1.5)
    assert len(warnings) == 1
    assert warnings[0].startswith("the sampler's process: it ended during the run")
    wall = watched.energy()["wall"]
    assert wall["wh"] is None
    assert "it ended during the run" in wall["reason"]


async def test_a_sampler_that_cannot_start_leaves_a_line_and_no_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "sampler.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(hardware, "__file__", str(tmp_path / "hardware.py"))
    begun = time.monotonic()
    async with watching() as watched:
        pass
    assert time.monotonic() - begun < 10
    assert watched.facts["unavailable"].startswith("the sampler's process: ")
    assert watched.rows == []


async def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    async with watching() as watched:
        pass
    said = "hardware needs psutil: uv sync --inexact --group hardware"
    assert watched.facts["unavailable"] == said


async def test_the_servers_page_is_read_with_its_key_only_at_its_own_address(key: str) -> None:
    page = (DATA / "metrics_llamacpp.txt").read_bytes()
    with serving({"/metrics": page}) as own, serving({"/metrics": page}) as other:
        for server, with_key in ((own, True), (other, False)):
            config = config_of(own.url, key, metrics_url=f"{server.url}/metrics")
            async with opened(config) as watched:
                await watched.until_rows(3, "running")
                assert watched.watch._process is not None
                shown = " ".join(psutil.Process(watched.watch._process.pid).cmdline())
                assert "canary" not in shown, "a key is on no command line"
            asked = [head for path, head, _ in server.asked if path == "/metrics"]
            assert asked
            assert all(("authorization" in head) is with_key for head in asked)
            assert watched.rows[-1]["values"]["waiting"] == 46


async def test_an_echoed_key_is_not_in_the_samples(key: str) -> None:
    with serving({"/metrics": b'odd{key="sk-canary-2718281828"} 1\n'}) as server:
        async with opened(
            config_of(server.url, key, metrics_url=f"{server.url}/metrics")
        ) as watched:
            await watched.until_rows(2, f'odd{{key="{st.REDACTED}"}}')
    assert "canary" not in json.dumps(watched.samples)


async def test_a_plugs_token_comes_from_the_environment(key: str) -> None:
    with serving({"/api/states/sensor.plug": {"state": "61.5"}}) as server:
        url = server.url.replace("http://", f"http://Bearer:${{{key}}}@")
        settings = {"power_url": f"{url}/api/states/sensor.plug", "power_path": "state"}
        async with watching(**settings) as watched:
            await watched.until_rows(2, "wall_w")
        sent = {head.get("authorization") for _, head, _ in server.asked}
    assert sent == {"Bearer sk-canary-2718281828"}
    assert "canary" not in json.dumps([watched.samples, watched.facts])


async def test_a_gpu_and_what_holds_it_back_come_through_the_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's library is stood in for by a module of its name."""
    (tmp_path / "pynvml.py").write_text(
        "from tests.extensions.stand_ins import FakeNvml\n"
        "_nvml = FakeNvml(reasons=0x40)\n"
        "def __getattr__(name):\n"
        "    return getattr(_nvml, name)\n"
    )
    root = Path(hardware.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    with serving({}) as server:
        async with watching(server.url) as watched:
            watched.begun_ms = watched.now_ms
            await watched.until_rows(len(watched.rows) + 12, "gpu_w")
    assert [gpu["name"] for gpu in watched.facts["gpus"]] == [
        "Tesla K80",
        "NVIDIA GeForce RTX 4090",
    ]
    assert watched.energy()["gpu"]["mean_w"] == pytest.approx(380.5)
    window = [watched.begun_ms, watched.ended_ms]
    load = watched.watch.facts({"stages": [], "window_ms": window})["load"]
    assert load["host"] == "client and server"
    assert load["vram_headroom_bytes"] == [4 << 30, 4 << 30]
    report = st.LoadReport(st.LoadStart())
    report.hardware = {"load": load}
    run = st.Evidence(config_of(server.url), {}, report)
    reason = hardware.throttled(run)
    assert reason is not None
    assert "GPU0 held back (hw thermal slowdown) for 100%" in reason.message


async def test_rows_stand_on_the_clock_of_the_run() -> None:
    async with watching() as watched:
        begun_ms = watched.now_ms
        await watched.until_rows(len(watched.rows) + 8)
        ended_ms = watched.now_ms
    times = [row["t_ms"] for row in watched.rows]
    assert times == sorted(times)
    inside = [at_ms for at_ms in times if begun_ms - 100 < at_ms < ended_ms]
    assert len(inside) >= 7
    beats = [b - a for a, b in itertools.pairwise(inside)]
    assert sorted(beats)[len(beats) // 2] == pytest.approx(100, rel=0.3)


def test_another_clock_is_brought_onto_ours() -> None:
    assert hardware.clock_offset_ns(100, 150, 200) == 0
    assert hardware.clock_offset_ns(100, 5000, 200) == -4850
    assert 5000 + hardware.clock_offset_ns(100, 5000, 200) == 150


async def test_the_sampler_ends_when_the_test_is_killed() -> None:
    script = (
        "import asyncio, os, signal; import llm_stresstest as st; from extensions import hardware\n"
        "async def main():\n"
        "    config = st.Config(server='http://127.0.0.1:9/v1', model='m')\n"
        "    target = st.resolve_target(config, {})\n"
        "    watch = hardware.Watch(config)\n"
        "    await watch.prepare(target, wait=False, say=print)\n"
        "    print(watch._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(hardware.__file__).parent.parent,
    )
    out, _ = await process.communicate()
    child = int(out)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
                break
        await asyncio.sleep(0.05)
    else:
        assert not psutil.pid_exists(child)


async def test_switched_off_only_the_inventory_is_left() -> None:
    async with watching(sample_s=0, power_command="echo 5") as watched:
        assert watched.watch._process is None
    assert watched.rows == []
    assert watched.facts["cores_usable"] > 0
    assert watched.watch.samples is None


async def test_a_slow_source_is_never_waited_for_and_its_answer_comes_a_beat_later() -> None:
    class Slow:
        name = "slow"

        def read(self, now_ns: int) -> dict[str, Any]:
            time.sleep(0.3)
            return {"slow": 1}

    slow = sampler.Background(Slow())
    slow.ask(0)
    begun = time.monotonic()
    assert slow.answer(0.05) is None
    slow.ask(1)
    assert time.monotonic() - begun < 0.25
    assert slow.answer(5) == {"slow": 1}
    assert slow.answer(0) is None


@pytest.mark.parametrize(
    ("link", "base", "same"),
    [
        ("http://h:8000/metrics", "http://h:8000/v1", True),
        ("http://h/metrics", "http://h:80/v1", True),
        ("https://h/metrics", "https://h:443/v1", True),
        ("http://h:8001/metrics", "http://h:8000/v1", False),
        ("http://other:8000/metrics", "http://h:8000/v1", False),
        ("https://h:8000/metrics", "http://h:8000/v1", False),
        (None, "http://h:8000/v1", False),
    ],
)
def test_the_same_origin_is_scheme_host_and_port(link: str, base: str, same: bool) -> None:
    assert hardware.same_origin(link, base) is same
