"""Attribute editing: what its phases learn from, that random vectors meet photos' latents, and the step."""

import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.evaluation.judges import Panel, using
from rayface.networks.attribute_networks import Steering
from rayface.pretrained import load_pretrained
from rayface.records import ATTRIBUTE_ID
from rayface.store import LoadedModel
from rayface.systems.attribute_editing import AttributeEditing
from rayface.systems.base import PhaseState, get_system, resolve_config
from rayface.systems.inversion import AttributeEditingStep
from rayface.systems.inversion_report import drawn_faces
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import solo


def start(*settings: str) -> Training:
    system = get_system("attribute_editing")
    config = resolve_config(system, "tiny", ["precision=fp32", *settings])
    return Training.start(system, config, solo(), {"feature_network": load_pretrained(config.feature_network)})


def batch_of(training: Training, folder: str, step: int = 0) -> dict[str, Tensor]:
    dataset = FaceDataset(folder, None, training.config.size, training.system.labels)
    return training.to_device(StepBatches(training.system, training.config, dataset, solo())[step])


def state_at(training: Training, step: int) -> PhaseState:
    return PhaseState(training.config, step, training.frozen, {})


def test_the_discriminator_waits_until_photos_can_be_drawn(drawn_faces: str) -> None:
    training = start("adversarial_from=2")
    due = {
        step: [phase.name for phase in training.system.phases(training.config) if phase.due(step)] for step in range(4)
    }
    assert "discriminator" not in due[1]
    assert due[2][0] == "discriminator"
    batch = batch_of(training, drawn_faces)
    terms = [
        training.system._generator_loss(batch, training.networks, state_at(training, step))[1]  # type: ignore[attr-defined]
        for step in (1, 2)
    ]
    assert "adversarial" not in terms[0]
    assert {"adversarial", "latents", "pixel", "divergence"} <= set(terms[1])


def test_faces_are_small_at_first(drawn_faces: str) -> None:
    training = start("full_size_from=3")
    side = training.config.generator.side
    drawn = [
        training.networks["generator"](torch.zeros(1, 16), AttributeEditing._side(state_at(training, step)))
        for step in (2, 3)
    ]
    assert [face.shape[-1] for face in drawn] == [side // 2, side]


def test_blended_latents_lie_between_those_of_two_photos() -> None:
    torch.manual_seed(0)
    latents = torch.randn(8, 400)
    blended = AttributeEditing._blended(latents, {"blend": torch.tensor([9.0, 0, 9, 1, 9, 0.5, 9, 0.2])})
    assert torch.equal(blended[0], latents[1])
    assert torch.equal(blended[1], latents[2])
    spread = blended[2:].std(1)  # as far from the middle as either
    assert ((spread > 0.85) & (spread < 1.15)).all()


def test_steering_learns_where_faces_with_an_attribute_lie() -> None:
    torch.manual_seed(0)
    steering, directions = Steering(16, 2), torch.randn(2, 16)
    has = torch.randint(-1, 2, (400, 2)).float()
    latents = 0.5 + has @ directions + torch.randn(400, 16)
    optimizer = torch.optim.Adam(steering.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (steering.expected(has) - latents).square().mean().backward()
        optimizer.step()
    assert torch.allclose(steering.directions, directions, atol=0.3)
    step = steering(latents[:1], torch.tensor([[-1.0, 0.0]])) - latents[:1]
    assert torch.cosine_similarity(step, -directions[:1]) > 0.97


@pytest.mark.parametrize("step", [1, 5])
def test_everything_that_learns_has_gradients(drawn_faces: str, step: int) -> None:
    """Or data-parallel workers would wait for them: before faces are steered, too."""
    training = start("adversarial_from=2")
    loss, _ = training.system._generator_loss(  # type: ignore[attr-defined]
        batch_of(training, drawn_faces), training.networks, state_at(training, step)
    )
    loss.backward()
    for name in training.system.optimizers(training.config)["generator"].networks:
        assert all(parameter.grad is not None for parameter in training.networks[name].parameters()), name


def test_only_labelled_faces_teach_a_classifier(drawn_faces: str) -> None:
    training = start()
    batch = batch_of(training, drawn_faces)
    for labels, learns in ((torch.zeros_like(batch["labels"]), False), (batch["labels"], True)):
        training.networks["classifiers"].zero_grad()
        loss, _ = training.system._classifiers_loss(  # type: ignore[attr-defined]
            batch | {"labels": labels}, training.networks, state_at(training, 0)
        )
        loss.backward()
        gradients = [p.grad.abs().sum() for p in training.networks["classifiers"].parameters() if p.grad is not None]
        assert bool(sum(gradients) > 0) is learns


def test_labels_are_those_of_the_attributes_asked_for(drawn_faces: str) -> None:
    training = start("attributes=[Male,Smiling]")
    dataset = FaceDataset(drawn_faces, None, training.config.size, training.system.labels)
    raw = dataset.batch(training.system.sampler(training.config, dataset)(0), training.system.columns)
    labels = batch_of(training, drawn_faces)["labels"]
    wanted = torch.as_tensor(raw["attributes"])[:, [ATTRIBUTE_ID["Male"], ATTRIBUTE_ID["Smiling"]]]
    assert torch.equal(labels, wanted.float())


def test_who_gets_glasses_drawn_wears_them_for_the_labels_too(drawn_faces: str) -> None:
    without, some, all_faces = (
        batch_of(start(f"drawn_glasses={share}", "global_batch=8"), drawn_faces) for share in (0, 0.5, 1)
    )
    place = get_system("attribute_editing").config("tiny").attributes.index("Eyeglasses")
    assert (without["labels"][:, place] < 0).any()
    assert (all_faces["labels"][:, place] > 0).all()
    gained = (some["labels"] - without["labels"])[:, place] > 0
    bare = without["labels"][:, place] < 0
    assert 0 < gained.sum() < bare.sum()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attributes=[Smiling,Horns]", r"attributes=\['Smiling', 'Horns'\]: choose among 5_o_Clock_Shadow"),
        ("attributes=[]", r"attributes=\[\]: choose among"),
        ("feature_network=", "feature_network=: the first guess and the attribute networks are built for"),
        ("attributes=[Male,Male]", "give each once"),
        ("discriminator.first_stage=0", "discriminator.first_stage=0 must be 1 here"),
        ("places.classes=19", "places.classes=19 must be 3, of face, hair, neck"),
        ("inversion.steps=-1", "inversion.steps=-1 must not be below 0"),
        ("inversion.start=there", "inversion.start=there: give one of guess, middle, random"),
        ("generator.widths=[16]", r"generator.widths=\[16\]: give at least two"),
        ("places.widths=[4,4,4,4,4,4,4]", "places.widths has 7 levels, which faces of 32 px"),
        ("global_batch=3", "global_batch=3 must be even"),
        ("rare=2", "rare=2.0 must be between 0 and 1"),
        ("drawn_glasses=-0.1", "drawn_glasses=-0.1 must be between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: str, message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        resolve_config(get_system("attribute_editing"), "tiny", [setting])


def test_random_vectors_become_latents_like_the_photos() -> None:
    generator = start().networks["generator"]
    torch.manual_seed(0)
    wanted = torch.randn(20_000, 16) @ torch.randn(16, 16) + 3
    generator.fit_latents(wanted[::2], torch.full((10_000, 16), 3.0))  # type: ignore[operator]
    latents = generator.latents_of(torch.randn(20_000, 16))  # type: ignore[operator]
    assert torch.allclose(latents.mean(0), wanted.mean(0), atol=0.2)
    assert torch.allclose(torch.cov(latents.T), torch.cov(wanted.T) + torch.eye(16) * torch.e**3, atol=2.0)


def test_finishing_leaves_what_photos_are_drawn_from(drawn_faces: str) -> None:
    training = start()
    networks = {name: training.networks[name].eval() for name in training.system.released}
    latents = torch.randn(2, 16)
    with torch.no_grad():
        before = networks["generator"](latents)
        training.system.finish(
            networks, training.config, FaceDataset(drawn_faces, None, training.config.size), torch.device("cpu")
        )
        assert torch.equal(networks["generator"](latents), before)
    assert not torch.equal(networks["generator"].spread, torch.eye(16))  # type: ignore[arg-type]


def test_random_faces_are_always_the_same_row() -> None:
    generator = start().networks["generator"].eval()
    row = drawn_faces(generator, 0, 6, torch.device("cpu"))
    assert torch.equal(row[4:], drawn_faces(generator, 4, 2, torch.device("cpu")))
    assert not torch.equal(row[0], row[1])


def test_half_a_face_still_gives_all_parameters_gradients() -> None:
    """Or data-parallel generators would wait for them."""
    generator = start().networks["generator"]
    generator(torch.zeros(1, 16), generator.config.side // 2).sum().backward()  # type: ignore[operator, union-attr]
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_evaluation_tells_of_generator_inversion_and_edits(drawn_faces: str) -> None:
    training = start("attributes=[Smiling]")
    networks = {name: training.networks[name].eval().requires_grad_(False) for name in training.system.released}
    dataset = FaceDataset(drawn_faces, "test", training.config.size)
    with using(Panel(refused={"perceptual": "not asked here"})):
        report = training.system.evaluate(networks, training.config, dataset, torch.device("cpu"), 2)
    assert set(report["inversion"]) == {"plain", "z", "extended", "tuned"}
    psnr = {way: found["psnr"]["value"] for way, found in report["inversion"].items()}
    assert psnr["tuned"] > psnr["extended"]
    assert report["first_guess"]["steps"] == training.config.inversion.steps
    assert report["edits"]["all"]["edits"] == 2
    assert "frechet_identity" in report["generation"]["model"]


def step() -> AttributeEditingStep:
    training = start()
    networks = {name: training.networks[name].eval().requires_grad_(False) for name in training.system.released}
    torch.nn.init.constant_(networks["places"].head.bias, 20.0)  # type: ignore[union-attr, arg-type]
    return AttributeEditingStep(
        LoadedModel("attribute_editing", 1, "attribute_editing", training.config, networks, {}), torch.device("cpu")
    )


def test_the_step_edits_the_crops_that_ask_for_it() -> None:
    edits = step()
    crops = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():  # as a replica calls it
        changed = edits(crops, {"add": [("Smiling",), ()], "remove": [(), ()]})
    assert not torch.equal(changed[0], crops[0])
    assert torch.equal(changed[1], crops[1])
    assert torch.equal(changed[:1], edits(crops[:1], {"add": [("Smiling",)], "remove": [()]}))


def test_the_step_names_what_it_can_edit() -> None:
    crops = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(RayfaceError, match=r"remove is 'Bald'; attribute_editing@1 edits: Smiling, Mouth"):
        step()(crops, {"add": [()], "remove": [("Bald",)]})
