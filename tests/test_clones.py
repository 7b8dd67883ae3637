"""The first build in a directory uses what is known of another one with the same files."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.learning.clones import name_in, relative
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import make_policy
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.simulate.simulation import SimulatedBuild, Simulation
from compilefarm.simulate.trace import TracedFile

OLD, NEW = "/home/ada/project", "/ci/job-2/project"
FILES = [f"src/{n}.c" for n in range(8)]


def built(directory: str = OLD, sources: list[str] = FILES, files_limit: int = 1000) -> Learning:
    """Return what is learned from a build in a directory: file n costs n + 1 seconds."""
    learning = Learning(files_limit)
    learning.declare("h", 1.0)
    build(learning, directory, sources)
    return learning


def build(learning: Learning, directory: str, sources: list[str], *, over: bool = True) -> None:
    for n, source in enumerate(sources):
        learning.observe(directory, source, "h", n + 1.0, 1.0)
    if over:
        learning.build_ended(directory, dict.fromkeys(sources), 5)


def test_a_fresh_clone_is_known_by_its_files() -> None:
    learning = built()
    learning.observe_memory(OLD, 900.0)
    assert learning.cost(NEW, FILES[7]) is None
    assert learning.find_twin(NEW, FILES[:4])
    assert learning.cost(NEW, FILES[7]) == pytest.approx(8.0)
    assert learning.outlook(NEW) == learning.outlook(OLD) != {}
    assert learning.jobs(NEW) == 5
    assert learning.memory_mb(NEW) == 900.0


def test_knowledge_of_the_directory_itself_comes_first() -> None:
    learning = built()
    learning.find_twin(NEW, FILES)
    learning.observe(NEW, FILES[0], "h", 7.0, 2.0)
    learning.observe_memory(NEW, 300.0)
    assert learning.cost(NEW, FILES[0]) == pytest.approx(7.0)
    assert learning.memory_mb(NEW) == 300.0
    learning.build_ended(NEW, {FILES[0]: None}, 2)
    assert learning.outlook(NEW) == pytest.approx({FILES[0]: 7.0})
    assert learning.jobs(NEW) == 2
    assert learning.cost(OLD, FILES[0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "asked_for",
    [
        [],
        FILES[:3],  # too few to say anything
        [*FILES[:4], "main.c", "other.c"],  # another project, with some names in common
    ],
)
def test_other_files_are_another_project(asked_for: list[str]) -> None:
    learning = built()
    assert not learning.find_twin(NEW, asked_for)
    assert learning.outlook(NEW) == {}


def test_some_files_may_be_new() -> None:
    assert built().find_twin(NEW, [*FILES[:6], "new.c", "newer.c"])


def test_whole_paths_are_the_same_below_another_directory() -> None:
    """As CMake writes them for ninja: the sources are beside the directory of the build."""
    learning = built("/home/ada/project/build", [f"/home/ada/project/{each}" for each in FILES])
    there = [f"/ci/2/project/{each}" for each in FILES]
    assert learning.find_twin("/ci/2/project/build", there[:5])
    assert list(learning.outlook("/ci/2/project/build")) == there
    assert learning.cost("/ci/2/project/build", there[7]) == pytest.approx(8.0)


def test_neither_the_directory_itself_nor_an_unfinished_build_is_a_twin() -> None:
    learning = built()
    assert not learning.find_twin(OLD, FILES)
    going_on = Learning()
    going_on.declare("h", 1.0)
    build(going_on, OLD, FILES, over=False)
    assert not going_on.find_twin(NEW, FILES)


def test_two_first_builds_at_once_have_the_same_twin() -> None:
    learning = built()
    assert learning.find_twin(NEW, FILES)
    build(learning, NEW, FILES, over=False)
    assert learning.find_twin("/ci/job-3/project", FILES)
    assert len(learning.outlook("/ci/job-3/project")) == len(FILES)


def test_a_forgotten_twin_leaves_the_directory_unknown() -> None:
    learning = built(files_limit=len(FILES) + 1)
    assert learning.find_twin(NEW, FILES)
    assert learning.cost(NEW, FILES[0]) is not None
    build(learning, "/other", ["a.c", "b.c"])
    assert learning.cost(NEW, FILES[0]) is None
    assert learning.outlook(NEW) == {}
    assert learning.jobs(NEW) == 0
    assert not learning.find_twin("/ci/job-3/project", FILES)


names = st.lists(st.sampled_from(["a", "b", "src", "build"]), min_size=1, max_size=5)


@given(names, names, names, st.booleans())
def test_a_name_there_and_back_is_the_same(
    source: list[str], here: list[str], there: list[str], whole: bool
) -> None:
    # As many levels on both sides, for no root has a name above it.
    depth = min(len(here), len(there))
    directory, other = ("/" + "/".join(each[:depth]) for each in (here, there))
    name = "/".join([*here[: depth if whole else 0], *source])
    name = f"/{name}" if whole else name
    translated = name_in(other, name, directory)
    assert relative(translated, other) == relative(name, directory)
    assert name_in(directory, translated, other) == name


@pytest.mark.parametrize("part", [1.0, 2.0])
def test_the_first_build_of_a_clone_is_as_good_as_a_second_one(part: float) -> None:
    hosts = parse_hosts_info("fast 2 15\nmiddle 4 4\nslow 10 1\n", "hosts-info")
    chance = random.Random(5)
    files = [TracedFile(f"{n}.c", 9.0 if n % 20 == 13 else 0.5) for n in range(60)]
    simulation = Simulation(make_policy("earliest", Learning(), chance), hosts, chance=chance)
    builds = [
        simulation.play([SimulatedBuild("ada", directory, files, int(16 * part))]).makespan_s
        for directory in (OLD, OLD, NEW)
    ]
    assert builds[2] <= 1.03 * builds[1] < 0.9 * builds[0]
