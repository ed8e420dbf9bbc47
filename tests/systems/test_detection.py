"""Training of the detector: what the networks see, what they should say, that they learn it, what is served."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.synth import draw_face
from rayface.detector import Detector, load_detector
from rayface.errors import RayfaceError
from rayface.imaging.pyramid import Pyramid
from rayface.store import ModelStore, release_store
from rayface.systems.base import get_system, resolve_config, sample_generators
from rayface.systems.detection import NETWORKS, Detection, DetectionConfig, cascade, cut, hard_mean
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import solo


def test_windows_show_what_they_cover_at_each_networks_size() -> None:
    ramp = torch.arange(96, dtype=torch.uint8).expand(3, 96, 96).contiguous()  # each pixel's value is its x
    windows = cut(ramp[None], torch.tensor([[[20.0, 30, 68, 78], [40.0, 40, 64, 64]]]))
    assert {name: windows[name].shape[3] for name in NETWORKS} == {"proposal": 12, "refinement": 24, "output": 48}
    for name in NETWORKS:
        seen = (windows[name][0, :, 0] + 1) * 127.5
        for window, (left, right) in zip(seen, ((20, 68), (40, 64)), strict=True):
            half = (right - left) / window.shape[1] / 2
            assert float(window.mean()) == pytest.approx((left + right) / 2, abs=0.6)
            assert float(window[:, 0].mean()) == pytest.approx(left + half, abs=1)
            assert float(window[:, -1].mean()) == pytest.approx(right - half, abs=1)


def test_the_hardest_windows_of_each_picture_are_averaged() -> None:
    losses = torch.tensor([[1.0, 4, 2, 3], [0, 0, 8, 0]])
    assert hard_mean(losses, 0.5).tolist() == [3.5, 4.0]
    assert hard_mean(losses, 1.0).tolist() == [2.5, 2.0]


def test_labels_agree_with_the_released_networks() -> None:
    """The released networks, trained by others, take our windows for what we say they show."""
    system = Detection()
    config = DetectionConfig(degrade=0, jitter=0, size=128)
    faces = [draw_face(3, index, 128) for index in range(16)]
    batch = {
        "image": torch.stack([face.image for face in faces]),
        "landmarks": torch.stack([torch.from_numpy(face.landmarks) for face in faces]),
    }
    batch = system.prepare(batch, config, sample_generators(0, 0, range(16), "detection"))
    networks = release_store().load("detection").networks
    shown = config.windows[0]
    with torch.no_grad():
        for name in NETWORKS:
            logit, offsets, *points = networks[name](batch[name].flatten(0, 1))
            probability = logit.sigmoid().reshape(16, -1)
            assert float((probability[:, :shown] > 0.5).float().mean()) > 0.75, name
            assert float((probability[:, sum(config.windows[:2]) :] < 0.5).float().mean()) > 0.8, name
            wanted = batch["offsets"][:, :shown]
            error = offsets.reshape(batch["offsets"].shape)[:, :shown] - wanted
            assert float(error.abs().median()) < 0.9 * float(wanted.abs().median()), name
        error = points[0].reshape(batch["landmarks"].shape)[:, :shown] - batch["landmarks"][:, :shown]
        assert float(error.abs().median()) < 0.05  # window sides


def test_training_from_scratch_lowers_every_networks_loss(drawn_faces: str) -> None:
    system = get_system("detection")
    config = resolve_config(system, "tiny", ["steps=60", "learning_rate=3e-3"])
    training = Training.start(system, config, solo())
    batches = StepBatches(system, config, FaceDataset(drawn_faces, None, config.size), solo())
    metrics = [training.run_step(batches[step]) for step in range(config.steps)]

    def mean(name: str, part: slice) -> float:
        return float(torch.stack([values[name] for values in metrics[part]]).mean())

    for name in NETWORKS:
        assert mean(f"loss/{name}", slice(-10, None)) < 0.8 * mean(f"loss/{name}", slice(10)), name
    assert mean("output/landmarks", slice(-10, None)) < 0.3 * mean("output/landmarks", slice(10))


def test_detection_is_served_as_any_model_of_the_store(tmp_path: Path) -> None:
    """A stored cascade of other widths finds what it found before; the release is reached by its name."""
    from rayface.pipeline import load_step
    from rayface.store import open_store

    faces = [draw_face(1, index, 128).image for index in range(2)]
    released = load_step(open_store(tmp_path), "detection")
    assert isinstance(released, Detector)
    assert released.model == release_store().load("detection").ref
    for ours, theirs in zip(released.detect(faces), load_detector().detect(faces), strict=True):
        assert torch.equal(ours.landmarks, theirs.landmarks)
        assert len(ours) == 1

    system = get_system("detection")
    config = system.config("tiny")
    networks = system.build(config)
    store = ModelStore(tmp_path)
    store.save("detection", "detection", config, networks)
    loaded = store.load("detection").networks
    windows = Pyramid(faces[0][None], 128).windows(torch.tensor([[10.0, 10, 110, 110]]), torch.tensor([0]), 48)
    assert torch.equal(loaded["output"](windows)[2], networks["output"](windows)[2])
    assert load_step(store, "detection").model == "detection@1"
    assert load_detector(tmp_path / "detection" / "1").networks.output(windows)[2].shape == (1, 10)


def test_evaluation_stands_beside_the_release_and_the_grid_is_a_picture(drawn_faces: str) -> None:
    system = get_system("detection")
    config = resolve_config(system, "tiny", [])
    dataset = FaceDataset(drawn_faces, None, config.size)
    released = release_store().load("detection").networks
    report = system.evaluate(released, config, dataset, torch.device("cpu"), 8)
    assert report["crops"]["model"]["error_change_percent"]["value"] == 0
    batch: dict[str, Tensor] = StepBatches(system, config, dataset, solo())[0]
    picture = system.sample_grid(released, batch, config)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3
    green = (picture == torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]).all(0)
    assert int(green.sum()) > 100  # landmarks are marked
    assert cascade(released).output is released["output"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("windows=2,0,4", "at least one of each kind"),
        ("size=32", "size=32 must be at least 48"),
        ("sizes=1.2,0.5", "the smaller one"),
        ("hard_windows=0", "hard_windows=0"),
    ],
)
def test_settings_are_checked(setting: str, message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        resolve_config(get_system("detection"), "tiny", [setting])
