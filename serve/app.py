"""The application: ingress -> detector -> steps -> guard -> parser -> fusion, as deployments of their own or in one.

`serve run serve.app:build [key=value ...]` and the `import_path` of config.yaml call `build` with the
arguments.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from rayface.guard import STAGE as GUARD
from rayface.guard import choose_guard
from rayface.pipeline import SWAPS
from rayface.terms import commercial_only
from serve.deployments import (
    FaceDetector,
    FaceGuard,
    FaceParser,
    Fusion,
    PhotoStepRunner,
    StepRunner,
    SwapDetector,
)
from serve.graph import Graph, OneReplica, Stages
from serve.ingress import Ingress
from serve.keys import keys_from_environment
from serve.models import join_pinned, parse_shares, versioned
from serve.reports import Reports
from serve.settings import Settings, Stage, settings_from
from serve.together import Together

IDLE_ROUTES = 32  # requests an ingress replica answers besides photos: health, models, refusals
# Requests Ray Serve's proxy holds for the ingress. Above it the proxy refuses by itself, in plain text; the ingress
# refuses at once and as a problem document, so this is only the last bound on a flood.
HELD_BY_PROXY = 2048


def build(args: Mapping[str, Any]) -> Application:
    """The application of `args` (a `preset` and fields of `Settings`).

    Raises RayfaceError for an unknown setting or step, a model that the store does not hold, or one whose
    terms are not allowed.
    """
    return compose(settings_from(args))


def compose(settings: Settings) -> Application:
    """The application of typed settings; see `build`."""
    # replicas do not see this process's environment
    only = settings.commercial_only or commercial_only()
    keys = {**settings.api_keys, **keys_from_environment()}
    settings = dataclasses.replace(
        settings,
        store=_absolute(settings.store),
        commercial_only=only,
        api_keys=keys,
        credentials=settings.credentials.absolute(),
    )
    refs = resolve_models(settings)
    recogniser, unguarded = resolve_guard(settings)
    if recogniser:
        refs[GUARD] = recogniser
    side = _crop_side(settings, refs) if "detect" in refs else 0
    graph = (_together if settings.layout == "together" else _separate)(settings, refs, side, unguarded)
    in_memory = serve.deployment(
        name="reports",
        ray_actor_options={"num_cpus": 0.01},  # with 0 it might lie on a head without CPUs, and end with it
        max_ongoing_requests=1000,
        max_surge_percent=100,  # what it held is gone with it, but nobody waits for the new one
        logging_config=_logging(settings),
    )
    reports = in_memory(Reports).bind(settings.report_seconds, settings.max_reports, settings.jobs)
    ingress = _deploy(serve.ingress()(Ingress), "ingress", settings, settings.ingress)
    ingress = ingress.options(
        max_ongoing_requests=settings.max_in_flight + IDLE_ROUTES, max_queued_requests=HELD_BY_PROXY
    )
    return ingress.bind(settings, graph, reports)


def _together(settings: Settings, refs: Mapping[str, str], side: int, unguarded: str) -> Graph:
    deployment = _deploy(Together, "stages", settings, settings.together, refs)
    # Batches collect within the replica: as many photos as an ingress replica lets in at a time keep it busy.
    deployment = deployment.options(max_ongoing_requests=settings.max_in_flight + settings.max_running_jobs)
    return OneReplica(deployment.bind(settings, refs, side, unguarded), "detect" in refs, SWAPS in refs)


def _separate(settings: Settings, refs: Mapping[str, str], side: int, unguarded: str) -> Graph:
    steps = {name: _step(name, settings, refs[name]).bind(settings, name) for name in settings.steps}
    detector = parser = guard = swaps = None  # steps on whole photos need none of them
    if "detect" in refs:
        finder = _model_stage(FaceDetector, "detector", settings, settings.detector, refs["detect"])
        detector = finder.bind(settings, side)
        parser = _model_stage(FaceParser, "parser", settings, settings.parser, refs["parse"]).bind(settings)
    if GUARD in refs:
        guard = _model_stage(FaceGuard, "guard", settings, settings.guard, refs[GUARD]).bind(settings)
    if SWAPS in refs:
        swaps = _model_stage(SwapDetector, "swap_detector", settings, settings.swaps, refs[SWAPS]).bind(settings)
    fusion = _deploy(Fusion, "fusion", settings, settings.fusion).bind(settings, unguarded)
    return Stages(detector, steps, guard, parser, fusion, swaps)


def resolve_models(settings: Settings) -> dict[str, str]:
    """`{step, "detect", "parse" ...: name@version}` of what the steps need; several with shares, see `parse_shares`.

    Services that look at faces also tell swapped ones, where the store has a model for it.

    One version for all replicas, whatever is promoted meanwhile.
    """
    from rayface.pipeline import choose_models, choose_swap_detector
    from rayface.store import open_store

    named = {use: parse_shares(text) for use, text in settings.models.items()}
    first = {use: next(iter(shares)) for use, shares in named.items()}
    store = open_store(settings.store, settings.commercial_only)
    chosen = choose_models(store, settings.steps, first)
    if "detect" in chosen and (swaps := choose_swap_detector(store, first, settings.allowed_licences)):
        chosen[SWAPS] = swaps
    wanted = {use: named.get(use, {ref: 1.0}) for use, ref in chosen.items()}
    return {use: join_pinned(settings, use, shares) for use, shares in wanted.items()}


def resolve_guard(settings: Settings) -> tuple[str, str]:
    """The recogniser of the identity guard, as `resolve_models` gives models, and ""; or "" and why identity is not
    checked.
    """
    from rayface.pipeline import face_steps
    from rayface.store import open_store

    if not face_steps(settings.steps):
        return "", ""
    if GUARD in settings.models and settings.identity_guard != "off":
        return join_pinned(settings, GUARD, parse_shares(settings.models[GUARD])), ""
    store = open_store(settings.store, settings.commercial_only)
    action, threshold = settings.identity_guard, settings.similarity_threshold
    ref, unguarded = choose_guard(store, settings.models, action, threshold, settings.allowed_licences)
    return (versioned(ref, store.info(ref)) if ref else ""), unguarded


def _crop_side(settings: Settings, refs: Mapping[str, str]) -> int:
    """Side of the crops, px: that of the largest face step, as in a `Pipeline` of the same steps."""
    from rayface.pipeline import face_steps
    from rayface.stages import crop_size
    from rayface.store import open_store

    store = open_store(settings.store)
    named = [ref for name in face_steps(settings.steps) for ref in parse_shares(refs[name])]
    return crop_size(store.info(ref)["config"]["size"] for ref in named)


def _absolute(uri: str | None) -> str:
    """The store's address as it is for replicas too, whose working directory is another."""
    from rayface.storage import absolute
    from rayface.store import open_store

    return absolute(open_store(uri).uri)


def _step(name: str, settings: Settings, model: str) -> Deployment:
    from rayface.pipeline import photo_steps

    title = {"enhance": "enhancer", "upscale": "upscaler", "beautify": "beautifier", "swap": "swapper"}.get(name, name)
    if name in photo_steps():
        return _model_stage(PhotoStepRunner, title, settings, settings.photo_step, model)
    return _model_stage(StepRunner, title, settings, settings.step, model)


def _model_stage(cls: Any, name: str, settings: Settings, stage: Stage, model: str) -> Deployment:
    return _deploy(cls, name, settings, stage, {"model": model})


def _logging(settings: Settings) -> LoggingConfig:
    """Ray Serve prints the request's id in a line only where its access log is on, which is of level INFO."""
    return LoggingConfig(enable_access_log=True, log_level=settings.log_level)


def _deploy(cls: Any, name: str, settings: Settings, stage: Stage, user_config: Any = None) -> Deployment:
    options: dict[str, Any] = {
        "user_config": user_config,
        "max_surge_percent": stage.surge_percent,
        "ray_actor_options": {"num_cpus": stage.num_cpus, "num_gpus": stage.num_gpus},
        # Two batches: one in the network, one that collects.
        "max_ongoing_requests": max(2 * stage.batch, 4),
        "max_queued_requests": 4 * settings.max_in_flight,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=settings.retry_after_s),
        "logging_config": _logging(settings),
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": settings.timeout_s,
    }
    if stage.max_replicas > stage.min_replicas:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=stage.min_replicas,
            max_replicas=stage.max_replicas,
            target_ongoing_requests=stage.target_ongoing,
            upscale_delay_s=5,
            downscale_delay_s=300,
        )
    else:
        options["num_replicas"] = stage.min_replicas
    return serve.deployment(name=name, **options)(cls)
