"""Closed forms and symmetries of the contrastive loss, and its gradient across processes."""

import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from transformers.models.clap.modeling_clap import contrastive_loss as one_way_loss

from stable_longform.losses.contrastive import clap_loss, gather_embeds, retrieval_recall


def unit_rows(num_rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_rows, width, generator=generator, dtype=torch.float64), dim=-1)


def test_perfect_pairs_cost_nothing_at_a_large_scale():
    embeds = torch.eye(5)
    assert clap_loss(embeds, embeds, 100.0) < 1e-6
    # exp(s) against B - 1 candidates of similarity 0
    assert clap_loss(embeds, embeds, 2.0) == pytest.approx(math.log1p(4 * math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_knowing_nothing_costs_log_b(scale):
    same = torch.ones(7, 4) / 2
    assert clap_loss(same, same, scale) == pytest.approx(math.log(7), rel=1e-6)
    audio, text = torch.eye(8)[:4], torch.eye(8)[4:]  # every text orthogonal to every audio
    assert clap_loss(audio, text, scale) == pytest.approx(math.log(4), rel=1e-6)


def test_wrong_pairs_cost_the_scale():
    embeds = torch.eye(3)
    loss = clap_loss(embeds, embeds.roll(1, dims=0), 50.0)
    assert loss == pytest.approx(50.0, rel=1e-5)


def test_symmetric_in_audio_and_text_and_in_the_order_of_pairs():
    audio, text = unit_rows(6, 4, 0), unit_rows(6, 4, 1)
    loss = clap_loss(audio, text, 10.0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(clap_loss(text, audio, 10.0), loss)
    torch.testing.assert_close(clap_loss(audio[order], text[order], 10.0), loss)
    assert not torch.isclose(clap_loss(audio, text[order], 10.0), loss)


def test_equals_both_cross_entropies_by_hand_and_not_the_one_way_loss_of_transformers():
    audio, text = unit_rows(5, 3, 0), unit_rows(5, 3, 1)
    similarity = 7.0 * audio @ text.T
    audio_to_text = sum(-similarity[i, i] + similarity[i].exp().sum().log() for i in range(5)) / 5
    text_to_audio = sum(-similarity[i, i] + similarity[:, i].exp().sum().log() for i in range(5)) / 5
    loss = clap_loss(audio, text, 7.0)
    torch.testing.assert_close(loss, (audio_to_text + text_to_audio) / 2)
    # what ClapModel(return_loss=True) computes, from logits_per_text and the transpose of logits_per_audio
    transformers_loss = (one_way_loss(similarity.T) + one_way_loss(similarity.T)) / 2
    torch.testing.assert_close(transformers_loss, text_to_audio)
    assert abs(float(loss - transformers_loss)) > 0.01


def test_recall_counts_ranks_both_ways():
    audio = torch.eye(4)
    text = audio.clone()
    text[0] = F.normalize(torch.tensor([0.5, 1.0, 0.0, 0.0]), dim=0)  # closer to audio 1 than to its own
    recalls = retrieval_recall(audio, text, (1, 2))
    assert recalls == {
        "audio_to_text/recall@1": 1.0,
        "audio_to_text/recall@2": 1.0,
        "text_to_audio/recall@1": 0.75,
        "text_to_audio/recall@2": 1.0,
    }


def test_equal_embeddings_are_retrieved_by_chance_only():
    same = torch.ones(9, 4) / 2  # the partner is in the middle of 9 ties
    recalls = retrieval_recall(same, same, (1, 4, 5))
    assert [recalls[f"audio_to_text/recall@{k}"] for k in (1, 4, 5)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("function", [lambda audio, text: clap_loss(audio, text, 1.0), retrieval_recall])
def test_rejects_other_shapes(function):
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2, 4\)"):
        function(torch.zeros(3, 4), torch.zeros(2, 4))


def projected_loss(weights: torch.Tensor, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    audio_embeds, text_embeds = (F.normalize(part @ weights, dim=-1) for part in (audio, text))
    return clap_loss(gather_embeds(audio_embeds), gather_embeds(text_embeds), 5.0)


def averaged_gradient(rank: int, port: int, audio: torch.Tensor, text: torch.Tensor, result: torch.Tensor) -> None:
    """One of two processes with half a batch each; the gradient is averaged as DistributedDataParallel does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights = torch.eye(4, dtype=torch.float64, requires_grad=True)
    projected_loss(weights, audio.chunk(2)[rank], text.chunk(2)[rank]).backward()
    dist.all_reduce(weights.grad)
    result[rank] = weights.grad / 2
    dist.destroy_process_group()


def test_gradient_of_two_processes_is_that_of_the_joined_batch():
    audio, text = unit_rows(6, 4, 0), unit_rows(6, 4, 1)
    weights = torch.eye(4, dtype=torch.float64, requires_grad=True)
    projected_loss(weights, audio, text).backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = torch.zeros(2, 4, 4, dtype=torch.float64).share_memory_()
    mp.start_processes(averaged_gradient, (port, audio, text, result), nprocs=2, start_method="fork")
    torch.testing.assert_close(result[0], weights.grad)
    torch.testing.assert_close(result[1], weights.grad)
