"""Helpers that know nothing about policies: missing extras, LIBERO's hook, command lines, users' folders, stalls."""
