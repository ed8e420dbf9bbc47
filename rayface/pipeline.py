"""A photo's way through the networks: whole-photo steps -> detect -> align -> face steps -> guard -> parse -> fuse.

Steps for whole photos (super-resolution) come first wherever they stand in `steps`, so that faces are found, changed
and fused at the resolution of the result (SPEC C9). Here is which models a request needs, and the way as a whole;
`stages` holds what happens on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.guard import STAGE as GUARD
from rayface.guard import Guard, choose_guard, guard_faces
from rayface.stages import (
    Detector,
    Parser,
    PhotoStep,
    SwapJudge,
    crop_size,
    detect_faces,
    donor_of,
    enlarge,
    fuse,
    judge_swaps,
    parse_faces,
    run_step,
)
from rayface.work import (
    MAX_OUTPUT_MEGAPIXELS,
    Params,
    Photo,
    Result,
    check_asked,
    check_params,
    check_steps,
    check_swap,
)

if TYPE_CHECKING:
    from rayface.store import ModelStore
    from rayface.systems.base import Step

SWAP = "swap"  # the step whose every result the swap detector judges
SWAPS = "detect_swap"  # the use of a model of swap_detection, which a store may lack; no step that a request may name


@cache
def photo_steps() -> frozenset[str]:
    """The names of the steps that work on the whole photo."""
    from rayface.systems.base import SYSTEMS, get_system

    return frozenset(system.step_name for name in SYSTEMS if (system := get_system(name)).whole_photo)


def face_steps(steps: Iterable[str]) -> list[str]:
    """Those of `steps` that work on the faces, in their order."""
    return [name for name in steps if name not in photo_steps()]


def default_models(steps: Sequence[str]) -> dict[str, str]:
    """`{stage: model name}` of `steps`: a model is named as its system by default.

    Steps about faces also need the detector ("detect") and the parser ("parse"); those for whole photos do not.
    """
    from rayface.systems.base import SYSTEMS, get_system

    known = {step: name for name in SYSTEMS if (step := get_system(name).step_name)}
    del known[SWAPS]
    around = {use: known.pop(use) for use in ("detect", "parse")}  # no steps that a request may name
    chosen = {name: known[name] for name in check_steps(steps, known)}
    return chosen | around if face_steps(chosen) else chosen


def choose_models(store: "ModelStore", steps: Sequence[str], models: Mapping[str, str]) -> dict[str, str]:
    """`{stage: reference}` of what `steps` need, checked; `models` names others than the default.

    The identity guard's recogniser, which a store may lack, is chosen by `guard.choose_guard`, and what tells swapped
    faces by `choose_swap_detector`.

    Raises RayfaceError: an unknown step, a stage that is not in use, a model that the store does not hold, whose terms
    it refuses, or that offers another step.
    """
    defaults = default_models(steps)
    in_use = [*defaults, GUARD, SWAPS] if face_steps(defaults) else list(defaults)
    for stage in models:
        if stage not in in_use:
            raise RayfaceError(f"models: {stage!r} is not in use; in use are {', '.join(in_use)}.")
    refs = {stage: models.get(stage, ref) for stage, ref in defaults.items()}
    for stage, ref in refs.items():
        check_model(store, stage, ref)
    return refs


def choose_swap_detector(store: "ModelStore", models: Mapping[str, str], licences: Sequence[str] = ()) -> str:
    """The model that tells swapped faces: the one that `models` names, else the store's newest; "" where it has none.

    `licences`: if given, a model under another one is passed over, unless it is named. Raises RayfaceError where the
    named one cannot be it.
    """
    if SWAPS in models:
        check_model(store, SWAPS, models[SWAPS])
        return models[SWAPS]
    try:
        info = check_model(store, SWAPS, "swap_detection")
    except RayfaceError as error:
        if error.kind not in ("unknown-model", "terms"):
            raise
        return ""
    return "" if licences and info.get("licence", "unstated") not in licences else "swap_detection"


def check_model(store: "ModelStore", stage: str, ref: str) -> dict[str, Any]:
    """What the store knows of `ref`. Raises RayfaceError where it cannot be the model of that stage."""
    from rayface.configuration import from_dict
    from rayface.systems.base import get_system

    info = store.usable(ref)
    system = get_system(info["system"])
    offered = system.step_of(from_dict(system.config_class, info["config"], ref))
    if offered != stage:
        offer = f"offers the step {offered!r}" if offered else "offers no step"
        raise RayfaceError(f"{ref} cannot be the model of {stage!r}: it {offer}.")
    return info


def load_step(store: "ModelStore", ref: str, device: str | torch.device = "cpu") -> Any:
    """The serving step of a model in the store: a `Step`, for parsing a `Parser`, for detection a `Detector`."""
    from rayface.systems.base import get_system

    loaded = store.load(ref)
    return get_system(loaded.system).make_step(loaded, device=device)


class Pipeline:
    """All stages in one process: what the service distributes, and what `rayface apply` runs.

    `detector` and `parser` may be None where all `steps` are for whole photos. `guard` None: identities are not
    compared; `unguarded` says why, for the report. `swap_judge` None: nothing says how likely swapped faces were.
    """

    def __init__(
        self,
        detector: Detector | None,
        steps: Mapping[str, "Step | PhotoStep"],
        parser: Parser | None,
        max_faces: int = 32,
        max_output_megapixels: float = MAX_OUTPUT_MEGAPIXELS,
        guard: Guard | None = None,
        unguarded: str = "",
        swap_judge: SwapJudge | None = None,
    ) -> None:
        self.detector = detector
        self.steps: dict[str, Any] = dict(steps)
        self.parser = parser
        self.crop_size = crop_size(self.steps[name].size for name in face_steps(self.steps))
        self.max_faces = max_faces
        self.max_output_megapixels = max_output_megapixels
        self.guard, self.unguarded = guard, unguarded
        self.swap_judge = swap_judge

    @classmethod
    def from_store(
        cls,
        store: "ModelStore",
        steps: Sequence[str] = ("enhance",),
        models: Mapping[str, str] | None = None,
        device: str | torch.device = "cpu",
        identity_guard: str = "blend",
        similarity_threshold: float | None = None,
    ) -> "Pipeline":
        """A pipeline of the store's models.

        `models` maps a step (or "detect", "parse", "identify") to a reference, `name` or `name@version`, where it is
        not the model named as its system. `identity_guard`: what happens to a face that is less alike to the photo's
        own than `similarity_threshold` (None: the recogniser's own), "blend", "skip" or "off"; see `guard.py`. Raises
        RayfaceError for an unknown step or a model that the store does not hold.
        """
        models = models or {}
        refs = choose_models(store, steps, models)
        made = {stage: load_step(store, ref, device) for stage, ref in refs.items()}
        guard, unguarded = None, ""
        if face_steps(steps):
            recogniser, unguarded = choose_guard(store, models, identity_guard, similarity_threshold)
            if recogniser:
                guard = Guard.load(store, recogniser, identity_guard, similarity_threshold, device)
        judge = choose_swap_detector(store, models) if SWAP in steps else ""
        return cls(
            made.pop("detect", None),
            made,
            made.pop("parse", None),
            guard=guard,
            unguarded=unguarded,
            swap_judge=load_step(store, judge, device) if judge else None,
        )

    def donor(self, data: bytes) -> np.ndarray:
        """The largest face of an image file, uint8 [3, S, S], for `Params.donor`.

        Raises RayfaceError for a bad one and for none.
        """
        from rayface.imaging.codec import decode

        assert self.detector is not None
        photo = Photo.of(decode(data))
        (work,) = detect_faces(self.detector, [photo], [Params()], self.max_faces, self.crop_size)
        return donor_of(work)

    def process(self, photo: Tensor, steps: Sequence[str], params: Mapping[str, Any] | Params | None = None) -> Result:
        """Run `steps` on `photo`, uint8 [3, H, W], and on its faces.

        `params`: see `Params`. Raises RayfaceError for an unknown step or parameter, naming the known ones.
        """
        names = check_steps(steps, self.steps)
        checked = params if isinstance(params, Params) else check_params(params or {})
        check_asked(names, checked)
        check_swap(names, checked.donor is not None, checked.consent)
        current, work = Photo.of(photo), None
        with torch.inference_mode():
            for name in (name for name in names if name in photo_steps()):
                current = enlarge(self.steps[name], current, checked, self.max_output_megapixels)
            if about_faces := face_steps(names):
                assert self.detector is not None
                assert self.parser is not None
                works = detect_faces(self.detector, [current], [checked], self.max_faces, self.crop_size)
                for name in about_faces:
                    works = run_step(self.steps[name], works, [checked])
                if self.guard is not None:
                    works = guard_faces(self.guard, works)
                if SWAP in names and self.swap_judge is not None:
                    works = judge_swaps(self.swap_judge, works)
                (work,) = parse_faces(self.parser, works)
            return fuse(current, work, names, self.unguarded)
