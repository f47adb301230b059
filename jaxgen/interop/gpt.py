"""Language models' weights in the layouts of transformers' GPT, GPT-2 and GPT-Neo, `..LMHeadModel.state_dict()`."""

from collections.abc import Callable

from jaxgen.interop.layout import Entry, beside, same, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.sequence.transformer import LanguageModel

BLOCKS = "params/decoder/stack/blocks"


def _as_it_is(theirs: str, ours: str) -> list[Entry]:
  """A dense layer with its bias whose kernel is [in, out], as the first GPTs' files have it."""
  return [same(f"{theirs}.weight", f"{ours}/kernel"), same(f"{theirs}.bias", f"{ours}/bias")]


def _layout(
  network: LanguageModel,
  tables: tuple[str, str],
  attention: Callable[[str], list[Entry]],
  dense: Callable[[str, str], list[Entry]],
  prefix: str,
  constants: tuple[str, ...],
) -> list[Entry]:
  """A decoder's.

  Args:
    tables: names of the tables of tokens and of positions.
    attention: a block's name -> the entries of its attention.
    dense: (their name, ours) -> the entries of a layer of the MLP.
    constants: buffers of a block's attention that are not parameters.
  """

  def block(i: int) -> list[Entry]:
    theirs = f"{prefix}h.{i}"
    return [
      *attention(theirs),
      *norm(f"{theirs}.ln_1", f"{BLOCKS}/norm_attention"),
      *dense(f"{theirs}.mlp.c_fc", f"{BLOCKS}/mlp/in"),
      *dense(f"{theirs}.mlp.c_proj", f"{BLOCKS}/mlp/out"),
      *norm(f"{theirs}.ln_2", f"{BLOCKS}/norm_mlp"),
    ]

  depth = network.options.depth
  return [
    same(f"{prefix}{tables[0]}.weight", "params/embedding/table"),
    same(f"{prefix}{tables[1]}.weight", "params/decoder/positions/table"),
    *stacked([block(i) for i in range(depth)]),
    *(norm(f"{prefix}ln_f", "params/decoder/norm") if network.options.norm == "pre" else []),
    beside("lm_head.weight"),  # the table of tokens once more
    *(beside(f"{prefix}h.{i}.{name}") for i in range(depth) for name in constants),
  ]


def _first(network: LanguageModel, tables: tuple[str, str], prefix: str) -> list[Entry]:
  def attention(theirs: str) -> list[Entry]:
    inner = _as_it_is(f"{theirs}.attn.c_attn", f"{BLOCKS}/attention/qkv")
    return inner + _as_it_is(f"{theirs}.attn.c_proj", f"{BLOCKS}/attention/out")

  return _layout(network, tables, attention, _as_it_is, prefix, ("attn.bias", "attn.masked_bias"))


def openai_gpt(network: LanguageModel, prefix: str = "transformer.") -> list[Entry]:
  """`OpenAIGPTLMHeadModel`, of `nn.sequence.gpt.gpt1`.

  Args:
    prefix: "" in files of the model without its head.
  """
  return [
    *_first(network, ("tokens_embed", "positions_embed"), prefix),
    beside(f"{prefix}position_ids"),
  ]


def gpt2(network: LanguageModel, prefix: str = "transformer.") -> list[Entry]:
  """`GPT2LMHeadModel`, of `nn.sequence.transformer.gpt`.

  Args:
    prefix: "" in files of the model without its head, which the published "gpt2" is.
  """
  return _first(network, ("wte", "wpe"), prefix)


def gpt_neo(network: LanguageModel, prefix: str = "transformer.") -> list[Entry]:
  """`GPTNeoForCausalLM`, of `nn.sequence.gpt.gpt_neo`.

  Args:
    prefix: "" in files of the model without its head.
  """

  def attention(theirs: str) -> list[Entry]:
    names = tuple(f"{theirs}.attn.attention.{part}_proj" for part in "qkv")
    kernels = separate(names, f"{BLOCKS}/attention/qkv")[:1]
    return kernels + affine(f"{theirs}.attn.attention.out_proj", f"{BLOCKS}/attention/out")

  constants = ("attn.attention.bias", "attn.attention.masked_bias")
  return _layout(network, ("wte", "wpe"), attention, affine, prefix, constants)
