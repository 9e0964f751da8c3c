"""One turn after the other: prompt, model, memory, and the events between them."""
