"""One question asked thousands of times: planned, measured in parts on any number of machines, and put together."""
