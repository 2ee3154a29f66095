"""PostgreSQL: everything that opens, starts or commits to a database."""
