"""The figures and files of an ablation against means that are taken here with NumPy."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.ablate.files import as_json, markdown, write_results
from jobs.ablate.tables import budget_line, cell, figures
from jobs.ablate.trainings import Outcome
from pipeline.evaluation.adapters import BASE
from pipeline.evaluation.held_out import PromptUse
from pipeline.evaluation.judges.judge import Measure
from pipeline.evaluation.panel import Header
from pipeline.evaluation.tables import Evaluation, make_tables
from storage.judgements import EvaluatedClip, write_clips
from storage.run import Run
from tests.jobs.test_ablate_scheduler import record

PROMPTS, SEEDS = 6, 3
MEASURES = (
    Measure(name="fault", better=-1, about="faults"),
    Measure(name="sharpness", better=0, about="detail"),
)
MODELS = (BASE, "best/0", "best/1", "sft/0")


@pytest.fixture(scope="module")
def values() -> dict[str, dict[str, np.ndarray]]:
    """Values [prompt, seed] by model and measure."""
    generator = np.random.default_rng(5)
    return {
        model: {one.name: generator.normal(0.5 - 0.1 * place, 0.2, (PROMPTS, SEEDS)) for one in MEASURES}
        for place, model in enumerate(MODELS)
    }


def outcome_of(run: Run, values: dict[str, dict[str, np.ndarray]]) -> Outcome:
    clips = [
        EvaluatedClip(
            model_name=model,
            candidate_id=f"{model}-{prompt}-{seed}",
            prompt_id=f"p{prompt}",
            seed=seed,
            adapter=None if model == BASE else model,
            adapter_weight=None,
            judges={"referee": "1"},
            measures={name: float(table[prompt, seed]) for name, table in measures.items()},
        )
        for model, measures in values.items()
        for prompt in range(PROMPTS)
        for seed in range(measures["fault"].shape[1])
    ]
    write_clips(run, clips)
    measured: Any = {
        model: {
            name: {f"p{prompt}": dict(enumerate(row.tolist())) for prompt, row in enumerate(table)}
            for name, table in measures.items()
        }
        for model, measures in values.items()
    }
    tables, filtered = make_tables(
        measured, MEASURES, {"best": ["best/0", "best/1"], "sft": ["sft/0"]}, min_motion=0.0
    )
    use = PromptUse(status="held-out", split="test")
    header = Header(judges=(), geometry=None, rewarded_by=(), independent=None, min_motion=0.0, prompts=use)
    result = Evaluation(
        directory=run.path, header=header, measures=MEASURES, tables=tables, filtered=filtered,
        clips=len(clips), prompts=PROMPTS, sheet=run.path / "sheet.png", truth={"sharpness": 0.875},
    )  # fmt: skip
    options = record().options | {"steps": 240}
    records = [record(options=options), record(seed=1, options=options)]
    records.append(record(recipe="sft", named="mine.yaml:sft", about="winners", options=options))
    return Outcome(records=records, evaluation=result, left_out={"sft-1": "no time"})


@pytest.fixture
def outcome(tmp_path: Path, values: dict[str, dict[str, np.ndarray]]) -> Outcome:
    return outcome_of(Run.create_or_open(tmp_path / "eval"), values)


def test_a_recipe_is_the_mean_of_its_trainings_over_prompts(
    outcome: Outcome, values: dict[str, dict[str, np.ndarray]]
) -> None:
    found = figures(outcome, "best")
    base, mine = (values[BASE]["fault"], (values["best/0"]["fault"] + values["best/1"]["fault"]) / 2)
    row = found.recipes["best"]["fault"]
    assert (row.base, row.adapter) == pytest.approx((base.mean(), mine.mean()))
    assert row.difference.mean == pytest.approx(mine.mean() - base.mean())
    assert found.base["fault"] == pytest.approx(base.mean())
    assert row.spread is not None
    assert row.spread.trainings == 2
    assert found.recipes["sft"]["fault"].adapter == pytest.approx(values["sft/0"]["fault"].mean())


def test_the_first_stands_against_the_others_by_the_same_seeds_of_training(
    outcome: Outcome, values: dict[str, dict[str, np.ndarray]]
) -> None:
    found = figures(outcome, "best")
    # sft has no training 1, so that best/1 has nobody to stand against.
    by_prompt = values["best/0"]["fault"].mean(axis=1) - values["sft/0"]["fault"].mean(axis=1)
    row = found.against["sft"]["fault"]
    assert found.against.keys() == {"sft"}
    assert row.difference.mean == pytest.approx(by_prompt.mean())
    assert row.win_rate is not None
    assert row.win_rate.mean == pytest.approx((by_prompt < 0).mean())
    other = figures(outcome, "sft")
    assert other.against["best"]["fault"].difference.mean == pytest.approx(-by_prompt.mean())
    assert figures(outcome, "unknown").first == "best"


def test_more_clips_of_a_prompt_do_not_narrow_an_interval(
    tmp_path: Path, values: dict[str, dict[str, np.ndarray]]
) -> None:
    # Every clip ten times over: as many prompts as before, and not a tenth of the doubt.
    def width(times: int) -> float:
        repeated = {
            model: {name: np.repeat(table, times, axis=1) for name, table in measures.items()}
            for model, measures in values.items()
        }
        run = Run.create_or_open(tmp_path / f"eval-{times}")
        found = figures(outcome_of(run, repeated), "best")
        return found.recipes["best"]["fault"].difference.high - found.recipes["best"]["fault"].difference.low

    assert width(10) == pytest.approx(width(1))


def test_the_files_hold_a_row_for_every_training_and_the_command(
    outcome: Outcome, tmp_path: Path, values: dict[str, dict[str, np.ndarray]]
) -> None:
    found = figures(outcome, "best")
    files = write_results(tmp_path / "docs" / "results.md", "gpa ablate RUN", outcome, found)
    assert [path.name for path in files] == ["results.md", "results.csv", "results.json"]
    text = files[0].read_text()
    assert "Made by `gpa ablate RUN`" in text
    assert "- left out: sft-1, no time" in text
    mean = values["best/1"]["fault"].mean()
    assert f"| best | 1 | 7 | 240 | 16 | {mean:.4g} |" in text
    assert "**sft**: winners" in text
    assert "| true clips |  |  | 0.875 |" in text
    assert "min_gap 0.03" in text
    assert text.count("**best**") == 1
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    keys = [(row["recipe"], row["seed"], row["against"], row["measure"]) for row in rows]
    assert len(keys) == len(set(keys)) == 2 * (3 + 2 + 1)
    line = rows[keys.index(("best", "1", "base", "fault"))]
    assert float(line["mean"]) == pytest.approx(mean)
    assert int(line["prompts"]) == PROMPTS
    plain = json.loads(files[2].read_text())
    assert plain["trainings"][1]["figures"]["fault"]["adapter"] == pytest.approx(mean)
    assert plain["trainings"][2]["named"] == "mine.yaml:sft"
    before = [path.read_bytes() for path in files]
    write_results(tmp_path / "docs" / "results.md", "gpa ablate RUN", outcome, figures(outcome, "best"))
    assert [path.read_bytes() for path in files] == before
    assert as_json("x", outcome, found)["against"]["recipe"] == "best"
    assert markdown("x", outcome, found).startswith("# Results")


def test_a_table_without_still_clips_is_shown_where_it_differs(outcome: Outcome) -> None:
    found = figures(outcome, "best")
    heading, same = "## The same without clips that stand still", "No clip stands still"
    assert heading not in markdown("x", outcome, found), "nothing was measured of motion"
    equal = markdown("x", outcome, replace(found, moving=found.recipes))
    assert heading in equal
    assert same in equal
    fewer = {"best": {"fault": replace(found.recipes["best"]["fault"], prompts=2)}}
    other = markdown("x", outcome, replace(found, moving=fewer))
    assert heading in other
    assert same not in other


def test_the_points_of_a_plot_are_means_and_the_interval_of_the_difference_around_them(
    outcome: Outcome, values: dict[str, dict[str, np.ndarray]]
) -> None:
    found = as_json("x", outcome, figures(outcome, "best"))["points"]
    assert list(found) == ["true clips", "base", "best", "sft"]
    assert found["true clips"] == {"sharpness": {"mean": 0.875}}
    base, mine = values[BASE]["fault"].mean(), (values["best/0"]["fault"] + values["best/1"]["fault"]) / 2
    assert found["base"]["fault"] == {"mean": pytest.approx(base)}
    point, row = found["best"]["fault"], figures(outcome, "best").recipes["best"]["fault"]
    assert point["mean"] == pytest.approx(mine.mean())
    assert point["mean"] - point["low"] == pytest.approx(row.difference.mean - row.difference.low)
    assert point["high"] - point["mean"] == pytest.approx(row.difference.high - row.difference.mean)


def test_cells_say_mean_share_of_the_base_and_wins(outcome: Outcome) -> None:
    rows = figures(outcome, "best").recipes["best"]
    fault = rows["fault"]
    mean, stands, wins = cell(fault)
    assert mean == f"{fault.adapter:.4g}"
    assert stands.startswith(f"{fault.adapter / fault.base:.0%} [")
    assert fault.win_rate is not None
    assert wins.startswith(f"{fault.win_rate.mean:.0%} [")
    assert len(cell(rows["sharpness"])) == 2, "nothing is better or worse"
    assert cell(replace(fault, share=None))[1].startswith(f"{fault.difference.mean:+.3g} [")
    assert cell(None) == [""]


def test_another_budget_is_said() -> None:
    usual = record().options | {"steps": 240}
    same = [record(options=usual), record(seed=1, options=usual)]
    assert budget_line(same) == "budget: 240 steps of 16 pairs for every training"
    longer = record(recipe="steps-double", options=usual | {"steps": 480})
    assert budget_line([*same, longer]).endswith("but steps-double 480 steps of 16: not the same budget")
