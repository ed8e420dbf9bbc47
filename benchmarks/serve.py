"""The composed service beside the same work in one process, behind FastAPI, and behind LitServe.

    python -m benchmarks.serve --photos DIR [--seconds 20] [--rounds 3] [--concurrency 1,4,16] \
        [--payloads 640,1280x960,12mp] [--variants ...] [--open-loop] --out serve.json

Same weights, same decoder and encoder; the answers of all variants are compared before anything is timed, and must be
the same bytes. All variants are up at once; rounds alternate between them. `--photos` is a folder of pictures of one
face each, for example the photos of `rayface data fetch celeba-mini`. `in-process` and the servers are tried in two
shapes, w1t2 (one worker, two threads for torch) and w2t1. LitServe is wanted only here: `pip install litserve`.
rayface comes in both layouts of its stages (settings.layout): one replica for all, and a deployment for each.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving.load import Client, Samples, closed_loop, open_loop, watched
from benchmarks.serving.payloads import LAYOUTS, payloads
from serve.proxy import free_ports

START_SECONDS = 180
OPEN_LOOP_SHARE = 0.7  # of the throughput a variant had in its closed loop of the highest concurrency


@dataclass
class Variant:
    """Something that processes photos: its name, the root of its processes, and how to ask it."""

    name: str
    pid: int
    once: Callable[[bytes], bytes]
    closed: Callable[[bytes, int, float], Samples]
    open: Callable[[bytes, float, float, int], Samples] | None = None


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A child in a process group of its own, which is ended as a whole."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))}
        | environment,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)


def http_variant(name: str, child: "subprocess.Popen[str]", url: str, form: bool = False) -> Variant:
    """Waits until the server listens."""
    deadline = time.monotonic() + START_SECONDS
    root = url.split("/", 3)[:3]
    while True:
        try:
            urllib.request.urlopen("/".join(root) + "/openapi.json", timeout=5).read()
            break
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start") from None
            time.sleep(0.5)
    return Variant(
        name, child.pid,
        once=lambda photo: asyncio.run(Client(url, photo, form).once()),
        closed=lambda photo, count, seconds: asyncio.run(closed_loop(Client(url, photo, form), count, seconds)),
        open=lambda photo, rate, seconds, seed: asyncio.run(open_loop(Client(url, photo, form), rate, seconds, seed)),
    )  # fmt: skip


def in_process(name: str, child: "subprocess.Popen[str]", folder: Path) -> Variant:
    def ask(photo: bytes, **request: Any) -> dict[str, Any]:
        assert child.stdin is not None
        assert child.stdout is not None
        (folder / "photo.jpg").write_bytes(photo)
        child.stdin.write(json.dumps({"photo": str(folder / "photo.jpg"), **request}) + "\n")
        child.stdin.flush()
        return dict(json.loads(child.stdout.readline()))

    def once(photo: bytes) -> bytes:
        ask(photo, result=str(folder / "result.jpg"))
        return (folder / "result.jpg").read_bytes()

    def closed(photo: bytes, concurrency: int, seconds: float) -> Samples:
        answer = ask(photo, concurrency=concurrency, seconds=seconds)
        return Samples(answer["latencies"], seconds=answer["seconds"])

    assert child.stdout is not None
    child.stdout.readline()  # ready
    return Variant(name, child.pid, once, closed)


def start(name: str, stack: ExitStack, options: argparse.Namespace) -> Variant:
    """The variant of a name such as in-process-w2t1, litserve-w2t1 or rayface."""
    kind, _, shape = name.rpartition("-") if name.endswith(("w1t2", "w2t1")) else (name, "", "")
    (port,) = free_ports(1)
    if kind.startswith("rayface"):
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "config.yaml"
        config.write_text(configured(options, kind.partition("-")[2]))
        module = "benchmarks.serving.noop" if options.noop else "serve"
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port), "--config", str(config)]
        child = stack.enter_context(process(command))
        return http_variant(name, child, f"http://127.0.0.1:{port}/v1/process?steps={options.steps}&format=jpeg")
    server = {"in-process": "pipeline"}.get(kind, kind)
    workers, threads = (1, 2) if shape == "w1t2" else (2, 1)
    command = [
        sys.executable, "-m", "benchmarks.serving.rivals", server, "--port", str(port), "--workers", str(workers),
        "--threads", str(threads), "--steps", options.steps, *(["--noop"] if options.noop else []),
    ]  # fmt: skip
    child = stack.enter_context(process(command))
    if server == "pipeline":
        return in_process(name, child, Path(stack.enter_context(tempfile.TemporaryDirectory())))
    return http_variant(name, child, f"http://127.0.0.1:{port}/process", form=server == "litserve")


def configured(options: argparse.Namespace, layout: str) -> str:
    """The text of a Serve config file: the one of --config, for these steps, in a layout if one is named."""
    import yaml

    config = yaml.safe_load(Path(options.config).read_text())
    config["applications"][0]["args"] |= {"steps": options.steps.split(",")} | ({"layout": layout} if layout else {})
    return str(yaml.safe_dump(config))


def check_same(variants: list[Variant], photos: dict[str, bytes]) -> None:
    """Every variant's answer to every photo must be the same bytes."""
    for payload, photo in photos.items():
        answers = {variant.name: variant.once(photo) for variant in variants}
        first, *others = answers.values()
        if not first or any(answer != first for answer in others):
            sizes = {name: len(answer) for name, answer in answers.items()}
            raise SystemExit(f"the answers to {payload} differ (bytes: {sizes})")


def measure(variants: list[Variant], photos: dict[str, bytes], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each payload, load and variant; rounds alternate between the variants."""
    rows = []
    for payload, photo in photos.items():
        last: dict[str, Samples] = {}
        for concurrency in options.concurrency:
            merged = {variant.name: Samples() for variant in variants}
            for _ in range(options.rounds):
                for variant in variants:
                    made = watched(variant.pid, partial(variant.closed, photo, concurrency, options.seconds))
                    merged[variant.name] = merged[variant.name].merged(made)
            rows += [row(payload, f"closed {concurrency}", name, samples) for name, samples in merged.items()]
            last = merged
        if options.open_loop:
            for seed, variant in enumerate(variants):
                if variant.open is None:
                    continue
                rate = OPEN_LOOP_SHARE * last[variant.name].per_second
                seconds = options.seconds * options.rounds
                made = watched(variant.pid, partial(variant.open, photo, rate, seconds, seed))
                rows.append(row(payload, f"open {rate:.2f}/s", variant.name, made))
    return rows


def row(payload: str, load: str, name: str, samples: Samples) -> dict[str, Any]:
    answered = len(samples.latencies)
    found = {
        "payload": payload,
        "load": load,
        "variant": name,
        "per_second": round(samples.per_second, 3),
        **{f"p{percent}_ms": round(samples.percentile(percent), 1) for percent in (50, 95, 99)},
        "cpu_seconds_per_request": round(samples.cpu_seconds / answered, 3) if answered else None,
        "peak_megabytes": round(samples.peak_megabytes),
        "answered": answered,
        "refused": samples.refused,
        "failed": samples.failed,
    }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = "in-process-w1t2,in-process-w2t1,fastapi-w1t2,fastapi-w2t1,litserve-w1t2,litserve-w2t1"
    everything += ",rayface-together,rayface-separate"
    parser.add_argument("--photos", required=True)
    parser.add_argument("--variants", type=lambda text: text.split(","), default=everything.split(","))
    parser.add_argument("--payloads", type=lambda text: text.split(","), default=list(LAYOUTS))
    parser.add_argument("--concurrency", type=lambda text: [int(x) for x in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open-loop", action="store_true")
    parser.add_argument("--steps", default="enhance")
    parser.add_argument("--config", default="serve/config.yaml", help="of rayface: a Serve config file")
    parser.add_argument("--noop", action="store_true", help="networks that do nothing: what is left is the way between")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    photos = payloads(options.photos, options.payloads)
    with ExitStack() as stack:
        variants = [start(name, stack, options) for name in options.variants]
        check_same(variants, photos)
        rows = measure(variants, photos, options)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
