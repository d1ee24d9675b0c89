"""Proofs that a trace is what the model did: `validate`, its `verdicts`, and one file a check.

`invariants` (the frame by itself), `twice` (a plain and a traced run compared), `witness` (no
operator unseen), `replayed` (every call again), `dependence`, `determinism`,
`resumed` (the forward carried on from saved values).
"""
