"""Helpers that know nothing about policies: missing extras, one writer a folder, the hook of LIBERO, command lines."""
