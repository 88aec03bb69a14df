from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.data.score import score_settings
from jobs.main import cli


def test_a_missing_rasteriser_is_told_before_the_run_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch3d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    result = CliRunner().invoke(cli, ["score", str(tmp_path / "no-run"), "--rasteriser", "pytorch3d"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: rasteriser 'pytorch3d' needs the package pytorch3d")
    assert "INSTALL.md" in result.stderr
    assert "C++20" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_option_reaches_the_reward() -> None:
    chosen = {"reward": "reprojection", "geometry": "world", "rasteriser": "auto"}
    assert score_settings(chosen).reward.options == {"rasteriser": "auto"}
    assert score_settings(chosen).reward.reward_options().rasteriser == "torch"
