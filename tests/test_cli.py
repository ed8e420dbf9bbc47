"""The command line as a user meets it: what is wrong is said in one line, with exit code 2."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rayface.imaging.codec import decode, encode
from rayface.store import ModelStore, release_store
from tests.scenes import scene
from tests.tiny_models import save_tiny_models

ROOT = Path(__file__).resolve().parents[1]


def rayface(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rayface.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def said(*arguments: str) -> str:
    done = rayface(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return save_tiny_models(tmp_path_factory.mktemp("store"))


def test_dry_run_prints_the_whole_configuration(drawn_faces: str) -> None:
    done = rayface("train", "parsing", "--data", drawn_faces, "--preset", "tiny", "--set", "steps=3", "--dry-run")
    assert done.returncode == 0
    config = json.loads(done.stdout)["parsing"]
    assert config["steps"] == 3
    assert config["parser"]["widths"] == [8, 16, 16]


def test_bad_training_requests(drawn_faces: str, tmp_path: Path) -> None:
    data = ("--data", drawn_faces, "--preset", "tiny", "--dry-run")
    assert "unknown system 'parsin'; known: parsing" in said("train", "parsin", *data)
    assert "global_batch=9 cannot be shared evenly" in said(
        "train", "parsing", *data, "--workers", "2", "--set", "global_batch=9"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "huge"), "unknown preset 'huge'"),
        (("--set", "steps"), "key=value"),
        (("--set", "parser.depth=3"), "it has: blocks"),
        (("--workers", "0"), "--workers '0'"),
        (("--name", "a/b"), "--name 'a/b'"),
        (("--set-from", "nothing.json"), "nothing.json"),
        (("--init", "parsing", "--preset", "base"), "--preset base: --init goes on with the configuration of parsing"),
    ],
)
def test_bad_options_in_this_process(arguments: tuple[str, ...], message: str, drawn_faces: str) -> None:
    """The same command line without a process for each: typer's runner on the real application."""
    from typer.testing import CliRunner

    from rayface.cli import app
    from rayface.errors import RayfaceError

    result = CliRunner().invoke(app, ["train", "parsing", "--data", drawn_faces, "--dry-run", *arguments])
    assert isinstance(result.exception, RayfaceError)
    assert message in str(result.exception)


def write_tiff(path: Path) -> None:
    from PIL import Image

    Image.fromarray(scene(0).permute(1, 2, 0).numpy()).save(path)


def test_apply_a_photo_and_a_folder(store: ModelStore, tmp_path: Path) -> None:
    from rayface.apply import apply_steps

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(encode(scene(0), "png"))
    (photos / "broken.jpg").write_bytes(b"not a picture")
    (photos / "c.heic").write_bytes(b"not read")
    write_tiff(photos / "d.tif")
    report = apply_steps(["enhance"], photos, tmp_path / "out", store, ["strength=1"])
    first, second, third, fourth = report["photos"]
    assert first["changed"] >= 1
    assert "error" in second
    assert (third["photo"], "error" in third) == (str(photos / "c.heic"), True)
    assert (fourth["result"], fourth["changed"]) == (str(tmp_path / "out" / "d.tif.png"), first["changed"])
    assert not (tmp_path / "out" / "broken.jpg").exists()
    result = decode((tmp_path / "out" / "a.png").read_bytes())
    assert result.shape == scene(0).shape
    assert not torch.equal(result, scene(0))

    single = tmp_path / "one.png"
    apply_steps(["enhance"], photos / "a.png", single, store)
    assert torch.equal(decode(single.read_bytes()), result)


def test_results_carry_credentials_that_the_command_shows(store: ModelStore, tmp_path: Path) -> None:
    from rayface.apply import apply_steps
    from rayface.credentials import CredentialSettings
    from rayface.errors import RayfaceError

    photo, result, made = tmp_path / "a.png", tmp_path / "out.webp", tmp_path / "certificate"
    photo.write_bytes(encode(scene(0), "png"))
    assert rayface("credentials", "make", str(made)).returncode == 0
    signed_by = CredentialSettings(str(made / "chain.pem"), str(made / "key.pem"))
    (report,) = apply_steps(["enhance"], photo, result, store, credentials=signed_by)["photos"]
    assert report["signer"] == "rayface development signer"

    shown = rayface("credentials", "show", str(result), "--trust", str(made / "root.pem"))
    told = json.loads(shown.stdout)
    assert (shown.returncode, told["state"]) == (0, "trusted")
    assert told["actions"][1]["description"] == "enhance by rayface"
    tampered = bytearray(result.read_bytes())
    tampered[500] ^= 1
    result.write_bytes(tampered)
    shown = rayface("credentials", "show", str(result))
    assert (shown.returncode, json.loads(shown.stdout)["state"]) == (1, "invalid")

    with pytest.raises(RayfaceError, match="cannot be read"):
        apply_steps(["enhance"], photo, result, store, credentials=CredentialSettings("no.pem", "no.pem"))
    assert "without credentials.key" in said("apply", "enhance", str(photo), str(result), "--certificate", "a.pem")


def test_bad_applications(store: ModelStore, tmp_path: Path) -> None:
    from rayface.apply import apply_steps
    from rayface.errors import RayfaceError

    photo = tmp_path / "a.png"
    photo.write_bytes(encode(scene(0), "png"))
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, target, steps, settings, message in (
        (tmp_path / "no.png", tmp_path / "out.png", "enhance", [], "does not exist"),
        (photo, tmp_path / "out.gif", "enhance", [], "must end in"),
        (photo, tmp_path / "out.png", "shave", [], "known"),
        (photo, tmp_path / "out.png", "enhance", ["strength=3"], "from 0 to 1"),
        (photo, tmp_path / "out.png", "enhance", ["size=3"], "known: strength"),
        (photo, tmp_path / "out.png", "enhance", ["strength"], "key=value"),
        (empty, tmp_path / "out", "enhance", [], "holds no photos"),
        (photo, photo, "enhance", [], "the input itself"),
        (empty, empty, "enhance", [], "the input itself"),
    ):
        with pytest.raises(RayfaceError, match=message):
            apply_steps([steps], source, target, store, settings)


def test_models_are_listed_and_shown(store: ModelStore) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    shown = CliRunner().invoke(app, ["models", "list", "--store", store.uri])
    assert "enhancement@1" in shown.output
    assert release_store().load("detection").ref in shown.output
    info = json.loads(CliRunner().invoke(app, ["models", "show", "parsing@1", "--store", store.uri]).output)
    assert info["system"] == "parsing"


def test_evaluation_of_another_systems_model_is_refused(store: ModelStore, drawn_faces: str) -> None:
    from rayface.errors import RayfaceError
    from rayface.evaluation.evaluate import evaluate

    with pytest.raises(RayfaceError, match="a model of 'parsing', not of 'enhancement'"):
        evaluate("enhancement", drawn_faces, store, "parsing")


def test_a_device_that_is_not_there_is_named(store: ModelStore, drawn_faces: str) -> None:
    from rayface.errors import RayfaceError
    from rayface.evaluation.evaluate import evaluate

    with pytest.raises(RayfaceError, match="give cpu or cuda"):
        evaluate("parsing", drawn_faces, store, device="banana")
    if not torch.cuda.is_available():
        with pytest.raises(RayfaceError, match="no usable GPU"):
            evaluate("parsing", drawn_faces, store, device="cuda")


def test_evaluation_prints_main_figures_and_writes_them_all(tmp_path: Path, drawn_faces: str) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    save_tiny_models(tmp_path, ("attributes",))
    output = tmp_path / "reports" / "attributes.json"
    arguments = ["evaluate", "attributes", "--data", drawn_faces, "--split", "validation", "--store", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--no-judges", "--output", str(output)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.exception
    report = json.loads(output.read_text())
    metrics = report["metrics"]
    assert len(metrics["attributes"] | metrics["rare_attributes"]) == 40
    assert len(done.output.splitlines()) < 40
    assert "mean_accuracy" in done.output
    assert f"{metrics['brier']['low']:.4g} to {metrics['brier']['high']:.4g}" in done.output
    assert f"rare_attributes: {len(metrics['rare_attributes'])} entries, in --json and --output" in done.output
    assert "Wearing_Hat" not in done.output
    assert report["judges"] == {}
    assert "note: no judge was asked" in done.output
    printed = CliRunner().invoke(app, [*arguments, "--limit", "2", "--json"])
    assert "no judge was asked" not in json.loads(printed.stdout)["notes"]


def test_evaluation_without_judges_names_what_is_missing(store: ModelStore, drawn_faces: str) -> None:
    from rayface.errors import RayfaceError
    from rayface.evaluation.evaluate import evaluate

    report = evaluate("enhancement", drawn_faces, store, split="validation", limit=1, judged=False)
    assert report["judges"] == {}
    assert report["missing"]["perceptual_distance"] == "not measured: no judge was asked"
    assert "psnr" in report["metrics"]["all"]["model"]
    assert "perceptual_distance" not in report["metrics"]["all"]["model"]
    with pytest.raises(RayfaceError, match="--limit -1: give at least 1 photo"):
        evaluate("enhancement", drawn_faces, store, split="validation", limit=-1, judged=False)


def test_evaluation_where_only_commercial_use_is_allowed(tmp_path: Path, drawn_faces: str) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app
    from rayface.errors import RayfaceError

    store = save_tiny_models(tmp_path / "store", ("parsing",))

    def evaluated(data: str | Path) -> Any:
        arguments = ["--split", "validation", "--limit", "1", "--store", store.uri, "--commercial-only"]
        return CliRunner().invoke(app, ["evaluate", "parsing", "--data", str(data), *arguments])

    assert "parsing@1 is refused" in str(evaluated(drawn_faces).exception)
    config = tmp_path / "store" / "parsing" / "1" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "commercial_use": True}))
    assert evaluated(drawn_faces).exit_code == 0
    photos = shutil.copytree(drawn_faces, tmp_path / "photos")
    manifest = json.loads((photos / "dataset.json").read_text())
    (photos / "dataset.json").write_text(json.dumps({**manifest, "commercial_use": False, "terms": "for research"}))
    refused = evaluated(photos).exception
    assert isinstance(refused, RayfaceError)
    assert re.search(r"data set .*photos is refused.*for research", str(refused))


def test_evaluation_tells_what_it_measured(store: ModelStore, drawn_faces: str) -> None:
    from rayface.evaluation.evaluate import evaluate

    report = evaluate("parsing", drawn_faces, store, split="validation", limit=4)
    assert report["photos"] == 4
    assert report["data_source"] == "synth"
    assert 0 <= report["metrics"]["mean_f1"]["low"] <= report["metrics"]["mean_f1"]["high"] <= 1
    restored = evaluate("enhancement", drawn_faces, store, split="validation", limit=2)["metrics"]
    assert set(restored) == {"psnr_gain", "easy", "medium", "hard", "all"}
    assert restored["easy"]["input"]["psnr"]["value"] > restored["hard"]["input"]["psnr"]["value"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "beauty", "--seeds", "0,1"), "leave out --seeds"),
        (("--seeds", "0,one"), "'0,one'"),
    ],
)
def test_bad_ablations(arguments: tuple[str, ...], message: str) -> None:
    assert message in said("ablate", "beauty", "--data", "nowhere", "--out", "nowhere", *arguments)
