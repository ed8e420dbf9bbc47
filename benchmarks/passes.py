"""Are the passes of `rayface data label` and `rayface apply` flat in memory, at once, ten and a hundred times the data?

    python -m benchmarks.passes label --records 2000 20000 200000 --out DIR
    python -m benchmarks.passes apply --records 2000 20000 200000 --out DIR

Records are drawn: `label` measures sharpness of drawn faces of 32 px (the pass itself, not the networks, is asked),
2000 drawn ones again and again, each time under other noise, so that none is another's duplicate; `apply` enlarges
drawn faces of 32 px, whose files are hard links to 200 different ones. Prints for each size records per second and the
most memory that the driver and its cluster held (proportional set size, sampled every half second; the object store
counts), a fresh cluster each time.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

DIFFERENT = 200  # drawn pictures of `apply`
DRAWN = 2000  # drawn faces of `label`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("label", "apply"))
    parser.add_argument("--records", type=int, nargs="+", default=[2000, 20_000, 200_000])
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    for records in arguments.records:
        folder = Path(arguments.out, f"{arguments.work}-{records}")
        command = (label if arguments.work == "label" else apply)(folder, records)
        print(json.dumps({"work": arguments.work, "records": records, **measured(command, records)}), flush=True)


def label(folder: Path, records: int) -> list[str]:
    """The command over `records` drawn faces, which are made first."""
    drawn = folder.parent / "drawn-faces"
    if not (drawn / "dataset.json").exists():
        rayface("data", "synth", str(drawn), "--count", str(DRAWN), "--size", "32")
    if not (folder / "drawn" / "dataset.json").exists():
        repeat(drawn, folder / "drawn", records)
    # drawn faces are so alike that some would be taken for duplicates
    return [
        "data",
        "label",
        str(folder / "drawn"),
        str(folder / "labelled"),
        "--with",
        "sharpness",
        "--duplicates",
        "keep",
    ]


def repeat(drawn: Path, out: Path, records: int) -> None:
    """A data set of `records` faces: those of `drawn` again and again, each time under other names and noise."""
    import numpy as np
    import torch
    from pyarrow import fs

    from rayface.data import shards
    from rayface.imaging.codec import decode, encode

    def noisy(image: bytes, random: np.random.Generator) -> bytes:
        picture = decode(image).float()
        noise = torch.from_numpy(random.normal(0, 80, picture.shape)).float()
        return encode((picture / 2 + 64 + noise).clamp(0, 255).to(torch.uint8), "png")

    filesystem = fs.LocalFileSystem()
    names = shards.list_shards(filesystem, str(drawn))
    faces = [row for name in names for row in shards.open_shard(f"{drawn}/{name}", filesystem).read().to_pylist()]
    for number, start in enumerate(range(0, records, DRAWN)):
        random, again = np.random.default_rng(number), []
        for face in faces[: records - start]:
            names = {key: f"{number}-{face[key]}" for key in ("id", "identity")}
            again.append({**face, **names, "image": noisy(face["image"], random)})
        shards.write_shard(again, str(out / shards.shard_name(number)))
    manifest = shards.read_manifest(str(drawn), filesystem)
    shards.write_manifest(str(out), format=manifest["format"], size=manifest["size"], options=manifest["options"])


def apply(folder: Path, records: int) -> list[str]:
    """The command over `records` drawn pictures, which are made first."""
    from rayface.data.dataset import FaceDataset
    from rayface.imaging.codec import encode

    drawn, photos = folder.parent / "drawn", folder / "photos"
    if not (drawn / "dataset.json").exists():
        rayface("data", "synth", str(drawn), "--count", str(DIFFERENT), "--size", "32")
    images = FaceDataset(str(drawn)).batch(range(DIFFERENT), ("image",))["image"]
    pictures = [encode(image, "jpeg") for image in images]
    for number in range(records):
        path = photos / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        first = photos / "0000" / f"{number % DIFFERENT:07d}.jpg"
        if number < DIFFERENT:
            path.write_bytes(pictures[number])
        else:
            os.link(first, path)
    return ["apply", "upscale", str(photos), str(folder / "large"), "--workers", "-1"]


def measured(command: list[str], records: int) -> dict[str, float]:
    """Seconds, records per second and the most memory (MB) of a rayface command and all that it starts."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "rayface.cli", *command], stdout=subprocess.DEVNULL)
    most = Most(process.pid)
    most.start()
    if process.wait():
        raise SystemExit(f"rayface {' '.join(command)} failed")
    most.join()
    seconds = time.monotonic() - began
    return {
        "seconds": round(seconds, 1), "records_per_second": round(records / seconds, 1),
        "driver_mb": round(most.driver / 1e6), "all_mb": round(most.everything / 1e6),
    }  # fmt: skip


class Most(threading.Thread):
    """The most memory of a process, and of it with all that it started, while it lives."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.driver = self.everything = 0

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            try:
                own = held(self.process)
                self.driver = max(self.driver, own)
                self.everything = max(self.everything, own + sum(map(held, self.process.children(recursive=True))))
            except psutil.NoSuchProcess:
                return
            time.sleep(0.5)


def held(process: psutil.Process) -> int:
    """Proportional set size, bytes; 0 for a process that has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def rayface(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "rayface.cli", *command], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
