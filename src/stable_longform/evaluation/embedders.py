"""Opens embedders by their names in the command line and the reports."""

import torch

from stable_longform.metrics.embedders.chroma import ChromaEmbedder
from stable_longform.metrics.embedders.clap import LAION_CLAP, ClapEmbedder
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.embedders.musicnn import MusicnnEmbedder
from stable_longform.metrics.embedders.openl3 import OpenL3Embedder
from stable_longform.metrics.embedders.passt import PasstEmbedder

NAMES = ("musicnn_mtt", "musicnn_msd", "mel44", "chroma", "openl3", "passt", "laion_clap", "clap")
NEEDS_SOURCE = ("openl3", "passt", "clap")


def load_embedder(spec: str, device: str | torch.device = "cpu"):
    """Opens an embedder.

    Args:
        spec: its name, or `name=source` with a file of weights, a folder or a Hub id: `openl3=FILE.h5`,
            `passt=FILE.pt`, `clap=FOLDER`. `laion_clap` without a source loads LAION's from the Hub.
        device: where its network runs.

    Raises:
        ValueError: the name is unknown, or the source is missing or superfluous.
    """
    name, _, source = spec.partition("=")
    if name not in NAMES:
        raise ValueError(f"The embedder must be one of {', '.join(NAMES)}, got {name!r}.")
    if (name in NEEDS_SOURCE) > bool(source):
        raise ValueError(f"The embedder {name} needs its weights: {name}=FILE_OR_FOLDER.")
    if source and name not in (*NEEDS_SOURCE, "laion_clap"):
        raise ValueError(f"The embedder {name} takes no source, got {source!r}.")
    if name.startswith("musicnn"):
        return MusicnnEmbedder(name.removeprefix("musicnn_"), device)
    if name == "mel44":
        return Mel44Embedder()
    if name == "chroma":
        return ChromaEmbedder()
    if name == "openl3":
        return OpenL3Embedder.from_file(source, device)
    if name == "passt":
        return PasstEmbedder.from_file(source, device)
    return ClapEmbedder.from_pretrained(source or LAION_CLAP, name, device)
