"""The data sets `chain:VOCABULARY`: sequences of a Markov chain of the second order, {"tokens": int32 [length]}.

Its probabilities are known, and with them its entropy, the smallest possible nats of a model.
"""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Arrays, Request, select

SIZES = {"train": 50_000, "test": 10_000}


def law(vocabulary: int) -> tuple[Float[np.ndarray, "v v"], Float[np.ndarray, "v v v"]]:
  """(probabilities of the first two tokens, then[i, j, k] = p(k after i, j)), from Dirichlet(1/2) with seed 0.

  The first two are distributed as any two in a row: sequences are pieces of an endless one.

  Raises:
    UserError: fewer than 2 tokens, or more than 64.
  """
  if not 2 <= vocabulary <= 64:
    raise UserError(f"a chain has 2 to 64 different tokens, not {vocabulary}: change their number")
  then = np.random.default_rng(0).dirichlet(np.full(vocabulary, 0.5), (vocabulary, vocabulary))
  first = np.full((vocabulary, vocabulary), vocabulary**-2.0)
  for _ in range(2_000):
    first = np.einsum("ij,ijk->jk", first, then)
  return first, then


def entropy(vocabulary: int, length: int) -> float:
  """Of a sequence, nats: that of the first two tokens, and length - 2 times that of a token after two.

  Raises:
    UserError: see `law`; or fewer than 2 tokens in a row.
  """
  if length < 2:
    raise UserError(f"a sequence of a chain of the second order has 2 or more tokens, not {length}: change the length")
  first, then = law(vocabulary)
  return float(-(first * np.log(first)).sum() - (length - 2) * (first[..., None] * then * np.log(then)).sum())


def open_chain(request: Request) -> Arrays:
  """Each split has its own random generator."""
  if not request.rest.isdecimal():
    raise UserError(f"{request.name} lacks the number of different tokens: the form is chain:4")
  if request.split not in SIZES:
    raise NoSplit(f"{request.name} has no split {request.split!r}: it has train (50,000) and test (10,000)")
  first, then = law(int(request.rest))
  if set(request.features) != {"tokens"}:
    raise UserError(f"{request.name} has tokens, and no {min(set(request.features) - {'tokens'}, default='other')!r}")
  (length,) = request.features["tokens"].shape
  entropy(int(request.rest), length)
  rng, n, V = np.random.default_rng([1, list(SIZES).index(request.split)]), SIZES[request.split], len(first)
  pairs = rng.choice(V * V, size=n, p=first.ravel())
  tokens = [pairs // V, pairs % V]
  cumulative = then.cumsum(-1)
  cumulative[..., -1] = 1.0
  while len(tokens) < length:
    u = rng.random((n, 1))
    tokens.append((u >= cumulative[tokens[-2], tokens[-1]]).sum(-1))
  found = {"tokens": np.stack(tokens, axis=1).astype(np.int32)}
  return Arrays(select(found, request.features, request.name))
