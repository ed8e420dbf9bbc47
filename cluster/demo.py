"""`make demo`: from nothing to a result on one machine, by the commands a user would type.

Mini data -> training on Ray Train (two workers) -> short searches by Tune -> evaluation -> the service up and photos
posted -> `runs/demo/report.html`, `report.json` and pictures. Everything lies in runs/demo; a second run starts anew.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.demo_report import write_report
from rayface.errors import RayfaceError

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "runs" / "demo"
DRAWN_FACES = 480
OWN_PHOTOS, REPEATED = 96, 4  # photos that are labelled as if nothing were known, and how many of them come twice
TRAIN = {"parsing.steps": 120, "enhancement.steps": 240}


class Demo:
    """Runs commands one after the other and keeps what each took."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.started = time.monotonic()
        (DEMO / "logs").mkdir(parents=True)

    def run(self, title: str, *command: str) -> str:
        """Run a command of the project, log it, return its standard output; raises RayfaceError when it fails."""
        shown = "python " + " ".join(command).replace(f"{ROOT}/", "")
        print(f"\n== {title}\n$ {shown}", flush=True)
        log = DEMO / "logs" / f"{len(self.commands) + 1:02d}-{title.replace(' ', '-')}.log"
        began = time.monotonic()
        with log.open("w") as errors:
            line = [sys.executable, *command]
            done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        log.write_text(log.read_text() + done.stdout)
        seconds = round(time.monotonic() - began, 1)
        self.commands.append({"title": title, "command": shown, "seconds": seconds, "exit": done.returncode})
        if done.returncode:
            lines = log.read_text().splitlines()
            raise RayfaceError(f"{title} failed; {log.relative_to(ROOT)} ends:\n" + "\n".join(lines[-15:]))
        print(f"   {seconds:.0f} s", flush=True)
        return done.stdout


def main() -> None:
    """The whole demo; exits with 2 and the failing command's last lines when a step fails."""
    shutil.rmtree(DEMO, ignore_errors=True)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    demo = Demo()
    try:
        report = run_steps(demo)
    except RayfaceError as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    report["commands"], report["seconds"] = demo.commands, round(time.monotonic() - demo.started)
    (DEMO / "report.json").write_text(json.dumps(report, indent=1))
    write_report(report, DEMO)
    print(f"\nDone in {report['seconds'] // 60} min {report['seconds'] % 60} s. Open runs/demo/report.html")


def run_steps(demo: Demo) -> dict[str, Any]:
    drawn, store = f"{DEMO}/drawn", f"{DEMO}/store"
    demo.run("drawn faces", "-m", "rayface.cli", "data", "synth", drawn, "--count", str(DRAWN_FACES))
    photos, source = photo_data(demo, drawn)
    settings = [part for key, value in TRAIN.items() for part in ("--set", f"{key}={value}")]
    trained = json_tail(
        demo.run(
            "train parsing and enhancement",
            *("-m", "rayface.cli", "train", "parsing", "enhancement", "--workers", "2", "--name", "train"),
            *("--data", photos, "--data", f"parsing={drawn}", "--storage", str(DEMO), "--store", store, *settings),
            *("--set", "global_batch=8", "--set", "checkpoint_every=60", "--set", "sample_every=60"),
            *("--set", "log_every=5", "--set", "enhancement.adversarial_from=160"),
        )
    )
    demo.run(
        "tune the training degradations",
        *("-m", "tune", "augmentation", "--data", photos, "--trials", "2", "--preset", "tiny"),
        *("--set", "size=128", "--set", "steps=40", "--limit", "16", "--storage", str(DEMO), "--name", "tune"),
    )
    demo.run(
        "tune the pruning ratios",
        *("-m", "tune", "pruning", "--data", photos, "--init", "enhancement", "--store", "weights", "--trials", "4"),
        *("--set", "steps=16", "--set", "global_batch=4", "--set", "ema_half_life=16", "--set", "perceptual_network="),
        *("--set", "recognition=", "--limit", "8", "--storage", str(DEMO), "--name", "pruning"),
    )
    evaluation = {
        system: json.loads(
            demo.run(
                f"evaluate {system}",
                *("-m", "rayface.cli", "evaluate", system, "--data", data, "--store", store),
                *("--split", "test", "--limit", "32", "--json"),
            )
        )
        for system, data in (("parsing", drawn), ("enhancement", photos))
    }
    labelled = label_own_photos(demo)
    pictures = degraded_photos(photos)
    demo.run(
        "apply the release weights",
        *("-m", "rayface.cli", "apply", "enhance", f"{DEMO}/pictures/degraded", f"{DEMO}/pictures/release"),
        *("--store", "weights"),
    )
    with service(demo, store) as address:
        served = [post(address, picture) for picture in pictures]
    return {
        "photos": source,
        "labelled": labelled,
        "models": trained["models"],
        "faces": trained["faces"],
        "evaluation": evaluation,
        "tune": json.loads((DEMO / "tune" / "pareto.json").read_text()),
        "served": served,
    }


def photo_data(demo: Demo, drawn: str) -> tuple[str, str]:
    """celeba-mini as a dataset; where it cannot be fetched, the demo says so and goes on with drawn faces."""
    raw, photos = f"{DEMO}/celeba-mini", f"{DEMO}/photos"
    try:
        demo.run("fetch celeba-mini", "-m", "rayface.cli", "data", "fetch", "celeba-mini", raw, "--accept-terms")
    except RayfaceError as error:
        print(f"   {error}\n   celeba-mini cannot be fetched: going on with drawn faces. Figures are about drawings.")
        return drawn, "drawn faces (celeba-mini could not be fetched)"
    demo.run("ingest", "-m", "rayface.cli", "data", "ingest", raw, photos, "--format", "celeba")
    return photos, "celeba-mini: 999 CelebA photos, non-commercial research use only"


def label_own_photos(demo: Demo) -> dict[str, Any] | None:
    """`rayface data label` on a folder as users have them: no labels, and some photos in it twice.

    None where celeba-mini could not be fetched. Only labels whose release weights are there are asked for.
    """
    from PIL import Image

    from rayface.labelling.labeller import LABELS, SYSTEM_OF
    from rayface.store import release_store

    found = sorted((DEMO / "celeba-mini" / "photos").glob("*.jpg"))[:OWN_PHOTOS]
    if not found:
        return None
    folder, out = DEMO / "own-photos", DEMO / "labelled"
    folder.mkdir()
    for photo in found:
        shutil.copyfile(photo, folder / photo.name)
    for photo in found[:REPEATED]:
        with Image.open(photo) as picture:
            smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
            smaller.save(folder / f"{photo.stem}-small.jpg", quality=60)
    held = release_store().names()
    labels = [label for label in LABELS if label not in SYSTEM_OF or SYSTEM_OF[label] in held]
    summary = json.loads(
        demo.run(
            "label photos",
            *("-m", "rayface.cli", "data", "label", str(folder), str(out), "--with", ",".join(labels)),
            *("--chunk", "32", "--store", "weights"),
        )
    )
    grid = DEMO / "labelled.png"
    demo.run(
        "look at the labels", "-m", "rayface.cli", "data", "inspect", str(out), "--grid", str(grid), "--count", "12"
    )
    return {"photos": len(found), "repeated": REPEATED, "labels": labels, **summary}


def degraded_photos(photos: str, count: int = 4) -> list[dict[str, Path]]:
    """Test photos the training never saw, with the pinned medium degradation: `{clear, degraded}` PNG files."""
    from rayface.data.dataset import FaceDataset
    from rayface.data.degradation import degrade, severity_sets
    from rayface.imaging.codec import encode, to_float, to_uint8

    indices = range(count)
    clear = FaceDataset(photos, "test", 256).batch(indices)["image"]
    config, generators = severity_sets(indices)["medium"]
    degraded = to_uint8(degrade(to_float(clear), config, generators))  # type: ignore[arg-type]
    kinds = ("clear", "degraded", "enhanced", "release")
    for kind in kinds:
        (DEMO / "pictures" / kind).mkdir(parents=True)
    files = []
    for index in indices:
        names = {kind: DEMO / "pictures" / kind / f"{index}.png" for kind in kinds}
        names["clear"].write_bytes(encode(clear[index], "png"))  # type: ignore[arg-type]
        names["degraded"].write_bytes(encode(degraded[index], "png"))
        files.append(names)
    return files


@contextmanager
def service(demo: Demo, store: str) -> Iterator[str]:
    """The HTTP service in a process of its own, until the block ends; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = ["-m", "serve", "--store", store, "--port", str(port)]
    print(f"\n== service\n$ python {' '.join(command)}".replace(f"{ROOT}/", ""), flush=True)
    began = time.monotonic()
    log = DEMO / "logs" / "service.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(address, process, log)
        seconds = round(time.monotonic() - began, 1)
        demo.commands.append({"title": "service up", "command": f"python {' '.join(command)}", "seconds": seconds})
        print(f"   up after {seconds:.0f} s at {address}", flush=True)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_healthy(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RayfaceError(f"the service did not come up; its log ends:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.5)


def post(address: str, files: dict[str, Path]) -> dict[str, Any]:
    """Post the degraded photo to /v1/enhance, keep the answer and its report."""
    request = urllib.request.Request(
        f"{address}/v1/enhance",
        data=files["degraded"].read_bytes(),
        headers={"Content-Type": "image/png", "Accept": "image/png"},
    )
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=120) as answer:
        files["enhanced"].write_bytes(answer.read())
        request_id = answer.headers["x-request-id"]
    milliseconds = round(1000 * (time.monotonic() - began))
    with urllib.request.urlopen(f"{address}/v1/reports/{request_id}", timeout=30) as answer:
        report = json.loads(answer.read())
    print(f"   POST /v1/enhance: {milliseconds} ms, {len(report['faces'])} face(s)", flush=True)
    return {"milliseconds": milliseconds, "report": report, **{k: str(v.relative_to(DEMO)) for k, v in files.items()}}


def json_tail(output: str) -> Any:
    """The JSON document at the end of a command's output."""
    return json.loads(output[output.index("\n{\n") + 1 :] if not output.startswith("{") else output)


if __name__ == "__main__":
    main()
