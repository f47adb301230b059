"""Weights of the U-Net with cross-attention, as diffusers' `UNet2DConditionModel` has them and the authors' files do.

In single files, of Stable Diffusion 1, 2 and XL, the network's tensors begin with "model.diffusion_model.". The dense
layers around a Transformer are 1x1 convolutions in some files (SD 1), which `linear` states; reading takes both.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.interop.layout import Entry, conv, dense, same, shaped, stacked
from jaxgen.interop.ldm import DIFFUSERS, convolution, residual
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.unets.controlnet import ControlNet
from jaxgen.nn.unets.cross import CrossUNet, _CrossUNet

OURS = DIFFUSERS | dict(time="time_emb_proj")
AUTHORS = dict(
  norm_1="in_layers.0", conv_1="in_layers.2", time="emb_layers.1", norm_2="out_layers.0", conv_2="out_layers.3",
  shortcut="skip_connection",
)  # fmt: skip


def flat(theirs: str, ours: str, width: int, linear: bool) -> list[Entry]:
  """A dense layer that is a 1x1 convolution there, unless `linear`; it is read in either form."""
  kernel = dense(f"{theirs}.weight", f"{ours}/kernel")
  if not linear:
    kernel = conv(f"{theirs}.weight", f"{ours}/kernel")
    kernel = shaped(kernel, (width, width, 1, 1), (width, width))
    kernel = kernel._replace(split=lambda x: [np.ascontiguousarray(x.T).reshape(width, width, 1, 1)])

  def fit(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(shape) if array.shape in ((width, width), (width, width, 1, 1)) else array

  return [kernel._replace(fit=fit), same(f"{theirs}.bias", f"{ours}/bias")]


def transformer(theirs: str, ours: str, depth: int, width: int, linear: bool) -> list[Entry]:
  """A `SpatialTransformer`, whose names are the same in all files."""

  def block(i: int) -> list[Entry]:
    one, mine = f"{theirs}.transformer_blocks.{i}", f"{ours}/body/blocks"
    attention = lambda name, parts: tuple(f"{one}.{name}.to_{part}" for part in parts)
    return [
      *norm(f"{one}.norm1", f"{mine}/norm_attention"),
      *separate(attention("attn1", "qkv"), f"{mine}/attention/qkv", bias=False),
      *affine(f"{one}.attn1.to_out.0", f"{mine}/attention/out"),
      *norm(f"{one}.norm2", f"{mine}/norm_context"),
      dense(f"{one}.attn2.to_q.weight", f"{mine}/context/q/kernel"),
      *separate(attention("attn2", "kv"), f"{mine}/context/kv", bias=False),
      *affine(f"{one}.attn2.to_out.0", f"{mine}/context/out"),
      *norm(f"{one}.norm3", f"{mine}/norm_mlp"),
      *affine(f"{one}.ff.net.0.proj", f"{mine}/mlp/in"),
      *affine(f"{one}.ff.net.2", f"{mine}/mlp/out"),
    ]

  return [
    *norm(f"{theirs}.norm", f"{ours}/norm"),
    *flat(f"{theirs}.proj_in", f"{ours}/in", width, linear),
    *stacked([block(i) for i in range(depth)]),
    *flat(f"{theirs}.proj_out", f"{ours}/out", width, linear),
  ]


Place = Callable[[str, int | None, int], tuple[str, str]]


def _blocks(
  network: _CrossUNet, place: Place, sample: Callable[[str, int], str], names: dict[str, str], linear: bool, up: bool
) -> list[Entry]:
  """All blocks' entries.

  Args:
    place: (way, level or None in the middle, number) -> names of the residual block and of the Transformer after it.
    sample: (way, level) -> the name of the convolution that halves or doubles.
    names: of the parts of a residual block, by ours.
    up: there is a way up.
  """
  entries, levels = [], len(network.multipliers)

  def block(way: str, level: int | None, number: int, ours: str, depth: int, shortcut: bool) -> None:
    first, second = place(way, level, number)
    entries.extend(residual(first, f"params/{ours}", names, shortcut))
    if depth:
      width = network.channels * network.multipliers[-1 if level is None else level]
      entries.extend(transformer(second, f"params/{ours}_attention", depth, width, linear))

  before = 1  # the first convolution's width is that of a multiplier of 1
  for level, multiplier in enumerate(network.multipliers):
    for number in range(network.blocks):
      shortcut = multiplier != before
      block("down", level, number, f"down_{level}_{number}", network.depths[level], shortcut)
      before = multiplier
    if level < levels - 1:
      entries.extend(convolution(sample("down", level), f"params/down_{level}_sample"))
  block("down", None, 0, "middle_0", network.middle, False)
  block("down", None, 1, "middle_1", 0, False)
  for level in reversed(range(levels)) if up else ():
    for number in range(network.blocks + 1):
      block("up", level, number, f"up_{level}_{number}", network.depths[level], True)
    if level:
      entries.extend(convolution(sample("up", level), f"params/up_{level}_sample"))
  return entries


def _diffusers(network: _CrossUNet, linear: bool, up: bool) -> list[Entry]:
  """The entries that diffusers' U-Net and ControlNet share."""
  levels = len(network.multipliers)
  at = lambda way, level: level if way == "down" else levels - 1 - level  # it counts up blocks from the lowest

  def place(way: str, level: int | None, number: int) -> tuple[str, str]:
    theirs = "mid_block" if level is None else f"{way}_blocks.{at(way, level)}"
    return f"{theirs}.resnets.{number}", f"{theirs}.attentions.{number}"

  entries = _blocks(
    network, place, lambda way, level: f"{way}_blocks.{at(way, level)}.{way}samplers.0.conv", OURS, linear, up
  )
  for theirs, ours in (("time_embedding", "time"), ("add_embedding", "added")):
    if ours == "time" or network.micro is not None:
      entries += [
        e for i in (1, 2) for e in affine(f"{theirs}.linear_{i}", f"params/{ours}_{i}")
      ]  # fmt: skip
  return [*convolution("conv_in", "params/in"), *entries]


def diffusers(network: CrossUNet, linear: bool = False) -> list[Entry]:
  """The layout of `UNet2DConditionModel`.

  Args:
    network: the network.
    linear: "use_linear_projection" of diffusers' config, as in SD 2 and XL: the shape in which weights are written.
  """
  entries = _diffusers(network, linear, up=True)
  return [*entries, *norm("conv_norm_out", "params/out_norm"), *convolution("conv_out", "params/out")]


def control(network: ControlNet, linear: bool = False) -> list[Entry]:
  """The layout of `ControlNetModel`.

  Args:
    network: the network.
    linear: as in `diffusers`.
  """
  hint = "controlnet_cond_embedding"
  ends = [*convolution(f"{hint}.conv_in", "params/hint_in"), *convolution(f"{hint}.conv_out", "params/hint_out")]
  between = [e for i in range(2 * len(network.hint) - 2) for e in convolution(f"{hint}.blocks.{i}", f"params/hint_{i}")]
  zeros = [e for i in range(network.maps) for e in convolution(f"controlnet_down_blocks.{i}", f"params/zero_{i}")]
  middle = convolution("controlnet_mid_block", "params/zero_middle")
  return [*_diffusers(network, linear, up=False), *ends, *between, *zeros, *middle]


def authors(network: CrossUNet, linear: bool = False, prefix: str = "model.diffusion_model.") -> list[Entry]:
  """The layout of single files.

  Args:
    network: the network.
    linear: as in `diffusers`.
    prefix: of the names.
  """
  levels, each = len(network.multipliers), network.blocks + 1

  def place(way: str, level: int | None, number: int) -> tuple[str, str]:
    if level is None:
      return f"{prefix}middle_block.{2 * number}", f"{prefix}middle_block.1"
    where = 1 + level * each + number if way == "down" else (levels - 1 - level) * each + number
    theirs = f"{prefix}{'input' if way == 'down' else 'output'}_blocks.{where}"
    return f"{theirs}.0", f"{theirs}.1"

  def sample(way: str, level: int) -> str:
    if way == "down":
      return f"{prefix}input_blocks.{(level + 1) * each}.0.op"
    return f"{prefix}output_blocks.{(levels - level) * each - 1}.{2 if network.depths[level] else 1}.conv"

  two = lambda theirs, ours: [e for i in (1, 2) for e in affine(f"{prefix}{theirs}.{2 * i - 2}", f"params/{ours}_{i}")]
  return [
    *convolution(f"{prefix}input_blocks.0.0", "params/in"),
    *two("time_embed", "time"),
    *(two("label_emb.0", "added") if network.micro is not None else ()),
    *_blocks(network, place, sample, AUTHORS, linear, up=True),
    *norm(f"{prefix}out.0", "params/out_norm"),
    *convolution(f"{prefix}out.2", "params/out"),
  ]


# Values of diffusers' config options for which this network has no choice.
_FIXED = {
  "act_fn": ("silu",), "norm_eps": (1e-5,), "downsample_padding": (1,), "mid_block_type": ("UNetMidBlock2DCrossAttn",),
  "flip_sin_to_cos": (True,), "freq_shift": (0,), "center_input_sample": (False,), "mid_block_scale_factor": (1,),
  "dual_cross_attention": (False,), "only_cross_attention": (False,), "resnet_time_scale_shift": ("default",),
  "class_embed_type": (None,), "num_class_embeds": (None,), "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,),
  "time_embedding_type": ("positional",), "time_embedding_dim": (None,), "time_embedding_act_fn": (None,),
  "timestep_post_act": (None,), "time_cond_proj_dim": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
  "class_embeddings_concat": (False,), "cross_attention_norm": (None,), "attention_type": ("default",),
  "dropout": (0, 0.0),
  "addition_embed_type": (None, "text_time"), "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1, 1.0),
  "reverse_transformer_layers_per_block": (None,), "mid_block_only_cross_attention": (None,),
  "addition_embed_type_num_heads": (64,),
}  # fmt: skip


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
  """The attributes of a U-Net, or of a ControlNet, by the config.json that diffusers writes.

  diffusers' "attention_head_dim" means the number of heads, where "num_attention_heads" is not given.

  Raises:
    UserError: the config describes a network that `CrossUNet` does not support; the entry is named.
  """
  for name, allowed in _FIXED.items():
    if name in config and config[name] not in allowed:
      raise UserError(
        f"the config has {name} = {config[name]!r}, and this U-Net knows {' and '.join(map(repr, allowed))} alone: its "
        "weights are of another network"
      )
  levels = len(config["block_out_channels"])
  known = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
  if unknown := [kind for kind in config["down_block_types"] if kind not in known]:
    raise UserError(f"the config has blocks of the type {unknown[0]}, and this U-Net knows {' and '.join(known)} alone")
  attends = [known[kind] for kind in config["down_block_types"]]
  ups = config.get("up_block_types")
  if ups is not None and list(ups) != [f"{'CrossAttn' * a}UpBlock2D" for a in reversed(attends)]:
    raise UserError(f"the config's levels attend on the way down and not on the way up, or otherwise: {tuple(ups)}")
  blocks = config["layers_per_block"]
  if not isinstance(blocks, int):
    raise UserError(f"the config has {blocks} blocks in its levels, and this U-Net has as many in each")
  each = lambda value: [value] * levels if isinstance(value, int) else list(value)
  depths = each(config.get("transformer_layers_per_block", 1))
  channels, *_ = widths = config["block_out_channels"]
  if uneven := [width for width in widths if width % channels]:
    raise UserError(f"the config has a level of {uneven[0]} channels, which the first one's {channels} do not divide")
  return dict(
    channels=channels,
    multipliers=tuple(width // channels for width in widths),
    blocks=blocks,
    depths=tuple(depth * attends for depth, attends in zip(depths, attends, strict=True)),
    middle=depths[-1],
    heads=tuple(each(config.get("num_attention_heads") or config["attention_head_dim"])),
    groups=config["norm_num_groups"],
    micro=config.get("addition_time_embed_dim") if config.get("addition_embed_type") == "text_time" else None,
  )


def unet(config: Mapping[str, Any], **options: Any) -> tuple[CrossUNet, list[Entry]]:
  """The network, and its layout, of a config.json of diffusers' `UNet2DConditionModel`.

  Args:
    config: what the file says.
    **options: dtypes and `remat` of the network.

  Raises:
    UserError: the config describes a network that `CrossUNet` does not support.
  """
  network = CrossUNet(**sizes(config), out_channels=config["out_channels"], **options)
  return network, diffusers(network, bool(config.get("use_linear_projection", False)))
