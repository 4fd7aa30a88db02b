"""Converts checkpoints of stable-audio-tools and LAION-CLAP to ours, and ours to stable-audio-tools and diffusers."""
