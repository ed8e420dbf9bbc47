"""What may be set of channel reduction; without torch-pruning, as every system's configuration holds it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rayface.errors import RayfaceError


@dataclass(frozen=True)
class PruningConfig:
    """Rounds of channel reduction. `ratio` of the channels of every group go in each round, or what `ratios` says:
    "NAME:RATIO", where NAME is a group or the beginning of several groups' names; the longest that fits counts.
    """

    rounds: int = 0  # 0: no channel goes
    every: int = 500  # steps between rounds; the first is after as many
    ratio: float = 0.25
    ratios: tuple[str, ...] = ()
    round_to: int = 8
    gate: bool = True  # without it nothing is scored
    tolerance: float = 1.0  # dB that a layer's score may lose in a round
    attempts: int = 4  # ratios that fail are halved and tried again as often; what still fails keeps all channels
    refit: bool = True  # fit what is left to what the whole layers gave
    photos: int = 16  # of the training data, on which layers are scored and fitted

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("every", 1), ("round_to", 1), ("attempts", 1), ("photos", 2)):
            if getattr(self, name) < least:
                raise RayfaceError(f"pruning.{name}={getattr(self, name)} must be at least {least}")
        if not self.tolerance >= 0:
            raise RayfaceError(f"pruning.tolerance={self.tolerance} dB must be at least 0")
        for name, ratio in {"": self.ratio, **self.named_ratios()}.items():
            if not 0 <= ratio < 1:
                raise RayfaceError(f"pruning: the ratio {name or 'of all'} is {ratio}; give a share from 0 to below 1")

    def named_ratios(self) -> dict[str, float]:
        named = {}
        for text in self.ratios:
            name, separator, value = text.rpartition(":")
            try:
                named[name.strip()] = float(value)
            except ValueError:
                separator = ""
            if not separator:
                raise RayfaceError(f"pruning.ratios: {text!r} is not NAME:RATIO, for example encoder.stem:0.3")
        return named

    def asked(self, groups: Sequence[str]) -> dict[str, float]:
        """The ratio asked of each group. Raises RayfaceError for a name that begins no group's."""
        named = self.named_ratios()
        unused = [name for name in named if not any(group.startswith(name) for group in groups)]
        if unused:
            raise RayfaceError(f"pruning.ratios: no group begins with {unused[0]!r}; there are: {', '.join(groups)}")
        fitting = {group: max((n for n in named if group.startswith(n)), key=len, default="") for group in groups}
        return {name: named.get(fit, self.ratio) for name, fit in fitting.items()}

    def due(self, step: int) -> bool:
        """Whether channels go after so many steps."""
        return step % self.every == 0 and 1 <= step // self.every <= self.rounds
