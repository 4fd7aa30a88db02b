"""Long-form music generation with latent diffusion: text to up to 4m45s of stereo 44.1 kHz music."""

__version__ = "0.1.0.dev0"
