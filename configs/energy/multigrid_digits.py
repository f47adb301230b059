"""Multi-grid contrastive divergence on scikit-learn's 8x8 digits: grids of 2x2, 4x4 and 8x8.

Paper: Gao et al. 2018, Learning generative ConvNets via multi-grid modeling and sampling,
https://arxiv.org/abs/1709.08868, Algorithm 1: chains of 30 Langevin steps at each grid, from the image's 1x1 mean up.
Here with fully connected energies, all of Langevin's noise, and digits dequantized, for a density.

    jaxgen train multigrid_digits

Expect: frechet_1437 2.60, 2.2 times its floor (one seed)
Cost: 5 minutes on 2 CPU cores that were busy with much other work, 2.5 of them of one core's time
"""

from functools import partial

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.evaluators import frechet
from jaxgen.mcmc.langevin import langevin
from jaxgen.methods.energy.ebm import diverged
from jaxgen.methods.energy.multigrid import multigrid
from jaxgen.nn.energy.ebm import EnergyMLP


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  widths: tuple[int, ...] = (256, 256),
  chain_steps: int = 30,
  step_sizes: tuple[float, ...] = (0.01, 0.01, 0.01),
  ema: float = 0.99,
  limit: float = 50.0,
) -> Experiment:
  """One energy for each grid.

  Args:
    widths: of each energy's hidden layers.
    chain_steps: that chains take at each grid.
    step_sizes: of Langevin dynamics at each grid, from the coarsest.
    limit: nats between the mean energies of data and samples, from which on training goes back to a snapshot.
  """
  digits = data.digits(transforms=(dequantize(17),))
  sides = (2, 4, 8)
  method = multigrid(
    {side: EnergyMLP(widths, reference=1.0) for side in sides},
    {side: partial(langevin, step=step, box=(-1.0, 1.0)) for side, step in zip(sides, step_sizes, strict=True)},
    chain_steps,
    spec=digits.spec,
    optimizer=optimizers.adam(learning_rate, steps, clip=10.0),
  )
  return Experiment(
    method=rollback(averaged(method, ema), diverged(limit), every=100),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(data=data.digits()),),
    sample_every=1_000,
    sample_chunk=256,
  )
