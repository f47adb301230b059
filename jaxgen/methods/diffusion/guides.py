"""Guidance of a method's samples by a weight, and the second network that some kinds of guidance train.

sampler=Sampler(guidance=classifier_free(interval=(0.3, 2.0)))        one network, whose conditions are dropped
sampler=Sampler(guidance=autoguidance(UNet(...), optimizer))          a worse network of the same kind
sampler=Sampler(guidance=classifier(Logits(...), optimizer, labels))  one that tells from x_t what x_0 is

The mathematics is in `jaxgen.diffusion.guidance`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import masked
from jaxgen.core.condition import UNCONDITIONAL, Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, split
from jaxgen.core.method import Batch, Params, State
from jaxgen.core.spec import Spec
from jaxgen.diffusion import guidance
from jaxgen.diffusion.losses import diffuse
from jaxgen.diffusion.sampling import Denoise
from jaxgen.methods.diffusion.objective import Examples, Loss, Mask, Model, Objective, training_loss

Weights = Float[Array, "n ..."]  # [N], or of several conditions [N, K]


class Guide(NamedTuple):
  """A second network that is trained together with the first.

  Attributes:
    name: its entry in `params`.
    network: a Flax module, called like the first one.
    condition: the first network's condition -> the guide's condition.
    loss: (the first network's model, objective, condition, spec) -> the loss of its player.
  """

  name: str
  network: Any
  optimizer: optax.GradientTransformation
  condition: Callable[[Condition], Condition]
  loss: Callable[[Model, Objective, Condition, Spec], Loss]


class Asked(NamedTuple):
  """The conditions of samples.

  Attributes:
    told: the network's condition, [N, ...].
    wanted: the condition of `Guidance.condition`, [N, ...].
    mask: True for entries, False for padding; None: there is no padding.
    negative: conditions to be led away from, [N, ...] by name; {}: none.
  """

  told: Told
  wanted: Told
  mask: Mask
  negative: Mapping[str, Array] = MappingProxyType({})


class Guidance(NamedTuple):
  """A way to guide predictions, with a weight for each sample.

  Attributes:
    denoise: (model, condition, state, asked, weight [N], or [N, K] for K conditions) -> the guided denoiser.
    cost: condition -> the cost of a guided prediction besides the network's call, in words; "" without guidance.
    condition: a condition that only guidance uses; None: it uses the network's.
    guide: a network that is trained for it; None: no network.
    chained: it takes negative conditions, and a weight for each condition of several.
  """

  denoise: Callable[[Model, Condition, State, Asked, Weights], Denoise]
  cost: Callable[[Condition], str]
  condition: Condition = UNCONDITIONAL
  guide: Guide | None = None
  chained: bool = False


def classifier_free(rescale: float = 0.0, interval: tuple[float, float] | None = None) -> Guidance:
  """Classifier-free guidance, for models with dropout of their condition.

  Samples may be given negative conditions, as negative_NAME: they are led away from these, and not from no condition.
  Of several conditions, `core.condition.together`, those that are dropped are guided by one weight [N] as one, or each
  by its own, [N, K] in their order: `jaxgen.diffusion.guidance.chained`. The others stay as they are told.

  Args:
    rescale, interval: see `jaxgen.diffusion.guidance.classifier_free`.

  Raises:
    UserError: rescale lies outside [0, 1], or low < high does not hold. Sampling raises it for a model without dropout.
  """
  guidance.check(rescale, interval)

  def denoise(model: Model, condition: Condition, state: State, asked: Asked, weight: Weights) -> Denoise:
    if not condition.dropout and not asked.negative:
      raise UserError("this model has nothing to be guided by: train it with dropout of its condition, or a guide")
    params = state.averaged()
    # The mask goes along with the condition, but is never dropped.
    predict = lambda x, *rest: model.predict(params, x, rest[0], *rest[-1], *rest[1:-1])
    away = condition.away(asked.told, asked.negative)
    if np.ndim(weight) <= 1:
      both, nothing = (asked.told, asked.mask), (away, asked.mask)
      return guidance.classifier_free(predict, model.schedule, both, nothing, weight, rescale, interval)
    ways = [(told, asked.mask) for told in condition.ways(asked.told, away)]
    return guidance.chained(predict, model.schedule, ways, weight, rescale, interval)

  return Guidance(denoise, lambda condition: "each on twice the batch" if condition.dropout else "", chained=True)


def autoguidance(
  network: Any,
  optimizer: optax.GradientTransformation,
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
) -> Guidance:
  """Guidance away from a worse network of the same kind, "guide" in `params`, which learns by the same loss.

  Args:
    network: the worse network.
    optimizer: its optimizer.
    rescale, interval: see `jaxgen.diffusion.guidance.classifier_free`.

  Raises:
    UserError: rescale lies outside [0, 1], or low < high does not hold.
  """
  guidance.check(rescale, interval)

  def denoise(model: Model, condition: Condition, state: State, asked: Asked, weight: Weights) -> Denoise:
    main = model.denoise(state.averaged(), asked.told, asked.mask)
    worse = model._replace(network=network).denoise(state.averaged("guide"), asked.told, asked.mask)
    return guidance.autoguidance(main, worse, model.schedule, weight, rescale, interval)

  def loss(model: Model, objective: Objective, condition: Condition, spec: Spec) -> Loss:
    # A distribution of t that learns from losses learns only from the first network's.
    times = objective.times._replace(update=lambda buffers, t, loss: buffers)
    return training_loss(
      model._replace(network=network), objective._replace(times=times, uncertainty=None), condition, spec
    )

  guide = Guide("guide", network, optimizer, lambda condition: condition, loss)
  return Guidance(denoise, lambda condition: "one more of the guide for each", guide=guide)


def classifier(network: Any, optimizer: optax.GradientTransformation, condition: Condition) -> Guidance:
  """Guidance by the gradient of a classifier of x_t, "classifier" in `params`: Dhariwal and Nichol 2021, section 4.

  The classifier learns by cross-entropy, nats per example, with the first network's distribution of t.

  Args:
    network: (x_t, time, None) -> logits [B, classes].
    optimizer: the classifier's optimizer.
    condition: `labels(spec)`. The first network may have the same condition or none.
  """

  def log_p(model: Model, params: Params, label: Int[Array, " batch"], x: Examples, t: Array, mask: Mask) -> Array:
    of_classes = model._replace(network=network, learned_variance=False)
    (logits,) = of_classes.output(params, masked(x, mask), jnp.broadcast_to(t, x.shape[:1]), None, mask)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]

  def denoise(model: Model, first: Condition, state: State, asked: Asked, weight: Weights) -> Denoise:
    main, params = model.denoise(state.averaged(), asked.told, asked.mask), state.averaged("classifier")
    return guidance.classifier(
      main, model.schedule, lambda x, t: log_p(model, params, asked.wanted, x, t, asked.mask), weight
    )

  def loss(model: Model, objective: Objective, first: Condition, spec: Spec) -> Loss:
    def cross_entropy(params: Params, state: State, batch: Batch, key: Array):
      t_keys, eps_keys = split(example_keys(key, batch["index"]))
      t, _ = objective.times.draw(state.buffers.get("times"), key, t_keys, batch["index"])
      x_t, _ = diffuse(model.schedule, batch[spec.feature], t, eps_keys)
      mask = batch[spec.mask] if spec.mask else None
      return -jnp.mean(log_p(model, params, condition.of(batch), x_t, t, mask)), ({}, state.buffers)

    return cross_entropy

  guide = Guide("classifier", network, optimizer, lambda condition: UNCONDITIONAL, loss)
  return Guidance(denoise, lambda first: "one of the classifier and its gradient for each", condition, guide)


FREE = classifier_free()
