"""What ran, as data: the record of one run, and what can be said of it without running anything.

Read `functions` (what each torch function is) and `tape` (the records) first; then `objects` (the
one walker through objects), `storage`, `regions` and `compare` (facts of tensors), `context` and
`config` (switches and arguments, each written and read in one place), `facts` (the columns one call
decides), and how executions become layers: `places` (where in the program), `readings` (what each
reads), `grouping` and `refinement` (split until the parents agree), `openings` (first passes and
restarts of a loop), `cuts` (loops cut in two) and `passes` (which executions are one layer).
`alike` keeps what was found out of a tape for those that say the same.
"""
