"""How fast a DDPM trains, beside diffusers' UNet2DModel of the same shape in PyTorch, eager and compiled.

    python benchmarks/training.py                                   # 8x8 and 32x32
    python benchmarks/training.py --shapes cifar10 --dtype bfloat16 --batch 128 --updates 20      # on a GPU
    python benchmarks/training.py --peer-python OTHER_ENVIRONMENT/bin/python --json training.json

An update is the draw of times and noise, the forward and backward pass, Adam, and the average of the parameters.
jaxgen's side is what `jaxgen train` runs: `engine.program.Program.dispatch` of the method from `methods.diffusion`,
with the command line's XLA flags. Without PyTorch or diffusers (`pip install -e '.[peers]'`) jaxgen is timed alone.

"share of peak": multiplications and additions of the network as defined (forward, times three) per second, in parts of
the fastest product of two large matrices that any of the competitors measured. "first call": compilation and one turn.
"peak MiB": of the process on a CPU, of the device's memory on a GPU.
"""

import compare

if __name__ == "__main__":
  compare.run(["training"], compare.arguments(__doc__, compare.SHAPES, ["digits", "middle"]))
