"""Recognition: its losses by hand, narrowing, what it asks of its data, and that the margin loss learns people."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from rayface.data.augmentation import occlude
from rayface.data.dataset import FaceDataset
from rayface.data.synth import synthesise
from rayface.errors import RayfaceError
from rayface.labelling.groups import GroupOptions
from rayface.networks.margin import ArcMargin
from rayface.networks.recogniser import Recogniser, RecogniserConfig, narrowed
from rayface.pretrained import load_pretrained
from rayface.randomness import generator
from rayface.store import ModelStore
from rayface.systems.base import get_system, resolve_config, sample_generators
from rayface.systems.recognition import Recognition, chosen_cosines, different_people, embed
from rayface.training.loop import StepBatches, Training, run
from rayface.training.request import TrainRequest, resolve
from rayface.training.workers import Workers, solo
from tests.training.patterns import write_patterns

CPU = torch.device("cpu")
TAUGHT = ("losses.margin=0", "losses.distillation=1")


def tiny(*overrides: str) -> tuple[Recognition, Any]:
    system = get_system("recognition")
    assert isinstance(system, Recognition)
    return system, resolve_config(system, "tiny", ["precision=fp32", *overrides])


def faces(folder: str, split: str | None = "train") -> FaceDataset:
    return FaceDataset(folder, split, 64)


def test_arcface_by_hand() -> None:
    head = ArcMargin(3, 2)
    angles = torch.tensor([0.0, math.pi / 2, math.pi])
    head.weight.data = 7 * torch.stack([angles.cos(), angles.sin()], 1)  # lengths do not count
    face = 3 * torch.tensor([[math.cos(0.3), math.sin(0.3)]])
    loss, right = head(face, torch.tensor([0]), 0.5, 10.0)
    logits = 10 * torch.tensor([math.cos(0.3 + 0.5), math.cos(math.pi / 2 - 0.3), math.cos(math.pi - 0.3)])
    assert loss.item() == pytest.approx(F.cross_entropy(logits, torch.tensor(0)).item(), rel=1e-5)
    assert right.tolist() == [1]
    _, wrong = head(face, torch.tensor([1]), 0.5, 10.0)
    assert wrong.tolist() == [0]


def test_the_margin_makes_every_angle_harder_and_never_rewards_a_larger_one() -> None:
    head = ArcMargin(2, 2)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    angles = torch.linspace(0.01, math.pi - 0.01, 200)
    around = torch.stack([angles.cos(), angles.sin()], 1)  # turns away from the first, past the opposite of the second
    target = torch.zeros(200, dtype=torch.int64)
    plain, harder = (head(around, target, margin, 16.0)[0] for margin in (0.0, 0.5))
    assert (harder > plain).all()
    before_the_second = angles < math.pi / 2  # whose direction the rest turns away from too
    assert (harder[before_the_second].diff() > -1e-3).all()


def test_unknown_people_cost_nothing_but_keep_the_graph() -> None:
    torch.manual_seed(0)
    head, faces_seen = ArcMargin(4, 8), torch.randn(3, 8, requires_grad=True)
    loss, right = head(faces_seen, torch.tensor([-1, 2, -1]), 0.2, 16.0)
    assert loss[[0, 2]].tolist() == [0, 0] == right[[0, 2]].tolist()
    assert loss[1] > 0
    loss.mean().backward()
    assert head.weight.grad is not None
    assert faces_seen.grad is not None
    assert faces_seen.grad[0].abs().sum() == 0 < faces_seen.grad[1].abs().sum()


def test_people_are_numbered_by_name_within_the_split(drawn_faces: str) -> None:
    dataset = faces(drawn_faces)
    assert dataset.people == sorted(set(dataset.identities))  # type: ignore[type-var]
    indices = [5, 0, 5, 17]
    found = dataset.batch(indices, ("identity_index", "identity"))
    assert found["identity_index"].dtype == torch.int64  # type: ignore[union-attr]
    assert [dataset.people[i] for i in found["identity_index"]] == found["identity"]
    assert len(faces(drawn_faces, None).people) > len(dataset.people)


def test_the_number_of_people_is_counted_once_and_kept(drawn_faces: str, tmp_path: Path) -> None:
    plan = resolve(TrainRequest(("recognition",), drawn_faces, "tiny", storage=str(tmp_path)))
    config = plan.config("recognition")
    assert config.identities == len(faces(drawn_faces).people) == 13
    networks = Recognition().build(config)
    assert networks["margin"].weight.shape == (13, 32)
    ref = ModelStore(tmp_path).save("recognition", "recognition", config, {"recogniser": networks["recogniser"]})
    assert list(ModelStore(tmp_path).load(ref).networks) == ["recogniser"]


def test_a_margin_loss_without_people_is_refused(tmp_path: Path) -> None:
    write_patterns(tmp_path)
    shard = next(tmp_path.glob("*.parquet"))
    table = pq.read_table(shard)
    unknown = table.set_column(table.schema.get_field_index("identity"), "identity", pa.nulls(len(table), pa.string()))
    pq.write_table(unknown, shard, row_group_size=16)
    with pytest.raises(RayfaceError, match=r"needs faces of at least two known people.*--format identity"):
        resolve(TrainRequest(("recognition",), str(tmp_path), "tiny", storage=str(tmp_path)))
    overrides = (*TAUGHT, "teacher=pretrained:dlib", "recogniser.embedding=128")
    plan = resolve(TrainRequest(("recognition",), str(tmp_path), "tiny", storage=str(tmp_path), overrides=overrides))
    assert plan.config("recognition").identities == 0
    assert faces(str(tmp_path)).batch([0], ("identity_index",))["identity_index"].tolist() == [-1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("losses.margin=0",), "one must be above 0"),
        (("losses.distillation=1",), "needs a teacher"),
        (("margin=2",), "margin=2.0 must be in"),
        (("scale=0",), "scale=0.0 above 0"),
    ],
)
def test_settings_that_cannot_train_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        tiny(*overrides)


def test_a_teacher_of_another_size_is_refused() -> None:
    system, config = tiny(*TAUGHT, "teacher=pretrained:dlib")
    with pytest.raises(RayfaceError, match=r"gives 128 numbers, the network to train 32.*recogniser.embedding=128"):
        Training.start(system, config, solo(), {"teacher": load_pretrained("pretrained:dlib")})


def test_distillation_nears_the_teacher(drawn_faces: str) -> None:
    """And the teacher, not the student, sees the clean crop."""
    system, config = tiny(
        *TAUGHT, "teacher=pretrained:dlib", "recogniser.embedding=128", "steps=10", "learning_rate=3e-3"
    )
    teacher = load_pretrained("pretrained:dlib")
    training = Training.start(system, config, solo(), {"teacher": teacher})
    assert list(training.networks) == ["recogniser"]
    batches = StepBatches(system, config, faces(drawn_faces), solo())
    batch = batches[0]
    assert not torch.equal(batch["clean"], batch["seen"])
    student = training.networks["recogniser"]
    cosine = F.cosine_similarity(student(batch["seen"]), teacher(batch["clean"]))
    losses = [training.run_step(batches[step])["recogniser/distillation"].item() for step in range(10)]
    assert losses[0] == pytest.approx(1 - cosine.mean().item(), abs=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_both_losses_add_up_by_their_weights(drawn_faces: str) -> None:
    settings = ("losses.margin=0.5", "losses.distillation=3", "teacher=pretrained:dlib", "recogniser.embedding=128")
    system, config = tiny(*settings)
    dataset = faces(drawn_faces)
    training = Training.start(
        system, system.fitted(config, dataset), solo(), {"teacher": load_pretrained("pretrained:dlib")}
    )
    metrics = training.run_step(StepBatches(system, config, dataset, solo())[0])
    whole = 0.5 * metrics["recogniser/margin"] + 3 * metrics["recogniser/distillation"]
    assert metrics["loss/recogniser"].item() == pytest.approx(whole.item(), rel=1e-5)


def test_the_margin_grows_over_its_warm_up(drawn_faces: str) -> None:
    """At the first of 100 steps a hundredth of it counts."""
    dataset = faces(drawn_faces)
    losses = []
    for overrides in (("margin_warmup=100", "margin=1.0"), ("margin=0.01",)):
        system, config = tiny(*overrides)
        training = Training.start(system, system.fitted(config, dataset), solo())
        losses.append(training.run_step(StepBatches(system, config, dataset, solo())[0])["loss/recogniser"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_two_ranks_prepare_what_one_does(drawn_faces: str) -> None:
    system, config = tiny()
    dataset = faces(drawn_faces)
    whole = StepBatches(system, config, dataset, solo())[3]
    halves = [StepBatches(system, config, dataset, Workers(rank, 2, CPU, "solo"))[3] for rank in (0, 1)]
    for key in whole:
        assert torch.equal(whole[key], torch.cat([half[key] for half in halves]))


def test_narrowing_keeps_the_channels_that_matter() -> None:
    """Where the other channels give a constant, nothing at all is lost away from the borders' padding."""
    torch.manual_seed(0)
    wide_config = RecogniserConfig(96, (6, 8), (6, 8), (1, 1), embedding=5)
    wide = Recogniser(wide_config)
    crops = torch.rand(4, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        for block in wide.blocks:
            block.conv1.weight[1::2] = 0  # type: ignore[union-attr, index]
            block.conv2.weight[:, 1::2] *= 0.01  # type: ignore[union-attr, operator]
            block.conv1.bias[1::2] = 0.5  # type: ignore[union-attr, index]
    narrow = narrowed(wide, dataclasses.replace(wide_config, hidden=(3, 4)), crops)
    for ours, theirs in zip(narrow.blocks, wide.blocks, strict=True):
        assert torch.equal(ours.conv1.weight, theirs.conv1.weight[0::2])  # type: ignore[union-attr, index]
        # the lost channels are 0.5 everywhere: what they gave is in the bias
        constant = 0.5 * theirs.conv2.weight[:, 1::2].sum((1, 2, 3))  # type: ignore[union-attr, index]
        assert constant.abs().max() > 1e-4
        assert torch.allclose(ours.conv2.bias, theirs.conv2.bias + constant, atol=1e-7)  # type: ignore[union-attr, operator, arg-type]
    assert F.cosine_similarity(narrow(crops), wide(crops)).min() > 0.9999
    whole = narrowed(wide, wide_config, crops)
    assert torch.allclose(whole(crops), wide(crops), atol=1e-6)
    with pytest.raises(RayfaceError, match="with fewer hidden channels"):
        narrowed(wide, dataclasses.replace(wide_config, hidden=(3, 9)), crops)
    with pytest.raises(RayfaceError, match="with fewer hidden channels"):
        narrowed(wide, dataclasses.replace(wide_config, widths=(6, 6)), crops)


def test_the_small_preset_starts_near_dlib_and_is_small(drawn_faces: str) -> None:
    system = Recognition()
    config = resolve_config(system, "small", [])
    start = system.initial(config, FaceDataset(drawn_faces, "train", 256), {})
    assert start is not None
    assert sum(p.numel() for p in start["recogniser"].parameters()) <= 2_000_000
    crops = FaceDataset(drawn_faces, "test", 256).batch([0, 1, 2, 3])["image"]
    near = (embed(start["recogniser"], crops, CPU) * embed(load_pretrained("pretrained:dlib"), crops, CPU)).sum(1)  # type: ignore[arg-type]
    far = (
        embed(Recogniser(config.recogniser), crops, CPU) * embed(load_pretrained("pretrained:dlib"), crops, CPU)
    ).sum(1)  # type: ignore[arg-type]
    assert near.min() > 0.6 > 0.3 > far.abs().max()
    assert system.initial(tiny()[1], faces(drawn_faces), {}) is None


def test_occlusion_hides_a_rectangle_of_some_pictures() -> None:
    images = torch.zeros(40, 3, 50, 50)
    hidden = occlude(images, 0.5, sample_generators(0, 0, range(40), "test"))
    areas = (hidden != 0).any(1).float().mean((1, 2))
    assert 10 < (areas > 0).sum() < 30
    assert areas[areas > 0].min() > 0.015
    assert areas.max() < 0.27
    assert images.abs().sum() == 0
    alone = occlude(images[7:8], 0.5, [generator(0, 0, 7, "test")])
    assert torch.equal(alone[0], hidden[7])


def test_evaluation_names_baselines(drawn_faces: str) -> None:
    system, config = tiny()
    dataset = faces(drawn_faces)
    recogniser = system.build(system.fitted(config, dataset))["recogniser"]
    report = system.evaluate({"recogniser": recogniser}, config, dataset, CPU)
    assert {"auc", "tar_at_far_0.01", "pairs", "pixels", "dlib", "subgroups"} <= report.keys()
    assert report["pairs"]["same"] == 13 * 6
    assert report["dlib"]["auc_difference"]["value"] == pytest.approx(
        report["auc"]["value"] - report["dlib"]["auc"]["value"]
    )


def test_cosines_are_chosen_on_pairs_of_different_people() -> None:
    """By the share of pairs that is wrong; the higher of the splits; none of a split that is too small to tell."""
    even = np.arange(30_000) / 30_000
    wrong = {name: even[even > cosine].size for name, cosine in chosen_cosines([even]).items()}
    assert wrong["same_person"] <= 2
    assert wrong["perhaps_same_person"] == pytest.approx(60, abs=2)
    assert chosen_cosines([even, even / 2]) == chosen_cosines([even])
    assert chosen_cosines([even / 2, even]) == chosen_cosines([even])
    assert chosen_cosines([even / 2, even[-100:]]) == chosen_cosines([even / 2])
    assert chosen_cosines([even[1:], even[:0]]) == {}


def test_a_trained_recogniser_states_its_cosines(tmp_path: Path, drawn_faces: str) -> None:
    """So that `rayface data label` can group with it; too few people, or unknown ones, and it states none."""
    write_patterns(tmp_path, 300)
    system, config = tiny()
    dataset = faces(str(tmp_path))
    recogniser = system.build(system.fitted(config, dataset))["recogniser"].eval()
    said = system.finish({"recogniser": recogniser}, config, dataset, CPU)["cosines"]
    cosines = different_people(recogniser, dataset, 8, CPU)
    assert len(cosines) > 30_000
    assert (cosines > said["same_person"]).sum() <= 3
    assert (cosines > said["perhaps_same_person"]).mean() == pytest.approx(1 / 500, abs=1 / 1000)
    grouping = GroupOptions().stated_by({"model": "recognition@1", "cosines": said})
    assert grouping.perhaps_same_person <= grouping.same_person <= 1
    few = faces(drawn_faces)
    assert system.finish({"recogniser": recogniser}, config, few, CPU) == {}
    few.identity_index[:] = -1
    assert len(different_people(recogniser, few, 8, CPU)) == 0


def test_sample_grid(drawn_faces: str) -> None:
    system, config = tiny()
    dataset = faces(drawn_faces)
    batch = StepBatches(system, config, dataset, solo())[0]
    recogniser = system.build(system.fitted(config, dataset))["recogniser"]
    picture = system.sample_grid({"recogniser": recogniser}, batch, config)
    assert picture.shape == (3, 4 + 8 * 68, 4 + 6 * 68)
    tiles = picture[0, 4 + 2 * 68 + 30 :: 68, 34::68].flatten()
    cosines = (F.normalize(recogniser(batch["clean"][:6])) @ F.normalize(recogniser(batch["seen"][:6])).T).flatten()
    assert (tiles.min(), tiles.max()) == (0, 255)
    assert (tiles.argmin(), tiles.argmax()) == (cosines.argmin(), cosines.argmax())


@pytest.mark.slow
def test_the_margin_loss_learns_people_it_has_never_seen(tmp_path: Path) -> None:
    """320 drawn people: others are told apart better than by an untrained network, and far better than by pixels.

    An untrained network is no weak baseline here: it sees skin and hair colour, which drawn people differ in.
    """
    from rayface.evaluation.verification import pixels, verification_report

    synthesise(str(tmp_path), count=1600, size=64, seed=11, workers=1)
    system, config = tiny(
        "steps=500",
        "global_batch=64",
        "learning_rate=2e-3",
        "margin_warmup=300",
        "precision=bf16",
        "recogniser.widths=32,48,64",
        "recogniser.hidden=32,48,64",
        "recogniser.embedding=64",
        "augmentation.degrade=0",
        "augmentation.occlude=0",
    )
    dataset, unseen = faces(str(tmp_path)), faces(str(tmp_path), "test")
    assert not set(dataset.people) & set(unseen.people)
    config = system.fitted(config, dataset)
    training = Training.start(system, config, solo())
    before = Training.start(system, config, solo()).networks["recogniser"]
    run(training, dataset, lambda *_: None)
    after = training.average["recogniser"]
    untrained = lambda crops: embed(before, crops, CPU)  # noqa: E731
    report = verification_report(
        lambda crops: embed(after, crops, CPU), unseen, 32, others={"untrained": untrained, "pixels": pixels}
    )
    print({name: report[name]["auc"] for name in ("untrained", "pixels")} | {"trained": report["auc"]})
    assert report["untrained"]["auc_difference"]["low"] > 0.02
    assert report["pixels"]["auc_difference"]["low"] > 0.1
    assert np.isfinite(report["ten_folds"]["standard_error"])
