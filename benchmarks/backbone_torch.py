"""The process that times timm's backbones in PyTorch for backbones.py. It knows nothing of jaxgen.

Channels last for convolutions, fused scaled dot-product attention (timm's default), multi-tensor SGD, `inference_mode`:
what makes PyTorch fast.
"""

import importlib.util
import pathlib
import resource
import sys
import time

import compare
from worker_torch import matmul_peak


def prepare(job: dict):
  vision = importlib.util.find_spec("torchvision")
  if vision is None or not any(pathlib.Path(vision.origin).parent.glob("_C*")):
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "fixtures"))
    import peers  # noqa: F401 - lets timm be imported without torchvision's compiled operators
  import timm
  import torch
  from torch.nn import functional as F

  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  torch.backends.cuda.matmul.allow_tf32 = job.get("tf32", False)
  torch.backends.cudnn.allow_tf32 = job.get("tf32_conv", False)
  torch.manual_seed(0)
  dtype, batch, (height, width, colors) = getattr(torch, job["dtype"]), job["batch"], job["image"]
  layout = torch.channels_last if "resnet" in job["network"] else torch.contiguous_format
  model = timm.create_model(job["network"]).to(device, memory_format=layout)
  network = torch.compile(model, **job.get("compile", {})) if job["compiled"] else model
  image = torch.randn(batch, colors, height, width, device=device).to(memory_format=layout)
  label = torch.randint(1000, (batch,), device=device)
  mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

  if job["task"] == "training":
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def work():
      for _ in range(job["updates"]):
        with mixed:
          logits = network(image)
        loss = F.cross_entropy(logits.float(), label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
  else:
    model.eval()

    def work():
      with torch.inference_mode(), mixed:
        for _ in range(job.get("passes", 1)):
          network(image)

  def turn() -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
      torch.cuda.synchronize()
    return time.perf_counter() - start

  first_call = turn()
  turn()
  facts = {
    "parameters": sum(p.numel() for p in model.parameters()),
    "first_call": first_call,
    "peak_flops": matmul_peak(torch, dtype, device) if job.get("peak", True) else None,
    "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    "devices": 1,
    "versions": {"torch": torch.__version__, "timm": timm.__version__},
  }

  def end() -> dict:
    if device.type == "cuda":
      return {"peak_memory": torch.cuda.max_memory_allocated()}
    return {"peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

  return facts, turn, end


if __name__ == "__main__":
  compare.serve(prepare)
