"""Server addresses, profiles, and where passwords come from: never the command line."""

from asyncimport.credentials.hosts import check_host, check_no_secret, same_server
from asyncimport.credentials.keyring_store import Token, check_keyring, delete_secret, store_secret, stored_login
from asyncimport.credentials.lookup import find_login
from asyncimport.credentials.profiles import Profile, Profiles, read_profiles, remove_profile, write_profile

__all__ = [
    "Profile",
    "Profiles",
    "Token",
    "check_host",
    "check_keyring",
    "check_no_secret",
    "delete_secret",
    "find_login",
    "read_profiles",
    "remove_profile",
    "same_server",
    "store_secret",
    "stored_login",
    "write_profile",
]
