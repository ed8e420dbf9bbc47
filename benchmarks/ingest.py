"""Photos per second of `rayface data ingest`, as JSON.

    python benchmarks/ingest.py PHOTOS --format celeba --repeat 4

For each way of aligning, the whole ingest is timed: listing, reading, decoding, (detecting,) aligning,
encoding, shards, manifest. Not timed: the start of Ray, and the start of its worker processes with their
imports, which a first small ingest of the same photos pays for (`--cold` leaves it out, so that they are
timed too).
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image

from rayface.data.ingest import ingest
from rayface.data.sources import find_items
from rayface.ray_session import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a source of `rayface data ingest`")
    parser.add_argument("--format", default="celeba")
    parser.add_argument("--align", nargs="+", default=["landmarks", "detect"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3, help="runs; the median is the result")
    parser.add_argument("--cold", action="store_true", help="time the start of the worker processes too")
    options = parser.parse_args()
    import ray

    connect(quiet=True)
    items = find_items(options.photos, options.format).items
    with Image.open(items[0].path) as picture:
        first = "x".join(str(side) for side in picture.size)
    report: dict[str, object] = {
        "photos": len(items),
        "first_photo": first,
        "crop": options.size,
        "cpus": int(ray.cluster_resources().get("CPU", 0)),
        "excluded": "start of Ray" if options.cold else "start of Ray and of its worker processes",
    }
    scratch = Path(tempfile.mkdtemp(prefix="rayface-ingest-"))
    try:
        for align in options.align:
            if not options.cold:
                warm = max(1, min(len(items), 4 * (os.cpu_count() or 1)))
                run(options, align, scratch, limit=warm, chunk=2)
            rates = sorted(run(options, align, scratch, chunk=options.chunk) for _ in range(options.repeat))
            report[align] = {"photos_per_second": rates[len(rates) // 2], "runs": rates}
    finally:
        shutil.rmtree(scratch)
    print(json.dumps(report, indent=2))


def run(options: argparse.Namespace, align: str, scratch: Path, chunk: int, limit: int | None = None) -> float:
    """Photos per second of one ingest into an empty folder."""
    out = scratch / "faces"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    summary = ingest(options.photos, out, options.format, size=options.size, align=align, chunk=chunk, limit=limit)
    return round(summary["photos_read"] / (time.perf_counter() - began), 1)


if __name__ == "__main__":
    main()
