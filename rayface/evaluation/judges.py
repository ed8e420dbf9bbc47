"""Judges: frozen networks that score pictures and train nothing (docs/judges.md says what each is worth).

A metric of theirs is computed where the judge is at hand; where it is not, the report names the metric and how to get
it. A network that a model was trained with is no judge of that model.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float
from rayface.networks.efficientnet_lite import feature_distance

AT_ONCE = 16  # pictures a judge looks at together
SMALLEST_TENSOR = 64  # elements; smaller ones, and those of one value (ones, zeros), may be equal by chance


@dataclass(frozen=True)
class Judge:
    """A frozen network: crops float [N, 3, S, S] in [-1, 1] -> what its metrics compare."""

    measures: str
    licence: str
    load: Callable[[], nn.Module]  # raises RayfaceError, with the way to get it, where it is absent


def _identity() -> nn.Module:
    from rayface.pretrained.dlib_resnet import load_dlib_recogniser

    return load_dlib_recogniser()


def _identity_second() -> nn.Module:
    from rayface.pretrained.faceres import load_faceres

    return load_faceres()


def _perceptual() -> nn.Module:
    from rayface.pretrained.efficientnet import load_efficientnet_lite

    return load_efficientnet_lite(1)


def _parsing() -> nn.Module:
    from rayface.evaluation.parsing_judge import load_parsing_judge

    return load_parsing_judge()


def _attributes() -> nn.Module:
    from rayface.evaluation.attribute_judge import load_attribute_judge

    return load_attribute_judge()


JUDGES = {
    "identity": Judge("who it is: dlib's face recognition ResNet, 128-d", "CC0-1.0", _identity),
    "identity_second": Judge("who it is: FaceRes, a MobileNet of other origin, 1024-d", "MIT", _identity_second),
    "perceptual": Judge("how alike it looks: EfficientNet-Lite1 of ImageNet, 5 stages", "Apache-2.0", _perceptual),
    "attributes": Judge("what is seen in it: 40 attributes, on EfficientNet-Lite2", "research-only", _attributes),
    "parsing": Judge("where its parts are: a parser of 19 classes", "research-only", _parsing),
}


@dataclass(frozen=True)
class LoadedJudge:
    network: nn.Module
    sha256: str  # of its weights as loaded
    tensors: frozenset[str]  # hashes of the single tensors


@cache
def load_judge(name: str) -> LoadedJudge:
    """The judge of that name, on the CPU, loaded once a process. Raises RayfaceError where it is absent."""
    network = JUDGES[name].load().float().eval().requires_grad_(False)
    whole = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        whole.update(key.encode() + _content(value))
    return LoadedJudge(network.to(memory_format=torch.channels_last), whole.hexdigest(), fingerprints(network))


def fingerprints(network: nn.Module) -> frozenset[str]:
    """Hashes of a network's tensors: two networks that share one are, in part, the same network.

    Of their values in half precision, as releases are stored: a judge is also the network that it was rounded from.
    """
    tensors = (value.half() for value in network.state_dict().values() if value.numel() >= SMALLEST_TENSOR)
    return frozenset(hashlib.sha256(_content(value)).hexdigest() for value in tensors if value.min() < value.max())


def _content(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().tobytes()


def euclidean_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).norm(dim=1)


def cosine_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(ours, theirs)


def mean_difference(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean(1)


# metric -> its judge and the distance of what the judge saw in two pictures; lower is better for all of them
JUDGED_METRICS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "perceptual_distance": ("perceptual", feature_distance),
    "identity_distance": ("identity", euclidean_distance),
    "identity_distance_second": ("identity_second", cosine_distance),
    "attribute_distance": ("attributes", mean_difference),
}


class JudgedMetric:
    """A picture metric: two uint8 batches [N, 3, S, S] -> float [N] on the CPU.

    What the judge saw in the last `reference` is kept: a report compares many methods with one clear batch.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        judge, self.distance = JUDGED_METRICS[name]
        self.network = load_judge(judge).network.to(device)
        self.device = device
        self.reference: Tensor | None = None
        self.seen: list[list[Tensor] | Tensor] = []

    def __call__(self, pictures: Tensor, reference: Tensor) -> Tensor:
        if reference is not self.reference:
            self.seen = [self.look(part) for part in reference.split(AT_ONCE)]
            self.reference = reference
        parts = zip(pictures.split(AT_ONCE), self.seen, strict=True)
        return torch.cat([self.distance(self.look(part), seen).cpu() for part, seen in parts])

    @torch.inference_mode()
    def look(self, pictures: Tensor) -> list[Tensor] | Tensor:
        """What the judge sees in uint8 [N, 3, S, S], in fp32."""
        with torch.autocast(self.device.type, enabled=False):
            return self.network(to_float(pictures.to(self.device)).contiguous(memory_format=torch.channels_last))


@torch.inference_mode()
def ask(network: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """What a judge says of crops uint8 [N, 3, S, S], in fp32, on the CPU; a few at a time."""
    parts = []
    for part in crops.split(AT_ONCE):
        images = to_float(part.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, enabled=False):
            parts.append(network(images).cpu())
    return torch.cat(parts)


@dataclass
class Panel:
    """What one evaluation asks: which judges not and why, which it asked, what is missing and why; baselines too?"""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    refused: Mapping[str, str] = field(default_factory=dict)  # judge -> why
    baselines: bool = True  # classical methods beside the model; a search, that compares models, leaves them out
    asked: dict[str, str] = field(default_factory=dict)  # judge -> sha256
    missing: dict[str, str] = field(default_factory=dict)  # metric -> why, and how to get it

    def metrics(self) -> dict[str, JudgedMetric]:
        """The metrics whose judges are at hand and not refused; the others go to `missing`."""
        found = {}
        for name, (judge, _) in JUDGED_METRICS.items():
            if self.network(judge, (name,)) is not None:
                found[name] = JudgedMetric(name, self.device)
        return found

    def network(self, judge: str, metrics: Sequence[str]) -> nn.Module | None:
        """The judge itself, on the panel's device; where it is refused or absent None, and `metrics` are missing."""
        try:
            if judge in self.refused:
                raise RayfaceError(self.refused[judge])
            loaded = load_judge(judge)
        except RayfaceError as error:
            self.missing |= dict.fromkeys(metrics, str(error))
            return None
        self.asked[judge] = loaded.sha256
        return loaded.network.to(self.device)


_panel: ContextVar[Panel | None] = ContextVar("panel", default=None)


@contextlib.contextmanager
def using(panel: Panel) -> Iterator[Panel]:
    """Within it `judged_metrics` asks this panel: `rayface evaluate` wraps a system's own evaluation in it."""
    token = _panel.set(panel)
    try:
        yield panel
    finally:
        _panel.reset(token)


def judging() -> Panel:
    """The panel of the evaluation that goes on, or of all judges."""
    return _panel.get() or Panel()


def judged_metrics() -> dict[str, JudgedMetric]:
    """The judges' metrics that can be measured here, by name; they are called as those of PICTURE_METRICS."""
    return judging().metrics()


def baselines_wanted() -> bool:
    """Whether an evaluation should measure classical methods beside the model."""
    return judging().baselines


def refusals(loss_networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """Which judges share weights with networks that a model was trained with, and why they are refused for it."""
    found = {}
    tensors = {reference: fingerprints(network) for reference, network in loss_networks.items()}
    for name in JUDGES if tensors else ():  # judges are loaded only where there is something to compare
        with contextlib.suppress(RayfaceError):
            judge = load_judge(name)
            for reference, held in tensors.items():
                if judge.tensors & held:
                    found[name] = f"not measured: the judge {name!r} is {reference}, which this model was trained with"
    return found


def refused_by_terms() -> dict[str, str]:
    """Which judges may not be used where only commercial use is allowed, and why."""
    why = "not measured: the judge {!r} is for research only, and only what allows commercial use may be used here"
    return {name: why.format(name) for name, judge in JUDGES.items() if judge.licence == "research-only"}
