"""jaxgen averages RUN: evaluate a run with parameter averages of several lengths, and draw the curve."""

import json

import jax

from jaxgen.cli.options import CHECKPOINT, load_run, option, workers_option
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.core.profiles import gamma_of
from jaxgen.engine.averages import reconstructed
from jaxgen.engine.rehearsal import rehearse
from jaxgen.show import figures

WIDTHS = "0.02,0.04,0.06,0.08,0.10,0.12,0.15,0.20,0.25"
OPTIONS = {
  **CHECKPOINT,
  **workers_option(),
  "widths": option(str, "relative widths of the averages, separated by commas", WIDTHS),
  "metric": option(str | None, "the number of the evaluation to draw (by default the first)", None),
}


def averages(subject: str, words: list[str]) -> None:
  run, options = load_run(
    "averages", subject, words, OPTIONS, "Evaluate a run with parameter averages of several lengths."
  )
  try:
    widths = sorted({float(word) for word in options["widths"].split(",")})
  except ValueError:
    raise UserError(f"--widths {options['widths']}: give numbers separated by commas, such as 0.05,0.10") from None
  if not run.experiment.evaluators:
    raise UserError(f"config {run.config.name} has no evaluators")
  for width in widths:
    gamma_of(width)
  names = rehearse(run)
  if options["metric"] is not None and names is not None and options["metric"] not in names:
    raise UserError(f"--metric {options['metric']}: the evaluation has {', '.join(names)}")
  own, rows = run.state, []
  for width in widths:
    run.state = reconstructed(run, width)
    rows.append({"ema": width, **run.evaluate()})
    run.state = own
    metric = options["metric"] or next(name for name in rows[0] if name != "ema")
    if metric not in rows[0]:
      raise UserError(f"--metric {metric}: the evaluation has {', '.join(name for name in rows[0] if name != 'ema')}")
    if jax.process_index() == 0:
      print(f"--ema {width:<6g} {metric} {rows[-1][metric]:.6g}", flush=True)
  if jax.process_index() != 0:
    return

  def draw(figure) -> None:
    axes = figure.add_subplot()
    axes.plot(widths, [row[metric] for row in rows], marker="o")
    axes.set_xlabel("relative width of the average, sigma_rel")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)

  document = {"step": run.step, "arguments": run.config.to_json(run.arguments), "averages": rows}
  files.write(run.folder / "averages.json", json.dumps(document, indent=2) + "\n")
  files.write(run.folder / "averages.png", figures.png_of(draw))
  for name in ("averages.json", "averages.png"):
    print(run.folder / name)
