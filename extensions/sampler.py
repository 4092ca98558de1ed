"""The process that reads the machine during the load: CPU, memory, GPUs, watts, the server's page.

It is started by hardware.py with this file and never imported by the measuring process for its
work: the event loop, its interpreter lock and its garbage collector meet neither psutil nor NVML
nor a plug. It gets its settings as one line of JSON on its standard input, ends when that closes,
and writes lines of JSON:

    {"hello": ns}                    its clock, to be held against the other's
    {"missing": {source: why}}       what cannot be read here
    {"inventory": {…}, "sources": […]}   what the machine is, and what is read
    {"t": ns, "v": {column: value}}  a row of samples; what could not be read is not in it
    {"fault": {source: why}}         the first time that a source which was there failed
    {"others": […]}                  at the end: which other processes used the CPU most

A column's name ends in its unit: `_percent` (of the machine or the GPU; of one core for
processes), `_bytes`, `_w`, `_j` (joules since some start), `_c`, `_mhz`. What a Prometheus page
says has the names of COMMON_NAMES; its other series keep their own.

The order of this file: inventory, the sources of the machine, of the GPUs, and outside (plug,
command, page), then the process itself.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
import json
import math
import os
import platform
import plistlib
import queue
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

NS_PER_S = 1_000_000_000
PAGE_BYTES = 8 << 20  # a longer page or plug's answer is refused
MOST_SERIES = 100  # of a Prometheus page, beside those with common names
ANSWER_S = 5.0  # for a plug, a page or a command, all in all
LOOK_BEATS = 5  # between two looks at all processes
NAMED_OTHERS = 5


class UnavailableError(Exception):
    """A source that this machine does not have or that may not be read; the message says why."""


class AbsentError(UnavailableError):
    """The machine has no such thing at all."""


class Source(Protocol):
    """Something that is read at each beat: what it read, by column."""

    name: str

    def read(self, now_ns: int) -> dict[str, Any]:
        """Return what it can read now. Raises UnavailableError, OSError or ValueError."""


# === Inventory ===


def read_text(path: str | Path) -> str | None:
    """Return a small file of /proc or /sys, None when it is not there or may not be read."""
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return None


def read_number(path: str | Path) -> float | None:
    """Return the number that a file of /sys holds."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def matching(root: str | Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that fit a pattern, in order; [] when it is not there."""
    try:
        return sorted(Path(root).glob(pattern))
    except OSError:
        return []


def inventory(psutil: Any, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what this machine is. What does not show is None."""
    limit = cgroup_limits()
    memory = psutil.virtual_memory().total
    return {
        "cpu": cpu_model(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": usable_cores(psutil, limit["cores"]),
        "cpu_governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": memory,
        "memory_usable_bytes": min(memory, limit["memory_bytes"] or memory),
        "swap_bytes": psutil.swap_memory().total,
        "os": operating_system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "gpus": gpus,
        "power_source": power_source(psutil),
        "container": container(),
        "virtual_machine": virtual_machine(),
    }


def cpu_model() -> str | None:
    """Return the CPU's name as its maker writes it."""
    if sys.platform == "darwin":
        return command_line_answer("sysctl", "-n", "machdep.cpu.brand_string")
    info = read_text("/proc/cpuinfo") or ""
    found = re.search(r"(?m)^(?:model name|Model|Hardware|cpu model)\s*:\s*(.+)$", info)
    if found is not None:
        return found.group(1).strip()
    board = read_text("/proc/device-tree/model")  # many ARM boards name only themselves
    return (board or platform.processor()).strip("\0 ") or None


def command_line_answer(*command: str) -> str | None:
    """Return what a short command prints, None when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None


def usable_cores(psutil: Any, limit: float | None) -> float:
    """Return how many cores this process may use, by affinity and control group."""
    try:
        cores = float(len(psutil.Process().cpu_affinity()))
    except AttributeError:  # macOS has no affinity
        cores = float(psutil.cpu_count() or 1)
    return cores if limit is None else min(cores, limit)


def cgroup_limits(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> dict[str, Any]:
    """Return `cores` and `memory_bytes` that the control groups allow, None for no limit.

    A limit of any group above holds as well. Version 2 has one tree, version 1 one a controller.
    """
    cores, memory = list[float](), list[float]()
    for line in (read_text(own) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for folder in Path(path.strip("/"), "x").parents:
            for tree in {"", *controllers.split(",")} if controllers else {""}:
                cores += _cpu_limit(Path(root, tree, folder))
                memory += _memory_limit(Path(root, tree, folder))
    return {"cores": min(cores, default=None), "memory_bytes": min(memory, default=None)}


def _cpu_limit(group: Path) -> Iterator[float]:
    quota, period = (*(read_text(group / "cpu.max") or "max").split(), "0")[:2]
    if quota == "max":
        quota = read_text(group / "cpu.cfs_quota_us") or "-1"
        period = read_text(group / "cpu.cfs_period_us") or "0"
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if float(quota) > 0:
            yield float(quota) / float(period)


def _memory_limit(group: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = read_number(group / name)
        if limit is not None and limit < 1 << 60:  # version 1 writes "no limit" as a huge number
            yield int(limit)


def operating_system() -> str | None:
    """Return the system's name and version as a person would say them."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform == "win32":
        return platform.platform()
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def power_source(psutil: Any) -> str | None:
    """Return "mains", "battery", or None on a machine that shows no battery."""
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is None or battery.power_plugged is None:
        return None
    return "mains" if battery.power_plugged else "battery"


def container() -> str | None:
    """Return the kind of container that this process runs in, as far as it shows."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    groups = read_text("/proc/1/cgroup") or ""
    found = re.search(r"docker|lxc|kubepods|containerd|podman", groups)
    return found.group() if found else os.environ.get("container")  # noqa: SIM112  systemd's name


def virtual_machine() -> str | None:
    """Return the hypervisor's name, "yes" when only its presence shows, None when nothing does."""
    if "microsoft" in platform.release().lower():
        return "wsl"
    if sys.platform == "darwin":
        hosted = command_line_answer("sysctl", "-n", "kern.hv_vmm_present")
        return "yes" if hosted == "1" else None
    names = ("sys_vendor", "product_name")
    board = " ".join(filter(None, (read_text(f"/sys/class/dmi/id/{name}") for name in names)))
    for word in ("QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Virtual Machine", "Amazon EC2"):
        if word.lower() in board.lower():
            return word
    info = read_text("/proc/cpuinfo") or ""
    return "yes" if re.search(r"(?m)^flags\s*:.*\bhypervisor\b", info) else None


# === Sources of the machine ===


class Rate:
    """Turns a counter into its growth a second; None at first, and when the counter fell.

    What comes sooner than SHORTEST_NS after the last is passed over, as counters have steps of
    their own (10 ms for CPU times).
    """

    SHORTEST_NS = NS_PER_S // 5

    def __init__(self) -> None:
        self._at_ns = 0
        self._total: float | None = None

    def __call__(self, now_ns: int, total: float) -> float | None:
        """Take the counter's value and return how fast it grew since the last one."""
        before, span_ns = self._total, now_ns - self._at_ns
        if before is not None and span_ns < self.SHORTEST_NS:
            return None
        self._total, self._at_ns = total, now_ns
        if before is None or total < before:
            return None
        return (total - before) * NS_PER_S / span_ns


class Machine:
    """The whole machine: CPU, memory, swap, network."""

    name = "machine"

    def __init__(self, psutil: Any) -> None:
        self._psutil = psutil
        self._cores = psutil.cpu_count() or 1
        self._busy = Rate()
        self.busy_cores: float | None = None  # how many cores' worth of work it did since before

    def read(self, now_ns: int) -> dict[str, Any]:
        """Read them; no entry says what a process did."""
        times = self._psutil.cpu_times()
        names = ("user", "nice", "system", "irq", "softirq")
        self.busy_cores = self._busy(now_ns, sum(getattr(times, name, 0.0) for name in names))
        memory, swap = self._psutil.virtual_memory(), self._psutil.swap_memory()
        network = self._psutil.net_io_counters(pernic=True) or {}
        outside = [nic for name, nic in network.items() if not name.startswith("lo")]
        busy = self.busy_cores
        return {
            "cpu_percent": None if busy is None else min(100 * busy / self._cores, 100.0),
            "memory_used_bytes": memory.total - memory.available,
            "swap_used_bytes": swap.used,
            "swapped_out_bytes": swap.sout if sys.platform == "linux" else None,
            "network_sent_bytes": sum(nic.bytes_sent for nic in outside),
            "network_received_bytes": sum(nic.bytes_recv for nic in outside),
        }


class Processes:
    """CPU and memory of the server's processes and of this program's, and what others used.

    What others used is the machine's use without ours, so that also a process counts that lives
    shorter than a beat; their names come from a look at all processes every few beats. A process
    is known by its number and its start, as numbers are used again.
    """

    name = "processes"

    def __init__(
        self, psutil: Any, machine: Machine, client_pid: int, server_pid: int | None, *, known: bool
    ) -> None:
        self._psutil = psutil
        self._machine = machine
        self._roots = {"client": client_pid, "server": server_pid}
        self._known = known  # else the server would count as another
        self._trees: dict[str, dict[tuple[int, float], Any]] = {"client": {}, "server": {}}
        self._last_s: dict[tuple[int, float], float] = {}
        self._totals = {"client": 0.0, "server": 0.0}
        self._rates = {"client": Rate(), "server": Rate()}
        self._seen: dict[tuple[int, float], list[Any]] = {}  # name, CPU at first and at last
        self._looked = False
        self._beat = 0

    @property
    def server_pids(self) -> set[int]:
        """The server's processes, empty when they are not known."""
        return {pid for pid, _ in self._trees["server"]}

    def read(self, now_ns: int) -> dict[str, Any]:
        """Read both trees, and every few beats all processes."""
        if self._beat % LOOK_BEATS == 0:
            self._find_trees()
            self.look()
        self._beat += 1
        row, ours = dict[str, Any](), 0.0
        for who, tree in self._trees.items():
            memory = self._add_up(who, tree)
            cores = self._rates[who](now_ns, self._totals[who])
            ours += cores or 0.0
            if tree:
                row[f"{who}_cpu_percent"] = None if cores is None else 100 * cores
                row[f"{who}_memory_bytes"] = memory
        if self._known and self._machine.busy_cores is not None:
            row["others_cpu_percent"] = max(100 * (self._machine.busy_cores - ours), 0.0)
        return row

    def _find_trees(self) -> None:
        server = self._tree(self._roots["server"])
        client = self._tree(self._roots["client"])
        for key in server:
            client.pop(key, None)  # the embedded server is this program's child
        self._trees = {"client": client, "server": server}

    def _tree(self, pid: int | None) -> dict[tuple[int, float], Any]:
        if pid is None:
            return {}
        with contextlib.suppress(self._psutil.Error):
            root = self._psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
            return {(process.pid, process.create_time()): process for process in family}
        return {}

    def _add_up(self, who: str, tree: dict[tuple[int, float], Any]) -> int:
        """Add what the tree's processes used since before to its total; return its memory."""
        memory = 0
        for key, process in list(tree.items()):
            try:
                with process.oneshot():
                    times, resident = process.cpu_times(), process.memory_info().rss
            except self._psutil.Error:
                del tree[key]
                continue
            used_s = times.user + times.system
            self._totals[who] += used_s - self._last_s.get(key, used_s)
            self._last_s[key] = used_s
            memory += resident
        return memory

    def look(self) -> None:
        """Note how much CPU each process has used so far that is neither ours nor the server's."""
        ours = {**self._trees["client"], **self._trees["server"]}
        wanted = ["pid", "name", "create_time", "cpu_times"]
        for process in self._psutil.process_iter(wanted):
            info = process.info
            key = (info["pid"], info["create_time"])
            if key in ours or info["cpu_times"] is None:
                continue
            used_s = info["cpu_times"].user + info["cpu_times"].system
            first_s = 0.0 if self._looked else used_s  # what is new now has begun since
            self._seen.setdefault(key, [info["name"], first_s, used_s])[2] = used_s
        self._looked = True

    def busiest(self) -> list[dict[str, Any]]:
        """Return the other processes that used the most CPU so far."""
        self.look()
        used = [
            {"name": name or "?", "pid": key[0], "cpu_s": round(last - first, 3)}
            for key, (name, first, last) in self._seen.items()
            if last - first >= 0.05
        ]
        return sorted(used, key=lambda process: -process["cpu_s"])[:NAMED_OTHERS]


class CpuHeat:
    """The CPU's clock, temperature, and how often it throttled itself (Linux)."""

    name = "cpu heat"

    def __init__(self, psutil: Any, root: str = "/sys/devices/system/cpu") -> None:
        self._clocks = matching(root, "cpufreq/policy*/scaling_cur_freq")[:64]
        self._counts = matching(root, "cpu*/thermal_throttle/*_throttle_count")[:64]
        self._sensors: Callable[[], Any] = getattr(psutil, "sensors_temperatures", dict)
        if not (self._clocks or self._counts or self._sensors()):
            raise UnavailableError("this machine shows neither the CPU's clock nor its temperature")
        self._throttled: float | None = None

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Read the mean clock of the cores, the hottest sensor, and whether it throttled."""
        clocks = [khz for path in self._clocks if (khz := read_number(path)) is not None]
        counts = [times for path in self._counts if (times := read_number(path)) is not None]
        before, self._throttled = self._throttled, sum(counts) if counts else None
        throttled = before is not None and self._throttled is not None and self._throttled > before
        return {
            "cpu_mhz": sum(clocks) / len(clocks) / 1000 if clocks else None,
            "cpu_temp_c": self._temperature(),
            "cpu_throttle": (["thermal"] if throttled else []) if counts else None,
        }

    def _temperature(self) -> float | None:
        sensors = self._sensors()
        for chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            if chip in sensors:
                return max((float(sensor.current) for sensor in sensors[chip]), default=None)
        return None


class Battery:
    """Whether the machine runs on its battery, and what that gives."""

    name = "battery"

    def __init__(self, psutil: Any, root: str = "/sys/class/power_supply") -> None:
        self._read = getattr(psutil, "sensors_battery", lambda: None)
        if self._read() is None:
            raise UnavailableError("this machine shows no battery")
        self._folders = matching(root, "BAT*")

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Read its charge, its discharge, and whether the mains are there."""
        battery = self._read()
        if battery is None:
            return {}
        plugged = battery.power_plugged
        return {
            "battery_percent": battery.percent,
            "on_battery": None if plugged is None else not plugged,
            "battery_w": self._watts() if plugged is False else None,
        }

    def _watts(self) -> float | None:
        watts = list[float]()
        for folder in self._folders:
            power = read_number(folder / "power_now")
            volts, amperes = (read_number(folder / f"{n}_now") for n in ("voltage", "current"))
            if power is not None:
                watts.append(abs(power) / 1e6)
            elif volts is not None and amperes is not None:
                watts.append(abs(volts * amperes) / 1e12)
        return sum(watts) if watts else None


class Rapl:
    """The energy counters of the CPU packages (Intel and AMD, Linux)."""

    name = "cpu_package"

    def __init__(self, root: str = "/sys/class/powercap") -> None:
        zones = matching(root, "intel-rapl:*")
        self._zones = [z for z in zones if (read_text(z / "name") or "").startswith("package")]
        if not self._zones:
            raise UnavailableError("this machine shows no energy counter of its CPU (RAPL)")
        self._ranges = [read_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last_uj = [self._energy_uj(zone) for zone in self._zones]
        self._joules = 0.0
        self._watts = Rate()

    def _energy_uj(self, zone: Path) -> float:
        """Return a counter. Raises UnavailableError with the line that would allow it."""
        counter = zone / "energy_uj"
        try:
            return float(counter.read_text())
        except PermissionError:
            every = " ".join(str(each / "energy_uj") for each in self._zones)
            line = f"sudo chmod a+r {every}"
            raise UnavailableError(f"only root may read it; this allows it: {line}") from None
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{counter}: {error}") from None

    def read(self, now_ns: int) -> dict[str, Any]:
        """Read the joules since the start and the mean watts since before."""
        for place, zone in enumerate(self._zones):
            now_uj = self._energy_uj(zone)
            grown = now_uj - self._last_uj[place]
            if grown < 0:  # the counter starts again at its range
                grown += self._ranges[place] or 0.0
            self._last_uj[place] = now_uj
            self._joules += max(grown, 0.0) / 1e6
        return {
            "cpu_package_j": self._joules,
            "cpu_package_w": self._watts(now_ns, self._joules),
        }


# === Sources of the GPUs ===

# NVML's bits. The others (idle, clocks that somebody has set, a display) say nothing of a limit.
THROTTLE_REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}


def gpu_row(gpus: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the columns of all GPUs, and the sums of watts and joules where all of them tell."""
    gpus = list(gpus)
    row = {f"gpu{i}_{name}": value for i, gpu in enumerate(gpus) for name, value in gpu.items()}
    for name in ("w", "j"):
        values = [gpu.get(name) for gpu in gpus]
        if values and None not in values:
            row[f"gpu_{name}"] = sum(cast(list[float], values))
    return row


class Nvidia:
    """NVIDIA's GPUs by NVML. What a GPU does not support is not in its row."""

    name = "gpu"

    def __init__(self, nvml: Any, server_pids: Callable[[], set[int]] = set) -> None:
        self._nvml = nvml
        self._server_pids = server_pids
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(count)]
        except nvml.NVMLError_LibraryNotFound:
            raise AbsentError("NVIDIA's driver is not installed") from None
        except nvml.NVMLError as error:
            raise UnavailableError(f"NVML: {error}") from None
        if not self._handles:
            raise AbsentError("NVML shows no GPU")
        self._asked_us = [0] * count

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError, AttributeError):  # an old driver lacks the newer functions
            return None

    def inventory(self) -> list[dict[str, Any]]:
        """Return what the GPUs are."""
        driver = _text(self._ask("nvmlSystemGetDriverVersion"))
        gpus = []
        for handle in self._handles:
            limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
            memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
            gpus.append(
                {
                    "vendor": "NVIDIA",
                    "name": _text(self._ask("nvmlDeviceGetName", handle)),
                    "memory_bytes": None if memory is None else memory.total,
                    "driver": driver,
                    "power_limit_w": None if limit_mw is None else limit_mw / 1000,
                }
            )
        return gpus

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Read all GPUs."""
        row = gpu_row(map(self._gpu, self._handles))
        others = [self._others(place, handle) for place, handle in enumerate(self._handles)]
        known = [share for share in others if share is not None]
        return {**row, "gpu_others_percent": max(known, default=None)}

    def _gpu(self, handle: Any) -> dict[str, Any]:
        use, memory = (self._ask(f"nvmlDeviceGet{what}", handle) for what in _NVML_STRUCTS)
        power_mw = self._ask("nvmlDeviceGetPowerUsage", handle)
        energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # its name before 2023
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return {
            "util_percent": None if use is None else use.gpu,
            "memory_bytes": None if memory is None else memory.used,
            "w": None if power_mw is None else power_mw / 1000,
            "j": None if energy_mj is None else energy_mj / 1000,
            "temp_c": self._ask("nvmlDeviceGetTemperature", handle, 0),
            "mhz": self._ask("nvmlDeviceGetClockInfo", handle, 1),  # of the processors
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", handle, 2),
            "throttle": None if reasons is None else throttle_names(reasons),
        }

    def _others(self, place: int, handle: Any) -> float | None:
        """Return the use by others than the server; None when its own part does not show.

        In a container the numbers of processes are those of the host, and tell nothing.
        """
        samples = self._ask("nvmlDeviceGetProcessUtilization", handle, self._asked_us[place]) or []
        uses: dict[int, list[int]] = {}
        for sample in samples:
            self._asked_us[place] = max(self._asked_us[place], sample.timeStamp)
            uses.setdefault(sample.pid, []).append(sample.smUtil)
        ours = self._server_pids()
        if not ours & uses.keys():
            return None
        return sum(sum(use) / len(use) for pid, use in uses.items() if pid not in ours)


_NVML_STRUCTS = ("UtilizationRates", "MemoryInfo")


def throttle_names(bits: int) -> list[str]:
    """Return the names of NVML's bits that say that the clocks are held down."""
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]


def _text(value: Any) -> str | None:
    """Return a text of NVML, which older versions give as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class AmdSysfs:
    """AMD's GPUs by the kernel's own files. It does not say why clocks are held down."""

    name = "gpu"

    def __init__(self, root: str = "/sys/class/drm") -> None:
        cards = [path.parent for path in matching(root, "card*/device/vendor")]
        self._cards = [
            card
            for card in cards
            if re.fullmatch(r"card\d+", card.parent.name)
            and read_text(card / "vendor") == "0x1002"
            and (card / "mem_info_vram_total").exists()
        ]
        if not self._cards:
            raise AbsentError("no AMD GPU is there")

    def inventory(self) -> list[dict[str, Any]]:
        """Return what the GPUs are; names only where the kernel knows them."""
        gpus = []
        for card in self._cards:
            total = read_number(card / "mem_info_vram_total")
            limit_uw = self._sensor(card, "power1_cap")
            name = read_text(card / "product_name") or f"AMD GPU {read_text(card / 'device')}"
            gpus.append(
                {
                    "vendor": "AMD",
                    "name": name,
                    "memory_bytes": None if total is None else int(total),
                    "driver": read_text("/sys/module/amdgpu/version"),
                    "power_limit_w": None if limit_uw is None else limit_uw / 1e6,
                }
            )
        return gpus

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Read all GPUs."""
        return gpu_row(map(self._gpu, self._cards))

    def _sensor(self, card: Path, *names: str) -> float | None:
        for folder in sorted(card.glob("hwmon/hwmon*")):
            for name in names:
                if (value := read_number(folder / name)) is not None:
                    return value
        return None

    def _gpu(self, card: Path) -> dict[str, Any]:
        power_uw = self._sensor(card, "power1_average", "power1_input")
        temperature, clock_hz = self._sensor(card, "temp1_input"), self._sensor(card, "freq1_input")
        return {
            "util_percent": read_number(card / "gpu_busy_percent"),
            "memory_bytes": read_number(card / "mem_info_vram_used"),
            "w": None if power_uw is None else power_uw / 1e6,
            "temp_c": None if temperature is None else temperature / 1000,
            "mhz": None if clock_hz is None else clock_hz / 1e6,
        }


class AmdSmi:
    """AMD's GPUs by the command `amd-smi`, where the kernel's files do not show them."""

    name = "gpu"

    def __init__(self) -> None:
        if shutil.which("amd-smi") is None:
            raise AbsentError("no AMD GPU is there")
        self._static = amd_smi_gpus(command_line_answer("amd-smi", "static", "--json"))
        if not self._static:
            raise UnavailableError("amd-smi shows no GPU")

    def inventory(self) -> list[dict[str, Any]]:
        """Return what the GPUs are."""
        return [
            {
                "vendor": "AMD",
                "name": look_up(gpu, "asic.market_name"),
                "memory_bytes": megabytes(look_up(gpu, "vram.size")),
                "driver": look_up(gpu, "driver.version"),
                "power_limit_w": amount(look_up(gpu, "limit.max_power")),
            }
            for gpu in self._static
        ]

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Read all GPUs."""
        said = command_line_answer("amd-smi", "metric", "--json")
        gpus = amd_smi_gpus(said)
        if not gpus:
            raise ValueError("amd-smi metric --json gave no GPU")
        return gpu_row(map(self._gpu, gpus))

    def _gpu(self, gpu: Any) -> dict[str, Any]:
        throttle = look_up(gpu, "power.throttle_status")
        hot = amount(look_up(gpu, "temperature.edge"))
        return {
            "util_percent": amount(look_up(gpu, "usage.gfx_activity")),
            "memory_bytes": megabytes(look_up(gpu, "mem_usage.used_vram")),
            "w": amount(look_up(gpu, "power.socket_power")),
            "temp_c": amount(look_up(gpu, "temperature.hotspot")) if hot is None else hot,
            "mhz": amount(look_up(gpu, "clock.gfx_0.clk")),
            "throttle": {"THROTTLED": ["throttled"], "UNTHROTTLED": []}.get(str(throttle)),
        }


def amd_smi_gpus(said: str | None) -> list[Any]:
    """Return the GPUs of amd-smi's JSON, which has a warning before it or an object around it."""
    start = re.search(r"[\[{]", said or "")
    try:
        data = json.loads(cast(str, said)[start.start() :]) if start else []
    except (ValueError, RecursionError):
        return []
    gpus = data.get("gpu_data", []) if isinstance(data, dict) else data
    return gpus if isinstance(gpus, list) else []


def amount(value: Any) -> float | None:
    """Return amd-smi's number, which stands alone or as {"value": 3, "unit": "W"}, or is "N/A"."""
    return as_number(value.get("value") if isinstance(value, dict) else value)


def megabytes(value: Any) -> int | None:
    """Return amd-smi's number of MB in bytes."""
    size = amount(value)
    return None if size is None else int(size * (1 << 20))


class PowerMetrics:
    """Apple's `powermetrics`, which runs along and writes a property list a beat; it wants root."""

    name = "gpu"
    COMMAND = ("powermetrics", "-f", "plist", "--samplers", "cpu_power,gpu_power,thermal", "-i")
    ALLOW = "%admin ALL=(root) NOPASSWD: /usr/bin/powermetrics"

    def __init__(self, sample_s: float) -> None:
        if shutil.which("powermetrics") is None:
            raise AbsentError("powermetrics is not there")
        sudo = [] if getattr(os, "geteuid", lambda: 0)() == 0 else ["sudo", "-n"]
        command = [*sudo, *self.COMMAND, str(max(int(sample_s * 1000), 100))]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=pipe, stderr=null, stdin=null)  # noqa: S603
        self._latest: dict[str, Any] = {}
        self._first = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()
        self._first.wait(sample_s + 5)
        if not self._latest:
            self.close()
            line = f"sudo visudo, and there: {self.ALLOW}"
            raise UnavailableError(f"powermetrics wants root; this allows it: {line}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _follow(self) -> None:
        output, rest = cast(Any, self._process.stdout), b""
        while data := output.read1(1 << 16):
            *documents, rest = (rest + data).replace(b"</plist>", b"</plist>\0\0").split(b"\0\0")
            for document in documents:
                self._latest = powermetrics_row(document.strip(b"\0\n ")) or self._latest
                self._first.set()
        output.close()
        self._latest = {}
        self._first.set()

    def inventory(self) -> list[dict[str, Any]]:
        """Return the one GPU; it shares the machine's memory."""
        name = command_line_answer("sysctl", "-n", "machdep.cpu.brand_string")
        gpu = {"vendor": "Apple", "name": name, "memory_bytes": None, "driver": None}
        return [{**gpu, "power_limit_w": None}]

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Return what it wrote last."""
        if not self._latest:
            raise ValueError("powermetrics has ended")
        return self._latest


def powermetrics_row(document: bytes) -> dict[str, Any]:
    """Return the columns of one property list of powermetrics; watts are milliwatts there."""
    try:
        data = plistlib.loads(document)
    except Exception:  # noqa: BLE001  its parsers raise many things
        return {}
    cpu_mw = as_number(look_up(data, "processor.cpu_power"))
    gpu_mw = as_number(look_up(data, "processor.gpu_power") or look_up(data, "gpu.gpu_power"))
    idle, clock = (as_number(look_up(data, f"gpu.{name}")) for name in ("idle_ratio", "freq_hz"))
    pressure = look_up(data, "thermal_pressure")
    throttle: list[str] | None = None if pressure is None else []
    if pressure not in (None, "Nominal"):
        throttle = [f"thermal_pressure_{str(pressure).lower()}"]
    gpu = {
        "util_percent": None if idle is None else 100 * (1 - idle),
        "w": None if gpu_mw is None else gpu_mw / 1000,
        "mhz": None if clock is None else clock / 1e6 if clock > 1e5 else clock,  # versions differ
        "throttle": throttle,
    }
    cpu_w = None if cpu_mw is None else cpu_mw / 1000
    return {**gpu_row([gpu]), "cpu_package_w": cpu_w, "cpu_throttle": throttle}


# === Sources outside: the plug, the server's page ===


@dataclass(frozen=True)
class Link:
    """An address, with what goes along in the head; a user part of the URL becomes a header."""

    url: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str] | None = None) -> Link:
        """Take the user part out: `Bearer:TOKEN@` is a token, all else is Basic."""
        parts = urllib.parse.urlsplit(url)
        head = {"Accept-Encoding": "identity", **(headers or {})}
        if parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            password = urllib.parse.unquote(parts.password or "")
            basic = b64encode(f"{user}:{password}".encode()).decode()
            token = f"Bearer {password}" if user.lower() == "bearer" else f"Basic {basic}"
            head["Authorization"] = token
        host = parts.netloc.rpartition("@")[2]
        return cls(urllib.parse.urlunsplit(parts._replace(netloc=host)), head)


def fetch(link: Link, context: ssl.SSLContext | None, limit: int = PAGE_BYTES) -> bytes:
    """Return a page: no redirects, no proxy, so many bytes and ANSWER_S seconds at most.

    Raises OSError or ValueError with a short text that has no address in it.
    """
    parts = urllib.parse.urlsplit(link.url)
    ends = time.monotonic() + ANSWER_S
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    )
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    with contextlib.closing(connection):
        try:
            connection.request("GET", path, headers=dict(link.headers))
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            page = bytearray()
            while data := response.read1(1 << 16):
                page += data
                if len(page) > limit:
                    raise ValueError(f"longer than {limit >> 20} MiB")
                if time.monotonic() > ends:
                    raise TimeoutError
        except TimeoutError:
            raise ValueError(f"no whole answer within {ANSWER_S:g} s") from None
        except http.client.HTTPException as error:
            raise ValueError(f"no HTTP: {type(error).__name__}") from None
    return bytes(page)


def look_up(data: Any, path: str) -> Any:
    """Return what stands at a path such as "meters.0.power" in JSON data, None when nothing does.

    A key that has points in it is found too.
    """
    if isinstance(data, dict) and path in data:
        return data[path]
    step, _, rest = path.partition(".")
    if isinstance(data, dict) and step in data:
        return look_up(data[step], rest) if rest else data[step]
    if isinstance(data, list) and step.isdecimal() and int(step) < len(data):
        return look_up(data[int(step)], rest) if rest else data[int(step)]
    return None


def as_number(value: Any) -> float | None:
    """Return a finite number that stands there as a number or as its text, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def watts_of(value: Any) -> float:
    """Return watts from a number or from a text such as "23.4", "23.4 W" or "1.2 kW".

    Raises ValueError when it is none, or no power that a machine can draw.
    """
    factor = 1.0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([-+.\deE]+)\s*(m|k)?(W|watts?)?\s*", value, re.ASCII)
        if found is None or (found.group(2) and not found.group(3)):
            raise ValueError(f"no watts: {value.strip()[:40]!r}")
        value, factor = found.group(1), {None: 1.0, "m": 1e-3, "k": 1e3}[found.group(2)]
    number = as_number(value)
    if number is None or not 0 <= number * factor <= 1e6:
        raise ValueError(f"no watts: {str(value)[:40]!r}")
    return number * factor


class Plug:
    """The wall socket by JSON over HTTP: `hardware.power_url` and `power_path`."""

    name = "wall"

    def __init__(self, link: Link, path: str | None, context: ssl.SSLContext | None) -> None:
        self._link, self._path, self._context = link, path, context

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Ask for the watts."""
        page = fetch(self._link, self._context, 1 << 20)
        try:
            data = json.loads(page)
        except (ValueError, RecursionError):
            raise ValueError("its answer is no JSON") from None
        value = data if self._path is None else look_up(data, self._path)
        if value is None:
            raise ValueError(f"its answer has no {self._path}")
        return {"wall_w": watts_of(value)}


class PowerCommand:
    """The wall socket by a command that prints watts: `hardware.power_command`, without a shell."""

    name = "wall"

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Run it; it and what it started are ended after ANSWER_S seconds."""
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen(  # noqa: S603  the user's own command
            self._command, stdin=null, stdout=pipe, stderr=null, start_new_session=True
        )
        late = threading.Event()

        def give_up() -> None:
            late.set()
            end_group(process)

        timer = threading.Timer(ANSWER_S, give_up)
        timer.start()
        try:
            with cast(Any, process.stdout) as output:
                said = output.read(1 << 12)
            if len(said) == 1 << 12:
                raise ValueError("prints more than a number")
            code = process.wait()
        finally:
            timer.cancel()
            end_group(process)
        if late.is_set():
            raise ValueError(f"no answer within {ANSWER_S:g} s")
        if code:
            raise ValueError(f"exit code {code}")
        return {"wall_w": watts_of(said.decode("utf-8", "replace"))}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, as far as it is still there."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


# A Prometheus page's names for what all servers know. Several series of one name (engines, GPUs)
# are added up; of shares, temperatures and the like the highest counts.
COMMON_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:gpu_cache_usage_perc": "kv_cache_usage",  # before version 0.10
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:gpu_prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:gpu_prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "kv_cache_usage",
    "sglang:cached_tokens_total": "prefix_cache_hits",
    "sglang:num_retracted_requests_total": "preemptions",
    "sglang:generation_tokens_total": "generation_tokens",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "tgi_batch_current_size": "running",
    "tgi_queue_size": "waiting",
    "tgi_request_generated_tokens_sum": "generation_tokens",
    "tgi_request_input_length_sum": "prompt_tokens",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:kv_cache_usage_ratio": "kv_cache_usage",  # taken out in 2025
    "llamacpp:tokens_predicted_total": "generation_tokens",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "DCGM_FI_DEV_POWER_USAGE": "dcgm_gpu_w",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "dcgm_gpu_j",  # in mJ
    "DCGM_FI_DEV_GPU_UTIL": "dcgm_gpu_util_percent",
    "DCGM_FI_DEV_FB_USED": "dcgm_gpu_memory_bytes",  # in MiB
    "DCGM_FI_DEV_GPU_TEMP": "dcgm_gpu_temp_c",
    "DCGM_FI_DEV_SM_CLOCK": "dcgm_gpu_mhz",
}
HIGHEST = {"kv_cache_usage", "dcgm_gpu_util_percent", "dcgm_gpu_temp_c", "dcgm_gpu_mhz"}
FACTORS = {"dcgm_gpu_j": 1e-3, "dcgm_gpu_memory_bytes": float(1 << 20)}
COUNTERS = ("generation_tokens", "prompt_tokens", "preemptions", "prefix_cache_hits")


class MetricsPage:
    """The server's Prometheus page: `hardware.metrics_url`."""

    name = "metrics"

    def __init__(self, link: Link, context: ssl.SSLContext | None) -> None:
        try:
            importlib.import_module("prometheus_client.parser")
        except ModuleNotFoundError:
            raise UnavailableError("needs prometheus-client: uv sync --group hardware") from None
        self._link, self._context = link, context

    def read(self, now_ns: int) -> dict[str, Any]:  # noqa: ARG002  a source's signature
        """Ask for the page."""
        return page_row(fetch(self._link, self._context).decode("utf-8", "replace"))


_LEFT_OUT = re.compile(r"[\w:]+_(bucket|created)\b")


def page_row(page: str) -> dict[str, float]:
    """Return the columns of a Prometheus page: common names first, then others under their own.

    Histograms' buckets are left out, as they are most of a page and sums and counts say enough.
    Raises ValueError for what is no such page.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    lines = [line for line in page.splitlines() if not _LEFT_OUT.match(line)]
    written = {start.group() for line in lines if (start := re.match(r"[\w:]+", line))}
    common, others = dict[str, float](), dict[str, float]()
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except Exception as error:  # noqa: BLE001  the parser raises whatever an odd line leads it to
        raise ValueError(f"no Prometheus page: {type(error).__name__}") from None
    for sample in (sample for family in families for sample in family.samples):
        name = sample.name
        if name not in written:  # the parser adds this to counters without it
            name = name.removesuffix("_total")
        value, known = as_number(sample.value), COMMON_NAMES.get(name)
        if value is None:
            continue
        if known is None:
            others[series_name(name, sample.labels)] = value
            continue
        value *= FACTORS.get(known, 1.0)
        if (before := common.get(known)) is not None:
            value = max(before, value) if known in HIGHEST else before + value
        common[known] = value
    if not common and not others:
        raise ValueError("no Prometheus page: it has no series")
    return {**dict(list(others.items())[:MOST_SERIES]), **common}


def series_name(name: str, labels: Mapping[str, str]) -> str:
    """Return a series' name as its page writes it."""
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}"[:300] if inner else name


# === The sampler's process ===


class Background:
    """Asks a slow source in a thread of its own: one question at a time, never waited for long."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        self._orders: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        self._asked = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._answers.put(self._source.read(self._orders.get()))
            except Exception as error:  # noqa: BLE001  a source must not end the sampler
                self._answers.put(error)

    def ask(self, now_ns: int) -> None:
        """Ask, unless an earlier question is still open."""
        if not self._asked:
            self._orders.put(now_ns)
            self._asked = True

    def answer(self, patience_s: float) -> dict[str, Any] | Exception | None:
        """Return what has come, waiting at most so long; None when nothing has."""
        if not self._asked:
            return None
        try:
            answer = (
                self._answers.get(timeout=patience_s) if patience_s else self._answers.get(False)
            )
        except queue.Empty:
            return None
        self._asked = False
        return answer


class Sampler:
    """Reads all sources at each beat and says what they say."""

    def __init__(
        self, settings: Mapping[str, Any], say: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._settings = settings
        self._say = say
        self._sample_s = float(settings["sample_s"] or 0)
        self._fast: list[Source] = []
        self._slow: list[Background] = []
        self._faults: set[str] = set()
        self._processes: Processes | None = None

    def prepare(self) -> None:
        """Find the sources, and say what the machine is and what cannot be read."""
        import psutil  # noqa: PLC0415  only this process needs it

        server = self._settings["server"]
        pid, through = server["pid"], None
        if pid is None and server["local"] and self._sample_s:
            pid, through = listener(psutil, server["port"])
        here = server["local"] and through not in TUNNELS
        machine = Machine(psutil)
        self._processes = Processes(
            psutil, machine, self._settings["client_pid"], pid, known=pid is not None or not here
        )
        self._fast = [machine, self._processes]
        gpus = list[dict[str, Any]]()
        if (gpu := self._add("gpu", self._find_gpu)) is not None:
            gpus = gpu.inventory()
        self._add("cpu_package", Rapl)
        self._add("cpu heat", functools.partial(CpuHeat, psutil))
        self._add("battery", functools.partial(Battery, psutil))
        if self._sample_s:
            self._add_asked_for()
        facts = {
            "host": "client and server" if here else "client",
            "server_process": process_name(psutil, pid),
        }
        watched = [source.name for source in self._fast] + [slow.name for slow in self._slow]
        self._say({"inventory": {**inventory(psutil, gpus), **facts}, "sources": watched})

    def _find_gpu(self) -> Any:
        """Return the GPUs' source: NVIDIA, AMD, Apple, the first that is there."""
        why = list[str]()
        for make in (self._nvidia, AmdSysfs, AmdSmi, self._apple):
            try:
                return make()
            except AbsentError:
                continue
            except UnavailableError as error:
                why.append(str(error))
        raise UnavailableError("; ".join(why) or "no GPU that can be read is there")

    def _nvidia(self) -> Nvidia:
        signs = ("/dev/nvidiactl", "/dev/dxg")  # of its driver, and of the one of WSL
        if not self._sample_s and sys.platform == "linux" and not any(map(os.path.exists, signs)):
            raise AbsentError("no driver's device is there")  # importing it takes 0.1 s
        try:
            import pynvml  # noqa: PLC0415
        except ModuleNotFoundError:
            raise UnavailableError("NVIDIA's need nvidia-ml-py: uv sync --group hardware") from None
        return Nvidia(pynvml, lambda: cast(Processes, self._processes).server_pids)

    def _apple(self) -> PowerMetrics:
        if sys.platform != "darwin":
            raise AbsentError
        return PowerMetrics(self._sample_s or 1.0)

    def _add(self, name: str, make: Callable[[], Any]) -> Any:
        """Add a source, or say why it cannot be read."""
        try:
            source = make()
        except (UnavailableError, OSError, ValueError) as error:
            self._say({"missing": {name: str(error)}})
            return None
        if isinstance(source, AmdSmi | Plug | PowerCommand | MetricsPage):
            self._slow.append(Background(source))
        else:
            self._fast.append(source)
        return source

    def _add_asked_for(self) -> None:
        settings, context = self._settings, tls_context(self._settings)
        for key, make in (("power", Plug), ("metrics", MetricsPage)):
            if (asked := settings[key]) is None:
                continue
            link = Link.of(asked["url"], asked["headers"])
            path = (asked["path"],) if key == "power" else ()
            name = "wall" if key == "power" else "metrics"
            self._add(name, functools.partial(cast(Any, make), link, *path, context))
        if settings["power_command"] is not None:
            self._add("wall", functools.partial(PowerCommand, settings["power_command"]))
        elif settings["power"] is None:
            why = "neither hardware.power_url nor hardware.power_command is set"
            self._say({"missing": {"wall": why}})

    def run(self, over: threading.Event) -> None:
        """Write a row at each beat until the event is set."""
        begun_s = time.monotonic()
        beat = 0
        while not over.is_set():
            self._say(self.row())
            late_s = time.monotonic() - begun_s
            beat = max(beat + 1, math.ceil(late_s / self._sample_s))  # what is missed stays missed
            over.wait(begun_s + beat * self._sample_s - time.monotonic())
        self._say(self.row())
        if self._processes is not None:
            self._say({"others": self._processes.busiest()})

    def row(self) -> dict[str, Any]:
        """Read all sources; a slow one's answer counts when it comes soon, or a beat later."""
        now_ns, values = time.perf_counter_ns(), dict[str, Any]()
        early = [slow.answer(0) for slow in self._slow]
        for slow in self._slow:
            slow.ask(now_ns)
        for source in self._fast:
            try:
                values |= source.read(now_ns)
            except (UnavailableError, OSError, ValueError) as error:
                self._fault(source.name, error)
        for slow, before in zip(self._slow, early, strict=True):
            answer = slow.answer(min(0.4 * self._sample_s, 0.4))
            for each in (before, answer):
                if isinstance(each, Exception):
                    self._fault(slow.name, each)
                elif each is not None:
                    values |= each
        shown = {name: rounded(value) for name, value in values.items() if value is not None}
        return {"t": now_ns, "v": shown}

    def _fault(self, name: str, error: Exception) -> None:
        """Say why a source failed, the first time."""
        if name not in self._faults:
            self._faults.add(name)
            said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._say({"fault": {name: said or type(error).__name__}})


# Programs that listen for a server which runs elsewhere, or in another tree of processes.
TUNNELS = ("ssh", "sshd", "kubectl", "cloudflared")
PROXIES = (*TUNNELS, "docker-proxy", "rootlessport", "slirp4netns", "pasta", "com.docker.backend")


def listener(psutil: Any, port: int) -> tuple[int | None, str | None]:
    """Return the number of the local process that listens on a port, and of what kind it is.

    The number is None when none shows (it may be another user's), or when it only passes on.
    """
    for pid in _listening(psutil, port):
        name = process_name(psutil, pid)
        return (None if name in PROXIES else pid), name
    return None, None


def _listening(psutil: Any, port: int) -> Iterator[int]:
    """Yield the processes that listen on a port, as far as they show."""
    try:
        connections = [(each.pid, each) for each in psutil.net_connections("tcp")]
    except psutil.Error:  # macOS shows only root all of them; one's own processes show theirs
        connections = []
        for process in psutil.process_iter(["pid"]):
            with contextlib.suppress(psutil.Error):
                connections += [(process.pid, each) for each in process.net_connections("tcp")]
    for pid, connection in connections:
        if pid and connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            yield pid


def process_name(psutil: Any, pid: int | None) -> str | None:
    """Return a process's name, None when it does not show."""
    with contextlib.suppress(psutil.Error):
        return None if pid is None else str(psutil.Process(pid).name())
    return None


def rounded(value: Any) -> Any:
    """Return a number with as many digits as its source can know."""
    if isinstance(value, float):
        return round(value, 6 if abs(value) < 1 else 3)
    return value


def tls_context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """Return how certificates are checked, as the config says for the server."""
    context = ssl.create_default_context(cafile=settings["ca_file"])
    if not settings["verify_tls"]:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class LineWriter:
    """Writes lines of JSON; rows leave at most once a second, so that they wake nobody oftener."""

    def __init__(self) -> None:
        self._flushed_s = 0.0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
        if "t" not in line or time.monotonic() - self._flushed_s >= 0.95:
            sys.stdout.flush()
            self._flushed_s = time.monotonic()


def run_sampler() -> None:
    """Be the sampler's process: settings on the first line of standard input, ends with it."""
    settings = json.loads(sys.stdin.readline())
    writer = LineWriter()
    writer({"hello": time.perf_counter_ns()})
    sampler = Sampler(settings, writer)
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        sampler.prepare()
        if settings["sample_s"]:
            sampler.run(over)
        sys.stdout.flush()
    except BrokenPipeError:  # the test was killed
        os._exit(1)
    except Exception as error:  # noqa: BLE001  said to the test, which goes on without
        writer({"fault": {"sampler": f"{type(error).__name__}: {error}"}})
    os._exit(0)  # a source's thread may hang


if __name__ == "__main__":
    run_sampler()
