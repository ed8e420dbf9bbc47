"""What is searched, and how a search was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayface.systems.base import Networks


@dataclass(frozen=True)
class Objective:
    metric: str
    mode: Literal["max", "min"]


def as_chosen(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Searches whose dimensions are config keys."""
    return dict(chosen)


@dataclass(frozen=True)
class Search:
    """What is searched: dimensions and their ranges, what they set of a system, and what a trial is judged by."""

    name: str
    system: str
    space: Callable[[], dict[str, Any]]
    known: tuple[dict[str, Any], ...]  # settings to try first
    objectives: tuple[Objective, ...]
    metrics: Callable[[dict[str, Any], Networks, Any], dict[str, float]]  # from evaluation, networks, configuration
    score: str = ""  # the one metric, to be maximised, that ASHA may stop trials by; "": there is no such one
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = as_chosen  # config keys and values of what was chosen
    init: str = ""  # the model that every trial starts from: a release, or the folder of a version
    fixed: tuple[str, ...] = ()  # key=value of every trial, before those of the request


@dataclass(frozen=True)
class SearchRequest:
    data: str
    trials: int
    preset: str = "small"
    overrides: tuple[str, ...] = ()
    storage: str = "runs"
    name: str = "search"
    resume: bool = False
    workers: int = 1
    gpu: bool = False
    concurrent: int = 0
    limit: int = 0
    seed: int = 0
    minutes: float = 0.0
    asha: bool = False
