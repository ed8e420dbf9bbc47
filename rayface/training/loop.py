"""The one training loop. It runs the same alone, under torchrun and under Ray Train.

A step: draw the step's batch (the same on any number of ranks), run every phase that is due, move the average
weights, narrow the networks where a round of channel reduction is due, log, and now and then checkpoint.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from rayface.configuration import to_dict
from rayface.data.dataset import FaceDataset
from rayface.data.sampling import rank_slice
from rayface.errors import RayfaceError
from rayface.networks.widths import apply_widths, cut, read_widths
from rayface.systems.base import Batch, Networks, Phase, PhaseState, System, SystemConfig, sample_generators
from rayface.training.checkpoint import check_same_run, read_state, write_state
from rayface.training.faults import Faults, NotFiniteError, gradients_are_finite
from rayface.training.memory import keep_freed_memory
from rayface.training.optimization import learning_rate, make_optimizer, rebuilt_optimizer
from rayface.training.progress import Progress
from rayface.training.workers import Workers

# Called at checkpoints on every rank with the step and metrics; rank 0 also gets a function that writes the state.
OnCheckpoint = Callable[[int, dict[str, float], Callable[[Path], None] | None], None]
NOTICE_EVERY = 5  # steps between two looks whether a node is about to be taken away


class StepBatches(Dataset[Batch]):
    """Item `step` is this rank's prepared part of that step's global batch."""

    def __init__(self, system: System, config: SystemConfig, dataset: FaceDataset, workers: Workers) -> None:
        self.system, self.config, self.dataset = system, config, dataset
        self.share = rank_slice(config.global_batch, workers.rank, workers.world_size)
        self.sampler = system.sampler(config, dataset)

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        indices = self.sampler(step)[self.share]
        raw = self.dataset.batch(indices, self.system.columns)
        places = range(self.share.start, self.share.stop)
        generators = sample_generators(config.seed, step, places, self.system.name)
        return self.system.prepare(raw, config, generators)


@dataclass
class Training:
    """All that changes from step to step, and nothing else."""

    system: System
    config: Any
    workers: Workers
    frozen: Networks
    networks: dict[str, nn.Module]
    average: dict[str, nn.Module] = field(default_factory=dict)  # EMA of the released networks
    optimizers: dict[str, Optimizer] = field(default_factory=dict)
    controller: dict[str, float] = field(default_factory=dict)
    trail: list[dict[str, Any]] = field(default_factory=list)  # of channel reduction, a line a layer and round
    step: int = 0  # the next one

    @classmethod
    def start(
        cls,
        system: System,
        config: Any,
        workers: Workers,
        frozen: Networks | None = None,
        init: Mapping[str, nn.Module] | None = None,
    ) -> "Training":
        """A new training; weights depend on config.seed only, or come from `init` where it has the network."""
        training = cls._build(system, config, workers, frozen, init)
        training._check_groups()
        training._assemble()
        return training

    @classmethod
    def resume(
        cls, system: System, config: Any, workers: Workers, folder: Path, data_digest: str,
        frozen: Networks | None = None,
    ) -> "Training":  # fmt: skip
        """The training as it was when `folder` was written, on any number of ranks."""
        saved = read_state(folder, system.name)
        check_same_run(saved, config, data_digest)
        training = cls._build(system, config, workers, frozen)
        for name, widths in saved["widths"].items():
            apply_widths(training.networks[name], widths).load_state_dict(saved["networks"][name])
        training._assemble()
        for name, state in saved["average"].items():
            training.average[name].load_state_dict(state)
        for name, state in saved["optimizers"].items():
            training.optimizers[name].load_state_dict(state)
        training.controller = dict(saved["controller"])
        training.trail = list(saved["trail"])
        training.step = saved["step"]
        return training

    @classmethod
    def _build(
        cls, system: System, config: Any, workers: Workers, frozen: Networks | None,
        init: Mapping[str, nn.Module] | None = None,
    ) -> "Training":  # fmt: skip
        """The networks as config.seed makes them, or `init` where it has them; before `_assemble` they may change."""
        frozen = {name: network.eval() for name, network in (frozen or {}).items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = system.build(config)
            for name, network in (init or {}).items():
                apply_widths(networks[name], read_widths(network)).load_state_dict(network.state_dict())
            networks |= system.build_for_training(networks, config, frozen)
        training = cls(system, config, workers, frozen, networks)
        training._place(frozen)  # frozen ones too: on a CPU they are half as fast in the other memory format
        return training

    def _check_groups(self) -> None:
        """Refuse ratios of groups that the network lacks before the first step, not hundreds later."""
        pruning = self.config.pruning
        if pruning.rounds and pruning.ratios:
            from rayface.compression.channels import channel_groups

            (name,) = self.system.released
            example = torch.zeros(1, 3, self.config.size, self.config.size)
            pruning.asked([group.name for group in channel_groups(self.networks[name], example)])

    def _assemble(self) -> None:
        """Averages, optimisers and wrappers around the networks as they now are."""
        self._place(self.networks)
        self.average = {name: copy.deepcopy(self.networks[name]) for name in self.system.released}
        specs = self.system.optimizers(self.config)
        self.optimizers = {name: make_optimizer(spec, self.networks) for name, spec in specs.items()}
        self._wrap()

    def save(self, folder: Path, data_digest: str) -> None:
        write_state(
            folder,
            {
                "system": self.system.name,
                "config": to_dict(self.config),
                "data_digest": data_digest,
                "step": self.step,
                "widths": {name: read_widths(network) for name, network in self.networks.items()},
                "networks": {name: network.state_dict() for name, network in self.networks.items()},
                "average": {name: network.state_dict() for name, network in self.average.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "controller": self.controller,
                "trail": self.trail,
            },
        )

    def run_step(self, batch: Batch) -> dict[str, Tensor]:
        """All phases due at this step on this rank's batch (on the device); returns this rank's metrics."""
        metrics: dict[str, Tensor] = {}
        state = self.phase_state()
        for phase in self.system.phases(self.config):
            if phase.due(self.step):
                metrics |= self._run_phase(phase, batch, state)
        if state.observed:
            self.system.observe(self.controller, _means(state.observed, self.workers))
        self._update_average()
        self.advance()
        return metrics

    def advance(self) -> None:
        """A step is over, done or skipped."""
        self.step += 1
        if (every := self.system.round_steps(self.config)) and self.step % every == 0:
            self.system.end_round(self.config, self.controller)

    def phase_state(self) -> PhaseState:
        return PhaseState(self.config, self.step, self.frozen, self.controller)

    def _run_phase(self, phase: Phase, batch: Batch, state: PhaseState) -> dict[str, Tensor]:
        config = self.config
        spec = self.system.optimizers(config)[phase.optimizer]
        optimizer = self.optimizers[phase.optimizer]
        networks = {}
        for name, network in self.networks.items():
            trained = name in spec.networks
            network.requires_grad_(trained)
            # a frozen network is called without its DDP wrapper, which would wait for gradients
            if trained and phase.autocast:
                network = self.compiled[name]
            elif trained:
                network = self.parallel[name]  # torch.compile has no second derivatives
            networks[name] = network
        half = config.precision == "bf16" and phase.autocast
        with torch.autocast(self.workers.device.type, torch.bfloat16, enabled=half):
            loss, metrics = phase.loss(batch, networks, state)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not gradients_are_finite(self.networks[name] for name in spec.networks):
            raise NotFiniteError(phase.name)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, self.step, config.steps)
        optimizer.step()
        named = {f"{phase.name}/{name}": value.detach() for name, value in metrics.items()}
        return {f"loss/{phase.name}": loss.detach(), **named}

    @torch.no_grad()
    def _update_average(self) -> None:
        seen = (self.step + 1) * self.config.global_batch
        # at first the average follows closely (StyleGAN2-ADA's ramp-up), or it would remember the initial weights
        half_life = min(self.config.ema_half_life, 0.1 * seen)
        decay = 0.5 ** (self.config.global_batch / half_life)
        for name, average in self.average.items():
            for ours, theirs in zip(average.parameters(), self.networks[name].parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)

    def reduce_channels(self, dataset: FaceDataset) -> None:
        """The one place where networks change shape: new DDP wrappers, optimiser state and average, on all ranks.

        Rank 0 decides, the others follow: ranks that differ in one channel could not go on together.
        """
        reduction = None
        if self.workers.rank == 0:
            batch = self.to_device(calibration_batch(self, dataset))
            round_ = self.step // self.config.pruning.every
            reduction = self.system.reduce_channels(self.networks, self.config, batch, round_)
        reduction = self.workers.from_rank_zero(reduction)
        before = self.networks
        narrowed = {name: cut(before[name], kept) for name, kept in reduction.kept.items()}
        for name, fitted in reduction.fitted.items():
            narrowed[name].load_state_dict(fitted)
        self.networks = {**before, **narrowed}
        self._place(narrowed)
        for name, spec in self.system.optimizers(self.config).items():
            if set(spec.networks) & set(narrowed):
                old = self.optimizers[name]
                self.optimizers[name] = rebuilt_optimizer(old, spec, before, self.networks, reduction.kept)
        for name in set(narrowed) & set(self.average):
            # the average of weights that no longer fit is worth nothing: where they were fitted it starts anew
            fitted = name in reduction.fitted
            self.average[name] = (
                copy.deepcopy(narrowed[name]) if fitted else cut(self.average[name], reduction.kept[name])
            )
            self._place({name: self.average[name]})
        self.trail += reduction.trail
        self._wrap()

    def _place(self, networks: Mapping[str, nn.Module]) -> None:
        for network in networks.values():
            network.to(self.workers.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _wrap(self) -> None:
        for network in self.average.values():
            network.requires_grad_(False).eval()
        for network in self.networks.values():
            network.requires_grad_(True).train()
        self.parallel = {name: self.workers.parallel(network) for name, network in self.networks.items()}
        self.compiled = dict(self.parallel)
        if self.config.compile and self.workers.device.type == "cuda":
            self.compiled = {name: torch.compile(wrapped) for name, wrapped in self.parallel.items()}  # type: ignore[misc]

    def to_device(self, batch: Batch) -> Batch:
        device = self.workers.device
        return {
            key: value.to(device, memory_format=torch.channels_last, non_blocking=True)
            if value.ndim == 4
            else value.to(device, non_blocking=True)
            for key, value in batch.items()
        }


def run(
    training: Training,
    dataset: FaceDataset,
    on_checkpoint: OnCheckpoint,
    progress: Progress | None = None,
    folder: str = "runs",
) -> None:
    """Train to config.steps, from wherever `training` stands. `progress` is given on rank 0 only.

    A checkpoint is also made when a node of the group is about to be taken away; Ray Train then goes on from it.
    `folder`: where batches are kept whose gradients are not numbers.
    """
    config, workers = training.config, training.workers
    faults = Faults(config.on_nan, folder, workers.rank)
    if workers.device.type == "cuda":
        tf32 = config.precision != "fp32"  # with bf16 too: losses and what else is outside of autocast
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    else:
        keep_freed_memory()
    metrics: dict[str, float] = {}
    noticed = False
    for batch in _batches(training, dataset):
        step = training.step
        batch = training.to_device(batch)
        try:
            values = training.run_step(batch)
            faults.passed()
        except NotFiniteError as fault:
            faults.met(fault, step, batch)
            if progress:
                progress.skipped(faults.found)
            values = {}
            training.advance()
        if config.pruning.due(training.step):
            training.reduce_channels(dataset)
            if progress:
                progress.trail(training.trail)
        last = training.step == config.steps
        checkpoint_due = training.step % config.checkpoint_every == 0 or last
        if not noticed and not last and training.step % NOTICE_EVERY == 0 and workers.node_leaves():
            noticed = checkpoint_due = True
        logged = step % config.log_every == 0 or last
        if values and (logged or checkpoint_due):  # a state that is not a number is never saved
            metrics = _mean_metrics(values, workers, step)
        if progress and logged and values:
            shown = {name: value for name, value in training.controller.items() if not name.startswith("sum/")}
            progress.log(step, config.steps, config.global_batch, {**metrics, **shown})
        if progress and (training.step % config.sample_every == 0 or last):
            with torch.no_grad():
                progress.picture(training.step, training.system.sample_grid(training.average, batch, config))
        if checkpoint_due:
            if progress:
                progress.flush()
            write = (lambda folder: training.save(folder, dataset.digest)) if workers.rank == 0 else None
            on_checkpoint(training.step, metrics, write)
            if progress:
                progress.checkpointed()


def calibration_batch(training: Training, dataset: FaceDataset) -> Batch:
    """The photos that layers are scored on before and after a reduction: spread over the data, the same every time."""
    config, system = training.config, training.system
    count = min(config.pruning.photos, len(dataset))
    indices = [place * len(dataset) // count for place in range(count)]
    generators = sample_generators(config.seed, 0, indices, f"{system.name}-calibration")
    return system.prepare(dataset.batch(indices, system.columns), config, generators)


def _batches(training: Training, dataset: FaceDataset) -> Iterator[Batch]:
    """The batches of all steps to come; a new loader every round, as what it prepares changes with the controller."""
    config, system = training.config, training.system
    every = system.round_steps(config) or config.steps
    while training.step < config.steps:
        stop = min(config.steps, (training.step // every + 1) * every)
        prepared = system.data_config(config, training.controller)
        yield from _load(StepBatches(system, prepared, dataset, training.workers), training.step, stop)


def _load(batches: StepBatches, start: int, stop: int) -> Iterator[Batch]:
    processes = batches.config.loader_processes
    yield from DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=processes,
        # not forked: Arrow's file systems do not survive a fork
        multiprocessing_context="forkserver" if processes else None,
        pin_memory=torch.cuda.is_available(),
    )


def _mean_metrics(values: dict[str, Tensor], workers: Workers, step: int) -> dict[str, float]:
    metrics = _means(values, workers)
    for name, value in metrics.items():
        if value != value or abs(value) == float("inf"):
            raise RayfaceError(
                f"{name} became {value} at step {step}; lower the learning rate, or look at the batch's pictures"
            )
    return metrics


def _means(values: Mapping[str, Tensor], workers: Workers) -> dict[str, float]:
    """Means over ranks of scalars."""
    stacked = workers.mean(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, stacked.tolist(), strict=True))
