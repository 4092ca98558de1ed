"""What the dashboard's pages say and look like: words in two languages, templates, the script.

`Words(language)` gives texts and numbers as its readers write them; `LivePage(view, words)` says
in sentences what a `live.LiveRun.view` holds; `Pages` renders. All texts of a model, a server or a
file go through Jinja with autoescape on. The one script of the pages, SCRIPT, swaps the parts that
the server renders, draws the charts' data, and keeps nothing that a reload would lose.

The order of this file: words, the live page in sentences, rendering, style, templates, script.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import markupsafe

import llm_stresstest as st
from extensions import charts, report
from extensions.words import Language, Sentences

NARROW = st.NARROW_SPACE

# === Words ===

# key: (English, German). A test holds that both have the same fields.
TEXTS = {
    # Frame
    "live": ("Live", "Live"),
    "runs": ("Runs", "Läufe"),
    "compare": ("Compare", "Vergleich"),
    "start": ("Start a run", "Lauf starten"),
    "skip": ("Skip to the content", "Zum Inhalt springen"),
    "dark": ("Dark", "Dunkel"),
    "light": ("Light", "Hell"),
    "theme": ("Light or dark", "Hell oder dunkel"),
    "other_language": ("Deutsch", "English"),
    "pause": ("Pause", "Pause"),
    "go_on": ("Go on", "Weiter"),
    "paused": ("Paused: the page stands still.", "Angehalten: die Seite steht still."),
    "lost": (
        "Not connected to the dashboard since {at}; trying again.",
        "Seit {at} ohne Verbindung zum Dashboard; ein neuer Versuch läuft.",
    ),
    "no_script": (
        "Without JavaScript this page stands still; load it again for newer figures.",
        "Ohne JavaScript steht diese Seite still; zum Auffrischen neu laden.",
    ),
    "copy": ("Copy", "Kopieren"),
    "copied": ("Copied", "Kopiert"),
    "failed_post": ("That did not work: {why}", "Das ging nicht: {why}"),
    "local_zone": ("Times are in your time zone ({zone}).", "Zeiten in Ihrer Zeitzone ({zone})."),
    # States
    "state_starting": ("Starting", "Beginnt"),
    "state_unstarted": ("Not started", "Nicht begonnen"),
    "state_running": ("Running", "Läuft"),
    "state_silent": ("Running", "Läuft"),
    "state_grading": ("Grading", "Bewertung"),
    "state_saving": ("Saving", "Speichert"),
    "state_stopped": ("Stopped", "Gestoppt"),
    "state_crashed": ("Crashed", "Abgestürzt"),
    "state_damaged": ("Damaged", "Beschädigt"),
    "state_finished": ("Finished", "Fertig"),
    "on_server": ("{model} on {server}", "{model} auf {server}"),
    "for": ("for {time}", "seit {time}"),
    "stop": ("Stop and save", "Stoppen und sichern"),
    "stop_sure": (
        "Stop {name}? What was measured is saved, and it can be resumed.",
        "{name} stoppen? Das Gemessene wird gesichert, der Lauf lässt sich fortsetzen.",
    ),
    "stopping": ("Stopping …", "Wird gestoppt …"),
    "open_report": ("Open the report", "Bericht öffnen"),
    "resume": ("Resume", "Fortsetzen"),
    "resume_with": ("Go on with:", "Fortsetzen mit:"),
    # Headlines
    "h_starting": (
        "Waiting for the first answer, {time}.",
        "Warten auf die erste Antwort, {time}.",
    ),
    "h_running": ("{share} done{eta}: {figures}.", "{share} erledigt{eta}: {figures}."),
    "h_open": ("{count} answers so far: {figures}.", "Bisher {count} Antworten: {figures}."),
    "h_eta": (", about {time} to go", ", noch etwa {time}"),
    "h_grading": (
        "All answers are in; {graded} are graded.",
        "Alle Antworten sind da; {graded} sind bewertet.",
    ),
    "h_saving": (
        "All answers are in; saving them.",
        "Alle Antworten sind da; sie werden gesichert.",
    ),
    "h_stopped": (
        "Stopped after {done} of {planned} answers. All {saved} are saved.",
        "Gestoppt nach {done} von {planned} Antworten. Alle {saved} sind gesichert.",
    ),
    "h_crashed": (
        "{name} stopped without finishing, after {done} of {planned} answers. {saved} are saved.",
        "{name} endete vorzeitig, nach {done} von {planned} Antworten. {saved} sind gesichert.",
    ),
    "h_damaged": (
        "{name} is damaged; {saved} answers are kept.",
        "{name} ist beschädigt; {saved} Antworten sind erhalten.",
    ),
    "h_finished": (
        "Finished: {done} answers, {failures}.",
        "Fertig: {done} Antworten, {failures}.",
    ),
    "unknown_planned": ("an open number of", "offen vielen"),
    "h_none": ("No run is in progress.", "Zurzeit läuft kein Test."),
    "h_reading": ("Reading the journal …", "Das Journal wird gelesen …"),
    "none_yet": ("No runs yet.", "Noch keine Läufe."),
    "none_hint": (
        "This page shows a run the moment it starts. Start one:",
        "Diese Seite zeigt einen Lauf, sobald er beginnt. Einen starten:",
    ),
    "last_finished": ("The last one:", "Der letzte:"),
    "silent": (
        "No answer for {time}; the timeout is {timeout}.",
        "Seit {time} keine Antwort; die Frist ist {timeout}.",
    ),
    "at_once": ("{} at once", "{} gleichzeitig"),
    "at_once_of": (
        "{level} at once · {done} of {planned}",
        "{level} gleichzeitig · {done} von {planned}",
    ),
    "at_once_open": ("{level} at once · {done}", "{level} gleichzeitig · {done}"),
    "no_failures": ("no failures", "keine Fehler"),
    "one_failure": ("1 failure", "1 Fehler"),
    "failures": ("{count} failures", "{count} Fehler"),
    "tokens_s": ("{value} tokens/s", "{value} Token/s"),
    "crashed_notice": (
        "stopped without finishing, after {done} of {planned} answers. All {saved} are saved.",
        "endete vorzeitig, nach {done} von {planned} Antworten. Alle {saved} sind gesichert.",
    ),
    "stopped_notice": (
        "was stopped after {done} of {planned} answers. All {saved} are saved.",
        "wurde nach {done} von {planned} Antworten gestoppt. Alle {saved} sind gesichert.",
    ),
    "damaged_notice": (
        "is damaged; {saved} answers are kept: {damage}",
        "ist beschädigt; {saved} Antworten sind erhalten: {damage}",
    ),
    "more_notices": ("{count} more are listed under Runs.", "{count} weitere stehen unter Läufe."),
    "pending": ("is starting: {command}", "beginnt: {command}"),
    "start_failed": ("did not start: {why}", "begann nicht: {why}"),
    # Figures
    "f_ttft": ("First token (TTFT) ↓", "Erstes Token (TTFT) ↓"),
    "f_tpot": ("Each further token (TPOT) ↓", "Jedes weitere Token (TPOT) ↓"),
    "f_total": ("Total speed ↑", "Gesamtdurchsatz ↑"),
    "f_answered": ("Answered · failed", "Beantwortet · Fehler"),
    "f_last": ("Last answer", "Letzte Antwort"),
    "median_10s": ("median of the last 10 s", "Median der letzten 10 s"),
    "answers_10s": ("answers of the last 10 s", "Antworten der letzten 10 s"),
    "none_10s": ("no answer in the last 10 s", "keine Antwort in den letzten 10 s"),
    "one_user": ("{value} tokens/s for one user", "{value} Token/s für einen Nutzer"),
    "tokens_unit": ("tokens/s", "Token/s"),
    "n_failed": ("· {count} failed", "· {count} Fehler"),
    "of": ("of {count}", "von {count}"),
    "most_often": ("most often: {text} ({count}×)", "am häufigsten: {text} ({count}×)"),
    "ago": ("s ago", "s her"),
    "answers_s": ("{value} answers/s", "{value} Antworten/s"),
    "flow": (
        "{in_flight} in flight, {waiting} waiting for the first byte · {queued} queued · {bytes}",
        "{in_flight} unterwegs, {waiting} ohne erstes Byte · {queued} in der Schlange · {bytes}",
    ),
    # Sections
    "over_time": ("Over time", "Im Verlauf"),
    "time_note": ("The empty part is still to come.", "Der leere Teil kommt noch."),
    "time_levels": ("Lines: a new level begins.", "Linien: eine neue Stufe beginnt."),
    "failed_mark": ("failed request", "Anfrage mit Fehler"),
    "timeout_mark": ("timeout", "Frist abgelaufen"),
    "p_first_token": ("First token", "Erstes Token"),
    "p_first_token_note": ("each answer a point{log} · ↓", "jede Antwort ein Punkt{log} · ↓"),
    "log": (" · log scale", " · logarithmisch"),
    "p_each_token": ("Each further token", "Jedes weitere Token"),
    "p_each_token_note": ("each answer a point{log} · ↓", "jede Antwort ein Punkt{log} · ↓"),
    "p_tokens": ("Tokens/s", "Token/s"),
    "p_tokens_note": ("all users{fills} · ↑", "alle Nutzer{fills} · ↑"),
    "fills": (
        " · the last seconds fill in as answers end", " · die letzten Sekunden füllen sich noch"
    ),
    "p_in_flight": ("Requests in flight", "Anfragen unterwegs"),
    "p_in_flight_note": ("each second", "jede Sekunde"),
    "p_queued": ("Requests queued", "Anfragen in der Schlange"),
    "p_queued_note": ("due, but held by the cap · ↓", "fällig, doch von der Grenze gehalten · ↓"),
    "p_cpu": ("CPU", "CPU"),
    "p_cpu_note": ("% of the machine", "% der Maschine"),
    "p_power": ("Power", "Leistung"),
    "p_power_note": ("watts · ↓", "Watt · ↓"),
    "seconds": ("seconds since the start", "Sekunden seit dem Beginn"),
    "limit": ("limit {}", "Grenze {}"),
    "sampled": (
        "{shown} of {total} shown, extremes kept",
        "{shown} von {total} gezeigt, mit Extremen",
    ),
    "table": ("Show the last seconds as a table", "Die letzten Sekunden als Tabelle"),
    "second": ("second", "Sekunde"),
    "queued": ("queued", "Schlange"),
    "in_flight": ("in flight", "unterwegs"),
    "h_failures": ("Failures", "Fehler"),
    "failures_note": (
        "{failed} of {done} requests ({share}). Seconds since the start of the run.",
        "{failed} von {done} Anfragen ({share}). Sekunden seit dem Beginn des Laufs.",
    ),
    "failure": ("Failure", "Fehler"),
    "times": ("Count", "Anzahl"),
    "first_seen": ("First", "Zuerst"),
    "last_seen": ("Last", "Zuletzt"),
    "last_answers": ("Last answers", "Letzte Antworten"),
    "no_answers_yet": ("No answer has ended yet.", "Noch ist keine Antwort zu Ende."),
    "ended": ("Ended", "Ende"),
    "question": ("Question", "Frage"),
    "answer": ("Answer", "Antwort"),
    "s_ago": ("{value}\u202fs ago", "vor {value}\u202fs"),
    "reasoning_only": ("reasoning only", "nur Überlegung"),
    "cancelled": ("cancelled by the stop", "durch den Stopp abgebrochen"),
    "empty": ("(empty)", "(leer)"),
    "known": ("Known so far", "Bisher bekannt"),
    "known_at": ("Known so far, at {level} at once", "Bisher bekannt, bei {level} gleichzeitig"),
    "known_note": (
        "{count} answers. A figure gets its interval when enough have come.",
        "{count} Antworten. Ein Wert bekommt sein Intervall, wenn genug da sind.",
    ),
    "so_far": ("so far", "bisher"),
    "interval": ("95 % interval", "95-%-Intervall"),
    "needs": ("needs about {count} more", "braucht noch etwa {count}"),
    "metric": ("Metric", "Größe"),
    "trust": ("Can it be trusted so far?", "Ist ihm bisher zu trauen?"),
    "trust_final": ("Can it be trusted?", "Ist ihm zu trauen?"),
    "not_judged": (
        "Judged as soon as answers have come.", "Beurteilt, sobald Antworten da sind."
    ),
    "valid_note": ("Nothing speaks against it.", "Nichts spricht dagegen."),
    "limits": ("Limits", "Grenzen"),
    "limit_met": ("{good} of {of} requests ({share}) met {name} ≤ {limit}.",
        "{good} von {of} Anfragen ({share}) hielten {name} ≤ {limit} ein."),
    "threshold": ("{name} {limit}: now {value}", "{name} {limit}: jetzt {value}"),
    "met": ("met", "eingehalten"),
    "missed": ("missed", "verfehlt"),
    "ttft_ms": ("first token", "erstes Token"),
    "tpot_ms": ("each further token", "jedes weitere Token"),
    "e2e_ms": ("whole answer", "ganze Antwort"),
    "quality": ("Quality", "Qualität"),
    "quality_later": (
        "Answers are graded after the load, so that grading disturbs no time.",
        "Antworten werden nach der Last bewertet, damit das Bewerten keine Zeit stört.",
    ),
    "quality_now": (
        "{graded} of {gradable} are graded, {correct} are right.",
        "{graded} von {gradable} sind bewertet, {correct} sind richtig.",
    ),
    "quality_none": ("No question has a grader.", "Keine Frage hat eine Bewertung."),
    "machine": ("Machine and energy", "Maschine und Energie"),
    "no_power": (
        "Watts are not measured; hardware.power_url names a meter.",
        "Watt werden nicht gemessen; hardware.power_url nennt ein Messgerät.",
    ),
    "no_samples": (
        "The machine is not watched in this run.",
        "Die Maschine wird in diesem Lauf nicht beobachtet.",
    ),
    "cpu_busy": ("CPU", "CPU"),
    "memory": ("Memory in use", "Speicher belegt"),
    "gpu_busy": ("GPU {number}", "GPU {number}"),
    "wall": ("At the wall", "An der Steckdose"),
    "gpu": ("GPUs", "GPUs"),
    "cpu_package": ("CPU package", "CPU-Gehäuse"),
    "battery": ("Battery", "Akku"),
    "dcgm_gpu": ("GPUs, from the server", "GPUs, laut Server"),
    "command": ("The same from the command line", "Dasselbe auf der Kommandozeile"),
    "resumed_once": ("resumed", "fortgesetzt"),
    "resumed_note": ("resumed {count} times", "{count}-mal fortgesetzt"),
    # Runs
    "h_runs": ("{finished} finished{rest}.", "{finished} fertig{rest}."),
    "n_runs": ("{count} runs", "{count} Läufe"),
    "one_run": ("1 run", "1 Lauf"),
    "runs_crashed": (", {count} can be resumed", ", {count} lassen sich fortsetzen"),
    "runs_damaged": (", {count} damaged", ", {count} beschädigt"),
    "runs_running": (", {count} in progress", ", {count} in Arbeit"),
    "runs_lede": (
        "Tick two or more to compare them. A sweep has its levels in its report.",
        "Zwei oder mehr ankreuzen, um sie zu vergleichen. Die Stufen stehen im Bericht.",
    ),
    "filter": ("Filter by name, model, machine …", "Filtern nach Name, Modell, Maschine …"),
    "all_models": ("All models", "Alle Modelle"),
    "all_verdicts": ("All verdicts", "Alle Urteile"),
    "shown": ("{shown} of {total} shown", "{shown} von {total} gezeigt"),
    "nothing_matches": ("No run matches “{text}”.", "Kein Lauf passt zu „{text}“."),
    "show_all": ("Show all", "Alle zeigen"),
    "c_run": ("Run", "Lauf"),
    "c_date": ("Date", "Datum"),
    "c_model": ("Model", "Modell"),
    "c_machine": ("machine", "Maschine"),
    "c_at_once": ("At once", "Gleichzeitig"),
    "c_verdict": ("Verdict", "Urteil"),
    "c_ttft": ("TTFT median ↓", "TTFT-Median ↓"),
    "c_tokens": ("Tokens/s ↑", "Token/s ↑"),
    "c_right": ("Right ↑", "Richtig ↑"),
    "c_failed": ("Failed", "Fehler"),
    "c_energy": ("Energy ↓", "Energie ↓"),
    "c_energy_unit": ("J a token", "J je Token"),
    "by_level": ("by level", "je Stufe"),
    "best": ("best {value}", "bis {value}"),
    "best_at": ("at {level} at once", "bei {level} gleichzeitig"),
    "machine_unknown": ("machine not recorded", "Maschine nicht erfasst"),
    "failed_of": ("{failed} of {of}", "{failed} von {of}"),
    "answers_saved": ("{count} answers saved", "{count} Antworten gesichert"),
    "dates": ("{count} dates", "{count} Termine"),
    "runs_note": (
        "↓ less is better, ↑ more is better, – was not measured.",
        "↓ weniger ist besser, ↑ mehr ist besser, – wurde nicht gemessen.",
    ),
    "chosen": ("{count} runs chosen", "{count} Läufe gewählt"),
    "choose_one_more": ("Tick one more to compare.", "Noch einen ankreuzen zum Vergleichen."),
    "do_compare": ("Compare", "Vergleichen"),
    "differ_in": ("differ in: {keys}", "Unterschied: {keys}"),
    "differ_not": ("same configuration", "gleiche Konfiguration"),
    "tick": ("Choose {name}", "{name} wählen"),
    "v_interrupted": ("STOPPED", "GESTOPPT"),
    "v_crashed": ("CRASHED", "ABGESTÜRZT"),
    "v_damaged": ("DAMAGED", "BESCHÄDIGT"),
    "v_running": ("RUNNING", "LÄUFT"),
    "h_compare": ("Tick two runs or more to compare them.", "Zwei Läufe oder mehr ankreuzen."),
    "compare_hint": ("In the list of runs:", "In der Liste der Läufe:"),
    # A page of a run
    "download": ("Download:", "Herunterladen:"),
    "trend": ("Trend", "Verlauf"),
    "h_trend": ("{name} on {count} dates", "{name} an {count} Terminen"),
    "trend_note": (
        "Each run a point; bar: 95 % interval. Crossed out: INVALID.",
        "Jeder Lauf ein Punkt; Balken: 95-%-Intervall. Durchgestrichen: INVALID.",
    ),
    "trend_few": (
        "Changes are looked for from {count} runs of one kind on.",
        "Veränderungen werden ab {count} gleichartigen Läufen gesucht.",
    ),
    "trend_none": ("No change in {count} runs is beyond chance.",
        "Keine Veränderung in {count} Läufen geht über den Zufall hinaus."),
    "t_ttft": ("First token (TTFT), median ↓", "Erstes Token (TTFT), Median ↓"),
    "t_tokens": ("Tokens/s ↑", "Token/s ↑"),
    "t_right": ("Right answers ↑", "Richtige Antworten ↑"),
    # Starting
    "h_start": ("Start a run", "Einen Lauf starten"),
    "start_lede": (
        "As a process of its own: it goes on when this page is closed.",
        "Als eigener Prozess: er läuft weiter, wenn diese Seite geschlossen wird.",
    ),
    "c_config": ("Configuration", "Konfiguration"),
    "c_name": ("Name of the run", "Name des Laufs"),
    "override": ("Instead of what the file says", "Anstelle dessen, was die Datei sagt"),
    "as_file": ("as in the file", "wie in der Datei"),
    "begin": ("Start", "Starten"),
    "not_allowed": (
        "Runs are started here when the dashboard itself was started with --allow-start.",
        "Läufe startet diese Seite nur, wenn das Dashboard mit --allow-start begann.",
    ),
    # Login and errors
    "h_login": ("This dashboard wants its token.", "Dieses Dashboard verlangt sein Kennwort."),
    "login_hint": (
        "It stands in the environment variable {name} of the machine that runs it.",
        "Es steht in der Umgebungsvariablen {name} der Maschine, auf der es läuft.",
    ),
    "token": ("Token", "Kennwort"),
    "enter": ("Enter", "Anmelden"),
    "wrong_token": ("That is not the token.", "Das ist nicht das Kennwort."),
    "e404": (
        "There is no such page or run here.",
        "Diese Seite oder diesen Lauf gibt es hier nicht.",
    ),
    "error": ("{code}: {why}", "{code}: {why}"),
    "back": ("To the list of runs", "Zur Liste der Läufe"),
}  # fmt: skip


class Words(Language):
    """The texts of these pages in one language, and its numbers."""

    def __call__(self, key: str, *fields: object, **named: object) -> str:
        """Return a text with its fields filled in."""
        text = TEXTS[key][self.place].replace(" %", f"{NARROW}%")
        return text.format(*fields, **named) if fields or named else text


# === The live page in sentences ===

GOING = ("starting", "running", "silent")  # the states in which questions are asked
BUSY = (*GOING, "grading", "saving")  # the states in which a process is at work


class Figure(NamedTuple):
    """One of the five figures."""

    label: str
    value: str
    unit: str
    note: str


class LivePage:
    """What the page says of a run in progress, or of one that has just ended."""

    def __init__(self, view: Mapping[str, Any], words: Words) -> None:
        self.view, self.words = view, words
        self.state: str = view["state"]
        self.name = st.printable(view["name"], 200)

    @property
    def is_going(self) -> bool:
        """Whether questions are asked."""
        return self.state in GOING

    @property
    def about(self) -> str:
        """Model and server."""
        view = self.view
        if view["model"] is None:
            return ""
        server = view["server"] or ""
        if view.get("embedded"):
            server = (view["embedded"] or {}).get("engine") or "llama.cpp"
        return self.words(
            "on_server", model=st.printable(view["model"], 80), server=st.printable(server, 80)
        )

    @property
    def level(self) -> int | None:
        """How many requests are in flight at once in the running stage."""
        stages = self.view["stages"]
        return stages[min(self.view["stage"], len(stages) - 1)]["level"] if stages else None

    def failures(self, count: int) -> str:
        """Say how many requests failed."""
        if count in (0, 1):
            return self.words("one_failure" if count else "no_failures")
        return self.words("failures", count=self.words.count(count))

    @property
    def counts(self) -> dict[str, str]:
        """The counts that sentences are filled with."""
        view, words = self.view, self.words
        planned = (
            words("unknown_planned") if view["planned"] is None else words.count(view["planned"])
        )
        return {
            "name": self.name,
            "done": words.count(view["done"]),
            "planned": planned,
            "saved": words.count(view["saved"]),
            "graded": words.count(view["graded"] or 0),
            "failures": self.failures(view["failed"]),
            "time": words.duration(view["elapsed_s"]),
        }

    @property
    def headline(self) -> str:
        """The answer first: how far it is, or how it ended."""
        view, words = self.view, self.words
        if view.get("behind"):
            return words("h_reading")
        if self.state not in ("running", "silent"):
            return words(f"h_{self.state}", **self.counts)
        now = view["now"] or {}
        figures = [words("at_once", words.count(self.level))]
        if now.get("tokens_per_s") is not None:
            figures.append(words("tokens_s", value=words.number(now["tokens_per_s"])))
        figures.append(self.failures(view["failed"]))
        if view["share"] is None:
            return words("h_open", count=words.count(view["done"]), figures=", ".join(figures))
        left = view["eta_s"]
        eta = words("h_eta", time=words.duration(left)) if left is not None else ""
        share = words.share(math_floor(view["share"]))
        return words("h_running", share=share, eta=eta, figures=", ".join(figures))

    @property
    def silence(self) -> str:
        """What is said of a server that says nothing."""
        view, words = self.view, self.words
        if self.state != "silent":
            return ""
        time, timeout = (words.duration(view[key]) for key in ("quiet_s", "timeout_s"))
        return words("silent", time=time, timeout=timeout)

    @property
    def segments(self) -> list[dict[str, Any]]:
        """The progress bar: a segment a level, each with how full it is."""
        words, found = self.words, []
        stages = self.view["stages"]
        for place, stage in enumerate(stages):
            share = 0.0
            if stage["planned"]:
                share = min(stage["done"] / stage["planned"], 1.0)
            elif stage["state"] == "done":
                share = 1.0
            elif stage["state"] == "running" and self.view["share"] is not None:
                share = min(max(self.view["share"] * len(stages) - place, 0.0), 1.0)
            texts = {name: words.count(stage[name]) for name in ("level", "done", "planned")}
            key = "at_once_open" if stage["planned"] is None else "at_once_of"
            found.append({
                "percent": round(100 * share, 1),
                "label": words(key, **texts),
                "now": stage["state"] == "running",
            })  # fmt: skip
        return found

    @property
    def figures(self) -> list[Figure]:
        """The five figures; nothing but dashes before the first answer."""
        view, words = self.view, self.words
        now: Mapping[str, Any] = view["now"] or {}
        recent = words("median_10s" if view["now"] else "none_10s")
        one = now.get("user_tokens_per_s")
        each = words("one_user", value=words.number(one)) if one else recent
        reason = view["commonest_error"]
        fate = words("of", count=words.count(view["planned"])) if view["planned"] else ""
        if reason:
            text = st.printable(reason["text"], 80)
            fate = words("most_often", text=text, count=words.count(reason["count"]))
        rate = now.get("requests_per_s")
        ttft, tpot = (words.ms(now.get(key)).partition(NARROW) for key in ("ttft_ms", "tpot_ms"))
        quiet, total = view["quiet_s"], now.get("tokens_per_s")
        return [
            Figure(words("f_ttft"), ttft[0], ttft[2], recent),
            Figure(words("f_tpot"), tpot[0], tpot[2], each),
            Figure(
                words("f_total"),
                words.number(total),
                words("tokens_unit") if total is not None else "",
                words("answers_10s") if view["now"] else words("none_10s"),
            ),
            Figure(
                words("f_answered"),
                words.count(view["ok"]),
                words("n_failed", count=words.count(view["failed"])),
                fate,
            ),
            Figure(
                words("f_last"),
                words.seconds(quiet),
                "" if quiet is None else words("ago"),
                "" if rate is None else words("answers_s", value=words.seconds(rate)),
            ),
        ]

    @property
    def flow(self) -> str:
        """What the last pulse of the run says of its requests."""
        view, words = self.view, self.words
        if view["in_flight"] is None:
            return ""
        rate = view["received_bytes_per_s"]
        return words(
            "flow",
            in_flight=words.count(view["in_flight"]),
            waiting=words.count(view["waiting"]),
            queued=words.count(view["queued"]),
            bytes=f"{words.size(rate)}/s",
        )

    @property
    def known(self) -> list[tuple[str, str, str]]:
        """The percentiles: in brackets what too few answers support, with how many more would."""
        words, rows = self.words, []
        for row in self.view["known"]:
            if row["value"] is None:
                continue
            metric, _, percentile = row["metric"].partition(".")
            label = f"{metric.removesuffix('_ms').upper()} {percentile}"
            value = words.ms(row["value"])
            if row["low"] is not None and row["high"] is not None:
                rows.append((label, value, words.interval((row["low"], row["high"]))))
            else:
                more = row["needs_more"]
                said = words("needs", count=words.count(more)) if more else "–"
                rows.append((label, f"({value})", said))
        return rows

    @property
    def known_title(self) -> str:
        """At which level of a sweep these are."""
        levels = [row["stage"] for row in self.view["known"]]
        if levels and levels[0] is not None:
            return self.words("known_at", level=levels[0])
        return self.words("known")

    @property
    def known_count(self) -> int:
        """From how many answers: those of the running stage that came."""
        stages = self.view["stages"]
        stage = stages[min(self.view["stage"], len(stages) - 1)]
        return int(stage["done"] - stage["failed"])

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        """The reasons of the verdict so far: statement, message, code."""
        said = Sentences(self.words.language)
        return [
            (self.words.caveat(reason["code"]), said.message(reason["message"]), reason["code"])
            for reason in self.view["validity"]["reasons"]
        ]

    @property
    def limits(self) -> list[tuple[str, str]]:
        """The limits with what became of them so far, and whether they are met."""
        words, found = self.words, []
        for limit in self.view["limits"]:
            name = limit["name"].removeprefix("slo.")
            if limit["name"].startswith("slo."):
                if limit["value"] is None or not limit.get("of"):
                    continue
                text = words(
                    "limit_met",
                    good=words.count(limit["good"]),
                    of=words.count(limit["of"]),
                    share=words.share(limit["value"]),
                    name=words(name),
                    limit=words.own(st.format_limit(limit["limit"])),
                )
                found.append((text, ""))
                continue
            value = words.number(limit["value"])
            text = words("threshold", name=name, limit=limit["limit"], value=value)
            met = {True: "met", False: "missed", None: ""}[limit["met"]]
            found.append((st.printable(text, 300), met))
        return found

    @property
    def quality(self) -> str:
        """What is known of the answers' quality."""
        view, words = self.view, self.words
        gradable = view.get("gradable")
        if view["graded"] is not None:
            texts = {key: words.count(view[key]) for key in ("graded", "correct")}
            return words("quality_now", gradable=words.count(gradable or view["ok"]), **texts)
        return words("quality_none" if gradable == 0 and view["ok"] else "quality_later")

    @property
    def machine(self) -> list[tuple[str, str]]:
        """What the machine does now, as far as it is watched."""
        view, words, found = self.view, self.words, list[tuple[str, str]]()
        samples = view["samples"] or {}
        if samples.get("cpu_percent") is not None:
            found.append((words("cpu_busy"), words.share(samples["cpu_percent"] / 100)))
        if samples.get("memory_used_bytes") is not None:
            found.append((words("memory"), words.size(samples["memory_used_bytes"])))
        for name, value in samples.items():
            busy = re.fullmatch(r"gpu(\d+)_util_percent", name)
            if busy and value is not None:
                found.append((words("gpu_busy", number=busy.group(1)), words.share(value / 100)))
        for name, watts in (view["energy"] or {}).items():
            if watts is not None:
                label = words(name) if name in TEXTS else st.printable(name, 40)
                found.append((label, f"{words.number(watts)}{NARROW}W"))
        return found

    @property
    def failed(self) -> list[tuple[str, str, str, str]]:
        """The failures, the commonest first: what, how often, when first and last."""
        words = self.words
        return [
            (
                st.printable(item["text"], 200),
                words.count(item["count"]),
                f"{words.seconds(item['first_s'])}{NARROW}s",
                f"{words.seconds(item['last_s'])}{NARROW}s",
            )
            for item in self.view["failures"]
        ]

    @property
    def last(self) -> list[dict[str, Any]]:
        """The last answers, the newest first."""
        words, rows = self.words, []
        for item in self.view["last"][:10]:
            ended_s, when = item["ended_s"], "–"
            if ended_s is not None and self.is_going:
                ago_s = max(self.view["elapsed_s"] - ended_s, 0.0)
                when = words("s_ago", value=words.seconds(ago_s))
            elif ended_s is not None:
                when = f"{words.seconds(ended_s)}{NARROW}s"
            text = line_of(item["answer"])
            if item["reasoning_only"]:
                text = words("reasoning_only")
            if item["status"] == "cancelled":
                text = words("cancelled")
            rows.append({
                "when": when,
                "question": line_of(item["question"]),
                "answer": text or words("empty"),
                "is_said": bool(text) and not item["reasoning_only"],
                "error": "" if item["status"] in ("ok", "cancelled") else
                    st.printable(item["error"] or item["status"], 120),
                "ttft": words.ms(item["ttft_ms"]),
                "e2e": words.ms(item["time_ms"]),
            })  # fmt: skip
        return rows

    @property
    def seconds(self) -> list[tuple[str, str, str, str]]:
        """The last seconds as a table: second, tokens/s, in flight, queued."""
        words, series = self.words, self.view["series"]
        columns = [series[key] for key in ("tokens_per_s", "in_flight", "queued")]
        return [
            (words.number(at), *(words.number(column[place]) for column in columns))  # type: ignore[misc]
            for place, at in list(enumerate(series["t_s"]))[-20:]
        ]

    def notice(self) -> str:
        """Say of a run that ended early how it ended, as soon as all of it is read."""
        if self.view.get("behind"):
            return self.words("h_reading")
        damage = "; ".join(self.view["damage"])
        kind = self.state if self.state in ("crashed", "stopped") else "damaged"
        return self.words(f"{kind}_notice", damage=st.printable(damage, 200), **self.counts)

    def panels(self) -> list[dict[str, Any]]:
        """Return the charts as data for the script: shape, key of the shape, rows, ends, words."""
        words = self.words
        text = charts.LiveText(
            *(TEXTS[key][words.place] for key in ("seconds", "at_once", "limit"))
        )
        panels = []
        for panel in charts.live(self.view, text):
            shape = repr(panel.spec).encode()
            log = words("log") if panel.log else ""
            fills = words("fills") if self.is_going else ""
            panels.append({
                "name": panel.name,
                "key": hashlib.sha256(shape).hexdigest()[:16],
                "label": words(f"p_{panel.name}"),
                "note": words(f"p_{panel.name}_note", log=log, fills=fills),
                "spec": panel.spec,
                "rows": panel.values,
                "ends": panel.ends,
            })  # fmt: skip
        return panels


def line_of(text: str) -> str:
    """Return the beginning of a text as one line."""
    return st.printable(" ".join(text[:400].split()), 64)


def math_floor(share: float) -> float:
    """Return a share that is not rounded up: 99.9 % are not all."""
    return int(share * 100) / 100 if share >= 0.1 else share


# === Rendering ===

ICONS = {
    **report.ICONS,
    "RUNNING": '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
    '<path d="M3 2 14 8 3 14Z" fill="currentColor"/></svg>',
    "STOPPED": '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
    '<path d="M2.500 2.500H13.500V13.500H2.500Z" fill="currentColor"/></svg>',
}
ICONS["CRASHED"] = ICONS["DAMAGED"] = ICONS["INVALID"]
ICONS["FINISHED"] = ICONS["VALID"]
STATE_ICONS = {
    "crashed": "CRASHED", "damaged": "DAMAGED", "stopped": "STOPPED", "finished": "FINISHED",
}  # fmt: skip


def ours(text: str) -> markupsafe.Markup:
    """Mark a text of this file as HTML."""
    return markupsafe.Markup(text)  # noqa: S704


class Pages:
    """Renders the pages and the parts of the live page."""

    def __init__(self) -> None:
        loader = jinja2.DictLoader(TEMPLATES)
        self._jinja = jinja2.Environment(
            loader=loader,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        icons = {name: ours(icon) for name, icon in ICONS.items()}
        self._jinja.globals.update(
            icons=icons, state_icons=STATE_ICONS, narrow=NARROW, busy=BUSY, printable=st.printable
        )

    @functools.cached_property
    def style(self) -> str:
        """The style sheet: the report's, and what the dashboard adds."""
        return report.style_sheet() + STYLE

    def page(self, name: str, words: Words, **values: Any) -> str:
        """Return a whole page; `values` are what its templates name."""
        return self._jinja.get_template(f"{name}.html").render(
            say=words, style=ours(self.style), script=ours(SCRIPT), page=name, **values
        )

    def parts(self, words: Words, **values: Any) -> dict[str, markupsafe.Markup]:
        """Return the parts of the live page by their ids; those without anything are empty."""
        return {
            name: ours(self._jinja.get_template(f"part_{name}").render(say=words, **values).strip())
            for name in PARTS
        }


# === Style ===

STYLE = """
[hidden]{display:none!important}pre:empty{display:none}
h1{font-size:26px;max-width:none}.lede{font-size:16px;margin-bottom:16px}
header nav{margin-left:12px}header nav a[aria-current]{color:var(--ink);font-weight:650}
header .side{margin-left:auto;display:flex;gap:14px;align-items:center;color:var(--ink3)}
header .side a,header .side button{color:var(--a);text-decoration:underline;background:none;
border:0;padding:2px 0;min-height:24px;font-size:14px}
header b a{text-decoration:none;display:inline-block;min-height:24px;padding:2px 0}
select:focus-visible,[tabindex]:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
main>h1:first-child,#runs>h1{margin-top:32px}
main section{margin-top:32px}main h2{font-size:16px;line-height:1.35}
.banner{border:1px solid var(--warn);background:var(--warnbg);color:var(--warn);border-radius:4px;
padding:8px 14px;margin:16px 0 0;font-size:14px}.banner[hidden]{display:none}
.state{display:inline-flex;align-items:center;gap:7px;font-weight:650;font-size:14px;
letter-spacing:.04em;text-transform:uppercase;color:var(--a)}
.state.crashed,.state.damaged{color:var(--bad)}.state.stopped{color:var(--warn)}
.state.finished{color:var(--ok)}
.top{justify-content:space-between;margin:28px 0 8px}
.who{display:flex;flex-wrap:wrap;gap:4px 18px;align-items:center;overflow-wrap:anywhere}
.who .mono{color:var(--ink);font-weight:650}
.do{display:flex;flex-wrap:wrap;gap:10px}.do span:empty{display:none}
.do a,.button{display:inline-block;font-size:14px;font-weight:600;color:var(--ink);min-height:32px;
background:var(--surface);border:1px solid var(--edge);border-radius:4px;padding:5px 14px;
text-decoration:none}.do button{font-weight:600}
button.danger{color:var(--bad);border-color:var(--bad)}button[disabled]{opacity:.6;cursor:default}
.notice{border:1px solid var(--bad);border-left-width:4px;background:var(--badbg);border-radius:4px;
padding:12px 16px;margin:16px 0 0;font-size:14px;overflow-wrap:anywhere}
.notice.stopped,.notice.pending{border-color:var(--edge);background:var(--sunken)}
.notice p{margin:0 0 8px}.notice .state{margin-right:10px;vertical-align:-3px}
#part-answer .lede{margin-top:14px}small:empty{display:none}
.command{display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.command code{background:var(--surface);padding:5px 10px;border-radius:4px;overflow-wrap:anywhere}
pre{background:var(--sunken);border-radius:4px;padding:10px 14px;margin:8px 0;font-size:13px;
white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,"SF Mono",Consolas,
"Liberation Mono",monospace}
.warn-text{color:var(--warn);font-weight:600;margin:6px 0 0}
.bars{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);gap:2px;margin:10px 0 0}
.bars svg{display:block;width:100%;height:10px}.bars rect.room{fill:var(--sunken);
stroke:var(--edge)}.bars rect.full{fill:var(--a)}
.bars span{font-size:13px;color:var(--ink2);display:block;margin-top:6px}
.now-at{display:none;font-size:13px;color:var(--ink2);margin:6px 0 0}
.five{display:grid;grid-template-columns:repeat(5,1fr);border-top:1px solid var(--rule);
border-bottom:1px solid var(--line);margin:24px 0 0}
.five>div{padding:14px 18px;border-left:1px solid var(--line);min-width:0}
.five>div:first-child{border:0;padding-left:0}
.five dt{font-size:13px;color:var(--ink2)}.five dd{margin:0;overflow-wrap:anywhere}
.five .big{font-size:28px;line-height:1.25;font-weight:650;white-space:nowrap}
.five .big span{font-size:16px;font-weight:400;color:var(--ink2);margin-left:6px}
.five .small{font-size:13px;color:var(--ink2)}
.flow{font-size:13px;color:var(--ink2);margin:8px 0 0}
.columns{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,1fr);gap:0 36px}
.lost .columns,.lost .five,.lost h1{color:var(--ink3)}
.panel{margin-top:16px}.vega{min-height:24px}
.answers-now td,.known td{vertical-align:top}.answers-now{table-layout:fixed}
.answers-now th:nth-child(1){width:92px}.answers-now th.n{width:84px}
.answers-now td:first-child{white-space:nowrap;color:var(--ink2)}
.error-text{color:var(--bad);font-weight:600}.quiet{color:var(--ink3)}
.known td:last-child,.known th:last-child{font-size:13px}
.verdict.CRASHED,.verdict.DAMAGED{color:var(--bad);background:none}
.verdict.STOPPED{color:var(--ink2);background:none}.verdict.RUNNING{color:var(--a);background:none}
.list .verdict{background:none;padding:0}
.caveats{grid-template-columns:minmax(0,1fr);margin:12px 0}
.pairs{margin:4px 0 0;font-size:14px}.pairs>div{display:flex;justify-content:space-between;gap:12px;
border-bottom:1px solid var(--line);padding:5px 0}.pairs dd{margin:0}
.tools select{font:inherit;font-size:14px;min-height:32px;padding:4px 8px;color:var(--ink);
background:var(--surface);border:1px solid var(--edge);border-radius:4px;max-width:260px}
.tools{align-items:center}.tools .end{margin-left:auto;display:flex;gap:10px;align-items:center}
.tools input{width:280px}
.list thead{position:sticky;top:0;background:var(--bg);z-index:1}
.list th button{all:unset;cursor:pointer;display:inline-block;min-height:24px;font-weight:600}
.list th button:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
.list th[aria-sort=ascending] button::after{content:" ▲"}
.list th[aria-sort=descending] button::after{content:" ▼"}
.list td{white-space:nowrap}.list td.name{white-space:normal;min-width:150px}
.list td.model{white-space:normal;overflow-wrap:anywhere;min-width:120px}
.list td.name a{color:var(--a)}.list tr.chosen>*{background:var(--sunken)}
.list tr.chosen>:first-child{box-shadow:inset 3px 0 var(--a)}.list td:first-child{padding-left:8px}
.list input{width:18px;height:18px;margin:3px;accent-color:var(--a)}
.list tr[hidden]{display:none}.num{text-align:right}.list th.num,.list td.num{padding-left:8px}
.tray{position:sticky;bottom:12px;background:var(--ink);color:var(--bg);border-radius:6px;
padding:12px 16px;margin:24px 0;display:flex;flex-wrap:wrap;gap:6px 20px;align-items:center;
font-size:14px}.tray[hidden]{display:none}.tray .end{margin-left:auto;opacity:.85}
.tray button{background:var(--bg);color:var(--ink);border:0;font-weight:650}
form.fields{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:16px 28px;
max-width:720px;margin:16px 0}
form.fields label{display:block;font-size:14px;color:var(--ink2)}
form.fields input,form.fields select{display:block;width:100%;font:inherit;font-size:15px;
min-height:36px;padding:4px 10px;margin-top:4px;color:var(--ink);background:var(--surface);
border:1px solid var(--edge);border-radius:4px}
form.fields .wide{grid-column:1/-1;display:block;margin:0}
.said-error{color:var(--bad);font-weight:600;min-height:1.5em;margin:0}
.trend{display:grid;grid-template-columns:minmax(0,1fr);gap:24px}
.vh{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media (max-width:720px){
h1{font-size:25px}header{gap:0 16px;padding:4px 0}header nav{margin:0}
header .side .mono{display:none}
.list tr{display:flex;flex-wrap:wrap;align-items:center}.list td,.list td.num{flex:1 1 100%;
padding-left:0}.list td:first-child{flex:0 0 44px;border:0;justify-content:flex-start}
.list td::before{white-space:nowrap}.list small{white-space:normal}
.list td.name{flex:1 1 calc(100% - 60px);display:block;border:0;text-align:left;font-size:16px}
header .side a,header .side button,header b a,.do a,.button,.list th button{min-height:44px;
display:inline-flex;align-items:center}
.five{grid-template-columns:1fr 1fr}.five>div{padding:12px}.five>div:nth-child(odd){border-left:0;
padding-left:0}.five>div:nth-child(n+3){border-top:1px solid var(--line)}
.columns{grid-template-columns:minmax(0,1fr)}.columns .right{order:-1}
.bars span{display:none}.now-at{display:block}
.answers-now td:first-child{color:var(--ink2)}.cards td.q{font-weight:600}
.tools .end{margin-left:0}.tools input,.tools select,form.fields input,form.fields select{
min-height:44px;width:100%;max-width:none}
form.fields{grid-template-columns:minmax(0,1fr)}
.list td{white-space:normal}.list input{width:28px;height:28px}
.list thead{position:absolute;left:-9999px}
.cards tr.chosen{border-left:3px solid var(--a)}.list tr.chosen>*,.list tr.chosen>:first-child{
background:none;box-shadow:none}.list td:first-child::before{content:none}
.list tr td:first-child{padding-left:0}
.tray{bottom:0}.tray .end{margin-left:0}
}
"""

# === Templates ===

MACROS = """\
{% macro badge(verdict, word="") %}<span class="verdict {{ verdict }}">\
{{ icons.get(verdict, "") }}{{ word or verdict }}</span>{% endmacro %}
{% macro state(view, say) %}<span class="state {{ view.state }}">\
{{ icons[state_icons.get(view.state, "RUNNING")] }}{{ say("state_" ~ view.state) }}</span>\
{% endmacro %}
{% macro command(text, say) %}<div class="command"><code>{{ printable(text, 4000) }}</code>\
<button type="button" data-copy>{{ say("copy") }}</button></div>{% endmacro %}
"""

BASE = """\
{% from "macros" import badge, state, command with context %}
<!doctype html>
<html lang="{{ say.language }}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="token" content="{{ token }}">
<title>{% block title %}{{ say(page) }}{% endblock %} · llm-stresstest</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body data-page="{{ page }}">
<a class="skip" href="#content">{{ say("skip") }}</a>
<div class="page">
<header><b><a href="/">llm-stresstest</a></b>
{% if address %}
<nav aria-label="llm-stresstest">
{% for name, path in (("live", "/"), ("runs", "/runs"), ("compare", "/compare")) %}
<a href="{{ path }}"{{ ' aria-current="page"' | safe if page == name }}>{{ say(name) }}</a>
{% endfor %}
{% if allow_start %}<a href="/start"{{ ' aria-current="page"' | safe if page == "start" }}>\
{{ say("start") }}</a>{% endif %}
</nav>
{% endif %}
<div class="side"><span class="mono">{{ address }}</span>
<a href="{{ switch }}" lang="{{ 'de' if say.language == 'en' else 'en' }}">\
{{ say("other_language") }}</a>
<button type="button" id="theme">{{ say("theme") }}</button></div>
</header>
<div class="banner" id="lost" role="alert" hidden></div>
<main id="content">{% block content %}{% endblock %}</main>
</div>
<div id="tip" role="presentation" hidden></div>
<noscript><p class="page note">{{ say("no_script") }}</p></noscript>
<script type="application/json" id="words">{{ script_words }}</script>
{% block data %}{% endblock %}
{% if vega %}<script src="{{ vega.path }}" integrity="{{ vega.integrity }}"></script>{% endif %}
<script>{{ script }}</script>
</body>
</html>
"""

LIVE_PAGE = """\
{% extends "base" %}
{% block content %}
<div id="part-notices">{{ parts.notices }}</div>
<div class="top"><div class="who" id="part-who">{{ parts.who }}</div>
<div class="do">
<button type="button" id="pause" aria-pressed="false"\
{{ ' hidden' if not view or view.state not in busy }}>{{ say("pause") }}</button>
<span id="part-actions">{{ parts.actions }}</span></div></div>
<div id="part-answer">{{ parts.answer }}</div>
<p role="status" class="vh" id="status"></p>
<div id="part-figures">{{ parts.figures }}</div>
<div class="columns" id="columns"{{ ' hidden' if not view }}>
<div class="left">
<section aria-labelledby="h-time"><h2 id="h-time">{{ say("over_time") }}</h2>
<div id="part-time">{{ parts.time }}</div>
<div id="charts"></div>
<details><summary>{{ say("table") }}</summary><div id="part-table">{{ parts.table }}</div></details>
</section>
<section id="part-failures"{{ ' hidden' if not parts.failures }}>{{ parts.failures }}</section>
<section aria-labelledby="h-last"><h2 id="h-last">{{ say("last_answers") }}</h2>
<div id="part-last">{{ parts.last }}</div></section>
</div>
<div class="right">
<section id="part-known">{{ parts.known }}</section>
<section id="part-trust">{{ parts.trust }}</section>
<section id="part-limits"{{ ' hidden' if not parts.limits }}>{{ parts.limits }}</section>
<section id="part-quality">{{ parts.quality }}</section>
<section id="part-machine">{{ parts.machine }}</section>
<section id="part-command">{{ parts.command }}</section>
</div></div>
{% endblock %}
"""

_IMPORT = '{% from "macros" import badge, state, command with context %}'
PARTS = {
    "notices": """\
{% for one in pending %}
<div class="notice {{ 'crashed' if one.error else 'pending' }}"><p>\
<span class="state {{ 'crashed' if one.error }}">\
{{ icons["CRASHED" if one.error else "RUNNING"] }}\
{{ say("state_unstarted" if one.error else "state_starting") }}</span>
<b class="mono">{{ one.name }}</b> \
{{ say("start_failed" if one.error else "pending", why=one.error, command=one.command) }}</p></div>
{% endfor %}
{% for one in notices %}
<div class="notice {{ one.state }}"><p>{{ state(one.view, say) }}
<b class="mono">{{ one.name }}</b> {{ one.notice() }}
{% if one.state != "damaged" %}{{ say("resume_with") }}{% endif %}</p>
{% if one.state != "damaged" %}<div class="command">\
<code>{{ printable(one.view.resume_command, 4000) }}</code>
<button type="button" data-copy>{{ say("copy") }}</button>
{% if allow_start %}<button type="button" data-post="/api/resume" data-name="{{ one.view.name }}">\
{{ say("resume") }}</button>{% endif %}
{% if one.view.name in reports %}<a class="button" \
href="/runs/{{ one.view.name | urlencode }}">{{ say("open_report") }}</a>\
{% endif %}</div>{% endif %}
</div>
{% endfor %}
{% if more_notices %}<p class="note"><a href="/runs">\
{{ say("more_notices", count=more_notices) }}</a></p>{% endif %}
""",
    "who": """\
{% if live %}{{ state(view, say) }}<span class="mono">{{ live.name }}</span>
<span>{{ live.about }}</span><span>{{ say("for", time=say.duration(view.elapsed_s)) }}</span>
{% if view.resumed_parts %}<span>{{ say("resumed_once" if view.resumed_parts == 1 \
else "resumed_note", count=view.resumed_parts) }}</span>{% endif %}
{% for name in others %}<a href="/?run={{ name | urlencode }}" class="mono">\
{{ printable(name, 60) }}</a>
{% endfor %}{% endif %}
""",
    "actions": """\
{% if live %}
{% if view.name in reports and view.state not in busy %}<a class="button" \
href="/runs/{{ view.name | urlencode }}">{{ say("open_report") }}</a>{% endif %}
{% if can_stop and view.state in busy %}<button type="button" class="danger" \
data-post="/api/stop" data-name="{{ view.name }}" \
data-sure="{{ say("stop_sure", name=live.name) }}">\
{{ say("stop") }}</button>{% endif %}
{% if allow_start and view.state in ("crashed", "stopped") %}<button type="button" \
data-post="/api/resume" data-name="{{ view.name }}">{{ say("resume") }}</button>{% endif %}
{% endif %}
""",
    "answer": """\
{% if live %}
<h1>{{ live.headline }}</h1>
{% if live.silence %}<p class="warn-text">{{ live.silence }}</p>{% endif %}
<div class="bars" role="progressbar" aria-valuemin="0" aria-valuemax="100"
aria-label="{{ live.name }}" aria-valuetext="{{ live.headline }}"\
{% if view.share is not none %} aria-valuenow="{{ (100 * view.share) | int }}"{% endif %}>
{% for s in live.segments %}<div><svg aria-hidden="true"><rect class="room" x="0" y="0" \
width="100%" height="10" rx="1"/><rect class="full" x="0" y="0" \
width="{{ s.percent }}%" height="10"/></svg>\
<span>{{ s.label }}</span></div>{% endfor %}
</div>
{% for s in live.segments if s.now %}
<p class="now-at" aria-hidden="true">{{ s.label }}</p>{% endfor %}
{% if view.state in ("crashed", "stopped") %}
<p class="lede">{{ say("resume_with") }}</p>{{ command(view.resume_command, say) }}{% endif %}
{% for line in view.damage %}<p class="warn-text">{{ printable(line, 300) }}</p>{% endfor %}
{% else %}
<h1>{{ say("h_none") if any_runs else say("none_yet") }}</h1>
{% if last_finished %}<p class="lede">{{ say("last_finished") }}
<a href="/runs/{{ last_finished | urlencode }}" class="mono">\
{{ printable(last_finished, 200) }}</a></p>{% endif %}
<p class="lede">{{ say("none_hint") }}</p>{{ command(first_command, say) }}
{% if allow_start %}<p><a class="button" href="/start">{{ say("start") }}</a></p>{% endif %}
{% endif %}
""",
    "figures": """\
{% if live and view.state in ("running", "silent") %}
<dl class="five">
{% for f in live.figures %}<div><dt>{{ f.label }}</dt><dd class="big">{{ f.value }}\
{% if f.unit %}<span>{{ f.unit }}</span>{% endif %}</dd><dd class="small">{{ f.note }}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% if live and live.flow %}<p class="flow">{{ live.flow }}</p>{% endif %}
""",
    "time": """\
{% if live %}<p class="note">{% if live.is_going %}{{ say("time_note") }}{% endif %}
{% if view.stages | length > 1 %} {{ say("time_levels") }}{% endif %}
{% if view.failed %} <span class="error-text" aria-hidden="true">✕</span> {{ say("failed_mark") }}\
 <span class="error-text" aria-hidden="true">△</span> {{ say("timeout_mark") }}{% endif %}
{% set shown = view.series.answers | length %}
{% if shown < view.answers_of.answers %} · {{ say("sampled", shown=say.count(shown), \
total=say.count(view.answers_of.answers)) }}{% endif %}</p>{% endif %}
""",
    "table": """\
{% if live %}<table><thead><tr><th>{{ say("second") }}</th><th class="n">{{ say("p_tokens") }}</th>
<th class="n">{{ say("in_flight") }}</th><th class="n">{{ say("queued") }}</th></tr></thead><tbody>
{% for row in live.seconds %}<tr>{% for cell in row %}<td{{ ' class=n' if loop.index0 }}>{{ cell }}\
</td>{% endfor %}</tr>{% endfor %}</tbody></table>{% endif %}
""",
    "failures": """\
{% if live and live.failed %}<h2>{{ say("h_failures") }}</h2>
<p class="note">{{ say("failures_note", failed=say.count(view.failed), done=say.count(view.done),
share=say.share(view.failed / view.done)) }}</p>
<table class="cards"><thead><tr><th>{{ say("failure") }}</th><th class="n">{{ say("times") }}</th>
<th class="n">{{ say("first_seen") }}</th><th class="n">{{ say("last_seen") }}</th></tr></thead>
<tbody>{% for text, times, first, last in live.failed %}
<tr><td class="long q">{{ text }}</td><td class="n" data-of="{{ say("times") }}">{{ times }}</td>
<td class="n" data-of="{{ say("first_seen") }}">{{ first }}</td>
<td class="n" data-of="{{ say("last_seen") }}">{{ last }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
""",
    "last": """\
{% if live and live.last %}
<table class="cards answers-now"><thead><tr><th>{{ say("ended") }}</th>
<th>{{ say("question") }}</th>
<th>{{ say("answer") }}</th><th class="n">TTFT</th><th class="n">E2E</th></tr></thead><tbody>
{% for row in live.last %}
<tr><td data-of="{{ say("ended") }}">{{ row.when }}</td><td class="long q">{{ row.question }}</td>
<td class="long">{% if row.error %}<span class="error-text">✕ {{ row.error }}</span>\
{% elif row.is_said %}{{ row.answer }}{% else %}<span class="quiet">{{ row.answer }}</span>\
{% endif %}</td><td class="n" data-of="TTFT">{{ row.ttft }}</td>
<td class="n" data-of="E2E">{{ row.e2e }}</td></tr>
{% endfor %}</tbody></table>
{% elif live %}<p class="note">{{ say("no_answers_yet") }}</p>{% endif %}
""",
    "known": """\
{% if live %}<h2>{{ live.known_title }}</h2>
<p class="note">{{ say("known_note", count=say.count(live.known_count)) }}</p>
{% if live.known %}
<table class="known"><thead><tr><th><span class="vh">{{ say("metric") }}</span></th>
<th class="n">{{ say("so_far") }}</th><th class="n">{{ say("interval") }}</th></tr></thead><tbody>
{% for label, value, interval in live.known %}<tr><th scope="row">{{ label }}</th>
<td class="n">{{ value }}</td><td class="n">{{ interval }}</td></tr>{% endfor %}</tbody></table>
{% endif %}{% endif %}
""",
    "trust": """\
{% if live %}<h2>{{ say("trust_final" if view.state == "finished" else "trust") }}</h2>
{% if view.validity.verdict %}<p>{{ badge(view.validity.verdict) }}</p>
{% if live.reasons %}
<ul class="caveats">{% for head, text, code in live.reasons %}
<li class="{{ 'bad' if view.validity.verdict == 'INVALID' else 'warn' }}"><b>{{ head }}</b>
{{ text }} <code>{{ code }}</code></li>{% endfor %}</ul>
{% else %}<p class="note">{{ say("valid_note") }}</p>{% endif %}
{% else %}<p class="note">{{ say("not_judged") }}</p>{% endif %}{% endif %}
""",
    "limits": """\
{% if live and live.limits %}<h2>{{ say("limits") }}</h2>
{% for text, met in live.limits %}<p class="note">{{ text }}{% if met %} – \
<b class="{{ 'ok' if met == 'met' else 'bad' }}">{{ '✓' if met == 'met' else '✕' }} \
{{ say(met) }}</b>{% endif %}</p>
{% endfor %}{% endif %}
""",
    "quality": """\
{% if live %}<h2>{{ say("quality") }}</h2><p class="note">{{ live.quality }}</p>{% endif %}
""",
    "machine": """\
{% if live %}<h2>{{ say("machine") }}</h2>
{% if live.machine %}<dl class="pairs">{% for name, value in live.machine %}<div><dt>{{ name }}</dt>
<dd>{{ value }}</dd></div>{% endfor %}</dl>
{% if not view.energy %}<p class="note">{{ say("no_power") }}</p>{% endif %}
{% else %}<p class="note">{{ say("no_samples") }}</p>{% endif %}{% endif %}
""",
    "command": """\
{% if live and view.command %}<h2>{{ say("command") }}</h2>\
<pre>{{ printable(view.command, 20000) }}</pre>
<button type="button" data-copy>{{ say("copy") }}</button>{% endif %}
""",
}

RUNS_PAGE = """\
{% extends "base" %}
{% block content %}
<div id="runs">
<h1>{{ headline }}</h1>
{% if rows %}
<p class="lede">{{ say("runs_lede") }}</p>
<div class="tools"><input type="search" id="filter" aria-label="{{ say("filter") }}" \
placeholder="{{ say("filter") }}">
<select id="model" aria-label="{{ say("c_model") }}"><option value="">{{ say("all_models") }}\
</option>
{% for name in models %}<option>{{ name }}</option>{% endfor %}</select>
<select id="verdict" aria-label="{{ say("c_verdict") }}"><option value="">{{ say("all_verdicts") }}\
</option>{% for name in verdicts %}<option value="{{ name }}">{{ name }}</option>{% endfor %}\
</select>
<span class="end"><span class="note" id="shown" role="status"></span>
<a class="button" href="/runs.csv">CSV</a><a class="button" href="/runs.xlsx">Excel</a></span></div>
<table class="cards list"><thead><tr><th><span class="vh">{{ say("compare") }}</span></th>
{% for key, numeric, small in columns %}
<th{{ ' class=num' if numeric }} scope="col"\
{% if key == "c_date" %} aria-sort="descending"{% endif %}><button type="button">{{ say(key) }}\
</button>{% if small %}<small>{{ small }}</small>{% endif %}</th>
{% endfor %}</tr></thead>
<tbody id="rows">
{% for r in rows %}
<tr data-name="{{ r.name }}" data-model="{{ r.model }}" data-verdict="{{ r.verdict }}">
<td>{% if r.is_finished %}<input type="checkbox" aria-label="{{ say("tick", name=r.name) }}">\
{% endif %}</td>
<td class="name" data-v="{{ r.name }}">{% if r.is_finished %}<a class="mono" \
href="/runs/{{ r.name | urlencode }}">{{ r.shown }}</a>{% else %}<a class="mono" \
href="/?run={{ r.name | urlencode }}">{{ r.shown }}</a>{% endif %}
{% if r.note %}<small>{{ r.note }}</small>{% endif %}
{% if r.dates %}<small><a href="/trend/{{ r.base | urlencode }}">\
{{ say("dates", count=r.dates) }}</a></small>{% endif %}</td>
<td data-of="{{ say("c_date") }}" data-v="{{ r.epoch }}">{% if r.started %}<time \
datetime="{{ r.started }}">{{ r.date }}</time>{% else %}–{% endif %}</td>
<td class="model" data-of="{{ say("c_model") }}" data-v="{{ r.model }}"><span>{{ r.model or "–" }}\
<small>{{ r.machine or say("machine_unknown") }}</small></span></td>
<td class="num" data-of="{{ say("c_at_once") }}" data-v="{{ r.level }}">{{ r.levels }}</td>
<td data-of="{{ say("c_verdict") }}" data-v="{{ r.verdict }}">{{ badge(r.verdict, r.word) }}</td>
<td class="num" data-of="TTFT" data-v="{{ r.ttft_v }}"><span>{{ r.ttft[0] }}\
<small>{{ r.ttft[1] }}</small></span></td>
<td class="num" data-of="{{ say("c_tokens") }}" data-v="{{ r.speed_v }}"><span>{{ r.speed[0] }}\
<small>{{ r.speed[1] }}</small></span></td>
<td class="num" data-of="{{ say("c_right") }}" data-v="{{ r.right_v }}"><span>{{ r.right[0] }}\
<small>{{ r.right[1] }}</small></span></td>
<td class="num" data-of="{{ say("c_failed") }}" data-v="{{ r.failed_v }}">{{ r.failed }}</td>
<td class="num" data-of="{{ say("c_energy") }}" data-v="{{ r.energy_v }}">{{ r.energy }}</td></tr>
{% endfor %}
</tbody></table>
<p id="none" hidden><span></span> <button type="button" id="clear">\
{{ say("show_all") }}</button></p>
<p class="note">{{ say("runs_note") }} <span id="zone"></span></p>
<div class="tray" id="tray" hidden><b></b><span class="mono"></span><span class="end"></span>
<button type="button" id="go">{{ say("do_compare") }}</button></div>
{% else %}
<p class="lede">{{ say("none_hint") }}</p>{{ command(first_command, say) }}
{% endif %}
</div>
{% endblock %}
"""

COMPARE_PAGE = """\
{% extends "base" %}
{% block content %}<h1>{{ say("h_compare") }}</h1>
<p class="lede">{{ say("compare_hint") }} <a href="/runs">{{ say("runs") }}</a></p>{% endblock %}
"""

TREND_PAGE = """\
{% extends "base" %}
{% block title %}{{ base }}{% endblock %}
{% block content %}
<h1>{{ say("h_trend", name=base, count=rows | length) }}</h1>
{% for line in changes %}<p class="lede">{{ line }}</p>{% endfor %}
{% if change_note %}<p class="lede">{{ change_note }}</p>{% endif %}
<p class="note">{{ say("trend_note") }}</p>
<div class="trend">
{% for title, spec in trends %}
<section><h2>{{ title }}</h2><div role="img" aria-label="{{ title }}">\
<div class="vega" data-spec="{{ spec }}"></div></div></section>
{% endfor %}
</div>
<section><table class="cards list"><thead><tr><th>{{ say("c_run") }}</th>
<th>{{ say("c_date") }}</th>
<th>{{ say("c_verdict") }}</th><th class="num">TTFT</th><th class="num">{{ say("c_tokens") }}</th>
<th class="num">{{ say("c_right") }}</th></tr></thead><tbody>
{% for r in rows %}<tr><td class="name"><a class="mono" href="/runs/{{ r.name | urlencode }}">\
{{ r.shown }}</a></td><td data-of="{{ say("c_date") }}"><time datetime="{{ r.started }}">\
{{ r.date }}</time></td><td data-of="{{ say("c_verdict") }}">{{ badge(r.verdict, r.word) }}</td>
<td class="num" data-of="TTFT">{{ r.ttft[0] }}</td><td class="num" \
data-of="{{ say("c_tokens") }}">{{ r.speed[0] }}</td><td class="num" \
data-of="{{ say("c_right") }}">{{ r.right[0] }}</td></tr>{% endfor %}
</tbody></table><p class="note" id="zone"></p></section>
{% endblock %}
{% block data %}<script type="application/json" id="specs">{{ specs }}</script>{% endblock %}
"""

START_PAGE = """\
{% extends "base" %}
{% block content %}
<h1>{{ say("h_start") }}</h1>
{% if allow_start %}
<p class="lede">{{ say("start_lede") }}</p>
<form class="fields" id="start" autocomplete="off">
<label>{{ say("c_config") }}<select name="config">{% for name in configs %}<option>{{ name }}\
</option>{% endfor %}</select></label>
<label>{{ say("c_name") }}<input name="name" required maxlength="200"></label>
<p class="wide note">{{ say("override") }}</p>
{% for key in overrides %}<label><code>{{ key }}</code><input name="{{ key }}" \
placeholder="{{ say("as_file") }}"></label>{% endfor %}
<div class="wide"><p class="note">{{ say("command") }}</p><pre id="preview"></pre>
<p class="said-error" role="alert" id="said"></p>
<button type="submit">{{ say("begin") }}</button></div>
</form>
{% else %}<p class="lede">{{ say("not_allowed") }}</p>{% endif %}
{% endblock %}
"""

LOGIN_PAGE = """\
{% extends "base" %}
{% block title %}{{ say("enter") }}{% endblock %}
{% block content %}<h1>{{ say("h_login") }}</h1>
<p class="lede">{{ say("login_hint", name=env) }}</p>
<form class="fields" method="post" action="/login"><label class="wide">{{ say("token") }}
<input type="password" name="token" required autocomplete="current-password"></label>
<div class="wide"><p class="said-error" role="alert" id="said">\
{% if wrong %}{{ say("wrong_token") }}{% endif %}</p>\
<button type="submit">{{ say("enter") }}</button></div></form>{% endblock %}
"""

ERROR_PAGE = """\
{% extends "base" %}
{% block title %}{{ code }}{% endblock %}
{% block content %}<h1>{{ why }}</h1><p class="lede"><a href="/runs">{{ say("back") }}</a></p>
{% endblock %}
"""

TEMPLATES = {
    "macros": MACROS,
    "base": BASE,
    "live.html": LIVE_PAGE,
    "runs.html": RUNS_PAGE,
    "compare.html": COMPARE_PAGE,
    "trend.html": TREND_PAGE,
    "start.html": START_PAGE,
    "login.html": LOGIN_PAGE,
    "error.html": ERROR_PAGE,
    **{f"part_{name}": _IMPORT + text for name, text in PARTS.items()},
}

# Put before a report of ours, whose own style sheet it uses; filled in by `str.format`.
REPORT_BAR = """\
<nav class="tools board" aria-label="llm-stresstest">
<a href="/">{live}</a><a href="/runs">{runs}</a>
<span class="side">{links} <a href="{switch}" lang="{other}">{other_language}</a></span></nav>
"""

# === The script ===

SCRIPT_WORDS = (
    "go_on", "pause", "paused", "lost", "copied", "failed_post", "local_zone", "shown",
    "nothing_matches", "chosen", "choose_one_more", "differ_in", "differ_not", "stopping",
)  # fmt: skip

SCRIPT = (
    r"""
"use strict";
(() => {
const $ = id => document.getElementById(id);
const root = document.documentElement, lang = root.lang, page = document.body.dataset.page;
const words = JSON.parse($("words").textContent);
const say = (key, values) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
let token = document.querySelector("meta[name=token]").content;

// Theme, times, copying
const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* none */ } };
const remembered = key => { try { return localStorage.getItem(key); } catch { return null; } };
if (remembered("theme")) root.dataset.theme = remembered("theme");
$("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme:dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remember("theme", root.dataset.theme);
});
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const dated = new Intl.DateTimeFormat(lang, {day: "numeric", month: "short", year: "numeric",
  hour: "2-digit", minute: "2-digit"});
const localise = within => within.querySelectorAll("time[datetime]").forEach(time => {
  const moment = new Date(time.dateTime);
  if (!isNaN(moment)) time.textContent = dated.format(moment);
});
localise(document);
if ($("zone")) $("zone").textContent = say("local_zone", {zone});
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = button.parentElement.querySelector("code,pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = words.copied;
  } catch {
    getSelection().selectAllChildren(text);
  }
});

// What changes something: with the token of this page, as JSON
const post = async (path, body) => {
  const answer = await fetch(path, {method: "POST", body: JSON.stringify(body),
    headers: {"Content-Type": "application/json", "X-Token": token}});
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error || answer.statusText);
  return said;
};
// A form of a page that sends no referrer says no origin either, and is refused
const login = document.querySelector('form[action="/login"]');
if (login) login.addEventListener("submit", async event => {
  event.preventDefault();
  const body = new URLSearchParams(new FormData(login));
  const answer = await fetch("/login", {method: "POST", body});
  if (answer.ok) return void (location = "/");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("said").textContent = page.getElementById("said").textContent;
  login.elements.token.select();
});
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-post]");
  if (!button || button.dataset.sure && !confirm(button.dataset.sure)) return;
  button.disabled = true;
  try {
    const said = await post(button.dataset.post, {name: button.dataset.name});
    if (said.stopping) button.textContent = words.stopping;
    else if (said.page) location = said.page;
  } catch (error) {
    button.disabled = false;
    tell(say("failed_post", {why: error.message}));
  }
});
const tell = text => { $("lost").textContent = text; $("lost").hidden = !text; };

// Charts
const tip = $("tip");
"""
    + report.TOOLTIP
    + r"""
const numbers = lang === "de" ? {decimal: ",", thousands: ".", grouping: [3], currency: ["", ""]}
  : undefined;
const draw = (element, spec, config) => vegaEmbed(element, spec, {actions: false, renderer: "svg",
  ast: true, config, defaultStyle: false, tooltip: showTip, mode: "vega-lite",
  formatLocale: numbers});
const panels = new Map();
let drawing = false, waiting = null, chartConfig = null;
const drawPanels = async wanted => {
  if (drawing) { waiting = wanted; return; }
  drawing = true;
  for (const panel of wanted) await drawPanel(panel, wanted.map(each => each.name));
  for (const [name, held] of panels) {
    if (!wanted.some(panel => panel.name === name)) { held.element.remove(); panels.delete(name); }
  }
  drawing = false;
  if (waiting) { const next = waiting; waiting = null; drawPanels(next); }
};
const drawPanel = async (panel, order) => {
  let held = panels.get(panel.name);
  if (!held) {
    const element = document.createElement("div");
    element.innerHTML = `<p class="panel"><b></b><span></span></p>
      <div role="img"><div class="vega"></div></div>`;
    $("charts").append(element);
    held = {element};
    panels.set(panel.name, held);
    order.forEach(name => panels.has(name) && $("charts").append(panels.get(name).element));
  }
  held.element.querySelector("b").textContent = panel.label;
  held.element.querySelector("span").textContent = panel.note;
  held.element.querySelector("[role=img]").ariaLabel = `${panel.label}. ${panel.note}`;
  if (panel.spec) held.spec = panel.spec;
  if (!held.spec) return;
  if (panel.key !== held.key) {
    const spec = structuredClone(held.spec);
    spec.datasets = panel.rows;
    spec.params.forEach(param => { param.value = panel.ends[param.name]; });
    held.view?.finalize();
    held.view = (await draw(held.element.querySelector(".vega"), spec, chartConfig)).view;
    held.key = panel.key;
    held.element.dataset.drawn = "yes";
    return;
  }
  Object.entries(panel.ends).forEach(([name, value]) => held.view.signal(name, value));
  Object.entries(panel.rows).forEach(([name, rows]) => held.view.data(name, rows));
  await held.view.runAsync();
};
if ($("specs")) {
  const data = JSON.parse($("specs").textContent);
  Promise.all([...document.querySelectorAll(".vega")].map(element =>
    draw(element, data.specs[+element.dataset.spec], data.config)
  )).then(() => { root.dataset.drawn = "yes"; });
}

// The stream: parts of the page as the server renders them
let stream = null, lastHeard = 0, lostAt = null, paused = false, lastSaid = 0, lastState = "";
const clock = new Intl.DateTimeFormat(lang, {timeStyle: "medium"});
const heard = () => {
  lastHeard = Date.now();
  if (lostAt) { lostAt = null; tell(""); document.body.classList.remove("lost"); }
};
const lost = () => {
  if (paused) return;
  lostAt ??= Date.now();
  document.body.classList.add("lost");
  tell(say("lost", {at: clock.format(lostAt)}));
};
const swap = (id, html) => {
  const part = $(`part-${id}`);
  if (!part) return;
  const chosen = getSelection();
  if (!chosen.isCollapsed && part.contains(chosen.anchorNode)) return;
  const focused = part.contains(document.activeElement)
    ? [...part.querySelectorAll("a,button")].indexOf(document.activeElement) : -1;
  part.innerHTML = html;
  if (part.tagName === "SECTION") part.hidden = !html;
  localise(part);
  if (focused >= 0) part.querySelectorAll("a,button")[focused]?.focus();
};
const announce = state => {
  const now = Date.now(), text = document.querySelector("#part-answer h1")?.textContent ?? "";
  if (state === lastState && now - lastSaid < 15000) return;
  lastState = state;
  lastSaid = now;
  $("status").textContent = text;
};
const connect = () => {
  stream?.close();
  const query = new URLSearchParams(location.search);
  query.set("page", page);
  stream = new EventSource(`/events/page?${query}`);
  lastHeard = Date.now();
  stream.onerror = lost;
  stream.addEventListener("hello", event => {
    const said = JSON.parse(event.data);
    token = said.token;
    chartConfig = said.config;
    heard();
  });
  stream.addEventListener("beat", heard);
  stream.addEventListener("parts", event => {
    heard();
    const said = JSON.parse(event.data);
    Object.entries(said.parts).forEach(([id, html]) => swap(id, html));
    $("columns").hidden = !said.state;
    $("pause").hidden = !said.busy;
    document.title = said.title;
    document.body.dataset.state = said.state;
    if (said.charts) drawPanels(said.charts);
    announce(said.state);
  });
  stream.addEventListener("runs", event => { heard(); if (+event.data) refreshRuns(); });
};
const watch = () => {
  if (paused) return;
  const silent = Date.now() - lastHeard;
  if (silent > 8000) lost();
  if (stream.readyState === EventSource.CLOSED || silent > 12000) connect();
};
if (page === "live" || page === "runs") {
  connect();
  setInterval(watch, 3000);
}
$("pause")?.addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = words[paused ? "go_on" : "pause"];
  if (paused) { stream.close(); tell(words.paused); }
  else { tell(""); connect(); }
});

// The list of runs
const chosen = new Set();
let sorted = {column: 2, down: true};
const rows = () => [...$("rows").rows];
const cellValue = (row, column) => {
  const text = row.cells[column].dataset.v ?? "";
  return text === "" ? null : isNaN(text) ? text.toLowerCase() : +text;
};
const sort = () => {
  const {column, down} = sorted;
  const order = rows().map(row => [cellValue(row, column), row]);
  order.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const way = typeof a === "string" || typeof b === "string"
      ? String(a).localeCompare(String(b), lang, {numeric: true}) : a - b;
    return down ? -way : way;
  });
  $("rows").append(...order.map(([, row]) => row));
};
const filter = () => {
  const wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const model = $("model").value, verdict = $("verdict").value;
  let shown = 0;
  rows().forEach(row => {
    const text = row.textContent.toLowerCase();
    const fits = wanted.every(word => text.includes(word))
      && (!model || row.dataset.model === model) && (!verdict || row.dataset.verdict === verdict);
    row.hidden = !fits;
    shown += fits;
  });
  $("shown").textContent = say("shown", {shown, total: rows().length});
  $("none").hidden = shown > 0;
  $("none").querySelector("span").textContent = say("nothing_matches", {text: $("filter").value});
};
let asked = 0;
const configOf = run => (run.meta ?? run.view)?.config ?? {};
const tray = async () => {
  const names = [...chosen], [count, list, differ] = $("tray").children, number = ++asked;
  $("tray").hidden = !names.length;
  count.textContent = say("chosen", {count: names.length});
  list.textContent = names.join(", ");
  $("go").disabled = names.length < 2;
  differ.textContent = names.length < 2 ? words.choose_one_more : "";
  if (names.length < 2 || names.length > 6) return;
  const configs = await Promise.all(names.map(async name =>
    configOf(await (await fetch(`/api/runs/${encodeURIComponent(name)}`)).json())));
  if (number !== asked) return;
  const keys = [...new Set(configs.flatMap(Object.keys))].filter(key =>
    new Set(configs.map(config => JSON.stringify(config[key]))).size > 1);
  differ.textContent = keys.length ? say("differ_in", {keys: keys.slice(0, 6).join(", ")})
    : words.differ_not;
};
const tick = () => rows().forEach(row => {
  const box = row.querySelector("input");
  if (box) box.checked = chosen.has(row.dataset.name);
  row.classList.toggle("chosen", chosen.has(row.dataset.name));
});
const refreshRuns = async () => {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!$("rows") || !fresh.getElementById("rows")) { location.reload(); return; }
  document.querySelector("#runs h1").textContent = fresh.querySelector("#runs h1").textContent;
  $("rows").replaceWith(fresh.getElementById("rows"));
  for (const id of ["model", "verdict"]) {
    const wanted = $(id).value;
    $(id).replaceChildren(...fresh.getElementById(id).options);
    $(id).value = wanted;
    if ($(id).selectedIndex < 0) $(id).selectedIndex = 0;
  }
  listen();
  localise($("rows"));
  sort(); filter(); tick();
};
const listen = () => $("rows").addEventListener("change", event => {
  const row = event.target.closest("tr");
  chosen[event.target.checked ? "add" : "delete"](row.dataset.name);
  tick();
  tray();
});
if ($("rows")) {
  listen();
  filter();
  $("filter").addEventListener("input", filter);
  $("model").addEventListener("change", filter);
  $("verdict").addEventListener("change", filter);
  $("clear").addEventListener("click", () => {
    $("filter").value = $("model").value = $("verdict").value = "";
    filter();
    $("filter").focus();
  });
  const heads = [...document.querySelectorAll(".list thead th")];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = sorted.column === column ? !sorted.down : head.classList.contains("num");
    sorted = {column, down};
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    sort();
  }));
  $("go").addEventListener("click", () => {
    const query = new URLSearchParams([...chosen].map(name => ["run", name]));
    location = `/compare?${query}`;
  });
}

// Starting a run
const form = $("start");
const filled = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
let typing = null;
const preview = () => {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    try {
      $("preview").textContent = (await post("/api/command", filled())).command;
      $("said").textContent = "";
    } catch (error) { $("said").textContent = form.elements.name.value ? error.message : ""; }
  }, 250);
};
form?.addEventListener("input", preview);
form?.addEventListener("submit", async event => {
  event.preventDefault();
  clearTimeout(typing);
  try { location = (await post("/api/start", filled())).page; }
  catch (error) { $("said").textContent = error.message; }
});
})();
"""
)
