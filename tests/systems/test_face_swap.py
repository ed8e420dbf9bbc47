"""Face swap: what the texture network may see, whose identity a face gets, and what of the photo stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.networks.face_swapper import (
    FaceSwapperConfig,
    SwapDecoder,
    TextureNetwork,
    composed,
    draw,
    given_identity,
    identities,
    in_window,
    swap,
    where_drawn,
    window,
)
from rayface.networks.pair_discriminator import PairDiscriminator
from rayface.networks.projected_discriminator import ProjectedDiscriminatorConfig
from rayface.networks.recogniser import RecogniserConfig
from rayface.pretrained import load_pretrained
from rayface.store import ModelStore
from rayface.systems.base import get_system, resolve_config
from rayface.systems.face_swap import FaceSwap
from rayface.systems.face_swap_step import swapped_crops
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import solo
from tests.tiny_models import save_tiny_models

CPU = torch.device("cpu")


def start(*settings: str) -> Training:
    system = get_system("face_swap")
    config = resolve_config(system, "tiny", ["precision=fp32", *settings])
    frozen = {name: load_pretrained(reference) for name, reference in system.frozen_models(config).items()}
    return Training.start(system, config, solo(), frozen)


def batch_of(training: Training, folder: str, step: int = 0) -> dict[str, Tensor]:
    dataset = FaceDataset(folder, None, training.config.size, training.system.labels)
    return training.to_device(StepBatches(training.system, training.config, dataset, solo())[step])


def drawing(networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Networks that draw something, everywhere."""
    torch.manual_seed(0)
    nn.init.normal_(networks["decoder"].to_rgb.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    nn.init.constant_(networks["face_mask"].head.bias, 20.0)  # type: ignore[union-attr, arg-type]
    return networks


@pytest.mark.parametrize(("seen", "numbers"), [(4, 3 * 4 * 4), (32, 64)])
def test_no_more_than_the_small_picture_reaches_the_features(seen: int, numbers: int) -> None:
    """By the rank of what 64 numbers made of all features say of the crop's pixels."""
    torch.manual_seed(0)
    network = TextureNetwork(FaceSwapperConfig(32, seen, (16, 16), 1, 16, 8))
    crops = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_(True)
    features = torch.cat([maps.flatten() for maps in network(crops)])
    asked = torch.randn(64, len(features)) @ features
    rows = torch.stack([torch.autograd.grad(each, crops, retain_graph=True)[0].flatten() for each in asked])
    strengths = torch.linalg.svdvals(rows)
    assert int((strengths > 1e-4 * strengths[0]).sum()) == numbers


@given(seen=st.integers(1, 32), seed=st.integers(0, 99))
def test_an_untrained_decoder_gives_the_small_picture_enlarged(seen: int, seed: int) -> None:
    config = FaceSwapperConfig(32, seen, (8, 8), 1, 16, 8)
    torch.manual_seed(seed)
    with torch.no_grad():
        texture = TextureNetwork(config)(torch.rand(1, 3, 64, 64) * 2 - 1)
        drawn = SwapDecoder(config)(texture, torch.rand(1, 16))
    assert texture[0].shape == (1, 3, seen, seen)
    assert torch.allclose(drawn, F.interpolate(texture[0], (32, 32), mode="bicubic"), atol=1e-5)


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="texture_side=200"):
        FaceSwapperConfig(texture_side=200)
    with pytest.raises(ValueError, match="side=100"):
        FaceSwapperConfig(side=100)


@pytest.mark.parametrize("size", [64, 256])
def test_a_window_lies_where_it_was_cut(size: int) -> None:
    crops = torch.rand(2, 3, size, size)
    cut = window(crops, 44 * size // 64)
    placed = in_window(cut, size)
    inside = in_window(torch.ones_like(cut), size) > 0
    assert torch.equal(placed[inside], crops[inside])
    assert not placed[~inside].any()


def test_nothing_changes_outside_the_face_and_its_window() -> None:
    networks = drawing(start().networks)
    crops = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        where = where_drawn(networks, crops)
        changed = swap(networks, crops, identities(networks, crops.flip(0)))
    assert float(where.max()) == pytest.approx(1, abs=1e-3)
    outside = in_window(torch.ones(2, 1, 44, 44), 64) == 0
    assert not where[outside].any()
    assert torch.equal(changed[outside.expand_as(changed)], crops[outside.expand_as(crops)])
    nn.init.constant_(networks["face_mask"].head.bias, -60.0)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        assert torch.allclose(swap(networks, crops, identities(networks, crops)), crops, atol=1e-5)


def test_the_donor_is_told_by_the_embedding_alone() -> None:
    networks = drawing(start().networks)
    crops = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        first, second = (draw(networks, crops[:1], identities(networks, donor)) for donor in (crops[:1], crops[1:]))
        same = draw(networks, crops[:1], 3 * identities(networks, crops[1:]))
    assert float((first - second).abs().mean()) > 1e-3
    assert torch.allclose(second, same, atol=1e-5)  # its direction alone counts


def test_identities_are_what_differs_from_the_average_face() -> None:
    networks = start().networks
    crops = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        said = networks["recogniser"](crops)
        networks["centre"].middle.copy_(said.mean(0))  # type: ignore[operator, union-attr]
        centred = identities(networks, crops)
    assert torch.allclose(centred, F.normalize(said - said.mean(0), dim=1), atol=1e-5)


def test_a_training_starts_from_the_average_of_its_photos(drawn_faces: str) -> None:
    training = start()
    dataset = FaceDataset(drawn_faces, None, 64)
    recogniser = training.networks["recogniser"]
    assert training.system.initial(training.config, dataset, {}) is None
    first = training.system.initial(training.config, dataset, {"recognition": recogniser})
    assert first is not None
    crops = torch.cat([dataset.batch([index])["image"] for index in range(len(dataset))])  # type: ignore[arg-type]
    said = recogniser(crops.float() / 127.5 - 1).mean(0)
    assert torch.allclose(first["centre"].middle, said, atol=1e-3)  # type: ignore[arg-type]


def test_of_a_pair_the_second_gets_the_first_ones_identity(drawn_faces: str) -> None:
    training = start("cross_from=0")
    batch = batch_of(training, drawn_faces)
    state = training.phase_state()
    _, given_to = FaceSwap._swapped(batch, training.networks, state)
    known = identities(training.networks, batch["image"])
    assert torch.allclose(given_to[1::2], known[::2], atol=1e-5)
    assert torch.allclose(given_to[::2], known[::2], atol=1e-5)
    alone = start("cross=false")
    _, own = FaceSwap._swapped(batch, alone.networks, alone.phase_state())
    assert torch.allclose(own, known, atol=1e-4)


def test_the_pair_discriminator_sees_both_pictures() -> None:
    torch.manual_seed(0)
    judge = PairDiscriminator(ProjectedDiscriminatorConfig(width=8, first_stage=0), [4, 6])
    first, second, other = ([torch.randn(2, 4, 16, 16), torch.randn(2, 6, 8, 8)] for _ in range(3))
    with torch.no_grad():
        assert not torch.allclose(judge(first, second), judge(other, second))
        assert not torch.allclose(judge(first, second), judge(first, other))
        alone = judge(None, second)
        assert alone.shape == (2, 2)
        assert torch.equal(alone, judge([torch.zeros_like(maps) for maps in second], second))


def test_the_identity_loss_moves_the_decoder_towards_the_donor(drawn_faces: str) -> None:
    """Trained by nothing else, faces with another's identity come nearer to the donor than they were."""
    weights = ("pixel", "detail", "perceptual", "adversarial", "apart", "light")
    training = start(
        *(f"losses.{name}=0" for name in weights), "losses.identity=10", "swapper_rate=0.003", "cross_from=0"
    )
    nn.init.constant_(training.networks["face_mask"].head.bias, 20.0)  # type: ignore[union-attr, arg-type]
    batch = batch_of(training, drawn_faces)
    nearness = []
    for _ in range(12):
        state = training.phase_state()
        loss, terms = FaceSwap()._swapper_loss(batch, training.networks, state)
        training.optimizers["swapper"].zero_grad()
        loss.backward()
        training.optimizers["swapper"].step()
        nearness.append(float(terms["identity"].detach()))
    assert nearness[-1] < nearness[0] - 0.02


def test_uneven_batches_and_missing_networks_are_refused() -> None:
    system = get_system("face_swap")
    for setting, message in (
        ("global_batch=3", "even"),
        ("feature_network=", "feature_network is empty"),
        ("size=96", "divisible by 64"),
        ("swapper.identity=64", "recogniser.embedding=32"),
    ):
        with pytest.raises(RayfaceError, match=message):
            resolve_config(system, "tiny", [setting])


def test_a_recogniser_of_another_build_is_refused() -> None:
    system = get_system("face_swap")
    config = resolve_config(system, "tiny", ["recognition=pretrained:dlib"])
    frozen = {name: load_pretrained(reference) for name, reference in system.frozen_models(config).items()}
    with pytest.raises(RayfaceError, match="give the same settings"):
        Training.start(system, config, solo(), frozen)


@pytest.fixture
def with_dlib(tmp_path: Path) -> Path:
    """A store with a model whose recogniser is dlib's."""
    system = get_system("face_swap")
    settings = ["recognition=pretrained:dlib", "swapper.identity=128", "recogniser.embedding=128"]
    config = replace(resolve_config(system, "tiny", settings), recogniser=RecogniserConfig())
    networks = {**system.build(config), "recogniser": load_pretrained("pretrained:dlib")}
    ModelStore(tmp_path).save("face_swap", "face_swap", config, networks)
    return tmp_path


def test_the_recogniser_is_not_stored_twice(with_dlib: Path) -> None:
    info = ModelStore(with_dlib).info("face_swap")
    assert set(info["networks"]) == {"texture", "decoder", "face_mask", "centre"}
    assert info["shared"]["recogniser"]["model"].startswith("pretrained:dlib@")
    loaded = ModelStore(with_dlib).load("face_swap")
    dlib = load_pretrained("pretrained:dlib").state_dict()
    assert all(dlib[name].equal(value) for name, value in loaded.networks["recogniser"].state_dict().items())


def test_what_another_store_holds_is_stored_here_too(tmp_path: Path) -> None:
    """A reference to a model's folder, or one of its own versions, says nothing in another store."""
    system = get_system("face_swap")
    recogniser = get_system("recognition")
    held = recogniser.config("tiny")
    ours = system.config("tiny")
    elsewhere = ModelStore(tmp_path / "elsewhere")
    networks = recogniser.build(held)
    elsewhere.save("recognition", "recognition", held, {"recogniser": networks["recogniser"]})
    for reference in (elsewhere.folder("recognition"), "recognition@1"):
        config = replace(ours, recognition=reference)
        store = ModelStore(tmp_path / "here")
        ref = store.save(
            "face_swap", "face_swap", config, {**system.build(config), "recogniser": networks["recogniser"]}
        )
        assert "shared" not in store.info(ref)
        loaded = store.load(ref).networks["recogniser"].state_dict()
        assert all(loaded[name].equal(value) for name, value in networks["recogniser"].state_dict().items())


def test_a_model_in_a_folder_finds_its_recogniser_beside_it(tmp_path: Path) -> None:
    system, recogniser = get_system("face_swap"), get_system("recognition")
    held = recogniser.config("tiny")
    store = ModelStore(tmp_path / "there")
    network = recogniser.build(held)["recogniser"]
    store.save("recognition", "recognition", held, {"recogniser": network})
    config = replace(system.config("tiny"), recognition="recognition@1")
    ref = store.save("face_swap", "face_swap", config, {**system.build(config), "recogniser": network})
    assert store.info(ref)["shared"]["recogniser"]["model"] == "recognition@1"
    loaded = ModelStore(tmp_path / "other").load(store.folder(ref))
    assert loaded.networks["recogniser"].state_dict().keys() == network.state_dict().keys()


def test_a_recogniser_that_was_changed_is_stored(tmp_path: Path) -> None:
    system = get_system("face_swap")
    settings = ["recognition=pretrained:dlib", "swapper.identity=128", "recogniser.embedding=128"]
    config = replace(resolve_config(system, "tiny", settings), recogniser=RecogniserConfig())
    store = ModelStore(tmp_path)
    store.save("face_swap", "face_swap", config, system.build(config))  # untrained, so another one
    assert "recogniser" in store.info("face_swap")["networks"]
    assert "shared" not in store.info("face_swap")


def test_a_shared_network_that_is_another_one_now_is_refused(with_dlib: Path) -> None:
    config = with_dlib / "face_swap" / "1" / "config.json"
    digest = ModelStore(with_dlib).info("face_swap")["shared"]["recogniser"]["sha256"]
    config.write_text(config.read_text().replace(f'"sha256": "{digest}"', f'"sha256": "{"0" * 64}"'))
    with pytest.raises(RayfaceError, match="its recogniser is that of pretrained:dlib"):
        ModelStore(with_dlib).load("face_swap")


def test_the_step_gives_each_crop_its_own_donor(tmp_path: Path) -> None:
    loaded = save_tiny_models(tmp_path, ("face_swap",)).load("face_swap")
    step = get_system("face_swap").make_step(loaded)
    torch.manual_seed(1)
    crops, donors = (torch.randint(0, 255, (2, 3, size, size), dtype=torch.uint8) for size in (64, 256))
    assert not step.keeps_identity
    together = step(crops, {"donor": list(donors.numpy())})
    alone = torch.cat([step(crops[n : n + 1], {"donor": [donors[n].numpy()]}) for n in range(2)])
    other = step(crops, {"donor": list(donors.flip(0).numpy())})
    assert (together.int() - alone.int()).abs().max() <= 2  # batches round otherwise
    assert not torch.equal(together, other)
    assert torch.equal(crops[:, :, :16], together[:, :, :16])
    nobody = swapped_crops(step.networks, crops, None, CPU)
    assert nobody.shape == crops.shape


def test_composing_is_exact_where_all_or_nothing_is_drawn() -> None:
    crops, drawn = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 44, 44)
    where = in_window(torch.ones(1, 1, 44, 44), 64)
    made = composed(crops, drawn, where)
    assert torch.allclose(window(made, 44), drawn)
    assert torch.equal(composed(crops, drawn, torch.zeros(1, 1, 64, 64)), crops)


class SeesColour(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        return crops.mean((2, 3)) + 0.01


class SeesNobody(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        return crops.new_ones(len(crops), 4)


def test_a_second_recogniser_must_see_the_donor_too(drawn_faces: str) -> None:
    training = start("cross_from=0", "strangers=-1")
    batch, alone = batch_of(training, drawn_faces), training.phase_state()

    def terms(second: nn.Module) -> dict[str, Tensor]:
        state = replace(alone, frozen={**alone.frozen, "second_recognition": second})
        return FaceSwap()._swapper_loss(batch, training.networks, state)[1]

    _, first = FaceSwap()._swapper_loss(batch, training.networks, alone)
    colour, nobody = terms(SeesColour()), terms(SeesNobody())
    for name in ("second_identity", "second_apart"):  # untrained, a face is still its texture's colour, not the donor's
        assert float(colour[name]) > 1e-4
        assert float(nobody[name]) == pytest.approx(0, abs=1e-5)  # to whom all are one person
    assert colour.keys() - first.keys() == {"second_identity", "second_apart"}
    assert all(torch.equal(colour[name], value) for name, value in first.items())


def test_an_identity_led_away_is_less_the_photos_own() -> None:
    torch.manual_seed(0)
    crops, donors = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    system = get_system("face_swap")
    networks = system.build(system.config("tiny"))
    own, wanted = identities(networks, crops), identities(networks, donors)
    assert torch.equal(given_identity(networks, crops, donors, 0), wanted)
    given = given_identity(networks, crops, donors, 0.3)
    assert torch.allclose(given.norm(dim=1), torch.ones(3))
    assert ((given * own).sum(1) < (wanted * own).sum(1)).all()
    assert torch.allclose(given_identity(networks, crops, crops, 0.3), own, atol=1e-5)  # made again, it is who it was
    with pytest.raises(RayfaceError, match="away=1"):
        resolve_config(system, "tiny", ["likeness.away=1"])


def test_a_recogniser_that_is_no_recogniser_of_ours_is_refused(drawn_faces: str) -> None:
    system = get_system("face_swap")
    config = system.config("tiny")
    dataset = FaceDataset(drawn_faces, None, config.size, system.labels)
    with pytest.raises(RayfaceError, match="as second_recognition"):
        system.initial(config, dataset, {"recognition": SeesNobody()})
