"""Packaging of stable_longform. Tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/stable_longform/__init__.py").read_text()).group(1)

EXTRAS = {
    "train": [
        "pyyaml>=6.0",
        "scipy>=1.10",
        "librosa>=0.10.2",
        "peft>=0.18",
        "auraloss>=0.4.0",
        "matplotlib>=3.8",
        "pyloudnorm>=0.1.1",
        "datasets>=3.0",
        "webdataset>=0.2.86",
        "braceexpand>=0.1.7",
        "torchdata>=0.11",
        "mido>=1.3",
        "midirenderer>=0.1.3",
    ],
    "eval": [
        "auraloss>=0.4.0",
        "librosa>=0.10.2",
        "matplotlib>=3.8",
        "mir_eval>=0.8",
        "pyloudnorm>=0.1.1",
        "pyyaml>=6.0",
        "scipy>=1.10",
        "scikit-learn>=1.4",
    ],
    "visqol": ["visqol-python>=3.7"],
    "app": ["gradio>=6.0", "matplotlib>=3.8"],
    "quantization": ["torchao>=0.18"],
    "flash": ["flash-attn>=2.6; platform_system == 'Linux'"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
    "dev": [
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "nbclient>=0.10",
        "ipykernel>=6.29",
        "ruff>=0.14",
        "pre-commit>=4.0",
        "mypy>=1.15",
        "types-PyYAML>=6.0",
        "auraloss>=0.4.0",
        "torchsde>=0.2.6",
        "mir_eval>=0.8",
        "playwright>=1.49",
        "gradio>=6.0",
    ],
}

setup(
    name="stable_longform",
    version=VERSION,
    description="Long-form music generation with latent diffusion: up to 4m45s of stereo 44.1 kHz music from text.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/2404.10301"},
    keywords=["music generation", "latent diffusion", "text to music", "diffusers"],
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "stable_longform": ["py.typed", "*.pyi", "checkpoints/**/*", "analysis/listening_test_page/*", "app/*.js"]
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "diffusers>=0.41",
        "transformers>=5.20",
        "accelerate>=1.0",
        "safetensors>=0.8.0",
        "numpy>=2.0",
        "soundfile>=0.13",
        "soxr>=0.5",
        "tqdm>=4.66",
        "typer>=0.12",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["stable-longform=stable_longform.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
