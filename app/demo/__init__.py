"""``talktime demo``: all of Talktime at once, with a simulated provider, on an embedded database, at high speed."""
