"""Face synthesis at serving: another person's face in crops (`face_swap` trains the networks)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.networks.face_swapper import given_identity, swap
from rayface.networks.precision import as_served
from rayface.systems.base import Networks

if TYPE_CHECKING:
    from rayface.store import LoadedModel


@torch.inference_mode()
def swapped_crops(
    networks: Networks, crops: Tensor, donors: Tensor | None, device: torch.device, away: float = 0.0
) -> Tensor:
    """Crops with the identities of donors, uint8 [N, 3, S, S] each, on the CPU, `as_served`.

    `donors` None: nobody's, to see what of who it is comes through the texture. `away`: see `given_identity`.
    """

    def prepared(pictures: Tensor) -> Tensor:
        return to_float(pictures.to(device)).contiguous(memory_format=torch.channels_last)

    with as_served(device):
        shown = prepared(crops)
        identity = given_identity(networks, shown, shown if donors is None else prepared(donors), away)
        if donors is None:
            identity = torch.zeros_like(identity)
        return to_uint8(swap(networks, shown, identity).clamp(-1, 1)).cpu()


class SwapStep:
    """Another person's face, at serving. Parameter `donor`: for each crop the donor's, uint8 [3, S, S]."""

    name = "swap"
    sharpens = False
    keeps_identity = False  # on purpose: the guard measures and takes nothing back

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.away: float = loaded.config.likeness.away
        self.device = device
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last) for name, network in loaded.networks.items()
        }

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        donors = torch.stack([torch.as_tensor(np.array(donor)) for donor in params["donor"]])
        return swapped_crops(self.networks, crops, resize_images(donors, self.size), self.device, self.away)
