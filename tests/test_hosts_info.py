"""hosts-info: what it may contain, and how precisely an error names a wrong line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.hosts_info import HostsInfoError, parse_hosts_info


def test_a_file_of_2004_is_read() -> None:
    text = (
        "# the farm\n\nlinux1\t4   15\n  linux2 2 8  # Bob's desk\r\n192.168.0.7 1 1\nsun-a 2 4.5"
    )
    assert parse_hosts_info(text, "hosts") == (
        Declaration("linux1", None, 4, 15.0),
        Declaration("linux2", None, 2, 8.0),
        Declaration("192.168.0.7", None, 1, 1.0),
        Declaration("sun-a", None, 2, 4.5),
    )


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    assert parse_hosts_info("\ufeffa 1 1\nb 1 1", "h") == parse_hosts_info("a 1 1\nb 1 1", "h")


def test_options_may_follow_the_three_words() -> None:
    [one] = parse_hosts_info("a:4001 2 3 types=x,y compilers=gcc address=::1 pinned static=no", "h")
    assert one == Declaration(
        "a",
        4001,
        2,
        3.0,
        types=frozenset({"x", "y"}),
        compilers=frozenset({"gcc"}),
        address="::1",
        pinned=True,
    )
    [one] = parse_hosts_info("a 8 1 mode=proportional reserve=1.5", "h")
    assert (one.mode, one.reserve_cpus) == (Mode.PROPORTIONAL, 1.5)
    [one] = parse_hosts_info("[fd00::1]:4001 2 3 static actual=2.5", "h")
    assert (one.name, one.static, one.actual_power_index) == ("[fd00::1]:4001", True, 2.5)
    assert parse_hosts_info("a 2 3 port=4001", "h")[0].name == "a:4001"


def test_a_machine_may_have_several_distccds() -> None:
    hosts = parse_hosts_info("a 1 1\na:4001 1 1", "h")
    assert [host.name for host in hosts] == ["a", "a:4001"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("desk1", "expected HOST CPUS POWER-INDEX"),
        ("desk1 4", "expected HOST CPUS POWER-INDEX"),
        ("desk1 four 1", "number of CPUs is 'four'"),
        ("desk1 0 1", "number of CPUs is '0'"),
        ("desk1 -4 1", "number of CPUs is '-4'"),
        ("desk1 2.5 1", "number of CPUs is '2.5'"),
        ("desk1 4097 1", "number of CPUs is '4097'"),
        (f"desk1 {'9' * 5000} 1", "number of CPUs is '99999999999999999999'; expected a whole"),
        ("desk1 ٤ 1", "number of CPUs"),
        ("desk1 4 fast", "power index is 'fast'"),
        ("desk1 4 0", "power index is '0'"),
        ("desk1 4 nan", "power index is 'nan'"),
        ("desk1 4 1e3", "power index is '1e3'"),
        ("desk1 4 10001", "power index is '10001'; expected a number from 0.001 to 10000"),
        ("desk1 4 0.0009", "power index is '0.0009'"),
        ("desk_1/ 4 1", "neither a host name nor an address"),
        ("[::1 4 1", "is not a host"),
        ("desk1: 4 1", "has no port from 1 to 65535"),
        ("desk1:0 4 1", "no port from 1 to 65535"),
        ("desk1:99999 4 1", "no port from 1 to 65535"),
        ("desk1:4001 4 1 port=4001", "the port is given twice"),
        ("desk1 4 1 colour=blue", "unknown word 'colour=blue'; the known words are"),
        ("desk1 4 1 types=a types=b", "types comes twice"),
        ("desk1 4 1 types=a,,b", "types is 'a,,b'"),
        ("desk1 4 1 pinned=maybe", "pinned is 'maybe'; expected yes or no"),
        ("desk1 4 1 address=desk1", "address is 'desk1'; expected an IP address"),
        ("desk1 4 1 mode=lazy", "mode is 'lazy'; expected one of dedicated, proportional, idle"),
        ("desk1 4 1 reserve=-1", "reserve is '-1'"),
        ("linux1 4 1", "linux1 is on line 2 already"),
        ("linux1:3632 4 1", "linux1 is on line 2 already"),
        ("Linux1 4 1", "linux1 is on line 2 already"),
    ],
)
def test_a_wrong_line_is_named_by_file_line_and_reason(line: str, reason: str) -> None:
    text = f"# comment, with a form feed \f and a separator \u2028\nlinux1 1 1\n{line}\n"
    with pytest.raises(HostsInfoError) as caught:
        parse_hosts_info(text, "etc/hosts-info")
    assert str(caught.value).startswith("etc/hosts-info:3: ")
    assert reason in str(caught.value)


@given(st.text() | st.text(st.sampled_from("desk14 .:[]#=\n\t,pinstaco")))
def test_any_text_is_a_list_of_hosts_or_an_error(text: str) -> None:
    try:
        declarations = parse_hosts_info(text, "h")
    except HostsInfoError as error:
        reason = str(error)
        assert reason.startswith("h:")
        assert "\n" not in reason
    else:
        assert len({each.name for each in declarations}) == len(declarations)
