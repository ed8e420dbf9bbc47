"""Settings, the config file and the command line's refusals, without Ray."""

import dataclasses
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayface.errors import RayfaceError
from rayface.guard import STAGE as GUARD
from serve.__main__ import check_port, main, read_config
from serve.models import parse_shares
from serve.settings import Settings, Stage, preset, settings_from
from tests.tiny_models import save_tiny_models

# What the default steps need, and the released detector.
SERVED = ("enhancement", "parsing", "super_resolution", "beauty", "facial_hair", "attribute_editing")
CONFIG = Path(__file__).resolve().parents[2] / "serve" / "config.yaml"


def test_settings_from_nothing_are_the_laptop_preset() -> None:
    assert settings_from({}) == preset("laptop") == Settings()


def test_settings_keep_the_presets_other_values() -> None:
    settings = settings_from({"preset": "gpu", "steps": "enhance", "step": {"max_replicas": 3}, "timeout_s": 5})
    assert settings.step == Stage(
        max_replicas=3, num_cpus=1, num_gpus=0.25, max_batch=32, threads=1, surge_percent=25
    )  # the rest is the preset's
    assert settings.step.device == "cuda"
    assert settings.fusion.device == "cpu"
    assert (settings.steps, settings.timeout_s) == (("enhance",), 5.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"stepz": ["enhance"]}, "stepz.*known: .*steps"),
        ({"step": {"replicas": 2}}, "replicas.*known: .*max_replicas"),
        ({"timeout_s": "soon"}, "timeout_s.*soon"),
        ({"timeout_s": 0}, "timeout_s is 0.*above 0"),
        ({"preset": "laptop2"}, "laptop2.*laptop, gpu"),
        ({"detector": {"min_replicas": 3, "max_replicas": 2}}, "detector: min_replicas is 3, max_replicas 2"),
        ({"parser": {"max_batch": -1}}, "parser: max_batch"),
        ({"guard": {"max_batch": -1}}, "guard: max_batch"),
        ({"identity_guard": "warn"}, "identity_guard is 'warn'; give one of: blend, skip, off"),
        ({"similarity_threshold": 2}, "similarity_threshold is 2.0; give a cosine"),
        ({"steps": []}, "steps is empty"),
        ({"layout": "apart"}, "layout is 'apart'; give one of: together, separate"),
        ({"together": {"max_replicas": 0}}, "together: min_replicas is 1, max_replicas 0"),
    ],
)
def test_wrong_settings_are_named(args: dict[str, object], message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        settings_from(args)


@pytest.mark.parametrize("file", ["config.yaml", "config.gpu.yaml"])
def test_the_config_files_are_valid_for_serve_and_give_settings(file: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    path = CONFIG.with_name(file)
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert schema.applications[0].import_path == "serve.app:build"
    assert schema.logging_config is not None
    suggested = path.read_text().partition("    # deployments:")[2].replace("    # ", "    ")
    as_suggested = yaml.safe_load(path.read_text() + "    deployments:" + suggested)
    (enhancer,) = ServeDeploySchema.model_validate(as_suggested).applications[0].deployments
    (models,) = enhancer.user_config.values()
    assert sum(parse_shares(models).values()) == 1
    args, http = read_config(str(path))
    settings = settings_from(args)
    assert settings.steps == ("enhance", "upscale", "beautify", "facial_hair", "edit_attributes")
    assert settings.max_output_megapixels == Settings().max_output_megapixels
    assert (http["port"], settings.step.device) == (8000, "cuda" if file == "config.gpu.yaml" else "cpu")
    assert http["request_timeout_s"] > settings.timeout_s


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("a: [", "not a Serve config file"),
        ("applications: 3", "not a Serve config file"),
        ("applications: [{name: x, import_path: other:app}]", "one application, serve.app:build"),
        (
            "applications: [{name: x, import_path: 'serve.app:build', deployments: [{name: parser}]}]",
            "one application, serve.app:build",
        ),
    ],
)
def test_config_refusals(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RayfaceError, match=message):
        read_config(str(path))


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_busy_port_is_an_error(busy_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RayfaceError, match=f"127.0.0.1 port {busy_port}: Address already in use"):
        check_port("127.0.0.1", busy_port)
    assert main(["--port", str(busy_port)]) == 2
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "70000"),
        (["--preset", "huge"], "huge"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_command_line_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("models: {enhance: enhancement@99}", "no model 'enhancement@99'"),
        ("steps: [upscale], models: {beautify: beauty}", "'beautify' is not in use; in use are upscale"),
        ("steps: [beautify9]", "Unknown step 'beautify9'"),
        ("allowed_licences: [MIT]", "enhancement@1 has licence 'Apache-2.0'.*allows MIT"),
    ],
)
def test_models_are_checked_before_anything_starts(
    args: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    store = save_tiny_models(tmp_path / "store").uri
    text = f"applications: [{{name: rayface, import_path: 'serve.app:build', args: {{{args}}}}}]"
    (tmp_path / "config.yaml").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--config", str(tmp_path / "config.yaml"), "--store", store, "--port", str(port)]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert re.search(message, output.err)
    assert "Starting" not in output.out
    assert not ray.is_initialized()


def test_models_are_pinned_to_their_version_at_the_start(tmp_path: Path) -> None:
    from serve.app import resolve_models

    store = save_tiny_models(tmp_path / "store", SERVED).uri
    assert resolve_models(settings_from({"store": store})) == {
        "enhance": "enhancement@1",
        "upscale": "super_resolution@1",
        "beautify": "beauty@1",
        "facial_hair": "facial_hair@1",
        "edit_attributes": "attribute_editing@1",
        "detect": "detection@r1",
        "parse": "parsing@1",
        "detect_swap": "swap_detection@r2",
    }
    folder = str(tmp_path / "store" / "enhancement" / "1")
    named = {"store": store, "allowed_licences": ["Apache-2.0", "MIT"], "models": {"enhance": folder}}
    assert resolve_models(settings_from(named))["enhance"] == folder


def test_the_guard_is_in_the_graph_where_it_can_be(tmp_path: Path) -> None:
    from serve.app import compose, resolve_guard

    store = save_tiny_models(tmp_path / "store", SERVED).uri

    def graph(**settings: Any) -> tuple[str, str, bool]:
        chosen = settings_from({"store": store, "layout": "separate", **settings})
        stages = compose(chosen)._bound_deployment.init_args[1]
        in_one = compose(dataclasses.replace(chosen, layout="together"))._bound_deployment.init_args[1]
        refs = in_one.together._bound_deployment.init_args[1]
        assert (GUARD in refs) == (stages.guard is not None)
        return *resolve_guard(chosen), stages.guard is not None

    ref, why, inside = graph()
    assert ref.startswith("recognition@")
    assert (why, inside) == ("", True)
    assert graph(identity_guard="off") == ("", "", False)
    assert graph(steps=["upscale"]) == ("", "", False)
    refused = graph(allowed_licences=["Apache-2.0", "MIT"])
    assert refused[0] == ""
    assert "does not allow" in refused[1]
    assert not refused[2]
    assert graph(models={GUARD: f"{ref}=3, recognition=1"}) == (ref, "", True)
    with pytest.raises(RayfaceError, match="neighbour"):
        graph(models={GUARD: f"{ref}=0.9, neighbour@1=0.1"})
