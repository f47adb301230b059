"""Dual encoders' weights: CLIP in transformers', OpenAI's and OpenCLIP's layouts, SigLIP in transformers'.

A file of weights does not contain the activation that it was trained with. The file beside it may (`activation_of`),
and `unless_told` makes a layout raise an error if it is not given.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.interop.layout import Entry, beside, conv, dense, same, shaped
from jaxgen.interop.resnet import batch_norm, kernel
from jaxgen.interop.text_tower import layers, resblocks
from jaxgen.interop.text_tower import transformers as text_transformers
from jaxgen.interop.vit import affine, norm, table
from jaxgen.nn.joint.dual import DualEncoder
from jaxgen.nn.joint.modified_resnet import ModifiedResNet

IMAGE, TEXT = "params/image", "params/text"


def transformers(network: DualEncoder) -> list[Entry]:
  """`CLIPModel` and, for a network with a bias, `SiglipModel`."""
  image = network.image
  if isinstance(image, ModifiedResNet):
    raise UserError("transformers has no CLIP with a residual network: its files are OpenAI's and OpenCLIP's")
  theirs = "vision_model"
  # Their positions have no axis of the batch.
  positions = table(
    f"{theirs}.embeddings.position_embedding.weight", f"{IMAGE}/positions", image.width, _tokens(network)
  )
  entries = [
    conv(f"{theirs}.embeddings.patch_embedding.weight", f"{IMAGE}/patches/kernel"),
    _flat(positions),
    *layers(f"{theirs}.encoder.layers", f"{IMAGE}/encoder/blocks", image.depth),
    *norm(f"{theirs}.post_layernorm", f"{IMAGE}/norm"),
    *text_transformers(network.text, ours=TEXT),
    _scalar("logit_scale", "params/log_scale", network.bias is not None),
    beside(f"{theirs}.embeddings.position_ids"),
  ]
  if image.patch_bias:
    entries.append(same(f"{theirs}.embeddings.patch_embedding.bias", f"{IMAGE}/patches/bias"))
  if image.norm_first:
    entries += norm(f"{theirs}.pre_layrnorm", f"{IMAGE}/norm_first")
  if image.pool == "class":
    entries.append(shaped(same(f"{theirs}.embeddings.class_embedding", f"{IMAGE}/class_token"), (-1,), (1, -1)))
  if image.pool == "attention":
    entries += _readout(f"{theirs}.head", f"{IMAGE}/readout")
  if network.projection is not None:
    entries.append(dense("visual_projection.weight", "params/image_projection/kernel"))
  if network.bias is not None:
    entries.append(_scalar("logit_bias", "params/bias", True))
  return entries


def openai(network: DualEncoder) -> list[Entry]:
  """OpenAI's CLIP, of both kinds of towers; the names of its model in memory, which are those of its archives."""
  image, text = network.image, network.text
  if network.bias is not None:
    raise UserError("OpenAI's layout is for CLIP, and this network has SigLIP's bias: use transformers'")
  if isinstance(image, ModifiedResNet):
    entries = _modified_resnet(image)
  else:
    positions = table("visual.positional_embedding", f"{IMAGE}/positions", image.width, _tokens(network))
    entries = [
      conv("visual.conv1.weight", f"{IMAGE}/patches/kernel"),
      shaped(same("visual.class_embedding", f"{IMAGE}/class_token"), (-1,), (1, -1)),
      _flat(positions),
      *norm("visual.ln_pre", f"{IMAGE}/norm_first"),
      *resblocks("visual.transformer.resblocks", f"{IMAGE}/encoder/blocks", image.depth),
      *norm("visual.ln_post", f"{IMAGE}/norm"),
      same("visual.proj", "params/image_projection/kernel"),
    ]
  return [
    *entries,
    same("token_embedding.weight", f"{TEXT}/embedding/table"),
    same("positional_embedding", f"{TEXT}/encoder/positions/table"),
    *resblocks("transformer.resblocks", f"{TEXT}/encoder/stack/blocks", text.options.depth),
    *norm("ln_final", f"{TEXT}/encoder/norm"),
    same("text_projection", f"{TEXT}/projection/kernel"),
    same("logit_scale", "params/log_scale"),
    beside("input_resolution", "context_length", "vocab_size", "attn_mask"),
  ]


def open_clip(network: DualEncoder) -> list[Entry]:
  """OpenCLIP's `CLIP`, which keeps OpenAI's names."""
  return openai(network)


def unless_told(entries: Sequence[Entry], activation: str | None) -> list[Entry]:
  """A layout that cannot be read without an activation, because a guess might change the outputs.

  Reading raises a UserError where `activation` is None.
  """

  def ask(arrays: Sequence[np.ndarray]) -> np.ndarray:
    raise UserError(
      "a file of CLIP's weights does not contain its activation: give --activation quick (OpenAI's, and files with "
      "hidden_act quick_gelu) or --activation exact (most of OpenCLIP's)"
    )

  return list(entries) if activation else [e._replace(join=ask) if e.ours == "params/log_scale" else e for e in entries]


def activation_of(file: pathlib.Path) -> str:
  """ "quick", "exact" or "tanh", from the configuration beside a file of weights.

  `config.json` of transformers has hidden_act for both towers; `open_clip_config.json` may have quick_gelu, and
  otherwise means exact.

  Raises:
    UserError: there is no such file, it is damaged or does not contain the activation, or the towers differ.
  """
  names = {"quick_gelu": "quick", "gelu": "exact", "gelu_pytorch_tanh": "tanh"}
  theirs, ours = file.parent / "config.json", file.parent / "open_clip_config.json"
  said = set()
  try:
    if ours.is_file():
      return "quick" if json.loads(ours.read_text())["model_cfg"].get("quick_gelu") else "exact"
    if theirs.is_file():
      config = json.loads(theirs.read_text())
      towers = [config[part] for part in ("text_config", "vision_config") if part in config] or [config]
      said = {str(tower.get("hidden_act")) for tower in towers}
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    where = ours if ours.is_file() else theirs
    raise UserError(f"{where} cannot be read as a configuration ({error}); say quick, exact or tanh") from error
  if len(said) != 1 or not said <= set(names):
    where = f"{theirs} says {', '.join(sorted(map(str, said)))}" if said else f"there is no {theirs.name} beside {file}"
    raise UserError(f"the activation of {file.name} cannot be told: {where}; say quick, exact or tanh")
  return names[said.pop()]


def _tokens(network: DualEncoder) -> int:
  return int(network.image.pool == "class")


def _flat(entry: Entry) -> Entry:
  """A table of positions [T, width] there, of which `vit.table` expects [1, T, width]."""
  fit = lambda a, shape: entry.fit(a[None], (1, *shape))[0] if a.ndim == 2 else a
  return same(entry.theirs[0], entry.ours)._replace(fit=fit)


def _scalar(theirs: str, ours: str, row: bool) -> Entry:
  """A number; in a row of one there, in SigLIP."""
  return shaped(same(theirs, ours), (1,), ()) if row else same(theirs, ours)


def _readout(theirs: str, ours: str) -> list[Entry]:
  return [
    shaped(same(f"{theirs}.probe", f"{ours}/query"), (1, 1, -1), (1, -1)),
    dense(f"{theirs}.attention.in_proj_weight", f"{ours}/qkv_kernel"),
    same(f"{theirs}.attention.in_proj_bias", f"{ours}/qkv_bias"),
    *affine(f"{theirs}.attention.out_proj", f"{ours}/out"),
    *norm(f"{theirs}.layernorm", f"{ours}/norm"),
    *affine(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
  ]


def _modified_resnet(network: ModifiedResNet) -> list[Entry]:
  def layer(theirs: str, number: str, ours: str) -> list[Entry]:
    return kernel(f"{theirs}.conv{number}", ours.format("conv")) + batch_norm(
      f"{theirs}.bn{number}", ours.format("norm")
    )

  entries = [e for i in "123" for e in layer("visual", i, f"image/stem_{{}}_{i}")]
  for stage, depth in enumerate(network.depths, 1):
    for i in range(depth):
      theirs, ours = f"visual.layer{stage}.{i}", f"image/block_{stage}_{i + 1}"
      entries += [e for n in "123" for e in layer(theirs, n, f"{ours}/{{}}_{n}")]
      if i == 0:
        entries += kernel(f"{theirs}.downsample.0", f"{ours}/conv_shortcut")
        entries += batch_norm(f"{theirs}.downsample.1", f"{ours}/norm_shortcut")
  pool = f"{IMAGE}/pool"
  names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_proj": "out"}
  entries.append(same("visual.attnpool.positional_embedding", f"{pool}/positions"))
  return entries + [e for name, part in names.items() for e in affine(f"visual.attnpool.{name}", f"{pool}/{part}")]
