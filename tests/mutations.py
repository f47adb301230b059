"""Shows that the tests can fail: faults put into a copy of the project, one after the other, and what catches each.

    python tests/mutations.py            # about ten minutes on two cores
    python tests/mutations.py --only 3

Each line of MUTATIONS is a fault that once happened somewhere, or nearly. A fault that no test catches ends with exit
status 1, and so does a line whose code has moved.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
  """file: in jaxgen/. before, after: text that stands there once, and the fault. tests: what must fail, for pytest."""

  fault: str
  file: str
  before: str
  after: str
  tests: str


MUTATIONS = (
  Mutation(
    "noise keyed by the place in the batch, not by the example",
    "core/keys.py",
    "return jax.vmap(jax.random.fold_in, (None, 0))(key, index)",
    "return jax.random.split(key, index.shape[0])",
    "tests/core/test_method.py -k microbatches_equal",
  ),
  Mutation(
    "the average taken before the update",
    "core/wrappers.py",
    'average, new.params[name.partition("/")[0]]',
    'average, state.params[name.partition("/")[0]]',
    "tests/core/test_wrappers.py -k recursion",
  ),
  Mutation(
    "a dropped mean over devices",
    "core/method.py",
    "loss, more, grads = jax.lax.pmean((loss, more, grads), axis)",
    "pass",
    "tests/test_every_method.py -k pmap_equals_jit",
  ),
  Mutation(
    "a run resumed one step late",
    "engine/loop.py",
    "self.step, run.state = restored",
    "self.step, run.state = restored[0] + 1, restored[1]",
    "tests/engine/test_loop.py",
  ),
  Mutation(
    "a step that is not finite kept",
    "core/method.py",
    "new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)",
    "pass",
    "tests/core/test_method.py -k skipped",
  ),
  Mutation(
    "all updates of a step with one key",
    "core/method.py",
    "finite, number = finite & good, number + player.updates",
    "finite, number = finite & good, number",
    "tests/core/test_method.py -k disjoint",
  ),
  Mutation(
    "gradients of microbatches summed, not averaged",
    "core/method.py",
    "(loss, metrics), grads = jax.tree.map(lambda x: x / microbatches, total)",
    "(loss, metrics), grads = total",
    "tests/core/test_method.py -k microbatches_equal",
  ),
  Mutation(
    "samples keyed by their place in a chunk",
    "engine/drawing.py",
    "keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)",
    "keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index - start)",
    "tests/engine/test_loop.py -k sampling",
  ),
  Mutation(
    "every epoch in the order of the first",
    "data/pipeline.py",
    "np.array([seed % 2**64, epoch], np.uint64)",
    "np.array([seed % 2**64, 0], np.uint64)",
    "tests/data/test_pipeline.py",
  ),
  Mutation(
    "a checkpoint restored without comparing its hash",
    "engine/checkpoint.py",
    "!= leaf.sha256 and problem is None",
    "!= leaf.sha256 and False",
    "tests/engine/test_checkpoint.py -k flipped_bits",
  ),
  Mutation(
    "half of a deleted checkpoint under its step's name",
    "engine/orbax.py",
    "path = path.rename(path.with_name(path.name + DELETING))",
    "pass",
    "tests/engine/test_checkpoint.py -k kill_at_any_moment",
  ),
  Mutation(
    "a manifest that is changed in its place",
    "engine/hashing.py",
    "files.write(folder / MANIFEST, json",
    "(folder / MANIFEST).write_text(json",
    "tests/engine/test_checkpoint.py -k kill_at_any_moment",
  ),
  Mutation(
    "evaluation with the parameters where there is an average",
    "core/method.py",
    "if name not in self.ema:",
    "if True:",
    "tests/core/test_wrappers.py -k recursion",
  ),
  Mutation(
    "frozen networks read anew at every start",
    "engine/frozen.py",
    "return step, state.replace(params={**state.params, **found[1]})",
    "return step, state.replace(params={**state.params, **load(self._frozen, like.params)})",
    "tests/engine/test_frozen.py",
  ),
)


def caught(mutation: Mutation, copy: pathlib.Path) -> tuple[bool, str]:
  """(whether a test fails, which)."""
  file = copy / "jaxgen" / mutation.file
  whole = file.read_text()
  if whole.count(mutation.before) != 1:
    return False, f"{mutation.before!r} stands {whole.count(mutation.before)} times in {mutation.file}"
  try:
    file.write_text(whole.replace(mutation.before, mutation.after))
    words = ["-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *mutation.tests.split()]
    env = {**os.environ, "PYTHONPATH": str(copy)}
    found = subprocess.run([sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True)
  finally:
    file.write_text(whole)
  failed = [line for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
  return found.returncode == 1 and bool(failed), failed[0].split(" - ")[0] if failed else "nothing failed"


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", type=int, help="the number of one mutation, from 1")
  only = parser.parse_args().only
  missed = 0
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "project"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
      (copy / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, copy / name)
    for number, mutation in enumerate(MUTATIONS, 1):
      if only in (None, number):
        good, by = caught(mutation, copy)
        missed += not good
        print(f"{number:2}  {'caught' if good else 'MISSED'}  {mutation.fault}: {by}", flush=True)
  return 1 if missed else 0


if __name__ == "__main__":
  sys.exit(main())
