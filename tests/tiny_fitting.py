"""Sizes that must fit together, and what a class does not run without: what the names of sizes do not say."""

from __future__ import annotations

from typing import Any

from transformers import (
    BartConfig,
    BertConfig,
    DPRConfig,
    EncoderDecoderConfig,
    RagConfig,
    SpeechEncoderDecoderConfig,
    VisionEncoderDecoderConfig,
    VisionTextDualEncoderConfig,
    ViTConfig,
    Wav2Vec2Config,
)

BERT = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 32,
        "vocab_size": 320}  # fmt: skip
VIT = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 32, "image_size": 64}
DECODER = BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PER_TYPE = {"full_attention": ROPE, "sliding_attention": ROPE}

PROMPTS = {"image_size": 64, "patch_size": 16, "hidden_size": 64}
LINES = {
    ratio: {
        "vertical_long_to_small_conv_": [[size, 1], [1, 1], [size // 2, 0]],
        "horizontal_small_to_long_conv_": [[1, size], [1, 1], [0, size // 2]],
        "symmetric_conv_long_": [[size, size], [1, 1], [size // 2, size // 2]],
    }
    for ratio, size in {"longratio": 7, "midratio": 5, "shortratio": 3}.items()
}
INTRACLASS = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
INTRACLASS |= {kind + ratio: sizes for ratio, kinds in LINES.items() for kind, sizes in kinds.items()}

# class of a configuration -> what it is made with
FITTING: dict[str, dict[str, Any]] = {
    "AlignVisionConfig": {"width_coefficient": 0.2, "depth_coefficient": 0.1},
    "BambaConfig": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1},
    "BayesianDetectorConfig": {"watermarking_depth": 4},
    "BltConfig": {"encoder_hash_byte_group_vocab": 100},
    "BltLocalDecoderConfig": {"hidden_size_global": 64},
    "BltLocalEncoderConfig": {"hidden_size_global": 64},
    "CohereCompassTextConfig": {"rope_parameters": PER_TYPE},
    "CsmConfig": {"num_codebooks": 4},
    "DPTConfig": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
    "DbrxAttentionConfig": {"rope_theta": 10000.0, "clip_qkv": 8.0},
    "DeepseekOcr2TextConfig": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
    "DepthProConfig": {"patch_size": 64, "scaled_images_feature_dims": [16, 16, 16], "intermediate_hook_ids": [1, 0],
                       "intermediate_feature_dims": [16, 16], "fusion_hidden_size": 16},
    "DiffusionGemmaTextConfig": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "Dots3NoteAudioConfig": {"adapter_input_size": 64, "adapter_out_dim": 64, "downsample_hidden_size": 32},
    "Dots3NoteVisionConfig": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "Emu3VQVAEConfig": {"base_channels": 32, "channel_multiplier": [1, 1], "codebook_size": 64},
    "Ernie4_5_VLMoeTextConfig": {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 4]}},
    "FalconH1Config": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
                       "mamba_chunk_size": 16},
    "Florence2VisionConfig": {"embed_dim": [16, 32, 32, 64], "num_heads": [2, 2, 2, 4], "num_groups": [2, 2, 2, 4],
                              "depths": [1, 1, 1, 1], "projection_dim": 64},
    "FunAsrNanoAdaptorConfig": {"intermediate_size": 16},
    "Gemma3Config": {"mm_tokens_per_image": 4},
    "Gemma3nTextConfig": {"num_kv_shared_layers": 0},
    "Glm5NextTextConfig": {"index_kpool": 1},
    "Granite4VisionConfig": {"deepstack_layer_map": [[0, 0]], "spatial_target_layers": [1], "downsample_rate": "1/2"},
    "GraniteMoeHybridConfig": {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"], "mamba_n_heads": 8,
                               "mamba_d_head": 16},
    "JanusVQVAEConfig": {"base_channels": 32, "channel_multiplier": [1, 1], "num_embeddings": 64},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "LightGlueConfig": {"num_key_value_heads": 4, "num_attention_heads": 4, "descriptor_dim": 256},
    "Llama4VisionConfig": {"projector_input_dim": 64, "projector_output_dim": 64, "vision_output_dim": 64,
                           "intermediate_size": 256},
    "LwDetrConfig": {"projector_scale_factors": [1.0], "num_queries": 4, "group_detr": 2},
    "MimiConfig": {"upsample_groups": 64, "num_filters": 4, "codebook_size": 64, "codebook_dim": 32},
    "Mistral4Config": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 24},
    "Molmo2AdapterConfig": {"vision_feature_layer": [1, 0], "text_hidden_size": 64},
    "Molmo2VisionConfig": {"image_size": [56, 56]},
    "MoonshineStreamingConfig": {"num_key_value_heads": 4},
    "MuseSparkAudioConfig": {"num_hidden_layers": 4, "patch_sizes": [16, 6, 5, 4], "hidden_sizes": [16, 16, 32, 64],
                             "depths": [1, 1, 1, 1]},
    "NemotronHConfig": {"mamba_num_heads": 8, "n_groups": 2, "mamba_head_dim": 16},
    "NeuCodecConfig": {"quantization_dim": 128},
    "PPOCRV5ServerDetConfig": {"intraclass_block_config": INTRACLASS},
    "PPOCRV6MediumDetConfig": {"intraclass_block_config": INTRACLASS},
    "Pix2StructTextConfig": {"initializer_range": 0.02},
    "Pix2StructVisionConfig": {"patch_embed_hidden_size": 768},
    "Qwen2_5OmniBigVGANConfig": {"upsample_initial_channel": 64},
    "Qwen3OmniMoeCode2WavConfig": {"decoder_dim": 64, "codebook_size": 64},
    "Qwen3OmniMoeTalkerTextConfig": {"shared_expert_intermediate_size": 32},
    "Qwen4ExpTextConfig": {"ple_layer_ids": None, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 32,
                           "indexer_budget": 4, "indexer_compress_ratio": 2},
    "RTDetrConfig": {"num_queries": 4, "encoder_in_channels": [16, 16, 16]},
    "RTDetrResNetConfig": {"hidden_sizes": [16, 16, 16, 16], "embedding_size": 16},
    "RTDetrV2Config": {"num_queries": 4, "encoder_in_channels": [16, 16, 16]},
    "RfDetrConfig": {"num_queries": 4},
    "RadioConfig": {"video_temporal_patch_size": 2},
    "Sam2Config": {"prompt_encoder_config": PROMPTS},
    "Sam2HieraDetConfig": {"image_size": [64, 64], "hidden_size": 16, "blocks_per_stage": [1, 2, 2, 1],
                           "embed_dim_per_stage": [16, 32, 48, 64], "num_attention_heads_per_stage": [1, 2, 3, 4],
                           "global_attention_blocks": [2]},
    "Sam2VisionConfig": {"backbone_channel_list": [64, 48, 32, 16],
                         "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "Sam3TrackerConfig": {"prompt_encoder_config": PROMPTS},
    "Sam3VisionConfig": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "Sapiens2Config": {"head_config": {"upsample_out_channels": [8], "upsample_kernel_sizes": [4],
                                       "conv_out_channels": [8], "conv_kernel_sizes": [1]}},
    "ShieldGemma2Config": {"mm_tokens_per_image": 4, "yes_token_index": 10, "no_token_index": 12},
    "Step3p7TextConfig": {"sliding_window": 6},
    "T5Gemma2EncoderConfig": {"mm_tokens_per_image": 4},
    "T5Gemma2TextConfig": {"dropout_rate": 0.0},
    "T5GemmaConfig": {"is_encoder_decoder": False},
    "TimeSeriesTransformerConfig": {"context_length": 12, "lags_sequence": [1, 2], "num_time_features": 1},
    "VibeVoiceAcousticTokenizerConfig": {"num_filters": 4, "depths": [1] * 7},
    "VibeVoiceAcousticTokenizerEncoderConfig": {"num_filters": 4, "depths": [1] * 7},
    "Xcodec2Config": {"quantization_dim": 128},
    "XmodConfig": {"default_language": "en_XX"},
    "Zamba2Config": {"mamba_headdim": 16, "n_mamba_heads": 8, "attention_hidden_size": 128, "attention_head_dim": 32},
    "ZambaConfig": {"num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 1,
                    "layers_block_type": ["mamba", "hybrid"] * 3,
                    "attention_hidden_size": 128, "attention_head_dim": 32},
}  # fmt: skip

# class of a model -> what its configuration is made with besides
FOR_CLASS: dict[str, dict[str, Any]] = {
    "BeitForSemanticSegmentation": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "T5GemmaModel": {"is_encoder_decoder": True},
}

# class of a model -> its configuration, made of two others
PAIRS: dict[str, Any] = {
    "EncoderDecoderModel": lambda: EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**BERT), DECODER),
    "RagModel": lambda: RagConfig.from_question_encoder_generator_configs(
        DPRConfig(**BERT), BartConfig(vocab_size=320, d_model=32, encoder_layers=1, decoder_layers=1,
                                      encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32,
                                      decoder_ffn_dim=32, max_position_embeddings=64), n_docs=5),
    "VisionTextDualEncoderModel": lambda: VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**VIT), BertConfig(**BERT)),
    "SpeechEncoderDecoderModel": lambda: SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
        Wav2Vec2Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32,
                       conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
                       num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2), DECODER),
    "VisionEncoderDecoderModel": lambda: VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**VIT), DECODER),
}  # fmt: skip
