"""How fast ResNet-50 and ViT-B/16 classify and are trained, beside timm's of the same name in PyTorch.

    python benchmarks/backbones.py                                                      # 224x224, batch 4, a laptop's
    python benchmarks/backbones.py --dtype bfloat16 --batch 256 --updates 5             # on a GPU
    python benchmarks/backbones.py --shapes vit-b16 --peer-python OTHER_ENVIRONMENT/bin/python

An update is a forward and a backward pass, batch statistics included, and SGD with momentum; jaxgen's side is what
`jaxgen train` runs, `methods.supervised.classifier` in the compiled loop. Without PyTorch or timm (`pip install -e
'.[peers]'`) jaxgen is timed alone. The columns are those of training.py.
"""

import compare

if __name__ == "__main__":
  options = compare.arguments(__doc__, compare.BACKBONES, list(compare.BACKBONES))
  compare.run(["forward", "training"], options)
