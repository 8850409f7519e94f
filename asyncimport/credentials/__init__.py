"""Server addresses, profiles, and where passwords come from: never the command line."""
