"""Noise schedules: alpha(t) and sigma(t), and functions of them. Equations: `jaxgen.diffusion`, (1) to (5).

A schedule takes numpy or JAX arrays. With numpy it computes in float64: tables of constants are made that way when a
method is built, before any device is used. With JAX arrays it computes in their dtype.

Discrete processes (DDPM, NCSN) have times 0, 1, .., T and are also defined between them, so that every solver and time
grid works with them. Between the steps of DDPM's process log alpha is linear, which means a constant beta within each
step, as in Lu et al. 2022, https://arxiv.org/abs/2206.00927, Appendix D.4. Continuous processes have t in [0, T].

In all processes t = 0 is clean data, alpha = 1 and sigma = 0, even if sigma jumps there (VE).
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
from jaxgen.diffusion.schedules.continuous import continuous_cosine, rectified_flow, sub_vp, trig_flow, vp
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
