"""Arguments and results as values: kept apart from who else holds them, compared, and weighed."""
