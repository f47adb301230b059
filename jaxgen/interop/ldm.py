"""First stages' weights in the layouts of diffusers' `AutoencoderKL` and `VQModel`, and of the authors' files.

A VQGAN's codebook is "codebook/embedding" [codes, latent] beside the network's parameters. `authors` is the layout of
LDM's and Stable Diffusion's files; in single files the first stage's tensors begin with "first_stage_model.".
"""

from collections.abc import Callable

from jaxgen.interop.layout import Entry, conv, dense, same
from jaxgen.interop.vit import affine, norm
from jaxgen.nn.autoencoders.ldm import KLAutoencoder, VQAutoencoder

First = KLAutoencoder | VQAutoencoder


def convolution(theirs: str, ours: str) -> list[Entry]:
  return [conv(f"{theirs}.weight", f"{ours}/kernel"), same(f"{theirs}.bias", f"{ours}/bias")]


def residual(theirs: str, ours: str, names: dict[str, str], shortcut: bool) -> list[Entry]:
  """A residual block.

  Args:
    theirs, ours: names of the block.
    names: their layers', by ours: "norm_1", "conv_1", "norm_2", "conv_2" and "shortcut", and "time" where it has one.
    shortcut: whether the width changes.
  """
  entries = [
    *norm(f"{theirs}.{names['norm_1']}", f"{ours}/norm_1"),
    *convolution(f"{theirs}.{names['conv_1']}", f"{ours}/conv_1"),
    *norm(f"{theirs}.{names['norm_2']}", f"{ours}/norm_2"),
    *convolution(f"{theirs}.{names['conv_2']}", f"{ours}/conv_2"),
  ]
  entries += affine(f"{theirs}.{names['time']}", f"{ours}/time") if "time" in names else []
  return [*entries, *convolution(f"{theirs}.{names['shortcut']}", f"{ours}/shortcut")] if shortcut else entries


def _halves(network: First, block: Callable[..., list[Entry]], sample: Callable[..., str]) -> list[Entry]:
  """Both halves' blocks.

  Args:
    network: the first stage.
    block: (way, level or None in the middle, number, ours, whether the width changes, whether it attends) -> entries.
    sample: (way, level) -> the name of the convolution that halves or doubles.
  """
  entries, levels, width = [], len(network.multipliers), network.channels
  multipliers = list(network.multipliers)
  for way, order in (("down", range(levels)), ("up", reversed(range(levels)))):
    half = f"params/{'encoder' if way == 'down' else 'decoder'}"
    for number in (0, 1):
      attends = number == 0 and network.middle_attention
      entries += block(way, None, number, f"{half}/middle_{number}", False, attends)
    before = width if way == "down" else width * multipliers[-1]
    for level in order:
      for number in range(network.blocks + (way == "up")):
        after = width * multipliers[level]
        ours = f"{half}/{way}_{level}_{number}"
        entries += block(way, level, number, ours, before != after, level in network.attention)
        before = after
      if level < levels - 1 if way == "down" else level:
        entries += convolution(sample(way, level), f"{half}/{way}_{level}_sample")
  return entries


def _ends(network: First, prefix: str, norm_out: str) -> list[Entry]:
  entries = []
  for half in ("encoder", "decoder"):
    entries += convolution(f"{prefix}{half}.conv_in", f"params/{half}/in")
    entries += norm(f"{prefix}{half}.{norm_out}", f"params/{half}/out_norm")
    entries += convolution(f"{prefix}{half}.conv_out", f"params/{half}/out")
  if network.quant:
    entries += convolution(f"{prefix}quant_conv", "params/to_latent")
    entries += convolution(f"{prefix}post_quant_conv", "params/of_latent")
  if isinstance(network, VQAutoencoder):
    entries.append(same(f"{prefix}quantize.embedding.weight", "codebook/embedding"))
  return entries


DIFFUSERS = dict(norm_1="norm1", conv_1="conv1", norm_2="norm2", conv_2="conv2", shortcut="conv_shortcut")
AUTHORS = DIFFUSERS | dict(shortcut="nin_shortcut")


def diffusers(network: First) -> list[Entry]:
  levels = len(network.multipliers)
  place = lambda way, level: level if way == "down" else levels - 1 - level  # it counts up blocks from the lowest

  def block(way: str, level: int | None, number: int, ours: str, shortcut: bool, attends: bool) -> list[Entry]:
    half = "encoder" if way == "down" else "decoder"
    theirs = f"{half}.mid_block" if level is None else f"{half}.{way}_blocks.{place(way, level)}"
    entries = residual(f"{theirs}.resnets.{number}", ours, DIFFUSERS, shortcut)
    if attends:
      attention, mine = f"{theirs}.attentions.{number}", f"{ours}_attention"
      entries += norm(f"{attention}.group_norm", f"{mine}/norm")
      for theirs_part, part in dict(to_q="query", to_k="key", to_v="value").items():
        entries += affine(f"{attention}.{theirs_part}", f"{mine}/{part}")
      entries += affine(f"{attention}.to_out.0", f"{mine}/out")
    return entries

  def sample(way: str, level: int) -> str:
    half = "encoder" if way == "down" else "decoder"
    return f"{half}.{way}_blocks.{place(way, level)}.{way}samplers.0.conv"

  return [*_ends(network, "", "conv_norm_out"), *_halves(network, block, sample)]


def authors(network: First, prefix: str = "first_stage_model.") -> list[Entry]:
  """The authors' layout.

  Args:
    network: the first stage.
    prefix: of the names, "" in files of the first stage alone.
  """

  def block(way: str, level: int | None, number: int, ours: str, shortcut: bool, attends: bool) -> list[Entry]:
    half = f"{prefix}{'encoder' if way == 'down' else 'decoder'}"
    theirs = f"{half}.mid.block_{number + 1}" if level is None else f"{half}.{way}.{level}.block.{number}"
    entries = residual(theirs, ours, AUTHORS, shortcut)
    if attends:
      attention = f"{half}.mid.attn_1" if level is None else f"{half}.{way}.{level}.attn.{number}"
      features = network.channels * network.multipliers[-1 if level is None else level]
      entries += norm(f"{attention}.norm", f"{ours}_attention/norm")
      for theirs_part, part in dict(q="query", k="key", v="value", proj_out="out").items():
        mine = f"{ours}_attention/{part}"
        kernel = dense(f"{attention}.{theirs_part}.weight", f"{mine}/kernel")
        entries += [_one_by_one(kernel, features), same(f"{attention}.{theirs_part}.bias", f"{mine}/bias")]
    return entries

  def sample(way: str, level: int) -> str:
    return f"{prefix}{'encoder' if way == 'down' else 'decoder'}.{way}.{level}.{way}sample.conv"

  return [*_ends(network, prefix, "norm_out"), *_halves(network, block, sample)]


def _one_by_one(entry: Entry, features: int) -> Entry:
  """A dense layer that is a 1x1 convolution there."""
  square = (features, features)
  flat = entry._replace(join=lambda a: entry.join([a[0].reshape(square)]))
  return flat._replace(split=lambda x: [entry.split(x)[0].reshape(*square, 1, 1)])
