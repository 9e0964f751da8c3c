"""Output: text, tables and progress bars for people, JSON for scripts."""
