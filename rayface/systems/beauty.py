"""Beautification (SPEC A3-A8): an ordinary user's face, more attractive, and still that user's.

`NetCe`/`NetCd` (ordinary_encoder, ordinary_decoder) and `NetBe`/`NetBd` (attractive_encoder, attractive_decoder) are
autoencoders of ordinary and of attractive faces, `NetT` goes from the first latent space to the second in three parts:
`aligner` carries a face over unchanged, `translator` makes it more attractive there, `retoucher` says from both where
light, colourfulness and detail are to change besides. The last two have three constraints: `NetS`, the parser, sees the
same face parts as before; `NetA`, one attribute classifier or several, the same guarded attributes; `NetD`
(discriminator) an attractive user's face.

No autoencoder's picture is given, only the photo, in the face (`face_mask`), with its fine detail weighed by
`detail_mask` and with the light and saturation that `NetBd` draws otherwise after the translator, and the retoucher's
(`networks.beautifier`). Untrained, nothing is changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.sampling import PairedSampler, Sampler
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.imaging.views import BLUR, unmoved, view
from rayface.networks.autoencoder import (
    AutoencoderConfig,
    FaceDecoder,
    FaceEncoder,
    Retoucher,
    Translator,
    TranslatorConfig,
)
from rayface.networks.beautifier import Amounts, Beautifier, DetailMask, beautify
from rayface.networks.parser import Parser, ParserConfig
from rayface.networks.precision import as_served
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
    check_size,
)
from rayface.systems.beauty_losses import BeautyLosses, attribute_terms, halves, likeness
from rayface.systems.constraints import FACE, FEATURES, parsing_terms, parts_seen
from rayface.systems.losses import identity_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

# What constraint 2 guards: who somebody is and what they wear, make-up too: nobody who wears none is painted. Left out
# is what attractiveness itself moves (Attractive, Rosy_Cheeks, Bags_Under_Eyes, Arched_Eyebrows, 5_o_Clock_Shadow,
# Double_Chin, Chubby, Big_Nose, Big_Lips, Oval_Face ...) and what the crop hardly shows.
GUARDED = (
    "Male", "Young", "Eyeglasses", "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair",
    "Receding_Hairline", "Straight_Hair", "Wavy_Hair", "No_Beard", "Goatee", "Mustache", "Sideburns", "Smiling",
    "Mouth_Slightly_Open", "Wearing_Hat", "Pale_Skin", "Heavy_Makeup", "Wearing_Lipstick",
)  # fmt: skip
CLASSIFIERS = ("classifier", "second_classifier", "third_classifier")  # NetA is all that are given
MOST = 3.0  # times the change that the networks make: more is no beautification


@dataclass(frozen=True, kw_only=True)
class BeautyConfig(SystemConfig):
    global_batch: int = 8  # half ordinary, half attractive faces
    steps: int = 3_000
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    discriminator: ProjectedDiscriminatorConfig = field(default_factory=ProjectedDiscriminatorConfig)
    face_mask: ParserConfig = field(default_factory=lambda: ParserConfig((8, 16, 24, 32, 48), 1, 2))
    losses: BeautyLosses = field(default_factory=BeautyLosses)
    guarded: tuple[str, ...] = GUARDED
    more_attractive: float = 2.0  # logits of NetA; ordinary and attractive faces lie 3 apart, 2.5 within a sex
    asked_at: int = 256  # px to a side at which NetS and NetA are asked: what they were trained at
    align_from: int = 700  # steps after which NetT learns to go from one latent space to the other unchanged
    translate_from: int = 1_500  # steps after which all that stays as it is
    discriminator_steps: int = 200  # steps after that in which NetD learns what attractive is; then NetT beautifies
    autoencoder_rate: float = 1e-3
    translator_rate: float = 5e-4
    discriminator_rate: float = 5e-4
    feature_network: str = "pretrained:efficientnet_lite0:4"  # frozen, of the perceptual term and under NetD
    parser: str = "parsing"  # NetS, a store reference
    classifier: str = "attributes"  # NetA
    second_classifier: str = ""  # others beside it, on other features: what one network alone likes is not asked for
    third_classifier: str = ""
    recognition: str = "recognition"  # of the identity term
    amounts: Amounts = field(default_factory=Amounts)  # in training and at use; face_mask.classes=2


class Beauty(System):
    name = "beauty"
    config_class = BeautyConfig
    requires = ("parsing", "attributes", "recognition")
    columns = ("image", "attributes")
    released = Beautifier.parts
    step_name = "beautify"
    samples_together = 2  # an ordinary and an attractive face
    ablations = {  # noqa: RUF012
        "no-parsing": ("losses.parsing=0",),
        "no-attributes": ("losses.attributes=0", "losses.sex=0"),
        "no-attractiveness": ("losses.adversarial=0", "losses.attractive=0"),
        "no-identity": ("losses.identity=0",),
    }
    ablation_metrics = (
        "model.attractiveness_shift", "model.parsing_agreement", "model.guarded_agreement", "model.gender_flips",
        "model.identity_distance", "model.skin_tone_change", "model.joint",
    )  # fmt: skip
    ablation_judges = ("attributes", "identity", "parsing")
    use_key = "amounts"
    use_ablations = {  # noqa: RUF012
        "features-as-skin": tuple(f"amounts.features_{name}=1" for name in ("light", "saturation", "detail")),
        "no-retouching": ("amounts.retouching=0",),
    }
    frozen_keys = ("feature_network", "parser", *CLASSIFIERS, "recognition")
    frozen_systems = {  # noqa: RUF012
        "parser": "parsing", "recognition": "recognition", **dict.fromkeys(CLASSIFIERS, "attributes"),
    }  # fmt: skip

    def config(self, preset: str) -> BeautyConfig:
        if preset == "tiny":
            return BeautyConfig(
                size=64, steps=20, align_from=2, translate_from=4, discriminator_steps=1, checkpoint_every=10,
                sample_every=20, log_every=1, autoencoder=AutoencoderConfig(widths=(8, 16), latent_channels=8),
                translator=TranslatorConfig(16, 1, 16, retouch_width=16, retouch_blocks=1),
                face_mask=ParserConfig((8, 8), 1, 1), discriminator=ProjectedDiscriminatorConfig(width=8),
                feature_network="pretrained:efficientnet_lite0:3", asked_at=64,
                parser="", classifier="", recognition="",
            )  # fmt: skip
        if preset == "small":
            return BeautyConfig()
        return BeautyConfig(
            size=512, global_batch=32, steps=150_000, align_from=40_000, translate_from=80_000,
            discriminator_steps=2_000, loader_processes=8, checkpoint_every=1000,
            autoencoder=AutoencoderConfig((64, 128, 256, 384), 2, 64), discriminator=ProjectedDiscriminatorConfig(256),
            translator=TranslatorConfig(256, 8, 512, retouch_width=128, retouch_blocks=6),
        )  # fmt: skip

    def check(self, config: BeautyConfig) -> None:
        super().check(config)
        for widths in (config.autoencoder.widths, config.face_mask.widths):
            check_size(config.size, widths)
        if config.global_batch % 2:
            raise RayfaceError(f"global_batch={config.global_batch} must be even: half ordinary, half attractive faces")
        if config.face_mask.classes not in (1, 2):
            raise RayfaceError(
                f"face_mask.classes={config.face_mask.classes}: give 1, the face, or 2, its features too"
            )
        for name, value in vars(config.amounts).items():
            if not 0 <= value <= MOST:
                raise RayfaceError(f"amounts.{name}={value} must be from 0 to {MOST}")
        if unknown := [name for name in config.guarded if name not in ATTRIBUTE_ID]:
            raise RayfaceError(f"guarded: {', '.join(unknown)} unknown; known: {', '.join(ATTRIBUTES)}")
        if config.align_from > config.translate_from:
            raise RayfaceError(
                f"align_from={config.align_from} must not come after translate_from={config.translate_from}"
            )
        begin = config.translate_from + config.discriminator_steps
        if config.translate_from < config.steps <= begin:
            raise RayfaceError(
                f"steps={config.steps}: the translator begins at step {begin} (translate_from + discriminator_steps); "
                f"train longer, or give steps={config.translate_from} for the autoencoders and the aligner alone"
            )
        given = [ref for name in CLASSIFIERS if (ref := getattr(config, name))]
        if len(set(given)) < len(given):
            raise RayfaceError(
                f"{', '.join(given)}: a classifier is given twice, which is no second opinion; name another version as "
                "second_classifier or third_classifier, or leave it out"
            )
        if not config.feature_network:
            raise RayfaceError("feature_network is empty; give one, for example pretrained:efficientnet_lite0:4")

    def check_use(self, config: BeautyConfig, settings: Sequence[str]) -> None:
        by_place = [setting for setting in settings if not setting.startswith("amounts.retouching=")]
        if by_place and config.face_mask.classes == 1:
            raise RayfaceError(
                f"{by_place[0]}: this model's face mask does not know where features are, so that changes nothing; "
                "take one with face_mask.classes=2 (benchmarks/teach_face_mask.py makes it of this one)"
            )

    def build(self, config: BeautyConfig) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {}
        for kind in ("ordinary", "attractive"):
            networks[f"{kind}_encoder"] = FaceEncoder(config.autoencoder)
            networks[f"{kind}_decoder"] = FaceDecoder(config.autoencoder)
        for part in ("aligner", "translator"):
            networks[part] = Translator(config.translator, config.autoencoder.latent_channels)
        networks["retoucher"] = Retoucher(config.translator, config.autoencoder.latent_channels)
        networks["detail_mask"] = DetailMask(config.translator.detail_width)
        networks["face_mask"] = Parser(config.face_mask)
        return networks

    def build_for_training(self, networks: Networks, config: BeautyConfig, frozen: Networks) -> dict[str, nn.Module]:
        return {"discriminator": ProjectedDiscriminator(config.discriminator, frozen["feature_network"].channels)}  # type: ignore[arg-type]

    def optimizers(self, config: BeautyConfig) -> dict[str, OptimizerSpec]:
        coders = tuple(f"{kind}_{part}" for kind in ("ordinary", "attractive") for part in ("encoder", "decoder"))
        warmup = min(100, config.steps // 10)
        return {
            "autoencoders": OptimizerSpec(coders, config.autoencoder_rate, (0.9, 0.99), warmup_steps=warmup),
            "aligner": OptimizerSpec(("aligner",), config.autoencoder_rate, (0.9, 0.99)),
            "face_mask": OptimizerSpec(("face_mask",), config.autoencoder_rate, (0.9, 0.99)),
            "translator": OptimizerSpec(
                ("translator", "retoucher", "detail_mask"),
                config.translator_rate,
                (0.9, 0.99),
                warmup_steps=warmup,
                decay="cosine",
            ),
            "discriminator": OptimizerSpec(("discriminator",), config.discriminator_rate, (0.5, 0.99)),
        }

    def phases(self, config: BeautyConfig) -> list[Phase]:
        aligned, translated = config.align_from, config.translate_from
        begin = translated + config.discriminator_steps  # without NetD too, or ablations were not of equal steps
        phases = [
            Phase("autoencoders", "autoencoders", self._reconstruction_loss, end=translated),
            Phase("alignment", "aligner", self._alignment_loss, start=aligned, end=translated),
            Phase("translator", "translator", self._translation_loss, start=begin),
        ]
        if config.parser:
            phases.append(Phase("face_mask", "face_mask", self._face_mask_loss, end=translated))
        if config.losses.adversarial > 0:
            phases.append(Phase("discriminator", "discriminator", self._discriminator_loss, start=translated))
        return phases

    def sampler(self, config: BeautyConfig, dataset: "FaceDataset") -> Sampler:
        """Pairs of an ordinary and an attractive face of the same sex and age group (by the labels).

        Without them NetD would tell women from men and the young from the old: those are what CelebA's label goes by
        most.
        """
        attributes = dataset.batch(range(len(dataset)), ("attributes",))["attributes"].numpy().astype(int)  # type: ignore[union-attr]
        attractive = attributes[:, ATTRIBUTE_ID["Attractive"]]
        groups = attributes[:, ATTRIBUTE_ID["Male"]] * 3 + attributes[:, ATTRIBUTE_ID["Young"]]
        first, second = np.flatnonzero(attractive < 0), np.flatnonzero(attractive > 0)
        if not (len(first) and len(second)):
            raise RayfaceError(
                f"{dataset.path} has {len(first)} ordinary and {len(second)} attractive faces to train on; it takes "
                "both (`rayface data label` tells them apart)",
                kind="bad-labels",
            )
        return PairedSampler(first, second, groups, config.seed, config.global_batch)

    def prepare(self, batch: dict[str, Any], config: BeautyConfig, generators: Sequence[np.random.Generator]) -> Batch:
        from rayface.data.augmentation import draw_view, mirror_images

        if len(generators) % 2:
            raise RayfaceError(
                f"global_batch={config.global_batch}: each worker needs an even share, half ordinary, half attractive"
            )
        images = mirror_images(to_float(batch["image"]), generators)
        views = torch.stack([draw_view(random) for random in generators])
        # Half are as blurred as the judge's test, or all that changes would be fine detail, which small pictures lose.
        views[:, BLUR] = (views[:, BLUR] > 0).float()
        return {"image": images, "view": views}

    def _reconstruction_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Each autoencoder on its own kind of faces (A3, A4)."""
        metrics, total = {}, torch.zeros((), device=batch["image"].device)
        for kind, images in zip(("ordinary", "attractive"), halves(batch["image"]), strict=True):
            made = networks[f"{kind}_decoder"](networks[f"{kind}_encoder"](images)).float()
            loss = likeness(made, images, state)
            metrics[kind], total = loss, total + loss
        return total, metrics

    def _alignment_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """From one latent space to the other, the face unchanged: where beautifying begins."""
        ordinary, _ = halves(batch["image"])
        with torch.no_grad():
            latents = networks["ordinary_encoder"](ordinary)
        made = networks["attractive_decoder"](networks["aligner"](latents)).float()
        return likeness(made, ordinary, state), {}

    def _face_mask_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """Where the face is, as NetS sees it: what may be changed. And where its features are: what changes less."""
        images, config = batch["image"], state.config
        groups = (FACE, FEATURES)[: config.face_mask.classes]
        wanted = parts_seen(state.frozen["parser"], images, groups, config.asked_at, config.size)
        return F.binary_cross_entropy_with_logits(networks["face_mask"](images).float(), wanted), {}

    def _translation_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The three constraints (A7), and what keeps the change small, and the person's."""
        losses, config = state.config.losses, state.config
        ordinary, _ = halves(batch["image"])
        seen, _ = halves(batch["view"])
        beautified = beautify(networks, ordinary, config.amounts)
        viewed = view(beautified, seen)
        terms = {"change": F.l1_loss(beautified, ordinary)}  # where there is a parser, its `change` instead
        if losses.adversarial > 0:
            logits = networks["discriminator"](state.frozen["feature_network"](viewed))
            terms["adversarial"] = F.softplus(-logits.float()).mean()
        if "parser" in state.frozen:
            terms |= parsing_terms(state.frozen["parser"], beautified, ordinary, config.asked_at, unmoved(seen))
        classifiers = [state.frozen[name] for name in CLASSIFIERS if name in state.frozen]
        if classifiers and losses.attractive + losses.attributes + losses.sex > 0:
            after, before = (resize_images(images, config.asked_at) for images in (viewed, view(ordinary, seen)))
            terms |= attribute_terms(classifiers, after, before, config.guarded, config.more_attractive)
        if "recognition" in state.frozen and losses.identity > 0:
            terms["identity"] = identity_loss(state.frozen["recognition"], beautified, ordinary)
        weights = {name: getattr(losses, name) for name in terms}
        total = torch.stack([weights[name] * term for name, term in terms.items() if weights[name] > 0]).sum()
        return total, terms

    def _discriminator_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """NetD: attractive users' faces against beautified ones and, as much, against ordinary ones.

        Against beautified ones alone it would forget what ordinary faces look like once these have left them behind.
        """
        (ordinary, attractive), (seen, seen_attractive) = halves(batch["image"]), halves(batch["view"])
        with torch.no_grad():
            pictures = {
                "attractive": view(attractive, seen_attractive),
                "beautified": view(beautify(networks, ordinary, state.config.amounts), seen),
                "ordinary": view(ordinary, seen),
            }
            features = {name: state.frozen["feature_network"](images) for name, images in pictures.items()}
        values = {name: networks["discriminator"](maps).float() for name, maps in features.items()}
        fake = (F.softplus(values["beautified"]).mean() + F.softplus(values["ordinary"]).mean()) / 2
        loss = F.softplus(-values["attractive"]).mean() + fake
        return loss, {f"{name}_value": value.mean() for name, value in values.items()}

    def evaluate(
        self,
        networks: Networks,
        config: BeautyConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.beautification import beautification_report

        def change(crops: Tensor) -> Tensor:
            return beautified_crops(networks, crops, device, config.amounts)

        return beautification_report(change, dataset, config.guarded, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: BeautyConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        ordinary = batch["image"][0::2][:6]
        drawn = networks["attractive_decoder"](networks["aligner"](networks["ordinary_encoder"](ordinary)))
        rows = (ordinary, drawn, beautify(networks, ordinary, config.amounts))
        return grid([to_uint8(images.float().cpu()) for images in rows])

    def export_views(self, networks: Networks, config: BeautyConfig) -> dict[str, ExportView]:
        return {"beautifier": ExportView(Beautifier(networks, config.amounts), config.size, Beautifier.outputs)}

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "BeautifyStep":
        return BeautifyStep(loaded, torch.device(device))


@torch.inference_mode()
def beautified_crops(networks: Networks, crops: Tensor, device: torch.device, amounts: Amounts) -> Tensor:
    """uint8 [N, 3, S, S] -> beautified uint8 [N, 3, S, S] on the CPU, `as_served`."""
    images = to_float(crops.to(device)).contiguous(memory_format=torch.channels_last)
    with as_served(device):
        return to_uint8(beautify(networks, images, amounts)).cpu()


class BeautifyStep:
    """Beautification at serving. Parameter `strength` in [0, 1] is applied by the pipeline, as for every step."""

    name = "beautify"
    sharpens = False

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device, self.amounts = device, loaded.config.amounts
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last) for name, network in loaded.networks.items()
        }

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return beautified_crops(self.networks, crops, self.device, self.amounts)
