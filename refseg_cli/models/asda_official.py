"""Checkpoints of the official ASDA code: which tensor is which of models/asda.py's. None was published; these are files
that the official code trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from refseg_cli.layers.clip import block_rules, vit_rules
from refseg_cli.layers.keymap import Rule, layer_rules


def conv_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The official convolution block: `conv` and `bn`; ours numbers them."""
    return (
        Rule(rf"{theirs}\.conv\.(?P<rest>.*)", rf"{ours}.0.\g<rest>"),
        Rule(rf"{theirs}\.bn\.(?P<rest>.*)", rf"{ours}.1.\g<rest>"),
    )


_TEXT, _ABSENT = "reader.encoder", "the graph does not read it"
_VLT = "up_proj_cat_proj_1|pool_proj_cat_proj_2|proj_cat|up_proj_cat_2|proj_0"

OFFICIAL_KEYS: tuple[Rule, ...] = (
    Rule(r"visu_resblocks\..*", None, why="the same tensors as visumodel.transformer.resblocks"),
    Rule(r"visumodel\.(positional_embedding|proj|ln_post\..*)", None, why=f"{_ABSENT}: CLIP's at 224 px"),
    Rule(rf"({_VLT}|norm[12])\..*", None, why=f"{_ABSENT}: left over from VLT's fusion"),
    Rule(r"fusion\.lang_attn\..*|fpn\.output_convs\.[01]\..*", None, why=_ABSENT),
    Rule(r"positional_embedding", "vision.net.pos_embed"),
    *vit_rules("visumodel", "vision.net"),
    Rule(r"textmodel_token_embedding\.weight", f"{_TEXT}.embedding.weight"),
    Rule(r"textmodel_pos_embed", f"{_TEXT}.positions", convert=lambda t: t[0]),
    Rule(r"textmodel_ln_final\.(.*)", rf"{_TEXT}.norm.\1"),
    *block_rules(r"textmodel\.resblocks\.(\d+)", rf"{_TEXT}.blocks.\1"),
    Rule(r"vis_select\.weight", "selection.project.weight"),
    Rule(r"feature_selector_l\.weight", "selection.scorers.0.0.weight"),
    Rule(r"feature_selector_m\.weight", "selection.scorers.1.0.weight"),
    Rule(r"feature_selector_[lm]\.bias", None, why="the same for every layer, so that it selects none"),
    *conv_rules(r"fusion\.mapping_visu", "fusion.vision"),
    Rule(r"fusion\.lang_proj\.(.*)", r"fusion.sentence.\1"),
    Rule(r"fusion\.fusion\.(.*)", r"fusion.norm.\1"),
    *conv_rules(r"fpn\.stages\.0\.([01])", r"aggregate.high.\1"),
    *conv_rules(r"fpn\.stages\.1\.([12])", r"aggregate.mid.\1"),
    *conv_rules(r"fpn\.stages\.2\.([45])", r"aggregate.low.\1"),
    Rule(r"fpn\.stages\.1\.0\.(.*)", r"aggregate.mid.0.\1"),
    Rule(r"fpn\.stages\.2\.([013])\.(.*)", r"aggregate.low.\1.\2"),
    *conv_rules(r"fpn\.lateral_convs\.([012])", r"aggregate.lateral.\1"),
    *conv_rules(r"fpn\.output_convs\.2", "aggregate.out"),
    *layer_rules(r"encoder\.layers\.(\d+)", r"aligner.visual.layers.\1"),
    Rule(r"encoder\.norm\.(.*)", r"aligner.visual.norm.\1"),
    *(rule for n in range(5) for rule in conv_rules(rf"mask_decoder\.proj{n + 1}", f"aligner.masks.0.convs.{n}")),
    Rule(r"mask_decoder\.proj\.(.*)", r"aligner.masks.0.out.\1"),
    Rule(r"fc_2\.weight", "aligner.words.project.weight"),
    Rule(r"lang_tf_enc\.dense_([qkv])\.(.*)", r"aligner.words.\1.\2"),
    *layer_rules("lang_tf_enc", "aligner.words"),
    *conv_rules("proj1", "aligner.coefficients.map.0"),
    *conv_rules("proj2", "aligner.coefficients.map.1"),
    Rule(r"proj3\.(.*)", r"aligner.coefficients.map.2.\1"),
    Rule(r"projout\.weight", "aligner.coefficients.gather.weight"),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights: tokens a phrase, layers of attention, masks."""
    layers = {key.split(".")[2] for key in weights if key.startswith("encoder.layers.")}
    return {
        "text_positions": weights["textmodel_pos_embed"].shape[1],
        "attention_layers": len(layers),
        "masks": len(weights["proj3.weight"]),
    }
