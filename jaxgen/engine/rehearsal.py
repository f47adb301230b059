"""Tries everything that a run will need later, before the first step: samples, evaluators, figures.

An evaluator that cannot work, a `best` that no evaluator returns, a prompt with characters that the text lacks, a judge
of other images: when they fail at step 500 they cost 500 steps, and again at every resume. `rehearse` finds them by
shapes. The state is abstract, so that nothing is computed; samples are zeros and values of examples are ones, with the
shapes and dtypes that they will have. Evaluators and figures are called with these. When one needs the values of an
abstract array, its trial ends and counts as passed.

An evaluator or a figure that has a better trial, or must not be tried, has an attribute `rehearse`:

    evaluate.rehearse = lambda run: ...     # a run -> the names of its numbers, or None if they are not known
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.engine.run import TRACING, Run

# jax's errors when code needs the values of an abstract array.
NEEDS_VALUES = (
  jax.errors.ConcretizationTypeError,
  jax.errors.NonConcreteBooleanIndexError,
  jax.errors.TracerArrayConversionError,
  jax.errors.UnexpectedTracerError,
)


def rehearse(run: Run) -> list[str] | None:
  """Tries a run's samples, their rendering, its evaluators, `best` and its figures.

  Returns the names of its evaluators' numbers; None if they are not known yet. A run is tried once.

  Raises:
    UserError: one of them cannot work. Other errors get a note about what was tried.
  """
  if run.rehearsed is None:
    run.rehearsed = (_rehearse(run),)
  return run.rehearsed[0]


def _rehearse(run: Run) -> list[str] | None:
  e = run.experiment
  if e.method.sample is not None and e.samples:
    try:
      run.program.sample_shapes(e.sample_chunk, run.conditions(np.arange(e.sample_chunk)))
    except TRACING as error:
      raise run.refusal(error) from error
    _tried("samples and what shows them", lambda: run.render(Rehearsal(run, None).sample(e.samples)))
  found = [_try(run, "evaluator", evaluator) for evaluator in e.evaluators]
  names = None if None in found else [name for given in found for name in given]
  if e.best is not None:
    if not e.evaluators:
      raise UserError(
        f"config {run.config.name}: best={e.best[0]!r} names a number of the evaluation, but there are no evaluators"
      )
    if names is not None and e.best[0] not in names:
      raise UserError(f"config {run.config.name}: best={e.best[0]!r} is none of {', '.join(names)}")
  for figure in e.figures:
    _try(run, "figure", figure)
  return names


class Rehearsal:
  """A run as evaluators and figures see it, with an abstract state and samples that are zeros.

  Everything else is that of the run.
  """

  def __init__(self, run: Run, state: Any):
    self._run, self.state = run, state

  def __getattr__(self, name: str) -> Any:
    return getattr(self._run, name)

  @property
  def step(self) -> int:
    return int(self.state.step)

  def sample(
    self,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    batch: int | None = None,
    progress: Any = None,
    prompt: Any = None,
    negative: Any = None,
    **conditions: Any,
  ) -> Any:
    """Zeros of the shapes of `Run.sample`."""
    run, size = self._run, batch or self._run.experiment.sample_chunk
    if run.experiment.method.sample is None:
      return run.sample(n)  # raises the error that there are none
    conditions |= run.told(n, prompt, negative)
    values = run.conditions_of_chunk(np.arange(first, first + size), first, n, conditions)
    like = run.program.sample_shapes(size, values)
    return jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), (n, *s.shape[1:])), like)

  def evaluate_split(self, split: str | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Ones of the shapes of `Run.evaluate_split`."""
    e = self._run.experiment
    n = len(e.data.source(split or e.data.test))
    like = self._run.program.evaluate_shapes(e.data.raw_spec(e.evaluate_batch or e.batch_size))
    return {name: np.broadcast_to(np.ones((), s.dtype), (n, *s.shape[1:])) for name, s in like.items()}


def _try(run: Run, what: str, function: Callable[[Any], Any]) -> list[str] | None:
  """The names of an evaluator's numbers or a figure's files; None if the trial does not tell."""
  name = getattr(function, "__qualname__", type(function).__name__).removesuffix(".<locals>.evaluate")
  found: list[str] | None = None
  if own := getattr(function, "rehearse", None):
    given = _tried(f"the {what} {name}", lambda: own(run))
    return None if given is None else list(given)

  def by_shapes(state: Any) -> None:
    nonlocal found
    found = list(function(Rehearsal(run, state)))

  _tried(f"the {what} {name}", lambda: jax.eval_shape(by_shapes, run.program.abstract))
  return found


def _tried(what: str, attempt: Callable[[], Any]) -> Any:
  try:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
      warnings.simplefilter("ignore")
      return attempt()
  except UserError:
    raise
  except (ArithmeticError, *NEEDS_VALUES):
    return None  # it needs values, and zeros and ones are not those that it will see
  except Exception as error:
    if "Tracer" in str(error):  # such as the attributes of an array that an abstract one has not
      return None
    error.add_note(
      f"This was raised while {what} was tried by shapes, before the first step: see jaxgen.engine.rehearsal"
    )
    raise
