"""The reader of TensorFlow.js graphs on graphs written here; expected values are computed another way."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayface.errors import RayfaceError
from rayface.pretrained.faceres import load_faceres
from rayface.pretrained.human_models import ENVIRONMENT
from rayface.pretrained.tfjs_graph import read_graph
from tests.pretrained.tfjs_files import Node, convolution, node, write


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_small_network_gives_what_plain_convolutions_give(tmp_path: Path, random: np.random.Generator) -> None:
    """conv SAME stride 2 - bias - clipped ReLU - depthwise VALID - scale - mean over the picture."""
    weights = {
        "conv/w": random.normal(size=(3, 3, 3, 4)).astype(np.float16),
        "bias": random.normal(size=4).astype(np.float32),
        "six": np.float32(6).reshape(()),
        "depthwise/w": random.normal(size=(3, 3, 4, 2)).astype(np.float32),
        "gain": random.normal(size=8).astype(np.float32),
        "axes": np.array([1, 2], np.int32),
    }
    nodes = [
        node("mean", "Mean", "scaled", "axes", keep_dims={"b": False}),  # the order of the file does not matter
        node("unused", "NoSuchOperation", "mean"),
        node("picture", "Placeholder"),
        node("conv", "Conv2D", "picture", "conv/w", **convolution(2, "SAME")),
        node("biased", "Add", "conv:0", "bias"),
        node("relu", "Relu", "biased"),
        node("clipped", "Minimum", "relu", "six"),
        node("depthwise", "DepthwiseConv2dNative", "clipped", "depthwise/w", **convolution(1, "VALID")),
        node("scaled", "Mul", "depthwise", "gain"),
    ]
    graph = read_graph(write(tmp_path, nodes, weights), "mean")
    pictures = torch.from_numpy(random.normal(size=(2, 10, 7, 3)).astype(np.float32)) * 4

    first = torch.from_numpy(weights["conv/w"].astype(np.float32))
    x = torch.zeros(2, 5, 4, 4)  # sides 10 -> 5 (pads 0 and 1) and 7 -> 4 (pads 1 and 1)
    padded = F.pad(pictures, (0, 0, 1, 1, 0, 1))
    for row in range(5):
        for column in range(4):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            x[:, row, column] = torch.einsum("nhwc,hwcd->nd", window, first)
    x = (x + torch.from_numpy(weights["bias"])).clamp(0, 6)
    second = torch.from_numpy(weights["depthwise/w"])
    y = torch.zeros(2, 3, 2, 4, 2)
    for row in range(3):
        for column in range(2):
            y[:, row, column] = torch.einsum("nhwc,hwcd->ncd", x[:, row : row + 3, column : column + 3], second)
    expected = (y.flatten(3) * torch.from_numpy(weights["gain"])).mean((1, 2))
    assert torch.allclose(graph(pictures), expected, rtol=1e-4, atol=1e-4)
    assert (x == 6).any()
    assert (x == 0).any()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("out", "Erf", "picture")], r"Erf \(out\) is not known"),
        ([node("other", "Relu", "picture")], "no operation 'out'"),
        ([node("out", "Conv2D", "picture", "w", **convolution(1, "EXPLICIT"))], "EXPLICIT"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, nodes: list[Node], message: str) -> None:
    weights = {"w": np.ones((1, 1, 3, 3), np.float32)}
    with pytest.raises(RayfaceError, match=message):
        read_graph(write(tmp_path, [node("picture", "Placeholder"), *nodes], weights), "out")


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [node("out", "Placeholder")], {"w": np.ones(3, np.float32)})
    (tmp_path / "tiny.bin").write_bytes(b"1234")
    with pytest.raises(RayfaceError, match=r"not a TensorFlow\.js graph"):
        read_graph(path, "out")
    path.write_text("{}")
    with pytest.raises(RayfaceError, match=r"not a TensorFlow\.js graph"):
        read_graph(path, "out")


def test_faceres_looks_at_the_middle_of_the_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that averages the picture, in place of the network: levels 0 to 255, only the central share."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(RayfaceError, match=f"{ENVIRONMENT} is not set; npm pack"):
        load_faceres()
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    with pytest.raises(RayfaceError, match=r"holds no faceres\.json"):
        load_faceres()
    nodes = [node("input", "Placeholder"), node("global_pooling/Mean", "Mean", "input", "axes", keep_dims={"b": False})]
    write(tmp_path, nodes, {"axes": np.array([1, 2], np.int32)}, "faceres")
    crop = torch.full((1, 3, 64, 64), -1.0)
    crop[:, 0, 16:48, 16:48] = 1
    assert load_faceres(0.5)(crop).tolist() == [[255, 0, 0]]
    assert load_faceres(1.0)(crop)[0, 0] == pytest.approx(255 / 4, abs=0.5)
