import importlib.util
import json
import sys
from dataclasses import dataclass, field, replace

import pytest
import torch
import yaml
from accelerate import Accelerator
from common import assert_all_equal

from stable_longform import training_utils as utils
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck


def default_weights():
    return {"mid": 1.0, "kl": 1e-4}


@dataclass(frozen=True)
class Config:
    manifest: str
    learning_rate: float = 0.5
    max_steps: int = 10
    is_fast: bool = False
    name: str = "run"
    betas: tuple = (0.9, 0.99)
    sizes: tuple = (4, 2)
    loss_weights: dict = field(default_factory=default_weights)
    model: dict = field(default_factory=dict)
    limit: int | None = None
    max_norm: float | None = None


def load(*arguments, directory="."):
    return utils.load_config(Config, ["--manifest=m.jsonl", *arguments], directory)


# Configuration


def test_defaults_then_yaml_then_arguments(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 0.25\nmax_steps: 3\nmodel: {width: 8}\n")
    config = load("--max_steps=7", "--config", "a.yaml", "--model.depth", "2", directory=tmp_path)
    assert config == Config("m.jsonl", 0.25, 7, model={"width": 8, "depth": 2})


def test_later_arguments_win_wherever_the_file_stands(tmp_path):
    (tmp_path / "a.yaml").write_text("max_steps: 3\n")
    assert load("--max_steps=4", "--max_steps=5", f"--config={tmp_path / 'a.yaml'}").max_steps == 5


def test_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("# all defaults\n")
    assert load("--config=empty.yaml", directory=tmp_path) == Config("m.jsonl")


@pytest.mark.parametrize(
    "argument, name, expected",
    [
        ("--learning_rate=1e-3", "learning_rate", 1e-3),
        ("--learning_rate=2", "learning_rate", 2.0),
        ("--max_norm=1e-2", "max_norm", 0.01),
        ("--max_norm=null", "max_norm", None),
        ("--limit=3", "limit", 3),
        ("--is_fast=true", "is_fast", True),
        ("--betas=[5e-1, 1]", "betas", (0.5, 1.0)),
        ("--sizes=[8, 4, 2]", "sizes", (8, 4, 2)),
        ("--name=2024-01-01", "name", "2024-01-01"),
        ("--name=007", "name", "007"),
        ("--name=a=b", "name", "a=b"),
        ("--name=", "name", ""),
        ("--loss_weights.kl=0.1", "loss_weights", {"mid": 1.0, "kl": 0.1}),
        ("--loss_weights.kl=1e-6", "loss_weights", {"mid": 1.0, "kl": 1e-6}),
        ("--model.widths=[1, 2]", "model", {"widths": [1, 2]}),
    ],
)
def test_values(argument, name, expected):
    value = getattr(load(argument), name)
    assert value == expected and type(value) is type(expected)
    key, _, text = argument.partition("=")
    assert getattr(load(key, text), name) == expected


def test_yaml_values_have_the_same_rules(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-3\nbetas: [1e-1, 0.5]\nloss_weights: {mid: 2}\nname: 5\n")
    config = load("--config=a.yaml", "--loss_weights.kl=3e-1", directory=tmp_path)
    assert config == Config("m.jsonl", 1e-3, betas=(0.1, 0.5), loss_weights={"mid": 2.0, "kl": 0.3}, name="5")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max_step=3"], "Unknown configuration key 'max_step'.*max_steps"),
        (["--modell.width=3"], "Unknown configuration key 'modell'"),
        (["--loss_weights.k1=3"], "Unknown entries of loss_weights: k1; known: mid, kl"),
        (["--loss_weights.kl=high"], "loss_weights.kl must be of type float, got 'high'"),
        (["--max_steps=2.5"], "max_steps must be of type int, got 2.5"),
        (["--max_steps=true"], "max_steps must be of type int, got True"),
        (["--limit=many"], "limit must be of type int | None, got 'many'"),
        (["--learning_rate=fast"], "learning_rate must be of type float, got 'fast'"),
        (["--learning_rate=true"], "learning_rate must be of type float, got True"),
        (["--learning_rate=null"], "learning_rate must be of type float, got None"),
        (["--is_fast=1"], "is_fast must be of type bool, got 1"),
        (["--betas=0.5"], "betas must be of type tuple, got 0.5"),
        (["--betas=[0.5, high]"], "betas must be of type float, got 'high'"),
        (["--model=5"], "model must be of type dict, got 5"),
        (["--sizes=[1, 2"], "--sizes cannot be read"),
        (["--max_steps"], "must be pairs"),
        (["max_steps", "3"], "must be pairs"),
        (["--config=missing.yaml"], "missing.yaml cannot be read"),
        (["--config=list.yaml"], "must hold `key: value` lines, got a list"),
        (["--config=broken.yaml"], "broken.yaml cannot be read"),
    ],
)
def test_wrong_configurations_are_one_line(tmp_path, arguments, message):
    (tmp_path / "list.yaml").write_text("- ab\n- cd\n")
    (tmp_path / "broken.yaml").write_text("name: [a\nb: c\n")
    with pytest.raises(ValueError, match=message.replace("|", r"\|")) as caught:
        load(*arguments, directory=tmp_path)
    assert "\n" not in str(caught.value)


def test_required_values():
    with pytest.raises(ValueError, match="Missing configuration: --manifest"):
        utils.load_config(Config, ["--max_steps=3"])


def test_launch_ends_with_one_line_and_exit_code_2(monkeypatch, capsys):
    configs = []
    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest=m.jsonl", "--max_steps=3"])
    utils.launch(configs.append, Config)
    assert configs == [Config("m.jsonl", max_steps=3)]
    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest=m.jsonl", "--steps=3"])
    with pytest.raises(SystemExit) as caught:
        utils.launch(configs.append, Config)
    assert caught.value.code == 2 and len(configs) == 1
    assert capsys.readouterr().err.startswith("error: Unknown configuration key 'steps'")


def test_a_missing_checkpoint_ends_in_one_line(capsys, monkeypatch):
    def open_checkpoint(config):
        raise OSError("there is\nno checkpoint")

    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest", "m.jsonl", "--learning_rate", "1e-3"])
    with pytest.raises(SystemExit) as caught:
        utils.launch(open_checkpoint, Config)
    assert caught.value.code == 2 and capsys.readouterr().err == "error: there is no checkpoint\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bais": True}, "Unknown entries of model: bais; known: in_features, out_features, bias, device, dtype"),
        ({"in_features": "four"}, "model has a value of the wrong type"),
        ({}, "model has a value of the wrong type: .*in_features"),
    ],
)
def test_models_are_built_from_known_arguments(arguments, message):
    assert utils.build_model(torch.nn.Linear, {"in_features": 3, "out_features": 2}, "model").in_features == 3
    with pytest.raises(ValueError, match=message):
        utils.build_model(torch.nn.Linear, {"out_features": 2} | arguments, "model")


# Runs


def test_start_run_describes_the_run(tmp_path):
    folder = utils.start_run(tmp_path / "a" / "run", Config("m.jsonl", 1e-5))
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert utils.load_config(Config, ["--config=config.yaml"], folder) == Config("m.jsonl", 1e-5)
    assert (saved["learning_rate"], saved["betas"]) == (1e-5, [0.9, 0.99])
    run = json.loads((folder / "run.json").read_text())
    assert run["versions"]["torch"] == torch.__version__
    assert {"started", "git_commit", "python", "machine", "gpu"} <= set(run)


def test_a_run_is_resumed_with_its_configuration_only(tmp_path):
    config = Config("m.jsonl", 1e-5)
    utils.start_run(tmp_path, config)
    changed = replace(config, learning_rate=1e-4, betas=(0.5, 0.9))
    utils.start_run(tmp_path, changed)  # nothing has been trained yet
    utils.start_run(tmp_path, config)
    (tmp_path / "checkpoint-00000003").mkdir()
    utils.start_run(tmp_path, config)
    with pytest.raises(ValueError, match="other values of learning_rate, betas"):
        utils.start_run(tmp_path, changed)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 1e-5
    utils.start_run(tmp_path, replace(config, max_steps=99))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_steps"] == 99


def test_log_metrics_appends(tmp_path):
    utils.log_metrics(tmp_path, 1, {"loss": torch.tensor(0.5)})
    utils.log_metrics(tmp_path, 2, {"loss": 0.25, "valid/l1": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "valid/l1": 1.0}]


def test_check_finite():
    utils.check_finite({"a": torch.tensor(1e30), "b": torch.zeros(3)}, 4)
    losses = {"a": torch.tensor(1.0), "b": torch.tensor([0.0, torch.inf]), "c": torch.tensor(torch.nan)}
    with pytest.raises(FloatingPointError, match="Step 4: b, c is not finite; the last"):
        utils.check_finite(losses, 4)
    batch = {"waveform": torch.tensor([[0.0], [torch.nan]]), "prompt": ["a", "b"]}
    with pytest.raises(FloatingPointError, match="not finite; so is waveform of its items 1; the last"):
        utils.check_finite(losses, 4, batch)
    with pytest.raises(FloatingPointError, match="not finite; its data are; the last"):
        utils.check_finite(losses, 4, {"waveform": torch.zeros(2, 1)})


def test_export_model_replaces(tmp_path, tiny_autoencoder_config):
    target = tmp_path / "autoencoder"
    target.mkdir()
    (target / "leftover.txt").write_text("from before")
    (target / "README.md").write_text("mine")
    model = AutoencoderOobleck(**tiny_autoencoder_config)
    utils.export_model(model, target, keep=("README.md", "ATTRIBUTION.md"))
    assert {path.name for path in tmp_path.iterdir()} == {"autoencoder"}
    assert not (target / "leftover.txt").exists() and (target / "README.md").read_text() == "mine"
    loaded = AutoencoderOobleck.from_pretrained(target)
    assert_all_equal(list(loaded.state_dict().values()), list(model.state_dict().values()))


def test_weights_of_another_shape_are_refused(tiny_autoencoder_config):
    model = AutoencoderOobleck(**tiny_autoencoder_config)
    source = AutoencoderOobleck(**tiny_autoencoder_config)
    utils.load_weights(model, source)
    assert_all_equal(list(model.state_dict().values()), list(source.state_dict().values()))
    wider = AutoencoderOobleck(**tiny_autoencoder_config | {"decoder_channels": 6})
    with pytest.raises(ValueError, match="other weights"):
        utils.load_weights(model, wider)


# Learning rate, seeds, order of the data


@pytest.mark.parametrize(
    "base, inv_gamma, warmup, values",
    [
        # autoencoder
        (1.5e-4, 200_000, 0.999, {0: 1.5e-7, 1000: 9.5e-5, 4600: 1.47e-4, 200_000: 1.06e-4, 1_000_000: 6.1e-5}),
        # diffusion transformer
        (5e-5, 1_000_000, 0.99, {0: 5.0e-7, 100: 3.2e-5, 458: 4.95e-5, 100_000: 4.77e-5, 1_000_000: 3.54e-5}),
    ],
)
def test_inverse_lr_at_the_paper_settings(base, inv_gamma, warmup, values):
    for step, expected in values.items():
        assert base * utils.inverse_lr(step, inv_gamma, warmup=warmup) == pytest.approx(expected, rel=0.01)


def test_inverse_lr_closed_forms():
    assert utils.inverse_lr(0, 10, warmup=0.9) == pytest.approx(0.1)
    assert utils.inverse_lr(30, 10, warmup=0.0) == pytest.approx(0.5)
    assert utils.inverse_lr(30, 10, power=2.0, warmup=0.0) == pytest.approx(1 / 16)


def test_seeds_are_functions_of_seed_and_number():
    def draw(*arguments):
        utils.seed_generators(*arguments)
        return float(torch.rand(()))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(*key) for key in [(1, 2), (1, 3), (2, 2), (0, 0), (2**40, 10**9)]}) == 5
    own = [float(torch.rand((), generator=utils.item_generator(*key))) for key in [(1, 2), (1, 2), (1, 3), (2, 1)]]
    assert own[0] == own[1] and len({draw(1, 2), *own}) == 4


@pytest.mark.parametrize("batch_size, accumulation, num_processes", [(6, 1, 1), (3, 1, 2), (1, 2, 3), (2, 3, 1)])
def test_however_a_step_is_shared_it_takes_the_same_items(batch_size, accumulation, num_processes):
    orders = [utils.ItemOrder(batch_size, accumulation, num_processes, index) for index in range(num_processes)]
    for step in (0, 7):
        taken = [number for micro in range(accumulation) for order in orders for number in order.numbers(step, micro)]
        assert taken == list(range(6 * step, 6 * step + 6))
    assert orders[0].items_per_step == 6 and orders[0].num_items(7) == 42


def test_another_number_of_processes_goes_on_with_the_next_item():
    before = utils.ItemOrder(4, 1, 3)
    after = utils.ItemOrder(4, 1, 2, 1, start_step=5, first_item=before.num_items(5))
    assert list(after.numbers(5)) == [64, 65, 66, 67]  # 60 to 63 are those of the other process
    assert after.num_items(6) == 68


def test_make_loader_gives_the_items_of_the_steps():
    dataset = torch.utils.data.TensorDataset(torch.arange(100))
    order = utils.ItemOrder(3, 2, start_step=2, first_item=12)
    loader = utils.make_loader(dataset, order, 3, num_workers=0)
    assert [batch[0].tolist() for batch in loader] == [[12, 13, 14], [15, 16, 17]] and len(loader) == 2
    assert list(utils.make_loader(dataset, order, 1, num_workers=0)) == []


# Checkpoints


ORDER = utils.ItemOrder(4)


def make_training():
    """An accelerator with a model and its optimiser, after one step."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    train(model, optimizer, 0)
    return accelerator, model, optimizer


def train(model, optimizer, step):
    """One step on data that depend on the step."""
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_resume_restores_weights_and_optimiser(tmp_path):
    accelerator, model, optimizer = make_training()
    assert utils.resume(accelerator, tmp_path, 4) == ORDER
    path = utils.save_checkpoint(accelerator, tmp_path, 1, ORDER)
    assert path == tmp_path / "checkpoint-00000001"
    train(model, optimizer, 1)
    expected = weights(model)
    train(model, optimizer, 2)

    accelerator, model, optimizer = make_training()
    train(model, optimizer, 5)
    assert utils.resume(accelerator, tmp_path, 4).start_step == 1
    train(model, optimizer, 1)
    assert_all_equal(weights(model), expected)


def test_the_newest_checkpoints_stay(tmp_path):
    accelerator, _, _ = make_training()
    assert utils.latest_checkpoint(tmp_path) is None
    for step in (5, 20, 9, 100):
        utils.save_checkpoint(accelerator, tmp_path, step, ORDER, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000020", "checkpoint-00000100"]
    (tmp_path / "partial-checkpoint-00000200").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert utils.latest_checkpoint(tmp_path) == (tmp_path / "checkpoint-00000100", 100)


class Unsaveable:
    """State that cannot be saved, like a full disk in the middle of a checkpoint."""

    def state_dict(self):
        raise OSError("No space left on device")

    def load_state_dict(self, state):
        raise AssertionError("never saved")


def test_an_interrupted_checkpoint_does_not_count(tmp_path):
    accelerator, model, optimizer = make_training()
    utils.save_checkpoint(accelerator, tmp_path, 1, ORDER)
    expected = weights(model)
    train(model, optimizer, 1)
    accelerator.register_for_checkpointing(Unsaveable())
    with pytest.raises(OSError, match="step 2 could not be written.*No space left"):
        utils.save_checkpoint(accelerator, tmp_path, 2, ORDER)
    assert utils.latest_checkpoint(tmp_path)[1] == 1

    accelerator, model, _ = make_training()
    assert utils.resume(accelerator, tmp_path, 4).start_step == 1
    assert_all_equal(weights(model), expected)
    utils.save_checkpoint(accelerator, tmp_path, 2, ORDER)  # over what the interrupted one left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000001", "checkpoint-00000002"]


def test_saving_a_step_again_replaces_it(tmp_path):
    accelerator, model, optimizer = make_training()
    utils.save_checkpoint(accelerator, tmp_path, 3, ORDER)
    train(model, optimizer, 1)
    utils.save_checkpoint(accelerator, tmp_path, 3, ORDER)
    expected = weights(model)
    accelerator, model, _ = make_training()
    assert utils.resume(accelerator, tmp_path, 4).start_step == 3
    assert_all_equal(weights(model), expected)


# Accelerator


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"accumulation": 0}, "gradient_accumulation_steps must be at least 1, got 0"),
        ({"mixed_precision": "half"}, "mixed_precision must be no, bf16 or fp16, got 'half'"),
        ({"trackers": ("teletype",)}, "teletype"),
    ],
)
def test_wrong_settings_of_the_accelerator(arguments, message):
    with pytest.raises(ValueError, match=message):
        utils.make_accelerator(**arguments)


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    known = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "comet_ml": "comet_ml"}
    missing = next((name for name, module in known.items() if importlib.util.find_spec(module) is None), None)
    if missing is None:
        pytest.skip("all are installed")
    with pytest.raises(ValueError, match=f"{missing} is not installed"):
        utils.make_accelerator(trackers=(missing,), output_dir=tmp_path)


def test_tensorboard_gets_the_metrics(tmp_path):
    """Needs tensorboard, which no extra of ours installs."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = utils.make_accelerator(trackers=("tensorboard",), output_dir=tmp_path)
    utils.start_run(tmp_path, Config("m.jsonl"), accelerator)
    utils.log_metrics(tmp_path, 7, {"loss": torch.tensor(0.5)}, accelerator)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "stable_longform")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 0.5)]
