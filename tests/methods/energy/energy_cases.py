"""The energy-based methods at sizes for `test_every_method.py`.

Energies of data and of samples, and players against each other, are games: their losses need not fall.
"""

from functools import partial

import optax
from cases import Case
from flax import linen as nn

from jaxgen import data
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.data.transforms import dequantize
from jaxgen.mcmc.langevin import langevin, mala
from jaxgen.mcmc.resampling import Chains
from jaxgen.methods.energy.ebm import Replay, diverged, ebm
from jaxgen.methods.energy.multigrid import multigrid
from jaxgen.methods.energy.nce import flow_contrastive, nce
from jaxgen.methods.energy.rbm import cd, persistent, rbm, tempered
from jaxgen.methods.energy.score_matching import score_matching, sliced
from jaxgen.methods.likelihood.flow import flow
from jaxgen.nn.energy.ebm import EnergyConvNet, EnergyMLP
from jaxgen.nn.energy.rbm import RBM
from jaxgen.nn.flows.nice import nice
from jaxgen.probability.noise import of_method

DIGITS = data.digits()
BITS = data.binarized(data.digits())
DEQUANTIZED = data.digits(transforms=(dequantize(17),))


def small_ebm(dtype):
  # Adjusted chains: a rejection is a choice that rounding does not change. SGD, which makes nothing of rounding.
  method = ebm(
    EnergyMLP((16,), 1.0, dtype=dtype, param_dtype=dtype),
    partial(mala, step=0.02),
    3,
    spec=DIGITS.spec,
    replay=Replay(48),
    alpha=0.1,
    data_noise=0.03,
    optimizer=optax.sgd(0.01, 0.9),
  )
  return rollback(averaged(method, 0.9), diverged(50.0), every=3)


def short_run_ebm(dtype):
  network = EnergyConvNet(((4, 3, 2),), reference=1.0, dtype=dtype, param_dtype=dtype)
  return ebm(network, partial(langevin, step=0.02), 3, spec=DIGITS.spec, optimizer=optax.sgd(0.01, 0.9))


def small_multigrid(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  networks = {4: EnergyMLP((8,), 1.0, **dtypes), 8: EnergyConvNet(((4, 3, 2),), reference=1.0, **dtypes)}
  sampler = partial(langevin, step=0.02)
  return averaged(multigrid(networks, sampler, 2, spec=DIGITS.spec, means=24, optimizer=optax.sgd(0.01, 0.9)), 0.9)


def small_nce(dtype):
  method = nce(
    EnergyMLP((16,), 1.0, dtype=dtype, param_dtype=dtype),
    spec=DEQUANTIZED.spec,
    optimizer=optax.adam(5e-3),
    noise_optimizer=optax.adam(1e-3),
    nu=2,
    chains=Chains(5, partial(mala, step=0.01), 2),
  )
  return averaged(method, {"network": 0.9})


def small_flow_contrastive(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  bijection = nice((16,), couplings=2, kernel_init=nn.initializers.lecun_normal(), **dtypes)
  real = DEQUANTIZED.spec._replace(levels=None)
  method = flow_contrastive(
    EnergyMLP((16,), 1.0, **dtypes),
    of_method(flow(bijection, spec=real, optimizer=optax.identity()), real),
    spec=DEQUANTIZED.spec,
    optimizer=optax.sgd(1e-3),
    flow_optimizer=optax.sgd(1e-4),
    energy_steps=2,
  )
  return averaged(method, 0.9)


def small_score_matching(dtype):
  method = score_matching(
    EnergyConvNet(((4, 3, 2),), reference=1.0, dtype=dtype, param_dtype=dtype),
    sliced(),
    energy=True,
    spec=DEQUANTIZED.spec,
    optimizer=optax.adam(2e-3),
    chains=Chains(1, partial(langevin, step=0.01), 2),
  )
  return averaged(method, 0.9)


def small_rbm(dtype, negative):
  network = RBM(64, 24, param_dtype=dtype)
  method = rbm(network, spec=BITS.spec, optimizer=optax.sgd(0.1, 0.9), negative=negative, sampling_steps=5)
  return averaged(method, 0.9)


CASES = {
  "EBM, replay buffer": Case(small_ebm, DIGITS, falls=None),
  "EBM, short runs": Case(short_run_ebm, DIGITS, falls=None),
  "multi-grid": Case(small_multigrid, DIGITS, whole="buffers", falls=None),
  "NCE": Case(small_nce, DEQUANTIZED, falls="network/loss"),
  "flow-contrastive": Case(small_flow_contrastive, DEQUANTIZED, falls=None),
  "score matching, sliced": Case(small_score_matching, DEQUANTIZED, unit=("score_matching", {"loss": 64})),
  # The difference of two free energies says nothing of progress.
  "RBM, CD-2": Case(partial(small_rbm, negative=cd(2)), BITS, falls="reconstruction"),
  "RBM, persistent": Case(partial(small_rbm, negative=persistent(2, 16)), BITS, falls="reconstruction"),
  # Its reconstructions get better by less than a tenth in 200 steps: the chains of its tests are few and hot.
  "RBM, tempered": Case(partial(small_rbm, negative=tempered(1, 16, (0.0, 0.5, 1.0))), BITS, falls=None),
}
