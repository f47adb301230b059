"""Supervised classification with any network: cross-entropy of the labels. Its features also judge samples."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output

TEACHER = "teacher"  # the entry of params that holds the teacher's variables, its statistics included
Logits = Float[Array, "batch classes"]


class Teacher(NamedTuple):
  """A trained network that a student learns from: Touvron et al. 2021, https://arxiv.org/abs/2012.12877, section 4.

  Attributes:
    network: a Flax module, called as the student is, without `index`.
    frozen: where its variables come from, {"params": .., ..}; see `interop.runs.frozen`.
    kind: "hard", cross-entropy of the teacher's largest logit; or "soft", tau^2 KL(teacher || student) of the
      distributions at temperature tau (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
    weight: share of the loss that is the teacher's; the labels have the rest. The paper's is 1/2 for hard, 0.1 for
      soft.
    tau: temperature of "soft".
  """

  network: Any
  frozen: Frozen
  kind: Literal["hard", "soft"] = "hard"
  weight: float = 0.5
  tau: float = 3.0


def classifier(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  label_smoothing: float = 0.0,
  auxiliary: float = 0.3,
  teacher: Teacher | None = None,
) -> Method:
  """A classifier of examples, batch {"image": [B, H, W, C], "label": [B] int, "index": [B]}, "image" as the spec says.

  In training a label may be a distribution over the classes, [B, classes], as `data.augment.mixup` makes it.

  The loss is in nats per example: the mean over the batch of the cross-entropy of (smoothed) labels, to which further
  heads and a teacher add theirs.

  Args:
    network: a Flax module; `network.apply(variables, image, index=index, rngs={"dropout": key})` -> logits
      [B, classes]. Without index it is evaluated: no dropout, running statistics. With index it may return further
      heads, (logits, *others); and its collections apart from "params", batch statistics, are the run's `buffers`. A
      network with such statistics is trained over the whole batch, on all devices as on one, and takes no microbatches.
    spec: the data's; it says the number of classes.
    optimizer: optax's.
    label_smoothing: share of the target's mass that is spread over all classes; Szegedy et al. 2016,
      https://arxiv.org/abs/1512.00567, section 7. In training only.
    auxiliary: weight of the labels' cross-entropy of each further head, as in GoogLeNet (Szegedy et al. 2015,
      https://arxiv.org/abs/1409.4842, section 5).
    teacher: the last head learns from it. If there are several heads, the second one learns only from it.

  `evaluate` gives "nll_nats", the cross-entropy without smoothing, in nats per example, and "correct", 1 where the
  largest logit is the label's, else 0. It does not sample.

  Raises:
    UserError: fewer than two classes, smoothing or a teacher's weight out of range, data that is not as the spec says,
      or a network with another number of logits.
  """
  classes = spec.classes or 0
  if classes < 2:
    raise UserError(f"a classifier tells at least 2 classes apart, not {classes}: use data with that many")
  if not 0 <= label_smoothing < 1:
    raise UserError(f"label_smoothing lies in [0, 1), and this is {label_smoothing:g}: change it")
  if teacher and not 0 <= teacher.weight <= 1:
    raise UserError(f"a teacher's share of the loss lies in [0, 1], and this is {teacher.weight:g}: change it")

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict[str, Any]]:
    check_batch(spec, batch, labels=True)
    example = batch[spec.feature][:1]
    logits, variables = network.init_with_output(key, example)
    check_output("the network's output", logits.shape[1:], (classes,), "set its classes")
    statistics = {name: tree for name, tree in variables.items() if name != "params"}
    params = {"network": variables["params"]}
    if teacher:
      params[TEACHER] = teacher.network.init(jax.random.fold_in(key, 1), example)
    return params, statistics

  def loss(params: Params, state: State, batch: Batch, key: Array):
    example, label = batch[spec.feature], batch["label"]
    variables = {"params": params, **state.buffers}
    options = dict(index=batch["index"], rngs={"dropout": key}, mutable=list(state.buffers))
    outputs, statistics = network.apply(variables, example, **options)
    heads = [wide(logits) for logits in (outputs if isinstance(outputs, tuple) else (outputs,))]
    distribution = jax.nn.one_hot(label, classes) if label.ndim == 1 else label
    distribution = distribution.astype(heads[0].dtype)
    target = optax.smooth_labels(distribution, label_smoothing)
    # A second head learns only from the teacher.
    labelled = heads[:-1] if teacher and len(heads) > 1 else heads
    total = heads_loss(labelled, target, auxiliary)
    if teacher:
      theirs = wide(jax.lax.stop_gradient(teacher.network.apply(state.params[TEACHER], example)))
      taught = jnp.mean(distillation(heads[-1], theirs, teacher.kind, teacher.tau))
      total = (1 - teacher.weight) * total + teacher.weight * taught
    accuracy = jnp.mean(correct(heads[0], jnp.argmax(distribution, axis=-1)))
    return total, ({"accuracy": accuracy}, dict(statistics))

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    logits = wide(network.apply({"params": state.averaged(), **state.buffers}, batch[spec.feature]))
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"nll_nats": nll, "correct": correct(logits, batch["label"])}

  frozen = {TEACHER: teacher.frozen} if teacher else {}
  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate, frozen=frozen)


def heads_loss(heads: list[Logits], target: Logits, auxiliary: float) -> Float[Array, ""]:
  """The mean cross-entropy of the first head, and `auxiliary` times that of each further one."""
  first, *others = [jnp.mean(optax.softmax_cross_entropy(logits, target)) for logits in heads]
  return first + auxiliary * sum(others)


def distillation(ours: Logits, theirs: Logits, kind: Literal["hard", "soft"], tau: float) -> Float[Array, "batch"]:
  """The loss of a student's logits against a teacher's, in nats per example; see `Teacher`."""
  if kind == "hard":
    return optax.softmax_cross_entropy_with_integer_labels(ours, jnp.argmax(theirs, axis=-1))
  student, teacher = jax.nn.log_softmax(ours / tau), jax.nn.log_softmax(theirs / tau)
  return tau**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def correct(logits: Logits, label: Int[Array, "batch"]) -> Float[Array, "batch"]:
  """1 where the largest logit is the label's, else 0, in the logits' dtype."""
  return (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
