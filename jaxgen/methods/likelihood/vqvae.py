"""VQ-VAE: van den Oord et al. 2017, "Neural discrete representation learning", https://arxiv.org/abs/1711.00937.

An encoder's vectors z_e are replaced by the nearest ones of a codebook (their eq. 1 and 2),

    (Q1)  z_q = e_k,  k = argmin_j ||z_e - e_j||

the gradient going straight through, from z_q to z_e; the loss is their eq. 3 without its second term,

    (Q2)  -log p(x | z_q) + beta ||z_e - sg[e]||^2

because the codebook is a moving average of the encoder's outputs (Appendix A.1): with n_i vectors in a batch at code i,

    (Q3)  N_i <- gamma N_i + (1 - gamma) n_i
    (Q4)  m_i <- gamma m_i + (1 - gamma) sum_j z_{i,j}
    (Q5)  e_i = m_i / N_i

A code that is hardly used starts anew from some vector of the batch (Dhariwal et al. 2020,
https://arxiv.org/abs/2005.00341, section 3.2), as most do after the first step. An autoregressive prior p(k) learns the
codes as they are, while they are learned, and -log p(x | z_q) - log p(k) bounds -log p(x).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.core.keys import split
from jaxgen.core.method import Batch, Buffers, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.decoding import ancestral
from jaxgen.methods.likelihood.vae import average, check_decoder, check_likelihood, draw, log_prob
from jaxgen.probability.distributions import Distribution, check_values, nll_name

Vectors = Float[Array, "*positions dim"]
Codes = Int[Array, "*positions"]
Examples = Float[Array, "batch *sides channels"]  # images, or clips


def codebook(buffers: Buffers) -> Float[Array, "codes dim"]:
  """(Q5)."""
  return buffers["sum"] / jnp.maximum(buffers["count"], 1e-20)[:, None]


def nearest(e: Float[Array, "codes dim"], z: Vectors) -> Codes:
  """k of (Q1); of codes that are equally near, the first."""
  return jnp.argmin(jnp.sum(e**2, axis=-1) - 2 * z @ e.T, axis=-1)


def moved(
  buffers: Buffers, z: Float[Array, "n dim"], k: Int[Array, "n"], decay: float, restart: float, key: Key[Array, ""]
) -> tuple[Buffers, Int[Array, ""]]:
  """(Q3) and (Q4), and the number of codes that were restarted: those whose N is below `restart` times the mean use n /
  codes.

  Such a code becomes a random one of the vectors, with the mean use as its N.
  """
  count, total = buffers["count"], buffers["sum"]
  chosen = jax.nn.one_hot(k, len(count), dtype=z.dtype)
  count = decay * count + (1 - decay) * chosen.sum(axis=0)
  total = decay * total + (1 - decay) * chosen.T @ z
  mean_use = len(z) / len(count)
  dead = count < restart * mean_use
  anew = mean_use * z[jax.random.randint(key, count.shape, 0, len(z))]
  new = {"count": jnp.where(dead, mean_use, count), "sum": jnp.where(dead[:, None], anew, total)}
  return new, dead.sum()


def perplexity(k: Int[Array, "*positions"], codes: int) -> Float[Array, ""]:
  """exp of the entropy of the codes' shares: how many codes are in use."""
  share = jnp.bincount(k.reshape(-1), length=codes) / k.size
  return jnp.exp(jnp.sum(jax.scipy.special.entr(share)))


class Model(NamedTuple):
  """Encoder and decoder, the prior of their codes, and how many codes there are.

  Attributes:
    integers: nats that make -log of a dequantized density a bound on the integers'; see `distributions.nll_name`.
  """

  encoder: Any
  decoder: Any
  prior: Any
  likelihood: Distribution
  codes: int
  integers: float

  def encode(self, params: Params, x: Examples) -> Float[Array, "batch *places dim"]:
    """z_e."""
    return self.encoder.apply({"params": params["encoder"]}, x)

  def decode(self, params: Params, z_q: Float[Array, "batch *places dim"]) -> Float[Array, "batch *sides outputs"]:
    return self.decoder.apply({"params": params["decoder"]}, z_q)

  def log_likelihood(
    self, params: Params, z_q: Float[Array, "batch *places dim"], x: Examples
  ) -> Float[Array, " batch"]:
    each = log_prob(self.likelihood, self.decode(params, z_q), x)  # of an image, of each frame of a clip
    return each.reshape(len(x), -1).sum(axis=1) - self.integers


def quantized(buffers: Buffers, z_e: Vectors) -> tuple[Codes, Vectors]:
  """(k, e_k) of (Q1), without gradients."""
  e = jax.lax.stop_gradient(codebook(buffers))
  k = nearest(e, jax.lax.stop_gradient(z_e))
  return k, e[k]


def prior_nats(model: Model, params: Params, k: Int[Array, "batch *places"], **options: Any) -> Float[Array, " batch"]:
  """-log p(k), of the prior's parameters."""
  tokens = k.reshape(len(k), -1)
  read = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=model.codes)
  logits = model.prior.apply({"params": params}, read, **options)[..., : model.codes]
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).sum(axis=1)


def draw_codes(
  model: Model, params: Params, keys: Key[Array, " n"], places: tuple[int, ...]
) -> Int[Array, "n *places"]:
  """Codes of the prior, row by row, and of clips frame by frame."""
  length = math.prod(places)
  step, carry = model.prior.stepper(params, jnp.zeros((len(keys), 0), jnp.int32), length)

  def without_start(carry: Any, tokens: Array) -> tuple[Array, Any]:
    logits, carry = step(carry, tokens)
    return logits[:, : model.codes], carry

  start = jnp.full(len(keys), model.codes, jnp.int32)
  k, _ = ancestral(without_start, carry, start, keys, length=length)
  return k.reshape(-1, *places)


def init_networks(model: Model, spec: Spec, key: Key[Array, ""], image: Examples) -> tuple[dict[str, Params], Buffers]:
  """(parameters, buffers), from one image's shape. Raises a UserError for networks of another shape."""
  keys = jax.random.split(key, 4)
  z, of_encoder = model.encoder.init_with_output(keys[0], image)
  output, of_decoder = model.decoder.init_with_output(keys[1], z)
  check_decoder(model.likelihood, spec, output)
  tokens = jnp.full((1, math.prod(z.shape[1:-1])), model.codes, jnp.int32)
  logits, of_prior = model.prior.init_with_output(keys[2], tokens)
  check_output(
    "the prior's output", logits.shape[1:], (tokens.shape[1], model.codes + 1), "its tokens are the codes and a start"
  )
  params = {"network": {"encoder": of_encoder["params"], "decoder": of_decoder["params"]}, "prior": of_prior["params"]}
  # Random codes that weigh next to nothing: those of the first batch take their place.
  count = jnp.full(model.codes, 1e-4, z.dtype)
  vectors = jax.random.normal(keys[3], (model.codes, z.shape[-1]), z.dtype)
  return params, {"count": count, "sum": count[:, None] * vectors}


def vqvae(
  encoder: Any,
  decoder: Any,
  prior: Any,
  likelihood: Distribution,
  *,
  spec: Spec,
  codes: int,
  optimizer: optax.GradientTransformation,
  prior_optimizer: optax.GradientTransformation,
  commitment: float = 0.25,
  decay: float = 0.99,
  restart: float = 0.03,
  drawn: bool = True,
) -> Method:
  """(Q2) and the prior's maximum likelihood. Batch {spec.feature: [B, H, W, C], "index": [B]}, or of clips
  [B, T, H, W, C], with networks such as those of `nn.video.vqvae`: VideoGPT.

  Args:
    encoder: `encoder.apply({"params": p}, x)` -> z_e [B, h, w, d]: `jaxgen.nn.autoencoders.vqvae.Encoder`.
    decoder: `decoder.apply({"params": p}, z_q)` -> [B, H, W, likelihood.parameters * C].
    prior: of h w tokens, row by row, after a token `codes` that starts them:
      `nn.sequence.transformer.LanguageModel` of codes + 1 tokens, or a network with the same interface.
    likelihood, spec, drawn: as in `vae`.
    codes: number of vectors in the codebook.
    optimizer, prior_optimizer: of encoder and decoder, and of the prior.
    commitment: beta.
    decay: gamma.
    restart: share of the mean use below which a code starts anew.

  The losses are in nats per value of an image ("network", (Q2) over their number) and per code ("prior"). The metric
  "reconstruction_nats" is in nats per example, and "distance" an example's ||z_e - e||^2, a sum over its positions.
  "perplexity" is that of the batch's codes. The codebook is in the run's `buffers`, so there are no microbatches.

  `evaluate` gives "nll_nats_elbo" (with a Gaussian likelihood, as in `vae`). `sample(state, keys)` gives [N, H, W, C]:
  codes of the prior, then x.

  Raises:
    UserError: a likelihood of other data; fewer than two codes; a negative commitment; a decay or restart outside
      [0, 1); in `init`, images or networks of another shape.
  """
  check_likelihood(likelihood, spec.levels)
  check_sizes("a codebook", 2, codes=codes)
  if commitment < 0:
    raise UserError(f"commitment is 0 or more, and this is {commitment:g}: change it")
  for share_name, share in dict(decay=decay, restart=restart).items():
    if not 0 <= share < 1:
      raise UserError(f"{share_name} lies in [0, 1), and this is {share:g}: change it")
  name, integers = nll_name(likelihood.levels, spec.levels, spec.size)
  model = Model(encoder, decoder, prior, likelihood, codes, integers)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], Buffers]:
    check_batch(spec, batch)
    return init_networks(model, spec, key, batch[spec.feature][:1])

  def loss(params: Params, state: State, batch: Batch, key: Array):
    """(Q2), and the codebook moved."""
    x = batch[spec.feature]
    z_e = model.encode(params, x)
    k, e = quantized(state.buffers, z_e)
    z_q = z_e + jax.lax.stop_gradient(e - z_e)
    reconstruction = -jnp.mean(model.log_likelihood(params, z_q, x))
    distance = jnp.mean(jnp.sum((z_e - e) ** 2, axis=range(1, z_e.ndim)))
    flat = jax.lax.stop_gradient(z_e).reshape(-1, z_e.shape[-1])
    buffers, restarted = moved(state.buffers, flat, k.reshape(-1), decay, restart, key)
    metrics = {
      "reconstruction_nats": reconstruction,
      "distance": distance,
      "perplexity": perplexity(k, codes),
      "restarted": restarted.astype(x.dtype),
    }
    return (reconstruction + commitment * distance) / spec.size, (metrics, buffers)

  def prior_loss(params: Params, state: State, batch: Batch, key: Array):
    k, _ = quantized(state.buffers, model.encode(state.params["network"], batch[spec.feature]))
    nats = prior_nats(model, params, k, index=batch["index"], rngs={"dropout": key})
    return jnp.mean(nats) / k[0].size, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    params, x = state.averaged(), batch[spec.feature]
    k, e = quantized(state.buffers, model.encode(params, x))
    return {f"{name}_elbo": prior_nats(model, state.averaged("prior"), k) - model.log_likelihood(params, e, x)}

  def sample(state: State, keys: Key[Array, " n"]) -> Examples:
    k_keys, x_keys = split(keys)
    params, e = state.averaged(), codebook(state.buffers)
    image = jax.ShapeDtypeStruct((1, *spec.shape), e.dtype)
    places = jax.eval_shape(model.encode, params, image).shape[1:-1]
    output = model.decode(params, e[draw_codes(model, state.averaged("prior"), k_keys, places)])
    return draw(likelihood, x_keys, output) if drawn else average(likelihood, output)

  players = [("network", Player(loss, optimizer)), ("prior", Player(prior_loss, prior_optimizer))]
  check = check_values(spec.levels, likelihood.levels is None, spec.feature)
  return compose(init, players, evaluate=evaluate, sample=sample, check=check)


def reconstruct(encoder: Any, decoder: Any, likelihood: Distribution) -> Callable[[State, Examples], Examples]:
  """(state, images) -> the means of p(x | z_q), for figures."""

  def images(state: State, x: Examples) -> Examples:
    params, e = state.averaged(), codebook(state.buffers)
    k = nearest(e, encoder.apply({"params": params["encoder"]}, x))
    return average(likelihood, decoder.apply({"params": params["decoder"]}, e[k]))

  return images
