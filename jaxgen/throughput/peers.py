"""Comparison with PyTorch: diffusers' UNet2DModel of the same shape, which takes turns with the program that is
measured.

PyTorch's side is `benchmarks/worker_torch.py` of the repository, which runs in its own process: channels last, fused
Adam, autocast where the dtype is bfloat16, eager or under `torch.compile`. It answers a line with a line. It trains as
DDPM does, or samples by DDIM with as many network calls as ours: what compares is an update, or a network call.
"""

import contextlib
import importlib.util
import json
import pathlib
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxgen.core.errors import UserError
from jaxgen.engine.experiment import Experiment
from jaxgen.nn import UNet
from jaxgen.throughput.cases import Case

KINDS = ("eager", "compiled")
WORKER = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "worker_torch.py"


def chosen(asked: Sequence[str] | None, python: str | None) -> tuple[str, ...]:
  """The programs to compare with: the requested ones, or all if they are installed.

  Raises:
    UserError: one that there is not, or that is asked for and cannot take part.
  """
  if asked is not None:
    if asked == ("none",):
      return ()
    for kind in asked:
      if kind not in KINDS:
        raise UserError(f"--peers {kind} is none of {', '.join(KINDS)}, none")
  installed = python is not None or all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
  if asked and not WORKER.is_file():
    raise UserError("--peers needs jaxgen's repository, and this is an installed package without benchmarks/")
  if asked and not installed:
    raise UserError("--peers needs torch and diffusers: pip install -e '.[peers]', or --peer-python PATH")
  return tuple(asked or KINDS) if installed and WORKER.is_file() else ()


def network_of(e: Experiment) -> nn.Module | None:
  """The first network that an experiment's method initialises; nothing is computed."""
  found: list[nn.Module] = []

  def see(call: Any, words: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
    if context.module.path == ():
      found.append(context.module)
    return call(*words, **options)

  spec = e.data.batch_spec(e.batch_size, train=True)
  with nn.intercept_methods(see):
    fresh = lambda key, batch: e.method.init(key, batch)  # a function that was traced before would not be traced again
    jax.eval_shape(fresh, jax.eval_shape(lambda: jax.random.key(0)), spec)
  return found[0] if found else None


def job(e: Experiment, case: Case, updates: int, calls: int | None) -> dict[str, Any] | str:
  """The job for PyTorch's program, or one sentence that says why there is none."""
  network = network_of(e)
  if network is None:
    return "this method's network has no counterpart in diffusers"
  if type(network) is not UNet:
    return f"diffusers has no counterpart of {type(network).__name__} here: only jaxgen.nn.UNet has one"
  if network.classes is not None or network.heads != 1:
    return "diffusers' counterpart is a U-Net without classes and with one head"
  if case.devices != 1:
    return "PyTorch is measured on one device"
  if case.what == "sample" and calls is None:
    return "the number of network calls of a sample is not known"
  return {
    "task": "training" if case.what == "train" else "sampling",
    "dtype": case.dtype,
    "channels": network.channels,
    "multipliers": list(network.multipliers),
    "blocks": network.blocks,
    "attention": list(network.attention),
    "dropout": network.dropout,
    "image": list(e.data.spec.shape),
    "batch": case.batch,
    "updates": updates,
    "sampling_steps": calls or 1,
    "peak": False,
    "tf32": True,  # as XLA multiplies float32 on a GPU by default
    "tf32_conv": True,
  }


class Peers:
  """PyTorch's programs for the same job, each in its own process, compiled and warmed up.

  Args:
    kinds: "eager", "compiled".
    job: their job, see `worker_torch.py`.
    python: their interpreter.
  """

  def __init__(self, kinds: Sequence[str], job: Mapping[str, Any], python: str):
    self.processes: dict[str, subprocess.Popen] = {}
    self.found: dict[str, dict[str, Any]] = {}
    self.job = job
    for kind in kinds:
      command = [python, str(WORKER), json.dumps({**job, "compiled": kind == "compiled"})]
      name = f"torch {kind}"
      self.processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
      self.found[name] = {"turns": []} | self._answer(name)

  def _answer(self, name: str) -> dict[str, Any]:
    text = self.processes[name].stdout.readline()
    if not text:
      return {"error": f"its process ended with code {self.processes[name].wait()}"}
    try:
      answer = json.loads(text)
    except ValueError:
      answer = None
    return answer if isinstance(answer, dict) else {"error": f"its process printed {text.strip()[:80]!r}"}

  def _ask(self, name: str, word: str) -> dict[str, Any]:
    with contextlib.suppress(OSError):  # it has ended, which `_answer` reports
      self.processes[name].stdin.write(word + "\n")
      self.processes[name].stdin.flush()
    return self._answer(name)

  def turn(self) -> None:
    """Each has its turn."""
    each = self.job["updates"] if self.job["task"] == "training" else self.job["sampling_steps"]
    for name, found in self.found.items():
      if "error" not in found:
        answer = self._ask(name, "go")
        found |= {"error": answer["error"]} if "error" in answer else {}
        found["turns"] += [answer["seconds"] / each] if "seconds" in answer else []

  def close(self) -> dict[str, dict[str, Any]]:
    """Ends them; their results by name: seconds of an update or of a network call, the median of the turns."""
    for name, process in self.processes.items():
      if process.poll() is None and "error" not in self.found[name]:
        self.found[name] |= self._ask(name, "end")
      with contextlib.suppress(OSError):
        process.stdin.close()
      try:
        process.wait(30)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    keep = ("error", "turns", "first_call", "peak_memory", "parameters", "versions", "device")
    results = {name: {k: v for k, v in found.items() if k in keep} for name, found in self.found.items()}
    for found in results.values():
      if found["turns"]:
        found["seconds"] = statistics.median(found["turns"])
    return results


def against(ours: Sequence[float], results: Mapping[str, Mapping[str, Any]]) -> float | None:
  """Our speed relative to the fastest of them: the median over turns of theirs / ours; None without any."""
  theirs = [found["turns"] for found in results.values() if len(found["turns"]) == len(ours)]
  return statistics.median(min(t) / x for x, *t in zip(ours, *theirs, strict=True)) if theirs else None
