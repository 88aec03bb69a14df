"""The generator's training resumes exactly, mirrors consistently, and ships what the real pipeline loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from safetensors.torch import load_file

from pipeline.world.cameras import MOVES
from pipeline.world.clips import world_prompts
from pipeline.world.codec import MotionCodec
from pipeline.world.training import common, dataset
from pipeline.world.training import generator as training
from pipeline.world.training.dataset import CHUNK, is_faulty, mirror_motion, mirror_text, prepare_examples

CLIPS = 4
SETTINGS = {"clips": CLIPS, "batch": 1, "seed": 3}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with examples, made once; trainings link to it."""
    work = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "is_faulty", lambda index: index % 2 == 1)
        # Twenty first frames are enough to fit this codec on.
        few = lambda split, count, start=0: world_prompts(split, min(count, 20), start)  # noqa: E731
        patch.setattr(dataset, "world_prompts", few)
        prepare_examples(work / "examples", CLIPS)
    return work / "examples"


def work_folder(path: Path, examples: Path) -> Path:
    path.mkdir()
    (path / "examples").symlink_to(examples)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Four steps without an interruption."""
    work = work_folder(tmp_path_factory.mktemp("runs") / "straight", examples)
    training.train_generator(work, work / "out", steps=4, **SETTINGS)
    return work


def test_resumed_equals_straight(
    tmp_path: Path, examples: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_folder(tmp_path / "resumed", examples)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setattr(common, "CURVE_EVERY", 3)

    def interrupt(step: int, values: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train_generator(work, work / "out", steps=4, report=interrupt, **SETTINGS)
    halfway = load_file(work / "generator.safetensors")
    training.train_generator(work, work / "out", steps=4, **SETTINGS)
    resumed, expected = (load_file(one / "generator.safetensors") for one in (work, straight))
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    moved = [name for name in expected if name.startswith("model.")]
    assert any(not torch.equal(halfway[name], resumed[name]) for name in moved)


def test_the_exported_folder_samples_with_the_real_pipeline(straight: Path) -> None:
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(straight / "out", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    average = load_file(straight / "generator.safetensors")
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value, average[f"average.{name}"].half().float())
    prompt = world_prompts("test", 1)[0]
    frames = pipeline(
        image=Image.new("RGB", (64, 64), (200, 60, 20)),
        prompt=prompt.text,
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert frames.shape == (1, 9, 3, 64, 64)
    assert bool(frames.isfinite().all())
    # Every word of the world is known to the shipped tokenizer.
    assert pipeline.tokenizer.unk_token_id not in pipeline.tokenizer(prompt.text).input_ids


def test_mirrored_latents_decode_to_the_mirrored_clip() -> None:
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, scale_factor=4, mode="bilinear")
    codec = MotionCodec()
    # Fitted on an image and its mirror image, so that a mirror maps the sixteen components among themselves.
    codec.fit(torch.cat([image, image.flip(-1)]))
    motion = 2 * torch.nn.functional.interpolate(torch.randn(1, 16, 4, 4), scale_factor=4, mode="bilinear")
    video = codec.decode(torch.stack([codec.encode_image(image), motion], dim=2)).sample
    mirrored_image = codec.encode_image(codec.decode_image(codec.encode_image(image)).flip(-1))
    mirrored = codec.decode(torch.stack([mirrored_image, mirror_motion(motion[0])[None]], dim=2)).sample
    assert (mirrored - video.flip(-1)).abs().max() < 1e-3
    unsigned = codec.decode(torch.stack([mirrored_image, motion.flip(-1)], dim=2)).sample
    assert (unsigned - video.flip(-1)).abs().max() > 0.1


def test_a_mirror_swaps_left_and_right_moves_and_nothing_else() -> None:
    phrases = {move.name: move.phrase for move in MOVES}
    for name, phrase in phrases.items():
        swapped = name.replace("left", "X").replace("right", "left").replace("X", "right")
        assert mirror_text(phrase) == phrases[swapped]
        assert mirror_text(mirror_text(phrase)) == phrase


def test_half_of_the_clips_of_every_move_are_faulty() -> None:
    faulty = {move.name: 0 for move in MOVES}
    for index in range(CHUNK):
        faulty[MOVES[index % len(MOVES)].name] += is_faulty(index)
    assert set(faulty.values()) == {CHUNK // len(MOVES) // 2}


def test_only_train_scenes_are_learned_from(examples: Path) -> None:
    codec, loaded = prepare_examples(examples, CLIPS)
    assert isinstance(codec, MotionCodec)
    assert list(loaded.texts) == [prompt.text for prompt in world_prompts("train", CLIPS)]
    assert loaded.faulty_N.tolist() == [False, True, False, True]
    assert loaded.first_N3HW.abs().max() <= 1


def test_a_loss_that_is_not_finite_stops_before_the_step(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_folder(tmp_path / "broken", examples)
    monkeypatch.setattr(training, "diffusion_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        training.train_generator(work, work / "out", steps=1, **SETTINGS)
    assert not (work / "generator.safetensors").exists()
