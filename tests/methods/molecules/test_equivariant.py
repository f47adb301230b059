"""Equivariant diffusion of molecules: what does not depend on how they lie, and a cloud whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.transform import Rotation

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.data import Dataset
from jaxgen.diffusion.solvers import ancestral
from jaxgen.methods.molecules import equivariant
from jaxgen.methods.molecules.equivariant import Molecules, bound, molecular_diffusion, polynomial
from jaxgen.nn.graphs.egnn import EGNN

KIND = Molecules((1, 6, 8), {2: 1, 3: 2, 5: 1}, position_scale=1.5)
SPEC = Spec((5, 4), feature="molecule")


def molecules(count):
  rng = np.random.default_rng(0)
  size = rng.choice([2, 3, 5], count)
  x = np.concatenate([rng.normal(size=(count, 5, 3)), rng.choice([1.0, 6, 8], (count, 5, 1))], axis=-1)
  x = np.where(np.arange(5)[:, None] < size[:, None, None], x, 0)
  return jnp.asarray(x)


def turned(x, Q):
  return jnp.concatenate([x[..., :3] @ Q.T, x[..., 3:]], axis=-1)


@pytest.fixture(scope="module")
def model():
  import conftest

  with conftest.enable_x64():
    network = EGNN(6, 1, dtype="float64", param_dtype="float64")
    method = molecular_diffusion(network, KIND, SPEC, optax.adam(1e-3), steps=10, terms=3)
    batch = {"molecule": molecules(6), "index": jnp.arange(6)}
    state = method.init(jax.random.key(0), batch)
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    yield method, state.replace(params=jax.tree.unflatten(tree, leaves)), batch


ROTATION = Rotation.random(random_state=1).as_matrix()


def test_nothing_depends_on_how_molecules_lie(model, monkeypatch, x64):
  """Where noise turns with the molecules, the loss and the likelihood stay and a trajectory turns, to 1e-10."""
  method, state, batch = model
  turn, plain, normal = [None], equivariant.noise, ancestral.normal
  monkeypatch.setattr(equivariant, "noise", lambda *args: turned(plain(*args), turn[0]))
  monkeypatch.setattr(ancestral, "normal", lambda *args: turned(normal(*args), turn[0]))

  @jax.jit
  def run(Q, shift):
    turn[0] = Q
    moved = turned(batch["molecule"], Q) + shift * (batch["molecule"][..., 3:] > 0)
    moved = dict(batch, molecule=moved)
    nll = method.evaluate(state, moved, jax.random.key(2))["nll_nats_density"]
    return method.step(state, moved)[1]["loss"], nll, method.sample(state, jax.random.split(jax.random.key(3), 6))

  before = run(jnp.eye(3), jnp.zeros(4))
  for Q in (ROTATION, -ROTATION, np.diag([1.0, -1.0, 1.0])):
    after = run(jnp.asarray(Q), jnp.array([3.0, -1.0, 2.0, 0.0]))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-10)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-10)
    np.testing.assert_allclose(after[2], turned(before[2], Q), rtol=0, atol=1e-10 * np.abs(after[2]).max())
  assert np.abs(before[2][..., :3]).max() > 1e-2


def test_samples_have_their_centre_of_mass_at_0(model, x64):
  method, state, _ = model
  x = np.asarray(method.sample(state, jax.random.split(jax.random.key(4), 200)))
  there = x[..., 3] > 0
  assert set(np.unique(there.sum(1))) == {2, 3, 5}
  counts = np.array([(there.sum(1) == n).sum() for n in (2, 3, 5)])
  assert (abs(counts - np.array([50, 100, 50])) < 30).all()
  assert set(np.unique(x[..., 3])) <= {0.0, 1, 6, 8}
  np.testing.assert_allclose(x[..., :3].sum(1), 0, atol=1e-9)
  assert (x[~there] == 0).all()


def test_atoms_may_come_in_any_order(model, monkeypatch, x64):
  """Where noise moves with the atoms, the loss and the likelihood stay and a trajectory moves, to 1e-10: of molecules
  that fill their arrays."""
  method, state, batch = model
  order, plain, normal = [None], equivariant.noise, ancestral.normal
  whole = batch["molecule"][:, :2].repeat(3, 1)[:, :5].at[..., :3].add(jnp.arange(15.0).reshape(5, 3) % 4)

  def reordered(keys, mask, *rest):
    return plain(keys, mask[:, jnp.argsort(order[0])], *rest)[:, order[0]]

  monkeypatch.setattr(equivariant, "noise", reordered)
  monkeypatch.setattr(ancestral, "normal", lambda *args: normal(*args)[:, order[0]])

  @jax.jit
  def run(permutation):
    order[0] = permutation
    moved = dict(batch, molecule=whole[:, permutation])
    nll = method.evaluate(state, moved, jax.random.key(2))["nll_nats_density"]
    return method.step(state, moved)[1]["loss"], nll, method.sample(state, jax.random.split(jax.random.key(3), 12))

  permutation = jnp.array([3, 1, 4, 0, 2])
  before, after = run(jnp.arange(5)), run(permutation)
  np.testing.assert_allclose(after[0], before[0], rtol=1e-10)
  np.testing.assert_allclose(after[1], before[1], rtol=1e-10)
  full = (np.asarray(before[2])[..., 3] > 0).all(1)
  assert full.sum() > 1
  scale = np.abs(before[2]).max()
  np.testing.assert_allclose(after[2][full], before[2][full][:, permutation], rtol=0, atol=1e-10 * scale)


def per_dimension(s, std, scale, steps):
  """The mean of (M3) per dimension of a cloud N(0, std^2) with the exact eps, less the cloud's entropy; in numpy."""
  t = np.arange(steps + 1) / steps
  alpha2 = (1 - 2e-5) * (1 - t**2) ** 2 + 1e-5
  sigma2 = 1e-5 + (1 - 2e-5) * (2 * t**2 - t**4)
  gamma = np.log(sigma2 / alpha2)
  error = alpha2 * s**2 / (alpha2 * s**2 + sigma2)  # of eps given z_t, a Gaussian
  prior = 0.5 * (sigma2[-1] - 1 - np.log(sigma2[-1]) + alpha2[-1] * s**2)
  nats = prior + 0.5 * (np.expm1(np.diff(gamma)) * error[1:]).sum() + 0.5 * (gamma[0] + np.log(2 * np.pi) + error[0])
  return nats + np.log(scale) - 0.5 * np.log(2 * np.pi * np.e * std**2)


@pytest.mark.parametrize("charges", [True, False])
def test_the_likelihood_of_a_gaussian_cloud(charges, x64):
  """With the exact eps the bound is -log p of N atoms of one type in 3 (N - 1) dimensions, in angstrom, and of N; but
  for what T steps lose, which is known and goes to 0."""
  kind, std, n = Molecules((6,), {2: 1, 4: 3}, position_scale=2.0, charges=charges), 1.3, 1500
  rng = np.random.default_rng(2)
  there = np.arange(4) < np.where(rng.random(n) < 0.25, 2, 4)[:, None]
  places = np.where(there[..., None], rng.normal(size=(n, 4, 3)), 0) * std
  places = np.where(there[..., None], places - places.sum(1, keepdims=True) / there.sum(1)[:, None, None], 0)
  x = jnp.asarray(np.concatenate([places, 6.0 * there[..., None]], axis=-1))
  schedule, z = polynomial(1e-5), kind.encode(x)[0]
  s = std / kind.position_scale

  def predict(z_t, t):
    alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
    eps = sigma / (alpha**2 * s**2 + sigma**2) * z_t[..., :3]
    return jnp.concatenate([eps, (z_t[..., 3:] - alpha * z[..., 3:]) / sigma], axis=-1)

  found = jax.jit(lambda x, keys: bound(kind, schedule, predict, x, keys, steps=1000, terms=250))(
    x, jax.random.split(jax.random.key(0), n)
  )
  D = 3 * (there.sum(1) - 1)
  exact = (places**2).sum((1, 2)) / (2 * std**2) + D / 2 * np.log(2 * np.pi * std**2)
  exact -= np.log(np.where(there.sum(1) == 2, 0.25, 0.75))
  gap = per_dimension(s, std, 2.0, 1000)
  away = np.asarray(found) - exact - gap * D
  error = away.std() / np.sqrt(n)
  assert abs(away.mean()) < 4 * error, (away.mean(), error)
  assert 8 * error < 1.5 * np.log(2 * np.pi * np.e * std**2)  # what three dimensions too many would add
  assert 0 < per_dimension(s, std, 2.0, 200_000) < 0.002 < gap


def test_what_has_no_probability_has_an_infinite_bound():
  """Not one of 0 nats for the type: an unknown atom, or a size, that only a later batch has."""
  x = np.zeros((3, 4, 4), np.float32)
  x[:, :2, 0], x[:, :2, 3] = (0, 1), 6
  x[1, 0, 3] = 9
  x[2, 2] = 0, 1, 0, 6
  kind, exact = Molecules((1, 6), {2: 1}), lambda z_t, t: jnp.zeros_like(z_t)
  of = jax.jit(lambda x, keys: bound(kind, polynomial(), exact, x, keys, steps=10))
  found = of(jnp.asarray(x), jax.random.split(jax.random.key(0), 3))
  assert np.isfinite(found[0])
  assert np.all(np.isposinf(found[1:]))


def test_wrong_choices_are_one_sentence(tmp_path):
  make = lambda kind, spec=SPEC, **more: molecular_diffusion(EGNN(4, 1), kind, spec, optax.sgd(0.1), **more)
  source = lambda name, atoms=5: Dataset(name, {"molecule": jax.ShapeDtypeStruct((atoms, 4), np.float32)}).source(
    "train"
  )
  file = tmp_path / "m.npz"
  np.savez(file, positions=np.zeros((2, 3, 3)), numbers=np.ones((2, 3), int), split=np.array(["train", "train"]))
  damaged = tmp_path / "damaged.npz"
  np.savez(damaged, positions=np.zeros((2, 3, 3)), numbers=np.ones((2, 4), int), split=np.array(["train", "train"]))
  words_for_numbers = tmp_path / "words.npz"
  np.savez(words_for_numbers, positions=np.zeros((1, 3, 3)), numbers=np.full((1, 3), "C"), split=np.array(["train"]))
  where = np.zeros((2, 3, 3))
  where[1, 2, 0] = np.nan

  def odd(name, **change):
    arrays = dict(positions=np.zeros((2, 3, 3)), numbers=np.ones((2, 3), int), split=np.array(["train", "train"]))
    np.savez(tmp_path / f"{name}.npz", **(arrays | change))
    return source(f"molecules:{tmp_path / name}.npz")

  batch = {"molecule": np.full((2, 5, 4), 16.0, np.float32)}
  small = {"molecule": np.zeros((2, 5, 4), np.float32)}
  small["molecule"][:, :4, 3] = 6
  for do, words in [
    (lambda: make(KIND._replace(sizes={1: 3, 2: 1})), "a molecule of 1 atoms"),
    (lambda: make(KIND._replace(sizes={6: 3})), "6 atoms do not fit arrays of 5"),
    (lambda: make(KIND._replace(numbers=())), "needs atomic numbers"),
    (lambda: make(KIND, Spec((5, 3), feature="molecule")), "positions and atomic numbers"),
    (lambda: make(KIND, terms=0), "1 to 1000 terms"),
    (lambda: make(KIND).check(batch), "atomic number 16, and the model has"),
    (lambda: make(KIND).check(small), "molecules of 4 atoms, to which"),
    (lambda: make(KIND).check({"molecule": np.eye(5, 4, 3)[None] * 6}), "molecules of 1 atoms, which have no shape"),
    (lambda: polynomial(0.7), "between 0 and 1/2"),
    (lambda: source(f"molecules:{file}", 2), "molecules of 3 atoms, and the config has room for 2"),
    (lambda: source(f"molecules:{damaged}"), r"of float64 \[2, 3, 3\], int64 \[2, 4\], .*: they must be numbers"),
    (lambda: source(f"molecules:{words_for_numbers}"), "they must be numbers"),
    (lambda: odd("nan", positions=where), "positions that are not finite in 1 of 2 molecules, .* is number 1,"),
    (lambda: odd("empty", numbers=np.array([[0, 0, 0], [1, 1, 0]])), "no atoms in 1 of 2 molecules, .* is number 0,"),
    (lambda: odd("below", numbers=np.full((2, 3), -6)), "atomic numbers that are not 0, 1, 2"),
    (lambda: odd("half", numbers=np.full((2, 3), 6.5)), "atomic numbers that are not 0, 1, 2"),
    (lambda: odd("bytes", split=np.array([b"train", b"train"])), "they must be numbers .* and texts"),
    (lambda: source(f"molecules:{tmp_path / 'none.npz'}"), "there is no file"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
