"""What a shim costs, measured side by side with others: `make bench`, `bench-guard`, `density`."""
