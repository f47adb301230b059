"""MMDiT's weights in the layouts of diffusers' `SD3Transformer2DModel` and of Stability's single files (`authors`).

Single files may hold text encoders and a first stage as well; the network is what begins with "model.diffusion_model.".
"""

from collections.abc import Callable

from jaxgen.interop.dit import embedding
from jaxgen.interop.layout import Entry, beside, same, stacked, swapped
from jaxgen.interop.vit import affine, patches, separate
from jaxgen.nn.transformers.mmdit import MMDiT


def _blocks(network: MMDiT, block: Callable[[int, str, bool, bool], list[Entry]]) -> list[Entry]:
  """The entries of all blocks.

  Args:
    network: the network.
    block: (number, our path, whether the picture also attends to itself alone, whether it is the last) -> its entries.
  """
  last = network.depth - 1
  return [
    *stacked([block(i, "params/first/blocks", True, False) for i in range(network.dual)]),
    *stacked([block(i, "params/body/blocks", False, False) for i in range(network.dual, last)]),
    *block(last, "params/last", False, True),
  ]


def diffusers(network: MMDiT) -> list[Entry]:
  # Of two parts, scale and shift, diffusers has the scale first.
  two = lambda theirs, ours: [swapped(entry) for entry in affine(theirs, ours)]

  def norms(theirs: str, ours: str) -> list[Entry]:
    return [same(f"{theirs}{part}.weight", f"{ours}{part}/scale") for part in "qk" if network.qk_norm]

  def block(i: int, ours: str, dual: bool, last: bool) -> list[Entry]:
    theirs = f"transformer_blocks.{i}"
    attn, attention = f"{theirs}.attn", f"{ours}/attention"
    entries = [
      *affine(f"{theirs}.norm1.linear", f"{ours}/modulation/dense"),
      *(two if last else affine)(f"{theirs}.norm1_context.linear", f"{ours}/text_modulation/dense"),
      *separate(tuple(f"{attn}.to_{part}" for part in "qkv"), f"{attention}/picture_qkv"),
      *separate(tuple(f"{attn}.add_{part}_proj" for part in "qkv"), f"{attention}/text_qkv"),
      *norms(f"{attn}.norm_", f"{attention}/picture_norm_"),
      *norms(f"{attn}.norm_added_", f"{attention}/text_norm_"),
      *affine(f"{attn}.to_out.0", f"{attention}/picture_out"),
      *affine(f"{theirs}.ff.net.0.proj", f"{ours}/mlp/in"),
      *affine(f"{theirs}.ff.net.2", f"{ours}/mlp/out"),
    ]
    if dual:
      entries += [
        *separate(tuple(f"{theirs}.attn2.to_{part}" for part in "qkv"), f"{ours}/dual/qkv"),
        *norms(f"{theirs}.attn2.norm_", f"{ours}/dual/norm_"),
        *affine(f"{theirs}.attn2.to_out.0", f"{ours}/dual/out"),
      ]
    if not last:
      entries += [
        *affine(f"{attn}.to_add_out", f"{attention}/text_out"),
        *affine(f"{theirs}.ff_context.net.0.proj", f"{ours}/text_mlp/in"),
        *affine(f"{theirs}.ff_context.net.2", f"{ours}/text_mlp/out"),
      ]
    return entries

  time, pooled = "time_text_embed.timestep_embedder.linear", "time_text_embed.text_embedder.linear"
  return [
    *patches("pos_embed.proj"),
    beside("pos_embed.pos_embed"),
    *embedding(f"{time}_1", f"{time}_2", "params/time"),
    *embedding(f"{pooled}_1", f"{pooled}_2", "params/pooled"),
    *affine("context_embedder", "params/text"),
    *_blocks(network, block),
    *two("norm_out.linear", "params/readout/modulation/dense"),
    *affine("proj_out", "params/readout/dense"),
  ]


def authors(network: MMDiT) -> list[Entry]:
  model = "model.diffusion_model"

  def row(theirs: str, name: str, ours: str, last: bool) -> list[Entry]:
    """The entries of the picture's or the text's half of a block.

    Args:
      name: "picture" or "text".
      last: the half has only keys and values.
    """
    before = "" if name == "picture" else "text_"
    entries = [
      *affine(f"{theirs}.adaLN_modulation.1", f"{ours}/{before}modulation/dense"),
      *affine(f"{theirs}.attn.qkv", f"{ours}/attention/{name}_qkv"),
    ]
    if network.qk_norm:
      entries += [
        same(f"{theirs}.attn.ln_{part}.weight", f"{ours}/attention/{name}_norm_{part}/scale") for part in "qk"
      ]
    if not last:
      entries += [
        *affine(f"{theirs}.attn.proj", f"{ours}/attention/{name}_out"),
        *affine(f"{theirs}.mlp.fc1", f"{ours}/{before}mlp/in"),
        *affine(f"{theirs}.mlp.fc2", f"{ours}/{before}mlp/out"),
      ]
    return entries

  def block(i: int, ours: str, dual: bool, last: bool) -> list[Entry]:
    theirs = f"{model}.joint_blocks.{i}"
    entries = [
      *row(f"{theirs}.x_block", "picture", ours, False),
      *row(f"{theirs}.context_block", "text", ours, last),
    ]
    if dual:
      entries += [
        *affine(f"{theirs}.x_block.attn2.qkv", f"{ours}/dual/qkv"),
        *affine(f"{theirs}.x_block.attn2.proj", f"{ours}/dual/out"),
      ]
      if network.qk_norm:
        entries += [same(f"{theirs}.x_block.attn2.ln_{part}.weight", f"{ours}/dual/norm_{part}/scale") for part in "qk"]
    return entries

  return [
    *patches(f"{model}.x_embedder.proj"),
    beside(f"{model}.pos_embed"),
    *embedding(f"{model}.t_embedder.mlp.0", f"{model}.t_embedder.mlp.2", "params/time"),
    *embedding(f"{model}.y_embedder.mlp.0", f"{model}.y_embedder.mlp.2", "params/pooled"),
    *affine(f"{model}.context_embedder", "params/text"),
    *_blocks(network, block),
    *affine(f"{model}.final_layer.adaLN_modulation.1", "params/readout/modulation/dense"),
    *affine(f"{model}.final_layer.linear", "params/readout/dense"),
  ]
