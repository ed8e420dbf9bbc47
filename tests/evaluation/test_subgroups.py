"""Figures by group of people, from labels, from predictions, or said to be missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation.evaluate import evaluate, subgroup_report
from rayface.evaluation.restoration import restoration_report
from rayface.evaluation.subgroups import (
    LEAST_PHOTOS,
    by_group,
    group_masks,
    per_photo_values,
    predicted_attributes,
    record,
    stated_attributes,
)
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES
from rayface.store import ModelStore
from rayface.systems.base import SYSTEMS, get_system
from tests.tiny_models import save_tiny_models


def attributes_of(male: list[int]) -> np.ndarray:
    attributes = np.zeros((len(male), len(ATTRIBUTES)), int)
    attributes[:, ATTRIBUTE_ID["Male"]] = male
    return attributes


def test_unknown_is_in_neither_group() -> None:
    masks = group_masks(attributes_of([1, -1, 0, 1]))
    assert masks["Male: yes"].tolist() == [True, False, False, True]
    assert masks["Male: no"].tolist() == [False, True, False, False]
    assert not masks["Young: yes"].any()


def test_means_per_group_and_small_groups_are_only_counted() -> None:
    men = LEAST_PHOTOS + 1
    masks = group_masks(attributes_of([1] * men + [-1] * (LEAST_PHOTOS - 1)))
    values = np.array([2.0] * men + [10.0] * (LEAST_PHOTOS - 1))
    values[0] = np.nan  # a photo without the metric
    table = by_group({"error": values}, masks)
    assert table["Male: yes"]["error"] == {"value": 2.0, "low": 2.0, "high": 2.0, "photos": men - 1}
    assert table["Male: no"] == {"photos": LEAST_PHOTOS - 1}
    assert table["all"]["error"]["value"] == pytest.approx(np.nanmean(values))


def test_values_are_collected_only_where_asked() -> None:
    record("lost", np.zeros(3))
    with per_photo_values() as values:
        record("kept", np.ones(3))
    record("late", np.zeros(3))
    assert list(values) == ["kept"]


def test_attributes_from_labels_and_from_a_network(drawn_faces: str) -> None:
    dataset = FaceDataset(drawn_faces)
    stated = stated_attributes(dataset, 20)
    assert stated is not None
    assert np.array_equal(stated, dataset.batch(range(20), ("attributes",))["attributes"])

    def bright_is_male(crops: Tensor) -> Tensor:
        assert crops.shape[1:] == (3, 32, 32)
        return (crops.float().mean((1, 2, 3)) / 255)[:, None].expand(-1, len(ATTRIBUTES))

    predicted = predicted_attributes(dataset, 20, bright_is_male, 32)
    means = torch.as_tensor(dataset.batch(range(20), ("image",))["image"]).float().mean((1, 2, 3))  # type: ignore[arg-type]
    assert abs(means - 127.5).min() > 1, "no picture so near the middle that resizing could move it across"
    assert (predicted[:, 0] > 0).tolist() == (means > 127.5).tolist()


@pytest.mark.parametrize("system", ["parsing", "super_resolution", "detection", "recognition"])
def test_reports_without_groups_of_their_own_get_them(system: str, drawn_faces: str, tmp_path: Path) -> None:
    report = evaluate(system, drawn_faces, save_tiny_models(tmp_path, (system,)), split="validation", limit=6)
    assert report["subgroups"]["source"] == "the data's own labels"
    groups = report["subgroups"]["groups"]
    assert groups["all"]["photos"] == 6
    assert groups["Male: yes"]["photos"] + groups["Male: no"]["photos"] == 6
    figures = [name for name in groups["all"] if name != "photos"]
    assert figures
    json.dumps(report)


def test_restoration_hands_over_the_models_values(drawn_faces: str) -> None:
    with per_photo_values() as values:
        report = restoration_report(lambda crops: crops, FaceDataset(drawn_faces), 4, 5)
    assert {"psnr", "ssim", "colour_shift", "psnr_gain"} <= values.keys()
    assert values["psnr_gain"].tolist() == [0.0] * 5, "the model gives its input back"
    assert values["psnr"].mean() == pytest.approx(report["all"]["model"]["psnr"]["value"])


def unlabelled(drawn_faces: str, folder: Path) -> FaceDataset:
    """A copy of the drawn faces whose attributes are gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    copy = shutil.copytree(drawn_faces, folder)
    for shard in copy.glob("*.parquet"):
        table = pq.read_table(shard)
        place = table.column_names.index("attributes")
        nothing = pa.nulls(len(table), table.schema.field("attributes").type)
        table = table.set_column(place, table.schema.field("attributes"), nothing)
        pq.write_table(table, shard, row_group_size=16)
    return FaceDataset(copy, "train")


def test_without_labels_a_stored_model_predicts_or_it_is_said(drawn_faces: str, tmp_path: Path) -> None:
    dataset = unlabelled(drawn_faces, tmp_path / "faces")
    store = ModelStore(tmp_path / "store")
    values = {"psnr": np.arange(8.0)}
    missing = subgroup_report(values, dataset, store)
    assert missing["groups"] == {}
    assert "the store no model 'attributes'" in missing["source"]
    assert subgroup_report({}, dataset, store) == {}
    assert "attributes" in SYSTEMS
    system = get_system("attributes")
    config = system.config("tiny")
    torch.manual_seed(0)
    store.save("attributes", "attributes", config, system.build(config))
    found = subgroup_report(values, dataset, store)
    assert found["source"] == "what attributes@1 predicts, as the data has no labels"
    assert found["groups"]["all"]["photos"] == 8
    assert found["groups"]["Male: yes"]["photos"] + found["groups"]["Male: no"]["photos"] == 8
    refused = subgroup_report(values, dataset, ModelStore(tmp_path / "store", commercial_only=True))
    assert refused["groups"] == {}, "terms cost the groups, not the report"
    assert "attributes@1 is refused" in refused["source"]


def test_predicted_labels_in_the_data_are_named(drawn_faces: str, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn_faces, tmp_path / "faces")
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["labelled_by"] = {"attributes": [{"model": "attributes@4", "sha256": "0" * 64, "faces": 64}]}
    (copy / "dataset.json").write_text(json.dumps(manifest))
    found = subgroup_report({"psnr": np.arange(8.0)}, FaceDataset(copy), ModelStore(tmp_path / "store"))
    assert found["source"] == "labels that attributes@4 predicted"
