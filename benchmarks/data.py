"""Images per second of decoding and random resized crops at ImageNet's size, beside torchvision and tf.data.

    python benchmarks/data.py --peer-python PYTHON      # PYTHON has torch and torchvision, or tensorflow, or both

Makes JPEGs of 500 x 375 with the spectrum of photographs and has loaders read batches of 64 crops of 224 x 224,
bicubic, in a shuffled order: `pipeline.Stream` with worker processes, with threads, and in one thread as a worker does
its work; torchvision's v2 transforms behind a DataLoader with as many processes, once as its references have them
(mirrored, float32, normalised) and once to bytes, which is all that jaxgen's processes do, for the rest is the
device's; tf.data with decode_and_crop_jpeg and as many threads. Every loader is a session of its own, started and warm
before any is timed. They take turns, all others stopped (SIGSTOP), so that nothing is read ahead meanwhile. Counted are
seconds on the clock, and seconds of the processor in all processes of a loader, which other work on the machine changes
little: what a core reads in a second is one over them. Medians count.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BATCH, SIZE = 64, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOADERS = ("jaxgen", "jaxgen threads", "jaxgen one thread", "torchvision", "torchvision to bytes", "tf.data")
TICKS = os.sysconf("SC_CLK_TCK")


def make_pictures(folder, count, width=500, height=375):
  """JPEGs whose detail falls with its frequency as photographs' does."""
  import numpy as np
  from PIL import Image

  (folder / "train" / "all").mkdir(parents=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(8):
      n = 4 * 2**octave
      small = Image.fromarray(rng.integers(0, 256, (min(n, height), min(n, width), 3), np.uint8))
      total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 2**octave
    total = 255 * (total - total.min()) / np.ptp(total)
    Image.fromarray(total.astype(np.uint8)).save(folder / "train" / "all" / f"{i:04}.jpg", quality=90)


def of_jaxgen(folder, workers, name):
  from jaxgen.data import RandomResizedCrop, images, pipeline

  data = images(f"folder:{folder}", (SIZE, SIZE, 3), classes=1, view=RandomResizedCrop())
  stream = pipeline.Stream(data.training(), 0, BATCH, workers=workers if name == "jaxgen" else 0)
  with contextlib.closing(stream):
    for step in itertools.count():
      yield stream.piece(step) if name.endswith("one thread") else stream.take(step, 1)


def of_torchvision(folder, workers, name):
  import torch
  from torchvision.datasets import ImageFolder
  from torchvision.transforms import v2

  steps = [v2.RandomResizedCrop(SIZE, interpolation=v2.InterpolationMode.BICUBIC), v2.PILToTensor()]
  if name == "torchvision":
    steps[1:1] = [v2.RandomHorizontalFlip()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
  pictures = ImageFolder(folder / "train", v2.Compose(steps))
  loader = torch.utils.data.DataLoader(
    pictures, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
  )
  while True:
    yield from loader


def of_tf_data(folder, workers, name):
  import tensorflow as tf

  def read(path):
    encoded = tf.io.read_file(path)
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.zeros([1, 0, 4]),
      area_range=(0.08, 1.0),
      aspect_ratio_range=(3 / 4, 4 / 3),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    image = tf.io.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], 0), channels=3)
    image = tf.image.resize(image, (SIZE, SIZE), "bicubic", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

  files = sorted(str(path) for path in (folder / "train" / "all").iterdir())
  data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
  data = data.map(read, num_parallel_calls=max(workers, 1)).batch(BATCH).prefetch(2)
  options = tf.data.Options()
  options.threading.private_threadpool_size = max(workers, 1)
  yield from data.with_options(options)


def serve(name, folder, workers):
  """Reads so many batches for every line that comes in, and answers with a line when they are here."""
  make = {"jaxgen": of_jaxgen, "torchvision": of_torchvision, "tf.data": of_tf_data}[name.split(" ")[0]]
  batches = make(folder, workers, name)
  for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
      next(batches)
    print(time.perf_counter() - began, flush=True)
  batches.close()


class Loader:
  """A loader's session, stopped but for its turns. `error`: why it has none."""

  def __init__(self, name, python, folder, workers):
    command = [python, __file__, "--serve", name, "--folder", folder, "--workers", str(workers)]
    self.name, self.seconds, self.cpu, self.error = name, [], [], None
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )

  def turn(self, batches):
    """Seconds on the clock and of the processor for so many batches; None where it has failed."""
    if self.error:
      return None
    os.killpg(self.process.pid, signal.SIGCONT)
    before = self._cpu()
    try:
      self.process.stdin.write(f"{batches}\n")
      self.process.stdin.flush()
      line = self.process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      self.error = self.process.stderr.read().strip().splitlines()[-1:] or ["it ended"]
      return None
    cpu = self._cpu() - before
    os.killpg(self.process.pid, signal.SIGSTOP)
    return float(line), cpu

  def _cpu(self):
    """Seconds of the processor that all processes of the session have used."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
      try:
        fields = stat.read_text().rpartition(")")[2].split()
      except OSError:
        continue
      if int(fields[3]) == self.process.pid:
        total += int(fields[11]) + int(fields[12])
    return total / TICKS

  def close(self):
    if self.process.poll() is None:  # loaders leave shared memory behind where they are killed
      os.killpg(self.process.pid, signal.SIGCONT)
      self.process.stdin.close()
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.process.wait(60)
    if self.process.poll() is None:
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pictures", type=int, default=512)
  parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument("--batches", type=int, default=8, help="of 64 pictures in a turn")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
  parser.add_argument("--peer-python", nargs="+", default=[sys.executable], help="interpreters that have the peers")
  parser.add_argument("--json", type=pathlib.Path, help="write the results here too")
  parser.add_argument("--serve", choices=LOADERS, help=argparse.SUPPRESS)
  parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.serve:
    serve(options.serve, options.folder, options.workers)
    return
  with tempfile.TemporaryDirectory() as folder:
    make_pictures(pathlib.Path(folder), options.pictures)
    results = race(options, folder)
  print(table(results))
  if options.json:
    options.json.write_text(json.dumps(results, indent=2) + "\n")


def race(options, folder):
  loaders = []
  try:
    for name in options.loaders:
      for python in [sys.executable] if name.startswith("jaxgen") else options.peer_python:
        loader = Loader(name, python, folder, options.workers)
        loader.turn(2 * options.workers + 2)  # until all processes have given something
        if not loader.error or python == options.peer_python[-1]:
          loaders.append(loader)
          break
        loader.close()
    for _ in range(options.rounds):
      for loader in loaders:
        found = loader.turn(options.batches)
        if found:
          loader.seconds.append(found[0])
          loader.cpu.append(found[1])
  finally:
    for loader in loaders:
      loader.close()
  pictures = options.batches * BATCH
  rows = {}
  for loader in loaders:
    rows[loader.name] = (
      {"error": loader.error}
      if loader.error
      else {
        "images_per_second": pictures / statistics.median(loader.seconds),
        "images_per_core_second": pictures / statistics.median(loader.cpu),
        "seconds": loader.seconds,
        "core_seconds": loader.cpu,
      }
    )
  machine = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
  return {"command": sys.argv[1:], "machine": machine, "load": os.getloadavg()[0], "images": pictures, "loaders": rows}


def table(results):
  lines = ["| loader | images/s | images/s of a core |", "|---|---|---|"]
  for name, row in results["loaders"].items():
    if "error" in row:
      lines.append(f"| {name} | {' '.join(row['error'])} | |")
    else:
      lines.append(f"| {name} | {row['images_per_second']:.0f} | {row['images_per_core_second']:.0f} |")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
