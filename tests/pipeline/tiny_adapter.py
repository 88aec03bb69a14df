"""LoRA folders of random weights, as `gpa train-dpo` would write them."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.models import resolve_model
from trainer.families import load_family
from trainer.lora import attach_lora, lora_parameters, lora_state
from trainer.saving.export import export_adapter

RANK, ALPHA = 2, 4


def random_adapter(folder: Path, *, model: str = "world", seed: int = 0, scale: float = 0.05) -> Path:
    """An adapter that changes what the model makes; another seed is another adapter."""
    base = resolve_model(model)
    family = load_family(base.path, torch.float32)
    attach_lora(family.transformer, RANK, ALPHA, family.lora_targets, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora_parameters(family.transformer).items():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return export_adapter(
        folder,
        lora_state(family.transformer),
        component=family.component,
        base=(base.name, base.revision),
        family=family.name,
        rank=RANK,
        alpha=ALPHA,
        targets=family.lora_targets,
        training={},
    )
