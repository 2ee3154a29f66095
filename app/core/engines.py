"""The engines that have made charges, by version, so that each charge can be made again by its own.

A change of any result, or of the document that explains it, is a new version: today's functions are then kept here
under the old one.
"""

from collections.abc import Callable, Mapping
from typing import Final

from app.core.charge import ENGINE_VERSION, Charge, Evidence, charge

Engine = Callable[[Evidence], Charge]

ENGINES: Final[Mapping[str, Engine]] = {ENGINE_VERSION: charge}


class UnknownEngine(Exception):
    """A charge was made by an engine that this version of Talktime does not have."""


def engine_of(version: str) -> Engine:
    """The engine of a version. Raises :class:`UnknownEngine`."""
    engine = ENGINES.get(version)
    if engine is None:
        raise UnknownEngine(f"there is no engine {version!r} here, only {', '.join(sorted(ENGINES))}")
    return engine
