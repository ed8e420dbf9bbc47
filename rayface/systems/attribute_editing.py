"""Attribute editing by inversion (SPEC D): a photo's latents are sought, moved until an attribute is seen, and drawn.

Trained are: `generator` (D1, `G-Net`) alternately with a discriminator, on random vectors; with it a first guess at a
photo's latents, so that photos lie where the generator draws well; and one binary classifier an attribute (D2,
`E-Net`), by SGD. A thousand photos suffice as the discriminator and the classifiers look through a network that has
seen all kinds of pictures, at views of them (DiffAugment). What is done with them is in `systems/inversion.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.sampling import RepeatSampler, Sampler
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.imaging.views import view
from rayface.networks.attribute_networks import AttributeNetworks, OnPictures, Steering
from rayface.networks.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, feature_distance
from rayface.networks.face_generator import FaceGenerator, FaceGeneratorConfig, FirstGuess, Redrawn
from rayface.networks.parser import Parser, ParserConfig
from rayface.networks.projected_discriminator import ProjectedDiscriminator, ProjectedDiscriminatorConfig
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES
from rayface.systems.base import (
    Batch,
    ExportView,
    Networks,
    OptimizerSpec,
    Phase,
    PhaseState,
    System,
    SystemConfig,
)  # fmt: skip
from rayface.systems.constraints import parts_seen
from rayface.systems.inversion import (
    PLACES,
    AttributeEditingStep,
    InversionConfig,
    check_inversion,
    edited_crops,
)  # fmt: skip
from rayface.systems.losses import detail_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

# Those that the attribute judge tells with an AUC of at least 0.9 and that can be seen in an aligned crop.
EDITED = ("Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Bangs", "Blond_Hair", "Heavy_Makeup", "Male")
GLASSES = "Eyeglasses"


@dataclass(frozen=True)
class AttributeEditingLosses:
    adversarial: float = 0.25
    pixel: float = 4.0  # of photos drawn from the first guess
    detail: float = 4.0
    perceptual: float = 4.0
    divergence: float = 0.002  # of the first guess from the distribution of random vectors, a nat
    latents: float = 0.5  # blended latents are guessed from the faces they make
    directions: float = 1.0  # of where a face with such labels lies
    r1: float = 0.1


@dataclass(frozen=True, kw_only=True)
class AttributeEditingConfig(SystemConfig):
    size: int = 256
    global_batch: int = 8
    steps: int = 20_000
    attributes: tuple[str, ...] = EDITED
    generator: FaceGeneratorConfig = field(default_factory=FaceGeneratorConfig)
    places: ParserConfig = field(default_factory=lambda: ParserConfig((12, 24, 32, 48, 64), 1, len(PLACES)))
    discriminator: ProjectedDiscriminatorConfig = field(default_factory=ProjectedDiscriminatorConfig)
    losses: AttributeEditingLosses = field(default_factory=AttributeEditingLosses)
    moved: float = 0.05  # photos that are drawn again, as `data.augmentation.move`
    rare: float = 0.5  # faces with an attribute's value that fewer have come round more often; 0: all as often
    drawn_glasses: float = 0.1  # share of the faces without that get some
    generator_rate: float = 1e-3
    discriminator_rate: float = 5e-4
    classifier_rate: float = 0.02
    places_rate: float = 1e-3
    r1_every: int = 8
    adversarial_from: int = 1500  # steps in which the generator learns photos alone, or the discriminator wins at once
    full_size_from: int = 6000  # until then, or half of the steps, faces have half the side: faster
    asked_at: int = 256  # px to a side at which the parser is asked
    feature_network: str = "pretrained:efficientnet_lite0:4"
    parser: str = "parsing"
    inversion: InversionConfig = field(default_factory=InversionConfig)  # how it is used; no part of training


class AttributeEditing(System):
    name = "attribute_editing"
    config_class = AttributeEditingConfig
    columns = ("image", "attributes", "landmarks")
    requires = ("parsing",)
    samples_together = 2  # one drawn again, one blended with it
    released = ("generator", "first_guess", "steering", "classifiers", "places", "look")
    step_name = "edit_attributes"
    frozen_keys = ("feature_network", "parser")
    frozen_systems = {"parser": "parsing"}  # noqa: RUF012
    ablation_metrics = (
        "edits.all.joint", "edits.all.flipped", "edits.all.ranks_first", "edits.all.others_agree",
        "edits.adding.joint", "edits.removing.joint",
    )  # fmt: skip
    ablation_judges = ("attributes", "identity")
    use_key = "inversion"
    use_ablations = {  # noqa: RUF012
        "no-first-guess": ("inversion.start=middle",),
        "one-style": ("inversion.extended=false",),
        "no-tuning": ("inversion.tuning_steps=0",),
        "not-steered": ("inversion.steered=0",),
        "steered-only": ("inversion.edit_steps=0",),
        "as-far-as-it-goes": ("inversion.enough=0",),
        "no-locality": ("inversion.local=0",),
        "with-others": ("inversion.others=3",),
        "no-naturalness": ("inversion.natural=0", "inversion.edit_natural=0"),
        "squared": ("inversion.logistic=false",),
        "drawn-whole": ("inversion.carried=false",),
    }

    def config(self, preset: str) -> AttributeEditingConfig:
        if preset == "tiny":
            return AttributeEditingConfig(
                size=64, steps=20, full_size_from=6, adversarial_from=4, r1_every=2, checkpoint_every=10,
                sample_every=20, log_every=1, generator=FaceGeneratorConfig((16, 16, 8, 8), 16, 1),
                discriminator=ProjectedDiscriminatorConfig(width=8),
                places=ParserConfig((8, 8), 1, len(PLACES)), asked_at=64,
                feature_network="pretrained:efficientnet_lite0:3", parser="",
                inversion=InversionConfig(steps=4, edit_steps=4, edit_rate=0.5),
            )  # fmt: skip
        if preset == "small":
            return AttributeEditingConfig()
        return AttributeEditingConfig(
            size=512, global_batch=32, steps=400_000, loader_processes=8, checkpoint_every=1000,
            generator=FaceGeneratorConfig((512, 512, 512, 512, 256, 128, 64), 512, 4),
            discriminator=ProjectedDiscriminatorConfig(256),
        )  # fmt: skip

    def check(self, config: AttributeEditingConfig) -> None:
        super().check(config)
        unknown = [name for name in config.attributes if name not in ATTRIBUTES]
        if unknown or not config.attributes:
            raise RayfaceError(f"attributes={list(config.attributes)}: choose among {', '.join(ATTRIBUTES)}")
        if len(config.generator.widths) < 2 or min(config.generator.widths) < 1:
            raise RayfaceError(f"generator.widths={list(config.generator.widths)}: give at least two, each at least 1")
        if config.generator.side % 2 ** len(config.places.widths):
            raise RayfaceError(
                f"places.widths has {len(config.places.widths)} levels, which faces of {config.generator.side} px (4 "
                f"doubled for each of generator.widths but the first) are too small for; give fewer"
            )
        if config.global_batch % 2:
            raise RayfaceError(f"global_batch={config.global_batch} must be even: latents of two photos are blended")
        if len(set(config.attributes)) < len(config.attributes):
            raise RayfaceError(f"attributes={list(config.attributes)}: give each once")
        if not re.match(r"pretrained:efficientnet_lite0:[34](@|$)", config.feature_network):
            raise RayfaceError(
                f"feature_network={config.feature_network}: the first guess and the attribute networks are built for "
                "pretrained:efficientnet_lite0:3 and pretrained:efficientnet_lite0:4; give one of them"
            )
        if config.discriminator.first_stage != 1:
            raise RayfaceError(f"discriminator.first_stage={config.discriminator.first_stage} must be 1 here")
        if config.places.classes != len(PLACES):
            raise RayfaceError(f"places.classes={config.places.classes} must be {len(PLACES)}, of {', '.join(PLACES)}")
        for name in ("rare", "drawn_glasses"):
            if not 0 <= getattr(config, name) <= 1:
                raise RayfaceError(f"{name}={getattr(config, name)} must be between 0 and 1, a share of the faces")
        check_inversion(config.inversion)

    def build(self, config: AttributeEditingConfig) -> dict[str, nn.Module]:
        channels = (24, 40, 112)[: int(config.feature_network.split("@")[0][-1]) - 1]
        return {
            "generator": FaceGenerator(config.generator),
            "first_guess": FirstGuess(channels, config.generator),
            "classifiers": AttributeNetworks(channels, config.attributes),
            "steering": Steering(config.generator.latent, len(config.attributes)),
            "places": Parser(config.places),
            "look": EfficientNetLite(EfficientNetLiteConfig(0, len(channels) + 1)),
        }

    def build_for_training(
        self, networks: Networks, config: AttributeEditingConfig, frozen: Networks
    ) -> dict[str, nn.Module]:
        networks["look"].load_state_dict(frozen["feature_network"].state_dict())
        return {"discriminator": ProjectedDiscriminator(config.discriminator, frozen["feature_network"].channels)}  # type: ignore[arg-type]

    def optimizers(self, config: AttributeEditingConfig) -> dict[str, OptimizerSpec]:
        return {
            "generator": OptimizerSpec(("generator", "first_guess", "steering"), config.generator_rate, (0.5, 0.99)),
            "discriminator": OptimizerSpec(("discriminator",), config.discriminator_rate, (0.0, 0.99)),
            "classifiers": OptimizerSpec(("classifiers",), config.classifier_rate, decay="cosine", kind="sgd"),
            "places": OptimizerSpec(("places",), config.places_rate, (0.9, 0.99)),
        }

    def phases(self, config: AttributeEditingConfig) -> list[Phase]:
        phases = [
            Phase("discriminator", "discriminator", self._discriminator_loss, start=config.adversarial_from),
            Phase("generator", "generator", self._generator_loss),
            Phase("classifiers", "classifiers", self._classifiers_loss, every=4),
        ]
        if config.parser:
            phases.append(Phase("places", "places", self._places_loss, every=8))
        if config.losses.r1 > 0:
            r1 = Phase(
                "r1", "discriminator", self._r1_loss, config.r1_every, start=config.adversarial_from, autocast=False
            )
            phases.insert(1, r1)
        return phases

    @staticmethod
    def _edited(batch: Mapping[str, Any], config: AttributeEditingConfig) -> Tensor:
        """A data set's labels of the attributes that are edited, int8 [N, A]: 1 yes, -1 no, 0 unknown."""
        return torch.as_tensor(batch["attributes"])[:, [ATTRIBUTE_ID[name] for name in config.attributes]]

    def sampler(self, config: AttributeEditingConfig, dataset: "FaceDataset") -> Sampler:
        """One face in 16 has eyeglasses: the generator would hardly learn to draw them."""
        if not config.rare:
            return super().sampler(config, dataset)
        labels = self._edited(dataset.batch(range(len(dataset)), ("attributes",)), config)
        return RepeatSampler(labels.numpy(), config.rare, config.seed, config.global_batch)

    def prepare(
        self, batch: dict[str, Any], config: AttributeEditingConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.augmentation import draw_view, mirror_images, move_images
        from rayface.data.glasses import wear_glasses

        labels = self._edited(batch, config)
        side = config.generator.side
        images, landmarks = resize_images(to_float(batch["image"]), side), batch["landmarks"] * (side / config.size)
        if config.drawn_glasses and GLASSES in config.attributes:
            worn = labels[:, config.attributes.index(GLASSES)]
            chosen = np.array([generator.random() < config.drawn_glasses for generator in generators])
            chosen &= worn.numpy() < 0
            images = wear_glasses(images, landmarks, chosen, generators)
            worn[torch.from_numpy(chosen)] = 1
        images = mirror_images(images, generators)
        noise = [generator.standard_normal((2, config.generator.latent), np.float32) for generator in generators]
        return {
            "image": images,
            "moved": move_images(images, config.moved, generators),
            "labels": labels.float(),
            "noise": torch.from_numpy(np.stack(noise)),
            "blend": torch.tensor([generator.random() for generator in generators], dtype=torch.float32),
            "view": torch.stack([draw_view(generator, 0.08, 0.2) for generator in generators]),
        }

    @staticmethod
    def _side(state: PhaseState) -> int:
        """Pixels to a side of what is drawn at this step."""
        config = state.config
        whole = state.step >= min(config.full_size_from, config.steps // 2)
        return config.generator.side if whole else config.generator.side // 2

    def _seen(self, images: Tensor, batch: Batch, state: PhaseState) -> list[Tensor]:
        images = resize_images(images, state.config.generator.side)
        return state.frozen["feature_network"](view(images, batch["view"]))[1:]

    @staticmethod
    def _guess(features: list[Tensor], noise: Tensor, networks: Networks) -> tuple[Tensor, Tensor]:
        """Latents of photos with the noise of their distributions, and how far those are from the random vectors'."""
        mean, log_variance = networks["first_guess"](features[1:])
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return mean + (0.5 * log_variance).exp() * noise, divergence

    @staticmethod
    def _blended(latents: Tensor, batch: Batch) -> Tensor:
        """What lies between every two photos' latents, by a random part of the way: float [N / 2, latent].

        Where no photo lies the discriminator taught the generator one face for all vectors, or none.
        """
        share = batch["blend"][1::2, None]
        return (1 - share).sqrt() * latents[1::2] + share.sqrt() * latents[::2]

    def _discriminator_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        photos = resize_images(batch["moved"], self._side(state))
        with torch.no_grad():
            features = state.frozen["feature_network"](resize_images(photos, state.config.generator.side))
            latents = self._guess(features, batch["noise"][:, 0], networks)[0]
            mixed = torch.stack([latents[::2], self._blended(latents, batch)], 1).flatten(0, 1)
            made = networks["generator"](mixed, self._side(state))
            features = [self._all(self._seen(images, batch, state)) for images in (photos, made)]
        real, fake = (networks["discriminator"](maps).float() for maps in features)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss, {"photo_value": real.mean(), "made_value": fake.mean()}

    @staticmethod
    def _all(maps: list[Tensor]) -> list[Tensor]:
        return [maps[0], *maps]  # the discriminator leaves the first one out

    def _r1_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 (Mescheder et al. 2018) on what the discriminator sees: the features of photos."""
        with torch.no_grad():
            maps = self._seen(resize_images(batch["moved"], self._side(state)), batch, state)
        maps = [m.float().detach().requires_grad_(True) for m in maps]
        logits = networks["discriminator"](self._all(maps)).float()
        gradients = torch.autograd.grad(logits.sum(), maps, create_graph=True)
        penalty = torch.stack(
            [
                g.square().sum((1, 2, 3)) * m.square().mean((1, 2, 3)).detach()
                for g, m in zip(gradients, maps, strict=True)
            ]
        ).mean()
        return state.config.losses.r1 / 2 * state.config.r1_every * penalty + 0 * logits.sum(), {"penalty": penalty}

    def _generator_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        losses, look, whole = state.config.losses, state.frozen["feature_network"], state.config.generator.side
        images = resize_images(batch["moved"], self._side(state))
        with torch.no_grad():
            features = look(resize_images(images, whole))
        of_photos, divergence = self._guess(features, batch["noise"][:, 1], networks)
        latents = of_photos
        adversarial = state.step >= state.config.adversarial_from
        if adversarial:
            blended = self._blended(latents.detach(), batch)
            latents = torch.cat([latents, blended])
        made = networks["generator"](latents, self._side(state))
        drawn, seen = made[: len(images)], look(resize_images(made, whole))
        terms = {
            "pixel": (drawn - images).abs().mean(),
            "detail": detail_loss(drawn, images),
            "perceptual": feature_distance([maps[: len(images)] for maps in seen], features).mean(),
            "divergence": divergence,
            "directions": (networks["steering"].expected(batch["labels"]) - of_photos.detach()).square().mean(),  # type: ignore[operator]
        }
        if adversarial:
            judged = torch.stack([drawn[::2], made[len(images) :]], 1).flatten(0, 1)
            logits = networks["discriminator"](self._all(self._seen(judged, batch, state))).float()
            terms["adversarial"] = F.softplus(-logits).mean()
            guessed = networks["first_guess"]([maps[len(images) :] for maps in seen[1:]])[0]
            terms["latents"] = (guessed - blended).square().mean()
        return torch.stack([getattr(losses, name) * term for name, term in terms.items()]).sum(), terms

    def _classifiers_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            features = self._seen(batch["image"], batch, state)
        logits, labels = networks["classifiers"](features).float(), batch["labels"]
        each = F.binary_cross_entropy_with_logits(logits, (labels > 0).float(), reduction="none")
        return (each * (labels != 0)).mean(), {}

    def evaluate(
        self,
        networks: Networks,
        config: AttributeEditingConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.systems.inversion_report import drawn_report

        drawn = drawn_report(networks, config.inversion, dataset, config.global_batch, device, limit)
        return {**drawn, **self.judge_use(networks, config, dataset, device, limit)}

    def judge_use(
        self, networks: Networks, config: Any, dataset: "FaceDataset", device: torch.device, limit: int | None
    ) -> dict[str, Any]:
        from rayface.evaluation.attribute_editing import edits_report

        def edited(crops: Tensor, wanted: Tensor) -> list[Tensor]:
            return edited_crops(networks, crops, wanted, config.attributes, config.inversion, device)

        return {"edits": edits_report(edited, dataset, config.attributes, config.global_batch, limit)}

    def of_pictures(self, networks: Networks) -> nn.Module:
        return Redrawn(networks["look"], networks["first_guess"], networks["generator"])

    @torch.no_grad()
    def finish(
        self, networks: Networks, config: AttributeEditingConfig, dataset: "FaceDataset", device: torch.device
    ) -> dict[str, Any]:
        """Random vectors become latents like those of the training photos."""
        means, log_variances = [], []
        for first in range(0, len(dataset), config.global_batch):
            crops = dataset.batch(range(first, min(first + config.global_batch, len(dataset))), ("image",))["image"]
            assert isinstance(crops, Tensor)
            photos = resize_images(to_float(crops.to(device)), config.generator.side)
            mean, log_variance = networks["first_guess"](networks["look"](photos)[1:])
            means.append(mean)
            log_variances.append(log_variance)
        networks["generator"].fit_latents(torch.cat(means), torch.cat(log_variances))  # type: ignore[operator]
        return {}

    def export_views(self, networks: Networks, config: AttributeEditingConfig) -> dict[str, ExportView]:
        side = config.generator.side
        classifiers = OnPictures(networks["look"], networks["classifiers"])
        return {
            "redrawn": ExportView(self.of_pictures(networks), side, Redrawn.outputs),
            "attributes": ExportView(classifiers, side, AttributeNetworks.outputs, labels=tuple(config.attributes)),
        }

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "AttributeEditingStep":
        return AttributeEditingStep(loaded, torch.device(device))

    def _places_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """Where PLACES are, as the parser sees it."""
        images = batch["moved"]
        groups = tuple(PLACES.values())
        wanted = parts_seen(state.frozen["parser"], images, groups, state.config.asked_at, images.shape[-1])
        logits = networks["places"](images).float()
        return F.binary_cross_entropy_with_logits(logits, wanted), {}

    def sample_grid(self, networks: Networks, batch: Batch, config: AttributeEditingConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        photos = batch["image"][:8]
        guessed = networks["first_guess"](networks["look"](photos)[1:])[0]
        random = networks["generator"](batch["noise"][:8].flatten(0, 1)[:16])
        rows = [photos, networks["generator"](guessed), random[:8], random[8:]]
        return grid([to_uint8(row.float().cpu().clamp(-1, 1)) for row in rows])
