from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.sampling.cogvideox import CogVideoXImageToVideo
from pipeline.sampling.sample import plan_sample, run_sample
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from storage.errors import UserError
from storage.media.tensors import read_tensors
from storage.media.video import read_video
from storage.run import Run
from storage.tables.ids import candidate_seed
from tests.conftest import PROMPTS
from tests.pipeline.tiny import SAMPLER


def settings(model: Path, prompts: Path, **changes: Any) -> SampleSettings:
    given: dict[str, Any] = {"candidates": 3, "batch": 2, **changes}
    return SampleSettings(sampler=SamplerSettings(**SAMPLER), model=str(model), prompts=prompts, **given)


def rows(run: Run, table: str = "candidates") -> list[dict[str, Any]]:
    return list(run.rows(table).to_pylist())


def raw_row_count(run: Run, table: str) -> int:
    """Rows counted in the files themselves, so that doubles would show."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in run.shard_dir(table).glob("*.parquet"))


def test_rows_and_media_say_how_every_candidate_was_made(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = Run.create_or_open(tmp_path / "run")
    wanted = settings(tiny_model, prompts_file)
    summary = run_sample(run, wanted)
    assert (summary.wanted, summary.done, summary.failed, summary.present) == (9, 9, 0, 0)
    made = rows(run)
    assert len(made) == raw_row_count(run, "candidates") == 9
    for row in made:
        assert json.loads(row["sampler"]) == wanted.sampler.as_dict()
        assert (row["model"], row["adapter"], row["status"]) == ("tiny", None, "ok")
        assert read_video(run.resolve(row["video_uri"])).shape == (9, 32, 32, 3)
        assert read_tensors(run.resolve(row["latent_uri"]))["latents"].shape == (3, 4, 4, 4)
        assert "image_latents" in read_tensors(run.resolve(run.condition_uri(row["prompt_id"])))
    prompts = rows(run, "prompts")
    assert len(prompts) == PROMPTS
    seeds = {candidate_seed(0, row["prompt_id"], index) for row in prompts for index in range(3)}
    assert {row["seed"] for row in made} == seeds


def test_a_prompt_is_encoded_once_for_all_its_tasks(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, texts = CogVideoXImageToVideo.encode, []

    def counted(self: Any, text: str, image: Any) -> Any:
        texts.append(text)
        return encode(self, text, image)

    monkeypatch.setattr(CogVideoXImageToVideo, "encode", counted)
    run = Run.create_or_open(tmp_path / "run")
    assert run_sample(run, settings(tiny_model, prompts_file, batch=1)).done == 9
    assert len(texts) == len(set(texts)) == PROMPTS


def test_the_same_call_again_does_only_what_is_missing(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = Run.create_or_open(tmp_path / "run")
    run_sample(run, settings(tiny_model, prompts_file, candidates=2))
    before = {row["candidate_id"]: row["created_at"] for row in rows(run)}
    again = run_sample(run, settings(tiny_model, prompts_file, candidates=2))
    assert (again.present, again.done) == (6, 0)
    more = run_sample(run, settings(tiny_model, prompts_file, candidates=3))
    assert (more.present, more.done) == (6, 3)
    after = {row["candidate_id"]: row["created_at"] for row in rows(run)}
    assert len(after) == raw_row_count(run, "candidates") == 9
    assert before.items() <= after.items()
    # A shard that is lost is made again, and nothing else.
    shard = sorted(run.shard_dir("candidates").glob("*.parquet"))[0]
    shard.unlink()
    healed = run_sample(run, settings(tiny_model, prompts_file, candidates=3))
    assert healed.done == 9 - healed.present > 0
    assert {row["candidate_id"] for row in rows(run)} == set(after)


def test_what_was_asked_for_decides_the_ids(tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")

    def ids(**changes: Any) -> set[str]:
        plan = plan_sample(settings(tiny_model, prompts_file, **changes), run, write=False)
        return {one for task in plan.tasks for one in task.ids}

    assert ids() == ids(batch=1, workers=2)
    assert ids(limit=1) < ids()
    assert not ids() & ids(seed=1)


def test_a_plan_without_writing_leaves_the_run_alone(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = Run.create_or_open(tmp_path / "run")
    before = sorted(run.path.rglob("*"))
    plan = plan_sample(settings(tiny_model, prompts_file), run, write=False)
    assert (plan.prompts, plan.wanted, len(plan.tasks)) == (3, 9, 6)
    assert sorted(run.path.rglob("*")) == before


def test_nan_latents_fail_their_candidates_once_and_for_all(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create_or_open(tmp_path / "run")
    setup = CogVideoXImageToVideo.setup

    def poisoned(self: CogVideoXImageToVideo) -> None:
        setup(self)
        with torch.no_grad():
            self.pipe.transformer.proj_out.bias[0] = float("nan")

    monkeypatch.setattr(CogVideoXImageToVideo, "setup", poisoned)
    summary = run_sample(run, settings(tiny_model, prompts_file, limit=1))
    assert (summary.done, summary.failed) == (0, 3)
    for row in rows(run):
        assert (row["status"], row["video_uri"], row["latent_uri"]) == ("failed", None, None)
        assert "NaN" in row["reason"]
    assert run_sample(run, settings(tiny_model, prompts_file, limit=1)).present == 3


def test_an_error_goes_to_rejects_and_is_tried_again(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create_or_open(tmp_path / "run")
    sample = CogVideoXImageToVideo.sample

    def failing(self: CogVideoXImageToVideo, condition: Any, seeds: Any) -> Any:
        if len(seeds) == 1:
            raise RuntimeError("out of memory")
        return sample(self, condition, seeds)

    monkeypatch.setattr(CogVideoXImageToVideo, "sample", failing)
    summary = run_sample(run, settings(tiny_model, prompts_file))
    assert (summary.done, summary.failed, summary.reason) == (6, 3, "RuntimeError: out of memory")
    assert {(row["stage"], row["rule"]) for row in rows(run, "rejects")} == {("sample", "error")}
    monkeypatch.undo()
    assert run_sample(run, settings(tiny_model, prompts_file)).done == 3
    assert len(rows(run)) == 9


def test_another_model_and_a_second_process_are_refused(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    from tests.pipeline.tiny import build

    run = Run.create_or_open(tmp_path / "run")
    run_sample(run, settings(tiny_model, prompts_file, limit=1))
    other = build(tmp_path / "tiny", seed=1)
    with pytest.raises(UserError, match=r"holds candidates of tiny at revision .*another run directory"):
        run_sample(run, settings(other, prompts_file))
    with run.lock("sample"), pytest.raises(UserError, match=r"runs sample in .*wait for it or stop it"):
        run_sample(run, settings(tiny_model, prompts_file))


def test_another_size_or_precision_would_not_share_the_conditions(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run, wanted = Run.create_or_open(tmp_path / "run"), settings(tiny_model, prompts_file, candidates=1)
    run_sample(run, wanted)
    for name, value in (("height", 48), ("precision", "bf16"), ("vae_tiling", True)):
        other = replace(wanted, sampler=replace(wanted.sampler, **{name: value}))
        with pytest.raises(UserError, match=rf"sampled with {name} \S+, this command has {value}: give"):
            plan_sample(other, run, write=False)
    plan_sample(replace(wanted, sampler=replace(wanted.sampler, steps=7)), run, write=False)


def test_settings_are_validated(tiny_model: Path, prompts_file: Path) -> None:
    good = settings(tiny_model, prompts_file)
    for name, message in (("candidates", "candidates must be at least 1"), ("limit", "limit must be")):
        with pytest.raises(UserError, match=message):
            replace(good, **{name: 0})


OTHER_NUMBERS = pytest.mark.long(
    reason="starts Ray twice more, and four workers that load torch; make test compares two workers with none"
)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0, 2), pytest.param((0, 1, 3), marks=OTHER_NUMBERS)])
def test_any_number_of_workers_gives_the_same_bits(
    numbers: tuple[int, ...], tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    found = []
    for workers in numbers:
        run = Run.create_or_open(tmp_path / f"run{workers}")
        run_sample(run, settings(tiny_model, prompts_file, workers=workers))
        files = sorted((run.path / "media").rglob("*.*"))
        assert len(files) == 9 + 9 + 3 + 3
        found.append({path.relative_to(run.path): path.read_bytes() for path in files})
    assert all(one == found[0] for one in found[1:])


def test_a_run_of_texts_in_another_writing_has_nothing_to_do(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sampling import prompts

    lines = [json.loads(line) for line in prompts_file.read_text().splitlines()]
    lines[0]["text"] += " "
    prompts_file.write_text("\n".join(map(json.dumps, lines)))
    run = Run.create_or_open(tmp_path / "run")
    with monkeypatch.context() as before:
        # As texts were kept when the run was made.
        before.setattr(prompts, "text_of", lambda text, name: text)
        assert run_sample(run, settings(tiny_model, prompts_file, candidates=1)).done == PROMPTS
    assert lines[0]["text"] in {row["text"] for row in rows(run, "prompts")}
    again = run_sample(run, settings(tiny_model, prompts_file, candidates=1))
    assert (again.present, again.done) == (PROMPTS, 0)
    whole = plan_sample(settings(tiny_model, prompts_file, candidates=1), run, write=False, whole=True)
    assert whole.ids == {row["candidate_id"] for row in rows(run)}
    assert len(rows(run, "prompts")) == PROMPTS
