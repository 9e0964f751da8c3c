"""Torch modules for any backend: Hugging Face models with a memory of their own. They do not know the journal."""
