"""Labelling as a submitted job: `ray job submit --working-dir . -- python -m cluster.label SOURCE DIR`.

The arguments are those of `rayface data label`; photos, result and store are shared by all nodes.
"""

from cluster.entry import run

if __name__ == "__main__":
    run("data", "label")
