"""What ran, as data: the record of one run, and what can be said of it without running anything.

Read `functions` (what each torch function is) and `tape` (the records) first; then `objects` (the
one walker through objects), `storage` and `compare` (facts of tensors), `context` and `config`
(switches and arguments, each written and read in one place), `facts` (the columns one call
decides), and `passes` (which executions are one layer).
"""
