"""The picker, driven key by key."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input, Static

from hypersdk.cli.picker.app import DETAILS_AFTER_S, MIN_SIZE, Pane, Picked, PickerApp, TooSmall
from hypersdk.cli.picker.choices import Choice, Choices, ChoicesScreen
from hypersdk.cli.picker.line import SearchLine
from hypersdk.cli.picker.search import Word, sort_machines
from hypersdk.cli.picker.table import COLUMNS, MachineTable, natural_widths, widths
from hypersdk.errors import AccessError
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat, SourceState
from hypersdk.model import Machine, MachineSummary, Power
from hypersdk.units import MiB
from tests.support.cli.commandline import environment, terminal
from tests.support.cli.picker import KEYS, PROGRAM, SEQUENCES, START, WatchedPicker, drive
from tests.support.inventories import inventory, machine
from tests.support.machines import make_machine


def shown(app: PickerApp) -> list[str]:
    table = app.query_one(MachineTable)
    return [table.machines[at].name for at in table.rows]


def text_of(app: PickerApp, selector: str) -> str:
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(app.query_one(selector, Pane).shown)
    return capture.get()


NAMES = ("web01", "web02", "db01", "cache01")
FOUR = [machine(number, name=name, power=Power.ON) for number, name in enumerate(NAMES)]


def test_typing_narrows_and_backspace_widens() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*"web")
        assert shown(app) == ["web01", "web02"]
        await pilot.press("0", "2")
        assert shown(app) == ["web02"]
        await pilot.press("backspace", "backspace")
        assert shown(app) == ["web01", "web02"]
        await pilot.press("escape")
        assert len(shown(app)) == 4
        await pilot.press(*"zzz")
        assert shown(app) == []
        assert "Nothing matches" in text_of(app, "#details")
        await pilot.press("tab", "enter", "down")  # nothing under the cursor: nothing happens

    assert drive(FOUR, driver) is None


def test_tab_marks_and_the_sum_follows() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("tab", "tab")
        assert "2 marked, 32.0 GiB" in text_of(app, "#status")
        await pilot.press(*"db", "tab", "escape")
        assert "3 marked, 48.0 GiB (24.0 GiB used)" in text_of(app, "#status")
        await pilot.press("ctrl+a", "ctrl+a")
        assert "marked" not in text_of(app, "#status")

    drive(FOUR, driver)


def test_marks_survive_a_search_and_are_what_is_picked() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*"cache", "tab", "escape", *"db", "tab", "escape", "enter", "enter")
        await pilot.pause()

    picked = drive(FOUR, driver)
    assert picked is not None
    assert sorted(one.name for one in picked.machines) == ["cache01", "db01"]
    assert picked.choices == START


def test_without_marks_the_machine_under_the_cursor_is_picked() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*"web", "down", "enter", "enter")
        await pilot.pause()

    picked = drive(FOUR, driver)
    assert picked is not None
    assert [one.name for one in picked.machines] == ["web02"]


def test_marks_given_from_outside_are_kept() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        assert "2 marked" in text_of(app, "#status")
        await pilot.press("enter", "enter")
        await pilot.pause()

    picked = drive(FOUR, driver, marked=("vm-0", "vm-3"))
    assert picked is not None
    assert sorted(one.name for one in picked.machines) == ["cache01", "web01"]


def test_escape_leaves_when_there_is_no_search() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("escape")
        await pilot.pause()

    assert drive(FOUR, driver) is None


def test_columns_sort_and_turn_around() -> None:
    machines = [replace(one, cpus=number) for number, one in enumerate(FOUR)]

    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        table = app.query_one(MachineTable)
        for column in ("name", "power", "cpus"):
            await pilot.press("ctrl+o")
            assert table.sorted_by == (column, False)
            assert shown(app) == [one.name for one in sort_machines(sort_machines(machines, "path"), column)]
        await pilot.press("ctrl+r")
        assert shown(app) == ["web01", "web02", "db01", "cache01"]
        await pilot.click(MachineTable, offset=(6, 0))
        assert table.sorted_by == ("name", False)

    drive(machines, driver, size=(200, 40))


def test_the_mouse_marks() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.click(MachineTable, offset=(1, 2))
        assert len(app.query_one(MachineTable).marked) == 1

    drive(FOUR, driver)


def test_details_come_when_the_cursor_rests_and_only_then() -> None:
    asked: list[str] = []

    def look_up(moref: str) -> Machine:
        asked.append(moref)
        if moref == "vm-3":
            raise AccessError("you may not look at cache01")
        return replace(make_machine(), summary=FOUR[int(moref[3:])])

    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*["down", "up"] * 5)  # cache01 is the first in order of paths
        await pilot.pause(DETAILS_AFTER_S + 0.5)
        assert "you may not look" in text_of(app, "#details")
        await pilot.press("down")
        await pilot.pause(DETAILS_AFTER_S + 0.5)
        assert "firmware" in text_of(app, "#details")

    machines = [replace(one, path=f"/DC/vm/{one.name}") for one in FOUR]
    drive(machines, driver, look_up=look_up)
    assert asked == ["vm-3", "vm-2"]


def test_the_form_hands_over_what_was_chosen() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, ChoicesScreen)
        await pilot.press(*"/x", "down")  # the folder, then the format
        await pilot.press("left", "right", "down", "right", "down", "right", "down", "down", "right", "down", *"20M")
        assert screen.query_one("#isos", Choice).value == "eject"
        await pilot.press("enter")
        await pilot.pause()

    picked = drive(FOUR, driver)
    assert picked is not None
    assert picked.choices == Choices(
        ExportSpec(
            machine="",
            output_dir=Path("/srv/images/x"),
            format=OutputFormat.QCOW2,
            compress=Compression.CHECKED,
            state=SourceState.SHUTDOWN,
            remove_cdrom=True,
        ),
        bandwidth_bytes_s=20 * MiB,
    )


def test_the_form_shows_where_a_relative_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen.query_one("#folder", Input).value == str(tmp_path / "images")

    monkeypatch.chdir(tmp_path)
    drive(FOUR, driver, start=Choices(ExportSpec(machine="", output_dir=Path("images"))))


def test_the_form_refuses_what_does_not_go_together() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press("down", "right", "down", "right", "enter")  # raw, compressed
        await pilot.pause()
        assert isinstance(app.screen, ChoicesScreen)
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, ChoicesScreen)

    assert drive(FOUR, driver) is None


def test_no_question_about_running_machines_where_none_runs() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert {choice.id for choice in app.screen.query(Choice)} == {"format", "compress", "method", "isos"}

    drive([machine(1, name="off", power=Power.OFF)], driver)


def test_names_cannot_write_to_the_terminal() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        table = app.query_one(MachineTable)
        lines = ["".join(segment.text for segment in table.render_line(y)) for y in range(table.size.height)]
        assert any("a\\x1b[31mb" in line for line in lines)
        assert not any("\x1b" in line for line in lines)

    drive([machine(1, name="a\x1b[31mb"), machine(2, name="日本語のとても長い名前" * 5)], driver)


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (118, 30), (200, 50)])
def test_every_line_is_as_wide_as_the_list(size: tuple[int, int]) -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        table = app.query_one(MachineTable)
        await pilot.press("pagedown")
        assert {table.render_line(y).cell_length for y in range(table.size.height)} <= {table.size.width}

    wide = [machine(number, name="日本語" * number) for number in range(1, 40)]
    drive([*FOUR, *wide], driver, size=size)


@pytest.mark.parametrize("machines", [FOUR, inventory(300), [machine(1, name="x" * 90, path="/DC/vm/" + "f" * 90)]])
def test_columns_fill_the_width_and_leave_when_there_is_no_room(machines: list[MachineSummary]) -> None:
    naturals = natural_widths(machines)
    columns = 0
    for total in range(MIN_SIZE[0] - 1, 250):
        found = widths(total, naturals)
        assert {"name", "power", "size"} <= {column.key for column, _ in found}
        assert 2 + sum(width + 1 for _, width in found) <= total + 1
        assert len(found) >= columns, f"a column was lost at {total}"
        columns = len(found)
    assert columns == len(COLUMNS)


def test_names_are_whole_where_there_is_room() -> None:
    wide = {column.key: width for column, width in widths(136, natural_widths(inventory(300)))}
    assert wide["name"] >= len("prod-eu-web-00001")
    assert wide["path"] >= len("/DC0/vm/folder36")


def test_a_space_belongs_to_the_query_and_all_words_must_match() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*"web", "space", *"02")
        assert shown(app) == ["web02"]
        assert app.query_one(SearchLine).value == "web 02"
        assert app.table.marked == set()
        await pilot.press("space", *"cache")
        assert shown(app) == []

    drive(FOUR, driver)


def test_filters_hide_rows_but_never_lose_marks() -> None:
    machines = [replace(one, power=Power.OFF if one.name == "db01" else Power.ON) for one in FOUR]

    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press(*"db", "tab", "escape", *"cache", "tab", "escape")
        await pilot.press("ctrl+t")
        assert sorted(shown(app)) == ["cache01", "db01"]
        assert "2 of 4 (only marked)" in text_of(app, "#status")
        await pilot.press("ctrl+p")
        assert shown(app) == ["cache01"]
        assert "1 of 4 (only marked, on)" in text_of(app, "#status")
        assert "2 marked (1 not shown), 32.0 GiB" in text_of(app, "#status")
        await pilot.press("ctrl+t", "ctrl+p")
        assert shown(app) == ["db01"]
        await pilot.press("ctrl+p")
        assert shown(app) == []
        assert "among those that are suspended" in text_of(app, "#details")
        await pilot.press("escape")
        assert len(shown(app)) == 4
        await pilot.press(*"web", "enter", "enter")
        await pilot.pause()

    picked = drive(machines, driver)
    assert picked is not None
    assert sorted(one.name for one in picked.machines) == ["cache01", "db01"]


def test_escape_asks_before_it_forgets_marks() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("tab", "escape")
        assert "Esc again quits" in text_of(app, "#status")
        await pilot.press("down")
        assert "1 marked" in text_of(app, "#status")
        await pilot.press("escape", "x", "backspace", "escape")
        assert app.is_running
        await pilot.press("escape")
        await pilot.pause()
        assert not app.is_running

    assert drive(FOUR, driver) is None


@pytest.mark.parametrize("small", [(59, 24), (80, 15), (20, 5)])
def test_a_terminal_that_is_too_small_is_told_until_it_is_enlarged(small: tuple[int, int]) -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        await pilot.press("tab", *"web")
        await pilot.resize_terminal(*small)
        await pilot.pause()
        assert isinstance(app.screen, TooSmall)
        text = str(app.screen.query_one("#small", Static).render())
        assert f"{small[0]} x {small[1]}, but 60 x 16 are needed" in text
        await pilot.press("x", "escape")
        await pilot.resize_terminal(60, 16)
        await pilot.pause()
        assert not isinstance(app.screen, TooSmall)
        assert app.query_one(SearchLine).value == "web"
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ChoicesScreen)
        await pilot.resize_terminal(*small)
        await pilot.pause()
        assert isinstance(app.screen, TooSmall)
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert isinstance(app.screen, ChoicesScreen)

    drive(FOUR, driver)


def test_all_keys_are_shown_at_every_width() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        for width in (60, 80, 120, 200):
            await pilot.resize_terminal(width, 24)
            await pilot.pause()
            keys = app.query_one("#keys", Static)
            assert cell_len(str(keys.render())) <= (width - 2) * keys.size.height
            for key in ("Tab", "^A", "^T", "^P", "^O", "^R", "Enter", "Esc"):
                assert key in str(keys.render())

    drive(FOUR, driver)


def test_the_search_line_edits_in_the_middle() -> None:
    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        line = app.query_one(SearchLine)
        await pilot.press(*"wb", "left", "e", "end", "1", "home", "delete")
        assert line.value == "eb1"
        await pilot.press("end", "ctrl+w")
        assert line.value == ""

    drive(FOUR, driver)


class Work:
    """What the picker did since ``start``: rows drawn, and names looked at by the search. The same at any speed of the
    machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.start()
        row, narrow = MachineTable._row, Word.narrow

        def counted_row(table: MachineTable, position: int) -> Any:
            self.rows += 1
            return row(table, position)

        def counted_narrow(word: Word, found: list[int], *texts: Sequence[str]) -> list[int]:
            self.searched.append(len(found))
            return narrow(word, found, *texts)

        patch.setattr(MachineTable, "_row", counted_row)
        patch.setattr(Word, "narrow", counted_narrow)

    def start(self) -> None:
        self.rows = 0
        self.searched: list[int] = []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_what_a_key_costs_does_not_grow_with_the_inventory(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rows on the screen are drawn, and a longer query looks only at what the shorter one found. How long that
    takes is a benchmark (``scripts/bench picker``)."""
    work = Work(monkeypatch)
    found = [10_000]

    async def driver(app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        assert isinstance(app, WatchedPicker)
        assert 0 < work.rows <= 3 * size[1], "the first list"
        for key in KEYS:
            drawn = app.drawn
            work.start()
            await pilot.press(key)
            assert app.drawn > drawn, f"{key} draws nothing"
            assert work.rows <= 2 * size[1], key
            if len(key) == 1:
                assert work.searched == [found[-1]], key
                found.append(len(app.table.rows))
            else:
                assert work.searched == [], f"{key} searches again"

    drive(inventory(10_000), driver, size=size)
    assert 10_000 > found[-2] >= found[-1] > 0, "the narrowing was never seen"


@pytest.mark.slow
def test_ten_thousand_machines_on_a_real_terminal(tmp_path: Path) -> None:
    env = environment(tmp_path, PYTHONPATH=str(Path(__file__).parents[2]))
    with terminal([sys.executable, "-c", PROGRAM], env, (200, 50)) as screen:
        screen.wait_for("10,000 of 10,000")
        screen.settle(0.5)
        for key in KEYS:
            screen.shown = ""
            screen.type(SEQUENCES.get(key, key))
            screen.wait_for("\x1b[")
            screen.settle(0.06)
        screen.type("\x03")
        assert screen.finish() == 0
