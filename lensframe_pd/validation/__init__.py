"""Proofs that a trace is what the model did: `validate`, its `verdicts`, and one file a check.

`invariants` (the frame by itself), `facts` (the tables against a new trace), `twice` (a plain and
a traced run compared), `witness` (no operator unseen), `replayed` (every call again),
`dependence`, `determinism`, `resumed` (the forward carried on from saved values), `ids` (whole, and
those told), `alignment` (ids at their values: stimuli are `arranged` anew, the model is `followed`
along the tape or `retraced`, and compared `along` their axes).
"""
