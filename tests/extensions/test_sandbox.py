"""What the sandbox promises: code that a model wrote does no harm, and passes only by its asserts.

Every attack runs against all layers together, and against single layers that must stop it alone: the
audit hook because it is the only one everywhere, the kernel's because the hook can be got round.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from extensions import sandbox

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's layers are Linux's")


@pytest.fixture(scope="module")
def held() -> list[str]:
    """Return the layers that this system has."""
    return sandbox.run_confined("", "assert True").layers


@pytest.fixture
def attack(held: list[str]) -> Callable[..., sandbox.Verdict]:
    """Run code as an answer, confined by all layers or by those named; skip where this system lacks one."""

    def run(
        code: str, layers: tuple[str, ...] = sandbox.LAYERS, asserts: str = "assert True"
    ) -> sandbox.Verdict:
        if layers != sandbox.LAYERS and not set(layers) <= set(held):
            pytest.skip(f"this system has only {held}")
        return sandbox.run_confined(code, asserts, layers)

    return run


ALL = sandbox.LAYERS
HOOK, NAMESPACES, LANDLOCK, SECCOMP = ("hook",), ("namespaces",), ("landlock",), ("seccomp",)


def name_of(layers: tuple[str, ...]) -> str:
    return "all" if layers == ALL else "+".join(layers)


def test_the_hook_holds_everywhere(held: list[str]) -> None:
    assert "hook" in held


def test_the_environment_of_the_code_is_empty(
    monkeypatch: pytest.MonkeyPatch, attack: Callable[..., Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os\nfound = [value for value in os.environ.values() if 'secret' in value]"
    assert attack(code, asserts="assert found == []").error is None


READ_ENVIRONMENTS = """
import os
found = []
for pid in [*map(str, range(1, 30000)), "self", "thread-self"] if SEARCH else [PID]:
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
        found.append(os.read(descriptor, 1000000))
    except OSError:
        pass
"""


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
def test_code_cannot_read_a_secret_of_the_grader_in_proc(
    layers: tuple[str, ...], attack: Callable[..., Any]
) -> None:
    environment = Path(f"/proc/{os.getpid()}/environ").read_bytes()
    if not environment:
        pytest.skip("this process has no environment")
    code = READ_ENVIRONMENTS.replace("SEARCH", "False").replace("PID", str(os.getpid()))
    assert (
        attack(code, layers, f"assert not any({environment[:8]!r} in text for text in found)").error
        is None
    )


@linux_only
def test_the_attack_on_proc_works_where_nothing_confines_it(attack: Callable[..., Any]) -> None:
    if os.geteuid() == 0:
        pytest.skip("the code is not root any more, whose environment it would read")
    environment = Path(f"/proc/{os.getpid()}/environ").read_bytes()
    code = READ_ENVIRONMENTS.replace("SEARCH", "False").replace("PID", str(os.getpid()))
    assert attack(code, (), f"assert {environment[:8]!r} in found[0]").error is None


@linux_only
def test_no_process_is_to_be_seen_in_proc(attack: Callable[..., Any]) -> None:
    code = READ_ENVIRONMENTS.replace("SEARCH", "True")
    assert attack(code, ALL, "assert found == []").error is None


WRITES = {
    "open": "open(PATH, 'w').write('x')",
    "append": "open(PATH, 'a').write('x')",
    "os.open": "import os\nos.write(os.open(PATH, os.O_CREAT | os.O_WRONLY), b'x')",
    "pathlib": "import pathlib\npathlib.Path(PATH).write_text('x')",
    "dot-dot": "open('../' * 20 + PATH.lstrip('/'), 'w').write('x')",
    "symlink": "import os\nos.symlink(os.path.dirname(PATH), 'd')\nopen('d/' + os.path.basename(PATH), 'w').write('x')",
    "mkdir": "import os\nos.mkdir(PATH)",
    "rename": "import os\nopen('own', 'w').close()\nos.rename('own', PATH)",
    "shutil": "import shutil\nopen('own', 'w').write('x')\nshutil.copy('own', PATH)",
    "sqlite": "import sqlite3\nsqlite3.connect(PATH).execute('create table t (n)')",
}


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
@pytest.mark.parametrize("way", WRITES)
def test_code_cannot_write_outside_its_folder(
    way: str, layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    if way == "sqlite" and layers == HOOK:
        pytest.skip("SQLite opens files without Python: the hook alone does not see it")
    target = tmp_path / "outside"
    error = attack(WRITES[way].replace("PATH", repr(str(target))), layers).error
    assert error is not None
    assert not target.exists()


@pytest.mark.parametrize("way", ["open", "os.open", "rename", "symlink", "sqlite"])
def test_the_writing_attacks_work_unconfined(
    way: str, tmp_path: Path, attack: Callable[..., Any]
) -> None:
    target = tmp_path / "outside"
    assert attack(WRITES[way].replace("PATH", repr(str(target))), ()).error is None
    assert target.exists()


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
def test_code_cannot_remove_or_change_a_file_outside(
    layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    ways = [
        "os.remove(PATH)",
        "os.truncate(PATH, 0)",
        "open(PATH, 'r+').truncate(0)",
        "os.rename(PATH, PATH + '2')",
    ]
    for way in ways:
        assert (
            attack("import os\n" + way.replace("PATH", repr(str(target))), layers).error is not None
        )
    assert target.read_text() == "precious"


@pytest.mark.parametrize("layers", [ALL, HOOK, LANDLOCK], ids=name_of)
def test_code_cannot_read_a_file_outside(
    layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-secret")
    assert "PermissionError" in str(attack(f"open({str(secret)!r}).read()", layers).error)


def test_code_can_use_files_in_its_own_folder(attack: Callable[..., Any]) -> None:
    code = (
        "import os, tempfile\nos.mkdir('d')\nopen('d/f', 'w').write('x')\nos.rename('d/f', 'g')\n"
    )
    code += "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
    assert (
        attack(code, ALL, "assert open('g').read() == 'x' and os.listdir('d') == []").error is None
    )


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """Listen on the loopback interface; yield the port, and what connected to it."""
    connected: list[Any] = []

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            connection.close()
            connected.append(address)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        yield server.getsockname()[1], connected
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=2).send(b'x')"


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK, SECCOMP], ids=name_of)
def test_code_cannot_reach_a_listening_server(
    layers: tuple[str, ...], listener: tuple[int, list[Any]], attack: Callable[..., Any]
) -> None:
    port, connected = listener
    assert attack(CONNECT.replace("PORT", str(port)), layers).error is not None
    assert connected == []


def test_the_attack_on_the_network_works_where_nothing_confines_it(
    listener: tuple[int, list[Any]], attack: Callable[..., Any]
) -> None:
    port, connected = listener
    assert attack(CONNECT.replace("PORT", str(port)), ()).error is None
    deadline = time.monotonic() + 5
    while not connected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(connected) == 1


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_code_cannot_send_a_datagram(layers: tuple[str, ...], attack: Callable[..., Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
        assert attack(code, layers).error is not None
        with pytest.raises(TimeoutError):
            server.recv(1)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(600)",
        "import threading\nthreading.Event().wait()",
    ],
)
def test_code_ends_at_its_limit(
    code: str, attack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CODE_S", 1)
    start = time.monotonic()
    assert attack(code).error is not None
    assert time.monotonic() - start < 4


def test_a_thread_of_the_code_does_not_keep_it_alive(attack: Callable[..., Any]) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    start = time.monotonic()
    assert attack(code).error is None
    assert time.monotonic() - start < sandbox.CODE_S


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(0.2)
"""


def survivors() -> list[int]:
    """Return the processes that still run the child's program."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if sandbox.__file__.encode() in command and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def survivors_after(seconds: float) -> list[int]:
    """Return the processes that are still there after a time, sooner when there is none."""
    deadline = time.monotonic() + seconds
    while survivors() and time.monotonic() < deadline:
        time.sleep(0.01)
    return survivors()


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_no_process_outlives_the_code(layers: tuple[str, ...], attack: Callable[..., Any]) -> None:
    attack(DAEMON, layers)
    assert survivors_after(2) == []


@linux_only
def test_the_daemon_lives_on_where_nothing_confines_it(attack: Callable[..., Any]) -> None:
    attack(DAEMON, ())
    left = survivors_after(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_a_fork_bomb_ends_with_the_code(
    layers: tuple[str, ...], attack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CODE_S", 1)
    bomb = "import os, time\nfor _ in range(6):\n    os.fork()\nos.setsid()\ntime.sleep(600)"  # 64: a failure is mild
    assert attack(bomb, layers).error is not None
    assert survivors_after(2) == []


@linux_only
def test_code_that_ends_the_processes_above_it_passes_nothing(attack: Callable[..., Any]) -> None:
    code = "import os, signal\nfor pid in (os.getppid(), 1, -1):\n    os.kill(pid, signal.SIGKILL)"
    assert attack(code).error is not None
    assert attack(code, (*NAMESPACES, *LANDLOCK)).error is None or survivors_after(2) == []


def test_a_memory_hog_fails_and_takes_no_more_than_its_limit(attack: Callable[..., Any]) -> None:
    assert str(attack("x = bytearray(2 << 30)").error).startswith("MemoryError")
    assert attack("x = bytearray(64 << 20)").error is None


def test_huge_output_goes_nowhere(attack: Callable[..., Any]) -> None:
    code = "import sys\nfor _ in range(40):\n    print('x' * 1000000)\n    sys.stderr.write('y' * 1000000)"
    assert attack(code).error is None


@linux_only
def test_a_file_cannot_grow_without_end(attack: Callable[..., Any]) -> None:
    code = "with open('big', 'wb') as file:\n    for _ in range(100):\n        file.write(bytes(1 << 20))"
    assert attack(code).error is not None


@linux_only
def test_many_files_cannot_fill_the_disk(attack: Callable[..., Any]) -> None:
    code = "for number in range(20):\n    open(str(number), 'wb').write(bytes(15 << 20))"
    assert "No space left" in str(attack(code, NAMESPACES).error)


@pytest.mark.parametrize("layers", [ALL, NAMESPACES, ()], ids=name_of)
def test_nothing_of_the_code_is_left_on_disk(
    layers: tuple[str, ...],
    tmp_path: Path,
    attack: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'w').write('x')\nos.chmod('a/b', 0)"
    assert attack(code, layers).error is None
    assert list(tmp_path.iterdir()) == []


FORGERY = """
import os
for descriptor in range(64):
    try:
        os.write(descriptor, b'{"error": null, "layers": []}')
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "import sys\nsys.exit()",
        "exit()",
        "raise KeyboardInterrupt",
        "import os\nos.abort()",
        "def f(:",
        "\x00",
        FORGERY,
        "class Liar(Exception):\n    def __str__(self): raise self\nraise Liar",
    ],
)
def test_leaving_before_the_asserts_or_forging_a_verdict_is_no_pass(
    code: str, attack: Callable[..., Any]
) -> None:
    assert attack(code, asserts="assert f() == 1").error is not None
    assert attack(code).error is not None


def test_an_assert_that_fails_or_raises_is_named(attack: Callable[..., Any]) -> None:
    code = "def f(n):\n    return n"
    assert (
        attack(code, asserts="assert f(1) == 1\nassert f(2) == 3").error
        == "does not hold: assert f(2) == 3"
    )
    assert "TypeError" in str(attack(code, asserts="assert f() == 1").error)
    assert attack(code, asserts="x = f(1)\nassert x == 1").error is None


def test_ctypes_is_out_of_reach(attack: Callable[..., Any]) -> None:
    assert "ImportError" in str(attack("import ctypes").error)
    assert "ImportError" in str(attack("import _ctypes").error)


ESCAPES = {
    "unmount": "libc.umount2(b'/proc', 2)",
    "remount": "libc.mount(None, b'/', None, 32 | 4096, None)",
    "nest": "libc.unshare(0x10020000)\nlibc.umount2(b'/proc', 2)\nlibc.mount(None, b'/', None, 32, None)",
    "join": "libc.setns(os.open('/proc/1/ns/mnt', 0), 0)",
    "clear": "libc.syscall(442, -100, b'/', 0x8000, struct.pack('=QQQQ', 0, 1, 0, 0), 32)",
}


@linux_only
@pytest.mark.parametrize("way", ESCAPES)
def test_the_namespaces_cannot_be_left(
    way: str, tmp_path: Path, attack: Callable[..., Any]
) -> None:
    """Without the hook and seccomp, as a program that got round them would try it."""
    target = tmp_path / "outside"
    code = "import ctypes, os, struct\nlibc = ctypes.CDLL(None)\n"
    code += f"try:\n    exec({ESCAPES[way]!r})\nexcept OSError: pass\n"
    code += f"try: open({str(target)!r}, 'w').write('x')\nexcept OSError: pass\nseen = os.listdir('/proc')"
    assert attack(code, NAMESPACES, "assert seen == []").error is None
    assert not target.exists()


@linux_only
def test_ordinary_code_finds_the_standard_library(attack: Callable[..., Any]) -> None:
    modules = "asyncio bisect collections dataclasses datetime decimal functools hashlib heapq itertools json math "
    modules += "random re "
    modules += "sqlite3 statistics string threading typing unittest uuid zlib zoneinfo concurrent.futures unicodedata"
    code = "".join(f"import {module}\n" for module in modules.split())
    code += "print(datetime.datetime.now(), zoneinfo.ZoneInfo('Europe/Berlin'), random.random(), uuid.uuid4())\n"
    code += "with concurrent.futures.ThreadPoolExecutor() as pool:\n    total = sum(pool.map(int, '123'))\n"
    assert attack(code, asserts="assert total == 6").error is None
