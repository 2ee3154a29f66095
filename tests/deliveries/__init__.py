"""Events to many endpoints through a real process that is killed: see ``__main__``."""
