"""DiffWave's weights in the layout of https://github.com/lmnt-com/diffwave."""

from jaxgen.interop.layout import Entry, moved, same, shaped, stacked
from jaxgen.interop.vit import affine
from jaxgen.nn.audio.diffwave import DiffWave


def taps(theirs: str, ours: str, kernel: int = 1) -> list[Entry]:
  """A one-dimensional convolution, [out, in, taps] there and [taps * in, out] here."""
  turned = moved(f"{theirs}.weight", f"{ours}/kernel", (2, 1, 0))
  join = lambda a: turned.join(a).reshape(-1, a[0].shape[0])
  split = lambda x: turned.split(x.reshape(kernel, -1, x.shape[-1]))
  return [turned._replace(join=join, split=split), same(f"{theirs}.bias", f"{ours}/bias")]


def lmnt(network: DiffWave) -> list[Entry]:
  """The layout of its `DiffWave`, which is conditioned on a mel spectrogram with 80 bands, or unconditional."""
  entries = [
    *taps("input_projection", "params/in"),
    *affine("diffusion_embedding.projection1", "params/step_1"),
    *affine("diffusion_embedding.projection2", "params/step_2"),
    *taps("skip_projection", "params/skip"),
    *taps("output_projection", "params/last"),
  ]
  for i, factor in enumerate(network.factors):
    theirs, ours = f"spectrogram_upsampler.conv{i + 1}", f"params/longer_{i}"
    kernel = same(f"{theirs}.weight", f"{ours}/kernel")
    entries += [
      shaped(kernel, (1, 1, 3, 2 * factor), (3, 2 * factor)),
      same(f"{theirs}.bias", f"{ours}/bias"),
    ]
  blocks = []
  for i in range(network.layers):
    theirs = f"residual_layers.{i}"
    blocks.append(
      [
        *taps(f"{theirs}.dilated_conv", "params/blocks/dilated", network.kernel),
        *affine(f"{theirs}.diffusion_projection", "params/blocks/step"),
        *taps(f"{theirs}.output_projection", "params/blocks/out"),
        *(taps(f"{theirs}.conditioner_projection", "params/blocks/mel") if network.factors else []),
      ]
    )
  return entries + stacked(blocks)
