"""The training-only head of margin losses: one direction in embedding space per identity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ArcMargin(nn.Module):
    """J. Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019."""

    def __init__(self, identities: int, embedding: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(identities, embedding) / embedding**0.5)

    def forward(self, embeddings: Tensor, identity: Tensor, margin: float, scale: float) -> tuple[Tensor, Tensor]:
        """Loss and whether the nearest direction is the right one, float [N] each, in fp32.

        `embeddings` [N, D] of any length; `identity` int64 [N], -1 for unknown people, whose loss is 0. `margin` is an
        angle in radians by which a face must be nearer to its own direction than softmax alone would ask.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight)).clamp(-1 + 1e-6, 1 - 1e-6)
            known = identity >= 0
            target = identity.clamp_min(0)
            own = cosine.gather(1, target[:, None])[:, 0]
            # past pi - margin the cosine would rise again: from there a straight line, as in the authors' code
            harder = own * math.cos(margin) - (1 - own.square()).sqrt() * math.sin(margin)
            harder = torch.where(own > -math.cos(margin), harder, own - margin * math.sin(margin))
            logits = scale * cosine.scatter(1, target[:, None], harder[:, None])
            loss = F.cross_entropy(logits, target, reduction="none")
        return loss * known, (cosine.argmax(1) == target).float() * known
