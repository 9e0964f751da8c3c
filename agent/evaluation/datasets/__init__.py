"""Public memory benchmarks in their authors' formats."""
