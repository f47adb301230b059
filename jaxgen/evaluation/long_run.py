"""Long chains of an energy, from data and from noise.

If an energy was learned with short chains, its density need not lie where the data is. Chains that start at data then
leave it, for images with too little or too much contrast, and chains from data and from noise do not meet. This module
records what Nijkamp et al. 2020, https://arxiv.org/abs/1903.12370, show: energies over steps, and the images.

    runs = long_runs(lambda state, x: ..., partial(langevin, step=0.1), uniform())
    Experiment(..., evaluators=(long_run(runs),), figures=(figures.long_run(runs),))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.keys import example_keys, root
from jaxgen.data import real
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.mcmc import Kernel, diagnostics, run

Energy = Callable[[Array], Array]
STARTS = ("data", "noise")


class LongRun(NamedTuple):
  """Chains from each start, "data" or "noise".

  Attributes:
    energy: energies [1 + steps, chains], nats; the first before any step.
    x: positions [1 + steps, shown, ...] of the first chains.
    first, last: positions [chains, ...] before the first and after the last step.
    accepted: mean probabilities of acceptance, [chains].
  """

  energy: dict[str, Float[np.ndarray, "times chains"]]
  x: dict[str, Float[np.ndarray, "times shown *shape"]]
  first: dict[str, Float[np.ndarray, "chains *shape"]]
  last: dict[str, Float[np.ndarray, "chains *shape"]]
  accepted: dict[str, Float[np.ndarray, " chains"]]


def long_runs(
  energy: Callable[[Any, Array], Array],
  sampler: Callable[[Energy], Kernel],
  start: Callable[[Array, tuple[int, ...]], Array],
  *,
  steps: int = 1_000,
  chains: int = 64,
  shown: int = 8,
) -> Callable[[AnyRun], LongRun]:
  """Runs chains from test data and from noise, once for each state.

  Args:
    energy: (state, x [n, ...]) -> [n] nats.
    sampler: energy -> kernel.
    start: (key, shape) -> noise.
    steps: number of steps of each chain.
    chains: number of chains from data, and from noise. The data are spread evenly over the test split.
    shown: number of chains whose positions are kept at every step.
  """
  latest = {}  # the last state and its chains

  @jax.jit
  def go(state: Any, x: Array, key: Array) -> tuple[Array, ...]:
    U = lambda x: energy(state, x)
    keys = example_keys(key, jnp.arange(chains))
    keep = lambda carry: (U(carry.x), carry.x[:shown])
    last, accepted, (energies, kept) = run(sampler(U), x, keys, steps, keep)
    return jnp.concatenate([U(x)[None], energies]), jnp.concatenate([x[None, :shown], kept]), x, last, accepted

  def runs(run: AnyRun) -> LongRun:
    if latest.get("state") is run.state:
      return latest["runs"]
    total = len(run.data.source("test"))
    chosen = np.linspace(0, total - 1, chains).round().astype(int)
    data = np.concatenate([batch[run.data.spec.feature] for batch in real.batches(run.data, "test", chosen)])
    start_key, *both = jax.random.split(root(0, "long run"), 3)  # with the same noise the two kinds would become one
    noise = jax.vmap(lambda key: start(key, data.shape[1:]))(jax.random.split(start_key, chains)).astype(data.dtype)
    of_data, of_noise = (jax.device_get(go(run.state, x, key)) for x, key in zip((data, noise), both, strict=True))
    parts = (dict(zip(STARTS, part, strict=True)) for part in zip(of_data, of_noise, strict=True))
    latest.update(state=run.state, runs=LongRun(*parts))
    return latest["runs"]

  return runs


def long_run(runs: Callable[[AnyRun], LongRun]) -> Evaluator:
  """Numbers of `long_runs`, from the energies in the last half of the chains of N steps.

  Numbers: `long_run_N_energy_data`, of test data; `..._energy_from_data` and `..._energy_from_noise`, means over
  chains; `..._r_hat`, rank-normalised, of all chains' energies, near 1 where those from data and those from noise are
  in one distribution; `..._ess`, the effective number of samples among them; `..._acceptance`; `..._contrast`, the
  standard deviation of values where chains from data end over that of the data, 1 for chains that stay.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    chains = runs(run)
    steps = len(chains.energy["data"]) - 1
    late = {start: energy[1 + steps // 2 :] for start, energy in chains.energy.items()}
    together = np.concatenate([late[start] for start in STARTS], axis=1)
    numbers = {
      "energy_data": chains.energy["data"][0].mean(),
      "energy_from_data": late["data"].mean(),
      "energy_from_noise": late["noise"].mean(),
      "r_hat": diagnostics.r_hat(together),
      "ess": diagnostics.effective_sample_size(together),
      "acceptance": np.mean([chains.accepted[start] for start in STARTS]),
      "contrast": chains.last["data"].std() / chains.first["data"].std(),
    }
    return {f"long_run_{steps}_{name}": float(value) for name, value in numbers.items()}

  return evaluate
