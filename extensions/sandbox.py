"""Run code that a model wrote, confined, and say whether its asserts hold.

    verdict = sandbox.run_confined(code, "assert add(1, 2) == 3")  # Verdict(error=None, layers=[…])
    missing = sandbox.shortcomings(verdict.layers)                 # [] where code is well confined

The code runs in a process of its own: this file, run by Python without any package. Each layer is
used where the system has it, because each alone has a weakness:

    limits      5 s, 512 MB of memory, 64 MB of disk, an empty environment; at the end the process
                group is killed. Linux and macOS (which does not enforce the memory limit); on
                Windows only the 5 s and the disk.
    namespaces  Linux, where unprivileged user namespaces are allowed (Docker's default profile does
                not): no network at all, no other process in sight, every mount read-only but 64 MB
                for the code, no /proc; when the code's first process ends, the kernel kills all
                others, also a daemon. Alone it lets files be read and Unix sockets be used.
    landlock    Linux 6.2, with namespaces 5.13: files outside Python's own and the code's folder
                can be neither read nor written; from 6.7 no TCP, from 6.12 no signals to others.
                Alone it leaves UDP, the modes and owners of files, and lets processes live on.
    seccomp     Linux on x86-64 and ARM64: only the system calls of the list below. No new process,
                no other program, no socket, no signal to others, no memory beside the limit. Where
                there are no namespaces, changing a file's mode, owner or times does nothing. It
                cannot tell one file from another.
    hook        everywhere: Python's audit hook refuses files outside, sockets, processes, ctypes.
                It stops what honest code does by mistake; code that means harm can get round it.

seccomp together with Landlock confines code that means harm, with or without namespaces. Where the
system has too little (macOS, Windows, old kernels) `--allow-code` says what is missing, and the
person who wants it all the same says `--allow-code=weak`.

No layer keeps code from lying about its own asserts: it runs in the interpreter that checks them.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import struct
import sys
import time
import types
import warnings
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    import subprocess

CODE_S = 5.0
START_S = 30.0  # until the code begins, on a machine that has no time
STARTED = b"started\n"
MEMORY_MB = 512
DISK_MB = 64
DISK_FILES = 4096
WATCH_S = 0.02  # how often the disk is looked at, where the kernel does not limit it
LAYERS = ("namespaces", "landlock", "seccomp", "hook")


# === In the process that grades ===


class Verdict(NamedTuple):
    """How code ended."""

    error: str | None  # None: every assert holds
    layers: list[str]  # those of LAYERS that the system has; empty when there is no verdict
    ran: bool = True  # False: the sandbox itself could not start


def run_confined(code: str, asserts: str, layers: Iterable[str] = LAYERS) -> Verdict:
    """Run code and its asserts, confined by the layers named, and return how that ended."""
    with Confined(code, asserts, layers) as child:
        return child.verdict()


def shortcomings(layers: Iterable[str]) -> list[str]:
    """Return what these layers do not keep code from; empty where they are enough."""
    held, missing = set(layers), []
    if "seccomp" not in held:
        missing.append("processes, sockets and signals (no seccomp)")
    if not held & {"namespaces", "landlock"}:
        missing.append("your files (neither namespaces nor Landlock)")
    elif "landlock" not in held:
        missing.append("reading your files (no Landlock)")
    return missing


class Confined:
    """A process that runs code; it ends with the block, or by `stop` from another thread."""

    def __init__(self, code: str, asserts: str, layers: Iterable[str] = LAYERS) -> None:
        self._task = {"code": code, "asserts": asserts, "layers": list(layers)}
        self._files = contextlib.ExitStack()
        self._stopped = False
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        # Imported here: the child, which runs this file, starts faster without them.
        import secrets  # noqa: PLC0415
        import subprocess  # noqa: PLC0415
        import tempfile  # noqa: PLC0415

        self._nonce = secrets.token_hex(16)
        with self._files as files:
            folder = files.enter_context(
                tempfile.TemporaryDirectory(prefix="llm-code-", ignore_cleanup_errors=True)
            )
            self._folder = os.path.realpath(folder)
            # Files, not pipes: a process that outlives the code cannot hold them open.
            task, self._written = (files.enter_context(self._file()) for _ in range(2))
            limits = {"cpu_s": max(1, round(CODE_S)), "memory": MEMORY_MB << 20}
            extra = {"folder": self._folder, "nonce": self._nonce}
            task.write(json.dumps({**self._task, **limits, **extra}).encode())
            task.seek(0)
            self._process = subprocess.Popen(  # noqa: S603 - Python itself
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", __file__],
                cwd=folder,
                env=_environment(),
                stdin=task,
                stdout=self._written,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # so that the whole group can be killed
            )
            self._files = files.pop_all()
        return self

    @staticmethod
    def _file() -> IO[bytes]:
        """Open a file without a name, on no disk if possible: an answer may hold a key."""
        import tempfile  # noqa: PLC0415

        if hasattr(os, "memfd_create"):
            return os.fdopen(os.memfd_create("llm-code"), "w+b")
        return tempfile.TemporaryFile()

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._files.close()

    def stop(self) -> None:
        """End the code now."""
        self._stopped = True
        self._kill()

    def verdict(self) -> Verdict:
        """Wait for the code to end, at most CODE_S, and return how it did."""
        stopped_for = self._wait()
        self._kill()
        self._written.seek(0)
        written = self._written.read()
        if not written.startswith(STARTED):
            return Verdict(f"the sandbox could not start ({stopped_for or 'it ended'})", [], False)
        if stopped_for is not None:
            return Verdict(stopped_for, [])
        for line in written.splitlines():
            # What stands behind the nonce is the child's; all else was written by the code.
            if line.startswith(self._nonce.encode()):
                return Verdict(**json.loads(line[len(self._nonce) :]))
        return Verdict("ended before its asserts did: it left, or memory or CPU time ran out", [])

    def _wait(self) -> str | None:
        """Wait for the end; return why the code had to be stopped, or None."""
        import subprocess  # noqa: PLC0415

        end, started = time.monotonic() + START_S, False
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(min(WATCH_S, CODE_S))
                return "was stopped" if self._stopped else None
            if not started and os.fstat(self._written.fileno()).st_size:
                end, started = time.monotonic() + CODE_S, True
            if not _fits_on_disk(self._folder):
                return f"used more than {DISK_MB} MB of disk or {DISK_FILES} files"
        return f"took longer than {CODE_S if started else START_S:g} s"

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except AttributeError:  # Windows
            self._process.kill()
        except (ProcessLookupError, PermissionError):  # all gone; macOS says it the second way
            pass
        self._process.wait()


def _environment() -> dict[str, str]:
    """Return the child's environment: empty, but for what Windows needs to start a process."""
    return {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if os.name == "nt" else {}


def _fits_on_disk(folder: str) -> bool:
    """Whether what the code has written is within its limits; a small look, often taken."""
    used = files = 0
    for place, folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(place, name))
                used += getattr(found, "st_blocks", -(-found.st_size // 512)) * 512
        files += len(names) + len(folders)
        if files > DISK_FILES or used > DISK_MB << 20:
            return False
    return True


# === In the child ===


def main() -> None:
    """Confine this process, run the code and its asserts, and write the verdict."""
    task = json.loads(sys.stdin.buffer.read())
    verdict, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    layers = Confinement(task["folder"], task["layers"], task["memory"], task["cpu_s"]).put_on()
    os.write(verdict, STARTED)
    error = _run(task["code"], task["asserts"])
    said = task["nonce"] + json.dumps({"error": error, "layers": layers})
    os.write(verdict, b"\n" + said.encode() + b"\n")
    os._exit(0)  # threads of the code do not keep it alive


def _run(code: str, asserts: str) -> str | None:
    """Run the code as a module, then each assert; return what failed first."""
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    warnings.simplefilter("ignore")
    step = ""
    try:
        exec(compile(code, "<answer>", "exec"), module.__dict__)  # noqa: S102 - in the sandbox
        for check in ast.parse(asserts).body:
            step = ast.unparse(check)
            exec(compile(ast.Module([check], []), "<assert>", "exec"), module.__dict__)  # noqa: S102
    except BaseException as error:  # noqa: BLE001 - also SystemExit: leaving is no way to pass
        if isinstance(error, AssertionError) and step:
            return f"does not hold: {step}"[:500]
        try:
            said = str(error)[:200]
        except BaseException:  # noqa: BLE001 - the code's own __str__
            said = ""
        return f"{type(error).__name__}: {said}" + (f" in {step}"[:200] if step else "")
    return None


class Confinement:
    """Puts the layers on this process, one after the other."""

    def __init__(self, folder: str, wanted: list[str], memory: int, cpu_s: int) -> None:
        self.folder, self.wanted = folder, wanted
        self.memory, self.cpu_s = memory, cpu_s  # bytes, seconds
        self.held: list[str] = []
        self.libc: Any = None

    def put_on(self) -> list[str]:
        """Put on the layers that are wanted and that the system has; return those."""
        if sys.platform == "linux":
            with contextlib.suppress(ImportError, OSError):  # a Python without ctypes
                import ctypes  # noqa: PLC0415

                self.libc = ctypes.CDLL(None, use_errno=True)
        if self.libc is None:
            self._limit()
        else:
            self._put_on_kernel_layers()
        if "hook" in self.wanted:
            Hook(self.folder).install()
            self.held.append("hook")
        return self.held

    def _limit(self) -> None:
        """Limit what this process and its children may use."""
        try:
            import resource  # noqa: PLC0415 - not on Windows
        except ImportError:
            return
        # Without a disk of its own the code could hide 64 open files that have no name any more.
        file_mb = 16 if "namespaces" in self.held else 1
        limits = {"CPU": self.cpu_s, "AS": self.memory, "FSIZE": file_mb << 20, "NOFILE": 64}
        limits |= {"CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0, "RTPRIO": 0}
        if self.libc is None or "seccomp" not in self.wanted:
            limits["NPROC"] = 64  # it counts all of the user's; with seccomp there is no new one
        for name, most in limits.items():
            # A limit that this system lacks, or has set lower.
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))

    # --- The kernel's layers

    def _put_on_kernel_layers(self) -> None:
        die_with_parent, no_new_privileges = 1, 38
        self.libc.prctl(die_with_parent, signal.SIGKILL, 0, 0, 0)
        if "namespaces" in self.wanted and self._enter_namespaces():
            self.held.append("namespaces")
        header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
        self.libc.capset(header, none)  # inside the namespaces it had every capability
        self.libc.prctl(no_new_privileges, 1, 0, 0, 0)
        if "namespaces" in self.held:
            self._go_on_in_child()  # becomes process 1, with which the others end; it runs no code
            self._go_on_in_child()
        os.chdir(self.folder)
        self._limit()
        if "landlock" in self.wanted and self._landlock():
            self.held.append("landlock")
        if "seccomp" in self.wanted and self._seccomp():
            self.held.append("seccomp")
        for name in ("ctypes", "_ctypes"):
            sys.modules.pop(name, None)

    def _go_on_in_child(self) -> None:
        """Go on in a child that dies with this process; this process waits for it and ends."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        die_with_parent = 1
        self.libc.prctl(die_with_parent, signal.SIGKILL, 0, 0, 0)

    def _enter_namespaces(self) -> bool:
        """Leave network, other processes and writable files behind; False where that is refused."""
        user, mounts, network, processes, ipc = (
            *(0x10000000, 0x20000, 0x40000000),
            *(0x20000000, 0x8000000),
        )
        ids = {"uid_map": os.getuid(), "gid_map": os.getgid()}
        others = mounts | network | processes | ipc
        if self.libc.unshare(user | others) and self.libc.unshare(others):  # the second as root
            return False
        with contextlib.suppress(OSError):  # without a name for its own user it is confined too
            for name, content in [
                ("setgroups", "deny"),
                *((name, f"{own} {own} 1") for name, own in ids.items()),
            ]:
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(content)
        read_only = struct.pack("=QQQQ", 1, 0, 1 << 18, 0)  # and private: nothing gets out
        mount_setattr, here, recursive = 442, -100, 0x8000
        if self.libc.syscall(mount_setattr, here, b"/", recursive, read_only, len(read_only)):
            return False  # Linux before 5.12
        no_setuid_devices_programs = 2 | 4 | 8
        limits = f"size={DISK_MB}m,nr_inodes={DISK_FILES},mode=0700".encode()
        own = (b"code", os.fsencode(self.folder), b"tmpfs", no_setuid_devices_programs, limits)
        if self.libc.mount(*own):
            return False
        self.libc.mount(b"none", b"/proc", b"tmpfs", 1, b"size=4k")
        return True

    def _landlock(self) -> bool:
        """Allow the files that the code needs and nothing else; False where that is not possible.

        https://docs.kernel.org/userspace-api/landlock.html
        """
        create, add, restrict = 444, 445, 446
        version = self.libc.syscall(create, None, 0, 1)
        if version < 1:
            return False
        rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
        read_file, read_folder = 1 << 2, 1 << 3
        execute, char_device, socket, block_device, ioctl = (1 << n for n in (0, 6, 9, 11, 15))
        rules = struct.pack("=QQQ", rights, 3, 3)  # files, TCP, abstract sockets and signals
        size = 8 if version < 4 else 16 if version < 6 else 24
        ruleset = self.libc.syscall(create, rules, size, 0)
        allowed = {
            path: read_file | (read_folder if os.path.isdir(path) else 0) for path in readable()
        }
        allowed[self.folder] = rights & ~(execute | char_device | socket | block_device | ioctl)
        for path, right in allowed.items():
            with contextlib.suppress(OSError):  # not on this system
                parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
                self.libc.syscall(add, ruleset, 1, struct.pack("=Qi", right, parent), 0)
                os.close(parent)
        confined: int = self.libc.syscall(restrict, ruleset, 0)
        os.close(ruleset)
        # Before the third version files could be emptied, unless their mounts are read-only.
        return confined == 0 and (version >= 3 or "namespaces" in self.held)

    def _seccomp(self) -> bool:
        """Let only the listed system calls through; False on a processor that is not known here.

        https://docs.kernel.org/userspace-api/seccomp_filter.html
        """
        import ctypes  # noqa: PLC0415

        program = Filter.for_machine(os.uname().machine)
        if program is None or struct.calcsize("P") != 8:
            return False
        code = program.code(own_files="namespaces" in self.held)
        kept = ctypes.create_string_buffer(code)
        address = struct.pack("HP", len(code) // 8, ctypes.addressof(kept))
        set_seccomp, filter_mode = 22, 2
        confined: int = self.libc.prctl(set_seccomp, filter_mode, address, 0, 0)
        return confined == 0


def readable() -> list[str]:
    """Return what the code may read: Python's own files, the libraries these need, time zones."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
    system += ["/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    return [*sys.path, f"{sys.base_prefix}/lib", *system]


# --- seccomp

# Each call with its number on x86-64 and on ARM64; "-" where there is none.
CALLS = """
    read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68,
    preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, open 2 -,
    openat 257 56, creat 85 -, close 3 57, close_range 436 436, stat 4 -, fstat 5 80, lstat 6 -,
    newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -,
    faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -,
    getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34,
    rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
    link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46,
    fallocate 285 47, flock 73 32, fsync 74 82, fdatasync 75 83, umask 95 166, sendfile 40 71,
    copy_file_range 326 285, fadvise64 221 223, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -,
    pipe2 293 59, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11,
    llistxattr 195 12, flistxattr 196 13, mmap 9 222, munmap 11 215, mprotect 10 226,
    mremap 25 216, msync 26 227, madvise 28 233, brk 12 214, mincore 27 232, membarrier 324 283,
    poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -,
    epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
    epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, recvfrom 45 207, recvmsg 47 212,
    shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209,
    setsockopt 54 208, futex 202 98, futex_waitv 449 449, set_robust_list 273 99,
    get_robust_list 274 100, rseq 334 293, set_tid_address 218 96, arch_prctl 158 -,
    sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121,
    sched_getscheduler 145 120, sched_get_priority_max 146 125, sched_get_priority_min 147 126,
    getpriority 140 141, getcpu 309 168, rt_sigaction 13 134, rt_sigprocmask 14 135,
    rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
    sigaltstack 131 132, pause 34 -, restart_syscall 219 128, nanosleep 35 101,
    clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
    time 201 -, times 100 153, alarm 37 -, getitimer 36 102, setitimer 38 103, getpid 39 172,
    gettid 186 178, getppid 110 173, getpgrp 111 -, getpgid 121 155, getsid 124 156,
    getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158,
    getresuid 118 148, getresgid 120 150, getrlimit 97 163, setrlimit 160 164, getrusage 98 165,
    sysinfo 99 179, uname 63 160, getrandom 318 278, wait4 61 260, waitid 247 95, exit 60 93,
    exit_group 231 94
"""
# These are let through for some of their arguments only.
PARTLY = """
    clone 56 220, clone3 435 435, socketpair 53 199, sendto 44 206, tgkill 234 131,
    prlimit64 302 261, fcntl 72 25, ioctl 16 29, prctl 157 167
"""
# These change what is not a file's content. Nothing but a read-only mount limits them to own files.
ATTRIBUTES = """
    chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55,
    lchown 94 -, fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88
"""


class Filter:
    """A program for seccomp, for one processor."""

    LOAD, EQUAL, AT_LEAST, ANY_BIT, GIVE = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of BPF
    ALLOW, REFUSE, ABSENT, PRETEND = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38, 0x50000  # EPERM, ENOSYS
    NEWEST = 463  # calls from this number on are newer than the list: the C library does without

    def __init__(self, architecture: int, column: int) -> None:
        self.architecture, self.column = architecture, column
        self.steps: list[tuple[int, int, int, int]] = []

    @classmethod
    def for_machine(cls, machine: str) -> Filter | None:
        """Return the filter's builder for this processor; None when its calls are not known."""
        known = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
        return cls(*known[machine]) if machine in known else None

    def code(self, *, own_files: bool) -> bytes:
        """Return the program; `own_files`: what may be written at all is the code's own."""
        number, architecture, foreign = 0, 4, 0x40000000  # the numbers of x32
        self.steps = [(self.LOAD, 0, 0, architecture), (self.EQUAL, 1, 0, self.architecture)]
        self.steps += [(self.GIVE, 0, 0, self.REFUSE), (self.LOAD, 0, 0, number)]
        self.steps += [(self.AT_LEAST, 0, 1, foreign), (self.GIVE, 0, 0, self.REFUSE)]
        for call in self._numbers(CALLS).values():
            self._answer(call, self.ALLOW)
        for call in self._numbers(ATTRIBUTES).values():
            self._answer(call, self.ALLOW if own_files else self.PRETEND)
        self._partly_allowed()
        self.steps += [(self.AT_LEAST, 0, 1, self.NEWEST), (self.GIVE, 0, 0, self.ABSENT)]
        self.steps += [(self.GIVE, 0, 0, self.REFUSE)]
        return b"".join(struct.pack("=HBBI", *step) for step in self.steps)

    def _numbers(self, table: str) -> dict[str, int]:
        rows = (row.split() for row in table.replace("\n", " ").split(","))
        return {row[0]: int(row[self.column]) for row in rows if row[self.column] != "-"}

    def _answer(self, call: int, answer: int) -> None:
        self.steps += [(self.EQUAL, 0, 1, call), (self.GIVE, 0, 0, answer)]

    def _partly_allowed(self) -> None:
        calls = self._numbers(PARTLY)
        self._answer(calls["clone3"], self.ABSENT)  # its flags cannot be seen; clone is used then
        thread, unix, own = 0x10000, 1, os.getpid()
        self._when_bits(calls["clone"], thread)
        self._when_equal(calls["socketpair"], 0, [unix])
        self._when_equal(calls["tgkill"], 0, [own])
        self._when_equal(calls["prlimit64"], 0, [0])  # the limits of no other process
        self._when_equal(calls["sendto"], 4, [0])  # to the other end of a pair, and no address
        # Not F_SETOWN and F_SETSIG: they have the kernel send signals to others.
        self._when_equal(calls["fcntl"], 1, [*range(8), 36, 37, 38, 1030, 1031, 1032])
        self._when_equal(calls["ioctl"], 1, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451])
        self._when_equal(calls["prctl"], 0, [15, 16, 0x53564D41])  # names, of threads and memory

    def _when_equal(self, call: int, argument: int, values: list[int]) -> None:
        """Let a call through when an argument has one of the values, its upper half being 0."""
        low = 16 + 8 * argument
        steps = [(self.LOAD, 0, 0, low)]
        for place, value in enumerate(values):
            steps.append((self.EQUAL, len(values) - place, 0, value))
        steps += [(self.GIVE, 0, 0, self.REFUSE), (self.LOAD, 0, 0, low + 4)]
        steps += [
            (self.EQUAL, 1, 0, 0),
            (self.GIVE, 0, 0, self.REFUSE),
            (self.GIVE, 0, 0, self.ALLOW),
        ]
        self.steps += [(self.EQUAL, 0, len(steps), call), *steps]

    def _when_bits(self, call: int, bits: int) -> None:
        """Let a call through when its first argument has one of these bits."""
        steps = [(self.LOAD, 0, 0, 16), (self.ANY_BIT, 1, 0, bits)]
        steps += [(self.GIVE, 0, 0, self.REFUSE), (self.GIVE, 0, 0, self.ALLOW)]
        self.steps += [(self.EQUAL, 0, len(steps), call), *steps]


# --- The audit hook


class Hook:
    """Refuses, inside Python, what an answer has no use for."""

    REFUSED = (
        *(
            "ctypes.",
            "subprocess.",
            "os.system",
            "os.exec",
            "os.fork",
            "os.posix_spawn",
            "os.spawn",
        ),
        *("os.startfile", "os.kill", "signal.pthread_kill", "pty.", "os.link", "os.symlink"),
        *("os.chown", "os.chflags", "os.setxattr", "os.removexattr", "resource.prlimit", "winreg."),
        *("socket.connect", "socket.bind", "socket.send", "socket.get", "socket.set", "_winapi."),
    )
    CHANGING = frozenset(
        f"os.{name}"
        for name in ["remove", "rename", "rmdir", "mkdir", "truncate", "chmod", "utime", "chdir"]
    )
    # F_SETOWN, F_SETSIG, F_SETOWN_EX; F_SETLEASE and F_NOTIFY, which hold others up
    BY_FILE = (8, 10, 15, 1024, 1026)
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    # They reach other processes or memory beside the limit, and Python tells no hook of them.
    UNSEEN = (
        *("sched_setaffinity", "sched_setparam", "sched_setscheduler", "setpriority", "nice"),
        *("memfd_create", "mkfifo", "mknod", "pidfd_open", "setns", "unshare", "eventfd"),
    )

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.readable = [folder, *map(os.path.realpath, readable())]

    def install(self) -> None:
        """Take away what no hook is told of, and put the hook on. It cannot be taken off."""
        for name in self.UNSEEN:
            for module in (os, sys.modules.get("posix")):
                if hasattr(module, name):
                    delattr(module, name)
        with contextlib.suppress(ImportError):  # Windows
            import _posixsubprocess  # noqa: PLC0415

            _posixsubprocess.fork_exec = self._refuse  # type: ignore[assignment]
        sys.addaudithook(self.check)

    @staticmethod
    def _refuse(*_: Any) -> None:
        raise PermissionError("a new process is not allowed")

    def check(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise when the event is one that is refused."""
        if event == "import":
            self._check_import(str(args[0]), args[1])
        elif event == "socket.__new__":
            if args[1] != 1:  # asyncio uses a pair of AF_UNIX
                raise PermissionError(f"{event} is not allowed")
        elif event in {"open", "os.listdir", "os.scandir"}:
            writes = event == "open" and (args[2] or 0) & self.WRITING
            self._check_path(args[0], [self.folder] if writes else self.readable)
        elif event in self.CHANGING:
            if isinstance(args[0], int) and event != "os.truncate":
                raise PermissionError(f"{event} of an open file is not allowed")
            for path in args:
                self._check_path(path, [self.folder])
        elif event == "fcntl.fcntl":
            if args[1] in self.BY_FILE:
                raise PermissionError(f"{event} is not allowed")
        elif event.startswith(self.REFUSED):
            raise PermissionError(f"{event} is not allowed")

    def _check_import(self, name: str, file: Any) -> None:
        """Refuse modules of machine code that reach past the hook, by whatever name."""
        last = name.rpartition(".")[2]
        inside = isinstance(file, str) and os.path.realpath(file).startswith(self.folder + os.sep)
        if (
            last in {"ctypes", "_ctypes", "_posixshmem"}
            or inside
            or (file and last == "_posixsubprocess")
        ):
            raise ImportError(f"{name} is not allowed")

    @staticmethod
    def _check_path(path: Any, roots: list[str]) -> None:
        """Refuse a path that is not below a root, or that a `dir_fd` could lead astray."""
        if not isinstance(path, str | bytes | os.PathLike):  # an open descriptor, or no path
            return
        text = os.fsdecode(path)
        place = os.path.realpath(text)
        astray = not os.path.isabs(text) and ".." in text.replace(os.sep, "/").split("/")
        if astray or not any(place == root or place.startswith(root + os.sep) for root in roots):
            raise PermissionError(f"outside the code's folder: {place}")


if __name__ == "__main__":
    main()
