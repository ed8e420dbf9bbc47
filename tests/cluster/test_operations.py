"""What docs/operations.md tells a newcomer to type on one machine, typed on one: a network namespace."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayface.imaging.codec import decode
from tests.machines import machines, namespaces_can_be_made

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 10


def commands(heading: str) -> list[str]:
    """The lines after `$ ` of the console block under a heading."""
    section = (ROOT / "docs" / "operations.md").read_text().split(f"## {heading}\n")[1]
    block = section.split("```console\n")[1].split("```")[0]
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 120)
def test_a_newcomer_has_head_worker_training_and_service_in_minutes(tmp_path: Path) -> None:
    if not namespaces_can_be_made():
        pytest.skip("network namespaces cannot be made here (that takes root); `ray stop` stops every cluster it sees")
    first, *typed = commands("One machine, as if it were a cluster")
    assert first == "make env && source .venv/bin/activate"
    clone, log = tmp_path / "rayface", tmp_path / "log"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    script = "\n".join(["set -ex", f"cd {clone}", f"source {Path(sys.executable).parent}/activate", *typed])
    rays = Path("/tmp/ray")  # where `ray start` keeps its things: another folder inside
    rays.mkdir(exist_ok=True)
    with machines(1) as (machine,):
        began = time.monotonic()
        walk = machine.start(["bash", "-c", script], {"PYTHONPATH": ""}, log, rays)
        try:
            code = walk.wait(MINUTES * 60)
        finally:
            machine.power_off()
            shutil.rmtree(machine.folder(rays), ignore_errors=True)
    assert code == 0, log.read_text()[-3000:]
    assert time.monotonic() - began < MINUTES * 60
    assert (clone / "runs" / "store" / "parsing" / "1" / "model.safetensors").exists()
    assert (
        decode((clone / "enhanced.jpg").read_bytes()).shape
        == decode((clone / "docs" / "images" / "photo.jpg").read_bytes()).shape
    )
