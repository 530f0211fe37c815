"""Running sums of A over samples, from which strengths and standard errors follow."""
