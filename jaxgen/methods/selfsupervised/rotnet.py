"""RotNet: which way up is a picture? Gidaris et al. 2018, https://arxiv.org/abs/1803.07728."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.data.views import rotations
from jaxgen.methods.selfsupervised.two_views import feature_norm

TURNS = 4


def rotnet(network: Any, *, spec: Spec, optimizer: optax.GradientTransformation) -> Method:
  """A classifier of four rotations, all four of every picture in one batch (section 2.2 and eq. 3).

  The loss is in nats per rotated picture. `evaluate` gives "nll_nats" and "correct" of an example, means over its four
  rotations, and "feature_norm". It does not sample.

  Args:
    network: a Flax module with 4 logits and `features`, as `methods.supervised.classifier` takes it. A network with
      batch statistics takes no microbatches.
    spec: the data's: square pictures.
    optimizer: optax's.

  Raises:
    UserError: the pictures are not square, or the network has another number of logits.
  """
  if spec.shape[0] != spec.shape[1]:
    raise UserError(
      f"pictures of {spec.shape[0]} x {spec.shape[1]} change their shape where they are turned: crop them square"
    )

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict[str, Any]]:
    check_batch(spec, batch)
    logits, variables = network.init_with_output(key, batch[spec.feature][:1])
    check_output("the network's output", logits.shape[1:], (TURNS,), "set its classes to 4")
    return {"network": variables["params"]}, {name: tree for name, tree in variables.items() if name != "params"}

  def turned(batch: Batch) -> tuple[Array, Array]:
    return rotations(batch[spec.feature]), jnp.tile(jnp.arange(TURNS), len(batch["index"]))

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x, turns = turned(batch)
    index = TURNS * jnp.repeat(batch["index"], TURNS) + turns
    options = dict(index=index, rngs={"dropout": key}, mutable=list(state.buffers))
    logits, statistics = network.apply({"params": params, **state.buffers}, x, **options)
    nll = optax.softmax_cross_entropy_with_integer_labels(wide(logits), turns)
    return jnp.mean(nll), ({"accuracy": jnp.mean(logits.argmax(-1) == turns)}, dict(statistics))

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    x, turns = turned(batch)
    logits = wide(network.apply({"params": state.averaged(), **state.buffers}, x))
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, turns)
    of_example = lambda a: a.astype(logits.dtype).reshape(-1, TURNS).mean(1)
    found = {"nll_nats": of_example(nll), "correct": of_example(logits.argmax(-1) == turns)}
    return found | feature_norm(network, state, batch[spec.feature])

  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate)
