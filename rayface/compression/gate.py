"""Channel reduction that a quality gate watches over (SPEC C2, C4): which ratios are kept, and the trail of why."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rayface.compression.channels import ChannelGroup, channel_groups, remaining, surviving
from rayface.compression.readout import layer_scores
from rayface.compression.settings import PruningConfig
from rayface.networks.widths import Kept, cut


def reduce_channels(
    network: nn.Module, inputs: Tensor, target: Tensor, config: PruningConfig, round_: int
) -> tuple[Kept, list[dict[str, Any]]]:
    """Decide a round's reduction: every ratio as asked, those of layers that then know too little halved.

    Args:
        inputs, target: float [N, 3, S, S] and what the network should give, as `readout.layer_scores` takes them.

    Returns:
        Which entries of the parameters survive (the network itself is left as it is), and of every convolution a
        line of the trail: round, layer, group, channels and how many are left, ratio asked and kept, score before
        and after in dB, verdict (these three None without the gate, which alone asks for them).
    """
    example = inputs[:1]
    groups = channel_groups(network, example)
    asked = config.asked([group.name for group in groups])
    ratios = dict(asked)
    before = layer_scores(network, inputs, target) if config.gate else {}
    after: dict[str, float] = {}
    for attempt in itertools.count(1):  # ends: once the attempts are over every failure leaves one ratio less
        kept = surviving(network, example, ratios, config.round_to)
        if config.gate:
            after = layer_scores(cut(network, kept), inputs, target)
        failed = [group.name for group in groups if ratios[group.name] and _failing(group, before, after, config)]
        if not failed:
            break
        for name in failed:
            ratios[name] = ratios[name] / 2 if attempt < config.attempts else 0.0
    return kept, _trail(groups, asked, ratios, before, after, config, round_)


def _failing(
    group: ChannelGroup, before: Mapping[str, float], after: Mapping[str, float], config: PruningConfig
) -> bool:
    return any(name in after and after[name] < before[name] - config.tolerance for name in group.producers)


def _trail(
    groups: Sequence[ChannelGroup], asked: Mapping[str, float], ratios: Mapping[str, float],
    before: Mapping[str, float], after: Mapping[str, float], config: PruningConfig, round_: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each convolution, as `reduce_channels` says."""
    lines: list[dict[str, Any]] = []
    for group in groups:
        for layer in group.producers:
            if before and layer not in before:  # linear layers have no places to read from
                continue
            lines.append(
                {
                    "round": round_, "layer": layer, "group": group.name, "channels": group.channels,
                    "left": remaining(group.channels, ratios[group.name], config.round_to),
                    "asked": asked[group.name], "kept": ratios[group.name],
                    "score_before": None, "score": None, "verdict": None,
                }
            )  # fmt: skip
            if before:
                passes = after[layer] >= before[layer] - config.tolerance
                scores = {"score_before": round(before[layer], 3), "score": round(after[layer], 3)}
                lines[-1] |= scores | {"verdict": "passes" if passes else "fails"}
    return lines
