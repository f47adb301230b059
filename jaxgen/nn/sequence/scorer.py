"""A Transformer that gives a number for each token, given those before it: a reward model, or a value function.

It is `LanguageModel` with a dense layer of one output instead of the logits, as in Stiennon et al. 2020,
https://arxiv.org/abs/2009.01325, and has that network's parameters, "embedding" and "decoder", under its names: it can
begin as a language model.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import Dense
from jaxgen.nn.sequence.options import SIZES, Options
from jaxgen.nn.sequence.transformer import Embedding, Ids, Stack


class Scorer(nn.Module):
  """The network.

  Attributes:
    vocabulary: number of tokens.
    options: as those of the language model that it begins as.
  """

  vocabulary: int
  options: Options = SIZES["Transformer base"]

  @nn.compact
  def __call__(self, tokens: Ids, index: Index = None) -> Float[Array, "batch tokens"]:
    """A number for every token, which has seen the tokens up to it.

    Args:
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
    """
    o = self.options
    x = Stack(o, causal=True, name="decoder")(Embedding(self.vocabulary, o, name="embedding")(tokens), index)
    head = jax.nn.initializers.normal((o.features + 1) ** -0.5)
    return Dense(1, kernel_init=head, dtype=o.dtype, param_dtype=o.param_dtype, name="head")(x)[..., 0]
