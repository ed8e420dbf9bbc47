"""What an operator may set: one typed tree, from `args:` in the YAML or the command line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayface.configuration import from_dict
from rayface.credentials import CredentialSettings
from rayface.errors import RayfaceError
from rayface.guard import check_settings as check_guard
from rayface.imaging.codec import Limits
from rayface.work import MAX_OUTPUT_MEGAPIXELS
from serve.jobs import JobLimits
from serve.keys import check_digests

LAYOUTS = ("together", "separate")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
# settings of a photo's way, each a `Stage`
STAGES = ("detector", "step", "photo_step", "guard", "parser", "swaps", "fusion")
MOST_THREADS = 4  # more hardly make a network faster on crops of 256 px


@dataclass(frozen=True)
class Stage:
    """One deployment: its replicas, what each of them reserves, and how it batches."""

    min_replicas: int = 1
    max_replicas: int = 1  # more than min_replicas: autoscaled
    target_ongoing: float = 4.0  # requests per replica that autoscaling aims at
    num_cpus: float = 0.1  # reserved with Ray, per replica
    num_gpus: float = 0.0  # above 0 the replica runs on cuda; a fraction shares the GPU
    # Torch threads of a call; 0: one in a deployment of its own; in the layout `together` all cores for one photo,
    # their share for each of several, and at most MOST_THREADS
    threads: int = 0
    max_batch: int = (
        0  # requests whose faces go through a network together; 0: 8 on a GPU, 1 on a CPU, which gains nothing
    )
    batch_wait_s: float = 0.0  # how long a free replica waits for more; a busy one collects anyway
    surge_percent: int = 100  # replicas started besides the old ones, which serve until then; needs room for them

    @property
    def batch(self) -> int:
        return self.max_batch or (8 if self.num_gpus > 0 else 1)

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus > 0 else "cpu"


@dataclass(frozen=True)
class Settings:
    """The whole service. Sizes in bytes and pixels, times in seconds."""

    store: str | None = None  # model store; the release weights are behind it
    steps: tuple[str, ...] = ("enhance", "upscale", "beautify", "facial_hair", "edit_attributes")
    # "together": a photo's whole way in one replica, which is fastest where all stages share the same cores or GPU;
    # "separate": a deployment for every stage, each with replicas of its own
    layout: str = "together"
    # step (or "detect", "parse", "identify", "detect_swap") -> name, name@version, or "name@3=0.9, name@4=0.1": shares
    # of the photos
    models: dict[str, str] = field(default_factory=dict)
    identity_guard: str = "blend"  # or "skip", "off": what becomes of a change that shows somebody else
    similarity_threshold: float | None = None  # cosine below which it does; none: the recogniser's own
    allowed_licences: tuple[str, ...] = ()  # if given, models under other licences are refused
    commercial_only: bool = False  # refuse models that do not state that commercial use is allowed
    limits: Limits = field(default_factory=lambda: Limits(20 * 1024 * 1024, 24_000_000))
    max_faces: int = 32
    max_output_megapixels: float = MAX_OUTPUT_MEGAPIXELS  # photos that would become larger are upscaled less or not
    max_in_flight: int = 16  # photos accepted per ingress replica; the next one gets 503
    max_photos: int = 8  # of one request, and no more than max_in_flight
    retry_after_s: int = 2
    timeout_s: float = 60.0
    log_level: str = (
        "WARNING"  # of Ray Serve's log files; with INFO a line for every request, and every call of a stage
    )
    report_seconds: float = 300.0
    max_reports: int = 1000
    max_running_jobs: int = 2  # photos of jobs that are worked on at a time, besides max_in_flight
    max_jobs: int = 64  # held in all, finished ones included; then 503
    max_job_bytes: int = 512 * 1024 * 1024  # photos and results of all jobs
    job_seconds: float = 600.0  # how long a finished job is kept
    job_timeout_s: float = 600.0  # for one photo
    # name -> SHA-256 hex digest of a key (`python -m serve.keys`), and those of RAYFACE_API_KEYS; none: open to all
    api_keys: dict[str, str] = field(default_factory=dict)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)  # who signs the results
    ingress: Stage = Stage(num_cpus=0.1)
    together: Stage = Stage()  # in that layout: its replicas and their device; the stages' own max_batch counts
    detector: Stage = Stage()
    step: Stage = Stage()  # every face step's own deployment
    photo_step: Stage = Stage(max_batch=1)  # every whole-photo step's own deployment
    guard: Stage = Stage()
    parser: Stage = Stage()
    swaps: Stage = Stage()  # what tells swapped faces, where the store has a model for it
    fusion: Stage = Stage(max_batch=1)  # nothing to gain from waiting for others

    def __post_init__(self) -> None:
        positive = (
            "max_faces",
            "max_output_megapixels",
            "max_in_flight",
            "retry_after_s",
            "timeout_s",
            "report_seconds",
            "max_reports",
            "max_photos",
            "max_running_jobs",
            "max_jobs",
            "max_job_bytes",
            "job_seconds",
            "job_timeout_s",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise RayfaceError(f"settings.{name} is {getattr(self, name)}; it must be above 0.")
        check_guard(self.identity_guard, self.similarity_threshold)
        if not self.steps:
            raise RayfaceError("settings.steps is empty; give at least one, for example enhance.")
        if self.log_level not in LOG_LEVELS:
            raise RayfaceError(f"settings.log_level is {self.log_level!r}; give one of: {', '.join(LOG_LEVELS)}.")
        if self.layout not in LAYOUTS:
            raise RayfaceError(f"settings.layout is {self.layout!r}; give one of: {', '.join(LAYOUTS)}.")
        check_digests(self.api_keys, "settings.api_keys")
        for name in ("ingress", "together", *STAGES):
            _check_stage(name, getattr(self, name))

    @property
    def jobs(self) -> JobLimits:
        return JobLimits(self.max_running_jobs, self.max_jobs, self.max_job_bytes, self.job_seconds, self.retry_after_s)


def _check_stage(name: str, stage: Stage) -> None:
    if not 1 <= stage.min_replicas <= stage.max_replicas:
        raise RayfaceError(
            f"settings.{name}: min_replicas is {stage.min_replicas}, max_replicas {stage.max_replicas}; they "
            "must be at least 1 and in this order."
        )
    if not 0 <= stage.surge_percent <= 100:
        raise RayfaceError(f"settings.{name}: surge_percent is {stage.surge_percent}; it must be from 0 to 100.")
    if stage.max_batch < 0 or stage.batch_wait_s < 0:
        raise RayfaceError(f"settings.{name}: max_batch and batch_wait_s must be at least 0.")


def preset(name: str) -> Settings:
    """`laptop`: all stages in one replica, on CPUs; `gpu`: a deployment for each, autoscaled, four replicas to a GPU.

    Raises RayfaceError for another name.
    """
    if name == "laptop":
        return Settings()
    if name == "gpu":
        network = Stage(max_replicas=8, num_cpus=1, num_gpus=0.25, max_batch=32, threads=1, surge_percent=25)
        cpu = Stage(max_replicas=16, num_cpus=1, threads=1, max_batch=1)
        photo = dataclasses.replace(network, max_batch=1)
        return Settings(
            ingress=cpu, detector=network, step=network, photo_step=photo, guard=network, parser=network, swaps=network,
            fusion=cpu, max_in_flight=128, layout="separate",
        )  # fmt: skip
    raise RayfaceError(f"Unknown preset {name!r}; known: laptop, gpu.")


def settings_from(args: Mapping[str, Any]) -> Settings:
    """Settings from the `args:` of an application: a `preset`, and any field of `Settings` over it.

    Raises RayfaceError naming an unknown key or a wrong value.
    """
    base = preset(str(args.get("preset", "laptop")))
    values = {key: value for key, value in args.items() if key != "preset"}
    given = from_dict(Settings, {k: _merge(base, k, v) for k, v in values.items()}, "settings")
    return dataclasses.replace(base, **{key: getattr(given, key) for key in values})


def _merge(base: Settings, key: str, value: Any) -> Any:
    """A group's values over the preset's own; `steps` may be written as a comma-separated string."""
    if key == "steps" and isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    current = getattr(base, key, None)
    if dataclasses.is_dataclass(current) and not isinstance(current, type) and isinstance(value, Mapping):
        return {**dataclasses.asdict(current), **value}
    return value
