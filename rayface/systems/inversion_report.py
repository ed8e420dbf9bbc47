"""What `rayface evaluate attribute_editing` tells of generator and inversion: random faces, photos drawn again."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation.attribute_editing import first_guess_report, inversion_report
from rayface.evaluation.generation import generation_report
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.networks.precision import as_served
from rayface.randomness import generator as seeded
from rayface.systems.inversion import PLAIN, InversionConfig, Inverted, invert

TUNING_STEPS = 30  # where tuning is measured and the configuration has none


def drawn_report(
    networks: Mapping[str, Any], found: InversionConfig, dataset: FaceDataset, batch: int, device: torch.device,
    limit: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Of `rayface evaluate` what concerns no edits; `found` says how latents are sought."""
    side = networks["generator"].config.side
    trained_on = FaceDataset(dataset.path, "train")
    ways = {
        "plain": PLAIN,
        "z": replace(found, extended=False, tuning_steps=0),
        "extended": replace(found, extended=True, tuning_steps=0),
        "tuned": replace(found, extended=True, tuning_steps=found.tuning_steps or TUNING_STEPS),
    }

    def inverted(crops: Tensor, way: InversionConfig) -> Inverted:
        with as_served(device):
            return invert(networks, resize_images(to_float(crops.to(device)), side), way)

    def redrawn(way: InversionConfig) -> Callable[[Tensor], Tensor]:
        def drawn(crops: Tensor) -> Tensor:
            parts = crops.split(1) if way.tuning_steps else [crops]  # a generator is tuned to one photo
            return torch.cat([to_uint8(inverted(part, way).drawn.clamp(-1, 1)).cpu() for part in parts])

        return drawn

    def losses(crops: Tensor, first_guess: bool) -> Tensor:
        start = "guess" if first_guess else "middle"
        return inverted(crops, replace(found, start=start, natural=0, tuning_steps=0)).losses

    def draw(first: int, count: int) -> Tensor:
        return drawn_faces(networks["generator"], first, count, device)

    return {
        "inversion": inversion_report({name: redrawn(way) for name, way in ways.items()}, dataset, batch, limit),
        "first_guess": first_guess_report(losses, dataset, batch, limit),
        "generation": generation_report(draw, dataset, trained_on, batch, limit),
    }


@torch.inference_mode()
def drawn_faces(generator: Any, first: int, count: int, device: torch.device) -> Tensor:
    """Faces number `first` and the next of an endless row of random ones: uint8 [count, 3, side, side] on the CPU."""
    random = np.stack(
        [
            seeded(0, index=number, stream="drawn faces").standard_normal(generator.config.latent, np.float32)
            for number in range(first, first + count)
        ]
    )
    with as_served(device):
        latents = generator.latents_of(torch.from_numpy(random).to(device))
        return to_uint8(generator(latents).clamp(-1, 1)).cpu()
