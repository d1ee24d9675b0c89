"""Frame to costs, tables and plots.

Read `meta` (one call without data) and `costs` (each row's) first; then `members` (groups),
`profile` (totals), `memory`, `summary`, `plots` and `chrome`. `repeats` measures times again.
"""
