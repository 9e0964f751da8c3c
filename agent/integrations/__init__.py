"""Memories inside other people's frameworks. Nothing else in memagent imports these packages."""
