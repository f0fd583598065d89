"""Rows, csv and html: what people look at."""
