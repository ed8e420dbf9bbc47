"""README's commands are run, in order, in a copy of the project; those that are not run say why, and exist."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import unknown_parts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- not run:(?P<reason>[^>]*)-->\n)?```(?P<language>\w*)\n(?P<body>.*?)```", re.DOTALL)
LIMIT = 180  # seconds a command may take; the longest, a training run, needs 40 on 2 idle cores
COPIED = ("rayface", "serve", "tune", "cluster", "weights", "docs", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its commands (lines after `$ `), and why it is not run ("" if it is)."""

    language: str
    commands: tuple[str, ...]
    reason: str


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text."""
    found = []
    for match in BLOCK.finditer(text):
        lines = match["body"].replace("\\\n", " ").splitlines()
        commands = tuple(line[2:] for line in lines if line.startswith("$ "))
        found.append(Block(match["language"], commands, (match["reason"] or "").strip()))
    return found


BLOCKS = read_blocks(README)
RUN = [command for block in BLOCKS if not block.reason for command in block.commands]
NOT_RUN = [(command, block.reason) for block in BLOCKS if block.reason for command in block.commands]


@pytest.fixture(scope="module")
def working_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone holds, without the data and runs that lie about here."""
    copy = tmp_path_factory.mktemp("readme") / "rayface"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, copy / name)
    return copy


def run_command(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, str, float]:
    """Exit status, output and seconds of a shell command; one that hangs is ended with all its processes."""
    start = time.monotonic()
    with (folder / "output.log").open("w+") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            print(f"ended after {LIMIT} s", file=log)
        log.seek(0)
        return process.wait(), log.read(), time.monotonic() - start


@pytest.mark.ray
def test_the_commands_run(ray_cluster: None, working_copy: Path) -> None:
    import ray

    environment = {
        **os.environ,
        "PYTHONPATH": str(working_copy),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        # the session's cluster: a private one for each command would cost most of a minute
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }
    for command in RUN:
        status, output, seconds = run_command(command, working_copy, environment)
        print(f"{seconds:.0f} s: {command}")
        assert status == 0, f"$ {command}\n{output[-4000:]}"
    assert (working_copy / "runs/enhanced.jpg").stat().st_size > 1000
    # The copy's code ran, not this checkout's: everything was written there.
    assert (working_copy / "data/faces/dataset.json").exists()


def test_every_block_is_run_or_says_why() -> None:
    assert {block.language for block in BLOCKS} == {"console"}
    assert all(block.commands for block in BLOCKS)
    assert len(RUN) >= 7
    for command, reason in NOT_RUN:
        print(f"not run: {command}: {reason}")
        assert len(reason) > 10, f"{command} is not run, and no reason says why"


@pytest.mark.parametrize("command", [command for command, _ in NOT_RUN])
def test_what_is_not_run_exists(command: str) -> None:
    assert unknown_parts(command) == []


@pytest.mark.parametrize(
    ("command", "unknown"),
    [
        ("make demo nonsense", ["nonsense"]),
        ("rayface train parsing --data x --speed 3", ["--speed"]),
        ("rayface data nonsense", ["nonsense"]),
        ("python -m nonsense", ["nonsense"]),
        ("ray job submit --working-dir . -- python -m cluster.train parsing --datum x", ["--datum"]),
        ("python -m tune augmentation --trails 3", ["--trails"]),
    ],
)
def test_an_unknown_part_is_found(command: str, unknown: list[str]) -> None:
    assert unknown_parts(command) == unknown


def test_reading_blocks() -> None:
    text = "<!-- not run: because -->\n```console\n$ a \\\n  b\nout\n```\n\n```console\n$ c\n$ d\n```\n"
    assert read_blocks(text) == [
        Block("console", ("a    b",), "because"),
        Block("console", ("c", "d"), ""),
    ]


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
