"""Whether a call changed anything at all that is stored."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.db.tables import metadata
from tests.support.postgres import ask


def contents(url: str) -> dict[str, tuple[int, int]]:
    """The number of rows of each table, and a sum over their contents, but for which transaction wrote an account."""
    total = "coalesce(sum(hashtextextended((to_jsonb(t) - 'changed_by')::text, 0)), 0)"
    parts = [f"select '{name}', count(*), {total} from {name} t" for name in sorted(metadata.tables)]
    return {name: (count, int(total)) for name, count, total in ask(url, " union all ".join(parts))}


@contextmanager
def unchanged(url: str) -> Iterator[None]:
    """Fails if any row of any table is new, other or gone at the end of the block."""
    before = contents(url)
    yield
    after = contents(url)
    assert {name: after[name] for name in after if after[name] != before[name]} == {}
