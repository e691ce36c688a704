"""The official DeRIS' state dict: names and shapes of its tensors, as its modules have them (snapshot 2406687), at full
size and smaller. In a released file there may be `head.criterion.empty_weight` (2) besides."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Official:
    """swin: channels of stage 1, blocks of stage 3, side of the window.  The rest is of BEiT-3."""

    swin: tuple[int, int, int]
    width: int
    layers: int
    queries: int = 10
    side: int = 14
    vocabulary: int = 64010


B = Official(swin=(96, 18, 7), width=768, layers=12)
L = Official(swin=(128, 18, 12), width=1024, layers=24)
SMALL = Official(swin=(96, 6, 7), width=128, layers=2, queries=5, side=4, vocabulary=100)

# Lines of names and shapes: {a,b} and {0-3} stand for each of these, `linear` for weight and bias of that shape, `norm`
# for those of a vector.
COGNITION = """
vis_enc.beit3.text_embed.weight                                             V,W
vis_enc.beit3.vision_embed.{mask,cls}_token                                 1,1,W
vis_enc.beit3.vision_embed.proj                                             linear W,3,16,16
vis_enc.beit3.encoder.embed_positions.A.weight                              P,W
vis_enc.beit3.encoder.embed_positions.B.weight                              1024,W
vis_enc.beit3.encoder.layers.{0-N}.self_attn.{q,k,v,out}_proj.{A,B}         linear W,W
vis_enc.beit3.encoder.layers.{0-N}.self_attn.inner_attn_ln.{A,B}            norm W
vis_enc.beit3.encoder.layers.{0-N}.{self_attn,final}_layer_norm.{A,B}       norm W
vis_enc.beit3.encoder.layers.{0-N}.ffn.{A,B}.fc1                            linear 4W,W
vis_enc.beit3.encoder.layers.{0-N}.ffn.{A,B}.fc2                            linear W,4W
vis_enc.beit3.encoder.layers.{0-N}.ffn.{A,B}.ffn_layernorm                  norm 4W
vis_enc.beit3.encoder.layer_norm.{A,B}                                      norm W
{vis,text,perception}_embed                                                 linear 256,W
init_query.weight                                                           Q,W
roialigner.TextCorrelation.layers.{0-2}.attentions.{0,1}.attn               attention
roialigner.TextCorrelation.layers.{0-2}.ffns.0.layers.0.0                   linear 512,256
roialigner.TextCorrelation.layers.{0-2}.ffns.0.layers.1                     linear 256,512
roialigner.TextCorrelation.layers.{0-2}.norms.{0-2}                         norm 256
roialigner.TextCorrelation.post_norm_layer                                  norm 256
logit_embed                                                                 linear 2,256
nt_embed                                                                    linear 1,256
"""
PERCEPTION = """
pixel_decoder.input_proj.0.0                                                linear 256,8S,1,1
pixel_decoder.input_proj.1.0                                                linear 256,4S,1,1
pixel_decoder.input_proj.2.0                                                linear 256,2S,1,1
pixel_decoder.input_proj.{0-2}.1                                            norm 256
pixel_decoder.transformer.level_embed                                       3,256
pixel_decoder.transformer.encoder.layers.{0-5}.self_attn.sampling_offsets   linear 192,256
pixel_decoder.transformer.encoder.layers.{0-5}.self_attn.attention_weights  linear 96,256
pixel_decoder.transformer.encoder.layers.{0-5}.self_attn.{value,output}_proj  linear 256,256
pixel_decoder.transformer.encoder.layers.{0-5}.norm{1,2}                    norm 256
pixel_decoder.transformer.encoder.layers.{0-5}.linear1                      linear 1024,256
pixel_decoder.transformer.encoder.layers.{0-5}.linear2                      linear 256,1024
pixel_decoder.mask_features                                                 linear 256,256,1,1
pixel_decoder.adapter_1.0                                                   linear 256,S,1,1
pixel_decoder.layer_1.0                                                     linear 256,256,3,3
pixel_decoder.{adapter,layer}_1.1                                           norm 256
predictor.transformer_self_attention_layers.{0-2}.self_attn                 attention
predictor.transformer_cross_attention_layers.{0-2}.multihead_attn           attention
predictor.transformer_ffn_layers.{0-2}.linear1                              linear 2048,256
predictor.transformer_ffn_layers.{0-2}.linear2                              linear 256,2048
predictor.transformer_{self_attention,cross_attention,ffn}_layers.{0-2}.norm  norm 256
predictor.decoder_norm                                                      norm 256
predictor.query_embed.weight                                                Q,256
predictor.level_embed.weight                                                3,256
predictor.mask_embed.layers.{0-2}                                           linear 256,256
predictor.box_embed.layers.{0,1}                                            linear 256,256
predictor.box_embed.layers.2                                                linear 4,256
predictor.SEG_proj.layers.{0,1}                                             linear 256,256
predictor.{cls_embed,SEG_cls}                                               linear 2,256
predictor.query_SA.{0-3}.self_attn                                          attention
predictor.query_SA.{0-3}.norm                                               norm 256
predictor.Q2TCA.{0-3}.cross_attn.{q,k,v,proj}                               linear 256,256
predictor.Q2TCA.{0-3}.cross_attn.mapmlp.0                                   linear 256,1
predictor.Q2TCA.{0-3}.cross_attn.mapmlp.2.weight                            8,256
predictor.Q2TCA.{0-3}.self_attn                                             attention
predictor.Q2TCA.{0-3}.norm{1-3}                                             norm 256
predictor.Q2TCA.{0-3}.linear1                                               linear 2048,256
predictor.Q2TCA.{0-3}.linear2                                               linear 256,2048
predictor.refer_proj.{0-3}                                                  linear 256,512
predictor.channel_proj_conv                                                 linear 256,512,1,1
nt_embed                                                                    linear 1,256
perception_query_embed.weight                                               Q,256
"""


def layout(of: Official) -> dict[str, Shape]:
    """Every name with its shape."""
    sizes = {"V": of.vocabulary, "W": of.width, "P": of.side**2 + 3, "Q": of.queries, "S": of.swin[0], "": 1}
    found: dict[str, Shape] = {}
    for branch, lines in (("understanding_branch", COGNITION), ("perception_branch", PERCEPTION)):
        for line in lines.strip().splitlines():
            names, *kind, shape = line.replace("-N}", f"-{of.layers - 1}}}").split()
            for name in _names(f"{branch}.{names}"):
                found |= _tensors(name, kind, shape, sizes)
    return found | {f"perception_branch.hier_vision_encoder.{name}": shape for name, shape in _swin(*of.swin)}


def _names(pattern: str) -> Iterator[str]:
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [_choices(part) if k % 2 else [part] for k, part in enumerate(parts)]
    return map("".join, product(*choices))


def _choices(listed: str) -> list[str]:
    if span := re.fullmatch(r"(\d+)-(\d+)", listed):
        return [str(k) for k in range(int(span[1]), int(span[2]) + 1)]
    return listed.split(",")


def _tensors(name: str, kind: list[str], shape: str, sizes: dict[str, int]) -> dict[str, Shape]:
    if shape == "attention":
        sides = {"in_proj_weight": (768, 256), "in_proj_bias": (768,)}
        sides |= {"out_proj.weight": (256, 256), "out_proj.bias": (256,)}
        return {f"{name}.{part}": side for part, side in sides.items()}
    numbers = [re.fullmatch(r"(\d*)([A-Z]?)", part) for part in shape.split(",")]
    whole = tuple(int(n[1] or 1) * sizes[n[2]] for n in numbers if n is not None)
    if not kind:
        return {name: whole}
    return {f"{name}.weight": whole, f"{name}.bias": whole[:1]}


def _swin(width: int, depth: int, window: int) -> Iterator[tuple[str, Shape]]:
    def pair(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    yield from pair("patch_embed.proj", width, 3, 4, 4)
    yield from pair("patch_embed.norm", width)
    for stage, blocks in enumerate((2, 2, depth, 2)):
        c = width * 2**stage
        for block in (f"layers.{stage}.blocks.{k}" for k in range(blocks)):
            yield from pair(f"{block}.norm1", c)
            yield from pair(f"{block}.norm2", c)
            yield f"{block}.attn.relative_position_bias_table", ((2 * window - 1) ** 2, c // 32)
            yield f"{block}.attn.relative_position_index", (window**2, window**2)
            yield from pair(f"{block}.attn.qkv", 3 * c, c)
            yield from pair(f"{block}.attn.proj", c, c)
            yield from pair(f"{block}.mlp.fc1", 4 * c, c)
            yield from pair(f"{block}.mlp.fc2", c, 4 * c)
        if stage < 3:
            yield f"layers.{stage}.downsample.reduction.weight", (2 * c, 4 * c)
            yield from pair(f"layers.{stage}.downsample.norm", 4 * c)
        yield from pair(f"norm{stage}", c)


def numbers(of: Official) -> int:
    """How many parameters these are: all but the indices of windows."""
    return sum(math.prod(shape) for name, shape in layout(of).items() if not name.endswith("position_index"))
