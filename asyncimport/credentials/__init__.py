"""Who we are to which server: addresses, profiles, and where a password comes from. Never the command line."""

from asyncimport.credentials.hosts import check_host, check_no_secret, same_server
from asyncimport.credentials.keyring_store import Token, check_keyring, forget, keep, kept
from asyncimport.credentials.lookup import find
from asyncimport.credentials.profiles import Profile, Profiles, read_profiles, remove_profile, write_profile

__all__ = [
    "Profile",
    "Profiles",
    "Token",
    "check_host",
    "check_keyring",
    "check_no_secret",
    "find",
    "forget",
    "keep",
    "kept",
    "read_profiles",
    "remove_profile",
    "same_server",
    "write_profile",
]
