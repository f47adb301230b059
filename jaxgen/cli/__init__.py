"""The command line. It may import all other packages; a command's module is imported when the command is given."""

import contextlib
import difflib
import importlib
import itertools
import os
import sys
import traceback
from typing import NamedTuple, NoReturn

from jaxgen.core import environment
from jaxgen.core.errors import Stopped, UserError, in_words


class Command(NamedTuple):
  """The module and function of a command, called with (its first words, the other words), and its first words' names.

  Attributes:
    subjects: names of the first words, which come before the flags.
    computes: whether it starts jax.
  """

  module: str
  function: str
  subjects: tuple[str, ...] = ()
  computes: bool = True


COMMANDS = {
  "train": Command("train", "train", ("CONFIG",)),
  "sample": Command("sample", "sample", ("RUN",)),
  "cascade": Command("cascade", "cascade", ("RUN|CONFIG",)),
  "evaluate": Command("evaluate", "evaluate", ("RUN|PICTURES",)),
  "statistics": Command("statistics", "statistics", ("DATA",)),
  "averages": Command("averages", "averages", ("RUN",)),
  "probe": Command("probe", "probe", ("RUN",)),
  "report": Command("report", "report", ("RUN",)),
  "compare": Command("compare", "compare", computes=False),
  "sweep": Command("sweep", "sweep", ("CONFIG",)),
  "inspect": Command("inspect", "inspect", ("RUN|CONFIG",)),
  "benchmark": Command("benchmark", "benchmark", ("RUN|CONFIG",)),
  "import": Command("weights", "import_weights", ("FILE", "CONFIG")),
  "export": Command("weights", "export_weights", ("RUN", "FILE")),
  "reproduce": Command("reproduce", "reproduce", ("CONFIG",)),
  "ledger": Command("ledger", "show_ledger", computes=False),
  "list": Command("list_configs", "list_configs", computes=False),
  "prepare": Command("prepare", "prepare", ("NAME",), computes=False),
}

USAGE = """usage: jaxgen COMMAND ...

  train CONFIG      train a config, or continue its run          jaxgen train ddpm_digits
  sample RUN        draw samples from a run                      jaxgen sample runs/ddpm_digits --n 64 --out samples.png
  cascade CONFIG    train the stages of a cascade, one after the other, and draw samples through all of them
  cascade RUN       draw samples from a cascade that is trained
  evaluate RUN      compute a run's evaluation                   jaxgen evaluate runs/ddpm_digits --sampling-steps 100
                    or metrics of its samples, as papers do      jaxgen evaluate runs/ddpm --metrics fid,prdc
  evaluate PICTURES  the same for a folder or an .npz            jaxgen evaluate a.npz --metrics kid --against npz:b.npz
  statistics DATA   compute mean and covariance of a data set's features, for FID here and in other programs
  averages RUN      evaluate parameter averages of several lengths, computed after training, and draw the curve
  probe RUN         evaluate a run's features, compared with random weights and pixels
  report RUN        write a run's report.html
  compare RUN ...   show how runs differ, with their numbers and curves side by side
  sweep CONFIG      train every combination of arguments         jaxgen sweep ddpm_digits --over ema=0.99,0.999
  inspect RUN|CONFIG  show parameters, bytes and FLOPs; for a run also its step and the SHA-256 of its state
  benchmark RUN|CONFIG  measure the speed of training and sampling: throughput, latency, memory, share of the peak
  import FILE CONFIG  make a run from published weights          jaxgen import vit.safetensors vit_imagenet
  export RUN FILE   write weights in another library's layout    jaxgen export runs/vit vit.safetensors --layout timm
  reproduce CONFIG  train, evaluate, and add a line with the paper's number and ours to the ledger
  ledger            show the ledger: papers' numbers and ours
  list [WORD ...]   list the configs by family, or those that contain these words; with a config's name, describe it
  prepare NAME      prepare a data set with tensorflow-datasets  jaxgen prepare mnist --data-dir DIR

CONFIG is a Python file, or a name that `jaxgen list` shows: configs in ./configs, and those that come with jaxgen.
RUN is a run's folder, or its address on an object store. DATA is folder:DIR, npz:FILE, tar:DIR, hf:DIR, tfds:NAME or
digits. All come before the flags.
`jaxgen COMMAND --help` and `jaxgen train CONFIG --help` show the flags.

exit status: 0 done, 1 an error, 2 a wrong flag, 130 or 143 stopped by SIGINT or SIGTERM with the state saved
"""


def console() -> None:
  """The entry point of the command `jaxgen`. It starts the process anew if huge pages help, and calls `main`."""
  if _will_compute(sys.argv[1:]):
    environment.use_huge_pages()
  main()


def _will_compute(words: list[str]) -> bool:
  """Whether a command will start jax, as far as its words tell; False for --help and wrong commands."""
  command = COMMANDS.get(words[0]) if words else None
  if command is None or not command.computes or not {"-h", "--help"}.isdisjoint(words):
    return False
  subjects = words[1 : 1 + len(command.subjects)]
  return len(subjects) == len(command.subjects) and not any(word.startswith("-") for word in subjects)


def main(words: list[str] | None = None) -> None:
  """Runs a command in this process, by default that of `sys.argv`; always exits."""
  words = list(sys.argv[1:] if words is None else words)
  if not words or words[0] in ("-h", "--help", "help"):
    print(USAGE, end="")
    sys.exit(0 if words else 2)
  if words[0] in ("--version", "-V"):
    from importlib.metadata import version

    print(f"jaxgen {version('jaxgen')}")
    sys.exit(0)
  command, *words = words
  if command not in COMMANDS:
    near = difflib.get_close_matches(command, COMMANDS, 1)
    hint = f"perhaps you meant {near[0]!r}" if near else f"the commands are {', '.join(COMMANDS)}"
    sys.exit(_fail(f"there is no command {command!r}: {hint}", 2))
  try:
    _run(command, words)
  except UserError as error:
    _end(str(error), 1)
  except Stopped as stop:
    _end(str(stop), stop.code)
  except KeyboardInterrupt:
    _end("stopped; what was saved before is kept", 130)
  except BrokenPipeError:  # `jaxgen list | head`
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
  except Exception as error:
    cluster = sys.modules.get("jaxgen.engine.cluster")
    sentence = in_words(error)
    if cluster is None or cluster.is_alone():
      if sentence is None:
        raise
      sys.exit(_fail(sentence, 1))
    if lost := cluster.ended_elsewhere():  # the error of the devices is only a consequence, so no traceback
      _end(lost, 1)
    if sentence is not None:
      _end(sentence, 1)
    traceback.print_exc()
    cluster.leave(1, f"has met an error ({type(error).__name__}: {error})")
  sys.exit(0)


def _end(sentence: str, code: int) -> NoReturn:
  """Prints a sentence and exits; in a job of several processes, ends all of them."""
  _fail(sentence, code)
  if cluster := sys.modules.get("jaxgen.engine.cluster"):
    cluster.leave(code, f"has ended: {sentence}")
  sys.exit(code)


def _run(name: str, words: list[str]) -> None:
  command = COMMANDS[name]
  count = len(command.subjects)
  usage = f"jaxgen {name} {' '.join(command.subjects)}"
  if count and (not words or words[0] in ("-h", "--help")):
    print(f"usage: {usage} [flags]\n\n`{usage} --help` shows the flags.")
    sys.exit(0 if words else 2)
  for subject, word in itertools.zip_longest(command.subjects, words[:count]):
    if word is None:
      raise UserError(f"{subject} is missing: {usage} [flags]")
    if word.startswith("-"):
      raise UserError(f"{subject} comes before the flags: {usage} {' '.join(words)}")
  if command.computes:
    environment.set_up_jax()
  module = importlib.import_module(f"jaxgen.cli.{command.module}")
  getattr(module, command.function)(*words[:count], words[count:])


def _fail(sentence: str, code: int) -> int:
  prefix = "error: " if code in (1, 2) else ""
  print(f"jaxgen: {prefix}{sentence}", file=sys.stderr, flush=True)
  return code
