"""The CI's own tools: a skip without a listed reason and a file that is too large are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SAMPLE = """
import pytest

@pytest.mark.skip(reason="needs a CUDA GPU: none here")
def test_gpu(): ...

def test_inside():
    pytest.skip("the moon is full")

@pytest.mark.xfail(reason="known fault")
def test_fault(): assert False

def test_fine(): ...
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pytest report with two skips, one expected failure and one pass."""
    folder = tmp_path_factory.mktemp("skips")
    (folder / "test_sample.py").write_text(SAMPLE)
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "-c", "/dev/null", "--rootdir=."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run([*command, "test_sample.py"], cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "report.xml"


def skips(report: Path, listed: str) -> tuple[int, str]:
    """Exit status and output of .ci/skips.py with these reasons listed."""
    listing = report.with_name("skips.txt")
    listing.write_text(listed)
    command = [sys.executable, str(ROOT / ".ci/skips.py"), str(report), str(listing)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_listed_skips_are_printed_and_pass(report: Path) -> None:
    status, output = skips(report, "# reasons\nneeds a CUDA GPU*\nthe moon is full\nknown fault\n")
    assert status == 0
    assert "test_sample::test_gpu: needs a CUDA GPU: none here\n" in output
    assert "3 skipped, 0 for a reason that is not listed" in output


def test_an_unlisted_skip_fails(report: Path) -> None:
    status, output = skips(report, "needs a CUDA GPU*\nknown fault\n")
    assert status == 1
    assert "test_inside: the moon is full   <- not listed" in output


def test_expected_failures_are_skips(report: Path) -> None:
    status, output = skips(report, "needs a CUDA GPU*\nthe moon is full\n")
    assert status == 1
    assert "test_fault: known fault   <- not listed" in output


def test_large_files_are_refused(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    large.write_bytes(b"x" * 1_000_001)
    command = [sys.executable, str(ROOT / ".ci/large_files.py"), str(small)]
    assert subprocess.run(command).returncode == 0
    done = subprocess.run([*command, str(large)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "large: 1.0 MB" in done.stdout
    assert "small" not in done.stdout


def test_system_packages_does_nothing_where_they_are_and_says_what_it_could_not_do(tmp_path: Path) -> None:
    def run() -> str:
        command = ["/bin/bash", str(ROOT / ".ci/system-packages.sh")]
        done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def program(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    assert "not installed: chromium prometheus (there is no apt-get here" in run()
    program("apt-get", f'echo "$*" >> {tmp_path}/asked; exit 100')
    program("id", "echo 1000")
    assert "that takes root; run 'sudo apt-get install chromium prometheus'" in run()
    program("id", "echo 0")
    assert "apt-get update failed" in run()
    program("apt-get", f'echo "$*" >> {tmp_path}/asked')
    program("prometheus", "")
    run()
    assert (tmp_path / "asked").read_text().endswith("install --yes --quiet --no-install-recommends chromium\n")
    program("chromium", "")
    program("apt-get", "exit 100")
    assert run() == ""


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-slow", "check", "lock", "env", "clean"):
        assert f"\n  {target} " in "\n" + done.stdout
    for benchmark in (ROOT / "benchmarks").glob("[a-z]*.py"):
        assert f"  bench-{benchmark.stem.replace('_', '-')} " in done.stdout


@pytest.mark.parametrize("name", ["serve", "soak"])
def test_benchmarks_of_the_service_find_what_they_import(name: str) -> None:
    """A benchmark's folder has a `serve` of its own, which must not stand in for the package."""
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--help"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
