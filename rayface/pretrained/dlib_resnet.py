"""dlib's face recognition ResNet (CC0), read from the data file of the package face-recognition-models.

dlib writes a network from the outside in: the loss, then one version number for each wrapper down to the input, then,
on the way back, each layer's own values, three flags and its three (empty) working tensors. Integers are a control byte
(count of bytes; top bit: negative) and little-endian bytes; floats an integer mantissa and an integer exponent of 2;
strings a length and bytes; flags "0" or "1"; tensors a version, four sizes and raw little-endian float32. (The format
was read in dlib's serialize.h, dnn/core.h and dnn/layers.h; no code was taken.)
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.recogniser import Recogniser, RecogniserConfig
from rayface.pretrained.packages import data_file

PACKAGE = "face_recognition_models"
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
# What follows a layer's name. t: tensor, a: the shape of one part of that tensor, i: integer, f: float.
LAYOUTS = {
    "input_rgb_image_sized": "fffii",  # mean colour, height, width
    "con_4": "tiiiiiiiaaffff",  # filters, rows, columns, two strides, two paddings; parts: weights, biases
    "affine_": "taai",  # parts: gains, biases
    "relu_": "",
    "max_pool_2": "iiiiii",
    "avg_pool_2": "iiiiii",
    "add_prev_": "",
    "fc_2": "iitaaiffff",  # outputs, inputs; parts: weights, no biases
}
LAYER, TAG, FIRST_LAYER = 2, 1, 3  # versions of the wrappers; the first layer's holds the input too


@dataclass(frozen=True)
class DlibLayer:
    """One layer: its integers and floats in the file's order, and the parts of its parameters, float32 [a, b, c, d]."""

    name: str
    integers: list[int]
    parts: list[Tensor]


def dlib_file() -> Path:
    """The network's file. Raises RayfaceError when its package is not installed."""
    return data_file(PACKAGE, FILE)


def load_dlib_recogniser() -> Recogniser:
    """dlib's network with its affine layers folded into the convolutions, in eval mode, on the CPU.

    Raises RayfaceError: the package is not installed, or its file is not the network expected.
    """
    path = dlib_file()
    network = Recogniser(RecogniserConfig())
    layers = read_layers(path)
    with_parameters = [layer for layer in layers if layer.parts]
    expected = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if [layer.name for layer in with_parameters] != [*["con_4", "affine_"] * (len(expected) - 1), "fc_2"]:
        raise RayfaceError(f"{path}: not dlib's face recognition network: other layers")
    with torch.no_grad():
        for index, module in enumerate(expected):
            _fill(module, with_parameters[2 * index : 2 * index + 2], path)
    return network.eval()


def _fill(module: nn.Module, layers: list[DlibLayer], path: Path) -> None:
    """A convolution with the affine layer after it (y = gain * conv(x) + shift), or the linear layer."""
    weight, *bias = layers[0].parts
    if isinstance(module, nn.Conv2d):
        gain, shift = (part.flatten() for part in layers[1].parts)
        weight, bias = weight * gain.view(-1, 1, 1, 1), [bias[0].flatten() * gain + shift]
        ours = [*module.stride, *module.padding]
        if layers[0].integers[3:] != ours:
            raise RayfaceError(f"{path}: strides and paddings {layers[0].integers[3:]}, not {ours}")
        tensors = {"weight": weight, "bias": bias[0]}
    else:
        tensors = {"weight": weight[:, :, 0, 0].T}
    if (shapes := {k: v.shape for k, v in tensors.items()}) != {k: v.shape for k, v in module.state_dict().items()}:
        raise RayfaceError(f"{path}: not dlib's face recognition network: parameters of shapes {shapes}")
    module.load_state_dict(tensors)


def read_layers(path: Path) -> list[DlibLayer]:
    """The layers of a dlib network file, from the input to the output; every byte of it is accounted for.

    Raises RayfaceError naming the place where the file is not as expected.
    """
    reader = _Reader(path)
    reader.check(reader.integer() == 1 and reader.string() == "loss_metric_2")
    reader.number(), reader.number()  # the loss's margin and threshold
    wrappers = [reader.integer()]
    while wrappers[-1] in (LAYER, TAG):
        wrappers.append(reader.integer())
    reader.check(wrappers[-1] == FIRST_LAYER)
    layers = [reader.layer(), reader.layer()]  # the input has no flags and working tensors
    reader.working_tensors()
    reader.check(reader.integer() == 1)  # samples made of one input
    for _ in range(wrappers.count(LAYER)):
        layers.append(reader.layer())
        reader.working_tensors()
    reader.check(reader.place == len(reader.data))
    return layers


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = path, path.read_bytes(), 0

    def check(self, good: bool) -> None:
        if not good:
            raise RayfaceError(f"{self.path}: not dlib's face recognition network (at byte {self.place})")

    def take(self, count: int) -> bytes:
        self.check(0 <= count <= len(self.data) - self.place)
        self.place += count
        return self.data[self.place - count : self.place]

    def integer(self) -> int:
        control = self.take(1)[0]
        self.check(1 <= control & 0x7F <= 8)
        value = int.from_bytes(self.take(control & 0x7F), "little")
        return -value if control & 0x80 else value

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        self.check(abs(exponent) < 1024)
        return mantissa * 2.0**exponent

    def string(self) -> str:
        return self.take(self.integer()).decode("ascii", "replace")

    def tensor(self) -> Tensor:
        """float32, flat."""
        self.check(self.integer() == 2)
        sizes = self._sizes()
        raw = bytearray(self.take(4 * prod(sizes)))
        return torch.frombuffer(raw, dtype=torch.float32).clone() if raw else torch.zeros(0)

    def _sizes(self) -> list[int]:
        sizes = [self.integer() for _ in range(4)]
        self.check(min(sizes) >= 0)
        return sizes

    def layer(self) -> DlibLayer:
        name = self.string()
        self.check(name in LAYOUTS)
        flat, integers, parts = torch.zeros(0), [], []
        for kind in LAYOUTS[name]:
            if kind == "t":
                flat = self.tensor()
            elif kind == "i":
                integers.append(self.integer())
            elif kind == "f":
                self.number()
            else:
                self.check(self.integer() == 1)
                sizes = self._sizes()
                self.check(prod(sizes) <= len(flat))
                part, flat = flat[: prod(sizes)], flat[prod(sizes) :]
                parts += [part.view(sizes)] if len(part) else []
        self.check(len(flat) == 0)
        return DlibLayer(name, integers, parts)

    def working_tensors(self) -> None:
        """Three flags, then gradients and cached output: a released file has them empty."""
        self.check(set(self.take(3)) <= set(b"01"))
        for _ in range(3):
            self.check(len(self.tensor()) == 0)
