"""The Transformer of unCLIP's diffusion prior: a picture's CLIP embedding, of a text.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2: a causal Transformer over the words' features, CLIP's
embedding of the text, the embedding of the time, the noised embedding of the picture, and a last token whose output is
the prediction of the picture's embedding without noise.

    PriorTransformer(768, **SIZES["DALL-E 2"])      77 words of 768 features        1,022,030,080
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.attention import Block, Blocks
from jaxgen.nn.blocks.embeddings import cosines_first
from jaxgen.nn.blocks.layers import Dense, LayerNorm

Dtype = Any
ENTRIES = ("text", "mask", "text_embedding")
ADDED = 4  # tokens beside the words

SIZES = {
  "DALL-E 2": dict(width=2048, depth=20, heads=32),  # the paper says 1 B; depth and heads are those of the open Karlo
}


class PriorTransformer(nn.Module):
  """The network of a noised embedding, a time and a text.

  Attributes:
    features: entries of the embeddings, d.
    width: number of features of a token.
    depth: number of blocks.
    heads: number of attention's heads.
    words: number of words of a text, T.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    dtype: dtype of the computation; normalisation statistics and softmax are float32 or wider.
    param_dtype: dtype of the parameters.

  The parameters "clip_mean" and "clip_std" [d] are of published weights, see `restored`. No gradient reaches them.
  """

  features: int
  width: int
  depth: int
  heads: int
  words: int = 77
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch {self.features}"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch {self.features}"]:
    """The prediction at x and times t (0 .. 999), in x's dtype; it has no dropout.

    Args:
      told: "text" [B, T, c], the words' features, "mask" [B, T], True for words that are there, and "text_embedding"
        [B, d].
      index: changes nothing.

    Raises:
      UserError: it is told something else, or texts of another number of words.
    """
    check_sizes("a prior", features=self.features, width=self.width, words=self.words)
    if not isinstance(told, Mapping) or set(told) != set(ENTRIES):
      raise UserError(f"a prior is conditioned on {', '.join(ENTRIES)}: take the condition entries(..) of these")
    text, seen = told["text"], told["mask"]
    if text.shape[1] != self.words:
      raise UserError(f"this prior reads {self.words} words of a text, and these are {text.shape[1]}: change its words")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = partial(Dense, self.width, **dtypes)
    positions = self.param(
      "positions", nn.initializers.normal(0.01), (self.words + ADDED, self.width), self.param_dtype
    )
    last = self.param("prediction", nn.initializers.normal(0.01), (self.width,), self.param_dtype)
    self._statistics()

    time = dense(name="time_1")(cosines_first(t, self.width).astype(self.dtype))
    time = dense(name="time_2")(nn.silu(time))
    one = lambda token: token[:, None]
    tokens = [
      dense(name="text")(text),
      one(dense(name="text_embedding")(told["text_embedding"])),
      one(time),
      one(dense(name="in")(x)),
      jnp.broadcast_to(last.astype(self.dtype), (len(x), 1, self.width)),
    ]
    h = jnp.concatenate(tokens, axis=1) + positions.astype(self.dtype)
    seen = jnp.concatenate([seen, jnp.ones((len(x), ADDED), bool)], axis=1)

    def block(name: str) -> Block:
      return Block(self.heads, 4 * self.width, activation=gelu, eps=1e-5, name=name, **dtypes)

    h = Blocks(block, self.depth, remat=self.remat, name="body")(h, mask=seen[:, None, None], causal=True)
    h = LayerNorm(1e-5, name="norm", **dtypes)(h[:, -1])
    return Dense(self.features, name="out", **dtypes)(h).astype(x.dtype)

  @nn.compact
  def _statistics(self) -> tuple[Any, Any]:
    """(mean, standard deviation) of CLIP's embeddings, by entry: 0 and d^-1/2 as initialised."""
    mean = self.param("clip_mean", nn.initializers.zeros, (self.features,), self.param_dtype)
    std = nn.initializers.constant(self.features**-0.5)
    return mean, self.param("clip_std", std, (self.features,), self.param_dtype)

  @nn.compact
  def restored(self, x: Float[Array, "batch {self.features}"]) -> Float[Array, "batch {self.features}"]:
    """x clip_std + clip_mean: CLIP's embedding of a sample. As initialised, x was the embedding times the root of d."""
    mean, std = self._statistics()
    return x * std.astype(x.dtype) + mean.astype(x.dtype)
