"""PostgreSQL: the tables, the migrations, the embedded server, and the one place that commits."""
