"""A tiny random model of any class that Transformers can build, and inputs that it accepts.

Sizes come from the defaults of the configuration class, reduced by name in every part; inputs come from the signature
of ``forward``. Whatever combination of the two runs first is taken.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, ResNetConfig

BATCH, LENGTH, TARGETS = 2, 12, 7
VOCABULARY = 320
TOKENS = (10, 200)  # ordinary tokens; special ones get numbers above
MOST_PARAMETERS = 60_000_000

WIDTH, HEADS, HEAD_DIM, LAYERS = 64, 4, 16, 2

# name of an attribute -> its value, from the default one; the first that matches
SIZES: list[tuple[str, Any]] = [
    (r"vocab_size$|vocab_size_per_layer_input|additional_vocab_size", lambda v: min(v, VOCABULARY)),
    (r"type_vocab_size|chunk_size_feed_forward|num_channels|in_channels", lambda v: v),
    (r"(index_topk|moe_k|moe_topk|top_k|topk|top_?k_experts|experts_per_tok\w*)$", lambda v: min(v, 2)),
    (r"(n_group|topk_group|num_expert_group)$", lambda v: 1),
    (r"(n_routed_experts|num_(local_)?experts|moe_num_experts)$", lambda v: min(v, 4)),
    (r"(num_key_value_heads|num_kv_heads|n_head_kv)$", lambda v: min(v, 2)),
    (r"(\b|_)(\w*attention_heads|n_heads?|num_heads|index_n_heads|linear_num_\w+_heads)$", lambda v: min(v, HEADS)),
    (r"(qk_head_dim)$", lambda v: 2 * HEAD_DIM),
    (r"(index_head_dim)$", lambda v: 2 * HEAD_DIM),
    (r"(head_dim|head_size|d_kv|d_head|kv_channels|dim_head|rotary_dim|head_dim_\w+)$", lambda v: min(v, HEAD_DIM)),
    (r"(lora_rank|linear_head_dim)$", lambda v: min(v, HEAD_DIM)),
    (
        r"(intermediate_size|ffn_dim|mlp_dim|d_ff|d_inner|ffn_hidden_size|n_inner|dim_feedforward|feedforward_dim"
        r"|expert_ffn_hidden_size|inner_dim)$",
        lambda v: min(v, WIDTH),
    ),
    (
        r"(hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_size|embedding_dim|word_embed_proj_dim|hidden_dim"
        r"|projection_dim|attention_hidden_size|dim_model|^dim|proj_size|mlp_hidden_size|fpn_hidden_size"
        r"|query_pre_attn_scalar|output_channels)$",
        lambda v: min(v, WIDTH),
    ),
    (r"max_source_positions$", lambda v: 16),
    (r"max_seq_len|max_(\w+_)?position\w*|n_positions|n_ctx", lambda v: min(v, 512)),
    (r"sliding_window\w*$|attention_window$|local_attention$", lambda v: min(v, 6)),
    (r"(image|img)_size$", lambda v: min(v, 64)),
    (r"image_embedding_size$", lambda v: min(v, 4)),
]
DEPTH = r"(hidden_layers|n_layers?|num_layers|(en|de)coder_layers|depth|^layers|num_blocks|\w+_num_layers|layer_num)$"
THIN = r"vocab_size$|experts|intermediate_size|max_\w*position|n_positions|max_source|^encoder_ffn|^decoder_ffn"


def configs(cls: type[PreTrainedModel]) -> Iterator[tuple[str, PreTrainedConfig | None]]:
    """Reduced configurations of a model class, the smallest first, with a word on how they were made, or why not."""
    default = cls.config_class()
    if cls.__name__.endswith(("ForCausalLM", "LMHeadModel")) and getattr(default, "is_decoder", None) is False:
        default.is_decoder = True  # an encoder's language model is a decoder only if it is told
    for how, narrow in (("tiny", True), ("thin", False)):
        try:
            yield how, _reduced(default, narrow, {})
        except Exception as error:  # the class refuses these sizes
            yield f"{how}: {type(error).__name__}: {error}", None
    yield "default", copy.deepcopy(default)


def _reduced(config: PreTrainedConfig, narrow: bool, specials: dict[str, int]) -> PreTrainedConfig:
    changes: dict[str, Any] = {}
    depth = {}
    for name, value in vars(config).items():
        if type(value).__name__ == "TimmBackboneConfig":  # needs a library of its own
            changes |= {name: _backbone(), "use_timm_backbone": False, "use_pretrained_backbone": False}
        elif isinstance(value, PreTrainedConfig):
            changes[name] = _reduced(value, narrow, specials)
        elif name == "is_decoder" and value:
            changes[name] = value
        elif isinstance(value, bool) or name.startswith("_"):
            continue
        elif isinstance(value, int):
            new = _reduced_int(name, value, narrow, specials)
            if re.search(DEPTH, name):
                new = min(value, _layers(config))
                depth[value] = new
            if new != value:
                changes[name] = new
        elif isinstance(value, (list, tuple)) and re.fullmatch(r"depths|block_sizes|blocks_per_stage", name):
            changes[name] = type(value)(1 for _ in value)
        elif name == "rope_parameters" and isinstance(value, dict) and narrow and "rope_theta" in value:
            half = int(HEAD_DIM * value.get("partial_rotary_factor", 1.0)) // 2
            changes[name] = {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
        elif value is None and name in MISSING:
            changes[name] = MISSING[name]
    if "num_key_value_heads" in changes and config.num_key_value_heads == getattr(config, "num_attention_heads", 0):
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) in depth and not name.startswith("_") and len(value) > 4:
            changes[name] = type(value)(value[: depth[len(value)]])
    for name in ("index", "indices", "indexes", "layer_ids", "layers_idx"):
        for key, value in vars(config).items():
            if name in key and isinstance(value, (list, tuple)) and depth and all(isinstance(v, int) for v in value):
                kept = [v for v in value if v < max(depth.values())] or [max(depth.values()) - ("out" not in key)]
                changes.setdefault(key.removeprefix("_"), type(value)(kept))
    known = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "transformers_version")}
    keep = {k: v for k, v in known.items() if k in changes or not isinstance(v, (dict, list, int, float))}
    try:
        return type(config)(**changes)
    except TypeError:
        return type(config)(**{k: v for k, v in changes.items() if k in keep})


def _backbone() -> PreTrainedConfig:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])


def _reduced_int(name: str, value: int, narrow: bool, specials: dict[str, int]) -> int:
    if re.search(r"token_(id|index)$|_token_idx$|^(unk|mask)_index$", name):
        if value < TOKENS[0]:
            return value
        return specials.setdefault(name.replace("_index", "_id"), TOKENS[1] + len(specials))
    if not narrow and not re.search(THIN, name):
        return value
    for pattern, size in SIZES:
        if re.search(pattern, name):
            return size(value) if value > 0 else value
    return value


def _layers(config: PreTrainedConfig) -> int:
    """As few layers as show every kind of layer."""
    for name in ("layer_types", "layers_block_type", "attention_layers", "block_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, (list, tuple)) and kinds and isinstance(kinds[0], str):
            first = max(kinds.index(kind) for kind in set(kinds)) + 1
            return max(LAYERS, first)
    return LAYERS


# what a class leaves to be said, and does not run without
MISSING = {"vocab_size": VOCABULARY, "pad_token_id": 0, "head_dim": HEAD_DIM, "num_key_value_heads": HEADS}
MISSING |= {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
}
MISSING |= {"n_shared_experts": 1, "prediction_length": 4, "vocabulary_map": {"<image>": 300}}
# ---- inputs


def inputs(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs that the model may accept, the likeliest first."""
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
    for chosen in _sources(model, parameters):
        yield {**extra, **chosen, **targets}
        if targets:
            yield {**extra, **chosen}
    if "input_ids" in parameters:
        yield {**extra, **tokens}
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
    yield torch.randn(BATCH, channels, 512, 512)


def _sounds(model: PreTrainedModel, name: str) -> Iterator[Tensor]:
    config = model.config
    mels = find(config, "num_mel_bins", "feature_size", "input_feat_per_channel", "input_size", "n_mels", default=80)
    mels = mels if isinstance(mels, int) else 80
    frames = 2 * find(config, "max_source_positions", default=16)
    if name == "input_values":
        yield torch.randn(BATCH, 4000)
        yield torch.randn(BATCH, 1, 4000)
        yield torch.randn(BATCH, find(config, "max_length", default=64), mels)
        yield torch.randn(BATCH, LENGTH, mels)
    yield torch.randn(BATCH, mels, frames)
    yield torch.randn(BATCH, frames, mels)
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
    "encoder_hidden_states": lambda model: torch.randn(BATCH, 9, find(model.config, "hidden_size", "d_model")),
    "inputs_embeds": lambda model: torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model")),
    "pixel_position_ids": lambda model: (
        torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1)
        .view(1, 16, 2)
        .repeat(BATCH, 1, 1)
    ),
    "hidden_states": lambda model: torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model")),
    "query_embeds": lambda model: torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model")),
}


# ---- models


class NotBuildableError(Exception):
    """No combination of sizes and inputs of a class runs; holds the first error of each."""


def build(cls: type[PreTrainedModel]) -> tuple[PreTrainedModel, dict[str, Any], str]:
    """A random model with the ``eager`` attention, inputs that it accepts, and how the sizes were made.

    Raises:
        NotBuildableError: neither sizes nor inputs were found.
    """
    errors: list[str] = []
    for how, config in configs(cls):
        if config is None:
            errors.append(how)
            continue
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in cls._from_config(copy.deepcopy(config)).parameters())
        except Exception:
            size = 0 if how == "tiny" else MOST_PARAMETERS + 1
        if size > MOST_PARAMETERS:
            errors.append(f"{how}: {size} parameters")
            continue
        try:
            torch.manual_seed(0)
            model = cls._from_config(config, attn_implementation="eager").eval()
        except Exception as error:
            errors.append(f"{how}: {type(error).__name__}: {error}")
            continue
        randomise(model)
        for chosen in inputs(model):
            try:
                run(model, chosen)
            except Exception as error:
                shapes = {k: tuple(v.shape) for k, v in chosen.items() if isinstance(v, Tensor)}
                errors.append(f"{how} {shapes}: {type(error).__name__}: {error}")
                continue
            return model, chosen, how
    raise NotBuildableError(" | ".join(error.splitlines()[0][:200] for error in errors) or "no inputs")


def randomise(model: nn.Module) -> None:
    """Weights under which attention is sharp and every layer matters, whatever a class is initialised with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() > 1:
                fan_in = max(1, parameter.numel() // max(1, parameter.shape[0]))
                parameter.copy_(noise * min(1.0, 1.5 * fan_in**-0.5))
            else:
                parameter.add_(noise * 0.1)


def run(model: nn.Module, chosen: dict[str, Any]) -> dict[str, Tensor]:
    """The floating tensors of the output, by where they stand in it."""
    torch.manual_seed(0)
    extra = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        extra["use_cache"] = False
    with torch.no_grad():
        out = model(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in chosen.items()}, **extra)
    found: dict[str, Tensor] = {}
    _collect("", out, found)
    if not found:
        raise ValueError("the output has no floating tensor")
    return found


def _collect(path: str, value: Any, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            found[path] = value.detach().float()
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("past_key_values", "cache", "cache_params"):
                _collect(f"{path}.{key}", part, found)
    elif isinstance(value, (list, tuple)):
        for key, part in enumerate(value):
            _collect(f"{path}.{key}", part, found)
