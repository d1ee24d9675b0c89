"""Two thousand models of many packages, random weights and small inputs, to trace and to validate."""
