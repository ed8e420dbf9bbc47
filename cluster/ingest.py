"""Ingest as a submitted job: `ray job submit --working-dir . -- python -m cluster.ingest SOURCE DIR`.

The arguments are those of `rayface data ingest`; photos and result are shared by all nodes.
"""

from cluster.entry import run

if __name__ == "__main__":
    run("data", "ingest")
