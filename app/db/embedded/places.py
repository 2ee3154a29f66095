"""Where the cluster, its socket and its log live.

``<data_dir>/postgres`` is our folder. As root it may be a link into a folder of our own under ``/var/lib``, when the
account that runs the server cannot reach the data folder: nobody else's modes are changed to let it in.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.db.embedded.accounts import Account, account_for_new_cluster, account_of_cluster, can_enter
from app.db.embedded.errors import EmbeddedPostgresError

MAX_SOCKET_PATH_BYTES: Final = 103
"""The longest path of a Unix socket on every system we run on (Linux 107, macOS 103), without the closing NUL."""

PORT: Final = 5432
"""No TCP port: it only names the socket file."""


@dataclass(frozen=True)
class Places:
    """Folders of the machine; tests put their own here."""

    system_state: Path = Path("/var/lib/talktime")
    """Root's folder for data and programs that the server's account could not reach where they are."""
    system_binaries: Path = Path("/usr/lib/postgresql")
    use_wheel: bool = True
    short: Path = Path("/tmp")  # noqa: S108 - folders in it are made 0700 and checked to be ours
    """Where a socket goes whose path would be too long elsewhere."""


@dataclass(frozen=True)
class Home:
    """Our folder ``<data_dir>/postgres``, links resolved, and who runs the server (``None``: we ourselves)."""

    path: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        return self.path / "cluster"

    @property
    def log(self) -> Path:
        return self.path / "postgres.log"


def existing_home(data_dir: Path) -> Path | None:
    """Our folder if it is there. Raises :class:`EmbeddedPostgresError` if it is a link to a folder that is gone."""
    home = data_dir / "postgres"
    if home.exists():
        return home.resolve()
    if home.is_symlink():
        raise EmbeddedPostgresError(
            f"{home} points to {home.readlink()}, which is gone and with it the data: "
            f"restore that folder, or remove {home} to start empty"
        )
    return None


def ensure_home(data_dir: Path, places: Places) -> Home:
    """Find our folder or make it where the server's account can reach it. The caller holds the owner's lock.

    Raises :class:`EmbeddedPostgresError` and ``OSError``.
    """
    path = existing_home(data_dir)
    if path is not None and (path / "cluster").exists():
        account = account_of_cluster(path / "cluster")
        if not can_enter(account, path / "cluster"):
            raise EmbeddedPostgresError(
                f"the account {account.name if account else 'that runs talktime'} can no longer reach {path}/cluster: "
                "one of the folders above it was closed to it; open it again, or move the data folder"
            )
        return Home(path, account)
    account = account_for_new_cluster()
    if path is None:
        path = data_dir / "postgres"
        path.mkdir()
        path.chmod(0o755)
    if not can_enter(account, path):
        if account is None:
            raise EmbeddedPostgresError(f"{path} cannot be used: choose another TALKTIME_DATA_DIR")
        path = _moved_to_system(data_dir, places)
    return Home(path.resolve(), account)


def _moved_to_system(data_dir: Path, places: Places) -> Path:
    """Put our folder, still without a cluster, under root's own folder, and a link to it where it was."""
    home = data_dir / "postgres"
    if home.is_symlink():
        raise EmbeddedPostgresError(f"{home.resolve()} cannot be reached by the account that runs the server")
    clusters = own_folder(own_folder(places.system_state) / "clusters")
    # A new name each time: whoever removed the data folder wants to start empty, and old data is not ours to remove.
    path = Path(tempfile.mkdtemp(prefix=f"{_digest(data_dir)}-", dir=clusters))
    path.chmod(0o755)
    shutil.rmtree(home)
    home.symlink_to(path)
    return path


def own_folder(path: Path) -> Path:
    """Make or check a folder that only root can write and all can enter. Raises :class:`EmbeddedPostgresError`."""
    try:
        path.mkdir(mode=0o755)
        path.chmod(0o755)
    except FileExistsError:
        found = path.lstat()
        writable = stat.S_IMODE(found.st_mode) & 0o022
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or writable:
            raise EmbeddedPostgresError(f"{path} must be a folder that only root can write") from None
    return path


def socket_folder(home: Home, places: Places) -> Path:
    """A folder for the socket that only the server's account can enter, with a path short enough.

    Raises :class:`EmbeddedPostgresError` if there is none.
    """
    name = f"talktime-{home.account.uid if home.account else os.geteuid()}-{_digest(home.path)}"
    candidates = [home.path / "socket"]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if home.account is None and Path(runtime).is_absolute() and Path(runtime).is_dir():
        candidates.append(Path(runtime, name))
    candidates.append(places.short / name)
    for folder in candidates:
        if _fits(folder) and _private(folder, home.account):
            return folder
    raise EmbeddedPostgresError(
        f"no folder for the server's socket: {' and '.join(map(str, candidates))} are too long or belong to others; "
        "choose a shorter TALKTIME_DATA_DIR"
    )


def _fits(folder: Path) -> bool:
    # libpq takes a comma in a host for the end of one host of several.
    path = folder / f".s.PGSQL.{PORT}"
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES and "," not in str(path)


def _private(folder: Path, account: Account | None) -> bool:
    """Make the folder, or take an old one only if nobody else can have made it or can enter it."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    found = folder.lstat()
    owners = {os.geteuid()} | ({account.uid} if account else set())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or stat.S_IMODE(found.st_mode) & 0o077:
        return False
    if account and found.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    return True


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:12]
