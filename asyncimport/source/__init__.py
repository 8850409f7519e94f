"""Where files come from: the file system and archives in it, their headers and digests."""
