"""The operations dialect."""
