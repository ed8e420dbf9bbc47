"""Swap detection: what is trained on, balance of real and fake, calibration, the classical method left out, serving."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.shards import shard_name, write_manifest, write_shard
from rayface.errors import RayfaceError
from rayface.evaluation.swap_detection import area
from rayface.imaging.codec import decode, encode, to_float
from rayface.networks.swap_detector import SwapDetector, middle_part, residuals
from rayface.store import ModelStore
from rayface.systems.base import PhaseState, get_system, resolve_config, sample_generators
from rayface.systems.swap_detection import SwapDetection, held_out_logits, methods_of, probabilities
from rayface.training.loop import Training, run
from rayface.training.workers import solo

CPU = torch.device("cpu")


def tiny(*overrides: str) -> tuple[SwapDetection, Any]:
    system = get_system("swap_detection")
    assert isinstance(system, SwapDetection)
    return system, resolve_config(system, "tiny", ["precision=fp32", *overrides])


def random_detector(seed: int = 0) -> SwapDetector:
    torch.manual_seed(seed)
    detector = SwapDetector(tiny()[1].detector).eval()
    torch.nn.init.normal_(detector.read_out.weight)
    return detector


@pytest.fixture(scope="module")
def swap_set(drawn_faces: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The drawn faces, of which every third is said to be a swap, every seventh a blend."""
    folder, source = tmp_path_factory.mktemp("swaps"), FaceDataset(drawn_faces)
    columns = ("id", "source", "split", "identity", "image", "landmarks")
    rows = []
    for index, row in enumerate(source.records(range(len(source)), columns)):
        method = "face_swap" if index % 3 == 0 else "blend" if index % 7 == 1 else None
        rows.append({**row, "size": 64, "swap_method": method})
    write_shard(rows, str(folder / shard_name(0)))
    write_manifest(str(folder), format="swaps", size=64)
    return str(folder)


def test_the_classical_method_is_never_trained_on(swap_set: str) -> None:
    system, config = tiny("global_batch=6")
    dataset = FaceDataset(swap_set, "train")
    fitted = system.fitted(config, dataset)
    assert fitted.methods == ("face_swap",)
    methods, sample = methods_of(dataset), system.sampler(fitted, dataset)
    for step in range(30):
        drawn = [methods[index] for index in sample(step)]
        assert "blend" not in drawn
        assert drawn.count("face_swap") == 2
    _, labels = held_out_logits(random_detector(), dataset, fitted, CPU)
    assert len(labels) == sum(method != "blend" for method in methods)


def test_without_swaps_self_blended_faces_stand_in(drawn_faces: str, swap_set: str) -> None:
    system, config = tiny()
    dataset = FaceDataset(drawn_faces, "train", 64)
    assert system.fitted(config, dataset).methods == ()
    assert len(set(system.sampler(config, dataset)(0))) == 8
    with pytest.raises(RayfaceError, match="rayface data swaps"):
        system.fitted(tiny("self_blended=0")[1], dataset)
    with pytest.raises(RayfaceError, match="from 0 to 1"):
        tiny("self_blended=1.5")
    with pytest.raises(RayfaceError, match="divisible by 64; try 128"):
        tiny("size=100")
    logits, labels = held_out_logits(random_detector(), dataset, config, CPU)
    assert labels.sum() == 0
    assert len(logits) == 2 * len(dataset)


def test_fakes_weigh_as_much_as_real_faces() -> None:
    _, config = tiny()
    assert config.weights == (1.0, 0.0)
    for share in (0.0, 0.3, 1.0):
        blended, swap = dataclasses.replace(config, methods=("face_swap",), self_blended=share).weights
        assert 2 / 3 * blended + 1 / 3 * swap == pytest.approx(2 / 3)


def prepared(folder: str, *overrides: str) -> tuple[SwapDetection, Any, dict[str, Tensor]]:
    system, config = tiny(*overrides)
    dataset = FaceDataset(folder, "train", 64)
    config = system.fitted(config, dataset)
    raw = dataset.batch(system.sampler(config, dataset)(0), system.columns)
    return system, config, system.prepare(raw, config, sample_generators(0, 1, range(8), "x"))


def test_a_photo_and_its_blended_copy_meet_the_same_changes(drawn_faces: str) -> None:
    """Away from the blended part they are equal, whatever was drawn for the pair."""
    _, _, batch = prepared(drawn_faces, "degrade=0")
    difference = (batch["image"] - batch["blended"]).abs().amax(1)
    # but where all around the face was softened, one in seven
    assert (difference[:, :4].amax((1, 2)) < 1e-5).float().mean() >= 0.5, "above the face nothing is blended"
    assert (difference.amax((1, 2)) > 0.02).float().mean() > 0.8
    assert batch["map"].shape == (8, 3, 3)
    assert batch["map"].min() >= 0
    assert batch["map"].amax((1, 2)).median() > 0.3
    _, _, again = prepared(drawn_faces, "degrade=0")
    assert all(torch.equal(batch[key], again[key]) for key in batch)


def test_loss_is_the_mean_of_the_samples_own(swap_set: str) -> None:
    system, config, batch = prepared(swap_set)
    networks, state = {"detector": random_detector()}, PhaseState(config, 0, {})
    whole, _ = system._loss(batch, networks, state)
    alone = [
        system._loss({key: value[i : i + 1] for key, value in batch.items()}, networks, state)[0] for i in range(8)
    ]
    assert whole.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)


def test_it_learns_the_swaps_of_a_set(drawn_faces: str, tmp_path: Path) -> None:
    """Every third drawn face has a coarse grid on its middle, as a bad swap may."""
    source = FaceDataset(drawn_faces, "train")
    rows = []
    for index, row in enumerate(source.records(range(len(source)), ("id", "source", "split", "image", "landmarks"))):
        picture, method = decode(row["image"]).clone(), "face_swap" if index % 3 == 0 else None
        if method:
            picture[:, 24:48:2, 20:44] = picture[:, 24:48:2, 20:44] // 2
        rows.append({**row, "image": encode(picture), "size": 64, "swap_method": method})
    write_shard(rows, str(tmp_path / shard_name(0)))
    write_manifest(str(tmp_path), format="swaps", size=64)
    system, config = tiny("steps=40", "degrade=0", "learning_rate=1e-2", "self_blended=0", "map_weight=0")
    dataset = FaceDataset(tmp_path, "train", 64)
    training = Training.start(system, system.fitted(config, dataset), solo())
    run(training, dataset, lambda *_: None)
    detector = training.networks["detector"].eval()
    logits, labels = held_out_logits(detector, dataset, training.config, CPU)
    assert area(logits[labels > 0].numpy(), logits[labels < 0].numpy())["value"] > 0.9


def test_finish_calibrates_on_the_validation_split(drawn_faces: str, swap_set: str) -> None:
    system, config = tiny()
    detector = random_detector()
    detector.calibrate(50.0, 3.0)  # far too sure
    images = to_float(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    before = detector(images)
    said = system.finish({"detector": detector}, config, FaceDataset(drawn_faces, "train"), CPU)["calibration"]
    assert (said["split"], said["fakes"], said["share"]) == ("validation", ["self-blended"], 0.5)
    assert abs(float(detector.logit_scale)) < 50
    scale, bias = float(detector.logit_scale) / 50, float(detector.logit_bias)
    assert torch.allclose(detector(images), (before - 3) * scale + bias, atol=1e-3)


def test_without_a_validation_split_nothing_is_calibrated(tmp_path: Path) -> None:
    from tests.training.patterns import write_patterns

    write_patterns(tmp_path)
    system, config = tiny()
    detector = random_detector()
    said = system.finish({"detector": detector}, config, FaceDataset(tmp_path, "train"), CPU)
    assert said["calibration"].startswith("none")
    assert float(detector.logit_scale) == 1


def test_a_new_training_starts_from_the_pretrained_features(drawn_faces: str) -> None:
    from rayface.pretrained.efficientnet import load_efficientnet_lite

    system, config = tiny("backbone=pretrained")
    start = system.initial(config, FaceDataset(drawn_faces), {})
    assert start is not None
    theirs = load_efficientnet_lite(0, 4).state_dict()
    ours = start["detector"].backbone.state_dict()  # type: ignore[union-attr, operator]
    assert set(ours) < set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert system.began_as(config) == {"backbone": "pretrained:efficientnet_lite0"}
    assert system.initial(tiny()[1], FaceDataset(drawn_faces), {}) is None


def test_residuals_see_detail_and_no_slope() -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    plane = ((x + 2 * y) / 64 - 0.5)[None, None].expand(1, 3, -1, -1)
    found = residuals(plane)
    assert found.shape == (1, 9, 16, 16)
    assert found[..., 1:-1, 1:-1].abs().max() < 1e-5
    checks = (((x + y) % 2) * 0.1)[None, None].expand(1, 3, -1, -1)
    assert residuals(checks)[..., 1:-1, 1:-1].abs().min() > 0.5


def test_the_middle_part_holds_the_face() -> None:
    from rayface.records import FFHQ_TEMPLATE

    seen = torch.zeros(1, 1, 64, 64)
    for column, row in (FFHQ_TEMPLATE * 64).round().astype(int):
        seen[..., row, column] = 1
    assert middle_part(seen).sum() == 5
    assert middle_part(seen).shape == (1, 1, 48, 48)


def test_the_step_gives_probabilities(tmp_path: Path) -> None:
    system, config = tiny()
    store, detector = ModelStore(tmp_path), random_detector()
    detector.calibrate(0.5, 0.25)
    ref = store.save("swap_detection", "swap_detection", config, {"detector": detector})
    step = system.make_step(store.load(ref))
    crops = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    found = step.judge(crops)
    assert (step.model, step.size, step.name) == ("swap_detection@1", 64, "detect_swap")
    assert torch.allclose(found, probabilities(detector, crops, CPU), atol=1e-5)
    assert ((found > 0) & (found < 1)).all()


def test_release_size() -> None:
    """What is left of SPEC's budget: 1.1 MB in half precision."""
    detector = get_system("swap_detection").build(get_system("swap_detection").config("small"))["detector"]
    assert 2 * sum(value.numel() for value in detector.state_dict().values()) < 1.1e6


def test_sample_grid_shows_real_and_blended_faces(drawn_faces: str) -> None:
    system, config, batch = prepared(drawn_faces)
    with torch.no_grad():
        picture = system.sample_grid({"detector": random_detector()}, batch, config)
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == 8 * 170
