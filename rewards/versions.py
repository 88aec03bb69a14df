"""The version of a reward: a hash of all that its values depend on, made without importing what computes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from rewards.rasterise.rasterisers import AUTO, BUILT_IN

if TYPE_CHECKING:
    from rewards.geometry.reconstruction import GeometryBackend, GeometryInfo

# Of SIFT as `rewards.matching.matching` calls it; the other matchers have that of their weights.
SIFT = "1"


def options_version(
    version: str, options: dict[str, object], geometry: GeometryBackend | GeometryInfo | None
) -> str:
    """The code's version and a hash of all that a value depends on, such as 1-3f2a9c04.

    geometry is None for a reward that looks at the frames alone. The rasteriser `auto` counts as the built-in
    one, because every one that it may choose draws the same pixels.
    """
    if options.get("rasteriser") == AUTO:
        options = {**options, "rasteriser": BUILT_IN}
    model = (geometry.name, geometry.model, geometry.revision) if geometry else ()
    content = json.dumps([version, options, *model], sort_keys=True)
    return f"{version}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
