"""Style sheets, scripts and pictures of the pages: a few files, read once, under addresses made of what is in them."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from starlette.responses import Response

from app.pictures import STYLE

PREFIX: Final = "/assets/"
_KINDS: Final[Mapping[str, str]] = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOLDERS: Final = ("static", "vendor")
_FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


class Assets:
    """The files by name. An address holds a digest, so what it gives never changes and may be kept for ever."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}
        self._answers: dict[str, tuple[bytes, str]] = {}
        for folder in _FOLDERS:
            for file in files("app.web").joinpath(folder).iterdir():
                if file.name.rpartition(".")[2] in _KINDS:
                    self._add(file.name, file.read_bytes())
        self._add("picture.css", STYLE.encode())

    def _add(self, name: str, content: bytes) -> None:
        address = f"{PREFIX}{hashlib.sha256(content).hexdigest()[:16]}/{name}"
        self._addresses[name] = address
        self._answers[address] = content, _KINDS[name.rpartition(".")[2]]

    def address(self, name: str) -> str:
        """Where the file is; ``KeyError`` if there is none."""
        return self._addresses[name]

    def answer(self, address: str) -> Response | None:
        """The file at an address; null if there is none, or not in this version."""
        found = self._answers.get(address)
        return None if found is None else Response(found[0], headers=_FOREVER, media_type=found[1])
