"""jaxgen prepare NAME: prepare a data set with tensorflow-datasets."""

import pathlib

from jaxgen.cli.options import option, parse
from jaxgen.data import prepare as preparation


def prepare(name: str, words: list[str]) -> None:
  options, _ = parse(
    f"prepare {name}",
    words,
    {
      "data_dir": option(pathlib.Path | None, "where to prepare it (~/tensorflow_datasets by default)", None),
      "manual_dir": option(pathlib.Path | None, "folder of files that were downloaded by hand", None),
    },
    "Prepare a data set with tensorflow-datasets.",
  )
  splits = preparation.prepare(name, options["data_dir"], options["manual_dir"])
  print(f"{name} is prepared: {', '.join(f'{split} {n:,}' for split, n in splits.items())} examples")
