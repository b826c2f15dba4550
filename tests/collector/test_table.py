from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from collector.terminal.sparkline import sparkline
from collector.terminal.table import Table, shorten, shorten_all

LONG = "registry.example.org/group/project/debian/x86_64_build:2023-10-31-sha"
PLAN = Table(
    columns=("VERDICT", "FREES", "LAST USE", "ID", "IMAGE", "REASON"),
    rows=[
        ("remove", "1.02 GiB", "2026-11-23 10:00:00Z", "0123456789ab", LONG, "last used 3.2 d ago (container removed)"),
        ("keep", "-", "-", "ba9876543210", "busybox:1", "a container refers to it"),
    ],
    right=("FREES",),
    names=("IMAGE",),
    below=("REASON",),
    optional=("ID",),
)


def shown(table: Table, width: int) -> list[str]:
    return [line.plain for line in table.lines(Console(file=io.StringIO(), width=width))]


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(cell_len(line) for line in shown(PLAN, width)) <= width


def test_with_room_every_column_stands_in_its_row() -> None:
    header, first, second = shown(PLAN, 200)
    assert header.split() == ["VERDICT", "FREES", "LAST", "USE", "ID", "IMAGE", "REASON"]
    assert LONG in first
    assert first.index("last used") == second.index("a container") == header.index("REASON")


def test_at_80_columns_sentences_stand_below_and_names_keep_their_end() -> None:
    lines = shown(PLAN, 80)
    assert len(lines) == 5
    assert lines[1].endswith("x86_64_build:2023-10-31-sha")
    assert "…" in lines[1]
    assert lines[2] == "         last used 3.2 d ago (container removed)"
    assert PLAN.left_out(Console(file=io.StringIO(), width=80)) == ["ID"]


def test_numbers_are_aligned_to_the_right() -> None:
    header, first, second = shown(PLAN, 200)
    end = header.index("FREES") + len("FREES")
    assert (first[:end][-8:], second[:end][-8:]) == ("1.02 GiB", "       -")


def test_what_a_log_holds_cannot_steer_the_terminal() -> None:
    (_, line) = shown(Table(("IMAGE",), [("a\x1b[2J\u202eb[bold]c",)]), 80)
    assert line == "a\ufffd[2J\ufffdb[bold]c"


def test_cells_may_bring_their_style() -> None:
    (_, line) = Table(("V",), [(Text("remove", "red"),)]).lines(Console(file=io.StringIO(), width=80))
    assert line.spans
    assert line.plain == "remove"


def test_a_shortened_name_is_as_wide_as_asked() -> None:
    assert all(len(shorten(LONG, width)) <= width for width in range(8, len(LONG) + 1))
    assert shorten(LONG, 60) == "…/group/project/debian/x86_64_build:2023-10-31-sha"
    assert shorten(LONG, 26) == "…/x86_64_build:2…10-31-sha"
    assert shorten("a-name-without-a-path", 11) == "a-n…-a-path"
    assert shorten("busybox:1", 26) == "busybox:1"


ALIKE = [
    "registry.example.org/mesa/debian/x86_64_build:2023-05-10-ci-improvements-rebuild",
    "registry.example.org/mesa/fedora/x86_64_build:2023-05-10-ci-improvements-rebuild",
    "registry.example.org/mesa/debian/x86_64_build:2023-05-17-ci-improvements-rebuild",
    "registry.example.org/mesa/debian/x86_64_test:2023-05-17-ci-improvements-rebuild",
]


@pytest.mark.parametrize("width", [38, 44, 60, 90])
def test_names_that_differ_do_not_look_alike(width: int) -> None:
    short = shorten_all(ALIKE, width)
    assert len(set(short.values())) == len(ALIKE)
    assert max(len(text) for text in short.values()) <= width
    assert all(text.removeprefix("…/").partition("…")[0] in name for name, text in short.items())


def test_a_column_is_left_out_before_names_look_alike() -> None:
    table = Table(
        ("LAST USE", "SIZE", "USES", "IMAGE"),
        [("2026-11-25 04:23:42Z", "96.9 MiB", "12", name) for name in ALIKE],
        right=("SIZE", "USES"),
        names=("IMAGE",),
        optional=("USES",),
    )
    _, *lines = shown(table, 66)
    assert len({line.rpartition("  ")[2] for line in lines}) == len(ALIKE)
    assert table.left_out(Console(file=io.StringIO(), width=66)) == ["USES"]


def test_a_sparkline_shows_the_least_of_each_interval() -> None:
    samples = [(0.0, 80.0), (1.0, 1.0), (2.0, 80.0), (10.0, 100.0), (40.0, 50.0)]
    assert sparkline(samples, 100.0, 4) == "▁█ ▅"
    assert sparkline(samples, 100.0, 4, "abc") == "ac b"


@pytest.mark.parametrize("samples", [[], [(0.0, 5.0)], [(3.0, -5.0), (3.0, 500.0)]])
def test_a_sparkline_of_poor_data_is_short_or_within_its_bars(samples: list[tuple[float, float]]) -> None:
    line = sparkline(samples, 100.0, 8)
    assert len(line) == (8 if samples else 0)
    assert set(line) <= set(" ▁▂▃▄▅▆▇█")


def test_on_a_narrow_terminal_the_first_column_stands_over_the_others() -> None:
    figures = ("RE-PULLED", "DISK FULL", "MIN FREE")
    names = [f"forecast under {level}% free" for level in (5, 40)]
    rows = [(name, "6.00 GiB", "0", "7.00 GiB") for name in names]
    table = Table(("POLICY", *figures), rows, right=figures, names=("POLICY",))
    lines = shown(table, 40)
    assert max(cell_len(line) for line in lines) <= 40
    assert [line for line in lines if not line.startswith(" ")] == ["POLICY", *names]
    assert [line.split() for line in lines[1::2]] == [
        ["RE-PULLED", "DISK", "FULL", "MIN", "FREE"],
        *[["6.00", "GiB", "0", "7.00", "GiB"]] * 2,
    ]
