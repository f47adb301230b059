"""Learning from two views of an example: what SimCLR, MoCo, BYOL, SimSiam, Barlow Twins, VICReg and DINO share.

The batch has "views", [B, 2, H, W, C], from `data.views.two_views`. A network computes an `Embedding` of each view, and
an `Objective` has their loss. A target, a network whose parameters follow the trained one's, is the average
"network/target" in the run's `ema`: after every step a <- a + (1 - m) (p - a).

The trained network's batch statistics are the run's buffers. A target normalises by the statistics of its batch, and
stores none. Neither dropout nor stochastic depth is on in it, as in DINO's code, whose teacher is built without; the
networks of BYOL and MoCo have none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Buffers, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import Decay, Share, averaged
from jaxgen.data.views import VIEWS
from jaxgen.nn.blocks.residual import without_dropout
from jaxgen.nn.selfsupervised.heads import Embedding
from jaxgen.probability.embeddings import alignment, effective_dimension, uniformity

TARGET = "network/target"  # its name among the averages
Loss = Float[Array, ""]
CARRIED = "objective"  # the buffers' entry of a loss's state
Embeddings = list[Embedding]
Carried = dict[str, Array]


class Objective(NamedTuple):
  """The objective of two views' embeddings.

  Attributes:
    loss: (the views' embeddings, the target's, the loss's state, number of past steps) -> (loss, its new state). The
      target's have no gradient; without a target they are the views' own, likewise without gradient.
    jointly: both views are one batch, with common batch statistics.
    momentum: m of the target, which `averaged` takes; None: there is no target.
    groups: batch statistics are those of so many parts of the batch, each by itself; 1: of the whole batch.
    shuffled: the target sees the batch in random order, so that a query and its key share no group.
    carried: (key, number of examples, an embedding of one) -> the loss's initial state, {} if it has none.
  """

  loss: Callable[[Embeddings, Embeddings, Carried, Array], tuple[Loss, Carried]]
  jointly: bool = False
  momentum: Decay | None = None
  groups: int = 1
  shuffled: bool = False
  carried: Callable[[Array, int, Embedding], Carried] = lambda key, examples, like: {}


def toward_one(momentum: float, steps: int) -> Decay:
  """m = 1 - (1 - momentum) (cos(pi n / steps) + 1) / 2 at step n: BYOL, section 3.3; MoCo v3 and DINO, too."""
  return Share(lambda n: (1.0 - momentum) * (jnp.cos(jnp.pi * jnp.minimum(n / steps, 1.0)) + 1.0) / 2.0)


def two_views(
  network: Any,
  objective: Objective,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
) -> Method:
  """A method that learns from two views without labels.

  `evaluate` gives "feature_norm", the length of an example's features. It does not sample. Its loss is not a mean over
  examples, so it takes neither microbatches nor pmap.

  Args:
    network: called as (x [N, H, W, C], index) -> `Embedding`, with `features`: an `Embedder`.
    objective: the loss, and the treatment of the views.
    spec: the data's.
    optimizer: optax's.

  Raises:
    UserError: the batch has no views, they are not two of the data's shape, there is one example only, or the groups
      do not divide the batch.
  """

  def embed(params: Params, statistics: Buffers, x: Array, index: Int[Array, "n"], key: Array):
    variables = {"params": params, **statistics}
    return network.apply(variables, x, index, rngs={"dropout": key}, mutable=list(statistics))

  def in_groups(params: Params, statistics: Buffers, x: Array, index: Array, key: Array, order: Array | None):
    """Batch statistics of each group by itself: the stored statistics are the groups' mean."""
    if objective.groups == 1:
      return embed(params, statistics, x, index, key)
    put = lambda a: a.reshape(objective.groups, len(a) // objective.groups, *a.shape[1:])
    ordered = (lambda a: a) if order is None else (lambda a: a[order])
    found, kept = jax.vmap(embed, (None, None, 0, 0, None))(
      params, statistics, put(ordered(x)), put(ordered(index)), key
    )
    back = (lambda a: a) if order is None else (lambda a: a[jnp.argsort(order)])
    found = jax.tree.map(lambda a: back(a.reshape(-1, *a.shape[2:])), found)
    return found, jax.tree.map(lambda a: a.mean(0), kept)

  def embeddings(params: Params, statistics: Buffers, batch: Batch, key: Array, order: Array | None = None):
    """(an `Embedding` for each view, the new statistics)."""
    views, index = batch[VIEWS], batch["index"]
    numbers = [2 * index, 2 * index + 1]
    if objective.jointly:
      # View v of example i is row 2 i + v, so that an example's views lie on one device.
      both, statistics = embed(
        params, statistics, views.reshape(-1, *views.shape[2:]), jnp.stack(numbers, 1).reshape(-1), key
      )
      return [jax.tree.map(lambda a, v=v: a[v::2], both) for v in range(2)], statistics
    found = []
    for v in range(2):
      one, statistics = in_groups(params, statistics, views[:, v], numbers[v], key, order)
      found.append(one)
    return found, statistics

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], Buffers]:
    views = _check(batch, spec, objective.groups)
    like, variables = network.init_with_output(key, views[:1, 0])
    statistics = {name: tree for name, tree in variables.items() if name != "params"}
    carried = objective.carried(jax.random.fold_in(key, 1), len(views), like)
    return {"network": variables["params"]}, statistics | ({CARRIED: carried} if carried else {})

  def loss(params: Params, state: State, batch: Batch, key: Array):
    statistics = {name: tree for name, tree in state.buffers.items() if name != CARRIED}
    online_key, target_key, order_key = jax.random.split(key, 3)
    views, new = embeddings(params, statistics, batch, online_key)
    if objective.momentum is None:
      targets = views
    else:
      n = len(batch[VIEWS])
      order = jax.random.permutation(order_key, n) if objective.shuffled and objective.groups > 1 else None
      with nn.intercept_methods(without_dropout):
        targets, _ = embeddings(state.averaged(TARGET), statistics, batch, target_key, order)
    targets = jax.tree.map(jax.lax.stop_gradient, targets)
    value, carried = objective.loss(views, targets, state.buffers.get(CARRIED, {}), state.step)
    return value, (_geometry(views), {**new, **({CARRIED: carried} if carried else {})})

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    # The heads, too: a probe may read their layers.
    return length(network.apply(evaluated(state), batch[spec.feature]).h)

  method = compose(init, [("network", Player(loss, optimizer, mean=False))], evaluate=evaluate)
  return method if objective.momentum is None else averaged(method, {TARGET: objective.momentum})


def _check(batch: Batch, spec: Spec, groups: int) -> Float[Array, "batch two height width channels"]:
  """The batch's views; see `two_views` for errors."""
  if VIEWS not in batch:
    raise UserError(
      "the method learns from two views of a picture and the batch has none: put data.views.two_views(..) into the "
      "data's `augment`"
    )
  views = batch[VIEWS]
  if views.shape[1:] != (2, *spec.shape):
    found = " x ".join(map(str, views.shape[2:]))
    raise UserError(
      f"the batch has {views.shape[1]} views of {found} and the method takes 2 of the data's own size, "
      f"{' x '.join(map(str, spec.shape))}: give the views no other size, or the data this one"
    )
  if len(views) < 2:
    raise UserError("the loss compares the examples of a batch, and this has one: use a batch_size of 2 or more")
  if groups < 1 or len(views) % groups:
    raise UserError(f"{groups} groups do not divide a batch of {len(views)}: choose another batch_size, or groups")
  if groups > 1 and len(views) == groups:
    raise UserError(f"{groups} groups of one example have no statistics: use a larger batch_size, or fewer groups")
  return views


def _geometry(views: Embeddings) -> dict[str, Array]:
  """Statistics of the projections, which show a collapse: there all dimensions become one and uniformity 0."""
  a, b = (jax.lax.stop_gradient(view.z) for view in views)
  found = {"alignment": alignment(a, b), "uniformity": uniformity(a), "effective_dimension": effective_dimension(a)}
  return jax.tree.map(jax.lax.stop_gradient, found)


def feature_norm(network: Any, state: State, x: Array) -> dict[str, Float[Array, "batch"]]:
  """{"feature_norm": the length of each example's features}, by the averaged parameters and the running statistics.

  A probe reads the features themselves where they are computed here.
  """
  return length(network.apply(evaluated(state), x, method="features"))


def length(h: Float[Array, "batch features"]) -> dict[str, Float[Array, "batch"]]:
  """{"feature_norm": the length of each example's features}."""
  return {"feature_norm": jnp.sqrt(jnp.sum(wide(h) ** 2, axis=-1))}


def evaluated(state: State) -> Params:
  """The variables that are evaluated: averaged parameters and running statistics."""
  return {"params": state.averaged(), **{name: tree for name, tree in state.buffers.items() if name != CARRIED}}
