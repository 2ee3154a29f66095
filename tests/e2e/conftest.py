"""What the tests of real processes share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.embedded.process import clear_leftover
from tests.support.postgres import open_folder, scratch_folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that every account can enter: all that is made in it stays in it, and goes with it."""
    for folder in open_folder(scratch_folder()):
        yield folder
        for cluster in folder.glob("**/postgres/cluster"):
            clear_leftover(cluster)  # of a process that was killed


@pytest.fixture(autouse=True)
def no_cluster_stays_elsewhere(tmp_path: Path) -> Iterator[None]:
    """As root a database below pytest's own closed folders is a link to a cluster elsewhere, which nobody removes."""
    yield
    assert [found for found in tmp_path.rglob("*") if found.name == "postgres" and found.is_symlink()] == []
