"""T5's encoder, on whose text features Stable Diffusion 3 and Imagen are conditioned.

Raffel et al. 2019, https://arxiv.org/abs/1910.10683, section 2.1: norms without means before each branch, no biases,
one table of relative positions for all blocks, logits that are not scaled. Version 1.1 has MLPs with gates: Shazeer
2020, https://arxiv.org/abs/2002.05202.

    T5Encoder(**SIZES["v1.1 XXL"])        4,762,310,656
    T5Encoder(**SIZES["small"])              35,330,816
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.core import spread
from jaxgen.core.arrays import wide_dtype
from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import Blocks, Index, Tokens, attend
from jaxgen.nn.blocks.layers import Dense, RMSNorm
from jaxgen.nn.blocks.positions import Relative
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.sequence.transformer import Embedding, Features, Ids, Options

Dtype = Any

# Raffel et al. 2019, section 3.7; version 1.1 as in the authors' repository.
SIZES = {
  "small": dict(features=512, heads=8, hidden=2048, depth=6, gated=False),
  "base": dict(features=768, heads=12, hidden=3072, depth=12, gated=False),
  "large": dict(features=1024, heads=16, hidden=4096, depth=24, gated=False),
  "3B": dict(features=1024, heads=32, head=128, hidden=16384, depth=24, gated=False),
  "11B": dict(features=1024, heads=128, head=128, hidden=65536, depth=24, gated=False),
  "v1.1 small": dict(features=512, heads=6, hidden=1024, depth=8),
  "v1.1 base": dict(features=768, heads=12, hidden=2048, depth=12),
  "v1.1 large": dict(features=1024, heads=16, hidden=2816, depth=24),
  "v1.1 XL": dict(features=2048, heads=32, hidden=5120, depth=24),
  "v1.1 XXL": dict(features=4096, heads=64, hidden=10240, depth=24),
}


class T5Block(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x)).

  Attributes:
    head: width of a head.
    gated: the MLP is out(gelu(in x) * gate x); else out(relu(in x)).
  """

  heads: int
  head: int
  hidden: int
  gated: bool
  eps: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Tokens,
    index: Index = None,
    drop_path: float = 0.0,
    *,
    bias: Float[Array, "#batch heads tokens tokens"],
    mask: Bool[Array, "batch 1 1 tokens"] | None = None,
  ) -> Tokens:
    """No branch is dropped: `index` and `drop_path`, which `Blocks` gives, change nothing."""
    features, dtypes = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = partial(RMSNorm, self.eps, **dtypes)
    normal = lambda width: nn.initializers.normal(width**-0.5)
    dense = lambda width, name, inputs: Dense(width, False, kernel_init=normal(inputs), name=name, **dtypes)

    cut = spread.cuts(self.heads, "heads")
    h = norm(name="norm_attention")(x)
    h = h if cut else spread.over_devices(h)
    qkv = Projections(
      3, self.heads, self.head, cut, False, kernel_init=normal(features), name="attention_qkv", **dtypes
    )
    y = attend(*qkv(h), mask=mask, bias=bias.astype(wide_dtype(x.dtype)), scale=1.0)
    inner = self.heads * self.head
    x = x + spread.joined(dense(features, "attention_out", inner)(y.reshape(*y.shape[:2], inner)))

    cut = spread.cuts(self.hidden, "features of a hidden layer")
    h = norm(name="norm_mlp")(x)
    h = h if cut else spread.over_devices(h)
    y = dense(self.hidden, "mlp_in", features)(h)
    y = gelu_tanh(y) * dense(self.hidden, "mlp_gate", features)(h) if self.gated else jax.nn.relu(y)
    y = spread.over_width(y) if cut else y
    return x + spread.joined(dense(features, "mlp_out", self.hidden)(y))


class T5Encoder(nn.Module):
  """Features of each token of a text.

  Attributes:
    features: width of the model.
    heads: number of attention's heads.
    hidden: width of the MLPs' hidden layers.
    depth: number of blocks.
    gated: as in version 1.1.
    head: width of a head.
    vocabulary: number of tokens.
    buckets, most: of `Relative`.
    remat: keep only each block's input for the backward pass, and compute the rest again.
  """

  features: int
  heads: int
  hidden: int
  depth: int
  gated: bool = True
  head: int = 64
  vocabulary: int = 32_128
  buckets: int = 32
  most: int = 128
  eps: float = 1e-6
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Ids, mask: Bool[Array, "batch tokens"] | None = None) -> Features:
    """The features, in `dtype`; it has no dropout.

    Args:
      tokens: the text; 0 is padding and 1 its end.
      mask: the tokens that are seen; None: all, padding too, as in Stable Diffusion 3.

    Raises:
      UserError: sizes below 1, or a token that is out of range.
    """
    sizes = dict(features=self.features, heads=self.heads, hidden=self.hidden, head=self.head, buckets=self.buckets)
    check_sizes("T5's encoder", **sizes)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    one = Options(self.features, scaled=False, embedding_init=nn.initializers.normal(1.0), **dtypes)
    x = Embedding(self.vocabulary, one, name="embedding")(tokens)
    at = jnp.arange(tokens.shape[1])
    table = nn.initializers.normal(self.features**-0.5)
    relative = Relative(self.heads, True, self.buckets, self.most, table, self.param_dtype, name="relative")
    told = dict(bias=relative(at[None], at), mask=None if mask is None else mask[:, None, None, :])

    def block(name: str) -> T5Block:
      return T5Block(self.heads, self.head, self.hidden, self.gated, self.eps, name=name, **dtypes)

    x = Blocks(block, self.depth, remat=self.remat, name="body")(x, **told)
    return RMSNorm(self.eps, name="norm", **dtypes)(x)
