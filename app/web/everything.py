"""All pages under one roof: the admin's and the user's, told apart by their addresses."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Problem
from app.web.portal import Portal
from app.web.site import Site


class Everything:
    """What stands before the API for addresses of pages."""

    def __init__(self, site: Site, portal: Portal) -> None:
        self.site = site
        self.portal = portal

    def serves(self, path: str) -> bool:
        return self.site.serves(path) or self.portal.serves(path)

    def refusal(self, path: str, problem: Problem) -> ASGIApp:
        return self.portal.refusal(problem) if self.portal.serves(path) else self.site.refusal(problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pages: ASGIApp = self.portal if self.portal.serves(scope["path"]) else self.site
        await pages(scope, receive, send)
