"""The page of a run: it says the answer first, holds whatever a run holds, and adds nothing to it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from tests.conftest import Project, ScriptedServer
from tests.extensions import odd_runs

altair = pytest.importorskip("altair", reason="needs the group checks")
pytest.importorskip("vl_convert", reason="needs the group report")
from extensions import charts, report  # noqa: E402
from extensions.words import CAVEATS  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY_TEXTS = [
    "</script><script>alert(1)</script>\u2028<img src=x onerror=alert(1)>'\"{{7*7}}{% raw %}",
    "\"><svg/onload=alert(1)><!--</style></title></textarea><iframe srcdoc='<b>'>",
    "var(--a) javascript:alert(1) ${alert(1)} datum.x]['constructor'] </noscript><a href=//x>",
    "-->]]>&lt;b&gt;&#60;i&#62; <details open ontoggle=alert(1)>\u2029\x1b[31m\x00\u202e",
]


class Outline(html.parser.HTMLParser):
    """What a browser would make of a page: its elements with their attributes' names, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements = Counter[tuple[str, tuple[str, ...]]]()
        self.texts: list[str] = []
        self.data = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self._inside = tag
        if dict(attrs).get("id") == "specs":
            self._inside = "specs"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "specs":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.texts))

    @property
    def styled(self) -> list[str]:
        """The elements with a style of their own, which a policy without exceptions refuses."""
        return [tag for tag, names in self.elements if "style" in names]

    @property
    def specs(self) -> list[dict[str, Any]]:
        return list(json.loads(self.data)["specs"])


def page_of(path: Path, *arguments: str) -> str:
    out = path.with_suffix(".html")
    assert report.main([str(path), "-o", str(out), "--overwrite", *arguments]) == 0
    return out.read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", odd_runs.SHAPES)
def test_each_odd_run_has_a_page_that_says_its_headline(
    project: Project, server: ScriptedServer, shape: str
) -> None:
    path = odd_runs.make(project, server, shape)
    run = st.load_results(path)
    outline = Outline(page_of(path, "--card", str(path.with_name("card.png"))))
    assert path.with_name("card.png").read_bytes().startswith(b"\x89PNG")
    assert outline.elements["h1", ()] == 1
    assert st.headline(run.meta, run.aggregate) in outline.text.replace(" .", ".")
    assert run.meta["validity"]["verdict"] in outline.text
    assert "nan" not in outline.text.lower().split() and "None" not in outline.text.split()
    for spec in outline.specs:
        altair.Chart.from_dict(spec)  # raises what the schema refuses


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("shape", ["some_fail", "sweep", "no_success"])
def test_the_policy_names_the_pages_own_style_sheet_and_no_element_has_a_style(
    project: Project, server: ScriptedServer, shape: str, lite: bool
) -> None:
    path = odd_runs.make(project, server, shape)
    nasty = odd_runs.edited(path, "nasty", answer="a  b\u2028", message="  ", model="a   b")
    for each in (path, nasty):
        page = page_of(each, *["--lite"] * lite)
        assert_styled_by_its_own_sheet(page)


def assert_styled_by_its_own_sheet(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and "unsafe" not in policy.group(1)
    (sheet,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy.group(1)
    assert Outline(page).styled == []


def test_a_run_without_a_success_shows_no_empty_chart(
    project: Project, server: ScriptedServer
) -> None:
    text = Outline(page_of(odd_runs.make(project, server, "no_success"))).text
    assert "No answer came: " in text and "INVALID" in text
    assert "No chart: no request succeeded" in text
    assert "injected <failure>" in text


def test_a_run_with_hundreds_of_stages_has_a_page_of_eight_curves(tmp_path: Path) -> None:
    path = odd_runs.synthetic(tmp_path, 900, list(range(1, 301)))
    view = report.OneRun(report.read(path))
    assert [curve.key for curve in view.curves("ttft_ms")][::7] == ["1", "300"]
    outline = Outline(page_of(path))
    assert " 300 at once" in outline.text and "50 of 300 levels; export has all." in outline.text
    assert len(page_of(path, "--lite").encode()) < 500_000


def test_a_hundred_thousand_requests_make_a_page_of_at_most_3_mb(tmp_path: Path) -> None:
    path = odd_runs.synthetic(tmp_path, 100_000, [50])
    started = time.monotonic()
    page = page_of(path)
    assert time.monotonic() - started < 60  # alone it takes a quarter of that
    assert len(page.encode()) < 3_000_000
    assert "5,000 of 100,000 shown, all extremes kept" in page


def test_each_reason_of_a_verdict_has_a_statement_of_its_own() -> None:
    root = Path(st.__file__).resolve().parent
    sources = [root / "llm_stresstest.py", root / "extensions" / "hardware.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    codes = set(re.findall(r'Reason\(\s*"\w+",\s*"(\w+)"', text))
    codes |= set(re.findall(r'Reason\(VERDICTS\[[^\]]+\], "(\w+)"', text))
    assert len(codes) > 25 and codes <= CAVEATS.keys()


def test_a_sample_keeps_what_it_is_told_to() -> None:
    results = [st.Result(i, "q", "?", sent_ns=i, end_ns=2 * i) for i in range(10_000)]
    kept = charts.sample(results, [results[17], results[9_998]], 100)
    assert {17, 9_998} <= {result.index for result in kept} and len(kept) <= 100
    assert [result.index for result in kept] == sorted(result.index for result in kept)


@pytest.mark.parametrize("text", NASTY_TEXTS, ids=range(len(NASTY_TEXTS)))
@pytest.mark.parametrize("lite", [False, True])
def test_what_a_model_or_server_says_adds_no_element_and_no_attribute(
    project: Project, server: ScriptedServer, text: str, lite: bool
) -> None:
    path = odd_runs.make(project, server, "some_fail")
    keys = (
        "question",
        "answer",
        "category",
        "grade_reason",
        "model",
        "server",
        "engine",
        "message",
    )
    plain, nasty = (
        odd_runs.edited(path, kind, **dict.fromkeys(keys, said))
        for kind, said in (("plain", "x"), ("nasty", text))
    )
    arguments = ["--lite"] if lite else []
    # Charts and titles may differ; elements that a text brings would be of new kinds.
    one, other = (Outline(page_of(each, *arguments)) for each in (plain, nasty))
    drawn = {"svg", "g", "path", "text", "rect", "line", "tspan", "br"}
    kinds = [
        {kind for kind in outline.elements if kind[0] not in drawn} for outline in (one, other)
    ]
    assert kinds[0] == kinds[1]
    assert one.elements["script", ()] == other.elements["script", ()]
    assert text[:20] in " ".join(other.texts)


def test_two_runs_are_overlaid_with_the_verdicts_first(
    project: Project, server: ScriptedServer
) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    one = odd_runs.make(project, server, "some_fail", "one")
    other = odd_runs.make(project, server, "some_fail", "other")
    out = project.folder / "both.html"
    assert report.main([str(one), str(other), "-o", str(out)]) == 0
    outline = Outline(out.read_text(encoding="utf-8"))
    assert outline.text.index("B against A") < outline.text.index("How many of the requests")
    assert {"one", "other"} <= set(outline.text.split())
    assert len(outline.specs) == 6  # three curves, and three panels over time


def test_two_sweeps_have_their_verdicts_level_by_level_and_one_time_axis(tmp_path: Path) -> None:
    paths = [odd_runs.synthetic(tmp_path, 120, [1, 2], name) for name in ("one", "two")]
    out = tmp_path / "both.html"
    assert report.main([*map(str, paths), "-o", str(out)]) == 0
    outline = Outline(out.read_text(encoding="utf-8"))
    assert_styled_by_its_own_sheet(out.read_text(encoding="utf-8"))
    assert "B against A, level by level" in outline.text
    assert "120 requests take A 184 ms and B 184 ms" in outline.text.replace("\u202f", " ")
    view = report.Comparing([report.read(path) for path in paths])
    heads, levels = view._levels(view.comparisons[0])
    assert [level for level, _ in levels] == ["1", "2"]
    assert heads[0] == "TTFT ↓" and {len(cells) for _, cells in levels} == {len(heads)}
    tokens = view.time_charts[0].panels[2].spec["layer"]
    drawn = [[point["y"] for point in layer["data"]["values"]] for layer in tokens]
    assert len(drawn) == 2 and drawn[0] == drawn[1] and max(drawn[0]) > 0
    dashes = [layer["mark"]["strokeDash"] for layer in tokens]
    assert dashes[0] != dashes[1]


def test_of_four_runs_each_stands_beside_the_first(tmp_path: Path) -> None:
    runs = [report.read(odd_runs.synthetic(tmp_path, 60, [1], name)) for name in "abcd"]
    names = [chart.name for chart in report.Comparing(runs).time_charts]
    assert names == ["over_timeAB", "over_timeAC", "over_timeAD"]


def test_the_pareto_title_starts_from_the_same_knee_as_the_headline() -> None:
    known = [(1, 42.0, 50.0), (2, 68.0, 40.0), (4, 56.0, 20.0), (8, 65.0, 10.0)]
    title = charts._pareto_title(known).replace("\u202f", " ")
    assert title == "From 2 to 8 at once the total falls by 4.4 % and each user loses 75 %"


@pytest.mark.parametrize("where", ["aggregate.quality", "aggregate.ttft_ms", "meta.server"])
def test_a_file_that_lacks_a_key_is_one_line_in_report_and_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    pytest.importorskip("xlsxwriter", reason="needs the group export")
    path = odd_runs.synthetic(tmp_path, 60, [1, 2])
    data = json.loads(path.read_bytes())
    part, key = where.split(".")
    del data[part][key]
    path.write_text(json.dumps(data))
    commands = [["report"], ["export", "--format", "xlsx"]]
    for command in commands[: 1 if key == "ttft_ms" else 2]:  # a table needs no latencies of all
        assert st.cli([*command, str(path), "-o", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "verify says which" in said and key in said
    assert not (tmp_path / "out").exists()


def test_runs_that_do_not_compare_are_said_to_be_so(
    project: Project, server: ScriptedServer
) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    one = odd_runs.make(project, server, "some_fail", "one")
    other = odd_runs.make(project, server, "not_streaming", "other")
    out = project.folder / "both.html"
    assert report.main([str(one), str(other), "-o", str(out)]) == 0
    text = Outline(out.read_text(encoding="utf-8")).text
    assert_styled_by_its_own_sheet(out.read_text(encoding="utf-8"))
    assert "These runs are not comparable" in text and "no verdict stands on them" in text


def test_pictures_come_as_png_svg_pdf_and_a_card(project: Project, server: ScriptedServer) -> None:
    path = odd_runs.make(project, server, "sweep")
    folder = project.folder / "out"
    arguments = ["--png", str(folder), "--svg", str(folder), "--pdf", str(folder / "all.pdf")]
    assert report.main([str(path), *arguments, "--card", str(folder / "card.png")]) == 0
    assert not path.with_suffix(".html").exists()
    card = (folder / "card.png").read_bytes()
    assert [int.from_bytes(card[at : at + 4]) for at in (16, 20)] == [1200, 630]
    assert (folder / "all.pdf").read_bytes().startswith(b"%PDF")
    drawn = {p.stem for p in folder.glob("*.png")} - {"card"}
    assert drawn == {p.stem for p in folder.glob("*.svg")} and "run_ttft" in drawn
    for picture in folder.glob("*.svg"):
        assert "var(--" not in picture.read_text(encoding="utf-8")


def test_what_exists_is_only_replaced_when_that_is_asked_for(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "one_request")
    out = project.write("page.html", "mine")
    done = project.run("report", "run", "-o", "page.html")
    assert (done.code, out.read_text()) == (2, "mine")
    assert done.err.count("\n") == 1 and "--overwrite" in done.err
    assert project.run("report", "run", "-o", "page.html", "--overwrite").code == 0
    assert out.read_text() != "mine" and path.exists()


def test_the_page_asks_no_network_and_lite_runs_no_script(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "sweep")
    page, lite = page_of(path), page_of(path, "--lite")
    assert "default-src 'none'" in page and "unsafe-eval" not in page.split("<style>")[0]
    assert (
        re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page.split("<script>")[0]) is None
    )
    assert "<script" not in lite and "script-src 'none'" in lite and "<svg" in lite
    assert len(lite.encode()) < 500_000


def test_a_title_claims_no_difference_that_the_intervals_do_not_support(tmp_path: Path) -> None:
    view = report.OneRun(report.read(odd_runs.synthetic(tmp_path, 90, [1, 2])))
    low, high = (level.part["ttft_ms"] for level in view.levels)
    low["ci95"]["p50"], high["ci95"]["p50"] = [1.0, 3.0], [2.0, 4.0]
    title = view._between("ttft_ms", "The first token")
    assert title == "The first token cannot be told apart at 1 and at 2 at once"
    high["ci95"]["p50"] = [None, None]
    assert "too few answers at 2 at once" in view._between("ttft_ms", "The first token")
    low["ci95"]["p50"], high["ci95"]["p50"] = [1.0, 2.0], [3.0, 4.0]
    assert "takes" in view._between("ttft_ms", "The first token")


def test_in_flight_and_tokens_over_time_add_up_to_what_the_requests_say(tmp_path: Path) -> None:
    run = report.read(odd_runs.synthetic(tmp_path, 400, [1]))
    timeline = charts.Timeline(run)
    wide, busy = timeline.in_flight()
    took_s = sum((result.time_ms or 0) for result in run.results) / 1000
    assert sum(busy) * wide == pytest.approx(took_s, rel=1e-6)
    wide, speed = timeline.tokens_per_s()
    assert sum(speed) * wide == pytest.approx(run.aggregate["token_sum"], rel=1e-6)


def test_a_request_takes_the_first_lane_that_is_free() -> None:
    spans = [(0, 10), (1, 3), (2, 9), (4, 5), (10, 12)]
    results = [st.Result(i, "q", "?", sent_ns=a, end_ns=b) for i, (a, b) in enumerate(spans)]
    placed, count = charts._placed(results)
    assert ([lane for _, lane in placed], count) == ([0, 1, 2, 1, 0], 3)


SORTED = [
    (["1.2 s", "–", "340 ms", "(2.05 min)"], ["340 ms", "1.2 s", "(2.05 min)", "–"]),
    (["1,213", "99", "−3", ""], ["−3", "99", "1,213", ""]),
    (["2 s", "b", "a"], ["2 s", "a", "b"]),
    (["1.18 to 1.80 s", "200 to 300 ms"], ["200 to 300 ms", "1.18 to 1.80 s"]),
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_a_header_sorts_by_what_the_texts_mean_and_puts_the_unmeasured_last() -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the group checks")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        for cells, wanted in SORTED:
            rows = "".join(f"<tr><td>{cell}<small>9</small></td></tr>" for cell in cells)
            table = f"<table class=sort><thead><tr><th>x</th></tr></thead><tbody>{rows}</tbody>"
            page.set_content(table.replace(" s<", "\u202fs<").replace(" ms<", "\u202fms<"))
            page.evaluate(report.SORTING)
            for backwards in (False, True):
                page.click("th button")
                texts = page.locator("td").evaluate_all("all => all.map(e => e.firstChild.data)")
                found = [(text or "").replace("\u202f", " ") for text in texts]
                found = ["" if text == "9" else text for text in found]
                known = [text for text in wanted if text not in ("", "–")]
                last = [text for text in wanted if text in ("", "–")]
                assert found == (known[::-1] if backwards else known) + last
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_a_browser_without_a_network_draws_it_all_and_search_theme_and_tooltips_work(
    project: Project, server: ScriptedServer
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the group checks")
    path = odd_runs.make(project, server, "some_fail")
    page_of(path)
    said: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True, color_scheme="light")
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(path.with_suffix(".html").as_uri())
        page.wait_for_selector("html[data-drawn=yes]", timeout=30_000)
        plots = page.locator(".vega").count()
        assert plots > 5 and page.locator(".vega svg").count() == plots
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        page.click("#theme")
        assert page.evaluate(ground) != before
        page.fill("#search", "one?")
        assert (
            page.locator(".answers li:not([hidden])").count() < page.locator(".answers li").count()
        )
        page.fill("#search", "no such text")
        assert "No answer matches" in page.inner_text("#none")
        page.click("#clear")
        heads = page.locator("#failures th button")
        took = heads.nth(heads.count() - 1)
        for way in ("ascending", "descending"):
            took.click()
            assert page.locator(f"#failures th[aria-sort={way}]").count() == 1
            values = page.locator("#failures tbody td:last-child").all_inner_texts()
            numbers = [float(value.split("\u202f")[0]) for value in values]
            assert numbers == sorted(numbers, reverse=way == "descending")
        page.emulate_media(media="print")
        assert page.locator("#failures th button").first.is_visible()
        assert not page.locator("#theme").is_visible()
        page.emulate_media(media="screen")
        page.locator("#chart-over_time .vega path[aria-roledescription=point]").first.hover()
        assert "request" in page.inner_text("#tip")
        browser.close()
    assert said == [path.with_suffix(".html").as_uri()]
