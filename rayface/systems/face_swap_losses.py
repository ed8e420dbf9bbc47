"""What frozen networks say of a swapped face, crops float [N, 3, S, S] in [-1, 1]. Means over samples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.records import ATTRIBUTE_ID
from rayface.systems.constraints import divergence

# What NetA should see as in the donor, and what as in the texture image: attributes of the inner face.
OF_DONOR = (
    "Male", "Young", "Arched_Eyebrows", "Bags_Under_Eyes", "Big_Lips", "Big_Nose", "Bushy_Eyebrows", "Heavy_Makeup",
    "High_Cheekbones", "Narrow_Eyes", "Pointy_Nose", "Wearing_Lipstick", "5_o_Clock_Shadow", "Goatee", "Mustache",
    "No_Beard", "Chubby",
)  # fmt: skip
OF_TEXTURE = ("Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Blurry")


def likeness_terms(seen: Tensor, donors: Tensor, own: Tensor, strangers: float) -> tuple[Tensor, Tensor]:
    """How far swapped faces are from their donors, and by how much too near to the texture's own person.

    No nearer than strangers, of that cosine, are to each other; or than that person is to the donor. Embeddings float
    [N, D] of unit length: of swapped faces, donors and texture photos.
    """
    least = torch.maximum((own * donors).sum(1), own.new_tensor(strangers))
    return (1 - (seen * donors).sum(1)).mean(), F.relu((seen * own).sum(1) - least).mean()


def second_likeness(
    recognise: nn.Module, seen: Tensor, donors: Tensor, images: Tensor, strangers: float
) -> tuple[Tensor, Tensor]:
    """`likeness_terms` as another recogniser sees it: of swapped faces, donors and texture photos [N, 3, S, S]."""
    with torch.no_grad():
        known, own = F.normalize(recognise(torch.cat([donors, images])).float(), dim=1).chunk(2)
    return likeness_terms(F.normalize(recognise(seen).float(), dim=1), known, own, strangers)


def attributes_term(made: Tensor, texture: Tensor, donors: Tensor, classify: nn.Module) -> Tensor:
    """How far NetA's answers on swapped faces are from those on donors and, of the expression, on the texture."""
    with torch.no_grad():
        of_donors, of_texture = classify(torch.cat([donors, texture])).float().sigmoid().chunk(2)
    found = classify(made).float()
    donor, texture_own = ([ATTRIBUTE_ID[name] for name in names] for names in (OF_DONOR, OF_TEXTURE))
    return divergence(found[:, donor], of_donors[:, donor]) + divergence(
        found[:, texture_own], of_texture[:, texture_own]
    )


def moved_parts(made: Tensor, photos: Tensor, parser: nn.Module) -> Tensor:
    """How far NetS' masks of swapped faces are from those of the texture image: pose and expression."""
    with torch.no_grad():
        wanted = parser(photos).float().log_softmax(1)
    found = parser(made).float().log_softmax(1)
    divergences = F.kl_div(found, wanted, log_target=True, reduction="none").sum(1)
    return divergences.mean()
