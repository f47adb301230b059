"""jaxgen benchmark RUN|CONFIG: measures the speed of training and sampling on this machine's devices."""

import json
import pathlib

import jax

from jaxgen.cli.options import check_out, cluster_options, join, option, parse
from jaxgen.core import environment, files
from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import load
from jaxgen.evaluation.evaluators import frechet
from jaxgen.show.benchmark import page
from jaxgen.throughput import document
from jaxgen.throughput.cases import Asked, numbers, plan, words
from jaxgen.throughput.measure import Measure
from jaxgen.throughput.peers import chosen

OPTIONS = {
  "what": option(
    str | None, "train, sample, or both separated by a comma (by default all that the config supports)", None
  ),
  "batch": option(str | None, "examples in a batch over all devices, such as 16,64,256 (the config's)", None),
  "solver": option(str | None, "solvers of sampling, such as ddim,dpmpp_2m (the config's)", None),
  "sampling_steps": option(str | None, "steps of a solver, such as 10,25,50 (the config's)", None),
  "dtype": option(str | None, "dtypes of the network: float32, bfloat16 or both (the config's)", None),
  "devices": option(str | None, "numbers of devices, such as 1,2,4,8 (all)", None),
  "turns": option(int, "number of timings, of which the median is the result", 5),
  "quality": option(
    int, "for a run: also compute the Fréchet distance of N samples, for each solver and number of steps; 0: do not", 0
  ),
  "peers": option(
    str | None,
    "eager,compiled: also time diffusers' U-Net in PyTorch, in turns with ours; or none (both if they are installed)",
    None,
  ),
  "peer_python": option(
    str | None, "the Python interpreter of an environment with torch and diffusers, if this one has none", None
  ),
  "json": option(pathlib.Path | None, "write the results to this .json file, after each result", None),
  "page": option(pathlib.Path | None, "write a page with the results to this .html file, after each result", None),
}


def benchmark(subject: str, given_words: list[str]) -> None:
  is_run = Folder(subject).exists()
  if not is_run and (files.is_remote(subject) or pathlib.Path(subject).is_dir()):
    Folder(subject).info()  # says why it is not a run
  run = load(subject) if is_run else None
  config = run.config if is_run else load_config(subject)
  before = run.arguments if is_run else config.defaults()
  description = "Measure the speed of a config's training and sampling on this machine's devices."
  options, changed = parse(
    f"benchmark {subject}", given_words, {**OPTIONS, **cluster_options()}, description, config, before
  )
  lists = {
    name: numbers(f"--{name.replace('_', '-')}", options[name]) for name in ("batch", "sampling_steps", "devices")
  }
  names = {name: words(f"--{name}", options[name]) for name in ("what", "solver", "dtype", "peers")}
  if options["turns"] < 1 or options["quality"] < 0 or options["quality"] == 1:
    raise UserError("--turns must be 1 or more, and --quality 2 or more samples, or 0 for none")
  for flag, suffix in (("json", ".json"), ("page", ".html")):
    if options[flag] is not None:
      if options[flag].suffix != suffix:
        raise UserError(f"--{flag} {options[flag]}: the file's name must end in {suffix}")
      options[flag] = check_out(options[flag], f"--{flag}")
  join(options)
  arguments = {**before, **changed}
  shared = {name: options[name] for name in ("fsdp", "tensor")}
  asked = Asked(
    names["what"], lists["batch"], names["solver"], lists["sampling_steps"], names["dtype"], lists["devices"], **shared
  )
  if jax.process_count() > 1 and lists["devices"] not in (None, (jax.device_count(),)):
    raise UserError(f"--devices {options['devices']}: a job of several processes is measured on all its devices")
  cases = plan(config, arguments, asked, jax.device_count())
  if jax.process_count() > 1:  # the latency of a single sample would be that of one process's device
    cases = [case for case in cases if case.devices == jax.device_count()]
  place = {**shared, "devices": jax.devices()[: max(case.devices for case in cases)]}
  judge = _judge(run, config, options["quality"], changed, place) if options["quality"] else None
  peers = chosen(names["peers"], options["peer_python"]) if jax.process_count() == 1 else ()
  seed, state = (run.seed, load(subject, **place).state) if is_run else (0, None)
  measured = Measure(config, seed, state, **shared, peers=peers, python=options["peer_python"])
  del state  # a copy stays on the host; the devices' memory is for the measurements
  main = jax.process_index() == 0

  def keep(found: document.Document) -> None:
    if main and options["json"]:
      files.write(options["json"], json.dumps(found, indent=1) + "\n")
    if main and options["page"]:
      files.write(options["page"], page(found))

  say = lambda text: print(text, flush=True) if main else None
  if main:
    environment.say_changes()
  found = document.begin(subject, config, arguments, options["turns"])
  document.measure(found, measured.row, cases, judge, options["quality"], keep, say)
  for flag in ("json", "page"):
    if options[flag]:
      say(str(options[flag]))


def _judge(run, config, samples: int, changed, place):
  """(case) -> the Fréchet distance of its samples to the test split, and its floor.

  Args:
    place: fsdp, tensor and devices, as in `load`.
  """
  if run is None:
    raise UserError(f"--quality {samples} needs a run, but {config.name} is a config: train it first")
  if "image" not in run.data.features or run.data.classes is None:
    raise UserError(
      f"--quality {samples}: the classifier whose features are compared needs labels, and {run.data.name} has none"
    )
  evaluate = frechet(samples)

  def judge(case):
    own = {name: case.arguments[name] for name in ("solver", "sampling_steps", "dtype", "bfloat16")
           if name in config.parameters}  # fmt: skip
    return evaluate(load(run.folder.path, **place, **{**changed, **own}))

  return judge
