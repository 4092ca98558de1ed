"""The dashboard against odd requests, odd names, and journals that another program has written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st

pytest.importorskip("aiohttp_sse", reason="needs the group dashboard")
from extensions import dashboard, live, pages, runs
from tests.extensions import odd_runs
from tests.extensions.test_dashboard_access import TOKEN, Serving, serving
from tests.extensions.test_live_following import Writer

EN, DE = pages.Words("en"), pages.Words("de")
HTML = {"Accept": "text/html"}


def crashed(folder: Path, name: str = "run") -> Path:
    """Write the journal of a run that was killed after two answers."""
    folder.mkdir(exist_ok=True)
    writer = Writer(folder)
    writer.answer(0, 2000)
    writer.answer(1, 3000)
    writer.die()
    return writer.path.rename(writer.path.with_name(f"{name}.journal"))


def allowed(folder: Path) -> dict[str, Any]:
    """Return the settings that let a dashboard start runs."""
    config = folder.parent / "config.json"
    config.write_text(json.dumps({"server": "http://127.0.0.1:9/v1", "model": "m"}))
    return {"allow_start": True, "configs": (config,)}


# Requests


async def sent_raw(server: Serving, *lines: bytes) -> bytes:
    """Return the first line of what is answered to a head of these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.board.settings.port)
    writer.write(b"\r\n".join([*lines, b"Host: " + server.host.encode(), b"", b""]))
    answer = await reader.readline()
    writer.close()
    return answer


@contextlib.asynccontextmanager
async def doors(folder: Path, most: int) -> AsyncIterator[tuple[str, int]]:
    """Serve a dashboard as the program does; yield its name and port."""
    sock = dashboard._listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    board = dashboard.Dashboard(dashboard.Settings(folder, port=port), folder)
    opened = dashboard.Doors(board.app)
    opened.most = most
    await opened.open(sock)
    try:
        yield f"127.0.0.1:{port}", port
    finally:
        board.hub.close()
        await opened.close()


async def test_more_connections_than_there_is_room_for_are_closed_at_once(tmp_path: Path) -> None:
    async with doors(tmp_path, most=2) as (host, port):
        first, second = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        third = await asyncio.open_connection("127.0.0.1", port)
        assert await third[0].read() == b""
        first[1].write(f"GET /api/runs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b" 200 " in await first[0].readline()
        for _, writer in (first, second, third):
            writer.close()


async def test_a_head_that_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard.Doors, "IDLE_S", 0.1)
    async with doors(tmp_path, most=9) as (host, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nX-More:".encode())
        assert await reader.read() == b""
        writer.close()


async def test_a_body_that_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard.Dashboard, "BODY_S", 0.1)
    async with serving(tmp_path, token=TOKEN) as server:
        length = b"Content-Length: 100"
        kind = b"Content-Type: application/x-www-form-urlencoded"
        origin = b"Origin: http://" + server.host.encode()
        answer = await sent_raw(server, b"POST /login HTTP/1.1", origin, kind, length)
        assert b" 403 " in answer


async def test_a_secret_in_any_encoding_is_only_wrong(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results").parent
    async with serving(folder, **allowed(folder)) as server:
        head = b"Origin: http://" + server.host.encode()
        answer = await sent_raw(server, b"POST /api/start HTTP/1.1", head, b"X-Token: \xff\xfe")
        assert b" 403 " in answer
    async with serving(folder, token=TOKEN) as server:
        for secret in (
            b"Authorization: Bearer \xff\xfe",
            b"Cookie: " + dashboard.Guard.COOKIE.encode() + b"=\xff\xfe",
        ):
            assert b" 401 " in await sent_raw(server, b"GET /api/runs HTTP/1.1", secret)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded; charset=none-such", b"token=x"),
        ("application/x-www-form-urlencoded", b"\xff\xff"),
        ("multipart/form-data", b"token=x"),
        ("multipart/form-data; boundary=x", b"token=x"),
        ("text/plain", b"token=x"),
    ],
)
async def test_a_login_that_is_no_form_is_only_wrong(
    tmp_path: Path, content_type: str, body: bytes
) -> None:
    async with serving(tmp_path, token=TOKEN) as server:
        headers = {"Origin": f"http://{server.host}", "Content-Type": content_type}
        status, _, said = await server.ask("POST", "/login", headers=headers, data=body)
        assert status == 403, said


async def test_json_in_an_encoding_that_there_is_not_is_no_fault(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results").parent
    async with serving(folder, **allowed(folder)) as server:
        for charset, body in (("none-such", b"{}"), ("rot13", b"{}"), ("utf-8", b"\xff")):
            headers = server.own(**{"Content-Type": f"application/json; charset={charset}"})
            status, _, said = await server.ask("POST", "/api/start", headers=headers, data=body)
            assert status == 400, said


@pytest.mark.parametrize("path", ["//evil.example/", "/%2F%2Fevil.example", "/%5Cevil.example"])
async def test_the_switch_of_the_language_leads_to_no_other_site(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as server:
        _, _, page = await server.ask("GET", path, headers=HTML)
        [switch] = re.findall(r'<a href="([^"]*)" lang="de"', page)
        assert re.match(r"/[^/\\]", switch)


async def test_the_switch_of_the_language_keeps_what_was_asked_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        path = "/trend/a%20%23%3F%25?run=one&run=two&lang=en"
        _, _, page = await server.ask("GET", path, headers=HTML)
        switch = "/trend/a%20%23%3F%25?run=one&amp;run=two&amp;lang=de"
        assert f'<a href="{switch}" lang="de"' in page


async def test_names_that_no_run_has_are_drawn_once(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results").parent
    async with serving(folder) as server:
        await server.board.hub.look()
        for number in range(5):
            await server.board._render(f"none-{number}", EN)
        assert len(server.board._rendered) == 1


# What a page shows at first, and without its script


async def test_the_page_is_html_before_its_script_runs(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results").parent
    async with serving(folder) as server:
        _, _, page = await server.ask("GET", "/?run=run", headers=HTML)
        assert "<h1>run stopped without finishing, after 2 of 10 answers. 2 are saved.</h1>" in page
        assert "&lt;" not in page.partition("<main")[2].partition("</main>")[0]


async def test_a_start_that_failed_is_not_said_to_be_starting(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "view": None,
        "live": None,
        "notices": [],
        "more_notices": 0,
        "allow_start": True,
    }
    pending = [dashboard.Pending("new", "the command", "no such model")]
    notice = pages.Pages().parts(
        EN, pending=pending, others=[], reports=set(), can_stop=False, any_runs=True,
        last_finished=None, first_command="", **words,
    )["notices"]  # fmt: skip
    assert "did not start: no such model" in notice
    assert "Not started" in notice and "Starting" not in notice


def test_a_damaged_journal_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "run.journal").write_bytes(b"")
    run = live.LiveRun(tmp_path / "run.journal")
    run._is_alive = lambda: False  # type: ignore[method-assign]
    run.refresh()
    view = run.view()
    assert (view["state"], view["damage"]) == ("damaged", ["it has no first line of a journal"])
    assert pages.LivePage(view, EN).notice().endswith("it has no first line of a journal")
    [row] = runs.RunRows(EN, [], {"run": view}).rows
    assert row["note"].startswith("it has no first line of a journal")


# Names


async def test_the_name_of_a_tool_is_written_so_that_it_means_a_run(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results", "report").parent
    async with serving(folder, **allowed(folder)) as server:
        command = server.board.starter.command({"name": "dashboard"})
        assert command[2] == "./dashboard"
        assert " ./dashboard " in dashboard.shown_command(command)
        await server.board.hub.look()
        view = server.board.hub.views["report"]
        assert " ./report --resume" in view["resume_command"]
        assert " ./report " in view["command"]


async def test_a_name_that_ends_in_json_stays_one_run(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results", "x.json").parent
    async with serving(folder, **allowed(folder)) as server:
        await server.board.hub.look()
        view = server.board.hub.views["x.json"]
        for command in (
            server.board.starter.command({"name": "y.json.json"}),
            server.board.starter.resume_command("x.json", view),
        ):
            assert st.check_name(command[2]) in ("y.json", "x.json")
        assert " x.json.json --resume" in view["resume_command"]


async def test_a_name_that_turns_the_text_around_is_shown_with_escapes(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results", "\u202etxt").parent
    odd_runs.synthetic(folder, 1, [2])
    (folder / "made.json").rename(folder / "\u202eedam.json")
    async with serving(folder) as server:
        for path in ("/", "/?run=%E2%80%AEtxt", "/runs"):
            _, _, page = await server.ask("GET", path, headers=HTML)
            shown = re.sub(r'"[^"]*"', "", page)  # an address or a form's value is as it is
            assert "\\u202etxt" in shown and "\u202e" not in shown, path


# The list


async def test_runs_in_progress_stand_among_the_others_by_their_date(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "results", "old").parent
    odd_runs.synthetic(folder, 1, [2])
    index = runs.RunIndex(folder)
    run = live.LiveRun(folder / "old.journal")
    run.refresh()
    view = {**run.view(), "started": "2001-02-03T04:05:06+00:00"}
    rows = runs.RunRows(EN, index.entries(), {"old": view}).rows
    assert [row["name"] for row in rows] == ["made", "old"]


async def test_a_crash_is_news_to_the_list_though_no_file_came_or_went(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.answer(0, 2000)
    async with serving(tmp_path) as server:
        hub = server.board.hub
        hub._look()
        assert hub.views["run"]["state"] == "running"
        before = hub.version
        hub._look()
        assert hub.version == before
        writer.die()
        hub._look()
        assert hub.views["run"]["state"] == "crashed"
        assert hub.version > before


# Resuming


async def test_a_run_is_resumed_once_however_often_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = crashed(tmp_path / "results").parent
    async with serving(folder, **allowed(folder)) as server:
        starter, begun = server.board.starter, list[str]()

        def start(name: str, _command: list[str]) -> None:
            begun.append(name)

        monkeypatch.setattr(starter, "start", start)
        monkeypatch.setattr(starter, "_running", lambda: set(begun))
        asked = [
            server.ask("POST", "/api/resume", headers=server.own(), data='{"name": "run"}')
            for _ in range(3)
        ]
        statuses = sorted(status for status, _, _ in await asyncio.gather(*asked))
        assert (statuses, begun) == ([200, 409, 409], ["run"])


# Lines of a journal with a good checksum and odd content

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "x",
    "<b>",
    [],
    {},
    [[1]],
    {"a": 1},
    0.5,
    "2026-13-45",
)


def places(value: Any, where: tuple[Any, ...] = ()) -> Any:
    """Yield where something stands in a JSON value."""
    yield where
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*where, key))


def put(value: Any, where: tuple[Any, ...], odd: Any) -> Any:
    if not where:
        return odd
    return {**value, where[0]: put(value[where[0]], where[1:], odd)}


def whole_run(folder: Path) -> list[tuple[str, Any]]:
    """Return the kinds and contents of a journal with a line of each kind."""
    writer = Writer(folder, slo={"ttft_ms": 500})
    writer.pulse(1000)
    writer.answer(0, 2000, grader="exact")
    writer.fail(1, 2500)
    writer.pulse(3000)
    writer.journal.append("samples", {"t_ms": 10.0, "values": {"cpu_percent": 5.0, "gpu_w": 9}})
    client = {"loop_lag_ms": {"p95": 1.0}, "cpu_share": 0.1}
    footer = {"status": "complete", "duration_ms": 3000.0, "client": client, "gave_up": None}
    writer.journal.append("footer", footer)
    writer.journal.append("grade", {"index": 0, "turn": 0, "score": 1.0})
    writer.die()
    lines = map(json.loads, writer.path.read_bytes().splitlines())
    return [(line["kind"], line["content"]) for line in lines]


@pytest.mark.parametrize("kind", ["header", "result", "pulse", "samples", "footer", "grade"])
def test_no_line_of_another_program_spoils_the_page(tmp_path: Path, kind: str) -> None:
    lines = whole_run(tmp_path)
    made, drawn = pages.Pages(), 0
    path = tmp_path / "odd.journal"
    first = next(number for number, (name, _) in enumerate(lines) if name == kind)
    for where in places(lines[first][1]):
        for odd in ODD:
            content = put(lines[first][1], where, odd)
            if not isinstance(content, dict):
                continue
            changed = [*lines[:first], (kind, content), *lines[first + 1 :]]
            path.write_bytes(
                b"".join(
                    st.JournalLine.to_bytes(seq, name, each)
                    for seq, (name, each) in enumerate(changed)
                )
            )
            run = live.LiveRun(path)
            run.refresh()
            view = run.view()
            json.dumps(view, allow_nan=False)
            shown = pages.LivePage(view, DE)
            json.dumps(shown.panels(), allow_nan=False)
            made.parts(
                DE, view=view, live=shown, notices=[shown], more_notices=0, pending=[], others=[],
                reports=set(), allow_start=True, can_stop=True, any_runs=True, last_finished=None,
                first_command="",
            )  # fmt: skip
            assert runs.RunRows(DE, [], {"odd": view}).rows
            assert dashboard.open_metrics([view])
            assert live.Screen(view, 80, 40).lines()
            drawn += 1
    assert drawn > 10


def test_a_header_of_another_version_leaves_the_answers_to_be_seen(tmp_path: Path) -> None:
    lines = whole_run(tmp_path)
    header = {**lines[0][1], "config": {"a_key_of_tomorrow": 1}}
    (tmp_path / "run.journal").write_bytes(
        b"".join(
            st.JournalLine.to_bytes(seq, kind, content)
            for seq, (kind, content) in enumerate([("header", header), *lines[1:]])
        )
    )
    run = live.LiveRun(tmp_path / "run.journal")
    run.refresh()
    view = run.view()
    assert (view["done"], view["failed"], view["planned"], view["config"]) == (2, 1, None, None)


def test_a_place_that_no_run_has_is_a_damaged_line(tmp_path: Path) -> None:
    lines = whole_run(tmp_path)
    for number in (2**70, -1):
        odd = {**lines[2][1], "index": number}
        path = tmp_path / "run.journal"
        path.write_bytes(
            b"".join(
                st.JournalLine.to_bytes(seq, kind, content)
                for seq, (kind, content) in enumerate([lines[0], ("result", odd)])
            )
        )
        reader = st.JournalReader(path)
        assert (reader.ended, reader.lines) == (0, 1)
        assert reader.damage is not None


# Figures


def test_the_first_token_has_the_percentiles_that_its_limits_are_set_by(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.answer(0, 2000)
    run = live.LiveRun(writer.path)
    run.refresh()
    rows = {row["metric"]: row for row in run.view()["known"]}
    assert [name for name in rows if name.startswith("ttft")] == [
        "ttft_ms.p50", "ttft_ms.p90", "ttft_ms.p95", "ttft_ms.p99",
    ]  # fmt: skip
    assert rows["ttft_ms.p99"]["needs_more"] > rows["ttft_ms.p90"]["needs_more"] > 0


def test_a_run_of_hours_fills_a_part_of_its_charts_from_the_start(tmp_path: Path) -> None:
    writer = Writer(tmp_path, questions=1_000_000)
    for place in range(20):
        writer.answer(place, 2000 + 1000 * place)
    run = live.LiveRun(writer.path)
    run.refresh()
    view = run.view()
    assert view["eta_s"] > 100_000
    for panel in pages.LivePage(view, EN).panels():
        assert panel["ends"]["x_high"] <= 5 * view["elapsed_s"] + 40


def test_failures_have_a_strip_above_the_answers(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.answer(0, 2000)  # 100 ms to the first token, which would be the top of the axis
    before = follow_page(writer)
    writer.fail(1, 3000)
    assert follow_page(writer)["ends"]["y_high"] > before["ends"]["y_high"]


def follow_page(writer: Writer) -> dict[str, Any]:
    """Return the panel of the first tokens."""
    run = live.LiveRun(writer.path)
    run.refresh()
    return pages.LivePage(run.view(), EN).panels()[0]


def test_nothing_is_said_of_a_journal_before_all_of_it_is_read(tmp_path: Path) -> None:
    path = crashed(tmp_path)
    run = live.LiveRun(path)
    run.BUDGET_S = 0  # a line at a time
    run.refresh()
    assert run.view()["behind"]
    view = run.view()
    said = [pages.LivePage(view, EN).notice(), pages.LivePage(view, EN).headline]
    said += [row["note"] for row in runs.RunRows(EN, [], {"run": view}).rows]
    assert said == [EN("h_reading")] * 3
    assert "Reading the journal" in "\n".join(
        line.plain for line in live.Screen(view, 80, 24).lines()
    )


def test_a_journal_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    path = crashed(tmp_path)
    run = live.LiveRun(path)
    run.refresh()
    assert run.done == 2
    lines = path.read_bytes().splitlines(keepends=True)
    os.truncate(path, len(b"".join(lines[:-1])))
    run.refresh()
    assert run.done == 1


def test_runs_whose_names_look_alike_are_two_to_prometheus(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    views = []
    for name in ("a\\u202eb", "a\u202eb", 'a"b\nc', "a" * 220 + "1", "a" * 220 + "2"):
        run = live.LiveRun(crashed(tmp_path, name))
        run.refresh()
        views.append(run.view())
    text = dashboard.open_metrics(views).decode()
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    states = families["llm_stresstest_run_state"].samples
    assert {sample.labels["run"] for sample in states} == {view["name"] for view in views}


def test_the_address_that_is_said_is_one_that_may_be_asked_for() -> None:
    def said(**settings: Any) -> str:
        return dashboard.asked_by(dashboard.Settings(Path(), port=8787, **settings))

    assert said() == "127.0.0.1:8787"
    assert said(host="::1") == "[::1]:8787"
    assert said(host="0.0.0.0", token=TOKEN, allow_hosts=("gpu1.lan",)) == "gpu1.lan:8787"
    assert said(host="::", token=TOKEN, allow_hosts=("[fd00::1]",)) == "[fd00::1]:8787"
    assert said(host="::", token=TOKEN, allow_hosts=("gpu1.lan:443",)) == "gpu1.lan:443"


def test_an_address_of_ipv6_is_allowed_with_the_port_too() -> None:
    settings = dashboard.Settings(
        Path(), "::", 8787, token=TOKEN, allow_hosts=("[fd00::1]", "gpu1.lan", "gpu2.lan:443")
    )
    assert dashboard.Guard(settings).hosts == {
        "[fd00::1]", "[fd00::1]:8787", "gpu1.lan", "gpu1.lan:8787", "gpu2.lan:443",
    }  # fmt: skip


def test_what_runs_over_time_is_drawn_where_there_is_any(tmp_path: Path) -> None:
    writer = Writer(tmp_path, rate=5)
    writer.pulse(1000, queued=3)
    writer.answer(0, 2000)
    run = live.LiveRun(writer.path)
    run.refresh()
    panels = pages.LivePage(run.view(), DE).panels()
    assert [panel["name"] for panel in panels][:2] == ["first_token", "each_token"]
    assert {"in_flight", "queued"} <= {panel["name"] for panel in panels}
    assert all(panel["label"] and panel["note"] for panel in panels)


def test_failures_stand_on_the_page_with_how_often_and_when(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.answer(0, 2000)
    writer.fail(1, 3000, "<b>down</b>")
    run = live.LiveRun(writer.path)
    run.refresh()
    view = run.view()
    part = pages.Pages().parts(
        DE, view=view, live=pages.LivePage(view, DE), notices=[], more_notices=0, pending=[],
        others=[], reports=set(), allow_start=False, can_stop=False, any_runs=True,
        last_finished=None, first_command="",
    )["failures"]  # fmt: skip
    assert "1 von 2 Anfragen (50\u202f%)" in part
    assert "HTTP 503: &lt;b&gt;down&lt;/b&gt;" in part and "3,0\u202fs" in part
