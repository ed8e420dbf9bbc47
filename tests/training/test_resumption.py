"""Which checkpoint a run goes on from."""

from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from rayface.errors import RayfaceError
from rayface.training.resumption import newest_whole, read_run, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with three checkpoints, as Ray Train names them."""
    for number in (1, 2, 3):
        folder = tmp_path / "run" / f"checkpoint_2026-01-0{number}_00-00-00.000001"
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(bytes([number]) * 1000)
        write_run(folder, {"parsing": str(number)}, "enhancement")
    return tmp_path / "run"


def chosen(run: Path, tmp_path: Path, latest: int = 3) -> str:
    """The number of the checkpoint that is gone on from."""
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    newest_whole(LocalFileSystem(), f"{run}/checkpoint_2026-01-0{latest}_00-00-00.000001", into)
    found = read_run(into)
    assert found["current"] == "enhancement"
    return str(found["finished"]["parsing"])


def state(run: Path, number: int) -> Path:
    return run / f"checkpoint_2026-01-0{number}_00-00-00.000001" / "state.pt"


def test_the_newest_is_taken_but_none_after_rays_own_account(run: Path, tmp_path: Path) -> None:
    assert chosen(run, tmp_path) == "3"
    assert chosen(run, tmp_path, latest=2) == "2"


def test_half_a_file_a_flipped_bit_and_a_missing_file_are_passed_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state(run, 3).write_bytes(state(run, 3).read_bytes()[:500])
    assert chosen(run, tmp_path) == "2"
    assert "state.pt is not what was written; going on from the older" in capsys.readouterr().out
    changed = bytearray(state(run, 2).read_bytes())
    changed[700] ^= 1
    state(run, 2).write_bytes(changed)
    assert chosen(run, tmp_path) == "1"
    state(run, 1).unlink()
    with pytest.raises(RayfaceError, match="no checkpoint of this run can be read"):
        chosen(run, tmp_path)


def test_a_run_file_that_is_cut_off_is_passed_over(run: Path, tmp_path: Path) -> None:
    file = state(run, 3).with_name("run.json")
    file.write_text(file.read_text()[:20])
    assert chosen(run, tmp_path) == "2"
    file.unlink()
    assert chosen(run, tmp_path) == "2"
