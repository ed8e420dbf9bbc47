"""Networks of other projects (GFPGAN, RestoreFormer, Real-ESRGAN, SwinIR ...) as steps, by way of spandrel.

`rayface models import` puts their weights into the store; which of spandrel's architectures they belong to is found
from the tensors' names and shapes, at import and at every load. They are used, not trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rayface.errors import RayfaceError
from rayface.imaging.tiles import run_tiled
from rayface.networks.widths import Widths
from rayface.systems.base import ExportView, Networks, System

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

# Steps that a foreign network can be: of face crops, or of the whole photo.
STEPS = ("enhance", "upscale")
TILE, OVERLAP = 256, 32  # whole photos go through in parts, input pixels; what lies further away is taken not to matter


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """What was found out at import."""

    architecture: str  # spandrel's id, for example "GFPGAN"
    purpose: Literal["FaceSR", "SR", "Restoration"]  # spandrel's
    scale: int  # the output's side over the input's
    step: str  # which of STEPS it offers
    size: int  # side of the face crops it is given, px (step enhance)


class ForeignNetwork(nn.Module):
    """float [N, 3, H, W] in [0, 1] -> [N, 3, scale * H, scale * W] in [0, 1], as spandrel's models take and give it.

    Sides that the network cannot take are padded, and the result is cut, by spandrel. No gradients.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model = descriptor.model
        self.descriptor = descriptor

    def forward(self, x: Tensor) -> Tensor:
        return self.descriptor(x)


def read_network(state: Mapping[str, Tensor]) -> ForeignNetwork:
    """The network of a state dict (canonical, see spandrel's `canonicalize_state_dict`), in eval mode.

    Raises RayfaceError: spandrel is not installed, does not know the architecture, or it is no restorer of RGB
    pictures.
    """
    spandrel = import_spandrel()
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except (spandrel.UnsupportedModelError, RuntimeError, KeyError, ValueError) as error:
        first = ", ".join(list(state)[:3])
        raise RayfaceError(
            f"these weights ({first} ...) are of no architecture that spandrel {spandrel.__version__} knows "
            f"({type(error).__name__}: {str(error)[:200]}); its README lists those it reads",
            kind="unknown-architecture",
        ) from error
    channels = (descriptor.input_channels, descriptor.output_channels)
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or channels != (3, 3):
        raise RayfaceError(
            f"{descriptor.architecture.name} for {descriptor.purpose} with {channels[0]} channels in and {channels[1]} "
            "out cannot be a step: it must turn an RGB picture into an RGB picture",
            kind="unknown-architecture",
        )
    return ForeignNetwork(descriptor).eval()


def import_spandrel() -> Any:
    try:
        import spandrel
    except ImportError as error:
        raise RayfaceError(
            f"models of other projects are read with spandrel, which is not installed ({error}): "
            "pip install 'rayface[exchange]'",
            kind="missing-package",
        ) from None
    return spandrel


class Foreign(System):
    name = "foreign"
    config_class = ForeignConfig
    released = ("model",)

    def config(self, preset: str) -> ForeignConfig:
        raise RayfaceError("models of other projects are imported (`rayface models import`), they cannot be trained")

    def check(self, config: ForeignConfig) -> None:
        self.config("")

    def step_of(self, config: ForeignConfig) -> str:
        return config.step

    def restore(
        self, config: ForeignConfig, widths: Mapping[str, Widths], states: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, nn.Module]:
        network = read_network(states["model"])
        found = network.descriptor.architecture.id
        if found != config.architecture:
            raise RayfaceError(f"imported as {config.architecture}, now read as {found}: import the weights again")
        return {"model": network}

    def evaluate(
        self,
        networks: Networks,
        config: ForeignConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """The report of the system whose step it offers; crops are given at the network's own size."""
        network = networks["model"]
        if config.step == "enhance":
            from rayface.evaluation.restoration import restoration_report

            return restoration_report(lambda crops: restore_faces(network, crops, device), dataset, 4, limit)
        from rayface.evaluation.super_resolution import super_resolution_report

        def predict(small: Tensor, scale: int) -> Tensor:
            return torch.stack([upscale_photo(network, photo, scale, device) for photo in small])

        photo = cast(Tensor, dataset.batch([0], ("image",))["image"])
        scales = tuple(scale for scale in scales_of(config.scale) if photo.shape[-1] % scale == 0)  # makes whole pixels
        return super_resolution_report(predict, scales, dataset, 4, limit)

    def export_views(self, networks: Networks, config: ForeignConfig) -> dict[str, ExportView]:
        made = {"enhance": "enhanced", "upscale": "upscaled"}[config.step]
        shows = "a face crop" if config.step == "enhance" else "a whole picture"
        return {"model": ExportView(Bare(networks["model"]), config.size, (made,), low=0.0, shows=shows)}

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> Any:
        step = FaceStep if loaded.config.step == "enhance" else PhotoStep
        return step(loaded, torch.device(device))


class Bare(nn.Module):
    """A foreign network without spandrel's padding and its inference mode, which cannot be exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model, self.call = network.model, network.descriptor._call_fn  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.model, x).clamp(0, 1)  # type: ignore[operator]


@torch.inference_mode()
def restore_faces(network: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """uint8 [N, 3, S, S] -> uint8 [N, 3, S, S] on the CPU; what comes out larger is reduced with antialiasing."""
    made = network(crops.to(device).float() / 255)
    return _to_uint8(_resized(made, crops.shape[-1]))


def scales_of(scale: int) -> tuple[int, ...]:
    """The factors that a network of factor `scale` can give, smaller ones by reducing its output."""
    return tuple(s for s in (2, 3, 4, 8) if s <= scale)


@torch.inference_mode()
def upscale_photo(network: nn.Module, photo: Tensor, scale: int, device: torch.device) -> Tensor:
    """uint8 [3, H, W] -> uint8 [3, scale * H, scale * W] on the CPU, in overlapping tiles."""

    def run(part: Tensor) -> Tensor:
        made = network(part[None].to(device).float() / 255)
        return _to_uint8(_resized(made, *(scale * side for side in part.shape[-2:])))[0]

    return run_tiled(photo, run, scale, TILE, OVERLAP)


def _resized(pictures: Tensor, height: int, width: int | None = None) -> Tensor:
    size = (height, width or height)
    if pictures.shape[-2:] == size:
        return pictures
    return interpolate(pictures, size, mode="bicubic", align_corners=False, antialias=True)


def _to_uint8(pictures: Tensor) -> Tensor:
    """float in [0, 1] -> uint8 on the CPU, rounded and clipped."""
    return (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu()


class FaceStep:
    """A foreign network on aligned face crops; a super-resolution network's larger output is reduced again."""

    sharpens = True

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.name: str = loaded.config.step
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.network = loaded.networks["model"].to(device)

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return restore_faces(self.network, crops, self.device)


class PhotoStep:
    """A foreign super-resolution network on whole photos (`stages.PhotoStep`)."""

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.name: str = loaded.config.step
        self.model = loaded.ref
        self.scales = scales_of(loaded.config.scale)
        self.device = device
        self.network = loaded.networks["model"].to(device)

    def __call__(self, photo: Tensor, scale: int) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, scale * H, scale * W]; `scale` is one of `scales`."""
        return upscale_photo(self.network, photo, scale, self.device)
