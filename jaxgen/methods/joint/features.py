"""Features of pictures and texts from frozen networks, as another method's condition or as its data.

    method = gaussian_diffusion(EfficientUNet(), .., condition=entries({"text": .., "mask": ..}, 0.1))
    method = told_features(method, clip_texts(clip), Frozen(..))

Then the batch, and what samples are asked for, have "tokens" in place of "text" and "mask".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Frozen, Method, Metrics, Params, State
from jaxgen.nn.joint.dual import DualEncoder, unit
from jaxgen.nn.sequence.t5 import T5Encoder

ENCODER = "encoder"  # the frozen network's entry of `params`
READER_STREAM = 0xC0000003  # fold_in data of the key that initialises it, a number that no update or stage reaches


class Reader(NamedTuple):
  """A frozen network, and the features that it gives.

  Attributes:
    init: (key, batch) -> its parameters.
    read: (parameters, batch or conditions of samples) -> entries by name, of what is there.
    names: entries of the conditions that `read` takes away.
    shown: entries that `evaluate` gives, too.
  """

  init: Callable[[Array, Batch], Params]
  read: Callable[[Params, Mapping[str, Array]], dict[str, Array]]
  names: tuple[str, ...] = ("tokens",)
  shown: tuple[str, ...] = ()


def told_features(method: Method, reader: Reader, frozen: Frozen | None = None) -> Method:
  """A method whose batch and conditions are extended by the reader's features.

  A sample may be given an entry itself, which is then not read: the embedding that a prior has made.

  Args:
    method: the method of what is read.
    reader: the frozen network, the entry "encoder" of `params`.
    frozen: where its values come from, {"params": ..}; None: they stay as initialised.
  """
  without = lambda state: state.replace(params={name: p for name, p in state.params.items() if name != ENCODER})

  def with_features(params: Params, batch: Batch) -> Batch:
    return {**batch, **jax.lax.stop_gradient(reader.read(params, batch))}

  def init(key: Array, batch: Batch) -> State:
    params = reader.init(jax.random.fold_in(key, READER_STREAM), batch)
    state = method.init(key, with_features(params, batch))
    return state.replace(params={**state.params, ENCODER: params})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    params = state.params[ENCODER]
    new, metrics = method.step(without(state), with_features(params, batch), **options)
    return new.replace(params={**new.params, ENCODER: params}), metrics

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Array]:
    batch = with_features(state.params[ENCODER], batch)
    return {**method.evaluate(without(state), batch, key), **{name: batch[name] for name in reader.shown}}

  def sample(state: State, keys: Array, **asked: Any) -> Any:
    given = {name: jnp.asarray(value) for name, value in asked.items() if value is not None}
    read = reader.read(state.params[ENCODER], given)
    rest = {name: value for name, value in asked.items() if name not in reader.names}
    return method.sample(without(state), keys, **{**read, **rest})

  stages = {**method.frozen, **({} if frozen is None else {ENCODER: frozen})}
  return method._replace(init=init, step=step, evaluate=evaluate, sample=method.sample and sample, frozen=stages)


def _tokens(entries: Mapping[str, Array]) -> Int[Array, "n tokens"]:
  if "tokens" not in entries:
    raise UserError("a model of texts is told 'tokens', and there are none: use data with captions, or give tokens")
  return entries["tokens"]


def t5_texts(network: T5Encoder) -> Reader:
  """ "text" [N, T, c] and "mask" [N, T], of tokens that T5 reads: 0 is padding, which it does not see."""

  def init(key: Array, batch: Batch) -> Params:
    return {"params": network.init(key, _tokens(batch)[:1])["params"]}

  def read(tree: Params, entries: Mapping[str, Array]) -> dict[str, Array]:
    tokens = _tokens(entries)
    return {"text": network.apply({"params": tree["params"]}, tokens, tokens != 0), "mask": tokens != 0}

  return Reader(init, read)


def _init(network: DualEncoder, side: int, name: str = "") -> Callable[[Array, Batch], Params]:
  def init(key: Array, batch: Batch) -> Params:
    pictures = batch[name][:1] if name in batch else jnp.zeros((1, side, side, 3))
    if pictures.shape[1:3] != (side, side):
      raise UserError(
        f"the dual encoder sees {side} x {side}, and {name!r} is {pictures.shape[1:3]}: change one of them"
      )
    return {"params": network.init(key, pictures, _tokens(batch)[:1])["params"]}

  return init


def _text(network: DualEncoder, tree: Params, tokens: Int[Array, "n tokens"]) -> Any:
  return network.text.apply({"params": tree["params"]["text"]}, tokens)


def clip_texts(network: DualEncoder, side: int) -> Reader:
  """ "text" [N, T, c], the text tower's normalised features of each token, and "mask" [N, T]: token 0 is padding.

  Args:
    network: the dual encoder.
    side: height and width of its pictures, which are not read here.
  """

  def read(tree: Params, entries: Mapping[str, Array]) -> dict[str, Array]:
    tokens = _tokens(entries)
    return {"text": _text(network, tree, tokens).tokens, "mask": tokens != 0}

  return Reader(_init(network, side), read)


def scaled(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
  """Features of length 1, times the root of their number: each of its entries then is about 1, as the noise's are.

  Ramesh et al. 2022 (unCLIP) model CLIP's embeddings by diffusion; their scale is not in the paper, and this one is
  that of the open versions of it.
  """
  return unit(features) * features.shape[-1] ** 0.5


PAIR = ("text", "mask", "text_embedding", "embedding")


def clip_pairs(network: DualEncoder, side: int, tells: Sequence[str] = PAIR, pictures: str = "picture") -> Reader:
  """unCLIP's conditions from a picture and its text: `clip_texts`, and both embeddings, `scaled`.

  "embedding" [N, d] is the picture's, where there is one, and "text_embedding" [N, d] the text's.

  Args:
    network: the dual encoder.
    side: height and width of the pictures that it sees.
    tells: the entries that the method takes, some of `PAIR`.
    pictures: the pictures' name in a batch.
  """

  def read(tree: Params, entries: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    if "tokens" in entries:
      text = _text(network, tree, entries["tokens"])
      found |= {"text": text.tokens, "mask": entries["tokens"] != 0, "text_embedding": scaled(text.whole)}
    if pictures in entries:
      found["embedding"] = scaled(network.apply(tree, entries[pictures], method="of_pictures"))
    return {name: value for name, value in found.items() if name in tells}

  shown = tuple(name for name in ("embedding", "text_embedding") if name in tells)
  return Reader(_init(network, side, pictures), read, ("tokens", pictures), shown)
