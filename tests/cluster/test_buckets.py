"""Jobs whose data, storage and models lie in a bucket."""

import json
from pathlib import Path

import pytest

from rayface.imaging.codec import decode, encode
from tests.buckets import BUCKET, bucket
from tests.clusters import RayCluster
from tests.machines import Machine
from tests.scenes import scene


@pytest.mark.ray
@pytest.mark.slow
def test_everything_in_a_bucket(tmp_path: Path) -> None:
    """Draw faces, train (stopped and resumed), evaluate, apply: nothing but the bucket is shared."""
    with bucket() as held:
        for number in range(3):
            held.write(f"photos/ä b#{number}.png", encode(scene(number), "png"))
        cluster = RayCluster([Machine("127.0.0.1")], tmp_path, held.environment)
        place = f"s3://{BUCKET}"
        train = (
            "-m", "cluster.train", "parsing", "--data", f"{place}/drawn", "--preset", "tiny", "--storage",
            f"{place}/runs", "--name", "run", "--workers", "2", "--set", "steps=60", "--set", "checkpoint_every=10",
            "--set", "global_batch=8",
        )  # fmt: skip
        try:
            cluster.start_head(cpus=2)
            done = cluster.submit(
                "-m", "rayface.cli", "data", "synth", f"{place}/drawn", "--count", "48", "--size", "64"
            )
            assert done.returncode == 0, done.stdout + done.stderr
            cluster.begin("train", *train)
            cluster.until(lambda: any("checkpoint_" in key for key in held.names("runs/run/")), "a checkpoint")
            cluster.ray("job", "stop", "train")
            assert cluster.status("train") == "STOPPED"
            assert not held.names("runs/store/")
            for command in (
                train,
                (
                    "-m", "cluster.evaluate", "parsing", "--data", f"{place}/drawn", "--store", f"{place}/runs/store",
                    "--model", "parsing@1",
                ),
                ("-m", "cluster.apply", "enhance", f"{place}/photos", f"{place}/out", "--workers", "2"),
            ):  # fmt: skip
                done = cluster.submit(*command)
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            cluster.stop()
        lines = held.read("runs/run/parsing/metrics.jsonl").decode().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(60))
        assert json.loads(held.read("runs/store/parsing/1/config.json"))["steps"] == 60
        assert len(held.read("out/reports.jsonl").decode().splitlines()) == 3
        assert decode(held.read("out/ä b#0.png")).shape == scene(0).shape
        assert not [key for key in held.names() if ".tmp-" in key or ".rayface" in key]
