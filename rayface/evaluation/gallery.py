"""Is a changed face still nearest to the person that it was, among many?"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rayface.evaluation.judges import ask, judging
from rayface.evaluation.limits import Values
from rayface.imaging.filters import resize_images

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

PEOPLE = 100  # among whom a face must be found again; a smaller split has fewer, and reports say so
SIDE = 256  # of the crops that judges see


def people_of(dataset: "FaceDataset") -> np.ndarray:
    """Who is seen in each face, str [N]; a face without an identity is a person of its own."""
    named = zip(dataset.identities, dataset.ids, strict=True)
    return np.array([identity or face for identity, face in named])


def people_in(dataset: "FaceDataset") -> int:
    """How many a gallery of that data set holds."""
    return min(PEOPLE, len(np.unique(people_of(dataset))))


class Gallery:
    """One photo each of PEOPLE people, as the identity judge sees them."""

    def __init__(self, dataset: "FaceDataset", identity: nn.Module, batch: int) -> None:
        self.people = people_of(dataset)
        held, chosen = np.unique(self.people, return_index=True)
        self.held, chosen = held[:PEOPLE], chosen[:PEOPLE]
        parts = []
        for start in range(0, len(chosen), batch):
            crops = dataset.batch(chosen[start : start + batch], ("image",))["image"]
            assert isinstance(crops, Tensor)
            parts.append(ask(identity, resize_images(crops, SIDE), judging().device))
        self.embeddings = torch.cat(parts)

    def compared(self, faces: np.ndarray, after: Tensor, before: Tensor) -> Values:
        """Of faces (indices in the data set) and their embeddings float [N, 128] after and before a change.

        `identity_distance`: Euclidean; `ranks_first`: whether the face as it was is nearer than everybody else.
        """
        own = (after - before).norm(dim=1)
        others = torch.cdist(after, self.embeddings)
        others[torch.from_numpy(self.people[faces][:, None] == self.held)] = float("inf")
        return {"identity_distance": own.numpy(), "ranks_first": (own < others.amin(1)).float().numpy()}
