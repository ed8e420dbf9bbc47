"""`python -m tune SEARCH --data DIR --trials N`: search coefficients with Ray Tune."""

import sys
from typing import Annotated

import typer

from rayface.errors import RayfaceError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Data = Annotated[str, typer.Option(help="a dataset that `rayface data` wrote")]
Trials = Annotated[int, typer.Option(help="how many settings to try")]
Minutes = Annotated[float, typer.Option(help="start no more trials after so long, from each start; 0: no limit")]
Set = Annotated[list[str], typer.Option("--set", help="key=value for every trial, for example steps=200")]
Storage = Annotated[str, typer.Option(help="where searches live; shared by all nodes")]
Name = Annotated[str, typer.Option(help="name of the search")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the search of that name, where there is one")]
Workers = Annotated[int, typer.Option(help="workers of one trial; more than 1 go through Ray Train")]
Gpu = Annotated[bool, typer.Option("--gpu", help="one GPU a worker")]
Concurrent = Annotated[int, typer.Option(help="trials at the same time; 0: as many as fit")]
Limit = Annotated[int, typer.Option(help="validation photos a trial is judged on; 0: all")]
Asha = Annotated[
    bool, typer.Option("--asha", help="judge at every checkpoint, stop the worse half early (by one score)")
]
Seed = Annotated[int, typer.Option(help="of the search")]


@app.callback()
def searches() -> None:
    """Ray Tune searches over rayface's systems; each writes pareto.json, pareto.png and best.json."""


@app.command()
def augmentation(
    data: Data,
    trials: Trials = 16,
    preset: Annotated[str, typer.Option(help="tiny, small or base")] = "small",
    adaptive: Annotated[bool, typer.Option("--adaptive", help="search the controller of adaptive degradation")] = False,
    set_: Set = [],  # noqa: B006
    storage: Storage = "runs",
    name: Name = "tune-augmentation",
    resume: Resume = False,
    workers: Workers = 1,
    gpu: Gpu = False,
    concurrent: Concurrent = 0,
    limit: Limit = 0,
    minutes: Minutes = 0.0,
    asha: Asha = False,
    seed: Seed = 0,
) -> None:
    """Search the strengths of the enhancer's training degradations for quality on easy and on hard inputs."""
    from tune.augmentation import AUGMENTATION, CONTROLLER
    from tune.definition import SearchRequest
    from tune.search import search

    request = SearchRequest(
        data, trials, preset, tuple(set_), storage, name, resume, workers, gpu, concurrent, limit, seed, minutes, asha
    )
    search(CONTROLLER if adaptive else AUGMENTATION, request)


@app.command()
def pruning(
    data: Data,
    system: Annotated[str, typer.Option(help="enhancement, parsing or recognition")] = "enhancement",
    init: Annotated[str, typer.Option(help="the model to narrow; without it the newest of the system")] = "",
    store: Annotated[str, typer.Option(help="where it lies; the release weights are behind it")] = "",
    latency: Annotated[bool, typer.Option("--latency", help="measured time instead of multiplications")] = False,
    trials: Trials = 16,
    set_: Set = [],  # noqa: B006
    storage: Storage = "runs",
    name: Name = "tune-pruning",
    resume: Resume = False,
    workers: Workers = 1,
    gpu: Gpu = False,
    concurrent: Concurrent = 0,
    limit: Limit = 0,
    minutes: Minutes = 0.0,
    asha: Asha = False,
    seed: Seed = 0,
) -> None:
    """Search how many channels of each kind of layer may go, for quality against multiplications (or time)."""
    from tune.definition import SearchRequest
    from tune.pruning import pruning_search
    from tune.search import search

    concurrent = concurrent or int(latency)  # beside other trials a measured time would tell their load
    request = SearchRequest(
        data, trials, "", tuple(set_), storage, name, resume, workers, gpu, concurrent, limit, seed, minutes, asha
    )
    search(pruning_search(system, init, store or None, latency), request)


def main() -> None:
    """Run the command line; a RayfaceError is printed without a traceback and exits with 2."""
    try:
        app()
    except RayfaceError as error:
        print(f"tune: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
