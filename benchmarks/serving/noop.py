"""The service's graph with networks that do nothing: what is left is decoding, encoding and Ray's way between them.

`python -m benchmarks.serving.noop` takes the arguments of `python -m serve`; its config names the step enhance and no
other. A face is always "found" in the
photo's middle and never changed, so crops and masks travel as they do in earnest and nothing is pasted.
"""

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rayface.pipeline import Pipeline
from rayface.records import FFHQ_TEMPLATE
from serve import app, together
from serve.__main__ import main
from serve.deployments import FaceDetector, FaceParser, StepRunner
from serve.together import Together


class NoopDetector:
    model = "noop@1"

    def detect(self, photos: list[Tensor]) -> list[Any]:
        return [self._middle(*photo.shape[1:]) for photo in photos]

    def _middle(self, height: int, width: int) -> Any:
        side = min(height, width) / 2
        corner = np.array([(width - side) / 2, (height - side) / 2])
        landmarks = np.asarray(FFHQ_TEMPLATE, np.float32) * side + corner
        box = np.concatenate([corner, corner + side])
        return SimpleNamespace(boxes=box[None], landmarks=landmarks[None], scores=np.ones(1))


class NoopStep:
    name, model, size, device = "enhance", "noop@1", 256, "cpu"
    sharpens, keeps_identity = False, True

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return crops


class NoopParser:
    model, size, device = "noop@1", 256, "cpu"

    def masks(self, crops: Tensor) -> Tensor:
        return torch.ones(len(crops), self.size, self.size, dtype=torch.uint8)


class DetectorStage(FaceDetector):
    def load(self, ref: str) -> Any:
        return NoopDetector()


class StepStage(StepRunner):
    def load(self, ref: str) -> Any:
        return NoopStep()


class ParserStage(FaceParser):
    def load(self, ref: str) -> Any:
        return NoopParser()


class NoopTogether(Together):
    """Together, of stages without networks."""

    def __init__(self, *args: Any) -> None:
        with patch.multiple(together, **STAGES):
            super().__init__(*args)


STAGES: dict[str, Any] = {"FaceDetector": DetectorStage, "StepRunner": StepStage, "FaceParser": ParserStage}


def pipeline() -> Pipeline:
    return Pipeline(NoopDetector(), {"enhance": NoopStep()}, NoopParser())


if __name__ == "__main__":
    with patch.multiple(app, Together=NoopTogether, **STAGES):
        sys.exit(main())
