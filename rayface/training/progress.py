"""What a run tells while it goes: JSON lines, TensorBoard, sample pictures, a line with rate and time left, and figures
for Prometheus and for a tracker that was asked for."""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rayface import metrics
from rayface.storage import open_filesystem
from rayface.training.request import TrainPlan
from rayface.training.tracking import Tracker, open_tracker


class Progress:
    """Logs of one system's training, written by rank 0 under `<run folder>/<system>/`.

    A local run folder is written directly; for a bucket the files are staged and copied at `flush`. A resumed run
    drops the lines after its checkpoint, so every step appears once. `tracker` is told the same figures.
    """

    def __init__(self, run_folder: str, system: str, start_step: int, tracker: Tracker | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.filesystem, path = open_filesystem(run_folder)
        self.remote = f"{path}/{system}" if "://" in run_folder else None
        self.staging = Path(tempfile.mkdtemp(prefix="rayface-logs-")) if self.remote else None
        self.sent: dict[Path, int] = {}  # sizes of the files that were copied
        self.folder = (self.staging or Path(path)) / system
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines = self.folder / "metrics.jsonl"
        if self.remote and self.filesystem.get_file_info(f"{self.remote}/metrics.jsonl").is_file:
            with self.filesystem.open_input_stream(f"{self.remote}/metrics.jsonl") as stream:
                self.lines.write_bytes(stream.read())
        self._drop_lines_from(start_step)
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start_step)
        self.system = system
        self.started, self.start_step = time.monotonic(), start_step
        self.last_printed = 0.0
        self.tracker, self.logged = tracker, start_step
        self.tags = {"run": run_folder.rpartition("/")[2], "system": system}
        self.skipped(0)
        self.checkpointed()

    def log(self, step: int, total: int, images_per_step: int, values: dict[str, float]) -> None:
        """Record the metrics of the step just done; print a line at most every two seconds."""
        now = time.monotonic()
        with self.lines.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(now - self.started, 3), **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self._tracked("log", step, values)
        self._tell(step, total, images_per_step, values)
        if now - self.last_printed < 2 and step + 1 < total:
            return
        self.last_printed = now
        done = step + 1 - self.start_step
        seconds = (now - self.started) / done
        left = int(seconds * (total - step - 1))
        losses = " ".join(f"{k.removeprefix('loss/')}={v:.4g}" for k, v in values.items() if k.startswith("loss/"))
        print(
            f"[{self.system}] step {step + 1}/{total}  {losses}  {images_per_step / seconds:.1f} images/s  "
            f"{left // 60:02d}:{left % 60:02d} left",
            file=sys.__stdout__,  # Ray Train replaces print and would show the line twice
            flush=True,
        )

    def _tracked(self, what: str, *arguments: Any) -> None:
        """Calls the tracker's method `what`, if there is a tracker."""
        try:
            if self.tracker is not None:
                getattr(self.tracker, what)(*arguments)
        except Exception as error:  # whatever a package of others raises; a server that is away ends no training
            print(f"[{self.system}] --track failed ({what}) and is over: {error}", flush=True)
            self.tracker = None

    def _tell(self, step: int, total: int, images_per_step: int, values: dict[str, float]) -> None:
        """The same for Prometheus; `values` are of `log`."""
        metrics.TRAINING_STEP.record(step + 1, **self.tags)
        metrics.TRAINING_STEPS.record(total, **self.tags)
        metrics.TRAINING_IMAGES.record(images_per_step * (step + 1 - self.logged), **self.tags)
        self.logged = step + 1
        metrics.TRAINING_STEP_TIME.record(time.time(), **self.tags)
        for name, value in values.items():
            group, _, kind = name.partition("/")
            if group == "factor":
                metrics.DEGRADATION_FACTOR.record(value, **self.tags, type=kind)
            elif group == "strength":
                metrics.DEGRADATION_STRENGTH.record(value, **self.tags, type=kind)
            else:
                metrics.TRAINING_VALUE.record(value, **self.tags, name=name)

    def skipped(self, steps: int) -> None:
        """So many steps were left out since the start, as their gradients were not numbers."""
        metrics.TRAINING_SKIPPED.record(steps, **self.tags)

    def checkpointed(self) -> None:
        """A checkpoint is kept; the start counts as one, so that its age is known from then on."""
        metrics.TRAINING_CHECKPOINT_TIME.record(time.time(), **self.tags)

    def picture(self, step: int, picture: torch.Tensor) -> None:
        """Keep a sample grid, uint8 [3, H, W]."""
        from rayface.imaging.codec import encode

        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step:06d}.png").write_bytes(encode(picture, "png"))
        self.board.add_image("samples", picture, step)

    def trail(self, lines: list[dict[str, Any]]) -> None:
        """Keep the trail of channel reduction: pruning_trail.json and a picture of it."""
        from rayface.compression.trail import trail_picture

        (self.folder / "pruning_trail.json").write_text(json.dumps(lines, indent=1))
        (self.folder / "pruning_trail.png").write_bytes(trail_picture(lines))

    def flush(self) -> None:
        from rayface.training.plots import adaptation_picture

        if self.lines.exists() and (picture := adaptation_picture(self.lines)):
            (self.folder / "adaptation.png").write_bytes(picture)
        self.board.flush()
        if self.remote is None:
            return
        for file in self.folder.rglob("*"):
            if file.is_file() and self.sent.get(file) != file.stat().st_size:
                self.sent[file] = file.stat().st_size
                target = f"{self.remote}/{file.relative_to(self.folder).as_posix()}"
                with self.filesystem.open_output_stream(target) as stream:
                    stream.write(file.read_bytes())

    def close(self) -> None:
        self._tracked("close")
        for metric in metrics.METRICS:
            if metric.kind == "gauge" and {"run", "system"} <= set(metric.tags):
                metric.forget(**self.tags)  # a run that is over has not stopped moving
        self.board.close()
        self.flush()
        if self.staging:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _drop_lines_from(self, step: int) -> None:
        if self.lines.exists():
            kept = []
            for line in self.lines.read_text().splitlines():
                try:
                    if json.loads(line)["step"] < step:
                        kept.append(line + "\n")
                except json.JSONDecodeError:
                    continue  # a line cut off by a kill
            self.lines.write_text("".join(kept))


def open_progress(plan: TrainPlan, system: str, start_step: int) -> Progress:
    """The logs of a system of `plan` from `start_step` on, for rank 0. Raises RayfaceError, see `open_tracker`."""
    folder = plan.request.run_folder
    tracker = open_tracker(plan.request.track, folder, system, plan.configs[system])
    return Progress(folder, system, start_step, tracker)
