"""HTTP: what every dialect shares and none decides."""
