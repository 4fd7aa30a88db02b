import torch

from stable_longform.utils.key_maps import KeyMap, Rule, to_ours, to_theirs, unknown_keys


def test_there_and_back_is_the_identity():
    rules = [Rule("a", ("x", "y")), Rule("b", ("z",), "flat"), Rule("c", ("w",), "column"), Rule("d", ("v",))]
    key_map = KeyMap(rules, {"e": torch.ones(2)})
    ours = {"x": torch.randn(2, 3), "y": torch.randn(4, 3), "z": torch.randn(1, 5, 1), "w": torch.randn(6)}
    ours["v"] = torch.tensor(7.0)
    theirs = to_theirs(key_map, ours)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    assert shapes == {"a": (6, 3), "b": (5,), "c": (6, 1), "d": (), "e": (2,)}
    assert torch.equal(theirs["a"], torch.cat([ours["x"], ours["y"]]))
    back, problems = to_ours(key_map, theirs, {key: tensor.shape for key, tensor in ours.items()})
    assert problems == [] and back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_what_does_not_fit_is_named():
    key_map = KeyMap([Rule("a", ("x",)), Rule("b", ("y",))], {"c": torch.ones(2)})
    shapes = {"x": torch.Size([2]), "y": torch.Size([3])}
    theirs = {"b": torch.zeros(4), "c": torch.full((2,), 1.1), "d": torch.zeros(1)}
    assert to_ours(key_map, theirs, shapes)[1] == [
        "missing a",
        "b has shape (4,) and not (3,)",
        "c holds values that our architecture does not have",
    ]
    assert unknown_keys(theirs, key_map) == ["unknown d"]
    assert unknown_keys(theirs, key_map, KeyMap([Rule("d", ("z",))], {})) == []


def test_constants_may_be_missing_or_rounded():
    key_map = KeyMap([], {"c": torch.tensor([0.1, 1e-5])})
    assert to_ours(key_map, {}, {}) == ({}, [])
    assert to_ours(key_map, {"c": key_map.constants["c"].bfloat16()}, {}) == ({}, [])
    assert len(to_ours(key_map, {"c": torch.tensor([0.1, 2e-5])}, {})[1]) == 1
