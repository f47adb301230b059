"""Energies at several grids, sampled from the coarsest upwards: multi-grid contrastive divergence.

Gao, Lu, Zhou, Zhu and Wu 2018, Learning generative ConvNets via multi-grid modeling and sampling,
https://arxiv.org/abs/1709.08868, Algorithm 1. With grids of S_0 = 1 < S_1 < ... < S_n pixels a side:

    (M1)  x_s: an image's averages over blocks, S_s x S_s of them
    (M2)  y_0 = x_0; y_s: every pixel of y_(s-1) repeated to a block, and then chains of l steps on U_s
    (M3)  the loss is sum_s mean U_s(x_s) - mean U_s(y_s), with no gradient through chains

In training, each chain starts from the 1x1 mean of one image, so that chains need not learn the brightness of images;
samples begin with a mean drawn from those of the images seen last.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.mcmc import Energy, Kernel, one_per_chain, run
from jaxgen.mcmc.langevin import Sampler

Images = Float[Array, "batch height width channels"]


def shrink(x: Images, side: int) -> Float[Array, "batch {side} {side} channels"]:
  """(M1): averages over blocks."""
  batch, height, width, channels = x.shape
  return x.reshape(batch, side, height // side, side, width // side, channels).mean(axis=(2, 4))


def expand(x: Images, side: int) -> Float[Array, "batch {side} {side} channels"]:
  """(M2): every pixel repeated to a block."""
  return x.repeat(side // x.shape[1], axis=1).repeat(side // x.shape[2], axis=2)


def upwards(
  kernels: Mapping[int, Kernel], x: Float[Array, "batch 1 1 channels"], keys: Key[Array, " batch"], steps: int
) -> tuple[dict[int, Images], dict[int, Float[Array, " batch"]]]:
  """(M2) from 1x1 means: each grid's images, and their chains' mean acceptance. Grid s draws from fold_in(key, s)."""
  images, accepted = {}, {}
  for side, kernel in kernels.items():
    x, accepted[side], _ = run(kernel, expand(x, side), fold_in(keys, side), steps)
    images[side] = x
  return images, accepted


def name_of(side: int) -> str:
  return f"grid{side}"


def multigrid(
  networks: Mapping[int, Any],
  sampler: Sampler | Mapping[int, Sampler],
  steps: int,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  means: int = 1_024,
) -> Method:
  """Energies at several grids, trained together by (M3). Batch {feature: [B, S, S, C], "index": [B]}.

  The energies are one player, `params["network"]` = {"grid4": ..., "grid16": ...}: chains at a grid begin where those
  of the coarser one ended, so all are run once, on the energies as they were before the step; and the sum of losses
  that share no parameter has each one's own gradient. An optimizer that mixes parameters, such as a clipped global
  norm, mixes grids. The loss is in nats per example, a sum over grids of differences of mean energies. Having buffers,
  the method takes neither microbatches nor pmap.

  Args:
    networks: the energy U_s of each grid by its side, from the coarsest, 1 excepted, to the image's own.
    sampler: energy -> kernel, such as partial(langevin, step=0.01); or one for each grid.
    steps: l, at each grid.
    spec: the data's, of square images.
    means: the number of 1x1 means of the last training images that are stored for sampling, in `buffers["means"]`.

  `init` fills the means with those of the batch that it is given.

  Metrics: for every grid, "energy_data_4", "energy_samples_4", and "energy_difference_4", data's minus samples';
  "acceptance_4"; "energy_difference", the one furthest from 0.

  `evaluate` gives "energy_4" for every coarse grid, and "unnormalised_nll_nats" of the image itself.

  `sample(state, keys)` gives [N, S, S, C].

  Raises:
    UserError: fewer steps or means than one; sides that do not divide each other in turn, or whose last is not the
      image's; at `init`, data of another shape, or energies that are not one number per example.
  """
  sides = list(networks)
  samplers = sampler if isinstance(sampler, Mapping) else dict.fromkeys(sides, sampler)
  if steps < 1 or means < 1:
    raise UserError(f"chains take 1 or more steps from 1 or more means, not {steps} from {means}: change them")
  _check_grids(sides, list(samplers), spec)

  def energy(side: int, params: Params) -> Energy:
    return lambda x: networks[side].apply({"params": params[name_of(side)]}, x)

  def kernels(params: Params) -> dict[int, Kernel]:
    return {side: samplers[side](energy(side, params)) for side in sides}

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    params = {}
    for side in sides:
      x = shrink(batch[spec.feature], side)
      params[name_of(side)] = networks[side].init(jax.random.fold_in(key, side), x)["params"]
      jax.eval_shape(lambda x, params, side=side: one_per_chain(energy(side, params), x), x, params)
    seen = shrink(batch[spec.feature], 1)
    return {"network": params}, {"means": seen[jnp.arange(means) % len(seen)]}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    data = {side: shrink(batch[spec.feature], side) for side in [1, *sides]}
    fixed, keys = jax.lax.stop_gradient(params), example_keys(key, batch["index"])
    samples, accepted = jax.lax.stop_gradient(upwards(kernels(fixed), data[1], keys, steps))
    total, metrics, differences = 0.0, {}, []
    for side in sides:
      of_data, of_samples = (jnp.mean(energy(side, params)(v[side])) for v in (data, samples))
      difference = of_data - of_samples
      total += difference
      differences.append(difference)
      metrics |= {
        f"energy_data_{side}": of_data,
        f"energy_samples_{side}": of_samples,
        f"energy_difference_{side}": difference,
        f"acceptance_{side}": jnp.mean(accepted[side]),
      }
    kept = jnp.concatenate([state.buffers["means"], data[1]])[-means:]
    differences = jnp.stack(differences)
    metrics["energy_difference"] = differences[jnp.argmax(jnp.abs(differences))]  # NaN before others
    return total, (jax.lax.stop_gradient(metrics), {**state.buffers, "means": kept})

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    params = state.averaged()
    energies = {side: energy(side, params)(shrink(batch[spec.feature], side)) for side in sides}
    coarse = {f"energy_{side}": energies[side] for side in sides[:-1]}
    return {"unnormalised_nll_nats": energies[sides[-1]], **coarse}

  def sample(state: State, keys: Key[Array, " n"]) -> Images:
    mean_keys, chain_keys = split(keys)
    chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, means))(mean_keys)
    images, _ = upwards(kernels(state.averaged()), state.buffers["means"][chosen], chain_keys, steps)
    return images[sides[-1]]

  return compose(
    init,
    [("network", Player(loss, optimizer))],
    evaluate=evaluate,
    sample=sample,
    facts={"A sample costs": f"{steps} steps of a Markov chain at each of the grids {', '.join(map(str, sides))}"},
  )


def _check_grids(sides: Sequence[int], sampled: Sequence[int], spec: Spec) -> None:
  if not sides or sides[0] < 2 or any(fine % coarse or fine == coarse for coarse, fine in pairwise(sides)):
    raise UserError(f"grids are sides from 2 on of which each divides the next, not {sides}: change them")
  if len(spec.shape) != 3 or spec.shape[:2] != (sides[-1], sides[-1]):
    size = "x".join(map(str, spec.shape[:2]))
    raise UserError(f"the last grid is that of the images, {size}, and this is {sides[-1]}: change it")
  if sampled != sides:
    raise UserError(f"there are samplers for the grids {sampled} and energies for {sides}: give each grid one")
