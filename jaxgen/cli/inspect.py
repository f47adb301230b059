"""jaxgen inspect RUN|CONFIG: parameters, bytes, FLOPs; for a run also its step and the SHA-256 of its state."""

import pathlib

from jaxgen import inspection
from jaxgen.cli.options import CHECKPOINT, cluster_options, join, load_run, option, parse
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run


def inspect(subject: str, words: list[str]) -> None:
  is_run = Folder(subject).exists()
  own = {"compile": option(bool, "compile the training loop too, for the memory it works in (minutes)", False)}
  if is_run:
    run, options = load_run("inspect", subject, words, own | CHECKPOINT, "What a run is made of.")
  else:
    if pathlib.Path(subject).is_dir():
      Folder(subject).info()  # says why it is not a run
    config = load_config(subject)
    options, changed = parse(f"inspect {subject}", words, {**own, **cluster_options()}, config.doc, config)
    join(options)
    run = Run(Folder(""), config, changed, 0, fsdp=options["fsdp"])
  inspection.show(run, is_run, options["compile"])
