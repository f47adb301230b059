"""Networks that keep less for the backward pass compute the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.engine.config import load_config
from jaxgen.nn import SongUNet, UNet
from jaxgen.nn.blocks.attention import Block, Blocks
from jaxgen.nn.unets.adm import ADM
from jaxgen.nn.unets.refinenet import RefineNet
from jaxgen.nn.unets.vdm import ScoreNetwork
from jaxgen.nn.vision.resnet import ResNet


def square(network, x, t, params):
  y = network.apply(params, x, t, index=jnp.arange(len(x)), rngs={"dropout": jax.random.key(2)})
  return (y**2).mean()


@pytest.mark.parametrize("kind", [UNet, SongUNet])
def test_a_unet_that_computes_its_blocks_again_is_the_same(kind, x64):
  """Parameters, outputs and gradients, with dropout; and a gradient keeps less."""
  options = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(), dropout=0.2, out_channels=1)
  options |= dict(dtype=jnp.float64, param_dtype=jnp.float64)
  x, t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.arange(4.0)
  found = []
  for remat in (False, True):
    network = kind(**options, remat=remat)
    params = jax.eval_shape(network.init, jax.random.key(0), x, t)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = structure.unflatten([jax.random.normal(k, s.shape) / 4 for k, s in zip(keys, leaves, strict=True)])
    loss = partial(square, network, x, t)
    kept = sum(r.size for r in jax.tree.leaves(jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)))
    found.append((structure, kept, *jax.jit(jax.value_and_grad(loss))(params)))
  (structure, kept, value, gradient), (other, less, other_value, other_gradient) = found
  assert structure == other
  assert less < kept / 2
  np.testing.assert_allclose(value, other_value, rtol=1e-12)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), gradient, other_gradient)


NETWORKS = {
  "ADM": partial(ADM, 8, (1, 2), 1, attention=(), dropout=0.2),
  "ScoreNetwork": partial(ScoreNetwork, -13.3, 5.0, 8, 2, 0.2),
  "RefineNet": partial(RefineNet, 8),
  "ResNet": partial(ResNet, (1, 1), 8, 10, small=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_keeps_less_of_blocks_that_are_computed_again(name):
  """By shapes; parameters have the same names."""
  x, t, key = jnp.zeros((4, 16, 16, 3)), jnp.ones(4), jax.random.key(0)
  inputs = (x,) if name == "ResNet" else (x, t)
  found = []
  for remat in (False, True):
    network = NETWORKS[name](remat=remat)
    variables = jax.eval_shape(network.init, key, *inputs)

    def kept(variables, network=network):
      statistics = {name: x for name, x in variables.items() if name != "params"}
      options = dict(index=jnp.arange(4), rngs={"dropout": key}, mutable=list(statistics))
      f = lambda params: network.apply({"params": params, **statistics}, *inputs, **options)[0]
      return jax.vjp(f, variables["params"])[1]

    residuals = jax.tree.leaves(jax.eval_shape(kept, variables))
    found.append((jax.tree.structure(variables), sum(x.size for x in residuals)))
  (structure, all_of_them), (other, some) = found
  assert structure == other
  assert some < 0.75 * all_of_them


# Whose docstring's cost is one of accelerators.
AT_SIZE = ["ddpm", "edm", "flow_matching", "improved_ddpm", "ncsn", "score_sde_cifar10", "vdm", "dit"]
AT_SIZE += ["backbone_cifar10", "imagenet", "gpt2"]


@pytest.mark.parametrize("name", AT_SIZE)
def test_configs_at_size_have_flags_for_memory(name):
  config = load_config(name)
  assert "remat" in config.parameters
  assert {"dtype", "bfloat16"} & set(config.parameters)
  assert "microbatches" in config.parameters or name == "backbone_cifar10"  # whose statistics are of the whole batch


@pytest.mark.parametrize("looped", [False, True])
def test_the_compiler_is_told_to_compute_again_outside_of_loops_alone(looped):
  """Where it sees both computations side by side it would undo it; in a loop it cannot, and being told costs."""
  block = partial(Block, 2, 16)
  network = Blocks(block, 2) if looped else block()
  x = jnp.ones((2, 5, 8))
  params = jax.eval_shape(network.init, jax.random.key(0), x)
  gradient = jax.grad(lambda params, x: (network.apply(params, x) ** 2).sum())
  barriers = jax.jit(gradient).lower(params, x).as_text().count("optimization_barrier")
  assert barriers == (0 if looped else 3)  # of two norms and one attention
