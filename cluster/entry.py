"""What the job entry points share: the command line, run on the cluster of the job."""

import sys

from rayface.cli import main


def run(*command: str) -> None:
    """`rayface COMMAND ...` (a command may be of two words) with this process's arguments.

    Ray sets RAY_ADDRESS for a job's driver; code comes from the job's working dir (or the image) on every node.
    """
    sys.argv = ["rayface", *command, *sys.argv[1:]]
    main()
