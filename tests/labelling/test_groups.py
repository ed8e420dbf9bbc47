"""Decisions about faces from made-up embeddings and thumbnails."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.splits import hashed_split
from rayface.errors import RayfaceError
from rayface.labelling.groups import Faces, GroupOptions, decide, write_lists
from rayface.storage import open_filesystem


def faces(
    embeddings: np.ndarray,
    prints: np.ndarray | None = None,
    known: list[str | None] | None = None,
    splits: list[str] | None = None,
    sharpness: list[float] | None = None,
    ids: list[str] | None = None,
) -> Faces:
    count = len(embeddings)
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Faces(
        ["shard-00000.parquet"] * count,
        ids or [f"{face:03d}.jpg" for face in range(count)],
        splits or ["train"] * count,
        known or [None] * count,
        (embeddings / np.maximum(length, 1e-9)).astype(np.float32),
        np.eye(count, dtype=np.float32) if prints is None else prints.astype(np.float32),
        np.array(sharpness or [np.nan] * count, np.float32),
    )


PEOPLE = np.array([[1, 0, 0], [0, 1, 0], [1, 0.01, 0], [0, 0, 1], [0, 1, 0.01]], np.float64)


def test_a_group_is_named_after_its_first_face_and_split_by_that_name() -> None:
    table, counts = decide(faces(PEOPLE), GroupOptions(perhaps_same_person=0.9, same_person=0.9))
    assert table["identity"].to_pylist() == [f"group:{n:03d}.jpg" for n in (0, 1, 0, 3, 1)]
    assert table["split"].to_pylist() == [hashed_split(f"{n:03d}.jpg") for n in (0, 1, 0, 3, 1)]
    assert all(table["predicted"].to_pylist())
    assert (counts["people"], counts["people_with_two_or_more"], counts["largest_group"]) == (3, 2, 2)


def test_a_known_person_lends_the_name_and_the_split() -> None:
    known = [None, None, "Ann", None, None]
    splits = ["train", "validation", "test", "train", "train"]
    table, _ = decide(
        faces(PEOPLE, known=known, splits=splits), GroupOptions(perhaps_same_person=0.9, same_person=0.9, splits="keep")
    )
    assert table["identity"].to_pylist()[0] == "Ann"
    assert table["predicted"].to_pylist() == [True, True, False, True, True]
    assert table["split"].to_pylist() == ["test", "validation", "test", "train", "validation"]


def test_faces_of_one_photo_share_the_split_that_ingest_gave_it() -> None:
    ids = [f"{photo:03d}.jpg#{face}" for photo in range(60) for face in range(2)]
    table, _ = decide(faces(np.eye(len(ids)), ids=ids), GroupOptions(same_person=0.9, perhaps_same_person=0.9))
    assert table["split"].to_pylist() == [hashed_split(name.partition("#")[0]) for name in ids]
    assert set(table["split"].to_pylist()) == {"train", "validation", "test"}
    assert len(set(table["identity"].to_pylist())) == len(ids), "nobody is two people for it"


def test_who_may_be_one_person_has_two_names_but_one_split() -> None:
    turned = np.radians([0, 20, 90])
    made = faces(np.stack([np.cos(turned), np.sin(turned)], 1), splits=["train", "test", "train"])
    table, counts = decide(made, GroupOptions(same_person=0.99, perhaps_same_person=0.9, splits="keep"))
    assert table["identity"].to_pylist() == ["group:000.jpg", "group:001.jpg", "group:002.jpg"]
    assert table["split"].to_pylist() == ["test", "test", "train"]
    assert counts["alike_across_splits"] == 0
    with pytest.raises(RayfaceError, match=r"perhaps_same_person=0\.95 must not be above same_person=0\.9"):
        GroupOptions(same_person=0.9, perhaps_same_person=0.95)


def test_faces_without_embedding_are_nobody() -> None:
    table, counts = decide(faces(np.zeros((3, 4)), splits=["test", "train", "train"]), GroupOptions(splits="keep"))
    assert table["identity"].to_pylist() == [None] * 3
    assert table["split"].to_pylist() == ["test", "train", "train"], "they are not one unit either"
    assert counts["people"] == 0


def test_embeddings_without_a_cosine_are_refused() -> None:
    with pytest.raises(RayfaceError, match="does not state from which cosine on"):
        decide(faces(PEOPLE), GroupOptions())


def test_of_copies_the_sharpest_stays_and_both_are_in_one_split() -> None:
    prints = np.eye(5)
    prints[4] = prints[1]
    apart = np.eye(5)  # the recogniser takes the copies for two people: one is blurred
    options = GroupOptions(perhaps_same_person=0.9, same_person=0.9, splits="keep")
    made = faces(apart, prints, splits=["train", "test", "train", "train", "train"], sharpness=[1, 0.2, 1, 1, 0.5])
    table, counts = decide(made, options)
    assert table["left_out"].to_pylist() == [None, "duplicate", None, None, None]
    assert table["repeats"].to_pylist()[1] == "004.jpg"
    assert table["split"].to_pylist()[1] == table["split"].to_pylist()[4] == "test"
    assert counts["near_duplicates"] == 1
    kept, _ = decide(made, GroupOptions(perhaps_same_person=0.9, same_person=0.9, duplicates="keep"))
    assert kept["left_out"].to_pylist() == [None] * 5
    assert kept["repeats"].to_pylist()[1] == "004.jpg"


def test_a_soft_face_does_not_push_out_its_copy() -> None:
    prints = np.eye(5)
    prints[4] = prints[1]
    made = faces(PEOPLE, prints, known=[None, "Ann", None, None, None], sharpness=[1, 0.1, 1, 1, 0.5])
    table, _ = decide(made, GroupOptions(perhaps_same_person=0.9, same_person=0.9, min_sharpness=0.3))
    assert table["left_out"].to_pylist() == [None, "too-soft", None, None, None]


@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from(["hash", "keep"]), st.floats(0.3, 0.95))
def test_no_person_and_no_photo_is_in_two_splits(seed: int, count: int, rule: str, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    who = rng.integers(0, 6, count)
    embeddings = rng.normal(size=(6, 5))[who] + 0.5 * rng.normal(size=(count, 5))
    prints = np.eye(count)[rng.integers(0, max(1, count - 3), count)]
    known = [f"P{person}" if rng.random() < 0.3 else None for person in who]
    splits = rng.choice(["train", "validation", "test"], count).tolist()
    options = GroupOptions(same_person=threshold, perhaps_same_person=0.8 * threshold, splits=rule)
    table, counts = decide(faces(embeddings, prints, known, splits), options)
    split_of = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    held = defaultdict(set)
    for row in table.to_pylist():
        held[row["identity"]].add(row["split"])
        if row["repeats"]:
            assert row["split"] == split_of[row["repeats"]]
    assert all(len(found) == 1 for found in held.values())
    assert [row["identity"] for row in table.to_pylist() if not row["predicted"]] == [n for n in known if n]
    assert counts["people"] <= len(held)


def test_lists_say_why(tmp_path: Path) -> None:
    prints = np.eye(5)
    prints[4] = prints[1]
    made = faces(PEOPLE, prints, sharpness=[0.1, 0.9, 1, 1, 0.5])
    table, _ = decide(made, GroupOptions(perhaps_same_person=0.9, same_person=0.9, min_sharpness=0.3))
    filesystem, folder = open_filesystem(tmp_path)
    write_lists(table, [["zzz.jpg", "no-face", "no face was found"]], filesystem, folder)
    rejected = (tmp_path / "rejected.csv").read_text().splitlines()
    assert rejected[1:] == [
        "000.jpg,too-soft,its sharpness is 0.100",
        "004.jpg,duplicate,a near-duplicate of 001.jpg (1.00)",
        "zzz.jpg,no-face,no face was found",
    ]
    groups = (tmp_path / "groups.csv").read_text().splitlines()
    assert groups[0] == "id,identity,faces,split,identity_is"
    assert len(groups) == 4
    assert (tmp_path / "duplicates.csv").read_text().splitlines()[1].startswith("004.jpg,001.jpg,1.0000,left out,")


def test_embeddings_of_several_lengths_are_refused() -> None:
    from rayface.labelling.groups import _stacked

    with pytest.raises(RayfaceError, match="of 2 and 3 numbers"):
        _stacked([np.zeros(2, np.float32), np.zeros(3, np.float32)])
