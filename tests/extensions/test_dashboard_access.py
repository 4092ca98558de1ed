"""Who may ask the dashboard for what; each rule is tried on each route, from the route table."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web

import llm_stresstest as st
from tests.extensions import odd_runs

pytest.importorskip("aiohttp_sse", reason="needs the group dashboard")
from extensions import dashboard, pages

TOKEN = "a token of 23 characters"
NAMES = {"name": "made", "base": "made", "kind": "json"}
READ = [route for route in dashboard.ROUTES if route.method == "GET"]
CHANGING = [route for route in dashboard.ROUTES if route.method != "GET"]


def path_of(route: dashboard.Route, board: dashboard.Dashboard) -> str:
    """Return an address that the route answers with 200."""
    if route.path == "/assets/{name}":
        return board.vega.path
    return re.sub(r"\{(\w+)\}", lambda found: NAMES[found.group(1)], route.path)


def called(route: dashboard.Route) -> str:
    return f"{route.method} {route.path}"


MADE: dict[Path, OrderedDict[str, Path]] = {}


class Serving:
    """A dashboard on a real socket, and a client that sends what it is told to."""

    def __init__(self, board: dashboard.Dashboard, session: aiohttp.ClientSession) -> None:
        self.board, self.session = board, session
        self.host = f"127.0.0.1:{board.settings.port}"

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, str]:
        """Return the status, the headers, and the start of the body: a stream has no end."""
        headers = options.pop("headers", {})
        url = yarl.URL(f"http://{self.host}{path}", encoded=True)  # "..", as it is
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as response:
            body = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    20 if "event-stream" not in response.content_type else 3
                ):
                    async for block in response.content.iter_any():
                        body += block
                        if "event-stream" in response.content_type:
                            break
            return response.status, response.headers, body.decode(errors="replace")

    def own(self, **more: str) -> dict[str, str]:
        """Return what this dashboard's own page sends with a change."""
        return {
            "Origin": f"http://{self.host}",
            "X-Token": self.board.guard.page_token,
            "Content-Type": "application/json",
            **more,
        }


@contextlib.asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Serving]:
    sock = dashboard._listen("127.0.0.1", 0)
    made = dashboard.Settings(folder, port=sock.getsockname()[1], metrics=True, **settings)
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    board = dashboard.Dashboard(made, scratch)
    board.workshop._made = MADE.setdefault(folder, OrderedDict())  # a report takes a second
    runner = web.AppRunner(board.app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Serving(board, session)
    finally:
        board.hub.close()
        await runner.cleanup()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dash") / "results"
    odd_runs.synthetic(folder, 40, [2])
    return folder


async def test_each_route_answers_its_own_name_and_no_other(results: Path) -> None:
    async with serving(results) as server:
        for route in READ:
            path = path_of(route, server.board)
            status, _, body = await server.ask("GET", path)
            assert status in (200, 302), (called(route), body[:300])
            for host in (
                "evil.example",
                "127.0.0.1",
                f"127.0.0.1.evil.example:{80}",
                "",
                "localhost:1",
            ):
                status, _, _ = await server.ask("GET", path, headers={"Host": host})
                assert status in (400, 403), (called(route), host)
        for route in CHANGING:
            path = path_of(route, server.board)
            headers = server.own(Host="evil.example", Origin="http://evil.example")
            status, _, _ = await server.ask("POST", path, headers=headers, data="{}")
            assert status == 403, called(route)


async def test_a_change_wants_the_origin_the_token_and_json_on_each_route(results: Path) -> None:
    async with serving(results, allow_start=True, configs=(results,)) as server:
        for route in CHANGING:
            path = path_of(route, server.board)
            wrong: list[dict[str, str]] = [
                {"Origin": "http://evil.example"}, {"Origin": "null"},
                {"Origin": f"http://{server.host}.evil.example"}, {"Origin": "http://127.0.0.1"},
            ]  # fmt: skip
            if not route.open:
                wrong += [{"X-Token": "x"}, {"X-Token": ""}, {"Content-Type": "text/plain"}]
            for change in wrong:
                headers = server.own(**change)
                status, _, body = await server.ask("POST", path, headers=headers, data="{}")
                assert status in (403, 415), (called(route), change, body[:200])
            without = server.own()
            del without["Origin"]
            status, _, _ = await server.ask("POST", path, headers=without, data="{}")
            assert status == 403, called(route)
            if not route.open:
                status, _, body = await server.ask("POST", path, headers=server.own(), data="{}")
                assert status in (400, 404) and "error" in json.loads(body), (called(route), body)


async def test_a_wrong_method_is_refused_on_each_route(results: Path) -> None:
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    async with serving(results) as server:
        known = {(route.method, route.path) for route in dashboard.ROUTES}
        for route in dashboard.ROUTES:
            for method in methods:
                if (method, route.path) not in known:
                    path = path_of(route, server.board)
                    status, _, _ = await server.ask(method, path, headers=server.own())
                    assert status == 405, (method, route.path)


async def test_with_a_token_each_route_but_the_login_wants_it(results: Path) -> None:
    async with serving(results, token=TOKEN, token_env="DASH") as server:
        for route in dashboard.ROUTES:
            path = path_of(route, server.board)
            if route.open:
                continue
            for headers in (
                {}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"},
                {"Cookie": f"{dashboard.Guard.COOKIE}={TOKEN}"},
            ):  # fmt: skip
                sent = server.own(**headers) if route.method == "POST" else headers
                status, _, body = await server.ask(route.method, path, headers=sent)
                assert status == 401 and "made" not in body, called(route)
            good = {"Authorization": f"Bearer {TOKEN}"}
            sent = server.own(**good) if route.method == "POST" else good
            status, _, _ = await server.ask(route.method, path, headers=sent)
            assert status != 401, called(route)


async def test_the_login_form_gives_a_cookie_that_is_not_the_token(results: Path) -> None:
    async with serving(results, token=TOKEN, token_env="DASH") as server:
        status, headers, _ = await server.ask("GET", "/", headers={"Accept": "text/html"})
        assert (status, headers["Location"]) == (303, "/login")
        status, _, body = await server.ask("GET", "/login")
        assert status == 200 and "DASH" in body and TOKEN not in body
        assert server.board.guard.page_token not in body
        origin = {"Origin": f"http://{server.host}"}
        status, _, body = await server.ask(
            "POST", "/login", headers=origin, data={"token": "wrong"}
        )
        assert status == 403 and "not the token" in body
        status, headers, _ = await server.ask(
            "POST", "/login", headers=origin, data={"token": TOKEN}
        )
        cookie = headers["Set-Cookie"]
        assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        sent = {"Cookie": cookie.partition(";")[0]}
        for path in ("/", "/events", "/metrics", "/api/runs"):
            assert (await server.ask("GET", path, headers=sent))[0] == 200, path


async def test_each_response_keeps_other_sites_out(tmp_path: Path, results: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    odd_runs.synthetic(folder, 40, [2], "other")
    async with serving(folder) as server:
        addresses = [path_of(route, server.board) for route in READ]
        compared = "/compare?run=made&run=other"
        for path in [*addresses, compared, "/nothing", "/runs/none", "/assets/x.js"]:
            _, headers, body = await server.ask("GET", path, headers={"Accept": "text/html"})
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; "), path
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy, path
            if headers["Content-Type"].startswith("text/html"):
                assert_styled_by_its_own_sheet(policy, body)
            scripts = re.search(r"script-src ([^;]*)", policy)
            assert scripts is None or not re.search(r"\*|https?:|'self'", scripts.group(1))
            assert headers["X-Content-Type-Options"] == "nosniff", path
            assert headers["Referrer-Policy"] == "no-referrer", path
            assert headers["X-Frame-Options"] == "DENY", path
            assert "Access-Control-Allow-Origin" not in headers, path
            assert "aiohttp" not in headers["Server"].lower(), path


def assert_styled_by_its_own_sheet(policy: str, page: str) -> None:
    """Hold that the policy allows the page's one style sheet, and that no element has a style."""
    (sheet,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'; " in policy
    assert re.search(r"<[^>]*\sstyle\s*=", page.replace(sheet, "")) is None


def test_no_template_and_no_script_gives_an_element_a_style() -> None:
    templates = {**pages.TEMPLATES, "bar": pages.REPORT_BAR, "script": pages.SCRIPT}
    for name, text in templates.items():
        assert not re.search(r"""\bstyle\s*=|["']style["']|<style>(?!\{\{ style)""", text), name


async def test_another_sites_page_gets_nothing_though_it_may_link_here(results: Path) -> None:
    async with serving(results) as server:
        for route in READ:
            path = path_of(route, server.board)
            cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
            assert (await server.ask("GET", path, headers=cross))[0] == 403, called(route)
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert (await server.ask("GET", "/runs", headers=link))[0] == 200


NAMES_THAT_LEAD_OUT = (
    "..%2fsecret", "..", "%2e%2e%2fsecret", "..%5csecret", "%2fetc%2fpasswd", "made%00", "secret",
    "link", "folder", "pipe", ".hidden", "made.json", "MADE%20", "%F0%9F%92%A9", "a" * 4000,
)  # fmt: skip


async def test_no_name_leads_out_of_the_folder(tmp_path: Path, results: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    secret = tmp_path / "secret.json"
    shutil.copy(folder / "made.json", secret)
    (folder / "link.json").symlink_to(secret)
    (folder / "link.journal").symlink_to(secret)
    (folder / ".hidden.json").write_bytes(secret.read_bytes())
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    routes = [route for route in READ if "{name}" in route.path or "{base}" in route.path]
    assert len(routes) >= 5
    async with serving(folder) as server:
        for name in NAMES_THAT_LEAD_OUT:
            for route in routes:
                path = re.sub(r"\{(name|base)\}", name, route.path).replace("{kind}", "json")
                status, _, _ = await server.ask("GET", path)
                assert status in (400, 404), (called(route), name)
            status, _, _ = await server.ask("GET", f"/?run={name}")
            assert status in (400, 404), name
        status, _, body = await server.ask("GET", "/api/runs")
        assert [run["name"] for run in json.loads(body)["runs"]] == ["made"]


def refused(*arguments: str) -> str:
    with pytest.raises(st.ConfigError) as caught:
        dashboard._settings(dashboard._parser().parse_args(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_host_wants_a_token_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--token-env" in refused("--host", "0.0.0.0")
    monkeypatch.setenv("DASH", TOKEN)
    assert "--allow-host" in refused("--host", "0.0.0.0", "--token-env", "DASH")
    assert "--token-env" in refused("--host", "::", "--allow-host", "gpu1.lan")
    assert "--token-env" in refused("--allow-host", "gpu1.lan")
    monkeypatch.setenv("SHORT", "short-secret")
    said = refused("--host", "0.0.0.0", "--token-env", "SHORT", "--allow-host", "gpu1.lan")
    assert "16 characters" in said and "short-secret" not in said
    assert "SHORT2" in refused("--token-env", "SHORT2")
    assert "no host name" in refused("--token-env", "DASH", "--allow-host", "a b")
    good = ["--host", "0.0.0.0", "--token-env", "DASH", "--allow-host", "gpu1.lan", "10.0.0.7:80"]
    made = dashboard._settings(dashboard._parser().parse_args(good))
    hosts = dashboard.Guard(made).hosts
    assert hosts == {"gpu1.lan", "gpu1.lan:8787", "10.0.0.7:80"}, "and no loopback names"


def test_options_that_cannot_be_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "0 to 65535" in refused("--port", "70000")
    assert "no such folder" in refused("--results-dir", str(tmp_path / "none"))
    assert "--allow-start" in refused("--config", "config.json")
    assert "must be a name" in refused("--follow", "../x")
    with pytest.raises(st.ConfigError, match="cannot listen"):
        dashboard._listen("192.0.2.1", 0)


async def test_nothing_is_started_unless_that_was_allowed(results: Path) -> None:
    async with serving(results) as server:
        for route in CHANGING:
            if not route.open:
                status, _, body = await server.ask(
                    "POST", route.path, headers=server.own(), data='{"name": "x"}'
                )
                assert status == 403 and "--allow-start" in body, called(route)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "x", "server": "http://evil/v1"}, "server: cannot be set here"),
    ({"name": "x", "api_key_env": "HOME"}, "api_key_env: cannot be set here"),
    ({"name": "x", "hardware.power_command": "id"}, "cannot be set here"),
    ({"name": "../x"}, "must be a name"),
    ({"name": "--version"}, "must not begin"),
    ({"name": "made"}, "is taken"),
    ({"name": "x", "config": "/etc/passwd"}, "choose one of those"),
    ({"name": "x", "concurrent": "many"}, "concurrent"),
    ({"name": "x", "concurrent": -1}, "concurrent"),
    ({"name": "x", "max_tokens": "9" * 500}, "too long"),
    ({}, "is empty"),
    ({"name": ["x"]}, "plain values"),
]


async def test_a_run_can_only_be_asked_for_with_harmless_keys(
    results: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": "http://127.0.0.1:1/v1", "model": "m"}))
    async with serving(results, allow_start=True, configs=(config,)) as server:
        for asked, why in REFUSED:
            for path in ("/api/command", "/api/start"):
                status, _, body = await server.ask(
                    "POST", path, headers=server.own(), data=json.dumps(asked)
                )
                assert status in (400, 409) and why in json.loads(body)["error"], (asked, body)
        assert server.board.starter._started == {}


async def test_the_command_that_is_shown_does_the_same(results: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": "http://127.0.0.1:1/v1", "model": "m"}))
    async with serving(results, allow_start=True, configs=(config,)) as server:
        asked = {"name": "a b;rm", "concurrent": "[1, 2]", "temperature": 0.5}
        status, _, body = await server.ask(
            "POST", "/api/command", headers=server.own(), data=json.dumps(asked)
        )
        assert status == 200, body
        command = json.loads(body)["command"]
        assert "'a b;rm'" in command and "--set 'concurrent=[1, 2]'" in command
        assert "--set temperature=0.5" in command and f"--config {config}" in command


async def test_a_run_that_cannot_begin_says_why(results: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": "http://127.0.0.1:1/v1", "model": "m"}))
    async with serving(results, allow_start=True, configs=(config,)) as server:
        sent = json.dumps({"name": "dead", "questions": 2})
        status, _, body = await server.ask("POST", "/api/start", headers=server.own(), data=sent)
        assert status == 200 and json.loads(body)["page"] == "/?run=dead"
        async with asyncio.timeout(40):
            while "did not start" not in body:
                await asyncio.sleep(0.2)
                _, _, body = await server.ask("GET", "/?run=dead")
        assert "127.0.0.1:1" in body and "dead" in body
        assert server.board.index.journal("dead") is None


async def test_a_run_is_stopped_by_one_signal_however_often_that_is_asked(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(results, allow_start=True, configs=(results,)) as server:
        starter, sent = server.board.starter, list[tuple[int, int]]()
        monkeypatch.setattr(starter, "process_of", lambda name: 4242 if name == "one" else None)
        monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
        for _ in range(3):
            starter.stop("one")
        assert sent == [(4242, signal.SIGINT)], "a second one would end it at once"
        with pytest.raises(dashboard.Refusal, match="cannot be told for certain"):
            starter.stop("other")


async def test_a_name_that_no_address_can_hold_disturbs_nothing(
    results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    shutil.copy(folder / "made.json", folder / os.fsdecode(b"bad\xff.json"))
    (folder / "n\n<b>.journal").write_bytes(b"\x00\xff" * 100)
    async with serving(folder) as server:
        for path in ("/", "/runs", "/api/runs", "/metrics", "/runs.csv"):
            status, headers, body = await server.ask("GET", path)
            assert status == 200, path
            if headers["Content-Type"].startswith("text/html"):
                assert "&lt;b&gt;" in body and "\\n<b>" not in body, path
        assert [
            run["name"] for run in json.loads((await server.ask("GET", "/api/runs"))[2])["runs"]
        ] == ["made"]
