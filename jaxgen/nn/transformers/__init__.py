"""Transformers that diffusion models and flows are: pictures as patches, told of time and condition."""
