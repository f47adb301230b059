"""Judges of generated tokens: perplexity under a fixed model, always together with entropy and distinct n-grams.

A low perplexity alone does not show quality: text that repeats itself has it. Zheng et al. 2024,
https://arxiv.org/abs/2409.02908, found that a sampler's rounding lowered entropy, and that this was taken for quality.

The fixed model counts n-grams of the training split, and interpolates their orders (Witten and Bell 1991):

    (1)  p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h))

with c the counts of tokens h w in a row, T(h) the number of different tokens after h, h' = h without its first token,
and 1 / V in place of p(w | h') where h is empty. It needs no training, no network and no choice but its order, so that
two runs on the same data have the same judge.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxgen.core.errors import UserError
from jaxgen.engine.experiment import AnyRun, Evaluator

Tokens = Int[np.ndarray, "rows length"]


class NGrams:
  """The model (1).

  Attributes:
    order: the most tokens in a row that are counted.
    vocabulary: V.
  """

  def __init__(self, rows: Tokens, vocabulary: int, order: int):
    """Counts the n-grams of each row.

    Raises:
      UserError: an order below 1, or of which there are 2^62 n-grams or more; tokens outside the vocabulary.
    """
    if order < 1 or vocabulary**order >= 2**62:
      raise UserError(
        f"n-grams of {vocabulary} tokens have an order from 1 to {_most(vocabulary)}, not {order}: change it"
      )
    if rows.size and not 0 <= rows.min() <= rows.max() < vocabulary:
      raise UserError(f"tokens from {rows.min()} to {rows.max()} are not among {vocabulary}: change the vocabulary")
    self.order, self.vocabulary = order, vocabulary
    # Of each order: n-grams in ascending order and their counts; contexts, their counts and numbers of next tokens.
    self.tables = []
    for n in range(1, order + 1):
      grams, counts = np.unique(_codes(rows, n, vocabulary), return_counts=True)
      contexts, first = np.unique(grams // vocabulary, return_index=True)
      different = np.diff(np.append(first, len(grams)))
      self.tables.append((grams, counts, contexts, np.add.reduceat(counts, first), different))

  def nats(self, rows: Tokens) -> Float[np.ndarray, "rows length"]:
    """-log p of each token, given the ones before it in its row."""
    p = np.full(rows.shape, 1 / self.vocabulary)
    for n, (grams, counts, contexts, totals, different) in enumerate(self.tables, 1):
      if n > rows.shape[1]:
        break
      codes = _codes(rows, n, self.vocabulary)
      of_gram = _looked_up(codes, grams, counts)
      total, T = (_looked_up(codes // self.vocabulary, contexts, x) for x in (totals, different))
      tail = p[:, n - 1 :]
      known = total > 0
      p[:, n - 1 :] = np.where(known, (of_gram + T * tail) / np.maximum(total + T, 1), tail)
    return -np.log(p)


def _codes(rows: Tokens, n: int, vocabulary: int) -> Int[np.ndarray, "rows m"]:
  """Each n tokens in a row as one number."""
  rows = rows.astype(np.int64)
  codes = np.zeros((len(rows), max(rows.shape[1] - n + 1, 0)), np.int64)
  for k in range(n):
    codes = codes * vocabulary + rows[:, k : k + codes.shape[1]]
  return codes


def _looked_up(codes: Int[np.ndarray, "rows m"], keys: np.ndarray, values: np.ndarray) -> np.ndarray:
  """The values of keys in ascending order; 0 for unknown keys."""
  at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
  return np.where(keys[at] == codes, values[at], 0)


def _most(vocabulary: int) -> int:
  return next(n for n in range(1, 63) if vocabulary ** (n + 1) >= 2**62)


def entropy(rows: Tokens) -> float:
  """The entropy of the tokens' frequencies within a row, nats, a mean over rows; log L for L different tokens."""
  found = []
  for row in rows:
    p = np.unique(row, return_counts=True)[1] / len(row)
    found.append(-(p * np.log(p)).sum())
  return float(np.mean(found))


def distinct(rows: Tokens, n: int) -> float:
  """Different n-grams of all rows together, divided by the number of n-grams: Li et al. 2016, distinct-n."""
  grams = np.concatenate([row[k : row.size - n + 1 + k] for row in rows for k in range(n)])
  grams = grams.reshape(len(rows), n, -1).swapaxes(1, 2).reshape(-1, n)
  return len(np.unique(grams, axis=0)) / len(grams)


def text_quality(num: int = 64, *, order: int = 5, seed: int = 0, split: str = "test", **conditions: Any) -> Evaluator:
  """Perplexity of samples under n-grams of the training split, and how varied the samples are.

  Numbers, of N samples and of as many and as long pieces of a split, `split_..`: `generative_nats_N`, nats per token
  under (1), and `generative_perplexity_N`, its exponential; `entropy_N`, see `entropy`; and `distinct_1_N` to
  `distinct_3_N`, see `distinct`. Samples as good as the split have its numbers, not lower ones.

  Args:
    num: number of samples.
    order: of the n-grams.
    seed: of the samples.
    split: the split.
    conditions: the samples' conditions, values [num, ...] by name; by default as in training.

  The evaluator raises:
    UserError: the data has no tokens, or samples are longer than the split.
  """
  if num < 1:
    raise ValueError(f"text_quality(num={num}): give 1 or more samples")

  def rows(run: AnyRun, split: str) -> Tokens:
    feature, source = run.data.spec.feature, run.data.source(split)
    x = source.arrays[feature] if feature in source.arrays else source.gather(np.arange(len(source)))[feature]
    if not np.issubdtype(x.dtype, np.integer):
      raise UserError(f"{run.data.name} has no tokens whose n-grams could be counted: leave the judge out")
    return np.atleast_2d(x).reshape(1 if x.ndim == 1 else len(x), -1)

  def pieces(x: np.ndarray, length: int) -> Tokens:
    if len(x) > 1 and x.shape[1] == length:
      return x[np.linspace(0, len(x) - 1, min(num, len(x))).round().astype(int)]
    flat = x.ravel()
    count = min(num, len(flat) // length)
    if not count:
      raise UserError(f"the split {split!r} has {len(flat)} tokens, fewer than a sample of {length}: shorten samples")
    starts = np.linspace(0, len(flat) - length, count).astype(int)
    return flat[starts[:, None] + np.arange(length)]

  def evaluate(run: AnyRun) -> dict[str, float]:
    samples = np.asarray(run.sample(num, seed=seed, **conditions)).reshape(num, -1)
    judge, numbers = NGrams(rows(run, "train"), run.data.vocabulary or run.data.levels, order), {}
    for prefix, x in (("", samples), (f"{split}_", pieces(rows(run, split), samples.shape[1]))):
      nats = float(judge.nats(x).mean())
      numbers |= {f"{prefix}generative_nats_{num}": nats, f"{prefix}generative_perplexity_{num}": float(np.exp(nats))}
      numbers[f"{prefix}entropy_{num}"] = entropy(x)
      numbers |= {f"{prefix}distinct_{n}_{num}": distinct(x, n) for n in (1, 2, 3) if n <= x.shape[1]}
    return numbers

  return evaluate
