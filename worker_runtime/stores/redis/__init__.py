"""Jobs in Redis, in arq's layout."""
