"""`rayface ablate`: every part off, each judged, finished runs kept, other questions refused."""

from pathlib import Path

import pytest

from rayface.comparison import ablate, ablate_use, table
from rayface.errors import RayfaceError
from rayface.evaluation.evaluate import used_as
from rayface.evaluation.judges import load_judge
from rayface.systems.attribute_editing import AttributeEditing
from rayface.systems.base import get_system
from rayface.systems.beauty import Beauty
from rayface.training.local import train_here
from rayface.training.request import TrainRequest


def test_a_metric_that_was_not_measured_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "a-0.json").write_text(
        '{"arm": "a", "seed": 0, "megamacs": 1.0, "psnr": {"value": 2.0}, "shift": null}'
    )
    (tmp_path / "other.json").write_text('{"arm": "b", "seed": 0, "megamacs": 1.0, "psnr": 3.0, "shift": 1.0}')
    assert table(tmp_path, ("psnr", "shift"), ["a-0"]).splitlines()[2:] == ["| a | 0 | 1 | 2.000 | nan |"]


def test_a_system_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="nothing that could be switched off"):
        ablate("parsing", "nowhere", str(tmp_path), [0])


def test_a_system_whose_use_has_no_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="nothing that could be switched off in a trained model's use"):
        ablate_use("parsing", "nowhere", str(tmp_path), "parsing")


def test_a_trained_model_with_parts_of_its_use_off(
    drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ("inversion.steps=2", "attributes=[Smiling]", "steps=4")
    request = TrainRequest(
        ("attribute_editing",), drawn_faces, "tiny", storage=str(tmp_path), name="edits", overrides=tiny
    )
    train_here(request)
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    monkeypatch.setattr(AttributeEditing, "use_ablations", {"drawn-whole": ("inversion.carried=false",)})
    told: list[str] = []

    def run(limit: int) -> str:
        return ablate_use("attribute_editing", drawn_faces, out, "attribute_editing", store, "test", limit, told.append)

    found = run(2)
    assert [line.split("|")[1].strip() for line in found.splitlines()[2:4]] == ["whole", "drawn-whole"]
    assert told == ["whole", "drawn-whole"]
    kept = (tmp_path / "out" / "whole.json").stat().st_mtime_ns
    assert run(2) == found
    assert (tmp_path / "out" / "whole.json").stat().st_mtime_ns == kept, "what is finished is not done again"
    with pytest.raises(RayfaceError, match=r"of another comparison: limit \(2 then, 1 now\)"):
        run(1)


def test_only_settings_of_use_can_be_tried_on_a_trained_model() -> None:
    system = get_system("attribute_editing")
    config = system.config("tiny")
    assert used_as(system, config, ["inversion.local=3"]).inversion.local == 3
    with pytest.raises(RayfaceError, match=r"steps=3: of a trained model of attribute_editing can be set: inversion"):
        used_as(system, config, ["steps=3"])
    with pytest.raises(RayfaceError, match=r"inversion\.steps=-1 must not be below 0"):
        used_as(system, config, ["inversion.steps=-1"])
    parsing = get_system("parsing")
    with pytest.raises(RayfaceError, match="of a trained model of parsing can be set: none"):
        used_as(parsing, parsing.config("tiny"), ["size=64"])


def test_a_missing_judge_is_told_before_anything_trains(
    drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Beauty, "ablation_judges", ("identity_second",))
    monkeypatch.setenv("RAYFACE_HUMAN_MODELS", str(tmp_path))
    load_judge.cache_clear()
    told: list[str] = []
    with pytest.raises(RayfaceError, match="RAYFACE_HUMAN_MODELS"):
        ablate("beauty", drawn_faces, str(tmp_path / "out"), [0], preset="tiny", split="train", tell=told.append)
    assert told == []


@pytest.mark.slow
def test_each_part_off_beside_the_whole(drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Beauty, "ablations", {"no-adversarial": ("losses.adversarial=0",)})
    monkeypatch.setattr(Beauty, "ablation_metrics", ("model.identity_distance", "model.joint"))
    told: list[str] = []

    def run(*settings: str) -> str:
        return ablate(
            "beauty", drawn_faces, str(tmp_path), [0], preset="tiny", settings=("steps=6", *settings), split="train",
            limit=8, tell=told.append,
        )  # fmt: skip

    found = run()
    assert [line.split("|")[1].strip() for line in found.splitlines()[2:4]] == ["whole", "no-adversarial"]
    assert (tmp_path / "ablation.md").read_text() == found
    kept = (tmp_path / "whole-0.json").stat().st_mtime_ns
    assert run() == found
    assert (tmp_path / "whole-0.json").stat().st_mtime_ns == kept, "what is finished is not done again"
    with pytest.raises(RayfaceError, match="of another comparison: settings"):
        run("losses.change=2")
