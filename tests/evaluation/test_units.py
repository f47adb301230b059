"""Likelihoods in one unit, on stand-ins for a run whose answers are known."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import Dataset, digits
from jaxgen.data.transforms import pad, scale
from jaxgen.evaluation import likelihood as m

LN2 = math.log(2)


def run_of(data=None, **per_example):
  return SimpleNamespace(
    data=data or digits(),
    config=SimpleNamespace(name="stand_in"),
    evaluate_split=lambda split: {name: np.asarray(x) for name, x in per_example.items()},
  )


def tokens(length, levels):
  return Dataset("some:text", {"tokens": jax.ShapeDtypeStruct((length,), np.int32)}, levels=levels)


def test_images():
  numbers = m.likelihood()(run_of(nll_nats=np.array([64 * LN2 * b for b in (1.0, 2.0, 3.0, 6.0)])))
  assert numbers["test_bits_per_dim_17_levels"] == pytest.approx(3)  # 64 values an image
  assert numbers["test_nll_nats_17_levels"] == pytest.approx(3 * 64 * LN2)
  assert numbers["test_bits_per_dim_17_levels_se"] == pytest.approx(math.sqrt(14 / 3) / 2)
  assert numbers["test_nll_nats_17_levels_se"] == pytest.approx(math.sqrt(14 / 3) / 2 * 64 * LN2)
  assert numbers["test_examples"] == 4
  assert all(type(value) is float for value in numbers.values())


def test_bits_are_per_dimension_of_what_the_method_sees():
  padded = digits(transforms=(scale(17), pad(16)))
  numbers = m.likelihood("train")(run_of(padded, nll_nats=[256 * LN2] * 2))
  assert numbers["train_bits_per_dim_17_levels"] == pytest.approx(1)


def test_how_it_was_found_is_in_the_name():
  numbers = m.likelihood()(run_of(nll_nats_elbo=[64.0, 64.0], nll_nats_importance_50=[32.0, 32.0]))
  assert numbers["test_nll_nats_17_levels_elbo"] == 64
  assert numbers["test_bits_per_dim_17_levels_importance_50"] == pytest.approx(0.5 / LN2)


def test_real_numbers():
  real = Dataset("points", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  assert m.likelihood()(run_of(real, nll_nats_density=[3.0, 1.0]))["test_nll_nats_density"] == 2
  with pytest.raises(UserError, match=r"points has no levels.*nll_nats_density"):
    m.likelihood()(run_of(real, nll_nats=[3.0]))


def test_tokens_of_examples_of_different_lengths():
  """Against a bootstrap of the ratio of sums."""
  rng = np.random.default_rng(0)
  count = rng.integers(5, 20, 2000)
  nats = 1.5 * count + rng.normal(size=2000)
  numbers = m.likelihood()(run_of(tokens(20, 65), nll_nats=nats, tokens=count))
  assert numbers["test_nats_per_token_65_levels"] == pytest.approx(nats.sum() / count.sum())
  assert numbers["test_bits_per_token_65_levels"] == pytest.approx(nats.sum() / count.sum() / LN2)
  assert numbers["test_nll_nats_65_levels"] == pytest.approx(nats.mean())
  drawn = [rng.integers(0, 2000, 2000) for _ in range(500)]
  spread = np.std([nats[i].sum() / count[i].sum() for i in drawn])
  assert numbers["test_nats_per_token_65_levels_se"] == pytest.approx(spread, rel=0.15)


def test_what_the_method_does_not_compute():
  with pytest.raises(UserError, match="stand_in gives no likelihoods.*only correct"):
    m.likelihood()(run_of(correct=[1.0]))


def test_a_standard_error_is_no_likelihood():
  assert m.unit("test_nll_nats_2_levels_se") is None
  assert m.unit("test_nll_nats_2_levels_ais_5_se") is None
  assert m.unit("test_bits_per_dim_17_levels_given_label")[1] == "given_label"


def test_density_of_dequantized_values():
  """NICE's 1,980.5 nats on [0, 1] are the 4.36 bits per dimension that later papers quote of it."""
  nats = m.integers_from_density(-1980.5, values=784, levels=256)
  assert m.bits_per_value(nats, 784) == pytest.approx(4.356, abs=1e-3)
  # A uniform density on an interval of any width is the uniform distribution of the integers.
  for width in (1.0, 2.0, 256.0):
    uniform = m.integers_from_density(10 * math.log(width), values=10, levels=256, width=width)
    assert uniform == pytest.approx(10 * math.log(256))


def test_a_table_has_one_unit():
  nade = m.Row("NADE", "binarized MNIST, test", "test_nll_nats_2_levels", 88.9, 0.2)
  vae = m.Row("VAE", "binarized MNIST, test", "test_nll_nats_2_levels_importance_5000", 87.4)
  lines = m.table([nade, vae]).splitlines()
  assert [line.split("|")[1].strip() for line in lines[2:]] == ["VAE", "NADE"]
  assert "importance_5000" in lines[2]
  for other in (
    nade._replace(number="test_bits_per_dim_2_levels"),
    nade._replace(number="test_nll_nats_256_levels"),
    nade._replace(number="test_nll_nats_density"),
    nade._replace(number="train_nll_nats_2_levels"),
    nade._replace(data="digits, test"),
  ):
    with pytest.raises(UserError, match="no common unit"):
      m.table([nade, other])
  with pytest.raises(UserError, match="not a likelihood with a unit in its name"):
    m.table([nade, nade._replace(number="test_nll_nats")])


def test_an_unnormalised_model_has_its_partition_function_added():
  """p(x) = exp(-U(x)) / Z with log Z = 7 +- 4 beside 3 +- 1 of the mean energy."""
  energies = np.array([1.0, 3.0, 5.0])
  found = m.likelihood(partition=lambda state, key: (7.0, 4.0, "_ais_9"))
  run = run_of(unnormalised_nll_nats=energies)
  run.state = None
  numbers = found(run)
  assert numbers["test_nll_nats_17_levels_ais_9"] == pytest.approx(10)
  error = math.hypot(2 / math.sqrt(3), 4)
  assert numbers["test_nll_nats_17_levels_ais_9_se"] == pytest.approx(error)
  assert numbers["test_bits_per_dim_17_levels_ais_9"] == pytest.approx(10 / 64 / LN2)
  assert numbers["test_bits_per_dim_17_levels_ais_9_se"] == pytest.approx(error / 64 / LN2)
  assert (numbers["log_z_ais_9"], numbers["log_z_ais_9_se"]) == (7, 4)
  with pytest.raises(UserError, match="gives no likelihoods"):
    m.likelihood()(run)
