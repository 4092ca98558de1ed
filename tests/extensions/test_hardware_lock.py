"""Two runs on one server know of each other, or wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from extensions import hardware

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file locks of POSIX")
HERE = [("127.0.0.1", 8000)]


def lock(folder: Path, *addresses: tuple[str, int]) -> hardware.ServerLock:
    return hardware.ServerLock(addresses or HERE, folder / "locks")


async def take(one: hardware.ServerLock, *, wait: bool = False) -> list[str]:
    said: list[str] = []
    await one.take(wait=wait, waiting=said.append)
    return said


async def test_a_run_alone_is_not_shared(tmp_path: Path) -> None:
    for _ in range(3):
        only = lock(tmp_path)
        await take(only)
        only.release()
        assert not only.shared


async def test_two_runs_both_know_whoever_ends_first(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    await take(first)
    await take(second)
    assert second.shared
    second.release()
    first.release()
    assert first.shared

    first, second = lock(tmp_path), lock(tmp_path)
    await take(first)
    await take(second)
    first.release()
    assert first.shared
    second.release()
    assert second.shared


async def test_a_third_run_that_comes_when_the_first_has_ended_knows_of_the_second(
    tmp_path: Path,
) -> None:
    first, second, third = lock(tmp_path), lock(tmp_path), lock(tmp_path)
    await take(first)
    await take(second)
    first.release()
    await take(third)
    assert third.shared
    third.release()
    second.release()
    after = lock(tmp_path)
    await take(after)
    after.release()
    assert not after.shared, "what is over is over"


async def test_waiting_runs_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.ServerLock, "POLL_S", 0.01)
    at_once, most, said = 0, 0, list[str]()

    async def run() -> None:
        nonlocal at_once, most
        mine = lock(tmp_path)
        said.extend(await take(mine, wait=True))
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        mine.release()
        assert not mine.shared

    await asyncio.gather(*(run() for _ in range(4)))
    assert most == 1
    assert len(said) == 3, "each one that waits says so once"
    assert "--wait" in said[0]


async def test_a_waiting_run_can_be_stopped(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    await take(first)
    waiting = asyncio.create_task(take(second, wait=True))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    first.release()
    assert not first.shared, "who only waited has disturbed nobody"


async def test_other_ports_and_other_hosts_are_other_servers(tmp_path: Path) -> None:
    one = lock(tmp_path, ("127.0.0.1", 8000))
    others = [lock(tmp_path, ("127.0.0.1", 8001)), lock(tmp_path, ("192.0.2.1", 8000))]
    await take(one)
    for other in others:
        await take(other)
        assert not other.shared


async def test_all_names_of_this_machine_are_one_server(tmp_path: Path) -> None:
    one, two = (
        lock(tmp_path, ("::1", 8000), ("127.0.0.1", 8000)),
        lock(tmp_path, ("127.0.0.1", 8000)),
    )
    await take(one)
    await take(two)
    assert two.shared


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys, os, signal; from extensions import hardware;"
        "one = hardware.ServerLock([('127.0.0.1', 8000)], pathlib.Path(sys.argv[1]));"
        "asyncio.run(one.take(wait=False, waiting=print)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(hardware.__file__).parent.parent
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "locks")], cwd=root, check=False)
    assert (tmp_path / "locks" / "loopback-8000.lock").exists()
    mine = lock(tmp_path)
    asyncio.run(take(mine))
    mine.release()
    assert not mine.shared


async def test_the_folder_is_the_users_alone(tmp_path: Path) -> None:
    mine = lock(tmp_path)
    await take(mine)
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o700
    mine.release()


@pytest.mark.parametrize("kind", ["link", "open", "file"])
async def test_a_folder_that_others_could_have_made_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    elif kind == "open":
        (tmp_path / "locks").mkdir()
        (tmp_path / "locks").chmod(0o777)
    else:
        (tmp_path / "locks").write_text("")
    with pytest.raises(OSError, match=r"is no folder|this user's alone"):
        await take(lock(tmp_path))


async def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir(mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "locks" / "loopback-8000.guests").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        await take(lock(tmp_path))
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://127.0.0.1:8000/v1", 8000), ("http://localhost/v1", 80), ("https://127.0.0.1", 443)],
)
async def test_a_url_is_resolved_to_address_and_port(url: str, port: int) -> None:
    found = await hardware.resolve(url)
    assert ("127.0.0.1", port) in found
    assert all(hardware.is_local(address) for address, _ in found)


async def test_a_name_that_is_none_has_no_address() -> None:
    assert await hardware.resolve("http://no-such-host.invalid:80/") == []
    assert not hardware.is_local("192.0.2.7")
    nobody = hardware.ServerLock([])
    await take(nobody)
    nobody.release()
    assert not nobody.shared
