"""Variational autoencoders: Kingma and Welling 2013, https://arxiv.org/abs/1312.6114, and importance-weighted ones,
Burda et al. 2016, https://arxiv.org/abs/1509.00519.

With z ~ N(0, I) and q(z | x) = N(mu, diag(sigma^2)) the bounds on log p(x) that are trained are, in nats per example,

    (A1)  E_q [log p(x | z)] - KL(q(z | x) || N(0, I))          Kingma and Welling's eq. 3, the KL as in Appendix B
    (A2)  E log 1/k sum_i w_i,  w_i = p(x, z_i) / q(z_i | x)    Burda et al.'s eq. 8, z_i ~ q(z | x) independent

with z = mu + sigma eps, so that gradients reach the encoder. (A2) with k = 1 is (A1), the KL estimated from its sample;
it rises with k to log p(x).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Method, Metrics, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.probability.distributions import Distribution, check_values, nll_name

Image = Float[Array, "batch height width channels"]
Latent = Float[Array, "batch latent"]
Latents = Float[Array, "batch k latent"]  # or noise of that shape: k for each example
Outputs = Float[Array, "*rest height width outputs"]  # of a decoder, see `jaxgen.nn.autoencoders.vae`
Values = Float[Array, "*rest height width channels"]


# The likelihood p(x | z), whose parameters a decoder gives ------------------------------------------------------------


def check_likelihood(likelihood: Distribution, levels: int | None) -> None:
  """Raises a UserError where data of so many levels, None for real numbers, do not have this likelihood."""
  if likelihood.values != 1 or likelihood.mean is None:
    raise UserError("a decoder's values are independent given z: take the likelihood bernoulli, logistic or gaussian")
  if likelihood.levels not in (None, levels):
    has = "real numbers" if levels is None else f"integers of {levels} levels"
    wants = "binary data" if likelihood.levels == 2 else f"data of {likelihood.levels} levels"
    raise UserError(f"the likelihood is of {wants}, and these are {has}: change it, or transform the data")


def check_decoder(likelihood: Distribution, spec: Spec, output: Array) -> None:
  """Raises a UserError if a decoder's output lacks some of the likelihood's parameters of an image or a clip."""
  *sides, channels = spec.shape
  expected = *sides, likelihood.parameters * channels
  check_output("the decoder's output", output.shape[1:], expected, "set its shape and outputs")


def parameters(likelihood: Distribution, output: Outputs) -> Float[Array, "*rest height width channels p"]:
  """A decoder's parameters of each value: [..., H, W, P C] -> [..., H, W, C, P]."""
  each = output.reshape(*output.shape[:-1], likelihood.parameters, -1)
  return jnp.moveaxis(each, -2, -1)


def log_prob(likelihood: Distribution, output: Outputs, x: Values) -> Float[Array, "*rest"]:
  """log p(x | z), nats: the sum over all values."""
  each = likelihood.log_prob(parameters(likelihood, output), x[..., None])
  return jnp.sum(each, axis=(-3, -2, -1))


def average(likelihood: Distribution, output: Outputs) -> Values:
  """Each value's mean, in [-1, 1] where the values are."""
  return likelihood.mean(parameters(likelihood, output))[..., 0]


def draw(likelihood: Distribution, keys: Key[Array, " n"], output: Outputs) -> Float[Array, "n *values"]:
  """Each value from its distribution."""

  def one(key: Key[Array, ""], each: Array) -> Array:
    flat = each.reshape(-1, likelihood.parameters)
    return jax.vmap(likelihood.sample)(jax.random.split(key, len(flat)), flat).reshape(each.shape[:-1])

  return jax.vmap(one)(keys, parameters(likelihood, output))


# The model and its bounds ---------------------------------------------------------------------------------------------


class Model(NamedTuple):
  """q(z | x), p(x | z) and what z is.

  Attributes:
    integers: nats that make -log of a dequantized density a bound on the integers'; see `distributions.nll_name`.
  """

  encoder: Any
  decoder: Any
  likelihood: Distribution
  latent: int
  integers: float

  def encode(self, params: Params, x: Image) -> tuple[Latent, Latent]:
    """mu and log sigma."""
    return self.encoder.apply({"params": params["encoder"]}, x)

  def decode(self, params: Params, z: Float[Array, "*rest latent"]) -> Outputs:
    output = self.decoder.apply({"params": params["decoder"]}, z.reshape(-1, self.latent))
    return output.reshape(*z.shape[:-1], *output.shape[1:])


def kl(mean: Float[Array, "batch *latent"], log_std: Float[Array, "batch *latent"]) -> Float[Array, "batch *latent"]:
  """KL(N(mean, std^2) || N(0, 1)) of each latent dimension, nats; Kingma and Welling's Appendix B."""
  return 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std


def reconstruction(
  model: Model, params: Params, x: Image, mu: Latent, log_sigma: Latent, eps: Latents
) -> tuple[Float[Array, "batch k"], Latents]:
  """(log p(x | z), z) of each z = mu + sigma eps."""
  z = mu[:, None] + jnp.exp(log_sigma)[:, None] * eps
  repeated = jnp.broadcast_to(x[:, None], (*z.shape[:2], *x.shape[1:]))
  return log_prob(model.likelihood, model.decode(params, z), repeated) - model.integers, z


def log_weights(
  model: Model, params: Params, x: Image, mu: Latent, log_sigma: Latent, eps: Latents
) -> Float[Array, "batch k"]:
  """log w of (A2)."""
  log_p_x, z = reconstruction(model, params, x, mu, log_sigma, eps)
  return log_p_x + jnp.sum(0.5 * (eps**2 - z**2) + log_sigma[:, None], axis=2)


def elbo_loss(
  model: Model, params: Params, x: Image, keys: Key[Array, " batch"], k: int, beta: float, free_bits: float
) -> tuple[Float[Array, ""], Metrics]:
  """Minus (A1), nats per example, the KL times beta; a dimension whose mean KL is below free_bits counts as that."""
  mu, log_sigma = model.encode(params, x)
  eps = normal(keys, (k, model.latent), mu.dtype)
  nats = -jnp.mean(reconstruction(model, params, x, mu, log_sigma, eps)[0])
  each = jnp.mean(kl(mu, log_sigma), axis=0)
  divergence = jnp.sum(jnp.maximum(each, free_bits) if free_bits else each)
  return nats + beta * divergence, {"reconstruction_nats": nats, "kl_nats": jnp.sum(each)}


def importance_loss(
  model: Model, params: Params, x: Image, keys: Key[Array, " batch"], k: int
) -> tuple[Float[Array, ""], Metrics]:
  """Minus (A2), nats per example."""
  mu, log_sigma = model.encode(params, x)
  log_w = log_weights(model, params, x, mu, log_sigma, normal(keys, (k, model.latent), mu.dtype))
  bound = jax.nn.logsumexp(log_w, axis=1) - math.log(k)
  return -jnp.mean(bound), {"elbo_nats": -jnp.mean(log_w)}


def bounds(
  model: Model, params: Params, x: Image, keys: Key[Array, " batch"], count: int, chunk: int
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
  """Minus (A1) and minus (A2) of each example from the same `count` samples of z, `chunk` of them at once."""
  mu, log_sigma = model.encode(params, x)

  def add(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
    """Sums of log w and of w over one chunk more; the latter as its logarithm."""
    total, log_total = carry
    eps = normal(fold_in(keys, i), (chunk, model.latent), mu.dtype)
    log_w = log_weights(model, params, x, mu, log_sigma, eps)
    counts = i * chunk + jnp.arange(chunk) < count
    total += jnp.sum(jnp.where(counts, log_w, 0), axis=1)
    return (total, jnp.logaddexp(log_total, jax.nn.logsumexp(log_w, axis=1, where=counts))), None

  nothing = jnp.zeros_like(mu[:, 0])
  (total, log_total), _ = jax.lax.scan(add, (nothing, nothing - jnp.inf), jnp.arange(-(-count // chunk)))
  return -total / count, math.log(count) - log_total


# The method -----------------------------------------------------------------------------------------------------------


def vae(
  encoder: Any,
  decoder: Any,
  likelihood: Distribution,
  *,
  spec: Spec,
  latent: int,
  optimizer: optax.GradientTransformation,
  k: int = 1,
  importance_weighted: bool = False,
  beta: float = 1.0,
  free_bits: float = 0.0,
  importance_samples: int = 5_000,
  chunk: int = 50,
  drawn: bool = True,
) -> Method:
  """Maximum likelihood by (A1) or (A2). Batch {spec.feature: [B, H, W, C], "index": [B]}.

  Args:
    encoder: `encoder.apply({"params": p}, x)` -> (mu, log sigma), each [B, latent]; see `jaxgen.nn.autoencoders.vae`.
    decoder: `decoder.apply({"params": p}, z)` -> [B, H, W, likelihood.parameters * C].
    likelihood: p(x | z) of each value: `bernoulli`, `logistic` or `gaussian` of `jaxgen.probability.distributions`.
    spec: of the data, images (H, W, C). With a Gaussian likelihood its levels are of integers that
      `data.transforms.dequantize(levels)` spread; or None for real data, whose density is wanted.
    latent: number of z's dimensions.
    k: samples of z for each example of a training batch.
    importance_weighted: train by (A2), else by (A1) with its first term averaged over the k samples.
    beta: factor of the KL; Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.
    free_bits: lambda in nats: a latent dimension whose KL, averaged over the batch, is below it counts as lambda;
      Kingma et al. 2016, https://arxiv.org/abs/1606.04934, Appendix C.8. Such a loss is no mean over examples, so it
      takes no microbatches.
    importance_samples: N, samples of z for each evaluated example.
    chunk: how many of them are computed at once; another number draws other ones.
    drawn: samples are drawn from p(x | z); else they are its means, as papers often show.

  The loss is minus the bound over the number of an image's values, in nats per value. The metrics "reconstruction_nats"
  and "kl_nats", or "elbo_nats", are in nats per example.

  `evaluate` gives "nll_nats_elbo", minus (A1), and "nll_nats_importance_N", minus (A2) with k = N, Burda et al.'s test
  likelihood, both from the same N samples and without beta and free bits; both are upper bounds on -log p(x) in
  expectation. With a Gaussian likelihood the names begin with "nll_nats_dequantized" or "nll_nats_density".

  `sample(state, keys)` gives [N, H, W, C]: z of the prior, then x.

  Raises:
    UserError: a likelihood of other data, such as Bernoulli's of data that are not binary; beta or free bits below 0,
      or either changed for (A2); no latent dimensions or samples; in `init`, images or networks of another shape.
  """
  check_likelihood(likelihood, spec.levels)
  check_sizes("a variational autoencoder", latent=latent, k=k, importance_samples=importance_samples, chunk=chunk)
  for weight_name, weight in dict(beta=beta, free_bits=free_bits).items():
    if weight < 0:
      raise UserError(f"{weight_name} is 0 or more, and this is {weight:g}: change it")
  if importance_weighted and (beta != 1 or free_bits):
    raise UserError("the importance-weighted bound has no KL: leave beta at 1 and free_bits at 0, or train by the ELBO")
  name, integers = nll_name(likelihood.levels, spec.levels, spec.size)
  model = Model(encoder, decoder, likelihood, latent, integers)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    encoder_key, decoder_key = jax.random.split(key)
    (mu, _), of_encoder = encoder.init_with_output(encoder_key, batch[spec.feature][:1])
    check_output("the encoder's mean", mu.shape[1:], (latent,), "set its latent dimensions")
    output, of_decoder = decoder.init_with_output(decoder_key, mu)
    check_decoder(likelihood, spec, output)
    return {"network": {"encoder": of_encoder["params"], "decoder": of_decoder["params"]}}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x, keys = batch[spec.feature], example_keys(key, batch["index"])
    if importance_weighted:
      value, metrics = importance_loss(model, params, x, keys, k)
    else:
      value, metrics = elbo_loss(model, params, x, keys, k, beta, free_bits)
    return value / spec.size, (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    keys = example_keys(key, batch["index"])
    elbo, importance = bounds(model, state.averaged(), batch[spec.feature], keys, importance_samples, chunk)
    return {f"{name}_elbo": elbo, f"{name}_importance_{importance_samples}": importance}

  def sample(state: State, keys: Key[Array, " n"]) -> Image:
    z_keys, x_keys = split(keys)
    params = state.averaged()
    output = model.decode(params, normal(z_keys, (latent,), jax.tree.leaves(params)[0].dtype))
    return draw(likelihood, x_keys, output) if drawn else average(likelihood, output)

  players = [("network", Player(loss, optimizer, mean=not free_bits))]
  check = check_values(spec.levels, likelihood.levels is None, spec.feature)
  return compose(init, players, evaluate=evaluate, sample=sample, check=check)


def to_latent(encoder: Any) -> Callable[[State, Image], Latent]:
  """(state, images) -> the mean of q(z | x), for figures."""
  return lambda state, x: encoder.apply({"params": state.averaged()["encoder"]}, x)[0]


def to_image(decoder: Any, likelihood: Distribution) -> Callable[[State, Latent], Image]:
  """(state, z) -> the mean of p(x | z), for figures."""
  return lambda state, z: average(likelihood, decoder.apply({"params": state.averaged()["decoder"]}, z))
