"""Every random draw, keyed by what it is for and never by who makes it.

A draw is keyed by (seed, step, global sample index, stream): it is the same on any number of ranks and after any
resume, so nothing about random state is ever stored.
"""

import hashlib

import numpy as np


def generator(seed: int, step: int = 0, index: int = 0, stream: str = "") -> np.random.Generator:
    """A generator for one sample's draws of one kind.

    `stream` names the purpose ("degradation", "flip", ...) so that two purposes never share numbers.
    """
    stream_key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=4).digest(), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, index, stream_key])))
