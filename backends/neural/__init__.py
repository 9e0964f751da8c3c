"""Torch modules that know no journal, for any backend: Hugging Face models with a memory of their own."""
