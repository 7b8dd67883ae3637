"""presence: every doubt counts for the owner, and a nudged mouse does not thrash the farm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.compile_host.desktop.presence import (
    BACK_OFF_MAX_S,
    LONG_STAY_S,
    Hours,
    Moment,
    Presence,
    Reading,
    Settings,
    State,
    Verdict,
)

NOON_S = 1_700_000_000.0
ON = {"saver": Reading("unused", "the screen saver is on")}
OFF = {"saver": Reading("in use", "the screen saver is off")}


def at(
    second: float, *, minute: int = 12 * 60, asleep_s: float | None = 0.0, wall_s: float = NOON_S
) -> Moment:
    return Moment(second, wall_s + second, minute, asleep_s)


def idle(since_s: float) -> Reading:
    return Reading("unused", "no input", since_s)


def decided(*readings: Reading, second: float = 1000.0, **settings: object) -> Verdict:
    presence = Presence(Settings(**settings))  # type: ignore[arg-type]
    return presence.decide(at(second), {f"s{n}": each for n, each in enumerate(readings)})


USED = Reading("in use", "someone moves the mouse")
UNUSED = Reading("unused", "no input")
LOST = Reading("unreadable", "it went away")
SILENT = Reading("silent", "cannot tell")
TERMINAL = Reading("unused", "no typing", 0.0, sees_screen=False)
SILENT_TERMINAL = Reading("silent", "there is a screen", 0.0, sees_screen=False)


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [USED],
        [UNUSED, USED],
        [UNUSED, LOST],
        [LOST],
        [SILENT],
        [SILENT, TERMINAL],
        [SILENT_TERMINAL],
        [UNUSED, idle(701)],
        [Reading("silent", "x", 999.0), UNUSED],
    ],
)
def test_a_doubt_counts_as_in_use(readings: list[Reading]) -> None:
    verdict = decided(*readings)
    assert verdict.in_use
    assert verdict.why


@pytest.mark.parametrize(
    "readings",
    [
        [UNUSED],
        [UNUSED, UNUSED],
        [UNUSED, SILENT],
        [UNUSED, SILENT, TERMINAL],
        [UNUSED, SILENT_TERMINAL],
        [TERMINAL],
        [idle(700)],
        [UNUSED, idle(0)],
    ],
)
def test_a_desktop_is_unused_if_all_sources_agree(readings: list[Reading]) -> None:
    assert not decided(*readings).in_use


def test_input_counts_as_use_at_once_and_until_idle_after() -> None:
    presence = Presence(Settings(idle_after_s=60))
    assert not presence.decide(at(100), {"x11": idle(0)}).in_use
    verdict = presence.decide(at(1000), {"x11": idle(1000)})
    assert verdict == Verdict(True, NOON_S + 1000, "x11: input 0 s ago")
    assert presence.decide(at(1059.9), {"x11": idle(1000)}).in_use
    assert not presence.decide(at(1060), {"x11": idle(1000)}).in_use


def test_the_time_since_when_does_not_move() -> None:
    presence = Presence(Settings())
    assert presence.decide(at(5), OFF).since_s == NOON_S + 5
    assert presence.decide(at(9), {}).since_s == NOON_S + 5
    assert presence.decide(at(20), ON).since_s == NOON_S + 20
    # Setting the clock does not move it either.
    assert presence.decide(at(21, wall_s=NOON_S + 7200), ON).since_s == NOON_S + 20


@pytest.mark.parametrize(
    ("hours", "within", "without"),
    [
        ("19:00-07:00", ["19:00", "23:59", "00:00", "06:59"], ["07:00", "12:00", "18:59"]),
        ("12:00-13:00", ["12:00", "12:59"], ["11:59", "13:00", "00:00"]),
        ("12:00-13:00, 19:00-07:00", ["12:30", "20:00", "03:00"], ["07:00", "13:00"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        ("22:00-24:00", ["22:00", "23:59"], ["00:00"]),
        ("22:00-0:00", ["22:00", "23:59"], ["00:00"]),
    ],
)
def test_the_desktop_is_in_use_outside_the_hours(
    hours: str, within: list[str], without: list[str]
) -> None:
    for times, unused in ((within, True), (without, False)):
        for time_of_day in times:
            hour, minute = map(int, time_of_day.split(":"))
            presence = Presence(Settings(hours=Hours(hours)))
            verdict = presence.decide(at(0, minute=hour * 60 + minute), ON)
            assert verdict.in_use is not unused, time_of_day


@pytest.mark.parametrize(
    "text",
    [
        *("", "19-7", "19:00", "19:00-", "24:00-07:00", "19:60-20:00", "07:00-07:00"),
        *("1:00-25:00", "19:00-24:01", "19:00-07:00,", "-1:00-07:00", "１９:00-07:00"),
        "19:00-07:00:00",
    ],
)
def test_a_text_that_is_not_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a span of hours such as"):
        Hours(text)


def test_the_end_of_the_hours_ends_the_stay() -> None:
    presence = Presence(Settings(hours=Hours("19:00-07:00")))
    assert not presence.decide(at(0, minute=0), ON).in_use
    verdict = presence.decide(at(25_200, minute=7 * 60), ON)
    assert verdict.why == "it is not within 19:00-07:00"
    # In the evening it comes back at once, because the stay was long.
    assert not presence.decide(at(70_000, minute=19 * 60), ON).in_use


def test_battery_power_counts_as_use_if_set() -> None:
    for battery_is_use in (True, False):
        presence = Presence(Settings(battery_is_use=battery_is_use))
        assert presence.decide(at(0), ON, on_battery=True).in_use is battery_is_use
        assert not presence.decide(at(1), ON, on_battery=False).in_use


def test_waking_up_counts_as_input() -> None:
    presence = Presence(Settings(idle_after_s=300))
    assert not presence.decide(at(0, asleep_s=50), ON).in_use
    verdict = presence.decide(at(1, asleep_s=4000), ON)
    assert verdict.why == "the machine woke up 0 s ago"
    assert presence.decide(at(300, asleep_s=4000), ON).in_use
    # The stay was short, so the back-off comes on top.
    presence.decide(at(301, asleep_s=4000), ON)
    assert not presence.decide(at(331, asleep_s=4000), ON).in_use


def test_a_jump_of_the_clock_counts_as_sleep_if_sleep_is_not_counted() -> None:
    presence = Presence(Settings(idle_after_s=300))
    assert not presence.decide(at(0, asleep_s=None), ON).in_use
    assert presence.decide(at(1, asleep_s=None, wall_s=NOON_S + 3600), ON).in_use
    presence = Presence(Settings(idle_after_s=300))
    assert not presence.decide(at(0, asleep_s=None), ON).in_use
    assert not presence.decide(at(1, asleep_s=None, wall_s=NOON_S - 3600), ON).in_use


def visits(period_s: float, hours: float, idle_after_s: float = 0.0) -> int:
    """Return how often a desktop comes back in `hours` if its mouse is nudged once per period.

    Its screen saver goes on again five seconds after each nudge.
    """
    presence = Presence(Settings(idle_after_s=idle_after_s))
    count, was_in_use = 0, True
    for second in range(int(hours * 3600)):
        since_nudge_s = second % period_s
        verdict = presence.decide(at(second), ON if since_nudge_s >= 5 else OFF)
        count += was_in_use and not verdict.in_use
        was_in_use = verdict.in_use
    return count


@pytest.mark.parametrize(
    ("minutes", "first_hour", "day"),
    [(1, 2, 2), (2, 3, 3), (5, 5, 5), (9, 6, 6)],
)
def test_the_figures_in_the_documentation_hold(minutes: int, first_hour: int, day: int) -> None:
    assert (visits(minutes * 60, 1), visits(minutes * 60, 24)) == (first_hour, day)


def test_the_back_off_grows_and_ends() -> None:
    presence = Presence(Settings(idle_after_s=0))
    second, back_offs = 0.0, []
    for _ in range(9):
        while presence.decide(at(second), ON).in_use:
            second += 1
        presence.decide(at(second + 5), OFF)
        second += 6
        back_offs.append(presence.back_off_s)
    assert back_offs == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    while presence.decide(at(second), ON).in_use:
        second += 1
    assert presence.decide(at(second + LONG_STAY_S), OFF).in_use
    assert presence.back_off_s == 0
    assert not presence.decide(at(second + LONG_STAY_S + 1), ON).in_use


def test_use_during_the_back_off_restarts_it() -> None:
    presence = Presence(Settings())
    presence.decide(at(0), ON)
    presence.decide(at(5), OFF)
    assert presence.decide(at(6), ON).in_use
    assert presence.decide(at(30), ON).why == (
        "the last stay was short; it comes back after 6 s without use"
    )
    presence.decide(at(31), OFF)
    assert presence.decide(at(40), ON).in_use
    assert presence.decide(at(69), ON).in_use
    assert not presence.decide(at(70), ON).in_use


# Any events in any order.

READINGS = st.builds(
    Reading,
    st.sampled_from(["in use", "unused", "unused", "silent", "unreadable"]),
    st.just("so"),
    st.none() | st.floats(0, 5000),
    st.booleans(),
)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 700),  # time that passes
        st.floats(-1e6, 1e6),  # the change of the wall clock
        st.sampled_from([0.0, 0.0, 0.0, 30.0]),  # sleep
        st.dictionaries(st.sampled_from("abc"), READINGS, max_size=3),
        st.booleans(),  # on battery
    ),
    max_size=40,
)
SETTINGS = st.builds(
    Settings,
    st.sampled_from([0.0, 60.0, 300.0]),
    st.none() | st.just(Hours("19:00-07:00")),
    st.booleans(),
)
Decided = tuple[Moment, dict[str, Reading], bool, Verdict, Presence]


def played(
    settings: Settings,
    steps: list[tuple[float, float, float, dict[str, Reading], bool]],
    *,
    clock_is_set: bool = True,
) -> Iterator[Decided]:
    presence = Presence(settings)
    second, wall_s, asleep_s = 0.0, NOON_S, 0.0
    for passed_s, set_by_s, slept_s, said, on_battery in steps:
        # The last input cannot be in the future.
        readings = {
            name: Reading(each.state, each.why, min(each.input_s, second), each.sees_screen)
            if each.input_s is not None
            else each
            for name, each in said.items()
        }
        second += passed_s
        asleep_s += slept_s
        wall_s += passed_s + slept_s + (set_by_s if clock_is_set else 0)
        minute = int(wall_s / 60) % 1440 if clock_is_set else 0
        now = Moment(second, wall_s, minute, asleep_s)
        verdict = presence.decide(now, readings, on_battery=on_battery)
        yield now, readings, on_battery, verdict, presence


@given(SETTINGS, STEPS)
def test_an_unused_desktop_leaves_no_doubt(
    settings: Settings, steps: list[tuple[float, float, float, dict[str, Reading], bool]]
) -> None:
    for now, readings, on_battery, verdict, _ in played(settings, steps):
        assert verdict.why
        if verdict.in_use:
            continue
        states: set[State] = {each.state for each in readings.values()}
        assert "unused" in states
        assert not states & {"in use", "unreadable"}
        for each in readings.values():
            if each.input_s is not None:
                assert now.monotonic_s - each.input_s >= settings.idle_after_s
        assert settings.hours is None or settings.hours.contain(now.minute_of_day)
        assert not (on_battery and settings.battery_is_use)


@given(SETTINGS, STEPS)
def test_coming_back_takes_at_least_the_back_off(
    settings: Settings, steps: list[tuple[float, float, float, dict[str, Reading], bool]]
) -> None:
    left_s, in_use = None, True
    for now, _, _, verdict, presence in played(settings, steps):
        assert 0 <= presence.back_off_s <= BACK_OFF_MAX_S
        if verdict.in_use and not in_use:
            left_s = now.monotonic_s
        if in_use and not verdict.in_use and left_s is not None:
            assert now.monotonic_s - left_s >= presence.back_off_s
        in_use = verdict.in_use


@given(st.sampled_from([0.0, 300.0]), STEPS)
def test_setting_the_clock_changes_nothing(
    idle_after_s: float, steps: list[tuple[float, float, float, dict[str, Reading], bool]]
) -> None:
    settings = Settings(idle_after_s)
    verdicts = [
        [
            (each[3].in_use, each[3].why)
            for each in played(settings, steps, clock_is_set=clock_is_set)
        ]
        for clock_is_set in (True, False)
    ]
    assert verdicts[0] == verdicts[1]
