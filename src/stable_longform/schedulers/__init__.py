"""Samplers of the diffusion process: schedulers in the sense of diffusers."""
