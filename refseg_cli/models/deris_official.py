"""DeRIS' official checkpoints: their tensors' names and ours. The model is in models/deris.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from refseg_cli.errors import RefsegError
from refseg_cli.layers.keymap import Rule, attend_and_norm_rules, attention_rules, feed_forward_rules
from refseg_cli.layers.pixel_decoder import pixel_decoder_rules
from refseg_cli.layers.pwam import official_stages, official_swin

COGNITION, PERCEPTION = r"understanding_branch", r"perception_branch"
BEIT = rf"{COGNITION}\.vis_enc\.beit3"
PREDICTOR = rf"{PERCEPTION}\.predictor"
SWIN = "perception_branch.hier_vision_encoder."
HEAD_WIDTH = 64  # of BEiT-3's attention
NO_BOXES = "boxes weigh nothing in the loss, and no mask asks for them"


def _drawn_apart(weight: Tensor) -> Tensor:
    """A 1x1 convolution's weight over two inputs side by side -> the weights over each, one below the other."""
    return weight.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1)


def _behind_the_unread(table: Tensor) -> Tensor:
    """Positions count from row 2, as fairseq's do."""
    return table[2:]


def _last_third(fused: Tensor) -> Tensor:
    """The values' share of an attention's fused projection."""
    return fused.chunk(3)[2]


def _flat(token: Tensor) -> Tensor:
    return token.flatten()


def _beit_rules() -> tuple[Rule, ...]:
    layer, ours = rf"{BEIT}\.encoder\.layers\.(\d+)", r"cognition.encoder.layers.\1"
    ways = {"A": "picture", "B": "words"}
    attention = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out", "inner_attn_ln": "inner_norm"}
    return (
        Rule(rf"{BEIT}\.vision_embed\.mask_token", None, why="only BEiT-3's own training masks patches"),
        Rule(rf"{BEIT}\.vision_embed\.cls_token", "cognition.encoder.cls", convert=_flat),
        Rule(rf"{BEIT}\.vision_embed\.proj\.(\w+)", r"cognition.patches.\1"),
        Rule(rf"{BEIT}\.text_embed\.weight", "cognition.words.weight"),
        Rule(
            rf"{BEIT}\.encoder\.embed_positions\.A\.weight",
            "cognition.encoder.picture_positions",
            convert=_behind_the_unread,
        ),
        Rule(
            rf"{BEIT}\.encoder\.embed_positions\.B\.weight",
            "cognition.encoder.word_positions",
            convert=_behind_the_unread,
        ),
        Rule(rf"{BEIT}\.encoder\.layer_norm\.A\.(\w+)", r"cognition.encoder.picture_norm.\1"),
        Rule(rf"{BEIT}\.encoder\.layer_norm\.B\.(\w+)", r"cognition.encoder.word_norm.\1"),
        *(
            Rule(rf"{layer}\.self_attn\.{theirs}\.{way}\.(\w+)", rf"{ours}.{our_way}.{name}.\2")
            for way, our_way in ways.items()
            for theirs, name in attention.items()
        ),
        *(
            Rule(rf"{layer}\.{theirs}\.{way}\.(\w+)", rf"{ours}.{our_way}.{name}.\2")
            for way, our_way in ways.items()
            for theirs, name in {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}.items()
        ),
        *(
            Rule(rf"{layer}\.ffn\.{way}\.{theirs}\.(\w+)", rf"{ours}.{our_way}.{name}.\2")
            for way, our_way in ways.items()
            for theirs, name in {"fc1": "up", "fc2": "down", "ffn_layernorm": "mlp_norm"}.items()
        ),
    )


def _predictor_rules() -> tuple[Rule, ...]:
    layer, told = r"decoder.layers.\1", rf"{PREDICTOR}\.Q2TCA\.(\d+)"
    loop, alone = r"decoder.loopbacks.\1", rf"{PREDICTOR}\.query_SA\.(\d+)"
    cross = {"q": "q", "k": "k", "v": "v", "proj": "out"}
    return (
        Rule(rf"{PREDICTOR}\.box_embed\..*", None, why=NO_BOXES),
        Rule(rf"{PREDICTOR}\.cls_embed\..*", None, why="the classes of the perception alone have no loss"),
        Rule(rf"{PREDICTOR}\.SEG_proj\..*", None, why="nothing calls it"),
        Rule(rf"{told}\.cross_attn\.mapmlp\..*", None, why="its attention masks are never given"),
        *attend_and_norm_rules(
            rf"{PREDICTOR}\.transformer_cross_attention_layers\.(\d+)", "multihead_attn", f"{layer}.image"
        ),
        *attend_and_norm_rules(
            rf"{PREDICTOR}\.transformer_self_attention_layers\.(\d+)", "self_attn", f"{layer}.region"
        ),
        *feed_forward_rules(rf"{PREDICTOR}\.transformer_ffn_layers\.(\d+)", layer),
        Rule(rf"{PREDICTOR}\.transformer_ffn_layers\.(\d+)\.norm\.(.*)", rf"{layer}.norm.\2"),
        Rule(rf"{PREDICTOR}\.decoder_norm\.(.*)", r"decoder.norm.\1"),
        Rule(rf"{PREDICTOR}\.query_embed\.weight", "decoder.places"),
        Rule(rf"{PREDICTOR}\.level_embed\.weight", "decoder.level"),
        *(Rule(rf"{PREDICTOR}\.mask_embed\.layers\.{k}\.(.*)", rf"decoder.filter.{2 * k}.\1") for k in range(3)),
        Rule(rf"{alone}\.self_attn\.in_proj_(\w+)", rf"{loop}.queries.value.\2", convert=_last_third),
        Rule(rf"{alone}\.self_attn\.out_proj\.(\w+)", rf"{loop}.queries.out.\2"),
        Rule(rf"{alone}\.norm\.(\w+)", rf"{loop}.queries.norm.\2"),
        *attention_rules(rf"{told}\.self_attn", f"{loop}.again.attention"),
        *(Rule(rf"{told}\.cross_attn\.{a}\.(\w+)", rf"{loop}.words.attention.{b}.\2") for a, b in cross.items()),
        *feed_forward_rules(told, loop),
        *(
            Rule(rf"{told}\.{a}\.(\w+)", rf"{loop}.{b}.\2")
            for a, b in {"norm2": "again.norm", "norm1": "words.norm", "norm3": "norm"}.items()  # as they are applied
        ),
        Rule(rf"{PREDICTOR}\.SEG_cls\.(.*)", r"decoder.refers.\1"),
        Rule(rf"{PREDICTOR}\.refer_proj\.(\d+)\.(.*)", rf"{loop}.join.\2"),
        Rule(
            rf"{PREDICTOR}\.channel_proj_conv\.weight", ("perceived.weight", "understood.weight"), convert=_drawn_apart
        ),
        Rule(rf"{PREDICTOR}\.channel_proj_conv\.bias", "perceived.bias"),
    )


def _existence_rules() -> tuple[Rule, ...]:
    theirs, layer = rf"{COGNITION}\.roialigner\.TextCorrelation", r"existence.layers.\1"
    parts = {"0": "self_attention", "1": "cross_attention"}
    return (
        *(
            rule
            for k, part in parts.items()
            for rule in attention_rules(rf"{theirs}\.layers\.(\d+)\.attentions\.{k}\.attn", f"{layer}.{part}")
        ),
        Rule(rf"{theirs}\.layers\.(\d+)\.ffns\.0\.layers\.0\.0\.(\w+)", rf"{layer}.mlp.0.\2"),
        Rule(rf"{theirs}\.layers\.(\d+)\.ffns\.0\.layers\.1\.(\w+)", rf"{layer}.mlp.3.\2"),
        *(Rule(rf"{theirs}\.layers\.(\d+)\.norms\.{k}\.(\w+)", rf"{layer}.norm{k + 1}.\2") for k in range(3)),
        Rule(rf"{theirs}\.post_norm_layer\.(\w+)", r"existence.norm.\1"),
        Rule(rf"{COGNITION}\.nt_embed\.(\w+)", r"existence.out.\1"),
    )


OFFICIAL_KEYS: tuple[Rule, ...] = (
    Rule(r"head\.criterion\.empty_weight", None, why="the loss's weights of the classes"),
    Rule(rf"{COGNITION}\.logit_embed\..*", None, why="nothing reads what it gives"),
    Rule(rf"{PERCEPTION}\.(nt_embed|perception_query_embed)\..*", None, why="nothing calls it"),
    *_beit_rules(),
    Rule(rf"{COGNITION}\.vis_embed\.(\w+)", r"seen.\1"),
    Rule(rf"{COGNITION}\.text_embed\.(\w+)", r"said.\1"),
    Rule(rf"{COGNITION}\.perception_embed\.(\w+)", r"queries.\1"),
    Rule(rf"{COGNITION}\.init_query\.weight", "query_table"),
    *_existence_rules(),
    *official_stages("vision.backbone", prefix=rf"{PERCEPTION}\.hier_vision_encoder\."),
    Rule(rf"{PERCEPTION}\.hier_vision_encoder\.norm(\d)\.(\w+)", r"vision.norms.\1.\2"),
    *pixel_decoder_rules(rf"{PERCEPTION}\.pixel_decoder"),
    Rule(rf"{PERCEPTION}\.pixel_decoder\.adapter_1\.([01])\.(\w+)", r"pixel_decoder.fine.\1.\2"),
    Rule(rf"{PERCEPTION}\.pixel_decoder\.layer_1\.([01])\.(\w+)", r"pixel_decoder.smooth.\1.\2"),
    *_predictor_rules(),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights. Heads cannot be told from them; BEiT-3's are 64 wide."""
    beit = "understanding_branch.vis_enc.beit3"
    table = weights.get(f"{beit}.text_embed.weight")
    if table is None:
        raise RefsegError(f"the file has no BEiT-3 under `{beit}`")
    vocabulary, width = table.shape
    places = weights[f"{beit}.encoder.embed_positions.A.weight"].shape[0] - 3  # two unread, and [CLS]
    side = round(places**0.5)
    layers = {key.split(".")[5] for key in weights if key.startswith(f"{beit}.encoder.layers.")}
    stages = {key.split(".")[3] for key in weights if key.startswith("perception_branch.predictor.refer_proj.")}
    return {
        "backbone": official_swin(weights, prefix=SWIN),
        "vocabulary": vocabulary,
        "places": weights[f"{beit}.encoder.embed_positions.B.weight"].shape[0] - 2,
        "grid": [side, places // side],
        "patch": weights[f"{beit}.vision_embed.proj.weight"].shape[-1],
        "width": width,
        "width_heads": width // HEAD_WIDTH,
        "width_hidden": weights[f"{beit}.encoder.layers.0.ffn.A.fc1.weight"].shape[0],
        "width_layers": len(layers),
        "queries": weights["understanding_branch.init_query.weight"].shape[0],
        "layers": len(stages) - 1,
    }
