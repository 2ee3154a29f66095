"""Pictures: a session on one time axis, as SVG that needs nothing else. Pure: from what is loaded to text."""

from app.pictures.session import STYLE, SessionPicture, draw, extent

__all__ = ["STYLE", "SessionPicture", "draw", "extent"]
