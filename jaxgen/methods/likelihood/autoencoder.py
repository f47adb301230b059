"""First stages of latent diffusion: autoencoders whose pictures shall look right.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.1 and Appendix G, and Esser et al. 2021 (VQGAN),
https://arxiv.org/abs/2012.09841, section 3.1, as in their code. For a picture x with N values and its reconstruction
x_hat = G(z), the autoencoder's loss is

    (F1)  L_rec = sum |x - x_hat| / N + lambda_p d(x, x_hat)
    (F2)  L_rec + L_latents / N + w L_adv,   L_adv = -mean D(x_hat)
    (F3)  w = lambda_a ||grad L_rec|| / (||grad L_adv|| + 1e-4),  gradients in G's last kernel; w = 0 for some steps

and that of a discriminator of patches D, which sees nothing for as long,

    (F4)  mean max(0, 1 - D(x)) / 2 + mean max(0, 1 + D(x_hat)) / 2.

d compares the features of a frozen network, (F5), and L_latents keeps latents near N(0, I), or near the codes of a
codebook: `kl`, `codes`. The KL autoencoder's code has N times (F1) and (F2); VQGAN's has (F1), and in (F2) the mean of
L_latents over the values of z. Mean and standard deviation of each channel of the latents are measured over the last
steps and stored with the run: a diffusion model's latents are scaled by them, see `latents`. Let the learning rate end
at 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.core.keys import example_keys, normal
from jaxgen.core.method import Batch, Buffers, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.methods.likelihood import vqvae
from jaxgen.methods.likelihood.vae import kl as gaussian_kl

Image = Float[Array, "batch height width channels"]
Latents = Float[Array, "batch h w latent"]
PERCEPTUAL = "perceptual"
MEMORY = 20  # steps that the latents' moments are averaged over


# --- Regularisation of latents ---------------------------------------------------------------------------------------


class Made(NamedTuple):
  """Latents, their loss [B], the new buffers, and numbers to log."""

  z: Latents
  loss: Float[Array, " batch"]
  buffers: Buffers
  metrics: dict[str, Array]


class Bottleneck(NamedTuple):
  """The bottleneck between an encoder and a decoder.

  Attributes:
    init: (what the encoder gives of one picture, key) -> buffers.
    train: (what the encoder gives, buffers, keys [B], key) -> Made; `z` goes to the decoder.
    latents: (what the encoder gives, keys [B] or None) -> z as a diffusion model learns it, drawn where there are keys.
    finish: (z, buffers) -> what goes to the decoder.
  """

  init: Callable[[PyTree, Key[Array, ""]], Buffers]
  train: Callable[[PyTree, Buffers, Key[Array, " batch"], Key[Array, ""]], Made]
  latents: Callable[[PyTree, Key[Array, " batch"] | None], Latents]
  finish: Callable[[Latents, Buffers], Latents]


def kl(weight: float = 1e-6) -> Bottleneck:
  """z ~ N(mean, std^2) of an encoder that gives (mean, log std); L_latents = weight KL(q(z | x) || N(0, I)), nats."""

  def draw(encoded: tuple[Latents, Latents], keys: Key[Array, " batch"] | None) -> Latents:
    mean, log_std = encoded
    return mean if keys is None else mean + jnp.exp(log_std) * normal(keys, mean.shape[1:], mean.dtype)

  def train(encoded: tuple[Latents, Latents], buffers: Buffers, keys: Key[Array, " batch"], key: Array) -> Made:
    nats = jnp.sum(gaussian_kl(*encoded), axis=(1, 2, 3))
    return Made(draw(encoded, keys), weight * nats, {}, {"kl_nats": nats.mean()})

  return Bottleneck(lambda encoded, key: {}, train, draw, lambda z, buffers: z)


def codes(count: int, commitment: float = 0.25, decay: float = 0.99, restart: float = 0.03) -> Bottleneck:
  """Each latent is replaced by the nearest of so many codes, as in `methods.likelihood.vqvae`: (Q1) to (Q5).

  L_latents = commitment ||z - sg[e]||^2, summed over a picture. A diffusion model learns latents before that.
  """
  check_sizes("a codebook", 2, codes=count)

  def init(z: Latents, key: Key[Array, ""]) -> Buffers:
    use = jnp.full(count, 1e-4, z.dtype)  # random codes that weigh next to nothing: the first batch's take their place
    return {"codebook": {"count": use, "sum": use[:, None] * jax.random.normal(key, (count, z.shape[-1]), z.dtype)}}

  def train(z: Latents, buffers: Buffers, keys: Key[Array, " batch"], key: Array) -> Made:
    k, e = vqvae.quantized(buffers["codebook"], z)
    loss = commitment * jnp.sum((z - e) ** 2, axis=(1, 2, 3))
    flat = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    book, restarted = vqvae.moved(buffers["codebook"], flat, k.reshape(-1), decay, restart, key)
    metrics = {"perplexity": vqvae.perplexity(k, count), "restarted": restarted.astype(z.dtype)}
    return Made(z + jax.lax.stop_gradient(e - z), loss, {"codebook": book}, metrics)

  finish = lambda z, buffers: vqvae.quantized(buffers["codebook"], z)[1]
  return Bottleneck(init, train, lambda z, keys: z, finish)


# --- Perceptual distances --------------------------------------------------------------------------------------------


class Perceptual(NamedTuple):
  """A frozen network whose features compare pictures.

  Attributes:
    network: `network.apply(variables, x, method="maps")` -> feature maps [B, h, w, c], such as `nn.ConvNet`.
    frozen: where its variables come from, `interop.runs.frozen(RUN)`; None: they stay as initialised.
    weight: lambda_p.
  """

  network: Any
  frozen: Frozen | None = None
  weight: float = 1.0

  def distance(self, variables: Params, x: Image, y: Image) -> Float[Array, " batch"]:
    """(F5) the sum over maps of the squared difference of features of length 1, a mean over positions.

    Zhang et al. 2018 (LPIPS), https://arxiv.org/abs/1801.03924, eq. 1, all of whose weights are 1 here.
    """

    def unit(x: Image) -> list[Float[Array, "batch h w c"]]:
      maps = [wide(a) for a in self.network.apply(variables, x, method="maps")]
      return [a * jax.lax.rsqrt(jnp.sum(a**2, axis=-1, keepdims=True) + 1e-10) for a in maps]

    each = [jnp.sum((a - b) ** 2, axis=-1).mean((1, 2)) for a, b in zip(unit(x), unit(y), strict=True)]
    return sum(each).astype(x.dtype)


class Adversary(NamedTuple):
  """A discriminator, and when it comes.

  Attributes:
    network: a number for each patch, [B, h, w], as `nn.adversarial.patchgan.PatchDiscriminator` gives.
    start: the step from which on it learns and is listened to.
    weight: lambda_a.
  """

  network: Any
  optimizer: optax.GradientTransformation
  start: int
  weight: float = 0.5

  def see(self, params: Params, x: Image) -> Float[Array, "batch h w"]:
    return self.network.apply({"params": params}, x, mutable=["batch_stats"])[0]


def adaptive_weight(decode: Callable[[Params], Image], params: Params, rec: Image, adv: Image) -> Float[Array, ""]:
  """(F3) without lambda_a, between 0 and 10,000, of the decoder's last kernel.

  Args:
    decode: (parameters) -> x_hat.
    params: the network's.
    rec, adv: the gradients of L_rec and of L_adv in x_hat.
  """
  params = jax.lax.stop_gradient(params)
  decoder, last = params["decoder"], params["decoder"]["out"]

  def with_last(kernel: Array) -> Image:
    return decode({**params, "decoder": {**decoder, "out": {**last, "kernel": kernel}}})

  _, pull = jax.vjp(with_last, last["kernel"])
  norms = [jnp.linalg.norm(pull(gradient)[0]) for gradient in (rec, adv)]
  return jnp.clip(norms[0] / (norms[1] + 1e-4), 0, 1e4)


def with_gradient(value: Float[Array, ""], x: Image, gradient: Image) -> Float[Array, ""]:
  """A number whose gradient in x is given."""
  value, gradient = jax.lax.stop_gradient((value, gradient))
  return value + jnp.sum((x - jax.lax.stop_gradient(x)) * gradient)


# --- The method ------------------------------------------------------------------------------------------------------


def autoencoder(
  network: Any,
  bottleneck: Bottleneck,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  perceptual: Perceptual | None = None,
  adversary: Adversary | None = None,
) -> Method:
  """(F1) to (F4). Batch {spec.feature: [B, H, W, C] in [-1, 1], "index": [B]}.

  Args:
    network: with the methods "encode" and "decode", and the kernel of the last layer at "decoder/out/kernel" in its
      parameters: `KLAutoencoder` or `VQAutoencoder` of `jaxgen.nn.autoencoders.ldm`.
    bottleneck: `kl(weight)` of the first, `codes(count)` of the second.
    perceptual, adversary: None: L_rec has no second term, and there is no L_adv.

  The loss is a mean over a picture's values, (F2). The latents' moments are in the run's `buffers`, so there are no
  microbatches. `evaluate` gives "squared_error", a mean over values in [-1, 1], and of the scaled latents "latent" and
  "latent_square", whose means are 0 and 1. It generates nothing: `sample` is None.

  Raises:
    UserError: a negative weight or start; in `init`, images or networks of another shape.
  """
  weights = dict(perceptual=perceptual.weight if perceptual else 0, adversary=adversary.weight if adversary else 0)
  for name, value in {**weights, "start": adversary.start if adversary else 0}.items():
    if value < 0:
      raise UserError(f"the {name} of a first stage is 0 or more, and this is {value:g}: change it")
  encode = lambda params, x: network.apply({"params": params}, x, method="encode")
  decode = lambda params, z: network.apply({"params": params}, z, method="decode")

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], Buffers]:
    check_batch(spec, batch)
    keys, x = jax.random.split(key, 4), batch[spec.feature][:1]
    variables, buffers = _init(network, bottleneck, keys[:2], x)
    params = {"network": variables["params"]}
    output = jax.eval_shape(network.apply, variables, x)
    check_output("the network's output", output.shape[1:], spec.shape, "set its image and multipliers")
    if perceptual:
      params[PERCEPTUAL] = perceptual.network.init(keys[2], x)
    if adversary:
      params["discriminator"] = adversary.network.init(keys[3], x)["params"]
    return params, buffers

  def reconstruction(state: State, x: Image) -> Callable[[Image], Float[Array, ""]]:
    def of(x_hat: Image) -> Float[Array, ""]:
      """(F1)"""
      each = jnp.mean(jnp.abs(x - x_hat), axis=(1, 2, 3))
      if perceptual is not None:
        each += perceptual.weight * perceptual.distance(state.params[PERCEPTUAL], x, x_hat)
      return each.mean()

    return of

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x = batch[spec.feature]
    own = {name: tree for name, tree in state.buffers.items() if name != "latents"}
    encoded, keys = encode(params, x), example_keys(key, batch["index"])
    made = bottleneck.train(encoded, own, keys, key)
    x_hat = decode(params, made.z)
    rec, gradient = jax.value_and_grad(reconstruction(state, x))(x_hat)
    metrics = {"reconstruction": rec, **made.metrics}
    if adversary:
      critic = lambda x_hat: -jnp.mean(adversary.see(state.params["discriminator"], x_hat))
      adv, adv_gradient = jax.value_and_grad(critic)(x_hat)
      z = jax.lax.stop_gradient(made.z)
      w = adversary.weight * adaptive_weight(lambda p: decode(p, z), params, gradient, adv_gradient)
      w = jnp.where(state.step < adversary.start, 0, w).astype(x.dtype)
      rec, gradient = rec + w * adv, gradient + w * adv_gradient
      metrics["adaptive_weight"] = w
    total = with_gradient(rec, x_hat, gradient) + jnp.mean(made.loss) / spec.size
    z = jax.lax.stop_gradient(bottleneck.latents(encoded, keys))
    return total, (metrics, {**made.buffers, "latents": _moved(state.buffers["latents"], z, state.step)})

  def discriminator_loss(params: Params, state: State, batch: Batch, key: Array):
    x, network_params = batch[spec.feature], state.params["network"]
    z = bottleneck.latents(encode(network_params, x), example_keys(key, batch["index"]))
    x_hat = jax.lax.stop_gradient(decode(network_params, bottleneck.finish(z, state.buffers)))
    real, fake = adversary.see(params, x), adversary.see(params, x_hat)
    hinge = (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))) / 2
    metrics = {"output_real": real.mean(), "output_fake": fake.mean()}
    return jnp.where(state.step < adversary.start, 0, hinge), (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    x, tree = batch[spec.feature], {"params": state.averaged(), **state.buffers}
    _, into, out = latents(network, bottleneck)
    z = into(tree, x, example_keys(key, batch["index"]))
    error = (x - out(tree, into(tree, x, None))) ** 2
    each = {"squared_error": error, "latent": z, "latent_square": z**2}
    return {name: value.mean((1, 2, 3)) for name, value in each.items()}

  players = [("network", Player(loss, optimizer, mean=adversary is None))]
  if adversary:
    players.append(("discriminator", Player(discriminator_loss, adversary.optimizer, mean=False)))
  frozen = {PERCEPTUAL: perceptual.frozen} if perceptual and perceptual.frozen else {}
  return compose(init, players, frozen=frozen, evaluate=evaluate)


def _init(network: Any, bottleneck: Bottleneck, keys: Key[Array, "2"], x: Image) -> tuple[dict[str, Params], Buffers]:
  """(the network's variables, buffers), from one picture."""
  variables = network.init(keys[0], x)
  encoded = network.apply(variables, x, method="encode")
  channels = bottleneck.latents(encoded, None).shape[-1]
  moments = {"mean": jnp.zeros(channels), "square": jnp.ones(channels)}
  return variables, {**bottleneck.init(encoded, keys[1]), "latents": moments}


def _moved(moments: Buffers, z: Latents, step: Array) -> Buffers:
  """Each channel's first and second moments, averaged over all steps so far or the last ones."""
  share = 1 / jnp.minimum(step + 1, MEMORY).astype(jnp.float32)
  new = {"mean": wide(z).mean((0, 1, 2)), "square": (wide(z) ** 2).mean((0, 1, 2))}
  return jax.tree.map(lambda old, now: old + (share * (now - old)).astype(old.dtype), moments, new)


def latents(network: Any, bottleneck: Bottleneck) -> tuple[Callable, Callable, Callable]:
  """(init, encode, decode) of a trained first stage for `core.wrappers.first_stage`, whose frozen source is its run.

  Latents are shifted and scaled to mean 0 and standard deviation 1 in each channel, by the moments that the run
  measured.
  """

  def scale(tree: Params, dtype: Any) -> tuple[Array, Array]:
    mean, square = tree["latents"]["mean"], tree["latents"]["square"]
    return mean.astype(dtype), jnp.sqrt(jnp.maximum(square - mean**2, 1e-12)).astype(dtype)

  def init(key: Key[Array, ""], x: Image) -> Params:
    variables, buffers = _init(network, bottleneck, jax.random.split(key), x[:1])
    return {"params": variables["params"], **buffers}

  def encode(tree: Params, x: Image, keys: Key[Array, " batch"] | None) -> Latents:
    z = bottleneck.latents(network.apply({"params": tree["params"]}, x, method="encode"), keys)
    mean, std = scale(tree, z.dtype)
    return (z - mean) / std

  def decode(tree: Params, z: Latents) -> Image:
    mean, std = scale(tree, z.dtype)
    return network.apply({"params": tree["params"]}, bottleneck.finish(z * std + mean, tree), method="decode")

  return init, encode, decode


def reconstruct(network: Any, bottleneck: Bottleneck) -> Callable[[State, Image], Image]:
  """(state, images) -> their reconstructions, for figures."""
  _, encode, decode = latents(network, bottleneck)

  def images(state: State, x: Image) -> Image:
    tree = {"params": state.averaged(), **state.buffers}
    return decode(tree, encode(tree, x, None))

  return images
