"""A PostgreSQL of our own under the data folder, for a laptop, the demo and the tests.

It is an ordinary server with durable settings, reachable through a Unix socket only. Who can reach the socket is
trusted, whatever role it names: the roles guard the ledger against mistakes of our code, not against the machine's
administrator.

Errors: :class:`EmbeddedPostgresError`, with a message for the operator.
"""

from app.db.embedded.errors import EmbeddedPostgresError
from app.db.embedded.keeper import keep_running
from app.db.embedded.roles import DatabaseUrls
from app.db.embedded.server import EmbeddedPostgres

__all__ = ["DatabaseUrls", "EmbeddedPostgres", "EmbeddedPostgresError", "keep_running"]
