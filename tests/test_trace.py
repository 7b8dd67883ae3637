"""Traces and load files: errors name file, line and column."""

from __future__ import annotations

import pytest

from compilefarm.simulate.trace import (
    ForeignLoad,
    TracedFile,
    TracedLease,
    TraceError,
    parse_load,
    parse_record,
    parse_trace,
)

HEADER = "source,preprocess_s,compile_s\n"


def test_a_trace_is_read_by_the_names_of_its_columns() -> None:
    text = "compile_s,extra,source\n1.5,x,a.c\n\n0.25,y,b.c\n"
    assert parse_trace(text, "t.csv") == [TracedFile("a.c", 1.5), TracedFile("b.c", 0.25)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv:1: the file is empty"),
        (HEADER, "t.csv:1: the trace has no files"),
        ("source,wall_s\na.c,1\n", "t.csv:1: column compile_s: is missing"),
        (HEADER + "a.c,0,0\n", "t.csv:2: column compile_s: 0 is not above 0"),
        (HEADER + "a.c,0,1\nb.c,0,-3\n", "t.csv:3: column compile_s: -3 is not above 0"),
        (HEADER + "a.c,0,nan\n", "t.csv:2: column compile_s: 'nan' is not a number"),
        (HEADER + "a.c,0,soon\n", "t.csv:2: column compile_s: 'soon' is not a number"),
        (HEADER + "a.c,0,1e9\n", "t.csv:2: column compile_s: 1e9 is over a day"),
        (HEADER + "a.c,0,1e400\n", "t.csv:2: column compile_s: '1e400' is not a number"),
        (HEADER + "a.c,0,1_0\n", "t.csv:2: column compile_s: '1_0' is not a number"),
        (HEADER + "a.c,0,5e-324\n", "t.csv:2: column compile_s: 5e-324 is below a microsecond"),
        ("source,compile_s,source\n", "t.csv:1: column source: comes twice"),
        (HEADER + ",0,1\n", "t.csv:2: column source: is empty"),
        (HEADER + "a.c,0\n", "t.csv:2: 2 columns where 3 are named"),
    ],
)
def test_errors_in_a_trace_name_line_and_column(text: str, message: str) -> None:
    with pytest.raises(TraceError) as error:
        parse_trace(text, "t.csv")
    assert str(error.value) == message


def test_a_trace_may_come_from_a_spreadsheet() -> None:
    text = "\ufeffsource,compile_s\r\na.c,1\r\n"
    assert parse_trace(text, "t.csv") == [TracedFile("a.c", 1.0)]


@pytest.mark.parametrize("source", ["a\fb.c", "a\u2028b.c", "a\x1cb.c", '"a\nb.c"'])
def test_a_name_may_have_any_characters(source: str) -> None:
    [file] = parse_trace(f"source,compile_s\n{source},1\n", "t.csv")
    assert file.source == source.strip('"')


def test_load_is_in_the_order_of_time() -> None:
    text = "time_s,host,foreign_cpus\n5,a,2\n1,b,0.5\n"
    changes = [ForeignLoad(1.0, "b", 0.5), ForeignLoad(5.0, "a", 2.0)]
    assert parse_load(text, "l.csv", {"a", "b"}) == changes
    with pytest.raises(TraceError, match=r"l.csv:2: column time_s: -1 is not 0 or more"):
        parse_load("time_s,host,foreign_cpus\n-1,a,2\n", "l.csv", {"a"})
    with pytest.raises(TraceError, match=r"l.csv:2: column host: c is not in the farm"):
        parse_load("time_s,host,foreign_cpus\n1,c,2\n", "l.csv", {"a"})


def test_a_record_may_have_a_compile_that_took_no_time() -> None:
    text = "source,compile_s,ending\na.c,0.0000,done\nb.c,1,failed\n"
    assert parse_trace(text, "r.csv") == [TracedFile("a.c", 0.0001)]


def test_a_record_may_lack_what_its_client_left_out() -> None:
    text = (
        "source,compile_s,user,dir,arrived_s,granted_s,ended_s,ending\n"
        ",200000,10.0.0.1,,0,0,20,done\n"  # twenty seconds, on a host of power index 10,000
    )
    assert parse_record(text, "r.csv") == [
        TracedLease("", 200_000.0, "10.0.0.1", "", 0.0, 0.0, 20.0)
    ]
    assert parse_trace(text, "r.csv") == [TracedFile("", 200_000.0)]
