"""Train, compress, evaluate and serve a family of face networks on Ray."""

import os

__version__ = "0.1.0"

# OpenMP's idle threads spin by default; with several processes on the cores (Ray workers, serve replicas, a detector
# beside a decoder) that costs far more than it saves: detection of small photos ran 4 times slower. Read once, when
# torch loads, so it has to be here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
