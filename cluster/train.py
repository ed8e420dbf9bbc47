"""Training as a submitted job: `ray job submit --working-dir . -- python -m cluster.train SYSTEM... --data DIR ...`.

The arguments are those of `rayface train`; the job runs on the cluster it was submitted to.
"""

from cluster.entry import run

if __name__ == "__main__":
    run("train")
