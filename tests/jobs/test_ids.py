"""Ids of jobs: their form, and what abbreviates them."""

from __future__ import annotations

import uuid

from hypersdk.jobs.ids import derived_id, new_id, short_ids, whole_id

EARLIER = "job-3f9a1c20d4e5"


def test_ids_are_uuids_of_version_4_in_their_usual_form() -> None:
    made = [new_id(), new_id(), derived_id("key", 1), derived_id("key", 2), derived_id("kez", 1)]
    assert len(set(made)) == len(made)
    for text in made:
        found = uuid.UUID(text)
        assert (found.version, found.variant, str(found)) == (4, uuid.RFC_4122, text)
    assert derived_id("key", 1) == made[2]


def test_a_whole_id_is_known_by_its_form() -> None:
    made = new_id()
    assert whole_id(made) == whole_id(made.upper()) == made
    assert whole_id(EARLIER) == EARLIER
    for text in (made[:35], made + "0", made.replace("-", ""), EARLIER[:-1], "web01", "", f"{made}\n"):
        assert whole_id(text) is None


def test_short_ids_differ_and_only_uuids_are_cut() -> None:
    one, two = "0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480", "1b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480"
    alike = one[:9] + "ffff" + one[13:]
    assert short_ids([one, two, EARLIER, "web01-of-the-night"]) == [one[:8], two[:8], EARLIER, "web01-of-the-night"]
    assert short_ids([one, alike]) == [one[:13], alike[:13]]
    assert short_ids([one, one[:-1] + "1"]) == [one, one[:-1] + "1"]
    assert short_ids([]) == []
