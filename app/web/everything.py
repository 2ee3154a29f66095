"""All pages under one roof: the admin's and the user's, told apart by their addresses.

They are put together when the first of them is asked for: a process that shows none, such as a simulated world's, pays
nothing for them.
"""

from functools import cached_property

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Problem
from app.web.assembly import Parts, assemble
from app.web.assets import PREFIX
from app.web.portal import PORTAL, Portal
from app.web.site import ADMIN, Site


class Everything:
    """What stands before the API for addresses of pages."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @cached_property
    def _assembled(self) -> tuple[Site, Portal]:
        return assemble(self._parts)

    @property
    def site(self) -> Site:
        return self._assembled[0]

    @property
    def portal(self) -> Portal:
        return self._assembled[1]

    def serves(self, path: str) -> bool:
        """Whether an address is one of the pages'."""
        return path in {ADMIN, PORTAL} or path.startswith((ADMIN + "/", PORTAL + "/", PREFIX))

    def refusal(self, path: str, problem: Problem) -> ASGIApp:
        return self._of(path).refusal(problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._of(scope["path"])(scope, receive, send)

    def _of(self, path: str) -> Site | Portal:
        return self.portal if path == PORTAL or path.startswith(PORTAL + "/") else self.site
