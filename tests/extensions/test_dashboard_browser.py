"""The dashboard in a browser: real runs that appear, progress, finish, stop, crash and go on."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Project, ScriptedServer, streams
from tests.extensions import odd_runs

pytest.importorskip("aiohttp_sse", reason="needs the group dashboard")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the group checks")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)")

WAIT_MS = 40_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Board:
    """A dashboard as a process, and pages that look at it; what their consoles say is kept."""

    def __init__(self, project: Project, browser: Any) -> None:
        self.project, self.browser = project, browser
        self.said: list[str] = []
        self.contexts: list[Any] = []
        self.process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self, *arguments: str, port: str = "0") -> None:
        results = self.project.folder / "results"
        results.mkdir(exist_ok=True)
        where = ["--results-dir", str(results), "--port", port, "--say-address"]
        self.process = self.project.start("dashboard", *where, *arguments)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.communicate()

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            out, err = self.process.communicate(timeout=20)
            assert (self.process.returncode, out, err) == (0, "", "")
            self.process = None

    def page(self, path: str = "", **options: Any) -> Any:
        context = self.browser.new_context(**{"locale": "en-US", **options})
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(self.address + path)
        self.contexts.append(context)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self.stop()


@pytest.fixture
def board(project: Project, browser: Any) -> Iterator[Board]:
    made = Board(project, browser)
    try:
        yield made
    finally:
        made.close()


def in_state(page: Any, state: str) -> None:
    page.wait_for_selector(f"body[data-state={state}]", state="attached")


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def slow(project: Project, server: ScriptedServer, questions: int = 400) -> None:
    """Let the run last long: 0.1 s an answer."""
    server.behaviour = streams("Hello", " world", pause_s=0.05)
    project.configure(server=server.url, questions=questions, concurrent=2)


def answers(project: Project, name: str = "run") -> int:
    with contextlib.suppress(OSError):
        journal = project.folder / "results" / f"{name}.journal"
        return journal.read_bytes().count(b'"kind":"result"')
    return 0


def test_a_run_started_from_the_page_appears_progresses_and_finishes(board: Board) -> None:
    pytest.importorskip("xllamacpp", reason="needs the group embedded")
    board.project.configure(server="embedded", model="smollm2-135m-instruct", max_tokens=24)
    questions = [f"What is {n} + {n}?" for n in range(8)]
    board.project.write("questions.json", json.dumps(questions))
    board.start("--allow-start")
    watching = board.page()
    assert "No runs yet." in watching.inner_text("h1")
    page = board.page("start")
    page.fill("[name=name]", "from_page")
    page.fill("[name=questions]", "24")
    until(lambda: "questions=24" in page.inner_text("#preview"))
    page.click("[type=submit]")
    for seen in (page, watching):
        in_state(seen, "running")
        assert re.search(r"\d.% done, about .+ to go: 2 at once", seen.inner_text("h1"))
        assert "SmolLM2".lower() in seen.inner_text("#part-who").lower()
        seen.wait_for_selector("#charts [data-drawn=yes] svg")
    page.reload()
    in_state(page, "running")
    for seen in (page, watching):
        in_state(seen, "finished")
    assert page.inner_text("h1") == "Finished: 24 answers, no failures."
    page.click("text=Open the report")
    page.wait_for_selector("html[data-drawn=yes]", state="attached")
    assert "Half of the answers start within" in page.inner_text("h1")
    page.click("nav >> text=Runs")
    assert page.inner_text("#runs h1") == "1 run finished."
    assert board.said == []


def test_a_run_is_stopped_and_saved_and_goes_on_from_the_page(
    board: Board, server: ScriptedServer
) -> None:
    slow(board.project, server, 60)
    board.start("--allow-start")
    page = board.page("start")
    page.fill("[name=name]", "run")
    page.click("[type=submit]")
    in_state(page, "running")
    page.click("text=Stop and save")
    in_state(page, "stopped")
    assert re.match(r"Stopped after \d+ of 60 answers. All \d+ are saved.", page.inner_text("h1"))
    until((board.project.folder / "results" / "run.json").exists)
    page.click("#part-actions >> text=Resume")
    in_state(page, "running")
    in_state(page, "finished")
    assert board.project.results()["aggregate"]["ok"] == 60
    assert board.said == []


def test_a_killed_run_is_shown_as_crashed_with_what_is_saved(
    board: Board, server: ScriptedServer
) -> None:
    slow(board.project, server)
    board.start()
    page = board.page(locale="de-DE", color_scheme="dark")
    process = board.project.start("run", "--quiet")
    in_state(page, "running")
    assert "erledigt" in page.inner_text("h1")
    until(lambda: answers(board.project) > 8)
    process.kill()
    process.communicate()
    page.wait_for_selector("#part-notices .crashed, body[data-state=crashed]", state="attached")
    page.wait_for_selector("text=--resume")
    text = page.inner_text("main")
    assert "ABGESTÜRZT" in text and "endete vorzeitig" in text
    assert f"{answers(board.project)} sind gesichert" in text
    assert page.locator("[data-post]").count() == 0, "nothing can be started here"
    assert board.said == []


def test_the_page_survives_a_restart_of_the_dashboard_and_so_does_the_run(
    board: Board, server: ScriptedServer
) -> None:
    slow(board.project, server)
    board.start("--allow-start")
    port = board.address.rpartition(":")[2].strip("/")
    page = board.page("start")
    page.fill("[name=name]", "run")
    page.click("[type=submit]")
    in_state(page, "running")
    before = answers(board.project)
    board.stop()
    page.wait_for_selector("#lost:not([hidden])")
    assert "Not connected to the dashboard since" in page.inner_text("#lost")
    board.start("--allow-start", port=port)
    page.wait_for_selector("#lost", state="hidden")
    in_state(page, "running")
    assert answers(board.project) > before
    if not Path("/proc/locks").exists():
        pytest.skip("only Linux says which process the run is")
    page.click("text=Stop and save")
    in_state(page, "stopped")
    lost = [text for text in board.said if "ERR_" not in text]
    assert lost == []


def test_two_ticked_runs_are_compared(board: Board, server: ScriptedServer) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    results = board.project.folder / "results"
    for name, levels in (("first", [2]), ("second", [2]), ("third", [4])):
        odd_runs.synthetic(results, 60, levels, name)
    board.start()
    page = board.page("runs")
    page.fill("#filter", "third")
    assert page.locator("#rows tr:visible").count() == 1
    page.fill("#filter", "no such run")
    assert "No run matches" in page.inner_text("#none")
    page.click("#clear")
    assert page.locator("#rows tr:visible").count() == 3
    page.click("th >> text=Run")
    names = page.locator("#rows tr").evaluate_all("rows => rows.map(row => row.dataset.name)")
    assert names == ["first", "second", "third"]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Run")
    page.check("[aria-label='Choose first']")
    page.focus("[aria-label='Choose third']")
    page.keyboard.press("Space")
    page.wait_for_selector("#tray >> text=differ in: concurrent")
    odd_runs.synthetic(results, 60, [2], "fourth")
    page.wait_for_selector("[aria-label='Choose fourth']")
    assert page.is_checked("[aria-label='Choose first']"), "a new run changes no choice"
    page.click("#go")
    page.wait_for_selector("html[data-drawn=yes]", state="attached")
    assert {"first", "third"} <= set(page.inner_text("main").split())
    assert board.said == []


def test_a_list_that_is_open_gets_new_runs_and_what_they_can_be_filtered_by(
    board: Board,
) -> None:
    results = board.project.folder / "results"
    odd_runs.synthetic(results, 1, [2])
    board.start()
    page = board.page("runs")
    assert page.inner_text("#runs h1") == "1 run finished."
    (results / "bad.json").write_text("[]")
    page.wait_for_selector("#verdict option[value=DAMAGED]", state="attached")
    page.select_option("#verdict", "DAMAGED")
    (results / "worse.json").write_text("[]")
    page.wait_for_selector("tr[data-name=worse]")
    assert page.input_value("#verdict") == "DAMAGED"
    assert page.inner_text("#shown") == "2 of 3 shown"
    assert board.said == []


def test_the_language_theme_and_pause_can_be_switched(board: Board, server: ScriptedServer) -> None:
    slow(board.project, server)
    board.start()
    process = board.project.start("run", "--quiet")
    try:
        page = board.page()
        in_state(page, "running")
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        page.click("#theme")
        assert page.evaluate(ground) != before
        page.click("text=Deutsch")
        in_state(page, "running")
        assert page.get_attribute("html", "lang") == "de" and "erledigt" in page.inner_text("h1")
        assert page.evaluate(ground) != before, "the theme is remembered"
        page.goto(board.address)
        assert page.get_attribute("html", "lang") == "de", "and so is the language"
        in_state(page, "running")
        page.click("#pause")
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        shown = page.inner_text("#part-who")
        done = answers(board.project)
        until(lambda: answers(board.project) > done + 30)
        assert page.inner_text("#part-who") == shown
        page.click("#pause")
        until(lambda: page.inner_text("#part-who") != shown)
    finally:
        process.kill()
        process.communicate()
    assert board.said == []


PATHS = ("", "?run=crashed", "runs", "compare", "start", "trend/nightly", "none")
LOOKS = (
    ("light", 1280, PATHS),
    ("dark", 390, PATHS),
    ("dark", 1280, PATHS[:1]),
    ("light", 390, PATHS[:1]),
)


def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(
    board: Board, server: ScriptedServer
) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs the group checks")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    slow(board.project, server, 100_000)
    results = board.project.folder / "results"
    for day in range(2):
        odd_runs.synthetic(results, 40, [2], f"nightly_2026112{day}-120000")
    (results / "bad.json").write_text("{")
    board.start("--allow-start")
    process = board.project.start("run", "--quiet")
    other = board.project.start("crashed", "--quiet")
    until(lambda: answers(board.project, "crashed") > 2)
    other.kill()
    other.communicate()
    faults = {}
    try:
        for scheme, width, path in ((s, w, path) for s, w, paths in LOOKS for path in paths):
            page = board.page(
                path, color_scheme=scheme, viewport={"width": width, "height": 900},
                locale="de-DE" if width == 390 else "en-US",
            )  # fmt: skip
            if path == "":
                in_state(page, "running")
                page.wait_for_selector("#charts [data-drawn=yes] svg")
            page.evaluate(script)
            for fault in page.evaluate("axe.run().then(result => result.violations)"):
                if fault["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:150] for node in fault["nodes"]][:3]
                    faults[scheme, width, path, fault["id"]] = nodes
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, (width, path, "scrolls sideways")
            assert page.locator("h1").count() == 1, path
            page.context.close()
            board.contexts.pop()
    finally:
        process.kill()
        process.communicate()
    assert faults == {}


LISTEN = """addEventListener("securitypolicyviolation", event =>
  console.error(`violates ${event.violatedDirective}: ${event.sourceFile} ${event.sample}`))"""


def test_no_page_does_what_its_policy_forbids_on_screen_or_in_print(
    board: Board, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    results = board.project.folder / "results"
    odd_runs.synthetic(results, 60, [1, 2], "first")
    odd_runs.synthetic(results, 60, [1, 2], "second")
    slow(board.project, server, 100_000)
    monkeypatch.setenv("BOARD_TOKEN", "a token of 23 characters")
    board.start("--allow-start", "--token-env", "BOARD_TOKEN")
    process = board.project.start("run", "--quiet")
    context = board.browser.new_context(locale="en-US")
    board.contexts.append(context)
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(LISTEN)
    page = context.new_page()
    page.on("console", lambda message: board.said.append(f"{page.url}: {message.text}"))
    drawn = "html[data-drawn=yes]"
    paths = {
        "": "#charts [data-drawn=yes] svg",
        "runs": "#rows tr",
        "runs/first": drawn,
        "compare?run=first&run=second": drawn,
        "compare": "h1",
        "start": "form",
        "trend/first": drawn,
    }
    try:
        page.goto(board.address + "login")
        page.emulate_media(media="print")
        page.emulate_media(media="screen")
        enter(page, "a token of 23 characters")
        in_state(page, "running")
        for path, sign in paths.items():
            page.goto(board.address + path)
            page.wait_for_selector(sign, state="attached")
            for plot in page.locator("[aria-roledescription=point]").all()[:1]:
                plot.hover(force=True)
            page.emulate_media(media="print")
            page.emulate_media(media="screen")
            page.click("#theme")  # which is kept, so that some pages go dark and others light
            assert page.locator("[style]:not(#tip, .vega, .vega *)").count() == 0, path
    finally:
        process.kill()
        process.communicate()
    assert [text for text in board.said if "violates" in text] == []


def enter(page: Any, token: str) -> None:
    """Enter a token in the login form."""
    page.fill("input[name=token]", token)
    page.click("button[type=submit]")


def test_the_token_is_entered_in_the_login_form_and_a_wrong_one_is_refused(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOARD_TOKEN", "a token of 23 characters")
    board.start("--token-env", "BOARD_TOKEN")
    page = board.page()
    assert page.url.endswith("/login")
    enter(page, "a wrong token")
    page.wait_for_selector("#said:not(:empty)")
    assert "token" in page.text_content("#said")
    enter(page, "a token of 23 characters")
    page.wait_for_url(board.address)
    assert page.context.cookies()[0]["httpOnly"]


def cpu_s(pid: int) -> float:
    """Return what the scheduler counted; /proc/PID/stat charges a whole tick for a short moment."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def test_an_idle_dashboard_uses_no_processor_though_a_page_is_open(board: Board) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("needs /proc")
    odd_runs.synthetic(board.project.folder / "results", 40, [2])
    board.start()
    assert board.process is not None
    page = board.page()
    page.wait_for_selector("#columns", state="hidden")
    board.page("runs")
    # What it costs to wake a process differs between machines a hundredfold.
    waking = [sys.executable, "-c", "import time\nwhile True: time.sleep(0.25)"]
    with subprocess.Popen(waking) as bare:
        time.sleep(1.5)
        before, bare_before = cpu_s(board.process.pid), cpu_s(bare.pid)
        time.sleep(4)
        with_pages = cpu_s(board.process.pid) - before
        with_bare = cpu_s(bare.pid) - bare_before
        bare.kill()
    for context in board.contexts:
        context.close()
    board.contexts.clear()
    time.sleep(4.5)  # the next beat finds the readers gone
    before = cpu_s(board.process.pid)
    time.sleep(2)
    assert cpu_s(board.process.pid) - before <= 0.003  # 0.1 s a minute
    assert with_pages <= 0.02 + 5 * with_bare


def line(seq: int, kind: str, content: dict[str, Any]) -> bytes:
    """Return a line of a journal, as its description says; not by the code that reads it."""
    rest = f'"seq":{seq},"kind":"{kind}","content":'.encode() + msgspec.json.encode(content) + b"}"
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(rest), rest)


def long_journal(project: Project, server: ScriptedServer, count: int) -> tuple[Path, Any]:
    """Write the journal of a run of so many requests; return it, and what makes its next lines."""
    slow(project, server, 4)
    assert project.spawn("run", "--quiet").code in (0, 1)
    record = json.loads((project.folder / "results" / "run.json").read_bytes())["results"][0]
    process = project.start("other", "--quiet", "--set", "questions=100000")
    until(lambda: answers(project, "other") > 0)
    process.kill()
    process.communicate()
    journal = project.folder / "results" / "other.journal"
    head = journal.read_bytes().splitlines(keepends=True)[0]

    def result(number: int) -> bytes:
        more = {"index": number, "sent_ms": number * 2.5, "scheduled_ms": None}
        return line(
            number + 1, "result", {**record, **more, "ttft_ms": 5 + number * 7919 % 400 / 10}
        )

    path = journal.with_name("long.journal")
    path.write_bytes(head + b"".join(map(result, range(count))))
    journal.unlink()
    (project.folder / "results" / "run.json").unlink()
    return path, result


FRAMES = """seconds => new Promise(done => {
  const frames = [], end = performance.now() + 1000 * seconds;
  let last = performance.now();
  const next = now => {
    frames.push(now - last);
    last = now;
    if (now < end) requestAnimationFrame(next);
    else done(frames.sort((a, b) => a - b));
  };
  requestAnimationFrame(next);
})"""


def test_a_run_of_100000_requests_leaves_the_page_fluid_and_the_memory_flat(
    board: Board, server: ScriptedServer
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    fcntl = pytest.importorskip("fcntl")
    count = 100_000
    path, result = long_journal(board.project, server, count)
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # so that it counts as in progress
        ended = threading.Event()

        def go_on() -> None:
            number = count
            while not ended.wait(0.05):
                file.write(result(number))
                number += 1

        writer = threading.Thread(target=go_on)
        writer.start()
        try:
            board.start()
            assert board.process is not None
            page = board.page(viewport={"width": 1280, "height": 900})
            until(lambda: "done" in page.inner_text("h1"), 60)
            page.wait_for_selector("#charts [data-drawn=yes] svg")
            status = Path(f"/proc/{board.process.pid}/status")
            memory = re.compile(r"VmRSS:\s+(\d+)")
            before = int(memory.search(status.read_text()).group(1))  # type: ignore[union-attr]
            frames = page.evaluate(FRAMES, 6)
            after = int(memory.search(status.read_text()).group(1))  # type: ignore[union-attr]
            points = page.locator("#charts .vega path[aria-roledescription=point]").count()
        finally:
            ended.set()
            writer.join()
    assert 500 < points <= 2100
    assert after - before < 30_000, "kB"
    # Most frames come in time; the redraw once a second may take a few.
    assert frames[len(frames) // 2] < 40 and frames[int(len(frames) * 0.95)] < 250, frames[-5:]
    assert board.said == []
