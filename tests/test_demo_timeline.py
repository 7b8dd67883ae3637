"""The timeline picture: any record gives an SVG with all bars inside."""

import io
import subprocess
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from compilefarm.demo.local_compiles import LocalCompiles
from compilefarm.demo.timeline import HERE, KINDS, TIME_LIMIT_S, Compile, in_rows, read_record, svg
from compilefarm.server.storage.record import COLUMNS

SVG = "{http://www.w3.org/2000/svg}"
times = st.floats(-1e8, 1e8)
names = st.text(max_size=30)


@st.composite
def compiles(draw: st.DrawFn) -> Compile:
    start_s = draw(times)
    end_s = draw(st.floats(start_s, min(start_s + 1e6, TIME_LIMIT_S)))
    kind = draw(st.sampled_from(sorted(KINDS)))
    return Compile(draw(names), draw(names), draw(st.integers(0, 10_000)), start_s, end_s, kind)


@given(st.lists(compiles(), max_size=20), st.dictionaries(names, st.integers(0, 8)), names)
def test_any_compiles_give_a_picture_with_all_bars_inside(
    some: list[Compile], slots: dict[str, int], title: str
) -> None:
    picture = ElementTree.fromstring(svg(some, slots, title))
    width, height = float(picture.get("width", "")), float(picture.get("height", ""))
    titled = [bar for bar in picture.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert len(titled) == len(some)
    for rect in titled:
        x, y = float(rect.get("x", "")), float(rect.get("y", ""))
        assert 0 <= x <= x + float(rect.get("width", "")) <= width
        assert 0 <= y <= y + float(rect.get("height", "")) <= height


@given(st.text(max_size=300))
def test_a_damaged_record_is_read_up_to_the_damage(text: str) -> None:
    header = ",".join(COLUMNS) + "\r\n"
    good = "a.c,,,,,,ada,,,fast,1,0.1,0.2,0.9,0,done\r\n"
    found = read_record(io.StringIO(header + good + text.replace('"', ""), newline=""))
    assert found[0] == Compile("a.c", "fast", 1, 0.2, 0.9, "done")
    ElementTree.fromstring(svg(found, {}, ""))


def test_a_record_gives_the_ending_of_each_compile() -> None:
    rows = (
        "a.c,,,,,,,,,h,0,0,1,2,0,done",
        "b.c,,,,,,,,,h,0,0,1,2,1,done",
        "c.c,,,,,,,,,h,0,0,1,2,116,failed",
        "d.c,,,,,,,,,h,0,0,1,2,,revoked",
        "e.c,,,,,,,,,h,0,0,1,2,,gone",
        "f.c,,,,,,,,,h,0,0,1,2,,dropped",
        "g.c,,,,,,,,,h,0,0,nan,2,0,done",
        "h.c,,,,,,,,,h,0,0,1,2",
    )
    record = io.StringIO("\n".join((",".join(COLUMNS), *rows)))
    kinds = [each.kind for each in read_record(record)]
    assert kinds == ["done", "error", "failed", "revoked", "gone", "dropped"]


@given(st.lists(st.tuples(names, times, times).map(lambda t: (t[0], min(t[1:]), max(t[1:])))))
def test_local_compiles_in_a_row_do_not_overlap(intervals: list[tuple[str, float, float]]) -> None:
    placed = in_rows(intervals)
    assert len(placed) == len(intervals)
    assert {each.host for each in placed} <= {HERE}
    for row in {each.slot for each in placed}:
        bars = sorted((each.start_s, each.end_s) for each in placed if each.slot == row)
        assert all(first[1] <= second[0] for first, second in pairwise(bars))


def test_a_bar_has_its_file_and_seconds_as_a_title() -> None:
    text = svg(
        [Compile("<&>.c", "fast", 0, 10.0, 10.42, "done")], {"fast": 2, "idle": 1}, "A build"
    )
    titles = [title.text for title in ElementTree.fromstring(text).iter(f"{SVG}title")]
    assert titles == ["<&>.c\n0.42 s on fast, slot 1\n0.00 s to 0.42 s: compiled"]
    assert ">idle<" in text


def test_the_legend_is_inside_the_picture_and_above_the_rows() -> None:
    all_kinds = [Compile("a.c", "fast", n, 0.0, 1.0, kind) for n, kind in enumerate(KINDS)]
    picture = ElementTree.fromstring(svg(all_kinds, {"fast": 1}, "A build"))
    names = {name for name, _ in KINDS.values()}
    legend = [text for text in picture.iter(f"{SVG}text") if text.text in names]
    assert len(legend) == len(KINDS)
    [first_row] = [float(t.get("y", "")) for t in picture.iter(f"{SVG}text") if t.text == "fast"]
    for text in legend:
        # On average a letter is at most 7 wide.
        assert float(text.get("x", "")) + 7 * len(text.text or "") <= float(
            picture.get("width", "")
        )
        assert float(text.get("y", "")) < first_row


def test_compiles_that_the_farm_did_not_do_were_local(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gethost"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" != fails ]\n')
    program.chmod(0o755)
    local = LocalCompiles(tmp_path, str(program.parent))
    for words in ("distcc gcc -c a.c", "fails gcc -c b.c", "gcc -c a.c", "gcc a.o", "gcc -c s.S"):
        subprocess.run([local.directory / "gethost", *words.split()], check=False)
    assert [source for source, _, _ in local.intervals([])] == ["a.c", "a.c", "s.S"]
    ((first, start_s, end_s), (second, _, _)) = local.intervals(["a.c", "b.c"])
    assert (first, second) == ("a.c", "s.S")
    assert 0 < start_s <= end_s
