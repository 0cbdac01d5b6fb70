"""report: every number, curve and example of the run on one page that opens offline."""
