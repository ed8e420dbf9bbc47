"""k8s/Dockerfile without a Docker engine: what it copies is there, and is all that the pods' commands need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "k8s" / "Dockerfile").read_text()).splitlines()
STEPS = [line.split() for line in LINES if line and not line.startswith("#")]


def copied() -> list[tuple[str, str]]:
    """(source, target) of every file and folder that comes from the checkout."""
    found = []
    for instruction, *words in STEPS:
        if instruction == "COPY" and not words[0].startswith("--from="):
            *sources, target = words
            found += [(source, target) for source in sources]
    return found


def test_what_is_copied_is_in_the_checkout_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    caches = {"**/__pycache__", "**/.mypy_cache", "**/.ruff_cache", "**/.pytest_cache", "**/.hypothesis"}
    for source, _ in copied():
        assert (ROOT / source).exists(), source
        assert not any(pattern.split("/")[0] in (source.split("/")[0], "**") for pattern in set(ignored) - caches)


def test_the_targets_are_those_the_manifests_name_and_run_as_nobody() -> None:
    stages = [words[-1] for instruction, *words in STEPS if instruction == "FROM"]
    assert {"cpu", "gpu"} <= set(stages)
    from_base = STEPS.index(["FROM", "base", "AS", "cpu"])
    users = [words[0] for instruction, *words in STEPS[:from_base] if instruction == "USER"]
    assert users == ["1000"]
    assert not any(instruction in ("USER", "RUN") for instruction, *_ in STEPS[from_base:])


def test_the_pods_commands_find_all_they_need_in_the_image(tmp_path: Path) -> None:
    for source, target in copied():
        place = tmp_path / (target if target.endswith("/") or target == "." else Path(target).parent)
        place.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source,
                place / Path(source).name,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
                dirs_exist_ok=True,
            )
        else:
            shutil.copy(ROOT / source, place)
    program = (
        "import cluster.train, cluster.tune, tune.pruning, tune.search, serve.app, rayface, rayface.store;"
        "from pathlib import Path;"
        "assert Path(rayface.__file__).is_relative_to(Path.cwd()), rayface.__file__;"
        "print(rayface.store.open_store(None).load('parsing').ref)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("parsing@r")
