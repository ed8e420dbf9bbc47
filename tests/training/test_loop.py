"""The training loop in one process: pinned numbers, exact resume, networks that change shape."""

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rayface.compression.cost import multiplications
from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.networks.widths import read_widths
from rayface.pretrained import load_pretrained
from rayface.store import ModelStore
from rayface.systems.base import SYSTEMS, get_system, resolve_config
from rayface.training.local import train_here
from rayface.training.loop import StepBatches, Training, run
from rayface.training.progress import Progress
from rayface.training.request import TrainRequest
from rayface.training.workers import Workers, solo

CURVE_SETTINGS = {
    "facial_hair": ["ratio=[]"],  # no pattern is of its first class
    # Adam's first steps go by the signs of gradients, and R1 has second derivatives: at full rates processors of two
    # makers were 1 % apart after six steps.
    "attribute_editing": ["generator_rate=1e-4", "discriminator_rate=1e-5"],
}
CURVES = Path(__file__).parent / "curves.json"


def dataset_for(system: Any, config: Any, folder: str) -> FaceDataset:
    return FaceDataset(folder, None, config.size, system.labels)


def frozen_of(system: Any, config: Any) -> dict[str, torch.nn.Module]:
    """The pretrained networks that a tiny preset is trained with."""
    return {name: load_pretrained(reference) for name, reference in system.frozen_models(config).items()}


def trained(name: str, folder: str, logs: Path, *overrides: str) -> tuple[Training, list[dict[str, float]]]:
    system = get_system(name)
    config = resolve_config(system, "tiny", ["precision=fp32", *overrides])
    dataset = dataset_for(system, config, folder)
    training = Training.start(system, system.fitted(config, dataset), solo(), frozen_of(system, config))
    progress = Progress(str(logs), name, 0)
    run(training, dataset, lambda *_: None, progress)
    lines = (logs / name / "metrics.jsonl").read_text().splitlines()
    return training, [json.loads(line) for line in lines]


def same(ours: Any, theirs: Any) -> bool:
    """Equality of nested states, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def state_of(training: Training, folder: Path, digest: str = "data") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    training.save(folder, digest)
    return torch.load(folder / "state.pt", weights_only=True)


def losses_of(name: str, folder: str, logs: Path) -> list[float]:
    """The losses of 8 steps, phase by phase."""
    _, lines = trained(name, folder, logs, "steps=8", *CURVE_SETTINGS.get(name, ()))
    return [line[key] for line in lines for key in line if key.startswith("loss/")]


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_reproduce_the_stored_curve(name: str, tmp_path: Path) -> None:
    """Numerics are pinned: `python -m tests.training.curves` rewrites them, when a change means to move them."""
    from tests.training.patterns import write_patterns

    write_patterns(tmp_path)
    stored = json.loads(CURVES.read_text())[name]
    assert losses_of(name, str(tmp_path), tmp_path / "logs") == pytest.approx(stored, rel=2e-3)


def test_training_lowers_the_loss(drawn_faces: str, tmp_path: Path) -> None:
    _, lines = trained("parsing", drawn_faces, tmp_path, "steps=40", "learning_rate=4e-3")
    losses = [line["loss/parser"] for line in lines]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_enhancement_starts_as_the_identity_and_learns(drawn_faces: str, tmp_path: Path) -> None:
    only_noise = [f"degradation.{kind}_strength=0" for kind in ("blur", "downsample", "jpeg", "colour")]
    settings = ("steps=60", "losses.adversarial=0", "generator_rate=3e-3", "degradation.noise_strength=2", *only_noise)
    training, _ = trained("enhancement", drawn_faces, tmp_path, *settings)
    fresh = Training.start(training.system, training.config, solo())
    degraded = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(fresh.networks["enhancer"](degraded), degraded)
    dataset = dataset_for(training.system, training.config, drawn_faces)
    batch = StepBatches(training.system, training.config, dataset, solo())[1000]
    enhanced = training.average["enhancer"](batch["degraded"])
    assert (enhanced - batch["clear"]).abs().mean() < 0.9 * (batch["degraded"] - batch["clear"]).abs().mean()


@pytest.mark.parametrize("name", SYSTEMS)
def test_resumed_equals_unbroken_bit_for_bit(name: str, drawn_faces: str, tmp_path: Path) -> None:
    system = get_system(name)
    config = resolve_config(system, "tiny", ["steps=12", "checkpoint_every=5"])
    dataset = dataset_for(system, config, drawn_faces)
    config = system.fitted(config, dataset)
    frozen = frozen_of(system, config)
    unbroken = Training.start(system, config, solo(), frozen)
    checkpoints = {}

    def keep(step: int, metrics: dict[str, float], write: Any) -> None:
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        write(folder)
        checkpoints[step] = folder

    run(unbroken, dataset, keep)
    assert sorted(checkpoints) == [5, 10, 12]
    resumed = Training.resume(system, config, solo(), checkpoints[5], dataset.digest, frozen)
    assert resumed.step == 5
    run(resumed, dataset, lambda *_: None)
    assert same(state_of(unbroken, tmp_path / "a"), state_of(resumed, tmp_path / "b"))


@pytest.mark.parametrize("name", SYSTEMS)
def test_batches_are_the_same_in_a_loader_process(name: str, drawn_faces: str) -> None:
    """What `loader_processes` need: everything that makes a batch can be sent there."""
    system = get_system(name)
    config = resolve_config(system, "tiny", [])
    dataset = dataset_for(system, config, drawn_faces)
    here = StepBatches(system, system.fitted(config, dataset), dataset, solo())
    there = pickle.loads(pickle.dumps(here))
    assert same(here[3], there[3])


def test_batches_do_not_depend_on_the_number_of_ranks(drawn_faces: str) -> None:
    system = get_system("enhancement")
    config = resolve_config(system, "tiny", [])
    dataset = dataset_for(system, config, drawn_faces)
    whole = StepBatches(system, config, dataset, solo())[3]
    halves = [StepBatches(system, config, dataset, Workers(rank, 2, torch.device("cpu"), "solo"))[3] for rank in (0, 1)]
    for key in whole:
        assert torch.equal(whole[key], torch.cat([half[key] for half in halves]))


def test_refuses_other_systems_settings_and_data(drawn_faces: str, tmp_path: Path) -> None:
    system = get_system("parsing")
    config = resolve_config(system, "tiny", [])
    Training.start(system, config, solo()).save(tmp_path, "data")
    other = get_system("enhancement")
    with pytest.raises(RayfaceError, match="'parsing', not 'enhancement'"):
        Training.resume(other, resolve_config(other, "tiny", []), solo(), tmp_path, "data")
    with pytest.raises(RayfaceError, match="global_batch was 8, now 4"):
        Training.resume(system, resolve_config(system, "tiny", ["global_batch=4"]), solo(), tmp_path, "data")
    with pytest.raises(RayfaceError, match="other data"):
        Training.resume(system, config, solo(), tmp_path, "other")
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(RayfaceError, match="cannot be read"):
        Training.resume(system, config, solo(), tmp_path, "data")


def poisoned(steps: tuple[int, ...], *settings: str) -> Training:
    """A training of the parser in which the pictures of some steps are not numbers."""

    class Poisoned(type(get_system("parsing"))):  # type: ignore[misc]
        prepared = 0

        def prepare(self, batch: Any, config: Any, generators: Any) -> Any:
            made = super().prepare(batch, config, generators)
            if self.prepared in steps:
                made["image"][0, 0, 0, 0] = float("nan")
            self.prepared += 1
            return made

    system = Poisoned()
    return Training.start(system, resolve_config(system, "tiny", ["steps=6", *settings]), solo())


def test_gradients_that_are_not_numbers_stop_the_run_and_keep_the_batch(drawn_faces: str, tmp_path: Path) -> None:
    training = poisoned((3,))
    dataset = dataset_for(training.system, training.config, drawn_faces)
    with pytest.raises(RayfaceError, match=r"not numbers at step 3; its batch is kept in (\S+\.pt)") as caught:
        run(training, dataset, lambda *_: None, folder=str(tmp_path))
    assert all(parameter.isfinite().all() for parameter in training.networks["parser"].parameters())
    (file,) = tmp_path.glob("*.pt")
    assert str(file) in str(caught.value)
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 3
    assert kept["batch"]["image"].isnan().any()


def test_a_step_of_such_gradients_may_be_skipped(drawn_faces: str, tmp_path: Path) -> None:
    training = poisoned((1, 3), "on_nan=skip", "checkpoint_every=2")
    seen: list[tuple[int, dict[str, float]]] = []
    dataset = dataset_for(training.system, training.config, drawn_faces)
    run(training, dataset, lambda step, metrics, _: seen.append((step, metrics)), folder=str(tmp_path))
    assert [step for step, _ in seen] == [2, 4, 6]
    assert all(math.isfinite(value) for _, metrics in seen for value in metrics.values())
    assert all(parameter.isfinite().all() for parameter in training.average["parser"].parameters())
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_notice_makes_one_checkpoint_between_the_others(drawn_faces: str) -> None:
    """The preemption itself is in tests/chaos/test_nodes.py; this is where its checkpoint lies."""

    class Leaving(Workers):
        def node_leaves(self) -> bool:
            return True

    system = get_system("parsing")
    config = resolve_config(system, "tiny", ["steps=16", "checkpoint_every=7"])
    training = Training.start(system, config, Leaving(0, 1, torch.device("cpu"), "solo"))
    seen: list[int] = []
    run(training, dataset_for(system, config, drawn_faces), lambda step, *_: seen.append(step))
    assert seen == [5, 7, 14, 16]


def test_a_run_that_can_only_skip_stops(drawn_faces: str, tmp_path: Path) -> None:
    training = poisoned(tuple(range(30)), "on_nan=skip", "steps=30")
    dataset = dataset_for(training.system, training.config, drawn_faces)
    with pytest.raises(RayfaceError, match="like the 10 steps before it: lower the learning rate"):
        run(training, dataset, lambda *_: None, folder=str(tmp_path))
    assert len(list(tmp_path.glob("*.pt"))) == 3, "a few batches are enough"


def test_networks_that_change_shape_are_carried_over_and_resumed(drawn_faces: str, tmp_path: Path) -> None:
    system = get_system("enhancement")
    pruning = ("pruning.rounds=1", "pruning.every=4", "pruning.gate=false", "pruning.refit=false")
    hidden = ("pruning.ratio=0", "pruning.ratios=encoder.levels.0.0.conv1:0.5", "pruning.round_to=4")
    config = resolve_config(system, "tiny", ["steps=8", "checkpoint_every=6", *pruning, *hidden])
    dataset = dataset_for(system, config, drawn_faces)
    training = Training.start(system, config, solo())
    batches = StepBatches(system, config, dataset, solo())
    for step in range(3):
        training.run_step(batches[step])
    block = "encoder.levels.0.0"
    wide = dict(training.networks["enhancer"].named_parameters())
    memory = training.optimizers["generator"].state[wide["encoder.levels.0.0.conv2.weight"]]["exp_avg"].clone()
    averaged = training.average["enhancer"].get_submodule(block).conv1.bias.clone()  # type: ignore[union-attr, operator]
    old_bias = wide[f"{block}.conv1.bias"].detach().clone()
    training.run_step(batches[3])
    training.reduce_channels(dataset)
    narrow = dict(training.networks["enhancer"].named_parameters())
    assert narrow["encoder.levels.0.0.conv1.weight"].shape[0] == memory.shape[1] // 2
    carried = training.optimizers["generator"].state[narrow["encoder.levels.0.0.conv2.weight"]]
    assert carried["exp_avg"].shape == narrow["encoder.levels.0.0.conv2.weight"].shape
    assert carried["exp_avg"].abs().sum() > 0
    assert carried["step"] == 4
    for ours, theirs in zip(training.average["enhancer"].parameters(), narrow.values(), strict=True):
        assert ours.shape == theirs.shape
    # the average's surviving channels are those of the network's surviving channels
    half = training.average["enhancer"].get_submodule(block).conv1.bias  # type: ignore[union-attr]
    kept = [int((old_bias - value).abs().argmin()) for value in narrow[f"{block}.conv1.bias"].detach()]
    assert torch.allclose(half, averaged[kept], atol=2e-3)  # type: ignore[arg-type]

    saved = tmp_path / "saved"
    saved.mkdir()
    run(training, dataset, lambda step, _, write: write(saved) if step == 6 else None)
    resumed = Training.resume(system, config, solo(), saved, dataset.digest)
    run(resumed, dataset, lambda *_: None)
    assert same(state_of(training, tmp_path / "a"), state_of(resumed, tmp_path / "b"))


def test_fine_tuning_starts_from_the_given_model(drawn_faces: str, tmp_path: Path) -> None:
    first, _ = trained("parsing", drawn_faces, tmp_path, "steps=3")
    second = Training.start(first.system, first.config, solo(), init=first.average)
    assert same(second.networks["parser"].state_dict(), first.average["parser"].state_dict())


def test_distillation_and_similarity_join_the_generators_loss(drawn_faces: str) -> None:
    """C6: with a teacher of other widths and a recogniser, both terms are there and move the student."""
    system = get_system("enhancement")
    config = resolve_config(system, "tiny", ["teacher=enhancement", "recognition=recognition"])
    wide = resolve_config(system, "tiny", ["enhancer.widths=16,24,32", "seed=3"])
    torch.manual_seed(0)
    recogniser = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 9, stride=8), torch.nn.Flatten())
    frozen = {"teacher": system.build(wide)["enhancer"], "recognition": recogniser}
    training = Training.start(system, config, solo(), frozen)
    dataset = dataset_for(system, config, drawn_faces)
    batches = StepBatches(system, config, dataset, solo())
    before = [p.clone() for p in training.networks["adapters"].parameters()]
    terms = [training.run_step(batches[step]) for step in range(4)]
    for name in ("generator/distillation", "generator/similarity"):
        assert all(math.isfinite(t[name]) and t[name] > 0 for t in terms[1:])
    assert terms[-1]["generator/distillation"] < terms[0]["generator/distillation"]
    assert any(not torch.equal(b, p) for b, p in zip(before, training.networks["adapters"].parameters(), strict=True))
    assert "adapters" not in training.average


def test_a_pupil_learns_from_the_teacher_of_its_own_run(drawn_faces: str, tmp_path: Path) -> None:
    """An older recogniser is promoted; the one that the run itself trains first is the one that is used."""
    from rayface.store import ModelStore
    from rayface.training.local import train_here
    from rayface.training.request import TrainRequest

    store = ModelStore(tmp_path / "store")
    system = get_system("recognition")
    config = system.config("tiny")
    store.save("recognition", "recognition", config, {key: system.build(config)[key] for key in system.released})
    store.promote("recognition@1")
    overrides = ("steps=1", "enhancement.recognition=recognition")
    systems = ("recognition", "enhancement")
    request = TrainRequest(systems, drawn_faces, "tiny", storage=str(tmp_path), store=store.uri, overrides=overrides)
    models = train_here(request)["models"]
    assert models == {"recognition": "recognition@2", "enhancement": "enhancement@1"}
    info = store.info("enhancement@1")
    assert info["config"]["recognition"] == "recognition@2"
    assert info["trained_with"] == ["recognition@2"]


def test_a_teacher_is_pinned_to_its_version(drawn_faces: str, tmp_path: Path) -> None:
    """A bare name would mean another model once a newer one is saved, and a resumed run would not be the same."""
    from rayface.store import ModelStore
    from rayface.training.request import TrainRequest, resolve

    for name in ("enhancement", "parsing"):
        system = get_system(name)
        networks = {key: system.build(system.config("tiny"))[key] for key in system.released}
        ModelStore(tmp_path / "store").save(name, name, system.config("tiny"), networks)

    def plan(teacher: str) -> Any:
        request = TrainRequest(
            ("enhancement",), drawn_faces, "tiny", storage=str(tmp_path), overrides=(f"teacher={teacher}",)
        )
        return resolve(request).config("enhancement")

    assert plan("enhancement").teacher == "enhancement@1"
    with pytest.raises(RayfaceError, match="no model 'enhancement@7'"):
        plan("enhancement@7")
    with pytest.raises(RayfaceError, match="teacher must be one of 'enhancement'"):
        plan("parsing")


@pytest.mark.parametrize("name", ["parsing", "recognition"])
def test_networks_of_other_systems_are_narrowed_too(name: str, drawn_faces: str, tmp_path: Path) -> None:
    pruning = ("pruning.rounds=2", "pruning.every=2", "pruning.ratio=0.3", "pruning.round_to=4", "pruning.tolerance=3")
    training, lines = trained(name, drawn_faces, tmp_path, "steps=6", "pruning.photos=8", *pruning)
    (released,) = training.system.released
    whole = training.system.build(training.config)[released]
    example = torch.zeros(1, 3, training.config.size, training.config.size)
    assert multiplications(training.average[released], example) < multiplications(whole, example)
    assert {line["round"] for line in training.trail} == {1, 2}
    assert len(lines) == 6


def test_a_narrowed_model_is_a_start_like_any_other(drawn_faces: str, tmp_path: Path) -> None:
    """With a teacher, whose adapters have its widths; and what narrowed it once does not narrow it again."""
    settings = ["steps=3", "pruning.rounds=1", "pruning.every=1", "pruning.gate=false", "pruning.photos=4"]
    request = TrainRequest(("enhancement",), drawn_faces, "tiny", storage=str(tmp_path), overrides=tuple(settings))
    first = train_here(dataclasses.replace(request, name="narrow"))
    narrow = ModelStore(first["store"]).load("enhancement@1")
    assert narrow.config.pruning.rounds == 1
    again = dataclasses.replace(
        request, name="again", preset="", init="enhancement@1", overrides=("steps=3", "teacher=enhancement@1")
    )
    train_here(again)
    wide = ModelStore(first["store"]).load("enhancement@2")
    assert read_widths(wide.networks["enhancer"]) == read_widths(narrow.networks["enhancer"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("attributes", ["pruning.rounds=1"], "the networks of attributes are not narrowed"),
        ("enhancement", ["pruning.rounds=2", "pruning.every=10", "steps=20"], "last round is after step 20"),
        ("enhancement", ["pruning.ratios=encoder"], "'encoder' is not NAME:RATIO"),
        ("enhancement", ["adaptation.every=30", "steps=20"], "no round ends before steps=20"),
    ],
)
def test_reductions_that_cannot_be_are_refused_at_once(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        resolve_config(get_system(name), "tiny", settings)


def test_channel_groups_that_do_not_exist_are_refused_before_the_first_step() -> None:
    system = get_system("parsing")
    settings = ["steps=9", "pruning.rounds=1", "pruning.every=8", "pruning.ratios=decoder:0.5"]
    with pytest.raises(RayfaceError, match="no group begins with 'decoder'"):
        Training.start(system, resolve_config(system, "tiny", settings), solo())


def test_degradation_adapts_between_rounds_and_resumes_exactly(drawn_faces: str, tmp_path: Path) -> None:
    system = get_system("enhancement")
    # a margin below anything and a band that no factor is in: every round changes something
    settings = [
        "steps=12",
        "discriminator_rate=0.005",
        "adaptation.every=4",
        "adaptation.margin=1e-9",
        "adaptation.low=0.4999",
        "adaptation.high=0.5",
        "adaptation.least=0.25",
    ]
    config = resolve_config(system, "tiny", [*settings, "adaptation.gain=0.5", "checkpoint_every=6"])
    dataset = dataset_for(system, config, drawn_faces)
    saved = tmp_path / "saved"
    saved.mkdir()
    training = Training.start(system, config, solo())
    run(training, dataset, lambda step, _, write: write(saved) if step == 6 else None, Progress(str(tmp_path), "x", 0))
    resumed = Training.resume(system, config, solo(), saved, dataset.digest)
    assert any(name.startswith("sum/") for name in resumed.controller), "in the middle of a round"
    run(resumed, dataset, lambda *_: None)
    assert same(state_of(training, tmp_path / "a"), state_of(resumed, tmp_path / "b"))

    lines = [json.loads(line) for line in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    changed = [line["step"] for line in lines if line.get("strength/blur", 1.0) != 1.0]
    assert changed
    assert min(changed) >= 3
    assert (tmp_path / "x" / "adaptation.png").stat().st_size > 5000
    assert not any(name.startswith("sum/") for line in lines for name in line)
    # what is trained on follows: a round's pictures are made with its strengths
    adapted = system.data_config(config, training.controller)
    assert adapted.degradation == config.degradation, "easy pictures stay as they are"
    now = adapted.in_force.strengths
    assert now == {kind: training.controller[f"strength/{kind}"] for kind in now}
