"""ResNet's weights in the layouts of timm, torchvision and transformers.

Of timm, `ResNet` (v1 and v1.5) and `ResNetV2`; of torchvision, `ResNet`; of transformers,
`ResNetForImageClassification`. The entries that the convolutional families share are here as well.
"""

from collections.abc import Iterator

from jaxgen.interop.layout import Entry, beside, conv, same
from jaxgen.interop.vit import affine
from jaxgen.nn.vision.resnet import ResNet


def batch_norm(theirs: str, ours: str) -> list[Entry]:
  """Gain, bias and running statistics.

  Args:
    ours: our path without its collection.
  """
  return [
    same(f"{theirs}.weight", f"params/{ours}/scale"),
    same(f"{theirs}.bias", f"params/{ours}/bias"),
    same(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
    same(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    beside(f"{theirs}.num_batches_tracked"),  # of those that the running statistics have seen; nothing depends on it
  ]


def kernel(theirs: str, ours: str) -> list[Entry]:
  """A convolution without bias."""
  return [conv(f"{theirs}.weight", f"params/{ours}/kernel")]


def blocks(network: ResNet) -> Iterator[tuple[int, int, str, int, bool]]:
  """(stage, block within it, our path, number of convolutions, whether it has a shortcut with parameters)"""
  for stage, depth in enumerate(network.depths):
    for i in range(depth):
      name = f"block_{stage + 1}_{i + 1}"
      yield stage, i, name, 3 if network.bottleneck else 2, i == 0 and (stage > 0 or network.bottleneck)


def timm(network: ResNet) -> list[Entry]:
  """v1 and v1.5 as torchvision's; of v2, `ResNetV2`."""
  if not network.preactivation:
    return torchvision(network)
  entries = kernel("stem.conv", "stem_conv")
  for stage, i, ours, convs, shortcut in blocks(network):
    theirs = f"stages.{stage}.blocks.{i}"
    for n in range(1, convs + 1):
      entries += batch_norm(f"{theirs}.norm{n}", f"{ours}/norm_{n}")
      entries += kernel(f"{theirs}.conv{n}", f"{ours}/conv_{n}")
    if shortcut:
      entries += kernel(f"{theirs}.downsample.conv", f"{ours}/shortcut_conv")
  # Their head is a 1x1 convolution.
  head = Entry(
    ("head.fc.weight",), "params/head/kernel", lambda a: a[0][:, :, 0, 0].T, lambda x: [x.T[:, :, None, None]]
  )
  return [*entries, *batch_norm("norm", "norm"), head, same("head.fc.bias", "params/head/bias")]


def torchvision(network: ResNet) -> list[Entry]:
  entries = kernel("conv1", "stem_conv") + batch_norm("bn1", "stem_norm")
  for stage, i, ours, convs, shortcut in blocks(network):
    theirs = f"layer{stage + 1}.{i}"
    for n in range(1, convs + 1):
      entries += kernel(f"{theirs}.conv{n}", f"{ours}/conv_{n}")
      entries += batch_norm(f"{theirs}.bn{n}", f"{ours}/norm_{n}")
    if shortcut:
      entries += kernel(f"{theirs}.downsample.0", f"{ours}/shortcut_conv")
      entries += batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
  return entries + affine("fc", "params/head")


def transformers(network: ResNet) -> list[Entry]:
  """Of v1 and v1.5; `downsample_in_bottleneck` is v1."""

  def layer(theirs: str, conv: str, norm: str) -> list[Entry]:
    return kernel(f"{theirs}.convolution", conv) + batch_norm(f"{theirs}.normalization", norm)

  entries = layer("resnet.embedder.embedder", "stem_conv", "stem_norm")
  for stage, i, ours, convs, shortcut in blocks(network):
    theirs = f"resnet.encoder.stages.{stage}.layers.{i}"
    for n in range(convs):
      entries += layer(f"{theirs}.layer.{n}", f"{ours}/conv_{n + 1}", f"{ours}/norm_{n + 1}")
    if shortcut:
      entries += layer(f"{theirs}.shortcut", f"{ours}/shortcut_conv", f"{ours}/shortcut_norm")
  return entries + affine("classifier.1", "params/head")
