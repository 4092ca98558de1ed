"""Attacks on the sandbox, run as whatever user starts this: python sandbox_attacks.py FOLDER COMBINATION...

FOLDER holds sandbox.py. A combination is layers joined by "+", or "none". Prints a JSON object: for each
combination the layers that held, and the attacks that did something outside. test_sandbox_table.py reads it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Each is the body of a function that returns something true when it has done harm. `libc` is the C
# library, or None where the hook keeps it away; `call` makes a system call by number, on x86-64.
ATTACKS = {
    # other processes of the same user
    "prlimit": "import resource\nresource.prlimit(PID, resource.RLIMIT_CORE, (0, 0))\nreturn True",
    "affinity": "os.sched_setaffinity(PID, {0})\nreturn True",
    "scheduler": "os.sched_setscheduler(PID, os.SCHED_BATCH, os.sched_param(0))\nreturn True",
    "priority": "os.setpriority(os.PRIO_PROCESS, PID, 19)\nreturn True",
    "kill": "os.kill(PID, SIGNAL)\nreturn True",
    "tgkill": "return call(234, PID, PID, SIGNAL) == 0",
    "tkill": "return call(200, PID, SIGNAL) == 0",
    "sigqueue": "return call(129, PID, SIGNAL, ctypes.byref((ctypes.c_int * 32)(0, 0, -2))) == 0",
    "pidfd": "fd = call(434, PID, 0)\nreturn fd >= 0 and call(424, fd, SIGNAL, None, 0) == 0",
    "sigio": "import fcntl\nfcntl.fcntl(0, 8, PID)\nreturn True",
    "ptrace": "return call(101, 16, PID, 0, 0) == 0 and (call(101, 17, PID, 0, 0), True)[1]",
    "read memory": "return call(310, PID, None, 0, None, 0, 0) == 0",
    "ioprio": "return call(251, 1, PID, 2 << 13) == 0",
    "migrate pages": "m = ctypes.c_ulong(1)\nreturn call(256, PID, 2, ctypes.byref(m), ctypes.byref(m)) == 0",
    "write memory": "return call(311, PID, None, 0, None, 0, 0) == 0",
    "compare": "return call(312, PID, PID, 1, 0, 0) == 0",
    "limits by number": "r = (ctypes.c_uint64 * 2)()\nreturn call(302, PID, 4, None, r) == 0",
    "process group": "return call(62, -PID, SIGNAL) == 0 or call(62, -1, 0) == 0",
    "environment": "return open(f'/proc/{PID}/environ', 'rb').read()",
    "its files": "return os.readlink(f'/proc/{PID}/fd/0') or os.open(f'/proc/{PID}/fd/0', os.O_RDONLY)",
    "its root": "return os.listdir(f'/proc/{PID}/root/') or open(f'/proc/{PID}/root' + FILE).read()",
    "oom score": "open(f'/proc/{PID}/oom_score_adj', 'w').write('500')\nreturn True",
    # new processes
    "fork": "pid = os.fork()\npid or os._exit(0)\nos.waitpid(pid, 0)\nreturn True",
    "vfork": "pid = call(57)\npid or os._exit(0)\nreturn pid > 0 and os.waitpid(pid, 0)",
    "clone": "pid = call(56, 17, 0, 0, 0, 0)\npid or os._exit(0)\nreturn pid > 0 and os.waitpid(pid, 0)",
    "clone3": "a = (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)\npid = call(435, a, 64)\npid or os._exit(0)\nreturn pid > 0",
    "fork_exec": "import subprocess\nreturn subprocess.run(['/bin/true']).returncode == 0",
    "_fork_exec": "import _posixsubprocess as p\nr, w = os.pipe()\n"
    "pid = p.fork_exec([b'true'], [b'/bin/true'], True, (w,), None, None, -1, -1, -1, -1, -1, -1, r, w, "
    "False, False, -1, None, None, None, -1, None, False)\nreturn pid > 0 and os.waitpid(pid, 0)",
    "outlive the grader": "return call(157, 1, 0, 0, 0, 0) == 0",
    # files outside: modes, owners, times, contents
    "chmod": "os.chmod(FILE, 0o640)\nreturn os.stat(FILE).st_mode & 0o777 == 0o640",
    "chmod dir_fd": "os.chmod('file', 0o640, dir_fd=os.open(DIR, os.O_RDONLY))\n"
    "return os.stat(FILE).st_mode & 0o777 == 0o640",
    "chmod path fd": "fd = os.open(DIR, os.O_PATH)\nos.chmod('file', 0o640, dir_fd=fd)\n"
    "return os.stat(FILE).st_mode & 0o777 == 0o640",
    "fchmod": "os.fchmod(os.open(PYTHONS, os.O_RDONLY), MODE)\n"
    "return os.stat(PYTHONS).st_ctime_ns != PYTHONS_CTIME",
    "chown dir_fd": "fd = os.open(DIR, os.O_PATH)\nos.chown('file', os.getuid(), os.getgid(), dir_fd=fd)\n"
    "return os.stat(FILE).st_ctime_ns != CTIME",
    "utime": "os.utime(FILE, (1, 1))\nreturn os.stat(FILE).st_mtime == 1",
    "utime dir_fd": "fd = os.open(DIR, os.O_PATH)\nos.utime('file', (2, 2), dir_fd=fd)\nreturn os.stat(FILE).st_mtime == 2",
    "setxattr": "os.setxattr(FILE, 'user.x', b'x')\nreturn True",
    "truncate": "os.truncate(FILE, 0)\nreturn True",
    "empty": "os.open(FILE, os.O_RDONLY | os.O_TRUNC)\nreturn os.stat(FILE).st_size == 0",
    "write": "open(FILE, 'w').write('x')\nreturn True",
    "write dir_fd": "fd = os.open('/usr/lib', os.O_RDONLY)\nos.makedirs('a/b/c', exist_ok=True)\n"
    "os.makedirs('a' + DIR, exist_ok=True)\nos.chdir('a/b')\n"
    "f = os.open('../..' + FILE, os.O_WRONLY, dir_fd=fd)\nreturn os.write(f, b'x')",
    "read": "return open(FILE).read()",
    "read dir_fd": "return os.read(os.open('file', os.O_RDONLY, dir_fd=os.open(DIR, os.O_PATH)), 9)",
    "link": "os.link(FILE, 'mine')\nreturn True",
    "by a link": "os.symlink(DIR, 'd')\nreturn open('d/file').read()",
    "by a handle": "h = (ctypes.c_uint32 * 34)(128)\nm = ctypes.c_int()\nreturn call(303, -100, FILE.encode(), h, ctypes.byref(m), 0) == 0",
    "lease": "import fcntl\nfd = os.open(PYTHONS, os.O_RDONLY)\nfcntl.fcntl(fd, 1024, 0)\nreturn True",
    "watch": "n = call(294, 0)\nreturn n >= 0 and call(254, n, DIR.encode(), 0xfff) >= 0",
    "shared memory's folder": "open('/dev/shm/llm-test', 'w').close()\nos.remove('/dev/shm/llm-test')\nreturn True",
    "another folder": "open('/tmp/llm-test', 'w').close()\nos.remove('/tmp/llm-test')\nreturn True",
    # memory beside the limit
    "SysV memory": "n = call(29, 0, 1 << 20, 0o1600)\nreturn n >= 0 and (call(31, n, 0, 0), True)[1]",
    "memfd": "os.memfd_create('x')\nreturn True",
    "POSIX memory": "import _posixshmem\nfd = _posixshmem.shm_open('/llm-test', os.O_RDWR | os.O_CREAT, 0o600)\n"
    "_posixshmem.shm_unlink('/llm-test')\nreturn True",
    "message queue": "n = call(68, 0, 0o1600)\nreturn n >= 0 and (call(71, n, 0, 0), True)[1]",
    # sockets
    "sendto": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', SOCKET)\nreturn True",
    "sendto abstract": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', ABSTRACT)\nreturn True",
    "sendmsg": "s = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]\ns.sendmsg([b'x'], [], 0, SOCKET)\nreturn True",
    "connect": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(SOCKET)\nreturn True",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nreturn True",
    "raw socket call": "return call(41, 2, 2, 0) >= 0",
    # the kernel
    "keyring": "return call(248, b'user', b'x', b'x', 1, -2) >= 0",
    "asynchronous calls": "return call(425, 8, ctypes.byref((ctypes.c_uint32 * 30)())) >= 0 or call(206, 8, ctypes.byref(ctypes.c_ulong())) == 0",
    "page faults": "return call(323, 1) >= 0",
    "namespaces": "return call(272, 0x10000000) == 0",
    "timer": "t = ctypes.c_int()\nreturn call(222, 0, None, ctypes.byref(t)) == 0",
    "calls of 32 bits": "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"
    "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\nreturn ctypes.CFUNCTYPE(ctypes.c_int)(a)() > 0",
    "personality": "return call(135, 0x0040000) >= 0",
    # the hook
    "ctypes": "import ctypes as c\nreturn c.CDLL(None).getpid()",
    "ctypes by another name": "import importlib.machinery as m, importlib.util as u\n"
    "loader = m.ExtensionFileLoader('x._ctypes', CTYPES)\nmodule = u.module_from_spec(u.spec_from_loader('x._ctypes', loader))\n"
    "return module.dlopen(None, 0)",
    "machine code of its own": "import importlib.machinery as m, importlib.util as u, shutil\n"
    "shutil.copyfile(CTYPES, '_ctypes.so')\nloader = m.ExtensionFileLoader('_ctypes', '_ctypes.so')\n"
    "return u.module_from_spec(u.spec_from_loader('_ctypes', loader)).dlopen(None, 0)",
}

PROGRAM = """
import os, socket
try:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
except BaseException:
    ctypes = libc = None
def call(number, *args):
    if libc is None:
        raise PermissionError
    return libc.syscall(number, *args)
harm = 0
for place, (name, body) in enumerate(ATTACKS.items()):
    try:
        exec("def attack():\\n    " + body.replace("\\n", "\\n    "))
        if attack():
            harm |= 1 << place
    except BaseException:
        pass
"""


def main() -> None:
    """Run each combination named, and print what came of it."""
    sys.path.insert(0, sys.argv[1])
    import _ctypes

    import sandbox  # type: ignore[import-not-found]

    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as servers:
        victim = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        listening, abstract = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        listening.bind(f"{servers}/s")
        abstract.bind(f"\0llm-sandbox-{os.getpid()}")
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        for combination in sys.argv[2:]:
            file = Path(folder) / "file"
            file.write_text("precious")
            file.chmod(0o600)
            os.utime(file, (1000, 1000))

            known = {"PID": victim.pid, "FILE": str(file), "DIR": folder}
            known |= {"SIGNAL": int(signal.SIGCONT), "SOCKET": f"{servers}/s"}
            known |= {"ABSTRACT": abstract.getsockname(), "PORT": udp.getsockname()[1]}
            known |= {"CTIME": file.stat().st_ctime_ns, "PYTHONS": os.__file__}
            pythons = Path(os.__file__).stat()
            known |= {"MODE": pythons.st_mode & 0o7777, "PYTHONS_CTIME": pythons.st_ctime_ns}
            known |= {"CTYPES": _ctypes.__file__, "ATTACKS": ATTACKS}
            settings = "".join(f"{name} = {value!r}\n" for name, value in known.items())
            program = settings + PROGRAM
            layers = [] if combination == "none" else combination.split("+")
            listed = sandbox.run_confined(program, "raise ValueError(harm)", layers)
            said = listed.error.removeprefix("ValueError: ").partition(" in raise")[0]
            report[combination] = {
                "layers": listed.layers,
                "harm": [name for place, name in enumerate(ATTACKS) if int(said) >> place & 1]
                if said.isdecimal()
                else said,
                "victim": victim.poll(),
            }
        victim.kill()  # an attack may have stopped it
        victim.wait()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
