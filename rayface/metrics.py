"""Every figure that Prometheus is told, through Ray's exporter; docs/operations.md, "Watching it", explains them.

Ray writes `ray_` in front of a name and `_total` behind a counter's, and adds labels of the process (`WorkerId`,
`NodeAddress`). What Ray itself exports (`ray_serve_*`: requests, replicas, queues; `ray_train_*`) is not counted again.
Outside a Ray cluster, as in `rayface apply` or under torchrun, nothing is recorded.
"""

import contextlib
import sys
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
COSINES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0)

# Ray forgets a gauge that was not set for two of its reports (20 s), and states are set when they change.
REPEAT_SECONDS = 2.0


@dataclass(frozen=True)
class Metric:
    """A figure by its labels `tags`. `boundaries`: upper ends of a histogram's buckets, all above 0."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    def record(self, value: float, **tags: str) -> None:
        """Add to a counter (nothing where `value` is 0), set a gauge, or observe; `tags` must be the metric's own.

        Takes some microseconds in a process of a Ray cluster, which sends the figures on by itself; elsewhere it does
        nothing.
        """
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        if self.kind == "gauge":
            self._made.set(value, tags)
            _kept.keep(self, tags, value)
        elif self.kind == "histogram":
            self._made.observe(value, tags)
        elif value:
            self._made.inc(value, tags)

    def forget(self, **tags: str) -> None:
        """Let go of a gauge's values whose tags include these; Prometheus loses them within Ray's 20 s."""
        _kept.drop(self, tags)

    @cached_property
    def _made(self) -> Any:
        """Ray's own object; a name may be registered once in a process."""
        from ray.util import metrics

        if self.kind == "histogram":
            return metrics.Histogram(self.name, self.help, list(self.boundaries), self.tags)
        made = metrics.Counter if self.kind == "counter" else metrics.Gauge
        return made(self.name, self.help, self.tags)

    @property
    def exported(self) -> tuple[str, ...]:
        """The names that Prometheus knows."""
        name = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{name}_total",)
        # Ray adds up a histogram from the middles of its buckets: `_sum` is not exact, and nothing here uses it.
        return (f"{name}_bucket", f"{name}_count") if self.kind == "histogram" else (name,)


class _Kept:
    """The gauges of this process, set again and again by a thread while it lives, also while its work hangs."""

    def __init__(self) -> None:
        self._values: dict[tuple[Metric, frozenset[tuple[str, str]]], float] = {}
        self._lock = threading.Lock()
        self._started = False

    def keep(self, metric: Metric, tags: dict[str, str], value: float) -> None:
        with self._lock:
            self._values[metric, frozenset(tags.items())] = value
            if not self._started:
                self._started = True
                threading.Thread(target=self._repeat, name="rayface-metrics", daemon=True).start()

    def drop(self, metric: Metric, tags: dict[str, str]) -> None:
        with self._lock:
            for key in [key for key in self._values if key[0] == metric and tags.items() <= dict(key[1]).items()]:
                del self._values[key]

    def _repeat(self) -> None:
        while True:
            time.sleep(REPEAT_SECONDS)
            with self._lock, contextlib.suppress(Exception):  # Ray may shut down under it; the next time is soon
                if sys.modules["ray"].is_initialized():
                    for (metric, tags), value in self._values.items():
                        metric._made.set(value, dict(tags))


_kept = _Kept()

# -- the service: photos, as the ingress sees them ---------------------------------------------------------------------
PHOTOS = Metric(
    "counter", "rayface_photos", "Photos worked on, by what was asked and what became of them", ("way", "result")
)
PHOTO_SECONDS = Metric(
    "histogram", "rayface_photo_seconds", "From a received photo to its result, seconds", ("way",), SECONDS
)
FACES_FOUND = Metric("counter", "rayface_faces_found", "Faces found in photos")
FACES_CHANGED = Metric("counter", "rayface_faces_changed", "Faces whose pixels in the result are not the photo's own")
FACES_SKIPPED = Metric("counter", "rayface_faces_skipped", "Steps left out at a face, by why", ("reason",))
GUARD_FACES = Metric(
    "counter",
    "rayface_guard_faces",
    "Changed faces that the identity guard judged: passed, blended, undone",
    ("verdict",),
)
GUARD_SIMILARITY = Metric(
    "histogram", "rayface_guard_similarity", "Cosine of a face before and after; below 0 counts as 0", (), COSINES
)
RESULTS_REDUCED = Metric("counter", "rayface_results_reduced", "Results enlarged less than was asked")
REFUSED = Metric("counter", "rayface_refused", "Requests and photos refused as the service was busy", ("reason",))
SWAP_REQUESTS = Metric("counter", "rayface_swap_requests", "Requests that swap faces, consent stated")
JOBS = Metric("gauge", "rayface_jobs", "Jobs that are held", ("status",))
CERTIFICATE_EXPIRES = Metric(
    "gauge",
    "rayface_certificate_expires_timestamp_seconds",
    "When the certificate that signs results runs out, Unix time",
)

# -- the service: stages -----------------------------------------------------------------------------------------------
STAGE_BATCHES = Metric("counter", "rayface_stage_batches", "Calls of a stage's network", ("stage",))
STAGE_SLOTS = Metric("counter", "rayface_stage_slots", "Photos that these calls had room for", ("stage",))
STAGE_PHOTOS = Metric("counter", "rayface_stage_photos", "Photos through a stage", ("stage", "model", "version"))
STAGE_FACES = Metric(
    "counter", "rayface_stage_faces", "Faces of the photos through a stage", ("stage", "model", "version")
)
STAGE_SECONDS = Metric(
    "histogram", "rayface_stage_seconds", "A call of a stage's network, seconds", ("stage",), SECONDS
)
STAGE_WAIT = Metric(
    "histogram",
    "rayface_stage_wait_seconds",
    "How long a photo waited for a stage's network, seconds",
    ("stage",),
    SECONDS,
)
STAGE_ERRORS = Metric("counter", "rayface_stage_errors", "Photos that a stage failed at", ("stage", "kind"))
MODEL_SHARE = Metric(
    "gauge",
    "rayface_model_share",
    "Share of the photos that a version serves; 0: no longer",
    ("stage", "model", "version"),
)
MODEL_REFUSED = Metric(
    "gauge", "rayface_model_refused", "1: a replica was told to serve a model that it cannot", ("stage",)
)

# -- training, told by rank 0 ------------------------------------------------------------------------------------------
RUN = ("run", "system")
TRAINING_STEP = Metric("gauge", "rayface_training_step", "Steps done", RUN)
TRAINING_STEPS = Metric("gauge", "rayface_training_steps", "Steps to do in all", RUN)
TRAINING_IMAGES = Metric("counter", "rayface_training_images", "Images seen, of all ranks", RUN)
TRAINING_VALUE = Metric("gauge", "rayface_training_value", "A loss or another figure of the log", (*RUN, "name"))
DEGRADATION_FACTOR = Metric(
    "gauge", "rayface_degradation_factor", "Factor of adaptive degradation, by type; near 1: too easy", (*RUN, "type")
)
DEGRADATION_STRENGTH = Metric(
    "gauge", "rayface_degradation_strength", "Strength of a type of degradation", (*RUN, "type")
)
TRAINING_SKIPPED = Metric(
    "gauge", "rayface_training_skipped_steps", "Steps left out since the workers started: not numbers", RUN
)
TRAINING_STEP_TIME = Metric(
    "gauge", "rayface_training_last_step_timestamp_seconds", "When a step was last logged, Unix time", RUN
)
TRAINING_CHECKPOINT_TIME = Metric(
    "gauge", "rayface_training_checkpoint_timestamp_seconds", "When a checkpoint was last kept, or this start", RUN
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
