"""What a config returns: everything that a training run is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxgen.core import pictures
from jaxgen.core.method import Method
from jaxgen.data import Dataset

AnyRun = Any  # an `engine.run.Run`, which this module cannot import, or an object with the same methods
Evaluator = Callable[[AnyRun], dict[str, float]]  # a run -> numbers by name; the name says the unit
Figure = Callable[[AnyRun], dict[str, bytes]]  # a run -> files by name


@dataclasses.dataclass(frozen=True)
class Published:
  """A number that a paper reports.

  Attributes:
    paper: authors and year.
    table: the table or section of the paper.
    metric: the name of the corresponding number of our evaluators. The name says the unit.
    number: the number in that unit. `evaluation.likelihood` has functions to convert units.
    best: the paper reports its best evaluation, by the metric in `Experiment.best`, and not its last.
    note: how the two experiments differ, and the reason if ours is worse.
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
    method: the method to train.
    data: the data set to train on.
    steps: number of training steps.
    batch_size: examples in a global batch.
    evaluators: functions of a `Run` that return numbers by name.
    conditions: indices [N] -> conditions [N, ...] by name, for the samples with these indices.
    log_every, sample_every, evaluate_every, checkpoint_every: periods in steps; None: only at the end.
    updates_per_dispatch: the largest number of updates in one call of the compiled loop.
    microbatches: number of parts of a batch over which a step accumulates its gradients, one after the other.
    max_skipped: the run stops after so many successive updates were skipped because something was not finite.
    samples: number of samples that are drawn and shown during training; 0: none.
    sample_chunk: samples are computed in padded chunks of this size. Sample i depends on nothing else.
    evaluate_batch: examples in a batch of an evaluation; by default `batch_size`.
    keep: number of newest checkpoints to keep.
    profiles: the relative widths of averages by `power`, by name. They are kept from every checkpoint, for `--ema`.
    best: (metric, "min" or "max"): also keep the checkpoint that is best by this metric, and save at every evaluation.
    render: (samples, their conditions) -> {a file's suffix: its contents} to show samples; by default a picture.
    figures: functions of a `Run` -> files by name that show what was learned, drawn at the end, for its report.
    published: numbers that papers report for this experiment, for `jaxgen reproduce` and the ledger.
    layouts: layouts of published weights of the network called "network", by name ("timm", "transformers"): lists of
      `jaxgen.interop.layout.Entry`, for `jaxgen import` and `jaxgen export`.
    prompts: (a run, texts) -> the condition "tokens" [N, T] of models that are told a text; None: this one is not.
    keeps: further files, by path within a new run's folder, that it keeps; read when the run is made.
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
  profiles: Mapping[str, float] = dataclasses.field(default_factory=dict)
  best: tuple[str, str] | None = None
  render: Callable[[Any, Mapping[str, Any]], dict[str, bytes]] = as_pictures
  figures: Sequence[Figure] = ()
  published: Sequence[Published] = ()
  layouts: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
  prompts: Callable[[AnyRun, Sequence[str]], Any] | None = None
  keeps: Callable[[], Mapping[str, bytes]] = dict

  def __post_init__(self):
    counts = ("steps", "batch_size", "log_every", "updates_per_dispatch", "microbatches", "max_skipped", "sample_chunk")
    for name in (*counts, "keep", "sample_every", "evaluate_every", "checkpoint_every", "evaluate_batch"):
      if (value := getattr(self, name)) is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    if self.best is not None and (len(self.best) != 2 or self.best[1] not in ("min", "max")):
      raise ValueError(f'best is (metric, "min" or "max"), not {self.best!r}')
