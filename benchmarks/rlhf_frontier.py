"""The frontier of reward against KL of what learns from human feedback: fine-tuning, best-of-n, DPO and PPO.

    python benchmarks/rlhf_frontier.py runs/rlhf_snippets runs/snippets_reward runs/snippets_dpo runs/snippets_ppo

The runs are those of `configs/sequence/rlhf_snippets.py`: the language model, the reward model, and any number of
policies that started from that language model. Of each policy, and of the best of n samples of the language model:

    reward      the reward model's score, which PPO is trained on
    kl_nats     sum of log p / q over a snippet's tokens, its mean; for best-of-n the bound log n - (n - 1) / n
    sentiment   a second judge that no policy has seen: ridge regression of people's ratings on counts of words
    distinct_2  different pairs of neighbouring words, as a share of all
    perplexity  of the samples under the language model, per token

Where the reward rises with KL and the second judge's sentiment falls, the reward model is over-optimised. Beside them
stand the reward model's accuracy on held-out pairs, and the share of pairs whose order the ratings themselves would
keep if people rated anew: each mean of ratings then has the error s / sqrt(n). The file says neither s, --rater-std,
nor n, --raters: both are assumed (the means' fractions fit 14 to 20 people). Writes rlhf_frontier.json and, with
matplotlib, docs/rlhf_frontier.png.
"""

import argparse
import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from jaxgen.core.keys import root
from jaxgen.data import feedback
from jaxgen.data.sources.feedback import rated
from jaxgen.interop.runs import variables
from jaxgen.methods.feedback import rows
from jaxgen.methods.feedback.best import best_of_n, best_of_n_kl
from jaxgen.methods.sequence.seq2seq import MARKS
from jaxgen.nn.sequence.scorer import Scorer
from jaxgen.nn.sequence.transformer import LanguageModel, gpt

HERE = pathlib.Path(__file__).parent


def parameters(folder: str) -> dict:
  return jax.tree.map(jnp.asarray, variables(folder)["params"])


class Judges:
  """The networks of all runs, the second judge, and what they say of samples."""

  def __init__(self, language: str, reward: str):
    run = jaxgen.load(language)
    self.data, self.length, self.levels = run.data, run.data.spec.size, run.data.levels
    self.reference, self.reward = parameters(language), parameters(reward)
    options = gpt(128, 4, 3, self.length)
    self.network, self.scorer = LanguageModel(self.levels, options), Scorer(self.levels, options)
    prompt = lambda rows_: jnp.ones(len(rows_), jnp.int32)
    self.score = jax.jit(lambda x: rows.score(self.scorer, self.reward, x, prompt(x), MARKS.end))
    self.mask = jax.jit(lambda x: rows.answers(x, prompt(x), MARKS.end))
    self.log_p = jax.jit(lambda params, x: rows.log_p(self.network, params, x, self.levels))
    self.sentiment = second_judge(self.data.name)

  def draw(self, params, keys):
    tokens = jnp.full((len(keys), self.length), MARKS.start, jnp.int32)
    counts = jnp.ones(len(keys), jnp.int32)
    return rows.write(self.network, params, tokens, counts, keys, levels=self.levels, marks=MARKS)

  def numbers(self, samples, params=None) -> dict[str, float]:
    """What is said of samples [N, T]; the KL if they are a policy's of these parameters."""
    mask, theirs = np.asarray(self.mask(samples)), np.asarray(self.log_p(self.reference, samples))
    scores = np.asarray(self.score(samples))
    texts = feedback.decode(self.data.name, np.asarray(samples))
    words = [text.lower().split() for text in texts]
    pairs = [pair for some in words for pair in zip(some[:-1], some[1:], strict=True)]
    found = {
      "reward": float(scores.mean()),
      "reward_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
      "sentiment": float(self.sentiment(texts).mean()),
      "distinct_2": len(set(pairs)) / max(1, len(pairs)),
      "perplexity": float(np.exp(-(theirs * mask).sum() / mask.sum())),
      "tokens": float(mask.sum(axis=1).mean()),
    }
    if params is not None:
      ratio = ((np.asarray(self.log_p(params, samples)) - theirs) * mask).sum(axis=1)
      found |= {"kl_nats": float(ratio.mean()), "kl_nats_se": float(ratio.std(ddof=1) / math.sqrt(len(ratio)))}
    return found


def second_judge(name: str):
  """(texts) -> ratings, by ridge regression on counts of words and pairs of words."""
  from sklearn.feature_extraction.text import CountVectorizer
  from sklearn.linear_model import Ridge
  from sklearn.pipeline import make_pipeline

  _, _, source, file = name.split(":", 3)
  ratings, texts = zip(*rated(file, source), strict=True)
  words = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True)
  return make_pipeline(words, Ridge(10.0)).fit(texts, ratings).predict


def ceiling(pairs, rater_std: float, raters: int) -> float:
  """The share of pairs that people would order alike if they rated anew, if the ratings were the truth."""
  gap = np.abs(pairs["rating"][:, 0] - pairs["rating"][:, 1])
  error = rater_std * math.sqrt(2 / raters)
  return float(np.mean([0.5 * (1 + math.erf(g / error / math.sqrt(2))) for g in gap]))


def held_out(judges: Judges, rater_std: float, raters: int) -> dict[str, float]:
  _, _, source, file = judges.data.name.split(":", 3)
  data = feedback.rated(file, source, length=judges.length, vocabulary=judges.levels, count=2)
  features = {**data.features, "rating": jax.ShapeDtypeStruct((2,), np.float32)}
  test = dataclasses.replace(data, features=features).source("test")
  pairs = test.gather(np.arange(len(test)))
  first, second = (np.asarray(judges.score(jnp.asarray(pairs["tokens"][:, k]))) for k in (0, 1))
  right = (first > second) + 0.5 * (first == second)
  return {
    "pairs": len(right),
    "accuracy": float(right.mean()),
    "accuracy_se": float(right.std(ddof=1) / math.sqrt(len(right))),
    "ceiling": ceiling(pairs, rater_std, raters),
    "rater_std": rater_std,
    "raters": raters,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("language")
  parser.add_argument("reward")
  parser.add_argument("policies", nargs="*")
  parser.add_argument("--samples", type=int, default=512)
  parser.add_argument("--n", type=int, nargs="*", default=[2, 4, 8, 16, 32])
  parser.add_argument("--rater-std", type=float, default=1.0, help="standard deviation of one person's rating")
  parser.add_argument("--raters", type=int, default=15)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "rlhf_frontier.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "rlhf_frontier.png")
  options = parser.parse_args()
  judges = Judges(options.language, options.reward)
  keys = jax.random.split(root(0, "sampling"), options.samples)
  draw = jax.jit(judges.draw)
  table = {"language model": judges.numbers(draw(judges.reference, keys), judges.reference)}
  for n in options.n:
    chosen = jax.jit(lambda keys, n=n: best_of_n(lambda k: judges.draw(judges.reference, k), judges.score, keys, n))
    table[f"best of {n}"] = judges.numbers(chosen(keys)) | {"kl_nats": best_of_n_kl(n)}
  for folder in options.policies:
    params = parameters(folder)
    table[pathlib.Path(folder).name] = judges.numbers(draw(params, keys), params)
  found = {"held_out": held_out(judges, options.rater_std, options.raters), "samples": options.samples, "table": table}
  options.out.write_text(json.dumps(found, indent=1) + "\n")
  print(json.dumps(found["held_out"]))
  names = ("reward", "kl_nats", "sentiment", "distinct_2", "perplexity", "tokens")
  print("|".join(f"{name:>14}" for name in ("", *names)))
  for name, row in table.items():
    print("|".join([f"{name:>14}", *(f"{row[column]:14.3f}" for column in names)]))
  draw_figure(table, options.figure)


def draw_figure(table: dict, path: pathlib.Path) -> None:
  import matplotlib

  matplotlib.use("agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
  for axis, name, title in zip(axes, ("reward", "sentiment"), ("reward model", "second judge"), strict=True):
    best = [row for key, row in table.items() if key.startswith("best of") or key == "language model"]
    axis.plot([row["kl_nats"] for row in best], [row[name] for row in best], "o-", label="best of n")
    for key, row in table.items():
      if not key.startswith("best of") and key != "language model":
        axis.plot(row["kl_nats"], row[name], "s", label=key)
    axis.set(xlabel="KL from the language model, nats per snippet", ylabel=title)
  axes[0].legend(frameon=False)
  figure.savefig(path, dpi=120)


if __name__ == "__main__":
  main()
