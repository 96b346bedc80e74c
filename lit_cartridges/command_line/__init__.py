"""Parsers, settings files and endings that all commands share."""
