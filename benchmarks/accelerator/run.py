"""Benchmarks jaxgen on one GPU, in one go, and writes down everything it finds, also what failed.

    python benchmarks/accelerator/run.py --out DIR [--data DIR] [--limit 430] [--steps a,b,...] [--dry-run]

The steps, each on a time limit of its own; what fails or is late costs only itself, and its error is in the results:

a  Determinism: two processes make the same updates of a DDPM in float32, and compare the SHA-256 of their states, with
   several XLA flags, and with one compilation cache for both; what the flags cost; and how far the GPU is from that
   machine's CPU in float64.
b  The CIFAR-10 U-Net of DDPM, 35.7 M parameters: training and sampling, in bfloat16 and in float32 with TF32 allowed on
   both sides, against diffusers' UNet2DModel under torch.compile.
c  Attention: cuDNN's, XLA's and written out, forward and with gradients, at shapes of known networks.
d  ResNet-50 and ViT-B/16 at 224x224 in bfloat16 against timm's under torch.compile.
e  Gradients of convolutions: JAX's own against those that jaxgen.nn.conv writes out for CPUs.
f  DDPM on CIFAR-10 in bfloat16 for at most 150 s of training: its loss, and 64 samples. Also alone: --steps f.
x  Only if named: a process that dies and one that is late, to try out what happens then.

This process stays off the GPU; its workers take turns there. PyTorch's get compiled in the background from the start,
and are stopped (SIGSTOP) while anything is timed. --dry-run does all of it at tiny sizes on a CPU, where its times mean
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

ALL = "abcdef"
LIMITS = {"a": 110, "b": 200, "c": 40, "d": 90, "e": 35, "f": 260, "x": 15}  # seconds
RESERVED = {"b": 120, "c": 30, "d": 60, "e": 20}  # what earlier steps leave to later ones
TRAINING = 150  # seconds of step f's training, at most
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


class Sizes:
  """What is measured: on a GPU, or tiny, to try everything out on a CPU."""

  def __init__(self, dry: bool):
    tiny = compare.Shape(8, (1,), 1, (), (8, 8, 1), 4, 2, 2)
    self.unet = tiny if dry else compare.SHAPES["cifar10"]
    self.middle = tiny if dry else compare.SHAPES["middle"]
    self.small = tiny if dry else dataclasses.replace(compare.SHAPES["digits-wide"], batch=64)
    small, large = (4, 8) if dry else (128, 512)
    self.unet_jobs = [
      UNetJob("training", "bfloat16", small),
      UNetJob("sampling", "bfloat16", small),
      UNetJob("training", "bfloat16", large),
      UNetJob("training", "float32", small),
      UNetJob("sampling", "bfloat16", large),
      UNetJob("sampling", "float32", small),
      UNetJob("training", "bfloat16", small, 0.1),
      UNetJob("training", "float32", large),
      UNetJob("sampling", "float32", large),
    ]
    if dry:
      self.unet_jobs = [self.unet_jobs[i] for i in (0, 1, 3)]
    # Those of large memory get ready later, when the processes of step a are gone.
    self.unet_order = sorted(self.unet_jobs, key=lambda job: (job.dropout > 0, job.batch * (job.task == "training")))
    self.updates = {small: 2 if dry else 8, large: 2 if dry else 3}
    self.sampling_steps = 2 if dry else 10
    batch, side = (2, 32) if dry else (128, 224)
    networks = [("resnet18", 32), ("vit_tiny_patch16_224", 224)] if dry else []
    networks = networks or [("resnet50", side), ("vit_base_patch16_224", side)]
    self.backbone_jobs = [BackboneJob(n, t, batch, s) for n, s in networks for t in ("forward", "training")]
    if dry:
      self.backbone_jobs = self.backbone_jobs[0:4:3]
    self.backbone_updates = 1 if dry else 4
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
    shapes = [((2, 8, 8, 4), 1), ((2, 8, 8, 4), 2)]
    if not dry:
      shapes = [((128, 32, 32, 128), 1), ((128, 16, 16, 256), 1), ((128, 32, 32, 128), 2), ((128, 16, 16, 256), 2)]
    self.convs = [(shape, stride, dtype) for dtype in ("bfloat16", "float32") for shape, stride in shapes]
    self.turn = 0.002 if dry else 0.03  # seconds of a turn of steps c and e
    self.train = {
      **dataclasses.asdict(self.unet), "dtype": "bfloat16", "dropout": 0.1, "batch": 8 if dry else 128, "updates": 10,
      "learning_rate": 2e-4, "warm_up": 500, "ema": 0.999, "sampling_steps": 5 if dry else 50,
      "most": 60 if dry else 100_000, "tiny": dry,
    }  # fmt: skip
    self.samples = 4 if dry else 64


class Bench:
  """The run: its clock, its results and what its steps share."""

  def __init__(self, options: argparse.Namespace):
    self.options, self.dry, self.sizes = options, options.dry_run, Sizes(options.dry_run)
    self.training: Process | None = None  # step f's, which gets ready while others are measured
    if options.brief:
      self.sizes.unet_jobs = self.sizes.unet_order = self.sizes.unet_jobs[:2]
      self.sizes.middle = self.sizes.small
      LIMITS.update(b=140, a=75, d=80, f=90)
      RESERVED.update(b=0, a=45, d=35, f=85, c=0)
    self.start = time.perf_counter()
    self.end = self.deadline = self.start + options.limit
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
      "TORCHINDUCTOR_COMPILE_THREADS": "3",
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
  def quiet(self, wanted: bool = True) -> Iterator[None]:
    """Nothing gets ready in the background."""
    if self.pool and wanted:
      self.pool.quiet(True)
    try:
      yield
    finally:
      if self.pool and wanted:
        self.pool.quiet(False)

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

  def fill_pool(self, steps: str) -> None:
    """Starts PyTorch's side of the steps b and d, which takes longest to compile."""
    self.pool = Pool(1 if self.dry else 2 if self.options.brief else 7, 90 if self.dry else 300)
    left_out = {}
    for step, package in (("b", "diffusers"), ("d", "timm")):
      missing = [p for p in ("torch", package) if importlib.util.find_spec(p) is None]
      if missing:
        left_out[step] = f"left out: {' and '.join(missing)} is not installed"
    options = {"dynamic": False, **({"backend": "aot_eager"} if self.dry else {})}
    common = {"compiled": True, "compile": options, "tf32": True, "peak": False}
    jobs = []
    if "b" in steps and "b" not in left_out:
      for job in self.sizes.unet_order:
        jobs.append((job.key, {"kind": "unet", **self.unet_fields(job), **common}))
    if "d" in steps and "d" not in left_out:
      for job in self.sizes.backbone_jobs:
        jobs.append((job.key, {"kind": "backbone", **self.backbone_fields(job), **common}))
    for key, job in jobs:
      self.pool.add(key, lambda key=key, job=job: self.process(f"torch {key}", job))
    self.left_out = left_out

  def unet_fields(self, job: UNetJob) -> dict:
    return {
      **dataclasses.asdict(self.sizes.unet), "task": job.task, "dtype": job.dtype, "batch": job.batch,
      "dropout": job.dropout, "updates": self.sizes.updates[job.batch], "sampling_steps": self.sizes.sampling_steps,
    }  # fmt: skip

  def backbone_fields(self, job: BackboneJob) -> dict:
    return {
      "network": job.network, "task": job.task, "dtype": job.dtype, "batch": job.batch, "classes": job.classes,
      "image": (job.side, job.side, 3), "updates": self.sizes.backbone_updates, "passes": self.sizes.backbone_updates,
    }  # fmt: skip

  def run(self) -> None:
    signal.signal(signal.SIGTERM, lambda *_: self.close("it was told to end"))
    watch = threading.Timer(self.options.limit, self.close, ["it was over its limit"])
    watch.daemon = True
    watch.start()
    self.facts()
    steps = [s for s in self.options.steps.replace(",", "") if s in LIMITS]
    self.fill_pool("".join(steps))
    self.save()
    for number, step in enumerate(steps):
      reserved = sum(RESERVED.get(s, 0) for s in steps[number + 1 :])
      begin = time.perf_counter()
      self.deadline = min(begin + LIMITS[step], max(self.end - 8 - reserved, begin + 20), self.end - 4)
      result = self.results["steps"].setdefault(step, {})
      self.say(f"step {step}, {self.left():.0f} s")
      if self.options.brief and number and "f" in steps[number:] and self.training is None:
        self.training = self.process("jaxgen train", self.training_job())
      before = set(Process.alive) | set(self.pool.processes.values())
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
        background = set(self.pool.processes.values())
        for process in set(Process.alive) - before - background:
          process.end()
        result["seconds"] = time.perf_counter() - begin
        self.save()
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
    first = self.sizes.unet_jobs[0].key
    if self.results["steps"].get("b") is None and "b" in self.options.steps and "b" not in self.left_out:
      with contextlib.suppress(Failed):
        self.pool.get(first, self.left())

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

  def race(self, key: str, prepare: dict, ours: Process, per_turn: int, calls: int, quiet: bool, step: str) -> dict:
    """Both sides of one task in turns. per_turn: batches in a turn; calls: of the network, for each of these."""
    entry = {k: prepare[k] for k in ("task", "dtype", "batch", "image") if k in prepare}
    entry |= {"updates_per_turn": per_turn, "network_calls": calls, "competitors": {}}
    rows, theirs = entry["competitors"], None
    with self.quiet(quiet):
      facts = ours.ask(self.left(3), do="prepare", id=key, **prepare)
    entry["compiled_in_quiet"] = quiet
    flops = facts.pop("flops")
    if step in self.left_out:
      rows["torch compiled"] = {"error": self.left_out[step]}
    else:
      try:
        theirs = self.pool.get(key, min(self.left(12), 75))
      except Failed as error:
        rows["torch compiled"] = {"error": str(error)}
    turns = {"jaxgen": []} | ({"torch compiled": []} if theirs else {})
    with self.quiet():
      if theirs:
        try:
          theirs.ask(self.left(8), do="tune")
        except Failed as error:
          rows["torch compiled"], theirs = {"error": str(error)}, None
          turns.pop("torch compiled")
      ours.ask(self.left(4), do="tune", id=key)
      for number in range(self.sizes.rounds):
        if number >= 3 and self.left() < 4:
          break
        for name in list(turns)[:: -1 if number % 2 else 1]:
          process = ours if name == "jaxgen" else theirs
          try:
            turns[name].append(process.ask(self.left(), do="turn", id=key)["seconds"])
          except Failed as error:
            if process is ours:
              raise
            rows["torch compiled"], theirs = {"error": str(error)}, None
            turns.pop("torch compiled")
      memory = {"jaxgen": ours.ask(self.left(), do="memory")["peak_memory"]}
      if theirs:
        memory["torch compiled"] = theirs.ask(self.left(), do="memory")["peak_memory"]
    ours.ask(self.left(), do="drop", id=key)
    peak = self.peaks.get(prepare["dtype"])
    for name, seconds in turns.items():
      median = statistics.median(seconds) / per_turn
      rows[name] = {
        **(facts if name == "jaxgen" else {k: v for k, v in theirs.ready.items() if k != "peak_flops"}),
        "ms": 1e3 * median / calls, "images_per_second": prepare["batch"] / median,
        "flops_per_second": flops / median, "share_of_measured_peak": peak and flops / median / peak,
        "share_of_data_sheet": flops / median / DATA_SHEET, "turns": seconds, "peak_memory": memory[name],
      }  # fmt: skip
    entry |= {"flops": flops, "measured_peak": peak}
    text = f"{step} {key}: jaxgen {rows['jaxgen']['ms']:.2f} ms, {rows['jaxgen']['images_per_second']:.0f} images/s"
    if peak:
      text += f", {rows['jaxgen']['share_of_measured_peak']:.0%} of peak"
    if theirs:
      ratios = [b / a for a, b in zip(turns["jaxgen"], turns["torch compiled"], strict=True)]
      entry["jaxgen_against_torch"] = statistics.median(ratios)
      text += f"; torch {rows['torch compiled']['ms']:.2f} ms; {entry['jaxgen_against_torch']:.2f} times as fast"
    else:
      text += f"; torch: {rows['torch compiled']['error'].splitlines()[0][:80]}"
    self.say(text)
    return entry

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
      "float32": "TF32 is allowed on both sides: JAX's default precision, and torch's allow_tf32",
      "notes": "torch's first calls compiled beside others; jaxgen's peak_memory is the process's so far, "
      "planned_memory the executable's own",
      "jobs": {},
    }
    sides: dict[str, Process] = {}
    took: dict[str, float] = {}
    try:
      for number, job in enumerate(self.sizes.unet_jobs):
        need = 1.1 * took.get(job.task, 0 if self.dry else 25) + (1 if self.dry else 8)
        if self.left() < need:
          result["jobs"][job.key] = {"error": f"left out: {self.left():.0f} s were left"}
          continue
        try:
          if job.dtype not in sides or sides[job.dtype] not in Process.alive:
            sides[job.dtype] = self.process(f"jaxgen {job.dtype}", {"side": "networks", "dtype": job.dtype})
            sides[job.dtype].wait_ready(self.left())
            self.measure_peaks(sides[job.dtype], [job.dtype])
          begin = time.perf_counter()
          prepare = {"kind": "unet", "name": f"unet {job.dropout}", **self.unet_fields(job)}
          training = job.task == "training"
          batches, calls = (prepare["updates"], 1) if training else (1, prepare["sampling_steps"])
          quiet = number < 2 and ("b" in self.left_out or self.pool.is_ready(job.key))
          result["jobs"][job.key] = self.race(job.key, prepare, sides[job.dtype], batches, calls, quiet, "b")
          took[job.task] = time.perf_counter() - begin
        except Failed as error:
          result["jobs"][job.key] = {"error": str(error)}
          self.say(f"b {job.key}: {str(error).splitlines()[0][:140]}")
        self.pool.drop([job.key])
        self.save()
    finally:
      self.pool.drop([job.key for job in self.sizes.unet_jobs])

  def step_d(self, result: dict) -> None:
    result["jobs"] = {}
    side = None
    keys = [job.key for job in self.sizes.backbone_jobs]
    self.pool.first(keys)
    try:
      for job in self.sizes.backbone_jobs:
        if self.left() < (1 if self.dry else 15):
          result["jobs"][job.key] = {"error": f"left out: {self.left():.0f} s were left"}
          continue
        try:
          if side not in Process.alive:
            side = self.process("jaxgen backbones", {"side": "networks", "dtype": job.dtype})
            side.wait_ready(self.left())
            self.measure_peaks(side, [job.dtype])
          prepare = {"kind": "backbone", "name": job.network, **self.backbone_fields(job)}
          batches = prepare["updates"]
          quiet = "d" in self.left_out or all(map(self.pool.is_ready, keys))
          result["jobs"][job.key] = self.race(job.key, prepare, side, batches, 1, quiet, "d")
        except Failed as error:
          result["jobs"][job.key] = {"error": str(error)}
          self.say(f"d {job.key}: {str(error).splitlines()[0][:140]}")
        self.pool.drop([job.key])
        self.save()
    finally:
      self.pool.drop(keys)

  # Steps c and e

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
        found = process.ask(min(self.left(1), 15), do="case", rounds=5, turn=self.sizes.turn, **message)
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
    for name, shape in self.sizes.attention:
      for gradient in (False, True):
        message = {"shape": shape, "dtype": "bfloat16", "gradient": gradient}
        cases.append((f"{name}, {'gradient' if gradient else 'forward'}", message))
    result["notes"] = "milliseconds; shapes [batch, tokens, heads, width]; gradient: forward and backward"
    with self.quiet():
      self.cases(result, "c", "attention", cases)

  def step_e(self, result: dict) -> None:
    cases = []
    for shape, stride, dtype in self.sizes.convs:
      message = {"shape": shape, "stride": stride, "dtype": dtype, "depth": 4 if stride == 1 else 2}
      cases.append((f"{'x'.join(map(str, shape))} stride {stride} {dtype}", message))
    result["notes"] = "milliseconds of the value and the gradient of a row of 3x3 convolutions"
    with self.quiet():
      self.cases(result, "e", "conv", cases)

  # Step f

  def training_job(self) -> dict:
    data = self.options.data and str(self.options.data.resolve())
    return {"side": "train", **self.sizes.train, "data": data}

  def step_f(self, result: dict) -> None:
    if not self.dry and self.left() < (60 if self.training else 110):
      raise Late(f"{self.left():.0f} s were left, too few to compile and to learn: run it alone, --steps f")
    job = self.training_job()
    result |= {k: v for k, v in job.items() if k not in ("side", "data", "updates")}
    result["updates_per_dispatch"] = job["updates"]
    process = self.training or self.process("jaxgen train", job)
    after = 2.0 if self.dry else 35.0 if self.options.brief else 45.0  # for the samples
    result |= process.wait_ready(self.left(after))
    if not result["real"]:
      result["data"] = "no CIFAR-10 sheets were found: random images, for the speed alone, and no samples"
      self.say(f"f {result['data']}")
    self.save()
    end = time.perf_counter() + min(5 if self.dry else TRAINING, self.left(after if result["real"] else 8))
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
  parser.add_argument("--limit", type=float, default=430, help="seconds of the whole run")
  parser.add_argument("--steps", default=ALL, help="such as a,b,c")
  parser.add_argument("--brief", action="store_true", help="the most telling parts of each step")
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
