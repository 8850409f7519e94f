"""The project's own benchmark: what the tool does beside what people would use instead, in one run."""
