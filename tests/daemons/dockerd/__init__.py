"""dockerd of two releases with this shim: what a user of docker sees."""
