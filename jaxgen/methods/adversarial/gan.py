"""Generative adversarial networks: a generator G makes examples of noise z, and a discriminator D tells them from data.

    (A1)  min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))

Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, eq. 1. For a fixed G with density q the best D is p / (p + q)
(their Proposition 1), where the discriminator's loss is log 4 - 2 JSD(p || q) nats (Theorem 1): 2 log 2 = 1.386 where
nothing can be told apart.

A discriminator gives one number per example; where a loss has probabilities, D is that number's sigmoid. A loss, a
penalty, a condition and an augmentation are values, to be chosen apart from each other:

    gan(
      MLPGenerator((2,)), MLPDiscriminator(), spec=cloud.spec, latent=2,
      loss=LOSSES["non_saturating"], penalty=r1(1.0),
      generator_optimizer=optax.adam(1e-3, b1=0.0), discriminator_optimizer=optax.adam(1e-3, b1=0.0),
    )

Losses are means over examples: in nats where D is a probability, else in the unit that `LOSSES` gives them.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core.arrays import per_example, wide
from jaxgen.core.condition import UNCONDITIONAL, Condition, check_condition, check_names
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output

Event = Float[Array, "batch *shape"]
Output = Float[Array, " batch"]
Critic = Callable[[Event], Output]
Penalty = Callable[[Critic, Event, Event, Key[Array, " batch"]], Output]  # (D, x, G(z), keys)
Augment = Callable[[Key[Array, " batch"], Event], Event]

softplus, relu = jax.nn.softplus, jax.nn.relu


class Loss(NamedTuple):
  """What each player minimises, per example, as functions of D's outputs.

  Attributes:
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
    epsilon = per_example(epsilon, x)
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


def generate(generator: Any, state: State, z: Float[Array, "n latent"], told: PyTree = None) -> Event:
  """The examples of latents: by averaged parameters, where there are any, and the running statistics of the generator
  that is trained.

  Args:
    told: what the generator is told of each, labels [n] for one.
  """
  variables = {"params": state.averaged("generator"), **state.buffers["generator"]}
  return generator.apply(variables, z, told).astype(z.dtype)


class Game(NamedTuple):
  """Both networks in training, and what they are given.

  Attributes:
    generator, discriminator, spec, latent, condition, augment, draw: as in `gan`.
  """

  generator: Any
  discriminator: Any
  spec: Spec
  latent: int
  condition: Condition
  augment: Augment | None
  draw: Callable[[Array, tuple[int, ...]], Array]

  def latents(self, keys: Key[Array, " batch"], dtype: Any) -> Float[Array, "batch latent"]:
    return jax.vmap(lambda key: self.draw(key, (self.latent,)))(keys).astype(dtype)

  def make(self, params: Params, buffers: PyTree, z: Array, batch: Batch, key: Array) -> tuple[Event, PyTree]:
    """(G(z), the generator's buffers afterwards)."""
    x, buffers = self._call(self.generator, params, buffers, z, batch, key)
    return x.astype(z.dtype), buffers

  def judge(self, params: Params, buffers: PyTree, x: Event, batch: Batch, key: Array) -> tuple[Output, PyTree]:
    """(D(x), the discriminator's buffers afterwards)."""
    output, buffers = self._call(self.discriminator, params, buffers, x, batch, key)
    return wide(output), buffers

  def augmented(self, keys: Key[Array, " batch"], x: Event) -> Event:
    return x if self.augment is None else self.augment(keys, x)

  def _call(self, network: Any, params: Params, buffers: PyTree, x: Array, batch: Batch, key: Array):
    output, changed = network.apply(
      {"params": params, **buffers},
      x,
      self.condition.of(batch),
      index=batch["index"],
      rngs={"dropout": key},
      mutable=list(buffers),
    )
    return output, dict(changed)


def gan(
  generator: Any,
  discriminator: Any,
  *,
  spec: Spec,
  latent: int,
  generator_optimizer: optax.GradientTransformation,
  discriminator_optimizer: optax.GradientTransformation,
  loss: Loss = LOSSES["non_saturating"],
  k: int = 1,
  slices: tuple[int, int] | None = None,
  penalty: Penalty | None = None,
  penalty_every: int = 1,
  augment: Augment | None = None,
  draw: Callable[[Array, tuple[int, ...]], Array] = jax.random.normal,
  condition: Condition = UNCONDITIONAL,
) -> Method:
  """A generator against a discriminator. Batch {feature: [B, *shape], "index": [B]}, and what the condition reads.

  A step is k updates of the discriminator, each on its own slice of the batch, and then one of the generator against
  what they made: Goodfellow et al. 2014, Algorithm 1.

  Each player changes its own network's parameters, and in `buffers` its own network's statistics and singular vectors;
  the other network is used as it would be in its own step, and what that changes is dropped.

  Args:
    generator: a Flax module, `generator.apply(variables, z, told, index=index, rngs={"dropout": key})` -> examples.
      told is what the condition reads, None without one. Without index it samples: running statistics, no dropout. Its
      collections apart from "params" are kept in `buffers["generator"]`, and a network that has any is trained over the
      whole batch, on all devices as on one, and takes no microbatches.
    discriminator: likewise, of examples in place of z -> one number per example, [B]. It sees data and generated
      examples as two batches, each with its own batch statistics.
    spec: the data's.
    latent: the number of values of z.
    generator_optimizer, discriminator_optimizer: two of them, so two time scales: Heusel et al. 2017,
      https://arxiv.org/abs/1706.08500.
    loss: one of `LOSSES`.
    slices: into how many the batch is cut for the discriminator, whose updates take the first k, and for the generator,
      which takes the first; None: k for both, so that the generator makes as many examples as the discriminator sees of
      the data in one update. Papers often have it make more: see `cut`.
    penalty: added to the discriminator's loss: `r1(gamma)`, `gradient_penalty(weight)`. Weights are clipped by the
      optimizer: `clip_weights`.
    penalty_every: in only every so many steps, and as many times as much: Karras et al. 2020,
      https://arxiv.org/abs/1912.04958, appendix B, who also change Adam's rate and betas; that is left to you.
    augment: of all that the discriminator sees, such as `nn.diffaugment.diff_augment(...)`. The i-th example of the
      data and the i-th generated one are augmented alike, where Zhao et al. draw for each; and a penalty is on the
      gradient in the augmented example.
    draw: (key, shape) -> z, standard normal by default.
    condition: what both networks are told, `labels(spec)` for one; generated examples are asked for what the data has.
      It is never dropped.

  Average the generator alone: `averaged(method, {"generator": decay})`; the average then makes the samples.

  Metrics, with "discriminator/" before them: "loss", its part "penalty", "output_real" and "output_fake", the mean
  outputs for data and for generated examples, and where the loss has a boundary "accuracy_real" and "accuracy_fake",
  the shares of both that it tells rightly. With k > 1 they are the last update's.

  `sample(state, keys, **asked)` gives [N, *shape], of what is asked for by the condition's names; where nothing is,
  labels are drawn uniformly.

  Raises:
    UserError: k, latent or penalty_every less than 1; fewer slices than k; a batch that does not divide by the slices;
      examples of another shape; labels that are missing or not asked for; a discriminator that does not give one number
      per example.
  """
  for name, value in (("k", k), ("latent", latent), ("penalty_every", penalty_every)):
    if value < 1:
      raise UserError(f"{name} is a number of 1 or more, not {value}: change it")
  slices = slices or (k, k)
  if slices[0] < k or slices[1] < 1:
    raise UserError(
      f"the discriminator takes {k} slices of a batch and the generator 1, not of {slices}: change slices"
    )
  if condition.dropout:
    raise UserError("adversarial models have no use for a condition that is dropped: set its dropout to 0")
  for network in (generator, discriminator):
    check_condition(condition, network)
  game = Game(generator, discriminator, spec, latent, condition, augment, draw)
  players = {
    "discriminator": Player(
      _discriminator_loss(game, loss, penalty, penalty_every), discriminator_optimizer, updates=k, slices=slices[0]
    ),
    "generator": Player(_generator_loss(game, loss), generator_optimizer, slices=slices[1]),
  }
  facts = {"A sample": "1 network call"}
  return compose(_init(game, slices), list(players.items()), sample=_sample(game), facts=facts)


def cut(k: int, discriminator: int, generator: int) -> tuple[int, tuple[int, int]]:
  """The smallest batch for k updates of the discriminator with so many examples each and one of the generator with so
  many, and its `slices` for `gan`. What is left over of the batch is not looked at.

  Raises:
    UserError: neither of the two numbers divides the other.
  """
  if generator % discriminator and discriminator % generator:
    raise UserError(
      f"the generator's {generator} examples are a multiple of the discriminator's {discriminator}, or the reverse: "
      "change one of them"
    )
  larger = max(generator, discriminator)
  size = larger * math.ceil(k * discriminator / larger)
  return size, (size // discriminator, size // generator)


def _init(game: Game, slices: tuple[int, int]) -> Callable[[Array, Batch], tuple[dict[str, Params], dict]]:
  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(game.spec, batch)
    x, told = batch[game.spec.feature], game.condition.of(batch)
    for number in slices:
      if len(x) % number:
        raise UserError(f"a batch of {len(x)} does not divide into {number} slices: use a multiple of {number}")
    z_key, g_key, d_key = jax.random.split(key, 3)
    told = jax.tree.map(lambda a: a[:1], told)
    z = game.draw(z_key, (1, game.latent)).astype(x.dtype)
    made, g_variables = game.generator.init_with_output(g_key, z, told)
    check_output("what the generator makes", made.shape[1:], game.spec.shape, "change one of them")
    output, d_variables = game.discriminator.init_with_output(d_key, x[:1], told)
    check_output(
      "a discriminator's output",
      output.shape[1:],
      (),
      "it is one number per example, so sum over, or index, all but the first axis",
    )
    buffers = {"generator": dict(g_variables), "discriminator": dict(d_variables)}
    return {name: variables.pop("params", {}) for name, variables in buffers.items()}, buffers

  return init


def _discriminator_loss(game: Game, loss: Loss, penalty: Penalty | None, penalty_every: int):
  def discriminate(params: Params, state: State, batch: Batch, key: Array):
    x, buffers = batch[game.spec.feature], state.buffers["discriminator"]
    noise_key, g_key, real_key, fake_key = jax.random.split(key, 4)
    z_keys, augment_keys, penalty_keys = split(example_keys(noise_key, batch["index"]), 3)
    z = game.latents(z_keys, x.dtype)
    generated, _ = game.make(state.params["generator"], state.buffers["generator"], z, batch, g_key)
    x, generated = game.augmented(augment_keys, x), game.augmented(augment_keys, generated)
    real, changed = game.judge(params, buffers, x, batch, real_key)
    fake, changed = game.judge(params, changed, generated, batch, fake_key)
    total, metrics = jnp.mean(loss.discriminator(real, fake)), {}
    if penalty is not None:
      critic = lambda x: game.judge(params, buffers, x, batch, real_key)[0]
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

  return discriminate


def _generator_loss(game: Game, loss: Loss):
  def deceive(params: Params, state: State, batch: Batch, key: Array):
    noise_key, g_key, fake_key = jax.random.split(key, 3)
    z_keys, augment_keys, _ = split(example_keys(noise_key, batch["index"]), 3)
    z = game.latents(z_keys, batch[game.spec.feature].dtype)
    generated, changed = game.make(params, state.buffers["generator"], z, batch, g_key)
    opponent = state.params["discriminator"], state.buffers["discriminator"]
    fake, _ = game.judge(*opponent, game.augmented(augment_keys, generated), batch, fake_key)
    return jnp.mean(loss.generator(fake)), ({}, {**state.buffers, "generator": changed})

  return deceive


def _sample(game: Game) -> Callable[..., Event]:
  def sample(state: State, keys: Key[Array, " n"], **asked: Any) -> Event:
    check_names(asked, game.condition)
    z_keys, condition_keys, _ = split(keys, 3)
    told = game.condition.asked(asked, condition_keys)
    return generate(game.generator, state, game.latents(z_keys, jnp.result_type(float)), told)

  return sample
