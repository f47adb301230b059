"""BERT's heads over its encoder: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3, Appendix A.

    BERT(30_522, SIZES["BERT base"])                         both heads of pretraining         110,106,428
    BERT(30_522, SIZES["BERT base"], next_sentence=False)    masked tokens alone               109,514,298
    Reader(30_522, 2, SIZES["BERT base"])                    fine-tuning: one of two classes

Tokens are integers [B, T]; a mask [B, T] is True for tokens and False for padding.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.sequence.options import SIZES, Options
from jaxgen.nn.sequence.transformer import Encoder, Ids

Seen = Bool[Array, "batch tokens"] | None


class BERT(nn.Module):
  """The encoder with the heads that it is pretrained with.

  Attributes:
    types: number of segment types; 0: none.
    next_sentence: whether it tells if the second segment follows the first; without, nothing is pooled.
  """

  vocabulary: int
  options: Options = SIZES["BERT base"]
  types: int = 2
  next_sentence: bool = True

  def setup(self):
    o = self.options
    dtypes = dict(dtype=o.dtype, param_dtype=o.param_dtype)
    self.bert = Encoder(self.vocabulary, o, self.types, pooled=self.next_sentence)
    self.transform, self.norm = Dense(o.features, kernel_init=o.kernel_init, **dtypes), LayerNorm(o.eps, **dtypes)
    self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,), o.param_dtype)
    if self.next_sentence:
      self.following = Dense(2, kernel_init=o.kernel_init, **dtypes)

  def __call__(
    self,
    tokens: Ids,
    mask: Seen = None,
    types: Ids | None = None,
    places: Int[Array, "batch places"] | None = None,
    index: Index = None,
  ) -> tuple[Float[Array, "batch _places {self.vocabulary}"], Float[Array, "batch 2"] | None]:
    """(logits of the token that belongs at each place, logits of "follows" and "does not follow").

    Args:
      tokens: the tokens that are read, some of them masked.
      mask: the tokens that are seen; None: all.
      types: each token's segment; by default 0.
      places: where tokens are predicted; None: everywhere. The logits are the largest array of a small BERT.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
    """
    x, whole = self.bert(tokens, mask, types, index)
    if places is not None:
      x = jnp.take_along_axis(x, places[..., None], axis=1)
    x = self.norm(self.options.activation(self.transform(x)))
    logits = self.bert.logits(x)
    return logits + self.bias.astype(logits.dtype), self.following(whole) if self.next_sentence else None


class Reader(nn.Module):
  """The encoder with one dense layer, for fine-tuning.

  Attributes:
    outputs: numbers of the layer's output: classes; or 2, a span's first and last token, of "tokens".
    of: "whole", a text's or a pair's, section 4.1 of the paper; "tokens", each token's, sections 4.2 and 5.3.
    pad: the token that counts as padding if no mask is given.
    dropout: of the layer's input.
  """

  vocabulary: int
  outputs: int
  options: Options = SIZES["BERT base"]
  types: int = 2
  of: Literal["whole", "tokens"] = "whole"
  pad: int = 0
  dropout: float = 0.1

  @nn.compact
  def __call__(
    self, tokens: Ids, mask: Seen = None, types: Ids | None = None, index: Index = None
  ) -> Float[Array, "batch *tokens {self.outputs}"]:
    """The layer's output: logits [B, outputs] of the whole, or [B, T, outputs] of each token."""
    o = self.options
    encoder = Encoder(self.vocabulary, o, self.types, pooled=self.of == "whole", name="bert")
    x, whole = encoder(tokens, tokens != self.pad if mask is None else mask, types, index)
    x = Dropout(self.dropout)(whole if self.of == "whole" else x, index)
    return Dense(self.outputs, kernel_init=o.kernel_init, dtype=o.dtype, param_dtype=o.param_dtype, name="out")(x)
