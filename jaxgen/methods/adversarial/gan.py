"""Generative adversarial networks: a generator G makes examples of noise z, and a discriminator D tells them from data.

    (A1)  min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))

Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, eq. 1. For a fixed G with density q the best D is p / (p + q)
(their Proposition 1). The discriminator's loss is then log 4 - 2 JSD(p || q) nats (Theorem 1), which is 2 log 2 = 1.386
if p = q.

A discriminator has one output per example. In losses of probabilities, D is the output's sigmoid. The loss, the
penalty, the condition and the augmentation are chosen separately:

    gan(
      MLPGenerator((2,)), MLPDiscriminator(), spec=cloud.spec, latent=2,
      loss=LOSSES["non_saturating"], penalty=r1(1.0),
      generator_optimizer=optax.adam(1e-3, b1=0.0), discriminator_optimizer=optax.adam(1e-3, b1=0.0),
    )

Losses are means over examples: in nats if D is a probability, otherwise in the unit of the loss in `LOSSES`.
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
  """The losses of both players, per example, as functions of D's outputs.

  Attributes:
    discriminator: (output for x, output for G(z)) -> [B].
    generator: output for G(z) -> [B].
    boundary: the output above which D takes an example for real; None: the outputs have no such boundary.
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
    some = squares > 0  # the root has no derivative at 0, where the critic is constant because no unit is active
    return weight * (jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0) - 1) ** 2

  return penalty


def clip_weights(c: float) -> optax.GradientTransformation:
  """Clips every parameter to [-c, c] after the update: the critic of Arjovsky et al. 2017, Algorithm 1, line 7.

  Put it last in an `optax.chain`.

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
  """The generated examples of latents, by averaged parameters if there are any, and the current running statistics.

  Args:
    generator: the generator.
    state: the training state.
    z: the latents.
    told: the condition of each example, such as labels [n].
  """
  variables = {"params": state.averaged("generator"), **state.buffers["generator"]}
  return generator.apply(variables, z, told).astype(z.dtype)


class Game(NamedTuple):
  """Both networks in training, with their arguments.

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
  """A generator against a discriminator. Batch {feature: [B, *shape], "index": [B]}, and the condition's entries.

  A step makes k updates of the discriminator, each on its own slice of the batch, and then one update of the generator
  against the new discriminator: Goodfellow et al. 2014, Algorithm 1.

  Each player changes its own network's parameters and, in `buffers`, its own network's statistics and singular vectors.
  The other network runs in training mode, too, but its changed statistics are dropped.

  Args:
    generator: a Flax module, `generator.apply(variables, z, told, index=index, rngs={"dropout": key})` -> examples.
      told is the condition's values, None without one. Without index the network samples: running statistics, no
      dropout. Its collections other than "params" are kept in `buffers["generator"]`. A network that has such
      collections is trained on the global batch, on any number of devices, and allows no microbatches.
    discriminator: the same, with examples instead of z -> one number per example, [B]. It sees data and generated
      examples as two batches, each with its own batch statistics.
    spec: the data's spec.
    latent: the number of values of z.
    generator_optimizer, discriminator_optimizer: the two optimizers, which allow two time scales: Heusel et al. 2017,
      https://arxiv.org/abs/1706.08500.
    k: number of updates of the discriminator in a step.
    loss: one of `LOSSES`.
    slices: (numbers of slices of the batch for the discriminator, for the generator). The discriminator's updates use
      the first k slices, the generator's update the first. None: k for both, so that the generator makes as many
      examples as the discriminator sees of the data in one update. Papers often have it make more: see `cut`.
    penalty: a term of the discriminator's loss: `r1(gamma)`, `gradient_penalty(weight)`. To clip weights, use the
      optimizer `clip_weights`.
    penalty_every: add the penalty only every so many steps, times that number: Karras et al. 2020,
      https://arxiv.org/abs/1912.04958, appendix B. They also change Adam's rate and betas, which is not done here.
    augment: an augmentation of everything that the discriminator sees, such as
      `nn.adversarial.diffaugment.diff_augment(...)`. Example i of the data and generated example i have the same draws,
      while Zhao et al. draw for each. A penalty is on the gradient with respect to the augmented example.
    draw: (key, shape) -> z, standard normal by default.
    condition: the condition of both networks, such as `labels(spec)`. Generated examples have the data's conditions. It
      is never dropped.

  Average only the generator: `averaged(method, {"generator": decay})`. The average then makes the samples.

  Metrics, with the prefix "discriminator/": "loss" and its part "penalty"; "output_real" and "output_fake", the mean
  outputs for data and for generated examples; and, if the loss has a boundary, "accuracy_real" and "accuracy_fake", the
  shares of both that the discriminator classifies correctly. With k > 1 they are those of the last update.

  `sample(state, keys, **conditions)` gives [N, *shape]. Without conditions labels are drawn uniformly.

  Raises:
    UserError: k, latent or penalty_every is less than 1, there are fewer slices than k, the batch does not divide into
      the slices, examples have another shape, labels are missing or not used, or the discriminator does not give one
      number per example.
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
  """(batch size, `slices` of `gan`) for given numbers of examples in an update of the discriminator and the generator.

  It is the smallest batch for k updates of the discriminator and one of the generator. A rest of the batch is not used.

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
    check_output("the generator's output", made.shape[1:], game.spec.shape, "change one of them")
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
