"""The weights of T5's encoder in the layout of transformers' `T5EncoderModel`, v1.0 and v1.1.

`encoder_of` takes the encoder's tensors out of a file of the whole model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.interop.layout import Entry, beside, dense, joined, same, stacked
from jaxgen.nn.sequence.t5 import T5Encoder


def transformers(network: T5Encoder) -> list[Entry]:
  def block(i: int) -> list[Entry]:
    ours, attention, mlp = "params/body/blocks", f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
    qkv = [dense(f"{attention}.SelfAttention.{part}.weight", f"{ours}/attention_qkv/kernel") for part in "qkv"]
    names = {"wi_0": "in", "wi_1": "gate", "wo": "out"} if network.gated else {"wi": "in", "wo": "out"}
    return [
      same(f"{attention}.layer_norm.weight", f"{ours}/norm_attention/scale"),
      joined(qkv),
      dense(f"{attention}.SelfAttention.o.weight", f"{ours}/attention_out/kernel"),
      same(f"{mlp}.layer_norm.weight", f"{ours}/norm_mlp/scale"),
      *(dense(f"{mlp}.DenseReluDense.{theirs}.weight", f"{ours}/mlp_{part}/kernel") for theirs, part in names.items()),
    ]

  return [
    same("shared.weight", "params/embedding/table"),
    beside("encoder.embed_tokens.weight"),  # the table again
    same("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "params/relative/table"),
    *stacked([block(i) for i in range(network.depth)]),
    same("encoder.final_layer_norm.weight", "params/norm/scale"),
  ]


def encoder_of(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors of the encoder in a file of the whole model."""
  return {name: value for name, value in tensors.items() if not name.startswith(("decoder.", "lm_head."))}


def encoder(config: Mapping[str, Any], **options: Any) -> T5Encoder:
  """The network of a config that transformers writes.

  Args:
    config: what the file says.
    **options: dtypes and `remat` of the network.

  Raises:
    UserError: the config describes another family, or an MLP that this network does not have; it is named.
  """
  if config.get("model_type", "t5") != "t5":
    raise UserError(f"the config is of {config['model_type']!r}, and this is T5's encoder: its weights do not fit")
  kinds = {"gated-gelu": True, "relu": False}
  kind = config.get("feed_forward_proj", "relu")
  if kind not in kinds:
    raise UserError(f"the config has feed_forward_proj = {kind!r}, and T5's encoder knows {' and '.join(kinds)} alone")
  return T5Encoder(
    config["d_model"], config["num_heads"], config["d_ff"], config["num_layers"], kinds[kind], config["d_kv"],
    config["vocab_size"], config["relative_attention_num_buckets"], config.get("relative_attention_max_distance", 128),
    config["layer_norm_epsilon"], **options,
  )  # fmt: skip
