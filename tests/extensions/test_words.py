"""Report, charts and comparisons in German: every text, every message, no English left over."""

from __future__ import annotations

import ast
import html.parser
import itertools
import json
import re
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions.words import CAVEATS, GERMAN, MESSAGES, Sentences
from tests.conftest import Project, ScriptedServer
from tests.extensions import odd_runs

pytest.importorskip("vl_convert", reason="needs the group report")
from extensions import charts, report

ROOT = Path(st.__file__).resolve().parent
EN, DE = Sentences("en"), Sentences("de")


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def trees(*names: str) -> Iterator[ast.Module]:
    for name in names:
        yield ast.parse((ROOT / name).read_text(encoding="utf-8"))


def constants(*names: str) -> list[str]:
    """Return all strings in these files, also the pieces of those with fields."""
    nodes = itertools.chain.from_iterable(map(ast.walk, trees(*names)))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


TOOLS = [f"extensions/{name}.py" for name in ("report", "charts", "verdicts", "pairing", "history")]
TEMPLATES = report.BASE_PAGE + report.RUN_PAGE + report.COMPARE_PAGE + report.CARD


def test_each_text_and_each_message_has_the_same_fields_in_german() -> None:
    for english, german in [*GERMAN.items(), *MESSAGES.items()]:
        assert fields(english) == fields(german), english
        assert german and german.strip() and "  " not in german, english


def test_each_text_that_is_said_has_a_german_one_and_none_is_unused() -> None:
    called = [
        node.args[0].value
        for tree in trees(*TOOLS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") == "say" or getattr(node.func, "attr", "") == "say")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    said = re.findall(r'(?:say|head|label)\("((?:[^"\\]|\\.)*)"', TEMPLATES)
    assert len(called) > 150 and len(said) > 60
    assert {*called, *said} - GERMAN.keys() == set()
    written = {*constants(*TOOLS), *re.findall(r'"((?:[^"\\]|\\.)*)"', TEMPLATES)}
    written |= set(said)
    written |= {verdict.replace("_", " ") for verdict in written}
    assert GERMAN.keys() - written == set()


def test_each_name_that_is_said_by_way_of_a_table_has_a_german_one() -> None:
    pairing = pytest.importorskip("extensions.pairing", reason="needs the group analysis")
    verdicts = pytest.importorskip("extensions.verdicts", reason="needs the group analysis")
    named = {text for _, label, note, *_ in charts._SAMPLED for text in (label, note)}
    named |= {*charts._SHAPE_WORDS, *report.SCRIPT_TEXTS, *report.MEANINGS.values()}
    named |= {*report.LIMITS.values(), *itertools.chain(*(m[:2] for m in report.METRICS.values()))}
    named |= {phrase for pair in verdicts.PHRASES.values() for phrase in pair}
    for metric in pairing.METRICS.values():
        named |= {metric.label, metric.title, metric.middle, *metric.words()}
    assert len(named) > 60 and named - GERMAN.keys() == set()


def test_each_message_that_has_a_german_one_is_still_what_the_core_says() -> None:
    sources = ("llm_stresstest.py", "extensions/hardware.py", "extensions/pairing.py")
    said = " ".join(constants(*sources))
    words = set(re.findall(r"[\w'-]+", said))
    for english in MESSAGES:
        unknown = set(re.findall(r"[\w'-]+", re.sub(r"\{\w+\}", "", english))) - words
        assert unknown == set(), english


# One message of each rule, as the core and hardware.py write it; {} marks what stays English.
SAMPLES = {
    "gave_up": "ended early: {10 failures in a row}; --resume asks what is left",
    "interrupted": "stopped before its end; --resume goes on with it",
    "resumed": "an earlier part of it was killed; how busy this client was then is not in the "
    "verdict",
    "no_answers": "no request succeeded: {10 × HTTP 503: overloaded; go away}; see `error` in the "
    "results",
    "failures": "12.5% of the requests failed ({1,213 × reset: by peer}); latencies are of the "
    "survivors; look into the failures, or lower the load",
    "client_saturated": "this client was the bottleneck at 8 at once: first tokens may be timed "
    "12.5\u202fms late (p95); slots stood empty 31% of the time; its process used 99% of a core; "
    "lower the load, or give it a faster core",
    "client_starved": "this client waited for a processor 31% of the time: its times still hold; "
    "beside it ran {python3 (pid 7, 80%)}; give it a core of its own",
    "too_short": "it ran for 1.52\u202fs, too short to tell how busy this client was: ask more "
    "questions",
    "too_few_requests": "the threshold on stages.8.ttft_ms.p95 stands on 40 answers, too few for "
    "its interval: ask 1,213 more",
    "unsteady": "for 31% of the time at 8 at once not all slots were busy: 212 tokens/s over all "
    "of it, 1,248 while they were; ask more, or look for requests that hung",
    "overloaded": "requests came faster than they were served: from 3 to 40 were waiting or under "
    "way, and TTFT from the schedule grew from 1.18\u202fs to 9.30\u202fs; its percentiles only "
    "say how long the run was: lower the rate",
    "rate_missed": "requests were sent up to 1.18\u202fs (p95) behind the schedule, because "
    "`concurrent` were in flight: the server does not keep up with the rate, or the cap is too "
    "low; judge by the latencies from the schedule",
    "slow_connect": "requests were sent up to 1.18\u202fs (p95) behind the schedule, because "
    "connections took that long to open; look at the network, TLS and the server's backlog",
    "backed_off": "after failures in a row it asked more slowly, and waited 4.5 s in all: the load "
    "was not what was asked for",
    "reconnects": "12 of 100 requests found their kept connection closed, and were sent again on a "
    "new one: look at the keep-alive timeouts of the server and of what stands before it",
    "other_model": '12 answers came from {"other"}, says the server, not from {"mine"}; unless '
    "that is an alias of it, set model to the one that you mean",
    "no_finish_reason": "12 of 100 answers have no finish reason: some may have been cut unnoticed",
    "unusual_ends": "12 of 100 answers ended unusually ({content_filter 12×}), so speed and "
    "quality may be of stumps",
    "stream_buffered": "12 streamed answers came in one piece: TTFT is their E2E; look for a proxy "
    "that buffers",
    "answers_cut": "12 of 100 answers were cut at max_tokens (256); lengths and quality are not "
    "the model's; raise it",
    "reasoning_only": "12 answers hold reasoning and nothing else; raise max_tokens (256)",
    "blank_answers": "12 of 100 answers are white space and nothing else; look at the prompt's "
    "template",
    "tokens_doubtful": "the server's token counts of 12 answers contradict what came ({1 token for "
    "300 characters}); token_source says what was used",
    "prompt_cache": "88% of the prompt tokens of a stage came from a cache, so TTFT is flattered; "
    "set cache_bust",
    "tokens_estimated": "the server gave no usage for 12 answers; their tokens are counted as "
    "chunks, which may hold several",
    "drift": "TTFT went from 120\u202fms at the beginning to 1.52\u202fs at the end; use warmup, "
    "or find what slows the server down",
    "clock_jump": "the wall clock moved +3.5 s against the monotonic one: the machine slept, or "
    "the clock was set; run again",
    "throttled": "GPU0 held back in stage 2 ({hw thermal slowdown}) for 31% of the time; cool it "
    "better, limit its power, or set cooldown",
    "swapping": "120 MiB were swapped out under load; use a smaller model or context, or free "
    "memory",
    "busy_machine": "other processes used 31% of the cores: {ffmpeg (12 s)}; stop them, and run it "
    "again",
    "on_battery": "the machine ran on its battery, which slows it down; plug it in, and run it "
    "again",
    "shared_server": "another run of this tool measured the same server at the same time; --wait "
    "lets them follow each other",
}


def test_the_message_of_each_reason_is_said_in_german_but_for_what_a_server_said() -> None:
    assert SAMPLES.keys() == CAVEATS.keys()
    for code, marked in SAMPLES.items():
        foreign = re.findall(r"\{(.*?)\}", marked)
        said = str(DE.message(re.sub(r"[{}]", "", marked)))
        english = [
            text.replace("&#34;", '"') for text in re.findall(r'lang="en">(.*?)</span>', said)
        ]
        assert english == foreign, (code, said)
        rest = re.sub(r"<span.*?</span>", "", said)
        assert not ENGLISH_WORDS.search(rest.replace("cache_bust", "")), (code, said)
        assert not re.search(r"\d\.\d(?!\d\d)", re.sub(r"stages\.\S+", "", rest)), (code, said)
        assert rest[0].isupper() or not rest[0].isalpha(), said


def test_a_message_that_nobody_translated_is_marked_as_english() -> None:
    assert DE.message("odd <thing>; set cache_bust") == (
        '<span lang="en">Odd &lt;thing&gt;; set cache_bust.</span>'
    )
    assert EN.message("odd <thing>") == "Odd <thing>."


HEADLINES = {
    "Beyond 4 at once, users only slow each other down: the total grows about 4.4\u202f%, each "
    "user's speed halves.": "Ab 4 gleichzeitigen Anfragen bremsen sich Nutzer nur gegenseitig: Der "
    "Gesamtdurchsatz wächst um etwa 4,4\u202f%, das Tempo je Nutzer halbiert sich.",
    "15 of 120 requests start later than the limit of 1.5\u202fs, and 3 fail outright.": "Bei 15 "
    "von 120 Anfragen kommt das erste Token erst nach der Grenze von 1,5\u202fs, 3 schlagen ganz fehl.",
    "Half of the answers start within 156\u202fms; a user gets about 1,042 tokens/s; 60\u202f% of "
    "the graded answers are right.": "Die Hälfte der Antworten beginnt binnen 156\u202fms; ein "
    "Nutzer erhält etwa 1.042 Token/s; 60\u202f% der bewerteten Antworten sind richtig.",
    "No answer came: 3 × HTTP 500: no; 2 × reset: x.": "Es kam keine Antwort: "
    '<span lang="en">3 × HTTP 500: no; 2 × reset: x</span>.',
}


@pytest.mark.parametrize("english", HEADLINES)
def test_a_headline_is_said_in_german_with_german_numbers(english: str) -> None:
    assert DE.message(english) == HEADLINES[english]
    assert EN.message(english) == english


# Words that no German text has, and that hardly an English sentence lacks.
ENGLISH_WORDS = re.compile(
    r"\b(the|of|and|is|are|were|not|with|for|than|each|from|more|less|requests|answers|whole|"
    r"median of|level|without|because|within)\b",
    re.IGNORECASE,
)


class Visible(html.parser.HTMLParser):
    """What a reader sees and hears of a page, without what is code or marked as English."""

    SILENT = ("script", "style", "code", "title")
    DRAWN = ("svg", "g", "path", "text")
    VOID = ("meta", "link", "br", "input", "path", "rect", "circle")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.data = ""
        self._open: list[tuple[str, bool]] = []
        self._inside_data = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self._inside_data = known.get("id") == "specs"
        names = ("aria-label", "data-of", "placeholder", "title")
        if tag not in self.DRAWN:  # a picture has one name, that of what holds it
            self.texts += [known[name] or "" for name in names if name in known]
        if tag not in self.VOID:
            hidden = tag in self.SILENT or known.get("lang") == "en"
            self._open.append((tag, hidden or (bool(self._open) and self._open[-1][1])))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            while self._open and self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._inside_data:
            self.data += data
        elif not self._open or not self._open[-1][1]:
            self.texts.append(data)

    @property
    def drawn(self) -> list[str]:
        """The texts in the charts, but for what stands there for the machine."""
        return [text for spec in json.loads(self.data)["specs"] for text in strings(spec)]


def strings(part: Any) -> Iterator[str]:
    """Yield the texts of a specification: titles, labels and tooltips."""
    if isinstance(part, dict):
        for key, value in part.items():
            if isinstance(value, str) and key in ("title", "text", "t", "k"):
                yield value
            elif key != "encoding" or isinstance(value, dict):
                yield from strings(value)
    elif isinstance(part, list):
        for item in part:
            yield from strings(item)


def assert_german(page: str) -> None:
    assert '<html lang="de">' in page
    seen = Visible(page)
    texts = [*seen.texts, *(seen.drawn if seen.data else [])]
    found = {text.strip() for text in texts if ENGLISH_WORDS.search(text)}
    assert found == set()
    whole = "\n".join(texts)
    left = [
        english
        for english, german in GERMAN.items()
        if len(english) > 12 and german != english and english.replace(" %", "\u202f%") in whole
    ]
    assert left == []


def page_of(*paths: Path, arguments: tuple[str, ...] = ()) -> str:
    out = paths[0].with_name("german.html")
    command = [*map(str, paths), "--language", "de", "-o", str(out), "--overwrite", *arguments]
    assert report.main(command) == 0
    return out.read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", odd_runs.SHAPES)
def test_the_report_of_a_run_has_no_english_sentence_in_german(
    project: Project, server: ScriptedServer, shape: str
) -> None:
    assert_german(page_of(odd_runs.make(project, server, shape)))


def test_the_lite_report_of_a_sweep_is_german_in_its_pictures_too(tmp_path: Path) -> None:
    path = odd_runs.synthetic(tmp_path, 120, [1, 2, 4])
    page = page_of(path, arguments=("--lite",))
    assert_german(page)
    assert "Sekunden seit dem Beginn" in page and "100\u202f%" in page


@pytest.mark.parametrize("shape", ["some_fail", "sweep", "open_loop"])
def test_pictures_pdf_and_card_are_german_too(
    project: Project, server: ScriptedServer, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = odd_runs.make(project, server, shape)
    said, locales = list[str](), list[Any]()

    def note_pdf(spec: dict[str, Any], format_locale: Any, **_: Any) -> bytes:
        said.extend([*spec["title"]["text"], *spec["title"]["subtitle"]])
        locales.append(format_locale)
        return b""

    def note_card(svg: str, **_: Any) -> bytes:
        said.extend(Visible(svg).texts)
        return b""

    monkeypatch.setattr("vl_convert.vegalite_to_pdf", note_pdf)
    monkeypatch.setattr("vl_convert.svg_to_png", note_card)
    folder = path.parent / "pictures"
    wanted = ["--svg", folder, "--card", folder / "card.png", "--pdf", folder / "run.pdf"]
    assert report.main([str(path), "--language", "de", *map(str, wanted)]) == 0
    drawn = [Visible(each.read_text(encoding="utf-8")) for each in folder.glob("*.svg")]
    said += itertools.chain(*(picture.texts for picture in drawn))
    assert len(drawn) >= 2 and len(said) > 40 and locales == [DE.locale]
    assert {text for text in said if ENGLISH_WORDS.search(text) or "lang=" in text} == set()


def test_a_comparison_has_no_english_sentence_in_german(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    for levels in ([2], [1, 2]):
        paths = [odd_runs.synthetic(tmp_path, 120, levels, name) for name in ("one", "two", "six")]
        page = page_of(*paths)
        assert_german(page)
        assert "B gegen A" in page and "✓" not in page and "✕" not in page


def test_runs_that_do_not_compare_are_refused_in_german(
    project: Project, server: ScriptedServer
) -> None:
    pytest.importorskip("scipy", reason="needs the group analysis")
    one = odd_runs.make(project, server, "some_fail", "one")
    other = odd_runs.make(project, server, "not_streaming", "other")
    page = page_of(one, other)
    assert_german(page)
    assert "Diese Läufe sind nicht vergleichbar" in page


def test_numbers_and_dates_are_german_and_keys_stay_as_they_are(tmp_path: Path) -> None:
    path = odd_runs.synthetic(tmp_path, 2400, [2])
    page = page_of(path)
    seen = " ".join(Visible(page).texts)
    assert "25.11.2026, 12:00 UTC+01:00" in seen and "2.400 Anfragen" in seen
    assert "1.0" in seen, "a value of the configuration keeps its point"
    assert json.loads(Visible(page).data)["numbers"]["decimal"] == ","


def test_what_a_model_or_a_server_says_adds_no_element_to_a_german_page(
    project: Project, server: ScriptedServer
) -> None:
    path = odd_runs.make(project, server, "some_fail")
    text = "</span><script>alert(1)</script>'\"<img src=x onerror=alert(1)>"
    keys = ("question", "answer", "category", "grade_reason", "model", "server", "engine")
    data = json.loads(path.read_bytes())
    data["meta"]["validity"]["reasons"] = [
        {"code": "gave_up", "message": f"ended early: {text}; --resume asks what is left"},
        {"code": "odd", "message": text},
    ]
    path.write_text(json.dumps(data), encoding="utf-8")
    nasty = odd_runs.edited(path, "nasty", message=text, **dict.fromkeys(keys, text))
    page = page_of(nasty).partition('<script type="application/json"')[0]
    assert "<script>alert" not in page and "<img" not in page
    assert "vorzeitig beendet: " in page.lower()


def test_a_language_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert st.cli(["report", "run", "--language", "fr"]) == 2
    said = capsys.readouterr().err
    assert "--language" in said and "fr" in said


def test_a_chart_says_its_numbers_in_the_language_it_was_asked_for() -> None:
    known = [(1, 42.0, 50.0), (2, 68.0, 40.0), (4, 56.0, 20.0), (8, 65.0, 10.0)]
    title = charts._pareto_title(known, DE).replace("\u202f", " ")
    assert title == (
        "Von 2 auf 8 gleichzeitig sinkt der Gesamtdurchsatz um 4,4 %, jeder Nutzer verliert 75 %"
    )


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SORTED = [
    ["340 ms", "1,2 s", "(2,05 min)", "–"],
    ["−3", "99", "1.213", ""],
    ["1,18 bis 1,80 s", "2,5 bis 2,6 s"],
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_german_pages_fit_a_phone_search_in_german_and_sort_german_numbers(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the group checks")
    pytest.importorskip("scipy", reason="needs the group analysis")
    paths = [odd_runs.synthetic(tmp_path, 120, [1, 2], name) for name in ("one", "two")]
    pages = [page_of(paths[0]), page_of(*paths)]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 320, "height": 800})
        for content in reversed(pages):
            page.set_content(content)
            page.wait_for_selector("html[data-drawn=yes]", state="attached")
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.fill("#search", "no such text")
        assert "Keine Antwort passt zu „no such text“." in page.inner_text("#none")
        for cells in SORTED:
            rows = "".join(f"<tr><td>{cell}</td></tr>" for cell in reversed(cells))
            table = f"<table class=sort><thead><tr><th>x</th></tr></thead><tbody>{rows}</tbody>"
            table = re.sub(r" (?=(s|ms|min)\b)", "\u202f", table)
            page.set_content(f'<html lang="de">{table}')
            page.evaluate(report.SORTING)
            page.click("th button")
            texts = page.locator("td").all_inner_texts()
            assert [text.replace("\u202f", " ") for text in texts] == cells
        browser.close()
