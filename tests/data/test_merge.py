"""Merging data sets keeps every face, adds up what is said of them, and refuses what cannot be one set."""

from pathlib import Path

import pytest
import torch
from pyarrow import fs

from rayface.data.dataset import FaceDataset
from rayface.data.merge import merge
from rayface.data.shards import read_rejected, shard_name, write_manifest, write_rejected, write_shard
from rayface.errors import RayfaceError
from rayface.imaging.codec import encode
from rayface.records import FFHQ_TEMPLATE


def small_set(folder: Path, ids: list[str], identity: str | None = None, size: int = 16, **terms: object) -> str:
    picture = encode(torch.zeros(3, size, size, dtype=torch.uint8), "png")
    rows = [
        {
            "id": name, "source": folder.name, "split": "train", "identity": identity, "image": picture,
            "size": size, "landmarks": (FFHQ_TEMPLATE * size).ravel().tolist(),
        }
        for name in ids
    ]  # fmt: skip
    write_shard(rows, str(folder / shard_name(0)))
    write_manifest(str(folder), format="folder", size=size, rejected={"no-face": 1}, terms=terms)
    write_rejected([(f"{folder.name}.jpg", "no-face", "no face was found")], str(folder), fs.LocalFileSystem())
    return str(folder)


def test_all_faces_in_order_and_what_is_said_of_them(tmp_path: Path) -> None:
    first = small_set(tmp_path / "a", ["1", "2"], "anna", terms="ours", commercial_use=True)
    second = small_set(tmp_path / "b", ["3"], "bert", terms="theirs", commercial_use=False)
    manifest = merge([first, second], str(tmp_path / "out"))
    merged = FaceDataset(tmp_path / "out", "train")
    assert merged.ids == ["1", "2", "3"]
    assert merged.identities == ["anna", "anna", "bert"]
    assert manifest["faces"] == 3
    assert manifest["rejected"] == {"no-face": 2}
    left_out = read_rejected(str(tmp_path / "out"), fs.LocalFileSystem())
    assert [row[0] for row in left_out] == ["a.jpg", "b.jpg"]
    assert manifest["commercial_use"] is False
    assert "ours" in manifest["terms"]
    assert "theirs" in manifest["terms"]
    (tmp_path / "elsewhere").mkdir()
    moved = [str(Path(folder).rename(tmp_path / "elsewhere" / Path(folder).name)) for folder in (first, second)]
    assert merge(moved, str(tmp_path / "again")) == manifest, "it does not matter where they lay"


def test_refusals(tmp_path: Path) -> None:
    first = small_set(tmp_path / "a", ["1", "2"], "anna")
    with pytest.raises(RayfaceError, match="two data sets"):
        merge([first], str(tmp_path / "out"))
    with pytest.raises(RayfaceError, match="both have the id '1'"):
        merge([first, first], str(tmp_path / "out"))
    with pytest.raises(RayfaceError, match="both have the id '2'"):
        merge([first, small_set(tmp_path / "b", ["2"])], str(tmp_path / "out"))
    with pytest.raises(RayfaceError, match="both have the identity 'anna'"):
        merge([first, small_set(tmp_path / "c", ["3"], "anna")], str(tmp_path / "out"))
    with pytest.raises(RayfaceError, match="crops of 32 px"):
        merge([first, small_set(tmp_path / "d", ["3"], size=32)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists(), "nothing half-written"
    with pytest.raises(RayfaceError, match="is not empty"):
        merge([first, small_set(tmp_path / "e", ["3"])], first)
