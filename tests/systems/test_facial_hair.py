"""Facial hair: what a batch holds, what each pixel counts, and that nothing changes where nothing should."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.networks.hair_localiser import PLACES, find_hair, hair_of
from rayface.networks.hair_painter import HairColour, hair_grain, laid_on, lower_face, repaint, taken_off
from rayface.pretrained import load_pretrained
from rayface.records import ATTRIBUTE_ID, FACIAL_HAIR, FACIAL_HAIR_LABELS
from rayface.store import ModelStore
from rayface.systems.base import PhaseState, get_system, resolve_config
from rayface.systems.facial_hair import FacialHair, _filled
from rayface.systems.facial_hair_losses import TELLS, area_weights, draw_shadow, shadowed, style_term, styles_of
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import solo

RATIO = "ratio=[4,2,0,2,2]"  # of the drawn faces none has a moustache alone
ALL = "ratio=[4,2,1,1,2]"


def start(*settings: str) -> Training:
    system = get_system("facial_hair")
    config = resolve_config(system, "tiny", ["precision=fp32", *settings])
    return Training.start(system, config, solo(), {"feature_network": load_pretrained(config.feature_network)})


def batch_of(training: Training, folder: str, step: int = 0) -> dict[str, Tensor]:
    dataset = FaceDataset(folder, None, training.config.size, training.system.labels)
    return training.to_device(StepBatches(training.system, training.config, dataset, solo())[step])


class Places(nn.Module):
    """A localiser that finds skin where green is strong, and zones there."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.full((len(images), len(PLACES), *images.shape[-2:]), -20.0)
        skin = images[:, 1] > 0
        logits[:, PLACES.index("skin")][skin] = 20
        for zone, (left, right) in {"moustache": (16, 28), "chin": (28, 36), "jaw": (36, 48)}.items():
            logits[:, PLACES.index(zone), 36:, left:right][skin[:, 36:, left:right]] = 20
        return logits


class Red(nn.Module):
    """A reader that sees a full beard on faces with red in them, nothing on others."""

    def forward(self, images: Tensor) -> Tensor:
        bearded = (images[:, 0] > 0).flatten(1).any(1)
        return F.one_hot(torch.where(bearded, FACIAL_HAIR.index("full"), 0), len(FACIAL_HAIR)).float()


def painted() -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """Networks that paint something, one face of skin in the middle, and grain."""
    networks: dict[str, Any] = dict(start().networks)
    networks |= {"localiser": Places(), "reader": Red()}
    for name in ("skin_painter", "hair_painter"):
        nn.init.normal_(networks[name].generator.to_rgb.weight, std=0.3)
    torch.manual_seed(0)
    face = torch.rand(1, 3, 64, 64) * 0.2 - 0.5
    face[:, 1, 8:60, 12:52] += 0.8  # skin
    return networks, face, hair_grain(torch.randn(1, 2, 64, 64))


def changed(networks: dict[str, nn.Module], face: Tensor, style: str, grain: Tensor) -> Tensor:
    with torch.no_grad():
        found = find_hair(networks, face)
        return repaint(networks, face, found, hair_of(found.zones, torch.tensor([FACIAL_HAIR.index(style)])), grain)


def test_nothing_is_taken_off_who_wears_nothing() -> None:
    networks, face, grain = painted()
    assert torch.equal(changed(networks, face, "none", grain), face)


@pytest.mark.parametrize("style", FACIAL_HAIR)
def test_only_the_skin_of_the_lower_face_is_painted(style: str) -> None:
    networks, face, grain = painted()
    face[:, 0, 44:50, 20:30] = 0.6  # a beard
    difference = (changed(networks, face, style, grain) - face).abs().amax((0, 1))
    assert float(difference.max()) > 0.05
    skin = torch.zeros(64, 64, dtype=torch.bool)
    skin[7:61, 11:53] = True  # hairs reach over its edge by a pixel
    skin[:24] = False  # the lower face begins there
    assert float(difference[~skin].max()) < 1e-6


def test_skin_keeps_its_own_detail_where_no_hair_is() -> None:
    networks, face, grain = painted()
    found = find_hair(networks, face)
    beside = (laid_on(hair_of(found.zones, torch.tensor([2])), found.skin) == 0).expand_as(face)
    assert torch.equal(changed(networks, face, "moustache", grain)[beside], face[beside])


def test_all_hairs_of_a_face_have_one_colour_and_lie_upon_the_skin() -> None:
    networks, _, grain = painted()
    grey, wanted = torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1) * 0.5, torch.zeros(1, 2, 64, 64)
    wanted[:, 0, 40:60, 20:44] = 1
    with torch.no_grad():
        networks["hair_painter"].colour.gain.zero_()  # type: ignore[operator, union-attr]
        networks["hair_painter"].colour.shift.data = torch.tensor([0.5, -0.1, -0.8])  # type: ignore[operator, union-attr]
        change = (networks["hair_painter"](grey, wanted, grain) - grey)[0]
    red_green, red_blue = (change[0] - change[1])[40:60, 20:44], (change[0] - change[2])[40:60, 20:44]
    ratio = red_green / red_blue
    assert float(ratio.max() - ratio.min()) < 1e-3
    assert not change[:, :40].any()
    assert not change[:, :, :20].any()


def test_of_what_is_hidden_only_a_blur_is_seen() -> None:
    networks, face, _ = painted()
    hidden = torch.zeros(1, 1, 64, 64)
    hidden[:, :, 34:60, 14:50] = 1
    parts = torch.rand(1, 3, 64, 64).round()
    hairy, darker = face.clone(), face.clone()
    hairy[:, :, 40:54:2, 20:44] += 0.1
    hairy[:, :, 41:55:2, 20:44] -= 0.1
    darker[:, :, 40:54, 20:44] -= 0.1
    with torch.no_grad():
        seen = [networks["skin_painter"](images, hidden, parts) for images in (face, hairy, darker)]
    of_hairs, of_shadow = ((other - seen[0]).abs().mean() for other in seen[1:])
    assert float(of_hairs) < 0.2 * float(of_shadow)
    assert torch.equal(seen[0][:, :, :34], face[:, :, :34])


def test_skin_under_hair_learns_nothing_from_the_hair(drawn_faces: str) -> None:
    training = start("paint_from=0")
    networks = training.networks
    images = torch.rand(1, 3, 64, 64)
    everywhere = torch.ones(1, 1, 64, 64)
    parts, own, grain = torch.ones(1, 3, 64, 64), torch.ones(1, 2, 64, 64), torch.randn(1, 2, 64, 64)
    _filled(networks, images, everywhere, parts, own, grain).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in networks["skin_painter"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in networks["hair_painter"].parameters())


def test_styles_have_hair_in_their_zones() -> None:
    zones = torch.rand(1, 3, 4, 4)
    hair = {style: hair_of(zones, torch.tensor([number]))[0] for number, style in enumerate(FACIAL_HAIR)}
    assert not hair["none"].any()
    assert torch.equal(hair["moustache"][0], zones[0, 0])
    assert torch.allclose(hair["goatee"][0], zones[0, :2].sum(0))
    assert torch.allclose(hair["full"][0], hair["stubble"][1])
    assert not hair["full"][1].any()
    assert not hair["stubble"][0].any()


@given(st.floats(0.02, 0.9), st.floats(0.02, 0.9), st.floats(1, 20))
def test_hair_counts_more_the_smaller_its_share_of_the_face_is(first: float, second: float, bound: float) -> None:
    """SPEC B3: the weight rises as the ratio falls, is bounded, and is never below 1."""

    def weight(share: float) -> float:
        hair = torch.zeros(1, 2, 50, 50)
        hair[:, 0, : max(1, round(50 * share))] = 1
        return float(area_weights(hair, torch.ones(1, 1, 50, 50), bound).max())

    smaller, larger = sorted((first, second))
    assert 1 <= weight(larger) <= weight(smaller) <= bound + 1e-5


def test_without_facial_hair_every_pixel_counts_one() -> None:
    assert torch.equal(area_weights(torch.zeros(2, 2, 8, 8), torch.ones(2, 1, 8, 8), 8.0), torch.ones(2, 1, 8, 8))


def test_hair_counts_as_much_as_its_face_and_skin_beside_it_one() -> None:
    hair, face = torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
    hair[:, 1, :2] = 1
    weights = area_weights(hair, face, 8.0)
    assert torch.equal(weights[:, :, :2], torch.full((1, 1, 2, 8), 4.0))
    assert torch.equal(weights[:, :, 2:], torch.ones(1, 1, 6, 8))


def test_every_batch_holds_the_styles_in_the_ratio(drawn_faces: str) -> None:
    training = start(RATIO, "global_batch=10")
    dataset = FaceDataset(drawn_faces, None, 64, training.system.labels)
    styles = styles_of(np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"]))
    choose = training.system.sampler(training.config, dataset)
    for step in range(5):
        assert Counter(styles[choose(step)].tolist()) == {0: 4, 1: 2, 3: 2, 4: 2}


def test_data_without_a_class_is_refused(drawn_faces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(ALL, "global_batch=10")
    dataset = FaceDataset(drawn_faces, None, 64, training.system.labels)
    bare = torch.full((len(dataset), 40), -1, dtype=torch.int8)
    bare[:, ATTRIBUTE_ID["No_Beard"]] = 1
    monkeypatch.setattr(dataset, "batch", lambda *_: {"attributes": bare})
    with pytest.raises(RayfaceError, match="classes stubble, moustache, goatee, full"):
        training.system.sampler(training.config, dataset)


def test_phases_take_turns(drawn_faces: str) -> None:
    training = start("steps=6", "paint_from=2", "transform_from=4")
    batch, seen = batch_of(training, drawn_faces), []
    for _ in range(6):
        before = {name: [p.clone() for p in net.parameters()] for name, net in training.networks.items()}
        training.run_step(batch)
        pairs = {name: zip(before[name], net.parameters(), strict=True) for name, net in training.networks.items()}
        seen.append({name for name, both in pairs.items() if any(not torch.equal(a, b) for a, b in both)})
    painters = {"localiser", "skin_painter", "hair_painter"}
    assert seen == [{"localiser"}] * 2 + [painters] * 2 + [painters | {"discriminator"}] * 2


def test_what_was_hidden_is_found_again_better_with_training(drawn_faces: str) -> None:
    training = start("steps=80", "paint_from=0", "transform_from=80")
    batch = batch_of(training, drawn_faces)
    losses = [float(training.run_step(batch)["painter/pixel"]) for _ in range(80)]
    assert losses[-1] < 0.7 * losses[0]


def test_nothing_is_to_grow_on_what_is_before_a_face(drawn_faces: str) -> None:
    training = start("covered=1")
    batch = batch_of(training, drawn_faces)
    assert float(batch["cover"].mean()) > 0.02
    asked: list[Tensor] = []

    class Sure(nn.Module):
        """Finds no place anywhere, surely."""

        def forward(self, images: Tensor) -> Tensor:
            asked.append(images)
            return torch.full((len(images), len(PLACES), *images.shape[2:]), -20.0)

    system, state = get_system("facial_hair"), PhaseState(training.config, 0, {})
    (phase,) = (phase for phase in system.phases(training.config) if phase.name == "localiser")
    loss, _ = phase.loss(batch, {"localiser": Sure()}, state)
    (images,) = asked
    assert torch.equal(images, batch["covered"])
    all_covered = {**batch, "cover": torch.ones_like(batch["cover"])}
    nothing, _ = phase.loss(all_covered, {"localiser": Sure()}, state)
    assert float(nothing) < 1e-6 < float(loss)


def test_a_photo_is_never_given_its_own_style_as_another(drawn_faces: str) -> None:
    training = start()
    for step in range(4):
        batch = batch_of(training, drawn_faces, step)
        assert (batch["style"] != batch["other_style"]).all()
        assert batch["other_style"].min() >= 0
        assert batch["other_style"].max() < len(FACIAL_HAIR)


@pytest.mark.parametrize("style", FACIAL_HAIR)
def test_the_style_term_is_least_where_the_labels_say_the_style(style: str) -> None:
    number = torch.tensor([FACIAL_HAIR.index(style)])

    def term(told: str) -> float:
        logits = torch.zeros(1, 40)
        for label, value in zip(FACIAL_HAIR_LABELS, TELLS[told], strict=True):
            logits[0, ATTRIBUTE_ID[label]] = 0 if value is None else (6.0 if value else -6.0)
        return float(style_term(logits, number))

    assert term(style) < 0.01
    assert all(term(other) > term(style) for other in FACIAL_HAIR if other != style)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["ratio=[1,2]"], "for each of none, stubble"),
        (["ratio=[0,0,0,0,0]"], "for each of none"),
        ([ALL, "global_batch=4"], "10 is enough"),
        (["area_bound=0.5"], "at least 1"),
        (["covered=2"], "a share from 0 to 1"),
        (["paint_from=9", "transform_from=4"], "must not come after"),
        (["feature_network="], "feature_network is empty"),
        (["size=48"], "size=48 must be divisible by 32.*try 64"),
    ],
)
def test_settings_that_no_training_could_use(settings: list[str], told: str) -> None:
    with pytest.raises(RayfaceError, match=told):
        resolve_config(get_system("facial_hair"), "tiny", settings)


def test_the_step_gives_each_crop_its_style_and_the_same_photo_the_same_result(tmp_path: Path) -> None:
    system = FacialHair()
    config = system.config("tiny")
    torch.manual_seed(0)
    built = system.build(config)
    nn.init.normal_(built["hair_painter"].generator.to_rgb.weight, std=0.3)  # type: ignore[arg-type, union-attr]
    store = ModelStore(tmp_path)
    store.save("facial_hair", "facial_hair", config, built, details={"licence": "ours"})
    step = system.make_step(store.load("facial_hair"))
    crops = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    both = step(crops, {"style": ["full", "moustache"]})
    assert both.shape == crops.shape
    assert both.dtype == torch.uint8
    assert torch.equal(both[:1], step(crops[:1], {"style": "full"}))
    assert torch.equal(both[1:], step(crops[1:], {"style": ["moustache"]}))
    assert not torch.equal(both[0], step(crops[:1], {"style": "moustache"})[0])


def test_what_is_painted_reaches_beyond_the_hair_and_stays_on_the_skin() -> None:
    hair, skin = torch.zeros(1, 2, 64, 64), torch.zeros(1, 1, 64, 64)
    hair[:, 0, 44:50, 28:36] = 1
    skin[:, :, 30:60, 20:44] = 1
    where = laid_on(hair, skin)
    wider = taken_off(hair, skin)
    assert bool((wider >= where - 1e-6).all())
    assert not wider[0, 0, :, :17].any()
    assert float(where[0, 0, 46, 32]) == pytest.approx(1, abs=1e-3)
    assert float(where[0, 0, 42, 32]) > 0.5
    assert not where[0, 0, :, :18].any()
    assert lower_face(where).shape[-2:] == (40, 48)


def test_shadows_lie_where_hair_may_and_nowhere_else() -> None:
    images, hair = torch.rand(4, 3, 64, 64) * 2 - 1, torch.zeros(4, 2, 64, 64)
    hair[:, 0, 40:50, 20:40] = 1
    shadows = torch.stack([draw_shadow(np.random.default_rng(seed)) for seed in range(4)])
    made = shadowed(images, hair, hair_grain(torch.randn(4, 2, 64, 64)), shadows)
    beside = torch.ones(64, 64, dtype=torch.bool)
    beside[40:50, 20:40] = False
    assert torch.equal(made[:, :, beside], images[:, :, beside])
    change = (made - images)[:, :, 40:50, 20:40].abs().mean((1, 2, 3))
    assert bool((change > 0).all())
    assert torch.all(made >= torch.minimum(images.amin(), shadows[:, :3].amin()) - 1e-5)


def test_hair_colour_is_looked_for_in_what_is_dark() -> None:
    torch.manual_seed(0)
    colour = HairColour()
    nn.init.zeros_(colour.shift)
    nn.init.zeros_(colour.look[-1].weight)  # type: ignore[arg-type]
    face = torch.full((1, 3, 64, 64), 0.5)
    face[:, :, 4:20] = -0.8  # brows and hair
    with torch.no_grad():
        assert float(colour(face).mean()) < -0.5
