"""Several batches as one data set: `concat` joins those in memory, `extract` fills a store.

To be read in this order: `data` and `batches` (what comes in), `first` and `plan` (what the first
batch tells), `picked` and `compare` (later ones), `reduce` and `cast` (what becomes of values),
`store` and `fill` (where they go; the format is `files.blocks`), `fingerprint` and `resume` (what
is compared with what is there), `extraction` (the loop), `extract` (the verb).
"""
