"""Facial-hair transformation (SPEC B): a beard put on, changed into another style, or taken off.

Faces are gathered by class in a preset ratio and every batch holds the classes in it (B1, B2: `data.sampling`). The
two painters, of skin and of hair, learn to fill in what was hidden of a face; their loss is adjusted by the ratio of
the facial hair's area to the face's (B3: `area_weights`). Where hair may grow comes from drawn beards and the parser
(`data.facial_hair_zones`), where it does from that and the labels; `localiser` learns both, for serving.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.sampling import RatioSampler, Sampler, quotas
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.imaging.views import view
from rayface.networks.attribute_classifier import AttributeClassifierConfig
from rayface.networks.efficientnet_lite import EfficientNetLiteConfig, feature_distance
from rayface.networks.enhancer import EnhancerConfig
from rayface.networks.hair_localiser import PLACES, StyleReader, find_hair, hair_of, places_of
from rayface.networks.hair_painter import (
    NETWORKS,
    FacialHairChanger,
    HairPainter,
    SkinPainter,
    hair_grain,
    lower_face,
    repaint,
    taken_off,
)
from rayface.networks.parser import Parser, ParserConfig
from rayface.networks.precision import as_served
from rayface.networks.projected_discriminator import ProjectedDiscriminator, ProjectedDiscriminatorConfig
from rayface.randomness import generator
from rayface.records import FACIAL_HAIR
from rayface.systems.base import (
    Batch,
    ExportView,
    Networks,
    OptimizerSpec,
    Phase,
    PhaseState,
    System,
    SystemConfig,
    check_size,
)
from rayface.systems.facial_hair_losses import (
    Marked,
    area_weights,
    draw_shadow,
    marked,
    shadowed,
    style_term,
    styles_of,
)
from rayface.systems.losses import detail_loss, identity_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel


@dataclass(frozen=True)
class FacialHairLosses:
    """Weights, all but `localiser` the painters'."""

    localiser: float = 1.0
    pixel: float = 4.0  # what was hidden is found again; adjusted by the area ratio
    detail: float = 4.0
    perceptual: float = 2.0
    adversarial: float = 0.5
    style: float = 1.0  # NetA sees the style asked for
    identity: float = 2.0


@dataclass(frozen=True, kw_only=True)
class FacialHairConfig(SystemConfig):
    global_batch: int = 10
    steps: int = 3_000
    ratio: tuple[float, ...] = (4, 2, 1, 1, 2)  # of FACIAL_HAIR, in every batch; (): as they come
    area_bound: float = 8.0  # most that the loss of facial hair is weighed by for its small area; 1: never
    skin_painter: EnhancerConfig = field(default_factory=lambda: EnhancerConfig((24, 40, 64, 80, 96), 1, 96))
    hair_painter: EnhancerConfig = field(default_factory=lambda: EnhancerConfig((16, 32, 48, 64, 64), 1, 64))
    reader: AttributeClassifierConfig = field(default_factory=AttributeClassifierConfig)  # the classifier's own
    localiser: ParserConfig = field(default_factory=lambda: ParserConfig((12, 24, 32, 48, 64), 1, len(PLACES)))
    covered: float = 0.25  # share of the faces that the localiser sees with something before their lower half
    discriminator: ProjectedDiscriminatorConfig = field(default_factory=ProjectedDiscriminatorConfig)
    losses: FacialHairLosses = field(default_factory=FacialHairLosses)
    paint_from: int = 200  # steps of the localiser alone
    transform_from: int = 600  # after these steps photos get other styles too, and NetD watches
    painter_rate: float = 5e-4
    localiser_rate: float = 1e-3
    discriminator_rate: float = 5e-4
    asked_at: int = 256  # px to a side at which the parser and NetA are asked
    feature_network: str = "pretrained:efficientnet_lite0:4"
    parser: str = "parsing"
    classifier: str = "attributes"
    recognition: str = "recognition"


class FacialHair(System):
    name = "facial_hair"
    config_class = FacialHairConfig
    requires = ("parsing", "attributes", "recognition")
    columns = ("image", "attributes")
    released = NETWORKS
    step_name = "facial_hair"
    ablations = {  # noqa: RUF012
        "natural-sampling": ("ratio=[]",),
        "plain-loss": ("area_bound=1",),
    }
    ablation_metrics = (
        "adding.joint", "stubble.joint", "moustache.joint", "goatee.joint", "full.joint", "removing.joint",
        "adding.style_gain", "stubble.style_gain", "moustache.style_gain", "goatee.style_gain", "full.style_gain",
        "removing.style_gain", "hair_error",
    )  # fmt: skip
    ablation_judges = ("attributes", "identity", "parsing")
    frozen_keys = ("feature_network", "parser", "classifier", "recognition")
    frozen_systems = {"parser": "parsing", "classifier": "attributes", "recognition": "recognition"}  # noqa: RUF012

    def config(self, preset: str) -> FacialHairConfig:
        if preset == "tiny":
            return FacialHairConfig(
                size=64, global_batch=8, steps=20, ratio=(4, 1, 0, 1, 2), paint_from=2, transform_from=4,
                checkpoint_every=10, sample_every=20, log_every=1,
                skin_painter=EnhancerConfig((8, 16), 1, 16), hair_painter=EnhancerConfig((8, 16), 1, 16),
                reader=AttributeClassifierConfig(EfficientNetLiteConfig(stages=3), stages=(2,), grid=4),
                localiser=ParserConfig((8, 8), 1, len(PLACES)),
                discriminator=ProjectedDiscriminatorConfig(width=8),
                feature_network="pretrained:efficientnet_lite0:3", asked_at=64,
                parser="", classifier="", recognition="",
            )  # fmt: skip
        if preset == "small":
            return FacialHairConfig()
        return FacialHairConfig(
            size=512, global_batch=40, steps=150_000, paint_from=5_000, transform_from=30_000, loader_processes=8,
            checkpoint_every=1000, skin_painter=EnhancerConfig((64, 128, 256, 384, 512, 512), 2, 512),
            hair_painter=EnhancerConfig((32, 64, 128, 256, 256, 256), 2, 256),
            localiser=ParserConfig((24, 48, 64, 96, 128), 1, len(PLACES)),
            discriminator=ProjectedDiscriminatorConfig(256),
        )  # fmt: skip

    def check(self, config: FacialHairConfig) -> None:
        super().check(config)
        check_size(config.size, config.localiser.widths)
        widths = max(len(config.skin_painter.widths), len(config.hair_painter.widths))
        step = 8 * 2**widths  # of a crop 5/8 by 6/8 are painted
        if config.size % step:
            raise RayfaceError(
                f"size={config.size} must be divisible by {step}, as a painter has {widths} widths; "
                f"try {-(-config.size // step) * step}"
            )
        if config.ratio:
            if len(config.ratio) != len(FACIAL_HAIR) or min(config.ratio) < 0 or not sum(config.ratio):
                raise RayfaceError(
                    f"ratio={list(config.ratio)}: give a share of at least 0 for each of {', '.join(FACIAL_HAIR)}, for "
                    "example ratio=[4,2,1,1,2], or ratio=[] to take faces as they come"
                )
            quotas(config.ratio, config.global_batch)
        if not 0 <= config.covered <= 1:
            raise RayfaceError(f"covered={config.covered}: give a share from 0 to 1")
        if config.area_bound < 1:
            raise RayfaceError(f"area_bound={config.area_bound} must be at least 1, which weighs nothing")
        if config.paint_from > config.transform_from:
            raise RayfaceError(
                f"paint_from={config.paint_from} must not come after transform_from={config.transform_from}"
            )
        if not config.feature_network:
            raise RayfaceError("feature_network is empty; give one, for example pretrained:efficientnet_lite0:4")

    def build(self, config: FacialHairConfig) -> dict[str, nn.Module]:
        return {
            "localiser": Parser(config.localiser),
            "reader": StyleReader(config.reader, config.asked_at),
            "skin_painter": SkinPainter(config.skin_painter),
            "hair_painter": HairPainter(config.hair_painter),
        }

    def build_for_training(
        self, networks: Networks, config: FacialHairConfig, frozen: Networks
    ) -> dict[str, nn.Module]:
        if "classifier" in frozen:
            if frozen["classifier"].config != config.reader:
                raise RayfaceError(
                    f"the classifier {config.classifier} is built as {frozen['classifier'].config}, the reader as "
                    f"{config.reader}: give the reader the classifier's settings"
                )
            networks["reader"].take(frozen["classifier"])  # type: ignore[operator]
        return {"discriminator": ProjectedDiscriminator(config.discriminator, frozen["feature_network"].channels)}  # type: ignore[arg-type]

    def optimizers(self, config: FacialHairConfig) -> dict[str, OptimizerSpec]:
        warmup = min(100, config.steps // 10)
        return {
            "localiser": OptimizerSpec(("localiser",), config.localiser_rate, (0.9, 0.99), decay="cosine"),
            "painter": OptimizerSpec(
                ("skin_painter", "hair_painter"), config.painter_rate, (0.9, 0.99), warmup_steps=warmup, decay="cosine"
            ),
            "discriminator": OptimizerSpec(("discriminator",), config.discriminator_rate, (0.5, 0.99)),
        }

    def phases(self, config: FacialHairConfig) -> list[Phase]:
        phases = [
            Phase("localiser", "localiser", self._localiser_loss),
            Phase("painter", "painter", self._painter_loss, start=config.paint_from),
        ]
        if config.losses.adversarial > 0:
            phases.append(
                Phase("discriminator", "discriminator", self._discriminator_loss, start=config.transform_from)
            )
        return phases

    def sampler(self, config: FacialHairConfig, dataset: "FaceDataset") -> Sampler:
        if not config.ratio:
            return super().sampler(config, dataset)
        attributes = dataset.batch(range(len(dataset)), ("attributes",))["attributes"]
        styles = styles_of(np.asarray(attributes))
        held = np.bincount(styles, minlength=len(FACIAL_HAIR))
        if missing := [
            name for name, share, count in zip(FACIAL_HAIR, config.ratio, held, strict=True) if share and not count
        ]:
            listed = ", ".join(f"{name} {count}" for name, count in zip(FACIAL_HAIR, held, strict=True))
            raise RayfaceError(
                f"{dataset.path} has no face of the classes {', '.join(missing)} to train on ({listed}); add some, or "
                "set their share in the ratio to 0",
                kind="bad-labels",
            )
        return RatioSampler(styles, config.ratio, config.seed, config.global_batch)

    def prepare(
        self, batch: dict[str, Any], config: FacialHairConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.augmentation import draw_view, mirror_images
        from rayface.data.covers import cover_faces

        images = mirror_images(to_float(batch["image"]), generators)
        styles = torch.from_numpy(styles_of(np.asarray(batch["attributes"])))
        noise = np.stack([random.standard_normal((2, config.size, config.size), np.float32) for random in generators])
        others = [random.integers(1, len(FACIAL_HAIR)) for random in generators]  # any style but its own
        drawn = {
            "image": images,
            "style": styles,
            "other_style": (styles + torch.tensor(others)) % len(FACIAL_HAIR),
            "hidden_style": torch.tensor([random.integers(len(FACIAL_HAIR)) for random in generators]),
            "grain": hair_grain(torch.from_numpy(noise)),
            "shadow": torch.stack([draw_shadow(random) for random in generators]),
            "view": torch.stack([draw_view(random) for random in generators]),
        }
        chosen = np.array([random.random() < config.covered for random in generators])
        covered, cover = cover_faces(images, chosen, generators)
        return {**drawn, "covered": covered, "cover": cover}

    def _marked(self, batch: Batch, state: PhaseState) -> Marked:
        return marked(batch["image"], batch["style"], state.frozen.get("parser"), state.config.asked_at)

    def _localiser_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """Where hair may grow, by the parser and drawn beards; nowhere on what is before a face."""
        wanted = self._marked(batch, state)
        logits = networks["localiser"](batch["covered"]).float()
        places = torch.cat([wanted.zones, wanted.parts], 1) * (1 - batch["cover"])
        loss = F.binary_cross_entropy_with_logits(logits, places)
        return state.config.losses.localiser * loss, {}

    def _painter_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        losses = state.config.losses
        terms = self._found_again(batch, networks, state)
        if state.step >= state.config.transform_from:
            terms |= self._transformed(batch, networks, state)
        total = torch.stack([getattr(losses, name) * term for name, term in terms.items()]).sum()
        return total, terms

    def _found_again(self, batch: Batch, networks: Networks, state: PhaseState) -> dict[str, Tensor]:
        """What was hidden of a photo is painted as it is (B3, B4)."""
        images = batch["image"]
        with torch.no_grad():
            there = self._marked(batch, state)
            zones, parts = places_of(networks["localiser"](images))
            wider = hair_of(zones, batch["hidden_style"])
            hidden = taken_off(torch.maximum(there.hair, wider), there.skin)
            weights = hidden * area_weights(there.hair, there.face, state.config.area_bound)
            size = there.face.sum((1, 2, 3)).clamp_min(1)
            wanted_features = state.frozen["feature_network"](lower_face(images))
            shown = images + hidden * (shadowed(images, wider, batch["grain"], batch["shadow"]) - images)
        painted = _filled(networks, shown, hidden, parts, there.hair, batch["grain"])
        difference = ((painted - images).abs().mean(1, keepdim=True) * weights).sum((1, 2, 3)) / size
        detail = detail_loss(painted * weights.sqrt(), images * weights.sqrt())
        perceptual = feature_distance(state.frozen["feature_network"](lower_face(painted)), wanted_features)
        return {"pixel": difference.mean(), "detail": detail, "perceptual": perceptual.mean()}

    def _transformed(self, batch: Batch, networks: Networks, state: PhaseState) -> dict[str, Tensor]:
        """Another style is seen, on the same person, and it looks like a photo."""
        losses, images = state.config.losses, batch["image"]
        changed = _changed(batch, networks)
        viewed = view(changed, batch["view"])
        terms = {}
        if losses.adversarial > 0:
            logits = networks["discriminator"](state.frozen["feature_network"](lower_face(viewed)))
            terms["adversarial"] = F.softplus(-logits.float()).mean()
        if "classifier" in state.frozen and losses.style > 0:
            logits = state.frozen["classifier"](resize_images(viewed, state.config.asked_at)).float()
            terms["style"] = style_term(logits, batch["other_style"])
        if "recognition" in state.frozen and losses.identity > 0:
            terms["identity"] = identity_loss(state.frozen["recognition"], changed, images)
        return terms

    def _discriminator_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """NetD: lower faces of photos against transformed ones."""
        with torch.no_grad():
            look = state.frozen["feature_network"]
            features = [
                look(lower_face(view(images, batch["view"]))) for images in (batch["image"], _changed(batch, networks))
            ]
        real, made = (networks["discriminator"](maps).float() for maps in features)
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        return loss, {"photo_value": real.mean(), "made_value": made.mean()}

    def evaluate(
        self,
        networks: Networks,
        config: FacialHairConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.facial_hair import facial_hair_report, hair_error

        def change(crops: Tensor, styles: np.ndarray) -> Tensor:
            return changed_crops(networks, crops, torch.from_numpy(styles), device)

        def fill(crops: Tensor, styles: np.ndarray) -> Tensor:
            return filled_crops(networks, crops, torch.from_numpy(styles), device)

        styles = styles_of(np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"]))
        report = facial_hair_report(change, dataset, styles, config.global_batch, limit)
        return report | hair_error(fill, dataset, styles, config.global_batch, limit)

    def export_views(self, networks: Networks, config: FacialHairConfig) -> dict[str, ExportView]:
        grain = _serving_grain(config.size)
        return {
            style: ExportView(FacialHairChanger(networks, style, grain), config.size, FacialHairChanger.outputs)
            for style in FACIAL_HAIR
        }

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "FacialHairStep":
        return FacialHairStep(loaded, torch.device(device))

    def sample_grid(self, networks: Networks, batch: Batch, config: FacialHairConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        images, grain = batch["image"][:8], batch["grain"][:8]
        found = find_hair(networks, images)
        rows = [images]
        for style in range(len(FACIAL_HAIR)):
            asked = torch.full((len(images),), style, device=images.device)
            rows.append(repaint(networks, images, found, hair_of(found.zones, asked), grain))
        return grid([to_uint8(row.float().cpu()) for row in rows])


def _changed(batch: Batch, networks: Networks) -> Tensor:
    with torch.no_grad():
        found = find_hair(networks, batch["image"])
        wanted = hair_of(found.zones, batch["other_style"])
    return repaint(networks, batch["image"], found, wanted, batch["grain"])


def _filled(networks: Networks, images: Tensor, hidden: Tensor, parts: Tensor, own: Tensor, grain: Tensor) -> Tensor:
    """What is hidden painted anew. Skin under hair learns nothing here: nobody has seen it, and it would turn dark."""
    skin = networks["skin_painter"](images, hidden, parts)
    hairy = own.sum(1, keepdim=True).clamp(0, 1)
    return networks["hair_painter"](skin * (1 - hairy) + skin.detach() * hairy, own, grain)


@cache
@torch.inference_mode(False)  # or an exported network could not hold it
def _serving_grain(side: int) -> Tensor:
    """What hairs are made of at serving, float [1, 2, side, side]: always the same, so that a photo is too."""
    noise = generator(0, stream="facial hair").standard_normal((1, 2, side, side), np.float32)
    return hair_grain(torch.from_numpy(noise))


def _prepared(crops: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and grain of crops uint8 [N, 3, S, S], as they are served."""
    images = to_float(crops.to(device)).contiguous(memory_format=torch.channels_last)
    return images, _serving_grain(crops.shape[-1]).to(device).expand(len(crops), -1, -1, -1)


@torch.inference_mode()
def changed_crops(networks: Networks, crops: Tensor, styles: Tensor, device: torch.device) -> Tensor:
    """Crops uint8 [N, 3, S, S] with facial hair of styles (places in FACIAL_HAIR) int64 [N]: uint8 on the CPU."""
    images, grain = _prepared(crops, device)
    with as_served(device):
        found = find_hair(networks, images)
        return to_uint8(repaint(networks, images, found, hair_of(found.zones, styles.to(device)), grain)).cpu()


@torch.inference_mode()
def filled_crops(networks: Networks, crops: Tensor, styles: Tensor, device: torch.device) -> Tensor:
    """As `changed_crops`, where the styles are the faces' own: their facial hair is hidden and painted anew."""
    images, grain = _prepared(crops, device)
    with as_served(device):
        found = find_hair(networks, images)
        own = hair_of(found.zones, styles.to(device))
        hidden = taken_off(torch.maximum(found.hair, own), found.skin)
        return to_uint8(_filled(networks, images, hidden, found.parts, own, grain)).cpu()


class FacialHairStep:
    """Facial hair at serving. Parameter `style`, one of FACIAL_HAIR, for each crop; `strength` as for every step."""

    name = "facial_hair"
    sharpens = False

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last) for name, network in loaded.networks.items()
        }

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        """`params["style"]`: a style, or one for each crop."""
        asked = params["style"]
        styles = [asked] * len(crops) if isinstance(asked, str) else list(asked)
        places = torch.tensor([FACIAL_HAIR.index(style) for style in styles], dtype=torch.int64)
        return changed_crops(self.networks, crops, places, self.device)
