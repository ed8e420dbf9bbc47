"""Photos and data sets to labelled ones, on a real Ray cluster with tiny models."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayface import records
from rayface.cli import main
from rayface.data import shards
from rayface.data.dataset import FaceDataset
from rayface.data.synth import draw_face
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.imaging.quality import face_sharpness
from rayface.labelling.groups import GroupOptions
from rayface.labelling.labeller import LabelOptions, Predictor, label_rows
from rayface.labelling.run import IngestOptions, find_models, label
from rayface.pretrained.references import KNOWN
from rayface.storage import open_filesystem
from rayface.store import ModelStore
from tests.tiny_models import save_tiny_models

SYSTEMS = ("parsing", "attributes", "recognition")
PHOTOS = 12
OWN = {"terms": "my own", "commercial_use": True}
ALIGNED = IngestOptions(align="none", size=64, image_format="png", chunk=2, terms=OWN)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    save_tiny_models(folder, SYSTEMS)
    config = folder / "parsing/1/config.json"
    stated = {"licence": "research-only", "terms": "non-commercial research", "commercial_use": False}
    config.write_text(json.dumps(json.loads(config.read_text()) | stated))
    config = folder / "recognition/1/config.json"
    cosines = {"same_person": 0.95, "perhaps_same_person": 0.92}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cosines": cosines}))
    model = ModelStore(folder).load("attributes")  # untrained it is of no opinion; this one has many
    torch.manual_seed(0)
    for parameter in model.networks["classifier"].parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    ModelStore(folder).save("attributes", "attributes", model.config, model.networks)
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn portraits, and one of them again, smaller and compressed."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(PHOTOS):
        (folder / f"{index:02d}.png").write_bytes(codec.encode(draw_face(1, 4 * index, 128).image, "png"))
    copy = torch.nn.functional.interpolate(draw_face(1, 8, 128).image[None], 96, mode="bilinear")[0]
    (folder / "again.jpg").write_bytes(codec.encode(copy, "jpeg", 80))
    return folder


def listed(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def column(faces: FaceDataset, name: str) -> Any:
    return faces.batch(range(len(faces)), (name,))[name]


@pytest.fixture(scope="module")
def labelled(photos: Path, store: str, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All labels of all photos."""
    out = tmp_path_factory.mktemp("labelled") / "out"
    told: list[str] = []
    label(photos, out, photos=ALIGNED, store=store, workers=2, tell=told.append)
    (said,) = [line for line in told if line.startswith("2/4")]
    assert "masks (by parsing@1), embeddings (by pretrained:dlib@" in said
    assert said.endswith("sharpness")
    return out


@pytest.mark.ray
def test_photos_become_a_labelled_data_set(labelled: Path, photos: Path, store: str) -> None:
    faces = FaceDataset(labelled, require=("mask", "attributes", "embedding", "sharpness"))
    assert len(faces) == PHOTOS
    attributes = column(faces, "attributes")
    assert set(attributes.unique().tolist()) <= {-1, 0, 1}
    assert attributes.abs().sum() > 0
    assert column(faces, "mask").max() < 19
    assert torch.allclose(column(faces, "embedding").norm(dim=1), torch.ones(PHOTOS), atol=1e-5)
    assert torch.allclose(column(faces, "sharpness"), face_sharpness(column(faces, "image")))

    (copy,) = listed(labelled / "duplicates.csv")
    assert {copy["id"], copy["repeats"]} == {"02.png", "again.jpg"}
    assert copy["is"] == "left out"
    assert [(row["id"], row["reason"]) for row in listed(labelled / "rejected.csv")] == [(copy["id"], "duplicate")]

    splits = defaultdict(set)
    for identity, split in zip(faces.identities, column(faces, "split"), strict=True):
        splits[identity].add(split)
    assert None not in splits
    assert all(len(held) == 1 for held in splits.values())

    manifest = json.loads((labelled / "dataset.json").read_text())
    by = manifest["labelled_by"]
    assert set(by) == {"attributes", "mask", "embedding", "sharpness", "identity"}
    assert by["mask"][0]["model"] == "parsing@1"
    assert by["mask"][0]["sha256"] == json.loads((Path(store) / "parsing/1/config.json").read_text())["sha256"]
    assert all(entry["faces"] == PHOTOS for (entry,) in by.values())
    assert manifest["rejected"] == {"duplicate": 1}
    assert manifest["commercial_use"] is False
    assert "photos: my own" in manifest["terms"]
    assert "parsing@1: non-commercial research" in manifest["terms"]
    assert not (labelled / "work").exists()

    told: list[str] = []
    again = label(photos, labelled, photos=ALIGNED, store=store, tell=told.append)
    assert told == [f"{labelled} is finished already"]
    assert again["faces"] == PHOTOS


@pytest.mark.ray
def test_killed_and_started_again_it_doubles_nothing(tmp_path: Path, photos: Path, store: str, labelled: Path) -> None:
    """The driver gets SIGKILL with some shards labelled; the second run keeps those and equals an unbroken one."""
    import ray

    script = (
        "import sys; from rayface.labelling.run import label; from tests.labelling.test_labelling import ALIGNED\n"
        "label(sys.argv[1], sys.argv[2], photos=ALIGNED, store=sys.argv[3], workers=1)"
    )
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    out, labels = tmp_path / "killed", tmp_path / "killed/work/labels"
    driver = subprocess.Popen([sys.executable, "-c", script, str(photos), str(out), store], env=environment)
    deadline = time.monotonic() + 240
    while len(list(labels.glob("shard-*"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.0)  # a task that was running may still write its shard
    assert not (out / "dataset.json").exists()
    first = {path.name: path.stat().st_mtime_ns for path in labels.glob("shard-*")}
    kept: dict[str, int] = {}

    def tell(text: str) -> None:
        if text.startswith("3/4"):
            kept.update({path.name: path.stat().st_mtime_ns for path in labels.glob("shard-*")})

    label(photos, out, photos=ALIGNED, store=store, workers=2, tell=tell)
    assert len(kept) == (PHOTOS + 1 + ALIGNED.chunk - 1) // ALIGNED.chunk
    assert {name: kept[name] for name in first} == first
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in labelled.iterdir())
    for path in labelled.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.ray
def test_the_command_fills_in_what_a_data_set_lacks(
    tmp_path: Path,
    drawn_faces: str,
    store: str,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every other face of a drawn data set has a mask; those stay, the others get one; nothing else changes."""
    source, out = tmp_path / "half", tmp_path / "out"
    filesystem, folder = open_filesystem(drawn_faces)
    table = shards.read_columns(f"{folder}/shard-00000.parquet", filesystem, records.FACE_SCHEMA.names)
    rows = [{**row, "mask": None} if n % 2 else row for n, row in enumerate(table.to_pylist())]
    shards.write_shard(rows, f"{source}/shard-00000.parquet")
    found = {
        "landmarks": [{"model": "detection@1", "sha256": "0" * 64, "commercial_use": True, "faces": 2 * len(rows)}]
    }
    shards.write_manifest(str(source), format="synth", size=64, further={"labelled_by": found})
    line = ["rayface", "data", "label", str(source), str(out), "--with", "masks, sharpness", "--store", store]
    monkeypatch.setattr(sys, "argv", [*line, "--model", "masks=parsing@1", "--duplicates", "keep"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert {name: entry["faces"] for name, (entry,) in summary["labelled_by"].items()} == {
        "landmarks": len(rows),
        "mask": len(rows) // 2,
        "sharpness": len(rows),
    }
    assert f"Commercial use of {out}: not allowed" in said.err

    before, after = FaceDataset(source), FaceDataset(out, require=("mask",))
    assert after.ids == before.ids
    assert after.identities == before.identities
    for name in ("attributes", "facial_hair_mask", "image", "landmarks"):
        assert torch.equal(column(after, name), column(before, name)), name
    assert column(after, "split") == column(before, "split")
    true = FaceDataset(drawn_faces).batch(range(0, len(rows), 2), ("mask",))["mask"]
    assert torch.equal(after.batch(range(0, len(rows), 2), ("mask",))["mask"], true)  # type: ignore[arg-type]


def test_a_labelled_data_set_is_grouped_anew_and_keeps_its_splits(labelled: Path, tmp_path: Path) -> None:
    """Its training faces may have been trained on; its people were guesses of the grouping before."""

    def people(folder: Path) -> tuple[list[str], list[str], int]:
        faces = FaceDataset(folder)
        return faces.ids, faces.identities, faces.manifest["labelled_by"]["identity"][0]["faces"]

    apart = tmp_path / "apart"
    options = GroupOptions(same_person=1.0, perhaps_same_person=1.0, duplicates="keep")
    label(labelled, apart, LabelOptions(("sharpness",)), options)
    ids, before, predicted = people(labelled)
    assert len(set(before)) < len(ids) == len(set(people(apart)[1])), "who was one person by the first grouping is not"
    assert people(apart)[2] == predicted == len(ids), "guesses, still"
    split_of = dict(zip(ids, column(FaceDataset(labelled), "split"), strict=True))
    assert dict(zip(people(apart)[0], column(FaceDataset(apart), "split"), strict=True)) == split_of


def test_true_labels_are_replaced_only_where_asked(drawn_faces: str, store: str) -> None:
    filesystem, folder = open_filesystem(drawn_faces)
    table = shards.read_columns(f"{folder}/shard-00000.parquet", filesystem, ["id", "image", "mask", "sharpness"])
    table = table.slice(0, 6)
    pinned = {"masks": "parsing@1"}
    kept, count = label_rows(table, Predictor(LabelOptions(("masks",), pinned), store, "cpu"))
    assert count == 0
    assert all("mask" not in row for row in kept)
    made, count = label_rows(table, Predictor(LabelOptions(("masks",), pinned, overwrite=True), store, "cpu"))
    assert count == 6
    assert [row["id"] for row in made] == table["id"].to_pylist()
    assert [row["mask"] for row in made] != table["mask"].to_pylist()


def test_crops_of_any_size_get_masks_of_their_size(store: str) -> None:
    predictor = Predictor(LabelOptions(("masks",), {"masks": "parsing@1"}), store, "cpu")
    for size in (48, 64, 100):
        (mask,) = predictor.predict("masks", draw_face(1, 0, size).image[None])
        assert codec.decode_mask(mask).shape == (size, size)


@pytest.mark.parametrize("name", ["attributes", "masks", "embeddings"])
def test_a_label_without_its_model_is_refused_before_any_work(tmp_path: Path, photos: Path, name: str) -> None:
    options = LabelOptions((name, "sharpness"), models={name: "absent"})
    with pytest.raises(RayfaceError, match=f"--with {name} needs a model of .*absent.*--with sharpness") as caught:
        label(photos, tmp_path / "out", options, photos=ALIGNED, store=str(tmp_path / "empty"))
    assert caught.value.status == 404
    assert not (tmp_path / "out").exists()


def test_what_makes_no_sense_is_said(tmp_path: Path, photos: Path, store: str) -> None:
    with pytest.raises(RayfaceError, match="it is a model of parsing, attributes need one of attributes"):
        label(photos, tmp_path / "out", LabelOptions(("attributes",), {"attributes": "parsing"}), store=store)
    with pytest.raises(RayfaceError, match="'sharpness' takes no model"):
        label(photos, tmp_path / "out", LabelOptions(("sharpness",), {"sharpness": "parsing"}), store=store)
    with pytest.raises(RayfaceError, match="choose among attributes, masks"):
        LabelOptions(("hats",))
    with pytest.raises(RayfaceError, match=r"--unsure 0\.5"):
        LabelOptions(unsure=0.5)
    with pytest.raises(RayfaceError, match=r"same_person=1\.2"):
        GroupOptions(same_person=1.2)
    with pytest.raises(RayfaceError, match="same_photo=0"):
        GroupOptions(same_photo=0)
    with pytest.raises(RayfaceError, match="duplicates='both'"):
        GroupOptions(duplicates="both")
    with pytest.raises(RayfaceError, match="--splits 'none'"):
        label(photos, tmp_path / "out", splits="none")


def test_a_recogniser_says_who_is_alike(tmp_path: Path, photos: Path) -> None:
    """Cosines of one recogniser are none of another: the released one's, dlib's; who states none is not guessed at."""
    released, dlib = (
        find_models(LabelOptions(("embeddings",), {"embeddings": ref}), str(tmp_path))["embeddings"]
        for ref in ("recognition", "pretrained:dlib")
    )
    assert GroupOptions().stated_by(dlib) == GroupOptions(same_person=0.95, perhaps_same_person=0.92)
    assert GroupOptions().stated_by(released).same_person > 0.97
    assert GroupOptions(same_person=0.9).stated_by(dlib) == GroupOptions(same_person=0.9, perhaps_same_person=0.9)
    save_tiny_models(tmp_path, ("recognition",))
    own = LabelOptions(("embeddings",), {"embeddings": "recognition"})
    with pytest.raises(RayfaceError, match=r"recognition@1 does not state .* --same-person"):
        label(photos, tmp_path / "out", own, photos=ALIGNED, store=str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_dlibs_network_makes_the_embeddings_where_it_is_installed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**models: str) -> str:
        return find_models(LabelOptions(("embeddings",), models), store)["embeddings"]["model"]

    assert chosen().startswith("pretrained:dlib@")
    assert chosen(embeddings="recognition") == "recognition@1"
    monkeypatch.setitem(KNOWN, "dlib", dataclasses.replace(KNOWN["dlib"], package="no_such_model_package"))
    assert chosen() == "recognition@1"


def test_embeddings_of_two_models_are_not_mixed(tmp_path: Path, drawn_faces: str, store: str) -> None:
    shutil.copytree(drawn_faces, tmp_path / "a")
    manifest = json.loads((tmp_path / "a/dataset.json").read_text())
    manifest["labelled_by"] = {"embedding": [{"model": "recognition@7", "sha256": "0" * 64, "faces": 64}]}
    (tmp_path / "a/dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(RayfaceError, match=r"those of recognition@7, not of recognition@1; use --overwrite"):
        label(tmp_path / "a", tmp_path / "b", LabelOptions(("embeddings",), {"embeddings": "recognition"}), store=store)
    assert not (tmp_path / "b").exists()


def test_attributes_near_one_half_are_unknown(store: str) -> None:
    crops = torch.stack([draw_face(1, index, 96).image for index in range(6)])
    pinned = {"attributes": "attributes@2"}
    certain = Predictor(LabelOptions(("attributes",), pinned, unsure=0.0), store, "cpu").predict("attributes", crops)
    assert set(np.unique(certain)) == {-1, 1}
    unsure = Predictor(LabelOptions(("attributes",), pinned, unsure=0.49), store, "cpu").predict("attributes", crops)
    assert (np.array(unsure) == 0).mean() > 0.5
    agree = np.array(unsure) != 0
    assert (np.array(unsure)[agree] == np.array(certain)[agree]).all()
