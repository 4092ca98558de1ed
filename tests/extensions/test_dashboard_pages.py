"""What the dashboard says: of all runs, of a run in progress, in two languages, to programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Project, ScriptedServer, streams, wait_until
from tests.extensions import odd_runs
from tests.extensions.test_dashboard_access import serving

pytest.importorskip("aiohttp_sse", reason="needs the group dashboard")
from extensions import dashboard, live, pages, runs
from extensions.words import CAVEATS

EN, DE = pages.Words("en"), pages.Words("de")


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_texts_with_the_same_fields() -> None:
    for key, (english, german) in pages.TEXTS.items():
        assert fields(english) == fields(german), key
    assert all(english and german for english, german in CAVEATS.values())


def test_every_text_that_a_template_or_the_script_names_is_there_and_none_is_unused() -> None:
    source = "".join(Path(str(module.__file__)).read_text() for module in (pages, dashboard, runs))
    templates = "".join(pages.TEMPLATES.values())
    said = set(re.findall(r'say\("(\w+)"[,)]', templates))
    assert said - pages.TEXTS.keys() == set()
    assert set(pages.SCRIPT_WORDS) <= pages.TEXTS.keys()
    used = set(re.findall(r"""["'](\w+)["']""", source.split("class Words(", 1)[1]))
    made = ("state_", "h_", "p_", "v_", "_notice")
    unused = {key for key in pages.TEXTS if key not in used and not any(m in key for m in made)}
    assert unused <= {
        "ttft_ms",
        "tpot_ms",
        "e2e_ms",
        "wall",
        "gpu",
        "cpu_package",
        "battery",
        "dcgm_gpu",
    }


def test_numbers_are_written_as_their_readers_write_them() -> None:
    assert (EN.count(1213), DE.count(1213)) == ("1,213", "1.213")
    assert (EN.ms(1521), DE.ms(1521)) == ("1.52\u202fs", "1,52\u202fs")
    assert DE.interval((1180, 1800)) == "1,18 bis 1,80\u202fs"
    assert (EN.number(None), EN.count(None), EN.ms(None), EN.duration(None)) == ("–",) * 4
    assert [EN.duration(s) for s in (0, 71, 150, 11_000)] == [
        "0\u202fs", "71\u202fs", "2\u202fmin", "3\u202fh 03\u202fmin",
    ]  # fmt: skip
    assert DE.seconds(0.64) == "0,6"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-DE,de;q=0.9,en;q=0.8", "de"), ("en-US,en;q=0.9,de;q=0.8", "en"), ("fr,de;q=0.5", "de"),
        ("fr", "en"), ("", "en"), ("de;q=x", "en"), ("EN;q=0.1, DE;q=0.2", "de"),
    ],
)  # fmt: skip
def test_the_language_is_the_browsers_first_that_is_known(accepted: str, language: str) -> None:
    assert dashboard.preferred_language(accepted) == language


# A run in progress


def followed(folder: Path, name: str = "run") -> dict[str, Any]:
    run = live.LiveRun(folder / f"{name}.journal")
    run.refresh()
    return run.view()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the journal of a run that was killed after some answers."""
    server, project = ScriptedServer(), Project(tmp_path_factory.mktemp("crashed"))
    project.configure(server=server.url, questions=40, concurrent=2)
    project.write("questions.json", json.dumps(odd_runs.QUESTIONS))
    server.behaviour = streams("Hello", "<b>world</b>", pause_s=0.02)
    process = project.start("run", "--quiet")
    journal = project.folder / "results" / "run.journal"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if journal.exists() and journal.read_bytes().count(b'"kind":"result"') >= 6:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    server.close()
    assert journal.read_bytes().count(b'"kind":"result"') >= 6
    os.utime(journal, (time.time() - 60,) * 2)  # a minute ago
    return journal.parent


def test_a_crashed_run_says_what_is_saved_and_how_to_go_on(crashed: Path) -> None:
    view = followed(crashed)
    page = pages.LivePage(view, EN)
    assert view["state"] == "crashed"
    saved = view["saved"]
    assert page.headline == (
        f"run stopped without finishing, after {saved} of 40 answers. {saved} are saved."
    )
    parts = pages.Pages().parts(
        EN, view=view, live=page, notices=[page], more_notices=0, pending=[], others=[],
        reports=set(), allow_start=True, can_stop=False, any_runs=True, last_finished=None,
        first_command="x",
    )  # fmt: skip
    assert "--resume" in parts["notices"] and "/api/resume" in parts["actions"]
    assert "<b>world" not in parts["last"] and "&lt;b&gt;world" in parts["last"]


def test_each_state_has_a_headline_in_both_languages(crashed: Path) -> None:
    view = followed(crashed)
    states = (*pages.BUSY, "stopped", "crashed", "damaged", "finished")
    for words in (EN, DE):
        said = set()
        for state in states:
            page = pages.LivePage({**view, "state": state, "quiet_s": 12.0}, words)
            said.add(page.headline)
            assert "None" not in page.headline and "{" not in page.headline
            assert ("120" in page.silence or "10" in page.silence) == (state == "silent")
        assert len(said) >= len(states) - 1  # running and silent say the same


def test_a_run_that_is_nearly_done_is_not_said_to_be(crashed: Path) -> None:
    view = followed(crashed)
    view |= {"state": "running", "share": 0.9996, "eta_s": 1.2}
    assert pages.LivePage(view, EN).headline.startswith(
        "99\u202f% done, about 1\u202fs to go: 2 at"
    )


def test_charts_have_the_same_shape_while_only_numbers_change(crashed: Path) -> None:
    view = {**followed(crashed), "elapsed_s": 30.0}
    before = pages.LivePage(view, EN).panels()
    at, ms, level = view["series"]["answers"][-1]
    view["series"]["answers"].append([at + 0.1, ms, level])
    after = pages.LivePage({**view, "elapsed_s": 61.0}, EN).panels()
    assert [panel["name"] for panel in before] == [panel["name"] for panel in after]
    assert [panel["key"] for panel in before] == [panel["key"] for panel in after]
    assert before[0]["ends"] != after[0]["ends"]
    json.dumps(after, allow_nan=False)


@pytest.mark.parametrize("odd", ["empty", "none"])
def test_a_view_that_knows_nothing_is_shown(tmp_path: Path, odd: str) -> None:
    if odd == "empty":
        (tmp_path / "run.journal").write_bytes(b"")
    view = followed(tmp_path)
    for words in (EN, DE):
        page = pages.LivePage(view, words)
        assert page.headline and page.known == [] and page.last == []
        json.dumps(page.panels(), allow_nan=False)


# All runs


async def test_a_thousand_runs_are_listed_and_each_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    first = odd_runs.synthetic(folder, 200, [1, 2, 4, 8])
    content = first.read_bytes()
    for number in range(999):
        (folder / f"run{number}.json").write_bytes(content)
    reads, read = Counter[str](), runs.Entry.read

    def counted(path: Path, size: int) -> runs.Entry:
        reads[path.name] += 1
        return read(path, size)

    monkeypatch.setattr(runs.Entry, "read", counted)
    index = runs.RunIndex(folder)
    assert len(index.entries()) == 1000
    (folder / "run7.json").write_bytes(content + b"\n")
    assert len(index.entries()) == 1000
    assert reads.pop("run7.json") == 2 and set(reads.values()) == {1}
    async with serving(folder) as server:
        status, _, body = await server.ask("GET", "/runs")
        assert status == 200 and body.count("<tr data-name=") == 1000


async def test_damaged_files_are_listed_and_the_others_still_are(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    good = odd_runs.synthetic(folder, 20, [2])
    whole = good.read_bytes()
    bad = {
        "cut": whole[: len(whole) // 2],
        "text": b"<script>alert(1)</script>",
        "empty": b"",
        "list": b"[]",
        "nested": b"[" * 100_000,
        "no_stages": whole.replace(b'"stages"', b'"other"'),
        "words": whole.replace(b'"failed": 0', b'"failed": "none"'),
        "date": whole.replace(b"2026-11-25", b"yesterday!"),
    }
    for name, content in bad.items():
        (folder / f"{name}.json").write_bytes(content)
    async with serving(folder) as server:
        _, _, body = await server.ask("GET", "/api/runs")
        found = {run["name"]: run for run in json.loads(body)["runs"]}
        assert found.keys() == {"made", *bad}
        assert found["made"]["verdict"] == "VALID"
        for name in bad:
            assert found[name]["status"] == "damaged" and found[name]["wrong"], name
        status, _, page = await server.ask("GET", "/runs")
        assert status == 200 and page.count("DAMAGED") >= len(bad)
        assert "<script>alert" not in page
        for name in ("cut", "text"):
            status, _, _ = await server.ask("GET", f"/runs/{name}")
            assert status == 422, name


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    path = odd_runs.synthetic(folder, 20, [2])
    index = runs.RunIndex(folder)
    assert index.entries()[0].model == "m"
    changed = path.read_bytes().replace(b'"model": "m"', b'"model": "n"')
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    assert index.entries()[0].model == "n"
    path.unlink()
    assert index.entries() == []


def test_a_name_without_its_time_stamp_is_what_a_trend_goes_by() -> None:
    names = {
        "nightly": "nightly", "nightly_20261123-131500": "nightly", "a_20261123": "a_20261123",
        "a_20261123-131500_2": "a", "a_20261123-131500_20261124-131500": "a",
    }  # fmt: skip
    assert {name: runs.Entry(name, "", 0).base for name in names} == names


async def test_the_trend_of_a_name_is_drawn_over_its_dates(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    path = odd_runs.synthetic(folder, 40, [2], "nightly")
    for day in range(3):
        shutil.copy(path, folder / f"nightly_2026112{day}-130000.json")
    async with serving(folder) as server:
        status, _, body = await server.ask("GET", "/trend/nightly")
        assert status == 200 and "nightly on 4 dates" in body and body.count("data-spec=") == 3
        specs = json.loads(re.search(r'id="specs">(.*?)</script>', body).group(1))  # type: ignore[union-attr]
        rows = specs["specs"][0]["layer"][0]["data"]["values"]
        assert len(rows) == 4
        _, _, body = await server.ask("GET", "/runs")
        assert 'href="/trend/nightly"' in body and "4 dates" in body


async def test_the_change_of_a_trend_is_said_in_the_readers_language(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    from tests.extensions.test_compare_history import NIGHTLY, SLOW, nights

    folder = tmp_path / "results"
    nights(folder, [NIGHTLY] * 7 + [SLOW] * 6)
    for place, path in enumerate(sorted(folder.iterdir()), 1):
        path.rename(folder / f"nightly_202611{place:02}-030000.json")
    async with serving(folder) as server:
        for language, said in (("de", "langsamer seit"), ("en", "slower by")):
            _, _, body = await server.ask("GET", f"/trend/nightly?lang={language}")
            (change,) = re.findall(f'<p class="lede">[^<]*{said}[^<]*</p>', body)
            assert "2026-11-08" in change and "lang=" not in change


async def test_what_a_model_or_a_server_says_adds_nothing_to_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    path = odd_runs.synthetic(folder, 20, [2])
    text = "</script><script>alert(1)</script>'\"><img src=x onerror=alert(1)>{{7*7}}"
    odd_runs.edited(path, "nasty", model=text, engine=text, server=text)
    shutil.copy(path, folder / "<b>bold.json")
    async with serving(folder) as server:
        for address in ("/", "/runs", "/runs/nasty", "/trend/nasty", "/compare?run=nasty&run=made"):
            _, _, body = await server.ask("GET", address, headers={"Accept": "text/html"})
            assert "<script>alert" not in body and "<img src=x" not in body and body != "49", (
                address
            )
            assert "<b>bold" not in body
        _, headers, body = await server.ask("GET", "/runs.csv")
        assert headers["Content-Disposition"].startswith("attachment")
        status, _, body = await server.ask(
            "GET", "/runs/%3Cscript%3E", headers={"Accept": "text/html"}
        )
        assert (
            status == 404
            and "<script>" not in body.split("</style>")[1].split('id="words"')[0][:400]
        )


async def test_a_report_is_in_the_readers_language_and_a_choice_is_remembered(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "results"
    odd_runs.synthetic(folder, 40, [2])
    asked = {"Accept": "text/html", "Accept-Language": "de-AT,en;q=0.5"}
    async with serving(folder) as server:
        _, headers, body = await server.ask("GET", "/runs/made", headers=asked)
        assert '<html lang="de">' in body and "Die Hälfte der Antworten" in body
        assert "Accept-Language" in headers["Vary"] and "Set-Cookie" not in headers
        assert '<a href="/runs/made?lang=en" lang="en">English</a>' in body
        _, headers, body = await server.ask("GET", "/runs/made?lang=en", headers=asked)
        assert '<html lang="en">' in body and "Half of the answers" in body
        assert headers["Set-Cookie"].startswith("lang=en;")


async def test_downloads_are_the_file_and_its_tables(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the group checks")
    folder = tmp_path / "results"
    path = odd_runs.synthetic(folder, 20, [2])
    import io

    async with serving(folder) as server:
        _, headers, body = await server.ask("GET", "/download/made/json")
        assert body == path.read_text() and headers["Content-Type"] == "application/json"
        _, _, body = await server.ask("GET", "/download/made/csv")
        assert body.count("\n") == 21 and "An answer" in body
        german = {"Accept-Language": "de"}
        _, _, body = await server.ask("GET", "/download/made/csv", headers=german)
        assert ";" in body.splitlines()[0]
        assert (await server.ask("GET", "/download/made/exe"))[0] == 404
        for address in ("/download/made/xlsx", "/runs.xlsx"):
            async with server.session.get(f"http://{server.host}{address}") as response:
                book = openpyxl.load_workbook(io.BytesIO(await response.read()), read_only=True)
                assert len(book.sheetnames) >= 1
                book.close()


# For programs


async def test_the_data_of_a_run_in_progress_and_of_a_finished_one(
    crashed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(crashed, folder)
    odd_runs.synthetic(folder, 20, [2])
    async with serving(folder) as board:
        _, _, body = await board.ask("GET", "/api/runs")
        found = json.loads(body)
        assert [run["name"] for run in found["runs"]] == ["made"]
        assert [(run["name"], run["state"]) for run in found["live"]] == [("run", "crashed")]
        _, _, body = await board.ask("GET", "/api/runs/run")
        assert json.loads(body)["view"]["state"] == "crashed"
        _, _, body = await board.ask("GET", "/api/runs/made")
        assert {"meta", "aggregate", "name", "state"} == set(json.loads(body))
        async with board.session.get(f"http://{board.host}/events") as stream:
            kinds = []
            while "run" not in kinds:
                line = (await stream.content.readline()).decode()
                if line.startswith("event: "):
                    kinds.append(line[7:].strip())
            data = (await stream.content.readline()).decode()
            assert json.loads(data.removeprefix("data: "))["name"] == "run"


async def test_a_run_that_cannot_be_resumed_says_why(crashed: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "results", tmp_path / "config.json"
    shutil.copytree(crashed, folder)
    config.write_text(json.dumps({"server": "http://127.0.0.1:1/v1", "model": "m"}))
    async with serving(folder, allow_start=True, configs=(config,)) as board:
        status, _, body = await board.ask(
            "POST", "/api/resume", headers=board.own(), data='{"name": "run"}'
        )
        assert status == 200 and "--resume" in json.loads(body)["command"], body
        async with asyncio.timeout(40):
            while "did not start" not in body:
                await asyncio.sleep(0.2)
                _, _, body = await board.ask("GET", "/")
        assert "127.0.0.1" in body


async def test_metrics_are_open_metrics_with_gen_ai_names(crashed: Path) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    async with serving(crashed) as board:
        _, headers, body = await board.ask("GET", "/metrics")
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in parser.text_string_to_metric_families(body)}
        ttft = families["gen_ai_server_time_to_first_token_seconds"]
        assert {sample.labels["quantile"] for sample in ttft.samples} == {
            "0.5",
            "0.9",
            "0.95",
            "0.99",
        }
        assert all(0 < sample.value < 10 for sample in ttft.samples)
        states = families["llm_stresstest_run_state"].samples
        assert [s.labels["state"] for s in states if s.value] == ["crashed"]
        assert "llm_stresstest_requests_in_flight" not in families, "not known, so not 0"


def test_the_script_stays_small_and_the_pages_ask_no_network() -> None:
    assert pages.SCRIPT.count("\n") < 400
    source = "".join(pages.TEMPLATES.values()) + pages.SCRIPT
    assert not re.search(r"(src|href)=.https?:|@import|eval\(|new Function", source)


def test_the_lock_of_a_run_says_which_process_it_is(
    project: Project, server: ScriptedServer
) -> None:
    if not Path("/proc/locks").exists():
        pytest.skip("only Linux says who holds a lock")
    project.configure(server=server.url, questions=500, concurrent=1)
    server.behaviour = streams("Hello", pause_s=0.05)
    process = project.start("run", "--quiet")
    journal = project.folder / "results" / "run.journal"
    wait_until(journal.exists, process)
    try:
        assert dashboard.lock_holder(journal) == process.pid
        other = journal.with_name("other.journal")
        other.write_bytes(b"")
        assert dashboard.lock_holder(other) is None
        import fcntl

        with other.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert dashboard.lock_holder(other) is None, "pytest is no run"
    finally:
        process.kill()
        process.communicate()
    assert dashboard.lock_holder(journal) is None


def test_help_names_what_programs_can_ask(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dashboard.main(["--help"])
    shown = capsys.readouterr().out
    for route in dashboard.ROUTES:
        if route.path.startswith(("/api/runs", "/events", "/metrics")) and "page" not in route.path:
            path = route.path.replace("{name}", "NAME")
            assert path in shown and path in (dashboard.__doc__ or ""), path
    assert st.TOOLS["dashboard"].group == "dashboard"
