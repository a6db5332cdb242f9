"""Mechanisms only: numbers, arrays and bytes in, frozen records out. An auditor can read this folder alone."""
