"""Model cards hold what was measured and stated, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rayface.errors import RayfaceError
from rayface.evaluation.card import model_card, show, tables
from rayface.evaluation.evaluate import evaluate
from rayface.store import ModelStore
from rayface.training.local import train_here
from rayface.training.request import TrainRequest
from tests.tiny_models import save_tiny_models


def entry(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1, "photos": 9}


def test_a_figure_with_and_without_an_interval() -> None:
    assert show(entry(24.123456)) == "24.12 (23.12 to 25.12)"
    assert show(0.98765) == "0.9877"
    assert show(3) == "3"
    assert show(float("nan")) == "-"
    assert show(None) == ""


def test_baselines_stand_beside_the_model() -> None:
    metrics = {
        "psnr_gain": entry(1.0),
        "easy": {
            "input": {"psnr": entry(20.0), "ssim": 0.5},
            "model": {"psnr": entry(21.0), "ssim": 0.6, "own": 1.0},
            "gain": {"psnr": entry(1.0)},
            "perceptual_gain": {"over_input": entry(30.0)},
            "best": {"psnr": {"input": entry(20.0)}},
        },
    }
    shown = list(tables(metrics))
    assert shown[0] == "| metric | value |\n| --- | --- |\n| psnr_gain | 1 (0 to 2) |"
    assert shown[1] == "### easy"
    lines = shown[2].splitlines()
    assert lines[0] == "|  | input | model | gain |"
    assert lines[2] == "| psnr | 20 (19 to 21) | 21 (20 to 22) | 1 (0 to 2) |"
    assert lines[4] == "| own |  | 1 |  |"
    rest = "\n".join(shown[3:])
    assert "| over_input | 30 (29 to 31) |" in rest
    assert "20 (19 to 21)" in rest


def test_the_longer_side_of_a_table_runs_downwards() -> None:
    (many,) = tables({name: {"auc": 0.9, "positives": 3} for name in ("Male", "Young", "Bald")})
    assert many.splitlines()[0] == "|  | auc | positives |"
    (few,) = tables({kind: {name: 0.5 for name in ("skin", "nose", "hair")} for kind in ("region", "class")})
    assert few.splitlines()[0] == "|  | region | class |"


def test_a_card_without_a_measurement_says_so() -> None:
    card = model_card({"name": "parsing", "version": "1", "system": "parsing"})
    assert "Nothing yet." in card
    assert "| terms | not stated |" in card
    assert "| commercial use | not stated |" in card


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, drawn_faces: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json of a model trained for a step, and its evaluation."""
    folder = tmp_path_factory.mktemp("card")
    request = TrainRequest(
        ("parsing",), drawn_faces, "tiny", storage=str(folder), name="short",
        overrides=("steps=1", "global_batch=2", "parsing.jitter=0.1"),
    )  # fmt: skip
    done = train_here(request)
    store = ModelStore(done["store"])
    return store.info("parsing@1"), evaluate("parsing", drawn_faces, store, "parsing@1", "validation", limit=6)


def test_a_card_says_how_to_repeat_and_whose_terms(reported: tuple[dict[str, Any], dict[str, Any]]) -> None:
    info, report = reported
    card = model_card(info, report, "Trained for a test.\n\nLimits: all.")
    assert "rayface train parsing --data DIR --preset tiny --set steps=1 --set global_batch=2 --set jitter=0.1" in card
    assert "rayface evaluate parsing --data DIR --model parsing@1 --split validation --limit 6" in card
    assert "Trained for a test." in card
    assert "data (synth): drawn faces, no photos" in card
    assert "| commercial use | allowed |" in card
    assert info["data"]["digest"][:16] in card
    assert report["data"][:16] in card
    assert f"| parameters | {info['parameters']:,} |" in card
    assert "Groups by the data's own labels." in card
    assert re.search(r"\| all \| 6 \|", card)
    assert not re.search(r"/(work|tmp|root|home)/", card)


def test_every_figure_of_a_card_is_the_reports(reported: tuple[dict[str, Any], dict[str, Any]]) -> None:
    info, report = reported
    other = json.loads(json.dumps(report))
    other["metrics"]["mean_f1"]["value"] = 0.123456
    assert "0.1235" not in model_card(info, report)
    assert "0.1235" in model_card(info, other)


def test_a_card_says_what_its_intervals_are_over(reported: tuple[dict[str, Any], dict[str, Any]]) -> None:
    info, report = reported
    assert "bootstrap intervals over photos." in model_card(info, report)
    pairs = {"auc": {"value": 0.9, "low": 0.8, "high": 1.0, "people": 40}, "subgroups": {"Male": {"pairs_same": 4}}}
    assert "bootstrap intervals over people." in model_card(info, {**report, "metrics": pairs})


def test_judges_and_what_is_missing_are_named(reported: tuple[dict[str, Any], dict[str, Any]]) -> None:
    info, report = reported
    judged = {**report, "judges": {"identity": "ab" * 32}, "missing": {"perceptual_distance": "no wheel"}}
    card = model_card(info, judged)
    assert "| identity | `abababababababab` |" in card
    assert "`perceptual_distance` is missing: no wheel" in card


def test_the_release_script_writes_a_card_and_terms(
    tmp_path: Path, drawn_faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy
    import sys

    import rayface.store

    store = save_tiny_models(tmp_path / "store")
    (tmp_path / "about.md").write_text("About this model.")
    monkeypatch.setattr(rayface.store, "RELEASE_WEIGHTS", tmp_path / "weights")
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "release_weights.py"
    arguments = ["parsing@1", "--store", store.uri, "--data", drawn_faces, "--split", "validation", "--limit", "4"]
    arguments += ["--about", str(tmp_path / "about.md")]

    def release(*stated: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments, *stated])
        runpy.run_path(str(script), run_name="__main__")
        return ModelStore(tmp_path / "weights").info("parsing")

    for stated, missing in (
        ((), "does not state its terms: give --terms"),
        (("--terms", "none"), "commercial_use: give --commercial-use or --no-commercial-use"),
        (("--terms", "none", "--licence", "research-only", "--commercial-use"), "exclude each other"),
    ):
        with pytest.raises(RayfaceError, match=missing):
            release(*stated)
    assert not (tmp_path / "weights").exists(), "its terms must be stated first"
    released = release("--licence", "CC0-1.0", "--terms", "none", "--no-commercial-use")
    assert (released["licence"], released["commercial_use"], released["dtype"]) == ("CC0-1.0", False, "float16")
    card = (tmp_path / "weights" / "parsing" / "r1" / "README.md").read_text()
    assert "About this model." in card
    assert show(released["metrics"]["metrics"]["mean_f1"]) in card
