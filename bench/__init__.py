"""Benches: this shim measured side by side with others (`make bench`, `bench-guard`, `density`)."""
