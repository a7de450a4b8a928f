"""What the tests share: a runner for coroutines, and later fakes, pairs and leak counters."""
