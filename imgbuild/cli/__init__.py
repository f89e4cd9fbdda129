"""The command line: click commands, each imported when chosen."""
