"""One small binary classifier for each attribute (SPEC D2, `E-Net`), all on the features of a frozen image network."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Fields to a side that are read; of 4 a mouth lies between two (AUC of Mouth_Slightly_Open 0.63, of 8 0.72, after 750
# steps of 16 faces).
GRID = 8
FAR = 5.0  # half of the way between the averages, so many times: they are nearer than clear cases


class AttributeNetwork(nn.Module):
    """Feature maps float [N, C_i, s_i, s_i] -> logit float [N]: does the face have the attribute?"""

    def __init__(self, channels: Sequence[int], width: int = 16) -> None:
        super().__init__()
        self.looks = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.read_out = nn.Linear(len(channels) * width * GRID**2, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        seen = []
        for look, maps in zip(self.looks, features, strict=True):
            size = maps.float().square().mean((1, 2, 3), keepdim=True)
            seen.append(F.adaptive_avg_pool2d(F.silu(look(maps * torch.rsqrt(size + 1e-6))), GRID).flatten(1))
        return self.read_out(torch.cat(seen, 1)).float()[:, 0]


class AttributeNetworks(nn.Module):
    """Feature maps -> logits float [N, A] in the order of `labels`."""

    outputs = ("logits",)

    def __init__(self, channels: Sequence[int], labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.networks = nn.ModuleList(AttributeNetwork(channels) for _ in labels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([network(features) for network in self.networks], 1)


class Steering(nn.Module):
    """Latents float [N, latent], wanted float [N, A] (1 with, -1 without, 0 as it is) -> latents of such faces.

    Along `directions`, in which faces with an attribute lie from those without (InterFaceGAN, Shen et al. 2020), the
    other attributes being equal: least squares, learned by `expected`.
    """

    def __init__(self, latent: int, attributes: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.zeros(attributes, latent))
        self.middle = nn.Parameter(torch.zeros(latent))

    def expected(self, labels: Tensor) -> Tensor:
        """The latents float [N, latent] of faces with such labels, float [N, A] in [-1, 1], on average."""
        return self.middle + labels @ self.directions

    def forward(self, latents: Tensor, wanted: Tensor) -> Tensor:
        return latents + FAR * wanted @ self.directions


class OnPictures(nn.Module):
    """Pictures float [N, 3, S, S] -> what `head` says of their features."""

    def __init__(self, look: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.look, self.head = look, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.look(images)[1:])
