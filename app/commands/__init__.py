"""The commands of ``talktime`` that have a file of their own; :mod:`app.cli` puts them together."""
