"""Where files come from: the file system and archive files in it, their headers and digests."""
