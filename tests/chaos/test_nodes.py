"""Machines that die, come back, are taken away with notice, or lose their network, under a run of two workers."""

import itertools
import math
import re
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.chaos.conftest import STEPS, training
from tests.clusters import RayCluster
from tests.machines import Machine
from tests.training.runs import assert_same_run, losses, steps_done, wait_for_step

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


def test_a_node_that_dies_and_returns(cluster: RayCluster, unbroken: Path, drawn_faces: str, tmp_path: Path) -> None:
    cluster.begin("train", *training(drawn_faces, tmp_path))
    wait_for_step(tmp_path, 15)
    lost = cluster.machines[2]
    lost.power_off()
    time.sleep(5)
    assert steps_done(tmp_path) < STEPS
    cluster.start_worker(lost)
    assert "SUCCEEDED" in cluster.wait_for_job("train")
    assert_same_run(tmp_path, unbroken)


def test_a_node_that_is_taken_with_notice(
    cluster: RayCluster, unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    """A checkpoint is made when the notice comes, and a new node goes on from there."""
    cluster.start_worker(cluster.machines[3])
    cluster.begin("train", *training(drawn_faces, tmp_path, "--set", "checkpoint_every=100"))
    wait_for_step(tmp_path, 5)
    taken = next(machine for machine in cluster.machines if trains(machine))
    cluster.drain(taken, seconds=6)
    time.sleep(6)
    taken.power_off()
    assert steps_done(tmp_path) < STEPS
    assert "SUCCEEDED" in cluster.wait_for_job("train")
    first = sorted((tmp_path / "run").glob("checkpoint_*/state.pt"))[0]
    assert 5 <= torch.load(first, weights_only=True)["step"] < 100, "no checkpoint was made for the notice"
    assert_same_run(tmp_path, unbroken)


def test_an_elastic_group_shrinks_and_grows(cluster: RayCluster, drawn_faces: str, tmp_path: Path) -> None:
    """One to two workers: the run does not wait for the lost node, and takes it back."""
    cluster.begin("train", *training(drawn_faces, tmp_path, "--set", "steps=1000", workers="1-2"))
    wait_for_step(tmp_path, 25)
    lost = cluster.machines[2]
    lost.power_off()
    before = steps_done(tmp_path)
    cluster.until(lambda: steps_done(tmp_path) > before + 30, "steps without the node", 300)
    cluster.start_worker(lost)
    told = cluster.wait_for_job("train")
    assert "SUCCEEDED" in told
    sizes = [int(size) for size in re.findall(r"Started training worker group of size (\d)", told)]
    assert [size for size, _ in itertools.groupby(sizes)] == [2, 1, 2]
    lines = losses(tmp_path / "run" / "enhancement")
    assert [line["step"] for line in lines] == list(range(1000))
    assert all(math.isfinite(line["loss/generator"]) for line in lines)


def test_a_node_whose_network_fails(cluster: RayCluster, unbroken: Path, drawn_faces: str, tmp_path: Path) -> None:
    """Nobody closes a connection: the cluster finds out by itself, and another machine takes its place."""
    cluster.begin("train", *training(drawn_faces, tmp_path))
    wait_for_step(tmp_path, 15)
    lost = next(machine for machine in cluster.machines if trains(machine))
    lost.unplug()
    cluster.start_worker(cluster.machines[3])
    assert "SUCCEEDED" in cluster.wait_for_job("train")
    assert_same_run(tmp_path, unbroken)


def trains(machine: Machine) -> bool:
    """Whether a worker of a run is on it."""
    return any("RayTrainWorker" in " ".join(psutil.Process(pid).cmdline()) for pid in machine.pids())
