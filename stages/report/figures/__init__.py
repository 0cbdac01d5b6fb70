"""The figures of the report: rows of a plot's CSV file in, panels of inline SVG out."""
