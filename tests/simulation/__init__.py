"""A seeded world with faults, and an auditor that works the charges out for itself."""
