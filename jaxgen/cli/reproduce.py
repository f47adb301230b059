"""jaxgen reproduce CONFIG: train, evaluate, and add a line to the ledger beside the paper's number."""

import pathlib

import jax

from jaxgen import ledger
from jaxgen.cli.options import RUNS, check_out, cluster_options, join, option, parse, workers_option
from jaxgen.core import files
from jaxgen.engine.config import load_config


def reproduce(subject: str, words: list[str]) -> None:
  config = load_config(subject)
  options, changed = parse(
    f"reproduce {subject}",
    words,
    {
      "runs": option(pathlib.Path, "folder of runs, or its address on an object store: s3://... or gs://...", RUNS),
      "seeds": option(int, "number of seeds, from 0", 1),
      "ledger": option(pathlib.Path, "file of the ledger", ledger.FILE),
      **workers_option(),
      **cluster_options(),
    },
    config.doc,
    config,
  )
  join(options)
  file = files.place(options["ledger"])
  if files.is_remote(file) or file.parent.is_dir():  # else it is made
    check_out(file, "--ledger")
  chosen = {name: options[name] for name in ("seeds", "runs", "fsdp", "tensor", "workers")}
  lines = ledger.reproduce(config, changed, **chosen)
  if jax.process_index() == 0:
    ledger.append(file, lines)
    for line in lines:
      print(f"{line['metric']}  {line['mean']:.6g}, published {line['published']:g} ({line['paper']})")
    print(file)
