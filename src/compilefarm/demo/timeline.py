"""The picture of a build: a row for each slot, a bar for each compile, time from left to right.

It is an SVG. Every browser shows it, it stays sharp when enlarged, and a bar shows its file when
the mouse is over it. It is built as an element tree and never as text, because users choose the
names in a record.

Pure functions from records to text. This module must not know where the records come from, nor any
clock.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

HERE = "this machine"

# How an attempt at a compile ended: its name in the legend, and its colour. The colours also differ
# in lightness.
KINDS = {
    "done": ("compiled", "#2a78d6"),
    "error": ("error in the source", "#e6a100"),
    "failed": ("host failed, tried again", "#c62f2f"),
    "revoked": ("host left, tried again", "#7d4fc4"),
    "dropped": ("begun twice, the other counts", "#a9cdf2"),  # a pale "compiled"
    "gone": ("given up by the builder", "#8c8c8c"),
    "here": ("compiled on this machine", "#17805a"),
}

WIDTH = 1200
LEFT = 190  # where the bars begin; the names are before them
RIGHT = WIDTH - 30
TOP = 84  # where the first row begins, below the title and one line of the legend
LEGEND_LINE = 20
ROW = 20
BAR = 16
HOST_LEAST = 40  # the least height of a host: a name and a line of figures must fit
BETWEEN_HOSTS = 12
AXIS = 44
TICKS_ABOUT = 12
# Shorter spans are below the resolution of a clock, so there is no axis to draw.
SHORTEST_S = 1e-9
# A record with times beyond this limit is damaged.
TIME_LIMIT_S = 1e9

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Compile:
    """One attempt at a compile; times in seconds from any one zero, `kind` of `KINDS`."""

    source: str
    host: str
    slot: int
    start_s: float
    end_s: float
    kind: str


def read_record(file: TextIO) -> list[Compile]:
    """Return the compiles of a record written by `host-server --record`.

    Damaged and incomplete rows are left out.
    """
    compiles = []
    for row in csv.DictReader(file):
        try:
            start_s, end_s = float(row["granted_s"]), float(row["ended_s"])
            slot = int(row["slot"])
            kind = row["ending"]
            host = row["host"]
        except (KeyError, TypeError, ValueError):
            continue
        if kind == "done" and row["exit"] != "0":
            kind = "error"
        if _possible(start_s, end_s) and kind in KINDS and host:
            compiles.append(Compile(row["source"] or "?", host, slot, start_s, end_s, kind))
    return compiles


def in_rows(intervals: Iterable[tuple[str, float, float]]) -> list[Compile]:
    """Return the compiles on this machine, each in the first row that is free when it starts.

    `intervals` are sources with their start and end, in seconds.
    """
    ends_s: list[float] = []
    compiles = []
    for source, start_s, end_s in sorted(intervals, key=lambda interval: interval[1]):
        if not _possible(start_s, end_s):
            continue
        row = next((row for row, end in enumerate(ends_s) if end <= start_s), len(ends_s))
        ends_s[row : row + 1] = [end_s]
        compiles.append(Compile(source, HERE, row, start_s, end_s, "here"))
    return compiles


def svg(compiles: Sequence[Compile], slots: Mapping[str, int], title: str) -> str:
    """Return the picture as SVG text.

    `slots` has the hosts in the order of the picture, with their number of slots, so that a host
    without work is shown too. Hosts that appear only in the compiles follow.
    """
    rows = _rows(compiles, slots)
    start_s = min((each.start_s for each in compiles), default=0.0)
    span_s = max((each.end_s for each in compiles), default=0.0) - start_s
    if span_s < SHORTEST_S:
        span_s = 1.0

    def x(time_s: float) -> float:
        return LEFT + (RIGHT - LEFT) * (time_s - start_s) / span_s

    tops: dict[tuple[str, int], float] = {}
    picture = Element("svg", xmlns="http://www.w3.org/2000/svg")
    background = SubElement(picture, "rect", width="100%", height="100%", fill="#fcfcfa")
    top_of_all = _legend(picture, compiles)
    grid = SubElement(picture, "g", stroke="#dedcd6")
    y = top_of_all
    for host, host_rows in rows.items():
        high = max(HOST_LEAST, ROW * len(host_rows))
        done = [each for each in compiles if each.host == host and each.kind in ("done", "here")]
        _text(picture, 16, y + 15, _shortened(host, 22), size=14, weight="600")
        _text(picture, 16, y + 32, _figures(len(host_rows), len(done), host), size=11, dim=True)
        for number, slot in enumerate(host_rows):
            top = tops[host, slot] = y + (high - ROW * len(host_rows)) / 2 + ROW * number
            lane = {"x": _px(LEFT), "y": _px(top), "width": _px(RIGHT - LEFT), "height": str(BAR)}
            SubElement(grid, "rect", lane, fill="#f1efe9", stroke="none")
        y += high + BETWEEN_HOSTS
    height = y + AXIS
    picture.set("viewBox", f"0 0 {WIDTH} {height:.0f}")
    picture.set("width", str(WIDTH))
    picture.set("height", f"{height:.0f}")
    picture.set("font-family", "system-ui, 'DejaVu Sans', sans-serif")
    background.set("height", f"{height:.0f}")
    background.set("width", str(WIDTH))

    _text(picture, 16, 30, _shortened(title, 110), size=17, weight="600")
    _axis(picture, grid, span_s, top_of_all, y)
    bars = SubElement(picture, "g", stroke="#fcfcfa")
    bars.set("stroke-width", "1")
    for each in compiles:
        left, right = x(each.start_s), x(each.end_s)
        width = max(2.0, right - left)
        bar = SubElement(
            bars,
            "rect",
            x=_px(min(left, RIGHT - width)),
            y=_px(tops[each.host, each.slot]),
            width=_px(width),
            height=str(BAR),
            rx="2",
            fill=KINDS[each.kind][1],
        )
        where = f"{each.host}, slot {each.slot + 1}" if each.kind != "here" else HERE
        SubElement(bar, "title").text = _xml(
            f"{each.source}\n{each.end_s - each.start_s:.2f} s on {where}\n"
            f"{each.start_s - start_s:.2f} s to {each.end_s - start_s:.2f} s: {KINDS[each.kind][0]}"
        )
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _rows(compiles: Iterable[Compile], slots: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the slots that get a row, by host."""
    rows = {host: set(range(count)) for host, count in slots.items()}
    for each in compiles:
        rows.setdefault(each.host, set()).add(each.slot)
    return {host: sorted(host_rows) for host, host_rows in rows.items()}


def _figures(rows: int, done: int, host: str) -> str:
    files = f"{done} file{'' if done == 1 else 's'}"
    return files if host == HERE else f"{files} in {rows} slot{'' if rows == 1 else 's'}"


def _legend(picture: Element, compiles: Iterable[Compile]) -> float:
    """Draw the legend, in as many lines as it needs; return where the first row begins."""
    present = {each.kind for each in compiles}
    left, y = float(LEFT), TOP - 34.0
    for kind, (name, colour) in KINDS.items():
        if kind in present:
            width = 18 + 7 * len(name)
            if left + width > RIGHT:
                left, y = float(LEFT), y + LEGEND_LINE
            mark = {"x": _px(left), "y": _px(y), "width": "12", "height": "12", "rx": "2"}
            SubElement(picture, "rect", mark, fill=colour)
            _text(picture, left + 18, y + 10.5, name, size=12)
            left += width + 24
    return y + 34


def _axis(picture: Element, grid: Element, span_s: float, top: float, bottom: float) -> None:
    step_s = _step(span_s / TICKS_ABOUT)
    digits = max(0, -math.floor(math.log10(step_s)))
    tick = 0
    while tick * step_s <= span_s:
        x = _px(LEFT + (RIGHT - LEFT) * tick * step_s / span_s)
        SubElement(grid, "line", x1=x, x2=x, y1=_px(top - 6), y2=_px(bottom))
        label = _text(picture, float(x), bottom + 16, f"{tick * step_s:.{digits}f}", size=12)
        label.set("text-anchor", "middle")
        tick += 1
    _text(picture, 16, bottom + 16, "seconds", size=12, dim=True)


def _step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)


def _text(
    parent: Element,
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    weight: str = "400",
    dim: bool = False,
) -> Element:
    attributes = {"x": _px(x), "y": _px(y), "font-size": str(size), "font-weight": weight}
    element = SubElement(parent, "text", attributes, fill="#62605a" if dim else "#1f1e1b")
    element.text = _xml(text)
    return element


def _possible(start_s: float, end_s: float) -> bool:
    return -TIME_LIMIT_S < start_s <= end_s < TIME_LIMIT_S


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _xml(text: str) -> str:
    """Return the text without characters that XML does not allow."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
