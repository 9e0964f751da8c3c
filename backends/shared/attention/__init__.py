"""Memory inside a model's attention: hooks, encoding of keys and values, injection of stored ones. For any backend."""
