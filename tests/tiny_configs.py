"""Small configurations of any model class: the defaults of its configuration class, reduced by name in every part."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from tiny_fitting import FITTING, FOR_CLASS, PAIRS
from transformers import PreTrainedConfig, PreTrainedModel, ResNetConfig

VOCABULARY = 320
TOKENS = (10, 200)  # ordinary tokens; special ones get numbers above

BATCH, LENGTH = 2, 12
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
    if cls.__name__ in PAIRS:
        yield "by hand", PAIRS[cls.__name__]()
        return
    default = cls.config_class()
    fitting = FOR_CLASS.get(cls.__name__, {})
    if cls.__name__.endswith(("ForCausalLM", "LMHeadModel")) and getattr(default, "is_decoder", None) is False:
        default.is_decoder = True  # an encoder's language model is a decoder only if it is told
    for how, narrow in (("tiny", True), ("thin", False)):
        try:
            yield how, _reduced(default, narrow, {}, fitting)
        except Exception as error:  # the class refuses these sizes
            yield f"{how}: {type(error).__name__}: {error}", None
    yield "default", copy.deepcopy(default)


def _reduced(
    config: PreTrainedConfig, narrow: bool, specials: dict[str, int], fitting: dict[str, Any] | None = None
) -> PreTrainedConfig:
    changes: dict[str, Any] = {}
    depth = {}
    for name, value in vars(config).items():
        if type(value).__name__ == "TimmBackboneConfig":  # needs a library of its own
            changes |= {name: _backbone(), "use_timm_backbone": False, "use_pretrained_backbone": False}
        elif isinstance(value, PreTrainedConfig):
            changes[name] = _reduced(value, narrow, specials)
        elif name == "is_decoder" and value:
            changes[name] = value
        elif name.startswith("_"):
            continue
        elif isinstance(value, bool):
            if value != _default(config, name, None):
                changes[name] = value
        elif isinstance(value, int):
            new = _reduced_int(name, value, narrow, specials)
            if re.search(DEPTH, name):
                new = min(value, _layers(config))
                depth[value] = new
            if new != value or new != _default(config, name, value):
                changes[name] = new
        elif isinstance(value, (list, tuple)) and re.fullmatch(r"depths|block_sizes|blocks_per_stage", name):
            changes[name] = type(value)(1 for _ in value)
        elif name == "rope_parameters" and isinstance(value, dict) and narrow and "rope_theta" in value:
            half = int(HEAD_DIM * value.get("partial_rotary_factor", 1.0)) // 2
            changes[name] = {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
        elif value is None and name in MISSING:
            changes[name] = MISSING[name]
    if "num_key_value_heads" in changes and _own(config, "num_key_value_heads") == _own(config, "num_attention_heads"):
        changes["num_key_value_heads"] = changes.get("num_attention_heads", _own(config, "num_attention_heads"))
    heads, shared = (changes.get(name, _own(config, name)) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(shared, int) and shared and heads % shared:
        changes["num_key_value_heads"] = heads
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) in depth and not name.startswith("_") and len(value) > 4:
            changes[name] = type(value)(value[: depth[len(value)]])
    for name in ("index", "indices", "indexes", "layer_ids", "layers_idx"):
        for key, value in vars(config).items():
            if name in key and isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value):
                if "depths" in vars(config):  # counts stages
                    changes[key.removeprefix("_")] = list(value)
                    continue
                if not depth:
                    continue
                if "out" in key and len(value) > 1:
                    last = max(depth.values())
                    changes[key.removeprefix("_")] = list(range(last - len(value) + 1, last + 1))
                    continue
                kept = [v for v in value if v < max(depth.values())] or [max(depth.values()) - ("out" not in key)]
                changes.setdefault(key.removeprefix("_"), type(value)(kept))
    changes |= {**FITTING.get(type(config).__name__, {}), **(fitting or {})} if narrow else {}
    return type(config)(**changes)


def _own(config: PreTrainedConfig, name: str) -> Any:
    """An attribute as it was stored, also where layers differ in it."""
    return vars(config).get(name)


def _default(config: PreTrainedConfig, name: str, unknown: Any) -> Any:
    """What a configuration has if nothing is said, which the part of another one may not have."""
    field = getattr(type(config), "__dataclass_fields__", {}).get(name)
    return field.default if field is not None and isinstance(field.default, (bool, int)) else unknown


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
    outputs = vars(config).get("_out_indices")
    return max(LAYERS, len(outputs)) if isinstance(outputs, (list, tuple)) else LAYERS


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
