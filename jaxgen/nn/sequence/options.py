"""The sizes and choices of a Transformer over tokens, and those that were published."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.attention import Attention, normal, xavier
from jaxgen.nn.blocks.positions import Learned, Sinusoidal

Dtype = Any


class Options(NamedTuple):
  """The sizes and choices of a Transformer.

  Attributes:
    features: width of the model.
    heads: number of attention's heads, each of width features / heads.
    hidden: width of the MLPs' hidden layer.
    depth: number of blocks; in an encoder-decoder, of the encoder and of the decoder (see
      `nn.sequence.transformer.EncoderDecoder`).
    norm: "post" normalises after each branch, as in Vaswani et al. 2017; "pre" before it, and once at the end.
    dropout: dropout rate of the embeddings and of each branch's output (there, section 5.4).
    attention_dropout, hidden_dropout: dropout rates of the attention weights and of the MLPs' hidden layer.
    scaled: whether embeddings are multiplied by sqrt(features) (there, section 3.4).
    embedding_norm: whether embeddings are normalised, after positions are added.
    absolute: (name) -> a module that adds positions; None: none are added. See `nn.blocks.positions`.
    rotate: (queries or keys, positions) -> the rotated ones, such as `rotary`; None: no rotation.
    relative: (heads, bidirectional, name) -> a module that gives a bias for each distance, such as `Relative`.
    windows: the most tokens that one of each block's attends to, itself included; blocks take them in turn. With (None,
      256) every second block sees 256 and the others all; with () each sees all. For decoders.
    qkv_bias: whether queries, keys and values have biases.
    attention: the attention module, see `nn.blocks.attention.Block`.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    unroll: number of blocks in one turn of the loop over blocks, see `nn.blocks.attention.Blocks`.
    embedding_init, kernel_init: initialisers of the embedding tables and of dense layers.
    residual_init: initialiser of the layers whose output is added to the residual stream; None: kernel_init.
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
  windows: tuple[int | None, ...] = ()
  qkv_bias: bool = True
  attention: Callable[..., nn.Module] = Attention
  remat: bool = False
  unroll: int = 1
  embedding_init: Any = nn.initializers.variance_scaling(1.0, "fan_out", "normal")  # of variance 1 / features
  kernel_init: Any = xavier
  residual_init: Any = None
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
