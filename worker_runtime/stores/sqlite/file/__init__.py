"""The file itself: on the writer's and the reader's thread."""
