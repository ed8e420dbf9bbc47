"""Inversion: latents are found, attributes moved, and the photo kept where nothing was asked."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayface.imaging.filters import resize_images
from rayface.networks.attribute_networks import Steering
from rayface.networks.face_generator import FaceGenerator, FaceGeneratorConfig
from rayface.networks.precision import as_served
from rayface.systems.inversion import (
    ANYWHERE,
    PLACES,
    PLAIN,
    SEEN_IN,
    InversionConfig,
    Inverted,
    carried_over,
    edit,
    edited_crops,
    invert,
    needed,
    seen_in,
)

LABELS = ("Smiling", "Blond_Hair")
SEARCH = InversionConfig(
    steps=40, edit_steps=40, edit_rate=0.1, natural=0.0, others=0.0, local=0.0, edit_natural=0.0, tuning_steps=0,
    views=False, enough=0.0, already=0.0, steered=1.0,
)  # fmt: skip


class Look(nn.Module):
    """An image network whose features are the picture, twice."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, images]


class Guess(nn.Module):
    """A first guess that is right, or nearly."""

    def __init__(self, latents: Tensor, noise: float = 0.3) -> None:
        super().__init__()
        self.latents = latents + noise * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.latents, torch.zeros_like(self.latents)


class Nothing(nn.Module):
    """A first guess that is the middle, of any number of photos."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        middle = features[0].new_zeros(len(features[0]), self.latent)
        return middle, middle


class Bright(nn.Module):
    """Classifiers: is the lower half bright, is the upper half?"""

    def forward(self, features: list[Tensor]) -> Tensor:
        images = features[0].mean(1)
        half = images.shape[-1] // 2
        return 8 * torch.stack([images[:, half:].mean((1, 2)), images[:, :half].mean((1, 2))], 1)


class Everywhere(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), len(PLACES), *images.shape[-2:]), 20.0)


@pytest.fixture
def known() -> tuple[dict[str, Any], Tensor, Tensor]:
    """Networks, faces that the generator drew, and the random vectors that it drew them from."""
    torch.manual_seed(0)
    generator = FaceGenerator(FaceGeneratorConfig((16, 16, 8), 16, 1))
    for layer in generator.to_rgb:
        layer.weight.data *= 3  # type: ignore[operator]
    generator.requires_grad_(False)
    latents = torch.randn(3, 16)
    networks = {
        "generator": generator, "look": Look(), "first_guess": Guess(latents), "classifiers": Bright(),
        "places": Everywhere(), "steering": Steering(16, 2),
    }  # fmt: skip
    return networks, generator(latents), latents


def error(found: Inverted, faces: Tensor) -> float:
    return float((found.drawn - faces).square().mean())


def test_latents_of_a_drawn_face_are_found(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    before = error(invert(networks, faces, replace(SEARCH, steps=1, rate=0.0, extended=False)), faces)
    z = invert(networks, faces, replace(SEARCH, extended=False))
    extended = invert(networks, faces, SEARCH)
    assert error(z, faces) < 0.1 * before
    assert error(extended, faces) < 0.1 * before
    assert z.losses.shape == (40, 3)
    assert torch.equal(z.generator.styles(z.latents), z.styles)


@pytest.mark.parametrize("settings", [{"extended": False}, {"steps": 2, "tuning_steps": 20}])
def test_in_half_precision_every_step_sees_the_step_before(
    known: tuple[dict[str, Any], Tensor, Tensor], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of rounded values would show the search its beginning for ever."""
    networks, faces, _ = known
    config = replace(SEARCH, perceptual=0.0, **settings)
    exact = error(invert(networks, faces.flip(2), config), faces.flip(2))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with as_served(torch.device("cpu")):
        half = error(invert(networks, faces.flip(2), config), faces.flip(2))
    assert half < 1.2 * exact


def test_a_good_first_guess_begins_nearer(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    guessed, middle = (invert(networks, faces, replace(SEARCH, start=start)) for start in ("guess", "middle"))
    assert (guessed.losses[0] < middle.losses[0]).all()
    plain = invert(networks, faces, replace(PLAIN, steps=2))
    assert torch.equal(plain.styles[:, :1].expand_as(plain.styles), plain.styles), "one random vector, no extension"


def test_tuning_draws_a_strange_photo_better_and_leaves_the_generator(
    known: tuple[dict[str, Any], Tensor, Tensor],
) -> None:
    networks, faces, _ = known
    strange = faces.flip(2)
    kept = {name: value.clone() for name, value in networks["generator"].state_dict().items()}
    untuned, tuned = (invert(networks, strange, replace(SEARCH, steps=5, tuning_steps=count)) for count in (0, 20))
    assert error(tuned, strange) < error(untuned, strange)
    assert all(torch.equal(value, kept[name]) for name, value in networks["generator"].state_dict().items())


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("logistic", [True, False])
def test_an_edit_gives_what_is_asked(
    known: tuple[dict[str, Any], Tensor, Tensor], target: float, logistic: bool
) -> None:
    networks, faces, _ = known
    found = invert(networks, faces, replace(SEARCH, steps=5))
    wanted = torch.full((3, 2), float("nan"))
    wanted[:, 0] = target
    made = edit(networks, found, wanted, LABELS, replace(SEARCH, logistic=logistic))
    before, after = (Bright()([images])[:, 0] for images in (found.drawn, made))
    assert ((after - before) * (2 * target - 1) > 0.05).all()


def test_other_attributes_and_places_are_held(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    found = invert(networks, faces, replace(SEARCH, steps=5))
    wanted = torch.tensor([[1.0, float("nan")]]).expand(3, -1)
    free, held = (
        edit(networks, found, wanted, LABELS, replace(SEARCH, others=others, local=local))
        for others, local in ((0.0, 0.0), (20.0, 0.0))
    )
    other = [(Bright()([made])[:, 1] - Bright()([found.drawn])[:, 1]).abs().mean() for made in (free, held)]
    assert other[1] < other[0]
    local = edit(networks, found, wanted, LABELS, replace(SEARCH, local=200.0))
    above = [(made - found.drawn)[:, :, :4].abs().mean() for made in (free, local)]
    assert above[1] < above[0]


def test_an_edit_begins_where_training_learned_to_go(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    found = invert(networks, faces, replace(SEARCH, steps=5, extended=False))
    wanted = torch.tensor([[1.0, float("nan")]]).expand(3, -1)
    at_once = replace(SEARCH, edit_steps=0)
    assert torch.equal(edit(networks, found, wanted, LABELS, at_once), found.drawn), "untrained, it goes nowhere"
    torch.nn.init.normal_(networks["steering"].directions)
    latents = networks["steering"](found.latents, torch.tensor([[1.0, 0.0]]).expand(3, -1))
    drawn = networks["generator"](latents)
    assert torch.allclose(edit(networks, found, wanted, LABELS, at_once), drawn, atol=1e-4)
    left = edit(networks, found, wanted, LABELS, replace(at_once, steered=0.0))
    assert torch.equal(left, found.drawn)
    nothing = torch.zeros(3, 2)
    assert torch.equal(networks["steering"](found.latents, nothing), found.latents)


def test_an_edit_goes_no_further_than_is_enough(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    found = invert(networks, faces, replace(SEARCH, steps=5))
    wanted = torch.tensor([[1.0, float("nan")]]).expand(3, -1)

    def edited(enough: float) -> tuple[Tensor, Tensor]:
        made = edit(networks, found, wanted, LABELS, replace(SEARCH, enough=enough, carried=False))
        return Bright()([made])[:, 0], (made - found.drawn).abs().mean((1, 2, 3))

    before, (after, far) = Bright()([found.drawn])[:, 0], edited(0.0)
    middle = float((before.max() + after.min()) / 2)
    assert before.max() < middle < after.min()
    told, change = edited(middle)
    assert (told >= middle - 1e-4).all()
    assert (change < far).all()
    assert torch.equal(edited(1e6)[1], far), "what is never enough goes all the way"


def test_what_the_classifier_is_shown_is_the_photo_as_it_will_be(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    """A photo darker than its drawn face is not yet bright when that is."""
    networks, faces, _ = known
    found = invert(networks, faces, replace(SEARCH, steps=5))
    darker = replace(found, photos=found.photos - 1.5)
    wanted = torch.tensor([[1.0, float("nan")]]).expand(3, -1)
    gains = [
        (edit(networks, one, wanted, LABELS, replace(SEARCH, edit_natural=3.0)) - found.drawn).mean()
        for one in (found, darker)
    ]
    assert gains[1] > gains[0]


def test_nothing_of_the_photo_changes_where_nothing_was_drawn_anew() -> None:
    photos, drawn = torch.rand(2, 3, 64, 64) - 0.5, torch.rand(2, 3, 16, 16) - 0.5
    anywhere = torch.ones(2, 1, 16, 16)
    assert torch.equal(carried_over(photos, drawn, drawn, anywhere), photos)
    assert torch.equal(carried_over(photos, drawn, drawn + 1, 0 * anywhere), photos)
    recoloured = carried_over(photos, drawn, drawn + 1, anywhere)
    assert torch.allclose(recoloured - photos, torch.tensor(1.0), atol=1e-5), "the photo's own detail stays"
    checks = torch.stack([torch.arange(16) + row for row in range(16)]).remainder(2) * 2.0 - 1
    redrawn = carried_over(photos, drawn, checks.expand_as(drawn), anywhere)
    assert torch.allclose(redrawn, resize_images(checks.expand_as(drawn), 64), atol=1e-5), "what was there is gone"


def test_attributes_are_seen_in_their_places() -> None:
    places = torch.zeros(1, len(PLACES), 64, 64)
    places[:, list(PLACES).index("hair"), :20] = 1
    smiling, blond = (seen_in(places, torch.tensor([row]), LABELS)[0, 0] for row in ([True, False], [False, True]))
    assert not smiling.any(), "there is no face"
    assert float(blond[:10].min()) > 0.9
    assert not blond[40:].any()
    for names, box in (*SEEN_IN.values(), ANYWHERE):
        assert set(names) <= set(PLACES)
        assert box[0] < box[2]
        assert box[1] < box[3]


def test_several_edits_of_the_same_crops(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    networks, faces, _ = known
    crops = ((faces.clamp(-1, 1) + 1) * 127.5).round().byte()
    wanted = torch.full((3, 3, 2), float("nan"))
    wanted[0, :, 0], wanted[1, :, 0], wanted[2, 0, 1] = 1, 0, 1
    brighter, darker, one = edited_crops(networks, crops, wanted, LABELS, SEARCH, torch.device("cpu"))
    assert (brighter.float().mean((1, 2, 3)) > darker.float().mean((1, 2, 3))).all()
    assert torch.equal(one[1:], crops[1:]), "of them nothing was asked"
    assert not torch.equal(one[0], crops[0])


def test_what_is_so_already_is_left_alone(known: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    """A photo whose lower half is bright already, and one whose is dark: the first is asked for nothing."""
    networks, faces, _ = known
    crops = torch.full((2, 3, faces.shape[-1], faces.shape[-1]), 230, dtype=torch.uint8)
    crops[1, :, faces.shape[-1] // 2 :] = 20
    photos = crops.float() / 127.5 - 1
    wanted = torch.tensor([[[1.0, float("nan")], [1.0, 0.0]], [[0.0, float("nan")], [float("nan"), 1.0]]])
    config = replace(SEARCH, already=4.0)
    left = needed(networks, photos, wanted, config)
    assert left.isnan().tolist() == [[[True, True], [False, False]], [[False, True], [True, True]]]
    assert torch.equal(left[1, 0, 0], torch.tensor(0.0))
    assert torch.equal(needed(networks, photos, wanted, SEARCH).isnan(), wanted.isnan())
    (same,) = edited_crops(networks, crops[:1], wanted[:1, :1], LABELS, config, torch.device("cpu"))
    assert torch.equal(same, crops[:1])


def test_photos_of_a_batch_are_edited_as_alone_each_with_its_own_generator(
    known: tuple[dict[str, Any], Tensor, Tensor],
) -> None:
    networks, faces, _ = known
    networks = networks | {"first_guess": Nothing(networks["first_guess"].latents.shape[1])}
    crops = ((faces.clamp(-1, 1) + 1) * 127.5).round().byte()
    wanted = torch.full((1, len(crops), 2), float("nan"))
    wanted[0, :2, 0] = 1
    config = replace(SEARCH, steps=10, edit_steps=10, tuning_steps=5, start="middle")
    (together,) = edited_crops(networks, crops, wanted, LABELS, config, torch.device("cpu"))
    for place in range(len(crops)):
        part = slice(place, place + 1)
        (alone,) = edited_crops(networks, crops[part], wanted[:, part], LABELS, config, torch.device("cpu"))
        assert (together[part].int() - alone.int()).abs().max() <= 2
    assert torch.equal(together[2:], crops[2:])
