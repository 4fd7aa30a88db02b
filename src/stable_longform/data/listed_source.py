"""Sources whose tracks are known: folders, tables, manifests, local tars and downloaded datasets."""

import copy
import logging
import random
from collections.abc import Callable, Iterator, Sequence

from stable_longform.data.bad_tracks import KINDS, MAX_BAD_FRACTION, BadTrackError, BadTracks
from stable_longform.data.numbered_items import EpochItems, MakeItem, NumberedItems, WeightedItems
from stable_longform.data.prompts import prompt_fields
from stable_longform.data.recordings import Found
from stable_longform.data.tracks import Track

logger = logging.getLogger(__name__)


class ListedSource:
    """A source whose tracks are known. `data.sources.Source` describes what it shares with streams.

    Args:
        tracks: at least one is needed for items.
        max_bad_fraction: share of the tracks, including those in `left_out`, that may be unusable.
        left_out: errors of the files that are not among the tracks.
        name: of the source, for messages.

    Raises:
        ValueError: `max_bad_fraction` is outside [0, 1].
        TooManyBadTracks: the share of unusable tracks is larger.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        max_bad_fraction: float = MAX_BAD_FRACTION,
        left_out: Sequence[BadTrackError] = (),
        name: str = "The source",
    ):
        self.tracks, self.left_out, self.name = tracks, left_out, name
        num_bad = sum(error.kind in KINDS for error in left_out)
        self.bad_tracks = BadTracks(len(tracks) + num_bad, max_bad_fraction)
        for error in left_out:
            self.bad_tracks.note(error)

    def of_split(self, split: str) -> "ListedSource":
        """See `Source.of_split`."""
        tracks = [track for track in self.tracks if track.split == split]
        if not tracks:
            raise ValueError(f"{self.name} has no track in split {split!r}.")
        return self._part(tracks)

    def with_prompts(self) -> "ListedSource":
        """The part with metadata for prompts; the number of tracks left out is logged."""
        tracks = [track for track in self.tracks if prompt_fields(track.metadata)]
        if len(tracks) < len(self.tracks):
            missing = len(self.tracks) - len(tracks)
            logger.warning("%d of %d tracks have no metadata for a prompt.", missing, len(self.tracks))
        return self._part(tracks)

    def found(self) -> Iterator[Found]:
        """The errors of unusable files, and all tracks."""
        yield from self.left_out
        yield from self.tracks

    def items(
        self,
        make_item: MakeItem,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        is_weighted_by_duration: bool = True,
        batch_size: int | None = None,
    ) -> NumberedItems:
        """See `Source.items`. The sequence is the same in all processes, which share it by number."""
        if not self.tracks:
            raise ValueError(f"{self.name} has no usable track.")
        if batch_size is not None:
            return EpochItems(self.tracks, make_item, seed, self.bad_tracks, batch_size)
        lengths = [track.duration_in_s if is_weighted_by_duration else 1.0 for track in self.tracks]
        weights = [track.weight * length for track, length in zip(self.tracks, lengths, strict=True)]
        return WeightedItems(self.tracks, make_item, seed, self.bad_tracks, weights)

    def sample(self, make_item: MakeItem, count: int, seed: int) -> list[dict]:
        """Items of at most `count` different tracks drawn at random."""
        count = min(count, len(self.tracks))
        return self.items(make_item, seed, batch_size=count).take(count)

    def share(
        self,
        process_index: int = 0,
        num_processes: int = 1,
        max_tracks: int | None = None,
        is_wanted: Callable[[Track], bool] = lambda track: True,
    ) -> Sequence[Track]:
        """See `Source.share`; `max_tracks` are drawn at random."""
        tracks = self.tracks
        if max_tracks is not None and max_tracks < len(tracks):
            tracks = random.Random(0).sample(tracks, max_tracks)
        return list(filter(is_wanted, tracks))[process_index::num_processes]

    def state_dict(self) -> dict:
        """An empty state: an item depends only on its number. Streams, in contrast, have a position to save."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Checks that a checkpoint is not from a stream.

        Raises:
            ValueError: it is from a stream.
        """
        if state:
            raise ValueError("The checkpoint stores a position in a stream: it belongs to another source.")

    def _part(self, tracks: Sequence[Track]) -> "ListedSource":
        """This source with some of its tracks."""
        part = copy.copy(self)
        part.tracks = tracks
        return part
