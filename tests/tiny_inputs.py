"""Inputs that a model may accept, from the signature of its ``forward`` and the sizes in its configuration."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from tiny_by_hand import by_hand
from tiny_configs import BATCH, LENGTH, TOKENS, WIDTH
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

TARGETS = 7


def inputs(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs that the model may accept, the likeliest first."""
    yield from by_hand(model)
    parameters = inspect.signature(model.forward).parameters
    needed = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    tokens = {"input_ids": _tokens(LENGTH)}
    targets = {"decoder_input_ids": _tokens(TARGETS)} if "decoder_input_ids" in parameters else {}
    extra = {name: make(model) for name, make in NEEDED.items() if name in needed}
    if grid := [name for name in ("grid_thw", "image_grid_thw") if name in needed]:
        patches = "hidden_states" if "hidden_states" in needed else "pixel_values"
        for width in _patch_widths(model.config):
            yield {patches: torch.randn(BATCH * 16, width), grid[0]: torch.tensor([[1, 4, 4]] * BATCH)}
    if "past_values" in needed:
        for width in (find(model.config, "num_input_channels", "input_size", default=1), 1):
            yield {"past_values": torch.randn(BATCH, find(model.config, "context_length", default=32), width)}
    if "spatial_shapes" in needed:
        (width, *_) = _patch_widths(model.config)
        shapes = {"spatial_shapes": torch.tensor([[4, 4]] * BATCH), "pixel_values": torch.randn(BATCH, 16, width)}
        ids = tokens if "input_ids" in parameters else {}
        yield {**ids, **shapes, "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long)}
    if len(both := [name for name in (*MAIN, "input_ids") if name in needed]) > 1:
        kinds = ([tokens["input_ids"]] if name == "input_ids" else list(MAIN[name](model)) for name in both)
        for values in itertools.product(*kinds):
            yield {**extra, **dict(zip(both, values, strict=True)), **targets}
    for chosen in _sources(model, parameters):
        yield {**extra, **chosen, **targets}
        if targets:
            yield {**extra, **chosen}
    if "input_ids" in parameters:
        yield {**extra, **tokens}
        if books := find(model.config, "num_codebooks", "n_q"):
            yield {"input_ids": torch.randint(*TOKENS, (BATCH * books, LENGTH))}
            yield {"input_ids": torch.randint(*TOKENS, (BATCH, LENGTH, books))}
    yield dict(model.dummy_inputs)


def _patch_widths(config: PreTrainedConfig) -> Iterator[int]:
    channels, side = find(config, "in_channels", "num_channels", "in_chans", default=3), find(config, "patch_size")
    area = channels * (side * side if isinstance(side, int) else side[0] * side[1])
    yield area * find(config, "temporal_patch_size", "patch_temporal", default=1)
    yield area
    yield find(config, "hidden_size", "embed_dim")


def _sources(model: PreTrainedModel, parameters: Any) -> Iterator[dict[str, Any]]:
    tokens = {"input_ids": _tokens(LENGTH)} if "input_ids" in parameters else {}
    if "bbox" in parameters:
        tokens["bbox"] = torch.tensor([1, 2, 3, 4]).expand(BATCH, LENGTH, 4)
    pixels = [name for name in ("pixel_values", "pixel_values_videos", "flattened_patches") if name in parameters]
    sounds = [name for name in ("input_features", "input_values", "audio_values") if name in parameters]
    main = model.main_input_name
    if main in parameters and main in MAIN:
        for value in MAIN[main](model):
            yield {main: value}
    if tokens:
        for name in pixels:
            for value in _pixels(model, name):
                yield {**tokens, name: value}
        yield tokens
    for name in pixels:
        for value in _pixels(model, name):
            yield {name: value}
    for name in sounds:
        for value in _sounds(model, name):
            yield {name: value}


def with_images(model: PreTrainedModel, chosen: dict[str, Any], features: int) -> dict[str, Any] | None:
    """The same inputs with a token in place of every one of the ``features`` of the images; None if there is none."""
    token = find(model.config, "image_token_id", "image_token_index", "media_placeholder_token_id")
    if token is None or "input_ids" not in chosen or features % BATCH:
        return None
    places = torch.full((BATCH, features // BATCH), token)
    return {**chosen, "input_ids": torch.cat([places, chosen["input_ids"]], 1)}


def _tokens(length: int) -> Tensor:
    return torch.randint(*TOKENS, (BATCH, length))


def find(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of ``names`` that a configuration has, or else one of its parts."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if isinstance(part, PreTrainedConfig) and (value := find(part, *names)) is not None:
            return value
    return default


def _pixels(model: PreTrainedModel, name: str) -> Iterator[Tensor]:
    config = getattr(model.config, "vision_config", None) or model.config
    channels = find(config, "num_channels", "in_channels", "in_chans", default=3)
    size = find(config, "image_size", "img_size", default=64)
    channels = 3 if isinstance(channels, (list, tuple, dict)) else channels
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    frames = find(config, "num_frames", "frames_per_clip", default=4)
    patch = find(config, "patch_size", default=16)
    if name == "flattened_patches":
        yield torch.randn(BATCH, LENGTH, channels * patch * patch + 2).abs()
        return
    if "video" in name:
        yield torch.randn(BATCH, frames, channels, height, width)
        return
    yield torch.randn(BATCH, channels, height, width)
    yield torch.randn(BATCH, frames, channels, height, width)
    yield torch.randn(BATCH, 1, channels, height, width)
    yield torch.randn(BATCH, channels, 224, 224)


def _sounds(model: PreTrainedModel, name: str) -> Iterator[Tensor]:
    config = model.config
    mels = find(config, "num_mel_bins", "feature_size", "input_feat_per_channel", "input_size", "n_mels", default=80)
    mels = mels if isinstance(mels, int) else 80
    frames = 2 * find(config, "max_source_positions", default=16)
    if name == "input_values":
        yield torch.randn(BATCH, 4000)
        yield torch.randn(BATCH, 1, 16000)
        yield torch.randn(BATCH, 12000)
        yield torch.randn(BATCH, find(config, "max_length", default=64), mels)
        yield torch.randn(BATCH, LENGTH, mels)
    yield torch.randn(BATCH, mels, frames)
    yield torch.randn(BATCH, frames, mels)
    if width := find(config, "feature_projection_input_dim"):
        yield torch.randn(BATCH, LENGTH, width)
    yield torch.randn(BATCH, 64, mels)
    yield torch.randn(BATCH, mels, 64)
    yield torch.randn(BATCH, LENGTH, find(config, "hidden_size", default=WIDTH))


MAIN: dict[str, Any] = {
    "pixel_values": lambda model: _pixels(model, "pixel_values"),
    "pixel_values_videos": lambda model: _pixels(model, "pixel_values_videos"),
    "flattened_patches": lambda model: _pixels(model, "flattened_patches"),
    "input_features": lambda model: _sounds(model, "input_features"),
    "input_values": lambda model: _sounds(model, "input_values"),
}

NEEDED: dict[str, Any] = {
    "attention_mask": lambda model: torch.ones(BATCH, LENGTH, dtype=torch.long),
    "qformer_input_ids": lambda model: _tokens(LENGTH),
    "encoder_hidden_states": lambda model: torch.randn(BATCH, 9, find(model.config, "hidden_size", "d_model")),
    "inputs_embeds": lambda model: torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model")),
    "pixel_position_ids": lambda model: (
        torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1)
        .view(1, 16, 2)
        .repeat(BATCH, 1, 1)
    ),
    "hidden_states": lambda model: torch.randn(
        BATCH, LENGTH, find(model.config, "hidden_size", "d_model", default=WIDTH)
    ),
    "query_embeds": lambda model: torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model")),
}
