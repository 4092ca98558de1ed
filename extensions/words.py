"""What the pages of report and dashboard say, in the reader's language, and how they write numbers.

    words = Language("de")
    words.ms(1520), words.count(1213)         1,52 s and 1.213; in English 1.52 s and 1,213
    words.caveat("too_short")                 the statement of a verdict's reason

The order of this file: numbers, the statements of a verdict's reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

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
