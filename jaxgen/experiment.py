"""What a config returns, and how configs and runs are found and loaded.

A config is a Python file with one function, `experiment`, whose keyword arguments are the command line's flags:

    def experiment(steps: int = 3_000, batch_size: int = 128) -> Experiment: ...

Calling it builds an `Experiment` and computes nothing. A run's folder keeps the config's source and its arguments, so
`jaxgen.load(folder)` rebuilds the experiment by running that source.
"""

import ast
import contextlib
import dataclasses
import difflib
import fcntl
import importlib.util
import inspect
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from jaxgen import files
from jaxgen.errors import UserError

if typing.TYPE_CHECKING:
  from jaxgen.data import Dataset
  from jaxgen.ledger import Published
  from jaxgen.method import Method

# Flags of the commands themselves; a config may not use these names for its own.
RESERVED = frozenset(
  ["config", "run", "runs", "name", "seed", "n", "first", "out", "fsdp", "coordinator", "processes", "process"]
  + ["layout", "fresh", "average", "seeds", "ledger"]
  + ["help", "version", "data_dir", "manual_dir"]
)
PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")


def as_pictures(samples: Any, conditions: Mapping[str, Any]) -> dict[str, bytes]:
  """Samples as one picture, {".png": ...}."""
  from jaxgen import pictures

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
    max_skipped: updates skipped in a row, because a loss or a gradient was not finite, after which the run stops.
    samples: drawn and shown while training goes on, 0 for none.
    sample_chunk: samples are computed in padded chunks of this size; sample i does not depend on anything else.
    evaluate_batch: examples in a batch of an evaluation, `batch_size` by default.
    keep: checkpoints kept, the newest.
    best: (metric, "min" or "max"): also keep the checkpoint that is best by this evaluated metric.
    render: (samples, their conditions) -> {suffix of a file: its contents}: what shows samples; pictures by default.
    figures: functions of a `Run` that return files by name, pictures, sounds or texts that show what was learned. They
      are drawn at the end of training, into the run's folder `figures/`, and shown in its report.
    published: what papers say of this experiment, for `jaxgen reproduce` and the ledger.
    layouts: how others name and lay out the weights of the network called "network", by the layout's name ("timm",
      "transformers"): lists of `jaxgen.interop.layout.Entry`, for `jaxgen import` and `jaxgen export`.
  """

  method: "Method"
  data: "Dataset"
  steps: int
  batch_size: int
  evaluators: Sequence[Callable[["Run"], dict[str, float]]] = ()
  conditions: Callable[[Any], Mapping[str, Any]] | None = None
  log_every: int = 50
  sample_every: int | None = None
  evaluate_every: int | None = None
  checkpoint_every: int | None = 1_000
  updates_per_dispatch: int = 10
  max_skipped: int = 10
  samples: int = 64
  sample_chunk: int = 64
  evaluate_batch: int | None = None
  keep: int = 2
  best: tuple[str, str] | None = None
  render: Callable[[Any, Mapping[str, Any]], dict[str, bytes]] = as_pictures
  figures: Sequence[Callable[["Run"], dict[str, bytes]]] = ()
  published: Sequence["Published"] = ()
  layouts: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ("steps", "batch_size", "log_every", "updates_per_dispatch", "max_skipped", "sample_chunk", "keep"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
    for name in ("sample_every", "evaluate_every", "checkpoint_every", "evaluate_batch"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1 or None, not {value}")


@dataclasses.dataclass(frozen=True)
class Config:
  """A config file that was found and loaded, its function not yet called.

  Attributes:
    name: the file's stem.
    path: the file.
    source: its text.
    function: its `experiment`.
  """

  name: str
  path: pathlib.Path
  source: str
  function: Callable[..., Experiment]

  @property
  def doc(self) -> str:
    return ast.get_docstring(ast.parse(self.source)) or ""

  @property
  def parameters(self) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(self.function).parameters)

  @property
  def types(self) -> dict[str, Any]:
    return typing.get_type_hints(self.function)

  def defaults(self) -> dict[str, Any]:
    return {name: p.default for name, p in self.parameters.items()}

  def cast(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that went through JSON, with lists made tuples again where the config wants tuples."""
    return {name: _cast(value, self.types.get(name)) for name, value in arguments.items()}

  def build(self, **arguments: Any) -> Experiment:
    """Calls the config with these arguments over its defaults.

    Raises:
      UserError: an argument that the config does not have, or that it refuses.
    """
    for name in arguments:
      if name not in self.parameters:
        near = difflib.get_close_matches(name, self.parameters, 1)
        hint = f": perhaps you meant {near[0]!r}" if near else f"; it has {', '.join(self.parameters)}"
        raise UserError(f"config {self.name} has no argument {name!r}{hint}")
    cast = self.cast(arguments)
    for name, value in cast.items():
      kind = self.types.get(name)
      if typing.get_origin(kind) is typing.Literal and value not in typing.get_args(kind):
        choices = ", ".join(map(repr, typing.get_args(kind)))
        raise UserError(f"config {self.name}: {name}={value!r} is none of {choices}")
    try:
      experiment = self.function(**cast)
    except (ValueError, ArithmeticError) as error:
      raise UserError(f"config {self.name}: {error}") from error
    if not isinstance(experiment, Experiment):
      raise UserError(f"config {self.name}: experiment() returned a {type(experiment).__name__}, not an Experiment")
    return experiment


def _cast(value: Any, kind: Any) -> Any:
  """Undoes what JSON does to tuples."""
  if isinstance(value, list) and (kind is tuple or typing.get_origin(kind) is tuple):
    inner = [k for k in typing.get_args(kind) if k is not Ellipsis]
    return tuple(_cast(v, inner[min(i, len(inner) - 1)] if inner else None) for i, v in enumerate(value))
  return value


def code_of(source: str) -> str:
  """What a config's source does, without its docstrings, comments and layout."""
  tree = ast.parse(source)
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
      node.body = node.body[1:]
  return ast.dump(tree)


def cache_folder() -> pathlib.Path:
  """Where compiled programs and trained judges are kept: $JAXGEN_CACHE, else ~/.cache/jaxgen."""
  return pathlib.Path(os.environ.get("JAXGEN_CACHE") or pathlib.Path.home() / ".cache" / "jaxgen")


def config_folders() -> list[pathlib.Path]:
  """Where a config is looked for by name: ./configs, then the `configs` beside the package."""
  return [pathlib.Path("configs"), pathlib.Path(__file__).resolve().parent.parent / "configs"]


def shipped_configs() -> list[pathlib.Path]:
  """The configs in the first of these folders that has any, sorted."""
  return next((found for folder in config_folders() if (found := sorted(folder.glob("*.py")))), [])


def find_config(name: str) -> pathlib.Path:
  """The file of a config given by path or by name.

  Raises:
    UserError: there is none; the nearest name is suggested.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  for folder in config_folders():
    for file in (folder / name, folder / f"{name}.py"):
      if file.is_file():
        return file
  known = sorted({f.stem for folder in config_folders() for f in folder.glob("*.py")})
  near = difflib.get_close_matches(path.stem, known, 1)
  hint = f"perhaps you meant {near[0]!r}" if near else "`jaxgen list` shows the configs there are"
  raise UserError(f"there is no config {name!r}: {hint}")


def load_config(name: str | pathlib.Path) -> Config:
  """Finds and loads a config; this runs the file's code, as importing it does.

  Raises:
    UserError: the file is missing, is not valid Python, has no function `experiment`, or one whose arguments cannot be
      flags.
  """
  path = find_config(str(name))
  try:
    source = path.read_text()
  except (UnicodeDecodeError, OSError) as error:
    raise UserError(f"{path} is not a config: {error}") from error
  spec = importlib.util.spec_from_file_location(f"jaxgen_config_{path.stem}", path)
  if spec is None:
    raise UserError(f"{path} is not a config: a config is a Python file with a function experiment()")
  module = importlib.util.module_from_spec(spec)
  bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
  except ImportError as error:
    raise UserError(f"{path} cannot be imported: {error}") from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(f"{path} fails when it is loaded: {type(error).__name__}: {error}") from error
  finally:
    sys.dont_write_bytecode = bytecode
  function = getattr(module, "experiment", None)
  if not callable(function):
    raise UserError(f"{path} has no function experiment(): a config is a file with one that returns an Experiment")
  config = Config(path.stem, path, source, function)
  for argument, parameter in config.parameters.items():
    if argument in RESERVED:
      raise UserError(
        f"{path}: experiment() may not have an argument {argument!r}, which is a flag of the commands themselves"
      )
    if parameter.default is parameter.empty:
      raise UserError(f"{path}: argument {argument!r} of experiment() needs a default")
  return config


class Folder:
  """A run's folder: what is in it, and who may write it."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self._lock = None

  def __truediv__(self, name: str) -> pathlib.Path:
    return self.path / name

  def exists(self) -> bool:
    return (self / "run.json").is_file()

  def info(self) -> dict[str, Any]:
    """The contents of run.json.

    Raises:
      UserError: the folder is not a run.
    """
    try:
      return json.loads((self / "run.json").read_text())
    except FileNotFoundError:
      raise UserError(f"{self.path} is not a run: it has no run.json") from None
    except (json.JSONDecodeError, OSError) as error:
      raise UserError(f"{self / 'run.json'} cannot be read: {error}") from error

  def write_info(self, info: Mapping[str, Any]) -> None:
    files.write(self / "run.json", json.dumps(info, indent=2) + "\n")

  def lock(self) -> None:
    """Claims the folder for this process until it ends.

    Raises:
      UserError: another process writes it.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    file = open(self / "lock", "a+")  # noqa: SIM115 - held until `unlock`
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.seek(0)
      owner = file.read().strip() or "another process"
      file.close()
      raise UserError(f"{self.path} is being written by {owner}: wait for it, or choose another --name") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    self._lock = file

  def unlock(self) -> None:
    if self._lock is not None:
      self._lock.close()
      self._lock = None

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is dropped."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(self / "metrics.jsonl") as file:
      for line in file:
        with contextlib.suppress(json.JSONDecodeError):
          lines.append({k: math.nan if v is None else v for k, v in json.loads(line).items()})
    return lines

  def evaluation(self, step: int) -> dict[str, float] | None:
    """The numbers of the last evaluation at a step, None if there was none."""
    lines = [line for line in self.metrics() if line["kind"] == "evaluate" and line["step"] == step]
    return {k: v for k, v in lines[-1].items() if k not in ("step", "kind")} if lines else None

  def keep_metrics_until(self, step: int) -> None:
    """Drops the lines that a run, resumed at `step`, will write again."""
    lines = [line for line in self.metrics() if line["step"] <= step]
    files.write(self / "metrics.jsonl", "".join(_json_line(line) for line in lines))

  def append_metrics(self, line: Mapping[str, Any]) -> None:
    with open(self / "metrics.jsonl", "a") as file:
      file.write(_json_line(line))


def _json_line(line: Mapping[str, Any]) -> str:
  """A line of metrics.jsonl. JSON has no NaN and no infinity: they become null."""
  finite = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
  return json.dumps({k: finite(v) for k, v in line.items()}, allow_nan=False) + "\n"


def describe(config: Config, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """What run.json says of a new run."""
  return {
    "config": config.name,
    "arguments": dict(arguments),
    "seed": seed,
    "command": " ".join(["jaxgen", *sys.argv[1:]]),
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "versions": versions(),
    **where(),
    "sessions": [],
  }


def where() -> dict[str, Any]:
  """What the bits of a session depend on besides its arguments and versions."""
  import jax

  return {
    "git": git_revision(),
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }


def versions() -> dict[str, str]:
  found = {"python": sys.version.split()[0]}
  for package in PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def git_revision() -> str | None:
  """The revision of the code that runs, with "+" where the tree has changes; None outside a git checkout."""
  here = pathlib.Path(__file__).resolve().parent
  git = lambda *words: (
    subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=10, check=True).stdout
  )
  try:
    return git("rev-parse", "HEAD").strip() + (
      "+" if git("status", "--porcelain", "--untracked-files=no").strip() else ""
    )
  except (OSError, subprocess.SubprocessError):
    return None


def check_same(folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int) -> None:
  """Raises a UserError, naming the difference, unless the folder's run is one of this config, arguments and seed.

  `steps` may be raised, which also moves schedules that the config makes of it; the config's docstring, comments and
  layout may change.
  """
  info = folder.info()
  other = f"{folder.path} is a run of"
  way_out = "choose another --name for a new run"
  if info["config"] != config.name:
    raise UserError(f"{other} config {info['config']}, not {config.name}: {way_out}")
  old = {**info["arguments"], "seed": info["seed"]}
  new = {**json.loads(json.dumps(dict(arguments))), "seed": seed}
  for name in sorted(old.keys() | new.keys()):
    longer = name == "steps" and new.get(name, 0) >= old.get(name, 0)
    if not longer and old.get(name) != new.get(name):
      flag = name.replace("_", "-")
      raise UserError(
        f"{other} --{flag} {old.get(name)}, not {new.get(name)}: give that to go on with it, or {way_out}"
      )
  if code_of((folder / "config.py").read_text()) != code_of(config.source):
    raise UserError(
      f"{config.path} has changed since {folder.path} began, which keeps its own copy in config.py: {way_out}"
    )


class Run:
  """A run: an experiment, its folder, and its state at some step.

  Attributes:
    folder: the run's folder.
    config: its config.
    arguments: the config's arguments, those given here included.
    experiment: what they build.
    seed: the run's seed.
    state: the training state; a finished run's is restored when it is first asked for.
  """

  def __init__(self, folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int, *, fsdp: int = 1):
    self.folder, self.config, self.seed = folder, config, seed
    self.arguments = config.cast({**config.defaults(), **arguments})
    self.experiment = config.build(**self.arguments)
    self._fsdp = fsdp
    self._program = None
    self._state = None

  @property
  def name(self) -> str:
    return self.folder.path.name

  @property
  def data(self) -> "Dataset":
    return self.experiment.data

  @property
  def program(self):
    """The method compiled for this machine's devices."""
    if self._program is None:
      from jaxgen import parallel

      e = self.experiment
      mesh = parallel.make_mesh(self._fsdp)
      parallel.check_divides(e.evaluate_batch or e.batch_size, mesh)
      try:
        self._program = parallel.compile(
          e.method,
          e.data.raw_spec(e.batch_size),
          mesh,
          prepare=e.data.transform,
          updates=e.updates_per_dispatch,
        )
      except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"config {self.config.name}: {str(error).splitlines()[0]}") from error
    return self._program

  @property
  def state(self):
    if self._state is None:
      from jaxgen.checkpoint import Checkpoints

      with contextlib.closing(Checkpoints(self.folder / "checkpoints")) as checkpoints:
        restored = checkpoints.restore(self.program.abstract)
      if restored is None:
        raise UserError(
          f"{self.folder.path} has no checkpoint yet: train it first, with `jaxgen train {self.config.name}`"
        )
      self._state = restored[1]
    return self._state

  @state.setter
  def state(self, state):
    self._state = state

  @property
  def step(self) -> int:
    """Training steps that the state has behind it."""
    return int(self.state.step)

  def conditions(self, index) -> dict[str, Any]:
    """The conditions of the samples with these indices [N]: {name: [N, ...]}."""
    return dict(self.experiment.conditions(index)) if self.experiment.conditions else {}

  def render(self, samples, first: int = 0) -> dict[str, bytes]:
    """What shows the samples first .. first + N - 1: {suffix of a file: its contents}."""
    import numpy as np

    return self.experiment.render(samples, self.conditions(np.arange(first, first + len(samples))))

  def suffixes(self) -> list[str]:
    """The suffixes of the files that show samples; no sample is drawn for it."""
    import jax
    import numpy as np

    e, first = self.experiment, np.arange(1)
    if e.method.sample is None:
      return []
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    like = jax.eval_shape(e.method.sample, self.program.abstract, keys, **self.conditions(first))
    return list(e.render(np.zeros(like.shape, like.dtype), self.conditions(first)))

  def sample(
    self, n: int, *, seed: int = 0, first: int = 0, progress: Callable[[int], Any] | None = None, **conditions: Any
  ):
    """Samples first .. first + n - 1 of a seed: [n, ...] numpy, images in [-1, 1].

    Sample i depends on (seed, i) and its condition, not on n, on `first`, or on the number of devices: whole chunks of
    samples, aligned at multiples of the chunk's size, are computed and cut.

    Args:
      conditions: values [n, ...] by name, instead of the experiment's own.
      progress: called with the number of samples done.

    Raises:
      UserError: the method generates nothing, or n < 1 or first < 0.
    """
    import jax
    import numpy as np

    e = self.experiment
    if e.method.sample is None:
      raise UserError(f"config {self.config.name} does not generate samples")
    if n < 1 or first < 0 or first + n > 2**31:
      raise UserError(
        f"cannot draw {n} samples from number {first} on: n must be at least 1, first at least 0, and the last number "
        "below 2^31"
      )
    size, key = e.sample_chunk, jax.random.key(seed)
    chunks = []
    for start in range(first - first % size, first + n, size):
      index = np.arange(start, start + size)
      values = self.conditions(index)
      for name, value in conditions.items():
        value = np.asarray(value)
        if len(value) != n:
          raise UserError(f"condition {name!r} has {len(value)} values for {n} samples")
        values[name] = value[np.clip(index - first, 0, n - 1)]
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
      chunk = jax.tree.map(np.asarray, self.program.sample(self.state, keys, values))
      low, high = max(first - start, 0), min(first + n - start, size)
      chunks.append(jax.tree.map(lambda x, low=low, high=high: x[low:high], chunk))
      if progress is not None:
        progress(start + high - first)
    return jax.tree.map(lambda *xs: np.concatenate(xs), *chunks)

  def evaluate_split(self, split: str | None = None, *, seed: int = 0) -> dict[str, Any]:
    """`Method.evaluate` for every example of a split, in order: {name: [N] numpy}. Default: the data's test split."""
    import jax
    import numpy as np

    from jaxgen.data import pipeline

    e = self.experiment
    source = e.data.source(split or e.data.test)
    key = jax.random.key(seed)
    rows = []
    size = e.evaluate_batch or e.batch_size
    for batch, count in pipeline.in_order(source, size, jax.process_index(), jax.process_count()):
      values = self.program.evaluate(self.state, batch, key)
      rows.append({name: np.asarray(value)[:count] for name, value in values.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

  def evaluate(self) -> dict[str, float]:
    """The numbers of all the experiment's evaluators."""
    numbers = {}
    for evaluator in self.experiment.evaluators:
      numbers |= evaluator(self)
    return numbers

  def draw(self) -> dict[str, bytes]:
    """The files of all the experiment's figures, by name."""
    drawn = {}
    for figure in self.experiment.figures:
      drawn |= figure(self)
    return drawn

  def report(self) -> pathlib.Path:
    """Writes the run's report.html and returns its path."""
    from jaxgen import report

    return report.write(self)


def load(folder: str | os.PathLike, *, fsdp: int = 1, **overrides: Any) -> Run:
  """Loads a run, with some of its config's arguments changed. This runs the config's code that the folder keeps.

  Raises:
    UserError: the folder is not a run, or an override is not an argument of its config, or one changes the state.
  """
  folder = Folder(folder)
  info = folder.info()
  if not (folder / "config.py").is_file():
    raise UserError(f"{folder.path} is not a whole run: it has no config.py")
  config = dataclasses.replace(load_config(folder / "config.py"), name=info["config"])
  run = Run(folder, config, {**info["arguments"], **overrides}, info["seed"], fsdp=fsdp)
  if overrides:
    before = Run(folder, config, info["arguments"], info["seed"])
    change = difference(state_shapes(before.experiment), state_shapes(run.experiment))
    if change:
      flags = ", ".join(f"{k}={v!r}" for k, v in overrides.items())
      raise UserError(f"{flags} changes the state of {folder.path}: {change}")
  return run


def state_shapes(experiment: Experiment) -> dict[str, tuple[tuple[int, ...], str]]:
  """Shape and dtype of every array of an experiment's state, by name; nothing is computed."""
  import jax

  spec = experiment.data.batch_spec(experiment.batch_size, train=True)
  shapes = jax.eval_shape(experiment.method.init, jax.eval_shape(lambda: jax.random.key(0)), spec)
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves
  }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
  """The first difference of two states' shapes in words, None where there is none."""
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) != new.get(name):
      say = lambda leaf: f"{leaf[1]}{list(leaf[0])}" if leaf else "absent"
      return f"{name} is {say(old.get(name))} there and {say(new.get(name))} here"
  return None


def config_summary(path: pathlib.Path) -> dict[str, str]:
  """A config's title and the `Paper:`, `Expect:` and `Cost:` paragraphs of its docstring, read without running it."""
  doc = ast.get_docstring(ast.parse(path.read_text())) or ""
  summary = {"title": doc.split("\n", 1)[0]}
  for field in ("Paper", "Expect", "Cost"):
    match = re.search(rf"^{field}:\s*(.*?)(?=\n\s*\n|\n\S+:|\Z)", doc, re.MULTILINE | re.DOTALL)
    summary[field.lower()] = " ".join(match[1].split()) if match else ""
  return summary
