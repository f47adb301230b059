"""Transformers over tokens: encoder, decoder, and both.

Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762, and its descendants: BERT's encoder,
the encoder-decoders BART and Marian, and decoder-only language models. Blocks are `nn.blocks.attention.Block`, in one
scan.

    network = EncoderDecoder(37_000, SIZES["Transformer base"])
    logits = network.apply({"params": params}, source, target, mask)
    step, carry = network.stepper(params, source, mask, length)    # for `jaxgen.decoding`

Tokens are integers [B, T]. A mask [B, S] is True for tokens and False for padding.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import Block, Blocks, Cache, Index, normal
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.options import SIZES, Options

Dtype = Any
Ids = Int[Array, "batch tokens"]
Mask = Bool[Array, "batch source"] | None
Features = Float[Array, "batch tokens features"]


def gpt(
  features: int,
  heads: int,
  depth: int,
  context: int,
  dropout: float = 0.0,
  dtype: Dtype = jnp.float32,
  activation: Callable[[Array], Array] = gelu_tanh,
) -> Options:
  """The options of GPT-2: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.

  The 2 `depth` layers that add to the residual stream are smaller at first, by 1 / sqrt(2 depth).

  Args:
    context: the largest number of tokens.
    activation: of the MLPs; GELU's approximation, as in the authors' code and weights.
  """
  return Options(
    features,
    heads,
    4 * features,
    depth,
    norm="pre",
    activation=activation,
    dropout=dropout,
    attention_dropout=dropout,
    eps=1e-5,
    scaled=False,
    absolute=partial(Learned, context, param_dtype=dtype),
    embedding_init=normal,
    kernel_init=normal,
    residual_init=nn.initializers.normal(0.02 / math.sqrt(2 * max(depth, 1))),
    dtype=dtype,
    param_dtype=dtype,
  )


class Embedding(nn.Module):
  """A vector for each token; and, with the same table, logits of tokens (Press and Wolf 2016,
  https://arxiv.org/abs/1608.05859)."""

  vocabulary: int
  options: Options

  def setup(self):
    o = self.options
    self.table = self.param("table", o.embedding_init, (self.vocabulary, o.features), o.param_dtype)
    self.cut = spread.cuts(self.vocabulary, "tokens")
    self.tables = spread.copies(self.table, self.cut)  # it is used twice: see there

  def __call__(self, tokens: Ids) -> Features:
    """Raises a UserError if a token is out of range. In a compiled program its vector is NaN."""
    if not isinstance(tokens, jax.core.Tracer) and tokens.size > 0:
      least, most = np.asarray(tokens).min(), np.asarray(tokens).max()
      if least < 0 or most >= self.vocabulary:
        raise UserError(
          f"tokens from {least} to {most}, and the network's are 0 to {self.vocabulary - 1}: "
          "change its vocabulary or the data"
        )
    # Otherwise negative tokens would count from the end.
    tokens = jnp.where(tokens < 0, self.vocabulary, tokens)
    take = partial(jnp.take, axis=0, mode="fill", fill_value=jnp.nan)
    x = spread.over_batch(self._by_part(take, tokens)).astype(self.options.dtype)
    return x * math.sqrt(self.options.features) if self.options.scaled else x

  def logits(self, x: Features) -> Float[Array, "batch tokens {self.vocabulary}"]:
    logits = self._by_part(lambda table, x: x @ table.T.astype(x.dtype), x)
    return spread.over_width(logits) if self.cut else spread.over_devices(logits, always=True)

  def _by_part(self, f: Callable[[Array, Array], Array], x: Array) -> Array:
    """f(table, x), where each part of the batch uses the copy of the table on its own devices."""
    ways = len(self.tables)
    if ways == 1 or len(x) % ways:
      return f(self.table, x)
    y = jax.vmap(f)(self.tables, spread.in_parts(x, ways))
    return y.reshape(len(x), *y.shape[2:])


def placed(
  module: nn.Module, x: Features, length: int | None, positions: Ids | None = None
) -> tuple[dict[str, Cache], Int[Array, "#batch tokens"], int]:
  """(what blocks are given of the module's cache, the tokens' positions, the largest number of tokens of a sequence).

  The cache's position moves behind these tokens.

  Args:
    length: as in `Stack`.
    positions: positions of the tokens, if they do not count from the row's start.
  """
  batch, count, _ = x.shape
  positions = jnp.arange(count)[None] if positions is None else positions
  if length is None:
    return {}, positions, count
  first = module.variable("cache", "position", jnp.zeros, (batch,), jnp.int32)
  start, first.value = first.value, first.value + count
  return {"cache": Cache(length, start)}, start[:, None] + positions, length


class Stack(nn.Module):
  """The blocks of an encoder or, if `causal`, of a decoder, over embedded tokens."""

  options: Options
  causal: bool = False

  @nn.compact
  def __call__(
    self,
    x: Features,
    index: Index = None,
    *,
    mask: Bool[Array, "batch *tokens_keys"] | None = None,
    positions: Ids | None = None,
    context: Float[Array, "batch source features"] | None = None,
    context_mask: Mask = None,
    length: int | None = None,
    states: bool = False,
  ) -> Any:
    """The last block's features of every token [B, T, D]; with `states`, (these, every block's input [depth, B, T, D]).

    Args:
      x: embedded tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      mask: the tokens that are seen, [B, T], or by each token those that it sees, [B, T, T]; None: all.
      positions: positions of the tokens, if they do not count from the row's start.
      context: the context for a decoder's cross-attention.
      context_mask: the parts of the context that are seen; None: all.
      length: x holds the next tokens of sequences of at most this length; the earlier tokens are in the collection
        "cache". None: x holds whole sequences.
    """
    o = self.options
    if o.norm not in ("pre", "post"):
      raise UserError(f"a Transformer normalises 'pre' or 'post', not {o.norm!r}: change its norm")
    dtypes = dict(dtype=o.dtype, param_dtype=o.param_dtype)
    attention, positions, keys = placed(self, x, length, positions)
    if o.absolute is not None:
      x = spread.joined(o.absolute(name="positions")(x, positions, keys))
    if o.embedding_norm:
      x = LayerNorm(o.eps, name="embedding_norm", **dtypes)(x)
    x = Dropout(o.dropout)(x, index)

    across = lambda mask: None if mask is None else mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    attention |= dict(mask=across(mask), causal=self.causal)
    if o.rotate is not None:
      attention["rotate"] = lambda y: o.rotate(y, positions)
    if o.relative is not None:
      attention["bias"] = o.relative(o.heads, not self.causal, name="relative")(positions, jnp.arange(keys))
    if context is not None:
      attention |= dict(context=context, context_mask=across(context_mask))
    if o.windows:
      widest = jnp.iinfo(jnp.int32).max
      turns = [o.windows[i % len(o.windows)] or widest for i in range(o.depth)]
      attention["each"] = {"window": jnp.asarray(turns, jnp.int32)}
    block = partial(
      Block, o.heads, o.hidden, o.norm, o.activation, o.qkv_bias,
      dropout=o.dropout, attention_dropout=o.attention_dropout, hidden_dropout=o.hidden_dropout,
      eps=o.eps, attention=o.attention, kernel_init=o.kernel_init, out_init=o.residual_init, **dtypes,
    )  # fmt: skip
    blocks = Blocks(block, o.depth, remat=o.remat, unroll=o.unroll, name="stack")
    x, inputs = blocks(x, index, states=True, **attention) if states else (blocks(x, index, **attention), None)
    x = LayerNorm(o.eps, name="norm", **dtypes)(x) if o.norm == "pre" else x
    return (x, inputs) if states else x


class Encoder(nn.Module):
  """BERT's encoder: Devlin et al. 2018, section 3.

  Attributes:
    types: number of segment types, each with its own vector; 0: none.
    pooled: whether there are features of the whole.
  """

  vocabulary: int
  options: Options = SIZES["BERT base"]
  types: int = 2
  pooled: bool = True

  def setup(self):
    o = self.options
    self.embedding, self.encoder = Embedding(self.vocabulary, o), Stack(o)
    if self.types:
      self.segments = Embedding(self.types, o, name="types")
    if self.pooled:
      self.pooler = Dense(o.features, kernel_init=o.kernel_init, dtype=o.dtype, param_dtype=o.param_dtype)

  def __call__(
    self, tokens: Ids, mask: Bool[Array, "batch tokens"] | None = None, types: Ids | None = None, index: Index = None
  ) -> tuple[Features, Float[Array, "batch features"] | None]:
    """(features of every token, features of the whole: a dense layer and tanh of the first token's).

    Args:
      types: each token's segment; by default 0.
    """
    x = self.embedding(tokens)
    if self.types:
      x = x + self.segments(jnp.zeros_like(tokens) if types is None else types)
    x = self.encoder(x, index, mask=mask)
    return x, jnp.tanh(self.pooler(x[:, 0])) if self.pooled else None

  def logits(self, x: Features) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of tokens, by the table of their vectors."""
    return self.embedding.logits(x)


class EncoderDecoder(nn.Module):
  """Vaswani et al. 2017, Figure 1: the decoder attends to the encoded source and to what it has written so far.

  The output layer shares its weights with the embeddings (section 3.4).

  Attributes:
    vocabulary: number of tokens, in source and target.
    sources: number of the source's tokens, if it has its own; None: it shares the target's.
    output_bias: a bias on the logits, as in Marian and BART.
    decoder_depth: number of the decoder's blocks; None: as many as the encoder's.
  """

  vocabulary: int
  options: Options = SIZES["Transformer base"]
  sources: int | None = None
  output_bias: bool = False
  decoder_depth: int | None = None

  def setup(self):
    o = self.options
    self.embedding = Embedding(self.vocabulary, o)
    self.source_embedding = self.embedding if self.sources is None else Embedding(self.sources, o)
    self.encoder, self.decoder = Stack(o), Stack(o._replace(depth=self.depths[1]), causal=True)
    if self.output_bias:
      self.bias = self.param("output_bias", nn.initializers.zeros, (self.vocabulary,), o.param_dtype)

  @property
  def depths(self) -> tuple[int, int]:
    """Numbers of blocks of the encoder and of the decoder."""
    return self.options.depth, self.options.depth if self.decoder_depth is None else self.decoder_depth

  def __call__(
    self, source: Int[Array, "batch source"], target: Ids, mask: Mask = None, index: Index = None
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each target token.

    Args:
      source: the source's tokens.
      target: the target's tokens; the first is the one that starts every sequence.
      mask: which of the source's tokens are seen.
      index: the examples' positions in the global batch. With them dropout is on and needs rngs={"dropout": key}.
    """
    return self.decode(target, self.encode(source, mask, index), mask, index)

  def encode(
    self, source: Int[Array, "batch source"], mask: Mask = None, index: Index = None
  ) -> Float[Array, "batch source features"]:
    return self.encoder(self.source_embedding(source), index, mask=mask)

  def decode(
    self,
    target: Ids,
    memory: Float[Array, "batch source features"],
    mask: Mask = None,
    index: Index = None,
    length: int | None = None,
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each target token, given the encoded source.

    Args:
      target: the target's tokens.
      memory: the encoded source.
      mask: which of the source's tokens are seen.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      length: see `Stack`.
    """
    x = self.decoder(self.embedding(target), index, context=memory, context_mask=mask, length=length)
    logits = self.embedding.logits(x)
    return logits + self.bias.astype(logits.dtype) if self.output_bias else logits

  @nn.nowrap
  def stepper(self, params: Any, source: Int[Array, "batch source"], mask: Mask, length: int):
    """(step, carry) of `jaxgen.decoding`, for sequences of at most `length` tokens. The carry is the cache."""
    memory = self.apply({"params": params}, source, mask, method="encode")
    nothing = jnp.zeros((len(source), 0), source.dtype)
    decode = partial(self.apply, method="decode", length=length)
    _, kept = decode({"params": params}, nothing, memory, mask, mutable=["cache", "memory"])

    def step(carry, tokens: Int[Array, "batch"]):
      variables = {"params": params, "memory": kept["memory"], "cache": carry}
      logits, new = decode(variables, tokens[:, None], memory, mask, mutable=["cache"])
      return logits[:, 0], new["cache"]

    return step, kept["cache"]


class LanguageModel(nn.Module):
  """A decoder without an encoder, which predicts the next token from those before it."""

  vocabulary: int
  options: Options = SIZES["Transformer base"]

  def setup(self):
    self.embedding = Embedding(self.vocabulary, self.options)
    self.decoder = Stack(self.options, causal=True)

  def __call__(
    self, tokens: Ids, index: Index = None, length: int | None = None, documents: Ids | None = None
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each token.

    Args:
      tokens: the tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      length: see `Stack`.
      documents: the number of each token's document, if a row has several documents. No token sees
        another document, and positions count from a document's start.
    """
    packed = {}
    if documents is not None:
      mine = documents[:, :, None] == documents[:, None, :]
      packed = dict(mask=mine, positions=jnp.sum(jnp.tril(mine, -1), axis=-1, dtype=jnp.int32))
    return self.embedding.logits(self.decoder(self.embedding(tokens), index, length=length, **packed))

  @nn.nowrap
  def stepper(self, params: Any, prompt: Ids, length: int):
    """(step, carry) of `jaxgen.decoding`, for sequences of at most `length` tokens, these included."""
    call = partial(self.apply, length=length, mutable=["cache"])
    _, kept = call({"params": params}, prompt)

    def step(carry, tokens: Int[Array, "batch"]):
      logits, new = call({"params": params, "cache": carry}, tokens[:, None])
      return logits[:, 0], new["cache"]

    return step, kept["cache"]
