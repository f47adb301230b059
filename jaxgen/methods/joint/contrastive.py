"""Dual encoders of pictures and texts, trained by contrast within the global batch: CLIP, ALIGN, UniCL, SigLIP, LiT."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.methods.joint.losses import Loss, infonce

TEXT = "tokens"  # the texts' name in a batch
LOCKED = "image"  # the entry of params that holds a locked tower for pictures
MOST = math.log(100.0)  # of CLIP's log_scale: section 2.5


def bounded(optimizer: optax.GradientTransformation, most: float = MOST) -> optax.GradientTransformation:
  """The optimizer, whose updates keep the parameter "log_scale" in [0, most]: CLIP's, section 2.5.

  SigLIP's is not bounded: Algorithm 1 has no clipping.
  """

  def update(grads: PyTree, state: Any, params: PyTree) -> tuple[PyTree, Any]:
    updates, state = optimizer.update(grads, state, params)

    def kept(path, u, p):
      return jnp.clip(p + u, 0, most).astype(p.dtype) - p if str(path[-1].key) == "log_scale" else u

    return jax.tree_util.tree_map_with_path(kept, updates, params), state

  return optax.GradientTransformation(optimizer.init, update)


def contrastive(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  loss: Loss | None = None,
  locked: Frozen | None = None,
) -> Method:
  """A dual encoder, batch {"image": [B, H, W, C], "tokens": [B, T] int, "index": [B]}, and "label" for UniCL.

  The loss is in nats per example and over the global batch: it takes no microbatches. Only UniCL treats examples with
  equal texts as positives of each other.

  Args:
    network: a `nn.joint.dual.DualEncoder`, or a network with the same interface.
    spec: of the pictures, the data's.
    optimizer: optax's; see `bounded`. Weight decay is not for the temperature: `optimizers.kernels`.
    loss: from `methods.joint.losses`; None: CLIP's `infonce`.
    locked: the parameters of the tower for pictures, which is not trained: LiT, Zhai et al. 2021,
      https://arxiv.org/abs/2111.07991. The tower has no batch statistics then.

  `evaluate` gives the features "image_features" and "text_features", [B, features], and "similarity", the cosine of an
  example's own, [B]. It does not sample.

  Raises:
    UserError: a batch of one example, data without tokens, or a locked tower with batch statistics.
  """
  contrast = loss or infonce()

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict[str, Any]]:
    check_batch(spec, batch)
    if TEXT not in batch:
      raise UserError(f"a dual encoder learns from pictures and texts, and this data has no {TEXT!r}: use captions")
    if len(batch[TEXT]) < 2:
      raise UserError("a batch of one example has nothing to tell it from: use a batch_size of 2 or more")
    variables = network.init(key, batch[spec.feature][:1], batch[TEXT][:1])
    params, statistics = dict(variables["params"]), {n: tree for n, tree in variables.items() if n != "params"}
    if locked is None:
      return {"network": params}, statistics
    if statistics:
      raise UserError("a locked tower has no batch statistics, and this one has: use a ViT")
    return {LOCKED: params.pop("image"), "network": params}, {}

  def variables_of(params: Params, state: State) -> dict[str, Any]:
    tower = {} if locked is None else {"image": jax.lax.stop_gradient(state.params[LOCKED])}
    return {"params": {**params, **tower}, **state.buffers}

  def of_batch(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, tuple[dict, Any]]:
    joint, statistics = network.apply(
      variables_of(params, state),
      batch[spec.feature],
      batch[TEXT],
      index=batch["index"],
      rngs={"dropout": key},
      mutable=list(state.buffers),
    )
    hit = jnp.argmax(joint.image @ joint.text.T, axis=1) == jnp.arange(len(joint.image))
    metrics = {"accuracy": jnp.mean(hit.astype(joint.image.dtype)), "temperature": jnp.exp(-joint.log_scale)}
    return contrast(joint, batch), (metrics, dict(statistics))

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch ..."]]:
    joint = network.apply(variables_of(state.averaged(), state), batch[spec.feature], batch[TEXT])
    similarity = jnp.sum(joint.image * joint.text, axis=-1)
    return {"image_features": joint.image, "text_features": joint.text, "similarity": similarity}

  frozen = {} if locked is None else {LOCKED: locked}
  player = Player(of_batch, optimizer, mean=False)
  return compose(init, [("network", player)], evaluate=evaluate, frozen=frozen)
