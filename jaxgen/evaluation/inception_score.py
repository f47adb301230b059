"""The Inception Score, from a stream of a classifier's logits."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Sums(NamedTuple):
  """Partial sums of a split of samples: their number, the sum of p(y | x), and that of sum_y p log p."""

  n: int
  p: Float[np.ndarray, " classes"]
  negative_entropy: float


def sums(logits: Float[np.ndarray, "n classes"]) -> Sums:
  """The partial sums of one chunk, in float64."""
  z = np.asarray(logits, np.float64)
  z = z - z.max(1, keepdims=True)
  log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
  p = np.exp(log_p)
  return Sums(len(z), p.sum(0), float((p * log_p).sum()))


def score(of_split: Sums) -> float:
  """exp E_x KL(p(y | x) || p(y)): Salimans et al. 2016, https://arxiv.org/abs/1606.03498, section 4; 1 to classes."""
  q = of_split.p / of_split.n
  cross = np.sum(q * np.log(np.where(q > 0, q, 1)))
  return float(np.exp(of_split.negative_entropy / of_split.n - cross))


def inception_score(chunks: Iterable[Float[np.ndarray, "_ classes"]], n: int, splits: int = 10) -> tuple[float, float]:
  """Mean and standard deviation of the score over `splits` consecutive parts of the samples, as papers report both.

  Part i has the samples i n / splits .. (i + 1) n / splits - 1, in the order in which they come. (torch-fidelity
  shuffles them first by default.)

  Args:
    chunks: logits, in chunks of any size.
    n: the number of samples in all chunks.

  Raises:
    ValueError: fewer samples than parts, another number of samples than n, or logits that are not finite.
  """
  if not 1 <= splits <= n:
    raise ValueError(f"{n} samples do not make {splits} parts of 1 or more")
  ends = [(i + 1) * n // splits for i in range(splits)]
  parts: list[Sums | None] = [None] * splits
  seen = 0
  for chunk in chunks:
    if not np.isfinite(chunk).all():
      raise ValueError("there are logits that are not finite")
    start = 0
    while start < len(chunk):
      i = int(np.searchsorted(ends, seen, side="right"))
      if i == splits:
        raise ValueError(f"there are more logits than the {n} samples")
      piece = chunk[start : start + ends[i] - seen]
      new, old = sums(piece), parts[i]
      parts[i] = new if old is None else Sums(*(a + b for a, b in zip(old, new, strict=True)))
      start, seen = start + len(piece), seen + len(piece)
  if seen != n:
    raise ValueError(f"there are logits of {seen} samples, not of {n}")
  scores = [score(part) for part in parts]
  return float(np.mean(scores)), float(np.std(scores))
