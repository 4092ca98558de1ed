"""The file system fails in each call: old files stay whole, what is kept is named, the code is right.

The faults are the kernel's own answers: strace puts them in place of what the calls return.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llm_stresstest as st
from tests.conftest import ROOT, Finished, Project, ScriptedServer, streams

JOURNAL, TEMPORARY, FOLDER = "results/run.journal", "results/.run.json.000000000000.tmp", "results"
# The temporary file has a name that a path filter knows.
DRIVER = "import sys, uuid, llm_stresstest as st; st.uuid.uuid4 = lambda: uuid.UUID(int=0); sys.exit(st.cli(sys.argv[1:]))"


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    traced = subprocess.run(["strace", "-f", "--seccomp-bpf", "-e", "trace=fsync", "true"], capture_output=True, check=False)  # fmt: skip
    return traced.returncode == 0


pytestmark = pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What fails, and how the run must end."""

    calls: str
    what: str  # as strace's inject= says it
    path: str | None  # only calls on this file
    code: int
    said: str = ""  # in the one line of an error
    options: tuple[str, ...] = ()
    resumes: bool = True  # whether --resume goes on after it


KEPT = "finished answers are kept in"
FAULTS = {
    "journal, first write, no space": Fault("write", "error=ENOSPC:when=1+", JOURNAL, 4, "nothing was asked", resumes=False),
    "journal, write, no space": Fault("write", "error=ENOSPC:when=4+", JOURNAL, 4, KEPT),
    "journal, write, I/O error": Fault("write", "error=EIO:when=4+", JOURNAL, 4, KEPT),
    "journal, one write, I/O error": Fault("write", "error=EIO:when=4", JOURNAL, 4, KEPT),
    "journal, write, quota": Fault("write", "error=EDQUOT:when=4+", JOURNAL, 4, KEPT),
    "journal, a write that lies": Fault("write", "retval=10:when=4", JOURNAL, 4, "was changed while the run wrote it"),
    "journal, a write that does nothing": Fault("write", "retval=0:when=4..6", JOURNAL, 0),
    "journal, fsync, I/O error": Fault("fsync", "error=EIO:when=1+", JOURNAL, 4, KEPT),
    "journal, fsync, no space": Fault("fsync", "error=ENOSPC:when=1+", JOURNAL, 4, KEPT),
    "journal, fsync, not there": Fault("fsync", "error=EINVAL:when=1+", JOURNAL, 0),
    "journal, flock, not there": Fault("flock", "error=ENOLCK:when=1+", JOURNAL, 0),
    "journal, open, no space": Fault("openat", "error=ENOSPC:when=1+", JOURNAL, 4, "cannot be written", resumes=False),
    "journal, open, read-only": Fault("openat", "error=EROFS:when=1+", JOURNAL, 4, "cannot be written", resumes=False),
    "journal, read, I/O error": Fault("read,pread64", "error=EIO:when=1+", JOURNAL, 4, KEPT),
    "journal, read, gone stale": Fault("read,pread64", "error=ESTALE:when=3+", JOURNAL, 4, KEPT),
    "journal, seek, not there": Fault("lseek", "error=ESPIPE:when=1+", JOURNAL, 4, KEPT),
    "journal, write, interrupted": Fault("write", "error=EINTR:when=4", JOURNAL, 0),
    "journal, write, too large": Fault("write", "error=EFBIG:when=4+", JOURNAL, 4, KEPT),
    "journal, close, I/O error": Fault("close", "error=EIO:when=1+", JOURNAL, 0),
    "journal, look, not allowed": Fault("newfstatat,lstat,stat,statx", "error=EACCES:when=1+", JOURNAL, 2, "cannot be used: Permission denied", resumes=False),
    "journal, mmap": Fault("mmap", "error=ENODEV:when=1+", JOURNAL, 0),
    "journal, removal": Fault("unlink,unlinkat", "error=EIO:when=1+", JOURNAL, 0, "cannot be removed"),
    "results, write, no space": Fault("write", "error=ENOSPC:when=1+", TEMPORARY, 4, KEPT),
    "results, write, I/O error": Fault("write", "error=EIO:when=1+", TEMPORARY, 4, KEPT),
    "results, a write that lies": Fault("write", "retval=100:when=1", TEMPORARY, 4, KEPT),
    "results, fsync, I/O error": Fault("fsync", "error=EIO:when=1+", TEMPORARY, 4, KEPT),
    "results, fsync, not there": Fault("fsync", "error=EINVAL:when=1+", TEMPORARY, 0),
    "results, close, I/O error": Fault("close", "error=EIO:when=1+", TEMPORARY, 4, KEPT),
    "results, seek, not there": Fault("lseek", "error=EIO:when=1+", TEMPORARY, 4, KEPT),
    "folder, open, not allowed": Fault("openat", "error=EACCES:when=1+", FOLDER, 0),
    "results, open, no space": Fault("openat", "error=ENOSPC:when=1+", TEMPORARY, 4, KEPT),
    "results, link, not there": Fault("link,linkat", "error=EPERM:when=1+", None, 0),
    "results, link, I/O error": Fault("link,linkat", "error=EIO:when=1+", None, 0),
    "results, link and rename": Fault("link,linkat,rename,renameat,renameat2", "error=EIO:when=1+", None, 4, KEPT),
    "results, rename over, I/O error": Fault("rename,renameat,renameat2", "error=EIO:when=1+", None, 4, KEPT, ("--overwrite",)),
    "results, rename over, no space": Fault("rename,renameat,renameat2", "error=ENOSPC:when=1+", None, 4, KEPT, ("--overwrite",)),
    "results, removal of the temporary file": Fault("unlink,unlinkat", "error=EIO:when=1+", TEMPORARY, 0),
    "folder, fsync, not there": Fault("fsync", "error=EINVAL:when=1+", FOLDER, 0),
    "folder, fsync, I/O error": Fault("fsync", "error=EIO:when=1+", FOLDER, 4, "is written, but its folder"),
    "folder, made, read-only": Fault("mkdir,mkdirat", "error=EROFS:when=1+", None, 4, "cannot be", resumes=False),
}  # fmt: skip


def run_with(fault: Fault, project: Project) -> Finished:
    """Run the program while the kernel answers some of its calls wrongly."""
    filters = [] if fault.path is None else ["-P", str(project.folder / fault.path)]
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", str(project.folder / "trace"), *filters]
    inject = ["-e", f"trace={fault.calls}", "-e", f"inject={fault.calls}:{fault.what}"]
    program = [sys.executable, "-c", DRIVER, "run", *fault.options]
    finished = subprocess.run(
        [*strace, *inject, *program], cwd=project.folder, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def complaints(finished: Finished) -> list[str]:
    lines = finished.err.splitlines()
    return [line for line in lines if not line.startswith(("connecting to ", "run is taken"))]


OLD = b'{"old": "and whole"}'


@dataclasses.dataclass
class Broken:
    """A run that met a fault."""

    fault: Fault
    project: Project
    server: ScriptedServer
    finished: Finished
    precious: list[Path]  # files that were there before


def meet(fault: Fault, folder: Path) -> Broken:
    """Run the program with a fault, in a folder and with a server of its own."""
    folder.mkdir()
    server = ScriptedServer()
    server.behaviour = streams("Hello", " world", pause_s=0.2)  # longer than it takes to sync
    project = Project(folder)
    project.configure(server=server.url, concurrent=1, questions=4)
    project.write("questions.json", json.dumps(["One?", "Two?", "Three?"]))
    results = folder / "results"
    if "made" not in fault.said and fault.calls != "mkdir,mkdirat":
        results.mkdir()
    precious = [results / "other.json", *([results / "run.json"] if fault.options else [])]
    for path in precious if results.exists() else []:
        path.write_bytes(OLD)
    return Broken(fault, project, server, run_with(fault, project), precious)


@pytest.fixture(scope="module")
def met(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Broken]]:
    """Run all that were chosen, some at a time: they mostly wait."""
    nodes = [node for node in request.session.items if "met" in getattr(node, "fixturenames", ())]
    names = [node.callspec.params["name"] for node in nodes]  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(6) as pool:
        places = [folder / str(place) for place in range(len(names))]
        made = list(pool.map(meet, [FAULTS[name] for name in names], places))
    yield dict(zip(names, made, strict=True))
    for broken in made:
        broken.server.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_file_system_costs_no_old_file_and_no_answer_that_could_be_kept(
    met: dict[str, Broken], name: str
) -> None:
    broken = met[name]
    fault, project, server, finished = broken.fault, broken.project, broken.server, broken.finished
    results = project.folder / "results"
    assert "Traceback" not in finished.err
    # 1: a machine too busy for a verdict.
    assert finished.code in ((fault.code, 1) if fault.code == 0 else (fault.code,)), finished.err
    assert not Path(project.folder / "core").exists()
    said = complaints(finished)
    assert len(said) == bool(fault.said), said
    assert fault.said in "".join(said)
    if results.exists() and fault.code:
        assert all(path.read_bytes() == OLD for path in broken.precious)
    if fault.code == 0:
        assert len(project.results()["results"]) == 4
        return
    if not fault.resumes:
        assert not (project.folder / JOURNAL).exists()
        return
    assert "run.journal" in said[0]
    kept = len(st.JournalReader(project.folder / JOURNAL))
    asked = len(server.requests)
    server.behaviour = streams("Hello", " world")
    again = project.run("run", "--resume", *fault.options)
    assert again.code in (0, 1), again.err
    assert len(server.requests) - asked == 4 - kept
    assert project.results()["aggregate"]["ok"] == 4
    assert sorted(path.name for path in results.iterdir()) == ["other.json", "run.json"]
