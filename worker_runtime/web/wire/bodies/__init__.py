"""How bytes become a value, and a value the bytes of an answer."""
