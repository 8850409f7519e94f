"""What the operating system gives and asks: mounts, files that we write, other processes."""
