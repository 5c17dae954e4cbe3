"""Inputs by hand, of model classes whose ``forward`` does not say what it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import tiny_images
import torch
from tiny_configs import BATCH, LENGTH
from tiny_images import Inputs, ones, tokens
from transformers import PreTrainedModel


def by_hand(model: PreTrainedModel) -> Iterator[Inputs]:
    """The inputs that are written here for the class of ``model``."""
    for pattern, make in INPUTS.items():
        if re.fullmatch(pattern, type(model).__name__):
            yield make(model)


def _decisions(model: PreTrainedModel) -> Inputs:
    config = model.config
    values = {"states": config.state_dim, "actions": config.act_dim, "rewards": 1, "returns_to_go": 1}
    steps = torch.arange(LENGTH).expand(BATCH, LENGTH)
    return {name: torch.randn(BATCH, LENGTH, width) for name, width in values.items()} | {
        "timesteps": steps, "attention_mask": ones(BATCH, LENGTH)}  # fmt: skip


def _series(model: PreTrainedModel) -> Inputs:
    config = model.config
    past = config.context_length + max(config.lags_sequence)
    future = config.prediction_length
    return {
        "past_values": torch.randn(BATCH, past), "past_observed_mask": torch.ones(BATCH, past),
        "past_time_features": torch.randn(BATCH, past, config.num_time_features),
        "future_values": torch.randn(BATCH, future),
        "future_time_features": torch.randn(BATCH, future, config.num_time_features),
    }  # fmt: skip


def _documents(model: PreTrainedModel) -> Inputs:
    documents = model.config.n_docs
    return {
        "input_ids": tokens(), "decoder_input_ids": tokens(BATCH, 7), "doc_scores": torch.randn(BATCH, documents),
        "context_input_ids": tokens(BATCH * documents), "context_attention_mask": ones(BATCH * documents, LENGTH),
    }  # fmt: skip


def _codes(model: PreTrainedModel) -> Inputs:
    books = model.config.decoder.num_codebooks
    return {"input_ids": tokens(), "decoder_input_ids": torch.randint(0, 60, (BATCH * books, 7))}


def _question(model: PreTrainedModel) -> Inputs:
    asked = tokens()
    asked[:, 3] = model.config.question_token_id
    return {"input_ids": asked}


def _queries(model: PreTrainedModel) -> Inputs:
    config = getattr(model.config, "qformer_config", model.config)
    return {
        "query_embeds": torch.randn(BATCH, 5, config.hidden_size),
        "encoder_hidden_states": torch.randn(BATCH, 9, config.encoder_hidden_size),
    }


def _drafted(model: PreTrainedModel) -> Inputs:
    config = model.config
    return {
        "noise_embeds": torch.randn(BATCH, config.block_size, config.hidden_size),
        "context_hidden_states": torch.randn(BATCH, LENGTH, config.hidden_size * len(config.target_layer_ids)),
        "position_ids": torch.arange(LENGTH + config.block_size).expand(BATCH, -1),
        "attention_mask": ones(BATCH, LENGTH + config.block_size),
    }


def _masked_sounds(width: Callable[[PreTrainedModel], int], turned: bool = False) -> Callable[..., Inputs]:
    def make(model: PreTrainedModel) -> Inputs:
        shape = (BATCH, width(model), 100) if turned else (BATCH, 100, width(model))
        return {"input_features": torch.randn(shape), "input_features_mask": ones(BATCH, 100)}

    return make


# pattern of the names of model classes -> what makes their inputs
INPUTS: dict[str, Callable[[PreTrainedModel], Inputs]] = {
    "AudioFlamingo3Encoder": _masked_sounds(lambda m: m.config.num_mel_bins, turned=True),
    "BayesianDetectorModel": lambda m: {
        "g_values": torch.randint(0, 2, (BATCH, LENGTH, m.config.watermarking_depth)), "mask": ones(BATCH, LENGTH)},
    "Blip2QFormerModel": _queries,
    "DecisionTransformerModel": _decisions,
    "DecisionTransformerGPT2Model": lambda m: {"inputs_embeds": torch.randn(BATCH, LENGTH, m.config.hidden_size)},
    "DepthPro\\w+": lambda m: {"pixel_values": torch.randn(1, 3, 256, 256)},
    "Dots3NoteAudioModel": lambda m: {
        "input_features": torch.randn(BATCH, m.config.feature_size, 32), "chunk_sample_lengths": ones(BATCH) * 5120},
    "FunAsrNanoEncoder": _masked_sounds(lambda m: m.config.input_size),
    "GraniteSpeech5Encoder|GraniteSpeech5ForCTC": lambda m: {"input_features": torch.randn(BATCH, 32, 320)},
    "Idefics(Model|ForVisionText2Text)": tiny_images.interleaved,
    "InklingAudioModel": lambda m: {"audio_input_ids": torch.randint(0, 8, (BATCH, LENGTH, m.config.n_mel_bins))},
    "JevForDecision": lambda m: {
        "input_ids": tokens(1), "marks": torch.tensor([[3, 6, 9]]), "num_options": torch.tensor([[2, 2, 2]]),
        "question_type_ids": torch.tensor([[0, 0, 0]])},
    "Kosmos2(Model|ForConditionalGeneration)": tiny_images.placed_image,
    "KyutaiSpeechToText(Model|ForConditionalGeneration)": lambda m: {
        "input_ids": torch.randint(0, 20, (BATCH, LENGTH, m.config.num_codebooks + 1))},
    "(EfficientLoFTR|LightGlue)\\w*": tiny_images.matched,
    "MllamaVisionModel": tiny_images.tiles,
    "MuseGlimmerAssistantModel": _drafted,
    "Musicgen(Melody)?ForConditionalGeneration": _codes,
    "PI0\\w+": tiny_images.robot,
    "Phi4MultimodalAudioModel": lambda m: {
        "hidden_states": torch.randn(BATCH, 64, m.config.input_size), "mask": torch.ones(BATCH, 64).bool()},
    "Qwen3ASREncoder": _masked_sounds(lambda m: m.config.num_mel_bins, turned=True),
    "Rag(Model|SequenceForGeneration|TokenForGeneration)": _documents,
    "Siglip2Model": tiny_images.patches,
    "Siglip2ForImageClassification": lambda m: tiny_images.patches(m, with_text=False),
    "SplinterForPreTraining": _question,
    "SeamlessM4TTextToUnit\\w+": lambda m: {
        "inputs_embeds": torch.randn(BATCH, LENGTH, m.config.hidden_size), "decoder_input_ids": tokens(BATCH, 7)},
    "TimeSeriesTransformer\\w+": _series,
    "TimesFmModel": lambda m: {
        "past_values": torch.randn(BATCH, 2 * m.config.patch_length),
        "past_values_padding": ones(BATCH, 2 * m.config.patch_length) * 0, "freq": ones(BATCH, 1) * 0},
    "TimesFm2_5Model": lambda m: {"past_values": torch.randn(BATCH, 4 * m.config.patch_length)},
    "TimesFmModelForPrediction": lambda m: {
        "past_values": [torch.randn(m.config.context_length) for _ in range(BATCH)]},
    "TimesFm2_5ModelForPrediction": lambda m: {
        "past_values": [torch.randn(4 * m.config.patch_length) for _ in range(BATCH)]},
    "VideoLlama3VisionModel": lambda m: {
        "pixel_values": torch.randn(32, 3 * m.config.patch_size**2), "grid_thw": torch.tensor([[1, 4, 4]] * BATCH),
        "merge_sizes": ones(BATCH)},
    "VideoMAEForPreTraining": tiny_images.masked_video,
    "VoxtralRealtime(Model|ForConditionalGeneration)": lambda m: {
        "input_ids": tokens(BATCH, 4), "input_features": torch.randn(BATCH, 128, 32)},
    "Wav2Vec2BertForXVector": lambda m: {"input_features": torch.randn(BATCH, 40, 160)},
    "XCLIPVisionModel": tiny_images.frames,
    "(Xcodec2|NeuCodec)Model": lambda m: {
        "input_values": torch.randn(BATCH, 1, 6400), "input_features": torch.randn(BATCH, 20, 160)},
    "XcodecModel": lambda m: {"input_values": torch.randn(BATCH, 1, 6400)},
}  # fmt: skip
