"""What beautification's networks are trained by, beside the constraints (SPEC A3-A7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.efficientnet_lite import feature_distance
from rayface.records import ATTRIBUTE_ID
from rayface.systems.base import PhaseState
from rayface.systems.constraints import attractive_term, divergence
from rayface.systems.losses import detail_loss


@dataclass(frozen=True)
class BeautyLosses:
    """Weights. The first three are the autoencoders', the others NetT's."""

    pixel: float = 1.0
    detail: float = 1.0
    perceptual: float = 1.0
    parsing: float = 60.0  # constraint 1
    attributes: float = 8.0  # constraint 2
    sex: float = 30.0  # of its attributes the one that attractiveness goes with most, once more
    adversarial: float = 1.0  # constraint 3: it looks like a photo of an attractive face
    attractive: float = 8.0  # constraint 3: NetA calls it more attractive than the photo, by `more_attractive`
    identity: float = 4.0
    tone: float = 20.0  # the skin's mean colour stays, and that of the lips
    uneven: float = 50.0  # no light or shade on the skin that it did not have; what was uneven may go
    change: float = 3.0  # size of the change


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of the ordinary and of the attractive faces of a batch, which alternate."""
    return values[0::2], values[1::2]


def likeness(made: Tensor, images: Tensor, state: PhaseState) -> Tensor:
    """How far a reconstruction is from the picture."""
    losses, look = state.config.losses, state.frozen["feature_network"]
    with torch.no_grad():
        wanted = look(images)
    perceptual = feature_distance(look(made), wanted).mean()
    return (
        losses.pixel * F.l1_loss(made, images)
        + losses.detail * detail_loss(made, images)
        + losses.perceptual * perceptual
    )


def attribute_terms(
    classifiers: Sequence[nn.Module], after: Tensor, before: Tensor, guarded: Sequence[str], more_attractive: float
) -> dict[str, Tensor]:
    """What NetA says of beautified faces and of their photos, float [N, 3, S, S], both in the same changed light and
    blur: a gain that JPEG or a small screen takes away is none, and what only one light hides is not guarded.

    NetA is one classifier or several; the losses are means over them. Each has marks of light that it alone likes,
    which no person would; what several like is beauty (ensembles against what one network alone falls for: Liu et al.
    2017, "Delving into Transferable Adversarial Examples").
    """
    names = [ATTRIBUTE_ID[name] for name in guarded]
    male = [ATTRIBUTE_ID["Male"]]
    found: dict[str, list[Tensor]] = {"attractive": [], "attributes": [], "sex": []}
    for classify in classifiers:
        with torch.no_grad():
            photo = classify(before).float()
        made = classify(after).float()
        found["attractive"].append(attractive_term(made, photo, more_attractive))
        found["attributes"].append(divergence(made[:, names], photo[:, names].sigmoid()))
        if "Male" in guarded:
            found["sex"].append(divergence(made[:, male], photo[:, male].sigmoid()))
    return {name: torch.stack(values).mean() for name, values in found.items() if values}
