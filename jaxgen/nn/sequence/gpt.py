"""The GPT family: `nn.sequence.transformer.LanguageModel` with the choices and sizes of its papers.

    LanguageModel(50_257, SIZES["GPT-2 small"])

GPT    Radford et al. 2018, "Improving language understanding by generative pre-training", section 4.1: norms after each
       branch and none at the end; in the released code and weights, GELU by its approximation with tanh.
GPT-2  Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3: norms before each branch
       and one at the end; layers that add to the residual stream start smaller, by 1 / sqrt(2 depth).
GPT-3  Brown et al. 2020, https://arxiv.org/abs/2005.14165, section 2.1 and Table 2.1: GPT-2 in which every second block
       attends only to a band of the last tokens. The paper does not give the width of the band: here it is 256, as in
       GPT-Neo, whose published weights have this form.

Two rows of GPT-3's table cannot be as they are printed. "13B" has 5,140 features and 40 heads of 128, which are 5,120:
here it has 5,120 features and 12,853,386,240 parameters. "XL" has 2,048 features and 24 heads of 128, which are 3,072:
here it has 16 heads, whose number changes no parameter.
"""

from functools import partial

from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import Attention, normal
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.options import Options
from jaxgen.nn.sequence.transformer import gpt

BAND = 256


def gpt1(features: int = 768, heads: int = 12, depth: int = 12, context: int = 512, dropout: float = 0.1) -> Options:
  """The options of GPT.

  Args:
    context: the largest number of tokens.
  """
  return Options(
    features,
    heads,
    4 * features,
    depth,
    activation=gelu_tanh,
    dropout=dropout,
    attention_dropout=dropout,
    eps=1e-5,
    scaled=False,
    absolute=partial(Learned, context),
    embedding_init=normal,
    kernel_init=normal,
  )


def gpt3(features: int, heads: int, depth: int, context: int = 2048, band: int = BAND) -> Options:
  """The options of GPT-3: blocks are dense and banded by turns, the first one dense.

  Args:
    context: the largest number of tokens.
    band: the most tokens that one attends to in a banded block, itself included.
  """
  return gpt(features, heads, depth, context)._replace(windows=(None, band))


def gpt_neo(features: int, heads: int, depth: int, context: int = 2048, band: int = BAND) -> Options:
  """The options of GPT-Neo, EleutherAI's models after GPT-3: https://doi.org/10.5281/zenodo.5297715.

  Queries, keys and values have no biases, and the logits of attention no factor.

  Args:
    context, band: as of `gpt3`.
  """
  plain = gpt3(features, heads, depth, context, band)
  return plain._replace(attention=partial(Attention, scale=1.0), qkv_bias=False)


SIZES = {
  # with 40,478 tokens
  "GPT": gpt1(),  # 116,534,784
  # with 50,257 tokens
  "GPT-2 small": gpt(768, 12, 12, 1024),  # 124,439,808
  "GPT-2 medium": gpt(1024, 16, 24, 1024),  # 354,823,168
  "GPT-2 large": gpt(1280, 20, 36, 1024),  # 774,030,080
  "GPT-2 XL": gpt(1600, 25, 48, 1024),  # 1,557,611,200
  "GPT-3 small": gpt3(768, 12, 12),  # 125,226,240
  "GPT-3 medium": gpt3(1024, 16, 24),
  "GPT-3 large": gpt3(1536, 16, 24),
  "GPT-3 XL": gpt3(2048, 16, 24),
  "GPT-3 2.7B": gpt3(2560, 32, 32),
  "GPT-3 6.7B": gpt3(4096, 32, 32),
  "GPT-3 13B": gpt3(5120, 40, 40),  # 12,853,386,240
  "GPT-3 175B": gpt3(12_288, 96, 96),  # 174,604,259,328
}
