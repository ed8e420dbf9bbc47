"""Photos as a submitted job: `ray job submit --working-dir . -- python -m cluster.apply STEPS INPUT OUTPUT`.

The arguments are those of `rayface apply`.
"""

from cluster.entry import run

if __name__ == "__main__":
    run("apply")
