"""Text towers of models that join pictures and text, and of latent diffusion, which reads them.

CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4: a causal Transformer over byte pairs, read out
where the text ends. SigLIP: Zhai et al. 2023, https://arxiv.org/abs/2303.15343: all tokens see each other, and the last
is read out. Blocks are `nn.sequence.transformer.Stack`'s.

    network = TextTower(options=CLIP["L/14"])         123,060,480 parameters: the text encoder of Stable Diffusion 1
    text = network.apply({"params": params}, tokens, states=True)
    text.tokens                                       normalised features of every token
    text.states[-1]                                   the last block's input: the penultimate hidden states
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu, gelu_tanh, quick_gelu
from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import Dense
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.transformer import Embedding, Features, Ids, Options, Stack

Dtype = Any


class Text(NamedTuple):
  """The output of a text tower.

  Attributes:
    tokens: normalised features of every token; transformers' `last_hidden_state`.
    whole: the features of the token that is read out, projected if the tower has a projection.
    states: every block's input, not normalised; None unless it was asked for. states[i] is transformers'
      hidden_states[i], and states[-1] its hidden_states[-2].
  """

  tokens: Features
  whole: Float[Array, "batch projected"]
  states: Float[Array, "depth batch tokens features"] | None = None


def clip_kernels(width: int, depth: int) -> nn.initializers.Initializer:
  """OpenAI's initialisation of a Transformer's kernels, which are distinguished by their shapes.

  As `initialize_parameters` in their code: of deviation width^-1/2 for queries, keys and values, (2 width)^-1/2 for the
  hidden layer, (2 width depth)^-1/2 for the layer after it. Attention's output layer gets that of the queries here,
  because it has the same shape; theirs is smaller by (2 depth)^-1/2.
  """

  def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    inputs, outputs = shape
    variance = 1 / (2 * width) if outputs > inputs else 1 / width if outputs == inputs else 1 / (2 * width * depth)
    return variance**0.5 * jax.random.normal(key, shape, dtype)

  return init


def clip(
  width: int,
  heads: int,
  depth: int,
  activation: Any = quick_gelu,
  context: int = 77,
  hidden: int | None = None,
  dtype: Dtype = jnp.float32,
) -> Options:
  """The options of CLIP's text tower.

  Args:
    activation: `quick_gelu` in OpenAI's weights, `gelu` in most others.
    context: the largest number of tokens.
    hidden: width of the MLPs' hidden layers; None: 4 x width.
  """
  return Options(
    width,
    heads,
    hidden or 4 * width,
    depth,
    norm="pre",
    activation=activation,
    dropout=0.0,
    eps=1e-5,
    scaled=False,
    absolute=partial(Learned, context, table_init=nn.initializers.normal(0.01), param_dtype=dtype),
    embedding_init=nn.initializers.normal(0.02),
    kernel_init=clip_kernels(width, depth),
    dtype=dtype,
    param_dtype=dtype,
  )


def siglip(width: int, heads: int, depth: int, hidden: int, context: int = 64, dtype: Dtype = jnp.float32) -> Options:
  """The options of SigLIP's text tower."""
  learned = partial(Learned, context, table_init=nn.initializers.normal(width**-0.5), param_dtype=dtype)
  return Options(
    width,
    heads,
    hidden,
    depth,
    norm="pre",
    activation=gelu_tanh,
    dropout=0.0,
    eps=1e-6,
    scaled=False,
    absolute=learned,
    embedding_init=nn.initializers.normal(width**-0.5),
    dtype=dtype,
    param_dtype=dtype,
  )


# Parameters are without projection, for 49,408 tokens.
CLIP = {
  "B/32": clip(512, 8, 12),  # 63,165,952
  "B/16": clip(512, 8, 12),
  "L/14": clip(768, 12, 12),  # 123,060,480; Stable Diffusion 1's, and the first of SDXL's two
  "H/14": clip(1024, 16, 24, gelu),  # 352,984,064; Stable Diffusion 2 reads it before its last block
  "bigG/14": clip(1280, 20, 32, gelu),  # 693,021,440; with its projection of 1280 the second of SDXL's
}


class TextTower(nn.Module):
  """A Transformer over tokens that is read out at one of them.

  Attributes:
    vocabulary: number of tokens.
    projection: width of a dense layer after the readout; None: there is none.
    projection_bias: whether that layer has a bias; SigLIP's has.
    causal: whether a token sees only those before it.
    read: which token is read out: "end", the first that ends a text; or "last", the last of the context.
    end: the token that ends a text; None: the largest of a text's tokens, as in OpenAI's code. A text without it is
      read out at its first token, as in transformers.
  """

  vocabulary: int = 49_408
  options: Options = CLIP["B/32"]
  projection: int | None = None
  projection_bias: bool = False
  causal: bool = True
  read: str = "end"
  end: int | None = None

  @nn.compact
  def __call__(
    self, tokens: Ids, mask: Bool[Array, "batch tokens"] | None = None, index: Index = None, *, states: bool = False
  ) -> Text:
    """The text's features.

    Args:
      tokens: the tokens.
      mask: the tokens that are seen; None: all. Tokens after a text's end do not change its readout if `causal`.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
      states: also return every block's input.

    Raises:
      UserError: more tokens than positions, or tokens out of range.
    """
    if self.read not in ("end", "last"):
      raise UserError(f"a text tower is read out at its 'end' or 'last' token, not {self.read!r}: change read")
    o = self.options
    x = Embedding(self.vocabulary, o, name="embedding")(tokens)
    found = Stack(o, self.causal, name="encoder")(x, index, mask=mask, states=states)
    x, inputs = found if states else (found, None)
    whole = x[:, -1] if self.read == "last" else x[jnp.arange(len(x)), self.ends(tokens)]
    if self.projection is not None:
      options = dict(use_bias=self.projection_bias, dtype=o.dtype, param_dtype=o.param_dtype)
      options["kernel_init"] = nn.initializers.normal(o.features**-0.5)
      whole = Dense(self.projection, name="projection", **options)(whole)
    return Text(x, whole, inputs)

  @nn.nowrap
  def ends(self, tokens: Ids) -> Int[Array, "batch"]:
    """Each text's position of the token that is read out, where `read` is "end"."""
    return jnp.argmax(tokens if self.end is None else tokens == self.end, axis=-1)
