"""Face synthesis (SPEC E1 to E4): the texture of one face, the identity of another.

`texture` (the generator of E1) sees a small picture of the inner face, `recogniser` (E2, frozen) says who somebody is,
`decoder` makes the face of both (E3). In every pair of a batch the first face is made again from its own texture and
identity, and the pair discriminator judges whether the two go together (E4); the second gets the first one's identity
(cross-identity step), as on the way of self-reconstruction alone who it is could come through the texture.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import resize_images
from rayface.imaging.views import view
from rayface.networks.efficientnet_lite import feature_distance
from rayface.networks.face_swapper import (
    MASK_SIDE,
    NETWORKS,
    Centre,
    FaceSwapper,
    FaceSwapperConfig,
    SwapDecoder,
    TextureNetwork,
    composed,
    draw,
    identities,
    swap,
    where_drawn,
    window,
)
from rayface.networks.pair_discriminator import PairDiscriminator
from rayface.networks.parser import Parser, ParserConfig
from rayface.networks.projected_discriminator import ProjectedDiscriminatorConfig
from rayface.networks.recogniser import Recogniser, RecogniserConfig
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
from rayface.systems.constraints import FACE, parts_seen
from rayface.systems.face_swap_losses import attributes_term, likeness_terms, moved_parts, second_likeness
from rayface.systems.face_swap_step import SwapStep, swapped_crops
from rayface.systems.losses import detail_loss

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

AVERAGED = 1_000  # photos over which the recogniser's answers are averaged


@dataclass(frozen=True)
class FaceSwapLosses:
    pixel: float = 4.0  # of faces made again from themselves
    detail: float = 8.0
    perceptual: float = 2.0
    adversarial: float = 0.15
    identity: float = 3.0  # of swapped faces, to the donor
    apart: float = 2.0  # no more alike to the texture's own person than strangers are
    second_identity: float = 2.0  # the same two by the second recogniser, where there is one
    second_apart: float = 1.5
    attributes: float = 0.5  # NetA sees the donor's sex, brows, nose ..., and the texture's expression
    parsing: float = 8.0  # NetS sees the texture's eyes, nose and mouth where they were
    light: float = 8.0  # colour and light of the texture stay, as seen in a few pixels


@dataclass(frozen=True)
class Likeness:
    """How a trained model is used."""

    away: float = 0.0  # how much of the photo's own identity is taken off the donor's

    def __post_init__(self) -> None:
        if not 0 <= self.away < 1:
            raise ValueError(f"away={self.away} must be 0 or more and below 1, at which of equal people nobody is left")


@dataclass(frozen=True, kw_only=True)
class FaceSwapConfig(SystemConfig):
    global_batch: int = 8  # half are made again, half get the identity of the face before
    steps: int = 20_000
    swapper: FaceSwapperConfig = field(default_factory=FaceSwapperConfig)
    # the frozen one's own
    recogniser: RecogniserConfig = field(default_factory=lambda: RecogniserConfig(hidden=(32, 48, 64, 72, 64)))
    face_mask: ParserConfig = field(default_factory=lambda: ParserConfig((8, 16, 24, 32, 48), 1, 1))
    discriminator: ProjectedDiscriminatorConfig = field(default_factory=ProjectedDiscriminatorConfig)
    losses: FaceSwapLosses = field(default_factory=FaceSwapLosses)
    cross: bool = True  # cross-identity steps; False: every face is made again from its own identity (E4 alone)
    cross_from: int = 1_200  # steps in which faces are only made again; before, they look like nobody
    pair: bool = True  # the discriminator sees the texture image too (E4); False: the made one alone
    strangers: float = 0.2  # cosine of the recogniser up to which two people count as no more alike than strangers
    light_side: int = 12  # px to a side of the picture in which light is compared
    mask_until: int = 1_000  # steps in which the face mask learns where faces are
    adversarial_from: int = 2_500  # steps in which faces become sharp first: before, the discriminator wins at once
    swapper_rate: float = 1e-3
    mask_rate: float = 1e-3
    discriminator_rate: float = 5e-4
    seen_at: int = 128  # px to a side of the crops with another's identity that frozen networks are asked about
    feature_network: str = "pretrained:efficientnet_lite0:4"
    parser: str = "parsing"
    classifier: str = "attributes"
    recognition: str = "recognition"  # "": one that knows nobody, for tests
    # another network that must see the donor too, so that not one network's taste is drawn but a person; "": none
    second_recognition: str = ""
    likeness: Likeness = field(default_factory=Likeness)  # at use


class FaceSwap(System):
    name = "face_swap"
    config_class = FaceSwapConfig
    requires = ("parsing", "attributes", "recognition")
    columns = ("image",)
    released = NETWORKS
    shared = {"recogniser": "recognition"}  # noqa: RUF012
    step_name = "swap"
    use_key = "likeness"
    use_ablations = {"donor-alone": ("likeness.away=0",)}  # noqa: RUF012
    samples_together = 2  # the second of a pair gets the first one's identity
    ablations = {  # noqa: RUF012
        "no-bottleneck": ("swapper.texture_side=0",),
        "no-cross-steps": ("cross=false",),
        "neither": ("swapper.texture_side=0", "cross=false"),
        "plain-discriminator": ("pair=false",),
    }
    ablation_metrics = (
        "swaps.joint", "swaps.donor_first", "swaps.donor_first_second", "swaps.own_first", "nobody.own_first",
        "swaps.meets_landmarks", "again.perceptual_distance",
    )  # fmt: skip
    ablation_judges = ("identity", "parsing")
    frozen_keys = ("feature_network", "parser", "classifier", "recognition", "second_recognition")
    frozen_systems = {  # noqa: RUF012
        "parser": "parsing", "classifier": "attributes", "recognition": "recognition",
        "second_recognition": "recognition",
    }  # fmt: skip

    def config(self, preset: str) -> FaceSwapConfig:
        if preset == "tiny":
            return FaceSwapConfig(
                size=64, steps=20, cross_from=2, adversarial_from=4, checkpoint_every=10, sample_every=20, log_every=1,
                swapper=FaceSwapperConfig(32, 16, (16, 16), 1, 32, 16), face_mask=ParserConfig((8, 8), 1, 1),
                discriminator=ProjectedDiscriminatorConfig(width=8), light_side=4,
                recogniser=RecogniserConfig(96, (8, 16, 24), (8, 16, 24), (1, 1, 1), embedding=32),
                feature_network="pretrained:efficientnet_lite0:3", seen_at=64,
                parser="", classifier="", recognition="",
            )  # fmt: skip
        if preset == "small":
            return FaceSwapConfig()
        return FaceSwapConfig(
            size=512, global_batch=32, steps=400_000, loader_processes=8, checkpoint_every=1000,
            swapper=FaceSwapperConfig(256, 32, (64, 128, 256, 512, 512), 3, 512, 512),
            recogniser=_base_recogniser(), discriminator=ProjectedDiscriminatorConfig(256),
        )  # fmt: skip

    def check(self, config: FaceSwapConfig) -> None:
        super().check(config)
        check_size(MASK_SIDE, config.face_mask.widths)
        for key in ("size", "seen_at"):
            if getattr(config, key) % 64:
                raise RayfaceError(f"{key}={getattr(config, key)} must be divisible by 64, of which the window is cut")
        if config.global_batch % 2:
            raise RayfaceError(f"global_batch={config.global_batch} must be even: faces come in pairs")
        if config.swapper.identity != config.recogniser.embedding:
            raise RayfaceError(
                f"swapper.identity={config.swapper.identity} is not what the recogniser gives: "
                f"recogniser.embedding={config.recogniser.embedding}"
            )
        if not config.feature_network:
            raise RayfaceError("feature_network is empty; give one, for example pretrained:efficientnet_lite0:4")

    def build(self, config: FaceSwapConfig) -> dict[str, nn.Module]:
        return {
            "texture": TextureNetwork(config.swapper),
            "decoder": SwapDecoder(config.swapper),
            "face_mask": Parser(config.face_mask),
            "recogniser": Recogniser(config.recogniser),
            "centre": Centre(config.recogniser.embedding),
        }

    @torch.no_grad()
    def initial(self, config: FaceSwapConfig, dataset: "FaceDataset", frozen: Networks) -> dict[str, nn.Module] | None:
        """What the recogniser says on average."""
        if "recognition" not in frozen:
            return None
        if not isinstance(frozen["recognition"], Recogniser):
            raise RayfaceError(
                f"recognition={config.recognition} is a network of another build; give a model of recognition, and "
                "that one as second_recognition"
            )
        centre = Centre(config.recogniser.embedding)
        said = []
        for first in range(0, min(len(dataset), AVERAGED), config.global_batch):
            chosen = range(first, min(first + config.global_batch, len(dataset), AVERAGED))
            crops = dataset.batch(chosen, ("image",))["image"]
            assert isinstance(crops, Tensor)
            said.append(frozen["recognition"](to_float(crops)).cpu())
        centre.middle.copy_(torch.cat(said).mean(0))
        return {"centre": centre, "recogniser": frozen["recognition"]}

    def build_for_training(self, networks: Networks, config: FaceSwapConfig, frozen: Networks) -> dict[str, nn.Module]:
        channels: Sequence[int] = frozen["feature_network"].channels  # type: ignore[assignment]
        made: dict[str, nn.Module] = {"discriminator": PairDiscriminator(config.discriminator, channels)}
        if "recognition" in frozen:
            given = frozen["recognition"].config
            if given != config.recogniser:
                raise RayfaceError(
                    f"the recogniser {config.recognition} is built as {given}, recogniser as {config.recogniser}: give "
                    "the same settings"
                )
            self._check_centre(networks, frozen["recognition"])
            made["recogniser"] = copy.deepcopy(frozen["recognition"])
        return made

    @staticmethod
    def _check_centre(networks: Networks, recogniser: nn.Module) -> None:
        """A model that goes on (--init) has learned identities as its own recogniser tells them."""
        before, now = networks["recogniser"].state_dict(), recogniser.state_dict()
        if networks["centre"].middle.any() and not all(before[name].equal(now[name]) for name in now):  # type: ignore[operator]
            raise RayfaceError(
                "the model to go on from was trained with another recogniser: give that one, or start anew"
            )

    def optimizers(self, config: FaceSwapConfig) -> dict[str, OptimizerSpec]:
        warmup = min(100, config.steps // 10)
        return {
            "swapper": OptimizerSpec(
                ("texture", "decoder"), config.swapper_rate, (0.9, 0.99), warmup_steps=warmup, decay="cosine"
            ),
            "face_mask": OptimizerSpec(("face_mask",), config.mask_rate, (0.9, 0.99), decay="cosine"),
            "discriminator": OptimizerSpec(("discriminator",), config.discriminator_rate, (0.5, 0.99)),
        }

    def phases(self, config: FaceSwapConfig) -> list[Phase]:
        phases = [Phase("swapper", "swapper", self._swapper_loss)]
        if config.parser:
            phases.insert(0, Phase("face_mask", "face_mask", self._face_mask_loss, every=8, end=config.mask_until))
        if config.losses.adversarial > 0:
            start = config.adversarial_from
            phases.append(Phase("discriminator", "discriminator", self._discriminator_loss, start=start))
        return phases

    def prepare(
        self, batch: dict[str, Any], config: FaceSwapConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.augmentation import draw_view, mirror_images

        if len(generators) % 2:
            raise RayfaceError(f"global_batch={config.global_batch}: each worker needs an even share, faces in pairs")
        images = mirror_images(to_float(batch["image"]), generators)
        views = [torch.stack([draw_view(random) for random in generators]) for _ in range(2)]
        return {"image": images, "view": views[0], "other_view": views[1]}

    @staticmethod
    def _swapped(batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, Tensor]:
        """Windows float [N, 3, s, s] drawn of every face, and the identities they were given.

        The first of a pair is given its own, the second the first one's.
        """
        images = batch["image"]
        with torch.no_grad():
            known = identities(networks, _own(images, state))
        if _crossing(state):
            known = known.repeat_interleave(2, 0)
        return draw(networks, images, known), known

    def _swapper_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        losses, config, images = state.config.losses, state.config, batch["image"]
        drawn, wanted = self._swapped(batch, networks, state)
        shown = window(images, config.swapper.side)
        terms = self._made_again(_own(drawn, state), _own(shown, state), state)
        if losses.adversarial > 0 and state.step >= config.adversarial_from:
            terms["adversarial"] = F.softplus(-self._judged(batch, drawn, shown, networks, state)).mean()
        if _crossing(state):
            terms |= self._another(batch, drawn, wanted, networks, state)
        return torch.stack([getattr(losses, name) * term for name, term in terms.items()]).sum(), terms

    @staticmethod
    def _made_again(drawn: Tensor, shown: Tensor, state: PhaseState) -> dict[str, Tensor]:
        """Faces with their own identity are what they were."""
        look = state.frozen["feature_network"]
        with torch.no_grad():
            wanted = look(shown)
        return {
            "pixel": F.l1_loss(drawn, shown),
            "detail": detail_loss(drawn, shown),
            "perceptual": feature_distance(look(drawn), wanted).mean(),
        }

    @staticmethod
    def _another(
        batch: Batch, drawn: Tensor, wanted: Tensor, networks: Networks, state: PhaseState
    ) -> dict[str, Tensor]:
        """Faces with the identity of another are that person's, in the light, pose and expression that they had."""
        config, seen = state.config, batch["view"][1::2]
        donors, images = (resize_images(batch["image"][first::2], config.seen_at) for first in (0, 1))
        made = composed(images, drawn[1::2], where_drawn(networks, images))
        viewed = view(made, seen)
        with torch.no_grad():
            own = identities(networks, images)
        identity, apart = likeness_terms(identities(networks, viewed), wanted[1::2], own, config.strangers)
        light = [resize_images(window(each, each.shape[-1]), config.light_side) for each in (made, images)]
        terms = {
            "identity": identity,
            "apart": apart,
            "light": F.l1_loss(light[0], light[1]),
        }
        if "second_recognition" in state.frozen:
            terms["second_identity"], terms["second_apart"] = second_likeness(
                state.frozen["second_recognition"], viewed, donors, images, config.strangers
            )
        if "classifier" in state.frozen and config.losses.attributes > 0:
            terms["attributes"] = attributes_term(viewed, images, donors, state.frozen["classifier"])
        if "parser" in state.frozen and config.losses.parsing > 0:
            terms["parsing"] = moved_parts(made, images, state.frozen["parser"])
        return terms

    @staticmethod
    def _judged(batch: Batch, made: Tensor, photos: Tensor, networks: Networks, state: PhaseState) -> Tensor:
        """Logits of windows `made` of `photos`: those made again beside their photo (E4), the others alone."""
        look, judge, config = state.frozen["feature_network"], networks["discriminator"], state.config
        partners = None
        if config.pair:  # in another view: what goes together need not be equal
            partners = look(view(_own(photos, state), _own(batch["other_view"], state)))
        logits = [judge(partners, look(view(_own(made, state), _own(batch["view"], state))))]
        if _crossing(state):
            logits.append(judge(None, look(view(made[1::2], batch["view"][1::2]))))
        return torch.cat(logits).float()

    def _discriminator_loss(
        self, batch: Batch, networks: Networks, state: PhaseState
    ) -> tuple[Tensor, dict[str, Tensor]]:
        shown = window(batch["image"], state.config.swapper.side)
        with torch.no_grad():
            drawn, _ = self._swapped(batch, networks, state)
        real = self._judged(batch, shown, shown, networks, state)
        made = self._judged(batch, drawn, shown, networks, state)
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        return loss, {"photo_value": real.mean(), "made_value": made.mean()}

    def _face_mask_loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """Where the face is, as NetS sees it: what may be drawn anew."""
        face = parts_seen(state.frozen["parser"], batch["image"], (FACE,), state.config.size, MASK_SIDE)
        logits = networks["face_mask"](resize_images(batch["image"], MASK_SIDE)).float()
        return F.binary_cross_entropy_with_logits(logits, face), {}

    def evaluate(
        self,
        networks: Networks,
        config: FaceSwapConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.face_swap import face_swap_report

        def change(crops: Tensor, donors: Tensor | None) -> Tensor:
            return swapped_crops(networks, crops, donors, device, config.likeness.away)

        return face_swap_report(change, dataset, config.global_batch, limit)

    def of_pictures(self, networks: Networks) -> nn.Module:
        return FaceSwapper(networks)

    def sample_grid(self, networks: Networks, batch: Batch, config: FaceSwapConfig) -> Tensor:
        """Rows: textures; made again; with the identity of the next face; of the one after it."""
        from rayface.evaluation.pictures import grid

        images = batch["image"][:8]
        known = identities(networks, images)
        rows = [images, *(swap(networks, images, known.roll(-shift, 0)) for shift in range(3))]
        return grid([to_uint8(row.float().cpu().clamp(-1, 1)) for row in rows])

    def export_views(self, networks: Networks, config: FaceSwapConfig) -> dict[str, ExportView]:
        swapper, shows = (
            FaceSwapper(networks, config.likeness.away),
            "a face crop in channels 0 to 2, the donor's in 3 to 5",
        )
        return {"swap": ExportView(swapper, config.size, FaceSwapper.outputs, shows=shows, channels=6)}

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> SwapStep:
        return SwapStep(loaded, torch.device(device))


def _base_recogniser() -> RecogniserConfig:
    from rayface.systems.recognition import Recognition

    return Recognition().config("base").recogniser


def _crossing(state: PhaseState) -> bool:
    return state.config.cross and state.step >= state.config.cross_from


def _own(values: Tensor, state: PhaseState) -> Tensor:
    """Of the faces that are given their own identity: the first of each pair, without cross-identity steps all."""
    return values[::2] if _crossing(state) else values
