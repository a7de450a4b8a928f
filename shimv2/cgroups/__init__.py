"""Control groups: where a container's are, and what their files say."""
