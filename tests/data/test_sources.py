"""The layouts data sets come in, their labels, and the splits."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rayface import records
from rayface.data.sources import Source, find_items
from rayface.data.splits import celeba_splits, celebamask_split, hashed_split
from rayface.errors import RayfaceError


def tree(root: Path, *paths: str, text: str = "x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def split_of(source: Source) -> dict[str, str]:
    return {item.id: item.split for item in source.items}


def test_hashed_splits_are_fixed_and_in_proportion() -> None:
    counts = Counter(hashed_split(f"person {n}") for n in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.10, abs=0.01)
    assert counts["validation"] / 20_000 == pytest.approx(0.05, abs=0.01)
    # Pinned: a change would move people between splits that models were trained on.
    pinned = {"002005": "test", "002009": "test", "002015": "validation", "002016": "train", "11.jpg": "test"}
    assert {key: hashed_split(key) for key in pinned} == pinned


def test_folder_takes_pictures_at_any_depth(tmp_path: Path) -> None:
    tree(tmp_path, "b.JPG", "a/c.png", "a/d/e.webp", "scan.tiff", "animation.gif", "notes.txt", "a/.hidden.jpg")
    tree(tmp_path, ".cache/f.jpg", "__MACOSX/._b.jpg")
    found = find_items(tmp_path, "folder")
    assert [item.id for item in found.items] == ["a/c.png", "a/d/e.webp", "animation.gif", "b.JPG", "scan.tiff"]
    assert Path(found.items[0].path) == tmp_path / "a/c.png"
    assert {item.identity for item in found.items} == {None}
    assert find_items(tmp_path.as_uri(), "folder").digest() == found.digest()
    assert [item.id for item in find_items(tmp_path, "folder", limit=2).items] == ["a/c.png", "a/d/e.webp"]


@pytest.mark.parametrize("nested", ["", "lfw/lfw-deepfunneled/"])
def test_identity_takes_one_folder_a_person(tmp_path: Path, nested: str) -> None:
    people = [f"Person_{n:02d}" for n in range(40)]
    tree(tmp_path, *(f"{nested}{person}/{person}_{k:04d}.jpg" for person in people for k in range(1, 4)))
    found = find_items(tmp_path, "identity")
    assert len(found.items) == 120
    assert sorted({item.identity for item in found.items if item.identity}) == people
    assert len({(item.identity, item.split) for item in found.items}) == 40
    assert set(split_of(found).values()) == set(records.SPLITS)


def test_identity_lists_pictures_in_no_folder(tmp_path: Path) -> None:
    found = find_items(tree(tmp_path, "Ann/1.jpg", "Bob/deeper/2.jpg", "stray.jpg"), "identity")
    assert {item.id: item.identity for item in found.items} == {"Ann/1.jpg": "Ann", "Bob/deeper/2.jpg": "Bob"}
    assert [row[:2] for row in found.rejected] == [("stray.jpg", "no-identity")]


def celeba_text(root: Path, photos: dict[str, str]) -> None:
    """CelebA's own label files for photo -> identity."""
    names = list(photos)
    header = f"{len(names)}\n{' '.join(records.ATTRIBUTES)} \n"
    signs = {name: ["-1"] * 40 for name in names}
    signs[names[0]][records.ATTRIBUTES.index("Eyeglasses")] = " 1"
    rows = "".join(f"{name} {' '.join(signs[name])}\n" for name in names)
    (root / "Anno").mkdir(parents=True, exist_ok=True)
    (root / "Anno/list_attr_celeba.txt").write_text(header + rows)
    (root / "Anno/identity_CelebA.txt").write_text("".join(f"{name} {who}\n" for name, who in photos.items()))
    columns = " ".join(f"{part}_{axis}" for part in ("lefteye", "righteye", "nose") for axis in "xy")
    points = " ".join(str(n) for n in range(60, 70))
    rows = "".join(f"{name} {points}\n" for name in names)
    (root / "Anno/list_landmarks_align_celeba.txt").write_text(f"{len(names)}\n{columns} ...\n{rows}")


@pytest.mark.parametrize("photos", ["", "photos/", "img_align_celeba/img_align_celeba/"])
def test_celeba_reads_its_text_labels(tmp_path: Path, photos: str) -> None:
    names = ["000001.jpg", "000002.jpg", "000900.jpg"]
    celeba_text(tmp_path, dict(zip(names, ("2880", "2937", "2880"), strict=True)))
    found = find_items(tree(tmp_path, *(photos + name for name in names)), "celeba")
    first = found.items[0]
    assert [item.id for item in found.items] == names
    assert Path(first.path) == tmp_path / photos / "000001.jpg"
    assert (first.identity, first.landmarks) == ("2880", tuple(range(60, 70)))
    assert first.attributes is not None
    assert [records.ATTRIBUTES[n] for n, value in enumerate(first.attributes) if value == 1] == ["Eyeglasses"]
    assert split_of(found) == {"000001.jpg": "test", "000002.jpg": "train", "000900.jpg": "test"}
    assert found.notes == []


def test_celeba_reads_csv_labels_in_any_column_order(tmp_path: Path) -> None:
    tree(tmp_path, "000001.jpg", "000002.png")
    header = ["image_id", *reversed(records.ATTRIBUTES)]
    rows = [["000001.jpg", "1", *["-1"] * 39], ["000002.jpg", *["-1"] * 39, "1"]]
    (tmp_path / "attributes.csv").write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    (tmp_path / "identity.csv").write_text("image_id,identity\n000001.jpg,7\n000002.jpg,8\n")
    found = {item.id: item for item in find_items(tmp_path, "celeba").items}
    assert found["000001.jpg"].attributes == (-1,) * 39 + (1,)
    assert found["000002.png"].attributes == (1,) + (-1,) * 39
    assert found["000002.png"].identity == "8"
    assert found["000002.png"].landmarks is None


def test_celeba_without_labels_says_what_is_missing(tmp_path: Path) -> None:
    found = find_items(tree(tmp_path, "000799.jpg", "000800.jpg", "000850.jpg"), "celeba")
    assert list(split_of(found).values()) == ["train", "validation", "test"]
    assert "no landmarks labels found" in found.notes
    assert "without identity labels a person may be in two splits" in found.notes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("identity.csv", "image_id,identity\n000001.jpg,1,2\n", "exactly one identity"),
        ("identity_CelebA.txt", "not a photo 7\n", "begins with 'not'"),
        ("landmarks.csv", "image_id,x\n000001.jpg,1,2\n", "has 2 values where 10 are expected"),
        ("landmarks.csv", "image_id,x\n000001.jpg,1,2,3,4,5,6,7,8,9,ten\n", "could not convert"),
        ("attributes.csv", "image_id,Male\n000001.jpg,1\n", "5_o_Clock_Shadow.*missing"),
        ("attributes.csv", f"image_id,{','.join(records.ATTRIBUTES)}\n000001.jpg{',7' * 40}\n", "other than 1 and -1"),
        ("list_eval_partition.txt", "000001.jpg 3\n", "partition 3"),
        ("identity_CelebA.txt", "", "no rows"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    tree(tmp_path, "000001.jpg")
    tree(tmp_path, name, text=text)
    with pytest.raises(RayfaceError, match=f"Label file {name}: .*{message}"):
        find_items(tmp_path, "celeba")


def test_celeba_splits_keep_people_apart() -> None:
    """Numbers, people with several photos, followers above 999, the official partition, hashes."""
    identity = {
        "000010": "pair", "000020": "pair", "000030": "single", "000810": "early", "000860": "late",
        "001500": "single", "001600": "pair", "001700": "early", "150000": "new", "190000": "hashed",
        "190001": "hashed",
    }  # fmt: skip
    official = {"001500": "test", "001600": "train", "001700": "train", "150000": "validation"}
    assert celeba_splits(identity, identity, official) == {
        "000010": "test", "000020": "test", "000030": "train", "000810": "validation", "000860": "test",
        "001500": "train", "001600": "test", "001700": "validation", "150000": "validation",
        "190000": hashed_split("hashed"), "190001": hashed_split("hashed"),
    }  # fmt: skip


def test_celeba_splits_do_not_depend_on_which_photos_are_there() -> None:
    identity = {"000010": "pair", "000020": "pair"}
    assert celeba_splits(["000020"], identity, {}) == {"000020": "test"}


def test_celebamask_merges_part_files_in_their_order(tmp_path: Path) -> None:
    tree(tmp_path, "CelebA-HQ-img/0.jpg", "CelebA-HQ-img/12.jpg")
    parts = ["00000_hair.png", "00000_skin.png", "00000_l_lip.png", "00012_skin.png", "00012_neck_l.png"]
    tree(tmp_path, *(f"CelebAMask-HQ-mask-anno/0/{part}" for part in parts), "CelebA-HQ-attribute-anno.txt")
    first, second = find_items(tmp_path, "celebamask").items
    assert [number for number, _ in first.masks] == [records.PARSING_ID[n] for n in ("skin", "l_lip", "hair")]
    assert [Path(path).name for _, path in second.masks] == ["00012_skin.png", "00012_neck_l.png"]


def test_celebamask_takes_one_mask_a_photo(tmp_path: Path) -> None:
    stems = [digit * 32 for digit in "0123f"]
    tree(tmp_path, *(f"images/{stem}.jpg" for stem in stems), *(f"masks/{stem}.png" for stem in stems[1:]))
    found = find_items(tmp_path, "celebamask")
    assert list(split_of(found).values()) == ["test", "test", "validation", "train", "train"]
    assert [item.masks for item in found.items[:2]] == [(), ((None, str(tmp_path / f"masks/{stems[1]}.png")),)]
    assert found.notes == ["1 photos have no mask"]
    assert celebamask_split("12") == hashed_split("12")


@pytest.mark.parametrize("format", ["folder", "celeba", "celebamask", "identity"])
def test_a_wrong_layout_says_what_was_looked_for(tmp_path: Path, format: str) -> None:
    tree(tmp_path, "readme.txt")
    with pytest.raises(RayfaceError, match=f"not laid out as --format {format}: looked for .*; found readme.txt"):
        find_items(tmp_path, format)


def test_missing_sources_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="cannot be listed") as caught:
        find_items(tmp_path / "nowhere", "folder")
    assert caught.value.status == 404
    with pytest.raises(RayfaceError, match="'imagenet' is unknown; choose one of folder, celeba"):
        find_items(tmp_path, "imagenet")
    with pytest.raises(RayfaceError, match="limit of 0"):
        find_items(tree(tmp_path, "a.jpg"), "folder", limit=0)


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(RayfaceError, match=r"not UTF-8 .*caf\\xe9\.jpg"):
        find_items(tmp_path, "folder")


def test_the_digest_follows_photos_and_labels_but_not_the_place(tmp_path: Path) -> None:
    names = ["000001.jpg", "000002.jpg"]
    here = tree(tmp_path / "here", *names)
    celeba_text(here, {"000001.jpg": "1", "000002.jpg": "2"})
    digest = find_items(here, "celeba").digest()
    shutil.move(here, tmp_path / "there")
    there = tmp_path / "there"
    assert find_items(there, "celeba").digest() == digest
    tree(there, "000002.jpg", text="another size")
    changed = find_items(there, "celeba").digest()
    tree(there, "000002.jpg")
    celeba_text(there, {"000001.jpg": "1", "000002.jpg": "3"})
    assert len({digest, changed, find_items(there, "celeba").digest()}) == 3
