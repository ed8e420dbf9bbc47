"""Shards on disk and the random access of training."""

import json
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rayface import records, storage
from rayface.data import shards
from rayface.data.dataset import FaceDataset, scale_points
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.imaging.filters import resize_images
from rayface.systems.base import get_system, resolve_config

SIZE = 32


def face(number: int, **changes: Any) -> dict[str, Any]:
    """A record whose every value tells its number."""
    image = torch.full((3, SIZE, SIZE), number, dtype=torch.uint8)
    mask = torch.full((SIZE, SIZE), number % 19, dtype=torch.uint8)
    record = {
        "id": f"{number:03d}.png",
        "source": "test",
        "split": "test" if number % 5 == 0 else "train",
        "identity": f"person {number // 2}",
        "image": codec.encode(image, "png"),
        "size": SIZE,
        "landmarks": [float(number)] * 10,
        "mask": codec.encode_mask(mask),
        "attributes": [1 if (number >> bit) & 1 else -1 for bit in range(40)],
    }
    return record | changes


def write(folder: Path, rows: list[dict[str, Any]], per_shard: int = 30) -> str:
    filesystem, inner = storage.open_filesystem(folder)
    for number, start in enumerate(range(0, len(rows), per_shard)):
        shards.write_shard(rows[start : start + per_shard], f"{inner}/{shards.shard_name(number)}", filesystem)
    shards.write_manifest(inner, filesystem, format="test", size=SIZE, options={"a": 1})
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [face(n, **({} if n % 3 else {"mask": None, "attributes": None})) for n in range(70)]
    return write(tmp_path_factory.mktemp("faces"), rows)


COLUMNS = ("id", "identity", "split", "image", "landmarks", "attributes")


def test_batches_give_the_faces_asked_for_in_order(folder: str) -> None:
    faces = FaceDataset(folder)
    order = [69, 0, 31, 31, 16, 47]
    batch = faces.batch(order, COLUMNS)
    assert len(faces) == 70
    assert batch["id"] == [f"{n:03d}.png" for n in order]
    assert batch["identity"] == [f"person {n // 2}" for n in order]
    assert batch["image"].shape == (6, 3, SIZE, SIZE)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"][:, 0, 0, 0].tolist() == order
    assert batch["landmarks"].shape == (6, 5, 2)
    assert batch["landmarks"][:, 0, 0].tolist() == order
    assert batch["attributes"].dtype == torch.int8
    assert batch["attributes"][2].tolist() == [1 if (31 >> bit) & 1 else -1 for bit in range(40)]
    assert batch["attributes"][0].abs().sum() == 0  # 69 has no labels: unknown


def test_splits_part_the_dataset(folder: str) -> None:
    train, test = FaceDataset(folder, "train"), FaceDataset(folder, "test")
    assert test.ids == [f"{n:03d}.png" for n in range(0, 70, 5)]
    assert sorted(train.ids + test.ids) == FaceDataset(folder).ids
    assert test.batch([3], ("id", "split")) == {"id": ["015.png"], "split": ["test"]}
    assert len({train.digest, test.digest, FaceDataset(folder).digest}) == 3


def test_require_keeps_the_faces_that_have_it(folder: str) -> None:
    faces = FaceDataset(folder, "test", require=("mask", "attributes"))
    assert faces.ids == [f"{n:03d}.png" for n in range(0, 70, 5) if n % 3]
    masks = faces.batch([0, 1], ("mask",))["mask"]
    assert masks.shape == (2, SIZE, SIZE)
    assert masks[:, 0, 0].tolist() == [5, 10]


def test_a_missing_mask_is_an_error_that_says_what_to_do(folder: str) -> None:
    with pytest.raises(RayfaceError, match=r"no mask; open the dataset with require=\('mask',\)"):
        FaceDataset(folder).batch([0], ("mask",))
    with pytest.raises(RayfaceError, match=r"facial_hair_mask.*data synth"):
        FaceDataset(folder, "train", require=("facial_hair_mask",))


def test_other_sizes_scale_image_mask_and_landmarks_alike(tmp_path: Path) -> None:
    """A bright square around a landmark stays around it at half and at double size."""
    image = torch.zeros((3, SIZE, SIZE), dtype=torch.uint8)
    mask = torch.zeros((SIZE, SIZE), dtype=torch.uint8)
    image[:, 8:16, 20:28] = 255
    mask[8:16, 20:28] = 18
    centre = [23.5, 11.5] * 5
    row = face(0, image=codec.encode(image, "png"), mask=codec.encode_mask(mask), landmarks=centre)
    path = write(tmp_path / "one", [row])
    for size in (16, 64):
        batch = FaceDataset(path, size=size).batch([0], ("image", "mask", "landmarks"))
        expected = torch.tensor([[20, 8], [27, 15]]) * size / SIZE
        ys, xs = (batch["mask"][0] == 18).nonzero().T
        assert (xs.float().mean(), ys.float().mean()) == tuple(batch["landmarks"][0, 0].tolist())
        assert (xs.min(), ys.min()) == tuple(expected[0].int().tolist())
        bright = (batch["image"][0, 0] > 127).nonzero().float().mean(0)
        assert torch.allclose(bright.flip(0), batch["landmarks"][0, 0])
        assert batch["mask"].unique().tolist() == [0, 18]


def test_scaling_down_is_antialiased() -> None:
    stripes = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    stripes[..., ::2] = 200
    small = resize_images(stripes, 16)
    assert ((small.int() - 100).abs() <= 12).all()
    assert torch.equal(scale_points(torch.tensor([31.5]), 0.5), torch.tensor([15.5]))


def test_pickled_datasets_open_again(folder: str) -> None:
    faces = FaceDataset(folder, "train", size=16)
    faces.batch([0, 40])
    copy = pickle.loads(pickle.dumps(faces))
    assert copy.digest == faces.digest
    assert torch.equal(copy.batch([5, 50])["image"], faces.batch([5, 50])["image"])


def test_an_address_reads_the_same(folder: str) -> None:
    there = FaceDataset(Path(folder).as_uri())
    assert there.digest == FaceDataset(folder).digest
    assert torch.equal(there.batch([7])["image"], FaceDataset(folder).batch([7])["image"])


def test_row_groups_are_small_and_pictures_plain(folder: str) -> None:
    metadata = pq.ParquetFile(f"{folder}/shard-00000.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [16, 14]
    image = metadata.row_group(0).column(metadata.schema.names.index("image"))
    assert image.compression == "UNCOMPRESSED"
    assert not image.statistics
    assert metadata.serialized_size < 40_000


def test_the_manifest_counts(folder: str) -> None:
    manifest = json.loads(Path(folder, "dataset.json").read_text())
    assert manifest["faces"] == 70
    assert manifest["splits"] == {"train": 56, "validation": 0, "test": 14}
    assert manifest["identities"] == 35
    assert manifest["columns"] == {
        "mask": 46,
        "facial_hair_mask": 0,
        "attributes": 46,
        "identity": 70,
        "embedding": 0,
        "sharpness": 0,
    }
    assert manifest["shards"][2] == {"name": "shard-00002.parquet", "rows": 10}


def test_the_digest_depends_on_the_data_only(tmp_path: Path) -> None:
    rows = [face(n) for n in range(20)]
    first, second = write(tmp_path / "a", rows), write(tmp_path / "b", rows)
    assert FaceDataset(first).digest == FaceDataset(second).digest
    assert Path(first, "shard-00000.parquet").read_bytes() == Path(second, "shard-00000.parquet").read_bytes()
    other = write(tmp_path / "c", rows[:-1])
    assert FaceDataset(first).digest != FaceDataset(other).digest


def test_empty_shards_are_valid(tmp_path: Path) -> None:
    shards.write_shard([], str(tmp_path / "shard-00000.parquet"))
    shards.write_shard([face(1)], str(tmp_path / "shard-00001.parquet"))
    shards.write_manifest(str(tmp_path), format="test", size=SIZE)
    assert FaceDataset(tmp_path).ids == ["001.png"]


def test_no_dataset_unfinished_empty_and_impossible(folder: str, tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match=r"no dataset.*rayface data ingest") as caught:
        FaceDataset(tmp_path / "nothing")
    assert caught.value.status == 404
    shards.write_shard([face(1)], str(tmp_path / "half" / "shard-00000.parquet"))
    with pytest.raises(RayfaceError, match=r"unfinished dataset.*again to finish"):
        FaceDataset(tmp_path / "half")
    with pytest.raises(RayfaceError, match=r"no face in split 'validation'.*'train': 56"):
        FaceDataset(folder, "validation")
    with pytest.raises(RayfaceError, match="'valid' is unknown"):
        FaceDataset(folder, "valid")
    with pytest.raises(RayfaceError, match="'masks' is unknown"):
        FaceDataset(folder, require=("masks",))
    with pytest.raises(RayfaceError, match="'pixels' is unknown"):
        FaceDataset(folder).batch([0], ("pixels",))
    for index in (-1, 70):
        with pytest.raises(RayfaceError, match="outside the dataset"):
            FaceDataset(folder).batch([index])


def test_shards_and_manifests_of_other_definitions_are_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "faces", [face(1)]))
    table = pq.read_table(path / "shard-00000.parquet")
    swapped = json.dumps(["background", *reversed(records.PARSING_CLASSES[1:])])
    other = table.replace_schema_metadata(records.schema_metadata() | {"rayface.parsing_classes": swapped})
    pq.write_table(other, path / "shard-00000.parquet")
    with pytest.raises(RayfaceError, match="parsing_classes") as caught:
        FaceDataset(path)
    assert caught.value.kind == "schema-mismatch"
    manifest = json.loads((path / "dataset.json").read_text())
    manifest["rayface"]["rayface.schema"] = "0"
    (path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(RayfaceError, match=r"rayface.schema is '0'"):
        FaceDataset(path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "faces", [face(n) for n in range(40)]))
    (path / "shard-00001.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(RayfaceError, match=r"shard-00001.parquet cannot be read"):
        FaceDataset(path)
    (path / "shard-00001.parquet").unlink()
    with pytest.raises(RayfaceError, match=r"shard-00001.parquet cannot be read"):
        FaceDataset(path)
    (path / "dataset.json").write_text("{}")
    with pytest.raises(RayfaceError, match="not a manifest"):
        FaceDataset(path)


@pytest.mark.parametrize(
    "change",
    [{"id": None}, {"landmarks": [1.0] * 9}, {"image": 3.5}, {"size": "big"}, {"attributes": [2**9] * 40}],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RayfaceError, match="does not fit the schema"):
        shards.write_shard([face(1, **change)], str(tmp_path / "shard-00000.parquet"))
    assert not list(tmp_path.iterdir())


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: nothing is left behind, and the old shard stays."""
    path = tmp_path / "shard-00000.parquet"
    shards.write_shard([face(1)], str(path))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(RayfaceError, match="free space") as caught:
            shards.write_shard([face(n) for n in range(99)], str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.status == 507
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_unwritable_places_and_unknown_addresses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RayfaceError, match="cannot be written"):
        shards.write_shard([face(1)], str(tmp_path / "file" / "shard-00000.parquet"))
    with pytest.raises(RayfaceError, match="no file system opens this address"):
        storage.open_filesystem("gopher://somewhere/faces")


def test_leftovers_of_killed_writers_are_no_shards(tmp_path: Path) -> None:
    filesystem, folder = storage.open_filesystem(tmp_path)
    shards.write_shard([face(1)], f"{folder}/shard-00000.parquet", filesystem)
    (tmp_path / ".tmp-12345678-shard-00001.parquet").write_bytes(b"half")
    assert shards.list_shards(filesystem, folder) == ["shard-00000.parquet"]
    shards.remove_temporary(filesystem, folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard-00000.parquet"]


def test_indices_may_be_arrays(folder: str) -> None:
    batch = FaceDataset(folder).batch(np.array([3, 4], np.int64), ("id",))
    assert batch["id"] == ["003.png", "004.png"]


def test_older_shards_lack_newer_columns_and_read_as_unknown(tmp_path: Path) -> None:
    folder = write(tmp_path, [face(n) for n in range(4)])
    shard = tmp_path / "shard-00000.parquet"
    table = pq.read_table(shard)
    old = table.drop_columns(["embedding", "sharpness"])
    pq.write_table(old, shard, row_group_size=shards.ROW_GROUP_ROWS)
    faces = FaceDataset(folder)
    assert faces.batch([1, 2], ("image", "sharpness"))["sharpness"].isnan().all()
    with pytest.raises(RayfaceError, match="rayface data label"):
        FaceDataset(folder, require=("embedding",))
    filesystem, inner = storage.open_filesystem(folder)
    counted = shards.write_manifest(inner, filesystem, format="test", size=SIZE)
    assert counted["columns"]["embedding"] == 0


def test_embeddings_and_sharpness_are_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path, [face(n, embedding=[float(n), 1.0], sharpness=n / 4) for n in range(4)])
    batch = FaceDataset(folder).batch([3, 0], ("embedding", "sharpness"))
    assert batch["embedding"].tolist() == [[3, 1], [0, 1]]
    assert batch["embedding"].dtype == torch.float32
    assert batch["sharpness"].tolist() == [0.75, 0]


def test_shares_are_nested_and_of_people(folder: str) -> None:
    """Curves over the size of the data: a person is wholly in a share or wholly out of it."""
    quarter, half, whole = (FaceDataset(folder, share=share) for share in (0.25, 0.5, 1.0))
    assert set(quarter.ids) < set(half.ids) < set(whole.ids)
    assert len(half) == pytest.approx(35, abs=12)
    left_out = set(whole.ids) - set(half.ids)
    assert not set(half.people) & {whole.identities[whole.ids.index(face)] for face in left_out}
    assert quarter.digest != half.digest


@pytest.mark.parametrize("share", ["0", "1.5", "nan"])
def test_shares_that_make_no_sense(share: str) -> None:
    with pytest.raises(RayfaceError, match="data_share"):
        resolve_config(get_system("parsing"), "tiny", [f"data_share={share}"])
