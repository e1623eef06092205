"""The vera dialect."""
