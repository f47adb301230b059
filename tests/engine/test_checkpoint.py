"""Checkpoints against what was saved: on other meshes, after damage, kills and full disks, and read by plain Orbax."""

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.digests import Digests, blocks, digests
from jaxgen.engine.hashing import MANIFEST, SMALL, UNCHECKED, named_leaves, state_hash
from jaxgen.engine.orbax import TEMPORARY


def make_state(seed: int = 0, width: int = 16) -> State:
  """A state with what states have: an optimizer's NamedTuples, empty entries, a key, several dtypes, a scalar."""
  rng = np.random.default_rng(seed)
  params = {
    "conv": {"kernel": rng.normal(size=(3, 3, 8, width)).astype("f"), "bias": rng.normal(size=width).astype("f")},
    "half": jnp.asarray(rng.normal(size=(8, width)), jnp.bfloat16),
  }
  params = jax.tree.map(jnp.asarray, params)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  opt = jax.tree.map(lambda x: (x + seed).astype(x.dtype), optimizer.init(params))
  return State(
    step=jnp.int32(seed),
    skipped=jnp.int32(0),
    key=jax.random.key(seed),
    params={"unet": params},
    opt={"unet": opt},
    ema={},
    buffers={
      "chain": jnp.asarray(rng.integers(0, 255, (8, 4)), jnp.uint8),
      "keys": jax.random.split(jax.random.key(1), 8),
    },
  )


def like(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(a, b):
  """Bit-equal, leaf by leaf, without this project's hash."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save(folder, *steps, **options):
  """Good checkpoints of make_state(step) for these steps."""
  checkpoints = Checkpoints(folder, **options)
  for step in steps:
    checkpoints.save(step, make_state(step))
  checkpoints.close()
  return checkpoints


def save_all(folder, states):
  """Good checkpoints of these states by step."""
  checkpoints = Checkpoints(folder)
  for step, state in states.items():
    checkpoints.save(step, state)
  checkpoints.close()


def shard(state, devices: int, *, fsdp: bool):
  """The state on a mesh of so many devices, replicated or cut along the first axis that divides."""
  mesh = jax.make_mesh((devices,), ("fsdp",), devices=jax.devices()[:devices])

  def place(x):
    axis = next((i for i, n in enumerate(x.shape) if n % devices == 0), None) if fsdp else None
    return jax.device_put(x, NamedSharding(mesh, P() if axis is None else P(*[None] * axis, "fsdp")))

  return jax.tree.map(place, state)


# What is saved comes back


def test_round_trip(tmp_path):
  state = make_state(3)
  save(tmp_path, 3)
  step, restored = Checkpoints(tmp_path).restore(like(state))
  assert step == 3
  assert_same(restored, state)
  assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)


def test_float64(tmp_path, x64):
  state = {"x": jnp.linspace(0, 1, 7, dtype=jnp.float64), "key": jax.random.key(0, impl="rbg")}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  _, restored = checkpoints.restore(like(state))
  assert restored["x"].dtype == jnp.float64
  assert_same(restored, state)


@pytest.mark.parametrize("saved", ["one", "replicated", "fsdp"])
def test_other_meshes(tmp_path, saved):
  state = make_state(1)
  layouts = {"one": state, "replicated": shard(state, 8, fsdp=False), "fsdp": shard(state, 8, fsdp=True)}
  layouts["fsdp of 4"] = shard(state, 4, fsdp=True)
  assert len(layouts["fsdp"].params["unet"]["conv"]["kernel"].addressable_shards) == 8
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, layouts[saved])
  checkpoints.wait()
  for target in layouts.values():
    _, restored = checkpoints.restore(like(target))
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, target)
    assert state_hash(target) == state_hash(restored) == checkpoints.manifest(1)["sha256"]


def test_state_may_be_donated_at_once(tmp_path):
  """The next step overwrites the state's memory while the save is under way."""
  for number, state in enumerate([make_state(5, width=1024), shard(make_state(5, width=1024), 8, fsdp=True)]):
    step = jax.jit(
      lambda s: jax.tree.map(lambda x: x + x if jnp.issubdtype(x.dtype, jnp.floating) else x, s), donate_argnums=0
    )
    expected, target = jax.tree.map(np.asarray, (state.params, state.opt)), like(state)
    step.lower(state).compile()
    checkpoints = Checkpoints(tmp_path / str(number))
    checkpoints.save(5, state)
    for _ in range(5):
      state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    _, restored = checkpoints.restore(target)
    assert_same(jax.tree.map(np.asarray, (restored.params, restored.opt)), expected)


def test_plain_orbax_reads_it(tmp_path):
  """Without this project: Orbax alone gives the arrays under their names."""
  import orbax.checkpoint as ocp

  state = make_state(2)
  save(tmp_path, 2)
  names = ocp.PyTreeCheckpointer().metadata(tmp_path / "00000002").item_metadata.tree
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
  tree = ocp.PyTreeCheckpointer().restore(tmp_path / "00000002", restore_args=as_numpy)
  np.testing.assert_array_equal(tree["params"]["unet"]["conv"]["kernel"], state.params["unet"]["conv"]["kernel"])
  np.testing.assert_array_equal(tree["key"], jax.random.key_data(state.key))


# The hash and the names


def test_named_leaves():
  assert list(named_leaves({"b": {"y": jnp.zeros(1)}, "a": [jnp.zeros(1), jnp.zeros(1)], "b.x": jnp.zeros(1)})) == [
    "a/0",
    "a/1",
    "b.x",
    "b/y",
  ]
  names = list(named_leaves(make_state()))
  assert names == sorted(names)
  assert "params/unet/conv/kernel" in names
  assert "opt/unet/1/0/mu/conv/kernel" in names
  with pytest.raises(ValueError, match="same name"):
    named_leaves({"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


def test_hash_is_as_documented():
  """Written out by hand, with struct for the bytes."""
  state = {"w": jnp.asarray([[1.5, -2.0]], jnp.float32), "n": jnp.int32(7), "key": jax.random.key(11)}
  digest = lambda data: hashlib.sha256(data).hexdigest()
  lines = (
    f"key key<fry> [] {digest(struct.pack('<2I', 0, 11))}\n"  # threefry's key of a small seed is (0, seed)
    f"n int32 [] {digest(struct.pack('<i', 7))}\n"
    f"w float32 [1, 2] {digest(struct.pack('<2f', 1.5, -2.0))}\n"
  )
  assert state_hash(state) == digest(lines.encode())


def by_hand(x, axis, parts):
  """The documented digest of an array of several blocks."""
  blocks = (np.ascontiguousarray(block) for block in np.split(x, parts, axis))
  return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


@pytest.mark.parametrize(
  ("shape", "axis", "parts"),
  [
    ((64, 2**14), 1, 4),  # 4 MiB: along the longest side, for 64 divides both
    ((1031, 2**11), 1, 8),  # 8 MiB: the only side that a power of two divides
    ((5 * 2**10, 1031), 0, 16),  # 20 MiB: of 32 parts each would be smaller than 1 MiB
    ((3, 2**18 + 1), 1, 1),  # 3 MiB: no power of two divides
  ],
)
def test_hash_of_large_arrays_is_as_documented(shape, axis, parts):
  x = np.random.default_rng(0).random(shape, np.float32)
  expected = by_hand(x, axis, parts) if parts > 1 else hashlib.sha256(x).hexdigest()
  assert digests({"x": x})["x"] == expected
  # On any mesh: along either side, over some devices or all, or whole on each.
  for devices, spec in ((8, P("x", "y")), (8, P(("x", "y"))), (8, P(None, ("y", "x"))), (8, P()), (1, P())):
    mesh = jax.make_mesh((2, devices // 2) if devices > 1 else (1, 1), ("x", "y"), devices=jax.devices()[:devices])
    sharding = NamedSharding(mesh, spec)
    fits = all(n % (devices if isinstance(s, tuple) else 4 if s else 1) == 0 for n, s in zip(shape, spec, strict=False))
    if fits:
      assert digests({"x": jax.device_put(x, sharding)})["x"] == expected


@pytest.mark.parametrize("shape", [(), (0, 5), (7,), (2**21,), (50257, 768), (2, 3, 2**20), (2**24 + 1,)])
def test_blocks_cover_an_array_once_and_are_small(shape):
  count = np.zeros(shape, np.uint8)
  for block in blocks(shape, 4):
    inside = tuple(slice(*edges) for edges in block)
    count[inside] += 1
    assert count[inside].size <= 2**20 or shape == (2**24 + 1,)
  assert (count == 1).all()


def test_checkpoints_of_the_first_format_are_read(tmp_path):
  """Whose digests are of whole arrays, however large."""
  large = lambda seed: {"x": jnp.asarray(np.random.default_rng(seed).random((64, 2**14), np.float32))}
  save_all(tmp_path, {1: large(1), 2: large(2)})
  for step in (1, 2):
    manifest = tmp_path / f"{step:08d}" / MANIFEST
    content = json.loads(manifest.read_text())
    content.pop("manifest_sha256")
    content["format"], content["leaves"]["x"][2] = 1, hashlib.sha256(np.asarray(large(1)["x"])).hexdigest()
    canonical = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({**content, "manifest_sha256": canonical}))
  with pytest.warns(UserWarning, match="00000002 is damaged"):  # it has the digest of another
    step, restored = Checkpoints(tmp_path).restore(like(large(0)))
  assert step == 1
  assert_same(restored, large(1))


def test_hash_tells_states_apart():
  state = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
  others = [
    {"a": jnp.zeros((3, 2)), "b": jnp.zeros(4)},
    {"a": jnp.zeros((2, 3), jnp.int32), "b": jnp.zeros(4)},
    {"a": jnp.zeros((2, 3)), "c": jnp.zeros(4)},
    {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4).at[3].set(-0.0)},
  ]
  assert len({state_hash(s) for s in [state, *others]}) == 5
  assert state_hash(state) == state_hash({"b": np.zeros(4, "f"), "a": np.zeros((2, 3), ">f4").astype("f")})


def test_manifest(tmp_path):
  checkpoints = Checkpoints(tmp_path, meta={"config": "ddpm_digits"})
  checkpoints.save(1, make_state(1))
  checkpoints.rate(1, {"loss": np.float32(0.5)})
  manifest = Checkpoints(tmp_path).manifest(1)
  assert (manifest["step"], manifest["metrics"], manifest["meta"]) == (1, {"loss": 0.5}, {"config": "ddpm_digits"})
  assert manifest["leaves"]["params/unet/half"][:2] == ("bfloat16", (8, 16))
  assert Checkpoints(tmp_path).restore(like(make_state()))[0] == 1
  with pytest.raises(UserError, match="00000002"):
    checkpoints.manifest(2)
  with pytest.raises(UserError, match="00000002 cannot be rated"):
    checkpoints.rate(2, {"loss": 1.0})


# What stays


def test_keep_last(tmp_path):
  assert save(tmp_path, 1, 2, 3, 10, keep=2).steps() == [3, 10]
  assert sorted(os.listdir(tmp_path)) == ["00000003", "00000010"]


@pytest.mark.parametrize(("mode", "stays"), [("min", [2, 5]), ("max", [3, 5])])
def test_keep_best(tmp_path, mode, stays):
  values = {1: 0.5, 2: 0.1, 3: 0.9, 4: float("nan"), 5: 0.5}
  for step, value in values.items():  # reopened each time: the best survives a restart
    checkpoints = Checkpoints(tmp_path, keep=1, best=("loss", mode))
    checkpoints.save(step, make_state(step))
    checkpoints.rate(step, {"loss": value})
  assert checkpoints.steps() == stays
  assert checkpoints.restore(like(make_state()), step=stays[0])[0] == stays[0]


def test_a_good_step_is_not_saved_again(tmp_path):
  save(tmp_path, 4)
  before = (tmp_path / "00000004" / MANIFEST).stat().st_mtime_ns
  save(tmp_path, 4)
  assert (tmp_path / "00000004" / MANIFEST).stat().st_mtime_ns == before


def test_no_checkpoints(tmp_path):
  checkpoints = Checkpoints(tmp_path / "none")
  assert checkpoints.restore(like(make_state())) is None
  assert checkpoints.steps() == []
  with pytest.raises(UserError, match="step 7"):
    checkpoints.restore(like(make_state()), step=7)
  assert not (tmp_path / "none").exists()


def test_a_save_during_which_the_folder_is_lost_makes_no_checkpoint(tmp_path, monkeypatch):
  """What was begun is not declared whole, and nothing is deleted, for it may be another's by then."""

  class Gone(UserError):
    pass

  def check():
    if lost:
      raise Gone

  lost, checkpoints, hash_now = [], Checkpoints(tmp_path, keep=1, check=check), threading.Event()
  checkpoints.save(1, {"x": jnp.arange(3)})
  checkpoints.wait()
  whole = Digests.local
  monkeypatch.setattr(Digests, "local", lambda self: (hash_now.wait(), whole(self))[1])
  checkpoints.save(2, {"x": jnp.arange(3)})
  lost.append(True)
  hash_now.set()
  with pytest.raises(Gone):
    checkpoints.wait()
  checkpoints.close()
  assert checkpoints.steps() == [1]
  assert any(TEMPORARY in name for name in os.listdir(tmp_path))


def test_leftovers(tmp_path):
  """A reader leaves a writer's temporary folders alone; the next writer removes them."""
  save(tmp_path, 1)
  leftovers = [tmp_path / "00000002.orbax-checkpoint-tmp", tmp_path / "00000000.deleting"]
  for path in leftovers:
    shutil.copytree(tmp_path / "00000001", path)
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.steps() == [1]
  assert checkpoints.restore(like(make_state()))[0] == 1
  assert all(path.exists() for path in leftovers)
  checkpoints.save(2, make_state(2))
  checkpoints.close()
  assert sorted(os.listdir(tmp_path)) == ["00000001", "00000002"]


def test_a_reader_whose_checkpoint_is_deleted_takes_the_next(tmp_path, monkeypatch):
  """A run that is training deletes the checkpoint that is being read: no damage is reported."""
  save(tmp_path, 1)
  reader, load = Checkpoints(tmp_path), Checkpoints._load

  def delete_and_load(self, step, target):
    if step == 1:
      save(tmp_path, 2, keep=1)
    return load(self, step, target)

  monkeypatch.setattr(Checkpoints, "_load", delete_and_load)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    step, state = reader.restore(like(make_state()))
  assert step == 2
  assert_same(state, make_state(2))


# Another configuration


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (
      lambda s: make_state(1, width=32),
      r"conv/bias is float32\[16\] in the checkpoint and float32\[32\] here \(and \d+ more",
    ),
    (lambda s: s.replace(step=jnp.float32(0)), r"step is int32\[\] in the checkpoint and float32\[\] here;"),
    (lambda s: s.replace(ema={"unet": jnp.zeros(3)}), "ema/unet is missing in the checkpoint;"),
    (lambda s: s.replace(buffers={"keys": s.buffers["keys"]}), "buffers/chain is in the checkpoint only;"),
    (lambda s: s.replace(key=jax.random.key(0, impl="rbg")), r"key is key<fry>\[\] in the checkpoint and key<rbg>\[\]"),
  ],
)
def test_another_configuration_is_refused(tmp_path, change, words):
  save(tmp_path, 1, 2)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(UserError, match=words):
    checkpoints.restore(like(change(make_state(2))))
  assert checkpoints.restore(like(make_state()))[0] == 2  # and nothing happened to it


# Damage


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


def empty(path):
  os.truncate(path, 0)


def flip(path, position: float):
  data = bytearray(path.read_bytes())
  at = min(int(position * len(data)), len(data) - 1)
  data[at] ^= 1 << (at % 8)
  path.write_bytes(data)


DAMAGES = {
  "truncated": truncate,
  "empty": empty,
  "deleted": os.unlink,
  **{f"flipped at {p}": functools.partial(flip, position=p) for p in (0, 0.2, 0.5, 0.77, 1)},
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two")
  save(folder, 1, 2)
  return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_damaged_in_turn(two_checkpoints, tmp_path, damage):
  """Restoring gives exactly what was saved, or reports the damage and gives exactly the one before; never else."""
  files = sorted(p.relative_to(two_checkpoints) for p in (two_checkpoints / "00000002").rglob("*") if p.is_file())
  assert len(files) > 5
  reported = []
  for number, name in enumerate(files):
    folder = tmp_path / str(number)
    shutil.copytree(two_checkpoints, folder)
    DAMAGES[damage](folder / name)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      step, state = Checkpoints(folder).restore(like(make_state()))
    assert_same(state, make_state(step))
    messages = [str(w.message) for w in caught]
    if step == 1:
      reported.append(name.name)
      assert len(messages) == 1
      assert "00000002 is damaged" in messages[0]
      assert messages[0].endswith("using the one before")
    else:
      assert step == 2
      assert messages == []
      assert name.name in UNCHECKED
  assert MANIFEST in reported


def test_flipped_bits_of_the_arrays(tmp_path):
  """Single bits of the files that hold the arrays' bytes and are too large to be checked beforehand."""
  large = lambda seed: make_state(seed, width=8192)  # 9 MB
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2):
    checkpoints.save(step, large(step))
  checkpoints.close()
  files = [p for p in (tmp_path / "00000002").rglob("d/*") if p.stat().st_size > SMALL]
  rng = random.Random(0)
  for file in files * 2:
    data = file.read_bytes()
    flip(file, rng.random())
    with pytest.warns(UserWarning, match=r"00000002 is damaged \((opt|params)/.* is not what was saved\): using the"):
      step, state = Checkpoints(tmp_path).restore(like(large(0)))
    assert step == 1
    assert_same(state, large(1))
    file.write_bytes(data)
  assert Checkpoints(tmp_path).restore(like(large(0)))[0] == 2


def test_wrong_arrays_that_orbax_reads_without_a_word(tmp_path, monkeypatch):
  """A whole, readable Orbax checkpoint whose arrays are not those of the manifest."""
  for module in ("checkpoint", "hashing"):
    monkeypatch.setattr(f"jaxgen.engine.{module}.files_of", lambda folder: {})
  save(tmp_path, 1, 2)
  save(tmp_path / "other", 3)
  shutil.move(tmp_path / "00000002" / MANIFEST, tmp_path / "other" / "00000003" / MANIFEST)
  shutil.rmtree(tmp_path / "00000002")
  shutil.move(tmp_path / "other" / "00000003", tmp_path / "00000002")
  with pytest.warns(UserWarning, match=r"00000002 is damaged \(.* is not what was saved\): using the one before"):
    step, state = Checkpoints(tmp_path).restore(like(make_state()))
  assert step == 1
  assert_same(state, make_state(1))


def test_damaged_step_is_saved_again(tmp_path):
  save(tmp_path, 1, 2)
  truncate(tmp_path / "00000002" / MANIFEST)
  checkpoints = Checkpoints(tmp_path)
  with pytest.warns(UserWarning, match="is damaged"):
    assert checkpoints.restore(like(make_state()))[0] == 1
  checkpoints.save(2, make_state(2))
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]
  step, state = Checkpoints(tmp_path).restore(like(make_state()))
  assert step == 2
  assert_same(state, make_state(2))


def test_damaged_checkpoints_take_no_good_ones_place(tmp_path):
  save(tmp_path, 1, 3)
  truncate(tmp_path / "00000003" / MANIFEST)
  checkpoints = Checkpoints(tmp_path, keep=2)
  with pytest.warns(UserWarning, match="is damaged"):
    checkpoints.restore(like(make_state()))
  checkpoints.save(2, make_state(2))
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]


def test_nothing_good(tmp_path):
  save(tmp_path, 1, 2)
  for step in ("00000001", "00000002"):
    truncate(tmp_path / step / MANIFEST)
  checkpoints = Checkpoints(tmp_path)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with pytest.raises(UserError, match="no checkpoint in .* can be used .*00000002.*00000001"):
      checkpoints.restore(like(make_state()))
  with pytest.raises(UserError, match="00000002"):
    checkpoints.restore(like(make_state()), step=2)
  with pytest.raises(UserError, match="damaged"):
    checkpoints.manifest(2)


# Disks


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 2 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", folder], capture_output=True).returncode:
    pytest.skip("mounting needs permission")
  yield folder
  subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kilobytes_left", [0, 4, 8, 16, 28, 32, 40, 64, 500])
def test_full_disk(small_disk, capfd, kilobytes_left):
  """Wherever in a save the disk runs full: one sentence, what was saved is intact, nothing is left of the rest."""
  folder = small_disk / "checkpoints"
  large = lambda seed: make_state(seed, width=1024)  # 1 MB
  checkpoints = Checkpoints(folder, keep=1)
  checkpoints.save(1, large(1))
  checkpoints.wait()
  filler = small_disk / "filler"
  with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
    while f.write(bytes(4096)):
      pass
  os.truncate(filler, filler.stat().st_size - 1024 * kilobytes_left)
  message = r"checkpoint of step 2 could not be written .*: the disk is full"
  with pytest.raises(UserError, match=message):  # noqa: PT012
    checkpoints.save(2, large(2))
    checkpoints.save(3, large(3))  # the error of the asynchronous save surfaces here at the latest
  assert os.listdir(folder) == ["00000001"]
  step, state = Checkpoints(folder).restore(like(large(0)))
  assert step == 1
  assert_same(state, large(1))
  filler.unlink()
  checkpoints.save(2, make_state(2))
  checkpoints.close()
  assert checkpoints.steps() == [2]
  assert capfd.readouterr() == ("", "")


def test_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"checkpoint of step 1 could not be written to .*: Not a directory"):
    Checkpoints(tmp_path / "file" / "checkpoints").save(1, make_state(1))


# Kills


def small_state(seed: int):
  """A state that compiles nothing, for processes that live for a second."""
  arrays = np.random.default_rng(seed).normal(size=(6, 4000)).astype("f")
  return {"step": jax.device_put(np.int32(seed)), "params": {str(i): jax.device_put(x) for i, x in enumerate(arrays)}}


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}
WATCHED = []  # (folder, what is called before each change to it)


def _tell(event, words):
  for folder, call in list(WATCHED):
    writes = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in CHANGES:
      path = os.fspath(words[0]) if isinstance(words[0], str | os.PathLike) else ""
      if not os.path.isabs(path) or path.startswith(str(folder)):  # relative ones: of a folder that is being deleted
        call(path if writes else None)


sys.addaudithook(_tell)


@contextlib.contextmanager
def moments(folder, copies):
  """Copies of a folder as a kill would leave it, in the list that it gives: before each change that Python makes to it,
  from any thread, and with each file that is opened to be written empty."""
  found, lock, own = [], threading.Lock(), threading.local()

  def copy(opened):
    if getattr(own, "copies", False):
      return
    own.copies = True
    try:
      with lock:
        for emptied in [None, opened][: 1 + (opened is not None)]:
          target = copies / str(len(found))
          for path in [folder, *sorted(folder.rglob("*"))]:
            new = target / path.relative_to(folder)
            with contextlib.suppress(FileNotFoundError):  # a thread of TensorStore's has renamed it
              new.mkdir(parents=True) if path.is_dir() else shutil.copyfile(path, new)
          if emptied:
            (target / os.path.relpath(emptied, folder)).write_bytes(b"")
          found.append(target)
    finally:
      own.copies = False

  WATCHED.append((folder, copy))
  try:
    yield found
  finally:
    WATCHED.remove((folder, copy))


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
  """While two are saved, one is rated and one is deleted: every start afterwards finds a whole one, and never an older
  one than the start a moment before."""
  folder = tmp_path / "saved"
  save_all(folder, {1: small_state(1)})
  with moments(folder, tmp_path / "copies") as found:
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(2, small_state(2))
    checkpoints.wait()
    checkpoints.rate(2, {"loss": 1.0})
    checkpoints.save(3, small_state(3))
    checkpoints.close()
  assert checkpoints.steps() == [3]
  newest, interrupted = [], 0
  for number, copy in enumerate(found):
    interrupted += any("tmp" in name for name in os.listdir(copy))
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      step, state = Checkpoints(copy).restore(small_state(0))
      for older in Checkpoints(copy).steps():  # what bears a step's name is whole
        Checkpoints(copy).restore(small_state(0), step=older)
    assert_same(state, small_state(step))
    newest.append(step)
    if number % 10 == 0:
      save_all(copy, {4: small_state(4)})
      assert set(os.listdir(copy)) <= {f"{step:08d}" for step in (1, 2, 3, 4)}
  assert newest == sorted(newest)
  assert set(newest) == {1, 2, 3}
  assert interrupted > 20


def save_for_ever(folder, report):
  """Resumes and saves step after step until it is killed; reports what it finds to be on the disk."""
  checkpoints = Checkpoints(folder, keep=2)
  found = checkpoints.restore(small_state(0))
  step = 0
  if found is not None:
    step, state = found
    assert_same(state, small_state(step))
  report.send(step)
  while True:
    step += 1
    checkpoints.save(step, small_state(step))
    report.send(step - 1)  # the one before is on the disk
    time.sleep(0.01 * (step % 3))


@pytest.mark.nightly
@pytest.mark.processes(21)
def test_killed_while_saving(tmp_path):
  """SIGKILL at random moments: the next start finds a whole checkpoint, no older than the last that was finished."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["jaxgen.engine.checkpoint", "orbax.checkpoint", "optax", "flax"])
  rng = random.Random(0)
  newest, leftovers = 0, 0
  for _ in range(20):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=save_for_ever, args=(tmp_path, sender))
    process.start()
    sender.close()
    assert receiver.recv() == newest
    for _ in range(rng.randint(1, 3)):
      finished = receiver.recv()
    time.sleep(rng.uniform(0, 0.2))
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
      while True:
        finished = receiver.recv()
    leftovers += any("tmp" in name for name in os.listdir(tmp_path))
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      found = Checkpoints(tmp_path).restore(small_state(0))
    newest, state = found or (0, small_state(0))
    assert newest in (finished, finished + 1)
    assert_same(state, small_state(newest))
  assert leftovers >= 5, "the kills did not hit saves under way"
  assert newest >= 20


def test_plain_files_among_the_checkpoints_are_in_nobodys_way(tmp_path):
  """One is called as the next checkpoint will be."""
  state = {"w": jnp.arange(3.0)}
  with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
    checkpoints.save(1, state)
    checkpoints.wait()
    for name in ("00000002", "notes.txt", ".DS_Store"):
      (tmp_path / name).write_text("not a checkpoint")
    checkpoints.save(2, state)
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    assert checkpoints.restore(state)[0] == 2
    assert (tmp_path / "00000002.aside").read_text() == "not a checkpoint"
