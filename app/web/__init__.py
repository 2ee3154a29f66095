"""The admin's pages and the user's portal: rendered here, from the same documents that the API gives.

Pages read in one read-only transaction, so that all of a page is one state. What they change goes through the use cases
of the API's calls, each of them twice: first in a transaction that is rolled back, to show what would come of it, then
for good (:mod:`app.web.actions`). Nothing is loaded from elsewhere, and no script or style stands in a page.
"""
