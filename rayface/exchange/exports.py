"""`rayface models export`: a store model's networks as ONNX, each held against PyTorch before its file is left.

A file carries what its user must know as ONNX metadata (and beside it as JSON): which model, its hash and terms, the
range, layout and size of the input, the names of the outputs and of their channels, the order of landmarks.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface import __version__
from rayface.errors import RayfaceError
from rayface.records import FFHQ_TEMPLATE
from rayface.store import LoadedModel
from rayface.systems.base import ExportView, get_system

INPUT = "picture"
OPSET = 18  # the first with an antialiased Resize, which the recogniser uses
# Largest difference from PyTorch, as a share of the largest output (at least 1): float32 sums in another order give
# some 1e-6; a wrong operator gives more than this.
TOLERANCE = 1e-4


def export_model(loaded: LoadedModel, target: Path, opset: int = OPSET) -> list[dict[str, Any]]:
    """Write the released networks of `loaded`; returns for each its file and how far it is from PyTorch.

    One network is written to `target`, several to `target` with their names before the suffix. The batch axis is
    dynamic; sides are the model's own, but for networks that take pictures of any size. Raises RayfaceError: a wrong
    suffix or opset, a missing package, a network that cannot be exported or whose file gives other numbers (no file
    is left then).
    """
    if target.suffix != ".onnx":
        raise RayfaceError(f"{target}: the file's name must end in .onnx")
    if not OPSET <= opset <= 25:
        raise RayfaceError(f"--opset {opset}: give {OPSET} (what these networks need) to 25")
    _check_packages()
    views = get_system(loaded.system).export_views(loaded.networks, loaded.config)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = []
    for name, view in views.items():
        path = target if len(views) == 1 else target.with_stem(f"{target.stem}-{name}")
        done.append(_export(view, path, opset, _metadata(loaded, name, view)))
    return done


def _export(view: ExportView, path: Path, opset: int, metadata: dict[str, str]) -> dict[str, Any]:
    draft = path.with_suffix(".draft.onnx")
    try:
        _write(view, draft, opset, metadata)
        difference = check_export(view, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    path.with_suffix(".json").write_text(json.dumps(_readable(metadata), indent=1) + "\n")
    return {"file": str(path), "max_difference": difference, "bytes": path.stat().st_size}


def _write(view: ExportView, path: Path, opset: int, metadata: Mapping[str, str]) -> None:
    import onnx
    from torch.export import Dim

    sides = {2: Dim("height"), 3: Dim("width")} if view.free_sides else {}
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                view.network,
                (_pictures(view, 2, view.side),),
                dynamo=True,
                dynamic_shapes=({0: Dim("batch"), **sides},),
                input_names=[INPUT],
                output_names=list(view.outputs),
                opset_version=opset,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise RayfaceError(
            f"{metadata['name']}@{metadata['version']}: {metadata['network']} cannot be written as ONNX "
            f"({type(error).__name__}: {str(error).splitlines()[0]})",
            kind="export-failed",
        ) from error
    finally:
        exporter.setLevel(level)
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def check_export(view: ExportView, path: Path) -> float:
    """Largest absolute difference between the file in onnxruntime and the network, on other batches than at export.

    Raises RayfaceError where it is more than TOLERANCE of the largest output.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count, side in ((1, view.side), (3, view.side + (10 if view.free_sides else 0))):
        pictures = _pictures(view, count, side)
        with torch.inference_mode():
            result = view.network(pictures)
        wanted = [result] if isinstance(result, Tensor) else list(result)
        found = session.run(list(view.outputs), {INPUT: pictures.numpy()})
        for name, ours, theirs in zip(view.outputs, wanted, found, strict=True):
            difference = float(np.abs(ours.numpy() - theirs).max()) if ours.shape == theirs.shape else float("inf")
            allowed = TOLERANCE * max(1.0, float(ours.abs().max()))
            if not difference <= allowed:
                raise RayfaceError(
                    f"{path.name}: {name} differs from PyTorch by up to {difference:.3g} on {count} pictures of "
                    f"{side} px; at most {allowed:.3g} is accepted, so no file is left",
                    kind="export-failed",
                )
            worst = max(worst, difference)
    return worst


def _pictures(view: ExportView, count: int, side: int) -> Tensor:
    """Smooth pictures with some noise, float32 [count, channels, side, side] in the view's range, always the same."""
    random = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, view.channels, 4, 4, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=random)).clamp(0, 1)
    return view.low + (1 - view.low) * noisy


def _metadata(loaded: LoadedModel, network: str, view: ExportView) -> dict[str, str]:
    """What the file says of itself; ONNX holds strings, so lists and numbers are JSON."""
    side: Any = "any" if view.free_sides else view.side
    picture = {
        "shape": ["N", view.channels, side, side], "layout": "NCHW", "dtype": "float32", "range": [view.low, 1.0],
        "colours": "RGB", "shows": view.shows,
    }  # fmt: skip
    if view.shows == ExportView.shows:
        picture["landmarks_px"] = (FFHQ_TEMPLATE * view.side).round(2).tolist()  # where alignment puts them
    info = loaded.info
    return {
        "name": loaded.name,
        "version": loaded.version,
        "system": loaded.system,
        "network": network,
        "sha256": info["sha256"],
        "licence": info.get("licence", "unstated"),
        "terms": info.get("terms", ""),
        "commercial_use": json.dumps(info.get("commercial_use", "unstated")),
        INPUT: json.dumps(picture),
        "size": json.dumps(side),
        "outputs": json.dumps(view.outputs),
        **({"labels": json.dumps(view.labels)} if view.labels else {}),
        **info["schema"],  # orders of classes, attributes and landmarks
        "written_by": f"rayface {__version__}, torch {torch.__version__}",
    }


def _readable(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata with its JSON parsed, for the file beside."""
    readable: dict[str, Any] = {}
    for key, value in metadata.items():
        structured = key in (INPUT, "size", "outputs", "commercial_use") or value.startswith("[")
        readable[key] = json.loads(value) if structured else value
    return readable


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RayfaceError(
            f"ONNX files are written with onnx, onnxscript and onnxruntime ({error}): pip install 'rayface[exchange]'",
            kind="missing-package",
        ) from None
