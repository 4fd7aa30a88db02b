"""Options that have the right type and cannot be used: exit code 2 and one line, before a folder is made."""

import json

import pytest
from launch import run_script

NOWHERE = "runs/not/there"
MISSING = f"{NOWHERE} does not exist, and it is not a Hub id"
CASES = {
    "train_autoencoder.py": {
        f"--init_from={NOWHERE}": MISSING,
        f"--init_discriminator_from={NOWHERE}": MISSING,
        "--compile_backend=fast": "compile_backend must be null or one of",
        "--model.audio_channels=1": "model.audio_channels must be 2, as crops are stereo, got 1",
        "--trackers=[telepathy]": "telepathy",
        "--keep_every=3": "keep_every must be a multiple of save_every, 100, got 3",
        "--crop_num_samples=100": "crop_num_samples must be a multiple of 2048 and at least 512, got 100",
        "--validation_duration_in_s=0.1": "validation_duration_in_s must be a number in [0.4, 10000], got 0.1",
    },
    "train_linear_start.py": {
        "--model.audio_channels=1": "model.audio_channels must be 2, as crops are stereo, got 1",
    },
    "train_clap.py": {
        f"--init_from={NOWHERE}": "cannot be set together with init_from",
        f"--tokenizer={NOWHERE}": MISSING,
        "--audio_config.spec_size=100": "No ClapModel can be built from audio_config",
        "--audio_config.patch_stride=[3, 5]": "No ClapModel can be built from audio_config",
        "--audio_config.num_mel_bins=32": "No ClapModel can be built from audio_config",
        "--feature_extractor.frequency_max=90000": "frequency_max must be at most 24000, half of sampling_rate",
        "--text_config.vocab_size=10": "text_config.vocab_size must be a whole number in [261, 2^24], got 10",
        "--batch_size=1": "batch_size must be at least 2 with enable_fusion, got 1",
    },
    "train_dit.py": {
        f"--init_from={NOWHERE}": MISSING,
        f"--clap={NOWHERE}": MISSING,
        "--attention_backend=flash": "attention_backend=flash cannot be used for training here",
        "--attention_backend=flex": "attention_backend=flex cannot be used for training here",
        "--model.in_channels=8": "model.in_channels must be 4, the channels of the latents, got 8",
        "--model.out_channels=8": "model.out_channels must be 4, the channels of the latents, got 8",
        "--timing.conditioning_dim=17": "model.cross_attention_input_dim must be 17, as timing.conditioning_dim",
        "--model.global_states_input_dim=33": "model.global_states_input_dim must be 32",
        "--model.sample_size=15": "model.sample_size must be a multiple of patch_size=2, got 15",
        "--timing.min_value=1000": "timing.max_value must be greater than min_value=1000, got 512",
    },
    "train_dit_lora.py": {
        "--target_modules=[nothing]": "no linear layer whose name ends in 'nothing'",
        "--window_in_s=1e3": "window_in_s must be in (0, ",
    },
}
ALL = [(script, option, text) for script, cases in CASES.items() for option, text in cases.items()]


@pytest.mark.parametrize("script, option, text", ALL)
def test_options_that_cannot_be_used(training_command, tmp_path, script, option, text):
    finished = run_script(*training_command(script), tmp_path / "run", option)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: ") and text in last and not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["train_autoencoder.py", "train_linear_start.py", "train_clap.py"])
def test_music_that_is_not_there(training_command, tiny_manifest, tmp_path, script):
    rows = [json.loads(line) for line in tiny_manifest.read_text().splitlines()]
    (tmp_path / "gone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished = run_script(*training_command(script), tmp_path / "run", f"--manifest={tmp_path / 'gone.jsonl'}")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "1 of 6 tracks cannot be used (1 broken)" in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
