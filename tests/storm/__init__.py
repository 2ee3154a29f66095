"""Real processes in a storm of faults, killed every few seconds; in the end all must have come out right."""
