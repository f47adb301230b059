"""Text to image: latent diffusion, conditioned on a text by frozen encoders, as Stable Diffusion is.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, sections 3.3 and 4.3; Podell et al. 2023 (SDXL),
https://arxiv.org/abs/2307.01952, section 2.2 (the picture's sizes).

    sampler = Sampler(clip=False, guidance=reader.guidance())
    method = gaussian_diffusion(CrossUNet(), .., condition=reader.condition(), sampler=sampler)
    method = first_stage(method, *scaled(KLAutoencoder(), 0.18215))
    method = told_texts(method, reader)                          "tokens" in place of "text"
    method = filled(method, encode, (64, 64, 4), 8)              for a network of inpainting, with 5 more channels

`sample` then takes tokens, negative_tokens and weight, [N, ..] each, and the entries of `core.edits`.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core import edits
from jaxgen.core.arrays import wide
from jaxgen.core.condition import Condition, entries, together
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Frozen, Method, Metrics, Params, State
from jaxgen.core.wrappers import ENCODE_STREAM, STAGE
from jaxgen.methods.diffusion.guides import Guidance, classifier_free

DROP_STREAM = 0xC0000001  # fold_in data of the keys that drop texts, a number that no update or stage reaches
MASK_STREAM = 0xC0000002  # and of those that draw masks
Tokens = Int[Array, "n *encoders tokens"]
Image = Float[Array, "n height width channels"]
Latents = Float[Array, "n h w latent"]


class Encoder(NamedTuple):
  """A text encoder.

  Attributes:
    network: a module of tokens, as `nn.joint.text.TextTower`.
    penultimate: the last block's input is read, without the last norm, and not its output.
    pooled: the readout is told, too.
    end, pad: the token that ends a text, and what follows it.
  """

  network: Any
  penultimate: bool
  pooled: bool
  end: int
  pad: int

  def padded(self, tokens: Int[Array, "n tokens"]) -> Int[Array, "n tokens"]:
    """The tokens with this encoder's padding after the first end."""
    ended = jnp.cumsum(tokens == self.end, axis=-1)
    after = (ended > 1) | ((ended == 1) & (tokens != self.end))
    return jnp.where(after, self.pad, tokens)

  def __call__(self, params: Params, tokens: Int[Array, "n tokens"]) -> tuple[Array, Array | None]:
    """(features of every token [N, T, c], those of the whole [N, p] or None)."""
    text = self.network.apply({"params": params}, tokens, states=self.penultimate)
    return (text.states[-1] if self.penultimate else text.tokens), (text.whole if self.pooled else None)


class Reader(NamedTuple):
  """A network's condition from a text, and its guidance.

  Attributes:
    encoders: by their names in `params`; their features stand side by side.
    empty: the tokens [T] of the empty text.
    zeros: "no text" is zeros, as in SDXL, and not the empty text.
    sizes: what the network is told of the picture's sizes, where it is: SDXL's six numbers.
  """

  encoders: Mapping[str, Encoder]
  empty: Int[np.ndarray, " tokens"]
  zeros: bool = False
  sizes: tuple[float, ...] | None = None

  @property
  def names(self) -> tuple[str, ...]:
    """The network's condition from a text."""
    return ("text", "pooled") if any(encoder.pooled for encoder in self.encoders.values()) else ("text",)

  def condition(self, picture: bool = False) -> Condition:
    """The inner method's condition; texts are dropped outside it.

    Args:
      picture: the network is told a picture beside the latents.
    """
    others = ("sizes",) * (self.sizes is not None) + ("picture",) * picture
    parts = {"text": self.names} | ({"others": others} if others else {})
    return together({part: entries(dict.fromkeys(names, 0.0)) for part, names in parts.items()})

  def guidance(self, rescale: float = 0.0) -> Guidance:
    return classifier_free(rescale)

  def told(self, params: Mapping[str, Params], tokens: Tokens) -> dict[str, Array]:
    """{"text": [N, T, c], "pooled": [N, p]} of tokens [N, T], which each encoder pads, or [N, encoders, T]."""
    each = lambda i, encoder: tokens[:, i] if tokens.ndim == 3 else encoder.padded(tokens)
    read = [encoder(params[name], each(i, encoder)) for i, (name, encoder) in enumerate(self.encoders.items())]
    texts, wholes = [text for text, _ in read], [whole for _, whole in read if whole is not None]
    return {"text": jnp.concatenate(texts, -1)} | ({"pooled": jnp.concatenate(wholes, -1)} if wholes else {})

  def nothing(self, params: Mapping[str, Params], told: Mapping[str, Array], n: int) -> dict[str, Array]:
    """The condition for no text, of n examples."""
    if self.zeros:
      return {name: jnp.zeros((n, *value.shape[1:]), value.dtype) for name, value in told.items()}
    one = self.told(params, jnp.asarray(self.empty)[None])
    return {name: jnp.broadcast_to(value, (n, *value.shape[1:])) for name, value in one.items()}


def told_texts(
  method: Method,
  reader: Reader,
  dropout: float = 0.1,
  frozen: Mapping[str, Frozen] = MappingProxyType({}),
  dtype: Any = jnp.float32,
) -> Method:
  """A method that is conditioned on "tokens" [B, T], by frozen encoders, whose features condition the given method.

  `sample(state, keys, tokens=None, negative_tokens=None, weight=None, sizes=None, ..)`: no tokens are the empty text,
  no negative ones are `reader.nothing`. source_tokens are the text whose attention maps are taken: `prompt_to_prompt`.

  Args:
    method: the method, with `reader.condition` and `reader.guidance`.
    reader: the encoders.
    dropout: the share of training examples whose text is dropped.
    frozen: where the encoders' values come from, by name; None: they stay as initialised.
    dtype: of what the network is told.

  Raises:
    UserError: the data has no tokens, or they are of another length.
  """
  apart = lambda state: {name: state.params[name] for name in reader.encoders}
  without = lambda state: state.replace(params={n: p for n, p in state.params.items() if n not in reader.encoders})

  def cast(told: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.astype(dtype) for name, value in told.items()}

  def sizes(n: int) -> dict[str, Array]:
    if reader.sizes is None:
      return {}
    return {"sizes": jnp.broadcast_to(jnp.asarray(reader.sizes, dtype), (n, len(reader.sizes)))}

  def told(params: Mapping[str, Params], batch: Batch, key: Key[Array, ""] | None) -> Batch:
    """The batch with the network's condition; with a key some texts are dropped."""
    if "tokens" not in batch or batch["tokens"].shape[1:] != reader.empty.shape:
      found = list(batch["tokens"].shape[1:]) if "tokens" in batch else "none"
      raise UserError(
        f"the text encoder reads {len(reader.empty)} tokens a text, and this data has {found}: give captions of "
        f"{len(reader.empty)} tokens"
      )
    tokens = batch["tokens"]
    told = reader.told(params, tokens)
    if key is not None and dropout:
      keys = example_keys(key, batch["index"])
      drop = jax.vmap(lambda key: jax.random.bernoulli(key, dropout))(keys)
      instead = reader.nothing(params, told, len(tokens))
      told = {n: jnp.where(drop.reshape(-1, *[1] * (x.ndim - 1)), instead[n], x) for n, x in told.items()}
    return {**batch, **jax.lax.stop_gradient(cast(told)), **sizes(len(tokens))}

  def init(key: Key[Array, ""], batch: Batch) -> State:
    text_key, inner_key = jax.random.split(jax.random.fold_in(key, DROP_STREAM))
    params = {}
    tokens = jnp.broadcast_to(jnp.asarray(reader.empty), (1, len(reader.empty)))
    for number, (name, encoder) in enumerate(reader.encoders.items()):
      params[name] = encoder.network.init(jax.random.fold_in(text_key, number), tokens)["params"]
    state = method.init(inner_key, told(params, batch, None))
    return state.replace(params={**state.params, **params})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), DROP_STREAM)
    new, metrics = method.step(without(state), told(apart(state), batch, key), **options)
    return new.replace(params={**new.params, **apart(state)}), metrics

  def evaluate(state: State, batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
    return method.evaluate(without(state), told(apart(state), batch, None), key)

  def sample(
    state: State,
    keys: Key[Array, " n"],
    tokens: Tokens | None = None,
    negative_tokens: Tokens | None = None,
    source_tokens: Tokens | None = None,
    weight: Float[Array, " n"] | None = None,
    **given: Any,
  ) -> Image:
    params, n = apart(state), len(keys)
    texts = {"tokens": tokens, "negative_tokens": negative_tokens, "source_tokens": source_tokens}
    for name, rows in texts.items():
      length = len(reader.empty)
      if rows is not None and rows.shape[1:] not in ((length,), (len(reader.encoders), length)):
        raise UserError(f"{name} are {length} of each text here, not {list(rows.shape[1:])}: change them")
    empty = jnp.broadcast_to(jnp.asarray(reader.empty), (n, len(reader.empty)))
    found = reader.told(params, empty if tokens is None else tokens)
    asked = {**sizes(n), **cast(found), **given}
    if source_tokens is not None:
      asked |= {f"source_{name}": value for name, value in cast(reader.told(params, source_tokens)).items()}
    if weight is None and negative_tokens is not None:
      raise UserError("samples are led away from a negative text by a weight, and none is given: give one above 1")
    if weight is not None:
      other = reader.nothing(params, found, n) if negative_tokens is None else reader.told(params, negative_tokens)
      asked |= {f"negative_{name}": value for name, value in cast(other).items()} | {"weight": weight}
    return method.sample(without(state), keys, **asked)

  return method._replace(
    init=init, step=step, evaluate=evaluate, sample=sample, frozen={**method.frozen, **frozen}
  )  # fmt: skip


def scaled(
  network: Any, scale: float, shift: float = 0.0
) -> tuple[Callable[..., Params], Callable[..., Latents], Callable[..., Image]]:
  """(init, encode, decode) for `core.wrappers.first_stage` of a published KL autoencoder: latents scale (z - shift).

  Args:
    network: the autoencoder, as `nn.autoencoders.ldm.KLAutoencoder`.
    scale, shift: diffusers' scaling_factor and shift_factor.
  """

  def init(key: Key[Array, ""], x: Image) -> Params:
    return {"params": network.init(key, x[:1])["params"]}

  def encode(tree: Params, x: Image, keys: Key[Array, " n"] | None) -> Latents:
    mean, log_std = network.apply({"params": tree["params"]}, x, method="encode")
    z = mean if keys is None else mean + jnp.exp(log_std) * normal(keys, mean.shape[1:], mean.dtype)
    return scale * (wide(z) - shift)

  def decode(tree: Params, z: Latents) -> Image:
    return network.apply({"params": tree["params"]}, z / scale + shift, method="decode")

  return init, encode, decode


def rectangles(key: Key[Array, ""], height: int, width: int, everything: float = 0.25) -> Bool[Array, "height width"]:
  """The known part of a picture in training: all but a rectangle with uniform corners, or, sometimes, nothing."""
  corners_key, all_key = jax.random.split(key)
  corners = jax.random.uniform(corners_key, (2, 2)) * jnp.asarray([height, width])
  low, high = corners.min(0), corners.max(0)
  rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
  inside = (low[0] <= rows) & (rows <= high[0]) & (low[1] <= columns) & (columns <= high[1])
  return ~(inside | (jax.random.uniform(all_key) < everything))


def filled(
  method: Method, encode: Callable[[Params, Image, Any], Latents], latent: Sequence[int], factor: int, feature="image"
) -> Method:
  """A method for an inpainting network, whose inputs besides x_t are the mask and the latents of the known pixels.

  `sample` takes "start" and "keep", see `core.edits`: known pixels do not change. Without them all
  of the picture is made anew. A latent's place is known where the pixel at its upper left corner is, as in diffusers.
  In training `rectangles` are unknown.

  Args:
    method: a `first_stage`, whose network is told "picture" [N, h, w, 1 + channels].
    encode: the first stage's.
    latent: height, width and channels of a latent.
    factor: pixels of a latent's side.
    feature: the pictures' name in a batch.

  Raises:
    UserError: sampling is given a picture with a strength.
  """
  height, width = (factor * n for n in latent[:2])

  def beside(state: State, x: Image, keep: Bool[Array, "n height width"], keys: Key[Array, " n"]) -> Latents:
    z = encode(state.params[STAGE], jnp.where(keep[..., None], x, 0), keys)
    free = ~keep[:, ::factor, ::factor, None]
    return jnp.concatenate([free.astype(z.dtype), z], axis=-1)

  def told(state: State, batch: Batch, key: Key[Array, ""]) -> Batch:
    mask_keys, encode_keys = split(example_keys(key, batch["index"]))
    keep = jax.vmap(lambda key: rectangles(key, height, width))(mask_keys)
    return {**batch, "picture": beside(state, batch[feature], keep, encode_keys)}

  def init(key: Key[Array, ""], batch: Batch) -> State:
    rows, columns, channels = latent
    return method.init(key, {**batch, "picture": jnp.zeros((len(batch["index"]), rows, columns, 1 + channels))})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MASK_STREAM)
    return method.step(state, told(state, batch, key), **options)

  def evaluate(state: State, batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
    mask_key, key = jax.random.split(key)
    return method.evaluate(state, told(state, batch, mask_key), key)

  def sample(state: State, keys: Key[Array, " n"], **asked: Any) -> Image:
    edit, rest = edits.taken(asked)
    if edit is None:
      n, dtype = len(keys), jnp.result_type(float)
      edit = edits.Edit(jnp.zeros((n, height, width, 3), dtype), None, jnp.zeros((n, height, width), bool))
    elif edit.keep is None:
      raise UserError("a network of inpainting takes a picture with a mask, and no strength: give --mask")
    elif edit.keep.shape[1:] != (height, width):
      found = " x ".join(map(str, edit.keep.shape[1:]))
      raise UserError(f"pictures and masks of this model are {height} x {width}, not {found}: give them in that size")
    picture = beside(state, edit.start, edit.keep, fold_in(keys, ENCODE_STREAM))
    made = method.sample(state, keys, picture=picture, **rest)
    return jnp.where(edit.keep[..., None], edit.start.astype(made.dtype), made)

  return method._replace(init=init, step=step, evaluate=evaluate, sample=sample)
