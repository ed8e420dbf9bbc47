"""What the service is measured against: the same pipeline in one process, behind plain FastAPI and behind LitServe.

    python -m benchmarks.serving.rivals fastapi|litserve|pipeline --port P --workers W --threads T --steps enhance

Each runs until it is killed. `pipeline` has no HTTP: it reads one JSON request a line and answers with latencies, see
`measure_in_process`. All use the released weights, `codec.decode` and `codec.encode` as rayface's service does.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rayface.imaging.codec import decode, encode

QUALITY = 92  # the service's default


class Worker:
    """Photo bytes -> processed JPEG bytes, in one process."""

    def __init__(self, steps: list[str], threads: int, noop: bool = False) -> None:
        import torch

        from benchmarks.serving import noop as nothing
        from rayface.pipeline import Pipeline
        from rayface.store import open_store

        torch.set_num_threads(threads)
        self.steps = steps
        self.pipeline = nothing.pipeline() if noop else Pipeline.from_store(open_store(None), steps)

    def __call__(self, data: bytes) -> bytes:
        return encode(self.pipeline.process(decode(data), self.steps).photo, "jpeg", QUALITY)


def serve_fastapi(options: argparse.Namespace) -> None:
    """One process, one event loop, `workers` threads that run the pipeline: what most projects begin with."""
    import uvicorn
    from fastapi import FastAPI, Request, Response

    work, pool = Worker(options.steps, options.threads, options.noop), ThreadPoolExecutor(options.workers)
    app = FastAPI()

    @app.post("/process")
    async def process(request: Request) -> Response:
        data = await request.body()
        made = await asyncio.get_running_loop().run_in_executor(pool, work, data)
        return Response(made, media_type="image/jpeg")

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


def serve_litserve(options: argparse.Namespace) -> None:
    """LitServe with `workers` worker processes; the photo comes as a form's file, the way its documentation shows."""
    import litserve

    from benchmarks.serving.litserve_api import PipelineApi

    api = PipelineApi(api_path="/process")
    api.steps, api.threads, api.noop = options.steps, options.threads, options.noop
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=False)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


def serve_pipeline(options: argparse.Namespace) -> None:
    """Answer {"photo": PATH, "concurrency": C, "seconds": S} on standard input until it ends."""
    work = Worker(options.steps, options.threads, options.noop)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        data = Path(request["photo"]).read_bytes()
        if not request.get("seconds"):
            Path(request["result"]).write_bytes(work(data))
            print(json.dumps({}), flush=True)
            continue
        workers = min(options.workers, request["concurrency"])
        print(
            json.dumps(measure_in_process(work, data, request["concurrency"], workers, request["seconds"])), flush=True
        )


def measure_in_process(work: Worker, data: bytes, concurrency: int, workers: int, seconds: float) -> dict[str, Any]:
    """`concurrency` callers of a pool of `workers` threads for so long: {"latencies": seconds each, "seconds": all}."""
    latencies: list[float] = []
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:

        def call_again_and_again() -> None:
            while (asked := time.perf_counter()) < started + seconds:
                pool.submit(work, data).result()
                latencies.append(time.perf_counter() - asked)

        callers = [threading.Thread(target=call_again_and_again) for _ in range(concurrency)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    return {"latencies": latencies, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    servers = {"fastapi": serve_fastapi, "litserve": serve_litserve, "pipeline": serve_pipeline}
    parser.add_argument("server", choices=servers)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=lambda text: text.split(","), default=["enhance"])
    parser.add_argument("--noop", action="store_true", help="see benchmarks/serving/noop.py")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):  # how benchmarks/serve.py ends it
        servers[options.server](options)


if __name__ == "__main__":
    main()
