"""What a system is: its networks, phases, data, evaluation and serving step.

A new system is one file in this package, its networks, and a line in SYSTEMS; docs/new-system.md walks through one.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rayface.compression.settings import PruningConfig
from rayface.configuration import flatten, override
from rayface.data.sampling import Sampler, batch_indices
from rayface.errors import RayfaceError
from rayface.networks.widths import Kept, Widths, apply_widths
from rayface.randomness import generator

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

SYSTEMS = {
    "parsing": "rayface.systems.parsing:Parsing",
    "detection": "rayface.systems.detection:Detection",
    "enhancement": "rayface.systems.enhancement:Enhancement",
    "recognition": "rayface.systems.recognition:Recognition",
    "super_resolution": "rayface.systems.super_resolution:SuperResolution",
    "attributes": "rayface.systems.attributes:Attributes",
    "beauty": "rayface.systems.beauty:Beauty",
    "facial_hair": "rayface.systems.facial_hair:FacialHair",
    "attribute_editing": "rayface.systems.attribute_editing:AttributeEditing",
    "face_swap": "rayface.systems.face_swap:FaceSwap",
    "swap_detection": "rayface.systems.swap_detection:SwapDetection",
}
FOREIGN = {"foreign": "rayface.systems.foreign:Foreign"}  # networks of other projects: used, not trained here
PRESETS = ("tiny", "small", "base")

Batch = dict[str, Tensor]
Networks = Mapping[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """What every system's configuration has. `global_batch` and `steps` do not depend on the number of workers."""

    size: int = 256  # side of the crops in pixels
    global_batch: int = 16
    steps: int = 20_000
    seed: int = 0
    data_share: float = 1.0  # share of the people in the data that are trained on, for data-size curves
    # bf16: autocast, while parameters and optimiser state stay fp32. tf32: on CUDA the factors of products keep 10 bits
    # of their mantissa; elsewhere as fp32.
    precision: Literal["bf16", "tf32", "fp32"] = "bf16"
    on_nan: Literal["stop", "skip"] = "stop"  # where gradients are not numbers: end the run, or go on without that step
    compile: bool = False  # torch.compile, CUDA only
    ema_half_life: int = 2_000  # of the exponential moving average, in images
    checkpoint_every: int = 500  # steps
    sample_every: int = 500
    log_every: int = 10
    loader_processes: int = 0  # per worker; 0 decodes in the training process
    pruning: PruningConfig = field(default_factory=PruningConfig)


@dataclass(frozen=True)
class OptimizerSpec:
    networks: tuple[str, ...]  # whose parameters it moves
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    kind: Literal["adam", "sgd"] = "adam"  # sgd: with momentum 0.9
    decay: Literal["constant", "cosine", "poly"] = "constant"  # after the warm-up, down to zero at the last step


@dataclass
class PhaseState:
    """What a phase's loss may look at besides its batch and networks."""

    config: Any
    step: int
    frozen: Networks  # models this system depends on or is taught by, never trained here
    controller: dict[str, float] = field(default_factory=dict)  # small numbers kept in the checkpoint
    observed: dict[str, Tensor] = field(default_factory=dict)  # filled by losses; see System.observe


PhaseLoss = Callable[[Batch, Networks, PhaseState], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Phase:
    """One part of a training step: forward, backward and one optimiser's step.

    In `loss`, the optimiser's networks are the trained (DDP) ones, all others are frozen.
    Losses must be means over samples of per-sample values, so that ranks average to the global batch's.
    """

    name: str
    optimizer: str
    loss: PhaseLoss
    every: int = 1  # steps; lazy regularisers use more
    autocast: bool = True  # False: fp32, for losses with second derivatives
    start: int = 0  # first step it runs at
    end: int | None = None  # first step it no longer runs at

    def due(self, step: int) -> bool:
        return step >= self.start and (self.end is None or step < self.end) and step % self.every == 0


@dataclass(frozen=True)
class Reduction:
    """What a round of channel reduction decided: the surviving entries of each network's parameters, and why.

    `fitted`: state dicts of cut networks whose parameters were adjusted as well.
    """

    kept: dict[str, Kept]
    trail: list[dict[str, Any]]
    fitted: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportView:
    """A released network as an exported file shows it: pictures float [N, 3, side, side] in [low, 1] -> outputs."""

    network: nn.Module
    side: int
    outputs: tuple[str, ...]
    free_sides: bool = False  # takes pictures of any height and width, not of `side` only
    low: float = -1.0
    shows: str = "a face crop"  # aligned to records.FFHQ_TEMPLATE
    labels: tuple[str, ...] = ()  # of the first output's channels, where they have names
    channels: int = 3


class Step(Protocol):
    """What a system offers at serving: aligned crops in, changed crops out.

    A step that is to show somebody else sets `keeps_identity = False`; without it, the identity guard (`guard.py`)
    takes back what shows another person.
    """

    name: str
    size: int
    sharpens: bool  # its output should never be less sharp than its input
    model: str  # name@version

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        """uint8 [N, 3, S, S] -> uint8 [N, 3, S, S]."""
        ...


class System:
    """Base of all systems; see the module docstring."""

    name: ClassVar[str]
    config_class: ClassVar[type[Any]]  # a SystemConfig, for what is trained
    requires: ClassVar[tuple[str, ...]] = ()  # systems trained before it when asked for together
    columns: ClassVar[tuple[str, ...]] = ("image",)  # dataset columns it trains on
    released: ClassVar[tuple[str, ...]]  # networks that go into the store (their EMA)
    shared: ClassVar[Mapping[str, str]] = {}  # of those: config key of the frozen model that holds the same network
    step_name: ClassVar[str] = ""  # what `steps=` calls it; "" where it offers no step
    whole_photo: ClassVar[bool] = False  # its step works on the photo (stages.PhotoStep), not on face crops
    frozen_keys: ClassVar[tuple[str, ...]] = ()  # of the config: frozen models that losses need; "" there is none
    frozen_systems: ClassVar[Mapping[str, str]] = {}  # config key of a frozen model -> the system it must be of
    samples_together: ClassVar[int] = 1  # of a batch that must be on one worker (pairs)
    ablations: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # what may be switched off -> the settings that do it
    ablation_metrics: ClassVar[tuple[str, ...]] = ()  # of the report (dotted names): what `rayface ablate` shows
    ablation_judges: ClassVar[tuple[str, ...]] = ()  # that these need (evaluation/judges.py)
    use_key: ClassVar[str] = ""  # of the config: how a trained model is used; may be set anew without training
    use_ablations: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # as `ablations`, of that: nothing is trained anew

    @property
    def labels(self) -> list[str]:
        """The columns a face must have besides its image."""
        return [column for column in self.columns if column != "image"]

    def config(self, preset: str) -> Any:
        """The whole configuration of a preset: tiny (tests), small (a laptop, release weights), base (GPUs)."""
        raise NotImplementedError

    def build(self, config: Any) -> dict[str, nn.Module]:
        raise NotImplementedError

    def restore(
        self, config: Any, widths: Mapping[str, Widths], states: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, nn.Module]:
        """The released networks of a stored model: `states` gives each network's state dict, `widths` its widths."""
        built = self.build(config)
        for name, state in states.items():
            built[name] = apply_widths(built[name], widths[name])
            built[name].load_state_dict(state)
        return {name: built[name] for name in states}

    def build_for_training(self, networks: Networks, config: Any, frozen: Networks) -> dict[str, nn.Module]:
        """Networks that only training needs, by the widths of those to train and of frozen ones (adapters)."""
        return {}

    def fitted(self, config: Any, dataset: "FaceDataset") -> Any:
        """The config with what only the training data can tell (how many people there are).

        Called once, when a request is resolved, on the train split; a checkpoint and the store keep the result.
        Raises RayfaceError where the data cannot train this configuration.
        """
        return config

    def initial(self, config: Any, dataset: "FaceDataset", frozen: Networks) -> Networks | None:
        """Networks that a new training on these faces starts from (pretrained ones); None: as `build` makes them.

        Called once, before the first step; never for --init, for a resume or to load a model.
        """
        return None

    def began_as(self, config: Any) -> dict[str, str]:
        """`{use: "pretrained:..."}` of what `initial` starts from: what is trained inherits its terms."""
        return {}

    def finish(self, networks: Networks, config: Any, dataset: "FaceDataset", device: torch.device) -> dict[str, Any]:
        """Last changes to copies of the released networks (calibration), on rank 0, just before they are stored.

        `dataset` is the train split. A function of its arguments alone, so that a resumed run stores the same model.
        Returns further keys of the model's config.json.
        """
        return {}

    def optimizers(self, config: Any) -> dict[str, OptimizerSpec]:
        raise NotImplementedError

    def phases(self, config: Any) -> list[Phase]:
        raise NotImplementedError

    def check(self, config: Any) -> None:
        """Raise RayfaceError for values that no training could use; systems add what is their own."""
        for name in ("global_batch", "steps", "size", "ema_half_life", "checkpoint_every", "sample_every", "log_every"):
            if getattr(config, name) < 1:
                raise RayfaceError(f"{name}={getattr(config, name)} must be at least 1")
        if config.pruning.rounds and type(self).readout is System.readout:
            raise RayfaceError(f"pruning.rounds={config.pruning.rounds}: the networks of {self.name} are not narrowed")
        if config.pruning.rounds * config.pruning.every >= config.steps:
            last = config.pruning.rounds * config.pruning.every
            raise RayfaceError(f"pruning: the last round is after step {last}; give more than steps={config.steps}")
        if not 0 < config.data_share <= 1:
            raise RayfaceError(f"data_share={config.data_share}: give a share above 0, at most 1")
        for name, value in flatten(config).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RayfaceError(f"{name}={value} is not a finite number")

    def check_use(self, config: Any, settings: Sequence[str]) -> None:
        """Raise RayfaceError for settings of its use that a model of this configuration cannot follow."""

    def frozen_models(self, config: Any) -> dict[str, str]:
        """`{name in PhaseState.frozen: store reference}` of the models the losses need."""
        return {name: ref for name in self.frozen_keys if (ref := getattr(config, name))}

    def prepare(self, batch: dict[str, Any], config: Any, generators: Sequence[np.random.Generator]) -> Batch:
        """Dataset columns -> training tensors, on the CPU; every draw from the sample's own generator."""
        raise NotImplementedError

    def sampler(self, config: Any, dataset: "FaceDataset") -> Sampler:
        """Which faces each step trains on; a function of the arguments alone, the same on all ranks."""
        return partial(batch_indices, config.seed, global_batch=config.global_batch, length=len(dataset))

    def round_steps(self, config: Any) -> int:
        """Steps after which `end_round` is called and `data_config` may change; 0: never."""
        return 0

    def data_config(self, config: Any, controller: Mapping[str, float]) -> Any:
        """The configuration that `prepare` gets in this round."""
        return config

    def observe(self, controller: dict[str, float], means: Mapping[str, float]) -> None:
        """After each step with `PhaseState.observed`: its means over all ranks, to be kept in the controller."""

    def end_round(self, config: Any, controller: dict[str, float]) -> None:
        """Change the controller for the next round; called on all ranks, with the same numbers."""

    def readout(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the released network takes and should give, for the scores of its layers (`compression.readout`)."""
        raise NotImplementedError

    def reduce_channels(self, networks: Networks, config: Any, batch: Batch, round_: int) -> Reduction:
        """A round of channel reduction (SPEC C2): what survives in each network that loses channels.

        Called on rank 0, between steps; `batch` are `config.pruning.photos` prepared training photos.
        """
        from rayface.compression.gate import reduce_channels
        from rayface.compression.refit import refit
        from rayface.networks.widths import cut

        inputs, target = self.readout(networks, batch)
        (name,) = self.released
        kept, trail = reduce_channels(networks[name], inputs, target, config.pruning, round_)
        reduction = Reduction({name: kept}, trail)
        if config.pruning.refit:
            narrow = cut(networks[name], kept)
            refit(narrow, networks[name], kept, inputs)
            reduction.fitted[name] = {key: value.cpu() for key, value in narrow.state_dict().items()}
        return reduction

    def evaluate(
        self, networks: Networks, config: Any, dataset: "FaceDataset", device: torch.device, limit: int | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def judge_use(
        self, networks: Networks, config: Any, dataset: "FaceDataset", device: torch.device, limit: int | None
    ) -> dict[str, Any]:
        """Of `evaluate` what `use_key` changes."""
        return self.evaluate(networks, config, dataset, device, limit)

    def of_pictures(self, networks: Networks) -> nn.Module:
        """What of the released networks takes a picture, to count its multiplications."""
        return networks[self.released[0]]

    def sample_grid(self, networks: Networks, batch: Batch, config: Any) -> Tensor:
        """A picture of what the networks do with a batch: uint8 [3, H, W]."""
        raise NotImplementedError

    def step_of(self, config: Any) -> str:
        """The step that a model of this configuration offers; "" for none."""
        return self.step_name

    def export_views(self, networks: Networks, config: Any) -> dict[str, ExportView]:
        """What `rayface models export` writes of the released networks, one file each.

        A network says with `outputs` what it gives, and with `labels` what the channels of the first are called.
        """
        return {
            name: ExportView(
                network, config.size, getattr(network, "outputs", ("output",)), labels=getattr(network, "labels", ())
            )
            for name, network in networks.items()
        }

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> Any:
        raise NotImplementedError


def get_system(name: str) -> System:
    """The system of that name; its module is imported only now."""
    known = SYSTEMS | FOREIGN
    if name not in known:
        raise RayfaceError(f"unknown system {name!r}; known: {', '.join(SYSTEMS)}", kind="unknown-system")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def in_dependency_order(names: Sequence[str]) -> list[str]:
    """Systems sorted so that what another one requires comes first; otherwise in the order given."""
    ordered: list[str] = []

    def add(name: str) -> None:
        for required in get_system(name).requires:
            if required in names:
                add(required)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered


def sample_generators(seed: int, step: int, indices: Sequence[int], stream: str) -> list[np.random.Generator]:
    """One generator per sample, keyed by its global index."""
    return [generator(seed, step, int(index), stream) for index in indices]


def resolve_config(system: System, preset: str, overrides: Sequence[str]) -> Any:
    """A preset with `key=value` overrides applied; RayfaceError names an unknown preset, key or wrong value."""
    if preset not in PRESETS:
        raise RayfaceError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    config = override(system.config(preset), overrides)
    system.check(config)
    return config


def check_size(size: int, widths: Sequence[int]) -> None:
    """Crops are halved once before the first level and once between levels."""
    step = 2 ** len(widths)
    if size % step:
        nearest = -(-size // step) * step
        raise RayfaceError(f"size={size} must be divisible by {step}, as there are {len(widths)} widths; try {nearest}")
