"""A real search with Ray Tune: two trials, the three files, and what `train --set-from` makes of them."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rayface.errors import RayfaceError
from rayface.training.local import train_here
from rayface.training.request import TrainRequest, read_search, resolve
from tune import budget
from tune.augmentation import AUGMENTATION, CONTROLLER
from tune.budget import begin_budget, within_minutes
from tune.definition import SearchRequest
from tune.pruning import pruning_search
from tune.search import run_trial, search


def test_settings_are_checked_before_anything_starts(drawn_faces: str, tmp_path: Path) -> None:
    def request(**changes: object) -> SearchRequest:
        values = {"data": drawn_faces, "trials": 2, "preset": "tiny", "storage": str(tmp_path)}
        return SearchRequest(**{**values, **changes})  # type: ignore[arg-type]

    for wrong in ("trials", "workers", "limit"):
        with pytest.raises(RayfaceError, match=f"--{wrong} -1"):
            search(AUGMENTATION, request(**{wrong: -1}))
    with pytest.raises(RayfaceError, match="a local folder"):
        search(AUGMENTATION, request(storage="s3://bucket/runs"))
    with pytest.raises(RayfaceError, match="no round ends before steps=20"):
        search(CONTROLLER, request(overrides=("adaptation.every=30",)))
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

    searched, init = read_search(str(tmp_path / "s" / "best.json"))
    assert init == ""
    plan = resolve(TrainRequest(("enhancement",), drawn_faces, "tiny", searched=searched))
    best = json.loads((tmp_path / "s" / "best.json").read_text())
    assert plan.config("enhancement").degradation.blur_strength == best["set"]["degradation.blur_strength"]

    with pytest.raises(RayfaceError, match="already holds a search"):
        search(AUGMENTATION, request)
    with pytest.raises(RayfaceError, match="was started with --trials 2, not 3"):
        search(AUGMENTATION, dataclasses.replace(request, resume=True, trials=3))
    with pytest.raises(RayfaceError, match="was started with search augmentation, not adaptation"):
        search(CONTROLLER, dataclasses.replace(request, resume=True))


@pytest.mark.ray
def test_a_pruning_search_narrows_what_it_starts_from(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    made = train_here(
        TrainRequest(("parsing",), drawn_faces, "tiny", storage=str(tmp_path), name="wide", overrides=("steps=2",))
    )
    wanted = pruning_search("parsing", "parsing@1", made["store"])
    assert [known["overall"] for known in wanted.known] == [0.0, 0.25, 0.5, 0.7]
    request = SearchRequest(
        drawn_faces, 2, overrides=("steps=3", "pruning.round_to=4", "pruning.photos=4"), storage=str(tmp_path),
        name="narrow", limit=4,
    )  # fmt: skip
    with pytest.raises(RayfaceError, match=r"--asha stops trials by one score, .* mean_f1 against megamacs"):
        search(wanted, dataclasses.replace(request, asha=True))
    report = search(wanted, request)
    whole, less = sorted(report["trials"], key=lambda trial: -trial["metrics"]["megamacs"])
    assert set(whole["chosen"].values()) == {0.0}
    assert less["metrics"]["parameters"] < whole["metrics"]["parameters"]
    assert 0 <= less["metrics"]["mean_f1"] <= 1
    assert less["metrics"]["latency_ms"] > 0

    best = json.loads((tmp_path / "narrow" / "best.json").read_text())
    searched, init = read_search(str(tmp_path / "narrow" / "best.json"))
    assert init == best["init"]
    plan = resolve(
        TrainRequest(("parsing",), drawn_faces, init=init, searched=searched, overrides=("steps=3", "pruning.photos=6"))
    )
    pruning = plan.config("parsing").pruning
    assert (pruning.rounds, pruning.round_to, pruning.photos) == (1, 4, 6), "of the search, of its --set, of one's own"
    assert len(plan.config("parsing").pruning.ratios) == sum(1 for _ in best["set"]["pruning.ratios"].split(","))


def test_after_its_minutes_a_search_suggests_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import cloudpickle
    from ray.tune.search import Searcher

    class Always(Searcher):
        def suggest(self, trial_id: str) -> dict[str, int]:
            return {"x": 1}

    limited, unlimited = within_minutes(Always, 2.0), within_minutes(Always, 0.0)
    begin_budget()
    assert limited.suggest("a") == {"x": 1}
    monkeypatch.setattr(budget, "started", time.monotonic() - 121)
    assert limited.suggest("b") == Searcher.FINISHED
    assert unlimited.suggest("b") == {"x": 1}
    kept = cloudpickle.dumps(limited)
    begin_budget()
    assert cloudpickle.loads(kept).suggest("c") == {"x": 1}, "a resumed search has its minutes again"


@pytest.mark.ray
@pytest.mark.slow
def test_the_recogniser_is_searched_too(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    made = train_here(
        TrainRequest(("recognition",), drawn_faces, "tiny", storage=str(tmp_path), name="w", overrides=("steps=2",))
    )
    wanted = pruning_search("recognition", "recognition@1", made["store"])
    request = SearchRequest(
        drawn_faces, 2, overrides=("steps=3", "pruning.round_to=4", "pruning.photos=4"), storage=str(tmp_path),
        name="narrow",
    )  # fmt: skip
    whole, less = sorted(search(wanted, request)["trials"], key=lambda trial: -trial["metrics"]["megamacs"])
    assert less["metrics"]["megamacs"] < whole["metrics"]["megamacs"]
    assert all(0 <= trial["metrics"]["auc"] <= 1 for trial in (whole, less))


def test_a_trial_killed_in_its_last_evaluation_still_reports(drawn_faces: str, tmp_path: Path) -> None:
    request = SearchRequest(
        data=drawn_faces, trials=1, preset="tiny", storage=str(tmp_path), name="a", limit=2, asha=True,
        overrides=("steps=4", "checkpoint_every=2", "global_batch=4"),
    )  # fmt: skip
    reported: list[int] = []

    def dies(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 4:
            raise KeyboardInterrupt
        reported.append(metrics["step"])

    with pytest.raises(KeyboardInterrupt):
        run_trial(AUGMENTATION, request, {}, "t", report=dies)
    run_trial(AUGMENTATION, request, {}, "t", report=lambda metrics: reported.append(metrics["step"]))
    assert reported == [2, 4]


@pytest.mark.ray
def test_trials_that_would_wait_for_ever_are_refused(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    request = SearchRequest(drawn_faces, 1, "tiny", storage=str(tmp_path), workers=4, overrides=("global_batch=4",))
    with pytest.raises(RayfaceError, match="--workers 4: a trial takes 5 CPUs and this machine has 4"):
        search(AUGMENTATION, request)
    assert not (tmp_path / request.name).exists()


@pytest.mark.ray
@pytest.mark.slow
def test_trials_with_workers_of_their_own(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    request = SearchRequest(
        data=drawn_faces, trials=2, preset="tiny", storage=str(tmp_path), name="w", limit=4, workers=2,
        overrides=("steps=4", "global_batch=4"),
    )  # fmt: skip
    trials = search(AUGMENTATION, request)["trials"]
    assert len(trials) == 2
    assert all(trial["error"] is None and 10 < trial["metrics"]["psnr_hard"] < 60 for trial in trials)


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


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_search_goes_on_and_keeps_its_finished_trials(
    ray_cluster: None, drawn_faces: str, tmp_path: Path
) -> None:
    import ray

    command = [
        sys.executable, "-m", "tune", "augmentation", "--data", drawn_faces, "--trials", "4", "--preset", "tiny",
        "--set", "steps=30", "--set", "global_batch=4", "--limit", "4", "--concurrent", "1",
        "--storage", str(tmp_path), "--name", "killed", "--resume",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not (finished := finished_trials(tmp_path / "killed")):
        assert process.poll() is None, "the search ended by itself"
        assert time.monotonic() < deadline, "no trial finished"
        time.sleep(0.2)
    process.kill()
    process.wait()
    assert len(finished) < 4, "killed too late to show anything"

    subprocess.run(command, env=environment, check=True, capture_output=True)
    trials = {
        trial["trial"]: trial for trial in json.loads((tmp_path / "killed" / "pareto.json").read_text())["trials"]
    }
    assert len(trials) == 4
    assert all(trial["error"] is None for trial in trials.values())
    for name, seconds in finished.items():
        assert trials[name]["metrics"]["train_seconds"] == seconds, "a finished trial was run again"


def finished_trials(search_folder: Path) -> dict[str, float]:
    """Seconds of training of every trial that has reported, by its id."""
    found = {}
    for file in search_folder.glob("trial-*/result.json"):
        for line in file.read_text().splitlines():
            result = json.loads(line)
            found[result["trial_id"]] = result["train_seconds"]
    return found
