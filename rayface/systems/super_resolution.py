"""Super-resolution (SPEC F2, C9): a whole photo at twice or four times its size.

The network is trained on random patches of clear pictures and their small versions, for all its scales at once, with
reconstruction losses and a light perceptual one; no adversarial one, so that it adds what the small picture implies and
paints no texture that may be wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.augmentation import mirror_images
from rayface.data.reduction import ReductionConfig, reduce
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.tiles import run_tiled
from rayface.networks.efficientnet_lite import feature_distance
from rayface.networks.precision import as_served
from rayface.networks.upscaler import Upscaler, UpscalerConfig
from rayface.systems.base import Batch, ExportView, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig
from rayface.systems.losses import detail_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

TILE = 256  # side of the parts that go through the network one by one, input pixels


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig(SystemConfig):
    upscaler: UpscalerConfig = field(default_factory=UpscalerConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    patch: int = 96  # side of the clear patches that are cut out of the crops, px
    detail: float = 1.0  # weight of the Laplacian pyramid's L1 beside the plain L1
    perceptual: float = 0.1  # weight of the distance of features, used with `perceptual_network`
    perceptual_network: str = ""  # a frozen image network whose stages are compared, "pretrained:efficientnet_lite0:4"
    learning_rate: float = 1e-3


class SuperResolution(System):
    name = "super_resolution"
    config_class = SuperResolutionConfig
    columns = ("image",)
    frozen_keys = ("perceptual_network",)
    released = ("upscaler",)
    step_name = "upscale"
    whole_photo = True

    def config(self, preset: str) -> SuperResolutionConfig:
        if preset == "tiny":
            return SuperResolutionConfig(
                size=64, global_batch=8, steps=20, patch=32, upscaler=UpscalerConfig(width=8, blocks=1),
                checkpoint_every=10, sample_every=20, log_every=1,
            )  # fmt: skip
        if preset == "small":
            return SuperResolutionConfig()
        return SuperResolutionConfig(
            size=512, global_batch=64, steps=300_000, patch=192, loader_processes=8, checkpoint_every=1000,
            upscaler=UpscalerConfig(width=96, blocks=12), learning_rate=4e-4,
        )  # fmt: skip

    def check(self, config: SuperResolutionConfig) -> None:
        super().check(config)
        step = int(np.lcm.reduce([8, *config.upscaler.scales]))  # the detail loss halves a patch three times
        if not step <= config.patch <= config.size or config.patch % step:
            raise RayfaceError(
                f"patch={config.patch} must be divisible by {step} (8 and the scales) and at most size={config.size}"
            )
        if config.size % step:
            raise RayfaceError(f"size={config.size} must be divisible by {step} (8 and the scales)")

    def build(self, config: SuperResolutionConfig) -> dict[str, nn.Module]:
        return {"upscaler": Upscaler(config.upscaler)}

    def optimizers(self, config: SuperResolutionConfig) -> dict[str, OptimizerSpec]:
        warmup = min(100, config.steps // 10)
        return {
            "main": OptimizerSpec(
                ("upscaler",), config.learning_rate, (0.9, 0.99), warmup_steps=warmup, decay="cosine"
            )
        }  # fmt: skip

    def phases(self, config: SuperResolutionConfig) -> list[Phase]:
        return [Phase("upscaler", "main", self._loss)]

    def prepare(
        self, batch: dict[str, Any], config: SuperResolutionConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        clear = mirror_images(random_patches(to_float(batch["image"]), config.patch, generators), generators)
        small = {f"small_x{s}": reduce(clear, s, config.reduction, generators) for s in config.upscaler.scales}
        return {"clear": clear, **small}

    def _loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        clear, terms = batch["clear"], {}
        look = state.frozen.get("perceptual_network")
        with torch.no_grad():
            wanted = look(clear) if look else []
        for scale in state.config.upscaler.scales:
            made = networks["upscaler"](batch[f"small_x{scale}"], scale).float()
            terms[f"x{scale}"] = F.l1_loss(made, clear) + state.config.detail * detail_loss(made, clear)
            if look:
                terms[f"x{scale}"] += state.config.perceptual * feature_distance(look(made), wanted).mean()
        return torch.stack(list(terms.values())).mean(), terms

    def evaluate(
        self,
        networks: Networks,
        config: SuperResolutionConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.super_resolution import super_resolution_report

        def predict(small: Tensor, scale: int) -> Tensor:
            return torch.stack([upscale(networks["upscaler"], photo, scale, device) for photo in small])

        return super_resolution_report(predict, config.upscaler.scales, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: SuperResolutionConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        clear, rows = batch["clear"][:6], []
        for scale in config.upscaler.scales:
            small = batch[f"small_x{scale}"][:6]
            rows.append(F.interpolate(small, clear.shape[-2:], mode="bicubic", align_corners=False))
            rows.append(networks["upscaler"](small, scale).float())
        return grid([to_uint8(images).cpu() for images in (*rows, clear)])

    def export_views(self, networks: Networks, config: SuperResolutionConfig) -> dict[str, ExportView]:
        return {
            f"x{s}": ExportView(OneScale(networks["upscaler"], s), 64, ("upscaled",), True, shows="a whole picture")
            for s in config.upscaler.scales
        }

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "UpscaleStep":
        return UpscaleStep(loaded, torch.device(device))


class OneScale(nn.Module):
    """The upscaler at one of its scales, as a network of one input."""

    def __init__(self, upscaler: nn.Module, scale: int) -> None:
        super().__init__()
        self.upscaler, self.scale = upscaler, scale

    def forward(self, picture: Tensor) -> Tensor:
        return self.upscaler(picture, self.scale)


def random_patches(images: Tensor, side: int, generators: Sequence[np.random.Generator]) -> Tensor:
    """One square [3, side, side] of each picture [N, 3, S, S], anywhere in it."""
    room = images.shape[-1] - side + 1
    corners = [(int(random.integers(room)), int(random.integers(room))) for random in generators]
    pairs = zip(images, corners, strict=True)
    return torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in pairs])


@torch.inference_mode()
def upscale(upscaler: nn.Module, photo: Tensor, scale: int, device: torch.device) -> Tensor:
    """uint8 [3, H, W] -> uint8 [3, scale * H, scale * W] on the CPU, in tiles without seams, `as_served`."""

    def run(part: Tensor) -> Tensor:
        images = to_float(part[None].to(device)).contiguous(memory_format=torch.channels_last)
        with as_served(device):
            return to_uint8(upscaler(images, scale).float())[0].cpu()

    return run_tiled(photo, run, scale, TILE, upscaler.reach)  # type: ignore[arg-type]


class UpscaleStep:
    """The upscaler at serving: a step for whole photos (`stages.PhotoStep`)."""

    name = "upscale"

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.scales: tuple[int, ...] = loaded.config.upscaler.scales
        self.device = device
        self.upscaler = loaded.networks["upscaler"].to(device).to(memory_format=torch.channels_last)

    def __call__(self, photo: Tensor, scale: int) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, scale * H, scale * W]; `scale` is one of `scales`."""
        return upscale(self.upscaler, photo, scale, self.device)
