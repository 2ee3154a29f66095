"""APScheduler as an alarm clock, nothing more: it wakes functions; who works is decided by leases in PostgreSQL."""
