"""Runs a model and fills a tape.

Read `run` (one run, from arguments to a finished tape) first; then `tracer` (sees every call),
`lineage` (which row a tensor comes from) with `handed` (calls that give back what they were given),
`writes` (into one storage) and `unseen` (those that no call shows), `modules` (which module call is
running), `roots` (the modules a callable works with), `origins` (names of tensors nobody was seen
to make) and `stimuli` (where they are among the arguments); `model` says what cannot be run, and
what is in train mode, and `inventory` what it is made of; `fused` sees where torch left its fused
attention for us, and `selections` which entries of tensors a call takes.
`watch` is the seam for whoever looks on: `values` and `save` (what is kept; `named` by names,
`saving` says which), `plan` (an earlier run as what to expect), `gradients` (where autograd has
each tensor). `process` holds what is set process-wide meanwhile, `state` what a run may change, to
put it back: `snapshot`, with `iterators`.
"""
