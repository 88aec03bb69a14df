"""All randomness of the world flows from hashes of names, so that a scene id means one scene for ever."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on the parts only, not on the process or on the machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stable_generator(*parts: str | int) -> np.random.Generator:
    """A random generator seeded by `stable_seed` of the parts."""
    return np.random.default_rng(stable_seed(*parts))
