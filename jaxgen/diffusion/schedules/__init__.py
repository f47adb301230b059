"""Noise schedules: alpha(t) and sigma(t), and what follows from them. Equations: `jaxgen.diffusion`, (1) to (5).

A schedule takes numpy arrays as well as JAX's. With numpy it computes in float64: tables of constants are made that way
when a method is built, before any device is touched. With JAX arrays it answers in their dtype.

Discrete processes (DDPM's, NCSN's) have times 0, 1, .., T and are defined between them too, so that every solver and
every time grid works with them: DDPM's by a beta that is constant within each step, log alpha piecewise linear, as in
Lu et al. 2022, https://arxiv.org/abs/2206.00927, Appendix D.4. Continuous ones have t in [0, T].

In all of them t = 0 is clean data, alpha = 1 and sigma = 0, even where sigma jumps there (VE).
"""

from jaxgen.diffusion.schedules.base import (
  Point,
  Posterior,
  Schedule,
  Times,
  Variance,
  circle,
  line,
  lookup,
  parabola,
  posterior,
  shift,
  softplus,
  unscaled,
)
from jaxgen.diffusion.schedules.continuous import continuous_cosine, rectified_flow, sub_vp, vp
from jaxgen.diffusion.schedules.discrete import (
  constant,
  cosine,
  from_betas,
  from_log_alpha,
  linear,
  scaled_linear,
  sigmoid,
  sigmoid_betas,
  zero_terminal_snr,
)
from jaxgen.diffusion.schedules.exploding import edm, geometric, ve
from jaxgen.diffusion.schedules.learned import learned
