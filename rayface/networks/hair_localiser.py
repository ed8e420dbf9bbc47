"""Where facial hair may grow on a face, and which style of it the face wears: together, where hair is (SPEC B3, B5).

The places are geometry, which a small parser (`localiser`, of PLACES) learns from masks. What grows there is told by
the attribute classifier, of whose read-out only the facial-hair labels are kept (`reader`): a few hundred beards teach
no new network stubble from shadow.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayface.imaging.filters import resize_images
from rayface.networks.attribute_classifier import AttributeClassifier, AttributeClassifierConfig
from rayface.records import (
    ATTRIBUTE_ID,
    FACIAL_HAIR,
    FACIAL_HAIR_LABELS,
    FACIAL_HAIR_ZONES,
    STYLE_ZONES,
    facial_hair_style,
)

KINDS = ("dense", "stubble")
DOUBTFUL, CERTAIN = 0.2, 0.5  # probabilities of facial hair
PARTS = ("skin", "neck", "mouth")  # of the face: its skin, the neck's, lips and what is between them
PLACES = (*FACIAL_HAIR_ZONES, *PARTS)  # channels of the localiser


@dataclass(frozen=True)
class Found:
    """What is seen in faces, float in [0, 1]: where hair may grow, what does, and where PARTS are.

    `zones` [N, 3, S, S], `hair` [N, 2, S, S], `parts` [N, 3, S, S].
    """

    zones: Tensor
    hair: Tensor
    parts: Tensor

    @property
    def skin(self) -> Tensor:
        """Of face and neck, float [N, 1, S, S]."""
        return self.parts[:, :2].amax(1, keepdim=True)


class StyleReader(nn.Module):
    """Face crop float [N, 3, S, S] in [-1, 1] -> how likely it wears each of FACIAL_HAIR, float [N, 5], sum 1."""

    outputs = ("styles",)
    combinations: Tensor
    style_of: Tensor

    def __init__(self, config: AttributeClassifierConfig, side: int) -> None:
        """`side`: pixels at which the classifier is asked."""
        super().__init__()
        self.side = side
        self.classifier = AttributeClassifier(config, FACIAL_HAIR_LABELS)
        combinations, style_of = label_combinations()
        self.register_buffer("combinations", combinations, persistent=False)
        self.register_buffer("style_of", style_of, persistent=False)

    def take(self, classifier: AttributeClassifier) -> None:
        """Know what `classifier` (all of ATTRIBUTES) knows of facial hair."""
        kept = torch.tensor([ATTRIBUTE_ID[name] for name in FACIAL_HAIR_LABELS])
        weights = classifier.state_dict()
        for name in ("read_out.weight", "read_out.bias", "logit_scale", "logit_bias"):
            weights[name] = weights[name][kept.to(weights[name].device)]
        self.classifier.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        yes = self.classifier(resize_images(images, self.side)).sigmoid()[:, None]
        likely = (self.combinations * yes + (1 - self.combinations) * (1 - yes)).prod(2)
        return likely @ self.style_of


def find_hair(networks: Mapping[str, nn.Module], images: Tensor) -> Found:
    """By the networks `localiser` and `reader`, in faces float [N, 3, S, S] in [-1, 1].

    Who is thought to wear none (DOUBTFUL) has none, and who may well wear some (CERTAIN) has it: half of a beard is no
    beard.
    """
    zones, parts = places_of(networks["localiser"](images))
    with torch.no_grad():
        styles = networks["reader"](images).float()
        some = 1 - styles[:, :1]
        certain = ((some - DOUBTFUL) / (CERTAIN - DOUBTFUL)).clamp(0, 1)
        return Found(zones, hair_of(zones, styles / some.clamp_min(1e-6) * certain), parts)


def places_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Zones and parts, float in [0, 1], of what the localiser says of PLACES."""
    zones, parts = logits.float().sigmoid().split((len(FACIAL_HAIR_ZONES), len(PARTS)), 1)
    return zones, parts


def hair_of(zones: Tensor, styles: Tensor) -> Tensor:
    """Hair of styles on faces with zones float [N, 3, S, S]: float [N, 2, S, S].

    `styles`: places in FACIAL_HAIR, int64 [N], or how likely each of them is, float [N, 5].
    """
    rows = style_rows().to(zones)
    chosen = torch.einsum("ns,skz->nkz", styles.to(zones), rows) if styles.is_floating_point() else rows[styles]
    return torch.einsum("nkz,nzhw->nkhw", chosen, zones)


def style_rows() -> Tensor:
    """Which kind of hair each style has in which zone: float [5, 2, 3] of 0 and 1."""
    rows = torch.zeros(len(FACIAL_HAIR), len(KINDS), len(FACIAL_HAIR_ZONES))
    for number, style in enumerate(FACIAL_HAIR):
        for zone in STYLE_ZONES[style]:
            rows[number, KINDS.index("stubble" if style == "stubble" else "dense"), FACIAL_HAIR_ZONES.index(zone)] = 1
    return rows


def label_combinations() -> tuple[Tensor, Tensor]:
    """All answers to FACIAL_HAIR_LABELS, float [32, 5] of 0 and 1, and the style that each means, one-hot [32, 5]."""
    answers = list(itertools.product((False, True), repeat=len(FACIAL_HAIR_LABELS)))
    styles = torch.zeros(len(answers), len(FACIAL_HAIR))
    for row, answer in enumerate(answers):
        style = facial_hair_style(dict(zip(FACIAL_HAIR_LABELS, answer, strict=True)))
        styles[row, FACIAL_HAIR.index(style)] = 1
    return torch.tensor(answers).float(), styles
