"""Steps whose gradients are not numbers: found before the phase's optimiser steps, their batch kept to be looked at."""

import io
from collections.abc import Iterable

import torch
from torch import nn

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes
from rayface.systems.base import Batch

KEPT = 3  # batches of a run that are kept
IN_A_ROW = 10  # steps that may be skipped one after the other


class NotFiniteError(Exception):
    """The gradients of a phase are not numbers; it has not changed the networks (phases before it in the step have)."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase)
        self.phase = phase


def gradients_are_finite(networks: Iterable[nn.Module]) -> bool:
    """Whether all gradients are numbers; the same on all ranks, as theirs are averaged."""
    gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    return not gradients or bool(torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all())


class Faults:
    """What becomes of such steps in one run: `policy` is SystemConfig.on_nan."""

    def __init__(self, policy: str, folder: str, rank: int) -> None:
        self.policy, self.folder, self.rank = policy, folder, rank
        self.found = self.in_a_row = 0

    def passed(self) -> None:
        """A step went well."""
        self.in_a_row = 0

    def met(self, fault: NotFiniteError, step: int, batch: Batch) -> None:
        """Keep this rank's part of the batch and say where.

        Raises RayfaceError where the run is to stop, and where too many steps in a row were skipped.
        """
        self.found += 1
        self.in_a_row += 1
        what = f"the gradients of phase {fault.phase!r} are not numbers at step {step}"
        if self.found <= KEPT:
            what += f"; its batch is kept in {self._keep(fault.phase, step, batch)}"
        if self.policy == "stop":
            raise RayfaceError(
                f"{what}. Lower the learning rate, look at the batch, or leave it out by --set on_nan=skip"
            )
        if self.in_a_row > IN_A_ROW:
            raise RayfaceError(f"{what}, like the {IN_A_ROW} steps before it: lower the learning rate")
        if self.rank == 0:
            print(f"{what}; the step is skipped", flush=True)

    def _keep(self, phase: str, step: int, batch: Batch) -> str:
        held = io.BytesIO()
        torch.save({"phase": phase, "step": step, "batch": {key: value.cpu() for key, value in batch.items()}}, held)
        filesystem, folder = open_filesystem(self.folder)
        path = f"{folder}/not-a-number-step-{step}-rank-{self.rank}.pt"
        write_bytes(held.getvalue(), path, filesystem)
        return path
