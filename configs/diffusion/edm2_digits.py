"""EDM2 on scikit-learn's 8x8 digits: a network that keeps magnitudes, and averages chosen after training.

Paper: Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models,
https://arxiv.org/abs/2312.02696: the network of config G, forced weight normalisation, uncertainty weighting, inverse
root learning rate, post-hoc EMA.

    jaxgen train edm2_digits
    jaxgen averages runs/edm2_digits
    jaxgen sample runs/edm2_digits --ema 0.10

Two averages with relative widths 0.05 and 0.10 are stored in every checkpoint; averages of other widths are computed
from them after training.

Expect: not measured
Cost: not measured
"""

import optax

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.condition import UNCONDITIONAL, labels
from jaxgen.core.wrappers import averaged, power
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.times import c_noise, log_normal
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import EDM2UNet
from jaxgen.nn.unets.edm2 import LogVariance, forced

SIGMA_DATA = 0.75
PROFILES = {"network": 0.10, "network/shorter": 0.05}


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 1e-2,
  constant: int = 1_000,
  channels: int = 32,
  dropout: float = 0.0,
  conditional: bool = False,
  sampling_steps: int = 18,
) -> Experiment:
  """EDM2's network removes noise from digits.

  Args:
    learning_rate: of Adam, before it falls.
    constant: updates after which it falls as the inverse root of their number.
    channels: the network's width; 128 is the paper's XS, 448 its XXL.
    dropout: rate, in the network's blocks.
    conditional: the network is conditioned on the class.
    sampling_steps: steps of Heun's method.
  """
  digits, process = data.digits(), diffusion.edm()
  network = EDM2UNet(
    channels,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    dropout=dropout,
    classes=10 if conditional else None,
    out_channels=1,
    head_channels=min(channels, 64),
  )
  adam = optax.adam(optimizers.inverse_root(learning_rate, constant, warmup=100), b2=0.99)
  method = gaussian_diffusion(
    network,
    process,
    digits.spec,
    optimizers.projected(adam, forced),
    objective=Objective(
      predictions.edm(SIGMA_DATA),
      weightings.edm(SIGMA_DATA),
      times=log_normal(process, -0.4, 1.0),
      time_input=c_noise,
      uncertainty=LogVariance(),
    ),
    condition=labels(digits.spec) if conditional else UNCONDITIONAL,
    sampler=Sampler(diffusion.heun, diffusion.karras, sampling_steps, clip=False),
  )
  return Experiment(
    method=averaged(method, {name: power(width) for name, width in PROFILES.items()}),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(),),
    sample_every=500,
    checkpoint_every=max(steps // 16, 1),
    profiles=PROFILES,
  )
