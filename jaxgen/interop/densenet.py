"""DenseNet's weights in the layout that timm and torchvision share."""

from jaxgen.interop.layout import Entry
from jaxgen.interop.resnet import batch_norm, kernel
from jaxgen.interop.vit import affine
from jaxgen.nn.vision.densenet import DenseNet


def timm(network: DenseNet) -> list[Entry]:
  entries = kernel("features.conv0", "stem_conv")
  if not network.small:
    entries += batch_norm("features.norm0", "stem_norm")
  for block, depth in enumerate(network.depths, 1):
    if block > 1:
      theirs, ours = f"features.transition{block - 1}", f"transition_{block - 1}"
      entries += batch_norm(f"{theirs}.norm", f"{ours}_norm") + kernel(f"{theirs}.conv", f"{ours}_conv")
    for i in range(1, depth + 1):
      theirs, ours = f"features.denseblock{block}.denselayer{i}", f"layer_{block}_{i}"
      for n, part in ((1, "in"), (2, "out")):
        entries += batch_norm(f"{theirs}.norm{n}", f"{ours}_{part}_norm")
        entries += kernel(f"{theirs}.conv{n}", f"{ours}_{part}_conv")
  return [*entries, *batch_norm("features.norm5", "out_norm"), *affine("classifier", "params/head")]


torchvision = timm
