"""Importing the product with a bug in it."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from tests.bugzoo.bug import Bug

ROOT: Final = Path(__file__).resolve().parents[2]


class DoesNotApply(Exception):
    """The product's source has changed: the bug must be updated."""


def source_of(module: str) -> str:
    """The module's source as it is on disk."""
    return (ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")


def patched(bug: Bug, module: str, source: str) -> str:
    """``source`` of ``module`` with the bug in it.

    Raises :class:`DoesNotApply` unless each text to be replaced is there exactly once.
    """
    for patch in bug.patches:
        if patch.module == module:
            times = source.count(patch.old)
            if times != 1:
                where = f"the text that it replaces is in {module} {times} times:\n{patch.old}"
                raise DoesNotApply(f"the bug {bug.name} must be updated, {where}")
            source = source.replace(patch.old, patch.new)
    return source


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the patched source; reads and writes no compiled file."""

    def __init__(self, name: str, path: str, planted: "Planted") -> None:
        super().__init__(name, path)
        self._planted = planted

    def get_code(self, fullname: str) -> CodeType:
        source = patched(self._planted.bug, fullname, Path(self.path).read_text(encoding="utf-8"))
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self._planted.loaded.add(module.__name__)


class Planted(importlib.abc.MetaPathFinder):
    """Gives the bug's modules out with the bug in them. ``loaded``: those that were imported so far."""

    def __init__(self, bug: Bug) -> None:
        self.bug = bug
        self.loaded: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.bug.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin, self)
        )


def plant(bug: Bug) -> Planted:
    """Every import of the bug's modules from now on has the bug.

    Raises :class:`DoesNotApply`, and ``RuntimeError`` if one of them was imported before.
    """
    early = bug.modules & sys.modules.keys()
    if early:
        raise RuntimeError(f"imported too early: {', '.join(sorted(early))}")
    for module in sorted(bug.modules):
        patched(bug, module, source_of(module))
    planted = Planted(bug)
    sys.meta_path.insert(0, planted)
    return planted
