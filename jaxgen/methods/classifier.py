"""Supervised classification with any network: cross-entropy of the labels. Its features also judge samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.errors import UserError
from jaxgen.method import Batch, Method, Params, Player, State, compose


def classifier(
  network: Any,
  *,
  optimizer: optax.GradientTransformation,
  classes: int,
  label_smoothing: float = 0.0,
  ema: float | Callable[[jax.Array], jax.Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A classifier of images, batch {"image": [B, H, W, C], "label": [B] int in 0 .. classes - 1, "index": [B]}.

  Args:
    network: a Flax module; `network.apply({"params": p}, image, index=index, rngs={"dropout": key})` -> logits
      [B, classes]. Without index there is no dropout.
    optimizer: optax's.
    label_smoothing: share of the target's mass that is spread over all classes; Szegedy et al. 2016,
      https://arxiv.org/abs/1512.00567, section 7. In training only.
    ema: decay of the averaged parameters that evaluation then uses; None keeps none.
    microbatches, axis: as in `compose`.

  `evaluate` gives "nll_nats", the cross-entropy without smoothing, and "correct", 1 where the largest logit is the
  label's, else 0. It does not sample.

  Raises:
    UserError: fewer than two classes, smoothing outside [0, 1), data without labels, or a network with another number
      of logits.
  """
  if classes < 2:
    raise UserError(f"a classifier tells at least 2 classes apart, not {classes}: give the data's number of classes")
  if not 0 <= label_smoothing < 1:
    raise UserError(f"label_smoothing lies in [0, 1), and this is {label_smoothing:g}: change it")

  def init(key: jax.Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    if "label" not in batch:
      raise UserError("a classifier learns from labels and this data has none: use data with a 'label'")
    image = batch["image"][:1]
    logits, variables = network.init_with_output(key, image)
    if logits.shape != (1, classes):
      raise UserError(f"the network's output for one image is {logits.shape}, not (1, {classes}): set its classes")
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: jax.Array):
    logits = network.apply({"params": params}, batch["image"], index=batch["index"], rngs={"dropout": key})
    target = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes, dtype=logits.dtype), label_smoothing)
    metrics = {"accuracy": jnp.mean(correct(logits, batch["label"]))}
    return jnp.mean(optax.softmax_cross_entropy(logits, target)), (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    params = state.ema.get("network", state.params["network"])
    logits = network.apply({"params": params}, batch["image"])
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"nll_nats": nll, "correct": correct(logits, batch["label"])}

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  return compose(init, players, evaluate=evaluate, ema=averages, microbatches=microbatches, axis=axis)


def correct(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 where the largest logit is the label's, else 0, in the logits' dtype. [B, K], [B] -> [B]."""
  return (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
