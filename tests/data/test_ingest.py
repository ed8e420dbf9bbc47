"""Photos to crops, and the whole ingest on a real Ray cluster: rejected pictures, resume, unwritable output."""

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rayface import records
from rayface.data.crops import CropMaker, CropOptions
from rayface.data.dataset import FaceDataset
from rayface.data.ingest import _labelled_by, write_chunk
from rayface.data.inspect import inspect, write_grid
from rayface.data.sources import Item, find_items
from rayface.data.synth import draw_face
from rayface.detector import newest_release
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.storage import open_filesystem

FOUND = (1, 4)  # drawn faces that the detector is sure of
POINTS = [70.0, 110.0, 107.0, 110.0, 88.0, 135.0, 73.0, 152.0, 105.0, 152.0]


def saved(picture: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def photo_with_dots(width: int = 178, height: int = 218) -> Image.Image:
    """A grey photo with a white dot of 5 x 5 pixels at each of POINTS."""
    picture = Image.new("RGB", (width, height), (90, 90, 90))
    for x, y in np.array(POINTS).reshape(5, 2).astype(int).tolist():
        picture.paste((255, 255, 255), (x - 2, y - 2, x + 3, y + 3))
    return picture


def write_celeba(root: Path, count: int) -> Path:
    """`count` photos of noise with five landmarks each, in CelebA's layout."""
    (root / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["image_id,lefteye_x,...\n"]
    for number in range(1, count + 1):
        pixels = rng.integers(0, 256, (218, 178, 3), np.uint8)
        (root / f"photos/{number:06d}.jpg").write_bytes(saved(Image.fromarray(pixels)))
        points = np.array(POINTS) + rng.integers(-5, 6, 10)
        lines.append(f"{number:06d}.jpg,{','.join(str(value) for value in points)}\n")
    (root / "landmarks.csv").write_text("".join(lines))
    return root


def crops_of(root: Path, format: str, **options: Any) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Without Ray."""
    maker = CropMaker(CropOptions(format, **options), open_filesystem(root)[0])
    return maker.records(find_items(root, format).items)


def test_given_landmarks_are_aligned_to_the_template(tmp_path: Path) -> None:
    """The dots of the photo lie where the record says the landmarks are, and those lie near the template."""
    write_celeba(tmp_path, 1)
    (tmp_path / "photos/000001.jpg").write_bytes(saved(photo_with_dots(), quality=100, subsampling=0))
    (tmp_path / "landmarks.csv").write_text(f"image_id,x\n000001.jpg,{','.join(map(str, POINTS))}\n")
    (record,), rejected = crops_of(tmp_path, "celeba", image_format="png")
    assert rejected == []
    landmarks = np.array(record["landmarks"]).reshape(5, 2)
    assert np.abs(landmarks - records.FFHQ_TEMPLATE * 256).max() < 12
    crop = codec.decode(record["image"])[0].numpy()
    for x, y in landmarks:
        around = crop[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9] > 170
        rows, columns = np.nonzero(around)
        assert abs(rows.mean() - 8) < 1
        assert abs(columns.mean() - 8) < 1


def test_masks_follow_the_photo_at_any_resolution(tmp_path: Path) -> None:
    """The photo's brightness is its class; after alignment it still is, though the mask has half its size."""
    classes = (np.add.outer(np.arange(4), np.arange(4)) % 5).astype(np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    large = Image.fromarray(classes * 40).resize((400, 400), Image.Resampling.NEAREST)
    (tmp_path / "images/7.png").write_bytes(saved(large.convert("RGB"), "PNG"))
    (tmp_path / "masks/7.png").write_bytes(saved(Image.fromarray(classes).resize((200, 200), 0), "PNG"))
    (item,) = find_items(tmp_path, "celebamask").items
    tilted = np.array([[150, 160], [260, 175], [200, 220], [160, 270], [245, 280]], np.float32)
    item = Item(**{**item.__dict__, "landmarks": tuple(tilted.ravel().tolist())})
    maker = CropMaker(CropOptions("celebamask", align="landmarks", image_format="png"), open_filesystem(tmp_path)[0])
    (record,), _ = maker.records([item])
    shown = np.rint(codec.decode(record["image"])[0].numpy() / 40)
    mask = codec.decode_mask(record["mask"]).numpy()
    assert len(np.unique(mask)) == 5
    assert (shown == mask).mean() > 0.97  # all but the blurred borders


def test_part_files_are_merged_later_over_earlier(tmp_path: Path) -> None:
    """Part files as the official ones are: RGB, black and white, of half the photo's size."""
    parts = {"skin": (0, 0, 64, 64), "hair": (0, 0, 64, 16), "l_eye": (16, 8, 32, 32)}
    anno = tmp_path / "CelebAMask-HQ-mask-anno/0"
    anno.mkdir(parents=True)
    for name, box in parts.items():
        part = Image.new("RGB", (64, 64))
        part.paste((255, 255, 255), box)
        (anno / f"00000_{name}.png").write_bytes(saved(part, "PNG"))
    (tmp_path / "CelebA-HQ-img").mkdir()
    (tmp_path / "CelebA-HQ-img/0.jpg").write_bytes(saved(Image.new("RGB", (128, 128))))
    (record,), _ = crops_of(tmp_path, "celebamask", align="none", size=64)
    mask = codec.decode_mask(record["mask"])
    hair, eye, skin = (records.PARSING_ID[name] for name in ("hair", "l_eye", "skin"))
    assert (mask[12, 20], mask[20, 20], mask[40, 40]) == (hair, eye, skin)  # hair comes after the eye


def test_align_none_takes_the_centre_square(tmp_path: Path) -> None:
    picture = Image.new("RGB", (300, 200), (255, 0, 0))
    picture.paste((0, 0, 255), (50, 0, 250, 200))
    (tmp_path / "a.png").write_bytes(saved(picture, "PNG"))
    (record,), _ = crops_of(tmp_path, "folder", align="none", size=64, image_format="png")
    crop = codec.decode(record["image"])
    assert crop.shape == (3, 64, 64)
    assert crop[2, :, 1:-1].min() == 255
    assert np.allclose(np.array(record["landmarks"]).reshape(5, 2), records.FFHQ_TEMPLATE * 64)


def drawn(index: int) -> np.ndarray:
    return draw_face(0, index, 256).image.permute(1, 2, 0).numpy()


def test_every_large_face_of_a_folders_photo_is_a_record(tmp_path: Path) -> None:
    large, small = (Image.fromarray(drawn(index)) for index in FOUND)
    group = Image.new("RGB", (560, 320), (120, 120, 120))
    group.paste(large, (20, 30))
    group.paste(small.resize((160, 160), Image.Resampling.BICUBIC), (340, 80))
    (tmp_path / "group.png").write_bytes(saved(group, "PNG"))
    made, rejected = crops_of(tmp_path, "folder")
    assert [record["id"] for record in made] == ["group.png#0", "group.png#1"]
    assert rejected == []
    for record, index in zip(made, FOUND, strict=True):
        # the drawn face is aligned already: its crop is the face again, up to the detector's error
        crop = codec.decode(record["image"]).float()
        face = torch.from_numpy(drawn(index)).permute(2, 0, 1).float()
        other = torch.from_numpy(drawn(FOUND[1 - FOUND.index(index)])).permute(2, 0, 1).float()
        middle = (slice(None), slice(64, 208), slice(64, 192))
        assert (crop - face)[middle].abs().mean() < 0.7 * (crop - other)[middle].abs().mean()
    one, rejected = crops_of(tmp_path, "folder", max_faces=1)
    assert [record["id"] for record in one] == ["group.png#0"]
    assert [row[:2] for row in rejected] == [("group.png", "too-many-faces")]
    none, rejected = crops_of(tmp_path, "folder", min_face=300)
    assert none == []
    assert [row[:2] for row in rejected] == [("group.png", "face-too-small")]


def test_the_manifest_says_whose_landmarks_the_detectors_are(tmp_path: Path) -> None:
    """Of the photos without landmarks of their own; two chunks, without Ray."""
    root, out = write_celeba(tmp_path / "celeba", 2), tmp_path / "out"
    for number, index in ((3, FOUND[0]), (4, FOUND[1])):
        Image.fromarray(drawn(index)).save(root / f"photos/{number:06d}.jpg", quality=95)
    items = find_items(root, "celeba").items
    assert [item.landmarks is None for item in items] == [False, False, True, True]

    def labelled_by(**options: Any) -> dict[str, Any]:
        made = CropOptions("celeba", size=64, **options)
        for shard in (0, 1):
            part = [dataclasses.asdict(item) for item in items[2 * shard :: 3]]  # 0, 3 and 2
            chunk = {"shard": shard, "items": json.dumps(part), "options": json.dumps(dataclasses.asdict(made))}
            done = write_chunk({**chunk, "source": str(root), "out": str(out)})
            assert done == {"done": len(part), "faces": len(part), "error": ""}
        return _labelled_by(*open_filesystem(out))

    (entry,) = labelled_by()["labelled_by"]["landmarks"]
    info = json.loads((newest_release() / "config.json").read_text())
    assert entry == {
        "model": f"detection@{info['version']}",
        "faces": 2,
        **{key: info[key] for key in ("sha256", "licence", "terms", "commercial_use")},
    }
    assert labelled_by(align="none") == {}


def test_labelled_photos_give_the_most_central_face(tmp_path: Path) -> None:
    central, other = (Image.fromarray(drawn(index)) for index in FOUND)
    group = Image.new("RGB", (700, 320), (120, 120, 120))
    group.paste(central.resize((200, 200)), (250, 60))
    group.paste(other, (450, 30))
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann/1.png").write_bytes(saved(group, "PNG"))
    (record,), _ = crops_of(tmp_path, "identity")
    assert (record["id"], record["identity"]) == ("Ann/1.png", "Ann")
    crop = codec.decode(record["image"]).float()[:, 64:208, 64:192]
    errors = [
        (crop - torch.from_numpy(drawn(index)).permute(2, 0, 1)[:, 64:208, 64:192]).abs().mean() for index in FOUND
    ]
    assert errors[0] < errors[1]


def test_bad_masks_and_labels_are_rejected_with_the_reason(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    masks = {
        "wide": Image.new("L", (200, 100)),
        "class": Image.new("L", (100, 100), 19),
        "colour": Image.new("RGB", (100, 100)),
        "good": Image.new("L", (50, 50), 18),
    }
    for name, mask in masks.items():
        (tmp_path / f"images/{name}.jpg").write_bytes(saved(Image.new("RGB", (100, 100))))
        (tmp_path / f"masks/{name}.png").write_bytes(saved(mask, "PNG"))
    made, rejected = crops_of(tmp_path, "celebamask", align="none")
    assert [record["id"] for record in made] == ["images/good.jpg"]
    assert {row[0]: row[1] for row in rejected} == {
        f"images/{name}.jpg": "bad-mask" for name in ("wide", "class", "colour")
    }
    celeba = write_celeba(tmp_path / "celeba", 2)
    (celeba / "landmarks.csv").write_text("image_id,x\n000001.jpg" + ",5" * 10 + "\n")
    made, rejected = crops_of(celeba, "celeba", align="landmarks")
    assert made == []
    assert {row[0]: row[1] for row in rejected} == {"000001.jpg": "bad-landmarks", "000002.jpg": "no-landmarks"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size is 8; choose 32 to 2048"),
        ({"align": "eyes"}, "'eyes' is unknown; choose one of auto, detect"),
        ({"image_format": "gif"}, "choose jpeg or png"),
        ({"quality": 0}, "quality is 0"),
        ({"max_faces": 0}, "max_faces is 0"),
        ({"format": "imagenet"}, "'imagenet' is unknown"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        CropOptions(**{"format": "folder", **options})


def write_bad_pictures(root: Path) -> dict[str, str]:
    """Pictures of all troubles; gives the reason each is to be rejected for, "" where it is to be handled."""
    face = Image.fromarray(drawn(FOUND[0]))
    jpeg = saved(face, quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = face.copy()
    clear.putalpha(250)
    grey = np.asarray(face.convert("L")).astype(np.uint16) * 257
    root.mkdir()
    files = {
        "good.jpg": (jpeg, ""),
        "cmyk.jpg": (saved(face.convert("CMYK"), quality=95), ""),
        "grey16.png": (saved(Image.fromarray(grey), "PNG"), ""),
        "alpha.png": (saved(clear, "PNG"), ""),
        "rotated.jpg": (saved(face.transpose(Image.Transpose.ROTATE_90), exif=turned, quality=95), ""),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "corrupt-image"),
        "empty.jpg": (b"", "empty-image"),
        "text.png": (b"no picture at all", "not-an-image"),
        "moving.gif": (saved(face, "GIF"), "not-an-image"),
        "huge.png": (saved(Image.new("1", (17000, 10)), "PNG"), "image-too-large"),
        "blank.png": (saved(Image.new("RGB", (200, 200)), "PNG"), "no-face"),
        "thumbnail.png": (saved(face.resize((20, 20)), "PNG"), "too-small"),
    }
    for name, (data, _) in files.items():
        (root / name).write_bytes(data)
    return {name: reason for name, (_, reason) in files.items()}


@pytest.mark.ray
def test_a_folder_with_every_trouble_is_ingested(tmp_path: Path, ray_cluster: None) -> None:
    from rayface.data.ingest import ingest

    reasons = write_bad_pictures(tmp_path / "photos")
    out = tmp_path / "faces"
    told: list[str] = []
    summary = ingest(tmp_path / "photos", out, "folder", size=128, chunk=5, workers=2, tell=told.append)
    good = sorted(name for name, reason in reasons.items() if not reason)
    faces = FaceDataset(out)
    assert sorted(faces.ids) == [f"{name}#0" for name in good]
    assert [entry["faces"] for entry in faces.manifest["labelled_by"]["landmarks"]] == [5]
    with (out / "rejected.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["id"]: row["reason"] for row in rows} == {n: reason for n, reason in reasons.items() if reason}
    assert (summary["faces"], summary["photos"], summary["photos_read"]) == (5, 12, 12)
    assert summary["rejected"] == {
        "corrupt-image": 1, "empty-image": 1, "not-an-image": 2, "image-too-large": 1, "no-face": 1, "too-small": 1,
    }  # fmt: skip
    assert any("12 of 12 photos" in line for line in told)
    images = dict(zip(faces.ids, faces.batch(range(5))["image"].float(), strict=True))  # type: ignore[arg-type]
    for name in ("cmyk.jpg#0", "alpha.png#0", "rotated.jpg#0"):  # handled means the same face, upright, same colours
        assert (images[name] - images["good.jpg#0"]).abs().mean() < 16, name
    found = inspect(out)
    assert (found["faces"], found["rejected"], found["size"]) == (5, summary["rejected"], 128)
    write_grid(out, tmp_path / "grid.png", count=4, columns=2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (320, 320)


@pytest.mark.ray
def test_killed_and_started_again_it_doubles_nothing(tmp_path: Path, ray_cluster: None) -> None:
    """The driver gets SIGKILL with some shards written; the second run keeps those and equals an unbroken one."""
    import ray

    from rayface.data.ingest import ingest

    source, out = write_celeba(tmp_path / "celeba", 60), tmp_path / "killed"
    script = "import sys; from rayface.data.ingest import ingest\n"
    script += "ingest(sys.argv[1], sys.argv[2], 'celeba', chunk=1, workers=1)"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen([sys.executable, "-c", script, str(source), str(out)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob("shard-*"))) < 3:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.0)  # a task that was running may still write its shard
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert 3 <= len(first) < 60
    assert not (out / "dataset.json").exists()
    (out / ".tmp-0badcafe-shard-00059.parquet").write_bytes(b"half a shard")

    summary = ingest(source, out, "celeba", chunk=1, workers=2)
    assert summary["photos_read"] == 60 - len(first)
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    whole = tmp_path / "whole"
    ingest(source, whole, "celeba", chunk=1, workers=2)
    assert FaceDataset(out).digest == FaceDataset(whole).digest
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert ingest(source, out, "celeba", chunk=1)["photos_read"] == 0


@pytest.mark.ray
def test_other_options_or_photos_are_not_mixed_in(tmp_path: Path, ray_cluster: None) -> None:
    from rayface.data.ingest import ingest

    source, out = write_celeba(tmp_path / "celeba", 3), tmp_path / "faces"
    ingest(source, out, "celeba", size=64)
    with pytest.raises(RayfaceError, match=r"other photos or options: size \(64 then, 96 now\)") as caught:
        ingest(source, out, "celeba", size=96)
    assert caught.value.status == 409
    (source / "photos/000002.jpg").write_bytes(saved(photo_with_dots()))
    with pytest.raises(RayfaceError, match="other photos or options: source "):
        ingest(source, out, "celeba", size=64)
    (out / "ingest.json").unlink()
    with pytest.raises(RayfaceError, match="holds another data set"):
        ingest(source, out, "celeba", size=64)


def test_what_cannot_work_is_said_before_ray_starts(tmp_path: Path) -> None:
    from rayface.data.ingest import ingest

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/000001.jpg").write_bytes(saved(photo_with_dots()))
    with pytest.raises(RayfaceError, match="no landmarks for --align landmarks"):
        ingest(tmp_path / "photos", tmp_path / "out", "celeba", align="landmarks")
    with pytest.raises(RayfaceError, match="workers 0 must be at least 1"):
        ingest(tmp_path / "photos", tmp_path / "out", "celeba", workers=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RayfaceError, match="cannot be written"):
        ingest(tmp_path / "photos", tmp_path / "file/out", "celeba")


@pytest.mark.ray
def test_a_worker_that_cannot_write_stops_the_ingest(tmp_path: Path, ray_cluster: None) -> None:
    """A folder where a shard should go stands for a disk that refuses it; removed, the ingest goes on."""
    from rayface.data.ingest import ingest

    source, out = write_celeba(tmp_path / "celeba", 6), tmp_path / "faces"
    whole = ingest(source, out, "celeba", chunk=2)
    (out / "dataset.json").unlink()
    (out / "shard-00001.parquet").unlink()
    (out / "shard-00001.parquet/occupied").mkdir(parents=True)
    with pytest.raises(RayfaceError, match=r"shard-00001.parquet cannot be written .*free space") as caught:
        ingest(source, out, "celeba", chunk=2)
    assert caught.value.status == 507
    assert not list(out.glob(".tmp-*"))
    assert not (out / "dataset.json").exists()
    (out / "shard-00001.parquet/occupied").rmdir()
    (out / "shard-00001.parquet").rmdir()
    summary = ingest(source, out, "celeba", chunk=2)
    assert (summary["faces"], summary["photos_read"]) == (whole["faces"], 2)
