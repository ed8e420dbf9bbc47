"""Models as ONNX files: every kind of network there is, held against PyTorch with onnxruntime."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.exchange.exports import check_export, export_model
from rayface.exchange.imports import import_model
from rayface.records import ATTRIBUTES, FFHQ_TEMPLATE, LANDMARKS, PARSING_CLASSES
from rayface.store import LoadedModel, ModelStore
from rayface.systems.base import SYSTEMS, ExportView, get_system

TERMS = {"licence": "research-only", "terms": "CelebA: non-commercial research", "commercial_use": False}


def tiny(system_name: str, folder: Path) -> LoadedModel:
    """A model of the tiny preset whose weights are random everywhere (some networks begin as the identity)."""
    system = get_system(system_name)
    config = system.config("tiny")
    torch.manual_seed(0)
    networks = system.build(config)
    released = {name: networks[name] for name in system.released}
    for network in released.values():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    store = ModelStore(folder / "store")
    return store.load(store.save(system_name, system_name, config, released, details=TERMS))


def run(path: str | Path, pictures: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"picture": pictures.numpy()})


Exported = Callable[[str], tuple[LoadedModel, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny model of a system and what was written of it, once a system: an export takes seconds."""

    @cache
    def export(system: str) -> tuple[LoadedModel, list[dict[str, Any]]]:
        folder = tmp_path_factory.mktemp(system)
        loaded = tiny(system, folder)
        return loaded, export_model(loaded, folder / "out" / "model.onnx")

    return export


OUTPUTS = {
    "parsing": [["logits"]],
    "detection": [["logit", "offsets"], ["logit", "offsets"], ["logit", "offsets", "landmarks"]],
    "enhancement": [["enhanced"]],
    "recognition": [["embedding"]],
    "super_resolution": [["upscaled"], ["upscaled"]],
    "attributes": [["logits"]],
    "beauty": [["beautified"]],
    "facial_hair": [["changed"]] * 5,
    "attribute_editing": [["faces"], ["logits"]],
    "face_swap": [["swapped"]],
    "swap_detection": [["logits"]],
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_exported_and_gives_the_same(system: str, exported: Exported) -> None:
    loaded, done = exported(system)
    views = get_system(system).export_views(loaded.networks, loaded.config)
    assert len(done) == len(views) >= 1
    assert [list(view.outputs) for view in views.values()] == OUTPUTS[system]
    for (name, view), written in zip(views.items(), done, strict=True):
        path = Path(written["file"])
        assert path.name == ("model.onnx" if len(views) == 1 else f"model-{name}.onnx")
        pictures = (
            torch.rand(5, view.channels, view.side, view.side, generator=torch.Generator().manual_seed(4)) * 2 - 1
        )
        with torch.no_grad():
            wanted = view.network(pictures)
        wanted = [wanted] if isinstance(wanted, Tensor) else wanted
        for ours, theirs in zip(wanted, run(path, pictures), strict=True):
            assert ours.std() > 1e-6, "an output that does not depend on the picture would say nothing"
            np.testing.assert_allclose(theirs, ours, atol=1e-4 * max(1, ours.abs().max()))
        assert written["max_difference"] < 1e-3
        model = onnx.load(path)
        assert [output.name for output in model.graph.output] == list(view.outputs)
        said = said_by(model)
        assert (said["name"], said["version"], said["system"], said["network"]) == (system, "1", system, name)
        assert said["sha256"] == loaded.info["sha256"]
        stated = {**TERMS, "commercial_use": "false"}
        assert {key: said[key] for key in stated} == stated
        assert json.loads(said["outputs"]) == list(view.outputs)
        picture = json.loads(said["picture"])
        assert (picture["layout"], picture["dtype"], picture["range"]) == ("NCHW", "float32", [-1.0, 1.0])
        size = json.loads(said["size"])
        assert picture["shape"] == ["N", view.channels, size, size]
        assert size == ("any" if view.free_sides else view.side)


def said_by(model: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


@pytest.mark.parametrize(("system", "names"), [("parsing", PARSING_CLASSES), ("attributes", ATTRIBUTES)])
def test_channels_that_have_names_are_named(system: str, names: tuple[str, ...], exported: Exported) -> None:
    _, (written,) = exported(system)
    model = onnx.load(written["file"])
    assert json.loads(said_by(model)["labels"]) == list(names)
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(names)
    assert json.loads(Path(written["file"]).with_suffix(".json").read_text())["labels"] == list(names)


def test_a_file_says_what_it_is(exported: Exported) -> None:
    _, (written,) = exported("parsing")
    path = Path(written["file"])
    model = onnx.load(path)
    said = said_by(model)
    assert json.loads(said["rayface.parsing_classes"]) == list(PARSING_CLASSES)
    assert json.loads(said["rayface.landmarks"]) == list(LANDMARKS)
    picture = json.loads(said["picture"])
    assert (picture["shape"], picture["range"]) == (["N", 3, 64, 64], [-1.0, 1.0])
    assert np.allclose(picture["landmarks_px"], FFHQ_TEMPLATE * 64, atol=0.01)
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside["commercial_use"] is False
    assert beside["rayface.attributes"] == list(ATTRIBUTES)
    assert beside["picture"] == picture
    (shown,) = model.graph.input
    assert [axis.dim_param or axis.dim_value for axis in shown.type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    assert model.opset_import[0].version == 18


def test_the_upscaler_takes_pictures_of_any_size(exported: Exported) -> None:
    loaded, done = exported("super_resolution")
    assert [Path(written["file"]).name for written in done] == ["model-x2.onnx", "model-x4.onnx"]
    picture = torch.rand(1, 3, 50, 91) * 2 - 1
    (large,) = run(done[1]["file"], picture)
    np.testing.assert_allclose(large, loaded.networks["upscaler"](picture, 4), atol=1e-4)


def test_a_foreign_network_keeps_its_own_range(tmp_path: Path) -> None:
    from spandrel.architectures.Compact import Compact

    torch.save(Compact(num_feat=8, num_conv=2, upscale=2).state_dict(), tmp_path / "x2.pth")
    store = ModelStore(tmp_path / "store")
    loaded = store.load(import_model(tmp_path / "x2.pth", "x2", store, size=32, details=TERMS))
    (written,) = export_model(loaded, tmp_path / "x2.onnx")
    pictures = torch.rand(2, 3, 32, 32)
    np.testing.assert_allclose(run(written["file"], pictures)[0], loaded.networks["model"](pictures), atol=1e-5)
    beside = json.loads((tmp_path / "x2.json").read_text())
    assert (beside["picture"]["range"], beside["outputs"], beside["size"]) == ([0.0, 1.0], ["upscaled"], 32)
    assert beside["picture"]["shows"] == "a whole picture"
    assert "labels" not in beside


class Untrue(nn.Module):
    """Exports as something else than what it gives here."""

    def forward(self, picture: Tensor) -> Tensor:
        return picture * (1.0 if torch.compiler.is_exporting() else 1.5)


def test_a_file_that_differs_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("parsing", tmp_path)
    view = {"parser": ExportView(Untrue(), 16, ("same",))}
    monkeypatch.setattr(type(get_system("parsing")), "export_views", lambda *_: view)
    with pytest.raises(RayfaceError, match=r"differs from PyTorch by up to 0\.\d+ on 1 pictures.*no file is left"):
        export_model(loaded, tmp_path / "parser.onnx")
    assert not list(tmp_path.glob("*.onnx"))
    assert not (tmp_path / "parser.json").exists()


def test_the_check_sees_a_small_error(exported: Exported) -> None:
    loaded, (written,) = exported("enhancement")
    path = Path(written["file"])
    view = get_system("enhancement").export_views(loaded.networks, loaded.config)["enhancer"]
    assert check_export(view, path) == written["max_difference"]
    bias = loaded.networks["enhancer"].generator.to_rgb.bias  # type: ignore[union-attr]
    with torch.no_grad():
        bias[0] += 1e-3  # type: ignore[index, operator]
    try:
        with pytest.raises(RayfaceError, match="differs from PyTorch"):
            check_export(view, path)
    finally:
        with torch.no_grad():
            bias[0] -= 1e-3  # type: ignore[index, operator]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [("model.pt", {}, r"must end in \.onnx"), ("model.onnx", {"opset": 11}, "--opset 11: give 18")],
)
def test_wrong_requests_are_named(out: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match=message):
        export_model(tiny("parsing", tmp_path), tmp_path / out, **options)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(RayfaceError, match=r"pip install 'rayface\[exchange\]'"):
        export_model(tiny("parsing", tmp_path), tmp_path / "model.onnx")


def test_export_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    tiny("enhancement", tmp_path)
    arguments = ["models", "export", "enhancement@1", str(tmp_path / "e.onnx"), "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*arguments, "--opset", "20"])
    assert done.exit_code == 0, done.exception
    (written,) = json.loads(done.stdout)
    assert written["max_difference"] < 1e-4
    assert onnx.load(tmp_path / "e.onnx").opset_import[0].version == 20
