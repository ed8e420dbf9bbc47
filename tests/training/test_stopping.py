"""Reasons that end a run at once, kept in its folder."""

from pathlib import Path

import pytest

from rayface.errors import RayfaceError
from rayface.training.launch import train
from rayface.training.request import TrainRequest
from rayface.training.stopping import FAILURE_FILE, forget_reason, leave_reason, reason_left


def test_a_reason_is_kept_until_the_next_start(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    assert reason_left(folder) is None
    forget_reason(folder)  # nothing to forget
    leave_reason(folder, RayfaceError("the gradients are not numbers"))
    assert reason_left(folder) == "the gradients are not numbers"
    forget_reason(folder)
    assert reason_left(folder) is None


@pytest.mark.parametrize("kind", ["unwritable", "broken-dataset"])
def test_storage_that_fails_may_answer_later(tmp_path: Path, kind: str) -> None:
    leave_reason(str(tmp_path), RayfaceError("away", kind=kind))
    assert reason_left(str(tmp_path)) is None


def test_a_reason_that_cannot_be_written_hides_no_other_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    leave_reason(str(tmp_path / "run"), RayfaceError("wrong data"))


@pytest.mark.ray
def test_what_every_retry_would_meet_is_met_once(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    settings = ("steps=6", "checkpoint_every=2", "global_batch=4", "learning_rate=1e30")
    request = TrainRequest(
        ("parsing",), drawn_faces, "tiny", storage=str(tmp_path), name="run", cpus_per_worker=1, overrides=settings
    )
    with pytest.raises(RayfaceError, match="are not numbers at step"):
        train(request)
    kept = list((tmp_path / "run" / "parsing").glob("not-a-number-*"))
    left = tmp_path / "run" / FAILURE_FILE
    assert len(kept) == 1
    # the first reason stays, and a group that had tried again would have kept its batch after it
    assert kept[0].stat().st_mtime_ns <= left.stat().st_mtime_ns
    assert not any((tmp_path / "store").glob("*/*"))
