"""Super-resolution: starts as interpolation, learns, has no seams, and measures itself beside its baselines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.evaluation.judges import JUDGES, Panel, using
from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.upscaler import Upscaler, UpscalerConfig
from rayface.networks.widths import apply_widths, read_widths
from rayface.store import ModelStore
from rayface.systems.base import get_system, resolve_config
from rayface.systems.super_resolution import SuperResolution, upscale
from rayface.training.loop import StepBatches, Training, run
from rayface.training.workers import solo
from tests.scenes import scene

CPU = torch.device("cpu")


def busy(config: UpscalerConfig | None = None, seed: int = 0) -> Upscaler:
    """An untrained network whose heads are not zero."""
    torch.manual_seed(seed)
    network = Upscaler(config or UpscalerConfig(width=16, blocks=2))
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight, std=0.05)  # type: ignore[arg-type]
    return network.eval()


@pytest.mark.parametrize("scale", [2, 4])
def test_an_untrained_network_is_bicubic_interpolation(scale: int) -> None:
    photo = scene(0)
    expected = interpolate(to_float(photo[None]), scale_factor=float(scale), mode="bicubic")
    made = upscale(Upscaler(UpscalerConfig(width=8, blocks=1)), photo, scale, CPU)
    assert torch.equal(made, to_uint8(expected)[0])


@pytest.mark.parametrize("scale", [2, 4])
def test_no_seams(scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles give the same bytes as the photo at once, and the network's reach is as far as it looks, no further."""
    network, photo = busy(), scene(0)
    at_once = upscale(network, photo, scale, CPU)
    for tile in (64, 97):
        monkeypatch.setattr("rayface.systems.super_resolution.TILE", tile)
        assert torch.equal(upscale(network, photo, scale, CPU), at_once)
    monkeypatch.setattr(network, "reach", network.reach - 2)
    assert not torch.equal(upscale(network, photo, scale, CPU), at_once)


def test_training_beats_interpolation(drawn_faces: str) -> None:
    system = get_system("super_resolution")
    config = resolve_config(system, "tiny", ["steps=60", "learning_rate=4e-3", "reduction.clean=1"])
    training = Training.start(system, config, solo())
    run(training, FaceDataset(drawn_faces, "train", config.size), lambda *_: None)
    held_out = FaceDataset(drawn_faces, None, config.size)
    with using(Panel(refused=dict.fromkeys(JUDGES, "judges have tests of their own"))):
        report, again = (system.evaluate(training.average, config, held_out, CPU, 8) for _ in range(2))
    for case in ("x2_clean", "x4_clean"):
        assert report[case]["gain_over_lanczos"]["psnr"]["low"] > 0, case
        assert set(report[case]) >= {"nearest", "bicubic", "lanczos", "model", "gain_over_lanczos"}
    assert report["x2_clean"]["lanczos"]["psnr"]["value"] > report["x2_clean"]["nearest"]["psnr"]["value"]
    assert again == report, "inputs are pinned"


class Edges(torch.nn.Module):
    """A stand-in of two stages for a pretrained network: it must exist in no wheel."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.diff(dim=-1), torch.nn.functional.avg_pool2d(images, 4)]


def test_the_perceptual_term_joins_where_its_network_is_named(drawn_faces: str) -> None:
    system = get_system("super_resolution")
    settings = ["steps=4", "precision=fp32", "perceptual_network=pretrained:efficientnet_lite0:4"]
    config = resolve_config(system, "tiny", settings)
    assert system.frozen_models(config) == {"perceptual_network": "pretrained:efficientnet_lite0:4"}
    assert system.frozen_models(system.config("small")) == {}
    dataset = FaceDataset(drawn_faces, "train", config.size)
    batch = StepBatches(system, config, dataset, solo())[0]
    plain = Training.start(system, config, solo())
    guided = Training.start(system, config, solo(), {"perceptual_network": Edges()})
    losses = [training.run_step(batch)["loss/upscaler"] for training in (plain, guided)]
    assert losses[1] > losses[0]
    heads = [training.networks["upscaler"].heads["2"].weight for training in (plain, guided)]  # type: ignore[union-attr, index]
    assert not torch.equal(*heads), "the term moves the network"


def test_the_step_from_the_store(tmp_path: Path) -> None:
    system = get_system("super_resolution")
    config, network = system.config("tiny"), busy(UpscalerConfig(width=8, blocks=1))
    store = ModelStore(tmp_path)
    ref = store.save("super_resolution", "super_resolution", config, {"upscaler": network}, half=True)
    step = system.make_step(store.load(ref))
    assert (step.name, step.model, step.scales) == ("upscale", ref, (2, 4))
    photo = scene(0)[:, :50, :61]
    made = step(photo, 4)
    assert (made.dtype, made.shape) == (torch.uint8, (3, 200, 244))
    exact = upscale(network, photo, 4, CPU)
    assert (made.float() - exact.float()).abs().max() <= 2, "half precision moves a level or two, no more"


def test_widths_are_stored_and_restored() -> None:
    """Every layer is a plain convolution that `networks.widths` can narrow."""
    network = busy()
    widths = read_widths(network)
    widths["body.0.conv1"][1] = widths["body.0.conv2"][0] = 8
    narrow = apply_widths(Upscaler(UpscalerConfig(width=16, blocks=2)), widths)
    assert narrow(torch.zeros(1, 3, 20, 24), 4).shape == (1, 3, 80, 96)
    plain = (torch.nn.Conv2d, torch.nn.Sequential, torch.nn.ModuleDict)
    leaves = [module for module in network.modules() if not list(module.children())]
    assert all(isinstance(module, plain) and getattr(module, "groups", 1) == 1 for module in leaves)


def test_no_text_or_number_that_cannot_be_trained_with() -> None:
    system = get_system("super_resolution")
    for overrides, message in (
        (["patch=100"], "patch=100 must be divisible by 8"),
        (["patch=512"], "at most size=256"),
        (["upscaler.scales=3", "patch=96", "size=256"], "size=256 must be divisible by 24"),
        (["upscaler.scales="], "scales needs at least one"),
        (["reduction.clean=2"], "reduction: clean is 2"),
    ):
        with pytest.raises(RayfaceError, match=message):
            resolve_config(system, "small", overrides)


def test_sample_grid_shows_each_scale_beside_interpolation(drawn_faces: str) -> None:
    system = get_system("super_resolution")
    assert isinstance(system, SuperResolution)
    config = resolve_config(system, "tiny", ["global_batch=2"])
    dataset = FaceDataset(drawn_faces, None, config.size)
    generators = [np.random.default_rng(index) for index in range(2)]
    batch = system.prepare(dataset.batch([0, 1]), config, generators)
    picture = system.sample_grid({"upscaler": busy()}, batch, config)
    assert picture.shape == (3, 5 * 36 + 4, 2 * 36 + 4)
