"""Averages after the fact: any power-function average, computed from those that a run has stored.

Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 3.2. A run whose experiment names `profiles` keeps its
averages from every checkpoint, in RUN/averages. The mathematics is in `core.profiles`.
"""

import contextlib

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.core.profiles import coefficients, gamma_of
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.frozen import AVERAGES
from jaxgen.engine.run import Run

NETWORK = "network"


def reconstructed(run: Run, sigma_rel: float, network: str = NETWORK) -> State:
  """The run's state with the network's average replaced by that of another relative width.

  Args:
    run: a run that has kept averages.
    sigma_rel: the width of the average, as a part of the training so far.
    network: the entry of `params`.

  Raises:
    UserError: the run has not kept the network's averages, or no average has this width.
  """
  e, state = run.experiment, run.state
  kept = {name: gamma_of(width) for name, width in e.profiles.items() if name.partition("/")[0] == network}
  last = int(state.step)
  with contextlib.closing(Checkpoints(run.folder / AVERAGES)) as stored:
    steps = [step for step in stored.steps() if 0 < step <= last]
    if not kept or not steps:
      has = "keeps no averages for later" if not e.profiles else f"has stored none of {network!r} up to step {last}"
      raise UserError(
        f"{run.folder.path} {has}, so none of relative width {sigma_rel:g} can be made: its config keeps them where "
        "`profiles` names them, as edm2_digits does"
      )
    gamma = gamma_of(sigma_rel)
    pairs = [(step, name) for step in steps for name in kept]
    weights = coefficients([step for step, _ in pairs], [kept[name] for _, name in pairs], last, gamma)
    like = {name: run.program.abstract.ema[name] for name in e.profiles}
    average = jax.tree.map(jnp.zeros_like, state.ema[next(iter(kept))])
    for step in steps:
      _, trees = stored.restore(like, step)
      for (at, name), weight in zip(pairs, weights, strict=True):
        if at == step:
          average = jax.tree.map(lambda a, x, weight=weight: a + weight.astype(a.dtype) * x, average, trees[name])
  return state.replace(ema={**state.ema, network: average})
