"""Generative adversarial networks: a generator G makes examples of noise z, and a discriminator D tells them from data.

    (A1)  min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))

Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, eq. 1. For a fixed G with density q the best D is p / (p + q)
(their Proposition 1), where the discriminator's loss is log 4 - 2 JSD(p || q) nats (Theorem 1): 2 log 2 = 1.386 where
nothing can be told apart.

A discriminator gives one number per example; where a loss has probabilities, D is that number's sigmoid. A loss, a
penalty and an augmentation are values, to be chosen apart from each other:

    gan(
      MLPGenerator((2,)), MLPDiscriminator(), shape=(2,), latent=2, feature="x",
      loss=LOSSES["non_saturating"], penalty=r1(1.0),
      generator_optimizer=optax.adam(1e-3, b1=0.0), discriminator_optimizer=optax.adam(1e-3, b1=0.0),
    )
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose

Event = Float[Array, "batch *shape"]
Output = Float[Array, " batch"]
Label = Int[Array, " batch"]
Critic = Callable[[Event], Output]
Penalty = Callable[[Critic, Event, Event, Key[Array, " batch"]], Output]  # (D, x, G(z), keys)
Augment = Callable[[Key[Array, " batch"], Event], Event]

softplus, relu = jax.nn.softplus, jax.nn.relu


class Loss(NamedTuple):
  """What each player minimises, per example, as functions of D's outputs.

  discriminator: (output for x, output for G(z)) -> [B].
  generator: output for G(z) -> [B].
  boundary: D takes for real what has a larger output; None where the outputs say no such thing.
  """

  discriminator: Callable[[Output, Output], Output]
  generator: Callable[[Output], Output]
  boundary: float | None = 0.0


# softplus(-l) is -log D and softplus(l) is -log(1 - D), with D the sigmoid of l.
LOSSES = {
  # Goodfellow et al. 2014, eq. 1 and Algorithm 1, in nats.
  "minimax": Loss(lambda x, g: softplus(-x) + softplus(g), lambda g: -softplus(g)),
  # The same paper, end of section 3: the generator maximises log D(G(z)).
  "non_saturating": Loss(lambda x, g: softplus(-x) + softplus(g), lambda g: softplus(-g)),
  # Mao et al. 2017, https://arxiv.org/abs/1611.04076, eq. 9: a = 0, b = c = 1.
  "least_squares": Loss(lambda x, g: ((x - 1) ** 2 + g**2) / 2, lambda g: (g - 1) ** 2 / 2, 0.5),
  # Lim and Ye 2017, https://arxiv.org/abs/1705.02894; Miyato et al. 2018, https://arxiv.org/abs/1802.05957, eq. 16, 17.
  "hinge": Loss(lambda x, g: relu(1 - x) + relu(1 + g), lambda g: -g),
  # Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875, eq. 2 and Algorithm 1: minus the estimated distance.
  "wasserstein": Loss(lambda x, g: g - x, lambda g: -g, None),
}
LossName = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]


def _squares(critic: Critic, x: Event) -> Output:
  """The squared norm of each example's gradient of D."""
  gradient = jax.grad(lambda x: critic(x).sum())(x)
  return jnp.sum(jnp.square(gradient).reshape(len(x), -1), axis=1)


def r1(gamma: float) -> Penalty:
  """gamma / 2 ||grad D(x)||^2 at the data: Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, eq. 9."""
  return lambda critic, x, generated, keys: gamma / 2 * _squares(critic, x)


def gradient_penalty(weight: float = 10.0) -> Penalty:
  """weight (||grad D(x_hat)|| - 1)^2, x_hat drawn uniformly between x and G(z): Gulrajani et al. 2017.

  https://arxiv.org/abs/1704.00028, eq. 3 and Algorithm 1. For critics without batch statistics: their section 4.
  """

  def penalty(critic: Critic, x: Event, generated: Event, keys: Key[Array, " batch"]) -> Output:
    epsilon = jax.vmap(lambda key: jax.random.uniform(key, dtype=x.dtype))(keys)
    epsilon = epsilon.reshape(-1, *(1,) * (x.ndim - 1))
    squares = _squares(critic, epsilon * x + (1 - epsilon) * generated)
    some = squares > 0  # the root has no derivative at 0, where units that do not fire leave the critic flat
    return weight * (jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0) - 1) ** 2

  return penalty


def clip_weights(c: float) -> optax.GradientTransformation:
  """Leaves every parameter in [-c, c] after the update; the last in an `optax.chain`. For the critic of Arjovsky et
  al. 2017, Algorithm 1, line 7.

  Raises:
    UserError: c is not positive.
  """
  if not c > 0:
    raise UserError(f"weights are clipped to [-c, c] with c > 0, and this is {c:g}: change it")

  def update(updates: PyTree, state: optax.EmptyState, params: PyTree):
    def clipped(u: Array, p: Array) -> Array:
      inside = c * (1 - 2 * float(jnp.finfo(p.dtype).eps))  # adding the update to p rounds once more
      return jnp.clip(p + u, -inside, inside) - p

    return jax.tree.map(clipped, updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
  """Latents in [-1, 1], as in DCGAN."""
  return jax.random.uniform(key, shape, minval=-1.0)


def generate(generator: Any, state: State, z: Float[Array, "n latent"], label: Label | None = None) -> Event:
  """The examples of latents: by averaged parameters, where there are any, and the running statistics of the generator
  that is trained."""
  variables = {"params": state.averaged("generator"), **state.buffers["generator"]}
  return generator.apply(variables, z, label).astype(z.dtype)


def gan(
  generator: Any,
  discriminator: Any,
  *,
  shape: tuple[int, ...],
  latent: int,
  generator_optimizer: optax.GradientTransformation,
  discriminator_optimizer: optax.GradientTransformation,
  loss: Loss = LOSSES["non_saturating"],
  k: int = 1,
  penalty: Penalty | None = None,
  penalty_every: int = 1,
  augment: Augment | None = None,
  draw: Callable[[Array, tuple[int, ...]], Array] = jax.random.normal,
  classes: int | None = None,
  feature: str = "image",
  ema: float | Callable[[Array], Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A generator against a discriminator. Batch {feature: [B, *shape], "index": [B]}, and "label" [B] with classes.

  A step is k updates of the discriminator, each on its own k-th of the batch, and then one of the generator against
  what they made, with as many examples as each of them had: Goodfellow et al. 2014, Algorithm 1.

  Each player changes its own network's parameters, and in `buffers` its own network's statistics and singular vectors;
  the other network is used as it would be in its own step, and what that changes is dropped.

  Args:
    generator: a Flax module, `generator.apply(variables, z, label, index=index, rngs={"dropout": key})` -> examples.
      label is None without classes. Without index it samples: running statistics, no dropout. Its collections apart
      from "params" are kept in `buffers["generator"]`, and a network that has any is trained over the whole batch, on
      all devices as on one, and takes no microbatches.
    discriminator: likewise, of examples in place of z -> one number per example, [B]. It sees data and generated
      examples as two batches, each with its own batch statistics.
    shape: of one example.
    latent: the number of values of z.
    generator_optimizer, discriminator_optimizer: two of them, so two time scales: Heusel et al. 2017,
      https://arxiv.org/abs/1706.08500.
    loss: one of `LOSSES`.
    penalty: added to the discriminator's loss: `r1(gamma)`, `gradient_penalty(weight)`. Weights are clipped by the
      optimizer: `clip_weights`.
    penalty_every: in only every so many steps, and as many times as much: Karras et al. 2020,
      https://arxiv.org/abs/1912.04958, appendix B, who also change Adam's rate and betas; that is left to you.
    augment: of all that the discriminator sees, such as `nn.diffaugment.diff_augment(...)`. The i-th example of the
      data and the i-th generated one are augmented alike, where Zhao et al. draw for each; and a penalty is on the
      gradient in the augmented example.
    draw: (key, shape) -> z, standard normal by default.
    classes: condition both networks on batch["label"], an int in 0 .. classes - 1; generated examples are asked for the
      labels that the data has. None: unconditional.
    feature: the examples' name in a batch.
    ema: decay of the generator's averaged parameters, which then make the samples.
    microbatches, axis: as in `compose`.

  Metrics, with "discriminator/" before them: "loss", its part "penalty", "output_real" and "output_fake", the mean
  outputs for data and for generated examples, and where the loss has a boundary "accuracy_real" and "accuracy_fake",
  the shares of both that it tells rightly. With k > 1 they are the last update's.

  `sample(state, keys, label=None)` gives [N, *shape]. label [N]: drawn uniformly by a model of classes that is given
  none.

  Raises:
    UserError: k, latent or penalty_every less than 1; a batch that does not divide by k; examples of another shape;
      labels that are missing or not asked for; a discriminator that does not give one number per example.
  """
  for name, value in (("k", k), ("latent", latent), ("penalty_every", penalty_every)):
    if value < 1:
      raise UserError(f"{name} is a number of 1 or more, not {value}: change it")

  def labels(batch: Batch) -> Label | None:
    if classes is None:
      return None
    if "label" not in batch:
      raise UserError("a class-conditional model learns from labels and this data has none: use classes=None")
    return batch["label"]

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    if feature not in batch:
      raise UserError(f"the model is of {feature!r} and this data has {', '.join(sorted(batch))}: change its feature")
    x, label = batch[feature], labels(batch)
    if x.shape[1:] != shape:
      raise UserError(f"the model makes examples of shape {shape} and the data has {x.shape[1:]}: change one of them")
    if len(x) % k:
      raise UserError(f"a batch of {len(x)} does not divide into k = {k} parts: use a multiple of {k}")
    z_key, g_key, d_key = jax.random.split(key, 3)
    label = None if label is None else label[:1]
    z = draw(z_key, (1, latent)).astype(x.dtype)
    made, g_variables = generator.init_with_output(g_key, z, label)
    if made.shape[1:] != shape:
      raise UserError(f"the generator makes examples of shape {made.shape[1:]}, not {shape}: change one of them")
    output, d_variables = discriminator.init_with_output(d_key, x[:1], label)
    if output.shape != (1,):
      raise UserError(
        f"a discriminator gives one number per example, [B], and this one's output for 1 example has shape "
        f"{output.shape}: sum over, or index, all but the first axis"
      )
    both = {"generator": dict(g_variables), "discriminator": dict(d_variables)}
    params = {name: variables.pop("params", {}) for name, variables in both.items()}
    return params, both

  def call(network: Any, params: Params, buffers: PyTree, x: Array, batch: Batch, key: Array) -> tuple[Array, PyTree]:
    """A network in training: (its output, its buffers afterwards)."""
    output, changed = network.apply(
      {"params": params, **buffers},
      x,
      labels(batch),
      index=batch["index"],
      rngs={"dropout": key},
      mutable=list(buffers),
    )
    return output, dict(changed)

  def judge(params: Params, buffers: PyTree, x: Event, batch: Batch, key: Array) -> tuple[Output, PyTree]:
    output, buffers = call(discriminator, params, buffers, x, batch, key)
    return output.astype(jnp.promote_types(output.dtype, jnp.float32)), buffers

  def latents(keys: Key[Array, " batch"], dtype: Any) -> Float[Array, "batch latent"]:
    return jax.vmap(lambda key: draw(key, (latent,)))(keys).astype(dtype)

  def augmented(keys: Key[Array, " batch"], x: Event) -> Event:
    return x if augment is None else augment(keys, x)

  def discriminate(params: Params, state: State, batch: Batch, key: Array):
    x, buffers = batch[feature], state.buffers["discriminator"]
    noise_key, g_key, real_key, fake_key = jax.random.split(key, 4)
    z_keys, augment_keys, penalty_keys = _three(example_keys(noise_key, batch["index"]))
    z = latents(z_keys, x.dtype)
    generated, _ = call(generator, state.params["generator"], state.buffers["generator"], z, batch, g_key)
    x, generated = augmented(augment_keys, x), augmented(augment_keys, generated.astype(x.dtype))
    real, changed = judge(params, buffers, x, batch, real_key)
    fake, changed = judge(params, changed, generated, batch, fake_key)
    total, metrics = jnp.mean(loss.discriminator(real, fake)), {}
    if penalty is not None:
      critic = lambda x: judge(params, buffers, x, batch, real_key)[0]
      now = lambda: jnp.mean(penalty(critic, x, generated, penalty_keys)) * penalty_every
      if penalty_every == 1:
        metrics["penalty"] = now()
      else:
        metrics["penalty"] = jax.lax.cond(state.step % penalty_every == 0, now, lambda: jnp.zeros((), total.dtype))
      total += metrics["penalty"]
    metrics |= {"output_real": real.mean(), "output_fake": fake.mean()}
    if loss.boundary is not None:
      metrics["accuracy_real"] = jnp.mean((real > loss.boundary).astype(real.dtype))
      metrics["accuracy_fake"] = jnp.mean((fake <= loss.boundary).astype(fake.dtype))
    return total, (metrics, {**state.buffers, "discriminator": changed})

  def deceive(params: Params, state: State, batch: Batch, key: Array):
    dtype = batch[feature].dtype
    noise_key, g_key, fake_key = jax.random.split(key, 3)
    z_keys, augment_keys, _ = _three(example_keys(noise_key, batch["index"]))
    z = latents(z_keys, dtype)
    generated, changed = call(generator, params, state.buffers["generator"], z, batch, g_key)
    generated = augmented(augment_keys, generated.astype(dtype))
    opponent = state.params["discriminator"], state.buffers["discriminator"]
    fake, _ = judge(*opponent, generated, batch, fake_key)
    return jnp.mean(loss.generator(fake)), ({}, {**state.buffers, "generator": changed})

  def sample(state: State, keys: Key[Array, " n"], label: Int[Array, " n"] | None = None) -> Event:
    if label is not None and classes is None:
      raise UserError("this model is unconditional and takes no labels: sample without them")
    z_keys, label_keys, _ = _three(keys)
    if label is None and classes is not None:
      label = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(label_keys)
    return generate(generator, state, latents(z_keys, jnp.result_type(float)), label)

  players = [("discriminator", Player(discriminate, discriminator_optimizer))] * k
  players += [("generator", Player(deceive, generator_optimizer))]
  averages = {} if ema is None else {"generator": ema}
  how = dict(ema=averages, microbatches=microbatches, axis=axis, facts={"A sample": "1 network call"})
  return compose(init, players, sample=sample, **how)


def _three(keys: Key[Array, " n"]) -> Key[Array, "3 n"]:
  return jax.vmap(partial(jax.random.split, num=3), out_axes=1)(keys)
