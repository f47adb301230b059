"""The process that times diffusers' UNet2DModel, or DiTTransformer2DModel, in PyTorch. It knows nothing of jaxgen.

The same work: time and noise drawn, a forward and a backward pass, Adam and an average of the parameters; or DDIM with
the predicted x_0 clipped. Channels last, fused Adam, multi-tensor averaging, `inference_mode`: what makes PyTorch fast.
"""

import resource
import time

import compare


def prepare(job: dict):
  import diffusers
  import torch
  from torch.nn import functional as F

  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  torch.backends.cuda.matmul.allow_tf32 = job.get("tf32", False)
  torch.backends.cudnn.allow_tf32 = job.get("tf32_conv", False)
  torch.manual_seed(0)
  dtype, batch, (height, width, colors) = getattr(torch, job["dtype"]), job["batch"], job["image"]
  layout = torch.contiguous_format if job.get("kind") == "dit" else torch.channels_last
  model = (dit if job.get("kind") == "dit" else unet)(diffusers, job).to(device, memory_format=layout)
  parameters = list(model.parameters())
  network = torch.compile(model, **job.get("compile", {})) if job["compiled"] else model
  betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
  alpha_bar = torch.cumprod(1 - betas, 0).float().to(device)
  image = torch.rand(batch, colors, height, width, device=device).mul(2).sub(1).to(memory_format=layout)
  # A tenth of the classes is left out by diffusers' network itself, in training.
  told = {"class_labels": torch.randint(job["classes"], (batch,), device=device)} if job.get("classes") else {}
  mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

  if job["task"] == "training":
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    average = [p.detach().clone() for p in parameters]

    def update():
      t = torch.randint(1000, (batch,), device=device)
      eps = torch.randn_like(image)
      a = alpha_bar[t][:, None, None, None]
      with mixed:
        output = network(a.sqrt() * image + (1 - a).sqrt() * eps, t, **told).sample
      loss = F.mse_loss(output.float(), eps)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      optimizer.step()
      torch._foreach_lerp_(average, [p.detach() for p in parameters], 1e-3)

    def work():
      for _ in range(job["updates"]):
        update()
  elif job["task"] == "forward":
    model.eval()
    t = torch.randint(1000, (batch,), device=device)

    def work():
      with torch.inference_mode(), mixed:
        for _ in range(job["passes"]):
          network(image, t, **told)
  else:
    model.eval()
    steps = job["sampling_steps"]
    times = [1000 - 1000 * i // steps for i in range(steps)] + [0]  # our t: diffusers' timestep is one less

    def work():
      with torch.inference_mode(), mixed:
        x = torch.randn_like(image)
        for t, s in zip(times[:-1], times[1:], strict=True):
          a, b = alpha_bar[t - 1], alpha_bar[s - 1] if s else torch.ones((), device=device)
          eps = network(x, torch.full((batch,), t - 1, device=device)).sample.float()
          x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
          eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
          x = b.sqrt() * x_0 + (1 - b).sqrt() * eps

  def turn() -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
      torch.cuda.synchronize()
    return time.perf_counter() - start

  first_call = turn()
  turn()
  facts = {
    "parameters": sum(p.numel() for p in parameters),
    "first_call": first_call,
    "peak_flops": matmul_peak(torch, dtype, device) if job.get("peak", True) else None,
    "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    "devices": 1,
    "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
  }

  def end() -> dict:
    if device.type == "cuda":
      return {"peak_memory": torch.cuda.max_memory_allocated()}
    return {"peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

  return facts, turn, end


def unet(diffusers, job: dict):
  height, colors, levels, channels = job["image"][0], job["image"][-1], len(job["multipliers"]), job["channels"]
  at = [height >> level in job["attention"] for level in range(levels)]
  return diffusers.UNet2DModel(
    in_channels=colors,
    out_channels=colors,
    block_out_channels=tuple(channels * m for m in job["multipliers"]),
    layers_per_block=job["blocks"],
    down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in at),
    up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(at)),
    attention_head_dim=None,
    norm_num_groups=min(32, channels // 4),
    norm_eps=1e-6,
    freq_shift=1,
    flip_sin_to_cos=False,
    downsample_padding=0,
    dropout=job.get("dropout", 0.0),
  )


def dit(diffusers, job: dict):
  shape, (side, _, channels) = job["network"], job["image"]
  return diffusers.DiTTransformer2DModel(
    num_attention_heads=shape["heads"],
    attention_head_dim=shape["width"] // shape["heads"],
    in_channels=channels,
    out_channels=channels,
    num_layers=shape["depth"],
    patch_size=shape["patch"],
    sample_size=side,
    num_embeds_ada_norm=job["classes"],
  )


def matmul_peak(torch, dtype, device) -> float:
  """Multiplications and additions per second in the product of two large matrices."""
  n = 2048 if device.type == "cpu" else 8192
  a = torch.ones(n, n, dtype=dtype, device=device)
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    a @ a
    if device.type == "cuda":
      torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)
  return 2 * n**3 / min(seconds)


if __name__ == "__main__":
  compare.serve(prepare)
