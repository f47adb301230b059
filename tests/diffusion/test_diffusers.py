"""Our solvers beside diffusers' schedulers, step by step, and our tables beside theirs: fixtures/make_schedulers.py.

A schedule here counts its time as diffusers does: by timestep + 1, or by what it calls sigma. Each step starts from our
own last sample. Compared is every step of every case, in float64 to 1e-7 of max(1, max |x|), but for two kinds:

- Our solvers do not lower their order at the end, but for a last step to clean data. Where diffusers does
  (lower_order_final below 15 steps, euler_at_final; UniPC always), the comparison ends there.
- DDPM's "fixed_large" and "learned_range" add noise to clean data where the grid's last timestep is not 0. Ho et al.
  2020, Algorithm 2, add none there, nor do we.

Not in the fixture, for want of a counterpart:

- thresholding, of the prediction and not of the solver; the betas "laplace" and "exp", diffusers' own, as schedules (as
  sigmas "exp" is compared); variance_type "fixed_large_log", nan there, and "learned", a variance and not a fraction.
- PNDM with timestep_spacing "linspace": the network is called at the grid's times, while the sample is moved by T // n,
  which is less. With v_prediction: it averages v over several times and converts that with one alpha; the paper
  averages eps.
- s_churn, of Euler and EDM: the network is called before the noise is added, in Karras et al. 2022, Algorithm 2, after.
- DPM-Solver++ 2M, 3M and 2S with solver_type "heun": the line through x_0 integrated exactly, where Lu et al. 2022,
  Algorithms 1 and 2, have "midpoint". (In the noise form it is DEIS-2, and compared.)
- DPM-Solver-3 multistep in the noise form: as 3M without its factor 2. DEIS-3 has the factor.
- DPM-Solver-3 single-step: the formulas of its inner and outer steps are both "midpoint" or both "heun". Lu et al.
  2022, eq. 3.7, have "heun" inside and "midpoint" outside: that is compared, put together of diffusers' own two.
  DPM-Solver++ 3S, and grids that are not uniform in lambda, where diffusers' inner points are others.
- SDE-DPM-Solver++ of order 3, or single-step of order 2; "sde-dpmsolver"; DPM2 ancestral.
- UniPC's disable_corrector at some steps (ours is on, or off), and its solver_p.
- Flow matching with stochastic_sampling, whose noise is all new in each step; with invert_sigmas; in the multistep
  solvers with predictions of eps, x_0 or v, which they convert as if alpha^2 + sigma^2 were 1. Flow-match Heun, in t.
"""

import collections
import functools
import importlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import (
  GRIDS,
  PREDICTIONS,
  Schedule,
  cosine,
  edm,
  linear,
  predictions,
  rectified_flow,
  scaled_linear,
  shift,
  sigmoid_betas,
  zero_terminal_snr,
)
from jaxgen.diffusion.guidance import clipped
from jaxgen.diffusion.sampling import sample
from jaxgen.diffusion.schedules import circle
from jaxgen.diffusion.times import c_noise

MODULES = {
  name: importlib.import_module(f"jaxgen.diffusion.solvers.{name}")
  for name in (
    *("ancestral", "ddim", "deis", "dpm2", "dpm_solver", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde_2m", "euler"),
    *("euler_ancestral", "heun", "lms", "pndm", "unipc"),
  )
}
FIXTURE = dict(np.load(pathlib.Path(__file__).parents[1] / "fixtures/schedulers.npz"))
CASES = collections.defaultdict(list)
for case in json.loads(str(FIXTURE["cases"])):
  CASES[case["name"]].append(case)

# --- Schedules whose time is diffusers' -----------------------------------------------------------------------------

BETAS = {
  "linear": linear,
  "scaled_linear": lambda steps: scaled_linear(steps, 1e-4, 0.02),
  "squaredcos_cap_v2": cosine,
  "sigmoid": sigmoid_betas,
}


@functools.cache
def tables(betas, rescaled):
  """alpha and sigma at t = 0 .. 1000."""
  schedule, t = BETAS[betas](1000), np.arange(1001.0)
  schedule = zero_terminal_snr(schedule) if rescaled else schedule
  return schedule.alpha(t), schedule.sigma(t)


def counted(alpha, sigma):
  look_up = lambda table: lambda t: jnp.asarray(table, t.dtype)[jnp.round(t).astype(int)]
  return Schedule(look_up(alpha), look_up(sigma), None, circle, 1000.0, 1.0, 1000)


def of_ratio():
  """The variance-preserving schedule whose time is sigma / alpha."""
  return Schedule(
    alpha=lambda t: 1 / t.__array_namespace__().hypot(t, 1 + 0 * t),
    sigma=lambda t: t / t.__array_namespace__().hypot(t, 1 + 0 * t),
    time=lambda log_snr: jnp.exp(-log_snr / 2),
    curve=circle,
    T=1e4,
    t_min=1e-2,
  )


SCHEDULES = {"counted": counted, "ratio": of_ratio, "ve": edm, "flow": rectified_flow}
F = predictions.edm(0.5), predictions.edm(1.0)
READINGS = {  # what the network's output may mean, with a sign
  "counted": [(PREDICTIONS[name], 1) for name in ("eps", "x_0", "v")],
  "ratio": [(PREDICTIONS[name], 1) for name in ("eps", "x_0", "v")],
  "ve": [(PREDICTIONS["eps"], 1), (PREDICTIONS["x_0"], 1), (F[0], 1), (F[0], -1), (F[1], 1), (F[1], -1)],
  "flow": [(PREDICTIONS["velocity"], 1)],
}


# --- Stepping -------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
  """How a case is to be compared."""

  curve: str  # of SCHEDULES
  solver: str
  options: tuple[tuple[str, Any], ...]
  reading: int  # of READINGS[curve]
  steps: int | None  # how many, from the first on; None: all
  divided: bool = False  # whether diffusers' x is x / alpha, and the network is given that
  clip: bool = False


def network(schedule, plan, reading):
  """denoise around the fixture's network."""

  def denoise(x, t):
    at = schedule.at(t)
    given = x / at.alpha if plan.divided else x
    level = jnp.minimum(at.sigma / at.alpha if plan.curve == "counted" else t, 4096)
    u = given / jnp.sqrt(1 + given**2)
    output = jnp.sin(3 * u) + 0.5 * jnp.cos(jnp.log(level)) * u**2
    read = [predictions.to_x0_eps(kind, sign * output, x, at) for kind, sign in READINGS[plan.curve]]
    x_0, eps = (jnp.stack(each)[reading] for each in zip(*read, strict=True))
    return x_0, eps, (jnp.cos(given) + 1) / 2  # the last for learned variances

  return clipped(denoise, schedule) if plan.clip else denoise


def solver_of(plan, tables):
  return getattr(MODULES[plan.solver], plan.solver)(SCHEDULES[plan.curve](*tables), **dict(plan.options))


@functools.cache
def stepper(plan):
  """A solver's step, compiled once for all tables and readings: `plan` has neither reading nor number of steps."""

  @jax.jit
  def step(tables, reading, carry, x, t, s, noise):
    solver = solver_of(plan, tables)
    return solver.step(network(solver.schedule, plan, reading), carry, x, t, s, noise)

  return step


@pytest.fixture
def given_noise(monkeypatch):
  """Solvers take the keys that they are given for the noise itself."""
  for module in MODULES.values():
    if hasattr(module, "normal"):
      monkeypatch.setattr(module, "normal", lambda keys, shape, dtype: keys)


def recorded(case, plan, dtype=np.float64):
  """(the schedule's tables, times [steps, 2], samples [steps + 1, 3, 1] in our scale)."""
  data = ()
  if plan.curve == "counted":
    data = tables(case["options"]["beta_schedule"], case["options"].get("rescale_betas_zero_snr", False))
  times = FIXTURE["times"][case["times"] :][: case["steps"]]
  samples = FIXTURE["x"][case["samples"] :][: case["steps"] + 1]
  if plan.divided:
    alpha = SCHEDULES[plan.curve](*data).alpha
    samples = samples * alpha(np.append(times[:, 0], times[-1, 1]))[:, None, None]
  return tuple(table.astype(dtype) for table in data), times, samples


def follow(case, plan, dtype):
  """(the largest difference after a step, in units of max(1, max |x|), the number of steps)."""
  data, times, samples = recorded(case, plan, dtype)
  blank = plan._replace(reading=0, steps=None)
  step, first_order = stepper(blank), stepper(blank._replace(solver="ddim", options=()))
  cast = lambda values: jnp.asarray(values, dtype)
  solver, x, worst = solver_of(plan, data), cast(samples[0]), 0.0
  carry = solver.init(x)
  for i, (t, s) in enumerate(times[: plan.steps]):
    now = cast(t), cast(s), cast(FIXTURE["noise"][i])
    if s == 0 and solver.to_clean == "first order":
      x, _ = first_order(data, plan.reading, (), x, *now)
    else:
      x, carry = step(data, plan.reading, carry, x, *now)
    assert x.dtype == dtype
    difference = np.nan_to_num(np.abs(x - samples[i + 1]), nan=np.inf).max()
    worst = max(worst, difference / max(1, np.abs(samples[i + 1]).max()))
  return worst, len(times[: plan.steps])


# --- Which of our solvers is what -----------------------------------------------------------------------------------

KINDS = {"epsilon": 0, "sample": 1, "v_prediction": 2}


def plan(curve, solver, reading, steps=None, divided=False, clip=False, **options):
  return Plan(curve, solver, tuple(options.items()), reading, steps, divided, clip)


def by_count(case, solver, steps=None, **options):
  kind, clip = case["options"].get("prediction_type", "epsilon"), case["options"].get("clip_sample", False)
  return plan("counted", solver, KINDS[kind], steps, clip=clip, **options)


def by_ratio(case, solver, steps=None, **options):
  kind = case["options"].get("prediction_type", "epsilon")
  if kind == "flow_prediction":
    return plan("flow", solver, 0, steps, **options)
  return plan("ratio", solver, KINDS[kind], steps, **options)


def divided(case, solver, **options):
  """For schedulers whose x is x / alpha: alpha may be 1, but v is that of x, where alpha^2 + sigma^2 = 1."""
  kind = case["options"]["prediction_type"]
  if kind == "v_prediction":
    return plan("ratio", solver, KINDS[kind], divided=True, **options)
  return plan("ve", solver, KINDS[kind], **options)


def by_edm(case, solver, steps=None, **options):
  wide, minus = case["options"]["sigma_data"] == 1.0, case["options"]["prediction_type"] == "v_prediction"
  return plan("ve", solver, 2 + 2 * wide + minus, steps, **options)


def ddpm(case):
  variance = {"fixed_large": "beta", "learned_range": "learned"}.get(case["options"]["variance_type"], "posterior")
  t, s = FIXTURE["times"][case["times"] + case["steps"] - 1]
  noisy = variance != "posterior" and s == 0 and t > 1
  return by_count(case, "ancestral", case["steps"] - noisy, variance=variance)


def pndm(case):
  return by_count(case, "pndm", start="improved_euler" if case["options"]["skip_prk_steps"] else "runge_kutta")


DPM = {  # (algorithm_type, solver_order, solver_type); of order 1 all types are the same
  ("dpmsolver", 1): {"solver": "ddim"},
  ("dpmsolver++", 1): {"solver": "ddim"},
  ("sde-dpmsolver++", 1): {"solver": "ddim", "eta": 1.0},
  ("dpmsolver", 2, "midpoint"): {"solver": "unipc", "order": 2, "form": "noise", "corrector": False},
  ("dpmsolver", 2, "heun"): {"solver": "deis", "order": 2},
  ("dpmsolver++", 2, "midpoint"): {"solver": "dpmpp_2m"},
  ("sde-dpmsolver++", 2, "midpoint"): {"solver": "dpmpp_sde_2m"},
  ("dpmsolver++", 3, "midpoint"): {"solver": "dpmpp_3m"},
}
SINGLE = {
  ("dpmsolver", 1): {"solver": "dpm_solver", "order": 1},
  ("dpmsolver++", 1): {"solver": "ddim"},
  ("sde-dpmsolver++", 1): {"solver": "ddim", "eta": 1.0},
  ("dpmsolver", 2, "midpoint"): {"solver": "dpm_solver", "order": 2},
  ("dpmsolver", 3, "paper"): {"solver": "dpm_solver", "order": 3},
  ("dpmsolver++", 2, "midpoint"): {"solver": "dpmpp_2s"},
}


def formula(case):
  algorithm, order, kind = (case["options"][key] for key in ("algorithm_type", "solver_order", "solver_type"))
  return (algorithm, order) if order == 1 else (algorithm, order, kind)


def multistep(case, by=by_ratio):
  options, n, order = case["options"], case["n"], case["options"]["solver_order"]
  lower = options.get("lower_order_final", True) and n < 15
  to_clean = options.get("final_sigmas_type", "zero") == "zero"  # of first order in all
  steps = n
  if order > 1 and (lower or options.get("euler_at_final")) and not to_clean:
    steps = n - 1
  if order == 3 and lower:
    steps = n - 2  # the last but one is of second order
  return by(case, steps=steps, **DPM[formula(case)])


def full_order(case):
  """How many steps are of full order, or of first order here, too."""
  options, order = case["options"], case["options"]["solver_order"]
  if not options.get("lower_order_final", True):
    return case["n"]
  to_clean = options.get("final_sigmas_type") == "zero" and order == 2
  return case["n"] if to_clean else case["n"] - order + 1


def unipc(case):
  options = case["options"]
  return by_ratio(
    case,
    "unipc",
    full_order(case),
    order=options["solver_order"],
    B=options.get("solver_type", "bh2"),
    corrector="disable_corrector" not in options,
    form="data" if options.get("predict_x0", True) else "noise",
  )


def deis(case):
  return by_ratio(case, "deis", full_order(case), order=case["options"]["solver_order"])


SCHEDULERS = {  # name: (case -> plan, cases compared, steps compared)
  "DDPMScheduler": (ddpm, 91, 432),
  "DDIMScheduler": (lambda case: by_count(case, "ddim", eta=case["step"]["eta"]), 126, 599),
  "PNDMScheduler": (pndm, 36, 354),
  "LMSDiscreteScheduler": (lambda case: divided(case, "lms", order=case["step"]["order"]), 84, 672),
  "EulerDiscreteScheduler": (lambda case: divided(case, "euler"), 240, 1152),
  "EulerAncestralDiscreteScheduler": (lambda case: divided(case, "euler_ancestral"), 48, 240),
  "HeunDiscreteScheduler": (lambda case: divided(case, "heun"), 66, 330),
  "KDPM2DiscreteScheduler": (lambda case: divided(case, "dpm2"), 48, 240),
  "DPMSolverMultistepScheduler": (multistep, 420, 2023),
  "DPMSolverSinglestepScheduler": (lambda case: by_ratio(case, **SINGLE[formula(case)]), 54, 234),
  "UniPCMultistepScheduler": (unipc, 368, 2460),
  "DEISMultistepScheduler": (deis, 84, 586),
  "EDMEulerScheduler": (lambda case: by_edm(case, "euler"), 16, 72),
  "EDMDPMSolverMultistepScheduler": (lambda case: multistep(case, by_edm), 48, 211),
  "FlowMatchEulerDiscreteScheduler": (lambda case: plan("flow", "euler", 0), 48, 240),
}


def test_every_scheduler_is_here():
  assert set(CASES) == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_is_diffusers(name, x64, given_noise):
  choose, cases, steps = SCHEDULERS[name]
  wrong, compared = [], 0
  for case in CASES[name]:
    difference, count = follow(case, choose(case), np.float64)
    compared += count
    if not difference < 1e-7:
      wrong.append(f"{difference:.1e} {choose(case)} {case['options']} {case['step']}")
  assert not wrong, f"{len(wrong)} cases differ:\n" + "\n".join(wrong[:20])
  assert (len(CASES[name]), compared) == (cases, steps)


def plain(name):
  """The first case of linear betas that leads to clean data."""
  for case in CASES[name]:
    chosen = SCHEDULERS[name][0](case)
    _, times, _ = recorded(case, chosen)
    options = case["options"]
    usual = options.get("beta_schedule", "linear") == "linear" and not options.get("rescale_betas_zero_snr")
    if usual and times[-1, 1] == 0 and chosen.steps in (None, case["n"]):
      return case, chosen
  return CASES[name][0], SCHEDULERS[name][0](CASES[name][0])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_float32_agrees(name, x64, given_noise):
  # Arithmetic in another dtype than x's would show: float64 is there.
  assert follow(*plain(name), np.float32)[0] < 1e-5


@pytest.mark.parametrize("name", ["PNDMScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_sample_ends_where_diffusers_does(name, x64):
  # In one scan, with the last step to clean data as the solver says.
  case, plan = plain(name)
  data, times, samples = recorded(case, plan)
  solver = solver_of(plan, data)
  x, keys = jnp.asarray(samples[0]), jax.random.split(jax.random.key(0), 3)
  got = sample(solver, network(solver.schedule, plan, plan.reading), np.append(times[:, 0], times[-1, 1]), x, keys)
  np.testing.assert_allclose(got, samples[-1], rtol=0, atol=1e-7 * max(1, np.abs(samples[-1]).max()))


# --- Tables ---------------------------------------------------------------------------------------------------------


def of(prefix):
  """(the rest of the name, array) of the fixture's tables."""
  found = [(name.removeprefix(prefix), value) for name, value in FIXTURE.items() if name.startswith(prefix)]
  assert found
  return found


def ratio(schedule, t):
  return schedule.sigma(t) / schedule.alpha(t)


def test_betas():
  t = np.arange(1, 1001, 37.0)
  compared = set()
  for name, theirs in of("alpha_bar/"):
    betas, *rescaled = name.split("/")
    schedule = BETAS[betas](1000)
    schedule = zero_terminal_snr(schedule) if rescaled else schedule
    np.testing.assert_allclose(schedule.alpha(t) ** 2, theirs, rtol=1e-10, atol=1e-30, err_msg=name)
    compared.add(name)
  assert len(compared) == 8
  assert schedule.alpha(t)[-1] == 0


def test_uniform_grids():
  schedule = linear(100)
  for name, timesteps in of("timesteps/"):
    spacing, n = name.split("/")
    np.testing.assert_array_equal(GRIDS[spacing](schedule, int(n)), [*(timesteps + 1), 0], err_msg=name)


def test_grids_of_sigma():
  # With one step diffusers starts from the smallest sigma, ours from the largest. Its beta sigmas are quantiles of
  # sigma, ours of t, as in Lee et al. 2024, https://arxiv.org/abs/2407.12173; the quantiles are the same.
  for name, theirs in of("sigmas/"):
    kind, n = name.split("/")[0], int(name.split("/")[1])
    if n == 1:
      continue
    schedule = edm() if kind.startswith("edm") else linear(1000)
    grid = {"karras": "karras", "exponential": "log_snr", "beta": "beta"}[kind.removeprefix("edm_")]
    times = GRIDS[grid](schedule, n)
    assert times[-1] == theirs[-1] == 0
    ours, theirs = times[:-1] if grid == "beta" else ratio(schedule, times[:-1]), theirs[:-1]
    if grid == "beta":
      ours, theirs = ((x - x[-1]) / (x[0] - x[-1]) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=name)


def test_edm_preconditioning(x64):
  sigma, c_skip, c_out, c_in, noise = FIXTURE["edm"].T
  kind, at = predictions.edm(0.7), edm().at(jnp.asarray(sigma))
  zero, one = jnp.zeros_like(sigma), jnp.ones_like(sigma)
  np.testing.assert_allclose(kind.x_0(zero, one, at), c_skip, rtol=1e-12)
  np.testing.assert_allclose(kind.x_0(one, zero, at), c_out, rtol=1e-12)
  np.testing.assert_allclose(kind.input(one, at), c_in, rtol=1e-12)
  np.testing.assert_allclose(c_noise(at), noise, rtol=1e-12, atol=1e-15)


def test_flow_shift():
  t = np.arange(1000, 0, -37) / 1000
  for factor, theirs in of("shift/"):
    np.testing.assert_allclose(shift(rectified_flow(), float(factor)).sigma(t), theirs, rtol=1e-12)
