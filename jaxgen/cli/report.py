"""jaxgen report RUN: write a run's report.html."""

import jax

from jaxgen.cli.options import load_run
from jaxgen.show.report import write


def report(subject: str, words: list[str]) -> None:
  run, _ = load_run("report", subject, words, {}, "Write a run's report.html.")
  if jax.process_index() == 0:
    print(write(run))
