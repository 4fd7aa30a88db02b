"""PaSST: size, front end against its definition in numpy, positions and tokens, windows, files."""

import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.passt import PaSST, PasstEmbedder, cut_windows, log_mel_spectrogram

RATE = 32000


@pytest.fixture(scope="module")
def network():
    """Two narrow blocks with random weights."""
    torch.manual_seed(0)
    network = PaSST(dim=16, depth=2, num_heads=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def test_number_of_parameters():
    with torch.device("meta"):
        network = PaSST()
    block = 12 * 768**2 + 13 * 768  # qkv, proj, MLP; biases and norms
    embeddings = 16 * 16 * 768 + 768 + (2 + 2 + 12 + 99) * 768
    heads = 2 * 768 + 2 * (768 * 527 + 527)
    assert sum(p.numel() for p in network.parameters()) == 12 * block + embeddings + 2 * 768 + heads == 86_153_758


def test_front_end_equals_its_definition(make_audio):
    waveform = make_audio(RATE // 2, 1, RATE)
    x = waveform[0].double().numpy()
    x = x[1:] - 0.97 * x[:-1]
    window = np.zeros(1024)
    window[112:912] = np.hanning(800)
    padded = np.pad(x, 512, mode="reflect")
    starts = range(0, len(padded) - 1023, 320)
    power = np.abs(np.fft.rfft([padded[start : start + 1024] * window for start in starts])) ** 2

    def to_mel(frequency):
        return 1127 * np.log(1 + frequency / 700)

    # Kaldi's filters: triangles of equal width on the mel scale, from 0 to 15 kHz.
    edges = np.linspace(0, to_mel(15000), 130)
    bins = to_mel(np.arange(513) * RATE / 1024)
    width = edges[1]
    filters = np.maximum(0, 1 - np.abs(bins[None] - edges[1:-1, None]) / width)
    expected = (np.log(filters @ power.T + 1e-5) + 4.5) / 5
    np.testing.assert_allclose(log_mel_spectrogram(waveform)[0], expected, rtol=1e-3, atol=1e-3)


def test_ten_seconds_fill_the_grid_of_positions():
    frames = log_mel_spectrogram(torch.zeros(1, 10 * RATE))
    assert frames.shape == (1, 128, 1000)
    np.testing.assert_allclose(frames, (np.log(1e-5) + 4.5) / 5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_those_of_frequency_and_time(network):
    log_mel = torch.randn(2, 128, 400)
    expected = network(log_mel)
    assert expected.shape == (2, 527)
    patches = network.patch_embed["proj"](log_mel[:, None])
    assert patches.shape == (2, 16, 12, 39)
    # Later positions are not used by a short input, earlier ones are.
    changed = PaSST(dim=16, depth=2, num_heads=2)
    for column, is_used in ((39, False), (38, True)):
        changed.load_state_dict(network.state_dict())
        changed.time_new_pos_embed[..., column] += 1
        assert torch.equal(changed(log_mel), expected) != is_used
    changed.load_state_dict(network.state_dict())
    changed.head_dist.weight.mul_(2)
    assert torch.equal(changed(log_mel), expected)


@torch.no_grad()
def test_attention_equals_its_formula(network):
    attention = network.blocks[0].attn
    states = torch.randn(1, 5, 16)
    query, key, value = attention.qkv(states)[0].reshape(5, 3, 2, 8).permute(1, 2, 0, 3)
    heads = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=-1) @ value
    torch.testing.assert_close(attention(states)[0], attention.proj(heads.transpose(0, 1).reshape(5, 16)))


def test_windows():
    for seconds, count in ((120, 23), (190, 37), (285.33, 57), (10, 1), (5, 1), (11, 2), (15, 2), (16, 3)):
        assert cut_windows(torch.zeros(round(seconds * RATE))).shape == (count, 10 * RATE)
    assert cut_windows(torch.zeros(RATE)).shape == (1, RATE)
    windows = cut_windows(torch.arange(11 * RATE).float())
    assert (
        windows[1, 0] == 5 * RATE and windows[1, 6 * RATE - 1] == 11 * RATE - 1 and (windows[1, 6 * RATE :] == 0).all()
    )


def test_embedder(network, make_audio):
    embedder = PasstEmbedder(network)
    features = embedder(make_audio(11 * RATE, 1, RATE))
    assert features.embeddings is None and features.logits.shape == (2, 527)
    assert embedder(make_audio(16 * 320, 1, RATE)).logits.shape == (1, 527)
    with pytest.raises(ValueError, match="waveform must be"):
        embedder(make_audio(16 * 320 - 1, 1, RATE))
    assert len(embedder.protocol["weights_sha256"]) == 64


def test_files_with_other_contents_are_refused(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "narrow.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("narrow.pt", "text.pt", "missing.pt"):
        with pytest.raises(ValueError, match=f"{name} does not hold the weights of PaSST"):
            PasstEmbedder.from_file(tmp_path / name)
