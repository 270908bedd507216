from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypersdk.vsphere.paths import Place, ancestors, datacenter_of, decode_name, encode_name, inventory_path

NAMES = st.text(min_size=1, max_size=30)


@given(NAMES)
def test_a_name_survives_being_part_of_a_path(name: str) -> None:
    part = encode_name(name)
    assert "/" not in part
    assert decode_name(part) == name


def test_only_the_three_escapes_of_vsphere_are_decoded() -> None:
    assert decode_name("a%2Fb%5cc%25d %20 100% %2") == "a/b\\c%d %20 100% %2"
    assert decode_name("%252f") == "%2f"


@given(st.lists(NAMES, min_size=1, max_size=6), NAMES)
def test_a_path_can_be_taken_apart_again(folders: list[str], name: str) -> None:
    places = {"group-d1": Place("Datacenters", None, "Folder")}
    parent = "group-d1"
    for number, folder in enumerate(folders):
        moref = f"group-{number}"
        places[moref] = Place(encode_name(folder), parent, "Folder")
        parent = moref
    path = inventory_path(places, parent, encode_name(name))
    assert [decode_name(part) for part in path.split("/")] == ["", *folders, name]


def test_names_that_a_server_left_unescaped_still_make_one_part() -> None:
    places = {"group-d1": Place("root", None, "Folder"), "dc": Place("50% off", "group-d1", "Datacenter")}
    assert inventory_path(places, "dc", "a/b") == "/50%25 off/a%2fb"
    assert datacenter_of(places, "dc") == "50% off"


def test_a_ring_of_parents_ends() -> None:
    places = {"a": Place("a", "b", "Folder"), "b": Place("b", "a", "Folder")}
    assert 0 < len(ancestors(places, "a")) <= 64


def test_an_invisible_parent_is_left_out() -> None:
    assert inventory_path({}, "group-v3", "vm") == "/vm"
    assert datacenter_of({}, None) is None
