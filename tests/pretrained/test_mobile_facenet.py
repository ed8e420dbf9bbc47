"""MobileFaceNet's weights, read from a graph written here: as many layers, random numbers, known places."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rayface.errors import RayfaceError
from rayface.networks.mobile_facenet import MobileFaceNet
from rayface.pretrained import load_pretrained, pretrained_info
from rayface.pretrained.human_models import ENVIRONMENT
from rayface.pretrained.mobile_facenet import NAME, OUTPUT
from tests.pretrained.tfjs_files import Node, node, write


def write_graph(folder: Path, network: MobileFaceNet) -> None:
    """`network` as the converter writes it: convolutions with biases, slopes as 2 c with the other sign."""
    nodes: list[Node] = [node("picture", "Placeholder")]
    weights: dict[str, np.ndarray] = {}
    last = "picture"
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            deep = module.groups > 1
            kernel = module.weight.permute(2, 3, 0, 1) if deep else module.weight.permute(2, 3, 1, 0)
            weights |= {f"{name}/w": kernel.detach().numpy(), f"{name}/b": module.bias.detach().numpy()}  # type: ignore[union-attr]
            kind = "FusedDepthwiseConv2dNative" if deep else "_FusedConv2D"
            nodes.append(node(name, kind, last, f"{name}/w", f"{name}/b"))
        elif isinstance(module, nn.PReLU):
            weights[f"{name}/c"] = -module.weight.detach().numpy() / 2
            nodes += [
                node(f"{name}/relu", "Relu", last), node(f"{name}/abs", "Abs", last),
                node(f"{name}/sub", "Sub", last, f"{name}/abs"), node(f"{name}/mul", "Mul", f"{name}/sub", f"{name}/c"),
                node(name, "Add", f"{name}/relu", f"{name}/mul"),
            ]  # fmt: skip
        else:
            continue
        last = name
    write(folder, [*nodes, node(OUTPUT, "Squeeze", last)], weights, NAME)


def random_network() -> MobileFaceNet:
    torch.manual_seed(0)
    network = MobileFaceNet()
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -1, 2)
    return network.eval()


def test_every_weight_comes_to_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    write_graph(tmp_path, network)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    loaded = load_pretrained("pretrained:mobilefacenet")
    assert all(torch.allclose(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    crops = torch.rand(2, 3, 128, 128) * 2 - 1
    assert loaded(crops).shape == (2, 192)
    assert torch.allclose(loaded(crops), network(crops), atol=1e-5)
    assert not pretrained_info("pretrained:mobilefacenet")["commercial_use"]


def test_where_it_is_not_at_hand_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(RayfaceError, match=f"{ENVIRONMENT} is not set; npm pack"):
        pretrained_info("pretrained:mobilefacenet")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    write(tmp_path, [node(OUTPUT, "Placeholder")], {"w": np.ones(3, np.float32)}, NAME)
    with pytest.raises(RayfaceError, match="not the MobileFaceNet expected: other layers"):
        load_pretrained("pretrained:mobilefacenet")
    with pytest.raises(RayfaceError, match="no pretrained network"):
        pretrained_info("pretrained:mobilefacenet:4")


def test_it_sees_a_face_by_gradients(tmp_path: Path) -> None:
    crops = (torch.rand(1, 3, 128, 128) * 2 - 1).requires_grad_()
    random_network()(crops).sum().backward()
    assert crops.grad is not None
    assert float(crops.grad[..., 40:90, 40:90].abs().mean()) > 0


@pytest.mark.skipif(not os.environ.get(ENVIRONMENT), reason=f"{ENVIRONMENT} is not set")
def test_the_real_one_tells_drawn_people_apart(drawn_faces: str) -> None:
    from rayface.data.dataset import FaceDataset
    from rayface.evaluation.gallery import people_of
    from rayface.imaging.codec import to_float

    dataset = FaceDataset(drawn_faces)
    crops = dataset.batch(range(len(dataset)), ("image",))["image"]
    assert isinstance(crops, torch.Tensor)
    with torch.inference_mode():
        seen = nn.functional.normalize(load_pretrained("pretrained:mobilefacenet")(to_float(crops)), dim=1)
    people = people_of(dataset)
    same = torch.from_numpy(people[:, None] == people[None]).fill_diagonal_(False)
    other = torch.from_numpy(people[:, None] != people[None])
    alike = seen @ seen.T
    assert float(alike[same].mean()) > float(alike[other].mean()) + 0.1
