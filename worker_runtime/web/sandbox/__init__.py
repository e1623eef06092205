"""The sandbox dialect."""
