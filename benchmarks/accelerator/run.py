"""Benchmarks jaxgen on one GPU, in one go, and writes down everything it finds, also what failed.

    python benchmarks/accelerator/run.py --out DIR [--data DIR] [--brief] [--steps b,f,...] [--torch eager] [--profile]
      [--dry-run]

Without --brief it takes 570 s, with it 330 s. The steps, in the order in which they are asked for (b, f, e, d, c unless
--steps says another), each on a time limit of its own; what fails or is late costs only itself, and its error is in the
results:

b  The CIFAR-10 U-Net of DDPM, 35.7 M parameters: training and sampling in bfloat16, batch 128, against diffusers'
   UNet2DModel, eager and under torch.compile. --steps b alone goes on with float32 (TF32 on both sides) and batch 512.
f  DDPM on CIFAR-10 in bfloat16 for 100 s of training: its loss, and 64 samples.
e  DiT-XL/2 and DiT-B/2 on latents of 32x32x4, bfloat16, training and forward, against diffusers' DiTTransformer2DModel,
   eager and under torch.compile.
d  ResNet-50 and ViT-B/16 at 224x224 in bfloat16 against timm's, eager and under torch.compile.
c  Attention: cuDNN's, XLA's and written out, forward and with gradients, at shapes of known networks.
a  Determinism, only if named: two processes make the same updates of a DDPM in float32, and compare the SHA-256 of
   their states, with several XLA flags, and with one compilation cache for both; what the flags cost; and how far the
   GPU is from that machine's CPU in float64.
x  Only if named: a process that dies and one that is late, to try out what happens then.

This process stays off the GPU; its workers take turns there. torch.compile works in the background from the start, on
one task at a time (of two of diffusers' U-Net none was ready in 128 s), and is stopped (SIGSTOP) while anything is
timed, but for the training of step f. Eager PyTorch is timed at once; what is compiled later is timed then, in turns
with both of the others. --dry-run does all of it at tiny sizes on a CPU, where its times mean
nothing. DIR/accelerator.json is written anew after every result.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import compare  # noqa: E402
from processes import Failed, Late, Pool, Process, end_all  # noqa: E402

ALL = "bfedc"
# Seconds: of the whole run, of each step at most, what earlier steps leave to later ones, and of step f's training.
FULL = {
  "whole": 570, "limits": {"a": 110, "b": 215, "c": 330, "d": 170, "e": 150, "f": 190, "x": 15},
  "reserved": {"f": 230, "e": 125, "d": 80, "c": 45}, "training": 60,
}  # fmt: skip
BRIEF = {
  "whole": 330, "limits": {"a": 75, "b": 140, "c": 45, "d": 80, "e": 80, "f": 110, "x": 15},
  "reserved": {"f": 150, "e": 100, "d": 50}, "training": 30,
}  # fmt: skip
COMPILE = 200  # seconds that torch.compile gets for a task, pauses not counted
TUNE = 45  # seconds for a first timed call, in which cuDNN's algorithms are chosen: up to 30 s on an H100
CASE = 45  # seconds for a case of attention, compilation of all its forms included: up to 40 s on an H100
DATA_SHEET = 989e12  # FLOP/s of an H100 SXM and of an H200, dense bfloat16, by NVIDIA's data sheet
PACKAGES = (
  "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "orbax-checkpoint", "chex", "diffrax",
  "jaxtyping", "numpy", "torch", "torchvision", "triton", "diffusers", "timm", "transformers", "huggingface-hub",
  "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cublas",
)  # fmt: skip
FLAGS = {
  "default": "",
  "exclude_nondeterministic_ops": "--xla_gpu_exclude_nondeterministic_ops=true",
  "deterministic_ops": "--xla_gpu_deterministic_ops=true",
}
QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")  # to compile, not to run


@dataclasses.dataclass(frozen=True)
class UNetJob:
  """A task of step b."""

  task: str
  dtype: str
  batch: int
  dropout: float = 0.0

  @property
  def key(self) -> str:
    return f"unet {self.task} {self.dtype} {self.batch}" + (f" dropout {self.dropout}" if self.dropout else "")


@dataclasses.dataclass(frozen=True)
class BackboneJob:
  """A task of step d."""

  network: str
  task: str
  batch: int
  side: int
  classes: int = 1000
  dtype: str = "bfloat16"

  @property
  def key(self) -> str:
    return f"{self.network} {self.task} {self.dtype} {self.batch}"


@dataclasses.dataclass(frozen=True)
class DiTJob:
  """A task of step e.

  Attributes:
    shape: patch, width, depth and heads of the network.
  """

  network: str
  shape: tuple[tuple[str, int], ...]
  task: str
  batch: int
  side: int
  classes: int = 1000
  dtype: str = "bfloat16"

  @property
  def key(self) -> str:
    return f"{self.network} {self.task} {self.dtype} {self.batch}"


@dataclasses.dataclass
class Race:
  """A task, what was found of it so far, and the processes that are ready for their turns."""

  key: str
  step: str
  message: dict
  entry: dict
  processes: dict[str, Process]
  facts: dict = dataclasses.field(default_factory=dict)  # jaxgen's


class Sizes:
  """What is measured: on a GPU, or tiny, to try everything out on a CPU."""

  def __init__(self, dry: bool, brief: bool):
    tiny = compare.Shape(8, (1,), 1, (), (8, 8, 1), 4, 2, 2)
    self.unet = tiny if dry else compare.SHAPES["cifar10"]
    self.small = tiny if dry else dataclasses.replace(compare.SHAPES["digits-wide"], batch=64)
    self.middle = tiny if dry else self.small if brief else compare.SHAPES["middle"]
    small, large = (4, 8) if dry else (128, 512)
    self.unet_jobs = [UNetJob("training", "bfloat16", small), UNetJob("sampling", "bfloat16", small)]
    self.more_unet_jobs = [
      UNetJob("training", "float32", small),
      UNetJob("sampling", "float32", small),
      UNetJob("training", "bfloat16", large),
      UNetJob("sampling", "bfloat16", large),
    ]
    self.updates = {small: 2 if dry else 8, large: 2 if dry else 3}
    self.sampling_steps = 2 if dry else 10
    batch, side = (2, 32) if dry else (128, 224)
    networks = [("resnet18", 32), ("vit_tiny_patch16_224", 224)] if dry else []
    networks = networks or [("resnet50", side), ("vit_base_patch16_224", side)]
    self.backbone_jobs = [BackboneJob(n, t, batch, s) for n, s in networks for t in ("training", "forward")]
    if brief:
      self.backbone_jobs = self.backbone_jobs[:1]
    self.backbone_updates = 1 if dry else 4
    sizes = {"tiny": (2, 16, 2, 2)} if dry else {"DiT-XL/2": (2, 1152, 28, 16), "DiT-B/2": (2, 768, 12, 12)}
    parts, (examples, latents) = ("patch", "width", "depth", "heads"), (2, 8) if dry else (64, 32)
    self.dit_jobs = [
      DiTJob(name, tuple(zip(parts, shape, strict=True)), task, examples, latents)
      for name, shape in sizes.items()
      for task in ("training", "forward")
    ]
    if brief:
      self.dit_jobs = self.dit_jobs[:1]
    self.peak = {"n": 256 if dry else 8192, "repeats": 2 if dry else 10}
    self.rounds = 3 if dry else 7
    self.determinism = {"batch": 4, "updates": 3} if dry else {"batch": 64, "updates": 20}
    self.float64_updates = 2 if dry else 10
    self.attention = (
      [("tiny", (2, 16, 2, 8))]
      if dry
      else [
        ("ViT-B/16", (64, 197, 12, 64)),
        ("U-Net, 16x16, one head", (128, 256, 1, 256)),
        ("U-Net, 32x32, 8 heads", (128, 1024, 8, 64)),
        ("DiT-XL/2", (64, 256, 16, 72)),
      ]
    )
    self.turn = 0.002 if dry else 0.03  # seconds of a turn of step c
    self.train = {
      **dataclasses.asdict(self.unet), "dtype": "bfloat16", "dropout": 0.1, "batch": 8 if dry else 128, "updates": 10,
      "learning_rate": 2e-4, "warm_up": 500, "ema": 0.999, "sampling_steps": 5 if dry else 50,
      "most": 60 if dry else 100_000, "tiny": dry,
    }  # fmt: skip
    self.samples = 4 if dry else 64


class Bench:
  """The run: its clock, its results and what its steps share."""

  def __init__(self, options: argparse.Namespace):
    self.options, self.dry, self.sizes = options, options.dry_run, Sizes(options.dry_run, options.brief)
    self.times = BRIEF if options.brief else FULL
    self.limit = options.limit or self.times["whole"]
    self.steps = [s for s in options.steps.replace(",", "") if s in self.times["limits"]]
    if self.steps == ["b"] and not options.brief:
      self.sizes.unet_jobs += self.sizes.more_unet_jobs
    self.training: Process | None = None  # step f's, which gets ready while others are measured
    self.pending: list[Race] = []  # to be run again when torch.compile is ready
    self.start = time.perf_counter()
    self.end = self.deadline = self.start + self.limit
    self.out = options.out.resolve()
    self.out.mkdir(parents=True, exist_ok=True)
    self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="accelerator_"))
    self.results: dict = {}
    self.peaks: dict[str, float] = {}
    self.pool: Pool | None = None
    self._lock, self._closing = threading.Lock(), False
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    self.environment = {
      "PYTHONPATH": os.pathsep.join(p for p in paths if p),
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
      "XLA_FLAGS": " ".join([*os.environ.get("XLA_FLAGS", "").split(), *(QUICK if self.dry else ())]),
      "JAX_COMPILATION_CACHE_DIR": None,
      "JAX_ENABLE_X64": None,
      "TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"),
      "TORCHINDUCTOR_COMPILE_THREADS": "8",
      "OMP_NUM_THREADS": "2" if self.dry else "4",
      "HF_HUB_OFFLINE": "1",
      "PYTHONUNBUFFERED": "1",
      **({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if self.dry else {}),
    }

  def say(self, text: str) -> None:
    print(f"[{time.perf_counter() - self.start:4.0f}] {text}", flush=True)

  def save(self) -> None:
    with self._lock:
      self.results["seconds"] = time.perf_counter() - self.start
      part = self.out / "accelerator.json.part"
      part.write_text(json.dumps(self.results, indent=1, default=str) + "\n")
      part.replace(self.out / "accelerator.json")

  def left(self, spare: float = 0.0) -> float:
    """Seconds that are left to the step."""
    return self.deadline - time.perf_counter() - spare

  def process(self, name: str, job: dict, environment: dict[str, str | None] | None = None) -> Process:
    script = "torch_side.py" if job.get("side") is None else "jax_side.py"
    return Process(name, script, job, {**self.environment, **(environment or {})}, self.scratch)

  @contextlib.contextmanager
  def quiet(self) -> Iterator[None]:
    """Nothing gets ready in the background."""
    self._quiet(True)
    try:
      yield
    finally:
      self._quiet(False)

  def _quiet(self, quiet: bool) -> None:
    self.pool.quiet(quiet)
    if self.training and (self.training.ready is None or not quiet):
      self.training.pause(quiet)

  def facts(self) -> None:
    versions = {}
    for package in PACKAGES:
      with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions[package] = importlib.metadata.version(package)
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
    try:
      gpu = subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
      gpu = f"{type(error).__name__}"
    self.results |= {
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": sys.argv,
      "dry_run": self.dry, "gpu": gpu.strip().splitlines(), "cores": len(os.sched_getaffinity(0)),
      "python": platform.python_version(), "platform": platform.platform(), "versions": versions,
      "environment": {k: v for k, v in self.environment.items() if "PATH" not in k and "DIR" not in k},
      "data_sheet_flops_per_second": DATA_SHEET, "steps": {},
    }  # fmt: skip
    self.say(f"{gpu.strip().splitlines()[-1:] or 'no GPU'}; jax {versions.get('jax')}, torch {versions.get('torch')}")

  def fill_pool(self) -> None:
    """Starts torch.compile of the steps b, e and d, in the order of their jobs."""
    self.pool = Pool(1, 90 if self.dry else COMPILE)
    self.left_out = {}
    for step, package in (("b", "diffusers"), ("e", "diffusers"), ("d", "timm")):
      missing = [p for p in ("torch", package) if importlib.util.find_spec(p) is None]
      if missing:
        self.left_out[step] = f"left out: {' and '.join(missing)} is not installed"
    jobs = [("b", job.key, self.unet_message(job)) for job in self.sizes.unet_jobs]
    jobs += [("e", job.key, self.dit_message(job)) for job in self.sizes.dit_jobs]
    jobs += [("d", job.key, self.backbone_message(job)) for job in self.sizes.backbone_jobs]
    for step, key, message in jobs:
      if self.options.torch == "both" and step in self.steps and step not in self.left_out:
        self.pool.add(key, lambda key=key, message=message: self.torch(key, message, compiled=True))

  def torch(self, key: str, message: dict, compiled: bool) -> Process:
    """PyTorch's side of a task."""
    options = {"dynamic": False, **({"backend": "aot_eager"} if self.dry else {})}
    job = {**message, "compiled": compiled, "compile": options, "tf32": True, "peak": False}
    return self.process(f"torch {'compiled' if compiled else 'eager'} {key}", job)

  def unet_message(self, job: UNetJob) -> dict:
    return {
      "kind": "unet", "name": f"unet {job.dropout}",
      **dataclasses.asdict(self.sizes.unet), "task": job.task, "dtype": job.dtype, "batch": job.batch,
      "dropout": job.dropout, "updates": self.sizes.updates[job.batch], "sampling_steps": self.sizes.sampling_steps,
    }  # fmt: skip

  def backbone_message(self, job: BackboneJob) -> dict:
    return {
      "kind": "backbone", "name": job.network,
      "network": job.network, "task": job.task, "dtype": job.dtype, "batch": job.batch, "classes": job.classes,
      "image": (job.side, job.side, 3), "updates": self.sizes.backbone_updates, "passes": self.sizes.backbone_updates,
    }  # fmt: skip

  def dit_message(self, job: DiTJob) -> dict:
    return {
      "kind": "dit", "name": job.network,
      "network": dict(job.shape), "task": job.task, "dtype": job.dtype, "batch": job.batch, "classes": job.classes,
      "image": (job.side, job.side, 4), "updates": self.sizes.backbone_updates, "passes": self.sizes.backbone_updates,
    }  # fmt: skip

  def run(self) -> None:
    signal.signal(signal.SIGTERM, lambda *_: self.close("it was told to end"))
    watch = threading.Timer(self.limit, self.close, ["it was over its limit"])
    watch.daemon = True
    watch.start()
    self.facts()
    self.fill_pool()
    self.save()
    for number, step in enumerate(self.steps):
      reserved = sum(self.times["reserved"].get(s, 0) for s in self.steps[number + 1 :])
      begin = time.perf_counter()
      limit = self.times["limits"][step]
      self.deadline = min(begin + limit, max(self.end - 8 - reserved, begin + 20), self.end - 4)
      result = self.results["steps"].setdefault(step, {})
      self.say(f"step {step}, {self.left():.0f} s")
      before = set(Process.alive)
      try:
        if self.left() < 10:
          raise Late("no time was left for this step")
        getattr(self, f"step_{step}")(result)
      except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
        if not isinstance(error, Failed):
          result["traceback"] = traceback.format_exc()[-2000:]
        self.say(f"step {step} ended early: {str(error).splitlines()[0][:160] if str(error) else type(error).__name__}")
      finally:
        kept = {process for race in self.pending for process in race.processes.values()}
        for process in set(Process.alive) - before - set(self.pool.processes.values()) - kept - {self.training}:
          process.end()
        result["seconds"] = time.perf_counter() - begin
        self.save()
      if step == "f" and self.training:
        self.training.end()
      self.deadline = self.end - 4
      self.settle(wait=number == len(self.steps) - 1)
    watch.cancel()
    self.close(None)

  def close(self, reason: str | None) -> None:
    """Ends all processes and writes the last results; with a reason, at once."""
    if self._closing:
      return
    self._closing = True
    if reason:
      self.results["cut"] = reason
      self.say(reason)
    self.save()
    if self.pool:
      self.pool.close()
    end_all()
    self.save()
    shutil.rmtree(self.scratch, ignore_errors=True)
    self.say(f"done: {self.out / 'accelerator.json'}")
    if reason:
      os._exit(1)

  # Step a

  def step_a(self, result: dict) -> None:
    job = {"side": "determinism", **dataclasses.asdict(self.sizes.middle), **self.sizes.determinism}
    shared = {"JAX_COMPILATION_CACHE_DIR": str(self.scratch / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own = self.environment["XLA_FLAGS"]
    wanted = dict(list(FLAGS.items())[: 2 if self.dry or self.options.brief else None])
    flags = {name: {"XLA_FLAGS": f"{own} {flag}".strip()} for name, flag in wanted.items()}
    running = {name: [self.process(f"{name} {i}", job, env) for i in (1, 2)] for name, env in flags.items()}
    cached = [] if self.options.brief else [self.process("cached 1", job, shared)]
    small = {"side": "float64", **dataclasses.asdict(self.sizes.small), "updates": self.sizes.float64_updates}
    double = {}
    for name, platforms in (("device", {}), ("cpu", {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""})):
      file = str(self.scratch / f"{name}.npz")
      double[name] = self.process(f"float64 {name}", {**small, "file": file}, {"JAX_ENABLE_X64": "1", **platforms})

    result |= {"updates": job["updates"], "batch": job["batch"], "bits": {}}
    with contextlib.suppress(Failed, IndexError):  # the second one loads what the first compiled
      cached[0].wait_ready(self.left(30))
      cached.append(self.process("cached 2", job, shared))
    for name, pair in {**running, **({"default, one compilation cache": cached} if cached else {})}.items():
      result["bits"][name] = entry = {"flags": FLAGS.get(name, "")}
      try:
        if len(pair) < 2:
          pair[0].wait_ready(0)
        ready = [process.wait_ready(self.left(10)) for process in pair]
        entry |= {
          "equal": ready[0]["sha256"] == ready[1]["sha256"],
          "initial_equal": ready[0]["initial_sha256"] == ready[1]["initial_sha256"],
          "sha256": [r["sha256"] for r in ready], "last_loss": [r["last_loss"] for r in ready],
          "compile_seconds": [r["compile_seconds"] for r in ready], "device": ready[0]["device"],
        }  # fmt: skip
        self.say(f"a {name}: bits {'equal' if entry['equal'] else 'DIFFER'}")
      except Failed as error:
        known = "Unknown flag" not in str(error)
        entry["error"] = str(error) if known else "this jaxlib does not know the flag"
        self.say(f"a {name}: {entry['error'].splitlines()[0][:140]}")
      for process in pair[1:] if "error" not in entry else pair:
        process.end()
      self.save()
    if cached:
      cached[0].end()
    result["float64"] = self._step_a_float64(double)
    self.save()

    # What the flags cost: the first process of each takes turns.
    racing = {name: pair[0] for name, pair in running.items() if "error" not in result["bits"][name]}
    turns = {name: [] for name in racing}
    with self.quiet():
      for number in range(1 + self.sizes.rounds):
        for name in list(racing)[:: -1 if number % 2 else 1]:
          seconds = racing[name].ask(self.left(), do="turn")["seconds"]
          if number:
            turns[name].append(1e3 * seconds / job["updates"])
    for name, values in turns.items():
      result["bits"][name] |= {"ms_per_update": statistics.median(values), "turns": values}
    self.say("a ms per update: " + ", ".join(f"{n} {statistics.median(v):.2f}" for n, v in turns.items()))
    for process in racing.values():
      process.end()

  def _step_a_float64(self, double: dict[str, Process]) -> dict:
    import numpy as np

    entry = {"goal": 1e-9}
    try:
      facts = {name: process.wait_ready(self.left(5)) for name, process in double.items()}
      device, cpu = (np.load(self.scratch / f"{name}.npz") for name in ("device", "cpu"))
      apart = {name: float(np.abs(device[name] - cpu[name]).max()) for name in device.files}
      losses = apart.pop("losses")
      worst = max(apart, key=apart.get)
      entry |= {
        "parameters": apart[worst], "worst": worst, "losses": losses, "arrays": len(apart),
        "dtypes": facts["device"]["dtypes"], "devices": {name: f["device"] for name, f in facts.items()},
        "updates": self.sizes.float64_updates,
      }  # fmt: skip
      self.say(f"a float64: parameters {apart[worst]:.1e} apart ({worst}), losses {losses:.1e}")
    except (Failed, OSError, KeyError, ValueError) as error:
      entry["error"] = f"{type(error).__name__}: {error}"
      self.say(f"a float64: {str(error).splitlines()[0][:140]}")
    for process in double.values():
      process.end()
    return entry

  # Steps b and d

  def race(self, result: dict, key: str, message: dict, ours: Process, step: str) -> None:
    """One task: jaxgen and eager PyTorch in turns. torch.compile's turns come when it is ready, by `settle`."""
    updates, sampling = message["updates"], message["task"] == "sampling"
    result[key] = entry = {k: message[k] for k in ("task", "dtype", "batch", "image")} | {"competitors": {}}
    entry["updates_per_turn"] = 1 if sampling else updates
    entry["network_calls"] = message["sampling_steps"] if sampling else 1
    race = Race(key, step, message, entry, {"jaxgen": ours})
    if step in self.left_out:
      entry["competitors"]["torch"] = {"error": self.left_out[step]}
    else:
      race.processes["torch eager"] = self.torch(key, message, compiled=False)
    race.facts = ours.ask(self.left(3), do="prepare", id=key, **message)
    race.entry["flops"] = race.facts.pop("flops")
    with self.quiet():
      ours.ask(min(self.left(4), TUNE), do="tune", id=key)
    if "torch eager" in race.processes:
      self.join(race, "torch eager")
    self.take_turns(race)
    if self.options.profile:
      with self.quiet(), contextlib.suppress(Late):
        calls = entry["updates_per_turn"] * entry["network_calls"]
        entry["kernels"] = ours.ask(min(self.left(4), 30), do="profile", id=key, calls=calls)["kernels"]
    if step not in self.left_out and self.options.torch == "both":
      entry["competitors"]["torch compiled"] = {"error": "was not compiled in the time that there was"}
      self.pending.append(race)
    else:
      self.end_race(race)
    self.save()

  def join(self, race: "Race", name: str) -> bool:
    """A competitor gets ready for its turns; one that fails is out."""
    process = race.processes[name]
    try:
      process.wait_ready(min(self.left(8), TUNE))
      with self.quiet():
        process.ask(min(self.left(8), TUNE), do="tune")
      return True
    except Failed as error:
      self.out_of(race, name, error)
      return False

  def out_of(self, race: "Race", name: str, error: Failed) -> None:
    race.entry["competitors"][name] = {"error": str(error)}
    race.processes.pop(name).end()
    self.say(f"{race.step} {race.key}: {str(error).splitlines()[0][:140]}")

  def end_race(self, race: "Race") -> None:
    for name, process in race.processes.items():
      if name != "jaxgen":
        process.end()
    with contextlib.suppress(Failed):
      race.processes["jaxgen"].ask(5, do="drop", id=race.key)
    self.pool.drop([race.key])

  def settle(self, wait: bool) -> None:
    """Runs the races again that torch.compile is ready for now; with `wait`, till the deadline."""
    for race in list(self.pending):
      while wait and not self.pool.is_ready(race.key) and self.left() > 12:
        time.sleep(0.2)
      if not self.pool.is_ready(race.key) or self.left() < 8:
        continue
      self.pending.remove(race)
      try:
        race.processes["torch compiled"] = self.pool.get(race.key, 1)
        if self.join(race, "torch compiled"):
          self.take_turns(race)
      except Failed as error:
        self.say(f"{race.step} {race.key}: {str(error).splitlines()[0][:140]}")
        race.entry["competitors"].setdefault("torch compiled", {})["error"] = str(error)
      self.end_race(race)
      self.save()

  def take_turns(self, race: "Race") -> None:
    """Times all that are in the race, in turns, and writes their rows."""
    turns = {name: [] for name in race.processes}
    memory = {}
    with self.quiet():
      for number in range(self.sizes.rounds):
        if number >= 3 and self.left() < 4:
          break
        for name in list(turns)[:: -1 if number % 2 else 1]:
          if name in race.processes:
            try:
              turns[name].append(race.processes[name].ask(self.left(), do="turn", id=race.key)["seconds"])
            except Failed as error:
              if name == "jaxgen":
                raise
              self.out_of(race, name, error)
      for name, process in race.processes.items():
        memory[name] = process.ask(self.left(), do="memory")["peak_memory"]
    entry, rows, peak = race.entry, race.entry["competitors"], self.peaks.get(race.message["dtype"])
    sheet = DATA_SHEET if race.message["dtype"] == "bfloat16" else None  # which says no TF32
    per_turn, calls, flops = entry["updates_per_turn"], entry["network_calls"], entry["flops"]
    texts = []
    for name, process in race.processes.items():
      median = statistics.median(turns[name]) / per_turn
      facts = race.facts if name == "jaxgen" else {k: v for k, v in process.ready.items() if k != "peak_flops"}
      rows[name] = {
        **facts, "ms": 1e3 * median / calls, "images_per_second": race.message["batch"] / median,
        "flops_per_second": flops / median, "share_of_measured_peak": peak and flops / median / peak,
        "share_of_data_sheet": sheet and flops / median / sheet, "turns": turns[name], "peak_memory": memory[name],
      }  # fmt: skip
      if name != "jaxgen":
        ratios = [theirs / ours for ours, theirs in zip(turns["jaxgen"], turns[name], strict=False)]
        rows[name]["jaxgen_against_it"] = statistics.median(ratios)
      texts.append(f"{name} {rows[name]['ms']:.2f} ms")
    entry["measured_peak"] = peak
    share = rows["jaxgen"]["share_of_measured_peak"]
    texts[0] += f", {rows['jaxgen']['images_per_second']:.0f} images/s" + (f", {share:.0%} of peak" if peak else "")
    self.say(f"{race.step} {race.key}: " + "; ".join(texts))

  def measure_peaks(self, process: Process, dtypes: list[str]) -> None:
    """The rate of large matrix products, which shares are of. float32 is TF32, as the library's default allows."""
    for dtype in dtypes:
      if dtype not in self.peaks:
        with self.quiet():
          found = process.ask(min(self.left(), 30), do="peak", dtype=dtype, **self.sizes.peak)
        self.peaks[dtype] = found["flops_per_second"]
        self.results.setdefault("matmul_peaks", {})[dtype] = found
        self.say(f"matmul {dtype}: {found['flops_per_second'] / 1e12:.1f} TFLOP/s")

  def step_b(self, result: dict) -> None:
    result |= {
      "network": dataclasses.asdict(self.sizes.unet),
      "notes": "jaxgen's peak_memory is the process's so far, planned_memory the executable's own",
    }
    self.races(result, "b", [(job.key, job.dtype, self.unet_message(job)) for job in self.sizes.unet_jobs])
    if "f" in self.steps:
      self.start_training()
    self.settle(wait=True)

  def step_d(self, result: dict) -> None:
    self.races(result, "d", [(job.key, job.network, self.backbone_message(job)) for job in self.sizes.backbone_jobs])

  def step_e(self, result: dict) -> None:
    self.races(result, "e", [(job.key, job.network, self.dit_message(job)) for job in self.sizes.dit_jobs])

  def races(self, result: dict, step: str, jobs: list[tuple[str, str, dict]]) -> None:
    """Runs both sides of each job in turn.

    Args:
      result: where the results are written.
      step: the plan's step.
      jobs: (key, name of the network whose jobs share a process, message) of each.
    """
    result["jobs"], sides = {}, {}
    for key, shared, message in jobs:
      if self.left() < (1 if self.dry else 25):
        result["jobs"][key] = {"error": f"left out: {self.left():.0f} s were left"}
        self.pool.drop([key])
        continue
      try:
        if sides.get(shared) not in Process.alive:
          sides[shared] = self.process(f"jaxgen {shared}", {"side": "networks", "dtype": message["dtype"]})
          sides[shared].wait_ready(self.left())
          self.measure_peaks(sides[shared], [message["dtype"]])
        self.race(result["jobs"], key, message, sides[shared], step)
      except Failed as error:
        result["jobs"].setdefault(key, {})["error"] = str(error)
        self.pool.drop([key])
        self.say(f"{step} {key}: {str(error).splitlines()[0][:140]}")
      self.save()

  # Step c

  def cases(self, result: dict, step: str, side: str, cases: list[tuple[str, dict]]) -> None:
    """Asks a process case by case; one that is late or dies costs its case alone."""
    process, result["cases"] = None, {}
    for name, message in cases:
      if self.left() < 3:
        result["cases"][name] = {"error": "left out: no time was left"}
        continue
      try:
        if process not in Process.alive:
          process = self.process(f"jaxgen {side}", {"side": side})
          process.wait_ready(self.left())
        found = process.ask(min(self.left(1), CASE), do="case", rounds=5, turn=self.sizes.turn, **message)
        result["cases"][name] = {**message, **found}
        parts = [f"{n} {f['ms']:.3f}" if "ms" in f else f"{n} -" for n, f in found["forms"].items()]
        self.say(f"{step} {name}: {', '.join(parts)} ms")
      except Failed as error:
        result["cases"][name] = {**message, "error": str(error)}
        self.say(f"{step} {name}: {str(error).splitlines()[0][:140]}")
        if process is not None and process.process.poll() is not None:
          process.end()
      self.save()

  def step_c(self, result: dict) -> None:
    cases = []
    for gradient in (True, False):
      for name, shape in self.sizes.attention:
        message = {"shape": shape, "dtype": "bfloat16", "gradient": gradient}
        cases.append((f"{name}, {'gradient' if gradient else 'forward'}", message))
    result["notes"] = "milliseconds; shapes [batch, tokens, heads, width]; gradient: forward and backward"
    with self.quiet():
      self.cases(result, "c", "attention", cases)

  # Step f

  def training_job(self) -> dict:
    data = self.options.data and str(self.options.data.resolve())
    return {"side": "train", **self.sizes.train, "data": data}

  def start_training(self) -> Process:
    self.training = self.training or self.process("jaxgen train", self.training_job())
    return self.training

  def step_f(self, result: dict) -> None:
    if not self.dry and self.left() < (60 if self.training else 120):
      raise Late(f"{self.left():.0f} s were left, too few to compile and to learn: run it alone, --steps f")
    job = self.training_job()
    result |= {k: v for k, v in job.items() if k not in ("side", "data", "updates")}
    result["updates_per_dispatch"] = job["updates"]
    process = self.start_training()
    after = 2.0 if self.dry else 35.0 if self.options.brief else 45.0  # for the samples
    result |= process.wait_ready(self.left(after))
    if not result["real"]:
      result["data"] = "no CIFAR-10 sheets were found: random images, for the speed alone, and no samples"
      self.say(f"f {result['data']}")
    self.save()
    end = time.perf_counter() + min(
      5 if self.dry else self.times["training"], self.left(after if result["real"] else 8)
    )
    if not result["real"]:
      end = min(end, time.perf_counter() + 20)
    updates = -1
    while (rest := end - time.perf_counter()) > 1 and result.get("updates") != updates:
      updates = result.get("updates")
      result |= process.ask(self.left(), do="train", seconds=min(rest, 10))
      done, seconds = result["turns"][-1]
      result["ms_per_update"] = statistics.median(1e3 * s / n for n, s in result["turns"] if n)
      result["images_per_second"] = job["batch"] * 1e3 / result["ms_per_update"]
      self.say(
        f"f {result['updates']} updates, {1e3 * seconds / max(done, 1):.1f} ms each, loss {result['curve'][-1][1]:.4f}"
      )
      self.save()
    if result["real"] or self.dry:
      file = str(self.out / "samples.png")
      result["samples"] = process.ask(self.left(3), do="sample", count=self.sizes.samples, file=file)
      self.say(f"f samples: {result['samples']['seconds']:.2f} s, std {result['samples']['std']:.2f}")
      self.save()
    process.ask(self.left(), do="figure", file=str(self.out / "loss.png"))
    process.end()  # it holds gigabytes that those who come need

  # Step x

  def step_x(self, result: dict) -> None:
    for how in ("dies", "hangs"):
      process = self.process(how, {"side": "broken", "how": how})
      try:
        process.wait_ready(3)
      except Failed as error:
        result[how] = {"error": str(error), "late": isinstance(error, Late)}
        self.say(f"x {how}: {str(error).splitlines()[0]}")
    raise RuntimeError("and a step that fails by itself")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for accelerator.json and the pictures")
  parser.add_argument("--wheels", type=pathlib.Path, help="folder of wheels to install first, into a folder of its own")
  parser.add_argument("--data", type=pathlib.Path, help="folder of CIFAR-10 sheets, cifar10_*.webp, for step f")
  parser.add_argument("--limit", type=float, help="seconds of the whole run: 570, or 330 with --brief")
  parser.add_argument("--torch", choices=["both", "eager"], default="both", help="eager: without torch.compile")
  parser.add_argument("--steps", default=ALL, help="such as a,b; b,f,e,d,c by default")
  parser.add_argument("--brief", action="store_true", help="the most telling parts of each step")
  parser.add_argument("--profile", action="store_true", help="in b, e and d: the kernels that take the most time")
  parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
  options = parser.parse_args()
  if options.wheels:
    target = tempfile.mkdtemp(prefix="site_")
    wheels = [str(w) for w in sorted(options.wheels.glob("*.whl"))]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", target]
    subprocess.run([*pip, *wheels], check=True, timeout=60)
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (target, os.environ.get("PYTHONPATH", "")) if p)
    sys.path.insert(0, target)
  Bench(options).run()


if __name__ == "__main__":
  main()
