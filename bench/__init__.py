"""The project's benchmark: asyncimport and the tools that people would use instead, in one run."""
