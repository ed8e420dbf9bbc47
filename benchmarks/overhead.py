"""What a request to a running service costs one client beyond the work that its report accounts for.

    python -m benchmarks.overhead PHOTO [--url http://127.0.0.1:8000] [--requests 60]

Compute is the sum of a report's stages: decode, detect, the steps, identify, parse, fuse, encode. Overhead is all else
between sending the photo and holding the answer: HTTP, proxy, ingress, calls between processes and threads.
"""

import argparse
import json
import time
from pathlib import Path

import httpx
import numpy as np

from rayface.client import Client

WARM_UP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=60)
    options = parser.parse_args()
    photo = options.photo.read_bytes()
    whole, compute = [], []
    with httpx.Client(base_url=options.url, timeout=60) as http, Client(options.url) as client:
        for number in range(WARM_UP + options.requests):
            started = time.perf_counter()
            answer = http.post("/v1/enhance?format=jpeg", content=photo).raise_for_status()
            took = 1000 * (time.perf_counter() - started)
            timings = client.report(answer.headers["x-request-id"])["timings_ms"]
            if number >= WARM_UP:
                whole.append(took)
                compute.append(sum(ms for stage, ms in timings.items() if stage != "total"))
    between = np.subtract(whole, compute)
    figures = {"p50_ms": whole, "compute_p50_ms": compute, "overhead_p50_ms": between}
    print(json.dumps({name: round(float(np.median(values)), 1) for name, values in figures.items()}))


if __name__ == "__main__":
    main()
