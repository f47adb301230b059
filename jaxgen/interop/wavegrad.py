"""WaveGrad's weights in the layout of https://github.com/lmnt-com/wavegrad."""

from jaxgen.interop.diffwave import taps
from jaxgen.interop.layout import Entry
from jaxgen.nn.audio.wavegrad import WaveGrad


def lmnt(network: WaveGrad) -> list[Entry]:
  """Of its `WaveGrad`, whose noise level is not scaled: the network's `scale` is 1."""
  pairs = [("first_conv", "mel", 3), ("last_conv", "last", 3), ("downsample.0", "wave", 5)]
  for i in range(len(network.factors)):
    pairs += [(f"film.{i}.input_conv", f"film_{i}/in", 3), (f"film.{i}.output_conv", f"film_{i}/out", 3)]
    up = ("block2.0", "block2.1", "block3.0", "block3.1")
    pairs += [(f"upsample.{i}.{theirs}", f"up_{i}/conv_{j}", 3) for j, theirs in enumerate(up)]
    pairs.append((f"upsample.{i}.block1", f"up_{i}/beside", 1))
    if i:
      pairs += [(f"downsample.{i}.conv.{j}", f"down_{i}/conv_{j}", 3) for j in range(3)]
      pairs.append((f"downsample.{i}.residual_dense", f"down_{i}/beside", 1))
  return [entry for theirs, ours, kernel in pairs for entry in taps(theirs, f"params/{ours}/taps", kernel)]
