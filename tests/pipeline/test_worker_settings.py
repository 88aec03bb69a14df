from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.worker_settings import WorkerSettings, read_runtime_env
from storage.errors import UserError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": -1}, r"workers must be 0 .no Ray. or more, got -1"),
        ({"workers": 2, "min_workers": 3}, r"min_workers 3 is more than `workers` 2.*raise `workers`"),
        ({"min_workers": -1}, r"min_workers must be 0 or more, got -1"),
        ({"gpus_per_worker": -0.5}, r"gpus_per_worker must be 0 or more, got -0.5"),
        ({"gpus_per_worker": 1.5}, r"share of one GPU or a whole number, got 1.5"),
        ({"stall_timeout": float("inf")}, r"stall_timeout must be 0 or more, got inf"),
        ({"grace": float("nan")}, r"grace must be 0 or more, got nan"),
        ({"runtime_env": Path("x")}, r"runtime_env is the environment of Ray workers: give `workers` 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WorkerSettings(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as YAML or JSON"),
        ("[pip]", "must hold one mapping, got list"),
        ("pipp: [x]", "has the key 'pipp', which is none of Ray's: use conda, config"),
    ],
)
def test_a_bad_runtime_environment_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "env.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_runtime_env(file)


@pytest.mark.parametrize("text", ["env_vars: {A: b}", '{"env_vars": {"A": "b"}}'])
def test_a_runtime_environment_is_yaml_or_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "env"
    file.write_text(text)
    assert WorkerSettings(workers=1, runtime_env=file).read_runtime_env() == {"env_vars": {"A": "b"}}
