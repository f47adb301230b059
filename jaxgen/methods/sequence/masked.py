"""BERT's pretraining: masked tokens are predicted from all others, and also whether one segment follows the other.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1. With the tokens x, the selected places S and the
masked input x~ (`methods.sequence.masking`), the loss of an example is

    (B1)  - mean_{i in S} log p(x_i | x~) - log p(label | x~)

Of tokens that are independent and uniform over V, (B1) without its second term is at least 0.8 ln V + 0.2 H: where
[MASK] is read nothing is known; where another token is read it is the right one with p = 1/2 + 1/(2 V), and
H = - p ln p - (1 - p) ln((1 - p) / (V - 1)).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.methods.sequence.masking import Masked, Masking, mask

FOLLOWS = "label"  # 0: the second segment follows the first, 1: it comes from another place
TYPES = "types"


def masked_language(
  network: Any, *, spec: Spec, optimizer: optax.GradientTransformation, masking: Masking, pad: int = 0
) -> Method:
  """Masked-language modelling, and next-sentence prediction where the network has its head, by (B1).

  A batch is {"tokens": [B, T], "index": [B]}, and where the data has them "types" [B, T], the tokens' segments; with
  the head also "label" [B], 0 where the second segment follows the first and 1 where not.

  The loss is in nats per selected token: the mean over examples of the mean over an example's selected tokens; and with
  the head, nats per example are added. An example with nothing but special tokens has none to tell, and counts 0.
  Metrics: "masked_nats", "masked_accuracy", and with the head "next_nats", "next_accuracy".

  Args:
    network: `nn.sequence.bert.BERT`, or a network with the same interface.
    spec: the data's; its levels are the number of tokens.
    masking: the selection of tokens, and their replacement. Training draws it anew at every step.
    pad: the token that is no part of a text; it is not seen.

  `evaluate` gives the metrics of each example, with masks that its evaluation's key and the example's index give. It
  does not sample.

  Raises:
    UserError: a masking with tokens outside the vocabulary, data that does not fit the spec or lacks the labels, or a
      network with another vocabulary.
  """
  vocabulary = spec.levels or 0
  masking.check(vocabulary)
  if pad not in masking.special:
    raise UserError(f"the token {pad}, which fills texts up, is not among the special ones: add it to them")

  def read(batch: Batch, key: Array) -> Masked:
    keys = example_keys(key, batch["index"])
    return jax.vmap(lambda tokens, key: mask(masking, vocabulary, tokens, key))(batch[spec.feature], keys)

  def call(batch: Batch, masked: Masked) -> dict[str, Array]:
    types = {TYPES: batch[TYPES]} if TYPES in batch else {}
    return dict(tokens=masked.tokens, mask=batch[spec.feature] != pad, places=masked.places, **types)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    one = jax.tree.map(lambda x: jnp.asarray(x[:1]), dict(batch))
    outputs, variables = network.init_with_output(key, **call(one, read(one, jax.random.key(0))))
    logits, following = outputs
    if logits.shape[-1] != vocabulary:
      raise UserError(
        f"the network tells {logits.shape[-1]} tokens apart and the data has {vocabulary}: set the network's vocabulary"
      )
    if following is not None and FOLLOWS not in batch:
      raise UserError(
        "the network predicts whether sentences follow one another, but this data has no such labels: use pairs "
        "of segments, "
        "or a network without that head"
      )
    return {"network": variables["params"]}, {}

  def numbers(params: Params, batch: Batch, key: Array, **options) -> dict[str, Float[Array, "batch"]]:
    masked = read(batch, key)
    outputs = network.apply({"params": params}, **call(batch, masked), **options)
    target = jnp.take_along_axis(batch[spec.feature], masked.places, axis=1)
    return terms(outputs, target, masked.weights, batch.get(FOLLOWS))

  def loss(params: Params, state: State, batch: Batch, key: Array):
    mask_key, dropout_key = jax.random.split(key)
    found = numbers(params, batch, mask_key, index=batch["index"], rngs={"dropout": dropout_key})
    means = {name: jnp.mean(x) for name, x in found.items()}
    return means["masked_nats"] + means.get("next_nats", 0), (means, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    return numbers(state.averaged(), batch, key)

  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate)


def terms(
  outputs: tuple[Float[Array, "batch places v"], Float[Array, "batch 2"] | None],
  target: Int[Array, "batch places"],
  weights: Float[Array, "batch places"],
  label: Int[Array, "batch"] | None,
) -> dict[str, Float[Array, "batch"]]:
  """Each example's terms of (B1), in nats, and its shares of right answers.

  Args:
    outputs: logits of tokens, and logits of whether segments follow one another.
    target: the tokens to predict.
    weights: 1 for those that count.
    label: whether the second segment follows the first, 0, or not, 1.
  """
  logits, following = wide(outputs[0]), outputs[1]
  weights = weights.astype(logits.dtype)
  mean = lambda x: jnp.sum(x * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)
  right = lambda logits, target: (jnp.argmax(logits, axis=-1) == target).astype(logits.dtype)
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  found = {"masked_nats": mean(nats), "masked_accuracy": mean(right(logits, target))}
  if following is not None:
    following = wide(following)
    found["next_nats"] = optax.softmax_cross_entropy_with_integer_labels(following, label)
    found["next_accuracy"] = right(following, label)
  return found
