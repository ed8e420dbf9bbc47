"""Every entry point by `ray job submit` on a head started as a user starts one."""

import json
from pathlib import Path

import pytest

from rayface.imaging.codec import decode, encode
from tests.clusters import RayCluster
from tests.scenes import scene


@pytest.mark.ray
def test_a_submitted_job_trains_and_saves_its_model(head: RayCluster, drawn_faces: str, tmp_path: Path) -> None:
    arguments = ("--data", drawn_faces, "--preset", "tiny", "--storage", str(tmp_path), "--name", "job")
    done = head.submit("-m", "cluster.train", "parsing", *arguments, "--set", "steps=4", "--set", "checkpoint_every=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    info = json.loads((tmp_path / "store" / "parsing" / "1" / "config.json").read_text())
    assert info["run"] == "job"
    assert info["steps"] == 4
    assert len((tmp_path / "job" / "parsing" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.ray
def test_a_job_that_cannot_run_fails_with_the_reason(head: RayCluster, tmp_path: Path) -> None:
    done = head.submit("-m", "cluster.train", "parsing", "--data", str(tmp_path), "--storage", str(tmp_path))
    assert done.returncode != 0
    assert "rayface data ingest" in done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_every_other_entry_point(head: RayCluster, drawn_faces: str, tmp_path: Path) -> None:
    """Ingest, label, search, evaluate, apply: their results lie where they were asked for."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(encode(scene(number), "png"))
    settings = ("--set", "steps=2", "--set", "global_batch=4", "--set", "sample_every=1000")
    commands = {
        "ingest": ("cluster.ingest", str(photos), str(tmp_path / "crops"), "--format", "folder", "--size", "64"),
        "label": ("cluster.label", str(photos), str(tmp_path / "labelled"), "--size", "64", "--with", "sharpness"),
        "tune": (
            "cluster.tune", "augmentation", "--data", drawn_faces, "--preset", "tiny", "--trials", "2", "--limit", "2",
            "--storage", str(tmp_path), "--name", "found", *settings,
        ),
        "evaluate": (
            "cluster.evaluate", "parsing", "--data", drawn_faces, "--limit", "4",
            "--output", str(tmp_path / "report.json"),
        ),
        "apply": ("cluster.apply", "enhance", str(photos), str(tmp_path / "out")),
    }  # fmt: skip
    for name, command in commands.items():
        done = head.submit("-m", *command)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    for folder in ("crops", "labelled"):
        assert json.loads((tmp_path / folder / "dataset.json").read_text())["faces"] == 3
    assert len(json.loads((tmp_path / "found" / "pareto.json").read_text())["trials"]) == 2
    assert json.loads((tmp_path / "report.json").read_text())["model"]
    lines = (tmp_path / "out" / "reports.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["photo"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    assert decode((tmp_path / "out" / "0.png").read_bytes()).shape == scene(0).shape


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_followed_and_stopped_and_goes_on(head: RayCluster, drawn_faces: str, tmp_path: Path) -> None:
    command = (
        "-m", "cluster.train", "parsing", "--data", drawn_faces, "--preset", "tiny", "--storage", str(tmp_path),
        "--name", "run", "--set", "steps=400", "--set", "checkpoint_every=20",
    )  # fmt: skip
    head.begin("stopped", *command)
    lines = tmp_path / "run" / "parsing" / "metrics.jsonl"
    head.until(lambda: lines.exists() and len(lines.read_text().splitlines()) > 40, "40 steps")
    assert head.ray("job", "stop", "stopped").returncode == 0
    assert head.status("stopped") == "STOPPED"
    assert "[parsing] step" in head.ray("job", "logs", "stopped").stdout
    assert not (tmp_path / "store" / "parsing").exists()
    head.begin("goes-on", *command)
    followed = head.ray("job", "logs", "goes-on", "--follow")
    assert '"models"' in followed.stdout
    assert head.status("goes-on") == "SUCCEEDED"
    steps = [json.loads(line)["step"] for line in lines.read_text().splitlines()]
    assert steps == sorted(set(steps))
