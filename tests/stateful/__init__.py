"""Random histories of one account on a real database, beside a model that anyone can follow."""
