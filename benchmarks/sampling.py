"""How fast a DDPM is sampled with DDIM, beside diffusers' UNet2DModel of the same shape in PyTorch, eager and compiled.

    python benchmarks/sampling.py                                   # 8x8 and 32x32
    python benchmarks/sampling.py --shapes cifar10 --dtype bfloat16 --batch 256 --sampling-steps 50   # on a GPU
    python benchmarks/sampling.py --peer-python OTHER_ENVIRONMENT/bin/python --json sampling.json

One sampling is a whole batch from noise, the network called once a step, the predicted x_0 clipped. jaxgen's side is
what `jaxgen sample` runs: `engine.program.Program.sample` of the method from `methods.diffusion`, with the command
line's XLA flags. Without PyTorch or diffusers (`pip install -e '.[peers]'`) jaxgen is timed alone.

The columns are those of training.py.
"""

import compare

if __name__ == "__main__":
  compare.run(["sampling"], compare.arguments(__doc__, compare.SHAPES, ["digits", "middle"]))
