"""What report and dashboard say in the reader's language, and how they write numbers.

    say = Sentences("de")
    say.ms(1520), say.count(1213)             1,52 s and 1.213; in English 1.52 s and 1,213
    say("{n} failed", n=say.count(3))         "3 fehlgeschlagen"; in English as it stands there
    say.caveat("too_short")                   the statement of a verdict's reason
    say.message("set cache_bust")             in German what the core says in English

A text of report, charts and comparisons stands where it is said, in English; its German is in the
table GERMAN. The core and the results file are English: MESSAGES has the German of what they say.
A test holds that no text lacks its German, has other fields in it, or is unused.

The order of this file: numbers, texts, statements, and the tables GERMAN and MESSAGES.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import llm_stresstest as st

NARROW = st.NARROW_SPACE
LANGUAGES = ("en", "de")

# === Numbers ===


class Language:
    """Numbers in one language: English 1,213 and 1.52 s, German 1.213 and 1,52 s."""

    SWAPPED = str.maketrans(",.", ".,")

    def __init__(self, language: str) -> None:
        self.language = language
        self.place = LANGUAGES.index(language)

    def own(self, text: str) -> str:
        """Return a number, or an interval with its unit, as the language writes it."""
        if self.language == "en":
            return text
        return text.translate(self.SWAPPED).replace(" to ", " bis ")

    def number(self, value: float | None) -> str:
        """Return a measured number with three digits; a dash when it was not measured."""
        return self.own(st.format_number(value))

    def count(self, value: int | None) -> str:
        """Return a count, exact."""
        return "–" if value is None else self.own(f"{value:,}")

    def ms(self, value: float | None) -> str:
        """Return a time."""
        return self.own(st.format_ms(value))

    def interval(self, bounds: Sequence[float | None]) -> str:
        """Return an interval of times."""
        return self.own(st.format_interval(bounds))

    def share(self, *shares: float | None) -> str:
        """Return a share or an interval of shares."""
        return self.own(st.format_share(*shares))

    def limit(self, limit_ms: float) -> str:
        """Return a limit as the user wrote it."""
        return self.own(st.format_limit(limit_ms))

    def duration(self, seconds: float | None) -> str:
        """Return how long something takes: whole seconds, minutes, hours."""
        if seconds is None:
            return "–"
        whole = max(round(seconds), 0)
        if whole < 120:
            return f"{whole}{NARROW}s"
        if whole < 7200:
            return f"{round(whole / 60)}{NARROW}min"
        return f"{whole // 3600}{NARROW}h {whole % 3600 // 60:02}{NARROW}min"

    def seconds(self, value: float | None) -> str:
        """Return seconds with one decimal, from ten on whole."""
        if value is None:
            return "–"
        return self.own(f"{value:.1f}" if value < 9.95 else f"{value:,.0f}")

    def size(self, count: float | None) -> str:
        """Return an amount of bytes."""
        value, units = float(count or 0), ["B", "kB", "MB", "GB", "TB"]
        while value >= 1000 and len(units) > 1:
            value /= 1000
            units.pop(0)
        return "–" if count is None else f"{self.number(value)}{NARROW}{units[0]}"

    def caveat(self, code: str) -> str:
        """Return the statement of a verdict's reason; "" for one that is not known."""
        return CAVEATS.get(code, ("", ""))[self.place]


# === Texts ===


class Sentences(Language):
    """The texts of the report and its charts, each named by its English: `say("{n} failed", n=3)`.

    What the core said in English, `message` says in German as far as MESSAGES knows it.
    """

    def __call__(self, english: str, **fields: object) -> str:
        """Return a text with its fields filled in. Raises KeyError for one that has no German."""
        text = english if self.language == "en" else _unbroken(GERMAN[english])
        text = text.replace(" %", f"{NARROW}%")
        return _filled(text, fields) if fields else text

    @property
    def locale(self) -> dict[str, Any] | None:
        """How Vega writes numbers; None as it does anyway."""
        if self.language == "en":
            return None
        signs = {"decimal": ",", "thousands": ".", "percent": f"{NARROW}%"}
        return {**signs, "grouping": [3], "currency": ["", ""]}

    def listed(self, texts: Sequence[str]) -> str:
        """Return texts as one list: A, B and C."""
        return self(" and ").join(filter(None, [", ".join(texts[:-1]), texts[-1]]))

    def joined(self, texts: Sequence[str]) -> str:
        """Return sentences as a paragraph; one that is foreign stays marked."""
        return _filled(" ".join(["{}"] * len(texts)), texts)

    def foreign(self, text: str) -> str:
        """Return an English text, which a page in another language marks as such."""
        if self.language == "en":
            return text
        import markupsafe  # noqa: PLC0415  which compare does without

        return markupsafe.Markup('<span lang="en">{}</span>').format(text)

    def message(self, text: str, *, is_sentence: bool = True) -> str:
        """Return a message of the core, as a whole sentence unless it goes on.

        What has no German, or says in it what a server said, is marked as foreign.
        """
        text = st.printable(text, 1000)
        found = text if self.language == "en" else self._german(text.removesuffix("."))
        if found is None:
            return self.foreign(sentence(text) if is_sentence else text)
        return sentence(found) if is_sentence else found

    def _german(self, text: str) -> str | None:
        """Return a message in German: a known one, or known clauses, one after the other."""
        whole = self._known(text)
        if whole is not None:
            return whole
        for end in list(re.finditer("; ", text))[:20]:
            first = self._known(text[: end.start()])
            rest = None if first is None else self._german(text[end.end() :])
            if rest is not None:
                return _filled("{}; {}", (first, rest))
        return None

    def _known(self, text: str) -> str | None:
        for pattern, german in _patterns():
            found = pattern.fullmatch(text)
            if found is not None:
                said = {name: self._field(name, value) for name, value in found.groupdict().items()}
                return _filled(german.replace(" %", f"{NARROW}%"), said)
        return None

    def _field(self, name: str, value: str) -> str:
        """Return what stood in a message's field: a number, a phrase, or what a server said."""
        if name in ("said", "said_too"):
            return self.foreign(value)
        if _NUMBER.fullmatch(value):
            return self.own(value.replace("%", f"{NARROW}%").replace(NARROW * 2, NARROW))
        known = self._german(value) if value else None
        return value if known is None else known


def _unbroken(text: str) -> str:
    """Keep together on one line what would look odd apart: 95-%-Intervall, and arrows."""
    text = text.replace("-%-", "\u2011%\u2011")
    text = re.sub("(?<=[↓↑←→]) ", "\u00a0", text)  # ↓ weniger ist besser
    return re.sub(" (?=[↓↑→]$)", "\u00a0", text)  # Median ↓


def sentence(text: str) -> str:
    """Return a message with a capital and a full stop."""
    text = text if hasattr(text, "__html__") else st.printable(text, 1000)
    end = "" if text.endswith((".", "!", "?", "…")) else "."
    return text[:1].upper() + text[1:] + end


def _filled(template: str, fields: Mapping[str, object] | Sequence[object]) -> str:
    """Fill a template; when a field is HTML, the whole is, and the others are escaped."""
    named = fields if isinstance(fields, Mapping) else {}
    placed = () if isinstance(fields, Mapping) else fields
    if any(hasattr(field, "__html__") for field in (*named.values(), *placed)):
        import markupsafe  # noqa: PLC0415

        return markupsafe.Markup(template).format(*placed, **named)  # noqa: S704  a text of ours
    return template.format(*placed, **named)


_NUMBER = re.compile(rf"[+−-]?[\d.,]+( to [−-]?[\d.,]+)?[ {NARROW}]?(%|ms|s|min)?")

# What a field of a message may hold: anything, a key, or no more than the clause it stands in.
_HELD = {"said": ".*?", "said_too": ".*?", "found": ".*?", "key": r"[\w.]+"}
_CLAUSE = "(?:(?!; ).)*?"


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return what finds each message of the core, with the German to say for it."""
    found = []
    for english, german in MESSAGES.items():
        pieces = re.split(r"\{(\w+)\}", english)
        for place in range(1, len(pieces), 2):
            pieces[place] = f"(?P<{pieces[place]}>{_HELD.get(pieces[place], _CLAUSE)})"
        pieces[::2] = map(re.escape, pieces[::2])
        length = len(re.sub(r"\{\w+\}", "", english))
        found.append((length, re.compile("".join(pieces), re.DOTALL), german))
    found.sort(key=lambda each: -each[0])  # what says most is the closest
    return [(pattern, german) for _, pattern, german in found]


# === Statements ===

CAVEATS = {  # code: (English, German)
    "no_answers": ("No request succeeded.", "Keine Anfrage gelang."),
    "failures": ("Requests failed.", "Anfragen schlugen fehl."),
    "client_saturated": ("This program was the bottleneck.", "Dieses Programm war der Engpass."),
    "client_starved": (
        "This program had to wait for a processor.",
        "Dieses Programm musste auf einen Prozessor warten.",
    ),
    "too_short": ("The run was short.", "Der Lauf war kurz."),
    "too_few_requests": ("There are too few answers.", "Es sind zu wenige Antworten."),
    "answers_cut": ("Answers were cut.", "Antworten wurden abgeschnitten."),
    "reasoning_only": ("Some answers are reasoning only.", "Manche Antworten sind nur Überlegung."),
    "prompt_cache": (
        "First-token times flatter the server.",
        "Die Zeiten bis zum ersten Token schmeicheln dem Server.",
    ),
    "rate_missed": ("The rate was not reached.", "Die Rate wurde nicht erreicht."),
    "slow_connect": ("Connections opened slowly.", "Verbindungen öffneten langsam."),
    "overloaded": (
        "Requests came faster than they were served.",
        "Anfragen kamen schneller, als sie beantwortet wurden.",
    ),
    "unsteady": ("The load was not steady.", "Die Last war nicht gleichmäßig."),
    "stream_buffered": ("Answers came in one piece.", "Antworten kamen in einem Stück."),
    "tokens_estimated": ("Tokens are estimated.", "Token sind geschätzt."),
    "drift": ("The times drift.", "Die Zeiten driften."),
    "clock_jump": ("The clock jumped.", "Die Uhr sprang."),
    "throttled": ("The machine was slowed down.", "Die Maschine wurde gedrosselt."),
    "swapping": ("The machine swapped.", "Die Maschine lagerte Speicher aus."),
    "busy_machine": (
        "The machine was busy with other things.",
        "Die Maschine war mit anderem beschäftigt.",
    ),
    "on_battery": ("The machine ran on its battery.", "Die Maschine lief auf Akku."),
    "shared_server": ("Another run used the server.", "Ein anderer Lauf nutzte den Server."),
    "gave_up": ("The run gave up early.", "Der Lauf gab vorzeitig auf."),
    "backed_off": (
        "The run waited because the server asked for it.",
        "Der Lauf wartete, weil der Server darum bat.",
    ),
    "reconnects": (
        "Kept connections had been closed.",
        "Gehaltene Verbindungen waren geschlossen worden.",
    ),
    "other_model": ("Another model answered.", "Ein anderes Modell antwortete."),
    "no_finish_reason": (
        "Answers say nothing of how they ended.",
        "Antworten sagen nicht, wie sie endeten.",
    ),
    "unusual_ends": ("Answers ended in unusual ways.", "Antworten endeten ungewöhnlich."),
    "blank_answers": ("Some answers are blank.", "Manche Antworten sind leer."),
    "tokens_doubtful": ("The token counts are doubtful.", "Die Tokenzahlen sind zweifelhaft."),
    "interrupted": ("The run was stopped.", "Der Lauf wurde gestoppt."),
    "resumed": ("The run has an earlier part.", "Der Lauf hat einen früheren Teil."),
}

# === The report, its charts and its comparisons ===

# English: German. A text stands here under the words that its place in the code says.
GERMAN = {
    # Lists
    " and ": " und ",
    "{n} of {total}": "{n} von {total}",
    "{low} to {high}": "{low} bis {high}",
    "about ": "etwa ",
    "{level} at once": "{level} gleichzeitig",
    " at once": " gleichzeitig",
    "{model} on {server}": "{model} auf {server}",
    # Frame
    "report": "Bericht",
    "Sections": "Abschnitte",
    "Skip to the answer": "Zur Antwort springen",
    "Light / dark": "Hell / dunkel",
    "Answer": "Antwort",
    "Levels": "Stufen",
    "Latency": "Latenz",
    "Over time": "Im Verlauf",
    "Failures": "Fehler",
    "Quality": "Qualität",
    "Answers": "Antworten",
    "Configuration": "Konfiguration",
    "Copy": "Kopieren",
    "Copied": "Kopiert",
    "Selected": "Markiert",
    "Show all": "Alle zeigen",
    "No answer matches “{text}”.": "Keine Antwort passt zu „{text}“.",
    "The charts are drawn by a script in this page; without one, make the page with --lite.": (
        "Die Diagramme zeichnet ein Skript in dieser Seite; ohne Skript die Seite mit --lite "
        "erzeugen."
    ),
    # Verdict
    "trustworthy": "vertrauenswürdig",
    "do not use these numbers": "diese Zahlen nicht verwenden",
    "usable, with 1 caveat": "brauchbar, mit einem Vorbehalt",
    "usable, with {n} caveats": "brauchbar, mit {n} Vorbehalten",
    "Verdict {verdict}": "Urteil {verdict}",
    # Answer
    "{n} requests in {time}, none failed": "{n} Anfragen in {time}, keine fehlgeschlagen",
    "{n} requests in {time}, {failed} failed": (
        "{n} Anfragen in {time}, davon {failed} fehlgeschlagen"
    ),
    "asked from {machine}": "angefragt von {machine}",
    "{cores} cores of {cpu}": "{cores} Kerne {cpu}",
    "unknown CPU": "unbekannte CPU",
    "no GPU": "keine GPU",
    "{share} of {n} graded answers are right (95 %: {interval})": (
        "{share} der {n} bewerteten Antworten sind richtig (95 %: {interval})"
    ),
    " {share} of {n} graded answers are right (95 %: {interval}).": (
        " {share} der {n} bewerteten Antworten sind richtig (95 %: {interval})."
    ),
    "{speed} with {level}": "{speed} bei {level}",
    "{speed} tokens/s with {level} at once": "{speed} Token/s bei {level} gleichzeitig",
    " A user gets {about}{speeds}.": " Ein Nutzer erhält {about}{speeds}.",
    " {about}{speed} tokens/s in all": " {about}{speed} Token/s insgesamt",
    ", {speed} for one user.": ", {speed} für einen Nutzer.",
    "{about}{speed} tokens/s": "{about}{speed} Token/s",
    " at {level} at once": " bei {level} gleichzeitig",
    ", {speed} for each user": ", {speed} je Nutzer",
    " (95 %: {interval})": " (95 %: {interval})",
    "first token {time} in the median": "erstes Token {time} im Median",
    "{share} of {n} answers right (95 %: {interval})": (
        "{share} von {n} Antworten richtig (95 %: {interval})"
    ),
    "{n} of {total} requests failed": "{n} von {total} Anfragen fehlgeschlagen",
    # The card
    "At|once": "|Stufe",
    "Total": "Alle",
    "One|user": "Ein|Nutzer",
    "And {n} more.": "Und {n} weitere.",
    # Figures and the table of levels
    "tokens/s": "Token/s",
    "{about}{speed} for one user": "{about}{speed} für einen Nutzer",
    "Total speed ↑": "Gesamtdurchsatz ↑",
    "Total speed, {level} at once ↑": "Gesamt, {level} gleichzeitig ↑",
    "95 %: {interval}": "95 %: {interval}",
    "95 %: {interval}, of {n} graded": "95 %: {interval}, {n} bewertet",
    "First token (TTFT), median ↓": "Erstes Token (TTFT), Median ↓",
    "First token (TTFT)": "Erstes Token (TTFT)",
    "not measured: that needs stream": "nicht gemessen: dazu gehört stream",
    "no answer came": "es kam keine Antwort",
    "Whole answer (E2E), median ↓": "Ganze Antwort (E2E), Median ↓",
    "Within the limits ↑": "In den Grenzen ↑",
    "Right answers ↑": "Richtige Antworten ↑",
    "{n} failed, none graded": "{n} fehlgeschlagen, keine bewertet",
    "Requests|at once": "Anfragen|gleichzeitig",
    "Total,|tokens/s ↑": "Gesamt,|Token/s ↑",
    "One user,|tokens/s ↑": "Ein Nutzer,|Token/s ↑",
    "First token (TTFT),|median ↓": "Erstes Token (TTFT),|Median ↓",
    "Whole answer (E2E),|median ↓": "Ganze Antwort (E2E),|Median ↓",
    "Within the|limits ↑": "In den|Grenzen ↑",
    "Right|answers ↑": "Richtige|Antworten ↑",
    "{n} failed": "{n} fehlgeschlagen",
    "↑ more is better, ↓ less is better. Small: 95 % interval.": (
        "↑ mehr ist besser, ↓ weniger ist besser. Klein: 95-%-Intervall."
    ),
    "Marked: {level} at once, the highest level whose total is a tenth or more above that of each "
    "lower one.": (
        "Hervorgehoben: {level} gleichzeitig, die höchste Stufe, deren Gesamtdurchsatz mindestens "
        "ein Zehntel über dem jeder niedrigeren liegt."
    ),
    "{n} of {total} levels; export has all.": "{n} von {total} Stufen; export enthält alle.",
    "No limits were set: slo sets them.": "Grenzen sind nicht gesetzt: slo setzt sie.",
    "Limits: {limits}.": "Grenzen: {limits}.",
    "first token": "erstes Token",
    "each further token": "jedes weitere Token",
    "whole answer": "ganze Antwort",
    "quality": "Qualität",
    "A failed request counts as late and as wrong.": (
        "Eine fehlgeschlagene Anfrage zählt als verspätet und als falsch."
    ),
    "First tokens were not measured: that needs stream.": (
        "Erste Token sind nicht gemessen: dazu gehört stream."
    ),
    "No answer was graded: questions need a grader.": (
        "Keine Antwort ist bewertet: dazu brauchen Fragen einen grader."
    ),
    "Energy was not measured: hardware.power_url names a meter.": (
        "Energie ist nicht gemessen: hardware.power_url nennt ein Messgerät."
    ),
    "In brackets: too few answers for an interval.": (
        "In Klammern: zu wenige Antworten für ein Intervall."
    ),
    # What was run
    "Model": "Modell",
    "Server": "Server",
    "Machine": "Maschine",
    "Questions": "Fragen",
    "{n} million parameters": "{n} Millionen Parameter",
    "embedded": "eingebettet",
    "{n} slots": "{n} Slots",
    "{n} tokens of context": "{n} Token Kontext",
    "the load came from the same machine": "die Last kam von derselben Maschine",
    "{n} questions": "{n} Fragen",
    "{n} questions a level": "{n} Fragen je Stufe",
    "{time} of questions": "{time} lang Fragen",
    "{time} of questions a level": "{time} lang Fragen je Stufe",
    "{rate} requests/s ({kind})": "{rate} Anfragen/s ({kind})",
    "streaming": "mit Streaming",
    "not streaming": "ohne Streaming",
    "at most {n} tokens": "höchstens {n} Token",
    # How load changes it
    "How load changes it": "Was die Last verändert",
    "One point a level. Bars: 95 % interval.": "Ein Punkt je Stufe. Balken: 95-%-Intervall.",
    "Median time to first token, and its interval · ↓ less is better": (
        "Median der Zeit bis zum ersten Token mit Intervall · ↓ weniger ist besser"
    ),
    "Right answers, failures counted as wrong, 95 % interval · ↑ more is better": (
        "Richtige Antworten, Fehler zählen als falsch, 95-%-Intervall · ↑ mehr ist besser"
    ),
    "First tokens do not compare between levels: prompts came from a cache": (
        "Erste Token sind zwischen Stufen nicht vergleichbar: Prompts kamen aus einem Cache"
    ),
    "The first token": "Das erste Token",
    "An answer": "Eine Antwort",
    "First token": "Erstes Token",
    "Each further token": "Jedes weitere Token",
    "Whole answer": "Ganze Antwort",
    "{what} was not measured at two levels": "{what}: nicht auf zwei Stufen gemessen",
    " and at ": " und bei ",
    "{what}: too few answers at {levels} at once to tell levels apart": (
        "{what}: bei {levels} gleichzeitig zu wenige Antworten, um Stufen zu unterscheiden"
    ),
    "{what} cannot be told apart at {low} and at {high} at once": (
        "{what}: zwischen {low} und {high} gleichzeitig kein Unterschied nachweisbar"
    ),
    "{what} takes {before} at {low} at once and {after} at {high}, in the median": (
        "{what} braucht im Median {before} bei {low} gleichzeitig und {after} bei {high}"
    ),
    "; {n} answers changed their grade": "; {n} Antworten sind anders bewertet",
    "; 1 answer changed its grade": "; eine Antwort ist anders bewertet",
    "No difference in right answers between {low} and {high} at once is beyond chance, with {n} "
    "answers a level": (
        "Richtige Antworten: zwischen {low} und {high} gleichzeitig kein Unterschied nachweisbar, "
        "bei {n} Antworten je Stufe"
    ),
    "No chart: fewer than two levels have a speed in total and for a user.": (
        "Kein Diagramm: Gesamtdurchsatz und Tempo je Nutzer sind auf weniger als zwei Stufen "
        "bekannt."
    ),
    "{level} at once: {total} tokens/s in all, {one} for one user": (
        "{level} gleichzeitig: {total} Token/s insgesamt, {one} für einen Nutzer"
    ),
    "tokens/s of one user →": "Token/s eines Nutzers →",
    "at once": "gleichzeitig",
    "total tokens/s ↑": "Token/s gesamt ↑",
    "one user, tokens/s ↑": "ein Nutzer, Token/s ↑",
    "95 % interval": "95-%-Intervall",
    "Total tokens/s (up) against one user's (right) · ↑ → more is better": (
        "Token/s insgesamt (oben) gegen die eines Nutzers (rechts) · ↑ → mehr ist besser"
    ),
    "about Total tokens/s (up) against one user's (right) · ↑ → more is better": (
        "Geschätzte Token/s insgesamt (oben) gegen die eines Nutzers (rechts) · ↑ → mehr ist besser"
    ),
    "From {low} to {high} at once {total} and {one}": (
        "Von {low} auf {high} gleichzeitig {total}, {one}"
    ),
    "the total grows by {size}": "wächst der Gesamtdurchsatz um {size}",
    "the total falls by {size}": "sinkt der Gesamtdurchsatz um {size}",
    "each user loses {size}": "jeder Nutzer verliert {size}",
    "each user gains {size}": "jeder Nutzer gewinnt {size}",
    "{level} at once: {value}, 95 %: {interval}": (
        "{level} gleichzeitig: {value}, 95 %: {interval}"
    ),
    "requests at once": "Anfragen gleichzeitig",
    "right answers": "richtige Antworten",
    "median": "Median",
    "answers": "Antworten",
    "The first {count}; export has all.": "Die ersten {count}; export enthält alle.",
    # Latency
    "How many of the requests (up) were done within a time (right). A curve further left is "
    "faster.": (
        "Wie viele der Anfragen (oben) innerhalb einer Zeit (rechts) fertig waren. Eine Kurve "
        "weiter links ist schneller."
    ),
    "Thick bars: 95 % interval of each median.": "Dicke Balken: 95-%-Intervall des Medians.",
    "Shaded: 95 % band for the whole curve.": "Getönt: 95-%-Band der ganzen Kurve.",
    "No chart: no request succeeded, so there is no latency to show.": (
        "Kein Diagramm: Keine Anfrage gelang, also gibt es keine Latenz zu zeigen."
    ),
    "TTFT, time to first token": "TTFT, Zeit bis zum ersten Token",
    "TPOT, time for each further token": "TPOT, Zeit je weiterem Token",
    "E2E, end-to-end latency": "E2E, Zeit bis zum Ende der Antwort",
    " · log scale": " · logarithmisch",
    " · limit {limit}, beyond the axis": " · Grenze {limit}, jenseits der Achse",
    " · ← less is better": " · ← weniger ist besser",
    " · ↓ less is better": " · ↓ weniger ist besser",
    "limit {limit}": "Grenze {limit}",
    "max": "Max.",
    "all answers": "alle Antworten",
    "{label}: {time} in the median": "{label}: {time} im Median",
    " (cut at {n} tokens)": " (nach {n} Token abgeschnitten)",
    "Half of the answers start within {time}": "Die Hälfte der Antworten beginnt binnen {time}",
    "Half of the answers are whole within {time}": (
        "Die Hälfte der Antworten ist binnen {time} vollständig"
    ),
    "Half of the answers need at most {time} for each further token": (
        "Die Hälfte der Antworten braucht höchstens {time} je weiterem Token"
    ),
    ", 95 of 100 within {time}": ", 95 von 100 binnen {time}",
    "start within the limit of {limit}": "beginnen innerhalb der Grenze von {limit}",
    "keep to the limit of {limit} a token": "halten die Grenze von {limit} je Token ein",
    "end within the limit of {limit}": "enden innerhalb der Grenze von {limit}",
    "{share} answers {within_limit}": "{share} Antworten {within_limit}",
    "{share} of the answers {within_limit}": "{share} der Antworten {within_limit}",
    "At every level all answers {within_limit}": "Auf jeder Stufe: alle Antworten {within_limit}",
    "At every level {share} answers or more {within_limit}": (
        "Auf jeder Stufe: mindestens {share} Antworten {within_limit}"
    ),
    "At every level {share} of the answers or more {within_limit}": (
        "Auf jeder Stufe: mindestens {share} der Antworten {within_limit}"
    ),
    "{first} answers at {low} at once and {last} at {high} {within_limit}": (
        "{first} Antworten bei {low} gleichzeitig und {last} bei {high} {within_limit}"
    ),
    # Over time
    "; {n} of {total} requests fail": "; {n} von {total} Anfragen schlagen fehl",
    "The machine's CPU is {share} busy in the median": (
        "Die CPU der Maschine ist im Median zu {share} ausgelastet"
    ),
    "{n} levels, one after the other": "{n} Stufen, eine nach der anderen",
    "{n} answers over time": "{n} Antworten im Verlauf",
    "{what} takes {second} in the second half of the run, {first} in the first": (
        "{what} braucht in der zweiten Hälfte des Laufs {second}, in der ersten {first}"
    ),
    "{what} takes no longer in the second half of the run ({second}) than in the first ({first}), "
    "beyond chance": (
        "{what} braucht in der zweiten Hälfte des Laufs ({second}) nicht nachweisbar länger als in "
        "der ersten ({first})"
    ),
    "seconds since the start": "Sekunden seit dem Beginn",
    " · {shown} of {total} shown, all extremes kept": (
        " · {shown} von {total} gezeigt, mit allen Extremen"
    ),
    "No chart: no request reached the server.": (
        "Kein Diagramm: Keine Anfrage erreichte den Server."
    ),
    "mean of {time}": "Mittel über {time}",
    "Requests in flight": "Anfragen unterwegs",
    "all users, each {time} · ↑ more is better": "alle Nutzer, je {time} · ↑ mehr ist besser",
    "Tokens/s": "Token/s",
    "failed request, when sent": "fehlgeschlagene Anfrage, beim Senden",
    "timeout, at the time waited": "Frist abgelaufen, nach der Wartezeit",
    "warm-up, left out of every number": "Aufwärmen, in keiner Zahl enthalten",
    "second": "Sekunde",
    "tokens/s ↑": "Token/s ↑",
    "in flight": "unterwegs",
    "request {n}: {what}": "Anfrage {n}: {what}",
    "request {n}: {what}, after {time}": "Anfrage {n}: {what}, nach {time}",
    "All panels share the time axis": "Alle Teile haben dieselbe Zeitachse",
    "each request a cross, when sent": "jede Anfrage ein Kreuz, beim Senden",
    "each request a point": "jede Anfrage ein Punkt",
    "No chart: fewer than two of the runs reached their server.": (
        "Kein Diagramm: Weniger als zwei der Läufe erreichten ihren Server."
    ),
    "mean": "Mittel",
    "all users · ↑ more is better": "alle Nutzer · ↑ mehr ist besser",
    "{count} requests take {times}": "{count} Anfragen dauern {times}",
    "The runs, of {few} to {many} requests, take {times}": (
        "Die Läufe mit {few} bis {many} Anfragen dauern {times}"
    ),
    "run": "Lauf",
    "requests": "Anfragen",
    "failed": "fehlgeschlagen",
    "duration ↓": "Dauer ↓",
    "Each run from its own start; all panels share the time axis": (
        "Jeder Lauf ab seinem Beginn; alle Teile haben dieselbe Zeitachse"
    ),
    "{run}, request {n}: {what}": "{run}, Anfrage {n}: {what}",
    "round": "rund",
    "square": "eckig",
    "triangle": "Dreieck",
    "CPU": "CPU",
    "GPU": "GPU",
    "Power": "Leistung",
    "GPU power": "GPU-Leistung",
    "CPU power": "CPU-Leistung",
    "% of the machine, this program included": "% der Maschine, samt diesem Programm",
    "% busy, all GPUs": "% ausgelastet, alle GPUs",
    "watts at the wall · ↓ less is better": "Watt an der Steckdose · ↓ weniger ist besser",
    "watts · ↓ less is better": "Watt · ↓ weniger ist besser",
    "watts, from the server · ↓ less is better": "Watt, laut Server · ↓ weniger ist besser",
    " · the first {shown} of {total} requests": " · die ersten {shown} von {total} Anfragen",
    " · {shown} of {total} lanes shown": " · {shown} von {total} Bahnen gezeigt",
    "{requests} requests on {lanes} lanes": "{requests} Anfragen auf {lanes} Bahnen",
    "{share} of the time is waiting for the first token, the rest is generating": (
        "{share} der Zeit vergehen mit Warten auf das erste Token, der Rest mit Erzeugen"
    ),
    "waiting for the first token": "wartet auf das erste Token",
    "generating": "erzeugt",
    "from sent to the end": "vom Senden bis zum Ende",
    "queued here": "wartet hier auf das Senden",
    "Each request is one segment, from sent to its last token, on the first free lane": (
        "Jede Anfrage ist ein Abschnitt vom Senden bis zum letzten Token, auf der ersten freien "
        "Bahn"
    ),
    "request": "Anfrage",
    "lane": "Bahn",
    "sent, s": "gesendet, s",
    "status": "Status",
    # Failures
    "Sent after": "Gesendet nach",
    "Kind": "Art",
    "Message": "Meldung",
    "Question": "Frage",
    "Failed after": "Fehler nach",
    "{n} of {total}: {kinds}.": "{n} von {total}: {kinds}.",
    " {n} of {total} are listed.": " {n} von {total} sind aufgeführt.",
    "cancelled": "abgebrochen",
    # Prompt and answer length
    "Prompt and answer length": "Länge von Prompt und Antwort",
    "Each request is a point.": "Jede Anfrage ist ein Punkt.",
    "No chart: fewer than two prompt lengths are known.": (
        "Kein Diagramm: Weniger als zwei Promptlängen sind bekannt."
    ),
    "No chart: fewer than two answer lengths are known.": (
        "Kein Diagramm: Weniger als zwei Antwortlängen sind bekannt."
    ),
    "request {n}: {count} tokens, {time}": "Anfrage {n}: {count} Token, {time}",
    "prompt tokens": "Prompt-Token",
    "answer tokens": "Antwort-Token",
    "prompt tokens that were not in the cache": "Prompt-Token, die nicht im Cache waren",
    "The slowest {count}; export has all.": "Die {count} langsamsten; export enthält alle.",
    "{metric} against {tokens} · ↓ less is better": (
        "{metric} gegen {tokens} · ↓ weniger ist besser"
    ),
    "at": "bei",
    "tokens": "Token",
    "No rise of TTFT with the length of the prompt is beyond chance": (
        "Kein Anstieg der TTFT mit der Promptlänge nachweisbar"
    ),
    "No rise of E2E with the length of the answer is beyond chance": (
        "Kein Anstieg der E2E mit der Antwortlänge nachweisbar"
    ),
    "{time} at {label}": "{time} bei {label}",
    "Each prompt token adds {times} to the first token": (
        "Jedes Prompt-Token verzögert das erste Token um {times}"
    ),
    "Each uncached prompt token adds {times} to the first token": (
        "Jedes Prompt-Token außerhalb des Caches verzögert das erste Token um {times}"
    ),
    "Each further token adds {times} to an answer": (
        "Jedes weitere Token verlängert eine Antwort um {times}"
    ),
    # Quality
    ", {n} could not be graded": ", {n} ließen sich nicht bewerten",
    ". The interval counts each of the {n} questions once, however often it was asked.": (
        ". Das Intervall zählt jede der {n} Fragen einmal, wie oft sie auch gestellt wurde."
    ),
    "What a right answer costs": "Was eine richtige Antwort kostet",
    "By requests at once. “–” is not measured.": (
        "Nach Anfragen gleichzeitig. „–“ ist nicht gemessen."
    ),
    "At once": "Gleich\u00adzeitig",
    "Right answers/s ↑": "Richtige je s ↑",
    "Tokens each ↓": "Token ↓",
    "Wh per 1,000 ↓": "Wh je 1.000 ↓",
    "Price each ↓": "Preis ↓",
    "No chart: all {count} graded answers are wrong.": (
        "Kein Diagramm: Alle {count} bewerteten Antworten sind falsch."
    ),
    "No chart: all {count} graded answers are right.": (
        "Kein Diagramm: Alle {count} bewerteten Antworten sind richtig."
    ),
    "{what}: {value}, 95 %: {interval}, of {n}": "{what}: {value}, 95 %: {interval}, von {n}",
    "Right answers by category, 95 % interval · → more is better": (
        "Richtige Antworten je Kategorie, 95-%-Intervall · → mehr ist besser"
    ),
    "category": "Kategorie",
    "right ↑": "richtig ↑",
    "graded": "bewertet",
    "not graded": "nicht bewertet",
    "{share} of the graded answers are right": "{share} der bewerteten Antworten sind richtig",
    "From {low} ({worst}) to {high} ({best}), but no category can be told from another": (
        "Von {low} ({worst}) bis {high} ({best}), doch keine Kategorie hebt sich nachweisbar ab"
    ),
    "From {low} ({worst}) to {high} ({best}): the best and the worst differ beyond chance": (
        "Von {low} ({worst}) bis {high} ({best}): Beste und schlechteste Kategorie unterscheiden "
        "sich nachweisbar"
    ),
    # Answers to read
    "Answers to read": "Antworten im Wortlaut",
    "The slowest, the wrong and the failed, one entry a question; texts are cut at 3,000 "
    "characters, the results file has all.": (
        "Die langsamsten, die falschen und die fehlgeschlagenen, ein Eintrag je Frage; Texte enden "
        "nach 3.000 Zeichen, die Ergebnisdatei hat alles."
    ),
    "Search questions and answers": "Frage oder Antwort suchen",
    "Reasoning": "Überlegung",
    "(empty)": "(leer)",
    "Took {time} for {n} tokens.": "{time} für {n} Token.",
    "Cut at max_tokens.": "Bei max_tokens abgeschnitten.",
    "Wrong": "Falsch",
    "Wrong {n} of {total} times": "{n} von {total} Mal falsch",
    "Right.": "Richtig.",
    "Slowest": "Langsamste",
    "Failed": "Fehlgeschlagen",
    "All": "Alle",
    "… {n} more characters": "… {n} weitere Zeichen",
    "No answer came, and no request failed.": (
        "Es kam keine Antwort, und keine Anfrage schlug fehl."
    ),
    # The end
    "What differs from the defaults.": "Was von den Vorgaben abweicht.",
    "Show all {n} keys": "Alle {n} Schlüssel zeigen",
    "Recompute every number:": "Jede Zahl nachrechnen:",
    "Run {id}": "Lauf {id}",
    "questions {hash}": "Fragen {hash}",
    "client busy {share} of a core": "Client lastet {share} eines Kerns aus",
    "event loop late by {time} (p99)": "Ereignisschleife um {time} verspätet (p99)",
    "Show the data as a table": "Daten als Tabelle zeigen",
    # Comparing
    "Verdict": "Urteil",
    "Run": "Lauf",
    "Date": "Datum",
    "Answers that changed": "Geänderte Antworten",
    "{n} runs, {date} and later": "{n} Läufe, {date} und später",
    "These runs are not comparable: {keys}.": "Diese Läufe sind nicht vergleichbar: {keys}.",
    "What changed": "Was sich geändert hat",
    "{run} is not compared with A": "{run} wird nicht mit A verglichen",
    "The curves below are drawn all the same; no verdict stands on them.": (
        "Die Kurven unten sind trotzdem gezeichnet; kein Urteil stützt sich auf sie."
    ),
    "{run} against A": "{run} gegen A",
    "Difference": "Unterschied",
    "95 % over all rows": "95 % über alle Zeilen",
    "−50 % to +50 %": "−50 % bis +50 %",
    "shaded: the same within the margin": "getönt: gilt als gleich",
    "{run} against A, level by level": "{run} gegen A, Stufe für Stufe",
    "Differences with their 95 % intervals, which hold over all rows and levels at once.": (
        "Unterschiede mit 95-%-Intervallen, die für alle Zeilen und Stufen zugleich gelten."
    ),
    "No chart: at least one of the runs has no answer.": (
        "Kein Diagramm: Mindestens einer der Läufe hat keine Antwort."
    ),
    "Answers that changed their grade": "Antworten, deren Bewertung sich änderte",
    "{run} against A: {gained} became right, {lost} became wrong.": (
        "{run} gegen A: {gained} nun richtig, {lost} nun falsch."
    ),
    "✓ right": "✓ richtig",
    "✕ wrong": "✕ falsch",
    "Nothing was compared.": "Es wurde nichts verglichen.",
    "not compared": "nicht verglichen",
    "Answer's first token": "Erstes Token der Antwort",
    "Each further token (TPOT)": "Jedes weitere Token (TPOT)",
    "Whole answer (E2E)": "Ganze Antwort (E2E)",
    "Tokens an answer": "Token je Antwort",
    "Total tokens/s": "Gesamtdurchsatz (Token/s)",
    "Requests/s": "Anfragen/s",
    "Good requests/s": "Gute Anfragen/s",
    "Within the limits": "In den Grenzen",
    "Failed requests": "Fehlgeschlagene Anfragen",
    "Right answers": "Richtige Antworten",
    "Energy an answer": "Energie je Antwort",
    "TTFT": "TTFT",
    "TPOT": "TPOT",
    "E2E": "E2E",
    "answer TTFT": "TTFT der Antwort",
    "answer length": "Antwortlänge",
    "requests/s": "Anfragen/s",
    "goodput/s": "Gute Anfragen/s",
    "within limits": "in den Grenzen",
    "energy": "Energie",
    "blocks of time": "Zeitblöcke",
    "share": "Anteil",
    "{metric} {word} by {size} since {date}": "{metric} um {size} {word} seit {date}",
    "points": "Punkte",
    "faster": "schneller",
    "slower": "langsamer",
    "higher": "höher",
    "lower": "niedriger",
    "cannot tell": "nicht entscheidbar",
    "not measured": "nicht gemessen",
    "= the same within {limit}": "= gleich auf {limit}",
    "a longer run": "ein längerer Lauf",
    "a run {times} times as long": "ein {times}-mal so langer Lauf",
    "the runs differ too much": "die Läufe weichen zu stark voneinander ab",
    "about {n} more question": "noch etwa {n} Frage",
    "about {n} more questions": "noch etwa {n} Fragen",
    "about {n} more run a side": "noch etwa {n} Lauf je Seite",
    "about {n} more runs a side": "noch etwa {n} Läufe je Seite",
    "answers take {size} less time": "Antworten {size} früher fertig",
    "answers take {size} longer": "Antworten {size} später fertig",
    "first token comes {size} sooner": "erstes Token {size} früher",
    "first token comes {size} later": "erstes Token {size} später",
    "further tokens come {size} faster": "weitere Token {size} schneller",
    "further tokens come {size} slower": "weitere Token {size} langsamer",
    "total tokens/s are {size} lower": "Gesamtdurchsatz {size} niedriger",
    "total tokens/s are {size} higher": "Gesamtdurchsatz {size} höher",
    "share of right answers is {size} lower": "Anteil richtiger Antworten {size} niedriger",
    "share of right answers is {size} higher": "Anteil richtiger Antworten {size} höher",
    "share of failed requests is {size} lower": "Anteil fehlgeschlagener Anfragen {size} niedriger",
    "share of failed requests is {size} higher": "Anteil fehlgeschlagener Anfragen {size} höher",
    "answers are {size} shorter": "Antworten {size} kürzer",
    "answers are {size} longer": "Antworten {size} länger",
    "answers take {size} less energy": "Energie je Antwort {size} niedriger",
    "answers take {size} more energy": "Energie je Antwort {size} höher",
    "requests/s are {size} lower": "Anfragen/s {size} niedriger",
    "requests/s are {size} higher": "Anfragen/s {size} höher",
    "good requests/s are {size} lower": "gute Anfragen/s {size} niedriger",
    "good requests/s are {size} higher": "gute Anfragen/s {size} höher",
    "share within the limits is {size} lower": "Anteil in den Grenzen {size} niedriger",
    "share within the limits is {size} higher": "Anteil in den Grenzen {size} höher",
    "first token of the answer comes {size} sooner": "erstes Token der Antwort {size} früher",
    "first token of the answer comes {size} later": "erstes Token der Antwort {size} später",
    "No difference between A and {run} is beyond chance.": (
        "Zwischen A und {run} ist kein Unterschied nachweisbar."
    ),
    "A and {run} are the same in all {n} rows.": "A und {run} sind in allen {n} Zeilen gleich.",
    "No difference between these two runs is beyond chance.": (
        "Zwischen diesen zwei Läufen ist kein Unterschied nachweisbar."
    ),
    "These two runs are the same in all {n} rows.": (
        "Diese zwei Läufe sind in allen {n} Zeilen gleich."
    ),
    "; {n} more rows differ": "; {n} weitere Zeilen unterscheiden sich",
    "; one more row differs": "; eine weitere Zeile unterscheidet sich",
    "; no other difference is beyond chance": "; sonst ist kein Unterschied nachweisbar",
    "{run}'s {first} and its {second}{others}.": "{run}: {first}, {second}{others}.",
    "{run}'s {first}{others}.": "{run}: {first}{others}.",
    "not comparable, compared anyway: {why}": "nicht vergleichbar, trotzdem verglichen: {why}",
    "implausibly better ({names}): look whether answers came from a cache, were cut, empty or "
    "shorter": (
        "unglaubhaft viel besser ({names}): prüfen, ob Antworten aus einem Cache kamen, "
        "abgeschnitten, leer oder kürzer waren"
    ),
    "timed out: {a} of A, {b} of {run}; each counts as between its timeout and {times} times as "
    "long": (
        "Frist abgelaufen: {a} von A, {b} von {run}; jede zählt als zwischen ihrer Frist und dem "
        "{times}-Fachen"
    ),
    "{run} ({name}) is {verdict}: {why} [{code}]": "{run} ({name}) ist {verdict}: {why} [{code}]",
    "{run} ({name} and {n} more) is {verdict}: {why} [{code}]": (
        "{run} ({name} und {n} weitere) ist {verdict}: {why} [{code}]"
    ),
    "One run each: this holds for these two runs, not yet for the next. The tool ab includes the "
    "machine's own drift.": (
        "Je ein Lauf: Das gilt für diese zwei Läufe, noch nicht für den nächsten. Das Werkzeug "
        "„ab“ berücksichtigt auch das Driften der Maschine."
    ),
    "One run each; {n} equal runs of the folder say how far such runs differ.": (
        "Je ein Lauf; {n} gleiche Läufe des Ordners zeigen, wie weit solche Läufe streuen."
    ),
    "{a} and {b} runs: the intervals include how far runs differ among themselves.": (
        "{a} und {b} Läufe: Die Intervalle enthalten, wie weit Läufe untereinander streuen."
    ),
    "↓ less is better, ↑ more is better.": "↓ weniger ist besser, ↑ mehr ist besser.",
    " All levels together ({levels} at once), paired in each.": (
        " Alle Stufen zusammen ({levels} gleichzeitig), gepaart in jeder."
    ),
    " Times and lengths: the mean ratio over {n} pairs of the same question; it need not be the "
    "ratio of the two medians. The intervals hold for all rows together: one in twenty tables has "
    "a false alarm, not one in twenty rows.": (
        " Zeiten und Längen: das mittlere Verhältnis über {n} Paare derselben Frage; es muss nicht "
        "das Verhältnis der beiden Mediane sein. Die Intervalle gelten für alle Zeilen zusammen: "
        "Eine von zwanzig Tabellen hat einen Fehlalarm, nicht eine von zwanzig Zeilen."
    ),
}

# === What the core says ===

# English of the core, of hardware.py and of pairing.py: German. `{said…}` holds what a server or a
# program said; a field that is itself a text here is said in German too. A message may be several
# of these, with "; " between them, and so may its `{found}`. A clause that follows on `{said}`
# stands with it, as nothing else says where that ends.
MESSAGES = {
    # Headlines
    "No answer came: nothing was asked": "Es kam keine Antwort: Nichts wurde angefragt",
    "No answer came: {said}": "Es kam keine Antwort: {said}",
    "These times are this program's own, not the server's": (
        "Diese Zeiten stammen vom Messprogramm selbst, nicht vom Server"
    ),
    "From {level} at once on, answers get worse: {before} → {after} right": (
        "Ab {level} gleichzeitigen Anfragen werden die Antworten schlechter: {before} → {after} "
        "richtig"
    ),
    "Beyond {level} at once, users {only}slow each other down: {total}, {speed}": (
        "Ab {level} gleichzeitigen Anfragen bremsen sich Nutzer {only}gegenseitig: {total}, {speed}"
    ),
    "Beyond {level} at once, {total}": "Jenseits von {level} gleichzeitigen Anfragen: {total}",
    "only ": "nur ",
    "the total stays the same": "Der Gesamtdurchsatz bleibt gleich",
    "the total grows {amount}": "Der Gesamtdurchsatz wächst um {amount}",
    "the total falls by {amount}": "Der Gesamtdurchsatz sinkt um {amount}",
    "each user's speed halves": "das Tempo je Nutzer halbiert sich",
    "each user's speed grows {amount}": "das Tempo je Nutzer wächst um {amount}",
    "each user's speed falls by {amount}": "das Tempo je Nutzer sinkt um {amount}",
    "each user's speed stays the same": "das Tempo je Nutzer bleibt gleich",
    "about {amount}": "etwa {amount}",
    "Up to {level} at once the total keeps growing, to {total} tokens/s": (
        "Bis {level} gleichzeitige Anfragen wächst der Gesamtdurchsatz weiter, auf {total} Token/s"
    ),
    "{n} of {total} requests start later than the limit of {limit}": (
        "Bei {n} von {total} Anfragen kommt das erste Token erst nach der Grenze von {limit}"
    ),
    "{n} of {total} requests start later than the limit of {limit}, and {failed} fail outright": (
        "Bei {n} von {total} Anfragen kommt das erste Token erst nach der Grenze von {limit}, "
        "{failed} schlagen ganz fehl"
    ),
    "{n} of {total} requests need more for a token than the limit of {limit}": (
        "Bei {n} von {total} Anfragen dauert ein Token länger als die Grenze von {limit}"
    ),
    "{n} of {total} requests need more for a token than the limit of {limit}, and {failed} fail "
    "outright": (
        "Bei {n} von {total} Anfragen dauert ein Token länger als die Grenze von {limit}, {failed} "
        "schlagen ganz fehl"
    ),
    "{n} of {total} requests end later than the limit of {limit}": (
        "{n} von {total} Anfragen enden erst nach der Grenze von {limit}"
    ),
    "{n} of {total} requests end later than the limit of {limit}, and {failed} fail outright": (
        "{n} von {total} Anfragen enden erst nach der Grenze von {limit}, {failed} schlagen ganz "
        "fehl"
    ),
    "{n} of {total} requests miss a limit": "{n} von {total} Anfragen verfehlen eine Grenze",
    "{n} of {total} requests miss a limit, and {failed} fail outright": (
        "{n} von {total} Anfragen verfehlen eine Grenze, {failed} schlagen ganz fehl"
    ),
    "{n} of {total} requests fail, most often {said}": (
        "{n} von {total} Anfragen schlagen fehl, am häufigsten: {said}"
    ),
    "{n} of {total} requests were answered": "{n} von {total} Anfragen wurden beantwortet",
    "Half of the answers start within {time}": "Die Hälfte der Antworten beginnt binnen {time}",
    "Half of the answers end within {time}": "Die Hälfte der Antworten endet binnen {time}",
    "a user gets {speed} tokens/s": "ein Nutzer erhält {speed} Token/s",
    "{share} of the graded answers are right": "{share} der bewerteten Antworten sind richtig",
    # How a run went
    "ended early: {said}; --resume asks what is left": (
        "vorzeitig beendet: {said}; --resume fragt den Rest an"
    ),
    "stopped before its end": "vor dem Ende gestoppt",
    "--resume goes on with it": "--resume setzt ihn fort",
    "an earlier part of it was {how}": "ein früherer Teil wurde {how}",
    "stopped": "gestoppt",
    "killed": "gewaltsam beendet",
    "between the parts nothing was asked": "zwischen den Teilen wurde nichts angefragt",
    "how busy this client was then is not in the verdict": (
        "wie ausgelastet dieser Client dabei war, steht nicht im Urteil"
    ),
    "no request succeeded: nothing was asked": "keine Anfrage gelang: Nichts wurde angefragt",
    "no request succeeded: {said}; see `error` in the results": (
        "keine Anfrage gelang: {said}; siehe `error` in den Ergebnissen"
    ),
    "see `error` in the results": "siehe `error` in den Ergebnissen",
    "{share} of the requests failed ({said}); latencies are of the survivors; look into the "
    "failures, or lower the load": (
        "{share} der Anfragen schlugen fehl ({said}); Latenzen sind die der gelungenen; den "
        "Fehlern nachgehen oder die Last senken"
    ),
    # The client
    " at {level} at once": " bei {level} gleichzeitig",
    "this client was the bottleneck{where}: {found}": (
        "dieser Client war der Engpass{where}: {found}"
    ),
    "its process used {share} of a core": "sein Prozess nutzte {share} eines Kerns",
    "lower the load, or give it a faster core": "Last senken oder ihm einen schnelleren Kern geben",
    "first tokens may be timed {time} late (p95)": (
        "erste Token können {time} zu spät erfasst sein (p95)"
    ),
    "first tokens may be timed {time} late (p99)": (
        "erste Token können {time} zu spät erfasst sein (p99)"
    ),
    "requests start {time} late (p95)": "Anfragen beginnen {time} zu spät (p95)",
    "slots stood empty {share} of the time": "Slots standen {share} der Zeit leer",
    "{share} of the chunks were read together with later ones": (
        "{share} der Chunks wurden zusammen mit späteren gelesen"
    ),
    "its times still hold": "seine Zeiten gelten trotzdem",
    "this client waited for a processor {share} of the time{where}: {found}": (
        "dieser Client wartete {share} der Zeit auf einen Prozessor{where}: {found}"
    ),
    "beside it ran another process": "daneben lief ein anderer Prozess",
    "beside it ran {said}; give it a core of its own": (
        "daneben lief {said}; ihm einen eigenen Kern geben"
    ),
    "give it a core of its own": "ihm einen eigenen Kern geben",
    "it ran for {time}, too short to tell how busy this client was: ask more questions": (
        "er dauerte {time}, zu kurz für ein Urteil über die Auslastung dieses Clients: mehr Fragen "
        "stellen"
    ),
    "{what} stands on {n} answers that depend on each other and count as {count}, too few for its "
    "interval: run longer, or at a lower load": (
        "{what} stützt sich auf {n} voneinander abhängige Antworten, die wie {count} zählen, zu "
        "wenige für das Intervall: länger oder mit weniger Last messen"
    ),
    "{what} stands on {n} answers, too few for its interval: ask {more} more": (
        "{what} stützt sich auf {n} Antworten, zu wenige für das Intervall: {more} mehr fragen"
    ),
    "the threshold on {key}": "der Schwellenwert für {key}",
    "the SLO": "das SLO",
    # The load
    "for {share} of the time{where} not all slots were busy": (
        "in {share} der Zeit{where} waren nicht alle Slots belegt"
    ),
    "for {share} of the time{where} not all slots were busy: {all} tokens/s over all of it, "
    "{steady} while they were": (
        "in {share} der Zeit{where} waren nicht alle Slots belegt: {all} Token/s über alles, "
        "{steady} bei voller Belegung"
    ),
    "ask more, or look for requests that hung": "mehr fragen oder hängende Anfragen suchen",
    "requests came faster than they were served: from {first} to {last} were waiting or under way, "
    "and TTFT from the schedule grew from {before} to {after}": (
        "Anfragen kamen schneller, als sie beantwortet wurden: Statt {first} waren zuletzt {last} "
        "unterwegs oder wartend, und die TTFT ab Plan stieg von {before} auf {after}"
    ),
    "its percentiles only say how long the run was: lower the rate": (
        "ihre Perzentile sagen nur, wie lang der Lauf war: Rate senken"
    ),
    "requests were sent up to {time} (p95) behind the schedule, because `concurrent` were in "
    "flight: the server does not keep up with the rate, or the cap is too low": (
        "Anfragen gingen bis zu {time} (p95) nach Plan hinaus, weil `concurrent` unterwegs waren: "
        "Der Server hält die Rate nicht, oder die Obergrenze ist zu niedrig"
    ),
    "judge by the latencies from the schedule": "nach den Latenzen ab Plan urteilen",
    "requests were sent up to {time} (p95) behind the schedule, because connections took that long "
    "to open": (
        "Anfragen gingen bis zu {time} (p95) nach Plan hinaus, weil Verbindungen so lange brauchten"
    ),
    "look at the network, TLS and the server's backlog": (
        "Netz, TLS und Warteschlange (Backlog) des Servers prüfen"
    ),
    "after failures in a row it asked more slowly, and waited {time} in all: the load was not what "
    "was asked for": (
        "nach mehreren Fehlern fragte er langsamer und wartete insgesamt {time}: Die Last war "
        "nicht die verlangte"
    ),
    "{n} of {total} requests found their kept connection closed, and were sent again on a new one: "
    "look at the keep-alive timeouts of the server and of what stands before it": (
        "{n} von {total} Anfragen fanden ihre gehaltene Verbindung geschlossen und gingen neu "
        "hinaus: Keep-Alive-Fristen des Servers und vorgeschalteter Proxys prüfen"
    ),
    # The answers
    "{n} answers came from {said}, says the server, not from {said_too}; unless that is an alias "
    "of it, set model to the one that you mean": (
        "{n} Antworten kamen laut Server von {said}, nicht von {said_too}; ist das kein Alias, "
        "model auf das gemeinte setzen"
    ),
    "{n} of {total} answers have no finish reason: some may have been cut unnoticed": (
        "{n} von {total} Antworten nennen kein Ende (finish_reason): Manche können unbemerkt "
        "abgeschnitten sein"
    ),
    "{n} of {total} answers ended unusually ({said}), so speed and quality may be of stumps": (
        "{n} von {total} Antworten endeten ungewöhnlich ({said}); Tempo und Qualität können "
        "Bruchstücke betreffen"
    ),
    "{n} streamed answers came in a few bursts: TTFT and ITL are those of whatever collects them": (
        "{n} gestreamte Antworten kamen in wenigen Schüben: TTFT und ITL sind die dessen, der sie "
        "sammelt"
    ),
    "{n} streamed answers came in one piece: TTFT is their E2E": (
        "{n} gestreamte Antworten kamen in einem Stück: Ihre TTFT ist die E2E"
    ),
    "look for a proxy that buffers": "nach einem puffernden Proxy suchen",
    "{n} of {total} answers were cut by a limit of the server, such as its context, and not by "
    "max_tokens": (
        "{n} von {total} Antworten schnitt eine Grenze des Servers ab, etwa sein Kontext, nicht "
        "max_tokens"
    ),
    "{n} of {total} answers were cut at max_tokens ({limits})": (
        "{n} von {total} Antworten endeten bei max_tokens ({limits})"
    ),
    "lengths and quality are not the model's": "Länge und Qualität sind nicht die des Modells",
    "raise it": "den Wert erhöhen",
    "look at how the server was started": "prüfen, wie der Server gestartet wurde",
    "{n} answers hold reasoning and nothing else": "{n} Antworten enthalten nur Überlegung",
    "raise max_tokens ({limits})": "max_tokens erhöhen ({limits})",
    "look at what the model or its template does": "prüfen, was Modell oder Template tun",
    "{n} of {total} answers are white space and nothing else": (
        "{n} von {total} Antworten sind nur Leerraum"
    ),
    "look at the prompt's template": "das Prompt-Template prüfen",
    "the server's token counts of {n} answers contradict what came ({said}); token_source says "
    "what was used": (
        "die Tokenzahlen des Servers widersprechen bei {n} Antworten dem, was kam ({said}); "
        "token_source nennt das Verwendete"
    ),
    "{share} of the prompt tokens{where} came from a cache, so TTFT is flattered": (
        "{share} der Prompt-Token{where} kamen aus einem Cache, die TTFT ist geschönt"
    ),
    " of a stage": " einer Stufe",
    "look into it": "dem nachgehen",
    "set cache_bust": "cache_bust setzen",
    "prompts repeat, and the server answers those that it knows from a cache: {warm} to the first "
    "token instead of {cold}": (
        "Prompts wiederholen sich, und der Server bedient bekannte aus einem Cache: {warm} bis zum "
        "ersten Token statt {cold}"
    ),
    "the server gave no usage for {n} answers": "der Server nannte zu {n} Antworten keine usage",
    "their tokens are counted as chunks, which may hold several": (
        "ihre Token sind als Chunks gezählt, die mehrere enthalten können"
    ),
    "{what} went from {before} at the beginning to {after} at the end": (
        "{what} ging von {before} am Anfang auf {after} am Ende"
    ),
    "use warmup, or find what slows the server down": (
        "warmup nutzen oder suchen, was den Server bremst"
    ),
    # The machine
    "the wall clock moved {time} against the monotonic one: the machine slept, or the clock was "
    "set": (
        "die Uhrzeit sprang um {time} gegenüber der monotonen Uhr: Die Maschine schlief, oder die "
        "Uhr wurde gestellt"
    ),
    "run again": "wiederholen",
    "{part} held back{where} ({said}) for {share} of the time": (
        "{part} wurde{where} {share} der Zeit gedrosselt ({said})"
    ),
    "{part} clocks fell{where} for {share} of the time": (
        "Takt der {part} fiel{where} {share} der Zeit ab"
    ),
    " in stage {n}": " in Stufe {n}",
    "cool it better, limit its power, or set cooldown": (
        "besser kühlen, Leistung begrenzen oder cooldown setzen"
    ),
    "{n} MiB were swapped out under load": "unter Last wurden {n} MiB ausgelagert",
    "use a smaller model or context, or free memory": (
        "kleineres Modell oder kürzeren Kontext nutzen oder Speicher freigeben"
    ),
    "other processes used {share} of the cores: they do not show from here": (
        "andere Prozesse nutzten {share} der Kerne: von hier aus nicht zu sehen, welche"
    ),
    "other processes used {share} of the cores: {said}; stop them, and run it again": (
        "andere Prozesse nutzten {share} der Kerne: {said}; sie beenden und wiederholen"
    ),
    "other processes used {share} of the GPU: they do not show from here": (
        "andere Prozesse nutzten {share} der GPU: von hier aus nicht zu sehen, welche"
    ),
    "stop them, and run it again": "sie beenden und wiederholen",
    "the machine ran on its battery, which slows it down": (
        "die Maschine lief auf Akku, das bremst sie"
    ),
    "plug it in, and run it again": "Netzteil anschließen und wiederholen",
    "another run of this tool measured the same server at the same time": (
        "ein anderer Lauf dieses Werkzeugs maß denselben Server zur selben Zeit"
    ),
    "--wait lets them follow each other": "--wait lässt sie einander folgen",
    # Why runs are not compared
    "{key}: {said} and {said_too}: {why}": "{key}: {said} und {said_too}: {why}",
    "the numbers of an INVALID run mean nothing": "Zahlen eines INVALID-Laufs besagen nichts",
    "tokens that are counted in different ways cannot be compared": (
        "verschieden gezählte Token sind nicht vergleichbar"
    ),
    "a metric that is defined in another way is another metric": (
        "eine anders definierte Größe ist eine andere Größe"
    ),
    "prompts that come from the server's cache start sooner": (
        "Prompts aus dem Cache des Servers beginnen früher"
    ),
    "set cache_bust for both": "cache_bust bei beiden setzen",
    "{n} of them are the same": "{n} davon sind gleich",
    "others have other lengths and answers": "die übrigen haben andere Längen und Antworten",
    "the same answer would get another grade": "dieselbe Antwort würde anders bewertet",
    "there is no level in common, and at another one every time is another": (
        "keine Stufe ist gemeinsam, und auf einer anderen ist jede Zeit anders"
    ),
    "other sampling gives other answers of other lengths": (
        "anderes Sampling gibt andere Antworten anderer Länge"
    ),
    "answers are cut at different lengths": "Antworten enden bei verschiedenen Längen",
    "another rate is another load": "eine andere Rate ist eine andere Last",
    "requests that come in another rhythm wait differently": (
        "Anfragen in anderem Rhythmus warten anders"
    ),
    "without streaming the times mean something else": (
        "ohne Streaming bedeuten die Zeiten etwas anderes"
    ),
    "the prompt is put together in another way": "der Prompt wird anders zusammengesetzt",
    "a prompt that the server has in its cache starts sooner": (
        "ein Prompt im Cache des Servers beginnt früher"
    ),
}

ENGLISH = Sentences("en")
