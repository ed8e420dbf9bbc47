"""Beautification: what each constraint sees, who trains on whom, and that nothing changes where nothing should."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.narrow_retoucher import missed, taught
from rayface.data.augmentation import draw_view
from rayface.data.dataset import FaceDataset
from rayface.data.sampling import LEAST_ALIKE
from rayface.errors import RayfaceError
from rayface.evaluation.evaluate import used_as
from rayface.imaging.filters import gaussian_blur, grey
from rayface.imaging.views import BLUR, unmoved, view
from rayface.networks.autoencoder import Retoucher, TranslatorConfig
from rayface.networks.beautifier import ALIKE, COLOURFUL, Amounts, Beautifier, beautify
from rayface.networks.parser import Parser, ParserConfig
from rayface.pretrained import load_pretrained
from rayface.records import ATTRIBUTE_ID
from rayface.store import ModelStore
from rayface.systems.base import get_system, resolve_config
from rayface.systems.beauty import GUARDED, Beauty
from rayface.systems.beauty_losses import attribute_terms
from rayface.systems.constraints import attractive_term, divergence, parsing_terms
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import Workers, solo

CPU = torch.device("cpu")


def start(*settings: str) -> Training:
    system = get_system("beauty")
    config = resolve_config(system, "tiny", ["precision=fp32", *settings])
    training = Training.start(system, config, solo(), {"feature_network": load_pretrained(config.feature_network)})
    set_face(training.networks, *[20.0] * config.face_mask.classes)
    return training


def set_face(networks: Any, *logits: float) -> None:
    """Everything is face (20), or nothing (-20); so for its features."""
    nn.init.zeros_(networks["face_mask"].head.weight)
    with torch.no_grad():
        networks["face_mask"].head.bias.copy_(torch.tensor(logits))


def batch_of(training: Training, folder: str, step: int = 0) -> dict[str, Tensor]:
    config = training.config
    dataset = FaceDataset(folder, None, config.size, training.system.labels)
    return training.to_device(StepBatches(training.system, config, dataset, solo())[step])


def test_an_untrained_translator_leaves_the_photo_as_it_is() -> None:
    """Detail transfer: an autoencoder's blur never reaches the photo."""
    networks = start().networks
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(beautify(networks, photo), photo, atol=1e-6)


def test_only_the_face_is_changed(drawn_faces: str) -> None:
    networks = start().networks
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.5)  # type: ignore[arg-type, union-attr]
    nn.init.constant_(networks["detail_mask"].to_mask.bias, 9.0)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert not torch.allclose(beautify(networks, photo), photo, atol=0.1)
        set_face(networks, -20.0)
        assert torch.allclose(beautify(networks, photo), photo, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_face_mask_learns_from_the_parser_before_the_translator_begins(drawn_faces: str, classes: int) -> None:
    system = get_system("beauty")
    settings = ["precision=fp32", "steps=60", "translate_from=60", "parser=named", f"face_mask.classes={classes}"]
    config = resolve_config(system, "tiny", settings)
    frozen = {"feature_network": load_pretrained(config.feature_network), "parser": Probe()}
    training = Training.start(system, config, solo(), frozen)
    batch = batch_of(training, drawn_faces)
    first = [float(training.run_step(batch)["loss/face_mask"]) for _ in range(60)]
    assert first[-1] < first[0] / 2


@pytest.mark.parametrize(("features", "share"), [(-20.0, 0.0), (20.0, 1.0)])
def test_features_keep_their_detail_where_skin_loses_it(features: float, share: float) -> None:
    networks = start("face_mask.classes=2").networks
    set_face(networks, 20.0, features)
    nn.init.constant_(networks["detail_mask"].to_mask.bias, -9.0)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        soft = gaussian_blur(photo, 1.0)
        made = beautify(networks, photo, Amounts(size=0))
        assert torch.allclose(made, soft + share * (photo - soft), atol=1e-3)
        assert torch.allclose(beautify(networks, photo, ALIKE), soft, atol=1e-3)


def test_light_changes_so_many_times() -> None:
    networks = start("face_mask.classes=2").networks
    set_face(networks, 20.0, -20.0)
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.02)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        once, twice = (beautify(networks, photo, Amounts(times, 0, 1, 0, 0, 1, 0)) - photo for times in (1, 2))
        assert float(once.abs().max()) > 0.01
        assert torch.allclose(twice, 2 * once, atol=1e-5)
        set_face(networks, 20.0, 20.0)
        assert torch.allclose(beautify(networks, photo, Amounts(1, 1, 1, 0, 0, 1, 0)), photo, atol=1e-5)


@pytest.mark.parametrize(("field", "features", "share"), [(0, -20.0, 1.0), (0, 20.0, 0.5), (1, -20.0, 1.0)])
def test_the_retoucher_changes_light_and_colour_in_features_half_as_much(
    field: int, features: float, share: float
) -> None:
    networks = start("face_mask.classes=2").networks
    set_face(networks, 20.0, features)
    with torch.no_grad():
        networks["retoucher"].to_fields.bias[field] = 0.1  # type: ignore[operator, union-attr]
        photo = torch.rand(2, 3, 64, 64) * 0.5
        made = beautify(networks, photo, Amounts(1, 1, 1, 0.5, 0.5, 0, 0))
        assert torch.allclose(beautify(networks, photo, Amounts(retouching=0)), photo, atol=1e-6)
    if field == 0:
        assert torch.allclose((grey(made) - grey(photo)), torch.tensor(share * 0.1), atol=1e-3)
    else:
        colour = [images / 2 + 0.5 - grey(images / 2 + 0.5) for images in (photo, made)]
        clear = colour[0].norm(dim=1) > 0.1
        times = (colour[1].norm(dim=1) / colour[0].norm(dim=1))[clear]
        assert torch.allclose(times, 1 + COLOURFUL / 2 * torch.tensor(share * 0.1 / COLOURFUL).tanh(), atol=1e-3)


def test_a_model_without_a_retoucher_does_what_its_translator_says() -> None:
    networks = start("face_mask.classes=2").networks
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.05)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(1, 3, 64, 64)
    before = {name: network for name, network in networks.items() if name != "retoucher"}
    with torch.no_grad():
        assert torch.allclose(beautify(before, photo), beautify(networks, photo), atol=1e-6)
        assert torch.equal(Beautifier(before)(photo), beautify(before, photo))


def test_a_narrower_retoucher_learns_to_give_what_a_trained_one_gives() -> None:
    torch.manual_seed(0)
    shape = TranslatorConfig(16, 1, 16, retouch_width=16, retouch_blocks=1)
    teacher, student = Retoucher(shape, 8), Retoucher(replace(shape, retouch_width=8), 8)
    nn.init.normal_(teacher.to_fields.weight, std=0.1)
    seen = (torch.randn(64, 8, 8, 8).half(), torch.randn(64, 8, 8, 8).half())
    assert min(missed(student, teacher, seen)) > 0.9
    assert max(missed(taught(student, teacher, seen, 1500), teacher, seen)) < 0.3


def test_every_face_changes_as_much() -> None:
    networks = start("face_mask.classes=2").networks
    set_face(networks, 20.0, -20.0)
    nn.init.constant_(networks["detail_mask"].to_mask.bias, -0.02)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(3, 3, 64, 64) * torch.tensor([0.4, 0.5, 1.6]).view(3, 1, 1, 1) - 0.5
    with torch.no_grad():
        first, second, third = ((beautify(networks, photo, ALIKE) - photo).abs().mean((1, 2, 3))).tolist()
        assert second > 1.2 * first
        asked = Amounts(1, 1, 1, 1, 1, 1, second)
        made = (beautify(networks, photo, asked) - photo).abs().mean((1, 2, 3)).tolist()
        assert made[:2] == pytest.approx([second, second], rel=1e-2)
        assert made[2] == pytest.approx(0.6 * third, rel=1e-2)  # no further than that


def test_a_model_that_knows_the_face_alone_changes_it_as_trained() -> None:
    networks = start().networks
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.05)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(beautify(networks, photo, Amounts(2, 2, 2)), beautify(networks, photo))


def test_batches_pair_ordinary_with_attractive_faces_of_their_kind(drawn_faces: str) -> None:
    training = start()
    dataset = FaceDataset(drawn_faces, None, 64, training.system.labels)
    labels = np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"])
    choose = training.system.sampler(training.config, dataset)
    drawn = np.stack([choose(step) for step in range(20)])
    attractive = labels[:, ATTRIBUTE_ID["Attractive"]][drawn]
    assert (attractive[:, 0::2] == -1).all()
    assert (attractive[:, 1::2] == 1).all()
    groups = labels[:, ATTRIBUTE_ID["Male"]] * 3 + labels[:, ATTRIBUTE_ID["Young"]]
    held = np.array([((groups == group) & (labels[:, ATTRIBUTE_ID["Attractive"]] == 1)).sum() for group in groups])
    first, second = drawn[:, 0::2], drawn[:, 1::2]
    enough = held[first] >= LEAST_ALIKE
    assert enough.any()
    assert (groups[first] == groups[second])[enough].all()


def test_phases_take_turns(drawn_faces: str) -> None:
    training = start("steps=9", "align_from=2", "translate_from=5")
    batch = batch_of(training, drawn_faces)
    before = {name: [p.clone() for p in network.parameters()] for name, network in training.networks.items()}

    def moved() -> set[str]:
        found = set()
        for name, network in training.networks.items():
            if any(not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)):
                found.add(name)
                before[name] = [p.clone() for p in network.parameters()]
        return found

    coders = {f"{kind}_{part}" for kind in ("ordinary", "attractive") for part in ("encoder", "decoder")}
    seen = []
    for _ in range(9):
        training.run_step(batch)
        seen.append(moved())
    assert seen[:2] == [coders] * 2
    assert seen[2:5] == [coders | {"aligner"}] * 3
    assert seen[5] == {"discriminator"}
    assert seen[6:] == [{"translator", "retoucher", "detail_mask", "discriminator"}] * 3


def test_a_constraint_that_is_off_costs_nothing(drawn_faces: str) -> None:
    training = start("translate_from=0", "align_from=0", "losses.adversarial=0")
    metrics = training.run_step(batch_of(training, drawn_faces))
    assert "loss/discriminator" not in metrics
    assert "translator/adversarial" not in metrics


def test_the_translator_learns_from_all_constraints_at_once(drawn_faces: str) -> None:
    """With frozen networks of the systems that are meant, not with probes."""
    system = get_system("beauty")
    config = resolve_config(system, "tiny", ["precision=fp32", "translate_from=0", "align_from=0"])
    frozen: dict[str, nn.Module] = {"feature_network": load_pretrained(config.feature_network)}
    torch.manual_seed(0)
    for key, of in system.frozen_systems.items():
        asked = get_system(of)
        networks = asked.build(asked.config("tiny"))
        frozen[key] = networks[asked.released[0]].requires_grad_(False).eval()
    training = Training.start(system, config, solo(), frozen)
    batch = batch_of(training, drawn_faces)
    before = {key: [p.clone() for p in network.parameters()] for key, network in frozen.items()}
    reported = [training.run_step(batch) for _ in range(4)][-1]
    terms = (
        "change", "adversarial", "parsing", "attractive", "tone", "uneven", "attributes", "sex", "identity",
    )  # fmt: skip
    assert all(np.isfinite(float(reported[f"translator/{term}"])) for term in terms)
    for key, network in frozen.items():
        assert all(torch.equal(a, b) for a, b in zip(before[key], network.parameters(), strict=True)), key
        assert all(p.grad is None for p in network.parameters()), key


def test_the_translator_learns_what_is_used(drawn_faces: str) -> None:
    """Through `amounts`, so that what it wins in the skin is won as served."""
    settings = ("translate_from=0", "align_from=0", "discriminator_steps=0", "face_mask.classes=2")
    nothing = [f"amounts.{name}=0" for name in vars(Amounts())]
    for amounts, changes in (((), True), (nothing, False)):
        training = start(*settings, *amounts)
        nn.init.normal_(training.networks["translator"].to_latents.weight, std=0.05)  # type: ignore[arg-type, union-attr]
        change = float(training.run_step(batch_of(training, drawn_faces))["translator/change"])
        assert (change > 0) == changes


def test_half_of_the_faces_are_as_blurred_as_judges_see_them(drawn_faces: str) -> None:
    training = start()
    blur = torch.cat([batch_of(training, drawn_faces)["view"][:, BLUR] for _ in range(4)])
    assert set(blur.tolist()) == {0.0, 1.0}


class Admirer(nn.Module):
    """A classifier that calls faces attractive where they are bright: by so many logits from black to grey."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean((1, 2, 3)) * self.gain)[:, None].expand(-1, 40)


def test_what_one_classifier_alone_likes_is_half_of_what_is_asked() -> None:
    photo = torch.full((2, 3, 8, 8), -1.0)

    def missing(*gains: float) -> float:
        return float(attribute_terms([Admirer(gain) for gain in gains], photo + 1, photo, ("Male",), 1.0)["attractive"])

    assert missing(2.0) == pytest.approx(0)
    assert missing(2.0, 0.0) == pytest.approx(0.5)
    assert missing(2.0, 2.0, 0.0) == pytest.approx(1 / 3)
    assert set(attribute_terms([Admirer(1.0)], photo, photo, ("Young",), 1.0)) == {"attractive", "attributes"}


class Probe(nn.Module):
    """A parser that calls a pixel skin where it is bright."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 19, *images.shape[-2:])
        logits[:, 1] = 40 * images.mean(1)
        logits[:, 0] = -40 * images.mean(1)
        return logits


def test_constraint_1_sees_moved_parts_and_lightened_skin() -> None:
    photo = torch.full((1, 3, 32, 32), -0.8)
    photo[:, :, 8:24, 8:24] = 0.5  # a face
    unchanged = parsing_terms(Probe(), photo, photo, 32)
    assert all(float(value) == pytest.approx(0, abs=1e-5) for value in unchanged.values())
    lighter, moved = photo.clone(), photo.roll(6, -1)
    lighter[:, :, 8:24, 8:24] += 0.2
    assert float(parsing_terms(Probe(), lighter, photo, 32)["tone"]) == pytest.approx(0.2, abs=1e-5)
    assert float(parsing_terms(Probe(), moved, photo, 32)["parsing"]) > 1


def test_the_tone_of_lips_is_held_apart_from_that_of_skin() -> None:
    photo = torch.full((1, 3, 32, 32), -1.0)
    photo[:, 0, 20:24, 12:20] = 1  # lips
    painted = photo.clone()
    painted[:, 1, 20:24, 12:20] += 0.3
    terms = parsing_terms(Spots(), painted, photo, 32)
    assert float(terms["tone"]) == pytest.approx(0.1, rel=0.1)  # the mean of three channels


def test_the_parser_is_asked_in_changed_light() -> None:
    class Asked(Probe):
        seen: ClassVar[list[Tensor]] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images)
            return super().forward(images)

    photo = torch.rand(1, 3, 32, 32) - 0.5
    numbers = unmoved(draw_view(np.random.default_rng(0))[None])
    parsing_terms(Asked(), photo + 0.1, photo, 32, numbers)
    before, after = Asked.seen
    assert torch.equal(before, view(photo, numbers))
    assert torch.equal(after, view(photo + 0.1, numbers))
    mirrored = draw_view(np.random.default_rng(1))[None]
    assert not torch.allclose(view(photo, mirrored), view(photo, unmoved(mirrored)))


def test_no_shadow_may_come_upon_the_skin_and_any_may_go() -> None:
    even = torch.full((1, 3, 64, 64), -0.8)
    even[:, :, 12:52, 12:52] = 0.5  # a face
    shaded, brighter = even.clone(), even.clone()
    shaded[:, :, 40:46, 20:44] -= 0.3  # above the lips, say
    brighter[:, :, 12:52, 12:52] += 0.2

    def uneven(beautified: Tensor, photo: Tensor) -> float:
        return float(parsing_terms(Probe(), beautified, photo, 64)["uneven"])

    assert uneven(shaded, even) > 0.05
    assert uneven(even, shaded) < uneven(shaded, even) / 5  # what was beside the shadow differs from it a little more
    assert uneven(brighter, even) == pytest.approx(0, abs=1e-3)  # the tone's business


class Spots(nn.Module):
    """A parser of two parts: lips where red is strong, skin elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.full((len(images), 19, *images.shape[-2:]), -9.0)
        logits[:, 1] = 0
        logits[:, 12] = 8 * images[:, 0]
        return logits


def test_constraint_1_holds_a_small_part_as_much_as_a_large_one() -> None:
    """Lips of 16 pixels that shrink by half are as bad as lips of 256 that do."""

    def term(side: int) -> float:
        photo = torch.full((1, 3, 32, 32), -1.0)
        photo[:, 0, :side, :side] = 1
        thinner = photo.clone()
        thinner[:, 0, : side // 2, :side] = -1
        return float(parsing_terms(Spots(), thinner, photo, 32)["parsing"])

    assert term(4) == pytest.approx(term(16), rel=0.3)


def test_beautifying_changes_light_and_saturation_and_keeps_hue() -> None:
    networks = start().networks
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.05)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 0.8 - 0.2
    photo[:, :, :8] = -1  # black
    with torch.no_grad():
        made = beautify(networks, photo)
    assert not torch.allclose(made, photo, atol=0.02)
    assert torch.equal(made[:, :, :8], photo[:, :, :8])
    before, after = (((images + 1) - grey(images + 1))[:, :, 8:] for images in (photo, made))
    colourful = before.norm(dim=1) > 0.2
    alike = nn.functional.cosine_similarity(before, after, dim=1)[colourful]
    assert float(alike.quantile(0.01)) > 0.999


def test_the_cells_that_the_decoder_draws_in_do_not_show() -> None:
    networks = start().networks
    nn.init.normal_(networks["translator"].to_latents.weight, std=0.5)  # type: ignore[arg-type, union-attr]
    photo = torch.zeros(2, 3, 64, 64) + torch.rand(2, 1, 64, 64) * 1e-3
    with torch.no_grad():
        latents = networks["aligner"](networks["ordinary_encoder"](photo))
        plain, made = (networks["attractive_decoder"](z) for z in (latents, networks["translator"](latents)))
        change = beautify(networks, photo) - photo

    def in_cells(images: Tensor) -> float:
        """Share of the energy that has a period of 8 px or less; the mean does not count."""
        window = torch.hann_window(64)  # or the border would count as fine
        energy = torch.fft.rfft2((images - images.mean((2, 3), keepdim=True)) * window[:, None] * window).abs() ** 2
        rows, columns = torch.fft.fftfreq(64).abs()[:, None], torch.fft.rfftfreq(64)[None]
        fine = (torch.maximum(rows, columns) >= 1 / 8).expand_as(energy)
        return float(energy[fine].sum() / energy.sum())

    assert in_cells(made - plain) > 0.2
    assert in_cells(change) < 0.03


@pytest.mark.parametrize(("bias", "share"), [(-9.0, 0.0), (0.0, 1.0), (9.0, 2.0)])
def test_fine_detail_goes_stays_or_is_brought_out(bias: float, share: float) -> None:
    networks = start().networks
    nn.init.constant_(networks["detail_mask"].to_mask.bias, bias)  # type: ignore[arg-type, union-attr]
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        soft = gaussian_blur(photo, 1.0)
        assert torch.allclose(beautify(networks, photo), soft + share * (photo - soft), atol=1e-3)


def test_nobody_needs_to_gain_more_than_is_asked() -> None:
    photo, place = torch.zeros(1, 40), ATTRIBUTE_ID["Attractive"]
    missing = []
    for gained in (0.0, 0.3, 0.5, 0.9):
        made = photo.clone()
        made[:, place] += gained
        missing.append(float(attractive_term(made, photo, 0.5)))
    assert missing == pytest.approx([0.5, 0.2, 0, 0], abs=1e-6)


def test_constraint_2_is_zero_for_the_same_answers_and_grows_with_the_difference() -> None:
    wanted = torch.tensor([[0.9, 0.2, 0.5]])
    logits = wanted.logit()
    assert float(divergence(logits, wanted)) == pytest.approx(0, abs=1e-5)
    near, far = (float(divergence(logits + shift, wanted)) for shift in (0.5, 2.0))
    assert 0 < near < far


def test_the_guarded_attributes_are_no_traits_of_beauty() -> None:
    assert {"Male", "Young", "Eyeglasses", "Pale_Skin", "Wearing_Lipstick"} <= set(GUARDED) <= set(ATTRIBUTE_ID)
    assert not {"Attractive", "Bags_Under_Eyes", "Double_Chin", "Arched_Eyebrows"} & set(GUARDED)


def test_parts_of_the_use_can_be_set_off() -> None:
    system = Beauty()
    used = {name: used_as(system, system.config("tiny"), off).amounts for name, off in system.use_ablations.items()}
    assert used == {"features-as-skin": Amounts(1, 1, 1, 1, 1, 1), "no-retouching": Amounts(retouching=0)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["global_batch=7"], "must be even"),
        (["guarded=Male,Handsome"], "Handsome unknown"),
        (["align_from=9", "translate_from=4"], "must not come after"),
        (["feature_network="], "feature_network is empty"),
        (["steps=5"], "begins at step 5"),
        (["size=66"], "try 68"),
        (["face_mask.classes=3"], "give 1, the face, or 2"),
        (["amounts.light=4"], "must be from 0 to 3"),
        (["classifier=a@1", "third_classifier=a@1"], "given twice"),
    ],
)
def test_settings_that_no_training_could_use(settings: list[str], told: str) -> None:
    with pytest.raises(RayfaceError, match=told):
        resolve_config(get_system("beauty"), "tiny", settings)


def test_an_uneven_share_is_refused(drawn_faces: str) -> None:
    system = get_system("beauty")
    config = resolve_config(system, "tiny", ["global_batch=6"])
    dataset = FaceDataset(drawn_faces, None, config.size, system.labels)
    with pytest.raises(RayfaceError, match="even share"):
        StepBatches(system, config, dataset, Workers(0, 2, CPU, "solo"))[0]


def test_data_of_one_kind_is_refused(drawn_faces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start()
    dataset = FaceDataset(drawn_faces, None, 64, training.system.labels)
    plain = torch.full((len(dataset), 40), -1, dtype=torch.int8)
    monkeypatch.setattr(dataset, "batch", lambda *_: {"attributes": plain})
    with pytest.raises(RayfaceError, match="0 attractive faces"):
        training.system.sampler(training.config, dataset)


def test_the_step_changes_crops_by_what_the_networks_make(tmp_path: Any) -> None:
    system = Beauty()
    config = system.config("tiny")
    torch.manual_seed(0)
    built = system.build(config)
    torch.nn.init.normal_(built["translator"].to_latents.weight, std=0.05)  # type: ignore[arg-type, union-attr]
    store = ModelStore(tmp_path)
    store.save("beauty", "beauty", config, {name: built[name] for name in system.released}, details={"licence": "ours"})
    step = system.make_step(store.load("beauty"))
    crops = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    changed = step(crops, {})
    assert changed.shape == crops.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, crops)
    assert (step.name, step.size) == ("beautify", 64)


def test_a_parser_is_asked_at_its_own_size() -> None:
    class Sized(Parser):
        sides: ClassVar[set[int]] = set()

        def forward(self, images: Tensor) -> Tensor:
            self.sides.add(images.shape[-1])
            return super().forward(images)

    parser = Sized(ParserConfig(widths=(8, 16)))
    terms = parsing_terms(parser, torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), 64)
    assert parser.sides == {64}
    assert set(terms) == {"parsing", "change", "tone", "uneven"}
    assert all(torch.isfinite(value) for value in terms.values())
