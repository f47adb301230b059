"""A process that runs jaxgen's side of accelerator/run.py, one kind of work per process; see `KINDS` at the end.

Every kind is a function job -> (what it says when ready, message -> answer). Networks are trained and sampled through
`jaxgen.engine.program`, which is what `jaxgen train` runs.
"""

import gzip
import io
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import processes


def gpu_facts() -> dict:
  import jax

  device = jax.devices()[0]
  return {
    "platform": device.platform,
    "device": device.device_kind,
    "flags": os.environ.get("XLA_FLAGS", ""),
    "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
  }


def peak_bytes() -> int | None:
  import jax

  from jaxgen.throughput.chips import peak_memory

  return peak_memory(jax.devices()[:1])


def ddpm(job: dict, dtype, **options):
  """A DDPM of one of compare.py's shapes."""
  import optax

  from jaxgen import diffusion
  from jaxgen.core.spec import Spec
  from jaxgen.core.wrappers import averaged
  from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
  from jaxgen.methods.diffusion.sampler import Sampler
  from jaxgen.nn import UNet

  network = UNet(
    channels=job["channels"],
    multipliers=tuple(job["multipliers"]),
    blocks=job["blocks"],
    attention=tuple(job["attention"]),
    dropout=job.get("dropout", 0.0),
    out_channels=job["image"][-1],
    dtype=dtype,
    **options,
  )

  def make(optimizer=None, ema: float = 0.999, steps: int = 10):
    sampler, spec = Sampler(steps=steps), Spec(tuple(job["image"]))
    method = gaussian_diffusion(network, diffusion.linear(1000), spec, optimizer or optax.adam(1e-3), sampler=sampler)
    return averaged(method, ema)

  return network, make


def dit(job: dict, dtype):
  """A DiT that predicts noise, told a class that one in ten examples loses, and its method."""
  import optax

  from jaxgen import diffusion
  from jaxgen.core.condition import labels
  from jaxgen.core.spec import Spec
  from jaxgen.core.wrappers import averaged
  from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
  from jaxgen.nn.transformers.dit import DiT

  spec, shape = Spec(tuple(job["image"]), classes=job["classes"]), job["network"]
  network = DiT(**shape, classes=job["classes"] + 1, out_channels=job["image"][-1], unroll=shape["depth"], dtype=dtype)
  condition = labels(spec, dropout=0.1)
  method = gaussian_diffusion(
    network, diffusion.linear(1000), spec, optax.adamw(1e-4, weight_decay=0), condition=condition
  )
  return network, averaged(method, 0.9999)


def compiled(method, job: dict, batch: int, updates: int, dtype="float32"):
  """The program of a method for random images, and batches for it."""
  import jax
  import numpy as np

  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program

  rng = np.random.default_rng(0)
  raws = {
    "image": rng.uniform(-1, 1, (updates, batch, *job["image"])).astype(dtype),
    "index": np.tile(np.arange(batch, dtype=np.int32), (updates, 1)),
  }
  if job.get("classes"):
    raws["label"] = rng.integers(0, job["classes"], (updates, batch)).astype(np.int32)
  spec = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in raws.items()}
  return Program(method, spec, make_mesh(), updates=updates), raws


def initial(program, raws: dict):
  """The state of seed 0, made on the host's CPU: compiling an initialisation for a GPU takes a minute."""
  import jax

  first = {k: v[0] for k, v in raws.items()}
  with jax.default_device(jax.devices("cpu")[0]):
    state = jax.jit(program._init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0), first)
  return jax.block_until_ready(jax.tree.map(jax.device_put, state, program.shardings))


def timed(function) -> tuple[float, object]:
  import jax

  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return time.perf_counter() - start, result


def determinism(job: dict):
  """N updates from one seed in float32, and the SHA-256 of the state after them; then turns of N more."""
  import jax
  import jax.numpy as jnp

  from jaxgen.engine.hashing import state_hash

  _, make = ddpm(job, jnp.float32)
  updates = job["updates"]
  program, raws = compiled(make(), job, job["batch"], updates)
  state = initial(program, raws)
  start_hash = state_hash(state)
  seconds, _ = timed(lambda: program.loop)
  batches = program.put_many(raws)
  state, metrics = jax.block_until_ready(program.dispatch(state, batches, updates))
  facts = {
    **gpu_facts(),
    "compile_seconds": seconds,
    "initial_sha256": start_hash,
    "sha256": state_hash(state),
    "last_loss": float(metrics["loss"][-1]),
  }

  def handle(message: dict) -> dict:
    nonlocal state
    seconds, (state, _) = timed(lambda: program.dispatch(state, batches, updates))
    return {"seconds": seconds}

  return facts, handle


def float64(job: dict):
  """N updates of a small U-Net in float64; parameters and losses go to the file that the job names."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  _, make = ddpm(job, jnp.float64, param_dtype=jnp.float64)
  updates = job["updates"]
  program, raws = compiled(make(), job, job["batch"], updates, "float64")
  state = initial(program, raws)
  state, metrics = program.dispatch(state, program.put_many(raws), updates)
  found = {f"params{jax.tree_util.keystr(k)}": v for k, v in jax.tree_util.tree_leaves_with_path(state.params)}
  found = {k: np.asarray(v) for k, v in found.items()} | {"losses": np.asarray(metrics["loss"])}
  np.savez(job["file"], **found)
  return {**gpu_facts(), "dtypes": sorted({str(v.dtype) for v in found.values()})}, lambda message: {}


def measure_peak(n: int, dtype: str, repeats: int) -> dict:
  """FLOP/s of a product of two random n x n matrices, queued several at a time; the median of the turns."""
  import jax
  import jax.numpy as jnp

  a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.dtype(dtype)) for i in range(2))
  multiply = jax.jit(lambda a, b: a @ b)
  jax.block_until_ready(multiply(a, b))
  seconds = [timed(lambda: [multiply(a, b) for _ in range(repeats)])[0] / repeats for _ in range(7)]
  return {"flops_per_second": 2 * n**3 / statistics.median(seconds), "n": n, "dtype": dtype}


def kernels(folder: str, calls: int, most: int = 40) -> dict[str, list[float]]:
  """Of a profile: milliseconds and launches a call of the kernels that take the most, and of all, "total"."""
  files = sorted(pathlib.Path(folder).rglob("*.trace.json.gz"))
  events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"] if files else []
  named = lambda what: [e for e in events if e.get("ph") == "M" and e["name"] == what]
  devices = {e["pid"] for e in named("process_name") if "GPU" in e["args"]["name"]}
  streams = {(e["pid"], e["tid"]) for e in named("thread_name") if "Stream" in e["args"]["name"]}
  found: dict[str, list[float]] = {}
  for e in events:
    if e.get("ph") == "X" and e["pid"] in devices and (e["pid"], e.get("tid")) in streams:
      for name in ("total", f"{e['name'][:90]} | {e.get('args', {}).get('hlo_op', '')}"):
        entry = found.setdefault(name, [0.0, 0.0])
        entry[0] += e["dur"] / 1e3 / calls
        entry[1] += 1 / calls
  return dict(sorted(found.items(), key=lambda item: -item[1][0])[: most + 1])


def networks(job: dict):
  """U-Nets or backbones of one dtype: one state, and tasks that are prepared, timed and dropped by name."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from jaxgen.engine.flops import flops as flops_of

  if job.get("cuda_warm", True):
    jax.block_until_ready(jnp.ones(8) + 1)
  dtype, made, tasks = jnp.dtype(job["dtype"]), {}, {}

  def build(message: dict):
    """The network, the method and the run's state, shared by all tasks of the same network."""
    name = message["name"]
    if name in made:
      return made[name]
    if message["kind"] == "unet":
      network, make = ddpm(message, dtype)
      method = make(steps=message["sampling_steps"])
    elif message["kind"] == "dit":
      network, method = dit(message, dtype)
    else:
      from jaxgen.core.spec import Spec
      from jaxgen.methods.supervised.classifier import classifier
      from jaxgen.nn.vision import resnet, vit

      network = {
        "resnet50": lambda: resnet.ResNet(**resnet.SIZES[50], dtype=dtype),
        "vit_base_patch16_224": lambda: vit.ViT(**vit.SIZES["B/16"], dtype=dtype),
        "vit_tiny_patch16_224": lambda: vit.ViT(**vit.SIZES["Ti/16"], dtype=dtype),
        "resnet18": lambda: resnet.ResNet(**resnet.SIZES[18], dtype=dtype),
      }[message["network"]]()
      spec = Spec(tuple(message["image"]), classes=message["classes"])
      method = classifier(network, spec=spec, optimizer=optax.sgd(1e-3, momentum=0.9))
    made.clear()  # one network's state at a time
    tasks.clear()
    made[name] = {"network": network, "method": method, "state": None}
    return made[name]

  def inputs(message: dict) -> tuple:
    """What the network is applied to."""
    batch, rng = message["batch"], np.random.default_rng(0)
    x = rng.normal(size=(batch, *message["image"])).astype(np.float32)
    t = rng.uniform(0, 1000, batch).astype(np.float32)
    label = rng.integers(0, message.get("classes") or 1, batch).astype(np.int32)
    return {"unet": (x, t), "dit": (x, t, label), "backbone": (x,)}[message["kind"]]

  def forward_flops(message: dict, network, state) -> float:
    """Of the network as it is defined, not as it is computed: strided convolutions are strided."""
    variables = {"params": state.params["network"], **(state.buffers if message["kind"] == "backbone" else {})}
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    return flops_of(jax.make_jaxpr(network.apply)(jax.tree.map(struct, variables), *map(struct, inputs(message))).jaxpr)

  def prepare(message: dict) -> dict:
    shared = build(message)
    network, batch, updates = shared["network"], message["batch"], message["updates"]
    program, raws = compiled(shared["method"], message, batch, updates)
    facts, start = {}, time.perf_counter()
    if shared["state"] is None:
      facts["init_seconds"], shared["state"] = timed(lambda: initial(program, raws))
    state = shared["state"]
    forward = forward_flops(message, network, state)
    start = time.perf_counter()
    if message["task"] == "training":
      analysis = program.loop.memory_analysis()
      facts["compile_seconds"] = time.perf_counter() - start
      if analysis is not None:
        facts["planned_memory"] = sum(
          getattr(analysis, f"{part}_size_in_bytes", 0) * sign
          for part, sign in (("argument", 1), ("output", 1), ("temp", 1), ("alias", -1))
        )
      batches, flops = program.put_many(raws), 3 * forward  # a gradient is two more passes

      def turn() -> float:
        seconds, (shared["state"], _) = timed(lambda: program.dispatch(shared["state"], batches, updates))
        return seconds

    elif message["task"] == "sampling":
      keys, flops = jax.random.split(jax.random.key(1), batch), message["sampling_steps"] * forward

      def turn() -> float:
        return timed(lambda: program.sample(shared["state"], keys, {}))[0]

    else:
      values = {"params": state.params["network"], **state.buffers}
      apply, given, passes = jax.jit(network.apply), jax.device_put(inputs(message)), message["passes"]
      flops = forward

      def turn() -> float:
        return timed(lambda: [apply(values, *given) for _ in range(passes)])[0]

    facts["first_call"] = time.perf_counter() - start if message["task"] == "training" else 0.0
    facts["first_call"] += turn()
    tasks[message["id"]] = turn
    sizes = [np.prod(p.shape, dtype=np.int64) for p in jax.tree.leaves(state.params["network"])]
    return facts | {"parameters": int(sum(sizes)), "flops": flops, "peak_memory": peak_bytes()}

  def profile(message: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        tasks[message["id"]]()
      return {"kernels": kernels(folder, message["calls"])}

  def handle(message: dict) -> dict:
    do = message["do"]
    if do == "profile":
      return profile(message)
    if do == "peak":
      return measure_peak(message["n"], message["dtype"], message["repeats"])
    if do == "prepare":
      return prepare(message)
    if do in ("tune", "turn"):
      return {"seconds": tasks[message["id"]]()}
    if do == "memory":
      return {"peak_memory": peak_bytes()}
    if do == "drop":
      tasks.pop(message["id"], None)
      return {}
    raise ValueError(do)

  return gpu_facts(), handle


def queued(functions: dict, rounds: int, seconds_per_turn: float) -> dict:
  """Milliseconds of each function in turns: calls are queued, as many as fill a turn, and waited for once."""
  import jax

  counts = {}
  for name, call in functions.items():
    jax.block_until_ready(call())
    once = min(timed(call)[0] for _ in range(3))
    counts[name] = max(1, min(200, math.ceil(seconds_per_turn / max(once, 1e-6))))
  turns = {name: [] for name in functions}
  for number in range(rounds):
    for name in list(functions)[:: -1 if number % 2 else 1]:
      call, count = functions[name], counts[name]
      seconds, _ = timed(lambda call=call, count=count: [call() for _ in range(count)])
      turns[name].append(1e3 * seconds / count)
  return {name: {"ms": statistics.median(t), "turns": t, "calls": counts[name]} for name, t in turns.items()}


def attention(job: dict):
  """Forms of attention at one shape, forward, and with the gradient of queries, keys and values."""
  import jax
  import jax.numpy as jnp

  from jaxgen.nn.blocks.attention import attend, attention_weights

  jax.block_until_ready(jnp.ones(8) + 1)

  def library(implementation):
    return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation=implementation)

  def plain(q, k, v):
    return jnp.einsum("bhqk,bkhd->bqhd", attention_weights(q, k).astype(v.dtype), v)

  def half(q, k, v):
    """Logits in the dtype of the computation, softmax in float32."""
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) * q.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits.astype(jnp.float32)).astype(v.dtype), v)

  forms = {"cudnn": library("cudnn"), "xla": library("xla"), "plain": plain, "half": half, "jaxgen": attend}

  def handle(message: dict) -> dict:
    q, k, v, dy = (
      jax.random.normal(jax.random.key(i), tuple(message["shape"]), jnp.dtype(message["dtype"])) for i in range(4)
    )
    ready, errors = {}, {}
    for name, form in forms.items():
      # dy is an argument: XLA folds a constant of its size for half a minute.
      if message["gradient"]:
        scalar = lambda q, k, v, dy, form=form: jnp.sum((form(q, k, v) * dy).astype(jnp.float32))
        function = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2)))
      else:
        function = jax.jit(lambda q, k, v, dy, form=form: form(q, k, v))
      try:
        jax.block_until_ready(function(q, k, v, dy))
        ready[name] = lambda function=function: function(q, k, v, dy)
      except Exception as error:
        errors[name] = {"error": processes.described(error)[:400]}
    return {"forms": queued(ready, message["rounds"], message["turn"]) | errors}

  return gpu_facts(), handle


def sheets(folder: str | None):
  """CIFAR-10's images, uint8 [N, 32, 32, 3], from sheets of 25 x 40 tiles; None where there are none."""
  import numpy as np
  from PIL import Image

  files = sorted(pathlib.Path(folder).glob("cifar10_*.webp")) if folder else []
  tiles = []
  for file in files:
    sheet = np.asarray(Image.open(file).convert("RGB"))
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    tiles.append(sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
  return np.concatenate(tiles) if tiles else None


def train(job: dict):
  """DDPM for as long as it is let: loss by update, then samples from the average of the parameters."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from jaxgen.core import pictures
  from jaxgen.data.transforms import flip, scale
  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program

  batch, updates = job["batch"], job["updates"]
  rng = np.random.default_rng(0)
  images = sheets(job["data"])
  if images is not None and job["tiny"]:
    images = images[:, ::4, ::4, :1]
  real = images is not None and images.shape[1:] == tuple(job["image"])
  if not real:
    images = rng.integers(0, 256, (1000, *job["image"]), dtype=np.uint8)
  _, make = ddpm(job, jnp.dtype(job["dtype"]))
  rate = optax.linear_schedule(0.0, job["learning_rate"], job["warm_up"])
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  method = make(optimizer, job["ema"], job["sampling_steps"])
  transforms = [flip(), scale(256)]

  def prepare_batch(key, raw, train):
    for number, transform in enumerate(transforms):
      raw = transform(jax.random.fold_in(key, number), raw)
    return raw

  spec = {
    "image": jax.ShapeDtypeStruct((batch, *job["image"]), np.uint8),
    "index": jax.ShapeDtypeStruct((batch,), np.int32),
  }
  program = Program(method, spec, make_mesh(), prepare=prepare_batch, updates=updates)
  index = np.tile(np.arange(batch, dtype=np.int32), (updates, 1))
  order, at = rng.permutation(len(images)), 0

  def batches():
    """The next ones of a random order, a new one for every pass."""
    nonlocal order, at
    chosen = []
    for _ in range(updates):
      if at + batch > len(order):
        order, at = rng.permutation(len(images)), 0
      chosen.append(np.resize(order[at : at + batch], batch))
      at += batch
    return program.put_many({"image": images[np.stack(chosen)], "index": index})

  start = time.perf_counter()
  state = initial(program, {"image": images[np.resize(order, batch)][None], "index": index})
  init_seconds = time.perf_counter() - start
  start = time.perf_counter()
  program.loop  # noqa: B018 - compiles
  facts = {
    **gpu_facts(), "images": len(images), "real": real, "init_seconds": init_seconds,
    "compile_seconds": time.perf_counter() - start,
  }  # fmt: skip
  losses, clock = [], []

  def handle(message: dict) -> dict:
    nonlocal state
    if message["do"] == "train":
      end, done = time.perf_counter() + message["seconds"], 0
      start, pending = time.perf_counter(), []
      while time.perf_counter() < end and len(losses) < job["most"]:
        state, metrics = program.dispatch(state, batches(), updates)
        pending.append(metrics["loss"])
        done += updates
        if len(pending) > 1:  # the next batches are put together while the device works
          losses.extend(np.asarray(pending.pop(0), np.float64).tolist())
      for loss in pending:
        losses.extend(np.asarray(loss, np.float64).tolist())
      jax.block_until_ready(state)
      clock.append((done, time.perf_counter() - start))
      curve = [[i + 50, float(np.mean(losses[i : i + 50]))] for i in range(0, len(losses) - len(losses) % 50, 50)] or [
        [len(losses), float(np.mean(losses))]
      ]
      return {"updates": len(losses), "turns": clock, "curve": curve, "peak_memory": peak_bytes()}
    if message["do"] == "sample":
      keys = jax.random.split(jax.random.key(7), message["count"])
      first, drawn = timed(lambda: program.sample(state, keys, {}))
      seconds, drawn = timed(lambda: program.sample(state, keys, {}))
      drawn = np.asarray(drawn, np.float32)
      pathlib.Path(message["file"]).write_bytes(pictures.png(pictures.grid(drawn, columns=8, scale=3)))
      if not np.isfinite(drawn).all():
        drawn = np.nan_to_num(drawn)
      return {
        "first_call": first, "seconds": seconds, "count": len(drawn), "steps": job["sampling_steps"],
        "finite": bool(np.isfinite(drawn).all()), "mean": float(drawn.mean()), "std": float(drawn.std()),
        "real_mean": float(images.mean() / 127.5 - 1), "real_std": float((images / 127.5).std()),
      }  # fmt: skip
    if message["do"] == "figure":
      from matplotlib.backends.backend_agg import FigureCanvasAgg
      from matplotlib.figure import Figure

      figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
      FigureCanvasAgg(figure)
      axes = figure.add_subplot()
      width = min(50, len(losses))
      smooth = np.convolve(losses, np.ones(width) / width, "valid")
      axes.plot(np.arange(width, len(losses) + 1), smooth)
      axes.set(xlabel="updates", ylabel=f"loss, mean of {width} updates", yscale="log")
      file = io.BytesIO()
      figure.savefig(file, format="png")
      pathlib.Path(message["file"]).write_bytes(file.getvalue())
      return {}
    raise ValueError(message["do"])

  return facts, handle


def broken(job: dict):
  """For trying out the failure paths: dies, or never gets ready."""
  if job["how"] == "dies":
    print("this is what a dying process says", file=sys.stderr, flush=True)
    os._exit(3)
  time.sleep(1000)


KINDS = {f.__name__: f for f in (determinism, float64, networks, attention, train, broken)}

if __name__ == "__main__":
  processes.serve(lambda job: KINDS[job["side"]](job))
