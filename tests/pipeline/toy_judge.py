"""A judge of another kind than geometry, as a plug-in would bring it."""

from __future__ import annotations

from pipeline.evaluation.judges.judge import JudgedClip, Measure


class Taste:
    """Says how long the prompt is."""

    name = "taste"
    license = "CC0-1.0"
    measures: tuple[Measure, ...] = (Measure(name="length", better=1, about="letters of the prompt"),)

    def __init__(self, version: str) -> None:
        self.version = version

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The letters, and one measure that nobody asked for."""
        return {"length": float(len(clip.text)), "other": 1.0}


def make_judge(model: str | None) -> Taste:
    """The judge; its model is its version."""
    return Taste(model or "1")
