"""One upload on many machines: workers send files, and this process decides and records."""
