"""A search as a submitted job: `ray job submit --working-dir . -- python -m cluster.tune augmentation --data DIR`.

The arguments are those of `python -m tune`.
"""

import sys

from cluster.entry import begin
from tune.__main__ import app, main

if __name__ == "__main__":
    begin("cluster.tune", app, sys.argv[1:])
    main()
