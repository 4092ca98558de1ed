"""Layer x attack: what each layer of the sandbox stops by itself, and what they leave together, as root and as nobody.

The attacks stand in sandbox_attacks.py, which runs as the user that is meant. n: namespaces, l: Landlock,
s: seccomp, h: the audit hook. Landlock's column holds what it does in every version that is used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extensions import sandbox
from tests.extensions import sandbox_attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's layers are Linux's")

STOPPED_BY = {
    # other processes of the same user
    "prlimit": "n s h",
    "affinity": "n s h",
    "scheduler": "n s h",
    "priority": "n s h",
    "kill": "n s h",
    "tgkill": "n s h",
    "tkill": "n s h",
    "sigqueue": "n s h",
    "pidfd": "n s h",
    "sigio": "n s h",
    "ptrace": "n s h",
    "read memory": "s h",
    "ioprio": "n s h",
    "migrate pages": "n s h",
    "write memory": "s h",
    "compare": "n l s h",
    "limits by number": "n s h",
    "process group": "n s h",
    "environment": "n l h",
    "its files": "n l",
    "its root": "n l h",
    "oom score": "n l h",
    # new processes
    "fork": "s h",
    "vfork": "s h",
    "clone": "s h",
    "clone3": "s h",
    "fork_exec": "l s h",
    "_fork_exec": "s h",
    "outlive the grader": "s h",
    # files outside
    "chmod": "n s h",
    "chmod dir_fd": "n l s h",
    "chmod path fd": "n s h",
    "fchmod": "n s h",
    "chown dir_fd": "n s h",
    "utime": "n s h",
    "utime dir_fd": "n s h",
    "setxattr": "n s h",
    "truncate": "n l h",
    "empty": "n l h",
    "write": "n l h",
    "write dir_fd": "n l h",
    "read": "l h",
    "read dir_fd": "l h",
    "link": "n l h",
    "by a link": "l h",
    "by a handle": "s h",
    "lease": "s h",
    "watch": "s h",
    "shared memory's folder": "n l h",
    "another folder": "n l h",
    # memory beside the limit
    "SysV memory": "s h",
    "memfd": "s h",
    "POSIX memory": "n l h",
    "message queue": "s h",
    # sockets
    "sendto": "s h",
    "sendto abstract": "n s h",
    "sendmsg": "s h",
    "connect": "s h",
    "udp": "n s h",
    "raw socket call": "s h",
    # the kernel
    "keyring": "s h",
    "asynchronous calls": "s h",
    "page faults": "s h",
    "namespaces": "s h",
    "timer": "s h",
    "calls of 32 bits": "s h",
    "personality": "s h",
    # the way to the kernel past the hook; harmless where the kernel's layers are
    "ctypes": "h",
    "ctypes by another name": "h",
    "machine code of its own": "n h",
}
LAYER = {"n": "namespaces", "l": "landlock", "s": "seccomp", "h": "hook"}
TO_THE_KERNEL = {"ctypes", "ctypes by another name", "machine code of its own"}
COMBINATIONS = {
    "everything": "namespaces+landlock+seccomp+hook",
    "as in Docker": "landlock+seccomp+hook",
    "everything, the hook got round": "namespaces+landlock+seccomp",
    "as in Docker, the hook got round": "landlock+seccomp",
    "no Landlock": "namespaces+seccomp+hook",
    "no Landlock, the hook got round": "namespaces+seccomp",
    "weak": "hook",
    "nothing": "none",
}
ALL_RUN = [*COMBINATIONS.values(), "namespaces", "landlock", "seccomp"]


IS_ROOT = hasattr(os, "getuid") and os.getuid() == 0
USERS = ("root", "nobody") if IS_ROOT else ("this user",)


def python_of(user: str) -> str | None:
    """Return a Python that this user may run."""
    for path in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if path is not None:
            command = [path, "-I", "-c", "import ctypes, _posixsubprocess"]
            try:
                if (
                    subprocess.run(
                        command, user=user, cwd="/", capture_output=True, check=False
                    ).returncode
                    == 0
                ):
                    return path
            except OSError:
                continue
    return None


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, Any]]:
    """Run all attacks, in each combination, as each user that there is."""
    # Not below pytest's own folder, which others may not enter.
    with tempfile.TemporaryDirectory(prefix="llm-attacks-") as folder:
        Path(folder).chmod(0o755)
        for name in (sandbox.__file__, sandbox_attacks.__file__):
            shutil.copy(name, folder)
        yield run_attacks(folder)


def run_attacks(folder: str) -> dict[str, Any]:
    made = {}
    for user in USERS:
        named = (
            {} if user == "this user" else {"user": user, "group": 0 if user == "root" else 65534}
        )
        python = sys.executable if user == "this user" else python_of(user)
        if python is not None:
            command = [python, "-B", f"{folder}/sandbox_attacks.py", folder, *ALL_RUN]
            finished = subprocess.run(
                command,
                capture_output=True,
                text=True,
                cwd="/",
                env={},
                timeout=120,
                check=False,
                **named,
            )  # type: ignore[call-overload]
            assert finished.returncode == 0, finished.stderr
            made[user] = json.loads(finished.stdout)
    return made


def harm(reports: dict[str, Any], user: str, combination: str) -> set[str]:
    """Return the attacks that succeeded; skip where the user or a layer is missing."""
    if user not in reports:
        pytest.skip(f"tried as {list(reports)}")
    report = reports[user][combination]
    wanted = [] if combination == "none" else combination.split("+")
    if report["layers"] != wanted:
        pytest.skip(f"this system has only {report['layers']}")
    assert isinstance(report["harm"], list), report
    return set(report["harm"])


users = pytest.mark.parametrize("user", USERS)


def test_the_table_holds_every_attack() -> None:
    assert list(STOPPED_BY) == list(sandbox_attacks.ATTACKS)


@users
@pytest.mark.parametrize("letter", LAYER)
def test_a_layer_stops_what_the_table_says(user: str, letter: str, reports: dict[str, Any]) -> None:
    stopped = {attack for attack, letters in STOPPED_BY.items() if letter in letters.split()}
    assert harm(reports, user, LAYER[letter]) & stopped == set()


@users
@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_layers_together_leave_only_what_none_of_them_stops(
    user: str, name: str, reports: dict[str, Any]
) -> None:
    combination = COMBINATIONS[name]
    there = {letter for letter, layer in LAYER.items() if layer in combination.split("+")}
    left = {attack for attack, letters in STOPPED_BY.items() if not there & set(letters.split())}
    done = harm(reports, user, combination)
    assert done <= left
    if "seccomp" in combination and "landlock" in combination:
        assert done <= TO_THE_KERNEL, (
            "what is well confined does no harm, whatever becomes of Python"
        )
        assert sandbox.shortcomings(combination.split("+")) == []
    else:
        assert sandbox.shortcomings(combination.split("+")) != []


def test_every_attack_works_where_nothing_confines_it(reports: dict[str, Any]) -> None:
    if set(reports) != {"root", "nobody"} or os.uname().machine != "x86_64":
        pytest.skip("some attacks need root, others must not be root; they are written for x86-64")
    worked = harm(reports, "root", "none") | harm(reports, "nobody", "none")
    assert set(STOPPED_BY) - worked == set()


# Systems as they are, made by util-linux: a process that may make no user namespace, as in Docker's
# default profile, and one that is root there and may make the others, as in a privileged container.
NO_USER_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces; exec "
WITHOUT_RIGHTS = "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all "


@pytest.mark.parametrize(
    ("rights", "layers"),
    [
        (WITHOUT_RIGHTS, ["landlock", "seccomp", "hook"]),
        ("", ["namespaces", "landlock", "seccomp", "hook"]),
    ],
)
def test_without_user_namespaces_code_is_confined_all_the_same(
    rights: str, layers: list[str]
) -> None:
    tools = shutil.which("unshare") and shutil.which("setpriv")
    if not tools or "namespaces" not in sandbox.run_confined("", "assert True").layers:
        pytest.skip("needs util-linux, and user namespaces to make such a system with")
    everything = COMBINATIONS["everything"]
    python = f"{sys.executable} -B {sandbox_attacks.__file__}"
    command = f"{NO_USER_NAMESPACES}{rights}{python} {Path(sandbox.__file__).parent} {everything}"
    finished = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command], capture_output=True, check=True, timeout=60
    )
    assert json.loads(finished.stdout)[everything] == {
        "layers": layers,
        "harm": [],
        "victim": None,
    }


DOCKER = ("landlock", "seccomp", "hook")


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(100):\n    open(str(n), 'wb').write(bytes(1 << 20))",
        "for n in range(9999):\n    open(str(n), 'w').close()",
        "with open('big', 'wb') as file:\n    for _ in range(100):\n        file.write(bytes(1 << 20))",
    ],
)
def test_the_disk_is_limited_also_without_namespaces(code: str, tmp_path: Path) -> None:
    waiting = "\nimport time\ntime.sleep(600)"
    verdict = sandbox.run_confined(code + waiting, "assert True", DOCKER)
    assert verdict.error is not None
    assert "of disk or" in verdict.error or "File too large" in verdict.error


def test_what_is_missing_is_said() -> None:
    assert sandbox.shortcomings(["hook"]) == [
        "processes, sockets and signals (no seccomp)",
        "your files (neither namespaces nor Landlock)",
    ]
    assert sandbox.shortcomings(["namespaces", "seccomp", "hook"]) == [
        "reading your files (no Landlock)"
    ]
    assert sandbox.shortcomings(sandbox.LAYERS) == []


def test_the_filter_names_each_call_once_and_knows_both_processors() -> None:
    rows = [
        row.split()
        for row in (sandbox.CALLS + "," + sandbox.PARTLY + "," + sandbox.ATTRIBUTES).split(",")
    ]
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)) > 150
    for column in (1, 2):
        numbers = [row[column] for row in rows if row[column] != "-"]
        assert len(numbers) == len(set(numbers))
    for machine in ("x86_64", "aarch64"):
        program = sandbox.Filter.for_machine(machine)
        assert program is not None
        code = program.code(own_files=False)
        assert len(code) % 8 == 0 and len(code) // 8 < 4096, "the kernel takes so many instructions"
    assert sandbox.Filter.for_machine("riscv64") is None
