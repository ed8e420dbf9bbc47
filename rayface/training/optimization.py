"""Optimisers made from their specs; learning rates are a function of the step, so no scheduler has state."""

import math
from collections.abc import Mapping

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rayface.networks.widths import Kept, take
from rayface.systems.base import OptimizerSpec


def make_optimizer(spec: OptimizerSpec, networks: Mapping[str, nn.Module]) -> Optimizer:
    parameters = [p for key in spec.networks for p in networks[key].parameters()]
    if spec.kind == "sgd":
        return SGD(parameters, spec.learning_rate, momentum=0.9, weight_decay=spec.weight_decay)
    # eps above the round-off of gradients: with 1e-8, entries that are zero but for the order of a sum move by a whole
    # learning rate, and 2 x 8 drifts from 1 x 16 (measured: R1 6e-4 apart after 20 steps, 1e-6 with this)
    return AdamW(parameters, spec.learning_rate, spec.betas, eps=1e-6, weight_decay=spec.weight_decay)


def learning_rate(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """The rate at a step: linear warm-up, then constant, cosine or poly (0.9) decay to zero."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    progress = (step - spec.warmup_steps) / max(1, total_steps - spec.warmup_steps)
    if spec.decay == "cosine":
        return spec.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
    if spec.decay == "poly":
        return spec.learning_rate * max(0.0, 1 - progress) ** 0.9
    return spec.learning_rate


def rebuilt_optimizer(
    old: Optimizer, spec: OptimizerSpec, before: Mapping[str, nn.Module], after: Mapping[str, nn.Module],
    kept: Mapping[str, Kept],
) -> Optimizer:  # fmt: skip
    """An optimiser over the cut networks that remembers what the old one knew of the channels `kept` (by network)."""
    new = make_optimizer(spec, after)
    old_state = {
        (key, name): old.state.get(parameter, {})
        for key in spec.networks
        for name, parameter in before[key].named_parameters()
    }
    for key in spec.networks:
        for name, parameter in after[key].named_parameters():
            survivors = kept.get(key, {}).get(name)
            new.state[parameter] = {
                entry: take(value, survivors) if value.ndim else value.clone()
                for entry, value in old_state.get((key, name), {}).items()
            }
    return new
