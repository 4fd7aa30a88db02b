"""Every track of a stream goes to one consumer, whatever their number; a stream goes on where it stopped."""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora import RATE, encode, write_tar
from launch import call_in_processes

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.bad_tracks import BadTrackError, TooManyBadTracks
from stable_longform.data.listed_source import ListedSource
from stable_longform.data.sources import open_source
from stable_longform.data.streams import StreamedSource, StreamItems
from stable_longform.data.tars import TarShards

pytest.importorskip("webdataset")

NUM_SHARDS, TRACKS_PER_SHARD = 5, 4
NUM_TRACKS = NUM_SHARDS * TRACKS_PER_SHARD


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five tars of four short tracks; `number` tells them apart."""
    folder = tmp_path_factory.mktemp("tars")
    audio = [encode(seed, "wav", RATE) for seed in range(3)]
    for shard in range(NUM_SHARDS):
        files = {}
        for i in range(TRACKS_PER_SHARD):
            number = shard * TRACKS_PER_SHARD + i
            row = {"number": number, "split": "train"}
            files |= {f"{number}.wav": audio[number % 3], f"{number}.json": json.dumps(row).encode()}
        write_tar(folder / f"{shard}.tar", files)
    return folder


@pytest.fixture
def stream(folder):
    return open_source(f"stream:{folder}/{{0..4}}.tar", "train")


def number_of(track, rng) -> dict:
    """An item that shows which track it is of, and its draw."""
    return {"number": track.metadata["number"], "draw": float(rng.random())}


class TwoNumbers:
    """Makes two such items of a track."""

    items_per_track = 2

    def __call__(self, track, rng) -> dict:
        return number_of(track, rng)


def pairs(items) -> list[tuple[int, float]]:
    return [(item["number"], item["draw"]) for item in items]


@pytest.mark.parametrize("num_processes", [2, 3, 7])
def test_processes_share_a_stream_without_overlap_or_loss(stream, num_processes):
    parts = [
        pairs(StreamItems(stream, number_of, 3, rank, num_processes, 2, 3, num_epochs=2))
        for rank in range(num_processes)
    ]
    drawn = sum(parts, [])
    assert len(set(drawn)) == len(drawn) == 2 * 2 * NUM_TRACKS  # each draw of each track of each epoch once
    assert sorted(number for number, _ in drawn) == sorted([*range(NUM_TRACKS)] * 4)
    assert set(drawn) == set(pairs(StreamItems(stream, number_of, 3, items_per_track=2, num_epochs=2)))


@pytest.mark.parametrize("num_workers", [2])
def test_workers_share_a_stream_without_overlap_or_loss(stream, num_workers):
    items = StreamItems(stream, number_of, num_epochs=1)
    loader = torch.utils.data.DataLoader(items, batch_size=None, num_workers=num_workers)
    assert sorted(pairs(loader)) == sorted(pairs(StreamItems(stream, number_of, num_epochs=1)))


def test_order_is_random_and_repeatable(stream):
    def draw(**options) -> list[int]:
        return [item["number"] for item in StreamItems(stream, number_of, num_epochs=2, **options)]

    assert draw(seed=1) == draw(seed=1)
    orders = [tuple(draw(seed=1)[:NUM_TRACKS]), tuple(draw(seed=1)[NUM_TRACKS:]), tuple(draw(seed=2)[:NUM_TRACKS])]
    assert len({*orders, tuple(range(NUM_TRACKS))}) == 4
    unmixed = draw(seed=1, shuffle_tracks=1)[:NUM_TRACKS]  # only the shards are in random order
    assert all(np.diff(unmixed[first : first + 4]).tolist() == [1, 1, 1] for first in range(0, NUM_TRACKS, 4))


@pytest.mark.parametrize("rank, num_processes", [(0, 1), (1, 2), (6, 7)])
def test_a_stream_goes_on_where_it_stopped(stream, rank, num_processes):
    def make() -> StreamItems:
        return StreamItems(stream, number_of, 5, rank, num_processes, 2, 3)

    count = 2 * 2 * NUM_TRACKS // num_processes + 3  # into the third epoch
    expected = pairs(make().take(count))
    for stop in {0, 1, *range(2, count, 11), count - 1}:
        first, second = make(), make()
        assert pairs(itertools.islice(first, stop)) == expected[:stop]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert pairs(second.take(count - stop)) == expected[stop:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_it_stopped(stream, num_workers):
    loader_class = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make():
        items = StreamItems(stream, number_of, 5, shuffle_tracks=3)
        return loader_class(items, batch_size=3, num_workers=num_workers)

    batches = iter(make())
    expected = [next(batches)["draw"].tolist() for _ in range(9)]
    loader = make()
    batches = iter(loader)
    assert [next(batches)["draw"].tolist() for _ in range(4)] == expected[:4]
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    batches = iter(resumed)
    assert [next(batches)["draw"].tolist() for _ in range(5)] == expected[4:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_checkpoints_keep_the_place(folder, tmp_path, num_workers):
    """Saved and loaded by accelerate as the trainings do; only the same number of workers can go on."""
    accelerator_class = pytest.importorskip("accelerate").Accelerator
    accelerators = [accelerator_class(cpu=True) for _ in range(2)]

    def start(accelerator) -> StreamItems:
        source = open_source(f"stream:{folder}/{{0..4}}.tar", "train")
        items = source.items(TwoNumbers(), 5)
        accelerator.register_for_checkpointing(source)
        return items

    batches = start(accelerators[0]).make_loader(range(7), 3, num_workers)
    for _ in range(4):
        next(batches)
    accelerators[0].save_state(str(tmp_path / "checkpoint"))
    expected = [batch["draw"].tolist() for batch in batches]
    items = start(accelerators[1])
    accelerators[1].load_state(str(tmp_path / "checkpoint"))
    assert [batch["draw"].tolist() for batch in items.make_loader(range(3), 3, num_workers)] == expected
    with pytest.raises(ValueError, match=f"the same num_workers: {num_workers}, not 1"):
        items.make_loader(range(3), 3, 1)


def test_places_of_several_processes(stream):
    """Each process goes on from its own; another number of processes cannot, nor a source of another kind."""
    place = {"num_workers": 0, "loader": {}}
    stream.items(TwoNumbers(), process_index=1, num_processes=2).resume_from(place)
    with pytest.raises(ValueError, match="the same num_processes: 1, not 2"):
        stream.load_state_dict({"places": [place]})
    with pytest.raises(ValueError, match="stores no position in a stream"):
        stream.load_state_dict(ListedSource([]).state_dict())
    with pytest.raises(ValueError, match="stores a position in a stream"):
        ListedSource([]).load_state_dict({"places": [place]})


def save_places(folder: Path) -> None:
    """One of two processes: saves the place after some batches, then the batches that follow."""
    rank = torch.distributed.get_rank()
    source = open_source(f"stream:{folder}/{{0..4}}.tar", "train")
    batches = source.items(TwoNumbers(), 5, process_index=rank, num_processes=2).make_loader(range(4), 2, 0)
    for _ in range(2 + rank):
        next(batches)
    torch.save(source.state_dict(), f"{folder}/state-{rank}.pt")
    torch.save([batch["draw"] for batch in batches], f"{folder}/expected-{rank}.pt")


def test_every_process_goes_on_from_its_own_place(folder):
    call_in_processes(2, save_places, folder)
    for rank in range(2):
        source = open_source(f"stream:{folder}/{{0..4}}.tar", "train")
        items = source.items(TwoNumbers(), 5, process_index=rank, num_processes=2)
        source.load_state_dict(torch.load(folder / "state-0.pt"))  # the main process's file, which accelerate writes
        batches = items.make_loader(range(2 - rank), 2, 0)
        expected = torch.load(folder / f"expected-{rank}.pt")
        assert [batch["draw"].tolist() for batch in batches] == [draw.tolist() for draw in expected]


def test_another_number_of_workers_cannot_resume(stream):
    state = StreamItems(stream, number_of, num_processes=2).state_dict()
    with pytest.raises(ValueError, match="read by 2 workers.*cannot be resumed by 1"):
        StreamItems(stream, number_of).load_state_dict(state)


def test_bad_tracks_and_shards_of_a_stream(folder, tmp_path, caplog):
    write_tar(tmp_path / "0.tar", {"a.wav": encode(0, "wav"), "b.wav": b"no audio", "c.wav": encode(1, "wav")})

    def make(**options) -> StreamItems:
        source = open_source(f"stream:{tmp_path}/{{0..1}}.tar", **options)
        return StreamItems(source, CropMaker(500, RATE), num_epochs=1)

    with caplog.at_level(logging.WARNING):
        assert len(list(make(max_bad_fraction=0.5))) == 2
    assert "b.wav: broken" in caplog.text and "1.tar: broken" in caplog.text
    with pytest.raises(TooManyBadTracks, match="1 of 2 shards"):
        list(make())


def test_too_many_bad_tracks_of_a_stream(stream):
    def refuse(track, rng):
        raise BadTrackError(track.path, "silent", "test")

    items = StreamItems(StreamedSource(stream.shards, max_bad_fraction=0.1), refuse)
    with pytest.raises(TooManyBadTracks, match="11 of 100 tracks cannot be used .11 silent."):
        next(iter(items))


def test_too_many_workers_are_told(stream):
    with pytest.raises(ValueError, match="no track in split 'train' for one of its workers"):
        next(iter(StreamItems(stream, number_of, process_index=20, num_processes=21)))


def test_crops_of_a_stream_are_those_of_the_tracks(stream, folder):
    """The same crops of a track from the tar as a stream and read in place, with timing and prompt."""
    listed = {track.metadata["number"]: track for track in open_source(f"{folder}/{{0..4}}.tar", "train").tracks}
    make_item = CropMaker(1000, RATE)
    crops = stream.items(make_item, seed=2)
    assert isinstance(crops, StreamItems) and crops.items_per_track == CropMaker.items_per_track
    items = crops.take(12)
    batch = collate_crops(items)
    assert batch["waveform"].shape == (12, 2, 1000) and batch["seconds_total"].tolist() == [1.0] * 12
    found = {item["metadata"]["number"] for item in items}
    assert len(found) > 3
    for item in items:
        track = listed[item["metadata"]["number"]]
        with track.open() as file:
            samples, _ = soundfile.read(file, 1000, round(item["start_in_s"] * RATE), dtype="float32", always_2d=True)
        expected = torch.from_numpy(samples.T).expand(2, -1)
        assert torch.equal(item["waveform"].abs(), expected.abs())


def test_first_items_leave_the_place_alone(stream):
    items = StreamItems(stream, number_of)
    before = items.state_dict()
    assert pairs(items.take(5)) == pairs(items.take(5)) and items.state_dict() == before


def test_a_worker_may_have_nothing_in_some_epochs(stream):
    """Half the shards of two consumers are gone: whoever gets none waits for the next epoch."""
    tars = stream.shards.tars
    halved = StreamedSource(TarShards((tars[0], tars[1] + ".gone")), max_bad_fraction=0.5)
    for rank in range(2):
        items = StreamItems(halved, number_of, process_index=rank, num_processes=2)
        assert {item["number"] for item in items.take(12)} == set(range(TRACKS_PER_SHARD))


def test_arguments_are_checked(stream):
    with pytest.raises(ValueError, match="items_per_track and shuffle_tracks must be at least 1, got 0 and 2"):
        StreamItems(stream, number_of, items_per_track=0, shuffle_tracks=2)
