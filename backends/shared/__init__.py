"""What several memories are made of: text, chunks, full-text search, tensors, attention."""
