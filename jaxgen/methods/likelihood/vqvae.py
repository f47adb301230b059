"""VQ-VAE: van den Oord et al. 2017, "Neural discrete representation learning", https://arxiv.org/abs/1711.00937.

An encoder's vectors z_e are replaced by the nearest ones of a codebook (their eq. 1 and 2),

    (Q1)  z_q = e_k,  k = argmin_j ||z_e - e_j||

the gradient going straight through, from z_q to z_e; the loss is their eq. 3 without its second term,

    (Q2)  -log p(x | z_q) + beta ||z_e - sg[e]||^2

since the codebook is a moving average of what it stands for (Appendix A.1): with n_i vectors in a batch at code i,

    (Q3)  N_i <- gamma N_i + (1 - gamma) n_i
    (Q4)  m_i <- gamma m_i + (1 - gamma) sum_j z_{i,j}
    (Q5)  e_i = m_i / N_i

A code that is hardly used starts anew from some vector of the batch (Dhariwal et al. 2020,
https://arxiv.org/abs/2005.00341, section 3.2), as most do after the first step. An autoregressive prior p(k) learns the
codes as they are, while they are learned, and -log p(x | z_q) - log p(k) bounds -log p(x).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Buffers, Method, Params, Player, State, compose
from jaxgen.decoding import ancestral
from jaxgen.methods.likelihood.vae import Image, average, check, check_shapes, draw, log_prob
from jaxgen.probability.distributions import Distribution, check_values, nll_name

Vectors = Float[Array, "*positions dim"]
Codes = Int[Array, "*positions"]


def codebook(buffers: Buffers) -> Float[Array, "codes dim"]:
  """(Q5)."""
  return buffers["sum"] / jnp.maximum(buffers["count"], 1e-20)[:, None]


def nearest(e: Float[Array, "codes dim"], z: Vectors) -> Codes:
  """k of (Q1); of codes that are equally near, the first."""
  return jnp.argmin(jnp.sum(e**2, axis=-1) - 2 * z @ e.T, axis=-1)


def moved(
  buffers: Buffers, z: Float[Array, "n dim"], k: Int[Array, "n"], decay: float, restart: float, key: Key[Array, ""]
) -> tuple[Buffers, Int[Array, ""]]:
  """(Q3) and (Q4), and how many codes started anew: those whose N is below `restart` times the mean use n / codes.

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


def vqvae(
  encoder: Any,
  decoder: Any,
  prior: Any,
  likelihood: Distribution,
  *,
  shape: tuple[int, int, int],
  levels: int | None,
  codes: int,
  optimizer: optax.GradientTransformation,
  prior_optimizer: optax.GradientTransformation,
  commitment: float = 0.25,
  decay: float = 0.99,
  restart: float = 0.03,
  drawn: bool = True,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """(Q2) and the prior's maximum likelihood. Batch {"image": [B, H, W, C], "index": [B]}.

  Args:
    encoder: `encoder.apply({"params": p}, x)` -> z_e [B, h, w, d]: `jaxgen.nn.autoencoders.vqvae.Encoder`.
    decoder: `decoder.apply({"params": p}, z_q)` -> [B, H, W, likelihood.parameters * C].
    prior: of h w tokens, row by row, after a token `codes` that starts them: `nn.transformer.LanguageModel` of
      codes + 1 tokens, or what is called as it is.
    likelihood, shape, levels, drawn: as in `vae`.
    codes: number of vectors in the codebook.
    optimizer, prior_optimizer: of encoder and decoder, and of the prior.
    commitment: beta.
    decay: gamma.
    restart: share of the mean use below which a code starts anew.
    microbatches, axis: as in `compose`; the codebook is in the run's `buffers`, so there are no microbatches.

  The loss is in nats per example, summed over positions; "perplexity" is that of the batch's codes.

  `evaluate` gives "nll_nats_elbo" (with a Gaussian likelihood, as in `vae`). `sample(state, keys)` gives [N, H, W, C]:
  codes of the prior, then x.

  Raises:
    UserError: a likelihood of other data; fewer than two codes; a negative commitment; a decay or restart outside
      [0, 1); images or networks of another shape.
  """
  check(likelihood, levels)
  if codes < 2:
    raise UserError(f"a codebook has at least 2 codes, and this one {codes}: change it")
  if commitment < 0:
    raise UserError(f"commitment is 0 or more, and this is {commitment:g}: change it")
  for name, share in dict(decay=decay, restart=restart).items():
    if not 0 <= share < 1:
      raise UserError(f"{name} lies in [0, 1), and this is {share:g}: change it")
  name, integers = nll_name(likelihood.levels, levels, math.prod(shape))

  def encode(params: Params, x: Image) -> Float[Array, "batch h w dim"]:
    return encoder.apply({"params": params["encoder"]}, x)

  def quantize(buffers: Buffers, z: Vectors) -> tuple[Codes, Vectors]:
    e = jax.lax.stop_gradient(codebook(buffers))
    k = nearest(e, jax.lax.stop_gradient(z))
    return k, e[k]

  def log_likelihood(params: Params, z: Array, x: Image) -> Float[Array, " batch"]:
    return log_prob(likelihood, decoder.apply({"params": params["decoder"]}, z), x) - integers

  def prior_nats(params: Params, k: Int[Array, "batch h w"], **options) -> Float[Array, " batch"]:
    """-log p(k)."""
    tokens = k.reshape(len(k), -1)
    read = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=codes)
    logits = prior.apply({"params": params}, read, **options)[..., :codes]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).sum(axis=1)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], Buffers]:
    image = batch["image"][:1]
    keys = jax.random.split(key, 4)
    z, of_encoder = encoder.init_with_output(keys[0], image)
    output, of_decoder = decoder.init_with_output(keys[1], z)
    check_shapes(likelihood, shape, image, output)
    tokens = jnp.full((1, z.shape[1] * z.shape[2]), codes, jnp.int32)
    logits, of_prior = prior.init_with_output(keys[2], tokens)
    if logits.shape != (*tokens.shape, codes + 1):
      raise UserError(f"the prior has {logits.shape[-1]} tokens, not {codes + 1}, of which one starts: change them")
    params = {
      "network": {"encoder": of_encoder["params"], "decoder": of_decoder["params"]},
      "prior": of_prior["params"],
    }
    # Random codes that weigh next to nothing: those of the first batch take their place.
    count = jnp.full(codes, 1e-4, z.dtype)
    return params, {"count": count, "sum": count[:, None] * jax.random.normal(keys[3], (codes, z.shape[-1]), z.dtype)}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x = batch["image"]
    z_e = encode(params, x)
    k, e = quantize(state.buffers, z_e)
    z_q = z_e + jax.lax.stop_gradient(e - z_e)
    reconstruction = -jnp.mean(log_likelihood(params, z_q, x))
    distance = jnp.mean(jnp.sum((z_e - e) ** 2, axis=(1, 2, 3)))
    flat = jax.lax.stop_gradient(z_e).reshape(-1, z_e.shape[-1])
    buffers, restarted = moved(state.buffers, flat, k.reshape(-1), decay, restart, key)
    metrics = {
      "reconstruction_nats": reconstruction,
      "distance": distance,
      "perplexity": perplexity(k, codes),
      "restarted": restarted.astype(x.dtype),
    }
    return reconstruction + commitment * distance, (metrics, buffers)

  def prior_loss(params: Params, state: State, batch: Batch, key: Array):
    k, _ = quantize(state.buffers, encode(state.params["network"], batch["image"]))
    nats = prior_nats(params, k, index=batch["index"], rngs={"dropout": key})
    return jnp.mean(nats), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    params = state.params["network"]
    k, e = quantize(state.buffers, encode(params, batch["image"]))
    bound = log_likelihood(params, e, batch["image"]) - prior_nats(state.params["prior"], k)
    return {f"{name}_elbo": -bound}

  def sample(state: State, keys: Key[Array, " n"]) -> Image:
    k_keys, x_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    params, e = state.params["network"], codebook(state.buffers)
    height, width = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((1, *shape), e.dtype)).shape[1:3]
    nothing = jnp.zeros((len(keys), 0), jnp.int32)
    step, carry = prior.stepper(state.params["prior"], nothing, height * width)

    def of_codes(carry: Any, tokens: Array) -> tuple[Array, Any]:
      logits, carry = step(carry, tokens)
      return logits[:, :codes], carry

    start = jnp.full(len(keys), codes, jnp.int32)
    k, _ = ancestral(of_codes, carry, start, k_keys, length=height * width)
    output = decoder.apply({"params": params["decoder"]}, e[k].reshape(-1, height, width, e.shape[1]))
    return draw(likelihood, x_keys, output) if drawn else average(likelihood, output)

  players = [("network", Player(loss, optimizer)), ("prior", Player(prior_loss, prior_optimizer))]
  how = dict(microbatches=microbatches, axis=axis, check=check_values(levels, likelihood.levels is None))
  return compose(init, players, evaluate=evaluate, sample=sample, **how)


def reconstruct(encoder: Any, decoder: Any, likelihood: Distribution) -> Callable[[State, Image], Image]:
  """(state, images) -> the means of p(x | z_q), for figures."""

  def images(state: State, x: Image) -> Image:
    params, e = state.params["network"], codebook(state.buffers)
    k = nearest(e, encoder.apply({"params": params["encoder"]}, x))
    return average(likelihood, decoder.apply({"params": params["decoder"]}, e[k]))

  return images
