"""The command line. Only this module knows all the others, and it imports them where they are needed."""

import contextlib
import dataclasses
import os
import pathlib
import sys
from typing import Annotated, Any

from jaxgen.core import files
from jaxgen.core.errors import Stopped, UserError

# XLA flags that pay on a CPU (`benchmarks/training.py` measures it), with the jaxlib releases that were tried: from, to
# before. A flag that jaxlib does not know ends the process.
CPU_FLAGS = {"--xla_cpu_experimental_ynn_fusion_type=": ((0, 10), (0, 11))}

USAGE = """usage: jaxgen COMMAND ...

  train CONFIG      train a config, or go on with its run        jaxgen train configs/ddpm_digits.py
  sample RUN        draw samples from a run                      jaxgen sample runs/ddpm_digits --n 64 --out samples.png
  evaluate RUN      compute a run's evaluation                   jaxgen evaluate runs/ddpm_digits --sampling-steps 100
  report RUN        write a run's report.html
  inspect RUN|CONFIG  parameters, bytes, FLOPs and memory; for a run also its step and the SHA-256 of its state
  import FILE CONFIG  make a run out of published weights       jaxgen import vit.safetensors configs/vit_cifar10.py
  export RUN FILE   write a run's weights as others name them    jaxgen export runs/vit vit.safetensors --layout timm
  reproduce CONFIG  train, evaluate, and add a line to the ledger beside the paper's number
  ledger            the ledger: papers' numbers and ours
  list              the configs, their papers, expected numbers and costs
  prepare NAME      prepare a data set with tensorflow-datasets  jaxgen prepare mnist --data-dir DIR

CONFIG is a Python file, or a name in configs/; it comes before the flags. RUN is a run's folder.
`jaxgen COMMAND --help` and `jaxgen train CONFIG --help` show the flags.

exit status: 0 done, 1 an error, 2 a wrong flag, 130 or 143 stopped by SIGINT or SIGTERM with the state saved
"""


def _option(kind: Any, help: str, metavar: str | None = None) -> Any:
  import tyro

  return Annotated[kind, tyro.conf.arg(help=help, metavar=metavar)]


def _cluster_options() -> dict[str, tuple[Any, Any]]:
  return {
    "fsdp": (_option(int, "devices that share one copy of the state (1: each has its own)"), 1),
    "coordinator": (_option(str | None, "HOST:PORT of process 0, where the environment does not say"), None),
    "processes": (_option(int | None, "number of processes of the job"), None),
    "process": (_option(int | None, "number of this process, from 0"), None),
  }


def _parse(
  command: str, words: list[str], options: dict[str, tuple[Any, Any]], description: str, config=None, arguments=None
):
  """One parse of a command's options and a config's arguments together; returns (options, changed arguments).

  Changed are the arguments that differ from `arguments`, by default the config's own defaults.
  """
  import tyro

  fields = [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in options.items()]
  defaults = {}
  if config is not None:
    defaults = {**config.defaults(), **(arguments or {})}
    fields += [
      (name, config.types.get(name, type(value)), dataclasses.field(default=value)) for name, value in defaults.items()
    ]
  signature = dataclasses.make_dataclass("flags", fields)
  parsed = tyro.cli(
    signature, args=words, prog=f"jaxgen {command}", description=description, config=(tyro.conf.FlagConversionOff,)
  )
  given = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
  chosen = {name: given.pop(name) for name in defaults}
  return given, {name: value for name, value in chosen.items() if value != defaults[name]}


def _subject(command: str, words: list[str], what: str) -> tuple[str, list[str]]:
  """Splits off the command's first word, the config or run that everything after it is about."""
  if not words or words[0] in ("-h", "--help"):
    print(f"usage: jaxgen {command} {what} [flags]\n\n`jaxgen {command} {what} --help` shows the flags of that {what}.")
    sys.exit(0 if words else 2)
  if words[0].startswith("-"):
    raise UserError(f"{what} comes before the flags: jaxgen {command} {what} {' '.join(words)}")
  return words[0], words[1:]


def flags_that_pay() -> list[str]:
  """Those of CPU_FLAGS that this jaxlib has and $XLA_FLAGS does not set."""
  import jaxlib

  version = tuple(int(x) for x in jaxlib.__version__.split(".")[:2])
  flags = os.environ.get("XLA_FLAGS", "")
  return [f for f, (low, high) in CPU_FLAGS.items() if f.split("=")[0] not in flags and low <= version < high]


def set_up_jax() -> None:
  """Sets, before jax starts, what pays and the user has not set."""
  wanted = flags_that_pay()
  if wanted:
    os.environ["XLA_FLAGS"] = " ".join([*os.environ.get("XLA_FLAGS", "").split(), *wanted])
    print(f"jaxgen: XLA_FLAGS now has {' '.join(wanted)}, which is faster on a CPU", file=sys.stderr)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's warnings, such as that a cached program was found
  import jax

  from jaxgen.core.cache import cache_folder

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _join(options: dict[str, Any]) -> None:
  from jaxgen.engine.cluster import join_cluster

  join_cluster(options["coordinator"], options["processes"], options["process"])


def train(words: list[str]) -> None:
  subject, words = _subject("train", words, "CONFIG")
  set_up_jax()
  from jaxgen.engine.config import load_config
  from jaxgen.engine.folder import Folder
  from jaxgen.engine.run import Run

  config = load_config(subject)
  options, changed = _parse(
    f"train {subject}",
    words,
    {
      "runs": (_option(pathlib.Path, "folder of runs"), pathlib.Path("runs")),
      "name": (_option(str | None, "the run's name (the config's by default); a run that exists goes on"), None),
      "seed": (_option(int, "seed of initialisation, data order and noise"), 0),
      **_cluster_options(),
    },
    config.doc,
    config,
  )
  _join(options)
  run = Run(
    Folder(options["runs"] / (options["name"] or config.name)), config, changed, options["seed"], fsdp=options["fsdp"]
  )
  from jaxgen.engine import loop
  from jaxgen.show import report

  numbers = loop.train(run, report=report.write)
  import jax

  if jax.process_index() == 0:
    folder = run.folder
    say_numbers(numbers)
    print(f"checkpoints  {folder / 'checkpoints'}")
    if run.experiment.method.sample is not None and run.experiment.samples:
      print(f"samples      {folder / 'samples'}")
    print(f"report       {folder / 'report.html'}")


def say_numbers(numbers: dict[str, float]) -> None:
  width = max((len(name) for name in numbers), default=0)
  for name, value in numbers.items():
    print(f"{name:<{width}}  {value:.6g}")


def _load_run(command: str, subject: str, words: list[str], own: dict[str, tuple[Any, Any]], description: str):
  """A run with some of its config's arguments changed by flags, and the command's own options."""
  from jaxgen.engine.run import load

  run = load(subject)
  options, changed = _parse(
    f"{command} {subject}", words, {**own, **_cluster_options()}, description, run.config, run.arguments
  )
  _join(options)
  return load(subject, fsdp=options["fsdp"], **changed), options


def sample(words: list[str]) -> None:
  subject, words = _subject("sample", words, "RUN")
  set_up_jax()
  run, options = _load_run(
    "sample",
    subject,
    words,
    {
      "n": (_option(int, "number of samples"), 64),
      "seed": (_option(int, "sample i depends on the seed and on i alone"), 0),
      "first": (_option(int, "number of the first sample"), 0),
      "out": (
        _option(
          pathlib.Path | None, "file to write: .npz, or what shows samples, a .png for one (in RUN/samples by default)"
        ),
        None,
      ),
    },
    "Draw samples from a run.",
  )
  out = options["out"] or run.folder / "samples" / f"seed_{options['seed']}_{options['first']}_{options['n']}"
  if options["out"] and out.suffix not in (known := [".npz", *run.suffixes()]):
    raise UserError(f"--out {out}: these samples are written as {' or '.join(known)}")
  if not out.parent.is_dir():
    raise UserError(f"--out {out}: there is no folder {out.parent}")
  import jax
  import numpy as np
  from rich.progress import Progress

  with Progress(disable=jax.process_index() != 0 or not sys.stdout.isatty()) as bar:
    task = bar.add_task("sampling", total=options["n"])
    samples = run.sample(
      options["n"], seed=options["seed"], first=options["first"], progress=lambda done: bar.update(task, completed=done)
    )
  if jax.process_index() == 0:
    if options["out"] and out.suffix == ".npz":
      np.savez(out, samples=samples)
      print(out)
      return
    for suffix, contents in run.render(samples, options["first"]).items():
      path = options["out"] or out.with_name(out.name + suffix)
      if path.suffix == suffix:
        files.write(path, contents)
        print(path)


def evaluate(words: list[str]) -> None:
  subject, words = _subject("evaluate", words, "RUN")
  set_up_jax()
  run, options = _load_run(
    "evaluate",
    subject,
    words,
    {"out": (_option(pathlib.Path | None, "also write the numbers to this .json file"), None)},
    "Compute a run's evaluation, with some of its arguments changed.",
  )
  if not run.experiment.evaluators:
    raise UserError(f"config {run.config.name} has no evaluators")
  import json

  import jax

  numbers = run.evaluate()
  if jax.process_index() == 0:
    say_numbers(numbers)
    if options["out"]:
      files.write(
        options["out"], json.dumps({"step": run.step, "arguments": run.arguments, **numbers}, indent=2) + "\n"
      )


def report(words: list[str]) -> None:
  subject, words = _subject("report", words, "RUN")
  set_up_jax()
  run, _ = _load_run("report", subject, words, {}, "Write a run's report.html.")
  import jax

  if jax.process_index() == 0:
    print(report.write(run))


def inspect(words: list[str]) -> None:
  subject, words = _subject("inspect", words, "RUN|CONFIG")
  set_up_jax()
  from jaxgen import inspection
  from jaxgen.engine.config import load_config
  from jaxgen.engine.folder import Folder
  from jaxgen.engine.run import Run

  if Folder(subject).exists():
    run, _ = _load_run("inspect", subject, words, {}, "What a run is made of.")
    restored = True
  else:
    if pathlib.Path(subject).is_dir():
      Folder(subject).info()  # says why it is not a run
    config = load_config(subject)
    options, changed = _parse(f"inspect {subject}", words, _cluster_options(), config.doc, config)
    _join(options)
    run = Run(Folder(""), config, changed, 0, fsdp=options["fsdp"])
    restored = False
  inspection.show(run, restored)


def import_weights(words: list[str]) -> None:
  if len(words) < 2 or words[0].startswith("-") or words[1].startswith("-"):
    print(
      "usage: jaxgen import FILE CONFIG [flags]\n\n`jaxgen import FILE CONFIG --help` shows the flags of that CONFIG."
    )
    sys.exit(0 if words in (["-h"], ["--help"]) else 2)
  file, subject, *words = words
  set_up_jax()
  from jaxgen.engine.config import load_config
  from jaxgen.engine.folder import Folder
  from jaxgen.engine.run import Run

  config = load_config(subject)
  options, changed = _parse(
    f"import {file} {subject}",
    words,
    {
      "runs": (_option(pathlib.Path, "folder of runs"), pathlib.Path("runs")),
      "name": (_option(str | None, "the run's name (the config's by default)"), None),
      "seed": (_option(int, "seed of what is not read, and of training from here"), 0),
      "layout": (_option(str | None, "whose layout the file is in (the one whose names fit, by default)"), None),
      "fresh": (_option(tuple[str, ...], "parameters to initialise and not to read, params/head for one"), ()),
      **_cluster_options(),
    },
    config.doc,
    config,
  )
  _join(options)
  folder = Folder(options["runs"] / (options["name"] or config.name))
  run = Run(folder, config, changed, options["seed"], fsdp=options["fsdp"])
  from jaxgen.interop import runs

  count = runs.import_weights(run, pathlib.Path(file), options["layout"], options["fresh"])
  print(f"{folder.path}  step 0, {count:,} values read")


def export_weights(words: list[str]) -> None:
  if len(words) < 2 or words[0].startswith("-") or words[1].startswith("-"):
    print("usage: jaxgen export RUN FILE [flags]\n\n`jaxgen export RUN FILE --help` shows the flags.")
    sys.exit(0 if words in (["-h"], ["--help"]) else 2)
  subject, file, *words = words
  set_up_jax()
  run, options = _load_run(
    f"export {file}",
    subject,
    words,
    {
      "layout": (_option(str | None, "in whose layout; needed where the config names several"), None),
      "average": (_option(bool, "write the averaged parameters, where the method keeps them"), True),
    },
    "Write a run's weights as others name them, .safetensors or .npz.",
  )
  from jaxgen.interop import runs

  count = runs.export_weights(run, pathlib.Path(file), options["layout"], options["average"])
  print(f"{file}  {count:,} values")


def reproduce(words: list[str]) -> None:
  subject, words = _subject("reproduce", words, "CONFIG")
  set_up_jax()
  from jaxgen import ledger
  from jaxgen.engine.config import load_config

  config = load_config(subject)
  options, changed = _parse(
    f"reproduce {subject}",
    words,
    {
      "runs": (_option(pathlib.Path, "folder of runs"), pathlib.Path("runs")),
      "seeds": (_option(int, "number of seeds, from 0"), 1),
      "ledger": (_option(pathlib.Path, "file of the ledger"), ledger.FILE),
      **_cluster_options(),
    },
    config.doc,
    config,
  )
  _join(options)
  lines = ledger.reproduce(config, changed, seeds=options["seeds"], runs=options["runs"], fsdp=options["fsdp"])
  import jax

  if jax.process_index() == 0:
    ledger.append(options["ledger"], lines)
    for line in lines:
      print(f"{line['metric']}  {line['mean']:.6g}, published {line['published']:g} ({line['paper']})")
    print(options["ledger"])


def show_ledger(words: list[str]) -> None:
  from jaxgen import ledger

  options, _ = _parse(
    "ledger",
    words,
    {
      "ledger": (_option(pathlib.Path, "file of the ledger"), ledger.FILE),
      "out": (_option(pathlib.Path | None, "write it as a page, .md, instead"), None),
    },
    "Papers' numbers and ours.",
  )
  from jaxgen.engine.config import shipped_configs

  lines = ledger.read(options["ledger"])
  waiting = ledger.not_run(lines, shipped_configs())
  if options["out"]:
    if not options["out"].parent.is_dir():
      raise UserError(f"--out {options['out']}: there is no folder {options['out'].parent}")
    files.write(options["out"], ledger.page(lines, waiting))
    print(options["out"])
    return
  from rich.console import Console
  from rich.table import Table

  console = Console()
  if not console.is_terminal:
    console = Console(width=max(console.width, 160))
  for title, some in ledger.tables(lines).items():
    table = Table(*ledger.COLUMNS, title=title, title_justify="left", box=None, pad_edge=False)
    for line in some:
      table.add_row(*ledger.cells(line))
    console.print(table, "")
  if waiting:
    table = Table("config", "published", "as", "cost", title="not run here", title_justify="left", box=None)
    for row in waiting:
      table.add_row(*row)
    console.print(table)


def list_configs(words: list[str]) -> None:
  if words and words[0] in ("-h", "--help"):
    print("usage: jaxgen list\n\nThe configs, their papers, expected numbers and costs.")
    return
  if words:
    raise UserError(f"jaxgen list takes no arguments, not {' '.join(words)}")
  from rich.console import Console
  from rich.table import Table

  from jaxgen.engine.config import config_summary, shipped_configs

  table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
  for name in ("config", "what", "paper", "expect", "cost"):
    table.add_column(name, overflow="fold", no_wrap=name == "config")
  configs = shipped_configs()
  if not configs:
    raise UserError("there are no configs here: run jaxgen in a folder with a configs/ folder")
  for path in configs:
    summary = config_summary(path)
    table.add_row(path.stem, summary["title"], summary["paper"], summary["expect"], summary["cost"])
  console = Console()
  Console(width=max(console.width, 120) if not console.is_terminal else None).print(table)


def prepare(words: list[str]) -> None:
  subject, words = _subject("prepare", words, "NAME")
  options, _ = _parse(
    f"prepare {subject}",
    words,
    {
      "data_dir": (_option(pathlib.Path | None, "where to prepare it (~/tensorflow_datasets by default)"), None),
      "manual_dir": (_option(pathlib.Path | None, "folder of files that were downloaded by hand"), None),
    },
    "Prepare a data set with tensorflow-datasets.",
  )
  from jaxgen.data import prepare as preparation

  splits = preparation.prepare(subject, options["data_dir"], options["manual_dir"])
  print(f"{subject} is prepared: {', '.join(f'{split} {n:,}' for split, n in splits.items())} examples")


COMMANDS = {
  "train": train,
  "sample": sample,
  "evaluate": evaluate,
  "report": report,
  "inspect": inspect,
  "import": import_weights,
  "export": export_weights,
  "reproduce": reproduce,
  "ledger": show_ledger,
  "list": list_configs,
  "prepare": prepare,
}


def main(words: list[str] | None = None) -> None:
  """The entry point of the command `jaxgen`; always exits."""
  words = list(sys.argv[1:] if words is None else words)
  if not words or words[0] in ("-h", "--help", "help"):
    print(USAGE, end="")
    sys.exit(0 if words else 2)
  if words[0] in ("--version", "-V"):
    from importlib.metadata import version

    print(f"jaxgen {version('jaxgen')}")
    sys.exit(0)
  command = COMMANDS.get(words[0])
  if command is None:
    import difflib

    near = difflib.get_close_matches(words[0], COMMANDS, 1)
    hint = f"perhaps you meant {near[0]!r}" if near else f"the commands are {', '.join(COMMANDS)}"
    sys.exit(_fail(f"there is no command {words[0]!r}: {hint}", 2))
  try:
    command(words[1:])
  except UserError as error:
    sys.exit(_fail(str(error), 1))
  except Stopped as stop:
    sys.exit(_fail(str(stop), stop.code))
  except KeyboardInterrupt:
    sys.exit(_fail("stopped; what was saved before is kept", 130))
  except BrokenPipeError:  # `jaxgen list | head`
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
  sys.exit(0)


def _fail(sentence: str, code: int) -> int:
  prefix = "error: " if code in (1, 2) else ""
  print(f"jaxgen: {prefix}{sentence}", file=sys.stderr, flush=True)
  return code


if __name__ == "__main__":
  main()
