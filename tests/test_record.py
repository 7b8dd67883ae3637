"""The record: one row for each lease that ended, in a form that can be simulated."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from compilefarm.core.model import Host, Lease, Outcome, Request
from compilefarm.server.storage.record import COLUMNS, Recorder, mend, recorded_until_s


def lease(**words: str) -> Lease:
    request = Request(7, "ada", "desk9", directory="/src", source="main.c", arrived=101.0)
    for name, value in words.items():
        setattr(request, name, value)
    return Lease(request, Host("desk1", "10.0.0.1", 3632, power_index=4.0), 1, granted=102.0)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_has_all_that_is_known_about_a_lease() -> None:
    file = io.StringIO(newline="")
    recorder = Recorder(file, started=100.0)
    recorder.write(lease(), Outcome(exit=0, wall_s=2.5, cpu_s=0.5), 105.0)
    [row] = rows(file.getvalue())
    assert row == dict.fromkeys(COLUMNS, "") | {
        "source": "main.c",
        "preprocess_s": "0.5000",
        "compile_s": "8.0000",  # 2 s on a machine that is four times as fast as the slowest
        "wall_s": "2.5000",
        "user": "ada",
        "builder": "desk9",
        "dir": "/src",
        "host": "desk1",
        "slot": "1",
        "arrived_s": "1.0000",
        "granted_s": "2.0000",
        "ended_s": "5.0000",
        "exit": "0",
        "ending": "done",
    }


def test_no_compile_takes_longer_than_its_lease() -> None:
    file = io.StringIO(newline="")
    Recorder(file, 100.0).write(lease(), Outcome(exit=0, wall_s=86_400.0, cpu_s=0.0), 105.0)
    [row] = rows(file.getvalue())
    assert (row["wall_s"], row["compile_s"]) == ("3.0000", "12.0000")


@pytest.mark.parametrize(
    ("outcome", "exit_status", "ending"),
    [
        (Outcome(exit=1), "1", "done"),
        (Outcome(exit=116, failed=True), "116", "failed"),
        (Outcome(), "", "gone"),
        (Outcome(reason="desk1 fell silent"), "", "revoked"),
    ],
)
def test_every_ending_has_its_word(outcome: Outcome, exit_status: str, ending: str) -> None:
    file = io.StringIO(newline="")
    Recorder(file, 100.0).write(lease(), outcome, 105.0)
    [row] = rows(file.getvalue())
    assert (row["exit"], row["ending"], row["wall_s"]) == (exit_status, ending, "3.0000")


def test_any_name_can_be_read_again() -> None:
    file = io.StringIO(newline="")
    hostile = 'a,"b"\r\nc\0é.c'
    Recorder(file, 100.0).write(lease(source=hostile), Outcome(), 105.0)
    assert [row["source"] for row in rows(file.getvalue())] == [hostile]


def test_a_record_is_continued_without_a_second_heading() -> None:
    file = io.StringIO(newline="")
    for _ in range(2):
        Recorder(file, 100.0).write(lease(), Outcome(), 105.0)
    assert len(rows(file.getvalue())) == 2
    assert file.getvalue().count("preprocess_s") == 1


def test_half_a_row_is_cut_off_before_the_record_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    mend(path)
    for part in ("", "main.c,0.5", 'main.c,"/src'):
        with path.open("a", newline="") as file:
            Recorder(file, 100.0).write(lease(), Outcome(exit=0), 105.0)
            file.write(part)
        mend(path)
    assert [row["source"] for row in rows(path.read_text())] == ["main.c"] * 3
    path.write_text("not a record")
    mend(path)
    assert path.read_text() == "not a record"


def test_a_record_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    assert recorded_until_s(path) == 0.0
    for text in ("", "\n", ",".join(COLUMNS), "a,b\n", "\0\xff" * 99):
        path.write_text(text)
        assert recorded_until_s(path) == 0.0
    path.unlink()
    for started, until_s in ((100.0, 5.0), (1000.0, 10.0)):
        offset_s = recorded_until_s(path)
        with path.open("a", newline="") as file:
            recorder = Recorder(file, started - offset_s)
            recorder.write(lease(source="a\nb,c.c"), Outcome(exit=0), started + 5.0)
        assert recorded_until_s(path) == until_s
    # Another server granted the second lease, before this one started.
    assert [row["granted_s"] for row in rows(path.read_text())] == ["2.0000", "0.0000"]
