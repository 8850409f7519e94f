"""The command line: parse, call, write, exit. The commands are thin; what they do is elsewhere."""

from asyncimport.cli.app import main

__all__ = ["main"]
