r"""Discrete diffusion in the parts that `jaxgen.diffusion` has: process, prediction, loss, solver, time grid.

All the mathematics is here, once; the code refers to it by number as (1), (2), ... "Austin" is D3PM, Austin et al. 2021
(https://arxiv.org/abs/2107.03006), "Campbell" is Campbell et al. 2022 (https://arxiv.org/abs/2205.14987), "Lou" is
SEDD, Lou et al. 2024 (https://arxiv.org/abs/2310.16834), "Sahoo" is MDLM, Sahoo et al. 2024
(https://arxiv.org/abs/2406.07524).

An example is N tokens, each in one of K states, of which the first V are data's. Each token is noised by itself. Time
runs from 0, clean data, to 1, noise, s < t; a process of T steps is at t = 1/T, 2/T .. 1. Probabilities are logarithms
in float32 or wider, and log 0 is `logs.NEVER`, a finite number, so that neither a value nor a gradient is ever NaN.

**Processes** (`processes`). Interpolating ones, of any noise pi and any schedule alpha(t) (`schedules`), have the
transitions

    (1)  q(x_t | x_s) = alpha_t / alpha_s [x_t = x_s] + (1 - alpha_t / alpha_s) pi(x_t)

Uniform pi is multinomial diffusion (Hoogeboom et al. 2021, https://arxiv.org/abs/2102.05379) and Austin's A.2.1;
pi = [x = mask] is their absorbing process, A.2.2, and MDLM's; the data's own frequencies are DiGress's (Vignac et al.
2023, https://arxiv.org/abs/2209.14734). Processes of matrices have

    (2)  q(x_t | x_s) = (Q_{Ts+1} .. Q_{Tt})[x_s, x_t]

such as Austin's discretised Gaussian (A.2.3) and nearest neighbours (A.2.4). In continuous time a token of an
interpolating process jumps from x to y at the rate

    (3)  R_t(x, y) = beta(t) pi(y),  y != x,   beta = -alpha' / alpha

**Predictions** (`predictions`). With u(i) = p(x_0 = i | x_t's other tokens), which does not depend on the token itself,

    (4)  p(x_s | x_t) prop. to q(x_t | x_s) sum_i q(x_s | x_0 = i) u(i)            (Austin eq. 4)
    (5)  p(x_0 = i | x_t) prop. to q(x_t | x_0 = i) u(i)
    (6)  p_t(y) / p_t(x) = sum_i q(y | i) u(i) / sum_i q(x | i) u(i)               (Lou's concrete score)

so that networks of u (Austin, Hoogeboom), of p(x_0 | x_t) (Campbell, Vignac) and of the ratios (Lou) are one model. At
a mask (5) is u itself. Samplers and losses take a `Predicted`: log u and the logarithms of (6).

**Losses** (`losses`), nats per example. The bound of a process of T steps is Austin's eq. 1,

    (7)  -log p(x_0) <= KL(q(x_1 | x_0) || p(x_1)) + sum_t KL(q(x_s | x_t, x_0) || p(x_s | x_t)),  s = t - 1/T

whose last term is -log p(x_0 | x_{1/T}). In continuous time (Campbell prop. 2; Lou's theorem 3.6), with
r(y) = q(y | x_0) / q(x_t | x_0) and s(y) the ratios (6),

    (8)  the sum becomes  int E sum_y R_t(y, x_t) (s(y) - r(y) log s(y) + r(y) (log r(y) - 1)) dt

For the absorbing process (7) is sum_t (alpha_s - alpha_t) / (1 - alpha_t) times the masks' cross-entropy -log u(x_0),
and (8) is Sahoo's

    (9)  int -alpha' / (1 - alpha) E sum_{masks} -log u(x_0) dt

The hybrid loss adds lambda E[-log p(x_0 | x_t)] (Austin eq. 5).

**Solvers** (`solvers`, one a file) go from x_t to x_s. `ancestral` draws from (4); `euler` and `tau_leaping` jump at
the reversed rates

    (10)  R_t(y, x_t) s(y)                                                         (Campbell prop. 1)

`remasking` sends tokens back to the mask, `confidence` keeps the most certain ones, and `first_hitting` draws the times
at which tokens appear, without an error of discretisation. All draws are `draws.categorical`'s.
"""

from typing import Literal

from jaxgen.discrete import sampling
from jaxgen.discrete.draws import categorical
from jaxgen.discrete.predictions import PREDICTIONS, Predict, Predicted, Prediction, PredictionName
from jaxgen.discrete.processes import (
  Process,
  absorbing,
  discretized_gaussian,
  marginal,
  nearest_neighbour,
  uniform,
)
from jaxgen.discrete.sampling import Solver, cosine_grid, sample, uniform_grid
from jaxgen.discrete.schedules import (
  SCHEDULES,
  Schedule,
  ScheduleName,
  cosine,
  geometric,
  linear,
  polynomial,
  squared_cosine,
)
from jaxgen.discrete.solvers.confidence import confidence
from jaxgen.discrete.solvers.factorized import ancestral, euler, remasking, tau_leaping
from jaxgen.discrete.solvers.first_hitting import first_hitting

SolverName = Literal["ancestral", "euler", "tau_leaping", "remasking", "confidence", "first_hitting"]
SOLVERS = {  # Process -> Solver
  "ancestral": ancestral,
  "euler": euler,
  "tau_leaping": tau_leaping,
  "remasking": remasking,
  "confidence": confidence,
  "first_hitting": first_hitting,
}

__all__ = [
  "PREDICTIONS",
  "SCHEDULES",
  "SOLVERS",
  "Predict",
  "Predicted",
  "Prediction",
  "PredictionName",
  "Process",
  "Schedule",
  "ScheduleName",
  "Solver",
  "SolverName",
  "absorbing",
  "ancestral",
  "categorical",
  "confidence",
  "cosine",
  "cosine_grid",
  "discretized_gaussian",
  "euler",
  "first_hitting",
  "geometric",
  "linear",
  "marginal",
  "nearest_neighbour",
  "polynomial",
  "remasking",
  "sample",
  "squared_cosine",
  "tau_leaping",
  "uniform",
  "uniform_grid",
]
