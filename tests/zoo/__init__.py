"""Two thousand models, random weights and small inputs, to trace and to validate."""
