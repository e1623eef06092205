"""What runs in the parent."""
