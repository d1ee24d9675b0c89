"""Activations to numbers: representational analysis, with the ids of the stimuli kept.

Read `view` (one layer as one array), `ids` and `features` (matrices, stimulus x feature) first;
then `distances`, `rdm`, `cka`; `score` with `references` (what layers are scored against),
`comparisons` (of RDMs; Kendall's by `concordance`) and `intervals`; `stats` (`moments` of single
variables, and where NaN is `born`); and `handoff` (to other packages).
"""
