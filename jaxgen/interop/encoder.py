"""The encoder's weights, and BERT's with their heads, in the layout of transformers' BERT, `state_dict()`."""

from jaxgen.interop.layout import Entry, beside, same, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.sequence.bert import BERT, Reader
from jaxgen.nn.sequence.transformer import Encoder


def transformers(network: Encoder, prefix: str = "", within: str = "params") -> list[Entry]:
  """`BertModel`; without pooled features, as `BertForMaskedLM` and those that read tokens have it.

  Args:
    prefix: "bert." in the models that have a head.
    within: the encoder's path among the network's variables.
  """

  def block(i: int) -> list[Entry]:
    theirs, ours = f"{prefix}encoder.layer.{i}", f"{within}/encoder/stack/blocks"
    attention = tuple(f"{theirs}.attention.self.{part}" for part in ("query", "key", "value"))
    return [
      *separate(attention, f"{ours}/attention/qkv"),
      *affine(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
      *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_attention"),
      *affine(f"{theirs}.intermediate.dense", f"{ours}/mlp/in"),
      *affine(f"{theirs}.output.dense", f"{ours}/mlp/out"),
      *norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_mlp"),
    ]

  embeddings = f"{prefix}embeddings"
  types = [same(f"{embeddings}.token_type_embeddings.weight", f"{within}/types/table")]
  pooler = affine(f"{prefix}pooler.dense", f"{within}/pooler")
  return [
    same(f"{embeddings}.word_embeddings.weight", f"{within}/embedding/table"),
    *(types if network.types else []),
    same(f"{embeddings}.position_embeddings.weight", f"{within}/encoder/positions/table"),
    *norm(f"{embeddings}.LayerNorm", f"{within}/encoder/embedding_norm"),
    *(pooler if network.pooled else []),
    *stacked([block(i) for i in range(network.options.depth)]),
    beside(f"{embeddings}.position_ids"),
  ]


def pretraining(network: BERT) -> list[Entry]:
  """`BertForPreTraining`; without next sentences, `BertForMaskedLM`.

  Files of `BertForPreTraining` can also be read into a network without next-sentence prediction: the parameters that it
  lacks are skipped.
  """
  heads = "cls.predictions"
  encoder = Encoder(network.vocabulary, network.options, network.types, network.next_sentence)
  following = affine("cls.seq_relationship", "params/following")
  unused = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "cls.seq_relationship.weight")
  return [
    *transformers(encoder, "bert.", "params/bert"),
    *affine(f"{heads}.transform.dense", "params/transform"),
    *norm(f"{heads}.transform.LayerNorm", "params/norm"),
    same(f"{heads}.bias", "params/bias"),
    beside(f"{heads}.decoder.weight", f"{heads}.decoder.bias"),  # the table and the bias once more
    *(following if network.next_sentence else [beside(*unused, "cls.seq_relationship.bias")]),
  ]


def reading(network: Reader, head: str = "classifier") -> list[Entry]:
  """`BertForSequenceClassification`, `BertForTokenClassification`, and with the head "qa_outputs"
  `BertForQuestionAnswering`.

  A pretrained file does not have this head, but other heads: `jaxgen import --fresh params/out` reads the rest.

  Args:
    head: the name of the head's layer.
  """
  encoder = Encoder(network.vocabulary, network.options, network.types, network.of == "whole")
  theirs = [f"cls.predictions.{part}" for part in ("bias", "transform.dense.weight", "transform.dense.bias")]
  theirs += [f"cls.predictions.transform.LayerNorm.{part}" for part in ("weight", "bias")]
  theirs += [
    f"cls.{part}.{kind}" for part in ("predictions.decoder", "seq_relationship") for kind in ("weight", "bias")
  ]
  theirs += [] if network.of == "whole" else [f"bert.pooler.dense.{kind}" for kind in ("weight", "bias")]
  return [*transformers(encoder, "bert.", "params/bert"), *affine(head, "params/out"), beside(*theirs)]
