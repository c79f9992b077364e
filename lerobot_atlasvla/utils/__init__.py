"""Helpers that know nothing about policies: missing extras, the hook of LIBERO, command lines, folders of users."""
