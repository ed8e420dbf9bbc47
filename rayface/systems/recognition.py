"""Recognition (SPEC E5, E2): face crop -> embedding that tells people apart, by a margin loss, a teacher, or both."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.margin import ArcMargin
from rayface.networks.recogniser import Recogniser, RecogniserConfig, narrowed
from rayface.systems.base import Batch, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

NARROWING_PHOTOS = 256  # on which the channels that dlib's network keeps are chosen
COSINE_PHOTOS = 1000  # of a split, on which `cosines` are chosen
# The share of pairs of different people that may be as alike as one person. The cosines of dlib's network and of
# recognition@r1 were chosen by hand before this rule, which gives them within 0.005 on the same photos of CelebA.
AS_ALIKE = {"same_person": 1 / 30_000, "perhaps_same_person": 1 / 500}


@dataclass(frozen=True)
class RecognitionLosses:
    """Weights; a term of weight 0 is not computed."""

    margin: float = 0.0  # ArcFace; needs identities
    distillation: float = 1.0  # 1 - cosine to the teacher's embedding of the clean crop; needs `teacher`


@dataclass(frozen=True)
class RecognitionAugmentation:
    """What the trained network sees instead of the clean crop."""

    shift: float = 0.03  # crops are moved, turned and scaled a little: a detector is never exact
    jitter: float = 0.3  # brightness, contrast and saturation change by up to this factor
    degrade: float = 0.6  # share of pictures that are made blurry, noisy or over-compressed
    occlude: float = 0.2  # share of pictures of which a part is hidden


@dataclass(frozen=True, kw_only=True)
class RecognitionConfig(SystemConfig):
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    losses: RecognitionLosses = field(default_factory=RecognitionLosses)
    augmentation: RecognitionAugmentation = field(default_factory=RecognitionAugmentation)
    teacher: str = ""  # a recogniser to learn from: a store reference, or "pretrained:dlib"
    start_from: Literal["random", "dlib"] = "random"  # dlib: its network, narrowed to this one's widths
    margin: float = 0.5  # radians; less for few people
    scale: float = 64.0  # of the logits; less for few people
    margin_warmup: int = 0  # steps over which the margin grows to its full size
    identities: int = 0  # people in the training data; counted when a run is resolved
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4


class Recognition(System):
    name = "recognition"
    config_class = RecognitionConfig
    columns = ("image", "identity_index")
    released = ("recogniser",)
    frozen_systems = {"teacher": "recognition"}  # noqa: RUF012

    @property
    def labels(self) -> list[str]:
        """None: a teacher needs no identities, and `fitted` checks them for a margin loss."""
        return []

    def config(self, preset: str) -> RecognitionConfig:
        if preset == "tiny":
            return RecognitionConfig(
                size=64, global_batch=8, steps=20, checkpoint_every=10, sample_every=20, log_every=1,
                recogniser=RecogniserConfig(96, (8, 16, 24), (8, 16, 24), (1, 1, 1), embedding=32),
                losses=RecognitionLosses(margin=1, distillation=0), margin=0.2, scale=16,
            )  # fmt: skip
        if preset == "small":
            return RecognitionConfig(
                global_batch=32, steps=4000, checkpoint_every=200, teacher="pretrained:dlib", start_from="dlib",
                recogniser=RecogniserConfig(hidden=(32, 48, 64, 72, 64)), learning_rate=5e-4,
            )  # fmt: skip
        widths = (64, 128, 256, 512, 512)
        return RecognitionConfig(
            global_batch=512, steps=200_000, checkpoint_every=1000, loader_processes=8, margin_warmup=10_000,
            recogniser=RecogniserConfig(widths=widths, hidden=widths, embedding=512),
            losses=RecognitionLosses(margin=1, distillation=0),
        )  # fmt: skip

    def check(self, config: RecognitionConfig) -> None:
        super().check(config)
        losses = config.losses
        if min(losses.margin, losses.distillation) < 0 or max(losses.margin, losses.distillation) == 0:
            raise RayfaceError("losses.margin and losses.distillation must not be negative, and one must be above 0")
        if losses.distillation > 0 and not config.teacher:
            raise RayfaceError(
                f"losses.distillation={losses.distillation} needs a teacher: --set teacher=pretrained:dlib, or a "
                "recognition model of the store"
            )
        if not 0 <= config.margin < np.pi / 2 or config.scale <= 0:
            raise RayfaceError(f"margin={config.margin} must be in [0, pi/2) and scale={config.scale} above 0")

    def fitted(self, config: RecognitionConfig, dataset: "FaceDataset") -> RecognitionConfig:
        if config.losses.margin > 0 and len(dataset.people) < 2:
            raise RayfaceError(
                f"losses.margin={config.losses.margin} needs faces of at least two known people; {dataset.path} has "
                f"{len(dataset.people)} in its training split. Ingest with --format identity or with CelebA's identity "
                "labels, draw faces (`rayface data synth`), or learn from a teacher alone: --set losses.margin=0 "
                "--set losses.distillation=1 --set teacher=pretrained:dlib",
                kind="missing-column",
            )
        return replace(config, identities=len(dataset.people))

    def build(self, config: RecognitionConfig) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"recogniser": Recogniser(config.recogniser)}
        if config.losses.margin > 0:
            networks["margin"] = ArcMargin(config.identities, config.recogniser.embedding)
        return networks

    def build_for_training(
        self, networks: Networks, config: RecognitionConfig, frozen: Networks
    ) -> dict[str, nn.Module]:
        if "teacher" in frozen:
            if not isinstance(frozen["teacher"], Recogniser):
                raise RayfaceError(f"teacher={config.teacher} is a network of another build; give a model or dlib's")
            teacher = frozen["teacher"].config.embedding
            if teacher != config.recogniser.embedding:
                raise RayfaceError(
                    f"teacher={config.teacher} gives {teacher} numbers, the network to train "
                    f"{config.recogniser.embedding}; --set recogniser.embedding={teacher}"
                )
        return {}

    def initial(
        self, config: RecognitionConfig, dataset: "FaceDataset", frozen: Networks
    ) -> dict[str, nn.Module] | None:
        """dlib's network with the channels that matter most on the first training photos."""
        if config.start_from != "dlib":
            return None
        from rayface.pretrained.dlib_resnet import load_dlib_recogniser

        images = dataset.batch(range(min(len(dataset), NARROWING_PHOTOS)))["image"]
        assert isinstance(images, Tensor)
        return {"recogniser": narrowed(load_dlib_recogniser(), config.recogniser, to_float(images))}

    def began_as(self, config: RecognitionConfig) -> dict[str, str]:
        return {"start_from": "pretrained:dlib"} if config.start_from == "dlib" else {}

    def finish(
        self, networks: Networks, config: RecognitionConfig, dataset: "FaceDataset", device: torch.device
    ) -> dict[str, Any]:
        """`cosines`, from where on two faces are of one person, where the data has enough people: `chosen_cosines`.

        A margin loss drives the people apart that it is trained on, so those of the validation split count too.
        """
        from rayface.data.dataset import FaceDataset

        splits = [dataset]
        with contextlib.suppress(RayfaceError):  # there is no such split
            splits.append(FaceDataset(dataset.path, "validation", config.size))
        recogniser = networks["recogniser"]
        cosines = chosen_cosines([different_people(recogniser, faces, config.global_batch, device) for faces in splits])
        return {"cosines": cosines} if cosines else {}

    def optimizers(self, config: RecognitionConfig) -> dict[str, OptimizerSpec]:
        trained = ("recogniser", "margin") if config.losses.margin > 0 else ("recogniser",)
        return {
            "main": OptimizerSpec(
                trained, config.learning_rate, weight_decay=config.weight_decay,
                warmup_steps=min(200, config.steps // 10), decay="cosine",
            )
        }  # fmt: skip

    def phases(self, config: RecognitionConfig) -> list[Phase]:
        return [Phase("recogniser", "main", self._loss)]

    def frozen_models(self, config: RecognitionConfig) -> dict[str, str]:
        return {"teacher": config.teacher} if config.losses.distillation > 0 else {}

    def prepare(
        self, batch: dict[str, Any], config: RecognitionConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.augmentation import jitter_colour, mirror_images, move_images, occlude
        from rayface.data.degradation import degrade_some

        amounts = config.augmentation
        clean = mirror_images(to_float(batch["image"]), generators)
        seen = jitter_colour(move_images(clean, amounts.shift, generators), amounts.jitter, generators)
        seen = occlude(seen, amounts.occlude, generators)
        seen = degrade_some(seen, amounts.degrade, generators)
        return {"clean": clean, "seen": seen, "identity": batch["identity_index"]}

    def _loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        config = state.config
        embeddings = networks["recogniser"](batch["seen"]).float()
        terms, metrics = {}, {}
        if config.losses.margin > 0:
            grown = min(1.0, (state.step + 1) / max(1, config.margin_warmup))
            loss, right = networks["margin"](embeddings, batch["identity"], grown * config.margin, config.scale)
            terms["margin"], metrics["accuracy"] = loss.mean(), right.mean()
        if config.losses.distillation > 0:
            with torch.no_grad():
                taught = state.frozen["teacher"](batch["clean"]).float()
            terms["distillation"] = (1 - F.cosine_similarity(embeddings, taught)).mean()
        total = torch.stack([getattr(config.losses, name) * term for name, term in terms.items()]).sum()
        return total, terms | metrics

    @torch.no_grad()
    def readout(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        """What it is to know of a worse photo: its own embedding of the clean one."""
        return batch["seen"], networks["recogniser"].eval()(batch["clean"]).float()

    def evaluate(
        self,
        networks: Networks,
        config: RecognitionConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.data.dataset import FaceDataset
        from rayface.evaluation.judges import baselines_wanted
        from rayface.evaluation.verification import lfw_report, pixels, verification_report

        def embed_crops(crops: Tensor) -> Tensor:
            return embed(networks["recogniser"], crops, device)

        if not baselines_wanted():
            return verification_report(embed_crops, dataset, config.global_batch, limit)
        others = {"pixels": pixels}
        try:
            from rayface.pretrained import load_pretrained

            dlib = load_pretrained("pretrained:dlib").to(device)
            others["dlib"] = lambda crops: embed(dlib, crops, device)
        except RayfaceError as missing:
            if missing.kind != "missing-package":
                raise
        report = verification_report(embed_crops, dataset, config.global_batch, limit, others)
        everybody = FaceDataset(dataset.path, None, dataset.size)
        if lfw := lfw_report(embed_crops, everybody, config.global_batch):
            report["lfw"] = lfw
        return report

    def sample_grid(self, networks: Networks, batch: Batch, config: RecognitionConfig) -> Tensor:
        """Clean crops, what was made of them, and below each of these a column of its cosines to the clean ones.

        Black is the lowest of them, white the highest: a bright diagonal means that faces are known again.
        """
        from rayface.evaluation.pictures import grid

        clean, seen = batch["clean"][:6], batch["seen"][:6]
        known, found = (F.normalize(networks["recogniser"](faces).float()) for faces in (clean, seen))
        cosines = (known @ found.T).cpu()
        cosines = (cosines - cosines.min()) / (cosines.max() - cosines.min()).clamp_min(1e-6)
        levels = cosines.mul(255).round().to(torch.uint8)
        tiles = [row[:, None, None, None].expand(-1, 3, *clean.shape[-2:]) for row in levels]
        return grid([to_uint8(clean.cpu()), to_uint8(seen.cpu()), *tiles])


@torch.inference_mode()
def embed(recogniser: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """uint8 [N, 3, S, S] -> embeddings of unit length, float [N, D] on the CPU; their product is the cosine."""
    return F.normalize(recogniser(to_float(crops.to(device))).float()).cpu()


def different_people(recogniser: nn.Module, faces: "FaceDataset", batch: int, device: torch.device) -> np.ndarray:
    """Cosines of all pairs of different people among up to COSINE_PHOTOS faces of known people: float32 [P]."""
    from rayface.evaluation.verification import embed_faces

    known = np.flatnonzero(faces.identity_index >= 0)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), COSINE_PHOTOS)).astype(int)]
    if not len(chosen):
        return np.zeros(0, np.float32)
    vectors = embed_faces(lambda crops: embed(recogniser, crops, device), faces, chosen.tolist(), batch)
    first, second = np.triu_indices(len(chosen), 1)
    apart = faces.identity_index[chosen[first]] != faces.identity_index[chosen[second]]
    return (vectors @ vectors.T)[first[apart], second[apart]]


def chosen_cosines(splits: Sequence[np.ndarray]) -> dict[str, float]:
    """Cosines from which on faces are of one person, and perhaps are (`labelling.groups`), for a recogniser.

    Of each split, the cosines of pairs of different people, float [P]. A split gives the quantiles above which AS_ALIKE
    of its pairs lie; the higher one counts. Splits of fewer pairs than the smallest share needs, 250 people, have no
    such quantile; where all do: {}.
    """
    large = [pairs for pairs in splits if len(pairs) >= 1 / min(AS_ALIKE.values())]
    if not large:
        return {}
    return {
        name: round(max(float(np.quantile(pairs, 1 - share)) for pairs in large), 4) for name, share in AS_ALIKE.items()
    }
