"""Sequence to sequence by recurrent networks with attention.

An encoder reads the source in both directions. A decoder writes the target token by token, and attends to the source at
every step. Two decoders:

    Additive         Bahdanau et al. 2014, https://arxiv.org/abs/1409.0473, section 3.1 and Appendix A
    Multiplicative   Luong et al. 2015, https://arxiv.org/abs/1508.04025, sections 3.1 and 3.3

    network = Seq2Seq(sources, vocabulary, decoder=Multiplicative)
    logits = network.apply({"params": params}, source, target, mask)
    step, carry = network.stepper(params, source, mask, length)    # for `jaxgen.decoding`

Cells are `nn.sequence.recurrent`'s, in both directions and in layers; the papers' RNNsearch is `Seq2Seq(30_000, 30_000,
1_000, 620, "gru")`, whose gated unit resets before the product with h and not after it.

Tokens are integers [B, T]. A mask [B, S] is True for tokens of the source and False for padding, which comes last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.nn.blocks.layers import Dense, Dropout
from jaxgen.nn.sequence.recurrent import Cell, CellName, Recurrent, State
from jaxgen.nn.sequence.transformer import Embedding, Options

Dtype = Any
Index = Int[Array, "batch"] | None
Mask = Bool[Array, "batch source"] | None
Carry = tuple[tuple[State, ...], Array]  # states of the cells by layer, and the output layer's input of the last step
Step = tuple[Carry, tuple[Float[Array, "batch features"], Float[Array, "batch source"]]]


def look(
  scores: Float[Array, "batch source"], memory: Float[Array, "batch source m"], mask: Bool[Array, "batch source"]
) -> tuple[Float[Array, "batch m"], Float[Array, "batch source"]]:
  """(c, alpha): the memory's mean with weights alpha = softmax(scores), and alpha, which is 0 for padding."""
  scores = wide(scores)
  weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min)).astype(memory.dtype)
  return jnp.einsum("bs,bsm->bm", weights, memory), weights


def advance(cells: Sequence[Cell], x: Float[Array, "batch inputs"], states: tuple[State, ...]) -> tuple[State, ...]:
  """One step of stacked cells."""
  new = []
  for cell, state in zip(cells, states, strict=True):
    new.append(cell(x, state))
    x = new[-1][0]
  return tuple(new)


class Additive(nn.Module):
  """Attends, then steps: alpha = softmax(v^T tanh(W s + U h_j)) with the state s before the step."""

  features: int
  kind: CellName
  layers: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    self.cells = [Cell(self.features, self.kind, **options) for _ in range(self.layers)]
    self.w, self.u = (Dense(self.features, use_bias=False, **options) for _ in range(2))
    self.v = Dense(1, use_bias=False, **options)
    self.out = Dense(2 * self.features, **options)

  def keys(self, memory: Float[Array, "batch source m"]) -> Float[Array, "batch source k"]:
    """U h_j, once for all steps."""
    return self.u(memory)

  def __call__(
    self, carry: Carry, y: Float[Array, "batch e"], keys: Array, memory: Array, mask: Bool[Array, "batch source"]
  ) -> Step:
    states, _ = carry
    scores = self.v(jnp.tanh(self.w(states[-1][0])[:, None] + keys))[..., 0]
    context, weights = look(scores, memory, mask)
    states = advance(self.cells, jnp.concatenate([y, context], axis=-1), states)
    # maxout over pairs, Appendix A.2.2
    out = self.out(jnp.concatenate([states[-1][0], y, context], axis=-1))
    out = out.reshape(len(out), self.features, 2).max(-1)
    return (states, out), (out, weights)


class Multiplicative(nn.Module):
  """Steps, then attends: alpha = softmax(h^T W h_j) with the new state h, eq. 8's "general".

  Its output, which includes the context, is also an input of the next step (section 3.3, input feeding).
  """

  features: int
  kind: CellName
  layers: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    self.cells = [Cell(self.features, self.kind, **options) for _ in range(self.layers)]
    self.w, self.out = (Dense(self.features, use_bias=False, **options) for _ in range(2))

  def keys(self, memory: Float[Array, "batch source m"]) -> Float[Array, "batch source k"]:
    """W h_j, once for all steps."""
    return self.w(memory)

  def __call__(
    self, carry: Carry, y: Float[Array, "batch e"], keys: Array, memory: Array, mask: Bool[Array, "batch source"]
  ) -> Step:
    states, fed = carry
    states = advance(self.cells, jnp.concatenate([y, fed], axis=-1), states)
    context, weights = look(jnp.einsum("bk,bsk->bs", states[-1][0], keys), memory, mask)
    out = jnp.tanh(self.out(jnp.concatenate([context, states[-1][0]], axis=-1)))  # eq. 5
    return (states, out), (out, weights)


class Seq2Seq(nn.Module):
  """An encoder in both directions, and a decoder that attends to it.

  Attributes:
    sources, vocabulary: number of tokens of the source and of the target.
    features: width of the decoder's state, and of the encoder's in each direction.
    embedding: width of the embeddings.
    layers: number of stacked cells, in both.
    decoder: `Additive` or `Multiplicative`.
    dropout: rate, on the embeddings, between the encoder's layers, and before the output layer.
  """

  sources: int
  vocabulary: int
  features: int = 256
  embedding: int = 128
  kind: CellName = "gru"
  layers: int = 1
  decoder: Callable[..., nn.Module] = Additive
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    options = Options(self.embedding, scaled=False, embedding_init=nn.initializers.normal(1.0), **dtypes)
    self.source_embedding, self.embed = Embedding(self.sources, options), Embedding(self.vocabulary, options)
    both = dict(layers=self.layers, bidirectional=True, dropout=self.dropout)
    self.encoder = Recurrent(self.features, self.kind, **both, **dtypes)
    self.bridge = [Dense(self.features, **dtypes) for _ in range(self.layers)]
    self.step = self.decoder(self.features, self.kind, self.layers, **dtypes)
    self.out = Dense(self.vocabulary, **dtypes)
    self.drop = Dropout(self.dropout)

  def __call__(
    self, source: Int[Array, "batch source"], target: Int[Array, "batch tokens"], mask: Mask = None, index: Index = None
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each target token, given the tokens before.

    Args:
      source: the source's tokens.
      target: the target's tokens; the first is the one that starts every sequence.
      mask: which of the source's tokens are seen.
      index: the examples' positions in the global batch. With them dropout is on and needs rngs={"dropout": key}.
    """
    return self.attend(source, target, mask, index)[0]

  def attend(
    self, source: Int[Array, "batch source"], target: Int[Array, "batch tokens"], mask: Mask = None, index: Index = None
  ) -> tuple[Float[Array, "batch tokens {self.vocabulary}"], Float[Array, "batch tokens source"]]:
    """(logits, attention weights over the source at each step)."""
    carry, *seen = self.start(source, mask, index)
    y = self.drop(self.embed(target), index)
    step = lambda step, carry, y: step(carry, y, *seen)
    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
    _, (out, weights) = scan(self.step, carry, y)
    return self.out(self.drop(out, index)), weights

  def start(self, source: Int[Array, "batch source"], mask: Mask = None, index: Index = None):
    """(the first carry, keys, memory, mask): the encoded source, and the state that the decoder starts from.

    That state is tanh of a dense layer of the encoder's last states in both directions; an LSTM's cell starts at 0.
    """
    mask = jnp.ones(source.shape, bool) if mask is None else mask
    x = self.drop(self.source_embedding(source), index)
    memory, final = self.encoder(x, mask.sum(axis=1), None, index)
    last = final[0].reshape(len(source), self.layers, -1)  # both directions of each layer
    states = []
    for layer, bridge in enumerate(self.bridge):
      h = jnp.tanh(bridge(last[:, layer]))
      states.append((h, *[jnp.zeros_like(h)] * (len(final) - 1)))
    return (tuple(states), jnp.zeros_like(states[-1][0])), self.step.keys(memory), memory, mask

  def read(self, carry: Carry, token: Int[Array, "batch"], *seen: Array):
    """One step: (logits of what follows the token, carry)."""
    carry, (out, _) = self.step(carry, self.embed(token[:, None])[:, 0], *seen)
    return self.out(out), carry

  @nn.nowrap
  def stepper(self, params: Any, source: Int[Array, "batch source"], mask: Mask, length: int):
    """(step, carry) for `jaxgen.decoding`. The state's size does not depend on the sequence's length."""
    carry, *seen = self.apply({"params": params}, source, mask, method="start")
    read = partial(self.apply, {"params": params}, method="read")
    return lambda carry, tokens: read(carry, tokens, *seen), carry
