"""The attribute classifier (SPEC A1, `NetA`): EfficientNet-Lite features on a grid over the face, one linear read-out.

Attributes are local (a smile, a necklace) and faces are aligned, so each attribute reads every cell of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from rayface.records import ATTRIBUTES

# Of `fit_read_out`, chosen by 5-fold cross-validation on the 683 train photos of celeba-mini; flat around them.
RIDGE = 3.0
SLOPE = 4.0  # from the regression's -1 to 1 to logits
SCALE_SPREAD = 0.3  # priors of `fit_calibration`: standard deviations of log scale (around the shared one) ...
BIAS_SPREAD = 0.5  # ... and of bias


@dataclass(frozen=True)
class AttributeClassifierConfig:
    backbone: EfficientNetLiteConfig = field(default_factory=EfficientNetLiteConfig)
    last_blocks: int = 1  # blocks kept of the backbone's last stage, which holds most of its parameters
    stages: tuple[int, ...] = (3, 4)  # which stages the read-out sees
    grid: int = 8  # cells a side, to which their maps are averaged


class AttributeClassifier(nn.Module):
    """Face crop float [N, 3, S, S] in [-1, 1] -> logits float [N, A] of `labels`, by default `records.ATTRIBUTES`, 40.

    The logits are calibrated: sigmoid gives a probability, and 0 is the decision (see `fit_calibration`).
    """

    outputs = ("logits",)
    feature_mean: Tensor
    feature_deviation: Tensor
    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(self, config: AttributeClassifierConfig, labels: Sequence[str] = ATTRIBUTES) -> None:
        super().__init__()
        self.config = config
        self.labels = tuple(labels)
        self.backbone = EfficientNetLite(config.backbone)
        truncate(self.backbone, config.last_blocks)
        for layer in self.backbone.modules():
            if isinstance(layer, nn.Conv2d):  # no norms: activations must keep their size by themselves
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        features = sum(self.backbone.channels[stage] for stage in config.stages) * config.grid**2
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_deviation", torch.ones(features))
        self.read_out = nn.Linear(features, len(labels))
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)
        self.register_buffer("logit_scale", torch.ones(len(labels)))
        self.register_buffer("logit_bias", torch.zeros(len(labels)))

    def features(self, images: Tensor) -> Tensor:
        """What the read-out sees, before it is standardised: float32 [N, F]."""
        return grid_features(self.backbone(images), self.config.stages, self.config.grid)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.features(images))

    def read(self, features: Tensor) -> Tensor:
        """Logits float [N, 40] of features float [N, F]."""
        standard = (features - self.feature_mean) / self.feature_deviation
        # vectors of about length 1, however many features there are: one learning rate suits all sizes
        logits = self.read_out(standard / standard.shape[1] ** 0.5).float()
        return logits * self.logit_scale + self.logit_bias

    @torch.no_grad()
    def fit_read_out(self, features: Tensor, labels: Tensor) -> None:
        """Standardise the backbone's features and fit the read-out to labels [N, 40] (1, -1, 0 unknown).

        Features float [K, N, F]: of K views of each face. Ridge regression in closed form, in its dual form: there are
        more features than faces. Calibration starts afresh.
        """
        features, labels = features.flatten(0, 1), labels.repeat(len(features), 1)
        deviation, mean = torch.std_mean(features, 0)
        deviation += 1e-3 * deviation.mean()
        x, y = (features - mean) / (deviation * features.shape[1] ** 0.5), labels.double()
        offset = y.mean(0)
        kernel = (x @ x.T).double()
        dual = torch.linalg.solve(kernel + RIDGE * torch.eye(len(x)), y - offset).float()
        self.feature_mean.copy_(mean)
        self.feature_deviation.copy_(deviation)
        self.read_out.weight.copy_(SLOPE * dual.T @ x)
        self.read_out.bias.copy_(SLOPE * offset)
        self.logit_scale.fill_(1)
        self.logit_bias.zero_()

    def calibrate(self, scale: Tensor, bias: Tensor) -> None:
        """Map the logits it gives now to `scale * logits + bias`, each float [40]."""
        self.logit_bias.copy_(self.logit_bias * scale + bias)
        self.logit_scale.mul_(scale)


def truncate(backbone: EfficientNetLite, last_blocks: int) -> None:
    """Keep the first blocks of the backbone's last stage only."""
    kept = backbone.stages[-1][:last_blocks]  # type: ignore[index]
    backbone.stages[-1] = kept
    backbone.channels[-1] = kept[-1].project.out_channels


def grid_features(maps: list[Tensor], stages: tuple[int, ...], grid: int) -> Tensor:
    """The maps of some stages averaged to `grid` x `grid` cells, side by side: float32 [N, F]."""
    return torch.cat([F.adaptive_avg_pool2d(maps[stage].float(), grid).flatten(1) for stage in stages], 1)


def fit_calibration(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and bias per attribute that make held-out logits float [N, A] probabilities of labels [N, A] (1, -1, 0).

    Platt scaling (Platt 1999) shrunk for few photos: the log scales are normal around one that all attributes share,
    the biases around 0, so that with no photo nothing changes and with many each attribute has its own.
    """
    logits, known = logits.double().cpu(), (labels != 0).double().cpu()
    target = (labels.cpu() > 0).double()
    shared = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    own, bias = (torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([shared, own, bias], max_iter=200, line_search_fn="strong_wolfe")

    def penalised() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * (shared + own).exp() + bias
        likelihood = (F.binary_cross_entropy_with_logits(scaled, target, reduction="none") * known).sum()
        prior = (own / SCALE_SPREAD).square().sum() + (bias / BIAS_SPREAD).square().sum() + shared.square().sum()
        total = likelihood + prior / 2
        total.backward()
        return total

    optimizer.step(penalised)
    return (shared + own).exp().detach().float(), bias.detach().float()
