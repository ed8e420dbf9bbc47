"""`rayface ablate`: every part off, each judged, finished runs kept, other questions refused."""

from pathlib import Path

import pytest

from rayface.comparison import ablate, table
from rayface.errors import RayfaceError
from rayface.evaluation.judges import load_judge
from rayface.systems.beauty import Beauty


def test_a_metric_that_was_not_measured_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "a-0.json").write_text(
        '{"arm": "a", "seed": 0, "megamacs": 1.0, "psnr": {"value": 2.0}, "shift": null}'
    )
    (tmp_path / "other.json").write_text('{"arm": "b", "seed": 0, "megamacs": 1.0, "psnr": 3.0, "shift": 1.0}')
    assert table(tmp_path, ("psnr", "shift"), ["a-0"]).splitlines()[2:] == ["| a | 0 | 1 | 2.000 | nan |"]


def test_a_system_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="nothing that could be switched off"):
        ablate("parsing", "nowhere", str(tmp_path), [0])


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
