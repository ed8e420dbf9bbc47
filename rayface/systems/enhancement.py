"""Enhancement (SPEC C): degraded face -> clear face, an encoder and a mapping network feeding a generator.

The generator's total loss is preset + distillation + similarity (C6); the discriminator's comes from its values on
clear and enhanced faces (C7).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.adaptation import AdaptationConfig, adapt, observations, remember, strengths
from rayface.data.augmentation import mirror_images
from rayface.data.degradation import PRESETS, TYPES, DegradationConfig, degrade_measured
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.discriminator import Discriminator, DiscriminatorConfig
from rayface.networks.efficientnet_lite import feature_distance
from rayface.networks.enhancer import Enhancer, EnhancerConfig
from rayface.networks.precision import as_served
from rayface.systems.base import (
    Batch,
    Networks,
    OptimizerSpec,
    Phase,
    PhaseState,
    Reduction,
    System,
    SystemConfig,
    check_size,
)
from rayface.systems.losses import detail_loss, identity_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel


@dataclass(frozen=True)
class EnhancementLosses:
    """Weights of the generator's terms; a term of weight 0 is not computed."""

    pixel: float = 1.0  # L1
    detail: float = 1.0  # L1 of the Laplacian pyramid's bands: edges and texture
    perceptual: float = 1.0  # used with `perceptual_network`
    adversarial: float = 0.02
    distillation: float = 1.0  # used with `teacher`
    similarity: float = 0.5  # used with `recognition`
    r1: float = 10.0


@dataclass(frozen=True, kw_only=True)
class EnhancementConfig(SystemConfig):
    enhancer: EnhancerConfig = field(default_factory=EnhancerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)  # of the degradation's strengths (C3)
    # Shares of pictures degraded by the presets "easy" and "hard" instead, with the strengths of `degradation`: a model
    # that never met a nearly clear face blurs it.
    easy_share: float = 0.3
    hard_share: float = 0.2
    losses: EnhancementLosses = field(default_factory=EnhancementLosses)
    generator_rate: float = 5e-4
    discriminator_rate: float = 2e-4
    r1_every: int = 16
    adversarial_from: int = 1000  # steps of plain reconstruction first
    teacher: str = ""  # store reference of an enhancement model to learn from
    recognition: str = ""  # store reference of a recognition model
    perceptual_network: str = ""  # a frozen image network whose stages are compared, "pretrained:efficientnet_lite0:4"


@dataclass(frozen=True, kw_only=True)
class AdaptedConfig(EnhancementConfig):
    """That of a round of adaptive degradation: the strengths in force, for all pictures but the easy share.

    These keep those of `degradation`: hardened with the others, nearly clear faces would no longer be met.
    """

    in_force: DegradationConfig


class Adapters(nn.Module):
    """1x1 convolutions from the student's feature widths to the teacher's; used in training only (C6)."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in zip(student, teacher, strict=True))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [layer(feature) for layer, feature in zip(self.layers, features, strict=True)]


class Enhancement(System):
    name = "enhancement"
    config_class = EnhancementConfig
    columns = ("image",)
    released = ("enhancer",)
    step_name = "enhance"
    frozen_keys = ("teacher", "recognition", "perceptual_network")
    frozen_systems = {"teacher": "enhancement", "recognition": "recognition"}  # noqa: RUF012

    def config(self, preset: str) -> EnhancementConfig:
        if preset == "tiny":
            return EnhancementConfig(
                size=64, global_batch=8, steps=20, enhancer=EnhancerConfig(widths=(8, 16, 16), style_dim=16),
                discriminator=DiscriminatorConfig(widths=(8, 16)), adversarial_from=0, r1_every=4,
                checkpoint_every=10, sample_every=20, log_every=1,
            )  # fmt: skip
        if preset == "small":
            return EnhancementConfig()
        return EnhancementConfig(
            size=512, global_batch=32, steps=200_000, loader_processes=8, checkpoint_every=1000,
            enhancer=EnhancerConfig(widths=(64, 128, 256, 384, 512, 512), blocks=2, style_dim=512),
            discriminator=DiscriminatorConfig(widths=(64, 128, 256, 512, 512)),
        )  # fmt: skip

    def check(self, config: EnhancementConfig) -> None:
        super().check(config)
        check_size(config.size, config.enhancer.widths)
        check_size(config.size, config.discriminator.widths)
        if config.r1_every < 1:
            raise RayfaceError(f"r1_every={config.r1_every} must be at least 1")
        if config.adaptation.every and config.losses.adversarial <= 0:
            raise RayfaceError(
                f"adaptation.every={config.adaptation.every} asks the discriminator, and there is none: "
                "--set losses.adversarial=0.02, or leave the adaptation out"
            )
        if config.adaptation.every and config.adversarial_from + config.adaptation.every > config.steps:
            raise RayfaceError(
                f"adaptation.every={config.adaptation.every}: no round ends before steps={config.steps}, as the "
                f"discriminator begins at adversarial_from={config.adversarial_from}; lower that, or train longer"
            )
        easy, hard = config.easy_share, config.hard_share
        if min(easy, hard) < 0 or easy + hard > 1:
            raise RayfaceError(
                f"easy_share={easy} and hard_share={hard} are shares of the pictures: give 0 to 1 in all"
            )

    def build(self, config: EnhancementConfig) -> dict[str, nn.Module]:
        return {"enhancer": Enhancer(config.enhancer), "discriminator": Discriminator(config.discriminator)}

    def build_for_training(
        self, networks: Networks, config: EnhancementConfig, frozen: Networks
    ) -> dict[str, nn.Module]:
        if "teacher" not in frozen:
            return {}
        student, teacher = cast(Enhancer, networks["enhancer"]), cast(Enhancer, frozen["teacher"])
        return {"adapters": Adapters(student.feature_widths(), teacher.feature_widths())}

    def optimizers(self, config: EnhancementConfig) -> dict[str, OptimizerSpec]:
        trained = ("enhancer", "adapters") if config.teacher else ("enhancer",)
        warmup = min(100, config.steps // 10)
        return {
            "generator": OptimizerSpec(
                trained, config.generator_rate, (0.9, 0.99), warmup_steps=warmup, decay="cosine"
            ),
            "discriminator": OptimizerSpec(("discriminator",), config.discriminator_rate, (0.0, 0.99)),
        }

    def phases(self, config: EnhancementConfig) -> list[Phase]:
        phases = [Phase("generator", "generator", self._generator_loss)]
        if config.losses.adversarial > 0:
            start = config.adversarial_from
            phases += [
                Phase("discriminator", "discriminator", self._discriminator_loss, start=start),
                Phase("r1", "discriminator", self._r1_loss, config.r1_every, autocast=False, start=start),
            ]
        return phases

    def prepare(
        self, batch: dict[str, Any], config: EnhancementConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        clear = to_float(batch["image"])
        clear = mirror_images(clear, generators)
        degraded, severity = torch.empty_like(clear), torch.empty(len(clear), len(TYPES))
        for index, random in enumerate(generators):
            chosen = self._degradation(config, random.random())
            one = slice(index, index + 1)
            degraded[one], severity[one] = degrade_measured(clear[one], chosen, [random])
        return {"clear": clear, "degraded": degraded, "severity": severity}

    @staticmethod
    def _degradation(config: EnhancementConfig, draw: float) -> DegradationConfig:
        """How one picture is degraded; `draw` is uniform in [0, 1)."""
        if draw < config.easy_share:
            return PRESETS["easy"].with_strengths(config.degradation.strengths)
        in_force = config.in_force if isinstance(config, AdaptedConfig) else config.degradation
        if draw < config.easy_share + config.hard_share:
            return PRESETS["hard"].with_strengths(in_force.strengths)
        return in_force

    def round_steps(self, config: EnhancementConfig) -> int:
        return config.adaptation.every

    def data_config(self, config: EnhancementConfig, controller: Mapping[str, float]) -> EnhancementConfig:
        if not config.adaptation.every:
            return config
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        now = config.degradation.with_strengths(strengths(controller, config.degradation))
        return AdaptedConfig(**values, in_force=now)

    def observe(self, controller: dict[str, float], means: Mapping[str, float]) -> None:
        remember(controller, means)

    def end_round(self, config: EnhancementConfig, controller: dict[str, float]) -> None:
        adapt(controller, config.adaptation, config.degradation)

    def _generator_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        losses, clear = state.config.losses, batch["clear"]
        enhanced, features = networks["enhancer"](batch["degraded"], return_features=True)
        enhanced = enhanced.float()
        terms = {"pixel": F.l1_loss(enhanced, clear), "detail": detail_loss(enhanced, clear)}
        if "perceptual_network" in state.frozen:
            look = state.frozen["perceptual_network"]
            with torch.no_grad():
                wanted = look(clear)
            terms["perceptual"] = feature_distance(look(enhanced), wanted).mean()
        if losses.adversarial > 0 and state.step >= state.config.adversarial_from:
            terms["adversarial"] = F.softplus(-networks["discriminator"](enhanced).float()).mean()
        if "teacher" in state.frozen:
            terms["distillation"] = self._distillation(batch, features, networks, state)
        if "recognition" in state.frozen:
            terms["similarity"] = identity_loss(state.frozen["recognition"], enhanced, clear)
        total = torch.stack([getattr(losses, name) * term for name, term in terms.items()]).sum()
        return total, terms

    def _distillation(self, batch: Batch, features: list[Tensor], networks: Networks, state: PhaseState) -> Tensor:
        """L1 between the student's adapted features of the degraded picture and the teacher's, each scale alike."""
        with torch.no_grad():
            _, taught = state.frozen["teacher"](batch["degraded"], return_features=True)
        distances = []
        for ours, theirs in zip(networks["adapters"](features), taught, strict=True):
            size = theirs.float().abs().mean((1, 2, 3)) + 1e-6
            distances.append(((ours.float() - theirs.float()).abs().mean((1, 2, 3)) / size).mean())
        return torch.stack(distances).mean()

    def _discriminator_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            enhanced = networks["enhancer"](batch["degraded"])
        real = networks["discriminator"](batch["clear"]).float()
        fake = networks["discriminator"](enhanced.float()).float()
        if state.config.adaptation.every:
            with torch.no_grad():
                low = networks["discriminator"](batch["degraded"]).float()
            values = {"clear": real, "enhanced": fake, "degraded": low}
            each = {name: value.mean((1, 2, 3)) for name, value in values.items()}
            state.observed |= observations(batch["severity"], each)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss, {"clear_value": real.mean(), "enhanced_value": fake.mean()}

    def _r1_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 (Mescheder et al. 2018), computed every `r1_every` steps and weighted up by as much."""
        clear = batch["clear"].detach().requires_grad_(True)
        logits = networks["discriminator"](clear)
        (gradient,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), clear, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean()
        weight = state.config.losses.r1 / 2 * state.config.r1_every
        # DDP needs every parameter in the graph; the last bias has no second derivative
        return weight * penalty + 0 * logits.sum(), {"penalty": penalty}

    def readout(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["degraded"], batch["clear"]

    def reduce_channels(self, networks: Networks, config: EnhancementConfig, batch: Batch, round_: int) -> Reduction:
        """The enhancer's channels, and the adapters' inputs, which are the same."""
        reduction = super().reduce_channels(networks, config, batch, round_)
        if "adapters" in networks:
            student = cast(Enhancer, networks["enhancer"])
            kept = [reduction.kept["enhancer"][f"{name}.weight"][0] for name in student.feature_layers()]
            reduction.kept["adapters"] = {f"layers.{i}.weight": (None, inputs) for i, inputs in enumerate(kept)}
        return reduction

    def evaluate(
        self,
        networks: Networks,
        config: EnhancementConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.restoration import restoration_report

        def predict(crops: Tensor) -> Tensor:
            return enhance(networks["enhancer"], crops, device)

        return restoration_report(predict, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: EnhancementConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        enhanced = networks["enhancer"](batch["degraded"][:6]).float().cpu()
        return grid([to_uint8(images[:6]) for images in (batch["degraded"], enhanced, batch["clear"])])

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "EnhanceStep":
        return EnhanceStep(loaded, torch.device(device))


@torch.inference_mode()
def enhance(enhancer: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """uint8 [N, 3, S, S] -> enhanced uint8 [N, 3, S, S] on the CPU, `as_served`."""
    images = to_float(crops.to(device)).contiguous(memory_format=torch.channels_last)
    with as_served(device):
        return to_uint8(enhancer(images).float()).cpu()


class EnhanceStep:
    """The enhancer at serving. Parameter `strength` in [0, 1] is applied by the pipeline, as for every step."""

    name = "enhance"
    sharpens = True

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.enhancer = loaded.networks["enhancer"].to(device).to(memory_format=torch.channels_last)

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return enhance(self.enhancer, crops, self.device)
