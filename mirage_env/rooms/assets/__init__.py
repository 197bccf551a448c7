"""Photographs and furniture that are installed beside Mirage, read where they lie and never shipped."""
