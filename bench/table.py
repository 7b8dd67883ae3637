"""The results of the benchmarks and their printing: a row for each figure, or a grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours, and the one that it is compared with.

    `ratio` is ours divided by the other. `within` says whether ours keeps the bound, if any.
    """

    what: str
    ours: str
    other: str = ""
    ratio: float | None = None
    bound: str = ""
    within: bool | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A section's result; the notes stand below the rows."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Grid:
    """Figures by two things: a row for one, a column for the other."""

    title: str
    columns: list[str]
    rows: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def show_grid(figures: Grid) -> None:
    """Print the grid to standard output."""
    grid = RichTable(title=figures.title, title_justify="left", title_style="bold", box=box.SIMPLE)
    grid.add_column("")
    for name in figures.columns:
        grid.add_column(name, justify="right")
    for what, row in figures.rows.items():
        grid.add_row(what, *row)
    _print(grid, figures.notes)


def show(table: Table) -> None:
    """Print the table to standard output, no wider than its text."""
    verdicts = {None: Text(""), True: Text("ok", "green"), False: Text("over", "bold red")}
    grid = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE)
    grid.add_column("what is measured")
    grid.add_column("ours", justify="right")
    grid.add_column("compared with")
    grid.add_column("ratio", justify="right")
    grid.add_column("bound")
    grid.add_column("")
    for row in table.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        grid.add_row(row.what, row.ours, row.other, ratio, row.bound, verdicts[row.within])
    _print(grid, table.notes)


def _print(grid: RichTable, notes: list[str]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe needs no folded lines
        console.width = 160
    console.print(grid)
    for note in notes:
        console.print(f"  {note}", style="dim")
    console.print()
