"""jaxgen sweep CONFIG --over a=1,2 b=3,4 --seeds 3: trains every combination, one after another or as a SLURM array."""

import contextlib
import difflib
import io
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxgen.cli.compare import write
from jaxgen.cli.options import RUNS, check_out, folder_of, option, parse, workers_option
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine import loop
from jaxgen.engine.arguments import kind_in_words
from jaxgen.engine.config import Config, load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run
from jaxgen.show import report

LONGEST = 255  # bytes of a file's name


def sweep(subject: str, words: list[str]) -> None:
  config = load_config(subject)
  options, changed = parse(
    f"sweep {subject}",
    words,
    {
      "over": option(tuple[str, ...], "arguments and their values: learning_rate=1e-3,3e-3 ema=0.99,0.999", ()),
      "seeds": option(int, "number of seeds of each combination, from 0", 1),
      "runs": option(pathlib.Path, "folder of runs", RUNS),
      "name": option(str | None, "the sweep's folder within it (CONFIG_sweep); an existing sweep is continued", None),
      "dry": option(bool, "print the runs, and the script for --slurm, and train none", False),
      "only": option(int | None, "train only the run of this number, from 0 in the order of --dry", None),
      "slurm": option(
        tuple[str, ...], "submit an array of SLURM jobs, one for each run: partition=gpu time=4:00:00", ()
      ),
      **workers_option(),
    },
    config.doc,
    config,
  )
  if options["seeds"] < 1:
    raise UserError(f"--seeds {options['seeds']}: it must be 1 or more")
  over = [parsed(config, word) for word in options["over"]]
  if not over and options["seeds"] == 1:
    raise UserError(
      "a sweep needs --over with at least one argument, such as --over learning_rate=1e-3,3e-3, or several --seeds"
    )
  names = [name for name, _ in over]
  if twice := [name for name in names if names.count(name) > 1]:
    raise UserError(f"--over {twice[0]} is given twice: write all its values together, {twice[0]}=1,2,3")
  if clash := [name for name in names if name in changed]:
    raise UserError(f"--{clash[0].replace('_', '-')} is also in --over: give it once")
  folder = folder_of(options["runs"], options["name"], f"{config.name}_sweep")
  wanted = [(name, arguments, seed) for name, arguments, seed in combinations(over, options["seeds"])]
  if long := [name for name, _, _ in wanted if len(name.encode()) > LONGEST]:
    raise UserError(f"a run of this sweep would be called {long[0][:40]}...: sweep shorter values, or fewer arguments")
  for _, arguments, _ in wanted[:: options["seeds"]]:
    config.build(**changed, **arguments)  # refused before the first is trained
  if options["slurm"] and options["only"] is not None:
    raise UserError(f"--only {options['only']} is of one run, and --slurm submits all of them: leave one of them out")
  script = folder.path / "array.sbatch"
  text = batch_script(subject, words, folder, len(wanted), options["slurm"]) if options["slurm"] else None
  if options["only"] is not None and not 0 <= options["only"] < len(wanted):
    raise UserError(f"--only {options['only']}: the sweep has {len(wanted)} runs, from 0 to {len(wanted) - 1}")
  if options["dry"]:
    for name, _, _ in wanted:
      print(folder.path / name)
    if text is not None:
      print(f"\n{script}\n\n{text}", end="")
    return
  page = folder.path / "compare.html"
  folder.path.mkdir(parents=True, exist_ok=True)
  check_out(page, "--name")
  if text is not None:
    files.write(script, text)
    submit(script, len(wanted))
    return
  if options["only"] is None:
    for name, arguments, seed in wanted[:: options["seeds"]]:
      run = Run(Folder(folder.path / name), config, {**changed, **arguments}, seed)
      if not is_trained(run):
        _ = run.program  # sizes that make no program are refused before the first is trained, too
  runs, others = [], []
  for number, (name, arguments, seed) in enumerate(wanted):
    run = Run(Folder(folder.path / name), config, {**changed, **arguments}, seed, workers=options["workers"])
    runs.append(run.folder)
    if options["only"] not in (None, number):
      others.append(run)
      continue
    print(f"{number + 1} of {len(wanted)}: {name}", flush=True)
    if not is_trained(run):
      loop.train(run, report=report.write)
      jax.clear_caches()  # the next run has other programs
  if waiting := sum(not is_trained(run) for run in others):  # now, since jobs beside this one may have ended meanwhile
    print(f"{waiting} of {len(wanted)} runs are not trained yet; the last one writes {page}")
    return
  if jax.process_index() != 0:
    return
  about = {"config": config.name, "over": dict(over), "seeds": options["seeds"], "arguments": config.to_json(changed)}
  files.write(folder.path / "sweep.json", json.dumps(about, indent=2, default=str) + "\n")
  write(runs, page)


def batch_script(subject: str, words: Sequence[str], folder: Folder, runs: int, options: Sequence[str]) -> str:
  """The script for sbatch: an array of jobs, each of which trains one run by --only.

  Args:
    subject: the config.
    words: the sweep's flags, with --slurm.
    folder: the sweep's.
    runs: number of runs.
    options: sbatch's, "partition=gpu" or "exclusive".

  Raises:
    UserError: one of sbatch's options is written otherwise, or is one that the script sets.
  """
  if files.is_remote(folder.path):
    raise UserError(f"--slurm with --runs {folder.path.parent}: sbatch reads its script from a folder, so name one")
  for word in options:
    name = word.removeprefix("--").partition("=")[0]
    if not re.fullmatch(r"[a-z][a-z-]*", name) or not word.isprintable():
      raise UserError(f"--slurm {word}: write sbatch's options as NAME=VALUE, such as partition=gpu time=4:00:00")
    if name in ("array", "requeue", "open-mode"):
      raise UserError(f"--slurm {word}: the sweep sets --{name} itself")
  first = next(i for i, word in enumerate(words) if word.partition("=")[0] == "--slurm")
  rest = next((i for i in range(first + 1, len(words)) if words[i].startswith("--")), len(words))
  command = [sys.executable, "-m", "jaxgen", "sweep", subject, *words[:first], *words[rest:]]
  given = {word.removeprefix("--").partition("=")[0] for word in options}
  set_here = {
    "job-name": folder.path.name,
    "output": folder.path / "slurm_%a.log",
    "signal": "TERM@180",  # so many seconds before the time limit, to save
  }
  lines = [f"--{name}={shlex.quote(str(value))}" for name, value in set_here.items() if name not in given]
  for name, equals, value in (word.removeprefix("--").partition("=") for word in options):
    lines.append(f"--{name}{equals}{shlex.quote(value) if value else ''}")
  settings = "\n".join(f"#SBATCH {line}" for line in lines)
  return f"""#!/bin/bash
#SBATCH --array=0-{runs - 1}
#SBATCH --requeue
#SBATCH --open-mode=append
{settings}

# A preempted job, and one at its time limit, saves, exits with 143 and puts itself into the queue again.
srun --kill-on-bad-exit=0 {shlex.join(command)} --only "$SLURM_ARRAY_TASK_ID"
code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def submit(script: files.Place, runs: int) -> None:
  """Gives the script to sbatch.

  Raises:
    UserError: there is no sbatch, or it refuses the script.
  """
  try:
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
  except FileNotFoundError:
    raise UserError(f"--slurm: there is no sbatch on this machine; run sbatch {script} where there is one") from None
  if done.returncode != 0:
    raise UserError(f"--slurm: sbatch refuses {script}: {' '.join(done.stderr.split())}")
  print(f"job {done.stdout.strip()}, {runs} runs: squeue shows them, {script.parent} has their logs")


def is_trained(run: Run) -> bool:
  """Whether a run is at its last step with the same arguments; then it need not be loaded."""
  if not run.folder.exists():
    return False
  info = run.folder.info()
  same = info["arguments"] == json.loads(json.dumps(run.config.to_json(run.arguments))) and info["seed"] == run.seed
  same = same and info["config"] == run.config.name
  return same and run.folder.evaluation(run.experiment.steps) is not None


def parsed(config: Config, word: str) -> tuple[str, list[Any]]:
  """An argument and its values out of "learning_rate=1e-3,3e-3".

  Raises:
    UserError: the word has another form, the config has no such argument, or the argument does not take this value.
  """
  name, equals, values = word.partition("=")
  name = name.removeprefix("--").replace("-", "_")
  if not equals or not name or not all(values.split(",")):
    raise UserError(f"--over {word}: write it as NAME=VALUE,VALUE, such as learning_rate=1e-3,3e-3")
  if name not in config.parameters:
    near = difflib.get_close_matches(name, config.parameters, 1)
    hint = f": perhaps you meant {near[0]!r}" if near else f"; it has {', '.join(config.parameters)}"
    raise UserError(f"--over {word}: config {config.name} has no argument {name!r}{hint}")
  found = []
  for value in values.split(","):
    try:  # as the command line would take it
      with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        _, changed = parse("sweep", [f"--{name.replace('_', '-')}", value], {}, "", config)
    except SystemExit:
      takes = kind_in_words(config.types.get(name, type(config.defaults()[name])))
      raise UserError(f"--over {word}: {value!r} is not a value of {name}, which takes {takes}") from None
    found.append(changed.get(name, config.defaults()[name]))
  if len({json.dumps(config.to_json({name: x})) for x in found}) < len(found):
    raise UserError(f"--over {word} has a value twice")
  if len({_plain(x) for x in found}) < len(found):
    raise UserError(f"--over {word} has two values that differ only in signs that a run's name cannot have: change one")
  return name, found


def combinations(over: Sequence[tuple[str, list[Any]]], seeds: int) -> Iterator[tuple[str, dict[str, Any], int]]:
  """(a run's name within the sweep's folder, its arguments, its seed), the last argument and then the seed fastest."""
  names = [name for name, _ in over]
  for values in itertools.product(*(values for _, values in over)):
    arguments = dict(zip(names, values, strict=True))
    label = "_".join(f"{name}={_plain(value)}" for name, value in arguments.items())
    for seed in range(seeds):
      yield "_".join(filter(None, (label, f"seed={seed}"))), arguments, seed


def _plain(value: Any) -> str:
  text = str(getattr(value, "name", value))
  if isinstance(value, float) and float(f"{value:g}") == value:
    text = f"{value:g}"  # if it loses digits, all digits, so that two values have two names
  return "".join(c if c.isalnum() or c in ".-+" else "_" for c in text)
