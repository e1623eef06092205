"""What runs in the forkserver and in its children."""
