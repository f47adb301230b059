"""Supervised classification with any network: cross-entropy of the labels. Its features also judge samples."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose

Logits = jax.Array  # [B, K]


class Teacher(NamedTuple):
  """A trained network that a student learns from: Touvron et al. 2021, https://arxiv.org/abs/2012.12877, section 4.

  network: a Flax module, called as the student is, without `index`.
  variables: () -> its variables, {"params": .., ..}; called once, when the run's state is made, which then holds them.
  kind: "hard", cross-entropy of the teacher's largest logit; or "soft", tau^2 KL(teacher || student) of the
    distributions at temperature tau (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
  weight: share of the loss that is the teacher's; the labels have the rest. The paper's is 1/2 for hard, 0.1 for soft.
  tau: temperature of "soft".
  """

  network: Any
  variables: Callable[[], PyTree]
  kind: Literal["hard", "soft"] = "hard"
  weight: float = 0.5
  tau: float = 3.0


def classifier(
  network: Any,
  *,
  optimizer: optax.GradientTransformation,
  classes: int,
  label_smoothing: float = 0.0,
  auxiliary: float = 0.3,
  teacher: Teacher | None = None,
  ema: float | Callable[[jax.Array], jax.Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A classifier of images, batch {"image": [B, H, W, C], "label": [B] int in 0 .. classes - 1, "index": [B]}.

  In training a label may be a distribution over the classes, [B, classes], as `data.augment.mixup` makes it.

  Args:
    network: a Flax module; `network.apply(variables, image, index=index, rngs={"dropout": key})` -> logits
      [B, classes]. Without index it is evaluated: no dropout, running statistics. With index it may return further
      heads, (logits, *others); and its collections apart from "params", batch statistics, are the run's `buffers`. A
      network with such statistics is trained over the whole batch, on all devices as on one, and takes no microbatches.
    optimizer: optax's.
    label_smoothing: share of the target's mass that is spread over all classes; Szegedy et al. 2016,
      https://arxiv.org/abs/1512.00567, section 7. In training only.
    auxiliary: weight of the labels' cross-entropy of each further head, as in GoogLeNet (Szegedy et al. 2015,
      https://arxiv.org/abs/1409.4842, section 5).
    teacher: the last head learns from it. Where there are several, that one learns from it alone.
    ema: decay of the averaged parameters that evaluation then uses; None keeps none. Statistics are not averaged again.
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
  if teacher and not 0 <= teacher.weight <= 1:
    raise UserError(f"a teacher's share of the loss lies in [0, 1], and this is {teacher.weight:g}: change it")

  def init(key: jax.Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    if "label" not in batch:
      raise UserError("a classifier learns from labels and this data has none: use data with a 'label'")
    image = batch["image"][:1]
    logits, variables = network.init_with_output(key, image)
    if logits.shape != (1, classes):
      raise UserError(f"the network's output for one image is {logits.shape}, not (1, {classes}): set its classes")
    params = {"network": variables["params"]}
    if teacher:
      with jax.ensure_compile_time_eval():  # reading a run is no part of the program that makes this state
        taught = teacher.variables()
      params["teacher"] = jax.tree.map(jnp.asarray, taught)
    return params, {name: tree for name, tree in variables.items() if name != "params"}

  def loss(params: Params, state: State, batch: Batch, key: jax.Array):
    image, label = batch["image"], batch["label"]
    outputs, buffers = network.apply(
      {"params": params, **state.buffers},
      image,
      index=batch["index"],
      rngs={"dropout": key},
      mutable=list(state.buffers),
    )
    outputs = jax.tree.map(wide, outputs)
    logits, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    distribution = jax.nn.one_hot(label, classes, dtype=logits.dtype) if label.ndim == 1 else label.astype(logits.dtype)
    target = optax.smooth_labels(distribution, label_smoothing)
    taught = others.pop() if teacher and others else logits
    total = entropy(logits, target) + auxiliary * sum(entropy(other, target) for other in others)
    if teacher:
      total = (1 - teacher.weight) * total + teacher.weight * distillation(taught, state.params["teacher"], image)
    metrics = {"accuracy": jnp.mean(correct(logits, jnp.argmax(distribution, axis=-1)))}
    return total, (metrics, dict(buffers))

  def entropy(logits: Logits, target: Logits) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy(logits, target))

  def distillation(logits: Logits, variables: PyTree, image: jax.Array) -> jax.Array:
    taught = wide(jax.lax.stop_gradient(teacher.network.apply(variables, image)))
    if teacher.kind == "hard":
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.argmax(taught, axis=-1)))
    ours, theirs = (jax.nn.log_softmax(x / teacher.tau) for x in (logits, taught))
    return teacher.tau**2 * jnp.mean(jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1))

  def evaluate(state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    params = state.averaged()
    logits = wide(network.apply({"params": params, **state.buffers}, batch["image"]))
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"nll_nats": nll, "correct": correct(logits, batch["label"])}

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  return compose(init, players, evaluate=evaluate, ema=averages, microbatches=microbatches, axis=axis)


def wide(logits: Logits) -> Logits:
  """In at least float32: a cross-entropy in a network's half precision has two or three digits."""
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def correct(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 where the largest logit is the label's, else 0, in the logits' dtype. [B, K], [B] -> [B]."""
  return (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
