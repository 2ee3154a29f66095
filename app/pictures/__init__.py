"""Pictures: a session on one time axis, as SVG that needs nothing else. Pure: from what is loaded to text."""

from app.pictures.session import SessionPicture, draw

__all__ = ["SessionPicture", "draw"]
