"""Frozen graphs of TensorFlow.js (`model.json` and its weight files) as torch modules, for inference.

The format: `modelTopology.node` lists operations with their inputs by name, `weightsManifest` the constants in the
order in which the weight files hold them. Only the operations of convolutional classifiers are known; another one is an
error that names it.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.efficientnet_lite import same_padding

Operation = Callable[..., Tensor]


class TfjsGraph(nn.Module):
    """A graph up to one of its outputs: float [N, H, W, C], pictures as TensorFlow lays them out -> that output.

    Constants are buffers, so `.to(device)` and `state_dict()` work; nothing is trainable.
    """

    def __init__(self, nodes: Sequence[Mapping[str, Any]], constants: Mapping[str, Tensor], output: str) -> None:
        super().__init__()
        self.output = output
        by_name = {node["name"]: node for node in nodes}
        if output not in by_name:
            raise RayfaceError(f"the graph has no operation {output!r}")
        self.order = _needed(by_name, output)
        self.inputs = {name: [_source(text) for text in by_name[name].get("input", [])] for name in self.order}
        self.operations: dict[str, Operation] = {}
        self.buffer_of: dict[str, str] = {}
        (self.placeholder,) = [name for name in self.order if by_name[name]["op"] == "Placeholder"]
        for name in self.order:
            node = by_name[name]
            if node["op"] == "Const":
                self.buffer_of[name] = f"constant{len(self.buffer_of)}"
                self.register_buffer(self.buffer_of[name], constants[name])
            elif node["op"] != "Placeholder":
                self.operations[name] = _operation(node)
        # a value is dropped after the last operation that needs it
        self.last_use = {used: name for name in self.order for used in self.inputs[name]}

    def forward(self, pictures: Tensor) -> Tensor:
        values = {name: getattr(self, buffer) for name, buffer in self.buffer_of.items()}
        values[self.placeholder] = pictures
        for name, operation in self.operations.items():
            values[name] = operation(*(values[used] for used in self.inputs[name]))
            for used in set(self.inputs[name]):
                if self.last_use[used] == name:
                    del values[used]
        return values[self.output]


def read_graph(path: Path, output: str) -> TfjsGraph:
    """The graph of `path` (model.json; the weight files lie beside it) up to the operation `output`.

    Raises RayfaceError: no such file, not a graph model, weights too short, an operation or data type not known here.
    """
    return TfjsGraph(*_read(path), output)


def read_constants(path: Path, output: str) -> list[tuple[str, list[Tensor]]]:
    """What the operations that `output` needs are given besides pictures, each after those it needs itself.

    (its kind, its constants in the order of its inputs). For graphs that a network of our own takes the weights of.
    Raises RayfaceError: no such file, not a graph model, weights too short, no such output.
    """
    nodes, constants = _read(path)
    by_name = {node["name"]: node for node in nodes}
    if output not in by_name:
        raise RayfaceError(f"{path}: the graph has no operation {output!r}")
    operations = (by_name[name] for name in _needed(by_name, output) if by_name[name]["op"] != "Const")
    sources = ((node["op"], map(_source, node.get("input", []))) for node in operations)
    return [(kind, [constants[name] for name in names if name in constants]) for kind, names in sources]


def _read(path: Path) -> tuple[list[Mapping[str, Any]], dict[str, Tensor]]:
    """Operations and constants of a graph."""
    try:
        content = json.loads(path.read_bytes())
        nodes, groups = content["modelTopology"]["node"], content["weightsManifest"]
        constants: dict[str, Tensor] = {}
        for group in groups:
            data = b"".join((path.parent / Path(name).name).read_bytes() for name in group["paths"])
            constants |= _read_weights(group["weights"], data)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RayfaceError(f"{path}: not a TensorFlow.js graph model with its weights ({error!r})") from error
    return nodes, constants


def _read_weights(entries: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, Tensor]:
    """Constants by name; float16 is widened, as TensorFlow.js does."""
    weights, start = {}, 0
    for entry in entries:
        stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
        if stored not in ("float32", "float16", "int32"):
            raise RayfaceError(f"weight {entry['name']}: {stored} is not read here, only float32, float16 and int32")
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, np.dtype(stored).newbyteorder("<"), count, start)
        weights[entry["name"]] = torch.from_numpy(values.astype(entry["dtype"]).reshape(entry["shape"]))
        start += values.nbytes
    return weights


def _needed(by_name: Mapping[str, Mapping[str, Any]], output: str) -> list[str]:
    """Names of the operations that `output` depends on, each after its inputs."""
    order: dict[str, None] = {}
    stack = [output]
    while stack:
        missing = [name for text in by_name[stack[-1]].get("input", []) if (name := _source(text)) not in order]
        if missing:
            stack.extend(missing)
        else:
            order[stack.pop()] = None
    return list(order)


def _source(text: str) -> str:
    """The operation that an input names: "a/b:0" is the first output of "a/b"."""
    return text.partition(":")[0]


def _operation(node: Mapping[str, Any]) -> Operation:
    """What computes a node from its inputs."""
    kind, attributes = node["op"], node.get("attr", {})
    if kind in ("Conv2D", "DepthwiseConv2dNative"):
        return _convolution(node["name"], attributes, depthwise=kind != "Conv2D")
    if kind == "Mean":
        keep = bool(attributes.get("keep_dims", {}).get("b", False))
        return lambda x, axes: x.mean(axes.flatten().tolist(), keepdim=keep)
    if kind not in SIMPLE_OPERATIONS:
        raise RayfaceError(f"operation {kind} ({node['name']}) is not known here")
    return SIMPLE_OPERATIONS[kind]


SIMPLE_OPERATIONS: dict[str, Operation] = {
    "Add": torch.add,
    "AddV2": torch.add,
    "BiasAdd": torch.add,
    "Mul": torch.mul,
    "Minimum": torch.minimum,
    "Maximum": torch.maximum,
    "Relu": torch.relu,
    "Relu6": F.relu6,
}


def _convolution(name: str, attributes: Mapping[str, Any], depthwise: bool) -> Operation:
    """A convolution of [N, H, W, C] with a kernel [h, w, C, D]; depthwise: D outputs of each channel."""
    strides = [int(i) for i in attributes["strides"]["list"]["i"]]
    dilations = [int(i) for i in attributes.get("dilations", {}).get("list", {}).get("i", [1])]
    padding, layout = (_text(attributes, key, default) for key, default in (("padding", ""), ("data_format", "NHWC")))
    if set(dilations) != {1} or strides[1] != strides[2] or padding not in ("SAME", "VALID") or layout != "NHWC":
        raise RayfaceError(f"convolution {name}: {strides=} {dilations=} {padding=} {layout=} is not known here")
    stride = strides[1]

    def convolve(x: Tensor, kernel: Tensor) -> Tensor:
        height, width, inputs, outputs = kernel.shape
        if depthwise:
            weight = kernel.permute(2, 3, 0, 1).reshape(inputs * outputs, 1, height, width)
        else:
            weight = kernel.permute(3, 2, 0, 1)
        x = x.permute(0, 3, 1, 2)  # a view, which torch takes for channels_last
        if padding == "SAME":
            (top, bottom), (left, right) = (
                same_padding(side, size, stride) for side, size in zip(x.shape[-2:], (height, width), strict=True)
            )
            x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, None, stride, groups=inputs if depthwise else 1).permute(0, 2, 3, 1)

    return convolve


def _text(attributes: Mapping[str, Any], key: str, default: str) -> str:
    """A string attribute, which the format writes in base64."""
    value = attributes.get(key, {}).get("s")
    return base64.b64decode(value).decode() if value else default
