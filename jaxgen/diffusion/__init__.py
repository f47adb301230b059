r"""Gaussian diffusion in five parts: a schedule, a prediction, a loss, a solver, a time grid.

All the mathematics is here, once; the code refers to it by number as (1), (2), ... "Ho" is Ho et al. 2020
(https://arxiv.org/abs/2006.11239), "Song" is Song et al. 2020, DDIM (https://arxiv.org/abs/2010.02502).

Time t runs from 0, clean data, to T, (almost) noise. s < t is an earlier time. D is the number of dimensions of one
example. Likelihoods are in nats per example.

**Process** (`schedules`). A schedule is alpha(t) and sigma(t), with alpha(0) = 1 and sigma(0) = 0:

    (1)  x_t = alpha_t x_0 + sigma_t eps,   eps ~ N(0, I)
    (2)  log_snr_t = log(alpha_t^2 / sigma_t^2)

DDPM has T discrete steps with variances beta_1 .. beta_T:

    (3)  alpha_t^2 = alpha_bar_t = prod_{u=1..t} (1 - beta_u),   sigma_t^2 = 1 - alpha_bar_t         (Ho eq. 4)

Between any two times, whatever the schedule,

    (4)  q(x_t | x_s)      = N(alpha_ts x_s, sigma_ts^2 I),
         alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2
    (5)  q(x_s | x_t, x_0) = N(a x_t + b x_0, c I),
         a = alpha_ts sigma_s^2 / sigma_t^2,  b = alpha_s sigma_ts^2 / sigma_t^2,  c = sigma_ts^2 sigma_s^2 / sigma_t^2

With s = t - 1, sigma_ts^2 is beta_t and (5) is Ho eq. 6 and 7.

**Predictions** (`predictions`). The network outputs one of eps, x_0 and v; either of the two others follows with (1):

    (6)  v = alpha_t eps - sigma_t x_0,   x_0 = (alpha_t x_t - sigma_t v) / (alpha_t^2 + sigma_t^2),
         eps = (sigma_t x_t + alpha_t v) / (alpha_t^2 + sigma_t^2)                  (Salimans and Ho 2022, App. D)

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
    (12)  v_t = c_t ("posterior", Ho's fixedsmall) or beta_t ("beta", fixedlarge); v_1 = c_2 in both, since c_1 = 0

v_1 = c_2 is not in the paper but in its code: c's logarithm is clipped there by repeating the second step's.

**Solvers** (`solvers`, one a file) go from x_t to x_s with the network's (x_0, eps):

    (13)  ancestral: x_s ~ N(a x_t + b x_0, v I), v = c or sigma_ts^2, and v = 0 where sigma_s = 0          (Ho Alg. 2)
    (14)  DDIM(eta): x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 c) eps + eta sqrt(c) z,  z ~ N(0, I)  (Song eq. 12, 16)

DDIM(1) is the ancestral solver with v = c, for (1) turns one's mean into the other's.

**Time grids** (`grids`): which times a solver visits, decreasing to 0. `sample` runs a solver over a grid in one scan.
"""

from typing import Literal

from jaxgen.diffusion.grids import Grid, leading, linspace, trailing
from jaxgen.diffusion.predictions import PREDICTIONS, Prediction, PredictionName
from jaxgen.diffusion.sampling import Denoise, Solver, sample
from jaxgen.diffusion.schedules import Schedule, Variance, constant, cosine, linear, posterior
from jaxgen.diffusion.solvers.ancestral import ancestral
from jaxgen.diffusion.solvers.ddim import ddim

# Names for configs, whose arguments are flags: a Literal gives the flag its choices, the dict its meaning.
ScheduleName = Literal["constant", "linear", "cosine"]
SolverName = Literal["ancestral", "ddim"]
GridName = Literal["leading", "trailing", "linspace"]
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}  # steps -> Schedule
SOLVERS = {"ancestral": ancestral, "ddim": ddim}  # Schedule -> Solver
GRIDS = {"leading": leading, "trailing": trailing, "linspace": linspace}  # (Schedule, number of steps) -> times

__all__ = [
  "GRIDS",
  "PREDICTIONS",
  "SCHEDULES",
  "SOLVERS",
  "Denoise",
  "Grid",
  "GridName",
  "Prediction",
  "PredictionName",
  "Schedule",
  "ScheduleName",
  "Solver",
  "SolverName",
  "Variance",
  "ancestral",
  "constant",
  "cosine",
  "ddim",
  "leading",
  "linear",
  "linspace",
  "posterior",
  "sample",
  "trailing",
]
