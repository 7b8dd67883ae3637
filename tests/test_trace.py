"""Traces and load files: what is wrong in them is named by file, line and column."""

from __future__ import annotations

import pytest

from compilefarm.trace import ForeignLoad, TracedFile, TraceError, parse_load, parse_trace

HEADER = "source,preprocess_s,compile_s\n"


def test_a_trace_is_read_by_the_names_of_its_columns() -> None:
    text = "compile_s,extra,source\n1.5,x,a.c\n\n0.25,y,b.c\n"
    assert parse_trace(text, "t.csv") == [TracedFile("a.c", 1.5), TracedFile("b.c", 0.25)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "t.csv:1: the file is empty"),
        (HEADER, "t.csv:1: the trace has no files"),
        ("source,wall_s\na.c,1\n", "t.csv:1: column compile_s: is missing"),
        (HEADER + "a.c,0,0\n", "t.csv:2: column compile_s: 0 is not above 0"),
        (HEADER + "a.c,0,1\nb.c,0,-3\n", "t.csv:3: column compile_s: -3 is not above 0"),
        (HEADER + "a.c,0,nan\n", "t.csv:2: column compile_s: 'nan' is not a number"),
        (HEADER + "a.c,0,soon\n", "t.csv:2: column compile_s: 'soon' is not a number"),
        (HEADER + "a.c,0,1e9\n", "t.csv:2: column compile_s: 1e9 is over a day"),
        (HEADER + ",0,1\n", "t.csv:2: column source: is empty"),
        (HEADER + "a.c,0\n", "t.csv:2: 2 columns where 3 are named"),
    ],
)
def test_what_is_wrong_in_a_trace_is_named(text: str, says: str) -> None:
    with pytest.raises(TraceError) as error:
        parse_trace(text, "t.csv")
    assert str(error.value) == says


def test_load_comes_in_the_order_of_time() -> None:
    text = "time_s,host,foreign_cpus\n5,a,2\n1,b,0.5\n"
    assert parse_load(text, "l.csv") == [ForeignLoad(1.0, "b", 0.5), ForeignLoad(5.0, "a", 2.0)]
    with pytest.raises(TraceError, match=r"l.csv:2: column time_s: -1 is not 0 or more"):
        parse_load("time_s,host,foreign_cpus\n-1,a,2\n", "l.csv")


def test_a_record_is_read_though_a_compile_was_over_at_once() -> None:
    text = "source,compile_s,ending\na.c,0.0000,done\nb.c,1,failed\n"
    assert parse_trace(text, "r.csv") == [TracedFile("a.c", 0.0001)]
