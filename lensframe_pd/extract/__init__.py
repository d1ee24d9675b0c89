"""Several batches as one data set: `concat` joins those in memory."""
