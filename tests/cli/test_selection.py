"""Which machines names, patterns, folders and words mean."""

from __future__ import annotations

import pytest

from hypersdk.cli.selection import Selection, select
from hypersdk.errors import HyperSDKError, LookupFailed, UsageError
from hypersdk.model import MachineSummary
from tests.support.inventories import inventory, machine

PATHS = (
    "/DC0/vm/Production/Web/web-01",
    "/DC0/vm/Production/Web/web-02",
    "/DC0/vm/Production/Databases/db-01",
    "/DC0/vm/Production[old]/web-03",
    "/DC0/vm/Productionx/web-04",
    "/DC0/vm/Test/web[01]",
    "/DC0/vm/Test/WEB-05",
    "/DC0/vm/Test/a*b",
    "/DC0/vm/Test/acb",
    "/DC0/vm/Test/twin",
    "/DC0/vm/Production/twin",
    "/DC0/vm/Test/a%2fb",
)


def made(number: int, path: str) -> MachineSummary:
    return machine(4 * number, name=path.rpartition("/")[2].replace("%2f", "/"), path=path)


MACHINES = [made(number, path) for number, path in enumerate(PATHS)]


def chosen(
    *names: str,
    folders: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    query: str = "",
    exclude: tuple[str, ...] = (),
    everything: bool = False,
    tagged: frozenset[str] = frozenset(),
    warned: list[str] | None = None,
) -> list[str]:
    selection = Selection(names, folders, tags, query, exclude, everything)
    selection.check()
    told: list[str] = [] if warned is None else warned
    found = [machine.name for machine in select(MACHINES, selection, tagged=tagged, warn=told.append)]
    assert warned is not None or not told
    return found


def test_patterns_match_names_and_paths_of_any_case() -> None:
    assert chosen("web-*") == ["web-01", "web-02", "web-03", "web-04", "WEB-05"]
    assert chosen("Web-0[12]") == ["web-01", "web-02"]
    assert chosen("/DC0/vm/Production/*/web-0?") == ["web-01", "web-02"]
    assert chosen("Production/*/web-0?") == ["web-01", "web-02"]
    assert chosen("db-01") == ["db-01"]


def test_a_star_does_not_go_down_folders() -> None:
    with pytest.raises(LookupFailed, match=r"no machine matches '/DC0/vm/\*/web-01'"):
        chosen("/DC0/vm/*/web-01")


def test_a_name_that_looks_like_a_pattern_is_that_machine() -> None:
    assert chosen("web[01]") == ["web[01]"]
    assert chosen("a*b") == ["a*b"]
    assert chosen("a?b") == ["a*b", "acb", "a/b"]
    told: list[str] = []
    assert chosen("Test/a*b") == ["a*b"]
    assert chosen("web-*", exclude=("web[01]",), warned=told) == chosen("web-*")
    assert told == ["--exclude 'web[01]' excludes no machine"]


def test_names_keep_their_order_and_come_once() -> None:
    assert chosen("web-02", "web-*", "vm-0") == ["web-02", "web-01", "web-03", "web-04", "WEB-05"]


def test_folders_are_paths_with_all_below_them_and_no_beginnings_of_names() -> None:
    assert chosen(folders=("Production",)) == ["web-01", "web-02", "db-01", "twin"]
    assert chosen(folders=("/DC0/vm/Production/Web/",)) == ["web-01", "web-02"]
    assert chosen(folders=("production/web", "Test")) == [
        *("web-01", "web-02", "web[01]", "WEB-05", "a*b", "acb", "twin", "a/b"),
    ]
    assert chosen(folders=("Production[old]",)) == ["web-03"]
    assert len(chosen(folders=("Production*",))) == 6
    assert len(chosen(folders=("/DC0",))) == len(MACHINES)
    with pytest.raises(LookupFailed, match="no machine lies in a folder 'Web'"):
        chosen(folders=("Web",))


def test_conditions_narrow_each_other() -> None:
    assert chosen("web-*", folders=("Production",)) == ["web-01", "web-02"]
    assert chosen("web-*", folders=("Production",), query="02") == ["web-02"]
    assert chosen(query="web 02") == ["web-02"]
    assert chosen(tags=("prod",), tagged=frozenset({"vm-0", "vm-8"})) == ["web-01", "db-01"]
    assert chosen("web-*", tags=("prod",), tagged=frozenset({"vm-0", "vm-8"})) == ["web-01"]
    assert len(chosen(everything=True)) == len(MACHINES)
    assert chosen(everything=True, folders=("Production/Web",)) == ["web-01", "web-02"]


def test_what_is_excluded_is_out_whatever_selects_it() -> None:
    assert chosen("web-01", "web-02", exclude=("web-01",)) == ["web-02"]
    assert chosen(folders=("Production",), exclude=("WEB-*", "twin")) == ["db-01"]
    assert chosen(folders=("Test",), exclude=("Test/a*b", "Test/acb", "twin", "a/b")) == ["web[01]", "WEB-05"]
    assert "twin" not in chosen(everything=True, exclude=("twin",)), "both of that name"


def test_an_ambiguous_name_is_refused_and_a_path_is_not() -> None:
    with pytest.raises(LookupFailed) as caught:
        chosen("twin")
    assert caught.value.code == "ambiguous"
    assert chosen("Production/twin") == ["twin"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": "nosuchword"}, "none of 12 machines matches --filter 'nosuchword'"),
        ({"folders": ("Test",), "query": "web-01"}, "--folder 'Test', --filter 'web-01'"),
        ({"tags": ("prod",)}, "--tag 'prod'"),
        ({"everything": True, "exclude": ("*",)}, "--exclude leaves none of the 12 machines that --all selects"),
    ],
)
def test_nothing_selected_says_what_was_looked_for(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(LookupFailed) as caught:
        chosen(**arguments)  # type: ignore[arg-type]
    assert caught.value.code == "nothing_selected"
    assert said in caught.value.message


@pytest.mark.parametrize(
    "selection",
    [
        Selection(("a",), everything=True),
        Selection(exclude=("a",)),
        Selection(folders=("",)),
        Selection(folders=(" / ",)),
        Selection(tags=(" ",)),
        Selection((" ",)),
        Selection(("a",), exclude=("",)),
        Selection(query="  "),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(selection: Selection) -> None:
    with pytest.raises(UsageError):
        selection.check()


def test_one_name_that_is_not_there_is_an_error_beside_others_that_are() -> None:
    for names in (("web-01", "nosuch"), ("web-01", "nosuch*")):
        with pytest.raises(HyperSDKError) as caught:
            chosen(*names)
        assert caught.value.code == "not_found"


def test_all_conditions_hold_for_each_of_ten_thousand_machines() -> None:
    many = inventory(10_000)
    selection = Selection(("prod-*",), folders=("/DC1",), query="esx01", exclude=("*7",))
    found = {machine.moref for machine in select(many, selection, warn=lambda _text: None)}
    assert found == {
        machine.moref
        for machine in many
        if machine.name.startswith("prod-")
        and machine.path.startswith("/DC1/")
        and not machine.name.endswith("7")
        and machine.host == "esx01.example.com"
    }
    assert found
