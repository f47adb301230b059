"""Cascades: stages of one config, each a separate run in one folder, and samples that go through all of them.

A config of a cascade has an argument `stage`, and STAGES, {stage: the condition that takes the samples of the previous
stage; "" for the first one}, in order. Its `conditions` are those of a stage that is sampled alone.

    FOLDER/cascade.json       the config's name and STAGES
    FOLDER/STAGE/             the run of a stage
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax.errors import FlaxError

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.core.keys import check_seed
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.config import Config
from jaxgen.engine.experiment import AnyRun
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import TRACING, Run, load

NAME = "cascade.json"
Stages = Mapping[str, str]


def stages_of(config: Config) -> dict[str, str]:
  """A config's STAGES.

  Raises:
    UserError: it is not a cascade's, or its argument `stage` has other choices.
  """
  stages = config.function.__globals__.get("STAGES")
  if not isinstance(stages, Mapping) or "stage" not in config.parameters or len(stages) < 2:
    raise UserError(
      f"config {config.name} is not a cascade: it has no STAGES of two or more and no argument stage; "
      "train it with `jaxgen train`"
    )
  return dict(stages)


def run_of(
  folder: files.Place, config: Config, stage: str, arguments: Mapping[str, Any], seed: int, **options: Any
) -> Run:
  """A stage's run, new or not. The other arguments are as in `Run`."""
  return Run(Folder(folder / stage), config, {**arguments, "stage": stage}, seed, **options)


def is_trained(run: Run) -> bool:
  """Whether the run is at its last step, with the same arguments and seed."""
  if not run.folder.exists():
    return False
  info = run.folder.info()
  same = info["arguments"] == json.loads(json.dumps(run.config.to_json(run.arguments))) and info["seed"] == run.seed
  return same and max(Checkpoints(run.folder / "checkpoints").steps(), default=-1) >= run.experiment.steps


def begin(folder: files.Place, config: Config) -> dict[str, str]:
  """Writes the folder's config, or checks that it is this one. Returns its stages.

  Raises:
    UserError: as in `stages_of`, or the folder is another cascade or a run.
  """
  stages, path = stages_of(config), folder / NAME
  about = {"config": config.name, "stages": stages}
  if Folder(folder).exists():
    raise UserError(f"{folder} is a run and no cascade: choose another --name")
  if path.is_file() and (other := read(folder)) != about:
    raise UserError(f"{folder} is the cascade of config {other['config']}: choose another --name")
  files.write(path, json.dumps(about, indent=2) + "\n")
  return stages


def read(folder: files.Place) -> dict[str, Any]:
  """The contents of cascade.json.

  Raises:
    UserError: the folder is no cascade, or the file is damaged.
  """
  path = folder / NAME
  try:
    about = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(about["config"], str) and isinstance(about["stages"], dict)  # noqa: PT018
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f"{folder} is no cascade: it has no {NAME}; train one with `jaxgen cascade CONFIG`") from None
  except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
    raise UserError(f"{path} cannot be read ({error}): put back a copy") from error
  return about


def runs_of(folder: files.Place) -> dict[str, Run]:
  """The runs of a cascade's stages, in order.

  Raises:
    UserError: the folder is no cascade, or a stage is not trained yet.
  """
  about = read(folder)
  missing = [stage for stage in about["stages"] if not Folder(folder / stage).exists()]
  if missing:
    raise UserError(
      f"{folder} has no run of the stage {missing[0]!r}: train it with `jaxgen cascade {about['config']}`"
    )
  return {stage: load(folder / stage) for stage in about["stages"]}


def check(runs: Mapping[str, AnyRun], stages: Stages) -> None:
  """Raises a UserError if a stage makes examples of another shape than the next stage's condition. No state is read."""
  made, before = (), ""
  words = lambda shape: " x ".join(map(str, shape))
  for stage, run in runs.items():
    given, name = run.conditions(np.arange(1)), stages[stage]
    if name in given and (wanted := tuple(np.shape(given[name])[1:])) != made:
      raise UserError(
        f"the stages do not meet: {before!r} makes {words(made)} and {stage!r} is told {name!r} of {words(wanted)}: "
        "train one of them anew"
      )
    told = {name: np.zeros((1, *made), np.float32)} if name else {}
    try:
      made = run.program.sample_shapes(1, {**given, **told}).shape[1:]
    except (FlaxError, *TRACING) as error:
      if isinstance(error, UserError) or not name:
        raise
      raise UserError(
        f"the stages do not meet: {before!r} makes {words(made)}, which {stage!r} cannot be told as {name!r} "
        f"({str(error).splitlines()[0]}): train one of them anew"
      ) from error
    before = stage


def seed_of(seed: int, number: int) -> int:
  """The seed of a stage's samples: the first stage has the common one, and each other stage its own.

  With the same one, stages would begin with the same numbers as noise.
  """
  check_seed(seed)
  if number == 0:
    return seed
  return int.from_bytes(hashlib.sha256(f"stage {number} of {seed}".encode()).digest()[:8], "little")


def readers(runs: Mapping[str, Run], prompt: str | None) -> set[str]:
  """The stages that are told a text. Raises a UserError for a prompt where there are none."""
  found = {stage for stage, run in runs.items() if run.experiment.prompts is not None}
  if prompt is not None and not found:
    raise UserError("no stage of this cascade is told a text: sample without --prompt")
  return found


def sample(
  runs: Mapping[str, Run],
  stages: Stages,
  n: int,
  *,
  seed: int = 0,
  first: int = 0,
  prompt: str | None = None,
  progress: Callable[[str, int], Any] = lambda stage, done: None,
) -> dict[str, np.ndarray]:
  """Samples first .. first + n - 1 of every stage, [n, ...], each made from those of the previous stage.

  Sample i depends only on (seed, i). The stages' other conditions follow from the samples' numbers by the config. One
  stage's parameters are in memory at a time.

  Args:
    prompt: a text, for the stages that are told one.
    progress: called with a stage and its number of samples done.

  Raises:
    UserError: stages that do not meet, or a prompt and no stage that is told a text; or as in `Run.sample`.
  """
  check(runs, stages)
  told_texts = readers(runs, prompt)
  found: dict[str, np.ndarray] = {}
  for number, (stage, run) in enumerate(runs.items()):
    told = {stages[stage]: list(found.values())[-1]} if stages[stage] else {}
    told |= {"prompt": prompt} if stage in told_texts else {}
    tell = lambda done, stage=stage: progress(stage, done)
    found[stage] = run.sample(n, seed=seed_of(seed, number), first=first, progress=tell, **told)
    run.state = None  # it is read again where it is needed
  return found
