"""The one exception of the embedded server."""


class EmbeddedPostgresError(Exception):
    """The embedded server cannot be found, made, started or reached. The message tells the operator what to do."""
