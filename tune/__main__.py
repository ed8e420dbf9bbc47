"""`python -m tune SEARCH --data DIR --trials N`: search coefficients with Ray Tune."""

import sys
from typing import Annotated

import typer

from rayface.errors import RayfaceError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def searches() -> None:
    """Ray Tune searches over rayface's systems; each writes pareto.json, pareto.png and best.json."""


@app.command()
def augmentation(
    data: Annotated[str, typer.Option(help="a dataset that `rayface data` wrote")],
    trials: Annotated[int, typer.Option(help="how many settings to try")] = 16,
    preset: Annotated[str, typer.Option(help="tiny, small or base")] = "small",
    set_: Annotated[list[str], typer.Option("--set", help="key=value for every trial, for example steps=200")] = [],  # noqa: B006
    storage: Annotated[str, typer.Option(help="where searches live; shared by all nodes")] = "runs",
    name: Annotated[str, typer.Option(help="name of the search")] = "tune-augmentation",
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search of that name")] = False,
    workers: Annotated[int, typer.Option(help="workers of one trial; more than 1 go through Ray Train")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU a worker")] = False,
    concurrent: Annotated[int, typer.Option(help="trials at the same time; 0: as many as fit")] = 0,
    limit: Annotated[int, typer.Option(help="validation photos a trial is judged on; 0: all")] = 0,
    seed: Annotated[int, typer.Option(help="of the search")] = 0,
) -> None:
    """Search the strengths of the enhancer's training degradations for quality on easy and on hard inputs."""
    from tune.augmentation import AUGMENTATION
    from tune.search import SearchRequest, search

    request = SearchRequest(
        data=data,
        trials=trials,
        preset=preset,
        overrides=tuple(set_),
        storage=storage,
        name=name,
        resume=resume,
        workers=workers,
        gpu=gpu,
        concurrent=concurrent,
        limit=limit,
        seed=seed,
    )
    search(AUGMENTATION, request)


def main() -> None:
    """Run the command line; a RayfaceError is printed without a traceback and exits with 2."""
    try:
        app()
    except RayfaceError as error:
        print(f"tune: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
