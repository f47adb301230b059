"""Denoising score matching at one noise level on scikit-learn's 8x8 digits, sampled by Langevin dynamics.

Paper: Vincent 2011, A connection between score matching and denoising autoencoders,
https://doi.org/10.1162/NECO_a_00142. With many noise levels it is NCSN: configs/diffusion

    jaxgen train score_matching_digits

Expect: frechet_1437 4.73, 4.0 times its floor; one noise level is too few, for some chains stray to where no data
were: with 50 levels NCSN has 1.31. One seed
Cost: 2 minutes on 2 CPU cores that others used as well
"""

from functools import partial

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import frechet
from jaxgen.mcmc.langevin import langevin
from jaxgen.mcmc.resampling import Chains
from jaxgen.methods.energy.score_matching import denoising, score_matching
from jaxgen.nn.energy.ebm import EnergyMLP


def experiment(
  steps: int = 3_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  sigma: float = 0.5,
  width: int = 512,
  langevin_steps: int = 200,
  step_size: float = 0.2,
  ema: float = 0.995,
) -> Experiment:
  """An energy of digits with noise.

  Args:
    sigma: standard deviation of the noise.
    width: of the energy's two hidden layers.
    langevin_steps: of the chain that makes a sample.
    step_size: of Langevin dynamics, in units of sigma squared.
  """
  digits = data.digits()
  # The clip and Adam's epsilon are those of the squared error's sum, and the loss is its mean over pixels.
  pixels = digits.spec.size
  optimizer = optimizers.adam(learning_rate, steps, warmup=100, clip=100.0 / pixels, eps=1e-8 / pixels)
  method = score_matching(
    EnergyMLP((width, width), reference=1.0),
    denoising(sigma),
    energy=True,
    spec=digits.spec,
    optimizer=optimizer,
    chains=Chains(1, partial(langevin, step=step_size * sigma**2), langevin_steps),
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(),),
    sample_every=1_000,
    sample_chunk=256,
  )
