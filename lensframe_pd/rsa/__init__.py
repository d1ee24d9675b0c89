"""Activations to numbers: representational analysis, with the ids of the stimuli kept.

Read `view` (one layer as one array; its passes side by side, or one behind the other, by `joined`),
`tokens` (with what each token is), `ids` and `features` (matrices, stimulus x feature) first, with
`repeated` (axes that are no features); then `distances`, `noise`, `runs`, `rdm`, `cka`; `score`
with `references` (what layers are scored against), `comparisons` (of RDMs; Kendall's by
`concordance`, or `whitened`), `intervals`, `ceilings`, and `measure` and `matches` that hold them
together; `differences` (of layers, in the same samples); `rdm_picture` and `score_picture`;
`encode` with `responses` (what is predicted), `folds`, `scaling` (within them), `designs` and
`ridge` (himalaya's); `stats` (`moments` of single variables, and where NaN is `born`); `reported`
(what every result says of how it was made); and `handoff` (to other packages).
"""
