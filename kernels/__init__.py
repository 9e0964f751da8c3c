"""Numeric operations, one folder each: ``naive.py`` is the specification, faster versions match it.

A kernel knows tensors only: no backend, no journal, no model. CONTRIBUTING.md says how to add one.
"""
