"""What runs beside the jobs on a clock, and what it measures."""
