"""Runs a model and fills a tape.

Read `run` (one run, from arguments to a finished tape) first; then `tracer` (sees every call),
`lineage` (which row a tensor comes from), `modules` (which module call is running), `roots` (the
modules a callable works with), `origins` (names of tensors nobody was seen to make), `values` and
`save` (what is kept), and `state` (what a run may change, to put it back: `snapshot`, with
`iterators`).
"""
