"""More than a thousand public models, random weights and small inputs, to trace and to validate."""
