"""Every chart, as a Vega-Lite specification made in one place: for the page, files and dashboard.

    chart = charts.ecdf("ttft_ms", curves, limit_ms=1000)
    chart.title, chart.note, chart.panels, chart.table     what a page shows of it
    charts.coloured(chart.panels[0].spec, charts.LIGHT)    the specification with fixed colours
    charts.for_file(chart, charts.LIGHT)                   one whole picture, with its title

A title says what the data show, and claims a difference only where the intervals support it. A
chart with nothing to see has no panels, and its title says why. Colours are tokens such as
`var(--a)`, which a page's style sheet gives their value: so a picture follows the theme and the
printer without being drawn again. What a model, a server or a file said is data here, never an
expression, a field's name or markup.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import heapq
import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import llm_stresstest as st
from extensions.words import ENGLISH, Sentences

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
VEGA_LITE = "6.4"  # the newest that vl-convert knows
MOST_POINTS = 5000
MOST_STEPS = 500  # of a curve; more cannot be seen
MOST_LEVELS = 8
MOST_DOTS = 50  # of levels in one picture
MOST_LANES = 64
MOST_BINS = 300
MOST_ROWS = 200  # of a table under a chart
NARROW = st.NARROW_SPACE

# === Colours and type ===

LIGHT = {
    "bg": "#fbfbf9", "surface": "#ffffff", "sunken": "#f3f3ef", "ink": "#1b1e23", "ink2": "#4a5058",
    "ink3": "#666c75", "line": "#e2e2dc", "rule": "#b9bab4", "edge": "#84878c", "a": "#0b63ad",
    "b": "#b8500f", "quality": "#00705f", "wait": "#bd7410", "focus": "#0b63ad", "l1": "#4b98d2",
    "l2": "#1f74b8", "l3": "#0f4f8a", "l4": "#0a2a4d", "ok": "#0a6b4d", "okbg": "#e6f2ec",
    "warn": "#7d5200", "warnbg": "#fbf1dc", "bad": "#b0133f", "badbg": "#fbe6eb",
}  # fmt: skip
DARK = {
    "bg": "#14161a", "surface": "#1b1e23", "sunken": "#22262c", "ink": "#eceae4", "ink2": "#b8bcc2",
    "ink3": "#969ca5", "line": "#2f343b", "rule": "#555c66", "edge": "#747b86", "a": "#6cb2f2",
    "b": "#f0995a", "quality": "#4fc7b0", "wait": "#e0a24a", "focus": "#8fc6f7", "l1": "#3d6f9f",
    "l2": "#5b9bd5", "l3": "#93c7f2", "l4": "#e2f1ff", "ok": "#5fcf9f", "okbg": "#16302a",
    "warn": "#e9b54d", "warnbg": "#33290f", "bad": "#ff8097", "badbg": "#3a1a22",
}  # fmt: skip


def _with_ramp(theme: dict[str, str]) -> None:
    """Add s1 to s8: l1 to l4 with what lies between them, for more than four levels."""
    stops = [
        tuple(bytes.fromhex(theme[name].removeprefix("#"))) for name in ("l1", "l2", "l3", "l4")
    ]
    for step in range(MOST_LEVELS):
        place = step * (len(stops) - 1) / (MOST_LEVELS - 1)
        low = min(int(place), len(stops) - 2)
        mixed = [
            round(a + (b - a) * (place - low))
            for a, b in zip(stops[low], stops[low + 1], strict=True)
        ]
        theme[f"s{step + 1}"] = "#" + bytes(mixed).hex()


_with_ramp(LIGHT)
_with_ramp(DARK)

FONT = 'Arial, "Liberation Sans", sans-serif'
CONFIG: Spec = {
    "background": None,
    "font": FONT,
    "padding": {"left": 0, "right": 2, "top": 2, "bottom": 5},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink3)", "titleColor": "var(--ink3)", "labelFontSize": 12,
        "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "var(--line)",
        "domain": False, "ticks": False, "labelPadding": 6, "titlePadding": 8, "labelLimit": 160,
    },
    "axisX": {
        "grid": False, "domain": True, "domainColor": "var(--rule)", "ticks": True,
        "tickColor": "var(--rule)", "tickSize": 4,
    },
    "axisY": {"grid": True, "tickCount": 4},
    "legend": {"disable": True},
    "line": {"strokeWidth": 2},
    "point": {"filled": True, "size": 36},
    "rule": {"color": "var(--ink2)"},
    "text": {"color": "var(--ink)", "fontSize": 12},
    "title": {
        "color": "var(--ink)", "fontSize": 16, "anchor": "start", "subtitleColor": "var(--ink3)",
        "subtitleFontSize": 13, "subtitleLineHeight": 18,
        "offset": 12, "subtitlePadding": 6, "frame": "group",
    },
}  # fmt: skip


def token(name: str) -> str:
    """Return a colour of the style sheet."""
    return f"var(--{name})"


def coloured(spec: Mapping[str, Any], theme: Mapping[str, str]) -> Spec:
    """Return a specification with its tokens replaced by a theme's colours."""
    text = re.sub(
        r"var\(--([a-z0-9]+)\)",
        lambda found: theme.get(found.group(1), found.group()),
        json.dumps(spec),
    )
    return cast(Spec, json.loads(text))


def level_tokens(count: int) -> list[str]:
    """Return the colours of so many levels, the lowest first and lightest."""
    few = {1: ("a",), 2: ("l1", "l3"), 3: ("l1", "l2", "l4"), 4: ("l1", "l2", "l3", "l4")}
    if count in few:
        return [token(name) for name in few[count]]
    steps = [round(i * (MOST_LEVELS - 1) / (count - 1)) + 1 for i in range(count)]
    return [token(f"s{step}") for step in steps]


# === What a chart is ===


class Key(NamedTuple):
    """An entry of a legend."""

    label: str
    colour: str
    shape: str = "line"  # "line", "dash", "dot", "box", "thin", "hollow", "cross", "triangle"


class Panel(NamedTuple):
    """One picture; those of a chart stand one below the other, with one x axis."""

    spec: Spec
    label: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart, or the sentence that says why there is none."""

    name: str  # of its file
    title: str  # what the data show
    note: str = ""  # quantity, unit, scale, direction
    panels: tuple[Panel, ...] = ()
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    table_note: str = ""
    legend: tuple[Key, ...] = ()


class Curve(NamedTuple):
    """What is drawn of one level or run."""

    label: str
    values: Sequence[float]
    summary: Mapping[str, Any]  # as `describe` makes it
    colour: str
    dash: tuple[int, ...] = ()
    key: str = ""  # the label on the curve


def for_file(chart: Chart, theme: Mapping[str, str], width: int = 720) -> Spec:
    """Return a chart as one picture with its title, in a theme's colours."""
    panels = []
    for panel in chart.panels:
        spec = sized(panel.spec, width)
        if panel.label:
            spec["title"] = {"text": panel.label, "fontSize": 12, "offset": 6}
        panels.append(spec)
    title = {"text": wrapped(chart.title, 80), "subtitle": wrapped(chart.note, 110)}
    whole = {"vconcat": panels, "spacing": 12, "title": title}
    whole |= {"$schema": SCHEMA, "config": {**CONFIG, "background": token("bg"), "padding": 24}}
    return coloured(whole, theme)


def sized(spec: Mapping[str, Any], width: int) -> Spec:
    """Return a specification that is so wide, instead of as wide as what holds it."""
    made = copy.deepcopy(dict(spec))
    made["width"] = width
    made.pop("autosize", None)
    return made


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines; a narrow space stays within its line."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


# === Parts of specifications ===

_TIME_LABELS = "datum.value>=1000?format(datum.value/1000,'~g')+' s':format(datum.value,'~g')+' ms'"


class Scale(NamedTuple):
    """A scale of times: logarithmic where they differ much, else from 0."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> Scale:
        """Return the scale that holds these times."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=1.0)
        if low > 0 and high / low > 20:
            return cls(low / 1.1, high * 1.1, True)
        return cls(0.0, (high or 1.0) * 1.04, False)

    def words(self, say: Sentences = ENGLISH) -> str:
        """Return what the note says of it."""
        return say(" · log scale") if self.log else ""

    def encoding(self, field: str = "x", **axis: Any) -> Spec:
        """Return the encoding of a field of times."""
        scale: Spec = {"domain": [self.low, self.high], "nice": False}
        if self.log:
            scale["type"] = "log"
            axis["values"] = self.ticks()
        axis.setdefault("tickCount", 4)
        axis = {"labelExpr": _TIME_LABELS, "title": None, "labelFlush": False, **axis}
        return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}

    def ticks(self) -> list[float]:
        """Return the ticks of a logarithmic scale: 1, 2 and 5, or fewer when they are many."""
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = math.log10(self.high / self.low)
        steps = (1, 2, 5) if decades < 1.8 else (1, 3) if decades < 3 else (1,)
        values = [step * 10.0**power for power in range(low, high + 1) for step in steps]
        return [value for value in values if self.low <= value <= self.high]

    def with_strip(self) -> Scale:
        """Return the scale with room above its values, for what stands at the panel's top."""
        if self.log:
            return self._replace(high=self.high * (self.high / self.low) ** 0.12)
        return self._replace(high=self.high * 1.12)

    def share(self, value: float) -> float:
        """Return where on the axis a value stands, from 0 to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Limit(NamedTuple):
    """A limit that the user set: drawn, or only named where it lies far beyond the values."""

    drawn: tuple[float, ...] = ()
    words: str = ""

    @classmethod
    def of(cls, limit_ms: float | None, largest_ms: float, say: Sentences = ENGLISH) -> Limit:
        """Return what to do with a limit on an axis for values up to the largest."""
        if limit_ms is None:
            return cls()
        if limit_ms <= 3 * largest_ms:
            return cls((limit_ms,))
        return cls((), say(" · limit {limit}, beyond the axis", limit=say.limit(limit_ms)))


def _view(height: int, *layers: Spec) -> Spec:
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "layer": [layer for layer in layers if layer["data"]["values"]],
    }


def _layer(values: Sequence[Mapping[str, Any]], mark: Spec, **encoding: Any) -> Spec:
    return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def _halo(values: Sequence[Mapping[str, Any]], mark: Spec, **encoding: Any) -> list[Spec]:
    """Return text on marks: the same below it in the colour of the ground."""
    below = {"stroke": token("bg"), "strokeWidth": 4, "strokeJoin": "round", "color": token("bg")}
    base = {"type": "text", **mark}
    encoding["text"] = {"field": "text", "type": "nominal"}
    return [_layer(values, {**base, **below}, **encoding), _layer(values, base, **encoding)]


def _x(field: str = "x") -> Spec:
    return {"field": field, "type": "quantitative"}


def _colour(field: str = "c") -> Spec:
    return {"field": field, "type": "nominal", "scale": None}


def _rounded(value: float | None) -> float | None:
    """Return a number with four significant digits: more cannot be seen, and would weigh."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def _tip(text: str = "t") -> Spec:
    return {"field": text, "type": "nominal"}


def _seconds(ms: float) -> float:
    return round(ms / 1000, 4)


def supported(summary: Mapping[str, Any], name: str) -> bool:
    """Whether a percentile has both bounds of its interval."""
    return bool(summary["n"]) and None not in summary["ci95"][name]


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two medians' intervals do not touch."""
    if not supported(one, "p50") or not supported(other, "p50"):
        return False
    low, high = sorted((one["ci95"]["p50"], other["ci95"]["p50"]))
    return bool(low[1] < high[0])


# === How load changes it ===


class Level(NamedTuple):
    """A level of a sweep: its stage of the aggregate, and its results."""

    at_once: int
    part: Mapping[str, Any]
    results: Sequence[st.Result]


def levels_of(aggregate: Mapping[str, Any], results: Sequence[st.Result]) -> list[Level]:
    """Return a sweep's levels, the lowest first; of a level asked twice the first time."""
    by_stage: dict[int, list[st.Result]] = {}
    for result in results:
        by_stage.setdefault(result.stage, []).append(result)
    firsts = {stage["concurrent"]: stage for stage in reversed(aggregate["stages"])}
    return [
        Level(level, firsts[level], by_stage.get(firsts[level]["stage"], []))
        for level in sorted(firsts)
    ]


def shown_levels(levels: Sequence[Level]) -> list[Level]:
    """Return at most eight of them, the lowest and the highest among them."""
    if len(levels) <= MOST_LEVELS:
        return list(levels)
    places = {round(i * (len(levels) - 1) / (MOST_LEVELS - 1)) for i in range(MOST_LEVELS)}
    return [levels[place] for place in sorted(places)]


def pareto(levels: Sequence[Level], about: str = "", say: Sentences = ENGLISH) -> Chart:
    """Draw the total of all users against the speed of one: the field's Pareto picture."""
    name = "throughput"
    known = [
        (level, st.total_speed(level.part), st.one_user_speed(level.part))
        for level in levels
        if st.total_speed(level.part) and st.one_user_speed(level.part)
    ]
    if len(known) < 2:
        why = say("No chart: fewer than two levels have a speed in total and for a user.")
        return Chart(name, why)
    points, rows = list[Spec](), list[tuple[str, ...]]()
    for place, (level, total, one) in enumerate(known):
        bounds = [1000 / ms if ms else None for ms in level.part["tpot_ms"]["ci95"]["p50"]]
        low, high = (bounds[1], bounds[0]) if None not in bounds else (None, None)
        text, total_text, one_text = str(level.at_once), say.number(total), say.number(one)
        tip = "{level} at once: {total} tokens/s in all, {one} for one user"
        points.append({
            "x": _rounded(one), "y": _rounded(total), "lo": _rounded(low), "hi": _rounded(high),
            "o": place, "text": text,
            "t": say(tip, level=text, total=total_text, one=one_text),
        })  # fmt: skip
        interval = "–"
        if low is not None:
            interval = say.own(f"{st.format_number(low)} to {st.format_number(high)}")
        rows.append((text, total_text, one_text, interval))
    x = {**_x(), "scale": {"zero": True}, "axis": {"title": say("tokens/s of one user →")}}
    x["axis"]["tickCount"] = 5
    y = {**_x("y"), "scale": {"zero": True}, "axis": {"title": None}}
    labelled = {point.at_once for point in shown_levels([level for level, *_ in known])}
    step = math.ceil(len(points) / MOST_DOTS)
    points = [p for p in points if p["o"] % step == 0 or int(p["text"]) in labelled]
    labels = [point for point in points if int(point["text"]) in labelled]
    line = {"type": "line", "strokeWidth": 1, "color": token("rule")}
    bar = {"type": "rule", "strokeWidth": 7, "opacity": 0.3, "color": token("a")}
    dot = {"type": "point", "color": token("a"), "size": 60, "opacity": 1}
    spec = _view(
        260,
        _layer(points, line, x=x, y=y, order=_x("o")),
        _layer([p for p in points if p["lo"]], bar, x=_x("lo"), x2={"field": "hi"}, y=_x("y")),
        _layer(points, dot, x=x, y=y, tooltip=_tip()),
        *_halo(labels, {"dy": -13, "fontWeight": "bold"}, x=x, y=y),
    )
    headers = ("at once", "total tokens/s ↑", "one user, tokens/s ↑", "95 % interval")
    note = "Total tokens/s (up) against one user's (right) · ↑ → more is better"
    if about:
        note = "about Total tokens/s (up) against one user's (right) · ↑ → more is better"
    return Chart(
        name,
        _pareto_title(
            [(level.at_once, cast(float, t), cast(float, o)) for level, t, o in known], say
        ),
        say(note),
        (Panel(spec),),
        tuple(map(say, headers)),
        tuple(rows[:MOST_ROWS]),
        _first_rows(len(rows), say),
    )


def _pareto_title(known: Sequence[tuple[int, float, float]], say: Sentences = ENGLISH) -> str:
    """Say what the way from the knee to the top costs, as the headline does."""
    knee = st.Headline.knee_of([(at_once, total) for at_once, total, _ in known])
    top = known[-1]
    begin = known[0]
    if knee != top[0]:
        begin = next(level for level in known if level[0] == knee)
    gain, loss = top[1] / begin[1] - 1, 1 - top[2] / begin[2]
    total = "the total grows by {size}" if gain >= 0 else "the total falls by {size}"
    one = "each user loses {size}" if loss >= 0 else "each user gains {size}"
    return say(
        "From {low} to {high} at once {total} and {one}",
        low=begin[0],
        high=top[0],
        total=say(total, size=say.share(abs(gain))),
        one=say(one, size=say.share(abs(loss))),
    )


def by_level(
    levels: Sequence[Level],
    metric: str,
    title: str,
    note: str,
    name: str,
    say: Sentences = ENGLISH,
) -> Chart:
    """Draw the medians of a latency, or the right answers, by level with their intervals."""
    is_share = metric == "quality"
    points, rows = list[Spec](), list[tuple[str, ...]]()
    for level in levels:
        if is_share:
            scores = level.part["quality"]["under_load"]
            value, bounds, n = scores["correct_share"], scores["correct_ci95"], scores["n"]
        else:
            summary = level.part[metric]
            value, bounds, n = summary["p50"], summary["ci95"]["p50"], summary["n"]
        if value is None or not n:
            continue
        known = bounds if bounds and None not in bounds else None
        if is_share:
            text = say.share(value)
            interval = "–" if known is None else say.share(*known)
        else:
            text, interval = say.ms(value), say.interval(known or (None,))
        point = {"k": str(level.at_once), "y": _rounded(value), "text": text}
        tip = "{level} at once: {value}, 95 %: {interval}"
        point["t"] = say(tip, level=level.at_once, value=text, interval=interval)
        if known:
            point |= {"lo": _rounded(known[0]), "hi": _rounded(known[1])}
        points.append(point)
        rows.append((str(level.at_once), text, interval, say.count(n)))
    if not points:
        return Chart(name, title, note)
    kept = {str(level.at_once) for level in shown_levels(levels)}
    shown = [point for point in points if point["k"] in kept]
    axis: Spec = {"title": None}
    top = max(cast(float, p.get("hi", p["y"])) for p in shown)
    scale: Spec = {"domain": [0, top * 1.05 or 1]}
    if is_share:
        scale, axis = {"domain": [0, 1]}, {"title": None, "format": ".0%"}
    else:
        axis["labelExpr"] = _TIME_LABELS
    y = {**_x("y"), "scale": scale, "axis": axis}
    x_axis = {"title": say("requests at once"), "labelAngle": 0}
    order = [point["k"] for point in shown]
    scale_x = {"padding": 0.9}  # room for the last one's label
    x = {"field": "k", "type": "ordinal", "sort": order, "axis": x_axis, "scale": scale_x}
    colour = token("quality" if is_share else "a")
    bar = {"type": "rule", "strokeWidth": 7, "opacity": 0.3, "color": colour}
    dot = {"type": "point", "color": colour, "size": 60, "opacity": 1}
    spec = _view(
        260,
        _layer([p for p in shown if "lo" in p], bar, x=x, y=_x("lo"), y2={"field": "hi"}),
        _layer(shown, dot, x=x, y=y, tooltip=_tip()),
        *_halo(shown, {"dx": 8, "align": "left", "fontWeight": "bold", "fontSize": 11}, x=x, y=y),
    )
    what = "right answers" if is_share else "median"
    headers = tuple(map(say, ("at once", what, "95 % interval", "answers")))
    table = tuple(rows[:MOST_ROWS])
    return Chart(name, title, note, (Panel(spec),), headers, table, _first_rows(len(rows), say))


def _first_rows(count: int, say: Sentences) -> str:
    """Say when a table under a chart holds only the first of its rows."""
    return "" if count <= MOST_ROWS else say("The first {count}; export has all.", count=MOST_ROWS)


# === Latency ===


def ecdf(
    name: str,
    title: str,
    note: str,
    curves: Sequence[Curve],
    limit_ms: float | None = None,
    say: Sentences = ENGLISH,
) -> Chart:
    """Draw how many requests (up) were done within a time (right)."""
    drawn = [curve for curve in curves if curve.values]
    if not drawn:
        return Chart(name, title, note)
    ends = [end for curve in drawn for end in (min(curve.values), max(curve.values))]
    limit = Limit.of(limit_ms, max(ends), say)
    scale = Scale.of([*ends, *limit.drawn])
    layers, single = list[Spec](), len(drawn) == 1
    x, y = scale.encoding(), {**_x("y"), "scale": {"domain": [0, 1]}}
    y["axis"] = {"title": None, "format": ".0%", "values": [0, 0.5, 1]}
    line = {"type": "line", "interpolate": "step-after"}
    for curve in drawn:
        steps = _steps(curve.values)
        if single:
            n = curve.summary["n_eff"]["p50"] or len(curve.values)
            half = math.sqrt(math.log(2 / 0.05) / (2 * max(n, 1)))  # Dvoretzky, Kiefer, Wolfowitz
            band = [
                {"x": s["x"], "lo": max(s["y"] - half, 0), "hi": min(s["y"] + half, 1)}
                for s in steps
            ]
            area = {"type": "area", "interpolate": "step-after", "opacity": 0.16}
            area["color"] = curve.colour
            layers.append(_layer(band, area, x=x, y=_x("lo"), y2={"field": "hi"}))
        elif supported(curve.summary, "p50"):
            low, high = curve.summary["ci95"]["p50"]
            bar = {"type": "rule", "strokeWidth": 7, "opacity": 0.5, "color": curve.colour}
            ends_of = [{"lo": _rounded(low), "hi": _rounded(high), "y": 0.5}]
            layers.append(_layer(ends_of, bar, x=_x("lo"), x2={"field": "hi"}, y=_x("y")))
        mark = {**line, "color": curve.colour, "strokeDash": list(curve.dash) or [1, 0]}
        layers.append(_layer(steps, mark, x=x, y=y))
    for at_ms in limit.drawn:
        layers += _limit(at_ms, x, scale, vertical=True, say=say)
    layers += _marked(drawn[0], scale, x, y, say) if single else _named(drawn, scale, x, y, say)
    headers = ("", *percentile_heads(say))
    rows = tuple(percentile_row(curve.label, curve.summary, say) for curve in curves)
    spec = _view(250, *layers)
    return Chart(
        name,
        title,
        note + scale.words(say) + limit.words + say(" · ← less is better"),
        (Panel(spec),),
        headers,
        rows,
    )


def percentile_heads(say: Sentences) -> tuple[str, ...]:
    """Return the heads above what `percentile_row` returns, but for its label."""
    return ("p50", say("95 % interval"), "p90", "p95", "p99", say("max"), say("answers"))


def percentile_row(label: str, summary: Mapping[str, Any], say: Sentences) -> tuple[str, ...]:
    """Return the percentiles of a metric as texts: in brackets what too few answers support."""
    shown = [label]
    for name in st.PERCENTILES:
        text = say.ms(summary[name])
        shown.append(text if supported(summary, name) or not summary["n"] else f"({text})")
        if name == "p50":
            shown.append(say.interval(summary["ci95"]["p50"]))
    return (*shown, say.ms(summary["max"]), say.count(summary["n"]))


def _steps(values: Sequence[float]) -> list[dict[str, Any]]:
    """Return a curve's steps: each value, of many so many that no difference can be seen."""
    ordered, n = sorted(values), len(values)
    places = range(n)
    if n > MOST_STEPS:
        every = [round(i * (n - 1) / (MOST_STEPS - 1)) for i in range(MOST_STEPS)]
        return [{"x": _rounded(ordered[p]), "y": round((p + 1) / n, 4)} for p in every]
    steps = [{"x": _rounded(ordered[0]), "y": 0.0}]
    return steps + [{"x": _rounded(ordered[p]), "y": round((p + 1) / n, 4)} for p in places]


def _limit(
    limit_ms: float, x: Spec, scale: Scale, *, vertical: bool, say: Sentences = ENGLISH
) -> list[Spec]:
    """Draw the limit that the user set."""
    rule = {"type": "rule", "strokeDash": [5, 4], "color": token("ink"), "strokeWidth": 1.5}
    label = say("limit {limit}", limit=say.limit(limit_ms))
    right = scale.share(limit_ms) > 0.75
    align = {"align": "right" if right else "left", "dx": -4 if right else 4}
    if vertical:
        at = [{"x": limit_ms, "y": 0.05, "text": label}]
        return [_layer(at, rule, x=x), *_halo(at, align, x=x, y=_x("y"))]
    at = [{"y": limit_ms, "text": label}]
    y = {**x, "field": "y"}
    text = {"align": "right", "baseline": "bottom", "dy": -3, "dx": -2}
    place = {"value": "width"}
    return [_layer(at, rule, y=y), *_halo(at, text, y=y, x=place)]


def _marked(curve: Curve, scale: Scale, x: Spec, y: Spec, say: Sentences) -> list[Spec]:
    """Mark p50 and p95 on a curve that stands alone."""
    points = []
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        if name == "p95" and not supported(curve.summary, name):
            continue
        value = curve.summary[name]
        text = f"{name} {say.ms(value)}"
        points.append({"x": _rounded(value), "y": share, "text": text, "t": text})
    layers = [
        _layer(
            points, {"type": "point", "color": curve.colour, "opacity": 1}, x=x, y=y, tooltip=_tip()
        )
    ]
    for point in points:
        left = scale.share(cast(float, point["x"])) > 0.45
        side = {"align": "right" if left else "left", "dx": -9 if left else 9}
        layers += _halo([point], {**side, "fontWeight": "bold"}, x=x, y=y)
    return layers


def _named(curves: Sequence[Curve], scale: Scale, x: Spec, y: Spec, say: Sentences) -> list[Spec]:
    """Write each level at its curve's median, where two would not touch."""
    points, last = list[dict[str, Any]](), -1.0
    for curve in sorted(curves, key=lambda curve: cast(float, curve.summary["p50"] or 0)):
        median = curve.summary["p50"]
        if median is None or not curve.key or scale.share(median) - last < 0.06:
            continue
        last = scale.share(median)
        text = say("{label}: {time} in the median", label=curve.label, time=say.ms(median))
        points.append({"x": _rounded(median), "y": 0.56, "text": curve.key, "t": text})
    return _halo(points, {"fontWeight": "bold", "dx": -7, "align": "right"}, x=x, y=y)


# === Over time ===


class Axis:
    """The time axis that the panels over time share."""

    def __init__(self, end_s: float, say: Sentences = ENGLISH) -> None:
        self.end_s, self.say = end_s or 0.001, say

    def encoding(self, *, labels: bool, field: str = "x") -> Spec:
        """Return the x encoding; only the last panel has labels."""
        axis: Spec = {"labels": labels, "title": None, "tickCount": 12, "ticks": labels}
        if labels:
            axis |= {"title": self.say("seconds since the start")}
            if self.end_s >= 10:
                axis["format"] = "d"
        scale = {"domain": [0, self.end_s], "nice": False}
        return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


class Timeline:
    """What happened when: the requests of a run with its stages, warm-up and samples."""

    def __init__(self, run: st.SavedRun, most: int = MOST_POINTS, say: Sentences = ENGLISH) -> None:
        self.run, self.most, self.say = run, most, say
        self.sent = [r for r in run.results if r.sent_ns is not None and r.end_ns is not None]
        last = max((cast(int, r.end_ns) for r in self.sent), default=0)
        self.axis = Axis(last / 1e9, say)
        self.stages: Sequence[Mapping[str, Any]] = run.aggregate["stages"]
        self.colours: dict[int, str] = {}
        levels = sorted({stage["concurrent"] for stage in self.stages})
        ramp = level_tokens(min(len(levels), MOST_LEVELS)) if levels else []
        for stage in self.stages:
            place = levels.index(stage["concurrent"]) * len(ramp) // len(levels)
            self.colours[stage["stage"]] = ramp[place]

    def bins(self, least_s: float) -> tuple[float, int]:
        """Return how wide a bin is, and how many there are."""
        wide = least_s
        if self.axis.end_s < 20 * least_s:
            wide = 10.0 ** math.floor(math.log10(self.axis.end_s / 20))
        for step in itertools.cycle((2, 2.5, 2)):
            if self.axis.end_s / wide <= MOST_BINS:
                break
            wide *= step
        return wide, max(math.ceil(self.axis.end_s / wide), 1)

    def in_flight(self) -> tuple[float, list[float]]:
        """Return the mean number of requests in flight in each bin."""
        wide, count = self.bins(0.5)
        spans = [(cast(int, r.sent_ns) / 1e9, cast(int, r.end_ns) / 1e9, 1.0) for r in self.sent]
        return wide, [busy / wide for busy in _spread(spans, wide, count, weigh=True)]

    def tokens_per_s(self) -> tuple[float, list[float]]:
        """Return the tokens/s of each bin; an answer's are spread evenly from first to last."""
        wide, count = self.bins(1.0)
        spans = []
        for r in self.sent:
            if r.ok and r.token:
                first = r.sent_ns if r.first_ns is None else r.first_ns
                spans.append((cast(int, first) / 1e9, cast(int, r.end_ns) / 1e9, float(r.token)))
        return wide, [tokens / wide for tokens in _spread(spans, wide, count, weigh=False)]

    def borders(self) -> list[dict[str, Any]]:
        """Return where each level begins."""
        begun = [stage for stage in self.stages if stage["window_ms"]]
        if len(begun) > 20:
            return []
        return [
            {
                "x": _seconds(stage["window_ms"][0]),
                "text": self.say("{level} at once", level=stage["concurrent"]),
            }
            for stage in begun
        ]

    def warm_up_s(self) -> float | None:
        """Return when the warm-up ended: with the first measured request."""
        if not any((self.run.meta.get("warmup") or {}).values()):
            return None
        first = min((cast(int, r.sent_ns) for r in self.sent), default=0)
        return first / 1e9 or None

    def ground(self, *, named: bool) -> list[Spec]:
        """Return what lies behind each panel: warm-up and the levels' borders."""
        layers, x = list[Spec](), self.axis.encoding(labels=False)
        warm = self.warm_up_s()
        if warm:
            grey = {"type": "rect", "color": token("ink3"), "opacity": 0.13}
            layers.append(_layer([{"x": 0, "x2": warm}], grey, x=x, x2={"field": "x2"}))
        borders = self.borders()
        if borders:
            rule = {"type": "rule", "color": token("rule"), "strokeWidth": 1}
            layers.append(_layer(borders, rule, x=x))
        if borders and named:
            kept, last = list[dict[str, Any]](), -math.inf
            for border in borders:
                if (border["x"] - last) / self.axis.end_s > 0.07:
                    kept.append(border)
                    last = border["x"]
            text = {"align": "left", "dx": 3, "dy": -5, "baseline": "bottom", "fontSize": 12}
            layers += _halo(kept, {**text, "color": token("ink3")}, x=x, y={"value": 0})
        return layers


def _spread(
    spans: Iterable[tuple[float, float, float]], wide: float, count: int, *, weigh: bool
) -> list[float]:
    """Spread amounts evenly over spans of time, and add up each bin.

    `weigh`: the amount is one a second, else it is that of the whole span.
    """
    # The integral of all spans at each border is linear between its ends: sums of the ends suffice.
    starts, ends = list[tuple[float, float]](), list[tuple[float, float]]()
    bins = [0.0] * count
    for start, end, amount in spans:
        if end - start < 1e-9:
            if not weigh:
                bins[min(int(end / wide), count - 1)] += amount
            continue
        rate = amount if weigh else amount / (end - start)
        starts.append((start, rate))
        ends.append((end, rate))
    starts.sort()
    ends.sort()
    before = 0.0
    sums = [_integral(starts), _integral(ends)]
    for place in range(count):
        at = (place + 1) * wide
        total = sums[0](at) - sums[1](at)
        bins[place] += max(total - before, 0.0)
        before = total
    return bins


def _integral(begins: Sequence[tuple[float, float]]) -> Any:
    """Return the function of time that says how much came of rates that begin at these times."""
    times = [time for time, _ in begins]
    rates = [0.0, *itertools.accumulate(rate for _, rate in begins)]
    weighted = [0.0, *itertools.accumulate(time * rate for time, rate in begins)]

    def until(at: float) -> float:
        place = bisect.bisect_right(times, at)
        return rates[place] * at - weighted[place]

    return until


def sample(results: Sequence[st.Result], keep: Sequence[st.Result], most: int) -> list[st.Result]:
    """Return at most so many results in their order, those to keep among them."""
    if len(results) <= most:
        return list(results)
    kept = {id(result) for result in keep[:most]}
    rest = [result for result in results if id(result) not in kept]
    room = most - len(kept)
    kept |= {id(rest[place * len(rest) // room]) for place in range(room)}
    return [result for result in results if id(result) in kept]


def _extremes(results: Sequence[st.Result], count: int = 50) -> list[st.Result]:
    """Return the failures, and the results with the largest and smallest TTFT and E2E."""
    found = [result for result in results if not result.ok][: MOST_POINTS // 2]
    for metric in ("ttft_ms", "time_ms"):
        known = [result for result in results if getattr(result, metric) is not None]
        found += heapq.nlargest(count, known, key=lambda r: cast(float, getattr(r, metric)))
        found += heapq.nsmallest(count, known, key=lambda r: cast(float, getattr(r, metric)))
    return found


def sampled_words(shown: int, of: int, say: Sentences) -> str:
    """Say that not all points are shown."""
    if shown >= of:
        return ""
    text = " · {shown} of {total} shown, all extremes kept"
    return say(text, shown=say.count(shown), total=say.count(of))


def over_time(timeline: Timeline, title: str, limit_ms: float | None) -> Chart:
    """Draw latency, load, speed and the machine over one time axis."""
    say = timeline.say
    if not timeline.sent:
        return Chart("over_time", say("No chart: no request reached the server."))
    first, note = _latency_panel(timeline, limit_ms)
    panels = [first]
    busy_wide, busy = timeline.in_flight()
    what = say("mean of {time}", time=say.own(f"{busy_wide:g}{NARROW}s"))
    panels.append(_area(timeline, busy_wide, busy, say("Requests in flight"), what, "ink3"))
    wide, speed = timeline.tokens_per_s()
    if any(speed):
        each = say.own(f"{wide:g}{NARROW}s")
        what = say("all users, each {time} · ↑ more is better", time=each)
        panels.append(_area(timeline, wide, speed, say("Tokens/s"), what, "a"))
    panels += _sampled_panels(timeline)
    panels = [
        panel._replace(spec=_with_axis(panel.spec, timeline.axis, last=panel is panels[-1]))
        for panel in panels
    ]
    rows = [
        (
            say.own(f"{place * wide:g}"),
            say.number(value),
            say.number(busy[min(int(place * wide / busy_wide), len(busy) - 1)]),
        )
        for place, value in enumerate(speed)
    ]
    legend = [Key(say("failed request, when sent"), token("bad"), "cross")]
    timeouts = any(r.status == "timeout" for r in timeline.sent)
    if timeouts:
        legend.append(Key(say("timeout, at the time waited"), token("bad"), "triangle"))
    if not any(not r.ok for r in timeline.sent):
        legend = []
    if timeline.warm_up_s():
        legend.append(Key(say("warm-up, left out of every number"), token("ink3"), "shade"))
    return Chart(
        "over_time",
        title,
        note,
        tuple(panels),
        (say("second"), say("tokens/s ↑"), say("in flight")),
        tuple(rows),
        legend=tuple(legend),
    )


def _with_axis(spec: Spec, axis: Axis, *, last: bool) -> Spec:
    """Give every layer the shared time axis; the last panel writes it."""
    for layer in spec["layer"]:
        encoding = layer["encoding"]
        if encoding.get("x", {}).get("field"):
            encoding["x"] = axis.encoding(labels=last, field=encoding["x"]["field"])
        if encoding.get("y", {}).get("field") and "axis" in encoding["y"]:
            encoding["y"]["axis"] |= {"minExtent": 56, "maxExtent": 56}
    return spec


def _latency_panel(timeline: Timeline, limit_ms: float | None) -> tuple[Panel, str]:
    """Draw each request's TTFT, without streaming its E2E; failures in a strip at the top."""
    say = timeline.say
    measured = [r for r in timeline.sent if r.ok and r.ttft_ms is not None]
    what, metric = "First token", "ttft_ms"
    if not measured:
        measured, what, metric = [r for r in timeline.sent if r.ok], "Whole answer", "time_ms"
    shown = sample(measured, _extremes(measured), timeline.most)
    failed = [r for r in timeline.sent if not r.ok and r.status != "cancelled"]
    crosses = sample(failed, (), timeline.most // 2)
    limit = Limit.of(
        limit_ms if metric == "ttft_ms" else None,
        max((cast(float, getattr(r, metric)) for r in shown), default=0.0),
        say,
    )
    scale = Scale.of([*(cast(float, getattr(r, metric)) for r in shown), *limit.drawn])
    scale = scale.with_strip() if crosses else scale
    x, y = _x(), scale.encoding("y")
    points = [
        {
            "x": _seconds(cast(int, r.sent_ns) / 1e6),
            "y": _rounded(getattr(r, metric)),
            "c": timeline.colours.get(r.stage, token("a")),
            "t": say("request {n}: {what}", n=r.index, what=say.ms(getattr(r, metric))),
        }
        for r in shown
    ]
    dot = {"type": "point", "size": 18, "opacity": 0.75}
    layers = timeline.ground(named=True)
    layers.append(_layer(points, dot, x=x, y=y, color=_colour(), tooltip=_tip()))
    for at_ms in limit.drawn:
        layers += _limit(at_ms, y, scale, vertical=False, say=say)
    layers += _failures(crosses, x, say)
    about = say("All panels share the time axis") + sampled_words(len(shown), len(measured), say)
    if not shown:
        note = say("each request a cross, when sent")
        return Panel(_view(24, *layers), say("Failures"), note), about
    note = say("each request a point") + scale.words(say) + limit.words + say(" · ↓ less is better")
    return Panel(_view(150, *layers), say(what), note), about


def _failures(failed: Sequence[st.Result], x: Spec, say: Sentences) -> list[Spec]:
    """Draw failures in a strip at the top: a cross, for a timeout a hollow triangle."""
    layers = list[Spec]()
    for shape, is_timeout in (("cross", False), ("triangle-up", True)):
        points = [
            {
                "x": _seconds(cast(int, r.sent_ns) / 1e6),
                "t": say(
                    "request {n}: {what}, after {time}",
                    n=r.index,
                    what=r.error.kind if r.error else r.status,
                    time=say.ms(r.time_ms),
                ),
            }
            for r in failed
            if (r.status == "timeout") == is_timeout
        ]
        if not points:
            continue
        mark: Spec = {"type": "point", "shape": shape, "filled": False, "size": 40, "opacity": 1}
        mark |= {"stroke": token("bad"), "strokeWidth": 2.4 if not is_timeout else 1.6}
        if not is_timeout:
            mark["shape"] = "M-1,-1L1,1M-1,1L1,-1"
        layers.append(_layer(points, mark, x=x, y={"value": 5}, tooltip=_tip()))
    return layers


def _area(
    timeline: Timeline, wide: float, values: Sequence[float], label: str, note: str, colour: str
) -> Panel:
    steps = [
        {"x": round(place * wide, 3), "y": _rounded(value)} for place, value in enumerate(values)
    ]
    steps.append({"x": round(min(len(values) * wide, timeline.axis.end_s), 3), "y": steps[-1]["y"]})
    return Panel(_area_spec(timeline, steps, colour, max(values, default=0.0)), label, note)


def _area_spec(
    timeline: Timeline, steps: Sequence[Mapping[str, Any]], colour: str, top: float
) -> Spec:
    mark: Spec = {"type": "area", "interpolate": "step-after", "color": token(colour)}
    mark |= {"opacity": 1, "fillOpacity": 0.22}
    mark["line"] = {"color": token(colour), "strokeWidth": 1.5, "interpolate": "step-after"}
    scale = {"domain": [0, top or 1], "nice": True}
    y = {**_x("y"), "stack": None, "scale": scale, "axis": {"title": None, "tickCount": 3}}
    return _view(62, *timeline.ground(named=False), _layer(steps, mark, x=_x(), y=y))


class Lived(NamedTuple):
    """What is drawn of one run over time, beside others."""

    label: str
    timeline: Timeline
    colour: str  # a token's name
    dash: tuple[int, ...] = ()


SHAPES = ("circle", "square", "triangle-up")


def overlaid_time(name: str, runs: Sequence[Lived], say: Sentences = ENGLISH) -> Chart:
    """Draw several runs over one time axis, each from its own start."""
    runs = [run for run in runs if run.timeline.sent]
    if len(runs) < 2:
        return Chart(name, say("No chart: fewer than two of the runs reached their server."))
    axis = Axis(max(run.timeline.axis.end_s for run in runs), say)
    panels = [_overlaid_latency(runs, say)]
    lines = (
        ("Requests in flight", "mean", Timeline.in_flight),
        ("Tokens/s", "all users · ↑ more is better", Timeline.tokens_per_s),
    )
    for label, note, measure in lines:
        panels.append(Panel(_overlaid_lines(runs, measure), say(label), say(note)))
    panels = [
        panel._replace(spec=_with_axis(panel.spec, axis, last=panel is panels[-1]))
        for panel in panels
    ]
    rows = [
        (
            run.label,
            say.count(len(run.timeline.sent)),
            say.count(sum(not r.ok for r in run.timeline.sent)),
            say.ms(run.timeline.axis.end_s * 1000),
            say.number(run.timeline.run.aggregate["tokens_per_s"]),
        )
        for run in runs
    ]
    asked = {len(run.timeline.sent) for run in runs}
    took = [f"{run.label} {say.ms(run.timeline.axis.end_s * 1000)}" for run in runs]
    few, many, listed = say.count(min(asked)), say.count(max(asked)), say.listed(took)
    title = say("{count} requests take {times}", count=many, times=listed)
    if len(asked) > 1:
        text = "The runs, of {few} to {many} requests, take {times}"
        title = say(text, few=few, many=many, times=listed)
    heads = tuple(map(say, ("run", "requests", "failed", "duration ↓", "tokens/s ↑")))
    note = say("Each run from its own start; all panels share the time axis")
    return Chart(name, title, note, tuple(panels), heads, tuple(rows))


def _overlaid_latency(runs: Sequence[Lived], say: Sentences) -> Panel:
    """Draw the first tokens of several runs, else their whole answers, and their failures."""
    metric, what = "ttft_ms", "First token"
    if not any(r.ttft_ms is not None for run in runs for r in run.timeline.sent if r.ok):
        metric, what = "time_ms", "Whole answer"
    points = list[list[dict[str, Any]]]()
    layers, left_out = list[Spec](), 0
    for run in runs:
        measured = [r for r in run.timeline.sent if r.ok and getattr(r, metric) is not None]
        shown = sample(measured, _extremes(measured), run.timeline.most // len(runs))
        left_out += len(measured) - len(shown)
        points.append([
            {
                "x": _seconds(cast(int, r.sent_ns) / 1e6), "y": _rounded(getattr(r, metric)),
                "t": say(
                    "{run}, request {n}: {what}",
                    run=run.label, n=r.index, what=say.ms(getattr(r, metric)),
                ),
            }
            for r in shown
        ])  # fmt: skip
    scale = Scale.of(point["y"] for part in points for point in part)
    if any(not r.ok for run in runs for r in run.timeline.sent):
        scale = scale.with_strip()
    x, y = _x(), scale.encoding("y")
    for run, part, shape in zip(runs, points, SHAPES, strict=False):
        mark = {"type": "point", "shape": shape, "size": 22, "opacity": 0.75, "filled": True}
        mark["color"] = token(run.colour)
        layers.append(_layer(part, mark, x=x, y=y, tooltip=_tip()))
        failed = [r for r in run.timeline.sent if not r.ok and r.status != "cancelled"]
        layers += _failures(sample(failed, (), run.timeline.most // 4), x, say)
    shapes = ", ".join(
        f"{run.label} {say(shape)}" for run, shape in zip(runs, _SHAPE_WORDS, strict=False)
    )
    total = sum(map(len, points)) + left_out
    note = shapes + scale.words(say) + sampled_words(total - left_out, total, say)
    return Panel(_view(150, *layers), say(what), note + say(" · ↓ less is better"))


_SHAPE_WORDS = ("round", "square", "triangle")


def _overlaid_lines(
    runs: Sequence[Lived], measure: Callable[[Timeline], tuple[float, list[float]]]
) -> Spec:
    """Draw a quantity of several runs as steps, a line a run."""
    lines, tops = list[tuple[list[Spec], Spec]](), list[float]()
    for run in runs:
        wide, values = measure(run.timeline)
        steps = [{"x": round(at * wide, 3), "y": _rounded(v)} for at, v in enumerate(values)]
        end = round(run.timeline.axis.end_s, 3)
        steps += [{"x": end, "y": steps[-1]["y"]}, {"x": end, "y": 0}]
        tops.append(max(values, default=0.0))
        mark: Spec = {"type": "line", "interpolate": "step-after", "color": token(run.colour)}
        mark |= {"strokeWidth": 1.5, "strokeDash": list(run.dash) or [1, 0]}
        lines.append((steps, mark))
    y = {**_x("y"), "scale": {"domain": [0, max(tops) or 1], "nice": True}}
    y["axis"] = {"title": None, "tickCount": 3}
    return _view(80, *(_layer(steps, mark, x=_x(), y=y) for steps, mark in lines))


_SAMPLED = (
    ("cpu_percent", "CPU", "% of the machine, this program included", 1.0, "quality"),
    ("gpu_busy", "GPU", "% busy, all GPUs", 1.0, "quality"),
    ("wall_w", "Power", "watts at the wall · ↓ less is better", 1.0, "b"),
    ("gpu_w", "GPU power", "watts · ↓ less is better", 1.0, "b"),
    ("dcgm_gpu_w", "GPU power", "watts, from the server · ↓ less is better", 1.0, "b"),
    ("cpu_package_w", "CPU power", "watts · ↓ less is better", 1.0, "b"),
)


def _sampled_panels(timeline: Timeline) -> list[Panel]:
    """Draw what the machine did: CPU, GPU, watts, as far as they were sampled."""
    samples = timeline.run.samples
    if not samples:
        return []
    panels, columns = list[Panel](), dict(samples["columns"])
    busy = re.compile(r"gpu\d+_util_percent")
    gpus = [column for name, column in columns.items() if busy.fullmatch(name)]
    if gpus:
        rows = [[value for value in row if value is not None] for row in zip(*gpus, strict=True)]
        columns["gpu_busy"] = [statistics.fmean(row) if row else None for row in rows]
    for name, label, note, factor, colour in _SAMPLED:
        column = columns.get(name)
        if column is None or any(panel.label == timeline.say(label) for panel in panels):
            continue
        known = [
            {"x": _seconds(at), "y": _rounded(value * factor)}
            for at, value in zip(samples["t_ms"], column, strict=False)
            if value is not None and 0 <= at / 1000 <= timeline.axis.end_s
        ]
        every = math.ceil(len(known) / (4 * MOST_BINS)) or 1
        known = known[::every]
        if len(known) < 2:
            continue
        top = max(cast(float, point["y"]) for point in known)
        top = 100.0 if note.startswith("%") else top
        spec = _area_spec(timeline, known, colour, top)
        panels.append(Panel(spec, timeline.say(label), timeline.say(note)))
    return panels


# === Lanes ===


def lanes(timeline: Timeline) -> Chart:
    """Draw each request as a segment on the first lane that is free."""
    name, say = "lanes", timeline.say
    sent = sorted(timeline.sent, key=lambda r: cast(int, _begin(r)))
    if len(sent) < 2:
        return Chart(name, "")
    kept, note = sent[: timeline.most // 2], ""
    if len(kept) < len(sent):
        text = " · the first {shown} of {total} requests"
        note = say(text, shown=say.count(len(kept)), total=say.count(len(sent)))
    placed, count = _placed(kept)
    shown = {lane: lane for lane in range(count)}
    if count > MOST_LANES:
        places = [round(i * (count - 1) / (MOST_LANES - 1)) for i in range(MOST_LANES)]
        shown = {lane: place for place, lane in enumerate(places)}
        text = " · {shown} of {total} lanes shown"
        note += say(text, shown=MOST_LANES, total=say.count(count))
    segments: dict[str, list[Spec]] = {"queue": [], "wait": [], "write": [], "fail": []}
    waited = total = 0
    for result, lane in placed:
        sent_ns, end_ns = cast(int, result.sent_ns), cast(int, result.end_ns)
        first_ns = result.first_ns
        if result.ok and first_ns is not None:
            waited, total = waited + first_ns - sent_ns, total + end_ns - sent_ns
        if lane in shown:
            _add_segments(segments, result, shown[lane] + 1, say)
    end_s = max(cast(int, result.end_ns) for result, _ in placed) / 1e9
    spec = _lanes_spec(segments, len(shown), Axis(end_s, say))
    counts = {"requests": say.count(len(sent)), "lanes": say.count(count)}
    title = say("{requests} requests on {lanes} lanes", **counts)
    if total:
        text = "{share} of the time is waiting for the first token, the rest is generating"
        title = say(text, share=say.share(waited / total))
    legend = [Key(say("waiting for the first token"), token("wait"), "thin")]
    legend.append(Key(say("generating"), token("a"), "box"))
    if not total:
        legend = [Key(say("from sent to the end"), token("wait"), "thin")]
    if segments["queue"]:
        legend.insert(0, Key(say("queued here"), token("edge"), "hollow"))
    if segments["fail"]:
        legend.append(Key(say("failed"), token("bad"), "cross"))
    rows = [
        (
            f"{result.index}",
            f"{lane + 1}",
            say.number(cast(int, result.sent_ns) / 1e9),
            say.ms(result.ttft_ms),
            say.ms(result.time_ms),
            result.status,
        )
        for result, lane in placed[:MOST_ROWS]
    ]
    more = _first_rows(len(placed), say)
    about = "Each request is one segment, from sent to its last token, on the first free lane"
    return Chart(
        name,
        title,
        say(about) + note,
        (Panel(spec),),
        (say("request"), say("lane"), say("sent, s"), "TTFT", "E2E", say("status")),
        tuple(rows),
        more,
        tuple(legend),
    )


def _begin(result: st.Result) -> int | None:
    """Return when a request began to wait: in open loop, when it was due."""
    if result.scheduled_ns is None:
        return result.sent_ns
    return min(result.scheduled_ns, cast(int, result.sent_ns))


def _placed(results: Sequence[st.Result]) -> tuple[list[tuple[st.Result, int]], int]:
    """Return each result with its lane, the first free one, and how many lanes there are."""
    free, busy, count = list[int](), list[tuple[int, int]](), 0
    placed = list[tuple[st.Result, int]]()
    for result in results:
        begin = cast(int, _begin(result))
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else count
        count = max(count, lane + 1)
        heapq.heappush(busy, (cast(int, result.end_ns), lane))
        placed.append((result, lane))
    return placed, count


def _add_segments(
    segments: dict[str, list[Spec]], result: st.Result, lane: int, say: Sentences
) -> None:
    begin, sent, end = (
        _seconds(cast(int, ns) / 1e6) for ns in (_begin(result), result.sent_ns, result.end_ns)
    )
    times = f"TTFT {say.ms(result.ttft_ms)}, E2E {say.ms(result.time_ms)}"
    tip = say("request {n}: {what}", n=result.index, what=times)
    first = end if result.first_ns is None else _seconds(result.first_ns / 1e6)

    def add(kind: str, start: float, stop: float, half: float) -> None:
        if stop > start:
            segment = {"x": start, "x2": stop, "y": lane - half, "y2": lane + half, "t": tip}
            segments[kind].append(segment)

    add("queue", begin, sent, 0.34)
    add("wait", sent, first, 0.18)
    add("write", first, end, 0.42)
    if not result.ok:
        why = result.error.kind if result.error else result.status
        tip = say("request {n}: {what}", n=result.index, what=why)
        segments["fail"].append({"x": sent, "y": lane, "t": tip})


def _lanes_spec(segments: Mapping[str, Sequence[Spec]], count: int, axis: Axis) -> Spec:
    x = axis.encoding(labels=True)
    ticks = sorted({1, *range(0, count + 1, max(1, math.ceil(count / 4))), count} - {0})
    y_axis: Spec = {"title": None, "values": ticks, "grid": False, "format": "d"}
    y_axis |= {"minExtent": 56, "maxExtent": 56}
    scale = {"domain": [count + 0.5, 0.5], "nice": False, "zero": False}
    y = {**_x("y"), "scale": scale, "axis": y_axis}
    ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
    marks: dict[str, Spec] = {
        "queue": {"type": "rect", "filled": False, "stroke": token("edge"), "strokeWidth": 1},
        "wait": {"type": "rect", "color": token("wait")},
        "write": {"type": "rect", "color": token("a"), "stroke": token("bg"), "strokeWidth": 0.75},
    }
    layers = [
        _layer(segments[kind], mark, x=x, y=y, tooltip=_tip(), **ends)
        for kind, mark in marks.items()
        if segments[kind]
    ]
    if segments["fail"]:
        cross: Spec = {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "filled": False}
        cross |= {"size": 40, "stroke": token("bad"), "strokeWidth": 2.4, "opacity": 1}
        layers.append(_layer(segments["fail"], cross, x=x, y=y, tooltip=_tip()))
    return _view(max(44, min(count * 20, 420)), *layers)


# === Prompt and answer length ===


class Line(NamedTuple):
    """A straight line through points, with its slope's 95 % interval."""

    slope: float
    low: float
    high: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line | None:
        """Return the least-squares line; None where the points do not make one."""
        xs = [x for x, _ in points]
        if len(points) < 8 or len(set(xs)) < 3:
            return None
        slope, cut = statistics.linear_regression(xs, [y for _, y in points])
        mean = statistics.fmean(xs)
        spread = math.fsum((x - mean) ** 2 for x in xs)
        rest = math.fsum((y - cut - slope * x) ** 2 for x, y in points)
        half = 2.1 * math.sqrt(rest / (len(points) - 2) / spread)
        return cls(slope, slope - half, slope + half)

    @property
    def rises(self) -> bool:
        """Whether the slope is beyond chance above 0."""
        return self.low > 0


def by_length(
    name: str,
    groups: Sequence[tuple[str, str, Sequence[st.Result]]],
    *,
    prompt: bool,
    most: int = MOST_POINTS,
    say: Sentences = ENGLISH,
) -> Chart:
    """Draw TTFT against the prompt's tokens, or E2E against the answer's; a group a level."""
    measured = [
        (label, colour, result, cast(float, result.ttft_ms if prompt else result.time_ms))
        for label, colour, results in groups
        for result in results
        if result.ok and (result.ttft_ms if prompt else result.time_ms) is not None
    ]
    cached = prompt and all(result.cached_tokens is not None for _, _, result, _ in measured)
    found = list[tuple[str, str, st.Result, float, float]]()
    for label, colour, result, ms in measured:
        count = result.prompt_tokens if prompt else result.token
        if count is not None:
            count -= cast(int, result.cached_tokens) if cached else 0
            found.append((label, colour, result, float(count), ms))
    if len({x for *_, x, _ in found}) < 2:
        why = "No chart: fewer than two answer lengths are known."
        if prompt:
            why = "No chart: fewer than two prompt lengths are known."
        return Chart(name, say(why))
    asked = [result for _, _, result, _, _ in found]
    kept = {id(result) for result in sample(asked, _extremes(asked), most)}
    points = [
        {
            "x": x, "y": _rounded(ms), "c": colour,
            "t": say(
                "request {n}: {count} tokens, {time}",
                n=r.index, count=say.count(round(x)), time=say.ms(ms),
            ),
        }
        for _, colour, r, x, ms in found
        if id(r) in kept
    ]  # fmt: skip
    axis_title = say("prompt tokens" if prompt else "answer tokens")
    if cached:
        axis_title = say("prompt tokens that were not in the cache")
    x = {**_x(), "scale": {"nice": True}, "axis": {"title": axis_title, "tickCount": 6}}
    y = Scale(0.0, max(ms for *_, ms in found) * 1.04 or 1, False).encoding("y")
    dot = {"type": "point", "size": 24, "opacity": 0.75}
    spec = _view(230, _layer(points, dot, x=x, y=y, color=_colour(), tooltip=_tip()))
    slowest = sorted(found, key=lambda item: -item[4])[:MOST_ROWS]
    rows = tuple(
        (str(r.index), label, say.count(round(x)), say.ms(ms)) for label, _, r, x, ms in slowest
    )
    metric = "TTFT" if prompt else "E2E"
    more = say("The slowest {count}; export has all.", count=MOST_ROWS)
    more = more if len(found) > MOST_ROWS else ""
    note = say("{metric} against {tokens} · ↓ less is better", metric=metric, tokens=axis_title)
    note += sampled_words(len(points), len(found), say)
    title = _length_title(groups, found, say, prompt=prompt, cached=cached)
    headers = (say("request"), say("at"), say("tokens"), metric)
    return Chart(name, title, note, (Panel(spec),), headers, rows, more)


def _length_title(
    groups: Sequence[tuple[str, str, Sequence[st.Result]]],
    found: Sequence[tuple[str, str, st.Result, float, float]],
    say: Sentences,
    *,
    prompt: bool,
    cached: bool,
) -> str:
    """Say what a token more costs at the lowest and the highest level."""
    lines = {
        label: Line.through([(x, ms) for name, _, _, x, ms in found if name == label])
        for label, _, _ in groups
    }
    known = [(label, line) for label, line in lines.items() if line is not None and line.rises]
    if not known:
        if prompt:
            return say("No rise of TTFT with the length of the prompt is beyond chance")
        return say("No rise of E2E with the length of the answer is beyond chance")
    texts = [
        say("{time} at {label}", time=say.ms(line.slope), label=label)
        if label
        else say.ms(line.slope)
        for label, line in dict((known[0], known[-1])).items()
    ]
    title = "Each further token adds {times} to an answer"
    if prompt:
        title = "Each prompt token adds {times} to the first token"
    if cached:
        title = "Each uncached prompt token adds {times} to the first token"
    return say(title, times=say.listed(texts))


# === Quality ===


def quality(categories: Mapping[str, Mapping[str, Any]], say: Sentences = ENGLISH) -> Chart:
    """Draw the right answers by category, the best first, with their intervals."""
    name = "quality"
    graded = {key: part for key, part in categories.items() if part["of_answers"]["n"]}
    if not graded:
        return Chart(name, "")
    whole = sum(part["graded"] for part in graded.values())
    shares = {key: part["of_answers"]["correct_share"] for key, part in graded.items()}
    if not any(shares.values()):
        why = say("No chart: all {count} graded answers are wrong.", count=say.count(whole))
        return Chart(name, why)
    if all(share == 1 for share in shares.values()):
        why = say("No chart: all {count} graded answers are right.", count=say.count(whole))
        return Chart(name, why)
    ranked = sorted(graded, key=lambda key: (-shares[key], key))
    points, rows = list[Spec](), list[tuple[str, ...]]()
    for key in ranked[:40]:
        part = graded[key]["of_answers"]
        low, high = part["correct_ci95"]
        text, shown = say.share(shares[key]), st.printable(key, 60)
        interval, n = say.share(low, high), say.count(part["n"])
        tip = "{what}: {value}, 95 %: {interval}, of {n}"
        points.append({
            "k": shown, "x": _rounded(shares[key]), "lo": _rounded(low), "hi": _rounded(high),
            "text": text, "t": say(tip, what=shown, value=text, interval=interval, n=n),
        })  # fmt: skip
        rows.append((shown, text, interval, n, say.count(graded[key]["ungraded"])))
    x = {**_x(), "scale": {"domain": [0, 1]}}
    x["axis"] = {"title": None, "format": ".0%", "tickCount": 5}
    order = [point["k"] for point in points]
    y = {"field": "k", "type": "nominal", "sort": order, "axis": {"title": None, "grid": False}}
    bar = {"type": "rule", "strokeWidth": 7, "opacity": 0.3, "color": token("quality")}
    dot = {"type": "point", "color": token("quality"), "size": 60, "opacity": 1}
    spec = _view(
        28 * len(points) + 8,
        _layer(points, bar, y=y, x=_x("lo"), x2={"field": "hi"}),
        _layer(points, dot, y=y, x=x, tooltip=_tip()),
        *_halo(points, {"dy": -11, "fontWeight": "bold", "fontSize": 11}, y=y, x=x),
    )
    return Chart(
        name,
        _quality_title(ranked, graded, say),
        say("Right answers by category, 95 % interval · → more is better"),
        (Panel(spec),),
        tuple(map(say, ("category", "right ↑", "95 % interval", "graded", "not graded"))),
        tuple(rows),
    )


def _quality_title(
    order: Sequence[str], graded: Mapping[str, Mapping[str, Any]], say: Sentences
) -> str:
    """Say the range, and whether any two categories can be told apart."""
    first, last = order[0], order[-1]
    best, worst = (graded[key]["of_answers"] for key in (first, last))
    names = [st.printable(key, 40) for key in (first, last)]
    if len(order) == 1:
        text = "{share} of the graded answers are right"
        return say(text, share=say.share(best["correct_share"]))
    shares = {"low": say.share(worst["correct_share"]), "high": say.share(best["correct_share"])}
    span = {**shares, "worst": names[1], "best": names[0]}
    intervals = [graded[key]["of_answers"]["correct_ci95"] for key in order]
    if max(low for low, _ in intervals) <= min(high for _, high in intervals):
        text = "From {low} ({worst}) to {high} ({best}), but no category can be told from another"
        return say(text, **span)
    text = "From {low} ({worst}) to {high} ({best}): the best and the worst differ beyond chance"
    return say(text, **span)


# === While a run goes on ===


class LiveText(NamedTuple):
    """The words in a live chart, in the reader's language."""

    seconds: str = "seconds since the start"
    at_once: str = "{} at once"
    limit: str = "limit {}"


class LivePanel(NamedTuple):
    """A panel that is filled anew each second: its shape seldom changes, so that drawing is cheap.

    `spec` names its data and takes the ends of its scales from parameters; `values` are the rows
    of each, `ends` the parameters' values.
    """

    name: str  # "first_token", "each_token", "tokens", "in_flight", "queued", "cpu", "power"
    spec: Spec
    values: dict[str, Sequence[Spec]]
    ends: dict[str, float]
    log: bool = False


class LiveTime:
    """What all panels of a running test share: the time axis, and where each level began."""

    def __init__(self, view: Mapping[str, Any], text: LiveText) -> None:
        self.view, self.text = view, text
        series = view["series"]
        ended_s = max((at for at, *_ in series["answers"]), default=0.0)
        elapsed_s = view["elapsed_s"] or 0.0
        # Of a run that goes on for hours what has come would else be a stroke at the left.
        to_come_s = min(view["eta_s"] or 0.0, 3 * elapsed_s + 30)
        self.axis = Axis(_round_end(max(ended_s, elapsed_s + to_come_s, 1.0)))
        levels = sorted({stage["level"] for stage in view["stages"]})
        shown = level_tokens(min(len(levels), MOST_LEVELS)) if levels else [token("a")]
        self.colours = {
            level: shown[place * len(shown) // len(levels)] for place, level in enumerate(levels)
        }

    def ground(self, *, named: bool) -> list[Spec]:
        """Return the borders of the levels, with their names in the first panel."""
        x, begun = self.axis.encoding(labels=False), dict[int, float]()
        for at, _, level in self.view["series"]["answers"]:
            begun[level] = min(begun.get(level, math.inf), at)
        if len(self.view["stages"]) < 2 or len(begun) > 20:
            return []
        borders = [
            {"x": round(at, 2), "text": self.text.at_once.format(level)}
            for level, at in sorted(begun.items(), key=lambda item: item[1])
        ]
        rule = {"type": "rule", "color": token("rule"), "strokeWidth": 1}
        layers = [_layer(borders, rule, x=x)]
        if named:
            mark = {"align": "left", "dx": 3, "dy": -5, "baseline": "bottom", "fontSize": 12}
            kept = borders[:1]
            for border in borders[1:]:
                if (border["x"] - kept[-1]["x"]) / self.axis.end_s > 0.08:  # type: ignore[operator]
                    kept.append(border)
            layers += _halo(kept, {**mark, "color": token("ink3")}, x=x, y={"value": 0})
        return layers


def _round_end(end_s: float) -> float:
    """Return an end of the time axis that moves seldom: the next one of two digits."""
    step = 10.0 ** (math.floor(math.log10(end_s)) - 1)
    return math.ceil(end_s / (2 * step)) * 2 * step


def live(view: Mapping[str, Any], text: LiveText) -> list[LivePanel]:
    """Draw what a running test has measured so far, over one time axis; see `live.LiveRun.view`.

    At most 2,000 points a panel, as the view has them. The part that is still to come is empty.
    """
    time = LiveTime(view, text)
    series = view["series"]
    answers, failures = series["answers"], series["failures"]
    drawn = [("first_token", *_live_points(time, answers, "ttft_ms", 150, failures))]
    if series["tpot"]:
        drawn.append(("each_token", *_live_points(time, series["tpot"], "tpot_ms", 90)))
    columns = {
        "tokens": ("tokens_per_s", "a"),
        "in_flight": ("in_flight", "ink3"),
        "queued": ("queued", "wait"),
        "cpu": ("cpu_percent", "quality"),
        "power": ("watts", "b"),
    }
    for name, (key, colour) in columns.items():
        column = series.get(key) or ()
        known = [
            {"x": round(at, 2), "y": _rounded(value)}
            for at, value in zip(series["t_s"], column, strict=False)
            if value is not None
        ]
        if any(row["y"] for row in known):
            drawn.append((name, _live_area(time, known, colour, name == "cpu"), False))
    panels = []
    for place, (name, spec, log) in enumerate(drawn):
        _with_axis(spec, time.axis, last=place == len(drawn) - 1)
        if place == len(drawn) - 1:
            for layer in spec["layer"]:
                if axis := layer["encoding"].get("x", {}).get("axis"):
                    axis["title"] = text.seconds
        panels.append(LivePanel(name, *_filled(spec), log))
    return panels


def _live_points(
    time: LiveTime, answers: Sequence[Any], metric: str, height: int, failures: Sequence[Any] = ()
) -> tuple[Spec, bool]:
    """Draw a metric of each answer when it was sent, and failures in a strip at the top."""
    slo = (time.view["config"] or {}).get("slo") or {}
    points = [
        {"x": round(at, 3), "y": _rounded(ms), "c": time.colours.get(level, token("a"))}
        for at, ms, level in answers
    ]
    values = [cast(float, point["y"]) for point in points]
    limit = Limit.of(slo.get(metric), max(values, default=0.0))
    scale = Scale.of([*values, *limit.drawn])
    if failures:
        scale = scale.with_strip()
    x, y = _x(), scale.encoding("y")
    dot = {"type": "point", "size": 18, "opacity": 0.75}
    named = metric == "ttft_ms"  # the first panel
    layers = [*time.ground(named=named), _layer(points, dot, x=x, y=y, color=_colour())]
    for at_ms in limit.drawn:
        drawn = _limit(at_ms, y, scale, vertical=False)
        for layer in drawn:
            for row in layer["data"]["values"]:
                row["text"] = time.text.limit.format(st.format_limit(at_ms))
        layers += drawn
    for shape, is_timeout in (("M-1,-1L1,1M-1,1L1,-1", False), ("triangle-up", True)):
        crosses = [
            {"x": round(at, 3)} for at, kind in failures if (kind == "timeout") == is_timeout
        ]
        mark: Spec = {"type": "point", "shape": shape, "filled": False, "size": 40, "opacity": 1}
        mark |= {"stroke": token("bad"), "strokeWidth": 1.6 if is_timeout else 2.4}
        if crosses:
            layers.append(_layer(crosses, mark, x=x, y={"value": 5}))
    spec = _view(height if points else 24, *layers)
    spec["padding"] = {**CONFIG["padding"], "top": 8}  # for a label at the very top
    return spec, scale.log and bool(points)


def _live_area(time: LiveTime, steps: list[Spec], colour: str, percent: bool) -> Spec:
    """Draw a quantity of each second as an area."""
    wide = steps[1]["x"] - steps[0]["x"] if len(steps) > 1 else 1.0
    steps = [*steps, {"x": steps[-1]["x"] + wide, "y": steps[-1]["y"]}]
    top = 100.0 if percent else max(cast(float, row["y"]) for row in steps) * 1.05
    mark: Spec = {"type": "area", "interpolate": "step-after", "color": token(colour)}
    mark |= {"opacity": 1, "fillOpacity": 0.22}
    mark["line"] = {"color": token(colour), "strokeWidth": 1.5, "interpolate": "step-after"}
    scale = {"domain": [0, top or 1], "nice": False}
    y = {**_x("y"), "stack": None, "scale": scale, "axis": {"title": None, "tickCount": 3}}
    return _view(62, *time.ground(named=False), _layer(steps, mark, x=_x(), y=y))


def _filled(spec: Spec) -> tuple[Spec, dict[str, Sequence[Spec]], dict[str, float]]:
    """Take the rows and the ends of the scales out of a specification, and name them in it."""
    values, ends = dict[str, Sequence[Spec]](), dict[str, float]()
    for place, layer in enumerate(spec["layer"]):
        name = f"rows{place}"
        values[name] = layer["data"]["values"]
        layer["data"] = {"name": name}
        for channel in ("x", "y"):
            encoding = layer["encoding"].get(channel, {})
            domain = encoding.get("scale", {}).get("domain")
            if domain is None or isinstance(domain[0], dict):  # layers share an encoding
                continue
            names = [f"{channel}_low", f"{channel}_high"]
            ends.update(zip(names, domain, strict=True))
            encoding["scale"] = {**encoding["scale"], "domain": [{"expr": n} for n in names]}
    # Without the values of now, so that the shape stays the same; who draws it sets them.
    spec["params"] = [{"name": name, "value": 1} for name in ends]
    return spec, values, ends


class TrendPoint(NamedTuple):
    """A run in the trend of its name."""

    date: str  # ISO 8601
    value: float
    low: float | None
    high: float | None
    text: str  # for its tooltip


def trend(points: Sequence[TrendPoint], *, kind: str, colour: str = "a") -> Spec:
    """Draw a figure of dated runs, each with its interval; `kind` is "ms", "share" or "rate"."""
    rows = [
        {"x": p.date, "y": _rounded(p.value), "lo": p.low, "hi": p.high, "t": p.text}
        for p in points
    ]
    top = max((p.value if p.high is None else p.high) for p in points)
    axis: Spec = {"title": None}
    if kind == "share":
        axis, top = {"title": None, "format": ".0%"}, 1 / 1.05
    elif kind == "ms":
        axis["labelExpr"] = _TIME_LABELS
    y = {**_x("y"), "scale": {"domain": [0, top * 1.05 or 1], "nice": False}, "axis": axis}
    when = {"title": None, "labelAngle": 0, "labelOverlap": True, "tickCount": 6}
    x = {"field": "x", "type": "temporal", "axis": when, "scale": {"padding": 12}}
    bar = {"type": "rule", "strokeWidth": 7, "opacity": 0.3, "color": token(colour)}
    line = {"type": "line", "strokeWidth": 1, "color": token("rule")}
    dot = {"type": "point", "color": token(colour), "size": 60, "opacity": 1}
    barred = [row for row in rows if row["lo"] is not None and row["hi"] is not None]
    return _view(
        180,
        _layer(rows, line, x=x, y=y),
        _layer(barred, bar, x=x, y=_x("lo"), y2={"field": "hi"}),
        _layer(rows, dot, x=x, y=y, tooltip=_tip()),
    )
