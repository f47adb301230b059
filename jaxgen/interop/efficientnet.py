"""EfficientNet's weights in the layouts of timm, torchvision and transformers.

The networks are `EfficientNet` of timm (those whose name begins with "tf_" are the published ones, of "same" padding)
and of torchvision (symmetric padding), and `EfficientNetForImageClassification` of transformers ("same" padding).
"""

from jaxgen.interop.layout import Entry, conv, same
from jaxgen.interop.resnet import batch_norm, kernel
from jaxgen.interop.vit import affine
from jaxgen.nn.vision.efficientnet import EfficientNet


def biased(theirs: str, ours: str) -> list[Entry]:
  """A convolution with its bias."""
  return [conv(f"{theirs}.weight", f"params/{ours}/kernel"), same(f"{theirs}.bias", f"params/{ours}/bias")]


def blocks(network: EfficientNet) -> list[tuple[int, int, str, bool]]:
  """(stage, block within it, our path, whether it expands)"""
  return [(s, i, f"block_{n}", stage.expand != 1) for n, (s, i, stage) in enumerate(network.blocks(), 1)]


def timm(network: EfficientNet) -> list[Entry]:
  entries = kernel("conv_stem", "stem_conv") + batch_norm("bn1", "stem_norm")
  for stage, i, ours, expands in blocks(network):
    theirs = f"blocks.{stage}.{i}"
    if expands:
      entries += kernel(f"{theirs}.conv_pw", f"{ours}/expand") + batch_norm(f"{theirs}.bn1", f"{ours}/expand_norm")
    norm, project = (2, "conv_pwl") if expands else (1, "conv_pw")
    entries += kernel(f"{theirs}.conv_dw", f"{ours}/depthwise")
    entries += batch_norm(f"{theirs}.bn{norm}", f"{ours}/depthwise_norm")
    entries += biased(f"{theirs}.se.conv_reduce", f"{ours}/reduce")
    entries += biased(f"{theirs}.se.conv_expand", f"{ours}/excite")
    entries += kernel(f"{theirs}.{project}", f"{ours}/project")
    entries += batch_norm(f"{theirs}.bn{norm + 1}", f"{ours}/project_norm")
  entries += kernel("conv_head", "out_conv") + batch_norm("bn2", "out_norm")
  return entries + affine("classifier", "params/head")


def torchvision(network: EfficientNet) -> list[Entry]:
  def layer(theirs: str, ours: str, norm: str) -> list[Entry]:
    return kernel(f"{theirs}.0", ours) + batch_norm(f"{theirs}.1", norm)

  entries = layer("features.0", "stem_conv", "stem_norm")
  for stage, i, ours, expands in blocks(network):
    theirs, n = f"features.{stage + 1}.{i}.block", int(expands)
    if expands:
      entries += layer(f"{theirs}.0", f"{ours}/expand", f"{ours}/expand_norm")
    entries += layer(f"{theirs}.{n}", f"{ours}/depthwise", f"{ours}/depthwise_norm")
    entries += biased(f"{theirs}.{n + 1}.fc1", f"{ours}/reduce")
    entries += biased(f"{theirs}.{n + 1}.fc2", f"{ours}/excite")
    entries += layer(f"{theirs}.{n + 2}", f"{ours}/project", f"{ours}/project_norm")
  entries += layer(f"features.{len(network.stages) + 1}", "out_conv", "out_norm")
  return entries + affine("classifier.1", "params/head")


def transformers(network: EfficientNet) -> list[Entry]:
  entries = kernel("efficientnet.embeddings.convolution", "stem_conv")
  entries += batch_norm("efficientnet.embeddings.batchnorm", "stem_norm")
  for n, (_, _, ours, expands) in enumerate(blocks(network)):
    theirs = f"efficientnet.encoder.blocks.{n}"
    if expands:
      entries += kernel(f"{theirs}.expansion.expand_conv", f"{ours}/expand")
      entries += batch_norm(f"{theirs}.expansion.expand_bn", f"{ours}/expand_norm")
    entries += kernel(f"{theirs}.depthwise_conv.depthwise_conv", f"{ours}/depthwise")
    entries += batch_norm(f"{theirs}.depthwise_conv.depthwise_norm", f"{ours}/depthwise_norm")
    entries += biased(f"{theirs}.squeeze_excite.reduce", f"{ours}/reduce")
    entries += biased(f"{theirs}.squeeze_excite.expand", f"{ours}/excite")
    entries += kernel(f"{theirs}.projection.project_conv", f"{ours}/project")
    entries += batch_norm(f"{theirs}.projection.project_bn", f"{ours}/project_norm")
  entries += kernel("efficientnet.encoder.top_conv", "out_conv")
  entries += batch_norm("efficientnet.encoder.top_bn", "out_norm")
  return entries + affine("classifier", "params/head")
