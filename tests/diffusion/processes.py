"""One of each schedule, for tests of what all of them must satisfy."""

import numpy as np

from jaxgen import diffusion

DISCRETE = {
  "linear": diffusion.linear(),
  "scaled_linear": diffusion.scaled_linear(),
  "constant": diffusion.constant(),
  "cosine": diffusion.cosine(),
  "sigmoid": diffusion.sigmoid(),
  "sigmoid_betas": diffusion.sigmoid_betas(),
  "zero_terminal_snr": diffusion.zero_terminal_snr(diffusion.scaled_linear()),
  "geometric": diffusion.geometric(12, 0.01, 50.0),
  "shifted linear": diffusion.shift(diffusion.linear(), 2.0),
}
CONTINUOUS = {
  "vp": diffusion.vp(),
  "sub_vp": diffusion.sub_vp(),
  "ve": diffusion.ve(),
  "edm": diffusion.edm(),
  "rectified_flow": diffusion.rectified_flow(),
  "trig_flow": diffusion.trig_flow(0.7),
  "continuous_cosine": diffusion.continuous_cosine(),
  "shifted flow": diffusion.shift(diffusion.rectified_flow(), 3.0),
  "shifted edm": diffusion.shift(diffusion.edm(), 2.0),
}
EVERY = DISCRETE | CONTINUOUS


def spread(schedule, n=50, low=0.04, high=100.0):
  """n times [n] with sigma / alpha geometric from `high` to `low`, or to the schedule's own ends if they are nearer."""
  ratio = lambda t: float(schedule.sigma(np.array([t]))[0] / max(schedule.alpha(np.array([t]))[0], 1e-12))
  high, low = min(high, ratio(schedule.T)), max(low, ratio(schedule.t_min))
  return schedule.time(-2 * np.linspace(np.log(high), np.log(low), n))
