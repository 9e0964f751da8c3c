"""Conversations with long-term memory: journal, memory, models, and the engine between them."""
