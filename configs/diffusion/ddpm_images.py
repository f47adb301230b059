"""DDPM on your own images: a folder of photographs, an npz, tar shards, what tensorflow-datasets prepared.

Paper: Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239, Algorithms 1 and 2,
with the cosine schedule of Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17.

    jaxgen train ddpm_images --data folder:photos --size 64
    jaxgen train ddpm_images --data npz:faces.npz --name faces
    jaxgen train ddpm_images --data tar:shards --size 64 --channels 128

Channels, levels and, if all pictures have the same, the size are read from the data; digits are a trial.

Expect: not run to the end; no number is published of data that are your own
Cost: 64x64 with 64 channels, 9.3 M parameters: 1.1e12 FLOPs an update of 32 pictures, meant for an accelerator
"""

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import own
from jaxgen.data.transforms import flip
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import UNet


def experiment(
  data: str = "digits",
  size: int | None = None,
  steps: int = 20_000,
  batch_size: int = 32,
  learning_rate: float = 2e-4,
  channels: int = 64,
  dropout: float = 0.0,
  ema: float = 0.999,
  mirrored: bool = True,
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 50,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A U-Net learns the noise in images.

  Args:
    data: folder:DIR, npz:FILE, tar:DIR, tfds:NAME, or digits.
    size: side to which pictures are resized: the shorter side is scaled and the middle cut out.
    channels: the network's width.
    dropout: rate, in the network's blocks.
    mirrored: half of the pictures are seen mirrored.
    solver: how samples go from noise to images.
    sampling_steps: steps of the solver.
  """
  images = own(data, size, augment=(flip(),) if mirrored else (), data_dir=tfds_dir)
  height, width, colours = images.spec.shape
  side = min(height, width)
  halvings = next(n for n in (3, 2, 1, 0) if n == 0 or (side >> n >= 4 and height % 2**n == width % 2**n == 0))
  method = gaussian_diffusion(
    UNet(
      channels=channels,
      multipliers=(1, *(2,) * halvings),
      blocks=2,
      attention=tuple(side >> n for n in range(halvings + 1) if side >> n <= 16),
      dropout=dropout,
      out_channels=colours,
    ),
    diffusion.SCHEDULES["cosine"](1000),
    images.spec,
    optimizers.adam(learning_rate, steps, warmup=min(500, steps // 10), clip=1.0),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS["trailing"], sampling_steps),
  )
  return Experiment(
    method=averaged(method, ema),
    data=images,
    steps=steps,
    batch_size=batch_size,
    microbatches=microbatches,
    sample_every=2_000,
    checkpoint_every=2_000,
  )
