"""The methods of learning from human feedback that `test_every_method.py` tests."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
from cases import Case

from jaxgen import data
from jaxgen.methods.feedback.ppo import Networks, Penalty, Settings, ppo
from jaxgen.methods.feedback.preference import preferences
from jaxgen.methods.feedback.reward import reward_model
from jaxgen.methods.feedback.tuning import fine_tuning
from jaxgen.nn.sequence.scorer import Scorer
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


def as_rows(pairs):
  """(key, batch of strings and the same reversed) -> rows: a prompt of the start and a letter, and an answer; with
  `pairs` the reversed string is preferred to the string itself."""

  def transform(key, batch):
    start = np.ones((len(batch["source"]), 1), np.int32)
    row = lambda answer: jnp.concatenate([start, batch["source"][:, :1], answer], axis=1)
    tokens = jnp.stack([row(batch["target"]), row(batch["source"])], axis=1) if pairs else row(batch["target"])
    rest = {name: x for name, x in batch.items() if name not in ("source", "target")}
    return rest | {"tokens": tokens, "prompt": jnp.full(len(start), 2, jnp.int32)}

  return transform


def strings(pairs):
  whole = data.reversed_strings(5, 6, train="1-5-1", test="3-5-1")
  return dataclasses.replace(whole, transforms=(as_rows(pairs),), feature="tokens")


ROWS, PAIRS = strings(False), strings(True)


def policy(dtype, dropout=0.1):
  return LanguageModel(8, gpt(8, 2, 1, 8, dropout=dropout, dtype=dtype))


def scorer(dtype):
  return Scorer(8, gpt(8, 2, 1, 8, dropout=0.1, dtype=dtype))


def tuned(dtype):
  return fine_tuning(policy(dtype), spec=ROWS.spec, optimizer=optax.adam(5e-3))


def rewarded(dtype):
  return reward_model(scorer(dtype), spec=PAIRS.spec, optimizer=optax.adam(5e-3))


def preferred(dtype):
  return preferences(policy(dtype), spec=PAIRS.spec, optimizer=optax.adam(5e-3))


def reinforced(dtype):
  """With everything: two epochs of two minibatches, an adaptive penalty, a mix of text."""
  return ppo(
    Networks(policy(dtype), scorer(dtype)),
    spec=ROWS.spec,
    optimizer=optax.adam(5e-3),
    value_optimizer=optax.adam(5e-3),
    penalty=Penalty(0.1, target=1.0),
    settings=Settings(minibatches=2, epochs=2, pretraining=0.5, unfinished=-1.0),
  )


def some_prompts(n):
  tokens = np.zeros((n, 8), np.int32)
  tokens[:, 0], tokens[:, 1] = 1, 3 + np.arange(n) % 5
  return {"tokens": tokens, "prompt": np.full(n, 2, np.int32)}


CASES = {
  "fine-tuning on answers": Case(tuned, ROWS, conditions=some_prompts, unit=("nll_nats", {"loss": 7})),
  "reward model": Case(rewarded, PAIRS, unit=("pair_nats", {"loss": 1})),
  "DPO": Case(preferred, PAIRS, conditions=some_prompts, unit=(np.log(2), {"loss": 1})),
  "PPO": Case(reinforced, ROWS, conditions=some_prompts, falls="text_nats"),
}
