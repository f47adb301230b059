"""Weights with the names of other libraries: `NETWORK.LIBRARY(network)` is a layout, `swin.timm(Swin(..))` for one.

A module is named after our network, a function after whose names its tensors have: `timm`, `torchvision`,
`transformers`, `diffusers`, `torch` (torch.nn), or `authors`, the files that came with the paper.
"""
