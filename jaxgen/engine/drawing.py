"""Samples as a stream of batches: the devices compute the next one while the host uses the one before.

Whole batches of samples, aligned at multiples of the batch size, are computed and then cut. Therefore sample i always
has the same neighbours, and its bits depend on (seed, i) only: not on the number of samples, the first one, or the way
in which the stream is cut into chunks afterwards.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.keys import root
from jaxgen.engine.experiment import AnyRun
from jaxgen.engine.hashing import state_hash


def origin(run: AnyRun, seed: int, batch: int | None = None) -> dict[str, Any]:
  """Everything that a sample's bits depend on, besides its number, as JSON; the arguments as for `stream`."""
  return {
    "config": run.config.name,
    "arguments": run.config.to_json(run.arguments),
    "step": run.step,
    "sha256": state_hash(run.state),
    "seed": seed,
    "batch": batch or run.experiment.sample_chunk,
  }


def stream(
  run: AnyRun, n: int, *, seed: int = 0, first: int = 0, batch: int | None = None, **conditions: Any
) -> Iterator[Any]:
  """Samples first .. first + n - 1 of a seed in order, in numpy pieces [k, ...], k <= batch.

  A batch is on the devices while the one before is copied and used. At most two exist at a time, whatever n is.

  Args:
    batch: the number of samples that are computed at once; by default the experiment's `sample_chunk`. Another number
      is another program, which gives the same samples up to rounding.
    conditions: values [n, ...] by name, in place of the experiment's own.

  Raises:
    UserError: the method generates nothing, n < 1, first < 0, batch < 1, or conditions have another length.
  """
  e = run.experiment
  if e.method.sample is None:
    raise UserError(f"config {run.config.name} does not generate samples")
  if n < 1 or first < 0 or first + n > 2**31:
    raise UserError(
      f"cannot draw {n} samples from number {first} on: n must be at least 1, first at least 0, and the last number "
      "below 2^31"
    )
  size = e.sample_chunk if batch is None else batch
  if size < 1:
    raise UserError(f"samples are computed at least 1 at once, not {size}")
  run.conditions_of_chunk(np.arange(1), first, n, conditions)  # refused before the first sample is drawn
  return _pieces(run, n, root(seed, "sampling"), first, size, conditions)


def _pieces(run: AnyRun, n: int, key: Any, first: int, size: int, conditions: dict[str, Any]) -> Iterator[Any]:
  def begin(start: int) -> Any:
    """Starts the batch of the samples from `start` on; returns before it is computed."""
    index = np.arange(start, start + size)
    values = run.conditions_of_chunk(index, first, n, conditions)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    return run.program.sample(run.state, keys, values)

  def finish(start: int, drawn: Any) -> Any:
    low, high = max(first - start, 0), min(first + n - start, size)
    return jax.tree.map(lambda x: np.asarray(x)[low:high], drawn)

  before = None
  for start in range(first - first % size, first + n, size):
    now = start, begin(start)
    if before is not None:
      yield finish(*before)
    before = now
  yield finish(*before)


def cut(pieces: Iterator[np.ndarray], sizes: Iterator[int]) -> Iterator[np.ndarray]:
  """The same samples in chunks of these sizes, whose sum is the number of samples."""
  kept, have = [], 0
  for size in sizes:
    while have < size:
      kept.append(next(pieces))
      have += len(kept[-1])
    over = have - size
    last = kept.pop()
    chunk = np.concatenate([*kept, last[: len(last) - over]]) if kept or over else last
    kept, have = [last[len(last) - over :]] if over else [], over
    del last
    yield chunk
