"""The parts of Transformers: attention, a block, and a stack of blocks as one scan."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgen.core import spread
from jaxgen.core.arrays import wide_dtype
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.core.spread import over_batch
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.again import again, in_a_loop
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm, RMSNorm, check_rate
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.blocks.residual import DropPath, LayerScale

Dtype = Any
Tokens = Float[Array, "batch tokens features"]
Row = Float[Array, "batch _tokens features"]  # one of several
Index = Int[Array, "batch"] | None  # the examples' positions in the global batch, given in training
Change = Callable[[Array], Array] | None
xavier = nn.initializers.xavier_uniform()
# timm's and ViT's authors' "trunc_normal_(std=0.02)" cuts at -2 and 2, a hundred standard deviations away.
normal = nn.initializers.normal(0.02)


def attend(
  q: Float[Array, "batch queries heads d"],
  k: Float[Array, "batch keys heads d"],
  v: Float[Array, "batch keys heads d"],
  *,
  mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
  bias: Float[Array, "#batch #heads #queries #keys"] | None = None,
  causal: bool = False,
  scale: float | None = None,
) -> Float[Array, "batch queries heads d"]:
  """softmax(scale q k^T + bias) v: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1.

  Logits and softmax are in float32 or wider. The gradient keeps queries, keys and values and recomputes the attention
  weights, which are a Transformer's largest arrays.

  It uses `jax.nn.dot_product_attention` as XLA compiles it: cuDNN's kernel has no forward-mode derivative and can be
  traced only on a GPU.

  Args:
    mask: True for keys that are seen. A query that sees no key gets the mean of all values.
    causal: query i sees only the keys up to i.
    scale: the factor of the logits; by default 1 / sqrt(d).
  """
  return again(partial(_attend, causal=causal, scale=scale))(q, k, v, mask, bias)


def _attend(q, k, v, mask, bias, *, causal, scale):
  # The softmax of jax.nn.dot_product_attention is float32 always, and a CPU has none of its products in float16.
  if q.dtype in (jnp.float64, jnp.float16):
    weights = attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
  return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, is_causal=causal, implementation="xla")


def attention_weights(
  q: Float[Array, "batch queries heads d"],
  k: Float[Array, "batch keys heads d"],
  *,
  mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
  bias: Float[Array, "#batch #heads #queries #keys"] | None = None,
  causal: bool = False,
  scale: float | None = None,
) -> Float[Array, "batch heads queries keys"]:
  """softmax(scale q k^T + bias), in float32 or wider: the weights of `attend`."""
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide_dtype(q.dtype))
  logits = logits * (q.shape[-1] ** -0.5 if scale is None else scale)
  logits = logits if bias is None else logits + bias
  seen = jnp.tril(jnp.ones(logits.shape[-2:], bool)) if causal else None
  seen = mask if seen is None else seen if mask is None else seen & mask
  return jax.nn.softmax(logits if seen is None else jnp.where(seen, logits, jnp.finfo(logits.dtype).min))


def head_width(features: int, heads: int) -> int:
  """The number of features of a head.

  Raises:
    UserError: there is no head, or the features do not divide into the heads.
  """
  if heads < 1:
    raise UserError(f"attention has 1 head or more, not {heads}: change their number")
  if features % heads:
    raise UserError(f"{features} features do not divide into {heads} heads: change the width or the number of heads")
  return features // heads


class Cache(NamedTuple):
  """A cache of keys and values, for calls with the next few tokens of a sequence.

  The collection "cache" of `Blocks` has the keys and values of all blocks, [B, depth, features, length] each, and the
  collection "memory" those of a context. The first call makes both, so that both must be mutable in it; later calls
  change "cache" only. The scan over the blocks carries "cache" and changes only the entries of the new tokens: no array
  that grows with the length is copied.

  Attributes:
    length: the largest number of tokens of a sequence.
    position: the position of x's first token in its sequence, from 0.
    kept: keys and values by name, in which a block writes its own at the index `layer`.
  """

  length: int
  position: Int[Array, "batch"]
  kept: dict[str, Float[Array, "batch depth features length"]] = {}
  layer: Int[Array, ""] | None = None


def with_earlier(name: str, new: Array, cache: Cache) -> Array:
  """Writes new keys or values into the cache and returns all of them, [B, length, heads, d]."""
  batch, count, *heads = new.shape
  columns = jnp.moveaxis(new.reshape(batch, count, math.prod(heads)), 1, 2).astype(cache.kept[name].dtype)
  zero = jnp.zeros_like(cache.layer)
  put = lambda kept, columns, position: jax.lax.dynamic_update_slice(kept, columns[None], (cache.layer, zero, position))
  cache.kept[name] = jax.vmap(put)(cache.kept[name], columns, cache.position)
  own = jax.lax.dynamic_index_in_dim(cache.kept[name], cache.layer, axis=1, keepdims=False)
  return jnp.moveaxis(own.reshape(batch, *heads, cache.length), -1, 1).astype(new.dtype)


class Attention(nn.Module):
  """Multi-head attention: Vaswani et al. 2017, section 3.2.2.

  Attributes:
    heads: number of heads, each of width features / heads.
    qkv_bias, out_bias: whether the projections have biases.
    dropout: dropout rate of the attention weights.
    scale: the factor of the logits; by default 1 / sqrt(features / heads).
    qk_norm: normalise each head's queries and keys by RMS: Henry et al. 2020, https://arxiv.org/abs/2010.04245.
    out_init: initialiser of the last layer; None: kernel_init.
  """

  heads: int
  qkv_bias: bool = True
  out_bias: bool = True
  dropout: float = 0.0
  scale: float | None = None
  qk_norm: bool = False
  kernel_init: Any = xavier
  out_init: Any = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Tokens,
    context: Float[Array, "batch keys c"] | None = None,
    *,
    mask: Bool[Array, "#batch #heads #tokens #keys"] | None = None,
    bias: Float[Array, "#batch #heads #tokens #keys"] | None = None,
    causal: bool = False,
    window: Int[Array, ""] | None = None,
    rotate: Callable[[Array], Array] | None = None,
    index: Index = None,
    cache: Cache | None = None,
    change: Change = None,
  ) -> Tokens:
    """Attention of x to itself, or to `context`.

    Args:
      x: the tokens.
      context: the tokens that x attends to; None: x.
      mask, bias, causal: as in `attend`.
      window: a token sees tokens at a distance below this; causal attention sees the last `window` tokens.
      rotate: a function that is applied to queries and keys [B, T, H, d], for rotary positions.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      cache: x are the next tokens; each attends to itself and to all before. Mask and bias have cache.length keys.
      change: weights [B, heads, queries, keys] -> those in their place, after the softmax.
    """
    features = x.shape[-1]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    options = dict(kernel_init=self.kernel_init, **dtypes)
    width, cut = head_width(features, self.heads), spread.cuts(self.heads, "heads")
    if not cut:
      x, context = spread.over_devices(x), None if context is None else spread.over_devices(context)

    def heads(name: str, parts: int, x: Tokens) -> list[Array]:
      return Projections(parts, self.heads, width, cut, self.qkv_bias, name=name, **options)(x)

    if context is None:
      q, k, v = heads("qkv", 3, x)
    else:
      (q,) = heads("q", 1, x)
      keys_and_values = lambda: heads("kv", 2, context)
      k, v = keys_and_values() if cache is None else self.variable("memory", "keys_and_values", keys_and_values).value
    if self.qk_norm:
      dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      q, k = RMSNorm(name="norm_q", **dtypes)(q), RMSNorm(name="norm_k", **dtypes)(k)
    if rotate is not None:
      q, k = rotate(q), rotate(k)
    if cache is not None and context is None:
      k, v = with_earlier("k", k, cache), with_earlier("v", v, cache)
      seen = jnp.arange(cache.length) <= cache.position[:, None, None, None] + jnp.arange(x.shape[1])[:, None]
      mask, causal = seen if mask is None else seen & mask, False
    if window is not None:
      first = 0 if cache is None else cache.position[:, None, None, None]
      near = first + jnp.arange(x.shape[1])[:, None] - jnp.arange(k.shape[1]) < window
      near = jnp.broadcast_to(near, (*(1,) * (4 - near.ndim), *near.shape))
      mask = near if mask is None else near & mask
    given = dict(mask=mask, bias=bias, causal=causal, scale=self.scale)
    if change is not None or (self.dropout and index is not None):
      weights = (change or (lambda weights: weights))(attention_weights(q, k, **given))
      weights = Dropout(self.dropout)(weights.astype(v.dtype), index)
      y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    else:
      y = attend(q, k, v, **given)
    options["kernel_init"] = self.out_init or self.kernel_init
    return spread.joined(Dense(features, self.out_bias, name="out", **options)(y.reshape(x.shape)))


class MLP(nn.Module):
  """Two dense layers, dropout after each: features -> hidden -> features.

  Attributes:
    hidden_dropout: dropout rate after the first layer; None: `dropout`.
    out_init: initialiser of the second layer; None: kernel_init.
  """

  hidden: int
  activation: Callable[[Array], Array] = gelu
  dropout: float = 0.0
  hidden_dropout: float | None = None
  kernel_init: Any = xavier
  out_init: Any = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch *rest features"], index: Index = None):
    options = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
    inner = self.dropout if self.hidden_dropout is None else self.hidden_dropout
    cut = spread.cuts(self.hidden, "features of a hidden layer")
    h = Dense(self.hidden, name="in", **options)(x if cut else spread.over_devices(x))
    h = Dropout(inner)(self.activation(spread.over_width(h) if cut else h), index)
    options["kernel_init"] = self.out_init or self.kernel_init
    return Dropout(self.dropout)(spread.joined(Dense(x.shape[-1], name="out", **options)(h)), index)


class Block(nn.Module):
  """A Transformer block of residual branches: self-attention, attention to a context if there is one, and an MLP.

  Attributes:
    norm: "pre" normalises a branch's input (the residual stream is never normalised), "post" the sum after each branch.
    hidden: width of the MLP's hidden layer.
    dropout: dropout rate of the MLP's hidden layer and of each branch's output.
    attention_dropout: dropout rate of the attention weights.
    hidden_dropout: dropout rate of the MLP's hidden layer; None: `dropout`.
    layer_scale: initial gain of `LayerScale` on each branch; None: no LayerScale.
    attention: the self-attention module, made and called like `Attention`.
    out_init: initialiser of each branch's last layer; None: kernel_init.
  """

  heads: int
  hidden: int
  norm: Literal["pre", "post"] = "pre"
  activation: Callable[[Array], Array] = gelu
  qkv_bias: bool = True
  dropout: float = 0.0
  attention_dropout: float = 0.0
  hidden_dropout: float | None = None
  layer_scale: float | None = None
  eps: float = 1e-6
  attention: Callable[..., nn.Module] = Attention
  kernel_init: Any = xavier
  out_init: Any = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Tokens,
    index: Index = None,
    drop_path: float | Float[Array, ""] = 0.0,
    *,
    context: Float[Array, "batch keys c"] | None = None,
    context_mask: Bool[Array, "#batch #heads #tokens #keys"] | None = None,
    cache: Cache | None = None,
    context_change: Change = None,
    **attention: Any,
  ) -> Tokens:
    """The block's output.

    Args:
      x: the tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      drop_path: stochastic depth's rate, the same for each branch.
      context: tokens that x attends to after itself, in a decoder.
      context_mask: which of the context's tokens are seen.
      cache: see `Attention`.
      context_change: `change` of the attention to the context.
      **attention: mask, bias, causal, window, rotate and change of `Attention`, for x with itself.
    """
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    options = dict(kernel_init=self.kernel_init, **dtypes)
    if self.out_init is not None:  # an attention module of another kind has none
      options["out_init"] = self.out_init

    def branch(x: Tokens, name: str, of: Callable[[Tokens], Tokens]) -> Tokens:
      norm = LayerNorm(self.eps, name=f"norm_{name}", **dtypes)
      y = of(norm(x) if self.norm == "pre" else x)
      if self.layer_scale is not None:
        y = LayerScale(self.layer_scale, self.param_dtype, name=f"scale_{name}")(y)
      x = x + DropPath()(y, drop_path, index)
      return x if self.norm == "pre" else norm(x)

    if cache is not None:
      attention["cache"] = cache
    given = dict(dropout=self.attention_dropout, **options)
    attend, look = (partial(kind, self.heads, self.qkv_bias, **given) for kind in (self.attention, Attention))
    mlp = MLP(self.hidden, self.activation, self.dropout, self.hidden_dropout, name="mlp", **options)
    drop = Dropout(self.dropout)
    x = branch(x, "attention", lambda x: drop(attend(name="attention")(x, index=index, **attention), index))
    if context is not None:
      seen = dict(mask=context_mask, cache=cache, change=context_change)
      x = branch(x, "context", lambda x: drop(look(name="context")(x, context, index=index, **seen), index))
    return branch(x, "mlp", lambda x: mlp(x, index))


class Blocks(nn.Module):
  """`depth` blocks as one scan: compile time does not grow with depth. Parameters are stacked, [depth, ...].

  Attributes:
    block: (name) -> a module, called like `Block`.
    drop_path: stochastic depth's rate of the last block; rates grow in equal steps from 0 at the first. Or a tuple with
      the rate of each block.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    unroll: number of blocks in one turn of the loop. With all 12 blocks of ViT-B/16 in one turn, an update on an H100
      takes 66.2 ms instead of 83.8, with 12.2 GB of temporary memory instead of 9.4 and 13.5 s of compilation instead
      of 7.6, because nothing is copied into stacks: benchmarks/accelerator/results/h100_2026-11-27_variants.json.
  """

  block: Callable[..., nn.Module]
  depth: int
  drop_path: float | tuple = 0.0
  remat: bool = False
  unroll: int = 1

  @nn.compact
  def __call__(
    self,
    x: PyTree[Row],
    index: Index = None,
    *,
    each: dict[str, Array] | None = None,
    states: bool = False,
    **attention: Any,
  ) -> Any:
    """The last block's output; with `states`, (that, every block's input [depth, ...]).

    Args:
      x: tokens, or a pytree of several rows of tokens.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      each: further arguments of a block that differ between blocks, [depth, ...].
      **attention: further arguments of a block.

    Raises:
      UserError: there is no block.
    """
    check_sizes("a row of blocks", depth=self.depth)
    rates = self.drop_path if isinstance(self.drop_path, tuple) else np.linspace(0, self.drop_path, self.depth)
    check_rate("drop_path", float(np.max(rates, initial=0.0)))
    rates = jnp.asarray(rates, jnp.float32) if np.any(rates) else None

    cache, kept = attention.pop("cache", None), {}
    if cache is not None:
      shape = (len(x), self.depth, x.shape[-1], cache.length)
      kept = {name: self.variable("cache", name, jnp.zeros, shape, x.dtype) for name in ("k", "v")}

    def apply(module, carry, inputs):
      (x, kept), (rate, layer, own) = carry, inputs
      kept = dict(kept)
      seen = {} if cache is None else {"cache": cache._replace(kept=kept, layer=layer)}
      with in_a_loop():
        y = module(jax.tree.map(over_batch, x), index, 0.0 if rate is None else rate, **own, **attention, **seen)
      return (jax.tree.map(over_batch, y), kept), x if states else None

    apply = nn.remat(apply, prevent_cse=False) if self.remat else apply
    # A context's keys and values have the batch as their first axis, like everything that decoding carries.
    axes = {"params": 0, "memory": 1}
    rngs = {"params": True, "dropout": True}
    scan = nn.scan(apply, variable_axes=axes, split_rngs=rngs, length=self.depth, unroll=self.unroll)
    layers = None if cache is None else jnp.arange(self.depth, dtype=jnp.int32)
    carry = jax.tree.map(spread.joined, x), {name: variable.value for name, variable in kept.items()}
    (x, new), inputs = scan(self.block(name="blocks"), carry, (rates, layers, each or {}))
    for name, variable in kept.items():
      variable.value = new[name]
    x = jax.tree.map(spread.joined, x)
    return (x, inputs) if states else x
