"""Memory inside a model's attention: watching its layers, reading keys and values, attending to them. For any backend."""
