"""ProphetNet: an encoder-decoder that tells each token from several distances, Qi et al. 2020,
https://arxiv.org/abs/2001.04063, section 3.

Beside the main stream, which reads the target, the decoder has n predicting streams (Figure 2). Stream j at place t
reads the main stream up to place t - j, the main stream's first token, and itself; its output tells token t + 1. With n
= 1 it is a usual next-token model, and decoding uses only stream 0. Attention has a bias for each bucket of distances,
which a layer computes from each token's features (section 3.3): a predicting stream stands one place ahead of the main
one.

    ProphetNet(30_522)          391,321,600 parameters
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.arrays import wide_dtype
from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.attention import (
  Block,
  Blocks,
  Cache,
  Index,
  Row,
  Tokens,
  attend,
  attention_weights,
  head_width,
  with_earlier,
  xavier,
)
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.blocks.positions import Learned, Positions, relative_bucket
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.sequence.options import SIZES, Options
from jaxgen.nn.sequence.transformer import Embedding, EncoderDecoder, Ids, Mask, Stack, placed

Dtype = Any
# Their table of 512 positions has one that padding takes; the last streams stand one place beyond the main one.
LARGE = SIZES["BART large"]._replace(absolute=partial(Learned, 511, 1), attention_dropout=0.1, hidden_dropout=0.1)


class NgramAttention(nn.Module):
  """Attention of the main stream to itself, and of each predicting stream to the main one and itself.

  Attributes:
    streams: number of predicting streams; x has 1 + streams parts of as many tokens.
    buckets, most: of `relative_bucket`.
  """

  heads: int
  qkv_bias: bool = True
  dropout: float = 0.0
  streams: int = 2
  buckets: int = 32
  most: int = 128
  kernel_init: Any = xavier
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Row, *, positions: Positions, index: Index = None, cache: Cache | None = None) -> Row:
    """The output of all streams, [B, (1 + streams) T, F].

    Args:
      positions: of the main stream's tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      cache: the main stream's are the next tokens; see `nn.blocks.attention.Attention`.
    """
    features = x.shape[-1]
    options = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
    width, cut = head_width(features, self.heads), spread.cuts(self.heads, "heads")
    x = x if cut else spread.over_devices(x)
    parts = partial(jnp.split, indices_or_sections=1 + self.streams, axis=1)
    q, k, v = map(parts, Projections(3, self.heads, width, cut, self.qkv_bias, name="qkv", **options)(x))
    own = Dense(self.buckets * self.heads, name="relative", **options)(x)
    own = parts(own.reshape(*x.shape[:2], self.buckets, self.heads))  # [B, T, buckets, H] of each stream
    keys, values = k[0], v[0]
    if cache is not None:
      keys, values = with_earlier("k", keys, cache), with_earlier("v", values, cache)
    distance = jnp.arange(keys.shape[1]) - positions[..., None]  # [#B, T, K]
    bucket = partial(relative_bucket, buckets=self.buckets, most=self.most, bidirectional=False)

    def bias(stream: int, distance: Int[Array, "#batch tokens keys"]) -> Float[Array, "batch heads tokens keys"]:
      rows = jnp.moveaxis(own[stream], -1, 1)  # [B, H, T, buckets]
      return jnp.take_along_axis(
        rows, jnp.broadcast_to(bucket(distance)[:, None], (*rows.shape[:3], distance.shape[-1])), 3
      )

    drop = Dropout(self.dropout)
    seen = (distance <= 0)[:, None]
    given = dict(mask=seen, bias=bias(0, distance))
    if self.dropout and index is not None:
      weights = drop(attention_weights(q[0], keys, **given).astype(values.dtype), index)
      found = [jnp.einsum("bhtk,bkhd->bthd", weights, values)]
    else:
      found = [attend(q[0], keys, values, **given)]
    for j in range(self.streams):
      seen = ((distance <= -j) | (jnp.arange(keys.shape[1]) == 0))[:, None]
      itself = jnp.sum(q[1 + j] * k[1 + j], axis=-1)[..., None] * width**-0.5 + own[1 + j][..., 0, :, None]
      itself = jnp.moveaxis(itself, 1, 2)  # [B, T, H, 1] -> [B, H, T, 1]; the distance to itself is in bucket 0
      weigh = lambda w: drop(w, index)
      found.append(self._weighted(q[1 + j], keys, values, bias(1 + j, distance - 1), seen, weigh, itself, v[1 + j]))
    y = jnp.concatenate(found, axis=1).reshape(x.shape)
    return spread.joined(Dense(features, name="out", **options)(y))

  @staticmethod
  def _weighted(q, keys, values, bias, seen, drop, itself, own):
    """Attention to the keys, and to one more value for each query."""
    dtype = wide_dtype(q.dtype)
    logits = jnp.einsum("bthd,bkhd->bhtk", q, keys, preferred_element_type=dtype) * q.shape[-1] ** -0.5 + bias
    logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
    logits = jnp.concatenate([logits, itself.astype(logits.dtype)], axis=-1)
    weights = drop(jax.nn.softmax(logits).astype(values.dtype))
    y = jnp.einsum("bhtk,bkhd->bthd", weights[..., : keys.shape[1]], values)
    return y + jnp.moveaxis(weights[..., -1:], 1, 2) * own


class Streams(nn.Module):
  """ProphetNet's decoder, over embedded tokens.

  Attributes:
    ngram: number of predicting streams, of which a call uses the first `streams`.
  """

  options: Options
  ngram: int
  buckets: int = 32
  most: int = 128

  @nn.compact
  def __call__(
    self,
    x: Tokens,
    index: Index = None,
    *,
    context: Float[Array, "batch source features"],
    context_mask: Mask = None,
    length: int | None = None,
    streams: int | None = None,
  ) -> Float[Array, "batch streams tokens features"]:
    """Features of every token in each predicting stream; arguments as of `nn.sequence.transformer.Stack`."""
    o, streams = self.options, self.ngram if streams is None else streams
    batch, count, features = x.shape
    dtypes = dict(dtype=o.dtype, param_dtype=o.param_dtype)
    given, at, most = placed(self, x, length)
    absolute = o.absolute(name="positions")
    rows = self.param("ngram", o.embedding_init, (self.ngram, features), o.param_dtype).astype(x.dtype)
    # Stream j's vector is row j - 1, and stream 0's the last one, as in the authors' code.
    ahead = [absolute(jnp.broadcast_to(rows[j - 1], x.shape), at + 1, most) for j in range(streams)]
    x = jnp.concatenate([absolute(x, at, most), *ahead], axis=1)
    x = Dropout(o.dropout)(LayerNorm(o.eps, name="embedding_norm", **dtypes)(spread.joined(x)), index)
    block = partial(
      Block, o.heads, o.hidden, o.norm, o.activation,
      dropout=o.dropout, attention_dropout=o.attention_dropout, hidden_dropout=o.hidden_dropout, eps=o.eps,
      attention=partial(NgramAttention, streams=streams, buckets=self.buckets, most=self.most),
      kernel_init=o.kernel_init, **dtypes,
    )  # fmt: skip
    seen = None if context_mask is None else context_mask[:, None, None, :]
    given |= dict(positions=at, context=context, context_mask=seen)
    x = Blocks(block, o.depth, remat=o.remat, unroll=o.unroll, name="stack")(x, index, **given)
    return x[:, count:].reshape(batch, streams, count, features)


class ProphetNet(nn.Module):
  """The encoder-decoder; one table is used for all tokens and for the output layer.

  Attributes:
    ngram: number of predicting streams.
    buckets, most: of the distances, see `nn.blocks.positions.relative_bucket`.
  """

  vocabulary: int
  options: Options = LARGE
  ngram: int = 2
  buckets: int = 32
  most: int = 128

  def setup(self):
    check_sizes("ProphetNet", ngram=self.ngram)
    self.embedding, self.encoder = Embedding(self.vocabulary, self.options), Stack(self.options)
    self.decoder = Streams(self.options, self.ngram, self.buckets, self.most)

  def __call__(
    self, source: Int[Array, "batch source"], target: Ids, mask: Mask = None, index: Index = None
  ) -> Float[Array, "batch *streams tokens {self.vocabulary}"]:
    """Logits of the token after each target token, by each stream, [B, n, T, V]; with n = 1, [B, T, V].

    Args:
      source: the source's tokens.
      target: the target's tokens; the first is the one that starts every sequence.
      mask: which of the source's tokens are seen.
      index: the examples' positions in the global batch. With them dropout is on and needs rngs={"dropout": key}.
    """
    found = self.streams(target, self.encode(source, mask, index), mask, index)
    return found[:, 0] if self.ngram == 1 else found

  def encode(
    self, source: Int[Array, "batch source"], mask: Mask = None, index: Index = None
  ) -> Float[Array, "batch source features"]:
    return self.encoder(self.embedding(source), index, mask=mask)

  def streams(
    self,
    target: Ids,
    memory: Float[Array, "batch source features"],
    mask: Mask = None,
    index: Index = None,
    length: int | None = None,
    count: int | None = None,
  ) -> Float[Array, "batch streams tokens {self.vocabulary}"]:
    """Logits by the first `count` streams, given the encoded source; the rest as in `EncoderDecoder.decode`."""
    options = dict(context=memory, context_mask=mask, length=length, streams=count)
    x = self.decoder(self.embedding(target), index, **options)
    batch, streams, tokens, features = x.shape
    logits = self.embedding.logits(x.reshape(batch, streams * tokens, features))
    return logits.reshape(batch, streams, tokens, self.vocabulary)

  def decode(
    self,
    target: Ids,
    memory: Float[Array, "batch source features"],
    mask: Mask = None,
    index: Index = None,
    length: int | None = None,
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of only the next token, by stream 0; arguments as in `EncoderDecoder.decode`."""
    return self.streams(target, memory, mask, index, length, 1)[:, 0]

  stepper = EncoderDecoder.stepper
