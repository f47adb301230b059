"""NCSN, noise-conditional score network with annealed Langevin dynamics: on 8x8 digits, on CIFAR-10 at full size.

Paper: Song and Ermon 2019, Generative modeling by estimating gradients of the data distribution,
https://arxiv.org/abs/1907.05600, Algorithm 1 and eq. 6 with lambda = sigma^2; section 5, Appendix B and their code for
CIFAR-10: RefineNet of 30.1 M parameters, 10 noise levels from 1 to 0.01 for images in [0, 1], batch 128, 200 k steps,
Adam at 0.001, flips, no averaged weights, 100 Langevin steps a level with epsilon = 2e-5; Inception score 8.87 and FID
25.32 (their Table 1). On digits, as in Song and Ermon 2020 (Improved techniques), https://arxiv.org/abs/2006.09011, the
score is the network's output divided by sigma (a prediction of -eps), the largest sigma is the largest distance in the
data, weights are averaged, and a last step denoises.

    jaxgen train ncsn
    jaxgen train ncsn --preset cifar10 --tfds-dir DIR

Sampling begins at the second level, where the paper begins with 100 steps at the first, from uniform noise, and it ends
with the predicted x_0, where the paper ends with the last step's noise.

Expect: digits: frechet_1437 2.21, 1.26 and 1.41, that is 1.97, 1.12 and 1.26 times its floor; at most 2.26 bits/dim
(three seeds). cifar10: FID 25.32, which is not computed here; not run to the end here
Cost: digits: 2 minutes on 2 idle CPU cores.
cifar10: 200 k steps of 7.6e12 FLOPs, 11 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import flip
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.solvers.annealed_langevin import annealed_langevin
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import RefineNet, UNet


class Preset(NamedTuple):
  """The recipe of a data set and paper.

  Attributes:
    levels: number of noise levels.
    largest: the largest sigma, for images in [-1, 1]. The smallest is 0.02.
    langevin_steps: Langevin steps at each level.
  """

  steps: int
  learning_rate: float
  ema: float | None
  prediction: diffusion.PredictionName
  levels: int
  largest: float
  langevin_steps: int


PRESETS = {
  "digits": Preset(2_000, 2e-3, 0.99, "eps", 50, 9.6, 5),
  "cifar10": Preset(200_000, 1e-3, None, "score", 10, 2.0, 100),  # FID 25.32
}
NAMES = {"ncsn_digits": {"preset": "digits"}, "ncsn_cifar10": {"preset": "cifar10"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  channels: int | None = None,
  ema: float | None = None,
  levels: int | None = None,
  langevin_steps: int | None = None,
  sampling_steps: int | None = None,
  bfloat16: bool = False,
  remat: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A network learns the score of noisy images. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    channels: the network's width; 32 for digits, 128 for CIFAR-10 by default.
    levels: of noise.
    langevin_steps: steps of Langevin dynamics at each level.
    sampling_steps: levels that samples visit; all by default.
    bfloat16: the network computes in half precision.
  """
  given = dict(steps=steps, learning_rate=learning_rate, ema=ema, levels=levels, langevin_steps=langevin_steps)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  options = dict(remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  if preset == "digits":
    images = data.digits()
    network = UNet(channels or 32, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, **options)
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet()), sample_every=500, checkpoint_every=500)
  else:
    images = data.cifar10(tfds_dir, augment=(flip(),))
    network = RefineNet(channels or 128, levels=p.levels, **options)
    optimizer = optimizers.adam(p.learning_rate)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
    more |= dict(sample_chunk=128)
  solver = partial(annealed_langevin, corrections=p.langevin_steps)
  method = gaussian_diffusion(
    network,
    diffusion.geometric(p.levels, smallest=0.02, largest=p.largest),
    images.spec,
    optimizer,
    objective=Objective(diffusion.PREDICTIONS[p.prediction], diffusion.WEIGHTINGS["eps"]),
    sampler=Sampler(solver, diffusion.GRIDS["trailing"], sampling_steps or p.levels, clip=False),
    likelihoods={"nll_nats": partial(bound_nll, levels=images.levels)},
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=images,
    steps=p.steps,
    batch_size=batch_size,
    microbatches=microbatches,
    **more,
  )
