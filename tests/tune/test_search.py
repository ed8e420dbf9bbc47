"""A real search with Ray Tune: two trials, the three files, and what `train --set-from` makes of them."""

import json
from pathlib import Path

import pytest

from rayface.errors import RayfaceError
from rayface.training.request import TrainRequest, overrides_from_file, resolve
from tune.augmentation import AUGMENTATION
from tune.search import SearchRequest, search


def test_settings_are_checked_before_anything_starts(drawn_faces: str, tmp_path: Path) -> None:
    def request(**changes: object) -> SearchRequest:
        values = {"data": drawn_faces, "trials": 2, "preset": "tiny", "storage": str(tmp_path)}
        return SearchRequest(**{**values, **changes})  # type: ignore[arg-type]

    with pytest.raises(RayfaceError, match="--trials 0"):
        search(AUGMENTATION, request(trials=0))
    with pytest.raises(RayfaceError, match="it has: "):
        search(AUGMENTATION, request(overrides=("stepz=3",)))
    with pytest.raises(RayfaceError, match="no dataset"):
        search(AUGMENTATION, request(data=str(tmp_path)))


@pytest.mark.ray
def test_two_trials_leave_the_final_files(
    ray_cluster: None, drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(
        Path(drawn_faces).parent
    )  # a relative path, as a user types it: trials run in folders of their own
    request = SearchRequest(
        data=Path(drawn_faces).name, trials=2, preset="tiny", storage=str(tmp_path), name="s", limit=4,
        overrides=("steps=4", "global_batch=4"),
    )  # fmt: skip
    report = search(AUGMENTATION, request)
    assert report == json.loads((tmp_path / "s" / "pareto.json").read_text())
    assert len(report["trials"]) == 2
    first = report["trials"][0]
    assert set(first["set"].values()) == {1.0}, "the known settings come first"
    assert all(10 < trial["metrics"]["psnr_hard"] < 60 for trial in report["trials"])
    assert any(trial["front"] for trial in report["trials"])
    assert (tmp_path / "s" / "pareto.png").read_bytes().startswith(b"\x89PNG")

    overrides = overrides_from_file(str(tmp_path / "s" / "best.json"))
    plan = resolve(TrainRequest(("enhancement",), drawn_faces, "tiny", overrides=overrides))
    best = json.loads((tmp_path / "s" / "best.json").read_text())
    assert plan.config("enhancement").degradation.blur_strength == best["set"]["degradation.blur_strength"]

    with pytest.raises(RayfaceError, match="already holds a search"):
        search(AUGMENTATION, request)
