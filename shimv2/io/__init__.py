"""stdio: pipes to the container, FIFOs, files and logging binaries on the client's side."""
