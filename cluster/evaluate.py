"""Evaluation as a submitted job: `ray job submit --working-dir . -- python -m cluster.evaluate SYSTEM --data DIR`.

The arguments are those of `rayface evaluate`.
"""

from cluster.entry import run

if __name__ == "__main__":
    run("evaluate")
