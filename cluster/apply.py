"""Photos as a submitted job: `ray job submit --working-dir . -- python -m cluster.apply STEPS INPUT OUTPUT`.

The arguments are those of `rayface apply`; a folder is shared among all CPUs (with --gpu all GPUs) of the cluster
unless --workers says otherwise. The same command goes on where a stopped one was.
"""

import sys

from cluster.entry import run

if __name__ == "__main__":
    if not any(word.split("=")[0] == "--workers" for word in sys.argv):
        sys.argv += ["--workers", "-1"]
    run("apply")
