"""Which style a face wears, as the attribute classifier's answers to the labels imply, and where its hair is then."""

import pytest
import torch
from torch import nn

from rayface.networks.attribute_classifier import AttributeClassifier, AttributeClassifierConfig
from rayface.networks.efficientnet_lite import EfficientNetLiteConfig
from rayface.networks.hair_localiser import KINDS, StyleReader, hair_of, label_combinations
from rayface.networks.hair_painter import HairColour
from rayface.records import ATTRIBUTE_ID, FACIAL_HAIR, FACIAL_HAIR_LABELS, FACIAL_HAIR_ZONES, facial_hair_style

CONFIG = AttributeClassifierConfig(EfficientNetLiteConfig(stages=2), stages=(1,), grid=2)


def sure_of(*labels: str) -> AttributeClassifier:
    """A classifier that sees exactly these labels on every face."""
    classifier = AttributeClassifier(CONFIG)
    with torch.no_grad():
        classifier.logit_bias.fill_(-20)
        classifier.logit_bias[[ATTRIBUTE_ID[name] for name in labels]] = 20
    return classifier


@pytest.mark.parametrize(
    ("labels", "style"),
    [
        (("No_Beard",), "none"),
        (("5_o_Clock_Shadow", "No_Beard"), "stubble"),
        (("Mustache",), "moustache"),
        (("Goatee", "Mustache"), "goatee"),
        (("Goatee", "Sideburns"), "full"),
        ((), "full"),
    ],
)
def test_a_style_is_read_as_the_labels_define_it(labels: tuple[str, ...], style: str) -> None:
    reader = StyleReader(CONFIG, 32)
    reader.take(sure_of(*labels))
    with torch.no_grad():
        styles = reader(torch.zeros(2, 3, 64, 64))
    assert torch.allclose(styles[:, FACIAL_HAIR.index(style)], torch.ones(2), atol=1e-5)


def test_what_the_classifier_is_unsure_of_is_spread_over_the_styles() -> None:
    reader = StyleReader(CONFIG, 32)
    unsure = sure_of("No_Beard")
    with torch.no_grad():
        unsure.logit_bias[ATTRIBUTE_ID["5_o_Clock_Shadow"]] = 0
    reader.take(unsure)
    with torch.no_grad():
        (styles,) = reader(torch.rand(1, 3, 64, 64))
    assert styles.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0], abs=1e-4)


def test_each_combination_of_labels_means_one_style() -> None:
    answers, styles = label_combinations()
    assert len(answers.unique(dim=0)) == 2 ** len(FACIAL_HAIR_LABELS)
    assert torch.equal(styles.sum(1), torch.ones(len(answers)))
    for answer, style in zip(answers, styles, strict=True):
        labels = dict(zip(FACIAL_HAIR_LABELS, (answer > 0).tolist(), strict=True))
        assert FACIAL_HAIR[int(style.argmax())] == facial_hair_style(labels)


def test_likely_styles_have_as_much_hair() -> None:
    zones = torch.rand(1, len(FACIAL_HAIR_ZONES), 4, 4)
    dense, stubble = KINDS.index("dense"), KINDS.index("stubble")
    half = torch.tensor([[0.25, 0.25, 0.0, 0.0, 0.5]])
    mixed, full = hair_of(zones, half), hair_of(zones, torch.tensor([FACIAL_HAIR.index("full")]))
    assert torch.allclose(mixed[:, dense], 0.5 * full[:, dense])
    assert torch.allclose(mixed[:, stubble], 0.25 * full[:, dense])


def test_hair_has_a_colour_that_the_photo_shows() -> None:
    torch.manual_seed(0)
    colour = HairColour()
    nn.init.zeros_(colour.shift)
    face = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        found = colour(face)
        assert torch.all(found >= face.amin((2, 3)))
        assert torch.all(found <= face.amax((2, 3)))
        one = torch.tensor([0.3, -0.2, -0.9])[None, :, None, None].expand(1, -1, 64, 64)
        assert torch.allclose(colour(one), one[:, :, 0, 0], atol=1e-5)
