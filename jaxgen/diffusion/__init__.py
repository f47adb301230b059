r"""Gaussian diffusion in five parts: a schedule, a prediction, a loss, a solver, a time grid.

All the mathematics is here, once; the code refers to it by number as (1), (2), ... "Ho" is Ho et al. 2020
(https://arxiv.org/abs/2006.11239), "Song" is Song et al. 2020, DDIM (https://arxiv.org/abs/2010.02502).

Time t runs from 0, clean data, to T, (almost) noise. s < t is an earlier time. D is the number of dimensions of one
example. Likelihoods are in nats per example.

**Process** (`schedules`). A schedule is alpha(t) and sigma(t), with alpha(0) = 1 and sigma(0) = 0. t is continuous, or
counts the steps 0 .. T of a discrete process (which is defined between them, too):

    (1)  x_t = alpha_t x_0 + sigma_t eps,   eps ~ N(0, I)
    (2)  log_snr_t = log(alpha_t^2 / sigma_t^2)

DDPM has T discrete steps with variances beta_1 .. beta_T:

    (3)  alpha_t^2 = alpha_bar_t = prod_{u=1..t} (1 - beta_u),   sigma_t^2 = 1 - alpha_bar_t         (Ho eq. 4)

Between any two times, whatever the schedule,

    (4)  q(x_t | x_s)      = N(alpha_ts x_s, sigma_ts^2 I),
         alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2
    (5)  q(x_s | x_t, x_0) = N(a x_t + b x_0, c I),
         a = alpha_ts sigma_s^2 / sigma_t^2,  b = alpha_s sigma_ts^2 / sigma_t^2,  c = sigma_ts^2 sigma_s^2 / sigma_t^2

With s = t - 1, sigma_ts^2 is beta_t and (5) is Ho eq. 6 and 7. (The numbers (15) on stand below, with the solvers.)

**Predictions** (`predictions`). The network outputs one of eps, x_0, v, the score, the velocity and EDM's F; all others
follow with (1):

    (6)  v = alpha_t eps - sigma_t x_0,   x_0 = (alpha_t x_t - sigma_t v) / (alpha_t^2 + sigma_t^2),
         eps = (sigma_t x_t + alpha_t v) / (alpha_t^2 + sigma_t^2)                  (Salimans and Ho 2022, App. D)
         score = -eps / sigma_t,   velocity = alpha_t' x_0 + sigma_t' eps

**Losses** (`losses`). The simple loss is the squared error of what the network outputs, a mean over the dimensions,
with t uniform on 1 .. T; for eps it is Ho eq. 14:

    (7)  L_simple = E ||eps - eps_theta(x_t, t)||^2 / D

The variational bound of p_theta(x_{t-1} | x_t) = N(a x_t + b x_0_theta(x_t, t), v_t I), Ho eq. 5:

    (8)   -log p(x_0) <= L_T + sum_{t=2..T} L_{t-1} + L_0
    (9)   L_T     = KL(q(x_T | x_0) || N(0, I)) = 1/2 (alpha_T^2 ||x_0||^2 + D (sigma_T^2 - 1 - log sigma_T^2))
    (10)  L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t))
                  = D/2 (c_t / v_t - 1 - log(c_t / v_t)) + b_t^2 / (2 v_t) ||x_0 - x_0_theta||^2
    (11)  L_0     = -log p_theta(x_0 | x_1): for data of `levels` equidistant values in [-1, 1], the Gaussian's mass in
          each value's bin, the bins at the ends open (Ho eq. 13); for continuous data, its density
    (12)  v_t = c_t ("posterior", Ho's fixedsmall) or beta_t ("beta", fixedlarge); v_1 = c_2 in both, since c_1 = 0;
          or log v_t = (1 - f) log c_t + f log beta_t, f from the network ("learned"; Nichol and Dhariwal 2021, eq. 15)

v_1 = c_2 is not in the paper but in its code: c's logarithm is clipped there by repeating the second step's.

**Solvers** (`solvers`, one a file) go from x_t to x_s with the network's (x_0, eps):

    (13)  ancestral: x_s ~ N(a x_t + b x_0, v I), v = c or sigma_ts^2, and v = 0 where sigma_s = 0          (Ho Alg. 2)
    (14)  DDIM(eta): x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 c) eps + eta sqrt(c) z,  z ~ N(0, I)  (Song eq. 12, 16)

DDIM(1) is the ancestral solver with v = c, for (1) turns one's mean into the other's.

As SDE and ODE (Song et al. 2021, https://arxiv.org/abs/2011.13456), with w a Wiener process, primes d/dt:

    (15)  dx = f x dt + g dw,   f = alpha' / alpha,   g^2 = (sigma^2)' - 2 f sigma^2 = -sigma^2 log_snr'
    (16)  backwards in time, dx = (f x - g^2 score) dt + g dw                       (their eq. 6)
    (17)  with the same marginals, dx/dt = f x - g^2 score / 2 = alpha' x_0 + sigma' eps      (their eq. 13)

where x_0, eps and the score are the best predictions given x_t. Divided by alpha, (17) has neither f nor t in it:

    (18)  dy / dr = eps,   y = x / alpha,  r = sigma / alpha                        (Song eq. 14; Karras 2022, eq. 1)

and in lambda = log(alpha / sigma) it is linear but for the network, so that two exact forms hold (Lu et al. 2022,
https://arxiv.org/abs/2206.00927, eq. 3.4; Lu et al. 2022, https://arxiv.org/abs/2211.01095, eq. 8):

    (19)  x_s / alpha_s = x_t / alpha_t - int_{lambda_t}^{lambda_s} e^-lambda eps dlambda          (noise form)
    (20)  x_s / sigma_s = x_t / sigma_t + int_{lambda_t}^{lambda_s} e^lambda x_0 dlambda           (data form)

With eps, or x_0, constant over the step, both are (14) with eta = 0: DDIM, DPM-Solver-1, DPM-Solver++ 1 and Euler's
method on (18) are one and the same, the first-order step. Higher orders put a polynomial in place of the constant.

**Time grids** (`grids`): which times a solver visits, decreasing to 0. `sample` runs a solver over a grid in one scan.
"""

from functools import partial
from typing import Literal

from jaxgen.diffusion.grids import Grid, beta, karras, leading, linspace, log_snr, quadratic, trailing
from jaxgen.diffusion.predictions import PREDICTIONS, Prediction, PredictionName
from jaxgen.diffusion.sampling import Denoise, Solver, network_calls, sample
from jaxgen.diffusion.schedules import (
  Point,
  Schedule,
  Variance,
  constant,
  continuous_cosine,
  cosine,
  edm,
  geometric,
  learned,
  linear,
  posterior,
  rectified_flow,
  scaled_linear,
  shift,
  sigmoid,
  sigmoid_betas,
  sub_vp,
  trig_flow,
  ve,
  vp,
  zero_terminal_snr,
)
from jaxgen.diffusion.solvers.adaptive import adaptive
from jaxgen.diffusion.solvers.ancestral import ancestral
from jaxgen.diffusion.solvers.annealed_langevin import annealed_langevin
from jaxgen.diffusion.solvers.ddim import ddim
from jaxgen.diffusion.solvers.deis import deis
from jaxgen.diffusion.solvers.dpm2 import dpm2
from jaxgen.diffusion.solvers.dpm_solver import dpm_solver
from jaxgen.diffusion.solvers.dpmpp_2m import dpmpp_2m
from jaxgen.diffusion.solvers.dpmpp_2s import dpmpp_2s
from jaxgen.diffusion.solvers.dpmpp_3m import dpmpp_3m
from jaxgen.diffusion.solvers.dpmpp_sde_2m import dpmpp_sde_2m
from jaxgen.diffusion.solvers.euler import euler
from jaxgen.diffusion.solvers.euler_ancestral import euler_ancestral
from jaxgen.diffusion.solvers.euler_maruyama import euler_maruyama
from jaxgen.diffusion.solvers.heun import heun
from jaxgen.diffusion.solvers.lms import lms
from jaxgen.diffusion.solvers.pndm import plms, pndm
from jaxgen.diffusion.solvers.predictor_corrector import predictor_corrector
from jaxgen.diffusion.solvers.probability_flow import probability_flow
from jaxgen.diffusion.solvers.reverse_diffusion import reverse_diffusion
from jaxgen.diffusion.solvers.unipc import unipc
from jaxgen.diffusion.times import TIMES, TimesName
from jaxgen.diffusion.weightings import WEIGHTINGS, WeightingName

# Names for configs, whose arguments are flags: a Literal gives the flag its choices, the dict its meaning.
ScheduleName = Literal["constant", "linear", "scaled_linear", "cosine", "sigmoid", "sigmoid_betas"]
SolverName = Literal[
  "ancestral",
  "ddim",
  "heun",
  "dpmpp_2m",
  "annealed_langevin",
  "dpmpp_sde_2m",
  "euler",
  "euler_ancestral",
  "euler_maruyama",
  "predictor_corrector",
  "reverse_diffusion",
  "dpm2",
  "dpm_solver_2",
  "dpm_solver_3",
  "dpmpp_2s",
  "dpmpp_3m",
  "pndm",
  "plms",
  "lms",
  "deis",
  "unipc",
  "adaptive",
  "probability_flow",
]
GridName = Literal["leading", "trailing", "linspace", "quadratic", "log_snr", "karras", "beta"]
SCHEDULES = {  # steps -> Schedule
  "constant": constant,
  "linear": linear,
  "scaled_linear": scaled_linear,
  "cosine": cosine,
  "sigmoid": sigmoid,
  "sigmoid_betas": sigmoid_betas,
}
SOLVERS = {  # Schedule -> Solver
  "ancestral": ancestral,
  "ddim": ddim,
  "heun": heun,
  "dpmpp_2m": dpmpp_2m,
  "annealed_langevin": annealed_langevin,
  "dpmpp_sde_2m": dpmpp_sde_2m,
  "euler": euler,
  "euler_ancestral": euler_ancestral,
  "euler_maruyama": euler_maruyama,
  "predictor_corrector": predictor_corrector,
  "reverse_diffusion": reverse_diffusion,
  "dpm2": dpm2,
  "dpm_solver_2": partial(dpm_solver, order=2),
  "dpm_solver_3": partial(dpm_solver, order=3),
  "dpmpp_2s": dpmpp_2s,
  "dpmpp_3m": dpmpp_3m,
  "pndm": pndm,
  "plms": plms,
  "lms": lms,
  "deis": deis,
  "unipc": unipc,
  "adaptive": adaptive,
  "probability_flow": probability_flow,
}
GRIDS = {  # (Schedule, number of steps) -> times
  "leading": leading,
  "trailing": trailing,
  "linspace": linspace,
  "quadratic": quadratic,
  "log_snr": log_snr,
  "karras": karras,
  "beta": beta,
}

__all__ = [
  "GRIDS",
  "PREDICTIONS",
  "SCHEDULES",
  "SOLVERS",
  "TIMES",
  "WEIGHTINGS",
  "Denoise",
  "Grid",
  "GridName",
  "Point",
  "Prediction",
  "PredictionName",
  "Schedule",
  "ScheduleName",
  "Solver",
  "SolverName",
  "TimesName",
  "Variance",
  "WeightingName",
  "adaptive",
  "ancestral",
  "annealed_langevin",
  "beta",
  "constant",
  "continuous_cosine",
  "cosine",
  "ddim",
  "deis",
  "dpm2",
  "dpm_solver",
  "dpmpp_2m",
  "dpmpp_2s",
  "dpmpp_3m",
  "dpmpp_sde_2m",
  "edm",
  "euler",
  "euler_ancestral",
  "euler_maruyama",
  "geometric",
  "heun",
  "karras",
  "leading",
  "learned",
  "linear",
  "linspace",
  "lms",
  "log_snr",
  "network_calls",
  "plms",
  "pndm",
  "posterior",
  "predictor_corrector",
  "probability_flow",
  "quadratic",
  "rectified_flow",
  "reverse_diffusion",
  "sample",
  "scaled_linear",
  "shift",
  "sigmoid",
  "sigmoid_betas",
  "sub_vp",
  "trailing",
  "trig_flow",
  "unipc",
  "ve",
  "vp",
  "zero_terminal_snr",
]
