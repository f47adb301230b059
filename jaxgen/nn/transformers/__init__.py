"""Transformers that diffusion models and flows are: pictures as patches, conditioned on time and class or text."""
