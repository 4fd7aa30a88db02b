"""docs/schedulers.md against what is accepted and refused."""

import inspect
import itertools
import re
from pathlib import Path

import diffusers
import pytest

from stable_longform.noise_schedule import PREDICTION_TYPES
from stable_longform.schedulers.scheduling import ACCEPTED, check_scheduler
from stable_longform.utils.accepted_values import SCHEDULER_NAMES

PAGE = (Path(__file__).parents[2] / "docs/schedulers.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (accepted|refused) \| (accepted|refused) \| .+ \|$", re.MULTILINE)
CONFIGURATIONS = {  # the most favourable that the class can have
    "v_prediction": {"prediction_type": "v_prediction"},
    "flow_prediction": {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
}


def classes() -> dict[str, type]:
    """Every scheduler that the installed diffusers has for torch."""
    found = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    bases = diffusers.SchedulerMixin
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, bases)}


def verdict(kind: type, prediction_type: str) -> str:
    known = inspect.signature(kind).parameters
    settings = {name: value for name, value in CONFIGURATIONS[prediction_type].items() if name in known}
    is_by_class = kind not in itertools.chain(*ACCEPTED.values())  # refused before its configuration is looked at
    try:
        check_scheduler(kind.__new__(kind) if is_by_class else kind(**settings), prediction_type)
    except ValueError:
        return "refused"
    return "accepted"


def test_each_scheduler_of_diffusers_is_in_the_table_as_it_is_treated():
    documented = {name: verdicts for name, *verdicts in ROW.findall(PAGE)}
    found = classes()
    actual = {name: [verdict(kind, t) for t in PREDICTION_TYPES] for name, kind in found.items()}
    assert {name: documented.get(name, ["refused"] * 2) for name in found} == actual
    assert sum("accepted" in verdicts for verdicts in actual.values()) == 3
    if f"diffusers {diffusers.__version__}." in PAGE:
        assert set(documented) == set(found)


def test_the_page_lists_the_names_of_the_command_line():
    assert re.findall(r"^\| `([\w+-]+)` \| .*\|$", PAGE, re.MULTILINE)[: len(SCHEDULER_NAMES)] == list(SCHEDULER_NAMES)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_a_prediction_type_that_nobody_has_is_refused(prediction_type):
    with pytest.raises(ValueError, match=prediction_type):
        check_scheduler(diffusers.DPMSolverMultistepScheduler(), prediction_type)
