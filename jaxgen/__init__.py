"""Generative models in JAX: one training loop, one state, one checkpoint format and one command line.

run = jaxgen.load("runs/ddpm_digits")
images = run.sample(16, seed=0)          # [16, H, W, C] in [-1, 1]
"""

from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, Run, load

__all__ = ["Experiment", "Run", "UserError", "load"]
