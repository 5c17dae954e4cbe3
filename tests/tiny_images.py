"""Inputs by hand with images, of model classes whose ``forward`` does not say what it needs."""

from __future__ import annotations

from typing import Any

import torch
from tiny_configs import BATCH, LENGTH, TOKENS
from torch import Tensor
from transformers import PreTrainedModel

Inputs = dict[str, Any]


def tokens(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    """Ordinary tokens."""
    return torch.randint(*TOKENS, (batch, length))


def ones(*shape: int) -> Tensor:
    """A mask without padding, as numbers."""
    return torch.ones(shape, dtype=torch.long)


def patches(model: PreTrainedModel, with_text: bool = True) -> Inputs:
    vision = getattr(model.config, "vision_config", model.config)
    shapes = {"spatial_shapes": torch.tensor([[4, 4]] * BATCH), "pixel_attention_mask": ones(BATCH, 16)}
    pixels = torch.randn(BATCH, 16, vision.num_channels * vision.patch_size**2)
    return {**({"input_ids": tokens()} if with_text else {}), **shapes, "pixel_values": pixels}


def masked_video(model: PreTrainedModel) -> Inputs:
    config = model.config
    size, patch = config.image_size, config.patch_size
    places = config.num_frames // config.tubelet_size * (size // patch) ** 2
    masked = (torch.arange(places) % 2 == 0).expand(BATCH, places)
    pixels = torch.randn(BATCH, config.num_frames, config.num_channels, size, size)
    return {"pixel_values": pixels, "bool_masked_pos": masked}


def interleaved(model: PreTrainedModel) -> Inputs:
    size = model.config.vision_config.image_size
    return {
        "input_ids": tokens(), "attention_mask": ones(BATCH, LENGTH),
        "pixel_values": torch.randn(BATCH, 1, 3, size, size), "image_attention_mask": ones(BATCH, LENGTH, 1),
    }  # fmt: skip


def placed_image(model: PreTrainedModel) -> Inputs:
    count, size = model.config.latent_query_num, model.config.vision_config.image_size
    places = torch.zeros(BATCH, count + LENGTH, dtype=torch.bool)
    places[:, 1 : count + 1] = True
    return {
        "input_ids": tokens(BATCH, count + LENGTH), "image_embeds_position_mask": places,
        "pixel_values": torch.randn(BATCH, 3, size, size),
    }  # fmt: skip


def tiles(model: PreTrainedModel) -> Inputs:
    config = model.config
    size, tiles = config.image_size, config.max_num_tiles
    return {
        "pixel_values": torch.randn(BATCH, 1, tiles, 3, size, size), "aspect_ratio_ids": ones(BATCH, 1),
        "aspect_ratio_mask": ones(BATCH, 1, tiles),
    }  # fmt: skip


def robot(model: PreTrainedModel) -> Inputs:
    config = model.config
    size = config.vlm_config.vision_config.image_size
    image = torch.randn(BATCH, 1, 3, size, size)
    tokens = (size // config.vlm_config.vision_config.patch_size) ** 2
    ids = torch.cat([torch.full((BATCH, tokens), config.vlm_config.image_token_id), tokens()], 1)
    chosen = {"input_ids": ids, "pixel_values": image, "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool)}
    chosen["attention_mask"] = torch.ones_like(ids)
    if type(model).__name__ == "PI0Model":
        return {**chosen, "action_embeds": torch.randn(BATCH, 5, config.dit_config.hidden_size)}
    return {**chosen, "state": torch.randn(BATCH, config.max_state_dim), "timestep": torch.rand(BATCH),
            "noise": torch.randn(BATCH, config.chunk_size, config.max_action_dim)}  # fmt: skip


def matched(model: PreTrainedModel) -> Inputs:
    return {"pixel_values": torch.rand(BATCH, 2, 3, 64, 64)}


def frames(model: PreTrainedModel) -> Inputs:
    frames = model.config.mit_config.num_frames if hasattr(model.config, "mit_config") else model.config.num_frames
    size = model.config.image_size
    return {"pixel_values": torch.randn(frames, 3, size, size)}
