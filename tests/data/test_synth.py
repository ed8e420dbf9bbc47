import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rayface import records, storage
from rayface.data import shards, synth
from rayface.data.drawing.geometry import View, smooth
from rayface.data.drawing.person import attributes, draw_identity, draw_look
from rayface.data.synth import draw_face, draw_scene, face_record, split_of, synthesise
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.randomness import generator

COUNT = 160


@pytest.fixture(scope="module")
def faces() -> list[synth.DrawnFace]:
    return [draw_face(5, 3 * index, 96) for index in range(COUNT)]


def value(face: synth.DrawnFace, name: str) -> int:
    return int(face.attributes[records.ATTRIBUTE_ID[name]])


def area(face: synth.DrawnFace, name: str) -> int:
    return int((face.mask == records.PARSING_ID[name]).sum())


def test_a_record_depends_on_seed_and_index_only():
    first, again = draw_face(1, 10, 64), draw_face(1, 10, 64)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, draw_face(1, 11, 64).image)
    assert not torch.equal(first.image, draw_face(2, 10, 64).image)


def test_types_and_shapes(faces):
    for face in faces[:10]:
        assert (face.image.dtype, tuple(face.image.shape)) == (torch.uint8, (3, 96, 96))
        assert (face.mask.dtype, tuple(face.mask.shape)) == (torch.uint8, (96, 96))
        assert set(face.facial_hair.unique().tolist()) <= {0, 255}
        assert (face.landmarks.dtype, face.landmarks.shape) == (np.float32, (5, 2))
        assert (face.attributes.dtype, face.attributes.shape) == (np.int8, (40,))


def test_every_class_and_every_attribute_occurs(faces):
    present = set(np.unique(np.stack([face.mask.numpy() for face in faces])).tolist())
    assert present == set(range(len(records.PARSING_CLASSES)))
    table = np.stack([face.attributes for face in faces])
    for index, name in enumerate(records.ATTRIBUTES):
        assert {-1, 1} <= set(table[:, index].tolist()), name


def test_attributes_tell_what_is_drawn(faces):
    for face in faces:
        assert (value(face, "Eyeglasses") == 1) == (area(face, "eye_g") > 0)
        assert (value(face, "Wearing_Hat") == 1) == (area(face, "hat") > 0)
        if value(face, "Wearing_Earrings") == 1:
            assert area(face, "ear_r") > 0
        if value(face, "Wearing_Necklace") == 1:
            assert area(face, "neck_l") > 0
        if value(face, "Bald") == 1:
            assert area(face, "hair") == 0
        if value(face, "Mouth_Slightly_Open") == 1:
            assert area(face, "mouth") > 0
        colours = [value(face, f"{c}_Hair") for c in ("Black", "Blond", "Brown", "Gray")]
        assert colours.count(1) <= 1


def test_facial_hair_mask_style_and_attributes_agree(faces):
    styles = set()
    for face in faces:
        labels = {name: value(face, name) == 1 for name in records.ATTRIBUTES}
        assert records.facial_hair_style(labels) == face.facial_hair_style
        assert (face.facial_hair_style != "none") == bool(face.facial_hair.any())
        styles.add(face.facial_hair_style)
    assert styles == set(records.FACIAL_HAIR)


def test_facial_hair_lies_on_skin(faces):
    for face in faces:
        assert (face.mask[face.facial_hair > 0] == records.PARSING_ID["skin"]).all()


def test_left_is_the_persons_left(faces):
    for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
        for face in faces:
            x_left = (face.mask == records.PARSING_ID[left]).nonzero()[:, 1].float()
            x_right = (face.mask == records.PARSING_ID[right]).nonzero()[:, 1].float()
            if len(x_left) and len(x_right):
                assert x_left.mean() > x_right.mean()


def test_landmarks_lie_on_their_parts_and_near_the_template(faces):
    near = {
        0: ("r_eye", "eye_g"), 1: ("l_eye", "eye_g"), 2: ("nose",),
        3: ("u_lip", "l_lip", "mouth", "skin"), 4: ("u_lip", "l_lip", "mouth", "skin"),
    }  # fmt: skip
    hits = 0
    for face in faces:
        error = np.abs(face.landmarks / 96 - records.FFHQ_TEMPLATE).max()
        assert error < 0.1
        for point, names in near.items():
            x, y = np.rint(face.landmarks[point]).astype(int)
            patch = face.mask[y - 1 : y + 2, x - 1 : x + 2]
            hits += any((patch == records.PARSING_ID[name]).any() for name in names)
    assert hits / (5 * COUNT) > 0.95  # hair, a hat or a turned head may cover a point


def test_masks_follow_the_edges_of_the_picture():
    at_edges, elsewhere = [], []
    for index in range(0, 80, 4):
        face = draw_face(9, index, 128)
        if value(face, "Blurry") == 1:
            continue
        grey = face.image.float().mean(0)
        step = (grey[:, 1:] - grey[:, :-1]).abs()
        edge = face.mask[:, 1:] != face.mask[:, :-1]
        person = (face.mask[:, 1:] > 0) & ~edge
        at_edges.append(step[edge].mean())
        elsewhere.append(step[person].mean())
    assert np.mean(at_edges) > 3 * np.mean(elsewhere)


def test_drawn_people_are_varied(faces):
    skin = []
    for face in faces:
        inside = face.mask == records.PARSING_ID["skin"]
        skin.append(float(face.image.float().mean(0)[inside].mean()))
    assert np.percentile(skin, 5) < 75
    assert np.percentile(skin, 95) > 170
    hair = [area(face, "hair") / 96**2 for face in faces]
    assert np.percentile(hair, 5) < 0.03
    assert np.percentile(hair, 95) > 0.28


def test_attractive_proxy_is_independent_of_sex_and_skin():
    people = [draw_identity(generator(6, 0, index, "people")) for index in range(1500)]
    looks = [draw_look(generator(6, 0, index, "looks"), who) for index, who in enumerate(people)]
    table = np.stack([attributes(who, look) for who, look in zip(people, looks, strict=True)]).astype(float)
    attractive = table[:, records.ATTRIBUTE_ID["Attractive"]]
    for name in ("Male", "Pale_Skin"):
        assert abs(np.corrcoef(attractive, table[:, records.ATTRIBUTE_ID[name]])[0, 1]) < 0.07
    assert 0.35 < (attractive == 1).mean() < 0.45


def test_four_records_make_an_identity_and_splits_are_by_identity():
    assert [draw_face(0, index, 32).identity for index in (0, 3, 4)] == ["synth-0-0", "synth-0-0", "synth-0-1"]
    assert [split_of(identity) for identity in (0, 3, 7, 13)] == ["train", "validation", "test", "validation"]


def test_scene_places_every_face_in_the_photo_without_overlap():
    for index, (size, count) in enumerate([((240, 320), 1), ((300, 400), 4), ((240, 480), 5)]):
        scene = draw_scene(3, index, size, count)
        assert tuple(scene.photo.shape) == (3, *size)
        assert tuple(scene.boxes.shape) == (count, 4)
        assert tuple(scene.landmarks.shape) == (count, 5, 2)
        low, high = scene.boxes[:, None, :2], scene.boxes[:, None, 2:]
        inside = (scene.landmarks > low) & (scene.landmarks < high)
        assert inside.all()
        assert scene.boxes.min() >= 0
        assert (scene.boxes[:, 2:].max(0).values < torch.tensor([size[1], size[0]])).all()
        for a in range(count):
            for b in range(a):
                corner = torch.minimum(scene.boxes[a, 2:], scene.boxes[b, 2:])
                overlap = (corner - torch.maximum(scene.boxes[a, :2], scene.boxes[b, :2])).clamp(min=0)
                assert overlap.prod() == 0
        assert torch.equal(scene.photo, draw_scene(3, index, size, count).photo)
    assert draw_scene(3, 0, (64, 64), 0).boxes.shape == (0, 4)


def test_synthesise_writes_a_dataset_that_can_be_stopped_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "RECORDS_PER_SHARD", 8)
    out = tmp_path / "faces"
    summary = synthesise(str(out), 20, size=32, seed=4, workers=1)
    assert (summary["faces"], summary["identities"], summary["drawn"], summary["kept"]) == (20, 5, 20, 0)
    names = [f"shard-{index:05d}.parquet" for index in range(3)]
    before = {name: (out / name).read_bytes() for name in (*names, "dataset.json")}
    (out / names[1]).unlink()
    (out / "dataset.json").unlink()
    again = synthesise(str(out), 20, size=32, seed=4, workers=1)
    assert (again["drawn"], again["kept"]) == (8, 12)
    assert {name: (out / name).read_bytes() for name in before} == before

    rows = [row for name in names for row in pq.read_table(out / name).to_pylist()]
    assert len({row["id"] for row in rows}) == 20
    drawn = {**face_record(4, 9, 32), "landmarks": rows[9]["landmarks"]}
    assert {name: value for name, value in rows[9].items() if value is not None or name in drawn} == drawn
    assert rows[9]["landmarks"] == pytest.approx(face_record(4, 9, 32)["landmarks"])
    face = draw_face(4, 9, 32)
    assert torch.equal(codec.decode_mask(rows[9]["mask"]), face.mask)
    assert (codec.decode(rows[9]["image"]).float() - face.image.float()).abs().mean() < 6

    with pytest.raises(RayfaceError, match="made with"):
        synthesise(str(out), 21, size=32, seed=4, workers=1)


def test_start_continues_the_same_endless_dataset(tmp_path):
    synthesise(str(tmp_path / "a"), 6, size=32, seed=1, workers=0)
    synthesise(str(tmp_path / "b"), 3, size=32, seed=1, workers=0, start=3)
    everything = pq.read_table(tmp_path / "a" / "shard-00000.parquet").to_pylist()
    assert pq.read_table(tmp_path / "b" / "shard-00000.parquet").to_pylist() == everything[3:]
    filesystem, folder = storage.open_filesystem(tmp_path / "b")
    assert shards.read_manifest(folder, filesystem)["options"]["start"] == 3


def test_bad_arguments_are_refused(tmp_path):
    out = str(tmp_path / "faces")
    for arguments, word in (
        ({"count": 0}, "count is 0"), ({"count": 1, "size": 7}, "size is 7"), ({"count": 1, "seed": -1}, "seed -1"),
        ({"count": 1, "workers": -2}, "workers is -2"),
    ):  # fmt: skip
        with pytest.raises(RayfaceError, match=word):
            synthesise(out, **arguments)
    with pytest.raises(RayfaceError, match="50 faces do not fit"):
        draw_scene(0, 0, (64, 64), 50)
    assert not os.path.exists(out)


def test_foreign_shards_are_left_alone(tmp_path):
    (tmp_path / "shard-00000.parquet").write_bytes(b"mine")
    with pytest.raises(RayfaceError, match="something else"):
        synthesise(str(tmp_path), 4, size=32)
    assert (tmp_path / "shard-00000.parquet").read_bytes() == b"mine"


@pytest.mark.ray
def test_ray_draws_the_same_dataset(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "RECORDS_PER_SHARD", 8)
    synthesise(str(tmp_path / "one"), 20, size=32, seed=2, workers=1)
    summary = synthesise(str(tmp_path / "ray"), 20, size=32, seed=2, workers=2)
    assert summary["faces"] == 20
    for index in range(3):
        name = f"shard-{index:05d}.parquet"
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    manifest = json.loads((tmp_path / "ray" / "dataset.json").read_text())
    assert manifest["splits"]["validation"] == 4


def test_smooth_passes_through_its_points_and_views_fit_exactly():
    points = np.random.default_rng(0).normal(size=(6, 2))
    assert np.allclose(smooth(points, 5)[::5], points)
    assert np.allclose(smooth(points, 4, closed=False)[[0, -1]], points[[0, -1]])
    head = np.random.default_rng(1).normal(size=(5, 3))
    view = View.turned(0.3, 0.1, 0.05)
    target = view.fitted(head, np.random.default_rng(2).normal(size=(5, 2))).project(head)
    turned = np.array([[0, -2.0], [2.0, 0]])  # a quarter turn at twice the size
    placed = view.fitted(head, target)
    assert np.allclose(placed.at(0.3, 0.7, 0.1), placed.on_face(np.array([[0.3, 0.7]]), 0.1)[0])
    again = view.fitted(head, target @ turned + (3, 4))
    assert np.allclose(again.project(head), target @ turned + (3, 4))
    assert again.unit == pytest.approx(2 * view.fitted(head, target).unit)
