"""The tables of the report: metrics in, rows of values, intervals and verdicts out."""
