"""A real search with Ray Tune: two trials, the three files, and what `train --set-from` makes of them."""

import json
from pathlib import Path

import pytest

from rayface.errors import RayfaceError
from rayface.training.local import train_here
from rayface.training.request import TrainRequest, overrides_from_file, resolve
from tune.augmentation import AUGMENTATION
from tune.pruning import pruning_search
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
    assert set(first["chosen"].values()) == {1.0}, "the known settings come first"
    assert all(10 < trial["metrics"]["psnr_hard"] < 60 for trial in report["trials"])
    assert any(trial["front"] for trial in report["trials"])
    assert (tmp_path / "s" / "pareto.png").read_bytes().startswith(b"\x89PNG")

    overrides = overrides_from_file(str(tmp_path / "s" / "best.json"))
    plan = resolve(TrainRequest(("enhancement",), drawn_faces, "tiny", overrides=overrides))
    best = json.loads((tmp_path / "s" / "best.json").read_text())
    assert plan.config("enhancement").degradation.blur_strength == best["set"]["degradation.blur_strength"]

    with pytest.raises(RayfaceError, match="already holds a search"):
        search(AUGMENTATION, request)


@pytest.mark.ray
def test_a_pruning_search_narrows_what_it_starts_from(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    made = train_here(
        TrainRequest(("parsing",), drawn_faces, "tiny", storage=str(tmp_path), name="wide", overrides=("steps=2",))
    )
    wanted = pruning_search("parsing", "parsing@1", made["store"])
    assert all(set(known.values()) <= {0.0, 0.25, 0.5, 0.7} for known in wanted.known)
    request = SearchRequest(
        drawn_faces, 2, overrides=("steps=3", "pruning.round_to=4", "pruning.photos=4"), storage=str(tmp_path),
        name="narrow", limit=4,
    )  # fmt: skip
    report = search(wanted, request)
    whole, less = sorted(report["trials"], key=lambda trial: -trial["metrics"]["megamacs"])
    assert set(whole["chosen"].values()) == {0.0}
    assert less["metrics"]["parameters"] < whole["metrics"]["parameters"]
    assert 0 <= less["metrics"]["mean_f1"] <= 1
    assert less["metrics"]["latency_ms"] > 0

    best = json.loads((tmp_path / "narrow" / "best.json").read_text())
    overrides = overrides_from_file(str(tmp_path / "narrow" / "best.json"))
    plan = resolve(
        TrainRequest(("parsing",), drawn_faces, init=best["init"], overrides=(*overrides, "parsing.steps=3"))
    )
    assert plan.config("parsing").pruning.rounds == 1
    assert len(plan.config("parsing").pruning.ratios) == sum(1 for _ in best["set"]["pruning.ratios"].split(","))


@pytest.mark.ray
@pytest.mark.slow
def test_asha_reports_every_checkpoint(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    request = SearchRequest(
        data=drawn_faces, trials=2, preset="tiny", storage=str(tmp_path), name="a", limit=4, asha=True, concurrent=1,
        overrides=("steps=8", "checkpoint_every=2", "global_batch=4"),
    )  # fmt: skip
    report = search(AUGMENTATION, request)
    steps = [trial["metrics"]["step"] for trial in report["trials"]]
    assert steps[0] == 8
    assert all(step in (2, 4, 8) for step in steps)
    assert all("psnr_mean" in trial["metrics"] for trial in report["trials"])
