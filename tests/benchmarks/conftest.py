"""What tests of the benchmarks share: running one."""

import importlib
import sys

import pytest


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark's `main` with arguments; returns its tables' rows, cells as texts."""

    def run(name: str, *arguments: str) -> list[list[str]]:
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        module.main()
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(("|", "{"))]

    return run
