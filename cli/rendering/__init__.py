"""How things look at a terminal and in JSON, and the one way out to it."""
