"""Two thousand models of two dozen packages, random weights and small inputs, to trace and to validate."""
