"""A process that gets one job of PyTorch ready, and then answers: diffusers' UNet2DModel or one of timm's backbones.

It compiles as soon as it starts, possibly beside others that do the same. What depends on the clock, cuDNN's choice of
algorithms, is made when it is asked to "tune", with nothing else on the device.
"""

import gc
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import processes


def prepare(job: dict):
  import torch

  cuda = torch.cuda.is_available()
  # Only what is compiled counts here. The flag of TF32 is part of the key of cuDNN's chosen algorithms: what is chosen
  # beside others, under False, is chosen again in "tune", under True.
  torch.backends.cudnn.benchmark = False
  module = __import__("backbone_torch" if job["kind"] == "backbone" else "worker_torch")
  for attempt in range(4):
    try:
      facts, turn, _ = module.prepare(job)
      break
    except torch.OutOfMemoryError:
      if attempt == 3:
        raise
    # Others that get ready may hold the memory for a while; what was compiled is in the cache.
    gc.collect()
    torch.cuda.empty_cache()
    time.sleep(6)
  if cuda:
    gc.collect()
    torch.cuda.empty_cache()

  def handle(message: dict) -> dict:
    if message["do"] == "tune":
      if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        turn()
        torch.cuda.reset_peak_memory_stats()
      return {"seconds": turn()}
    if message["do"] == "turn":
      return {"seconds": turn()}
    if message["do"] == "memory":
      return {"peak_memory": torch.cuda.max_memory_allocated() if cuda else None}
    raise ValueError(message["do"])

  return facts, handle


if __name__ == "__main__":
  processes.serve(prepare)
