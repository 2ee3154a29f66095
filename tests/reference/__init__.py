"""The charging rules a second time, made to be obviously right rather than fast, and what compares the two."""
