"""What the job entry points share: a command line, run on the cluster of the job by the cluster's settings."""

import os
import sys
from typing import TYPE_CHECKING

from cluster.settings import ClusterSettings, read_settings, with_defaults
from rayface.errors import RayfaceError
from rayface.ray_session import connect

if TYPE_CHECKING:
    import typer


def run(*command: str) -> None:
    """`rayface COMMAND ...` (a command may be of two words) with this process's arguments.

    Ray sets RAY_ADDRESS for a job's driver; code comes from the job's working dir (or the image) on every node.
    """
    from rayface.cli import app, main

    begin("rayface", app, [*command, *sys.argv[1:]])
    main()


def begin(program: str, app: "typer.Typer", words: list[str]) -> None:
    """Put a command of `app` into sys.argv, with the settings' defaults, and give all workers their environment."""
    try:
        settings = read_settings()
        sys.argv = [program, *with_defaults(words, settings, options_of(app, words))]
        _connect(settings)
    except RayfaceError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def options_of(app: "typer.Typer", words: list[str]) -> set[str]:
    """The options of the command that `words` begin with; none where there is no such command."""
    import typer

    command = typer.main.get_command(app)
    for word in words:
        subcommands = getattr(command, "commands", {})
        if word not in subcommands:
            break
        command = subcommands[word]
    return {option for parameter in command.params for option in parameter.opts}


def _connect(settings: ClusterSettings) -> None:
    """Join the job's cluster with the settings' environment, for this process and whatever it starts there."""
    if settings.environment:
        os.environ.update(settings.environment)
        try:
            connect(environment=settings.environment)
        except ValueError as error:  # Ray's, where the job's own runtime environment says otherwise
            raise RayfaceError(f"cluster/settings.yaml and the job's runtime environment disagree: {error}") from error
