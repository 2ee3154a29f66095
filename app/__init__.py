"""Talktime: prepaid credits for real-time voice AI sessions."""

__version__ = "0.1.0"
