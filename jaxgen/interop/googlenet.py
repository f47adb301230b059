"""GoogLeNet's weights under the names of torchvision's `GoogLeNet`; the paper's form has biases in place of norms."""

from jaxgen.interop.efficientnet import biased
from jaxgen.interop.layout import Entry, same
from jaxgen.interop.resnet import batch_norm, kernel
from jaxgen.interop.vit import affine
from jaxgen.nn.vision.googlenet import AUXILIARY, INCEPTIONS, GoogLeNet


def torchvision(network: GoogLeNet) -> list[Entry]:
  """Published weights belong to `GoogLeNet(batch_norm=True)`."""

  def layer(theirs: str, ours: str) -> list[Entry]:
    if network.batch_norm:
      return kernel(f"{theirs}.conv", ours) + batch_norm(f"{theirs}.bn", f"{ours}_norm")
    return biased(f"{theirs}.conv", ours)

  entries = layer("conv1", "stem_1") + layer("conv2", "stem_2_reduce") + layer("conv3", "stem_2")
  for name in INCEPTIONS:
    branches = {
      "branch1": "1x1",
      "branch2.0": "3x3_reduce",
      "branch2.1": "3x3",
      "branch3.0": "5x5_reduce",
      "branch3.1": "5x5",
      "branch4.1": "pool",
    }
    for theirs, ours in branches.items():
      entries += layer(f"inception{name}.{theirs}", f"{name}_{ours}")
  for n, name in enumerate(AUXILIARY if network.auxiliary else (), 1):
    entries += layer(f"aux{n}.conv", f"{name}_auxiliary_conv")
    entries += [flattened(f"aux{n}.fc1.weight", f"params/{name}_auxiliary_hidden/kernel", *network.widths(128))]
    entries += [same(f"aux{n}.fc1.bias", f"params/{name}_auxiliary_hidden/bias")]
    entries += affine(f"aux{n}.fc2", f"params/{name}_auxiliary_head")
  return entries + affine("fc", "params/head")


def flattened(theirs: str, ours: str, channels: int) -> Entry:
  """A dense layer that sees a map: channels x positions flattened there, positions x channels here."""
  return Entry(
    (theirs,),
    ours,
    lambda a: a[0].reshape(len(a[0]), channels, -1).transpose(2, 1, 0).reshape(-1, len(a[0])),
    lambda x: [x.reshape(-1, channels, x.shape[-1]).transpose(2, 1, 0).reshape(x.shape[-1], -1)],
  )
