"""The Python client of Talktime's API, and what receives its events. It needs httpx and nothing else.

- :mod:`talktime.client`: ``Talktime`` and ``AsyncTalktime``, every call, with retries that have no second effect
- :mod:`talktime.models`: what calls answer
- :mod:`talktime.requests`: what some calls take in parts of their own, such as rate cards
- :mod:`talktime.errors`: what a call may raise
- :mod:`talktime.problems`: one error for each code of the service
- :mod:`talktime.webhooks`: verifies and reads events; needs not even httpx
"""

from typing import Final

__version__: Final = "0.1.0"
