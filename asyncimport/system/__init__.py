"""Access to the operating system: mounts, output files, other processes."""
