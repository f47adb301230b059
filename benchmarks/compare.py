"""What training.py, sampling.py and backbones.py share: shapes, workers that take turns, and the table.

Every competitor is a process of its own, started and compiled before any is timed. Then they take turns, round after
round, one at a time while the others sleep, so that whatever else the machine does falls on all alike. A turn is a
number of updates or one sampling; what counts is the median of a competitor's turns, and the ratio to the best of
PyTorch's.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Shape:
  """A network of jaxgen.nn.unets.unet (and diffusers' UNet2DModel of the same shape), images, and how much to time."""

  channels: int
  multipliers: tuple[int, ...]
  blocks: int
  attention: tuple[int, ...]
  image: tuple[int, int, int]
  batch: int
  updates: int  # per turn
  sampling_steps: int


SHAPES = {
  "digits": Shape(32, (1, 1), 1, (4,), (8, 8, 1), 128, 10, 20),  # ddpm_digits, 0.27 M parameters
  "digits-wide": Shape(32, (1, 2), 1, (4,), (8, 8, 1), 128, 5, 20),  # 0.70 M
  "middle": Shape(64, (1, 2, 2), 2, (16,), (32, 32, 3), 16, 1, 4),  # 6.5 M
  "cifar10": Shape(
    128, (1, 2, 2, 2), 2, (16,), (32, 32, 3), 16, 1, 2
  ),  # the paper's 35.7 M, a batch that a laptop holds
}


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A published network, pictures, and how much to time.

  Attributes:
    network: its name in torchvision or timm, and in backbone_jaxgen.py.
    image: height, width and channels.
    batch: images in a batch.
    updates: training steps in a turn.
    sampling_steps: passes over the batch in a turn of the forward pass.
  """

  network: str
  image: tuple[int, int, int]
  batch: int
  updates: int
  sampling_steps: int = 1


BACKBONES = {
  "resnet50": Backbone("resnet50", (224, 224, 3), 4, 1),
  "vit-b16": Backbone("vit_base_patch16_224", (224, 224, 3), 4, 1),
}
SCRIPTS = {Shape: ("worker_jaxgen.py", "worker_torch.py"), Backbone: ("backbone_jaxgen.py", "backbone_torch.py")}
COMPETITORS = ("jaxgen", "torch eager", "torch compiled")


class Worker:
  """A competitor's process. Its first line says what it compiled, then it answers a line with a line."""

  def __init__(self, name: str, script: str, job: dict, python: str):
    self.name, self.turns, self.error = name, [], None
    command = [python, str(HERE / script), json.dumps({**job, "compiled": name == "torch compiled"})]
    self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    self.facts = self._answer()

  def _answer(self) -> dict:
    line = self.process.stdout.readline()
    answer = json.loads(line) if line else {"error": f"the process ended with code {self.process.wait()}"}
    self.error = answer.get("error", self.error)
    return answer

  def ask(self, word: str) -> dict:
    if self.error:
      return {}
    self.process.stdin.write(word + "\n")
    self.process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self.facts |= self.ask("end")
    self.process.stdin.close()
    self.process.wait()


def arguments(description: str, shapes: dict, default: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--shapes", nargs="+", choices=shapes, default=default)
  parser.add_argument("--batch", type=int, help="instead of each shape's own")
  parser.add_argument("--updates", type=int, help="updates per turn (training)")
  parser.add_argument("--sampling-steps", type=int, help="DDIM steps (sampling)")
  parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--competitors", nargs="+", choices=COMPETITORS, default=list(COMPETITORS))
  parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with the `peers` extra installed")
  parser.add_argument("--json", type=pathlib.Path, help="write the results here too")
  return parser.parse_args()


def run(tasks: Sequence[str], options: argparse.Namespace) -> None:
  from jaxgen.core import environment  # (a peer's interpreter need not have jaxgen)

  environment.use_huge_pages()  # as the command line does; the competitors inherit it, PyTorch's too
  environment.say_changes()
  results = []
  for task, name in itertools.product(tasks, options.shapes):
    own = {"batch": options.batch, "updates": options.updates, "sampling_steps": options.sampling_steps}
    shape = dataclasses.replace((SHAPES | BACKBONES)[name], **{k: v for k, v in own.items() if v is not None})
    result = compare(task, name, shape, options)
    results.append(result)
    print(table(result), flush=True)
    if options.json:
      options.json.write_text(json.dumps(results, indent=2) + "\n")


def compare(task: str, name: str, shape: Shape | Backbone, options: argparse.Namespace) -> dict:
  """Times all competitors at one shape."""
  job = {"task": task, "dtype": options.dtype, **dataclasses.asdict(shape)}
  workers = []
  for competitor in options.competitors:
    print(f"{name}: starting {competitor}", file=sys.stderr, flush=True)
    python = sys.executable if competitor == "jaxgen" else options.peer_python
    workers.append(Worker(competitor, SCRIPTS[type(shape)][competitor != "jaxgen"], job, python))
    if workers[-1].error:
      print(f"{competitor} is left out: {workers[-1].error}", file=sys.stderr, flush=True)
  for turn in range(options.rounds):
    # Backwards every other time, so that nobody always follows the same neighbour.
    for worker in workers[:: -1 if turn % 2 else 1]:
      worker.turns.append(worker.ask("go").get("seconds"))
  for worker in workers:
    worker.close()
  done = [worker for worker in workers if not worker.error]
  peak = max((worker.facts["peak_flops"] for worker in done), default=None)
  per_turn = shape.updates if task == "training" else 1
  flops = next((worker.facts["flops"] for worker in done if worker.name == "jaxgen"), None)
  rows = {worker.name: row(worker, per_turn, shape.batch, flops, peak) for worker in workers}
  torch = [r for n, r in rows.items() if n != "jaxgen" and "error" not in r]
  if "jaxgen" in rows and "error" not in rows["jaxgen"] and torch:
    # Turn by turn, against the faster of PyTorch's in that very round.
    rounds = zip(rows["jaxgen"]["turns"], *(r["turns"] for r in torch), strict=True)
    rows["jaxgen"]["speed_against_best_torch"] = statistics.median(min(theirs) / ours for ours, *theirs in rounds)
  return {
    "task": task, "shape": name, **job, "peak_flops": peak, "flops": flops, "cpu": platform.processor(),
    "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "competitors": rows,
  }  # fmt: skip


def row(worker: Worker, per_turn: int, batch: int, flops: float | None, peak: float | None) -> dict:
  if worker.error:
    return {"error": worker.error}
  seconds = [s / per_turn for s in worker.turns]
  median = statistics.median(seconds)
  rate = flops and flops / median
  return {
    **{k: v for k, v in worker.facts.items() if k not in ("flops",)},
    "seconds": median, "fastest": min(seconds), "turns": seconds, "per_second": 1 / median,
    "images_per_second": batch / median, "flops_per_second": rate, "share_of_peak": rate and rate / peak,
  }  # fmt: skip


def table(result: dict) -> str:
  """One shape's results as text."""
  what = {"training": "update", "forward": "pass"}.get(result["task"], f"{result['sampling_steps']}-step sampling")
  title = (
    f"{result['task']}, {result['shape']}: images {result['image']}, batch {result['batch']}, {result['dtype']}; "
    f"{result['cores']} cores, load {result['load']:.1f}"
  )
  if result["peak_flops"]:
    title += f"; matmul peak {result['peak_flops'] / 1e9:.0f} GFLOP/s"
  if result["flops"]:
    title += f"; {result['flops'] / 1e9:.2f} GFLOP per {what}"
  head = [
    "",
    f"ms per {what}",
    "fastest",
    f"{what}s/s",
    "images/s",
    "share of peak",
    "first call s",
    "peak MiB",
    "device",
  ]
  lines = [head]
  for name, r in result["competitors"].items():
    if "error" in r:
      lines.append([name, "left out: " + r["error"]] + [""] * 7)
      continue
    share = "" if r["share_of_peak"] is None else f"{r['share_of_peak']:.0%}"
    lines.append([
      name, f"{r['seconds'] * 1e3:.1f}", f"{r['fastest'] * 1e3:.1f}", f"{r['per_second']:.2f}",
      f"{r['images_per_second']:.1f}", share, f"{r['first_call']:.1f}", f"{r['peak_memory'] / 2**20:.0f}",
      f"{r['devices']} x {r['device']}",
    ])  # fmt: skip
  short = [line for line in lines if not line[1].startswith("left out")]
  widths = [max(len(line[i]) for line in short) for i in range(len(head))]
  text = [title] + ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
  ratio = result["competitors"].get("jaxgen", {}).get("speed_against_best_torch")
  if ratio:
    text.append(f"jaxgen is {ratio:.2f} times as fast as the best of PyTorch (median over rounds)")
  return "\n".join(text) + "\n"


def answer(message: dict, stream) -> None:
  """What a worker says to the process that started it."""
  stream.write(json.dumps(message) + "\n")
  stream.flush()


def serve(prepare) -> None:
  """A worker's main program. prepare(job) -> (facts, turn() -> seconds, end() -> facts)."""
  # Libraries may print; only answers go to the real standard output.
  stream = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  try:
    facts, turn, end = prepare(json.loads(sys.argv[1]))
    answer(facts, stream)
    for line in sys.stdin:
      answer({"seconds": turn()} if line.strip() == "go" else end(), stream)
  except ModuleNotFoundError as error:
    answer({"error": f"{error.name} is not installed here: pip install -e '.[peers]', or --peer-python PATH"}, stream)
  except Exception as error:
    answer(
      {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}, stream
    )
