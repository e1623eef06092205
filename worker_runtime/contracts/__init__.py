"""What both ends of our HTTP contracts agree on."""
