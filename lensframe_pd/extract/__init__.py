"""Several batches as one data set: `concat` joins those in memory, `extract` fills a store.

To be read in this order: `data`, `batches` and `source` (what comes in), `columns` (what rows ask
for), `first` and `plan` (what the first batch tells), `picked` and `compare` (later ones), `reduce`
and `cast` (what becomes of values), `store`, `chunks` and `fill` (where they go; the format is that
of `files.blocks`), `fingerprint`, `randomness` and `resume` (what must be the same), `extraction`
(the loop), `parts` (many processes), `extract` (the verb).
"""
