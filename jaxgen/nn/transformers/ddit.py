"""The Transformer of discrete diffusion: DiT over tokens, as SEDD and MDLM have it.

Lou et al. 2024, https://arxiv.org/abs/2310.16834; Sahoo et al. 2024, https://arxiv.org/abs/2406.07524, and their code.
Every token sees every other, positions are rotary, and time (and class) modulate each block's norms and gates as in
`nn.transformers.dit`, but the norms keep a gain, and attention has no biases.

    DDiT(50_258, **SIZES["small"])      169,627,218 parameters with `states=50_258`, GPT-2's tokens and the mask
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import MLP, Attention, Blocks, Index, Tokens, normal
from jaxgen.nn.blocks.embeddings import check_label, cosines_first
from jaxgen.nn.blocks.layers import Dense, Dropout, layer_norm
from jaxgen.nn.blocks.modulation import Embedding
from jaxgen.nn.blocks.positions import rotary
from jaxgen.nn.transformers.dit import FREQUENCIES

Dtype = Any

SIZES = {  # small and medium are Lou's and Sahoo's
  "tiny": dict(width=128, depth=4, heads=4),  # ours, for CPUs
  "small": dict(width=768, depth=12, heads=12),
  "medium": dict(width=1024, depth=24, heads=16),
}


class Gained(nn.Module):
  """Layer norm with a gain and no bias, scaled by 1 + scale and shifted."""

  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, shift: Float[Array, "batch features"], scale: Float[Array, "batch features"]) -> Tokens:
    gain = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
    return layer_norm(x, gain * (1 + scale[:, None]), shift[:, None], 1e-5)


class DDiTBlock(nn.Module):
  """Attention and MLP, each normalised, modulated and gated; dropout after each."""

  heads: int
  hidden: int
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Tokens, index: Index = None, drop_path: float = 0.0, *, told: Float[Array, "batch c"]
  ) -> Tokens:
    """No branch is dropped as a whole: `drop_path`, which `Blocks` gives, changes nothing."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width = x.shape[-1]
    dense = Dense(6 * width, kernel_init=nn.initializers.zeros, name="modulation", **dtypes)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(dense(told), 6, axis=-1)
    rotate = lambda y: rotary(y, jnp.arange(y.shape[1])[None], interleaved=False)
    attention = Attention(self.heads, qkv_bias=False, out_bias=False, name="attention", **dtypes)
    y = attention(Gained(self.param_dtype, name="norm_attention")(x, shift_1, scale_1), rotate=rotate)
    x = x + gate_1[:, None] * Dropout(self.dropout)(y, index)
    y = MLP(self.hidden, gelu_tanh, name="mlp", **dtypes)(
      Gained(self.param_dtype, name="norm_mlp")(x, shift_2, scale_2)
    )
    return x + gate_2[:, None] * Dropout(self.dropout)(y, index)


class DDiT(nn.Module):
  """The network of x_t and a time: logits of V values of each token.

  Attributes:
    vocabulary: V, values that are predicted.
    states: K, values that a token takes, a mask included; default V + 1.
    width: number of features of a token.
    depth: number of blocks.
    heads: of the attention.
    told: number of features of what time and class become; MDLM has 128.
    classes: of a class-conditional network, one of which may stand for no class; None: it is unconditional.
    timeless: the time is taken for 0, as MDLM does: the masks already show it.
    scale: the factor of times, which are 0 .. 1, before the sinusoids.
    dropout: after each branch.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    unroll: the number of blocks in one turn of the loop, see `Blocks`.
  """

  vocabulary: int
  width: int
  depth: int
  heads: int
  states: int | None = None
  told: int = 128
  classes: int | None = None
  timeless: bool = False
  scale: float = 1000.0
  dropout: float = 0.0
  remat: bool = False
  unroll: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Int[Array, "batch tokens"] | Float[Array, "batch tokens values"],
    t: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits at tokens x [B, N] and times t [B] in 0 .. 1; x may be vectors [B, N, D], of codes of tokens.

    Raises:
      UserError: a label without `classes`, or the reverse; a head of odd width, or heads that do not divide the width;
        fewer states than values.
    """
    check_label(label, self.classes)
    states = self.vocabulary + 1 if self.states is None else self.states
    if states < self.vocabulary:
      raise UserError(f"the network predicts {self.vocabulary} values and reads {states}: raise its states")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    time = jnp.zeros_like(t) if self.timeless else self.scale * t
    told = Embedding(self.told, name="time", **dtypes)(cosines_first(time, FREQUENCIES).astype(self.dtype))
    if label is not None:
      told += nn.Embed(self.classes, self.told, embedding_init=normal, name="class", **dtypes)(label)
    told = nn.silu(told)
    if x.ndim == 3:
      h = Dense(self.width, name="input", **dtypes)(x)
    else:
      h = nn.Embed(states, self.width, embedding_init=normal, name="embedding", **dtypes)(x)

    def block(name: str) -> nn.Module:
      return DDiTBlock(self.heads, 4 * self.width, self.dropout, name=name, **dtypes)

    h = Blocks(block, self.depth, remat=self.remat, unroll=self.unroll, name="body")(h, index, told=told)
    zeros = dict(kernel_init=nn.initializers.zeros, **dtypes)
    shift, scale = jnp.split(Dense(2 * self.width, name="modulation", **zeros)(told), 2, axis=-1)
    h = Gained(self.param_dtype, name="norm")(h, shift, scale)
    return spread.over_devices(Dense(self.vocabulary, name="readout", **zeros)(h), always=True)
