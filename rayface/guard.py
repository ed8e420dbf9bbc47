"""The identity guard: a face may become clearer or brighter, but not somebody else.

Between the steps and the parser a recogniser compares every changed face with the photo's own. Where the two are less
alike than a threshold, only as much of the change is kept as passes, or none. The figures behind the choices here are
in docs/identity-guard.md, made by benchmarks/identity_guard.py.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from rayface.errors import RayfaceError
from rayface.stages import faces_together
from rayface.work import FaceReport, Work, tensor

if TYPE_CHECKING:
    from rayface.store import ModelStore

Action = Literal["blend", "skip", "off"]
ACTIONS: tuple[Action, ...] = ("blend", "skip", "off")
STAGE = "identify"  # what `models` calls the recogniser
# Side of the crops that are compared, px. A degraded face and its perfect restoration are hardly more alike to a
# recogniser than strangers, as it takes the blur for a trait; in a small view both lack the detail that one of them
# lacks, and who it is can still be told.
VIEW = 48
# With less than half of a change, a stranger's face shows through the photo's own, and a restoration is but a veil.
LEAST_KEPT = 0.5
HALVINGS = 3  # of the span above it in which the kept share is sought: a multiple of 1/16


def check_settings(action: str, threshold: float | None) -> None:
    """Raise RayfaceError for an identity_guard or similarity_threshold that cannot be used."""
    if action not in ACTIONS:
        raise RayfaceError(f"identity_guard is {action!r}; give one of: {', '.join(ACTIONS)}.")
    if threshold is not None and not -1 <= threshold <= 1:  # also true for NaN
        raise RayfaceError(f"similarity_threshold is {threshold}; give a cosine from -1 to 1.")


def choose_guard(
    store: "ModelStore", models: Mapping[str, str], action: str, threshold: float | None, licences: Sequence[str] = ()
) -> tuple[str, str]:
    """The reference of the guard's recogniser and ""; or "" and why identity is not checked, for the report.

    `models["identify"]`, else "recognition". `licences`: if given, others are not used. A recogniser that is not named
    in `models` and cannot be used is no failure; one that is named raises RayfaceError.
    """
    check_settings(action, threshold)
    if action == "off":
        if STAGE in models:
            raise RayfaceError(f"models: {STAGE!r} is not in use, as identity_guard is off.")
        return "", ""
    ref = models.get(STAGE, "recognition")
    try:
        info = store.usable(ref)
        what = f"{info['name']}@{info['version']}"
        if info["system"] != "recognition":
            raise RayfaceError(f"{ref} cannot be the model of {STAGE!r}: it is of system {info['system']!r}.")
        if licences and info.get("licence", "unstated") not in licences:
            raise RayfaceError(f"{what} has a licence that settings.allowed_licences does not allow", kind="licence")
        if threshold is None and _own_threshold(info) is None:
            raise RayfaceError(
                f"{what} does not state from which cosine on two faces are of one person, so similarity_threshold must "
                "be given",
                kind="no-cosines",
            )
    except RayfaceError as error:
        if STAGE in models:
            raise
        # What the store says of itself (addresses, all its models) is nothing for a report, which clients read.
        said = {
            "unknown-model": "there is no recognition model",
            "terms": "the terms of the recognition model do not allow its use here",
        }
        return "", f"Identity was not checked: {said.get(error.kind, error)}."
    return ref, ""


def _own_threshold(info: Mapping[str, object]) -> float | None:
    stated = cast(Mapping[str, float], info.get("cosines", {}))
    return stated.get("same_person")


class Guard:
    """A recogniser and what to do where it no longer sees the same person.

    `threshold`: cosine of the embeddings of a face before and after, at `VIEW` px, from which on it is the same person;
    as the share of a change shrinks, it rises to 1. `action`: "blend" or "skip".
    """

    def __init__(
        self, recogniser: nn.Module, model: str, threshold: float, action: str = "blend", device: str = "cpu"
    ) -> None:
        check_settings(action, threshold)
        self.recogniser = recogniser.to(device).to(memory_format=torch.channels_last)
        self.model, self.threshold, self.action = model, threshold, action
        self.device = torch.device(device)
        self.view = VIEW

    @classmethod
    def load(
        cls,
        store: "ModelStore",
        ref: str,
        action: str = "blend",
        threshold: float | None = None,
        device: str | torch.device = "cpu",
    ) -> "Guard":
        """Of a reference that `choose_guard` gave; `threshold` None: the recogniser's own (`cosines.same_person`)."""
        info = store.info(ref)
        own = _own_threshold(info) if threshold is None else threshold
        assert own is not None
        return cls(store.load_network(ref), f"{info['name']}@{info['version']}", own, action, str(device))

    @torch.inference_mode()
    def embed(self, crops: Tensor) -> Tensor:
        """uint8 [N, 3, S, S] -> embeddings of their view at `view` px a side, float [N, D] on the CPU."""
        parts = []
        for part in crops.split(faces_together(self)):  # the CPU's kernels give other last bits for other batches
            small = interpolate(part.float(), (self.view, self.view), mode="bilinear", antialias=True).to(self.device)
            parts.append(self.recogniser(small / 127.5 - 1).float().cpu())
        return torch.cat(parts)


def blend(before: Tensor, after: Tensor, kept: Tensor) -> Tensor:
    """`before` with a share of the change: uint8 [N, 3, S, S] twice and float [N] in [0, 1] -> uint8 [N, 3, S, S]."""
    change = (after.float() - before.float()) * kept[:, None, None, None]
    return (before.float() + change).round_().to(torch.uint8)


def guard_faces(guard: Guard, works: Sequence[Work]) -> list[Work]:
    """Compare the changed faces of several photos with the photos' own, in common batches; returns new works.

    A face that is less alike than the threshold gets back as much of itself as it needs ("blend"), or, where that is
    more than half, all of it, as with "skip". Works with `keep_identity` false, in which a step changed who is seen on
    purpose, are only measured.
    """
    started = time.perf_counter()
    faces = [(work, index) for work in works for index in np.flatnonzero(work.changed)]
    kept, similarity = [], []
    if faces:
        before = tensor(np.stack([work.before[index] for work, index in faces]))
        after = tensor(np.stack([work.crops[index] for work, index in faces]))
        known = guard.embed(before)
        similarity = cosine_similarity(known, guard.embed(after)).tolist()
        shares = torch.ones(len(faces))
        failed = torch.tensor(
            [work.keep_identity and alike < guard.threshold for (work, _), alike in zip(faces, similarity, strict=True)]
        )
        shares[failed] = kept_shares(guard, known[failed], before[failed], after[failed])
        kept = shares.tolist()
        after[failed] = blend(before[failed], after[failed], shares[failed])
    results, first = [], 0
    for work in works:
        part = slice(first, first + int(work.changed.sum()))
        first = part.stop
        changed = work
        if part.stop > part.start:
            changed = _with_guard(guard, work, after[part].numpy(), kept[part], similarity[part])
        timings = work.timings_ms | {STAGE: round(1000 * (time.perf_counter() - started), 2)}
        results.append(dataclasses.replace(changed, timings_ms=timings, models=work.models | {STAGE: guard.model}))
    return results


def kept_shares(guard: Guard, known: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The share of each change that still passes, float [N], by bisection: 0 where LEAST_KEPT fails.

    `known`: embeddings [N, D] of `before`; the full change fails. Every share but 0 was itself seen to pass.
    """
    kept = torch.zeros(len(before))
    if guard.action == "skip" or not len(before):
        return kept

    def passing(faces: Tensor, shares: Tensor) -> Tensor:
        blended = blend(before[faces], after[faces], shares)
        return cosine_similarity(known[faces], guard.embed(blended)) >= guard.threshold

    everyone = torch.arange(len(before))
    faces = everyone[passing(everyone, torch.full_like(kept, LEAST_KEPT))]
    if len(faces):
        low, high = torch.full((len(faces),), LEAST_KEPT), torch.ones(len(faces))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            alike = passing(faces, middle)
            low, high = torch.where(alike, middle, low), torch.where(alike, high, middle)
        kept[faces] = low
    return kept


def _with_guard(
    guard: Guard, work: Work, crops: np.ndarray, kept: Sequence[float], similarity: Sequence[float]
) -> Work:
    """`work` with what the guard left of its changed faces: `crops` uint8 [C, 3, S, S]."""
    faces, changed, current = list(work.faces), work.changed.copy(), work.crops.copy()
    for place, index in enumerate(np.flatnonzero(work.changed)):
        current[index] = crops[place]
        changed[index] = kept[place] > 0
        faces[index] = _judged(guard, faces[index], kept[place], similarity[place])
    notes = list(work.notes)
    if part := sum(0 < share < 1 for share in kept):
        notes.append(
            f"Identity: of {part} {'face' if part == 1 else 'faces'} only a part of the change was kept; with all of "
            f"it the recogniser no longer saw the same person (similarity below {guard.threshold:g})."
        )
    return dataclasses.replace(work, faces=faces, changed=changed, crops=current, notes=notes)


def _judged(guard: Guard, face: FaceReport, kept: float, similarity: float) -> FaceReport:
    steps, skipped = face.steps, face.skipped
    if kept == 0:
        reason = (
            f"identity: the recogniser no longer saw the same person (similarity {similarity:.3f}, below "
            f"{guard.threshold:g})"
        )
        skipped = [*skipped, *({"step": step, "reason": reason} for step in steps)]
        steps = []
    return dataclasses.replace(face, steps=steps, skipped=skipped, similarity=round(similarity, 4), kept=kept)
