"""A store of tiny-preset models, for tests that need some model with an effect, not a good one."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, l1_loss

from rayface.imaging.codec import to_float
from rayface.store import ModelStore, release_store
from rayface.systems.base import get_system
from tests.scenes import scene


def save_tiny_models(
    folder: Path, systems: tuple[str, ...] = ("enhancement", "parsing", "super_resolution")
) -> ModelStore:
    """One version of each system in a store in `folder`, the release (its detector) behind it; the same every time.

    The enhancer is taught in a second to sharpen, as an untrained one returns its input; the parser is untrained,
    the upscaler adds noise to the interpolated photo, what beautifies takes fine
    detail away, facial hair is dark, attributes change all of a face, and swaps draw their window anew.
    """
    store = ModelStore(folder, fallback=release_store())
    for name in systems:
        config, networks = _model(name)
        store.save(name, name, config, networks, details={"licence": "Apache-2.0"}, metrics={"tested": 1.0})
    return store


@cache
def _model(name: str) -> tuple[Any, dict[str, nn.Module]]:
    """The configuration of a system's tiny preset, and the networks that go into the store."""
    torch.manual_seed(0)
    system = get_system(name)
    config = system.config("tiny")
    networks = system.build(config)
    if name == "enhancement":
        _teach_to_sharpen(networks["enhancer"], config.size)
    if name == "super_resolution":
        for head in networks["upscaler"].heads.values():  # type: ignore[union-attr, operator]
            nn.init.normal_(head.weight, std=0.05)
    if name == "beauty":
        nn.init.constant_(networks["detail_mask"].to_mask.bias, -0.1)  # type: ignore[union-attr, arg-type]
    if name == "facial_hair":
        nn.init.normal_(networks["hair_painter"].generator.to_rgb.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    if name == "attribute_editing":  # all of a face may change
        nn.init.constant_(networks["places"].head.bias, 20.0)  # type: ignore[union-attr, arg-type]
    if name == "face_swap":  # the window is drawn anew
        nn.init.normal_(networks["decoder"].to_rgb.weight, std=0.3)  # type: ignore[union-attr, arg-type]
        nn.init.constant_(networks["face_mask"].head.bias, 20.0)  # type: ignore[union-attr, arg-type]
    return config, {key: networks[key] for key in system.released}


def _teach_to_sharpen(network: nn.Module, size: int) -> None:
    clear = to_float(scene(0)[None, :, 30:158, 90:218])
    clear = interpolate(clear, (size, size), mode="area")
    blurred = _blurred(clear)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        loss = l1_loss(network(blurred), blurred + 2 * (clear - blurred))
        loss.backward()
        optimiser.step()


def _blurred(images: Tensor) -> Tensor:
    return interpolate(avg_pool2d(images, 4), scale_factor=4.0, mode="bilinear", align_corners=False)
