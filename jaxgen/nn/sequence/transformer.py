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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.attention import Block, Blocks, Cache, Index, gelu, normal, xavier
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.blocks.positions import Learned, Sinusoidal

Dtype = Any
Ids = Int[Array, "batch tokens"]
Mask = Bool[Array, "batch source"] | None
Features = Float[Array, "batch tokens features"]


class Options(NamedTuple):
  """The sizes and choices of a Transformer.

  Attributes:
    features: width of the model.
    heads: number of attention's heads, each of width features / heads.
    hidden: width of the MLPs' hidden layer.
    depth: number of blocks; in an encoder-decoder, of the encoder and of the decoder (see `EncoderDecoder`).
    norm: "post" normalises after each branch, as in the paper; "pre" before it, and once at the end.
    dropout: dropout rate of the embeddings and of each branch's output (section 5.4).
    attention_dropout, hidden_dropout: dropout rates of the attention weights and of the MLPs' hidden layer.
    scaled: whether embeddings are multiplied by sqrt(features) (section 3.4).
    embedding_norm: whether embeddings are normalised, after positions are added.
    absolute: (name) -> a module that adds positions; None: none are added. See `nn.blocks.positions`.
    rotate: (queries or keys, positions) -> the rotated ones, such as `rotary`; None: no rotation.
    relative: (heads, bidirectional, name) -> a module that gives a bias for each distance, such as `Relative`.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    unroll: number of blocks in one turn of the loop over blocks, see `Blocks`.
    embedding_init, kernel_init: initialisers of the embedding tables and of dense layers.
  """

  features: int = 512
  heads: int = 8
  hidden: int = 2048
  depth: int = 6
  norm: Literal["pre", "post"] = "post"
  activation: Callable[[Array], Array] = jax.nn.relu
  dropout: float = 0.1
  attention_dropout: float = 0.0
  hidden_dropout: float = 0.0
  eps: float = 1e-6
  scaled: bool = True
  embedding_norm: bool = False
  absolute: Callable[..., nn.Module] | None = Sinusoidal
  rotate: Callable[[Array, Array], Array] | None = None
  relative: Callable[..., nn.Module] | None = None
  remat: bool = False
  unroll: int = 1
  embedding_init: Any = nn.initializers.variance_scaling(1.0, "fan_out", "normal")  # of variance 1 / features
  kernel_init: Any = xavier
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32


_bert = Options(
  activation=gelu,
  attention_dropout=0.1,
  eps=1e-12,
  scaled=False,
  embedding_norm=True,
  absolute=partial(Learned, 512),
  embedding_init=normal,
  kernel_init=normal,
)
_bart = _bert._replace(eps=1e-5, attention_dropout=0.0, absolute=partial(Learned, 1024, 2))

SIZES = {
  # Vaswani et al. 2017, Table 3; 63 and 214 million parameters with the paper's 37,000 tokens (there "65" and "213")
  "Transformer base": Options(),
  "Transformer big": Options(1024, 16, 4096, dropout=0.3),
  # Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3; 109,482,240 and 335,141,888 with 30,522 tokens
  "BERT base": _bert._replace(features=768, heads=12, hidden=3072, depth=12),
  "BERT large": _bert._replace(features=1024, heads=16, hidden=4096, depth=24),
  # Lewis et al. 2019, https://arxiv.org/abs/1910.13461, section 2; 139,420,416 and 406,291,456 with 50,265 tokens
  "BART base": _bart._replace(features=768, heads=12, hidden=3072, depth=6),
  "BART large": _bart._replace(features=1024, heads=16, hidden=4096, depth=12),
  # Tiedemann and Thottingal 2020, https://aclanthology.org/2020.eamt-1.61; 73,886,208 with 58,101 tokens (en-de)
  "OPUS-MT": Options(activation=jax.nn.silu, eps=1e-5, absolute=partial(Sinusoidal, interleaved=False)),
}


def gpt(
  features: int, heads: int, depth: int, context: int, dropout: float = 0.0, dtype: Dtype = jnp.float32
) -> Options:
  """The options of GPT-2: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.

  Args:
    context: the largest number of tokens.
  """
  return Options(
    features,
    heads,
    4 * features,
    depth,
    norm="pre",
    activation=gelu,
    dropout=dropout,
    attention_dropout=dropout,
    eps=1e-5,
    scaled=False,
    absolute=partial(Learned, context, param_dtype=dtype),
    embedding_init=normal,
    kernel_init=normal,
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
    mask: Bool[Array, "batch tokens"] | None = None,
    context: Float[Array, "batch source features"] | None = None,
    context_mask: Mask = None,
    length: int | None = None,
    states: bool = False,
  ) -> Any:
    """The last block's features of every token [B, T, D]; with `states`, (these, every block's input [depth, B, T, D]).

    Args:
      x: embedded tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      mask: the tokens that are seen; None: all.
      context: what a decoder attends to after itself.
      context_mask: the parts of the context that are seen; None: all.
      length: x holds the next tokens of sequences of at most this length; the earlier tokens are in the collection
        "cache". None: x holds whole sequences.
    """
    o = self.options
    if o.norm not in ("pre", "post"):
      raise UserError(f"a Transformer normalises 'pre' or 'post', not {o.norm!r}: change its norm")
    batch, count, _ = x.shape
    dtypes = dict(dtype=o.dtype, param_dtype=o.param_dtype)
    attention, positions, keys = {}, jnp.arange(count)[None], count
    if length is not None:
      first = self.variable("cache", "position", jnp.zeros, (batch,), jnp.int32)
      attention["cache"], keys = Cache(length, first.value), length
      positions = first.value[:, None] + positions
      first.value = first.value + count
    if o.absolute is not None:
      x = spread.joined(o.absolute(name="positions")(x, positions, keys))
    if o.embedding_norm:
      x = LayerNorm(o.eps, name="embedding_norm", **dtypes)(x)
    x = Dropout(o.dropout)(x, index)

    across = lambda mask: None if mask is None else mask[:, None, None, :]
    attention |= dict(mask=across(mask), causal=self.causal)
    if o.rotate is not None:
      attention["rotate"] = lambda y: o.rotate(y, positions)
    if o.relative is not None:
      attention["bias"] = o.relative(o.heads, not self.causal, name="relative")(positions, jnp.arange(keys))
    if context is not None:
      attention |= dict(context=context, context_mask=across(context_mask))
    block = partial(
      Block, o.heads, o.hidden, o.norm, o.activation,
      dropout=o.dropout, attention_dropout=o.attention_dropout, hidden_dropout=o.hidden_dropout,
      eps=o.eps, kernel_init=o.kernel_init, **dtypes,
    )  # fmt: skip
    blocks = Blocks(block, o.depth, remat=o.remat, unroll=o.unroll, name="stack")
    x, inputs = blocks(x, index, states=True, **attention) if states else (blocks(x, index, **attention), None)
    x = LayerNorm(o.eps, name="norm", **dtypes)(x) if o.norm == "pre" else x
    return (x, inputs) if states else x


class Encoder(nn.Module):
  """BERT's encoder: Devlin et al. 2018, section 3.

  Attributes:
    types: number of segment types, each with its own vector; 0: none.
  """

  vocabulary: int
  options: Options = SIZES["BERT base"]
  types: int = 2

  @nn.compact
  def __call__(
    self, tokens: Ids, mask: Bool[Array, "batch tokens"] | None = None, types: Ids | None = None, index: Index = None
  ) -> tuple[Features, Float[Array, "batch features"]]:
    """(features of every token, features of the whole: a dense layer and tanh of the first token's).

    Args:
      types: each token's segment; by default 0.
    """
    o = self.options
    x = Embedding(self.vocabulary, o, name="embedding")(tokens)
    if self.types:
      x = x + Embedding(self.types, o, name="types")(jnp.zeros_like(tokens) if types is None else types)
    x = Stack(o, name="encoder")(x, index, mask=mask)
    options = dict(kernel_init=o.kernel_init, dtype=o.dtype, param_dtype=o.param_dtype)
    return x, jnp.tanh(Dense(o.features, name="pooler", **options)(x[:, 0]))


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
    self, tokens: Ids, index: Index = None, length: int | None = None
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each token.

    Args:
      tokens: the tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      length: see `Stack`.
    """
    return self.embedding.logits(self.decoder(self.embedding(tokens), index, length=length))

  @nn.nowrap
  def stepper(self, params: Any, prompt: Ids, length: int):
    """(step, carry) of `jaxgen.decoding`, for sequences of at most `length` tokens, these included."""
    call = partial(self.apply, length=length, mutable=["cache"])
    _, kept = call({"params": params}, prompt)

    def step(carry, tokens: Int[Array, "batch"]):
      logits, new = call({"params": params, "cache": carry}, tokens[:, None])
      return logits[:, 0], new["cache"]

    return step, kept["cache"]
