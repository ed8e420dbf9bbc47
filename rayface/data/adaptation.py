"""Adaptive degradation (SPEC C1, C3): the coefficients of each type harden or ease by what the discriminator says.

Of its outputs on clear, enhanced and degraded pictures the means over a round (and over all ranks) give the factor

    (enhanced - degraded) / (clear - degraded)

near 1 where the enhancer has mastered the task, near 0 where it brings nothing. Each type has a factor of its own, from
means in which a picture weighs as much as that type acts on it. (StyleGAN-ADA's r measures something else, overfitting
of the discriminator.) All numbers live in the controller of the training, so a resumed run goes on exactly.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rayface.data.degradation import MAX_STRENGTH, TYPES, DegradationConfig
from rayface.errors import RayfaceError

VALUES = ("clear", "enhanced", "degraded")


@dataclass(frozen=True)
class AdaptationConfig:
    """After each round of `every` steps a type whose factor is above `high` gets stronger, one below `low` weaker."""

    every: int = 0  # steps of a round; 0: the coefficients stay as they are
    # Factors of a discriminator that has seen some thousand pictures lie between 0 and 0.3, and strengths that shrink
    # cost quality on hard inputs (docs/compression.md).
    low: float = 0.0
    high: float = 0.05
    gain: float = 0.1  # share by which a strength grows or shrinks in a round
    least: float = 1.0  # strengths shrink and grow no further than these
    most: float = 1.3
    margin: float = (
        0.1  # where clear and degraded are no further apart the discriminator cannot tell, and nothing changes
    )

    def __post_init__(self) -> None:
        if self.every < 0:
            raise RayfaceError(f"adaptation.every={self.every} must be at least 0")
        if not 0 <= self.low < self.high:
            raise RayfaceError(f"adaptation: low={self.low} must be at least 0 and below high={self.high}")
        if not 0 < self.gain <= 1:
            raise RayfaceError(f"adaptation.gain={self.gain}: give a share above 0, at most 1")
        if not 0 < self.least <= self.most <= MAX_STRENGTH:
            raise RayfaceError(f"adaptation: least={self.least} and most={self.most} must lie in (0, {MAX_STRENGTH}]")
        if not self.margin > 0:
            raise RayfaceError(f"adaptation.margin={self.margin} must be above 0")


def observations(severity: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over a batch that the factors are made of, scalars by name; means of ranks average to the whole batch's.

    Args:
        severity: float [N, 5], how far each of TYPES acted on a picture, as `degradation.degrade_measured` gives it.
        values: the discriminator's output for each picture, float [N], by the names in VALUES.
    """
    weights = {"all": torch.ones_like(severity[:, 0])} | dict(zip(TYPES, severity.unbind(1), strict=True))
    found = {f"{kind}/weight": weight.mean() for kind, weight in weights.items()}
    for kind, weight in weights.items():
        found |= {f"{kind}/{name}": (weight * values[name].detach()).mean() for name in VALUES}
    return found


def remember(controller: MutableMapping[str, float], means: Mapping[str, float]) -> None:
    """Add a step's observations to the round's sums."""
    for name, value in means.items():
        controller[f"sum/{name}"] = controller.get(f"sum/{name}", 0.0) + value


def strengths(controller: Mapping[str, float], config: DegradationConfig) -> dict[str, float]:
    """Those in force, by type: the controller's once it has changed any, else the configuration's."""
    return {kind: controller.get(f"strength/{kind}", strength) for kind, strength in config.strengths.items()}


def adapt(controller: MutableMapping[str, float], config: AdaptationConfig, degradation: DegradationConfig) -> None:
    """End a round: factors from its sums, new strengths; without a factor a type keeps its strength."""
    now = strengths(controller, degradation)
    sums = {name: controller.pop(name) for name in [name for name in controller if name.startswith("sum/")]}
    for name in [name for name in controller if name.startswith("factor/")]:
        del controller[name]
    for kind in ("all", *TYPES):
        value = _factor(sums, kind, config.margin)
        if value is None:
            continue
        controller[f"factor/{kind}"] = value
        if kind in now and now[kind] > 0:  # a type that is switched off stays off
            now[kind] = _changed(now[kind], value, config)
    controller.update({f"strength/{kind}": strength for kind, strength in now.items()})


def _changed(strength: float, factor: float, config: AdaptationConfig) -> float:
    """One that was set beyond `least` or `most` by hand does not move further away from them."""
    if factor > config.high:
        return max(strength, min(strength * (1 + config.gain), config.most))
    if factor < config.low:
        return min(strength, max(strength / (1 + config.gain), config.least))
    return strength


def _factor(sums: Mapping[str, float], kind: str, margin: float) -> float | None:
    weight = sums.get(f"sum/{kind}/weight", 0.0)
    if weight <= 0:
        return None
    clear, enhanced, degraded = (sums[f"sum/{kind}/{name}"] / weight for name in VALUES)
    return (enhanced - degraded) / (clear - degraded) if clear - degraded > margin else None
