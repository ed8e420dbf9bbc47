"""A search as a submitted job: `ray job submit --working-dir . -- python -m cluster.tune augmentation --data DIR`.

The arguments are those of `python -m tune`.
"""

import sys

from tune.__main__ import main

if __name__ == "__main__":
    sys.argv[0] = "cluster.tune"
    main()
