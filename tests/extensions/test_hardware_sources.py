"""What the sampler reads: this machine against /proc, others by stand-ins for tools and libraries."""

from __future__ import annotations

import json
import os
import plistlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from extensions import sampler
from tests.extensions.stand_ins import (
    DATA,
    FakeNvml,
    LibraryNotFoundError,
    NVMLError,
    serving,
    tool,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")
S = sampler.NS_PER_S


# --- The machine ---


@LINUX
def test_the_inventory_says_what_proc_and_lscpu_say() -> None:
    found = sampler.inventory(psutil, [])
    said = subprocess.run(["lscpu", "-J"], capture_output=True, check=True, env={"LC_ALL": "C"})
    lscpu = {}

    def gather(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            lscpu[entry["field"].rstrip(":")] = entry["data"]
            gather(entry.get("children", []))

    gather(json.loads(said.stdout)["lscpu"])
    assert found["cpu"] == lscpu["Model name"]
    assert found["cores_logical"] == int(lscpu["CPU(s)"])
    assert found["cores_physical"] == int(lscpu["Core(s) per socket"]) * int(lscpu["Socket(s)"])
    memory = Path("/proc/meminfo").read_text().split()
    assert found["memory_bytes"] == int(memory[1]) * 1024
    assert found["kernel"] == "Linux " + Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    allowed = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if "Cpus_allowed:" in line
    )
    mask = int(allowed.split()[1].replace(",", ""), 16)
    assert found["cores_usable"] <= mask.bit_count()


@LINUX
def test_usable_cores_follow_the_affinity() -> None:
    script = (
        "import os, psutil, json; from extensions import sampler;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "print(json.dumps(sampler.usable_cores(psutil, None)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == 1.0


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        (
            "0::/app/run",
            {"app/cpu.max": "150000 100000", "app/run/cpu.max": "max 100000"},
            1.5,
            None,
        ),
        ("0::/", {"memory.max": "1073741824", "cpu.max": "50000 100000"}, 0.5, 1 << 30),
        ("0::/a", {"a/memory.max": "max", "a/cpu.max": "max 100000"}, None, None),
        (
            "2:cpu,cpuacct:/box\n3:memory:/box",
            {
                "cpu/box/cpu.cfs_quota_us": "200000",
                "cpu/box/cpu.cfs_period_us": "100000",
                "memory/box/memory.limit_in_bytes": "2147483648",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            2.0,
            2 << 30,
        ),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ("nonsense", {}, None, None),
    ],
)
def test_the_limits_of_control_groups_are_found(
    tmp_path: Path, own: str, files: dict[str, str], cores: float | None, memory: int | None
) -> None:
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    (tmp_path / "self").write_text(own + "\n")
    limits = sampler.cgroup_limits(str(tmp_path / "cgroup"), str(tmp_path / "self"))
    assert limits == {"cores": cores, "memory_bytes": memory}


@LINUX
def test_samples_of_processes_agree_with_proc() -> None:
    """The same processes over the same time, by /proc itself: within 5 %."""
    work = "import time, sys\nx = bytearray(60 << 20)\nprint(1, flush=True)\nwhile True: sum(range(999))"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", work], stdout=pipe) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            machine = sampler.Machine(psutil)
            processes = sampler.Processes(psutil, machine, os.getpid(), busy.pid, known=True)

            def read(at_ns: int) -> dict[str, Any]:
                return {**machine.read(at_ns), **processes.read(at_ns)}

            def proc_s() -> float:
                fields = Path(f"/proc/{busy.pid}/stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

            read(time.perf_counter_ns())
            before_s, begun = proc_s(), time.perf_counter()
            while proc_s() < before_s + 1 and time.perf_counter() < begun + 15:
                time.sleep(0.05)
            row = read(time.perf_counter_ns())
            used_s, elapsed_s = proc_s() - before_s, time.perf_counter() - begun
            pages = int(Path(f"/proc/{busy.pid}/statm").read_text().split()[1])
        finally:
            busy.kill()
    assert row["server_cpu_percent"] == pytest.approx(100 * used_s / elapsed_s, rel=0.05)
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    assert row["server_memory_bytes"] == pytest.approx(resident, rel=0.05)
    assert resident > 60 << 20


@LINUX
def test_a_process_that_is_neither_ours_nor_the_servers_is_named() -> None:
    machine = sampler.Machine(psutil)
    processes = sampler.Processes(psutil, machine, psutil.Process().pid, None, known=True)
    machine.read(0)
    processes.read(0)
    script = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
    # The double fork takes it out of this process's tree.
    outer = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {script!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print(p.pid)"
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, check=True)
    stranger = psutil.Process(int(done.stdout))
    try:
        deadline = time.monotonic() + 10
        while sum(stranger.cpu_times()[:2]) < 0.4 and time.monotonic() < deadline:
            time.sleep(0.05)
        named = {other["pid"]: other["cpu_s"] for other in processes.busiest()}
        assert named.get(stranger.pid, 0.0) >= 0.3
    finally:
        stranger.kill()


def test_others_are_unknown_while_a_local_server_does_not_show() -> None:
    machine = sampler.Machine(psutil)
    processes = sampler.Processes(psutil, machine, os.getpid(), None, known=False)
    for at_ns in (0, S):
        machine.read(at_ns)
        row = processes.read(at_ns)
    assert "others_cpu_percent" not in row
    assert "server_cpu_percent" not in row


def test_a_rate_knows_nothing_at_first_and_after_a_fall() -> None:
    rate = sampler.Rate()
    assert rate(0, 10.0) is None
    assert rate(2 * S, 14.0) == 2.0
    assert rate(2 * S + S // 100, 15.0) is None, "too soon for a counter's own steps"
    assert rate(4 * S, 18.0) == 2.0
    assert rate(5 * S, 1.0) is None
    assert rate(6 * S, 4.0) == 3.0


def test_the_listener_on_a_port_is_found_and_a_proxy_is_not_taken_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        pid, name = sampler.listener(psutil, port)
        assert pid == os.getpid()
        assert name == psutil.Process().name()
        heard = SimpleNamespace(status="LISTEN", laddr=SimpleNamespace(port=port), pid=7)
        seen = SimpleNamespace(
            CONN_LISTEN="LISTEN",
            Error=psutil.Error,
            net_connections=lambda _: [heard],
            Process=lambda pid: SimpleNamespace(name=lambda: "docker-proxy"),
        )
        assert sampler.listener(seen, port) == (None, "docker-proxy")
    assert sampler.listener(psutil, port) == (None, None)


def test_a_system_that_shows_only_ones_own_connections_is_asked_for_those() -> None:
    def refuse(_kind: str) -> None:
        raise psutil.AccessDenied

    mine = SimpleNamespace(
        pid=7,
        net_connections=lambda _: [
            SimpleNamespace(status="LISTEN", laddr=SimpleNamespace(port=8000))
        ],
    )
    seen = SimpleNamespace(
        CONN_LISTEN="LISTEN",
        Error=psutil.Error,
        net_connections=refuse,
        process_iter=lambda _: [SimpleNamespace(pid=6, net_connections=refuse), mine],
        Process=lambda pid: SimpleNamespace(name=lambda: "llama-server"),
    )
    assert sampler.listener(seen, 8000) == (7, "llama-server")


# --- Counters and sensors of the kernel ---


def rapl(root: Path, *zones: tuple[str, float]) -> list[Path]:
    counters = []
    for number, (name, energy_uj) in enumerate(zones):
        zone = root / f"intel-rapl:{number}"
        zone.mkdir()
        (zone / "name").write_text(name + "\n")
        (zone / "max_energy_range_uj").write_text("1000000000\n")
        (zone / "energy_uj").write_text(f"{energy_uj:.0f}\n")
        counters.append(zone / "energy_uj")
    return counters


def test_rapl_counts_the_packages_and_goes_on_over_the_counters_end(tmp_path: Path) -> None:
    one, two, _ = rapl(tmp_path, ("package-0", 999_000_000), ("package-1", 0), ("psys", 5))
    source = sampler.Rapl(str(tmp_path))
    assert source.read(0) == {"cpu_package_j": 0.0, "cpu_package_w": None}
    one.write_text("9000000\n")  # it counted 10 J, over its end
    two.write_text("20000000\n")
    assert source.read(2 * S) == {"cpu_package_j": 30.0, "cpu_package_w": 15.0}


def test_rapl_that_only_root_may_read_says_the_line_that_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (counter,) = rapl(tmp_path, ("package-0", 1))

    def refuse(path: Path, *_: Any) -> str:
        if path == counter:
            raise PermissionError(13, "Permission denied")
        return "package-0"

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(sampler.UnavailableError, match=f"sudo chmod a\\+r {counter}$"):
        sampler.Rapl(str(tmp_path))


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    with pytest.raises(sampler.UnavailableError, match="no energy counter"):
        sampler.Rapl(str(tmp_path / "nothing"))


def test_the_cpus_clock_temperature_and_throttling_are_read(tmp_path: Path) -> None:
    for core, khz in enumerate((4_000_000, 3_000_000)):
        policy = tmp_path / f"cpufreq/policy{core}"
        policy.mkdir(parents=True)
        (policy / "scaling_cur_freq").write_text(str(khz))
    throttle = tmp_path / "cpu0/thermal_throttle"
    throttle.mkdir(parents=True)
    (throttle / "package_throttle_count").write_text("7")
    chips = {
        "nvme": [SimpleNamespace(current=90.0)],
        "coretemp": [SimpleNamespace(current=61.0), SimpleNamespace(current=64.0)],
    }
    source = sampler.CpuHeat(SimpleNamespace(sensors_temperatures=lambda: chips), str(tmp_path))
    assert source.read(0) == {"cpu_mhz": 3500.0, "cpu_temp_c": 64.0, "cpu_throttle": []}
    (throttle / "package_throttle_count").write_text("9")
    assert source.read(S)["cpu_throttle"] == ["thermal"]
    assert source.read(2 * S)["cpu_throttle"] == []


def test_a_battery_says_its_watts_only_while_it_gives_them(tmp_path: Path) -> None:
    folder = tmp_path / "BAT0"
    folder.mkdir()
    (folder / "voltage_now").write_text("12000000")
    (folder / "current_now").write_text("1500000")
    battery = SimpleNamespace(percent=80, power_plugged=False)
    source = sampler.Battery(SimpleNamespace(sensors_battery=lambda: battery), str(tmp_path))
    assert source.read(0) == {"battery_percent": 80, "on_battery": True, "battery_w": 18.0}
    battery.power_plugged = True
    assert source.read(0) == {"battery_percent": 80, "on_battery": False, "battery_w": None}
    with pytest.raises(sampler.UnavailableError, match="no battery"):
        sampler.Battery(SimpleNamespace(sensors_battery=lambda: None))


# --- GPUs ---


def test_nvml_is_read_and_what_a_gpu_does_not_support_is_null() -> None:
    source = sampler.Nvidia(FakeNvml(reasons=0x1 | 0x4 | 0x40))
    old, new = source.inventory()
    assert old["name"] == "Tesla K80"
    assert old["power_limit_w"] is None
    assert new == {
        "vendor": "NVIDIA",
        "name": "NVIDIA GeForce RTX 4090",
        "memory_bytes": 24 << 30,
        "driver": "580.95.05",
        "power_limit_w": 450.0,
    }
    row = source.read(0)
    assert row["gpu_w"] == 380.5
    assert "gpu_j" not in row, "one of the two does not count joules"
    assert row["gpu0_j"] is None
    assert row["gpu1_j"] == 1000.0
    assert row["gpu1_throttle"] == ["sw_power_cap", "hw_thermal_slowdown"]
    assert (row["gpu1_util_percent"], row["gpu1_temp_c"], row["gpu1_mhz"]) == (97, 71, 2520)
    assert row["gpu1_memory_bytes"] == 20 << 30


def test_others_on_the_gpu_are_counted_only_when_the_servers_own_part_shows() -> None:
    nvml = FakeNvml()
    source = sampler.Nvidia(nvml, lambda: {100})
    nvml.processes = [
        SimpleNamespace(pid=100, smUtil=60, timeStamp=5),
        SimpleNamespace(pid=200, smUtil=30, timeStamp=5),
        SimpleNamespace(pid=200, smUtil=10, timeStamp=9),
    ]
    assert source.read(0)["gpu_others_percent"] == 20.0
    nvml.processes = [SimpleNamespace(pid=200, smUtil=30, timeStamp=12)]
    assert source.read(0)["gpu_others_percent"] is None


def test_a_missing_driver_is_no_gpu_and_a_broken_one_is_a_reason() -> None:
    with pytest.raises(sampler.AbsentError):
        sampler.Nvidia(FakeNvml(start_error=LibraryNotFoundError()))
    with pytest.raises(sampler.UnavailableError, match="NVML: Driver Not Loaded") as raised:
        sampler.Nvidia(FakeNvml(start_error=NVMLError("Driver Not Loaded")))
    assert not isinstance(raised.value, sampler.AbsentError)


def amd_card(root: Path, number: int = 0) -> Path:
    card = root / f"card{number}/device"
    sensors = card / "hwmon/hwmon3"
    sensors.mkdir(parents=True)
    files = {
        "vendor": "0x1002", "device": "0x744c", "gpu_busy_percent": "88",
        "mem_info_vram_total": "25753026560", "mem_info_vram_used": "18253611008",
        "hwmon/hwmon3/power1_average": "285000000", "hwmon/hwmon3/power1_cap": "339000000",
        "hwmon/hwmon3/temp1_input": "67000", "hwmon/hwmon3/freq1_input": "2482000000",
    }  # fmt: skip
    for name, content in files.items():
        (card / name).write_text(content + "\n")
    return card


def test_amd_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    card = amd_card(tmp_path)
    intel = tmp_path / "card1/device"
    intel.mkdir(parents=True)
    (intel / "vendor").write_text("0x8086\n")
    (tmp_path / "card0-DP-1").mkdir()
    source = sampler.AmdSysfs(str(tmp_path))
    (gpu,) = source.inventory()
    assert gpu["name"] == "AMD GPU 0x744c"
    assert (gpu["memory_bytes"], gpu["power_limit_w"]) == (25753026560, 339.0)
    row = source.read(0)
    assert (row["gpu_w"], row["gpu0_temp_c"], row["gpu0_mhz"]) == (285.0, 67.0, 2482.0)
    assert (row["gpu0_util_percent"], row["gpu0_memory_bytes"]) == (88.0, 18253611008.0)
    (card / "hwmon/hwmon3/power1_average").unlink()
    (card / "hwmon/hwmon3/power1_input").write_text("99000000\n")
    assert source.read(0)["gpu_w"] == 99.0
    with pytest.raises(sampler.AbsentError):
        sampler.AmdSysfs(str(tmp_path / "nothing"))


AMD_METRIC = {
    "gpu": 0,
    "usage": {"gfx_activity": {"value": 73, "unit": "%"}},
    "power": {"socket_power": {"value": 142, "unit": "W"}, "throttle_status": "THROTTLED"},
    "clock": {"gfx_0": {"clk": {"value": 2450, "unit": "MHz"}}},
    "temperature": {"edge": "N/A", "hotspot": {"value": 61, "unit": "C"}},
    "mem_usage": {"used_vram": {"value": 2048, "unit": "MB"}},
}
AMD_STATIC = {
    "gpu": 0,
    "asic": {"market_name": "AMD Instinct MI300X"},
    "vram": {"size": {"value": 196592, "unit": "MB"}},
    "driver": {"name": "amdgpu", "version": "6.10.5"},
    "limit": {"max_power": {"value": 750, "unit": "W"}},
}


@pytest.mark.parametrize("wrap", [lambda gpu: [gpu], lambda gpu: {"gpu_data": [gpu]}])
def test_amd_smi_is_read_in_both_of_its_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Any
) -> None:
    static, metric = json.dumps(wrap(AMD_STATIC)), json.dumps(wrap(AMD_METRIC))
    script = f"[ $1 = static ] && echo '{static}' || echo 'WARNING: no group\n{metric}'"
    tool(tmp_path, "amd-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = sampler.AmdSmi()
    (gpu,) = source.inventory()
    assert gpu["name"] == "AMD Instinct MI300X"
    assert (gpu["driver"], gpu["power_limit_w"]) == ("6.10.5", 750.0)
    assert gpu["memory_bytes"] == 196592 << 20
    row = source.read(0)
    assert (row["gpu_w"], row["gpu0_temp_c"], row["gpu0_mhz"]) == (142.0, 61.0, 2450.0)
    assert row["gpu0_throttle"] == ["throttled"]
    assert row["gpu0_memory_bytes"] == 2048 << 20


def test_an_amd_smi_that_fails_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sampler.AbsentError):
        sampler.AmdSmi()
    tool(tmp_path, "amd-smi", "echo nonsense")
    with pytest.raises(sampler.UnavailableError, match="shows no GPU"):
        sampler.AmdSmi()


POWERMETRICS = {
    "processor": {"cpu_power": 12_600.0, "gpu_power": 2_300.0, "combined_power": 15_300.0},
    "gpu": {"freq_hz": 1_296_000_000.0, "idle_ratio": 0.25},
    "thermal_pressure": "Nominal",
}


def test_powermetrics_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = {**POWERMETRICS, "thermal_pressure": "Heavy"}
    documents = [plistlib.dumps(POWERMETRICS), plistlib.dumps(hot)]
    (tmp_path / "out").write_bytes(b"\0".join(documents))
    for name in ("powermetrics", "sudo"):
        tool(tmp_path, name, f"cat {tmp_path}/out; sleep 20")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = sampler.PowerMetrics(0.5)
    try:
        deadline = time.monotonic() + 10
        while not source.read(0)["gpu0_throttle"] and time.monotonic() < deadline:
            time.sleep(0.01)
        row = source.read(0)
    finally:
        source.close()
    assert row["gpu0_throttle"] == ["thermal_pressure_heavy"]
    assert (row["gpu_w"], row["cpu_package_w"]) == (2.3, 12.6)
    assert (row["gpu0_util_percent"], row["gpu0_mhz"]) == (75.0, 1296.0)


def test_powermetrics_without_root_says_the_line_that_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("powermetrics", "sudo"):
        tool(tmp_path, name, "echo 'must be root' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(sampler.UnavailableError, match="NOPASSWD: /usr/bin/powermetrics"):
        sampler.PowerMetrics(0.5)


def test_a_property_list_that_is_none_gives_nothing() -> None:
    assert sampler.powermetrics_row(b"<plist>broken") == {}


# --- The plug ---


@pytest.mark.parametrize(
    ("answer", "path", "watts"),
    [
        ({"meters": [{"power": 23.4, "overpower": 0.0}]}, "meters.0.power", 23.4),  # Shelly, first
        ({"id": 0, "apower": 8.9, "voltage": 230.1}, "apower", 8.9),  # Shelly, second generation
        ({"StatusSNS": {"ENERGY": {"Power": 61}}}, "StatusSNS.ENERGY.Power", 61.0),  # Tasmota
        ({"entity_id": "sensor.plug", "state": "118.2"}, "state", 118.2),  # Home Assistant
        ({"a.b": {"c": 1.5}}, "a.b.c", None),
        ({"a.b": 1.5}, "a.b", 1.5),
        (42, None, 42.0),
    ],
)
def test_a_plugs_answer_is_found_by_its_path(answer: Any, path: str, watts: float | None) -> None:
    with serving({"/status": answer}) as server:
        plug = sampler.Plug(sampler.Link.of(server.url + "/status"), path, None)
        if watts is None:
            with pytest.raises(ValueError, match=r"has no a\.b\.c"):
                plug.read(0)
        else:
            assert plug.read(0) == {"wall_w": watts}


@pytest.mark.parametrize(
    "nonsense", ["unavailable", "", "nan", "-5", True, None, [1], {}, 1e9, "12 A", "1 m", "1e999"]
)
def test_a_plugs_nonsense_is_refused(nonsense: Any) -> None:
    with serving({"/": {"w": nonsense}}) as server:
        plug = sampler.Plug(sampler.Link.of(server.url), "w", None)
        with pytest.raises(ValueError, match=r"no watts|has no w"):
            plug.read(0)


@pytest.mark.parametrize(
    ("user", "header"),
    [("me:secret%21@", "Basic bWU6c2VjcmV0IQ=="), ("Bearer:ey.abc@", "Bearer ey.abc"), ("", None)],
)
def test_a_links_user_part_goes_as_a_header(user: str, header: str | None) -> None:
    with serving({"/p?x=1": 5}) as server:
        url = server.url.replace("http://", f"http://{user}") + "/p?x=1"
        assert sampler.Plug(sampler.Link.of(url), None, None).read(0) == {"wall_w": 5.0}
        (_, head, _) = server.asked[0]
    assert head.get("authorization") == header
    assert "secret" not in json.dumps(list(head))


def huge(handler: Any) -> None:
    handler.send_response_only(200)
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b"x 1\n" * (1 << 18))


def drip(handler: Any) -> None:
    handler.send_response_only(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"#")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (huge, "longer than 8 MiB"),
        (drip, "no whole answer within 0.6 s"),
        (lambda handler: time.sleep(2), "no whole answer within 0.6 s"),
        (lambda handler: handler.send(500, b""), "HTTP 500"),
        (lambda handler: handler.send(302, b"", Location="/x"), "HTTP 302"),
        (lambda handler: handler.wfile.write(b"\0garbage\r\n\r\n"), "no HTTP"),
        (None, "HTTP 404"),
    ],
)
def test_a_page_that_does_not_come_ends_soon_with_a_reason(
    behaviour: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if behaviour is not huge:
        monkeypatch.setattr(sampler, "ANSWER_S", 0.6)
    with serving({"/m": behaviour}) as server:
        begun = time.monotonic()
        with pytest.raises(ValueError, match=why):
            sampler.fetch(sampler.Link.of(server.url + "/m"), None)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("command", "watts"),
    [("echo 23.4", 23.4), ("echo '1.2 kW'", 1200.0), ("printf '  850 mW \\n'", 0.85)],
)
def test_a_command_that_prints_watts_is_read(command: str, watts: float) -> None:
    assert sampler.PowerCommand(command).read(0) == {"wall_w": pytest.approx(watts)}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("false", "exit code 1"),
        ("echo high", "no watts: 'high'"),
        ("yes", "prints more than a number"),
        ("sleep 30", "no answer within 0.6 s"),
        ("sh -c 'sleep 30 & echo 5'", "no answer within 0.6 s"),
        ("echo '5; echo 6'", "no watts"),
        ("echo $HOME", "no watts: '\\$HOME'"),
    ],
)
def test_a_command_that_fails_hangs_or_prints_nonsense_has_a_reason(
    command: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "ANSWER_S", 0.6)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=why):
        sampler.PowerCommand(command).read(0)
    assert time.monotonic() - begun < 5


def test_a_command_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        sampler.PowerCommand("no-such-command-anywhere").read(0)


# --- The server's page ---

PAGES = {
    "vllm": {
        "running": 22, "waiting": 3, "kv_cache_usage": 0.4371, "prefix_cache_hits": 2560,
        "prefix_cache_queries": 10_000, "preemptions": 5, "generation_tokens": 20_345,
        "prompt_tokens": 10_000,
    },
    "sglang": {
        "running": 162, "waiting": 2826, "kv_cache_usage": 0.28, "prefix_cache_hits": 61_000,
        "preemptions": 7, "generation_tokens": 7_557_572, "prompt_tokens": 8_128_902,
    },
    "tgi": {"running": 6, "waiting": 9, "generation_tokens": 8123, "prompt_tokens": 1520},
    "llamacpp": {
        "running": 4, "waiting": 46, "kv_cache_usage": 0.125, "generation_tokens": 39_080,
        "prompt_tokens": 1507,
    },
    "dcgm": {
        "dcgm_gpu_w": 350.75, "dcgm_gpu_j": 455_500.0, "dcgm_gpu_util_percent": 97,
        "dcgm_gpu_memory_bytes": (71234 + 4) << 20, "dcgm_gpu_temp_c": 61, "dcgm_gpu_mhz": 1410,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_servers_page_has_the_common_names(name: str) -> None:
    row = sampler.page_row((DATA / f"metrics_{name}.txt").read_text())
    common = {key: value for key, value in row.items() if key in set(sampler.COMMON_NAMES.values())}
    assert common == PAGES[name]


def test_other_series_keep_their_names_and_buckets_are_left_out() -> None:
    row = sampler.page_row((DATA / "metrics_vllm.txt").read_text())
    assert row["process_resident_memory_bytes"] == 1.234567e9
    stopped = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="Qwen/Qwen2.5-7B-Instruct"}'
    assert row[stopped] == 200
    assert not [name for name in row if "_bucket" in name or "_created" in name]
    assert (
        row[
            'vllm:time_to_first_token_seconds_sum{engine="0",model_name="Qwen/Qwen2.5-7B-Instruct"}'
        ]
        == 21.75
    )
    assert 'tgi_request_success{kind="regular"}' in sampler.page_row(
        (DATA / "metrics_tgi.txt").read_text()
    )


def test_a_value_that_is_no_number_is_left_out() -> None:
    row = sampler.page_row((DATA / "metrics_llamacpp.txt").read_text())
    assert "llamacpp:predicted_tokens_seconds" not in row, "it is nan before the first answer"


def test_a_page_of_very_many_series_keeps_the_known_ones() -> None:
    lines = [f"odd_{number} 1" for number in range(1000)]
    row = sampler.page_row("\n".join([*lines, "llamacpp:requests_processing 3"]))
    assert row["running"] == 3
    assert len(row) == sampler.MOST_SERIES + 1


@pytest.mark.parametrize("page", ["", "<html></html>", "{}", "a{b=", "x y z w", "# only a comment"])
def test_a_page_of_something_else_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="no Prometheus page"):
        sampler.page_row(page)
