"""What a config returns: everything that a training run is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxgen.core import pictures
from jaxgen.core.method import Method
from jaxgen.data import Dataset

AnyRun = Any  # an `engine.run.Run`, which stands above and knows experiments, or what has as much of it as is used
Evaluator = Callable[[AnyRun], dict[str, float]]  # a run -> numbers by name, which say their unit
Figure = Callable[[AnyRun], dict[str, bytes]]  # a run -> files by name


@dataclasses.dataclass(frozen=True)
class Published:
  """A number that a paper reports.

  Attributes:
    paper: authors and year.
    table: where the paper has it.
    metric: the name of the number that our evaluators give; it says the unit.
    number: in that unit; convert what the paper says by `evaluation.likelihood`'s functions.
    best: the paper reports the best of its evaluations and not the last; best by what `Experiment.best` names.
    note: how the two experiments differ, and why ours falls short where it does.
  """

  paper: str
  table: str
  metric: str
  number: float
  note: str = ""
  best: bool = False


def as_pictures(samples: Any, conditions: Mapping[str, Any]) -> dict[str, bytes]:
  """Samples as one picture, {".png": ...}."""
  return {".png": pictures.png(pictures.grid(samples))}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a training run is made of. Building one computes nothing.

  Attributes:
    method: what is trained.
    data: what it is trained on.
    steps: training steps.
    batch_size: examples in a global batch.
    evaluators: functions of a `Run` that return numbers by name.
    conditions: indices [N] -> conditions [N, ...] by name, given to the sampler for samples with these indices.
    log_every, sample_every, evaluate_every, checkpoint_every: in steps; None: only at the end.
    updates_per_dispatch: updates that one call of the compiled loop makes at most.
    microbatches: parts of a batch, one after the other, over which a step accumulates its gradients.
    max_skipped: updates skipped in a row, because a loss or a gradient was not finite, after which the run stops.
    samples: drawn and shown while training goes on, 0 for none.
    sample_chunk: samples are computed in padded chunks of this size; sample i does not depend on anything else.
    evaluate_batch: examples in a batch of an evaluation, `batch_size` by default.
    keep: checkpoints kept, the newest.
    best: (metric, "min" or "max"): also keep the checkpoint that is best by this evaluated metric. Every evaluation
      makes a checkpoint then.
    render: (samples, their conditions) -> {suffix of a file: its contents}: what shows samples; pictures by default.
    figures: functions of a `Run` that return files by name, pictures, sounds or texts that show what was learned. They
      are drawn at the end of training, into the run's folder `figures/`, and shown in its report.
    published: what papers say of this experiment, for `jaxgen reproduce` and the ledger.
    layouts: how others name and lay out the weights of the network called "network", by the layout's name ("timm",
      "transformers"): lists of `jaxgen.interop.layout.Entry`, for `jaxgen import` and `jaxgen export`.
  """

  method: Method
  data: Dataset
  steps: int
  batch_size: int
  evaluators: Sequence[Evaluator] = ()
  conditions: Callable[[Any], Mapping[str, Any]] | None = None
  log_every: int = 50
  sample_every: int | None = None
  evaluate_every: int | None = None
  checkpoint_every: int | None = 1_000
  updates_per_dispatch: int = 10
  microbatches: int = 1
  max_skipped: int = 10
  samples: int = 64
  sample_chunk: int = 64
  evaluate_batch: int | None = None
  keep: int = 2
  best: tuple[str, str] | None = None
  render: Callable[[Any, Mapping[str, Any]], dict[str, bytes]] = as_pictures
  figures: Sequence[Figure] = ()
  published: Sequence[Published] = ()
  layouts: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    counts = ("steps", "batch_size", "log_every", "updates_per_dispatch", "microbatches", "max_skipped")
    for name in (*counts, "sample_chunk", "keep"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
    if self.best is not None and (len(self.best) != 2 or self.best[1] not in ("min", "max")):
      raise ValueError(f'best is (metric, "min" or "max"), not {self.best!r}')
    for name in ("sample_every", "evaluate_every", "checkpoint_every", "evaluate_batch"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1 or None, not {value}")
