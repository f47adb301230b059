"""Optimizers from optax in one line each, for configs; layer-wise learning rates; masks for weight decay.

optimizers.adam(3e-4, steps, warmup=100, clip=1.0)        cosine decay to 0 after a linear warm-up
optimizers.adam(2e-4, warmup=5_000, clip=1.0)             constant after the warm-up
optimizers.sgd(0.1, steps, weight_decay=1e-4, nesterov=True)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.rates import scheduled


def schedule(
  rate: float,
  steps: int | None = None,
  *,
  warmup: int = 0,
  decay: Literal["cosine", "linear"] = "cosine",
  end: float = 0.0,
) -> optax.Schedule:
  """A learning rate as a function of the optimizer's count of updates.

  Args:
    rate: the highest learning rate.
    steps: number of training steps, including the warm-up; None: the rate is constant after the warm-up.
    warmup: number of updates over which the rate rises linearly from 0, at most half of `steps`.
    decay: the curve by which it falls to `end` at `steps`.

  Raises:
    UserError: a rate or a number of updates is negative or not finite.
  """
  _check_not_negative(rate=rate, warmup=warmup, end=end)
  if steps is None:
    return optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(rate)
  warmup = min(warmup, steps // 2)
  if decay == "linear":
    fall = optax.linear_schedule(rate, end, steps - warmup)
  else:
    fall = optax.cosine_decay_schedule(rate, steps - warmup, end / rate if rate else 0.0)
  return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), fall], [warmup]) if warmup else fall


def _check_not_negative(**numbers: float | int | None) -> None:
  for name, value in numbers.items():
    if value is not None and not 0 <= value < math.inf:
      raise UserError(f"an optimizer's {name} must be a finite number of 0 or more, not {value:g}: change it")


def adam(
  rate: float | optax.Schedule,
  steps: int | None = None,
  *,
  warmup: int = 0,
  decay: Literal["cosine", "linear"] = "cosine",
  end: float = 0.0,
  clip: float | None = None,
  weight_decay: float = 0.0,
  mask: Callable[[PyTree], PyTree] | None = None,
  **betas: Any,
) -> optax.GradientTransformation:
  """Adam, or AdamW if there is weight decay, on a `schedule`.

  Args:
    rate, steps, warmup, decay, end: as in `schedule`. If `rate` is a schedule, it is used directly.
    clip: the gradient's largest norm.
    weight_decay: decoupled weight decay of the parameters in `mask` (by default `kernels`), multiplied by the rate.
    **betas: b1, b2 and eps of optax.
  """
  _check_not_negative(clip=clip, weight_decay=weight_decay)
  rate = rate if callable(rate) else schedule(rate, steps, warmup=warmup, decay=decay, end=end)
  if weight_decay:
    optimizer = optax.adamw(rate, weight_decay=weight_decay, mask=mask or kernels, **betas)
  else:
    optimizer = optax.adam(rate, **betas)
  return scheduled(optimizer if clip is None else optax.chain(optax.clip_by_global_norm(clip), optimizer), rate)


def sgd(
  rate: float | optax.Schedule,
  steps: int | None = None,
  *,
  warmup: int = 0,
  decay: Literal["cosine", "linear"] = "cosine",
  end: float = 0.0,
  momentum: float | None = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  mask: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
  """Stochastic gradient descent on a `schedule`. Weight decay of the parameters in `mask` is added to the gradient."""
  _check_not_negative(momentum=momentum, weight_decay=weight_decay)
  rate = rate if callable(rate) else schedule(rate, steps, warmup=warmup, decay=decay, end=end)
  optimizer = optax.sgd(rate, momentum, nesterov)
  if weight_decay:
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay, mask or kernels), optimizer)
  return scheduled(optimizer, rate)


def inverse_root(rate: float, constant: int, warmup: int = 0) -> optax.Schedule:
  """EDM2's rate: `rate` for `constant` updates, then rate sqrt(constant / count), after a linear warm-up from 0.

  Karras et al. 2024, https://arxiv.org/abs/2312.02696, eq. 67.
  """
  _check_not_negative(rate=rate, warmup=warmup)

  def at(count: Array) -> Array:
    rising = jnp.minimum(count / warmup, 1.0) if warmup else 1.0
    return rate * rising / jnp.sqrt(jnp.maximum(count / constant, 1.0))

  return at


def projected(
  optimizer: optax.GradientTransformation, onto: Callable[[PyTree], PyTree]
) -> optax.GradientTransformation:
  """An optimizer with a projection of the parameters after each update: p <- onto(p + update).

  Args:
    onto: parameters -> parameters of the same structure, such as `nn.unets.edm2.forced`.
  """

  def update(updates: PyTree, state: Any, params: PyTree | None = None):
    updates, state = optimizer.update(updates, state, params)
    moved = onto(optax.apply_updates(params, updates))
    return jax.tree.map(jnp.subtract, moved, params), state

  return scheduled(optax.GradientTransformation(optimizer.init, update), getattr(optimizer, "rate", None))


def layer_decay(
  rate: float,
  depth: int,
  blocks: str = "blocks",
  last: Sequence[str] = ("head", "norm", "distillation_head", "class_block"),
) -> optax.GradientTransformation:
  """Multiplies a layer's updates by rate ** (its distance from the head). Put it last in `optax.chain`.

  Bao et al. 2022, https://arxiv.org/abs/2106.08254, Appendix G: the head, and other parameters named in `last`, have
  the factor 1; block i = 0 .. depth - 1 has rate ** (depth - i); everything before the blocks has rate ** (depth + 1).

  Args:
    rate: the factor for each layer.
    depth: number of blocks.
    blocks: the blocks' name in the parameters: stacked along the first axis, as in `nn.blocks.attention.Blocks`, or
      separately as "blocks_0", "blocks_1" ...
    last: prefixes of the top-level names that belong to the head. By default everything after the blocks in ViT, DeiT,
      CaiT and T2T-ViT: heads, the last norm, and blocks of class attention.

  Raises:
    UserError: the rate lies outside (0, 1], or the blocks are not in the parameters.
  """
  if not 0 < rate <= 1:
    raise UserError(f"layer_decay needs a rate in (0, 1], not {rate:g}: 1 gives all layers the same learning rate")

  def factor(path: Sequence[jax.tree_util.DictKey], update: Array) -> float | Array:
    names = [str(key.key) for key in path]
    if blocks in names:
      powers = rate ** jnp.arange(depth, 0, -1, dtype=update.dtype)
      if update.shape[0] != depth:
        raise UserError(
          f"the parameters have {update.shape[0]} blocks, but layer_decay was given depth={depth}: change it"
        )
      return powers.reshape(-1, *(1,) * (update.ndim - 1))
    for name in names:
      if name.startswith(f"{blocks}_") and name.removeprefix(f"{blocks}_").isdigit():
        return rate ** (depth - int(name.removeprefix(f"{blocks}_")))
    return 1.0 if names[0].startswith(tuple(last)) else rate ** (depth + 1)

  def init(params: PyTree) -> optax.EmptyState:
    names = {
      str(key.key).rstrip("0123456789") for path, _ in jax.tree_util.tree_leaves_with_path(params) for key in path
    }
    if not names & {blocks, f"{blocks}_"}:
      raise UserError(f"layer_decay finds no {blocks!r} among the parameters: give the network's name of its blocks")
    return optax.EmptyState()

  def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
    return jax.tree_util.tree_map_with_path(lambda path, u: u * factor(path, u), updates), state

  return optax.GradientTransformation(init, update)


def kernels(params: PyTree) -> PyTree:
  """True for matrices and convolutions, to which weight decay is applied; False for biases, gains and embeddings.

      optax.adamw(rate, weight_decay=0.05, mask=kernels)

  It selects parameters by their name, "kernel", because a bias of stacked blocks also has two axes.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: str(path[-1].key).endswith("kernel"), params)


def lars(
  rate: float | optax.Schedule,
  steps: int | None = None,
  *,
  warmup: int = 0,
  momentum: float = 0.9,
  weight_decay: float = 1e-6,
  trust: float = 1e-3,
) -> optax.GradientTransformation:
  """LARS on a `schedule`: You et al. 2017, https://arxiv.org/abs/1708.03888, as SimCLR and BYOL use it.

  Parameters that are not in `kernels`, such as biases and gains, have no weight decay and no trust ratio. A
  Transformer's blocks, which are stacked in one array, count as one layer.

  Args:
    rate, steps, warmup: as in `schedule`.
    momentum: the factor of the last update.
    weight_decay: is added to the gradient of kernels.
    trust: eta; a layer's learning rate is multiplied by eta |w| / |g|.
  """
  _check_not_negative(momentum=momentum, weight_decay=weight_decay, trust=trust)
  rate = rate if callable(rate) else schedule(rate, steps, warmup=warmup)
  optimizer = optax.lars(
    rate,
    weight_decay,
    weight_decay_mask=kernels,
    trust_coefficient=trust,
    trust_ratio_mask=kernels,
    momentum=momentum,
  )
  return scheduled(optimizer, rate)


def without(optimizer: optax.GradientTransformation, *names: str) -> optax.GradientTransformation:
  """The optimizer, without updates for parameters below an entry with one of these names: MoCo v3's "patches"."""

  def label(params: PyTree) -> PyTree:
    within = lambda path: any(str(key.key) in names for key in path)
    return jax.tree_util.tree_map_with_path(lambda path, _: "fixed" if within(path) else "trained", params)

  fixed = optax.multi_transform({"trained": optimizer, "fixed": optax.set_to_zero()}, label)
  return scheduled(fixed, getattr(optimizer, "rate", None))
