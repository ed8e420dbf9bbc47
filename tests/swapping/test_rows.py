"""Which faces a set of swaps holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayface.errors import RayfaceError
from rayface.swapping.rows import NOBODY, Row, draw_rows

SPLITS = ["train"] * 6 + ["validation"] * 3 + ["test"] * 4
PEOPLE = ["a", "a", "b", "c", "d", None, "e", "f", "f", "g", "h", "i", "i"]


@given(st.integers(0, 1000), st.sampled_from([0, 3, 6, 12]))
def test_pairs_are_of_different_people_of_one_split(seed: int, pairs: int) -> None:
    rows = draw_rows(SPLITS, PEOPLE, pairs, seed)
    for row in rows:
        assert PEOPLE[row.face] is not None
        if row.donor != NOBODY:
            assert PEOPLE[row.donor] not in (None, PEOPLE[row.face])
            assert SPLITS[row.donor] == SPLITS[row.face]
    real = [row.face for row in rows if row.donor == NOBODY]
    assert len(real) == len(set(real))
    assert set(real) == {row.face for row in rows if row.donor != NOBODY}


def test_by_default_every_photo_gets_one_face() -> None:
    rows = draw_rows(SPLITS, PEOPLE)
    assert sorted(row.face for row in rows if row.donor != NOBODY) == [i for i, who in enumerate(PEOPLE) if who]
    assert rows == draw_rows(SPLITS, PEOPLE)
    assert rows != draw_rows(SPLITS, PEOPLE, seed=1)


def test_a_share_of_the_photos_is_retouched_by_each_step() -> None:
    rows = draw_rows(SPLITS, PEOPLE, steps=("enhance", "beautify"), share=0.5)
    retouched = [row for row in rows if row.step]
    assert [row.step for row in retouched if SPLITS[row.face] == "test"] == ["enhance"] * 2 + ["beautify"] * 2
    assert all(row.donor == NOBODY for row in retouched)


def test_a_split_of_one_person_is_left_out() -> None:
    rows = draw_rows(["train", "train", "test"], ["a", "b", "c"])
    assert {row.face for row in rows} == {0, 1}
    assert Row(0) in rows


def test_refusals() -> None:
    with pytest.raises(RayfaceError, match="ask for at most 12"):
        draw_rows(SPLITS, PEOPLE, 40)
    with pytest.raises(RayfaceError, match="names a step twice"):
        draw_rows(SPLITS, PEOPLE, steps=("enhance", "enhance"))
    with pytest.raises(RayfaceError, match="no split has two people"):
        draw_rows(["train", "train"], [None, None], 6)
    with pytest.raises(RayfaceError, match="rayface data label"):
        draw_rows(["train", "test"], ["a", "b"])
    with pytest.raises(RayfaceError, match="no split has two people"):
        draw_rows(["train"] * 3, [None] * 3)
    with pytest.raises(RayfaceError, match="a is in the splits train and test"):
        draw_rows(["train", "test", "train"], ["a", "a", "b"])
