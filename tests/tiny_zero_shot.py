"""Tiny random models of the families that transformers has, as folders: their answers mean nothing, but are answers.

Their tokenizers have letters and bytes for vocabulary, so that every phrase can be read, and long ones are soon too
long.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers as T

from refseg_cli.data.text import _byte_symbols

SIDE = 64  # pixels of a network's square input
HEADS = {"num_attention_heads": 2}


def clip_tokenizer(length: int) -> Any:
    """CLIP's, without a merge."""
    symbols = _byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return T.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=length)


CLIP_IDS = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}


def bert_tokenizer() -> Any:
    """BERT's, with its marks and stops where GroundingDINO looks for them by number."""
    marks = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    marks |= {letter: 1037 + i for i, letter in enumerate(ascii_lowercase)}
    marks |= {"##" + letter: 1100 + i for i, letter in enumerate(ascii_lowercase)}
    taken = set(marks.values())
    return T.BertTokenizer(vocab=marks | {f"[unused{i}]": i for i in range(1126) if i not in taken})


def save(folder: Path, model: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clipseg(folder: Path) -> Path:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, **HEADS, **CLIP_IDS}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, **HEADS, "patch_size": 16}
    config = T.CLIPSegConfig(
        text_config=text,
        vision_config={**vision, "image_size": SIDE},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    model = T.CLIPSegForImageSegmentation(config)
    images = T.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return save(folder, model, T.CLIPSegProcessor(images, clip_tokenizer(77)))


def _sam3_parts(hidden: int = 32) -> dict[str, Any]:
    vit = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, **HEADS, "image_size": 56}
    vit |= {"patch_size": 14, "window_size": 2, "global_attn_indexes": [1], "pretrain_image_size": 56}
    small = {"hidden_size": hidden, "num_attention_heads": 2, "dropout": 0.0}
    layers = {"num_layers": 1, "intermediate_size": 32}
    sizes = [[16, 16], [8, 8], [4, 4]]
    return {
        "vision_config": {
            "backbone_config": {"model_type": "sam3_vit_model", **vit},
            "fpn_hidden_size": hidden,
            "backbone_feature_sizes": sizes,
        },
        "geometry_encoder_config": {**small, **layers},
        "detr_encoder_config": {**small, **layers},
        "detr_decoder_config": {**small, **layers, "num_queries": 6},
        "mask_decoder_config": {**small},
    }


def _sam3_processor() -> Any:
    side = {"height": 56, "width": 56}
    return T.Sam3Processor(T.Sam3ImageProcessor(size=side, mask_size={"height": 16, "width": 16}), clip_tokenizer(32))


def _sam3_config(hidden: int = 32) -> Any:
    text = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 32, "num_hidden_layers": 2, **HEADS}
    text |= {**CLIP_IDS, "max_position_embeddings": 32, "model_type": "clip_text_model"}
    return T.Sam3Config(text_config=text, **_sam3_parts(hidden))


def sam3(folder: Path) -> Path:
    return save(folder, T.Sam3Model(_sam3_config()), _sam3_processor())


def sam3_video(folder: Path) -> Path:
    width, memory = 128, 64  # transformers takes 64 channels of memory for granted, and fewer than the width
    detector = _sam3_config(width).to_dict()
    sizes = ("attention_hidden_size", "encoder_hidden_size", "fuser_embed_dim")
    tracker = T.Sam3TrackerVideoConfig(
        vision_config=detector["vision_config"],
        prompt_encoder_config={"hidden_size": width, "image_size": 56, "patch_size": 14, "mask_input_channels": 4},
        mask_decoder_config={**MASK_DECODER, "hidden_size": width},
        image_size=56,
        **{
            **MEMORY,
            **{f"memory_{name}": width for name in sizes},
            "memory_encoder_output_channels": memory,
            "mask_downsampler_embed_dim": width,
        },
    )
    config = T.Sam3VideoConfig(detector_config=detector, tracker_config=tracker.to_dict())
    return save(folder, T.Sam3VideoModel(config), _sam3_processor())


def sam3_lite_text(folder: Path) -> Path:
    text = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 32, "num_hidden_layers": 2, **HEADS}
    text |= {"vocab_size": 514, "max_position_embeddings": 32}
    config = T.Sam3LiteTextConfig(text_config=text, **_sam3_parts())
    return save(folder, T.Sam3LiteTextModel(config), _sam3_processor())


def _grounding(config: type, model: type, folder: Path) -> Path:
    text = {"model_type": "bert", "vocab_size": 1126, "hidden_size": 16, "num_hidden_layers": 1, **HEADS}
    swin = {"model_type": "swin", "image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1]}
    swin |= {"num_heads": [1, 1, 2, 2], "window_size": 2, "out_features": ["stage2", "stage3", "stage4"]}
    settings = config(
        backbone_config=swin,
        text_config={**text, "intermediate_size": 16},
        d_model=32,
        num_queries=8,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        disable_custom_kernels=True,
    )
    images = T.GroundingDinoImageProcessor(size={"shortest_edge": 2 * SIDE, "longest_edge": 4 * SIDE})
    return save(folder, model(settings), T.GroundingDinoProcessor(images, bert_tokenizer()))


def grounding_dino(folder: Path) -> Path:
    return _grounding(T.GroundingDinoConfig, T.GroundingDinoForObjectDetection, folder)


def mm_grounding_dino(folder: Path) -> Path:
    return _grounding(T.MMGroundingDinoConfig, T.MMGroundingDinoForObjectDetection, folder)


def owlv2(folder: Path) -> Path:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, **HEADS, **CLIP_IDS}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, **HEADS, "patch_size": 16}
    config = T.Owlv2Config(text_config=text, vision_config={**vision, "image_size": SIDE}, projection_dim=16)
    images = T.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return save(folder, T.Owlv2ForObjectDetection(config), T.Owlv2Processor(images, clip_tokenizer(16)))


def _sam2_parts() -> dict[str, Any]:
    hiera = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64]}
    hiera |= {"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2]}
    hiera |= {"blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [4, 2, 4, 2], "global_attention_blocks": [3]}
    vision = {"backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    return {
        "vision_config": {"backbone_config": hiera, **vision, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE, "patch_size": 16},
        "mask_decoder_config": MASK_DECODER,
    }


MASK_DECODER = {"hidden_size": 32, "mlp_dim": 32, "iou_head_hidden_dim": 32, "num_attention_heads": 2}
MEMORY = {
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_downsample_rate": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 8,
    "memory_fuser_embed_dim": 32,
    "mask_downsampler_embed_dim": 32,
}


def _sam2_processor() -> Any:
    side = {"height": SIDE, "width": SIDE}
    return T.Sam2Processor(T.Sam2ImageProcessor(size=side, mask_size={"height": 16, "width": 16}))


def sam2(folder: Path) -> Path:
    return save(folder, T.Sam2Model(T.Sam2Config(**_sam2_parts())), _sam2_processor())


def sam2_video(folder: Path) -> Path:
    config = T.Sam2VideoConfig(**_sam2_parts(), **MEMORY, image_size=SIDE)
    return save(folder, T.Sam2VideoModel(config), _sam2_processor())


def florence2(folder: Path) -> Path:
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *_byte_symbols()]
    tokenizer = T.BartTokenizer(
        vocab={w: i for i, w in enumerate(symbols)}, merges=[], extra_special_tokens={"image_token": "<image>"}
    )
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)])
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "max_position_embeddings": 128}
    text |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 1}
    vision = {"depths": [1, 1, 1, 1], "embed_dim": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2]}
    vision |= {"num_groups": [1, 1, 2, 2], "window_size": 2, "projection_dim": 16}
    config = T.Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    images = T.CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    images.image_seq_length = 5
    processor = T.Florence2Processor(
        images, tokenizer, post_processor_config={"polygons": {"PATTERN": ""}, "pure_text": {}}
    )
    return save(folder, T.Florence2ForConditionalGeneration(config), processor)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "clipseg": clipseg,
    "sam3": sam3,
    "sam3_lite_text": sam3_lite_text,
    "grounding-dino": grounding_dino,
    "mm-grounding-dino": mm_grounding_dino,
    "owlv2": owlv2,
    "sam2": sam2,
    "florence2": florence2,
}


def build(family: str, folder: Path) -> Path:
    """The folder of a random model, the same each time."""
    torch.manual_seed(0)
    return FAMILIES[family](folder / family)
