"""The table of all cuts at the end."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.stats.get("passed", [])
    tables = [value for report in reports for name, value in report.user_properties if name == "cuts"]
    for line in (line for table in tables for line in table):
        terminalreporter.write_line(line)
    if tables:
        terminalreporter.write_line(f"{sum(len(table) - 1 for table in tables)} cuts, nothing lost, nothing twice")
