"""Bytes and messages: a written message is read again, and garbage is only ever an error."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.protocol.wire import (
    LINE_LIMIT_BYTES,
    WORD_LIMIT,
    LineSplitter,
    Message,
    WireError,
    format_line,
    parse_line,
)

names = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True).filter(lambda name: name != "verb")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
messages = st.builds(Message, names, st.dictionaries(names, texts, max_size=8))


@given(messages)
def test_a_written_message_is_read_again(message: Message) -> None:
    line = format_line(message.verb, **message.words)
    assert line.count(b"\n") == 1
    assert line.isascii() or line.decode()
    assert parse_line(line.removesuffix(b"\n")) == message
    assert parse_line(line.removesuffix(b"\n") + b"\r") == message


@given(st.lists(messages, max_size=6), st.data())
def test_messages_are_read_however_their_bytes_are_split(
    sent: list[Message], data: st.DataObject
) -> None:
    stream = b"".join(format_line(message.verb, **message.words) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    splitter = LineSplitter()
    received = [
        parse_line(line)
        for start, end in pairwise([0, *sorted(cuts), len(stream)])
        for line in splitter.feed(stream[start:end])
    ]
    assert received == sent
    assert not splitter.pending


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes_are_a_message_or_an_error(line: bytes) -> None:
    try:
        message = parse_line(line)
    except WireError as error:
        reason = str(error)
        assert reason
        assert reason.isprintable()
    else:
        assert parse_line(format_line(message.verb, **message.words)[:-1]) == message


@given(st.lists(st.binary(max_size=3 * LINE_LIMIT_BYTES) | st.just(b"\n"), max_size=8))
def test_any_stream_is_lines_or_an_error(stream: list[bytes]) -> None:
    splitter = LineSplitter()
    try:
        for data in stream:
            for line in splitter.feed(data):
                assert len(line) < LINE_LIMIT_BYTES
                assert b"\n" not in line
    except WireError:
        assert any(len(line) >= LINE_LIMIT_BYTES for line in b"".join(stream).split(b"\n"))


@given(
    st.sampled_from(["number", "integer", "optional_number"]),
    st.text(st.sampled_from("0123456789.-+einfa_ "), max_size=24) | texts,
)
def test_any_value_is_a_number_or_an_error(getter: str, value: str) -> None:
    message = Message("load", {"key": value})
    try:
        number = getattr(message, getter)("key", *[] if getter == "optional_number" else [7])
    except WireError as error:
        reason = str(error)
        assert "key=" in reason
    else:
        assert number is None or math.isfinite(number)
        assert not value or number == float(value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"\r",
        b"Request",
        b"request ",
        b"request  user=ada",
        b"request user",
        b"request =ada",
        b"request User=ada",
        b"request user=a b",
        b"request user=a\tb",
        b"request user=ada user=bob",
        b"request user=%4",
        b"request user=%zz",
        b"request user=\x00",
        b"request user=\x7f",
        b"request user=\xc2\x85",
        b"request user=\xff",
        b"1request",
        b"request " + b" ".join(b"k%d=" % number for number in range(WORD_LIMIT + 1)),
    ],
)
def test_a_line_that_breaks_the_rules_is_an_error(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_line(line)


def test_a_line_that_keeps_the_rules_is_read() -> None:
    assert parse_line(b"drain") == Message("drain")
    assert parse_line(b"add host=") == Message("add", {"host": ""})
    assert parse_line(b"add host=a=b%3d").words == {"host": "a=b="}
    assert parse_line("add host=Zoë".encode()).words == {"host": "Zoë"}
    assert parse_line(b"add host=%ff%0a").words == {"host": "\ufffd\n"}
    words = b" ".join(b"k%d=" % number for number in range(WORD_LIMIT))
    assert len(parse_line(b"add " + words).words) == WORD_LIMIT


def test_values_are_written_as_the_protocol_says() -> None:
    line = format_line("ok", a=1, b=2.5, c=3.0, d=None, e=["x", "y z"], f={"q", "p"}, g=0.1 + 0.2)
    assert line == b"ok a=1 b=2.5 c=3 e=x,y%20z f=p,q g=0.3\n"


def test_a_line_may_reach_the_limit_but_not_exceed_it() -> None:
    longest = b"a" * (LINE_LIMIT_BYTES - 1)
    assert list(LineSplitter().feed(longest + b"\n")) == [longest]
    for too_long in (longest + b"a\n", longest + b"a", b"ok\n" + longest + b"a"):
        with pytest.raises(WireError):
            list(LineSplitter().feed(too_long))


def test_lines_before_one_that_is_too_long_are_read() -> None:
    lines = LineSplitter().feed(b"ok\n" + b"a" * LINE_LIMIT_BYTES)
    assert next(lines) == b"ok"
    with pytest.raises(WireError):
        next(lines)


def test_getters_name_the_key_and_check_the_bounds() -> None:
    message = Message("load", {"a": "5", "b": "2.5", "c": "", "d": "x,y,,x", "e": "-1"})
    assert message.number("a", 0) == 5.0
    assert message.integer("c", 9) == 9
    assert message.text("c", "none") == "none"
    assert message.optional_number("c") is None
    assert message.optional_number("missing") is None
    assert message.items("d") == {"x", "y"}
    assert message.items("missing") == frozenset()
    for ask in (
        lambda: message.integer("b", 0),
        lambda: message.number("e", 0),
        lambda: message.number("a", 0, high=4),
        lambda: message.integer("d", 0),
        lambda: message.required("c"),
    ):
        with pytest.raises(WireError, match=r"[abde]=|needs c="):
            ask()
