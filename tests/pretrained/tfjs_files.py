"""Graphs in the format of tfjs-converter, written for tests."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Node = dict[str, Any]


def node(name: str, op: str, *inputs: str, **attributes: Any) -> Node:
    return {"name": name, "op": op, "input": list(inputs), "attr": attributes}


def text(value: str) -> Node:
    return {"s": base64.b64encode(value.encode()).decode()}


def convolution(stride: int, padding: str) -> Node:
    strides = {"list": {"i": ["1", str(stride), str(stride), "1"]}}
    return {"strides": strides, "padding": text(padding), "data_format": text("NHWC")}


def write(folder: Path, nodes: Sequence[Node], weights: Mapping[str, np.ndarray], name: str = "tiny") -> Path:
    """A graph in the format of tfjs-converter; float16 arrays are written as float32 quantised to half."""
    entries, data = [], b""
    for key, value in weights.items():
        entry: Node = {"name": key, "shape": list(value.shape), "dtype": str(value.dtype)}
        if value.dtype == np.float16:
            entry |= {"dtype": "float32", "quantization": {"dtype": "float16", "original_dtype": "float32"}}
        entries.append(entry)
        data += value.tobytes()
    constants = [{"name": key, "op": "Const", "attr": {}} for key in weights]
    content = {
        "format": "graph-model",
        "modelTopology": {"node": [*constants, *nodes]},
        "weightsManifest": [{"paths": [f"{name}.bin"], "weights": entries}],
    }
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"
