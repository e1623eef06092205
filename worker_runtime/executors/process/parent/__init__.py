"""What runs in the parent: it hands work to its children and looks after their lives."""
